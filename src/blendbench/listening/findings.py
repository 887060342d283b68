"""What the kept listeners' ratings say, as tables: means, differences, tests, agreement, and what predicts them.

Nothing is pooled over data sets. What cannot be computed is nan, and a note says why.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from blendbench.errors import BlendbenchError, one_line
from blendbench.listening import statistics
from blendbench.listening.study import Sample, Study
from blendbench.metrics import comparison
from blendbench.runs import KEY
from blendbench.seeds import stable_seed

SUMMARY_COLUMNS = [
    "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "sd", "sd_listeners", "sd_samples",
    "n_ratings", "n_listeners", "n_samples", "recipe",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "dataset", "presentation", "metric", "arm", "other", "difference", "ci_low", "ci_high", "estimate", "se", "df", "p",
    "p_holm", "p_wilcoxon", "p_wilcoxon_holm", "n_listeners", "n_samples",
]  # fmt: skip
TEST_COLUMNS = ["dataset", "presentation", "metric", "test", "statistic", "df", "p", "n_listeners"]
AGREEMENT_COLUMNS = [
    "dataset", "presentation", "metric", "alpha", "icc_2_1", "icc_2_k", "k", "icc_method", "n_listeners", "n_mixes",
]  # fmt: skip
CORRELATION_COLUMNS = [
    "dataset", "presentation", "metric", "predictor", "over", "better", "spearman", "ci_low", "ci_high", "p", "p_holm",
    "kendall", "pearson", "spearman_within", "p_within", "p_within_holm", "n", "n_clips", "reading", "reading_within",
]  # fmt: skip
_FACTS = {*KEY, "status", "reason", "clip", "label", "genre"}
"""Columns of `scores.csv` that are no score."""
ARMS = 5
"""So many are needed for an order of arms to be told from chance."""
_T = TypeVar("_T")


class Answers(NamedTuple):
    """What the kept listeners said on one scale of one data set."""

    dataset: str
    scale: str
    listeners: list[int]
    samples: list[Sample]
    values: np.ndarray
    """[listeners, samples, arms], nan where there is no rating."""


class Findings(NamedTuple):
    """All that is found, in the tables that the columns above name."""

    answers: list[Answers]
    """By data set and scale"""
    summary: pd.DataFrame
    """A row a data set, arm and scale"""
    pairs: pd.DataFrame
    """A row a mix: means by scale"""
    comparisons: pd.DataFrame
    """A row two arms of a data set and scale"""
    tests: pd.DataFrame
    agreement: pd.DataFrame
    scores: pd.DataFrame | None
    """The run's scores of the mixes, in the order of `pairs`; None where it has none"""
    correlations: pd.DataFrame
    notes: list[str]
    """What could not be computed, and why"""


def find(study: Study, rows: pd.DataFrame, left_out: int, notes: Sequence[str]) -> Findings:
    """Compute all from the ratings of those who count.

    Parameters
    ----------
    study : Study
    rows : DataFrame
        Ratings with columns listener, sample, kind, arm, scale and value, each at most once.
    left_out : int
        How many listeners do not count.
    notes : sequence of str
        Notes that come before these.

    Raises
    ------
    BlendbenchError
        If no sample was rated but catch trials, or the run's tables are damaged.

    Source: see `statistics.SOURCE`.
    """
    notes = list(notes)
    answers = by_scale(study, rows)
    drawn = {
        (one.dataset, one.scale): statistics.resampled_means(
            one.values, stable_seed(study.settings["seed"], "listening", one.dataset)
        )
        for one in answers
    }
    summary = _summary(study, answers, drawn, left_out, notes)
    pairs = _pairs(study, answers)
    comparisons = _comparisons(study, answers, drawn, notes)
    tests = _tests(study, answers, notes)
    agreement = _agreement(study, answers, notes)
    scores = _scores(study, pairs, notes)
    correlations = pd.concat(
        [_over_mixes(study, pairs, scores, notes), _over_arms(study, summary, notes)], ignore_index=True
    )
    return Findings(answers, summary, pairs, comparisons, tests, agreement, scores, correlations, notes)


def by_scale(study: Study, rows: pd.DataFrame) -> list[Answers]:
    """Arrays of the ratings that count, by data set and scale; of one data set all of one shape."""
    rows = rows[rows["kind"] == "sample"]
    if rows.empty:
        raise BlendbenchError(f"{study.folder}: the kept listeners have rated catch trials alone; wait for more")
    heard, found = set(rows["sample"]), []
    samples = [sample for sample in study.of_kind("sample") if sample.name in heard]
    for dataset in dict.fromkeys(sample.dataset for sample in samples):
        own = [sample for sample in samples if sample.dataset == dataset]
        place = {sample.name: index for index, sample in enumerate(own)}
        part = rows[rows["sample"].isin(list(place))]
        listeners = sorted(set(part["listener"]))
        number = {listener: index for index, listener in enumerate(listeners)}
        arms = {arm: index for index, arm in enumerate(study.arms)}
        for scale in study.scales:
            values = np.full((len(listeners), len(own), len(arms)), math.nan)
            given = part[part["scale"] == scale]
            where = given["listener"].map(number), given["sample"].map(place), given["arm"].map(arms)
            values[tuple(index.to_numpy(int) for index in where)] = given["value"]
            found.append(Answers(dataset, scale, listeners, own, values))
    return found


def _summary(
    study: Study, answers: Sequence[Answers], drawn: Mapping[tuple[str, str], np.ndarray], left_out: int,
    notes: list[str],
) -> pd.DataFrame:  # fmt: skip
    lines = []
    for one in answers:
        count, samples, _ = one.values.shape
        means = statistics.mean(one.values, (0, 1))
        if min(count, samples) < 2:
            notes.append(
                f"{_named(study, one)}: {count} listener(s) and {samples} sample(s); intervals need two of each."
            )
        method = (
            f"{statistics.CONFIDENCE:.0%} bootstrap over listeners and samples (crossed), "
            f"{statistics.RESAMPLES} resamples"
        )
        recipe = (
            f"ratings 1-5 of {count} listeners, {left_out} left out; {samples} samples; {playback(study)}; "
            f"{method if min(count, samples) > 1 else 'no interval'}"
        )
        for place, arm in enumerate(study.arms):
            values = one.values[:, :, place]
            known = np.isfinite(values)
            lines.append(
                [
                    one.dataset, arm, study.presentation, one.scale, means[place],
                    *statistics.interval(drawn[one.dataset, one.scale][:, place]),
                    *map(statistics.sd, (values, statistics.mean(values, 1), statistics.mean(values, 0))),
                    known.sum(), known.any(1).sum(), known.any(0).sum(), recipe,
                ]
            )  # fmt: skip
    return pd.DataFrame(lines, columns=SUMMARY_COLUMNS)


def playback(study: Study) -> str:
    """How loud listeners heard what, in words."""
    playback = study.settings["playback"]
    return {
        "clips": f"every clip at {playback['lufs']:g} LUFS",
        "samples": f"noises at {playback['lufs']:g} LUFS and mixes in proportion",
        "none": "levels of the run",
    }[playback["match"]]


def _named(study: Study, one: Answers) -> str:
    return f"{study.fact(one.scale).label}, {one.dataset}"


def _pairs(study: Study, answers: Sequence[Answers]) -> pd.DataFrame:
    """Mean ratings of every mix, and how many listeners they are of."""
    parts = []
    for dataset in dict.fromkeys(one.dataset for one in answers):
        scales = {one.scale: one for one in answers if one.dataset == dataset}
        first = next(iter(scales.values()))
        keys = [(dataset, arm, study.presentation, sample.pair_id) for sample in first.samples for arm in study.arms]
        columns = {scale: statistics.mean(one.values, 0).ravel() for scale, one in scales.items()}
        heard = np.any([np.isfinite(one.values) for one in scales.values()], axis=0).sum(0).ravel()
        parts.append(pd.DataFrame(keys, columns=list(KEY)).assign(**columns, n=heard))
    return pd.concat(parts, ignore_index=True)


def _comparisons(
    study: Study, answers: Sequence[Answers], drawn: Mapping[tuple[str, str], np.ndarray], notes: list[str]
) -> pd.DataFrame:
    """Every two arms by data set and scale; p-values of one data set and scale are corrected together."""
    lines: list[list[Any]] = []
    for one in answers:
        means, by_listener = statistics.mean(one.values, (0, 1)), statistics.mean(one.values, 1)
        family = []
        for (first, arm), (second, other) in combinations(enumerate(study.arms), 2):
            what = f"{_named(study, one)}: {study.arms[arm]} and {study.arms[other]}"
            resampled = drawn[one.dataset, one.scale]
            difference = one.values[:, :, first] - one.values[:, :, second]
            known = np.isfinite(difference)
            model = _tried(
                notes, f"{what}, model", (math.nan, math.nan, math.nan, math.nan), statistics.by_model, difference
            )
            ranks = _tried(notes, f"{what}, Wilcoxon", math.nan, statistics.by_ranks, by_listener[:, [first, second]])
            family.append(
                [
                    one.dataset, study.presentation, one.scale, arm, other, means[first] - means[second],
                    *statistics.interval(resampled[:, first] - resampled[:, second]), *model, math.nan, ranks, math.nan,
                    known.any(1).sum(), known.any(0).sum(),
                ]
            )  # fmt: skip
        for at in (COMPARISON_COLUMNS.index("p"), COMPARISON_COLUMNS.index("p_wilcoxon")):
            for line, corrected in zip(family, comparison.holm([line[at] for line in family]), strict=True):
                line[at + 1] = corrected
        lines += family
    if len(study.arms) < 2:
        notes.append("There is one arm, so none are compared.")
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


def _tried(notes: list[str], what: str, otherwise: _T, function: Callable[..., _T], *values: Any) -> _T:
    """What a function returns; where that is undefined, another value and a note why."""
    try:
        return function(*values)
    except statistics.Undefined as reason:
        notes.append(f"{what}: not computed, as {reason}.")
        return otherwise


def _tests(study: Study, answers: Sequence[Answers], notes: list[str]) -> pd.DataFrame:
    """Friedman's test over listeners' means of all arms, by data set and scale."""
    lines = []
    for one in answers:
        found = _tried(
            notes,
            f"{_named(study, one)}, Friedman",
            (math.nan, math.nan, 0),
            statistics.friedman,
            statistics.mean(one.values, 1),
        )
        statistic, p, count = found
        lines.append([one.dataset, study.presentation, one.scale, "Friedman", statistic, len(study.arms) - 1, p, count])
    return pd.DataFrame(lines, columns=TEST_COLUMNS)


def _agreement(study: Study, answers: Sequence[Answers], notes: list[str]) -> pd.DataFrame:
    lines = []
    for one in answers:
        units = statistics.units(one.values)
        alpha = _tried(notes, f"{_named(study, one)}, Krippendorff's alpha", math.nan, statistics.alpha, units)
        icc = _tried(
            notes, f"{_named(study, one)}, ICC", statistics.Icc(math.nan, math.nan, math.nan, ""), statistics.icc, units
        )
        lines.append([one.dataset, study.presentation, one.scale, alpha, *icc, *units.shape])
    return pd.DataFrame(lines, columns=AGREEMENT_COLUMNS)


def _scores(study: Study, pairs: pd.DataFrame, notes: list[str]) -> pd.DataFrame | None:
    """The run's scores of the rated mixes, in the order of `pairs`, with `clip`; None where there are none."""
    table = _left(study, "scores.csv", [*KEY, "clip"], notes)
    if table is None:
        return None
    numeric = table.select_dtypes("number").columns
    columns = [name for name in numeric if name not in _FACTS and name not in study.scales]
    table = table.drop_duplicates(list(KEY))[[*KEY, "clip", *columns]]
    found = pairs[list(KEY)].merge(table, how="left", on=list(KEY), validate="one_to_one")
    if found["clip"].isna().any():
        notes.append(f"scores.csv lacks {int(found['clip'].isna().sum())} of the {len(found)} rated mixes.")
    return found


def _left(study: Study, name: str, keys: Sequence[str], notes: list[str]) -> pd.DataFrame | None:
    """A table that the run has left; None if it has not. Raises BlendbenchError if it is damaged."""
    file = study.run_dir / name
    if not file.is_file():
        notes.append(f"The run has no {name}, so no score is held against it; `blendbench table` makes it.")
        return None
    try:
        # A name such as "None" is one.
        table = pd.read_csv(file, dtype=dict.fromkeys(keys, str), keep_default_na=False, na_values=["", "nan"])
        if lacking := [key for key in keys if key not in table]:
            raise ValueError(f"no column {', '.join(lacking)}")
    except (OSError, ValueError) as error:
        raise BlendbenchError(
            f"{file}: damaged ({one_line(str(error))}); `blendbench table {study.run_dir}` makes it again"
        ) from None
    return table


def better(study: Study, name: str) -> str:
    """Which way a scale or score is better: higher, lower, or "" where neither is."""
    return {1: "higher", -1: "lower", 0: ""}[study.fact(name).better]


def _over_mixes(study: Study, pairs: pd.DataFrame, scores: pd.DataFrame | None, notes: list[str]) -> pd.DataFrame:
    """Correlations over mixes of each score with each scale, by data set."""
    lines: list[list[Any]] = []
    if scores is None:
        return pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    names = [name for name in scores.columns if name not in (*KEY, "clip")]
    for dataset in pairs["dataset"].unique():
        own = (pairs["dataset"] == dataset).to_numpy()
        for scale in study.scales:
            for name in names:
                chosen = own & (np.isfinite(scores[name]) & pairs[scale].notna()).to_numpy()
                mixes = statistics.Mixes(
                    scores.loc[chosen, name].to_numpy(float), pairs.loc[chosen, scale].to_numpy(float),
                    pairs.loc[chosen, "arm"].to_numpy(str), scores.loc[chosen, "clip"].to_numpy(str),
                )  # fmt: skip
                if len(mixes.score) and not np.ptp(mixes.score):
                    continue  # a constant, such as the noise's level
                what = f"{name} and {study.fact(scale).label}, {dataset}"
                found = _tried(notes, what, None, _correlated, mixes, study.settings["seed"], notes, what)
                if found is not None:
                    lines.append(
                        [dataset, study.presentation, scale, name, "mixes", better(study, name), *found, "", ""]
                    )
    out = pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    return _read(study, _read(study, out, "spearman", "p", "reading"), "spearman_within", "p_within", "reading_within")


def _read(study: Study, table: pd.DataFrame, statistic: str, p: str, reading: str) -> pd.DataFrame:
    """Correct a column of p-values within each data set and scale, and tell what the statistics say by them."""
    table = table.copy()
    for _, group in table.groupby(["dataset", "metric"], sort=False):
        table.loc[group.index, f"{p}_holm"] = comparison.holm(group[p].tolist())
    facts = zip(
        table[statistic],
        table[f"{p}_holm"],
        table["better"],
        [better(study, name) for name in table["metric"]],
        strict=True,
    )
    table[reading] = [_reading(*one) for one in facts]
    return table


def _correlated(mixes: statistics.Mixes, seed: int, notes: list[str], what: str) -> list[float]:
    """The columns spearman to n_clips of a predictor and a scale; p-values not yet corrected."""
    if len(mixes.score) < 3:
        raise statistics.Undefined(f"{len(mixes.score)} mixes have both")
    if not np.ptp(mixes.rating):
        raise statistics.Undefined("all mixes are rated alike")
    nothing = (math.nan, math.nan, math.nan)
    low, high, p = _tried(notes, f"{what}, interval", nothing, statistics.over_clips, mixes, seed)
    within, p_within = _tried(notes, f"{what}, within arms", nothing[:2], statistics.within_arms, mixes, seed)
    kendall = float(stats.kendalltau(mixes.score, mixes.rating).statistic)
    pearson = float(stats.pearsonr(mixes.score, mixes.rating).statistic)
    rho = float(statistics.spearman(mixes.score, mixes.rating)[0])
    count, clips = len(mixes.score), len(set(mixes.clip))
    return [rho, low, high, p, math.nan, kendall, pearson, within, p_within, math.nan, count, clips]


def _reading(rho: float, p: float, better: str, better_scale: str) -> str:
    """What a correlation says of a score by its corrected p: whether it agrees, where both have a better end."""
    if math.isnan(p):
        return ""
    if p >= statistics.LEVEL or not rho:
        return "shows nothing"
    if not (better and better_scale):
        return "rises" if rho > 0 else "falls"
    return "agrees" if (rho > 0) == (better == better_scale) else "disagrees"


def _over_arms(study: Study, summary: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Kendall's tau over three arms or more of each of the run's results with each scale; its p from five arms on."""
    lines: list[dict[str, Any]] = []
    table = _left(study, "results.csv", ["dataset", "arm", "presentation", "metric"], notes)
    if table is None:
        return pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    table = table[(table["presentation"] == study.presentation) & ~table["metric"].isin(list(study.scales))]
    for (dataset, scale), rated in summary.groupby(["dataset", "metric"], sort=False):
        means = dict(zip(rated["arm"], rated["value"], strict=True))
        for name, group in table[table["dataset"] == dataset].groupby("metric", sort=False):
            found = comparison.agreement(dict(zip(group["arm"], group["value"].astype(float), strict=True)), means)
            if found.n >= 3 and not math.isnan(found.tau):
                lines.append(
                    {
                        "dataset": dataset, "presentation": study.presentation, "metric": scale, "predictor": name,
                        "over": "arms", "better": better(study, str(name)), "kendall": found.tau, "n": found.n,
                        "p": found.p if found.n >= ARMS else math.nan, "reading_within": "",
                    }
                )  # fmt: skip
    return _read(study, pd.DataFrame(lines, columns=CORRELATION_COLUMNS), "kendall", "p", "reading")
