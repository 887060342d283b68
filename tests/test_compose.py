"""The command `blendbench compose`: a piece from nothing, from a recording, or going on with one."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.msanii import tiny_msanii, tone
from support.worlds import call

from blendbench.methods import _msanii

RATE = 44_100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_msanii(tmp_path_factory.mktemp("msanii"))


@pytest.fixture
def quick(model: Path) -> list[str]:
    return [f"msanii.checkpoint={model}", "method.phase.iterations=2"]


def read(folder: Path) -> tuple[np.ndarray, dict]:
    wave, rate = soundfile.read(folder / "music.wav", always_2d=True)
    assert rate == RATE
    return wave.T, json.loads((folder / "compose.json").read_text())


def test_a_piece_comes_of_nothing(quick, tmp_path, capsys):
    assert call("compose", "--seconds", "3", "--out", str(tmp_path / "a"), *quick, "method.steps=5") == 0
    wave, told = read(tmp_path / "a")
    assert wave.shape == (1, 3 * RATE) and told["seconds"] == 3.0 and told["beyond_training"]
    assert told["recipe"]["method"]["steps"] == 5 and told["recipe"]["file"] is None
    assert (tmp_path / "a" / "music.png").is_file() and not list((tmp_path / "a").glob("state*"))
    assert "3 s of music in" in capsys.readouterr().out
    assert call("compose", "--seconds", "3", "--out", str(tmp_path / "b"), *quick, "method.steps=5", "seed=1") == 0
    assert not np.array_equal(wave, read(tmp_path / "b")[0])


def test_two_channels_of_a_model_of_one_are_alike(quick, tmp_path):
    words = [*quick, "method.steps=3", "form.channels=2"]
    assert call("compose", "--seconds", "1", "--out", str(tmp_path), *words) == 0
    wave, _ = read(tmp_path)
    assert wave.shape == (2, RATE) and np.array_equal(wave[0], wave[1])


def test_a_recording_of_any_rate_is_changed(quick, tmp_path):
    file = tone(tmp_path / "own.wav", 2, 330.0, channels=2, rate=48_000)
    assert call("compose", "--from", str(file), "--strength", "200", "--out", str(tmp_path / "o"), *quick,
                "method.steps=4") == 0  # fmt: skip
    wave, told = read(tmp_path / "o")
    assert wave.shape == (2, 2 * RATE) and told["recipe"]["method"]["t"] == 200
    assert (tmp_path / "o" / "recording.png").is_file()


def test_a_recording_goes_on_and_stays_as_it_was(quick, tmp_path):
    file = tone(tmp_path / "own.wav", 4, 330.0, channels=2)
    words = [*quick, "method.steps=10", "method.jump=5", "method.resample=2", "form.seconds=2"]
    assert call("compose", "--continue", str(file), "--seconds", "3", "--out", str(tmp_path / "o"), *words) == 0
    wave, told = read(tmp_path / "o")
    assert wave.shape == (2, 7 * RATE) and told["seconds"] == 7.0
    own = soundfile.read(file)[0].T
    gain = 10 ** (-told["attenuation_db"] / 20)
    assert np.allclose(wave[:, : 4 * RATE - 441], gain * own[:, :-441], atol=1e-6)
    assert np.abs(wave[:, 4 * RATE :]).max() > 0


def test_a_stopped_piece_goes_on(quick, tmp_path, monkeypatch, capsys):
    """Stopped at the seventh call of ten, and given again: the rest is done, and the sound is the same."""
    words = [*quick, "method.steps=10"]
    assert call("compose", "--seconds", "2", "--out", str(tmp_path / "whole"), *words) == 0
    monkeypatch.setattr(_msanii, "KEPT_EVERY", 0.0)
    keep, calls = _msanii.State.keep, []

    def stopping(self: _msanii.State, number: int, *rest: object, **more: object) -> None:
        keep(self, number, *rest, **more)
        calls.append(number)
        if number == 7 and calls.count(7) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(_msanii.State, "keep", stopping)
    again = ["compose", "--seconds", "2", "--out", str(tmp_path / "parts"), *words]
    assert call(*again) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert list((tmp_path / "parts").glob("state*"))
    assert call(*again) == 0
    assert calls[7:] == [8, 9, 10]
    assert np.array_equal(read(tmp_path / "whole")[0], read(tmp_path / "parts")[0])


def test_what_goes_on_goes_on_when_it_was_stopped(quick, tmp_path, monkeypatch):
    file = tone(tmp_path / "own.wav", 2, 330.0)
    words = [*quick, "method.steps=10", "method.jump=5", "method.resample=2"]
    command = ["compose", "--continue", str(file), "--seconds", "2", *words]
    assert call(*command, "--out", str(tmp_path / "whole")) == 0
    monkeypatch.setattr(_msanii, "KEPT_EVERY", 0.0)
    keep, count = _msanii.State.keep, [0]

    def stopping(self: _msanii.State, *rest: object, **more: object) -> None:
        keep(self, *rest, **more)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == 22:  # within the second span
            raise KeyboardInterrupt

    monkeypatch.setattr(_msanii.State, "keep", stopping)
    assert call(*command, "--out", str(tmp_path / "parts")) == 130
    assert call(*command, "--out", str(tmp_path / "parts")) == 0
    assert np.array_equal(read(tmp_path / "whole")[0], read(tmp_path / "parts")[0])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--seconds", "0"], 2, "--seconds 0.0: give a number above 0"),
        (["--strength", "100"], 2, "--strength belongs to --from FILE"),
        (["--from", "{file}", "--seconds", "3"], 2, "--seconds: a changed piece is as long as the recording"),
        (["--from", "{file}", "--continue", "{file}"], 2, "not allowed with"),
        (["--from", "{file}", "--strength", "1001"], 1, "t is 1001; give a time within 0..1000"),
        (["--from", "nowhere.wav"], 1, "nowhere.wav: no such file"),
        (["--from", "{text}"], 1, "text.wav: "),
        (["--from", "{silent}"], 1, "silent"),
        (["--from", "{three}"], 1, "3 channels; give a file of one or two"),
        (["--from", "{short}"], 1, "short.wav"),
        (["msanii.checkpoint=/nowhere"], 1, "/nowhere: no checkpoint"),
    ],
)
def test_what_cannot_be_is_one_line(quick, tmp_path, capsys, words, status, message):
    files = {
        "file": tone(tmp_path / "own.wav", 2, 330.0), "silent": tone(tmp_path / "silent.wav", 2, 330.0, level=0.0),
        "three": tone(tmp_path / "three.wav", 2, 330.0, channels=3), "short": tone(tmp_path / "short.wav", 0.01, 330.0),
        "text": tmp_path / "text.wav",
    }  # fmt: skip
    files["text"].write_text("no sound")
    given = [word.format(**files) for word in words]
    base = [word for word in quick if not any(other.startswith("msanii.") for other in words) or "phase" in word]
    assert call("compose", "--out", str(tmp_path / "o"), *given, *base) == status
    said = capsys.readouterr().err.strip()
    assert message in said and len([line for line in said.splitlines() if line.startswith("blendbench:")]) <= 1
