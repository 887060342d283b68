"""Planning a study: which samples of a run, and the plan that says what of each is heard."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from blendbench.errors import BlendbenchError, ClipError
from blendbench.listening.settings import Settings
from blendbench.listening.sounds import Draft, Sounds
from blendbench.listening.study import ANCHOR, HIDDEN_REFERENCE, PLAN, SETTINGS, VERSION, Study, Subject
from blendbench.runs.folder import Run
from blendbench.seeds import shuffled
from blendbench.store.write import write_text

_CATCH_TRIALS = 2
"""Where the settings leave it to the task, and it says what catches."""
_MOST = 25
"""Clips that a page can have."""


def plan(run: Run, settings: Settings) -> tuple[Study, list[str]]:
    """Choose a study's samples, write its sounds and its plan, and return it with notes on what had to give way.

    Parameters
    ----------
    run : Run
        A finished one.
    settings : Settings

    Raises
    ------
    BlendbenchError
        If a study is there already, the run has no such arms or presentation, its task no such part or column, or no
        item has mixes of all arms.
    """
    folder = run.dir / "listening"
    if (folder / PLAN).exists():
        raise BlendbenchError(f"{folder}: a study is there; go on with it, or move the folder away to plan another")
    subject = _subject(run)
    settings = _resolved(settings, run, subject)
    presentation, arms, hidden = _presentation(settings, run), _arms(settings, run), _hidden(settings, subject)
    _check_conditions(settings, run, subject, arms, hidden)
    rows = _complete_pairs(run, settings, presentation, arms)
    sounds = Sounds(folder, run, settings, arms, hidden)
    drafts, notes = _drafted(run, settings, rows, sounds)
    samples, lowered = sounds.write(drafts)
    if lowered < 0:
        notes.append(f"all sounds are {-lowered:.1f} dB lower than asked for, so that none clips")
    longest = max(wave.shape[-1] for draft in drafts for wave in draft.waves.values())
    made = Study(
        folder, settings, subject, arms, hidden, presentation, samples, sounds.checks(), sounds.volume(samples[0]),
        longest / run.task.sample_rate,
    )  # fmt: skip
    write_text(folder / SETTINGS, settings.as_yaml())
    facts = asdict(made) | {"version": VERSION}
    del facts["folder"], facts["settings"], facts["run"]
    write_text(folder / PLAN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return made, notes


def _subject(run: Run) -> Subject:
    task, study = run.task, run.task.study()
    parts = {**task.shared, **task.own}
    return Subject(dict(task.columns), task.group, task.units, parts, study.first, study.catch)


def _resolved(settings: Settings, run: Run, subject: Subject) -> Settings:
    """With what is left to the task; raises BlendbenchError for what the task does not have."""
    fields = sorted([*subject.classes, "dataset"])
    balance = subject.classes if settings.balance is None else settings.balance
    if not set(balance) <= set(fields):
        raise BlendbenchError(f"balance: {balance!r} is out of range; use a list of {', '.join(fields)}")
    catches = settings.catch_trials
    if catches is None:
        catches = _CATCH_TRIALS if subject.catch else 0
    elif catches and not subject.catch:
        raise BlendbenchError(f"catch_trials: the task {run.task.name} says nothing that catches; use catch_trials=0")
    return replace(settings, balance=balance, catch_trials=catches)


def samples_of(there: int, samples: int, extra: int) -> int:
    """How many of the items are samples.

    Practice and catch trials have items of their own where that takes no sample away, or, where there are fewer items
    than samples wanted, at most a quarter of them; else they use items of samples, too.

    Parameters
    ----------
    there, samples, extra : int
        Items, samples wanted, practice pages and catch trials.
    """
    if there >= samples + extra:
        return samples
    return there - extra if there < samples and there >= 4 * extra else min(there, samples)


def _drafted(
    run: Run, settings: Settings, rows: Sequence[dict[str, dict]], sounds: Sounds
) -> tuple[list[Draft], list[str]]:
    """Samples, catch trials and practice pages of an item each, and notes on what had to give way."""
    catches = settings.catch_trials or 0
    extra = settings.practice + catches
    notes = []
    wanted = samples_of(len(rows), settings.samples, extra)
    called = run.task.items_called
    if wanted < settings.samples:
        notes.append(f"{len(rows)} {called} have mixes of all arms: {wanted} samples in place of {settings.samples}")
    kinds = ["sample"] * wanted + ["catch"] * catches + ["practice"] * settings.practice
    if len(rows) < len(kinds):
        notes.append(f"few {called}: those of practice and catch trials stand among the samples, too")
    coming, used = _balanced(rows, settings.balance or [], settings.seed), deque[dict[str, dict]]()
    drafts, numbers = list[Draft](), Counter[str]()
    for kind in kinds:
        name = f"s{numbers[kind] + 1:03d}" if kind == "sample" else f"{kind}{numbers[kind] + 1}"
        # An item is a sample once; practice and catch trials come back to those used where no others are left.
        while (row := next(coming, None)) is not None or (used and kind != "sample"):
            row = row or used.popleft()
            try:
                drafts.append(sounds.draft(name, kind, row))
            except ClipError as error:
                notes.append(f"{next(iter(row.values()))['pair_id']} left out: {error}")
                continue
            numbers[kind] += 1
            used.append(row)
            break
    if numbers["sample"] < wanted:
        one = called.removesuffix("s")
        notes.append(f"{numbers['sample']} samples in place of {wanted}, as no other {one}'s sounds can be read")
    if not drafts:
        raise BlendbenchError(f"{run.dir}: no item's sounds can be read; {'; '.join(notes[-3:])}")
    return drafts, notes


def _presentation(settings: Settings, run: Run) -> str:
    there, preferred = list(run.presentations), run.task.study().presentation
    chosen = settings.presentation or (preferred if preferred in there else there[0])
    if chosen not in there:
        raise BlendbenchError(f"presentation: the run has no {chosen!r}; it has {', '.join(there)}")
    return chosen


def _arms(settings: Settings, run: Run) -> dict[str, str]:
    """Labels by arm, in the order of the run's tables."""
    there = run.arms
    chosen = settings.arms if settings.arms is not None else run.with_music
    for arm in chosen:
        if arm not in there:
            raise BlendbenchError(f"arms: the run has no {arm!r}; it has {', '.join(there)}")
    if not chosen or len(chosen) > _MOST:
        raise BlendbenchError(f"arms: {len(chosen)} to be rated; choose 1 to {_MOST} of {', '.join(there)}")
    return {arm: there[arm] for arm in chosen}


def _hidden(settings: Settings, subject: Subject) -> dict[str, str]:
    """Labels of what is rated beside the arms; raises BlendbenchError if the task has no such part."""
    asked = {"hidden_reference": settings.hidden_reference, "open_reference": settings.open_reference,
             "anchor.part": settings.anchor and settings.anchor.part}  # fmt: skip
    for key, part in asked.items():
        if part is not None and part not in subject.parts:
            has = f"it has {', '.join(subject.parts)}" if subject.parts else "it has none"
            raise BlendbenchError(f"{key}: the task's sounds have no part {part!r}; {has}")
    found = {}
    if settings.hidden_reference is not None:
        found[HIDDEN_REFERENCE] = "Hidden reference"
    if settings.anchor is not None:
        found[ANCHOR] = f"Anchor ({settings.anchor.lowpass_hz / 1000:g} kHz)"
    return found


def _check_conditions(
    settings: Settings, run: Run, subject: Subject, arms: Mapping[str, str], hidden: Mapping[str, str]
) -> None:
    """Raise BlendbenchError where a page would have two clips of one name, too many, or another number than others."""
    for name in hidden:
        if name in run.arms:
            raise BlendbenchError(f"{name}: an arm of the run is called so; give that arm another name")
    if len(arms) + len(hidden) > _MOST:
        raise BlendbenchError(f"arms: {len(arms) + len(hidden)} clips a page; choose at most {_MOST}")
    if settings.catch_trials and subject.catch:
        _, low, high = subject.catch
        if len(arms) < 2 or {low, high} & {*arms, *hidden}:
            raise BlendbenchError(
                f"catch_trials: need two arms, none of them called {low} or {high}; use catch_trials=0"
            )


def _complete_pairs(run: Run, settings: Settings, presentation: str, arms: Mapping[str, str]) -> list[dict[str, dict]]:
    """Rows by arm of the items that have a mix in every arm."""
    datasets = settings.dataset
    wanted = None if datasets is None else {datasets} if isinstance(datasets, str) else set(datasets)
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for row in run.rows():
        good = row["status"] == "ok" and row["presentation"] == presentation and row["arm"] in arms
        if good and (wanted is None or row["dataset"] in wanted):
            found.setdefault((row["dataset"], row["pair_id"]), {})[row["arm"]] = row
    whole = [by_arm for by_arm in found.values() if len(by_arm) == len(arms)]
    if not whole:
        raise BlendbenchError(
            f"{run.dir}: no item has mixes of {', '.join(arms)} under {presentation}; run the experiment first"
        )
    return whole


def _balanced(rows: Iterable[dict[str, dict]], fields: Sequence[str], seed: int) -> Iterator[dict[str, dict]]:
    """All items, so ordered that any first so many of them hold the values of each field evenly.

    The next is one whose values have come least often. Where every combination of values has items left, counts differ
    by one at most; where some run out, they may differ by two more than they must.
    """

    def facts(by_arm: dict[str, dict]) -> tuple[str, ...]:
        return tuple(str(next(iter(by_arm.values())).get(field)) for field in fields)

    strata: dict[tuple[str, ...], list[dict[str, dict]]] = {}
    for by_arm in shuffled(rows, seed, lambda by_arm: next(iter(by_arm.values()))["pair_id"]):
        strata.setdefault(facts(by_arm), []).append(by_arm)
    order = shuffled(strata, seed, str)
    left = np.array([len(strata[values]) for values in order])
    codes = [np.unique(values, return_inverse=True)[1] for values in zip(*order, strict=True)]
    counts = [np.zeros(len(order), int) for _ in fields]
    while left.any():
        taken = sum((count[code] for count, code in zip(counts, codes, strict=True)), np.zeros(len(order), int))
        place = int(np.where(left > 0, taken, np.iinfo(int).max).argmin())
        yield strata[order[place]].pop(0)
        left[place] -= 1
        for count, code in zip(counts, codes, strict=True):
            count[code[place]] += 1
