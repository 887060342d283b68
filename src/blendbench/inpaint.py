"""Fill gaps in a recording of one's own: the command `blendbench inpaint`.

The file is copied block by block in its own sample format, and only the gaps' samples are other ones: what lies outside
keeps its bits. A method works on a window around a gap, at 44.1 kHz and channel by channel; where it takes a corpus,
the search listens to all of the file, mixed to one channel, and every channel gets the place found as its guide.

A fill need not meet the recording at the gap's edges. So the difference of the two beside the gap is mirrored into it,
and fades out there within 10 ms: a cross-fade that changes nothing outside.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from blendbench import single, telling
from blendbench.datasets import MusicClip, folder
from blendbench.errors import BlendbenchError, ClipError, UsageError, printable
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.store.write import make_folder, placing
from blendbench.tasks.long_gap.gap import Gap
from blendbench.tasks.long_gap.similarity import Match, find
from blendbench.tasks.long_gap.task import Incomplete, LongGap, Window

FADE_S = 0.01
"""Length of the fade inside a gap, on each side."""
BLOCK = 1 << 18
"""Frames that are copied at a time."""
PART = 10 * 60 * SAMPLE_RATE
"""Longest stretch of a corpus that is searched at once, which bounds memory."""
_EXACT = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}
_CONTAINERS = {"WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU"}
_MARGIN = 16
"""Samples at 44.1 kHz beside a gap that resampling its silence may touch."""


@dataclass(frozen=True)
class Recording:
    """A file with gaps.

    Attributes
    ----------
    path : Path
    frames, rate, channels : int
        Of the file.
    container, subtype : str
        libsndfile's names of its format.
    gaps : tuple of Gap
        In frames of the file, in order, apart from each other.
    """

    path: Path
    frames: int
    rate: int
    channels: int
    container: str
    subtype: str
    gaps: tuple[Gap, ...]

    @classmethod
    def of(cls, path: Path, seconds: Sequence[tuple[float, float]]) -> "Recording":
        """A file and its gaps in seconds.

        Raises
        ------
        BlendbenchError
            If the file is no sound, or a gap is empty, outside, at an edge, or not apart from the next.
        """
        frames, rate, channels, container, subtype = files.opened(path, _format)
        gaps: list[Gap] = []
        for start, stop in sorted(seconds):
            if not (math.isfinite(start) and math.isfinite(stop)):
                raise BlendbenchError(f"--gap {start:g} {stop:g}: give two times in seconds")
            gap = Gap(round(start * rate), round(stop * rate))
            try:
                gap.check(frames)
            except ClipError as error:
                raise BlendbenchError(f"--gap {start:g} {stop:g}: {error} ({frames / rate:.2f} s in all)") from None
            if gaps and gap.start <= gaps[-1].stop:
                raise BlendbenchError(f"--gap {start:g} {stop:g}: touches the gap before; give both as one")
            gaps.append(gap)
        if not gaps:
            raise UsageError("--gap: none given; say where, in seconds, as --gap 10.5 12.5")
        return cls(path, frames, rate, channels, container, subtype, tuple(gaps))

    @property
    def is_exact(self) -> bool:
        """Whether its samples can be written again as they are."""
        return self.container in _CONTAINERS and self.subtype in _EXACT

    def read(self, start: int, count: int) -> torch.Tensor:
        """Channels [channels, count] from a frame on, silent in every gap."""
        read = files.opened(self.path, lambda sound, _: files.frames_at(sound, start, count))
        found = torch.from_numpy(read.T.copy())
        for gap in self.gaps:
            found[:, max(gap.start - start, 0) : max(gap.stop - start, 0)] = 0
        audio.check_finite(found, printable(self.path))
        return found

    def between(self) -> Iterator[tuple[int, int]]:
        """First and last frame of what lies between the gaps."""
        edges = [0, *(edge for gap in self.gaps for edge in (gap.start, gap.stop)), self.frames]
        return zip(edges[::2], edges[1::2], strict=True)


@dataclass(frozen=True)
class _Part:
    """A stretch of a corpus that is searched at once.

    Attributes
    ----------
    path : Path
    start : float
        Where it begins in the file, in seconds.
    waveform : Tensor [samples]
        At 44.1 kHz, one channel.
    """

    path: Path
    start: float
    waveform: torch.Tensor


def inpaint(
    path: Path, gaps: Sequence[tuple[float, float]], out: Path, settings: dict[str, Any], corpus: Path | None = None
) -> dict[str, Any]:
    """Fill the gaps of a file and write the result to `out`.

    Parameters
    ----------
    path : Path
        A file of any rate, with any number of channels.
    gaps : sequence of (start, stop)
        In seconds.
    out : Path
        Folder for `repaired.*` in the file's own format (as `repaired.wav`, float, where that is a lossy one), for
        each gap `gap-N-before.wav` and `gap-N-after.wav` (the window around it, float) and `gap-N-guide.wav` where the
        method had one, and `inpaint.json`.
    settings : dict
        The checked configuration of the task `long_gap`; `method` fills the gaps.
    corpus : Path, optional
        A folder, all the sound files below which may serve as guide, too.

    Returns
    -------
    dict
        What `inpaint.json` holds.

    Raises
    ------
    BlendbenchError
        If the file, a gap, the corpus or the method cannot be used, in one line.
    """
    run = Run(out, settings)
    task = run.build_task(store=None)
    if not isinstance(task, LongGap):
        raise BlendbenchError(f"task: {task.name} fills no gaps; leave it out")
    recording = Recording.of(path, gaps)
    name = f"repaired{path.suffix.lower()}" if recording.is_exact else "repaired.wav"
    if (out / name).resolve() == path.resolve():
        raise BlendbenchError(f"--out {printable(out)}: {name} there is the recording itself; give another folder")
    method = single.method_of(run, task)
    make_folder(out)
    single.loaded(run, method)
    longest = max(_frames(recording, gap, task.samples) for gap in recording.gaps) / recording.rate
    parts = list(_parts(recording, corpus, longest)) if "corpus" in method.takes else []
    fills: dict[Gap, torch.Tensor] = {}
    told: list[dict[str, Any]] = []
    with telling.stage("gaps", len(recording.gaps), "gap") as stage, suppress(KeyboardInterrupt):
        for number, gap in enumerate(recording.gaps, 1):
            try:
                place = _Place(recording, gap, task.samples, fills)
                fills[gap], facts = place.fill(method, parts, run.seed, out, number)
            except ClipError as error:
                at = f"{gap.start / recording.rate:g} to {gap.stop / recording.rate:g} s"
                raise BlendbenchError(f"{printable(path)}: gap at {at}: {error}") from None
            told.append(facts)
            stage.update()
    clipped = _write(recording, fills, out / name)
    facts = {"file": name, "source": str(path), "exact": recording.is_exact, "clipped_samples": clipped}
    facts |= {"left": len(recording.gaps) - len(told), "method": settings["method"], "gaps": told}
    single.tell(out / "inpaint.json", facts)
    return facts


def _format(sound: soundfile.SoundFile, _: str) -> tuple[int, int, int, str, str]:
    return sound.frames, sound.samplerate, sound.channels, sound.format, sound.subtype


def _frames(recording: Recording, gap: Gap, samples: int) -> int:
    """Length of the window around a gap: of so many samples at 44.1 kHz, and a second on each side at least."""
    return max(-(-samples * recording.rate // SAMPLE_RATE), gap.length + 2 * recording.rate)


class _Place:
    """A gap with the window around it, as a method gets it.

    Parameters
    ----------
    recording : Recording
    gap : Gap
    samples : int
        Length of the window at 44.1 kHz.
    fills : dict of Gap to Tensor [channels, frames]
        Of the gaps before, which count as observed.
    """

    def __init__(self, recording: Recording, gap: Gap, samples: int, fills: dict[Gap, torch.Tensor]) -> None:
        self.recording, self.gap = recording, gap
        rate = recording.rate
        count = min(_frames(recording, gap, samples), recording.frames)
        self.first = min(max((gap.start + gap.stop - count) // 2, 0), recording.frames - count)
        self.own = recording.read(self.first, count)
        for other, fill in fills.items():
            begin = max(other.start, self.first)
            if begin < other.stop and other.start < self.first + count:
                end = min(other.stop, self.first + count)
                self.own[:, begin - self.first : end - self.first] = fill[:, begin - other.start : end - other.start]
        margin = 0 if rate == SAMPLE_RATE else _MARGIN
        self.window = audio.resample(self.own, rate, SAMPLE_RATE)
        inner = [(edge - self.first) * SAMPLE_RATE / rate for edge in (gap.start, gap.stop)]
        self.inner = Gap(int(inner[0]) - margin, int(np.ceil(inner[1])) + margin)
        self.inner.check(self.window.shape[1])
        self.window[:, self.inner.start : self.inner.stop] = 0

    def fill(
        self, method: Any, parts: Sequence[_Part], seed: int, out: Path, number: int
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """What comes into the gap, [channels, frames of the gap], and facts; writes the window before and after."""
        began = time.perf_counter()
        facts: dict[str, Any] = {
            "start": self.gap.start / self.recording.rate,
            "stop": self.gap.stop / self.recording.rate,
        }
        corpora: list[list[torch.Tensor]] = [[part.waveform for part in parts]] * len(self.window)
        if (search := getattr(method, "search", None)) is not None:
            mono = self.window.mean(0)
            match = find(mono, self.inner, [part.waveform for part in parts], search)
            part = parts[match.part]
            guide = self._guide(part, match)
            corpora = [[one] for one in guide]
            facts["guide"] = {"file": str(part.path), "distance": round(match.distance, 5)}
            facts["guide"]["start"] = round(part.start + match.offset / SAMPLE_RATE, 4)
            files.write(out / f"gap-{number}-guide.wav", _shaped(guide), subtype="FLOAT")
        item = Window("file", MusicClip(f"{number}", self.recording.path, "", "", str(self.recording.path)))
        seed = stable_seed(seed, self.recording.path.name, number)
        samples = self.window.shape[1]
        given = [
            Incomplete(item, seed, samples, one, self.inner, corpus, torch.zeros(0)).only(method.takes)
            for one, corpus in zip(self.window, corpora, strict=True)
        ]
        made = method.generate(given)
        filled = torch.stack([music.waveform for music in made])
        if filled.shape != self.window.shape or not bool(torch.isfinite(filled).all()):
            raise BlendbenchError(f"{method.label}: made {list(filled.shape)}, or what is not finite; mend the method")
        fill = self._faded(filled)
        after = self.own.clone()
        at = self.gap.start - self.first
        after[:, at : at + self.gap.length] = fill
        rate = self.recording.rate
        files.write(out / f"gap-{number}-before.wav", _shaped(self.own), rate, subtype="FLOAT")
        files.write(out / f"gap-{number}-after.wav", _shaped(after), rate, subtype="FLOAT")
        facts |= {name: value for name, value in made[0].facts.items() if name not in ("part", "offset", "distance")}
        return fill, facts | {"seconds": round(time.perf_counter() - began, 3)}

    def _guide(self, part: _Part, match: Match) -> torch.Tensor:
        """The place found, [channels, samples of the window], with the channels of its own file if it has as many."""
        samples = self.window.shape[1]
        begin = part.start + match.offset / SAMPLE_RATE
        channels = files.described(part.path)[2]
        if len(self.window) > 1 and channels == len(self.window):
            found = files.read_part(part.path, begin, samples / SAMPLE_RATE, channels=channels)[:, :samples]
            if found.shape[1] == samples:
                return found
        mono = part.waveform[match.offset : match.offset + samples]
        return mono.expand(len(self.window), -1).clone()

    def _faded(self, filled: torch.Tensor) -> torch.Tensor:
        """The gap's frames of a window [channels, samples] at 44.1 kHz, meeting the recording at both edges."""
        rate, start = self.recording.rate, self.gap.start - self.first
        stop = start + self.gap.length
        own = audio.resample(filled, SAMPLE_RATE, rate)[:, : self.own.shape[1]]
        fill = own[:, start:stop].clone()
        count = min(round(FADE_S * rate), start, self.own.shape[1] - stop, self.gap.length // 2)
        weight = 1 - (torch.arange(count) + 1) / (count + 1)
        difference = self.own[:, : own.shape[1]] - own
        fill[:, :count] += weight * difference[:, start - count : start].flip(1)
        fill[:, self.gap.length - count :] += (weight * difference[:, stop : stop + count]).flip(1)
        return fill


def _shaped(waveform: torch.Tensor) -> torch.Tensor:
    """[channels, samples], or [samples] of one channel."""
    return waveform[0] if len(waveform) == 1 else waveform


def _parts(recording: Recording, corpus: Path | None, overlap: float) -> Iterator[_Part]:
    """What may be taken from: the file between its gaps, and other files, in stretches that overlap by a window."""
    for begin, end in recording.between():
        start = begin / recording.rate
        yield from _stretches(recording.path, start, (end - begin) / recording.rate, overlap)
    if corpus is None:
        return
    there = [corpus / name for name in folder.find(corpus, "--corpus")] if corpus.is_dir() else []
    found = [file for file in there if file.resolve() != recording.path.resolve()]
    if not found:
        raise BlendbenchError(f"--corpus {printable(corpus)}: no sound file there; give a folder of music")
    for file in found:
        frames, rate, _ = files.described(file)
        yield from _stretches(file, 0.0, frames / rate, overlap)


def _stretches(path: Path, start: float, seconds: float, overlap: float) -> Iterator[_Part]:
    step, at = PART / SAMPLE_RATE, 0.0
    while at < seconds:
        waveform = files.read_part(path, start + at, min(step + overlap, seconds - at))
        if len(waveform):
            yield _Part(path, start + at, waveform)
        at += step


def _write(recording: Recording, fills: dict[Gap, torch.Tensor], path: Path) -> int:
    """Copy the file with other samples in its gaps; returns how many had to be clipped."""
    with placing(path) as temporary, files.streamed_to(path):
        return files.opened(recording.path, lambda source, _: _copy(recording, source, fills, temporary))


def _copy(recording: Recording, source: soundfile.SoundFile, fills: dict[Gap, torch.Tensor], path: Path) -> int:
    exact, clipped = recording.is_exact, 0
    whole = exact and recording.subtype not in ("FLOAT", "DOUBLE")
    dtype = "int32" if whole else "float64" if exact else "float32"
    bits = int(recording.subtype.removeprefix("PCM_").strip("US")) if whole else 0
    most = 2.0 ** (bits - 1)
    form = (source.subtype, source.endian, source.format) if exact else ("FLOAT", None, "WAV")
    with soundfile.SoundFile(path, "w", recording.rate, recording.channels, *form) as target:
        place = 0
        while len(block := files.frames_at(source, place, BLOCK, dtype)):
            for gap, fill in fills.items():
                begin, end = max(gap.start, place), min(gap.stop, place + len(block))
                if begin < end:
                    part = fill[:, begin - gap.start : end - gap.start].double().numpy().T
                    if whole:
                        clipped += int((np.abs(part) > 1).sum())
                        part = (part * most).round().clip(-most, most - 1).astype(np.int64) << (32 - bits)
                    block[begin - place : end - place] = part
            target.write(block)
            place += len(block)
    return clipped
