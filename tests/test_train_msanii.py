"""Training Msanii on a few seconds of tones: losses fall, a stopped training goes on, and the export has a card."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from blendbench.errors import BlendbenchError
from blendbench.models.msanii import Msanii
from blendbench.resources import package_folder
from blendbench.train.data.piano import Piano, build, write_songs
from blendbench.train.pocket import export, msanii

RATE = 8_000
SIZES = {
    "front": {"n_fft": 256, "hop": 128, "mels": 16},
    "scaling": {"fit": "dataset", "train": "running"},
    "unet": {"width": 16, "levels": 3, "blocks": 1, "attention_levels": 1, "heads": 2, "timestep": 8, "across": 1},
    "vocoder": {"width": 16, "across": 1},
}


def songs_of(folder: Path, channels: int = 1) -> Path:
    """Tones of random pitches, a third of a second each: two songs to learn from, one held out."""
    folder.mkdir(parents=True)
    draw, rows, parts, place = np.random.default_rng(0), [], [], 0
    for name, split in (("a", "train"), ("b", "train"), ("c", "held_out")):
        time = np.arange(20 * RATE) / RATE
        pitch = np.repeat(220 * 2 ** (draw.integers(0, 24, 60) / 12), RATE // 3 + 1)[: len(time)]
        wave = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.exp(-6 * (time % (1 / 3)))
        parts.append(np.stack([wave * (1 + 0.5 * channel) for channel in range(channels)], 1))
        rows.append({"song": name, "split": split, "start": place, "stop": place + len(wave),
                     "rms": float(np.sqrt((wave**2).mean())), "sample_rate": RATE, "channels": channels})  # fmt: skip
        place += len(wave)
    (np.concatenate(parts) * 32_767).astype(np.int16).tofile(folder / "piano.i16")
    (folder / "piano.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    songs_of(folder / "msanii_songs")
    msanii.train_vocoder(
        folder / "msanii_songs",
        folder / "msanii_vocoder",
        steps=150,
        batch=4,
        frames=32,
        log_every=25,
        learning_rate=0.02,
        **SIZES,
    )
    msanii.train(
        folder / "msanii_songs", folder / "msanii_vocoder", folder / "msanii", steps=150, batch=4, frames=32,
        log_every=25, learning_rate=0.01,
    )  # fmt: skip
    return folder


def told(work: Path, name: str) -> dict:
    return json.loads((work / name / "training.json").read_text())


def test_both_losses_fall_and_beat_what_knows_bands_alone(work):
    vocoder, unet = told(work, "msanii_vocoder"), told(work, "msanii")
    assert vocoder["history"][-1]["loss"] < 0.7 * vocoder["history"][0]["loss"]
    assert unet["history"][-1]["loss"] < 0.7 * unet["history"][0]["loss"]
    assert set(vocoder) >= {"vocoder_convergence", "pseudo_inverse_log", "minutes", "seed"}
    assert len(unet["held_out_loss"]) == len(unet["band_loss"]) == len(unet["times"])


def test_the_model_knows_what_it_has_learnt_from(work):
    model = Msanii.load(work / "msanii")
    assert (model.front.sample_rate, model.channels, model.frames, model.level) == (RATE, 1, 32, 0.05657)
    begun = Msanii.load(work / "msanii_vocoder")
    assert torch.equal(model.scaler.mean, begun.scaler.mean)
    assert torch.equal(model.vocoder.fn[2][0].weight, begun.vocoder.fn[2][0].weight)
    assert not torch.equal(model.unet.input_fn[1].weight, begun.unet.input_fn[1].weight)


def test_a_finished_training_is_exported_with_a_card(work, tmp_path):
    export.export(work, tmp_path)
    card = (tmp_path / "msanii" / "README.md").read_text()
    assert "8,000 Hz, one channel" in card and "2 songs of POP909" in card and "| U-Net |" in card
    assert sorted(file.name for file in (tmp_path / "msanii").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_a_training_goes_on_from_another_model(work, tmp_path):
    found = msanii.train(
        work / "msanii_songs", work / "msanii_vocoder", tmp_path / "more", steps=5, batch=2, frames=32,
        start=work / "msanii",
    )  # fmt: skip
    assert len(found["start"]) >= 12 and found["before"]["steps"] == 150


def test_scaling_as_published_follows_the_batches_of_both_trainings(tmp_path):
    songs = songs_of(tmp_path / "songs", 2)
    sizes = {name: value for name, value in SIZES.items() if name != "scaling"}
    msanii.train_vocoder(songs, tmp_path / "v", steps=4, batch=2, frames=32, schedule="flat", **sizes)
    msanii.train(songs, tmp_path / "v", tmp_path / "m", steps=4, batch=2, frames=32, loss="l1", schedule="flat")
    first, then = Msanii.load(tmp_path / "v").scaler, Msanii.load(tmp_path / "m").scaler
    assert float(first.momentum) == pytest.approx(1e-3 * 0.99**4)
    assert float(then.momentum) == pytest.approx(1e-3 * 0.99**8) and not torch.equal(first.mean, then.mean)


def test_the_papers_trainings_are_of_the_published_size():
    folder = package_folder("blendbench.conf") / "training"
    vocoder, unet = (OmegaConf.load(folder / f"{name}.yaml") for name in ("msanii_paper_vocoder", "msanii_paper"))
    parts = {name: dict(vocoder[name]) for name in ("front", "scaling", "unet", "vocoder")}
    with torch.device("meta"):
        model = Msanii(**parts)
    counts = [sum(one.numel() for one in part.parameters()) for part in (model.unet, model.vocoder)]
    assert counts == [49_878_016, 1_412_097]
    # Slices of 523,264 and 8,387,584 samples.
    assert [(one.frames - 1) * 1024 for one in (vocoder, unet)] == [523_264, 8_387_584]
    assert (vocoder.steps, unet.steps, vocoder.batch, unet.batch) == (40_000, 110_000, 8, 4)


def test_late_times_count_for_more_where_they_are_told_to(work, tmp_path):
    """Of one step at the same draws: the loss of noise at late times is small, and the clean signal's is not."""
    words = {"steps": 1, "batch": 4, "frames": 32, "start": work / "msanii", "log_every": 1}
    songs, vocoder = work / "msanii_songs", work / "msanii_vocoder"
    plain = msanii.train(songs, vocoder, tmp_path / "plain", **words)
    late = msanii.train(songs, vocoder, tmp_path / "late", late=1e4, **words)
    assert late["history"][0]["loss"] > 2 * plain["history"][0]["loss"]


def test_songs_are_written_as_files_of_three_kinds(work, tmp_path):
    write_songs(work / "msanii_songs", tmp_path, pieces=1, reference=5, training=1)
    found = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.flac"))
    assert found == ["pieces/held_out-000.flac", "training/train-000.flac"]  # but one was held out
    wave, rate = soundfile.read(tmp_path / "pieces" / "held_out-000.flac")
    assert rate == RATE and len(wave) == 20 * RATE
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.05657, rel=0.01)


def test_songs_of_two_channels_come_as_two(tmp_path):
    data = Piano(songs_of(tmp_path / "songs", 2))
    crops = data.crops("train", 3, 1000, np.random.default_rng(0))
    assert crops.shape == (3, 2, 1000) and torch.allclose(1.5 * crops[:, 0], crops[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"frames": 30}, "training.frames=30: give a multiple of 4"),
        ({"loss": "x"}, "training.loss=x, training.late=1.0: choose l2 or l1"),
        ({"late": 0.5}, "training.late=0.5: choose l2 or l1, and give 1 or more"),
        ({"schedule": "x"}, "training.schedule=x: choose cosine or flat"),
    ],
)
def test_settings_out_of_range_are_refused(work, tmp_path, words, message):
    given = {"steps": 1, "frames": 32} | words
    with pytest.raises(BlendbenchError, match=message):
        msanii.train(work / "msanii_songs", work / "msanii_vocoder", tmp_path / "m", **given)


def test_songs_of_another_rate_are_refused(work, tmp_path):
    songs = songs_of(tmp_path / "songs", 2)
    with pytest.raises(BlendbenchError, match="of another rate or other channels"):
        msanii.train(songs, work / "msanii_vocoder", tmp_path / "m", steps=1, frames=32)
    with pytest.raises(BlendbenchError, match="no rendered piano here"):
        msanii.train_vocoder(tmp_path / "nowhere", tmp_path / "v", steps=1)
    with pytest.raises(BlendbenchError, match=r"training\.tracks=all, training\.channels=3"):
        build(tmp_path / "s", tmp_path, tracks="all", channels=3)
