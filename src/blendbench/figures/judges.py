"""Figures about judges: how a metric answers to known degradations of real music."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import COLOURS, save_all, words
from blendbench.methods.degraded import Degraded
from blendbench.runs.folder import Run
from blendbench.store.write import write_bytes
from blendbench.texts import csv_text

_TITLES = {
    "noise": "noise, dB over the music",
    "low_pass": "low-pass, Hz",
    "gain_down": "gain, dB",
    "gain_up": "gain, dB",
    "stretch": "length, times",
    "shuffle": "pieces moved, share",
    "other_genre": "clips replaced, share",
}


@dataclass(frozen=True)
class _Way:
    """A way of making music worse: its arms by strength, the least degraded first."""

    kind: str
    arms: list[tuple[float, str]]


def responses(run: Run, name: str = "judge_check") -> list[Path]:
    """Each metric against each degradation's strength, and `NAME.csv`: monotone or not, effect, and clips needed.

    A row of the CSV is a metric, a way of degrading and a data set. `tau` is Kendall's rank correlation of strength and
    value, what is not degraded among them: 1 where the metric says worse with every step. `effect` is the difference of
    the weakest and of the strongest step from what is not degraded, in its own standard errors, at the run's `n`
    clips; `clips_needed`, how many clips would tell that difference at 95 % (two standard errors), as far as an error
    shrinks with the root of the number.

    Raises
    ------
    BlendbenchError
        If the run has no arm that leaves clips as they are, or none that degrades them.
    """
    clean, ways = _ways(run)
    results, compared = run.results(), run.texts("comparisons.csv")
    for column in ("difference", "ci_low", "ci_high", "n"):
        compared[column] = pd.to_numeric(compared[column])
    presentation = next(iter(run.presentations))
    lines: list[dict[str, Any]] = []
    metrics = run.experiment.metrics
    figure = Figure(figsize=(2.3 * len(ways), 1.9 * len(metrics)))
    axes = figure.subplots(len(metrics), len(ways), squeeze=False)
    for row, metric in enumerate(metrics):
        facts = run.fact(metric)
        for place, way in enumerate(ways):
            axis = axes[row][place]
            for number, dataset in enumerate(run.datasets):
                cell = results[(results["metric"] == metric) & (results["dataset"] == dataset)
                               & (results["presentation"] == presentation)].set_index("arm")  # fmt: skip
                told = compared[(compared["metric"] == metric) & (compared["dataset"] == dataset)
                                & (compared["presentation"] == presentation)]  # fmt: skip
                arms = [clean, *(arm for _, arm in way.arms)]
                part = cell.loc[[arm for arm in arms if arm in cell.index]]
                places = range(len(part))
                axis.plot(places, part["value"], marker="o", ms=3, color=COLOURS[number], label=words(dataset, 30))
                axis.fill_between(places, part["ci_low"], part["ci_high"], alpha=0.15, color=COLOURS[number])
                axis.set_xticks(list(places), ["none", *(f"{strength:g}" for strength, _ in way.arms)][: len(part)])
                lines.append(_line(dataset, metric, facts, way, part, told, clean))
            axis.tick_params(labelsize=6)
            axis.grid(alpha=0.3)
            if row == 0:
                axis.set_title(words(way.kind.replace("_", " "), 24), fontsize=8)
            if row == len(metrics) - 1:
                axis.set_xlabel(_TITLES.get(way.kind, way.kind), fontsize=7)
        axes[row][0].set_ylabel(words(facts.label, 28), fontsize=7)
    if len(run.datasets) > 1:
        axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    table = run.dir / "figures" / f"{name}.csv"
    write_bytes(table, csv_text(pd.DataFrame(lines)).encode())
    return [*save_all(figure, run.dir, name, vector=True), table]


def _ways(run: Run) -> tuple[str, list[_Way]]:
    """The arm that leaves clips as they are, and the ways of degrading them that the run has."""
    found: dict[str, list[tuple[float, str]]] = {}
    clean = ""
    for arm in run.arms:
        method = run.methods[arm]
        if not isinstance(method, Degraded):
            continue
        if method.kind == "none":
            clean = arm
            continue
        kind = method.kind
        if kind == "gain":
            kind = "gain_up" if method.strength > 0 else "gain_down"
        found.setdefault(kind, []).append((method.strength, arm))
    if not clean or not found:
        raise BlendbenchError(f"{run.dir}: has no arm that degrades music, or none of kind none; add both")
    # A lower limit and a lower level are the worse ones.
    return clean, [_Way(kind, sorted(arms, reverse=kind in ("low_pass", "gain_down"))) for kind, arms in found.items()]


def _line(
    dataset: str, metric: str, facts: Any, way: _Way, part: pd.DataFrame, told: pd.DataFrame, clean: str
) -> dict[str, Any]:
    values = [float(value) for value in part["value"]]
    worse = -facts.better or 1
    tau = float(stats.kendalltau(range(len(values)), values).statistic) * worse if len(values) > 1 else math.nan
    tau = round(tau, 9)  # which comes out a hair below 1
    line: dict[str, Any] = {
        "dataset": dataset, "metric": metric, "label": facts.label, "degradation": way.kind,
        "strengths": " ".join(f"{strength:g}" for strength, _ in way.arms),
        "tau": round(tau, 3), "monotone": tau == 1, "n": int(part["n"].min()), "value_clean": values[0],
    }  # fmt: skip
    for step, (strength, arm) in (("weakest", way.arms[0]), ("strongest", way.arms[-1])):
        effect, needed = _effect(told, clean, arm, worse)
        value = float(part["value"].get(arm, math.nan))
        line |= {f"strength_{step}": strength, f"value_{step}": value}
        line |= {f"effect_{step}": round(effect, 2), f"clips_needed_{step}": needed}
    return line


def _effect(told: pd.DataFrame, clean: str, arm: str, worse: int) -> tuple[float, float]:
    """Difference from what is not degraded in standard errors, worse above 0, and the clips that two of them take."""
    for one, other, sign in ((clean, arm, -1), (arm, clean, 1)):
        rows = told[(told["arm"] == one) & (told["other"] == other)]
        if len(rows):
            row = rows.iloc[0]
            error = (row["ci_high"] - row["ci_low"]) / (2 * stats.norm.ppf(0.975))
            if not error > 0:
                break
            effect = sign * worse * row["difference"] / error
            needed = math.ceil(row["n"] * (2 / effect) ** 2) if effect > 0 else math.nan
            return float(effect), needed
    return math.nan, math.nan
