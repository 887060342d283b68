"""Methods of a user's own module, for the tests of executors; processes that a run starts must find it, too."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from blendbench.methods import Context
from blendbench.tasks import Given, Music


class Slow:
    """A tone drawn by the item's seed, after a while.

    Parameters
    ----------
    label : str
    seconds : float
        How long an item takes.
    held_by : str
        A file; while it exists, no item is made.
    """

    takes: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    adaptive = False

    def __init__(self, label: str, seconds: float = 0.0, held_by: str = "") -> None:
        self.label, self.seconds, self.held_by = label, seconds, held_by

    def signature(self) -> dict[str, Any]:
        """Time changes nothing."""
        return {}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""

    def generate(self, given: list[Given]) -> list[Music]:
        """A tone an item."""
        made = []
        for one in given:
            time.sleep(self.seconds)
            while self.held_by and Path(self.held_by).exists():
                time.sleep(0.05)
            samples = torch.arange(one.samples) / 44_100
            made.append(Music(0.1 * torch.sin(2 * torch.pi * (200 + one.seed % 500) * samples)))
        return made


class Deadly(Slow):
    """As Slow, but an item whose id holds a word kills the process, as if memory had run out, while a file exists."""

    def __init__(self, label: str, word: str, while_exists: str) -> None:
        super().__init__(label)
        self.word, self.file = word, Path(while_exists)

    def generate(self, given: list[Given]) -> list[Music]:
        """A tone an item, or the end."""
        if self.file.exists() and any(self.word in one.item.id for one in given):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(given)
