"""Retrieval of the music that masks a noise best: against measuring every place as sound."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.worlds import noise_sound

from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.methods.sim_masking import SimMasking
from blendbench.sound import audio, masking_model
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.task import MusicHalf

RATE = 44_100


def clip(folder: Path, name: str, sound: np.ndarray) -> MusicClip:
    soundfile.write(folder / f"{name}.wav", sound, RATE, subtype="FLOAT")
    return MusicClip(name, folder / f"{name}.wav", "", "", name)


def given(noise: torch.Tensor) -> NoiseAndText:
    leveled, _ = audio.normalize_loudness(noise, RATE, -18.0)
    pair = Pair("x", NoiseClip("n", Path("n"), "", "n"), Prompt("p", "", "p"))
    return NoiseAndText(pair, 1, len(leveled), leveled, "p")


def method(clips: list[MusicClip], **settings) -> SimMasking:
    made = SimMasking("Sim", **settings)
    made.prepare(Context(RATE, "cpu", 0, {"music": lambda: MusicHalf(clips)}, uses=("music",)))
    return made


def ratio(item: NoiseAndText, music: torch.Tensor) -> float:
    leveled, _ = audio.normalize_loudness(music, RATE, -18.0)
    return masking_model.ratio_of(item.noise, leveled)


def bursts(seconds: float, at: list[float], seed: int) -> np.ndarray:
    """Decaying noise at some times, over a soft hum."""
    draw, time = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    sound = 0.005 * np.sin(2 * np.pi * 150 * time)
    for start in at:
        since = time - start
        sound += 0.5 * np.exp(-12 * since.clip(0)) * (since >= 0) * draw.standard_normal(len(time))
    return sound


def test_the_place_found_is_the_best_of_all(tmp_path):
    clips = [clip(tmp_path, f"c{number}", noise_sound(number, 4.0)) for number in (1, 2, 3)]
    item = given(torch.from_numpy(noise_sound(7, 2.0)).float())
    music = method(clips).generate([item])[0]
    every = {}
    for one in clips:
        whole = torch.from_numpy(soundfile.read(one.path, dtype="float32")[0])
        for place in range(0, len(whole) - item.samples + 1, 1024):
            every[one.id, place] = ratio(item, whole[place : place + item.samples])
    found = ratio(item, music.waveform)
    assert found == pytest.approx(music.facts["found_db"], abs=1e-3)
    assert found < min(every.values()) + 0.25
    assert found < np.quantile(list(every.values()), 0.02)
    place = round(music.facts["music_start"] * RATE)
    assert every[music.facts["music_clip"], place] == pytest.approx(found, abs=1e-3)


def test_onsets_come_upon_onsets(tmp_path):
    """Bursts 0.7 s apart hide behind the two that are as far apart."""
    music = clip(tmp_path, "drums", bursts(8.0, [0.6, 1.9, 4.0, 4.7, 7.1], 1))
    item = given(torch.from_numpy(bursts(2.0, [0.5, 1.2], 2)).float())
    made = method([music]).generate([item])[0]
    assert made.facts["music_start"] == pytest.approx(3.5, abs=0.04)
    assert len(made.waveform) == item.samples


def test_a_clip_that_is_shorter_goes_round(tmp_path):
    music = clip(tmp_path, "short", bursts(1.5, [0.2], 3))
    item = given(torch.from_numpy(bursts(2.0, [0.9], 4)).float())
    made = method([music]).generate([item])[0]
    whole = torch.from_numpy(soundfile.read(music.path, dtype="float32")[0])
    start = round(made.facts["music_start"] * RATE)
    assert (0.2 - made.facts["music_start"]) % 1.5 == pytest.approx(0.9, abs=0.04)
    assert torch.equal(made.waveform[: len(whole) - start], whole[start:])
    assert torch.equal(made.waveform[len(whole) - start :][:1000], whole[:1000])


def test_clips_that_cannot_be_read_are_left_out(tmp_path):
    broken = MusicClip("broken", tmp_path / "broken.wav", "", "", "broken")
    broken.path.write_text("no sound")
    good = clip(tmp_path, "good", noise_sound(1, 4.0))
    item = given(torch.from_numpy(noise_sound(7, 2.0)).float())
    assert method([broken, good]).generate([item])[0].facts["music_clip"] == "good"
    with pytest.raises(BlendbenchError, match="none of its clips can be read; check the music set"):
        method([broken]).generate([item])
    with pytest.raises(BlendbenchError, match="no clips to choose music from"):
        method([])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seconds": 0.1}, "seconds is 0.1; give a number from 1 up"),
        ({"candidates": 0}, "candidates is 0; give a whole"),
    ],
)
def test_wrong_settings_are_told(settings, told):
    with pytest.raises(BlendbenchError, match=f"arm 'Sim': {told}"):
        SimMasking("Sim", **settings)
