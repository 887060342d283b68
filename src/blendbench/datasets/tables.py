"""Reading the tables of data sets: columns and numbers are checked, ids stand once, and paths stay under their root."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, ClipError, one_line, printable

_Any = TypeVar("_Any")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What may be half a surrogate pair, which no file can hold."""


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, one at a time: a table of a million rows takes no memory.

    Parameters
    ----------
    path : Path
        UTF-8, with or without a byte-order mark.
    columns : tuple of str
        Columns that must be there; others are kept. Values come without space around them.

    Raises
    ------
    BlendbenchError
        If the file is missing, is not UTF-8 text or not the table itself (see `stand_ins`), lacks a column or names it
        twice, holds no row, or a row has fewer or more fields than the header.
    """
    name = printable(path)
    number = 1
    stand_ins.refuse_as_text(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [field.strip() for field in next(reader, [])]
            for column in columns:
                if header.count(column) != 1:
                    problem = f"no column {column!r}" if column not in header else f"column {column!r} stands twice"
                    for sign, what in ((";", "semicolons"), ("\t", "tabs")):
                        if column in [cell.strip().strip('"') for field in header for cell in field.split(sign)]:
                            problem += f" (its columns are separated by {what}: save it with commas)"
                    raise BlendbenchError(f"{name}: {problem}; its header must name {', '.join(columns)}")
            for fields in reader:
                if not fields:
                    continue
                number += 1
                if len(fields) != len(header):
                    few = "few" if len(fields) < len(header) else "many"
                    raise BlendbenchError(
                        f"{name}, row {number}: too {few} columns: {len(fields)}, its header names {len(header)}; "
                        "mend that row"
                    )
                yield dict(zip(header, (field.strip() for field in fields), strict=True))
    except FileNotFoundError:
        raise BlendbenchError(f"{name}: not found; put the data set there or set data.root=DIR") from None
    except (OSError, ValueError, csv.Error) as error:
        reason = one_line((error.strerror if isinstance(error, OSError) else None) or str(error))
        remedy = "save it as UTF-8" if isinstance(error, UnicodeError) else "fetch it again"
        raise BlendbenchError(
            f"{name}: cannot be read as a CSV table ({reason}, after row {number}); {remedy}"
        ) from None
    if number == 1:
        raise BlendbenchError(f"{name}: holds no row; fetch it again")


def read_json_lines(path: Path, columns: tuple[str, ...], what: str) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines, whose `columns` are texts, one at a time; `what` names the data set.

    Raises
    ------
    BlendbenchError
        If the file is missing, is not UTF-8 text, holds no object, or a line is no object with these columns.
    """
    name, found = printable(path), False
    stand_ins.refuse_as_text(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if _HALF.search(line):
                        json.dumps(row, ensure_ascii=False).encode()
                except (ValueError, RecursionError):
                    row = None
                missing = [c for c in columns if not isinstance(row, dict) or not isinstance(row.get(c), str)]
                if missing:
                    raise BlendbenchError(
                        f"{name}, line {number}: not a JSON object with {missing[0]!r}; mend it or fetch it again"
                    )
                found = True
                yield row
    except FileNotFoundError:
        raise BlendbenchError(f"{name}: not found; put {what} there or set data.root=DIR") from None
    except (OSError, ValueError) as error:
        reason = one_line((error.strerror if isinstance(error, OSError) else None) or str(error))
        remedy = "save it as UTF-8" if isinstance(error, UnicodeError) else "fetch it again"
        raise BlendbenchError(f"{name}: cannot be read ({reason}); {remedy}") from None
    if not found:
        raise BlendbenchError(f"{name}: holds no clip; fetch it again")


def number(row: dict[str, str], column: str, table: Path) -> float:
    """A finite number from a table; raises BlendbenchError with the row's content if it is none."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        cell = row[column] if len(row[column]) <= 40 else row[column][:37] + "..."
        first = next(iter(row.values()))[:60]
        raise BlendbenchError(f"{printable(table)}, row {first!r}: {column} is {cell!r}, not a number; mend that row")
    return value


def whole_number(row: dict[str, str], column: str, table: Path) -> int:
    """A whole number from a table; raises BlendbenchError as `number`."""
    value = number(row, column, table)
    if value != int(value):
        first = next(iter(row.values()))[:60]
        raise BlendbenchError(
            f"{printable(table)}, row {first!r}: {column} is {row[column][:40]!r}, not a whole number; mend that row"
        )
    return int(value)


def once(items: Iterable[_Any], table: Path, key: str = "id") -> list[_Any]:
    """The items as a list; raises BlendbenchError if two have one `key`."""
    seen, kept = set(), []
    for item in items:
        name = getattr(item, key)
        if name in seen:
            raise BlendbenchError(f"{printable(table)}: {name!r} stands twice; take one of the rows out")
        seen.add(name)
        kept.append(item)
    return kept


def inside(root: Path, name: str, table: Path) -> Path:
    """Join a file name from a table to its root; raises BlendbenchError if it is empty or would leave the root.

    Links are not looked at here, as that would ask the disk for every row; see `check_links`.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name:
        raise BlendbenchError(f"{printable(table)}: {name!r} is no file name; mend that row")
    if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise BlendbenchError(f"{printable(table)}: file name {name!r} leaves {printable(root)}; mend that row")
    return root / name


def check_links(path: Path, root: Path | None) -> None:
    """Refuse a file that lies outside its root by way of a link; the root itself may be one.

    Raises
    ------
    ClipError
        Naming the file and where it leads.
    """
    if root is None:
        return
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):
        return  # reading it says what is wrong
    if not real.is_relative_to(home):
        if lost := stand_ins.lost_link(path):
            raise ClipError(f"{printable(path)}: {lost}")
        raise ClipError(
            f"{printable(path)}: is a link that leads out of {printable(root)}, to {printable(real)}; put the file "
            "itself there, or set data.follow_links=true if you trust it"
        )
