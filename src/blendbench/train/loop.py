"""What the trainings share: the loop, the learning rate's course, the average of the weights, the kept state."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.errors import BlendbenchError
from blendbench.store.write import write_text


def cosine(step: int, steps: int, *, warm_up: int) -> float:
    """Factor of the learning rate in 0..1: rising over `warm_up` steps, then half a cosine down to 0."""
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def flat(step: int, *, warm_up: int) -> float:
    """Factor of the learning rate that rises from a third over `warm_up` steps and stays 1, as Msanii's does."""
    return 1 / 3 + 2 / 3 * min(1.0, step / warm_up)


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
    parameters, optimizer, average, others
        What is saved and filled again; the others by their own `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        file: Path,
        settings: dict[str, Any],
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        average: Average,
        others: Sequence[Any] = (),
    ) -> None:
        self.file, self.settings = file, settings
        self.parameters, self.optimizer, self.average = list(parameters), optimizer, average
        self.others = list(others)

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
        for other, saved in zip(self.others, kept["others"], strict=True):
            other.load_state_dict(saved)
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
            "others": [other.state_dict() for other in self.others],
            "history": history,
            "minutes": minutes,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)


class Loop:
    """A training: steps of AdamW under a cosine learning rate, with an average of the weights and a kept state.

    A step's random draws depend on the seed and the step's number alone, so a training that was stopped goes on as if
    it had not been, up to rounding.

    Parameters
    ----------
    name : str
        What is trained, for the log.
    parameters : sequence of torch.Tensor
        What is learned.
    file : Path
        Where the state is kept.
    settings : dict
        What makes this training: has `steps`, `seed` and `learning_rate`; goes into the figures.
    warm_up : int
        Steps over which the learning rate rises.
    decay : float
        See `Average`.
    betas, weight_decay
        Of AdamW.
    others : sequence
        What else learns, such as critics and their optimiser: kept with the state by its `state_dict`.
    log_every, save_every : int
        Steps between two rows of the training curve, and between two states on disk.
    device : str
        Where the networks are; `run` computes the loss in bfloat16 where the device is fast at it.
    mixed : bool
        False keeps float32 everywhere.
    flat : bool
        The learning rate stays up, as `flat` has it, with 500 steps to rise in place of `warm_up`.
    faster : sequence of torch.Tensor
        Those of the parameters that learn ten times as fast and without decay: few numbers that weigh much.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[torch.Tensor],
        file: Path,
        settings: dict[str, Any],
        *,
        warm_up: int,
        decay: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        others: Sequence[Any] = (),
        log_every: int = 25,
        save_every: int = 100,
        device: str = "cpu",
        mixed: bool = True,
        flat: bool = False,
        faster: Sequence[torch.Tensor] = (),
    ) -> None:
        self.name, self.parameters, self.settings = name, list(parameters), settings
        self.warm_up, self.flat = 500 if flat else warm_up, flat
        self.log_every, self.save_every, self.kind = log_every, save_every, torch.device(device).type
        self.mixed = mixed and fast_in_bfloat16(self.kind)
        fast = {id(value) for value in faster}
        groups: list[dict[str, Any]] = [{"params": [value for value in self.parameters if id(value) not in fast]}]
        if fast:
            groups.append({"params": list(faster), "weight_decay": 0.0})
        self.rates = (1.0, 10.0)
        self.optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas, weight_decay=weight_decay)
        self.average = Average(self.parameters, decay)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.state = State(file, settings, self.parameters, self.optimizer, self.average, others)
        self.history, self.minutes = self.state.load()

    def run(self, loss: Callable[[int, np.random.Generator], torch.Tensor]) -> None:
        """Take the steps that are left and put the averaged weights into the parameters.

        Parameters
        ----------
        loss : callable
            The loss of a step, from the step's number and its random draws; torch's global generator is seeded with
            the first of them.
        """
        steps, running = self.settings["steps"], []
        start, before = time.monotonic(), self.minutes
        for step in range(self.average.step, steps):
            draw = np.random.default_rng([self.settings["seed"], step])
            torch.manual_seed(int(draw.integers(2**62)))
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=False):
                group["lr"] = rate * self.settings["learning_rate"] * self._factor(step)
            with torch.autocast(self.kind, torch.bfloat16, enabled=self.mixed):
                value = loss(step, draw)
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.average.update()
            running.append(float(value.detach()))
            self.minutes = before + (time.monotonic() - start) / 60
            if (step + 1) % self.log_every == 0:
                mean, running = round(float(np.mean(running)), 5), []
                self.history.append({"step": step + 1, "minutes": round(self.minutes, 2), "loss": mean})
                print(f"{self.name} {step + 1} of {steps}, {self.minutes:.1f} min, loss {mean:.4f}", flush=True)
            if (step + 1) % self.save_every == 0:
                self.state.save(self.history, self.minutes)
        self.average.apply()

    def _factor(self, step: int) -> float:
        if self.flat:
            return flat(step, warm_up=self.warm_up)
        return cosine(step, self.settings["steps"], warm_up=self.warm_up)

    def report(self, file: Path, figures: dict[str, Any]) -> dict[str, Any]:
        """Write the figures for the card, with the settings, cost and training curve, to `file`; returns them all."""
        name = torch.cuda.get_device_name() if self.kind == "cuda" else torch.cpu.get_capabilities().get("cpu_name")
        cost: dict[str, Any] = {"device": name or self.kind, "bfloat16": self.mixed}
        cost |= {"minutes": round(self.minutes, 1), "parameters": sum(value.numel() for value in self.parameters)}
        every = self.settings | cost | figures | {"history": self.history}
        write_text(file, json.dumps(every, indent=1) + "\n")
        return every


def fast_in_bfloat16(kind: str) -> bool:
    """Whether a device of this torch type multiplies in bfloat16 faster than in float32."""
    if kind != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
