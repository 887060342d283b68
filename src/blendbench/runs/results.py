"""Results of a run: metrics over its rows, tidy; scores sound by sound; tests between arms.

`results.csv` holds a row a metric and cell (data set, arm, presentation), `scores.csv` a row a sound with a column a
metric, `comparisons.csv` a row a pair of arms. Every value carries its recipe (embedding and checkpoint, N, reference
set, interval), and the paper's figure stands beside it only as another model's number unless the evaluator is the
paper's.
"""

import hashlib
import itertools
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from blendbench import telling
from blendbench.errors import BlendbenchError
from blendbench.metrics import ItemMetric, SetMetric, bootstrap, comparison
from blendbench.runs import KEY
from blendbench.runs.folder import COLUMNS, COMPARISON_COLUMNS, Run
from blendbench.runs.listened import Listened
from blendbench.runs.scoring import Heard, Scoring, measure_one, sound_key, unexpected
from blendbench.store.arrays import Arrays
from blendbench.store.ledger import Ledger, Rows
from blendbench.store.signature import canonical, signature
from blendbench.store.write import write_lines
from blendbench.texts import csv_text

CELL = ["dataset", "arm", "presentation"]
_FLIPS = 9999


class Results(NamedTuple):
    """What `compute` returns: three tidy tables."""

    values: pd.DataFrame
    scores: pd.DataFrame
    comparisons: pd.DataFrame


class _Cell(NamedTuple):
    """The rows of one data set, arm and presentation that took part, as indices into the heard rows."""

    key: tuple[str, str, str]
    chosen: np.ndarray
    items: list[str]
    groups: list[str]


class _Value(NamedTuple):
    metric: str
    value: float
    low: float
    high: float
    n: int
    recipe: str


def compute(run: Run) -> Results:
    """Measure a run's sounds.

    A set metric is taken between all sounds of a cell and the reference set, an item metric of each sound, a cell
    having the mean. Intervals are bootstraps over groups of items. Arms are compared over the items that both have,
    metric by metric, and the p-values of all pairs of arms within a data set and presentation corrected together
    (Holm).

    Raises
    ------
    BlendbenchError
        If the folder is no run's, or a metric's model is missing or makes no such scores.
    """
    rows = run.rows()
    scores = _facts(rows, run)
    sound = (scores["status"] == "ok").to_numpy()
    heard = Heard(Scoring(run), rows.only(sound), told=True)
    measures = _measures(run, heard)
    counts = scores.groupby(CELL, sort=False).size()
    cells = _cells(scores[sound], list(counts.index), run.task.group)
    paper = run.experiment.paper_figures().set_index([*CELL, "metric"])["value"]
    out = []
    with telling.stage("intervals", len(cells) * len(measures), "value") as told:
        for key, cell in cells.items():
            for measure in measures:
                for one in measure.values(cell):
                    recipe = f"{measure.asked}; {one.recipe}" if measure.asked else one.recipe
                    expected = paper.get((*key, one.metric), math.nan)
                    failed = counts[key] - len(cell.chosen) + measure.failed(cell)
                    out.append([run.experiment.name, *key, *one[:4], one.n, failed, expected, recipe])
                told.update()
    for measure in measures:
        if measure.per_item is not None:
            scores[measure.name] = math.nan
            scores.loc[sound, measure.name] = measure.per_item.astype(float)
    return Results(pd.DataFrame(out, columns=COLUMNS), scores, _comparisons(cells, measures, run.experiment.name))


def _measures(run: Run, heard: Heard) -> list["_Measure"]:
    """The metrics over the heard rows, those that ask an evaluator first, then by the experiment's order; ratings."""
    named = {name: place for place, name in enumerate(run.experiment.metrics)}
    found: list[tuple[int, _Measure]] = []
    for metric in run.metrics.values():
        if isinstance(metric, SetMetric):
            found.append((-1, _OfSet(heard, metric)))
            continue
        assert isinstance(metric, ItemMetric)
        values = _values_of(metric, heard)
        for name in metric.facts:
            told = metric.called(name)
            if metric.evaluator is not None or told in named:
                place = -1 if metric.evaluator is not None else named[told]
                found.append((place, _OfItem(heard, metric, name, values)))
    found.sort(key=lambda one: one[0])
    listened = Listened(run.dir)
    return [one for _, one in found] + [_Rated(heard, listened, scale) for scale in listened.scales]


def _values_of(metric: ItemMetric, heard: Heard) -> list[dict[str, float]]:
    if metric.keep:
        return list(heard.scoring.measured(metric, heard, metric.called(metric.name)))
    if type(metric).measure_all is ItemMetric.measure_all:
        return [measure_one(metric, sound) for sound in heard]
    return list(metric.measure_all(heard))


def _facts(rows: Rows, run: Run) -> pd.DataFrame:
    """A row a sound: what its row says of it and of its levels."""
    texts = [name for name, column in run.task.columns.items() if column.kind != "text"]
    facts: dict[str, list[Any]] = {key: [] for key in (*KEY, "status", "reason", *texts)}
    levels = {key: array("d") for key in run.task.levels}
    for row in rows:
        for key, values in facts.items():
            value = row.get(key)
            values.append(sys.intern(value) if type(value) is str and key != "pair_id" else value)
        for key, numbers in levels.items():
            value = row.get(key)
            numbers.append(math.nan if value is None else value)
    return pd.DataFrame(facts | {key: np.array(numbers) for key, numbers in levels.items()})


def _cells(sound: pd.DataFrame, keys: Sequence[tuple[str, str, str]], group: str) -> dict[tuple[str, str, str], _Cell]:
    """The cells of these data sets, arms and presentations over the facts of the heard rows."""
    found = sound.groupby(CELL, sort=False).indices
    cells = {}
    for key in keys:
        chosen = np.asarray(found.get(key, []), dtype=int)
        cells[key] = _Cell(key, chosen, *(sound[name].iloc[chosen].tolist() for name in ("pair_id", group)))
    return cells


def _comparisons(cells: dict[tuple[str, str, str], _Cell], measures: Sequence["_Measure"], name: str) -> pd.DataFrame:
    """Every two arms of a data set and presentation, by every metric."""
    out: list[list[Any]] = []
    compared = {}
    for dataset, presentation in dict.fromkeys((key[0], key[2]) for key in cells):
        arms = [key[1] for key in cells if (key[0], key[2]) == (dataset, presentation)]
        compared[dataset, presentation] = list(itertools.combinations(arms, 2))
    with telling.stage("tests between arms", len(measures) * sum(map(len, compared.values())), "test") as told:
        for (dataset, presentation), pairs in compared.items():
            for measure in measures:
                family: list[list[Any]] = []
                for arm, other in pairs:
                    found = measure.compare(cells[dataset, arm, presentation], cells[dataset, other, presentation])
                    told.update()
                    if found is not None:
                        difference, n = found
                        family.append([name, dataset, presentation, measure.name, arm, other, *difference, math.nan, n])
                corrected = comparison.holm([line[9] for line in family])
                for line, p in zip(family, corrected, strict=True):
                    line[10] = p
                    out.append([*line, measure.test])
    return pd.DataFrame(out, columns=COMPARISON_COLUMNS)


class _Measure:
    """A metric over a run: its value for a cell, and the comparison of two cells.

    Attributes
    ----------
    name : str
        In the results.
    asked : str
        Whom it asks, for the recipe: evaluator, sample rate, reference set and seed; "" for nobody.
    per_item : array [heard rows] or None
        A value a sound, nan where it has none; None for a distance of sets.
    test : str
        What test compares two arms.
    """

    name: str
    asked: str = ""
    per_item: np.ndarray | None = None
    test: str

    def __init__(self, heard: Heard) -> None:
        self.heard, self.statistics = heard, heard.run.statistics
        self.unit, self.units = heard.run.task.units

    def values(self, cell: _Cell) -> Iterator[_Value]:
        """The cell's value, and what else is to be told of it."""
        raise NotImplementedError

    def failed(self, cell: _Cell) -> int:
        """How many of the cell's sounds could not be measured, besides those that there are none of."""
        return 0

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        """Difference of two cells over the items that both have, and their number; None where there are none."""
        raise NotImplementedError

    def _asked(self, metric: ItemMetric | SetMetric) -> str:
        evaluator = metric.evaluator
        if evaluator is None:
            return ""
        text = f"evaluator={evaluator.name}@{evaluator.fingerprint}; sr={evaluator.sample_rate}"
        return f"{text}; {self.heard.reference.recipe()}"


class _PerItem(_Measure):
    """A metric with a value a sound; a cell's is the mean."""

    per_item: np.ndarray

    def __init__(self, heard: Heard) -> None:
        super().__init__(heard)
        self.test = f"signs flipped {self.unit} by {self.unit}"

    @property
    def recipe(self) -> str:
        """How a value came about."""
        raise NotImplementedError

    def values(self, cell: _Cell) -> Iterator[_Value]:
        values, given = self.per_item[cell.chosen], self.statistics
        sound = np.isfinite(values)
        if not sound.any():
            yield _Value(self.name, math.nan, math.nan, math.nan, 0, _nothing(self.heard))
            return
        groups = [group for group, good in zip(cell.groups, sound, strict=True) if good]
        kept = values[sound]
        low, high = bootstrap.bootstrap_interval(
            bootstrap.Mean(kept), len(kept), groups, given.resamples, given.confidence, given.seed
        )
        recipe = f"{self.recipe}; {given.interval(self.units)}"
        yield _Value(self.name, float(kept.mean()), low, high, len(kept), recipe)

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        a, b, groups = _shared(first, second)
        one, two = self.per_item[a], self.per_item[b]
        sound = np.isfinite(one) & np.isfinite(two)
        if not sound.any():
            return None
        labels = [group for group, good in zip(groups, sound, strict=True) if good]
        confidence, seed = self.statistics.confidence, self.statistics.seed
        return comparison.paired_means(one[sound], two[sound], labels, _FLIPS, confidence, seed), int(sound.sum())


class _OfItem(_PerItem):
    """One of the values of an item metric."""

    def __init__(self, heard: Heard, metric: ItemMetric, name: str, values: Sequence[dict[str, float]]) -> None:
        super().__init__(heard)
        self.metric, self.plain, self.name, self.asked = metric, name, metric.called(name), self._asked(metric)
        self.per_item = np.array([one.get(name, math.nan) for one in values], dtype=float)
        self.lost = np.array([not one for one in values], dtype=bool)

    def failed(self, cell: _Cell) -> int:
        """Sounds that the metric failed at."""
        return int(self.lost[cell.chosen].sum())

    @cached_property
    def recipe(self) -> str:
        """The metric's."""
        return self.metric.recipe(self.plain, self.heard)


class _Rated(_PerItem):
    """A scale that listeners have rated; the study has its own intervals."""

    recipe = ""

    def __init__(self, heard: Heard, listened: Listened, scale: str) -> None:
        super().__init__(heard)
        self.listened, self.name = listened, scale
        self.per_item = np.array([listened.mean(scale, row) for row in heard.rows], dtype=float)

    def values(self, cell: _Cell) -> Iterator[_Value]:
        found = self.listened.cell(self.name, cell.key) if len(cell.chosen) else None
        if found is not None:
            value, low, high = (float(found[key]) for key in ("value", "ci_low", "ci_high"))
            yield _Value(self.name, value, low, high, int(found["n_samples"]), found["recipe"])


class _OfSet(_Measure):
    """A set metric; a cell's values and resamples are kept by content, as sweeps meet them again."""

    def __init__(self, heard: Heard, metric: SetMetric) -> None:
        super().__init__(heard)
        assert metric.evaluator is not None
        self.metric, self.name, self.asked = metric, metric.called(metric.name), self._asked(metric)
        self.lost: set[tuple[str, str, str]] = set()
        self.test = f"bootstrap of both arms over {self.units}"
        self.scores = heard.scores(metric.evaluator)
        self.reference = metric.reference(map(metric.of, heard.reference.scores(metric.evaluator)))
        fixed = metric.kept_under() | {
            "reference": hashlib.sha256("\n".join(heard.reference.keys).encode()).hexdigest(),
            "statistics": {name: value for name, value in vars(self.statistics).items() if name != "seed"},
            "seed": self.statistics.seed,
        }
        folder = heard.run.store / "cells" / signature("cell", 1, fixed)
        self.kept, self.arrays = Ledger(folder / "cells.jsonl", ("key",)), Arrays(folder / "cells.f32")

    def values(self, cell: _Cell) -> Iterator[_Value]:
        n = len(cell.chosen)
        if n < self.metric.least:
            yield _Value(self.name, math.nan, math.nan, math.nan, n, _nothing(self.heard, n, self.metric))
            return
        key = self._key(cell)
        row = self.kept.get(key)
        if row is None:
            try:
                found, draws = self._compute(cell)
            except BlendbenchError:
                raise
            except Exception as error:  # a metric of one's own may raise anything
                reason = f"not measured: {unexpected(error)}"
                print(f"blendbench: {', '.join(cell.key)}: {self.name} {reason}", file=sys.stderr)
                self.lost.add(cell.key)
                yield _Value(self.name, math.nan, math.nan, math.nan, n, reason)
                return
            row = {"key": key, "values": [list(one) for one in found]}
            if draws is not None:
                row["draws"] = self.arrays.append(draws)
            self.kept.append(row)
            self.kept.close()
        for name, *rest in row["values"]:
            yield _Value(self.metric.called(name), *rest)

    def _key(self, cell: _Cell) -> str:
        digest = hashlib.sha256()
        for index, group in zip(cell.chosen, cell.groups, strict=True):
            digest.update(f"{canonical([sound_key(self.heard.rows[index]), group])}\n".encode())
        return digest.hexdigest()

    def _statistic(self, chosen: np.ndarray) -> Any:
        return self.metric.statistic(self.metric.gather(_Chosen(self, chosen)), self.reference)

    def _compute(self, cell: _Cell) -> tuple[list[_Value], np.ndarray | None]:
        n, given, how = len(cell.chosen), self.statistics, self.metric.interval
        own = self.metric.gather(_Chosen(self, cell.chosen))
        statistic = self.metric.statistic(own, self.reference)
        value = statistic(torch.arange(n))
        if not math.isfinite(value):
            raise ValueError(f"{self.name} is {value}")
        draws = bootstrap.resample(statistic, n, cell.groups, given.resamples, given.seed)
        low, high = (math.nan, math.nan) if draws is None else bootstrap.interval(draws, value, given.confidence, how)
        recipe = f"{self.metric.recipe}; {given.interval(self.units)}, {how}"
        out = [_Value(self.metric.name, value, low, high, n, recipe)]  # kept for whatever the run calls it
        for one in self.metric.further(own, self.reference, given.seed):
            out.append(_Value(one.name, one.value, math.nan, math.nan, one.n, one.recipe))
        return out, draws

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        a, b, groups = _shared(first, second)
        if len(a) < self.metric.least or {first.key, second.key} & self.lost:
            return None
        resamples, confidence, seed = self.statistics.resamples, self.statistics.confidence, self.statistics.seed
        if len(a) == len(first.items) and first.items == second.items and first.groups == second.groups:
            # The same draws of the same groups, made for the intervals.
            rows = [self.kept.get(self._key(cell)) for cell in (first, second)]
            if all(row is not None and "draws" in row for row in rows):
                drawn = np.subtract(*(self.arrays.read(row["draws"]).astype(float) for row in rows if row))
                value = rows[0]["values"][0][1] - rows[1]["values"][0][1]  # type: ignore[index]
                low, high = bootstrap.interval(drawn, value, confidence, self.metric.interval)
                return comparison.Difference(value, low, high, comparison.shift_test(drawn, value)), len(a)
        one, two = (self._statistic(chosen) for chosen in (a, b))
        return comparison.paired_statistics(one, two, len(a), groups, resamples, confidence, seed), len(a)


class _Chosen(Sequence[torch.Tensor]):
    """What a set metric takes of some sounds, read when asked for."""

    def __init__(self, measure: _OfSet, chosen: np.ndarray) -> None:
        self._measure, self._chosen = measure, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        return self._measure.metric.of(self._measure.scores[self._chosen[index]])


def _nothing(heard: Heard, n: int = 0, metric: SetMetric | None = None) -> str:
    """Why a cell has no value, in place of a recipe."""
    one = heard.run.task.items_called.removesuffix("s")
    if not n or metric is None:
        return f"no {one} took part"
    label = metric.facts[metric.name].label
    return f"{_count(n)} {one}{'s' * (n > 1)} took part, and {label} wants {_count(metric.least)}"


def _count(number: int) -> str:
    return {1: "one", 2: "two", 3: "three"}.get(number, str(number))


def _shared(first: _Cell, second: _Cell) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Indices of the items that two cells share, in the first one's order, and their groups."""
    there = dict(zip(second.items, second.chosen, strict=True))
    mask = np.array([item in there for item in first.items], dtype=bool)
    other = np.array([there[item] for item in first.items if item in there], dtype=int)
    return first.chosen[mask], other, list(itertools.compress(first.groups, mask))


def _csv(frame: pd.DataFrame) -> Iterator[str]:
    """A table as CSV, some thousand lines at a time."""
    for start in range(0, max(1, len(frame)), 10_000):
        part = frame.iloc[start : start + 10_000]
        yield csv_text(part, header=not start, float_format="%.6g")


def write(run: Run) -> pd.DataFrame:
    """Compute the results, and write `results.csv`, `scores.csv` and `comparisons.csv`; returns the results."""
    found = compute(run)
    for name, frame in (("results", found.values), ("scores", found.scores), ("comparisons", found.comparisons)):
        write_lines(run.dir / f"{name}.csv", _csv(frame))
    return found.values
