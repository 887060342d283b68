"""MeLFusion (Chowdhury et al., 2024): music from a caption and a picture, by a synapse between two diffusion models."""

from typing import Any

import torch

from blendbench.methods._pictured import PictureMethod
from blendbench.models.denoisers import Denoiser
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.melfusion import MeLFusionCheckpoint, pictured


class MeLFusion(PictureMethod):
    """The method.

    Parameters
    ----------
    checkpoint : dict
        Parameters of `MeLFusionCheckpoint` after the key.
    label, sampling, more
        As for `PictureMethod`.
    """

    def __init__(self, label: str, sampling: dict[str, Any], checkpoint: dict[str, Any], **more: Any) -> None:
        super().__init__(label, sampling, **more)
        self.checkpoint = MeLFusionCheckpoint("method.checkpoint", **checkpoint)

    def signature(self) -> dict[str, Any]:
        """As `PictureMethod`, weights and image model."""
        return super().signature() | self.checkpoint.signature()

    def load(self) -> tuple[LatentDiffusion, int]:
        """The generator with the synapse."""
        self.joined = self.checkpoint.of(self.generator, self.context.device)
        return self.joined.model, self.joined.visual.size

    def denoiser(self, texts: list[str], seen: torch.Tensor | None, seeds: list[int]) -> Denoiser:
        """By the synapse."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pictured(self.joined, texts, seen, generators, self.sampling)
