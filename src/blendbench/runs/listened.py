"""What listeners have rated, as `blendbench listen analyse` left it: means over all whom it kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.facts import Facts
from blendbench.runs import KEY

_CELL = ("dataset", "arm", "presentation")


FACTS = {
    "ovl": Facts("OVL", "1-5", True, "BNMusic, Appendix C"),
    "per": Facts("PER", "1-5", True, "BNMusic, Appendix C"),
}
"""Scales of analyses that do not say what theirs are, being older."""


def _facts(folder: Path, scale: str) -> Facts:
    file = folder / "scales.json"
    if not file.exists():
        return FACTS.get(scale, Facts(scale))
    return Facts(**json.loads(file.read_text(encoding="utf-8"))[scale])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


class Listened:
    """The scales of a run's listening study.

    Attributes
    ----------
    scales : list of str
        Empty where the run has no analysis.
    facts : dict of str to Facts
        By scale.

    Raises
    ------
    BlendbenchError
        If the analysis is damaged.
    """

    def __init__(self, run_dir: Path) -> None:
        folder = run_dir / "listening" / "analysis"
        self.scales: list[str] = []
        self.facts: dict[str, Facts] = {}
        if not (folder / "summary.csv").exists():
            return
        try:
            summary, pairs = (pd.read_csv(folder / f"{name}.csv", dtype=dict.fromkeys(KEY, str))
                              for name in ("summary", "pairs"))  # fmt: skip
            self.scales = list(summary["metric"].unique())
            self.facts = {name: _facts(folder, name) for name in self.scales}
            self._cells: dict[tuple[str, ...], dict[str, Any]] = {
                (row["metric"], *(row[key] for key in _CELL)): row for row in _records(summary)
            }
            self._means = {name: pairs.set_index(list(KEY))[name].to_dict() for name in self.scales}
        except (OSError, ValueError, KeyError, TypeError, pd.errors.ParserError) as error:
            raise BlendbenchError(
                f"{folder}: damaged ({error}); run `blendbench listen analyse {run_dir}` again"
            ) from None

    def cell(self, scale: str, key: tuple[str, str, str]) -> Mapping[str, Any] | None:
        """What the study says of a data set, arm and presentation; None where it has not heard it."""
        return self._cells.get((scale, *key))

    def mean(self, scale: str, row: Mapping[str, Any]) -> float:
        """Mean rating of a row's sound; nan where nobody has rated it."""
        return self._means[scale].get(tuple(row[key] for key in KEY), float("nan"))
