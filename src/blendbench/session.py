"""The run as one command leads it: plan, executor, results, tables, figures, page and tracker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blendbench import executors, finished, telling, trackers
from blendbench.errors import BlendbenchError
from blendbench.figures import drawing
from blendbench.reports import page, tables
from blendbench.runs import progress, results
from blendbench.runs.folder import Run
from blendbench.runs.plan import Plan, prepare
from blendbench.runs.work import begin, describe, link_images, merge


def run(settings: dict[str, Any], say: Callable[[str], None] = print) -> Path | None:
    """The whole way: generate, present, score, tabulate, report; returns the run's folder.

    Returns None after a `dry_run`, which says the plan, and where the executor leaves the run to be finished later.

    Raises
    ------
    BlendbenchError
        See `prepare`; a failing item or arm does not raise, it is told in rows and in the table.
    """
    this = Run.of(settings)
    executor, tracker = executors.of(this), trackers.of(this.given)
    with finished.Watch() as watch:
        with telling.stage("prepare", kind="prepare"):
            plan = prepare(this)
        watch.add(plan.task.files(plan.items))
        for note in plan.task.notes:
            say(note)
        if this.given.dry_run:
            say(describe(plan, executor.describe(plan), executor.workers(plan)))
            return None
        with telling.stage("prepare", kind="prepare"):
            begin(plan)
        say(
            f"{len(plan.items)} {plan.task.items_called} x {len(plan.arms)} arms x {len(plan.presentations)} "
            f"presentations in {plan.run_dir}"
        )
        with plan.beat as beat:
            if not _make(plan, executor):
                return None
            del plan  # a million items take as much memory as what comes now
            with _stage(beat, "tabulate"):
                tabulate(this)
            with _stage(beat, "figures"):
                drawing.draw(this)
            if this.given.report:
                with _stage(beat, "report"):
                    page.write(this)
            with _stage(beat, "W&B"):
                mirrored = tracker.mirror(this)
            if mirrored:
                say(f"W&B    {mirrored}")
    finished.note(this.dir, settings, watch.files)
    return this.dir


def tabulate(run: Run) -> None:
    """Compute a run's results from its rows and sounds, and write them and the tables."""
    tables.write(run, results.write(run))


@contextmanager
def _stage(beat: progress.Beat, name: str) -> Iterator[None]:
    """A stage of the command after its items, as `status` and the lines of progress tell it."""
    with telling.stage(name, kind=name):
        beat.begin(name)
        yield


def _make(plan: Plan, executor: executors.Executor) -> bool:
    """Have all rows of a run made; False where the executor leaves it to others.

    Raises
    ------
    BlendbenchError
        If rows are still not there in the end, or the executor says why it cannot go on.
    """
    for _ in range(3):
        plan.beat.begin("leads")
        with telling.stage("make", kind="make", bar=False):
            if not executor.run(plan):
                return False
            lacking = merge(plan)
        if not lacking:
            link_images(plan)
            return True
    raise BlendbenchError(f"{plan.run_dir}: {lacking} rows are still not there; run the same command again")
