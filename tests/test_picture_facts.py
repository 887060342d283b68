"""Picture facts: tempo up to octaves, mode, drums; of sounds made for it, and of the built-in items."""

import csv
import math
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_likeness import clicks

from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics.likeness import RATE, low
from blendbench.metrics.picture_facts import (
    PROFILES,
    PictureFacts,
    drum_flatness,
    mode_of,
    mode_of_weights,
    tempo_agrees,
    tempo_of,
)
from blendbench.resources import package_folder

NAN = float("nan")


def tone(hertz: float, seconds: float, every: float = 0.5) -> np.ndarray:
    """A tone with eight harmonics, plucked over and over; it sets in and ends softly, for a click is like a drum."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 9))
    since = time % every
    soft = np.clip(since / 0.02, 0, 1) * np.clip((every - since) / 0.02, 0, 1)
    return (0.1 * wave * soft * np.exp(-3 * since)).astype(np.float32)


def triads(*chords: tuple[int, ...]) -> np.ndarray:
    """Chords of a second each; pitches are MIDI numbers."""
    return np.concatenate([sum(tone(440 * 2 ** ((pitch - 69) / 12), 1.0) for pitch in chord) for chord in chords])


MAJOR = triads((60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67), (60, 64, 67))
MINOR = triads((57, 60, 64), (62, 65, 69), (64, 68, 71), (57, 60, 64), (57, 60, 64))


def bursts(seconds: float = 5.0) -> np.ndarray:
    """Noise struck twice a second."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.2 * noise * np.exp(-30 * (time % 0.5))).astype(np.float32)


class Sound:
    """A sound at 44.1 kHz, and its row."""

    key = "one"

    def __init__(self, wave: np.ndarray, **row: Any) -> None:
        self.wave, self.row = wave, {"inputs": "item"} | row

    def waveform(self) -> torch.Tensor:
        return torch.from_numpy(self.wave).repeat_interleave(2)


def measure(wave: np.ndarray, metric: PictureFacts | None = None, **row: Any) -> dict[str, float]:
    return (metric or PictureFacts()).measure(Sound(wave, **row))  # type: ignore[arg-type]


# Tempo


@pytest.mark.parametrize("tempo", [75.0, 88.0, 107.0, 120.0, 149.0])
def test_the_tempo_of_clicks_is_found_within_a_hundredth(tempo):
    heard = tempo_of(clicks(60 / tempo, 5.1))
    assert 75 <= heard < 150 and tempo_agrees(heard, tempo, 0.01)


@pytest.mark.parametrize("tempo", [60.0, 160.0, 200.0, 300.0])
def test_other_octaves_are_counted_in_one(tempo):
    assert tempo_agrees(tempo_of(clicks(60 / tempo, 5.1)), tempo, 0.01)


def test_half_and_double_are_right_and_two_thirds_are_not():
    assert tempo_agrees(120, 120) and tempo_agrees(60, 120) and tempo_agrees(120, 60) and tempo_agrees(480, 120)
    assert not tempo_agrees(80, 120) and not tempo_agrees(180, 120) and not tempo_agrees(90, 120)


def test_four_per_cent_are_as_much_of_any_octave():
    for octave in (0.5, 1, 2):
        assert tempo_agrees(103.9 * octave, 100) and tempo_agrees(96.1 * octave, 100)
        assert not tempo_agrees(104.1 * octave, 100) and not tempo_agrees(95.9 * octave, 100)


def test_the_share_of_tempi_that_agree_by_chance_is_a_ninth():
    drawn = 75 * 2 ** np.random.default_rng(0).random(20_000)
    assert np.mean([tempo_agrees(one, 100) for one in drawn]) == pytest.approx(math.log2(1.04 / 0.96), abs=0.01)


def test_what_has_no_onsets_or_is_short_has_no_tempo():
    assert math.isnan(tempo_of(np.zeros(5 * RATE, np.float32)))
    assert math.isnan(tempo_of(clicks(0.5, 2.9)))


# Mode


@pytest.mark.parametrize("profiles", list(PROFILES))
def test_cadences_have_their_mode(profiles):
    assert mode_of(MAJOR, profiles) == "major"
    assert mode_of(MINOR, profiles) == "minor"


@pytest.mark.parametrize("profiles", list(PROFILES))
@pytest.mark.parametrize("tonic", [0, 5, 11])
def test_a_profile_is_of_its_own_mode_in_any_key(profiles, tonic):
    for mode, profile in zip(("major", "minor"), PROFILES[profiles], strict=True):
        assert mode_of_weights(np.roll(profile, tonic), profiles) == mode


def test_what_has_no_tones_has_no_mode():
    assert mode_of_weights(np.full(12, 0.3)) is None
    assert mode_of(np.zeros(3 * RATE, np.float32)) is None


# Drums


def test_struck_noise_is_drums_and_plucked_tones_are_not():
    assert drum_flatness(bursts()) > 0.3 and drum_flatness(MAJOR + bursts()) > 0.3
    assert drum_flatness(MAJOR) < 0.2
    assert drum_flatness(bursts(), 7800.0) > 0.35


def test_level_does_not_matter_and_rounding_is_no_drum():
    assert drum_flatness(0.01 * bursts()) == pytest.approx(drum_flatness(bursts()), rel=1e-4)
    time = np.arange(5 * RATE) / RATE
    assert drum_flatness(np.sin(2 * np.pi * 220 * time).astype(np.float32)) == 0
    assert drum_flatness(np.zeros(RATE, np.float32)) == 0


# The metric


def test_what_the_row_tells_is_compared_and_the_rest_is_nan():
    music = MAJOR + 0.5 * bursts()
    told = measure(music, tempo="120", mode="major", drums="yes")
    assert told == {"tempo_agrees": 1.0, "mode_agrees": 1.0, "drums_agree": 1.0}
    wrong = measure(music, tempo=100, mode="Minor", drums=" no ")
    assert wrong == {"tempo_agrees": 0.0, "mode_agrees": 0.0, "drums_agree": 0.0}
    half = measure(music, tempo=60.5, mode="", drums=None)
    assert half["tempo_agrees"] == 1 and math.isnan(half["mode_agrees"]) and math.isnan(half["drums_agree"])


def test_a_row_without_facts_is_not_even_heard():
    class Unheard(Sound):
        def waveform(self) -> torch.Tensor:
            raise AssertionError

    found = PictureFacts().measure(Unheard(np.zeros(1)))  # type: ignore[arg-type]
    assert set(found) == set(PictureFacts.facts) and all(map(math.isnan, found.values()))


def test_silence_agrees_with_nothing_and_contradicts_nothing():
    found = measure(np.zeros(5 * RATE, np.float32), tempo="120", mode="major", drums="no")
    assert all(map(math.isnan, found.values()))


def test_a_short_sound_has_no_tempo_and_a_shorter_one_is_refused():
    short = measure(MAJOR[: 2 * RATE], tempo="120", mode="major", drums="no")
    assert math.isnan(short["tempo_agrees"]) and short["drums_agree"] == 1
    with pytest.raises(ClipError, match=r"seconds are too short"):
        measure(MAJOR[: RATE // 20], mode="major")


def test_columns_have_the_names_that_are_given():
    metric = PictureFacts(tempo="bpm", mode="key", drums="percussion")
    assert measure(MAJOR, metric, bpm="120", key="major", percussion="no")["mode_agrees"] == 1
    assert math.isnan(measure(MAJOR, metric, mode="major", bpm="120")["mode_agrees"])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"tempo": "fast"}, "tempo is 'fast'; give beats a minute, or nothing"),
        ({"tempo": "0"}, "tempo is '0'; give beats"),
        ({"tempo": -90}, "tempo is '-90'; give beats"),
        ({"tempo": "inf"}, "tempo is 'inf'; give beats"),
        ({"tempo": NAN}, "tempo is 'nan'; give beats"),
        ({"mode": "dorian"}, "mode is 'dorian'; give major or minor, or nothing"),
        ({"drums": "perhaps\n"}, "drums is 'perhaps'; give yes or no, or nothing"),
    ],
)
def test_facts_in_other_words_are_refused_by_their_column(row, why):
    with pytest.raises(ClipError, match=why):
        measure(MAJOR, **row)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tolerance": 0.0}, "tolerance=0.0: give a share"),
        ({"profiles": "mine"}, "profiles=mine: choose krumhansl or albrecht"),
        ({"highest": 20_000.0}, "highest=20000: give 6000 to 11025 Hz"),
    ],
)
def test_settings_out_of_range_are_refused(settings, why):
    with pytest.raises(BlendbenchError, match=why):
        PictureFacts(**settings)


def test_kept_values_depend_on_settings_and_on_what_the_row_tells():
    assert PictureFacts().kept_under() != PictureFacts(tolerance=0.08).kept_under()
    assert PictureFacts().kept_under() != PictureFacts(tempo="bpm").kept_under()
    keys = {PictureFacts().key(Sound(MAJOR, tempo=tempo)) for tempo in ("100", "120", None)}  # type: ignore[arg-type]
    assert len(keys) == 3


def test_recipes_tell_the_settings():
    metric = PictureFacts(tolerance=0.08, profiles="krumhansl", highest=7800.0, flatness=0.35)
    told = [metric.recipe(name, None) for name in metric.facts]  # type: ignore[arg-type]
    assert [one.rsplit(", ", 1)[1] for one in told[:2]] == ["within 8 %", "profiles=krumhansl"]
    assert told[2].endswith("above 0.35, 5 to 7.8 kHz")


def test_the_built_in_items_mostly_have_what_their_pictures_tell():
    """Rendered music of 5 s: what the metric can see of it at best."""
    folder = package_folder("blendbench.assets") / "pictured"
    if not (folder / "pictured.csv").is_file():
        pytest.skip("the built-in items of image_text are not here")
    right = []
    with (folder / "pictured.csv").open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            sound, rate = soundfile.read(folder / row["audio"], dtype="float32")
            wave = low(torch.from_numpy(sound), rate)
            drums = drum_flatness(wave) > 0.3
            right.append(
                (
                    tempo_agrees(tempo_of(wave), float(row["tempo"])),
                    mode_of(wave) == row["mode"],
                    drums == (row["drums"] == "yes"),
                )
            )
    tempo, mode, drums = np.mean(right, axis=0)
    assert len(right) >= 20
    assert tempo >= 0.85 and mode >= 0.5 and drums >= 0.9
