"""Bootstrap intervals for any statistic of a sample.

A statistic is a function from indices into the sample (a Tensor of int64, with repetitions) to a number, so that it may
precompute what all resamples share. One that knows its value from how often each sample was drawn may have a method
`of_counts`, which takes many resamples at once and is many times as fast. Where samples hang together (several mixes
with the same noise clip), groups are resampled whole: treating them as independent would make intervals too narrow.
Same seed, same interval.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

_PART = 1 << 22
"""Counts looked at together."""


class Mean:
    """The mean of some of a sample, as a statistic.

    Parameters
    ----------
    values : array [N]
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = np.asarray(values, float)

    def __call__(self, indices: Tensor) -> float:
        """The mean of `values[indices]`."""
        return float(self.values[indices.numpy()].mean())

    def of_counts(self, counts: np.ndarray) -> np.ndarray:
        """Means [R] where row r of `counts` [R, N] says how often each value is taken."""
        return counts @ self.values / counts.sum(1)


def validate(n: int, groups: Sequence[Hashable] | None, resamples: int, confidence: float) -> None:
    """Check the arguments of `bootstrap_interval`.

    Raises
    ------
    BlendbenchError
        There is nothing to resample, `groups` has another length than n, or a number is out of range.
    """
    if n < 1:
        raise BlendbenchError("bootstrap has no samples: check that any clip succeeded")
    if groups is not None and len(groups) != n:
        raise BlendbenchError(f"bootstrap has {n} samples but {len(groups)} group labels: give one label a sample")
    if resamples < 1:
        raise BlendbenchError(f"bootstrap resamples is {resamples}: give at least 1")
    if not 0 < confidence < 1:
        raise BlendbenchError(f"bootstrap confidence is {confidence}: give a number between 0 and 1, such as 0.95")


def bootstrap_interval(
    statistic: Callable[[Tensor], float],
    n: int,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Literal["percentile", "centred"] = "percentile",
) -> tuple[float, float]:
    """Interval in which a statistic lies under resampling.

    `percentile` takes the quantiles of the resampled statistics. `centred` moves them so that their mean falls on the
    statistic of the sample itself: for a statistic that resampling alone pushes to one side, such as a Fréchet distance
    (repeated samples make covariances poorer, so every resample lies further off), the percentile interval may not even
    hold the statistic, while the centred one shows its spread at this n.

    Parameters
    ----------
    statistic : callable
        From indices, Tensor [m] of int64 in 0..n-1, to a finite number. m is n, unless groups differ in size.
    n : int
        Number of samples.
    groups : sequence of n labels, optional
        Samples with the same label are resampled together.
    resamples : int
        Number of resamples.
    confidence : float
        Share of resampled statistics inside the interval, between 0 and 1.
    seed : int
        Seed of the resampling.
    method : {"percentile", "centred"}
        Where the interval lies, see above.

    Returns
    -------
    (float, float)
        Low and high end, in the statistic's unit; (nan, nan) where there is only one sample or one group.

    Raises
    ------
    BlendbenchError
        As `validate`; `method` is unknown; the statistic is not finite.

    Source: see `SOURCE`.
    """
    validate(n, groups, resamples, confidence)
    if method not in ("percentile", "centred"):
        raise BlendbenchError(f"bootstrap method is {method!r}: choose 'percentile' or 'centred'")
    drawn = resample(statistic, n, groups, resamples, seed)
    if drawn is None:
        return math.nan, math.nan
    return interval(drawn, float(statistic(torch.arange(n))) if method == "centred" else 0.0, confidence, method)


def resample(
    statistic: Callable[[Tensor], float], n: int, groups: Sequence[Hashable] | None, resamples: int, seed: int
) -> np.ndarray | None:
    """The statistic of every resample [resamples]; None where there is only one sample or one group.

    Equal n, groups and seed draw equal resamples, so that two statistics can be compared resample by resample.
    Parameters and errors as for `bootstrap_interval`.
    """
    members = _members(n, groups)
    if len(members) == 1:
        return None
    random = np.random.default_rng(seed)
    draws = (random.integers(len(members), size=len(members)) for _ in range(resamples))
    if hasattr(statistic, "of_counts"):
        values = _at_once(statistic.of_counts, draws, members, n, resamples)
    else:
        values = np.empty(resamples)
        for i, drawn in enumerate(draws):
            values[i] = statistic(torch.from_numpy(np.concatenate([members[g] for g in drawn])))
    if not np.isfinite(values).all():
        raise BlendbenchError("bootstrap met a statistic that is not finite: check the embeddings or scores")
    return values


def _at_once(
    of_counts: Callable[[np.ndarray], np.ndarray],
    draws: Iterator[np.ndarray],
    members: Sequence[np.ndarray],
    n: int,
    resamples: int,
) -> np.ndarray:
    """A statistic's values [resamples] from how often each sample was drawn, many resamples at a time."""
    group = np.empty(n, int)
    for place, indices in enumerate(members):
        group[indices] = place
    values = []
    while some := list(itertools.islice(draws, max(1, _PART // n))):
        counts = np.stack([np.bincount(drawn, minlength=len(members)) for drawn in some])
        values.append(of_counts(counts[:, group].astype(float)))
    return np.concatenate(values)


def interval(
    drawn: np.ndarray, value: float, confidence: float, method: Literal["percentile", "centred"] = "percentile"
) -> tuple[float, float]:
    """Low and high end of resampled statistics; `centred` moves them so that their mean falls on `value`."""
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    shift = value - float(drawn.mean()) if method == "centred" else 0.0
    return low + shift, high + shift


def _members(n: int, groups: Sequence[Hashable] | None) -> list[np.ndarray]:
    """Indices of each group, groups in order of first appearance."""
    if groups is None:
        return list(np.arange(n)[:, None])
    found: dict[Hashable, list[int]] = {}
    for index, label in enumerate(groups):
        found.setdefault(label, []).append(index)
    return [np.asarray(indices) for indices in found.values()]
