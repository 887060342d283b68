"""Presentations: how music and noise are levelled and overlaid before a listener, or a metric, hears them.

The noise always lies at `noise_lufs`. Music is brought to a level by one gain, in dB, and added; nothing is clipped.
Kinds:

- `direct`: the method's own output level, with stage 2 where the method includes it;
- `loudness_normalized`: music at the noise's loudness;
- `adaptive`: stage 2 for every method's music;
- `loudness`: music at a given loudness (`lufs`).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from blendbench import audio, masking, spectrogram
from blendbench.errors import BlendbenchError

KINDS = ("direct", "loudness_normalized", "adaptive", "loudness")


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
class Presentation:
    """A kind of presentation; `lufs` is for kind "loudness" alone."""

    name: str
    kind: str
    label: str
    lufs: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BlendbenchError(f"presentation {self.name}: kind={self.kind} unknown; use one of {', '.join(KINDS)}")
        if (self.kind == "loudness") != (self.lufs is not None):
            raise BlendbenchError(f"presentation {self.name}: lufs belongs to kind=loudness, and to no other")

    def signature(self, adaptive: bool, amplification: Amplification, mask: dict[str, Any]) -> dict[str, Any]:
        """What changes the mix; stage 2's settings only where it takes part."""
        if self.kind == "adaptive" or (self.kind == "direct" and adaptive):
            core = {name: mask[name] for name in ("core_fraction", "pixel_threshold")}
            return {"kind": "adaptive", "amplification": asdict(amplification), "mask": core}
        return {"kind": self.kind, "lufs": self.lufs}


@dataclass(frozen=True)
class Mix:
    """Noise and levelled music, overlaid, with every figure of the levels for the row."""

    mix: torch.Tensor
    music: torch.Tensor
    facts: dict[str, Any]


def present(
    noise: torch.Tensor,
    music: torch.Tensor,
    presentation: Presentation,
    adaptive: bool,
    amplification: Amplification,
    mask: dict[str, Any],
    sample_rate: int = 44_100,
) -> Mix:
    """Level the music against the noise and overlay both.

    Parameters
    ----------
    noise, music : Tensor [samples]
        The noise at its presentation level, and the method's output.
    presentation : Presentation
        How to level.
    adaptive : bool
        Whether the method's own output includes stage 2.
    amplification : Amplification
        Stage 2's settings.
    mask : dict
        `core_fraction` and `pixel_threshold` of the core that stage 2 looks at.

    Returns
    -------
    Mix
        `facts`: noise_lufs, music_lufs (after the gain, None for silence), gain_db (applied to the method's output),
        and for stage 2 the gain relative to equal loudness: stage2_gain_db, gain_db_unbounded, bound, core_ratio,
        alpha. A gain is None for "music off".

    Raises
    ------
    ClipError
        If the music is silent although its kind of presentation must level it.
    """
    noise_lufs = audio.integrated_loudness(noise, sample_rate)
    facts: dict[str, Any] = {"noise_lufs": round(noise_lufs, 3)}
    if not bool(music.any()):
        return Mix(noise.clone(), music, facts | {"music_lufs": None, "gain_db": None})
    own_lufs = audio.integrated_loudness(music, sample_rate)
    stage2 = presentation.kind == "adaptive" or (presentation.kind == "direct" and adaptive)
    if presentation.kind == "direct" and not stage2:
        leveled, gain_db = music, 0.0
    else:
        target = presentation.lufs if presentation.lufs is not None else noise_lufs
        leveled, gain_db = audio.normalize_loudness(music, sample_rate, target)
    if stage2:
        result = _stage2(noise, leveled, amplification, mask)
        leveled = leveled * audio.from_db(result.gain_db)
        gain_db += result.gain_db
        facts |= {
            "stage2_gain_db": _finite(result.gain_db),
            "gain_db_unbounded": _finite(result.gain_db_unbounded),
            "bound": result.bound,
            "core_ratio": round(result.core_ratio, 5),
            "alpha": amplification.alpha,
        }
        own_lufs = noise_lufs + result.gain_db
    elif presentation.kind != "direct":
        own_lufs = presentation.lufs if presentation.lufs is not None else noise_lufs
    facts |= {"music_lufs": round(own_lufs, 3) if math.isfinite(own_lufs) else None, "gain_db": _finite(gain_db)}
    return Mix(audio.mix(noise, leveled), leveled, facts)


def _finite(level: float) -> float | None:
    """A level in dB for a row: None for music that is off."""
    return round(level, 4) if math.isfinite(level) else None


def _stage2(
    noise: torch.Tensor, music: torch.Tensor, amplification: Amplification, mask: dict[str, Any]
) -> masking.GainResult:
    noise_mel, music_mel = spectrogram.mel_amplitudes(torch.stack([noise, music]))
    pixels, _ = spectrogram.encode_image(noise_mel)
    core = masking.core_mask(pixels, mask["core_fraction"], mask["pixel_threshold"])
    # Images lie with the low frequencies at the bottom, mel amplitudes start with them.
    core = core.flip(-2)
    threshold = masking.masking_threshold(noise_mel, amplification.smr_db)
    bounds = (amplification.min_gain_db, amplification.max_gain_db)
    if amplification.solver == "gradient_descent":
        return masking.optimal_gain_gradient_descent(music_mel, threshold, core, amplification.alpha, *bounds)
    return masking.optimal_gain(music_mel, threshold, core, amplification.alpha, *bounds)
