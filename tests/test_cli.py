"""The command line: help, statuses, and the commands over a finished run."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.worlds import CHEAP, call

from blendbench.composing import compose

COMMANDS = ("run", "blend", "table", "report", "data", "models", "doctor", "train")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("blendbench: ")
    return lines[0]


@pytest.fixture
def argv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's flags go through sys.argv, which is put back afterwards."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))


@pytest.mark.parametrize("words", [[], ["-h"]])
def test_help_answers_within_a_second_and_without_torch(words):
    code = (
        "import sys, blendbench.cli as c\n"
        "try: c.main(sys.argv[1:])\n"
        "finally: print([m for m in ('torch', 'hydra', 'numpy', 'diffusers', 'pandas') if m in sys.modules])"
    )
    # The quickest of a few, since other work may hold the processor.
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"blendbench {name}" in done.stdout for name in COMMANDS)
    assert done.stderr == ""


def test_version_is_the_packages(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["--nonsense"], ["table"], ["report", "a", "b"], ["data"], ["data", "x"]]
)
def test_wrong_words_are_wrong_usage_in_one_line(capsys, words):
    assert call(*words) == 2
    one_line(capsys)


@pytest.mark.parametrize("command", ["table", "report"])
@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_folder_that_is_no_runs_is_one_line_that_names_it(tmp_path, capsys, command, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert call(command, str(tmp_path / place)) == 1
    assert str(tmp_path / place) in one_line(capsys)


def test_debug_adds_the_traceback(tmp_path, capsys):
    assert call("table", str(tmp_path / "x"), "--debug") == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("blendbench: ")


def test_fault_of_the_program_is_one_line_too(monkeypatch, tmp_path, capsys):
    def broken(folder):
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr("blendbench.runs.folder.read_settings", broken)
    assert call("table", str(tmp_path)) == 1
    assert "unexpected ZeroDivisionError: first (add --debug" in one_line(capsys)


def test_interrupt_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("blendbench.runs.folder.read_settings", interrupted)
    assert call("table", str(tmp_path)) == 130
    assert "the same command goes on" in one_line(capsys)


def test_table_rebuilds_the_same_bytes(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    names = ("results.csv", "table.md", "table.tex", "table.csv")
    for name in names:
        (tmp_path / "run" / name).unlink()
    assert call("table", str(tmp_path / "run")) == 0
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
    assert "BNMusic, Table 1" in capsys.readouterr().out


def test_report_rebuilds_the_same_bytes_and_prints_its_place(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    page = tmp_path / "run" / "report" / "index.html"
    page.unlink()
    assert call("report", str(tmp_path / "run")) == 0
    assert page.read_bytes() == (finished / "report" / "index.html").read_bytes()
    assert str(page) in capsys.readouterr().out


def test_stored_config_is_resolved_and_says_what_ran(finished, world):
    settings = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    assert "${" not in (finished / "config.yaml").read_text(encoding="utf-8")
    assert (settings["limit"], settings["batch"], settings["seed"]) == (2, 1, 0)
    assert settings["dataset"]["esc50"]["root"] == str(world.root)


def test_arm_can_be_deleted_in_hydras_way(world, tmp_path):
    settings = compose([*world.run_words(tmp_path / "run")[1:], "~arms.bnmusic"])
    assert set(settings["arms"]) == {"noise_only", "random_music", "musicgen_melody", "riffusion_a2a"}


@pytest.mark.parametrize("word", ["~arms.nonsense", "~nonsense"])
def test_deleting_what_is_not_there_names_it(world, tmp_path, capsys, word):
    assert world.run(tmp_path / "run", *CHEAP, word) == 2
    assert "is not key=value" not in (line := one_line(capsys))
    assert "nonsense" in line


def test_cfg_job_prints_the_config_and_runs_nothing(world, tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    assert call(*world.run_words(tmp_path / "run", *CHEAP, "limit=1"), "--cfg", "job") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["limit"] == 1
    assert printed["experiment"]["name"] == "bnmusic/table1"
    assert list(tmp_path.iterdir()) == []


def test_help_of_run_lists_groups_and_keys(monkeypatch, tmp_path, capsys, argv):
    monkeypatch.chdir(tmp_path)
    assert call("run", "--help") == 0
    text = capsys.readouterr().out
    for word in ("generator: pocket, pocket_fast, riffusion", "bnmusic", "core_fraction", "store_dir"):
        assert word in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("--cfg", "job", "nonsense=1"), "nonsense"),
        (("-m", "experiment=bnmusic/table1", "nonsense=1"), "nonsense"),
        (("-m", "experiment=bnmusic/table1", "limit=many"), "limit"),
        (("-m", "experiment=nonsense"), "nonsense"),
    ],
)
def test_wrong_setting_with_hydras_flags_is_one_line_too(monkeypatch, tmp_path, capsys, argv, words, key):
    monkeypatch.chdir(tmp_path)
    assert call("run", *words) == 2
    assert key in one_line(capsys)


def test_failed_jobs_of_a_sweep_are_a_line_each(world, tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    assert world.run(tmp_path / "run", *CHEAP, f"data.root={tmp_path}", "seed=0,1", "-m") == 1
    # One line a job, and no traceback.
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("blendbench: ") and "esc50.csv" in line for line in lines)


def test_data_check_counts_the_clips_of_a_root(world, capsys):
    call("data", "check", f"data.root={world.root}")
    lines = {" ".join(line.split()[:4]): line for line in capsys.readouterr().out.splitlines()}
    assert "5 clips of 2 classes, 35 pairs" in lines["ok data noise esc50"]
    assert "28 clips of 7 classes" in lines["ok data music musicbench"]
    assert "100 prompts of 7 genres" in next(line for name, line in lines.items() if "prompts" in name)


def test_data_check_says_where_missing_data_belong(tmp_path, capsys):
    call("data", "check", f"data.root={tmp_path}")
    out = capsys.readouterr().out
    assert str(tmp_path / "ESC-50" / "meta" / "esc50.csv") in out
    assert "data.root=DIR" in out


def test_data_check_tells_files_that_are_missing(world, tmp_path, capsys):
    shutil.copytree(world.root, tmp_path / "data")
    victim = sorted((tmp_path / "data" / "ESC-50" / "audio").iterdir())[2]
    victim.unlink()
    call("data", "check", f"data.root={tmp_path / 'data'}")
    out = capsys.readouterr().out
    assert "1 cannot be heard" in out
    assert f"no file in {victim.parent}: {victim.stem}" in out


def test_data_check_fails_only_for_what_is_needed(monkeypatch, tmp_path, capsys):
    from blendbench.datasets import NoiseClip, builtin

    for name in ("noise", "music"):
        monkeypatch.setattr(builtin, name, lambda: [NoiseClip("a", Path(__file__), "", "a")])
    monkeypatch.setattr("blendbench.datasets.manifests._verify", lambda *_: "")
    assert call("data", "check", f"data.root={tmp_path}") == 0
    monkeypatch.setattr(builtin, "noise", lambda: [NoiseClip("a", tmp_path / "gone.wav", "", "a")])
    assert call("data", "check", f"data.root={tmp_path}") == 1
    assert "MISS" in capsys.readouterr().out


def test_doctor_always_ends_well_and_tells_remedies(world, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call("doctor", f"data.root={tmp_path}", f"store_dir={tmp_path / 'file' / 'below'}") == 0
    out = capsys.readouterr().out
    for name in (
        "python",
        "cpu",
        "memory",
        "model pocket",
        "model tagger",
        "data noise esc50",
        "store",
        "wandb log-in",
    ):
        assert name in out
    (line,) = [line for line in out.splitlines() if " store " in line]
    assert line.startswith("MISS")
    assert "set store_dir to a writable folder" in line


def test_models_are_listed(capsys):
    assert call("models", "list") == 0
    out = capsys.readouterr().out
    assert all(f"model {name}" in out for name in ("pocket", "tagger", "riffusion"))
