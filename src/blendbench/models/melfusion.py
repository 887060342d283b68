"""MeLFusion's music model: a generator with a synapse, and what its decoder has learnt of it.

A folder holds `config.json` (how generator and image model are joined, and the way of a picture) and
`synapse.safetensors`: shares and layers of the synapse, and a low-rank adapter of the generator's U-Net.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blendbench.models import lora
from blendbench.models.attached import AttachedModule, Kept
from blendbench.models.denoisers import Denoiser
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling, Told, prompted
from blendbench.models.synapse import Synapse, SynapseSettings, track, with_pictures
from blendbench.models.visual import Visual, VisualCheckpoint, Way


class Joined(NamedTuple):
    """A music model that is told of pictures."""

    model: LatentDiffusion
    synapse: Synapse
    visual: Visual
    way: Way


def save(
    folder: Path, synapse: Synapse, way: Way, parts: Mapping[str, lora.LowRank], beside: Mapping[str, Any]
) -> None:
    """Write a synapse and an adapter, in half precision; `beside` goes into the config, too."""
    config = {"synapse": asdict(synapse.settings), "way": asdict(way)} | dict(beside)
    MeLFusionCheckpoint.write(folder, synapse, parts, config)


class MeLFusionCheckpoint(AttachedModule[Joined]):
    """A MeLFusion by name: "pocket" for the built-in generator's, a folder of `blendbench train melfusion`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    visual : dict, optional
        Parameters of `VisualCheckpoint` after the key: the image model; the built-in one by default.
    share : float or None
        In place of the learnt shares, one for all places.
    path, steps
        Fields of `Way`, in place of those that it was trained with.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    builtin = "melfusion"
    mended = "it does not travel with the package yet; give a folder of `blendbench train melfusion`"
    layout = "`blendbench train melfusion`'s"
    file, prefix, called = "synapse.safetensors", "synapse.", "MeLFusion of this generator and image model"

    def __init__(
        self,
        key: str,
        checkpoint: str,
        revision: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = True,
        visual: Mapping[str, Any] | None = None,
        share: float | None = None,
        path: str | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(key, checkpoint, revision, dtype, local_files_only)
        self.visual = VisualCheckpoint(f"{key}.visual", **(visual or {"checkpoint": "pocket"}))
        self.share, self.path, self.steps = share, path, steps
        SynapseSettings(alpha="learned" if share is None else share)
        Way(**self._way())

    def _way(self) -> dict[str, Any]:
        asked = {"kind": self.path, "steps": self.steps}
        return {name: value for name, value in asked.items() if value is not None}

    def signature(self) -> dict[str, Any]:
        """The weights, the image model, and what stands in place of what was learnt."""
        own = {"melfusion": self.fingerprint, "share": self.share, "way": self._way()}
        return own | self.visual.signature()

    def _made(self, kept: Kept, generator: Generator, device: str) -> Joined:
        visual = self.visual.get(device)
        settings = SynapseSettings(**kept.config["synapse"])
        way = Way(**(kept.config["way"] | self._way()))
        synapse = Synapse(generator.get(device).unet, visual.unet, settings)
        synapse.load_state_dict(kept.own)
        if self.share is not None:
            synapse.settings = replace(settings, alpha=self.share)
        model = self._adapted(kept, generator, device)
        return Joined(model, synapse.eval().requires_grad_(False).to(device), visual, way)


def pictured(
    joined: Joined,
    prompts: list[str],
    pictures: torch.Tensor | None,
    generators: Sequence[torch.Generator],
    settings: Sampling,
) -> Denoiser:
    """The denoiser of a music model under prompts and pictures; under guidance both halves see the picture.

    Parameters
    ----------
    prompts : list of str
        B of them.
    pictures : Tensor [B, 3, H, W] or None
        In 0..1, at the image model's size; None for none, as with a share of 0.
    generators : sequence of torch.Generator
        One an item, for what the picture's way draws.
    settings : Sampling
    """
    model, synapse, visual, way = joined
    if pictures is None or synapse.settings.is_off:
        return prompted(model, prompts, settings)

    def told(items: slice, text: torch.Tensor) -> Told:
        tracked = track(synapse, visual, 2 * pictures[items] - 1, way, generators[items], *text.shape[1:])
        return with_pictures(model.unet, synapse, tracked), {"picture": torch.arange(len(text), device=text.device)}

    return prompted(model, prompts, settings, told)
