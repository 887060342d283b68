"""Executors: who brings the shards of a run through its stages. A class that `_target_` names in `conf/executor`.

An executor has

- `run(plan)`: bring all shards to their end; False where it leaves the work to others and does not wait for them;
- `workers(plan)`: how many work at once;
- `describe(plan)`: the same in words.

The processes that an executor starts share nothing with it but the run's folder, the store and the data.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blendbench import config, telling
from blendbench.errors import BlendbenchError
from blendbench.runs import progress
from blendbench.runs.folder import Run
from blendbench.runs.plan import Plan, Shard
from blendbench.runs.work import give_up, work

_LOOK_S = 5.0
"""Seconds between two looks at what the workers have done."""


class Executor(Protocol):
    """The interface of an executor; see the module's text."""

    def run(self, plan: Plan) -> bool: ...

    def workers(self, plan: Plan) -> int: ...

    def describe(self, plan: Plan) -> str: ...


class Inline:
    """All in this process."""

    def run(self, plan: Plan) -> bool:
        """Do everything; raises BlendbenchError if a file cannot be written."""
        with _rows(plan, bar=False):  # an arm's own is shown
            # What is scored is tabulated at once, so the tabulation scores it.
            work(plan, Shard(), plan.beat, scoring=False)
        return True

    def workers(self, plan: Plan) -> int:
        """One."""
        return 1

    def describe(self, plan: Plan) -> str:
        """Which device."""
        return f"inline, this process, {plan.context.device}"


@dataclass
class ShardTask:
    """A shard that other processes bring to its end, and what befell those who tried."""

    shard: int
    of: int
    deaths: int = 0
    unexplained: int = 0
    suspects: set[tuple[str, str]] = field(default_factory=set)
    skip: list[tuple[str, str]] = field(default_factory=list)

    def word(self) -> dict[str, Any]:
        """What a worker is told; after a death, to take one item at a time, without those that killed twice."""
        return {"shard": self.shard, "of": self.of} | ({"skip": self.skip} if self.deaths else {})

    def died(self, plan: Plan, name: str, why: str, retries: int, log: Path, blame: bool = True) -> None:
        """Count the death of a worker; an item that was at two deaths, the second time alone, becomes a failed row.

        Parameters
        ----------
        plan : Plan
        name : str
            Of the worker's sign of life.
        why : str
            What ended it.
        retries : int
            How many deaths are borne that no item can be blamed for.
        log : Path
            Where its last lines are.
        blame : bool
            Whether what it was at may have caused it.

        Raises
        ------
        BlendbenchError
            If there were too many.
        """
        self.deaths += 1
        found = progress.facts_of(plan.run_dir, name)
        at = [(found["arm"], item) for item in found["pairs"]] if found is not None and blame else []
        told = f"its worker died twice: {why}; give it more memory, or see {log}"
        if len(at) == 1 and at[0] in self.suspects and give_up(plan, at[0][0], {at[0][1]}, told):
            self.skip.append(at[0])
            self.unexplained -= 1  # the first death is explained, too
        else:
            self.suspects |= set(at)
            self.unexplained += 1
        if self.unexplained > retries:
            raise BlendbenchError(
                f"shard {self.shard + 1} of {self.of}: its worker died {self.deaths} times, the last by {why}; "
                f"{log} says more; then run the same command again"
            )
        print(f"blendbench: a worker died ({why}); its shard is begun again", file=sys.stderr)


def _rows(plan: Plan, bar: bool = True) -> AbstractContextManager[telling.Stage]:
    """The stage in which a run's rows are made, by whomever."""
    return telling.stage("", plan.whole, "row", done=lambda: len(plan.rows), bar=bar)


@contextmanager
def made_rows(plan: Plan) -> Iterator[Callable[[], None]]:
    """Tell how many of a run's rows other processes have made; what it yields is to be called every few seconds."""
    plan.rows.refresh()
    with _rows(plan) as told:
        looked = 0.0

        def look() -> None:
            nonlocal looked
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                plan.rows.refresh()
                told.look(progress.pace(progress.workers(plan.run_dir)))

        yield look


def check_number(key: str, value: Any, least: int, *others: Any) -> None:
    """Raise BlendbenchError unless an executor's entry is a whole number of at least so much, or one of the others."""
    if value in others or (type(value) is int and value >= least):
        return
    also = "".join(f", or {'null' if one is None else one}" for one in others)
    raise BlendbenchError(f"executor.{key}: {value!r} is out of range; use {least} or more{also}")


def python_path() -> str:
    """PYTHONPATH with which another process finds the modules that this one finds, the user's own among them."""
    return os.pathsep.join(one for one in sys.path if one)


def of(run: Run) -> Executor:
    """The executor of a run; raises BlendbenchError if its entry is wrong."""
    entry = run.given.executor
    if entry is None:
        return Inline()
    if not isinstance(entry, dict):
        raise BlendbenchError(f"executor: {entry!r} is no executor; use inline, local or slurm")
    executor: Executor = config.build(entry, "executor", run.allowed)
    return executor
