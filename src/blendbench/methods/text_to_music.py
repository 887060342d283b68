"""Music from the prompt alone: what a text-to-music generator gives that has not heard the noise."""

import time
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._images import ImageMethod, to_grey, to_music
from blendbench.models import sampling
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.sound.lattice import RIFFUSION
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText

_PEAK = 60.0
"""Mel amplitude of a black pixel; the music is levelled afterwards."""


class TextToMusic(ImageMethod):
    """The baseline that shows what hearing the noise is good for.

    Parameters
    ----------
    label : str
        Row name.
    sampling : dict
        Fields of `sampling.Sampling`.
    lufs : float
        Loudness of the music, since an image alone has none.
    griffin_lim_iterations : int
        Iterations of the phase reconstruction.

    Raises
    ------
    BlendbenchError
        If the loudness is out of range.
    """

    adaptive = False
    takes: tuple[str, ...] = ("text",)

    def __init__(
        self, label: str, sampling: dict[str, Any], lufs: float = -18.0, griffin_lim_iterations: int = 24
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations)
        if not -70 < lufs <= 0:
            raise BlendbenchError(f"arm {label!r}: lufs is {lufs}; give a loudness above -70 and at most 0")
        self.lufs = lufs

    def signature(self) -> dict[str, Any]:
        """Sampling, phase reconstruction and level."""
        return super().signature() | {"lufs": self.lufs}

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """Music at `lufs`; an item whose image is white is silent."""
        start = time.perf_counter()
        images = sampling.text_to_image(
            self.generator.get(self.context.device),
            [item.text for item in items],
            [stable_seed(item.seed, "text_to_image") for item in items],
            self.sampling,
            RIFFUSION.n_mels,
            RIFFUSION.frames,
            around=self.around(items),
        )
        painted = time.perf_counter() - start
        grey = to_grey(images, self.generator.quantize)
        music, vocoded = to_music(grey, torch.full((len(items),), _PEAK), items, self.context, self.iterations)
        for index, made in enumerate(music):
            if bool(made.waveform.any()):
                made.waveform, _ = audio.normalize_loudness(made.waveform, self.context.sample_rate, self.lufs)
            made.facts = {"paint_s": round(painted / len(items), 3), "vocode_s": round(vocoded / len(items), 3)}
            made.images = {"music": grey[index]}
        return music

    def around(self, items: list[NoiseAndText]) -> sampling.Around | None:
        """What is put around the denoiser; nothing here."""
        return None
