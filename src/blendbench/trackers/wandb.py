"""The mirror of a finished run at Weights & Biases, rebuilt from the run's folder at any time under the same run id.

Local files are the truth. A child process does the work, so that W&B's threads, environment and crashes stay out of the
run, and so that it can be ended when it takes too long. All that W&B writes lies in `RUN_DIR/wandb`: the run itself
(`offline-run-TIME-ID` or `run-TIME-ID`) and `files-ID-*`, the copies that an offline run has still to upload.
"""

import configparser
import csv
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from blendbench.checks import Check
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.runs import KEY
from blendbench.store.ledger import Ledger
from blendbench.store.signature import signature
from blendbench.store.write import make_folder
from blendbench.texts import from_spreadsheet

MODES = ("auto", "offline", "online", "disabled")
_NAMES = {*KEY, "experiment", "metric", "other", "recipe", "test"}  # text, even where they look like numbers
_MOST_TAG = 64  # characters of a tag that W&B takes
_MOST_INTEGER = 2**53  # beyond it, a browser rounds whole numbers
_SLACK = 2  # seconds that W&B's own time limit is ahead of ours


@dataclass
class TrackerConfig:
    """The config group `tracker`.

    Parameters
    ----------
    mode : {"disabled", "auto", "offline", "online"}
        "auto" is online if a log-in is at hand and WANDB_MODE does not say otherwise, else offline.
    project : str
    entity : str or None
        User or team; None leaves it to W&B.
    group : str
        Runs of the same name stand together; a sweep's runs share one.
    media_pairs : int
        Pairs whose sound and images are shown, the first in the run's order.
    timeout_s : float
        Seconds in which W&B must have started, a server's answer included.
    limit_s : float
        Seconds for all of it, the upload included.
    """

    mode: str = "disabled"
    project: str = "blendbench"
    entity: str | None = None
    group: str = ""
    media_pairs: int = 20
    timeout_s: float = 30.0
    limit_s: float = 600.0


class Table(NamedTuple):
    """Columns and rows; a cell that is a Path is a sound or an image."""

    columns: list[Any]
    rows: list[list[Any]]


class _Sent(NamedTuple):
    """Where a mirror went: the run's page, or the offline run's folder."""

    mode: str
    place: str


def mirror(run_dir: Path, settings: dict[str, Any], *, group: str = "") -> str | None:
    """Mirror a finished run to W&B as one run, and say where: its page, or the offline run's folder.

    One run holds the settings, the tables of `tables`, the figures of `RUN_DIR/figures`, and the values of `summary`.
    Never raises, and waits `tracker.limit_s` seconds at the most (`tracker.timeout_s` for the start): what goes wrong
    is one line on stderr.

    Parameters
    ----------
    run_dir : Path
        A finished run's folder.
    settings : dict
        The run's resolved settings; `settings["tracker"]` as `TrackerConfig` has it.
    group : str
        Stands in for `tracker.group`.

    Returns
    -------
    str or None
        None if tracking is disabled, or failed.
    """
    try:
        tracker = check(settings)
        mode = _mode(tracker.mode)
        if mode == "disabled":
            return None
        return _send(run_dir, settings, replace(tracker, mode=mode, group=group or tracker.group)).place
    except BlendbenchError as error:
        text = str(error)
    except Exception as error:
        text = f"{printable(run_dir)}: not mirrored to W&B: {type(error).__name__}: {error}"
    print(f"blendbench: {one_line(text)}", file=sys.stderr)
    return None


def push(run_dir: Path, settings: dict[str, Any]) -> str:
    """As `mirror`, asked for by name: `tracker.mode=disabled` counts as "auto". Returns the lines to print.

    Raises
    ------
    BlendbenchError
        If the folder is no finished run's, cannot be written, or W&B is missing, unreachable, or too slow.
    """
    tracker = check(settings)
    mode = _mode("auto" if tracker.mode == "disabled" else tracker.mode)
    if mode == "disabled":
        raise BlendbenchError("WANDB_MODE=disabled: nothing is sent; unset it, or set tracker.mode=offline")
    sent = _send(run_dir, settings, replace(tracker, mode=mode))
    if sent.mode == "online":
        return sent.place
    return f"{sent.place}\nnot uploaded; to do so, log in and type: wandb sync {shlex.quote(sent.place)}"


def run_id(run_dir: Path) -> str:
    """W&B's id of a run's folder, of its name and its `config.yaml`; where the folder lies does not count.

    Raises
    ------
    BlendbenchError
        If the folder has no sound `config.yaml`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from blendbench import config

    # The file as it was written: later versions fill in keys that would change the id of an old run.
    file = run_dir / "config.yaml"
    try:
        written = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError):
        raise BlendbenchError(
            f"{printable(run_dir)}: no sound config.yaml here; give the folder that `blendbench run` printed"
        ) from None
    if not isinstance(written, dict):
        raise BlendbenchError(f"{printable(file)}: not a run's settings; run the same command again")
    counted = {str(name): value for name, value in written.items() if name != "tracker"}
    return signature("mirror", 1, {"name": run_dir.resolve().name, "settings": config.digest(counted)})


def sweep_group(experiment: str, words: Sequence[str]) -> str:
    """Group of a sweep's runs: the experiment and a hash of the command's words, so that it is found again."""
    return f"{experiment.replace('/', '-')}-{signature('sweep', 1, {'words': list(words)})[:8]}"


def tables(run_dir: Path, media_pairs: int) -> dict[str, Table]:
    """The tables of a finished run, by name.

    "results" is `results.csv`, and "comparisons" `comparisons.csv`, if it is there; "table" is `table.csv`, all text;
    "pairs" has the rows of `pairs.jsonl`, a pair, arm and presentation each, and after their columns those that only
    `scores.csv` has; "media" has a row a pair and presentation for the first `media_pairs` pairs, a column an arm for
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


def check(settings: dict[str, Any]) -> TrackerConfig:
    """The settings' tracker.

    Raises
    ------
    BlendbenchError
        If a key is unknown or a value out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    entries = settings.get("tracker") or {}
    if not isinstance(entries, dict):
        raise BlendbenchError(f"tracker: {entries!r} is no tracker; use disabled or wandb")
    known = [field.name for field in fields(TrackerConfig)]
    for name in entries:
        if name not in known:
            raise BlendbenchError(f"tracker.{name}: no such key; there are {', '.join(known)}")
    try:
        tracker: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrackerConfig), entries))
    except OmegaConfBaseException as error:
        text = str(error).strip().splitlines()[0]
        raise BlendbenchError(
            f"tracker.{getattr(error, 'full_key', None)}: {text}; see `blendbench run --help`"
        ) from None
    ranges = [
        ("mode", tracker.mode in MODES, ", ".join(MODES)),
        ("media_pairs", tracker.media_pairs >= 0, "0 or more"),
        ("timeout_s", tracker.timeout_s > 0, "seconds above 0"),
        ("limit_s", tracker.limit_s > 0, "seconds above 0"),
    ]
    for name, sound, allowed in ranges:
        if not sound:
            raise BlendbenchError(f"tracker.{name}: {entries[name]!r} is out of range; use {allowed}")
    return tracker


def _mode(asked: str) -> str:
    """The mode taken: "auto" becomes another, by WANDB_MODE and whether a log-in is at hand."""
    if asked != "auto":
        return asked
    wanted = os.environ.get("WANDB_MODE") or "online"
    if wanted != "online":
        return "disabled" if wanted == "disabled" else "offline"
    return "online" if check_login().sound else "offline"


def _send(run_dir: Path, settings: dict[str, Any], tracker: TrackerConfig) -> _Sent:
    """Start the child process, wait for it, and put `RUN_DIR/wandb` in order."""
    where, identifier = printable(run_dir), run_id(run_dir)
    if not (run_dir / "pairs.jsonl").is_file():
        raise BlendbenchError(f"{where}: no pairs.jsonl here; give the folder that `blendbench run` printed")
    for name in ("results.csv", "table.csv"):
        if not (run_dir / name).is_file():
            raise BlendbenchError(f"{where}: no {name} here; run `blendbench table {where}` first")
    folder = (run_dir / "wandb").resolve()
    make_folder(folder)
    before = _own(folder, identifier)
    order = {
        "run_dir": str(run_dir.resolve()),
        "id": identifier,
        "settings": {name: value for name, value in settings.items() if name != "tracker"},
        "tracker": asdict(tracker),
    }
    try:
        files = Path(tempfile.mkdtemp(prefix=f"files-{identifier}-", dir=folder))
        answer = _ask(order, _environment(folder.parent, files), tracker)
    except BaseException as error:
        _remove(path for path in _own(folder, identifier) if path not in before)
        if not isinstance(error, BlendbenchError | OSError):
            raise
        again = "" if isinstance(error, BlendbenchError) else f"; `blendbench push {where}` tries again"
        raise BlendbenchError(f"{where}: not mirrored to W&B: {error}{again}") from None
    # An older mirror would be a second copy of the same run.
    _remove(path for path in before if path != Path(answer["folder"]))
    _remove([files] if tracker.mode == "online" else [path for path in files.iterdir() if path.name != "data"])
    return _Sent(tracker.mode, answer["url"] if tracker.mode == "online" else answer["folder"])


def _own(folder: Path, identifier: str) -> list[Path]:
    """What earlier mirrors of this run left in its folder."""
    return [path for pattern in (f"*run-*-{identifier}", f"files-{identifier}-*") for path in folder.glob(pattern)]


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(order: dict[str, Any], environment: dict[str, str], tracker: TrackerConfig) -> dict[str, str]:
    """The child's answer: `folder` and `url` of the run; raises BlendbenchError if there is none in time."""
    again = f"`blendbench push {shlex.quote(order['run_dir'])}` tries again"
    command = [sys.executable, "-P", "-m", "blendbench.trackers.wandb"]
    # Files, not pipes: W&B's service outlives a child that is killed, and would hold them open.
    with tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as said:
        try:
            status = subprocess.run(
                command,
                input=json.dumps(order, default=str).encode(),
                stdout=answered,
                stderr=said,
                env=environment,
                timeout=tracker.limit_s,
            ).returncode
        except subprocess.TimeoutExpired:
            raise BlendbenchError(f"not done in {tracker.limit_s:g} s (tracker.limit_s); {again}") from None
        answered.seek(0)
        said.seek(0)
        try:
            answer = json.loads(answered.read())
        except ValueError:
            lines = said.read().decode(errors="replace").strip().splitlines()
            answer = {"error": f"ended with status {status}" + (f" ({one_line(lines[-1])})" if lines else "")}
    if status == -signal.SIGALRM:
        raise BlendbenchError(f"no start in {tracker.timeout_s:g} s (tracker.timeout_s); {again}")
    if "error" in answer:
        raise BlendbenchError(f"{answer['error']}; {answer.get('remedy') or again}")
    return answer


# What would make the mirror a part of another run.
_FOREIGN = {
    f"WANDB_{name}"
    for name in (
        "ARGS", "CONFIG_PATHS", "FORK_FROM", "MODE", "RESUME", "RESUME_FROM", "RUN_ID", "SERVICE", "SWEEP_ID",
        "SWEEP_PARAM_PATH",
    )
}  # fmt: skip


def _environment(run_dir: Path, files: Path) -> dict[str, str]:
    """The child's environment: W&B quiet, and its folders within the run's; no other run's name."""
    places = {"DATA": "data", "CACHE": "cache", "CONFIG": "config", "ARTIFACT": "artifacts"}
    for name in (*places.values(), "tmp"):
        (files / name).mkdir()
    off = ("DISABLE_GIT", "DISABLE_CODE", "SILENT", "X_DISABLE_META", "X_DISABLE_STATS")
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return (
        _home_settings()
        | kept
        | {f"WANDB_{name}_DIR": str(files / place) for name, place in places.items()}
        | {f"WANDB_{name}": "true" for name in off}
        | {f"WANDB_{name}": "false" for name in ("ERROR_REPORTING", "SYMLINK", "X_SAVE_REQUIREMENTS")}
        | {"WANDB_DIR": str(run_dir), "WANDB_CONSOLE": "off", "TMPDIR": str(files / "tmp")}
    )


def _home_settings() -> dict[str, str]:
    """Server and entity that `wandb login` wrote down; the folder it did so in is not the child's."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(folder.expanduser() / "settings", encoding="utf-8")
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
        return {}
    names = ("base_url", "entity")
    return {f"WANDB_{name.upper()}": parser["default"][name] for name in names if parser.has_option("default", name)}


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


def _log(order: dict[str, Any]) -> dict[str, str]:
    """In the child: make the tables, start W&B, log all of it once, and wait until it is written or uploaded."""
    run_dir, settings, tracker = Path(order["run_dir"]), order["settings"], TrackerConfig(**order["tracker"])
    found = tables(run_dir, tracker.media_pairs)
    mode: Any = tracker.mode
    began = time.monotonic()
    # Ends the process, even where W&B hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(tracker.timeout_s) + _SLACK)
    import wandb

    left = max(1.0, tracker.timeout_s - (time.monotonic() - began))
    os.environ["WANDB_INIT_TIMEOUT"] = str(left)
    experiment = settings["experiment"]
    tags = [name[:_MOST_TAG] for name in dict.fromkeys([experiment["name"], *settings["dataset"]])]
    # Not resumed: a run of the same id starts over, so that each table is logged once, however often it is sent.
    with wandb.init(
        project=tracker.project, entity=tracker.entity, id=order["id"], name=run_dir.name, group=tracker.group or None,
        tags=tags, notes=experiment["title"], job_type="run", config=settings, dir=str(run_dir), mode=mode,
    ) as run:  # fmt: skip
        signal.alarm(0)
        # W&B would cut a table off.
        wandb.Table.MAX_ROWS = wandb.Table.MAX_ARTIFACT_ROWS = max(200_000, *(len(t.rows) for t in found.values()))
        whole = {name: wandb.Table(table.columns, [_shown(row) for row in table.rows]) for name, table in found.items()}
        figures = sorted((run_dir / "figures").glob("*.png"))
        run.log(whole | {f"figures/{file.stem}": wandb.Image(str(file)) for file in figures})
        run.summary.update(summary(found["results"]))
        folder, url = Path(run.dir).parent, run.url or ""
    lost = _lost(folder / "logs" / "debug-internal.log") if tracker.mode == "online" else ""
    if lost:
        raise BlendbenchError(f"not all of it was taken ({lost})")
    return {"folder": str(folder), "url": url}


def _lost(log: Path) -> str:
    """The first upload that failed, by W&B's own log; its API says nothing of one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] == "ERROR" and "failed to" in entry["msg"]:
                return one_line(entry["msg"])
    return ""


def _shown(row: list[Any]) -> list[Any]:
    """A table's row with W&B's players in place of files."""
    import wandb

    players = {True: wandb.Image, False: wandb.Audio}
    return [players[cell.suffix == ".png"](str(cell)) if isinstance(cell, Path) else cell for cell in row]


def _child() -> None:
    """The child process: an order on stdin, the answer on stdout, and nothing else there."""
    answered = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = _log(json.load(sys.stdin))
    except BaseException as error:
        text = (str(error).strip().splitlines() or [""])[0]
        answer = {"error": one_line(text if isinstance(error, BlendbenchError) else f"{type(error).__name__}: {text}")}
        if isinstance(error, ImportError) and error.name == "wandb":
            answer = {"error": "wandb is not installed", "remedy": "pip install wandb"}
        answered.write(json.dumps(answer))
        answered.flush()
        # At an ordinary end, W&B would try once more to reach its server.
        os._exit(1)
    answered.write(json.dumps(answer))
    answered.flush()


if __name__ == "__main__":
    _child()


def check_login() -> Check:
    """Whether a W&B log-in is at hand; never asks the network."""
    import netrc

    known = bool(os.environ.get("WANDB_API_KEY"))
    with suppress(OSError, netrc.NetrcParseError):
        known = known or netrc.netrc().authenticators("api.wandb.ai") is not None
    return Check(
        "wandb log-in", known, "logged in" if known else "not logged in", "`wandb login`; everything works without"
    )
