"""BNMusic (Zuo et al. 2025): repaint around the noise's loud core, repaint the core, then amplify adaptively.

Stage 1 works on the noise's mel image: outpainting keeps the core M and paints music around it, inpainting keeps that
music and repaints the slightly larger core. Stage 2, the adaptive gain, belongs to the presentation, since it changes
the level only; `adaptive` says whether this method's own output includes it.
"""

import time
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window, to_grey, to_model
from blendbench.models import sampling
from blendbench.tasks import Music
from blendbench.tasks.blend import masking


class BNMusic(ImageMethod):
    """The method; every component can be switched off for ablations.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `diffusion.Sampling`, for both repaintings.
    mask : dict
        `core_fraction` (share of loudest pixels kept by outpainting), `pixel_threshold` (absolute pixel value instead,
        or None), `inpaint_fraction` and `inpaint_threshold` (the same for the area that inpainting repaints), and
        `latent_reduce` ("nearest" as the reference pipelines do, "max" keeps every core pixel).
    outpaint, inpaint, adaptive : bool
        The components of the paper's Table 3.
    griffin_lim_iterations, overlap : int
        As for `ImageMethod`.

    Raises
    ------
    BlendbenchError
        If outpaint and inpaint are both off, or a mask setting is unknown.
    """

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        mask: dict[str, Any],
        outpaint: bool = True,
        inpaint: bool = True,
        adaptive: bool = True,
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        if not (outpaint or inpaint):
            raise BlendbenchError(f"arm {label!r}: outpaint and inpaint are both off; use method noise_only instead")
        known = {"core_fraction", "pixel_threshold", "inpaint_fraction", "inpaint_threshold", "latent_reduce"}
        if unknown := set(mask) - known:
            raise BlendbenchError(f"mask.{min(unknown)}: unknown key; known are {', '.join(sorted(known))}")
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        self.mask = dict(mask)
        self.outpaint, self.inpaint, self.adaptive = outpaint, inpaint, adaptive

    def signature(self) -> dict[str, Any]:
        """Everything of stage 1; `adaptive` is the presentation's."""
        mask = dict(self.mask)
        if not self.outpaint:
            mask = {k: v for k, v in mask.items() if k.startswith("inpaint") or k == "latent_reduce"}
        if not self.inpaint:
            mask = {k: v for k, v in mask.items() if not k.startswith("inpaint")}
        return super().signature() | {"mask": mask, "outpaint": self.outpaint, "inpaint": self.inpaint}

    def paint(self, window: Window) -> Painted:
        """Both steps on one image, with the images between."""
        quantize, pixels = self.generator.quantize, window.pixels
        core, enlarged = self._masks(window)
        images, seconds = to_model(window.with_held(pixels)), {}
        kept: dict[str, torch.Tensor] = {}
        if self.outpaint:
            start = time.perf_counter()
            images = self._repaint(images, core, False, "outpaint", window)
            seconds["outpaint_s"] = time.perf_counter() - start
            kept["mid"] = to_grey(images, quantize)
            if quantize or window.held is not None:
                # An 8-bit image is what the next step is given there; and what is held is given as it was.
                images = to_model(window.with_held(kept["mid"]))
        if self.inpaint:
            start = time.perf_counter()
            images = self._repaint(images, enlarged, True, "inpaint", window)
            seconds["inpaint_s"] = time.perf_counter() - start
        return Painted(to_grey(images, quantize), seconds, kept | {"core": core})

    def finished(self, music: Music) -> Music:
        """With the core's share of the image, where it is one."""
        core = music.images.pop("core", None)
        if core is not None:
            music.facts["core_share"] = round(float(core.float().mean()), 4)
            music.images["core"] = core
        return music

    def _masks(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """Core and enlarged core; a silent part of a longer noise has none."""
        pixels = window.pixels
        if window.is_part and float(pixels.amin()) == float(pixels.amax()):
            none = torch.zeros_like(pixels, dtype=torch.bool)
            return none, none
        return self.core(pixels), self.enlarged_core(pixels)

    def core(self, pixels: torch.Tensor) -> torch.Tensor:
        """The area that outpainting keeps of images [..., H, W], as bool."""
        return masking.core_mask(pixels, self.mask["core_fraction"], self.mask["pixel_threshold"])

    def enlarged_core(self, pixels: torch.Tensor) -> torch.Tensor:
        """The area that inpainting repaints."""
        return masking.core_mask(pixels, self.mask["inpaint_fraction"], self.mask["inpaint_threshold"])

    def _repaint(
        self, images: torch.Tensor, core: torch.Tensor, inside: bool, step: str, window: Window
    ) -> torch.Tensor:
        """Repaint the core (`inside`) or everything else; the mask is reduced as core, then inverted if need be."""
        model = self.generator.get(self.context.device)
        held = window.known()
        mask = (core if inside else ~core) & ~held
        reduced = masking.latent_mask(core, model.factor, self.mask["latent_reduce"])
        latent = (reduced if inside else ~reduced) & ~held[:: model.factor, :: model.factor]
        return sampling.masked_repaint(
            model,
            images.cpu(),
            mask[:, None].float(),
            window.texts,
            window.seeds(step),
            self.sampling,
            latent_masks=latent[:, None].float(),
        )
