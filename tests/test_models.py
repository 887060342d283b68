"""`blendbench models`: what is known, what is here, and downloads from a real HTTP server on this machine."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from safetensors.numpy import save
from support.servers import LATER, Server, running_server
from support.worlds import call

from blendbench.errors import BlendbenchError
from blendbench.models import catalog, fetch

PANN = "Cnn14_8k_mAP%3D0.416.pth"
"""The one plain file of which no size and no hash is known beforehand."""
CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8))


def weights(seed: int = 0) -> bytes:
    return save({"weight": np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)})


def encodec() -> dict[str, bytes]:
    return {
        "README.md": b"# a codec",
        "config.json": b'{"model_type": "encodec"}',
        "preprocessor_config.json": b"{}",
        "model.safetensors": weights(),
        "pytorch_model.bin": b"a pickle",
    }


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of torch hub's, with downloads allowed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BLENDBENCH_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def mirror(server: Server, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A mirror of the plain files that holds one of them."""
    monkeypatch.setenv("BLENDBENCH_MIRROR", f"{server.address}/copy/")
    server.files[f"/copy/{unquote(PANN)}"] = CONTENT
    return server


@pytest.fixture
def hub(server: Server, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A small hub and an empty cache. The library reads their places at import, so they are set there, too."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(torch_home.parent / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.repositories["facebook/encodec_24khz"] = encodec()
    return server


def line(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """What `models list` or `check` printed of a model."""
    (found,) = [line for line in capsys.readouterr().out.splitlines() if f" model {name} " in line]
    return found


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith("blendbench: ")
    return found


def test_every_model_is_listed_with_its_facts(torch_home, capsys):
    assert call("models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(catalog.models())
    for printed, model in zip(lines, catalog.models().values(), strict=True):
        assert f" model {model.name} " in printed
        assert model.licence in printed
        assert model.used_by in printed
        assert model.origin in printed
        if model.kind == "builtin":
            assert printed.startswith("ok ") and " MB, checkpoint " in printed
        else:
            assert model.sha256 is None or model.sha256 in printed
    (passt,) = [printed for printed in lines if " model passt " in printed]
    assert passt.startswith("-- ")
    assert "not here" in passt
    assert passt.endswith("type `blendbench models fetch passt`")
    assert "344.7 MB" in passt


def test_commits_are_pinned_or_said_not_to_be():
    for model in catalog.models().values():
        if model.kind == "hub":
            assert bool(re.fullmatch("[0-9a-f]{40}", model.revision or "")) != ("(not pinned)" in model.origin)


def test_check_fails_only_for_what_was_named_or_travels_with_the_package(torch_home, capsys):
    assert call("models", "check") == 0
    assert "MISS" not in capsys.readouterr().out
    assert call("models", "check", "tagger") == 0
    assert call("models", "check", "passt", "tagger") == 1
    assert line(capsys, "passt").startswith("MISS")


@pytest.mark.parametrize(
    "words", [("list", "nonsense"), ("check", "nonsense"), ("fetch", "passt", "nonsense"), ("fetch",)]
)
def test_unknown_or_no_name_is_wrong_usage_that_tells_those_there_are(torch_home, capsys, words):
    assert call("models", *words) == 2
    text = refusal(capsys)
    assert all(name in text for name in catalog.models())
    assert not torch_home.exists()


def test_file_is_fetched_hashed_and_put_where_torch_hub_looks(mirror, torch_home, capsys):
    assert call("models", "fetch", "pann_8k") == 0
    digest = hashlib.sha256(CONTENT).hexdigest()
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("pann_8k: licence CC-BY 4.0")
    assert digest in out
    assert sorted(path.name for path in torch_home.iterdir()) == [PANN, f"{PANN}.sha256"]
    assert (torch_home / PANN).read_bytes() == CONTENT
    assert (torch_home / f"{PANN}.sha256").read_text() == f"{digest}  {PANN}\n"
    assert catalog.find("pann_8k") == torch_home / PANN
    assert call("models", "check", "pann_8k") == 0
    assert digest in line(capsys, "pann_8k")


def test_what_is_here_is_not_fetched_again(mirror, torch_home, capsys):
    fetch.fetch("pann_8k")
    asked = len(mirror.requests)
    assert call("models", "fetch", "pann_8k") == 0
    assert "already here" in capsys.readouterr().out
    assert len(mirror.requests) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_goes_on_after_a_broken_connection(mirror, torch_home, capsys, ranges):
    mirror.ranges = ranges
    mirror.cut_after = 1_200_000
    assert call("models", "fetch", "pann_8k") == 1
    text = refusal(capsys)
    assert mirror.address in text and "1200000 of 3000000" in text and "goes on" in text
    assert [path.name for path in torch_home.iterdir()] == [f"{PANN}.part"]

    mirror.cut_after = None
    assert call("models", "fetch", "pann_8k") == 0
    assert mirror.requests[-1][2] == "bytes=1200000-"
    assert (torch_home / PANN).read_bytes() == CONTENT
    assert not (torch_home / f"{PANN}.part").exists()


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_fetch_that_was_stopped_at_its_end_is_taken_up_or_begun_anew(mirror, torch_home, left):
    torch_home.mkdir()
    (torch_home / f"{PANN}.part").write_bytes(left)
    assert fetch.fetch("pann_8k").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "what"), [("vggish", "the known 10086976"), ("vggish_pca", "that in its name 970ea276")]
)
def test_wrong_content_is_refused_and_removed(mirror, torch_home, capsys, name, what):
    mirror.files[f"/copy/{catalog.models()[name].files[0]}"] = CONTENT
    assert call("models", "fetch", name) == 1
    text = refusal(capsys)
    assert what in text and mirror.address in text
    assert list((torch_home / "checkpoints").iterdir()) == []
    with pytest.raises(BlendbenchError, match=f"{name}.*not here; type `blendbench models fetch {name}`"):
        catalog.find(name)


def test_wrong_size_is_refused_before_the_download(mirror, torch_home, capsys):
    mirror.files["/copy/Cnn14_16k_mAP=0.438.pth"] = CONTENT
    assert call("models", "fetch", "pann_16k") == 1
    assert "3000000 bytes there, not 358668570" in refusal(capsys)
    assert list(torch_home.iterdir()) == []


def test_mirror_may_be_a_copy_of_torch_hubs_folder(mirror, torch_home):
    mirror.files = {f"/copy/{PANN}": CONTENT}  # the name holds a percent sign there, as on disk
    assert fetch.fetch("pann_8k").read_bytes() == CONTENT


@pytest.mark.parametrize("case", ["not found", "no server", "web page"])
def test_failed_download_is_a_line_with_url_and_reason(mirror, torch_home, monkeypatch, capsys, case):
    url = f"{mirror.address}/copy/"
    if case == "no server":
        url = "http://127.0.0.1:9/"
        monkeypatch.setenv("BLENDBENCH_MIRROR", url)
    elif case == "not found":
        mirror.files.clear()
    else:
        mirror.content_type = "text/html; charset=utf-8"
    assert call("models", "fetch", "pann_8k") == 1
    text = refusal(capsys)
    assert url in text
    assert {"not found": "HTTP 404", "no server": "refused", "web page": "a web page is there"}[case] in text
    assert list(torch_home.iterdir()) == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("name", ["pann_8k", "riffusion"])
def test_nothing_is_downloaded_offline(mirror, torch_home, hub, monkeypatch, capsys, variable, name):
    monkeypatch.setenv(variable, "1")
    assert call("models", "fetch", name) == 1
    assert f"unset {variable}" in refusal(capsys)
    assert mirror.requests == []


def test_file_that_changed_on_disk_is_found_and_fetched_again(mirror, torch_home, capsys):
    place = fetch.fetch("pann_8k")
    place.write_bytes(b"x" + CONTENT[1:])
    capsys.readouterr()
    assert call("models", "check") == 0  # it was not named
    assert "broken" in line(capsys, "pann_8k")
    assert call("models", "check", "pann_8k") == 1
    text = line(capsys, "pann_8k")
    assert text.startswith("MISS") and "that of its fetch" in text
    assert text.endswith("type `blendbench models fetch pann_8k`")
    assert fetch.fetch("pann_8k").read_bytes() == CONTENT
    assert call("models", "check", "pann_8k") == 0


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"short", "has 5 bytes, not 344665734")])
def test_list_sees_a_file_of_the_wrong_size(torch_home, capsys, content, reason):
    (torch_home / "checkpoints").mkdir(parents=True)
    (torch_home / "checkpoints" / catalog.models()["passt"].files[0]).write_bytes(content)
    assert call("models", "list", "passt") == 0
    assert reason in line(capsys, "passt")


def test_two_fetches_of_a_file_do_not_mix(mirror, torch_home, capsys):
    import fcntl

    torch_home.mkdir()
    with (torch_home / f"{PANN}.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert call("models", "fetch", "pann_8k") == 1
    assert "another fetch" in refusal(capsys)


def test_built_in_model_has_nothing_to_fetch(torch_home, capsys):
    assert call("models", "fetch", "pocket") == 0
    assert catalog.find("pocket").name == "pocket"
    assert "already here" in capsys.readouterr().out


def test_built_in_model_that_is_gone_fails_the_check(torch_home, tmp_path, monkeypatch, capsys):
    (tmp_path / "pocket").mkdir()
    monkeypatch.setattr(catalog, "package_folder", lambda name: tmp_path)
    assert call("models", "check") == 1
    out = capsys.readouterr().out.splitlines()
    assert [found.split()[2] for found in out if found.startswith("MISS")][:2] == ["pocket", "tagger"]
    assert "model_index.json is missing" in out[0] and out[0].endswith("install blendbench again")


def test_hub_model_is_fetched_through_its_endpoint_without_what_is_not_read(hub, torch_home):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(torch_home.parent / "hf")}
    code = "from blendbench.cli import main; main()"
    words = [sys.executable, "-c", code, "models", "fetch", "encodec_24khz"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "licence" in done.stdout.splitlines()[0]

    place = catalog.find("encodec_24khz")
    assert place.name == catalog.models()["encodec_24khz"].revision
    assert sorted(path.name for path in place.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert done.stdout.splitlines()[-1].startswith(f"encodec_24khz: {place}")


def test_musicgens_licence_is_told_before_the_download(hub, capsys):
    assert call("models", "fetch", "musicgen_melody") == 1
    captured = capsys.readouterr()
    assert "CC-BY-NC 4.0 (non-commercial use only)" in captured.out
    assert f"{hub.address}/facebook/musicgen-melody" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_changed_snapshot_is_found_by_check_and_mended_by_fetch(hub, torch_home, capsys):
    place = fetch.fetch("encodec_24khz")
    assert call("models", "check", "encodec_24khz") == 0
    assert "checkpoint " in capsys.readouterr().out
    for name, content in (("model.safetensors", weights(1)), ("config.json", b'{"model_type": "other"}')):
        (place / name).resolve().write_bytes(content)
    assert call("models", "list", "encodec_24khz") == 0
    assert line(capsys, "encodec_24khz").startswith("ok ")  # sizes and headers are right
    assert call("models", "check", "encodec_24khz") == 1
    text = line(capsys, "encodec_24khz")
    assert "config.json has sha1" in text and "model.safetensors has sha256" in text
    assert text.endswith("type `blendbench models fetch encodec_24khz`")

    assert call("models", "fetch", "encodec_24khz") == 0
    assert (catalog.find("encodec_24khz") / "model.safetensors").read_bytes() == weights()
    assert call("models", "check", "encodec_24khz") == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", b"", "is empty"),
        ("model.safetensors", weights()[:-4], "cannot be read"),
        ("preprocessor_config.json", None, "is missing"),
    ],
)
def test_list_sees_a_snapshot_that_is_cut_short(hub, torch_home, capsys, name, content, reason):
    place = fetch.fetch("encodec_24khz")
    if content is None:
        (place / name).unlink()
        with pytest.raises(BlendbenchError, match=f"has no {name}; type `blendbench models fetch encodec_24khz`"):
            catalog.find("encodec_24khz")
    else:
        (place / name).resolve().write_bytes(content)
    capsys.readouterr()
    assert call("models", "list", "encodec_24khz") == 0
    text = line(capsys, "encodec_24khz")
    assert f"{name} {reason}" in text and text.startswith("MISS")
    fetch.fetch("encodec_24khz")
    assert (place / name).read_bytes() == encodec()[name]


def test_weights_are_held_against_the_known_hash_whatever_the_hub_says(hub, capsys):
    hub.repositories["facebook/encodec_48khz"] = encodec()
    assert call("models", "fetch", "encodec_48khz") == 1
    assert f"not the known {catalog.models()['encodec_48khz'].sha256}" in refusal(capsys)


def test_missing_shard_is_told(hub, capsys):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = dict.fromkeys(("config.json", "preprocessor_config.json", "tokenizer.json"), b"{}")
    files |= {"model.safetensors.index.json": json.dumps(index).encode(), "model-00001-of-00002.safetensors": weights()}
    hub.repositories["facebook/musicgen-melody"] = files
    assert call("models", "fetch", "musicgen_melody") == 1
    assert "model-00002-of-00002.safetensors is missing" in refusal(capsys)


def test_repository_without_weights_is_refused_before_the_download(hub, torch_home, capsys):
    parts = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    files = {f"{part}/{name}.safetensors": weights() for part, name in parts.items()}
    files |= {f"{part}/config.json": b"{}" for part in parts}
    files |= dict.fromkeys(("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"), b"{}")
    hub.repositories["riffusion/riffusion-model-v1"] = files
    place = fetch.fetch("riffusion")
    assert place.name == LATER
    assert catalog.find("riffusion") == place

    (place / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    del files["unet/diffusion_pytorch_model.safetensors"]
    files["unet/something.bin"] = b"a pickle"
    capsys.readouterr()
    hub.requests.clear()
    assert call("models", "fetch", "riffusion") == 1
    assert "has no unet/diffusion_pytorch_model.safetensors; nothing was downloaded" in refusal(capsys)
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_find_never_asks_the_network(hub, mirror):
    for name, model in catalog.models().items():
        if model.kind != "builtin":
            with pytest.raises(BlendbenchError, match=re.escape(f"not here; type `blendbench models fetch {name}`")):
                catalog.find(name)
    with pytest.raises(BlendbenchError, match="no model 'nonsense'; there are pocket"):
        catalog.find("nonsense")
    assert hub.requests == []
