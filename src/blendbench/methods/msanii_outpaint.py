"""Msanii's outpainting: a recording goes on, half a window at a time, each painted onto the half before it."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.methods._msanii import MsaniiMethod, needed
from blendbench.models.mel_diffusion import calls_of, repaint, repaint_times
from blendbench.seeds import stable_seed
from blendbench.tasks import Music
from blendbench.tasks.long_form.given import Start


class Outpainting(MsaniiMethod):
    """Outpainting.

    Parameters
    ----------
    label, model, phase
        See `MsaniiMethod`.
    spans : int
        Halves that are painted; two double the length.
    steps, jump, resample, eta, renoise
        See `mel_diffusion.repaint`.
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
        super().__init__(label, model, phase)
        if spans < 1:
            raise BlendbenchError(f"arm {label!r}: spans is {spans}; give 1 or more")
        self.spans, self.eta, self.renoise = spans, eta, renoise
        self.walk = {"steps": steps, "jump": jump, "resample": resample}
        self.calls = calls_of(repaint_times(**self.walk))[0]

    def own(self) -> dict[str, Any]:
        """Spans, and RePaint's walk."""
        return self.walk | {"spans": self.spans, "eta": self.eta, "renoise": self.renoise}

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
            generators, state = self.generators(given, f"span {span}"), self.state(f"span{span}", given)
            begun, first = None, 0
            if state is not None:
                state.generators = generators
                found = state.load()
                if found and found[0] == self.calls:
                    whole = torch.cat([whole, found[1].to(whole)[..., half : 2 * half]], -1)
                    continue
                if found:
                    first, begun = found[0], found[1].to(whole)
            held = torch.nn.functional.pad(whole[..., -half:], (0, window - half))
            with self.network(self.calls - first, state) as (model, after):
                x = repaint(
                    model, held, keep, generators, **self.walk, eta=self.eta, renoise=self.renoise, begun=begun,
                    first=first, after=after,
                )  # fmt: skip
            if state is not None:
                state.keep(self.calls, x, now=True)
            whole = torch.cat([whole, x[..., half : 2 * half]], -1)
        return whole
