"""What a run makes of a user's metric that fails, or was edited: a line that names it, and no stale or lost number."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import own_metrics
from support.worlds import CHEAP, World, rows_of

from blendbench.errors import ClipError

OWN = ("limit=2", *CHEAP, "allow_targets=[support.own_metrics]", "report=false", "statistics.resamples=20")


def target(name: str, **entries: str) -> str:
    own = "".join(f", {key}: {value}" for key, value in entries.items())
    return f"+metric.mine={{_target_: support.own_metrics.{name}{own}}}"


@pytest.fixture
def ran(world, finished, tmp_path) -> World:
    """A world whose store has a run's mixes and scores."""
    return world.with_store(tmp_path / "store")


@pytest.fixture(autouse=True)
def fails():
    yield own_metrics.FAILS
    own_metrics.FAILS.clear()


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]


def cell(run_dir: Path, metric: str, arm: str = "noise_only", shown: str = "direct") -> pd.Series:
    found = pd.read_csv(run_dir / "results.csv").set_index(["metric", "arm", "presentation"])
    return found.loc[metric, arm, shown]


@pytest.mark.parametrize("name", ["Failing", "Quick"])
@pytest.mark.parametrize(
    ("what", "told"),
    [
        (
            ValueError("my own mistake"),
            "mine not measured: unexpected ValueError: my own mistake (own_metrics.py, line ",
        ),
        (ClipError("rain.wav: is not there"), "mine not measured: rain.wav: is not there"),
        (float("inf"), "mine not measured: failing is inf"),
    ],
)
def test_a_sound_that_a_metric_fails_at_is_counted_and_tried_again(ran, tmp_path, capsys, fails, name, what, told):
    words = (target(name), "experiment.metrics=[failing]", *OWN)
    assert ran.run(tmp_path / "run", *words, "dry_run=true") == 0
    capsys.readouterr()
    pair = "esc50--1-100000-A-0--edm-15"
    fails |= {"what": what, "pair_id": pair}
    assert ran.run(tmp_path / "run", *words) == 0
    told_of = [line for line in lines(capsys) if "mine not measured" in line]
    assert told_of and all(line.startswith(f"blendbench: {pair}: ") and told in line for line in told_of)
    assert pair in {row["pair_id"] for row in rows_of(tmp_path / "run")}
    assert tuple(cell(tmp_path / "run", "failing")[["value", "n", "n_failed"]]) == (5.0, 1, 1)
    assert tuple(cell(tmp_path / "run", "failing", "random_music")[["value", "n", "n_failed"]]) == (5.0, 2, 0)
    fails.clear()
    (tmp_path / "run" / "finished.json").unlink()
    assert ran.run(tmp_path / "run", *words) == 0
    assert tuple(cell(tmp_path / "run", "failing")[["value", "n", "n_failed"]]) == (5.0, 2, 0)


@pytest.mark.parametrize(
    ("value", "told"), [("null", "unexpected ZeroDivisionError: division by zero"), ("'nan'", "nowhere is nan")]
)
def test_a_distance_that_cannot_be_computed_is_a_line_and_the_rest_stands(ran, tmp_path, capsys, value, told):
    entry = target("Nowhere", evaluator="fad", value=value).replace("mine", "nowhere")
    assert ran.run(tmp_path / "run", entry, "experiment.metrics=[fad,nowhere]", *OWN) == 0
    found = lines(capsys)
    assert len(found) == 4 and all("nowhere not measured: " in line and told in line for line in found)
    assert found[0].startswith("blendbench: esc50, noise_only, ")
    assert pd.isna(cell(tmp_path / "run", "nowhere").value) and cell(tmp_path / "run", "fad").value > 0
    assert "nowhere" not in set(pd.read_csv(tmp_path / "run" / "comparisons.csv")["metric"])


def test_values_that_facts_do_not_name_are_refused(ran, tmp_path, capsys):
    assert ran.run(tmp_path / "run", target("Undeclared"), "experiment.metrics=[declared]", *OWN) == 1
    assert lines(capsys)[-1] == "blendbench: metric.mine: gives other, but its facts name declared; mend them"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["experiment.metrics=[fad,kll]"], 1, "experiment.metrics: no metric has a value 'kll'; there are fad"),
        (["experiment.metrics=[fad,nan]"], 2, "experiment.metrics: nan is no text; write it in quotes"),
        ([target("Failin")], 1, "metric.mine._target_: support.own_metrics.Failin cannot be imported ("
                                "support.own_metrics has no Failin)"),
        (["+metric.mine={_target_: nobody.Metric}", "allow_targets=[nobody]"], 1,
         "nobody.Metric cannot be imported (No module named 'nobody'; is the folder that holds it in PYTHONPATH?)"),
        (["+metric=clap", "+metric=kl"], 2, "give them in one word, such as '+metric=[first,second]'"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line_before_any_music_is_made(ran, tmp_path, capsys, words, status, told):
    assert ran.run(tmp_path / "run", *OWN, *words) == status
    (line,) = lines(capsys)
    assert told in line
    assert not (tmp_path / "store" / "music").exists()


def test_a_metric_whom_no_evaluator_answers_is_told_when_the_run_is_planned(ran, tmp_path, capsys):
    assert ran.run(tmp_path / "run", *OWN, "experiment.metrics=[fad,clap]") == 0
    (line,) = lines(capsys)
    assert line.startswith("blendbench: metric.clap: clap not measured: there is no evaluator.prompt; add one")


MODULE = """
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric
class Edited(ItemMetric):
    facts = {"edited": Facts("Edited")}
    def __init__(self, factor=1.0):
        self.factor = factor
    def measure(self, sound):
        return {"edited": 2 * self.factor}
"""


def test_an_edited_metric_measures_again_without_a_signature_of_its_own(ran, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "own")
    (tmp_path / "own").mkdir()

    def value(text: str, *words: str) -> float:
        (tmp_path / "own" / "edited_metric.py").write_text(text)
        sys.modules.pop("edited_metric", None)
        own = ("+metric.mine={_target_: edited_metric.Edited}", "experiment.metrics=[edited]")
        given = [word for word in OWN if not word.startswith("allow_targets")]
        assert ran.run(tmp_path / "run", *own, *given, "allow_targets=[edited_metric]", *words) == 0
        return cell(tmp_path / "run", "edited").value

    assert value(MODULE) == 2
    assert value(MODULE.replace("2 *", "300 *")) == 300
    assert value(MODULE.replace("2 *", "300 *"), "+metric.mine.factor=0.5") == 150
    kept = {file: json.loads(file.read_text().splitlines()[0])["edited"] for file in
            (tmp_path / "store" / "metrics").glob("*/measures.jsonl")}  # fmt: skip
    assert sorted(kept.values()) == [2, 150, 300]
