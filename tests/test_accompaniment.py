"""The accompaniment task from end to end: what is given, what is heard apart, Table I over the built-in stems."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from support.worlds import call

from blendbench.composing import compose
from blendbench.datasets import stems
from blendbench.errors import BlendbenchError, ClipError
from blendbench.models import lora, pix2pix
from blendbench.models.backgrounds import MaskNet, MaskSeparator, separator
from blendbench.models.controlnet import beside
from blendbench.models.generator import Generator
from blendbench.resources import package_folder
from blendbench.runs.folder import Run
from blendbench.sound import audio
from blendbench.tasks import Withheld
from blendbench.tasks.accompaniment.given import BackgroundAndText
from blendbench.tasks.accompaniment.task import Accompaniment, levelled, round_trip

RATE = 44_100


def task_of(*words: str) -> Accompaniment:
    task = Run.of(compose(["task=accompaniment", "run_dir=none", "accompaniment.separator=none", *words])).task
    assert isinstance(task, Accompaniment)
    return task


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the built-in sizes that have learned nothing."""
    folder = tmp_path_factory.mktemp("weights")
    unet = Generator("pocket", "pocket").get("cpu").unet
    beside(unet).half().save_pretrained(folder / "controlnet")
    wide = deepcopy(unet)
    pix2pix.widen(wide)
    pix2pix.save(lora.attach(wide, 2, 0), wide, folder / "pix2pix" / pix2pix.FILE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MaskNet().save(folder / "separator")
    return folder


@pytest.fixture(scope="module")
def table1(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("table1") / "run"
    words = [
        "experiment=riff/table1", "limit=2", f"run_dir={run_dir}", f"store_dir={run_dir.parent / 'store'}",
        "statistics.resamples=50", "generator=pocket_fast", "generator.sampling.repaint.steps=2",
        "generator.sampling.image_to_image.steps=2", "keep_images=true",
        f"generator.controlnet.checkpoint={weights / 'controlnet'}",
        f"generator.pix2pix.checkpoint={weights / 'pix2pix'}", f"accompaniment.separator={weights / 'separator'}",
    ]  # fmt: skip
    assert call("run", *words) == 0
    return run_dir


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


# What is given


def test_a_mix_is_the_sum_of_its_stems_at_one_loudness():
    task = task_of()
    given = task.read(task.items(1)[0])
    assert isinstance(given, BackgroundAndText) and given.target is not None
    assert len(given.background) == len(given.target) == round(5.11 * RATE) == given.samples
    assert audio.integrated_loudness(given.target, RATE) == pytest.approx(-18.0, abs=0.05)
    part = given.target - given.background
    clip = given.item.clip
    own = torch.from_numpy(soundfile.read(clip.part[0], dtype="float32")[0])[: len(part)]
    # One gain for both stems.
    gain = float((part * own).sum() / own.square().sum())
    assert torch.allclose(part, gain * own, atol=1e-4)


def test_a_part_is_told_apart_once_however_often_it_is_asked_for(monkeypatch):
    task = task_of("accompaniment.separator=pocket")
    given = task.read(task.items(1)[0])
    asked, background = [], task.separator.background
    monkeypatch.setattr(task.separator, "background", lambda mix: asked.append(1) or background(mix))
    first, again = (task.parts(given, given.target, {})["added"] for _ in range(2))
    assert len(asked) == 1 and torch.equal(first, again)
    other = task.parts(given, 0.5 * given.target, {})["added"]
    assert len(asked) == 2 and not torch.equal(first, other)


def test_no_method_but_a_baseline_may_see_the_target():
    given = task_of().read(task_of().items(1)[0])
    assert isinstance(given, BackgroundAndText)
    handed = given.only(("background", "text"))
    assert isinstance(handed.target, Withheld) and handed.background is given.background
    with pytest.raises(BlendbenchError, match="`takes` does not name"):
        _ = handed.target.shape


def test_built_in_clips_are_of_songs_that_no_model_learns_from():
    from blendbench.train.data.songs import held_out_songs

    clips = stems.builtin()
    assert len(clips) == 28 and len({clip.source for clip in clips}) == 28
    assert {clip.source for clip in clips} <= set(held_out_songs())
    assert {clip.genre for clip in clips} == {"Pop", "EDM", "Rock", "Hip-hop", "Punk", "Jazz", "Classical"}
    assert all(clip.prompt.startswith("add ") and clip.instrument for clip in clips)
    assert sum(file.stat().st_size for clip in clips for file in clip.paths) < 3e6


def write(path: Path, seconds: float, seed: int, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(path, noise, RATE, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def test_musdb18_is_read_in_its_own_layout(tmp_path):
    for name in ("A - One", "B - Two"):
        for number, stem in enumerate(stems.PARTS):
            write(tmp_path / "musdb18hq" / "test" / name / f"{stem}.wav", 12, number)
    task = task_of("dataset=musdb18", f"data.root={tmp_path}", "dataset.musdb18.windows=2")
    items = task.items(None)
    assert len(items) == 4 and {item.clip.source for item in items} == {"A - One", "B - Two"}
    given = task.read(next(item for item in items if item.clip.start > 0))
    assert isinstance(given, BackgroundAndText) and given.target is not None
    assert given.item.clip.start == pytest.approx(12 - 225_351 / RATE, abs=1e-4)
    # Three stems of four: the background has three quarters of the power.
    share = float(given.background.square().mean() / given.target.square().mean())
    assert share == pytest.approx(0.75, abs=0.02)
    with pytest.raises(BlendbenchError, match="no stem of MUSDB18"):
        stems.musdb18(str(tmp_path), part="guitar")


def test_a_stem_that_rests_is_no_fault_and_a_silent_background_is(tmp_path):
    for name, level in (("bass.wav", 0.0), ("drums.wav", 0.1), ("voice.wav", 0.1)):
        write(tmp_path / name, 6, 0, level)
    table = tmp_path / "stems.csv"
    table.write_text(
        "background,part,prompt,id\nbass.wav|drums.wav,voice.wav,add a voice,one\nbass.wav,voice.wav,x,two\n"
    )
    task = task_of("dataset=own_stems", f"data.path={tmp_path}", f"data.table={table}")
    found = {item.clip.id: task.read(item) for item in task.items(None)}
    assert isinstance(found["one"], BackgroundAndText)
    assert isinstance(found["two"], ClipError) and "its background is silent" in str(found["two"])


def test_slakh2100_asks_for_the_class_of_the_stem_that_it_draws(tmp_path):
    track = tmp_path / "slakh2100_flac_redux" / "test" / "Track01876"
    for number, name in enumerate(("S00", "S01", "S02")):
        write(track / "stems" / f"{name}.flac", 6, number)
    classes = {"S00": "Bass", "S01": "Strings (continued)", "S02": "Organ", "S03": "Drums"}  # S03 was not rendered
    text = "stems:\n" + "".join(f"  {name}:\n    inst_class: {kind}\n" for name, kind in classes.items())
    (track / "metadata.yaml").write_text(text)
    drawn = {stems.slakh2100(str(tmp_path), choice_seed=seed)[0] for seed in range(12)}
    assert {clip.instrument for clip in drawn} == {"Bass", "Strings (continued)", "Organ"}
    asked = {clip.instrument: clip.prompt for clip in drawn}
    assert asked["Organ"] == "add an organ" and asked["Bass"] == "add a bass"
    assert all(len(clip.background) == 2 for clip in drawn)
    (track / "metadata.yaml").write_text("stems: [1, 2]")
    with pytest.raises(BlendbenchError, match=r"metadata\.yaml: no metadata of Slakh2100"):
        stems.slakh2100(str(tmp_path))


def test_gtzan_windows_begin_where_the_papers_preparation_has_them(tmp_path):
    write(tmp_path / "genres_original" / "blues" / "blues.00000.wav", 30, 0)
    clips = stems.gtzan(str(tmp_path), ["blues"])
    hop = (30 * RATE - 225_351) // 5
    assert [round(clip.start * RATE) for clip in clips] == [hop * place for place in range(6)]
    assert all(clip.mixed and not clip.part for clip in clips)
    with pytest.raises(BlendbenchError, match=r"no GENRE/GENRE\.NNNNN\.wav there"):
        stems.gtzan(str(tmp_path), ["rock"])


def test_a_table_of_ones_own_sums_several_files(tmp_path):
    for number, name in enumerate(("bass.wav", "drums.wav", "voice.wav")):
        write(tmp_path / name, 6, number)
    table = tmp_path / "stems.csv"
    table.write_text(
        "background,part,prompt,id\nbass.wav|drums.wav,voice.wav,add a voice,one\nbass.wav,,add drums,two\n"
    )
    task = task_of("dataset=own_stems", f"data.path={tmp_path}", f"data.table={table}")
    items = {item.clip.id: item for item in task.items(None)}
    one, two = task.read(items["one"]), task.read(items["two"])
    assert isinstance(one, BackgroundAndText) and isinstance(two, BackgroundAndText)
    assert one.target is not None and two.target is None
    assert float(one.background.square().mean() / one.target.square().mean()) == pytest.approx(2 / 3, abs=0.02)
    table.write_text("background,prompt\nbass.wav,\n")
    with pytest.raises(BlendbenchError, match=r"stems\.csv.*(no prompt|prompt)"):
        task_of("dataset=own_stems", f"data.path={tmp_path}", f"data.table={table}").items(None)


@pytest.mark.parametrize(
    ("seconds", "level", "message"),
    [(6.0, 0.0, "silent"), (3.0, 0.1, r"has 3\.00 s from 0\.00 s on, of the 5\.11 s")],
)
def test_what_cannot_take_part_is_a_row_with_its_reason(tmp_path, seconds, level, message):
    write(tmp_path / "loop.wav", seconds, 0, level)
    words = ("dataset=own_stems", f"data.path={tmp_path}", "dataset.own.prompt=add a voice")
    task = task_of(*words)
    found = task.read(task.items(None)[0])
    assert isinstance(found, ClipError)
    with pytest.raises(ClipError, match=message):
        raise found


# What is heard apart


def test_the_published_chain_clips_and_levels_in_its_own_order():
    wave = torch.sin(torch.arange(RATE) * 0.05) * 0.2
    wave[::50] += 0.9
    made = levelled(wave)
    loud = (wave * (10 ** (-12 / 20) / wave.square().mean().sqrt())).clamp(-1, 1)
    assert float((made - loud * 10 ** (-0.1 / 20)).abs().max()) < 2.1 / 32_768
    assert float(made.abs().max()) == pytest.approx(10 ** (-0.1 / 20), abs=1e-4)
    assert not levelled(torch.zeros(100)).any()


def test_a_separator_of_masks_near_1_gives_the_mix_back(tmp_path):
    network = MaskNet()
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias.fill_(20.0)
    network.save(tmp_path)
    mix = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 0.1
    made = MaskSeparator(tmp_path).background(mix)
    assert made.shape == mix.shape and float((made - mix).abs().max()) < 1e-4
    with torch.no_grad():
        network.out.bias.fill_(-22.0)
    network.save(tmp_path)
    assert float(MaskSeparator(tmp_path).background(mix).abs().max()) < 1e-4


def test_a_separator_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(BlendbenchError, match="separator=openunmix: unknown; use one of none, pocket"):
        separator("openunmix")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlendbenchError, match="no such program on the path"):
        separator("spleeter")
    with pytest.raises(BlendbenchError, match="no readable separator"):
        separator(str(tmp_path))


def test_spleeters_program_is_called_and_its_stem_read(tmp_path, monkeypatch):
    program = tmp_path / "spleeter"
    program.write_text('#!/bin/sh\nmkdir -p "$5/mix" && cp "$6" "$5/mix/accompaniment.wav"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    mix = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert float((separator("spleeter").background(mix) - mix).abs().max()) < 1e-4
    program.write_text("#!/bin/sh\necho no model >&2\nexit 1\n")
    with pytest.raises(BlendbenchError, match="spleeter: failed"):
        separator("spleeter").background(mix)


# Table I


def test_table1_has_all_rows_and_their_anchors_lie_in_order(table1):
    rows = rows_of(table1)
    assert {row["status"] for row in rows} == {"ok"} and len(rows) == 18
    results = pd.read_csv(table1 / "results.csv").set_index(["arm", "metric"])["value"]
    for metric in ("spectral", "envelope"):
        assert results["new_phase", metric] < results["other_music", metric]
    assert results["new_phase", "spectral"] < results["silence", "spectral"] < results["white_noise", "spectral"]
    for arm in ("riff_cnet", "riffusion_target", "silence"):
        whole, parts = results[arm, "spectral"], (results[arm, f"spectral_{one}"] for one in ("linear", "log"))
        assert whole == pytest.approx(sum(parts), rel=1e-4)
    table = (table1 / "table.md").read_text(encoding="utf-8")
    assert "target, text" in table and "background, text" in table and "6.84" in table


def test_facts_and_images_of_the_methods_stand_in_rows_and_folder(table1):
    by_arm = {row["arm"]: row for row in rows_of(table1)}
    music = {row["arm"]: row for row in rows_of(table1)}
    assert music["riff_cnet"].keys() >= {"clip", "track", "genre", "part", "prompt"}
    assert by_arm["unseparated"]["chain"] == "none" != by_arm["new_phase"]["chain"]
    assert any(file.name.endswith("hint.png") for file in (table1 / "images").rglob("*.png"))


def test_round_trips_of_other_seeds_have_another_phase_and_the_same_image():
    given = task_of().read(task_of().items(1)[0])
    assert isinstance(given, BackgroundAndText) and given.target is not None
    one, two = (round_trip(given.target, seed) for seed in (1, 2))
    assert len(one) == len(given.target) and not torch.equal(one, two)


def test_a_long_sound_is_separated_in_stretches_without_seams():
    from blendbench.models import backgrounds

    mix = torch.randn(100 * RATE, generator=torch.Generator().manual_seed(0))
    heard: list[int] = []

    def half(part: torch.Tensor) -> torch.Tensor:
        heard.append(len(part))
        return part / 2

    assert torch.allclose(backgrounds._stretched(half, mix), mix / 2, atol=1e-6)
    assert len(heard) > 2 and max(heard) <= 33 * RATE


def test_without_a_part_that_was_played_there_is_no_value_but_a_mix(weights, tmp_path):
    write(tmp_path / "band.wav", 6, 0)
    words = [
        "experiment=riff/table1", f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}",
        "dataset=own_stems", f"data.path={tmp_path}", "dataset.own.prompt=add a voice", "generator=pocket_fast",
        "generator.sampling.repaint.steps=2", "accompaniment.separator=none", "statistics.resamples=20",
        f"generator.controlnet.checkpoint={weights / 'controlnet'}",
        *(f"arms.{arm}=null" for arm in ("riff_p2p", "riffusion_edges", "unseparated", "other_music", "white_noise",
                                         "silence", "new_phase")),
    ]  # fmt: skip
    assert call("run", *words) == 0
    rows = {row["arm"]: row for row in rows_of(tmp_path / "run")}
    assert rows["riff_cnet"]["status"] == "ok"
    assert rows["riffusion_target"]["status"] == "failed" and "has no target" in rows["riffusion_target"]["reason"]
    results = pd.read_csv(tmp_path / "run" / "results.csv").set_index(["arm", "metric"])
    assert results["value"].isna().all() and results.loc[("riff_cnet", "spectral"), "n"] == 0
    again = ["accompaniment.reference=background", f"run_dir={tmp_path / 'again'}"]
    assert call("run", *[word for word in words if "run_dir" not in word], *again) == 0
    results = pd.read_csv(tmp_path / "again" / "results.csv").set_index(["arm", "metric"])
    assert results.loc[("riff_cnet", "spectral"), "value"] > 0


# Every experiment


EXPERIMENTS = sorted(file.stem for file in (package_folder("blendbench.conf") / "experiment" / "riff").glob("*.yaml"))


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.soak) if one in ("edges", "guidance") else one for one in EXPERIMENTS]
)
def test_experiment_runs_tiny_and_leaves_tables_and_figures(weights, tmp_path, name):
    experiment = compose([f"experiment=riff/{name}"])["experiment"]
    words = [
        f"experiment=riff/{name}", "limit=2", f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}",
        "statistics.resamples=20", "generator=pocket_fast", "generator.sampling.repaint.steps=3",
        "generator.sampling.image_to_image.steps=2", f"generator.controlnet.checkpoint={weights / 'controlnet'}",
        f"generator.pix2pix.checkpoint={weights / 'pix2pix'}", f"accompaniment.separator={weights / 'separator'}",
    ]  # fmt: skip
    words += ["arms.riff_cnet.shown=[0,2]"] if name == "fig6" else []
    words += ["experiment.sweep={arms.riff_p2p.image_scale:[1.0,1.5]}"] if name == "guidance" else []
    assert call("run", *words) == 0
    assert (tmp_path / "run" / "table.md").stat().st_size > 0
    if experiment.get("figures"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 10_000
    if name == "guidance":
        assert len(pd.read_csv(tmp_path / "run" / "sweep.csv")["arms.riff_p2p.image_scale"].unique()) == 2
    else:
        assert {row["status"] for row in rows_of(tmp_path / "run")} == {"ok"}


# The command


def test_accompany_adds_a_part_to_a_stereo_file_of_another_rate(weights, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "band.flac", 0.1 * rng.standard_normal((8 * 22_050, 2)), 22_050)
    words = [
        "accompany", str(tmp_path / "band.flac"), "--prompt", "add a soft female voice", "--out", str(tmp_path / "out"),
        "generator=pocket_fast", "generator.sampling.repaint.steps=2",
        f"generator.controlnet.checkpoint={weights / 'controlnet'}", f"accompaniment.separator={weights / 'separator'}",
    ]  # fmt: skip
    assert call(*words) == 0
    found = {name: soundfile.read(tmp_path / "out" / f"{name}.wav", always_2d=True) for name in
             ("mix", "added", "over", "background")}  # fmt: skip
    assert all(rate == RATE and len(wave) == 8 * RATE for wave, rate in found.values())
    assert [found[name][0].shape[1] for name in ("mix", "added", "over", "background")] == [1, 1, 2, 2]
    over, own, added = (found[name][0] for name in ("over", "background", "added"))
    assert np.allclose(over, own + added, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "accompany.json").read_text(encoding="utf-8"))
    assert facts["windows"] == 2 and facts["recipe"]["prompt"] == "add a soft female voice"


@pytest.mark.parametrize(
    ("name", "prompt", "message"),
    [
        ("none.wav", "add a voice", "none.wav"),
        ("silent.wav", "add a voice", "is digital silence"),
        ("band.wav", " ", "--prompt: is empty"),
    ],
)
def test_accompany_refuses_in_one_line(tmp_path, capsys, name, prompt, message):
    write(tmp_path / "band.wav", 3, 0)
    write(tmp_path / "silent.wav", 3, 0, 0.0)
    assert call("accompany", str(tmp_path / name), "--prompt", prompt, "--out", str(tmp_path / "out")) == 1
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told


# Preparation of data sets


@pytest.mark.parametrize(
    ("kind", "kept"), [("ratio", {"loud"}), ("power", {"loud", "soft"}), ("none", {"loud", "soft"})]
)
def test_a_data_set_is_prepared_in_the_papers_order(tmp_path, kind, kept):
    from blendbench.train.data import prepared

    for name, level in (("loud", 0.1), ("soft", 0.004)):
        write(tmp_path / f"{name}-band.wav", 6, 1)
        write(tmp_path / f"{name}-voice.wav", 6, 2, level)
    table = tmp_path / "stems.csv"
    rows = [f"{name}-band.wav,{name}-voice.wav,add a voice,{name}" for name in ("loud", "soft")]
    table.write_text("background,part,prompt,id\n" + "\n".join(rows) + "\n")
    clips = stems.folder(str(tmp_path), str(table))
    made = prepared.build(tmp_path / "made", clips, semitones=(0, 1), filter=kind, held_out=0.0)
    assert {row["clip"] for row in made.rows} == kept
    assert [row["semitones"] for row in made.rows if row["clip"] == "loud"] == [0, 1]
    background, mix = made.pixels(made.of("train")[:1])
    # Each image has its own peak, which is black.
    assert background.min() == 0 and mix.min() == 0 and background.shape == (1, 512, 512)
    low, high = made.rows[0]["peaks"]
    assert 0 < low < high


def test_prepare_says_what_is_wrong(tmp_path):
    from blendbench.train.data import prepared

    with pytest.raises(BlendbenchError, match="'loudest' is unknown"):
        prepared.build(tmp_path / "a", [], filter="loudest")
    with pytest.raises(BlendbenchError, match="no clip stays"):
        prepared.build(tmp_path / "b", [])


# Trainings


@pytest.fixture(scope="module")
def prepared_stems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips to learn from."""
    from blendbench.train.data import prepared

    folder = tmp_path_factory.mktemp("prepared")
    for number in range(4):
        write(folder / f"band-{number}.wav", 6, number)
        write(folder / f"voice-{number}.wav", 6, 10 + number)
    table = folder / "stems.csv"
    rows = [f"band-{number}.wav,voice-{number}.wav,add a voice,{number}" for number in range(4)]
    table.write_text("background,part,prompt,id\n" + "\n".join(rows) + "\n")
    clips = stems.folder(str(folder), str(table))
    prepared.build(folder / "stems", clips, semitones=(0, 0), filter="none", held_out=0.4)
    return folder / "stems"


def test_the_separator_learns_and_is_read_again(prepared_stems, tmp_path):
    from blendbench.train.pocket.separator import train

    figures = train(prepared_stems, tmp_path, steps=12, batch=2, width=64, log_every=1)
    losses = [row["loss"] for row in figures["history"]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert figures["held_out_loss"] < figures["held_out_loss_of_mix"] * 1.5
    mix = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert MaskSeparator(tmp_path).background(mix).shape == mix.shape


@pytest.mark.soak
def test_controlnet_and_pix2pix_learn_over_a_frozen_generator(prepared_stems, tmp_path):
    from blendbench.models.controlnet import ControlNetCheckpoint
    from blendbench.models.pix2pix import Pix2PixCheckpoint
    from blendbench.train.pocket import controlnet, pix2pix

    made = controlnet.train(prepared_stems, tmp_path / "cnet", steps=3, batch=1, log_every=1)
    assert made["held_out_loss"] != made["held_out_loss_without"]
    told = ControlNetCheckpoint("method.checkpoint", str(tmp_path / "cnet")).get("cpu")
    assert bool(told.controlnet_mid_block.weight.any())
    made = pix2pix.train(prepared_stems, tmp_path / "p2p", steps=3, batch=1, rank=2, log_every=1)
    assert made["held_out_loss"] != made["held_out_loss_without"]
    wide = Pix2PixCheckpoint("method.checkpoint", str(tmp_path / "p2p")).of(Generator("pocket", "pocket"), "cpu")
    assert bool(wide.unet.conv_in.weight[:, 16:].any())
