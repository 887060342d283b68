"""Audio in and out: files, sample rates, loudness, lengths and the sum of two sounds.

A waveform is a float32 tensor `[samples]`, mono, full scale at 1.0 and never clipped in memory: peaks above 1 are
lawful until a file with a bounded sample format is written. Times are in seconds, rates in Hz, levels in dB, loudness
in LUFS as ITU-R BS.1770-4 defines it for a single channel. All files go through libsndfile (`soundfile`).
"""

import hashlib
import io
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyloudnorm
import soundfile
import torch
from scipy import signal

from blendbench import chunks, stand_ins
from blendbench.errors import BlendbenchError, ClipError, one_line, printable
from blendbench.store import write_bytes

SAMPLE_RATE = 44_100
MIN_SECONDS = 0.4
"""Length of a gating block of BS.1770-4: a shorter clip has no loudness."""
GATE_LUFS = -70.0
"""Absolute gate of BS.1770-4: what lies below it does not count as sound."""
MIN_FILE_RATE, MAX_FILE_RATE = 4_000, 384_000

_Any = TypeVar("_Any")
_FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS")}
_UNBOUNDED_SUBTYPES = {"FLOAT", "DOUBLE"}
_BLOCK_VALUES = 1 << 20
_AUDIBLE_CHUNK_SECONDS = 2.0

# Programs that write a WAV into a pipe cannot go back to fill in the length; they leave 0xFFFFFFFF (ffmpeg), 0x7FFFFFFF
# or a little less (sox, arecord) there. Such a length is unknown, not a promise that was broken.
_UNKNOWN_LENGTH = 0x7FFFF000
_MOST_CHANNELS_TRIED = 32
"""Channels that are heard alone where their mean is silent."""
_MOST_CHANNELS = 1024
"""Channels that the library takes."""
_MOST_SEARCHED = 1 << 27
"""How much of a compressed file is looked through for damage."""
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Every byte with its bits in the other order."""


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
        _check_finite(mono, name)
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
    _check_has_samples(waveform.shape[0], name)
    _check_finite(waveform, name)
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
    _check_has_samples(waveform.shape[0], name)
    _check_finite(waveform, name)
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


def resample(waveform: torch.Tensor, orig_rate: int, new_rate: int) -> torch.Tensor:
    """Change the sample rate by a polyphase linear-phase FIR filter (`scipy.signal.resample_poly`).

    The filter is a Kaiser-windowed sinc: pass band to 0.9 of the lower Nyquist frequency, 100 dB down from that Nyquist
    frequency on. SciPy is used and not `torchaudio.functional.resample` because the latter's kernel has
    `orig * new / gcd**2` taps, which takes gigabytes for rates without a large common factor (44,056 Hz); the filter is
    designed here because the default ones of both let aliases through near Nyquist.

    Parameters
    ----------
    waveform : Tensor [..., samples]
    orig_rate, new_rate : int
        In Hz.

    Returns
    -------
    Tensor [..., ceil(samples * new_rate / orig_rate)], same dtype and device.
    """
    up, down = _rate_ratio(orig_rate, new_rate)
    if up == down or waveform.shape[-1] == 0:
        return waveform
    values = waveform.detach().cpu().numpy()
    taps = _resampling_filter(up, down).astype(values.dtype)
    resampled = signal.resample_poly(values, up, down, axis=-1, window=taps)
    return torch.from_numpy(np.ascontiguousarray(resampled)).to(waveform)


def integrated_loudness(waveform: torch.Tensor, sample_rate: int, name: str = "waveform") -> float:
    """Integrated, gated loudness of ITU-R BS.1770-4 (`pyloudnorm`).

    A full-scale 997 Hz sine in the one channel measures -3.01 LUFS; played on two channels it would measure 0.

    Parameters
    ----------
    waveform : Tensor [samples]
    sample_rate : int
        In Hz.
    name : str
        What to call the clip in a message.

    Returns
    -------
    Loudness in LUFS; -inf when no block of 400 ms passes the absolute gate of -70 LUFS.

    Raises
    ------
    ClipError
        It is shorter than 0.4 s, or holds NaN or infinity.
    ValueError
        It is not one-dimensional.
    """
    if waveform.ndim != 1:
        raise ValueError(f"{name}: waveform has shape {list(waveform.shape)}, not [samples]")
    if waveform.shape[0] < MIN_SECONDS * sample_rate:
        seconds = waveform.shape[0] / sample_rate
        raise ClipError(f"{name}: lasts {seconds:.3g} s, BS.1770 loudness needs {MIN_SECONDS} s; use a longer clip")
    _check_finite(waveform, name)
    # The offset, 600 dB down, keeps the filters' decay into digital silence out of the slow subnormal numbers.
    values = waveform.detach().cpu().numpy().astype(np.float64) + 1e-30
    return float(_meter(sample_rate).integrated_loudness(values))


def normalize_loudness(
    waveform: torch.Tensor, sample_rate: int, target_lufs: float, name: str = "waveform"
) -> tuple[torch.Tensor, float]:
    """Scale a waveform to an integrated loudness; peaks may pass 1, nothing is clipped.

    Parameters
    ----------
    waveform : Tensor [samples]
    sample_rate : int
        In Hz.
    target_lufs : float
        In LUFS, above -70.
    name : str
        What to call the clip in a message.

    Returns
    -------
    waveform : Tensor [samples]
    gain_db : float
        The finite gain that was applied, in dB.

    Raises
    ------
    ClipError
        It is silent (loudness -inf), shorter than 0.4 s, or holds NaN or infinity.
    ValueError
        The target is not finite or not above the gate of -70 LUFS.
    """
    if not (math.isfinite(target_lufs) and target_lufs > GATE_LUFS):
        raise ValueError(f"target_lufs must be finite and above {GATE_LUFS:g}, not {target_lufs}")
    loudness = integrated_loudness(waveform, sample_rate, name)
    if loudness == -math.inf:
        raise ClipError(
            f"{name}: is silent (below the {GATE_LUFS:g} LUFS gate); no gain can level it, use another clip"
        )
    gain_db = target_lufs - loudness
    # The absolute gate does not move with the gain: raising a quiet clip lifts blocks over it that were not counted.
    for _ in range(4):
        scaled = waveform * from_db(gain_db)
        error = target_lufs - integrated_loudness(scaled, sample_rate, name)
        if abs(error) < 0.001 or not math.isfinite(error):
            break
        gain_db += error
    else:
        scaled = waveform * from_db(gain_db)
    return scaled, gain_db


def extend_circular(waveform: torch.Tensor, samples: int) -> torch.Tensor:
    """Give a repeating sound a length: loop it from its start when too short, cut it when too long.

    Parameters
    ----------
    waveform : Tensor [..., n], n >= 1
    samples : int
        Wanted length, 0 or more.

    Returns
    -------
    Tensor [..., samples], a copy.

    Raises
    ------
    ValueError
        The waveform is empty or `samples` negative.
    """
    if waveform.shape[-1] == 0 or samples < 0:
        raise ValueError(f"cannot extend {waveform.shape[-1]} samples to {samples}")
    return waveform[..., torch.arange(samples, device=waveform.device) % waveform.shape[-1]]


def mix(noise: torch.Tensor, music: torch.Tensor) -> torch.Tensor:
    """Sum of noise and music, `[..., samples]` each and of one shape; peaks may pass 1, nothing is clipped.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if noise.shape != music.shape:
        raise ValueError(f"noise {list(noise.shape)} and music {list(music.shape)} differ in shape; extend or cut one")
    return noise + music


def limit_peak(waveform: torch.Tensor, ceiling: float = 1.0) -> tuple[torch.Tensor, float]:
    """Scale the whole waveform down when its peak passes a ceiling; otherwise return it as it is.

    Parameters
    ----------
    waveform : Tensor [..., samples]
    ceiling : float
        Largest absolute sample allowed, above 0.

    Returns
    -------
    waveform : Tensor [..., samples]
    attenuation_db : float
        By how much it was lowered, in dB; 0 when untouched, never negative.

    Raises
    ------
    ValueError
        The ceiling is not above 0, or the waveform holds NaN or infinity.
    """
    if not ceiling > 0:
        raise ValueError(f"ceiling must be above 0, not {ceiling}")
    peak = waveform.abs().max().item() if waveform.numel() else 0.0
    if not math.isfinite(peak):
        raise ValueError("cannot limit a waveform that holds NaN or infinity")
    if peak <= ceiling:
        return waveform, 0.0
    # Dividing first makes the peak exactly 1, so that rounding cannot lift it over the ceiling.
    return waveform / peak * ceiling, db(peak / ceiling)


def db(amplitude: float) -> float:
    """Level of an amplitude ratio in dB: 20 log10(amplitude); -inf for 0, ValueError below 0."""
    return 20.0 * math.log10(amplitude) if amplitude != 0 else -math.inf


def from_db(level: float) -> float:
    """Amplitude ratio of a level in dB: 10^(level / 20)."""
    return 10.0 ** (level / 20.0)


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
    header = _wav_header(file, size)
    sound = _library_opens(file, size, header is not None and header.is_streamed, name)
    with sound:
        if not MIN_FILE_RATE <= sound.samplerate <= MAX_FILE_RATE:
            claimed = _claims(_bytes_at(file, 0, 1 << 16)).rate
            raise ClipError(f"{name}: {_rate_flaw(sound.samplerate if claimed is None else claimed)}")
        _check_complete(sound, file, header, name)
        _check_has_samples(sound.frames, name)
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
    raise ClipError(f"{name}: {_not_audio(_bytes_at(file, 0, 1 << 16), reason)}")


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


def _claims(head: bytes) -> _Claims:
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


def _rate_flaw(rate: float) -> str:
    allowed = f"{MIN_FILE_RATE}..{MAX_FILE_RATE} Hz"
    return f"sample rate {rate:.0f} Hz lies outside {allowed}; resample the file or mend its header"


def _not_audio(head: bytes, reason: str) -> str:
    """Why the library does not read a file that begins so, where it says `reason`, and what to do."""
    if told := stand_ins.pointer(head):
        return told
    claims = _claims(head)
    if claims.rate is not None and not MIN_FILE_RATE <= claims.rate <= MAX_FILE_RATE:
        return _rate_flaw(claims.rate)
    if claims.channels is not None and not 1 <= claims.channels <= _MOST_CHANNELS:
        return f"its header gives {claims.channels} channels, not 1 to {_MOST_CHANNELS}; export it again"
    if claims.codec in _CODECS:
        return f"not audio that libsndfile reads, but {_CODECS[claims.codec]} in a WAV; convert it to PCM or FLAC"
    if found := stand_ins.content(head) or stand_ins.text(head):
        return f"not audio that libsndfile reads, but {found[0]}; {found[1]}"
    return f"not audio that libsndfile reads ({reason}); convert it to WAV or FLAC"


def _read_segment(
    sound: soundfile.SoundFile,
    name: str,
    sample_rate: int,
    max_seconds: float | None,
    start: float,
    channel: int | None,
) -> torch.Tensor:
    """Decode and resample one part, from a whole period of the two rates on: its sample grid is the whole file's."""
    up, down = _rate_ratio(sound.samplerate, sample_rate)
    margin = 0 if up == down else len(_resampling_filter(up, down)) // 2 // up + 1
    first_sample = round(start * sample_rate)
    first_period = max(0, first_sample // up - -(-margin // down))
    first_frame = first_period * down
    last_frame = sound.frames
    last_sample = None
    if max_seconds is not None:
        last_sample = first_sample + round(max_seconds * sample_rate)
        last_frame = min(last_frame, -(-last_sample * down // up) + margin)
    mono = _read_mono(sound, name, first_frame, last_frame, channel)
    _check_finite(mono, name)
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


def _wav_header(file: BinaryIO, size: int) -> _WavHeader | None:
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


def _check_complete(sound: soundfile.SoundFile, file: BinaryIO, header: _WavHeader | None, name: str) -> None:
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
        found = re.search(rb"sample_count -i (\d+)", _bytes_at(file, 0, 1024))
        promised, present, unit = int(found.group(1)) if found else 0, sound.frames, "frames"
    elif sound.format == "OGG":
        _check_ogg_pages(file, name)
    elif sound.format == "MP3":
        _check_mp3_length(file, sound, name)
    if promised > present:
        raise ClipError(f"{name}: truncated: {present} of {promised} {unit}; fetch or record it again")


def _bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Bytes of an open file, whose position stays where it is: libsndfile shares it."""
    return os.pread(file.fileno(), count, offset)


def _check_ogg_pages(file: BinaryIO, name: str) -> None:
    """Refuse an Ogg stream (RFC 3533) that lacks a page, or has a damaged one: the rest would sound too early."""
    data = _bytes_at(file, 0, _MOST_SEARCHED)
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
    data = _bytes_at(file, 0, _MOST_SEARCHED)
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


def check_channel(channel: int | None, channels: int, name: str) -> None:
    """Refuse a channel, from 0 on, that a sound of so many has not; raises ClipError, naming the setting."""
    if channel is not None and channel >= channels:
        known = "1 channel" if channels == 1 else f"{channels} channels"
        taken = "0" if channels == 1 else f"0 to {channels - 1}"
        raise ClipError(f"{name}: has {known}, so no noise.channel={channel}; take {taken}, or null for the mean")


def _check_has_samples(samples: int, name: str) -> None:
    if samples == 0:
        raise ClipError(f"{name}: holds 0 samples; use a clip with sound in it")


def _check_finite(waveform: torch.Tensor, name: str) -> None:
    finite = torch.isfinite(waveform)
    if not finite.all():
        bad = int((~finite).sum())
        raise ClipError(f"{name}: {bad} of {waveform.numel()} samples are NaN or infinite; mend or export it again")


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


@lru_cache(maxsize=16)
def _meter(sample_rate: int) -> pyloudnorm.Meter:
    return pyloudnorm.Meter(sample_rate)


def _rate_ratio(orig_rate: int, new_rate: int) -> tuple[int, int]:
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be above 0, not {orig_rate} and {new_rate}")
    common = math.gcd(orig_rate, new_rate)
    return new_rate // common, orig_rate // common


@lru_cache(maxsize=8)
def _resampling_filter(up: int, down: int) -> np.ndarray:
    transition, stopband_db = 0.1, 100.0
    nyquist_ratio = max(up, down)
    length, beta = signal.kaiserord(stopband_db, transition / nyquist_ratio)
    return signal.firwin(2 * (length // 2) + 1, (1 - transition / 2) / nyquist_ratio, window=("kaiser", beta))


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
