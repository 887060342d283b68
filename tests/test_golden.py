"""What scripts rely on stays as it is, byte for byte: runs of today's code beside runs of the code that is golden.

The golden code is that of the commit which added this file, taken from the repository's history. Both run here, on one
machine with one environment, since the last bits of the numbers differ between processors. Where something is meant to
change, that commit's name goes into `MEANT` with the files that it changes and why.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from support.mirrors import Mirror

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

SUBJECT = "Hold the outputs of runs against those of the code as it was"
"""Of the commit whose code is golden."""
COMMON = ["threads=1", "statistics.resamples=50"]
WEIGHTS = {"generator.musicgen.checkpoint": "musicgen", "evaluator.fad.checkpoint": "tagger"}
"""Models that are not those of the golden code any more: both sides take its own."""
DRAWN = [f"generator.musicgen.{one}" for one in ("guidance_scale=5.0", "top_k=64", "temperature=0.7")]
"""What belongs to those models."""
CHEAP = ["arms.bnmusic=null", "arms.riffusion_a2a=null", "arms.musicgen_melody=null"]
RUNS = {
    "table1": ["experiment=bnmusic/table1", "limit=1"],
    "fast": ["experiment=bnmusic/table1", "limit=2", "generator=pocket_fast", "keep_images=true"],
    "tracked": [
        "experiment=bnmusic/table1", "limit=2", "generator=pocket_fast", *CHEAP, "report=false",
        "tracker=wandb", "tracker.mode=offline",
    ],
    "table2": ["experiment=bnmusic/table2", "limit=4", "arms.bnmusic=null", "arms.riffusion_a2a=null", "report=false"],
    "table3": ["experiment=bnmusic/table3", "limit=1", "generator=pocket_fast", "report=false"],
    "fig4": ["experiment=bnmusic/fig4", "limit=2", *CHEAP],
    "audibility": ["experiment=bnmusic/audibility", "limit=2", *CHEAP],
    "sweep": [
        "experiment=bnmusic/sweep_alpha", "limit=1", "generator=pocket_fast",
        "experiment.sweep={amplification.alpha: [0.05, 0.3]}",
    ],
}  # fmt: skip
STUDY = ["samples=3", "practice=0", "catch_trials=1", "listeners=4", "headphone_check.trials=0"]
ANSWERS = """
import sys
from pathlib import Path
from blendbench.listening import study
from blendbench.listening.answers import Answers
answers = Answers(study.read(Path(sys.argv[1])))
for number, token in answers.invite(4).items():
    answers.consent(answers.listener(token))
    answers.set_volume(answers.listener(token))
    for index, page in enumerate(answers.pages(number)):
        for place, arm in enumerate(page.order):
            for scale in answers.study.scales:
                value = 1 + sum(map(ord, f"{arm}{scale}{page.sample.name}{number}")) % 5
                value = {"noise": 1, "music": 5}.get(arm, value)
                answers.rate(answers.listener(token), index, chr(ord("A") + place), scale, value, 1 + index)
        answers.finish_page(answers.listener(token), index, 20.0 + index, {})
answers.close()
"""
"""Has four listeners answer every question of a study, each in a way of their own."""
EXACT = ("results.csv", "scores.csv", "comparisons.csv", "table.md", "table.csv", "table.tex", "sweep.csv")
MEANT: dict[str, str] = {
    r".*/report/(index\.html|report\.js|data\.js)": "the page shows any task's parts and columns: 'Rebuild the trunk'",
}
"""Files, as patterns of their paths, that a later commit changes on purpose, and why."""
UNSAID = re.compile(r"(?<=[\n ])(?P<label>[A-Z][^.:]*): no pair took part\.")
"""Notes of a table on a column in which the first arm has no value. They give the recipe of an arm that has one since
'Make music that masks better at its loudness': that no pair took part was said of pairs that did."""


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the golden package is imported."""
    try:
        commits = git("log", "--format=%H", "--fixed-strings", f"--grep={SUBJECT}").split()
        if not commits:
            pytest.skip(f"this history has no commit {SUBJECT!r}")
        commit = commits[-1]
        folder = tmp_path_factory.mktemp("golden")
        packed = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history of the repository here")
    package = folder / "site" / "blendbench"
    shutil.copytree(folder / "src" / "blendbench", package)
    for name in ("conf", "data_manifests"):
        shutil.copytree(folder / name, package / name)
    return folder / "site"


def call(cwd: Path, site: Path | None, *words: str) -> str:
    """A command of today's package, or of the one below `site`; what it prints."""
    paths = [str(site)] if site else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    code = "import blendbench; from blendbench.cli import main; print(blendbench.__file__); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (str(site) in done.stdout.splitlines()[0]) == (site is not None)
    return done.stdout


def common(golden: Path) -> list[str]:
    """Words of every run."""
    weights = [f"{key}={golden / 'blendbench' / 'assets' / name}" for key, name in WEIGHTS.items()]
    return [*COMMON, *weights, *DRAWN]


def run_all(cwd: Path, site: Path | None, golden: Path) -> None:
    for words in RUNS.values():
        call(cwd, site, "run", *words, *common(golden))
    call(cwd, site, "listen", str(rated(cwd).relative_to(cwd)), "--plan", *STUDY)


def rated(folder: Path) -> Path:
    """The run that people are asked about."""
    (run_dir,) = (folder / "runs").glob("bnmusic-table2-*")
    return run_dir


@pytest.fixture(scope="module")
def before(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    run_all(folder, golden, golden)
    return folder


@pytest.fixture(scope="module")
def now(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("now")
    run_all(folder, None, golden)
    return folder


def meant(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in MEANT)


def same(name: str, new: Path, old: Path) -> bool:
    """Whether an output is the golden one, but for what is meant to change."""
    here, there = (new / name).read_bytes(), (old / name).read_bytes()
    if here == there or meant(name):
        return True
    if not name.endswith(("table.md", "table.tex")) or not UNSAID.search(there.decode()):
        return False
    pattern, end = "", 0
    for note in UNSAID.finditer(there.decode()):
        pattern += re.escape(there.decode()[end : note.start()]) + re.escape(note["label"]) + ": .+"
        end = note.end()
    return re.fullmatch(pattern + re.escape(there.decode()[end:]), here.decode()) is not None


def untimed(file: Path) -> list[dict]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in rows]


def files(folder: Path, *names: str) -> Iterator[str]:
    for name in names:
        yield from sorted(file.relative_to(folder).as_posix() for file in folder.rglob(name))


def test_run_folders_have_the_same_names(before, now):
    def names(folder: Path) -> list[str]:
        return sorted(file.name for file in (folder / "runs").iterdir())

    assert names(now) == names(before)


def test_tables_have_the_same_bytes(before, now):
    found = list(files(before, *EXACT))
    assert found == list(files(now, *EXACT)) and len(found) > 40
    for name in found:
        assert same(name, now, before), name


def test_rows_are_the_same_but_for_the_seconds_they_took(before, now):
    found = list(files(before, "pairs.jsonl"))
    assert found == list(files(now, "pairs.jsonl")) and len(found) == len(RUNS) + 1  # a sweep of two
    for name in found:
        assert meant(name) or untimed(now / name) == untimed(before / name), name


def test_pages_figures_and_images_have_the_same_bytes(before, now):
    kinds = ("index.html", "data.js", "*.css", "report.js", "figures/*", "images/*/*.png", "report/*/*")
    found = [name for name in files(before, *kinds) if "/store/" not in name and (before / name).is_file()]
    assert len(found) > 100
    for name in found:
        assert meant(name) or (now / name).read_bytes() == (before / name).read_bytes(), name


def test_weights_and_biases_is_told_the_same(before, now):
    def mirror(folder: Path) -> Mirror:
        (found,) = folder.glob("runs/*/wandb/offline-run-*")
        return Mirror(found)

    old, new = mirror(before), mirror(now)
    for name in ("run_id", "display_name", "run_group", "job_type", "tags"):
        assert getattr(new.run, name) == getattr(old.run, name), name
    for name in ("results", "comparisons", "table", "pairs", "media"):
        added = {"media": {"clip"}, "pairs": {"cost_s"}}.get(name, set())
        there, here = old.table(name), new.table(name)
        assert set(here[0]) == set(there[0]) | added and len(here) == len(there), name
        kept = [key for key in there[0] if not key.endswith("_s")]
        assert [[row[key] for key in kept] for row in here] == [[row[key] for key in kept] for row in there], name
    assert set(new.config) == set(old.config) | {"task", "metric", "judges"}


def unnamed(run_dir: Path) -> dict:
    """A study's plan without the random names of its clips, and without what the second version says otherwise."""
    plan = json.loads((run_dir / "listening" / "study.json").read_text(encoding="utf-8"))
    names = re.compile(r'"name": "[0-9a-f]{32}", ')
    return json.loads(names.sub("", json.dumps(plan)))


def facts_of(sample: dict) -> list[str]:
    return list((sample.get("facts") or {name: sample[name] for name in ("label", "genre", "prompt")}).values())


def test_a_study_is_planned_alike(before, now):
    golden, today = unnamed(rated(before)), unnamed(rated(now))
    assert len(golden["samples"]) == len(today["samples"]) == 4
    for old, new in zip(golden["samples"], today["samples"], strict=True):
        assert [old[key] for key in ("name", "kind", "pair_id", "dataset", "clips")] == [
            new[key] for key in ("name", "kind", "pair_id", "dataset", "clips")
        ]
        assert set(facts_of(old)) <= set(facts_of(new))
    assert golden["arms"] == today["arms"] and golden["presentation"] == today["presentation"]


def test_a_study_of_the_golden_code_is_analysed_alike(before, golden, tmp_path):
    shutil.copytree(before, tmp_path / "old", symlinks=True)
    run_dir = rated(tmp_path / "old")
    environment = os.environ | {"PYTHONPATH": str(golden), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", ANSWERS, str(run_dir)], env=environment, check=True)
    shutil.copytree(tmp_path / "old", tmp_path / "new", symlinks=True)
    for folder, site in (("old", golden), ("new", None)):
        call(tmp_path / folder, site, "listen", "analyse", str(rated(tmp_path / folder).relative_to(tmp_path / folder)))
    names = [f"listening/analysis/{name}.csv" for name in ("summary", "pairs", "comparisons", "tests", "agreement",
                                                           "correlations", "exclusions")]  # fmt: skip
    names += ["listening/analysis/analysis.md", *(name for name in EXACT if name != "sweep.csv")]
    for name in names:
        old, new = (rated(tmp_path / folder) / name for folder in ("old", "new"))
        assert new.read_bytes() == old.read_bytes(), name


def signatures(folder: Path) -> set[str]:
    store = folder / "runs" / "store"
    return {file.relative_to(store).as_posix() for file in store.glob("*/*")}


def test_the_store_has_the_same_signatures(before, now):
    assert signatures(now) == signatures(before)
    assert {name.partition("/")[0] for name in signatures(now)} >= {"music", "mixes", "scores", "noise", "cells"}


def test_a_store_that_the_golden_code_made_is_found_and_used(before, golden, tmp_path):
    shutil.copytree(before / "runs" / "store", tmp_path / "runs" / "store")
    kept = {file: file.stat().st_size for file in (tmp_path / "runs" / "store").rglob("*") if file.is_file()}
    for name in ("table1", "fast", "fig4", "audibility"):
        call(tmp_path, None, "run", *RUNS[name], *common(golden), "report=false")
    assert {file: file.stat().st_size for file in (tmp_path / "runs" / "store").rglob("*") if file.is_file()} == kept
    for name in files(tmp_path, "results.csv", "scores.csv", "table.md"):
        assert same(name, tmp_path, before), name


def test_a_run_that_the_golden_code_finished_is_shown_and_tabulated(before, tmp_path):
    shutil.copytree(before, tmp_path / "here", symlinks=True)
    (run_dir,) = (tmp_path / "here" / "runs").glob("bnmusic-audibility-*")
    told = (run_dir / "results.csv").read_bytes()
    call(tmp_path / "here", None, "table", str(run_dir.relative_to(tmp_path / "here")))
    assert (run_dir / "results.csv").read_bytes() == told
    call(tmp_path / "here", None, "report", str(run_dir.relative_to(tmp_path / "here")))
