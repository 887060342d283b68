"""Coherence: fitness of what repeats, spread of the tempo, and how alike a piece's ends are."""

import numpy as np
import pytest
import torch
from test_likeness import clicks
from test_seams import phrases

from blendbench.evaluators import Evaluator, Scores
from blendbench.metrics.coherence import Coherence, structureness, tempo_spread
from blendbench.metrics.fitness import fitness, fitness_of_lengths, prepared
from blendbench.metrics.likeness import RATE

pytest.importorskip("librosa")


def similarity(frames: np.ndarray) -> np.ndarray:
    unit = frames / np.linalg.norm(frames, axis=0)
    return unit.T @ unit


def test_a_pattern_repeated_explains_all_but_its_own_share():
    """Five times the same: score a step 1 - 1/5, covered 1 - 1/5, so a fitness of .8 at its length."""
    pattern = np.random.default_rng(0).random((12, 20))
    found = fitness_of_lengths(similarity(np.tile(pattern, 5)))
    assert found[20] == pytest.approx(0.8, abs=0.03) == max(found.values())
    other = fitness_of_lengths(similarity(np.random.default_rng(1).random((12, 100))))
    assert max(value for length, value in other.items() if length >= 15) < 0.2


def test_paths_may_be_faster_or_slower_by_half():
    """One segment of eight frames, and again of twelve: steps of (2, 1) and (1, 1) lead through it."""
    columns = np.full((20, 8), -2.0)
    columns[np.arange(8), np.arange(8)] = 1.0
    columns[[8, 9, 11, 12, 14, 15, 17, 19], np.arange(8)] = 1.0
    # A score of 16 in 16 steps, less 8 of the segment itself; 20 frames covered of 20, less 8.
    assert fitness(columns) == pytest.approx(2 * 0.5 * 0.6 / (0.5 + 0.6))


def test_a_segment_that_explains_nothing_else_has_no_fitness():
    columns = np.full((20, 8), -2.0)
    columns[np.arange(8), np.arange(8)] = 1.0
    assert fitness(columns) == 0.0
    assert np.diagonal(prepared(similarity(np.random.default_rng(0).random((12, 30))))).tolist() == [1.0] * 30


def test_repeated_phrases_are_told_from_wandering_ones():
    repeated = structureness(phrases(*[220, 262, 294, 349, 392] * 6, seconds=1.0))
    pitches = 220 * 2 ** (np.random.default_rng(0).permutation(30) / 12)
    wandering = structureness(phrases(*pitches, seconds=1.0))
    assert repeated["structure_short"] > wandering["structure_short"] + 0.2
    assert repeated["structure_middle"] > wandering["structure_middle"]


def test_a_steady_beat_has_no_spread():
    steady = clicks(0.5, 32)
    changing = np.concatenate([clicks(0.5, 8), clicks(0.37, 8), clicks(0.61, 8), clicks(0.44, 8)])
    assert tempo_spread(steady) < 0.02 < tempo_spread(changing)


class Loudness(Evaluator):
    """Hears how loud it is, and 1."""

    name, sample_rate, comparable = "loudness", 22_050, False

    def score(self, waveform: torch.Tensor) -> Scores:
        return Scores(torch.tensor([[float(waveform.abs().mean()), 0.01]]), None)


class Sound:
    row: dict = {}
    key = "one"

    def __init__(self, wave: np.ndarray) -> None:
        self.wave = wave

    def waveform(self) -> torch.Tensor:
        return torch.from_numpy(self.wave).repeat_interleave(2)


def test_ends_that_differ_lie_apart_and_a_short_piece_has_no_structure():
    steady = phrases(*[220.0] * 6)
    fading = steady * np.linspace(1, 0, len(steady), dtype=np.float32) ** 4
    metric = Coherence(Loudness())
    same, other = metric.measure(Sound(steady)), metric.measure(Sound(fading))  # type: ignore[arg-type]
    assert same["thirds_apart"] == pytest.approx(0.0, abs=1e-6) and other["thirds_apart"] > 0.1
    assert np.isnan(same["structure_long"]) and len(steady) < 12 * RATE
