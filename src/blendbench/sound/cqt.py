"""A constant-Q transform by octaves that is inverted exactly: what MR-CQTdiff's network reads and writes.

Bands have their centres at f_min 2^(octave + k / bins), with bins of its own for each octave; the last octave ends at
half the sample rate. Between neighbouring centres one band's window falls as a quarter of a cosine and the next one's
rises as a quarter of a sine, so squares sum to 1: the frame is tight, and its own inverse. Each octave's bands have as
many frames, the power of two that its widest band needs, and are turned down to 0 Hz ("painless" non-stationary Gabor
frames; Balazs et al., 2011; Velasco et al., 2011). Below the first centre and above the last, what one window leaves
over is lost.

Waveforms are real, [..., samples], of one even length; a clip is a circle. Coefficients are complex,
[..., bins, frames], an octave each, lowest octave first and lowest band first. White noise of variance 1 has
coefficients whose real and imaginary parts have a variance of about 1 each.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from blendbench.errors import BlendbenchError

_SCALE = 8.0
"""Power that brings white noise's coefficients to a variance of 1 each in real and imaginary part, nearly."""


class OctaveCQT(nn.Module):
    """The transform for one length.

    Parameters
    ----------
    bins : sequence of int
        Bands of each octave, lowest octave first; the octaves reach up to half the sample rate.
    samples : int
        Length of the waveforms, even.

    Attributes
    ----------
    frames : list of int
        Of each octave.

    Raises
    ------
    BlendbenchError
        If the length is odd, or so short that two centres fall on one bin of its spectrum.

    Source: MR-CQTdiff (Costa, Moliner et al., 2025), with one transform in place of three that are cut together.
    """

    def __init__(self, bins: Sequence[int], samples: int) -> None:
        super().__init__()
        if samples < 2 or samples % 2:
            raise BlendbenchError(f"samples is {samples}; a constant-Q transform takes an even length")
        self.bins, self.samples = list(bins), samples
        top = samples // 2
        octaves = len(self.bins)
        centres = [
            top * 2.0 ** (octave - octaves + k / count) for octave, count in enumerate(self.bins) for k in range(count)
        ]
        lowest = top * 2.0 ** (-octaves - 1 / self.bins[0])
        edges = np.array([lowest, *centres, float(top)])
        if bool((np.diff(edges) < 1).any()):
            raise BlendbenchError(
                f"samples is {samples}: too short for {octaves} octaves of {self.bins} bands; take a longer clip"
            )
        self.frames: list[int] = []
        first = 0
        for octave, count in enumerate(self.bins):
            rows = []
            for band in range(first, first + count):
                left, centre, right = (float(edges[band + side]) for side in range(3))
                places = np.arange(math.floor(left) + 1, math.ceil(right))
                rising = np.sin(np.pi / 2 * (places - left) / (centre - left))
                falling = np.cos(np.pi / 2 * (places - centre) / (right - centre))
                rows.append((places, np.where(places < centre, rising, falling), round(centre)))
            widest = max(len(places) for places, _, _ in rows)
            frames = 2 ** math.ceil(math.log2(widest))
            index, window = np.zeros((count, frames), np.int64), np.zeros((count, frames), np.float32)
            for row, (places, weights, centre) in enumerate(rows):
                at = (places - centre) % frames
                index[row, at], window[row, at] = places, weights
            self.frames.append(frames)
            self.register_buffer(f"index_{octave}", torch.from_numpy(index), persistent=False)
            self.register_buffer(f"window_{octave}", torch.from_numpy(window), persistent=False)
            first += count

    def forward(self, waveforms: Tensor) -> list[Tensor]:
        """Coefficients of waveforms [..., samples]: complex [..., bins, frames] by octave; carries gradients.

        Raises
        ------
        BlendbenchError
            If the length is another one.
        """
        if waveforms.shape[-1] != self.samples:
            raise BlendbenchError(f"waveform has {waveforms.shape[-1]} samples; this transform takes {self.samples}")
        spectrum = torch.fft.rfft(waveforms.float())
        return [
            torch.fft.ifft(spectrum[..., index] * window) * math.sqrt(_SCALE * window.shape[-1] / self.samples)
            for index, window in self._octaves()
        ]

    def inverse(self, coefficients: Sequence[Tensor]) -> Tensor:
        """Waveforms [..., samples] of coefficients; of those of a waveform, the waveform between the outer centres."""
        shape = coefficients[0].shape[:-2]
        spectrum = torch.zeros(*shape, self.samples // 2 + 1, dtype=torch.complex64, device=coefficients[0].device)
        for (index, window), given in zip(self._octaves(), coefficients, strict=True):
            part = torch.fft.fft(given) * window / math.sqrt(_SCALE * window.shape[-1] / self.samples)
            spectrum = spectrum.index_add(-1, index.flatten(), part.flatten(-2))
        return torch.fft.irfft(spectrum, n=self.samples)

    def response(self) -> Tensor:
        """What a waveform's spectrum is multiplied by there and back, [samples // 2 + 1], 0 to 1."""
        kept = torch.zeros(self.samples // 2 + 1, device=self._octaves()[0][1].device)
        for index, window in self._octaves():
            kept = kept.index_add(0, index.flatten(), window.flatten().square())
        return kept

    def _octaves(self) -> list[tuple[Tensor, Tensor]]:
        return [(getattr(self, f"index_{one}"), getattr(self, f"window_{one}")) for one in range(len(self.bins))]
