"""Folders of runs that nobody has made: the one place that knows the columns of a run's files.

A test gives the rows that it wants, and the figures of its tables; whatever it leaves out stands in as in a real run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from omegaconf import OmegaConf

from blendbench.runs import KEY
from blendbench.runs.folder import COLUMNS, COMPARISON_COLUMNS

RATE = 44_100
FACTS = ["status", "reason", "clip", "label", "genre", "noise_lufs", "music_lufs", "gain_db"]
"""Columns of `scores.csv` between the key and the metrics."""

Row = dict[str, Any]


def row(
    pair_id: str, arm: str, presentation: str = "direct", dataset: str = "esc50", reason: str = "", **facts: Any
) -> Row:
    """A row of `pairs.jsonl`; one with a reason is a failed one."""
    mix = (Path("mixes") / arm / presentation / f"{pair_id}.flac").as_posix()
    item = {"clip": f"clip-{pair_id}", "label": "wind", "genre": "Jazz", "prompt": "Slow jazz."}
    levels = {"noise_lufs": -18.0, "music_lufs": -20.0, "gain_db": 1.5, "attenuation_db": 0.0, "seed": 7}
    found: Row = {"pair_id": pair_id, "arm": arm, "dataset": dataset, "presentation": presentation, **item}
    found |= {"signature": "ab", "inputs": "cd-ef", "status": "failed" if reason else "ok", "reason": reason}
    found |= {} if reason else {**levels, "mix": mix, "sha256": "0" * 64, "bytes": 1}
    return found | facts


def scores(rows: Iterable[Row], **metrics: Sequence[Any]) -> pd.DataFrame:
    """`scores.csv`: a row a row, and a value a row of each metric."""
    lines = [[one.get(name) for name in (*KEY, *FACTS)] for one in rows]
    return pd.DataFrame(lines, columns=[*KEY, *FACTS]).assign(**{name: list(each) for name, each in metrics.items()})


def results(cells: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """`results.csv`, of what is given of each of its rows."""
    return _table(cells, COLUMNS, {"experiment": "bnmusic/table1", "dataset": "esc50", "presentation": "direct"})


def comparisons(pairs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """`comparisons.csv`, of what is given of each of its rows."""
    return _table(
        pairs, COMPARISON_COLUMNS, {"experiment": "bnmusic/table1", "dataset": "esc50", "presentation": "direct"}
    )


def _table(lines: Iterable[Mapping[str, Any]], columns: Sequence[str], known: Mapping[str, str]) -> pd.DataFrame:
    lines = [{**known, **line} for line in lines]
    assert all(set(line) <= set(columns) for line in lines)
    return pd.DataFrame(lines, columns=columns)


def write(
    run_dir: Path, rows: Iterable[Row] | None = None, settings: Mapping[str, Any] | None = None,
    sounds: bool = False, **tables: pd.DataFrame,
) -> Path:  # fmt: skip
    """Write a run's folder, or what is to be other in one that is there.

    Parameters
    ----------
    run_dir : Path
    rows : iterable of dict, optional
        For `pairs.jsonl`.
    settings : dict, optional
        For `config.yaml`.
    sounds : bool
        Whether every row whose status is ok gets a mix, a tenth of a second of a noise of its own.
    **tables : DataFrame
        By the names of their files: `scores`, `results`, `comparisons`, `table`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = None if rows is None else list(rows)
    if rows is not None:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (run_dir / "pairs.jsonl").write_text(text, encoding="utf-8")
    for number, one in enumerate(rows or [] if sounds else []):
        if one["status"] == "ok":
            (run_dir / one["mix"]).parent.mkdir(parents=True, exist_ok=True)
            wave = 0.1 * np.random.default_rng(number).standard_normal(RATE // 10)
            soundfile.write(run_dir / one["mix"], wave, RATE, subtype="PCM_24")
    if settings is not None:
        text = OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
        (run_dir / "config.yaml").write_text(text, encoding="utf-8")
    for name, frame in tables.items():
        frame.to_csv(run_dir / f"{name}.csv", index=False, float_format="%.6g")
    return run_dir
