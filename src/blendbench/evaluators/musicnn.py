"""musicnn (Pons and Serra 2019) as evaluator: a published judge of music whose weights lie in its PyPI wheel.

It was trained on recordings by people who know nothing of this project, so its verdicts are independent of the built-in
models. No paper that is reproduced here used it, so its numbers compare with each other only. It hears level through
log10(10000 x + 1) alone: quiet sounds change what it says, but less than in proportion.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores
from blendbench.evaluators.published import Published, file_fingerprint, locate
from blendbench.models import musicnn
from blendbench.models.weights import fill, read_state

PATCH_SAMPLES = (musicnn.PATCH_FRAMES - 1) * musicnn.HOP
"""A patch's sound: 2.976 s."""


class MusicnnTagger(Published):
    """musicnn: an embedding a patch of 3 s, and the likelihoods of 50 tags.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    network : {"MSD", "MTT"}
        Trained on the Million Song Dataset's tags, or MagnaTagATune's.
    checkpoint : str, optional
        A folder with MSD_musicnn.safetensors and MTT_musicnn.safetensors; None for what `blendbench models` keeps.
    layer : {"penultimate", "mean_pool", "max_pool"}
        What the embedding is: 200, 753 or 753 numbers.
    hop_seconds : float
        Between the starts of two patches; what is left at the end is unheard.
    pad : {"constant", "reflect"}
        Beyond a clip's ends: zeros, as librosa does since 0.10, or its reflection, as before.
    """

    sample_rate = musicnn.SAMPLE_RATE

    def __init__(
        self,
        name: str,
        network: Literal["MSD", "MTT"] = "MSD",
        checkpoint: str | None = None,
        layer: Literal["penultimate", "mean_pool", "max_pool"] = "penultimate",
        hop_seconds: float = 1.0,
        pad: Literal["constant", "reflect"] = "constant",
        comparable: bool = False,
    ) -> None:
        super().__init__(name, checkpoint, comparable, "musicnn")
        if not hop_seconds > 0:
            raise BlendbenchError(f"hop_seconds={hop_seconds:g}: give seconds above 0")
        self.network, self.layer, self.hop_seconds, self.pad = network, layer, hop_seconds, pad

    @cached_property
    def weights(self) -> Path:
        """The network's file; raises BlendbenchError, with what to type, if it is not there."""
        folder = locate(self._checkpoint, self._known)
        file = folder / f"{self.network}_musicnn.safetensors"
        if not file.is_file():
            raise BlendbenchError(f"{file}: no such file; type `blendbench models fetch musicnn`")
        return file

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the network's file."""
        return file_fingerprint(self.weights)

    @property
    def tags(self) -> tuple[str, ...]:
        """What the logits stand for."""
        return musicnn.TAGS[self.network]

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        return {**super().signature(), "layer": self.layer, "hop_seconds": self.hop_seconds, "pad": self.pad}

    def _load(self, device: str) -> Any:
        network = fill(musicnn.MusiCNN(), read_state(self.weights), self.weights, device)
        return musicnn.FrontEnd(self.pad).to(device), network

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embeddings [patches, D] of a waveform [samples], and logits [50] of the tags' mean likelihoods.

        Raises
        ------
        ClipError
            The clip is shorter than a patch.
        """
        self._check_length(waveform, PATCH_SAMPLES)
        front_end, network = self.model
        frames = front_end(waveform[None].float().to(self._device))[0]
        hop = self.hop_seconds * self.sample_rate / musicnn.HOP
        starts = range(int((len(frames) - musicnn.PATCH_FRAMES) / hop) + 1)
        patches = [frames[round(number * hop) :][: musicnn.PATCH_FRAMES] for number in starts]
        heard = network(torch.stack(patches))
        # As in the published program, the mean over patches is that of likelihoods; its logit, without rounding to 1.
        yes, no = (logsigmoid(sign * heard.logits).logsumexp(0) for sign in (1, -1))
        return Scores(getattr(heard, self.layer).cpu(), (yes - no).cpu())
