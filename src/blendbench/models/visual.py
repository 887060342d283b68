"""An image model whose inner features tell of a picture: a frozen latent diffusion model, and the way a picture goes
through it (MeLFusion's visual side).

A picture's latents are brought to noise by DDIM inversion (Song et al., 2021), and the network's features are those of
that way: at each level the network is asked once, under an empty prompt and without guidance. Latents [B, C, h, w] are
float32 and scaled; pictures [B, 3, H, W] are in -1..1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.latent_diffusion import AUTOENCODERS, LatentDiffusion, encode_prompts
from blendbench.models.weights import read_pretrained, reason_of

Kind = Literal["inverted", "redenoised", "noised", "random"]
KINDS: tuple[Kind, ...] = ("inverted", "redenoised", "noised", "random")
EMPTY = "empty.safetensors"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Of Stable Diffusion."""


@dataclass(frozen=True)
class Way:
    """How a picture goes through the image model.

    Parameters
    ----------
    kind : {"inverted", "redenoised", "noised", "random"}
        By DDIM inversion, as the paper says; back from there; with fresh noise at each level, as its code trains; or
        from noise alone, as its code samples, which never looks at the picture.
    steps : int
        Levels.
    """

    kind: Kind = "inverted"
    steps: int = 50

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BlendbenchError(f"visual.path={self.kind}: choose {', '.join(KINDS)}")
        if type(self.steps) is not int or not 1 <= self.steps <= 1000:
            raise BlendbenchError(f"visual.steps={self.steps}: give a whole number from 1 to 1000")


@dataclass
class Visual:
    """The image model's parts.

    Attributes
    ----------
    unet : UNet2DConditionModel
    vae : AutoencoderKL or PatchAutoencoder
    empty : Tensor [1, T, D]
        The states of the empty prompt.
    scheduler_config : mapping
        The noise schedule and what the U-Net predicts.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | PatchAutoencoder
    empty: torch.Tensor
    scheduler_config: Mapping[str, Any]

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def size(self) -> int:
        """Side of the pictures that it knows, in pixels."""
        return int(self.unet.config.sample_size) * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] of pictures [B, 3, H, W]: the posterior's mode."""
        posterior = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    def asked(self, latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The network's output for latents [B, C, h, w] at time steps, one or [B]; without text and guidance."""
        text = self.empty.to(self.device, self.unet.dtype).expand(len(latents), -1, -1)
        return self.unet(latents.to(self.unet.dtype), time, encoder_hidden_states=text).sample.float()

    def schedulers(self, steps: int) -> tuple[DDIMInverseScheduler, DDIMScheduler]:
        """Towards noise and back, with so many levels; `steps_offset` 1 as in Stable Diffusion."""
        own = dict(SCHEDULE) | {"prediction_type": self.scheduler_config.get("prediction_type", "epsilon")}
        own |= {name: self.scheduler_config[name] for name in SCHEDULE if name in self.scheduler_config}
        own |= {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
        there, back = DDIMInverseScheduler(**own), DDIMScheduler(**own)
        there.set_timesteps(steps, device=self.device)
        back.set_timesteps(steps, device=self.device)
        return there, back

    @torch.no_grad()
    def walk(
        self, pictures: torch.Tensor, way: Way, generators: Sequence[torch.Generator]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """A picture's way through the model; after each asking, what it was asked at.

        Parameters
        ----------
        pictures : Tensor [B, 3, H, W]
            In -1..1.
        way : Way
        generators : sequence of torch.Generator
            One an item, on the CPU; drawn from where the way has noise of its own.

        Yields
        ------
        time : int
        latents : Tensor [B, C, h, w]

        Raises
        ------
        BlendbenchError
            If there are not as many generators as pictures.
        """
        if len(generators) != len(pictures):
            raise BlendbenchError(f"generators: {len(generators)} given for {len(pictures)} pictures; give one each")
        there, back = self.schedulers(way.steps)
        latents = self.latents(pictures)

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(latents.shape[1:], generator=one) for one in generators]).to(latents)

        if way.kind == "noised":
            for time in back.timesteps.flip(0):
                noisy = back.add_noise(latents, noise(), time[None])
                self.asked(noisy, time)
                yield int(time), noisy
            return
        if way.kind == "random":
            latents = noise()
        else:
            for time in there.timesteps:
                before = latents
                latents = there.step(self.asked(before, time), time, before).prev_sample
                if way.kind == "inverted":
                    yield int(time), before
            if way.kind == "inverted":
                return
        for time in back.timesteps:
            before = latents
            latents = back.step(self.asked(before, time), time, before).prev_sample
            yield int(time), before

    def save(self, folder: Path | str) -> None:
        """Write it: `unet/`, `vae/`, `scheduler/` in diffusers' layout in half precision, and the empty prompt."""
        folder = Path(folder)
        for part, name in ((self.unet, "unet"), (self.vae, "vae")):
            part.half().save_pretrained(folder / name)
            part.float()
        DDIMScheduler(**SCHEDULE, **_own(self.scheduler_config)).save_pretrained(folder / "scheduler")
        save_file({"empty": self.empty.half().contiguous()}, folder / EMPTY)


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"prediction_type": config.get("prediction_type", "epsilon"), "clip_sample": False, "steps_offset": 1}


class VisualCheckpoint(Checkpoint[Visual]):
    """An image model by name: "pocket" for the built-in one, a folder of `blendbench train visual`, a Stable Diffusion
    in diffusers' layout or a hub id of one, a name of `models`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    """

    builtin = "visual"
    mended = "it does not travel with the package yet; give a folder of `blendbench train visual`"
    marker = "unet/config.json"

    def signature(self) -> dict[str, Any]:
        """What changes its features."""
        return {"visual": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> Visual:
        dtype = DTYPES[self.dtype]
        own = Path(source)
        if own.is_dir() and (own / EMPTY).is_file():
            visual = _read(own, dtype)
        else:
            model = LatentDiffusion.load(source, device, dtype, self.revision, local_files_only=self.local_files_only)
            empty, _ = encode_prompts(model, [""], None)
            visual = Visual(model.unet, model.vae, empty, model.scheduler_config)
        for part in (visual.unet, visual.vae):
            part.eval().requires_grad_(False).to(device)
        return visual


def _read(folder: Path, dtype: torch.dtype) -> Visual:
    """An image model of `Visual.save`; raises BlendbenchError where a part is missing or of another model."""
    called, remedy = "an image model", "give a folder of `blendbench train visual`"
    try:
        kind = AUTOENCODERS[str(AutoencoderKL.load_config(str(folder / "vae"))["_class_name"])]
        empty = load_file(folder / EMPTY)["empty"].to(dtype)
        config = DDIMScheduler.load_config(str(folder / "scheduler"))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        stand_ins.refuse_weights(folder, failed=True)
        raise BlendbenchError(f"{folder}: cannot be read as {called} ({reason_of(error)}); {remedy}") from error
    options = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    unet = read_pretrained(UNet2DConditionModel, folder / "unet", called, remedy, **options)
    vae = read_pretrained(kind, folder / "vae", called, remedy, **options)
    return Visual(unet, vae, empty, config)
