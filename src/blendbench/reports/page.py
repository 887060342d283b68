"""The report of a run: a folder with one page that shows the tables, the figures, and every item to listen to.

`report/index.html` opens from disk without a network, and goes on working where the run's folder is moved as a whole:
it refers to mixes and figures of the run by relative paths, and to what lies beside it, parts of sounds
(`audio/*.flac`), mel images (`images/*.png`) and the data of the players (`data.js`). Template, style and script are
files in `report_page/`. Nothing in the folder names a place on this machine.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from blendbench import telling
from blendbench.datasets.reading import ahead
from blendbench.errors import BlendbenchError
from blendbench.reports import tables
from blendbench.reports.hiding import Hide
from blendbench.reports.listing import Listing
from blendbench.reports.players import Players, files_of
from blendbench.runs.folder import Run
from blendbench.store.write import write_text

_ASSETS = Path(__file__).with_name("report_page")
_DATA = "const REPORT = "


def write(run: Run, most: int = 60) -> Path:
    """Write `report/` and return the path of its `index.html`.

    Sounds and images that are there already and still right are left alone; those of items no longer shown go.

    Parameters
    ----------
    run : Run
        With rows and `results.csv`; `scores.csv`, `comparisons.csv` and `figures/` are shown where they are there.
    most : int
        Items shown: so many in the run's order, and up to twice as many more that are the best, median or worst by a
        metric.

    Raises
    ------
    BlendbenchError
        If the folder is no run's, has no table yet, or cannot be written.
    """
    rows = run.rows()
    if not (run.dir / "table.csv").is_file() or not (run.dir / "results.csv").is_file():
        raise BlendbenchError(f"{run.dir}: no table yet; run `blendbench table {run.dir}` first")
    found, hide, task = run.results(), Hide(run.dir, run.settings), run.task
    listing = Listing(run, rows, hide)
    chosen, left_out = listing.shown(most)
    folder = run.dir / "report"
    players = Players(listing, _kept(folder / "data.js"))
    items = []
    with telling.stage("report", len(chosen), task.items_called.removesuffix("s")) as told:
        # Files are read, packed and synced outside of Python's lock, so threads share the cores.
        for key, heard in zip(chosen, ahead(players.of, chosen), strict=True):
            items.append(listing.facts(key) | heard)
            told.update()
    filters = {name: column.label for name, column in task.columns.items() if column.kind == "class"}
    data = {
        "presentations": list(listing.presentations.values()),
        "arms": list(listing.arms.values()),
        "measures": [measure._asdict() for measure in listing.measures],
        "cases": listing.cases(chosen),
        "columns": {name: column.kind for name, column in task.columns.items()},
        "shared": task.shared,
        "own": task.own,
        "whole": task.whole_called,
        "called": task.items_called,
        "choices": {name: sorted({item[name] for item in items}) for name in (*filters, "dataset")},
        "pairs": items,
    }
    page = _environment().get_template("index.html").render(
        title=run.experiment.title,
        table=tables.layout(run, found),
        notes=[hide(note) for note in tables.notes(run, found)],
        comparisons=_comparisons(run),
        figures=_figures(run.dir),
        settings=hide(_text(run.dir / "config.yaml")),
        filters=filters | {"dataset": "Data set"},
        first=most,
        left_out=left_out,
        total=len(listing.items),
        failed=sum(row["status"] != "ok" for row in rows),
        rows=len(rows),
        datasets=run.datasets,
        **data,
    )  # fmt: skip
    for name in ("report.css", "report.js"):
        write_text(folder / name, _text(_ASSETS / name))
    write_text(folder / "data.js", f"{_DATA}{json.dumps(data, allow_nan=False)};\n")
    write_text(folder / "index.html", page)
    _tidy(folder, files_of(items))
    return folder / "index.html"


def _kept(file: Path) -> dict[str, dict[str, Any]]:
    """Sounds of the report that is there, by what they were made from; none where it cannot be read."""
    try:
        items = json.loads(_text(file).removeprefix(_DATA).rstrip("\n;"))["pairs"]
        found = {item["sounds_key"]: {name: item[name] for name in _KEPT} for item in items if item["sounds_key"]}
        list(files_of(found.values()))
    except (BlendbenchError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


_KEPT = ("sounds_key", "note", "seconds", "shared", "sounds")


def _tidy(folder: Path, wanted: Iterable[str]) -> None:
    """Delete sounds and images that the page no longer shows."""
    there = set(wanted)
    for pattern in ("audio/*.flac", "images/*.png"):
        for file in folder.glob(pattern):
            if file.relative_to(folder).as_posix() not in there:
                file.unlink(missing_ok=True)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BlendbenchError(f"{file}: cannot be read; run the same command again") from None


def _comparisons(run: Run) -> list[list[str]]:
    """Lines of `comparisons.csv` as texts: data set, presentation, metric, arms, difference, p, Holm's, n, test."""
    lines = []
    for row in run.texts("comparisons.csv").to_dict("records"):
        presentation = run.presentations.get(row["presentation"], row["presentation"])
        value, low, high, p, holm = (_number(row[key]) for key in ("difference", "ci_low", "ci_high", "p", "p_holm"))
        difference = f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"
        names = [run.arms.get(row[key], row[key]) for key in ("arm", "other")]
        tested = [difference, f"{p:.2g}", f"{holm:.2g}", row["n"], row["test"]]
        lines.append([row["dataset"], presentation, run.fact(row["metric"]).label, *names, *tested])
    return lines


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _figures(run_dir: Path) -> list[dict[str, Any]]:
    """Figures of the run, with the files of the same name that are not images."""
    found = []
    for file in sorted((run_dir / "figures").glob("*.png")):
        beside = [file.with_suffix(ending) for ending in (".pdf", ".csv")]
        links = [(one.suffix[1:].upper(), quote(f"../figures/{one.name}")) for one in beside if one.is_file()]
        found.append({"name": file.stem, "src": quote(f"../figures/{file.name}"), "links": links})
    return found
