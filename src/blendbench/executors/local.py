"""Worker processes on this machine: shards from one queue, each worker with a device that it has leased.

A worker that dies takes nothing along but its shard's unfinished items, which a fresh worker does, one item at a time.
The item at which a worker died twice is entered as failed. GPUs are leased by a lock on a file, so that two runs on one
machine do not meet on one GPU.
"""

import fcntl
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blendbench.errors import BlendbenchError
from blendbench.executors import ShardTask, check_number, made_rows, python_path
from blendbench.runs.plan import Plan

_SLOTS = 8
"""Most workers that share a GPU."""
_SMALL_BYTES = 2 * 2**30
"""What a worker with built-in models surely does not pass."""


class Local:
    """A pool of worker processes; on the CPU, `threads=null` gives each the cores divided by the workers.

    Parameters
    ----------
    devices : "auto" or list of str
        Torch devices; "auto" is every GPU, or the CPU where there is none.
    workers_per_device : int or "auto"
        "auto" begins with one, and adds more while the memory that one was seen to take is free, at most eight a GPU
        and one a core. On the CPU, where all models are built-in, it begins with all that have 2 GiB each.
    shards : int, optional
        Parts that the items are cut into; four a worker if left out.
    retries : int
        How often a shard whose worker died, or crashed, is begun again.

    Raises
    ------
    BlendbenchError
        If an entry is out of range.
    """

    def __init__(
        self,
        devices: str | list[str] = "auto",
        workers_per_device: int | str = 1,
        shards: int | None = None,
        retries: int = 2,
    ) -> None:
        if devices != "auto" and not (
            isinstance(devices, list | tuple) and devices and all(isinstance(one, str) for one in devices)
        ):
            raise BlendbenchError(f"executor.devices: {devices!r}; use auto, or a list such as [cuda:0, cuda:1]")
        check_number("workers_per_device", workers_per_device, 1, "auto")
        check_number("shards", shards, 1, None)
        check_number("retries", retries, 0)
        self.shards, self.retries = shards, retries
        self.per_device = workers_per_device
        self._asked = devices

    def devices(self, plan: Plan) -> list[str]:
        """The devices to work on; raises BlendbenchError if one is not there."""
        import torch

        from blendbench.runs.device import pick_device

        if self._asked != "auto":
            return [pick_device(name) for name in self._asked]
        if plan.run.given.device not in ("auto", "cuda"):
            return [plan.run.given.device]
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]

    def workers(self, plan: Plan) -> int:
        """Workers to begin with; "auto" may add more."""
        return sum(self.each(plan, device) for device in self.devices(plan))

    def each(self, plan: Plan, device: str) -> int:
        """Workers to begin with on a device."""
        if self.per_device != "auto":
            return int(self.per_device)
        if device != "cpu" or not _built_in([plan.run.given.generator, plan.run.given.evaluator, plan.run.given.arms]):
            return 1
        return max(1, min(len(os.sched_getaffinity(0)), len(plan.items), _free_bytes(device) // _SMALL_BYTES))

    def describe(self, plan: Plan) -> str:
        """Workers, devices and shards in words."""
        count = self.workers(plan)
        return f"local, {count} workers on {', '.join(self.devices(plan))}, {self._shards(plan, count)} shards"

    def _shards(self, plan: Plan, workers: int) -> int:
        return max(1, min(len(plan.items), self.shards or 4 * workers))

    def run(self, plan: Plan) -> bool:
        """Bring all shards to their end; raises BlendbenchError if one cannot be."""
        return _Pool(self, plan).run()


class _Worker:
    """One process, what it was given, and its answers."""

    def __init__(self, plan: Plan, device: str, name: str, threads: int | None, answers: queue.Queue) -> None:
        self.device, self.name, self.ready = device, name, False
        self.task: ShardTask | None = None
        self.log = plan.run_dir / "workers" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        words = [
            sys.executable,
            "-m",
            "blendbench.executors.worker",
            str(plan.run_dir),
            "--device",
            device,
            "--name",
            name,
        ]
        words += ["--threads", str(threads)] if threads else []
        words += ["--allow-targets", *plan.run.allowed]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        environment["PYTHONPATH"] = python_path()
        with self.log.open("ab") as log:
            self.read_to = log.tell()
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: queue.Queue) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with suppress(ValueError):
                    answers.put((self, json.loads(line)))
        self.process.wait()
        answers.put((self, None))

    def say(self, word: Any) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has died, and its end is on the way
            self.process.stdin.write(json.dumps(word) + "\n")
            self.process.stdin.flush()

    def news(self) -> list[str]:
        """Lines for the user that its log has had since the last look."""
        try:
            with self.log.open("rb") as log:
                log.seek(self.read_to)
                data = log.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.read_to += len(whole)
        return [line for line in whole.decode(errors="replace").splitlines() if line.startswith("blendbench: ")]


class _Pool:
    def __init__(self, executor: Local, plan: Plan) -> None:
        self.executor, self.plan = executor, plan
        self.devices = executor.devices(plan)
        self.of = executor._shards(plan, executor.workers(plan))
        self.tasks = deque(ShardTask(shard, self.of) for shard in range(self.of))
        self.answers: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[_Worker] = []
        self.count = 0
        self.done = 0
        self.said: set[str] = set()
        self.leases: dict[str, Any] = {}
        self.most = {device: count * executor.each(plan, device) for device, count in Counter(self.devices).items()}

    def run(self) -> bool:
        with _ended_on_termination():
            try:
                with made_rows(self.plan) as told:
                    self._work(told)
                for worker in self.workers:
                    worker.say("quit")
                for worker in self.workers:
                    with suppress(subprocess.TimeoutExpired):
                        worker.process.wait(20)
            finally:
                for worker in self.workers:
                    self._end(worker)
                for lease in self.leases.values():
                    lease.close()
        return True

    def _work(self, told: Callable[[], None]) -> None:
        """Give out shards, and take answers, until all are done."""
        waited = False
        while self.done < self.of:
            self._staff()
            for worker in self.workers:
                if worker.process.poll() is not None:
                    _kill(worker)  # what it has started may hold its output open, and hide its end
                elif worker.ready and worker.task is None:
                    self._give(worker)
            if not self.workers and not waited:
                print("blendbench: waiting for a GPU that another run has leased", file=sys.stderr)
                waited = True
            with suppress(queue.Empty):
                self._take(*self.answers.get(timeout=1.0))
            told()

    def _staff(self) -> None:
        """Start workers where there are tasks for them and devices to be leased."""
        idle = sum(worker.task is None and worker.process.poll() is None for worker in self.workers)
        for device in self.most:
            while len(self.tasks) > idle and self._on(device) < self.most[device]:
                if device not in self.leases and (lease := _lease(device)) is not None:
                    self.leases[device] = lease
                if device not in self.leases:
                    break
                name = f"local-{os.getpid()}-{self.count}"
                self.count += 1
                self.workers.append(_Worker(self.plan, device, name, self._threads(device), self.answers))
                idle += 1

    def _on(self, device: str) -> int:
        return sum(worker.device == device for worker in self.workers)

    def _threads(self, device: str) -> int | None:
        asked = self.plan.run.given.threads
        if device != "cpu" or asked:
            return asked
        if self.executor.per_device == "auto":
            return 1
        return max(1, len(os.sched_getaffinity(0)) // self.most[device])

    def _take(self, worker: _Worker, answer: dict[str, Any] | None) -> None:
        for line in worker.news():
            if line not in self.said:
                self.said.add(line)
                print(line, file=sys.stderr)
        if answer is None:
            self._bury(worker)
        elif "error" in answer:
            # A failure that another worker would meet as well: a full disk, a model that is gone.
            raise BlendbenchError(answer["error"])
        elif "done" in answer or "ready" in answer:
            if "done" in answer:
                worker.task = None
                self.done += 1
                self._grow(worker.device, answer["peak"])
            self._give(worker)

    def _give(self, worker: _Worker) -> None:
        worker.ready = True
        if self.tasks:
            task = worker.task = self.tasks.popleft()
            worker.say(task.word())

    def _grow(self, device: str, peak: int) -> None:
        """Where it is left to us, let one more worker onto a device that has memory for it."""
        if self.executor.per_device != "auto" or self._on(device) < self.most[device]:
            return
        limit = _SLOTS if device.startswith("cuda") else len(os.sched_getaffinity(0))
        if self.most[device] < limit and peak * 1.2 < _free_bytes(device):
            self.most[device] += 1

    def _bury(self, worker: _Worker) -> None:
        """A worker has died: give its shard to a fresh one, and leave out the item that killed two."""
        status = worker.process.returncode
        self._end(worker)
        self.workers.remove(worker)
        task = worker.task
        why = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"
        if task is None:
            if status and not worker.ready:
                raise BlendbenchError(f"a worker on {worker.device} did not start ({why}); {worker.log} says why")
            return
        task.died(self.plan, worker.name, why, self.executor.retries, worker.log)
        self.tasks.append(task)

    @staticmethod
    def _end(worker: _Worker) -> None:
        _kill(worker)
        worker.process.wait()
        assert worker.process.stdin is not None
        with suppress(OSError):  # what it was not told any more
            worker.process.stdin.close()


def _built_in(settings: Any) -> bool:
    """Whether every checkpoint that nested settings name is built-in."""
    if isinstance(settings, dict):
        named = settings.get("checkpoint", "pocket")
        return (named == "pocket" or isinstance(named, dict)) and all(map(_built_in, settings.values()))
    return all(map(_built_in, settings)) if isinstance(settings, list) else True


def _kill(worker: _Worker) -> None:
    """End a worker and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _lease(device: str) -> Any:
    """A lock on a GPU, or None while another run of this user holds it; what needs no lock gets an empty one."""
    # Slurm gives a job GPUs of its own, and calls each job's first one 0.
    if not device.startswith("cuda") or "SLURM_JOB_ID" in os.environ:
        return io.StringIO()
    folder = Path(tempfile.gettempdir()) / f"blendbench-leases-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / f"{re.sub('[^A-Za-z0-9]', '-', _physical(device))}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _physical(device: str) -> str:
    """A GPU's name on this machine, whatever part of the machine CUDA_VISIBLE_DEVICES shows to this process."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    index = int(device.partition(":")[2] or 0)
    return f"cuda-{visible[index] if index < len(visible) else index}"


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _ended_on_termination() -> Iterator[None]:
    """SIGTERM ends the workers, as an interrupt from the keyboard does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
