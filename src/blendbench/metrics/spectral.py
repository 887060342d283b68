"""Spectral: how far apart two sounds' spectrograms are, over five windows, in amplitude and in its logarithm."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.facts import Facts
from blendbench.metrics import Measured
from blendbench.metrics.against_part import AgainstPart, mono

WINDOWS = (128, 256, 512, 1024, 2048)
FLOOR = 1e-7
"""Least power or magnitude whose logarithm is taken."""
Definition = Literal["code", "paper"]
_SOURCE = "Riff-CNET, equations 3 and 4; RealImpact (2023)"


class Distance(NamedTuple):
    """How far apart two sounds are, and the two parts that this is the sum of."""

    total: float
    linear: float
    log: float


class Spectral(AgainstPart):
    """`spectral_distance` of what is heard to a part, whole, and its linear and logarithmic parts.

    The linear part grows with level: of loud sounds it is most of the whole, and silence is then nearer than music is.

    Parameters
    ----------
    part : str
        See `AgainstPart`.
    definition : {"code", "paper"}
        As for `spectral_distance`.
    """

    facts = {
        "spectral": Facts("Spectral", "", False, _SOURCE),
        "spectral_linear": Facts("Spectral, linear part", "", False, _SOURCE),
        "spectral_log": Facts("Spectral, log part", "", False, _SOURCE),
    }

    def __init__(self, part: str = "reference", definition: Definition = "code") -> None:
        super().__init__(part)
        _check(definition)
        self.definition: Definition = definition

    def signature(self) -> dict[str, Any]:
        """Part and definition."""
        return super().signature() | {"definition": self.definition}

    def of(self, reference: Tensor, heard: Tensor) -> dict[str, float]:
        """The distance and its parts."""
        return dict(zip(self.facts, spectral_distance(reference, heard, self.definition), strict=True))

    def recipe(self, name: str, measured: Measured) -> str:
        """Source and definition."""
        what = {"code": "mean over windows, of power", "paper": "sum over windows, of magnitude"}[self.definition]
        return f"{super().recipe(name, measured)}; {what}"


def spectral_distance(reference: Tensor, heard: Tensor, definition: Definition = "code") -> Distance:
    """Mean absolute difference of spectrograms and of their natural logarithms, half each, over windows of 128..2048.

    The STFT has a periodic Hann window, half of which overlaps, is not scaled, and reflects the ends by half a window.

    Parameters
    ----------
    reference, heard : Tensor [samples] or [channels, samples]
        Channels are averaged.
    definition : {"code", "paper"}
        Of power, its mean over windows, as the published program has it; or of magnitude, its sum, as printed.

    Returns
    -------
    Distance
        0 or more each; total = linear + log.

    Raises
    ------
    BlendbenchError
        There is no such definition.
    ClipError
        As `mono`: unequal lengths, under 1,025 samples, not finite.

    Source: Riff-CNET, equations 3 and 4, and its program.
    """
    _check(definition)
    both = torch.stack(mono(reference, heard))
    linear, log = [], []
    for size in WINDOWS:
        window = torch.hann_window(size, dtype=both.dtype)
        spectra = torch.stft(both, size, size // 2, window=window, return_complex=True, pad_mode="reflect").abs()
        first, second = spectra.square() if definition == "code" else spectra
        linear.append(0.5 * float((first - second).abs().mean()))
        log.append(0.5 * float((first.clamp_min(FLOOR).log() - second.clamp_min(FLOOR).log()).abs().mean()))
    share = 1 / len(WINDOWS) if definition == "code" else 1.0
    return Distance(share * (sum(linear) + sum(log)), share * sum(linear), share * sum(log))


def _check(definition: str) -> None:
    if definition not in ("code", "paper"):
        raise BlendbenchError(f"definition={definition}: there is no such Spectral; give code or paper")
