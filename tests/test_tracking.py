"""The mirror at W&B: offline runs read back from disk, a stand-in for its server, and all that may go wrong."""

import csv
import errno
import gzip
import json
import math
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import runs
from support.mirrors import Mirror
from support.worlds import rows_of

from blendbench.errors import BlendbenchError
from blendbench.runs.folder import read_settings
from blendbench.store import write
from blendbench.store.signature import file_hash
from blendbench.trackers import wandb
from blendbench.trackers.mirrored import tables
from blendbench.trackers.settings import TrackerConfig

pytest.importorskip("wandb")

RATE = 44_100
ARMS = ("noise_only", "bnmusic")
SHOWN = ("direct", "loudness_normalized")
SETTINGS: dict[str, Any] = {
    "experiment": {"name": "bnmusic/table1", "title": "BNMusic, Table 1"},
    "dataset": {"esc50": {"path": None}, "folder": {"path": "x"}},
    "seed": 0,
    "kl": {"epsilon": 1e-6, "direction": "ref||gen"},
    "over_n": [10, 20],
    "device": "auto",
}
RESULTS = runs.results(
    [
        {"arm": "noise_only", "metric": "fad", "value": 44.6693, "ci_low": 37.4954, "ci_high": 53.9513, "n": 3,
         "n_failed": 0, "recipe": "sr=44100; FAD, centred"},
        {"arm": "noise_only", "metric": "kl", "value": 6.91, "ci_low": 6.47, "ci_high": 7.28, "n": 3, "n_failed": 0,
         "paper_value": 2.5, "recipe": "KL(ref||gen), natural log"},
        {"arm": "bnmusic", "metric": "fad", "n": 1, "n_failed": 2, "paper_value": 6.76,
         "recipe": "one pair took part"},
        {"arm": "bnmusic", "metric": "kl", "value": math.inf, "n": 1, "n_failed": 2, "paper_value": 2.14,
         "recipe": "KL"},
    ]
)  # fmt: skip
COMPARISONS = runs.comparisons(
    [{"metric": "kl", "arm": "bnmusic", "other": "1e3", "difference": -0.25, "p": 0.03125, "n": 3,
      "test": "permutation"}]
)  # fmt: skip
TABLE = pd.DataFrame(
    {"Method": ["Noise only", "BNMusic"], "Direct: FAD": ["44.7 [37.5, 54]", "failed"],
     "Direct: paper's FAD": ["27.39", "6.76"]}
)  # fmt: skip


def write_run(run_dir: Path, settings: dict[str, Any] = SETTINGS) -> Path:
    """A finished run's folder: every arm and presentation of some pairs, one of which failed in one arm."""
    rows = []
    for arm in ARMS:
        for shown in SHOWN:
            for index in range(3):
                failed = "clip is silent" if (arm, index) == ("bnmusic", 0) else ""
                facts = {"gain_db": None if arm == "noise_only" else 1.5 * index, "seed": 2**60 + index}
                facts = {"prompt": "Slow jazz, “blue”."} | ({} if failed else facts)
                rows.append(runs.row(f"esc50--clip-{index}--jazz-1", arm, shown, reason=failed, **facts))
    # The last pair has no scores.
    scored = [row for row in rows if row["status"] == "ok"][:-1]
    scores = runs.scores(scored, kl=[place / 8 for place in range(len(scored))], nmr_db=[None] * len(scored))
    tables = {"scores": scores, "results": RESULTS, "comparisons": COMPARISONS, "table": TABLE}
    runs.write(run_dir, rows, settings, sounds=True, **tables)
    (run_dir / "figures").mkdir()
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    picture.save(run_dir / "figures" / "fad_over_n.png")
    (run_dir / "images" / "bnmusic").mkdir(parents=True)
    for name in ("core", "music"):
        picture.save(run_dir / "images" / "bnmusic" / f"esc50--clip-1--jazz-1-{name}.png")
    return run_dir


def asked(**tracker: Any) -> dict[str, Any]:
    """The settings with a tracker."""
    return SETTINGS | {"tracker": {"mode": "offline", "media_pairs": 2} | tracker}


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def texts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows as a CSV would have them."""
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def contents(folder: Path, but: str = "-") -> dict[str, str]:
    """Hashes of all files below a folder, except in its folder `but`."""
    found = (path for path in folder.rglob("*") if path.is_file() and but not in path.relative_to(folder).parts)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(found)}


def plain_environment(patch: pytest.MonkeyPatch, place: Path) -> None:
    """An empty home folder and working folder, and nothing set for W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "NETRC"):
        patch.delenv(name, raising=False)
    for name in ("home", "here"):
        (place / name).mkdir()
    patch.setenv("HOME", str(place / "home"))
    patch.chdir(place / "here")


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_environment(monkeypatch, tmp_path)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "table1-esc50-0a1b2c3d")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """The offline mirror of a run of three pairs, two of them with media, in the group "sweep-1"."""
    place = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        plain_environment(patch, place)
        folder = wandb.mirror(write_run(place / "table1-esc50-0a1b2c3d"), asked(), group="sweep-1")
    assert folder is not None
    return Mirror(Path(folder))


def run_of(mirrored: Mirror) -> Path:
    return mirrored.folder.parents[1]


def test_the_mirror_is_one_run_with_the_runs_name_and_settings(mirrored):
    run = mirrored.run
    assert (run.display_name, run.project, run.job_type, run.run_group) == (
        "table1-esc50-0a1b2c3d", "blendbench", "run", "sweep-1",
    )  # fmt: skip
    assert list(run.tags) == ["bnmusic/table1", "esc50", "folder"]
    assert run.notes == "BNMusic, Table 1"
    assert run.run_id == wandb.run_id(run_of(mirrored))
    assert mirrored.config == SETTINGS


def test_results_are_complete(mirrored):
    rows = mirrored.table("results")
    assert texts(rows[:3]) == read_csv(run_of(mirrored) / "results.csv")[:3]
    assert rows[0]["value"] == 44.6693
    assert rows[0]["n"] == 3
    # JSON has no word for infinity; results.csv keeps it.
    assert rows[3] == rows[2] | {"metric": "kl", "value": None, "paper_value": 2.14, "recipe": "KL"}


def test_comparisons_are_complete(mirrored):
    assert texts(mirrored.table("comparisons")) == read_csv(run_of(mirrored) / "comparisons.csv")
    assert mirrored.table("comparisons")[0]["difference"] == -0.25


def test_the_papers_layout_is_complete_and_text(mirrored):
    assert mirrored.table("table") == read_csv(run_of(mirrored) / "table.csv")


def test_pairs_are_complete_with_their_scores(mirrored):
    run_dir = run_of(mirrored)
    key = ("dataset", "arm", "presentation", "pair_id")
    scores = {tuple(row[name] for name in key): row["kl"] for row in read_csv(run_dir / "scores.csv")}
    rows = mirrored.table("pairs")
    assert list(rows[0])[:4] == list(key)
    assert list(rows[0])[-2:] == ["kl", "nmr_db"]
    assert len(rows) == 12
    for row, expected in zip(rows, rows_of(run_dir), strict=True):
        score = scores.get(tuple(row[name] for name in key))
        assert row["kl"] == (None if score is None else float(score))
        assert row["nmr_db"] is None
        # A browser would round such a number.
        seed = {"seed": str(expected["seed"])} if "seed" in expected else {}
        assert {name: row[name] for name in expected} == expected | seed
    assert sum(row["kl"] is None for row in rows) == 3


def test_media_are_the_first_pairs_with_every_arm_side_by_side(mirrored):
    run_dir = run_of(mirrored)
    rows, files = mirrored.table("media"), mirrored.files("media")
    assert [(row["pair_id"], row["presentation"]) for row in rows] == [
        (f"esc50--clip-{index}--jazz-1", shown) for index in range(2) for shown in SHOWN
    ]
    for row in rows:
        assert row["prompt"] == "Slow jazz, “blue”."
        for arm in ARMS:
            mix = run_dir / "mixes" / arm / row["presentation"] / f"{row['pair_id']}.flac"
            assert (row[f"{arm} mix"] is not None) == mix.exists()
            if mix.exists():
                assert row[f"{arm} mix"]["_type"] == "audio-file"
                assert files[row[f"{arm} mix"]["path"]].read_bytes() == mix.read_bytes()
        for name in ("core", "music"):
            image, shown = run_dir / "images" / "bnmusic" / f"{row['pair_id']}-{name}.png", row[f"bnmusic {name}"]
            assert (shown is not None) == image.exists()
            if shown:
                assert shown["_type"] == "image-file"
                assert files[shown["path"]].read_bytes() == image.read_bytes()
    assert [row["bnmusic mix"] is None for row in rows] == [True, True, False, False]
    assert sum(row["bnmusic core"] is not None for row in rows) == 2
    assert list(rows[0]) == [
        "dataset", "pair_id", "presentation", "clip", "label", "genre", "prompt",
        "noise_only mix", "bnmusic mix", "bnmusic core", "bnmusic music",
    ]  # fmt: skip


def test_figures_are_images(mirrored):
    shown = mirrored.folder / "files" / mirrored.history[0]["figures/fad_over_n.path"]
    assert shown.read_bytes() == (run_of(mirrored) / "figures" / "fad_over_n.png").read_bytes()


def test_values_stand_in_the_summary_under_metric_and_cell(mirrored):
    values = {name: value for name, value in mirrored.summary.items() if name.startswith(("fad", "kl"))}
    assert values == {"fad/esc50/noise_only/direct": 44.6693, "kl/esc50/noise_only/direct": 6.91}


def test_each_table_is_logged_once(mirrored):
    assert len(mirrored.history) == 1
    names = [artifact.name.removeprefix(f"run-{mirrored.run.run_id}-") for artifact in mirrored.of("artifact")]
    assert sorted(names) == ["comparisons", "media", "pairs", "results", "table"]


def test_an_offline_mirror_keeps_only_what_is_still_to_be_uploaded(mirrored):
    run_dir, identifier = run_of(mirrored), mirrored.run.run_id
    (files,) = (run_dir / "wandb").glob("files-*")
    assert files.name.startswith(f"files-{identifier}-")
    assert [path.name for path in files.iterdir()] == ["data"]
    assert sorted((run_dir / "wandb").iterdir()) == [files, mirrored.folder]


def test_nothing_is_written_or_said_outside_the_runs_wandb_folder(run_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    # Set where W&B is used for training, too; none of it is this run's.
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_RESUME", "must")
    environment, before = dict(os.environ), contents(tmp_path)
    folder = wandb.mirror(run_dir, asked(media_pairs=0))
    assert folder is not None
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment
    assert contents(tmp_path, but="wandb") == before
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "here").iterdir())
    found = Mirror(Path(folder))
    assert found.run.run_id == wandb.run_id(run_dir)
    assert "media" not in {name.split(".")[0] for name in found.history[0]}


def test_a_second_push_replaces_the_first_under_the_same_id(run_dir):
    first = Path(wandb.push(run_dir, asked(mode="offline")).splitlines()[0])
    identifier = Mirror(first).run.run_id
    with (run_dir / "results.csv").open("a", encoding="utf-8") as file:
        file.write("bnmusic/table1,esc50,bnmusic,direct,clap,0.25,,,1,2,,cosine\n")
    where, note = wandb.push(run_dir, asked(mode="offline", group="sweep-2")).splitlines()
    second = Mirror(Path(where))
    assert note.endswith(f"wandb sync {where}")
    assert second.run.run_id == identifier
    assert second.run.run_group == "sweep-2"
    assert second.summary["clap/esc50/bnmusic/direct"] == 0.25
    assert not first.exists()
    assert len(list((run_dir / "wandb").glob("files-*"))) == 1
    assert all(path.is_file() for path in second.files("media").values())


def test_a_sweeps_runs_share_a_group_and_nothing_else(tmp_path):
    group = wandb.sweep_group("bnmusic/table1", ["-m", "seed=0,1"])
    assert group.startswith("bnmusic-table1-")
    assert group == wandb.sweep_group("bnmusic/table1", ["-m", "seed=0,1"])
    assert group != wandb.sweep_group("bnmusic/table1", ["-m", "seed=0,2"])
    found = []
    for seed in (0, 1):
        settings = asked(media_pairs=0) | {"seed": seed}
        folder = wandb.mirror(write_run(tmp_path / "sweep" / str(seed), settings), settings, group=group)
        found.append(Mirror(Path(folder)).run)
    assert [run.run_group for run in found] == [group, group]
    assert len({run.run_id for run in found}) == 2


def test_the_id_is_the_folders_name_and_settings(tmp_path):
    run_dir = write_run(tmp_path / "a" / "run")
    identifier = wandb.run_id(run_dir)
    assert re.fullmatch("[0-9a-f]{16}", identifier)
    moved = tmp_path / "b" / "run"
    shutil.copytree(run_dir, moved)
    assert wandb.run_id(moved) == identifier
    written = run_dir / "config.yaml"
    text = written.read_text(encoding="utf-8")
    written.write_text(text.replace("device: auto", "device: cpu") + "tracker:\n  mode: online\n", encoding="utf-8")
    assert wandb.run_id(run_dir) == identifier
    written.write_text(text.replace("seed: 0", "seed: 1"), encoding="utf-8")
    assert wandb.run_id(run_dir) != identifier
    moved.rename(tmp_path / "b" / "other")
    assert wandb.run_id(tmp_path / "b" / "other") != identifier


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "a" * 40}, "online"),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "online"}, "online"),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "online"}, "offline"),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "disabled"}, None),
    ],
)
def test_auto_is_online_only_with_a_log_in_and_unless_told_otherwise(monkeypatch, tmp_path, variables, mode):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb, "_send", lambda run_dir, settings, tracker: wandb._Sent(tracker.mode, tracker.mode))
    assert wandb.mirror(tmp_path, asked(mode="auto")) == mode


def test_a_log_in_may_stand_in_the_home_folder(monkeypatch, tmp_path):
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {'a' * 40}\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setattr(wandb, "_send", lambda run_dir, settings, tracker: wandb._Sent(tracker.mode, tracker.mode))
    assert wandb.mirror(tmp_path, asked(mode="auto")) == "online"


def test_tracking_is_off_unless_asked_for(tmp_path, capfd):
    assert wandb.mirror(tmp_path / "nowhere", SETTINGS) is None
    assert wandb.mirror(tmp_path / "nowhere", asked(mode="disabled")) is None
    assert capfd.readouterr() == ("", "")


def told(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line said, on stderr."""
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("blendbench: ")
    return err


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


MISSING = "raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')"
FAULTS = {
    "missing": (MISSING, "wandb is not installed; pip install wandb"),
    "half installed": ("raise ImportError('libcore.so: cannot open')", "ImportError: libcore.so: cannot open"),
    "other version": ("", "AttributeError"),
    "raises": ("def init(**words):\n    raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
    "exits": ("def init(**words):\n    raise SystemExit(3)", "SystemExit: 3"),
    "crashes": ("import os\ndef init(**words):\n    os.abort()", "ended with status -6"),
    "prints": ("import sys\nprint('hello')\nsys.exit('bye')", "SystemExit: bye"),
    "hangs": ("import time\ndef init(**words):\n    time.sleep(99)", "no start in 1 s (tracker.timeout_s)"),
    "is slow to import": ("import time\ntime.sleep(99)", "no start in 1 s (tracker.timeout_s)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wandb_that_is_missing_or_broken_is_one_line(run_dir, tmp_path, monkeypatch, capfd, fault):
    code, expected = FAULTS[fault]
    (tmp_path / "fake" / "wandb").mkdir(parents=True)
    (tmp_path / "fake" / "wandb" / "__init__.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    before = contents(run_dir)
    with within(15):
        assert wandb.mirror(run_dir, asked(timeout_s=1.0)) is None
    assert expected in (line := told(capfd))
    assert str(run_dir) in line
    assert contents(run_dir) == before
    assert not list((run_dir / "wandb").iterdir())


def test_a_mirror_that_takes_too_long_is_ended(run_dir, tmp_path, monkeypatch, capfd):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(
        "import signal, time\nsignal.alarm(0)\ntime.sleep(99)", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    with within(10):
        assert wandb.mirror(run_dir, asked(limit_s=2.0)) is None
    assert "not done in 2 s (tracker.limit_s)" in told(capfd)


def test_a_server_that_cannot_be_reached_costs_the_timeout_only(run_dir, tmp_path, monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb.mirror(run_dir, asked(media_pairs=0))
    capfd.readouterr()
    before = contents(tmp_path)
    with within(3 + 12):
        assert wandb.mirror(run_dir, asked(mode="online", timeout_s=3.0)) is None
    assert f"`blendbench push {run_dir}` tries again" in told(capfd)
    # The mirror that was there is still there, and nothing else.
    assert contents(tmp_path) == before


def test_a_server_that_never_answers_costs_the_timeout_only(run_dir, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with within(3 + 12):
            assert wandb.mirror(run_dir, asked(mode="online", timeout_s=3.0)) is None
    assert str(run_dir) in told(capfd)


def test_online_without_a_log_in_says_so(run_dir, capfd):
    with within(30):
        assert wandb.mirror(run_dir, asked(mode="online")) is None
    assert "wandb login" in told(capfd)


def test_a_folder_that_cannot_be_written_is_one_line(run_dir, monkeypatch, capfd):
    (run_dir / "wandb").write_text("a file where the folder should be", encoding="utf-8")
    assert wandb.mirror(run_dir, asked()) is None
    assert f"{run_dir / 'wandb'}: cannot be made a folder" in told(capfd)
    (run_dir / "wandb").unlink()
    monkeypatch.setattr(write.os, "access", lambda path, mode: False)
    assert wandb.mirror(run_dir, asked()) is None
    assert f"{run_dir / 'wandb'}: cannot be written" in told(capfd)


def test_a_full_disk_is_one_line(run_dir, monkeypatch):
    def full(**words: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wandb.tempfile, "mkdtemp", full)
    with pytest.raises(BlendbenchError, match=f"No space left on device; `blendbench push {run_dir}` tries again"):
        wandb.push(run_dir, asked())


def test_a_read_only_folder_is_one_line(run_dir, capfd):
    run_dir.chmod(0o555)
    try:
        if os.access(run_dir, os.W_OK):
            pytest.skip("root may write anywhere")
        assert wandb.mirror(run_dir, asked()) is None
    finally:
        run_dir.chmod(0o755)
    assert "cannot be" in told(capfd)


@pytest.mark.parametrize("name", ["config.yaml", "pairs.jsonl", "results.csv", "table.csv"])
def test_a_folder_of_no_finished_run_is_told(run_dir, capfd, name):
    (run_dir / name).unlink()
    assert wandb.mirror(run_dir, asked()) is None
    assert name in told(capfd)
    with pytest.raises(BlendbenchError, match=re.escape(name)):
        wandb.push(run_dir, asked())


def test_tables_that_cannot_be_read_are_told(run_dir, capfd):
    (run_dir / "results.csv").write_bytes(b"\xff\xfe\n")
    assert wandb.mirror(run_dir, asked()) is None
    assert "results.csv: cannot be read" in told(capfd)
    (run_dir / "results.csv").write_text("a,b\n1\n", encoding="utf-8")
    with pytest.raises(BlendbenchError, match=r"results\.csv: rows of different lengths"):
        tables(run_dir, 0)
    runs.write(run_dir, results=RESULTS)
    (run_dir / "scores.csv").write_text("pair_id,kl\nx,1\n", encoding="utf-8")
    with pytest.raises(BlendbenchError, match=r"scores\.csv: its first columns must be dataset, arm"):
        tables(run_dir, 0)


@pytest.mark.parametrize(
    ("tracker", "expected"),
    [
        ({"mode": "off"}, "tracker.mode: 'off' is out of range; use auto, offline, online, disabled"),
        ({"media_pairs": -1}, "tracker.media_pairs: -1 is out of range"),
        ({"timeout_s": 0}, "tracker.timeout_s: 0 is out of range"),
        ({"limit_s": -2.0}, "tracker.limit_s: -2.0 is out of range"),
        ({"projekt": "x"}, "tracker.projekt: no such key; there are mode, project, entity"),
    ],
)
def test_a_wrong_key_is_named(run_dir, capfd, tracker, expected):
    assert wandb.mirror(run_dir, asked(**tracker)) is None
    assert expected in told(capfd)
    with pytest.raises(BlendbenchError, match=re.escape(expected)):
        wandb.push(run_dir, asked(**tracker))


def test_push_raises_in_one_line(run_dir, tmp_path, monkeypatch):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(MISSING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    with pytest.raises(BlendbenchError, match="wandb is not installed; pip install wandb") as caught:
        wandb.push(run_dir, asked())
    assert "\n" not in str(caught.value)


def test_push_sends_what_the_run_itself_did_not(run_dir, monkeypatch):
    assert wandb.push(run_dir, asked(mode="disabled", media_pairs=0)).startswith(str(run_dir / "wandb" / "offline-run"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(BlendbenchError, match="WANDB_MODE=disabled: nothing is sent; unset it"):
        wandb.push(run_dir, asked(mode="disabled"))


def test_values_of_any_kind_find_a_column(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "scores.csv").unlink()
    values = [math.inf, math.nan, 3, 2.5, None]
    rows = [
        {"dataset": "d", "arm": "a", "presentation": "p", "pair_id": str(index), "level": value, "mix": "../out.flac"}
        for index, value in enumerate(values)
    ]
    rows[1] |= {"mixed": 1, "list": [1, 2], "flag": True, "text": "x"}
    rows[2] |= {"mixed": "one", "list": None, "flag": False, "mix": "/etc/hostname"}
    (tmp_path / "out.flac").write_bytes(b"not of this run")
    (run_dir / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = tables(run_dir, 5)
    columns = dict(zip(found["pairs"].columns, zip(*found["pairs"].rows, strict=True), strict=True))
    assert columns["level"] == (None, None, 3, 2.5, None)
    assert columns["mixed"] == (None, "1", "one", None, None)
    assert columns["list"] == (None, "[1, 2]", None, None, None)
    assert columns["flag"] == (None, True, False, None, None)
    # What does not lie in the run's folder is not sent.
    assert [row[-1] for row in found["media"].rows] == [None] * 5
    folder = wandb.mirror(run_dir, asked())
    assert folder is not None
    assert [row["level"] for row in Mirror(Path(folder)).table("pairs")] == [None, None, 3, 2.5, None]


def test_a_long_table_is_not_cut_off(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "scores.csv").unlink()
    row = {"dataset": "d", "arm": "a", "presentation": "p"}
    lines = (json.dumps(row | {"pair_id": str(index)}) + "\n" for index in range(10_500))
    (run_dir / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    folder = wandb.mirror(run_dir, asked(media_pairs=0))
    assert folder is not None
    found = Mirror(Path(folder))
    assert [row["pair_id"] for row in found.table("pairs")] == [str(index) for index in range(10_500)]
    (shown,) = (found.folder / "files" / "media" / "table").glob("pairs_*.json")
    assert len(json.loads(shown.read_text(encoding="utf-8"))["data"]) == 10_500


class Server(ThreadingHTTPServer):
    """Answers W&B's client as its server does, as far as a run needs it, and keeps what it is sent.

    Uploads whose path holds `refused` are refused; those whose path holds `swallowed` are never answered.
    """

    daemon_threads = True

    def __init__(self, refused: str = "", swallowed: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.refused, self.swallowed = refused, swallowed
        self.files: dict[str, bytes] = {}
        self.runs: list[dict[str, Any]] = []
        self.histories: list[dict[str, Any]] = []
        self.committed = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        place = {"uploadHeaders": []}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if operation == "UpsertBucket":
            self.runs.append(given)
            run = {"id": "r", "description": "", "config": "{}", "sweepName": "", "historyLineCount": 0}
            run |= {"name": given["name"], "displayName": given["displayName"]}
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
            return {"upsertBucket": {"bucket": run | {"project": project}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/run/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "files": files} | place}
        if operation == "CreateArtifact":
            artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if operation.endswith("ArtifactManifest"):
            manifest = {"id": "m", "file": {"id": "f", "uploadUrl": f"{self.address}/manifest"} | place}
            return {operation[0].lower() + operation[1:]: {"artifactManifest": manifest}}
        if operation == "CreateArtifactFiles":
            names = [file["name"] for file in given["input"]["artifactFiles"]]
            common = {"storagePath": "x", "uploadMultipartUrls": None, "artifact": {"id": "a"}} | place
            nodes = [{"node": common | {"uploadUrl": f"{self.address}/artifact/{name}"}} for name in names]
            return {"createArtifactFiles": {"files": {"edges": nodes}}}
        if operation == "CommitArtifact":
            self.committed += 1
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        return {
            "ArtifactType": {"project": {"artifact": None}},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
        }[operation]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def body(self) -> bytes:
        data = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, answer: Any, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        data, server = self.body(), self.server
        if server.swallowed and server.swallowed in self.path:
            time.sleep(60)
        if server.refused and server.refused in self.path:
            return self.reply({}, 403)
        server.files[self.path] = data
        self.reply({})

    def do_POST(self) -> None:
        data = json.loads(self.body())
        if self.path != "/graphql":
            if history := data.get("files", {}).get("wandb-history.jsonl"):
                self.server.histories.append(history)
            return self.reply({"exitcode": None, "limits": {}})
        found = re.search(r"(?:query|mutation)\s+(\w+)", data["query"])
        assert found is not None
        self.reply({"data": self.server.answer(found[1], data.get("variables") or {})})


@contextmanager
def serving(**words: str) -> Iterator[Server]:
    with Server(**words) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_run_goes_to_the_server_of_the_log_in_and_a_second_push_writes_over_it(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb.push(run_dir, asked(mode="offline"))
    with serving() as server:
        config = tmp_path / "home" / ".config" / "wandb" / "settings"
        config.parent.mkdir(parents=True)
        config.write_text(f"[default]\nbase_url = {server.address}\n", encoding="utf-8")
        before = contents(tmp_path, but="wandb")
        identifier = wandb.run_id(run_dir)
        for _ in range(2):
            assert wandb.push(run_dir, asked(mode="auto")) == f"{server.address}/me/blendbench/runs/{identifier}"
        assert {run["name"] for run in server.runs} == {identifier}
        # Each time the first line of the history: over what was there.
        assert [(history["offset"], len(history["content"])) for history in server.histories] == [(0, 1), (0, 1)]
        assert server.committed == 10
        sent = [json.loads(server.files[f"/artifact/{name}.table.json"]) for name in ("results", "table", "pairs")]
        assert [len(table["data"]) for table in sent] == [4, 2, 12]
        mix = run_dir / "mixes" / "noise_only" / "direct" / "esc50--clip-0--jazz-1.flac"
        assert mix.read_bytes() in server.files.values()
        assert contents(tmp_path, but="wandb") == before
    # The copies to be uploaded are not needed any more, nor is the offline run.
    assert [path.name.split("-")[0] for path in (run_dir / "wandb").iterdir()] == ["run"]


@pytest.mark.soak
def test_an_upload_that_the_server_refuses_is_told(run_dir, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serving(refused="/artifact/media/audio") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert wandb.mirror(run_dir, asked(mode="online")) is None
    assert "not all of it was taken" in told(capfd)
    assert not list((run_dir / "wandb").iterdir())


@pytest.mark.soak
def test_an_upload_that_hangs_is_ended(run_dir, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serving(swallowed="/artifact/media/audio") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        with within(12 + 8):
            assert wandb.mirror(run_dir, asked(mode="online", limit_s=12.0)) is None
    assert "not done in 12 s (tracker.limit_s)" in told(capfd)
    assert not list((run_dir / "wandb").iterdir())


@pytest.mark.parametrize(("name", "mode"), [("default", "disabled"), ("disabled", "disabled"), ("wandb", "auto")])
def test_the_shipped_options_hold_every_key(monkeypatch, name, mode):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with initialize_config_module("blendbench.conf", version_base="1.3"):
        composed = OmegaConf.to_container(compose(f"tracker/{name}"), resolve=True)
    assert composed == {"tracker": vars(TrackerConfig(mode=mode, project="mine"))}


def test_a_real_run_is_mirrored_whole(finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    settings = read_settings(run_dir)
    folder = wandb.mirror(run_dir, settings | {"tracker": {"mode": "offline"}})
    assert folder is not None
    found, rows = Mirror(Path(folder)), rows_of(run_dir)
    assert found.config == json.loads(json.dumps({k: v for k, v in settings.items() if k != "tracker"}))
    pairs = found.table("pairs")
    assert [row["pair_id"] for row in pairs] == [row["pair_id"] for row in rows]
    assert [row["sha256"] for row in pairs] == [row["sha256"] for row in rows]
    assert found.table("table") == read_csv(run_dir / "table.csv")
    written = read_csv(run_dir / "results.csv")
    shown = found.table("results")
    assert [(row["arm"], row["metric"], row["recipe"]) for row in shown] == [
        (row["arm"], row["metric"], row["recipe"]) for row in written
    ]
    assert [row["value"] for row in shown] == [float(row["value"]) if row["value"] else None for row in written]
    for row in written:
        name = "/".join(row[column] for column in ("metric", "dataset", "arm", "presentation"))
        assert found.summary.get(name) == (float(row["value"]) if row["value"] else None)
    media = found.table("media")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    assert len(media) * len(arms) == len(rows)
    for line in media:
        for arm in arms:
            mix = run_dir / "mixes" / arm / line["presentation"] / Path(line[f"{arm} mix"]["path"]).name
            assert found.files("media")[line[f"{arm} mix"]["path"]].read_bytes() == mix.read_bytes()
