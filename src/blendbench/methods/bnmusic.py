"""BNMusic (Zuo et al. 2025): repaint around the noise's loud core, repaint the core, then amplify adaptively.

Stage 1 works on the noise's mel image: outpainting keeps the core M and paints music around it, inpainting keeps that
music and repaints the slightly larger core. Stage 2, the adaptive gain, belongs to the presentation, since it changes
the level only; `adaptive` says whether this method's own output includes it.
"""

import time
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._images import ImageMethod, noise_images, to_grey, to_model, to_music
from blendbench.models import sampling
from blendbench.seeds import stable_seed
from blendbench.tasks import Music
from blendbench.tasks.blend import masking
from blendbench.tasks.blend.given import NoiseAndText


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
    griffin_lim_iterations : int
        Iterations of the phase reconstruction.

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
    ) -> None:
        if not (outpaint or inpaint):
            raise BlendbenchError(f"arm {label!r}: outpaint and inpaint are both off; use method noise_only instead")
        known = {"core_fraction", "pixel_threshold", "inpaint_fraction", "inpaint_threshold", "latent_reduce"}
        if unknown := set(mask) - known:
            raise BlendbenchError(f"mask.{min(unknown)}: unknown key; known are {', '.join(sorted(known))}")
        super().__init__(label, sampling, griffin_lim_iterations)
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

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """Music at the level of the generated image, with the images of both steps."""
        context = self.context
        quantize = self.generator.quantize
        pixels, peaks = noise_images(items, quantize)
        core, enlarged = self.core(pixels), self.enlarged_core(pixels)
        images, seconds = to_model(pixels), {}
        kept: dict[str, torch.Tensor] = {"noise": pixels}
        if self.outpaint:
            start = time.perf_counter()
            images = self._repaint(images, core, False, "outpaint", items)
            seconds["outpaint_s"] = time.perf_counter() - start
            kept["mid"] = to_grey(images, quantize)
            if quantize:
                images = to_model(kept["mid"])  # an 8-bit image is what the next step is given there
        if self.inpaint:
            start = time.perf_counter()
            images = self._repaint(images, enlarged, True, "inpaint", items)
            seconds["inpaint_s"] = time.perf_counter() - start
        kept["music"] = to_grey(images, quantize)
        music, seconds["vocode_s"] = to_music(kept["music"], peaks, items, context, self.iterations)
        for index, made in enumerate(music):
            made.facts = {name: round(value / len(items), 3) for name, value in seconds.items()}
            made.facts["core_share"] = round(float(core[index].float().mean()), 4)
            made.images = {name: image[index] for name, image in kept.items()} | {"core": core[index]}
        return music

    def core(self, pixels: torch.Tensor) -> torch.Tensor:
        """The area that outpainting keeps of images [..., H, W], as bool."""
        return masking.core_mask(pixels, self.mask["core_fraction"], self.mask["pixel_threshold"])

    def enlarged_core(self, pixels: torch.Tensor) -> torch.Tensor:
        """The area that inpainting repaints."""
        return masking.core_mask(pixels, self.mask["inpaint_fraction"], self.mask["inpaint_threshold"])

    def _repaint(
        self, images: torch.Tensor, core: torch.Tensor, inside: bool, step: str, items: list[NoiseAndText]
    ) -> torch.Tensor:
        """Repaint the core (`inside`) or everything else; the mask is reduced as core, then inverted if need be."""
        model = self.generator.get(self.context.device)
        reduced = masking.latent_mask(core, model.factor, self.mask["latent_reduce"])
        return sampling.masked_repaint(
            model,
            images.cpu(),
            (core if inside else ~core)[:, None].float(),
            [item.text for item in items],
            [stable_seed(item.seed, step) for item in items],
            self.sampling,
            latent_masks=(reduced if inside else ~reduced)[:, None].float(),
        )
