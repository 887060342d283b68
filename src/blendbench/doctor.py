"""What this machine has, and what to do about what is missing: devices, memory, models, data, log-ins, folders."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from blendbench.checks import Check
from blendbench.trackers.wandb import check_login


def check_all(compose: Callable[[list[str]], dict[str, Any]]) -> Iterable[Check]:
    """Every check, cheap ones first; `compose` makes the checked configuration of overrides."""
    yield from check_machine()
    yield from check_packages()
    yield from check_models()
    yield from check_data(compose)
    yield from check_places(compose([]))
    yield check_login()


def check_machine() -> Iterable[Check]:
    """Python, cores, memory and accelerators."""
    import torch

    yield Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", True, f"{cores} cores, {torch.get_num_threads()} torch threads")
    total = _memory_gb()
    yield Check(
        "memory", total is None or total >= 4, f"{total:.0f} GB" if total else "unknown", "4 GB are needed", True
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield Check(f"cuda:{index}", True, f"{facts.name}, {facts.total_memory / 2**30:.0f} GB")
    else:
        yield Check(
            "cuda", False, "no GPU that torch can use", "the built-in models run on the CPU; published ones want a GPU"
        )


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def check_packages() -> Iterable[Check]:
    """Libraries and programs that only some commands use."""
    for name, use in (
        ("wandb", "mirrors results to W&B"),
        ("pretty-midi", "trains built-in models"),
        ("mir_eval", "tests"),
    ):
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, f"not installed ({use})", f"pip install {name}")
    fluidsynth = shutil.which("fluidsynth")
    yield Check(
        "fluidsynth",
        fluidsynth is not None,
        fluidsynth or "not found",
        "only `blendbench train` needs it: apt install fluidsynth fluid-soundfont-gm",
    )


def check_models() -> Iterable[Check]:
    """Every model that blendbench knows: whether it is there, and what to type if not."""
    from blendbench.models import fetch

    yield from fetch.checks()


def check_data(compose: Callable[[list[str]], dict[str, Any]], names: Sequence[str] = ()) -> Iterable[Check]:
    """The data sets below data.root and the built-in ones, read as a run reads them, class by class."""
    from blendbench.datasets import inventory

    yield from inventory.checks(compose, names)


def check_places(settings: dict[str, Any]) -> Iterable[Check]:
    """Whether the store and the hub's cache can be written, and the space left."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from blendbench import config

    for name, place, needed in (
        ("store", Path(config.typed(settings).store_dir), True),
        ("hub cache", Path(HF_HUB_CACHE), False),
    ):
        existing = place
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        writable = os.access(existing, os.W_OK) and existing.is_dir()
        free = shutil.disk_usage(existing).free / 2**30
        found = f"{place}: {'writable' if writable else 'cannot be written'}, {free:.0f} GB free"
        yield Check(
            name, writable, found, f"set {'store_dir' if name == 'store' else 'HF_HOME'} to a writable folder", needed
        )
