"""The configuration as commands compose it: one line for what is wrong, also in a file of the user's."""

from pathlib import Path

import pytest
from support.worlds import call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "torn.yaml").write_text("a: [1\nb: {", encoding="utf-8")
    return tmp_path


def test_a_file_that_is_no_yaml_is_named_with_its_line(folder, capsys):
    words = ("experiment=bnmusic/table1", "+method@arms.torn=torn", "dry_run=true")
    assert call("run", "--config-dir", str(folder), *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "torn.yaml, line 2: no YAML" in lines[0]


def test_a_search_path_is_as_good_as_a_config_dir(folder, capsys):
    (folder / "method" / "silent.yaml").write_text(
        "_target_: blendbench.methods.noise_only.NoiseOnly\nlabel: Silent\n", encoding="utf-8"
    )
    words = ("experiment=bnmusic/table1", "+method@arms.silent=silent", "dry_run=true", "limit=1")
    left_out = [f"arms.{name}=null" for name in ("bnmusic", "riffusion_a2a", "musicgen_melody")]
    assert call("run", *words, *left_out, f"hydra.searchpath=[file://{folder}]") == 0
    assert "silent" in capsys.readouterr().out


def test_what_is_listed_of_a_torn_file_is_that_it_is_torn(folder, capsys):
    assert call("list", "--config-dir", str(folder), "methods") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "torn" in line]
    assert line.startswith("--") and "cannot be read" in line


def test_an_unknown_kind_to_list_is_one_line(capsys):
    assert call("list", "methodes") == 2
    assert "list: no kind 'methodes'; there are tasks, methods" in capsys.readouterr().err
