"""Train the built-in image model: a small latent diffusion model of drawn pictures, which stays frozen afterwards.

What it is for is its attention's keys and values, not the pictures that it would paint. It has no text: what stands for
the empty prompt is a row of zeros. The autoencoder is the patches' principal components.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.visual import SCHEDULE, Visual
from blendbench.train.data import drawn
from blendbench.train.loop import Loop
from blendbench.train.pocket.generator import Predict, timesteps, velocity_loss

LATENTS = 8
UNET: dict[str, Any] = {
    "sample_size": drawn.SIZE // 8,
    "in_channels": LATENTS,
    "out_channels": LATENTS,
    "layers_per_block": 1,
    "block_out_channels": [32, 48, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
CONFIG = SCHEDULE | {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False}


def any_pictures(draw: np.random.Generator, count: int) -> torch.Tensor:
    """Pictures [N, 3, 256, 256] in -1..1 of facts drawn evenly."""
    images = []
    for _ in range(count):
        tempo = drawn.SLOWEST * (drawn.FASTEST / drawn.SLOWEST) ** draw.random()
        minor, drums = draw.random(2) < 0.5
        style = drawn.STYLES[draw.integers(len(drawn.STYLES))]
        image = drawn.draw(tempo, bool(minor), bool(drums), style, int(draw.integers(2**31)))
        images.append(np.asarray(image, dtype=np.float32))
    return torch.from_numpy(np.stack(images) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def train(
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 16,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict[str, Any]:
    """Train for a number of steps and write the image model to `out`; a stopped training goes on.

    Parameters
    ----------
    steps : int
        Optimisation steps in all.
    batch : int
        Pictures a step; drawn anew each time.

    Returns
    -------
    dict
        Figures for the card: the loss on pictures drawn by another seed, the autoencoder's error.

    Raises
    ------
    BlendbenchError
        If the kept state is of another training.
    """
    out = Path(out)
    first = any_pictures(np.random.default_rng([seed, 8]), 256)
    vae = PatchAutoencoder(
        latent_channels=LATENTS, width=8, encoder_blocks=0, decoder_blocks=0, sample_size=drawn.SIZE, colour=True
    ).eval()
    vae.start_from_patches(first)
    with torch.no_grad():
        latents = vae.to_latents(first)
        error = float((vae.to_images(latents) - first).square().mean().sqrt())
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    visual = Visual(unet.to(device), vae.to(device), torch.zeros(1, 1, UNET["cross_attention_dim"]), CONFIG)
    scheduler = DDIMScheduler(**CONFIG)
    loop = Loop(
        "visual",
        unet.parameters(),
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate},
        warm_up=50,
        decay=0.998,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def predict() -> Predict:
        return lambda noisy, times: visual.asked(noisy, times)

    def loss_of(pictures: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        clean = visual.latents(pictures)
        return velocity_loss(predict(), scheduler, clean, noise.to(device), times.to(device))

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        noise = torch.randn(batch, LATENTS, UNET["sample_size"], UNET["sample_size"])
        return loss_of(any_pictures(draw, batch), noise, timesteps(draw, batch))

    unet.train()
    loop.run(loss)
    unet.eval()
    with torch.inference_mode():
        held = any_pictures(np.random.default_rng([seed, 9]), 64)
        noise = torch.randn(64, LATENTS, *2 * [UNET["sample_size"]], generator=torch.Generator().manual_seed(0))
        held_out = float(loss_of(held, noise, torch.arange(64) * 1000 // 64 + 7))
    visual.save(out)
    return loop.report(out / "training.json", {"held_out_loss": round(held_out, 5), "patch_error": round(error, 4)})
