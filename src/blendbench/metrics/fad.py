"""FAD: the Fréchet distance between the embeddings of a set of sounds and those of the reference."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator, Scores
from blendbench.facts import Facts
from blendbench.metrics import SetMetric, Value, frechet, gaussians

SOURCE = "Kilgour et al. (2019), Fréchet Audio Distance; Heusel et al. (2017) for the formula"


class FAD(SetMetric):
    """Fréchet audio distance, with its growth over N where that is asked for.

    Parameters
    ----------
    evaluator : Evaluator
        Makes embeddings, one or several a sound.
    over_n : sequence of int
        Sizes of random subsets whose FAD is told, too (`fad@N`).
    infinity : bool
        Whether it is extrapolated to unlimited N (`fad_inf`).
    """

    facts = {
        "fad": Facts("FAD", "squared embedding distance", False, SOURCE),
        "fad_inf": Facts("FAD∞", "squared embedding distance", False, "Chong and Forsyth (2020), unbiased FID"),
    }

    def __init__(self, evaluator: Evaluator, over_n: Sequence[int] = (), infinity: bool = False) -> None:
        self.evaluator, self.sizes, self.infinity = evaluator, list(over_n), infinity

    def signature(self) -> dict[str, Any]:
        """The evaluator's; the run's statistics stand beside it."""
        assert self.evaluator is not None
        return {"evaluator": self.evaluator.signature()}

    def of(self, scores: Scores) -> torch.Tensor:
        """Embeddings [frames, D]."""
        assert self.evaluator is not None
        if scores.embeddings is None:
            raise BlendbenchError(f"evaluator.{self.name}: {self.evaluator.name} makes no embeddings; take another")
        return scores.embeddings

    def reference(self, clips: Iterator[torch.Tensor]) -> gaussians.GaussianStatistics:
        """Mean and covariance."""
        statistics = gaussians.GaussianStatistics()
        for embeddings in clips:
            statistics.update(embeddings)
        return statistics

    def gather(self, own: Sequence[torch.Tensor]) -> torch.Tensor | Sequence[torch.Tensor]:
        """Embeddings [N, D] if a sound has but one, else N of [frames, D]."""
        together = own[0].new_empty(len(own), own[0].shape[-1])
        for index, frames in enumerate(own):
            if len(frames) > 1:
                return own
            together[index] = frames[0]
        return together

    def statistic(self, own: Any, reference: gaussians.GaussianStatistics) -> Callable[[torch.Tensor], float]:
        """The distance of the sounds at some indices."""
        return frechet.frechet_of_indices(own, reference)

    def further(self, own: Any, reference: gaussians.GaussianStatistics, seed: int) -> list[Value]:
        """FAD of subsets, and extrapolated."""
        n = len(own)
        sizes = [size for size in self.sizes if 2 <= size <= n]
        means = frechet.frechet_over_n(own, reference, sizes, seed)
        out = [
            Value(f"fad@{size}", mean, size, f"mean FAD of 10 random subsets of {size}")
            for size, mean in zip(sizes, means, strict=True)
        ]
        if not self.infinity:
            return out
        smallest = max(2, min(500, n // 5))
        if n - smallest < 2:
            return [*out, Value("fad_inf", float("nan"), n, "too few mixes to extrapolate")]
        line = frechet.frechet_infinity(own, reference, smallest, seed=seed)
        recipe = f"FAD extrapolated to unlimited N by a line over 1/N, N {smallest} to {n}, r2 {line.r2:.3f}"
        return [*out, Value("fad_inf", line.value, n, recipe)]
