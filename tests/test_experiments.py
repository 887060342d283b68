"""Every experiment of the package runs at a tiny size and leaves what it promises; sweeps end in a table and a plot."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support import bundles
from support.msanii import tiny_msanii
from support.tiny_models import tiny_accompanists
from support.worlds import CHEAP, World, call, rows_of

from blendbench.composing import compose
from blendbench.errors import BlendbenchError
from blendbench.reports import sweeps
from blendbench.resources import package_folder
from blendbench.runs.experiment import Experiment

FOLDER = package_folder("blendbench.conf") / "experiment"
NAMES = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/*.yaml"))
OTHERS = ("simdps/", "riff/", "msanii/", "melfusion/", "bnmusic/judge_check")
OF_BLEND = [name for name in NAMES if not name.startswith(OTHERS)]
"""Of the blend task, whose world is at hand; another task's tests run its own."""
FIGURES = {
    "bnmusic/fig3": "fig3",
    "bnmusic/fig4": "fig4",
    "bnmusic/fig6": "fig6",
    "bnmusic/fig7": "fig7",
    "beyond/frontier": "frontier",
}
PUBLISHED = "bnmusic/ablation_classifier"
LONG = ("ablation_presets", "fig4", "frontier", "judges", "seeds", "sweep_core_fraction", "sweep_steps")
"""Those that make the most music or measure the most sets."""


def words_of(world: World, name: str, run_dir: Path, *words: str) -> list[str]:
    """A small run of an experiment in the tests' world."""
    settings = compose([f"experiment={name}"])
    arms = settings["arms"]
    cheap = ["generator.adapter=null"] if settings["generator"].get("adapter") else []
    cheap += [f"arms.{arm}.griffin_lim_iterations=1" for arm in arms if "griffin_lim_iterations" in arms[arm]]
    usual = {use["steps"] for use in settings["generator"]["sampling"].values()}
    presets = [arm for arm in arms if (arms[arm].get("sampling") or {}).get("steps", min(usual)) not in usual]
    cheap += [f"arms.{arm}.sampling.steps=4" for arm in presets]
    return ["run", f"experiment={name}", *world.words(), *cheap, f"run_dir={run_dir}", "limit=2", *words]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.soak) if name.endswith(LONG) else name
        for name in OF_BLEND
        if name != PUBLISHED
    ],
)
def test_experiment_runs_tiny_and_leaves_tables_and_figures(world, tmp_path, name):
    sweep = compose([f"experiment={name}"])["experiment"].get("sweep")
    words = words_of(world, name, tmp_path / "run")
    if name == "beyond/related":
        words += tiny_accompanists(world.generator, tmp_path)
        tiny = tiny_msanii(tmp_path / "msanii")
        for arm in ("msanii_a2a", "msanii_inpaint"):
            words += [f"arms.{arm}.model.checkpoint={tiny}", f"arms.{arm}.steps=10", f"arms.{arm}.phase.iterations=1"]
    if name == "bnmusic/judges":
        words.append(f"judges.musicnn.fad.checkpoint={bundles.musicnn_folder(tmp_path)}")
    if sweep:
        # Two values of each key are a sweep, too.
        words.append(f"experiment.sweep={{{','.join(f'{key}:{hydra_list(sweep[key][:2])}' for key in sweep)}}}")
    assert call(*words) == 0
    assert (tmp_path / "run" / "table.md").stat().st_size > 0
    assert r"\toprule" in (tmp_path / "run" / "table.tex").read_text()
    if sweep:
        together = pd.read_csv(tmp_path / "run" / "sweep.csv")
        assert set(sweep) <= set(together.columns)
        assert together.groupby(list(sweep), dropna=False).ngroups == 2 ** len(sweep)
        assert image_size(tmp_path / "run" / "figures" / "sweep.png") > (300, 200)
    else:
        assert {row["status"] for row in rows_of(tmp_path / "run")} == {"ok"}
        assert (tmp_path / "run" / "report" / "index.html").is_file()
    if name in FIGURES:
        assert image_size(tmp_path / "run" / "figures" / f"{FIGURES[name]}.png") > (300, 100)


def hydra_list(values: list) -> str:
    return "[" + ",".join(sweeps.override("x", value).partition("=")[2] for value in values) + "]"


def image_size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def test_experiment_with_evaluators_that_are_not_there_stops_in_one_line(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = [word for word in words_of(world, PUBLISHED, tmp_path / "run") if "evaluator.fad" not in word]
    assert call(*words, "experiment.sweep={evaluator:[vggish]}") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blendbench: ")]
    assert len(lines) == 1
    assert "vggish" in lines[0]


@pytest.mark.parametrize("name", NAMES)
def test_experiment_names_its_arms_and_the_papers_rows(name):
    settings = compose([f"experiment={name}"])
    experiment = settings["experiment"]
    assert experiment["name"] == name
    rows = set(experiment.get("rows") or settings["arms"])  # without rows, arms are called by their methods' labels
    assert rows == set(settings["arms"])
    figures = Experiment(**experiment).paper_figures()
    assert set(figures["arm"]) <= rows
    assert set(figures["presentation"]) <= set(settings["presentations"])


def test_experiment_of_ones_own_sweeps_from_a_config_folder_of_ones_own(world, tmp_path):
    folder = tmp_path / "config" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - bnmusic/table1\nexperiment:\n  name: mine\n"
        "  sweep: {amplification.alpha: [0.05, 0.3]}\n"
    )
    words = [word for word in world.run_words(tmp_path / "run", *CHEAP, "limit=2") if "experiment=" not in word]
    assert call(*words, "experiment=mine", "--config-dir", str(tmp_path / "config")) == 0
    assert set(pd.read_csv(tmp_path / "run" / "sweep.csv")["amplification.alpha"]) == {0.05, 0.3}


def test_hydra_sweep_over_two_keys_ends_in_one_table_and_plot(world, tmp_path, capsys):
    words = world.run_words(
        tmp_path / "sweep", "limit=2", "arms.riffusion_a2a=null", "arms.musicgen_melody=null", "batch=1",
        "amplification.alpha=0.05,0.14", "amplification.max_gain_db=3,6",
    )  # fmt: skip
    assert call(*[words[0], "-m", *words[1:]]) == 0
    together = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert together.groupby(["amplification.alpha", "amplification.max_gain_db"]).ngroups == 4
    bnmusic = together[(together.arm == "bnmusic") & (together.metric == "kl") & (together.presentation == "direct")]
    assert len(bnmusic) == 4
    # Alpha and bounds do not touch the other arms.
    others = together[(together.arm != "bnmusic") & (together.metric == "kl")]
    assert others.groupby(["arm", "presentation"]).value.nunique().max() == 1
    assert image_size(tmp_path / "sweep" / "figures" / "sweep.png") > (300, 200)
    assert "amplification.alpha" in capsys.readouterr().out


def test_seeds_of_a_sweep_give_mean_and_deviation(tmp_path):
    frame = pd.DataFrame(
        {
            "seed": ["0", "1", "2"], "experiment": "e", "dataset": "d", "arm": "a", "presentation": "p", "metric": "kl",
            "value": [1.0, 2.0, 3.0],
        }
    )  # fmt: skip
    (row,) = sweeps.repeats(frame, ["seed"]).to_dict("records")
    assert (row["mean"], row["std"], row["seeds"]) == (2.0, 1.0, 3)


@pytest.mark.parametrize("sweep", [{"seed": 3}, {"seed": []}, {"seed": "0,1"}])
def test_sweep_without_a_list_of_values_is_refused(sweep):
    with pytest.raises(BlendbenchError, match=r"experiment\.sweep\.seed.*give a list"):
        sweeps.combinations(sweep)


def test_swept_keys_are_those_whose_values_differ():
    found = sweeps.swept_values([["a=1", "b=x", "+c=1"], ["a=2", "b=x", "+c=1"]])
    assert found == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "k=null"),
        (True, "k=true"),
        (0.5, "k=0.5"),
        ("ref||gen", "k='ref||gen'"),
        ("it's", "k='it\\'s'"),
        ("ab", "k=ab"),
    ],
)
def test_values_are_written_in_hydras_grammar(value, text):
    assert sweeps.override("k", value) == text
