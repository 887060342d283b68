"""The noise without any music: what the listener hears if nothing is done."""

from typing import Any

import torch

from blendbench.methods import Context
from blendbench.tasks import Given, Music


class NoiseOnly:
    """Silence instead of music."""

    takes = ()
    uses = ()
    adaptive = False
    silent = True

    def __init__(self, label: str) -> None:
        self.label = label

    def signature(self) -> dict[str, Any]:
        """No setting changes silence."""
        return {}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""

    def generate(self, items: list[Given]) -> list[Music]:
        """Silence of each noise's length."""
        return [Music(torch.zeros(item.samples)) for item in items]
