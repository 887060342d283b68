"""Train the built-in separator: shares of mel bands that are background, from mixes whose stems are exact.

The loss compares compressed amplitudes (the fourth root, as in an image), so that soft bands count, too.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.models.backgrounds import MaskNet, compressed
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import decode_image
from blendbench.train.data.stems import Stems
from blendbench.train.loop import Loop


def train(
    stems: Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 8,
    width: int = 128,
    learning_rate: float = 2e-3,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 200,
) -> dict[str, Any]:
    """Train for a number of steps and save to `out`; a stopped training goes on.

    Parameters
    ----------
    stems : Path
        Folder of `blendbench train stems`.
    width : int
        Frames of an example, a multiple of 32.

    Returns
    -------
    dict
        Figures for the card: the loss on held-out songs, and that of leaving the mix as it is.

    Raises
    ------
    BlendbenchError
        If no stems are there, or the kept state is of another training.
    """
    data, out = Stems(stems), Path(out)
    torch.manual_seed(seed)
    network = MaskNet().to(device)
    rows = data.of("train")
    loop = Loop(
        "separator",
        list(network.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "width": width},
        warm_up=50,
        decay=0.995,
        weight_decay=1e-3,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        background, mix = (one.to(device) for one in _mels(data, draw.choice(rows, batch, replace=False)))
        left = int(draw.integers(0, mix.shape[-1] - width + 1))
        part = slice(left, left + width)
        return _distance(network, background[..., part], mix[..., part])

    network.train()
    loop.run(loss)
    network.eval()
    figures: dict[str, Any] = {"clips": len(rows)} | _held_out(network, data, device)
    network.save(out)
    return loop.report(out / "training.json", figures)


def _mels(data: Stems, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel amplitudes [N, 512, 512] of backgrounds and mixes, at one scale."""
    peaks = torch.tensor([data.rows[row]["peaks"] for row in rows])
    background, mix = data.pixels(rows)
    return decode_image(background, peaks[:, 0]), decode_image(mix, peaks[:, 1])


def _distance(network: MaskNet, background: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    shares = network(compressed(mix))
    peak = mix.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    made, true = ((one / peak + 1e-9) ** RIFFUSION.power for one in (shares * mix, background))
    return 10 * (made - true).abs().mean()


@torch.inference_mode()
def _held_out(network: MaskNet, data: Stems, device: str, limit: int = 48) -> dict[str, float]:
    rows = data.of("held_out")
    rows = rows[:: max(1, len(rows) // limit)][:limit]
    sums = [0.0, 0.0]
    for row in rows:
        background, mix = (one.to(device) for one in _mels(data, np.array([row])))
        sums[0] += float(_distance(network, background, mix))
        sums[1] += float(_distance(lambda pixels: torch.ones_like(pixels), background, mix))  # type: ignore[arg-type]
    return {name: round(total / max(len(rows), 1), 5)
            for name, total in zip(("held_out_loss", "held_out_loss_of_mix"), sums, strict=True)}  # fmt: skip
