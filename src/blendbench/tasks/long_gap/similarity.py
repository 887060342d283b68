"""Similarity search: fill a gap with the place of the same track whose surroundings are most like the gap's.

A corpus is a sequence of parts, waveforms `[samples]` at the degraded clip's rate; in the paper two, the track before
the gap and the track after it. A candidate is a stretch of one part as long as the degraded clip, told by its offset in
samples, so sample i of the clip lies at offset + i of the part, and its gap's samples are the guide. Whether the corpus
holds the gap's own audio cannot be seen here: leave that out when making the parts.

Features are arrays [frames, bins] at a lower rate, of which frame j covers samples [j hop, j hop + frame), without
padding. Sums are taken in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import numpy as np
import scipy.fft
import torch
from scipy import signal
from torch import Tensor

from blendbench.errors import BlendbenchError, ClipError
from blendbench.tasks.long_gap.gap import Gap, validate

SOURCE = "SimDPS, sections 3.2 and 4.3, equations 9 to 11"
REFINEMENTS = ("eq11", "context", "none")
_FRAMES_AT_ONCE = 4096
_BINS_AT_ONCE = 64

Refinement = Literal["eq11", "context", "none"]


@dataclass(frozen=True)
class SimilaritySettings:
    """How to compare a gap's surroundings; the defaults are the paper's, or our reading where it is silent."""

    sample_rate: int = 44_100
    """Of the clip and the corpus, in Hz."""
    search_rate: int = 12_000
    """At which features are taken, in Hz."""
    frame: int = 1024
    """Hann window and FFT, in samples at `search_rate`."""
    hop: int = 256
    """Between frames and between candidates (L_h), in samples at `search_rate`."""
    stft_reach: float = 0.75
    """Distance from the gap at which the STFT's weight reaches 0, in seconds."""
    chroma_reach: float = 3.0
    """Distance from the gap at which the chroma's weight reaches 0, in seconds (L_c)."""
    stft_alpha: float = 1.0
    """Share of the STFT's distance in the cost."""
    chroma_alpha: float = 1.0
    """Share of the chroma's distance in the cost."""
    chroma_power: float = 2.0
    """Exponent of the magnitudes that the chroma adds up; 2 is energy, as in Mueller's chromagram."""
    refine: Refinement = "eq11"
    """`eq11`: the two samples at the gap's edges agree best; `context`: least squares over `refine_seconds`; `none`."""
    refine_seconds: float = 0.25
    """Context a side that `context` compares, in seconds."""
    rank: int = 1
    """Which candidate is taken: 1 is the best, 2 the next best that lies `apart` from it, and so on."""
    apart: float = 0.5
    """Least distance of the candidates that `rank` counts, in seconds."""

    def __post_init__(self) -> None:
        """Check the settings; BlendbenchError if one is unknown or out of range."""
        if self.refine not in REFINEMENTS:
            raise BlendbenchError(f"refine is {self.refine!r}: choose one of {', '.join(REFINEMENTS)}")
        above = ("sample_rate", "search_rate", "frame", "hop", "stft_reach", "chroma_reach", "refine_seconds", "apart")
        for name in above:
            if not getattr(self, name) > 0:
                raise BlendbenchError(f"{name} is {getattr(self, name)}: give a number above 0")
        if type(self.rank) is not int or self.rank < 1:
            raise BlendbenchError(f"rank is {self.rank}: give a whole number from 1 up")

    @property
    def hop_samples(self) -> float:
        """The hop in samples of the clip, 940.8 by default; a coarse offset lies within half of it."""
        return self.hop * self.sample_rate / self.search_rate


DEFAULTS = SimilaritySettings()


@dataclass(frozen=True)
class Match:
    """The best candidate of a corpus."""

    part: int
    """Index of the part."""
    offset: int
    """Where in the part the candidate starts, in samples."""
    distance: float
    """Cost (equation 10) at the coarse offset from which this one was refined; 0 is equality."""


def find(degraded: Tensor, gap: Gap, corpus: Sequence[Tensor], settings: SimilaritySettings = DEFAULTS) -> Match:
    """The candidate of least cost in any part (equation 9), refined to the sample.

    Parts shorter than the degraded clip hold no candidate and are passed over. What lies in the gap is not read. Of
    equal candidates the first wins.

    Parameters
    ----------
    degraded : Tensor [samples]
    gap : Gap
    corpus : sequence of Tensor [samples of the part]
    settings : SimilaritySettings

    Returns
    -------
    Match

    Raises
    ------
    ClipError
        The clip or gap is invalid (`validate`), no part is as long as the clip, a part is not one-dimensional or not
        finite, or the clip is silent for as far from the gap as a feature hears.

    Source: see `SOURCE`.
    """
    validate(degraded, gap)
    for index, part in enumerate(corpus):
        _check(part, f"part {index} of the corpus")
    longest = max((len(part) for part in corpus), default=0)
    if longest < len(degraded):
        raise ClipError(
            f"longest of {len(corpus)} corpus parts has {longest} samples, the clip {len(degraded)}: add music"
        )
    query = _values(degraded * gap.mask(len(degraded)).to(degraded.device))
    # One part at a time in float64, so that a long corpus takes little memory.
    found = {
        index: cost(query, gap, _values(part), settings) for index, part in enumerate(corpus) if len(part) >= len(query)
    }
    aside = math.ceil(settings.apart * settings.sample_rate / settings.hop_samples)
    for _ in range(settings.rank):
        best = min(found, key=lambda index: found[index].min())
        coarse = int(found[best].argmin())
        distance = float(found[best][coarse])
        if distance == np.inf:
            raise ClipError(
                f"corpus has no {settings.rank} candidates {settings.apart:g} s apart: ask for a lower rank"
            )
        found[best][max(coarse - aside + 1, 0) : coarse + aside] = np.inf
    offset = round(coarse * settings.hop_samples)
    return Match(best, _refined(query, gap, _values(corpus[best]), offset, settings), distance)


def guide(match: Match, corpus: Sequence[Tensor], samples: int) -> Tensor:
    """The candidate's waveform `[samples]`, the auxiliary signal of equation 6, as a view of its part.

    Its samples in the gap are the guide; `gap.paste` makes the published Sim of it.
    """
    return corpus[match.part][match.offset : match.offset + samples]


def cost(query: np.ndarray, gap: Gap, part: np.ndarray, settings: SimilaritySettings = DEFAULTS) -> np.ndarray:
    """Cost of every candidate at whole hops of one part (equation 10), exact, by FFT correlation.

    It is sum_k alpha_k d_k, where d is the weighted Euclidean distance of a feature over frames, divided by the query's
    weighted norm. The weights fall linearly with a frame's centre from 1 at the gap's edge to 0 at the feature's reach;
    a frame that touches the gap weighs 0.

    Parameters
    ----------
    query, part : array [samples]
        The degraded clip, 0 in the gap, and a part that is no shorter.
    gap : Gap
    settings : SimilaritySettings

    Returns
    -------
    array [candidates], float64
        Candidate m starts at sample `round(m * settings.hop_samples)`.

    Raises
    ------
    ClipError
        No frame with weight holds sound.
    """
    candidates = int((len(part) - len(query)) // settings.hop_samples) + 1
    query_magnitudes, part_magnitudes = magnitudes(query, settings), magnitudes(part, settings)
    stft = _distances(
        query_magnitudes, part_magnitudes, frame_weights(len(query_magnitudes), gap, settings.stft_reach, settings)
    )
    chroma = _distances(
        chromagram(query_magnitudes, settings),
        chromagram(part_magnitudes, settings),
        frame_weights(len(query_magnitudes), gap, settings.chroma_reach, settings),
    )
    return (settings.stft_alpha * stft + settings.chroma_alpha * chroma)[:candidates]


def magnitudes(samples: np.ndarray, settings: SimilaritySettings = DEFAULTS) -> np.ndarray:
    """STFT magnitudes [frames, frame // 2 + 1] at the search rate of a waveform [samples]; no frames if it is short."""
    shared = gcd(settings.search_rate, settings.sample_rate)
    low = signal.resample_poly(samples, settings.search_rate // shared, settings.sample_rate // shared)
    if len(low) < settings.frame:
        return np.zeros((0, settings.frame // 2 + 1))
    frames = np.lib.stride_tricks.sliding_window_view(low, settings.frame)[:: settings.hop]
    window = signal.get_window("hann", settings.frame)
    blocks = (frames[i : i + _FRAMES_AT_ONCE] for i in range(0, len(frames), _FRAMES_AT_ONCE))
    return np.concatenate([np.abs(scipy.fft.rfft(block * window)) for block in blocks])


def chromagram(spectrum: np.ndarray, settings: SimilaritySettings = DEFAULTS) -> np.ndarray:
    """Sums of magnitudes to the power `chroma_power` by pitch class, C first: array [frames, 12] of [frames, bins].

    A bin counts for the pitch next to its centre, A4 at 440 Hz; the bin at 0 Hz has none and is left out.

    Source: Mueller, Fundamentals of Music Processing, section 3.1.2.
    """
    frequencies = np.arange(1, spectrum.shape[1]) * settings.search_rate / settings.frame
    pitches = np.rint(69 + 12 * np.log2(frequencies / 440)).astype(int)
    return spectrum[:, 1:] ** settings.chroma_power @ np.eye(12)[pitches % 12]


def frame_weights(frames: int, gap: Gap, reach: float, settings: SimilaritySettings = DEFAULTS) -> np.ndarray:
    """Weights [frames] of the query's frames: 1 at the gap's edge, 0 in it and from `reach` seconds on."""
    first = np.arange(frames) * settings.hop / settings.search_rate
    last = first + settings.frame / settings.search_rate
    centre = (first + last) / 2
    start, stop = gap.start / settings.sample_rate, gap.stop / settings.sample_rate
    distance = np.maximum(start - centre, centre - stop)
    outside = (last <= start) | (first >= stop)
    return np.where(outside, np.clip(1 - distance / reach, 0, 1), 0)


def _distances(query: np.ndarray, part: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted distances [candidates] of features [frames, bins], over the query's weighted norm."""
    weighted = query * weights[:, None]
    norm = np.sum(weighted * query)
    if norm == 0:
        raise ClipError("no frame near the gap holds sound: choose a gap with music beside it, or a longer reach")
    energies = np.correlate(np.sum(part**2, axis=1), weights, mode="valid")
    squares = norm - 2 * _correlation(weighted, part) + energies
    return np.sqrt(np.maximum(squares, 0) / norm)


def _correlation(query: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Sum over frames and bins of the query's features times the part's, at every place where the query fits."""
    length = scipy.fft.next_fast_len(len(part), real=True)
    total = np.zeros(length // 2 + 1, complex)
    for first in range(0, query.shape[1], _BINS_AT_ONCE):
        bins = slice(first, first + _BINS_AT_ONCE)
        theirs, ours = (scipy.fft.rfft(feature[:, bins].T, length) for feature in (part, query))
        total += np.sum(theirs * ours.conj(), axis=0)
    return scipy.fft.irfft(total, length)[: len(part) - len(query) + 1]


def _refined(query: np.ndarray, gap: Gap, part: np.ndarray, coarse: int, settings: SimilaritySettings) -> int:
    """The offset within half a hop of the coarse one that fits best, of equals the nearest.

    The last coarse offset stands for the rest of its part too, less than a hop.
    """
    if settings.refine == "none":
        return coarse
    half, last = int(settings.hop_samples // 2), len(part) - len(query)
    stop = last if last - coarse < settings.hop_samples else coarse + half
    places, power = _compared(len(query), gap, settings)
    wanted = query[places]

    def misfit(offset: int) -> tuple[float, int]:
        return float(np.sum(np.abs(wanted - part[places + offset]) ** power)), abs(offset - coarse)

    return min(range(max(coarse - half, 0), stop + 1), key=misfit)


def _compared(samples: int, gap: Gap, settings: SimilaritySettings) -> tuple[np.ndarray, int]:
    """Which samples of the clip refinement compares, and the power of the differences that it adds up.

    Equation 11 sets the clip's samples beside the gap against the candidate's samples one further on, in which even
    the original does not fit best; here both sides of a difference are the same sample.
    """
    if settings.refine == "eq11":
        return np.array([gap.start - 1, gap.stop]), 1
    reach = round(settings.refine_seconds * settings.sample_rate)
    before = np.arange(max(gap.start - reach, 0), gap.start)
    return np.concatenate([before, np.arange(gap.stop, min(gap.stop + reach, samples))]), 2


def _check(waveform: Tensor, name: str) -> None:
    """Raise ClipError if a waveform is not mono or not finite."""
    if waveform.ndim != 1:
        raise ClipError(f"{name} has shape {list(waveform.shape)}: give one channel, [samples]")
    if not bool(torch.isfinite(waveform).all()):
        raise ClipError(f"{name} holds NaN or infinity: repair the file")


def _values(waveform: Tensor) -> np.ndarray:
    """A waveform as float64 array."""
    values: np.ndarray = waveform.detach().cpu().numpy().astype(np.float64)
    return values
