"""The published excerpts of SimDPS, for tests: 16-bit files of two equal channels, N = 262,144 at 44.1 kHz."""

import os
from functools import lru_cache
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import REPOSITORY
from torch import Tensor

from blendbench.tasks.long_gap.gap import Gap

ROOT = Path(os.environ.get("BLENDBENCH_DATA", REPOSITORY.parent / "shared" / "data"))
PIECES = ("Piano-1", "Piano-2")
GAP = Gap(85_197, 176_947)
LSB = 1 / 32_768


@lru_cache
def stimulus(piece: str, condition: str) -> Tensor:
    """One channel of an excerpt, float32 [262144]; skips the test where it is missing, but fails on CI."""
    path = ROOT / "SimDPS-stimuli" / piece / f"{condition}.flac"
    if not path.is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{path} is missing")
        pytest.skip(f"{path} is not here")
    channels, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(channels[:, 0].copy())
