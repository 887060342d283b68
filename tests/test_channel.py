"""`noise.channel`: one channel of a noise in place of the mean, and hashes that it leaves alone while it is null."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from support.audio_corpus import sound
from support.worlds import CHEAP, RATE, World, call, noise_sound, rows_of

from blendbench import config
from blendbench.composing import compose
from blendbench.datasets import MusicClip, NoiseClip, reading
from blendbench.errors import BlendbenchError, ClipError
from blendbench.runs.folder import Run
from blendbench.runs.plan import prepare
from blendbench.runs.scoring import Scoring
from blendbench.runs.work import arms_of
from blendbench.sound import files
from blendbench.store.signature import signature
from blendbench.tasks.blend.noises import Noises

HEARD = {"seconds": 2.0, "lufs": -18.0, "short_clip": "loop"}
SPAN = (0.2, 0.9)


def stereo(folder: Path) -> dict[str, NoiseClip]:
    """The same two channels, left and right, in the three ways."""
    return written(folder, noise_sound(1), noise_sound(2))


def written(folder: Path, *channels: np.ndarray) -> dict[str, NoiseClip]:
    """Channels as a file, as a segment of it, and as a segment of an HDF5 file's."""
    both = np.stack(channels, axis=1)
    soundfile.write(folder / "both.wav", both, RATE, subtype="FLOAT")
    with h5py.File(folder / "both.hdf5", "w") as file:
        file["P01"] = both[:24_000].T.astype(np.float32)
    return {
        "file": NoiseClip("file", folder / "both.wav", "", ""),
        "segment": NoiseClip("segment", folder / "both.wav", "", "", span=SPAN),
        "HDF5": NoiseClip("HDF5", folder / "both.hdf5", "", "", span=SPAN, member="P01"),
    }


def alone(clip: NoiseClip, channel: int, folder: Path) -> NoiseClip:
    """The clip whose file has that channel only."""
    path = folder / f"{channel}{clip.path.suffix}"
    values = noise_sound(channel + 1)
    if clip.member:
        with h5py.File(path, "w") as file:
            file["P01"] = values[:24_000].astype(np.float32)
    else:
        soundfile.write(path, values, RATE, subtype="FLOAT")
    return NoiseClip(clip.id, path, "", "", span=clip.span, member=clip.member)


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("kind", ["file", "segment", "HDF5"])
def test_channel_is_heard_as_a_file_of_it_alone(kind: str, channel: int, tmp_path: Path):
    clip = stereo(tmp_path)[kind]
    heard = Noises(HEARD | {"channel": channel}).read(clip)
    assert torch.equal(heard, Noises(HEARD).read(alone(clip, channel, tmp_path)))
    assert not torch.allclose(heard, Noises(HEARD).read(clip), atol=1e-2)


@pytest.mark.parametrize("kind", ["file", "segment", "HDF5"])
def test_channels_and_their_mean_are_kept_apart(kind: str, tmp_path: Path):
    clip = stereo(tmp_path)[kind]
    settings = [HEARD, HEARD | {"channel": 0}, HEARD | {"channel": 1}]
    first = [Noises(one, tmp_path / "store").read(clip) for one in settings]
    again = [Noises(one, tmp_path / "store").read(clip) for one in settings]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first}) == 3


@pytest.mark.parametrize("kind", ["file", "segment", "HDF5"])
def test_channel_that_a_file_has_not_is_named_with_file_and_key(kind: str, tmp_path: Path):
    clip = stereo(tmp_path)[kind]
    with pytest.raises(ClipError, match=r"has 2 channels, so no noise\.channel=2; take 0 to 1, or null") as raised:
        Noises(HEARD | {"channel": 2}).read(clip)
    assert str(clip.path) in str(raised.value)
    with pytest.raises(ClipError, match=r"has 1 channel, so no noise\.channel=1; take 0, or null"):
        Noises(HEARD | {"channel": 1}).read(alone(clip, 0, tmp_path))


def opposite(folder: Path) -> dict[str, NoiseClip]:
    """A sound and its negative as two channels, in the three ways."""
    return written(folder, sound(), -sound())


@pytest.mark.parametrize("kind", ["file", "segment", "HDF5"])
def test_channels_that_cancel_out_are_told_from_silence_and_heard_one_by_one(kind: str, tmp_path: Path):
    clip = opposite(tmp_path)[kind]
    with pytest.raises(ClipError, match=r"its channels cancel out: channel 0 has sound.*by noise\.channel=0") as raised:
        reading.read_clip(clip, 5.0)
    assert str(clip.path) in str(raised.value)
    left, right = (reading.read_clip(clip, 5.0, channel=channel) for channel in (0, 1))
    assert torch.equal(left, -right)
    assert left.abs().max() > 0.1


def test_music_whose_channels_cancel_out_is_to_be_made_mono(tmp_path: Path):
    clip = opposite(tmp_path)["file"]
    with pytest.raises(ClipError, match=r"its channels cancel out: .*; make it mono"):
        reading.read_music(MusicClip("m", clip.path, "", "", ""), RATE, 5.0)


def test_silent_channel_is_named(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.stack([sound(), 0 * sound()], axis=1), RATE)
    with pytest.raises(ClipError, match=r"a\.wav, channel 1: is digital silence"):
        files.read(tmp_path / "a.wav", channel=1)


# As a setting


@pytest.mark.parametrize(
    ("word", "taken"), [("0", 0), ("7", 7), ("left", 0), ("right", 1), ("null", None), ("'left'", 0)]
)
def test_channel_is_a_number_a_side_or_null(word: str, taken: int | None):
    assert compose([f"noise.channel={word}"])["noise"].get("channel") == taken


@pytest.mark.parametrize("word", ["-1", "1.5", "middle", "true", "[0,1]", "''", "{a: 1}"])
def test_what_is_no_channel_is_refused_by_the_key(word: str):
    with pytest.raises(BlendbenchError, match=r"^noise\.channel: .* use 0, 1, \.\.\., left or right, or null"):
        compose([f"noise.channel={word}"])


def test_run_takes_a_channel_and_fails_clips_that_lack_it(world: World, tmp_path: Path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "opposite.wav", np.stack([noise_sound(1), -noise_sound(1)], axis=1), RATE, subtype="FLOAT")
    soundfile.write(sounds / "mono.wav", noise_sound(2), RATE)
    words = [word for word in world.words() if "esc50" not in word]
    words += ["dataset=folder", f"data.path={sounds}", "dataset.folder.prompts_per_clip=1", *CHEAP]
    words += ["arms.random_music=null", "experiment=bnmusic/table1"]
    assert call("run", *words, f"run_dir={tmp_path / 'mean'}") == 0
    assert call("run", *words, f"run_dir={tmp_path / 'right'}", "noise.channel=right") == 0
    mean, right = ({row["clip"]: row for row in rows_of(tmp_path / name)} for name in ("mean", "right"))
    assert (mean["mono.wav"]["status"], mean["opposite.wav"]["status"]) == ("ok", "failed")
    assert "its channels cancel out" in mean["opposite.wav"]["reason"]
    assert (right["mono.wav"]["status"], right["opposite.wav"]["status"]) == ("failed", "ok")
    assert right["mono.wav"]["reason"] == (
        f"{sounds / 'mono.wav'}: has 1 channel, so no noise.channel=1; take 0, or null for the mean"
    )
    mix, _ = soundfile.read(tmp_path / "right" / right["opposite.wav"]["mix"])
    whole = -np.tile(noise_sound(1), 5)
    assert np.corrcoef(mix, whole)[0, 1] > 0.9999


def test_blend_takes_a_channel_and_writes_it_down(world: World, tmp_path: Path, capsys):
    file = opposite(tmp_path)["file"].path
    words = [*world.words(), "method=random_music"]
    assert call("blend", str(file), "--prompt", "jazz", "--out", str(tmp_path / "out"), *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"blendbench: {file}: its channels cancel out")
    assert (
        call("blend", str(file), "--prompt", "jazz", "--out", str(tmp_path / "out"), *words, "noise.channel=left") == 0
    )
    assert json.loads((tmp_path / "out" / "blend.json").read_text())["recipe"]["noise"]["channel"] == 0


# Hashes, as they were before there was the key


def test_default_folders_of_runs_keep_their_names():
    # How codes were drawn then.
    then = [f"generator.musicgen.{one}" for one in ("guidance_scale=5.0", "top_k=64", "temperature=0.7")]
    table1 = ["experiment=bnmusic/table1", *then]
    other = [*table1, "dataset=esc50", "music=musicbench", "noise.short_clip=context", "limit=24"]
    assert config.digest(compose(table1)) == "5ee487bb"
    assert config.digest(compose([*table1, "noise.channel=null"])) == "5ee487bb"
    assert config.digest(compose(other)) == "f11ba749"
    assert config.digest(compose(["experiment=bnmusic/audibility", *then])) == "29bffea0"
    assert config.digest(compose([*table1, "noise.channel=0"])) not in ("5ee487bb", "f11ba749")


def stored(tmp_path: Path, *words: str) -> dict[str, str]:
    """Signatures under which a run keeps what it makes, by stage."""
    measured = "experiment.metrics=[fad,kl,noise_to_mask_ratio]"
    own = ["limit=2", "seed=3", measured, f"store_dir={tmp_path}/store", f"run_dir={tmp_path}/run"]
    run = Run.of(compose(["experiment=bnmusic/table1", *CHEAP, *own, *words]))
    plan = prepare(run)
    with arms_of(plan) as arms:
        arm = arms["noise_only"]
        found = {"generate": arm.music.folder.name, "present": arm.mixes["direct"].folder.name}
        found["noise"] = plan.task.noises._ledger.path.parent.name
    found["audibility"] = Scoring(run)._ledger(run.metrics["audibility"]).path.parent.name
    found["report"] = signature("report", 1, plan.task.signature())
    return found


def test_signatures_of_the_store_stand_while_the_channel_is_null(tmp_path: Path):
    before = {
        "generate": "1c9a46257bda34db",
        "present": "78ce303fdc4b9bad",
        "noise": "605ad353e5fbd068",
        "audibility": "722b8cc412ff46ca",
        "report": signature("report", 1, {"noise": {"seconds": 5.0, "lufs": -18.0, "short_clip": "loop"}}),
    }
    assert stored(tmp_path) == before
    left = stored(tmp_path, "noise.channel=left")
    assert stored(tmp_path, "noise.channel=0") == left
    assert all(left[stage] != before[stage] for stage in before)


def test_settings_of_a_run_from_before_the_key_are_those_of_now(tmp_path: Path):
    from omegaconf import OmegaConf

    from blendbench.runs.folder import read_settings

    settings = compose(["experiment=bnmusic/table1"])
    assert settings["noise"] == {"seconds": 5.0, "lufs": -18.0, "short_clip": "loop"}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    assert read_settings(tmp_path) == settings
