"""Train Msanii: first the vocoder with the scaling, then the U-Net, as the paper does; what is built in is small.

The vocoder learns magnitudes from scaled mel spectrograms by spectral convergence and log magnitudes alike; the U-Net
the noise in scaled mel spectrograms. The card compares both with simple ones on songs that were held out.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.models.mel_diffusion import TRAINED_TIMES, alpha_bar, noised
from blendbench.models.msanii import FLOOR, Msanii
from blendbench.models.weights import checkpoint_hash
from blendbench.train.data.piano import Piano
from blendbench.train.data.pieces import RMS
from blendbench.train.loop import Loop

TIMES = (20, 100, 250, 500, 750, 950)
"""At which the loss on held-out songs is told."""


def train_vocoder(
    songs: Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 1e-3,
    frames: int = 128,
    front: dict[str, Any] | None = None,
    scaling: dict[str, Any] | None = None,
    unet: dict[str, Any] | None = None,
    vocoder: dict[str, Any] | None = None,
    schedule: str = "cosine",
    betas: tuple[float, float] = (0.9, 0.99),
    device: str = "cpu",
    log_every: int = 50,
) -> dict[str, Any]:
    """Train the vocoder and fit the scaling; saves a model whose U-Net has learnt nothing yet to `out`.

    Parameters
    ----------
    songs : Path
        Folder of `blendbench train msanii_songs`.
    frames : int
        Length of an example.
    front, scaling, unet, vocoder : dict
        See `models.msanii.Msanii`; the sample rate and channels are the songs'.
    schedule : "cosine" or "flat"
        Of the learning rate; flat is the paper's: a third of it at first, all of it from the 500th step on.

    Raises
    ------
    BlendbenchError
        If no songs are there, or a setting is out of range.
    """
    data, out = Piano(songs), Path(out)
    torch.manual_seed(seed)
    model = Msanii(
        {"sample_rate": data.sample_rate} | (front or {}), scaling, unet, vocoder, data.channels, RMS
    ).to(device)  # fmt: skip
    if model.front.sample_rate != data.sample_rate:
        raise BlendbenchError(
            f"training.front.sample_rate={model.front.sample_rate}: {songs} has {data.sample_rate} Hz; leave it out"
        )
    samples = (frames - 1) * model.front.hop
    if model.scaler.fit == "dataset":
        every = [_crops(data, "train", 1, samples, np.random.default_rng([seed, 1, one])) for one in range(400)]
        model.scaler.fit_to(torch.cat([model.front.log_mel(one) for one in every]))
    loop = Loop(
        "msanii vocoder",
        list(model.vocoder.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "frames": frames},
        warm_up=100,
        decay=0.999,
        betas=betas,
        others=[model.scaler],
        log_every=log_every,
        device=device,
        mixed=False,
        flat=_flat(schedule),
    )
    model.scaler.train()

    def loss(step: int, draw: np.random.Generator) -> Tensor:
        wanted = model.front.magnitudes(_crops(data, "train", batch, samples, draw).to(device))
        with torch.no_grad():
            scaled = model.scaler((model.front.mel(wanted) + FLOOR).log())
        return sum(vocoder_losses(model.vocoder(scaled), wanted), torch.zeros((), device=device))

    loop.run(loss)
    model.eval()
    model.save(out)
    return loop.report(out / "training.json", {"songs": len(data.songs["train"])} | held_out_vocoder(model, data, seed))


def vocoder_losses(made: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Spectral convergence over the whole batch, and the mean difference of log magnitudes (section 2.1)."""
    convergence = torch.linalg.vector_norm(made - wanted) / torch.linalg.vector_norm(wanted)
    return convergence, ((made + 1e-6).log() - (wanted + 1e-6).log()).abs().mean()


@torch.inference_mode()
def held_out_vocoder(model: Msanii, data: Piano, seed: int = 0, count: int = 40) -> dict[str, Any]:
    """Convergence and log magnitude of vocoder and pseudo-inverse on stretches of held-out songs."""
    samples = 255 * model.front.hop
    found: dict[str, list[float]] = {}
    draw = np.random.default_rng([seed, 2])
    for _ in range(count):
        wanted = model.front.magnitudes(_crops(data, "held_out", 1, samples, draw).to(model.device))
        scaled = model.scaler((model.front.mel(wanted) + FLOOR).log())
        for name, vocoder in (("vocoder", True), ("pseudo_inverse", False)):
            made = model.magnitudes(scaled, vocoder)
            for loss, value in zip(("convergence", "log"), vocoder_losses(made, wanted), strict=True):
                found.setdefault(f"{name}_{loss}", []).append(float(value))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def train(
    songs: Path | str,
    vocoder: Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 4,
    learning_rate: float = 5e-4,
    frames: int = 512,
    loss: str = "l2",
    late: float = 1.0,
    schedule: str = "cosine",
    betas: tuple[float, float] = (0.9, 0.99),
    decay: float = 0.999,
    start: Path | str | None = None,
    device: str = "cpu",
    log_every: int = 50,
) -> dict[str, Any]:
    """Train the U-Net of a model whose vocoder is trained, and save all of it to `out`.

    Parameters
    ----------
    songs : Path
        Folder of `blendbench train msanii_songs`.
    vocoder : Path
        Folder of `blendbench train msanii_vocoder`.
    frames : int
        Length of an example, a multiple of the U-Net's factor.
    loss : "l2" or "l1"
        The paper's, or the code's.
    late : float
        Most that a time may count for: (1 - alpha_bar) / alpha_bar, which makes the loss one of what is clean, between
        1 and this. The published loss has 1 everywhere; then the few per cent of signal at late times are hardly
        learnt, and with them the level of music from nothing.
    schedule, betas, decay
        Of the learning rate, of Adam, and of the weights' average.
    start : Path or None
        Folder of a model whose U-Net it goes on from.

    Raises
    ------
    BlendbenchError
        If something is missing or does not fit.
    """
    if loss not in ("l2", "l1") or not late >= 1:
        raise BlendbenchError(f"training.loss={loss}, training.late={late}: choose l2 or l1, and give 1 or more")
    data, out = Piano(songs), Path(out)
    torch.manual_seed(seed)
    model = Msanii.load(vocoder).requires_grad_(True).to(device)
    if (data.sample_rate, data.channels) != (model.front.sample_rate, model.channels):
        raise BlendbenchError(
            f"{songs}: songs of another rate or other channels than {vocoder} learnt from; give its own"
        )
    if frames % model.unet.factor:
        raise BlendbenchError(f"training.frames={frames}: give a multiple of {model.unet.factor}")
    begun = {}
    if start is not None:
        model.unet.load_state_dict(Msanii.load(start).unet.state_dict())
        begun = {"start": checkpoint_hash(Path(start))}
    loop = Loop(
        "msanii",
        list(model.unet.parameters()),
        out / "state.pt",
        {
            "steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "frames": frames,
            "loss": loss, "late": late,
        } | begun,
        warm_up=200,
        decay=decay,
        betas=betas,
        others=[model.scaler],
        log_every=log_every,
        device=device,
        flat=_flat(schedule),
    )  # fmt: skip
    model.train()
    samples, shares = (frames - 1) * model.front.hop, alpha_bar()
    weights = ((1 - shares) / shares).clamp(1, late).to(device)

    def step_loss(step: int, draw: np.random.Generator) -> Tensor:
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            clean = model.scaler(model.front.log_mel(_crops(data, "train", batch, samples, draw).to(device)))
        # Spread over the range within a batch, so that a step sees early and late times.
        times = ((torch.arange(batch) + torch.rand(batch)) / batch * TRAINED_TIMES).long().to(device)
        noise = torch.randn_like(clean)
        error = model.unet(noised(clean, times, noise), times).float() - noise
        each: Tensor = (error.square() if loss == "l2" else error.abs()).mean((1, 2, 3))
        return (weights[times] * each).mean()

    loop.run(step_loss)
    model.eval()
    model.frames = frames
    model.save(out)
    figures: dict[str, Any] = {"songs": len(data.songs["train"])} | held_out_unet(model, data, frames, seed)
    told = Path(start) / "training.json" if start is not None else None
    if told is not None and told.is_file():
        before = json.loads(told.read_text())
        figures["before"] = {
            name: before[name] for name in ("steps", "minutes", "learning_rate", "late") if name in before
        }
    return loop.report(out / "training.json", figures)


@torch.inference_mode()
def held_out_unet(model: Msanii, data: Piano, frames: int, seed: int = 0, count: int = 24) -> dict[str, Any]:
    """Squared error of the noise at `TIMES` on held-out songs, and of the best constant guess of each mel band.

    That guess knows mean and variance of each band over the training songs, and nothing else: a Wiener filter.
    """
    samples = (frames - 1) * model.front.hop
    mean, var = _bands(model, data, samples, seed)
    found: dict[str, list[float]] = {"held_out_loss": [], "band_loss": []}
    draw = np.random.default_rng([seed, 2])
    clean = torch.cat(
        [model.scaler(model.front.log_mel(_crops(data, "held_out", 1, samples, draw))) for _ in range(count)]
    )
    generator = torch.Generator().manual_seed(seed)
    for time in TIMES:
        noise = torch.randn(clean.shape, generator=generator)
        noisy, share = noised(clean, torch.full((count,), time), noise), float(alpha_bar()[time])
        gain = var * share**0.5 / (var * share + 1 - share)
        guess = (noisy - share**0.5 * (mean + gain * (noisy - share**0.5 * mean))) / (1 - share) ** 0.5
        made = torch.cat([
            model.unet(one[None].to(model.device), torch.tensor([time], device=model.device)).cpu() for one in noisy
        ])  # fmt: skip
        found["held_out_loss"].append(round(float((made - noise).square().mean()), 5))
        found["band_loss"].append(round(float((guess - noise).square().mean()), 5))
    return {"times": list(TIMES), **found}


def _bands(model: Msanii, data: Piano, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [mels, 1] of scaled training songs."""
    draw = np.random.default_rng([seed, 3])
    every = torch.cat([model.scaler(model.front.log_mel(_crops(data, "train", 1, samples, draw))) for _ in range(60)])
    return every.mean((0, 1, 3))[:, None], every.var((0, 1, 3))[:, None]


def _crops(data: Piano, split: str, count: int, samples: int, draw: np.random.Generator) -> Tensor:
    """Stretches [count, channels, samples]."""
    return data.crops(split, count, samples, draw).reshape(count, data.channels, samples)


def _flat(schedule: str) -> bool:
    if schedule not in ("cosine", "flat"):
        raise BlendbenchError(f"training.schedule={schedule}: choose cosine or flat")
    return schedule == "flat"
