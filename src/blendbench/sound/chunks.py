"""The chunks of WAV (RIFF, RIFX, RF64, BW64) and AIFF files, read as other programs read them.

The standards want a pad byte after a chunk of odd length. Many programs leave it out; then libsndfile looks for the
next chunk one byte too late and finds no samples. It also gives up on flaws in chunks that have nothing to do with the
sound. `following` finds the next chunk in both cases, and `bare` shows the library such a file without all that it can
do without.
"""

import io
import os
import struct
from typing import Any, BinaryIO

MOST = 10_000
"""Chunks of a file that are looked at."""
_ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">", b"FORM": ">"}
_KNOWN = frozenset(
    b"fmt |data|fact|LIST|JUNK|junk|PAD |FLLR|bext|cue |plst|smpl|inst|acid|PEAK|iXML|_PMX|axml|chna|ds64|levl|id3 |"
    b"ID3 |DISP|cart|afsp|strc|umid|COMM|SSND|MARK|INST|NAME|AUTH|(c) |ANNO|FVER|COMT|APPL|CHAN|MIDI|AESD|SAXL".split(
        b"|"
    )
)
"""Names of chunks that are common."""
_LONGEST_FORMAT = 1 << 16
"""Bytes that a chunk may take which says how samples are to be read."""
_UNKNOWN = 0xFFFFFFFF


def following(file: BinaryIO, end: int, size: int, order: str) -> int:
    """Offset of the chunk after one of odd length that ends at `end`: there if its pad byte is missing, or behind it.

    It is missing where what stands at `end` looks more like the beginning of a chunk than what comes a byte later. The
    file's position stays where it is. `order` is that of `struct`.
    """
    head = os.pread(file.fileno(), 9, end)
    missing = head[:1] != b"\0" and _likeness(head[:8], size - end, order) > _likeness(head[1:], size - end - 1, order)
    return end if missing else end + 1


def is_streamed(file: BinaryIO, body: int, length: int, size: int, order: str) -> bool:
    """Whether samples that begin at `body` are there though their chunk gives a length of 0.

    Programs that write into a pipe cannot go back to fill in the length, and some leave a 0 there.
    """
    return length == 0 and body < size and not _likeness(os.pread(file.fileno(), 8, body), size - body, order)


def _likeness(head: bytes, left: int, order: str) -> int:
    """How much eight bytes, from which on so many are left in the file, look like the beginning of a chunk."""
    if len(head) < 8:
        return 0
    if head[:4] in _KNOWN:
        return 2
    fits = struct.unpack(f"{order}I", head[4:])[0] <= left - 8
    return int(fits and all(32 <= byte < 127 for byte in head[:4]))


def bare(file: BinaryIO, size: int) -> BinaryIO | None:
    """A WAV or AIFF file as it would be with no chunks but those of its format and samples.

    A Broadcast Wave of 64 bits (`BW64`, ITU-R BS.2088) becomes a WAV, or an RF64 where it is longer than 4 GB. Samples
    whose length was never filled in last to the end of the file.

    Returns
    -------
    A binary file that reads from `file`, which must stay open; None where the two chunks are not found, or the format
    stands twice.
    """
    magic, kind = os.pread(file.fileno(), 4, 0), os.pread(file.fileno(), 4, 8)
    order = _ORDERS.get(magic)
    if order is None:
        return None
    names = (b"COMM", b"SSND") if magic == b"FORM" else (b"fmt ", b"data")
    form, fact, long_length, samples, at = b"", b"", None, None, 12
    for _ in range(MOST):
        head = os.pread(file.fileno(), 8, at)
        if len(head) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", head)
        body = at + 8
        if name == b"ds64" and len(fields := os.pread(file.fileno(), 16, body)) == 16:
            long_length = struct.unpack("<QQ", fields)[1]
        elif name == names[0]:
            if form or length > _LONGEST_FORMAT:
                return None
            form = head + os.pread(file.fileno(), length + length % 2, body)[:length] + b"\0" * (length % 2)
        elif name == names[1]:
            samples = (body, length)
        elif name == b"fact" and length == 4:
            fact = head + os.pread(file.fileno(), 4, body)
        end = body + length
        if (samples and form) or (samples and magic != b"FORM") or end >= size:
            break
        at = following(file, end, size, order) if length % 2 else end
    if not form or samples is None:
        return None
    body, length = samples
    if magic in {b"RF64", b"BW64"}:
        if length == _UNKNOWN:
            length = size - body if long_length is None else long_length
        if length >= 2**62:
            return None
    if is_streamed(file, body, length, size, order):
        length = size - body
    if magic in {b"RF64", b"BW64"}:
        magic = b"RIFF" if length < _UNKNOWN else b"RF64"
    start = kind + form + fact + names[1]
    if magic == b"RF64":
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, length + len(start) + 40, length, 0, 0)
        start = kind + sizes + form + fact + names[1]
    whole = min(len(start) + 4 + length, _UNKNOWN)
    start = magic + struct.pack(f"{order}I", whole) + start + struct.pack(f"{order}I", min(length, _UNKNOWN))
    return _Joined(start, file, body, min(body + length, size))  # type: ignore[return-value]


class _Joined(io.RawIOBase):
    """Some bytes and, after them, a part of a file."""

    def __init__(self, start: bytes, file: BinaryIO, first: int, stop: int) -> None:
        self._start, self._file, self._first, self._at = start, file, first, 0
        self._size = len(start) + stop - first

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer to its end, or the file's: libsndfile takes less for the end."""
        data = self._start[self._at : self._at + len(buffer)]
        place = max(0, self._at - len(self._start))
        left = min(len(buffer), self._size - self._at) - len(data)
        if left > 0:
            data += os.pread(self._file.fileno(), left, self._first + place)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
