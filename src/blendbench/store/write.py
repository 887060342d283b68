"""Files written as a whole or not at all, links, folders, and locks."""

import errno
import fcntl
import filecmp
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blendbench.errors import BlendbenchError, one_line, printable


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, of text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview, sync: bool = True, private: bool = False) -> None:
    """Replace a file as a whole, or not at all; raises BlendbenchError if it cannot be written.

    Without `sync` a power cut may leave an empty file, which is good enough for what is written again in a moment.
    A `private` file may be read by its owner alone, from its first byte on.
    """
    with placing(path) as temporary, open(temporary, "xb", opener=_owners if private else None) as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _owners(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A temporary name beside a path, whose file takes the path's place at the end, or is gone after a failure."""
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():
            temporary.replace(path)
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{printable(path)}: cannot be written ({write_failure(error)})") from None
    finally:
        # Also where a rename onto another link of the same file has done nothing and left both.
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


@contextmanager
def placing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside a path, which takes the path's place at the end, or is gone after a failure.

    What stood at the path stays until then; raises BlendbenchError if it cannot be written.
    """
    temporary, old = (path.parent / f".{secrets.token_hex(8)}.{kind}" for kind in ("part", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{printable(path)}: cannot be written ({write_failure(error)})") from None
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace a file by lines that end in a newline each, unless it holds just them; errors as `write_bytes`."""
    with placing(path) as temporary:
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
    with placing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def write_failure(error: OSError | ValueError) -> str:
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


def size_of(path: Path | str) -> int:
    """Bytes of a file, or 0 where it cannot be found."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called a million times, it is worth half of what a Path costs
    except OSError:
        return 0
