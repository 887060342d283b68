"""Figures of SimDPS: what becomes of a fill when its guide is a worse match."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import COLOURS, save_all, words
from blendbench.runs.folder import Run
from blendbench.store.write import write_bytes
from blendbench.texts import csv_text


def against_match(
    run: Run, groups: Mapping[str, Sequence[str]], metric: str = "lsd", name: str = "similarity"
) -> list[Path]:
    """A metric of every result against the distance of the place that it comes from, or was guided by.

    A line a group joins its arms' means; its label holds Spearman's rank correlation over all results. `NAME.csv` holds
    every point.

    Parameters
    ----------
    run : Run
    groups : dict of str to list of str
        Labels, and arms, the best match first; those that the run lacks are left out.
    metric : str
        Of which `scores.csv` has a value a result.
    name : str

    Raises
    ------
    BlendbenchError
        If no result has both.
    """
    scores = run.texts("scores.csv")
    told = pd.DataFrame([row for row in run.rows() if "distance" in row])
    if metric not in scores or told.empty:
        raise BlendbenchError(f"{run.dir}: no result of figure {name} has a {metric} and a match; run arms that search")
    keys = ["dataset", "arm", "presentation", "pair_id"]
    scores[metric] = pd.to_numeric(scores[metric], errors="coerce")
    both = told[[*keys, "distance"]].merge(scores[[*keys, metric]], on=keys).dropna()
    both = both[both["presentation"] == next(iter(run.presentations))]
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axis, lines = figure.subplots(), []
    for number, (label, arms) in enumerate(groups.items()):
        part = both[both["arm"].isin(list(arms))]
        if part.empty:
            continue
        rank = stats.spearmanr(part["distance"], part[metric]).statistic if len(part) > 2 else np.nan
        colour = COLOURS[number % len(COLOURS)]
        axis.scatter(part["distance"], part[metric], s=12, color=colour, alpha=0.5, linewidths=0)
        means = (
            part.groupby("arm")[["distance", metric]].mean().reindex([arm for arm in arms if arm in set(part["arm"])])
        )
        axis.plot(means["distance"], means[metric], "o-", color=colour, label=f"{words(label, 40)} (rank {rank:.2f})")
        lines.append(part.assign(group=label))
    if not lines:
        raise BlendbenchError(f"{run.dir}: no arm of figure {name} is there; run them")
    axis.set_xlabel("distance of the match")
    axis.set_ylabel(run.fact(metric).label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    table = run.dir / "figures" / f"{name}.csv"
    write_bytes(table, csv_text(pd.concat(lines)[["group", *keys, "distance", metric]]).encode())
    return [*save_all(figure, run.dir, name, vector=True), table]
