"""The way of a study through the command line: planned, answered, analysed, and its scores in the run's tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.listeners import plan, to_version_1, tokens
from support.worlds import call

from blendbench.listening import study
from blendbench.listening.answers import Answers

LISTENERS = 6
BETTER = {"random_music": 2, "musicgen_melody": 2, "riffusion_a2a": 3, "bnmusic": 4, "noise": 1, "music": 5}
"""What the simulated listeners think of each arm."""


def answer_all(run_dir: Path) -> dict[tuple, int]:
    """Let everyone go through the whole study; returns every rating that counts, by listener, sample, arm and scale."""
    found = study.read(run_dir)
    assert found is not None
    answers, given = Answers(found), {}
    draw = np.random.default_rng(3)
    for number, token in enumerate(tokens(run_dir)):

        def listener(token: str = token):
            return answers.listener(token)

        answers.consent(listener())
        answers.set_volume(listener())
        for trial, (_, quietest) in enumerate(found.checks):
            answers.check(listener(), 0, trial, quietest)
        for page in found.pages(number):
            for place, condition in enumerate(page.order):
                for scale in found.scales:
                    value = int(np.clip(BETTER[condition] + draw.integers(-1, 2), 1, 5))
                    if page.sample.kind == "catch":
                        value = BETTER[condition]
                    answers.rate(listener(), page.index, study.position(place), scale, value, stamp=1)
                    if page.sample.kind == "sample":
                        given[number, page.sample.name, condition, scale] = value
            answers.finish_page(listener(), page.index, 20.0 + draw.uniform(0, 9), {"first": 1, "A": 2})
    answers.close()
    return given


@pytest.fixture(scope="module")
def listened(finished, tmp_path_factory) -> tuple[Path, dict[tuple, int]]:
    """A run with a study that all have finished and that is analysed, and the ratings."""
    run_dir = plan(finished, tmp_path_factory.mktemp("listened") / "run", f"listeners={LISTENERS}", "samples=2")
    given = answer_all(run_dir)
    assert call("listen", "analyse", str(run_dir)) == 0
    return run_dir, given


def test_scores_of_listeners_join_the_tables(listened, finished):
    run_dir, given = listened
    results = pd.read_csv(run_dir / "results.csv")
    before = pd.read_csv(finished / "results.csv")
    rated = results[results["metric"].isin(["ovl", "per"])]
    pd.testing.assert_frame_equal(results.drop(rated.index).reset_index(drop=True), before)
    found = study.read(run_dir)
    assert found is not None
    assert set(rated["presentation"]) == {found.presentation}
    assert sorted(set(rated["arm"])) == sorted(found.arms)
    for row in rated.to_dict("records"):
        own = [value for (_, _, arm, scale), value in given.items() if (arm, scale) == (row["arm"], row["metric"])]
        assert row["value"] == pytest.approx(np.mean(own), abs=1e-5)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["n"] == 2
        assert "6 listeners" in row["recipe"]
    scores = pd.read_csv(run_dir / "scores.csv")
    judged = scores[scores["ovl"].notna()]
    assert len(judged) == 2 * 4
    for row in judged.to_dict("records"):
        (name,) = [one.name for one in found.of_kind("sample") if one.pair_id == row["pair_id"]]
        own = [
            value
            for (_, sample, arm, scale), value in given.items()
            if (sample, arm, scale) == (name, row["arm"], "ovl")
        ]
        assert row["ovl"] == pytest.approx(np.mean(own), abs=1e-5)
    compared = pd.read_csv(run_dir / "comparisons.csv")
    assert {"ovl", "per"} <= set(compared["metric"])
    table = pd.read_csv(run_dir / "table.csv", dtype=str, keep_default_na=False).set_index("Method")
    ours = rated[(rated["arm"] == "bnmusic") & (rated["metric"] == "ovl")].iloc[0]
    (column,) = [one for one in table if one.endswith(": OVL") and table[one]["BNMusic"] != "not run"]
    assert table[column]["BNMusic"].startswith(f"{ours['value']:.3g} [")
    assert table[column]["Noise only"] == "not run"
    text = (run_dir / "table.md").read_text()
    assert "Higher is better for OVL and PER." in text


def test_table_2_has_the_papers_scores_beside_ours(listened):
    from blendbench.composing import compose
    from blendbench.reports import tables
    from blendbench.runs.folder import Run

    run_dir, _ = listened
    run = Run(run_dir, compose(["experiment=bnmusic/table2", "dataset=esc50"]))
    results = run.results()
    results["presentation"] = "adaptive"
    table = tables.layout(run, results.drop_duplicates(["arm", "metric"], keep="last"))
    method, *columns = map(str, table.columns)
    assert method == "Method" and all(column.startswith("Adaptive") for column in columns)
    assert columns[:4] == [f"Adaptive: {name}" for name in ("OVL", "PER", "FAD", "KL")]
    lines = {str(label): dict(zip(columns, map(str, cells), strict=True)) for label, *cells in table.rows}
    assert lines["BNMusic"]["Adaptive: paper's OVL/PER/FAD/KL (epic_sounds)"] == "3.67 / 3.84 / 7.98 / 1.67"


def test_a_study_of_the_first_version_is_read_analysed_exported_and_rated_as_one_of_this(listened, tmp_path):
    run_dir, _ = listened
    old = tmp_path / "run"
    shutil.copytree(run_dir, old)
    to_version_1(old)
    then, now = study.read(old), study.read(run_dir)
    assert then is not None and now is not None
    assert then.subject.catch == now.subject.catch and then.conditions == now.conditions
    assert then.settings == now.settings
    for number in range(LISTENERS):
        pages, same = then.pages(number), now.pages(number)
        assert [(page.sample.name, page.order) for page in pages] == [(page.sample.name, page.order) for page in same]
    assert call("listen", "analyse", str(old)) == 0
    names = sorted(file.name for file in (run_dir / "listening" / "analysis").iterdir())
    for name in names:
        before = (run_dir / "listening" / "analysis" / name).read_bytes()
        assert (old / "listening" / "analysis" / name).read_bytes() == before, name
    for folder in (run_dir, old):
        assert call("listen", "export", str(folder), str(tmp_path / f"{folder.parent.name}.csv")) == 0
    exports = [(tmp_path / f"{folder.parent.name}.csv").read_bytes() for folder in (run_dir, old)]
    assert exports[0] == exports[1]
    # A new listener goes through it.
    assert call("listen", str(old), "--plan", "--invite", "1") == 0
    answers = Answers(then)
    token = tokens(old)[-1]
    answers.consent(answers.listener(token))
    answers.set_volume(answers.listener(token))
    answers.close()


def test_table_without_a_study_is_as_before(listened, finished, tmp_path):
    run_dir, _ = listened
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("listening"))
    assert call("table", str(tmp_path / "run")) == 0
    assert (tmp_path / "run" / "table.md").read_bytes() == (finished / "table.md").read_bytes()
    assert (tmp_path / "run" / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_damaged_analysis_is_one_line(listened, tmp_path, capsys):
    run_dir, _ = listened
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / "listening" / "analysis" / "pairs.csv").write_text("nothing\n")
    assert call("table", str(tmp_path / "run")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "listening/analysis: damaged" in line and "listen analyse" in line


def test_status_and_export_tell_what_was_given(listened, tmp_path, capsys):
    run_dir, given = listened
    assert call("listen", "status", str(run_dir)) == 0
    assert f"{LISTENERS} listeners: {LISTENERS} finished" in capsys.readouterr().out
    assert call("listen", "export", str(run_dir), str(tmp_path / "all.csv")) == 0
    assert call("listen", "export", str(run_dir), str(tmp_path / "all.json")) == 0
    table = pd.read_csv(tmp_path / "all.csv")
    rows = table[table["kind"] == "sample"]
    told = {(row["listener"], row["sample"], row["arm"], row["scale"]): row["value"] for row in rows.to_dict("records")}
    assert told == given
    whole = json.loads((tmp_path / "all.json").read_text())
    assert len(whole["ratings"]) == len(table)
    assert [one["state"] for one in whole["listeners"]] == ["finished"] * LISTENERS
    assert call("listen", "export", str(run_dir), str(tmp_path / "all.txt")) == 2
    assert "use .csv or .json" in capsys.readouterr().err


def test_ratings_from_webmushra_are_analysed_the_same_way(listened, tmp_path, capsys):
    run_dir, _ = listened
    shutil.copytree(run_dir, tmp_path / "run")
    assert call("listen", "webmushra", str(tmp_path / "run"), str(tmp_path / "web")) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert call("listen", "analyse", str(tmp_path / "run"), "--answers", str(tmp_path / "bad.csv")) == 1
    assert "bad.csv" in capsys.readouterr().err
