"""Results: metrics over a run's rows, as a tidy `results.csv`, and the paper's table in Markdown, LaTeX and CSV.

Every value carries its recipe (embedding and checkpoint, N, reference set, interval), and the paper's figure stands
beside it only as another model's number unless the evaluator is the paper's.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from blendbench import audio, config
from blendbench.clips import read_music
from blendbench.datasets import MusicClip, manifests
from blendbench.datasets.builtin import package_folder
from blendbench.datasets.pairing import split_music, stable_seed
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.evaluators import Evaluator, KeptScores, Scores, TextEvaluator, from_settings, score_files
from blendbench.metrics import bootstrap, clap_score, divergence, frechet
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


def _reference(settings: dict[str, Any]) -> tuple[list[MusicClip], list[str]]:
    """Reference clips whose files are there, with what identifies their content."""
    clips, _ = split_music(manifests.music_set(settings).clips, settings["seed"])
    sound, keys = [], []
    for clip in clips:
        try:
            check_links(clip.path, clip.root)
            start = f"{clip.start:g}s+" if clip.start else ""
            keys.append(f"{file_hash(clip.path)}:{start}{settings['noise']['seconds']}s")
            sound.append(clip)
        except (OSError, ValueError):
            print(f"blendbench: reference clip left out: {printable(clip.path)} cannot be read", file=sys.stderr)
        except ClipError as error:
            print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
    return sound, keys


class _Heard:
    """What the run's evaluators say of the reference and of the mixes, each asked once for all that it serves."""

    def __init__(self, run_dir: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.run_dir, self.settings, self.rows = run_dir, settings, rows
        self.evaluators = from_settings(settings)
        self.clips, self.clip_keys = _reference(settings)
        each = {id(one): one for one in self.evaluators.values()}
        references: dict[int, KeptScores] = {}
        counted = None
        # A clip that one evaluator leaves out is left out for those before it, too.
        while counted != len(self.clips):
            counted = len(self.clips)
            references = {key: self._score_reference(one) for key, one in each.items()}
        self._scores = {key: (references[key], self._score_mixes(one)) for key, one in each.items()}

    def scores(self, metric: str) -> tuple[KeptScores, KeptScores]:
        """Scores of the reference clips and of the mixes by the metric's evaluator."""
        return self._scores[id(self.evaluators[metric])]

    def _store(self, evaluator: Evaluator) -> Path:
        from blendbench.runner import pick_device

        evaluator.prepare(pick_device(self.settings["device"]))
        return Path(self.settings["store_dir"]) / "scores" / signature("score", 2, evaluator.signature())

    def _score_reference(self, evaluator: Evaluator) -> KeptScores:
        """Scores of the reference clips; one that cannot be read or scored is left out, for every evaluator."""
        rate, seconds = evaluator.sample_rate, self.settings["noise"]["seconds"]
        place, reading = self._store(evaluator), 0

        def read(index: int) -> torch.Tensor:
            nonlocal reading
            reading = index
            return read_music(self.clips[index], rate, seconds)

        while self.clips:
            try:
                return score_files(evaluator, place, self.clip_keys, read, f"{evaluator.name}: reference")
            except ClipError as error:
                print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
                del self.clips[reading], self.clip_keys[reading]
        raise BlendbenchError(
            f"music: {evaluator.name} can score no reference clip of {seconds:g} s (noise.seconds); see the lines above"
        )

    def _score_mixes(self, evaluator: Evaluator) -> KeptScores:
        from blendbench.runner import SAMPLE_RATE, read_mix

        reading = 0

        def read(index: int) -> torch.Tensor:
            nonlocal reading
            reading = index
            return audio.resample(read_mix(self.run_dir, self.rows[index]), SAMPLE_RATE, evaluator.sample_rate)

        keys = [f"{row['sha256']}:{row['attenuation_db']}" for row in self.rows]
        try:
            return score_files(evaluator, self._store(evaluator), keys, read, f"{evaluator.name}: mixes")
        except ClipError as error:
            raise BlendbenchError(f"{self.run_dir / self.rows[reading]['mix']}: {error}") from error

    def embeddings(self, metric: str, scores: Scores) -> torch.Tensor:
        """Embeddings [frames, D]; raises BlendbenchError where the metric's evaluator makes none."""
        if scores.embeddings is None:
            raise BlendbenchError(
                f"evaluator.{metric}: {self.evaluators[metric].name} makes no embeddings; take another"
            )
        return scores.embeddings

    def logits(self, metric: str, scores: Sequence[Scores], indices: Sequence[int]) -> torch.Tensor:
        """Logits [N, classes]; raises BlendbenchError where the metric's evaluator makes none."""
        rows = [scores[i].logits for i in indices]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            raise BlendbenchError(f"evaluator.{metric}: {self.evaluators[metric].name} knows no classes; take another")
        return torch.stack(found)

    def recipe(self, metric: str) -> str:
        """Evaluator, sample rate, reference set and seed, for a value's recipe."""
        evaluator = self.evaluators[metric]
        genres = "+".join(sorted({clip.genre or "?" for clip in self.clips}))
        text = f"evaluator={evaluator.name}@{evaluator.fingerprint}; sr={evaluator.sample_rate}"
        return text + f"; reference={len(self.clips)} clips of {genres}; seed={self.settings['seed']}"


class _Cell(NamedTuple):
    """The rows of one data set, arm and presentation that took part."""

    chosen: list[int]
    groups: list[str]


class _Value(NamedTuple):
    metric: str
    value: float
    low: float
    high: float
    n: int
    recipe: str


def compute(run_dir: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """Score a run's mixes and reference and return the tidy results, one row a metric and cell.

    FAD is taken between all mixes of a cell and the reference set; KL between each mix and one reference clip, drawn by
    the pair's id from the clips of the prompt's genre (or from all); the CLAP score between each mix and its prompt.
    Intervals are bootstraps over noise clips.
    """
    rows = read_rows(run_dir)
    heard = _Heard(run_dir, settings, [row for row in rows if row["status"] == "ok"])
    paper = paper_figures(settings["experiment"]).set_index(["dataset", "arm", "presentation", "metric"])["value"]
    metrics = {"fad": _fad, "kl": _kl, "prompt": _clap}
    values_of = {metric: metrics[metric](heard) for metric in heard.evaluators}
    name = settings["experiment"]["name"]
    out = []
    cells = Counter((row["dataset"], row["arm"], row["presentation"]) for row in rows)
    for cell, count in cells.items():
        chosen = [i for i, row in enumerate(heard.rows) if (row["dataset"], row["arm"], row["presentation"]) == cell]
        taken = _Cell(chosen, [heard.rows[i]["clip"] for i in chosen])
        for metric, values in values_of.items():
            for one in values(taken):
                recipe = f"{heard.recipe(metric)}; {one.recipe}"
                expected = paper.get((*cell, one.metric), math.nan)
                out.append([name, *cell, *one[:4], one.n, count - len(chosen), expected, recipe])
    return pd.DataFrame(out, columns=COLUMNS)


def _interval(settings: dict[str, Any], statistic: Any, cell: _Cell, method: Any = "percentile") -> tuple[float, float]:
    statistics = settings["statistics"]
    return bootstrap.bootstrap_interval(
        statistic, len(cell.chosen), cell.groups, statistics["resamples"], statistics["confidence"],
        settings["seed"], method,
    )  # fmt: skip


def _interval_text(settings: dict[str, Any]) -> str:
    statistics = settings["statistics"]
    return f"{statistics['confidence']:.0%} bootstrap over noise clips, {statistics['resamples']} resamples"


def _fad(heard: _Heard) -> Callable[[_Cell], Iterator[_Value]]:
    settings, statistics = heard.settings, heard.settings["statistics"]
    references, mixes = heard.scores("fad")
    reference = frechet.GaussianStatistics()
    for scores in references:
        reference.update(heard.embeddings("fad", scores))

    def values(cell: _Cell) -> Iterator[_Value]:
        n = len(cell.chosen)
        if n < 2:
            yield _Value("fad", math.nan, math.nan, math.nan, n, _TOO_FEW[n])
            return
        clips = [heard.embeddings("fad", mixes[i]) for i in cell.chosen]
        own = torch.cat(clips) if all(len(frames) == 1 for frames in clips) else clips
        statistic = frechet.frechet_of_indices(own, reference)
        low, high = _interval(settings, statistic, cell, "centred")
        recipe = f"FAD; {_interval_text(settings)}, centred"
        yield _Value("fad", statistic(torch.arange(n)), low, high, n, recipe)
        sizes = [size for size in statistics["over_n"] if 2 <= size <= n]
        for size, value in zip(sizes, frechet.frechet_over_n(own, reference, sizes, settings["seed"]), strict=True):
            yield _Value(f"fad@{size}", value, math.nan, math.nan, size, f"mean FAD of 10 random subsets of {size}")
        if statistics["fad_infinity"]:
            smallest = max(2, min(500, n // 5))
            if n - smallest < 2:
                yield _Value("fad_inf", math.nan, math.nan, math.nan, n, "too few mixes to extrapolate")
                return
            line = frechet.frechet_infinity(own, reference, smallest, seed=settings["seed"])
            recipe = f"FAD extrapolated to unlimited N by a line over 1/N, N {smallest} to {n}, r2 {line.r2:.3f}"
            yield _Value("fad_inf", line.value, math.nan, math.nan, n, recipe)

    return values


_TOO_FEW = ["no pair took part", "one pair took part, and FAD wants two"]


def _kl(heard: _Heard) -> Callable[[_Cell], Iterator[_Value]]:
    settings, kl, clips = heard.settings, heard.settings["kl"], heard.clips
    references, mixes = heard.scores("kl")
    by_genre: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        by_genre.setdefault(clip.genre, []).append(index)
    pairing = kl["pairing"]
    if pairing == "genre" and not any(row["genre"] in by_genre for row in heard.rows):
        pairing = "random (the reference has none of the prompts' genres)"
    divergences = {"softmax": divergence.softmax_kl, "sigmoid": divergence.sigmoid_kl}[kl["activation"]]
    recipe = f"{kl['activation']} KL({kl['direction']}), natural log, epsilon={kl['epsilon']:g}, pairing={pairing}"

    def values(cell: _Cell) -> Iterator[_Value]:
        if not cell.chosen:
            yield _Value("kl", math.nan, math.nan, math.nan, 0, _TOO_FEW[0])
            return
        partners = [_partner(heard.rows[i], clips, by_genre, kl["pairing"], settings["seed"]) for i in cell.chosen]
        ours, theirs = heard.logits("kl", mixes, cell.chosen), heard.logits("kl", references, partners)
        per_pair = divergences(theirs, ours, kl["direction"], kl["epsilon"])
        low, high = _interval(settings, lambda indices: divergence.mean_kl(per_pair[indices]), cell)
        yield _Value(
            "kl", divergence.mean_kl(per_pair), low, high, len(cell.chosen), f"{recipe}; {_interval_text(settings)}"
        )

    return values


def _clap(heard: _Heard) -> Callable[[_Cell], Iterator[_Value]]:
    evaluator = heard.evaluators["prompt"]
    assert isinstance(evaluator, TextEvaluator)
    _, mixes = heard.scores("prompt")
    texts = {text: evaluator.score_text(text) for text in sorted({row["prompt"] for row in heard.rows})}

    def values(cell: _Cell) -> Iterator[_Value]:
        if not cell.chosen:
            yield _Value("clap", math.nan, math.nan, math.nan, 0, _TOO_FEW[0])
            return
        sounds = torch.stack([heard.embeddings("prompt", mixes[i]).mean(0) for i in cell.chosen])
        cosines = clap_score.clap_score(sounds, torch.stack([texts[heard.rows[i]["prompt"]] for i in cell.chosen]))
        low, high = _interval(heard.settings, lambda indices: float(cosines[indices].mean()), cell)
        recipe = f"cosine of mix and prompt; {_interval_text(heard.settings)}"
        yield _Value("clap", float(cosines.mean()), low, high, len(cell.chosen), recipe)

    return values


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
    if experiment.get("paper_csv") and not _comparable(settings):
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


def _comparable(settings: dict[str, Any]) -> bool:
    """Whether the numbers may stand beside published ones: no built-in model or data, and the paper's evaluators."""
    chosen = [entry for entry in (settings["evaluator"] or {}).values() if entry is not None]
    built_in = (settings["generator"] or {}).get("checkpoint") == "pocket" or "builtin" in settings["dataset"]
    return not built_in and all(entry.get("comparable", False) for entry in chosen)


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
