"""Figures of Msanii: mel spectrograms of what was made and of its sources, gaps boxed and beginnings marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import save_all, words
from blendbench.models.msanii import FrontEnd
from blendbench.runs.folder import Run


def spectrograms(
    run: Run,
    sources: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    pieces: int = 2,
    presentation: str | None = None,
    name: str = "spectrograms",
    first: str | None = None,
) -> list[Path]:
    """A column a piece, a row a source and an arm: log mel spectrograms (44.1 kHz, 128 mels), channels averaged.

    Parameters
    ----------
    run : Run
        Of the long-form task.
    sources : sequence of str
        Parts that are drawn first: "recording", "second".
    arms : sequence of str, optional
        All of the run's, in its order, where it is left out.
    pieces : int
        Columns at most.
    presentation : str, optional
        The run's first.
    name : str
    first : str, optional
        The clip of the first column.

    Raises
    ------
    BlendbenchError
        If there is nothing to draw.
    """
    shown = presentation or next(iter(run.presentations))
    rows = [row for row in run.rows() if row["status"] == "ok" and row["presentation"] == shown]
    chosen = list(arms) if arms is not None else [arm for arm in run.arms if any(row["arm"] == arm for row in rows)]
    by = {(row["arm"], row["pair_id"]): row for row in rows}
    names = sorted(
        dict.fromkeys(row["pair_id"] for row in rows if row["arm"] in chosen),
        key=lambda pair: next(row["clip"] for row in rows if row["pair_id"] == pair) != first,
    )[:pieces]
    lines = [*sources, *chosen]
    if not names or not lines:
        raise BlendbenchError(f"{run.dir}: has nothing to draw in figure {name}")
    figure = Figure(figsize=(1.2 + 3.6 * len(names), 1.5 * len(lines) + 0.5), layout="constrained")
    axes = figure.subplots(len(lines), len(names), squeeze=False)
    for column, pair in enumerate(names):
        any_row = next(row for row in rows if row["pair_id"] == pair)
        given: Any = run.task.given(any_row)
        for line, what in enumerate(lines):
            axis = axes[line][column]
            row = by.get((what, pair))
            wave = getattr(given, what, None) if line < len(sources) else None if row is None else run.heard(row)
            if wave is None:
                axis.set_axis_off()
                continue
            _draw(axis, wave, run.task.sample_rate)
            if line >= len(sources) and row is not None:
                _mark(axis, given, row, run.task.sample_rate)
            if column == 0:
                axis.set_ylabel(words(run.arms.get(what, what), 30, 16), fontsize=8)
        axes[0][column].set_title(words(any_row["clip"], 30), fontsize=9)
        axes[-1][column].set_xlabel("seconds", fontsize=8)
    return save_all(figure, run.dir, name)


def _draw(axis: Axes, wave: torch.Tensor, rate: int) -> None:
    front = FrontEnd(rate)
    mono = wave if wave.ndim == 1 else wave.mean(0)
    image = front.log_mel(mono).numpy()
    seconds = wave.shape[-1] / rate
    # A level that does not move with what is loudest in it: 0 dB to -80 dB of the image's own largest.
    top = float(np.quantile(image, 0.999))
    axis.imshow(image, cmap="magma", origin="lower", aspect="auto", vmin=top - 8, vmax=top, extent=(0, seconds, 0, 128))
    axis.set_yticks([])
    axis.tick_params(labelsize=7)


def _mark(axis: Axes, given: Any, row: Mapping[str, Any], rate: int) -> None:
    at = row.get("continues_at_s")
    if at is not None:
        axis.axvline(float(at), color="white", linestyle="--", linewidth=1)
    elif getattr(given, "gap", None) is not None:
        start, stop = given.gap.start / rate, given.gap.stop / rate
        axis.add_patch(Rectangle((start, 1), stop - start, 126, fill=False, edgecolor="white", linewidth=1.2))
