"""Which parts of a noise are to be hidden, how loud music must be to hide them, and the gain that follows.

Images are pixels in 0..255 where loud is dark, [..., H, W]. Mel spectrograms are linear amplitudes (not power, not dB),
[H, W]. A mask is boolean and true on the *core*: the loudest part of the noise. Gains are linear factors on amplitude
(the paper's lambda) or, where the name ends in `_db`, 20 log10 of that. Sums are taken in float64 on the CPU, so a gain
does not depend on the device. Equations are those of BNMusic (Zuo et al.), section 3.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blendbench.errors import BlendbenchError, ClipError

Bound = Literal["none", "min", "max"]
# Two sums that agree to this relative precision count as equal, so that rounding does not decide a flat optimum.
_TIE_TOLERANCE = 1e-12


@dataclass(frozen=True)
class GainResult:
    """The amplification chosen for one clip of music.

    Attributes
    ----------
    gain_db : float
        The gain to apply, in dB; -inf when the music is switched off.
    gain_db_unbounded : float
        The optimum without bounds, in dB; -inf when it is 0 (music off).
    bound : {"none", "min", "max"}
        The bound that moved `gain_db` away from the unbounded optimum.
    core_ratio : float
        R, the share of the music's summed amplitude that lies in the core, 0..1.
    objective : float
        Value of equation 4 at `gain_db`, in summed mel amplitude.
    """

    gain_db: float
    gain_db_unbounded: float
    bound: Bound
    core_ratio: float
    objective: float

    @property
    def gain(self) -> float:
        """`gain_db` as a linear factor on amplitude."""
        return _from_db(self.gain_db)


def core_mask(pixels: Tensor, fraction: float = 0.15, threshold: float | None = None) -> Tensor:
    """Mark the core M of each image: its loudest, that is darkest, pixels.

    With `fraction` exactly `round(fraction * H * W)` pixels (at least one) are marked in every image. Where equal
    pixels straddle the limit, those that come first in reading order (top row first, left to right) are taken, so the
    result does not depend on device or batch. With `threshold` the count is whatever the image gives, possibly zero.

    Parameters
    ----------
    pixels : Tensor [..., H, W]
        Grey levels, 0 (loudest) to 255.
    fraction : float
        Share of pixels in the core, over 0 and up to 1; unused when `threshold` is given.
    threshold : float, optional
        Absolute grey level; pixels at or below it are core.

    Returns
    -------
    Tensor [..., H, W], bool
        True on the core.

    Raises
    ------
    BlendbenchError
        `fraction` is out of range or `pixels` is no image.
    ClipError
        An image is constant (a silent clip), so that it has no core, or is not finite.

    Source: BNMusic, section 3 (pre-processing) and appendix B (10 to 20 % of the area, or an absolute grey level).
    """
    if pixels.dim() < 2 or pixels.numel() == 0:
        raise BlendbenchError(f"core_mask needs images [..., H, W], got shape {tuple(pixels.shape)}: pass pixels")
    flat = pixels.flatten(-2)
    if not bool(torch.isfinite(flat).all()):
        raise ClipError("noise image has pixels that are not finite: check the clip for silence or broken samples")
    if bool((flat.amin(-1) == flat.amax(-1)).any()):
        raise ClipError("noise image is constant, so it has no core: leave this (probably silent) clip out")
    if threshold is not None:
        return pixels <= threshold
    if not 0 < fraction <= 1:
        raise BlendbenchError(f"core fraction is {fraction}: give a number over 0 and at most 1")
    count = max(1, round(fraction * flat.shape[-1]))
    order = torch.argsort(flat, dim=-1, stable=True)[..., :count]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, order, True)
    return mask.view(pixels.shape)


def latent_mask(mask: Tensor, factor: int = 8, reduce: Literal["nearest", "max"] = "nearest") -> Tensor:
    """Bring a pixel mask to the latents' size.

    `nearest` takes the top left pixel of each block, exactly as diffusers' inpainting pipelines do through
    `torch.nn.functional.interpolate`. `max` marks a latent if any pixel of its block is marked: given a mask of what is
    *core*, every core pixel is kept. Negate after reducing, not before: `max` of the negated mask would mark every
    latent that the core leaves anything of.

    Parameters
    ----------
    mask : Tensor [..., H, W], bool
        H and W are multiples of `factor`.
    factor : int
        Pixels a latent, along each axis.
    reduce : {"nearest", "max"}
        How a block of pixels becomes one value.

    Returns
    -------
    Tensor [..., H / factor, W / factor], bool

    Raises
    ------
    BlendbenchError
        The size is no multiple of `factor`, or `reduce` is unknown.
    """
    if mask.dim() < 2 or mask.shape[-1] % factor or mask.shape[-2] % factor:
        raise BlendbenchError(f"mask of shape {tuple(mask.shape)} is not a multiple of {factor} pixels: pad the image")
    height, width = mask.shape[-2] // factor, mask.shape[-1] // factor
    images = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if reduce == "nearest":
        reduced = F.interpolate(images, size=(height, width), mode="nearest")
    elif reduce == "max":
        reduced = F.max_pool2d(images, factor)
    else:
        raise BlendbenchError(f"mask.latent_reduce is {reduce!r}: choose 'nearest' or 'max'")
    return reduced.reshape(*mask.shape[:-2], height, width) > 0.5


def masking_threshold(noise_mel: Tensor, smr_db: float = 21.0) -> Tensor:
    """Level above which music masks the noise: T = Mel |10^((20 log10 S + smr_db) / 20)|.

    The exponent only scales the magnitudes by 10^(smr_db / 20), and the mel filter bank is linear with weights that are
    never negative, so the threshold is the noise's own mel amplitudes times that factor. Magnitudes of an STFT may be
    passed too: filtering the result gives the same.

    Parameters
    ----------
    noise_mel : Tensor [..., H, W]
        Linear amplitudes of the noise.
    smr_db : float
        Signal-to-mask ratio, in dB.

    Returns
    -------
    Tensor [..., H, W]
        Linear amplitudes.

    Source: BNMusic, equation 3; 21 to 28 dB after Painter and Spanias (2000), tone masking noise.
    """
    return noise_mel * _from_db(smr_db)


def objective(gain: float | Tensor, music_mel: Tensor, threshold: Tensor, mask: Tensor, alpha: float = 0.14) -> Tensor:
    """Cost of a gain: alpha * sum(gain * S) + sum(max((T - gain * S) * M, 0)).

    Parameters
    ----------
    gain : float or Tensor, scalar
        Linear factor lambda on the music's amplitude; a tensor may require its gradient.
    music_mel, threshold : Tensor [H, W]
        Linear mel amplitudes: S of the music and T from `masking_threshold`.
    mask : Tensor [H, W], bool
        The core.
    alpha : float
        Weight of the music's total amplitude.

    Returns
    -------
    Tensor, scalar, float64
        Summed mel amplitude.

    Raises
    ------
    BlendbenchError, ClipError
        As `optimal_gain`.

    Source: BNMusic, equation 4.
    """
    total, music, limit = _core_amplitudes(music_mel, threshold, mask, alpha)
    return _objective(torch.as_tensor(gain, dtype=torch.float64), total, music, limit, alpha)


def optimal_gain(
    music_mel: Tensor,
    threshold: Tensor,
    mask: Tensor,
    alpha: float = 0.14,
    min_gain_db: float | None = 0.0,
    max_gain_db: float | None = 6.0,
) -> GainResult:
    """Gain that minimises equation 4, exactly, for one clip.

    The cost is convex and piecewise linear in lambda, with a kink wherever a core pixel reaches its threshold, at
    lambda = T / S. Its slope right of lambda is alpha * sum(S) - sum of S over the core pixels with T / S > lambda; the
    optimum is the smallest lambda at which that is not negative: a quantile of the ratios T / S, weighted by S. Where
    the cost is flat at its minimum, the smallest such lambda is taken. In particular it is 0 (music off) whenever the
    core holds no more than a share alpha of the music, R <= alpha, and so with an empty core. Core pixels where the
    music is 0 no gain can mask; they add a constant. As the cost is convex, the optimum under bounds is the unbounded
    one clipped to them.

    Parameters
    ----------
    music_mel : Tensor [H, W]
        Linear mel amplitudes S of the music at the noise's loudness, so that 0 dB means equally loud.
    threshold : Tensor [H, W]
        Linear mel amplitudes T from `masking_threshold`.
    mask : Tensor [H, W], bool
        The core.
    alpha : float
        Weight of the music's total amplitude, not negative.
    min_gain_db, max_gain_db : float or None
        Bounds on the gain, in dB; None for no bound.

    Returns
    -------
    GainResult

    Raises
    ------
    BlendbenchError
        Shapes differ, `alpha` is negative, the bounds are the wrong way round, or the mask is not boolean.
    ClipError
        The music is silent, or amplitudes are negative or not finite.

    Source: BNMusic, equation 4, which it minimises by gradient descent; bounds after its appendix A.
    """
    total, music, limit = _core_amplitudes(music_mel, threshold, mask, alpha)
    optimum = _smallest_minimiser(total, music, limit, alpha)
    return _bounded(optimum, total, music, limit, alpha, min_gain_db, max_gain_db)


def optimal_gain_gradient_descent(
    music_mel: Tensor,
    threshold: Tensor,
    mask: Tensor,
    alpha: float = 0.14,
    min_gain_db: float | None = 0.0,
    max_gain_db: float | None = 6.0,
    steps: int = 300,
    off_below_db: float = -120.0,
) -> GainResult:
    """Gain that minimises equation 4, found by descending its gradient, as in the paper.

    Descends in log(lambda) as Rprop does, by the gradient's sign alone, with a step that grows by 1.2 while the sign
    stays and halves when it turns: the cost's scale does not matter, and the step shrinks around the kink that is the
    optimum. A lambda that falls below `off_below_db` counts as 0. Where the cost is flat at its minimum, any of its
    minimisers may come out; elsewhere the result agrees with `optimal_gain` to under 0.01 dB.

    Parameters
    ----------
    music_mel, threshold, mask, alpha, min_gain_db, max_gain_db
        As for `optimal_gain`.
    steps : int
        At most this many steps.
    off_below_db : float
        Gain under which the music counts as off, in dB.

    Returns
    -------
    GainResult

    Raises
    ------
    BlendbenchError, ClipError
        As `optimal_gain`.

    Source: BNMusic, equation 4; Riedmiller and Braun (1993) for Rprop.
    """
    total, music, limit = _core_amplitudes(music_mel, threshold, mask, alpha)
    log_gain, step, last_sign = 0.0, 0.1, 0.0  # the step is in nepers (1 neper is 8.7 dB)
    lowest = off_below_db * math.log(10) / 20
    for _ in range(steps):
        variable = torch.tensor(log_gain, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(_objective(variable.exp(), total, music, limit, alpha), variable)
        sign = math.copysign(1.0, slope.item()) if slope.item() else 0.0
        if sign * last_sign < 0:
            step /= 2
        elif last_sign:
            step = min(1.2 * step, 1.0)
        if sign == 0 or step < 1e-6 or log_gain < lowest:
            break
        log_gain -= sign * step
        last_sign = sign
    optimum = 0.0 if log_gain < lowest else math.exp(log_gain)
    return _bounded(optimum, total, music, limit, alpha, min_gain_db, max_gain_db)


def _core_amplitudes(music_mel: Tensor, threshold: Tensor, mask: Tensor, alpha: float) -> tuple[float, Tensor, Tensor]:
    """Checked input as (sum of S, S over the core, T over the core), in float64."""
    if not (music_mel.shape == threshold.shape == mask.shape):
        raise BlendbenchError(
            f"music {tuple(music_mel.shape)}, threshold {tuple(threshold.shape)} and mask {tuple(mask.shape)} "
            "differ in shape: bring them to the same bands and frames"
        )
    if mask.dtype != torch.bool:
        raise BlendbenchError(f"mask is of type {mask.dtype}: pass a boolean mask, true on the core")
    if not alpha >= 0:
        raise BlendbenchError(f"alpha is {alpha}: give a number that is not negative")
    music, limit = music_mel.detach().double().cpu(), threshold.detach().double().cpu()
    for name, values in (("music spectrogram", music), ("masking threshold", limit)):
        if not bool(torch.isfinite(values).all()):
            raise ClipError(f"{name} has values that are not finite: check the clip for broken samples")
        if bool((values < 0).any()):
            raise ClipError(f"{name} has negative values: pass linear amplitudes, not decibels or pixels")
    total = float(music.sum())
    if total == 0:
        raise ClipError("music is silent, so no gain can make it mask the noise: leave this clip out")
    core = mask.cpu()
    return total, music[core], limit[core]


def _objective(gain: Tensor, total: float, music: Tensor, limit: Tensor, alpha: float) -> Tensor:
    return alpha * gain * total + (limit - gain * music).clamp(min=0).sum()


def _smallest_minimiser(total: float, music: Tensor, limit: Tensor, alpha: float) -> float:
    audible = music > 0
    weights = music[audible]
    ratios, order = torch.sort(limit[audible] / weights)
    weights = weights[order]
    allowed = alpha * total * (1 + _TIE_TOLERANCE)
    if float(weights[ratios > 0].sum()) <= allowed:
        return 0.0
    # remaining[i]: amplitude of the pixels that are still audible under a gain of ratios[i]; 0 for the last.
    remaining = F.pad(weights.flip(0).cumsum(0).flip(0)[1:], (0, 1))
    return float(ratios[(remaining <= allowed).nonzero()[0, 0]])


def _bounded(
    optimum: float,
    total: float,
    music: Tensor,
    limit: Tensor,
    alpha: float,
    min_gain_db: float | None,
    max_gain_db: float | None,
) -> GainResult:
    low = -math.inf if min_gain_db is None else float(min_gain_db)
    high = math.inf if max_gain_db is None else float(max_gain_db)
    if not low <= high or low == math.inf or high == -math.inf:
        raise BlendbenchError(f"min_gain_db {min_gain_db} and max_gain_db {max_gain_db} leave no gain: mend them")
    unbounded = 20 * math.log10(optimum) if optimum > 0 else -math.inf
    gain_db = unbounded
    bound: Bound = "none"
    if unbounded < low:
        gain_db, bound = low, "min"
    elif unbounded > high:
        gain_db, bound = high, "max"
    gain = optimum if bound == "none" else _from_db(gain_db)
    value = _objective(torch.tensor(gain, dtype=torch.float64), total, music, limit, alpha)
    core_ratio = min(float(music.sum()) / total, 1.0)
    return GainResult(gain_db, unbounded, bound, core_ratio, float(value))


def _from_db(decibels: float) -> float:
    return 10 ** (decibels / 20)
