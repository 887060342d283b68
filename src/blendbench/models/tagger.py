"""The built-in audio tagger: a log-mel convolutional network over music genres, noise kinds, instruments and mixes.

Its penultimate layer is an embedding for the Fréchet audio distance, its logits give the class posterior for the KL
divergence. Waveforms are mono, 44.1 kHz, in absolute level: the tagger hears loudness, as VGGish does.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torchaudio
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blendbench import stand_ins
from blendbench.errors import BlendbenchError

SAMPLE_RATE = 44_100
BANDS = 96


class Heard(NamedTuple):
    """What the tagger says of N sounds."""

    embeddings: torch.Tensor
    """[N, D]"""
    logits: torch.Tensor
    """[N, classes]: genres and noise kinds, one softmax"""
    instruments: torch.Tensor
    """[N, instruments]: probability of each in 0..1"""
    music_share: torch.Tensor
    """[N]: music's share of the sound's power in 0..1"""


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(self.body(features), 2)


class Tagger(nn.Module):
    """Log-mel CNN: waveforms [N, samples] to embeddings [N, D] and logits [N, classes].

    Parameters
    ----------
    classes : list of str
        Names of the classes, music genres first.
    channels : list of int
        Output channels of the convolution blocks; each halves time and frequency.
    embedding : int
        Size D of the embedding.
    instruments : sequence of str
        Names of the instruments.
    """

    def __init__(
        self,
        classes: list[str],
        channels: list[int] | None = None,
        embedding: int = 96,
        instruments: Sequence[str] = (),
    ) -> None:
        super().__init__()
        channels = channels or [16, 48, 96, 128]
        self.config = {
            "classes": list(classes),
            "instruments": list(instruments),
            "channels": list(channels),
            "embedding": embedding,
        }
        self.classes, self.instrument_names = list(classes), list(instruments)
        # Mel images end at 10 kHz, so what lies above would only tell painted from recorded music.
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=2048, hop_length=882, f_min=30.0, f_max=10_000.0, n_mels=BANDS, power=2.0
        )
        sizes = [2, *channels]
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(sizes)))
        self.project = nn.Linear(2 * channels[-1] * (BANDS >> len(channels)), embedding)
        self.head = nn.Linear(embedding, len(classes))
        self.instruments = nn.Linear(embedding, len(instruments))
        self.mix = nn.Linear(embedding, 1)

    def features(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Features [N, 2, 96, frames] of waveforms [N, samples]."""
        return self.log_mel(self.mel(waveforms))

    @staticmethod
    def log_mel(power: torch.Tensor) -> torch.Tensor:
        """Features [N, 2, bands, frames] of mel powers [N, bands, frames].

        The first is the log energy, about zero mean and unit variance at -18 LUFS; the second the same less each band's
        mean over time, which does not depend on level or colour.
        """
        energy = (torch.log(power + 1e-6) + 2.0) / 4.0
        return torch.stack([energy, 2 * (energy - energy.mean(-1, keepdim=True))], dim=1)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings [N, D] of features [N, 2, bands, frames]."""
        hidden = self.blocks(features)
        # Time is pooled; frequency stays, for a rumble is no hiss.
        pooled = torch.cat([hidden.mean(-1), hidden.amax(-1)], dim=1).flatten(1)
        return torch.tanh(self.project(pooled))

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [N, D] and logits [N, classes] of waveforms [N, samples] at 44.1 kHz."""
        embeddings = self.embed_features(self.features(waveforms))
        return embeddings, self.head(embeddings)

    def describe(self, waveforms: torch.Tensor) -> Heard:
        """Everything the tagger says of waveforms [N, samples] at 44.1 kHz."""
        embeddings, logits = self(waveforms)
        return Heard(embeddings, logits, self.instruments(embeddings).sigmoid(), self.mix(embeddings)[:, 0].sigmoid())

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision) to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        half = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items() if "mel." not in k}
        save_file({k: v.contiguous() for k, v in half.items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Tagger":
        """Read a saved tagger; raises BlendbenchError when a file is missing or does not fit."""
        try:
            model = cls(**json.loads((Path(folder) / "config.json").read_text()))
            state = load_file(Path(folder) / "model.safetensors")
            missing, unexpected = model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            stand_ins.refuse_weights(folder, failed=True)
            raise BlendbenchError(f"{folder}: not a readable tagger ({error}); train or copy it again") from error
        if unexpected or any("mel." not in name and "num_batches" not in name for name in missing):
            raise BlendbenchError(f"{folder}: weights do not fit the tagger's config.json; train or copy it again")
        return model.eval().to(device)
