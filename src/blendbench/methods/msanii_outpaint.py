"""Msanii's outpainting: a recording goes on, half a window at a time, each painted onto the half before it."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.methods._msanii import Painting, needed
from blendbench.seeds import stable_seed
from blendbench.tasks import Music
from blendbench.tasks.long_form.given import Start


class Outpainting(Painting):
    """Outpainting.

    Parameters
    ----------
    label, model, phase, steps, jump, resample, eta, renoise
        See `Painting`.
    spans : int
        Halves that are painted; two double the length.
    """

    takes = ("recording",)

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        spans: int = 2,
        steps: int = 200,
        jump: int = 10,
        resample: int = 10,
        eta: float = 0.0,
        renoise: Literal["diffusers", "exact"] = "diffusers",
    ) -> None:
        super().__init__(label, model, phase, steps, jump, resample, eta, renoise)
        if spans < 1:
            raise BlendbenchError(f"arm {label!r}: spans is {spans}; give 1 or more")
        self.spans = spans

    def own(self) -> dict[str, Any]:
        """Spans, and RePaint's walk."""
        return super().own() | {"spans": self.spans}

    def _made(self, given: Sequence[Start]) -> list[Music]:
        began = time.perf_counter()
        encoded = [self.encode(needed(one, "recording", self.label)) for one in given]
        clean = torch.stack([one.scaled for one in encoded])
        # Where the window was filled up by repetition there is no music to go on from.
        frames = self.model.front.frames(self.frames_of(given[0].samples)[0])
        x = self.painted(clean[..., :frames], given)
        music = []
        for one, own, scaled in zip(given, encoded, x, strict=True):
            samples = one.samples + self.spans * (one.samples // 2)
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), samples, own.gain)
            facts = self.facts(scaled[..., : clean.shape[-1]], began, len(given))
            facts |= {"frames": scaled.shape[-1], "continues_at_s": round(one.samples / self.sample_rate, 3)}
            music.append(Music(wave, facts, {"recording": self.image(own.scaled), "music": self.image(scaled)}))
        return music

    def painted(self, clean: Tensor, given: Sequence[Start]) -> Tensor:
        """Spectrograms [B, channels, mels, frames] with the spans appended."""
        factor, whole = self.model.unet.factor, clean
        half = clean.shape[-1] // 2
        # The window holds the last half and is as long as the U-Net takes it; what it paints beyond a half is cut.
        window = -(-2 * half // factor) * factor
        keep = torch.zeros(window)
        keep[:half] = 1
        for span in range(self.spans):
            held = torch.nn.functional.pad(whole[..., -half:], (0, window - half))
            x = self.repainted(held, keep, given, f"span {span}")
            whole = torch.cat([whole, x[..., half : 2 * half]], -1)
        return whole
