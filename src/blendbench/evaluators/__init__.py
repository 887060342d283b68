"""Evaluators: from a waveform to the embeddings and class logits that the metrics read, kept by a sound's content.

An evaluator is a class that `_target_` names in `conf/evaluator`, under the metric it serves: `fad` wants embeddings,
`kl` logits, `prompt` embeddings of sounds and of texts in one space. One sound is scored at a time, so that its scores
do not depend on its neighbours, bit for bit.
"""

import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blendbench import telling
from blendbench.datasets.reading import ahead
from blendbench.errors import BlendbenchError, ClipError
from blendbench.store.arrays import Arrays
from blendbench.store.ledger import Ledger, mean_seconds
from blendbench.store.signature import signature


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
    ledger : Ledger
        Whose rows hold their places.
    places : sequence of int
        The rows' own places in the ledger, one a sound.
    """

    def __init__(self, arrays: Arrays, ledger: Ledger, places: Sequence[int]) -> None:
        self._arrays, self._ledger, self._places = arrays, ledger, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        row = self._ledger.at(self._places[index])
        if row is None:
            raise BlendbenchError(f"{self._ledger.path}: damaged; delete its folder, and what it holds is scored again")
        return Scores(*(torch.from_numpy(self._arrays.read(row[n])) if n in row else None for n in Scores._fields))


class Unscored(ClipError):
    """A sound that cannot be read or scored; `index` says which of those that were given."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index


class Scorer:
    """An evaluator with the scores that it has given before; its weights are loaded when a sound is new.

    Parameters
    ----------
    evaluator : Evaluator
    store : Path
        The store's folder; scores lie in it under the evaluator's signature.
    device : str
        Torch device.
    """

    def __init__(self, evaluator: Evaluator, store: Path, device: str) -> None:
        self.evaluator, self._device, self._ready = evaluator, device, False
        folder = store / "scores" / signature("score", 2, evaluator.signature())
        self._ledger, self._arrays = Ledger(folder / "scores.jsonl", ("key",)), Arrays(folder / "scores.f32")

    def scores(self, keys: Iterable[str], read: Callable[[int], torch.Tensor], title: str = "") -> KeptScores:
        """Scores of N sounds, computed once a content; the next sound is read while one is scored.

        Parameters
        ----------
        keys : iterable of str
            What identifies each sound's content, such as a SHA-256 with the seconds read.
        read : callable
            From an index to the waveform [samples]; called, in a thread, for what is new.
        title : str
            What is told of it; nothing if empty.

        Raises
        ------
        Unscored
            A sound raised ClipError.
        """
        self._ledger.refresh()
        places, new = array("q"), {}
        for index, key in enumerate(keys):
            place = self._ledger.place(key)
            if place is None:
                new[index] = key
            places.append(-1 if place is None else place)
        try:
            with telling.stage(title or "score", len(new), "clip", bar=bool(title), kind="score") as told:
                sounds = ahead(partial(_try, read), new, workers=1)
                for (index, key), waveform in zip(new.items(), sounds, strict=True):
                    self._score(key, index, waveform)
                    place = self._ledger.place(key)
                    assert place is not None
                    places[index] = place
                    told.update()
        finally:
            self._ledger.close()
        return KeptScores(self._arrays, self._ledger, places)

    def known(self, keys: Iterable[str]) -> int:
        """How many of the keys have scores."""
        return sum(self._ledger.place(key) is not None for key in keys)

    def seconds(self) -> float | None:
        """What a sound took, on the mean of the first thousand; None if nothing was scored."""
        return mean_seconds(self._ledger)

    def _score(self, key: str, index: int, waveform: torch.Tensor | ClipError) -> None:
        if self._ledger.place(key) is not None:
            return  # the same sound stood before it, or another worker has scored it
        if isinstance(waveform, ClipError):
            raise Unscored(index, str(waveform)) from waveform
        if not self._ready:
            self.evaluator.prepare(self._device)
            self._ready = True
        began = time.monotonic()
        try:
            heard = self.evaluator.score(waveform)
        except ClipError as error:
            raise Unscored(index, str(error)) from error
        row: dict[str, Any] = {"key": key, "seconds": round(time.monotonic() - began, 3)}
        for name, values in heard._asdict().items():
            if values is not None:
                row[name] = self._arrays.append(values.numpy())
        self._ledger.append(row)


def _try(read: Callable[[int], torch.Tensor], index: int) -> torch.Tensor | ClipError:
    try:
        return read(index)
    except ClipError as error:
        return error
