"""A finished run of another task than blending: pieces of which a second is filled in, in stereo, rated as MUSHRA does.

It has what a study asks of a `runs.folder.Run`, and nothing else.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from blendbench.facts import Facts
from blendbench.listening import planning, settings
from blendbench.listening.study import Study
from blendbench.tasks import Column
from blendbench.tasks import Study as Wanted

RATE = 22_050
ARMS = {"lpc": "LPC", "sim": "Sim", "dps": "DPS"}
MUSHRA = {
    "title": "Filled gaps",
    "range": [0, 100],
    "scales": {
        "plausible": {"label": "Plausibility", "text": "How plausible is it?", "low": "bad", "high": "excellent",
                      "heading": "PLA", "better": "high"},
    },
    "hidden_reference": "recording",
    "anchor": {"part": "recording", "lowpass_hz": 3500},
    "open_reference": "recording",
}  # fmt: skip


class Pieces:
    """The task: a piece has a composer, and one part, the recording, which all arms share."""

    name, sample_rate, channels = "pieces", RATE, 2
    columns = {"piece": Column("id", "Piece"), "composer": Column("class", "Composer")}
    group, units, items_called, whole_called = "piece", ("piece", "pieces"), "pieces", "excerpt"
    shared, own = {"recording": "Recording"}, dict[str, str]()

    def turned(self, row: dict[str, Any]) -> float | None:
        return None

    def study(self) -> Wanted:
        return Wanted(MUSHRA)


class PiecesRun:
    """The run: `count` pieces under every arm, of `seconds`."""

    def __init__(self, dir: Path, count: int = 6, seconds: float = 0.6) -> None:
        self.dir, self.count, self.seconds = dir, count, seconds
        self.task, self.arms, self.with_music = Pieces(), dict(ARMS), list(ARMS)
        self.presentations = {"pasted": "Pasted"}
        self.experiment = SimpleNamespace(title="Gaps", paper_figures=lambda: pd.DataFrame(), paper_dataset=None)
        dir.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"dataset": "maestro", "arm": arm, "presentation": "pasted", "pair_id": f"piece-{number}", "status": "ok",
             "piece": f"piece {number}", "composer": ("Chopin", "Haydn")[number % 2]}
            for number in range(self.count)
            for arm in self.arms
        ]  # fmt: skip

    def _wave(self, row: dict[str, Any], level: float) -> torch.Tensor:
        """A noise in two channels, and a beat on one of them that differs by arm."""
        draw = np.random.default_rng(int(row["pair_id"].rpartition("-")[2]))
        wave = 0.05 * draw.standard_normal((2, round(self.seconds * RATE)))
        wave[0] += level * np.sin(np.arange(wave.shape[1]) / 10)
        return torch.from_numpy(wave.astype(np.float32))

    def heard(self, row: dict[str, Any]) -> torch.Tensor:
        return self._wave(row, 0.02 * (1 + list(self.arms).index(row["arm"])))

    def parts(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"recording": self._wave(row, 0.0)}

    def fact(self, name: str) -> Facts:
        return Facts(name.upper(), "dB", name != "lsd")


def plan(run: PiecesRun, *words: str) -> tuple[Study, list[str]]:
    """Plan a study of the run, with the task's own settings."""
    return planning.plan(run, settings.read(MUSHRA, None, ["headphone_check.trials=0", *words]))  # type: ignore[arg-type]
