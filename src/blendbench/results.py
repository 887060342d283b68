"""Results of a run: metrics over its rows, tidy; scores pair by pair; tests between arms; and the tables of both.

`results.csv` holds a row a metric and cell (data set, arm, presentation), `scores.csv` a row a mix with a column a
metric, `comparisons.csv` a row a pair of arms. Every value carries its recipe (embedding and checkpoint, N, reference
set, interval), and the paper's figure stands beside it only as another model's number unless the evaluator is the
paper's.
"""

import hashlib
import itertools
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from blendbench import config, tables, telling
from blendbench.datasets import MusicClip, manifests
from blendbench.datasets.pairing import split_music, stable_seed
from blendbench.errors import BlendbenchError
from blendbench.evaluators import KeptScores, Scorer, Scores, TextEvaluator
from blendbench.metrics import (
    audibility,
    bootstrap,
    clap_score,
    comparison,
    divergence,
    frechet,
    masking_model,
)
from blendbench.scoring import Scoring, mix_key, reference_key
from blendbench.store import PAIR_KEY, Arrays, Ledger, Rows, canonical, signature, write_lines, write_text
from blendbench.texts import csv_text, heading, markdown

COLUMNS = [
    "experiment", "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "n", "n_failed",
    "paper_value", "recipe",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "experiment", "dataset", "presentation", "metric", "arm", "other", "difference", "ci_low", "ci_high", "p", "p_holm",
    "n", "test",
]  # fmt: skip
_FACTS = ["status", "reason", "clip", "label", "genre"]
_LEVELS = ["noise_lufs", "music_lufs", "gain_db"]
"""What `scores.csv` takes over from a row."""
_CELL = ["dataset", "arm", "presentation"]


def read_rows(run_dir: Path) -> Rows:
    """Rows of `pairs.jsonl`, each once, in the order of their keys; raises BlendbenchError if there are none."""
    file = run_dir / "pairs.jsonl"
    if not file.is_file():
        raise BlendbenchError(f"{run_dir}: no pairs.jsonl here; give the folder that `blendbench run` printed")
    return Rows(Ledger(file, PAIR_KEY))


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


def read(run_dir: Path) -> pd.DataFrame:
    """A run's `results.csv`; names stay text, be they "null" or "1".

    Raises
    ------
    BlendbenchError
        If there is none, or it cannot be read.
    """
    file = run_dir / "results.csv"
    numbers = ("value", "ci_low", "ci_high", "n", "n_failed", "paper_value")
    try:
        return pd.read_csv(
            file, dtype={name: str for name in COLUMNS if name not in numbers}, keep_default_na=False,
            na_values={name: [""] for name in numbers},
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{file}: cannot be read ({error}); run `blendbench table {run_dir}`") from None


class _Heard:
    """What the run's evaluators say of the reference and of the mixes, each asked once for all that it serves."""

    def __init__(self, run_dir: Path, settings: dict[str, Any], rows: Rows) -> None:
        self.run_dir, self.settings, self.rows = run_dir, settings, rows
        self.scoring = Scoring(run_dir, settings)
        self.evaluators = self.scoring.evaluators
        clips, _ = split_music(manifests.music_set(settings).clips, settings["seed"])
        keyed = [(clip, key) for clip in clips if (key := reference_key(clip, settings["noise"]["seconds"]))]
        self.clips, self.clip_keys = [clip for clip, _ in keyed], [key for _, key in keyed]
        references: dict[int, KeptScores] = {}
        counted = None
        # A clip that one evaluator leaves out is left out for those before it, too.
        while counted != len(self.clips):
            counted = len(self.clips)
            references = {name: self._score_reference(scorer) for name, scorer in self.scoring.scorers.items()}
        self._scores = {
            name: (references[name], self.scoring.mixes(scorer, rows, "mixes"))
            for name, scorer in self.scoring.scorers.items()
        }

    def scores(self, metric: str) -> tuple[KeptScores, KeptScores]:
        """Scores of the reference clips and of the mixes by the metric's evaluator."""
        return self._scores[id(self.evaluators[metric])]

    def _score_reference(self, scorer: Scorer) -> KeptScores:
        """Scores of the reference clips; one that cannot be read or scored is left out, for every evaluator."""
        found = self.scoring.reference(scorer, self.clips, self.clip_keys, "reference")
        if found:
            return found
        raise BlendbenchError(
            f"music: {scorer.evaluator.name} can score no reference clip of {self.scoring.seconds:g} s "
            "(noise.seconds); see the lines above"
        )

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


class Results(NamedTuple):
    """What `compute` returns: three tidy tables."""

    values: pd.DataFrame
    scores: pd.DataFrame
    comparisons: pd.DataFrame


class _Cell(NamedTuple):
    """The rows of one data set, arm and presentation that took part, as indices into the heard rows."""

    chosen: np.ndarray
    pairs: list[str]
    groups: list[str]


class _Value(NamedTuple):
    metric: str
    value: float
    low: float
    high: float
    n: int
    recipe: str


def compute(run_dir: Path, settings: dict[str, Any]) -> Results:
    """Score a run's mixes and reference.

    FAD is taken between all mixes of a cell and the reference set; KL between each mix and one reference clip, drawn by
    the pair's id from the clips of the prompt's genre (or from all); the CLAP score between each mix and its prompt.
    Intervals are bootstraps over noise clips. Arms are compared over the pairs that both have, metric by metric, and
    the p-values of all pairs of arms within a data set and presentation corrected together (Holm).

    Raises
    ------
    BlendbenchError
        If the folder is no run's, or a metric's model is missing or makes no such scores.
    """
    rows = read_rows(run_dir)
    scores = _facts(rows)
    sound = (scores["status"] == "ok").to_numpy()
    heard = _Heard(run_dir, settings, rows.only(sound))
    measures = [_MEASURES[name](heard) for name in heard.evaluators]
    if names := heard.scoring.audible_names:
        values = heard.scoring.audible(heard.rows, "audibility")
        measures += [_Audible(heard, name, values) for name in names]
    measures += _listened(heard)
    counts = scores.groupby(_CELL, sort=False).size()
    cells = _cells(scores[sound], list(counts.index))
    paper = tables.paper_figures(settings["experiment"]).set_index([*_CELL, "metric"])["value"]
    name, out = settings["experiment"]["name"], []
    with telling.stage("intervals", len(cells) * len(measures), "value") as told:
        for key, cell in cells.items():
            for measure in measures:
                for one in measure.values(cell):
                    recipe = f"{heard.recipe(measure.evaluator)}; {one.recipe}" if measure.evaluator else one.recipe
                    expected = paper.get((*key, one.metric), math.nan)
                    out.append([name, *key, *one[:4], one.n, counts[key] - len(cell.chosen), expected, recipe])
                told.update()
    for measure in measures:
        if measure.per_pair is not None:
            scores[measure.metric] = math.nan
            scores.loc[sound, measure.metric] = measure.per_pair.astype(float)
    return Results(pd.DataFrame(out, columns=COLUMNS), scores, _comparisons(cells, measures, settings))


def _facts(rows: Rows) -> pd.DataFrame:
    """A row a mix: what its row says of it and of its levels."""
    facts: dict[str, list[Any]] = {key: [] for key in (*PAIR_KEY, *_FACTS)}
    levels = {key: array("d") for key in _LEVELS}
    for row in rows:
        for key, values in facts.items():
            value = row.get(key)
            values.append(sys.intern(value) if type(value) is str and key != "pair_id" else value)
        for key, numbers in levels.items():
            value = row.get(key)
            numbers.append(math.nan if value is None else value)
    return pd.DataFrame(facts | {key: np.array(numbers) for key, numbers in levels.items()})


def _cells(sound: pd.DataFrame, keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], _Cell]:
    """The cells of these data sets, arms and presentations over the facts of the heard rows."""
    found = sound.groupby(_CELL, sort=False).indices
    cells = {}
    for key in keys:
        chosen = np.asarray(found.get(key, []), dtype=int)
        cells[key] = _Cell(chosen, *(sound[name].iloc[chosen].tolist() for name in ("pair_id", "clip")))
    return cells


def _comparisons(
    cells: dict[tuple[str, str, str], _Cell], measures: Sequence["_Measure"], settings: dict[str, Any]
) -> pd.DataFrame:
    """Every two arms of a data set and presentation, by every metric."""
    out: list[list[Any]] = []
    name, compared = settings["experiment"]["name"], {}
    for dataset, presentation in dict.fromkeys((key[0], key[2]) for key in cells):
        arms = [key[1] for key in cells if (key[0], key[2]) == (dataset, presentation)]
        compared[dataset, presentation] = list(itertools.combinations(arms, 2))
    with telling.stage("tests between arms", len(measures) * sum(map(len, compared.values())), "test") as told:
        for (dataset, presentation), pairs in compared.items():
            for measure in measures:
                family: list[list[Any]] = []
                for arm, other in pairs:
                    found = measure.compare(cells[dataset, arm, presentation], cells[dataset, other, presentation])
                    told.update()
                    if found is not None:
                        difference, n = found
                        family.append(
                            [name, dataset, presentation, measure.metric, arm, other, *difference, math.nan, n]
                        )
                corrected = comparison.holm([line[9] for line in family])
                for line, p in zip(family, corrected, strict=True):
                    line[10] = p
                    out.append([*line, measure.test])
    return pd.DataFrame(out, columns=COMPARISON_COLUMNS)


class _Measure:
    """A metric over a run: its value for a cell, and the comparison of two cells.

    Attributes
    ----------
    metric : str
        Name in the results.
    evaluator : str
        Key of the evaluator that it asks, for the recipe.
    per_pair : array [heard rows] or None
        A value a mix, nan where it has none; None for a distance of sets.
    test : str
        What test compares two arms.
    """

    metric: str
    evaluator: str
    per_pair: np.ndarray | None = None
    test: str

    def __init__(self, heard: _Heard) -> None:
        self.heard, self.settings = heard, heard.settings

    def values(self, cell: _Cell) -> Iterator[_Value]:
        """The cell's value, and what else is to be told of it."""
        raise NotImplementedError

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        """Difference of two cells over the pairs that both have, and their number; None where there are none."""
        raise NotImplementedError

    def _statistics(self) -> tuple[int, float, int]:
        statistics = self.settings["statistics"]
        return statistics["resamples"], statistics["confidence"], self.settings["seed"]


class _PairMeasure(_Measure):
    """A metric with a value a mix; a cell's is the mean."""

    recipe: str
    test = "signs flipped noise by noise"

    def values(self, cell: _Cell) -> Iterator[_Value]:
        assert self.per_pair is not None
        values = self.per_pair[cell.chosen]
        sound = np.isfinite(values)
        if not sound.any():
            yield _Value(self.metric, math.nan, math.nan, math.nan, 0, _TOO_FEW[0])
            return
        groups = [group for group, good in zip(cell.groups, sound, strict=True) if good]
        kept, (resamples, confidence, seed) = values[sound], self._statistics()
        low, high = bootstrap.bootstrap_interval(bootstrap.Mean(kept), len(kept), groups, resamples, confidence, seed)
        recipe = f"{self.recipe}; {_interval_text(self.settings)}"
        yield _Value(self.metric, float(kept.mean()), low, high, len(kept), recipe)

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        assert self.per_pair is not None
        a, b, groups = _shared(first, second)
        one, two = self.per_pair[a], self.per_pair[b]
        sound = np.isfinite(one) & np.isfinite(two)
        if not sound.any():
            return None
        labels = [group for group, good in zip(groups, sound, strict=True) if good]
        _, confidence, seed = self._statistics()
        return comparison.paired_means(one[sound], two[sound], labels, 9999, confidence, seed), int(sound.sum())


def _shared(first: _Cell, second: _Cell) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Indices of the pairs that two cells share, in the first one's order, and their noise clips."""
    there = dict(zip(second.pairs, second.chosen, strict=True))
    mask = np.array([pair in there for pair in first.pairs], dtype=bool)
    other = np.array([there[pair] for pair in first.pairs if pair in there], dtype=int)
    return first.chosen[mask], other, list(itertools.compress(first.groups, mask))


def _interval_text(settings: dict[str, Any]) -> str:
    statistics = settings["statistics"]
    return f"{statistics['confidence']:.0%} bootstrap over noise clips, {statistics['resamples']} resamples"


class _Fad(_Measure):
    """Fréchet distance of a cell's mixes to the reference; cells are kept by content, as sweeps meet them again."""

    metric = evaluator = "fad"
    test = "bootstrap of both arms over noise clips"

    def __init__(self, heard: _Heard) -> None:
        super().__init__(heard)
        references, self.mixes = heard.scores("fad")
        self.reference = frechet.GaussianStatistics()
        for scores in references:
            self.reference.update(heard.embeddings("fad", scores))
        fixed = {
            "evaluator": heard.evaluators["fad"].signature(),
            "reference": hashlib.sha256("\n".join(heard.clip_keys).encode()).hexdigest(),
            "statistics": heard.settings["statistics"],
            "seed": heard.settings["seed"],
        }
        folder = Path(heard.settings["store_dir"]) / "cells" / signature("cell", 1, fixed)
        self.kept, self.arrays = Ledger(folder / "cells.jsonl", ("key",)), Arrays(folder / "cells.f32")

    def values(self, cell: _Cell) -> Iterator[_Value]:
        n = len(cell.chosen)
        if n < 2:
            yield _Value("fad", math.nan, math.nan, math.nan, n, _TOO_FEW[n])
            return
        key = self._key(cell)
        row = self.kept.get(key)
        if row is None:
            found, draws = self._compute(cell)
            row = {"key": key, "values": [list(one) for one in found]}
            if draws is not None:
                row["draws"] = self.arrays.append(draws)
            self.kept.append(row)
            self.kept.close()
        yield from (_Value(*one) for one in row["values"])

    def _key(self, cell: _Cell) -> str:
        digest = hashlib.sha256()
        for index, group in zip(cell.chosen, cell.groups, strict=True):
            digest.update(f"{canonical([mix_key(self.heard.rows[index]), group])}\n".encode())
        return digest.hexdigest()

    def _clips(self, chosen: np.ndarray) -> torch.Tensor | Sequence[torch.Tensor]:
        """Embeddings [N, D] if a clip has but one, else N of [frames, D]."""
        clips = _Clips(self, chosen)
        together = clips[0].new_empty(len(chosen), clips[0].shape[-1])
        for index, frames in enumerate(clips):
            if len(frames) > 1:
                return clips
            together[index] = frames[0]
        return together

    def _compute(self, cell: _Cell) -> tuple[list[_Value], np.ndarray | None]:
        settings, n = self.settings, len(cell.chosen)
        statistics, (resamples, confidence, seed) = settings["statistics"], self._statistics()
        own = self._clips(cell.chosen)
        statistic = frechet.frechet_of_indices(own, self.reference)
        value = statistic(torch.arange(n))
        draws = bootstrap.resample(statistic, n, cell.groups, resamples, seed)
        low, high = (math.nan, math.nan) if draws is None else bootstrap.interval(draws, value, confidence, "centred")
        out = [_Value("fad", value, low, high, n, f"FAD; {_interval_text(settings)}, centred")]
        sizes = [size for size in statistics["over_n"] if 2 <= size <= n]
        for size, mean in zip(sizes, frechet.frechet_over_n(own, self.reference, sizes, seed), strict=True):
            out.append(
                _Value(f"fad@{size}", mean, math.nan, math.nan, size, f"mean FAD of 10 random subsets of {size}")
            )
        if statistics["fad_infinity"]:
            smallest = max(2, min(500, n // 5))
            if n - smallest < 2:
                out.append(_Value("fad_inf", math.nan, math.nan, math.nan, n, "too few mixes to extrapolate"))
                return out, draws
            line = frechet.frechet_infinity(own, self.reference, smallest, seed=seed)
            recipe = f"FAD extrapolated to unlimited N by a line over 1/N, N {smallest} to {n}, r2 {line.r2:.3f}"
            out.append(_Value("fad_inf", line.value, math.nan, math.nan, n, recipe))
        return out, draws

    def compare(self, first: _Cell, second: _Cell) -> tuple[comparison.Difference, int] | None:
        a, b, groups = _shared(first, second)
        if len(a) < 2:
            return None
        resamples, confidence, seed = self._statistics()
        if len(a) == len(first.pairs) and first.pairs == second.pairs and first.groups == second.groups:
            # The same draws of the same noises, made for the intervals.
            rows = [self.kept.get(self._key(cell)) for cell in (first, second)]
            if all(row is not None and "draws" in row for row in rows):
                drawn = np.subtract(*(self.arrays.read(row["draws"]).astype(float) for row in rows if row))
                value = rows[0]["values"][0][1] - rows[1]["values"][0][1]  # type: ignore[index]
                low, high = bootstrap.interval(drawn, value, confidence, "centred")
                return comparison.Difference(value, low, high, comparison.shift_test(drawn, value)), len(a)
        one, two = (frechet.frechet_of_indices(self._clips(chosen), self.reference) for chosen in (a, b))
        return comparison.paired_statistics(one, two, len(a), groups, resamples, confidence, seed), len(a)


class _Clips(Sequence[torch.Tensor]):
    """Embeddings of mixes [frames, D], read when asked for."""

    def __init__(self, measure: _Fad, chosen: np.ndarray) -> None:
        self._measure, self._chosen = measure, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        return self._measure.heard.embeddings("fad", self._measure.mixes[self._chosen[index]])


_TOO_FEW = ["no pair took part", "one pair took part, and FAD wants two"]


class _Kl(_PairMeasure):
    """Divergence of each mix from a reference clip."""

    metric = evaluator = "kl"

    def __init__(self, heard: _Heard) -> None:
        super().__init__(heard)
        kl, clips = heard.settings["kl"], heard.clips
        references, mixes = heard.scores("kl")
        by_genre: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            by_genre.setdefault(clip.genre, []).append(index)
        pairing = kl["pairing"]
        if pairing == "genre" and not any(row["genre"] in by_genre for row in heard.rows):
            pairing = "random (the reference has none of the prompts' genres)"
        divergences = {"softmax": divergence.softmax_kl, "sigmoid": divergence.sigmoid_kl}[kl["activation"]]
        self.recipe = (
            f"{kl['activation']} KL({kl['direction']}), natural log, epsilon={kl['epsilon']:g}, pairing={pairing}"
        )
        seed = heard.settings["seed"]
        drawn = (_partner(row, clips, by_genre, kl["pairing"], seed) for row in heard.rows)
        partners = np.fromiter(drawn, int, len(heard.rows))
        values = np.empty(len(heard.rows))
        for start in range(0, len(values), 1024):
            some = range(start, min(start + 1024, len(values)))
            theirs = heard.logits("kl", references, [partners[i] for i in some])
            values[some] = divergences(theirs, heard.logits("kl", mixes, some), kl["direction"], kl["epsilon"]).numpy()
        self.per_pair = values


class _Clap(_PairMeasure):
    """Cosine of each mix and its prompt."""

    metric, evaluator = "clap", "prompt"
    recipe = "cosine of mix and prompt"

    def __init__(self, heard: _Heard) -> None:
        super().__init__(heard)
        evaluator = heard.evaluators["prompt"]
        assert isinstance(evaluator, TextEvaluator)
        _, mixes = heard.scores("prompt")
        texts = {text: evaluator.score_text(text) for text in sorted({row["prompt"] for row in heard.rows})}
        cosines = [
            clap_score.clap_score(heard.embeddings("prompt", mixes[i]).mean(0)[None], texts[row["prompt"]][None])
            for i, row in enumerate(heard.rows)
        ]
        self.per_pair = np.array([float(one) for one in cosines])


class _Audible(_PairMeasure):
    """One of the measures of how audible the noise is; all of them are taken at once and kept by the mix's content."""

    evaluator = ""

    def __init__(self, heard: _Heard, name: str, values: Sequence[dict[str, float]]) -> None:
        super().__init__(heard)
        self.metric = name
        found = audibility.METRICS[name]
        self.recipe = f"{found.unit}, {found.source}; -18 LUFS played at {masking_model.PLAYBACK_DB_SPL:g} dB SPL"
        self.per_pair = np.array([one.get(name, math.nan) for one in values], dtype=float)


class _Listened(_PairMeasure):
    """A scale that listeners have rated, as `blendbench listen analyse` left it: means over all whom it kept."""

    evaluator = ""

    def __init__(self, heard: _Heard, name: str, summary: pd.DataFrame, pairs: pd.DataFrame) -> None:
        super().__init__(heard)
        self.metric = name
        chosen = summary[summary["metric"] == name]
        self.cells = {tuple(row[key] for key in _CELL): row for row in chosen.to_dict("records")}
        means = pairs.set_index(list(PAIR_KEY))[name].to_dict()
        keys = (tuple(row[key] for key in PAIR_KEY) for row in heard.rows)
        self.per_pair = np.array([means.get(key, math.nan) for key in keys], dtype=float)

    def values(self, cell: _Cell) -> Iterator[_Value]:
        row = self.heard.rows[cell.chosen[0]] if len(cell.chosen) else {}
        found = self.cells.get(tuple(row.get(key) for key in _CELL))
        if found is not None:
            value, low, high = (float(found[key]) for key in ("value", "ci_low", "ci_high"))
            yield _Value(self.metric, value, low, high, int(found["n_samples"]), found["recipe"])


def _listened(heard: _Heard) -> list[_Listened]:
    """The scales of the run's listening study; none where it has no analysis."""
    folder = heard.run_dir / "listening" / "analysis"
    if not (folder / "summary.csv").exists():
        return []
    try:
        summary, pairs = (
            pd.read_csv(folder / f"{name}.csv", dtype=dict.fromkeys(PAIR_KEY, str)) for name in ("summary", "pairs")
        )
        return [_Listened(heard, name, summary, pairs) for name in summary["metric"].unique()]
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise BlendbenchError(
            f"{folder}: damaged ({error}); run `blendbench listen analyse {heard.run_dir}` again"
        ) from None


_MEASURES: dict[str, Callable[[_Heard], _Measure]] = {"fad": _Fad, "kl": _Kl, "prompt": _Clap}


def _partner(row: dict, clips: list[MusicClip], by_genre: dict[str, list[int]], pairing: str, seed: int) -> int:
    """Index of the reference clip that a pair is compared with; the same for every arm and presentation."""
    choices = by_genre.get(row["genre"], []) if pairing == "genre" else []
    choices = choices or list(range(len(clips)))
    return choices[stable_seed(seed, "kl", row["pair_id"]) % len(choices)]


def _csv(frame: pd.DataFrame) -> Iterator[str]:
    """A table as CSV, some thousand lines at a time."""
    for start in range(0, max(1, len(frame)), 10_000):
        part = frame.iloc[start : start + 10_000]
        yield csv_text(part, header=not start, float_format="%.6g")


def tabulate(run_dir: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """Compute the results, write `results.csv`, `scores.csv`, `comparisons.csv` and the tables; returns the results."""
    found = compute(run_dir, settings)
    for name, frame in (("results", found.values), ("scores", found.scores), ("comparisons", found.comparisons)):
        write_lines(run_dir / f"{name}.csv", _csv(frame))
    table = tables.layout(found.values, settings)
    write_text(run_dir / "table.csv", tables.to_csv(table))
    title, notes = settings["experiment"]["title"], tables.notes(found.values, settings)
    bold = tables.best(found.values, settings)
    text = f"# {heading(title)}\n\n{tables.to_markdown(table, bold)}\n"
    text += "".join(f"\n{markdown(note)}\n" for note in notes)
    write_text(run_dir / "table.md", text)
    label = f"tab:{settings['experiment']['name']}"
    write_text(run_dir / "table.tex", tables.to_latex(table, f"{title}. " + " ".join(notes), label, bold))
    return found.values
