"""Riff-P2P (Shah, Ramachandran and Wang): a background's mel image is edited as a text says, by InstructPix2Pix.

The level is that of the background's own image. In the blend task the image is the noise's, and "add a PROMPT" is asked
for; what is painted then holds the noise, too, so `output: residual` takes it away again: amplitudes are brought to the
noise's by one factor in its core, and what exceeds the noise is the music.
"""

import time
from typing import Any, Literal

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window, to_model
from blendbench.models.latent_diffusion import encode_images
from blendbench.models.pix2pix import Pix2PixCheckpoint, edited
from blendbench.sound.mel import decode_image, encode_image

CORE = 0.15
"""Share of an image's pixels, the loudest, whose factor counts."""


class RiffP2P(ImageMethod):
    """The method.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`; `guidance_scale` is the text's. The published one: 100 steps, 15.
    image_scale : float
        Guidance by the image; 1.5 in the published one.
    checkpoint : dict
        Parameters of `Pix2PixCheckpoint` after the key: which InstructPix2Pix.
    source : {"background", "noise"}
        What is edited.
    output : {"raw", "residual"}
        The image as painted, or what of it exceeds what was given.
    instruction : str
        Made of the prompt, which stands for `{}`.
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
        image_scale: float = 1.5,
        source: Literal["background", "noise"] = "background",
        output: Literal["raw", "residual"] = "raw",
        instruction: str = "{}",
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        if output not in ("raw", "residual"):
            raise BlendbenchError(f"arm {label!r}: output is {output!r}; use raw or residual")
        if "{}" not in instruction:
            raise BlendbenchError(f"arm {label!r}: instruction has no {{}} for the prompt; write it in")
        self.source, self.takes = source, (source, "text")
        self.image_scale, self.output, self.instruction = float(image_scale), output, instruction
        self.editor = Pix2PixCheckpoint("method.checkpoint", **checkpoint)

    def prepare(self, context: Context) -> None:
        """Load the model."""
        super().prepare(context)
        self.editor.of(self.generator, context.device)

    def signature(self) -> dict[str, Any]:
        """As `ImageMethod`, the weights, the image's guidance, and what is given out."""
        own = {"image_scale": self.image_scale, "source": self.source, "output": self.output}
        return super().signature() | own | {"instruction": self.instruction} | self.editor.signature()

    def paint(self, window: Window) -> Painted:
        """The image, edited; what is held stays."""
        model, start = self.editor.of(self.generator, self.context.device), time.perf_counter()
        texts = [self.instruction.format(text) for text in window.texts]
        given = to_model(window.pixels).to(model.device)
        # The posterior's mode, not scaled (timothybrooks/instruct-pix2pix#36).
        latents = encode_images(model, given, sample=False) / model.vae.config.scaling_factor
        denoiser = edited(model, texts, latents, self.sampling, self.image_scale)
        painted = self.from_nothing(model, window, texts, "riff_p2p", denoiser=denoiser)
        seconds = {"paint_s": time.perf_counter() - start}
        before, after = decode_image(window.pixels, 1.0), decode_image(painted, 1.0)
        level = levels(before, after)[:, None, None]
        share = (level * after - before).abs().sum((1, 2)) / before.sum((1, 2)).clamp(min=1e-12)
        facts = {"edit_share": share}
        if self.output == "raw":
            return Painted(painted, seconds, {}, facts)
        music, _ = encode_image((level * after - before).clamp(min=0), peak=1.0)
        return Painted(music, seconds, {"edited": painted}, facts)


def levels(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Factors [B] that bring amplitudes [B, H, W] of an edited image to those of the one before.

    The median of the ratio over the loudest pixels of the one before, weighted by their amplitudes.
    """
    found = []
    for one, other in zip(before.flatten(1), after.flatten(1), strict=True):
        core = one.topk(max(1, round(CORE * len(one)))).indices
        weights, ratios = one[core], one[core] / other[core].clamp(min=1e-6)
        order = ratios.argsort()
        reached = weights[order].cumsum(0)
        found.append(ratios[order][int((reached < reached[-1] / 2).sum())])
    return torch.stack(found)
