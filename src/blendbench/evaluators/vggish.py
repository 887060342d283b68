"""VGGish (Hershey et al. 2017), the embedding of the first FAD, over torchvggish's network and front end.

As frechet-audio-distance takes it: without PCA and without the last activation unless asked for.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores
from blendbench.evaluators.published import Published, file_fingerprint, locate
from blendbench.models.weights import fill, read_state
from blendbench.resources import library

FRAME_SAMPLES = 15_600
"""An embedding's sound: 96 spectra of 25 ms, 10 ms apart. Embeddings are 0.96 s apart; what is left over is unheard."""


class VGGish(Published):
    """VGGish: an embedding every 0.96 s, no classes.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    checkpoint : str, optional
        The file vggish-10086976.pth of torchvggish's releases; None for the one that `blendbench.models` keeps.
    pca : bool
        Whiten and quantise to 0..255 as AudioSet's released embeddings are.
    activation : bool
        Keep the ReLU after the last layer.
    pca_checkpoint : str, optional
        As `checkpoint`: vggish_pca_params-970ea276.pth; read only with `pca`.
    """

    sample_rate = 16_000
    package, install = "torchvggish", "torchvggish"

    def __init__(
        self,
        name: str,
        checkpoint: str | None = None,
        pca: bool = False,
        activation: bool = False,
        pca_checkpoint: str | None = None,
        comparable: bool = True,
    ) -> None:
        super().__init__(name, checkpoint, comparable, "vggish")
        self.pca, self.activation, self._pca_checkpoint = pca, activation, pca_checkpoint

    @cached_property
    def pca_weights(self) -> Path:
        """The file of PCA parameters; raises BlendbenchError if it is not there."""
        return locate(self._pca_checkpoint, "vggish_pca")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights; then, with `pca`, that of its parameters."""
        return super().fingerprint + (f"+{file_fingerprint(self.pca_weights)}" if self.pca else "")

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        return {**super().signature(), "pca": self.pca, "activation": self.activation}

    def _load(self, device: str) -> Any:
        layers = library("torchvggish.torchvggish", self.install)
        front_end = library("torchvggish.vggish_input", self.install)
        state, pca = read_state(self.weights), self._read_pca(device) if self.pca else None
        network = fill(layers.VGG(layers.make_layers(), False), state, self.weights, device)
        if not self.activation:
            network.embeddings = network.embeddings[:-1]
        return front_end.waveform_to_examples, network, pca

    def _read_pca(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrix [128, 128] and means [128, 1]."""
        state = read_state(self.pca_weights)
        try:
            matrix = torch.as_tensor(state["pca_eigen_vectors"], dtype=torch.float32).reshape(128, 128)
            means = torch.as_tensor(state["pca_means"], dtype=torch.float32).reshape(128, 1)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise BlendbenchError(
                f"{self.pca_weights}: holds no PCA parameters of VGGish; give the published file"
            ) from error
        return matrix.to(device), means.to(device)

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embeddings [frames, 128] of a waveform [samples].

        Raises
        ------
        ClipError
            The clip is shorter than a frame: torchvggish would give no embedding at all.
        """
        self._check_length(waveform, FRAME_SAMPLES)
        log_mels, network, pca = self.model
        log_mel = log_mels(waveform.float().cpu().numpy(), self.sample_rate, return_tensor=False)
        embeddings = network(torch.from_numpy(log_mel)[:, None].float().to(self._device))
        if pca is not None:
            matrix, means = pca
            whitened = torch.mm(matrix, embeddings.t() - means).t()
            embeddings = torch.round((whitened.clamp(-2.0, 2.0) + 2.0) * (255.0 / 4.0))
        return Scores(embeddings.cpu(), None)
