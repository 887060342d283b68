"""Integrated loudness of a sound that comes in parts: ITU-R BS.1770-4 in bounded memory."""

import math

import numpy as np
import scipy.signal
import torch

from blendbench.sound.audio import GATE_LUFS, meter_of

_HOP_S = 0.1
_BLOCK_HOPS = 4


class LoudnessMeter:
    """Gated loudness of one channel; the same as `audio.integrated_loudness` of all parts together.

    Parameters
    ----------
    sample_rate : int
        In Hz, a multiple of 10.
    """

    def __init__(self, sample_rate: int) -> None:
        self._hop = round(_HOP_S * sample_rate)
        self._filters = [(one.b, one.a, one.passband_gain) for one in meter_of(sample_rate)._filters.values()]
        self._states = [np.zeros(max(len(b), len(a)) - 1) for b, a, _ in self._filters]
        self._rest = np.empty(0)
        self._powers: list[np.ndarray] = []

    def push(self, part: torch.Tensor) -> None:
        """Take further samples [n]."""
        values = part.detach().cpu().double().numpy() + 1e-30
        if not len(values):
            return
        for index, (b, a, gain) in enumerate(self._filters):
            filtered, self._states[index] = scipy.signal.lfilter(b, a, values, zi=self._states[index])
            values = gain * filtered
        values = np.concatenate([self._rest, values**2])
        whole = len(values) // self._hop * self._hop
        self._powers.append(values[:whole].reshape(-1, self._hop).sum(1))
        self._rest = values[whole:]

    @property
    def value(self) -> float:
        """In LUFS; -inf where no block of 400 ms passes the absolute gate."""
        powers = np.concatenate([*self._powers, np.empty(0)])
        if len(powers) < _BLOCK_HOPS:
            return -math.inf
        blocks = np.lib.stride_tricks.sliding_window_view(powers, _BLOCK_HOPS).sum(1) / (_BLOCK_HOPS * self._hop)
        levels = -0.691 + 10 * np.log10(np.maximum(blocks, 1e-300))
        loud = blocks[levels >= GATE_LUFS]
        if not len(loud):
            return -math.inf
        relative = -0.691 + 10 * math.log10(loud.mean()) - 10
        counted = blocks[(levels >= GATE_LUFS) & (levels > relative)]
        return -0.691 + 10 * math.log10(counted.mean()) if len(counted) else -math.inf
