"""Whether a run is finished and nothing has changed since: found out from the sizes and times of files, without torch.

While a run works, the names of all files that the process opens to read, and of the folders that it lists, are noted:
tables, manifests, clips, weights, the user's own modules. `RUN_DIR/finished.json` keeps them with size and time of
change, beside the settings and the files that the run wrote. Where all is as it was, there is nothing to do.
"""

import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Self

from blendbench import __version__
from blendbench.store import PAIR_KEY, Ledger, canonical, write_bytes

VERSION = 1
_IGNORED = ("/proc/", "/dev/", "/sys/", "/tmp/pip")
_SPEED = {"executor", "batch", "device", "dry_run", "retry_failed", "threads"}
"""Settings that do not change what a finished run holds."""
_OUTPUTS = (
    "pairs.jsonl", "results.csv", "scores.csv", "comparisons.csv", "table.md", "table.csv", "table.tex",
    "report/index.html",
)  # fmt: skip


class Watch:
    """Notes which files are opened to be read, and which folders listed, while it is open; and all modules' sources.

    Attributes
    ----------
    files : set of Path
        Absolute, what the interpreter and its libraries are made of left out.
    """

    _open: "Watch | None" = None
    _hooked = False
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        with Watch._lock:
            Watch._open = self
            if not Watch._hooked:
                sys.addaudithook(_note)  # stays for good, and does nothing while no watch is open
                Watch._hooked = True
        return self

    def __exit__(self, *exception: object) -> None:
        Watch._open = None
        libraries = tuple(f"{Path(one).absolute()}/" for one in (sys.prefix, sys.base_prefix))
        modules = {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
        for path in (Path(str(name)).absolute() for name in self._names | modules):
            if not str(path).startswith((*libraries, *_IGNORED)) and path.suffix not in (".pyc", ".part"):
                self.files.add(path)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    watch = Watch._open
    if watch is None or event not in ("open", "os.listdir", "os.scandir"):
        return
    name = arguments[0]
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    if isinstance(name, str | bytes | os.PathLike):
        watch._names.add(os.fsdecode(name))


def note(run_dir: Path, settings: dict[str, Any], files: set[Path]) -> None:
    """Write down that a run is finished, unless rows of it are to be tried again.

    Parameters
    ----------
    run_dir : Path
    settings : dict
    files : set of Path
        What the run has read.
    """
    if any(row.get("retry") for row in Ledger(run_dir / "pairs.jsonl", PAIR_KEY)):
        (run_dir / "finished.json").unlink(missing_ok=True)
        return
    own = [Path(place).absolute() for place in (run_dir, settings["store_dir"])]
    read = {str(file): _state(file) for file in sorted(files) if not any(file.is_relative_to(one) for one in own)}
    facts = {"digest": _digest(settings), "read": read, "written": _written(run_dir, settings)}
    write_bytes(run_dir / "finished.json", (json.dumps(facts) + "\n").encode())


def is_finished(settings: dict[str, Any], run_dir: Path) -> bool:
    """Whether these settings were run in this folder to the end, and no file that they read or wrote has changed."""
    try:
        facts = json.loads((run_dir / "finished.json").read_bytes())
        if facts["digest"] != _digest(settings) or facts["written"] != _written(run_dir, settings):
            return False
        if any(_state(Path(file)) != state for file, state in facts["read"].items()):
            return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    for row in Ledger(run_dir / "pairs.jsonl", PAIR_KEY):
        if row["status"] == "ok":
            try:
                if (run_dir / row["mix"]).stat().st_size != row["bytes"]:
                    return False
            except OSError:
                return False
    return True


def _digest(settings: dict[str, Any]) -> str:
    counted = {name: value for name, value in settings.items() if name not in _SPEED}
    return hashlib.sha256(canonical([VERSION, __version__, str(Path.cwd()), counted]).encode()).hexdigest()


def _written(run_dir: Path, settings: dict[str, Any]) -> dict[str, list[int] | None]:
    figures = sorted((run_dir / "figures").glob("*")) if settings["experiment"].get("figures") else []
    files = [*(run_dir / name for name in _OUTPUTS), *figures]
    return {file.relative_to(run_dir).as_posix(): _state(file) for file in files}


def _state(path: Path) -> list[int] | None:
    """Size and time of change of a file, or of a folder's list; None where there is none."""
    try:
        there = path.stat()
    except OSError:
        return None
    return [there.st_size, there.st_mtime_ns]
