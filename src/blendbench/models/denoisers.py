"""Denoisers, which is all that a sampling loop knows of a model, and what wraps one.

A loop (`sampling.sample`) hands a denoiser latents and a time step, and gets the model's output. Which network that
is, what it is told, how it is guided and what it must agree with are wrappers: functions that return a denoiser, or a
network for one. They compose, from the network outwards:

    network    unet_network, with_control      latents, time step, conditions -> output
    denoiser   conditioned, guided, doubly_guided, by_parts      latents, time step -> output
               posterior_guided, estimate_moved: around another
    hook       repainted                       latents after a step, next time step -> latents

Conventions: latents [B, C, h, w] are float32, at the scale that the network was trained at: alpha_t x_0 + sigma_t e
with alpha_t^2 + sigma_t^2 = 1 (a loop has applied the scheduler's `scale_model_input`). The output is float32 of the
same shape: noise e ("epsilon") or velocity v = alpha_t e - sigma_t x_0 ("v_prediction"; Salimans and Ho, 2022). A time
step is one number, on the latents' device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from blendbench.errors import BlendbenchError

if TYPE_CHECKING:  # takes seconds, and here names types alone
    from diffusers import ControlNetModel, SchedulerMixin, UNet2DConditionModel

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Latents [B, C, h, w] and a time step to the model's output [B, C, h, w]."""
Conditions = Mapping[str, torch.Tensor]
"""What a network is told beside the latents, by name, a row an item: `text` [B, T, D], `image` [B, C', h, w], ..."""
Network = Callable[[torch.Tensor, torch.Tensor, Conditions], torch.Tensor]
"""Latents [B, C, h, w], a time step and the conditions to the model's output [B, C, h, w]."""
AfterStep = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Hook of a loop: latents after a step, at the scheduler's scale, and the time step reached [1], or None at the end."""


def unet_network(unet: "UNet2DConditionModel") -> Network:
    """A U-Net under cross-attention (Rombach et al., 2022) as a network.

    It reads the conditions `text` [B, T, D] and, where the U-Net has more input channels than latents, `image`
    [B, C', h, w]: latents that are joined to the noisy ones, as InstructPix2Pix does (Brooks et al., 2023).
    """

    def predict(latents: torch.Tensor, timestep: torch.Tensor, given: Conditions) -> torch.Tensor:
        return _predict(unet, latents, timestep, given)

    return predict


def with_control(unet: "UNet2DConditionModel", controlnet: "ControlNetModel", scale: float = 1.0) -> Network:
    """A U-Net with a ControlNet beside it (Zhang et al., 2023), as `StableDiffusionControlNetPipeline` has it.

    The residuals of the ControlNet's blocks, times `scale`, are added to what the U-Net's skips and middle carry:
    y_i = U_i(x_t, t, text) + scale * C_i(x_t, t, text, control). Under guidance both halves are controlled.

    Parameters
    ----------
    unet, controlnet
        With the same blocks.
    scale : float
        Weight of the residuals; 0 is the U-Net alone.

    Returns
    -------
    Network
        Reads `control` [B, 3, H, W], an image in 0..1 at the pixels' size, beside the conditions of `unet_network`.
    """

    def predict(latents: torch.Tensor, timestep: torch.Tensor, given: Conditions) -> torch.Tensor:
        down, middle = controlnet(
            latents.to(unet.dtype),
            timestep,
            encoder_hidden_states=given["text"],
            controlnet_cond=given["control"].to(unet.dtype),
            conditioning_scale=scale,
            return_dict=False,
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return _predict(unet, latents, timestep, given, **residuals)

    return predict


def _predict(
    unet: "UNet2DConditionModel", latents: torch.Tensor, timestep: torch.Tensor, given: Conditions, **residuals: Any
) -> torch.Tensor:
    sample = torch.cat([latents, given["image"]], dim=1) if "image" in given else latents
    return unet(sample.to(unet.dtype), timestep, encoder_hidden_states=given["text"], **residuals).sample.float()


def conditioned(network: Network, given: Conditions) -> Denoiser:
    """The denoiser of a network that is told `given`, without guidance."""
    return lambda latents, timestep: network(latents, timestep, given)


def guided(network: Network, given: Conditions, without: Conditions, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans, 2022), both halves in one batch of 2B.

    e = e(x_t, without) + scale * (e(x_t, given) - e(x_t, without))

    Parameters
    ----------
    network : Network
    given : Conditions
        What is steered towards.
    without : Conditions
        What is steered away from: the empty or the negative prompt. What it does not name is as in `given`.
    scale : float
        Weight; 1 is no guidance.
    """
    both = _joined(dict(given) | dict(without), given)

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        away, towards = network(torch.cat([latents] * 2), timestep, both).chunk(2)
        return away + scale * (towards - away)

    return denoise


def doubly_guided(
    network: Network, given: Conditions, without: Conditions, text_scale: float, image_scale: float
) -> Denoiser:
    """InstructPix2Pix's two guidances (Brooks et al., 2023, Eq. 3), all three parts in one batch of 3B.

    e = e(x_t, 0, 0) + s_I (e(x_t, image, 0) - e(x_t, 0, 0)) + s_T (e(x_t, image, text) - e(x_t, image, 0))

    Parameters
    ----------
    network : Network
        Over a U-Net with input channels for `image`.
    given : Conditions
        `text` and `image`, the given image's latents. The published checkpoints take the posterior's mode, unscaled.
    without : Conditions
        `text` of the empty or the negative prompt, and `image`, zeros for the published checkpoints.
    text_scale, image_scale : float
        s_T and s_I. Equal scales are `guided` of both conditions at once.

    Raises
    ------
    BlendbenchError
        If one of the conditions is not there.
    """
    for name in ("text", "image"):
        if name not in given or name not in without:
            raise BlendbenchError(f"doubly_guided: no condition {name!r}; give text and image, with and without")
    image_alone = dict(given) | {"text": without["text"]}
    every = _joined(given, image_alone, dict(given) | dict(without))

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        both, image, neither = network(torch.cat([latents] * 3), timestep, every).chunk(3)
        return neither + text_scale * (both - image) + image_scale * (image - neither)

    return denoise


def posterior_guided(
    denoiser: Denoiser,
    log_likelihood: Callable[[torch.Tensor], torch.Tensor],
    alphas_cumprod: torch.Tensor,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
) -> Denoiser:
    """Diffusion posterior sampling (DPS; Chung et al., 2023): guidance by a likelihood's gradient through the denoiser.

    With x_0(x_t) = (x_t - sigma_t e) / alpha_t, the score -e / sigma_t gains g = grad_{x_t} log p(y | x_0(x_t)):
    e' = e - sigma_t g, or the same in terms of v: v' = v - (sigma_t / alpha_t) g.

    Parameters
    ----------
    denoiser : Denoiser
        Any, guided ones too; it is run once, with its graph kept.
    log_likelihood : callable
        From the estimate of clean latents [B, C, h, w] to log p(y | x_0) [B], up to a constant, so that it holds the
        weight: -|y - A(x_0)|^2 / (2 s^2), or -zeta |y - A(x_0)|, whose gradient is the squared one's over the residual,
        as the paper weighs it. Items do not mix.
    alphas_cumprod : torch.Tensor [T]
        alpha_t^2 by training step, such as `scheduler.alphas_cumprod`; between two steps it is interpolated.
    prediction_type : str
        What the denoiser's output is.

    Returns
    -------
    Denoiser
        Where alpha_t is 0 the latents tell nothing of x_0, and the output is the denoiser's own.

    Raises
    ------
    BlendbenchError
        If the prediction type is unknown.
    """
    in_noise = _is_noise(prediction_type)

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha, sigma = noise_level(alphas_cumprod, timestep)
        if alpha == 0:
            return denoiser(latents, timestep)
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_(True)
            output = denoiser(noisy, timestep)
            clean = _estimate(noisy, output, alpha, sigma, in_noise)
            (gradient,) = torch.autograd.grad(log_likelihood(clean).sum(), noisy)
        return output.detach() - (sigma if in_noise else sigma / alpha) * gradient

    return denoise


def estimate_moved(
    denoiser: Denoiser,
    move: Callable[[torch.Tensor, float], torch.Tensor],
    alphas_cumprod: torch.Tensor,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
) -> Denoiser:
    """Guidance of the estimate: what the denoiser takes for the clean latents is moved, and the output follows.

    With x_0 = (x_t - sigma_t e) / alpha_t the output becomes e' = (x_t - alpha_t x_0') / sigma_t, or
    v' = (alpha_t x_t - x_0') / sigma_t. No gradient goes through the denoiser, which makes this cheap beside
    `posterior_guided` (Bansal et al., 2023, universal guidance, "backward"; Yu et al., 2023, FreeDoM).

    Parameters
    ----------
    denoiser : Denoiser
    move : callable
        From the estimate [B, C, h, w] and sigma_t, how much of the latents is noise, 0..1, to the moved estimate.
    alphas_cumprod : torch.Tensor [T]
        As for `posterior_guided`.
    prediction_type : str
        What the denoiser's output is.

    Returns
    -------
    Denoiser
        Where the latents tell nothing of x_0 (alpha_t is 0 and the output is noise), or hold no noise, it is the
        denoiser's own.

    Raises
    ------
    BlendbenchError
        If the prediction type is unknown.
    """
    in_noise = _is_noise(prediction_type)

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        output = denoiser(latents, timestep)
        alpha, sigma = noise_level(alphas_cumprod, timestep)
        if sigma == 0 or (alpha == 0 and in_noise):
            return output
        clean = _estimate(latents, output, alpha, sigma, in_noise)
        moved = move(clean, sigma)
        return output + (alpha / sigma if in_noise else 1 / sigma) * (clean - moved)

    return denoise


def _is_noise(prediction_type: str) -> bool:
    """Whether a model's output is the noise rather than the velocity; raises BlendbenchError where it is neither."""
    if prediction_type not in ("epsilon", "v_prediction"):
        raise BlendbenchError(f"prediction_type {prediction_type!r}: unknown; use epsilon or v_prediction")
    return prediction_type == "epsilon"


def _estimate(latents: torch.Tensor, output: torch.Tensor, alpha: float, sigma: float, in_noise: bool) -> torch.Tensor:
    """What a model's output takes for the clean latents."""
    return (latents - sigma * output) / alpha if in_noise else alpha * latents - sigma * output


def noise_level(alphas_cumprod: torch.Tensor, timestep: torch.Tensor) -> tuple[float, float]:
    """alpha_t and sigma_t of a time step, which some schedulers place between two training steps."""
    last = len(alphas_cumprod) - 1
    place = min(max(float(timestep), 0.0), float(last))
    low = int(place)
    kept = torch.lerp(alphas_cumprod[low].double(), alphas_cumprod[min(low + 1, last)].double(), place - low)
    return float(kept.sqrt()), float((1 - kept).sqrt())


def repainted(scheduler: "SchedulerMixin", clean: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> AfterStep:
    """Keep known latents where the mask is 0 (RePaint; Lugmayr et al., 2022, Eq. 8, without resampling).

    After each step x_t becomes (1 - mask) * (alpha_t clean + sigma_t noise) + mask * x_t, with `clean` itself after the
    last. The noise is the same at all steps, as in diffusers' inpainting pipeline.

    Parameters
    ----------
    scheduler
        The loop's own, since it knows the level reached and the scale of its latents.
    clean, noise : torch.Tensor [B, C, h, w]
    mask : torch.Tensor [B, 1, h, w]
        In 0..1, 1 = repaint; may be fractional.
    """

    def keep(latents: torch.Tensor, reached: torch.Tensor | None) -> torch.Tensor:
        known = clean if reached is None else scheduler.add_noise(clean, noise, reached)
        return (1 - mask) * known + mask * latents

    return keep


def by_parts(make: Callable[[slice], Denoiser], parts: Sequence[slice]) -> Denoiser:
    """A denoiser that takes a batch apart: each part of the items goes through the denoiser that `make` has for it."""
    denoisers = [make(items) for items in parts]

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        whole = zip(denoisers, parts, strict=True)
        return torch.cat([one(latents[items], timestep) for one, items in whole])

    return denoise


def _joined(*every: Conditions) -> Conditions:
    return {name: torch.cat([given[name] for given in every]) for name in every[0]}
