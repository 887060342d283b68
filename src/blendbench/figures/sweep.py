"""The plot of a sweep."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blendbench.figures.drawing import COLOURS, save_all, words


def sweep(together: pd.DataFrame, keys: Mapping[str, str], metrics: Mapping[str, str], file: Path) -> None:
    """Plot a sweep: a panel a metric, the first key along the axis, a line an arm and value of the other keys.

    Parameters
    ----------
    together : DataFrame
        Results with a column a swept key, and `line`, which says of what in a job a result is.
    keys : mapping of str to str
        Columns by swept key.
    metrics : mapping of str to str
        Labels of those to show.
    file : Path
        PNG to write.
    """
    (first, column), *others = keys.items()
    texts = list(dict.fromkeys(together[column]))
    numbers = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(float)
    numeric = bool(np.isfinite(numbers).all())
    positions = dict(zip(texts, numbers if numeric else range(len(texts)), strict=True))
    width = 4.6 if numeric else max(4.6, 0.45 * len(texts))
    figure = Figure(figsize=(width * max(1, len(metrics)), 3.8), layout="constrained")
    axes = figure.subplots(1, max(1, len(metrics)), squeeze=False)[0]
    lines: dict[str, Any] = {}
    styles = itertools.product(("-", "--", ":", "-."), COLOURS)
    looks = dict(zip(dict.fromkeys(_lines(together, others)), itertools.cycle(styles), strict=False))
    for axis, (name, label_of) in zip(axes, metrics.items(), strict=False):
        picked = together[(together["metric"] == name) & together["value"].notna()]
        for label, group in picked.groupby(_lines(picked, others), sort=False):
            style, colour = looks[str(label)]
            x = group[column].map(positions).to_numpy(float)
            order = np.argsort(x, kind="stable")
            x, values = x[order], group["value"].to_numpy()[order]
            lines[str(label)] = axis.plot(x, values, marker="o", ms=3, ls=style, color=colour, label=label)[0]
            low, high = group["ci_low"].to_numpy()[order], group["ci_high"].to_numpy()[order]
            if not all(math.isnan(end) for end in low):
                axis.fill_between(x, low, high, alpha=0.1, color=colour)
        if not numeric:
            ticks = [words(text, 30) for text in texts]
            axis.set_xticks(list(positions.values()), ticks, rotation=20, ha="right", fontsize=7)
        axis.set_xlabel(first)
        axis.set_ylabel(label_of)
        axis.grid(alpha=0.3)
    if lines:
        figure.legend(lines.values(), lines, fontsize=6, loc="outside lower center", ncols=3)
    save_all(figure, file.parent.parent, file.stem)


def _lines(together: pd.DataFrame, others: Sequence[tuple[str, str]]) -> pd.Series:
    """What a line of a sweep's plot is called, for each result."""
    names = together["line"].map(lambda text: words(text, 120))
    for key, column in others:
        names = names + f", {key}=" + together[column].map(lambda text: words(text, 20))
    return names
