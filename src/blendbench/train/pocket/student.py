"""Distil the built-in generator to few steps, without guidance at sampling time: a low-rank adapter of its U-Net.

As in progressive distillation (Salimans and Ho 2022), the student's one step of the DDIM sampler has to land where the
teacher arrives in several smaller ones; here the teacher's steps are guided, so the student learns guidance as well
(Meng et al. 2023). The start of a step is a noised clip of the training set.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler

from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop
from blendbench.train.pocket.generator import Latents

FILE = "few_step.safetensors"


def train(
    cache: ClipCache | Path | str,
    folder: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 8,
    sampler_steps: int = 8,
    substeps: int = 3,
    guidance_scale: float = 3.0,
    rank: int = 8,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    log_every: int = 10,
    save_every: int = 50,
) -> dict:
    """Train for a number of steps and write `adapters/few_step.safetensors` to the generator's folder.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train" with captions.
    folder : Path
        The finished generator, which `generator.train` wrote.
    steps : int
        Optimisation steps in all; a stopped training goes on.
    sampler_steps : int
        Steps in which the student shall sample.
    substeps : int
        The teacher's steps for one of the student's.
    guidance_scale : float
        The teacher's guidance.
    device : str
        Torch device; the networks run in bfloat16 where it is fast at that.

    Returns
    -------
    dict
        Figures for the card.

    Raises
    ------
    BlendbenchError
        If the generator or the training music is missing.
    """
    cache, folder = opened(cache), Path(folder)
    rows = cache.rows(split="train", kind="music")
    if not len(rows):
        raise BlendbenchError(f"{cache.folder}: no training music; run `blendbench train data` first")
    model = LatentDiffusion.load(folder, device)
    unet = model.unet
    scheduler = DDIMScheduler.from_config(dict(model.scheduler_config))
    parts = lora.attach(unet, rank, seed)
    settings: dict = {"steps": steps, "batch": batch, "seed": seed, "sampler_steps": sampler_steps, "rank": rank}
    settings |= {"substeps": substeps, "guidance_scale": guidance_scale, "learning_rate": learning_rate}
    loop = Loop(
        "student",
        lora.parameters(parts),
        folder / "adapters" / "few_step.state.pt",
        settings,
        warm_up=20,
        decay=0.99,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )
    latents = Latents(model.vae, cache.images, folder)

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        chosen = draw.choice(rows, min(batch, len(rows)), replace=False)
        clean = latents[chosen]
        texts = [str(draw.choice(cache.clips[row]["captions"])) for row in chosen]
        embeddings, empty = encode_prompts(model, texts)
        assert empty is not None  # a negative prompt is given
        # Which of the student's steps: spread evenly over the batch, so that each is trained all the time.
        spread = (draw.permutation(len(chosen)) + draw.random()) / len(chosen)
        index = torch.from_numpy((spread * sampler_steps).astype(np.int64).clip(0, sampler_steps - 1))
        noise = torch.randn(clean.shape)
        clean, noise, index = (value.to(device) for value in (clean, noise, index))
        words = (embeddings, empty)
        return distillation_loss(
            unet, parts, scheduler, clean, noise, index, words, sampler_steps, substeps, guidance_scale
        )

    loop.run(loss)
    lora.save(parts, folder / "adapters" / FILE)
    return loop.report(folder / "adapters" / "training.json", {})


def distillation_loss(
    unet: torch.nn.Module,
    parts: dict[str, lora.LowRank],
    scheduler: DDIMScheduler,
    clean: torch.Tensor,
    noise: torch.Tensor,
    index: torch.Tensor,
    embeddings: tuple[torch.Tensor, torch.Tensor],
    sampler_steps: int,
    substeps: int,
    guidance_scale: float,
) -> torch.Tensor:
    """Squared error of the student's velocity to the one that leads, in one step, to where the teacher arrives.

    Parameters
    ----------
    clean, noise : torch.Tensor [N, C, H, W]
        Scaled latents of clips, and noise.
    index : torch.Tensor [N]
        Which of the student's steps each item takes, 0 being the noisiest.
    embeddings : tuple of two torch.Tensor [N, T, D]
        Of the captions, and of the empty prompt.
    """
    fine = times(scheduler, sampler_steps * substeps).to(clean.device)
    start = fine[index * substeps]
    noisy = scheduler.add_noise(clean, noise, start)
    with torch.no_grad():
        switch(parts, on=False)
        x = noisy
        for turn in range(substeps):
            now, after = fine[index * substeps + turn], fine[index * substeps + turn + 1]
            both = unet(torch.cat([x, x]), torch.cat([now, now]), torch.cat([embeddings[1], embeddings[0]])).sample
            without, towards = both.float().chunk(2)
            slope, change = transfer(scheduler, now, after)
            x = slope * x + change * (without + guidance_scale * (towards - without))
        slope, change = transfer(scheduler, start, fine[(index + 1) * substeps])
        target = (x - slope * noisy) / change
        switch(parts, on=True)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    return (unet(noisy, start, embeddings[0]).sample.float() - target).square().mean()


def times(scheduler: DDIMScheduler, steps: int) -> torch.Tensor:
    """The sampler's time steps, and -1 for the clean end: [steps + 1]."""
    scheduler.set_timesteps(steps)
    return torch.cat([scheduler.timesteps, torch.tensor([-1])])


def transfer(scheduler: DDIMScheduler, now: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """DDIM's step is linear in latents x and velocity v: factors a, b [N, 1, 1, 1] of its result a x + b v."""
    kept = torch.cat([scheduler.alphas_cumprod, torch.ones(1)]).to(now.device)  # index -1: clean
    (alpha, sigma), (alpha_after, sigma_after) = (
        (kept[t].sqrt()[:, None, None, None], (1 - kept[t]).sqrt()[:, None, None, None]) for t in (now, after)
    )
    return alpha_after * alpha + sigma_after * sigma, sigma_after * alpha - alpha_after * sigma


def switch(parts: dict[str, lora.LowRank], *, on: bool) -> None:
    """Switch the adapter on (student) or off (teacher)."""
    for part in parts.values():
        part.on = on
