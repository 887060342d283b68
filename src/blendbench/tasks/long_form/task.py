"""The long-form task (Msanii): music of any length from nothing, or from one or two recordings, in one or two channels.

An item is the beginning of a recording, or a number where the data set is none. A method may take the recording,
another one of the data set, or the recording with a gap; sampling takes none of them, and is then as often done as
there are recordings.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from blendbench.datasets import MusicClip
from blendbench.datasets.reading import content_of_music
from blendbench.datasets.sources import Sources
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import files
from blendbench.tasks import BaseTask, Column, Lent, Study
from blendbench.tasks.long_form.given import Piece, Start
from blendbench.tasks.long_gap.gap import Gap

STUDY: dict[str, Any] = {
    "title": "Music",
    "scales": {
        "quality": {
            "label": "Quality",
            "text": "How good this sounds as a recording of music.",
            "low": "bad",
            "high": "excellent",
            "better": "high",
        },
        "coherence": {
            "label": "Coherence",
            "text": "How well it holds together from beginning to end.",
            "low": "not at all",
            "high": "perfectly",
            "better": "high",
        },
    },
}
"""What a listening study sets otherwise."""
_SHORT = 30.0
"""Longest recordings that are held in memory, in seconds."""


class LongForm(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Data sets of recordings, or `nothing`.
    store : Path or None
        Not used: recordings are read from their files.
    form : dict
        The key `form`: seconds, channels, a gap in seconds or none, how often a clip comes.
    """

    name = "long_form"
    gives = ("recording", "second", "context")
    columns = {
        "clip": Column("id", "Clip"),
        "recording": Column("id", "Recording"),
        "time": Column("id", "Time"),
    }
    group = "recording"
    shared = {"recording": "Recording", "second": "Second recording", "context": "With the gap"}
    units = ("recording", "recordings")
    items_called = "pieces"
    whole_called = "music"

    def __init__(self, sources: Sources, store: Path | None, form: Mapping[str, Any]) -> None:
        super().__init__(sources)
        self.form, self.seconds, self.channels = dict(form), float(form["seconds"]), int(form["channels"])
        self.samples = round(self.seconds * self.sample_rate)
        start, stop = form["gap_start"], form["gap_stop"]
        self.gap = None if start is None else Gap(round(start * self.sample_rate), round(stop * self.sample_rate))
        self._content = lru_cache(maxsize=100_000)(content_of_music)
        self._recording = lru_cache(maxsize=16)(self._read_clip) if self.seconds <= _SHORT else self._read_clip

    def files(self, items: Sequence[Piece]) -> set[Path]:
        """Recordings."""
        return {clip.path for item in items if (clip := item.recorded) is not None}

    def items(self, limit: int | None) -> list[Piece]:
        """Each clip as often as `form.repeats` says, in an order drawn by the seed.

        Raises
        ------
        BlendbenchError
            If data cannot be read.
        """
        times = range(1, int(self.form["repeats"]) + 1)
        found: list[Piece] = []
        for name in self.sources.names:
            clips = self.sources.dataset(name).clips
            if not clips:
                raise BlendbenchError(f"dataset.{name}: holds no recording; check the data set")
            drawn = shuffled(clips, self.sources.seed, lambda clip: clip.id)
            found += [Piece(name, clip, time) for clip in drawn[:limit] for time in times]
        return found

    def signature(self) -> dict[str, Any]:
        """Length, channels and gap."""
        own = {name: self.form[name] for name in ("seconds", "channels", "gap_start", "gap_stop")}
        return {"form": own}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """`others`: the data set's other recordings."""
        return {"others": lambda: Others(self)}

    def inputs(self, item: Piece) -> str:
        """Hash of the recording and of the second one, and where it begins."""
        clip = item.recorded
        if clip is None:
            return "nothing"
        second = self._second(item)
        other = "" if second is None else f"-{self._content(second)[:16]}"
        return f"{self._content(clip)[:16]}{other}-{round(clip.start * self.sample_rate)}"

    def _read(self, item: Piece) -> Start:
        seed = stable_seed(self.sources.seed, item.id)
        clip = item.recorded
        if clip is None:
            return Start(item, seed, self.samples)
        recording = self._recording(clip)
        samples = recording.shape[-1]
        other = self._second(item)
        second = None if other is None else self._recording(other)
        context = None
        if self.gap is not None:
            context = recording * self.gap.mask(samples)
        return Start(item, seed, samples, recording, second, context, self.gap)

    def _second(self, item: Piece) -> MusicClip | None:
        """The recording that goes with an item's: another one of the data set, of another source, drawn by it."""
        clip = item.recorded
        if clip is None:
            return None
        clips = self.sources.dataset(item.dataset).clips
        others = [one for one in clips if one.id != clip.id and one.source != clip.source]
        drawn = shuffled(others, stable_seed(self.sources.seed, clip.id, "second"), lambda one: one.id)
        return drawn[0] if drawn else None

    def _read_clip(self, clip: MusicClip) -> torch.Tensor:
        check_links(clip.path, clip.root)
        wave = files.read(
            clip.path, self.sample_rate, max_seconds=self.seconds, start=clip.start, channels=self.channels
        )
        return wave[..., : self.samples]

    def given(self, row: Mapping[str, Any]) -> Start:
        """A finished row's item, read again; raises ClipError where its recording is gone or sounds otherwise."""
        found: Start = self.again(row, "clip", lambda clip: Piece(row["dataset"], clip, int(row["time"])))
        return found

    def parts(self, given: Start, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The recordings that there are."""
        names = ("recording", "second", "context")
        return {name: part for name in names if (part := getattr(given, name)) is not None}

    def reference(self) -> list[MusicClip]:
        """The music set, where the configuration has one; the task's own recordings are left out of it."""
        if not self.sources.has_music:
            return []
        clips = [clip for name in self.sources.names for clip in self.sources.dataset(name).clips]
        own = {clip.source for clip in clips if isinstance(clip, MusicClip)}
        return [clip for clip in self.sources.music.clips if clip.source not in own]

    def reference_seconds(self) -> float:
        """As long as an item."""
        return self.seconds

    def study(self) -> Study:
        """How good it sounds, and how well it holds together."""
        return Study(STUDY)


class Others:
    """Recordings of the data set other than an item's own."""

    def __init__(self, task: LongForm) -> None:
        self._task = task

    def signature(self) -> list[str]:
        """Which recordings there are."""
        names = self._task.sources.names
        return sorted(clip.id for name in names for clip in self._task.sources.dataset(name).clips)

    def other(self, item: Piece) -> torch.Tensor:
        """A recording drawn by the item; raises ClipError where there is none."""
        second = self._task._second(item)
        if second is None:
            raise ClipError(f"{item.id}: the data set has no other recording; leave that arm out")
        return self._task._recording(second)
