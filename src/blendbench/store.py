"""Where stages keep their output: folders named by signatures, and append-only ledgers.

A signature is a hash of exactly the settings that change a stage's output, plus the stage's version. A ledger is a file
of JSON lines; a row is appended, and forced to disk, once its file is in place, so a row's file always exists. A line
torn by a killed process is passed over, and what is appended next starts a new line; of rows with the same key, the
last counts. Nothing is ever cut off, so two processes may append to one ledger.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

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


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole, or not at all; raises BlendbenchError if it cannot be written."""
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError | ValueError):
            raise
        raise BlendbenchError(f"{printable(path)}: cannot be written ({_write_failure(error)})") from None


def link_file(source: Path, target: Path) -> None:
    """Put a file at a second place, as a hard link where the disk allows it, else as a copy; whole or not at all.

    Raises
    ------
    BlendbenchError
        If the target cannot be written.
    """
    temporary = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
        # A rename onto another link of the same file does nothing and leaves both.
        temporary.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise BlendbenchError(f"{printable(target)}: cannot be written ({_write_failure(error)})") from None


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

    Parameters
    ----------
    path : Path
        The file; made with its folder at the first append.
    key : sequence of str
        Columns that identify a row.
    """

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self.key = path, tuple(key)
        self.rows: dict[tuple, dict] = {}
        self._file: Any = None
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    try:
                        row = json.loads(line) if line.endswith(b"\n") else None
                    except ValueError:
                        row = None
                    # A line torn by a crash has no such row; its work is done again.
                    if isinstance(row, dict) and set(self.key) <= set(row):
                        self.rows[tuple(row[name] for name in self.key)] = row

    def get(self, *key: Any) -> dict | None:
        """The row of a key, or None."""
        return self.rows.get(key)

    def append(self, row: dict[str, Any]) -> None:
        """Write a row and force it to disk; raises BlendbenchError if the folder cannot be written."""
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a+b")
                if self._file.tell() and self._ends_torn():
                    self._file.write(b"\n")
            self._file.write((json.dumps(row, ensure_ascii=False, default=str) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise BlendbenchError(
                f"{self.path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        self.rows[tuple(row[name] for name in self.key)] = row

    def _ends_torn(self) -> bool:
        self._file.seek(-1, os.SEEK_END)
        return self._file.read(1) != b"\n"

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Arrays:
    """Float arrays appended to one file, found again by their place; what a crash leaves behind is never pointed to.

    Parameters
    ----------
    path : Path
        The file; made with its folder at the first append. Values are little-endian float32.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

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
            # Two processes may append: only a write of its own, at the end, knows where it landed.
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                offset = file.seek(0, os.SEEK_END)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            raise BlendbenchError(
                f"{self.path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
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
                self._file = self.path.open("a+b")
            except PermissionError:
                self._file = self.path.open("rb")  # a store that others keep is still read
        return self._file

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
