"""Music from the prompt alone: what a text-to-music generator gives that has not heard the noise."""

import time
from dataclasses import replace
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window, to_grey, to_model
from blendbench.models import sampling
from blendbench.sound import audio
from blendbench.tasks import Music


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
    griffin_lim_iterations, overlap : int
        As for `ImageMethod`.

    Raises
    ------
    BlendbenchError
        If the loudness is out of range.
    """

    adaptive = False
    peak = 60.0
    takes: tuple[str, ...] = ("text",)

    def __init__(
        self,
        label: str,
        sampling: dict[str, Any],
        lufs: float = -18.0,
        griffin_lim_iterations: int = 24,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__(label, sampling, griffin_lim_iterations, overlap)
        if not -70 < lufs <= 0:
            raise BlendbenchError(f"arm {label!r}: lufs is {lufs}; give a loudness above -70 and at most 0")
        self.lufs = lufs

    def signature(self) -> dict[str, Any]:
        """Sampling, phase reconstruction and level."""
        return super().signature() | {"lufs": self.lufs}

    def paint(self, window: Window) -> Painted:
        """An image of the prompt; what is held stays."""
        model, start = self.generator.get(self.context.device), time.perf_counter()
        seeds, around = window.seeds("text_to_image"), self.around(window)
        height, width = window.pixels.shape[-2:]
        if window.held is None:
            images = sampling.text_to_image(model, window.texts, seeds, self.sampling, height, width, around=around)
        else:
            masks = (~window.known())[None, None].float()
            blank = to_model(window.with_held(torch.full_like(window.pixels, 255.0)))
            settings = replace(self.sampling, strength=1.0)
            images = sampling.masked_repaint(model, blank, masks, window.texts, seeds, settings, around=around)
        return Painted(to_grey(images, self.generator.quantize), {"paint_s": time.perf_counter() - start})

    def finished(self, music: Music) -> Music:
        """At `lufs`; music of a white image is silent."""
        if bool(music.waveform.any()):
            music.waveform, _ = audio.normalize_loudness(music.waveform, self.context.sample_rate, self.lufs)
        return music

    def around(self, window: Window) -> sampling.Around | None:
        """What is put around the denoiser; nothing here."""
        return None
