"""What the trainings over pictures share: clips, captions and latents over a frozen generator, and its loss.

The generator is the built-in one: its text encoder and autoencoder stay as they are, and so does its U-Net, but for
what a training adds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from blendbench.train.data.pictured import Pictured
from blendbench.train.pocket.frozen import Frozen
from blendbench.train.pocket.generator import Predict, parts_of, spread, stretch, timesteps

WIDTHS = ((0.4, 32), (1.0, 64))
"""Up to which share of the steps stretches of which width are seen, in latent columns of 80 ms: a tempo needs some."""
DECODER = ("up_blocks.",)
"""What of the U-Net an adapter changes."""
Told = Callable[[np.ndarray | None, Sequence[str]], Predict]
"""From the clips whose pictures are shown, or none, and captions to a prediction."""


class Scenes(Frozen):
    """Clips with pictures over a generator.

    Parameters
    ----------
    pictured : Path
        Folder of `blendbench train pictured`; latents are kept below it.
    checkpoint : str
        The generator's.
    device : str

    Raises
    ------
    BlendbenchError
        If clips or generator are missing.
    """

    def __init__(self, pictured: Path | str, checkpoint: str, device: str) -> None:
        super().__init__(checkpoint, device)
        self.data = Pictured.open(pictured)
        self.latents = self.latents_of(self.data.images, self.data.folder)

    def step(
        self,
        told: Callable[[np.ndarray, Sequence[str], Sequence[str]], tuple[Predict, torch.Tensor | float]],
        steps: int,
        batch: int,
    ) -> Callable[[int, np.random.Generator], torch.Tensor]:
        """The loss of a training's step.

        Parameters
        ----------
        told : callable
            From the clips, their texts (a tenth of the captions left out) and their captions to a prediction and a
            further loss.
        steps, batch : int
            In all; whole clips a step, or as many more stretches of them as cost the same.
        """
        own = self.data.of("train")

        def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
            width, count = stretch(step, steps, batch, WIDTHS, len(own))
            rows = draw.choice(own, count, replace=False)
            clean = self.latents[rows]
            clean = parts_of(clean, draw.integers(0, clean.shape[-1] - width + 1, count), width)
            captions = [str(draw.choice(self.data.rows[row]["captions"])) for row in rows]
            texts = ["" if draw.random() < 0.1 else one for one in captions]
            predict, further = told(rows, texts, captions)
            return self.loss(predict, clean, torch.randn(clean.shape), timesteps(draw, count)) + further

        return loss

    @torch.inference_mode()
    def held_out(self, told: Told) -> dict[str, float]:
        """Clips, and the mean loss on held-out songs with the right picture, that of another clip, and without one."""
        spaced = spread(self.data.of("held_out"))
        draw = torch.Generator().manual_seed(0)
        found: dict[str, list[float]] = {"held_out_loss": [], "held_out_loss_other": [], "held_out_loss_without": []}
        for place, (row, time) in enumerate(spaced):
            clean = self.latents[np.array([row])]
            noise = torch.randn(clean.shape, generator=draw)
            texts = [str(self.data.rows[row]["captions"][0])]
            other, _ = spaced[(place + len(spaced) // 2) % len(spaced)]
            for name, shown in zip(found, (np.array([row]), np.array([other]), None), strict=True):
                found[name].append(float(self.loss(told(shown, texts), clean, noise, time)))
        means = {name: round(float(np.mean(values)), 5) for name, values in found.items()}
        return {"clips": float(len(self.data.of("train")))} | means
