"""What the page says of a run's items: their facts, their values by presentation and arm, and which are shown."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from blendbench.runs.folder import Run

Key = tuple[str, str]
"""Data set and id of an item."""
Place = tuple[str, str]
"""Presentation and arm."""
Rows = dict[Place, dict[str, Any]]
"""An item's rows."""


class Measure(NamedTuple):
    """What items can be sorted by."""

    name: str
    label: str
    unit: str
    better: int
    """1 where higher is better, -1 where lower is, 0 where neither."""
    told: bool
    """Whether it stands among a cell's values; a level is told in words."""


class Listing:
    """A run's rows by item, its arms and presentations in the table's order, and its scores.

    Parameters
    ----------
    run : Run
    rows : iterable of dict
    hide : callable
        Takes the places of this machine out of a text.
    """

    def __init__(self, run: Run, rows: Iterable[dict[str, Any]], hide: Callable[[str], str]) -> None:
        self.run, self.hide, self.items = run, hide, dict[Key, Rows]()
        names = {}
        for row in rows:
            self.items.setdefault((row["dataset"], row["pair_id"]), {})[row["presentation"], row["arm"]] = row
            names[row["arm"]] = row["arm"]
        self.presentations = run.presentations
        self.arms = {name: label for name, label in run.arms.items() if name in names}
        self.arms |= {name: label for name, label in names.items() if name not in run.arms}
        self.measures: list[Measure] = []
        self._scores = self._read(run.texts("scores.csv"))
        for name in run.task.sortable:
            facts = run.task.levels[name]
            self.measures.append(Measure(name, facts.label, facts.unit, facts.better, False))

    def _read(self, scores: pd.DataFrame) -> dict[tuple[str, ...], list[float]]:
        """Values by data set, item, presentation and arm; the columns beyond facts and levels are measures."""
        apart = {"dataset", "arm", "presentation", "pair_id", "status", "reason"}
        apart |= {*self.run.task.columns, *self.run.task.levels}
        values = scores[[name for name in scores.columns if name not in apart]]
        values = values.apply(pd.to_numeric, errors="coerce").dropna(axis="columns", how="all")
        for name in map(str, values.columns):
            facts = self.run.fact(name)
            self.measures.append(Measure(name, facts.label, facts.unit, facts.better, True))
        if not self.measures:
            return {}
        keys = scores[["dataset", "pair_id", "presentation", "arm"]].itertuples(index=False, name=None)
        return dict(zip(keys, values.astype(float).values.tolist(), strict=True))

    def values(self, key: Key, presentation: str, arm: str) -> list[float | None]:
        """The value of every measure for an item, presentation and arm."""
        row, levels = self.items[key].get((presentation, arm), {}), self.run.task.sortable
        found = self._scores.get((*key, presentation, arm), [math.nan] * (len(self.measures) - len(levels)))
        told = [math.nan if row.get(name) is None else float(row[name]) for name in levels]
        return [one if math.isfinite(one) else None for one in (*found, *told)]

    def _ranked(self, keys: Iterable[Key], presentation: str, arm: str) -> list[list[Key]]:
        """By measure: the items that have a value, the best (or, without a direction, the lowest) first."""
        keys = list(keys)
        table = [self.values(key, presentation, arm) for key in keys]
        out = []
        for place, measure in enumerate(self.measures):
            sign = -1 if measure.better > 0 else 1
            there = [(sign * value, at) for at, line in enumerate(table) if (value := line[place]) is not None]
            out.append([keys[at] for _, at in sorted(there)])
        return out

    def shown(self, most: int) -> tuple[list[Key], int]:
        """The items of the page, the first and the best, median and worst by every metric; how many did not fit."""
        chosen = dict.fromkeys(list(self.items)[:most])
        metrics = sum(measure.told for measure in self.measures)
        extra: dict[Key, None] = {}
        for presentation in self.presentations:
            for arm in self.arms:
                for ranked in self._ranked(self.items, presentation, arm)[:metrics]:
                    extra |= dict.fromkeys(key for key in _three(ranked) if key not in chosen)
        chosen |= dict.fromkeys(list(extra)[: 2 * most])
        return [key for key in self.items if key in chosen], max(0, len(extra) - 2 * most)

    def cases(self, shown: Sequence[Key]) -> list[list[list[list[int]]]]:
        """Places of the best, median and worst item on the page, by presentation, arm and measure.

        Of all items of the run where these three are on the page, else of the page's items.
        """
        place = {key: at for at, key in enumerate(shown)}

        def of(presentation: str, arm: str) -> list[list[int]]:
            whole, here = (self._ranked(keys, presentation, arm) for keys in (self.items, shown))
            picked = [_three(every) for every in whole]
            picked = [
                three if set(three) <= set(place) else _three(page) for three, page in zip(picked, here, strict=True)
            ]
            return [[place[key] for key in three] for three in picked]

        return [[of(presentation, arm) for arm in self.arms] for presentation in self.presentations]

    def facts(self, key: Key) -> dict[str, Any]:
        """What the page says of an item, and its cells by presentation and arm; None where there is no row."""
        any_row = next(iter(self.items[key].values()))
        words = {name: str(any_row.get(name, "")) for name in ("dataset", "pair_id", *self.run.task.columns)}
        cells = [[self._cell(key, name, arm) for arm in self.arms] for name in self.presentations]
        return words | {"cells": cells}

    def _cell(self, key: Key, presentation: str, arm: str) -> dict[str, Any] | None:
        row = self.items[key].get((presentation, arm))
        if row is None:
            return None
        if row["status"] != "ok":
            return {"reason": self.hide(row.get("reason") or "failed")}
        told, src = self.run.shown[presentation].told(row), quote(f"../{row['mix']}")
        return {"reason": "", "told": told, "src": src, "values": self.values(key, presentation, arm)}


def _three(ranked: Sequence[Key]) -> list[Key]:
    """Best, median (the better of two) and worst."""
    return [ranked[0], ranked[(len(ranked) - 1) // 2], ranked[-1]] if ranked else []
