"""Checkpoints by name, loaded once, on demand. The signature holds a checkpoint's hash, never its path."""

from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import catalog
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder

Model = TypeVar("Model")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Checkpoint(ABC, Generic[Model]):
    """Where a model's files lie and in which precision it runs.

    Parameters
    ----------
    key : str
        The config entry that it comes from, for messages.
    checkpoint : str
        "pocket" for the built-in model, a folder, a hub id (`owner/name`), or a name of `blendbench models add`.
    revision : str or None
        Revision of a hub id; None for the one that `blendbench models` knows, where it knows one.
    dtype : str
        "float32", "float16" or "bfloat16".
    local_files_only : bool
        Never download inside a run unless False.

    Raises
    ------
    BlendbenchError
        If the precision is unknown.
    """

    builtin = "pocket"
    """The built-in model's folder in the package's assets."""
    marker = "model_index.json"
    """A file that every such checkpoint has."""
    layout = "diffusers'"
    mended = "install blendbench again"
    """What to do where the built-in one is not there."""

    def __init__(
        self,
        key: str,
        checkpoint: str,
        revision: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = True,
    ) -> None:
        if dtype not in DTYPES:
            raise BlendbenchError(f"{key}.dtype={dtype}: unknown; use one of {', '.join(DTYPES)}")
        self.key, self.checkpoint, self.dtype = key, checkpoint, dtype
        self.revision = revision or catalog.pinned(checkpoint)
        self.local_files_only = local_files_only
        self._models: dict[str, Model] = {}

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        if self.checkpoint == "pocket":
            return package_folder("blendbench.assets") / self.builtin
        path = Path(self.checkpoint).expanduser()
        if path.exists() or self.checkpoint.startswith((".", "/", "~")):
            return path
        return catalog.own(self.checkpoint)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the checkpoint's files, or id and commit of a hub checkpoint.

        Raises
        ------
        BlendbenchError
            If it is not there; a hub checkpoint may be missing only where a run may download it.
        """
        folder = self._found()
        if folder is not None:
            return checkpoint_hash(folder)
        # The commit, so that a moved branch is another checkpoint; it is also what is then loaded.
        self.revision = self._commit()
        return f"{self.checkpoint}@{self.revision}"

    def _commit(self) -> str:
        if not catalog.is_hub_id(self.checkpoint):
            raise BlendbenchError(
                f"{self.key}.checkpoint={self.checkpoint}: no such folder or file, and no hub id (owner/name)"
            )
        if not self.local_files_only:
            with suppress(OSError, ValueError):  # offline after all: the cache may have it
                return str(HfApi().model_info(self.checkpoint, revision=self.revision).sha)
        kept = try_to_load_from_cache(self.checkpoint, self.marker, revision=self.revision)
        if isinstance(kept, str):
            return Path(kept).parent.name
        at = f" at revision {self.revision}" if self.revision else ""
        raise BlendbenchError(f"{self.key}.checkpoint={self.checkpoint}: not in the hub's cache{at}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"`blendbench models list` says how to fetch it, or give {self.key}.checkpoint=FOLDER"

    def _found(self) -> Path | None:
        """The local folder, or None for a hub id; raises BlendbenchError if it holds no checkpoint."""
        folder = self.folder
        if folder is not None:
            for place in (folder, folder / self.marker):
                stand_ins.refuse(place)
        if folder is not None and not (folder / self.marker).is_file():
            if self.checkpoint == "pocket":
                raise BlendbenchError(f"{folder}: the built-in model is not there; {self.mended}")
            raise BlendbenchError(
                f"{self.key}.checkpoint={self.checkpoint}: no checkpoint ({self.marker}) there; "
                f"give a folder in {self.layout} layout, or {self.key}.checkpoint=pocket for the built-in one"
            )
        return folder

    def get(self, device: str) -> Model:
        """The loaded model on a device.

        Raises
        ------
        BlendbenchError
            If it is not there or cannot be read, with what to do.
        """
        if device not in self._models:
            found = self._found()
            if found is None:
                _ = self.fingerprint  # which commit
            try:
                self._models[device] = self._load(found or self.checkpoint, device)
            except BlendbenchError as error:
                if self.folder is not None:
                    raise
                raise BlendbenchError(f"{error}; {self._remedy}") from error
        return self._models[device]

    @abstractmethod
    def _load(self, source: Path | str, device: str) -> Model: ...
