"""Where a run computes: the device, how many items at once, and whether memory ran out."""

import gc
from typing import TYPE_CHECKING

import torch

from blendbench.errors import BlendbenchError

if TYPE_CHECKING:
    pass


def pick_device(name: str) -> str:
    """Torch device of a config value; "auto" takes a GPU where there is one.

    Raises
    ------
    BlendbenchError
        If the device is unknown or not here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise BlendbenchError(
            f"device={name}: not usable here ({str(error).splitlines()[0]}); use device=cpu"
        ) from None
    return name


class BatchSize:
    """How many items a method is given at once.

    A number stays, unless memory runs out, which halves it for the rest of the arm. "auto" begins with one item on a
    GPU, sees how much memory that took, and then takes as many as fit into four fifths of what is free; on a CPU,
    where the networks take a batch item by item anyway, it is 2.

    Parameters
    ----------
    setting : int or "auto"
    device : str
        Torch device.
    limit : int
        Most items at once; more hardly make a large GPU faster.
    """

    def __init__(self, setting: int | str, device: str, limit: int = 32) -> None:
        self.limit, self.device = limit, torch.device(device)
        self.measuring = setting == "auto" and self.device.type == "cuda"
        self.size = (1 if self.measuring else 2) if setting == "auto" else int(setting)
        self._before = 0

    def begin(self) -> None:
        """Comes before a batch."""
        if self.measuring:
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)

    def end(self) -> None:
        """Comes after a batch that went well; may raise the size for the next."""
        if self.measuring:
            a_pair = torch.cuda.max_memory_allocated(self.device) - self._before
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            self.fit(torch.cuda.mem_get_info(self.device)[0] + unused, a_pair)

    def fit(self, free: int, a_pair: int) -> None:
        """Take as many items as fit, from the bytes that are free and those that one took."""
        self.size = max(1, min(self.limit, int(0.8 * free / max(a_pair, 1))))
        self.measuring = False

    def halve(self, failed: int) -> None:
        """Memory ran out with so many items: give back what is cached, and take half as many from now on."""
        self.measuring = False
        self.size = max(1, min(self.size, failed // 2))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the GPU's or the machine's, ran out."""
    said = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )
