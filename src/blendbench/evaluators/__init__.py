"""Evaluators: from a waveform to the embeddings and class logits that the metrics read, kept by a sound's content.

An evaluator is a class that `_target_` names in `conf/evaluator`, under the metric it serves: `fad` wants embeddings,
`kl` logits, `prompt` embeddings of sounds and of texts in one space. One sound is scored at a time, so that its scores
do not depend on its neighbours, bit for bit.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.store import Arrays, Ledger, canonical


class Scores(NamedTuple):
    """What an evaluator says of one sound; what it does not do is None."""

    embeddings: torch.Tensor | None
    """[frames, D]; one frame where the model has one embedding a clip"""
    logits: torch.Tensor | None
    """[classes], before softmax or sigmoid"""


class Evaluator(ABC):
    """A model that hears.

    Attributes
    ----------
    name : str
        Name in recipes.
    sample_rate : int
        Of the waveforms it wants, in Hz.
    comparable : bool
        Whether numbers may stand beside published ones of the same name; False for built-in weights.
    """

    name: str
    sample_rate: int
    comparable: bool

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights; raises BlendbenchError, with what to type, if they are not there."""
        raise NotImplementedError

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        return {"evaluator": type(self).__name__, "checkpoint": self.fingerprint, "sample_rate": self.sample_rate}

    def prepare(self, device: str) -> None:  # noqa: B027 - some have no weights
        """Load the weights to a torch device, once; comes before `score`."""

    @abstractmethod
    def score(self, waveform: torch.Tensor) -> Scores:
        """Scores, on the CPU, of a mono waveform [samples] at `sample_rate`, in -1..1 and beyond."""


class TextEvaluator(Evaluator):
    """An evaluator whose embeddings of texts lie in the space of those of sounds."""

    @abstractmethod
    def score_text(self, text: str) -> torch.Tensor:
        """Embedding [D], on the CPU."""


class KeptScores(Sequence[Scores]):
    """Scores on disk, read when asked for: EnCodec's of ten thousand mixes do not fit into memory.

    Parameters
    ----------
    arrays : Arrays
        Where the values lie.
    rows : sequence of dict
        Their places, a row a sound.
    """

    def __init__(self, arrays: Arrays, rows: Sequence[dict[str, Any]]) -> None:
        self._arrays, self._rows = arrays, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        return Scores(*(torch.from_numpy(self._arrays.read(row[n])) if n in row else None for n in Scores._fields))


def from_settings(settings: dict[str, Any]) -> dict[str, Evaluator]:
    """The evaluators of a run by metric ("fad", "kl", "prompt"); a definition that stands twice is built once.

    Raises
    ------
    BlendbenchError
        If an entry is wrong, or lacks what its metric needs.
    """
    built: dict[str, Evaluator] = {}
    chosen: dict[str, Evaluator] = {}
    for metric, definition in (settings["evaluator"] or {}).items():
        if metric not in ("fad", "kl", "prompt"):
            raise BlendbenchError(f"evaluator.{metric}: no such metric; there are fad, kl and prompt")
        if definition is None:
            continue
        key = canonical(definition)
        if key not in built:
            built[key] = config.build(definition, f"evaluator.{metric}", settings["allow_targets"])
        chosen[metric] = built[key]
        if metric == "prompt" and not isinstance(built[key], TextEvaluator):
            raise BlendbenchError(
                f"evaluator.prompt: {built[key].name} knows no texts; take one that does, such as CLAP"
            )
    return chosen


def score_files(
    evaluator: Evaluator,
    store: Path,
    keys: Sequence[str],
    read: Callable[[int], torch.Tensor],
    title: str = "score",
) -> KeptScores:
    """Scores of N sounds, computed once a content.

    Parameters
    ----------
    evaluator : Evaluator
        Prepared.
    store : Path
        Folder of this evaluator's signature; its ledger is read and appended.
    keys : sequence of str
        What identifies each sound's content, such as a SHA-256 with the seconds read.
    read : callable
        From an index to the waveform [samples]; called for what the ledger lacks.
    title : str
        What the progress bar is called.
    """
    ledger, arrays = Ledger(store / "scores.jsonl", ("key",)), Arrays(store / "scores.f32")
    rows = []
    try:
        for index, key in enumerate(tqdm(keys, desc=title, unit="clip", disable=not sys.stderr.isatty())):
            row = ledger.get(key)
            if row is None:
                heard = evaluator.score(read(index))
                row = {"key": key}
                for name, values in heard._asdict().items():
                    if values is not None:
                        row[name] = arrays.append(values.numpy())
                ledger.append(row)
            rows.append(row)
    finally:
        ledger.close()
    return KeptScores(arrays, rows)
