"""Spectral gains that mask best at one loudness: the optimum, the filter, and what they may not do."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics.audibility import measure
from blendbench.sound import audio, masking_model
from blendbench.sound.audio import SAMPLE_RATE as RATE
from blendbench.sound.audio import integrated_loudness, normalize_loudness
from blendbench.sound.masking_model import CRITICAL_BAND_EDGES
from blendbench.tasks.blend import shaping
from blendbench.tasks.blend.shaping import Shaping, apply, optimal, shape


def _coloured(seed: int, slope: float, seconds: float = 3.0) -> torch.Tensor:
    """Noise whose spectrum falls by `slope` dB an octave, at -18 LUFS."""
    spectrum = torch.fft.rfft(torch.from_numpy(np.random.RandomState(seed).randn(round(seconds * RATE))))
    spectrum[1:] *= 10 ** (-slope / 20 * torch.arange(1, len(spectrum)).log2())
    spectrum[0] = 0
    return normalize_loudness(torch.fft.irfft(spectrum).float(), RATE, -18.0)[0]


def _band(low: float, high: float, seed: int = 3, seconds: float = 3.0) -> torch.Tensor:
    spectrum = torch.fft.rfft(torch.from_numpy(np.random.RandomState(seed).randn(round(seconds * RATE))))
    frequencies = torch.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return normalize_loudness(torch.fft.irfft(spectrum).float(), RATE, -18.0)[0]


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return _coloured(1, 6.0)


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    return _coloured(2, 3.0)


def test_cheaper_departures_mask_better_and_the_loudness_stays(noise, music):
    flat = measure(noise, music)["noise_to_mask_ratio"]
    ratios, departures = [flat], [0.0]
    for price in (16, 4, 1, 0.25):
        shaped, found = shape(noise, music, Shaping(price=price))
        ratio = measure(noise, shaped)["noise_to_mask_ratio"]
        # The model descended in is that of the measure, up to what the filter's windows smear.
        assert found.shaped == pytest.approx(ratio, abs=0.3)
        assert found.flat == pytest.approx(flat, abs=0.05)
        assert integrated_loudness(shaped, RATE) == pytest.approx(integrated_loudness(music, RATE), abs=0.005)
        ratios.append(ratio)
        departures.append(found.departure)
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] < flat - 2
    assert departures == sorted(departures)


def _objective(noise, music, gains: torch.Tensor, settings: Shaping) -> float:
    """Written once more, in plain NumPy and loops over bands, with another loudness: what is minimised."""
    noise_spectrum, spectrum = masking_model.spectra(noise), masking_model.spectra(music)
    power = spectrum[::2].abs().square().numpy()
    frequencies = np.arange(1025) * RATE / 2048
    centres = [(a + b) / 2 for a, b in itertools.pairwise(CRITICAL_BAND_EDGES)]
    barks = masking_model.bark(torch.tensor(centres, dtype=torch.float64)).numpy()
    place = masking_model.bark(torch.from_numpy(frequencies)).numpy()
    shaped = np.empty_like(power)
    points = np.linspace(0, (len(power) - 1) * 1024 / RATE, gains.shape[1]) if gains.shape[1] > 1 else np.zeros(1)
    weighed = np.zeros(gains.shape)
    k = audio.k_weighting(torch.from_numpy(frequencies)).numpy()
    for frame in range(len(power)):
        time = frame * 1024 / RATE
        now = np.array([np.interp(time, points, row) for row in gains.numpy()])
        shaped[frame] = power[frame] * np.interp(place, barks, now)
        shares = np.array([np.interp(time, points, row) for row in np.eye(len(points))])
        each = np.array([(power[frame] * k * np.interp(place, barks, row)).sum() for row in np.eye(24)])
        weighed += each[:, None] * shares
    loudness = 10 * np.log10((shaped * k).sum() / (power * k).sum())
    energies = masking_model.band_energies(noise_spectrum)
    fake = torch.from_numpy(np.sqrt(np.repeat(shaped, 2, 0))[: len(spectrum)]).to(torch.complex128)
    offset = masking_model.masking_offset(masking_model.band_tonality(spectrum))
    maskers = masking_model.band_energies(fake) / 10 ** (offset / 10)
    threshold = masking_model._spread_in_time(masking_model.spreading_matrix() @ maskers)
    ratio = masking_model.noise_to_mask_ratio(energies, threshold.maximum(masking_model.quiet_threshold()))
    g = gains.numpy()
    mean = g.mean(1)
    w = 0.5 * weighed.sum(1) / weighed.sum() + 0.5 / 24
    departure = (w * (mean - 1 - np.log(mean))).sum()
    departure += settings.following * (w * (g * np.log(g / mean[:, None]) - g + mean[:, None]).mean(1)).sum()
    assert abs(loudness) < 1e-6
    return ratio + settings.price * departure


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_no_small_change_of_the_gains_is_better(noise, music, seconds):
    settings = Shaping(price=2.0, seconds=seconds, iterations=200)
    found = optimal(noise, music, settings)
    best = _objective(noise, music, found.gains, settings)
    assert best == pytest.approx(found.shaped + settings.price * found.departure, abs=0.02)
    flat = torch.ones_like(found.gains)
    assert best < _objective(noise, music, flat, settings) - 0.5
    draw = torch.Generator().manual_seed(0)
    model = shaping._Model(masking_model.spectra(music), seconds)
    for size in (0.02, 0.2, 1.0):
        for _ in range(3):
            moved = found.gains * (size * torch.randn(found.gains.shape, generator=draw, dtype=torch.float64)).exp()
            moved *= model.weighed.sum() / (model.weighed * moved).sum()
            assert _objective(noise, music, moved, settings) > best - 2e-3


def test_dear_departures_leave_the_music_as_it_is(noise, music):
    shaped, found = shape(noise, music, Shaping(price=1e6))
    assert float((10 * found.gains.log10()).abs().max()) < 0.01
    assert float((shaped - music).abs().max()) < 2e-3 * float(music.abs().max())


def test_the_filter_with_flat_gains_changes_nothing(music):
    flat = shaping.Shape(torch.ones(24, 4, dtype=torch.float64), torch.linspace(0, 3, 4).double(), 0.0, 0.0, 0.0)
    assert float((apply(music, flat) - music).abs().max()) < 1e-6


def test_gains_rise_where_the_noise_is_and_music_can_follow(music):
    found = optimal(_band(1000, 1270), music, Shaping(price=4.0, seconds=None))
    band = CRITICAL_BAND_EDGES.index(1080)
    # Spreading reaches upwards more than downwards, so the band itself or the one below is raised most.
    assert int(found.gains[:, 0].argmax()) in (band - 1, band)
    assert found.gains.shape == (24, 1)


def test_gains_follow_in_time_only_as_far_as_is_paid_for(music):
    bursts = _coloured(5, 3.0)
    bursts[: len(bursts) // 2] *= 0.01
    bursts = normalize_loudness(bursts, RATE, -18.0)[0]
    steps = []
    for following in (0.3, 3.0, 300.0):
        gains = optimal(bursts, music, Shaping(price=2.0, seconds=0.5, following=following)).gains
        steps.append(float(10 * (gains[:, -1] / gains[:, 0]).log10().mean()))
    assert steps[0] > steps[1] > steps[2] > -0.05
    assert steps[0] > 1 and steps[2] < 0.2


def test_gains_keep_within_their_bound(music):
    found = optimal(_band(200, 300), music, Shaping(price=0.0, max_db=6.0))
    levels = 10 * found.gains.log10()
    assert float(levels.max() - levels.min()) <= 12.001
    free = optimal(_band(200, 300), music, Shaping(price=0.0, max_db=30.0))
    assert free.shaped < found.shaped - 1


def test_a_noise_that_nobody_hears_asks_for_nothing(music):
    shaped, found = shape(music * 1e-6, music, Shaping())
    assert math.isnan(found.shaped) and found.departure == 0
    assert float((shaped - music).abs().max()) < 1e-5


def test_clips_that_cannot_be_shaped_are_refused(noise, music):
    with pytest.raises(ClipError, match="holds NaN or infinity"):
        shape(noise, music * float("nan"), Shaping())
    with pytest.raises(ClipError, match="masking needs"):
        shape(noise[:1000], music[:1000], Shaping())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"price": -1.0}, "price: is -1.0"),
        ({"following": float("nan")}, "following: is nan"),
        ({"seconds": 0.0}, "seconds: is 0.0"),
        ({"max_db": 0.0}, "max_db: is 0.0"),
        ({"iterations": 0}, "iterations: is 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(BlendbenchError, match=message):
        Shaping(**settings)


def test_real_clips_at_their_prototype_gain(shared_data: Path):
    """Four to five decibels of noise-to-mask ratio at a price of 4, on recordings and real music."""
    from blendbench.sound import files

    drops = []
    music_files = sorted((shared_data / "MusicBench/data").glob("*.ogg"))[::97][:4]
    for sound, song in zip(sorted((shared_data / "ESC-50/audio").glob("4-*.wav"))[::13][:4], music_files, strict=True):
        noise = normalize_loudness(audio.extend_circular(files.read(sound, RATE), 5 * RATE), RATE, -18.0)[0]
        tune = normalize_loudness(files.read(song, RATE)[: 5 * RATE], RATE, -18.0)[0]
        shaped, _ = shape(noise, tune, Shaping(price=4.0))
        before, after = (measure(noise, one)["noise_to_mask_ratio"] for one in (tune, shaped))
        drops.append(before - after)
    assert min(drops) > 0.5 and sum(drops) / len(drops) > 2.5, drops
