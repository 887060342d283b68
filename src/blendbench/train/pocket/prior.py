"""Train the built-in prior of piano music: MR-CQTdiff's network, small and at a low sample rate, over a Wiener filter.

The loss is EDM's (Karras et al., 2022): F against (x - base(x + n)) / c_out, unweighted, at noise levels drawn evenly
in their logarithm. The card compares it with the Wiener filter's at fixed levels, on songs that were held out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.priors import AudioPrior, welch
from blendbench.models.weights import checkpoint_hash
from blendbench.train.data.piano import Piano
from blendbench.train.loop import Loop

NETWORK: dict[str, Any] = {
    "bins": [8, 8, 8, 16, 16, 16, 16],
    "widths": [16, 16, 16, 24, 32, 32, 48],
    "layers": [1, 1, 1, 2, 2, 2, 3],
    "bottleneck": 3,
    "embedding": 128,
}
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SIGMA_DATA = 0.063


def train(
    piano: Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 4,
    learning_rate: float = 1e-3,
    crop: int = 32_768,
    samples: int = 65_536,
    sigma_min: float = 1e-4,
    sigma_max: float = 2.0,
    network: dict[str, Any] | None = None,
    start: Path | str | None = None,
    device: str = "cpu",
    log_every: int = 50,
) -> dict[str, Any]:
    """Train for a number of steps and save to `out`; returns the figures for the card.

    Parameters
    ----------
    piano : Path
        Folder of `blendbench train piano`.
    crop : int
        Samples of an example. The network hears nothing further away, so examples may be shorter than `samples`.
    samples : int
        Length of the windows that the prior is saved for.
    sigma_min, sigma_max : float
        Range of the noise levels. What it has not learned to take away, a sample keeps as hiss.
    network : dict, optional
        Parameters of `CQTUNet`.
    start : Path or None
        Folder of a prior whose weights and spectrum it goes on from, in place of `network`.

    Raises
    ------
    BlendbenchError
        If no piano is there, its songs are too short, or `start` is no prior with a network at their rate.
    """
    data, out = Piano(piano), Path(out)
    torch.manual_seed(seed)
    prior = _begun(data, crop, seed, NETWORK if network is None else network, start).to(device)
    begun = {} if start is None else {"start": checkpoint_hash(Path(start))}
    loop = Loop(
        "prior",
        [one for one in prior.parameters() if one.requires_grad],
        out / "state.pt",
        {
            "steps": steps,
            "batch": batch,
            "seed": seed,
            "learning_rate": learning_rate,
            "crop": crop,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
        }
        | begun,
        warm_up=100,
        decay=0.999,
        log_every=log_every,
        device=device,
    )
    prior.train()
    low, high = np.log(sigma_min), np.log(sigma_max)

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        clean = data.crops("train", batch, crop, draw).to(device)
        # Levels spread over the range within a batch, so that a step sees low and high ones.
        places = (np.arange(batch) + draw.random(batch)) / batch
        sigma = torch.from_numpy(np.exp(low + (high - low) * places)).float().to(device)
        return edm_loss(prior, clean, sigma, torch.randn_like(clean)).mean()

    loop.run(loss)
    prior.eval()
    figures = held_out(prior, data, crop, seed)
    prior.for_samples(samples).save(out)
    return loop.report(out / "training.json", {"sample_rate": data.sample_rate, "samples": samples} | figures)


def _begun(data: Piano, crop: int, seed: int, network: dict[str, Any], start: Path | str | None) -> AudioPrior:
    """A prior to train, for windows of `crop` samples: a new one, or another's weights."""
    if start is None:
        spectrum = welch(data.crops("train", 400, crop, np.random.default_rng([seed, 1])))
        return AudioPrior(data.sample_rate, SIGMA_DATA, spectrum, crop, network, "wiener")
    given = AudioPrior.load(start)
    if given.network is None or given.base != "wiener" or given.sample_rate != data.sample_rate:
        raise BlendbenchError(
            f"{start}: no network over a Wiener filter at {data.sample_rate} Hz; give another `start`, or null"
        )
    return given.for_samples(crop)


def edm_loss(prior: AudioPrior, clean: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Loss [B] of waveforms [B, samples] at levels [B], with noise [B, samples] of deviation 1."""
    made = prior.denoise(clean + sigma[:, None] * noise, sigma)
    scale = sigma * prior.sigma_data / (sigma.square() + prior.sigma_data**2).sqrt()
    return (clean - made).square().mean(1) / scale.square()


@torch.inference_mode()
def held_out(prior: AudioPrior, data: Piano, crop: int, seed: int = 0, count: int = 32) -> dict[str, Any]:
    """The loss at `LEVELS` on held-out songs, and the Wiener filter's."""
    clean = data.crops("held_out", count, crop, np.random.default_rng([seed, 2]))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    linear = AudioPrior(prior.sample_rate, prior.sigma_data, prior.spectrum.cpu(), base="wiener")
    device = next(prior.parameters()).device
    found: dict[str, list[float]] = {"held_out_loss": [], "wiener_loss": []}
    for level in LEVELS:
        sums = dict.fromkeys(found, 0.0)
        for one in range(count):
            part, sigma = slice(one, one + 1), torch.tensor([level])
            for name, model, at in (("held_out_loss", prior, device), ("wiener_loss", linear, "cpu")):
                sums[name] += float(edm_loss(model, clean[part].to(at), sigma.to(at), noise[part].to(at)))
        for name, total in sums.items():
            found[name].append(round(total / count, 4))
    return {"levels": list(LEVELS), **found}
