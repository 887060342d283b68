"""Train the autoencoder of the built-in generator on mel images (512x512 pixels to 64x64 latents).

Conventions: pixels lie in -1..1 with loud = dark, as the diffusion sampler uses them; the grey image stands in all
three channels, so that the checkpoint has Stable Diffusion's interface. Latents are scaled to unit variance by
`scaling_factor`, which is measured after the training and saved in the model's config.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop

ARCHITECTURE: dict[str, Any] = {"latent_channels": 16, "width": 128, "encoder_blocks": 2, "decoder_blocks": 4}


def crops(
    images: np.ndarray, rows: np.ndarray, size: tuple[int, int], count: int, draw: np.random.Generator
) -> torch.Tensor:
    """Random crops [count, 3, height, width] in -1..1 of the images named by `rows`."""
    height, width = size
    out = np.empty((count, height, width), dtype=np.uint8)
    for item in range(count):
        image = images[draw.choice(rows)]
        top = draw.integers(0, image.shape[0] - height + 1)
        left = draw.integers(0, image.shape[1] - width + 1)
        out[item] = image[top : top + height, left : left + width]
    return to_pixels(out)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Bring grey images [N, H, W] in 0..255 to three channels in -1..1, channels last in memory."""
    grey = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    return grey[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def spectral_convergence(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Spectral convergence [N] of mel amplitudes (darkness to the fourth power) of images [N, ..., H, W] in -1..1."""
    darkness = [((1 - image) / 2).clamp(0, 1.2).flatten(1) for image in (output, target)]
    estimate, wanted = (values**4 for values in darkness)
    return (estimate - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-6)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, convergence_weight: float = 0.5) -> torch.Tensor:
    """Absolute and squared pixel error plus spectral convergence, which follows the loud pixels."""
    error = output - target
    pixels = (error.abs() + 4 * error.square()).mean()
    return pixels + convergence_weight * spectral_convergence(output, target).mean()


def train(
    cache: ClipCache | Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 4,
    crop: tuple[int, int] = (256, 256),
    learning_rate: float = 1e-3,
    latent_noise: float = 0.03,
    noise_share: float = 0.25,
    log_every: int = 50,
    architecture: dict[str, Any] | None = None,
    device: str = "cpu",
) -> dict:
    """Train for a number of steps on the cache's training rows and save to `out` in diffusers' format.

    Parameters
    ----------
    cache : ClipCache
        Clips with mel images, or their folder; rows of split "train" take part, music and noise.
    steps : int
        Optimisation steps in all; a stopped training goes on.
    latent_noise : float
        Standard deviation of the noise on the latents that the decoder learns to bear, in latent units.
    noise_share : float
        Share of noise images among the crops, in 0..1.
    architecture : dict, optional
        Settings of `PatchAutoencoder` other than `ARCHITECTURE`.
    device : str
        Torch device.

    Returns
    -------
    dict
        Figures for the card: steps, minutes, and those of `evaluate`, at the start and at the end.

    Raises
    ------
    BlendbenchError
        If the cache holds no training image.
    """
    cache, out = opened(cache), Path(out)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    music, noise = cache.rows(split="train", kind="music"), cache.rows(split="train", kind="noise")
    if not len(music):
        raise BlendbenchError(f"{cache.folder}: no training images; run `blendbench train data` first")
    of_noise = round(noise_share * batch) if len(noise) else 0
    model = PatchAutoencoder(**(architecture or ARCHITECTURE)).to(memory_format=torch.channels_last)
    first = np.sort(draw.choice(music, min(150, len(music)), replace=False))
    others = np.sort(draw.choice(noise, min(50, len(noise)), replace=False)) if len(noise) else noise
    model.start_from_patches(to_pixels(cache.images[np.concatenate([first, others])]))
    model.to(device)
    linear = evaluate(model, cache)
    linear.pop("scaling_factor")
    loop = Loop(
        "autoencoder",
        list(model.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "crop": list(crop), "seed": seed, "learning_rate": learning_rate},
        warm_up=100,
        decay=0.995,
        betas=(0.9, 0.98),
        weight_decay=1e-3,
        log_every=log_every,
        device=device,
        mixed=False,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        parts = [crops(cache.images, music, crop, batch - of_noise, draw)]
        if of_noise:
            parts.append(crops(cache.images, noise, crop, of_noise, draw))
        pixels = torch.cat(parts).to(device)
        latents = model.to_latents(pixels)
        # Small noise on the latents makes the decoder tolerant of the sampler's errors.
        latents = latents + latent_noise * torch.randn_like(latents)
        return reconstruction_loss(model.to_images(latents)[:, :1], pixels[:, :1])

    loop.run(loss)
    model.eval()
    figures = evaluate(model, cache)
    model.register_to_config(scaling_factor=figures.pop("scaling_factor"))
    model.save_pretrained(out)
    clips = {"music_clips": len(music), "noise_clips": len(noise)}
    return loop.report(out / "training.json", clips | figures | {"linear": linear})


@torch.inference_mode()
def evaluate(model: PatchAutoencoder, cache: ClipCache, limit: int = 48) -> dict:
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
        rows = cache.rows(split="held_out", kind=kind)
        for row in rows[:: max(1, len(rows) // limit)][:limit]:
            pixels = to_pixels(cache.images[row : row + 1]).to(model.device)
            latents = model.to_latents(pixels)
            output = model.to_images(latents)[:, :1].clamp(-1, 1)
            spread.append(latents)
            errors.append(float((output - pixels[:, :1]).square().mean()))
            convergence.append(float(spectral_convergence(output, pixels[:, :1])))
        if errors:
            figures[f"psnr_db_{kind}"] = round(float(np.mean([10 * math.log10(4 / e) for e in errors])), 2)
            figures[f"spectral_convergence_{kind}"] = round(float(np.mean(convergence)), 4)
    figures["scaling_factor"] = 1 / float(torch.cat(spread).std()) if spread else 1.0
    return figures
