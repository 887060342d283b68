"""The parts of a latent diffusion model: U-Net, autoencoder, text encoder, scheduler; how they are loaded and used."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.batches import in_parts

logger = logging.getLogger(__name__)
SCHEDULERS: dict[str, type[SchedulerMixin] | None] = {
    "default": None,
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
"""Scheduler names; "default" is the class that the checkpoint's own scheduler config names."""
AUTOENCODERS: dict[str, type[AutoencoderKL] | type[PatchAutoencoder]] = {
    "AutoencoderKL": AutoencoderKL,
    "PatchAutoencoder": PatchAutoencoder,
}
"""Autoencoder classes by the name in a checkpoint's `vae/config.json`."""
Seeds = Sequence[int] | Sequence[torch.Generator]
"""One seed an item, or one CPU generator an item, which then advances."""


@dataclass
class LatentDiffusion:
    """The parts of a Stable-Diffusion-type model; `device` and `dtype` are those of its U-Net.

    Parameters
    ----------
    unet, vae, text_encoder, tokenizer, scheduler_config
        As diffusers has them; the scheduler is made anew for each run.
    extra_channels : int
        Input channels of the U-Net beyond the latents', for a method that hands it more: 4 for InstructPix2Pix, which
        is given an image's latents, too. The samplers of `sampling` take plain text-to-image models, without any.

    Raises
    ------
    BlendbenchError
        When the parts do not belong together or the U-Net is not of the kind that `extra_channels` says.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | PatchAutoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]
    extra_channels: int = 0

    def __post_init__(self) -> None:
        self.check_channels(self.extra_channels)
        width, text_width = self.unet.config.cross_attention_dim, self.text_encoder.config.hidden_size
        if width != text_width:
            raise BlendbenchError(
                f"unet: cross_attention_dim is {width} but text_encoder has hidden_size {text_width}; "
                "take both from the same checkpoint"
            )
        if self.unet.config.time_cond_proj_dim is not None:
            raise BlendbenchError("unet: time_cond_proj_dim is set; use a checkpoint without guidance distillation")
        for module in (self.unet, self.vae, self.text_encoder):
            module.eval()

    def check_channels(self, extra: int) -> None:
        """Raise BlendbenchError unless the U-Net takes the latents and `extra` channels."""
        channels, latent_channels = self.unet.config.in_channels, self.vae.config.latent_channels
        if channels == latent_channels + extra:
            return
        beside = f" and {extra} more are given" if extra else ""
        remedy = (
            f"use a checkpoint for {latent_channels + extra} channels"
            if extra
            else "use a text-to-image checkpoint, not an inpainting one"
        )
        raise BlendbenchError(
            f"unet: in_channels is {channels} but the vae has {latent_channels} latent channels{beside}; {remedy}"
        )

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Side of the square of pixels that one latent stands for, in pixels."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device, with convolutions in channels-last order; returns itself."""
        for module in (self.unet, self.vae):
            module.to(device=device, memory_format=torch.channels_last)
        self.text_encoder.to(device=device)
        return self

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = True,
        adapter: Path | None = None,
        extra_channels: int = 0,
    ) -> Self:
        """Load a checkpoint in diffusers' layout: safetensors only, no remote code, no safety checker.

        Parameters
        ----------
        source : str or Path
            A folder with `unet/`, `vae/`, `text_encoder/`, `tokenizer/` and `scheduler/`, or a Hub id "owner/name".
        device, dtype
            Where and in which precision the networks run.
        revision, variant : str, optional
            Hub revision, and the weights' variant such as "fp16".
        local_files_only : bool
            Whether a Hub id is looked up in the local cache alone.
        adapter : Path, optional
            A low-rank adapter that is added to the U-Net's weights.
        extra_channels : int
            Of the U-Net's input, beyond the latents'; see the class.

        Raises
        ------
        BlendbenchError
            When the folder or one of its parts is missing, incomplete or unreadable.
        """
        is_folder = Path(source).is_dir()
        if is_folder:
            _check_folder(Path(source))
        elif Path(source).is_absolute() or str(source).count("/") != 1:
            raise BlendbenchError(f"{source}: no such checkpoint folder; give one in diffusers' layout or a Hub id")
        hub: dict[str, Any] = {} if is_folder else {"revision": revision}
        hub |= {"local_files_only": local_files_only or is_folder}
        weights = hub | {"variant": variant, "use_safetensors": True, "output_loading_info": True}
        # Without accelerate diffusers warns at every load unless this is off.
        weights_diffusers = weights | {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}

        def part(name: str, read: Callable[..., Any], options: Mapping[str, Any]) -> Any:
            try:
                loaded = read(str(source), subfolder=name, **options)
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                stand_ins.refuse_weights(Path(source, name), failed=True)
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise BlendbenchError(f"{source}: cannot load {name}/: {reason}") from error
            if "output_loading_info" not in options:
                return loaded
            module, info = loaded
            # Both libraries fill missing weights with random numbers and only warn.
            absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
            if absent:
                raise BlendbenchError(
                    f"{source}: {name}/ lacks {len(absent)} weights that its config asks for (such as {absent[0]}); "
                    "fetch the checkpoint again"
                )
            return module

        config = part("vae", AutoencoderKL.load_config, hub)
        autoencoder = AUTOENCODERS.get(str(config.get("_class_name")))
        if autoencoder is None:
            raise BlendbenchError(
                f"{source}: vae/config.json: _class_name {config.get('_class_name')!r} is not supported; "
                f"use a checkpoint with {' or '.join(AUTOENCODERS)}"
            )
        model = cls(
            unet=part("unet", UNet2DConditionModel.from_pretrained, weights_diffusers),
            vae=part("vae", autoencoder.from_pretrained, weights_diffusers),
            text_encoder=part("text_encoder", CLIPTextModel.from_pretrained, weights | {"dtype": dtype}),
            tokenizer=part("tokenizer", CLIPTokenizer.from_pretrained, hub),
            scheduler_config=part("scheduler", DDIMScheduler.load_config, hub),
            extra_channels=extra_channels,
        )
        if adapter is not None:
            lora.merge(model.unet, adapter)
        return model.to(device)

    def save(self, folder: str | Path) -> None:
        """Write the model in diffusers' layout (safetensors), which `load` and diffusers' pipelines read."""
        from diffusers import StableDiffusionPipeline  # slow to import, and sampling does without

        StableDiffusionPipeline(
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=make_scheduler("default", self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)


def _check_folder(folder: Path) -> None:
    for name in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"):
        if not (folder / name).is_file():
            raise BlendbenchError(f"{folder}: {name} is missing; give a checkpoint folder in diffusers' layout")
    for name in ("unet", "vae", "text_encoder"):
        if not any((folder / name).glob("*.safetensors")):
            raise BlendbenchError(f"{folder}: {name}/ has no .safetensors weights; convert or fetch them so")
    tokenizer = folder / "tokenizer"
    if not ((tokenizer / "tokenizer.json").is_file() or (tokenizer / "vocab.json").is_file()):
        raise BlendbenchError(f"{folder}: tokenizer/ has no tokenizer.json or vocab.json; fetch the checkpoint again")


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """Build a fresh scheduler (schedulers hold the state of a run) from a checkpoint's scheduler config.

    The noise schedule, prediction type (epsilon or v) and zero-terminal-SNR rescaling are the config's. As the Stable
    Diffusion pipelines do, it sets `steps_offset` 1, `clip_sample` False and `skip_prk_steps` True where the config has
    older defaults; here the last holds for all three samplers, since a Runge-Kutta warm-up cannot be entered midway.

    Parameters
    ----------
    name : str
        A name in `SCHEDULERS`; "dpmsolver++" is the deterministic multistep solver of Lu et al. (2022).
    config : mapping
        Content of `scheduler_config.json`; `_class_name` is needed for "default".

    Raises
    ------
    BlendbenchError
        When the name or the config's class is unknown, or the scheduler cannot follow a zero-terminal-SNR schedule.
    """
    if name not in SCHEDULERS:
        raise BlendbenchError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    scheduler_class = SCHEDULERS[name]
    if scheduler_class is None:
        class_name = str(config.get("_class_name"))
        scheduler_class = getattr(diffusers, class_name, None)
        if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
            raise BlendbenchError(f"scheduler_config.json: _class_name {class_name!r} is no scheduler of diffusers")
    accepted = inspect.signature(scheduler_class.__init__).parameters
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in accepted:
        able = [n for n, c in SCHEDULERS.items() if c and "rescale_betas_zero_snr" in inspect.signature(c).parameters]
        raise BlendbenchError(
            f"scheduler {name!r} cannot follow this checkpoint's zero-terminal-SNR schedule; use {', '.join(able)}"
        )
    settings: dict[str, Any] = {"steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}
    if name == "dpmsolver++":
        settings["algorithm_type"] = "dpmsolver++"
    return scheduler_class.from_config(dict(config), **{k: v for k, v in settings.items() if k in accepted})


@torch.no_grad()
def encode_prompts(
    model: LatentDiffusion, prompts: Sequence[str], negative: str | None = ""
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Text embeddings of prompts, each distinct text encoded once.

    A prompt longer than the text encoder's context is cut, with a warning in the log.

    Parameters
    ----------
    prompts : sequence of str
        B prompts.
    negative : str, optional
        The unconditional (negative) prompt; None where no guidance is used.

    Returns
    -------
    conditional, unconditional : torch.Tensor [B, T, D]
        T tokens of D features, in the text encoder's dtype; the second is None when `negative` is.
    """
    texts = list(dict.fromkeys([*prompts, *([] if negative is None else [negative])]))
    tokenizer, text_encoder = model.tokenizer, model.text_encoder
    context = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    whole = tokenizer(texts, verbose=False).input_ids
    cut = [text for text, ids in zip(texts, whole, strict=True) if len(ids) > context]
    if cut:
        logger.warning("prompts cut to the text encoder's %d tokens: %d, such as %r", context, len(cut), cut[0][:60])
    tokens = tokenizer(texts, padding="max_length", max_length=context, truncation=True, return_tensors="pt")
    uses_mask = getattr(text_encoder.config, "use_attention_mask", False)
    ids, attention_mask = tokens.input_ids.to(model.device), tokens.attention_mask.to(model.device)
    embeddings = torch.cat(
        [
            text_encoder(ids[items], attention_mask=attention_mask[items] if uses_mask else None)[0]
            for items in in_parts(model.device, len(ids))
        ]
    )
    row = {text: index for index, text in enumerate(texts)}
    conditional = embeddings[[row[prompt] for prompt in prompts]]
    if negative is None:
        return conditional, None
    return conditional, embeddings[[row[negative]] * len(prompts)]


@torch.no_grad()
def encode_images(
    model: LatentDiffusion, images: torch.Tensor, seeds: Seeds | None = None, sample: bool = True
) -> torch.Tensor:
    """Scaled latents of images.

    Parameters
    ----------
    images : torch.Tensor [B, 3, H, W]
        In -1..1.
    seeds : sequence of int or torch.Generator
        One an item, for the draw from the posterior; not needed when `sample` is False.
    sample : bool
        Draw from the posterior, as the pipelines do, or take its mode.

    Returns
    -------
    torch.Tensor [B, C, H/8, W/8]

    Raises
    ------
    BlendbenchError
        When the images' shape, type or range is wrong, or the number of seeds differs from theirs.
    """
    check_images(model, images)
    vae: Any = model.vae
    images = images.to(model.device, model.dtype)
    parameters = torch.cat(
        [vae.encode(images[items]).latent_dist.parameters for items in in_parts(model.device, len(images))]
    )
    # The posterior in float32, so that the draw is the same in every dtype of the networks.
    posterior = DiagonalGaussianDistribution(parameters.float())
    if sample:
        latents = posterior.sample(generator=make_generators(seeds if seeds is not None else [], len(images), "images"))
    else:
        latents = posterior.mode()
    return latents * model.vae.config.scaling_factor


@torch.no_grad()
def decode_latents(model: LatentDiffusion, latents: torch.Tensor) -> torch.Tensor:
    """Images [B, 3, H, W], clamped to -1..1 as the pipelines do, of scaled latents [B, C, H/8, W/8]."""
    return decode_with_gradient(model, latents).clamp(-1, 1)


def decode_with_gradient(model: LatentDiffusion, latents: torch.Tensor) -> torch.Tensor:
    """As `decode_latents`, not clamped; carries gradients to the latents, where the caller has them on."""
    scaled = (latents / model.vae.config.scaling_factor).to(model.device, model.dtype)
    vae: Any = model.vae
    return torch.cat([vae.decode(scaled[items]).sample for items in in_parts(model.device, len(scaled))]).float()


def make_generators(seeds: Seeds, count: int, what: str) -> list[torch.Generator]:
    if len(seeds) != count:
        raise BlendbenchError(f"seeds: {len(seeds)} given for {count} {what}; give one each")
    if count == 0:
        raise BlendbenchError(f"{what}: none given; give at least one")
    generators = [s if isinstance(s, torch.Generator) else torch.Generator().manual_seed(int(s)) for s in seeds]
    if any(generator.device.type != "cpu" for generator in generators):
        raise BlendbenchError("seeds: a generator is not on the CPU; make it with torch.Generator('cpu')")
    return generators


def check_lengths(images: torch.Tensor, prompts: Sequence[str]) -> None:
    if len(images) != len(prompts):
        raise BlendbenchError(f"prompts: {len(prompts)} given for {len(images)} images; give one each")


def check_size(model: LatentDiffusion, height: int, width: int) -> None:
    if height < 1 or width < 1 or height % model.factor or width % model.factor:
        raise BlendbenchError(
            f"image size is {height} x {width} pixels; height and width must be positive multiples of {model.factor}"
        )


def check_images(model: LatentDiffusion, images: torch.Tensor) -> None:
    channels = model.vae.config.in_channels
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise BlendbenchError(
            f"images: {images.dtype} of shape {tuple(images.shape)}; give float images of shape [B, {channels}, H, W]"
        )
    check_size(model, images.shape[2], images.shape[3])
    # A rounding error beyond the range is harmless; 0..255 or NaN is not. The negation catches NaN.
    if not bool((images.abs() <= 1.01).all()):
        raise BlendbenchError("images: values are not all within -1..1; scale the images to that range")
