"""An evaluator asked window by window: several embeddings a sound, for pieces longer than what it has learnt."""

from typing import Any

import torch

from blendbench.errors import ClipError
from blendbench.evaluators import Evaluator, Scores


class Windowed(Evaluator):
    """Another evaluator over windows of a sound, one after the other; the rest at the end counts from half a window.

    Parameters
    ----------
    of : Evaluator
    seconds : float
        Of a window.
    """

    def __init__(self, of: Evaluator, seconds: float = 5.0) -> None:
        self.of, self.seconds = of, float(seconds)
        self.name, self.comparable, self.sample_rate = (
            f"{of.name}, {seconds:g}-s windows",
            of.comparable,
            of.sample_rate,
        )

    @property
    def fingerprint(self) -> str:
        """That of the evaluator's weights."""
        return self.of.fingerprint

    def signature(self) -> dict[str, Any]:
        """That of the evaluator, and the windows."""
        return self.of.signature() | {"window_seconds": self.seconds}

    def prepare(self, device: str) -> None:
        """Load the evaluator's weights."""
        self.of.prepare(device)

    def score(self, waveform: torch.Tensor) -> Scores:
        """Embeddings [windows, D] and the mean of the logits; raises ClipError where no window can be scored."""
        size = round(self.seconds * self.sample_rate)
        parts = [part for part in waveform.split(size) if len(part) * 2 >= size] or [waveform]
        scores = []
        for part in parts:
            try:
                scores.append(self.of.score(part))
            except ClipError:
                continue  # a silent window
        if not scores:
            raise ClipError("no window of it can be scored; is it silent?")
        embeddings = [one.embeddings for one in scores if one.embeddings is not None]
        logits = [one.logits for one in scores if one.logits is not None]
        return Scores(torch.cat(embeddings) if embeddings else None, torch.stack(logits).mean(0) if logits else None)
