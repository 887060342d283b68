"""Train the built-in MeLFusion: a synapse between the built-in image model and generator, and the decoder's adapter.

Both models stay as they are, but for a low-rank adapter of the generator's decoder. A picture's way through the image
model is computed once and kept; at a time step of the music its features are those of the way's nearest step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.models import lora, melfusion
from blendbench.models.synapse import Synapse, SynapseSettings
from blendbench.models.visual import Visual, VisualCheckpoint, Way
from blendbench.train.data.pictured import Pictured
from blendbench.train.loop import Loop
from blendbench.train.pocket.generator import Predict, worded
from blendbench.train.pocket.picturing import DECODER, Scenes


class Ways:
    """Ways of the clips' pictures through the image model, kept on disk in half precision.

    Parameters
    ----------
    data : Pictured
    visual : Visual
    way : Way
    name : str
        Of the image model.
    """

    def __init__(self, data: Pictured, visual: Visual, way: Way, name: str) -> None:
        self.visual = visual
        with torch.no_grad():
            first = visual.latents(2 * data.pictures([0]) - 1)
        shape = (len(data.rows), way.steps, *first.shape[1:])
        file = data.folder / f"ways-{name[:12]}-{way.kind}-{way.steps}.f16"
        done = file.with_suffix(".times")
        there = file.exists() and done.exists()
        self.values = np.memmap(file, np.float16, "r" if there else "w+", shape=shape)
        if not there:
            times: list[int] = []
            for start in range(0, len(data.rows), 16):
                some = np.arange(start, min(start + 16, len(data.rows)))
                draws = [torch.Generator().manual_seed(int(row)) for row in some]
                walked = list(visual.walk(2 * data.pictures(some) - 1, way, draws))
                times = [time for time, _ in walked]
                self.values[some] = torch.stack([one for _, one in walked], 1).half().numpy()
                if start % 320 == 0:
                    print(f"pictures: {start + len(some)} of {len(data.rows)} through the image model", flush=True)
            self.values.flush()
            done.write_text(" ".join(map(str, times)))
        self.times = torch.tensor([int(one) for one in done.read_text().split()])

    def at(self, rows: np.ndarray, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [N, C, h, w] and times [N] of the ways' steps nearest to the music's times [N]."""
        places = (self.times[None] - times[:, None]).abs().argmin(1)
        found = torch.from_numpy(self.values[rows, places.numpy()].astype(np.float32))
        return found, self.times[places]


def train(
    pictured: Path | str,
    out: Path | str,
    *,
    steps: int,
    checkpoint: str = "pocket",
    visual: str = "pocket",
    synapse: dict[str, Any] | None = None,
    way: dict[str, Any] | None = None,
    rank: int = 16,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict[str, Any]:
    """Train for a number of steps and write the synapse to `out`; a stopped training goes on.

    Parameters
    ----------
    pictured : Path
        Folder of `blendbench train pictured`; latents and ways are kept below it.
    steps : int
        Optimisation steps in all.
    checkpoint, visual : str
        Generator and image model.
    synapse, way : dict
        Fields of `SynapseSettings` and of `Way`.
    rank : int
        Of the decoder's adapter.
    batch : int
        Whole clips a step, or as many more stretches of them as cost the same.

    Returns
    -------
    dict
        Figures for the card: the loss on held-out songs with the right picture, another clip's, and none; the shares.

    Raises
    ------
    BlendbenchError
        If clips or models are missing, or the kept state is of another training.
    """
    out, scenes = Path(out), Scenes(pictured, checkpoint, device)
    image, model = VisualCheckpoint("visual", visual), scenes.model
    seen = image.get(device)
    settings, course = SynapseSettings(**(synapse or {})), Way(**(way or {"steps": 10}))
    ways = None if settings.is_off else Ways(scenes.data, seen, course, image.fingerprint)
    torch.manual_seed(seed)
    joint = Synapse(model.unet, seen.unet, settings).to(device)
    parts = lora.attach(model.unet, rank, seed, DECODER)
    learnt = [joint.share] if joint.share.requires_grad else []
    layers = [value for name, value in joint.named_parameters() if name != "share"]
    loop = Loop(
        "melfusion",
        [*lora.parameters(parts), *layers, *learnt],
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate, "rank": rank}
        | {"base": scenes.base, "visual": image.fingerprint}
        | {"synapse": {name: getattr(settings, name) for name in ("fuse", "alpha", "per", "init", "pool")}}
        | {"blocks": list(settings.blocks), "way": [course.kind, course.steps]},
        warm_up=50,
        decay=0.998,
        log_every=log_every,
        save_every=save_every,
        device=device,
        faster=learnt,
    )

    def told(rows: np.ndarray | None, texts: Sequence[str]) -> Predict:
        text = scenes.words(texts)
        plain = worded(model.unet, text)
        if rows is None or ways is None:
            return plain

        def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), joint.watching(seen.unet) as taken:
                at, when = ways.at(rows, times.cpu())
                seen.asked(at.to(device), when.to(device))
                features = joint.pooled(taken(), *text.shape[1:])
            with joint.mixing(model.unet, features):
                return plain(noisy, times)

        return predict

    model.unet.train()
    loop.run(scenes.step(lambda rows, texts, _: (told(rows, texts), 0.0), steps, batch))
    model.unet.eval()
    figures = {"shares": [round(float(one), 4) for one in joint.shares().detach()]} | scenes.held_out(told)
    beside = {"generator": scenes.base, "visual": image.fingerprint}
    melfusion.save(out, joint, course, parts, beside)
    return loop.report(out / "training.json", figures)
