"""Msanii: music from nothing, by denoising a whole spectrogram of any length at once."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from blendbench.errors import BlendbenchError
from blendbench.methods._msanii import MsaniiMethod
from blendbench.models.mel_diffusion import TRAINED_TIMES, alpha_bar, noise_of, times_from
from blendbench.seeds import stable_seed
from blendbench.tasks import Given, Music


class Sampling(MsaniiMethod):
    """Samples.

    Parameters
    ----------
    label, model, phase
        See `MsaniiMethod`.
    steps : int
        Of DDIM; 200 in the paper, which says that more do not help.
    start : "noise" or "level"
        What is denoised first: noise, as published, or noise whose mean is that of songs at this time. One number in
        fifty thousand is nothing to the loss and everything to the level, so a network reads far too much out of it.
    """

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        steps: int = 200,
        start: Literal["noise", "level"] = "noise",
    ) -> None:
        super().__init__(label, model, phase)
        if start not in ("noise", "level"):
            raise BlendbenchError(f"arm {label!r}: start is {start!r}; choose noise or level")
        self.steps, self.start = steps, start
        times_from(TRAINED_TIMES, steps)

    def own(self) -> dict[str, Any]:
        """Steps, and what they begin with."""
        return {"steps": self.steps, "start": self.start}

    def _made(self, given: Sequence[Given]) -> list[Music]:
        began = time.perf_counter()
        shape = self.silence(max(one.samples for one in given))
        x = noise_of(shape.shape, self.generators(given, "noise"), shape)
        if self.start == "level":
            share = alpha_bar()[times_from(TRAINED_TIMES, self.steps)[0]]
            x = x - x.mean((1, 2, 3), keepdim=True) + float(share.sqrt()) * self.model.scaler.scaled_mean
        x = self.denoised(x, TRAINED_TIMES, self.steps, given)
        music = []
        for one, scaled in zip(given, x, strict=True):
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), one.samples)
            music.append(Music(wave, self.facts(scaled, began, len(given)), {"music": self.image(scaled)}))
        return music
