"""Log-spectral distance and signal-to-noise ratios: identities, loops, and the figures of the published excerpts."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.stimuli import GAP, PIECES, stimulus

from blendbench.errors import ClipError
from blendbench.tasks.long_gap.distances import context_snr, guide_snr, log_spectral_distance, snr
from blendbench.tasks.long_gap.gap import Gap

SMALL_GAP = Gap(1000, 6000)


def _noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _distance_by_loops(first: np.ndarray, second: np.ndarray) -> float:
    """Frames one by one by numpy's FFT: padded by half a frame of zeros a side, then to a whole number of hops."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    padded = [np.pad(x, (1024, 1024 + -len(x) % 512)) for x in (first, second)]
    frames = []
    for start in range(0, len(padded[0]) - 2047, 512):
        levels = [
            20 * np.log10(np.abs(np.fft.rfft(x[start : start + 2048] * window)) / window.sum() + 1e-5) for x in padded
        ]
        frames.append(math.sqrt(np.mean((levels[0] - levels[1]) ** 2)))
    return float(np.mean(frames))


# Log-spectral distance


def test_equal_waveforms_are_0_apart() -> None:
    assert log_spectral_distance(_noise(8000), _noise(8000), SMALL_GAP) == 0


@pytest.mark.parametrize("gap", [SMALL_GAP, Gap(100, 2148), Gap(1000, 6001), Gap(7, 7900)])
def test_the_distance_agrees_with_plain_loops(gap: Gap) -> None:
    first, second = _noise(8000), _noise(8000, 1)
    expected = _distance_by_loops(*(x[gap.start : gap.stop].double().numpy() for x in (first, second)))
    assert log_spectral_distance(first, second, gap) == pytest.approx(expected, rel=1e-12)


def test_a_tenth_of_the_amplitude_is_20_db_away_where_the_floor_does_not_count() -> None:
    loud = 1e4 * _noise(8000).double()
    assert log_spectral_distance(loud, 0.1 * loud, SMALL_GAP) == pytest.approx(20, abs=0.01)


def test_the_distance_is_symmetric_and_deaf_to_the_context() -> None:
    first, second = _noise(8000), _noise(8000, 1)
    there = log_spectral_distance(first, second, SMALL_GAP)
    assert there == log_spectral_distance(second, first, SMALL_GAP)
    second[:1000] = 0
    assert there == log_spectral_distance(first, second, SMALL_GAP)


def test_silence_is_100_db_below_a_spectrum_of_1() -> None:
    silence = torch.zeros(8000)
    assert log_spectral_distance(silence, silence, SMALL_GAP) == 0
    assert 0 < log_spectral_distance(_noise(8000), silence, SMALL_GAP) < 100


def test_a_gap_shorter_than_a_frame_has_no_distance() -> None:
    with pytest.raises(ClipError, match="gap of 2047 samples is shorter"):
        log_spectral_distance(_noise(8000), _noise(8000), Gap(1000, 3047))


# Signal-to-noise ratios


def test_a_tenth_of_error_is_20_db() -> None:
    signal = _noise(1000)
    assert snr(signal, 1.1 * signal) == pytest.approx(20, abs=1e-4)


def test_equal_waveforms_are_infinitely_alike_and_silence_is_like_nothing_else() -> None:
    silence, sound = torch.zeros(10), torch.ones(10)
    assert snr(sound, sound) == snr(silence, silence) == math.inf
    assert snr(silence, sound) == -math.inf
    assert snr(sound, silence) == 0


def test_the_guide_counts_in_the_gap_and_the_original_outside() -> None:
    reference, estimate = torch.ones(100), torch.ones(100)
    estimate[40:60] = 1.1
    assert context_snr(reference, estimate, Gap(40, 60)) == math.inf
    assert guide_snr(reference, estimate, Gap(40, 60)) == pytest.approx(20, abs=1e-4)
    assert context_snr(reference, estimate, Gap(45, 50)) == pytest.approx(20 + 10 * math.log10(95 / 15), abs=1e-4)


def test_samples_next_to_the_gap_can_be_left_out() -> None:
    reference, estimate = torch.ones(100), torch.ones(100)
    estimate[30:70] = 2
    ratios = [context_snr(reference, estimate, Gap(40, 60), beyond) for beyond in (0, 9, 10)]
    assert ratios == pytest.approx([10 * math.log10(80 / 20), 10 * math.log10(62 / 2), math.inf])


def test_a_side_may_lie_within_what_is_left_out() -> None:
    assert context_snr(torch.ones(100), 2 * torch.ones(100), Gap(5, 60), 39) == 0


@pytest.mark.parametrize("beyond", [-1, 40, 1000])
def test_context_that_is_all_left_out_has_no_ratio(beyond: int) -> None:
    with pytest.raises(ClipError, match="no context lies beyond"):
        context_snr(torch.ones(100), torch.ones(100), Gap(5, 60), beyond)


@pytest.mark.parametrize("distance", [log_spectral_distance, guide_snr, context_snr])
@pytest.mark.parametrize(
    ("first", "second", "gap", "why"),
    [
        (torch.ones(9000), torch.ones(9001), SMALL_GAP, "give two of one length"),
        (torch.ones(9000), torch.full((9000,), float("nan")), SMALL_GAP, "NaN"),
        (torch.ones(2, 9000), torch.ones(2, 9000), SMALL_GAP, "give one channel"),
        (torch.zeros(0), torch.zeros(0), SMALL_GAP, "no context"),
        (torch.ones(9000), torch.ones(9000), Gap(5, 5), "empty"),
    ],
)
def test_waveforms_that_cannot_be_compared_say_why(
    distance: Callable[..., float], first: torch.Tensor, second: torch.Tensor, gap: Gap, why: str
) -> None:
    with pytest.raises(ClipError, match=why) as raised:
        distance(first, second, gap)
    assert "\n" not in str(raised.value)


# The published excerpts

CONDITIONS = ("LPC", "DPS", "Sim", "SimDPS-Strict", "SimDPS-Relaxed")
DISTANCES = {"Piano-1": (6.94, 6.32, 4.09, 4.19, 6.55), "Piano-2": (10.92, 6.71, 5.26, 5.41, 5.67)}
TO_GUIDE = {"Piano-1": (-2.30, 19.69, 5.60), "Piano-2": (-6.23, 14.93, 3.10)}
TO_ORIGINAL = {"Piano-1": (42.90, 42.91, 37.05), "Piano-2": (26.17, 26.16, 23.91)}
DIFFUSION = ("DPS", "SimDPS-Strict", "SimDPS-Relaxed")


@pytest.mark.parametrize("piece", PIECES)
def test_distances_of_the_published_fills(piece: str) -> None:
    original = stimulus(piece, "Original")
    measured = [log_spectral_distance(original, stimulus(piece, name), GAP) for name in CONDITIONS]
    assert measured == pytest.approx(DISTANCES[piece], abs=0.01)


@pytest.mark.parametrize("piece", PIECES)
def test_how_far_the_published_fills_follow_sim(piece: str) -> None:
    measured = [guide_snr(stimulus(piece, "Sim"), stimulus(piece, name), GAP) for name in DIFFUSION]
    assert measured == pytest.approx(TO_GUIDE[piece], abs=0.01)


@pytest.mark.parametrize("piece", PIECES)
def test_how_far_the_published_fills_keep_the_context(piece: str) -> None:
    original = stimulus(piece, "Original")
    measured = [context_snr(original, stimulus(piece, name), GAP, beyond=2000) for name in DIFFUSION]
    assert measured == pytest.approx(TO_ORIGINAL[piece], abs=0.01)
