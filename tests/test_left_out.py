"""A run without some of its arms or presentations, or with others: table, figures, page and study of what is there."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.listeners import SMALL
from support.worlds import CHEAP, World, call

from blendbench.figures import drawing
from blendbench.listening.study import PLAN

MINE = "+arms.mine={_target_: blendbench.methods.random_music.RandomMusic, label: x}"
"""An arm of one's own, without a row in the experiment's table."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on."""
    found: list[Figure] = []
    save: Callable = drawing.save

    def kept(figure: Figure, file: Path) -> None:
        found.append(figure)
        save(figure, file)

    monkeypatch.setattr(drawing, "save", kept)
    return found


def run(world: World, name: str, run_dir: Path, *words: str) -> int:
    """A cheap run of an experiment."""
    asked = [word for word in world.run_words(run_dir, *CHEAP, "limit=2") if not word.startswith("experiment=")]
    return call(*asked, f"experiment=bnmusic/{name}", *words)


def rows(run_dir: Path) -> list[str]:
    return pd.read_csv(run_dir / "table.csv", dtype=str)["Method"].tolist()


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_heat_maps_show_the_arms_that_are_there(world, tmp_path, drawn, capsys):
    assert run(world, "fig3", tmp_path / "run", MINE) == 0
    assert titles(drawn[0]) == ["noise", "Random music", "mine"]
    assert complaints(capsys) == []


def test_waveforms_show_the_arms_that_are_there_at_the_first_presentation(world, tmp_path, drawn, capsys):
    left_out = ("presentations.loudness_normalized=null", "arms.noise_only=null")
    assert run(world, "fig7", tmp_path / "run", MINE, "limit=1", *left_out) == 0
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["noise", "Random music", "mine"]
    assert drawn[0].axes[0].get_title().endswith("; Direct")
    (line,) = complaints(capsys)
    assert "figure fig7: the run has no presentation loudness_normalized; drawn with direct" in line
    table = pd.read_csv(tmp_path / "run" / "table.csv", dtype=str)
    assert all(name == "Method" or name.startswith("Direct: ") for name in table.columns)


def test_metric_against_loudness_shows_the_arms_and_levels_that_are_there(world, tmp_path, drawn):
    shown = ("l24", "l21", "l15", "l12", "l09", "l06")
    assert run(world, "fig4", tmp_path / "run", MINE, *(f"presentations.{name}=null" for name in shown)) == 0
    assert {line.get_label() for line in drawn[0].axes[0].lines} >= {"Random music", "mine"}
    best = pd.read_csv(tmp_path / "run" / "figures" / "fig4.csv")
    assert set(best["arm"]) == {"random_music", "mine"}
    assert set(best["lufs"]) <= {-18.0, -3.0}
    # The experiment has no figures of the paper, so an arm that is left out has no row.
    assert rows(tmp_path / "run") == ["Random music", "mine"]
    assert "not run" not in (tmp_path / "run" / "table.md").read_text()


def test_figure_that_cannot_be_drawn_is_a_line_and_the_others_are_drawn(world, tmp_path, drawn, capsys):
    own = ",".join(
        [
            "{_target_: blendbench.figures.bnmusic.stage1_images}",
            "{_target_: blendbench.figures.bnmusic.metric_against_loudness}",
            "null",
            "{_target_: blendbench.figures.bnmusic.waveforms, arms: [bnmusic]}",
            "{_target_: json.loads}",
            "{_target_: blendbench.figures.bnmusic.waveforms, arms: [bnmusic, random_music], pair: 7}",
        ]
    )
    words = (f"experiment.figures=[{own}]", "allow_targets=[json]", "limit=1")
    assert run(world, "fig3", tmp_path / "run", *words) == 0
    lines = complaints(capsys)
    assert len(lines) == 4
    assert "no arm bnmusic, nor another that keeps its images" in lines[0]
    assert "no fad of random_music at presentations of kind loudness" in lines[1]
    assert "no arm of bnmusic under loudness_normalized" in lines[2]
    assert "experiment.figures[4]" in lines[3]
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["noise", "Random music"]
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_images_of_another_arm_of_the_method_stand_in(world, finished, tmp_path, drawn, capsys):
    """No music is made again: the arm of another name has the music of Table 1's."""
    words = [word for word in world.run_words(tmp_path / "run", "limit=1", "batch=1") if "arms." not in word]
    words = [word for word in words if "experiment=" not in word]
    arm = ("arms.bnmusic=null", "+method@arms.mine=bnmusic", "arms.mine.griffin_lim_iterations=1")
    assert call(*words, "experiment=bnmusic/fig6", *arm) == 0
    assert drawn[0].get_suptitle() == "mine"
    assert any("figure fig6: the run has no arm bnmusic; drawn with mine" in line for line in complaints(capsys))


def test_prompts_and_labels_with_dollars_are_no_formulas(world, tmp_path, drawn):
    (tmp_path / "prompts.txt").write_text("from $5_{ to $6\n")
    words = ("prompts=file", f"prompts.file={tmp_path / 'prompts.txt'}", "experiment.rows.random_music='$_$'")
    assert run(world, "fig7", tmp_path / "run", "limit=1", *words) == 0
    assert drawn[0].axes[0].get_title().endswith("; from $5_{ to $6")
    assert drawn[0].axes[1].get_ylabel() == "$_$"


def test_arm_of_ones_own_is_in_table_tests_and_page_by_its_name(world, tmp_path):
    """Rows of arms left out stay for the paper's figures; two arms of one label are told apart."""
    words = (MINE, "experiment.rows.noise_only=Any", "experiment.rows.random_music=Any", "limit=3")
    assert run(world, "table1", tmp_path / "run", *words) == 0
    assert rows(tmp_path / "run") == [
        "Any (noise_only)", "Any (random_music)", "MusicGen melody", "Riffusion A2A", "BNMusic", "mine",
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "run" / "table.csv", dtype=str).set_index("Method")
    assert table.loc["mine", "Direct: KL"] == table.loc["Any (random_music)", "Direct: KL"]
    assert table.loc["mine", "Direct: paper's FAD/KL (esc50)"] == "– / –"
    assert table.loc["BNMusic", "Direct: KL"] == "not run"
    # The best is told by all that ran.
    ran = table.loc[["Any (noise_only)", "Any (random_music)", "mine"]]
    for column in ("Direct: FAD", "Direct: KL"):
        best = min(ran[column], key=lambda cell: float(cell.split()[0]))
        assert f"**{best}**" in (tmp_path / "run" / "table.md").read_text()
    page = json.loads((tmp_path / "run" / "report" / "data.js").read_text().removeprefix("const REPORT = ")[:-2])
    assert page["arms"] == ["Any (noise_only)", "Any (random_music)", "mine"]


def test_arm_left_out_has_no_row_where_no_figure_of_the_paper_stands_beside(world, tmp_path):
    assert run(world, "audibility", tmp_path / "run", "arms.noise_only=null", "limit=1") == 0
    assert rows(tmp_path / "run") == ["Random music"]
    # The paper has figures of Table 1, but for its own data sets.
    assert run(world, "table1", tmp_path / "other", "limit=1", "experiment.paper_dataset.esc50=null") == 0
    assert rows(tmp_path / "other") == ["Noise only", "Random music"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("arms", ("arms.noise_only=null", "arms.random_music=null")),
        ("presentations", ("presentations.direct=null", "presentations.loudness_normalized=null")),
        ("dataset", ("dataset.esc50=null",)),
        ("arms.mine", ("+arms.mine=3",)),
        ("presentations.direct", ("presentations.direct=x",)),
    ],
)
def test_nothing_left_or_no_group_of_keys_is_one_line(world, tmp_path, capsys, key, words):
    assert run(world, "table1", tmp_path / "run", *words) in (1, 2)
    (line,) = complaints(capsys)
    assert line.startswith(f"blendbench: {key}: ")
    assert "unexpected" not in line
    assert not (tmp_path / "run").exists()


def test_one_of_several_data_sets_can_be_left_out(world, tmp_path):
    words = [word for word in world.run_words(tmp_path / "run", *CHEAP, "limit=1") if not word.startswith("dataset")]
    assert call(*words, "dataset=[esc50,builtin]", "dataset.esc50=null") == 0
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["dataset"]) == {"builtin"}


def test_study_takes_the_arms_with_music_that_are_there(world, tmp_path, capsys):
    study = (*SMALL, "samples=1", "practice=0")
    assert run(world, "table1", tmp_path / "run", MINE, "arms.noise_only=null") == 0
    assert call("listen", str(tmp_path / "run"), "--plan", *study) == 0
    plan = json.loads((tmp_path / "run" / "listening" / PLAN).read_text())
    assert plan["arms"] == {"random_music": "Random music", "mine": "mine"}
    capsys.readouterr()
    assert run(world, "table1", tmp_path / "silent", "arms.random_music=null", "limit=1") == 0
    assert call("listen", str(tmp_path / "silent"), "--plan", *study) == 1
    assert "arms: 0 to be rated" in complaints(capsys)[-1]
