"""What the methods over mel images share: a noise as an image, and an image as music of the noise's length."""

import time
from typing import Any

import torch

from blendbench.methods import Context
from blendbench.models.sampling import Sampling
from blendbench.sound import audio, inversion
from blendbench.sound.lattice import extend_to_frames
from blendbench.sound.mel import decode_image, encode_image, riffusion_mel
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText


class ImageMethod:
    """A method that paints with the run's generator: its label, sampling settings and context.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`.
    griffin_lim_iterations : int
        Iterations of the phase reconstruction.
    """

    takes: tuple[str, ...] = ("noise", "text")
    uses: tuple[str, ...] = ("generator",)

    def __init__(self, label: str, sampling: dict[str, Any], griffin_lim_iterations: int = 24) -> None:
        self.label, self.sampling, self.iterations = label, Sampling(**sampling), griffin_lim_iterations

    def signature(self) -> dict[str, Any]:
        """Sampling and phase reconstruction."""
        return {"sampling": vars(self.sampling), "griffin_lim_iterations": self.iterations}

    def prepare(self, context: Context) -> None:
        """Load the generator; comes before `generate`."""
        self.context = context
        self.generator = context.borrow("generator")
        self.generator.get(context.device)


def noise_images(items: list[NoiseAndText], quantize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [B, 512, 512] (0..255, loud = dark) and peaks [B] of the items' noises, extended circularly.

    With `quantize` they are Riffusion's own bytes of the noise as a 16-bit file.
    """
    if not quantize:
        return encode_image(torch.stack([item.mel() for item in items]))
    waves = torch.stack([extend_to_frames(item.noise) for item in items])
    pixels, peaks = encode_image(riffusion_mel(waves), quantize=True)
    return pixels, peaks / 32767


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """Images [B, 3, H, W] in -1..1 from grey pixels [B, H, W] in 0..255."""
    # In the order of diffusers' image processor, so that bytes become the same floats.
    return (2 * (pixels / 255) - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


def to_grey(images: torch.Tensor, quantize: bool) -> torch.Tensor:
    """Grey pixels [B, H, W] in 0..255 from images [B, 3, H, W] in -1..1.

    With `quantize` as diffusers makes an 8-bit image (rounded) and Riffusion reads it (the first channel).
    """
    if quantize:
        return ((images[:, 0].float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round()
    return ((images.float().mean(1).cpu() + 1) * 127.5).clamp(0, 255)


def to_music(
    pixels: torch.Tensor, peaks: torch.Tensor, items: list[NoiseAndText], context: Context, iterations: int
) -> tuple[list[Music], float]:
    """Music of each item's length from its grey image and the noise's peak, and the seconds that took.

    The level is the image's own: white is silence, black the noise's loudest mel amplitude.
    """
    start = time.perf_counter()
    mels = decode_image(pixels, peaks)
    waves = inversion.to_audio(mels.to(context.device), seeds=[item.seed for item in items], iterations=iterations)
    music = []
    for item, wave in zip(items, waves.cpu(), strict=True):
        music.append(Music(audio.extend_circular(wave, item.samples).clone()))
    return music, time.perf_counter() - start
