"""Statistics of ratings, as arrays [listeners, samples, arms] that are nan where somebody did not hear a mix.

Listeners and samples are both draws from more of their kind, so intervals resample both, and the model lets both differ
in how they take an arm. What ratings do not define raises `Undefined`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from blendbench.metrics import bootstrap, comparison
from blendbench.seeds import stable_seed

SOURCE = (
    "Owen (2007), The pigeonhole bootstrap; Patterson and Thompson (1971), Recovery of inter-block information when "
    "block sizes are unequal (REML); Barr et al. (2013), Random effects structure for confirmatory hypothesis testing; "
    "Wilcoxon (1945); Friedman (1937); Krippendorff (2011), Computing Krippendorff's alpha-reliability; Shrout and "
    "Fleiss (1979), Intraclass correlations"
)
RESAMPLES, CONFIDENCE, LEVEL = 2000, 0.95, 0.05
"""Of the bootstrap; of intervals; below which a p-value counts."""
_EXACT = 13
"""Of so many listeners all signs of differences are gone through."""
_LARGEST_RATIO = 1e6
"""Of a random effect's variance to the residual one."""
_T = TypeVar("_T")


class Undefined(Exception):
    """A statistic that these ratings do not define; the text says why."""


def tried(notes: list[str], what: str, otherwise: _T, function: Callable[..., _T], *values: Any) -> _T:
    """What a function returns; where that is undefined, another value and a note why."""
    try:
        return function(*values)
    except Undefined as reason:
        notes.append(f"{what}: not computed, as {reason}.")
        return otherwise


# Means and intervals


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Means of what is there, nan where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of the arms [resamples, arms] over listeners and samples drawn again, a rating counting as both were drawn.

    The pigeonhole bootstrap of Owen (2007). Values of one shape have the same draws by one seed. nan with one listener
    or sample.
    """
    listeners, samples, arms = values.shape
    if min(listeners, samples) < 2:
        return np.full((RESAMPLES, arms), math.nan)
    draw = np.random.default_rng(seed)
    ours, theirs = (draw.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float) for n in (listeners, samples))
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    means = np.empty((RESAMPLES, arms))
    with np.errstate(invalid="ignore"):
        for arm in range(arms):
            sums, counts = (((ours @ part[..., arm].astype(float)) * theirs).sum(1) for part in (filled, known))
            means[:, arm] = sums / counts
    return means


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """Percentile interval of resampled values, of which few may be nan."""
    if np.isnan(drawn).mean() > LEVEL:
        return math.nan, math.nan
    return bootstrap.interval(drawn[np.isfinite(drawn)], 0.0, CONFIDENCE)


def sd(values: np.ndarray) -> float:
    """Standard deviation (n - 1) of what is there."""
    there = values[np.isfinite(values)]
    return float(there.std(ddof=1)) if len(there) > 1 else math.nan


# Differences of arms


class Crossed(NamedTuple):
    """A mean with its standard error, and variances of rows, columns and the rest."""

    mean: float
    se: float
    rows: float
    columns: float
    rest: float


def crossed(values: np.ndarray) -> Crossed:
    """Fit value = mean + row + column + rest by REML, rows and columns being random; cells may be nan.

    The likelihood is profiled down to the ratios of both effects' variances to that of the rest, as in Bates et al.
    (2015), Fitting linear mixed-effects models using lme4, section 3.4; all it needs are sums over rows and columns. A
    variance may be 0.

    Raises
    ------
    Undefined
        With fewer than two rows or columns, or if nothing is left beside what rows and columns explain.
    """
    values = values[np.isfinite(values).any(1)][:, np.isfinite(values).any(0)]
    if min(values.shape, default=0) < 2:
        raise Undefined("two listeners and two samples are needed")
    known = np.isfinite(values)
    centre = float(values[known].mean())
    y = np.where(known, values - centre, 0.0)
    ones = known.astype(float)
    inner = np.block([[np.diag(ones.sum(1)), ones], [ones.T, np.diag(ones.sum(0))]])
    sums = np.stack([np.diag(inner), np.concatenate([y.sum(1), y.sum(0)])], 1)
    count, total, squares = ones.sum(), y.sum(), (y**2).sum()
    explained, _, rank, _ = np.linalg.lstsq(inner, sums[:, 1], rcond=1e-9)
    if squares - explained @ sums[:, 1] <= 1e-9 * max(squares, 1e-9) or rank >= count:
        raise Undefined("no variance is left beside listeners' and samples' own")

    def profiled(ratios: np.ndarray) -> tuple[float, float, float, float]:
        """Deviance, mean, the mean's variance over that of the rest, and the latter."""
        scale = np.repeat(np.sqrt(ratios), values.shape)
        root = linalg.cholesky(scale[:, None] * inner * scale + np.eye(len(inner)), lower=True)
        weight, cross = linalg.solve_triangular(root, scale[:, None] * sums, lower=True).T
        xx, xy, yy = count - weight @ weight, total - weight @ cross, squares - cross @ cross
        rest = (yy - xy**2 / xx) / (count - 1)
        deviance = 2 * np.log(np.diag(root)).sum() + math.log(xx) + (count - 1) * math.log(rest)
        return deviance, xy / xx, 1 / xx, rest

    # By ratios of variances: by those of standard deviations every edge is a stationary point.
    found = optimize.minimize(
        lambda ratios: profiled(ratios)[0], (0.2, 0.2), method="L-BFGS-B", bounds=[(0, _LARGEST_RATIO)] * 2,
        options={"ftol": 1e-10},
    )  # fmt: skip
    if not found.success or found.x.max() >= _LARGEST_RATIO:
        raise Undefined("the model did not converge")
    _, mean, variance, rest = profiled(found.x)
    of_rows, of_columns = found.x * rest
    return Crossed(centre + mean, math.sqrt(variance * rest), float(of_rows), float(of_columns), rest)


def by_model(difference: np.ndarray) -> tuple[float, float, int, float]:
    """Estimate, standard error, degrees of freedom and two-sided p of a difference [listeners, samples] being 0.

    Of value ~ arm, with intercepts and slopes of the arm that vary over listeners and over samples: differences are
    taken within a listener's page, where the intercepts cancel, and what varies of the slopes is the rows' and columns'
    share. Wald's t with as many degrees of freedom as the fewer of listeners and samples less one, the least there can
    be.

    Raises
    ------
    Undefined
        As `crossed`.
    """
    fitted = crossed(difference)
    known = np.isfinite(difference)
    df = int(min(known.any(1).sum(), known.any(0).sum())) - 1
    return fitted.mean, fitted.se, df, float(2 * stats.t.sf(abs(fitted.mean / fitted.se), df))


def by_ranks(means: np.ndarray, unit: str = "listener") -> float:
    """P of Wilcoxon's signed-rank test on what units, listeners' means or ratings, say of two arms [units, 2]."""
    # Rounded, so that equal differences tie though they were summed differently.
    differences = np.round(means[:, 0] - means[:, 1], 9)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        raise Undefined(f"two {unit}s are needed")
    differences = differences[differences != 0]
    if not len(differences):
        raise Undefined("no listener's means differ" if unit == "listener" else "no ratings differ")
    if not 1 < len(differences) <= _EXACT:
        return float(stats.wilcoxon(differences).pvalue)
    # What stats.wilcoxon does for so few, at a hundredth of the time.
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    found = stats.permutation_test(
        (ranks,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True, n_resamples=2**_EXACT
    )
    return float(found.pvalue)


def friedman(means: np.ndarray) -> tuple[float, float, int]:
    """Statistic, p and number of listeners, those with means [listeners, arms] of all arms."""
    whole = np.round(means[np.isfinite(means).all(1)], 9)
    if min(whole.shape[0], whole.shape[1] - 1) < 2:
        raise Undefined("it needs two listeners and three arms")
    if not np.ptp(whole, 1).any():
        raise Undefined("no listener's means differ")
    found = stats.friedmanchisquare(*whole.T)
    return float(found.statistic), float(found.pvalue), len(whole)


# Agreement of listeners


def units(values: np.ndarray) -> np.ndarray:
    """Ratings by listener and mix [listeners, samples x arms], without mixes that nobody has rated."""
    flat = values.reshape(len(values), -1)
    return flat[:, np.isfinite(flat).any(0)]


def alpha(units: np.ndarray) -> float:
    """Krippendorff's alpha of ratings [listeners, mixes], ordinal."""
    import krippendorff

    shared = units[:, np.isfinite(units).sum(0) > 1]
    if not shared.size:
        raise Undefined("no mix was rated by two listeners")
    if np.nanmin(shared) == np.nanmax(shared):
        raise Undefined("all ratings are equal")
    return float(krippendorff.alpha(reliability_data=units, level_of_measurement="ordinal"))


class Icc(NamedTuple):
    """Intraclass correlations of one listener's rating and of the mean of k, absolute agreement."""

    single: float
    mean: float
    k: float
    method: str


def icc(units: np.ndarray) -> Icc:
    """ICC(2,1) and ICC(2,k) of ratings [listeners, mixes].

    Where all have rated all by mean squares (Shrout and Fleiss, 1979, page 423), else by the variances of the model
    value ~ 1 + listener + mix, both random (REML), with k the harmonic mean of the numbers of ratings a mix.
    """
    known = np.isfinite(units)
    raters, targets = units.shape
    if not known.all():
        fitted = crossed(units)
        error, k = fitted.rows + fitted.rest, stats.hmean(known.sum(0))
        return Icc(
            fitted.columns / (fitted.columns + error), fitted.columns / (fitted.columns + error / k), float(k),
            "REML, cells missing",
        )  # fmt: skip
    if min(raters, targets) < 2:
        raise Undefined("two listeners and two mixes are needed")
    of_target, of_rater = units.mean(0), units.mean(1)
    rest = units - of_target - of_rater[:, None] + units.mean()
    between = raters * of_target.var(ddof=1)
    judges = targets * of_rater.var(ddof=1)
    error = (rest**2).sum() / ((raters - 1) * (targets - 1))
    if between + judges + error < 1e-12:
        raise Undefined("all ratings are equal")
    shared = (judges - error) / targets
    return Icc(
        (between - error) / (between + (raters - 1) * error + raters * shared), (between - error) / (between + shared),
        float(raters), "mean squares",
    )  # fmt: skip


# What predicts listeners


class Mixes(NamedTuple):
    """One predictor and one scale over the mixes that have both."""

    score: np.ndarray
    rating: np.ndarray
    arm: np.ndarray
    group: np.ndarray
    """Whose mixes are resampled together"""


def spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rho of N values in resamples [resamples] that hold each so many times [resamples, N], or of all once.

    nan where a resample has only one value of either.
    """
    weights = np.ones((1, len(first))) if counts is None else counts.astype(float)

    def ranks(values: np.ndarray) -> np.ndarray:
        """Mean ranks, copies of a value tying, from their weighted mean."""
        order = np.argsort(values, kind="stable")
        new = np.diff(values[order], prepend=-math.inf) > 0
        tied = np.add.reduceat(weights[:, order], np.flatnonzero(new), axis=1)
        found = np.empty_like(weights)
        found[:, order] = (tied.cumsum(1) - tied / 2)[:, new.cumsum() - 1]
        return found - np.average(found, axis=1, weights=weights)[:, None]

    a, b = ranks(first), ranks(second)
    with np.errstate(invalid="ignore"):
        return (weights * a * b).sum(1) / np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))


def over_groups(mixes: Mixes, seed: int, several: str) -> tuple[float, float, float]:
    """Interval of Spearman's rho over groups, and the p of resampled values straying as far as it is from 0.

    `several` is what groups are called.
    """
    names, group = np.unique(mixes.group, return_inverse=True)
    if len(names) < 2:
        raise Undefined(f"all mixes are of one {several.removesuffix('s')}")
    draw = np.random.default_rng(stable_seed(seed, "clips"))
    drawn = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, group]
    resampled = spearman(mixes.score, mixes.rating, drawn)
    low, high = interval(resampled)
    if math.isnan(low):
        raise Undefined(f"too many resamples of so few {several} have no order")
    rho = float(spearman(mixes.score, mixes.rating)[0])
    return low, high, comparison.shift_test(resampled[np.isfinite(resampled)], rho)


def within_arms(mixes: Mixes, seed: int) -> tuple[float, float]:
    """Spearman's rho of what is left beside the arms' means, and its p by exchanging the scores of whole groups.

    Groups change places that have mixes of the same arms.
    """
    left = []
    for values in (mixes.score, mixes.rating):
        beside = values - pd.Series(values).groupby(mixes.arm).transform("mean").to_numpy()
        left.append(np.round(beside / np.ptp(values), 9))  # equal values stay so
    if not (np.ptp(left[0]) and np.ptp(left[1])):
        raise Undefined("nothing differs within arms")
    rho = float(spearman(*left)[0])
    alike: dict[tuple[str, ...], list[np.ndarray]] = {}
    for group in dict.fromkeys(mixes.group):
        places = np.flatnonzero(mixes.group == group)
        alike.setdefault(tuple(mixes.arm[places]), []).append(places)
    if max(map(len, alike.values())) < 2:
        return rho, math.nan
    draw = np.random.default_rng(stable_seed(seed, "within arms"))
    order = np.tile(np.arange(len(left[0])), (RESAMPLES, 1))
    for blocks in map(np.array, alike.values()):
        turns = draw.permuted(np.tile(np.arange(len(blocks)), (RESAMPLES, 1)), axis=1)
        order[:, blocks.ravel()] = blocks[turns].reshape(RESAMPLES, -1)
    a, b = (stats.rankdata(values) - (len(values) + 1) / 2 for values in left)
    drawn = a[order] @ b / math.sqrt((a @ a) * (b @ b))
    return rho, float((1 + np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12)) / (1 + RESAMPLES))
