"""The built-in tagger as evaluator: its embedding for FAD, its class logits for KL."""

from functools import cached_property
from pathlib import Path

import torch

from blendbench.evaluators import Evaluator, Scores
from blendbench.models.tagger import SAMPLE_RATE, Tagger
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder


class PocketTagger(Evaluator):
    """The tagger that travels with the package.

    Parameters
    ----------
    name : str
        Name in recipes.
    checkpoint : str
        "pocket" for the built-in weights, or a folder that `blendbench train tagger` wrote.
    comparable : bool
        See `Evaluator`.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, name: str, checkpoint: str = "pocket", comparable: bool = False) -> None:
        self.name, self.comparable = name, comparable
        self.folder = package_folder("blendbench.assets") / "tagger" if checkpoint == "pocket" else Path(checkpoint)
        self._model: Tagger | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and their config."""
        return checkpoint_hash(self.folder)

    def prepare(self, device: str) -> None:
        """Load the tagger; raises BlendbenchError if it cannot be read."""
        if self._model is None:
            self._model, self._device = Tagger.load(self.folder, device), device

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embedding [1, D] and logits [classes] of a waveform [samples] at `sample_rate`."""
        assert self._model is not None, "prepare() comes first"
        embeddings, logits = self._model(waveform[None].to(self._device))
        return Scores(embeddings.cpu(), logits[0].cpu())
