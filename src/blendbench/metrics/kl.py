"""KL: the divergence between the classes that a sound and a reference clip are given."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator, Scores
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound, divergence

_PART = 1024


class KL(ItemMetric):
    """Divergence of each sound from one clip of the reference, drawn by the item's id.

    Parameters
    ----------
    evaluator : Evaluator
        Gives logits.
    direction : {"ref||gen", "gen||ref"}
    epsilon : float
    activation : {"softmax", "sigmoid"}
    pairing : {"genre", "source", "random"}
        Whether the clip is one of the prompt's genre, or the very music that the item is of (audioldm_eval), or any.
    """

    facts = {"kl": Facts("KL", "nat", False, "audioldm_eval, metrics/kl.py (Liu et al., AudioLDM, 2023)")}
    keep = False

    def __init__(
        self,
        evaluator: Evaluator,
        direction: divergence.Direction = "ref||gen",
        epsilon: float = 1e-6,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        pairing: Literal["genre", "source", "random"] = "genre",
    ) -> None:
        self.evaluator: Evaluator = evaluator
        self.direction, self.epsilon, self.activation, self.pairing = direction, epsilon, activation, pairing

    def measure(self, sound: Sound) -> dict[str, float]:
        """The divergence."""
        return next(self.measure_all([sound]))

    def measure_all(self, sounds: Sequence[Sound]) -> Iterator[dict[str, float]]:
        """Divergences of many, a thousand at a time."""
        divergences = {"softmax": divergence.softmax_kl, "sigmoid": divergence.sigmoid_kl}[self.activation]
        by = "" if self.pairing == "random" else self.pairing
        for start in range(0, len(sounds), _PART):
            some = [sounds[index] for index in range(start, min(start + _PART, len(sounds)))]
            theirs = self._logits([sound.partner(self.evaluator, by, "kl") for sound in some])
            own = self._logits([sound.scores(self.evaluator) for sound in some])
            yield from ({"kl": value} for value in divergences(theirs, own, self.direction, self.epsilon).tolist())

    def _logits(self, scores: Sequence[Scores]) -> torch.Tensor:
        found = [one.logits for one in scores if one.logits is not None]
        if len(found) < len(scores):
            raise BlendbenchError(f"evaluator.{self.name}: {self.evaluator.name} knows no classes; take another")
        return torch.stack(found)

    def recipe(self, name: str, measured: Measured) -> str:
        """Activation, direction, epsilon and how clips were drawn."""
        pairing: str = self.pairing
        if pairing == "genre" and not measured.reference_has("genre"):
            pairing = "random (the reference has none of the prompts' genres)"
        if pairing == "source" and not measured.reference_has("source"):
            pairing = "random (the reference does not hold the items' own music)"
        return f"{self.activation} KL({self.direction}), natural log, epsilon={self.epsilon:g}, pairing={pairing}"
