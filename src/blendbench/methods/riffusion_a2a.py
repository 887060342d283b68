"""Riffusion's audio-to-audio: the noise's mel image is noised in part and denoised towards the prompt (SDEdit)."""

import time

from blendbench.methods._images import ImageMethod, noise_images, to_grey, to_model, to_music
from blendbench.models import sampling
from blendbench.seeds import stable_seed
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText


class RiffusionA2A(ImageMethod):
    """Baseline of BNMusic's tables; parameters as `ImageMethod`.

    Riffusion's page uses strength 0.55, guidance 7.0, 25 steps and DPM-Solver++.
    """

    adaptive = False

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """Music at the level of the generated image."""
        context = self.context
        model = self.generator.get(context.device)
        pixels, peaks = noise_images(items, self.generator.quantize)
        start = time.perf_counter()
        images = sampling.image_to_image(
            model,
            to_model(pixels),
            [item.text for item in items],
            [stable_seed(item.seed, "image_to_image") for item in items],
            self.sampling,
        )
        painted = time.perf_counter() - start
        grey = to_grey(images, self.generator.quantize)
        music, vocoded = to_music(grey, peaks, items, context, self.iterations)
        for index, made in enumerate(music):
            made.facts = {"paint_s": round(painted / len(items), 3), "vocode_s": round(vocoded / len(items), 3)}
            made.images = {"noise": pixels[index], "music": grey[index]}
        return music
