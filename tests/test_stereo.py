"""Sounds of several channels, from files of music to files of music."""

import hashlib
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import music_sound

from blendbench.datasets import MusicClip
from blendbench.datasets.reading import read_music
from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio, checks, files

RATE = audio.SAMPLE_RATE


def channels_of(count: int, seconds: float = 1.0) -> np.ndarray:
    """Different music in each channel, [channels, samples]."""
    return np.stack([music_sound(number, seconds) for number in range(count)])


def written(path: Path, channels: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, channels.T, rate, subtype="FLOAT")
    return path


# Reading


@pytest.mark.parametrize("count", [2, 6])
def test_channels_are_read_as_they_are(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(count))
    waveform = files.read(path, channels=count)
    assert waveform.shape == (count, RATE)
    assert waveform.dtype == torch.float32
    np.testing.assert_array_equal(waveform.numpy(), soundfile.read(path, dtype="float32")[0].T)
    span, rate = files.read_span(path, 0.25, 0.5, channels=count)
    assert (span.shape, rate) == ((count, RATE // 4), RATE)
    assert torch.equal(span, waveform[:, RATE // 4 : RATE // 2])


@pytest.mark.parametrize("rate", [8_000, 44_056, 48_000])
@pytest.mark.parametrize("part", [{}, {"start": 0.33337, "max_seconds": 0.5}], ids=["whole", "part"])
def test_each_channel_is_resampled_as_if_alone(rate: int, part: dict, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(2), rate)
    waveform = files.read(path, **part, channels=2)
    for number, channel in enumerate(waveform):
        assert torch.equal(channel, files.read(path, **part, channel=number))


def test_long_file_is_read_in_blocks_as_its_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "a.wav", channels_of(2, 4.0), 48_000)
    whole = [files.read(path, channels=2), files.read(path), files.read(path, start=1.1, max_seconds=2.3, channels=2)]
    monkeypatch.setattr(files, "BLOCK_VALUES", 10_000)
    again = [files.read(path, channels=2), files.read(path), files.read(path, start=1.1, max_seconds=2.3, channels=2)]
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_mono_file_is_repeated(rate: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(1), rate)
    waveform = files.read(path, channels=3)
    assert waveform.shape[0] == 3
    assert all(torch.equal(channel, files.read(path)) for channel in waveform)


def test_one_channel_taken_is_repeated(tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(3))
    right = files.read(path, channel=1)
    assert torch.equal(files.read(path, channel=1, channels=2), right.expand(2, -1))
    with pytest.raises(ClipError, match="has 3 channels"):
        files.read(path, channel=3, channels=2)


@pytest.mark.parametrize(("found", "wanted"), [(6, 2), (2, 3), (3, 2)])
def test_file_of_another_number_of_channels_is_refused(found: int, wanted: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(found))
    for read in (lambda: files.read(path, channels=wanted), lambda: files.read_span(path, 0, 1, channels=wanted)):
        with pytest.raises(ClipError, match=rf"a\.wav: has {found} channels, not 1 or {wanted}; mix it down") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1])
def test_no_channels_are_a_value_error(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(1))
    for read in (lambda: files.read(path, channels=count), lambda: files.read_span(path, 0, 1, channels=count)):
        with pytest.raises(ValueError, match=f"channels must be 1 or more, not {count}"):
            read()


def test_opposite_phases_are_heard_in_two_channels_and_not_in_one(tmp_path: Path):
    left = channels_of(1)
    path = written(tmp_path / "a.wav", np.concatenate([left, -left]))
    waveform = files.read(path, channels=2)
    assert torch.equal(waveform[0], -waveform[1])
    with pytest.raises(ClipError, match="its channels cancel out"):
        files.read(path)


def test_file_is_silent_if_all_its_channels_are(tmp_path: Path):
    sound = channels_of(2)
    files.read(written(tmp_path / "half.wav", sound * [[0], [1]]), channels=2)
    with pytest.raises(ClipError, match=r"none\.wav: is digital silence"):
        files.read(written(tmp_path / "none.wav", 0 * sound), channels=2)
    with pytest.raises(ClipError, match=r"constant\.wav: holds one constant value \(0\.1\)"):
        files.read(written(tmp_path / "constant.wav", 0 * sound + [[0.1], [0.2]]), channels=2)


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_samples_that_are_not_finite_are_counted_over_all_blocks(rate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sound = channels_of(2)
    sound[1, [10, 20_000]] = math.nan
    path = written(tmp_path / "a.wav", sound, rate)
    monkeypatch.setattr(files, "BLOCK_VALUES", 10_000)
    for read in (lambda: files.read(path, channels=2), lambda: files.read_span(path, 0, 2, channels=2)):
        with pytest.raises(ClipError, match=f"2 of {2 * RATE} samples are NaN"):
            read()
    with pytest.raises(ClipError, match=f"2 of {RATE} samples are NaN"):
        files.read(path)


def test_cut_off_file_is_refused_with_several_channels(tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(2))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ClipError, match="truncated"):
        files.read(path, channels=2)


def test_reading_takes_little_beside_its_result(tmp_path: Path):
    path = written(tmp_path / "a.wav", np.tile(channels_of(2, 4.0), 15), 48_000)
    tracemalloc.start()
    try:
        waveform = files.read(path, channels=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy's memory: the blocks that the result is joined of, and a few more of 4 MB each.
    assert peak < waveform.numel() * 4 + 32e6


@pytest.mark.parametrize("count", [1, 2])
def test_music_is_read_in_as_many_channels_as_wanted_and_looped(count: int, tmp_path: Path):
    path = written(tmp_path / "a.wav", channels_of(count, 2.0), 48_000)
    clip = MusicClip("a", path, "", "", "a", start=0.5)
    long, short, mono = (read_music(clip, RATE, *asked) for asked in ((4.0, 2), (0.7, 2), (0.7,)))
    assert (long.shape, short.shape, mono.shape) == ((2, 4 * RATE), (2, round(0.7 * RATE)), (round(0.7 * RATE),))
    once = files.read(path, start=0.5, channels=2)
    assert torch.equal(long, audio.extend_circular(once, 4 * RATE))
    assert torch.equal(short, once[:, : short.shape[1]])
    torch.testing.assert_close(mono, short.mean(0), atol=1e-6, rtol=0)
    with pytest.raises(ClipError, match="channel"):
        read_music(MusicClip("a", written(tmp_path / "b.wav", channels_of(3)), "", "", "a"), RATE, 1.0, 2)


# Checking


def test_channels_from_elsewhere_are_checked_by_the_same_rules():
    good = torch.from_numpy(channels_of(2)).float()
    checks.check_waveform(good, "good")
    checks.check_waveform(good * torch.tensor([[0.0], [1.0]]), "one of them")
    for waveform, reason in [
        (0 * good, "digital silence"),
        (good * 1e-4, "below the -70 LUFS gate"),
        (0 * good + torch.tensor([[0.1], [-0.2]]), "one constant value"),
        (good[:, :0], "0 samples"),
        (good[:0], r"shape \[0, 44100\]"),
        (good[:, :15_000], "shorter than"),
        (torch.full_like(good, math.inf), "88200 of 88200 samples"),
    ]:
        with pytest.raises(ClipError, match=f"^elsewhere: .*{reason}"):
            checks.check_waveform(waveform, "elsewhere")


# Writing


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3_000), st.sampled_from([("a.wav", None, 0.0), ("a.flac", None, 2**-22)]))
def test_written_channels_read_back(tmp_path_factory, count: int, samples: int, form: tuple[str, str | None, float]):
    name, subtype, tolerance = form
    path = tmp_path_factory.mktemp("written") / name
    waveform = torch.from_numpy(np.random.default_rng(samples).uniform(-1, 1, (count, samples))).float()
    digest = files.write(path, waveform, RATE, subtype)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    values, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_allclose(values.T, waveform.numpy(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_same_channels_give_the_same_bytes_at_any_time(name: str, tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2)).float()
    digest = files.write(tmp_path / name, waveform, RATE)
    content = (tmp_path / name).read_bytes()
    if name == "a.wav":
        assert struct.unpack_from("<I", content, content.index(b"PEAK") + 12) == (0,)
    assert files.write(tmp_path / name, waveform.T.contiguous().T, RATE) == digest
    assert files.write(tmp_path / name, waveform.flip(0), RATE) != digest
    assert files.write(tmp_path / name, waveform[:1], RATE) == files.write(tmp_path / name, waveform[0], RATE)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_ogg_of_two_channels_keeps_them_apart(tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2, 4.0)).float()
    files.write(tmp_path / "a.ogg", waveform, RATE)
    again = files.read(tmp_path / "a.ogg", channels=2)
    for own, other in ((0, 1), (1, 0)):
        assert np.corrcoef(again[own].numpy(), waveform[own].numpy())[0, 1] > 0.99
        assert abs(np.corrcoef(again[own].numpy(), waveform[other].numpy())[0, 1]) < 0.5


def test_peak_in_any_channel_is_not_clipped(tmp_path: Path):
    waveform = torch.from_numpy(channels_of(2)).float()
    waveform[1, 7] = 1.5
    with pytest.raises(ValueError, match=r"peak 1\.5 would be clipped by PCM_16"):
        files.write(tmp_path / "a.wav", waveform, RATE, "PCM_16")
    assert not list(tmp_path.iterdir())
    files.write(tmp_path / "a.wav", waveform, RATE)
    assert soundfile.read(tmp_path / "a.wav", dtype="float32")[0][7, 1] == 1.5


@pytest.mark.parametrize(
    ("waveform", "error", "reason"),
    [
        (torch.zeros(2, 0), ClipError, "0 samples"),
        (torch.full((2, 5), math.nan), ClipError, "10 of 10 samples"),
        (torch.zeros(9, 5), BlendbenchError, "cannot be encoded as FLAC PCM_24 at 44100 Hz in 9 channels"),
        (torch.zeros(0, 5), ValueError, r"shape \[0, 5\]"),
        (torch.zeros(1, 2, 5), ValueError, r"shape \[1, 2, 5\]"),
    ],
)
def test_channels_that_cannot_be_written_are_refused_first(waveform, error, reason: str, tmp_path: Path):
    with pytest.raises(error, match=rf"a\.flac: .*{reason}") as caught:
        files.write(tmp_path / "a.flac", waveform, RATE)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
