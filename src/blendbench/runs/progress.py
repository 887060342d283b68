"""How far a run is: its plan's size, signs of life of its workers, counts of its rows. Needs no model and no torch.

`RUN_DIR/plan.json` says what belongs to the run, `RUN_DIR/workers/NAME.json` what each worker is doing and has done.
Ages are taken from the disk's own clock, and rates from each worker's own, so that clocks that disagree do no harm.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from blendbench import telling
from blendbench.errors import BlendbenchError
from blendbench.runs import KEY
from blendbench.store.ledger import Ledger
from blendbench.store.write import write_bytes

ALIVE_S = 30.0
"""A worker that was not heard of for so many seconds is taken for lost."""
_BEAT_S = 5.0
_ENDED = ("finished", "stopped")


class Beat:
    """A worker's sign of life; a thread renews it while the worker is busy. A context manager, which says how it ends.

    Parameters
    ----------
    run_dir : Path
    device : str
        Torch device of the worker.
    shard : (int, int)
        Which part of how many.
    name : str, optional
        Of the file; host and process by default.
    leads : bool
        Whether it is that of a command whose items other processes may be at.
    """

    def __init__(
        self,
        run_dir: Path,
        device: str,
        shard: tuple[int, int] = (0, 1),
        name: str | None = None,
        leads: bool = False,
    ) -> None:
        host = socket.gethostname()
        self.path = run_dir / "workers" / f"{name or f'{host}-{os.getpid()}'}.json"
        self._facts: dict[str, Any] = {"host": host, "pid": os.getpid(), "device": device, "shard": list(shard)}
        self._facts |= {
            "stage": "starts",
            "arm": "",
            "pairs": [],
            "done": 0,
            "failed": 0,
            "arms": {},
            "finished": False,
            "leads": leads,
        }
        self._seconds: dict[str, list[float]] = {}
        self._stages: dict[str, float] = {"generate": 0.0, "present": 0.0, "score": 0.0}
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def take(self, shard: tuple[int, int]) -> None:
        """Say which shard is taken up."""
        with self._lock:
            self._facts["shard"] = list(shard)

    def begin(self, stage: str, arm: str = "", items: Sequence[str] = ()) -> None:
        """Say what is begun; on disk when this returns, so that it is known what killed a worker."""
        with self._lock:
            self._facts |= {"stage": stage, "arm": arm, "pairs": list(items)}
        self._write()

    def end(self, arm: str, items: int, rows: int, failed: int, seconds: float) -> None:
        """Count what was done: so many items of an arm, rows, failed ones among them, in so many seconds."""
        with self._lock:
            spent = self._seconds.setdefault(arm, [0, 0.0])
            spent[0] += items
            spent[1] += seconds
            self._facts["done"] += rows
            self._facts["failed"] += failed
            now = time.monotonic()
            self._recent.append((now, self._facts["done"]))
            while len(self._recent) > 2 and now - self._recent[0][0] > 60:
                self._recent.popleft()

    def spend(self, stage: str, seconds: float) -> None:
        """Add to the seconds that a stage has taken: "generate", "present" or "score"."""
        with self._lock:
            self._stages[stage] += seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(finished=kind is None)

    def close(self, finished: bool = True) -> None:
        """The worker's last word."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._facts |= {"finished": finished, "stage": "finished" if finished else "stopped"}
            self._facts |= {"arm": "", "pairs": []}
        self._write()

    def _renew(self) -> None:
        while not self._stop.wait(_BEAT_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            first, last = self._recent[0], self._recent[-1]
            rate = (last[1] - first[1]) / (time.monotonic() - first[0]) if len(self._recent) > 1 else 0.0
            facts = self._facts | {"rate": rate, "arms": self._seconds, "stages": self._stages}
            facts["told"] = "" if facts["stage"] in _ENDED else telling.now()
            data = json.dumps(facts).encode()
        with suppress(BlendbenchError):  # a full disk stops the work, not the word of it
            write_bytes(self.path, data, sync=False)


@dataclass(frozen=True)
class Worker:
    """What a worker said last, and how many seconds ago."""

    name: str
    facts: dict[str, Any]
    age: float

    @property
    def alive(self) -> bool:
        """Whether it works still, as far as one can tell."""
        return not self.facts["finished"] and self.facts["stage"] != "stopped" and self.age < ALIVE_S

    @property
    def leads(self) -> bool:
        """Whether it is the command's own."""
        return bool(self.facts.get("leads"))

    @property
    def works(self) -> bool:
        """Whether it is at items: a command that leads others, or has gone on to the tables, is not."""
        return self.alive and (not self.leads or self.facts["stage"] in ("make", "score"))


def workers(run_dir: Path) -> list[Worker]:
    """All workers that a run's folder knows of."""
    now, found = _disk_time(run_dir), []
    for file in sorted((run_dir / "workers").glob("*.json")):
        try:
            facts, age = json.loads(file.read_bytes()), now - file.stat().st_mtime
        except (OSError, ValueError):
            continue  # taken away, or cut short by a power cut
        if isinstance(facts, dict) and {"finished", "stage", "arms", "done", "failed", "rate"} <= set(facts):
            found.append(Worker(file.stem, facts, max(0.0, age)))
    return found


def facts_of(run_dir: Path, name: str) -> dict[str, Any] | None:
    """What a worker said last, by its name; None where nothing is known of it."""
    return next((one.facts for one in workers(run_dir) if one.name == name), None)


def pace(found: Sequence[Worker]) -> str:
    """Failures of some workers, and how many are at work, for a line of progress."""
    return f"{sum(one.facts['failed'] for one in found)} failed, {sum(one.works for one in found)} at work"


def _disk_time(folder: Path) -> float:
    """What time it is by the clock that stamps a folder's files; this machine's where the folder cannot be written."""
    probe = folder / f".{secrets.token_hex(8)}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def forget_dead(run_dir: Path) -> None:
    """Take away the signs of workers that work no more."""
    for worker in workers(run_dir):
        if not worker.alive:
            with suppress(OSError):
                (run_dir / "workers" / f"{worker.name}.json").unlink()


def write_plan(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Write `plan.json`: "experiment", "pairs" (their number) and "arms": {arm: {presentation: mix signature}}."""
    write_bytes(run_dir / "plan.json", (json.dumps(facts, indent=1) + "\n").encode())


@dataclass
class Progress:
    """Counts of a run's rows."""

    experiment: str
    total: int
    of_arm: int
    """Rows that an arm will have"""
    shown: int
    """Presentations, so rows an item and arm"""
    done: Counter[str] = field(default_factory=Counter)
    """Rows by arm, failed ones among them"""
    failed: Counter[str] = field(default_factory=Counter)
    workers: list[Worker] = field(default_factory=list)
    called: str = "pairs"
    """What items are called"""

    @property
    def left(self) -> int:
        """Rows that are not there yet."""
        return self.total - sum(self.done.values())


def read(run_dir: Path) -> Progress:
    """Count a run's rows and its workers.

    Raises
    ------
    BlendbenchError
        If the folder is no run's.
    """
    try:
        plan = json.loads((run_dir / "plan.json").read_bytes())
        arms = plan["arms"]
        shown = max((len(signatures) for signatures in arms.values()), default=0)
        found = Progress(plan["experiment"], plan["pairs"] * shown * len(arms), plan["pairs"] * shown, max(1, shown))
        found.called = str(plan.get("called", found.called))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BlendbenchError(
            f"{run_dir}: no sound plan.json here; give the folder that `blendbench run` printed"
        ) from None
    for arm in arms:
        found.done[arm] = 0
    for row in Ledger(run_dir / "pairs.jsonl", KEY):
        if arms.get(row["arm"], {}).get(row["presentation"]) == row.get("signature"):
            found.done[row["arm"]] += 1
            found.failed[row["arm"]] += row.get("status") != "ok"
    found.workers = workers(run_dir)
    return found


def seconds_a_pair(found: Iterable[Worker]) -> dict[str, float]:
    """Mean seconds that an item took, by arm, over all that the workers did."""
    items: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for worker in found:
        for arm, (count, spent) in worker.facts["arms"].items():
            items[arm] += count
            seconds[arm] += spent
    return {arm: seconds[arm] / count for arm, count in items.items() if count}


def text(found: Progress) -> str:
    """What `blendbench status` prints."""
    alive = [worker for worker in found.workers if worker.works]
    leads = [worker for worker in found.workers if worker.alive and worker.leads]
    spent = seconds_a_pair(found.workers)
    done, failed = sum(found.done.values()), sum(found.failed.values())
    head = f"{found.experiment}: {done} of {found.total} rows, {failed} failed, {found.left} left"
    if alive:
        rate = sum(worker.facts["rate"] for worker in alive)
        head += f"; {len(alive)} worker{'s' * (len(alive) > 1)}, {rate:.2g} rows/s" + _time_left(found, spent, alive)
    elif found.left and not leads:
        head += "; no worker is at it: the same `blendbench run` goes on"
    if leads and not leads[0].works:
        head += f"; now at: {leads[0].facts.get('told') or leads[0].facts['stage']}"
    pace_of = f"s/{found.called.removesuffix('s')}"
    wide = max(9, len(pace_of) + 2)
    lines = [head, "", f"{'arm':<24}{'done':>9}{'failed':>9}{'left':>9}{pace_of:>{wide}}"]
    for arm, count in found.done.items():
        pace = f"{spent[arm]:.2f}" if arm in spent else "–"
        lines.append(f"{arm:<24}{count:>9}{found.failed[arm]:>9}{found.of_arm - count:>9}{pace:>{wide}}")
    if found.workers:
        lines += ["", f"{'worker':<28}{'device':<9}{'shard':<10}{'rows':>7}  at"]
    for worker in found.workers:
        facts = worker.facts
        at = (facts.get("told") if worker.alive else "") or f"{facts['stage']} {facts['arm']}".strip()
        if not worker.alive and not facts["finished"]:
            at = f"lost {worker.age:.0f} s ago at: {at}"
        shard = f"{facts['shard'][0] + 1} of {facts['shard'][1]}"
        lines.append(f"{worker.name:<28}{facts['device']:<9}{shard:<10}{facts['done']:>7}  {at}")
    return "\n".join(lines)


def _time_left(found: Progress, spent: Mapping[str, float], alive: Sequence[Worker]) -> str:
    """How long the rest takes, once every arm that is not done has been begun."""
    left = {arm: found.of_arm - count for arm, count in found.done.items() if count < found.of_arm}
    if not set(left) <= set(spent):
        return ""
    seconds = sum(spent[arm] * rows / found.shown for arm, rows in left.items())
    return f", about {telling.clock(seconds / len(alive))} left"


def took(run_dir: Path, seconds: Mapping[str, float]) -> str:
    """One line of how long a command's stages took.

    Parameters
    ----------
    run_dir : Path
        The run's folder, whose workers say how long they generated, presented and scored.
    seconds : mapping of str to float
        The command's own accounts, as `telling.accounts` has them.
    """
    order = ("", "start", "prepare", "make", "score", "tabulate")
    names = [*(name for name in order if name in seconds), *(name for name in seconds if name not in order)]
    found = workers(run_dir)
    spent: Counter[str] = Counter()
    for worker in found:
        spent.update(worker.facts.get("stages", {}))
    parts = []
    for name in names:
        whole = round(seconds[name])
        if not whole:
            continue
        inner = [f"{stage} {told:.0f} s" for stage, told in spent.items() if told >= 0.5] if name == "make" else []
        count = sum(not worker.leads for worker in found)
        by = f"{count} workers: " if inner and count > 1 else ""
        parts.append(f"{name or 'the rest'} {whole} s" + (f" ({by}{', '.join(inner)})" if inner else ""))
    return f"took   {telling.clock(sum(seconds.values()))}: {', '.join(parts)}"
