"""Spectral: the published excerpts' values, plain loops, SciPy, and what a level and silence are."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import signal
from support.against_part import PAIRS, REFUSED, Compared, excerpts, noise

from blendbench import config
from blendbench.composing import compose
from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics.spectral import Spectral, spectral_distance

GOLDEN = {
    "code": (0.4344328443134632, 0.37810627925763607, 1.104984899492791),
    "paper": (1.5054372875526951, 0.8034026861834266, 2.459566822820328),
}
WINDOWS = (128, 256, 512, 1024, 2048)
DEFINITIONS = pytest.mark.parametrize("definition", ["code", "paper"])


@DEFINITIONS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_the_published_excerpts_have_their_known_values(definition, dtype, tolerance):
    for pair, known in zip(PAIRS, GOLDEN[definition], strict=True):
        found = spectral_distance(*excerpts(*pair, dtype), definition)
        assert found.total == pytest.approx(known, rel=tolerance)
        assert found.linear + found.log == pytest.approx(known, rel=tolerance)


def by_loops(first: np.ndarray, second: np.ndarray, definition: str) -> tuple[float, float]:
    """Linear and logarithmic part, frame by frame by numpy's FFT."""
    linear, log = [], []
    for size in WINDOWS:
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        padded = [np.pad(sound, size // 2, mode="reflect") for sound in (first, second)]
        differences, ratios = [], []
        for start in range(0, len(padded[0]) - size + 1, size // 2):
            p, q = (np.abs(np.fft.rfft(sound[start : start + size] * window)) for sound in padded)
            if definition == "code":
                p, q = p**2, q**2
            differences.append(np.abs(p - q).mean())
            ratios.append(np.abs(np.log(np.maximum(p, 1e-7)) - np.log(np.maximum(q, 1e-7))).mean())
        linear.append(0.5 * np.mean(differences))
        log.append(0.5 * np.mean(ratios))
    total = np.mean if definition == "code" else np.sum
    return float(total(linear)), float(total(log))


@DEFINITIONS
@pytest.mark.parametrize("samples", [1025, 2048, 6001])
def test_both_parts_agree_with_plain_loops(definition, samples):
    first, second = noise(samples).double(), noise(samples, seed=1).double()
    second[samples // 3 : samples // 2] = 0  # some of it lies under the floor
    linear, log = by_loops(first.numpy(), second.numpy(), definition)
    assert spectral_distance(first, second, definition) == pytest.approx((linear + log, linear, log), rel=1e-12)


def test_it_agrees_with_scipys_spectrograms():
    first, second = noise(9216).double(), noise(9216, seed=1).double()
    linear, log = [], []
    for size in WINDOWS:
        p, q = (
            # SciPy divides by the window's sum.
            np.abs(signal.stft(sound.numpy(), nperseg=size, boundary="even", padded=False)[2] * size / 2) ** 2
            for sound in (first, second)
        )
        linear.append(0.5 * np.abs(p - q).mean())
        log.append(0.5 * np.abs(np.log(p) - np.log(q)).mean())
    expected = np.mean(linear) + np.mean(log), np.mean(linear), np.mean(log)
    assert spectral_distance(first, second) == pytest.approx(expected, rel=1e-10)


@DEFINITIONS
def test_equal_sounds_are_0_apart_silence_too(definition):
    for sound in (noise(3000), noise(2, 3000), torch.zeros(3000)):
        assert spectral_distance(sound, sound.clone(), definition) == (0, 0, 0)


@DEFINITIONS
def test_it_is_symmetric_and_grows_with_what_is_added(definition):
    sound, other = noise(5000), noise(5000, seed=1)
    assert spectral_distance(sound, other, definition) == spectral_distance(other, sound, definition)
    steps = [spectral_distance(sound, sound + level * other, definition) for level in (0.01, 0.1, 1.0)]
    assert all(near < far for before, after in pairwise(steps) for near, far in zip(before, after, strict=True))


@pytest.mark.parametrize(("definition", "expected"), [("code", math.log(10)), ("paper", 2.5 * math.log(10))])
def test_a_gain_is_its_logarithm_where_the_floor_does_not_count(definition, expected):
    loud = noise(5000, level=1e3).double()
    assert spectral_distance(loud, 10 * loud, definition).log == pytest.approx(expected, rel=1e-12)


def test_the_linear_part_goes_with_power_or_magnitude():
    first, second = noise(5000).double(), noise(5000, seed=1).double()
    for definition, factor in (("code", 4), ("paper", 2)):
        once, louder = (spectral_distance(gain * first, gain * second, definition).linear for gain in (1, 2))
        assert louder == pytest.approx(factor * once, rel=1e-12)


def test_silence_can_be_nearer_than_other_music_of_the_same_level():
    sound, other = noise(44_100, level=0.3), noise(44_100, level=0.3, seed=1)
    other[: len(other) // 2] = 0
    other *= 2**0.5
    assert spectral_distance(sound, torch.zeros(44_100)).linear < spectral_distance(sound, other).linear


def test_channels_are_averaged():
    first, second = noise(2, 3000).double(), noise(3, 3000, seed=1).double()
    assert spectral_distance(first, second) == spectral_distance(first.mean(0), second.mean(0))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_compared_is_one_line(kind):
    reference, heard, reason = REFUSED[kind]
    for words in ((reference, heard), (reference.double(), heard.double())):
        with pytest.raises(ClipError, match=reason) as caught:
            spectral_distance(*words)
        assert str(caught.value).isprintable()


# The metric


def test_the_metric_holds_what_is_heard_against_a_part():
    sound = Compared(noise(3000), noise(3000, seed=1), name="background")
    found = Spectral("background", "paper").measure(sound)
    assert tuple(found.values()) == spectral_distance(sound.reference, sound.heard, "paper")
    assert found.keys() == Spectral.facts.keys() == {"spectral", "spectral_linear", "spectral_log"}
    assert found["spectral"] == pytest.approx(found["spectral_linear"] + found["spectral_log"], rel=1e-15)
    assert all(facts.better == -1 for facts in Spectral.facts.values())


def test_a_part_that_is_not_there_or_an_unknown_definition_is_one_line():
    with pytest.raises(
        BlendbenchError, match=re.escape("no part 'voice', it has reference, other; name another")
    ) as caught:
        Spectral("voice").measure(Compared(noise(3000), noise(3000)))
    assert isinstance(caught.value, ClipError)
    with pytest.raises(BlendbenchError, match="definition=mine: there is no such Spectral; give code or paper"):
        Spectral(definition="mine")
    with pytest.raises(BlendbenchError, match="give code or paper"):
        spectral_distance(noise(3000), noise(3000), "mine")


def test_settings_keep_values_apart_and_are_told():
    made = [Spectral(), Spectral("background"), Spectral(definition="paper")]
    assert len({str(metric.signature()) for metric in made}) == 3
    told = [metric.recipe("spectral", None) for metric in made]
    assert "mean over windows, of power" in told[0] and "sum over windows, of magnitude" in told[2]


def test_the_entry_builds_it():
    entry = compose(["metric=spectral"])["metric"]["spectral"]
    metric = config.build(entry, "metric.spectral", [])
    assert (type(metric), metric.part, metric.definition) == (Spectral, "reference", "code")
