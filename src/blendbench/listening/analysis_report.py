"""What a study has found, for people: `analysis.md`, and the figures in it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from blendbench.listening import exclusions, findings, predictors, statistics
from blendbench.listening.analysis_figures import (
    Paper,
    draw_boxes,
    draw_predictors,
    draw_ratings,
    published,
    score_label,
)
from blendbench.listening.study import SETTINGS, Study
from blendbench.reports import tables
from blendbench.runs.folder import Run
from blendbench.store.write import write_text
from blendbench.texts import heading, markdown, shown

_MOST_COLUMNS = 12
"""Samples that have a column of their own."""


def write(
    study: Study,
    listeners: Sequence[exclusions.Listener],
    reasons: Mapping[int, list[str]],
    found: findings.Findings,
    folder: Path,
) -> Path:
    """Draw the figures `ratings` and `predictors`, and write `analysis.md`, which is returned.

    Parameters
    ----------
    study : Study
    listeners : sequence of Listener
    reasons : mapping of int to list of str
        Why each listener, by number, is left out; empty where not.
    found : Findings
    folder : Path

    Raises
    ------
    BlendbenchError
        If a file cannot be written, or the run's settings cannot be read.
    """
    run = study.run
    paper = published(study, run)
    draw_ratings(study, found.answers, found.summary, paper, folder)
    best = draw_predictors(study, found.pairs, found.scores, found.correlations, folder)
    boxes = draw_boxes(study, found.answers, folder)
    parts = [
        _told_listeners(study, listeners, reasons),
        _told_ratings(study, found.summary, paper),
        _told_comparisons(study, found.comparisons, found.tests),
        _told_wilcoxon(study, found.wilcoxon, boxes),
        _told_agreement(study, found.agreement),
        _told_predictors(study, found.correlations, best),
        _told_notes(found.notes),
    ]
    head = f"# {heading('What listeners said: ' + study.settings.title)}\n\n{markdown(_head(study, run))}\n"
    write_text(folder / "analysis.md", "\n".join([head, *(part for part in parts if part)]))
    return folder / "analysis.md"


def _head(study: Study, run: Run) -> str:
    asked, count = " and ".join(words.label for words in study.scales.values()), len(study.of_kind("sample"))
    return (
        f"{run.experiment.title}, presentation {study.presentation}: {count} samples, each "
        f"by {', '.join(study.conditions.values())}. Rated {study.settings.range}: {asked}; {findings.playback(study)}."
    )


def _told_listeners(study: Study, listeners: Sequence[exclusions.Listener], reasons: Mapping[int, list[str]]) -> str:
    out = {number: "; ".join(found) for number, found in reasons.items() if found}
    text = f"## Listeners\n\n{len(listeners)} took part: {len(listeners) - len(out)} count, {len(out)} are left out.\n"
    if out:
        text += (
            f"\n{tables.to_markdown(tables.of_frame(pd.DataFrame(out.items(), columns=['Listener', 'Left out by'])))}\n"
        )
    text += f"\nRules (`exclusions` in {SETTINGS}); one that does not know what it asks for leaves nobody out:\n\n"
    for key, limit in exclusions.limits(study).items():
        meaning = exclusions.RULES[key][1]
        text += f"- {key}: {meaning.format(limit) if exclusions.is_on(limit) else 'switched off'}\n"
    return text


def _number(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _bracket(row: Mapping[Any, Any], form: str = ".2f") -> str:
    """The interval of a row, after its value; nothing where there is none."""
    return "" if math.isnan(row["ci_low"]) else f" [{row['ci_low']:{form}}, {row['ci_high']:{form}}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _by(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Parts of a table by the values of a column, in their order."""
    return [(str(value), part) for value, part in table.groupby(column, sort=False)]


def _heading(dataset: str, table: pd.DataFrame) -> str:
    """A heading for a data set where there are several."""
    return f"### {heading(dataset)}\n\n" if table["dataset"].nunique() > 1 else ""


def _told_ratings(study: Study, summary: pd.DataFrame, paper: Mapping[tuple[str, str, str], Paper]) -> str:
    text = "## Ratings\n\n"
    for dataset, part in _by(summary, "dataset"):
        lines, bold = [], set()
        best = _best(study, part)
        theirs = {scale: [key for key in paper if key[::2] == (dataset, scale)] for scale in study.scales}
        for arm, label in study.conditions.items():
            line = {"Method": label}
            for row in part[part["arm"] == arm].to_dict("records"):
                column = f"{study.fact(row['metric']).label}: mean ± sd [95 % interval]"
                line[column] = f"{_number(row['value'])} ± {_number(row['sd'])}{_bracket(row)}"
                if arm in study.arms and row["value"] == best.get(row["metric"]):
                    bold.add((label, column))
            for scale in study.scales:
                one = paper.get((dataset, arm, scale), Paper(math.nan, math.nan))
                if theirs[scale]:
                    spread = "" if math.isnan(one.sd) else f" ± {one.sd:.2f}"
                    line[f"{study.fact(scale).label}: the paper's"] = _number(one.value) + spread
            lines.append(line)
        recipe = part["recipe"].iloc[0]
        text += f"{_heading(dataset, summary)}{tables.to_markdown(tables.of_frame(pd.DataFrame(lines), bold))}\n\n"
        text += f"{recipe[0].upper()}{recipe[1:]}.\n\n"
    text += "sd is over all ratings; `summary.csv` also has those of listeners' means and of samples' means.\n"
    if paper:
        text += (
            "\nThe paper's figures are of other models, sounds and listeners, and it does not tell over what its "
            "standard deviations are taken: compare orderings with them, never values.\n"
        )
    return f"{text}\n![Ratings](ratings.png)\n"


def _best(study: Study, summary: pd.DataFrame) -> dict[str, float]:
    """The arms' best mean by scale, where there are several arms and a scale has a better end."""
    means = summary[summary["arm"].isin(list(study.arms))].groupby("metric")["value"]
    found = {"higher": means.max(), "lower": means.min()}
    ways = {scale: predictors.better(study, scale) for scale in study.scales}
    return {scale: found[way].get(scale, math.nan) for scale, way in ways.items() if way and len(study.arms) > 1}


def _told_comparisons(study: Study, comparisons: pd.DataFrame, tests: pd.DataFrame) -> str:
    if comparisons.empty:
        return ""
    text = (
        "## Differences of methods\n\nDifferences of means [95 % interval], and two p-values, each after Holm: of a "
        "mixed model in which listeners and samples may differ in how they take a method (Wald's t), and of Wilcoxon's "
        "signed-rank test on listeners' means, which tells nothing of samples that were not heard.\n\n"
    )
    for dataset, part in _by(comparisons, "dataset"):
        text += _heading(dataset, comparisons)
        for scale, group in _by(part, "metric"):
            rows = group.to_dict("records")
            lines = [
                {
                    study.fact(scale).label: f"{study.conditions[row['arm']]} − {study.conditions[row['other']]}",
                    "Difference": _number(row["difference"], "+.2f") + _bracket(row, "+.2f"),
                    "p, model": _p(row["p_holm"]),
                    "p, Wilcoxon": _p(row["p_wilcoxon_holm"]),
                }
                for row in rows
            ]
            text += f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n\n{_told_apart(study, rows)}"
            chosen = tests[(tests["dataset"] == dataset) & (tests["metric"] == scale) & tests["p"].notna()]
            for row in chosen.to_dict("records"):
                p = f"p {'' if row['p'] < 0.001 else '= '}{_p(row['p'])}"
                text += (
                    f" Friedman's test over the means of {row['n_listeners']} listeners: "
                    f"chi-squared({row['df']}) = {row['statistic']:.2f}, {p}."
                )
            text += "\n\n"
    return text.rstrip("\n") + "\n"


def _told_apart(study: Study, rows: Sequence[Mapping[Any, Any]]) -> str:
    """In words, which arms the model tells apart."""
    if all(math.isnan(row["p_holm"]) for row in rows):
        return "The model could not be computed."
    found = []
    for row in rows:
        if row["p_holm"] < statistics.LEVEL:
            above, below = (row["arm"], row["other"])[:: 1 if row["estimate"] > 0 else -1]
            found.append(f"{study.conditions[above]} above {study.conditions[below]}")
    return markdown(f"Told apart by the model: {'; '.join(found)}.") if found else "The model tells no two apart."


def _told_wilcoxon(study: Study, wilcoxon: pd.DataFrame | None, boxes: bool) -> str:
    if wilcoxon is None or wilcoxon.empty:
        return ""
    unit = findings.unit_of(study)
    text = (
        "## Differences by sample\n\nWilcoxon's signed-rank tests of every two, "
        f"{'on listeners, by their means' if unit == 'listener' else 'on single ratings'}: p (after Holm over the "
        f"pairs of a column). Those below {statistics.LEVEL:g} before that are bold. A test on ratings takes those of "
        "one listener for independent.\n\n"
    )
    for dataset, part in _by(wilcoxon, "dataset"):
        text += _heading(dataset, wilcoxon)
        for scale, group in _by(part, "metric"):
            samples = [""] if group["sample"].nunique() > 1 + _MOST_COLUMNS else list(group["sample"].unique())
            lines: dict[str, dict[str, str]] = {}
            bold = set()
            for row in group[group["sample"].isin(samples)].to_dict("records"):
                pair = f"{study.conditions[row['arm']]} − {study.conditions[row['other']]}"
                column = row["sample"] or "All samples"
                line = lines.setdefault(pair, {study.fact(scale).label: pair})
                line[column] = f"{_p(row['p'])} ({_p(row['p_holm'])})"
                if row["p"] < statistics.LEVEL:
                    bold.add((pair, column))
            table = tables.of_frame(pd.DataFrame(lines.values()), bold)
            text += f"{tables.to_markdown(table)}\n\n"
    return text + ("![Ratings by sample](boxes.png)\n" if boxes else "")


def _told_agreement(study: Study, agreement: pd.DataFrame) -> str:
    lines = [
        {
            "Scale": study.fact(row["metric"]).label,
            "Data set": row["dataset"],
            "Krippendorff's alpha": _number(row["alpha"]),
            "ICC(2,1)": _number(row["icc_2_1"]),
            "ICC(2,k)": _number(row["icc_2_k"]),
            "k": _number(row["k"], ".3g"),
            "ICC by": row["icc_method"] or "–",
        }
        for row in agreement.to_dict("records")
    ]
    return (
        "## Agreement of listeners\n\nOver mixes. Alpha (ordinal): 1 for equal answers, 0 for what chance would give. "
        "ICC(2,1): how far one listener's rating can be relied on; ICC(2,k): the mean of k listeners.\n\n"
        f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n"
    )


def _told_predictors(study: Study, correlations: pd.DataFrame, best: Sequence[str]) -> str:
    if correlations.empty:
        return ""
    several = study.subject.units[1]
    text = (
        "## Do objective scores predict listeners?\n\nOver mixes: Spearman's rho [95 % interval over "
        f"{several}]. A score may agree there by nothing but that these few methods differ in both; within methods: "
        f"rho of what is left beside their means, with p by exchanging {several.split()[-1]}. A score that has a "
        "better end agrees or disagrees with "
        "listeners, one that has none rises or falls with a scale; it shows nothing where p is "
        f"{statistics.LEVEL:g} or more after Holm over all scores.\n\n"
    )
    if study.settings.playback.match != "none":
        text += f"Scores are of the mixes as the run made them; listeners heard {findings.playback(study)}.\n\n"
    for dataset, part in _by(correlations, "dataset"):
        text += _heading(dataset, correlations)
        for scale, group in _by(part[part["over"] == "mixes"], "metric"):
            lines = [
                {
                    f"{study.fact(scale).label} and": score_label(study, row["predictor"]),
                    "Better": row["better"] or "–",
                    "Over mixes": _number(row["spearman"]) + _bracket(row),
                    "p": _p(row["p_holm"]),
                    "Reading": row["reading"] or "–",
                    "Within methods": _number(row["spearman_within"]),
                    "p within": _p(row["p_within_holm"]),
                    "Reading within": row["reading_within"] or "–",
                    "Mixes": str(row["n"]),
                }
                for row in group.to_dict("records")
            ]
            text += f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n\n"
        text += _told_arms(study, part[part["over"] == "arms"])
    if best:
        text += f"![{', '.join(study.fact(name).label for name in best)} against ratings](predictors.png)\n"
    return text.rstrip("\n") + "\n"


def _told_arms(study: Study, over_arms: pd.DataFrame) -> str:
    """Kendall's tau over arms, a row a metric of the run."""
    lines = []
    for name, group in _by(over_arms, "predictor"):
        line = {"Over methods, Kendall's tau": score_label(study, name), "Better": group["better"].iloc[0] or "–"}
        for row in group.to_dict("records"):
            line[study.fact(row["metric"]).label] = _number(row["kendall"]) + (
                f", {row['reading']}" if row["reading"] else ""
            )
        lines.append(line | {"Methods": str(group["n"].max())})
    if not lines:
        return ""
    few = "So few methods may be in any order by chance: this is no evidence.\n\n"
    return f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines).fillna('–')))}\n\n" + (
        few if over_arms["n"].min() < predictors.ARMS else ""
    )


def _told_notes(notes: Sequence[str]) -> str:
    return "## Notes\n\n" + "".join(f"- {shown(note)}\n" for note in dict.fromkeys(notes)) if notes else ""
