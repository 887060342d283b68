"""Seams: whether the edges of what was painted into a recording, or onto it, stand out, and whether its beat goes on.

A seam is an edge of the item's gap; where the row says that music goes on at some second (`continues_at_s`), that.
All is measured on one channel at 22,050 Hz.
"""

from typing import Any

import numpy as np

from blendbench.errors import ClipError
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.metrics.likeness import RATE, chroma, chroma_cosine, low
from blendbench.sound import audio

HOP = 512
SIDE = 2.0
"""Seconds a side that are compared."""


class Seams(ItemMetric):
    """Novelty, likeness and level at the seams, and the beats carried over."""

    facts = {
        "seam_novelty": Facts("Novelty at seams", "percentile", False, "Foote (2000), 2 s a side, chroma and MFCC"),
        "seam_chroma": Facts("Chroma over seams", "cosine", True, "mean chroma 2 s before and after"),
        "seam_level": Facts("Level step", "dB", False, "RMS 0.5 s before and after, absolute"),
        "seam_beats": Facts("Beats carried over", "F", True, "librosa beat_track, mir_eval f_measure within 70 ms"),
        "gap_chroma": Facts("Chroma like what was there", "cosine", True, "of the gap alone, frame by frame"),
    }

    def measure(self, sound: Sound) -> dict[str, float]:
        """Values by name, means over seams; nan where one is undefined.

        Raises
        ------
        ClipError
            If there is no seam, or one has less than two seconds on a side.
        """
        given, found = sound.given(), dict.fromkeys(self.facts, float("nan"))
        heard = low(sound.waveform())
        gap = getattr(given, "gap", None)
        at = sound.row.get("continues_at_s")
        if at is not None:
            seams, painted = [float(at)], (float(at), len(heard) / RATE)
        elif gap is not None:
            painted = (gap.start / audio.SAMPLE_RATE, gap.stop / audio.SAMPLE_RATE)
            seams = list(painted)
        else:
            raise ClipError("has no seam: set form.gap_start and form.gap_stop, or take a method that goes on")
        if min(seams) < SIDE or max(seams) > len(heard) / RATE - SIDE:
            raise ClipError(f"a seam has less than {SIDE:g} s of music on a side; take a longer piece")
        found |= at_seams(heard, seams)
        found["seam_beats"] = beats_carried(heard, *painted)
        original = sound.parts().get("recording")
        if gap is not None and original is not None:
            first, last = (round(time * RATE) for time in painted)
            found["gap_chroma"] = chroma_cosine(heard[first:last], low(original)[first:last])
        return found


def at_seams(wave: np.ndarray, seams: list[float]) -> dict[str, float]:
    """Novelty as percentile among the piece's own times, chroma and level over some seconds."""
    curve, harmony = novelty(wave), chroma(wave)
    known = curve[np.isfinite(curve)]
    side, half = round(SIDE * RATE / HOP), round(0.5 * RATE)
    found: dict[str, list[float]] = {"seam_novelty": [], "seam_chroma": [], "seam_level": []}
    for time in seams:
        frame, sample = round(time * RATE / HOP), round(time * RATE)
        near = curve[max(0, frame - 3) : frame + 4]
        if np.isfinite(near).any():
            found["seam_novelty"].append(100 * float((known < np.nanmax(near)).mean()))
        before, after = harmony[:, max(0, frame - side) : frame].mean(1), harmony[:, frame : frame + side].mean(1)
        norm = float(np.linalg.norm(before) * np.linalg.norm(after))
        found["seam_chroma"].append(float(before @ after) / norm if norm > 1e-9 else np.nan)
        levels = [
            10 * np.log10(np.mean(part.astype(np.float64) ** 2) + 1e-10)
            for part in (wave[max(0, sample - half) : sample], wave[sample : sample + half])
        ]
        found["seam_level"].append(abs(float(levels[1] - levels[0])))
    return {name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for name, values in found.items()}


def novelty(wave: np.ndarray) -> np.ndarray:
    """Foote's checkerboard novelty of chroma and MFCC, a value a frame; nan within two seconds of the ends."""
    import librosa

    mfcc = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=13, hop_length=HOP)[1:]
    both = np.concatenate([part / (part.std() + 1e-9) for part in (chroma(wave), mfcc)])
    unit = both / (np.linalg.norm(both, axis=0) + 1e-9)
    side = round(SIDE * RATE / HOP)
    sign = np.sign(np.arange(-side, side) + 0.5)
    kernel = np.outer(sign, sign) * np.exp(-0.5 * (np.arange(-side + 0.5, side) / (side / 2)) ** 2)
    kernel = kernel * np.exp(-0.5 * (np.arange(-side + 0.5, side) / (side / 2)) ** 2)[:, None]
    found = np.full(unit.shape[1], np.nan)
    for at in range(side, unit.shape[1] - side):
        part = unit[:, at - side : at + side]
        found[at] = float((kernel * (part.T @ part)).sum())
    return found


def beats_carried(wave: np.ndarray, start: float, stop: float) -> float:
    """F of the beats found in a stretch against the context's before it, carried over it at their period.

    The period is the slope of a line through their times: a median would be off by half a frame, which ten beats make
    more than the tolerance of 70 ms. nan where the context has fewer than four beats, or the stretch is shorter than
    two periods.
    """
    import librosa
    import mir_eval

    first, last = round(start * RATE), round(stop * RATE)
    if min(first, last - first) < RATE // 2:
        return float("nan")
    known = _beats(librosa, wave[:first])
    if len(known) < 4:
        return float("nan")
    number = np.round((known - known[0]) / np.median(np.diff(known)))
    period, origin = np.polyfit(number, known, 1)
    carried = origin + period * np.arange(number[-1] + 1, number[-1] + 1 + (stop - known[-1]) / period)
    carried = carried[(carried >= start) & (carried < stop)]
    if len(carried) < 2:
        return float("nan")
    heard = _beats(librosa, wave[first:last]) + start
    return float(mir_eval.beat.f_measure(carried, heard)) if len(heard) else 0.0


def _beats(librosa: Any, wave: np.ndarray) -> np.ndarray:
    found: np.ndarray = librosa.beat.beat_track(y=wave, sr=RATE, units="time")[1]
    return found
