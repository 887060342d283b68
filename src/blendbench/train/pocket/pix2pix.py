"""Train the built-in Riff-P2P: the generator's U-Net with the background's latents beside the noisy ones.

The published one is a whole U-Net; here the first convolution is widened, and the rest learns through a low-rank
adapter. One uniform number an item drops conditions: the text below .10, the image from .05 to .15, so that both are
missing in a twentieth (Brooks et al., 2023, and Riff-P2P's code).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.models import lora, pix2pix
from blendbench.train.loop import Loop
from blendbench.train.pocket.accompanying import Accompaniment, Batch
from blendbench.train.pocket.generator import Predict, worded


def train(
    stems: Path | str,
    out: Path | str,
    *,
    steps: int,
    checkpoint: str = "pocket",
    rank: int = 24,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict[str, Any]:
    """Train for a number of steps and write `adapter.safetensors` to `out`; a stopped training goes on.

    Parameters
    ----------
    stems : Path
        Folder of `blendbench train stems`.
    steps : int
        Optimisation steps in all.
    checkpoint : str
        The generator's.
    rank : int
        Of the adapter.
    batch : int
        Whole clips a step, or as many more stretches of them as cost the same.

    Returns
    -------
    dict
        Figures for the card.

    Raises
    ------
    BlendbenchError
        If stems or generator are missing, or the kept state is of another training.
    """
    out = Path(out)
    data = Accompaniment(stems, checkpoint, device)
    unet, scale = data.model.unet, data.model.vae.config.scaling_factor
    without = data.held_out(lambda drawn, draw: worded(unet, data.words(drawn.texts)), "held_out_loss_without")
    pix2pix.widen(unet)
    parts = lora.attach(unet, rank, seed)
    unet.conv_in.requires_grad_(True)
    loop = Loop(
        "pix2pix",
        [*unet.conv_in.parameters(), *lora.parameters(parts)],
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "rank": rank, "base": data.base},
        warm_up=50,
        decay=0.998,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def told(drawn: Batch, draw: np.random.Generator, drop: bool = True) -> Predict:
        dropped = draw.random(len(drawn.texts)) if drop else np.ones(len(drawn.texts))
        text = data.words(["" if r < 0.10 else one for r, one in zip(dropped, drawn.texts, strict=True)])
        kept = torch.from_numpy(~((dropped >= 0.05) & (dropped < 0.15))).float()[:, None, None, None]
        # The image's latents are not scaled.
        images = (drawn.background / scale * kept).to(device)
        return lambda noisy, times: unet(torch.cat([noisy, images], 1), times, encoder_hidden_states=text).sample

    unet.train()
    loop.run(data.step(told, steps, batch))
    unet.eval()
    figures = {"clips": len(data.stems.of("train"))} | without
    figures |= data.held_out(lambda drawn, draw: told(drawn, draw, False), "held_out_loss")
    pix2pix.save(parts, unet, out / pix2pix.FILE)
    return loop.report(out / "training.json", figures)
