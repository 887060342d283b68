"""What is published where: the package's YAML files, a user's own, and what malformed ones are told."""

from pathlib import Path

import pytest
from support.servers import Server, running_server
from support.worlds import call

from blendbench.datasets import fetch as data
from blendbench.entries import read
from blendbench.errors import BlendbenchError
from blendbench.models import catalog
from blendbench.models.catalog import Model
from blendbench.resources import package_folder

OWN_MODELS = """
pann_mine:
  kind: file
  source: SERVER/mine.pth
  files: [mine.pth]
  megabytes: 0.000007
  licence: mine
  used_by: nothing yet
riffusion:
  kind: hub
  source: riffusion/riffusion-model-v1
  revision: "79993436c342ff529802d1dabb016ebe15b5c4ae"
  files: [model_index.json]
"""
OWN_SOURCES = """
hums:
  folder: Hums
  licence: mine
  megabytes: 1
  tables: [SERVER/hums.csv]
  columns: [file, genre]
  archive: SERVER/hums.zip
  archive_name: hums.zip
  max_megabytes: 1
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BLENDBENCH_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable()
    return text


# The package's own.


def test_a_file_holds_models_of_one_family_and_all_of_them_are_known():
    folder = package_folder("blendbench.data_manifests") / "models"
    files = {name: file.name for file in folder.glob("*.yaml") for name in _names(file)}
    assert set(files) >= set(catalog.models())
    assert files["musicgen_melody"] == files["musicgen_melody_large"] == "30-musicgen.yaml"
    assert catalog.models()["pocket"].files == catalog.models()["riffusion"].files
    assert catalog.models() is catalog.models()  # read once


def _names(file: Path) -> list[str]:
    return [line.partition(":")[0] for line in file.read_text().splitlines() if line[:1].isalpha()]


def test_weights_are_pinned_where_a_hash_is_known():
    models = catalog.models()
    assert models["vggish"].sha256 == "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"
    assert models["clap"].megabytes == 614.431440
    assert catalog.pinned("facebook/musicgen-melody") == "68d653a95788ec0d2b0abccab22c0b3a200c2d90"
    assert catalog.pinned("riffusion/riffusion-model-v1") is None
    assert catalog.pinned("nobody/nothing") is None


# The user's own.


def test_own_models_are_listed_fetched_and_found_without_touching_the_package(own, monkeypatch, capsys):
    with running_server() as server:
        server.files["/mine.pth"] = b"weights"
        (own / "mine.yaml").write_text(OWN_MODELS.replace("SERVER", server.address))
        monkeypatch.setenv("BLENDBENCH_MODELS", str(own))
        assert call("models", "list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].split()[2] == "pann_mine" and "mine, nothing yet" in lines[-1]
        assert len(lines) == 1 + len(catalog._read(None, None))
        assert call("models", "fetch", "pann_mine") == 0
        assert catalog.find("pann_mine").read_bytes() == b"weights"
        assert call("models", "check", "pann_mine") == 0
    monkeypatch.delenv("BLENDBENCH_MODELS")
    assert "pann_mine" not in catalog.models()


def test_own_model_takes_the_place_of_the_packages_of_that_name(own, monkeypatch):
    (own / "mine.yaml").write_text(OWN_MODELS.replace("SERVER", "https://here"))
    monkeypatch.setenv("BLENDBENCH_MODELS", str(own))
    assert catalog.pinned("riffusion/riffusion-model-v1") == "79993436c342ff529802d1dabb016ebe15b5c4ae"
    assert list(catalog.models())[:4] == list(catalog._read(None, None))[:4]


@pytest.fixture
def hums(own: Path, monkeypatch: pytest.MonkeyPatch):
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("audio/a.wav", b"a")
        archive.writestr("other/b.wav", b"b")
    with running_server() as server:
        server.files |= {"/hums.csv": b"file,genre\naudio/a.wav,jazz\n", "/hums.zip": packed.getvalue()}
        monkeypatch.setenv("BLENDBENCH_SOURCES", str(own))
        yield server


def write_hums(own: Path, server: Server, more: str) -> None:
    (own / "hums.yaml").write_text(OWN_SOURCES.replace("SERVER", server.address) + f"  {more}\n")
    data._read.cache_clear()


@pytest.mark.parametrize(
    "more", ["keep: [audio]", "keep: [audio]\n  files_in: file", "keep: [audio]\n  checksums: hums.md5"]
)
def test_own_data_set_is_fetched_and_held_against_what_says_that_it_is_whole(own, hums, tmp_path, capsys, more):
    (own / "hums.md5").write_text("0cc175b9c0f1b6a831c399e269772661  audio/a.wav\n")  # beside the YAML file
    write_hums(own, hums, more)
    root = tmp_path / "data"
    assert call("data", "fetch", "hums", f"data.root={root}") == 0
    assert sorted(file.relative_to(root).as_posix() for file in root.rglob("*.*")) == [
        "Hums/audio/a.wav",
        "Hums/hums.csv",
    ]
    assert "hums: complete" in capsys.readouterr().out
    assert call("data", "fetch", "hums", f"data.root={root}") == 0
    assert "hums: already here" in capsys.readouterr().out
    (root / "Hums" / "audio" / "a.wav").unlink()
    (root / "Hums" / "audio").rmdir()
    assert call("data", "fetch", "hums", f"data.root={root}") == 0
    assert (root / "Hums" / "audio" / "a.wav").is_file()


def test_own_data_set_that_lacks_what_its_table_names_is_told(own, hums, tmp_path, capsys):
    hums.files["/hums.csv"] = b"file,genre\naudio/a.wav,jazz\naudio/c.wav,jazz\n"
    write_hums(own, hums, "keep: [audio]\n  files_in: file")
    assert call("data", "fetch", "hums", f"data.root={tmp_path / 'data'}") == 1
    assert "audio/c.wav is missing" in capsys.readouterr().err


def test_own_table_without_its_columns_is_refused(own, hums, tmp_path, capsys):
    hums.files["/hums.csv"] = b"name,genre\na,jazz\n"
    write_hums(own, hums, "keep: [audio]")
    assert call("data", "fetch", "hums", f"data.root={tmp_path / 'data'}") == 1
    assert "no column 'file'" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "a\n"])
def test_list_of_checksums_that_is_none_is_one_line(own, hums, tmp_path, capsys, content):
    if content is not None:
        (own / "hums.md5").write_text(content)
    write_hums(own, hums, "keep: [audio]\n  checksums: hums.md5")
    assert call("data", "fetch", "hums", f"data.root={tmp_path / 'data'}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "hums.md5: " in line


# Malformed.


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("kind: file", "kind: folder"), "pann_mine.kind: 'folder' is not one of builtin, hub, file"),
        (("kind: file\n  ", ""), "pann_mine.kind: is missing"),
        (("files: [mine.pth]", "files: mine.pth"), "pann_mine.files: 'mine.pth' is not a list of texts"),
        (("files: [mine.pth]", "files: []"), "pann_mine.files: is empty"),
        (("files: [mine.pth]", "files: [a.pth, b.pth]"), "pann_mine.files: is not the one file's name"),
        (("files: [mine.pth]", "files: [../mine.pth]"), "pann_mine.files: '../mine.pth' leaves its folder"),
        (("licence: mine", "folder: /etc"), "pann_mine.folder: '/etc' leaves its folder"),
        (("megabytes: 0.000007", "megabytes: many"), "pann_mine.megabytes: 'many' is not a number or null"),
        (("megabytes: 0.000007", "size: 7"), "pann_mine.size: unknown key; known are kind, source"),
        (("megabytes: 0.000007", "sha256: abc"), "pann_mine.sha256: 'abc' is no SHA-256"),
        (("megabytes: 0.000007", "sha256: 12"), "pann_mine.sha256: 12 is not a text or null"),
        (("source: SERVER/mine.pth", "source: mine.pth"), "pann_mine.source: 'mine.pth' is no URL"),
        (("source: riffusion/riffusion-model-v1", "source: riffusion"), "riffusion.source: 'riffusion' is no owner"),
        (('revision: "79993436c342ff529802d1dabb016ebe15b5c4ae"', "licence: x"), "riffusion.revision: is missing"),
        (("pann_mine:", "pann mine:"), "'pann mine' is no name"),
        (("riffusion:", "pann_mine:"), "is no YAML (while constructing a mapping"),
        (("files: [mine.pth]", "files: [mine.pth"), "is no YAML (while parsing a flow"),
    ],
)
def test_malformed_model_is_one_line_that_names_file_and_key(own, monkeypatch, capsys, changed, told):
    file = own / "mine.yaml"
    assert changed[0] in OWN_MODELS
    file.write_text(OWN_MODELS.replace(*changed).replace("SERVER", "https://here"))
    monkeypatch.setenv("BLENDBENCH_MODELS", str(own))
    catalog.forget()
    assert call("models", "list") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"blendbench: {file}: ")
    assert told in line
    catalog.forget()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("folder: Hums", "folder: ../Hums"), "hums.folder: '../Hums' leaves its folder"),
        (("archive_name: hums.zip", "keep: [audio]"), "hums.archive_name: is missing, and there is an archive"),
        (("", ""), "hums.keep: is missing, and there is an archive"),
        (("columns: [file, genre]", "files_in: file\n  keep: [a]"), "hums.files_in: 'file' is none of columns"),
        (("megabytes: 1", "megabytes: true"), "hums.megabytes: True is not a number"),
        (("licence: mine", "checksums: 3"), "hums.licence: is missing; give a text"),
    ],
)
def test_malformed_source_is_one_line_that_names_file_and_key(own, monkeypatch, capsys, changed, told):
    (own / "hums.yaml").write_text(OWN_SOURCES.replace(*changed))
    monkeypatch.setenv("BLENDBENCH_SOURCES", str(own))
    data._read.cache_clear()
    assert call("data", "fetch", "hums") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"blendbench: {own / 'hums.yaml'}: {told}")
    data._read.cache_clear()


@pytest.mark.parametrize("content", ["", "- a\n", "just words\n", "a: 3\n"])
def test_file_that_holds_no_entries_is_told_or_empty(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    if not content:
        assert read(tmp_path, Model) == {}
    else:
        with pytest.raises(BlendbenchError, match=r"a\.yaml: ") as caught:
            read(tmp_path, Model)
        one_line(caught.value)


def test_name_that_stands_in_two_files_is_told(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("m: {kind: builtin, source: m, files: [x]}\n")
    with pytest.raises(BlendbenchError, match=r"b\.yaml: m: stands twice"):
        read(tmp_path, Model)


def test_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00m")
    with pytest.raises(BlendbenchError, match=r"a\.yaml: is no YAML") as caught:
        read(tmp_path, Model)
    one_line(caught.value)


@pytest.mark.parametrize("made", [False, True])
def test_folder_without_entries_is_told(own, monkeypatch, capsys, made):
    place = own / "none"
    if made:
        place.mkdir()
    monkeypatch.setenv("BLENDBENCH_MODELS", str(place))
    catalog.forget()
    assert call("models", "list") == 1
    assert f"BLENDBENCH_MODELS={place}: no folder with .yaml files" in capsys.readouterr().err
