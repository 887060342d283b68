"""Latent diffusion over diffusers' components: text-to-image, image-to-image and masked repainting, batched.

`sample` is the loop; it knows a denoiser and a scheduler, and nothing of networks, prompts or guidance, which are
wrappers in `denoisers`. The three samplers over it follow diffusers' `StableDiffusionPipeline`,
`StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline` (with a 4-channel U-Net), down to the order of the
random draws, so in float32 their images equal the pipelines'. They differ in what a batch of unrelated pairs needs:
every item has its own seed, all its random tensors are drawn on the CPU from that seed alone, and distinct prompts are
encoded once.

Conventions: images are float tensors [B, 3, H, W] in -1..1, H and W multiples of the autoencoder's factor (8 for Stable
Diffusion), and come back clamped to that range as float32 on the model's device. Latents are float32 [B, C, H/8, W/8],
already multiplied by the autoencoder's `scaling_factor`. Masks are [B, 1, H, W] with 1 = repaint. The networks run in
the model's dtype; noise, guidance and scheduler steps stay in float32, so that a seed means the same noise in every
dtype. In float32 an item's image does not depend on the rest of its batch beyond rounding.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from blendbench import telling
from blendbench.errors import BlendbenchError
from blendbench.models.batches import in_parts
from blendbench.models.denoisers import (
    AfterStep,
    Conditions,
    Denoiser,
    Network,
    by_parts,
    conditioned,
    guided,
    repainted,
    unet_network,
)
from blendbench.models.latent_diffusion import (
    SCHEDULERS,
    LatentDiffusion,
    Seeds,
    check_images,
    check_lengths,
    check_size,
    decode_latents,
    encode_images,
    encode_prompts,
    make_generators,
    make_scheduler,
)

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and their total."""
Around = Callable[[Denoiser, SchedulerMixin], Denoiser]
"""Puts something around a denoiser, as `denoisers.estimate_moved`; the scheduler is the run's own."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one sampling run.

    Parameters
    ----------
    steps : int
        Length of the full schedule, at least 1; strength below 1 runs only its last `int(steps * strength)` steps.
    guidance_scale : float
        Weight of classifier-free guidance (Ho and Salimans, 2022); at 1 or below the unconditional half is skipped.
    strength : float
        How much of the schedule is run on a given image, in (0, 1]; text-to-image does not use it.
    scheduler : str
        A name in `SCHEDULERS`.
    eta : float
        Stochasticity of DDIM (eta in Song et al., 2020), in 0..1; other schedulers take only 0.
    negative_prompt : str
        What guidance steers away from.

    Raises
    ------
    BlendbenchError
        When a setting is out of its range.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    strength: float = 1.0
    scheduler: str = "default"
    eta: float = 0.0
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise BlendbenchError(f"steps is {self.steps!r}; give a whole number of at least 1")
        if not math.isfinite(self.guidance_scale):
            raise BlendbenchError(f"guidance_scale is {self.guidance_scale}; give a finite number, such as 7.5")
        if not 0 < self.strength <= 1:
            raise BlendbenchError(f"strength is {self.strength}; give a number above 0 and at most 1")
        if not 0 <= self.eta <= 1:
            raise BlendbenchError(f"eta is {self.eta}; give a number from 0 to 1")
        if self.scheduler not in SCHEDULERS:
            raise BlendbenchError(f"scheduler {self.scheduler!r} is unknown; choose one of {', '.join(SCHEDULERS)}")


@torch.no_grad()
def text_to_image(
    model: LatentDiffusion,
    prompts: Sequence[str],
    seeds: Seeds,
    settings: Sampling,
    height: int | None = None,
    width: int | None = None,
    progress: Progress | None = None,
    around: Around | None = None,
    denoiser: Denoiser | None = None,
) -> torch.Tensor:
    """Images from prompts alone, as `StableDiffusionPipeline` makes them.

    Parameters
    ----------
    prompts : sequence of str
        B prompts.
    seeds : sequence of int or torch.Generator
        One an item.
    settings : Sampling
        `strength` is not used.
    height, width : int, optional
        Size in pixels; by default the size that the U-Net was trained for.
    progress : callable, optional
        Called with (steps done, steps in all).
    around : Around, optional
        What steers the denoiser beside the prompt.
    denoiser : Denoiser, optional
        In place of the prompts' own (`prompted`), as of a network that is told more.

    Returns
    -------
    torch.Tensor [B, 3, height, width]

    Raises
    ------
    BlendbenchError
        When the lengths differ, or the size is no multiple of the autoencoder's factor.
    """
    generators = make_generators(seeds, len(prompts), "prompts")
    sample_size = model.unet.config.sample_size
    default_height, default_width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    height = height if height is not None else default_height * model.factor
    width = width if width is not None else default_width * model.factor
    check_size(model, height, width)

    scheduler, timesteps = schedule(model, settings)
    shape = (len(prompts), model.vae.config.latent_channels, height // model.factor, width // model.factor)
    noise = randn_tensor(shape, generator=generators, device=model.device, dtype=torch.float32)
    denoiser = prompted(model, prompts, settings) if denoiser is None else denoiser
    if around is not None:
        denoiser = around(denoiser, scheduler)
    latents = noise * scheduler.init_noise_sigma
    latents = sample(denoiser, scheduler, timesteps, latents, generators, settings.eta, progress=progress)
    return decode_latents(model, latents)


@torch.no_grad()
def image_to_image(
    model: LatentDiffusion,
    images: torch.Tensor,
    prompts: Sequence[str],
    seeds: Seeds,
    settings: Sampling,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Images remade from noised images (SDEdit, Meng et al., 2021), as `StableDiffusionImg2ImgPipeline` does.

    At strength 1 the start is the image at the schedule's highest noise level, not pure noise.

    Parameters
    ----------
    images : torch.Tensor [B, 3, H, W]
        In -1..1.
    prompts, seeds : sequences of length B
        One prompt and one seed (or generator) an item.
    settings : Sampling
        The last `int(steps * strength)` steps are run.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    torch.Tensor [B, 3, H, W]

    Raises
    ------
    BlendbenchError
        When shapes, ranges or lengths are wrong, or strength leaves no step.
    """
    check_lengths(images, prompts)
    scheduler, timesteps, generators, clean, noise = _start(model, images, seeds, settings)
    denoiser = prompted(model, prompts, settings)
    latents = scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(prompts)))
    latents = sample(denoiser, scheduler, timesteps, latents, generators, settings.eta, progress=progress)
    return decode_latents(model, latents)


@torch.no_grad()
def masked_repaint(
    model: LatentDiffusion,
    images: torch.Tensor,
    masks: torch.Tensor,
    prompts: Sequence[str],
    seeds: Seeds,
    settings: Sampling,
    latent_masks: torch.Tensor | None = None,
    progress: Progress | None = None,
    around: Around | None = None,
    denoiser: Denoiser | None = None,
) -> torch.Tensor:
    """Repaint the masked part of images, as `StableDiffusionInpaintPipeline` does with a 4-channel U-Net.

    After each step the known latents, noised to the level reached, replace the unmasked part; after the last step the
    clean ones do (Lugmayr et al., 2022, without resampling). At strength 1 the start is pure noise. Unmasked pixels
    pass through the autoencoder, so they return only nearly unchanged.

    Parameters
    ----------
    images : torch.Tensor [B, 3, H, W]
        In -1..1.
    masks : torch.Tensor [B, 1, H, W]
        1 = repaint, 0 = keep; split at 0.5, then brought to the latents' size by nearest neighbour (the upper left
        pixel of each square), as the pipeline does.
    prompts, seeds : sequences of length B
        One prompt and one seed (or generator) an item.
    settings : Sampling
        The last `int(steps * strength)` steps are run.
    latent_masks : torch.Tensor [B, 1, H/8, W/8], optional
        Blending weights in 0..1 that take the place of the reduced `masks`, for another reduction than the nearest.
    progress : callable, optional
        Called with (steps done, steps in all).
    around : Around, optional
        What steers the denoiser beside the prompt.
    denoiser : Denoiser, optional
        In place of the prompts' own (`prompted`), as of a network that is told more.

    Returns
    -------
    torch.Tensor [B, 3, H, W]

    Raises
    ------
    BlendbenchError
        When shapes, ranges or lengths are wrong, or strength leaves no step.
    """
    check_lengths(images, prompts)
    check_images(model, images)
    height, width = images.shape[-2:]
    _check_mask("masks", masks, (len(images), 1, height, width))
    if latent_masks is None:
        latent_masks = F.interpolate((masks >= 0.5).float(), scale_factor=1 / model.factor, mode="nearest")
    _check_mask("latent_masks", latent_masks, (len(images), 1, height // model.factor, width // model.factor))

    scheduler, timesteps, generators, clean, noise = _start(model, images, seeds, settings)
    if settings.strength == 1:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(prompts)))
    # The pipeline also samples latents of the masked image, which only a 9-channel U-Net reads: the draw is made, so
    # that a stochastic scheduler gets the same numbers as there.
    randn_tensor(clean.shape, generator=generators, dtype=torch.float32)
    keep = repainted(scheduler, clean, noise, latent_masks.to(model.device, torch.float32))
    denoiser = prompted(model, prompts, settings) if denoiser is None else denoiser
    if around is not None:
        denoiser = around(denoiser, scheduler)
    latents = sample(denoiser, scheduler, timesteps, latents, generators, settings.eta, keep, progress)
    return decode_latents(model, latents)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: SchedulerMixin,
    timesteps: torch.Tensor,
    latents: torch.Tensor,
    generators: list[torch.Generator] | None = None,
    eta: float = 0.0,
    after_step: AfterStep | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """The sampling loop: a scheduler's steps over a denoiser, from noisy latents to clean ones.

    Parameters
    ----------
    denoiser : Denoiser
        See `denoisers`.
    scheduler, timesteps
        As `schedule` gives them; a scheduler holds the state of one run.
    latents : torch.Tensor [B, C, h, w]
        At the level of the first time step, at the scheduler's scale.
    generators : list of B torch.Generator, optional
        For the draws of a stochastic scheduler.
    eta : float
        Stochasticity of DDIM; other schedulers do not read it.
    after_step : AfterStep, optional
        What changes the latents after each step, such as `repainted`.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    torch.Tensor [B, C, h, w]
    """
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"eta": eta, "generator": generators}
    extra = {name: value for name, value in extra.items() if name in accepted}
    for index, timestep in enumerate(_told(timesteps)):
        output = denoiser(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
        if after_step is not None:
            is_last = index + 1 == len(timesteps)
            latents = after_step(latents, None if is_last else timesteps[index + 1 : index + 2])
        if progress is not None:
            progress(index + 1, len(timesteps))
    return latents


Told = tuple[Network, Conditions]
"""A network that is told more than a text, and what it is told."""


def prompted(
    model: LatentDiffusion,
    prompts: Sequence[str],
    settings: Sampling,
    told: Callable[[slice, torch.Tensor], Told] | None = None,
) -> Denoiser:
    """The denoiser of a text-to-image model under B prompts, with classifier-free guidance where the settings have any.

    Parameters
    ----------
    model : LatentDiffusion
    prompts : sequence of str
    settings : Sampling
    told : callable, optional
        From some of the items and their text [n, T, D] to a network and its conditions beside `text`. What it is guided
        away from differs in the text alone.

    Raises
    ------
    BlendbenchError
        When the U-Net wants more than latents and text.
    """
    model.check_channels(extra=0)
    is_guided = settings.guidance_scale > 1
    text, empty = encode_prompts(model, prompts, settings.negative_prompt if is_guided else None)

    def of_items(items: slice) -> Denoiser:
        network, more = (unet_network(model.unet), {}) if told is None else told(items, text[items])
        given = {"text": text[items]} | dict(more)
        if empty is None:
            return conditioned(network, given)
        return guided(network, given, {"text": empty[items]}, settings.guidance_scale)

    return by_parts(of_items, in_parts(model.device, len(prompts)))


def _start(
    model: LatentDiffusion, images: torch.Tensor, seeds: Seeds, settings: Sampling
) -> tuple[SchedulerMixin, torch.Tensor, list[torch.Generator], torch.Tensor, torch.Tensor]:
    """Scheduler, time steps, generators, clean latents and noise of images that are painted over."""
    generators = make_generators(seeds, len(images), "images")
    scheduler, timesteps = schedule(model, settings, settings.strength)
    clean = encode_images(model, images, generators)
    noise = randn_tensor(clean.shape, generator=generators, device=model.device, dtype=torch.float32)
    return scheduler, timesteps, generators, clean, noise


def schedule(
    model: LatentDiffusion, settings: Sampling, strength: float | None = None
) -> tuple[SchedulerMixin, torch.Tensor]:
    """A fresh scheduler and the time steps to run, the first ones left out by `strength` as `get_timesteps` does."""
    scheduler = make_scheduler(settings.scheduler, model.scheduler_config)
    trained = scheduler.config.num_train_timesteps
    if settings.steps > trained:
        raise BlendbenchError(f"steps is {settings.steps}; the checkpoint was trained with {trained}, give no more")
    if settings.eta > 0 and "eta" not in inspect.signature(scheduler.step).parameters:
        raise BlendbenchError(f"eta is {settings.eta} but {type(scheduler).__name__} has none; set it to 0 or use ddim")
    scheduler.set_timesteps(settings.steps, device=model.device)
    if strength is None:
        return scheduler, scheduler.timesteps
    kept = int(settings.steps * strength)
    if kept < 1:
        raise BlendbenchError(f"strength {strength} of {settings.steps} steps leaves none to run; raise either")
    start = (settings.steps - kept) * scheduler.order
    # Where a schedule repeats a time step, only this index tells the place in it.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler, scheduler.timesteps[start:]


def _told(timesteps: torch.Tensor) -> Iterator[torch.Tensor]:
    """The time steps; says how many of them are done."""
    with telling.stage("denoise", len(timesteps), "step", bar=False) as told:
        for timestep in timesteps:
            yield timestep
            told.update()


def _check_mask(name: str, mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(mask.shape) != shape:
        raise BlendbenchError(f"{name}: shape is {tuple(mask.shape)}; give {shape}, one channel an image")
    if mask.dtype != torch.bool and not bool(((mask >= 0) & (mask <= 1)).all()):
        raise BlendbenchError(f"{name}: values are not all within 0..1; give 1 where to repaint and 0 where to keep")
