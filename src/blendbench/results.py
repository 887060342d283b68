"""Results: metrics over a run's rows, as a tidy `results.csv`, and the paper's table in Markdown, LaTeX and CSV.

Every value carries its recipe (embedding and checkpoint, N, reference set, interval), and the paper's figure stands
beside it only as another model's number unless the evaluator is the paper's.
"""

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from blendbench import audio, config
from blendbench.datasets import MusicClip
from blendbench.datasets.builtin import package_folder
from blendbench.datasets.pairing import split_music, stable_seed
from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators import score_files
from blendbench.metrics import bootstrap, divergence, frechet
from blendbench.store import file_hash, signature, write_text

COLUMNS = [
    "experiment", "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "n", "n_failed",
    "paper_value", "recipe",
]  # fmt: skip


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of `pairs.jsonl`; raises BlendbenchError if the folder is no run's."""
    file = run_dir / "pairs.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BlendbenchError(
            f"{run_dir}: no sound pairs.jsonl here; give the folder that `blendbench run` printed"
        ) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise BlendbenchError(f"{file}, line {number}: not a row; run the same command again to mend it") from None
    return rows


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings of a finished or stopped run."""
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
    return config.check(loaded)


def paper_figures(experiment: dict[str, Any]) -> pd.DataFrame:
    """The paper's figures of an experiment: columns dataset, arm, presentation, metric, value; empty if it has none."""
    if not experiment.get("paper_csv"):
        return pd.DataFrame(columns=["dataset", "arm", "presentation", "metric", "value"])
    return pd.read_csv(package_folder("blendbench.conf") / "experiment" / experiment["paper_csv"])


def _reference(
    settings: dict[str, Any], evaluator: Any, store: Path
) -> tuple[list[MusicClip], torch.Tensor, torch.Tensor]:
    """Reference clips that can be read, with their embeddings and logits."""
    music = config.build(settings["music"], "music", settings["allow_targets"])
    clips, _ = split_music(music, settings["seed"])
    seconds = settings["noise"]["seconds"]
    sound, keys = [], []
    for clip in clips:
        try:
            keys.append(f"{file_hash(clip.path)}:{seconds}s")
            sound.append(clip)
        except OSError:
            print(f"blendbench: reference clip left out: {clip.path} cannot be read", file=sys.stderr)

    reading = 0

    def read(index: int) -> torch.Tensor:
        nonlocal reading
        reading = index
        wave = audio.read(sound[index].path, evaluator.sample_rate, max_seconds=seconds)
        return audio.extend_circular(wave, round(seconds * evaluator.sample_rate))

    # A clip that is no audio is found at its first reading; it is left out and the rest is scored.
    while True:
        try:
            embeddings, logits = score_files(evaluator, store, keys, read, "score reference")
            return sound, embeddings, logits
        except ClipError as error:
            print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
            del sound[reading], keys[reading]


def compute(run_dir: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """Score a run's mixes and reference and return the tidy results, one row a metric and cell.

    FAD is taken between all mixes of a cell and the reference set; KL between each mix and one reference clip, drawn by
    the pair's id from the clips of the prompt's genre (or from all). Intervals are bootstraps over noise clips.
    """
    from blendbench.runner import SAMPLE_RATE, read_mix

    rows = read_rows(run_dir)
    evaluator = config.build(settings["evaluator"], "evaluator", settings["allow_targets"])
    store = Path(settings["store_dir"]) / "scores" / signature("score", 1, evaluator.signature())
    clips, reference, reference_logits = _reference(settings, evaluator, store)
    by_genre: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        by_genre.setdefault(clip.genre, []).append(index)
    sound = [row for row in rows if row["status"] == "ok"]
    keys = [f"{row['sha256']}:{row['attenuation_db']}" for row in sound]
    embeddings, logits = (torch.empty(0, 1), torch.empty(0, 1))
    if sound:

        def heard(index: int) -> torch.Tensor:
            return audio.resample(read_mix(run_dir, sound[index]), SAMPLE_RATE, evaluator.sample_rate)

        embeddings, logits = score_files(evaluator, store, keys, heard, "score mixes")
    paper = paper_figures(settings["experiment"]).set_index(["dataset", "arm", "presentation", "metric"])["value"]
    kl, statistics = settings["kl"], settings["statistics"]
    pairing = kl["pairing"]
    if pairing == "genre" and not any(row["genre"] in by_genre for row in sound):
        pairing = "random (the reference has none of the prompts' genres)"
    common = f"evaluator={evaluator.name}@{evaluator.fingerprint}; sr={evaluator.sample_rate}"
    genres = "+".join(sorted({clip.genre or "?" for clip in clips}))
    common += f"; reference={len(clips)} clips of {genres}; seed={settings['seed']}"
    interval = f"{statistics['confidence']:.0%} bootstrap over noise clips, {statistics['resamples']} resamples"
    out = []
    cells = Counter((row["dataset"], row["arm"], row["presentation"]) for row in rows)
    for cell in cells:
        chosen = [i for i, row in enumerate(sound) if (row["dataset"], row["arm"], row["presentation"]) == cell]
        failed = cells[cell] - len(chosen)
        groups = [sound[i]["clip"] for i in chosen]

        def add(
            metric: str, value: float, low: float, high: float, recipe: str, n: int, cell=cell, failed=failed
        ) -> None:
            expected = paper.get((*cell, metric), math.nan)
            name = settings["experiment"]["name"]
            out.append([name, *cell, metric, value, low, high, n, failed, expected, f"{common}; {recipe}"])

        if len(chosen) >= 2:
            own = embeddings[chosen]
            statistic = frechet.frechet_of_indices(own, reference)
            low, high = bootstrap.bootstrap_interval(
                statistic,
                len(chosen),
                groups,
                statistics["resamples"],
                statistics["confidence"],
                settings["seed"],
                "centred",
            )
            add("fad", frechet.frechet_distance(own, reference), low, high, f"FAD; {interval}, centred", len(chosen))
            for size, value in zip(
                sizes := [n for n in statistics["over_n"] if 2 <= n <= len(chosen)],
                frechet.frechet_over_n(own, reference, sizes, settings["seed"]),
                strict=True,
            ):
                add(f"fad@{size}", value, math.nan, math.nan, f"mean FAD of 10 random subsets of {size}", size)
        if chosen:
            partners = [_partner(sound[i], clips, by_genre, kl["pairing"], settings["seed"]) for i in chosen]
            per_pair = divergence.softmax_kl(reference_logits[partners], logits[chosen], kl["direction"], kl["epsilon"])

            def resampled(indices: torch.Tensor, values: torch.Tensor = per_pair) -> float:
                return divergence.mean_kl(values[indices])

            low, high = bootstrap.bootstrap_interval(
                resampled, len(chosen), groups, statistics["resamples"], statistics["confidence"], settings["seed"],
            )  # fmt: skip
            recipe = f"softmax KL({kl['direction']}), natural log, epsilon={kl['epsilon']:g}, pairing={pairing}"
            add("kl", divergence.mean_kl(per_pair), low, high, f"{recipe}; {interval}", len(chosen))
        else:
            for metric in ("fad", "kl"):
                add(metric, math.nan, math.nan, math.nan, "no pair took part", 0)
    return pd.DataFrame(out, columns=COLUMNS)


def _partner(row: dict, clips: list[MusicClip], by_genre: dict[str, list[int]], pairing: str, seed: int) -> int:
    """Index of the reference clip that a pair is compared with; the same for every arm and presentation."""
    choices = by_genre.get(row["genre"], []) if pairing == "genre" else []
    choices = choices or list(range(len(clips)))
    return choices[stable_seed(seed, "kl", row["pair_id"]) % len(choices)]


def tabulate(run_dir: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """Compute the results and write `results.csv`, `table.csv`, `table.md` and `table.tex`."""
    results = compute(run_dir, settings)
    write_text(run_dir / "results.csv", results.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    table = layout(results, settings)
    write_text(run_dir / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    title, notes = settings["experiment"]["title"], table_notes(results, settings)
    write_text(run_dir / "table.md", f"# {title}\n\n{to_markdown(table)}\n" + "".join(f"\n{note}\n" for note in notes))
    latex = table.to_latex(index=False, escape=True, caption=_latex(f"{title}. " + " ".join(notes)))
    write_text(run_dir / "table.tex", latex)
    return results


def layout(results: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """The paper's table: a row an arm; by presentation, data set and metric ours [interval], and the paper's."""
    experiment = settings["experiment"]
    metrics = experiment["metrics"]
    paper = paper_figures(experiment)
    ours = {
        tuple(row[:4]): row
        for row in results[["dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high"]].itertuples(
            index=False
        )
    }
    lines = []
    for arm, label in experiment["rows"].items():
        line = {"Method": label}
        for presentation in settings["presentations"]:
            for dataset in settings["dataset"]:
                heading = settings["presentations"][presentation]["label"]
                heading += f", {dataset}" if len(settings["dataset"]) > 1 else ""
                for metric in metrics:
                    found = ours.get((dataset, arm, presentation, metric))
                    line[f"{heading}: {metric.upper()}"] = _cell(found) if found is not None else "not run"
                shown = experiment["paper_dataset"].get(dataset)
                if shown is not None:
                    values = [_paper_cell(paper, shown, arm, presentation, metric) for metric in metrics]
                    line[f"{heading}: paper's {'/'.join(metrics).upper()} ({shown})"] = " / ".join(values)
        lines.append(line)
    return pd.DataFrame(lines)


def _cell(row: Any) -> str:
    if math.isnan(row.value):
        return "failed"
    text = f"{row.value:.3g}"
    return text if math.isnan(row.ci_low) else f"{text} [{row.ci_low:.3g}, {row.ci_high:.3g}]"


def _paper_cell(paper: pd.DataFrame, dataset: str, arm: str, presentation: str, metric: str) -> str:
    match = paper.query("dataset == @dataset and arm == @arm and presentation == @presentation and metric == @metric")
    return f"{match['value'].iloc[0]:.2f}" if len(match) and not math.isnan(match["value"].iloc[0]) else "–"


def table_notes(results: pd.DataFrame, settings: dict[str, Any]) -> list[str]:
    """What a reader must know to read the table: whose numbers, how many took part, the recipe, what was not run."""
    experiment = settings["experiment"]
    notes = [
        "Lower is better for FAD and KL. Ours: value [95 % interval].".replace(
            "95", f"{100 * settings['statistics']['confidence']:g}"
        )
    ]
    if experiment.get("paper_csv") and not settings["evaluator"].get("comparable", False):
        notes.append(
            "The columns named “paper's” hold the published figures of other models (published checkpoints, other "
            "evaluators and data); compare orderings with them, never values."
        )
    ran = results[results["metric"] == experiment["metrics"][0]]
    per_cell = "; ".join(
        f"{dataset}, {arm}: {int(group['n'].min())} of {int((group['n'] + group['n_failed']).max())}"
        for (dataset, arm), group in ran.groupby(["dataset", "arm"], sort=False)
    )
    notes.append(f"Pairs that took part: {per_cell}.")
    for arm, label in experiment["rows"].items():
        if arm not in set(results["arm"]):
            alone = " (its figures are the paper's alone)" if experiment.get("paper_csv") else ""
            notes.append(f"{label}: not run; this experiment has no arm {arm!r}{alone}.")
    for metric in experiment["metrics"]:
        recipes = results[results["metric"] == metric]["recipe"]
        if len(recipes):
            notes.append(f"{metric.upper()}: {recipes.iloc[0]}.")
    return notes


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "“": "``", "”": "''"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def to_markdown(table: pd.DataFrame) -> str:
    """A data frame of texts as an aligned Markdown table."""
    cells = [list(table.columns), *table.astype(str).values.tolist()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])
