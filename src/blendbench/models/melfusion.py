"""MeLFusion's music model: a generator with a synapse, and what its decoder has learnt of it.

A folder holds `config.json` (how generator and image model are joined, and the way of a picture) and
`synapse.safetensors`: shares and layers of the synapse, and a low-rank adapter of the generator's U-Net.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.batches import in_parts
from blendbench.models.checkpoint import Checkpoint
from blendbench.models.denoisers import Denoiser, by_parts, conditioned, guided
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.models.sampling import Sampling
from blendbench.models.synapse import Synapse, SynapseSettings, track, with_pictures
from blendbench.models.visual import Visual, VisualCheckpoint, Way
from blendbench.store.write import write_text

FILE, CONFIG = "synapse.safetensors", "config.json"
_OWN = "synapse."


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
    folder.mkdir(parents=True, exist_ok=True)
    values = {_OWN + name: value.detach() for name, value in synapse.state_dict().items()} | lora.values(dict(parts))
    save_file({name: value.half().contiguous() for name, value in values.items()}, folder / FILE)
    config = {"synapse": asdict(synapse.settings), "way": asdict(way)} | dict(beside)
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


class MeLFusionCheckpoint(Checkpoint[Joined]):
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
    marker = CONFIG
    layout = "`blendbench train melfusion`'s"

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

    def of(self, generator: Generator, device: str) -> Joined:
        """The generator with the synapse; the generator itself stays as it is.

        Raises
        ------
        BlendbenchError
            If a file is missing, torn, or of another generator or image model.
        """
        if device not in self._models:
            self._found()
            self._models[device] = self._joined(generator, device)
        return self._models[device]

    def _joined(self, generator: Generator, device: str) -> Joined:
        visual, folder = self.visual.get(device), self.folder
        assert folder is not None
        try:
            config = json.loads((folder / CONFIG).read_text())
            settings, way = SynapseSettings(**config["synapse"]), Way(**(config["way"] | self._way()))
            values = load_file(folder / FILE)
            synapse = Synapse(generator.get(device).unet, visual.unet, settings)
            own = {name.removeprefix(_OWN): value.float() for name, value in values.items() if name.startswith(_OWN)}
            synapse.load_state_dict(own)
        except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
            stand_ins.refuse_weights(folder / FILE, failed=True)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BlendbenchError(
                f"{folder}: no MeLFusion of this generator and image model ({reason}); train or copy it again"
            ) from error
        adapter = {name: one for name, one in values.items() if not name.startswith(_OWN)}
        model = generator.changed(device, lambda unet: lora.add(unet, adapter, folder / FILE))
        if self.share is not None:
            synapse.settings = replace(settings, alpha=self.share)
        return Joined(model, synapse.eval().requires_grad_(False).to(device), visual, way)

    def _load(self, source: Path | str, device: str) -> Joined:
        raise BlendbenchError(f"{self.key}.checkpoint={self.checkpoint}: give a folder; there is none on a hub")


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
    model.check_channels(extra=0)
    is_guided = settings.guidance_scale > 1
    text, empty = encode_prompts(model, prompts, settings.negative_prompt if is_guided else None)
    off = pictures is None or synapse.settings.is_off

    def of_items(items: slice) -> Denoiser:
        count = len(text[items])
        tracked = None
        if not off:
            assert pictures is not None
            tracked = track(synapse, visual, 2 * pictures[items] - 1, way, generators[items], *text.shape[1:])
        network = with_pictures(model.unet, synapse, tracked)
        given = {"text": text[items], "picture": torch.arange(count, device=text.device)}
        if empty is None:
            return conditioned(network, given)
        return guided(network, given, {"text": empty[items]}, settings.guidance_scale)

    return by_parts(of_items, in_parts(model.device, len(prompts)))
