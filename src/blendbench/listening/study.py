"""Plans of listening studies: which samples of a run, which sounds, and what each listener hears in which order.

`RUN_DIR/listening` holds `listen.study.yaml` (the settings), `study.json` (the plan), `clips/*.flac` (the sounds, under
names that say nothing), `answers.sqlite` and `links.csv`. A plan does not change once it is there; what a listener
hears follows from it and the listener's number alone.
"""

import json
import math
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from blendbench import audio
from blendbench.clips import SAMPLE_RATE
from blendbench.datasets.pairing import shuffled, stable_seed
from blendbench.errors import BlendbenchError, ClipError, one_line
from blendbench.results import read_rows
from blendbench.runner import read_mix
from blendbench.sounds import Sounds
from blendbench.store import write_bytes, write_text

VERSION = 1
NOISE, MUSIC = "noise", "music"
"""Conditions of a catch trial beside the arms: the noise alone, the music alone."""
SETTINGS = "listen.study.yaml"
_PLAN = "study.json"
_DEFAULTS = Path(__file__).with_name("study.yaml")
_FIELDS = {"label", "genre", "dataset"}
_MATCHES = ("clips", "samples", "none")
_PEAK = 0.98
_TONE_HZ, _TONE_S, _PAUSE_S, _QUIETER_DB, _TONE_DBFS = 200.0, 1.0, 0.5, 6.0, -26.0


@dataclass(frozen=True)
class Clip:
    """A sound that listeners are given.

    Attributes
    ----------
    name : str
        32 hex digits that tell nothing; `clips/NAME.flac` holds it.
    lufs : float or None
        Integrated loudness of the file; None for tones, and for what is too quiet to be measured.
    """

    name: str
    lufs: float | None


@dataclass(frozen=True)
class Sample:
    """A pair whose mixes are judged together.

    Attributes
    ----------
    name : str
        "s001", "catch1", "practice1".
    kind : str
        "sample", "catch" or "practice".
    pair_id, dataset, label, genre, prompt : str
    noise : Clip
        The noise alone, heard first.
    clips : dict of str to Clip
        What is rated, by arm; in a catch trial also `NOISE` and `MUSIC`, in place of the first and second arm.
    """

    name: str
    kind: str
    pair_id: str
    dataset: str
    label: str
    genre: str
    prompt: str
    noise: Clip
    clips: dict[str, Clip]


@dataclass(frozen=True)
class Page:
    """What a listener hears and rates on one page.

    Attributes
    ----------
    index : int
        From 0, over all pages.
    sample : Sample
    order : tuple of str
        Conditions (keys of `sample.clips`) in the order shown; the page names them A, B, C, ...
    """

    index: int
    sample: Sample
    order: tuple[str, ...]


def position(index: int) -> str:
    """Name of a clip on its page: A, B, C, ..."""
    return chr(ord("A") + index)


@dataclass(frozen=True)
class Study:
    """A study with its plan.

    Attributes
    ----------
    folder : Path
        `RUN_DIR/listening`.
    settings : dict
        As in `study.yaml`.
    arms : dict of str to str
        Labels by arm, in the order of the tables.
    presentation : str
    samples : tuple of Sample
        Of every kind.
    checks : tuple of (Clip, int)
        The headphone check: sounds, and which of the three tones is the quietest (1 to 3).
    volume : Clip
        To set the volume by.
    seconds : float
        Length of a clip.
    """

    folder: Path
    settings: dict[str, Any]
    arms: dict[str, str]
    presentation: str
    samples: tuple[Sample, ...]
    checks: tuple[tuple[Clip, int], ...]
    volume: Clip
    seconds: float

    @property
    def run_dir(self) -> Path:
        """The run it is of."""
        return self.folder.parent

    @property
    def scales(self) -> dict[str, dict[str, str]]:
        """What is asked: label, text, low and high by name."""
        return self.settings["scales"]

    @property
    def clips(self) -> Iterator[Clip]:
        """All its sounds."""
        yield from (self.volume, *(clip for clip, _ in self.checks))
        for sample in self.samples:
            yield from (sample.noise, *sample.clips.values())

    def clip_file(self, name: str) -> Path:
        """File of a sound."""
        return self.folder / "clips" / f"{name}.flac"

    def of_kind(self, kind: str) -> list[Sample]:
        """Samples of a kind."""
        return [sample for sample in self.samples if sample.kind == kind]

    @cached_property
    def minutes(self) -> int:
        """About how long a listener needs."""
        pages = len(self.pages(0))
        clips = len(self.arms) + 1
        return max(1, math.ceil((pages * clips * (self.seconds + 4) + 60) / 60))

    def pages(self, listener: int) -> list[Page]:
        """What the listener with this number (from 0) hears, in order: practice, then samples with catch trials.

        Over each K listeners (2 K where the number of arms K is odd) every arm of a sample stands at each place, and
        after each other arm, equally often (Williams, 1949, Experimental designs balanced for the estimation of
        residual effects of treatments); so it does over a listener's samples.
        """
        square = williams(len(self.arms))
        regular = self.of_kind("sample")
        draw = np.random.default_rng(stable_seed(self.settings["seed"], "listener", str(listener)))
        most = self.settings["samples_per_listener"]
        count = len(regular) if most is None else min(most, len(regular))
        # The places in one long round through all samples, over all listeners: a sample's turns come one after another.
        turns = [listener * count + step for step in range(count)]
        played = [
            (regular[turn % len(regular)], square[(turn % len(regular) + turn // len(regular)) % len(square)])
            for turn in draw.permutation(turns)
        ]
        # Catch trials are spread: one somewhere in each of as many equal stretches.
        catches = self.of_kind("catch")
        order = draw.permutation(len(catches))
        for turn in reversed(range(len(catches))):
            low, high = len(played) * turn // len(catches), len(played) * (turn + 1) // len(catches)
            at = int(draw.integers(low + (high > low), high + 1))
            sample = catches[order[turn]]
            played.insert(at, (sample, tuple(draw.permutation(len(sample.clips)))))
        practice = [(sample, tuple(draw.permutation(len(sample.clips)))) for sample in self.of_kind("practice")]
        pages = []
        for index, (sample, places) in enumerate([*practice, *played]):
            conditions = list(sample.clips)
            pages.append(Page(index, sample, tuple(conditions[place] for place in places)))
        return pages


def williams(count: int) -> list[tuple[int, ...]]:
    """A Williams design: rows of a Latin square (two squares for an odd count) balanced for what follows what."""
    first = [0]
    for step in range(1, count):
        first.append((step + 1) // 2 if step % 2 else count - step // 2)
    rows = [tuple((place + shift) % count for place in first) for shift in range(count)]
    return rows + [tuple(reversed(row)) for row in rows] if count % 2 else rows


def read_settings(file: Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a study: the defaults, a file's, and `key=value` words, the last one counting.

    Raises
    ------
    BlendbenchError
        Naming the key, if it is not known or its value is out of range.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    merged = OmegaConf.load(_DEFAULTS)
    assert isinstance(merged, DictConfig)
    steps: list[tuple[str, Any]] = [(word, lambda word=word: OmegaConf.from_dotlist([word])) for word in overrides]
    if file is not None:
        steps.insert(0, (str(file), lambda: OmegaConf.load(file)))
    for source, load in steps:
        key: Any = None
        try:
            given = load()
            if not isinstance(given, DictConfig):
                raise ValueError("not a mapping of keys")
            if source == str(file) and "scales" in given:
                merged.scales = {}  # other questions than the paper's
            OmegaConf.set_struct(merged, True)
            OmegaConf.set_struct(merged.scales, False)
            for key in given:
                merged = OmegaConf.merge(merged, OmegaConf.masked_copy(given, [key]))
        except OSError as error:
            reason = error.strerror or one_line(str(error))
            raise BlendbenchError(f"{source}: cannot be read ({reason}); name a study's YAML file") from None
        except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
            where = "" if key is None else f"{getattr(error, 'full_key', None) or key}: "
            text = f"{source}: {where}{one_line(str(error).splitlines()[0])}"
            raise BlendbenchError(f"{text}; `blendbench listen --help` tells what there is") from None
    settings: Any = OmegaConf.to_container(merged)
    _check(settings)
    return settings


def _check(settings: dict[str, Any]) -> None:
    """Raise BlendbenchError for the first value that is out of range."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def number(value: Any, least: float, most: float) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most

    def names(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)

    for name in ("playback", "headphone_check", "exclusions"):
        if not isinstance(settings[name], dict):
            raise BlendbenchError(f"{name}: {settings[name]!r} is out of range; use its keys, such as {name}.KEY=VALUE")
    playback, check, out = settings["playback"], settings["headphone_check"], settings["exclusions"]
    trials = check["trials"] if whole(check["trials"], 0) else 0
    share = [("finished_share", 1.0), ("same_answer_share", 1.0), ("fastest_page_s", 3600.0)]
    rules: list[tuple[str, Any, bool, str]] = [
        (name, settings[name], whole(settings[name], least), f"a whole number from {least}")
        for name, least in (("samples", 1), ("listeners", 1), ("practice", 0), ("catch_trials", 0))
    ]
    most, seed, chosen = settings["samples_per_listener"], settings["seed"], settings["dataset"]
    rules += [
        ("seed", seed, isinstance(seed, int) and not isinstance(seed, bool), "a whole number"),
        ("dataset", chosen, chosen is None or isinstance(chosen, str) or names(chosen), "the run's data sets, or null"),
        ("samples_per_listener", most, most is None or whole(most, 1), "a whole number from 1, or null for all"),
        ("balance", settings["balance"], names(settings["balance"]) and set(settings["balance"]) <= _FIELDS,
         f"a list of {', '.join(sorted(_FIELDS))}"),
        ("arms", settings["arms"], settings["arms"] is None or names(settings["arms"]), "a list of the run's arms"),
        ("playback.match", playback["match"], playback["match"] in _MATCHES, f"one of {', '.join(_MATCHES)}"),
        ("playback.lufs", playback["lufs"], number(playback["lufs"], -60, -10), "-60 to -10"),
        ("playback.fade_ms", playback["fade_ms"], number(playback["fade_ms"], 0, 500), "0 to 500"),
        ("headphone_check.trials", check["trials"], whole(check["trials"], 0) and trials <= 24, "0 to 24"),
        ("headphone_check.needed", check["needed"], (whole(check["needed"], 0) and check["needed"] <= trials)
         or not trials, "at most headphone_check.trials"),
        ("headphone_check.required", check["required"], isinstance(check["required"], bool), "true or false"),
        ("exclusions.catch_failures", out["catch_failures"],
         out["catch_failures"] is None or whole(out["catch_failures"], 0), "a whole number from 0, or null"),
        ("exclusions.headphones", out["headphones"], isinstance(out["headphones"], bool), "true or false"),
        *((f"exclusions.{name}", out[name], out[name] is None or number(out[name], 0, limit),
           f"0 to {limit:g}, or null")
          for name, limit in share),
        *((name, settings[name], isinstance(settings[name], str), "a text")
          for name in ("title", "consent", "contact", "thanks")),
        ("scales", settings["scales"], _are_scales(settings["scales"]),
         "scales of label, text, low and high under plain names such as ovl"),
    ]  # fmt: skip
    for key, value, good, hint in rules:
        if not good:
            raise BlendbenchError(f"{key}: {value!r} is out of range; use {hint}")


def _are_scales(value: Any) -> bool:
    wanted = {"label", "text", "low", "high"}
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and name.isidentifier() and name.isascii() for name in value)
        and all(isinstance(one, dict) and set(one) == wanted for one in value.values())
        and all(isinstance(text, str) for one in value.values() for text in one.values())
    )


def plan(run_dir: Path, run: dict[str, Any], settings: dict[str, Any]) -> tuple[Study, list[str]]:
    """Choose a study's samples, write its sounds and its plan, and return it with notes on what had to give way.

    Parameters
    ----------
    run_dir : Path
        A finished run's folder.
    run : dict
        Settings of the run.
    settings : dict
        As `read_settings` returns them.

    Raises
    ------
    BlendbenchError
        If a study is there already, the run has no such arms or presentation, or no pair has mixes of all arms.
    """
    folder = run_dir / "listening"
    if (folder / _PLAN).exists():
        raise BlendbenchError(f"{folder}: a study is there; go on with it, or move the folder away to plan another")
    presentation, arms = _presentation(settings, run), _arms(settings, run)
    rows = _complete_pairs(run_dir, settings, presentation, arms)
    extra = settings["practice"] + settings["catch_trials"]
    notes = []
    spare = len(rows) >= 4 * extra  # else practice and catch trials use pairs of samples, too
    wanted = min(settings["samples"], len(rows) - extra if spare else len(rows))
    if wanted < settings["samples"]:
        notes.append(f"{len(rows)} pairs have mixes of all arms: {wanted} samples in place of {settings['samples']}")
    maker = _Maker(folder, run_dir, run, settings, arms)
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
        raise BlendbenchError(f"{run_dir}: no pair's sounds can be read; {'; '.join(notes[-3:])}")
    samples, lowered = maker.write(drafts)
    if lowered < 0:
        notes.append(f"all sounds are {-lowered:.1f} dB lower than asked for, so that none clips")
    made = Study(
        folder, settings, arms, presentation, samples, maker.checks(), samples[0].noise, run["noise"]["seconds"]
    )
    write_text(folder / SETTINGS, _as_yaml(settings))
    facts = asdict(made) | {"version": VERSION}
    del facts["folder"], facts["settings"]
    write_text(folder / _PLAN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return made, notes


def read(run_dir: Path) -> Study | None:
    """The study of a run, None if there is none; raises BlendbenchError if it is damaged."""
    folder = run_dir / "listening"
    if not (folder / _PLAN).exists():
        return None
    try:
        facts = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise BlendbenchError(
                f"{folder / _PLAN}: version {facts['version']} of another blendbench; plan a new study"
            )
        samples = [
            Sample(**one | {"noise": Clip(**one["noise"]), "clips": {k: Clip(**v) for k, v in one["clips"].items()}})
            for one in facts["samples"]
        ]
        checks = tuple((Clip(**clip), int(answer)) for clip, answer in facts["checks"])
        made = Study(
            folder, read_settings(folder / SETTINGS), facts["arms"], facts["presentation"], tuple(samples), checks,
            Clip(**facts["volume"]), facts["seconds"],
        )  # fmt: skip
        if not made.of_kind("sample") or any(len(sample.clips) != len(made.arms) for sample in samples):
            raise ValueError("samples without all their clips")
        return made
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlendbenchError(f"{folder / _PLAN}: damaged ({one_line(str(error))}); put it back from a copy") from None


def _as_yaml(settings: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(settings))


def _presentation(settings: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    there = list(run["presentations"])
    chosen = settings["presentation"] or ("adaptive" if "adaptive" in there else there[0])
    if chosen not in there:
        raise BlendbenchError(f"presentation: the run has no {chosen!r}; it has {', '.join(there)}")
    return chosen


def _arms(settings: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """Labels by arm, in the order of the run's tables."""
    there = {arm: run["experiment"]["rows"].get(arm, arm) for arm in [*run["experiment"]["rows"], *run["arms"]]
             if run["arms"].get(arm) is not None}  # fmt: skip
    silent = {arm for arm, one in run["arms"].items() if one and "noise_only" in str(one.get("_target_"))}
    chosen = settings["arms"] if settings["arms"] is not None else [arm for arm in there if arm not in silent]
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
    run_dir: Path, settings: Mapping[str, Any], presentation: str, arms: Mapping[str, str]
) -> list[dict[str, dict]]:
    """Rows by arm of the pairs that have a mix in every arm."""
    datasets = settings["dataset"]
    wanted = None if datasets is None else {datasets} if isinstance(datasets, str) else set(datasets)
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for row in read_rows(run_dir):
        good = row["status"] == "ok" and row["presentation"] == presentation and row["arm"] in arms
        if good and (wanted is None or row["dataset"] in wanted):
            found.setdefault((row["dataset"], row["pair_id"]), {})[row["arm"]] = row
    whole = [by_arm for by_arm in found.values() if len(by_arm) == len(arms)]
    if not whole:
        raise BlendbenchError(
            f"{run_dir}: no pair has mixes of {', '.join(arms)} under {presentation}; run the experiment first"
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

    def __init__(
        self, folder: Path, run_dir: Path, run: dict[str, Any], settings: dict[str, Any], arms: Mapping[str, str]
    ) -> None:
        self.folder, self.run_dir, self.settings, self.arms = folder, run_dir, settings, arms
        self.sounds = Sounds(run_dir, run)

    def draft(self, name: str, kind: str, rows: dict[str, dict]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Facts of a sample, and its sounds at the levels of the run: "" is the noise alone."""
        row = rows[next(iter(self.arms))]
        facts = {key: str(row[key]) for key in ("pair_id", "dataset", "label", "genre", "prompt")}
        waves = {"": self.sounds.noise(row)}
        arms = list(self.arms)
        if kind == "catch":
            # Its music is that of the last arm: under noise it is among the others, so this is the same, bare.
            played = [arm for arm in arms if rows[arm]["gain_db"] is not None] or arms
            waves |= {NOISE: waves[""], MUSIC: self.sounds.music(rows[played[-1]])}
            arms = arms[2:]
        waves |= {arm: read_mix(self.run_dir, rows[arm]) for arm in arms}
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
