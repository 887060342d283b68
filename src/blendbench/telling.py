"""What a long command says while it works: bars on a terminal, elsewhere a line every half minute, nothing if quiet.

A `stage` is a part of the work, with a name and, where it is known, how many things it has to do. Stages nest: a line
names them from the outermost to the innermost, so it also tells when one step of many takes long. A thread writes the
lines, to standard error. How long each stage took, without those within it, adds up for the line at a command's end.

Stages belong to the process, not to a run: what works deep within need not be handed anything. They are begun and ended
by the main thread; other threads may read what `now` says.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tqdm import tqdm

EVERY_S = 30.0
"""Seconds between two lines."""


def clock(seconds: float) -> str:
    """Seconds as 0:05, 1:02:03 or 2 d 3:00:00."""
    whole = round(seconds)
    days, hours = divmod(whole // 3600, 24)
    short = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    text = f"{hours}:{short}" if hours or days else f"{whole // 60 % 60}:{whole % 60:02d}"
    return f"{days} d {text}" if days else text


class Stage:
    """A part of the work; made by `stage`.

    Attributes
    ----------
    name : str
    total : int or None
        Things to do; None where that is not known.
    unit : str
        What one thing is called.
    note : str
        What else is told.
    """

    def __init__(
        self, name: str, total: int | None, unit: str, done: int | Callable[[], int], bar: bool, kind: str
    ) -> None:
        self.name, self.total, self.unit, self.note, self.kind = name, total, unit, "", kind
        self._asked = done if callable(done) else None
        self._count = 0 if callable(done) else done
        self._began, self._first = time.monotonic(), self.done
        shown = bar and bars() and total != 0
        scale = unit == "B"
        words = {"desc": name or f"{unit}s", "unit": unit, "unit_scale": scale, "initial": self._first}
        self._bar = tqdm(total=total, leave=True, **words) if shown else None

    @property
    def done(self) -> int:
        """Things that are done."""
        return self._count if self._asked is None else self._asked()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)

    def look(self, note: str = "") -> None:
        """Show what a stage that others work at has come to, and what else is told of it."""
        self.note = note
        if self._bar is not None:
            self._bar.update(self.done - self._bar.n)
            self._bar.set_postfix_str(note)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def text(self, innermost: bool = True) -> str:
        """As in `bnmusic, 7 of 21 pairs, 8.2 s a pair, about 1:55 left`; the pace of the innermost stage alone."""
        parts, count = [self.name] if self.name else [], self.done
        seconds, came = time.monotonic() - self._began, count - self._first
        if self.total is not None:
            amounts = (f"{count / 1e6:.1f}", f"{self.total / 1e6:.1f} MB") if self.unit == "B" else None
            done, total = amounts or (str(count), f"{self.total} {self.unit}s".rstrip())
            parts.append(f"{done} of {total}")
        elif self.unit == "B":
            parts.append(f"{count / 1e6:.1f} MB")
        elif count:
            parts.append(f"{count} {self.unit}s")
        if self.note:
            parts.append(self.note)
        if innermost and came > 0:
            parts.append(self._pace(came, seconds))
            if self.total is not None and count < self.total:
                parts.append(f"about {clock(seconds / came * (self.total - count))} left")
        elif innermost:
            parts.append(f"for {clock(seconds)}")
        return ", ".join(parts)

    def _pace(self, came: int, seconds: float) -> str:
        if self.unit == "B":
            return f"{came / 1e6 / max(seconds, 1e-9):.1f} MB/s"
        one = self.unit or "step"
        return f"{seconds / came:.1f} s a {one}" if seconds > came else f"{came / max(seconds, 1e-9):.1f} {one}s/s"


class _Process:
    """What this process is at; there is one."""

    quiet = False
    stages: list[Stage] = []
    seconds: dict[str, float] = {}
    began = time.monotonic()
    mark = time.monotonic()
    """When the present stage began, or went on."""


def bars() -> bool:
    """Whether bars are shown, a library's own among them."""
    return not _Process.quiet and sys.stderr.isatty()


def _spend() -> None:
    """Put the time since the last mark to the account of the present stage."""
    now = time.monotonic()
    kind = _Process.stages[-1].kind if _Process.stages else ""
    _Process.seconds[kind] = _Process.seconds.get(kind, 0.0) + now - _Process.mark
    _Process.mark = now


@contextmanager
def stage(
    name: str,
    total: int | None = None,
    unit: str = "",
    *,
    done: int | Callable[[], int] = 0,
    bar: bool = True,
    kind: str = "",
) -> Iterator[Stage]:
    """Tell of a part of the work while the context lasts.

    Parameters
    ----------
    name : str
    total : int, optional
        Things to do.
    unit : str
        What one of them is called, such as "pair"; "B" counts bytes.
    done : int or callable
        Of which done already; or what to ask how many are, where others do them.
    bar : bool
        Whether a terminal shows a bar of it.
    kind : str
        Whose account its seconds go to; its parent's if left out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Stage(name, total, unit, done, False, kind)  # not the process's
        return
    _spend()
    parent = _Process.stages[-1].kind if _Process.stages else ""
    one = Stage(name, total, unit, done, bar, kind or parent)
    _Process.stages.append(one)
    try:
        yield one
    finally:
        _spend()
        one.close()
        _Process.stages.remove(one)


def now() -> str:
    """What this process is at, as in `make: bnmusic, 7 of 21 pairs, 8.2 s a pair, about 1:55 left`; "" between."""
    stages = list(_Process.stages)
    return ": ".join(one.text(one is stages[-1]) for one in stages)


def restart() -> None:
    """Begin the accounts anew, as a command does that runs several experiments."""
    _Process.seconds.clear()
    _Process.began = _Process.mark = time.monotonic()


def accounts() -> dict[str, float]:
    """Seconds by kind of stage so far, in the order of their first use; "" holds what belongs to none."""
    _spend()
    return dict(_Process.seconds)


class aloud:
    """While the context lasts, say every half minute what the process is at, unless a terminal shows it, or quiet."""

    def __init__(self, quiet: bool = False, every: float | None = None) -> None:
        self._quiet, self._every = quiet, EVERY_S if every is None else every
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._before, _Process.quiet = _Process.quiet, self._quiet
        restart()
        if not self._quiet and not sys.stderr.isatty():
            self._thread = threading.Thread(target=self._speak, daemon=True, name="telling")
            self._thread.start()
        return self

    def _speak(self) -> None:
        began = time.monotonic()
        while not self._over.wait(self._every):
            if text := now():
                line = f"[{clock(time.monotonic() - began)}] {text}"
                try:
                    print(line, file=sys.stderr, flush=True)
                except (OSError, ValueError):
                    return  # who listened has gone

    def __exit__(self, *exception: object) -> None:
        _Process.quiet = self._before
        self._over.set()
        if self._thread is not None:
            self._thread.join()
