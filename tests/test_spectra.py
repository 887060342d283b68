"""Spectra: convergence and log magnitude against the recording."""

import math

import pytest
import torch

from blendbench.errors import ClipError
from blendbench.metrics.spectra import Spectra


class Sound:
    row: dict = {}
    key = "one"

    def __init__(self, heard: torch.Tensor, **parts: torch.Tensor) -> None:
        self.heard, self.own = heard, parts

    def waveform(self) -> torch.Tensor:
        return self.heard

    def parts(self) -> dict[str, torch.Tensor]:
        return self.own


def test_a_level_is_told_by_both():
    wave = torch.randn(44_100, generator=torch.Generator().manual_seed(0))
    assert Spectra().measure(Sound(wave, recording=wave)) == {"convergence": 0.0, "log_magnitude": 0.0}  # type: ignore[arg-type]
    found = Spectra().measure(Sound(wave / 2, recording=wave))  # type: ignore[arg-type]
    assert found["convergence"] == pytest.approx(0.5)
    assert found["log_magnitude"] == pytest.approx(math.log(2), abs=1e-4)


def test_without_the_part_there_is_no_value():
    with pytest.raises(ClipError, match="no part 'recording'"):
        Spectra().measure(Sound(torch.ones(5000)))  # type: ignore[arg-type]
