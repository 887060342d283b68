"""What the trainings share: the learning rate's course, the average of the weights, the state that is kept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blendbench.errors import BlendbenchError


def cosine(step: int, steps: int, *, warm_up: int) -> float:
    """Factor of the learning rate in 0..1: rising over `warm_up` steps, then half a cosine down to 0."""
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


class Average:
    """Exponential moving average of parameters; short at first, so that the start is forgotten.

    Parameters
    ----------
    parameters : sequence of torch.Tensor
        The parameters being trained.
    decay : float
        Share of the old average kept at each step, in the end.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], decay: float) -> None:
        self.parameters, self.decay, self.step = list(parameters), decay, 0
        self.values = [value.detach().clone() for value in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters in."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.values, [value.detach() for value in self.parameters], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average into the parameters."""
        torch._foreach_copy_(self.parameters, self.values)


class State:
    """The state of a training on disk, so that a stopped one goes on.

    Parameters
    ----------
    file : Path
        Where it is kept.
    settings : dict
        What has to be the same for a training to go on.
    parameters, optimizer, average
        What is saved and filled again.
    """

    def __init__(
        self,
        file: Path,
        settings: dict[str, Any],
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        average: Average,
    ) -> None:
        self.file, self.settings = file, settings
        self.parameters, self.optimizer, self.average = list(parameters), optimizer, average

    @torch.no_grad()
    def load(self) -> tuple[list[dict], float]:
        """Fill everything from the file where there is one; the training curve and the minutes so far.

        Raises
        ------
        BlendbenchError
            If the file is of a training with other settings, or of other models.
        """
        if not self.file.exists():
            return [], 0.0
        remedy = "delete it to start anew, or use its settings"
        kept = torch.load(self.file, map_location="cpu", weights_only=True)
        if kept["settings"] != self.settings:
            raise BlendbenchError(f"{self.file}: state of a training with {kept['settings']}; {remedy}")
        if [value.shape for value in kept["parameters"]] != [value.shape for value in self.parameters]:
            raise BlendbenchError(f"{self.file}: state of a model of another size; {remedy}")
        for own, name in ((self.parameters, "parameters"), (self.average.values, "average")):
            for value, saved in zip(own, kept[name], strict=True):
                value.copy_(saved)
        self.average.step = kept["step"]
        self.optimizer.load_state_dict(kept["optimizer"])
        print(f"going on from {kept['step']} steps", flush=True)
        return kept["history"], kept["minutes"]

    def save(self, history: list[dict], minutes: float) -> None:
        """Write everything, so that a stop while writing leaves the state before."""
        state = {
            "settings": self.settings,
            "parameters": [value.detach() for value in self.parameters],
            "average": self.average.values,
            "step": self.average.step,
            "optimizer": self.optimizer.state_dict(),
            "history": history,
            "minutes": minutes,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)
