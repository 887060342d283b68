"""Train the KL autoencoder of the pocket generator on mel images (512x512 pixels to 64x64x4 latents).

Conventions: pixels lie in -1..1 with loud = dark, as the diffusion sampler uses them; the grey image stands in all
three channels, so that the checkpoint has Stable Diffusion's format. Latents are scaled to unit variance by
`scaling_factor`, which is measured after the training and saved in the model's config.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import mse_loss

from blendbench.errors import BlendbenchError
from blendbench.train.cache import ClipCache

ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 24, 64, 96],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 512,
}


def crops(
    images: np.ndarray, rows: np.ndarray, size: tuple[int, int], batch: int, generator: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Yield batches [batch, 3, height, width] in -1..1 of random crops of the images named by `rows`, for ever."""
    height, width = size
    while True:
        out = np.empty((batch, height, width), dtype=np.uint8)
        for item in range(batch):
            image = images[generator.choice(rows)]
            top = generator.integers(0, image.shape[0] - height + 1)
            left = generator.integers(0, image.shape[1] - width + 1)
            out[item] = image[top : top + height, left : left + width]
        yield to_pixels(out)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Bring grey images [N, H, W] in 0..255 to three channels in -1..1, channels last in memory."""
    grey = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    return grey[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Weighted absolute and squared error; loud pixels weigh up to four times (amplitude is darkness^4)."""
    weight = 1 + 3 * ((1 - target) / 2) ** 2
    error = output - target
    return (weight * (error.abs() + 4 * error.square())).mean()


def train(
    cache: ClipCache,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = 4,
    crop: tuple[int, int] = (128, 256),
    learning_rate: float = 2e-3,
    kl_weight: float = 1e-6,
    noise_share: float = 0.25,
    freeze_encoder: bool = False,
    log_every: int = 50,
) -> dict:
    """Train for `minutes` of wall time on the cache's training rows and save to `out` in diffusers' format.

    Parameters
    ----------
    cache : ClipCache
        Clips with mel images; rows of split "train" take part, music and noise.
    minutes : float
        Wall time of the optimisation, in minutes; the learning rate falls to zero over it (cosine).
    noise_share : float
        Share of noise images among the crops, in 0..1.
    freeze_encoder : bool
        Go on from the weights in `out` and train the decoder alone, so that latents made before stay valid.

    Returns
    -------
    dict
        Figures for the card: steps, images seen, final losses, peak signal-to-noise ratio in dB on held-out images.

    Raises
    ------
    BlendbenchError
        If the cache holds no training image.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    music, noise = cache.rows(split="train", kind="music"), cache.rows(split="train", kind="noise")
    if not len(music):
        raise BlendbenchError(f"{cache.folder}: no training images; run `blendbench train data` first")
    batches = crops(cache.images, music, crop, batch, draw)
    noise_batches = crops(cache.images, noise, crop, 1, draw) if len(noise) else None
    model = AutoencoderKL.from_pretrained(out) if freeze_encoder else AutoencoderKL(**ARCHITECTURE)
    model = model.to(memory_format=torch.channels_last)
    for part in (model.encoder, model.quant_conv) if freeze_encoder else ():
        part.requires_grad_(False)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
    start, step, history = time.monotonic(), 0, []
    averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        done = elapsed / minutes
        rate = learning_rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels = next(batches)
        if noise_batches is not None and draw.random() < noise_share * batch:
            pixels[0] = next(noise_batches)[0]
        posterior = model.encode(pixels).latent_dist
        # Small noise on the latents makes the decoder tolerant of the sampler's errors.
        latents = posterior.sample()
        loss = reconstruction_loss(model.decode(latents).sample, pixels)
        kl = posterior.kl().mean() / latents[0].numel()
        optimizer.zero_grad(set_to_none=True)
        (loss + kl_weight * latents[0].numel() * kl).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                averaged[name].lerp_(value, 1 - decay)
        if step % log_every == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": round(float(loss), 5)})
            print(
                f"autoencoder {step} steps, {elapsed:.1f} min, loss {float(loss):.4f}, kl {float(kl):.2f}", flush=True
            )
            _save(model, averaged, out)
    model.load_state_dict(averaged)
    model.eval()
    if freeze_encoder:
        figures = json.loads((out / "training.json").read_text())
        history = figures.pop("history") + history
        figures |= {"refined_steps": step, "refined_minutes": round(minutes, 1)}
        scaling_factor = model.config.scaling_factor
    else:
        figures = {"steps": step, "batch": batch, "crop": list(crop), "minutes": round(minutes, 1), "seed": seed}
        scaling_factor = None
    figures |= evaluate(model, cache)
    measured = figures.pop("scaling_factor")
    model.register_to_config(scaling_factor=scaling_factor or measured)
    model.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(figures | {"history": history}, indent=1) + "\n")
    return figures


def _save(model: AutoencoderKL, averaged: dict, out: Path) -> None:
    """Keep the averaged weights on disk, so that a stopped training is not lost."""
    current = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(averaged)
    model.save_pretrained(out)
    model.load_state_dict(current)


@torch.inference_mode()
def evaluate(model: AutoencoderKL, cache: ClipCache, limit: int = 24) -> dict:
    """Measure the round trip on held-out images and the latents' scale.

    Returns
    -------
    dict
        `psnr_db` (pixels, mean over images), `spectral_convergence` (mel amplitudes = darkness to the fourth power,
        mean over images), each for music and noise, and `scaling_factor` = 1 / standard deviation of the latents.
    """
    figures: dict = {}
    spread = []
    for kind in ("music", "noise"):
        errors, convergence = [], []
        for row in cache.rows(split="held_out", kind=kind)[:limit]:
            pixels = to_pixels(cache.images[row : row + 1])
            latents = model.encode(pixels).latent_dist.mode()
            output = model.decode(latents).sample.mean(1).clamp(-1, 1)
            spread.append(latents)
            errors.append(float(mse_loss(output, pixels[:, 0])))
            target, estimate = (((1 - image) / 2) ** 4 for image in (pixels[:, 0], output))
            convergence.append(float((target - estimate).norm() / target.norm()))
        if errors:
            figures[f"psnr_db_{kind}"] = round(float(np.mean([10 * math.log10(4 / e) for e in errors])), 2)
            figures[f"spectral_convergence_{kind}"] = round(float(np.mean(convergence)), 4)
    figures["scaling_factor"] = 1 / float(torch.cat(spread).std()) if spread else 1.0
    return figures
