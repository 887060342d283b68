"""Figures of Riff-CNET: what it is told of a background, and what becomes of noise under it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import kept_image, save_all, words
from blendbench.methods.riff_cnet import RiffCNET
from blendbench.runs.folder import Run
from blendbench.sound.edges import Edges
from blendbench.sound.mel import encode_image, mel_of


def hints(
    run: Run,
    variants: Mapping[str, Mapping[str, Any]],
    clips: int = 3,
    target: bool = True,
    name: str = "fig4",
) -> list[Path]:
    """Figs. 4 and 7 of Riff-CNET: the target's image, the background's, and hints of it.

    Parameters
    ----------
    run : Run
        Of the accompaniment task.
    variants : dict of str to dict
        Titles, and fields of `sound.edges.Edges`.
    clips : int
        Rows.
    target : bool
        Whether the target is drawn, of clips that have one.
    name : str

    Raises
    ------
    BlendbenchError
        If no clip can be read.
    """
    chosen = {row["pair_id"]: row for row in run.rows() if row["status"] == "ok"}
    rows = list(chosen.values())[:clips]
    if not rows:
        raise BlendbenchError(f"{run.dir}: has no clip to draw in figure {name}")
    titles = [*(["target"] if target else []), "background", *variants]
    figure = Figure(figsize=(2.1 * len(titles), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        given: Any = run.task.given(row)
        background = encode_image(mel_of(given.background)[None])[0]
        images: list[torch.Tensor | None] = []
        if target:
            images.append(None if given.target is None else encode_image(mel_of(given.target)[None])[0][0])
        images += [background[0], *(255 * Edges(**one).of(background)[0, 0] for one in variants.values())]
        for axis, image in zip(line, images, strict=True):
            _draw(axis, image)
        line[0].set_ylabel(f"{words(row['genre'], 36)}\n{words(row['prompt'], 36)}", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(words(title, width=30), fontsize=9)
    return save_all(figure, run.dir, name)


def sampling_steps(run: Run, clips: int = 2, arm: str = "riff_cnet", name: str = "fig6") -> list[Path]:
    """Fig. 6 of Riff-CNET: what the autoencoder makes of noisy latents after some steps, and the music's image.

    The steps are those of the arm's `shown`; images are kept with `keep_images=true`.

    Raises
    ------
    BlendbenchError
        If the arm is no Riff-CNET that keeps such images.
    """
    method = run.methods.get(arm)
    if not isinstance(method, RiffCNET) or not method.shown:
        raise BlendbenchError(f"figure {name}: arm {arm} keeps no images of steps; set arms.{arm}.shown=[0, 5, 10]")
    rows = [row for row in run.rows() if row["status"] == "ok" and row["arm"] == arm][:clips]
    if not rows:
        raise BlendbenchError(f"{run.dir}: has no clip of arm {arm} to draw in figure {name}")
    kinds = {f"after {step} steps": f"step{step}" for step in method.shown}
    kinds |= {f"after {method.sampling.steps} steps": "music", "edges": "hint", "background": method.source}
    figure = Figure(figsize=(2.1 * len(kinds), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), len(kinds), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, kind in zip(line, kinds.values(), strict=True):
            _draw(axis, kept_image(run.dir, arm, row, kind))
        line[0].set_ylabel(f"{words(row['genre'], 36)}\n{words(row['prompt'], 36)}", fontsize=8)
    for axis, title in zip(axes[0], kinds, strict=True):
        axis.set_title(title, fontsize=9)
    return save_all(figure, run.dir, name)


def _draw(axis: Any, image: torch.Tensor | None) -> None:
    if image is not None:
        axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=255, aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
