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


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory):
    """Data sets and models small enough for a test; its store is shared by the session."""
    from worlds import build_world

    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of Table 1: two pairs, five arms, one pair a batch. Tests must not change it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert world.run(run_dir, "limit=2", "batch=1") == 0
    return run_dir
