"""Anchors of Table I: what the measures say of mixes that are known to be good or bad; none is a method of use."""

import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.tasks import Music
from blendbench.tasks.accompaniment.given import BackgroundAndText
from blendbench.tasks.accompaniment.task import round_trip

KINDS = ("new_phase", "unseparated", "silence", "white_noise", "other_music")


class AsPlayed:
    """The anchors.

    Parameters
    ----------
    label : str
        Row name.
    kind : {"new_phase", "unseparated", "silence", "white_noise", "other_music"}
        The target from its mel image, with another phase than the reference's; the same without separation; nothing;
        noise as loud as the target; the target of another clip of the data.

    Raises
    ------
    BlendbenchError
        If the kind is unknown.
    """

    takes: tuple[str, ...] = ("target",)

    def __init__(self, label: str, kind: str = "new_phase") -> None:
        if kind not in KINDS:
            raise BlendbenchError(f"arm {label!r}: kind is {kind!r}; use one of {', '.join(KINDS)}")
        self.label, self.kind = label, kind
        self.uses: tuple[str, ...] = ("others",) if kind == "other_music" else ()

    def signature(self) -> dict[str, str]:
        """Which anchor."""
        return {"kind": self.kind}

    def prepare(self, context: Context) -> None:
        """Borrow the other clips."""
        self._others = context.borrow("others") if self.uses else None

    def generate(self, given: list[BackgroundAndText]) -> list[Music]:
        """The anchor of each item; raises ClipError where an item has no target."""
        return [self._made(item) for item in given]

    def _made(self, item: BackgroundAndText) -> Music:
        target = item.target
        if target is None:
            raise ClipError(f"{item.item.id}: nobody has played a part, so there is no target; leave {self.label} out")
        seed = stable_seed(item.seed, "as_played")
        if self.kind in ("new_phase", "unseparated"):
            return Music(round_trip(target, seed), {"unseparated": True} if self.kind == "unseparated" else {})
        if self.kind == "silence":
            return Music(torch.zeros_like(target))
        if self.kind == "other_music":
            assert self._others is not None
            return Music(audio.extend_circular(self._others.other(item.item), len(target)).clone())
        noise = torch.randn(len(target), generator=torch.Generator().manual_seed(seed))
        return Music(noise * (target.square().mean() / noise.square().mean()).sqrt())
