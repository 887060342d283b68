"""Msanii's audio to audio: a recording with noise added to a time, and denoised again.

At t = 0 nothing is added: what comes out has only been through the mel spectrogram, the vocoder and Griffin-Lim, which
is the best that any of its methods can sound. In the blend task the recording is the noise.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from blendbench.methods._msanii import MsaniiMethod, needed
from blendbench.models.mel_diffusion import at_time, times_from
from blendbench.seeds import stable_seed
from blendbench.tasks import Music


class AudioToAudio(MsaniiMethod):
    """Audio to audio.

    Parameters
    ----------
    label, model, phase
        See `MsaniiMethod`.
    t : int
        Time that noise is added to, 0..1000: how little is kept.
    steps : int
        Of 1000; from t down it takes so many, or up to twice as many (`mel_diffusion.times_from`).
    source : str
        What is given that it begins with: "recording", or in the blend task "noise".
    """

    takes: tuple[str, ...] = ("recording",)

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        t: int = 500,
        steps: int = 200,
        source: str = "recording",
    ) -> None:
        super().__init__(label, model, phase)
        self.t, self.steps, self.source, self.takes = t, steps, source, (source,)
        times_from(t, steps)

    def own(self) -> dict[str, Any]:
        """Time, steps and source."""
        return {"t": self.t, "steps": self.steps, "source": self.source}

    def _made(self, given: Sequence[Any]) -> list[Music]:
        began = time.perf_counter()
        encoded = [self.encode(needed(one, self.source, self.label)) for one in given]
        x = at_time(torch.stack([one.scaled for one in encoded]), self.t, self.generators(given, "noise"))
        x = self.denoised(x, self.t, self.steps, given)
        music = []
        for one, own, scaled in zip(given, encoded, x, strict=True):
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), one.samples, own.gain)
            images = {self.source: self.image(own.scaled), "music": self.image(scaled)}
            music.append(Music(wave, self.facts(scaled, began, len(given)), images))
        return music
