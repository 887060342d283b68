"""Audio files, read and written through libsndfile (`soundfile`), with one channel or several.

Who asks for one channel gets [samples], the mean of all that a file has. Who asks for more gets [channels, samples]:
those of the file as they are, or a mono file's one, repeated; a file with any other number is refused, as there is more
than one way to mix it down.
"""

import hashlib
import io
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile
import torch

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, ClipError, one_line, printable
from blendbench.sound import chunks
from blendbench.sound.audio import (
    BLOCK_VALUES,
    MIN_SECONDS,
    SAMPLE_RATE,
    check_finite,
    check_has_samples,
    check_shape,
    finite_blocks,
    peak_of,
    rate_ratio,
    resample_blocks,
    resampling_filter,
)
from blendbench.sound.checks import check_channels, check_heard
from blendbench.sound.containers import (
    MAX_FILE_RATE,
    MIN_FILE_RATE,
    bytes_at,
    check_complete,
    claims_of,
    not_audio,
    rate_flaw,
    wav_header,
)
from blendbench.store.write import write_bytes

_Any = TypeVar("_Any")
_FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS")}
_UNBOUNDED_SUBTYPES = {"FLOAT", "DOUBLE"}
_MP3_LEAD = 32 * 1152


def read(
    path: str | os.PathLike[str],
    sample_rate: int = SAMPLE_RATE,
    max_seconds: float | None = None,
    start: float = 0.0,
    min_seconds: float = MIN_SECONDS,
    channel: int | None = None,
    channels: int = 1,
) -> torch.Tensor:
    """Read a file, or a part of it, as a checked waveform.

    Only the part asked for is decoded (with the few frames around it that the resampling filter needs, so that a part
    equals the same part of the whole), block by block, and resampled as it comes: beside a few blocks that takes two
    copies of the result, whatever the file's rate and number of channels.

    Parameters
    ----------
    path : path
        A file of any format, rate and number of channels that libsndfile reads; its content decides, not its name.
    sample_rate : int
        Rate of the result, in Hz.
    max_seconds : float, optional
        Read at most this much, in seconds; the whole file when absent.
    start : float
        Where to begin, in seconds from the start of the file.
    min_seconds : float
        Shortest result that is accepted, in seconds.
    channel : int, optional
        Take this channel, from 0 on, alone.
    channels : int
        Of the result: 1 for the mean of the file's channels; more for those of a file that has so many, or for a file's
        only channel, or the one taken, repeated.

    Returns
    -------
    Tensor [samples], or [channels, samples] for more than one channel, float32
        `round(max_seconds * sample_rate)` samples, or fewer where the file ends earlier.

    Raises
    ------
    ClipError
        The file is missing, not a file, not readable, not audio, truncated or damaged, or has not such channels; or
        what was read is empty, shorter than `min_seconds`, not finite, or without sound (see `checks.check_heard`). A
        cut-off Ogg or MP3 is read as far as it goes: neither promises a length that could be held against it.
    ValueError
        `sample_rate`, `start`, `max_seconds`, `min_seconds` or `channels` make no sense.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start must be a time in seconds, 0 or later, not {start}")
    if max_seconds is not None and not (max_seconds > 0 and max_seconds >= min_seconds):
        raise ValueError(f"max_seconds must be above 0 and at least min_seconds ({min_seconds}), not {max_seconds}")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be above 0, not {sample_rate}")
    _check_count(channels)
    path = Path(path)

    def part(one: int | None) -> torch.Tensor:
        return opened(
            path, lambda sound, name: _read_segment(sound, name, sample_rate, max_seconds, start, one, channels), start
        )

    waveform = part(channel)
    check_heard(waveform, printable(path), part, channel, sample_rate, min_seconds)
    return waveform


def read_span(
    path: str | os.PathLike[str], start: float, stop: float, channel: int | None = None, channels: int = 1
) -> tuple[torch.Tensor, int]:
    """Read a stretch of a file at the file's own rate.

    Parameters
    ----------
    path : path
        As for `read`.
    start, stop : float
        In seconds; what lies before the file's beginning or after its end is left out.
    channel, channels
        As for `read`.

    Returns
    -------
    waveform : Tensor [frames] or [channels, frames], float32, finite
    sample_rate : int
        In Hz.

    Raises
    ------
    ClipError
        As for `read`, except that length and silence are not looked at; or the file ends before `start`.
    ValueError
        `channels` is below 1.
    """
    _check_count(channels)

    def frames(sound: soundfile.SoundFile, name: str) -> tuple[torch.Tensor, int]:
        first, last = round(max(0.0, start) * sound.samplerate), round(min(stop * sound.samplerate, sound.frames))
        return _joined(_blocks(sound, name, first, last, channel, channels)), sound.samplerate

    return opened(Path(path), frames, max(0.0, start))


def described(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Frames, rate in Hz and channels of a file; raises ClipError where it is no whole file of sound."""
    return opened(Path(path), lambda sound, _: (sound.frames, sound.samplerate, sound.channels), 0.0)


def read_part(
    path: str | os.PathLike[str],
    start: float,
    seconds: float,
    sample_rate: int = SAMPLE_RATE,
    channel: int | None = None,
    channels: int = 1,
) -> torch.Tensor:
    """A part of a file as `read` gives it, silence and all; empty where the file has ended, shorter where it ends."""
    _check_count(channels)

    def part(sound: soundfile.SoundFile, name: str) -> torch.Tensor:
        if start * sound.samplerate >= sound.frames:
            return torch.zeros(0) if channels == 1 else torch.zeros(channels, 0)
        return _read_segment(sound, name, sample_rate, seconds, start, channel, channels)

    return opened(Path(path), part, 0.0)


def write(
    path: str | os.PathLike[str], waveform: torch.Tensor, sample_rate: int = SAMPLE_RATE, subtype: str | None = None
) -> str:
    """Write a waveform so that the file is either complete or not there.

    The bytes go to a temporary name (`.<random>.part`) in the same folder, are synced and renamed into place; parent
    folders are made. The same waveform gives the same bytes for `.wav` and `.flac`; libsndfile numbers Ogg streams at
    random, so there the digest identifies the file alone.

    Parameters
    ----------
    path : path
        Ends in `.wav`, `.flac` or `.ogg`, which sets the format.
    waveform : Tensor [samples] or [channels, samples]
    sample_rate : int
        In Hz.
    subtype : str, optional
        Sample format by libsndfile's name ("FLOAT", "PCM_16", ...); by default FLOAT, PCM_24 and VORBIS in that order.

    Returns
    -------
    The SHA-256 of the file, in hexadecimal.

    Raises
    ------
    ClipError
        The waveform holds NaN or infinity, or no samples.
    BlendbenchError
        The extension or subtype is not supported, or takes not so many channels, or the file cannot be written (folder,
        permission, full disk).
    ValueError
        The waveform has another shape, or a peak above 1 that the sample format would clip (use `limit_peak`).
    """
    path = Path(path)
    name = printable(path)
    try:
        container, default_subtype = _FORMATS[path.suffix.lower()]
    except KeyError:
        raise BlendbenchError(f"{name}: unknown audio extension; use {', '.join(_FORMATS)}") from None
    subtype = (subtype or default_subtype).upper()
    if not soundfile.check_format(container, subtype):
        known = ", ".join(soundfile.available_subtypes(container))
        raise BlendbenchError(f"{name}: {container} has no sample format {subtype}; use one of {known}")
    check_shape(waveform, name)
    check_has_samples(waveform.shape[-1], name)
    check_finite(waveform, name)
    if subtype not in _UNBOUNDED_SUBTYPES and (peak := peak_of(waveform)) > 1:
        raise ValueError(f"{name}: peak {peak:.3g} would be clipped by {subtype}; use limit_peak")
    try:
        data = _encode(waveform, sample_rate, container, subtype)
    except soundfile.SoundFileError as error:
        reason = one_line(str(error))
        rate = f"{sample_rate} Hz" if waveform.ndim == 1 else f"{sample_rate} Hz in {len(waveform)} channels"
        raise BlendbenchError(
            f"{name}: cannot be encoded as {container} {subtype} at {rate} ({reason}); use another format"
        ) from None
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def streamed_to(path: Path) -> Iterator[None]:
    """While a file is written block by block: what libsndfile says of a full disk becomes a BlendbenchError."""
    try:
        yield
    except soundfile.SoundFileError as error:
        # It tells no reason but "System error": what is left of the disk is the likeliest.
        reason = one_line(str(error)).strip(" .")
        raise BlendbenchError(
            f"{printable(path)}: cannot be written on ({reason}); free space or choose another folder"
        ) from error


def _check_count(channels: int) -> None:
    if channels < 1:
        raise ValueError(f"channels must be 1 or more, not {channels}")


def _read_failure(name: str, error: OSError | ValueError) -> ClipError:
    if isinstance(error, FileNotFoundError):
        return ClipError(f"{name}: no such file; check the path")
    if isinstance(error, PermissionError):
        return ClipError(f"{name}: permission denied; make the file and its folders readable")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ClipError(f"{name}: cannot be read ({one_line(reason)}); check the path and the disk")


def opened(path: Path, use: Callable[[soundfile.SoundFile, str], _Any], start: float = 0.0) -> _Any:
    """What `use`, handed the file and its name, makes of one that holds sound after `start` seconds; else ClipError."""
    name = printable(path)
    if lost := stand_ins.lost_link(path):
        raise ClipError(f"{name}: {lost}")
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _read_failure(name, error) from None
    if not stat.S_ISREG(mode):
        raise ClipError(f"{name}: not a regular file; give the path of an audio file")
    try:
        # Unbuffered, because libsndfile goes on from the descriptor's own position.
        with path.open("rb", buffering=0) as file, _sound(file, name) as sound:
            if start * sound.samplerate >= sound.frames:
                length = sound.frames / sound.samplerate
                raise ClipError(
                    f"{name}: ends at {length:.3f} s, before the start asked for, {start:.3f} s; mend the segment"
                )
            return use(sound, name)
    except OSError as error:
        raise _read_failure(name, error) from None


@contextmanager
def _sound(file: BinaryIO, name: str) -> Iterator[soundfile.SoundFile]:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ClipError(f"{name}: the file is empty (0 bytes); fetch or record it again")
    header = wav_header(file, size)
    sound = _library_opens(file, size, header is not None and header.is_streamed, name)
    with sound:
        if not MIN_FILE_RATE <= sound.samplerate <= MAX_FILE_RATE:
            claimed = claims_of(bytes_at(file, 0, 1 << 16)).rate
            raise ClipError(f"{name}: {rate_flaw(sound.samplerate if claimed is None else claimed)}")
        check_complete(sound, file, header, name)
        check_has_samples(sound.frames, name)
        if sound.frames >= 2**62:
            raise ClipError(f"{name}: its header does not give its length (written to a pipe?); encode it again")
        yield sound


def _library_opens(file: BinaryIO, size: int, is_streamed: bool, name: str) -> soundfile.SoundFile:
    """The sound of an open file, by its bare chunks where the library does not find its way through all of them."""
    reason = ""
    if not is_streamed:
        file.seek(0)
        try:
            return soundfile.SoundFile(file.fileno(), closefd=False)
        except (soundfile.SoundFileError, TypeError) as error:
            reason = one_line(str(error).partition(": ")[2] or str(error))
    bare = chunks.bare(file, size)
    if bare is not None:
        try:
            return soundfile.SoundFile(bare)
        except (soundfile.SoundFileError, TypeError) as error:
            reason = reason or one_line(str(error).partition(": ")[2] or str(error))
    raise ClipError(f"{name}: {not_audio(bytes_at(file, 0, 1 << 16), reason)}")


def _read_segment(
    sound: soundfile.SoundFile,
    name: str,
    sample_rate: int,
    max_seconds: float | None,
    start: float,
    channel: int | None,
    channels: int,
) -> torch.Tensor:
    """Decode and resample one part, from a whole period of the two rates on: its sample grid is the whole file's."""
    up, down = rate_ratio(sound.samplerate, sample_rate)
    margin = 0 if up == down else len(resampling_filter(up, down)) // 2 // up + 1
    first_sample = round(start * sample_rate)
    first_period = max(0, first_sample // up - -(-margin // down))
    first_frame = first_period * down
    last_frame = sound.frames
    last_sample = None
    if max_seconds is not None:
        last_sample = first_sample + round(max_seconds * sample_rate)
        last_frame = min(last_frame, -(-last_sample * down // up) + margin)
    blocks = _blocks(sound, name, first_frame, last_frame, channel, channels)
    offset = first_period * up
    end = None if last_sample is None else last_sample - offset
    return _joined(resample_blocks(blocks, sound.samplerate, sample_rate), first_sample - offset, end)


def _blocks(
    sound: soundfile.SoundFile, name: str, first_frame: int, last_frame: int, channel: int | None, channels: int
) -> Iterator[torch.Tensor]:
    """Frames `[first_frame, last_frame)`, their channels as `read` says, and ClipError after them if one is not finite.

    They are read block by block, as a header may promise any length.
    """
    check_channels(channels, channel, sound.channels, name)
    return finite_blocks(_decoded(sound, name, first_frame, last_frame, channel, channels), name)


def _decoded(
    sound: soundfile.SoundFile, name: str, first_frame: int, last_frame: int, channel: int | None, channels: int
) -> Iterator[torch.Tensor]:
    block_frames = max(1, BLOCK_VALUES // sound.channels)
    position = first_frame
    try:
        while position < last_frame:
            block = frames_at(sound, position, min(block_frames, last_frame - position))
            if len(block) == 0:
                break
            position += len(block)
            yield torch.from_numpy(_taken(block, channel, channels))
    except soundfile.SoundFileError as error:
        reason = one_line(str(error).removeprefix("Error : "))
        raise ClipError(
            f"{name}: truncated or damaged near frame {position} of {sound.frames} ({reason}); fetch or record it again"
        ) from None
    # The length of an MP3 without a Xing header is an estimate.
    if position < last_frame and sound.format != "MP3":
        raise ClipError(f"{name}: truncated: {position} of {sound.frames} frames; fetch or record it again")
    if position <= first_frame:
        yield torch.zeros(0) if channels == 1 else torch.zeros(channels, 0)


def frames_at(sound: soundfile.SoundFile, first: int, count: int, dtype: str = "float32") -> np.ndarray:
    """Frames [n, channels] of an open file from one on; fewer where it ends.

    An MP3's frames lean on those before, and libsndfile forgets them when it seeks, which `soundfile` has it do after
    every read: the first tenth of a second would be wrong. So there some more is decoded, and thrown away.
    """
    lead = min(first, _MP3_LEAD) if sound.format == "MP3" else 0
    if sound.tell() != first - lead:
        sound.seek(first - lead)
    found: np.ndarray = sound.read(lead + count, dtype=dtype, always_2d=True)
    return found[lead:]


def _taken(block: np.ndarray, channel: int | None, channels: int) -> np.ndarray:
    """Of frames [frames, the file's channels]: [frames] for one channel, [channels, frames] for more."""
    alone = 0 if block.shape[1] == 1 else channel
    if alone is not None:
        taken = block[:, alone].copy()
        return taken if channels == 1 else np.tile(taken, (channels, 1))
    return block.mean(axis=1, dtype=np.float64).astype(np.float32) if channels == 1 else block.T.copy()


def _joined(blocks: Iterable[torch.Tensor], first: int = 0, stop: int | None = None) -> torch.Tensor:
    """Samples `[first, stop)` of a waveform that comes in blocks, at least one."""
    kept, position = [], 0
    for block in blocks:
        end = block.shape[-1] if stop is None else max(0, stop - position)
        kept.append(block[..., max(0, first - position) : end])
        position += block.shape[-1]
    return torch.cat(kept, dim=-1)


def _encode(waveform: torch.Tensor, sample_rate: int, container: str, subtype: str) -> memoryview:
    buffer = io.BytesIO()
    values = waveform.detach().cpu().numpy()
    channels = 1 if values.ndim == 1 else len(values)
    with soundfile.SoundFile(buffer, "w", sample_rate, channels, subtype, format=container) as sound:
        # One long call overflows the stack inside libvorbis.
        for start in range(0, values.shape[-1], 1 << 16):
            sound.write(values[..., start : start + (1 << 16)].T)
    data = buffer.getbuffer()
    if container == "WAV":
        clear_peak_time(data)
    return data


def clear_peak_time(data: memoryview) -> None:
    """Zero the time of writing that libsndfile puts into a float WAV's PEAK chunk: equal sound, equal bytes."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"data":
            return
        if kind == b"PEAK":
            struct.pack_into("<I", data, position + 12, 0)
            return
        position += 8 + length + length % 2
