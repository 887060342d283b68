"""What WAV, Ogg, MP3 and other files promise in their headers, held against what is there.

libsndfile shortens a cut-off file in silence, and takes some claims of a header for others.
"""

import math
import os
import re
import struct
import zlib
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import soundfile

from blendbench import stand_ins
from blendbench.errors import ClipError
from blendbench.sound import chunks

MIN_FILE_RATE, MAX_FILE_RATE = 4_000, 384_000
# Programs that write a WAV into a pipe cannot go back to fill in the length; they leave 0xFFFFFFFF (ffmpeg), 0x7FFFFFFF
# or a little less (sox, arecord) there. Such a length is unknown, not a promise that was broken.
_UNKNOWN_LENGTH = 0x7FFFF000
_MOST_CHANNELS = 1024
"""Channels that the library takes."""
_MOST_SEARCHED = 1 << 27
"""How much of a compressed file is looked through for damage."""
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Every byte with its bits in the other order."""


class _Claims(NamedTuple):
    """What the header of a file says of its sound, as far as it is found; the library takes some of it for other."""

    rate: float | None = None
    channels: int | None = None
    codec: int | None = None
    """Of a WAV: the number by which Microsoft registered it."""


_CODECS = {
    0x55: "MP3", 0x92: "AC-3", 0xFF: "AAC", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0x1610: "AAC", 0x2000: "AC-3",
    0x674F: "Vorbis", 0x704F: "Opus", 0xF1AC: "FLAC",
}  # fmt: skip
"""By Microsoft's numbers: what occurs in a WAV and the library does not read there."""


def claims_of(head: bytes) -> _Claims:
    """The claims of a header within the first bytes of a file; none for formats that are rare."""
    with suppress(struct.error, ValueError, OverflowError):
        if head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff"} and (at := head.find(b"fmt ")) >= 0:
            order, at = ">" if head[:4] == b"RIFX" else "<", at + (24 if head[:4] == b"riff" else 8)
            codec, channels, rate = struct.unpack_from(f"{order}HHI", head, at)
            if codec == 0xFFFE:
                codec = struct.unpack_from(f"{order}H", head, at + 24)[0]
            return _Claims(rate, channels, codec)
        if head[:4] == b"FORM" and (at := head.find(b"COMM")) >= 0:
            channels, exponent, mantissa = struct.unpack_from(">h6xHQ", head, at + 8)
            rate = math.ldexp(mantissa, (exponent & 0x7FFF) - 16446) if exponent & 0x7FFF != 0x7FFF else math.nan
            return _Claims(-rate if exponent & 0x8000 else rate, channels)
        if (at := head.find(b"fLaC\0")) >= 0:
            return _Claims(int.from_bytes(head[at + 18 : at + 21]) >> 4)
        if head[:4] in {b".snd", b"dns."}:
            return _Claims(*struct.unpack_from(">II" if head[:4] == b".snd" else "<II", head, 16))
        if head[:4] == b"caff":
            return _Claims(*struct.unpack_from(">d16xI", head, 20))
        if head[:4] == b"NIST" and (found := re.search(rb"sample_rate -i (\d+)", head)):
            return _Claims(int(found[1]))
    return _Claims()


def rate_flaw(rate: float) -> str:
    allowed = f"{MIN_FILE_RATE}..{MAX_FILE_RATE} Hz"
    return f"sample rate {rate:.0f} Hz lies outside {allowed}; resample the file or mend its header"


def not_audio(head: bytes, reason: str) -> str:
    """Why the library does not read a file that begins so, where it says `reason`, and what to do."""
    if told := stand_ins.pointer(head):
        return told
    claims = claims_of(head)
    if claims.rate is not None and not MIN_FILE_RATE <= claims.rate <= MAX_FILE_RATE:
        return rate_flaw(claims.rate)
    if claims.channels is not None and not 1 <= claims.channels <= _MOST_CHANNELS:
        return f"its header gives {claims.channels} channels, not 1 to {_MOST_CHANNELS}; export it again"
    if claims.codec in _CODECS:
        return f"not audio that libsndfile reads, but {_CODECS[claims.codec]} in a WAV; convert it to PCM or FLAC"
    if found := stand_ins.content(head) or stand_ins.text(head):
        return f"not audio that libsndfile reads, but {found[0]}; {found[1]}"
    return f"not audio that libsndfile reads ({reason}); convert it to WAV or FLAC"


class _WavHeader(NamedTuple):
    frame_bytes: int
    """Bytes a frame; 1 for compressed formats, whose frames cannot be counted from bytes."""
    unit: str
    promised: int
    """Bytes of samples that the header announces."""
    present: int
    """Bytes from the start of the samples to the end of the file."""
    flaw: str = ""
    """Why the samples cannot be trusted though the library reads them."""
    is_streamed: bool = False
    """Whether the announced 0 bytes only mean that nobody went back to fill in the length."""


def wav_header(file: BinaryIO, size: int) -> _WavHeader | None:
    """Sample bytes that a RIFF, RIFX, RF64 or BW64 header promises and those the file has; None for other formats."""
    riff = file.read(12)
    if len(riff) < 12 or riff[:4] not in {b"RIFF", b"RIFX", b"RF64", b"BW64"} or riff[8:] != b"WAVE":
        return None
    order = ">" if riff[:4] == b"RIFX" else "<"
    frame_bytes, unit, long_length, flaw = 1, "bytes", None, ""
    found: _WavHeader | None = None
    for _ in range(chunks.MOST):
        head = file.read(8)
        if len(head) < 8 or head[:4] == bytes(4):
            break
        kind, length = struct.unpack(f"{order}4sI", head)
        body = file.tell()
        if found is not None and kind in {b"RIFF", b"RIFX", b"RF64", b"BW64"}:
            return found._replace(flaw="holds two files one after the other")
        if kind == b"data":
            if found is not None:
                return found._replace(flaw="holds two chunks of samples")
            promised = length
            if riff[2:4] == b"64" and length == 0xFFFFFFFF and long_length is not None:
                promised = long_length
            elif _is_unknown(length):
                return _WavHeader(frame_bytes, unit, 0, size - body, flaw)
            if chunks.is_streamed(file, body, promised, size, order):
                return _WavHeader(frame_bytes, unit, 0, size - body, flaw, is_streamed=True)
            found = _WavHeader(frame_bytes, unit, promised, size - body, flaw)
            length = promised
        if kind == b"ds64" and len(fields := file.read(16)) == 16:
            long_length = struct.unpack(f"{order}QQ", fields)[1]
        elif kind == b"fmt " and found is None and len(fields := file.read(16)) == 16:
            tag, channels, _, _, block_align, bits = struct.unpack(f"{order}HHIIHH", fields)
            # PCM, float, A-law, mu-law and WAVE_FORMAT_EXTENSIBLE hold whole frames.
            if tag in {1, 3, 6, 7, 0xFFFE} and block_align > 0:
                frame_bytes, unit = block_align, "frames"
            if tag == 1 and bits % 8 and block_align != channels * -(-bits // 8):
                flaw = f"its {bits} bits a sample contradict its block align of {block_align} bytes"
        end = body + length
        if end >= size:
            break
        file.seek(chunks.following(file, end, size, order) if length % 2 else end)
    return found


def _is_unknown(length: int) -> bool:
    """Whether a program that could not go back left this as the length of what it wrote."""
    return _UNKNOWN_LENGTH <= length <= 0x80000000 or length >= 0xFFFFF000


def check_complete(sound: soundfile.SoundFile, file: BinaryIO, header: _WavHeader | None, name: str) -> None:
    """libsndfile shortens a cut-off file in silence, so compare what its header promises with what is there."""
    promised, present, unit = 0, 0, "bytes"
    if header is not None:
        if header.flaw:
            raise ClipError(f"{name}: {header.flaw}; export it again")
        promised, present = header.promised // header.frame_bytes, header.present // header.frame_bytes
        unit = header.unit
    elif sound.format in {"AIFF", "AU", "W64", "CAF"}:
        # For these the library's log is the only witness: "SSND : 176408 (should be 88181)".
        pairs = re.findall(r"(\d+) \(should be (\d+)\)", sound.extra_info)
        if sound.format == "W64" and (data := re.search(r"data : (\d+)\n", sound.extra_info)):
            pairs.append((data.group(1), str(os.fstat(file.fileno()).st_size)))
        promised, present = max(((int(a), int(b)) for a, b in pairs if int(a) > int(b)), default=(0, 0))
        if promised >= 2**63 or (sound.format not in {"W64", "CAF"} and _is_unknown(promised)):
            return
    elif sound.format == "VOC" and "truncated" in sound.extra_info:
        raise ClipError(f"{name}: truncated; fetch or record it again")
    elif sound.format == "NIST" and sound.frames:
        found = re.search(rb"sample_count -i (\d+)", bytes_at(file, 0, 1024))
        promised, present, unit = int(found.group(1)) if found else 0, sound.frames, "frames"
    elif sound.format == "OGG":
        _check_ogg_pages(file, name)
    elif sound.format == "MP3":
        _check_mp3_length(file, sound, name)
    if promised > present:
        raise ClipError(f"{name}: truncated: {present} of {promised} {unit}; fetch or record it again")


def bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Bytes of an open file, whose position stays where it is: libsndfile shares it."""
    return os.pread(file.fileno(), count, offset)


def _check_ogg_pages(file: BinaryIO, name: str) -> None:
    """Refuse an Ogg stream (RFC 3533) that lacks a page, or has a damaged one: the rest would sound too early."""
    data = bytes_at(file, 0, _MOST_SEARCHED)
    following: dict[bytes, int] = {}
    at = data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        segments = data[at + 26]
        lacing = data[at + 27 : at + 27 + segments]
        end = at + 27 + segments + sum(lacing)
        if len(lacing) < segments or end > len(data):
            break  # cut off: it is read as far as it goes
        page = data[at:end]
        serial, number, checksum = page[14:18], *struct.unpack("<II", page[18:26])
        if _ogg_checksum(page) != checksum:
            raise ClipError(f"{name}: truncated or damaged in page {number} of its stream; fetch or record it again")
        begins = bool(page[5] & 2)
        if serial in following and not begins and number != following[serial]:
            raise ClipError(
                f"{name}: truncated or damaged: page {following[serial]} of its stream is missing; fetch or record it "
                "again"
            )
        following[serial] = number + 1
        at = data.find(b"OggS", end)


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with zlib's polynomial over bits in the other order, the checksum's own bytes counting as zeros."""
    mirrored = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _check_mp3_length(file: BinaryIO, sound: soundfile.SoundFile, name: str) -> None:
    """Refuse an MP3 whose length the library guesses too short: of variable rate, without a header that tells it."""
    data = bytes_at(file, 0, _MOST_SEARCHED)
    at = 0
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = sum(byte << (7 * (3 - place)) for place, byte in enumerate(data[at + 6 : at + 10]))
        at += 10 + size
    if any(tag in data[at : at + 200] for tag in (b"Xing", b"Info", b"VBRI")):
        return
    samples = 0
    while frame := _mp3_frame(data[at : at + 4]):
        samples += frame[1]
        at += frame[0]
    if samples > sound.frames + 4 * 1152:
        raise ClipError(
            f"{name}: its header does not give its length ({sound.frames} samples guessed, {samples} there); encode it "
            "again"
        )


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Bytes and samples of the MPEG layer III frame with this header (ISO 11172-3, 2.4.1.3), or None."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, rate, row = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or row in (0, 15):
        return None
    first = version == 3
    table = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320) if first else (
        8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160
    )  # fmt: skip
    sample_rate = (44_100, 48_000, 32_000)[rate] >> (0, 0, 1, 0)[version] >> (2 if version == 0 else 0)
    return (144 if first else 72) * table[row - 1] * 1000 // sample_rate + (head[2] >> 1 & 1), 1152 if first else 576
