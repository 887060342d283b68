"""The paper's table from tidy results: as text cells, Markdown, LaTeX and CSV, with the paper's figures beside ours.

The best value of a column, by the metric's direction, is bold. Where our numbers may stand beside the paper's, their
difference stands there, too; where they may not (other models, other data), the agreement of the orderings is told.
"""

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from blendbench.datasets.builtin import package_folder
from blendbench.metrics import audibility
from blendbench.metrics.comparison import Agreement, agreement
from blendbench.texts import csv_text, for_spreadsheet, from_spreadsheet, latex, latex_file, markdown, short


class Metric(NamedTuple):
    """How a metric is shown: its heading, its unit, and which way is better (None where neither is)."""

    label: str
    unit: str = ""
    higher_is_better: bool | None = False


METRICS: dict[str, Metric] = {
    "fad": Metric("FAD"),
    "fad_inf": Metric("FAD∞"),
    "kl": Metric("KL", "nat"),
    "clap": Metric("CLAP", higher_is_better=True),
    "ovl": Metric("OVL", "1-5", higher_is_better=True),
    "per": Metric("PER", "1-5", higher_is_better=True),
    **{name: Metric(one.label, one.unit, one.higher_is_better) for name, one in audibility.METRICS.items()},
}
"""Metrics by name; `fad@N` is shown as `fad`."""


def metric(name: str) -> Metric:
    """How a metric is shown; one that is not known by its own name, with no direction."""
    base = name.partition("@")[0]
    found = METRICS.get(base)
    if found is None:
        return Metric(name, higher_is_better=None)
    return found._replace(label=found.label + name[len(base) :])


def metrics_shown(results: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Metrics that a table has: the experiment's, and before them what listeners have rated."""
    own, there = settings["experiment"]["metrics"], set(results["metric"])
    rated = [name for name, one in METRICS.items() if one.unit == "1-5" and name in there and name not in own]
    return rated + list(own)


def paper_figures(experiment: Mapping[str, Any]) -> pd.DataFrame:
    """The paper's figures of an experiment: columns dataset, arm, presentation, metric, value; empty if it has none."""
    if not experiment.get("paper_csv"):
        return pd.DataFrame(columns=["dataset", "arm", "presentation", "metric", "value"])
    return pd.read_csv(package_folder("blendbench.conf") / "experiment" / experiment["paper_csv"])


def labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """Labels by arm of the arms that a run has, in the table's order: those of `experiment.rows`, then the others.

    An arm that is left out (`arms.NAME=null`) is not among them; one without a row is called by its own name.
    """
    rows, arms = settings["experiment"].get("rows") or {}, settings["arms"]
    return _told_apart({arm: str(rows.get(arm) or arm) for arm in [*rows, *arms] if arms.get(arm) is not None})


def with_music(settings: Mapping[str, Any]) -> list[str]:
    """Arms of a run that make music, in the table's order."""
    return [arm for arm in labels(settings) if "noise_only" not in str(settings["arms"][arm].get("_target_"))]


def presentation_labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """Labels by presentation of a run, in its order."""
    return _told_apart({name: str(entry["label"]) for name, entry in settings["presentations"].items()})


def _told_apart(found: dict[str, str]) -> dict[str, str]:
    """Labels by name; those that several share with the name after them."""
    times = Counter(found.values())
    return {name: label if times[label] == 1 else f"{label} ({name})" for name, label in found.items()}


def _rows(settings: Mapping[str, Any]) -> dict[str, str]:
    """Labels by arm of the table's rows: what the run has, and what it lacks but the paper has figures of."""
    own, theirs = labels(settings), _theirs(settings)
    beside = {(block.shown, block.presentation) for block in _blocks(settings)}
    published = {arm for (dataset, arm, shown, _), value in theirs.items()
                 if (dataset, shown) in beside and not math.isnan(value)}  # fmt: skip
    rows = settings["experiment"].get("rows") or {}
    return {arm: own.get(arm) or str(rows[arm] or arm) for arm in [*rows, *own] if arm in own or arm in published}


class _Block(NamedTuple):
    """Columns of one presentation and data set."""

    heading: str
    presentation: str
    dataset: str
    shown: str | None
    """The paper's data set beside it."""


def _blocks(settings: Mapping[str, Any]) -> list[_Block]:
    blocks = []
    for presentation, label in presentation_labels(settings).items():
        for dataset in settings["dataset"]:
            heading = label + (f", {dataset}" if len(settings["dataset"]) > 1 else "")
            shown = (settings["experiment"].get("paper_dataset") or {}).get(dataset)
            blocks.append(_Block(heading, presentation, dataset, shown))
    return blocks


def _ours(results: pd.DataFrame) -> dict[tuple[str, str, str, str], Any]:
    columns = ["dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "n_failed"]
    return {tuple(row[:4]): row for row in results[columns].itertuples(index=False)}


def _theirs(settings: Mapping[str, Any]) -> dict[tuple[str, str, str, str], float]:
    figures = paper_figures(settings["experiment"])
    keys = figures[["dataset", "arm", "presentation", "metric"]].astype(str).itertuples(index=False, name=None)
    return dict(zip(keys, figures["value"].astype(float), strict=True))


def layout(results: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The paper's table: a row an arm; by presentation, data set and metric ours [interval], and the paper's."""
    names, beside = metrics_shown(results, settings), comparable(settings)
    ours, theirs = _ours(results), _theirs(settings)
    lines = []
    for arm, label in _rows(settings).items():
        line = {"Method": label}
        for block in _blocks(settings):
            for name in names:
                found = ours.get((block.dataset, arm, block.presentation, name))
                line[f"{block.heading}: {metric(name).label}"] = (
                    cell(found._asdict()) if found is not None else "not run"
                )
            if block.shown is None or not theirs:
                continue
            figures = [theirs.get((block.shown, arm, block.presentation, name), math.nan) for name in names]
            title = "/".join(metric(name).label for name in names)
            line[f"{block.heading}: paper's {title} ({block.shown})"] = " / ".join(map(_plain, figures))
            if beside:
                own = [ours.get((block.dataset, arm, block.presentation, name)) for name in names]
                values = [math.nan if row is None else row.value for row in own]
                differences = [a - b for a, b in zip(values, figures, strict=True)]
                line[f"{block.heading}: difference"] = " / ".join(_plain(d, "+.2f") for d in differences)
        lines.append(line)
    return pd.DataFrame(lines)


def _plain(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def cell(row: Mapping[str, Any]) -> str:
    """A result, with `value`, `ci_low`, `ci_high` and `n_failed`, as text; a dash where it is not defined."""
    if math.isnan(row["value"]):
        return "failed" if row["n_failed"] else "–"
    text = f"{row['value']:.3g}"
    return text if math.isnan(row["ci_low"]) else f"{text} [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"


def best(results: pd.DataFrame, settings: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(row label, column) of the best values, where at least two arms have one and the metric has a direction."""
    ours, rows, found = _ours(results), _rows(settings), set()
    for block in _blocks(settings):
        for name in metrics_shown(results, settings):
            facts = metric(name)
            values = {
                label: row.value
                for arm, label in rows.items()
                if (row := ours.get((block.dataset, arm, block.presentation, name))) is not None
                and not math.isnan(row.value)
            }
            if facts.higher_is_better is None or len(values) < 2:
                continue
            top = max(values.values()) if facts.higher_is_better else min(values.values())
            found |= {(label, f"{block.heading}: {facts.label}") for label, value in values.items() if value == top}
    return found


def agreements(results: pd.DataFrame, settings: Mapping[str, Any]) -> dict[tuple[str, str, str], Agreement]:
    """Agreement of our arms' ordering with the paper's, by data set, presentation and metric."""
    ours, theirs, found = _ours(results), _theirs(settings), {}
    for block in _blocks(settings):
        for name in metrics_shown(results, settings):
            if block.shown is None:
                continue
            keys = dict.fromkeys(_rows(settings), (block.presentation, name))
            mine = {arm: ours[key].value for arm, rest in keys.items() if (key := (block.dataset, arm, *rest)) in ours}
            paper = {arm: theirs[key] for arm, rest in keys.items() if (key := (block.shown, arm, *rest)) in theirs}
            one = agreement(mine, paper, bool(metric(name).higher_is_better))
            if one.n >= 2:
                found[block.dataset, block.presentation, name] = one
    return found


def notes(results: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table: whose numbers, how many took part, the recipe, what was not run."""
    experiment = settings["experiment"]
    names = metrics_shown(results, settings)
    lower = [metric(name).label for name in names if metric(name).higher_is_better is False]
    higher = [metric(name).label for name in names if metric(name).higher_is_better]
    directions = [f"Lower is better for {' and '.join(lower)}."] if lower else []
    directions += [f"Higher is better for {' and '.join(higher)}."] if higher else []
    share = f"{100 * settings['statistics']['confidence']:g}"
    told = [f"{' '.join(directions)} Ours: value [{share} % interval]; the best in bold.".strip()]
    if experiment.get("paper_csv") and not comparable(settings):
        told.append(
            "The columns named “paper's” hold the published figures of other models (published checkpoints, other "
            "evaluators and data); compare orderings with them, never values."
        )
        told += [_agreement_note(key, one, settings) for key, one in agreements(results, settings).items()]
    ran = results[results["metric"] == experiment["metrics"][0]]
    per_cell = "; ".join(
        f"{dataset}, {arm}: {int(group['n'].min())} of {int((group['n'] + group['n_failed']).max())}"
        for (dataset, arm), group in ran.groupby(["dataset", "arm"], sort=False)
    )
    told.append(f"Pairs that took part: {per_cell}.")
    for arm, label in _rows(settings).items():
        if arm not in set(results["arm"]):
            alone = " (its figures are the paper's alone)" if experiment.get("paper_csv") else ""
            told.append(f"{label}: not run; this experiment has no arm {arm!r}{alone}.")
    for name in names:
        recipes = results[results["metric"] == name]["recipe"]
        if len(recipes):
            told.append(f"{metric(name).label}: {recipes.iloc[0]}.")
    return told


def _agreement_note(key: tuple[str, str, str], one: Agreement, settings: Mapping[str, Any]) -> str:
    dataset, presentation, name = key
    rows = _rows(settings)
    flips = "; ".join(f"{rows[a]} and {rows[b]}" for a, b in one.flips)
    text = (
        f"Ordering of {one.n} methods by {metric(name).label}, {presentation_labels(settings)[presentation]}, "
        f"{dataset}: Kendall's tau with the paper's {one.tau:.2f}"
    )
    return text + (f"; the other way round: {flips}." if flips else "; no two the other way round.")


def comparable(settings: Mapping[str, Any]) -> bool:
    """Whether the numbers may stand beside published ones: no built-in model or data, and the paper's evaluators."""
    chosen = [entry for entry in (settings["evaluator"] or {}).values() if entry is not None]
    built_in = (settings["generator"] or {}).get("checkpoint") == "pocket" or "builtin" in settings["dataset"]
    return not built_in and all(entry.get("comparable", False) for entry in chosen)


def to_csv(table: pd.DataFrame) -> str:
    """A data frame of texts as CSV for a spreadsheet; `read_csv` gives it back."""
    cells = [[for_spreadsheet(cell) for cell in row] for row in table.values.tolist()]
    return csv_text(pd.DataFrame(cells, columns=[for_spreadsheet(column) for column in table.columns]))


def read_csv(file: Path) -> pd.DataFrame:
    """What `to_csv` wrote, all text; raises OSError, csv.Error or ValueError if it cannot be read."""
    with file.open(newline="", encoding="utf-8") as lines:
        columns, *rows = [[from_spreadsheet(cell) for cell in row] for row in csv.reader(lines)]
    return pd.DataFrame(rows, columns=columns, dtype=str)


def to_markdown(table: pd.DataFrame, bold: Set[tuple[str, str]] = frozenset()) -> str:
    """A data frame of texts as an aligned Markdown table; `bold` holds (first cell of the row, column)."""

    def text(row: list[Any], column: str, cell: Any) -> str:
        written = markdown(cell, cell=True)
        return f"**{written}**" if (row[0], column) in bold else written

    columns = [str(column) for column in table.columns]
    body = [
        [text(row, column, cell) for column, cell in zip(columns, row, strict=True)] for row in table.values.tolist()
    ]
    cells = [[markdown(column, cell=True) for column in columns], *body]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def headings(table: pd.DataFrame) -> tuple[list[tuple[str, int]], list[str]]:
    """Of columns named "GROUP: NAME": the groups with their numbers of columns, and the names."""
    pairs = [str(column).rpartition(": ")[::2] for column in table.columns]
    groups = [(group, len(list(columns))) for group, columns in itertools.groupby(pairs, key=lambda pair: pair[0])]
    return groups, [name for _, name in pairs]


_INTERVAL = re.compile(r" (?=\[[-+\d.einfa]+, [-+\d.einfa]+\])")


def parts(cell: Any) -> tuple[str, str]:
    """A cell's value, and its interval in brackets ("" if it has none)."""
    value, *interval = _INTERVAL.split(str(cell), maxsplit=1)
    return value, "".join(interval)


def to_latex(table: pd.DataFrame, caption: str, label: str, bold: Set[tuple[str, str]] = frozenset()) -> str:
    """A data frame of texts as a LaTeX table for the package booktabs.

    Columns named "GROUP: NAME" stand under a common heading GROUP. Intervals are set small.
    """
    groups, heads = headings(table)
    spans, rules, at = [], [], 1
    for group, width in groups:
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}" if group else "&" * (width - 1))
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    lines = [
        r"\begin{table}",
        _caption(caption),
        rf"\label{{{re.sub(r'[^A-Za-z0-9_.:-]+', '-', label)}}}",
        rf"\begin{{tabular}}{{{'l' * len(heads)}}}",
        r"\toprule",
    ]
    if len(groups) > 1 or groups[0][0]:
        lines += [_line(spans), " ".join(rules)]
    lines += [_line(map(latex, heads)), r"\midrule"]
    for row in table.values.tolist():
        cells = []
        for column, cell in zip(table.columns, row, strict=True):
            value, interval = parts(cell)
            text = latex(value)
            text = rf"\textbf{{{text}}}" if (row[0], column) in bold else text
            cells.append(text + (rf" {{\footnotesize {latex(interval)}}}" if interval else ""))
        lines.append(_line(cells))
    return latex_file([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _caption(text: str) -> str:
    if len(text) < _LONG:
        return rf"\caption{{{latex(text)}}}"
    # LaTeX first sets a caption in one line, and TeX knows no line of more than 5.7 m.
    return rf"\caption[{{{latex(short(text))}}}]{{\parbox[t]{{0.85\linewidth}}{{{latex(text)}}}}}"


_LONG = 2000


def _line(cells: Iterable[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # After the line before, these would be an option of its end or of a rule.
    return "{}" + line if line.lstrip().startswith(("[", "*")) else line
