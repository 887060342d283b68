"""Weights, read as data alone, and the hash of a checkpoint's folder."""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, printable
from blendbench.store.write import make_folder, write_text


def read_pretrained(kind: Any, source: str | Path, called: str, remedy: str = "fetch it again", **options: Any) -> Any:
    """A network of diffusers or transformers, from safetensors alone and with all its weights.

    Both libraries fill missing weights with random numbers and only warn.

    Parameters
    ----------
    kind : class
        With `from_pretrained`.
    source : str or Path
        A folder, or a hub id.
    called : str
        What it is, in messages: "a ControlNet".
    remedy : str
        What to do where it cannot be read.
    options
        Of `from_pretrained`.

    Raises
    ------
    BlendbenchError
        If it is missing, unreadable, or lacks weights.
    """
    try:
        loaded, info = kind.from_pretrained(str(source), use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        stand_ins.refuse_weights(Path(source), failed=True)
        raise BlendbenchError(f"{source}: cannot be read as {called} ({reason_of(error)}); {remedy}") from error
    if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise BlendbenchError(
            f"{source}: lacks {len(absent)} weights that its config asks for (such as {absent[0]}); fetch it again"
        )
    return loaded


def reason_of(error: Exception) -> str:
    """The first line of an error, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def checkpoint_hash(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 over a checkpoint folder's weights and configs, by name.

    Raises
    ------
    BlendbenchError
        If there is no such folder, or a file of it cannot be read or is a stand-in (see `stand_ins.refuse_weights`).
    """
    if not Path(folder).is_dir():
        raise BlendbenchError(f"{folder}: no such checkpoint folder; give one that `blendbench train` wrote")
    stand_ins.refuse_weights(Path(folder))
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        name = file.relative_to(folder)
        if file.suffix not in {".safetensors", ".json", ".txt"} or file.name == "training.json":
            continue
        if name.parts[0] in {"safety_checker", "feature_extractor", "adapters"}:
            continue  # never loaded, or named apart
        digest.update(name.as_posix().encode())
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 24):
                    digest.update(block)
        except OSError as error:
            stand_ins.refuse(file)
            raise BlendbenchError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error
    return digest.hexdigest()[:12]


# Published files may hold NumPy arrays (Cnn14's at 16 kHz is longer than its weights, and torchvggish makes tensors of
# its PCA file's values). They are data, but PyTorch reads only what is named here.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *sorted({type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}, key=str),
    *((np.zeros(1).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class _Inert:
    """Stands in for a class of somebody else's in a pickle: takes everything, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_state(path: Path, mapped: bool = False, inert: bool = False) -> Any:
    """What a file of weights holds, on the CPU: tensors, NumPy arrays of numbers and plain containers of them, no code.

    A file named `.safetensors` is read as such, any other as PyTorch's. With `mapped` tensors stay in the file until
    they are used, where its format allows it. With `inert` a pickle may hold objects of other classes, such as a
    trainer's settings, beside its weights: they are passed over, and none of their code is run.

    Raises
    ------
    BlendbenchError
        If the file is missing, damaged, or a pickle that asks for anything else.
    """
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        stand_ins.refuse(path)
        raise BlendbenchError(f"{printable(path)}: cannot be read ({error.strerror}); fetch it again") from error
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            stand_ins.refuse_weights(path, failed=True)
            raise BlendbenchError(f"{printable(path)}: damaged or no safetensors file; fetch it again") from error
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if inert else []
        with torch.serialization.safe_globals([*_ARRAYS, *((_Inert, name) for name in foreign)]):
            zipped = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can raise anything
        stand_ins.refuse_weights(path, failed=True)
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            reason = f"holds {named[1]}, not weights alone, so reading it could run code; give the published file"
        else:
            reason = "damaged or no PyTorch file; fetch it again"
        raise BlendbenchError(f"{printable(path)}: {reason}") from error


def save_half(network: nn.Module, folder: Path | str, config: dict[str, Any]) -> None:
    """Write `config.json` and `model.safetensors`: parameters in half precision, buffers as they are, none empty."""
    folder = Path(folder)
    make_folder(folder)
    weights = dict(network.named_parameters())
    state = {key: value.contiguous() for key, value in network.state_dict().items() if value.numel()}
    half = {key: value.half() if key in weights else value for key, value in state.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def unlike(wanted: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> str:
    """What tensors differ in from the shapes that are wanted, by name; "" where they are exactly those."""
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in wanted]
    problems += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return problems[0] + more if problems else ""


def fill(network: nn.Module, state: Any, path: Path, device: str) -> Any:
    """The network with a state dict's tensors, on a device, for inference.

    Raises
    ------
    BlendbenchError
        If they are not exactly the network's own, by name and shape.
    """
    kind, wanted = type(network).__name__, network.state_dict()
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BlendbenchError(f"{printable(path)}: holds no weights of {kind}; give the published file")
    if problems := unlike({name: value.shape for name, value in wanted.items()}, state):
        raise BlendbenchError(
            f"{printable(path)}: weights are not of this {kind} ({problems}); give the published file"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False).to(device)
