"""Reads TensorFlow's checkpoints, the "tensor bundle" of an index and a data file, without TensorFlow.

The index is a table in LevelDB's format: blocks of sorted entries whose keys share prefixes, each with a checksum,
found through a block of handles that the file's last 48 bytes point to. A value is a BundleEntryProto, which tells a
tensor's type, shape and place; the data file holds the numbers, little-endian. Every checksum (CRC-32C, masked as both
formats do) is held against what is read. Sources: LevelDB's doc/table_format.md and TensorFlow's tensor_bundle.proto.
"""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from blendbench.errors import BlendbenchError, printable

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 19: "<f2"}
"""NumPy's types by TensorFlow's numbers (core/framework/types.proto)."""


class _Entry(NamedTuple):
    """Where a tensor lies in the data file, and what it is."""

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


def read(index: Path, data: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """Tensors by name, of a checkpoint with one data file.

    Parameters
    ----------
    index, data : Path
        `NAME.index` and `NAME.data-00000-of-00001`.
    wanted : callable
        Says of a name whether its tensor is read.

    Raises
    ------
    BlendbenchError
        If a file cannot be read, is damaged or cut off, or holds what is not read here: compressed blocks, several
        data files, texts.
    """
    try:
        content = index.read_bytes()
    except OSError as error:
        raise BlendbenchError(f"{index}: {error.strerror}") from error
    try:
        entries = {key.decode(): value for key, value in _table(memoryview(content))}
        _check_header(entries.pop(""))
        found = {name: _entry(value) for name, value in entries.items() if wanted(name)}
    except (ValueError, IndexError, KeyError, struct.error, TypeError) as error:
        raise BlendbenchError(f"{index}: no readable TensorFlow checkpoint index ({error}); fetch it again") from error
    try:
        with data.open("rb") as file:
            return {name: _tensor(file, entry, f"{data}: {printable(name)}") for name, entry in found.items()}
    except OSError as error:
        raise BlendbenchError(f"{data}: {error.strerror}") from error


def _tensor(file: BinaryIO, entry: _Entry, label: str) -> np.ndarray:
    kind = _TYPES.get(entry.dtype)
    if kind is None:
        raise BlendbenchError(f"{label}: has TensorFlow's type {entry.dtype}, which is not read")
    if entry.size != math.prod(entry.shape) * np.dtype(kind).itemsize:
        raise BlendbenchError(f"{label}: {entry.size} bytes do not fit its shape {list(entry.shape)}; fetch it again")
    file.seek(entry.offset)
    content = file.read(entry.size)
    if len(content) != entry.size:
        raise BlendbenchError(f"{label}: is cut off; fetch it again")
    if _masked(content) != entry.checksum:
        raise BlendbenchError(f"{label}: its checksum is not the index's; fetch it again")
    return np.frombuffer(content, kind).reshape(entry.shape).copy()


def _masked(content: bytes) -> int:
    """CRC-32C as LevelDB and TensorFlow store it: rotated, and a number added."""
    crc = int(google_crc32c.value(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table(content: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(content) < _FOOTER or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise ValueError("the table's end is missing")
    footer = content[-_FOOTER:]
    handles = _varint(footer, _varint(footer, 0)[1])[1]  # after the handle of a block of filters
    for _, handle in _block(content, footer[handles:]):
        yield from _block(content, memoryview(handle))


def _block(content: memoryview, handle: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that a handle (offset and size) points to."""
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    if offset + size + 5 > len(content):
        raise ValueError("a block is cut off")
    block = content[offset : offset + size]
    kind, checksum = struct.unpack("<BI", content[offset + size : offset + size + 5])
    if kind != 0:
        raise ValueError("its blocks are compressed")
    if _masked(bytes(content[offset : offset + size + 1])) != checksum:
        raise ValueError("a block's checksum is wrong")
    restarts = struct.unpack("<I", block[-4:])[0]
    end, place, key = size - 4 * (restarts + 1), 0, b""
    if end < 0:
        raise ValueError("a block's end is wrong")
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + own + length > end:
            raise ValueError("an entry does not fit its block")
        key = key[:shared] + bytes(block[place : place + own])
        yield key, bytes(block[place + own : place + own + length])
        place += own + length


def _varint(content: memoryview | bytes, place: int) -> tuple[int, int]:
    """A number in seven bits a byte, lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is too long")


def _fields(content: bytes) -> list[tuple[int, int | bytes]]:
    """Fields of a protocol buffer: number, and value (a number, or the bytes of a message)."""
    fields: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, place = _varint(content, place)
        elif kind == 5:
            value, place = struct.unpack_from("<I", content, place)[0], place + 4
        elif kind == 1:
            value, place = struct.unpack_from("<Q", content, place)[0], place + 8
        elif kind == 2:
            length, place = _varint(content, place)
            value, place = content[place : place + length], place + length
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        fields.append((tag >> 3, value))
    return fields


def _numbers(content: bytes) -> dict[int, int]:
    """The fields of a protocol buffer that are numbers."""
    return {key: value for key, value in _fields(content) if isinstance(value, int)}


def _check_header(content: bytes) -> None:
    header = _numbers(content)
    if header.get(1, 0) != 1:
        raise ValueError(f"it has {header.get(1, 0)} data files, and one is read")
    if header.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian")


def _entry(content: bytes) -> _Entry:
    """A BundleEntryProto."""
    numbers, shape = _numbers(content), []
    for key, value in _fields(content):
        if key == 7:
            raise ValueError("a tensor lies in slices")
        if key == 2 and isinstance(value, bytes):
            sizes = [dimension for number, dimension in _fields(value) if number == 2]
            shape = [_numbers(one).get(1, 0) for one in sizes if isinstance(one, bytes)]
    return _Entry(numbers.get(1, 0), tuple(shape), numbers.get(4, 0), numbers.get(5, 0), numbers[6])
