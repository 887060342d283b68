"""Listening studies and their plans: what each listener hears in which order. Light enough to serve.

`RUN_DIR/listening` holds `listen.study.yaml` (the settings), `study.json` (the plan), `clips/*.flac` (the sounds, under
names that say nothing), `answers.sqlite` and `links.csv`. A plan does not change once it is there; what a listener
hears follows from it and the listener's number alone. It holds what is to be known of the run's task, too: a study is
served and analysed without it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from blendbench.errors import BlendbenchError, one_line
from blendbench.facts import Facts
from blendbench.listening import settings as study_settings
from blendbench.listening.older import brought_up
from blendbench.listening.settings import Scale, Settings
from blendbench.runs.listened import FACTS
from blendbench.seeds import stable_seed
from blendbench.tasks import Column

VERSION = 2
HIDDEN_REFERENCE, ANCHOR = "hidden_reference", "anchor"
"""Conditions beside the arms, in the columns `arm` of a study's tables; no run may have arms of these names."""
_DRAWS = 1000
"""Orders of pages that come twice, until one has another page between them."""
SETTINGS = "listen.study.yaml"
PLAN = "study.json"


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
    """An item whose mixes are judged together.

    Attributes
    ----------
    name : str
        "s001", "catch1", "practice1".
    kind : str
        "sample", "catch" or "practice".
    pair_id, dataset : str
        Of the item.
    facts : dict of str to str
        Its columns, by name.
    first : Clip or None
        What is heard before the clips open; None where they are open at once.
    reference : Clip or None
        What is played at any time beside the clips; None where there is nothing.
    clips : dict of str to Clip
        What is rated, by condition: the arms and the study's hidden ones; in a catch trial the task's low and high part
        stand in place of the first and second arm.
    """

    name: str
    kind: str
    pair_id: str
    dataset: str
    facts: dict[str, str]
    first: Clip | None
    reference: Clip | None
    clips: dict[str, Clip]

    @property
    def open(self) -> list[Clip]:
        """What is heard beside the clips that are rated, each once."""
        return list(dict.fromkeys(clip for clip in (self.first, self.reference) if clip is not None))

    @property
    def sounds(self) -> list[Clip]:
        """All that is heard."""
        return [*self.open, *self.clips.values()]


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
    again : bool
        Whether the listener has rated this sample on an earlier page.
    """

    index: int
    sample: Sample
    order: tuple[str, ...]
    again: bool = False

    @property
    def kind(self) -> str:
        """The sample's; "repeat" where it comes again."""
        return "repeat" if self.again else self.sample.kind


def position(index: int) -> str:
    """Name of a clip on its page: A, B, C, ..."""
    return chr(ord("A") + index)


@dataclass(frozen=True)
class Subject:
    """What a study knows of its run's task.

    Attributes
    ----------
    columns : dict of str to Column
        Of the items' facts, in order.
    group : str
        The column whose items are resampled together.
    units : (str, str)
        What one group is, and what several are.
    parts : dict of str to str
        Labels of the parts of its sounds.
    first : str
        The part that is heard first; "" for none.
    catch : (str, str, str) or None
        Of a catch trial: the scale, the part that belongs at its low end, and the part at its high end.
    """

    columns: dict[str, Column]
    group: str
    units: tuple[str, str]
    parts: dict[str, str]
    first: str
    catch: tuple[str, str, str] | None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Subject":
        """As a plan has it."""
        columns = {name: Column(**one) for name, one in facts["columns"].items()}
        one, several = facts["units"]
        catch = facts["catch"] and tuple(facts["catch"])
        return cls(columns, facts["group"], (one, several), dict(facts["parts"]), facts["first"], catch)

    @property
    def classes(self) -> list[str]:
        """Columns that hold classes: those of an export, and what samples are balanced by."""
        return [name for name, column in self.columns.items() if column.kind == "class"]


@dataclass(frozen=True)
class Study:
    """A study with its plan.

    Attributes
    ----------
    folder : Path
        `RUN_DIR/listening`.
    settings : Settings
    subject : Subject
    arms : dict of str to str
        Labels by arm, in the order of the tables.
    hidden : dict of str to str
        Labels of the conditions beside them that are rated, too, `HIDDEN_REFERENCE` and `ANCHOR`. They are no arms of
        the run and never stand in its tables.
    presentation : str
    samples : tuple of Sample
        Of every kind.
    checks : tuple of (Clip, int)
        The headphone check: sounds, and which of the three tones is the quietest (1 to 3).
    volume : Clip
        To set the volume by.
    seconds : float
        Length of the longest clip.
    """

    folder: Path
    settings: Settings
    subject: Subject
    arms: dict[str, str]
    hidden: dict[str, str]
    presentation: str
    samples: tuple[Sample, ...]
    checks: tuple[tuple[Clip, int], ...]
    volume: Clip
    seconds: float
    run: Any = field(default=None, compare=False)
    """The run, a `runs.folder.Run`, for who asks about its scores; a study is served without it"""

    @property
    def run_dir(self) -> Path:
        """The run it is of."""
        return self.folder.parent

    @property
    def conditions(self) -> dict[str, str]:
        """Labels of all that is rated: the arms, then what is hidden among them."""
        return self.arms | self.hidden

    @property
    def scales(self) -> dict[str, Scale]:
        """What is asked, by name."""
        return self.settings.scales

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

    @cached_property
    def scale_facts(self) -> dict[str, Facts]:
        """What the scales are, for tables: `heading` (or the name), the ends, and which of them is better."""
        found = {}
        for name, one in self.scales.items():
            known = FACTS.get(name, Facts(name))
            better = {"high": True, "low": False}.get(one.better, known.higher_is_better)
            found[name] = Facts(one.heading or known.label, self.settings.range.unit, better, one.label)
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
        return self.minutes_of(len(self.pages(0)) * (len(self.conditions) + bool(self.subject.first)))

    def minutes_of(self, clips: int) -> int:
        """About how long so many clips take to be heard and rated, with what comes before them."""
        return max(1, math.ceil((clips * (self.seconds + 4) + 60) / 60))

    def consent(self, minutes: int) -> str:
        """What listeners agree to, with how long it takes."""
        return self.settings.consent.replace("{minutes}", str(minutes)).strip()

    def pages(self, listener: int) -> list[Page]:
        """What the listener with this number (from 0) hears, in order: practice, then samples with catch trials.

        Over each K listeners (2 K where the number of conditions K is odd) every condition of a sample stands at each
        place, and after each other one, equally often (Williams, 1949, Experimental designs balanced for the estimation
        of residual effects of treatments); so it does over a listener's samples.
        """
        square = williams(len(self.conditions))
        regular = self.of_kind("sample")
        draw = np.random.default_rng(stable_seed(self.settings.seed, "listener", str(listener)))
        most = self.settings.samples_per_listener
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
        pages, seen = list[Page](), set[str]()
        for index, (sample, places) in enumerate([*practice, *self._repeated(listener, played)]):
            conditions = list(sample.clips)
            order_shown = tuple(conditions[place] for place in places)
            pages.append(Page(index, sample, order_shown, again=sample.name in seen))
            seen.add(sample.name)
        return pages

    def _repeated(
        self, listener: int, played: list[tuple[Sample, tuple[int, ...]]]
    ) -> list[tuple[Sample, tuple[int, ...]]]:
        """Pages with some of their samples once more, later, with another page between if that can be drawn."""
        regular = [sample for sample, _ in played if sample.kind == "sample"]
        count = min(self.settings.repeats, len(regular))
        draw = np.random.default_rng(stable_seed(self.settings.seed, "repeats", str(listener)))
        for _ in range(_DRAWS if count else 0):
            out = list(played)
            for chosen in draw.permutation(len(regular))[:count]:
                sample = regular[chosen]
                first = next(place for place, (one, _) in enumerate(out) if one.name == sample.name)
                places = tuple(draw.permutation(len(sample.clips)))
                out.insert(int(draw.integers(min(first + 2, len(out)), len(out) + 1)), (sample, places))
            if all(one.name != other.name for (one, _), (other, _) in pairwise(out)):
                break
        return out if count else played


def williams(count: int) -> list[tuple[int, ...]]:
    """A Williams design: rows of a Latin square (two squares for an odd count) balanced for what follows what."""
    first = [0]
    for step in range(1, count):
        first.append((step + 1) // 2 if step % 2 else count - step // 2)
    rows = [tuple((place + shift) % count for place in first) for shift in range(count)]
    return rows + [tuple(reversed(row)) for row in rows] if count % 2 else rows


def _clip(facts: Mapping[str, Any] | None) -> Clip | None:
    return None if facts is None else Clip(**facts)


def read(run_dir: Path) -> Study | None:
    """The study of a run, None if there is none; raises BlendbenchError if it is damaged."""
    folder = run_dir / "listening"
    if not (folder / PLAN).exists():
        return None
    try:
        facts = brought_up(json.loads((folder / PLAN).read_text(encoding="utf-8")))
        if facts["version"] not in (1, VERSION):
            raise BlendbenchError(
                f"{folder / PLAN}: version {facts['version']} of another blendbench; plan a new study"
            )
        samples = [
            Sample(**one | {"first": _clip(one["first"]), "reference": _clip(one["reference"]),
                            "clips": {name: Clip(**clip) for name, clip in one["clips"].items()}})
            for one in facts["samples"]
        ]  # fmt: skip
        checks = tuple((Clip(**clip), int(answer)) for clip, answer in facts["checks"])
        made = Study(
            folder, study_settings.read({}, folder / SETTINGS), Subject.of(facts["subject"]), facts["arms"],
            facts["hidden"], facts["presentation"], tuple(samples), checks, Clip(**facts["volume"]), facts["seconds"],
        )  # fmt: skip
        if not made.of_kind("sample") or any(len(sample.clips) != len(made.conditions) for sample in samples):
            raise ValueError("samples without all their clips")
        return made
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlendbenchError(f"{folder / PLAN}: damaged ({one_line(str(error))}); put it back from a copy") from None
