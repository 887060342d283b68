"""Published checkpoints as they are: pickled weights turned into safetensors, and models under names of one's own."""

import functools
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.servers import Server, running_server
from support.tiny_models import tiny_diffusion
from support.tiny_tango import TINY, tiny_tango, write_published
from support.worlds import World, call, write_musicgen

from blendbench.errors import BlendbenchError
from blendbench.models import catalog, tango_published
from blendbench.models.convert import convert, in_safetensors
from blendbench.models.generator import Generator
from blendbench.models.musicgen import CodeSampling, MusicGenCheckpoint
from blendbench.models.priors import AudioPrior, PriorCheckpoint
from blendbench.models.tango import TangoCheckpoint, text_to_music


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder of torch hub's, and no models of one's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BLENDBENCH_MIRROR", "BLENDBENCH_MODELS"):
        monkeypatch.delenv(name, raising=False)
    catalog.forget()
    yield tmp_path / "torch" / "hub"
    catalog.forget()


@pytest.fixture
def hub(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A small hub and an empty cache."""
    from huggingface_hub import constants

    with running_server() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(torch_home.parent / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def pickled(folder: Path, target: Path, *, evil: Path | None = None) -> Path:
    """A copy of a folder with its safetensors pickled, as many are published."""
    shutil.copytree(folder, target)
    for file in list(target.rglob("*.safetensors")):
        name = {"model.safetensors": "pytorch_model.bin"}.get(file.name, file.stem + ".bin")
        content: dict = load_file(file)
        if evil is not None:
            content["position_ids"] = Evil(evil)
        torch.save(content, file.with_name(name))
        file.unlink()
    return target


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion")
    tiny_diffusion(folder / "tokenizer").save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musicgen")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_musicgen(folder)
    return folder


def test_names_are_those_of_the_libraries():
    assert {name: in_safetensors(name) for name in (
        "pytorch_model.bin", "text_encoder/pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json", "unet/diffusion_pytorch_model.bin", "v1-5.ckpt", "config.json", "a.bin.txt",
    )} == {
        "pytorch_model.bin": "model.safetensors",
        "text_encoder/pytorch_model.bin": "text_encoder/model.safetensors",
        "pytorch_model-00001-of-00002.bin": "model-00001-of-00002.safetensors",
        "pytorch_model.bin.index.json": "model.safetensors.index.json",
        "unet/diffusion_pytorch_model.bin": "unet/diffusion_pytorch_model.safetensors",
        "v1-5.ckpt": "v1-5.safetensors", "config.json": "config.json", "a.bin.txt": "a.bin.txt",
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_is_written_tensor_by_tensor_with_its_source_in_the_metadata(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a.weight": base, "tied": base, "turned": base.T, "part": base[1:], "half": torch.ones(2).bfloat16(),
             "count": torch.tensor(3), "none": torch.zeros(0, 2)}  # fmt: skip
    file = tmp_path / "some.ckpt"
    whole = {"epoch": 7, "state_dict": state, "optimizer_states": [{"step": torch.ones(1)}], "hparams": {"lr": 0.1}}
    torch.save(whole, file, _use_new_zipfile_serialization=zipped)
    convert(file, tmp_path / "some.safetensors")
    found = load_file(tmp_path / "some.safetensors")
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    with safe_open(tmp_path / "some.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["source"] == "some.ckpt"
    assert metadata["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (tmp_path / "some.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_pickle_that_asks_for_code_is_refused_by_name_and_does_nothing(tmp_path, diffusion):
    file, target = tmp_path / "evil.bin", tmp_path / "evil.safetensors"
    torch.save({"weight": torch.ones(2), "x": Evil(tmp_path / "made")}, file)
    with pytest.raises(BlendbenchError, match=r"evil\.bin: holds .*mkdir, not weights alone"):
        convert(file, target)
    folder = pickled(diffusion, tmp_path / "folder", evil=tmp_path / "made")
    with pytest.raises(BlendbenchError, match=r"holds .*mkdir"):
        convert(folder, tmp_path / "converted")
    assert not (tmp_path / "made").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.bin", "folder"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", b"\x80\x02}q\x00.", b"\xff" * 100])
def test_what_is_damaged_or_holds_no_tensors_is_one_line(tmp_path, content):
    (tmp_path / "some.pt").write_bytes(content)
    with pytest.raises(BlendbenchError, match=r"some\.pt: ") as refused:
        convert(tmp_path / "some.pt", tmp_path / "some.safetensors")
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.pt"]


def test_memory_stays_small(tmp_path):
    torch.save({f"w{number}": torch.randn(4_000_000) for number in range(8)}, tmp_path / "big.pt")

    def anonymous() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1000

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    before, most, ended = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    convert(tmp_path / "big.pt", tmp_path / "big.safetensors")
    ended.set()
    thread.join()
    assert (tmp_path / "big.safetensors").stat().st_size > 128e6
    assert most[0] - before < 40  # MB, of 128 in the file


def images(folder: str) -> torch.Tensor:
    model = Generator("some", folder).get("cpu")
    return torch.cat([parameter.flatten() for parameter in (*model.unet.parameters(), *model.vae.parameters())])


def test_a_folder_in_diffusers_layout_gives_the_same_model(tmp_path, diffusion):
    folder = pickled(diffusion, tmp_path / "pickled")
    (folder / "unet" / "optimizer.bin").write_bytes(b"of a training")
    convert(folder, tmp_path / "converted")
    assert set(files_of(tmp_path / "converted")) == set(files_of(diffusion))
    assert torch.equal(images(str(tmp_path / "converted")), images(str(diffusion)))


def test_a_model_in_several_files_gives_the_same_music(tmp_path, musicgen):
    folder = tmp_path / "sharded"
    shutil.copytree(musicgen, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, placed = sorted(state), {}
    for number, some in enumerate(np.array_split(names, 2), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in some.tolist()}, folder / file)
        placed |= dict.fromkeys(some.tolist(), file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    convert(folder, tmp_path / "converted")

    def music(place: Path) -> torch.Tensor:
        model = MusicGenCheckpoint("generator.musicgen", str(place)).get("cpu")
        melody = torch.sin(torch.arange(32_000) / 20)[None]
        return model.generate(["a song"], melody, 32_000, [1], CodeSampling())

    assert torch.equal(music(tmp_path / "converted"), music(musicgen))


def test_a_hub_without_safetensors_is_fetched_and_converted(hub, torch_home, tmp_path, diffusion, capsys):
    hub.repositories["riffusion/riffusion-model-v1"] = files_of(pickled(diffusion, tmp_path / "pickled"))
    assert call("models", "fetch", "riffusion") == 0
    said = capsys.readouterr().out
    assert "converting" in said and "unet/diffusion_pytorch_model.bin" in said
    place = torch_home / "blendbench" / "riffusion"
    assert catalog.find("riffusion") == place
    assert torch.equal(images("riffusion/riffusion-model-v1"), images(str(diffusion)))
    assert call("models", "check", "riffusion") == 0
    asked = len(hub.requests)
    assert call("models", "fetch", "riffusion") == 0
    assert len(hub.requests) == asked
    file = place / "unet" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    assert call("models", "check", "riffusion") == 1
    assert "which it was made with" in capsys.readouterr().out
    assert call("models", "fetch", "riffusion") == 0
    assert file.read_bytes() == content


@pytest.fixture
def tango(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TANGO of small size in its published layout, with the tokenizer's files in `words/`."""
    small = functools.partial(tango_published.convert_published, sizes=TINY)
    monkeypatch.setattr(tango_published, "convert_published", small)
    model = tiny_tango()
    write_published(model, tmp_path / "tango")
    shutil.rmtree(tmp_path / "tango" / "tokenizer", ignore_errors=True)
    model.tokenizer.save_pretrained(tmp_path / "words")
    return tmp_path / "tango"


def sung(checkpoint: str) -> torch.Tensor:
    return text_to_music(TangoCheckpoint("tango", checkpoint).get("cpu"), ["a calm piano"], [1], steps=2, frames=8)


def test_a_model_of_several_files_and_repositories_is_fetched(hub, torch_home, tmp_path, tango, capsys):
    hub.repositories["declare-lab/tango-full-ft-audio-music-caps"] = files_of(tango)
    words = files_of(tmp_path / "words")
    hub.repositories["google/flan-t5-large"] = {"special_tokens_map.json": b"{}"} | words
    assert call("models", "fetch", "tango") == 0
    assert "converting pytorch_model_main.bin" in capsys.readouterr().out
    wanted = text_to_music(tiny_tango(), ["a calm piano"], [1], steps=2, frames=8)
    assert torch.allclose(sung("tango"), wanted, atol=1e-5)
    assert call("models", "check", "tango") == 0
    # One of the user's own, from a hub, too.
    hub.repositories["someone/tango"] = hub.repositories["declare-lab/tango-full-ft-audio-music-caps"]
    assert call("models", "add", "mine", "someone/tango", "--as", "tango") == 0
    assert torch.allclose(sung("mine"), wanted, atol=1e-5)


def test_a_published_folder_of_several_files_is_added(torch_home, tmp_path, tango, capsys):
    assert call("models", "add", "mine", str(tango), "--as", "tango") == 1
    assert "put the tokenizer's files of google/flan-t5-large there" in capsys.readouterr().err
    shutil.copytree(tmp_path / "words", tango / "tokenizer")
    assert call("models", "add", "mine", str(tango), "--as", "tango") == 0
    assert torch.allclose(
        sung("mine"), text_to_music(tiny_tango(), ["a calm piano"], [1], steps=2, frames=8), atol=1e-5
    )


def test_a_hub_with_code_in_its_weights_is_refused(hub, torch_home, tmp_path, diffusion, capsys):
    folder = pickled(diffusion, tmp_path / "pickled", evil=tmp_path / "made")
    hub.repositories["riffusion/riffusion-model-v1"] = files_of(folder)
    assert call("models", "fetch", "riffusion") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "mkdir, not weights alone" in line
    assert not (tmp_path / "made").exists() and not (torch_home / "blendbench" / "riffusion").exists()


def test_a_folder_a_file_and_a_hub_model_are_added_by_name(hub, torch_home, tmp_path, diffusion, musicgen, capsys):
    assert call("models", "add", "as-it-is", str(diffusion), "--as", "riffusion") == 0
    assert catalog.find("as-it-is") == diffusion
    assert call("models", "add", "turned", str(pickled(diffusion, tmp_path / "p")), "--as", "riffusion") == 0
    assert catalog.find("turned") == torch_home / "blendbench" / "turned"
    hub.repositories["someone/music"] = files_of(pickled(musicgen, tmp_path / "m"))
    assert call("models", "add", "theirs", "someone/music", "--as", "musicgen") == 0
    said = capsys.readouterr().out
    assert "use it as generator.checkpoint=turned" in said
    assert "use it as generator.musicgen.checkpoint=theirs" in said
    for name in ("as-it-is", "turned"):
        assert torch.equal(images(name), images(str(diffusion)))
    fingerprints = {MusicGenCheckpoint("x", name).fingerprint for name in ("theirs", "someone/music")}
    assert len(fingerprints) == 1
    state = tmp_path / "single.ckpt"
    torch.save({"state_dict": load_file(diffusion / "unet" / "diffusion_pytorch_model.safetensors")}, state)
    assert call("models", "add", "single", str(state), "--as", "riffusion") == 0
    assert Generator("some", "single").single_file == torch_home / "blendbench" / "single.safetensors"
    capsys.readouterr()
    assert call("models", "check", "as-it-is", "turned", "theirs", "single") == 0
    assert call("models", "list") == 0
    assert all(f" model {name} " in capsys.readouterr().out for name in ("single",))
    # Again under the same name takes its place.
    assert call("models", "add", "single", str(diffusion), "--as", "riffusion") == 0
    assert catalog.find("single") == diffusion


def test_a_prior_with_pickled_weights_is_added_by_name(torch_home, tmp_path):
    network = {"bins": [8, 8, 16], "widths": [8, 8, 16], "layers": [1, 1, 1], "bottleneck": 1, "embedding": 16}
    AudioPrior(11_025, 0.063, None, 4096, network).save(tmp_path / "own")
    weights = tmp_path / "own" / "model.safetensors"
    torch.save({"state_dict": load_file(weights)}, tmp_path / "own" / "pytorch_model.bin")
    weights.unlink()
    assert call("models", "add", "mine", str(tmp_path / "own"), "--as", "prior") == 0
    mine = PriorCheckpoint("prior", "mine")
    assert mine.folder == torch_home / "blendbench" / "mine"
    x = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    made = mine.get("cpu").denoise(x, 0.5)
    # Against the weights themselves, and not against the base alone.
    whole = AudioPrior(11_025, 0.063, None, 4096, network)
    whole.load_state_dict(
        {key: value.float() for key, value in load_file(mine.folder / "model.safetensors").items()}, strict=False
    )
    assert torch.equal(made, whole.eval().denoise(x, 0.5))
    assert not torch.allclose(made, whole.linear(x, torch.full((1, 1), 0.5)))
    assert mine.signature()["checkpoint"] == PriorCheckpoint("prior", str(mine.folder)).fingerprint


@pytest.mark.soak
def test_a_run_takes_an_added_model_by_its_name(torch_home, world: World, tmp_path):
    assert call("models", "add", "mine", str(pickled(world.generator, tmp_path / "p")), "--as", "riffusion") == 0
    words = ["limit=1", "arms.musicgen_melody=null", "arms.random_music=null", "presentations.direct=null"]
    there = world.with_store(tmp_path / "store")
    assert there.run(tmp_path / "run", *words, "generator.checkpoint=mine", "report=false") == 0


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["x", "FOLDER"], 2, "add and --as belong together"),
        (["x", "--as", "riffusion"], 2, "add: give a name and a path or hub id"),
        (["x", "FOLDER", "--as", "painter"], 2, "--as painter: use one of riffusion, musicgen"),
        (["tagger", "FOLDER", "--as", "riffusion"], 2, "tagger: a model that blendbench knows"),
        (["a/b", "FOLDER", "--as", "riffusion"], 2, "'a/b' cannot be a model's name"),
        (["x", "./nowhere", "--as", "riffusion"], 1, "./nowhere: no such file or folder"),
        (["x", "FOLDER", "--as", "musicgen"], 1, "has no config.json, which a musicgen needs"),
        (["x", "FILE", "--as", "musicgen"], 1, "is one file; give a folder as musicgen"),
        (["x", "FILE", "--as", "riffusion"], 1, "no file of weights; give .safetensors"),
        (["x", "someone/nothing", "--as", "musicgen"], 1, "x: http"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_leaves_no_entry(
    hub, torch_home, tmp_path, diffusion, capsys, words, status, reason
):
    (tmp_path / "text.txt").write_text("no weights")
    places = {"FOLDER": str(diffusion), "FILE": str(tmp_path / "text.txt")}
    assert call("models", "add", *(places.get(word, word) for word in words)) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not list((torch_home / "blendbench").rglob("*.yaml"))


def test_an_added_folder_that_is_gone_is_told(torch_home, tmp_path, capsys):
    save_file({"w": torch.ones(1)}, tmp_path / "one.safetensors")
    assert call("models", "add", "gone", str(tmp_path / "one.safetensors"), "--as", "riffusion") == 0
    (tmp_path / "one.safetensors").unlink()
    capsys.readouterr()
    assert call("models", "check", "gone") == 1
    assert "type `blendbench models add gone PATH --as ...` again" in capsys.readouterr().out
