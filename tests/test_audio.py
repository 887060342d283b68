"""Reading, checking, writing, levelling and combining sounds."""

import hashlib
import math
import os
import re
import resource
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal
from support.audio_corpus import CORPUS, Case, make, sound

from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio, checks, files

RATE = audio.SAMPLE_RATE
BRIEF = settings(max_examples=50, deadline=None)


def tone(frequency: float, rate: int = RATE, seconds: float = 2.0, amplitude: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * frequency * time)).float()


def hiss(channels: int, samples: int, seed: int = 0) -> torch.Tensor:
    """Noise [channels, samples], each channel quieter than the one before."""
    values = np.random.default_rng(seed).standard_normal((channels, samples)) * 0.1
    return torch.from_numpy(values * 0.7 ** np.arange(channels)[:, None]).float()


def level_and_frequency(waveform: torch.Tensor, rate: int) -> tuple[float, float]:
    """Amplitude and frequency, in Hz, of the strongest sine, by a parabola through the peak of a Hann spectrum."""
    window = torch.hann_window(len(waveform), dtype=torch.float64)
    spectrum = torch.fft.rfft(waveform.double() * window).abs()
    peak = int(spectrum[1:-1].argmax()) + 1
    left, centre, right = (float(torch.log(spectrum[peak + step])) for step in (-1, 0, 1))
    shift = 0.5 * (left - right) / (left - 2 * centre + right)
    rms = math.sqrt(float((waveform.double() ** 2 * window**2).sum() / (window**2).sum()))
    return rms * math.sqrt(2), (peak + shift) * rate / len(waveform)


def as_float32_tensors(length: int = 200, bound: float = 100.0):
    shape = st.integers(1, length)
    values = st.floats(-bound, bound, width=32)
    return shape.flatmap(lambda n: hnp.arrays(np.float32, n, elements=values)).map(torch.from_numpy)


# Reading


@pytest.mark.parametrize("name", [name for name in CORPUS if name != "hour_long.wav"])
def test_each_file_is_read_whole_or_refused_in_one_line(name: str, tmp_path: Path):
    case: Case = make(name, tmp_path)
    if case.expected == "ok":
        waveform = files.read(case.path)
        assert waveform.dtype == torch.float32
        assert waveform.ndim == 1
        assert torch.isfinite(waveform).all()
        assert case.seconds is not None
        assert abs(len(waveform) - case.seconds * RATE) <= 1
        assert math.isfinite(audio.integrated_loudness(waveform, RATE))
    else:
        with pytest.raises(ClipError, match=case.expected) as caught:
            files.read(case.path)
        message = str(caught.value)
        assert "\n" not in message
        assert name.replace("\n", "\\n") in message
        assert ";" in message  # a remedy follows


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ALAW"])
def test_sample_formats_agree_within_their_resolution(subtype: str, tmp_path: Path):
    path = make(f"wav_{subtype.lower()}.wav", tmp_path).path
    tolerance = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-22, "ALAW": 0.02}.get(subtype, 1e-7)
    np.testing.assert_allclose(files.read(path).numpy(), sound(), atol=tolerance)


def test_channels_are_averaged(tmp_path: Path):
    waveform = files.read(make("six_channels.wav", tmp_path).path)
    mean_gain = np.mean([0.9**index for index in range(6)])
    np.testing.assert_allclose(waveform.numpy(), mean_gain * sound(), atol=2**-14)


def test_content_decides_the_format_not_the_name(tmp_path: Path):
    inside = files.read(make("ogg_inside.wav", tmp_path).path)
    np.testing.assert_allclose(inside.numpy(), files.read(make("plain.ogg", tmp_path).path).numpy(), atol=1e-6)


def test_part_of_an_hour_is_read_without_the_rest(tmp_path: Path):
    path = make("hour_long.wav", tmp_path).path
    tracemalloc.start()
    try:
        beginning = files.read(path, max_seconds=5)
        late = files.read(path, max_seconds=5, start=3595)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(beginning) == len(late) == 5 * RATE
    assert peak_bytes < 12e6  # the whole file is 115 MB as float32 at its own rate
    with pytest.raises(ClipError, match=r"ends at 3600\.000 s"):
        files.read(path, max_seconds=5, start=3600)


@pytest.mark.parametrize("name", ["rate_8000.wav", "rate_44056.wav", "rate_48000.wav", "wav_float.wav", "plain.flac"])
@pytest.mark.parametrize("start", [0.0, 0.1, 0.33337])
def test_part_equals_the_same_part_of_the_whole(name: str, start: float, tmp_path: Path):
    path = make(name, tmp_path).path
    first = round(start * RATE)
    part = files.read(path, start=start, max_seconds=0.5)
    assert len(part) == RATE // 2
    torch.testing.assert_close(part, files.read(path)[first : first + RATE // 2], atol=1e-6, rtol=0)
    rest = files.read(path, start=start)
    torch.testing.assert_close(rest, files.read(path)[first:], atol=1e-6, rtol=0)


def test_shorter_part_may_be_allowed(tmp_path: Path):
    path = make("short_0.2s.wav", tmp_path).path
    assert len(files.read(path, min_seconds=0)) == round(0.2 * RATE)


def test_part_too_short_at_the_end_of_the_file_is_refused(tmp_path: Path):
    path = make("wav_float.wav", tmp_path).path
    with pytest.raises(ClipError, match=r"lasts 0\.1 s"):
        files.read(path, start=0.9)


@pytest.mark.parametrize(
    "arguments",
    [{"start": -1}, {"start": math.nan}, {"max_seconds": 0}, {"max_seconds": 0.1}, {"sample_rate": 0}],
    ids=str,
)
def test_senseless_request_is_a_value_error(arguments: dict, tmp_path: Path):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        files.read(make("wav_float.wav", tmp_path).path, **arguments)


@pytest.mark.parametrize("path", ["a\0b.wav", "x" * 300 + ".wav", "\ud800.wav"], ids=["nul", "too long", "surrogate"])
def test_impossible_path_is_refused(path: str):
    with pytest.raises(ClipError, match="cannot be read") as caught:
        files.read(path)
    str(caught.value).encode()


def test_special_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ClipError, match="not a regular file"):
        files.read(tmp_path / "pipe.wav")


def test_unreadable_file_is_refused(tmp_path: Path):
    path = make("wav_float.wav", tmp_path).path
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ClipError, match="permission denied"):
            files.read(path)
    finally:
        os.seteuid(user)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_corrupt_bytes_never_escape_as_another_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    path = tmp_path_factory.mktemp("corrupt") / "corrupt.wav"
    soundfile.write(
        path, sound(8_000, 0.5), 8_000, subtype=data.draw(st.sampled_from(["PCM_16", "IMA_ADPCM", "FLOAT"]))
    )
    content = bytearray(path.read_bytes())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[position] = value
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert torch.isfinite(files.read(path, max_seconds=0.5)).all()
    except ClipError as error:
        assert "corrupt.wav" in str(error)


@pytest.mark.parametrize("format", ["MP3", "OGG"])
def test_a_compressed_file_reads_alike_in_parts_and_from_anywhere(format: str, tmp_path: Path, monkeypatch):
    """An MP3's decoder leans on the frames before the one asked for."""
    draw, at = np.random.default_rng(3), np.arange(4 * RATE) / RATE
    pitches = 220 * 2 ** (draw.integers(0, 24, 16) / 12)
    tones = [np.exp(-5 * at) * np.sin(2 * np.pi * pitch * at) for pitch in pitches]
    bar = sum(np.roll(tone, place * RATE // 4) for place, tone in enumerate(tones))
    path = tmp_path / f"a.{format.lower()}"
    soundfile.write(path, np.tile(0.5 * bar / np.abs(bar).max(), 3), RATE, format=format)
    whole = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    monkeypatch.setattr(files, "BLOCK_VALUES", 50_000)
    torch.testing.assert_close(files.read(path), whole, atol=1e-6, rtol=0)
    for start in (0.5, 3.3, 7.77, 11.0):
        first = round(start * RATE)
        torch.testing.assert_close(
            files.read_part(path, start, 0.9), whole[first : first + round(0.9 * RATE)], atol=1e-6, rtol=0
        )


# Checking


def test_tensor_from_elsewhere_is_checked_by_the_same_rules():
    checks.check_waveform(tone(440), "good")
    for waveform, reason in [
        (torch.zeros(RATE), "digital silence"),
        (torch.full((RATE,), 0.1), "one constant value"),
        (torch.zeros(0), "0 samples"),
        (torch.full((RATE,), math.nan), "44100 of 44100 samples"),
        (tone(440, seconds=0.39), "shorter than"),
        (tone(440).reshape(1, 2, -1), r"shape \[1, 2, 44100\]"),
        (tone(440, amplitude=1e-4), "below the -70 LUFS gate"),
    ]:
        with pytest.raises(ClipError, match=f"^elsewhere: .*{reason}"):
            checks.check_waveform(waveform, "elsewhere")


def test_sound_late_in_a_long_silence_counts():
    waveform = torch.zeros(25 * RATE)
    waveform[-RATE // 2 :] = tone(440, seconds=0.5)
    checks.check_waveform(waveform, "late")


# Writing


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [("a.wav", None, 0.0), ("a.wav", "PCM_16", 2**-15), ("a.flac", None, 2**-22), ("deep/er/a.FLAC", "PCM_16", 2**-15)],
)
def test_written_file_reads_back(name: str, subtype: str | None, tolerance: float, tmp_path: Path):
    waveform = torch.from_numpy(sound()).float()
    digest = files.write(tmp_path / name, waveform, RATE, subtype)
    assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    torch.testing.assert_close(files.read(tmp_path / name), waveform, atol=tolerance, rtol=0)
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_ogg_keeps_length_and_level(tmp_path: Path):
    waveform = tone(440, seconds=30)
    files.write(tmp_path / "a.ogg", waveform, RATE)
    again = files.read(tmp_path / "a.ogg")
    assert len(again) == len(waveform)
    assert audio.integrated_loudness(again, RATE) == pytest.approx(audio.integrated_loudness(waveform, RATE), abs=0.1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_same_sound_gives_the_same_bytes_at_any_time(name: str, tmp_path: Path):
    files.write(tmp_path / name, tone(440), RATE)
    content = (tmp_path / name).read_bytes()
    if b"PEAK" in content[:200]:
        # libsndfile keeps the second of writing there.
        assert struct.unpack_from("<I", content, content.index(b"PEAK") + 12) == (0,)
    assert hashlib.sha256(content).hexdigest() == files.write(tmp_path / name, tone(440), RATE)


def test_float_wav_keeps_peaks_above_one(tmp_path: Path):
    waveform = 3 * tone(440)
    files.write(tmp_path / "loud.wav", waveform, RATE)
    torch.testing.assert_close(files.read(tmp_path / "loud.wav"), waveform, atol=0, rtol=0)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", None), ("a.ogg", None)])
def test_format_that_would_clip_refuses_peaks_above_one(name: str, subtype: str | None, tmp_path: Path):
    with pytest.raises(ValueError, match="limit_peak"):
        files.write(tmp_path / name, 3 * tone(440), RATE, subtype)
    limited, _ = audio.limit_peak(3 * tone(440))
    files.write(tmp_path / name, limited, RATE, subtype)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize(
    ("name", "waveform", "subtype", "reason"),
    [
        ("a.mp4", tone(440), None, "unknown audio extension"),
        ("a.flac", tone(440), "FLOAT", "no sample format FLOAT"),
        ("a.wav", torch.tensor([0.0, math.nan]), None, "1 of 2 samples"),
        ("a.wav", torch.zeros(0), None, "0 samples"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    name: str, waveform: torch.Tensor, subtype: str | None, reason: str, tmp_path: Path
):
    with pytest.raises(BlendbenchError, match=f"{name}: .*{reason}"):
        files.write(tmp_path / name, waveform, RATE, subtype)
    assert not list(tmp_path.iterdir())


def test_folder_below_a_file_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BlendbenchError, match=r"file/sub/a\.wav: cannot be written \(") as caught:
        files.write(tmp_path / "file" / "sub" / "a.wav", tone(440), RATE)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ClipError)


def test_target_that_is_a_folder_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(BlendbenchError, match="cannot be written"):
        files.write(tmp_path / "a.wav", tone(440), RATE)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.wav"]


def test_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path: Path):
    path = tmp_path / "a.wav"
    digest = files.write(path, tone(440, seconds=0.01), RATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(BlendbenchError, match=r"a\.wav: cannot be written \(File too large; free space"):
            files.write(path, tone(440), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_interrupted_write_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "a.wav", tone(440), RATE)
    assert not list(tmp_path.iterdir())


# Resampling


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_056, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("frequency", [100.0, 997.0, 3_500.0])
def test_tone_keeps_frequency_and_level(rate: int, frequency: float):
    resampled = audio.resample(tone(frequency, rate, seconds=1.0), rate, RATE)
    assert len(resampled) == RATE
    amplitude, found = level_and_frequency(resampled, RATE)
    assert audio.db(amplitude / 0.5) == pytest.approx(0, abs=0.01)
    assert found == pytest.approx(frequency, abs=0.05)


@pytest.mark.parametrize(
    ("orig_rate", "new_rate", "frequency"),
    [(96_000, 44_100, 30_000.0), (48_000, 44_100, 23_000.0), (44_100, 16_000, 8_100.0), (192_000, 8_000, 4_050.0)],
)
def test_tone_above_the_new_nyquist_frequency_leaves_no_alias(orig_rate: int, new_rate: int, frequency: float):
    resampled = audio.resample(tone(frequency, orig_rate, amplitude=1.0), orig_rate, new_rate)
    middle = resampled[new_rate // 4 : -new_rate // 4]  # the tone starts and ends abruptly
    assert audio.db(middle.abs().max().item()) < -90


def test_upsampled_tone_has_no_image():
    resampled = audio.resample(tone(3_000, 8_000, seconds=1.0), 8_000, RATE)
    window = torch.hann_window(RATE, dtype=torch.float64)
    spectrum = torch.fft.rfft(resampled.double() * window).abs()
    assert audio.db(float(spectrum[4_500:].max() / spectrum.max())) < -80


def test_resampling_keeps_an_impulse_in_its_place():
    impulse = torch.zeros(48_000)
    impulse[24_000] = 1.0
    assert int(audio.resample(impulse, 48_000, RATE).argmax()) == 22_050


def test_resampling_there_and_back_gives_the_sound_again():
    waveform = tone(440) + tone(5_000, amplitude=0.2)
    again = audio.resample(audio.resample(waveform, RATE, 48_000), 48_000, RATE)
    torch.testing.assert_close(again[RATE // 2 : -RATE // 2], waveform[RATE // 2 : -RATE // 2], atol=2e-5, rtol=0)


def test_resampling_takes_batches_and_the_same_rate():
    batch = torch.stack([tone(440), tone(880)])
    resampled = audio.resample(batch, RATE, 16_000)
    assert resampled.shape == (2, 32_000)
    torch.testing.assert_close(resampled[1], audio.resample(batch[1], RATE, 16_000), atol=1e-7, rtol=0)
    assert torch.equal(audio.resample(batch, RATE, RATE), batch)


@pytest.mark.parametrize("rate", [8_000, 44_056, 44_101, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_long_sound_is_resampled_in_blocks_as_scipy_does_it_whole(rate, channels, monkeypatch):
    waveform = hiss(channels, 3 * rate + 17)
    up, down = audio.rate_ratio(rate, RATE)
    taps = audio.resampling_filter(up, down).astype(np.float32)
    whole = signal.resample_poly(waveform.numpy(), up, down, axis=-1, window=taps)
    monkeypatch.setattr(audio, "BLOCK_VALUES", rate // 2)
    np.testing.assert_array_equal(audio.resample(waveform, rate, RATE).numpy(), whole)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=8), st.sampled_from([(48_000, 44_100), (3, 2), (1, 4)]))
def test_blocks_of_any_length_are_resampled_as_their_whole(lengths: list[int], rates: tuple[int, int]):
    waveform = hiss(2, sum(lengths))
    blocks = list(audio.resample_blocks(waveform.split(lengths, dim=-1), *rates))
    assert torch.equal(torch.cat(blocks, dim=-1), audio.resample(waveform, *rates))


# Loudness


@pytest.mark.parametrize(
    ("levels", "expected"),
    [([-23.0, -23.0], -23.0), ([-28.0, -28.0, -24.0, -30.0, -30.0], -23.0)],
    ids=["two channels", "five channels"],
)
def test_channels_measure_together_what_ebu_tech_3341_says(levels: list[float], expected: float):
    # Test cases 1 and 6: 20 s of a 1 kHz sine in each channel, at these peak levels.
    sine = tone(1_000, 48_000, seconds=20, amplitude=1.0)
    waveform = torch.stack([sine * audio.from_db(level) for level in levels])
    assert audio.integrated_loudness(waveform, 48_000) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_loudness_of_channels_is_pyloudnorms(channels: int, rate: int):
    waveform = hiss(channels, 3 * rate)
    waveform[:, : rate // 2] = 0
    expected = pyloudnorm.Meter(rate).integrated_loudness(waveform.double().numpy().T)
    assert audio.integrated_loudness(waveform, rate) == pytest.approx(expected, abs=1e-9)


def test_one_channel_is_as_loud_as_no_channels_and_two_equal_ones_by_3_db():
    waveform = torch.from_numpy(sound()).float()
    alone = audio.integrated_loudness(waveform, RATE)
    assert audio.integrated_loudness(waveform[None], RATE) == alone
    both = audio.integrated_loudness(waveform.expand(2, -1), RATE)
    assert both - alone == pytest.approx(10 * math.log10(2), abs=1e-6)


@pytest.mark.parametrize("shape", [(6, RATE), (0, RATE), (1, 2, RATE), ()])
def test_loudness_of_another_shape_is_a_value_error(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"^a\.wav: has (6 channels|shape)"):
        audio.integrated_loudness(torch.zeros(shape), RATE, "a.wav")


def test_channels_are_normalized_by_one_gain():
    waveform = hiss(2, 2 * RATE)
    normalized, gain_db = audio.normalize_loudness(waveform, RATE, -14.0)
    assert audio.integrated_loudness(normalized, RATE) == pytest.approx(-14.0, abs=0.002)
    torch.testing.assert_close(normalized, waveform * audio.from_db(gain_db))
    with pytest.raises(ClipError, match=r"^rain\.wav: is silent"):
        audio.normalize_loudness(torch.zeros(2, RATE), RATE, -18.0, "rain.wav")
    waveform[1, 5] = math.nan
    with pytest.raises(ClipError, match="1 of 176400 samples are NaN"):
        audio.normalize_loudness(waveform, RATE, -18.0)


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000, 96_000])
def test_full_scale_sine_of_997_hz_measures_minus_3_01_lufs(rate: int):
    # ITU-R BS.1770-4, annex 1: "If a 0 dB FS, 997 Hz sine wave is applied to the left, centre, or right channel input,
    # the indicated loudness will equal -3.01 LKFS."
    loudness = audio.integrated_loudness(tone(997, rate, seconds=5.0, amplitude=1.0), rate)
    assert loudness == pytest.approx(-3.01, abs=0.1)


def test_silence_between_sounds_is_gated():
    # EBU Tech 3341, test case 3 in one channel: the quiet parts lie more than 10 LU below the rest and do not count.
    loud, quiet = tone(1_000, seconds=30, amplitude=audio.from_db(-20)), tone(1_000, amplitude=audio.from_db(-33))
    together = torch.cat([quiet, loud, quiet])
    assert audio.integrated_loudness(together, RATE) == pytest.approx(audio.integrated_loudness(loud, RATE), abs=0.1)


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, 6.0, 30.0])
def test_loudness_follows_the_gain(gain_db: float):
    waveform = torch.from_numpy(sound()).float()
    change = audio.integrated_loudness(waveform * audio.from_db(gain_db), RATE) - audio.integrated_loudness(
        waveform, RATE
    )
    assert change == pytest.approx(gain_db, abs=1e-4)


def test_silence_has_loudness_minus_infinity():
    assert audio.integrated_loudness(torch.zeros(RATE), RATE) == -math.inf
    assert audio.integrated_loudness(tone(997, amplitude=1e-4), RATE) == -math.inf


def test_loudness_of_less_than_400_ms_is_refused():
    assert math.isfinite(audio.integrated_loudness(tone(997, seconds=0.4), RATE))
    with pytest.raises(ClipError, match=r"^rain\.wav: lasts 0\.39 s"):
        audio.integrated_loudness(tone(997, seconds=0.39), RATE, "rain.wav")
    with pytest.raises(ClipError, match="NaN"):
        audio.integrated_loudness(torch.full((RATE,), math.nan), RATE)


@pytest.mark.parametrize("target", [-40.0, -18.0, -3.0, 10.0])
def test_normalized_sound_has_the_target_loudness(target: float):
    waveform = torch.from_numpy(sound()).float()
    normalized, gain_db = audio.normalize_loudness(waveform, RATE, target)
    assert audio.integrated_loudness(normalized, RATE) == pytest.approx(target, abs=0.002)
    torch.testing.assert_close(normalized, waveform * audio.from_db(gain_db))


def test_normalizing_does_not_clip():
    normalized, _ = audio.normalize_loudness(tone(997), RATE, 6.0)
    assert normalized.abs().max() > 2


def test_quiet_clip_reaches_the_target_though_the_absolute_gate_hid_half_of_it():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(4 * RATE)).float()
    clip = torch.cat([noise * 10**-3.35, noise * 10**-3.7])
    hidden = audio.integrated_loudness(clip * 100, RATE) - 40
    assert audio.integrated_loudness(clip, RATE) - hidden > 0.5  # one gain is not enough
    normalized, _ = audio.normalize_loudness(clip, RATE, -18.0)
    assert audio.integrated_loudness(normalized, RATE) == pytest.approx(-18.0, abs=0.002)


def test_silence_cannot_be_normalized():
    for silent in (torch.zeros(RATE), tone(997, amplitude=1e-4)):
        with pytest.raises(ClipError, match=r"^rain\.wav: is silent"):
            audio.normalize_loudness(silent, RATE, -18.0, "rain.wav")


@pytest.mark.parametrize("target", [-math.inf, math.nan, math.inf, -70.0])
def test_target_at_or_below_the_gate_is_a_value_error(target: float):
    with pytest.raises(ValueError, match="target_lufs"):
        audio.normalize_loudness(tone(997), RATE, target)


# Lengths, sums, peaks


def test_short_sound_is_looped_from_its_start_and_long_cut():
    waveform = torch.arange(5.0)
    assert audio.extend_circular(waveform, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert audio.extend_circular(waveform, 3).tolist() == [0, 1, 2]
    assert audio.extend_circular(waveform, 5).tolist() == waveform.tolist()
    assert audio.extend_circular(waveform, 0).tolist() == []
    assert audio.extend_circular(waveform.expand(2, 5), 7).shape == (2, 7)


def test_extension_of_a_whole_number_of_periods_has_no_seam():
    torch.testing.assert_close(
        audio.extend_circular(tone(441, seconds=1.0), 3 * RATE), tone(441, seconds=3.0), atol=1e-6, rtol=0
    )


def test_empty_sound_cannot_be_extended():
    with pytest.raises(ValueError, match="cannot extend 0 samples"):
        audio.extend_circular(torch.zeros(0), 5)


@BRIEF
@given(as_float32_tensors(), st.integers(0, 1000))
def test_extension_has_the_length_and_repeats(waveform: torch.Tensor, samples: int):
    extended = audio.extend_circular(waveform, samples)
    assert extended.tolist() == [waveform[index % len(waveform)].item() for index in range(samples)]


@BRIEF
@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 1000))
def test_channels_are_extended_alike(channels: int, length: int, samples: int):
    waveform = hiss(channels, length)
    extended = audio.extend_circular(waveform, samples)
    assert torch.equal(extended, torch.stack([audio.extend_circular(one, samples) for one in waveform]))


def test_extension_is_a_copy():
    waveform = hiss(2, 5)
    extended = audio.extend_circular(waveform, 5)
    extended[:] = 0
    assert waveform.abs().min() > 0


def test_mono_is_the_mean_of_channels():
    waveform = hiss(3, 100)
    np.testing.assert_allclose(audio.to_mono(waveform).numpy(), waveform.numpy().mean(0), rtol=1e-5, atol=1e-8)
    assert torch.equal(audio.to_mono(waveform[0]), waveform[0])
    assert torch.equal(audio.to_mono(waveform[:1]), waveform[0])
    for shape in [(1, 2, 3), (0, 3), ()]:
        with pytest.raises(ValueError, match=r"not \[samples\] or \[channels, samples\]"):
            audio.to_mono(torch.zeros(shape))


@BRIEF
@given(as_float32_tensors())
def test_mix_is_the_sum_and_does_not_clip(noise: torch.Tensor):
    music = noise.flip(0)
    mixed = audio.mix(noise, music)
    np.testing.assert_array_equal(mixed.numpy(), noise.numpy() + music.numpy())
    assert torch.equal(mixed, audio.mix(music, noise))
    assert torch.equal(audio.mix(noise, torch.zeros_like(noise)), noise)


def test_mix_of_different_lengths_is_a_value_error():
    with pytest.raises(ValueError, match=re.escape("noise [3] and music [4]")):
        audio.mix(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="differ"):
        audio.mix(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="differ"):
        audio.mix(torch.zeros(3), torch.zeros(2, 3))


@BRIEF
@given(as_float32_tensors(), st.floats(2**-10, 200, width=32))
def test_limited_peak_never_passes_the_ceiling(waveform: torch.Tensor, ceiling: float):
    limited, attenuation_db = audio.limit_peak(waveform, ceiling)
    assert limited.abs().max().item() <= ceiling
    assert attenuation_db >= 0
    if waveform.abs().max().item() <= ceiling:
        assert attenuation_db == 0
        assert torch.equal(limited, waveform)
    else:
        assert limited.abs().max().item() == pytest.approx(ceiling)
        torch.testing.assert_close(limited, waveform * audio.from_db(-attenuation_db), rtol=1e-5, atol=1e-6)


def test_channels_are_limited_together_by_the_loudest():
    waveform = torch.stack([tone(440, amplitude=2.0), tone(880, amplitude=0.5)])
    limited, attenuation_db = audio.limit_peak(waveform)
    assert attenuation_db == pytest.approx(audio.db(2), abs=1e-3)
    torch.testing.assert_close(limited, waveform / waveform.abs().max())


def test_limiting_refuses_what_has_no_peak():
    assert audio.limit_peak(torch.zeros(0))[1] == 0
    with pytest.raises(ValueError, match="NaN or infinity"):
        audio.limit_peak(torch.tensor([1.0, math.inf]))
    with pytest.raises(ValueError, match="ceiling"):
        audio.limit_peak(torch.ones(3), 0.0)


def test_decibels_have_their_golden_values():
    assert audio.db(10) == 20
    assert audio.db(0.5) == pytest.approx(-6.020599913279624, rel=1e-12)
    assert audio.db(0) == -math.inf
    assert audio.from_db(-math.inf) == 0
    assert audio.from_db(6.020599913279624) == pytest.approx(2, rel=1e-12)
    with pytest.raises(ValueError):
        audio.db(-1)


@BRIEF
@given(st.floats(-200, 200))
def test_decibels_there_and_back(level: float):
    assert audio.db(audio.from_db(level)) == pytest.approx(level, abs=1e-9)
