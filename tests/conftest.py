"""Fixtures shared by all tests: offline model hubs, the place of real data, small audio files."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parents[1]


def _data_root() -> Path:
    return Path(os.environ.get("BLENDBENCH_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Root of the real data sets; skips where it is missing, but fails on CI, where it must be there."""
    root = _data_root()
    if not (root / "ESC-50").is_dir():
        message = f"real data not found at {root}; set BLENDBENCH_DATA to run this test"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return root
