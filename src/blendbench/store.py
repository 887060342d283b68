"""Where stages keep their output: folders named by signatures, and append-only ledgers.

A signature is a hash of exactly the settings that change a stage's output, plus the stage's version. A ledger is a file
of JSON lines; a row is appended, and forced to disk, once its file is in place, so a row's file always exists. A line
torn by a killed process is passed over, and what is appended next starts a new line; of rows with the same key, the
last counts. Writers take the file's lock, so any number of processes may append to one ledger.
"""

import errno
import fcntl
import filecmp
import hashlib
import itertools
import json
import math
import os
import secrets
import shutil
import stat
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from blendbench.errors import BlendbenchError, one_line, printable

PAIR_KEY = ("dataset", "arm", "presentation", "pair_id")
"""Columns that identify a row of a run."""


def canonical(settings: Any) -> str:
    """JSON text with sorted keys, in which equal settings are equal bytes."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def signature(stage: str, version: int, settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name a stage's output folder."""
    return hashlib.sha256(canonical({"stage": stage, "version": version, **settings}).encode()).hexdigest()[:16]


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file, in hex; raises OSError if it cannot be read, or is a pipe or device, which may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, of text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes, sync: bool = True, private: bool = False) -> None:
    """Replace a file as a whole, or not at all; raises BlendbenchError if it cannot be written.

    Without `sync` a power cut may leave an empty file, which is good enough for what is written again in a moment.
    A `private` file may be read by its owner alone, from its first byte on.
    """
    with _placing(path) as temporary, open(temporary, "xb", opener=_owners if private else None) as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _owners(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _placing(path: Path) -> Iterator[Path]:
    """A temporary name beside a path, whose file takes the path's place at the end, or is gone after a failure."""
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():
            temporary.replace(path)
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{printable(path)}: cannot be written ({_write_failure(error)})") from None
    finally:
        # Also where a rename onto another link of the same file has done nothing and left both.
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace a file by lines that end in a newline each, unless it holds just them; errors as `write_bytes`."""
    with _placing(path) as temporary:
        with temporary.open("xb") as file:
            for line in lines:
                file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            temporary.unlink()


def link_file(source: Path, target: Path) -> None:
    """Put a file at a second place, as a hard link where the disk allows it, else as a copy; whole or not at all.

    Raises
    ------
    BlendbenchError
        If the target cannot be written.
    """
    with _placing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _write_failure(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return f"{one_line(str(error))}; give another path"
    reason = error.strerror or type(error).__name__
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"{reason}; free space or choose another folder"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{reason}; choose a folder you may write to"
    return f"{reason}; check that its parent is a folder you may write to"


def make_folder(folder: Path) -> None:
    """Make a folder that can be written; raises BlendbenchError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BlendbenchError(f"{folder}: cannot be made a folder ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise BlendbenchError(f"{folder}: cannot be written; choose another folder")


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
            raise BlendbenchError(f"{self.path}: cannot be written ({_write_failure(error)})") from error

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
            raise BlendbenchError(f"{self.path}: cannot be written ({_write_failure(error)})") from error
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


@contextmanager
def locked(file: Any) -> Iterator[None]:
    """Hold an open file's lock, so that one process writes at a time; no lock where the disk knows none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}:
            raise
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def write_all(file: Any, data: bytes) -> None:
    """Write all bytes to an unbuffered file; raises OSError where they do not all fit."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class Arrays:
    """Float arrays appended to one file, found again by their place; what a crash leaves behind is never pointed to.

    Parameters
    ----------
    path : Path
        The file; made with its folder at the first append. Values are little-endian float32.
    """

    _file: Any = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, values: np.ndarray) -> dict[str, Any]:
        """Write an array, force it to disk, and return its place: what `read` takes; fits into JSON.

        Raises
        ------
        BlendbenchError
            If the folder cannot be written.
        """
        data = np.ascontiguousarray(values, dtype="<f4").tobytes()
        try:
            file = self._opened()
            # Only a write of its own, at the end, knows where it landed.
            with locked(file):
                offset = file.seek(0, os.SEEK_END)
                write_all(file, data)
                os.fsync(file.fileno())
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be written ({_write_failure(error)})") from error
        return {"offset": offset, "shape": list(values.shape), "crc32": zlib.crc32(data)}

    def read(self, place: Mapping[str, Any]) -> np.ndarray:
        """The array of a place; raises BlendbenchError if the file is shorter than that, or its bytes have changed."""
        count = math.prod(place["shape"])
        try:
            # By its place, as several threads may read.
            data = os.pread(self._opened().fileno(), 4 * count, place["offset"])
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be read ({error.strerror}); delete its folder") from error
        if len(data) < 4 * count:
            raise BlendbenchError(f"{self.path}: cut short; delete its folder, and what it holds is computed again")
        if "crc32" in place and place["crc32"] != zlib.crc32(data):
            raise BlendbenchError(f"{self.path}: damaged; delete its folder, and what it holds is computed again")
        return np.frombuffer(bytearray(data), "<f4").reshape(place["shape"])

    def _opened(self) -> Any:
        if self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a+b", buffering=0)
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                    raise
                self._file = self.path.open("rb", buffering=0)  # a store that others keep is still read
        return self._file

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    __del__ = close
