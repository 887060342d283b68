"""Any method's music with slow spectral gains that make it mask the noise best at its loudness; see `shaping`."""

import time
from typing import Any

from blendbench.methods import Context, Method, Wrapper
from blendbench.sound import audio
from blendbench.tasks import Music
from blendbench.tasks.blend import shaping
from blendbench.tasks.blend.given import NoiseAndText


class Shaped(Wrapper):
    """A wrapper of a method.

    Parameters
    ----------
    label : str
        Row name.
    of : Method
        Whose music is shaped; where an arm of the run makes the same music, it is made once.
    price, seconds, following, max_db, iterations
        See `shaping.Shaping`; `price` trades the music's own colour for masking.

    Raises
    ------
    BlendbenchError
        When a setting is out of range.
    """

    def __init__(
        self,
        label: str,
        of: Method,
        price: float = 2.0,
        seconds: float | None = 0.4,
        following: float = 10.0,
        max_db: float = 18.0,
        iterations: int = 60,
    ) -> None:
        super().__init__(label, of)
        self.settings = shaping.Shaping(price, seconds, following, max_db, iterations)

    def signature(self) -> dict[str, Any]:
        """The method's, and the settings."""
        return super().signature() | vars(self.settings)

    def prepare(self, context: Context) -> None:
        """Make the method ready."""
        self.made = context.kept(self.of)

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """The method's music, shaped, at the loudness that it had; silence stays as it is."""
        out = []
        for item, music in zip(items, self.made.generate(items), strict=True):
            start = time.perf_counter()
            waveform = music.waveform
            if bool(waveform.any()):
                # Gains are sought where the music is as loud as the noise.
                loudness = audio.integrated_loudness(item.noise, audio.SAMPLE_RATE)
                leveled, gain_db = audio.normalize_loudness(waveform, audio.SAMPLE_RATE, loudness, "music")
                shaped, shape = shaping.shape(item.noise, leveled, self.settings)
                music.waveform = shaped * audio.from_db(-gain_db)
                music.facts |= {
                    "nmr_flat": round(shape.flat, 3),
                    "nmr_shaped": round(shape.shaped, 3),
                    "departure": round(shape.departure, 4),
                }
            music.facts["shape_s"] = round(time.perf_counter() - start, 3)
            if "cost_s" in music.facts:
                music.facts["cost_s"] = round(music.facts["cost_s"] + music.facts["shape_s"], 3)
            out.append(music)
        return out
