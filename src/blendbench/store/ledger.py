"""Ledgers: append-only files of JSON lines, found again by key.

A row is appended, and forced to disk, once its file is in place, so a row's file always exists. A line torn by a killed
process is passed over, and what is appended next starts a new line; of rows with the same key, the last counts. Writers
take the file's lock, so any number of processes may append to one ledger.
"""

import hashlib
import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from blendbench.errors import BlendbenchError
from blendbench.store.write import locked, write_all, write_failure, write_lines


class Ledger:
    """Append-only rows in a file, a JSON object a line, found again by key.

    Only a sorted array of hashes of the keys, with the rows' places, is held in memory: 16 bytes a row, whatever it
    holds. Any number of processes may append, on one machine or on several that share a disk with working locks; what
    others append is seen after `refresh`, and after an append of one's own.

    Parameters
    ----------
    path : Path
        The file; made with its folder at the first append.
    key : sequence of str
        Columns that identify a row.
    """

    _file: Any = None
    _reader: Any = None

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self.key = path, tuple(key)
        self._forget(None)
        self.refresh()

    def _forget(self, inode: int | None) -> None:
        self.close()
        self._index, self._read_to, self._inode = _Index(), 0, inode

    def refresh(self) -> None:
        """Take in the rows that were appended since the last look, by whomever; also if the file was replaced."""
        try:
            there = self.path.stat()
            if there.st_ino != self._inode:
                self._forget(there.st_ino)
            if there.st_size <= self._read_to:
                return
            file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        with file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn by a crash, or another process is still writing it
                key = self._key_of(line)
                if key is not None:
                    self._index.put(_hash_of(key), self._read_to)
                self._read_to += len(line)

    def _key_of(self, line: bytes) -> tuple | None:
        """Key of a line; None for one that is no row, such as what a crash has torn: its work is done again."""
        row = _row_of(line)
        try:
            return None if row is None else tuple([row[name] for name in self.key])
        except KeyError:
            return None

    def get(self, *key: Any) -> dict | None:
        """The row of a key, or None."""
        place = self.place(*key)
        row = None if place is None else self.at(place)
        return row if row is not None and tuple([row.get(name) for name in self.key]) == key else None

    def place(self, *key: Any) -> int | None:
        """Where the row of a key begins in the file, or None; `at` reads it."""
        return self._index.get(_hash_of(key))

    def places(self) -> Iterator[int]:
        """Where the rows that count begin, in the order in which they were appended."""
        return self._index.places()

    def at(self, place: int) -> dict | None:
        """The row that begins at a place of the file; None where none does."""
        try:
            if self._reader is None:
                self._reader = self.path.open("rb")
            line = os.pread(self._reader.fileno(), 2048, place)
            while b"\n" not in line and (more := os.pread(self._reader.fileno(), 65536, place + len(line))):
                line += more
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        return _row_of(line.partition(b"\n")[0])

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[dict]:
        """The rows that count, in the order in which they were appended."""
        for place in self.places():
            row = self.at(place)
            if row is not None:
                yield row

    def append(self, row: dict[str, Any]) -> None:
        """Write a row and force it to disk; raises BlendbenchError if the folder cannot be written."""
        line = (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()
        try:
            with self._locked():
                end = self._file.seek(0, os.SEEK_END)
                start = end
                if end and os.pread(self._file.fileno(), 1, end - 1) != b"\n":
                    line, start = b"\n" + line, end + 1
                try:
                    write_all(self._file, line)
                    os.fsync(self._file.fileno())
                except OSError:
                    # Half a row would look like a crash to who comes next; the disk is full, and this frees it.
                    with suppress(OSError):
                        os.ftruncate(self._file.fileno(), end)
                    raise
                if end == self._read_to:
                    self._read_to = end + len(line)
                else:
                    self.refresh()  # what others wrote before it, in its order
                self._index.put(_hash_of(tuple(row[name] for name in self.key)), start)
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be written ({write_failure(error)})") from error

    def others(self, keys: Iterable[tuple]) -> int:
        """How many rows have none of these keys."""
        return self._index.others(np.fromiter(map(_hash_of, keys), "<u8"))

    def keep(self, keys: Iterable[tuple]) -> int:
        """Rewrite the file with the rows of these keys alone, in their order; returns how many keys have no row.

        Raises
        ------
        BlendbenchError
            If the folder cannot be written.
        """
        lacking = 0

        def lines() -> Iterator[str]:
            nonlocal lacking
            for key in keys:
                row = self.get(*key)
                if row is None:
                    lacking += 1
                else:
                    yield json.dumps(row, ensure_ascii=False, default=str) + "\n"

        try:
            with self._locked():
                self.refresh()
                write_lines(self.path, lines())
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be written ({write_failure(error)})") from error
        self._forget(None)
        self.refresh()
        return lacking

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The file open to append, locked, and not replaced by another process meanwhile."""
        while True:
            self._open_to_append()
            with locked(self._file):
                if self._is_current():
                    yield
                    return

    def _open_to_append(self) -> None:
        if self._file is not None and not self._is_current():
            self._forget(None)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b", buffering=0)
            if (here := os.fstat(file.fileno()).st_ino) != self._inode:
                self._forget(here)
            self._file = file

    def _is_current(self) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        for file in (self._file, self._reader):
            if file is not None:
                file.close()
        self._file = self._reader = None

    __del__ = close


def mean_seconds(ledger: Ledger) -> float | None:
    """Mean of `seconds` over the first thousand rows that have them; None if none has."""
    found = [row["seconds"] for row in itertools.islice(ledger, 1000) if "seconds" in row]
    return sum(found) / len(found) if found else None


class Rows(Sequence[dict]):
    """A ledger's rows in the order of their keys, read from disk when asked for: eight bytes of memory a row.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        keys, places = [], array("q")
        for place in ledger.places():
            row = ledger.at(place)
            if row is not None:
                # Bytes take less memory, and have the order of the characters.
                text = "\x00".join(str(row[name]) for name in ledger.key)
                keys.append(text.encode("utf-8", "surrogatepass"))
                places.append(place)
        order = np.fromiter(sorted(range(len(keys)), key=keys.__getitem__), int, len(keys))
        self._places = np.frombuffer(places, "<i8")[order] if keys else np.empty(0, "<i8")

    def only(self, wanted: np.ndarray) -> "Rows":
        """The rows for which an array of bool [rows] is true."""
        found = copy(self)
        found._places = self._places[wanted]
        return found

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._ledger.at(int(self._places[index]))
        if row is None:
            raise BlendbenchError(f"{self._ledger.path}: changed while it was read; run the same command again")
        return row


def _row_of(line: bytes) -> dict | None:
    try:
        row = orjson.loads(line)
    except ValueError:
        try:
            row = json.loads(line)  # which also knows NaN
        except ValueError:
            return None
    return row if isinstance(row, dict) else None


def _hash_of(key: tuple) -> int:
    text = "\x1f".join(map(str, key)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class _Index:
    """From 64-bit hashes to places, later ones counting; sorted arrays with a small dict of what came since."""

    def __init__(self) -> None:
        self._hashes, self._places = np.empty(0, "<u8"), np.empty(0, "<i8")
        self._recent: dict[int, int] = {}

    def put(self, key: int, place: int) -> None:
        self._recent[key] = place
        if len(self._recent) >= 65_536:
            self._fold()

    def get(self, key: int) -> int | None:
        found = self._recent.get(key)
        if found is None and len(self._hashes):
            at = int(self._hashes.searchsorted(np.uint64(key)))
            if at < len(self._hashes) and int(self._hashes[at]) == key:
                found = int(self._places[at])
        return found

    def _fold(self) -> None:
        hashes = np.concatenate([np.fromiter(self._recent.keys(), "<u8", len(self._recent)), self._hashes])
        places = np.concatenate([np.fromiter(self._recent.values(), "<i8", len(self._recent)), self._places])
        self._hashes, first = np.unique(hashes, return_index=True)  # the first of equal ones: the most recent
        self._places, self._recent = places[first], {}

    def __len__(self) -> int:
        self._fold()
        return len(self._hashes)

    def others(self, hashes: np.ndarray) -> int:
        """How many of the hashes held are not among these."""
        self._fold()
        return int(np.count_nonzero(~np.isin(self._hashes, hashes)))

    def places(self) -> Iterator[int]:
        """All places, in order."""
        self._fold()
        return map(int, np.sort(self._places))
