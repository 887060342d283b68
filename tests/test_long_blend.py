"""`blendbench blend` of whole files: any length, any number of channels, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import RATE, World, call, noise_sound

from blendbench.long_blend import NoiseFile, Output
from blendbench.sound import audio
from blendbench.sound.loudness import LoudnessMeter
from blendbench.sound.mel import mel_amplitudes
from blendbench.tasks.blend.presentation import WINDOW


def words(world: World, noise: Path, out: Path, *more: str) -> list[str]:
    own = [word for word in world.words() if not word.startswith(("dataset", "store_dir", "music"))]
    painted = [] if any(word.startswith("method=") for word in more) else ["method.griffin_lim_iterations=2"]
    return ["blend", str(noise), "--prompt", "a calm jazz piece", "--out", str(out), *own, *painted, *more]


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 seconds, the right channel later and softer than the left."""
    left = noise_sound(2, 13.0)
    file = tmp_path_factory.mktemp("stereo") / "noise.flac"
    soundfile.write(file, np.stack([left, 0.5 * np.roll(left, 2000)], axis=1), RATE)
    return file


def sound(file: Path) -> np.ndarray:
    return soundfile.read(file, dtype="float32", always_2d=True)[0]


@pytest.fixture(scope="module")
def blended(world: World, stereo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("blended") / "out"
    assert call(*words(world, stereo, out)) == 0
    return out


def test_a_whole_stereo_file_is_blended_in_stereo(blended, stereo):
    noise, mix, music = (sound(blended / f"{name}.wav") for name in ("noise", "mix", "music"))
    assert noise.shape == mix.shape == (13 * RATE, 2) and music.shape == (13 * RATE, 1)
    assert np.abs(mix - noise - music).max() < 1e-6 and np.abs(mix).max() <= 1.0 + 1e-6
    facts = json.loads((blended / "blend.json").read_text())
    lowered = 10 ** (facts["attenuation_db"] / 20)
    level = audio.integrated_loudness(torch.from_numpy(noise.mean(1) * lowered), RATE)
    assert level == pytest.approx(-18.0, abs=0.02)
    given = sound(stereo)
    gain = np.abs(noise).max() / np.abs(given).max()
    assert np.abs(noise - gain * given).max() < 1e-3
    music_level = audio.integrated_loudness(torch.from_numpy(music[:, 0] * lowered), RATE)
    assert music_level == pytest.approx(facts["music_lufs"], abs=0.02)
    assert len(facts["stage2_gains_db"]) == 4 and facts["windows"] == 4
    assert not (blended / ".blend").exists()
    # Music in every second.
    assert min(float((part**2).mean()) for part in np.split(music[:, 0], 13)) > 1e-8


def test_the_same_again_is_the_same(world, stereo, blended, tmp_path):
    assert call(*words(world, stereo, tmp_path / "out")) == 0
    assert (tmp_path / "out" / "music.wav").read_bytes() == (blended / "music.wav").read_bytes()


def test_stage_two_is_that_of_a_run(world, stereo, blended):
    """The gains that were found window by window as music came are those of the finished music at once."""
    from blendbench.tasks.blend.presentation import Blended, windows_of

    facts = json.loads((blended / "blend.json").read_text())
    lowered = 10 ** (facts["attenuation_db"] / 20)
    noise = torch.from_numpy(sound(blended / "noise.wav").mean(1) * lowered)
    gains = np.array(facts["stage2_gains_db"])
    music = torch.from_numpy(sound(blended / "music.wav")[:, 0] * lowered)
    if np.ptp(gains) > 0.01:
        pytest.skip("the gains differ, so the finished music is not the levelled one times a factor")
    leveled, _ = audio.normalize_loudness(music, RATE, -18.0)
    shown = Blended("direct", "adaptive", "")
    expected = [shown.tried(*pair).gain_db for pair in windows_of(noise, leveled)]
    assert gains == pytest.approx(expected, abs=0.05)


@pytest.mark.soak
def test_ctrl_c_leaves_what_is_done_and_the_same_command_goes_on(world, stereo, blended, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from blendbench.cli import main; main()", *words(world, stereo, out)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    raw = out / ".blend" / "music.f32"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if raw.is_file() and raw.stat().st_size > 4 * 2 * RATE:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    _, error = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the machine was faster than the signal")
    assert process.returncode == 130, error
    assert "the same command goes on" in error
    part = sound(out / "music.wav")[:, 0]
    facts = json.loads((out / "blend.json").read_text())
    assert len(part) == round(facts["made_seconds"] * RATE) < 13 * RATE and facts["stopped"]
    assert sound(out / "mix.wav").shape == (len(part), 2)
    assert call(*words(world, stereo, out)) == 0
    assert (out / "music.wav").read_bytes() == (blended / "music.wav").read_bytes()
    assert not (out / ".blend").exists() and "stopped" not in json.loads((out / "blend.json").read_text())


def test_another_prompt_does_not_go_on_from_what_is_there(world, stereo, blended, tmp_path):
    out = tmp_path / "out"
    (out / ".blend").mkdir(parents=True)
    (out / ".blend" / "music.f32").write_bytes(b"\0" * 4 * RATE)
    (out / ".blend" / "state.safetensors").write_bytes(b"damaged")
    assert call(*words(world, stereo, out)) == 0
    assert (out / "music.wav").read_bytes() == (blended / "music.wav").read_bytes()


LONGEST = ("text_to_music", "masking_guided", "musicgen_melody", "shaped")


@pytest.mark.parametrize(
    "method", ["riffusion_a2a", "random_music", *(pytest.param(name, marks=pytest.mark.soak) for name in LONGEST)]
)
def test_every_method_takes_a_long_noise(world, stereo, tmp_path, method):
    out = tmp_path / "out"
    more = [f"method={method}", "noise.seconds=9"]
    if method == "random_music":
        more += ["music=musicbench", "music.excerpt_seconds=5.0"]
    assert call(*words(world, stereo, out, *more)) == 0
    music = sound(out / "music.wav")[:, 0]
    assert len(music) == 9 * RATE and min(float((part**2).mean()) for part in np.split(music, 9)) > 1e-9
    assert json.loads((out / "blend.json").read_text())["made_seconds"] == 9.0


def test_a_number_of_seconds_cuts_as_before(world, stereo, tmp_path):
    assert call(*words(world, stereo, tmp_path / "out", "noise.seconds=3")) == 0
    assert sound(tmp_path / "out" / "mix.wav").shape == (3 * RATE, 2)
    assert (tmp_path / "out" / "core.png").is_file()


@pytest.mark.soak
def test_silence_within_a_noise_is_no_end_of_it(world, tmp_path):
    values = noise_sound(4, 16.0)
    values[3 * RATE : 14 * RATE] = 0
    soundfile.write(tmp_path / "noise.wav", values, RATE)
    assert call(*words(world, tmp_path / "noise.wav", tmp_path / "out")) == 0
    music = sound(tmp_path / "out" / "music.wav")[:, 0]
    assert len(music) == 16 * RATE and np.isfinite(music).all()


def test_bad_long_noises_are_one_line(world, tmp_path, capsys):
    silent, broken = tmp_path / "silent.wav", tmp_path / "nan.wav"
    soundfile.write(silent, np.zeros(9 * RATE), RATE)
    values = noise_sound(1, 12.0).astype(np.float32)
    values[11 * RATE] = np.nan
    soundfile.write(broken, values, RATE, subtype="FLOAT")
    for file, text in ((silent, "silent"), (broken, "NaN or infinite")):
        assert call(*words(world, file, tmp_path / "out")) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench:")]
        assert len(lines) == 1 and text in lines[0] and file.name in lines[0], lines


# Parts


def test_a_file_is_read_in_stretches_as_at_once(stereo, tmp_path):
    values = noise_sound(5, 7.3)
    soundfile.write(tmp_path / "48.wav", values[: len(values) // 3 * 3], 48_000)
    for file in (stereo, tmp_path / "48.wav"):
        noise = NoiseFile.of(file, None, None)
        whole = noise.mono(0, noise.samples)
        parts = torch.cat([noise.mono(begin, 50_001) for begin in range(0, noise.samples, 50_001)])
        assert len(whole) == len(parts) and abs(len(whole) - noise.samples) <= 1
        assert float((whole - parts).abs().max()) < 1e-6
        mel = mel_amplitudes(whole)
        stretches = torch.cat(list(noise.mels(0, mel.shape[1])), dim=1)
        assert stretches.shape == mel.shape
        assert float((stretches - mel).abs().max()) < 1e-3 * float(mel.max())
        later = torch.cat(list(noise.mels(384, mel.shape[1])), dim=1)
        assert float((later - mel[:, 384:]).abs().max()) < 1e-3 * float(mel.max())


@pytest.mark.parametrize("samples", [RATE * 3 + 123, RATE * 10, 17_645])
def test_loudness_in_parts_is_that_of_the_whole(samples):
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.001, 0.3, samples)
    meter = LoudnessMeter(RATE)
    for part in wave.split(7777):
        meter.push(part)
    assert meter.value == pytest.approx(audio.integrated_loudness(wave, RATE), abs=1e-6)
    silent = LoudnessMeter(RATE)
    silent.push(torch.zeros(RATE))
    assert silent.value == -np.inf


def test_files_beyond_four_gigabytes_have_a_header_for_it(tmp_path):
    assert Output(tmp_path, ("a",), 2, 3600 * RATE).kind == "WAV"
    assert Output(tmp_path, ("a",), 2, 4 * 3600 * RATE).kind == "RF64"
    with Output(tmp_path, ("a",), 2, 10) as out:
        out.kind = "RF64"
        out.write(a=torch.ones(2, 10))
    assert sound(tmp_path / "a.wav").shape == (10, 2)


@pytest.mark.soak
def test_memory_does_not_grow_with_the_noise(tmp_path):
    """Six minutes take hardly more than two, painted by a method that costs nothing."""
    code = """
import sys
from pathlib import Path
import torch
from blendbench.long_blend import LongBlend, NoiseFile
from blendbench.methods._images import ImageMethod, Painted
from blendbench.datasets import NoiseClip, Prompt
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.presentation import Blended
class Copies(ImageMethod):
    adaptive = True
    class generator:
        quantize = False
    def paint(self, window):
        return Painted(window.pixels.clone(), {"paint_s": 0.0})
noise = NoiseFile.of(Path(sys.argv[1]), None, None)
pair = Pair("x", NoiseClip("a", Path("a"), "", "a"), Prompt("", "", "x"))
item = NoiseAndText(pair, 1, noise.samples, torch.zeros(0), "x")
method = Copies("Copies", {"steps": 2}, 1)
facts = LongBlend(noise, item, method, Blended("direct", "direct", ""), -18.0, Path(sys.argv[2]), "id", "cpu").run()
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(int(peak) / 1024, facts["made_seconds"])
"""
    peaks = []
    for minutes in (2, 6):
        file = tmp_path / f"{minutes}.flac"
        soundfile.write(file, np.tile(noise_sound(1, 30.0), 2 * minutes), RATE)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code, str(file), str(tmp_path / f"{minutes}")],
                              capture_output=True, text=True, env=environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        peak, seconds = map(float, done.stdout.split())
        assert seconds == 60 * minutes
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 60, peaks
    assert WINDOW < 6 * RATE
