"""Seams: an edge that stands out is told from one that is none."""

import numpy as np
import pytest
import torch
from test_likeness import chord, clicks

from blendbench.errors import ClipError
from blendbench.metrics.likeness import RATE
from blendbench.metrics.seams import Seams, at_seams, beats_carried, novelty
from blendbench.tasks.long_gap.gap import Gap

pytest.importorskip("librosa")


def phrases(*pitches: float, seconds: float = 1.0) -> np.ndarray:
    return np.concatenate([chord(pitch, 1.26 * pitch, 1.5 * pitch, seconds=seconds) for pitch in pitches])


def test_novelty_is_highest_where_the_harmony_changes():
    wave = np.concatenate([phrases(220, seconds=6), phrases(311, seconds=6)])
    curve = novelty(wave)
    assert np.nanargmax(curve) * 512 / RATE == pytest.approx(6.0, abs=0.15)
    assert np.isnan(curve[:80]).all() and np.isnan(curve[-80:]).all()


def test_a_change_stands_out_and_going_on_does_not():
    wave = np.concatenate([phrases(*[220, 247] * 4), 0.25 * phrases(*[311, 349] * 4)])
    changed, same = at_seams(wave, [8.0]), at_seams(wave, [4.0])
    assert changed["seam_novelty"] > 97 and changed["seam_level"] == pytest.approx(12.04, abs=0.5)
    assert same["seam_novelty"] < changed["seam_novelty"] and same["seam_level"] < 1
    assert same["seam_chroma"] > 0.95 > changed["seam_chroma"]


def test_beats_that_go_on_are_found_and_others_are_not():
    steady = clicks(0.5, 16)
    assert beats_carried(steady, 8.0, 13.0) > 0.9
    broken = steady.copy()
    broken[8 * RATE : 13 * RATE] = clicks(0.37, 5, first=0.1)
    assert beats_carried(broken, 8.0, 13.0) < 0.6
    assert np.isnan(beats_carried(steady, 0.2, 3.0)) and np.isnan(beats_carried(steady, 8.0, 8.3))


class Sound:
    key = "one"

    def __init__(self, heard: np.ndarray, gap: Gap | None, row: dict | None = None, **parts: np.ndarray) -> None:
        self.heard, self.gap, self.row, self.own = heard, gap, row or {}, parts

    def waveform(self) -> torch.Tensor:
        return torch.from_numpy(self.heard).repeat_interleave(2)

    def parts(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(wave).repeat_interleave(2) for name, wave in self.own.items()}

    def given(self) -> "Sound":
        return self


def test_what_was_there_is_like_itself():
    wave = phrases(*[220, 247, 294] * 4)
    gap = Gap(5 * 44_100, 7 * 44_100)
    found = Seams().measure(Sound(wave, gap, recording=wave))  # type: ignore[arg-type]
    assert found["gap_chroma"] == pytest.approx(1.0, abs=1e-3)
    on = Seams().measure(Sound(wave, None, {"continues_at_s": 6.0}))  # type: ignore[arg-type]
    assert np.isnan(on["gap_chroma"]) and 0 <= on["seam_novelty"] <= 100


@pytest.mark.parametrize(
    ("gap", "message"), [(None, "has no seam"), (Gap(44_100, 5 * 44_100), "less than 2 s of music on a side")]
)
def test_a_piece_without_a_seam_has_no_values(gap, message):
    with pytest.raises(ClipError, match=message):
        Seams().measure(Sound(phrases(220, 247, seconds=4), gap))  # type: ignore[arg-type]
