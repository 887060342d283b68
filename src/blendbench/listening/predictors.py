"""What predicts listeners: correlations of the run's scores with ratings, over mixes and over arms."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from blendbench.errors import BlendbenchError, one_line
from blendbench.listening import statistics
from blendbench.listening.study import Study
from blendbench.metrics import comparison
from blendbench.runs import KEY

CORRELATION_COLUMNS = [
    "dataset", "presentation", "metric", "predictor", "over", "better", "spearman", "ci_low", "ci_high", "p", "p_holm",
    "kendall", "pearson", "spearman_within", "p_within", "p_within_holm", "n", "n_clips", "reading", "reading_within",
]  # fmt: skip
_NO_SCORES = {*KEY, "status", "reason"}
"""Columns of `scores.csv` that are no score, beside the task's."""
ARMS = 5
"""So many are needed for an order of arms to be told from chance."""


def find(
    study: Study, pairs: pd.DataFrame, summary: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """The run's scores of the arms' mixes (None where it has none), and all correlations; `notes` gets what is lacking.

    Parameters
    ----------
    study : Study
    pairs, summary : DataFrame
        As in `findings.Findings`.
    """
    rated = of_arms(study, pairs)
    scores = _scores(study, rated, notes)
    tables = [_over_mixes(study, rated, scores, notes), _over_arms(study, summary, notes)]
    return scores, pd.concat(tables, ignore_index=True)


def of_arms(study: Study, pairs: pd.DataFrame) -> pd.DataFrame:
    """Mixes of the run's arms: those that the run has scores of."""
    return pairs[pairs["arm"].isin(list(study.arms))].reset_index(drop=True)


def _scores(study: Study, pairs: pd.DataFrame, notes: list[str]) -> pd.DataFrame | None:
    """The run's scores of the rated mixes, in the order of `pairs`, with their group; None where there are none."""
    group, no_scores = study.subject.group, {*_NO_SCORES, *study.subject.columns, *study.scales}
    table = _left(study, "scores.csv", list(dict.fromkeys([*KEY, group])), notes)
    if table is None:
        return None
    numeric = table.select_dtypes("number").columns
    columns = [name for name in numeric if name not in no_scores]
    table = table.drop_duplicates(list(KEY))[list(dict.fromkeys([*KEY, group, *columns]))]
    found = pairs[list(KEY)].merge(table, how="left", on=list(KEY), validate="one_to_one")
    if found[group].isna().any():
        notes.append(f"scores.csv lacks {int(found[group].isna().sum())} of the {len(found)} rated mixes.")
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
    group = study.subject.group
    names = [name for name in scores.columns if name not in (*KEY, group)]
    for dataset in pairs["dataset"].unique():
        own = (pairs["dataset"] == dataset).to_numpy()
        for scale in study.scales:
            for name in names:
                chosen = own & (np.isfinite(scores[name]) & pairs[scale].notna()).to_numpy()
                mixes = statistics.Mixes(
                    scores.loc[chosen, name].to_numpy(float), pairs.loc[chosen, scale].to_numpy(float),
                    pairs.loc[chosen, "arm"].to_numpy(str), scores.loc[chosen, group].to_numpy(str),
                )  # fmt: skip
                if len(mixes.score) and not np.ptp(mixes.score):
                    continue  # a constant, such as a level that all share
                what = f"{name} and {study.fact(scale).label}, {dataset}"
                found = statistics.tried(notes, what, None, _correlated, mixes, study, notes, what)
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


def _correlated(mixes: statistics.Mixes, study: Study, notes: list[str], what: str) -> list[float]:
    """The columns spearman to n_clips of a predictor and a scale; p-values not yet corrected."""
    if len(mixes.score) < 3:
        raise statistics.Undefined(f"{len(mixes.score)} mixes have both")
    if not np.ptp(mixes.rating):
        raise statistics.Undefined("all mixes are rated alike")
    nothing, seed, several = (math.nan, math.nan, math.nan), study.settings.seed, study.subject.units[1]
    low, high, p = statistics.tried(notes, f"{what}, interval", nothing, statistics.over_groups, mixes, seed, several)
    within, p_within = statistics.tried(notes, f"{what}, within arms", nothing[:2], statistics.within_arms, mixes, seed)
    kendall = float(stats.kendalltau(mixes.score, mixes.rating).statistic)
    pearson = float(stats.pearsonr(mixes.score, mixes.rating).statistic)
    rho = float(statistics.spearman(mixes.score, mixes.rating)[0])
    count, clips = len(mixes.score), len(set(mixes.group))
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
