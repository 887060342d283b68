"""The task image_text: data sets of pictures, what is given of an item, MeLFusion and its controls, a run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from support.tiny_models import tiny_diffusion
from support.worlds import call

from blendbench.composing import compose
from blendbench.datasets import pictured
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError, ClipError
from blendbench.models import checkpoint as checkpoint_module
from blendbench.models import lora, melfusion, tangopp
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import encode_prompts
from blendbench.models.sampling import Sampling, text_to_image
from blendbench.models.synapse import Synapse, SynapseSettings
from blendbench.models.visual import SCHEDULE, Visual, Way
from blendbench.sound import files
from blendbench.tasks.image_text.given import Scene
from blendbench.tasks.image_text.task import ImageText

IMAGE, SCENE = {"size": 64, "fit": "stretch", "missing": "fail"}, {"seconds": 1.0, "lufs": -18.0}


def sources(entry: dict) -> Sources:
    return Sources({"own": entry | {"manifest": None}}, None, None, [], 0)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three pictures with words, two of one music; the table is `captions.csv`."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200)), ("green", (0, 200, 0))):
        Image.new("RGB", (20, 10), colour).save(folder / f"{name}.png")
    for name, tone in (("a", 220.0), ("b", 330.0)):
        wave = 0.2 * torch.sin(2 * torch.pi * tone * torch.arange(66_150) / 44_100)
        files.write(folder / f"{name}.wav", wave, 44_100)
    rows = [
        ["red.png", "a calm piano", "a.wav", "Jazz", "poster"],
        ["blue.png", "loud drums", "a.wav", "Rock", "poster"],
        ["green.png", "the rain", "b.wav", "Jazz", "natural"],
    ]
    write(folder / "captions.csv", ["image", "caption", "audio", "genre", "category"], rows)
    return folder


def write(table: Path, header: list[str], rows: list[list[str]]) -> None:
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def task_of(folder: Path, **changes: object) -> ImageText:
    entry = {"_target_": "blendbench.datasets.pictured.folder", "path": str(folder)}
    image = IMAGE | {key: value for key, value in changes.items() if key in IMAGE}
    return ImageText(sources(entry), None, image, SCENE)


# Data


def test_the_built_in_items_have_pictures_of_four_kinds_and_their_music():
    clips = pictured.builtin()
    assert len(clips) == 28 and len({clip.source for clip in clips}) == 28
    assert all(path.is_file() for clip in clips for path in clip.paths)
    counted = [sum(clip.category == kind for clip in clips) for kind in ("natural", "animation", "poster", "painting")]
    assert counted == [7, 7, 7, 7] and len({clip.genre for clip in clips}) == 7
    assert {clip.mode for clip in clips} == {"major", "minor"} and {clip.drums for clip in clips} == {"yes", "no"}
    assert all(75 <= float(clip.tempo) <= 150 for clip in clips)
    with Image.open(clips[0].image) as picture:
        assert picture.size == (256, 256) and picture.mode == "RGB"


def test_melbench_is_read_in_its_layout_and_two_frames_are_of_one_music(tmp_path):
    place = tmp_path / "MeLBench"
    place.mkdir()
    lines = [
        {
            "captions": "one",
            "location": "audio/x.wav",
            "img_path": "images/x-1.jpg",
            "genre": "Jazz",
            "category": "poster",
        },
        {"captions": "one", "location": "audio/x.wav", "img_path": "images/x-2.jpg"},
        {"captions": "two", "location": "audio/y.wav"},
    ]
    (place / "test.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clips = pictured.melbench(str(tmp_path))
    assert [clip.id for clip in clips] == ["x-x-1", "x-x-2", "y"]
    assert clips[0].image == place / "images/x-1.jpg" and clips[0].genre == "Jazz" and clips[0].category == "poster"
    assert clips[0].source == clips[1].source != clips[2].source and clips[2].image is None
    assert len(pictured.melbench(str(tmp_path), count=1)) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"captions": "x"}\n', "not a JSON object with 'location'"),
        ('{"captions": "x", "location": "../x.wav"}\n', "leaves"),
        ('{"captions": "x", "location": "x.wav", "img_path": "/etc/passwd"}\n', "leaves"),
        ('{"captions": "x", "location": "x.wav", "img_path": 3}\n', "img_path is no text"),
        ('{"captions": "x", "location": "x.wav"}\n' * 2, "stands twice"),
    ],
)
def test_a_malformed_melbench_is_one_line(tmp_path, lines, message):
    (tmp_path / "MeLBench").mkdir()
    (tmp_path / "MeLBench" / "test.json").write_text(lines)
    with pytest.raises(BlendbenchError, match=message):
        pictured.melbench(str(tmp_path))
    with pytest.raises(BlendbenchError, match="'dev' is unknown; use one of train, validation, test"):
        pictured.melbench(str(tmp_path), split="dev")


def test_items_are_drawn_and_music_counts_once(own):
    task = task_of(own)
    items = task.items(None)
    assert sorted(item.id for item in items) == ["own--blue.png", "own--green.png", "own--red.png"]
    assert task.items(2) == items[:2]
    assert sorted(clip.source for clip in task.reference()) == ["a.wav", "b.wav"]
    given = task.read(next(item for item in items if item.clip.id == "red.png"))
    assert given.image.shape == (3, 64, 64) and float(given.image[0].mean()) == pytest.approx(200 / 255, abs=0.01)
    assert given.text == "a calm piano" and given.samples == 44_100 and given.target.shape == (44_100,)
    others = task.lends()["others"]()
    # Another item's picture is of other music, too.
    assert float(others.picture(given.item)[1].mean()) > 0.7
    assert not torch.allclose(others.other(given.item), given.target)
    row = {"dataset": "own", "clip": "red.png", "inputs": task.inputs(given.item)}
    assert torch.equal(task.given(row).image, given.image)
    Image.new("RGB", (8, 8)).save(own / "red.png")
    with pytest.raises(ClipError, match=r"red\.png: is not what the run heard"):
        task_of(own).given(row)


def test_what_an_item_lacks_is_its_own_failure(own):
    write(own / "captions.csv", ["image", "caption", "audio"], [
        ["red.png", "  ", "a.wav"], ["", "no picture", "a.wav"], ["gone.png", "gone", "b.wav"],
        ["green.png", "silent", "silent.wav"], ["blue.png", "whole", "b.wav"],
    ])  # fmt: skip
    files.write(own / "silent.wav", torch.zeros(66_150), 44_100)
    task = task_of(own)
    told = {item.clip.caption.strip(): task.read(item) for item in task.items(None)}
    assert "has no caption" in str(told[""]) and "has no picture; name one, or set image.missing" in str(
        told["no picture"]
    )
    assert "no such file" in str(told["gone"]) and "silent" in str(told["silent"])
    assert told["whole"].image is not None
    lenient = task_of(own, missing="text_only")
    (bare,) = [item for item in lenient.items(None) if item.clip.caption == "no picture"]
    assert lenient.read(bare).image is None


def test_a_link_that_leads_out_is_refused(own, tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    (own / "red.png").unlink()
    (own / "red.png").symlink_to(outside)
    task = task_of(own)
    (item,) = [one for one in task.items(None) if one.clip.id == "red.png"]
    assert "is a link that leads out" in str(task.read(item))


# The method


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A generator, an image model and a synapse over them, each with random weights."""
    place = tmp_path_factory.mktemp("melfusion")
    model = tiny_diffusion(place / "tokenizer")
    model.save(place / "generator")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        image = tiny_diffusion(place / "other", seed=1)
        empty = encode_prompts(image, [""], None)[0]
        Visual(image.unet, image.vae, empty, SCHEDULE | {"prediction_type": "v_prediction"}).save(place / "visual")
        synapse = Synapse(model.unet, image.unet, SynapseSettings(alpha="learned", init=0.6))
        parts = lora.attach(model.unet, 2, 0, ("up_blocks.",))
        for part in parts.values():
            torch.nn.init.normal_(part.up, std=0.05)
        melfusion.save(place / "melfusion", synapse, Way(steps=3), parts, {})
    return {name: str(place / name) for name in ("generator", "visual", "melfusion")}


def checkpoint_word(folders: dict[str, str]) -> str:
    """As a value on the command line."""
    return "{" + f"checkpoint: {folders['melfusion']}, visual: {{checkpoint: {folders['visual']}}}" + "}"


def checkpoint(folders: dict[str, str], **more: object) -> melfusion.MeLFusionCheckpoint:
    return melfusion.MeLFusionCheckpoint(
        "method.checkpoint", folders["melfusion"], visual={"checkpoint": folders["visual"]}, **more
    )


def painted(folders: dict[str, str], pictures: torch.Tensor | None, **more: object) -> torch.Tensor:
    generator = Generator("tiny", folders["generator"])
    joined = checkpoint(folders, **more).of(generator, "cpu")
    settings, draws = Sampling(steps=2, guidance_scale=3.0), [torch.Generator().manual_seed(1) for _ in range(2)]
    denoiser = melfusion.pictured(joined, ["a piano", "drums"], pictures, draws, settings)
    return text_to_image(joined.model, ["a piano", "drums"], [1, 2], settings, 64, 64, denoiser=denoiser)


def test_a_saved_synapse_is_read_and_the_generator_stays_as_it_is(folders):
    generator = Generator("tiny", folders["generator"])
    before = {name: value.clone() for name, value in generator.get("cpu").unet.state_dict().items()}
    joined = checkpoint(folders).of(generator, "cpu")
    assert joined.way == Way(steps=3) and joined.synapse.shares().tolist() == pytest.approx([0.6] * 1, abs=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in generator.get("cpu").unet.state_dict().items())
    changed = joined.model.unet.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, changed[name])}
    assert moved and all(name.startswith("up_blocks.") for name in moved)


def test_pictures_are_heard_and_a_share_of_0_does_not_look(folders):
    red, grey = torch.zeros(2, 3, 64, 64), torch.full((2, 3, 64, 64), 0.5)
    red[:, 0] = 1
    assert not torch.allclose(painted(folders, red), painted(folders, grey), atol=1e-3)
    without = painted(folders, None)
    assert torch.equal(painted(folders, red, share=0.0), without)
    assert torch.equal(painted(folders, red * torch.nan, share=0.0), without)
    assert torch.equal(painted(folders, red, path="random"), painted(folders, grey, path="random"))


def test_a_model_that_does_not_travel_says_how_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "package_folder", lambda name: tmp_path)
    for name, made in (("melfusion", melfusion.MeLFusionCheckpoint), ("tangopp", tangopp.TangoPPCheckpoint)):
        with pytest.raises(BlendbenchError, match=f"give a folder of `blendbench train {name}`"):
            made("c", "pocket").signature()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda place: (place / "synapse.safetensors").write_bytes(b"x" * 99), "is text"),
        (lambda place: (place / "config.json").write_text("{}"), "no MeLFusion of this generator"),
        (lambda place: (place / "config.json").unlink(), r"no checkpoint \(config\.json\) there"),
    ],
)
def test_a_damaged_synapse_is_one_line(folders, tmp_path, damage, message):
    shutil.copytree(folders["melfusion"], tmp_path / "m")
    damage(tmp_path / "m")
    made = melfusion.MeLFusionCheckpoint("c", str(tmp_path / "m"), visual={"checkpoint": folders["visual"]})
    with pytest.raises(BlendbenchError, match=message):
        made.of(Generator("tiny", folders["generator"]), "cpu")


def test_a_run_of_the_method_and_its_controls(folders, own, tmp_path):
    settings = checkpoint_word(folders)
    words = [f"arms.{name}.checkpoint={settings}" for name in ("right", "other", "blank", "none", "music")]
    words += ["dataset=own_pictures", f"data.path={own}", f"generator.checkpoint={folders['generator']}"]
    words += ["scene.seconds=1.0", "image.size=64", "report=false", "threads=1", "statistics.resamples=20"]
    words += ["generator.sampling.repaint.steps=2", f"run_dir={tmp_path / 'run'}", f"store_dir={tmp_path / 'store'}"]
    assert call("run", "experiment=melfusion/small", *words) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 7 * 3 and all(row["status"] == "ok" for row in rows)
    assert len({row["sha256"] for row in rows}) == len(rows)
    with (tmp_path / "run" / "results.csv").open() as file:
        values = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    assert "pairing=source" in values["right", "kl"]["recipe"] and float(values["played", "kl"]["value"]) >= 0
    assert rows[0]["category"] in ("poster", "natural") and rows[0]["source"] in ("a.wav", "b.wav")


def test_tangopp_reads_the_picture_beside_the_text_and_is_kept(folders, tmp_path):
    generator = Generator("tiny", folders["generator"])
    width = generator.get("cpu").unet.config.cross_attention_dim
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit |= {"image_size": 64, "patch_size": 16}
    for hybrid in ("concat", "mean"):
        side = tangopp.PictureWords(vit, width, tokens=4, shared=8, hybrid=hybrid).eval()
        tangopp.save(tmp_path / hybrid, side, {}, {})
        told = tangopp.TangoPPCheckpoint("c", str(tmp_path / hybrid)).of(generator, "cpu")
        pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            tokens, place = side(pictures)
            assert tokens.shape == (2, 4, width) and torch.allclose(place.norm(dim=1), torch.ones(2), atol=1e-5)
            again, _ = told.words(pictures)
        assert torch.allclose(tokens, again, atol=1e-2)
        states = torch.randn(2, 7, width)
        assert side.hybrid(states, tokens).shape == (2, 11 if hybrid == "concat" else 7, width)
        settings = Sampling(steps=2, guidance_scale=3.0)

        def made(seen, told=told, settings=settings):
            denoiser = tangopp.pictured(told, ["a piano", "drums"], seen, settings)
            return text_to_image(told.model, ["a piano", "drums"], [1, 2], settings, 64, 64, denoiser=denoiser)

        assert not torch.allclose(made(pictures), made(1 - pictures), atol=1e-3)
        plain = text_to_image(generator.get("cpu"), ["a piano", "drums"], [1, 2], settings, 64, 64)
        assert torch.equal(made(None), plain)
    with pytest.raises(BlendbenchError, match=r"tangopp\.hybrid=sum: choose concat, mean"):
        tangopp.PictureWords(vit, width, hybrid="sum")


def test_rows_without_a_picture_are_music_of_the_text_alone_where_that_is_allowed(folders, own, tmp_path):
    header, rows = ["image", "caption", "audio"], [["red.png", "a calm piano", "a.wav"], ["", "loud drums", "b.wav"]]
    write(own / "captions.csv", header, rows)
    settings = checkpoint_word(folders)
    words = ["run", "experiment=melfusion/random_image", "dataset=own_pictures", f"data.path={own}", "batch=2"]
    words += [f"arms.{arm}.checkpoint={settings}" for arm in ("random_image", "melfusion")]
    words += [f"generator.checkpoint={folders['generator']}", "generator.sampling.repaint.steps=2", "scene.seconds=1.0"]
    words += ["image.size=64", "arms.random_image.shown=none", "threads=1", "report=false", "statistics.resamples=20"]
    words += [f"store_dir={tmp_path / 'store'}"]
    assert call(*words, "image.missing=text_only", f"run_dir={tmp_path / 'a'}") == 0
    made = [json.loads(line) for line in (tmp_path / "a" / "pairs.jsonl").read_text().splitlines()]
    sums = {(row["arm"], row["prompt"]): row["sha256"] for row in made}
    assert sums["melfusion", "loud drums"] == sums["random_image", "loud drums"]
    assert sums["melfusion", "a calm piano"] != sums["random_image", "a calm piano"]
    assert call(*words, f"run_dir={tmp_path / 'b'}") == 0
    failed = [json.loads(line) for line in (tmp_path / "b" / "pairs.jsonl").read_text().splitlines()]
    assert sorted({row["status"] for row in failed}) == ["failed", "ok"]
    assert all("has no picture" in row["reason"] for row in failed if row["status"] == "failed")


def test_in_the_blend_task_the_noise_is_the_picture(folders, world, tmp_path):
    settings = checkpoint_word(folders)
    words = ["run", "experiment=bnmusic/table1", *world.words(), f"run_dir={tmp_path / 'run'}", "limit=2"]
    words += [f"arms.{arm}=null" for arm in compose(["experiment=bnmusic/table1"])["arms"] if arm != "noise_only"]
    for arm in ("own", "other", "none"):
        words += [f"+method@arms.{arm}=melfusion", f"arms.{arm}.source=noise", f"arms.{arm}.checkpoint={settings}"]
    words += ["arms.other.shown=other", "arms.none.shown=none", f"generator.checkpoint={folders['generator']}"]
    words += ["generator.sampling.repaint.steps=2", "evaluator=pocket", "experiment.metrics=[kl]", "report=false"]
    assert call(*words) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    heard = {(row["arm"], row["pair_id"]): row["sha256"] for row in rows if row["presentation"] == "direct"}
    assert all(row["status"] == "ok" for row in rows if row["arm"] in ("own", "other", "none"))
    for pair in {pair for _, pair in heard}:
        assert len({heard[arm, pair] for arm in ("own", "other", "none")}) == 3


def method_words(folders: dict[str, str]) -> list[str]:
    settings = checkpoint_word(folders)
    return [
        f"method.checkpoint={settings}", f"generator.checkpoint={folders['generator']}",
        "generator.sampling.repaint.steps=2", "image.size=64", "threads=1",
    ]  # fmt: skip


def test_a_soundtrack_of_any_length_for_a_picture_of_ones_own(folders, tmp_path):
    frames = [Image.new("RGBA", (30, 20), (200, 0, 0, 128)), Image.new("RGBA", (30, 20), (0, 0, 200, 255))]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
    words = ["soundtrack", str(tmp_path / "two.webp"), "--prompt", "a calm piano", "--seconds", "7"]
    assert call(*words, "--out", str(tmp_path / "out"), *method_words(folders)) == 0
    wave, rate = soundfile.read(tmp_path / "out" / "music.wav")
    assert rate == 44_100 and len(wave) == 7 * 44_100 and 0.001 < np.abs(wave).max() <= 1
    facts = json.loads((tmp_path / "out" / "soundtrack.json").read_text(encoding="utf-8"))
    assert facts["windows"] == 2 and facts["picture_notes"] == ["first of 2 frames", "over white"]
    with Image.open(tmp_path / "out" / "picture.png") as shown:
        assert shown.size == (64, 64) and shown.getpixel((9, 9))[0] > 220


@pytest.mark.parametrize(
    ("name", "more", "status", "message"),
    [
        ("none.png", [], 1, "none.png: no such file"),
        ("bad.png", [], 1, "cannot be read as a picture"),
        ("red.png", ["--prompt", " "], 1, "--prompt: is empty"),
        ("red.png", ["--seconds", "0"], 2, "scene.seconds"),
        ("red.png", ["method.shown=other"], 1, "wants others, which one picture has not"),
        ("red.png", ["method.shown=upside"], 1, "shown is 'upside'"),
    ],
)
def test_a_soundtrack_is_refused_in_one_line(folders, tmp_path, capsys, name, more, status, message):
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    words = ["soundtrack", str(tmp_path / name), "--prompt", "drums", "--out", str(tmp_path / "out")]
    assert call(*words, *method_words(folders), *more) == status
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told


def test_tangopps_published_transformer_is_vit_b_16():
    with torch.device("meta"):
        side = tangopp.PictureWords(tangopp.PUBLISHED, 1024)
    assert sum(value.numel() for value in side.vit.parameters()) == 85_798_656 and side.size == 224


def test_the_study_asks_the_papers_two_scores(own):
    study = task_of(own).study()
    assert study.settings["range"] == [1, 10] and list(study.settings["scales"]) == ["ovl", "rel"]


def test_scene_is_hashable():
    clip = pictured.builtin()[0]
    assert hash(Scene("a", clip)) == hash(Scene("a", clip)) and np.isfinite(float(clip.tempo))
