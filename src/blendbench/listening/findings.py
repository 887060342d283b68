"""What the kept listeners' ratings say, as tables: means, differences, tests, agreement, and what predicts them.

Nothing is pooled over data sets. What cannot be computed is nan, and a note says why.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.listening import predictors, statistics
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
WILCOXON_COLUMNS = [
    "dataset", "presentation", "metric", "sample", "pair_id", "arm", "other", "unit", "median_difference", "p",
    "p_holm", "n",
]  # fmt: skip
_LIKERT = (1, 5)
"""The range whose studies have no tests by sample unless they are asked for."""


class Answers(NamedTuple):
    """What the kept listeners said on one scale of one data set."""

    dataset: str
    scale: str
    listeners: list[int]
    samples: list[Sample]
    values: np.ndarray
    """[listeners, samples, conditions], nan where there is no rating."""
    again: np.ndarray
    """The same of the second time, where samples come twice."""


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
    wilcoxon: pd.DataFrame | None
    """A row two conditions and sample, and one over all samples; None where it is not asked"""
    scores: pd.DataFrame | None
    """The run's scores of the arms' mixes, in the order that they have in `pairs`; None where it has none"""
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
            one.values, stable_seed(study.settings.seed, "listening", one.dataset)
        )
        for one in answers
    }
    summary = _summary(study, answers, drawn, left_out, notes)
    pairs = _pairs(study, answers)
    comparisons = _comparisons(study, answers, drawn, notes)
    tests = _tests(study, answers, notes)
    agreement = _agreement(study, answers, notes)
    wilcoxon = _wilcoxon(study, answers, unit, notes) if (unit := unit_of(study)) else None
    scores, correlations = predictors.find(study, pairs, summary, notes)
    return Findings(answers, summary, pairs, comparisons, tests, agreement, wilcoxon, scores, correlations, notes)


def by_scale(study: Study, rows: pd.DataFrame) -> list[Answers]:
    """Arrays of the ratings that count, by data set and scale; of one data set all of one shape."""
    second, rows = rows[rows["kind"] == "repeat"], rows[rows["kind"] == "sample"]
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
        arms = {arm: index for index, arm in enumerate(study.conditions)}

        def array(
            given: pd.DataFrame, number: Mapping[int, int] = number, place: Mapping[str, int] = place,
            arms: Mapping[str, int] = arms,
        ) -> np.ndarray:  # fmt: skip
            given = given[given["listener"].isin(list(number)) & given["sample"].isin(list(place))]
            values = np.full((len(number), len(place), len(arms)), math.nan)
            where = given["listener"].map(number), given["sample"].map(place), given["arm"].map(arms)
            values[tuple(index.to_numpy(int) for index in where)] = given["value"]
            return values

        for scale in study.scales:
            first, again = (array(given[given["scale"] == scale]) for given in (part, second))
            found.append(Answers(dataset, scale, listeners, own, first, again))
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
            f"ratings {study.settings.range.unit} of {count} listeners, {left_out} left out; {samples} samples; "
            f"{playback(study)}; {method if min(count, samples) > 1 else 'no interval'}"
        )
        for place, arm in enumerate(study.conditions):
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
    settings, lufs = study.settings, study.settings.playback.lufs
    part = study.subject.first or settings.open_reference or settings.hidden_reference
    lead = f"{study.subject.parts[part].lower()}s" if part else next(iter(study.arms.values()))
    return {
        "clips": f"every clip at {lufs:g} LUFS",
        "samples": f"{lead} at {lufs:g} LUFS and mixes in proportion",
        "none": "levels of the run",
    }[settings.playback.match]


def _named(study: Study, one: Answers) -> str:
    return f"{study.fact(one.scale).label}, {one.dataset}"


def _pairs(study: Study, answers: Sequence[Answers]) -> pd.DataFrame:
    """Mean ratings of every mix, and how many listeners they are of."""
    parts = []
    for dataset in dict.fromkeys(one.dataset for one in answers):
        scales = {one.scale: one for one in answers if one.dataset == dataset}
        first = next(iter(scales.values()))
        keys = [
            (dataset, arm, study.presentation, sample.pair_id) for sample in first.samples for arm in study.conditions
        ]
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
        for (first, arm), (second, other) in combinations(enumerate(study.conditions), 2):
            what = f"{_named(study, one)}: {study.conditions[arm]} and {study.conditions[other]}"
            resampled = drawn[one.dataset, one.scale]
            difference = one.values[:, :, first] - one.values[:, :, second]
            known = np.isfinite(difference)
            model = statistics.tried(
                notes, f"{what}, model", (math.nan, math.nan, math.nan, math.nan), statistics.by_model, difference
            )
            ranks = statistics.tried(
                notes, f"{what}, Wilcoxon", math.nan, statistics.by_ranks, by_listener[:, [first, second]]
            )
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
    if len(study.conditions) < 2:
        notes.append("There is one arm, so none are compared.")
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


def unit_of(study: Study) -> str | None:
    """Of Wilcoxon's tests by sample: what the settings say, or by the range; None where there are none."""
    ends = study.settings.range
    return study.settings.unit or (None if (ends.low, ends.high) == _LIKERT else "listener")


def _wilcoxon(study: Study, answers: Sequence[Answers], unit: str, notes: list[str]) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of every two conditions by sample, and over all samples, where `sample` is "".

    With the unit "rating" each rating is one, of both times where a sample comes twice; with "listener" it is the mean
    of a listener's. The p-values of a sample, or of all, are corrected together.
    """
    lines: list[list[Any]] = []
    for one in answers:
        lacking, before = list[str](), len(lines)
        both = np.stack([one.values, one.again])  # [times, listeners, samples, conditions]
        for place, sample in [(None, None), *enumerate(one.samples)]:
            values = both if place is None else both[:, :, place : place + 1]
            # Pairs of a page stay together: a time, a listener and a sample.
            units = statistics.mean(values, (0, 2)) if unit == "listener" else values.reshape(-1, values.shape[-1])
            name, pair = ("", "") if sample is None else (sample.name, sample.pair_id)
            family = list[list[Any]]()
            for (first, arm), (second, other) in combinations(enumerate(study.conditions), 2):
                what = f"{name or 'all samples'}, {study.conditions[arm]} and {study.conditions[other]}"
                two = units[:, [first, second]]
                known = two[np.isfinite(two).all(1)]
                p = statistics.tried(lacking, what, math.nan, statistics.by_ranks, two, unit)
                median = float(np.median(known[:, 0] - known[:, 1])) if len(known) else math.nan
                family.append(
                    [one.dataset, study.presentation, one.scale, name, pair, arm, other, unit, median, p, math.nan,
                     len(known)]
                )  # fmt: skip
            at = WILCOXON_COLUMNS.index("p")
            corrections = comparison.holm([float(line[at]) for line in family])
            for line, corrected in zip(family, corrections, strict=True):
                line[at + 1] = corrected
            lines += family
        if lacking:
            count = f"{len(lacking)} of {len(lines) - before}"
            notes.append(f"{_named(study, one)}, Wilcoxon by {unit}: {count} without p; the first: {lacking[0]}")
    return pd.DataFrame(lines, columns=WILCOXON_COLUMNS)


def _tests(study: Study, answers: Sequence[Answers], notes: list[str]) -> pd.DataFrame:
    """Friedman's test over listeners' means of all arms, by data set and scale."""
    lines = []
    for one in answers:
        found = statistics.tried(
            notes,
            f"{_named(study, one)}, Friedman",
            (math.nan, math.nan, 0),
            statistics.friedman,
            statistics.mean(one.values, 1),
        )
        statistic, p, count = found
        lines.append(
            [one.dataset, study.presentation, one.scale, "Friedman", statistic, len(study.conditions) - 1, p, count]
        )
    return pd.DataFrame(lines, columns=TEST_COLUMNS)


def _agreement(study: Study, answers: Sequence[Answers], notes: list[str]) -> pd.DataFrame:
    lines = []
    for one in answers:
        units = statistics.units(one.values[:, :, : len(study.arms)])
        alpha = statistics.tried(
            notes, f"{_named(study, one)}, Krippendorff's alpha", math.nan, statistics.alpha, units
        )
        icc = statistics.tried(
            notes, f"{_named(study, one)}, ICC", statistics.Icc(math.nan, math.nan, math.nan, ""), statistics.icc, units
        )
        lines.append([one.dataset, study.presentation, one.scale, alpha, *icc, *units.shape])
    return pd.DataFrame(lines, columns=AGREEMENT_COLUMNS)
