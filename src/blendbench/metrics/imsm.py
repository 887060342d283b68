"""IMSM: whether music fits its picture, by way of texts that both are held against (MeLFusion)."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators import Evaluator, TextEvaluator
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound, imsm_score
from blendbench.models.clip import ClipCheckpoint

LEAST = 2
"""Fewest pairs that can be compared."""


class IMSM(ItemMetric):
    """Of each picture and its music the probability that both mean the same of a cell's captions.

    Pictures are held against the captions of a cell (a data set, an arm, a presentation) by CLIP, music by CLAP.

    Parameters
    ----------
    evaluator : TextEvaluator
        Music and texts; it has a learned `scale`.
    clip : dict
        Parameters of `ClipCheckpoint` after the key: pictures and texts.
    reduce : {"diagonal", "diagonal_softmax", "recall"}
        See `imsm_score.imsm`.

    Raises
    ------
    BlendbenchError
        If the evaluator knows no texts or has no scale, or `reduce` is unknown.
    """

    facts = {
        "imsm": Facts("IMSM", "", True, "Chowdhury et al. (2024), MeLFusion, and its code's imsm_calculator.py")
    }  # fmt: skip
    keep = False

    def __init__(self, evaluator: Evaluator, clip: Mapping[str, Any], reduce: imsm_score.Reduce = "diagonal") -> None:
        if not isinstance(evaluator, TextEvaluator) or not hasattr(type(evaluator), "scale"):
            raise BlendbenchError(
                f"evaluator.prompt: {evaluator.name} has no scaled similarities to texts; take evaluator=clap"
            )
        imsm_score.bounds(reduce, LEAST)
        self.evaluator: TextEvaluator = evaluator
        self.clip, self.reduce = ClipCheckpoint("metric.imsm.clip", **clip), reduce
        self._words, self._pictures = dict[str, tuple[torch.Tensor, torch.Tensor]](), dict[str, torch.Tensor | None]()

    def signature(self) -> dict[str, Any]:
        """Both models, and the reduction."""
        return super().signature() | self.clip.signature() | {"reduce": self.reduce}

    def measure(self, sound: Sound) -> dict[str, float]:
        """Nothing is to be said of one pair."""
        return {"imsm": math.nan}

    def measure_all(self, sounds: Sequence[Sound]) -> Iterator[dict[str, float]]:
        """Values of all; nan where an item has no picture, or its cell fewer than two pairs or captions."""
        cells: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for index in range(len(sounds)):
            row = sounds[index].row
            cells[tuple(row[name] for name in ("dataset", "arm", "presentation"))].append(index)
        values = [math.nan] * len(sounds)
        for indices in cells.values():
            found = [(index, seen) for index in indices if (seen := self._seen(sounds[index])) is not None]
            texts = list(dict.fromkeys(str(sounds[index].row["prompt"]) for index, _ in found))
            if len(found) < LEAST or len(texts) < LEAST:
                continue
            by_clip, by_evaluator = (torch.stack(side) for side in zip(*map(self._text, texts), strict=True))
            images = self.clip.get("cpu").scale * torch.stack([seen for _, seen in found]) @ by_clip.T
            heard = torch.stack([self._music(sounds[index]) for index, _ in found])
            cosines = torch.nn.functional.normalize(heard, dim=1) @ by_evaluator.T
            scored = imsm_score.imsm(images, float(self.evaluator.scale) * cosines, self.reduce)  # type: ignore[attr-defined]
            for (index, _), value in zip(found, scored.tolist(), strict=True):
                values[index] = value
        return iter([{"imsm": value} for value in values])

    def _text(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Of length 1 by CLIP, and by the evaluator; arms have the same captions."""
        if text not in self._words:
            own = torch.nn.functional.normalize(self.evaluator.score_text(text), dim=0)
            self._words[text] = self.clip.get("cpu").text(text), own
        return self._words[text]

    def _seen(self, sound: Sound) -> torch.Tensor | None:
        """An item's picture by CLIP, of length 1; None where it has none. Arms have the same items."""
        inputs = str(sound.row["inputs"])
        if inputs not in self._pictures:
            try:
                picture = getattr(sound.given(), "image", None)
            except ClipError:
                picture = None
            self._pictures[inputs] = None if picture is None else self.clip.get("cpu").picture(picture)
        return self._pictures[inputs]

    def _music(self, sound: Sound) -> torch.Tensor:
        embeddings = sound.scores(self.evaluator).embeddings
        if embeddings is None:
            raise BlendbenchError(f"evaluator.prompt: {self.evaluator.name} makes no embeddings; take another")
        return embeddings.mean(0)

    def recipe(self, name: str, measured: Measured) -> str:
        """The reduction, and what it is over."""
        return (
            f"{self.reduce} of CLIP (picture, captions) times CLAP (music, captions), over a cell's pairs and captions"
        )
