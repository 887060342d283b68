"""The table of an experiment as data, from tidy results: a layout says what its rows and columns are, four printers how
it looks (Markdown, LaTeX, CSV, and the page's HTML). Nothing is parsed back from text.

The best value of a column, by the metric's direction, is bold. Where our numbers may stand beside the paper's, their
difference stands there, too; where they may not (other models, other data), the agreement of the orderings is told.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from blendbench.metrics.comparison import Agreement, agreement
from blendbench.runs.experiment import AXES
from blendbench.runs.folder import Run
from blendbench.store.write import write_text
from blendbench.texts import csv_text, for_spreadsheet, heading, latex, latex_file, markdown, short


@dataclass(frozen=True)
class Cell:
    """A value as text, its interval ("" for none), and whether it is the best of its column."""

    value: str
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.value} {self.interval}" if self.interval else self.value


@dataclass(frozen=True)
class Column:
    """A column's heading, and that of the group it stands in ("" for none)."""

    group: str
    name: str

    def __str__(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name


@dataclass(frozen=True)
class Table:
    """Columns, and rows of cells."""

    columns: list[Column]
    rows: list[list[Cell]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings of groups with their numbers of columns."""
        grouped = itertools.groupby(self.columns, key=lambda column: column.group)
        return [(group, len(list(columns))) for group, columns in grouped]


Key = tuple[str, str, str, str]
"""Data set, arm, presentation and metric."""
_AXES = ("dataset", "arm", "presentation", "metric")
_FLIPS = 10
"""Pairs of methods that a note names at most."""
_HEADS = {
    "arm": "Method", "dataset": "Data set", "presentation": "Presentation", "metric": "Metric", "pair_id": "Item",
}  # fmt: skip


def number(row: Mapping[str, Any]) -> Cell:
    """A result, with `value`, `ci_low`, `ci_high` and `n_failed`, as text; a dash where it is not defined."""
    if math.isnan(row["value"]):
        return Cell("failed" if row["n_failed"] else "–")
    value = f"{row['value']:.3g}"
    return Cell(value, "" if math.isnan(row["ci_low"]) else f"[{row['ci_low']:.3g}, {row['ci_high']:.3g}]")


def _plain(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


@dataclass
class _Figures:
    """Our results and the paper's figures of a run, by key, and how all axes are called."""

    run: Run
    results: pd.DataFrame
    ours: dict[Key, Any] = field(init=False)
    theirs: dict[Key, float] = field(init=False)

    def __post_init__(self) -> None:
        columns = [*_AXES, "value", "ci_low", "ci_high", "n_failed"]
        self.ours = {tuple(row[:4]): row for row in self.results[columns].itertuples(index=False)}
        figures = self.run.experiment.paper_figures()
        keys = figures[list(_AXES)].astype(str).itertuples(index=False, name=None)
        self.theirs = dict(zip(keys, figures["value"].astype(float), strict=True))

    def paper_set(self, dataset: str) -> str | None:
        """The paper's data set beside one of ours."""
        return (self.run.experiment.paper_dataset or {}).get(dataset)

    def metrics(self) -> list[str]:
        """Metrics that a table has: what listeners have rated, then the experiment's."""
        own, there = self.run.experiment.metrics, set(self.results["metric"])
        return [name for name in self.run.scales if name in there and name not in own] + list(own)

    def arms(self) -> dict[str, str]:
        """Labels of the arms that the run has, and of those that it lacks but the paper has figures of."""
        own, rows = self.run.arms, self.run.experiment.rows or {}
        beside = {(self.paper_set(dataset), shown) for dataset in self.run.datasets for shown in self.run.presentations}
        published = {arm for (dataset, arm, shown, _), value in self.theirs.items()
                     if (dataset, shown) in beside and not math.isnan(value)}  # fmt: skip
        return {arm: own.get(arm) or str(rows[arm] or arm) for arm in [*rows, *own] if arm in own or arm in published}

    def asked(self, metric: str, place: Mapping[str, str]) -> bool:
        """Whether a metric is defined at a place's presentation: not if it has values, but of none of its sounds."""
        values = {key[2]: False for key in self.ours if key[3] == metric}
        for key, found in self.ours.items():
            if key[3] == metric and not math.isnan(found.value):
                values[key[2]] = True
        shown = place.get("presentation")
        return shown is None or values.get(shown, True) or not any(values.values())

    def labels(self, axis: str) -> dict[str, str]:
        """Labels by name of what stands along an axis, in order."""
        if axis == "arm":
            return self.arms()
        if axis == "presentation":
            return self.run.presentations
        if axis == "metric":
            return {name: self.run.fact(name).label for name in self.metrics()}
        if axis == "pair_id":
            return {name: name for name in dict.fromkeys(self._scores["pair_id"])} if len(self._scores) else {}
        return {name: name for name in self.run.datasets}

    @cached_property
    def _scores(self) -> pd.DataFrame:
        return self.run.texts("scores.csv")

    @cached_property
    def scores(self) -> dict[tuple[str, ...], float]:
        """A value by item, arm, presentation and metric, where there is one."""
        found: dict[tuple[str, ...], float] = {}
        for row in self._scores.to_dict("records"):
            for name in self.metrics():
                if row.get(name):
                    found[row["pair_id"], row["arm"], row["presentation"], name] = float(row[name])
        return found


def layout(run: Run, results: pd.DataFrame) -> Table:
    """The experiment's table: by its layout, ours [interval], and the paper's beside each block of metrics."""
    figures, plan = _Figures(run, results), run.experiment.layout
    labels = {axis: figures.labels(axis) for axis in AXES if axis != "pair_id" or plan.rows == axis}
    alone = plan.alone(labels)
    *outer, inner = plan.columns
    columns = [Column("", _HEADS[plan.rows]), *([Column("", "Takes")] if plan.takes else [])]
    lines = {name: [Cell(label)] for name, label in labels[plan.rows].items()}
    if plan.takes:
        for arm, line in lines.items():
            line.append(Cell(_takes(run, arm)))
    for place in itertools.product(*(labels[axis] for axis in outer)):
        block = alone | dict(zip(outer, place, strict=True))
        group = ", ".join(labels[axis][block[axis]] for axis in outer if axis == outer[0] or len(labels[axis]) > 1)
        for name, label in labels[inner].items():
            if inner == "metric" and not figures.asked(name, block):
                continue
            columns.append(Column(group, label))
            cells = {row: _ours(figures, {**block, inner: name, plan.rows: row}) for row in lines}
            for row, cell in _with_best(cells, figures, block | {inner: name}).items():
                lines[row].append(cell)
        if inner == "metric":
            _add_paper(columns, lines, figures, block, group)
    return Table(columns, list(lines.values()))


def _takes(run: Run, arm: str) -> str:
    """What an arm's method is handed of the task's offer."""
    return ", ".join(getattr(run.methods.get(arm), "takes", ())) or "–"


def _key(place: Mapping[str, str]) -> Key:
    return (place["dataset"], place["arm"], place["presentation"], place["metric"])


def _ours(figures: _Figures, place: Mapping[str, str]) -> tuple[Cell, float]:
    if "pair_id" in place:
        value = figures.scores.get(tuple(place[axis] for axis in ("pair_id", "arm", "presentation", "metric")))
        return (Cell("–"), math.nan) if value is None else (Cell(f"{value:.3g}"), value)
    found = figures.ours.get(_key(place))
    return (Cell("not run"), math.nan) if found is None else (number(found._asdict()), found.value)


def _with_best(
    cells: Mapping[str, tuple[Cell, float]], figures: _Figures, column: Mapping[str, str]
) -> dict[str, Cell]:
    """Cells of a column, the best ones marked, where at least two rows have a value and the metric has a direction."""
    inner = figures.run.experiment.layout.columns[-1]
    better = figures.run.fact(column["metric"]).better if "metric" in column and inner == "metric" else 0
    values = [value for _, value in cells.values() if not math.isnan(value)]
    if not better or len(values) < 2:
        return {row: cell for row, (cell, _) in cells.items()}
    top = max(values) if better > 0 else min(values)
    return {row: Cell(cell.value, cell.interval, value == top) for row, (cell, value) in cells.items()}


def _add_paper(
    columns: list[Column], lines: Mapping[str, list[Cell]], figures: _Figures, block: Mapping[str, str], group: str
) -> None:
    """The paper's figures beside a block of metrics and, where ours are comparable, the differences."""
    rows = figures.run.experiment.layout.rows
    names = [name for name in figures.metrics() if figures.run.first_name(name) == name]
    shown = figures.paper_set(block["dataset"]) if "dataset" in block else ""
    if shown is None or not figures.theirs or rows == "pair_id":
        return
    title = "/".join(map(figures.run.plain_label, names))
    columns.append(Column(group, f"paper's {title} ({shown})" if shown else f"paper's {title}"))
    if figures.run.comparable:
        columns.append(Column(group, "difference"))
    for row, line in lines.items():
        own = {**block, rows: row}
        theirs = own | {"dataset": figures.paper_set(own["dataset"]) or ""}
        published = [figures.theirs.get(_key(theirs | {"metric": name}), math.nan) for name in names]
        line.append(Cell(" / ".join(map(_plain, published))))
        if figures.run.comparable:
            values = [_ours(figures, own | {"metric": name})[1] for name in names]
            line.append(Cell(" / ".join(_plain(a - b, "+.2f") for a, b in zip(values, published, strict=True))))


def agreements(run: Run, results: pd.DataFrame) -> dict[tuple[str, str, str], Agreement]:
    """Agreement of our arms' ordering with the paper's, by data set, presentation and metric."""
    figures, found = _Figures(run, results), {}
    for presentation, dataset in itertools.product(run.presentations, run.datasets):
        shown = figures.paper_set(dataset)
        for name in figures.metrics() if shown is not None else []:
            mine = {arm: figures.ours[key].value for arm in figures.arms()
                    if (key := (dataset, arm, presentation, name)) in figures.ours}  # fmt: skip
            paper = {arm: figures.theirs[key] for arm in figures.arms()
                     if (key := (str(shown), arm, presentation, run.first_name(name))) in figures.theirs}  # fmt: skip
            one = agreement(mine, paper, bool(run.fact(name).higher_is_better))
            if one.n >= 2:
                found[dataset, presentation, name] = one
    return found


def between_judges(run: Run, results: pd.DataFrame) -> dict[tuple[str, str, str], Agreement]:
    """Agreement of each further judge's ordering with the first one's, by data set, presentation and its metric."""
    figures, found = _Figures(run, results), {}
    for presentation, dataset, name in itertools.product(run.presentations, run.datasets, figures.metrics()):
        if run.first_name(name) != name:
            mine, first = (
                {arm: figures.ours[key].value for arm in figures.arms()
                 if (key := (dataset, arm, presentation, one)) in figures.ours}
                for one in (name, run.first_name(name))
            )  # fmt: skip
            one = agreement(mine, first, bool(run.fact(name).higher_is_better))
            if one.n >= 2:
                found[dataset, presentation, name] = one
    return found


def notes(run: Run, results: pd.DataFrame) -> list[str]:
    """What a reader must know to read the table: whose numbers, how many took part, the recipe, what was not run."""
    figures, paper = _Figures(run, results), run.experiment.paper_csv
    names = figures.metrics()
    lower = [run.fact(name).label for name in names if run.fact(name).higher_is_better is False]
    higher = [run.fact(name).label for name in names if run.fact(name).higher_is_better]
    directions = [f"Lower is better for {' and '.join(lower)}."] if lower else []
    directions += [f"Higher is better for {' and '.join(higher)}."] if higher else []
    share = f"{100 * run.statistics.confidence:g}"
    told = [f"{' '.join(directions)} Ours: value [{share} % interval]; the best in bold.".strip()]
    if paper and not run.comparable:
        told.append(
            "The columns named “paper's” hold the published figures of other models (published checkpoints, other "
            "evaluators and data); compare orderings with them, never values."
        )
        told += [_agreement_note(run, figures.arms(), key, one) for key, one in agreements(run, results).items()]
    for key, one in between_judges(run, results).items():
        told.append(_agreement_note(run, figures.arms(), key, one, f"{run.fact(run.first_name(key[2])).label}'s"))
    ran = results[results["metric"] == run.experiment.metrics[0]]
    defined = ran.groupby("presentation")["n"].transform("max") > 0
    ran = ran[defined] if bool(defined.any()) else ran
    per_cell = "; ".join(
        f"{dataset}, {arm}: {int(group['n'].min())} of {int((group['n'] + group['n_failed']).max())}"
        for (dataset, arm), group in ran.groupby(["dataset", "arm"], sort=False)
    )
    told.append(f"{run.task.items_called.capitalize()} that took part: {per_cell}.")
    for arm, label in figures.arms().items():
        if arm not in set(results["arm"]):
            alone = " (its figures are the paper's alone)" if paper else ""
            told.append(f"{label}: not run; this experiment has no arm {arm!r}{alone}.")
    for name in names:
        cells = results[results["metric"] == name]
        if len(cells):
            # Of a cell without a value the recipe says why it has none: that of the first with one, where there is one.
            measured = cells[cells["n"] > 0]
            told.append(f"{run.fact(name).label}: {(measured if len(measured) else cells)['recipe'].iloc[0]}.")
    return told


def _agreement_note(
    run: Run, arms: Mapping[str, str], key: tuple[str, str, str], one: Agreement, other: str = "the paper's"
) -> str:
    dataset, presentation, name = key
    flips = "; ".join(f"{arms[a]} and {arms[b]}" for a, b in one.flips[:_FLIPS])
    flips += f"; and {len(one.flips) - _FLIPS} more" if len(one.flips) > _FLIPS else ""
    text = (
        f"Ordering of {one.n} methods by {run.fact(name).label}, {run.presentations[presentation]}, "
        f"{dataset}: Kendall's tau with {other} {one.tau:.2f}"
    )
    return text + (f"; the other way round: {flips}." if flips else "; no two the other way round.")


def write(run: Run, results: pd.DataFrame) -> None:
    """Write `table.csv`, `table.md` and `table.tex`; raises BlendbenchError if that fails."""
    table, told, title = layout(run, results), notes(run, results), run.experiment.title
    write_text(run.dir / "table.csv", to_csv(table))
    text = f"# {heading(title)}\n\n{to_markdown(table)}\n" + "".join(f"\n{markdown(note)}\n" for note in told)
    write_text(run.dir / "table.md", text)
    caption = f"{title}. " + " ".join(told)
    write_text(run.dir / "table.tex", to_latex(table, caption, f"tab:{run.experiment.name}"))


def of_frame(frame: pd.DataFrame, best: Set[tuple[str, str]] = frozenset()) -> Table:
    """A data frame of texts as a table; `best` holds (first cell of the row, column)."""
    columns = [str(name) for name in frame.columns]
    rows = [[Cell(str(cell), "", (row[0], column) in best) for column, cell in zip(columns, row, strict=True)]
            for row in frame.values.tolist()]  # fmt: skip
    return Table([Column("", name) for name in columns], rows)


def to_csv(table: Table) -> str:
    """CSV for a spreadsheet: all text, in which nothing is taken for a formula."""
    cells = [[for_spreadsheet(cell) for cell in row] for row in table.rows]
    return csv_text(pd.DataFrame(cells, columns=[for_spreadsheet(column) for column in table.columns]))


def to_markdown(table: Table) -> str:
    """An aligned Markdown table, the best in bold."""

    def text(cell: Cell) -> str:
        written = markdown(cell, cell=True)
        return f"**{written}**" if cell.best else written

    cells = [[markdown(column, cell=True) for column in table.columns], *([*map(text, row)] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "| " + " | ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def to_latex(table: Table, caption: str, label: str) -> str:
    """A LaTeX table for the package booktabs: groups under common headings, intervals small, the best in bold."""
    spans, rules, at = [], [], 1
    for group, width in table.groups:
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}" if group else "&" * (width - 1))
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    lines = [
        r"\begin{table}",
        _caption(caption),
        rf"\label{{{re.sub(r'[^A-Za-z0-9_.:-]+', '-', label)}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
        r"\toprule",
    ]
    if any(column.group for column in table.columns):
        lines += [_line(spans), " ".join(rules)]
    lines += [_line(latex(column.name) for column in table.columns), r"\midrule"]
    lines += [_line(map(_latex_cell, row)) for row in table.rows]
    return latex_file([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{latex(cell.value)}}}" if cell.best else latex(cell.value)
    return text + (rf" {{\footnotesize {latex(cell.interval)}}}" if cell.interval else "")


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
