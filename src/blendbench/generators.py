"""Image generators: latent diffusion checkpoints by name, loaded once, on demand.

`generator=pocket` is the small model that travels with the package; `generator=riffusion` or any folder in diffusers'
Stable Diffusion layout is a change of one value. The signature holds the checkpoint's hash, never its path.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blendbench.datasets.builtin import package_folder
from blendbench.diffusion import LatentDiffusion
from blendbench.errors import BlendbenchError
from blendbench.tagger import checkpoint_hash

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Generator:
    """A checkpoint and how to load it.

    Parameters
    ----------
    name : str
        Name in recipes.
    checkpoint : str
        "pocket" for the built-in model, a folder in diffusers' layout, or a hub id (`owner/name`).
    revision : str or None
        Revision of a hub id; pin it for results that others can repeat.
    dtype : str
        "float32", "float16" or "bfloat16".
    local_files_only : bool
        Never download inside a run unless False.
    quantize : bool
        Truncate images to 8 bits before encoding, as Riffusion does.
    sampling : dict
        The checkpoint's settings by use, "repaint" and "image_to_image", to which the methods' configs refer.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        revision: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = True,
        quantize: bool = False,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise BlendbenchError(f"generator.dtype={dtype}: unknown; use one of {', '.join(_DTYPES)}")
        self.name, self.checkpoint, self.revision, self.dtype = name, checkpoint, revision, dtype
        self.local_files_only, self.quantize = local_files_only, quantize
        self.sampling = sampling or {}
        self._models: dict[str, LatentDiffusion] = {}

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        if self.checkpoint == "pocket":
            return package_folder("blendbench.assets") / "pocket"
        path = Path(self.checkpoint).expanduser()
        return path if path.exists() or self.checkpoint.startswith((".", "/", "~")) else None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the checkpoint's files, or id and revision of a hub checkpoint."""
        folder = self.folder
        if folder is None:
            return f"{self.checkpoint}@{self.revision or 'main'}"
        if not (folder / "model_index.json").is_file():
            raise BlendbenchError(
                f"generator.checkpoint={self.checkpoint}: no diffusers checkpoint (model_index.json) there; "
                "give a folder in diffusers' layout, or use generator=pocket"
            )
        return checkpoint_hash(folder)

    def signature(self) -> dict[str, Any]:
        """What changes the images: name, checkpoint hash, precision and quantisation."""
        return {"checkpoint": self.fingerprint, "dtype": self.dtype, "quantize": self.quantize}

    def get(self, device: str) -> LatentDiffusion:
        """The loaded model on a device."""
        if device not in self._models:
            source = self.folder or self.checkpoint
            try:
                self._models[device] = LatentDiffusion.load(
                    source, device, _DTYPES[self.dtype], self.revision, local_files_only=self.local_files_only
                )
            except BlendbenchError as error:
                if self.folder is not None:
                    raise
                remedy = f"fetch it with `hf download {self.checkpoint}`, or give generator.checkpoint=FOLDER"
                raise BlendbenchError(f"{error}; {remedy}") from error
        return self._models[device]
