"""One run: its folder, its plan, its arms, its work, its results.

A run's folder holds `config.yaml` (the settings), `plan.json` (what belongs to it), `pairs.jsonl` (a row an item, arm
and presentation), `mixes/ARM/PRESENTATION/*.flac`, `results.csv`, `scores.csv`, `comparisons.csv`, `table.*`,
`figures/`, `images/`, `report/`, `workers/` and `finished.json`: the same names for every task.
"""

ROWS = "pairs.jsonl"
KEY = ("dataset", "arm", "presentation", "pair_id")
"""Columns that identify a row of a run."""
