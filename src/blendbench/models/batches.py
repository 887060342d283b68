"""How a batch goes through a network."""

import torch


def in_parts(device: torch.device, count: int) -> list[slice]:
    """How a batch goes through a network: on a GPU as a whole, on a CPU item by item.

    On a CPU a batch is hardly faster, and its size would change how sums are rounded, so that an item's result would
    depend on its neighbours.
    """
    size = 1 if device.type == "cpu" else max(count, 1)
    return [slice(first, first + size) for first in range(0, count, size)]
