"""Checkpoints by name, loaded once, on demand: the image generator, and what other methods bring.

`generator=pocket` is the small model that travels with the package; `generator=riffusion` or any folder in diffusers'
Stable Diffusion layout is a change of one value. The signature holds the checkpoint's hash, never its path.
"""

from collections.abc import Callable
from copy import copy, deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.weights import checkpoint_hash
from blendbench.store.signature import file_hash


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
    musicgen, controlnet, pix2pix : dict, optional
        Models that belong to the same family, to which the configs of their methods refer; not used here.
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
        controlnet: dict[str, Any] | None = None,
        pix2pix: dict[str, Any] | None = None,
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

    def changed(self, device: str, change: Callable[[UNet2DConditionModel], None]) -> LatentDiffusion:
        """The model with a U-Net of its own that a function has changed; this generator's stays as it is.

        Parameters
        ----------
        device : str
        change : callable
            Adds an adapter, say.
        """
        base = self.get(device)
        made = copy(base)
        made.unet = deepcopy(base.unet)
        change(made.unet)
        made.unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return made

    def _load(self, source: Path | str, device: str) -> LatentDiffusion:
        dtype = DTYPES[self.dtype]
        if self.single_file is None:
            model = LatentDiffusion.load(
                source, device, dtype, self.revision, local_files_only=self.local_files_only, adapter=self.adapter_file
            )
        else:
            from blendbench.models.stable_diffusion import load_single_file

            model = load_single_file(self.single_file, self.tokenizer, dtype, self.local_files_only)
            if self.adapter_file is not None:
                lora.merge(model.unet, self.adapter_file)
            model.to(device)
        for part in (model.unet, model.vae, model.text_encoder):
            part.requires_grad_(False)  # guidance differentiates by latents; weights need no inputs kept for theirs
        if self.vae_slicing:
            model.vae.enable_slicing()
        if self.compile:
            model.unet.compile()
        return model
