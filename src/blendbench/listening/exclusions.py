"""Who counts: facts of every listener, and the study's rules of exclusion.

A rule leaves out nobody of whom it does not know what it asks for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.listening.study import MUSIC, NOISE, Study


class Listener(NamedTuple):
    """What the rules of exclusion look at; nan or None where it is not known."""

    number: int
    rated: int
    assigned: int
    failed: int
    trials: int
    headphones: bool | None
    same_share: float
    median_s: float


def listeners(study: Study, rows: pd.DataFrame, headphones: Mapping[int, bool]) -> list[Listener]:
    """Facts of all who have rated something or were tested, by number; raises BlendbenchError if nobody has.

    Ratings are rows with columns listener, sample, kind, arm, scale, value and page_s; headphones say who, by number,
    has passed the check.
    """
    assigned = sum(page.sample.kind != "practice" for page in study.pages(0))
    told = rows[rows["kind"] != "practice"]
    numbers = sorted({*rows["listener"], *headphones})
    if not numbers:
        raise BlendbenchError(f"{study.folder}: nobody has rated anything yet; analyse it once listeners have")
    of_listener = dict(iter(told.groupby("listener")))
    found = []
    for number in numbers:
        own = of_listener.get(number, told.iloc[:0])
        shares = [group.value_counts(normalize=True).max() for _, group in own.groupby("scale")["value"]]
        pages = own.groupby("sample")["page_s"].first()
        trials = _catch_trials(own)
        share, median = max(shares, default=math.nan), float(pages.median())
        known = headphones.get(number)
        failed = sum(not passed for passed in trials)
        found.append(Listener(number, len(pages), assigned, failed, len(trials), known, share, median))
    return found


def _catch_trials(own: pd.DataFrame) -> list[bool]:
    """Whether each catch trial was passed: the noise alone was rated noisier than the music alone."""
    asked = own[(own["kind"] == "catch") & (own["scale"] == "per") & own["arm"].isin([NOISE, MUSIC])]
    both = asked.pivot(index="sample", columns="arm", values="value").reindex(columns=[NOISE, MUSIC]).dropna()
    return list(both[NOISE] < both[MUSIC])


def _left_early(one: Listener, limit: float) -> str:
    return f"rated {one.rated} of {one.assigned} pages" if one.rated < limit * one.assigned else ""


def _failed_catches(one: Listener, limit: float) -> str:
    return f"failed {one.failed} of {one.trials} catch trials" if one.failed > limit else ""


def _same_answers(one: Listener, limit: float) -> str:
    return f"gave one answer to {one.same_share:.0%} of a scale" if one.same_share > limit else ""


def _hasty(one: Listener, limit: float) -> str:
    return f"took {one.median_s:.1f} s for a page (median)" if one.median_s < limit else ""


def _without_headphones(one: Listener, _: bool) -> str:
    return "failed the headphone check" if one.headphones is False else ""


RULES: dict[str, tuple[Callable[[Listener, Any], str], str]] = {
    "finished_share": (_left_early, "rated less than {0:.0%} of the pages"),
    "catch_failures": (_failed_catches, "failed more than {0} catch trials"),
    "same_answer_share": (_same_answers, "gave one and the same answer to more than {0:.0%} of a scale's questions"),
    "fastest_page_s": (_hasty, "needed less than {0:g} s for half of the pages"),
    "headphones": (_without_headphones, "failed the headphone check"),
}
"""By key of `exclusions`: why it leaves a listener out ("" if not), and what it says."""


def is_on(limit: Any) -> bool:
    """Whether a rule with this limit is in force."""
    return limit is not None and limit is not False


def reasons(one: Listener, limits: Mapping[str, Any]) -> list[str]:
    """Why a listener is left out; empty if not."""
    if not one.rated:
        return ["rated no page"]
    found = {key: rule(one, limits[key]) for key, (rule, _) in RULES.items() if is_on(limits[key])}
    return [f"{key}: {reason}" for key, reason in found.items() if reason]


def table(listeners: Sequence[Listener], reasons: Mapping[int, list[str]]) -> pd.DataFrame:
    """A row a listener: the facts, and why it is left out (by number; empty where not)."""
    known = {True: "passed", False: "failed", None: ""}
    columns = [
        "listener", "pages_rated", "pages_assigned", "catch_failed", "catch_trials", "headphones", "same_answer_share",
        "median_page_s", "excluded",
    ]  # fmt: skip
    lines = [[*one[:5], known[one.headphones], *one[6:], "; ".join(reasons[one.number])] for one in listeners]
    return pd.DataFrame(lines, columns=columns)


def notes(study: Study, listeners: Sequence[Listener]) -> list[str]:
    """Rules that say nothing of some listeners, as what they look at is not known."""
    limits, notes = study.settings["exclusions"], list[str]()
    listeners = [one for one in listeners if one.rated]
    if is_on(limits["catch_failures"]):
        if "per" not in study.scales:
            notes.append("Rule catch_failures: the study has no scale `per`, so no catch trial can be judged.")
        elif not any(one.trials for one in listeners):
            notes.append("Rule catch_failures: nobody has rated a catch trial, so it leaves nobody out.")
    for key, unknown, what in (
        ("fastest_page_s", sum(math.isnan(one.median_s) for one in listeners), "how long a page took"),
        ("headphones", sum(one.headphones is None for one in listeners), "the headphone check's outcome"),
    ):
        if is_on(limits[key]) and unknown:
            notes.append(f"Rule {key}: {what} is not known of {unknown} of {len(listeners)} listeners; it spares them.")
    return notes
