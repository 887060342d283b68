"""A job array on a Slurm cluster, through submitit: a task a shard, requeued when it is preempted or out of time.

A task is nothing but "bring shard i of n of this run to its end", so it may be stopped, moved and begun again at any
moment. `RUN_DIR/slurm` holds its log, and `arrays.jsonl` which arrays were submitted: the same command later waits for
those that still work, and submits only what is missing. Folders must lie on a disk that all nodes see.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blendbench import telling
from blendbench.errors import BlendbenchError, one_line
from blendbench.executors import ShardTask, check_number, made_rows, python_path
from blendbench.runs import progress
from blendbench.runs.plan import Plan
from blendbench.runs.work import unfinished
from blendbench.store.ledger import Ledger

_MOST_TASKS = 1000
"""Of an array; Slurm's default limit (MaxArraySize) is 1001."""
_DEAD = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
_BLAMELESS = ("BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "REQUEUED")
_LATE_S = 120.0
"""How long a result may be late on a shared disk after its task has left the queue."""
_OUTAGE_S = 900.0
"""How long Slurm may give no answer."""


class ShardJob:
    """What a task of the array does; submitit pickles it.

    Parameters
    ----------
    run_dir : Path
    allow_targets : list of str
    task : dict
        As `worker.do` takes it.
    digest : str
        Of the run's settings; a folder that another run uses now is left alone.
    """

    def __init__(self, run_dir: Path, allow_targets: list[str], task: dict[str, Any], digest: str) -> None:
        self.run_dir, self.allow_targets, self.task, self.digest = run_dir, allow_targets, task, digest

    def __call__(self) -> dict[str, Any]:
        """Bring the shard to its end; returns {"done": shard}, or {"error": a failure that would meet others, too}."""
        from blendbench.executors import worker
        from blendbench.resources import quiet
        from blendbench.runs.folder import Run

        quiet()
        _end_by_signal()
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")
        try:
            run = Run.open(self.run_dir, allow_targets=self.allow_targets)
            if run.digest != self.digest:
                return {"error": f"{self.run_dir}: another command with other settings uses this folder now"}
            device, threads = run.given.device, run.given.threads or (int(cpus) if cpus else None)
            shard = (self.task["shard"], self.task["of"])
            with telling.aloud(), progress.Beat(self.run_dir, device, shard, _name(_job_id())) as beat:
                worker.do(worker.open_plan(self.run_dir, device, self.allow_targets, threads), self.task, beat)
        except BlendbenchError as error:
            return {"error": one_line(str(error))}
        return {"done": self.task["shard"]}

    def checkpoint(self) -> Any:
        """What is submitted again when the task must stop: the same, as the ledger knows what it has done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _end_by_signal() -> None:
    """Let what submitit's handler raises, as when requeueing fails, end the task and not become an item's failure."""
    handler = signal.getsignal(signal.SIGUSR2)

    def stop(number: int, frame: Any) -> None:
        assert callable(handler)
        try:
            handler(number, frame)
        except Exception as error:
            raise SystemExit(f"not requeued: {one_line(str(error))}") from error

    if callable(handler):
        signal.signal(signal.SIGUSR2, stop)


def _job_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", str(os.getpid()))


def _name(job_id: str) -> str:
    return f"slurm-{job_id}"


class Slurm:
    """A job array.

    Parameters
    ----------
    shards : int
        Tasks; at most a thousand an array, more in further arrays.
    parallel : int, optional
        Most tasks at once.
    partition, account, qos, gres, memory, constraint : str, optional
        As `sbatch` takes them; `memory` is `--mem`.
    cpus : int, optional
        Cores of a task.
    time : int
        Minutes of a task; one that runs out of them is requeued.
    directives : mapping, optional
        Further options of `sbatch`.
    setup : list of str
        Shell lines before a task.
    signal_delay_s : int
        How long before its end a task is told, in seconds.
    timeouts : int
        How often a task may run out of time.
    retries : int
        How often a task that failed is submitted again.
    wait : bool
        Whether to wait for the end and finish the run.
    poll_s : float
        Seconds between looks at the queue.

    Raises
    ------
    BlendbenchError
        If an entry is out of range.
    """

    def __init__(
        self,
        shards: int = 8,
        parallel: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        gres: str | None = None,
        cpus: int | None = None,
        memory: str | None = None,
        time: int = 240,
        constraint: str | None = None,
        directives: Mapping[str, Any] | None = None,
        setup: Sequence[str] = (),
        signal_delay_s: int = 60,
        timeouts: int = 100,
        retries: int = 2,
        wait: bool = True,
        poll_s: float = 5.0,
    ) -> None:
        for key, value, least in (("shards", shards, 1), ("time", time, 1), ("signal_delay_s", signal_delay_s, 1),
                                  ("timeouts", timeouts, 0), ("retries", retries, 0)):  # fmt: skip
            check_number(key, value, least)
        check_number("parallel", parallel, 1, None)
        check_number("cpus", cpus, 1, None)
        if not (isinstance(poll_s, int | float) and 0 < poll_s < 3600):
            raise BlendbenchError(f"executor.poll_s: {poll_s!r} is out of range; use more than 0, less than 3600")
        if not isinstance(wait, bool):
            raise BlendbenchError(f"executor.wait: {wait!r}; use true or false")
        if isinstance(setup, str) or not all(isinstance(line, str) for line in setup):
            raise BlendbenchError(f"executor.setup: {setup!r}; use a list of shell lines, such as [module load cuda]")
        if directives is not None and not isinstance(directives, dict):
            raise BlendbenchError(f"executor.directives: {directives!r}; use a mapping, such as {{exclude: node7}}")
        for key, text in (("partition", partition), ("account", account), ("qos", qos), ("gres", gres),
                          ("memory", memory), ("constraint", constraint)):  # fmt: skip
            if not isinstance(text, str | int | None):
                raise BlendbenchError(f"executor.{key}: {text!r}; use one word, as sbatch takes it")
        self.shards, self.parallel, self.retries, self.wait, self.poll_s = shards, parallel, retries, wait, poll_s
        self.timeouts = timeouts
        self.parameters = {
            "job_name": "blendbench", "partition": partition, "account": account, "qos": qos, "gres": gres,
            "cpus_per_task": cpus, "mem": memory, "time": time, "constraint": constraint,
            "additional_parameters": {**(directives or {}), "requeue": True}, "setup": list(setup) or None,
            "signal_delay_s": signal_delay_s, "array_parallelism": parallel or _MOST_TASKS,
            "srun_args": [f"--cpus-per-task={cpus}"] if cpus else None,
        }  # fmt: skip

    def workers(self, plan: Plan) -> int:
        """Tasks at once, as far as the cluster lets them."""
        return min(self._of(plan), self.parallel or _MOST_TASKS)

    def describe(self, plan: Plan) -> str:
        """The array in words."""
        asked = {name: value for name, value in self.parameters.items() if isinstance(value, str | int)}
        told = ", ".join(f"{name}={value}" for name, value in asked.items() if name != "job_name")
        return f"slurm, an array of {self._of(plan)} tasks ({told})"

    def _of(self, plan: Plan) -> int:
        return max(1, min(self.shards, len(plan.items)))

    def run(self, plan: Plan) -> bool:
        """Bring all shards to their end; False if it does not wait for it.

        Raises
        ------
        BlendbenchError
            If there is no Slurm here, tasks were cancelled, or one fails again and again.
        """
        queue = _Queue(self, plan)
        if waiting := queue.alive():
            print(f"waiting for {len(waiting)} tasks that are in Slurm's queue already")
            if not self.wait:
                return False
            queue.watch(waiting)
        # What failed before is tried again once, by a command that waits or the first one that does not.
        again = self.wait or not len(queue.arrays)
        tasks = {shard: ShardTask(shard, self._of(plan)) for shard in unfinished(plan, self._of(plan), again)}
        while tasks:
            jobs = queue.submit(list(tasks.values()))
            if not self.wait:
                print(
                    f"submitted; `blendbench status {plan.run_dir}` tells how far it is, the same command finishes it"
                )
                return False
            queue.watch(list(jobs.values()))
            tasks = queue.judge(tasks, jobs)
        return True


class _Queue:
    """The run's tasks in Slurm's queue."""

    def __init__(self, executor: Slurm, plan: Plan) -> None:
        try:
            import submitit
        except ImportError:
            raise BlendbenchError("executor=slurm: submitit is not installed; type: pip install submitit") from None
        self.executor, self.plan = executor, plan
        self.folder = plan.run_dir.absolute() / "slurm"
        self.arrays = Ledger(self.folder / "arrays.jsonl", ("job",))
        self._silent_since: float | None = None
        try:
            self.submitter = submitit.SlurmExecutor(self.folder, max_num_timeout=executor.timeouts)
        except RuntimeError:
            raise BlendbenchError(
                "executor=slurm: no srun here; run this where jobs are submitted, or use executor=local"
            ) from None

    def alive(self) -> list[Any]:
        """Jobs of earlier calls that wait or work."""
        found = []
        for row in self.arrays:
            while (listed := self._listed(row["job"])) is None:
                time.sleep(self.executor.poll_s)
            job_class = self.submitter.job_class
            found += [job_class(folder=self.folder, job_id=name) for name in row["tasks"] if name in listed]
        return found

    def submit(self, tasks: Sequence[ShardTask]) -> dict[int, Any]:
        """Submit arrays of tasks; returns the jobs by shard."""
        parameters = {name: value for name, value in self.executor.parameters.items() if value is not None}
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = python_path()  # sbatch hands the environment on
        jobs: dict[int, Any] = {}
        try:
            self.submitter.update_parameters(**parameters)
            for start in range(0, len(tasks), _MOST_TASKS):
                some = tasks[start : start + _MOST_TASKS]
                allowed = self.plan.run.allowed
                run_dir, digest = self.plan.run_dir.absolute(), self.plan.run.digest
                shards = [ShardJob(run_dir, allowed, task.word(), digest) for task in some]
                submitted = self._array(shards)
                names = [job.job_id for job in submitted]
                self.arrays.append({"job": names[0].partition("_")[0], "tasks": names})
                jobs |= {task.shard: job for task, job in zip(some, submitted, strict=True)}
                print(f"Slurm: job {names[0].partition('_')[0]}, {len(names)} tasks")
        except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise BlendbenchError(f"executor=slurm: sbatch refuses the array: {one_line(str(said))}") from None
        finally:
            self.arrays.close()
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        return jobs

    def _array(self, shards: Sequence[ShardJob]) -> list[Any]:
        with self.submitter.batch():
            return [self.submitter.submit(shard) for shard in shards]

    def watch(self, jobs: Sequence[Any]) -> None:
        """Wait until all jobs have ended, however."""
        arrays = sorted({job.job_id.partition("_")[0] for job in jobs})
        waiting, gone_since = list(jobs), dict.fromkeys((job.job_id for job in jobs), 0.0)
        try:
            with made_rows(self.plan) as told:
                while waiting:
                    time.sleep(self.executor.poll_s)
                    listed = self._listed(*arrays)
                    if listed is not None:
                        self._strike(waiting, listed, gone_since)
                    told()
        except KeyboardInterrupt:
            names = " ".join(arrays)
            print(f"blendbench: the tasks go on without this command; to end them: scancel {names}", file=sys.stderr)
            raise

    def _strike(self, waiting: list[Any], listed: set[str], gone_since: dict[str, float]) -> None:
        """Take out of the jobs that are waited for those that have ended; `gone_since` keeps when each was missed."""
        gone = [job for job in waiting if job.job_id not in listed]
        if gone:
            list(self.folder.iterdir())  # a shared disk then looks again for the results
            with suppress(Exception):
                gone[0].watcher.update()  # one question for all; where there is no sacct, none
        for job in waiting.copy():
            # A task between two states may be in no list for a moment; its result may be late.
            since = (gone_since[job.job_id] or time.monotonic()) if job in gone else 0.0
            gone_since[job.job_id] = since
            if since and (self._has_ended(job) or time.monotonic() - since > _LATE_S):
                waiting.remove(job)

    @staticmethod
    def _has_ended(job: Any) -> bool:
        """Whether the task's result is there, or the accounting tells that none will come."""
        state = job.watcher.get_state(job.job_id, mode="cache").partition(" ")[0]
        return job.paths.result_pickle.exists() or state in _DEAD

    def _listed(self, *arrays: str) -> set[str] | None:
        """Names of the arrays' tasks that wait or work; None while Slurm gives no answer.

        Raises
        ------
        BlendbenchError
            If it has given none for long.
        """
        words = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(arrays)}"]
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
            said = answer.stderr if answer.returncode and "Invalid job id" not in answer.stderr else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if not said:
            self._silent_since = None
            return set(answer.stdout.split())
        # A controller that is restarted comes back within minutes, and the tasks work on without it.
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            print(f"blendbench: squeue: {one_line(said)}; asking again", file=sys.stderr)
        if time.monotonic() - self._silent_since > _OUTAGE_S:
            raise BlendbenchError(
                f"executor=slurm: squeue: {one_line(said)}; the tasks go on; run the same command later"
            )
        return None

    def judge(self, tasks: Mapping[int, ShardTask], jobs: Mapping[int, Any]) -> dict[int, ShardTask]:
        """What became of the jobs; returns the tasks to be submitted again.

        Raises
        ------
        BlendbenchError
            If tasks were cancelled, or failed in a way that would meet others, too, or too often.
        """
        again, cancelled, errors = {}, [], []
        for shard, job in jobs.items():
            outcome = self._outcome(job)
            if isinstance(outcome, dict) and "done" in outcome:
                continue
            if isinstance(outcome, dict):
                errors.append(outcome["error"])
            elif outcome.startswith("CANCELLED"):
                cancelled.append(job.job_id)
            else:
                task = tasks[shard]
                blame = not outcome.startswith(_BLAMELESS)
                task.died(self.plan, _name(job.job_id), outcome, self.executor.retries, job.paths.stderr, blame)
                again[shard] = task
        if errors:
            raise BlendbenchError(errors[0])
        if cancelled:
            names = ", ".join(cancelled[:5])
            raise BlendbenchError(
                f"{len(cancelled)} tasks were cancelled ({names}); the same command goes on with them"
            )
        return again

    def _outcome(self, job: Any) -> dict[str, Any] | str:
        """The task's answer, or the state that it ended in."""
        if job.paths.result_pickle.exists():
            error = job.exception()
            return job.result() if error is None else f"{type(error).__name__}: {_last_line(str(error))}"
        state = job.watcher.get_state(job.job_id, mode="cache")
        if state == "UNKNOWN":
            shown = subprocess.run(["scontrol", "show", "job", job.job_id], capture_output=True, text=True).stdout
            state = shown.partition("JobState=")[2].partition(" ")[0] or "UNKNOWN (no accounting)"
        beat = progress.facts_of(self.plan.run_dir, _name(job.job_id))
        # Its result is lost or late, its rows are not; what they lack is submitted again.
        done = state == "COMPLETED" or (beat is not None and beat["finished"])
        return {"done": True} if done else state


def _last_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line and not line.startswith("-")), text)
