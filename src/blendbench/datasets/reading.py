"""What is heard of a clip: read from its file, or from a segment of a longer recording, and ahead of time."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from blendbench.datasets import MusicClip, NoiseClip, PictureClip, StemClip, hdf5
from blendbench.datasets.tables import check_links
from blendbench.errors import ClipError, printable
from blendbench.sound import audio, checks, files
from blendbench.store.signature import file_hash

T = TypeVar("T")
R = TypeVar("R")
END_TOLERANCE = 0.05
"""How much earlier than its segment a recording may end, in seconds: annotations are rounded, audio is cut."""


def read_clip(
    clip: NoiseClip, seconds: float | None, short_clip: str = "loop", channel: int | None = None
) -> torch.Tensor:
    """Read what a run hears of a clip, before it is looped and levelled.

    Parameters
    ----------
    clip : NoiseClip
    seconds : float
        Most that is read, in seconds; None for all of it.
    short_clip : {"loop", "context"}
        For a segment of a longer recording: the segment alone, or `seconds` of the recording around its middle.
    channel : int, optional
        Take this channel of the file, from 0 on; the mean of all when absent.

    Returns
    -------
    Tensor [samples], at 44.1 kHz, checked

    Raises
    ------
    ClipError
        The file, the segment or the sound cannot take part.
    """
    check_links(clip.path, clip.root)
    if clip.span is None:
        return files.read(clip.path, audio.SAMPLE_RATE, max_seconds=seconds, channel=channel)

    def part(one: int | None) -> torch.Tensor:
        return audio.resample(*_segment(clip, seconds, short_clip, one), audio.SAMPLE_RATE)

    waveform = part(channel)
    checks.check_heard(waveform, _name(clip), part, channel, audio.SAMPLE_RATE)
    return waveform


def content_of(clip: NoiseClip, seconds: float | None, short_clip: str = "loop", channel: int | None = None) -> str:
    """SHA-256 of what `read_clip` reads of a segment, and of the whole file otherwise; "" where that cannot be read."""
    try:
        check_links(clip.path, clip.root)
        if clip.span is None:
            return file_hash(clip.path)
        samples, rate = _segment(clip, seconds, short_clip, channel)
        return hashlib.sha256(f"{rate}:".encode() + samples.numpy().tobytes()).hexdigest()
    except (OSError, ValueError, ClipError):
        return ""


def content_of_music(clip: MusicClip) -> str:
    """SHA-256 of a music clip's file; "" where that cannot be read."""
    try:
        check_links(clip.path, clip.root)
        return file_hash(clip.path)
    except (OSError, ValueError, ClipError):
        return ""


def content_of_files(clip: StemClip | PictureClip) -> str:
    """SHA-256 over the contents of a clip's files; "" where one cannot be read."""
    try:
        digest = hashlib.sha256()
        for path in clip.paths:
            check_links(path, clip.root)
            digest.update(bytes.fromhex(file_hash(path)))
    except (OSError, ValueError, ClipError):
        return ""
    return digest.hexdigest()


def _name(clip: NoiseClip) -> str:
    start, stop = clip.span or (0.0, 0.0)
    inside = f" {clip.member}" if clip.member else ""
    return f"{clip.id} ({printable(clip.path)}{inside}, {start:.3f} to {stop:.3f} s)"


def _segment(clip: NoiseClip, seconds: float | None, short_clip: str, channel: int | None) -> tuple[torch.Tensor, int]:
    """The part of a recording that is heard, at its own rate."""
    assert clip.span is not None
    start, stop = clip.span
    seconds = stop - start if seconds is None else seconds
    around = short_clip == "context" and stop - start < seconds
    if around:
        start = max(0.0, (start + stop - seconds) / 2)
    samples, rate = _stretch(clip, start, start + seconds if around else min(stop, start + seconds), channel)
    end = start + len(samples) / rate
    if end < min(stop, start + seconds) - END_TOLERANCE:
        raise ClipError(
            f"{_name(clip)}: the recording ends at {end:.3f} s, within the segment; take the row out, or get the file "
            "again"
        )
    if around and end < start + seconds:
        # The recording ends within the window: move it back.
        samples, rate = _stretch(clip, max(0.0, end - seconds), end, channel)
    return samples, rate


def _stretch(clip: NoiseClip, start: float, stop: float, channel: int | None) -> tuple[torch.Tensor, int]:
    if clip.member:
        return hdf5.read_span(clip.path, clip.member, start, stop, clip.member_rate, channel), clip.member_rate
    return files.read_span(clip.path, start, stop, channel)


def read_music(clip: MusicClip, sample_rate: int, seconds: float, channels: int = 1) -> torch.Tensor:
    """Read a music clip: from its start, and from there again where it ends too early.

    Parameters
    ----------
    clip : MusicClip
    sample_rate : int
        Of the result, in Hz.
    seconds : float
        Length of the result.
    channels : int
        Of the result, as `files.read` takes them from the file.

    Returns
    -------
    Tensor [samples], or [channels, samples] for more than one channel, checked

    Raises
    ------
    ClipError
        The clip cannot take part, or has neither one channel nor so many.
    """
    check_links(clip.path, clip.root)
    longest = max(seconds, audio.MIN_SECONDS)
    wave = files.read(clip.path, sample_rate, max_seconds=longest, start=clip.start, channels=channels)
    samples = round(seconds * sample_rate)
    return wave if wave.shape[-1] == samples else audio.extend_circular(wave, samples)


def ahead(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """`map`, while threads are busy with the next few items: files are read while the device works."""
    workers = workers or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
