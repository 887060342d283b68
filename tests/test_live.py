"""Music while the noise sounds: streams, what happens when music is late, the command over pipes."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import RATE, World, call, noise_sound

from blendbench.errors import BlendbenchError, ClipError
from blendbench.live.engine import Player, play
from blendbench.live.painter import Painter, Piece
from blendbench.live.streams import BLOCK, FileSink, Format, Sink, StreamSink, of_file, of_stream
from blendbench.methods import Context
from blendbench.methods.bnmusic import BNMusic
from blendbench.models.generator import Generator
from blendbench.sound import audio
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.keys import MaskConfig
from blendbench.tasks.blend.presentation import Blended

FAST = {"steps": 2, "guidance_scale": 1.0, "scheduler": "ddim"}


# Streams


def wav(values: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, values, rate, subtype, format="WAV")
    return buffer.getvalue()


def whole(source) -> torch.Tensor:
    blocks = list(source)
    assert all(block.shape[1] == BLOCK for block in blocks[:-1])
    return torch.cat(blocks, dim=1)


class Trickle(io.RawIOBase):
    """Bytes that come in odd little pieces."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.turn = data, 0, 0

    def read(self, size: int = -1) -> bytes:
        self.turn += 1
        count = min(size if size >= 0 else len(self.data), 1 + (self.turn * 7919) % 977)
        out = self.data[self.place : self.place + count]
        self.place += len(out)
        return out


@pytest.mark.parametrize("kind", ["s16le", "s32le", "f32le"])
@pytest.mark.parametrize("channels", [1, 2])
def test_raw_samples_come_through(kind, channels):
    values = torch.rand(channels, 10_007) * 1.6 - 0.8
    wanted = Format(RATE, channels, kind)
    data = wanted.encoded(values)
    assert len(data) == 10_007 * wanted.frame
    heard = whole(of_stream(Trickle(data + b"\x01" * (wanted.frame - 1)), wanted))
    assert heard.shape == values.shape
    assert float((heard - values).abs().max()) < 1 / 32000


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_a_wav_on_standard_input_tells_its_own_format(subtype):
    values = np.stack([noise_sound(1, 0.5), noise_sound(2, 0.5)], axis=1)
    source = of_stream(io.BytesIO(wav(values, RATE, subtype)), Format(8000, 1, "f32le"))
    assert source.channels == 2
    assert float((whole(source) - torch.from_numpy(values.T)).abs().max()) < 1e-4


def test_another_rate_is_brought_to_ours():
    time_ = np.arange(48_000) / 48_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_)
    heard = whole(of_stream(io.BytesIO(wav(tone, 48_000, "FLOAT")), Format()))[0]
    assert len(heard) == RATE
    expected = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    assert float((heard - expected)[500:-500].abs().max()) < 1e-3


def test_what_is_no_number_becomes_silence_with_one_line(capsys):
    values = torch.rand(1, 6000)
    values[0, 100:103] = float("nan")
    source = of_stream(io.BytesIO(Format(kind="f32le").encoded(values)), Format(kind="f32le"))
    heard = whole(source)
    assert source.broken == 3 and heard.shape == (1, 6000) and not heard[0, 100:103].any()
    assert capsys.readouterr().err.count("blendbench:") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF\x00\x00\x00\x00AVI ", "no WAV"),
        (b"RIFF\x00\x00\x00\x00WAVE", "without samples"),
        (b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data\0\0\0\0", "8 bits"),
    ],
)
def test_a_wav_that_cannot_be_streamed_is_named(data, message):
    with pytest.raises(ClipError, match=message):
        list(of_stream(io.BytesIO(data), Format()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rate": 0}, "--rate"), ({"channels": 0}, "--channels"), ({"kind": "mp3"}, "--format")],
)
def test_a_format_out_of_range_is_named(settings, message):
    with pytest.raises(BlendbenchError, match=message):
        Format(**settings)


def test_loud_samples_are_rounded_off():
    block = torch.linspace(-3, 3, 1001)[None]
    out = audio.round_off(block)
    assert float(out.abs().max()) <= 1.0 and torch.equal(out[block.abs() < 0.8], block[block.abs() < 0.8])
    assert bool((out.diff() >= 0).all())


# What plays when music is late


@dataclass
class Ready:
    """A painter that has what it is given."""

    pieces: list[Piece]
    error: BaseException | None = None

    def take(self, samples: int, wait: bool) -> list[Piece]:
        out = []
        while samples > 0 and self.pieces:
            piece = self.pieces.pop(0)
            out.append(Piece(piece.music[:samples], piece.heard))
            if len(piece.music) > samples:
                self.pieces.insert(0, Piece(piece.music[samples:], piece.heard))
            samples -= len(out[-1].music)
        return out


def test_music_that_is_late_is_played_again_and_never_breaks_off():
    time_ = torch.arange(2 * RATE) / RATE
    tone = 0.5 * torch.sin(2 * torch.pi * 220 * time_)
    painter = Ready([])
    player = Player(painter, wait=False)
    quiet = torch.cat([player.next(BLOCK) for _ in range(10)])
    assert not quiet.any() and player.report.silent == 10 * BLOCK
    painter.pieces = [Piece(tone, time.monotonic())]
    played = torch.cat([player.next(BLOCK) for _ in range(200)])
    assert player.report.underruns == 1 and player.report.repeated == 200 * BLOCK - len(tone)
    # From the fade-in on there is sound in every 20 ms, and no jump beyond the tone's own.
    levels = played[RATE // 5 :][: 100 * 2205].view(-1, 882).square().mean(1).sqrt()
    assert float(levels.min()) > 0.1
    assert float(played.diff().abs().max()) < 2 * float(tone.diff().abs().max())
    painter.pieces = [Piece(tone.flip(0), time.monotonic())]
    again = torch.cat([player.next(BLOCK) for _ in range(20)])
    assert float(again.diff().abs().max()) < 2 * float(tone.diff().abs().max())
    assert player.report.underruns == 1 and len(player.report.latencies) == 2


# Painting ahead


@pytest.fixture(scope="module")
def method() -> BNMusic:
    own = BNMusic("B", FAST, vars(MaskConfig()), griffin_lim_iterations=2)
    generator = Generator("pocket_fast", "pocket", adapter="few_step", sampling={})
    own.prepare(Context(RATE, "cpu", 0, {"generator": lambda: generator}))
    return own


def painter(method: BNMusic, waits: bool = True) -> Painter:
    from blendbench.datasets import NoiseClip, Prompt
    from blendbench.tasks.blend.pairing import Pair

    pair = Pair("live", NoiseClip("live", Path("live"), "", "live"), Prompt("p", "", "calm jazz"))
    return Painter(
        method, NoiseAndText(pair, 3, 0, torch.zeros(0), "calm jazz"), Blended("direct", "direct", ""), waits
    )


class Keeps(Sink):
    def __init__(self, stop_after: int | None = None) -> None:
        self.blocks: list[torch.Tensor] = []
        self.stop_after = stop_after

    def write(self, block: torch.Tensor) -> None:
        if self.stop_after is not None and len(self.blocks) >= self.stop_after:
            raise BrokenPipeError
        self.blocks.append(block.clone())


def blocks_of(values: np.ndarray):
    return iter(torch.from_numpy(values).float()[None].split(BLOCK, dim=1))


def test_as_many_samples_go_out_as_came_in_and_music_lies_at_its_level(method):
    values = noise_sound(2, 12.0)
    mix, music = Keeps(), Keeps()
    own = painter(method)
    report, listened = play(blocks_of(values), own, [(mix, True), (music, False)], wait=True)
    made = torch.cat(music.blocks, dim=1)[0]
    assert listened and report.samples == len(values) == len(made) == torch.cat(mix.blocks, dim=1).shape[1]
    assert report.underruns == 0 and report.silent <= 1.2 * RATE
    after = made[2 * RATE :]
    level = audio.integrated_loudness(after, RATE) - audio.integrated_loudness(torch.from_numpy(values).float(), RATE)
    assert -2 < level < 8  # equal loudness and stage 2's gain of 0 to 6 dB
    assert min(float(part.square().mean()) for part in after.split(RATE // 2)[:-1]) > 0
    assert "real-time factor" in report.told(own)
    assert not own.is_alive()


def test_silence_for_long_is_no_end(method):
    values = noise_sound(2, 16.0)
    values[4 * RATE : 13 * RATE] = 0
    music = Keeps()
    report, _ = play(blocks_of(values), painter(method), [(music, False)], wait=True)
    made = torch.cat(music.blocks, dim=1)[0]
    assert report.samples == len(made) == len(values) and bool(torch.isfinite(made).all())
    assert min(float(part.square().mean()) for part in made[3 * RATE :].split(RATE // 2)[:-1]) > 1e-12


def test_who_stops_listening_ends_it(method):
    report, listened = play(blocks_of(noise_sound(2, 8.0)), painter(method), [(Keeps(stop_after=5), True)], wait=False)
    assert not listened and report.samples == 6 * BLOCK


def test_a_painter_that_fails_is_told(method):
    own = painter(method)

    def fails(*_):
        raise RuntimeError("no paint")

    own._next = fails
    with pytest.raises(RuntimeError, match="no paint"):
        play(blocks_of(noise_sound(2, 8.0)), own, [(Keeps(), True)], wait=True)


# The command


def words(world: World, *more: str) -> list[str]:
    return [
        "live", "--prompt", "calm jazz", *more, f"generator.checkpoint={world.generator}", "generator.adapter=null",
        "generator.sampling.repaint.steps=2", "method.griffin_lim_iterations=2",
    ]  # fmt: skip


def test_a_file_is_played_through(world, tmp_path, capsys):
    values = np.stack([noise_sound(1, 4.0), 0.5 * noise_sound(1, 4.0)], axis=1)
    soundfile.write(tmp_path / "noise.wav", values, RATE)
    out = tmp_path / "out.wav"
    assert call(*words(world, "--from", str(tmp_path / "noise.wav"), "--to", str(out), "--free")) == 0
    heard, rate = soundfile.read(out)
    assert rate == RATE and heard.shape == values.shape
    assert "4.0 s, music after" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--from", "/nowhere.wav"], "nowhere.wav"),
        (["--from", "device"], "sounddevice"),
        (["--rate", "12"], "--rate"),
        (["--format", "mp3"], "--format"),
        (["--from", "NOISE", "--to", "/proc/nowhere/x.wav"], "/proc/nowhere"),
        (["--from", "NOISE", "method=random_music"], "griffin_lim_iterations"),
    ],
)
def test_what_cannot_be_played_is_one_line(world, tmp_path, capsys, more, text):
    soundfile.write(tmp_path / "noise.wav", noise_sound(1, 2.0), RATE)
    more = [str(tmp_path / "noise.wav") if word == "NOISE" else word for word in more]
    assert call(*words(world, *more)) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench:")]
    assert len(lines) == 1 and text in lines[0], lines


def piped(world: World, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from blendbench.cli import main; main()", *words(world, *more)]
    return subprocess.Popen(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_two_minutes_over_a_pipe(world):
    """Raw samples in at their own pace, as many out, music from its beginning to the end without a gap."""
    seconds = 120
    values = (np.tile(noise_sound(1, 4.0), seconds // 4) * 32767 * 0.5).astype("<i2")
    process = piped(world, "--emit", "music")

    def feed() -> None:
        begin = time.monotonic()
        for number, part in enumerate(np.split(values, seconds * 20)):
            time.sleep(max(0.0, number / 20 - (time.monotonic() - begin)))
            process.stdin.write(part.tobytes())
            process.stdin.flush()
        process.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    data = process.stdout.read()
    feeder.join()
    error = process.stderr.read().decode()
    assert process.wait(60) == 0, error
    assert len(data) == values.nbytes, error
    music = np.frombuffer(data, "<i2").astype(float)
    levels = (music[: len(music) // 4410 * 4410].reshape(-1, 4410) ** 2).mean(1)
    first = int(np.argmax(levels > 0))
    assert first < 200, f"no music for {first / 10} s"
    assert (levels[first:] > 0).all(), error


@pytest.mark.soak
def test_ctrl_c_ends_cleanly_and_the_file_is_whole(world, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise_sound(1, 60.0), RATE)
    process = piped(world, "--from", str(tmp_path / "noise.wav"), "--to", str(tmp_path / "out.wav"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / "out.wav").exists() and
                                               (tmp_path / "out.wav").stat().st_size > 4 * 2 * RATE):  # fmt: skip
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error.decode()
    heard, _ = soundfile.read(tmp_path / "out.wav")
    assert len(heard) >= 2 * RATE and b"music after" in error


@pytest.mark.soak
def test_a_closed_pipe_ends_it(world):
    process = piped(world)
    process.stdout.close()
    data = (noise_sound(1, 20.0) * 16000).astype("<i2").tobytes()
    try:
        process.stdin.write(data)
        process.stdin.close()
    except BrokenPipeError:
        pass
    error = process.stderr.read().decode()
    assert process.wait(60) == 0, error
    assert "nobody listened any more" in error


def test_sinks_write_what_they_are_given(tmp_path):
    block = torch.rand(2, 500) - 0.5
    sink = FileSink(tmp_path / "below" / "a.wav", 2)
    sink.write(block)
    sink.close()
    assert np.allclose(soundfile.read(tmp_path / "below" / "a.wav")[0].T, block.numpy(), atol=1e-6)
    buffer = io.BytesIO()
    StreamSink(buffer, "s16le").write(block)
    assert len(buffer.getvalue()) == 2000
    assert float((Format(RATE, 2).decoded(buffer.getvalue()) - block).abs().max()) < 1 / 32000
    assert of_file(tmp_path / "below" / "a.wav").channels == 2
