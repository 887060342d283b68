"""The image_text task (MeLFusion, TANGO++): a picture and a caption become music.

An item is a row of a table of pictures. A method may take the picture, the caption and, as anchors do, the music that
belongs to them. Sets are held against the items' own music, or against the group `music` where it is named. All is mono
at 44.1 kHz; music of a data set is brought to one loudness, as methods bring theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from blendbench import pictures
from blendbench.datasets import MusicClip, PictureClip
from blendbench.datasets.reading import content_of_files
from blendbench.datasets.sources import Sources
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, files
from blendbench.tasks import BaseTask, Column, Lent, OtherClips, Study
from blendbench.tasks.image_text.given import ImageAndText, Scene

STUDY: dict[str, Any] = {
    "title": "Music for pictures",
    "range": [1, 10],
    "scales": {
        "ovl": {
            "label": "OVL",
            "text": "How good this sounds as music.",
            "low": "lowest",
            "high": "highest",
            "better": "high",
        },
        "rel": {
            "label": "REL",
            "text": "How well it goes with the picture and the text.",
            "low": "lowest",
            "high": "highest",
            "better": "high",
        },
    },
}
"""What a listening study sets otherwise: the paper's two scores (appendix G)."""


class ImageText(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Data sets of pictures.
    store : Path or None
        Not used: pictures and music are read from their files.
    image : dict
        The key `image`: side in pixels, how a picture becomes square, what is done where there is none.
    scene : dict
        The key `scene`: seconds of music, its loudness.
    """

    name = "image_text"
    gives = ("image", "text", "target")
    columns = {
        "clip": Column("id", "Clip"),
        "source": Column("id", "Music"),
        "genre": Column("class", "Genre"),
        "category": Column("class", "Kind of picture"),
        "prompt": Column("text", "Caption"),
        "tempo": Column("text", "Tempo"),
        "mode": Column("class", "Mode"),
        "drums": Column("class", "Drums"),
    }
    group = "source"
    shared = {"target": "As it was played"}
    units = ("recording", "recordings")
    items_called = "pictures"
    whole_called = "music"

    def __init__(
        self, sources: Sources, store: Path | None, image: Mapping[str, Any], scene: Mapping[str, Any]
    ) -> None:
        super().__init__(sources)
        self.size, self.how, self.missing = int(image["size"]), image["fit"], str(image["missing"])
        self.seconds, self.lufs = float(scene["seconds"]), float(scene["lufs"])
        self.samples = round(self.seconds * self.sample_rate)
        self._content = lru_cache(maxsize=100_000)(content_of_files)
        # Metrics and page ask again.
        self._reading = lru_cache(maxsize=64)(self._read_item)

    def files(self, items: Sequence[Scene]) -> set[Path]:
        """Pictures and music."""
        return {path for item in items for path in item.clip.paths}

    def items(self, limit: int | None) -> list[Scene]:
        """A picture a row, in an order drawn by the seed; raises BlendbenchError where data cannot be read."""
        found: list[Scene] = []
        for name in self.sources.names:
            clips = self.sources.dataset(name).clips
            if not clips:
                raise BlendbenchError(f"dataset.{name}: holds no picture; check the data set")
            if not isinstance(clips[0], PictureClip):
                raise BlendbenchError(f"dataset.{name}: holds no pictures; choose a data set of image_text")
            drawn = shuffled(clips, self.sources.seed, lambda clip: clip.id)
            found += [Scene(name, clip) for clip in drawn[:limit]]
        return found

    def signature(self) -> dict[str, Any]:
        """How pictures become square, what is done without one, and length."""
        own = {"size": self.size, "fit": self.how, "missing": self.missing}
        return {"image": own, "scene": {"seconds": self.seconds, "lufs": self.lufs}}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """`others`: pictures and music of the data set's other items."""
        return {"others": lambda: Others(self)}

    def inputs(self, item: Scene) -> str:
        """Hash of the picture, the music and the caption."""
        return f"{self._content(item.clip)[:16]}-{f'{stable_seed(item.clip.caption):x}'[:8]}"

    def _read(self, item: Scene) -> ImageAndText:
        return self._reading(item)

    def _read_item(self, item: Scene) -> ImageAndText:
        clip = item.clip
        if not clip.caption.strip():
            raise ClipError(f"{clip.id}: has no caption; write one, or take the row out")
        seed = stable_seed(self.sources.seed, item.id)
        return ImageAndText(item, seed, self.samples, self.picture(clip), clip.caption, self.music(clip))

    def picture(self, clip: PictureClip) -> torch.Tensor | None:
        """A clip's picture [3, size, size]; raises ClipError where there is none, unless text alone is allowed."""
        if clip.image is None:
            if self.missing == "fail":
                raise ClipError(f"{clip.id}: has no picture; name one, or set image.missing=text_only")
            return None
        check_links(clip.image, clip.root)
        return pictures.fit(pictures.read(clip.image).pixels, self.size, self.how)

    def music(self, clip: PictureClip) -> torch.Tensor | None:
        """The music that belongs to a clip, [samples] at `scene.lufs`; None where there is none."""
        if clip.audio is None:
            return None
        check_links(clip.audio, clip.root)
        wave = files.read(clip.audio, self.sample_rate, max_seconds=max(self.seconds, audio.MIN_SECONDS))
        leveled, _ = audio.normalize_loudness(wave, self.sample_rate, self.lufs)
        return audio.extend_circular(leveled, self.samples).clone()

    def given(self, row: Mapping[str, Any]) -> ImageAndText:
        """A finished row's item, read again; raises ClipError where its files are gone or others."""
        found: ImageAndText = self.again(row, "clip", lambda clip: Scene(row["dataset"], clip))
        return found

    def parts(self, given: ImageAndText, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The music that belongs to the picture, where there is some."""
        return {} if given.target is None else {"target": given.target}

    def reference(self) -> list[MusicClip]:
        """The group `music` where it is named; else each music of the data sets once."""
        if self.sources.has_music:
            return list(self.sources.music.clips)
        found: dict[str, MusicClip] = {}
        for name in self.sources.names:
            for clip in self.sources.dataset(name).clips:
                if clip.audio is not None and clip.source not in found:
                    found[clip.source] = MusicClip(
                        clip.source, clip.audio, clip.genre, clip.caption, clip.source, root=clip.root
                    )
        return list(found.values())

    def reference_seconds(self) -> float:
        """As long as an item."""
        return self.seconds

    def study(self) -> Study:
        """The paper's two scales."""
        return Study(STUDY, presentation="as_made")


class Others(OtherClips):
    """Pictures and music of other items than one's own, of other music where there is some."""

    def __init__(self, task: ImageText) -> None:
        super().__init__(task.sources)
        self._task = task

    def picture(self, item: Scene) -> torch.Tensor:
        """Another item's picture, drawn by the item; raises ClipError where there is none."""
        found = self._task.picture(self.drawn(item, "picture", "image", lambda one: one.image is not None))
        assert found is not None
        return found

    def other(self, item: Scene) -> torch.Tensor:
        """Another item's music [samples], drawn by the item; raises ClipError where there is none."""
        found = self._task.music(self.drawn(item, "other", "audio", lambda one: one.audio is not None))
        assert found is not None
        return found
