"""Riff-CNET (Shah, Ramachandran and Wang): music from a prompt and the edges of a background's mel image.

The generator is Riffusion, or the built-in one; a ControlNet beside it is told of the edges alone. The level is that of
the background's own image: its peak is that of what is painted. In the blend task the noise's edges are told.
"""

import itertools
import time
from typing import Any, Literal

import torch

from blendbench.methods import Context
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window, to_grey
from blendbench.models.controlnet import ControlNetCheckpoint, check_fit, controlled
from blendbench.models.denoisers import Denoiser
from blendbench.models.latent_diffusion import decode_latents
from blendbench.sound.edges import Edges, edge_share


class RiffCNET(ImageMethod):
    """The method.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`; the paper's code has DDIM in 50 steps, guidance 9.
    checkpoint : dict
        Parameters of `ControlNetCheckpoint` after the key: which ControlNet.
    source : {"background", "noise"}
        Whose edges are told.
    hint : dict
        Fields of `sound.edges.Edges`.
    scale : float
        Weight of the ControlNet's outputs.
    shown : list of int
        Steps before which the noisy latents are decoded, for the curious (the paper's Fig. 6); 0 is the noise.
    griffin_lim_iterations, overlap : int
        As for `ImageMethod`.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        checkpoint: dict[str, Any],
        source: Literal["background", "noise"] = "background",
        hint: dict[str, Any] | None = None,
        scale: float = 1.0,
        shown: list[int] | None = None,
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        self.source, self.takes = source, (source, "text")
        self.shown = list(shown or [])
        self.edges, self.scale = Edges(**(hint or {})), float(scale)
        self.control = ControlNetCheckpoint("method.checkpoint", **checkpoint)

    def prepare(self, context: Context) -> None:
        """Load generator and ControlNet; raises BlendbenchError where they do not belong together."""
        super().prepare(context)
        check_fit(self.control.of(self.generator, context.device), self.generator.get(context.device).unet)

    def signature(self) -> dict[str, Any]:
        """As `ImageMethod`, the ControlNet's weights and how it is told."""
        own = {"source": self.source, "hint": self.edges.signature(), "scale": self.scale}
        return super().signature() | own | self.control.signature()

    def paint(self, window: Window) -> Painted:
        """An image of the prompt whose edges are the background's; what is held stays."""
        model, start = self.generator.get(self.context.device), time.perf_counter()
        hints = self.edges.of(window.pixels)
        control = self.control.of(self.generator, self.context.device)
        denoiser = controlled(model, control, window.texts, hints, self.sampling, self.scale)
        seen: dict[int, torch.Tensor] = {}
        grey = self.from_nothing(model, window, window.texts, "riff_cnet", denoiser=self._watched(denoiser, seen))
        seconds = {"paint_s": time.perf_counter() - start}
        kept = {"hint": 255 * hints[:, 0]}
        kept |= {f"step{number}": to_grey(decode_latents(model, latents), False) for number, latents in seen.items()}
        return Painted(grey, seconds, kept, {"edge_share": edge_share(hints)})

    def _watched(self, denoiser: Denoiser, seen: dict[int, torch.Tensor]) -> Denoiser:
        """A denoiser that notes the latents of the steps that are to be shown."""
        if not self.shown:
            return denoiser
        count = itertools.count()

        def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            number = next(count)
            if number in self.shown:
                seen[number] = latents.clone()
            return denoiser(latents, timestep)

        return denoise
