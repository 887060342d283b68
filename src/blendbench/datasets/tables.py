"""Reading the tables of data sets: columns are checked, and paths stay under the data set's root."""

import csv
from pathlib import Path

from blendbench.errors import BlendbenchError


def read_csv(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV file with a header into a list of rows.

    Parameters
    ----------
    path : Path
        UTF-8, with or without a byte-order mark.
    columns : tuple of str
        Columns that must be there; others are kept.

    Raises
    ------
    BlendbenchError
        If the file is missing, is not UTF-8 text, lacks a column, or holds no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise BlendbenchError(f"{path}: no column {missing[0]!r}; its header must name {', '.join(columns)}")
            rows = list(reader)
    except FileNotFoundError:
        raise BlendbenchError(f"{path}: not found; put the data set there or set data.root=DIR") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlendbenchError(f"{path}: cannot be read as a CSV table ({error}); fetch it again") from None
    if not rows:
        raise BlendbenchError(f"{path}: holds no row; fetch it again")
    for number, row in enumerate(rows, start=2):
        if any(row[column] is None for column in columns):
            raise BlendbenchError(f"{path}, row {number}: too few columns; its header names {len(row)}")
    return rows


def inside(root: Path, name: str, table: Path) -> Path:
    """Join a file name from a table to its root; raises BlendbenchError if it would leave the root."""
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BlendbenchError(f"{table}: file name {name!r} leaves {root}; mend that row")
    return path
