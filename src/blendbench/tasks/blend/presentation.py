"""Presentations of the blend task: how music is levelled and laid over the noise before it is heard.

The noise always lies at `noise.lufs`. Music is brought to a level by one gain, in dB, and added; nothing is clipped.
Kinds:

- `direct`: the method's own output level, with stage 2 where the method includes it;
- `loudness_normalized`: music at the noise's loudness;
- `adaptive`: stage 2 for every method's music;
- `loudness`: music at a given loudness (`lufs`);
- `alone`: music at the noise's loudness, without the noise, for what is asked of the music itself.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio
from blendbench.sound.mel import encode_image, mel_amplitudes
from blendbench.tasks import Heard, Music
from blendbench.tasks.blend import masking
from blendbench.tasks.blend.given import NoiseAndText

KINDS = ("direct", "loudness_normalized", "adaptive", "loudness", "alone")


@dataclass(frozen=True)
class Amplification:
    """Stage 2's settings: the weight alpha, the signal-to-mask ratio in dB, the gain's bounds in dB, and the solver."""

    alpha: float = 0.14
    smr_db: float = 21.0
    min_gain_db: float | None = 0.0
    max_gain_db: float | None = 6.0
    solver: str = "exact"

    def __post_init__(self) -> None:
        if self.solver not in ("exact", "gradient_descent"):
            raise BlendbenchError(f"amplification.solver={self.solver}: unknown; use exact or gradient_descent")
        if not self.alpha > 0:
            raise BlendbenchError(f"amplification.alpha={self.alpha}: must be above 0")


@dataclass(frozen=True)
class Core:
    """Where stage 2 looks: the share of the noise's loudest pixels, or an absolute pixel value."""

    core_fraction: float = 0.15
    pixel_threshold: float | None = None


class Levels(Protocol):
    """What a presentation asks of a method: whether its own output includes stage 2."""

    adaptive: bool


@dataclass(frozen=True)
class Blended:
    """A presentation of the blend task.

    Parameters
    ----------
    name : str
    kind : str
        One of `KINDS`.
    label : str
    lufs : float, optional
        Of the music, for kind "loudness" alone.
    amplification : Amplification
    core : Core

    Raises
    ------
    BlendbenchError
        If the kind is unknown, or the loudness does not belong to it.
    """

    name: str
    kind: str
    label: str
    lufs: float | None = None
    amplification: Amplification = field(default_factory=Amplification)
    core: Core = field(default_factory=Core)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BlendbenchError(f"presentation {self.name}: kind={self.kind} unknown; use one of {', '.join(KINDS)}")
        if (self.kind == "loudness") != (self.lufs is not None):
            raise BlendbenchError(f"presentation {self.name}: lufs belongs to kind=loudness, and to no other")

    def _is_adaptive(self, method: Levels) -> bool:
        return self.kind == "adaptive" or (self.kind == "direct" and getattr(method, "adaptive", False))

    def signature(self, method: Levels) -> dict[str, Any]:
        """What changes the mix; stage 2's settings only where it takes part."""
        if self._is_adaptive(method):
            return {"kind": "adaptive", "amplification": asdict(self.amplification), "mask": asdict(self.core)}
        return {"kind": self.kind, "lufs": self.lufs}

    def present(self, given: NoiseAndText, music: Music, method: Levels) -> Heard:
        """Level the music against the noise and overlay both.

        Returns
        -------
        Heard
            `facts`: noise_lufs, music_lufs (after the gain, None for silence), gain_db (applied to the method's
            output), and for stage 2 the gain relative to equal loudness: stage2_gain_db, gain_db_unbounded, bound,
            core_ratio, alpha. A gain is None for "music off". `noise_heard` is False for kind "alone", and left out
            elsewhere.

        Raises
        ------
        ClipError
            If the music is silent although its kind of presentation must level it.
        """
        noise, made = given.noise, music.waveform
        noise_lufs = audio.integrated_loudness(noise, audio.SAMPLE_RATE)
        facts: dict[str, Any] = {"noise_lufs": round(noise_lufs, 3)}
        alone = self.kind == "alone"
        if not bool(made.any()):
            if alone:
                raise ClipError("the music is silent, so there is nothing to hear of it alone")
            return Heard(noise.clone(), facts | {"music_lufs": None, "gain_db": None}, {"noise": noise, "music": made})
        own_lufs = audio.integrated_loudness(made, audio.SAMPLE_RATE)
        stage2, wanted = self._is_adaptive(method), self.lufs if self.lufs is not None else noise_lufs
        leveled, gain_db = made, 0.0
        if self.kind != "direct" or stage2:
            leveled, gain_db = audio.normalize_loudness(made, audio.SAMPLE_RATE, wanted)
            own_lufs = wanted
        if stage2:
            result = self._stage2(noise, leveled)
            leveled = leveled * audio.from_db(result.gain_db)
            gain_db += result.gain_db
            own_lufs = noise_lufs + result.gain_db
            facts |= {
                "stage2_gain_db": _finite(result.gain_db),
                "gain_db_unbounded": _finite(result.gain_db_unbounded),
                "bound": result.bound,
                "core_ratio": round(result.core_ratio, 5),
                "alpha": self.amplification.alpha,
            }
        facts |= {"music_lufs": round(own_lufs, 3) if math.isfinite(own_lufs) else None, "gain_db": _finite(gain_db)}
        if alone:
            return Heard(leveled, facts | {"noise_heard": False}, {"music": leveled})
        return Heard(audio.mix(noise, leveled), facts, {"noise": noise, "music": leveled})

    def _stage2(self, noise: torch.Tensor, music: torch.Tensor) -> masking.GainResult:
        noise_mel, music_mel = mel_amplitudes(torch.stack([noise, music]))
        pixels, _ = encode_image(noise_mel)
        core = masking.core_mask(pixels, self.core.core_fraction, self.core.pixel_threshold)
        # Images lie with the low frequencies at the bottom, mel amplitudes start with them.
        core = core.flip(-2)
        threshold = masking.masking_threshold(noise_mel, self.amplification.smr_db)
        bounds = (self.amplification.min_gain_db, self.amplification.max_gain_db)
        solve = masking.optimal_gain
        if self.amplification.solver == "gradient_descent":
            solve = masking.optimal_gain_gradient_descent
        return solve(music_mel, threshold, core, self.amplification.alpha, *bounds)

    def told(self, row: Mapping[str, Any]) -> str:
        """The music's gain, and what it comes to."""
        if row.get("gain_db") is None:
            return "no music"
        told = f"gain {row['gain_db']:+.1f} dB"
        told += f" (at its {row['bound']}imum)" if row.get("bound") in ("min", "max") else ""
        return told + ("" if row.get("music_lufs") is None else f", {row['music_lufs']:.1f} LUFS")


def _finite(level: float) -> float | None:
    """A level in dB for a row: None for music that is off."""
    return round(level, 4) if math.isfinite(level) else None
