"""What trainings over a frozen generator share: its texts, latents and loss, and the copy that a training adds to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler

from blendbench.models.generator import Generator
from blendbench.train.pocket.generator import Latents, Predict, token_ids, velocity_loss


class Frozen:
    """A generator whose text encoder and autoencoder stay as they are, and its U-Net but for what a training adds.

    Parameters
    ----------
    checkpoint : str
    device : str

    Raises
    ------
    BlendbenchError
        If the generator is missing.
    """

    def __init__(self, checkpoint: str, device: str) -> None:
        generator = Generator("generator", checkpoint)
        self.device, self.base, self.model = device, generator.fingerprint, generator.get(device)
        self.scheduler = DDIMScheduler.from_config(dict(self.model.scheduler_config))

    def latents_of(self, images: np.ndarray, place: Path) -> Latents:
        """Latents of mel images [N, H, W], kept below a folder, where every training over them finds them."""
        folder = place / f"latents-{self.base}"
        folder.mkdir(exist_ok=True)
        return Latents(self.model.vae, images, folder)

    def words(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings [N, T, D] of texts."""
        with torch.no_grad():
            ids = token_ids(self.model.tokenizer, list(texts)).to(self.device)
            embedded: torch.Tensor = self.model.text_encoder(ids)[0]
        return embedded

    def loss(self, predict: Predict, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """The generator's own loss of a prediction for latents and noise [N, C, H, W] at time steps [N]."""
        clean, noise, times = (value.to(self.device) for value in (clean, noise, times))
        return velocity_loss(predict, self.scheduler, clean, noise, times)
