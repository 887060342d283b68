"""Likeness: harmony and rhythm of a piece held against its sources."""

import numpy as np
import pytest
import torch

from blendbench.errors import ClipError
from blendbench.metrics.likeness import RATE, Likeness, chroma_cosine, cosines, low, onset_correlation

pytest.importorskip("librosa")


def clicks(every: float, seconds: float = 6.0, first: float = 0.25) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    decay = np.exp(-np.arange(RATE // 20) / (RATE / 200)).astype(np.float32)
    for at in np.arange(first, seconds - 0.1, every):
        place = round(at * RATE)
        wave[place : place + len(decay)] += decay * np.random.default_rng(0).standard_normal(len(decay)).astype(
            np.float32
        )
    return wave


def chord(*pitches: float, seconds: float = 4.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches).astype(np.float32) * 0.1


def test_a_piece_is_most_like_itself():
    wave = chord(220, 277.18, 329.63)
    assert chroma_cosine(wave, wave) == pytest.approx(1.0)
    assert chroma_cosine(wave, chord(233.08, 311.13, 369.99)) < 0.6
    assert chroma_cosine(wave, chord(440, 554.37, 659.26)) > 0.9  # an octave higher, the same classes
    beat = clicks(0.5)
    assert onset_correlation(beat, beat) == pytest.approx(1.0)
    assert onset_correlation(beat, clicks(0.5, first=0.5)) < 0.2


def test_silence_has_neither():
    silence = np.zeros(2 * RATE, np.float32)
    assert np.isnan(onset_correlation(silence, clicks(0.5, 2)))
    assert np.isnan(cosines(np.zeros((12, 3)), np.ones((12, 3)))).all()


def test_what_is_too_short_is_refused():
    with pytest.raises(ClipError, match=r"0\.0\d+ seconds are too short"):
        low(torch.zeros(2000))


class Sound:
    """A sound with parts."""

    row: dict = {}
    key = "one"

    def __init__(self, heard: np.ndarray, **parts: np.ndarray) -> None:
        self.heard, self.own = heard, parts

    def waveform(self) -> torch.Tensor:
        return torch.from_numpy(self.heard).repeat_interleave(2)

    def parts(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(wave).repeat_interleave(2) for name, wave in self.own.items()}


def test_each_source_has_its_values_and_one_that_is_not_there_has_none():
    beat, harmony = clicks(0.5, 4), chord(220, 277.18, 329.63)
    found = Likeness().measure(Sound(beat + harmony, recording=beat, second=harmony))  # type: ignore[arg-type]
    assert found["onsets_first"] > 0.9 and found["chroma_second"] > 0.8
    assert found["chroma_second"] > found["chroma_first"] and found["onsets_first"] > found["onsets_second"]
    alone = Likeness().measure(Sound(beat, recording=beat))  # type: ignore[arg-type]
    assert alone["onsets_first"] == pytest.approx(1.0) and np.isnan(alone["chroma_second"])
