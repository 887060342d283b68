"""What listeners answer: an SQLite database in WAL mode, in which what was acknowledged outlives a crash.

It holds ratings under listeners' numbers, and of their links a hash. Nothing tells who a listener is. Who withdraws
leaves nothing but that fact.
"""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.listening.study import Page, Sample, Study, position

_SCHEMA = """
CREATE TABLE IF NOT EXISTS listeners (
    number INTEGER PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, state TEXT NOT NULL DEFAULT 'invited',
    volume_set INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS checks (
    listener INTEGER NOT NULL, attempt INTEGER NOT NULL, trial INTEGER NOT NULL, answer INTEGER NOT NULL,
    PRIMARY KEY (listener, attempt, trial)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ratings (
    listener INTEGER NOT NULL, page INTEGER NOT NULL, condition TEXT NOT NULL, scale TEXT NOT NULL,
    value INTEGER NOT NULL, changes INTEGER NOT NULL DEFAULT 0, stamp INTEGER NOT NULL,
    PRIMARY KEY (listener, page, condition, scale)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pages (
    listener INTEGER NOT NULL, page INTEGER NOT NULL, seconds REAL NOT NULL, plays TEXT NOT NULL,
    PRIMARY KEY (listener, page)
) STRICT, WITHOUT ROWID;
"""
ATTEMPTS = 2
"""At the headphone check."""
FIRST, REFERENCE = "first", "reference"
"""Names, on a page, of the sound that is heard first, and of the open reference; clips are A, B, C, ..."""


_NOT_NOW = "this is not asked now; load the page again"


class Refused(BlendbenchError):
    """An answer that does not fit where the listener is."""


class Listener(NamedTuple):
    """A listener as the database knows them."""

    number: int
    state: str
    """"invited", "consented", "finished", "refused" (failed a required headphone check) or "withdrawn"."""
    volume_set: bool


class Progress(NamedTuple):
    """Where a listener is.

    `step` is "consent", "volume", "headphones", "page", "finished", "refused" or "withdrawn".
    """

    step: str
    attempt: int = 0
    trial: int = 0
    page: int = 0


class Answers:
    """The database of a study; may be used from several threads and processes.

    Parameters
    ----------
    study : Study

    Raises
    ------
    BlendbenchError
        If the file cannot be opened or is damaged.
    """

    def __init__(self, study: Study) -> None:
        self.study, self._lock = study, Lock()
        self.path = study.folder / "answers.sqlite"
        self._pages: dict[int, list[Page]] = {}
        if (study.folder / "links.csv").exists() and not self.path.exists():
            raise BlendbenchError(
                f"{self.path}: missing, though links.csv is there; put it back from a copy, or delete links.csv and "
                "send new links"
            )
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self.path.chmod(0o600)
            # FULL: an answer is on the disk before it is acknowledged. The others: who withdraws leaves no bytes.
            for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
                self._connection.execute(f"PRAGMA {setting}")
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise BlendbenchError(f"{self.path}: cannot be used ({error}); put it back from a copy") from None

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread a time; its errors are BlendbenchErrors."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise BlendbenchError(
                    f"{self.path}: cannot be used ({error}); free space, mend its rights, or put it back from a copy"
                ) from error

    @contextmanager
    def _writing(self, listener: Listener | None = None) -> Iterator[sqlite3.Connection]:
        """One transaction, forced to disk at its end; Refused if the listener is not as given any longer."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if listener is not None:
                    query = "SELECT state, volume_set FROM listeners WHERE number = ?"
                    if connection.execute(query, (listener.number,)).fetchone() != listener[1:]:
                        raise Refused(_NOT_NOW)  # another window was faster
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:  # also after a commit that found the disk full
                    connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._connected() as connection:
            return connection.execute(query, values).fetchall()

    def invite(self, count: int) -> dict[int, str]:
        """Add listeners; returns their tokens, which are kept nowhere in the database, by number."""
        tokens = {}
        with self._writing() as connection:
            (first,) = connection.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM listeners").fetchone()
            for number in range(first, first + count):
                tokens[number] = secrets.token_urlsafe(24)
                row = (number, _hash(tokens[number]))
                connection.execute("INSERT INTO listeners (number, token_hash) VALUES (?, ?)", row)
        return tokens

    def listener(self, token: str) -> Listener | None:
        """Who has a token."""
        found = self._rows("SELECT number, state, volume_set FROM listeners WHERE token_hash = ?", _hash(token))
        return Listener(found[0][0], found[0][1], bool(found[0][2])) if found else None

    def listeners(self) -> list[Listener]:
        """All who were invited."""
        found = self._rows("SELECT number, state, volume_set FROM listeners ORDER BY number")
        return [Listener(number, state, bool(volume)) for number, state, volume in found]

    def pages(self, listener: int) -> list[Page]:
        """What the listener hears."""
        if listener not in self._pages:
            self._pages[listener] = self.study.pages(listener)
        return self._pages[listener]

    def progress(self, listener: Listener) -> Progress:
        """Where a listener is."""
        if listener.state == "invited":
            return Progress("consent")
        if listener.state != "consented":
            return Progress(listener.state)
        if not listener.volume_set:
            return Progress("volume")
        trials = len(self.study.checks)
        if trials:
            found = self._rows("SELECT attempt, trial, answer FROM checks WHERE listener = ?", listener.number)
            by_attempt: dict[int, dict[int, int]] = {}
            for attempt, trial, answer in found:
                by_attempt.setdefault(attempt, {})[trial] = answer
            attempt = max(by_attempt, default=0)
            if len(by_attempt.get(attempt, {})) < trials:
                return Progress("headphones", attempt=attempt, trial=len(by_attempt.get(attempt, {})))
            if not self._passed(by_attempt[attempt]) and attempt + 1 < ATTEMPTS:
                return Progress("headphones", attempt=attempt + 1)
        done = {page for (page,) in self._rows("SELECT page FROM pages WHERE listener = ?", listener.number)}
        coming = next((page.index for page in self.pages(listener.number) if page.index not in done), None)
        return Progress("finished") if coming is None else Progress("page", page=coming)

    def _passed(self, answers: Mapping[int, int]) -> bool:
        right = sum(answers.get(trial) == answer for trial, (_, answer) in enumerate(self.study.checks))
        return right >= self.study.settings.headphone_check.needed

    def ratings(self, listener: int, page: int) -> dict[str, dict[str, int]]:
        """A listener's ratings on a page: value by position and scale."""
        found = self._rows(
            "SELECT condition, scale, value FROM ratings WHERE listener = ? AND page = ?", listener, page
        )
        place = {condition: position(index) for index, condition in enumerate(self.pages(listener)[page].order)}
        out: dict[str, dict[str, int]] = {}
        for condition, scale, value in found:
            out.setdefault(place[condition], {})[scale] = value
        return out

    def latest_stamp(self, listener: int) -> int:
        """The latest stamp of a listener's ratings, 0 without any: later ones must be above it, by whatever clock."""
        return self._rows("SELECT COALESCE(MAX(stamp), 0) FROM ratings WHERE listener = ?", listener)[0][0]

    def consent(self, listener: Listener) -> None:
        """Note that a listener takes part; raises Refused unless that is asked."""
        _require(self.progress(listener), "consent")
        with self._writing(listener) as connection:
            connection.execute("UPDATE listeners SET state = 'consented' WHERE number = ?", (listener.number,))

    def set_volume(self, listener: Listener) -> None:
        """Note that a listener has set the volume; raises Refused unless that is asked."""
        _require(self.progress(listener), "volume")
        with self._writing(listener) as connection:
            connection.execute("UPDATE listeners SET volume_set = 1 WHERE number = ?", (listener.number,))

    def check(self, listener: Listener, attempt: int, trial: int, answer: int) -> None:
        """Keep an answer of the headphone check, the first given; raises Refused if another trial is asked."""
        at = self.progress(listener)
        asked = trial < len(self.study.checks) and (attempt, trial) <= (at.attempt, at.trial)
        if at.step != "headphones" or not asked:
            raise Refused("this trial of the headphone check is not asked now")
        row = (listener.number, attempt, trial, answer)
        with self._writing(listener) as connection:
            connection.execute("INSERT INTO checks VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
            if self.study.settings.headphone_check.required and attempt + 1 == ATTEMPTS:
                found = connection.execute(
                    "SELECT trial, answer FROM checks WHERE listener = ? AND attempt = ?", (listener.number, attempt)
                ).fetchall()
                if len(found) == len(self.study.checks) and not self._passed(dict(found)):
                    connection.execute("UPDATE listeners SET state = 'refused' WHERE number = ?", (listener.number,))

    def rate(self, listener: Listener, page: int, place: str, scale: str, value: int, stamp: int) -> None:
        """Keep a rating; of several for one clip and scale the one with the latest stamp counts.

        Parameters
        ----------
        listener : Listener
        page : int
        place : str
            Position of the clip: A, B, C, ...
        scale : str
        value : int
            In the study's range.
        stamp : int
            When it was given by the listener's clock, in milliseconds; the same answer sent twice has the same.

        Raises
        ------
        Refused
            If the listener is not at that page, or there is no such clip or scale.
        """
        _require(self.progress(listener), "page", page)
        order = self.pages(listener.number)[page].order
        index = ord(place) - ord("A") if len(place) == 1 else -1
        known = 0 <= index < len(order) and scale in self.study.scales
        if not known or value not in self.study.settings.range.values:
            raise Refused("there is no such clip, scale or value on this page")
        with self._writing(listener) as connection:
            # Another window may have ended the page meanwhile.
            key = (listener.number, page)
            if connection.execute("SELECT 1 FROM pages WHERE listener = ? AND page = ?", key).fetchone():
                raise Refused("this page is done")
            connection.execute(
                "INSERT INTO ratings (listener, page, condition, scale, value, stamp) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value, stamp = excluded.stamp, "
                "changes = changes + (value != excluded.value) WHERE excluded.stamp > stamp",
                (*key, order[index], scale, value, stamp),
            )

    def finish_page(self, listener: Listener, page: int, seconds: float, plays: Mapping[str, int]) -> None:
        """End a page once all on it is rated; `plays` holds how often each sound (`FIRST`, "A", ...) was played.

        Raises
        ------
        Refused
            If the listener is not at that page, or not all is rated.
        """
        pages, at = self.pages(listener.number), self.progress(listener)
        if page < (len(pages) if at.step == "finished" else at.page):
            return  # the same request once more, as its answer was lost
        _require(at, "page", page)
        order = pages[page].order
        names = [FIRST, *([REFERENCE] if pages[page].sample.reference else []), *map(position, range(len(order)))]
        counted = {name: int(plays.get(name, 0)) for name in names}
        with self._writing(listener) as connection:
            key = (listener.number, page)
            query = "SELECT COUNT(*) FROM ratings WHERE listener = ? AND page = ?"
            (rated,) = connection.execute(query, key).fetchone()
            if rated < len(order) * len(self.study.scales):
                raise Refused("not everything on this page is rated yet")
            row = (*key, seconds, json.dumps(counted))
            connection.execute("INSERT INTO pages VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
            (done,) = connection.execute("SELECT COUNT(*) FROM pages WHERE listener = ?", key[:1]).fetchone()
            if done == len(pages):
                connection.execute("UPDATE listeners SET state = 'finished' WHERE number = ?", key[:1])

    def withdraw(self, listener: Listener) -> None:
        """Delete all that a listener has answered."""
        with self._writing() as connection:
            for table in ("checks", "ratings", "pages"):
                connection.execute(f"DELETE FROM {table} WHERE listener = ?", (listener.number,))
            connection.execute(
                "UPDATE listeners SET state = 'withdrawn', volume_set = 0 WHERE number = ?", (listener.number,)
            )
        with self._connected() as connection:
            # SQLite moves rows between pages and leaves copies; what was deleted is in the log, too.
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def headphones(self) -> dict[int, bool]:
        """Who has passed the headphone check at the last attempt; without those who have not come so far."""
        found: dict[int, dict[int, dict[int, int]]] = {}
        for listener, attempt, trial, answer in self._rows("SELECT listener, attempt, trial, answer FROM checks"):
            found.setdefault(listener, {}).setdefault(attempt, {})[trial] = answer
        last = {listener: attempts[max(attempts)] for listener, attempts in found.items()}
        return {one: self._passed(given) for one, given in last.items() if len(given) == len(self.study.checks)}

    def export(self) -> pd.DataFrame:
        """All ratings, also of practice and of pages not ended: `columns`, in order of listener and page."""
        pages = {
            (listener, page): (seconds, json.loads(plays))
            for listener, page, seconds, plays in self._rows("SELECT listener, page, seconds, plays FROM pages")
        }
        query = "SELECT listener, page, condition, scale, value, changes FROM ratings"
        lines = []
        for listener, number, condition, scale, value, changes in self._rows(query):
            page = self.pages(listener)[number]
            place = position(page.order.index(condition))
            seconds, plays = pages.get((listener, number), (None, {}))
            given = [condition, scale, value, changes, plays.get(place), seconds]
            lines.append([listener, number, place, page.kind, *facts_of(self.study, page.sample), *given])
        return table(self.study, lines)


def _require(at: Progress, step: str, page: int | None = None) -> None:
    if at.step != step or (page is not None and at.page != page):
        raise Refused(_NOT_NOW)


def columns(study: Study) -> list[str]:
    """Columns of an export.

    `kind` is the sample's, or "repeat" where the listener has rated it before; `arm` is the condition: an arm, what is
    hidden among them, or a part alone in a catch trial; `page_s` is seconds on the page.
    """
    return [
        "listener", "page", "position", "kind", "sample", "pair_id", "dataset", *study.subject.classes, "arm", "scale",
        "value", "changes", "plays", "page_s",
    ]  # fmt: skip


def facts_of(study: Study, sample: Sample) -> list[str]:
    """The columns from `sample` on to those of the task."""
    return [sample.name, sample.pair_id, sample.dataset, *(sample.facts[name] for name in study.subject.classes)]


def table(study: Study, lines: list[list[Any]]) -> pd.DataFrame:
    """Ratings, each a line of the values of `columns`, in order of listener, page, position and scale."""
    scales, names = list(study.scales), columns(study)
    scale = names.index("scale")
    lines.sort(key=lambda line: (line[0], line[1], line[2], scales.index(line[scale])))
    return pd.DataFrame(lines, columns=names)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
