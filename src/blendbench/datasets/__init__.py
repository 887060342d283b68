"""Data sets: noise clips, music clips and prompts, each read from its official layout, and their deterministic pairing.

A data set is a function that returns a list of clips, named by `_target_` in `conf/dataset` or `conf/music`; it reads
tables only, so a clip's audio is opened when its pair's turn comes and a bad file costs one row, not the run.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NoiseClip:
    """A noise recording: `id` is unique in its data set, `source` names the recording it was cut from."""

    id: str
    path: Path
    label: str
    source: str
    fold: int | None = None


@dataclass(frozen=True)
class MusicClip:
    """A music recording: `source` names the track; halves of a music set never share one."""

    id: str
    path: Path
    genre: str
    caption: str
    source: str


@dataclass(frozen=True)
class Prompt:
    """A text prompt and its genre."""

    id: str
    genre: str
    text: str


@dataclass(frozen=True)
class Pair:
    """The unit of work: a noise clip and a prompt; `pair_id` is stable across runs, machines and limits."""

    dataset: str
    clip: NoiseClip
    prompt: Prompt

    @property
    def pair_id(self) -> str:
        """Data set, clip and prompt, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}--{self.prompt.id}"
