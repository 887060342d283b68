"""Sweeps over whatever can be set: how swept keys and values are told, and the table, the plot and the repeats."""

import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support import runs
from support.worlds import CHEAP, World, call

from blendbench.composing import compose
from blendbench.reports import sweeps
from blendbench.runs.folder import COLUMNS, Run


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's sweeps write below the folder where they start, and its flags go through sys.argv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def words_without(world: World, run_dir: Path, *starts: str) -> list[str]:
    """The words of a cheap run, but those of some keys."""
    return [word for word in world.run_words(run_dir, *CHEAP, "limit=2") if not word.startswith(starts)]


def tables_of(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`sweep.csv` and `table.csv`, all as text."""
    sweep, table = (
        pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False) for name in ("sweep", "table")
    )
    return sweep, table


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (("+k=a", "+k=b"), ["a", "b"]),
        (("++k=1", "++k=2"), ["1", "2"]),
        (("k='a, b'", 'k="c"'), ["a, b", "c"]),
        (("k=True", "k=null"), ["true", "null"]),
        (("k='null'", "k=null"), ["'null'", "null"]),
        (("k='1'", "k=1"), ["'1'", "1"]),
        (("k=''", "k=NA"), ["", "NA"]),
        (("k=[a,'b c']", "k=[]"), ["[a,'b c']", "[]"]),
        (("k={a:1}", "k={a:null}"), ["{a:1}", "{a:null}"]),
        ((r"k=$\{seed\}", "k=1e-05"), ["${seed}", "1e-05"]),
    ],
)
def test_swept_values_are_as_written_without_quotes_unless_two_look_alike(written, shown):
    assert sweeps.swept_values([[word] for word in written]) == [{"k": value} for value in shown]


def test_key_that_was_asked_for_is_swept_over_one_value_too():
    words = ["-m", "seed=choice(3)", "+limit=1", "kl.direction='a,b'", "prompts=glob(*)"]
    assert sweeps.swept_keys(words) == ["seed", "prompts"]
    assert sweeps.swept_values([["seed=3", "+limit=1", "prompts=default"]], ["seed", "prompts"]) == [
        {"seed": "3", "prompts": "default"}
    ]


def test_first_value_stands_in_where_hydra_composes_without_the_swept():
    words = ["experiment=a/b,c", "arms.x=null", "+m@n=choice('p q',r)", "g=glob(*)", "~d", "k='1,2'"]
    assert sweeps.with_first(words) == [
        "experiment=a/b", "experiment=a/b,c", "arms.x=null", r"+m@n=p\ q", "+m@n=choice('p q',r)", "g=glob(*)", "~d",
        "k='1,2'",
    ]  # fmt: skip
    assert sweeps.with_first(["hydra/sweeper=other", "k=1,2"]) == ["hydra/sweeper=other", "k=1,2"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, -3, 1e-7, "null", "True", "1", "1e3", "a, b", "it's", "a\\b", "a\\", "", "${x}", "ref||gen", "nan",
        "bnmusic/table1", ["a b", None, [1]], {"kind": "loudness", "lufs": -10.5, "x": {"y": []}},
    ],
)  # fmt: skip
def test_hydra_reads_back_what_an_experiments_sweep_asks_for(value):
    read = OverridesParser.create().parse_override(sweeps.override("a.b", value)).value()
    # A text that looks like an interpolation is kept from being one.
    assert OmegaConf.to_container(OmegaConf.create({"read": read}), resolve=True) == {"read": value}


def test_names_in_results_stay_text(tmp_path):
    names = ["null", "NA", "None", "nan", "01", ""]
    runs.write(
        tmp_path, results=runs.results({**dict.fromkeys(COLUMNS[:5], name), "value": 1.5, "n": 2} for name in names)
    )
    read = Run(tmp_path, compose(["experiment=bnmusic/table1"])).results()
    assert read["arm"].tolist() == read["dataset"].tolist() == names
    assert read["value"].tolist() == [1.5] * 6
    assert read["ci_low"].isna().all()


@pytest.mark.parametrize("own", [False, True], ids=["hydras", "its own"])
def test_sweep_over_data_sets_has_a_column_of_its_own(world, tmp_path, monkeypatch, own):
    drawn: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    words = [*words_without(world, tmp_path / "run", "dataset", "music"), "music=builtin"]
    # The flag stands between the overrides.
    swept = ["+experiment.sweep={dataset: [esc50, builtin]}"] if own else ["-m", "dataset=esc50,builtin"]
    assert call(*words[:3], *swept, *words[3:]) == 0
    sweep, table = tables_of(tmp_path / "run")
    assert list(sweep.columns) == ["sweep.dataset", *COLUMNS]
    assert set(zip(sweep["sweep.dataset"], sweep["dataset"], strict=True)) == {("esc50",) * 2, ("builtin",) * 2}
    # Each row says its data set, so the headings need not.
    assert list(table.columns[:3]) == ["dataset", "Noise only, Direct: FAD", "Noise only, Direct: KL"]
    assert table["dataset"].tolist() == ["esc50", "builtin"]
    for name, cell in zip(table["dataset"], table["Random music, Direct: KL"], strict=True):
        rows = sweep[(sweep["dataset"] == name) & (sweep["arm"] == "random_music") & (sweep["metric"] == "kl")]
        (value,) = rows[rows["presentation"] == "direct"]["value"]
        assert cell.split()[0] == f"{float(value):.3g}"
    (panel, _) = drawn[-1].axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["esc50", "builtin"]
    assert [len(line.get_xdata()) for line in panel.lines] == [2] * 4
    assert [line.get_label() for line in panel.lines][:1] == ["Noise only, Direct"]


def test_option_with_several_data_sets_tells_them_in_the_headings(world, tmp_path):
    words = words_without(world, tmp_path / "run", "dataset", "music")
    swept = "+experiment.sweep={dataset: [esc50, [esc50, builtin]]}"
    assert call(*words, "music=builtin", swept) == 0
    sweep, table = tables_of(tmp_path / "run")
    assert table["dataset"].tolist() == ["esc50", "[esc50,builtin]"]
    assert set(sweep[sweep["sweep.dataset"] == "[esc50,builtin]"]["dataset"]) == {"esc50", "builtin"}
    assert table["Random music, Direct, builtin: KL"][0] == "–"
    assert table["Random music, Direct, esc50: KL"][0] == table["Random music, Direct, esc50: KL"][1]


def test_experiments_in_one_sweep_keep_their_own_arms_and_presentations(world, tmp_path):
    """Table 2 has no noise alone, and another presentation; the seed is swept, too."""
    words = words_without(world, tmp_path / "run", "experiment=", "limit")
    swept = ["experiment=bnmusic/table1,bnmusic/table2", "seed=0,1", "limit=1"]
    assert call(words[0], "-m", *words[1:], *swept) == 0
    sweep, table = tables_of(tmp_path / "run")
    assert set(sweep.columns) == {"sweep.experiment", "seed", *COLUMNS}
    assert (sweep["sweep.experiment"] == sweep["experiment"]).all()
    assert table[["experiment", "seed"]].values.tolist() == [
        [f"bnmusic/table{number}", seed] for number in (1, 2) for seed in ("0", "1")
    ]
    for number, row in enumerate(table.to_dict("records")):
        assert (row["Noise only, Direct: KL"] == "–") == (number >= 2)
        assert (row["Random music, Adaptive: KL"] == "–") == (number < 2)
    assert (tmp_path / "run" / "table.md").read_text().startswith("# Sweep: ")
    repeats = pd.read_csv(tmp_path / "run" / "repeats.csv")
    # Table 1: two arms, two presentations and two metrics; Table 2: one arm and one presentation.
    assert repeats.groupby("sweep.experiment").size().to_dict() == {"bnmusic/table1": 8, "bnmusic/table2": 2}
    assert set(repeats[repeats["metric"] == "kl"]["seeds"]) == {2}
    # They share a group on W&B.
    configs = [yaml.safe_load(file.read_text()) for file in (tmp_path / "run").glob("*/config.yaml")]
    assert len({config["tracker"]["group"] for config in configs}) == 1


def test_labels_are_those_of_each_job(world, tmp_path):
    words = ("limit=1", "experiment.rows.random_music=Any music,Random music", "-m")
    assert world.run(tmp_path / "run", *CHEAP, *words) == 0
    _, table = tables_of(tmp_path / "run")
    assert [cell == "–" for cell in table["Any music, Direct: KL"]] == [False, True]
    assert [cell == "–" for cell in table["Random music, Direct: KL"]] == [True, False]


@pytest.mark.parametrize("own", [False, True], ids=["hydras", "its own"])
def test_job_that_fails_is_a_line_and_the_others_table_stands(world, tmp_path, capsys, own):
    words = words_without(world, tmp_path / "run", "evaluator.fad.checkpoint")
    places = f"{tmp_path}/nowhere,{world.evaluator}"
    swept = ["+experiment.sweep={evaluator.fad.checkpoint: [" + places + "]}"]
    assert call(*words, *(swept if own else [f"evaluator.fad.checkpoint={places}", "-m"])) == 1
    (line,) = complaints(capsys)
    assert f"{tmp_path}/nowhere" in line
    _, table = tables_of(tmp_path / "run")
    assert table["evaluator.fad.checkpoint"].tolist() == [str(world.evaluator)]
    assert "1 of 2 jobs have no results." in (tmp_path / "run" / "table.md").read_text()


def test_wrong_value_of_one_job_is_wrong_usage_and_the_others_table_stands(world, tmp_path, capsys):
    assert world.run(tmp_path / "run", *CHEAP, "limit=1,many", "-m") == 2
    (line,) = complaints(capsys)
    assert "limit" in line
    assert "many" in line
    assert tables_of(tmp_path / "run")[1]["limit"].tolist() == ["1"]


def test_traceback_of_a_job_is_there_for_who_asks(world, tmp_path, capsys):
    words = (*CHEAP, f"data.root={tmp_path}", "seed=0,1", "-m")
    assert world.run(tmp_path / "run", *words, "--debug") == 1
    assert capsys.readouterr().err.count("Traceback (most recent call last)") == 2
    assert world.run(tmp_path / "run", *words) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_one_value_equal_values_and_texts_are_rows_too(world, tmp_path, monkeypatch):
    """0.001 comes twice and counts once; a title may hold what Markdown, LaTeX and matplotlib take for signs."""
    titles = "data.table='a, $x_$ | $y$',null"
    assert world.run(tmp_path / "run", *CHEAP, "limit=1", "kl.epsilon=1e-3,0.001", titles, "seed=choice(7)", "-m") == 0
    sweep, table = tables_of(tmp_path / "run")
    assert table[["kl.epsilon", "data.table", "seed"]].values.tolist() == [
        ["0.001", "a, $x_$ | $y$", "7"], ["0.001", "null", "7"],
    ]  # fmt: skip
    assert len(sweep) == 2 * 2 * 2 * 2
    lines = (tmp_path / "run" / "table.md").read_text().splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")}) == 1
    assert set(pd.read_csv(tmp_path / "run" / "repeats.csv", keep_default_na=False)["data.table"]) == {
        "a, $x_$ | $y$", "null",
    }  # fmt: skip


def test_presentations_and_arms_are_swept_in_and_out(world, tmp_path):
    loud = "{kind: adaptive, label: Loud}"
    mine = "{_target_: blendbench.methods.noise_only.NoiseOnly, label: x}"
    words = [f"presentations.direct=null,{loud}", f"+arms.mine=null,{mine}", "-m"]
    assert world.run(tmp_path / "run", *CHEAP, "limit=1", *words) == 0
    _, table = tables_of(tmp_path / "run")
    assert list(table.columns[:2]) == ["presentations.direct", "arms.mine"]
    assert len(table) == 4
    for _, row in table.iterrows():
        cells = {name.rpartition(":")[0] for name, cell in row.items() if ": KL" in str(name) and cell != "–"}
        expected = {(arm, shown) for arm in ("Noise only", "Random music", "mine")[: 2 + (row["arms.mine"] != "null")]
                    for shown in ("Loud", "Loudness normalised")[row["presentations.direct"] == "null" :]}  # fmt: skip
        assert cells == {f"{arm}, {shown}" for arm, shown in expected}


def test_experiments_own_sweep_over_the_experiment_and_over_nothing(world, tmp_path, capsys):
    words = words_without(world, tmp_path / "run", "limit")
    swept = "+experiment.sweep={experiment: [bnmusic/table1, bnmusic/fig3], seed: [3]}"
    assert call(*words, "limit=1", swept) == 0
    sweep, table = tables_of(tmp_path / "run")
    assert table["experiment"].tolist() == ["bnmusic/table1", "bnmusic/fig3"]
    assert set(sweep["seed"]) == {"3"}
    assert call(*words, "+experiment.sweep=3") == 1
    assert "experiment.sweep: 3; give {key: [values]}" in complaints(capsys)[-1]


def test_a_glob_that_matches_nothing_is_one_line(world, tmp_path, capsys):
    assert world.run(tmp_path / "run", *CHEAP, "prompts=glob(nothing*)", "-m") == 2
    (line,) = complaints(capsys)
    assert "glob" in line


def test_glob_over_a_group_is_told_by_its_options(world, tmp_path):
    words: tuple[Any, ...] = ("limit=1", "prompts=glob(def*)", "kl.direction='ref||gen','gen||ref'", "-m")
    assert world.run(tmp_path / "run", *CHEAP, *words) == 0
    _, table = tables_of(tmp_path / "run")
    assert table[["prompts", "kl.direction"]].values.tolist() == [["default", "ref||gen"], ["default", "gen||ref"]]
