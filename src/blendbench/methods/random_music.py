"""Random real music: a clip drawn by the pair's seed from the half of the music set that is not the reference."""

from typing import Any

from blendbench.clips import read_music
from blendbench.errors import BlendbenchError
from blendbench.methods import Context, Item, Music


class RandomMusic:
    """Baseline of BNMusic's tables: unrelated real music, at the level of its file.

    Parameters
    ----------
    label : str
        Row name.
    """

    adaptive = False
    uses_music = True

    def __init__(self, label: str) -> None:
        self.label = label
        self._context: Context | None = None

    def signature(self) -> dict[str, Any]:
        """No settings of its own; the music set and seed enter with the run's."""
        return {}

    def prepare(self, context: Context) -> None:
        """Keep the music list; raises BlendbenchError if it is empty."""
        if not context.music:
            raise BlendbenchError("music: no clips to draw random music from; choose a music set")
        self._context = context

    def generate(self, items: list[Item]) -> list[Music]:
        """One clip a pair, drawn by the pair's seed, looped or cut to the noise's length."""
        assert self._context is not None
        made = []
        for item in items:
            clip = self._context.music[item.seed % len(self._context.music)]
            seconds = len(item.noise) / self._context.sample_rate
            waveform = read_music(clip, self._context.sample_rate, seconds)
            made.append(Music(waveform, {"music_clip": clip.id, "music_source": clip.source}))
        return made
