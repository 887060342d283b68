"""The published judge musicnn: its checkpoints without TensorFlow, its way here, its network, its numbers."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import bundles
from support.servers import Server, running_server
from support.worlds import call

from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators.musicnn import PATCH_SAMPLES, MusicnnTagger
from blendbench.models import catalog, fetch, musicnn, tensor_bundle
from blendbench.sound import audio, files

SHARED = Path(__file__).resolve().parents[2] / "shared"
WHEEL = "musicnn-0.1.0-py3-none-any.whl"


def some_tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    made = {f"layer_{number}/kernel": draw.standard_normal((3, number + 1)).astype("<f4") for number in range(13)}
    return made | {
        "count": np.array(7, "<i8"), "half": np.arange(4, dtype="<f2"), "none": np.zeros((0, 3), "<f4"),
        "double": np.array([np.pi], "<f8"), "whole": np.arange(-2, 2, dtype="<i4"),
    }  # fmt: skip


def test_a_bundle_is_read_as_it_was_written(tmp_path):
    tensors = some_tensors()
    found = tensor_bundle.read(*bundles.write(tmp_path, tensors))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert np.array_equal(found[name], value)
    some = tensor_bundle.read(*bundles.write(tmp_path, tensors), lambda name: name.endswith("3/kernel"))
    assert list(some) == ["layer_3/kernel"]


def test_no_damaged_bundle_gives_numbers(tmp_path):
    tensors = some_tensors()
    index, data = bundles.write(tmp_path, tensors)
    whole = {file: file.read_bytes() for file in (index, data)}
    draw, refused = np.random.default_rng(2), 0
    for file, content in whole.items():
        places = draw.choice(len(content), min(120, len(content)), replace=False)
        for damaged in [*(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :] for place in places),
                        *(content[:place] for place in places[:40])]:  # fmt: skip
            file.write_bytes(damaged)
            try:
                found = tensor_bundle.read(index, data)
            except BlendbenchError as error:
                assert str(file) in str(error) and "\n" not in str(error)
                refused += 1
            else:
                # What no checksum covers is padding before the footer's end, and the block of filters.
                assert all(np.array_equal(found[name], value) for name, value in tensors.items())
        file.write_bytes(content)
    assert refused > 250


@pytest.mark.parametrize(
    ("change", "reason"), [({"shards": 2}, "it has 2 data files"), ({"kind": 1}, "its blocks are compressed")]
)
def test_what_is_not_read_is_said(tmp_path, change, reason):
    index, data = bundles.write(tmp_path, some_tensors())
    index.write_bytes(bundles.bundle(some_tensors(), **change)[0])
    with pytest.raises(BlendbenchError, match=f"{re.escape(str(index))}: .*{reason}"):
        tensor_bundle.read(index, data)
    with pytest.raises(BlendbenchError, match="nowhere: No such file"):
        tensor_bundle.read(tmp_path / "nowhere", data)


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of torch hub's, with downloads allowed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BLENDBENCH_MIRROR", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub"


VARIABLES = {network: bundles.musicnn_variables(seed) for seed, network in enumerate(("MSD", "MTT"))}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch):
    """Makes the catalogue expect some bytes as the wheel."""

    def expect(content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        model = dataclasses.replace(catalog.known("musicnn"), sha256=digest, megabytes=len(content) / 1e6)
        monkeypatch.setitem(catalog.models(), "musicnn", model)

    return expect


@pytest.fixture
def index(server: Server, torch_home: Path, known, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A package index with a wheel of random weights, whose link is relative and tells a hash, as pages do."""
    content = bundles.musicnn_wheel(VARIABLES)
    known(content)
    server.files["/files/" + WHEEL] = content
    page = f'<html><body><a href="../../files/{WHEEL}#sha256=00">{WHEEL}</a></body></html>'
    server.files["/simple/musicnn/"] = page.encode()
    server.headers["/simple/musicnn/"] = {"Content-Type": "text/html"}
    monkeypatch.setenv("PIP_INDEX_URL", server.address + "/simple")
    return server


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith("blendbench: ")
    return found


@pytest.mark.parametrize("kind", ["page", "json", "mirror"])
def test_the_wheel_is_fetched_turned_into_safetensors_and_gone(index, torch_home, monkeypatch, capsys, kind):
    if kind == "json":
        listed = {"files": [{"filename": WHEEL, "url": f"{index.address}/files/{WHEEL}", "hashes": {}}]}
        index.files["/simple/musicnn/"] = json.dumps(listed).encode()
        index.headers["/simple/musicnn/"] = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
    if kind == "mirror":
        monkeypatch.setenv("BLENDBENCH_MIRROR", index.address + "/files")
        del index.files["/simple/musicnn/"]
    assert call("models", "fetch", "musicnn") == 0
    folder = torch_home / "blendbench" / "musicnn"
    assert catalog.find("musicnn") == folder
    assert files_in(folder.parent) == ["musicnn"]
    names = [f"{network}_musicnn.safetensors" for network in VARIABLES]
    assert files_in(folder) == sorted([*names, *(f"{name}.sha256" for name in names)])
    for network, variables in VARIABLES.items():
        loaded = MusicnnTagger("musicnn", network=network).model[1].state_dict()
        assert np.array_equal(loaded["middle.1.conv.weight"][5, 0], variables["conv2d_6/kernel"][:, :, 0, 5])
        assert np.array_equal(loaded["head.weight"].T, variables["dense_1/kernel"])
        assert np.array_equal(loaded["front.4.norm.running_var"], variables["batch_normalization_5/moving_variance"])
    capsys.readouterr()
    assert call("models", "check", "musicnn") == 0
    asked = len(index.requests)
    assert call("models", "fetch", "musicnn") == 0
    assert len(index.requests) == asked and "already here" in capsys.readouterr().out


def test_a_changed_file_is_told_and_made_again(index, torch_home, capsys):
    file = fetch.fetch("musicnn") / "MSD_musicnn.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert call("models", "check", "musicnn") == 1
    assert "MSD_musicnn.safetensors has sha256" in capsys.readouterr().out
    assert call("models", "fetch", "musicnn") == 0
    assert call("models", "check", "musicnn") == 0


def test_a_broken_transfer_goes_on(index, torch_home, capsys):
    index.cut_after = 100_000
    assert call("models", "fetch", "musicnn") == 1
    del index.requests[:]
    assert "goes on from there" in refusal(capsys)
    index.cut_after = None
    assert call("models", "fetch", "musicnn") == 0
    assert index.requests[-1][2] == "bytes=100000-"


def test_no_network_no_index_no_file_or_another_file_is_one_line(index, torch_home, monkeypatch, capsys, known):
    content = index.files["/files/" + WHEEL]
    index.files["/files/" + WHEEL] = content[:-1] + b"x"
    assert call("models", "fetch", "musicnn") == 1
    assert "has sha256" in refusal(capsys)
    index.files["/files/" + WHEEL] = content[:-1]
    assert call("models", "fetch", "musicnn") == 1
    assert f"{len(content) - 1} bytes there, not {len(content)}" in refusal(capsys)
    index.files["/simple/musicnn/"] = b"<html>nothing</html>"
    assert call("models", "fetch", "musicnn") == 1
    assert f"has no {WHEEL}; set PIP_INDEX_URL" in refusal(capsys)
    del index.files["/simple/musicnn/"]
    assert call("models", "fetch", "musicnn") == 1
    assert "HTTP 404" in refusal(capsys)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    assert call("models", "fetch", "musicnn") == 1
    text = refusal(capsys)
    assert "127.0.0.1:9/simple/musicnn/" in text and "secret" not in text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call("models", "fetch", "musicnn") == 1
    assert "unset HF_HUB_OFFLINE" in refusal(capsys)
    assert not list(torch_home.rglob("*.safetensors"))
    with pytest.raises(BlendbenchError, match="not here; type `blendbench models fetch musicnn`"):
        MusicnnTagger("musicnn").fingerprint  # noqa: B018


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.pop("dense/kernel"), "MSD_musicnn lacks 'dense/kernel'"),
        (lambda one: one.update({"dense_1/bias": np.zeros(49, "<f4")}), r"head.bias is \[49\], not \[50\]"),
    ],
)
def test_a_wheel_of_other_weights_leaves_nothing(index, torch_home, known, capsys, change, reason):
    changed = {network: dict(variables) for network, variables in VARIABLES.items()}
    change(changed["MSD"])
    content = bundles.musicnn_wheel(changed)
    known(content)
    index.files["/files/" + WHEEL] = content
    assert call("models", "fetch", "musicnn") == 1
    assert re.search(reason, refusal(capsys))
    assert files_in(torch_home / "blendbench") == []


def test_a_wheel_that_is_no_zip_or_lacks_a_checkpoint_is_refused(tmp_path):
    wheel = tmp_path / "some.whl"
    for content in (b"PK\3\4", b"", bundles.musicnn_wheel({"MTT": VARIABLES["MTT"]})):
        wheel.write_bytes(content)
        with pytest.raises(BlendbenchError, match=r"some.whl: no readable wheel of musicnn"):
            musicnn.convert(wheel, tmp_path)


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.musicnn_folder(tmp_path_factory.mktemp("musicnn"))


@pytest.mark.parametrize(("hop", "patches"), [(1.0, 3), (2.976, 1), (0.5, 5), (10.0, 1)])
def test_patches_lie_a_hop_apart(own_weights, hop, patches):
    evaluator = MusicnnTagger("musicnn", checkpoint=str(own_weights), hop_seconds=hop)
    heard = evaluator.score(torch.randn(80_000, generator=torch.Generator().manual_seed(0)) * 0.1)
    assert heard.embeddings is not None and heard.embeddings.shape == (patches, 200)
    assert heard.logits is not None and heard.logits.shape == (50,)


def test_layers_networks_and_edges_are_settings_of_the_signature(own_weights):
    sound = torch.randn(64_000, generator=torch.Generator().manual_seed(0)) * 0.1
    made = {}
    for words in ({}, {"network": "MTT"}, {"layer": "mean_pool"}, {"layer": "max_pool"}, {"pad": "reflect"}):
        evaluator = MusicnnTagger("musicnn", checkpoint=str(own_weights), **words)
        made[str(evaluator.signature())] = evaluator.score(sound).embeddings
    assert len(made) == 5
    assert [value.shape[1] for value in made.values()] == [200, 200, 753, 753, 200]
    base, _, _, _, reflected = made.values()
    assert not torch.equal(base, reflected)


def test_too_short_and_silent_clips(own_weights):
    evaluator = MusicnnTagger("musicnn", checkpoint=str(own_weights))
    with pytest.raises(ClipError, match=r"lasts 2.98 s; evaluator musicnn needs at least 2.98 s"):
        evaluator.score(torch.zeros(PATCH_SAMPLES - 1))
    heard = evaluator.score(torch.zeros(PATCH_SAMPLES))
    assert heard.embeddings is not None and bool(heard.embeddings.isfinite().all())
    with pytest.raises(BlendbenchError, match="hop_seconds=0"):
        MusicnnTagger("musicnn", hop_seconds=0.0)
    with pytest.raises(BlendbenchError, match=r"MTT_musicnn\.safetensors: damaged"):
        (own_weights / "broken").mkdir()
        (own_weights / "broken" / "MTT_musicnn.safetensors").write_bytes(b"\xff" * 64)
        MusicnnTagger("musicnn", network="MTT", checkpoint=str(own_weights / "broken")).prepare("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, through the package index."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)
        if catalog.place(catalog.known("musicnn")) is None:
            patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        try:
            return fetch.fetch("musicnn")
        except BlendbenchError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"musicnn cannot be fetched here: {error}")


@pytest.mark.parametrize("network", ["MSD", "MTT"])
def test_the_published_programs_numbers(published, network):
    golden, clips = SHARED / "specs" / "musicnn_golden.json", SHARED / "data" / "MusicBench" / "data"
    if not golden.is_file() or not clips.is_dir():
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(golden)
        pytest.skip(f"{golden} and the clips of {clips} are not here")
    librosa = pytest.importorskip("librosa")
    # Patches side by side, as the program takes them.
    settings = {"network": network, "checkpoint": str(published), "hop_seconds": 187 * 256 / 16_000}
    tagger = MusicnnTagger("musicnn", **settings)
    front_end, model = tagger.model
    for name, clip in json.loads(golden.read_text())["clips"].items():
        wanted = clip[f"{network}_musicnn"]
        sound = torch.from_numpy(librosa.load(clips / name, sr=16_000)[0])
        frames = front_end(sound[None])[0]
        patches = [frames[left : left + 187] for left in range(0, len(frames) - 186, 187)]
        with torch.inference_mode():
            heard = model(torch.stack(patches))
        assert torch.allclose(heard.logits.sigmoid(), torch.tensor(wanted["likelihoods"]), atol=5e-5)
        assert torch.allclose(heard.mean_pool.norm(dim=1), torch.tensor(wanted["mean_pool_norm"]), rtol=1e-4)
        assert torch.allclose(heard.max_pool.norm(dim=1), torch.tensor(wanted["max_pool_norm"]), rtol=1e-4)
        # The program gives its first patch's penultimate layer for every patch: it never takes the next ones up.
        assert torch.allclose(heard.penultimate[0, :8], torch.tensor(wanted["penultimate_first8"][0]), atol=2e-4)
        said = tagger.score(sound)
        assert said.logits is not None
        assert torch.allclose(said.logits.sigmoid(), torch.tensor(wanted["likelihoods"]).mean(0), atol=5e-5)


def test_it_hears_what_it_should(published):
    clips = SHARED / "data" / "MusicBench" / "data"
    if not clips.is_dir():
        pytest.skip(f"{clips} is not here")
    tops = {}
    for network, name in (("MSD", "pop909_006_jazz_0.ogg"), ("MTT", "pop909_536_pop_1.ogg")):
        tagger = MusicnnTagger("musicnn", network=network, checkpoint=str(published))
        sound = audio.resample(files.read(clips / name), 44_100, 16_000)
        tops[network] = tagger.tags[int(tagger.score(sound).logits.argmax())]
    assert tops == {"MSD": "jazz", "MTT": "piano"}
