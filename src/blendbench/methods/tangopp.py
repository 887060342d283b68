"""TANGO++ (Chowdhury et al., 2024): music from a caption and a picture whose tokens stand beside the caption's."""

from typing import Any

import torch

from blendbench.methods._pictured import PictureMethod
from blendbench.models.denoisers import Denoiser
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.tangopp import TangoPPCheckpoint, pictured


class TangoPP(PictureMethod):
    """The method.

    Parameters
    ----------
    checkpoint : dict
        Parameters of `TangoPPCheckpoint` after the key.
    label, sampling, more
        As for `PictureMethod`.
    """

    def __init__(self, label: str, sampling: dict[str, Any], checkpoint: dict[str, Any], **more: Any) -> None:
        super().__init__(label, sampling, **more)
        self.checkpoint = TangoPPCheckpoint("method.checkpoint", **checkpoint)

    def signature(self) -> dict[str, Any]:
        """As `PictureMethod`, and the weights."""
        return super().signature() | self.checkpoint.signature()

    def load(self) -> tuple[LatentDiffusion, int]:
        """The generator with its adapter."""
        self.told = self.checkpoint.of(self.generator, self.context.device)
        return self.told.model, self.told.words.size

    def denoiser(self, texts: list[str], seen: torch.Tensor | None, seeds: list[int]) -> Denoiser:
        """By the hybrid embedding."""
        return pictured(self.told, texts, seen, self.sampling)
