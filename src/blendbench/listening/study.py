"""Listening studies: their settings and plans, and what each listener hears in which order. Light enough to serve.

`RUN_DIR/listening` holds `listen.study.yaml` (the settings), `study.json` (the plan), `clips/*.flac` (the sounds, under
names that say nothing), `answers.sqlite` and `links.csv`. A plan does not change once it is there; what a listener
hears follows from it and the listener's number alone.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blendbench.errors import BlendbenchError, one_line
from blendbench.facts import Facts
from blendbench.runs.listened import FACTS
from blendbench.seeds import stable_seed

VERSION = 1
NOISE, MUSIC = "noise", "music"
"""Conditions of a catch trial beside the arms: the noise alone, the music alone."""
SETTINGS = "listen.study.yaml"
PLAN = "study.json"
_DEFAULTS = Path(__file__).with_name("study.yaml")
_FIELDS = {"label", "genre", "dataset"}
_MATCHES = ("clips", "samples", "none")


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

    @property
    def sounds(self) -> list[Clip]:
        """The noise alone, and what is rated."""
        return [self.noise, *self.clips.values()]


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
    run: Any = None
    """The run, a `runs.folder.Run`, for who asks about its scores; a study is served without it"""

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
            yield from sample.sounds

    def fact(self, name: str) -> Facts:
        """Facts about a scale, or about one of the run's scores."""
        if name in self.scales:
            return self.scale_facts[name]
        return Facts(name) if self.run is None else self.run.fact(name)

    @property
    def scale_facts(self) -> dict[str, Facts]:
        """What the scales are, for tables: `heading` (or the name), the ends, and which of them is better."""
        found = {}
        for name, one in self.scales.items():
            known = FACTS.get(name, Facts(name))
            better = {"high": True, "low": False}.get(one.get("better", ""), known.higher_is_better)
            found[name] = Facts(one.get("heading", known.label), "1-5", better, one["label"])
        return found

    def clip_file(self, name: str) -> Path:
        """File of a sound."""
        return self.folder / "clips" / f"{name}.flac"

    def of_kind(self, kind: str) -> list[Sample]:
        """Samples of a kind."""
        return [sample for sample in self.samples if sample.kind == kind]

    @cached_property
    def minutes(self) -> int:
        """About how long a listener needs."""
        return self.minutes_of(len(self.pages(0)) * (len(self.arms) + 1))

    def minutes_of(self, clips: int) -> int:
        """About how long so many clips take to be heard and rated, with what comes before them."""
        return max(1, math.ceil((clips * (self.seconds + 4) + 60) / 60))

    def consent(self, minutes: int) -> str:
        """What listeners agree to, with how long it takes."""
        return self.settings["consent"].replace("{minutes}", str(minutes)).strip()

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
            reason = one_line(str(error).splitlines()[0]).replace("is not in struct", "is not known")
            raise BlendbenchError(
                f"{source}: {where}{reason}; `blendbench listen --help` tells what there is"
            ) from None
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
        and all(
            isinstance(one, dict) and wanted <= set(one) <= wanted | {"heading", "better"} for one in value.values()
        )
        and all(isinstance(text, str) for one in value.values() for text in one.values())
    )


def read(run_dir: Path) -> Study | None:
    """The study of a run, None if there is none; raises BlendbenchError if it is damaged."""
    folder = run_dir / "listening"
    if not (folder / PLAN).exists():
        return None
    try:
        facts = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise BlendbenchError(
                f"{folder / PLAN}: version {facts['version']} of another blendbench; plan a new study"
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
        raise BlendbenchError(f"{folder / PLAN}: damaged ({one_line(str(error))}); put it back from a copy") from None
