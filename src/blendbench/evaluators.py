"""Evaluators: from waveforms to the embeddings and class logits that the metrics read, kept per file content.

An evaluator is a class named by `_target_` in `conf/evaluator` with `name`, `sample_rate`, `signature()` and
`score(waveforms [N, samples])` -> (embeddings [N, D], logits [N, C]).
"""

import base64
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from blendbench.datasets.builtin import package_folder
from blendbench.store import Ledger
from blendbench.tagger import SAMPLE_RATE, Tagger, checkpoint_hash


class PocketTagger:
    """The built-in tagger as evaluator: its embedding for FAD, its class posterior for KL.

    Parameters
    ----------
    name : str
        Name in recipes.
    checkpoint : str
        "pocket" for the built-in weights, or a folder that `blendbench train tagger` wrote.
    comparable : bool
        Whether numbers may stand beside published ones of the same name; False for built-in weights.
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

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        return {"evaluator": type(self).__name__, "checkpoint": self.fingerprint, "sample_rate": self.sample_rate}

    @torch.inference_mode()
    def score(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [N, D] and logits [N, classes] of waveforms [N, samples] at `sample_rate`, one by one.

        One clip at a time, so that a clip's scores do not depend on its neighbours, bit for bit.
        """
        if self._model is None:
            self._model = Tagger.load(self.folder)
        results = [self._model(waveform[None]) for waveform in waveforms]
        return torch.cat([pair[0] for pair in results]), torch.cat([pair[1] for pair in results])


def score_files(
    evaluator: Any,
    store: Path,
    keys: Sequence[str],
    read: Callable[[int], torch.Tensor],
    title: str = "score",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, D] and logits [N, C] of N sounds, computed once a content.

    Parameters
    ----------
    evaluator : object
        See the module's text.
    store : Path
        Folder of this evaluator's signature; its ledger is read and appended.
    keys : sequence of str
        What identifies each sound's content, such as a SHA-256 with the seconds read.
    read : callable
        From an index to the waveform [samples]; called for what the ledger lacks.
    title : str
        What the progress bar is called.
    """
    ledger = Ledger(store / "scores.jsonl", ("key",))
    embeddings, logits = [], []
    for index, key in enumerate(tqdm(keys, desc=title, unit="clip", disable=not sys.stderr.isatty())):
        row = ledger.get(key)
        if row is None:
            embedding, logit = evaluator.score(read(index)[None])
            row = {"key": key, "embedding": _encode(embedding[0]), "logits": _encode(logit[0])}
            ledger.append(row)
        embeddings.append(_decode(row["embedding"]))
        logits.append(_decode(row["logits"]))
    ledger.close()
    return torch.stack(embeddings), torch.stack(logits)


def _encode(values: torch.Tensor) -> str:
    return base64.b64encode(values.detach().cpu().numpy().astype("<f4").tobytes()).decode()


def _decode(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy())
