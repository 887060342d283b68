"""Audio files, read and written through libsndfile (`soundfile`), and what is refused of them."""

import hashlib
import io
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator
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
    GATE_LUFS,
    MIN_SECONDS,
    SAMPLE_RATE,
    check_finite,
    check_has_samples,
    db,
    integrated_loudness,
    rate_ratio,
    resample,
    resampling_filter,
)
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
_BLOCK_VALUES = 1 << 20
_AUDIBLE_CHUNK_SECONDS = 2.0
_MOST_CHANNELS_TRIED = 32
"""Channels that are heard alone where their mean is silent."""


def read(
    path: str | os.PathLike[str],
    sample_rate: int = SAMPLE_RATE,
    max_seconds: float | None = None,
    start: float = 0.0,
    min_seconds: float = MIN_SECONDS,
    channel: int | None = None,
) -> torch.Tensor:
    """Read a file, or a part of it, as a checked mono waveform.

    The channels are averaged, or one of them is taken. Only the part asked for is decoded (with the few frames around
    it that the resampling filter needs, so that a part equals the same part of the whole).

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
        Take this channel, from 0 on, instead of the mean.

    Returns
    -------
    Tensor [samples], float32, `round(max_seconds * sample_rate)` samples or fewer where the file ends earlier.

    Raises
    ------
    ClipError
        The file is missing, not a file, not readable, not audio, truncated or damaged, or has no such channel; or what
        was read is empty, shorter than `min_seconds`, not finite, or without sound (see `check_heard`). A cut-off Ogg
        or MP3 is read as far as it goes: neither promises a length that could be held against it.
    ValueError
        `sample_rate`, `start`, `max_seconds` or `min_seconds` make no sense.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start must be a time in seconds, 0 or later, not {start}")
    if max_seconds is not None and not (max_seconds > 0 and max_seconds >= min_seconds):
        raise ValueError(f"max_seconds must be above 0 and at least min_seconds ({min_seconds}), not {max_seconds}")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be above 0, not {sample_rate}")
    path = Path(path)

    def part(one: int | None) -> torch.Tensor:
        return _opened(
            path, lambda sound, name: _read_segment(sound, name, sample_rate, max_seconds, start, one), start
        )

    waveform = part(channel)
    check_heard(waveform, printable(path), part, channel, sample_rate, min_seconds)
    return waveform


def read_span(
    path: str | os.PathLike[str], start: float, stop: float, channel: int | None = None
) -> tuple[torch.Tensor, int]:
    """Read a stretch of a file at the file's own rate, channels averaged, or one of them.

    Parameters
    ----------
    path : path
        As for `read`.
    start, stop : float
        In seconds; what lies before the file's beginning or after its end is left out.
    channel : int, optional
        As for `read`.

    Returns
    -------
    waveform : Tensor [frames], float32, finite
    sample_rate : int
        In Hz.

    Raises
    ------
    ClipError
        As for `read`, except that length and silence are not looked at; or the file ends before `start`.
    """

    def frames(sound: soundfile.SoundFile, name: str) -> tuple[torch.Tensor, int]:
        first = round(max(0.0, start) * sound.samplerate)
        mono = _read_mono(sound, name, first, round(min(stop * sound.samplerate, sound.frames)), channel)
        check_finite(mono, name)
        return mono, sound.samplerate

    return _opened(Path(path), frames, max(0.0, start))


def check_waveform(
    waveform: torch.Tensor, name: str, sample_rate: int = SAMPLE_RATE, min_seconds: float = MIN_SECONDS
) -> None:
    """Refuse a waveform that cannot take part in an experiment.

    Parameters
    ----------
    waveform : Tensor [samples]
    name : str
        What to call the clip in the message.
    sample_rate : int
        In Hz.
    min_seconds : float
        Shortest length accepted, in seconds.

    Raises
    ------
    ClipError
        It is not one-dimensional, is empty, holds NaN or infinity, is shorter than `min_seconds`, or has no sound: no
        400 ms of it, its mean taken away, passes the absolute gate of -70 LUFS of BS.1770-4. That covers digital
        silence, a constant value (DC only), and clips so quiet that their loudness is -inf and no finite gain would
        level them.
    """
    if waveform.ndim != 1:
        shape = list(waveform.shape)
        raise ClipError(f"{name}: waveform has shape {shape}, not [samples]; average its channels first")
    check_has_samples(waveform.shape[0], name)
    check_finite(waveform, name)
    seconds = waveform.shape[0] / sample_rate
    if waveform.shape[0] < round(min_seconds * sample_rate):
        raise ClipError(
            f"{name}: lasts {seconds:.6g} s, shorter than the {min_seconds:g} s needed "
            f"(BS.1770 loudness takes blocks of 400 ms); use a longer clip"
        )
    if not _is_audible(waveform, sample_rate):
        peak = waveform.abs().max().item()
        if peak == 0:
            what = "is digital silence"
        elif waveform.min() == waveform.max():
            what = f"holds one constant value ({waveform[0].item():.3g}), so no sound"
        else:
            what = f"is silent: all of it lies below the {GATE_LUFS:g} LUFS gate of BS.1770 (peak {db(peak):.1f} dBFS)"
        raise _SilentError(f"{name}: {what}; use a clip with sound in it")


class _SilentError(ClipError):
    """A waveform has no sound in it."""


def check_heard(
    waveform: torch.Tensor,
    name: str,
    part: Callable[[int], torch.Tensor],
    channel: int | None,
    sample_rate: int = SAMPLE_RATE,
    min_seconds: float = MIN_SECONDS,
) -> None:
    """Refuse, as `check_waveform`, what was read of a file; where its channels cancel out in their mean, say so.

    Parameters
    ----------
    waveform, name, sample_rate, min_seconds
        As for `check_waveform`.
    part : callable
        From a channel, from 0 on, to its waveform [samples]; raises ClipError if there is none.
    channel : int or None
        The channel that the waveform is; None for the mean of all.

    Raises
    ------
    ClipError
        As `check_waveform`, or because the mean is silent while a channel is not.
    """
    if channel is not None:
        check_waveform(waveform, f"{name}, channel {channel}", sample_rate, min_seconds)
        return
    try:
        check_waveform(waveform, name, sample_rate, min_seconds)
    except _SilentError:
        for one in range(_MOST_CHANNELS_TRIED):
            try:
                audible = _is_audible(part(one), sample_rate)
            except ClipError:
                break
            if audible:
                raise ClipError(
                    f"{name}: its channels cancel out: channel {one} has sound, the mean of all has none (opposite "
                    f"phase?); make it mono, or, if it is a noise, take one channel by noise.channel={one}"
                ) from None
        raise


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
    waveform : Tensor [samples]
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
        The extension or subtype is not supported, or the file cannot be written (folder, permission, full disk).
    ValueError
        The waveform is not one-dimensional, or has a peak above 1 that the sample format would clip (use `limit_peak`).
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
    if waveform.ndim != 1:
        raise ValueError(f"{name}: waveform has shape {list(waveform.shape)}, not [samples]")
    check_has_samples(waveform.shape[0], name)
    check_finite(waveform, name)
    if subtype not in _UNBOUNDED_SUBTYPES and waveform.abs().max() > 1:
        raise ValueError(
            f"{name}: peak {waveform.abs().max().item():.3g} would be clipped by {subtype}; use limit_peak"
        )
    try:
        data = _encode(waveform, sample_rate, container, subtype)
    except soundfile.SoundFileError as error:
        reason = one_line(str(error))
        raise BlendbenchError(
            f"{name}: cannot be encoded as {container} {subtype} at {sample_rate} Hz ({reason}); use another format"
        ) from None
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def _read_failure(name: str, error: OSError | ValueError) -> ClipError:
    if isinstance(error, FileNotFoundError):
        return ClipError(f"{name}: no such file; check the path")
    if isinstance(error, PermissionError):
        return ClipError(f"{name}: permission denied; make the file and its folders readable")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ClipError(f"{name}: cannot be read ({one_line(reason)}); check the path and the disk")


def _opened(path: Path, use: Callable[[soundfile.SoundFile, str], _Any], start: float) -> _Any:
    """What `use` makes of an open file that holds sound after `start` seconds; raises ClipError for any other."""
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
    mono = _read_mono(sound, name, first_frame, last_frame, channel)
    check_finite(mono, name)
    offset = first_period * up
    end = None if last_sample is None else last_sample - offset
    # A copy, so that a short part does not keep what was read around it alive.
    return resample(mono, sound.samplerate, sample_rate)[first_sample - offset : end].clone()


def _read_mono(
    sound: soundfile.SoundFile, name: str, first_frame: int, last_frame: int, channel: int | None
) -> torch.Tensor:
    """Frames `[first_frame, last_frame)` of a channel, or the mean of all (None).

    They are read block by block, as a header may promise any length.
    """
    check_channel(channel, sound.channels, name)
    taken = 0 if sound.channels == 1 else channel
    block_frames = max(1, _BLOCK_VALUES // sound.channels)
    blocks: list[np.ndarray] = []
    position = first_frame
    try:
        if first_frame:
            sound.seek(first_frame)
        while position < last_frame:
            block = sound.read(min(block_frames, last_frame - position), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            blocks.append(
                block[:, taken].copy() if taken is not None else block.mean(axis=1, dtype=np.float64).astype(np.float32)
            )
            position += len(block)
    except soundfile.SoundFileError as error:
        reason = one_line(str(error).removeprefix("Error : "))
        raise ClipError(
            f"{name}: truncated or damaged near frame {position} of {sound.frames} ({reason}); fetch or record it again"
        ) from None
    # The length of an MP3 without a Xing header is an estimate.
    if position < last_frame and sound.format != "MP3":
        raise ClipError(f"{name}: truncated: {position} of {sound.frames} frames; fetch or record it again")
    return torch.from_numpy(np.concatenate(blocks)) if blocks else torch.zeros(0)


def check_channel(channel: int | None, channels: int, name: str) -> None:
    """Refuse a channel, from 0 on, that a sound of so many has not; raises ClipError, naming the setting."""
    if channel is not None and channel >= channels:
        known = "1 channel" if channels == 1 else f"{channels} channels"
        taken = "0" if channels == 1 else f"0 to {channels - 1}"
        raise ClipError(f"{name}: has {known}, so no noise.channel={channel}; take {taken}, or null for the mean")


def _is_audible(waveform: torch.Tensor, sample_rate: int) -> bool:
    """Whether any block of 400 ms passes the absolute gate; stops at the first chunk that does.

    The mean goes first: where a constant begins, the K-weighting's high-pass rings, and would count as sound.
    """
    block = math.ceil(MIN_SECONDS * sample_rate)
    chunk = round(_AUDIBLE_CHUNK_SECONDS * sample_rate)
    mean = waveform.mean(dtype=torch.float64).item()
    for start in range(0, waveform.shape[0], chunk):
        part = waveform[start : start + chunk + block].double() - mean
        part = torch.nn.functional.pad(part, (0, max(0, block - part.shape[0])))
        if integrated_loudness(part, sample_rate) > -math.inf:
            return True
    return False


def _encode(waveform: torch.Tensor, sample_rate: int, container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    values = waveform.detach().cpu().numpy()
    with soundfile.SoundFile(buffer, "w", sample_rate, 1, subtype, format=container) as sound:
        # One long call overflows the stack inside libvorbis.
        for start in range(0, len(values), 1 << 16):
            sound.write(values[start : start + (1 << 16)])
    data = bytearray(buffer.getvalue())
    if container == "WAV":
        _clear_peak_time(data)
    return bytes(data)


def _clear_peak_time(data: bytearray) -> None:
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
