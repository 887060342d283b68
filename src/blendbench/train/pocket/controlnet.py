"""Train the built-in Riff-CNET: a ControlNet that tells the frozen generator of the edges of a background.

The loss is the generator's own (velocity, min-SNR); a tenth of the prompts is left out, so that guidance has something
to be guided away from, while hints never are, as in sampling.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.models.controlnet import beside, grown, shrunk
from blendbench.sound.edges import Edges
from blendbench.train.loop import Loop
from blendbench.train.pocket.accompanying import Accompaniment, Batch
from blendbench.train.pocket.generator import Predict, worded


def train(
    stems: Path | str,
    out: Path | str,
    *,
    steps: int,
    checkpoint: str = "pocket",
    hint: dict[str, Any] | None = None,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 5e-4,
    prompt_dropout: float = 0.1,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict[str, Any]:
    """Train for a number of steps and save to `out`, in diffusers' layout; a stopped training goes on.

    Parameters
    ----------
    stems : Path
        Folder of `blendbench train stems`.
    steps : int
        Optimisation steps in all.
    checkpoint : str
        The generator's.
    hint : dict, optional
        Fields of `sound.edges.Edges`; Canny's edges of the image itself when absent.
    batch : int
        Whole clips a step, or as many more stretches of them as cost the same.
    prompt_dropout : float
        Share of prompts left out.

    Returns
    -------
    dict
        Figures for the card.

    Raises
    ------
    BlendbenchError
        If stems or generator are missing, or the kept state is of another training.
    """
    out, edges = Path(out), Edges(**(hint or {}))
    data = Accompaniment(stems, checkpoint, device)
    torch.manual_seed(seed)
    model, unet = beside(data.model.unet).to(device, memory_format=torch.channels_last), data.model.unet
    loop = Loop(
        "controlnet",
        list(model.parameters()),
        out / "state.pt",
        {
            "steps": steps,
            "batch": batch,
            "seed": seed,
            "learning_rate": learning_rate,
            "prompt_dropout": prompt_dropout,
            "hint": edges.signature(),
            "base": data.base,
        },
        warm_up=50,
        decay=0.998,
        weight_decay=1e-2,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def told(drawn: Batch, draw: np.random.Generator, dropout: float = prompt_dropout, network: Any = model) -> Predict:
        text = data.words(["" if draw.random() < dropout else one for one in drawn.texts])
        hints = edges.of(drawn.pixels).to(device)

        def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            down, middle = network(noisy, times, encoder_hidden_states=text, controlnet_cond=hints, return_dict=False)
            return unet(
                noisy,
                times,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample

        return predict

    model.train()
    loop.run(data.step(told, steps, batch))
    model.eval()
    figures = {"clips": len(data.stems.of("train"))}
    figures |= data.held_out(lambda drawn, draw: told(drawn, draw, 0.0), "held_out_loss")
    small = grown(unet, shrunk(model, unet), out).eval().to(device)
    figures |= data.held_out(lambda drawn, draw: told(drawn, draw, 0.0, small), "held_out_loss_low_rank")
    figures |= data.held_out(lambda drawn, draw: worded(unet, data.words(drawn.texts)), "held_out_loss_without")
    model.save_pretrained(out)
    return loop.report(out / "training.json", figures)
