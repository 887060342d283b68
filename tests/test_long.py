"""Noises of any length: windows that hold what is painted, one phase throughout, gains without steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import RATE, World, call, noise_sound, rows_of, write_musicbench

from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.methods._images import FRAMES, ImageMethod, Long, Painted, Window
from blendbench.methods.bnmusic import BNMusic
from blendbench.methods.masking_guided import MaskingGuided
from blendbench.methods.musicgen_melody import joined, pieces
from blendbench.methods.riffusion_a2a import RiffusionA2A
from blendbench.methods.text_to_music import TextToMusic
from blendbench.models.generator import Generator
from blendbench.sound import audio, inversion
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import encode_image, mel_amplitudes, mel_of
from blendbench.sound.streaming import StreamingInversion
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.keys import MaskConfig
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.presentation import HOP, WINDOW, gain_curve, windows_of

FAST = {"steps": 2, "guidance_scale": 1.0, "scheduler": "ddim"}


def given(seconds: float, seed: int = 1) -> NoiseAndText:
    noise = torch.from_numpy(noise_sound(seed, seconds)).float()
    noise = audio.normalize_loudness(noise, RATE, -18.0)[0]
    pair = Pair("x", NoiseClip("a", Path("a.wav"), "wind", "a"), Prompt("p", "Jazz", "a jazz piece"))
    return NoiseAndText(pair, 5, len(noise), noise, "a jazz piece")


# One phase throughout


def streamed(mel: torch.Tensor, block: int, part: int, **settings: Any) -> torch.Tensor:
    sound = StreamingInversion(float(mel.max()), block=block, **settings)
    out = [sound.push(mel[:, first : first + part]) for first in range(0, mel.shape[1], part)]
    return torch.cat([*out, sound.finish()])


@pytest.fixture(scope="module")
def piece() -> torch.Tensor:
    from blendbench.datasets import builtin
    from blendbench.sound import files

    return torch.cat([files.read(clip.path, RATE)[: 3 * RATE] for clip in builtin.music()[::30][:3]])


@pytest.mark.parametrize(
    ("block", "part"), [(96, 40), *(pytest.param(*one, marks=pytest.mark.soak) for one in ((200, 700), (256, 1)))]
)
def test_a_stream_is_as_good_as_the_whole(piece, block, part):
    mel = mel_amplitudes(piece)
    part = part if part > 1 else 333
    whole, stream = inversion.to_audio(mel), streamed(mel, block, part)
    assert len(stream) == len(whole) == (mel.shape[1] - 1) * RIFFUSION.hop_length
    frames = mel.shape[1] - 1
    errors = [
        float(inversion.spectral_convergence(mel[:, :frames], mel_amplitudes(one)[:, :frames]))
        for one in (whole, stream)
    ]
    assert errors[1] < errors[0] * 1.1, errors


def test_what_a_stream_gives_does_not_depend_on_the_parts_it_is_handed(piece):
    mel = mel_amplitudes(piece)[:, :600]
    assert torch.equal(streamed(mel, 128, 50), streamed(mel, 128, 600))


def test_tones_go_through_blocks_without_a_dip():
    time = torch.arange(8 * RATE) / RATE
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * time) + 0.05 * torch.sin(2 * torch.pi * 1234.5 * time)
    made = streamed(mel_amplitudes(tone), 128, 64)
    level = made[: len(made) // 441 * 441].view(-1, 441).square().mean(1)[30:-30]
    level = 10 * level[: len(level) // 5 * 5].view(-1, 5).mean(1).log10()
    assert float(level.max() - level.min()) < 1.0
    # No sample jumps by more than in what is made at once.
    whole = inversion.to_audio(mel_amplitudes(tone))
    assert float(made.diff().abs().max()) < 1.1 * float(whole.diff().abs().max())


def test_a_stream_holds_little():
    sound = StreamingInversion(1.0, block=128, iterations=0)
    for _ in range(40):
        sound.push(torch.rand(512, 100))
        assert sound._mel.shape[1] < 500 and len(sound._wave) < 500 * 200
    sound.finish()


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 30])
def test_very_short_streams_have_their_length(frames):
    assert len(streamed(torch.rand(512, max(frames, 1))[:, :frames] + 0.1, 64, 10) if frames else
               torch.empty(0)) == max(0, frames - 1) * 441  # fmt: skip


# Windows


class Counts(ImageMethod):
    """Paints its window's number into every pixel, and remembers what it was handed."""

    def __init__(self, overlap: int = 128) -> None:
        super().__init__("Counts", FAST, 0, overlap)
        self.windows: list[Window] = []

    def paint(self, window: Window) -> Painted:
        self.windows.append(window)
        return Painted(torch.full_like(window.pixels, 10.0 * window.number), {"paint_s": 1.0})


@pytest.mark.parametrize("overlap", [32, 128, 256])
@pytest.mark.parametrize("frames", [1, 480, 512, 513, 700, 1500, 2048])
def test_windows_cover_every_frame_once(overlap, frames):
    method, state = Counts(overlap), Long()
    noise = torch.arange(frames, dtype=torch.float32).expand(512, -1)
    parts = list(method.painted(noise.split(77, dim=1), given(1.0), state, frames))
    assert sum(part.shape[1] for part in parts) == frames
    step = FRAMES - overlap
    for number, window in enumerate(method.windows):
        begin = number * step
        left = noise[0, begin : begin + FRAMES]
        assert torch.equal(window.pixels[0, 0], left[torch.arange(FRAMES) % len(left)])
        assert (window.held is None) == (number == 0)
        if window.held is not None:
            assert window.held.shape == (1, 512, overlap)
    painted = torch.cat(parts, dim=1)[0]
    # In the middle of each window stands its own number; the seams go over without a step.
    for number in range(len(method.windows)):
        middle = number * step + (overlap + FRAMES) // 2
        if middle < frames - FRAMES:
            assert painted[middle] == 10.0 * number
    assert float(painted.diff().abs().max()) <= 10 / 31 + 1e-4 if frames > 1 else True
    assert len(method.windows) == (1 if frames <= FRAMES else 1 + -(-(frames - FRAMES) // step))


def test_a_stopped_painting_goes_on_where_it_was():
    noise, frames = torch.rand(512, 1900), 1900
    once = torch.cat(list(Counts().painted([noise], given(1.0), Long(), frames)), dim=1)
    state, first, parts = Long(), Counts(), []
    for part in first.painted([noise], given(1.0), state, frames):
        parts.append(part)
        if state.number == 2:
            break
    second = Counts()
    parts += second.painted([noise[:, state.number * 384 :]], given(1.0), state, frames)
    assert torch.equal(torch.cat(parts, dim=1), once)
    assert [window.number for window in second.windows] == [2, 3, 4]


@pytest.mark.parametrize("overlap", [0, 100, 500, 128.0])
def test_an_overlap_out_of_range_is_named(overlap):
    with pytest.raises(BlendbenchError, match=r"overlap is .*; give frames of 10 ms"):
        Counts(overlap)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator("pocket_fast", "pocket", adapter="few_step", sampling={})


def ready(method: Any, generator: Generator) -> Any:
    method.prepare(Context(RATE, "cpu", 0, {"generator": lambda: generator}))
    return method


METHODS = {
    "bnmusic": lambda: BNMusic("B", FAST, vars(MaskConfig()), griffin_lim_iterations=2),
    "riffusion_a2a": lambda: RiffusionA2A("R", FAST | {"strength": 0.9}, 2),
    "text_to_music": lambda: TextToMusic("T", FAST, griffin_lim_iterations=2),
    "masking_guided": lambda: MaskingGuided("M", FAST, griffin_lim_iterations=2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "riffusion_a2a" else pytest.mark.soak) for name in METHODS]
)
def test_every_image_method_goes_on_over_a_long_noise(generator, name):
    method, item = ready(METHODS[name](), generator), given(11.0)
    made = method.generate([item, given(2.0, 2), replace(item, seed=6)])
    assert [len(one.waveform) for one in made] == [11 * RATE, 2 * RATE, 11 * RATE]
    assert made[0].facts["windows"] == 3 and "windows" not in made[1].facts
    assert torch.equal(made[0].waveform, method.generate([item])[0].waveform)
    assert not torch.equal(made[0].waveform, made[2].waveform)
    image = made[0].images["music"]
    assert image.shape == (512, 2 + 11 * RATE // 441)
    # Music in every second, and no window like the one before.
    levels = [float(part.square().mean()) for part in made[0].waveform.split(RATE)]
    assert min(levels) > 0
    assert float((image[:, 400:480] - image[:, 784:864]).abs().mean()) > 1
    # No step at the joins beyond what the image has elsewhere.
    change = image.diff(dim=1).abs().mean(0)
    for join in (480, 512, 864, 896):
        assert float(change[join - 3 : join + 3].max()) < 3 * float(change.median()) + 25


def test_a_window_holds_what_the_last_one_painted(generator):
    method, pixels = ready(METHODS["bnmusic"](), generator), encode_image(mel_of(given(5.0).noise))[0][None]
    held = torch.full((1, 512, 128), 40.0)
    window = Window(pixels, [given(5.0)], 1, held, is_part=True)
    grey = window.joined(method.paint(window).music)
    assert torch.equal(grey[..., :96], held[..., :96])
    # What is held shows through the autoencoder in the rest of the overlap, too.
    assert float((method.paint(window).music[..., :96] - 40).abs().mean()) < 12


def test_a_silent_part_is_painted_over_and_a_silent_clip_is_refused(generator):
    method, item = ready(METHODS["bnmusic"](), generator), given(11.0)
    quiet = item.noise.clone()
    quiet[: 6 * RATE] = 0
    made = method.generate([replace(item, noise=quiet)])[0]
    assert bool(torch.isfinite(made.waveform).all()) and float(made.waveform[: 4 * RATE].square().mean()) > 0


# Levels


def test_gains_go_over_without_steps():
    samples = round(30 * RATE)
    count = len(list(windows_of(torch.zeros(samples), torch.zeros(samples))))
    gains = [float(g) for g in np.random.RandomState(0).choice([0.0, 6.0, -60.0], count)]
    curve = 20 * gain_curve(gains, samples).log10()
    a_step = float(curve.diff().abs().max()) * RATE / 10
    assert a_step <= 1.01, f"{a_step} dB in 100 ms"
    last = samples - WINDOW
    for place, gain in zip([*range(0, last, HOP), last], gains, strict=True):
        assert float(curve[place + WINDOW // 2]) >= gain - 0.01
    steady = gain_curve([3.0] * count, samples)
    assert torch.allclose(20 * steady.log10(), torch.full((samples,), 3.0), atol=1e-3)
    held = gain_curve([None] * (count - 1) + [2.0], samples)
    assert torch.allclose(20 * held.log10(), torch.full((samples,), 2.0), atol=1e-3)


def test_melodies_in_pieces_cover_everything():
    for samples, longest, fade in ((100, 200, 20), (200, 200, 20), (201, 200, 20), (1000, 200, 20), (560, 200, 20)):
        begins = pieces(samples, longest, fade)
        ends = [min(begin + longest, samples) for begin in begins]
        assert begins[0] == 0 and ends[-1] == samples
        assert all(begin <= end - fade for begin, end in zip(begins[1:], ends, strict=False))
    one, two = torch.ones(2, 50), torch.ones(2, 60)
    both = joined(one, two, 20)
    assert both.shape == (2, 90) and float(both.max()) <= 2**0.5 + 1e-6 and float(both.min()) >= 1 - 1e-6


# In a run


@pytest.mark.soak
def test_noises_of_their_own_lengths(world: World, tmp_path: Path):
    """noise.seconds=null: every file as long as it is; stage 2 window by window."""
    folder = tmp_path / "noises"
    folder.mkdir()
    for name, seconds in (("long", 9.0), ("short", 1.5)):
        soundfile.write(folder / f"{name}.wav", noise_sound(3, seconds), RATE)
    write_musicbench(tmp_path)
    words = [word for word in world.words() if not word.startswith(("dataset", "store_dir"))]
    run_dir = tmp_path / "run"
    code = call(
        "run", "experiment=bnmusic/audibility", *words, f"store_dir={tmp_path / 'store'}", f"run_dir={run_dir}",
        "dataset=folder", f"data.path={folder}", "noise.seconds=null", "report=false", "arms.musicgen_melody=null",
        "arms.bnmusic.griffin_lim_iterations=1", "arms.riffusion_a2a.griffin_lim_iterations=1", "limit=2",
    )  # fmt: skip
    assert code == 0
    seconds = {}
    for row in rows_of(run_dir):
        assert row["status"] == "ok", row
        info = soundfile.info(run_dir / row["mix"])
        seconds[row["clip"]] = info.frames / RATE
        if row["arm"] == "bnmusic" and row["presentation"] != "loudness_normalized":
            assert ("stage2_gains_db" in row) == (info.frames > WINDOW)
    assert sorted(seconds.values()) == [1.5, 9.0]
    assert json.loads((run_dir / "pairs.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("seconds", ["0.1", "-3", "99999"])
def test_a_length_out_of_range_is_named(seconds, capsys):
    assert call("run", "experiment=bnmusic/table1", f"noise.seconds={seconds}") == 2
    assert "noise.seconds" in capsys.readouterr().err
