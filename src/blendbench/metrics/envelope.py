"""Envelope: how far apart the envelopes of two sounds are, sample by sample."""

import numpy as np
from scipy import signal
from torch import Tensor

from blendbench.facts import Facts
from blendbench.metrics.against_part import AgainstPart, mono


class Envelope(AgainstPart):
    """`envelope_distance` of what is heard to a part."""

    facts = {"envelope": Facts("Envelope", "", False, "Riff-CNET, equation 5; RealImpact (2023)")}

    def of(self, reference: Tensor, heard: Tensor) -> dict[str, float]:
        """The distance."""
        return {"envelope": envelope_distance(reference, heard)}


def envelope_distance(reference: Tensor, heard: Tensor) -> float:
    """RMS over samples of the difference in the analytic signals' magnitudes.

    The analytic signal is that of the whole sound, taken for periodic: nothing is appended for a faster transform.

    Parameters
    ----------
    reference, heard : Tensor [samples] or [channels, samples]
        Channels are averaged.

    Returns
    -------
    float
        In full scales, 0 or more.

    Raises
    ------
    ClipError
        As `mono`: unequal lengths, under 1,025 samples, not finite.

    Source: Riff-CNET, equation 5, its sum over samples written out; `scipy.signal.hilbert`.
    """
    first, second = (np.abs(signal.hilbert(sound.numpy())) for sound in mono(reference, heard))
    return float(np.sqrt(np.mean((first - second) ** 2)))
