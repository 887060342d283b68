"""docs/extending.md: its examples are written out as they stand there, and run from outside the package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "extending.md"
EXAMPLE = re.compile(r"^`([\w/.]+)`:?\n\n```\w*\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every example of the document under its name, and some recordings."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "mine" / "__init__.py").write_text("", encoding="utf-8")
    draw = np.random.default_rng(0)
    for place in ("recordings/rain/a.wav", "recordings/fan/b.wav", *(f"songs/Pop/{i}.ogg" for i in range(4))):
        file = folder / "data" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.1 * draw.standard_normal(44_100 * 6), 44_100)
    return folder


def call(home: Path, *words: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(home), *filter(None, sys.path)]),
        "HF_HUB_OFFLINE": "1",
    }
    code = "from blendbench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(home: Path, run_dir: str) -> pd.DataFrame:
    return pd.read_csv(home / run_dir / "results.csv")


def test_all_kinds_have_an_example(home):
    kinds = ["method", "presentation", "metric", "evaluator", "dataset", "music", "experiment", "task", "training"]
    assert [kind for kind in kinds if not list((home / "config" / kind).rglob("*.yaml"))] == []


def test_a_paper_with_own_methods_metrics_evaluator_presentation_and_figure_runs(home):
    call(
        home, "run", "--config-dir", "config", "experiment=paper/table1", "run_dir=paper", "limit=2", "threads=1",
        "statistics.resamples=20", "generator=pocket_fast", "evaluator=bands",
    )  # fmt: skip
    table = (home / "paper" / "table.md").read_text(encoding="utf-8")
    assert "Enveloped music" in table and "| noise " in table.replace("noise |", "noise |")
    found = results(home, "paper")
    assert set(found["metric"]) == {"fad", "kl", "rise", "centroids"}
    assert set(found["presentation"]) == {"loudness_normalized", "quieter"}
    rise = found[(found.metric == "rise") & (found.presentation == "loudness_normalized")].set_index("arm")["value"]
    assert rise["noise_only"] == pytest.approx(0, abs=1e-3)  # what is heard is the noise
    assert 1 < rise["envelope"] < 7  # two sounds of one loudness
    assert (found[found.metric == "centroids"]["value"] > 0).all()
    assert (home / "paper" / "figures" / "loudness.png").is_file()
    assert (home / "paper" / "report" / "index.html").is_file()


@pytest.mark.soak
def test_a_method_that_takes_the_text_alone_runs(home):
    call(
        home, "run", "--config-dir", "config", "experiment=bnmusic/table1", "+method@arms.text_only=text_only",
        "allow_targets=[mine]", "run_dir=text", "limit=1", "generator=pocket_fast", "arms.bnmusic=null",
        "arms.riffusion_a2a=null", "arms.musicgen_melody=null", "statistics.resamples=20", "report=false",
        "presentations.direct=null",
    )  # fmt: skip
    rows = [json.loads(line) for line in (home / "text" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows if row["arm"] == "text_only"] == ["ok"]


@pytest.mark.soak
def test_own_data_sets_run(home):
    call(
        home, "run", "--config-dir", "config", "experiment=bnmusic/table1", "dataset=mine", "music=mine",
        "data.root=data", "allow_targets=[mine]", "run_dir=data-run", "arms.bnmusic=null", "arms.riffusion_a2a=null",
        "arms.musicgen_melody=null", "statistics.resamples=20", "report=false",
    )  # fmt: skip
    assert set(results(home, "data-run")["dataset"]) == {"mine"}


@pytest.mark.soak
def test_an_own_task_runs_with_its_method_and_the_metrics_that_are_there(home):
    call(
        home, "run", "--config-dir", "config", "experiment=continuation", "run_dir=on", "limit=5",
        "statistics.resamples=20",
    )  # fmt: skip
    found = results(home, "on")
    assert set(found["metric"]) == {"fad", "kl"} and set(found["arm"]) == {"again", "backwards"}
    assert found["value"].notna().all()
    assert "| Again     | beginning |" in (home / "on" / "table.md").read_text(encoding="utf-8")
    page = (home / "on" / "report" / "data.js").read_text(encoding="utf-8")
    assert '"shared": {"beginning": "Beginning"}' in page


@pytest.mark.soak
def test_an_own_training_runs_and_goes_on(home):
    words = ("train", "telling", "--config-dir", "config", "--allow-targets", "mine", "--data-root", "data")
    told = call(home, *words)
    figures = json.loads(told[told.index("{") :])
    assert figures["recordings"] == 6 and figures["steps"] == 200
    assert figures["history"][-1]["loss"] < figures["history"][0]["loss"]
    weights = home / "runs" / "train" / "telling" / "model.safetensors"
    before = weights.read_bytes()
    assert "going on from 200 steps" in call(home, *words)
    assert weights.read_bytes() == before


@pytest.mark.soak
def test_own_things_are_listed(home):
    words = ("--config-dir", "config", "--allow-targets", "mine", "methods", "metrics", "tasks", "trainings")
    found = json.loads(call(home, "list", "--json", *words))
    assert list(found) == ["methods", "metrics", "tasks", "trainings"]
    own = {kind: {entry["name"]: entry for entry in entries if entry["own"]} for kind, entries in found.items()}
    assert set(own["methods"]) == {"envelope", "text_only", "again"}
    assert own["methods"]["envelope"]["takes"] == ["noise"] and own["methods"]["envelope"]["uses"] == ["music"]
    assert own["methods"]["again"]["tasks"] == ["continuation"]
    assert "mix's loudness rises" in own["metrics"]["rise"]["text"]
    assert set(own["tasks"]) == {"continuation"} and set(own["trainings"]) == {"telling"}


@pytest.mark.soak
def test_a_method_cannot_look_at_what_it_does_not_take(home):
    (home / "mine" / "peeking.py").write_text(
        "from mine.methods import EnvelopeMusic\n\n\nclass Peeking(EnvelopeMusic):\n    takes = ()\n", encoding="utf-8"
    )
    (home / "config" / "method" / "peeking.yaml").write_text(
        "_target_: mine.peeking.Peeking\nlabel: Peeking\n", encoding="utf-8"
    )
    call(
        home, "run", "--config-dir", "config", "experiment=bnmusic/table1", "+method@arms.peeking=peeking",
        "allow_targets=[mine]", "run_dir=peeking", "limit=1", "arms.bnmusic=null", "arms.riffusion_a2a=null",
        "arms.musicgen_melody=null", "statistics.resamples=20", "report=false",
    )  # fmt: skip
    rows = [json.loads(line) for line in (home / "peeking" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    reasons = {row["reason"] for row in rows if row["arm"] == "peeking"}
    assert all("the item's noise, which its `takes` does not name" in reason for reason in reasons) and reasons
