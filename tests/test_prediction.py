"""Burg's method against plain loops and librosa, extrapolation, and the published LPC excerpts."""

import librosa
import numpy as np
import pytest
import torch
from scipy import signal
from support.stimuli import GAP, stimulus

from blendbench.errors import ClipError
from blendbench.tasks.long_gap.distances import snr
from blendbench.tasks.long_gap.gap import Gap
from blendbench.tasks.long_gap.prediction import burg, extrapolate, extrapolate_gap


def _noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples)


def _burg_by_loops(samples: np.ndarray, order: int) -> list[float]:
    """The recursion as Burg wrote it, a sample at a time."""
    forward, backward = list(samples), list(samples)
    predictor = [1.0]
    for stage in range(1, order + 1):
        product = power = 0.0
        for n in range(stage, len(samples)):
            product += forward[n] * backward[n - 1]
            power += forward[n] ** 2 + backward[n - 1] ** 2
        k = -2 * product / power
        longer = [*predictor, 0.0]
        predictor = [longer[i] + k * longer[stage - i] for i in range(stage + 1)]
        for n in range(len(samples) - 1, stage - 1, -1):
            forward[n], backward[n] = forward[n] + k * backward[n - 1], backward[n - 1] + k * forward[n]
    return predictor


# Burg


@pytest.mark.parametrize("order", [1, 2, 9, 40])
def test_burg_agrees_with_plain_loops(order: int) -> None:
    samples = np.cumsum(_noise(120))
    assert burg(samples, order) == pytest.approx(_burg_by_loops(samples, order), rel=1e-9, abs=1e-12)


def test_burg_agrees_with_librosa_at_high_order() -> None:
    samples = _noise(900)
    assert np.allclose(burg(samples, 500), librosa.lpc(samples, order=500), atol=1e-12)


def test_burg_finds_the_coefficients_of_an_autoregressive_process() -> None:
    truth = np.real(np.poly(0.97 * np.exp([0.6j, -0.6j])))
    samples = signal.lfilter([1.0], truth, _noise(50_000))
    assert burg(samples, 2) == pytest.approx(truth, abs=0.005)
    assert np.abs(burg(samples, 10)[3:]).max() < 0.03


def test_a_predictor_is_the_same_at_any_level_and_backwards() -> None:
    samples = _noise(500)
    assert burg(1e-30 * samples, 20) == pytest.approx(burg(samples, 20), abs=1e-12)
    assert burg(samples[::-1], 20) == pytest.approx(burg(samples, 20), abs=1e-12)


def test_its_poles_lie_inside_the_unit_circle() -> None:
    assert np.abs(np.roots(burg(_noise(300), 60))).max() < 1


@pytest.mark.parametrize(
    ("samples", "order", "why"),
    [
        (np.ones(10), 10, "more context than order"),
        (np.ones(10), 0, "more context than order"),
        (np.zeros(0), 1, "more context than order"),
        (np.zeros(10), 2, "silent"),
    ],
)
def test_context_that_cannot_be_fitted_says_why(samples: np.ndarray, order: int, why: str) -> None:
    with pytest.raises(ClipError, match=why):
        burg(samples, order)


# Extrapolation


def test_each_sample_is_predicted_from_those_before() -> None:
    predictor, known = np.array([1.0, -0.5, 0.25, 0.1]), [3.0, 1.0, -2.0, 4.0]
    expected = list(known)
    for _ in range(6):
        expected.append(0.5 * expected[-1] - 0.25 * expected[-2] - 0.1 * expected[-3])
    assert extrapolate(np.array(known), predictor, 6) == pytest.approx(expected[4:], rel=1e-13)


def test_a_gap_in_two_sines_is_filled() -> None:
    time = torch.arange(6000, dtype=torch.float64)
    sines = 0.3 * torch.sin(0.1 * time) + 0.2 * torch.sin(0.37 * time + 1) + 1e-4 * torch.from_numpy(_noise(6000))
    filled = extrapolate_gap(sines * Gap(2900, 3100).mask(6000), Gap(2900, 3100), order=200, context=1000)
    assert snr(sines[2900:3100], filled[2900:3100]) > 40


@pytest.mark.parametrize("early", [0, 1, 5])
def test_only_the_gap_and_the_early_samples_change(early: int) -> None:
    waveform = torch.from_numpy(_noise(3000)).float()
    filled = extrapolate_gap(waveform, Gap(1000, 2000), order=20, context=100, early=early)
    assert torch.nonzero(filled != waveform).flatten().tolist() == list(range(1000 - early, 2000))


def test_the_left_prediction_starts_the_fill_and_the_right_one_ends_it() -> None:
    values = _noise(3000)
    filled = extrapolate_gap(torch.from_numpy(values), Gap(1000, 2000), order=20, context=100, early=0).numpy()
    left, right = values[900:1000], values[2000:2100][::-1]
    assert filled[1000] == extrapolate(left, burg(left, 20), 1)[0]
    assert filled[1999] == pytest.approx(extrapolate(right, burg(right, 20), 1)[0], abs=1e-15)


def test_early_takes_one_more_sample_on_the_left_and_leaves_the_last_observed_one_unread() -> None:
    waveform = torch.from_numpy(_noise(3000))
    read = []
    for sample in (897, 898, 998, 999, 1000, 1999, 2000, 2099, 2100):
        other = waveform.clone()
        other[sample] += 1
        first, second = (extrapolate_gap(w, Gap(1000, 2000), order=20, context=100) for w in (waveform, other))
        if not torch.equal(first[999:2000], second[999:2000]):
            read.append(sample)
    assert read == [898, 998, 2000, 2099]


def test_the_time_reversed_clip_gets_the_time_reversed_fill() -> None:
    waveform = torch.from_numpy(_noise(3000))
    forwards = extrapolate_gap(waveform, Gap(1000, 1900), order=20, context=100, early=0)
    backwards = extrapolate_gap(waveform.flip(0), Gap(1100, 2000), order=20, context=100, early=0)
    assert torch.allclose(forwards, backwards.flip(0), atol=1e-12)


def test_what_lies_in_the_gap_is_not_read() -> None:
    waveform, gap = torch.from_numpy(_noise(3000)), Gap(1000, 2000)
    first, second = (extrapolate_gap(w, gap, order=20, context=100) for w in (waveform, waveform * gap.mask(3000)))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sound", ["sine", "constant", "alternating", "decay"])
def test_a_context_that_is_predicted_without_error_does_not_explode(sound: str, dtype: torch.dtype) -> None:
    time = torch.arange(100_000, dtype=torch.float64)
    waveform = {
        "sine": 0.3 * torch.sin(0.1 * time),
        "constant": 0.3 * torch.ones(100_000),
        "alternating": 0.3 * torch.cos(np.pi * time),
        "decay": torch.exp(-time / 20_000) * torch.sin(0.1 * time),
    }[sound].to(dtype)
    filled = extrapolate_gap(waveform, Gap(5000, 95_000))
    assert filled.dtype == dtype
    assert filled.abs().max() < 1.5


@pytest.mark.parametrize(
    ("gap", "settings", "why"),
    [
        (Gap(1000, 2000), {"order": 100, "context": 100}, "more context than order"),
        (Gap(1000, 2000), {"order": 0}, "more context than order"),
        (Gap(50, 2000), {"order": 100, "context": 200}, "more context than order"),
        (Gap(1000, 2950), {"order": 100, "context": 200}, "more context than order"),
        (Gap(1, 2000), {"order": 10, "context": 200, "early": 2}, "more context than order"),
        (Gap(1000, 2000), {"early": -1}, "early"),
        (Gap(1000, 1000), {}, "empty"),
        (Gap(300, 2000), {"order": 10, "context": 100}, "silent"),
        (Gap(1000, 2700), {"order": 10, "context": 100}, "silent"),
    ],
)
def test_a_gap_that_cannot_be_predicted_says_why(gap: Gap, settings: dict[str, int], why: str) -> None:
    waveform = torch.from_numpy(_noise(3000))
    waveform[100:310] = waveform[2690:2900] = 0
    with pytest.raises(ClipError, match=why) as raised:
        extrapolate_gap(waveform, gap, **settings)
    assert "\n" not in str(raised.value)


# The published excerpts


@pytest.mark.parametrize(("piece", "golden"), [("Piano-1", 24.53), ("Piano-2", 26.64)])
def test_the_fill_agrees_with_the_published_one_as_far_as_16_bits_allow(piece: str, golden: float) -> None:
    published = stimulus(piece, "LPC")[GAP.start : GAP.stop]
    ours = extrapolate_gap(stimulus(piece, "Original"), GAP)[GAP.start : GAP.stop]
    level = snr(published, ours)
    assert level >= 20
    assert np.corrcoef(published, ours)[0, 1] >= 0.995
    assert level == pytest.approx(golden, abs=0.3)


@pytest.mark.parametrize(("piece", "golden"), [("Piano-1", 8.4), ("Piano-2", 8.7)])
def test_contexts_at_the_exact_edges_are_not_what_was_published(piece: str, golden: float) -> None:
    published, ours = stimulus(piece, "LPC"), extrapolate_gap(stimulus(piece, "Original"), GAP, early=0)
    assert snr(published[GAP.start : GAP.stop], ours[GAP.start : GAP.stop]) == pytest.approx(golden, abs=0.1)
