"""EnCodec (Défossez et al. 2022): what its encoder makes before quantisation, through transformers."""

from typing import Any

import torch
from transformers import EncodecModel

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores
from blendbench.evaluators.published import Published, read_hub_model

_KNOWN = {24_000: "encodec_24khz", 48_000: "encodec_48khz"}


class EnCodec(Published):
    """EnCodec's encoder: embeddings at 75 Hz (24 kHz) or 150 Hz (48 kHz), no classes.

    As frechet-audio-distance takes it: the whole clip at once and without the normalisation of the 48 kHz model, whose
    two channels hear the same.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    checkpoint : str, optional
        A folder in transformers' layout with safetensors, or a hub id in the local cache; None for the one that
        `blendbench.models` keeps.
    sample_rate : int
        24000 or 48000, in Hz.
    """

    in_folder = True

    def __init__(
        self, name: str, checkpoint: str | None = None, sample_rate: int = 24_000, comparable: bool = True
    ) -> None:
        if sample_rate not in _KNOWN:
            raise BlendbenchError(f"sample_rate={sample_rate}: EnCodec has weights for 24000 and 48000")
        super().__init__(name, checkpoint, comparable, _KNOWN[sample_rate])
        self.sample_rate = sample_rate

    def _load(self, device: str) -> Any:
        model = read_hub_model(EncodecModel, self.weights, "encodec", device)
        if model.config.sampling_rate != self.sample_rate:
            raise BlendbenchError(
                f"{self.weights}: an EnCodec of {model.config.sampling_rate} Hz, not {self.sample_rate}; "
                "set sample_rate or give another checkpoint"
            )
        return model

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embeddings [frames, 128] of a waveform [samples]; raises ClipError if it is empty."""
        self._check_length(waveform, 1)
        model = self.model
        channels = waveform.float().to(self._device).expand(1, model.config.audio_channels, -1)
        return Scores(model.encoder(channels)[0].T.contiguous().cpu(), None)
