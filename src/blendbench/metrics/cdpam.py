"""CDPAM: how far apart two sounds seem, as a network says that learnt it from listeners' judgements of speech."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from scipy import signal
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.evaluators.published import file_fingerprint, locate
from blendbench.facts import Facts
from blendbench.metrics import Measured
from blendbench.metrics.against_part import AgainstPart, mono
from blendbench.models import cdpam

_MOST = 20_000
"""Encodings that are kept, of 2 kB each."""
_ENCODINGS: dict[tuple[str, str], Tensor] = {}
"""Encodings [512] by the weights' fingerprint and the sound's hash, the oldest first: a sound takes half a minute."""


class CDPAM(AgainstPart):
    """The distance of what is heard to a part, both at 44.1 kHz; each sound is encoded once a process.

    Parameters
    ----------
    part : str
        See `AgainstPart`.
    rate : {"native", 22050}
        What the network hears: 44.1 kHz as they are, as in Riff-CNET's program; or what it was trained at.
    checkpoint : str, optional
        A folder with cdpam.safetensors; None for what `blendbench models` keeps.
    """

    facts = {"cdpam": Facts("CDPAM", "", False, "Manocha et al. (2021), CDPAM 0.0.6")}

    def __init__(
        self, part: str = "reference", rate: Literal["native", 22050] = "native", checkpoint: str | None = None
    ) -> None:
        super().__init__(part)
        if rate not in ("native", cdpam.SAMPLE_RATE):
            raise BlendbenchError(f"rate={rate}: CDPAM hears at native or {cdpam.SAMPLE_RATE}; give one of them")
        self.rate, self._checkpoint = rate, checkpoint

    @cached_property
    def weights(self) -> Path:
        """The file of weights; raises BlendbenchError, with what to type, if it is not there."""
        file = locate(self._checkpoint, "cdpam") / cdpam.WEIGHTS
        if not file.is_file():
            raise BlendbenchError(f"{file}: no such file; type `blendbench models fetch cdpam`")
        return file

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights."""
        return file_fingerprint(self.weights)

    @cached_property
    def network(self) -> cdpam.CDPAM:
        """The network with its weights."""
        return cdpam.load(self.weights)

    def signature(self) -> dict[str, Any]:
        """Part, rate and weights."""
        return super().signature() | {"rate": self.rate, "checkpoint": self.fingerprint}

    @torch.inference_mode()
    def of(self, reference: Tensor, heard: Tensor) -> dict[str, float]:
        """The distance, 0 or more; raises BlendbenchError, with what to type, if the weights are not there."""
        first, second = (self._encoding(sound)[None] for sound in mono(reference, heard))
        return {"cdpam": float(self.network.distance(first, second))}

    def recipe(self, name: str, measured: Measured) -> str:
        """Source, weights and rate."""
        rate = "44.1 kHz" if self.rate == "native" else "22.05 kHz"
        return f"{super().recipe(name, measured)}, weights {self.fingerprint}, heard at {rate}"

    def _encoding(self, sound: Tensor) -> Tensor:
        """Encoding [512] of a sound [samples]."""
        if self.rate != "native":
            # SciPy's own filter, with which the known values were made.
            sound = torch.from_numpy(signal.resample_poly(sound.numpy(), 1, 2))
        samples = (cdpam.FULL_SCALE * sound).round().float()
        key = self.fingerprint, hashlib.sha256(samples.numpy().tobytes()).hexdigest()
        if key not in _ENCODINGS:
            if len(_ENCODINGS) >= _MOST:
                del _ENCODINGS[next(iter(_ENCODINGS))]
            _ENCODINGS[key] = self.network.encode(samples[None])[0]
        return _ENCODINGS[key]
