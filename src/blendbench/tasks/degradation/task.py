"""The degradation task: real music made worse in known ways, to see how a judge answers.

An item is a clip of the half of the music set that is not the reference. A method may take the clip, a noise, and a
clip of one other genre, and makes of them the clip degraded so much. A judge that is fit to judge says worse of a clip
degraded more. Nothing is brought to a common level: what is not degraded sounds as its file. All is mono at 44.1 kHz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from blendbench.datasets import MusicClip, NoiseClip
from blendbench.datasets.choosing import split_music
from blendbench.datasets.reading import content_of, content_of_music, read_clip, read_music
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError, ClipError
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio
from blendbench.tasks import BaseTask, Column, Given


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The task's item: a clip of music, with the noise and the clip of another genre that were drawn for it."""

    dataset: str
    clip: MusicClip
    noise: NoiseClip
    other: MusicClip | None

    @property
    def id(self) -> str:
        """Data set of the noise, and clip, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}"

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        return {"clip": self.clip.id, "song": self.clip.source, "genre": self.clip.genre, "noise": self.noise.id}


@dataclass(frozen=True)
class Degradable(Given):
    """A clip, and what it may be made worse with.

    Attributes
    ----------
    item : Excerpt
    recording : Tensor [samples]
    noise : Tensor [samples]
    other : Tensor [samples]
        A clip of another genre.
    """

    item: Excerpt
    recording: torch.Tensor
    noise: torch.Tensor = field(repr=False)
    other: torch.Tensor = field(repr=False)


class Degradation(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Music, and noises to mix in.
    store : Path or None
        Not used: clips are read from their files.
    degradation : dict
        The key `degradation`: seconds of a clip, and the genre of other clips.
    """

    name = "degradation"
    gives = ("recording", "noise", "other")
    columns = {
        "clip": Column("id", "Clip"),
        "song": Column("id", "Song"),
        "genre": Column("class", "Genre"),
        "noise": Column("id", "Noise"),
    }
    group = "song"
    shared = {"recording": "As it was"}
    units = ("song", "songs")
    items_called = "clips"
    whole_called = "result"

    def __init__(self, sources: Sources, store: Path | None, degradation: Mapping[str, Any]) -> None:
        super().__init__(sources)
        self._content, self._noise_content = (lru_cache(maxsize=100_000)(one) for one in (content_of_music, content_of))
        self.seconds, self.other_genre = float(degradation["seconds"]), str(degradation["other_genre"])

    @cached_property
    def _halves(self) -> tuple[list[MusicClip], list[MusicClip]]:
        return split_music(self.sources.music.clips, self.sources.seed)

    def files(self, items: Sequence[Excerpt]) -> set[Path]:
        """Music and noises."""
        return {clip.path for half in self._halves for clip in half} | {item.noise.path for item in items}

    def items(self, limit: int | None) -> list[Excerpt]:
        """The clips in an order drawn by the seed, once a set of noises.

        Raises
        ------
        BlendbenchError
            If data cannot be read, or there is no clip.
        """
        found: list[Excerpt] = []
        clips = shuffled(self._halves[1], self.sources.seed, lambda clip: clip.id)
        others = [clip for clip in self._halves[1] if clip.genre == self.other_genre]
        if not clips:
            raise BlendbenchError("music: holds no clip to degrade; choose a music set")
        for name in self.sources.names:
            noises = self.sources.dataset(name).clips
            if not noises:
                raise BlendbenchError(f"dataset.{name}: holds no noise to mix in; check the data set")
            for clip in clips[:limit]:
                draw = stable_seed(self.sources.seed, name, clip.id)
                other = others[draw % len(others)] if others else None
                found.append(Excerpt(name, clip, noises[draw % len(noises)], other))
        return found

    def signature(self) -> dict[str, Any]:
        """How long clips are, and of which genre other ones; which they are, each item's `inputs` say."""
        return {"seconds": self.seconds, "other_genre": self.other_genre}

    def inputs(self, item: Excerpt) -> str:
        """Hash of the files that are read."""
        other = "" if item.other is None else self._content(item.other)[:8]
        return "-".join((self._content(item.clip)[:16], self._noise_content(item.noise, self.seconds)[:8], other))

    def _read(self, item: Excerpt) -> Degradable:
        if item.other is None:
            raise ClipError(
                f"{item.clip.id}: the music has no clip of degradation.other_genre={self.other_genre}; name one it has"
            )
        recording, other = (read_music(clip, self.sample_rate, self.seconds) for clip in (item.clip, item.other))
        noise = audio.extend_circular(read_clip(item.noise, self.seconds), len(recording))
        seed = stable_seed(self.sources.seed, item.id)
        return Degradable(item, seed, len(recording), recording, noise, other)

    def given(self, row: Mapping[str, Any]) -> Degradable:
        """A finished row's clip; raises BlendbenchError where its files are gone or sound otherwise."""
        for item in self._known.get((row["dataset"], row["clip"]), []):
            if self.inputs(item) == row.get("inputs"):
                return self._read(item)
        raise ClipError(f"{row['clip']}: is not what the run heard; put it back, or run the same command again")

    @cached_property
    def _known(self) -> dict[tuple[str, str], list[Excerpt]]:
        """Items by data set and clip."""
        known: dict[tuple[str, str], list[Excerpt]] = {}
        for item in self.items(None):
            known.setdefault((item.dataset, item.clip.id), []).append(item)
        return known

    def parts(self, given: Degradable, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The clip as it was."""
        return {"recording": given.recording}

    def reference(self) -> list[MusicClip]:
        """The other half of the music set."""
        return self._halves[0]

    def reference_seconds(self) -> float:
        """As long as a clip."""
        return self.seconds
