"""Msanii: music from nothing, by denoising a whole spectrogram of any length at once."""

import time
from collections.abc import Sequence
from typing import Any

from blendbench.methods._msanii import MsaniiMethod
from blendbench.models.mel_diffusion import TRAINED_TIMES, denoise, noise_of, times_from
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
    """

    def __init__(self, label: str, model: dict[str, Any], phase: dict[str, Any], steps: int = 200) -> None:
        super().__init__(label, model, phase)
        self.steps = steps
        times_from(TRAINED_TIMES, steps)

    def own(self) -> dict[str, Any]:
        """Steps."""
        return {"steps": self.steps}

    def _made(self, given: Sequence[Given]) -> list[Music]:
        began = time.perf_counter()
        shape = self.silence(max(one.samples for one in given))
        generators, state, first = self.generators(given, "noise"), self.state("sample", given), 0
        x = noise_of(shape.shape, generators, shape)
        if state is not None and (found := state.load()):
            first, x = found[0], found[1].to(x)
        with self.network(len(times_from(TRAINED_TIMES, self.steps)) - first, state) as (model, after):
            x = denoise(model, x, TRAINED_TIMES, self.steps, first, after)
        music = []
        for one, scaled in zip(given, x, strict=True):
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), one.samples)
            music.append(Music(wave, self.facts(scaled, began, len(given)), {"music": self.image(scaled)}))
        return music
