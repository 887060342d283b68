"""What a mirror shows of a run: tables from its files, sounds and images of its first items, and a summary."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.runs import KEY
from blendbench.store.ledger import Ledger
from blendbench.texts import from_spreadsheet

_NAMES = {*KEY, "experiment", "metric", "other", "recipe", "test"}  # text, even where they look like numbers
_MOST_INTEGER = 2**53  # beyond it, a browser rounds whole numbers


class Table(NamedTuple):
    """Columns and rows; a cell that is a Path is a sound or an image."""

    columns: list[Any]
    rows: list[list[Any]]


def tables(run_dir: Path, media_pairs: int) -> dict[str, Table]:
    """The tables of a finished run, by name.

    "results" is `results.csv`, and "comparisons" `comparisons.csv`, if it is there; "table" is `table.csv`, all text;
    "pairs" has the rows of `pairs.jsonl`, an item, arm and presentation each, and after their columns those that only
    `scores.csv` has; "media" has a row an item and presentation for the first `media_pairs` items, a column an arm for
    its mixes, and one for each of its images, if the run kept any. An empty number, or one not finite, is None.

    Raises
    ------
    BlendbenchError
        If a file is missing or cannot be read.
    """
    rows = list(Ledger(run_dir / "pairs.jsonl", KEY))
    found = {name: _read_csv(run_dir / f"{name}.csv") for name in ("results", "table")}
    columns, *cells = ([*map(from_spreadsheet, line)] for line in (found["table"].columns, *found["table"].rows))
    found["table"] = Table(columns, cells)
    found |= {name: _read_csv(file) for name in ("comparisons", "scores") if (file := run_dir / f"{name}.csv").exists()}
    found |= {name: _numbers(table) for name, table in found.items() if name != "table"}
    found["pairs"] = _pairs(rows, found.pop("scores", Table(list(KEY), [])))
    return found | ({"media": _media(run_dir, rows, media_pairs)} if media_pairs else {})


def summary(results: Table) -> dict[str, float]:
    """Values of the table "results" under METRIC/DATASET/ARM/PRESENTATION, without those that could not be computed."""
    columns = ("metric", "dataset", "arm", "presentation", "value")
    places = [results.columns.index(name) for name in columns]
    cells = ([row[place] for place in places] for row in results.rows)
    return {"/".join(names): value for *names, value in cells if value is not None}


def _read_csv(file: Path) -> Table:
    """A CSV as text; raises BlendbenchError if it cannot be read."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            columns, *rows = csv.reader(lines)
    except (OSError, ValueError, csv.Error) as error:
        raise BlendbenchError(f"{printable(file)}: cannot be read ({one_line(str(error))})") from None
    if any(len(row) != len(columns) for row in rows):
        raise BlendbenchError(f"{printable(file)}: rows of different lengths")
    return Table(columns, rows)


def _numbers(table: Table) -> Table:
    """The table with numbers where a whole column has them, and None for their empty cells; names stay text."""
    columns = [
        list(cells) if name in _NAMES else _parsed(cells)
        for name, cells in zip(table.columns, _columns(table.rows, len(table.columns)), strict=True)
    ]
    return Table(table.columns, _columns(columns, len(table.rows)))


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Rows as columns, `count` of them, and the other way round."""
    return [[row[i] for row in rows] for i in range(count)]


def _parsed(cells: Sequence[str]) -> list[Any]:
    for kind in (int, float):
        try:
            return [_finite(kind(cell)) if cell else None for cell in cells]
        except ValueError:
            continue
    return list(cells)


def _finite(value: Any) -> Any:
    """The value, or None for a number that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pairs(rows: list[dict[str, Any]], scores: Table) -> Table:
    """The rows side by side with their scores; a column holds one kind of value."""
    if scores.columns[: len(KEY)] != list(KEY):
        raise BlendbenchError(f"scores.csv: its first columns must be {', '.join(KEY)}")
    own = list(dict.fromkeys([*KEY, *(name for row in rows for name in row)]))
    columns = list(dict.fromkeys([*own, *scores.columns]))
    scored = {tuple(row[: len(KEY)]): dict(zip(scores.columns, row, strict=True)) for row in scores.rows}
    merged = [scored.get(tuple(row[name] for name in KEY), {}) | row for row in rows]
    cells = [_alike([row.get(name) for row in merged]) for name in columns]
    return Table(columns, _columns(cells, len(rows)))


def _alike(cells: list[Any]) -> list[Any]:
    """Cells of one kind, as W&B wants a column: numbers, truth values, or else text; None stays."""
    cells = [_finite(cell) for cell in cells]
    there = [cell for cell in cells if cell is not None]
    if all(isinstance(cell, bool) for cell in there):
        return cells
    if all(isinstance(cell, float) or (isinstance(cell, int) and abs(cell) <= _MOST_INTEGER) for cell in there):
        return cells
    return [cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]


def _media(run_dir: Path, rows: list[dict[str, Any]], most: int) -> Table:
    """Sounds and images of the first items, every arm beside the others."""
    pairs = list(dict.fromkeys((row["dataset"], row["pair_id"]) for row in rows))[:most]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    facts = ["dataset", "pair_id", "presentation", *_own_columns(rows)]
    images = {arm: _images(run_dir, arm) for arm in arms}
    lines: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if (row["dataset"], row["pair_id"]) in pairs:
            key = (pairs.index((row["dataset"], row["pair_id"])), row["presentation"])
            line = lines.setdefault(key, {name: row.get(name) for name in facts})
            mix = _inside(run_dir, row.get("mix"))
            line[f"{row['arm']} mix"] = mix
            line |= images[row["arm"]].get(mix.stem, {}) if mix else {}
    shown = [lines[key] for key in sorted(lines, key=lambda key: key[0])]
    columns = facts + [f"{arm} mix" for arm in arms]
    columns += sorted({name for line in shown for name in line if name not in columns})
    return Table(columns, [[line.get(name) for name in columns] for line in shown])


def _own_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns that items bring by themselves: in a row they stand between its keys and its signature."""
    names = list(rows[0]) if rows else []
    return names[names.index("presentation") + 1 : names.index("signature")] if "signature" in names else []


def _images(run_dir: Path, arm: str) -> dict[str, dict[str, Path]]:
    """Images that an arm kept, `images/ARM/MIX-NAME.png`, by the mix's name and their column."""
    found: dict[str, dict[str, Path]] = {}
    for file in (run_dir / "images" / arm).glob("*.png"):
        mix, _, name = file.stem.rpartition("-")
        image = _inside(run_dir, Path("images") / arm / file.name)
        if image:
            found.setdefault(mix, {})[f"{arm} {name}"] = image
    return found


def _inside(run_dir: Path, name: str | Path | None) -> Path | None:
    """A file of the run, or None if it is gone or is not within its folder."""
    if not name or ".." in Path(name).parts or Path(name).is_absolute() or not (run_dir / name).is_file():
        return None
    return run_dir / name
