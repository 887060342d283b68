"""Table 1 over a job array on a real Slurm: the same results whatever befalls the tasks."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from support import slurm
from support.own_methods import Slow
from support.worlds import CHEAP, World, same

from blendbench.runs import progress

pytestmark = pytest.mark.timeout(900)  # each process takes its time to begin, the more so beside others

T = TypeVar("T")

SLOW = f"+arms.slow={{_target_: {Slow.__module__}.Slow, label: Slow, held_by: HOLD}}"
ARRAY = ("executor=slurm", "executor.shards=2", "executor.gres=gpu:1", "executor.time=10", "executor.poll_s=0.5")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    if reason := slurm.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with slurm.Cluster(tmp_path_factory.mktemp("slurm"), gpus=2) as running:
        yield running


@dataclass
class Command:
    """A `blendbench run` in a process of its own."""

    run_dir: Path
    process: subprocess.Popen

    def working(self) -> progress.Worker:
        """A task that is at the slow arm; waits for one."""
        return until(self.process, self._at_work)[0]

    def _at_work(self) -> list[progress.Worker]:
        found = progress.workers(self.run_dir)
        return [one for one in found if one.facts["arm"] == "slow" and one.facts["pairs"] and one.alive]

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        _, said = self.process.communicate(timeout=600)
        # A controller that is slow to answer is asked again, and that is told; so is, every half minute, where it is.
        passing = re.compile(r".*asking again|\[\d+:\d\d\] .*")
        said = "".join(line for line in said.splitlines(keepends=True) if not passing.fullmatch(line.rstrip()))
        return self.process.returncode, said


BLENDBENCH = [sys.executable, "-c", "from blendbench.cli import main; main()"]


def own_environment() -> dict[str, str]:
    """This process's environment; a Python started in it finds the tests' own methods."""
    paths = os.pathsep.join(one for one in sys.path if one)
    return os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


@dataclass
class Here:
    """Where a test runs: its world with a store of its own, and the environment in which Slurm is found."""

    world: World
    folder: Path
    environment: dict[str, str]

    @property
    def hold(self) -> Path:
        """A file; while it exists, the slow arm makes no pair."""
        return self.folder / "hold"

    @property
    def said(self) -> Path:
        """What the command started last prints."""
        return self.folder / "said"

    def start_held(self, *words: str) -> Command:
        """As `start`, but the slow arm waits until the file `hold` is gone."""
        self.hold.touch()
        return self.start(*words)

    def start(self, *words: str, without: tuple[str, ...] = CHEAP) -> Command:
        given = [*words, *without, SLOW.replace("HOLD", str(self.hold)), "allow_targets=[support.own_methods]"]
        run_dir = self.folder / "run"
        all_words = self.world.run_words(run_dir, "limit=6", "threads=1", "report=false", "device=cpu", *given)
        with self.said.open("w") as said:
            process = subprocess.Popen(
                [*BLENDBENCH, *all_words],
                env=own_environment() | self.environment,
                stdout=said,
                stderr=subprocess.PIPE,
                text=True,
            )
        return Command(run_dir, process)


@pytest.fixture
def here(either: World, cluster: slurm.Cluster, tmp_path: Path) -> Iterator[Here]:
    yield Here(either.with_store(tmp_path / "store"), tmp_path, cluster.environment)
    cluster.command("scancel", "--user=root")
    slurm.wait(lambda: not cluster.command("squeue", "--noheader"), slurm.PATIENCE, "an empty queue")


@pytest.fixture(scope="module")
def expected(either: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    command = Here(either.with_store(folder / "store"), folder, {}).start()
    assert command.end()[0] == 0
    return command.run_dir


def until(process: subprocess.Popen, condition: Callable[[], T], seconds: float = 240) -> T:
    """Wait for a condition, and return what it then was."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "the command ended"
        assert time.monotonic() < end, "did not come to pass"
        time.sleep(0.1)
    return found


def job_of(worker: progress.Worker) -> str:
    return worker.name.removeprefix("slurm-")


@pytest.mark.soak
def test_an_array_of_one_task_makes_the_same_table_as_no_array(either, cluster, tmp_path, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    words = ("limit=2", *CHEAP, "threads=1", "report=false", "device=cpu")
    array = [word.replace("shards=2", "shards=1") for word in ARRAY]
    assert either.with_store(tmp_path / "store").run(tmp_path / "run", *words, *array) == 0
    assert either.with_store(tmp_path / "alone" / "store").run(tmp_path / "alone" / "run", *words) == 0
    same(tmp_path / "run", tmp_path / "alone" / "run")
    (task,) = [one for one in progress.workers(tmp_path / "run") if not one.leads]
    assert task.facts["finished"] and task.name.startswith("slurm-")


@pytest.mark.soak
def test_an_array_makes_the_same_table_as_one_process(here, either, tmp_path):
    alone = Here(either.with_store(tmp_path / "alone" / "store"), tmp_path / "alone", {})
    alone.folder.mkdir()
    first = alone.start(without=())
    command = here.start(*ARRAY, without=())
    assert command.end() == (0, "")
    assert first.end()[0] == 0
    same(command.run_dir, first.run_dir)
    tasks = [one for one in progress.workers(command.run_dir) if not one.leads]
    assert sorted(tuple(one.facts["shard"]) for one in tasks) == [(0, 2), (1, 2)]
    assert all(one.facts["finished"] for one in tasks)


@pytest.mark.soak
def test_a_killed_task_is_submitted_again(here, expected):
    command = here.start_held(*ARRAY)
    os.kill(command.working().facts["pid"], signal.SIGKILL)
    here.hold.unlink()
    status, said = command.end()
    assert status == 0, said
    assert "a worker died (FAILED" in said
    same(command.run_dir, expected)


@pytest.mark.soak
def test_a_requeued_task_goes_on_where_it_was(here, cluster, expected):
    command = here.start_held(*ARRAY)
    job = job_of(command.working())
    cluster.command("scontrol", "requeue", job)
    cluster.hurry(job)
    here.hold.unlink()
    status, said = command.end()
    assert status == 0, said
    same(command.run_dir, expected)


@pytest.mark.soak
def test_a_task_that_makes_room_for_an_urgent_job_goes_on_later(here, cluster, expected):
    command = here.start_held(*ARRAY)
    job = job_of(command.working())
    words = ("--partition=urgent", "--gres=gpu:2", "--wait", "--output=/dev/null", "--wrap=sleep 1")
    cluster.command("sbatch", *words)
    cluster.hurry(job.partition("_")[0])
    here.hold.unlink()
    status, said = command.end()
    assert status == 0, said
    assert max(int(row["restarts"]) for row in restarts(cluster, job.partition("_")[0])) >= 1
    same(command.run_dir, expected)


def restarts(cluster: slurm.Cluster, array: str) -> list[dict[str, str]]:
    shown = cluster.command("scontrol", "--oneliner", "show", "job", array).splitlines()
    return [{"restarts": line.partition("Restarts=")[2].split()[0]} for line in shown]


@pytest.mark.soak
def test_tasks_of_a_lost_node_run_again_beside_their_first_copies(here, cluster, expected):
    command = here.start_held(*ARRAY)
    job = job_of(command.working())
    cluster.lose_node()
    cluster.return_node()
    cluster.hurry(job.partition("_")[0])
    here.hold.unlink()
    status, said = command.end()
    assert status == 0, said
    same(command.run_dir, expected)


@pytest.mark.soak
def test_cancelled_tasks_end_the_command_and_the_next_goes_on(here, cluster, expected):
    command = here.start_held(*ARRAY)
    cluster.command("scancel", job_of(command.working()).partition("_")[0])
    status, said = command.end()
    assert status == 1
    assert "tasks were cancelled" in said.splitlines()[-1]
    here.hold.unlink()
    command = here.start(*ARRAY)
    assert command.end()[0] == 0
    same(command.run_dir, expected)


@pytest.mark.soak
def test_a_command_that_does_not_wait_is_finished_by_a_later_one(here, cluster, expected):
    command = here.start_held(*ARRAY, "executor.wait=false")
    assert command.end() == (0, "")
    assert not (command.run_dir / "table.md").exists()
    # Called while the tasks work, it waits for them and submits no others.
    command = here.start(*ARRAY)
    until(command.process, lambda: "waiting for 2 tasks" in here.said.read_text())
    here.hold.unlink()
    assert command.end() == (0, "")
    assert len(list((command.run_dir / "slurm").glob("*submission.sh"))) == 1
    same(command.run_dir, expected)


@pytest.mark.soak
def test_table_of_an_array_that_nobody_waited_for(here, cluster, expected):
    command = here.start(*ARRAY, "executor.wait=false")
    assert command.end() == (0, "")
    slurm.wait(lambda: not cluster.command("squeue", "--noheader"), 120, "the tasks to end")
    words = [*BLENDBENCH, "table", str(command.run_dir), "--allow-targets", "support.own_methods"]
    subprocess.run(words, env=own_environment(), check=True, stdout=subprocess.DEVNULL)
    assert (command.run_dir / "results.csv").read_bytes() == (expected / "results.csv").read_bytes()


@pytest.mark.soak
def test_what_sbatch_refuses_is_one_line(here):
    command = here.start(*ARRAY, "executor.partition=nowhere")
    status, said = command.end()
    assert status == 1
    assert "sbatch refuses the array" in said.splitlines()[-1]
    assert "nowhere" in said.splitlines()[-1] or "partition" in said.splitlines()[-1]
