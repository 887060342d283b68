"""A run's folder, and all that its settings name: who reads a run, finished or not, has one object for it.

This module, and `runs.plan`, are where settings end: what is below is built from its own entry and given its values.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile
import torch

from blendbench import config
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator
from blendbench.facts import Facts
from blendbench.metrics import Metric, called
from blendbench.runs import KEY, ROWS
from blendbench.runs.device import pick_device
from blendbench.runs.experiment import Experiment, Statistics
from blendbench.runs.listened import Listened
from blendbench.sound import audio
from blendbench.store.ledger import Ledger, Rows
from blendbench.store.signature import canonical
from blendbench.tasks import Presentation, Task

COLUMNS = [
    "experiment", "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "n", "n_failed",
    "paper_value", "recipe",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "experiment", "dataset", "presentation", "metric", "arm", "other", "difference", "ci_low", "ci_high", "p", "p_holm",
    "n", "test",
]  # fmt: skip
_NUMBERS = ("value", "ci_low", "ci_high", "n", "n_failed", "paper_value")


class Run:
    """A run: its folder, its settings, and what they name, built when first asked for.

    Parameters
    ----------
    dir : Path
        The run's folder.
    settings : dict
        Checked and resolved.

    Attributes
    ----------
    given : Config
        The keys of every run, as an object.
    seed : int
    store : Path
        What runs share.
    allowed : list of str
        Modules besides blendbench that `_target_` may name.
    datasets : list of str
    """

    def __init__(self, dir: Path, settings: dict[str, Any]) -> None:
        self.dir, self.settings, self.given = dir, settings, config.typed(settings)
        self.seed, self.store = self.given.seed, Path(self.given.store_dir)
        self.allowed, self.datasets = self.given.allow_targets, list(self.given.dataset)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Run":
        """The run of a checked configuration, in its own folder or the default one."""
        return cls(config.run_dir_of(settings), settings)

    @classmethod
    def open(cls, dir: Path, **own: Any) -> "Run":
        """A finished or stopped run, with `own` settings in place of those that it was begun with.

        Modules that its configuration wants to call are not allowed but by `allow_targets`.
        """
        return cls(dir, read_settings(dir) | {"allow_targets": []} | own)

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment; raises BlendbenchError if an entry is unknown."""
        try:
            experiment = Experiment(**self.given.experiment)
        except TypeError as error:
            raise BlendbenchError(f"experiment: {error}; mend that entry") from None
        if not self.given.judges:
            return experiment
        several = [name for value in experiment.metrics for name in (value, *self.by_judge(value).values())]
        return replace(experiment, metrics=list(dict.fromkeys(several)))

    @cached_property
    def statistics(self) -> Statistics:
        """How intervals are made."""
        return Statistics(**vars(self.given.statistics), seed=self.seed)

    @property
    def digest(self) -> str:
        """Hash of its settings, places and speed left out."""
        return config.digest(self.settings)

    @property
    def device(self) -> str:
        """Torch device; raises BlendbenchError if it is not here."""
        return pick_device(self.given.device)

    @cached_property
    def sources(self) -> Sources:
        """The run's data."""
        return Sources.of(self.settings)

    @cached_property
    def task(self) -> Task:
        """The task; raises BlendbenchError if its entry is wrong."""
        return self.build_task(self.store)

    def build_task(self, store: Path | None) -> Task:
        """The task with another store, or none; raises BlendbenchError if its entry is wrong."""
        entry = self.given.task or {}
        task: Task = config.build(entry, "task", self.allowed, sources=self.sources, store=store)
        return task

    @cached_property
    def methods(self) -> dict[str, Any]:
        """Methods by arm, those left out by null not among them."""
        entries = self.given.arms
        return {name: config.build(one, f"arms.{name}", self.allowed) for name, one in entries.items() if one}

    @cached_property
    def shown(self) -> dict[str, Presentation]:
        """Presentations by name."""
        found: dict[str, Presentation] = {}
        for name, entry in self.given.presentations.items():
            if "_target_" in entry:
                found[name] = config.build(entry, f"presentations.{name}", self.allowed)
            else:
                found[name] = self.task.presentation(name, entry)
        return found

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by name, a further judge's with its name after it; a definition that stands twice is built once.

        Raises
        ------
        BlendbenchError
            If an entry is wrong.
        """
        built: dict[str, Evaluator] = {}
        chosen: dict[str, Evaluator] = {}
        for judge, entries in self.judges.items():
            where = f"judges.{judge}" if judge else "evaluator"
            for name, entry in entries.items():
                if entry is not None:
                    key = canonical(entry)
                    if key not in built:
                        built[key] = config.build(entry, f"{where}.{name}", self.allowed)
                    chosen[called(name, judge)] = built[key]
        return chosen

    @property
    def judges(self) -> dict[str, dict[str, Any]]:
        """The evaluators' entries: the first judge's under the empty name, then those of further ones by theirs."""
        return {"": self.given.evaluator or {}, **self.given.judges}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that are measured: those that the experiment names, and those whose evaluator is there anyway.

        Raises
        ------
        BlendbenchError
            If an entry is wrong, or its evaluator does not say what the metric asks.
        """
        named, found = set(self.experiment.metrics), {}
        for name, entry in self.given.metric.items():
            own, asked = dict(entry), entry.get("evaluator")
            for judge in self.judges if asked else ("",):
                if "evaluator" in own:
                    if called(str(asked), judge) not in self.evaluators:
                        continue
                    own["evaluator"] = self.evaluators[called(str(asked), judge)]
                metric: Metric = config.build(own, f"metric.{name}", self.allowed)
                metric.name, metric.judge, metric.entry = name, judge, entry
                if asked is not None or named & set(metric.facts):
                    found[metric.called(name)] = metric
        return found

    @property
    def asked(self) -> list[Evaluator]:
        """The evaluators that the metrics ask, each once."""
        asked = (metric.evaluator for metric in self.metrics.values())
        return list({id(one): one for one in asked if one is not None}.values())

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """Facts by name of all metrics of the configuration."""
        found: dict[str, Facts] = {}
        for value, (entry, fact) in self._values.items():
            judges = self._asked_of(entry)
            found[value] = fact
            for judge in judges if len(judges) > 1 else ():
                # Which judge is meant has to be said of the first, too.
                found[called(value, judge)] = replace(fact, label=f"{fact.label} ({self._judge(entry, judge)})")
        return found

    @cached_property
    def _values(self) -> dict[str, tuple[dict[str, Any], Facts]]:
        """The values that the configuration's metrics give, by their own names, with entry and facts."""
        found: dict[str, tuple[dict[str, Any], Facts]] = {}
        for name, entry in self.given.metric.items():
            facts = config.named(entry.get("_target_"), f"metric.{name}", self.allowed).facts
            found |= {value: (entry, fact) for value, fact in facts.items()}
        return found

    def _asked_of(self, entry: dict[str, Any]) -> list[str]:
        """The judges that a metric's entry asks: those that have its evaluator."""
        return [judge for judge, entries in self.judges.items() if entries.get(str(entry.get("evaluator"))) is not None]

    def _judge(self, entry: dict[str, Any], judge: str) -> str:
        """How the judge that a metric's entry asks is called in tables: by its evaluator's name."""
        return str(self.judges[judge][entry["evaluator"]].get("name") or judge)

    def by_judge(self, value: str) -> dict[str, str]:
        """What a metric's value is called, by the names of the judges that it is asked of, the first one's first."""
        entry = self._values[value][0] if value in self._values else {}
        return {self._judge(entry, judge): called(value, judge) for judge in self._asked_of(entry)}

    def first_name(self, name: str) -> str:
        """The name of the same value by the first judge."""
        return next((value for value in self._values if name in self.by_judge(value).values()), name)

    @cached_property
    def scales(self) -> dict[str, Facts]:
        """Facts by name of the scales that listeners have rated; none where the run has no analysis."""
        return Listened(self.dir).facts

    def plain_label(self, name: str) -> str:
        """How a value is called whoever judged."""
        first = self.first_name(name)
        return self._values[first][1].label if first in self._values else self.fact(name).label

    def fact(self, name: str) -> Facts:
        """Facts about a metric, `fad@N` as those of `fad`; one that is not known has its own name and no direction."""
        base = name.partition("@")[0]
        known = self.facts.get(base) or self.scales.get(base)
        if known is None:
            return Facts(name)
        return known if base == name else Facts(known.label + name[len(base) :], known.unit, known.higher_is_better)

    @cached_property
    def arms(self) -> dict[str, str]:
        """Labels by arm of the arms that the run has, in the table's order: by `experiment.rows`, then the others.

        An arm that is left out (`arms.NAME=null`) is not among them; one without a row is called by its own name, or,
        where the experiment has no rows at all, by its method's label.
        """
        rows, arms = self.experiment.rows, self.given.arms
        if rows is None:
            rows = {arm: entry.get("label") for arm, entry in arms.items() if entry}
        return told_apart({arm: str(rows.get(arm) or arm) for arm in [*rows, *arms] if arms.get(arm) is not None})

    @property
    def with_music(self) -> list[str]:
        """Arms that make music, in the table's order; a method says `silent` where it makes none."""
        found = []
        for arm in self.arms:
            with suppress(BlendbenchError):  # a module of the user's that this command was not allowed
                method = config.named(self.given.arms[arm].get("_target_"), f"arms.{arm}", self.allowed)
                if getattr(method, "silent", False):
                    continue
            found.append(arm)
        return found

    @cached_property
    def presentations(self) -> dict[str, str]:
        """Labels by presentation, in the run's order."""
        entries = self.given.presentations.items()
        return told_apart({name: str(entry.get("label") or name) for name, entry in entries})

    @property
    def comparable(self) -> bool:
        """Whether numbers may stand beside published ones: no built-in model or data, and the paper's evaluators."""
        chosen = [entry for entry in (self.given.evaluator or {}).values() if entry is not None]
        built_in = (self.given.generator or {}).get("checkpoint") == "pocket" or "builtin" in self.datasets
        return not built_in and all(entry.get("comparable", False) for entry in chosen)

    def ledger(self) -> Ledger:
        """The run's rows, as they are appended."""
        return Ledger(self.dir / ROWS, KEY)

    def rows(self) -> Rows:
        """Rows, each once, in the order of their keys; raises BlendbenchError if there are none."""
        file = self.dir / ROWS
        if not file.is_file():
            raise BlendbenchError(f"{self.dir}: no {ROWS} here; give the folder that `blendbench run` printed")
        return Rows(self.ledger())

    def results(self) -> pd.DataFrame:
        """`results.csv`; names stay text, be they "null" or "1".

        Raises
        ------
        BlendbenchError
            If there is none, or it cannot be read.
        """
        file = self.dir / "results.csv"
        try:
            return pd.read_csv(
                file, dtype={name: str for name in COLUMNS if name not in _NUMBERS}, keep_default_na=False,
                na_values={name: [""] for name in _NUMBERS},
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise BlendbenchError(f"{file}: cannot be read ({error}); run `blendbench table {self.dir}`") from None

    def texts(self, name: str) -> pd.DataFrame:
        """Another table of the run, all text; empty where a run, being older, has none.

        Raises
        ------
        BlendbenchError
            If it cannot be read.
        """
        file = self.dir / name
        if not file.exists():
            return pd.DataFrame()
        try:
            return pd.read_csv(file, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise BlendbenchError(f"{file}: cannot be read ({error}); run `blendbench table {self.dir}`") from None

    def heard(self, row: Mapping[str, Any]) -> torch.Tensor:
        """What is heard of a row, at its true level: the attenuation that kept the file from clipping is undone."""
        return load_sound(self.dir / row["mix"]) * audio.from_db(row["attenuation_db"])

    def parts(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Parts of what is heard of a row, apart, at their levels in it.

        Raises
        ------
        BlendbenchError
            If the item's files, or the row's, cannot be read.
        """
        return self.task.parts(self.task.given(row), self.heard(row), row)


def told_apart(found: Mapping[str, str]) -> dict[str, str]:
    """Labels by name; those that several share with the name after them."""
    times = Counter(found.values())
    return {name: label if times[label] == 1 else f"{label} ({name})" for name, label in found.items()}


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings of a finished or stopped run; raises BlendbenchError if there are none."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = run_dir / "config.yaml"
    try:
        loaded = OmegaConf.load(file)
    except OSError:
        raise BlendbenchError(
            f"{run_dir}: no config.yaml here; give the folder that `blendbench run` printed"
        ) from None
    except (OmegaConfBaseException, YAMLError) as error:
        raise BlendbenchError(f"{file}: not a run's settings ({str(error).splitlines()[0]}); run again") from None
    if not isinstance(loaded, DictConfig):
        raise BlendbenchError(f"{file}: not a run's settings; run the same command again")
    return config.check(config.brought_up(loaded))


def load_sound(path: Path) -> torch.Tensor:
    """A file that this package wrote: [samples], or [channels, samples] where it has several; silence allowed."""
    try:
        values = soundfile.read(path, dtype="float32")[0]
    except (soundfile.SoundFileError, OSError) as error:
        raise BlendbenchError(f"{path}: cannot be read again ({error}); delete it and run once more") from None
    return torch.from_numpy(values.T.copy() if values.ndim == 2 else values)
