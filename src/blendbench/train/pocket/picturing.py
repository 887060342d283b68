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
from blendbench.train.pocket.generator import Predict, timesteps

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
        told: Told,
        steps: int,
        batch: int,
        beside: Callable[[np.ndarray, Sequence[str]], torch.Tensor] | None = None,
    ) -> Callable[[int, np.random.Generator], torch.Tensor]:
        """The loss of a training's step.

        Parameters
        ----------
        told : Told
        steps, batch : int
            In all; whole clips a step, or as many more stretches of them as cost the same.
        beside : callable, optional
            A further loss of the clips and their captions.
        """
        own = self.data.of("train")

        def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
            width = next(width for share, width in WIDTHS if step < share * steps or share == 1)
            count = min(batch * 64 // width, len(own))
            rows = draw.choice(own, count, replace=False)
            clean = self.latents[rows]
            lefts = draw.integers(0, clean.shape[-1] - width + 1, count)
            clean = torch.stack([one[..., left : left + width] for one, left in zip(clean, lefts, strict=True)])
            captions = [str(draw.choice(self.data.rows[row]["captions"])) for row in rows]
            texts = ["" if draw.random() < 0.1 else one for one in captions]
            value = self.loss(told(rows, texts), clean, torch.randn(clean.shape), timesteps(draw, count))
            return value if beside is None else value + beside(rows, captions)

        return loss

    @torch.inference_mode()
    def held_out(self, told: Told, limit: int = 48) -> dict[str, float]:
        """Clips, and the mean loss on held-out songs with the right picture, that of another clip, and without one."""
        rows = self.data.of("held_out")
        rows = rows[:: max(1, len(rows) // limit)][:limit]
        draw = torch.Generator().manual_seed(0)
        found: dict[str, list[float]] = {"held_out_loss": [], "held_out_loss_other": [], "held_out_loss_without": []}
        for place, row in enumerate(rows):
            clean = self.latents[np.array([row])]
            noise = torch.randn(clean.shape, generator=draw)
            time = torch.tensor([int((place + 0.5) / len(rows) * 1000)])
            texts = [str(self.data.rows[row]["captions"][0])]
            other = rows[(place + len(rows) // 2) % len(rows)]
            for name, shown in zip(found, (np.array([row]), np.array([other]), None), strict=True):
                found[name].append(float(self.loss(told(shown, texts), clean, noise, time)))
        means = {name: round(float(np.mean(values)), 5) for name, values in found.items()}
        return {"clips": float(len(self.data.of("train")))} | means
