"""Checkpoints by name, loaded once, on demand: the image generator, and what other methods bring.

`generator=pocket` is the small model that travels with the package; `generator=riffusion` or any folder in diffusers'
Stable Diffusion layout is a change of one value. The signature holds the checkpoint's hash, never its path.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from blendbench import lora, models, stand_ins
from blendbench.datasets.builtin import package_folder
from blendbench.diffusion import LatentDiffusion
from blendbench.errors import BlendbenchError
from blendbench.store import file_hash
from blendbench.tagger import checkpoint_hash

Model = TypeVar("Model")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Checkpoint(ABC, Generic[Model]):
    """Where a model's files lie and in which precision it runs.

    Parameters
    ----------
    key : str
        The config entry that it comes from, for messages.
    checkpoint : str
        "pocket" for the built-in model, a folder, or a hub id (`owner/name`).
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
        self.revision = revision or models.pinned(checkpoint)
        self.local_files_only = local_files_only
        self._models: dict[str, Model] = {}

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        if self.checkpoint == "pocket":
            return package_folder("blendbench.assets") / self.builtin
        path = Path(self.checkpoint).expanduser()
        return path if path.exists() or self.checkpoint.startswith((".", "/", "~")) else None

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
        if not models.is_hub_id(self.checkpoint):
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
                raise BlendbenchError(f"{folder}: the built-in model is not there; install blendbench again")
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


class Generator(Checkpoint[LatentDiffusion]):
    """An image generator in diffusers' Stable Diffusion layout.

    Parameters
    ----------
    name : str
        Name in recipes.
    checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
        A checkpoint may also be one .safetensors file in Stable Diffusion 1's original layout.
    quantize : bool
        Riffusion's own 8-bit images, byte by byte, go into the model and come out of it.
    adapter : str or None
        A low-rank adapter that is added to the U-Net (see `blendbench.lora`): the name of one in the checkpoint's
        folder `adapters/`, such as "few_step", or a safetensors file.
    sampling : dict
        The checkpoint's settings by use, "repaint" and "image_to_image", to which the methods' configs refer.
    tokenizer : str
        For a single file: folder or hub id of CLIP's tokenizer.
    vae_slicing : bool
        Encode and decode a batch's images one by one, which bounds memory.
    compile : bool
        Compile the U-Net with torch.compile: a minute at the start, faster steps; changes images by rounding alone.
    musicgen : dict, optional
        The MusicGen that belongs to the same family, to which that method's config refers; not used here.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        revision: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = True,
        quantize: bool = False,
        adapter: str | None = None,
        sampling: dict[str, Any] | None = None,
        tokenizer: str = "openai/clip-vit-large-patch14",
        vae_slicing: bool = False,
        compile: bool = False,
        musicgen: dict[str, Any] | None = None,
    ) -> None:
        super().__init__("generator", checkpoint, revision, dtype, local_files_only)
        self.name, self.quantize, self.adapter, self.sampling = name, quantize, adapter, sampling or {}
        self.tokenizer, self.vae_slicing, self.compile = tokenizer, vae_slicing, compile

    @property
    def adapter_file(self) -> Path | None:
        """The adapter's file, or None where none is asked for."""
        if self.adapter is None:
            return None
        if "/" not in self.adapter and not self.adapter.endswith(".safetensors"):
            if self.folder is None:
                raise BlendbenchError(
                    f"generator.adapter={self.adapter}: give a file; a hub checkpoint has none by name"
                )
            file = self.folder / "adapters" / f"{self.adapter}.safetensors"
        else:
            file = Path(self.adapter).expanduser()
        stand_ins.refuse(file)
        if not file.is_file():
            raise BlendbenchError(
                f"generator.adapter={self.adapter}: {file} is not there; give another, or null for none"
            )
        return file

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the checkpoint's files, or id and revision of a hub checkpoint; then the adapter's hash."""
        file, single = self.adapter_file, self.single_file
        for one in (file, single):
            if one is not None:
                stand_ins.refuse_weights(one)
        own = super().fingerprint if single is None else file_hash(single)[:12] + self._tokenizer_mark
        return own + (f"+{file_hash(file)[:12]}" if file else "")

    @property
    def _tokenizer_mark(self) -> str:
        """A single file's tokenizer, which is not in it: a hash of the folder's files, or the hub id."""
        folder = Path(self.tokenizer).expanduser()
        return f"+{checkpoint_hash(folder) if folder.is_dir() else self.tokenizer}"

    @property
    def single_file(self) -> Path | None:
        """The checkpoint, where it is one file."""
        folder = self.folder
        return folder if folder is not None and folder.is_file() else None

    def _found(self) -> Path | None:
        return self.single_file or super()._found()

    def signature(self) -> dict[str, Any]:
        """What changes the images: name, checkpoint hash, precision and quantisation."""
        return {"checkpoint": self.fingerprint, "dtype": self.dtype, "quantize": self.quantize}

    def _load(self, source: Path | str, device: str) -> LatentDiffusion:
        dtype = DTYPES[self.dtype]
        if self.single_file is None:
            model = LatentDiffusion.load(
                source, device, dtype, self.revision, local_files_only=self.local_files_only, adapter=self.adapter_file
            )
        else:
            from blendbench.stable_diffusion import load_single_file

            model = load_single_file(self.single_file, self.tokenizer, dtype, self.local_files_only)
            if self.adapter_file is not None:
                lora.merge(model.unet, self.adapter_file)
            model.to(device)
        if self.vae_slicing:
            model.vae.enable_slicing()
        if self.compile:
            model.unet.compile()
        return model
