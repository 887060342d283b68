"""LPC: linear prediction from both sides of a gap by Burg's method, mixed in the middle (baseline of SimDPS)."""

import time
from typing import Any

from blendbench.methods import Context
from blendbench.tasks import Music
from blendbench.tasks.long_gap.prediction import CONTEXT, EARLY, ORDER, extrapolate_gap
from blendbench.tasks.long_gap.task import Incomplete


class LPC:
    """The method; its defaults are those with which the published excerpts agree.

    Parameters
    ----------
    label : str
        Row name.
    order : int
        Coefficients of each predictor.
    context : int
        Samples of each side to predict from.
    early : int
        Observed samples before the gap that are filled, too.
    """

    takes = ("recording", "gap")
    uses = ()

    def __init__(self, label: str, order: int = ORDER, context: int = CONTEXT, early: int = EARLY) -> None:
        self.label, self.order, self.context, self.early = label, order, context, early

    def signature(self) -> dict[str, Any]:
        """Its settings."""
        return {"order": self.order, "context": self.context, "early": self.early}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""

    def generate(self, given: list[Incomplete]) -> list[Music]:
        """The recordings with their gaps filled; raises ClipError where a side is silent or too short."""
        music = []
        for one in given:
            began = time.perf_counter()
            filled = extrapolate_gap(one.recording, one.gap, self.order, self.context, self.early)
            music.append(Music(filled, {"fill_s": round(time.perf_counter() - began, 3)}))
        return music
