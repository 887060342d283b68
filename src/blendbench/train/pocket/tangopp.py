"""Train the built-in TANGO++: a small vision transformer whose tokens stand beside the caption's, and an adapter.

The loss is the generator's own plus the contrastive one of pictures and captions (`itc`), of weight 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.models import lora, tangopp
from blendbench.models.itc import itc_loss
from blendbench.models.tangopp import PictureWords
from blendbench.train.data import drawn
from blendbench.train.loop import Loop
from blendbench.train.pocket.generator import Predict, worded
from blendbench.train.pocket.picturing import DECODER, Scenes

VIT: dict[str, Any] = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384,
    "image_size": drawn.SIZE, "patch_size": 16,
}  # fmt: skip


def train(
    pictured: Path | str,
    out: Path | str,
    *,
    steps: int,
    checkpoint: str = "pocket",
    words: dict[str, Any] | None = None,
    itc: float = 1.0,
    rank: int = 16,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict[str, Any]:
    """Train for a number of steps and write the model to `out`; a stopped training goes on.

    Parameters
    ----------
    pictured : Path
        Folder of `blendbench train pictured`; latents are kept below it.
    steps : int
        Optimisation steps in all.
    checkpoint : str
        The generator's.
    words : dict
        Of `PictureWords`: tokens, shared, hybrid.
    itc : float
        Weight of the contrastive loss.
    rank : int
        Of the decoder's adapter.
    batch : int
        Whole clips a step, or as many more stretches of them as cost the same.

    Returns
    -------
    dict
        Figures for the card.

    Raises
    ------
    BlendbenchError
        If clips or generator are missing, or the kept state is of another training.
    """
    out, scenes = Path(out), Scenes(pictured, checkpoint, device)
    model = scenes.model
    torch.manual_seed(seed)
    side = PictureWords(VIT, model.unet.config.cross_attention_dim, **(words or {})).to(device)
    parts = lora.attach(model.unet, rank, seed, DECODER)
    loop = Loop(
        "tangopp",
        [*side.parameters(), *lora.parameters(parts)],
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "rank": rank, "itc": itc}
        | {"base": scenes.base, "words": side.config},
        warm_up=50,
        decay=0.998,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def seen(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, places = side(scenes.data.pictures(rows).to(device))
        return tokens, places

    def predicted(texts: Sequence[str], tokens: torch.Tensor | None) -> Predict:
        states = scenes.words(texts)
        return worded(model.unet, states if tokens is None else side.hybrid(states, tokens))

    def told(rows: np.ndarray | None, texts: Sequence[str]) -> Predict:
        return predicted(texts, None if rows is None else seen(rows)[0])

    def both(rows: np.ndarray, texts: Sequence[str], captions: Sequence[str]) -> tuple[Predict, torch.Tensor | float]:
        tokens, places = seen(rows)
        predict = predicted(texts, tokens)
        if not itc:
            return predict, 0.0
        own = side.text_place(scenes.words(captions))
        return predict, itc * itc_loss(places.float(), own.float(), side.temperature())

    model.unet.train()
    side.train()
    loop.run(scenes.step(both, steps, batch))
    model.unet.eval()
    side.eval()
    figures = scenes.held_out(told) | {"temperature": round(float(side.temperature().detach()), 4)}
    tangopp.save(out, side, parts, {"generator": scenes.base})
    return loop.report(out / "training.json", figures)
