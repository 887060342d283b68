"""What the long-form task hands to a method: nothing, a recording, two, or one with a gap."""

from dataclasses import dataclass, field

import torch

from blendbench.datasets import MusicClip, Nothing
from blendbench.tasks import Given
from blendbench.tasks.long_gap.gap import Gap


@dataclass(frozen=True, slots=True)
class Piece:
    """The task's item: a recording's beginning, or a place with none; both may come several times."""

    dataset: str
    clip: MusicClip | Nothing
    time: int = 1

    @property
    def id(self) -> str:
        """Data set, clip and, after the first, which time it is, joined by two hyphens."""
        again = f"--{self.time}" if self.time > 1 else ""
        return f"{self.dataset}--{self.clip.id}{again}"

    @property
    def recorded(self) -> MusicClip | None:
        """The recording, if there is one."""
        return self.clip if isinstance(self.clip, MusicClip) else None

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        source = self.clip.source if isinstance(self.clip, MusicClip) else ""
        return {"clip": self.clip.id, "recording": source or self.clip.id, "time": str(self.time)}


@dataclass(frozen=True)
class Start(Given):
    """What there is to begin with; without a data set, nothing.

    Attributes
    ----------
    item : Piece
    recording : Tensor [samples] or [channels, samples] or None
        As long as the music wanted, or shorter where its file is.
    second : Tensor like it, or None
        Another recording of the data set.
    context : Tensor like it, or None
        The recording, silent in the gap.
    gap : Gap or None
    """

    item: Piece
    recording: torch.Tensor | None = None
    second: torch.Tensor | None = None
    context: torch.Tensor | None = None
    gap: Gap | None = field(default=None, metadata={"with": "context"})

    @property
    def original(self) -> torch.Tensor | None:
        """The recording as it was, for what is measured in the gap."""
        return self.recording
