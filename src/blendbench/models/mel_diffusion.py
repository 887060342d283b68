"""Msanii's diffusion over scaled spectrograms: DDIM and RePaint of diffusers, and the five tasks made of them.

A denoiser is called as `model(x, times)` and returns the noise in spectrograms x [B, channels, mels, frames] at times
[B] in 0..999. Items of a batch have their own generators, so that none depends on its neighbours.

Source: Maina (2023), sections 2.2 and 4; Lugmayr et al. (2022) for RePaint.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

TRAINED_TIMES = 1000
Denoiser = Callable[[Tensor, Tensor], Tensor]
After = Callable[[int, Tensor], None]
"""Told after each call of the network: how many there have been, and the state."""


@lru_cache(maxsize=1)
def alpha_bar() -> Tensor:
    """Share of the signal's power at each time, [1000], float32, as diffusers has it (squaredcos_cap_v2)."""
    return _ddim(1).alphas_cumprod


def _ddim(steps: int) -> Any:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=TRAINED_TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=True,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def noised(clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Spectrograms [B, ...] at times [B], with noise of their shape."""
    share = alpha_bar().to(clean)[times].reshape(-1, *[1] * (clean.ndim - 1))
    return share.sqrt() * clean + (1 - share).sqrt() * noise


def times_from(top: int, steps: int = 200) -> list[int]:
    """Times of the network's calls from a time down: every (top // steps)th below it, at least every one.

    200 steps from 1000: 995, 990 .. 0; from 500: 498, 496 .. 0; from 100: 99, 98 .. 0.

    Raises
    ------
    BlendbenchError
        If `top` is outside 0..1000, or `steps` below 1.
    """
    if not 0 <= top <= TRAINED_TIMES:
        raise BlendbenchError(f"t is {top}; give a time within 0..{TRAINED_TIMES}")
    if steps < 1:
        raise BlendbenchError(f"steps is {steps}; give at least 1")
    stride = _stride(top, steps)
    return list(reversed(range(0, top, stride)))


def _stride(top: int, steps: int) -> int:
    # As diffusers' scheduler has it: a divisor of 1000, rounded down.
    return TRAINED_TIMES // (TRAINED_TIMES // max(1, top // steps))


def noise_of(shape: Sequence[int], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """White noise [B, *shape], an item by its own generator on the CPU."""
    return torch.stack([torch.randn(*shape, generator=one) for one in generators]).to(like)


def denoise(
    model: Denoiser, x: Tensor, top: int, steps: int = 200, first: int = 0, after: After | None = None
) -> Tensor:
    """DDIM (eta 0) of spectrograms at a time down to clean ones.

    Parameters
    ----------
    x : Tensor [B, channels, mels, frames]
        At time `top`; 1000 for noise. With `first` above 0, as they were after so many calls.
    top, steps : int
        See `times_from`.
    first : int
        Calls that are done already.
    after : callable, optional
    """
    if top == 0:
        return x
    scheduler = _ddim(TRAINED_TIMES // _stride(top, steps))
    for number, time in enumerate(times_from(top, steps)):
        if number < first:
            continue
        noise = model(x, torch.full((len(x),), time, device=x.device))
        x = scheduler.step(noise, time, x).prev_sample
        if after is not None:
            after(number + 1, x)
    return x


def at_time(clean: Tensor, top: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Spectrograms with noise to a time; as they are at 0."""
    times_from(top)
    if top == 0:
        return clean
    times = torch.full((len(clean),), min(top, TRAINED_TIMES - 1))
    return noised(clean, times, noise_of(clean.shape[1:], generators, clean))


def between(
    first: Tensor,
    second: Tensor,
    top: int,
    share: float,
    generators: Sequence[torch.Generator],
    noise: Literal["independent", "shared"] = "independent",
) -> Tensor:
    """Two spectrograms at a time, mixed by the share of the first.

    With independent noises, as published, the mix has less noise than its time says: share^2 + (1 - share)^2 of its
    power, half of it in the middle.

    Raises
    ------
    BlendbenchError
        If the share is outside 0..1, the time outside 0..1000, or `noise` unknown.
    """
    if not 0 <= share <= 1:
        raise BlendbenchError(f"share is {share}; give a number within 0..1")
    if noise not in ("independent", "shared"):
        raise BlendbenchError(f"noise is {noise!r}; choose independent or shared")
    times_from(top)
    if top == 0:
        return share * first + (1 - share) * second
    times = torch.full((len(first),), min(top, TRAINED_TIMES - 1))
    drawn = noise_of(first.shape[1:], generators, first)
    other = drawn if noise == "shared" else noise_of(second.shape[1:], generators, second)
    return share * noised(first, times, drawn) + (1 - share) * noised(second, times, other)


def repaint_times(steps: int = 200, jump: int = 10, resample: int = 10) -> list[int]:
    """RePaint's walk over the times: down, and at each `jump`th up again, `resample` - 1 times.

    Raises
    ------
    BlendbenchError
        If a number is below 1, or there are more than 1000 steps.
    """
    if not 1 <= steps <= TRAINED_TIMES or jump < 1 or resample < 1:
        raise BlendbenchError(
            f"steps {steps}, jump {jump}, resample {resample}: give 1..{TRAINED_TIMES} steps, and numbers above 0"
        )
    walk: list[int] = _repaint(steps, jump, resample).timesteps.tolist()
    return walk


def _repaint(steps: int, jump: int, resample: int, eta: float = 0.0) -> Any:
    from diffusers import RePaintScheduler

    scheduler = RePaintScheduler(
        num_train_timesteps=TRAINED_TIMES, beta_schedule="squaredcos_cap_v2", eta=eta, clip_sample=True
    )
    scheduler.set_timesteps(steps, jump, resample)
    return scheduler


def _calls(times: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Each time of a walk, and whether the network is called there; else noise is added."""
    last = times[0] + 1
    for time in times:
        yield (time, True) if time < last else (last, False)
        last = time


def calls_of(times: Sequence[int]) -> tuple[int, int]:
    """Network calls and re-noisings of a walk."""
    called = sum(is_call for _, is_call in _calls(times))
    return called, len(times) - called


def repaint(
    model: Denoiser,
    clean: Tensor,
    keep: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int = 200,
    jump: int = 10,
    resample: int = 10,
    eta: float = 0.0,
    renoise: Literal["diffusers", "exact"] = "diffusers",
    begun: Tensor | None = None,
    first: int = 0,
    after: After | None = None,
) -> Tensor:
    """Paint what is not kept, held to what is; what is kept comes out exactly.

    Parameters
    ----------
    clean : Tensor [B, channels, mels, frames]
    keep : Tensor
        1 where it is kept, 0 where it is painted; broadcast to `clean`.
    steps, jump, resample : int
        See `repaint_times`.
    eta : float
        Noise of a step, 0..1.
    renoise : "diffusers" or "exact"
        diffusers adds noise of the betas of times later by all but one of a stride; exact is that between the two
        times.
    begun, first : Tensor and int
        The state after so many calls, with the generators as they were then, to go on from.
    after : callable, optional

    Raises
    ------
    BlendbenchError
        If a setting is out of range, or nothing is to be painted.
    """
    walk = repaint_times(steps, jump, resample)
    if renoise not in ("diffusers", "exact") or not 0 <= eta <= 1:
        raise BlendbenchError(f"renoise {renoise!r}, eta {eta}: choose diffusers or exact, and give 0..1")
    keep = keep.to(clean).expand(clean.shape)
    if not bool((keep < 1).any()):
        raise BlendbenchError("nothing is to be painted; leave a part out of what is kept")
    scheduler, shares, stride = _repaint(steps, jump, resample, eta), alpha_bar().to(clean), TRAINED_TIMES // steps
    draws = list(generators)
    x, number = noise_of(clean.shape[1:], draws, clean) if begun is None else begun, 0
    for time, is_call in _calls(walk):
        if number < first:
            number += is_call
        elif is_call:
            noise = model(x, torch.full((len(x),), time, device=x.device))
            x = scheduler.step(noise, time, x, clean, keep, draws).prev_sample
            number += 1
            if after is not None:
                after(number, x)
        elif renoise == "diffusers":
            x = scheduler.undo_step(x, time, draws)
        else:
            before = shares[time - stride] if time >= stride else shares.new_ones(())
            share = shares[time] / before
            x = share.sqrt() * x + (1 - share).sqrt() * noise_of(clean.shape[1:], draws, clean)
    return x
