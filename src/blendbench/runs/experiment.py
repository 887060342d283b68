"""What an experiment says: its table's layout, labels, figures and the paper's numbers; and how intervals are made."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder

AXES = ("arm", "presentation", "dataset", "metric", "pair_id")


@dataclass(frozen=True)
class Layout:
    """How the table of an experiment is laid out: what its rows are, and what its columns are, outermost first.

    Axes are arm, presentation, dataset, metric and pair_id (every item by itself, without an interval). Of one that is
    left out a run may have but one value; with pair_id that is the data set, which the item's name tells.
    """

    rows: str = "arm"
    columns: tuple[str, ...] = ("presentation", "dataset", "metric")
    takes: bool = False
    """Whether it says what each arm's method takes of the task's offer; rows must be arms."""

    def __post_init__(self) -> None:
        axes = [self.rows, *self.columns]
        unknown = [axis for axis in axes if axis not in AXES]
        if unknown or len(set(axes)) < len(axes) or not self.columns or "pair_id" in self.columns:
            raise BlendbenchError(
                f"experiment.table: rows={self.rows}, columns={list(self.columns)}; give each once, of "
                f"{', '.join(AXES)}, the last as rows alone"
            )
        if self.takes and self.rows != "arm":
            raise BlendbenchError("experiment.table.takes: only methods take something; set rows=arm, or leave it out")

    def alone(self, names: Mapping[str, Collection[str]]) -> dict[str, str]:
        """The one value of every axis that is left out; raises BlendbenchError where an axis has several."""
        axes, found = [self.rows, *self.columns], {}
        for axis, values in names.items():
            if axis in axes or (axis == "dataset" and "pair_id" in axes):
                continue
            if len(values) != 1:
                raise BlendbenchError(
                    f"experiment.table: leaves {axis} out, of which the run has {', '.join(values) or 'none'}; name it"
                )
            found[axis] = next(iter(values))
        return found


@dataclass(frozen=True)
class Experiment:
    """The key `experiment`.

    Parameters
    ----------
    name, title : str
    metrics : list of str
        In the table, in order.
    rows : dict of str to str
        Labels by arm, in the table's order; an arm without one is called by its own label, or name.
    paper_csv : str or None
        The paper's figures, a file below `experiments/`.
    paper_dataset : dict of str to str
        By our data set the paper's that stands beside it.
    figures : list of dict
    sweep : dict or None
        Values by swept key.
    table : dict
        Fields of `Layout`.
    """

    name: str
    title: str
    metrics: list[str]
    rows: Mapping[str, Any] | None = None
    paper_csv: str | None = None
    paper_dataset: Mapping[str, str] | None = None
    figures: list[dict[str, Any] | None] | None = None
    sweep: Mapping[str, Any] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """How its table is laid out; raises BlendbenchError where that cannot be."""
        try:
            entries = {name: tuple(value) if isinstance(value, list) else value for name, value in self.table.items()}
            return Layout(**entries)  # type: ignore[arg-type]
        except TypeError as error:
            raise BlendbenchError(f"experiment.table: {error}; use rows and columns") from None

    def paper_figures(self) -> pd.DataFrame:
        """The paper's figures: columns dataset, arm, presentation, metric, value; empty if it has none."""
        if not self.paper_csv:
            return pd.DataFrame(columns=["dataset", "arm", "presentation", "metric", "value"])
        return pd.read_csv(package_folder("blendbench.conf") / "experiment" / self.paper_csv)


@dataclass(frozen=True)
class Statistics:
    """The key `statistics`, and the seed that goes with it."""

    resamples: int
    confidence: float
    over_n: list[int]
    fad_infinity: bool
    seed: int

    def interval(self, groups: str) -> str:
        """Words of a recipe: of what the interval is."""
        return f"{self.confidence:.0%} bootstrap over {groups}, {self.resamples} resamples"
