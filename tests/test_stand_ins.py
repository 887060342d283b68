"""Files in whose place something else was left: whatever reads a file of the user's says what it is and what to do."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from support.audio_corpus import ANNEX_POINTER, LFS_POINTER, STAND_INS, WEB_PAGE
from support.tiny_models import tiny_diffusion
from support.worlds import CHEAP, RATE, World, call, noise_sound, write_esc50

from blendbench import stand_ins
from blendbench.datasets import archives, builtin, epic_sounds, hdf5, manifests, tables
from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators.published import locate
from blendbench.models import lora
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.stable_diffusion import load_single_file
from blendbench.models.tagger import Tagger
from blendbench.models.weights import read_state
from blendbench.sound import files

READERS: dict[str, Callable[[Path], Any]] = {
    "a.wav": files.read,
    "a.csv": lambda file: list(tables.read_csv(file, ("file",))),
    "a.json": lambda file: list(tables.read_json_lines(file, ("location",), "MusicBench")),
    "manifest.json": manifests.read,
    "prompts.txt": lambda file: builtin.prompts(str(file)),
    "prompts.csv": lambda file: builtin.prompts(str(file)),
    "a.hdf5": lambda file: hdf5.read_span(file, "P01", 0.0, 1.0, 24_000),
    "lengths.hdf5": lambda file: hdf5.durations(file, 24_000),
    "a.zip": lambda file: archives.unpack(file, file.parent / "out", max_bytes=10**6),
    "a.tar.gz": lambda file: archives.unpack(file, file.parent / "out", max_bytes=10**6),
    "a.safetensors": lambda file: load_single_file(file, "nowhere"),
    "adapter.safetensors": lambda file: lora.merge(None, file),
    "generator.safetensors": lambda file: Generator("own", str(file)).fingerprint,
    "evaluator.pth": lambda file: locate(str(file), "vggish"),
    "state.pth": read_state,
}
"""What reads files of the user's, by the name of a file."""


def reason(read: Callable[[Path], Any], file: Path) -> str:
    """The one line that a reader refuses a file with."""
    with pytest.raises(BlendbenchError) as raised:
        read(file)
    text = str(raised.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", STAND_INS)
def test_each_reader_says_what_was_left_in_a_files_place(kind: str, name: str, tmp_path: Path):
    content, expected = STAND_INS[kind]
    file = tmp_path / name
    file.write_bytes(content)
    assert re.fullmatch(rf"{re.escape(str(file))}: {expected}.*", reason(READERS[name], file))


@pytest.mark.parametrize("name", READERS)
def test_each_reader_tells_a_link_of_git_annex_from_a_missing_file(name: str, tmp_path: Path):
    file = tmp_path / name
    file.symlink_to("../.git/annex/objects/1/2/MD5-ab/MD5-ab")
    assert f"{file}: is a git-annex link whose content is not here; run `git annex get`" in reason(READERS[name], file)


def test_link_of_git_annex_that_leads_out_of_the_data_set_asks_for_its_content_first(tmp_path: Path):
    folder, objects = tmp_path / "data", tmp_path / ".git" / "annex" / "objects"
    folder.mkdir()
    link = folder / "a.wav"
    link.symlink_to("../.git/annex/objects/ab.wav")
    with pytest.raises(ClipError, match="run `git annex get`"):
        tables.check_links(link, folder)
    objects.mkdir(parents=True)
    (objects / "ab.wav").write_bytes(LFS_POINTER)
    with pytest.raises(ClipError, match=r"leads out of .*data\.follow_links=true"):
        tables.check_links(link, folder)


@pytest.mark.parametrize(
    "prompt",
    ["MAC demo tape", "BZh and GIF8 noises", "<whisper> jazz", "DSD remaster", "version 2 of the song", "{calm} piano"],
)
def test_prompt_that_begins_like_another_format_is_a_prompt(prompt: str, tmp_path: Path):
    (tmp_path / "p.txt").write_text(prompt)
    assert [one.text for one in builtin.prompts(str(tmp_path / "p.txt"))] == [prompt]


def test_binary_file_named_txt_holds_no_prompts(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "p.txt", "w") as packed:
        packed.writestr("p.txt", "calm jazz")
    assert "p.txt: is a zip archive, not text" in reason(lambda file: builtin.prompts(str(file)), tmp_path / "p.txt")


def test_companions_of_macos_do_not_count_as_recordings(tmp_path: Path):
    (tmp_path / "EPIC_audio.hdf5").touch()
    (tmp_path / "._EPIC_audio.hdf5").write_bytes(b"\0\5\x16\7" + bytes(4_000))
    assert epic_sounds.find_audio(tmp_path) == tmp_path / "EPIC_audio.hdf5"


def test_data_check_counts_pointers_pages_and_empty_files_as_missing(tmp_path: Path, capfd):
    names = ["good.wav", "lfs.wav", "page.wav", "annex.wav", "empty.wav"]
    folder = write_esc50(tmp_path, names, ["wind"])
    soundfile.write(folder / "good.wav", noise_sound(1), RATE)
    for name, content in (("lfs", LFS_POINTER), ("page", WEB_PAGE), ("annex", ANNEX_POINTER), ("empty", b"")):
        (folder / f"{name}.wav").write_bytes(content)
    assert call("data", "check", "esc50", f"data.root={tmp_path}") == 1
    first, second = capfd.readouterr().out.splitlines()
    assert "4 cannot be heard" in first
    assert "1 of 5 there" in second
    assert "is a Git LFS pointer, not the file itself; run `git lfs pull` where you cloned it: lfs" in second


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small generator in diffusers' layout."""
    tiny_diffusion(tmp_path / "tokenizer").save(tmp_path / "generator")
    return tmp_path / "generator"


PARTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "scheduler/scheduler_config.json",
]


@pytest.mark.parametrize("part", PARTS)
def test_generator_cloned_without_its_content_is_refused_before_it_is_loaded_and_after(part: str, checkpoint: Path):
    (checkpoint / part).write_bytes(LFS_POINTER)
    expected = f"{checkpoint / part}: is a Git LFS pointer, not the file itself; run `git lfs pull` where you cloned it"
    assert reason(lambda folder: Generator("own", str(folder)).fingerprint, checkpoint) == expected
    assert reason(LatentDiffusion.load, checkpoint) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WEB_PAGE, "is a web page"),
        (b"Entry not found", r"is text \('Entry not found'\), not weights; fetch the file itself"),
        (b'{"error": "gated"}', "is text .*gated.*, not weights"),
        (b"", r"is empty \(0 bytes\); fetch it again"),
        (bytes(5_000), "is zeros at its beginning"),
        (b"PK\3\4" + bytes(100), "is a zip archive, not weights; unpack it"),
    ],
)
def test_weights_that_are_something_else_are_named(content: bytes, expected: str, checkpoint: Path):
    (checkpoint / PARTS[0]).write_bytes(content)
    for read in (LatentDiffusion.load, lambda folder: Generator("own", str(folder)).fingerprint):
        assert re.match(f"{re.escape(str(checkpoint / PARTS[0]))}: {expected}", reason(read, checkpoint))


def test_pointer_beside_whole_weights_does_no_harm(checkpoint: Path):
    (checkpoint / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(LFS_POINTER)
    LatentDiffusion.load(checkpoint)
    assert Generator("own", str(checkpoint)).fingerprint


def test_one_shard_that_is_a_pointer_is_refused_beside_whole_ones(checkpoint: Path):
    shard = checkpoint / "unet" / "model-00002-of-00002.safetensors"
    shard.write_bytes(LFS_POINTER)
    assert reason(stand_ins.refuse_weights, checkpoint).startswith(f"{shard}: is a Git LFS pointer")


def test_lost_link_in_a_checkpoint_is_one_line(checkpoint: Path):
    weights = checkpoint / PARTS[0]
    weights.unlink()
    weights.symlink_to("../../.git/annex/objects/ab")
    assert "git annex get" in reason(lambda folder: Generator("own", str(folder)).fingerprint, checkpoint)
    weights.unlink()
    weights.symlink_to("nowhere")
    told = reason(lambda folder: Generator("own", str(folder)).fingerprint, checkpoint)
    assert told.startswith(f"{weights}: cannot be read")


def test_tagger_that_is_a_pointer_is_named(world: World, tmp_path: Path):
    shutil.copytree(world.evaluator, tmp_path / "tagger")
    (tmp_path / "tagger" / "model.safetensors").write_bytes(LFS_POINTER)
    assert "model.safetensors: is a Git LFS pointer" in reason(Tagger.load, tmp_path / "tagger")


def test_run_with_a_checkpoint_of_pointers_stops_before_any_work(world: World, tmp_path: Path, capfd):
    shutil.copytree(world.musicgen, tmp_path / "musicgen")
    weights = tmp_path / "musicgen" / "model.safetensors"
    weights.write_bytes(LFS_POINTER)
    words = [*CHEAP[:2], f"generator.musicgen.checkpoint={tmp_path / 'musicgen'}", "limit=1"]
    assert world.run(tmp_path / "run", *words) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"blendbench: {weights}: is a Git LFS pointer, not the file itself; run `git lfs pull`")
    assert not (tmp_path / "run").exists()
