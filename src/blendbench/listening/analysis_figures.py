"""Figures of a study's analysis: ratings, beside the paper's where it has them, and the scores that predict them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from blendbench.figures import drawing
from blendbench.listening import findings, predictors, statistics
from blendbench.listening.settings import Range
from blendbench.listening.study import Study
from blendbench.runs.folder import Run

_MOST_BOXES = 12
"""Samples that have a panel of their own."""


class Paper(NamedTuple):
    """A published mean, and its standard deviation (nan if not known)."""

    value: float
    sd: float


def published(study: Study, run: Run) -> dict[tuple[str, str, str], Paper]:
    """The paper's ratings by data set of the study, arm and scale, where it has them for this presentation.

    Standard deviations are in the column `sd` of the experiment's CSV, where it has one.
    """
    figures = run.experiment.paper_figures()
    shown = run.experiment.paper_dataset or {}
    columns = ["dataset", "arm", "presentation", "metric", "value", "sd"]
    theirs = {
        tuple(map(str, key)): Paper(float(value), float(sd))
        for *key, value, sd in figures.reindex(columns=columns).itertuples(index=False, name=None)
    }
    keys = {
        (dataset, arm, scale): (str(shown.get(dataset)), arm, study.presentation, scale)
        for dataset in dict.fromkeys(sample.dataset for sample in study.samples)
        for arm in study.arms
        for scale in study.scales
    }
    return {ours: theirs[key] for ours, key in keys.items() if key in theirs}


def draw_ratings(
    study: Study,
    answers: Sequence[findings.Answers],
    summary: pd.DataFrame,
    paper: Mapping[tuple[str, str, str], Paper],
    folder: Path,
) -> None:
    """A panel a scale and data set: listeners' means as dots and boxes, the mean with its interval, and the paper's."""
    from matplotlib.figure import Figure

    rows = len({one.dataset for one in answers})
    width = max(3.6, 1.1 * len(study.conditions) + 0.6)
    figure = Figure(figsize=(width * len(study.scales), 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, len(study.scales), squeeze=False)
    handles: dict[str, Any] = {}
    ends = study.settings.range
    for axis, one in zip(axes.flat, answers, strict=True):
        table = summary[(summary["dataset"] == one.dataset) & (summary["metric"] == one.scale)].set_index("arm")
        for place, arm in enumerate(study.conditions):
            colour = drawing.COLOURS[place % len(drawing.COLOURS)]
            means = statistics.mean(one.values[:, :, place], 1)
            means = np.sort(means[np.isfinite(means)])
            axis.boxplot(
                means, positions=[place], widths=0.5, showfliers=False, manage_ticks=False, patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.18, "lw": 0}, medianprops={"color": colour, "lw": 1},
                whiskerprops={"color": colour, "lw": 0.8}, capprops={"lw": 0},
            )  # fmt: skip
            # Beside each other in the order of their values, so that none hides another.
            aside = (np.arange(len(means)) * 0.381966) % 1 - 0.5
            handles["a listener's mean"] = axis.scatter(
                place + 0.4 * aside, means, s=9, color=colour, alpha=0.7, linewidths=0
            )
            row = table.loc[arm]
            if np.isfinite(row["ci_low"]):
                axis.vlines(place, row["ci_low"], row["ci_high"], color="black", lw=1.6, zorder=3)
            handles["mean, 95 % interval"] = axis.scatter(place, row["value"], s=20, color="black", zorder=4)
            theirs = paper.get((one.dataset, arm, one.scale))
            if theirs is not None:
                spread = None if math.isnan(theirs.sd) else [theirs.sd]
                label = "the paper's" + (" mean" if spread is None else " mean ± sd") + ", other models and listeners"
                handles[label] = axis.errorbar(
                    place + 0.36, theirs.value, spread, fmt="D", ms=4, mfc="white", color="#777", lw=1, capsize=2
                )
        words = study.scales[one.scale]
        axis.set_title(drawing.words(words.label) + (f", {one.dataset}" if rows > 1 else ""), fontsize=9)
        ticks = [drawing.words(label, 40, 20).replace(" ", "\n") for label in study.conditions.values()]
        axis.set_xticks(range(len(study.conditions)), ticks, fontsize=8)
        axis.set_xlim(-0.6, len(study.conditions) - 0.4)
        _scaled(axis, ends)
        axis.tick_params(axis="y", labelsize=8)
        axis.set_ylabel(f"{ends.low}: {drawing.words(words.low)}\n{ends.high}: {drawing.words(words.high)}", fontsize=7)
        axis.grid(axis="y", alpha=0.3)
    figure.legend(handles.values(), handles, fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    for ending in (".png", ".svg"):
        drawing.save(figure, folder / f"ratings{ending}")


def draw_predictors(
    study: Study, pairs: pd.DataFrame, scores: pd.DataFrame | None, correlations: pd.DataFrame, folder: Path
) -> list[str]:
    """Scatter of the scores that go furthest with the ratings; returns their names, none if there is no score."""
    from matplotlib.figure import Figure

    file, pairs = folder / "predictors.png", predictors.of_arms(study, pairs)
    over = correlations[correlations["over"] == "mixes"]
    strength = over["spearman"].abs().groupby(over["predictor"], sort=False).mean().dropna()
    best = [str(name) for name in strength.sort_values(ascending=False, kind="stable").index[:3]]
    if scores is None or not best:
        file.unlink(missing_ok=True)
        return []
    panels = [(dataset, scale) for dataset in pairs["dataset"].unique() for scale in study.scales]
    figure = Figure(figsize=(3.3 * len(best), 2.7 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(best), squeeze=False)
    for line, (dataset, scale) in zip(axes, panels, strict=True):
        for axis, name in zip(line, best, strict=True):
            for place, (arm, label) in enumerate(study.arms.items()):
                chosen = ((pairs["dataset"] == dataset) & (pairs["arm"] == arm)).to_numpy()
                colour = drawing.COLOURS[place % len(drawing.COLOURS)]
                x, y = scores.loc[chosen, name], pairs.loc[chosen, scale]
                axis.scatter(x, y, s=12, color=colour, alpha=0.75, linewidths=0, label=drawing.words(label))
            facts = over[(over["dataset"] == dataset) & (over["metric"] == scale) & (over["predictor"] == name)]
            for row in facts.to_dict("records"):
                told = f"rho {row['spearman']:.2f}, within methods {_told(row['spearman_within'])}"
                axis.set_title(told, fontsize=8)
            axis.set_xlabel(score_label(study, name), fontsize=8)
            axis.set_ylabel(
                study.fact(scale).label + (f", {dataset}" if pairs["dataset"].nunique() > 1 else ""), fontsize=8
            )
            _scaled(axis, study.settings.range)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    beside = max(1, min(len(labels), 120 // max(map(len, labels))))
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=beside, frameon=False)
    drawing.save(figure, file)
    return best


def draw_boxes(study: Study, answers: Sequence[findings.Answers], folder: Path) -> bool:
    """Box plots of all ratings, a row a scale and data set: of all samples, then of each, if they are not too many.

    Returns whether there are any: not where the analysis has no tests by sample.
    """
    from matplotlib.figure import Figure

    file = folder / "boxes.png"
    if findings.unit_of(study) is None:
        file.unlink(missing_ok=True)
        return False
    shown = {id(one): one.samples if len(one.samples) <= _MOST_BOXES else [] for one in answers}
    columns = 1 + max(map(len, shown.values()))
    width = max(2.2, 0.42 * len(study.conditions) + 0.8)
    figure = Figure(figsize=(width * columns, 2.8 * len(answers)), layout="constrained")
    axes = figure.subplots(len(answers), columns, squeeze=False)
    names = [drawing.words(label, 24) for label in study.conditions.values()]
    for line, one in zip(axes, answers, strict=True):
        panels = [("all samples", one.values), *((each.name, one.values[:, [place]])
                                                  for place, each in enumerate(shown[id(one)]))]  # fmt: skip
        for axis, (title, values) in zip(line, panels, strict=False):
            rated = [values[..., place][np.isfinite(values[..., place])] for place in range(len(names))]
            boxes = axis.boxplot(rated, patch_artist=True, widths=0.6, flierprops={"markersize": 3})
            for place, box in enumerate(boxes["boxes"]):
                box.set(facecolor=drawing.COLOURS[place % len(drawing.COLOURS)], alpha=0.4)
            axis.set_title(title, fontsize=9)
            axis.set_xticks(range(1, len(names) + 1), names, fontsize=7, rotation=90)
            _scaled(axis, study.settings.range)
            axis.tick_params(axis="y", labelsize=7)
            axis.grid(axis="y", alpha=0.3)
        several = len({each.dataset for each in answers}) > 1
        line[0].set_ylabel(study.fact(one.scale).label + (f", {one.dataset}" if several else ""), fontsize=8)
        for axis in line[len(panels) :]:
            axis.set_axis_off()
    drawing.save(figure, file)
    return True


def _scaled(axis: Any, ends: Range) -> None:
    """The whole of a scale, with a little room; a tick a button, or five to a slider."""
    room = 0.025 * (ends.high - ends.low)
    axis.set_ylim(ends.low - room, ends.high + room)
    axis.set_yticks(list(ends.values) if ends.buttons else [ends.of_share(step, 5) for step in range(6)])


def _told(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def score_label(study: Study, name: str) -> str:
    """A score or scale with its unit."""
    shown = study.fact(name)
    return shown.label + (f" ({shown.unit})" if shown.unit else "")
