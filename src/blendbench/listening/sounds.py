"""Sounds of a study: parts and mixes of a run at the levels at which listeners get them, anchors, and tones.

A waveform is [samples], or [channels, samples] where the task has several.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from scipy import signal

from blendbench.errors import ClipError
from blendbench.listening.settings import Settings
from blendbench.listening.study import ANCHOR, HIDDEN_REFERENCE, Clip, Sample
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.store.write import write_bytes

_PEAK = 0.98
_TONE_HZ, _TONE_S, _PAUSE_S, _QUIETER_DB, _TONE_DBFS = 200.0, 1.0, 0.5, 6.0, -26.0
_ANCHOR_STOP, _ANCHOR_DB = 4.0 / 3.5, 60.0
"""Where a low-pass stops, as a ratio to where it passes, and by how much; ITU-R BS.1534 asks 25 dB at 4/3.5."""
_FIRST, _REFERENCE = "<first>", "<reference>"
"""Keys of waves beside the conditions: what is heard first, and the open reference."""

Rows = Mapping[str, dict[str, Any]]
"""An item's rows by arm."""


@dataclass
class Draft:
    """A sample whose sounds are not written yet: its facts, and waves by condition, `_FIRST` and `_REFERENCE`."""

    facts: dict[str, Any]
    waves: dict[str, torch.Tensor] = field(default_factory=dict)


class Sounds:
    """Makes and writes the sounds of a study.

    Parameters
    ----------
    folder : Path
        Of the study.
    run : Run
    settings : Settings
    arms, hidden : mapping of str to str
        Of the study.
    """

    def __init__(
        self, folder: Path, run: Run, settings: Settings, arms: Mapping[str, str], hidden: Mapping[str, str]
    ) -> None:
        self.folder, self.run, self.settings, self.arms, self.hidden = folder, run, settings, arms, hidden
        self.rate, self.study = run.task.sample_rate, run.task.study()
        self._read: tuple[dict[str, Any], dict[str, torch.Tensor]] | None = None  # the row whose parts were read last

    def draft(self, name: str, kind: str, rows: Rows) -> Draft:
        """A sample with its sounds, faded and levelled; raises ClipError where one cannot be had."""
        row = rows[next(iter(self.arms))]
        columns = {column: str(row[column]) for column in self.run.task.columns}
        facts = {"name": name, "kind": kind, "pair_id": str(row["pair_id"]), "dataset": str(row["dataset"])}
        waves = self._waves(kind, rows)
        longest = max(wave.shape[-1] for wave in waves.values())
        waves = {key: self._faded(_padded(wave, longest)) for key, wave in waves.items()}
        return Draft(
            facts | {"facts": columns}, self._levelled(waves, str(row.get(self.run.task.group, row["pair_id"])))
        )

    def _waves(self, kind: str, rows: Rows) -> dict[str, torch.Tensor]:
        """At the levels of the run."""
        wanted, waves, arms = self.settings, dict[str, torch.Tensor](), list(self.arms)
        if self.study.first:
            waves[_FIRST] = self._part(self.study.first, rows)
        if wanted.open_reference is not None and wanted.open_reference != self.study.first:
            waves[_REFERENCE] = self._part(wanted.open_reference, rows)
        if kind == "catch":
            assert self.study.catch is not None
            waves |= {part: self._part(part, rows) for part in self.study.catch[1:]}
            arms = arms[2:]
        waves |= {arm: self.run.heard(rows[arm]) for arm in arms}
        if wanted.hidden_reference is not None:
            waves[HIDDEN_REFERENCE] = self._part(wanted.hidden_reference, rows)
        if wanted.anchor is not None:
            waves[ANCHOR] = low_passed(self._part(wanted.anchor.part, rows), self.rate, wanted.anchor.lowpass_hz)
        return waves

    def _part(self, name: str, rows: Rows) -> torch.Tensor:
        """A part that the arms share, as the first has it; or one of an arm's own, as the last has it that has any.

        So in a catch trial it is among the other clips once more, as a part of the last arm's.
        """
        arms = list(self.arms)
        if name not in self.run.task.shared:
            arms = ([arm for arm in arms if self.run.task.turned(rows[arm]) is not None] or arms)[-1:]
        row = rows[arms[0]]
        if self._read is None or self._read[0] is not row:
            self._read = row, self.run.parts(row)
        found = self._read[1].get(name)
        if found is None:
            raise ClipError(f"{row['pair_id']}: has no {name} under {arms[0]}")
        return found

    def _faded(self, wave: torch.Tensor) -> torch.Tensor:
        samples = wave.shape[-1]
        count = min(samples // 2, round(self.settings.playback.fade_ms * self.rate / 1000))
        ramp = torch.sin(torch.linspace(0, math.pi / 2, count)) ** 2
        out = wave.clone()
        out[..., :count] *= ramp
        out[..., samples - count :] *= ramp.flip(0)
        return out

    def _levelled(self, waves: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
        """Waves at the study's level; the first of them must not be silent."""
        lead = next(key for key in (_FIRST, _REFERENCE, HIDDEN_REFERENCE, *waves) if key in waves)
        if audio.integrated_loudness(waves[lead], self.rate, name) == -math.inf:
            raise ClipError(f"{name}: is silent; no level can be set by it")
        playback = self.settings.playback
        if playback.match == "clips":
            return {
                key: audio.normalize_loudness(wave, self.rate, playback.lufs, key)[0] for key, wave in waves.items()
            }
        if playback.match == "samples":
            _, gain = audio.normalize_loudness(waves[lead], self.rate, playback.lufs, name)
            return {key: wave * audio.from_db(gain) for key, wave in waves.items()}
        return waves

    def write(self, drafts: Sequence[Draft]) -> tuple[tuple[Sample, ...], float]:
        """Write the sounds, all turned down together if one would clip; returns the samples, and by how many dB."""
        peak = max(float(wave.abs().max()) for draft in drafts for wave in draft.waves.values())
        factor = min(1.0, _PEAK / peak)
        samples = []
        for draft in drafts:
            clips = {key: self._write(wave * factor) for key, wave in draft.waves.items()}
            first, reference = clips.pop(_FIRST, None), clips.pop(_REFERENCE, None)
            if self.settings.open_reference is not None and reference is None:
                reference = first  # the same part
            samples.append(Sample(**draft.facts, first=first, reference=reference, clips=clips))
        return tuple(samples), audio.db(factor)

    def volume(self, sample: Sample) -> Clip:
        """What the volume is set by: a sound of a sample that is not rated, or a copy of one that is."""
        if sample.open:
            return sample.open[0]
        clip = sample.clips.get(HIDDEN_REFERENCE) or next(iter(sample.clips.values()))
        name = secrets.token_hex(16)
        write_bytes(self._file(name), self._file(clip.name).read_bytes())
        return Clip(name, clip.lufs)

    def checks(self) -> tuple[tuple[Clip, int], ...]:
        """The sounds of the headphone check, with their answers: each place of the quiet tone comes equally often."""
        draw = np.random.default_rng(stable_seed(self.settings.seed, "headphones"))
        answers = draw.permutation([trial % 3 for trial in range(self.settings.headphone_check.trials)])
        out = []
        for trial, quiet in enumerate(answers):
            turned = (int(quiet) + 1 + trial % 2) % 3
            out.append((self._save(headphone_tones(int(quiet), turned), SAMPLE_RATE, None), int(quiet) + 1))
        return tuple(out)

    def _write(self, wave: torch.Tensor) -> Clip:
        level = audio.integrated_loudness(wave, self.rate, "clip")
        return self._save(wave.numpy().T, self.rate, round(level, 2) if math.isfinite(level) else None)

    def _save(self, samples: np.ndarray, rate: int, lufs: float | None) -> Clip:
        name = secrets.token_hex(16)
        buffer = BytesIO()
        soundfile.write(buffer, samples, rate, "PCM_16", format="FLAC")
        write_bytes(self._file(name), buffer.getvalue())
        return Clip(name, lufs)

    def _file(self, name: str) -> Path:
        return self.folder / "clips" / f"{name}.flac"


def _padded(wave: torch.Tensor, samples: int) -> torch.Tensor:
    """With silence after it: the page plays sounds of equal length in step."""
    return torch.nn.functional.pad(wave, (0, samples - wave.shape[-1]))


def low_passed(wave: torch.Tensor, rate: int, lowpass_hz: float) -> torch.Tensor:
    """Low-passed without delay; source: ITU-R BS.1534-3, whose low-range anchor passes 3.5 kHz.

    The FIR filter passes up to `lowpass_hz` and is 60 dB down from 8/7 of it on. As it is where the rate has nothing
    above.
    """
    stop = lowpass_hz * _ANCHOR_STOP
    if stop >= rate / 2:
        return wave
    length, beta = signal.kaiserord(_ANCHOR_DB, (stop - lowpass_hz) / (rate / 2))
    taps = signal.firwin(length | 1, (lowpass_hz + stop) / 2, window=("kaiser", beta), fs=rate)
    values = wave.numpy().astype(np.float64)
    taps = taps if values.ndim == 1 else taps[None]
    full = signal.oaconvolve(values, taps, mode="full", axes=-1)
    start = taps.shape[-1] // 2
    return torch.from_numpy(full[..., start : start + values.shape[-1]].astype(np.float32))


def headphone_tones(quiet: int, turned: int) -> np.ndarray:
    """Three tones [samples, 2] at 44.1 kHz of which one is 6 dB quieter and another has its right channel inverted.

    Over loudspeakers the inverted one cancels in the air and seems the quietest; over headphones it does not. Source:
    Woods, Siegel, Traer and McDermott (2017), Headphone screening to facilitate web-based auditory experiments.

    Parameters
    ----------
    quiet, turned : int
        Places, 0 to 2.
    """
    time = np.arange(round(_TONE_S * SAMPLE_RATE)) / SAMPLE_RATE
    ramp = np.clip(np.minimum(time, _TONE_S - time) / 0.1, 0, 1)
    tone = np.sqrt(2) * audio.from_db(_TONE_DBFS) * ramp * np.sin(2 * np.pi * _TONE_HZ * time)
    pause = np.zeros((round(_PAUSE_S * SAMPLE_RATE), 2))
    parts = []
    for place in range(3):
        both = np.stack([tone, -tone if place == turned else tone], 1)
        parts += [both * (audio.from_db(-_QUIETER_DB) if place == quiet else 1.0), pause]
    return np.concatenate(parts[:-1])
