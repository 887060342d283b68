"""Pickled weights turned into safetensors on the user's machine: files and whole folders, read as data alone.

A pickle may hold code, so it is read by PyTorch's `weights_only` reader, which knows tensors and plain containers and
refuses anything else by name. Tensors are mapped from the file, not read into memory, where the file's format allows
it (PyTorch's since 1.6), so that a model of many gigabytes takes little more than its largest tensor.
"""

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models.weights import read_state
from blendbench.store.signature import file_hash
from blendbench.store.write import placing, placing_folder, write_failure

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_HOLDERS = ("state_dict", "model_state_dict", "model", "params_ema", "params")
"""Keys under which trainers put the weights, beside steps and settings."""
_NO_WEIGHTS = re.compile(r"(optimizer|scheduler|rng_state|random_states|training_args|scaler|sampler).*")
"""Names of what trainers leave beside weights: never converted."""


def is_pickled(path: Path) -> bool:
    """Whether a path is a file of pickled weights, or a folder that has some and no safetensors in their place."""
    if path.is_file():
        return path.suffix in PICKLED
    return any(True for _ in _to_convert(path))


def convert(source: Path, target: Path) -> None:
    """Write a file or folder again with safetensors in place of pickled weights; whole, or not at all.

    Parameters
    ----------
    source : Path
        A file of weights, or a folder in diffusers' or transformers' layout; what else a folder holds is copied, but
        for other weights of the same part.
    target : Path
        File or folder; what is there is replaced.

    Raises
    ------
    BlendbenchError
        If the source cannot be read, is damaged, needs code to be read, or the target cannot be written.
    """
    if source.is_file():
        convert_file(source, target)
        return
    with placing_folder(target) as folder:
        pickled = dict(_to_convert(source))
        for file in sorted(source.rglob("*")):
            place = file.relative_to(source)
            if file.is_dir() or file in pickled or _is_other_weights(file):
                continue
            if file.name.endswith(".bin.index.json"):
                _convert_index(file, folder / place.with_name(in_safetensors(file.name)))
                continue
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)
        for old, new in pickled.items():
            convert_file(old, folder / new.relative_to(source))


def convert_file(source: Path, target: Path) -> None:
    """Write pickled weights as safetensors, with the source's name and SHA-256 in the metadata; errors as `convert`."""
    tensors = tensors_of(source)
    if not tensors:
        raise BlendbenchError(f"{printable(source)}: holds no tensors; give a file of weights")
    digest = file_hash(source)
    with placing(target) as temporary:
        try:
            save_made_of(tensors, temporary, source.name, digest)
        except SafetensorError as error:
            raise BlendbenchError(f"{printable(target)}: cannot be written ({one_line(str(error))})") from error
        except OSError as error:
            raise BlendbenchError(f"{printable(target)}: cannot be written ({write_failure(error)})") from error


def of_wheel(wheel: Path, name: str, most: int, called: str) -> bytes:
    """A file of a wheel, of at most so many bytes; `called` is the wheel's package, for messages.

    Raises
    ------
    BlendbenchError
        If the wheel is damaged, lacks the file, or the file is larger.
    """
    try:
        with zipfile.ZipFile(wheel) as opened:
            info = opened.getinfo(name)
            if info.file_size > most:
                raise BlendbenchError(f"{wheel}: {info.filename} has {info.file_size} bytes; fetch it again")
            return opened.read(info)
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, zlib.error) as error:
        reason = one_line(str(error))
        raise BlendbenchError(f"{wheel}: no readable wheel of {called} ({reason}); fetch it again") from error


def save_made_of(tensors: dict[str, torch.Tensor], file: Path, source: str, sha256: str) -> None:
    """Write safetensors that tell what they were made of; the same tensors and source are the same bytes.

    Raises SafetensorError or OSError where they cannot be written.
    """
    metadata = {"format": "pt", "source": source, "source_sha256": sha256}
    save_file(tensors, file, metadata=metadata)
    file.chmod(0o644)  # safetensors writes for the owner alone
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        # The library writes the metadata in an order drawn anew in each process.
        header["__metadata__"] = metadata
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            opened.seek(8)
            opened.write(text.ljust(length))


def tensors_of(source: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file by name, none sharing memory with another, as safetensors wants it."""
    found: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for name, value in _flat(_weights_of(read_state(source, mapped=True)), ""):
        own = value.detach()
        key = (own.untyped_storage().data_ptr(), int(own.storage_offset()))
        whole = own.untyped_storage().nbytes() == own.nbytes
        # Parts of one storage, and tied weights, are written out each for itself.
        found[name] = (
            own.contiguous()
            if whole and key not in seen and own.is_contiguous()
            else own.clone(memory_format=torch.contiguous_format)
        )
        seen.add(key)
    return found


def _weights_of(content: Any) -> Any:
    """The weights in what a trainer saved."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _HOLDERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _flat(content: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by dotted name; steps, settings and the like are left out."""
    if isinstance(content, torch.Tensor):
        yield prefix or "weight", content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _to_convert(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Pickled weights of a folder that have no safetensors beside them, each with the path that these would have."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in PICKLED and file.is_file() and not _NO_WEIGHTS.fullmatch(file.name):
            new = file.with_name(in_safetensors(file.name))
            if not new.exists():
                yield file, new


def _is_other_weights(file: Path) -> bool:
    """Whether a file is pickled and not converted, or weights for other frameworks."""
    return file.suffix in (*PICKLED, ".msgpack", ".h5", ".onnx", ".ot") or file.name.startswith("flax_model")


def in_safetensors(name: str) -> str:
    """The path that diffusers and transformers give the same weights as safetensors."""
    stem = re.sub(rf"({'|'.join(map(re.escape, PICKLED))})(?=$|\.index\.json$)", ".safetensors", name)
    return re.sub(r"(^|/)pytorch_model(?=[.-])", r"\1model", stem)


def _convert_index(source: Path, target: Path) -> None:
    """The index of a model in several files, for their new names."""
    stand_ins.refuse(source)
    try:
        index = json.loads(source.read_text(encoding="utf-8"))
        index["weight_map"] = {name: in_safetensors(file) for name, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlendbenchError(f"{printable(source)}: no readable index of weights; fetch it again") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
