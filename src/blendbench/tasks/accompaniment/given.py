"""What the accompaniment task hands to a method: a background at its level in the mix, and a text."""

from dataclasses import dataclass, field

import torch

from blendbench.datasets import StemClip
from blendbench.tasks import Given


@dataclass(frozen=True, slots=True)
class Request:
    """The task's item: a stretch of music and what is to be added to it."""

    dataset: str
    clip: StemClip

    @property
    def id(self) -> str:
        """Data set and clip, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}"

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        clip = self.clip
        return {"clip": clip.id, "track": clip.source, "genre": clip.genre, "part": clip.instrument,
                "prompt": clip.prompt}  # fmt: skip


@dataclass(frozen=True)
class BackgroundAndText(Given):
    """A background, and what is to be added.

    Attributes
    ----------
    item : Request
    background : Tensor [samples]
        At 44.1 kHz and its level in the mix.
    text : str
        The prompt.
    target : Tensor [samples] or None
        The mix as it was played; None where nobody has.
    """

    item: Request
    background: torch.Tensor
    text: str
    target: torch.Tensor | None = field(default=None, repr=False)
