"""How far a fill is from a reference: log-spectral distance in the gap, and signal-to-noise ratios inside and outside.

Waveforms are tensors `[samples]` of one length, full scale at 1.0; sums are taken in float64. Results are in dB. Of
equal waveforms the distance is 0, and lower is better; their ratios are inf, and higher is better.
"""

import math

import numpy as np
import torch
from scipy import signal
from torch import Tensor

from blendbench.errors import ClipError
from blendbench.tasks.long_gap.gap import Gap, validate

FRAME = 2048
FLOOR = 1e-5
"""Added to magnitudes, so that silence is -100 dB."""


def log_spectral_distance(reference: Tensor, estimate: Tensor, gap: Gap, frame: int = FRAME) -> float:
    """Mean over frames of the RMS over bins of the difference in 20 log10(|X| + 1e-5), of the gap alone.

    The STFT is `scipy.signal.stft` with frames of 2,048, overlap 1,536 and its defaults else: periodic Hann, scaled so
    that a sine of amplitude 1 has magnitude 1/2, the gap's ends padded with zeros.

    Parameters
    ----------
    reference, estimate : Tensor [samples]
    gap : Gap
        At least a frame.
    frame : int
        Samples of a frame, for waveforms at another rate than 44.1 kHz; three quarters overlap.

    Returns
    -------
    float
        In dB, 0 or more.

    Raises
    ------
    ClipError
        The waveforms or the gap are invalid (`validate`), they differ in length, or the gap is shorter than a frame.

    Source: our choice; SimDPS reports no distances. The stimuli's figures are in specs/simdps.md.
    """
    _validate_pair(reference, estimate, gap)
    if gap.length < frame:
        raise ClipError(f"gap of {gap.length} samples is shorter than a frame of {frame}: take a longer gap")
    first, second = (_levels(waveform[gap.start : gap.stop], frame) for waveform in (reference, estimate))
    return float(np.sqrt(np.mean((first - second) ** 2, axis=0)).mean())


def guide_snr(guide: Tensor, estimate: Tensor, gap: Gap) -> float:
    """How closely an estimate follows its guide in the gap, as a signal-to-noise ratio.

    Parameters
    ----------
    guide, estimate : Tensor [samples]
    gap : Gap

    Returns
    -------
    float
        In dB; as `snr`.

    Raises
    ------
    ClipError
        The waveforms or the gap are invalid (`validate`), or they differ in length.
    """
    _validate_pair(guide, estimate, gap)
    return snr(guide[gap.start : gap.stop], estimate[gap.start : gap.stop])


def context_snr(original: Tensor, estimate: Tensor, gap: Gap, beyond: int = 0) -> float:
    """How closely an estimate keeps the observed samples, as a signal-to-noise ratio.

    Parameters
    ----------
    original, estimate : Tensor [samples]
    gap : Gap
    beyond : int
        Samples next to the gap, on each side, that are left out; 2,000 leaves out what cross-fades change.

    Returns
    -------
    float
        In dB; as `snr`.

    Raises
    ------
    ClipError
        The waveforms or the gap are invalid (`validate`), they differ in length, `beyond` is negative, or no context
        lies beyond it.
    """
    _validate_pair(original, estimate, gap)
    if not 0 <= beyond < max(gap.start, len(original) - gap.stop):
        raise ClipError(f"no context lies beyond {beyond} samples from the gap: give a number from 0, within the clip")
    observed = torch.ones(len(original), dtype=torch.bool)
    observed[max(gap.start - beyond, 0) : gap.stop + beyond] = False
    return snr(original[observed], estimate[observed])


def snr(reference: Tensor, estimate: Tensor) -> float:
    """10 log10 of the reference's energy over that of the difference, in dB, of two tensors [samples].

    Equal ones, silent or not, have inf; a silent reference with another estimate has -inf.
    """
    wanted = reference.to(torch.float64)
    error = float((wanted - estimate).square().sum())
    energy = float(wanted.square().sum())
    if error == 0:
        return math.inf
    return 10 * math.log10(energy / error) if energy > 0 else -math.inf


def _validate_pair(reference: Tensor, estimate: Tensor, gap: Gap) -> None:
    """Check two waveforms and their gap; ClipError if one is invalid or the lengths differ."""
    validate(reference, gap)
    validate(estimate, gap)
    if len(reference) != len(estimate):
        raise ClipError(f"waveforms have {len(reference)} and {len(estimate)} samples: give two of one length")


def _levels(samples: Tensor, frame: int) -> np.ndarray:
    """Levels [bins, frames] of a waveform [samples], in dB."""
    values = samples.detach().cpu().numpy().astype(np.float64)
    spectrum = signal.stft(values, nperseg=frame, noverlap=frame * 3 // 4)[2]
    return 20 * np.log10(np.abs(spectrum) + FLOOR)
