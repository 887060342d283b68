"""Riffusion's audio-to-audio: the noise's mel image is noised in part and denoised towards the prompt (SDEdit)."""

import time

from blendbench.methods._images import ImageMethod, Painted, Window, to_grey, to_model
from blendbench.models import sampling


class RiffusionA2A(ImageMethod):
    """Baseline of BNMusic's tables; parameters as `ImageMethod`.

    Riffusion's page uses strength 0.55, guidance 7.0, 25 steps and DPM-Solver++.
    """

    adaptive = False

    def paint(self, window: Window) -> Painted:
        """The noise's image, noised in part and denoised; what is held stays."""
        model, start = self.generator.get(self.context.device), time.perf_counter()
        seeds = window.seeds("image_to_image")
        if window.held is None:
            images = sampling.image_to_image(model, to_model(window.pixels), window.texts, seeds, self.sampling)
        else:
            masks = (~window.known())[None, None].float()
            images = to_model(window.with_held(window.pixels))
            images = sampling.masked_repaint(model, images, masks, window.texts, seeds, self.sampling)
        return Painted(to_grey(images, self.generator.quantize), {"paint_s": time.perf_counter() - start})
