"""What the trainings of accompaniment share: batches of backgrounds, mixes and texts, over a frozen generator.

The generator is the built-in one: its text encoder and autoencoder stay as they are, and so does its U-Net, but for
what a training adds. Short stretches of clips come first, as in the generator's own training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from blendbench.train.data.stems import Stems
from blendbench.train.pocket.frozen import Frozen
from blendbench.train.pocket.generator import Predict, parts_of, spread, stretch, timesteps

WIDTHS = ((0.45, 16), (0.8, 32), (1.0, 64))
"""Up to which share of the steps stretches of which width are seen, in latent columns of 80 ms."""


class Batch(NamedTuple):
    """Some stretches of clips."""

    mix: torch.Tensor
    """Scaled latents [N, C, 64, w]"""
    background: torch.Tensor
    """The same of the background"""
    pixels: torch.Tensor
    """Grey pixels [N, 512, 8 w] of the background, in 0..255"""
    texts: list[str]


class Accompaniment(Frozen):
    """Stems over a generator.

    Parameters
    ----------
    stems : Path
        Folder of `blendbench train stems`; latents are kept below it.
    checkpoint : str
        The generator's.
    device : str

    Raises
    ------
    BlendbenchError
        If stems or generator are missing.
    """

    def __init__(self, stems: Path | str, checkpoint: str, device: str) -> None:
        super().__init__(checkpoint, device)
        self.stems = Stems(stems)
        flat = self.stems.images.reshape(-1, *self.stems.images.shape[2:])
        self.latents = self.latents_of(flat, self.stems.folder)

    def batch(self, rows: np.ndarray, width: int, draw: np.random.Generator) -> Batch:
        """Stretches of so many latent columns of the clips of some rows, each at a place of its own."""
        both = [self.latents[2 * rows + side] for side in (0, 1)]
        lefts = draw.integers(0, both[0].shape[-1] - width + 1, len(rows))
        background, mix = (parts_of(side, lefts, width) for side in both)
        pixels = torch.stack(
            [
                torch.from_numpy(self.stems.images[row, 0, :, 8 * left : 8 * (left + width)].astype(np.float32))
                for row, left in zip(rows, lefts, strict=True)
            ]
        )
        # What is asked for, in the words of an instruction or of a caption: either serves as a prompt later.
        texts = [
            str(draw.choice(self.stems.rows[row]["instructions" if draw.random() < 0.5 else "captions"]))
            for row in rows
        ]
        return Batch(mix, background, pixels, texts)

    def step(
        self, told: Callable[[Batch, np.random.Generator], Predict], steps: int, batch: int
    ) -> Callable[[int, np.random.Generator], torch.Tensor]:
        """The loss of a training's step; `told` makes a prediction of a batch."""
        rows = self.stems.of("train")

        def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
            width, count = stretch(step, steps, batch, WIDTHS, len(rows))
            drawn = self.batch(draw.choice(rows, count, replace=False), width, draw)
            return self.loss(told(drawn, draw), drawn.mix, torch.randn(drawn.mix.shape), timesteps(draw, count))

        return loss

    @torch.inference_mode()
    def held_out(self, told: Callable[[Batch, np.random.Generator], Predict], name: str) -> dict[str, Any]:
        """Mean loss on held-out songs, fixed noise, time steps spread evenly."""
        draw = np.random.default_rng(0)
        torch.manual_seed(0)
        losses = []
        for row, time in spread(self.stems.of("held_out")):
            drawn = self.batch(np.array([row]), 64, draw)
            predict = told(drawn, draw)
            losses.append(float(self.loss(predict, drawn.mix, torch.randn(drawn.mix.shape), time)))
        return {name: round(float(np.mean(losses)), 5)}
