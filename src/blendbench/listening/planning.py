"""Planning a study: which samples of a run, and their sounds at the levels at which listeners get them."""

import json
import math
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.listening.study import MUSIC, NOISE, PLAN, SETTINGS, VERSION, Clip, Sample, Study
from blendbench.runs.folder import Run
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.store.write import write_bytes, write_text

_PEAK = 0.98
_TONE_HZ, _TONE_S, _PAUSE_S, _QUIETER_DB, _TONE_DBFS = 200.0, 1.0, 0.5, 6.0, -26.0


def plan(run: Run, settings: dict[str, Any]) -> tuple[Study, list[str]]:
    """Choose a study's samples, write its sounds and its plan, and return it with notes on what had to give way.

    Parameters
    ----------
    run : Run
        A finished one.
    settings : dict
        As `study.read_settings` returns them.

    Raises
    ------
    BlendbenchError
        If a study is there already, the run has no such arms or presentation, or no pair has mixes of all arms.
    """
    folder = run.dir / "listening"
    if (folder / PLAN).exists():
        raise BlendbenchError(f"{folder}: a study is there; go on with it, or move the folder away to plan another")
    presentation, arms = _presentation(settings, run), _arms(settings, run)
    rows = _complete_pairs(run, settings, presentation, arms)
    extra = settings["practice"] + settings["catch_trials"]
    notes = []
    spare = len(rows) >= 4 * extra  # else practice and catch trials use pairs of samples, too
    wanted = min(settings["samples"], len(rows) - extra if spare else len(rows))
    if wanted < settings["samples"]:
        notes.append(f"{len(rows)} pairs have mixes of all arms: {wanted} samples in place of {settings['samples']}")
    maker = _Maker(folder, run, settings, arms)
    kinds = ["sample"] * wanted + ["catch"] * settings["catch_trials"] + ["practice"] * settings["practice"]
    if len(rows) < len(kinds):
        notes.append("few pairs: those of practice and catch trials stand among the samples, too")
    coming, used = _balanced(rows, settings["balance"], settings["seed"]), deque[dict[str, dict]]()
    drafts: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []
    numbers = Counter[str]()
    for kind in kinds:
        name = f"s{numbers[kind] + 1:03d}" if kind == "sample" else f"{kind}{numbers[kind] + 1}"
        # A pair is a sample once; practice and catch trials come back to those used where no others are left.
        while (row := next(coming, None)) is not None or (used and kind != "sample"):
            row = row or used.popleft()
            try:
                drafts.append(maker.draft(name, kind, row))
            except ClipError as error:
                notes.append(f"{next(iter(row.values()))['pair_id']} left out: {error}")
                continue
            numbers[kind] += 1
            used.append(row)
            break
    if numbers["sample"] < wanted:
        notes.append(f"{numbers['sample']} samples in place of {wanted}, as no other pair's sounds can be read")
    if not drafts:
        raise BlendbenchError(f"{run.dir}: no pair's sounds can be read; {'; '.join(notes[-3:])}")
    samples, lowered = maker.write(drafts)
    if lowered < 0:
        notes.append(f"all sounds are {-lowered:.1f} dB lower than asked for, so that none clips")
    made = Study(folder, settings, arms, presentation, samples, maker.checks(), samples[0].noise, maker.seconds)
    write_text(folder / SETTINGS, _as_yaml(settings))
    facts = asdict(made) | {"version": VERSION}
    del facts["folder"], facts["settings"], facts["run"]
    write_text(folder / PLAN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return made, notes


def _as_yaml(settings: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(settings))


def _presentation(settings: Mapping[str, Any], run: Run) -> str:
    there = list(run.presentations)
    chosen = settings["presentation"] or ("adaptive" if "adaptive" in there else there[0])
    if chosen not in there:
        raise BlendbenchError(f"presentation: the run has no {chosen!r}; it has {', '.join(there)}")
    return chosen


def _arms(settings: Mapping[str, Any], run: Run) -> dict[str, str]:
    """Labels by arm, in the order of the run's tables."""
    there = run.arms
    chosen = settings["arms"] if settings["arms"] is not None else run.with_music
    for arm in chosen:
        if arm not in there:
            raise BlendbenchError(f"arms: the run has no {arm!r}; it has {', '.join(there)}")
    if not chosen or len(chosen) > 25:
        raise BlendbenchError(f"arms: {len(chosen)} to be rated; choose 1 to 25 of {', '.join(there)}")
    if settings["catch_trials"] and (len(chosen) < 2 or {NOISE, MUSIC} & set(chosen)):
        # Its page would have another number of clips than the others, or two of one name.
        raise BlendbenchError("catch_trials: need two arms, none of them called noise or music; use catch_trials=0")
    return {arm: there[arm] for arm in chosen}


def _complete_pairs(
    run: Run, settings: Mapping[str, Any], presentation: str, arms: Mapping[str, str]
) -> list[dict[str, dict]]:
    """Rows by arm of the pairs that have a mix in every arm."""
    datasets = settings["dataset"]
    wanted = None if datasets is None else {datasets} if isinstance(datasets, str) else set(datasets)
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for row in run.rows():
        good = row["status"] == "ok" and row["presentation"] == presentation and row["arm"] in arms
        if good and (wanted is None or row["dataset"] in wanted):
            found.setdefault((row["dataset"], row["pair_id"]), {})[row["arm"]] = row
    whole = [by_arm for by_arm in found.values() if len(by_arm) == len(arms)]
    if not whole:
        raise BlendbenchError(
            f"{run.dir}: no pair has mixes of {', '.join(arms)} under {presentation}; run the experiment first"
        )
    return whole


def _balanced(rows: Iterable[dict[str, dict]], fields: Sequence[str], seed: int) -> Iterator[dict[str, dict]]:
    """All pairs, so ordered that any first so many of them hold the values of each field evenly.

    The next is one whose values have come least often. Where every combination of values has pairs left, counts differ
    by one at most; where some run out, they may differ by two more than they must.
    """

    def facts(by_arm: dict[str, dict]) -> tuple[str, ...]:
        return tuple(str(next(iter(by_arm.values())).get(field)) for field in fields)

    strata: dict[tuple[str, ...], list[dict[str, dict]]] = {}
    for by_arm in shuffled(rows, seed, lambda by_arm: next(iter(by_arm.values()))["pair_id"]):
        strata.setdefault(facts(by_arm), []).append(by_arm)
    order = shuffled(strata, seed, str)
    left = np.array([len(strata[values]) for values in order])
    codes = [np.unique(values, return_inverse=True)[1] for values in zip(*order, strict=True)]
    counts = [np.zeros(len(order), int) for _ in fields]
    while left.any():
        taken = sum((count[code] for count, code in zip(counts, codes, strict=True)), np.zeros(len(order), int))
        place = int(np.where(left > 0, taken, np.iinfo(int).max).argmin())
        yield strata[order[place]].pop(0)
        left[place] -= 1
        for count, code in zip(counts, codes, strict=True):
            count[code[place]] += 1


class _Maker:
    """Writes the sounds of a study."""

    def __init__(self, folder: Path, run: Run, settings: dict[str, Any], arms: Mapping[str, str]) -> None:
        self.folder, self.run, self.settings, self.arms = folder, run, settings, arms
        self.seconds = run.task.reference_seconds()

    def draft(self, name: str, kind: str, rows: dict[str, dict]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Facts of a sample, and its sounds at the levels of the run: "" is the noise alone."""
        row = rows[next(iter(self.arms))]
        facts = {key: str(row[key]) for key in ("pair_id", "dataset", "label", "genre", "prompt")}
        waves = {"": self.run.parts(row)["noise"]}
        arms = list(self.arms)
        if kind == "catch":
            # Its music is that of the last arm: under noise it is among the others, so this is the same, bare.
            played = [arm for arm in arms if rows[arm]["gain_db"] is not None] or arms
            waves |= {NOISE: waves[""], MUSIC: self.run.parts(rows[played[-1]])["music"]}
            arms = arms[2:]
        waves |= {arm: self.run.heard(rows[arm]) for arm in arms}
        waves = {key: self._faded(wave) for key, wave in waves.items()}
        if audio.integrated_loudness(waves[""], SAMPLE_RATE, row["clip"]) == -math.inf:
            raise ClipError(f"{row['clip']}: is silent; no level can be set by it")
        if self.settings["playback"]["match"] == "clips":
            waves = {
                key: audio.normalize_loudness(wave, SAMPLE_RATE, self._lufs, key)[0] for key, wave in waves.items()
            }
        elif self.settings["playback"]["match"] == "samples":
            _, gain = audio.normalize_loudness(waves[""], SAMPLE_RATE, self._lufs)
            waves = {key: wave * audio.from_db(gain) for key, wave in waves.items()}
        return {"name": name, "kind": kind, **facts}, waves

    @property
    def _lufs(self) -> float:
        return self.settings["playback"]["lufs"]

    def _faded(self, wave: torch.Tensor) -> torch.Tensor:
        count = min(len(wave) // 2, round(self.settings["playback"]["fade_ms"] * SAMPLE_RATE / 1000))
        ramp = torch.sin(torch.linspace(0, math.pi / 2, count)) ** 2
        out = wave.clone()
        out[:count] *= ramp
        out[len(out) - count :] *= ramp.flip(0)
        return out

    def write(
        self, drafts: Sequence[tuple[dict[str, Any], dict[str, torch.Tensor]]]
    ) -> tuple[tuple[Sample, ...], float]:
        """Write the sounds, all turned down together if one would clip; returns the samples, and by how many dB."""
        peak = max(float(wave.abs().max()) for _, waves in drafts for wave in waves.values())
        factor = min(1.0, _PEAK / peak)
        samples = []
        for facts, waves in drafts:
            clips = {key: self._write(wave * factor) for key, wave in waves.items()}
            samples.append(Sample(**facts, noise=clips.pop(""), clips=clips))
        return tuple(samples), audio.db(factor)

    def checks(self) -> tuple[tuple[Clip, int], ...]:
        """The sounds of the headphone check, with their answers: each place of the quiet tone comes equally often."""
        trials = self.settings["headphone_check"]["trials"]
        draw = np.random.default_rng(stable_seed(self.settings["seed"], "headphones"))
        answers = draw.permutation([trial % 3 for trial in range(trials)])
        out = []
        for trial, quiet in enumerate(answers):
            turned = (int(quiet) + 1 + trial % 2) % 3
            out.append((self._save(headphone_tones(int(quiet), turned), None), int(quiet) + 1))
        return tuple(out)

    def _write(self, wave: torch.Tensor) -> Clip:
        loudness = audio.integrated_loudness(wave, SAMPLE_RATE)
        return self._save(wave.numpy(), round(loudness, 2) if math.isfinite(loudness) else None)

    def _save(self, samples: np.ndarray, lufs: float | None) -> Clip:
        name = secrets.token_hex(16)
        buffer = BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
        write_bytes(self.folder / "clips" / f"{name}.flac", buffer.getvalue())
        return Clip(name, lufs)


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
