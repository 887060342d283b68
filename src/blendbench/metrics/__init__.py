"""Metrics of what is heard: of an item (`ItemMetric`), or of a set against a reference (`SetMetric`).

A metric is a class that `_target_` names in `conf/metric`; `experiment.metrics` names those in the table. Facts stand
in one place, the class's `facts`, and tables, pages, bold type and listeners' correlations read them there. The
mathematics lies in modules of its own, which know nothing of runs: `frechet`, `divergence`, `clap_score`,
`masking_model`, with `bootstrap` and `comparison` for all.

No function returns a number where its input allows none: it raises `BlendbenchError`, or gives nan where a value is
undefined for one sound alone.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from blendbench.facts import Facts
from blendbench.store.signature import file_hash

if TYPE_CHECKING:
    import torch

    from blendbench.evaluators import Evaluator, Scores


class Sound(Protocol):
    """A row's sound, as a metric meets it; all but `row` is read when asked for.

    Attributes
    ----------
    row : mapping of str to Any
        The row of `pairs.jsonl`.
    key : str
        What identifies the sound: equal for equal bytes at equal levels.
    """

    row: Mapping[str, Any]
    key: str

    def waveform(self) -> torch.Tensor:
        """What is heard, at the task's sample rate and its true level."""
        ...

    def parts(self) -> dict[str, torch.Tensor]:
        """Its parts by the task's names, apart, at their levels in it; raises ClipError where they cannot be read."""
        ...

    def given(self) -> Any:
        """What the method was given of its item; raises ClipError where that cannot be read."""
        ...

    def scores(self, evaluator: Evaluator) -> Scores:
        """What an evaluator says of it."""
        ...

    def partner(self, evaluator: Evaluator, by: str, step: str) -> Scores:
        """What an evaluator says of one clip of the reference, the same for every arm and presentation.

        Parameters
        ----------
        evaluator : Evaluator
        by : str
            A column of the row, such as "genre": drawn from clips of the same; "" from all, as where there are none.
        step : str
            Name that the draw is made with.
        """
        ...


class Measured(Protocol):
    """All sounds of a run that are measured together, for a recipe."""

    def reference_has(self, by: str) -> bool:
        """Whether any row finds a clip of the same class in the reference."""
        ...


def called(value: str, judge: str) -> str:
    """The name of a metric's value, `fad` or `fad@100`, by a further judge; its own if that is empty."""
    base, at, size = value.partition("@")
    return f"{base}_{judge}{at}{size}" if judge else value


class Metric(ABC):
    """What all metrics have.

    Attributes
    ----------
    facts : dict of str to Facts
        By the names of its values; several where one pass gives several.
    name : str
        Its entry in the configuration, set by the run.
    judge : str
        Empty, or the further judge (`judges.NAME`) that is asked in the first one's place; set by the run.
    evaluator : Evaluator or None
        Whose scores it reads; the YAML names an entry of the group `evaluator`, and the run hands it over built.
    entry : mapping of str to Any
        What its entry in the configuration holds, set by the run.
    """

    facts: ClassVar[dict[str, Facts]]
    name: str = ""
    judge: str = ""
    evaluator: Evaluator | None = None
    entry: Mapping[str, Any] = {}

    def signature(self) -> dict[str, Any]:
        """What changes its values: the class and, where there is one, the evaluator; a metric adds its settings."""
        own = {"metric": f"{type(self).__module__}.{type(self).__qualname__}"}
        return own | ({} if self.evaluator is None else {"evaluator": self.evaluator.signature()})

    def called(self, value: str) -> str:
        """What one of its values is called in a run's files: `fad@100` asked of musicnn is `fad_musicnn@100`."""
        return called(value, self.judge)

    def kept_under(self) -> dict[str, Any]:
        """`signature()`, and for a metric of one's own its whole entry and its module's text, which may be edited."""
        module = sys.modules[type(self).__module__]
        if module.__name__.partition(".")[0] == "blendbench":
            return self.signature()
        file = getattr(module, "__file__", None)
        return self.signature() | {"entry": self.entry, "module": file_hash(Path(file)) if file else ""}


class ItemMetric(Metric):
    """A metric with a value a sound; an arm's is the mean.

    Attributes
    ----------
    keep : bool
        Whether values are kept by content in the store; not worth while for what costs less than reading them.
    place, stage, version : str, str, int
        Where they are kept, and what their signature is made with.
    """

    keep: ClassVar[bool] = True
    place: ClassVar[str] = "metrics"
    stage: ClassVar[str] = "metric"
    version: ClassVar[int] = 1

    @abstractmethod
    def measure(self, sound: Sound) -> dict[str, float]:
        """Values by name, nan where one is undefined; raises ClipError where the sound cannot be measured."""

    def measure_all(self, sounds: Sequence[Sound]) -> Iterator[dict[str, float]]:
        """`measure` of many, for what is faster together; only asked where nothing is kept."""
        return map(self.measure, sounds)

    def key(self, sound: Sound) -> str:
        """What values are kept under: the sound and its item's content."""
        return f"{sound.key}:{sound.row['inputs']}"

    def recipe(self, name: str, measured: Measured) -> str:
        """How a value came about, in words, after the evaluator's; unit and source unless a metric knows more."""
        return ", ".join(text for text in (self.facts[name].unit, self.facts[name].source) if text)


class Value(NamedTuple):
    """A further value of a set, beside the metric's own."""

    name: str
    value: float
    n: int
    recipe: str


class SetMetric(Metric):
    """A metric of a set of sounds against the reference set, such as a distance of distributions.

    Its statistic is one of indices, so that the run can resample it for intervals and tests.

    Attributes
    ----------
    least : int
        Fewest sounds that have a value.
    interval : {"centred", "percentile"}
        How resampled values become an interval: centred where a resample, having repetitions, is off by a bias.
    """

    least: ClassVar[int] = 2
    interval: ClassVar[Literal["centred", "percentile"]] = "centred"

    @abstractmethod
    def of(self, scores: Scores) -> torch.Tensor:
        """What it takes of one sound's scores; raises BlendbenchError where its evaluator does not say that."""

    @abstractmethod
    def reference(self, clips: Iterator[torch.Tensor]) -> Any:
        """What the statistic needs of the reference set."""

    def gather(self, own: Sequence[torch.Tensor]) -> Any:
        """A set's sounds, read when asked for, in the form that the statistic takes."""
        return own

    @abstractmethod
    def statistic(self, own: Any, reference: Any) -> Callable[[torch.Tensor], float]:
        """From indices [n] into the set's sounds to the value."""

    def further(self, own: Any, reference: Any, seed: int) -> list[Value]:
        """Further values of the whole set."""
        return []

    @property
    def recipe(self) -> str:
        """How a value came about, in words."""
        return self.facts[self.name].label
