"""Anchors of the long-form task: real music as it is, taken apart, or put where something was to be painted."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blendbench.datasets import MusicClip, recordings
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.methods._msanii import needed
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, files
from blendbench.store.signature import file_hash
from blendbench.tasks import Music
from blendbench.tasks.long_form.given import Start

KINDS = ("recording", "other", "shuffled", "loop", "other_in_gap", "repeated_in_gap", "silence_in_gap")


class Rearranged:
    """The anchors.

    Parameters
    ----------
    label : str
        Row name.
    kind : str
        The recording itself; another one of the data set, or of a folder; its pieces of `seconds` shuffled; its first
        `seconds` in a loop; in the gap another recording, what was before it again, or silence.
    seconds : float
        Of a piece.
    folder : str or None
        Where "other" is taken from, in place of the data set.

    Raises
    ------
    BlendbenchError
        If the kind is unknown, or a length is not above 0.
    """

    def __init__(self, label: str, kind: str = "recording", seconds: float = 5.0, folder: str | None = None) -> None:
        if kind not in KINDS:
            raise BlendbenchError(f"arm {label!r}: kind is {kind!r}; use one of {', '.join(KINDS)}")
        if not seconds > 0:
            raise BlendbenchError(f"arm {label!r}: seconds is {seconds}; give a number above 0")
        self.label, self.kind, self.seconds, self.folder = label, kind, seconds, folder
        self.in_gap = kind.endswith("_in_gap")
        self.takes: tuple[str, ...] = ("context",) if self.in_gap else ("recording",)
        self.uses: tuple[str, ...] = ("others",) if kind.startswith("other") and folder is None else ()

    def signature(self) -> dict[str, Any]:
        """Which anchor; of a folder its files' hashes."""
        own: dict[str, Any] = {"kind": self.kind, "seconds": self.seconds}
        return own | ({} if self.folder is None else {"files": [file_hash(clip.path) for clip in self._clips]})

    @cached_property
    def _clips(self) -> list[MusicClip]:
        return recordings.folder(self.folder)

    def prepare(self, context: Context) -> None:
        """Borrow the other recordings."""
        self.sample_rate, self.channels = context.sample_rate, context.channels
        self._others = context.borrow("others") if self.uses else None

    def generate(self, given: list[Start]) -> list[Music]:
        """The anchor of each item; raises ClipError where an item lacks what it needs."""
        return [Music(self._made(one)) for one in given]

    def _made(self, one: Start) -> Tensor:
        seed = stable_seed(one.seed, self.kind)
        if self.kind == "other":
            return self._cut(self._other(one, seed), one.samples)
        if self.in_gap:
            return self._filled(one)
        wave = needed(one, "recording", self.label)
        if self.kind == "recording":
            return wave
        size = round(self.seconds * self.sample_rate)
        if self.kind == "loop":
            return self._cut(wave[..., :size], one.samples)
        parts = list(wave.split(size, -1))
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([parts[place] for place in torch.randperm(len(parts), generator=generator)], -1)

    def _other(self, one: Start, seed: int) -> Tensor:
        if self._others is not None:
            other: Tensor = self._others.other(one.item)
            return other
        clip = shuffled(self._clips, seed, lambda clip: clip.id)[0]
        seconds = one.samples / self.sample_rate
        return files.read(clip.path, self.sample_rate, max_seconds=seconds, channels=self.channels)

    def _filled(self, one: Start) -> Tensor:
        context = needed(one, "context", self.label).clone()
        assert one.gap is not None
        gap = slice(one.gap.start, one.gap.stop)
        if self.kind == "other_in_gap":
            assert self._others is not None
            other = self._others.other(one.item)
            if other.shape[-1] < one.gap.stop:
                raise ClipError(f"{one.item.id}: the other recording ends before the gap does; take longer ones")
            context[..., gap] = other[..., gap]
        elif self.kind == "repeated_in_gap":
            context[..., gap] = self._cut(
                context[..., max(0, one.gap.start - one.gap.length) : one.gap.start], one.gap.length
            )
        return context

    @staticmethod
    def _cut(wave: Tensor, samples: int) -> Tensor:
        return audio.extend_circular(wave, samples).clone()
