"""Sounds with a part, for the metrics that hold what is heard against it, and pairs that none of them takes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from support.stimuli import stimulus

PAIRS = (("Piano-1", "LPC"), ("Piano-1", "Sim"), ("Piano-2", "DPS"))
"""Published excerpts and what fills their gaps, whose distances from the original are known."""


@dataclass
class Compared:
    """What a metric meets of a sound: `metrics.Sound` without givens and scores."""

    reference: Tensor
    heard: Tensor
    name: str = "reference"
    key: str = "sound"
    row: dict[str, Any] = field(default_factory=lambda: {"inputs": "item"})

    def waveform(self) -> Tensor:
        return self.heard

    def parts(self) -> dict[str, Tensor]:
        return {self.name: self.reference, "other": torch.zeros(1)}


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def excerpts(piece: str, condition: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The original and what fills its gap, each [262144]; skips the test where they are missing."""
    return stimulus(piece, "Original").to(dtype), stimulus(piece, condition).to(dtype)


def _with(value: float) -> Tensor:
    sound = noise(2000)
    sound[7] = value
    return sound


REFUSED = {
    "unequal": (noise(2000), noise(2001), "reference and sound have 2000 and 2001 samples"),
    "short": (noise(1024), noise(1024), "sounds of 1024 samples are too short"),
    "empty": (noise(0), noise(0), "sounds of 0 samples are too short"),
    "no channels": (noise(0, 2000), noise(2000), r"reference has shape \[0, 2000\]"),
    "batch": (noise(2000), noise(1, 1, 2000), r"sound has shape \[1, 1, 2000\]"),
    "scalar": (torch.tensor(1.0), noise(2000), r"reference has shape \[\]"),
    "nan": (_with(float("nan")), noise(2000), "reference: 1 of 2000 samples are NaN or infinite"),
    "infinite": (noise(2000), torch.stack([_with(float("inf"))] * 2), "sound: 2 of 4000 samples are NaN or infinite"),
}
"""By what is wrong: reference, heard and the reason that is told."""
