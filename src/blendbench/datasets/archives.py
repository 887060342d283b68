"""Unpacking what was downloaded (.zip, .tar, .tar.gz), believing nothing that an archive says of itself.

Files are written into a hidden folder beside the target, and only when the archive has been read to its end without a
fault are they moved in place, one by one and whole. Bytes are streamed and counted as they come, so neither a wrong
header nor a bomb takes memory or disk. Links, devices and names that could lead elsewhere are refused, whichever
members are asked for. Permissions, owners and times are not taken over. Sizes are in bytes.
"""

import errno
import fcntl
import gzip
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from blendbench import stand_ins, telling
from blendbench.errors import BlendbenchError, one_line, printable

_BLOCK = 1 << 20
"""Bytes read at a time."""
_HEADER = 1 << 16
"""Longest header of a tar's member: tarfile reads each as a whole, and several of them before it gives a member."""
_ENTRY = 1 << 10
"""Bytes that a zip's table of contents may take for each member that is allowed; zipfile reads it as a whole."""
_PADDING = 1 << 24
"""Most bytes after a tar's end mark."""
_LONGEST = 255
"""Bytes of the longest name of a file or folder that common file systems hold."""
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what tarfile puts for bytes that are not UTF-8."""

_UNSAFE = "nothing was unpacked: get the archive from somewhere else"
_DAMAGED = "nothing was unpacked: delete the archive and fetch it again"


class _Refused(Exception):
    """Why an archive is not unpacked, and what to do about it."""

    def __init__(self, reason: str, remedy: str = _UNSAFE) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class _Member:
    """A member: `flaw` says why it is never taken, `size` is what its header claims, `blocks` gives what there is.

    `in_the_way` says that its bytes come whether they are wanted or not.
    """

    name: str
    is_folder: bool
    flaw: str
    size: int
    blocks: Callable[[], Iterator[bytes]]
    in_the_way: bool


def workplace(target: Path) -> Path:
    """The folder that an unpack into `target` works in; it is there while one runs, and after one was killed."""
    target = target.resolve()
    # It has to be on the target's file system, for files to be moved as a whole.
    return target / ".unpacking" if target.is_mount() else target.with_name(f".{target.name}.unpacking")


def unpack(
    archive: Path,
    target: Path,
    *,
    max_bytes: int,
    max_members: int = 100_000,
    strip: int | None = 0,
    keep: Sequence[str] = (),
) -> int:
    """Unpack an archive into a folder, all that is asked for or nothing; files that are there already are left alone.

    A killed unpack leaves nothing but whole files in the target, and `workplace(target)`, from which the next goes on.

    Parameters
    ----------
    archive : Path
        A file whose name ends in .zip, .tar, .tar.gz or .tgz.
    target : Path
        The folder, made if needed.
    max_bytes : int
        Most bytes that may come out, counted as they come; members of a tar that are passed over count, too.
    max_members : int
        Most members that the archive may have.
    strip : int or None
        How many leading folders every name loses; None for whatever stands before the last part that begins a path of
        `keep`.
    keep : sequence of str
        Files and folders to take, by their names without the leading folders; all if empty.

    Returns
    -------
    int
        How many files were not there before.

    Raises
    ------
    BlendbenchError
        Naming the archive, the member and the reason: if the archive cannot be read, is damaged, encrypted, too large
        or of another kind; holds a link, a device, a name that is not safe or stands twice, or a file that is in the
        target with other content; holds nothing of `keep`; if the target cannot be written or the disk is full; or if
        another process is unpacking it.
    """
    stand_ins.refuse(archive)
    try:
        file = archive.open("rb")
    except OSError as error:
        raise BlendbenchError(f"{printable(archive)}: cannot be read ({error.strerror}); fetch it again") from error
    with file:
        _lock(file, archive)
        stage = _Stage(target.resolve(), max_bytes)
        prefixes = [tuple(name.strip("/").split("/")) for name in keep]
        place = ""
        try:
            with telling.stage(f"unpacking {archive.name}", None, "file") as told:
                for number, member in enumerate(_members(archive, file, max_members), start=1):
                    place = f", member {_shown(member.name)}"
                    if number > max_members:
                        raise _Refused(f"more than the {max_members} members that were expected")
                    parts = _safe_parts(member)
                    path = None if member.is_folder else _wanted(parts, strip, prefixes)
                    if path is not None:
                        stage.take(member, path)
                    elif member.in_the_way and not member.is_folder:
                        for _ in stage.counted(member):
                            pass
                    place = f", after member {_shown(member.name)}"
                    told.update()
            place = ""
            if not stage.files:
                raise _Refused(f"holds no file{' of ' + ', '.join(keep) if keep else ''}")
            return stage.finish()
        except Exception as error:
            stage.clear()
            raise _failure(error, printable(archive) + place, target) from error


def _failure(error: Exception, what: str, target: Path) -> Exception:
    if isinstance(error, _Refused):
        return BlendbenchError(f"{what}: {error}; {error.remedy}")
    if isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        remedy = "free space or choose another folder" if full else "choose a folder you may write to"
        return BlendbenchError(
            f"{what}: cannot be written to {printable(target)} ({error.strerror}); {remedy}, and unpack it again"
        )
    return error


def _lock(file: IO[bytes], archive: Path) -> None:
    # Some network file systems have no locks.
    with suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlendbenchError(
                f"{printable(archive)}: another process is unpacking it; wait for it to end"
            ) from error


def _shown(name: str) -> str:
    """A member's name for a message: what does not print is escaped, and the middle of a long one left out."""
    name = name if len(name) <= 120 else f"{name[:80]}...{name[-30:]}"
    return f"'{printable(Path(name))}'"


def _safe_parts(member: _Member) -> tuple[str, ...]:
    """The parts of a member's name; raises _Refused for a name, or a member, that is never taken."""
    name = member.name
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    flaw = member.flaw
    if _UNREADABLE.search(name):
        flaw = "its name holds characters that cannot be decoded or shown"
    elif "\\" in name:
        flaw = "its name holds a backslash"
    elif name.startswith("/"):
        flaw = "its name is absolute"
    elif ".." in parts:
        flaw = "its name leads out of the folder"
    elif any(re.match("[A-Za-z]:", part) for part in parts):
        flaw = "its name holds a drive letter"
    elif any(len(part.encode()) > _LONGEST for part in parts):
        flaw = "its name is too long"
    elif not parts and not member.is_folder:
        flaw = "it has no name"
    if flaw:
        raise _Refused(flaw)
    return parts


def _wanted(parts: tuple[str, ...], strip: int | None, prefixes: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Where a file goes below the target, or None if nobody asks for it."""
    if strip is None:
        starts = [i for i in range(len(parts)) if any(parts[i : i + len(prefix)] == prefix for prefix in prefixes)]
        return parts[starts[-1] :] if starts else None
    path = parts[strip:]
    if not path and not prefixes:
        raise _Refused(f"it does not lie in {strip} leading folder{'s' if strip > 1 else ''}")
    return path if not prefixes or any(path[: len(prefix)] == prefix for prefix in prefixes) else None


class _Stage:
    """Files on their way into a target folder.

    Parameters
    ----------
    target : Path
        The folder, resolved.
    max_bytes : int
        Most bytes that members may have, all together.
    """

    def __init__(self, target: Path, max_bytes: int) -> None:
        self.target, self.work = target, workplace(target)
        self.max_bytes, self.came = max_bytes, 0
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self.new: list[tuple[str, ...]] = []

    def take(self, member: _Member, path: tuple[str, ...]) -> None:
        """Write a member, or hold it against the file that is in the target."""
        self._enter(path)
        place = self.target.joinpath(*path)
        if os.path.lexists(place):
            self._compare(member, place)
            return
        staged = self.work.joinpath(*path)
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.touch()
        with staged.open("r+b") as file:
            for block in self.counted(member):
                at = file.tell()
                # What a killed unpack left is kept as far as it is right.
                if file.read(len(block)) != block:
                    file.seek(at)
                    file.write(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self.new.append(path)

    def _enter(self, path: tuple[str, ...]) -> None:
        """Note a file's path; names count as equal if a disk that ignores case or composition would take them so."""
        key = unicodedata.normalize("NFC", "/".join(path)).casefold()
        parents = {key[: match.start()] for match in re.finditer("/", key)}
        if key in self.files:
            raise _Refused("stands twice in it")
        if key in self.folders or not self.files.isdisjoint(parents):
            raise _Refused("is both a file and a folder in it")
        self.files.add(key)
        self.folders |= parents

    def _compare(self, member: _Member, place: Path) -> None:
        def check(equal: bool) -> None:
            if not equal:
                raise _Refused(
                    f"{printable(place)} is there with other content",
                    "nothing was unpacked: delete that file or move it away, and unpack it again",
                )

        check(place.is_file())
        with place.open("rb") as file:
            for block in self.counted(member):
                check(file.read(len(block)) == block)
            check(not file.read(1))

    def counted(self, member: _Member) -> Iterator[bytes]:
        """A member's bytes; raises _Refused if they are more than all may have, or not as many as its header says."""
        came = 0
        for block in member.blocks():
            came += len(block)
            self.came += len(block)
            if self.came > self.max_bytes:
                raise _Refused(f"more than the {self.max_bytes} bytes that were expected come out of the archive")
            yield block
        if came != member.size:
            raise _Refused(f"damaged (it has {came} bytes, not {member.size})", _DAMAGED)

    def finish(self) -> int:
        """Move what was written in place; returns how many files those are."""
        for path in self.new:
            place = self.target.joinpath(*path)
            place.parent.mkdir(parents=True, exist_ok=True)
            self.work.joinpath(*path).replace(place)
        self.clear()
        return len(self.new)

    def clear(self) -> None:
        """Take the workplace away."""
        shutil.rmtree(self.work, ignore_errors=True)


@contextmanager
def _reading() -> Iterator[None]:
    """Turns whatever a library raises about an archive's content into _Refused."""
    try:
        yield
    except _Refused:
        raise
    except UnicodeDecodeError as error:
        raise _Refused("holds a name that cannot be decoded") from error
    except Exception as error:
        # Nearly anything: BadZipFile, TarError, zlib.error, EOFError, ValueError, struct.error, RecursionError.
        reason = one_line(str(error))[:200] or type(error).__name__
        raise _Refused(f"damaged ({reason})", _DAMAGED) from error


def _members(archive: Path, file: IO[bytes], max_members: int) -> Iterator[_Member]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(file, max_members)
    if name.endswith(".tar"):
        return _tar_members(file)
    if name.endswith((".tar.gz", ".tgz")):
        return _tar_members(cast(IO[bytes], gzip.GzipFile(fileobj=file)))
    raise _Refused("not a .zip, .tar or .tar.gz", "give one of these")


class _Capped:
    """A file for zipfile, which reads the whole table of contents at once, of which no more than `most` bytes come."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.tell, self.seek, self.seekable = file.tell, file.seek, file.seekable
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise _Refused("its table of contents is longer than that of the members that were expected")
        return self._file.read(size)


def _zip_members(file: IO[bytes], max_members: int) -> Iterator[_Member]:
    with _reading():
        opened = zipfile.ZipFile(cast(IO[bytes], _Capped(file, max(_BLOCK, _ENTRY * max_members))))
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        flaw = ""
        if info.flag_bits & 0x2041:  # the member, in the strong way, or the table of contents
            flaw = "is encrypted"
        elif kind == stat.S_IFLNK:
            flaw = "is a link"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            flaw = "is a device or another special file"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks the others without a limit to the memory.
            flaw = f"is packed by a method that is not taken ({info.compress_type})"
        is_folder = info.orig_filename.endswith("/") or kind == stat.S_IFDIR
        # zipfile cuts a name at a null character.
        blocks = partial(_zip_blocks, opened, info)
        yield _Member(info.orig_filename, is_folder, flaw, info.file_size, blocks, in_the_way=False)


def _zip_blocks(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with _reading():
        stream = opened.open(info)
    with stream:
        while True:
            with _reading():
                block = stream.read(_BLOCK)
            if not block:
                return
            yield block


class _Forward:
    """A stream for tarfile that goes forward only and gives no header of more than _HEADER bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._at = 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> None:
        if offset < self._at:
            raise ValueError("a header points backwards")
        while self._at < offset and self.take(min(_BLOCK, offset - self._at)):
            pass

    def read(self, size: int) -> bytes:
        """What tarfile reads are headers; the last is kept."""
        if not 0 <= size <= _HEADER:
            raise ValueError(f"a header of {size} bytes")
        self.last = self.take(size)
        return self.last

    def take(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._at += len(block)
        return block


def _tar_members(stream: IO[bytes]) -> Iterator[_Member]:
    forward = _Forward(stream)
    with _reading():
        opened: Any = tarfile.TarFile(fileobj=cast(Any, forward), encoding="utf-8", errors="surrogateescape")
    while True:
        with _reading():
            info = opened.next()
        if info is None:
            break
        opened.members.clear()  # it keeps them all
        flaw = ""
        if info.islnk() or info.issym():
            flaw = "is a link"
        elif not info.isdir() and (not info.isreg() or info.issparse()):
            flaw = "is a device or another special file"
        yield _Member(info.name, info.isdir(), flaw, info.size, partial(_tar_blocks, forward, info), in_the_way=True)
    # tarfile takes a header that is cut short or damaged for the end.
    if forward.last != bytes(tarfile.BLOCKSIZE):
        raise _Refused("damaged (it breaks off)", _DAMAGED)
    end = forward.tell()
    while True:
        # To gzip's end, where its checksum is.
        with _reading():
            block = forward.take(_BLOCK)
        if not block:
            return
        if forward.tell() - end > _PADDING:
            raise _Refused("goes on after its end")


def _tar_blocks(forward: _Forward, info: tarfile.TarInfo) -> Iterator[bytes]:
    left = info.size
    while left > 0:
        with _reading():
            block = forward.take(min(_BLOCK, left))
        if not block:
            return
        left -= len(block)
        yield block
