"""Sound as it comes: files at their speed, standard input as WAV or raw PCM, a sound device; and where it goes.

A block is a float32 tensor [channels, samples] at 44.1 kHz. A source is an iterator of blocks that ends with the sound;
a sink takes blocks, and is closed whatever happens.
"""

import queue
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import torch

from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.sound import audio, files
from blendbench.sound.audio import SAMPLE_RATE

BLOCK = 2205
"""Samples a block: 50 ms."""
KINDS = {"s16le": ("<i2", 32768.0), "s32le": ("<i4", 2147483648.0), "f32le": ("<f4", 1.0)}
"""Raw formats: a NumPy type, and what full scale is."""


@dataclass(frozen=True)
class Format:
    """How raw samples lie in a stream.

    Parameters
    ----------
    rate : int
        In Hz.
    channels : int
    kind : str
        One of `KINDS`.

    Raises
    ------
    BlendbenchError
        If a value is out of range.
    """

    rate: int = SAMPLE_RATE
    channels: int = 1
    kind: str = "s16le"

    def __post_init__(self) -> None:
        if not 4000 <= self.rate <= 384_000:
            raise BlendbenchError(f"--rate: is {self.rate}; give 4000 to 384000 Hz")
        if not 1 <= self.channels <= 8:
            raise BlendbenchError(f"--channels: is {self.channels}; give 1 to 8")
        if self.kind not in KINDS:
            raise BlendbenchError(f"--format: is {self.kind}; give one of {', '.join(KINDS)}")

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels."""
        return np.dtype(KINDS[self.kind][0]).itemsize * self.channels

    def decoded(self, data: bytes) -> torch.Tensor:
        """Samples [channels, n] of whole frames."""
        kind, scale = KINDS[self.kind]
        values = np.frombuffer(data, kind).astype(np.float32) / np.float32(scale)
        return torch.from_numpy(values.reshape(-1, self.channels).T.copy())

    def encoded(self, block: torch.Tensor) -> bytes:
        """Bytes of samples [channels, n]; beyond full scale they are cut."""
        kind, scale = KINDS[self.kind]
        values = block.T.contiguous().numpy()
        if scale == 1.0:
            return values.astype(kind).tobytes()
        return np.clip(np.round(values * scale), -scale, scale - 1).astype(kind).tobytes()


class Source:
    """An iterator of blocks with a number of channels, and how much of it was no number."""

    def __init__(self, blocks: Iterator[torch.Tensor], rate: int, channels: int) -> None:
        self.channels, self.broken = channels, 0
        self._blocks, self._rate = blocks, rate

    def __iter__(self) -> Iterator[torch.Tensor]:
        whole = self._finite(self._blocks)
        if self._rate != SAMPLE_RATE:
            whole = audio.resample_blocks(whole, self._rate, SAMPLE_RATE)
        waiting = torch.zeros(self.channels, 0)
        for block in whole:
            waiting = torch.cat([waiting, block], dim=1)
            while waiting.shape[1] >= BLOCK:
                yield waiting[:, :BLOCK].clone()
                waiting = waiting[:, BLOCK:]
        if waiting.shape[1]:
            yield waiting

    def _finite(self, blocks: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Blocks with silence in place of what is no number."""
        for block in blocks:
            bad = int((~torch.isfinite(block)).sum())
            if bad:
                if not self.broken:
                    print("blendbench: the noise holds NaN or infinity; silence stands in for it", file=sys.stderr)
                self.broken += bad
                block = torch.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
            yield block


def of_file(path: Path) -> Source:
    """A file's sound; raises ClipError where it is none."""
    _, rate, channels = files.described(path)

    def blocks() -> Iterator[torch.Tensor]:
        with soundfile.SoundFile(path) as sound:
            while len(values := sound.read(rate // 10, dtype="float32", always_2d=True)):
                yield torch.from_numpy(values.T.copy())

    return Source(blocks(), rate, channels)


def of_stream(stream: BinaryIO, wanted: Format) -> Source:
    """A stream's sound: WAV where it begins like one, else raw samples of a format."""
    first = stream.read(4)
    if first == b"RIFF":
        wanted, first = _wav_format(stream), b""
    return Source(_raw(stream, wanted, first), wanted.rate, wanted.channels)


def _raw(stream: BinaryIO, wanted: Format, first: bytes) -> Iterator[torch.Tensor]:
    size, rest = max(1, wanted.rate // 20) * wanted.frame, first
    read = getattr(stream, "read1", stream.read)  # as much as has come, so that nothing waits for a full block
    while data := read(size):
        rest += data
        whole = len(rest) // wanted.frame * wanted.frame
        if whole:
            yield wanted.decoded(rest[:whole])
            rest = rest[whole:]


def _wav_format(stream: BinaryIO) -> Format:
    """Read a WAV header up to its samples; raises ClipError where it is none that can be streamed."""
    if stream.read(8)[4:] != b"WAVE":
        raise ClipError("standard input: begins like a RIFF file but is no WAV; send WAV or raw samples")
    found: Format | None = None
    while len(head := stream.read(8)) == 8:
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data":
            if found is None:
                break
            return found
        body = stream.read(size + size % 2)
        if kind == b"fmt " and len(body) >= 16:
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if tag == 0xFFFE and len(body) >= 26:
                tag = struct.unpack_from("<H", body, 24)[0]
            kinds = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}
            if (tag, bits) not in kinds:
                raise ClipError(f"standard input: WAV of format {tag} with {bits} bits; send 16 or 32 bits, or floats")
            found = Format(rate, channels, kinds[tag, bits])
    raise ClipError("standard input: a WAV header without samples; send WAV or raw samples")


def of_device(name: str | None, channels: int = 1) -> Source:
    """A sound device's sound, through `sounddevice`.

    Raises
    ------
    BlendbenchError
        If `sounddevice` or the device is not there.
    """
    sounddevice, device = _device(name, "input")
    waiting: queue.Queue[np.ndarray] = queue.Queue(maxsize=200)

    def heard(values: np.ndarray, *_: Any) -> None:
        try:
            waiting.put_nowait(values.copy())
        except queue.Full:
            print("blendbench: the sound device is faster than this machine; a block is lost", file=sys.stderr)

    def blocks() -> Iterator[torch.Tensor]:
        with sounddevice.InputStream(SAMPLE_RATE, BLOCK, device, channels, "float32", callback=heard):
            while True:
                yield torch.from_numpy(waiting.get().T.copy())

    return Source(blocks(), SAMPLE_RATE, channels)


def _device(name: str | None, side: str) -> tuple[Any, Any]:
    """The module `sounddevice`, and a device's number or None for the usual one."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the library PortAudio is missing
        raise BlendbenchError(
            f"device: sounddevice cannot be used ({str(error).splitlines()[0]}); pip install sounddevice, and "
            "Debian's libportaudio2"
        ) from None
    try:
        sounddevice.query_devices(name, side)
    except (ValueError, sounddevice.PortAudioError) as error:
        there = ", ".join(str(one["name"]) for one in sounddevice.query_devices()) or "none"
        raise BlendbenchError(f"device: no {side} device {name or 'by default'} ({error}); there are {there}") from None
    return sounddevice, name


class Sink:
    """Where blocks go."""

    def write(self, block: torch.Tensor) -> None:
        """Take a block [channels, samples]; raises BrokenPipeError where nobody listens any more."""
        raise NotImplementedError

    def close(self) -> None:
        """End."""


class FileSink(Sink):
    """A WAV file of floats."""

    def __init__(self, path: Path, channels: int) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sound = soundfile.SoundFile(path, "w", SAMPLE_RATE, channels, "FLOAT", format="WAV")
        except (OSError, soundfile.SoundFileError) as error:
            raise BlendbenchError(f"{printable(path)}: cannot be written ({error}); give another --to") from None

    def write(self, block: torch.Tensor) -> None:
        """Append; raises BlendbenchError where there is no space left."""
        with files.streamed_to(self._path):
            self._sound.write(block.T.contiguous().numpy())
            self._sound.flush()

    def close(self) -> None:
        """Write the header's lengths."""
        with files.streamed_to(self._path):
            self._sound.close()


class StreamSink(Sink):
    """Raw samples into a stream."""

    def __init__(self, stream: BinaryIO, kind: str) -> None:
        self._stream, self._kind = stream, kind

    def write(self, block: torch.Tensor) -> None:
        """Send on."""
        self._stream.write(Format(SAMPLE_RATE, block.shape[0], self._kind).encoded(block))
        self._stream.flush()


class DeviceSink(Sink):
    """A sound device."""

    def __init__(self, name: str | None, channels: int) -> None:
        sounddevice, device = _device(name, "output")
        self._stream = sounddevice.OutputStream(SAMPLE_RATE, BLOCK, device, channels, "float32")
        self._stream.start()

    def write(self, block: torch.Tensor) -> None:
        """Play; waits while the device has enough."""
        self._stream.write(block.T.contiguous().numpy())

    def close(self) -> None:
        """Stop."""
        self._stream.stop()
        self._stream.close()


def paced(source: Source) -> Iterator[torch.Tensor]:
    """A source's blocks no faster than they sound."""
    begin, given = time.monotonic(), 0
    for block in source:
        ahead = given / SAMPLE_RATE - (time.monotonic() - begin)
        if ahead > 0:
            time.sleep(ahead)
        elif ahead < -1.0:  # a source that was late does not have to catch up
            begin -= ahead
        given += block.shape[1]
        yield block
