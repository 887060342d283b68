"""Presentations of the blend task: how music is levelled and laid over the noise before it is heard.

The noise always lies at `noise.lufs`. Music is brought to a level by one gain, in dB, and added; nothing is clipped.
Where stage 2 takes part in a clip longer than one image, its gain is found window by window and goes over from one to
the next, never by more than 1 dB in 100 ms.
Kinds:

- `direct`: the method's own output level, with stage 2 where the method includes it;
- `loudness_normalized`: music at the noise's loudness;
- `adaptive`: stage 2 for every method's music;
- `loudness`: music at a given loudness (`lufs`);
- `alone`: music at the noise's loudness, without the noise, for what is asked of the music itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio
from blendbench.sound.lattice import RIFFUSION
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

    def is_adaptive(self, method: Levels) -> bool:
        """Whether stage 2 takes part for a method."""
        return self.kind == "adaptive" or (self.kind == "direct" and getattr(method, "adaptive", False))

    def signature(self, method: Levels) -> dict[str, Any]:
        """What changes the mix; stage 2's settings only where it takes part."""
        if self.is_adaptive(method):
            return {"kind": "adaptive", "amplification": asdict(self.amplification), "mask": asdict(self.core)}
        return {"kind": self.kind, "lufs": self.lufs}

    def present(self, given: NoiseAndText, music: Music, method: Levels) -> Heard:
        """Level the music against the noise and overlay both.

        Returns
        -------
        Heard
            `facts`: noise_lufs, music_lufs (after the gain, None for silence), gain_db (applied to the method's
            output), and for stage 2 the gain relative to equal loudness: stage2_gain_db, gain_db_unbounded, bound,
            core_ratio, alpha; of several windows their means, with all gains in `stage2_gains_db`. A gain is None for
            "music off". `noise_heard` is False for kind "alone", and left out elsewhere.

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
        stage2, wanted = self.is_adaptive(method), self.lufs if self.lufs is not None else noise_lufs
        leveled, gain_db = made, 0.0
        if self.kind != "direct" or stage2:
            leveled, gain_db = audio.normalize_loudness(made, audio.SAMPLE_RATE, wanted)
            own_lufs = wanted
        if stage2 and len(noise) > RIFFUSION.samples:
            leveled, told = self._amplified(noise, leveled)
            facts |= told
            own_lufs = audio.integrated_loudness(leveled, audio.SAMPLE_RATE)
            gain_db += own_lufs - wanted
        elif stage2:
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
        """The gain of one window; a silent one has none, which is a ClipError."""
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

    def tried(self, noise: torch.Tensor, music: torch.Tensor) -> masking.GainResult | None:
        """Stage 2 of one window of several, or None where one of the two is silent."""
        try:
            return self._stage2(noise, music)
        except ClipError:
            return None

    def _amplified(self, noise: torch.Tensor, music: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """Stage 2 of a clip of several windows: the music under slow gains, and what a row tells of them."""
        results = [self.tried(part, own) for part, own in windows_of(noise, music)]
        gains = [None if one is None else max(one.gain_db, OFF_DB) for one in results]
        found = [one for one in results if one is not None]
        curve = gain_curve(gains, len(music))
        return music * curve, {
            "stage2_gain_db": _finite(float(np.mean([max(one.gain_db, OFF_DB) for one in found] or [0.0]))),
            "stage2_gains_db": [None if gain is None else round(gain, 2) for gain in gains],
            "gain_db_unbounded": _finite(float(np.mean([one.gain_db_unbounded for one in found] or [0.0]))),
            "bound": _most([one.bound for one in found]),
            "core_ratio": round(float(np.mean([one.core_ratio for one in found] or [0.0])), 5),
            "alpha": self.amplification.alpha,
        }

    def told(self, row: Mapping[str, Any]) -> str:
        """The music's gain, and what it comes to."""
        if row.get("gain_db") is None:
            return "no music"
        told = f"gain {row['gain_db']:+.1f} dB"
        told += f" (at its {row['bound']}imum)" if row.get("bound") in ("min", "max") else ""
        return told + ("" if row.get("music_lufs") is None else f", {row['music_lufs']:.1f} LUFS")


WINDOW = RIFFUSION.samples
HOP = WINDOW * 3 // 4
OFF_DB = -60.0
"""What stands for "music off" in a gain that changes with time."""
STEEPEST_DB = 10.0
"""A second."""


def windows_of(noise: torch.Tensor, music: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows of 5.11 s every 3.83 s of two sounds [samples] of one length; the last ends where they do."""
    last = max(len(noise) - WINDOW, 0)
    for begin in [*range(0, last, HOP), last]:
        yield noise[begin : begin + WINDOW], music[begin : begin + WINDOW]


def gain_curve(gains_db: Sequence[float | None], samples: int) -> torch.Tensor:
    """Gains of the windows of `windows_of` as one factor a sample, [samples].

    In dB it goes straight from the middle of one window to that of the next, at most `STEEPEST_DB` a second: a lower
    gain is raised until that holds, so that no window is masked less than was found for it. None, a silent window,
    takes what its neighbours have.
    """
    last = max(samples - WINDOW, 0)
    return points_curve([*range(0, last, HOP), last], gains_db)(0, samples)


def points_curve(begins: Sequence[int], gains_db: Sequence[float | None]) -> Callable[[int, int], torch.Tensor]:
    """As `gain_curve`, of windows that begin at given samples: from a first sample and a count to factors [count]."""
    known = [(begin + WINDOW / 2, gain) for begin, gain in zip(begins, gains_db, strict=True) if gain is not None]
    if not known:
        return lambda first, count: torch.ones(count)
    at, values = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    slopes = STEEPEST_DB / audio.SAMPLE_RATE
    for one in range(1, len(at)):  # forwards, then backwards: each is held up by its neighbours
        values[one] = max(values[one], values[one - 1] - slopes * (at[one] - at[one - 1]))
    for one in range(len(at) - 2, -1, -1):
        values[one] = max(values[one], values[one + 1] - slopes * (at[one + 1] - at[one]))

    def factors(first: int, count: int) -> torch.Tensor:
        curve = np.interp(np.arange(first, first + count, dtype=float), at, values)
        return torch.from_numpy(10 ** (curve / 20)).float()

    return factors


def _most(bounds: Sequence[str]) -> str:
    """What most windows say; "none" where there are none."""
    return max(sorted(set(bounds)), key=list(bounds).count) if bounds else "none"


def _finite(level: float) -> float | None:
    """A level in dB for a row: None for music that is off."""
    return round(level, 4) if math.isfinite(level) else None
