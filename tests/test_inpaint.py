"""`blendbench inpaint`: gaps in recordings of one's own, of any format, rate and number of channels."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import call

from blendbench.errors import BlendbenchError
from blendbench.live.streams import FileSink
from blendbench.long_blend import Output
from blendbench.methods.lpc import LPC
from blendbench.sound import audio


def tune(rate: int, channels: int = 2, seconds: float = 30.0) -> np.ndarray:
    """A bar of four seconds again and again, [frames, channels]; the right channel softer and a fifth higher."""
    draw, bar = np.random.default_rng(3), round(4 * rate)
    made = np.zeros((bar, channels))
    for start in range(0, bar, rate // 4):
        pitch = 220 * 2 ** (draw.integers(0, 24) / 12)
        at = np.arange(bar) / rate
        for channel in range(channels):
            tone = np.exp(-5 * at) * np.sin(2 * np.pi * pitch * 1.5**channel * at) / (1 + channel)
            made[:, channel] += np.roll(tone, start)
    whole = np.tile(made, (int(np.ceil(seconds * rate / bar)), 1))[: round(seconds * rate)]
    return 0.5 * whole / np.abs(whole).max()


def written(path: Path, sound: np.ndarray, rate: int, subtype: str) -> Path:
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


def inpaint(file: Path, out: Path, *words: str, method: str = "sim") -> int:
    return call("inpaint", str(file), "--method", method, "--out", str(out), *words)


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        (".wav", "PCM_16", 44_100, 1),
        (".wav", "PCM_U8", 22_050, 1),
        (".flac", "PCM_24", 48_000, 2),
        (".wav", "FLOAT", 44_100, 2),
        pytest.param(".aiff", "PCM_16", 32_000, 3, marks=pytest.mark.soak),
        pytest.param(".wav", "PCM_32", 96_000, 1, marks=pytest.mark.soak),
    ],
)
def test_what_lies_outside_the_gaps_keeps_its_bits(tmp_path, suffix, subtype, rate, channels):
    true, gaps = tune(rate, channels), [(9.3, 10.8), (20.0, 21.2)]
    inside = np.zeros(len(true), bool)
    for start, stop in gaps:
        inside[round(start * rate) : round(stop * rate)] = True
    file = written(tmp_path / f"tune{suffix}", true * ~inside[:, None], rate, subtype)
    words = [word for gap in gaps for word in ("--gap", *map(str, gap))]
    assert inpaint(file, tmp_path / "out", *words, "method.search.refine=context") == 0
    made = tmp_path / "out" / f"repaired{suffix}"
    assert soundfile.info(made).subtype == subtype and soundfile.info(made).samplerate == rate
    kind = "float64" if subtype == "FLOAT" else "int32"
    before, after = (soundfile.read(one, dtype=kind, always_2d=True)[0] for one in (file, made))
    assert after.shape == before.shape and np.array_equal(after[~inside], before[~inside])
    # The tune comes again, so the guide is what was there, in each channel.
    error = soundfile.read(made, always_2d=True)[0][inside] - true[inside]
    coarse = 2 / 128 if subtype == "PCM_U8" else 0.0
    for channel in range(channels):
        allowed = 0.1 * np.sqrt(np.mean(true[inside][:, channel] ** 2)) + coarse
        assert np.sqrt(np.mean(error[:, channel] ** 2)) < allowed
    facts = json.loads((tmp_path / "out" / "inpaint.json").read_text())
    assert facts["exact"] and facts["left"] == 0 and [(gap["start"], gap["stop"]) for gap in facts["gaps"]] == gaps
    for gap in facts["gaps"]:
        assert Path(gap["guide"]["file"]) == file and gap["guide"]["distance"] < 0.2
    assert len(soundfile.read(tmp_path / "out" / "gap-2-after.wav")[0]) == -(-262_144 * rate // 44_100)


def test_a_fill_meets_the_recording_at_both_edges(tmp_path):
    rate = 44_100
    draw = np.random.default_rng(0)
    smooth = audio.resample(torch.from_numpy(draw.standard_normal(30 * 2000) * 0.1), 2000, rate).numpy()
    file = written(tmp_path / "smooth.wav", smooth, rate, "FLOAT")
    assert inpaint(file, tmp_path / "out", "--gap", "10", "12") == 0
    after = soundfile.read(tmp_path / "out" / "repaired.wav")[0]
    steps = np.abs(np.diff(after))
    usual = np.abs(np.diff(smooth)).max()
    for edge in (10 * rate, 12 * rate):
        assert steps[edge - 441 : edge + 441].max() < 2 * usual


def test_what_is_in_a_gap_is_not_listened_to(tmp_path):
    """Not even where it is no sound at all; and a gap filled before counts as observed for the next."""
    rate = 44_100
    sound = tune(rate, 1)
    worse = sound.copy()
    worse[10 * rate : 12 * rate] = np.nan
    for name, values in (("one", sound), ("other", worse)):
        file = written(tmp_path / f"{name}.wav", values, rate, "FLOAT")
        assert inpaint(file, tmp_path / name, "--gap", "10", "12", method="lpc") == 0
    one, other = (soundfile.read(tmp_path / name / "repaired.wav")[0] for name in ("one", "other"))
    assert np.array_equal(one, other) and np.isfinite(one).all()


def test_a_lossy_file_comes_back_as_it_was_decoded(tmp_path):
    file = tmp_path / "tune.mp3"
    soundfile.write(file, tune(44_100, 1), 44_100, format="MP3")
    assert inpaint(file, tmp_path / "out", "--gap", "10", "11", method="lpc") == 0
    before, after = (soundfile.read(one, dtype="float32")[0] for one in (file, tmp_path / "out" / "repaired.wav"))
    assert not json.loads((tmp_path / "out" / "inpaint.json").read_text())["exact"]
    changed = np.flatnonzero(np.abs(before - after) > 1e-6)
    assert changed.min() >= 441_000 and changed.max() < 485_100


def test_other_recordings_may_be_the_guide(tmp_path):
    """A file that never repeats, whose missing part lies in another one."""
    rate = 44_100
    draw = np.random.default_rng(1)
    noise = 0.1 * draw.standard_normal(20 * rate)
    file = written(tmp_path / "short.wav", noise[: 8 * rate], rate, "PCM_16")
    (tmp_path / "more" / "deep").mkdir(parents=True)
    written(tmp_path / "more" / "deep" / "all.flac", noise, rate, "PCM_16")
    assert inpaint(file, tmp_path / "out", "--gap", "3.5", "5", "--corpus", str(tmp_path / "more")) == 0
    true, made = noise[: 8 * rate], soundfile.read(tmp_path / "out" / "repaired.wav")[0]
    assert np.abs(true - made).max() < 1e-3


def test_what_is_done_is_written_when_stopped(tmp_path, monkeypatch, capsys):
    file = written(tmp_path / "tune.wav", tune(44_100, 1), 44_100, "PCM_16")
    generate, calls = LPC.generate, []

    def stopped(self, given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, given)

    monkeypatch.setattr(LPC, "generate", stopped)
    assert inpaint(file, tmp_path / "out", "--gap", "10", "11", "--gap", "20", "21", method="lpc") == 130
    assert "stopped; 1 gaps are as they were" in capsys.readouterr().err
    before, after = (soundfile.read(one, dtype="int16")[0] for one in (file, tmp_path / "out" / "repaired.wav"))
    changed = np.flatnonzero(before != after)
    assert changed.min() >= 441_000 and changed.max() < 485_100 and len(changed) > 40_000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--gap: none given; say where, in seconds"),
        (["--gap", "5", "5"], "--gap 5 5: gap [220500, 220500) of 441000 samples is empty"),
        (["--gap", "0", "1"], "lies at an edge"),
        (["--gap", "9", "11"], "lies at an edge"),
        (["--gap", "3", "5", "--gap", "4", "6"], "--gap 4 6: touches the gap before; give both as one"),
        (["--gap", "nan", "5"], "--gap nan 5: give two times in seconds"),
        (["--gap", "3", "5"], "gap at 3 to 5 s: longest of 2 corpus parts has 220500 samples, the clip 262144"),
        (["--gap", "3", "5", "--corpus", "nowhere"], "--corpus nowhere: no sound file there; give a folder of music"),
        (["--gap", "3", "5", "task=blend"], "fills no gaps; leave it out"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, told):
    file = written(tmp_path / "tune.wav", tune(44_100, 1, 10.0), 44_100, "PCM_16")
    assert inpaint(file, tmp_path / "out", *words) in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_bad_files_are_one_line(tmp_path, capsys):
    rate = 44_100
    sound = tune(rate, 1, 10.0)
    (tmp_path / "text.wav").write_text("no sound")
    silent = written(tmp_path / "silent.wav", np.zeros(10 * rate), rate, "PCM_16")
    broken = sound.copy()
    broken[6 * rate] = np.nan
    nan = written(tmp_path / "nan.wav", broken, rate, "FLOAT")
    own = written(tmp_path / "repaired.wav", sound, rate, "PCM_16")
    for file, out, told in (
        (tmp_path / "text.wav", "out", "text.wav: not audio"),
        (tmp_path / "none.wav", "out", "none.wav: no such file"),
        (silent, "out", "silent"),
        (nan, "out", "nan.wav: "),
        (own, ".", "repaired.wav there is the recording itself; give another folder"),
    ):
        assert inpaint(file, tmp_path / out, "--gap", "3", "5", method="lpc") == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line, line
    assert soundfile.info(own).frames == 10 * rate


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line(tmp_path, capsys):
    file = written(tmp_path / "tune.wav", tune(44_100, 1), 44_100, "PCM_16")
    with files_of_at_most(1_600_000):
        assert inpaint(file, tmp_path / "out", "--gap", "9", "10", method="lpc") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]
    assert len(said) == 1 and "repaired.wav: cannot be written on (System error); free space" in said[0]
    assert not (tmp_path / "out" / "repaired.wav").exists() and not list((tmp_path / "out").glob(".*"))


def test_a_full_disk_is_one_error_where_sound_is_streamed_to_a_file(tmp_path):
    block = torch.zeros(1, 200_000)
    with files_of_at_most(500_000):
        sink = FileSink(tmp_path / "live.wav", 1)
        with pytest.raises(BlendbenchError, match=r"live\.wav: cannot be written on"):
            sink.write(block)
        with (
            pytest.raises(BlendbenchError, match=r"mix\.wav: cannot be written on"),
            Output(tmp_path, ("mix",), 1, 200_000) as output,
        ):
            output.write(mix=block)
