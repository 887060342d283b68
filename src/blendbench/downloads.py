"""Downloads of plain files: they go on where they were broken off, and are checked before they take their place.

A file comes by way of `NAME.part` beside its place, and a lock on that keeps a second download of it out.
BLENDBENCH_MIRROR is a base URL to take files from instead; HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE switch downloads
off. Sizes are in bytes, hashes are SHA-256 in hex.
"""

import fcntl
import http.client
import io
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from email.message import Message
from pathlib import Path
from typing import IO

from blendbench import __version__, telling
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.store.signature import file_hash
from blendbench.store.write import make_folder, write_text


def offline_variable() -> str | None:
    """The environment variable that switches downloads off, read as the hub's library does; None if they are on."""
    variable = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return variable if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"} else None


def addresses(url: str, name: str) -> list[str]:
    """Where to ask for a file, in turn: its URL, or its name below BLENDBENCH_MIRROR."""
    mirror = os.environ.get("BLENDBENCH_MIRROR")
    if not mirror:
        return [url]
    # A copy of torch hub's folder holds the names with their %3D as they are; a copy of the source has = there.
    return [f"{mirror.rstrip('/')}/{text}" for text in dict.fromkeys([name, urllib.parse.quote(name)])]


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def download(
    label: str,
    url: str,
    target: Path,
    *,
    size: int | None = None,
    expected: Iterable[tuple[str, str]] = (),
    tagged: bool = False,
    note: Path | None = None,
    remedy: str = "set BLENDBENCH_MIRROR to another place",
) -> str:
    """Bring a file to its place, going on from what an earlier download left.

    Parameters
    ----------
    label : str
        What messages and the progress bar call it.
    url : str
        http(s) address. With BLENDBENCH_MIRROR the file is asked for there, by the target's name.
    target : Path
        Where it goes; what is there is replaced.
    size : int, optional
        Its size in bytes, where it is known beforehand.
    expected : iterable of (str, str)
        What is known of its SHA-256: in words ("the known"), and its first digits or all of them.
    tagged : bool
        Whether 64 hex digits in X-Linked-Etag or ETag are its SHA-256, as they are on the Hugging Face hub; other
        servers put other hashes there.
    note : Path, optional
        File that gets its SHA-256, as `sha256sum -c` reads it.
    remedy : str
        What else the user can do when the download fails.

    Returns
    -------
    str
        Its SHA-256.

    Raises
    ------
    BlendbenchError
        Naming the URL and the reason, if it cannot be had or written, another download of it runs, or it is not what
        was expected. What came so far stays, but for content with the wrong hash.
    """
    make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    # Unbuffered: what a full disk refused would be written again at the end, and fail again.
    with part.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlendbenchError(f"{part}: another fetch is writing it; wait for it to end") from error
        used, tag = _transfer(label, addresses(url, target.name), file, size, remedy)
        tags = [("that in its ETag", tag)] if tagged and tag is not None else []
        digest = file_hash(part)
        for what, known in [*expected, *tags]:
            if not digest.startswith(known):
                part.unlink()
                raise BlendbenchError(
                    f"{label}: {used}: what came has sha256 {digest}, not {what} {known}, and was removed; {remedy}"
                )
        os.fsync(file.fileno())
        if note is not None:
            write_text(note, f"{digest}  {target.name}\n")
        part.replace(target)
    return digest


def _transfer(label: str, urls: list[str], file: io.FileIO, size: int | None, remedy: str) -> tuple[str, str | None]:
    """Append what is left of a file to what came before; returns the URL that had it, and `_receive`'s tag.

    Raises
    ------
    BlendbenchError
        Naming the URL and the reason; what came so far stays.
    """
    for url in urls:
        try:
            return url, _receive(label, url, file, size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 404 and url != urls[-1]:
                continue
            status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
            reason = one_line(f"{status}{getattr(error, 'reason', error)}") or type(error).__name__
            came = file.tell()
            if not came:
                Path(file.name).unlink()
            kept = f"{came / 1e6:.1f} MB are kept, and the same command goes on from there" if came else "type it again"
            raise BlendbenchError(f"{label}: {url}: {reason}; {kept}, or {remedy}") from error
    raise AssertionError("there is at least one address")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the hash that the hub tells on the way: its storage does not tell it again."""

    tag: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.tag = headers.get("X-Linked-Etag") or self.tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _receive(label: str, url: str, file: io.FileIO, size: int | None) -> str | None:
    """One request; returns the 64 hex digits that the server tags the file with, if it does.

    Raises OSError, ValueError or HTTPException, also if less or more came than was announced.
    """
    came = file.tell()
    headers = {"User-Agent": f"blendbench/{__version__}", "Accept-Encoding": "identity"}
    if came:
        headers["Range"] = f"bytes={came}-"
    redirects = _Redirects()
    try:
        opener = urllib.request.build_opener(redirects)
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not came:
            raise
        # Nothing is left to ask for: it is all here, or what is here is no part of this file.
        if error.headers.get("Content-Range") != f"bytes */{came}":
            _empty(file)
            return _receive(label, url, file, size)
        return _tag(redirects, error.headers)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("a web page is there, not the file")
        if came and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {came}-"):
            _empty(file)
            came = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else came + int(length)
        if total is not None and size is not None and total != size:
            raise ValueError(f"it has {total} bytes there, not {size}")
        with telling.stage(label, total, "B", done=came) as told:
            try:
                while block := answer.read1(1 << 20):  # read would drop a chunk that breaks off
                    _append(file, block)
                    told.update(len(block))
            except http.client.IncompleteRead as error:
                raise ConnectionError(f"the connection broke after {file.tell()} bytes") from error
    if total is not None and file.tell() != total:
        raise ConnectionError(f"the connection broke after {file.tell()} of {total} bytes")
    return _tag(redirects, answer.headers)


def _tag(redirects: _Redirects, headers: Message) -> str | None:
    """The 64 hex digits that a file is tagged with, or None."""
    tag = redirects.tag or headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    found = re.fullmatch('"?([0-9a-f]{64})"?', tag.strip())
    return found.group(1) if found else None


def _append(file: io.FileIO, block: bytes) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise BlendbenchError(
            f"{printable(Path(file.name))}: cannot be written ({error.strerror}); free space or choose another folder, "
            "and type it again: it goes on where it was"
        ) from error


def _empty(file: io.FileIO) -> None:
    file.seek(0)
    file.truncate()
