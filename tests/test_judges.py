"""Several judges in one run: names, labels, what is kept, and how their orderings agree."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from support.worlds import CHEAP, World, call

from blendbench.composing import with_judges
from blendbench.config import run_dir_of
from blendbench.errors import UsageError
from blendbench.models.tagger import Tagger
from blendbench.runs.folder import Run


@pytest.fixture(scope="module")
def other(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second tagger, which hears otherwise."""
    folder = tmp_path_factory.mktemp("judges") / "other"
    tagger = Tagger.load(world.evaluator)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for parameter in (tagger.project.weight, tagger.head.weight):
            parameter.copy_(torch.randn_like(parameter))
    tagger.save(folder)
    return folder


def entry(folder: Path, name: str = "other") -> str:
    return f"{{_target_: blendbench.evaluators.pocket.PocketTagger, name: {name}, checkpoint: {folder}}}"


def further(folder: Path) -> str:
    return f"+judges.second={{fad: {entry(folder)}, kl: {entry(folder)}, prompt: null}}"


@pytest.fixture(scope="module")
def judged(world: World, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two judges over a store of its own."""
    folder = tmp_path_factory.mktemp("judged")
    there = world.with_store(folder / "store")
    assert there.run(folder / "run", "limit=4", *CHEAP, further(other), "statistics.over_n=[2]") == 0
    return folder / "run"


def values(run_dir: Path, metric: str) -> list[tuple]:
    results = pd.read_csv(run_dir / "results.csv")
    kept = results[results["metric"] == metric].fillna("none")
    return list(kept[["arm", "presentation", "value", "ci_low", "ci_high", "n"]].itertuples(index=False, name=None))


def test_each_judge_says_what_it_says_alone(world, other, judged, tmp_path):
    names = set(pd.read_csv(judged / "results.csv")["metric"])
    assert names >= {"fad", "fad_second", "kl", "kl_second", "fad@2", "fad_second@2"}
    assert values(judged, "fad") != values(judged, "fad_second")
    there = world.with_store(tmp_path / "store")
    words = [f"evaluator.{metric}={entry(other)}" for metric in ("fad", "kl")]
    words = [word for word in there.run_words(tmp_path / "run", "limit=4", *CHEAP, *words, "statistics.over_n=[2]")
             if "evaluator.fad.checkpoint" not in word]  # fmt: skip
    assert call(*words) == 0
    for name in ("fad", "kl", "fad@2"):
        base, at, size = name.partition("@")
        assert values(judged, f"{base}_second{at}{size}") == values(tmp_path / "run", name)
    scores = pd.read_csv(judged / "scores.csv")
    assert "kl_second" in scores and not scores["kl"].equals(scores["kl_second"])


def test_what_a_judge_has_said_is_kept_whoever_it_was_first_or_second(world, other, judged, tmp_path, monkeypatch):
    there = world.with_store(tmp_path / "store")
    shutil.copytree(judged.parent / "store", there.store)

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("blendbench.evaluators.pocket.PocketTagger.score", refuse)
    monkeypatch.setattr("blendbench.runs.results._OfSet._compute", refuse)
    words = [f"evaluator.{metric}={entry(other)}" for metric in ("fad", "kl")]
    swapped = f"+judges.first={{fad: {entry(world.evaluator, 'pocket-tagger')}}}"
    words = [word for word in there.run_words(tmp_path / "run", "limit=4", *CHEAP, *words, swapped,
                                              "statistics.over_n=[2]")
             if "evaluator.fad.checkpoint" not in word]  # fmt: skip
    assert call(*words) == 0
    assert values(tmp_path / "run", "fad") == values(judged, "fad_second")
    assert values(tmp_path / "run", "fad_first") == values(judged, "fad")
    assert not values(tmp_path / "run", "kl_first")  # this judge was not asked for classes


def test_the_table_names_the_judge_and_tells_how_they_agree(judged):
    table = (judged / "table.md").read_text()
    head = next(line for line in table.splitlines() if line.startswith("| Method"))
    block = [cell.strip() for cell in head.split("|") if "Direct: " in cell]
    assert block == [
        "Direct: FAD (pocket-tagger)", "Direct: FAD (other)", "Direct: KL (pocket-tagger)", "Direct: KL (other)",
        "Direct: paper's FAD/KL (esc50)",
    ]  # fmt: skip
    assert "Ordering of 2 methods by FAD (other), Direct, esc50: Kendall's tau with the paper's" in table
    assert "by FAD (other), Direct, esc50: Kendall's tau with FAD (pocket-tagger)'s" in table
    run = Run.open(judged)
    assert run.fact("fad_second@2").label == "FAD (other)@2"
    assert run.fact("fad").label == "FAD (pocket-tagger)"
    assert [run.first_name(name) for name in ("fad_second", "fad", "nothing")] == ["fad", "fad", "nothing"]
    assert "FAD (other)" in (judged / "table.tex").read_text()


def test_one_judge_is_not_named_and_names_no_other_folder(finished):
    assert Run.open(finished).fact("fad").label == "FAD"
    settings = Run.open(finished).settings | {"run_dir": None}
    assert settings["judges"] == {}
    assert run_dir_of(settings) != run_dir_of(settings | {"judges": {"second": {"fad": {"name": "x"}}}})


def test_words_for_several_judges():
    assert with_judges(["limit=2", "evaluator=[pocket, musicnn,vggish]", "evaluator=clap"]) == [
        "limit=2", "evaluator=pocket", "+evaluator@judges.musicnn=musicnn", "+evaluator@judges.vggish=vggish",
        "evaluator=clap",
    ]  # fmt: skip
    for wrong in ("evaluator=[]", "evaluator=[pocket,pocket]", "evaluator=[pocket,{a:1}]"):
        with pytest.raises(UsageError, match="give names of evaluators, each once"):
            with_judges([wrong])


@pytest.mark.parametrize("own", [False, True])
def test_a_judges_own_interpolation_must_mean_itself(world, other, tmp_path, capsys, own):
    folder = tmp_path / "config" / "evaluator"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"fad: {entry(other)}\nkl: ${{{'.fad' if own else 'evaluator.fad'}}}\n")
    run_dir = tmp_path / "run"
    words = world.run_words(run_dir, "limit=2", *CHEAP, "evaluator=[pocket,mine]", "dry_run=true")
    assert call(*words, "--config-dir", str(tmp_path / "config")) == (0 if own else 2)
    if not own:
        (line,) = capsys.readouterr().err.splitlines()
        assert "judges.mine.kl: ${evaluator.fad} would be the first evaluator's; write ${.fad}" in line


def test_a_judge_without_weights_is_one_line(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert world.run(tmp_path / "run", "limit=2", *CHEAP, "evaluator=[pocket,musicnn]", "dry_run=true") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]
    assert line.endswith("not here; type `blendbench models fetch musicnn`")


@pytest.mark.soak
def test_a_sweep_of_hydras_keeps_both_judges(world, other, tmp_path):
    folder = tmp_path / "config" / "evaluator"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"fad: {entry(other)}\nkl: ${{.fad}}\n")
    words = world.run_words(tmp_path / "run", "limit=2", *CHEAP, "evaluator=[pocket,mine]", "presentations.direct=null")
    words = [word for word in words if "run_dir" not in word]
    assert (
        call(*words, "seed=0,1", f"run_dir={tmp_path}/${{seed}}", "-m", "--config-dir", str(tmp_path / "config")) == 0
    )
    for seed in (0, 1):
        (results,) = (tmp_path / str(seed)).rglob("results.csv")
        assert {"fad", "fad_mine", "kl_mine"} <= set(pd.read_csv(results)["metric"])


def test_a_metric_against_loudness_has_a_panel_a_judge(world, other, tmp_path):
    """The paper's Fig. 4, by two judges: each marks a best level of its own."""
    there = world.with_store(tmp_path / "store")
    figure = "+experiment.figures=[{_target_: blendbench.figures.bnmusic.metric_against_loudness}]"
    levels = "{a: {kind: loudness, lufs: -24, label: a}, b: {kind: loudness, lufs: -12, label: b}}"
    words = ["limit=3", *CHEAP, further(other), figure, f"+presentations={levels}", "statistics.resamples=20"]
    assert there.run(tmp_path / "run", *words) == 0
    best = pd.read_csv(tmp_path / "run" / "figures" / "fig4.csv")
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(best["metric"]) == {"fad", "fad_second"}
    for row in best.itertuples():
        own = results[(results["metric"] == row.metric) & (results["arm"] == row.arm)]
        assert row.value == own["value"].min()
        assert row.lufs == {"a": -24, "b": -12}[own.loc[own["value"].idxmin(), "presentation"]]
    with Image.open(tmp_path / "run" / "figures" / "fig4.png") as image:
        assert image.width > 2 * image.height
