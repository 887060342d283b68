"""The noise without any music: what the listener hears if nothing is done."""

from typing import Any

import torch

from blendbench.methods import Context, Item, Music


class NoiseOnly:
    """Silence instead of music."""

    adaptive = False

    def __init__(self, label: str) -> None:
        self.label = label

    def signature(self) -> dict[str, Any]:
        """No setting changes silence."""
        return {}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""

    def generate(self, items: list[Item]) -> list[Music]:
        """Silence of each noise's length."""
        return [Music(torch.zeros_like(item.noise)) for item in items]
