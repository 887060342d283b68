"""Whether a run is finished and nothing has changed since: found out from the sizes and times of files, without torch.

While a run works, the names of all files that the process opens to read, and of the folders that it lists, are noted:
tables, manifests, clips, weights, the user's own modules. `RUN_DIR/finished.json` keeps them with size and time of
change, beside the settings and the files that the run wrote. Where all is as it was, there is nothing to do.
"""

import hashlib
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from blendbench import __version__
from blendbench.runs import KEY
from blendbench.store.ledger import Ledger
from blendbench.store.signature import canonical
from blendbench.store.write import write_bytes

VERSION = 1
_IGNORED = ("/proc/", "/dev/", "/sys/")
_SPEED = {"executor", "batch", "device", "dry_run", "retry_failed", "threads"}
"""Settings that do not change what a finished run holds."""
_FILES = (
    "pairs.jsonl", "results.csv", "scores.csv", "comparisons.csv", "table.md", "table.csv", "table.tex", "plan.json",
)  # fmt: skip
_FOLDERS = ("report", "figures", "images")
State = list[int] | None
"""Size in bytes and time of change in ns of a file, or of a folder's list; None where there is none."""


class Watch:
    """Notes which files are opened to be read, and which folders listed, while it is open, in this process.

    What libraries in C or Rust open is not seen; `add` tells of it. A file's state is that at its first opening, so one
    that is changed while the run works is found changed afterwards.

    Attributes
    ----------
    files : dict of str to State
        Absolute paths, what the interpreter and its libraries are made of left out; complete when it is closed.
    """

    _open: "Watch | None" = None
    _hooked = False
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.files: dict[str, State] = {}
        self._seen: dict[str, State] = {}
        kinds, places = ("stdlib", "platstdlib", "purelib", "platlib"), sysconfig.get_paths()
        self._libraries = tuple(f"{Path(places[kind]).absolute()}/" for kind in kinds)

    def __enter__(self) -> Self:
        with Watch._lock:
            Watch._open = self
            if not Watch._hooked:
                sys.addaudithook(_note)  # stays for good, and does nothing while no watch is open
                Watch._hooked = True
        self._add_modules()
        return self

    def _add_modules(self) -> None:
        """Modules are compiled once, so their sources need not be opened."""
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        self.add({Path(file) for file in files if file and not file.startswith(self._libraries)})

    def add(self, paths: Iterable[Path]) -> None:
        """Note files that something else than Python's own `open` reads."""
        for path in paths:
            name = os.fspath(path)
            if name not in self._seen:
                self._seen[name] = _state(name)

    def __exit__(self, *exception: object) -> None:
        Watch._open = None
        self._add_modules()
        for name, state in self._seen.items():
            path = Path(name).absolute()
            if not str(path).startswith((*self._libraries, *_IGNORED)) and path.suffix not in (".pyc", ".part"):
                self.files[str(path)] = state


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    watch = Watch._open
    if watch is None or event not in ("open", "os.listdir", "os.scandir"):
        return
    name = arguments[0]
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    if isinstance(name, str | bytes | os.PathLike):
        watch.add([Path(os.fsdecode(name))])


def note(run_dir: Path, settings: dict[str, Any], files: Mapping[str, State]) -> None:
    """Write down that a run is finished, unless rows of it are to be tried again.

    Parameters
    ----------
    run_dir : Path
    settings : dict
    files : mapping of str to State
        What the run has read.
    """
    if any(row.get("retry") for row in Ledger(run_dir / "pairs.jsonl", KEY)):
        (run_dir / "finished.json").unlink(missing_ok=True)
        return
    own = tuple(f"{Path(place).absolute()}/" for place in (run_dir, settings["store_dir"]))
    read = {name: state for name, state in sorted(files.items()) if not f"{name}/".startswith(own)}
    facts = {"digest": _digest(settings), "read": read, "written": _written(run_dir)}
    write_bytes(run_dir / "finished.json", (json.dumps(facts) + "\n").encode())


def is_finished(settings: dict[str, Any], run_dir: Path) -> bool:
    """Whether these settings were run in this folder to the end, and no file that they read or wrote has changed."""
    try:
        facts = json.loads((run_dir / "finished.json").read_bytes())
        if facts["digest"] != _digest(settings) or facts["written"] != _written(run_dir):
            return False
        if any(_state(file) != state for file, state in facts["read"].items()):
            return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    for row in Ledger(run_dir / "pairs.jsonl", KEY):
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


def _written(run_dir: Path) -> dict[str, State]:
    files = [run_dir / name for name in _FILES]
    files += [file for name in _FOLDERS for file in sorted((run_dir / name).rglob("*")) if file.is_file()]
    return {file.relative_to(run_dir).as_posix(): _state(os.fspath(file)) for file in files}


def _state(name: str) -> State:
    try:
        there = Path(name).stat()
    except (OSError, ValueError):
        return None
    return [there.st_size, there.st_mtime_ns]
