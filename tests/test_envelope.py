"""Envelope: the published excerpts' values, the discrete Fourier transform written out, tones, and bad input."""

import math

import numpy as np
import pytest
import torch
from support.against_part import PAIRS, REFUSED, Compared, excerpts, noise

from blendbench import config
from blendbench.composing import compose
from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics.envelope import Envelope, envelope_distance

GOLDEN = (0.02261469060183927, 0.03200104921950007, 0.057794937947343854)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_the_published_excerpts_have_their_known_values(dtype, tolerance):
    found = [envelope_distance(*excerpts(*pair, dtype)) for pair in PAIRS]
    assert found == pytest.approx(GOLDEN, rel=tolerance)


def by_sums(sound: np.ndarray) -> np.ndarray:
    """Magnitude of the analytic signal: the negative frequencies of a Fourier series left out, as a matrix product."""
    n = len(sound)
    waves = np.exp(2j * np.pi * (np.outer(np.arange(n), np.arange(n)) % n) / n)
    coefficients = waves.conj() @ sound / n
    frequency = np.arange(n)
    once = (frequency == 0) | (2 * frequency == n)
    coefficients *= np.where(once, 1, np.where(2 * frequency < n, 2, 0))
    return np.abs(waves @ coefficients)


@pytest.mark.parametrize("samples", [1025, 1031, 1200])
def test_it_agrees_with_sums_written_out(samples):
    """Also where the length is a prime, and none is appended to."""
    first, second = noise(samples).double(), noise(samples, seed=1).double()
    expected = np.sqrt(np.mean((by_sums(first.numpy()) - by_sums(second.numpy())) ** 2))
    assert envelope_distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_tones_of_whole_periods_are_as_far_apart_as_their_amplitudes():
    time = torch.arange(4410, dtype=torch.float64) / 44_100
    low, high = (torch.sin(2 * math.pi * frequency * time + 1) for frequency in (440, 1000))
    assert envelope_distance(0.5 * low, 0.2 * high) == pytest.approx(0.3, rel=1e-12)
    assert envelope_distance(low, high) == pytest.approx(0, abs=1e-12)  # deaf to pitch and phase
    assert envelope_distance(low, -low) == pytest.approx(0, abs=1e-12)


def test_equal_sounds_are_0_apart_silence_too():
    for sound in (noise(3000), noise(2, 3000), torch.zeros(3000)):
        assert envelope_distance(sound, sound.clone()) == 0


def test_it_is_symmetric_and_goes_with_level():
    first, second = noise(3000).double(), noise(3000, seed=1).double()
    apart = envelope_distance(first, second)
    assert envelope_distance(second, first) == apart > 0
    assert envelope_distance(2 * first, 2 * second) == pytest.approx(2 * apart, rel=1e-12)


def test_channels_are_averaged():
    first, second = noise(2, 3000).double(), noise(3, 3000, seed=1).double()
    assert envelope_distance(first, second) == envelope_distance(first.mean(0), second.mean(0))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_compared_is_one_line(kind):
    reference, heard, reason = REFUSED[kind]
    with pytest.raises(ClipError, match=reason) as caught:
        envelope_distance(reference, heard)
    assert str(caught.value).isprintable()


# The metric


def test_the_metric_holds_what_is_heard_against_a_part():
    sound = Compared(noise(3000), noise(3000, seed=1), name="background")
    assert Envelope("background").measure(sound) == {"envelope": envelope_distance(sound.reference, sound.heard)}
    assert Envelope.facts["envelope"].better == -1
    assert Envelope().signature() != Envelope("background").signature()
    with pytest.raises(BlendbenchError, match="no part 'reference', it has background, other"):
        Envelope().measure(sound)


def test_the_entry_builds_it():
    entry = compose(["metric=envelope"])["metric"]["envelope"]
    metric = config.build(entry, "metric.envelope", [])
    assert (type(metric), metric.part) == (Envelope, "reference")
