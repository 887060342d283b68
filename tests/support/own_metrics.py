"""Metrics of a user's own module that go wrong in one way each, for the tests of what a run makes of them."""

from typing import Any

import torch

from blendbench.errors import ClipError
from blendbench.evaluators import Scores
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, SetMetric, Sound

FAILS: dict[str, Any] = {}
"""What `Failing` raises or gives at an item of the noise-only arm: an exception, or a number."""


class Failing(ItemMetric):
    """Every sound's seconds, but for what `FAILS` says."""

    facts = {"failing": Facts("Failing", "s")}

    def measure(self, sound: Sound) -> dict[str, float]:
        """A number of seconds."""
        what = FAILS.get("what")
        if sound.row["arm"] == "noise_only" and sound.row["pair_id"] == FAILS.get("pair_id"):
            if isinstance(what, Exception):
                raise what
            if what is not None:
                return {"failing": what}
        return {"failing": sound.waveform().shape[-1] / 44_100}


class Quick(Failing):
    """The same, but nothing is kept."""

    keep = False


class Undeclared(ItemMetric):
    """Gives what its facts do not name."""

    facts = {"declared": Facts("Declared")}

    def measure(self, sound: Sound) -> dict[str, float]:
        """A value of another name."""
        return {"other": 1.0}


class Nowhere(SetMetric):
    """A distance that cannot be computed."""

    facts = {"nowhere": Facts("Nowhere")}

    def __init__(self, evaluator: Any, value: str | None = None) -> None:
        self.evaluator, self.value = evaluator, value

    def of(self, scores: Scores) -> torch.Tensor:
        """The mean embedding."""
        assert scores.embeddings is not None
        return scores.embeddings.mean(0)

    def reference(self, clips: Any) -> None:
        """Nothing."""

    def statistic(self, own: Any, reference: Any) -> Any:
        """Divides by nothing, or gives the value that was asked for."""
        return lambda indices: 1 / 0 if self.value is None else float(self.value)


__all__ = ["FAILS", "ClipError", "Failing", "Nowhere", "Quick", "Undeclared"]
