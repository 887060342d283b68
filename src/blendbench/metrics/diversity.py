"""Diversity: how far apart the sounds of a set are in an evaluator's embeddings, whatever they are like."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator, Scores
from blendbench.facts import Facts
from blendbench.metrics import SetMetric


class Diversity(SetMetric):
    """Mean cosine distance of two different sounds of the set; the reference takes no part.

    Parameters
    ----------
    evaluator : Evaluator
        Makes embeddings; of several a sound, their mean counts.
    """

    facts = {"diversity": Facts("Diversity", "cosine distance", None, "mean over pairs of sounds of the set")}

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def of(self, scores: Scores) -> torch.Tensor:
        """A direction [1, D]."""
        assert self.evaluator is not None
        if scores.embeddings is None:
            raise BlendbenchError(f"evaluator.{self.name}: {self.evaluator.name} makes no embeddings; take another")
        return torch.nn.functional.normalize(scores.embeddings.double().mean(0, keepdim=True), dim=1)

    def reference(self, clips: Iterator[torch.Tensor]) -> Any:
        """Nothing is asked of it."""
        return None

    def statistic(self, own: Any, reference: Any) -> Callable[[torch.Tensor], float]:
        """The mean over pairs of places; repetitions in a resample are pairs at no distance, which centring undoes."""
        units = torch.cat(list(own))

        def value(indices: torch.Tensor) -> float:
            count = len(indices)
            alike = units[indices] @ units[indices].T
            return float((count * count - alike.sum()) / (count * (count - 1)))

        return value
