"""A shard of a run through all of its stages, and what is left to do.

Generated music lies in the store under its signature, mixes and rows in the run's folder, scores in the store under the
evaluator's signature and the sound's content. An item that cannot take part gives rows with status "failed" and a
reason; the run goes on. The items are cut into shards; an executor brings each through `work`, here or in other
processes, which find all that they need in the run's folder. Whatever is done twice has the same outcome, so nothing
harms but a lost file.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from omegaconf import OmegaConf

from blendbench import config, telling
from blendbench.runs import progress
from blendbench.runs.arm import Arm
from blendbench.runs.making import Making
from blendbench.runs.plan import Plan, Shard
from blendbench.store.write import make_folder, write_text


@contextmanager
def arms_of(plan: Plan) -> Iterator[dict[str, Arm]]:
    """A plan's arms by name, with the rows of now; files are closed at the end."""
    plan.rows.refresh()
    try:
        yield {name: Arm(plan, name) for name in plan.arms}
    finally:
        plan.rows.close()
        plan.task.close()


def begin(plan: Plan) -> None:
    """Make the folders, write `config.yaml` and `plan.json`, and take out rows that are not this run's.

    Raises
    ------
    BlendbenchError
        If a folder cannot be written.
    """
    write_text(plan.run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.literal(plan.run.settings))))
    if not plan.store.is_dir():
        make_folder(plan.store)  # one that cannot be written is still read: it may hold all
    with arms_of(plan) as arms:
        signatures = {name: arm.mix_signatures for name, arm in arms.items()}
    facts = {"experiment": plan.run.experiment.name, "pairs": len(plan.items), "arms": signatures}
    progress.write_plan(plan.run_dir, facts | {"called": plan.task.items_called})
    ledger = plan.rows
    progress.forget_dead(plan.run_dir)
    if plan.run.given.retry_failed:
        for place in list(ledger.places()):
            row = ledger.at(place)
            if row is not None and row.get("status") == "failed" and not row.get("retry"):
                ledger.append(row | {"retry": True})
    # Workers of an earlier command may be at it; who writes while a file is replaced has to look twice.
    if ledger.others(plan.keys()):
        ledger.keep(plan.keys())
    ledger.close()


def work(
    plan: Plan,
    shard: Shard,
    beat: progress.Beat,
    skip: frozenset[tuple[str, str]] | None = None,
    scoring: bool = True,
) -> None:
    """Bring a shard's items to mixes, rows and scores; what is already there is left alone.

    Parameters
    ----------
    plan : Plan
    shard : Shard
    beat : Beat
        Where to say what is being done.
    skip : set of (arm, item id), optional
        What is not to be tried, as it has ended a worker before. Given, be it empty, items are taken one by one.
    scoring : bool
        Whether the mixes are scored, too.

    Raises
    ------
    BlendbenchError
        If a file cannot be written, such as on a full disk.
    """
    items = shard.part(plan.items)
    with arms_of(plan) as arms:
        for arm in arms.values():
            Making(arm, beat, skip).run(items)
        if scoring:
            beat.begin("score")
            keys = ((item.dataset, arm, shown, item.id)
                    for arm in plan.arms for shown in plan.presentations for item in items)  # fmt: skip
            rows = (row for key in keys if (row := plan.rows.get(*key)) is not None and row["status"] == "ok")
            began = time.monotonic()
            plan.scoring.part(rows, shard.part(plan.task.reference()))
            beat.spend("score", time.monotonic() - began)


def unfinished(plan: Plan, of: int, again: bool = True) -> list[int]:
    """Which of so many shards have items that lack a row or an image, or, unless not `again`, are to be tried again."""
    found: set[int] = set()
    with arms_of(plan) as arms:
        for arm in arms.values():
            lacks = arm.lacks if again else arm.untried
            found |= {index % of for index, item in enumerate(plan.items) if index % of not in found and lacks(item)}
    return sorted(found)


def link_images(plan: Plan) -> None:
    """Put the images that are kept into the run's folder, also those of items that were done before."""
    if plan.run.given.keep_images:
        with arms_of(plan) as arms:
            for arm in arms.values():
                arm.link_images(plan.items)


def merge(plan: Plan) -> int:
    """Put the run's rows in a fixed order, each once, and no other; returns how many are not there."""
    return plan.rows.keep(plan.keys())


def give_up(plan: Plan, arm: str, ids: Collection[str], reason: str) -> int:
    """Enter items that cannot be done as failed, and return for how many rows; the same command tries them again."""
    with arms_of(plan) as arms:
        return sum(arms[arm].fail(item, reason, retry=True) for item in plan.items if item.id in ids)


def describe(plan: Plan, executor: str, workers: int) -> str:
    """What `dry_run` prints: what would be done, what is there already, and how long it may take by earlier rows.

    Parameters
    ----------
    plan : Plan
    executor : str
        In words.
    workers : int
        How many work at once.
    """
    called, items = plan.task.items_called, len(plan.items)
    one, reference = called.removesuffix("s"), plan.task.reference()
    wide = max(9, len(one) + 4)
    lines = [
        f"{items} {called} x {len(plan.arms)} arms x {len(plan.presentations)} presentations "
        f"({', '.join(plan.presentations)}), {len(reference)} reference clips",
        f"folder {plan.run_dir}, store {plan.store}",
        f"executor: {executor}",
        "",
        f"{f'arm, in {called}':<20}{'done':>9}{'to link':>9}{'to mix':>9}{'to make':>9}{f's/{one}':>{wide}}",
    ]
    total, unknown = 0.0, list[str]()
    with arms_of(plan) as arms:
        surveys = {name: arm.survey() for name, arm in arms.items()}
    for name, found in surveys.items():
        make = items - found.done - found.mixed - found.made
        pace = "?" if found.generate is None else f"{found.generate:.2f}"
        lines.append(f"{name:<20}{found.done:>9}{found.mixed:>9}{found.made:>9}{make:>9}{pace:>{wide}}")
        if make and found.generate is None:
            unknown.append(name)
        total += make * (found.generate or 0.0) + (make + found.made) * (found.present or 0.0)
    lines += ["", f"{'scores, in sounds':<20}{'done':>9}{'':>9}{'':>9}{'to score':>9}{'s/sound':>{wide}}"]
    for evaluator, done, seconds in plan.scoring.survey(row for row in plan.rows if row.get("status") == "ok"):
        score = plan.whole + len(reference) - done
        pace = "?" if seconds is None else f"{seconds:.2f}"
        lines.append(f"{evaluator:<20}{done:>9}{'':>9}{'':>9}{score:>9}{pace:>{wide}}")
        if score and seconds is None:
            unknown.append(evaluator)
        total += score * (seconds or 0.0)
    told = (
        f"about {telling.clock(total / workers)} with {workers} worker{'s' * (workers > 1)}, by what earlier rows took"
    )
    if unknown:
        told += f"; nothing is known yet of {', '.join(unknown)}"
    return "\n".join([*lines, "", told])
