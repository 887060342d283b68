"""Noise clips as a run hears them: read, cut or looped to length, at the presentation level; kept on disk by content.

What identifies a clip is what is heard of it: the SHA-256 of its file's bytes, or, for a segment of a longer recording,
that of the segment's samples. Under it, and a signature of length and level, the store keeps the finished waveform
(float32 `[samples]`, 44.1 kHz) and the mel amplitudes of the clip extended to one image (`[512, 512]`).
"""

import hashlib
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from blendbench import audio, spectrogram
from blendbench.datasets import MusicClip, NoiseClip, epic_sounds, hdf5
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.store import Arrays, Ledger, file_hash, signature

T = TypeVar("T")
R = TypeVar("R")
SAMPLE_RATE = audio.SAMPLE_RATE
NOISE_VERSION = 1
END_TOLERANCE = 0.05
"""How much earlier than its segment a recording may end, in seconds: annotations are rounded, audio is cut."""


def read_clip(clip: NoiseClip, seconds: float, short_clip: str = "loop", channel: int | None = None) -> torch.Tensor:
    """Read what a run hears of a clip, before it is looped and levelled.

    Parameters
    ----------
    clip : NoiseClip
    seconds : float
        Most that is read, in seconds.
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
        return audio.read(clip.path, SAMPLE_RATE, max_seconds=seconds, channel=channel)

    def part(one: int | None) -> torch.Tensor:
        return audio.resample(*_segment(clip, seconds, short_clip, one), SAMPLE_RATE)

    waveform = part(channel)
    audio.check_heard(waveform, _name(clip), part, channel, SAMPLE_RATE)
    return waveform


def content_of(clip: NoiseClip, seconds: float, short_clip: str = "loop", channel: int | None = None) -> str:
    """SHA-256 of what `read_clip` reads of a segment, and of the whole file otherwise; "" where that cannot be read."""
    try:
        check_links(clip.path, clip.root)
        if clip.span is None:
            return file_hash(clip.path)
        samples, rate = _segment(clip, seconds, short_clip, channel)
        return hashlib.sha256(f"{rate}:".encode() + samples.numpy().tobytes()).hexdigest()
    except (OSError, ValueError, ClipError):
        return ""


def _name(clip: NoiseClip) -> str:
    start, stop = clip.span or (0.0, 0.0)
    inside = f" {clip.member}" if clip.member else ""
    return f"{clip.id} ({printable(clip.path)}{inside}, {start:.3f} to {stop:.3f} s)"


def _segment(clip: NoiseClip, seconds: float, short_clip: str, channel: int | None) -> tuple[torch.Tensor, int]:
    """The part of a recording that is heard, at its own rate."""
    assert clip.span is not None
    start, stop = clip.span
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
        rate = epic_sounds.SAMPLE_RATE
        return hdf5.read_span(clip.path, clip.member, start, stop, rate, channel), rate
    return audio.read_span(clip.path, start, stop, channel)


def read_music(clip: MusicClip, sample_rate: int, seconds: float) -> torch.Tensor:
    """Waveform [samples] of a music clip: at most `seconds` from its start, longer by looping if it ends earlier.

    Raises
    ------
    ClipError
        The clip cannot take part.
    """
    check_links(clip.path, clip.root)
    wave = audio.read(clip.path, sample_rate, max_seconds=max(seconds, audio.MIN_SECONDS), start=clip.start)
    return audio.extend_circular(wave, round(seconds * sample_rate))


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


def _is_key(key: str) -> bool:
    """Whether values may be kept under a key: what could not be read has no content."""
    return bool(key) and not key.startswith(":")


class Noises:
    """A run's noise clips, ready to be heard.

    Parameters
    ----------
    settings : mapping
        `seconds`, `lufs`, `short_clip` and, where it is set, `channel` of the configuration's `noise`.
    store : Path, optional
        The store's folder; without it nothing is kept on disk.
    """

    def __init__(self, settings: Mapping[str, Any], store: Path | None = None) -> None:
        self.seconds, self.lufs, self.short_clip = settings["seconds"], settings["lufs"], settings["short_clip"]
        self.channel = settings.get("channel")
        self.samples = round(self.seconds * SAMPLE_RATE)
        self._contents: dict[NoiseClip, str] = {}
        self._recent: OrderedDict[NoiseClip, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        if store is not None:
            kept = {"seconds": self.seconds, "lufs": self.lufs, "sample_rate": SAMPLE_RATE}
            kept |= {} if self.channel is None else {"channel": self.channel}
            folder = store / "noise" / signature("noise", NOISE_VERSION, kept)
            self._ledger = Ledger(folder / "noise.jsonl", ("key",))
            self._arrays = Arrays(folder / "noise.f32")

    def content(self, clip: NoiseClip) -> str:
        """SHA-256 of what is heard of a clip, or "" where that cannot be read."""
        if clip not in self._contents:
            self._contents[clip] = content_of(clip, self.seconds, self.short_clip, self.channel)
        return self._contents[clip]

    def read(self, clip: NoiseClip) -> torch.Tensor:
        """Waveform [samples] at 44.1 kHz and the presentation level, looped to length.

        Raises
        ------
        ClipError
            With the reason why the clip cannot take part.
        """
        with self._lock:
            if clip in self._recent:
                self._recent.move_to_end(clip)
                return self._recent[clip]
        check_links(clip.path, clip.root)
        content = self.content(clip)
        waveform = self._kept(content)
        if waveform is None:
            heard = read_clip(clip, self.seconds, self.short_clip, self.channel)
            waveform, _ = audio.normalize_loudness(
                audio.extend_circular(heard, self.samples), SAMPLE_RATE, self.lufs, clip.id
            )
            self._keep(content, waveform)
        with self._lock:
            self._recent[clip] = waveform
            while len(self._recent) > 64:
                self._recent.popitem(last=False)
        return waveform

    def mel(self, clip: NoiseClip) -> torch.Tensor:
        """Mel amplitudes [512, 512] of the clip, extended circularly to one image; raises ClipError as `read`."""
        key = f"{self.content(clip)}:mel"
        mel = self._kept(key)
        if mel is None:
            mel = spectrogram.mel_amplitudes(spectrogram.extend_to_frames(self.read(clip)))
            self._keep(key, mel)
        return mel

    def ahead(self, clips: Iterable[NoiseClip], workers: int | None = None) -> Iterator[torch.Tensor | ClipError]:
        """`read` of one clip after the other, or why it cannot be read, while threads read the next few."""
        return ahead(self.attempt, clips, workers)

    def attempt(self, clip: NoiseClip) -> torch.Tensor | ClipError:
        """`read`, or why the clip cannot be read."""
        try:
            return self.read(clip)
        except ClipError as error:
            return error

    def _kept(self, key: str) -> torch.Tensor | None:
        """What the store holds under a key."""
        ledger = self._ledger  # another thread may give it up
        row = ledger.get(key) if ledger is not None and _is_key(key) else None
        if row is None:
            return None
        try:
            return torch.from_numpy(self._arrays.read(row))
        except BlendbenchError:
            return None  # damaged, cut short or gone: it is made again

    def _keep(self, key: str, values: torch.Tensor) -> None:
        """Put values into the store; a store that cannot be written makes a run slower, not fail."""
        if not _is_key(key):
            return
        with self._lock:
            if self._ledger is None:
                return
            try:
                self._ledger.append({"key": key, **self._arrays.append(values.numpy())})
            except BlendbenchError as error:
                print(f"blendbench: noises are not kept for the next time: {error}", file=sys.stderr)
                self._ledger = None

    def close(self) -> None:
        """Close the store's files; a later call opens them again."""
        if self._ledger is not None:
            self._ledger.close()
            self._arrays.close()
