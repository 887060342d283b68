"""Text to music, steered while it is sampled by how well the music being painted masks the noise."""

from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._images import OVERLAP, Window
from blendbench.methods.text_to_music import TextToMusic
from blendbench.models import sampling
from blendbench.models.batches import in_parts
from blendbench.models.denoisers import Denoiser, estimate_moved
from blendbench.models.latent_diffusion import decode_with_gradient
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import decode_image
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.mel_masking import MelMasking


class MaskingGuided(TextToMusic):
    """At each step the estimated clean latents are moved against the gradient of the noise-to-mask ratio.

    The ratio is that of the image which the decoder makes of them (`mel_masking`), at equal loudness; the gradient is
    taken through the decoder alone and brought to a root mean square of 1, then weighed by the latents' own standard
    deviation. Guidance is strongest at the beginning, where only the rough shape is decided, and ends when the share
    of noise in the latents falls below `until`; what comes after is the generator's own.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`.
    weight : float
        Length of a move, in standard deviations of the latents, at pure noise.
    until : float
        Share of noise (sigma_t, 0..1) at which the weight has fallen to 0.
    inner_steps : int
        Moves a step, each with a gradient of its own and its share of the weight.
    lufs, griffin_lim_iterations, overlap
        As for `TextToMusic`.

    Raises
    ------
    BlendbenchError
        When a setting is out of range.
    """

    takes = ("noise", "text")

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        weight: float = 0.1,
        until: float = 0.7,
        inner_steps: int = 1,
        lufs: float = -18.0,
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__(label, sampling, lufs, griffin_lim_iterations, overlap)
        if not 0 <= weight < float("inf"):
            raise BlendbenchError(f"arm {label!r}: weight is {weight}; give a number from 0 up")
        if not 0 <= until < 1:
            raise BlendbenchError(f"arm {label!r}: until is {until}; give a share of noise from 0 to below 1")
        if type(inner_steps) is not int or inner_steps < 1:
            raise BlendbenchError(f"arm {label!r}: inner_steps is {inner_steps}; give a whole number from 1 up")
        self.weight, self.until, self.inner_steps = float(weight), float(until), inner_steps

    def signature(self) -> dict[str, Any]:
        """As text to music, and the guidance."""
        own = {"weight": self.weight, "until": self.until, "inner_steps": self.inner_steps, "version": 2}
        return super().signature() | own

    def noise_images(self, items: list[NoiseAndText]) -> tuple[torch.Tensor, torch.Tensor]:
        """The noises' pixels, with the peak of text to music: the music is levelled anyway."""
        return super().noise_images(items)[0], torch.full((len(items),), self.peak)

    def around(self, window: Window) -> sampling.Around | None:
        """The guidance."""
        if self.weight == 0:
            return None
        model = self.generator.get(self.context.device)
        # A graph holds the decoder's activations, so each part has its own.
        parts = in_parts(model.device, len(window.pixels))
        noises = decode_image(window.pixels, 1.0).to(self.context.device)
        maskings = [MelMasking(noises[part]) for part in parts]

        def gradient(clean: torch.Tensor) -> torch.Tensor:
            found = []
            for part, masking in zip(parts, maskings, strict=True):
                with torch.enable_grad():
                    latents = clean[part].detach().requires_grad_(True)
                    pixels = decode_with_gradient(model, latents).mean(1)  # -1 is black, loud
                    amplitudes = ((1 - pixels) / 2).clamp(1e-4, 1).flip(-2) ** (1 / RIFFUSION.power)
                    found.append(torch.autograd.grad(masking.ratio_db(amplitudes).sum(), latents)[0])
            return torch.cat(found)

        def move(clean: torch.Tensor, sigma: float) -> torch.Tensor:
            weight = self.weight * max(0.0, (sigma - self.until) / (1 - self.until)) / self.inner_steps
            if weight == 0:
                return clean
            deviation = clean.std(dim=(1, 2, 3), keepdim=True)
            for _ in range(self.inner_steps):
                direction = gradient(clean)
                size = direction.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
                clean = clean - weight * deviation * direction / size
            return clean

        def put(denoiser: Denoiser, scheduler: Any) -> Denoiser:
            return estimate_moved(denoiser, move, scheduler.alphas_cumprod, scheduler.config.prediction_type)

        return put
