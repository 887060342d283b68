"""Likeness: how much of its sources' harmony and rhythm is in a piece that was made from them."""

import numpy as np
import torch

from blendbench.errors import ClipError
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.sound import audio

RATE = 22_050
PARTS = {"first": "recording", "second": "second"}


class Likeness(ItemMetric):
    """Cosine of chroma frame by frame, and correlation of onset strength, with each of the parts that there are."""

    facts = {
        "chroma_first": Facts("Chroma like 1st", "cosine", True, "librosa chroma_cqt, mean over frames"),
        "onsets_first": Facts("Onsets like 1st", "correlation", True, "librosa onset_strength"),
        "chroma_second": Facts("Chroma like 2nd", "cosine", True, "librosa chroma_cqt, mean over frames"),
        "onsets_second": Facts("Onsets like 2nd", "correlation", True, "librosa onset_strength"),
    }

    def measure(self, sound: Sound) -> dict[str, float]:
        """Values by name; nan for a part that is not there."""
        parts, found = sound.parts(), dict.fromkeys(self.facts, float("nan"))
        heard = low(sound.waveform())
        for name, part in PARTS.items():
            if part in parts:
                other = low(parts[part])
                samples = min(len(heard), len(other))
                found[f"chroma_{name}"] = chroma_cosine(heard[:samples], other[:samples])
                found[f"onsets_{name}"] = onset_correlation(heard[:samples], other[:samples])
        return found


def low(waveform: torch.Tensor, rate: int = audio.SAMPLE_RATE) -> np.ndarray:
    """A waveform [samples] or [channels, samples] as one channel at 22,050 Hz.

    Raises
    ------
    ClipError
        If it is shorter than a tenth of a second.
    """
    mono = audio.resample(audio.to_mono(waveform), rate, RATE)
    if len(mono) < RATE // 10:
        raise ClipError(f"{len(mono) / RATE:.3f} seconds are too short to be compared; give at least 0.1")
    values: np.ndarray = mono.numpy()
    return values


def chroma(wave: np.ndarray) -> np.ndarray:
    """Chroma [12, frames] of a waveform at 22,050 Hz, of hops of 512."""
    import librosa

    found: np.ndarray = librosa.feature.chroma_cqt(y=wave, sr=RATE, tuning=0.0)
    return found


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine column by column; nan where a column is zero."""
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(norms > 1e-9, (first * second).sum(0) / norms, np.nan)
    return found


def chroma_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean cosine of two waveforms' chroma at 22,050 Hz; nan where neither frame has any."""
    found = cosines(chroma(first), chroma(second))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def onset_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two waveforms' onset strength at 22,050 Hz; nan where one has none."""
    import librosa

    one, other = (librosa.onset.onset_strength(y=wave, sr=RATE) for wave in (first, second))
    if min(one.std(), other.std()) < 1e-9:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
