"""Who counts: facts of every listener, and the study's rules of exclusion.

A rule leaves out nobody of whom it does not know what it asks for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.listening.settings import ReferenceBelow
from blendbench.listening.study import HIDDEN_REFERENCE, Study


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
    reference_low: float
    """Share of the ratings of the hidden reference that are too low"""
    retest: float
    """Mean absolute difference of the two ratings of what came twice"""


def listeners(study: Study, rows: pd.DataFrame, headphones: Mapping[int, bool]) -> list[Listener]:
    """Facts of all who have rated something or were tested, by number; raises BlendbenchError if nobody has.

    Ratings are rows with columns listener, sample, kind, arm, scale, value and page_s; headphones say who, by number,
    has passed the check.
    """
    assigned = sum(page.kind not in ("practice", "repeat") for page in study.pages(0))
    told = rows[rows["kind"] != "practice"]
    numbers = sorted({*rows["listener"], *headphones})
    if not numbers:
        raise BlendbenchError(f"{study.folder}: nobody has rated anything yet; analyse it once listeners have")
    of_listener = dict(iter(told.groupby("listener")))
    found = []
    for number in numbers:
        own = of_listener.get(number, told.iloc[:0])
        shares = [group.value_counts(normalize=True).max() for _, group in own.groupby("scale")["value"]]
        pages = own.groupby(["sample", "kind"])["page_s"].first()
        rated = own.loc[own["kind"] != "repeat", "sample"].nunique()
        trials = _catch_trials(study, own)
        share, median = max(shares, default=math.nan), float(pages.median())
        known = headphones.get(number)
        failed = sum(not passed for passed in trials)
        beside = _reference_low(study, own), _retest(own)
        found.append(Listener(number, rated, assigned, failed, len(trials), known, share, median, *beside))
    return found


def _catch_trials(study: Study, own: pd.DataFrame) -> list[bool]:
    """Whether each catch trial was passed: the low part was rated below the high part."""
    if study.subject.catch is None:
        return []
    scale, low, high = study.subject.catch
    asked = own[(own["kind"] == "catch") & (own["scale"] == scale) & own["arm"].isin([low, high])]
    both = asked.pivot(index="sample", columns="arm", values="value").reindex(columns=[low, high]).dropna()
    return list(both[low] < both[high])


def _reference_low(study: Study, own: pd.DataFrame) -> float:
    """Share of a listener's ratings of the hidden reference that lie below the limit, from each scale's worse end."""
    limit = study.settings.exclusions.reference_below
    rated = own[own["arm"] == HIDDEN_REFERENCE]
    if limit is None or rated.empty:
        return math.nan
    share = rated["value"].map(study.settings.range.share)
    down = rated["scale"].map({name: facts.better < 0 for name, facts in study.scale_facts.items()})
    return float((share.where(~down, 1 - share) < limit.value - 1e-9).mean())


def _retest(own: pd.DataFrame) -> float:
    """Mean absolute difference of a listener's two ratings of what came twice."""
    key = ["sample", "arm", "scale"]
    again = own[own["kind"] == "repeat"].merge(own[own["kind"] == "sample"], on=key, suffixes=("", "_first"))
    return float((again["value"] - again["value_first"]).abs().mean())


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


def _missed_reference(one: Listener, limit: ReferenceBelow) -> str:
    rated = f"rated the hidden reference below {limit.value:.0%} of the range {one.reference_low:.0%} of the time"
    return rated if one.reference_low > limit.share else ""


def _unsteady(one: Listener, limit: float) -> str:
    return f"differed by {one.retest:.3g} on average the second time" if one.retest > limit else ""


RULES: dict[str, tuple[Callable[[Listener, Any], str], str]] = {
    "finished_share": (_left_early, "rated less than {0:.0%} of the pages"),
    "catch_failures": (_failed_catches, "failed more than {0} catch trials"),
    "same_answer_share": (_same_answers, "gave one and the same answer to more than {0:.0%} of a scale's questions"),
    "fastest_page_s": (_hasty, "needed less than {0:g} s for half of the pages"),
    "headphones": (_without_headphones, "failed the headphone check"),
    "reference_below": (
        _missed_reference,
        "rated the hidden reference below {0.value:.0%} of the range more than {0.share:.0%} of the time",
    ),
    "retest_difference": (_unsteady, "gave the second time ratings that differ by more than {0:g} on average"),
}
"""By key of `exclusions`: why it leaves a listener out ("" if not), and what it says."""


def limits(study: Study) -> dict[str, Any]:
    """Limits by key of the rules that apply to a study, those that are switched off among them."""
    there = {
        "catch_failures": study.subject.catch is not None,
        "reference_below": HIDDEN_REFERENCE in study.hidden,
        "retest_difference": study.settings.repeats > 0,
    }
    return {key: getattr(study.settings.exclusions, key) for key in RULES if there.get(key, True)}


def is_on(limit: Any) -> bool:
    """Whether a rule with this limit is in force."""
    return limit is not None and limit is not False


def reasons(one: Listener, limits: Mapping[str, Any]) -> list[str]:
    """Why a listener is left out; empty if not."""
    if not one.rated:
        return ["rated no page"]
    found = {key: RULES[key][0](one, limit) for key, limit in limits.items() if is_on(limit)}
    return [f"{key}: {reason}" for key, reason in found.items() if reason]


def table(study: Study, listeners: Sequence[Listener], reasons: Mapping[int, list[str]]) -> pd.DataFrame:
    """A row a listener: the facts, and why it is left out (by number; empty where not)."""
    known = {True: "passed", False: "failed", None: ""}
    columns = {
        "listener": [one.number for one in listeners],
        "pages_rated": [one.rated for one in listeners],
        "pages_assigned": [one.assigned for one in listeners],
        "catch_failed": [one.failed for one in listeners],
        "catch_trials": [one.trials for one in listeners],
        "headphones": [known[one.headphones] for one in listeners],
        "same_answer_share": [one.same_share for one in listeners],
        "median_page_s": [one.median_s for one in listeners],
    }
    rules = limits(study)
    if "reference_below" in rules:
        columns["reference_below"] = [one.reference_low for one in listeners]
    if "retest_difference" in rules:
        columns["retest_difference"] = [one.retest for one in listeners]
    return pd.DataFrame(columns | {"excluded": ["; ".join(reasons[one.number]) for one in listeners]})


def notes(study: Study, listeners: Sequence[Listener]) -> list[str]:
    """Rules that say nothing of some listeners, as what they look at is not known."""
    rules, notes = limits(study), list[str]()
    listeners = [one for one in listeners if one.rated]
    if study.subject.catch is not None and is_on(rules["catch_failures"]):
        if study.subject.catch[0] not in study.scales:
            notes.append(
                f"Rule catch_failures: the study has no scale `{study.subject.catch[0]}`, so no catch trial can be "
                "judged."
            )
        elif not any(one.trials for one in listeners):
            notes.append("Rule catch_failures: nobody has rated a catch trial, so it leaves nobody out.")
    for key, unknown, what in (
        ("fastest_page_s", sum(math.isnan(one.median_s) for one in listeners), "how long a page took"),
        ("headphones", sum(one.headphones is None for one in listeners), "the headphone check's outcome"),
        ("reference_below", sum(math.isnan(one.reference_low) for one in listeners), "a rating of the reference"),
        ("retest_difference", sum(math.isnan(one.retest) for one in listeners), "a second rating"),
    ):
        if is_on(rules.get(key)) and unknown:
            notes.append(f"Rule {key}: {what} is not known of {unknown} of {len(listeners)} listeners; it spares them.")
    return notes
