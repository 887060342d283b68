"""The plan of a run: what its settings mean, as data; nothing is written.

With `runs.folder` this is where settings end: what is below is given objects and values.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.methods import Context, Method, check
from blendbench.runs import progress
from blendbench.runs.folder import Run
from blendbench.runs.music import Kept
from blendbench.runs.scoring import Scoring
from blendbench.store.ledger import Ledger
from blendbench.tasks import Item, Presentation, Task

T = TypeVar("T")


@dataclass
class Plan:
    """A run made ready.

    Attributes
    ----------
    run : Run
    task : Task
    items : list of Item
    arms : dict of str to Method
    presentations : dict of str to Presentation
    context : Context
    """

    run: Run
    task: Task
    items: list[Any]
    arms: dict[str, Any]
    presentations: dict[str, Presentation]
    context: Context

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.run.dir

    @property
    def store(self) -> Path:
        """What runs share."""
        return self.run.store

    @cached_property
    def rows(self) -> Ledger:
        """The run's rows, read once a process; `refresh` takes in what others have appended since."""
        return self.run.ledger()

    @cached_property
    def beat(self) -> progress.Beat:
        """The sign of life of the command that leads the run; begun when first asked for."""
        return progress.Beat(self.run_dir, self.context.device, leads=True)

    @cached_property
    def scoring(self) -> Scoring:
        """The evaluators and metrics with what they have said before; loaded once a process."""
        return Scoring(self.run)

    @property
    def whole(self) -> int:
        """Rows that the run will have."""
        return len(self.items) * len(self.arms) * len(self.presentations)

    def keys(self) -> Iterator[tuple[str, str, str, str]]:
        """Keys of all rows, sorted."""
        ids: dict[str, list[str]] = {}
        for item in self.items:
            ids.setdefault(item.dataset, []).append(item.id)
        for dataset in sorted(ids):
            ids[dataset].sort()
            for arm in sorted(self.arms):
                for shown in sorted(self.presentations):
                    yield from ((dataset, arm, shown, item) for item in ids[dataset])


@dataclass(frozen=True)
class Shard:
    """One of several parts that the work is cut into; each has something of every arm and class."""

    index: int = 0
    of: int = 1

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """What of a sequence belongs to the shard."""
        return items[self.index :: self.of] if self.of > 1 else items


def context_of(run: Run, keep: bool = True) -> Context:
    """What methods borrow from a run: the generator, not yet loaded, and what the task lends.

    With `keep`, what methods make that others build on is kept in the store.
    """
    entry = run.given.generator
    lenders: dict[str, Any] = dict(run.task.lends())
    if entry is not None:
        lenders["generator"] = lambda: config.build(entry, "generator", run.allowed)

    def kept(method: Method, context: Context) -> Method:
        return Kept(method, run.task, run.store, context)

    rate, channels = run.task.sample_rate, run.task.channels
    return Context(rate, run.device, run.seed, lenders, channels=channels, keep=kept if keep else None)


def prepare(run: Run) -> Plan:
    """Read the tables, make the items, and find out whether all models are there.

    Raises
    ------
    BlendbenchError
        If no experiment is named, or data or a model are missing, or a method takes what the task does not give.
    """
    given = run.given
    if not given.experiment or not given.arms:
        raise BlendbenchError("experiment: none named; add one, such as experiment=bnmusic/table1")
    for key in ("dataset", "arms", "presentations"):
        if all(entry is None for entry in getattr(given, key).values()):
            raise BlendbenchError(f"{key}: none is left; leave out fewer of {key}.NAME=null")
    names = {"arm": run.arms, "presentation": run.presentations, "dataset": run.datasets}
    run.experiment.layout.alone({**names, "metric": run.experiment.metrics})
    if given.threads:
        torch.set_num_threads(given.threads)
    _find_unmeasured(run)
    task = run.task
    items = task.items(given.limit)
    task.reference()
    presentations, arms, context = run.shown, run.methods, context_of(run)
    _find_missing(run, arms, context)
    return Plan(run, task, items, arms, presentations, context)


def _find_unmeasured(run: Run) -> None:
    """Raise BlendbenchError for a name in the table that no metric has; a line for a metric whom nobody answers."""
    known = run.facts | run.scales
    for name in run.experiment.metrics:
        if name.partition("@")[0] not in known:
            raise BlendbenchError(
                f"experiment.metrics: no metric has a value {name!r}; there are {', '.join(known)}, and by "
                "+metric=NAME others (`blendbench list metrics`)"
            )
    for name, entry in run.given.metric.items():
        values = set(config.named(entry.get("_target_"), f"metric.{name}", run.allowed).facts)
        if name not in run.metrics and (lacking := values & set(run.experiment.metrics)):
            told = f"{', '.join(sorted(lacking))} not measured: there is no evaluator.{entry['evaluator']}"
            print(f"blendbench: metric.{name}: {told}; add one (`blendbench list evaluators`)", file=sys.stderr)


def _find_missing(run: Run, arms: dict[str, Any], context: Context) -> None:
    """Raise BlendbenchError for what is missing, before any music is made."""
    for name, method in arms.items():
        check(method, f"arms.{name}", run.task.gives)
        for lent in method.uses:
            if lent != "music":
                context.borrow(lent).signature()
    for name, method in arms.items():
        try:
            method.signature()
        except BlendbenchError as error:
            raise BlendbenchError(f"{error}; or leave the arm out: arms.{name}=null") from error
    for evaluator in run.asked:
        evaluator.signature()
    for metric in run.metrics.values():
        metric.signature()


__all__ = ["Item", "Plan", "Shard", "context_of", "prepare"]
