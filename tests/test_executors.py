"""Workers: the same rows whoever makes them, and whatever befalls them on the way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from support import runs
from support.worlds import CHEAP, World, call, rows_of, same

from blendbench import executors, session, telling
from blendbench.composing import compose
from blendbench.errors import BlendbenchError
from blendbench.executors import ShardTask, local
from blendbench.runs import progress
from blendbench.runs.folder import Run
from blendbench.runs.plan import prepare

pytestmark = pytest.mark.timeout(900)  # each process takes its time to begin, the more so beside others

T = TypeVar("T")

SMALL = ("report=false", "threads=1")
LOCAL = ("executor=local", "executor.devices=[cpu]")


def slow(seconds: float) -> list[str]:
    """An arm of our own that takes its time, beside the cheap ones."""
    arm = f"{{_target_: support.own_methods.Slow, label: Slow, seconds: {seconds}}}"
    return [*CHEAP, *SMALL, f"+arms.slow={arm}", "allow_targets=[support.own_methods]"]


@pytest.fixture(scope="module")
def alone(either: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three arms, one of them of our own, by one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert either.with_store(folder / "store").run(folder / "run", "limit=6", *slow(0)) == 0
    return folder / "run"


def until(condition: Callable[[], T], seconds: float = 240) -> T:
    """Wait for a condition, and return what it then was."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "did not come to pass"
        time.sleep(0.05)
    return found


def at_work(run_dir: Path) -> list[progress.Worker]:
    return [one for one in progress.workers(run_dir) if one.facts["stage"] == "make" and one.facts["arm"] == "slow"]


@pytest.mark.soak
def test_two_workers_make_the_same_bytes_as_one(either, tmp_path):
    for count in (1, 2):
        there = either.with_store(tmp_path / f"store{count}")
        words = (*LOCAL, f"executor.workers_per_device={count}", "executor.shards=3", *SMALL)
        assert there.run(tmp_path / f"run{count}", "limit=3", *words) == 0
    same(tmp_path / "run2", tmp_path / "run1")
    inline = either.with_store(tmp_path / "store0")
    assert inline.run(tmp_path / "run0", "limit=3", "batch=3", *SMALL) == 0
    same(tmp_path / "run2", tmp_path / "run0")
    rows = rows_of(tmp_path / "run0")
    assert len(rows) == 3 * len({row["arm"] for row in rows}) * len({row["presentation"] for row in rows})
    # The scores were made by the workers: the store holds one a sound, none twice.
    kept = [json.loads(line)["key"] for file in tmp_path.glob("store2/scores/*/scores.jsonl") for line in file.open()]
    assert len(kept) == len(set(kept))


@pytest.mark.soak
def test_a_killed_worker_is_replaced(either, alone, tmp_path, capfd):
    run_dir = tmp_path / "run"

    def kill() -> None:
        os.kill(until(lambda: at_work(run_dir))[0].facts["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    there = either.with_store(tmp_path / "store")
    assert there.run(run_dir, "limit=6", *slow(0.3), *LOCAL, "executor.workers_per_device=2") == 0
    killer.join()
    assert "a worker died (signal 9 (SIGKILL))" in capfd.readouterr().err
    same(run_dir, alone)


@pytest.mark.soak
def test_a_pair_that_kills_its_worker_twice_is_a_failed_row_and_tried_again_later(either, alone, tmp_path, capfd):
    deadly = tmp_path / "deadly"
    deadly.touch()
    fatal = rows_of(alone)[0]["pair_id"]
    arm = f"{{_target_: support.own_methods.Deadly, label: Slow, word: '{fatal}', while_exists: {deadly}}}"
    words = ["limit=6", *CHEAP, *SMALL, f"+arms.slow={arm}", "allow_targets=[support.own_methods]"]
    there = either.with_store(tmp_path / "store")
    assert there.run(tmp_path / "run", *words, *LOCAL) == 0
    failed = [row for row in rows_of(tmp_path / "run") if row["status"] == "failed"]
    assert {(row["arm"], row["pair_id"]) for row in failed} == {("slow", fatal)}
    assert "its worker died twice: signal 9 (SIGKILL)" in failed[0]["reason"]
    assert not (tmp_path / "run" / "finished.json").exists()
    capfd.readouterr()
    deadly.unlink()
    assert there.run(tmp_path / "run", *words) == 0
    assert {row["status"] for row in rows_of(tmp_path / "run")} == {"ok"}
    assert (tmp_path / "run" / "results.csv").read_bytes() == (alone / "results.csv").read_bytes()


@pytest.mark.soak
def test_workers_are_added_while_memory_and_cores_allow(either, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(local, "_free_bytes", lambda _: 2**40)
    there = either.with_store(tmp_path / "store")
    words = (*slow(0.3), *LOCAL, "executor.workers_per_device=auto", "executor.shards=6")
    assert there.run(tmp_path / "run", "limit=6", *words) == 0
    same(tmp_path / "run", alone)
    # A second comes when the first has shown what it takes, and no third.
    assert sum(not one.leads for one in progress.workers(tmp_path / "run")) == 2


def test_a_gpu_is_leased_by_one_run_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    first = local._lease("cuda:1")
    assert first is not None
    assert local._lease("cuda:1") is None
    assert local._lease("cuda:0") is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the same GPU by another number
    assert local._lease("cuda:0") is None
    first.close()
    assert local._lease("cuda:0") is not None
    assert local._lease("cpu") is not None


class Bare:
    """What a task asks of a plan."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir


def test_pairs_are_blamed_for_deaths_only_when_they_were_there_twice(monkeypatch, tmp_path):
    given_up: list[str] = []
    monkeypatch.setattr(executors, "give_up", lambda plan, arm, pairs, told: given_up.extend(pairs) or len(pairs))

    def die(task: ShardTask, *pairs: str, blame: bool = True) -> None:
        beat = progress.Beat(tmp_path, "cpu", name="w")
        beat.begin("make", "a", pairs)
        beat.close(finished=False)
        facts = json.loads(beat.path.read_bytes()) | {"pairs": list(pairs), "arm": "a"}
        beat.path.write_text(json.dumps(facts))
        task.died(Bare(tmp_path), "w", "signal 9", 2, tmp_path / "log", blame)  # type: ignore[arg-type]

    task = ShardTask(0, 1)
    die(task, "p", "q")
    die(task, "q")
    assert (given_up, task.skip, task.unexplained) == (["q"], [("a", "q")], 0)
    for pair in "rstu":  # any number of pairs may be fatal
        die(task, pair)
        die(task, pair)
    assert given_up == list("qrstu")
    innocent = ShardTask(0, 1)
    die(innocent, "x")
    die(innocent, "y")
    with pytest.raises(BlendbenchError, match="its worker died 3 times"):
        die(innocent, "z")
    lost = ShardTask(0, 1)
    die(lost, "x", blame=False)
    die(lost, "x", blame=False)
    assert lost.skip == []


@pytest.mark.soak
def test_the_last_shard_of_a_killed_worker_is_done_by_an_idle_one(either, alone, tmp_path):
    run_dir = tmp_path / "run"

    def kill() -> None:
        # One of two workers has nothing left to do when the other, at the last pair, is killed.
        until(lambda: any(one.facts["stage"] == "waits" for one in progress.workers(run_dir)) and at_work(run_dir), 100)
        os.kill(at_work(run_dir)[0].facts["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    there = either.with_store(tmp_path / "store")
    words = ("executor.workers_per_device=2", "executor.shards=2")
    few = [word.replace("seconds: 1", "seconds: 4") for word in slow(1)]
    assert there.run(run_dir, "limit=3", *few, *LOCAL, *words) == 0
    killer.join()
    assert {row["status"] for row in rows_of(run_dir)} == {"ok"}
    assert len(rows_of(run_dir)) == 18


@pytest.mark.soak
def test_workers_end_with_the_command_that_started_them(either, alone, tmp_path):
    run_dir = tmp_path / "run"
    there = either.with_store(tmp_path / "store")
    words = there.run_words(run_dir, "limit=6", *slow(0.5), *LOCAL, "executor.workers_per_device=2")
    code = "from blendbench.cli import main; main()"
    paths = os.pathsep.join(one for one in sys.path if one)
    command = subprocess.Popen([sys.executable, "-c", code, *words], env=os.environ | {"PYTHONPATH": paths})
    until(lambda: at_work(run_dir))
    pids = [one.facts["pid"] for one in progress.workers(run_dir)]
    command.kill()
    command.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
    assert there.run(run_dir, "limit=6", *slow(0)) == 0
    same(run_dir, alone)


def test_a_failure_of_a_worker_is_one_line(world, tmp_path, capfd):
    (tmp_path / "store").write_text("")
    assert world.with_store(tmp_path / "store").run(tmp_path / "run", "limit=2", *CHEAP, *SMALL, *LOCAL) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("blendbench: ")] == lines[-1:]
    assert str(tmp_path / "store") in lines[-1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("executor.workers_per_device=0", "executor.workers_per_device: 0 is out of range; use 1 or more, or auto"),
        ("executor.devices=cpu", "executor.devices: 'cpu'; use auto, or a list"),
        ("executor.devices=5", "executor.devices: 5; use auto, or a list"),
        ("executor.devices=[null]", "executor.devices: [None]; use auto, or a list"),
        ("executor=slurm executor.setup=ls", "executor.setup: 'ls'; use a list of shell lines"),
        ("executor=slurm executor.wait=1", "executor.wait: 1; use true or false"),
        ("executor=slurm executor.poll_s=0", "executor.poll_s: 0 is out of range"),
        ("executor=slurm executor.partition=[a]", "executor.partition: ['a']; use one word"),
        ("+executor.nonsense=1", "executor: "),
        ("executor.devices=[cuda:77]", "device=cuda:77: not usable here"),
        ("executor.shards=-1", "executor.shards: -1 is out of range"),
        ("executor._target_=os.system", "executor._target_: os.system is not allowed"),
    ],
)
def test_wrong_executor_is_one_line_that_names_the_key(world, tmp_path, capfd, word, said):
    assert world.run(tmp_path / "run", "limit=2", *CHEAP, *SMALL, "executor=local", *word.split()) == 1
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_dry_run_tells_what_is_there_and_writes_nothing(world, tmp_path, capsys):
    there = world.with_store(tmp_path / "store")
    assert there.run(tmp_path / "run", "limit=3", *CHEAP, *SMALL, "dry_run=true", "executor=local") == 0
    said = capsys.readouterr().out
    assert "3 pairs x 2 arms x 2 presentations" in said
    assert "local, 1 workers on cpu, 3 shards" in said
    assert "nothing is known yet of noise_only, random_music, pocket-tagger" in said
    assert [line.split()[:5] for line in said.splitlines() if line.startswith("random_music")] == [
        ["random_music", "0", "0", "0", "3"]
    ]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "store").exists()
    assert there.run(tmp_path / "run", "limit=2", *CHEAP, *SMALL) == 0
    capsys.readouterr()
    assert there.run(tmp_path / "run", "limit=3", *CHEAP, *SMALL, "dry_run=true") == 0
    said = capsys.readouterr().out
    done = next(line.split() for line in said.splitlines() if line.startswith("random_music"))
    assert done[1:5] == ["2", "0", "0", "1"]
    assert float(done[5]) >= 0
    # Eight mixes and seven reference clips are scored; the third pair's four mixes are not.
    scored = next(line.split() for line in said.splitlines() if line.startswith("pocket-tagger"))
    assert scored[1:3] == ["15", "4"]
    assert "by what earlier rows took" in said
    assert "nothing is known" not in said
    assert len(rows_of(tmp_path / "run")) == 8
    assert there.run(tmp_path / "other", "limit=3", *CHEAP, *SMALL, "dry_run=true") == 0
    linked = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("random_music"))
    assert linked[1:5] == ["0", "2", "0", "1"]


def test_status_counts_the_rows_and_the_workers(either, alone, tmp_path, capsys):
    assert call("status", str(alone)) == 0
    said = capsys.readouterr().out
    assert re.match("(bnmusic/table1|simdps/objective): 36 of 36 rows, 0 failed, 0 left", said)
    assert [line.split()[:4] for line in said.splitlines() if line.startswith("slow")] == [["slow", "12", "0", "0"]]
    assert call("status", str(tmp_path)) == 1
    assert "no sound plan.json here" in capsys.readouterr().err


def test_status_of_a_run_at_work_tells_rate_and_time_left(tmp_path):
    progress.write_plan(tmp_path, {"experiment": "e", "pairs": 10, "arms": {"a": {"direct": "s"}}})
    reasons = ["", "", "clip is silent"]
    rows = [runs.row(f"p{i}", "a", reason=reason, signature="s") for i, reason in enumerate(reasons)]
    runs.write(tmp_path, [*rows, runs.row("old", "a", signature="t")])
    beat = progress.Beat(tmp_path, "cuda:1", (2, 4), name="one")
    beat.begin("make", "a", ["p3"])
    beat.end("a", 3, 3, 1, 6.0)
    beat._write()
    found = progress.read(tmp_path)
    assert (found.total, sum(found.done.values()), found.failed["a"], found.left) == (10, 3, 1, 7)
    said = progress.text(found)
    assert "about 0:14 left" in said
    assert [line.split()[:5] for line in said.splitlines() if line.startswith("one ")] == [
        ["one", "cuda:1", "3", "of", "4"]
    ]
    # A worker not heard of for long is lost, whatever the clock of this machine says.
    os.utime(beat.path, (time.time() - 100, time.time() - 100))
    assert not progress.workers(tmp_path)[0].alive
    assert "no worker is at it" in progress.text(progress.read(tmp_path))
    beat.close()
    assert progress.workers(tmp_path)[0].facts["finished"]


def test_status_tells_what_the_command_is_at_after_the_pairs(tmp_path):
    progress.write_plan(tmp_path, {"experiment": "e", "pairs": 1, "arms": {"a": {"direct": "s"}}})
    runs.write(tmp_path, [runs.row("p", "a", signature="s")])
    with progress.Beat(tmp_path, "cpu", leads=True) as beat:
        for stage in ("tabulate", "figures", "report"):
            with telling.stage(stage), telling.stage("sounds", 60, "pair") as told:
                told.update(12)
                beat.begin(stage)
                said = progress.text(progress.read(tmp_path)).splitlines()[0]
            assert said.startswith(f"e: 1 of 1 rows, 0 failed, 0 left; now at: {stage}: sounds, 12 of 60 pairs, ")
    assert progress.text(progress.read(tmp_path)).splitlines()[0] == "e: 1 of 1 rows, 0 failed, 0 left"


def test_a_command_that_waits_for_workers_is_none_of_them(tmp_path):
    progress.write_plan(tmp_path, {"experiment": "e", "pairs": 2, "arms": {"a": {"direct": "s"}}})
    with progress.Beat(tmp_path, "cpu", leads=True) as command, progress.Beat(tmp_path, "cpu", name="one") as worker:
        command.begin("leads")
        worker.begin("make", "a", ["p"])
        assert progress.pace(progress.workers(tmp_path)) == "0 failed, 1 at work"
        assert "left; 1 worker, " in progress.text(progress.read(tmp_path))


def test_took_names_every_stage_in_order(tmp_path):
    with progress.Beat(tmp_path, "cpu", leads=True) as beat:
        beat.spend("generate", 90.4)
        beat.spend("present", 5.0)
    seconds = {"": 2.0, "prepare": 6.0, "make": 100.2, "tabulate": 4.0, "score": 9.0, "report": 4.0, "figures": 0.1}
    assert progress.took(tmp_path, seconds) == (
        "took   2:05: the rest 2 s, prepare 6 s, make 100 s (generate 90 s, present 5 s), score 9 s, tabulate 4 s, "
        "report 4 s"
    )


def test_auto_begins_with_all_workers_that_surely_fit(world, tmp_path, monkeypatch):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(local, "_free_bytes", lambda device: 7 * 2**30)
    words = ["experiment=bnmusic/table1", "limit=7", f"run_dir={tmp_path}", "device=cpu", "executor=local"]
    words += ["executor.workers_per_device=auto"]
    run = Run.of(compose(words))
    plan = prepare(run)
    assert executors.of(run).workers(plan) == 3
    monkeypatch.setattr(local, "_free_bytes", lambda device: 2**30)
    assert executors.of(run).workers(plan) == 1
    monkeypatch.setattr(local, "_free_bytes", lambda device: 99 * 2**30)
    assert executors.of(run).workers(plan) == 7
    run = Run.of(compose([*words, f"generator.checkpoint={world.generator}"]))
    plan = prepare(run)
    assert executors.of(run).workers(plan) == 1


def test_finished_run_is_known_without_any_model(either, alone, tmp_path):
    words = either.with_store(alone.parent / "store").run_words(alone, "limit=6", *slow(0))
    code = (
        "import sys\nfrom blendbench.cli import main\n"
        "try: main()\nexcept SystemExit as end: sys.exit(7 if 'torch' in sys.modules else end.code)"
    )
    paths = os.pathsep.join(one for one in sys.path if one)
    found = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert found.returncode == 0, found.stderr
    assert "is finished; nothing is to be done" in found.stdout
    assert (alone / "table.md").read_text() in found.stdout


def test_finished_run_is_looked_at_again_when_a_file_has_changed(world, tmp_path, capsys):
    shutil.copytree(world.root, tmp_path / "data")
    there = world.with_root(tmp_path / "data").with_store(tmp_path / "store")
    words = ("limit=2", *CHEAP, *SMALL)
    assert there.run(tmp_path / "run", *words) == 0
    capsys.readouterr()

    def again() -> bool:
        assert there.run(tmp_path / "run", *words) == 0
        return "nothing is to be done" in capsys.readouterr().out

    assert again()
    table = tmp_path / "data" / "ESC-50" / "meta" / "esc50.csv"
    os.utime(table, ns=(1, 1))
    assert [again(), again()] == [False, True]
    mix = next((tmp_path / "run" / "mixes").rglob("*.flac"))
    mix.unlink()
    assert [again(), again()] == [False, True]
    assert mix.is_file()
    (tmp_path / "run" / "results.csv").write_text("")
    assert [again(), again()] == [False, True]
    for clip in (tmp_path / "data" / "ESC-50" / "audio").iterdir():
        clip.touch()
    assert [again(), again()] == [False, True]
    (tmp_path / "run" / "plan.json").unlink()
    assert [again(), again()] == [False, True]
    assert there.run(tmp_path / "run", *words, "seed=1") == 0
    assert "nothing is to be done" not in capsys.readouterr().out


def test_a_table_that_changes_while_the_run_works_is_found_changed(world, tmp_path, capsys):
    shutil.copytree(world.root, tmp_path / "data")
    there = world.with_root(tmp_path / "data").with_store(tmp_path / "store")
    table = tmp_path / "data" / "ESC-50" / "meta" / "esc50.csv"

    def touch() -> None:
        until(lambda: (tmp_path / "run" / "plan.json").exists())
        os.utime(table, ns=(1, 1))

    toucher = threading.Thread(target=touch)
    toucher.start()
    words = ("limit=2", *slow(0.5))
    assert there.run(tmp_path / "run", *words) == 0
    toucher.join()
    capsys.readouterr()
    assert there.run(tmp_path / "run", *words) == 0
    assert "nothing is to be done" not in capsys.readouterr().out


def test_dry_run_of_a_sweep_tells_each_job_and_writes_nothing(world, tmp_path, capsys):
    words = ("limit=2", *CHEAP, *SMALL, "dry_run=true", "+experiment.sweep={seed: [0, 1]}")
    assert world.with_store(tmp_path / "store").run(tmp_path / "run", *words) == 0
    assert capsys.readouterr().out.count("2 pairs x 2 arms x 2 presentations") == 2
    assert not (tmp_path / "run").exists()


def test_an_interrupt_ends_a_sweep_of_hydra(world, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    begun: list[int] = []

    def interrupted(settings: dict) -> None:
        begun.append(settings["seed"])
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run", interrupted)
    assert world.run(tmp_path / "run", *CHEAP, *SMALL, "limit=1", "seed=0,1,2", "-m") == 130
    assert begun == [0]
    assert capfd.readouterr().err.count("stopped; the same command goes on where it was") == 1


def test_failed_rows_are_tried_again_when_asked(world, tmp_path, capsys):
    shutil.copytree(world.root, tmp_path / "data")
    there = world.with_root(tmp_path / "data").with_store(tmp_path / "store")
    audio = tmp_path / "data" / "ESC-50" / "audio"
    clips = {clip: clip.read_bytes() for clip in audio.iterdir()}
    for clip in clips:
        clip.write_bytes(b"no sound")
    words = ("limit=2", *CHEAP, *SMALL)
    assert there.run(tmp_path / "run", *words) == 1
    reasons = {row["reason"] for row in rows_of(tmp_path / "run")}
    for clip in clips:
        clip.write_bytes(b"no sound at all")
    capsys.readouterr()
    for clip in clips:
        clip.write_bytes(b"no sound")
    assert there.run(tmp_path / "run", *words, "--retry-failed") == 1
    assert {row["reason"] for row in rows_of(tmp_path / "run")} == reasons
    for clip, data in clips.items():
        clip.write_bytes(data)
    assert there.run(tmp_path / "run", *words, "--retry-failed") == 0
    assert {row["status"] for row in rows_of(tmp_path / "run")} == {"ok"}
