"""The long-gap task (SimDPS): fill some two seconds that are missing in a recording.

An item is a window of a recording, of which `[gap.start, gap.stop)` is missing. A method may take the window with
silence in the gap, where the gap lies, and a corpus: what else there is of the same track, or of other recordings. It
makes the whole window; a presentation says what of it is heard. All is mono at 44.1 kHz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from blendbench import config
from blendbench.datasets import MusicClip
from blendbench.datasets.reading import content_of_music
from blendbench.datasets.sources import Sources
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, files
from blendbench.tasks import BaseTask, Column, Given, Heard, Music, Study
from blendbench.tasks.long_gap.gap import FADE, Gap, paste


@dataclass(frozen=True, slots=True)
class Window:
    """The task's item: a window of a recording, which begins where the clip does."""

    dataset: str
    clip: MusicClip

    @property
    def id(self) -> str:
        """Data set and clip, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}"

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        return {"excerpt": self.clip.id, "recording": self.clip.source, "genre": self.clip.genre}


@dataclass(frozen=True)
class Incomplete(Given):
    """A window with a gap.

    Attributes
    ----------
    item : Window
    recording : Tensor [samples]
        Silent in the gap.
    gap : Gap
    corpus : sequence of Tensor [samples of the part]
        Other sound to take from; the gap's own is not in it.
    original : Tensor [samples]
        The window as it was; no method can take it.
    """

    item: Window
    recording: torch.Tensor
    gap: Gap
    corpus: Sequence[torch.Tensor]
    original: torch.Tensor = field(repr=False)


STUDY: dict[str, Any] = {
    "title": "Filled gaps in recordings",
    "range": [0, 100],
    "scales": {
        "plausibility": {
            "label": "Plausibility",
            "text": "How plausible it is that nothing was ever missing in the recording.",
            "low": "bad",
            "high": "excellent",
            "better": "high",
        }
    },
    "hidden_reference": "original",
    "anchor": {"part": "original", "lowpass_hz": 3500},
    "open_reference": "degraded",
    "playback": {"match": "samples"},
    "unit": "rating",
    "samples": 6,
    "repeats": 6,
    "exclusions": {"retest_difference": 25},
}
"""What a listening study sets otherwise: that of SimDPS, section 5, with the anchor of ITU-R BS.1534.

Six excerpts, each twice. The paper left one listener out as unreliable and does not say by which rule; here it is a
mean difference of more than a quarter of the scale between the two times.
"""


class LongGap(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Data sets of recordings.
    store : Path or None
        Not used: windows are read from their files.
    gap : dict
        The key `gap`: window, start and stop in samples at 44.1 kHz, and what the corpus is made of.
    """

    name = "long_gap"
    gives = ("recording", "gap", "corpus")
    columns = {
        "excerpt": Column("id", "Excerpt"),
        "recording": Column("id", "Recording"),
        "genre": Column("class", "Genre"),
    }
    group = "recording"
    shared = {"original": "Original", "degraded": "With the gap"}
    units = ("recording", "recordings")
    items_called = "excerpts"
    whole_called = "result"

    def __init__(self, sources: Sources, store: Path | None, gap: Mapping[str, Any]) -> None:
        super().__init__(sources)
        self.gap, self.settings = Gap(gap["start"], gap["stop"]), dict(gap)
        self.samples, self.corpus = int(gap["window"]), str(gap["corpus"])
        self._recording, self._content = lru_cache(maxsize=16)(_read), lru_cache(maxsize=100_000)(content_of_music)

    def files(self, items: Sequence[Window]) -> set[Path]:
        """Recordings."""
        return {item.clip.path for item in items}

    def items(self, limit: int | None) -> list[Window]:
        """A window a clip, in an order drawn by the seed; raises BlendbenchError where data cannot be read."""
        found: list[Window] = []
        for name in self.sources.names:
            clips = self.sources.dataset(name).clips
            if not clips:
                raise BlendbenchError(f"dataset.{name}: holds no recording; check the data set")
            drawn = shuffled(clips, self.sources.seed, lambda clip: clip.id)
            found += [Window(name, clip) for clip in drawn[:limit]]
        return found

    def signature(self) -> dict[str, Any]:
        """Where the gap lies, and what the corpus is."""
        return {"gap": self.settings}

    def presentation(self, name: str, entry: Mapping[str, Any]) -> "Pasted":
        """What `presentations` says without a `_target_` is pasted."""
        made: Pasted = config.build({"_target_": "blendbench.tasks.long_gap.task.Pasted", **entry}, name, [])
        return made

    def inputs(self, item: Window) -> str:
        """Hash of the recording, and where the window begins."""
        return f"{self._content(item.clip)[:16]}-{round(item.clip.start * self.sample_rate)}"

    def _read(self, item: Window) -> Incomplete:
        track, start = self._recording(item.clip), round(item.clip.start * self.sample_rate)
        original = track[start : start + self.samples]
        if len(original) < self.samples:
            raise ClipError(
                f"{item.clip.id}: {len(original)} samples from {item.clip.start:.3f} s on, of the {self.samples} of "
                "gap.window; take a longer recording, or an earlier start"
            )
        recording = original * self.gap.mask(self.samples)
        seed = stable_seed(self.sources.seed, item.id)
        corpus = [*self._track(track, start), *self._others(item)]
        return Incomplete(item, seed, self.samples, recording, self.gap, corpus, original)

    def _track(self, track: torch.Tensor, start: int) -> list[torch.Tensor]:
        """The track before and after the gap, two parts."""
        if self.corpus not in ("track", "both"):
            return []
        return [track[: start + self.gap.start], track[start + self.gap.stop :]]

    def _others(self, item: Window) -> list[torch.Tensor]:
        """The other recordings of the data set, in the order of their names."""
        if self.corpus not in ("others", "both"):
            return []
        clips = {clip.source: clip for clip in self.sources.dataset(item.dataset).clips}
        return [self._recording(clips[source]) for source in sorted(clips) if source != item.clip.source]

    def given(self, row: Mapping[str, Any]) -> Incomplete:
        """A finished row's window; raises BlendbenchError where its recording is gone or sounds otherwise."""
        found: Incomplete = self.again(row, "excerpt", lambda clip: Window(row["dataset"], clip))
        return found

    def parts(self, given: Incomplete, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The window as it was, and with the gap."""
        return {"original": given.original, "degraded": given.recording}

    def reference_seconds(self) -> float:
        """As long as a window."""
        return self.samples / self.sample_rate

    def study(self) -> Study:
        """How plausible each result is, among the hidden original and an anchor (SimDPS, section 5)."""
        return Study(STUDY, presentation="pasted")


def _read(clip: MusicClip) -> torch.Tensor:
    check_links(clip.path, clip.root)
    return files.read(clip.path, audio.SAMPLE_RATE)


@dataclass(frozen=True)
class Pasted:
    """The method's window in the gap alone, cross-faded into the recording outside of it.

    Parameters
    ----------
    label : str
    fade : int
        Weights of the cross-fade a side, in samples; 441 (10 ms) in the published excerpts.
    """

    label: str = "Pasted"
    fade: int = FADE

    def signature(self, method: Any) -> dict[str, Any]:
        """The cross-fade."""
        return {"kind": "pasted", "fade": self.fade}

    def present(self, given: Incomplete, music: Music, method: Any) -> Heard:
        """The recording with the fill pasted in; raises ClipError where it does not fit."""
        return Heard(paste(given.recording, music.waveform, given.gap, self.fade))

    def told(self, row: Mapping[str, Any]) -> str:
        """Nothing."""
        return ""
