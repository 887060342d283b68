"""The gap of an inpainting task, what is observed around it, and pasting a fill in.

A waveform is a tensor `[samples]` or `[channels, samples]`, full scale at 1.0. A gap is `[start, stop)` in samples, of
which nothing is known; everything else is observed and is called the context. A fill is a waveform as long as the
degraded one, of which mostly the gap's samples are wanted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from blendbench.errors import ClipError

FADE = 441
"""Weights of the cross-fade a side: 10 ms at 44.1 kHz."""


@dataclass(frozen=True)
class Gap:
    """The missing samples `[start, stop)`, with context on both sides."""

    start: int
    """First missing sample."""
    stop: int
    """First observed sample after the gap."""

    @property
    def length(self) -> int:
        """Number of missing samples."""
        return self.stop - self.start

    def check(self, samples: int) -> None:
        """Check that a waveform of so many samples has this gap inside it.

        Raises
        ------
        ClipError
            The gap is empty, is as long as the waveform, or has no context on one side.
        """
        where = f"gap [{self.start}, {self.stop}) of {samples} samples"
        if self.length <= 0:
            raise ClipError(f"{where} is empty: let it stop after its start")
        if self.length >= samples:
            raise ClipError(f"{where} leaves no context: take a shorter gap or a longer clip")
        if self.start <= 0 or self.stop >= samples:
            raise ClipError(f"{where} lies at an edge: leave context on both sides")

    def mask(self, samples: int) -> Tensor:
        """Diagonal of M in equation 1 of SimDPS: bool `[samples]`, True where observed.

        Raises
        ------
        ClipError
            As `check`.
        """
        self.check(samples)
        observed = torch.ones(samples, dtype=torch.bool)
        observed[self.start : self.stop] = False
        return observed


def validate(waveform: Tensor, gap: Gap) -> None:
    """Check a mono waveform with a gap in it.

    Raises
    ------
    ClipError
        It is not one-dimensional or not finite, or the gap does not lie inside it (`Gap.check`).
    """
    if waveform.ndim != 1:
        raise ClipError(f"waveform has shape {list(waveform.shape)}: give one channel, [samples]")
    gap.check(waveform.shape[0])
    if not bool(torch.isfinite(waveform).all()):
        raise ClipError("waveform holds NaN or infinity: repair the file")


def paste(degraded: Tensor, filled: Tensor, gap: Gap, fade: int = FADE) -> Tensor:
    """Put a fill into the gap, with a linear cross-fade outside the gap.

    On each side `fade` weights go from 0 to 1 with the last next to the gap, so `fade - 1` observed samples change: the
    outermost keeps its value and the innermost takes the fill's. The published Sim excerpts are made like this.

    Parameters
    ----------
    degraded, filled : Tensor [..., samples]
    gap : Gap
    fade : int
        Weights a side, in samples; 0 cuts hard at the gap's edges.

    Returns
    -------
    Tensor [..., samples], dtype of `degraded`
        Where the weight is 0 it holds the bits of `degraded`.

    Raises
    ------
    ClipError
        The shapes differ, the gap does not lie inside (`Gap.check`), or the cross-fade is negative or does not fit.

    Source: SimDPS, section 5 (10 ms, after Perraudin et al., 2018); place and number of weights as in its stimuli.
    """
    if degraded.shape != filled.shape:
        raise ClipError(f"fill has shape {list(filled.shape)}, degraded {list(degraded.shape)}: make them equal")
    samples = degraded.shape[-1]
    gap.check(samples)
    if not 0 <= fade <= min(gap.start, samples - gap.stop):
        raise ClipError(
            f"cross-fade of {fade} samples does not fit the context, {gap.start} before and {samples - gap.stop} after"
        )
    weight = torch.zeros(samples, dtype=degraded.dtype, device=degraded.device)
    weight[gap.start : gap.stop] = 1
    ramp = torch.linspace(0, 1, fade).to(weight)
    weight[gap.start - fade : gap.start] = ramp
    weight[gap.stop : gap.stop + fade] = ramp.flip(0)
    return torch.where(weight > 0, (1 - weight) * degraded + weight * filled, degraded)
