"""Fréchet distance between sets of embeddings (FAD where the embeddings are of audio).

Embeddings are [N, D]. A set is summarised by the mean and the unbiased covariance of a Gaussian, gathered in batches
and merged across shards, in float64 on the CPU. The distance is d^2 = |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), not
its root, in squared units of the embedding. Its last term is taken as a nuclear norm: with S1 = F1 F1' and S2 = F2 F2',
Tr (S1 S2)^(1/2) is the sum of the singular values of F1' F2. That is exact for any rank, so sets smaller than D need no
epsilon on the diagonal, and a set has distance 0 to itself.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.metrics.gaussians import (
    PART,
    GaussianStatistics,
    check_dimensions,
    distance_of,
    distances_of,
    enough,
    factor_of,
    kept_eigenvalues,
    statistics_of,
    validate,
)

_NUMBERS = 1 << 22
"""Numbers of the matrices of several resamples that are looked at together."""


def frechet_distance(a: Tensor | GaussianStatistics, b: Tensor | GaussianStatistics) -> float:
    """Fréchet distance between two sets.

    Parameters
    ----------
    a, b : Tensor [N, D] or GaussianStatistics
        N may differ and may be under D.

    Returns
    -------
    float
        d^2, in squared units of the embedding, not negative.

    Raises
    ------
    BlendbenchError
        A set has under 2 embeddings or is not finite, or D differs.

    Source: see `SOURCE`.
    """
    a, b = statistics_of(a), statistics_of(b)
    covariance_a, covariance_b = a.covariance, b.covariance
    check_dimensions(len(a.mean), len(b.mean))
    cross = torch.linalg.svdvals(factor_of(covariance_a).T @ factor_of(covariance_b)).sum()
    difference = a.mean - b.mean
    return distance_of(difference @ difference, covariance_a.trace() + covariance_b.trace(), cross)


def frechet_of_indices(
    embeddings: Tensor | Sequence[Tensor], reference: Tensor | GaussianStatistics
) -> Callable[[Tensor], float]:
    """Make the statistic that `bootstrap_interval` resamples: from indices into the embeddings to their distance.

    What does not change between resamples (the reference's factor F2) is computed once. A resample then costs its
    covariance and the eigenvalues of a matrix as large as D or as its number of distinct embeddings, whichever is less,
    and little memory. The reference is held fixed.

    Where a clip has several embeddings (VGGish, EnCodec), clips are what indices name, and their moments are kept:
    8 D^2 bytes a clip.

    Parameters
    ----------
    embeddings : Tensor [N, D], or N of Tensor [frames, D]
    reference : Tensor [M, D] or GaussianStatistics

    Returns
    -------
    callable
        From indices, Tensor [m >= 2] of int64, repetitions allowed, to d^2: `frechet_distance` of
        `embeddings[indices]` and the reference.

    Raises
    ------
    BlendbenchError
        As `frechet_distance`; the callable, when given under 2 indices.
    """
    if not isinstance(embeddings, Tensor):
        return _OfClips(embeddings, statistics_of(reference))
    validate(embeddings)
    reference = statistics_of(reference)
    check_dimensions(embeddings.shape[1], len(reference.mean))
    kind = _OfFew if len(embeddings) <= PART else _OfMany
    return kind(embeddings.detach().cpu(), reference)


class _OfMany:
    """The distance of some of many embeddings to a reference.

    Part by part, since a million embeddings in double precision would fill the memory several times.
    """

    def __init__(self, embeddings: Tensor, reference: GaussianStatistics) -> None:
        self.values, self.origin, self.factor = embeddings, reference.mean, factor_of(reference.covariance)
        self.reference_trace = reference.covariance.trace()

    def _centred(self, distinct: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for some, theirs in zip(distinct.split(PART), weights.split(PART), strict=True):
            yield self.values[some].double() - self.origin, theirs

    def __call__(self, indices: Tensor) -> float:
        n = enough(len(indices))
        distinct, counts = indices.unique(return_counts=True)
        weights = counts.double()
        difference = torch.stack([theirs @ part for part, theirs in self._centred(distinct, weights)]).sum(0) / n
        scaled = (
            (part - difference) * (theirs / (n - 1)).sqrt()[:, None]
            for part, theirs in self._centred(distinct, weights)
        )
        if len(distinct) <= min(len(difference), PART):
            rows = next(scaled)
            trace, projected = rows.square().sum(), rows @ self.factor
            gram = projected @ projected.T
        else:
            scatter = torch.zeros(len(difference), len(difference), dtype=torch.float64)
            for rows in scaled:
                scatter += rows.T @ rows
            trace, gram = scatter.trace(), self.factor.T @ scatter @ self.factor
        return distance_of(
            difference @ difference,
            trace + self.reference_trace,
            kept_eigenvalues(torch.linalg.eigvalsh(gram)).sqrt().sum(),
        )


class _OfFew(_OfMany):
    """The same, for embeddings that fit into memory once more, as projected onto the reference's factor."""

    def __init__(self, embeddings: Tensor, reference: GaussianStatistics) -> None:
        super().__init__(embeddings, reference)
        # About their own mean, or what is taken off again would be large beside what stays.
        own = embeddings.double().mean(0)
        self.centred, self.offset = embeddings.double() - own, own - self.origin
        self.projected = self.centred @ self.factor
        self.squares = self.centred.square().sum(1)
        # Whichever is smaller: a matrix as large as the number of embeddings, or as the factor's rank.
        self.products = self.projected @ self.projected.T if len(embeddings) <= self.factor.shape[1] else None

    def of_counts(self, counts: np.ndarray) -> np.ndarray:
        """Distances [R] where row r of `counts` [R, N] says how often each embedding is taken."""
        weights = torch.from_numpy(counts)
        side = min(len(self.projected), self.factor.shape[1])
        return np.concatenate([self._some(part).numpy() for part in weights.split(max(1, _NUMBERS // side**2))])

    def _some(self, weights: Tensor) -> Tensor:
        n = weights.sum(1)
        enough(int(n.min()))
        moved = weights @ self.centred / n[:, None]
        squared = (self.offset + moved).square().sum(1)
        trace = (weights @ self.squares - n * moved.square().sum(1)) / (n - 1)
        if self.products is not None:
            shift = weights @ self.products / n[:, None]
            middle = (shift * weights).sum(1) / n
            gram = self.products - shift[:, :, None] - shift[:, None, :] + middle[:, None, None]
            scale = (weights / (n - 1)[:, None]).sqrt()
            gram = gram * scale[:, :, None] * scale[:, None, :]
        else:
            scaled = weights[:, :, None] * self.projected
            gram = self.projected.T @ scaled / (n - 1)[:, None, None]
            shift = moved @ self.factor
            gram -= (n / (n - 1))[:, None, None] * shift[:, :, None] * shift[:, None, :]
        return distances_of(squared, trace + self.reference_trace, torch.linalg.eigvalsh(gram))


class _OfClips:
    """The distance of some of several clips, each with several embeddings, to a reference."""

    def __init__(self, clips: Sequence[Tensor], reference: GaussianStatistics) -> None:
        factor = factor_of(reference.covariance)
        self.reference_trace, self.factor = reference.covariance.trace(), factor
        counts, sums, moments, traces = [], [], [], []
        for frames in clips:
            validate(frames)
            check_dimensions(frames.shape[1], len(reference.mean))
            centred = frames.detach().double().cpu() - reference.mean
            projected = centred @ factor
            counts.append(len(frames))
            sums.append(centred.sum(0))
            moments.append((projected.T @ projected).flatten())
            traces.append(centred.square().sum())
        if not counts:
            raise BlendbenchError("Fréchet distance has no embeddings: check that any clip succeeded")
        self.count, self.total = torch.tensor(counts, dtype=torch.float64), torch.stack(sums)
        self.moment, self.trace = torch.stack(moments), torch.stack(traces)

    def __call__(self, indices: Tensor) -> float:
        weights = torch.bincount(indices, minlength=len(self.count)).double()
        return float(self._some(weights[None])[0])

    def of_counts(self, counts: np.ndarray) -> np.ndarray:
        """Distances [R] where row r of `counts` [R, N] says how often each clip is taken."""
        weights = torch.from_numpy(counts)
        parts = weights.split(max(1, _NUMBERS // self.moment.shape[1]))
        return np.concatenate([self._some(part).numpy() for part in parts])

    def _some(self, weights: Tensor) -> Tensor:
        n = weights @ self.count
        enough(int(n.min()))
        difference = weights @ self.total / n[:, None]
        shift, squared = difference @ self.factor, difference.square().sum(1)
        spread = (weights @ self.trace - n * squared) / (n - 1)
        rank = self.factor.shape[1]
        gram = (weights @ self.moment).view(-1, rank, rank) - n[:, None, None] * shift[:, :, None] * shift[:, None, :]
        eigenvalues = torch.linalg.eigvalsh(gram / (n - 1)[:, None, None])
        return distances_of(squared, spread + self.reference_trace, eigenvalues)


def frechet_over_n(
    embeddings: Tensor | Sequence[Tensor],
    reference: Tensor | GaussianStatistics,
    sizes: Sequence[int],
    seed: int = 0,
    resamples: int = 10,
    replacement: bool = False,
) -> list[float]:
    """Mean distance of random subsets of each size to the reference: how much a figure owes to N alone.

    Parameters
    ----------
    embeddings : Tensor [N, D], or N of Tensor [frames, D]
    reference : Tensor [M, D] or GaussianStatistics
    sizes : sequence of int
        Sizes of the subsets, 2..N (any from 2 with replacement).
    seed : int
        Seed of the draws; a size's draws do not depend on which other sizes are asked for.
    resamples : int
        Subsets a size.
    replacement : bool
        Draw with replacement, as fadtk does. Such subsets vary around the *sample*, not around what it was drawn from,
        so they do not show (and an extrapolation does not remove) the bias of the sample itself.

    Returns
    -------
    list of float
        Mean d^2 of each size.

    Raises
    ------
    BlendbenchError
        As `frechet_distance`; a size is out of range or `resamples` under 1.
    """
    statistic = frechet_of_indices(embeddings, reference)
    if resamples < 1:
        raise BlendbenchError(f"resamples is {resamples}: give at least 1")
    means = []
    for size in sizes:
        if size < 2 or (size > len(embeddings) and not replacement):
            raise BlendbenchError(f"subset size {size} is out of range: choose 2 to {len(embeddings)} embeddings")
        random = np.random.default_rng([seed, size])
        draws = (random.choice(len(embeddings), size, replace=replacement) for _ in range(resamples))
        means.append(math.fsum(statistic(torch.from_numpy(draw)) for draw in draws) / resamples)
    return means


@dataclass(frozen=True)
class FrechetInfinity:
    """Fréchet distance extrapolated to unlimited samples.

    Attributes
    ----------
    value : float
        d^2 at 1/N = 0; as an extrapolation it can be negative.
    slope : float
        d^2 per unit of 1/N.
    r2 : float
        Share of variance the line explains, at most 1; nan where the distances do not vary.
    sizes : tuple of int
        The N of the fitted points.
    distances : tuple of float
        Their mean d^2.
    """

    value: float
    slope: float
    r2: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    embeddings: Tensor | Sequence[Tensor],
    reference: Tensor | GaussianStatistics,
    min_size: int = 500,
    steps: int = 25,
    seed: int = 0,
    resamples: int = 10,
    replacement: bool = False,
) -> FrechetInfinity:
    """Distance without the bias of a finite N: a line through d^2 over 1/N, read off at 1/N = 0.

    The bias falls as 1/N once N is well above D; below that a line fits badly, which `r2` shows. The reference's own
    bias is not removed. `replacement=True` with one resample is fadtk's procedure; see `frechet_over_n` for why it is
    not the default.

    Parameters
    ----------
    embeddings : Tensor [N, D], or N of Tensor [frames, D]
    reference : Tensor [M, D] or GaussianStatistics
    min_size : int
        Smallest subset; must be under N.
    steps : int
        Number of sizes, evenly spaced from `min_size` to N.
    seed, resamples, replacement
        As for `frechet_over_n`.

    Returns
    -------
    FrechetInfinity

    Raises
    ------
    BlendbenchError
        As `frechet_over_n`; under two different sizes remain to fit.

    Source: Chong and Forsyth (2020), Effectively unbiased FID; Gui et al. (2024), fadtk.
    """
    if isinstance(embeddings, Tensor):
        validate(embeddings)
    n = len(embeddings)
    if not 2 <= min_size < n or steps < 2:
        raise BlendbenchError(
            f"Fréchet distance at infinity fits sizes {min_size} to {n} in {steps} steps: "
            "set min_size from 2 to below the number of embeddings, and at least 2 steps"
        )
    sizes = sorted({int(size) for size in np.linspace(min_size, n, steps)})
    distances = np.asarray(frechet_over_n(embeddings, reference, sizes, seed, resamples, replacement))
    inverse = 1 / np.asarray(sizes, dtype=float)
    slope, value = np.polyfit(inverse, distances, 1)
    residual = float(np.square(distances - (slope * inverse + value)).sum())
    spread = float(np.square(distances - distances.mean()).sum())
    r2 = 1 - residual / spread if spread > 0 else math.nan
    return FrechetInfinity(float(value), float(slope), r2, tuple(sizes), tuple(distances.tolist()))
