"""Msanii's inpainting: the frames of a gap are painted anew by RePaint, the others kept exactly.

All of it goes through vocoder and Griffin-Lim; the presentation `pasted` puts the painted part alone into the
recording. In the blend task what is kept is the noise's loudest part, and the rest is painted: music that contains the
noise.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods._msanii import Painting, needed
from blendbench.seeds import stable_seed
from blendbench.tasks import Music


class Inpainting(Painting):
    """Inpainting.

    Parameters
    ----------
    label, model, phase, steps, jump, resample, eta, renoise
        See `Painting`.
    source : str
        What is given: "context" with its gap, or in the blend task "noise".
    mask : "gap", "bins" or "frames"
        What is kept: all but frames that hear the gap, the loudest pixels, or the loudest frames.
    core_fraction : float
        How much of a noise is kept.
    """

    takes: tuple[str, ...] = ("context",)

    def __init__(
        self,
        label: str,
        model: dict[str, Any],
        phase: dict[str, Any],
        steps: int = 200,
        jump: int = 10,
        resample: int = 10,
        eta: float = 0.0,
        renoise: Literal["diffusers", "exact"] = "diffusers",
        source: str = "context",
        mask: Literal["gap", "bins", "frames"] = "gap",
        core_fraction: float = 0.15,
    ) -> None:
        super().__init__(label, model, phase, steps, jump, resample, eta, renoise)
        if mask not in ("gap", "bins", "frames") or not 0 < core_fraction < 1:
            raise BlendbenchError(
                f"arm {label!r}: mask {mask!r}, core_fraction {core_fraction}; choose gap, bins or frames, and give a "
                "share within 0..1"
            )
        self.source, self.takes, self.mask, self.core_fraction = source, (source,), mask, core_fraction

    def own(self) -> dict[str, Any]:
        """RePaint's walk, and what is kept."""
        return super().own() | {"source": self.source, "mask": self.mask, "core_fraction": self.core_fraction}

    def _made(self, given: Sequence[Any]) -> list[Music]:
        began = time.perf_counter()
        encoded = [self.encode(needed(one, self.source, self.label)) for one in given]
        clean = torch.stack([one.scaled for one in encoded])
        keep = torch.stack([self._kept(one, own.scaled) for one, own in zip(given, encoded, strict=True)])
        x = self.repainted(clean, keep, given, "paint")
        music = []
        for one, own, scaled, held in zip(given, encoded, x, keep, strict=True):
            wave = self.sound(scaled, stable_seed(one.seed, "sound"), one.samples, own.gain)
            images = {
                self.source: self.image(own.scaled),
                "music": self.image(scaled),
                "kept": self.image(2 * held - 1),
            }
            facts = self.facts(scaled, began, len(given)) | {"kept_share": round(float(held.mean()), 4)}
            music.append(Music(wave, facts, images))
        return music

    def _kept(self, one: Any, scaled: Tensor) -> Tensor:
        """1 where it is kept, [channels, mels, frames]."""
        frames = scaled.shape[-1]
        if self.mask == "gap":
            if one.gap is None:
                raise ClipError(f"{one.item.id}: has no gap; set form.gap_start and form.gap_stop")
            held = torch.ones(frames)
            held[slice(*self.heard(one.gap.start, one.gap.stop, frames))] = 0
            return held.to(scaled).expand(scaled.shape)
        level = scaled.mean(1, keepdim=True) if self.mask == "frames" else scaled
        # By rank, so that equal values do not keep more than was asked for.
        count = max(1, round(self.core_fraction * level.numel()))
        order = level.flatten().argsort(descending=True, stable=True)[:count]
        held = torch.zeros(level.numel(), device=scaled.device)
        held[order] = 1
        return held.reshape(level.shape).expand(scaled.shape)

    def heard(self, start: int, stop: int, frames: int) -> tuple[int, int]:
        """First and last but one of the frames whose windows hear samples [start, stop) at the task's rate."""
        front, ratio = self.model.front, self.model.front.sample_rate / self.sample_rate
        first = math.floor((start * ratio - front.n_fft / 2) / front.hop) + 1
        last = math.ceil((stop * ratio + front.n_fft / 2) / front.hop)
        return max(0, first), min(frames, last)
