"""Means and covariances of embeddings, and the Fréchet distance between two of them."""

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

PART = 8192
"""Embeddings looked at together."""


def validate(embeddings: Tensor, smallest: int = 1) -> None:
    """Check one set of embeddings.

    Parameters
    ----------
    embeddings : Tensor [N, D]
    smallest : int
        Least N.

    Raises
    ------
    BlendbenchError
        The shape is another, N is under `smallest`, or a value is not finite.
    """
    if embeddings.dim() != 2 or embeddings.shape[1] < 1:
        raise BlendbenchError(f"embeddings have shape {tuple(embeddings.shape)}: give [samples, dimensions]")
    if embeddings.shape[0] < smallest:
        raise BlendbenchError(f"Fréchet distance needs at least {smallest} embeddings, got {embeddings.shape[0]}")
    if not bool(torch.isfinite(embeddings).all()):
        raise BlendbenchError("embeddings are not finite: leave out the clips that the embedding model fails on")


class GaussianStatistics:
    """Mean and covariance of a stream of embeddings, by pairwise updates that lose no precision.

    Attributes
    ----------
    n : int
        Embeddings seen.

    Source: Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, equation 2.1.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    @classmethod
    def of(cls, embeddings: Tensor) -> "GaussianStatistics":
        """Statistics of one set, Tensor [N, D]."""
        statistics = cls()
        statistics.update(embeddings)
        return statistics

    def update(self, batch: Tensor) -> None:
        """Add embeddings, Tensor [N, D]; an empty batch changes nothing.

        Raises
        ------
        BlendbenchError
            The batch is malformed, not finite, or has another D than before; the statistics stay as they were.
        """
        validate(batch, smallest=0)
        values = batch.detach().double().cpu()
        if len(values) == 0:
            return
        mean = values.mean(0)
        deviations = values - mean
        self._combine(len(values), mean, deviations.T @ deviations)

    def merge(self, other: "GaussianStatistics") -> None:
        """Add all that another instance has seen.

        Raises
        ------
        BlendbenchError
            D differs.
        """
        if other.n:
            self._combine(other.n, other._mean, other._scatter)

    @property
    def mean(self) -> Tensor:
        """Tensor [D], float64; raises BlendbenchError before the first embedding."""
        if self.n < 1:
            raise BlendbenchError("Fréchet distance has no embeddings: check that any clip succeeded")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased, Tensor [D, D], float64; raises BlendbenchError before the second embedding."""
        if self.n < 2:
            raise BlendbenchError(f"Fréchet distance needs at least 2 embeddings, got {self.n}: use more clips")
        return self._scatter / (self.n - 1)

    def _combine(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        # A covariance that overflows would stop the eigenvalues from converging, far from the cause.
        if not bool(torch.isfinite(scatter).all()):
            raise BlendbenchError("embeddings are too large for a covariance: check the embedding model")
        if self.n == 0:
            self.n, self._mean, self._scatter = n, mean.clone(), scatter.clone()
            return
        if len(mean) != len(self._mean):
            raise BlendbenchError(
                f"embeddings have {len(mean)} dimensions after {len(self._mean)}: use one embedding model throughout"
            )
        total = self.n + n
        difference = mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(difference, difference) * (self.n * n / total)
        self._mean = self._mean + difference * (n / total)
        self.n = total


def enough(n: int) -> int:
    if n < 2:
        raise BlendbenchError(f"Fréchet distance needs at least 2 embeddings, got {n}: use more clips")
    return n


def statistics_of(values: Tensor | GaussianStatistics) -> GaussianStatistics:
    return values if isinstance(values, GaussianStatistics) else GaussianStatistics.of(values)


def check_dimensions(a: int, b: int) -> None:
    if a != b:
        raise BlendbenchError(f"embeddings have {a} and {b} dimensions: compare sets of one embedding model")


def kept_eigenvalues(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues with those set to 0 that rounding alone can make, else a null space would add its rounding's root.

    Of one matrix, Tensor [D], or of several, each by itself, Tensor [R, D].
    """
    if eigenvalues.numel() == 0:
        return eigenvalues
    largest = eigenvalues.abs().amax(-1, keepdim=True)
    smallest = eigenvalues.shape[-1] * torch.finfo(eigenvalues.dtype).eps * largest
    return torch.where(eigenvalues > smallest, eigenvalues, 0)


def factor_of(covariance: Tensor) -> Tensor:
    """F [D, rank] with covariance = F F'."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    eigenvalues = kept_eigenvalues(eigenvalues)
    positive = eigenvalues > 0
    return vectors[:, positive] * eigenvalues[positive].sqrt()


def distance_of(squared_difference: Tensor, traces: Tensor, cross: Tensor) -> float:
    return float(finite_distances(squared_difference + traces - 2 * cross))


def distances_of(squared: Tensor, traces: Tensor, eigenvalues: Tensor) -> Tensor:
    """Distances [R] from squared differences of means [R], traces [R], and eigenvalues [R, D] of the products."""
    return finite_distances(squared + traces - 2 * kept_eigenvalues(eigenvalues).sqrt().sum(-1))


def finite_distances(distances: Tensor) -> Tensor:
    if not bool(torch.isfinite(distances).all()):
        raise BlendbenchError("Fréchet distance is not finite: the embeddings are too large, check the embedding model")
    # d^2 is never negative; what is below 0 is rounding.
    return distances.clamp(min=0.0)
