"""What the image_text task hands to a method: a picture and a caption."""

from dataclasses import dataclass, field

import torch

from blendbench.datasets import PictureClip
from blendbench.tasks import Given


@dataclass(frozen=True, slots=True)
class Scene:
    """The task's item: a picture and words."""

    dataset: str
    clip: PictureClip

    @property
    def id(self) -> str:
        """Data set and clip, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}"

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        clip = self.clip
        return {"clip": clip.id, "source": clip.source, "genre": clip.genre, "category": clip.category,
                "prompt": clip.caption, "tempo": clip.tempo, "mode": clip.mode, "drums": clip.drums}  # fmt: skip


@dataclass(frozen=True)
class ImageAndText(Given):
    """A picture and a caption.

    Attributes
    ----------
    item : Scene
    image : Tensor [3, size, size] or None
        In 0..1; None where there is none and `image.missing` is text_only.
    text : str
        The caption.
    target : Tensor [samples] or None
        The music that belongs to them; None where there is none.
    """

    item: Scene
    image: torch.Tensor | None
    text: str
    target: torch.Tensor | None = field(default=None, repr=False)
