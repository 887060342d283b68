"""Sweeps: one run a combination of values, then one table and one plot over the swept keys.

A sweep is asked for by an experiment (`experiment.sweep: {key: [values]}`) or by Hydra's `-m key=a,b`. Its jobs share
the store, so a stage that a key does not touch is done once. The sweep's folder holds a folder a job, `sweep.csv` (the
jobs' results, tidy, with a column a swept key), `table.md`, `table.tex`, `table.csv` and `figures/sweep.png`. Where the
seed is swept, `repeats.csv` holds mean and standard deviation over it.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from blendbench import config, tables
from blendbench.errors import BlendbenchError
from blendbench.runner import file_name
from blendbench.store import write_text


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the swept keys with their values, as text, and where the run lies."""

    values: dict[str, str]
    run_dir: Path


def combinations(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of all keys, the last key changing fastest.

    Raises
    ------
    BlendbenchError
        If a key has no list of values.
    """
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise BlendbenchError(f"experiment.sweep.{key}: {values!r}; give a list of values")
    return [dict(zip(sweep, chosen, strict=True)) for chosen in itertools.product(*sweep.values())]


def override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9_./+-]+", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        text = f"'{escaped}'"
    else:
        text = str(value)
    return f"{key}={text}"


def run(
    words: list[str],
    settings: dict[str, Any],
    compose: Callable[[list[str]], dict[str, Any]],
    job: Callable[[dict[str, Any]], bool],
) -> Path | None:
    """Run an experiment's own sweep.

    Parameters
    ----------
    words : list of str
        The command line's overrides.
    settings : dict
        What they compose to.
    compose : callable
        From overrides to checked settings.
    job : callable
        Runs checked settings; False where the run is left to others.

    Returns
    -------
    Path or None
        The sweep's folder; None where jobs were left, or only planned.

    Raises
    ------
    BlendbenchError
        If the sweep or a job's settings are wrong.
    """
    folder, jobs, done = config.run_dir_of(settings), [], []
    planned = []
    for values in combinations(settings["experiment"]["sweep"]):
        names = {key: _text(value) for key, value in values.items()}
        place = folder / file_name("_".join(f"{key}-{value}" for key, value in names.items()))
        swept = [override(key, value) for key, value in values.items()]
        quoted = override("run_dir", str(place))
        planned.append((compose([*words, *swept, quoted, "experiment.sweep=null", "report=false"]), Job(names, place)))
    for number, (own, one) in enumerate(planned, start=1):
        print(f"[{number} of {len(planned)}] " + ", ".join(f"{key}={value}" for key, value in one.values.items()))
        done.append(job(own))
        jobs.append(one)
    if not all(done):
        return None
    summarise(folder, jobs, settings)
    return folder


def swept_values(overrides: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Of each job's overrides, those whose values differ between jobs."""
    parsed = [dict(word.lstrip("+").split("=", 1) for word in words if "=" in word) for words in overrides]
    keys = dict.fromkeys(key for one in parsed for key in one)
    swept = [key for key in keys if len({one.get(key) for one in parsed}) > 1]
    return [{key: one.get(key, "") for key in swept} for one in parsed]


def summarise(folder: Path, jobs: Sequence[Job], settings: dict[str, Any]) -> pd.DataFrame:
    """Write the sweep's table and plot from its jobs' results; returns the tidy results with the swept keys.

    Raises
    ------
    BlendbenchError
        If no job has results.
    """
    frames = []
    for job in jobs:
        file = job.run_dir / "results.csv"
        if file.is_file():
            frame = pd.read_csv(file)
            for place, (key, value) in enumerate(job.values.items()):
                frame.insert(place, key, value)
            frames.append(frame)
    if not frames:
        raise BlendbenchError(f"{folder}: no job of the sweep has results; see the lines above")
    together = pd.concat(frames, ignore_index=True)
    keys = list(jobs[0].values)
    write_text(folder / "sweep.csv", together.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    table = layout(together, keys, settings)
    write_text(folder / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    title = f"{settings['experiment']['title']}: {', '.join(keys)}"
    missing = f" {len(jobs) - len(frames)} of {len(jobs)} jobs have no results." if len(frames) < len(jobs) else ""
    note = f"Value [{100 * settings['statistics']['confidence']:g} % interval].{missing}"
    write_text(folder / "table.md", f"# {title}\n\n{tables.to_markdown(table)}\n\n{note}\n")
    name = "tab:" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
    write_text(folder / "table.tex", tables.to_latex(table, f"{title}. {note}", name))
    if "seed" in keys:
        write_text(folder / "repeats.csv", repeats(together, keys).to_csv(index=False, lineterminator="\n"))
    from blendbench import figures  # slow to import

    figures.sweep(together, keys, settings, folder / "figures" / "sweep.png")
    return together


def layout(together: pd.DataFrame, keys: Sequence[str], settings: dict[str, Any]) -> pd.DataFrame:
    """A row a combination, a column a data set, arm, presentation and metric of the experiment."""
    experiment, lines = settings["experiment"], []
    several = together["dataset"].nunique() > 1
    for values, group in together.groupby(list(keys), sort=False):
        line = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        for row in group[group["metric"].isin(experiment["metrics"])].to_dict("records"):
            label = experiment["rows"].get(row["arm"], row["arm"])
            shown = settings["presentations"].get(row["presentation"], {}).get("label", row["presentation"])
            heading = f"{label}, {shown}" + (f", {row['dataset']}" if several else "")
            line[f"{heading}: {tables.metric(row['metric']).label}"] = tables.cell(
                {str(name): value for name, value in row.items()}
            )
        lines.append(line)
    return pd.DataFrame(lines).fillna("–")


def repeats(together: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of every value over the seeds, with their number."""
    others = [key for key in keys if key != "seed"]
    grouped = together.groupby([*others, "experiment", "dataset", "arm", "presentation", "metric"], sort=False)
    out = grouped["value"].agg(mean="mean", std="std", seeds="count").reset_index()
    return out


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
