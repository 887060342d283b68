"""Fixtures shared by all tests: offline model hubs, the place of real data, small audio files."""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blendbench import telling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
telling.EVERY_S = 1e9  # what a test reads from standard error does not depend on how long it takes

REPOSITORY = Path(__file__).resolve().parents[1]


def _data_root() -> Path:
    return Path(os.environ.get("BLENDBENCH_DATA", REPOSITORY.parent / "shared" / "data"))


LONG = ("test_slurm", "test_survival", "test_executors", "test_runner", "test_experiments")
"""Files that take minutes: begun first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """On CI, name the slowest tests of `make test`: one that has grown long is seen before somebody waits for it."""
    if os.environ.get("CI") != "true":
        return
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "soak" not in report.keywords:
                seconds[report.nodeid] += report.duration
    terminalreporter.section("slowest tests that are not marked soak")
    for name, took in seconds.most_common(10):
        terminalreporter.line(f"{took:6.1f} s  {name}")


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


@pytest.fixture
def fluidsynth() -> None:
    """FluidSynth and a sound font; skips where they are missing, but fails on CI."""
    from blendbench.errors import BlendbenchError
    from blendbench.train.data import render

    try:
        render.find_fluidsynth()
        render.find_soundfont()
    except BlendbenchError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory):
    """Data sets and models small enough for a test; its store is shared by the session."""
    from support.worlds import build_world

    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A run's key `threads` is its process's; the next test has its own again, since they may change the last bits."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["blend", pytest.param("long_gap", marks=pytest.mark.soak)])
def either(request: pytest.FixtureRequest, world, tmp_path_factory: pytest.TempPathFactory):
    """A world of one task after the other: what keeps a run together must hold for any."""
    from support.worlds import build_gap_world

    return world if request.param == "blend" else build_gap_world(world, tmp_path_factory.mktemp("gap_world"))


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of Table 1: two pairs, five arms, one pair a batch. Tests must not change it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert world.run(run_dir, "limit=2", "batch=1") == 0
    return run_dir


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A small disk: call it with mount options; it is gone after the test."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Callable[..., Any]]:
    """Starts a headless Chromium with further arguments; skips where there is none, but fails on CI."""
    program = Path("/usr/bin/chromium")
    if not program.exists():
        message = f"no browser at {program}; install Debian's chromium to run this test"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = []

        def start(*arguments: str) -> Any:
            # Sounds go to a device of Chromium's own, also where there is none.
            words = ["--no-sandbox", "--disable-audio-output", *arguments]
            running.append(playwright.chromium.launch(executable_path=str(program), headless=True, args=words))
            return running[-1]

        yield start
        for one in running:
            one.close()
