"""Random real music: a clip drawn by the pair's seed from the half of the music set that is not the reference."""

from typing import Any

from blendbench.datasets.reading import read_music
from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.tasks import Given, Music


class RandomMusic:
    """Baseline of BNMusic's tables: unrelated real music, at the level of its file.

    Parameters
    ----------
    label : str
        Row name.
    """

    adaptive = False
    takes = ()
    uses = ("music",)

    def __init__(self, label: str) -> None:
        self.label = label

    def signature(self) -> dict[str, Any]:
        """No settings of its own; the music set and seed enter with the run's."""
        return {}

    def prepare(self, context: Context) -> None:
        """Keep the music list; raises BlendbenchError if it is empty."""
        self.clips, self.context = context.borrow("music").clips, context
        if not self.clips:
            raise BlendbenchError("music: no clips to draw random music from; choose a music set")

    def generate(self, items: list[Given]) -> list[Music]:
        """One clip a pair, drawn by the pair's seed, looped or cut to the noise's length."""
        made, rate = [], self.context.sample_rate
        for item in items:
            clip = self.clips[item.seed % len(self.clips)]
            waveform = read_music(clip, rate, item.samples / rate, self.context.channels)
            made.append(Music(waveform, {"music_clip": clip.id, "music_source": clip.source}))
        return made
