"""Music from the prompt alone: what a text-to-music generator gives that has not heard the noise."""

import time
from typing import Any

from blendbench.errors import BlendbenchError
from blendbench.methods._images import OVERLAP, ImageMethod, Painted, Window
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
        grey = self.from_nothing(model, window, window.texts, "text_to_image", around=self.around(window))
        return Painted(grey, {"paint_s": time.perf_counter() - start})

    def finished(self, music: Music) -> Music:
        """At `lufs`; music of a white image is silent."""
        if bool(music.waveform.any()):
            music.waveform, _ = audio.normalize_loudness(music.waveform, self.context.sample_rate, self.lufs)
        return music

    def around(self, window: Window) -> sampling.Around | None:
        """What is put around the denoiser; nothing here."""
        return None
