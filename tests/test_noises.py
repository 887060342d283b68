"""The synthesised noises: levels, determinism, kinds that differ from one another, and a beat where there is one."""

import csv
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
import torchaudio

from blendbench.errors import BlendbenchError
from blendbench.train.data.noises import KINDS, RHYTHMIC, STEADY, noise_set, synthesize

RATE = 16000
TRAIN_SEEDS = range(3)
TEST_SEEDS = range(100, 101)


@pytest.fixture(scope="module")
def clips() -> dict[tuple[str, int], np.ndarray]:
    return {(kind, seed): synthesize(kind, seed, 5.0, RATE) for kind in KINDS for seed in [*TRAIN_SEEDS, *TEST_SEEDS]}


def log_mel_statistics(waveform: np.ndarray) -> np.ndarray:
    """Level-free spectrum, spread and speed of change of 32 log-mel bands at 16 kHz."""
    mel = torchaudio.transforms.MelSpectrogram(RATE, 1024, hop_length=160, n_mels=32)(torch.from_numpy(waveform))
    level = 10 * torch.log10(mel + 1e-8)
    level = torch.maximum(level, level.max() - 60)
    change = level.diff(dim=1).abs().mean(1)
    return torch.cat([level.mean(1) - level.mean(), level.std(1), change]).numpy()


def nearest_centroid(clips: dict, kinds: tuple[str, ...]):
    """A classifier of log-mel statistics from the training seeds."""
    features = np.array([[log_mel_statistics(clips[kind, seed]) for seed in TRAIN_SEEDS] for kind in kinds])
    centroids, scale = features.mean(1), features.std((0, 1))
    return lambda x: kinds[np.argmin((((log_mel_statistics(x) - centroids) / scale) ** 2).sum(1))]


def beat_depth(waveform: np.ndarray, rate: int) -> float:
    """Depth in dB of the envelope's periodic part: highest rise of its autocovariance after a dip, lags to 2.2 s."""
    hop = rate // 200
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    envelope = np.sqrt((frames**2).mean(1))
    db = 20 * np.log10(envelope + 0.03 * envelope.max())
    window = np.hanning(7)
    db = np.convolve(db - db.mean(), window / window.sum(), "valid")
    covariance = np.correlate(db, db, "full")[len(db) - 1 :] / np.arange(len(db), 0, -1)
    covariance = covariance[:440]
    return float(np.sqrt(np.max(covariance - np.minimum.accumulate(covariance))))


@pytest.mark.parametrize("kind", KINDS)
def test_clip_has_the_asked_length_and_an_audible_level_without_clipping(kind):
    clip = synthesize(kind, 7)
    assert clip.shape == (220500,)
    assert clip.dtype == np.float32
    assert np.isfinite(clip).all()
    assert np.abs(clip).max() < 1
    assert -45 < pyloudnorm.Meter(44100).integrated_loudness(clip.astype(float)) < -12
    assert abs(clip.mean()) < 1e-3


def test_clips_hold_no_digital_silence(clips):
    for (kind, seed), clip in clips.items():
        quietest = (clip[: len(clip) // 800 * 800].reshape(-1, 800) ** 2).mean(1).min() ** 0.5
        assert quietest > 10 ** (-80 / 20) * np.abs(clip).max(), (kind, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_shortest_clip_at_the_lowest_rate_is_audible(kind):
    for seed in range(2):
        clip = synthesize(kind, seed, 0.5, 8000)
        assert clip.shape == (4000,)
        assert np.isfinite(clip).all()
        assert np.sqrt(np.mean(clip**2)) > 1e-3


def test_steady_noise_lies_at_minus_18_lufs():
    for kind in ("mains_hum", "air_conditioner", "vacuum_cleaner", "running_water"):
        clip = synthesize(kind, 3)
        assert pyloudnorm.Meter(44100).integrated_loudness(clip.astype(float)) == pytest.approx(-18, abs=1), kind


def test_same_arguments_give_the_same_clip():
    for kind in KINDS:
        np.testing.assert_array_equal(synthesize(kind, 2, 1.0, RATE), synthesize(kind, 2, 1.0, RATE))


def test_seeds_give_different_clips(clips):
    for kind in KINDS:
        assert abs(np.corrcoef(clips[kind, 0], clips[kind, 1])[0, 1]) < 0.5, kind


def test_kinds_are_told_apart_by_log_mel_statistics(clips):
    classify = nearest_centroid(clips, KINDS)
    hits = [classify(clips[kind, seed]) == kind for kind in KINDS for seed in TEST_SEEDS]
    assert np.mean(hits) > 0.6  # chance is 1 / 24


def test_recordings_are_recognised_from_synthesised_clips(clips, shared_data: Path):
    with (shared_data / "ESC-50" / "meta" / "esc50.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["category"] in KINDS and row["fold"] == "1"]
    kinds = tuple(sorted({row["category"] for row in rows}))
    assert len(kinds) == 7
    classify = nearest_centroid(clips, kinds)
    hits = []
    for row in rows:
        waveform, rate = soundfile.read(shared_data / "ESC-50" / "audio" / row["filename"], dtype="float32")
        waveform = torchaudio.functional.resample(torch.from_numpy(waveform), rate, RATE).numpy()
        hits.append(classify(waveform) == row["category"])
    assert np.mean(hits) > 2 / 7  # twice chance


def test_rhythmic_kinds_have_a_beat_and_steady_kinds_have_none(clips):
    for (kind, seed), clip in clips.items():
        if kind in RHYTHMIC:
            assert beat_depth(clip, RATE) > 1.5, (kind, seed)
        if kind in STEADY:
            assert beat_depth(clip, RATE) < 1.2, (kind, seed)


def test_mains_hum_lies_on_harmonics_of_50_or_60_hz():
    for seed in range(4):
        clip = synthesize("mains_hum", seed, 4.0, RATE)
        power = np.abs(np.fft.rfft(clip * np.hanning(len(clip)))) ** 2
        hz = np.fft.rfftfreq(len(clip), 1 / RATE)
        shares = [power[np.abs(hz - mains * np.round(hz / mains)) < 2].sum() / power.sum() for mains in (50, 60)]
        assert max(shares) > 0.98


def test_noise_set_names_its_clips_and_grows_without_change(monkeypatch):
    monkeypatch.setattr("blendbench.train.data.noises.KINDS", ("rain", "clock_tick"))
    small = list(noise_set(1, seed=5))
    large = {clip_id: waveform for clip_id, _, waveform in noise_set(2, seed=5)}
    assert [(clip_id, kind) for clip_id, kind, _ in small] == [("rain-000", "rain"), ("clock_tick-000", "clock_tick")]
    assert list(large) == ["rain-000", "rain-001", "clock_tick-000", "clock_tick-001"]
    for clip_id, _, waveform in small:
        np.testing.assert_array_equal(waveform, large[clip_id])
    assert not np.array_equal(large["rain-000"], large["rain-001"])
    assert list(noise_set(0)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("thunder", 0), "'thunder' is unknown; choose one of air_conditioner"),
        (("rain", -1), "seed is -1"),
        (("rain", 0, 0.1), "length is 0.1 s"),
        (("rain", 0, float("nan")), "length is nan s"),
        (("rain", 0, 5.0, 4000), "sample rate is 4000 Hz"),
    ],
)
def test_malformed_arguments_are_named(arguments, message):
    with pytest.raises(BlendbenchError, match=message):
        synthesize(*arguments)


def test_kinds_are_sorted_and_hold_the_rhythmic_and_the_steady():
    assert list(KINDS) == sorted(set(KINDS))
    assert set(RHYTHMIC) | set(STEADY) < set(KINDS)
    assert not set(RHYTHMIC) & set(STEADY)
