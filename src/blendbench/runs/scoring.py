"""What a run asks of single sounds: evaluators' scores of what is heard and of reference clips, and item metrics.

All is kept in the store by content, so it may be asked for part by part, by any worker, and again by who tabulates.
"""

import itertools
import math
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blendbench import telling
from blendbench.datasets import MusicClip
from blendbench.datasets.reading import read_music
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError, one_line, printable
from blendbench.evaluators import Evaluator, KeptScores, Scorer, Scores, Unscored
from blendbench.metrics import ItemMetric
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.store.ledger import Ledger
from blendbench.store.signature import file_hash, signature

_PART = 256


def sound_key(row: Mapping[str, Any]) -> str:
    """What identifies the sound of a row."""
    return f"{row['sha256']}:{row['attenuation_db']}"


def reference_key(clip: MusicClip, seconds: float) -> str | None:
    """What identifies the sound of a reference clip; None, with a line on stderr, where it cannot be read."""
    try:
        check_links(clip.path, clip.root)
        start = f"{clip.start:g}s+" if clip.start else ""
        return f"{file_hash(clip.path)}:{start}{seconds}s"
    except (OSError, ValueError):
        print(f"blendbench: reference clip left out: {printable(clip.path)} cannot be read", file=sys.stderr)
    except ClipError as error:
        print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
    return None


def measure_one(metric: ItemMetric, sound: "RowSound") -> dict[str, float]:
    """A metric's values of a sound, nan where one is undefined; none where it fails, with a line on stderr.

    Raises
    ------
    BlendbenchError
        If the metric gives values that its facts do not name, or cannot be taken of any sound.
    """
    try:
        found = {name: float(value) for name, value in metric.measure(sound).items()}
        reason = ", ".join(f"{name} is {value}" for name, value in found.items() if math.isinf(value))
    except ClipError as error:
        reason = str(error)
    except BlendbenchError:
        raise
    except Exception as error:  # a metric of one's own may raise anything
        reason = f"{unexpected(error)}"
    if reason:
        print(f"blendbench: {sound.row['pair_id']}: {metric.name} not measured: {one_line(reason)}", file=sys.stderr)
        return {}
    if unknown := sorted(set(found) - set(metric.facts)):
        raise BlendbenchError(
            f"metric.{metric.name}: gives {', '.join(unknown)}, but its facts name {', '.join(metric.facts)}; mend them"
        )
    return found


def unexpected(error: Exception) -> str:
    """An error of a user's own code, in one line, with the place that raised it."""
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return one_line(f"unexpected {type(error).__name__}: {error}") + place


class Scoring:
    """The evaluators and item metrics of a run, with all that they have said before.

    Parameters
    ----------
    run : Run

    Raises
    ------
    BlendbenchError
        If a metric's model is missing.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.scorers = {id(one): Scorer(one, run.store, run.device) for one in run.asked}
        self.seconds = run.task.reference_seconds()
        self._ledgers: dict[str, Ledger] = {}

    def mixes(self, scorer: Scorer, rows: Sequence[dict[str, Any]], title: str = "") -> KeptScores:
        """Scores of the sounds of rows; raises BlendbenchError, naming the file, if one cannot be scored."""
        rate = self.run.task.sample_rate

        def read(index: int) -> torch.Tensor:
            return audio.resample(audio.to_mono(self.run.heard(rows[index])), rate, scorer.evaluator.sample_rate)

        try:
            return scorer.scores(map(sound_key, rows), read, title and f"{scorer.evaluator.name}: {title}")
        except Unscored as error:
            raise BlendbenchError(f"{self.run.dir / rows[error.index]['mix']}: {error}") from error

    def reference(self, scorer: Scorer, clips: list[MusicClip], keys: list[str], title: str = "") -> KeptScores:
        """Scores of reference clips, under their `reference_key`s.

        A clip that cannot be scored is taken out of both lists, with a line on stderr where there is a title.
        """

        def read(index: int) -> torch.Tensor:
            return read_music(clips[index], scorer.evaluator.sample_rate, self.seconds)

        while True:
            try:
                return scorer.scores(keys, read, title and f"{scorer.evaluator.name}: {title}")
            except Unscored as error:
                if title:
                    print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
                del clips[error.index], keys[error.index]

    @cached_property
    def kept_metrics(self) -> list[ItemMetric]:
        """The item metrics whose values are kept, so that workers can take them ahead."""
        return [one for one in self.run.metrics.values() if isinstance(one, ItemMetric) and one.keep]

    def _ledger(self, metric: ItemMetric) -> Ledger:
        key = metric.called(metric.name)
        if key not in self._ledgers:
            name = signature(metric.stage, metric.version, metric.kept_under())
            self._ledgers[key] = Ledger(self.run.store / metric.place / name / "measures.jsonl", ("key",))
        return self._ledgers[key]

    def measured(self, metric: ItemMetric, sounds: Sequence["RowSound"], title: str = "") -> Iterator[dict[str, float]]:
        """Values of a metric whose values are kept; none for a sound that cannot be measured, with a line on stderr."""
        ledger = self._ledger(metric)
        ledger.refresh()
        try:
            with telling.stage(title or metric.name, len(sounds), "mix", bar=bool(title), kind="score") as told:
                for sound in sounds:
                    yield self._measured(metric, ledger, sound)
                    told.update()
        finally:
            ledger.close()

    @staticmethod
    def _measured(metric: ItemMetric, ledger: Ledger, sound: "RowSound") -> dict[str, float]:
        key = metric.key(sound)
        kept = ledger.get(key)
        if kept is not None and len(kept) > 1:  # a failure is not kept: what was missing may be there now
            return {k: math.nan if v is None else v for k, v in kept.items() if k != "key"}
        found = measure_one(metric, sound)
        if found:
            ledger.append({"key": key} | {k: None if math.isnan(v) else v for k, v in found.items()})
        return found

    def part(self, rows: Iterable[dict[str, Any]], clips: Sequence[MusicClip]) -> None:
        """Score some rows and reference clips, so that it is done when the run is tabulated.

        A sound that cannot be scored is left to the tabulation, which says what becomes of it.
        """
        keyed = [(clip, key) for clip in clips if (key := reference_key(clip, self.seconds))]
        for scorer in self.scorers.values():
            self.reference(scorer, [clip for clip, _ in keyed], [key for _, key in keyed])
        iterator = iter(rows)
        while some := list(itertools.islice(iterator, _PART)):
            for scorer in self.scorers.values():
                self.mixes(scorer, some)
            heard = Heard(self, some)
            for metric in self.kept_metrics:
                for _ in self.measured(metric, heard):
                    pass

    def survey(self, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int, float | None]]:
        """Of each evaluator: its name, how many sounds it has scored, and the seconds that one took, if known."""
        keys = [key for clip in self.run.task.reference() if (key := reference_key(clip, self.seconds))]
        keys += [sound_key(row) for row in rows]
        for scorer in self.scorers.values():
            yield scorer.evaluator.name, scorer.known(keys), scorer.seconds()


class RowSound:
    """A row's sound, as a metric meets it; see `metrics.Sound`."""

    def __init__(self, heard: "Heard", index: int) -> None:
        self._heard, self._index = heard, index
        self.row: Mapping[str, Any] = heard.rows[index]
        self.key = sound_key(self.row)

    def waveform(self) -> torch.Tensor:
        """What is heard, at its true level."""
        return self._heard.run.heard(self.row)

    def parts(self) -> dict[str, torch.Tensor]:
        """Its parts apart; raises ClipError where they cannot be read."""
        return self._heard.run.parts(self.row)

    def given(self) -> Any:
        """What the method was given; raises ClipError where that cannot be read."""
        return self._heard.run.task.given(self.row)

    def scores(self, evaluator: Evaluator) -> Scores:
        """What an evaluator says of it."""
        return self._heard.scores(evaluator)[self._index]

    def partner(self, evaluator: Evaluator, by: str, step: str) -> Scores:
        """What an evaluator says of its clip of the reference."""
        return self._heard.reference.scores(evaluator)[self._heard.reference.partner(self.row, by, step)]


class Heard(Sequence[RowSound]):
    """Sounds of rows, each evaluator being asked once for all of them.

    Parameters
    ----------
    scoring : Scoring
    rows : sequence of dict
        Whose status is "ok".
    told : bool
        Whether evaluators say how far they are.
    """

    def __init__(self, scoring: Scoring, rows: Sequence[dict[str, Any]], told: bool = False) -> None:
        self.scoring, self.run, self.rows, self._told = scoring, scoring.run, rows, told
        self._scores: dict[int, KeptScores] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if index >= len(self.rows):
            raise IndexError(index)
        return RowSound(self, index)

    def scores(self, evaluator: Evaluator) -> KeptScores:
        """Scores of all sounds."""
        if id(evaluator) not in self._scores:
            scorer = self.scoring.scorers[id(evaluator)]
            self._scores[id(evaluator)] = self.scoring.mixes(scorer, self.rows, "mixes" if self._told else "")
        return self._scores[id(evaluator)]

    @cached_property
    def reference(self) -> "Reference":
        """What sets are held against."""
        return Reference(self.scoring)

    def reference_has(self, by: str) -> bool:
        """Whether any row finds a clip of the same class in the reference."""
        classes = self.reference.classes(by)
        return any(row.get(by) in classes for row in self.rows)


class Reference:
    """The reference clips that all evaluators can score, and what these say of them.

    Raises
    ------
    BlendbenchError
        If an evaluator can score none.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring, self.seed = scoring, scoring.run.seed
        keyed = [(clip, key) for clip in scoring.run.task.reference() if (key := reference_key(clip, scoring.seconds))]
        self.clips, self.keys = [clip for clip, _ in keyed], [key for _, key in keyed]
        self._classes: dict[str, dict[str, list[int]]] = {}
        self._scores: dict[int, KeptScores] = {}
        counted = None
        # A clip that one evaluator leaves out is left out for those before it, too.
        while counted != len(self.clips):
            counted = len(self.clips)
            self._scores = {name: self._score(scorer) for name, scorer in scoring.scorers.items()}

    def _score(self, scorer: Scorer) -> KeptScores:
        found = self.scoring.reference(scorer, self.clips, self.keys, "reference")
        if found:
            return found
        raise BlendbenchError(
            f"music: {scorer.evaluator.name} can score no reference clip of {self.scoring.seconds:g} s; see the lines "
            "above"
        )

    def scores(self, evaluator: Evaluator) -> KeptScores:
        """Scores of all clips."""
        return self._scores[id(evaluator)]

    def classes(self, by: str) -> dict[str, list[int]]:
        """Indices of clips by class."""
        if by not in self._classes:
            found: dict[str, list[int]] = {}
            for index, clip in enumerate(self.clips):
                found.setdefault(getattr(clip, by), []).append(index)
            self._classes[by] = found
        return self._classes[by]

    def partner(self, row: Mapping[str, Any], by: str, step: str) -> int:
        """Index of the clip that an item is compared with; the same for every arm and presentation."""
        choices = self.classes(by).get(row[by], []) if by else []
        draw = stable_seed(self.seed, step, row["pair_id"])
        return choices[draw % len(choices)] if choices else draw % len(self.clips)

    def recipe(self) -> str:
        """Which clips, and the seed that drew them."""
        genres = "+".join(sorted({clip.genre or "?" for clip in self.clips}))
        return f"reference={len(self.clips)} clips of {genres}; seed={self.seed}"
