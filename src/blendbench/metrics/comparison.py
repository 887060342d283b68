"""Comparing arms: paired tests between them, Holm's correction, and how far two orderings agree.

Samples are paired: item i of one arm and item i of the other belong to the same noise and prompt. Where several pairs
share a noise clip they hang together, so tests flip or resample whole groups.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.metrics import bootstrap


class Difference(NamedTuple):
    """Difference of two arms (first minus second), its interval, and the two-sided p of its being nothing."""

    value: float
    low: float
    high: float
    p: float


def paired_means(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    resamples: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Difference of two arms' means over the same pairs, tested by flipping signs group by group.

    Parameters
    ----------
    first, second : sequence of N numbers
        A value a pair, in the same order.
    groups : sequence of N labels
        Pairs with one label flip together.
    resamples : int
        Sign patterns drawn; all of them are taken where there are no more.
    confidence : float
        Of the interval, by a bootstrap over groups.
    seed : int

    Returns
    -------
    Difference
        p is nan with fewer than two groups.

    Raises
    ------
    BlendbenchError
        If the lengths differ, there is nothing, or a value is not finite.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if not (a.shape == b.shape == (len(groups),)) or not len(a):
        raise BlendbenchError(f"paired test: {a.shape} and {b.shape} values with {len(groups)} groups; pair them")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BlendbenchError("paired test: a value is not finite; leave that pair out")
    difference = a - b
    labels = {label: place for place, label in enumerate(dict.fromkeys(groups))}
    place = np.array([labels[label] for label in groups])
    sums = np.bincount(place, weights=difference) / len(a)
    low, high = bootstrap.bootstrap_interval(bootstrap.Mean(difference), len(a), groups, 1000, confidence, seed)
    if len(sums) < 2:
        return Difference(float(difference.mean()), low, high, math.nan)
    if not sums.any():
        return Difference(0.0, low, high, 1.0)
    found = stats.permutation_test(
        (sums,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return Difference(float(difference.mean()), low, high, float(found.pvalue))


def paired_statistics(
    first: Callable[[Tensor], float],
    second: Callable[[Tensor], float],
    n: int,
    groups: Sequence[Hashable],
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Difference of two arms' statistics over the same N pairs, such as a distance of sets, by one bootstrap of both.

    Both see the same resamples. The p-value is the share of resampled differences that lie as far from their mean as
    the difference lies from 0.

    Parameters
    ----------
    first, second : callable
        From indices [m] into the pairs to a number, as for `bootstrap.bootstrap_interval`.
    n : int
    groups : sequence of N labels
    resamples, confidence, seed
        As there.
    """
    import torch

    everything = torch.arange(n)
    value = first(everything) - second(everything)
    both = [bootstrap.resample(statistic, n, groups, resamples, seed) for statistic in (first, second)]
    if both[0] is None or both[1] is None:
        return Difference(value, math.nan, math.nan, math.nan)
    drawn = both[0] - both[1]
    low, high = bootstrap.interval(drawn, value, confidence, "centred")
    return Difference(value, low, high, shift_test(drawn, value))


def shift_test(drawn: np.ndarray, value: float) -> float:
    """Two-sided p of a resampled statistic being 0 in truth: how often it strays from its mean by |value| or more."""
    return float((1 + np.count_nonzero(np.abs(drawn - drawn.mean()) >= abs(value))) / (1 + len(drawn)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for there being several, so that all hold at once; nan stays nan and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[place] = highest
    return corrected


class Agreement(NamedTuple):
    """How far two orderings of the same things agree."""

    tau: float
    """Kendall's tau-b: 1 the same ordering, -1 the reverse; nan with fewer than two things."""
    p: float
    n: int
    flips: list[tuple[str, str]]
    """Pairs that stand the other way round; the first of each is the better one of the second ordering."""


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float], higher_is_better: bool = False) -> Agreement:
    """Agreement of two orderings over the names that both have.

    Parameters
    ----------
    ours, theirs : mapping of str to number
        Values by name; those that are nan are left out.
    higher_is_better : bool
        Which direction is the better one, for the order within `flips`.
    """
    names = [name for name in theirs if name in ours and not math.isnan(ours[name]) and not math.isnan(theirs[name])]
    if len(names) < 2:
        return Agreement(math.nan, math.nan, len(names), [])
    found = stats.kendalltau([ours[name] for name in names], [theirs[name] for name in names])
    sign = -1 if higher_is_better else 1
    flips = [
        (a, b) for a in names for b in names if sign * theirs[a] < sign * theirs[b] and sign * ours[a] > sign * ours[b]
    ]
    return Agreement(float(found.statistic), float(found.pvalue), len(names), flips)
