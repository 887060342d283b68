"""Sweeps: one run a combination of values, then one table and one plot over the swept keys.

A sweep is asked for by an experiment (`experiment.sweep: {key: [values]}`) or by Hydra's `-m key=a,b`. Its jobs share
the store, so a stage that a key does not touch is done once. The sweep's folder holds a folder a job, `sweep.csv` (the
jobs' results, tidy, with a column a swept key), `table.md`, `table.tex`, `table.csv` and `figures/sweep.png`. Where the
seed is swept, `repeats.csv` holds mean and standard deviation over it.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.figures.sweep import sweep as draw_sweep
from blendbench.reports import tables
from blendbench.reports.tables import Cell, Column, Table
from blendbench.runs.folder import COLUMNS, Run
from blendbench.runs.shelf import file_name
from blendbench.store.write import write_text
from blendbench.texts import csv_text, heading


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the swept keys with their values, as text, and its settings."""

    values: dict[str, str]
    settings: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        """Where the run lies."""
        return config.run_dir_of(self.settings)

    @cached_property
    def run(self) -> Run:
        """The run."""
        return Run.of(self.settings)


def combinations(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of all keys, the last key changing fastest.

    Raises
    ------
    BlendbenchError
        If a key has no list of values.
    """
    if not isinstance(sweep, Mapping):
        raise BlendbenchError(f"experiment.sweep: {sweep!r}; give {{key: [values]}}")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise BlendbenchError(f"experiment.sweep.{key}: {values!r}; give a list of values")
    return [dict(zip(sweep, chosen, strict=True)) for chosen in itertools.product(*sweep.values())]


def override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar."""
    return f"{key}={_element(value)}"


def _element(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_element, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_element(one)}' for key, one in value.items())}}}"
    if isinstance(value, str) and not (re.fullmatch(r"[A-Za-z_.][A-Za-z0-9_./+-]*", value) and _is_text(value)):
        return str(QuotedString(config.literal(value), Quote.single).with_quotes())
    return str(value)


def _is_text(value: str) -> bool:
    """Whether Hydra takes unquoted characters for a text, not for a number or null."""
    found = _parsed(f"key={value}")
    return found is not None and found.value() == value


def _parsed(word: str) -> Override | None:
    """An override as Hydra reads it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def plan(words: list[str], settings: dict[str, Any], compose: Callable[[list[str]], dict[str, Any]]) -> list[Job]:
    """The jobs of an experiment's own sweep.

    Parameters
    ----------
    words : list of str
        The command line's overrides.
    settings : dict
        What they compose to.
    compose : callable
        From overrides to checked settings.

    Raises
    ------
    BlendbenchError
        If the sweep or a job's settings are wrong.
    """
    folder, sweep = config.run_dir_of(settings), settings["experiment"]["sweep"]
    chosen = combinations(sweep)
    # What is swept need not be valid, or there, in the words; of a group Hydra takes one word alone.
    kept = [word for word in words if "=" not in word or _key(word) not in map(_key, sweep)]
    swept = [[override(key, value) for key, value in values.items()] for values in chosen]
    shown = swept_values(swept, list(sweep))
    names = [{key: "null" if value is None else str(value) for key, value in values.items()} for values in chosen]
    if len({tuple(one.values()) for one in names}) < len(names):
        names = shown  # null and "null", 1 and "1"
    jobs = []
    for own, values, name in zip(swept, shown, names, strict=True):
        place = folder / file_name("_".join(f"{key}-{value}" for key, value in name.items()))
        last = [override("run_dir", str(place)), "++experiment.sweep=null", "report=false"]
        jobs.append(Job(values, compose([*kept, *own, *last])))
    return jobs


def _key(word: str) -> str:
    """The key of an override, without what it is to do with it."""
    return word.partition("=")[0].lstrip("+~")


def with_first(words: Sequence[str]) -> list[str]:
    """The words of Hydra's `-m`, each that sweeps with its first value before it.

    Hydra first composes a configuration without what is swept, in which `experiment=a,b arms.bnmusic=null` would have
    no such arm. The first value stands in for it there; in the jobs, of words with one key the last counts.
    """
    if any(_key(word) == "hydra/sweeper" for word in words):
        return list(words)  # another sweeper may read the words in its own way
    out = []
    for word in words:
        found = _parsed(word)
        listed = found is not None and found.is_sweep_override() and found.is_discrete_sweep()
        if found is not None and listed and found.value_type != ValueType.GLOB_CHOICE_SWEEP and not found.is_delete():
            out.append(f"{found.get_key_element()}={next(found.sweep_string_iterator())}")
        out.append(word)
    return out


def swept_keys(words: Sequence[str]) -> list[str]:
    """The keys that overrides give several values, in Hydra's grammar."""
    return [_key(word) for word in words if (found := _parsed(word)) is not None and found.is_sweep_override()]


def swept_values(overrides: Sequence[Sequence[str]], asked: Sequence[str] = ()) -> list[dict[str, str]]:
    """Of each job's overrides, those of the keys asked for and those whose values differ between jobs.

    Keys stand without `+`, values as they were written, without the quotes.
    """
    parsed = [{_key(word): word.partition("=")[2] for word in words if "=" in word} for words in overrides]
    wanted = set(map(_key, asked))
    keys = dict.fromkeys(key for one in parsed for key in one)
    swept = [key for key in keys if key in wanted or len({one.get(key) for one in parsed}) > 1]
    shown = {key: _unquoted({one.get(key, "") for one in parsed}) for key in swept}
    return [{key: shown[key][one.get(key, "")] for key in swept} for one in parsed]


def _unquoted(written: set[str]) -> dict[str, str]:
    """Values without their quotes, by how they were written; with them where two would look the same."""
    meant: dict[str, set[str]] = {}
    out = {}
    for text in written:
        found = _parsed(f"key={text}")
        value = found.value() if found is not None else text
        out[text] = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else text
        meant.setdefault(out[text], set()).add(repr(value))
    return {text: shown if len(meant[shown]) == 1 else text for text, shown in out.items()}


def summarise(folder: Path, jobs: Sequence[Job], of: int) -> pd.DataFrame:
    """Write the sweep's table and plot from the results of its jobs; returns them, tidy, with the swept keys.

    Parameters
    ----------
    folder : Path
    jobs : sequence of Job
        Those that have results; of jobs with the same values, the first counts.
    of : int
        How many jobs there are.
    """
    keys = {key: _column(key) for key in jobs[0].values}
    missing = f" {of - len(jobs)} of {of} jobs have no results." if len(jobs) < of else ""
    distinct: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        distinct.setdefault(tuple(job.values.values()), job)
    together = pd.concat(map(_frame, distinct.values()), ignore_index=True)
    own = [name for name in together.columns if name not in _TOLD]
    write_text(folder / "sweep.csv", csv_text(together[own], float_format="%.6g"))
    # A data set that follows from the swept keys need not be told.
    several = together["dataset"].nunique() > 1
    if several and "dataset" in keys:
        several = bool((_groups(together, list(keys.values()))["dataset"].nunique() > 1).any())
    together["line"] = together["label"] + ", " + together["presented"]
    together["line"] += ", " + together["dataset"] if several else ""
    runs = [job.run for job in distinct.values()]
    table = layout(together, keys)
    write_text(folder / "table.csv", tables.to_csv(table))
    titles = dict.fromkeys(run.experiment.title for run in runs)
    title = f"{next(iter(titles)) if len(titles) == 1 else 'Sweep'}: {', '.join(keys)}"
    shares = dict.fromkeys(f"{100 * run.statistics.confidence:g}" for run in runs)
    note = f"Value [{' or '.join(shares)} % interval].{missing}"
    write_text(folder / "table.md", f"# {heading(title)}\n\n{tables.to_markdown(table)}\n\n{note}\n")
    name = "tab:" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
    write_text(folder / "table.tex", tables.to_latex(table, f"{title}. {note}", name))
    if "seed" in keys:
        write_text(folder / "repeats.csv", csv_text(repeats(together, list(keys.values()))))
    shown = together[together["shown"]]
    there = set(shown["metric"])
    metrics = {name: run.fact(name).label for run in runs for name in run.experiment.metrics if name in there}
    draw_sweep(shown, keys, metrics, folder / "figures" / "sweep.png")
    return together[own]


_TOLD = ("label", "presented", "shown", "heading")
"""What the table and the plot say of a result beside `sweep.csv`: arm, presentation, whether it is shown,
and the metric's heading."""


def _column(key: str) -> str:
    """The column of a swept key; one that a column of the results is called after has a name of its own."""
    return f"sweep.{key}" if key in COLUMNS else key


def _frame(job: Job) -> pd.DataFrame:
    """A job's results with its swept keys before them, and after them what its own settings say of them."""
    run = job.run
    frame = run.results()
    for place, (key, value) in enumerate(job.values.items()):
        frame.insert(place, _column(key), value)
    frame["label"] = [run.arms.get(arm, arm) for arm in frame["arm"]]
    frame["presented"] = [run.presentations.get(name, name) for name in frame["presentation"]]
    frame["shown"] = frame["metric"].isin(run.experiment.metrics)
    frame["heading"] = [run.fact(name).label for name in frame["metric"]]
    return frame


def _groups(together: pd.DataFrame, columns: Sequence[str]) -> Any:
    return together.groupby(list(columns), sort=False, dropna=False)


def layout(together: pd.DataFrame, keys: Mapping[str, str]) -> Table:
    """A row a combination, a column a data set, arm, presentation and metric of the jobs' experiments.

    Parameters
    ----------
    together : DataFrame
        As `summarise` makes it, with `line`, the heading of a group of columns.
    keys : mapping of str to str
        Columns by swept key.
    """
    lines: list[tuple[Any, dict[Column, Cell]]] = []
    found: dict[str, dict[Column, None]] = {}
    for values, group in _groups(together, list(keys.values())):
        cells: dict[Column, Cell] = {}
        for row in group[group["shown"]].to_dict("records"):
            column = Column(row["line"], row["heading"])
            found.setdefault(row["line"], {})[column] = None
            cells[column] = tables.number({str(name): value for name, value in row.items()})
        lines.append((values, cells))
    # Columns of one heading stand together, also where the first job has not all of them.
    columns = [column for own in found.values() for column in own]
    rows = [[*map(Cell, map(str, values)), *(cells.get(column, Cell("–")) for column in columns)]
            for values, cells in lines]  # fmt: skip
    return Table([*(Column("", key) for key in keys), *columns], rows)


def repeats(together: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of every value over the seeds, with their number."""
    others = [key for key in keys if key != "seed"]
    grouped = _groups(together, [*others, "experiment", "dataset", "arm", "presentation", "metric"])
    out = grouped["value"].agg(mean="mean", std="std", seeds="count").reset_index()
    return out
