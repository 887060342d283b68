"""Riffusion's audio-to-audio: the noise's mel image is noised in part and denoised towards the prompt (SDEdit)."""

import time

from blendbench import diffusion
from blendbench.datasets.pairing import stable_seed
from blendbench.methods import Item, Music
from blendbench.methods._images import ImageMethod, noise_images, to_grey, to_model, to_music


class RiffusionA2A(ImageMethod):
    """Baseline of BNMusic's tables; parameters as `ImageMethod`.

    Riffusion's page uses strength 0.55, guidance 7.0, 25 steps and DPM-Solver++.
    """

    adaptive = False

    def generate(self, items: list[Item]) -> list[Music]:
        """Music at the level of the generated image."""
        context = self.context
        model = context.generator.get(context.device)
        pixels, peaks = noise_images(items, context.generator.quantize)
        start = time.perf_counter()
        images = diffusion.image_to_image(
            model,
            to_model(pixels),
            [item.pair.prompt.text for item in items],
            [stable_seed(item.seed, "image_to_image") for item in items],
            self.sampling,
        )
        painted = time.perf_counter() - start
        grey = to_grey(images, context.generator.quantize)
        music, vocoded = to_music(grey, peaks, items, context, self.iterations)
        for index, made in enumerate(music):
            made.facts = {"paint_s": round(painted / len(items), 3), "vocode_s": round(vocoded / len(items), 3)}
            made.images = {"noise": pixels[index], "music": grey[index]}
        return music
