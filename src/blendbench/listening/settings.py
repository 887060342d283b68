"""Settings of a listening study: `study.yaml`, what the task sets otherwise, the user's file and words, in that order.

They are read into `Settings` once, checked as a whole; nothing else knows them as a dictionary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blendbench.errors import BlendbenchError, one_line

_DEFAULTS = Path(__file__).with_name("study.yaml")
_MATCHES = ("clips", "samples", "none")
_UNITS = ("rating", "listener")
_MOST_BUTTONS = 11
"""Values of a range that are buttons; more are a slider."""


@dataclass(frozen=True)
class Scale:
    """What is asked of a clip.

    Parameters
    ----------
    label, text : str
        Its heading, and what it means.
    low, high : str
        What its ends mean.
    heading : str
        In tables; "" for that of `runs.listened.FACTS`, or the scale's name.
    better : {"high", "low", ""}
        Which end is better; "" for that of `FACTS`, or none.
    """

    label: str
    text: str
    low: str
    high: str
    heading: str = ""
    better: str = ""

    def as_dict(self) -> dict[str, str]:
        """As in the settings: what is not set is left out."""
        return {name: text for name, text in asdict(self).items() if text}


@dataclass(frozen=True)
class Range:
    """The values of every scale: whole numbers from `low` to `high`."""

    low: int
    high: int

    @property
    def buttons(self) -> bool:
        """Whether each value has a button; else there is a slider."""
        return self.high - self.low < _MOST_BUTTONS

    @property
    def values(self) -> range:
        """All of them."""
        return range(self.low, self.high + 1)

    @property
    def unit(self) -> str:
        """In tables and recipes: "1-5"."""
        return f"{self.low}-{self.high}" if self.low >= 0 else str(self)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    def of_share(self, share: float, out_of: float = 1.0) -> float:
        """The value that lies so far up."""
        return self.low + (self.high - self.low) * share / out_of

    def share(self, value: float) -> float:
        """How far up a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Anchor:
    """A low-passed part of the item, rated among the others (ITU-R BS.1534-3)."""

    part: str
    lowpass_hz: float = 3500.0


@dataclass(frozen=True)
class Playback:
    """At what level sounds are played; see `study.yaml`."""

    match: str
    lufs: float
    fade_ms: float


@dataclass(frozen=True)
class HeadphoneCheck:
    """How many trials there are, how many of them must be right, and whether one must pass."""

    trials: int
    needed: int
    required: bool


@dataclass(frozen=True)
class ReferenceBelow:
    """Below which share of the range a hidden reference is rated too low, and at what share of its ratings."""

    value: float
    share: float


@dataclass(frozen=True)
class Exclusions:
    """Limits of the rules in `exclusions`; None or False switches one off."""

    finished_share: float | None
    catch_failures: int | None
    same_answer_share: float | None
    fastest_page_s: float | None
    headphones: bool
    reference_below: ReferenceBelow | None
    retest_difference: float | None


@dataclass(frozen=True)
class Settings:
    """All keys of `study.yaml`, which says what each means."""

    title: str
    seed: int
    presentation: str | None
    arms: list[str] | None
    dataset: str | list[str] | None
    samples: int
    balance: list[str] | None
    listeners: int
    samples_per_listener: int | None
    practice: int
    catch_trials: int | None
    repeats: int
    hidden_reference: str | None
    anchor: Anchor | None
    open_reference: str | None
    playback: Playback
    headphone_check: HeadphoneCheck
    range: Range
    scales: dict[str, Scale]
    consent: str
    contact: str
    thanks: str
    exclusions: Exclusions
    unit: str | None

    def as_yaml(self) -> str:
        """As a file that `read` takes."""
        from omegaconf import OmegaConf

        values = asdict(self) | {
            "range": [self.range.low, self.range.high],
            "scales": {name: scale.as_dict() for name, scale in self.scales.items()},
        }
        return OmegaConf.to_yaml(OmegaConf.create(values))


def read(own: Mapping[str, Any], file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a study: the defaults, those of the task, a file's, and `key=value` words, the last one counting.

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
    # Whoever gives scales asks these alone; words only change those that are there.
    steps: list[tuple[str, bool, Callable[[], Any]]] = [("the task's study", True, lambda: OmegaConf.create(dict(own)))]
    if file is not None:
        steps.append((str(file), True, lambda: OmegaConf.load(file)))
    steps += [(word, False, lambda word=word: OmegaConf.from_dotlist([word])) for word in overrides]  # type: ignore[misc]
    for source, whole, load in steps:
        key: Any = None
        try:
            given = load()
            if not isinstance(given, DictConfig):
                raise ValueError("not a mapping of keys")
            OmegaConf.set_struct(merged, False)
            if whole and "scales" in given:
                merged.scales = {}
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
    values: Any = OmegaConf.to_container(merged)
    _check(values)
    return _built(values)


def _built(values: Mapping[str, Any]) -> Settings:
    out, anchor = values["exclusions"], values["anchor"]
    below = out["reference_below"]
    parts = {
        "playback": Playback(**values["playback"]),
        "headphone_check": HeadphoneCheck(**values["headphone_check"]),
        "range": Range(*values["range"]),
        "scales": {name: Scale(**scale) for name, scale in values["scales"].items()},
        "anchor": None if anchor is None else Anchor(**anchor),
        "exclusions": Exclusions(**out | {"reference_below": None if below is None else ReferenceBelow(**below)}),
    }
    return Settings(**{**values, **parts})


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _check(settings: dict[str, Any]) -> None:
    """Raise BlendbenchError for the first value that is out of range."""
    for name in ("playback", "headphone_check", "exclusions"):
        if not isinstance(settings[name], dict):
            raise BlendbenchError(f"{name}: {settings[name]!r} is out of range; use its keys, such as {name}.KEY=VALUE")
    rules = [*_of_plan(settings), *_of_sounds(settings), *_of_answers(settings)]
    for key, value, good, hint in rules:
        if not good:
            raise BlendbenchError(f"{key}: {value!r} is out of range; use {hint}")


_Rule = tuple[str, Any, bool, str]
"""A key, its value, whether that is good, and what would be."""


def _of_plan(settings: Mapping[str, Any]) -> list[_Rule]:
    most, seed, chosen = settings["samples_per_listener"], settings["seed"], settings["dataset"]
    catches, balance = settings["catch_trials"], settings["balance"]
    return [
        *((name, settings[name], _whole(settings[name], least), f"a whole number from {least}")
          for name, least in (("samples", 1), ("listeners", 1), ("practice", 0), ("repeats", 0))),
        ("catch_trials", catches, catches is None or _whole(catches, 0), "a whole number from 0, or null"),
        ("seed", seed, isinstance(seed, int) and not isinstance(seed, bool), "a whole number"),
        ("dataset", chosen, chosen is None or isinstance(chosen, str) or _names(chosen),
         "the run's data sets, or null"),
        ("samples_per_listener", most, most is None or _whole(most, 1), "a whole number from 1, or null for all"),
        ("balance", balance, balance is None or _names(balance), "a list of the task's columns, or null"),
        ("arms", settings["arms"], settings["arms"] is None or _names(settings["arms"]), "a list of the run's arms"),
    ]  # fmt: skip


def _of_sounds(settings: Mapping[str, Any]) -> list[_Rule]:
    playback, check, anchor = settings["playback"], settings["headphone_check"], settings["anchor"]
    trials = check["trials"] if _whole(check["trials"], 0) else 0
    is_anchor = (
        isinstance(anchor, dict) and {"part"} <= set(anchor) <= {"part", "lowpass_hz"}
        and isinstance(anchor["part"], str) and _number(anchor.get("lowpass_hz", 3500), 100, 20_000)
    )  # fmt: skip
    return [
        *((name, settings[name], settings[name] is None or isinstance(settings[name], str),
           "a part of the task's items, or null") for name in ("hidden_reference", "open_reference")),
        ("anchor", anchor, anchor is None or is_anchor, "part and lowpass_hz (100 to 20000), or null"),
        ("playback.match", playback["match"], playback["match"] in _MATCHES, f"one of {', '.join(_MATCHES)}"),
        ("playback.lufs", playback["lufs"], _number(playback["lufs"], -60, -10), "-60 to -10"),
        ("playback.fade_ms", playback["fade_ms"], _number(playback["fade_ms"], 0, 500), "0 to 500"),
        ("headphone_check.trials", check["trials"], _whole(check["trials"], 0) and trials <= 24, "0 to 24"),
        ("headphone_check.needed", check["needed"], (_whole(check["needed"], 0) and check["needed"] <= trials)
         or not trials, "at most headphone_check.trials"),
        ("headphone_check.required", check["required"], isinstance(check["required"], bool), "true or false"),
    ]  # fmt: skip


def _of_answers(settings: Mapping[str, Any]) -> list[_Rule]:
    out, ends, below = settings["exclusions"], settings["range"], settings["exclusions"]["reference_below"]
    share = [("finished_share", 1.0), ("same_answer_share", 1.0), ("fastest_page_s", 3600.0),
             ("retest_difference", 1000.0)]  # fmt: skip
    good_ends = (
        isinstance(ends, list) and len(ends) == 2 and all(_whole(end, -1000) and end <= 1000 for end in ends)
        and ends[0] < ends[1]
    )  # fmt: skip
    is_below = (
        isinstance(below, dict) and set(below) == {"value", "share"}
        and all(_number(one, 0, 1) for one in below.values())
    )  # fmt: skip
    return [
        ("range", ends, good_ends, "its ends, two whole numbers from -1000 to 1000, the lower first, such as [0, 100]"),
        ("exclusions.catch_failures", out["catch_failures"],
         out["catch_failures"] is None or _whole(out["catch_failures"], 0), "a whole number from 0, or null"),
        ("exclusions.headphones", out["headphones"], isinstance(out["headphones"], bool), "true or false"),
        ("exclusions.reference_below", below, below is None or is_below, "value and share, 0 to 1 each, or null"),
        *((f"exclusions.{name}", out[name], out[name] is None or _number(out[name], 0, limit),
           f"0 to {limit:g}, or null")
          for name, limit in share),
        ("unit", settings["unit"], settings["unit"] in (None, *_UNITS), f"{' or '.join(_UNITS)}, or null"),
        *((name, settings[name], isinstance(settings[name], str), "a text")
          for name in ("title", "consent", "contact", "thanks")),
        ("scales", settings["scales"], _are_scales(settings["scales"]),
         "scales of label, text, low and high under plain names such as ovl"),
    ]  # fmt: skip


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
