"""What the evaluators of published models share: where weights lie, their hash, and reading them as data alone.

Nothing here downloads, and no file is trusted: PyTorch files are read without the code that a pickle may hold, hub
folders as safetensors only. What does not fit is refused in a line that names the file.
"""

import json
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, ClipError, one_line, printable
from blendbench.evaluators import Evaluator
from blendbench.models import catalog
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import check_installed
from blendbench.store.signature import file_hash


class Published(Evaluator):
    """An evaluator whose weights are a file or a hub folder that the user fetched.

    Parameters
    ----------
    name : str
        Name in recipes.
    checkpoint : str or None
        A file of weights, or a hub model's folder or id; None for what `blendbench.models` keeps under `known`.
    comparable : bool
        See `Evaluator`.
    known : str
        The model's name in `blendbench.models`.
    """

    in_folder = False
    """Whether the weights are a hub model's folder, not one file."""
    package = ""
    """Import name of the library that holds the network; empty where none is needed."""
    install = ""
    """What pip installs it by."""

    def __init__(self, name: str, checkpoint: str | None, comparable: bool, known: str) -> None:
        self.name, self.comparable = name, comparable
        self._checkpoint, self._known = checkpoint, known
        self._model: Any = None
        self._device = "cpu"

    @cached_property
    def weights(self) -> Path:
        """The file or folder of weights; raises BlendbenchError, with what to type, if it is not there."""
        return locate(self._checkpoint, self._known)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights; raises BlendbenchError if they or the library are missing."""
        if self.package:
            check_installed(self.package, self.install)
        return folder_fingerprint(self.weights) if self.in_folder else file_fingerprint(self.weights)

    def prepare(self, device: str) -> None:
        """Load the model; raises BlendbenchError if its library or weights are missing or do not fit."""
        if self._model is None:
            # Networks are drawn at random before they are filled.
            with torch.random.fork_rng(devices=[]):
                self._model, self._device = self._load(device), device

    @property
    def model(self) -> Any:
        """What `_load` returned."""
        self.prepare(self._device)
        return self._model

    @abstractmethod
    def _load(self, device: str) -> Any: ...

    def _check_length(self, waveform: torch.Tensor, samples: int) -> None:
        """Raise ClipError for a waveform of fewer samples than the model's first frame takes."""
        if len(waveform) < samples:
            raise ClipError(
                f"clip lasts {len(waveform) / self.sample_rate:.3g} s; evaluator {self.name} needs at least "
                f"{samples / self.sample_rate:.3g} s; use longer clips"
            )


def locate(checkpoint: str | None, known: str) -> Path:
    """Where weights lie.

    Parameters
    ----------
    checkpoint : str or None
        A file, a folder, or a hub id (`owner/name`) that is in the local cache; None asks `blendbench.models`.
    known : str
        A name in `blendbench.models`.

    Raises
    ------
    BlendbenchError
        If nothing is there, with what to type, or something else stands in the weights' place.
    """
    if checkpoint is None:
        return catalog.find(known)
    path = Path(checkpoint).expanduser()
    stand_ins.refuse_weights(path)
    if path.exists():
        return path
    if catalog.is_hub_id(checkpoint) and not path.parent.is_dir():
        from huggingface_hub import snapshot_download

        revision = catalog.pinned(checkpoint)
        try:
            return Path(snapshot_download(checkpoint, revision=revision, local_files_only=True))
        except (OSError, ValueError) as error:
            words = f"{checkpoint} --revision {revision}" if revision else checkpoint
            raise BlendbenchError(
                f"evaluator: checkpoint={checkpoint}: neither a path nor in the hub's cache; type `hf download {words}`"
            ) from error
    raise BlendbenchError(f"checkpoint={checkpoint}: no such file or folder; give another, or null for the usual one")


def file_fingerprint(path: Path) -> str:
    """First 12 hex digits of a file's SHA-256; raises BlendbenchError if there is no such file."""
    try:
        return file_hash(path)[:12]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BlendbenchError(f"{printable(path)}: cannot be read ({reason}); give a file of weights") from error


def folder_fingerprint(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 of a hub folder's weights and configs; BlendbenchError if it has none."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise BlendbenchError(
            f"{printable(folder)}: no config.json with safetensors there; give a folder in transformers' layout"
        )
    return checkpoint_hash(folder)


def read_hub_model(model_class: Any, folder: Path, kind: str, device: str) -> Any:
    """A transformers model from a folder, safetensors only, for inference on a device.

    Parameters
    ----------
    model_class : class
        Of transformers.
    folder : Path
        With config.json and safetensors.
    kind : str
        The `model_type` that config.json must give.
    device : str

    Raises
    ------
    BlendbenchError
        If the folder is no such model, is damaged, or lacks weights that would else be drawn at random.
    """
    shown = printable(folder)
    try:
        found = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        stand_ins.refuse_weights(folder, failed=True)
        raise BlendbenchError(f"{shown}: no model folder (config.json); fetch it again") from error
    if found != kind:
        raise BlendbenchError(f"{shown}: holds a {found} model, not {kind}; give another checkpoint")
    try:
        model, report = model_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # what safetensors and config classes raise is no fixed set
        stand_ins.refuse_weights(folder, failed=True)
        reason = one_line(str(error).strip().split("\n")[0])
        raise BlendbenchError(f"{shown}: no readable {kind} model ({reason}); fetch it again") from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise BlendbenchError(f"{shown}: {len(lacking)} weights are missing, such as {lacking[0]}; fetch it again")
    return model.eval().requires_grad_(False).to(device)
