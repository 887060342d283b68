"""Linear prediction over a gap: extrapolate from both sides by Burg's method, then mix (Kauppinen and Roth, 2002).

A predictor is the vector [1, a_1 .. a_p] with x[n] = -sum a_k x[n - k]; sums are taken in float64. The defaults are
those with which the published LPC excerpts of SimDPS agree: order 1000 from 2,048 samples a side, while the left
context ends, and the fill begins, one sample before the gap.
"""

import numpy as np
import torch
from scipy import signal
from torch import Tensor

from blendbench.errors import ClipError
from blendbench.tasks.long_gap.gap import Gap, validate

ORDER = 1000
CONTEXT = 2048
EARLY = 1
ROUNDING = 1e-24
"""Share of the power below which a prediction error is float64's rounding; float32's own is about 1e-15."""


def burg(samples: np.ndarray, order: int) -> np.ndarray:
    """Predictor that minimises the forward and backward prediction errors, stage by stage (Burg, 1975).

    Once the error is down to rounding (`ROUNDING`), as of a pure sine, the recursion stops and later coefficients are
    0: fitted to rounding, they would make the predictor unstable.

    Parameters
    ----------
    samples : array [N]
    order : int
        Number of coefficients p after the leading 1, N > p >= 1.

    Returns
    -------
    array [order + 1], float64

    Raises
    ------
    ClipError
        There are no more samples than `order`, `order` is below 1, or all samples are 0.
    """
    if not 1 <= order < len(samples):
        raise ClipError(f"LPC of order {order} has {len(samples)} samples of context: give more context than order")
    if not np.any(samples):
        raise ClipError("LPC has a silent context: choose a gap with sound on both sides")
    forward, backward = np.asarray(samples[1:], np.float64), np.asarray(samples[:-1], np.float64)
    floor = ROUNDING * (forward @ forward + backward @ backward)
    predictor = np.zeros(order + 1)
    predictor[0] = 1
    for stage in range(1, order + 1):
        power = forward @ forward + backward @ backward
        if power <= floor:
            break
        reflection = -2 * (forward @ backward) / power
        predictor[: stage + 1] += reflection * predictor[stage::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
    return predictor


def extrapolate(samples: np.ndarray, predictor: np.ndarray, length: int) -> np.ndarray:
    """The `length` samples that follow, each predicted from those before it.

    Parameters
    ----------
    samples : array [N]
        At least as many as the predictor's order.
    predictor : array [order + 1]
    length : int
        In samples.

    Returns
    -------
    array [length], float64
    """
    latest_first = np.asarray(samples[::-1], np.float64)[: len(predictor) - 1]
    state = signal.lfiltic([1.0], predictor, latest_first)
    return signal.lfilter([1.0], predictor, np.zeros(length), zi=state)[0]


def extrapolate_gap(
    waveform: Tensor, gap: Gap, order: int = ORDER, context: int = CONTEXT, early: int = EARLY
) -> Tensor:
    """Fill a gap with what each side predicts, mixed (1 - w) left + w right, w = sin^2 from 0 to 1.

    The filled stretch is `[start - early, stop)`, and the left side predicts from `context + early` samples before it.
    With `early` 0 both sides predict from the `context` samples at the gap's edges. What lies in the gap is not read.

    Parameters
    ----------
    waveform : Tensor [samples]
    gap : Gap
    order : int
        Coefficients of each predictor.
    context : int
        Samples of each side to predict from; where a side has fewer, all it has.
    early : int
        Observed samples before the gap that are filled too; 1 in the published excerpts, 0 for exact edges.

    Returns
    -------
    Tensor [samples], dtype of `waveform`
        The bits of `waveform` outside the filled stretch.

    Raises
    ------
    ClipError
        The waveform or gap is invalid (`validate`), `early` is negative, or a side has no more context than `order` or
        is silent.

    Source: LPC of SimDPS, section 5; the paper gives no figures, they are measured on its stimuli.
    """
    validate(waveform, gap)
    if early < 0:
        raise ClipError(f"LPC cannot begin {early} samples early: give 0 or more")
    values = waveform.detach().cpu().numpy().astype(np.float64)
    first = gap.start - early
    left = values[max(first - context - early, 0) : max(first, 0)]
    right = values[gap.stop : gap.stop + context][::-1]
    length = gap.stop - first
    ahead = extrapolate(left, burg(left, order), length)
    behind = extrapolate(right, burg(right, order), length)[::-1]
    weight = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    mixed = (1 - weight) * ahead + weight * behind
    filled = waveform.clone()
    filled[first : gap.stop] = torch.from_numpy(mixed).to(filled)
    return filled
