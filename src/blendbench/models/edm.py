"""EDM: noise levels, the stochastic sampler of Karras et al. (2022), and guidance by what is observed.

A prior is a denoiser D(x; sigma): from waveforms [B, samples] with white noise of standard deviation sigma to the mean
of what they may have been. The sampler goes from the highest level down to 0 along the probability flow, of slope
(x - D) / sigma, with a little fresh noise at each step. What is observed enters as a wrapper of the denoiser, which may
differentiate through it.

All is float32, [B, samples]; items do not mix, and each has a generator of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

Denoiser = Callable[[Tensor, float], Tensor]
"""Waveforms [B, samples] and their noise's standard deviation, to clean waveforms [B, samples]."""


@dataclass(frozen=True)
class Schedule:
    """Noise levels.

    Parameters
    ----------
    steps : int
        Levels above 0 (T).
    sigma_max, sigma_min : float
        The first and the last of them.
    kind : "log" or "edm"
        Geometric, as in SimDPS, or Karras et al.'s eq. 5.
    rho : float
        Of `edm`.
    """

    steps: int = 50
    sigma_max: float = 8.0
    sigma_min: float = 1e-5
    kind: Literal["log", "edm"] = "log"
    rho: float = 10.0

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 2:
            raise BlendbenchError(f"steps is {self.steps}; give a whole number from 2 up")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise BlendbenchError(
                f"sigma_min and sigma_max are {self.sigma_min} and {self.sigma_max}; give 0 < sigma_min < sigma_max"
            )
        if self.kind not in ("log", "edm"):
            raise BlendbenchError(f"schedule is {self.kind!r}; choose log or edm")
        if not self.rho > 0:
            raise BlendbenchError(f"rho is {self.rho}; give a number above 0")

    def levels(self) -> list[float]:
        """All levels, highest first, and 0."""
        shares = [step / (self.steps - 1) for step in range(self.steps)]
        if self.kind == "log":
            ratio = self.sigma_min / self.sigma_max
            found = [self.sigma_max * ratio**share for share in shares]
        else:
            high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
            found = [(high + share * (low - high)) ** self.rho for share in shares]
        return [*found, 0.0]


@dataclass(frozen=True)
class Churn:
    """Fresh noise at each step (Karras et al., Algorithm 2).

    Parameters
    ----------
    amount : float
        S_churn; a step's level is first raised by min(amount / steps, sqrt(2) - 1).
    low, high : float
        S_tmin and S_tmax: levels outside get none; None is without bound.
    scale : float
        S_noise.
    """

    amount: float = 10.0
    low: float = 0.0
    high: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("amount", "low", "scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BlendbenchError(f"{name} of churn is {getattr(self, name)}; give a number from 0 up")

    def gamma(self, sigma: float, steps: int) -> float:
        """By how much a level is raised, as a share."""
        within = self.low <= sigma and (self.high is None or sigma <= self.high)
        return min(self.amount / steps, math.sqrt(2) - 1) if within else 0.0


def sample(
    denoiser: Denoiser,
    start: Tensor,
    schedule: Schedule,
    churn: Churn,
    generators: Sequence[torch.Generator],
    heun: bool = True,
    after: Callable[[], object] | None = None,
) -> Tensor:
    """Draw from what a denoiser stands for, by Algorithm 2 of Karras et al. (2022).

    Parameters
    ----------
    denoiser : Denoiser
        Called twice a step, and once at the last, whose step is Euler's.
    start : Tensor [B, samples]
        White noise of deviation 1.
    schedule : Schedule
    churn : Churn
    generators : sequence of torch.Generator
        One an item, on the CPU; drawn from at every step, whether its noise is used or not.
    heun : bool
        False takes Euler's step everywhere.
    after : callable, optional
        Called after each step, for progress.

    Returns
    -------
    Tensor [B, samples]
    """
    if len(generators) != len(start):
        raise BlendbenchError(f"generators: {len(generators)} given for {len(start)} items; give one each")
    levels = schedule.levels()
    x = start * levels[0]
    for sigma, following in pairwise(levels):
        raised = sigma * (1 + churn.gamma(sigma, schedule.steps))
        fresh = torch.stack([torch.randn(x.shape[1:], generator=one) for one in generators]).to(x)
        if raised > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * churn.scale * fresh
        slope = (x - denoiser(x, raised)) / raised
        reached = x + (following - raised) * slope
        if following > 0 and heun:
            second = (reached - denoiser(reached, following)) / following
            reached = x + (following - raised) * (slope + second) / 2
        x = reached
        if after is not None:
            after()
    return x


@dataclass(frozen=True)
class Guidance:
    """SimDPS's guidance: the denoised estimate moves against the gradients of two squared misfits.

    D' = D - sigma (w_y g_y / rms(g_y) + w_x g_x / rms(g_x)), g_y = grad_x |M (y - D)|^2 for what is observed,
    g_x = grad_x |(1 - M)(guide - D)|^2 for what the guide holds in the gap, each through the denoiser and brought to a
    root mean square of 1 an item. A gradient of 0 moves nothing.

    Parameters
    ----------
    observed : float
        w_y.
    guide : float
        w_x: 0 is DPS, .04 SimDPS-h, .15 SimDPS-l.
    """

    observed: float = 0.3
    guide: float = 0.0

    def __post_init__(self) -> None:
        for name in ("observed", "guide"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BlendbenchError(f"guidance.{name} is {getattr(self, name)}; give a number from 0 up")


def guided(denoiser: Denoiser, signal: Tensor, mask: Tensor, guidance: Guidance) -> Denoiser:
    """A denoiser that is held to what is observed, and to a guide in the gap.

    Parameters
    ----------
    denoiser : Denoiser
        Differentiated through.
    signal : Tensor [B, samples]
        What is observed, and in the gap the guide.
    mask : Tensor [samples] or [B, samples]
        1 where it is observed.
    guidance : Guidance

    Source: SimDPS, eqs. 5 to 8, as its stimuli read: per item, each term by itself, in both evaluations of a step.
    """
    terms = [(guidance.observed, mask), (guidance.guide, 1 - mask)]
    terms = [(weight, where) for weight, where in terms if weight > 0]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if not terms:
            return denoiser(x, sigma)
        with torch.enable_grad():
            noisy = x.detach().requires_grad_(True)
            clean = denoiser(noisy, sigma)
            moved = clean.detach()
            for number, (weight, where) in enumerate(terms):
                misfit = (where * (signal - clean)).square().sum()
                (gradient,) = torch.autograd.grad(misfit, noisy, retain_graph=number + 1 < len(terms))
                size = gradient.square().mean(-1, keepdim=True).sqrt()
                moved = moved - sigma * weight * torch.where(size > 0, gradient / size.clamp_min(1e-30), 0)
        return moved

    return denoise


def exact_guided(
    denoiser: Denoiser, signal: Tensor, mask: Tensor, sigma_y: float, covariance: Callable[[float], Tensor]
) -> Denoiser:
    """A denoiser of the posterior of a Gaussian prior, whose covariance given a noisy waveform is known.

    D' = D + C_s M' (M C_s M' + sigma_y^2)^-1 (y - M D): the mean given the noisy waveform and what is observed, where
    C_s = C sigma^2 (C + sigma^2)^-1. For short signals: it is what the paper's guidance is held against.

    Parameters
    ----------
    denoiser : Denoiser
    signal : Tensor [B, samples]
    mask : Tensor [samples]
        1 where observed.
    sigma_y : float
        Deviation of the observation's error.
    covariance : callable
        From sigma to C_s [samples, samples].
    """
    seen = mask > 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        clean = denoiser(x, sigma)
        within = covariance(sigma).to(clean)
        observed = within[seen][:, seen] + sigma_y**2 * torch.eye(int(seen.sum()), dtype=clean.dtype)
        gain = torch.linalg.solve(observed, within[seen]).T
        return clean + (signal - clean)[:, seen] @ gain.T

    return denoise
