"""Msanii's interpolation: two recordings with noise added to a time, mixed, and denoised together."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods._msanii import MsaniiMethod, needed
from blendbench.models.mel_diffusion import between, times_from
from blendbench.seeds import stable_seed
from blendbench.tasks import Music
from blendbench.tasks.long_form.given import Start


class Interpolation(MsaniiMethod):
    """Interpolation between a recording and the second one.

    Parameters
    ----------
    label, model, phase, t, steps
        See `AudioToAudio`.
    share : float
        Of the first, 0..1.
    noise : "independent" or "shared"
        See `mel_diffusion.between`.
    """

    takes = ("recording", "second")

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        t: int = 200,
        share: float = 0.5,
        steps: int = 200,
        noise: Literal["independent", "shared"] = "independent",
    ) -> None:
        super().__init__(label, model, phase)
        self.t, self.share, self.steps, self.noise = t, share, steps, noise
        times_from(t, steps)
        if not 0 <= share <= 1 or noise not in ("independent", "shared"):
            raise BlendbenchError(
                f"arm {label!r}: share {share}, noise {noise!r}; give 0..1, and independent or shared"
            )

    def own(self) -> dict[str, Any]:
        """Time, share, steps and noise."""
        return {"t": self.t, "share": self.share, "steps": self.steps, "noise": self.noise}

    def _made(self, given: Sequence[Start]) -> list[Music]:
        began = time.perf_counter()
        pairs = []
        for one in given:
            first, second = needed(one, "recording", self.label), needed(one, "second", self.label)
            samples = min(first.shape[-1], second.shape[-1])  # of two, the shorter
            pairs.append((self.encode(first[..., :samples]), self.encode(second[..., :samples], "second"), samples))
        x = between(
            torch.stack([first.scaled for first, _, _ in pairs]),
            torch.stack([second.scaled for _, second, _ in pairs]),
            self.t,
            self.share,
            self.generators(given, "noise"),
            self.noise,
        )
        x = self.denoised(x, self.t, self.steps, given)
        music = []
        for one, (own, other, samples), scaled in zip(given, pairs, x, strict=True):
            gain = own.gain**self.share * other.gain ** (1 - self.share)
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), samples, gain)
            images = {
                "recording": self.image(own.scaled),
                "second": self.image(other.scaled),
                "music": self.image(scaled),
            }
            music.append(Music(wave, self.facts(scaled, began, len(given)), images))
        return music
