"""Figures of what goes beyond the papers: trade-offs as curves, and which methods no other beats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import save_all, words
from blendbench.runs.folder import Run
from blendbench.store.write import write_bytes
from blendbench.texts import csv_text

# Nine signs and twenty colours, dark ones first: no two of 180 curves are alike.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_COLOURS = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]


def frontier(
    run: Run,
    curves: Mapping[str, Sequence[str]],
    x: str = "noise_to_mask_ratio",
    y: Sequence[str] = ("kl", "fad"),
    alone: str = "alone",
    of_music: Sequence[str] = ("fad",),
    name: str = "frontier",
) -> list[Path]:
    """Trade-off curves, a row a presentation: a metric of masking against metrics of mixes, and of the music alone.

    Both axes are better to the lower left. The thin grey line joins the arms that no other beats in both. With further
    judges a figure each, `NAME_JUDGE`. `NAME.csv` holds every point with intervals, and whether it is beaten.

    Parameters
    ----------
    run : Run
    curves : dict of str to list of str
        Labels, and the arms along each curve, in order; those that the run lacks are left out.
    x : str
        The metric along the horizontal axis, at the row's presentation.
    y : sequence of str
        Metrics of what is heard.
    alone : str
        The presentation of the music alone; where the run lacks it, there are no such panels.
    of_music : sequence of str
        Metrics of that.
    name : str

    Raises
    ------
    BlendbenchError
        If no presentation has the metric of masking, or no arm of a curve is there.
    """
    results = run.results()
    found = results[(results["metric"] == x) & results["value"].notna()]
    shown = [key for key in run.presentations if key != alone and key in set(found["presentation"])]
    kept = {label: [arm for arm in arms if arm in run.arms] for label, arms in curves.items()}
    kept = {label: arms for label, arms in kept.items() if arms}
    if not shown or not kept:
        raise BlendbenchError(f"{run.dir}: no arm of figure {name} has a {x}; run them with it")
    judges = list(dict.fromkeys(judge for metric in (*y, *of_music) for judge in run.by_judge(metric)))
    files: list[Path] = []
    lines: list[dict[str, Any]] = []
    for number, judge in enumerate(judges):
        panels = [(metric, "") for metric in y]
        panels += [(metric, alone) for metric in of_music] if alone in run.presentations else []
        panels = [(metric, at) for metric, at in panels if judge in run.by_judge(metric)]
        for dataset in run.datasets:
            figure = Figure(figsize=(4.1 * len(panels), 3.4 * len(shown)), layout="constrained")
            axes = figure.subplots(len(shown), len(panels), squeeze=False)
            here = results[results["dataset"] == dataset]
            for row, presentation in enumerate(shown):
                for column, (metric, at) in enumerate(panels):
                    called = run.by_judge(metric)[judge]
                    points = _points(here, x, presentation, called, at or presentation)
                    axis = axes[row][column]
                    beaten = _draw(axis, points, kept)
                    what = f"{run.fact(called).label} of {'the music alone' if at else 'mixes'}"
                    axis.set_xlabel(f"{run.fact(x).label}, {words(run.presentations[presentation], 30)}", fontsize=8)
                    axis.set_ylabel(what, fontsize=8)
                    lines += _told(points, kept, beaten, dataset, presentation, called, "alone" if at else "mixes")
            handles, labels = axes[0][0].get_legend_handles_labels()
            for axis in axes.flat:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.yaxis.set_minor_locator(NullLocator())
            figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=4)
            stem = name + (f"_{judge}" if number else "") + (f"_{dataset}" if len(run.datasets) > 1 else "")
            files += save_all(figure, run.dir, stem, vector=True)
    table = run.dir / "figures" / f"{name}.csv"
    write_bytes(table, csv_text(pd.DataFrame(lines)).encode())
    return [*files, table]


def _points(results: pd.DataFrame, x: str, presentation: str, y: str, at: str) -> pd.DataFrame:
    """Values and intervals of both metrics by arm, of arms that have both."""
    sides = []
    for metric, shown, prefix in ((x, presentation, "x"), (y, at, "y")):
        part = results[(results["metric"] == metric) & (results["presentation"] == shown)].set_index("arm")
        sides.append(part[["value", "ci_low", "ci_high"]].add_prefix(f"{prefix}_"))
    return sides[0].join(sides[1], how="inner").dropna(subset=["x_value", "y_value"])


def beaten(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (lower is better in both) another one beats: as good in both, and better in one."""
    return [any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points) for one in points]


def _draw(axis: Axes, points: pd.DataFrame, curves: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    for number, (label, arms) in enumerate(curves.items()):
        part = points.loc[[arm for arm in arms if arm in points.index]]
        if part.empty:
            continue
        look: dict[str, Any] = {"color": _COLOURS[number % 20], "marker": _MARKERS[number % 9]}
        axis.plot(part["x_value"], part["y_value"], ms=4, lw=1, label=words(label, 40), **look)
        for side, bars in (("x", "xerr"), ("y", "yerr")):
            ends = part[[f"{side}_ci_low", f"{side}_ci_high"]].to_numpy(float).T
            spread = np.nan_to_num(np.abs(ends - part[f"{side}_value"].to_numpy(float)))
            axis.errorbar(part["x_value"], part["y_value"], **{bars: spread}, fmt="none", ecolor=look["color"],
                          elinewidth=0.5, alpha=0.5)  # fmt: skip
    flags = beaten(list(zip(points["x_value"], points["y_value"], strict=True)))
    best = points[[not flag for flag in flags]].sort_values("x_value")
    axis.step(best["x_value"], best["y_value"], where="post", color="0.6", lw=0.8, zorder=0)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)
    return dict(zip(map(str, points.index), flags, strict=True))


def _told(
    points: pd.DataFrame, curves: Mapping[str, Sequence[str]], beaten: Mapping[str, bool], dataset: str,
    presentation: str, metric: str, of: str,
) -> list[dict[str, Any]]:  # fmt: skip
    lines: list[dict[str, Any]] = []
    for label, arms in curves.items():
        for arm in arms:
            if arm in points.index:
                numbers = dict(zip(points.columns, points.loc[arm].to_numpy(float).round(4).tolist(), strict=True))
                lines.append(
                    {"dataset": dataset, "presentation": presentation, "metric": metric, "of": of, "curve": label,
                     "arm": arm, "beaten": beaten[arm], **numbers}
                )  # fmt: skip
    return lines
