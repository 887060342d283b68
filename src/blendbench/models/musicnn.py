"""musicnn (Pons and Serra 2019, arXiv 1909.06654), a music tagger: network, front end, the way from its checkpoints.

Two networks of one shape: "MTT" gives 50 tags of MagnaTagATune, "MSD" 50 tags of the Million Song Dataset. They hear
16 kHz in patches of 3 s, as 187 frames of 96 mel bands. The published program rounds the mel powers to half precision
before it takes their logarithm, and so does this one.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchaudio
from torch import nn
from torch.nn import functional

from blendbench.errors import BlendbenchError
from blendbench.models import tensor_bundle
from blendbench.models.convert import of_wheel, save_made_of
from blendbench.models.weights import fill
from blendbench.store.signature import file_hash

SAMPLE_RATE = 16_000
BANDS, PATCH_FRAMES = 96, 187
N_FFT, HOP = 512, 256
TAGS = {
    "MTT": (
        "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
        "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
        "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
        "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
        "no voice", "weird", "country", "metal", "female voice", "choral",
    ),
    "MSD": (
        "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
        "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
        "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
        "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening",
        "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad",
        "House", "happy",
    ),
}  # fmt: skip
"""The tags of each network, in the order of its outputs."""
_MOST = 1 << 26
"""Bytes of a checkpoint's file that are unpacked; they have a seventh of it."""


class Heard(NamedTuple):
    """What musicnn says of N patches."""

    penultimate: torch.Tensor
    """[N, 200]"""
    mean_pool: torch.Tensor
    """[N, 753]"""
    max_pool: torch.Tensor
    """[N, 753]"""
    logits: torch.Tensor
    """[N, 50]; tags are independent, a likelihood is the sigmoid"""


class FrontEnd(nn.Module):
    """Waveforms at 16 kHz to logarithmic mel spectrograms.

    Parameters
    ----------
    pad : str
        What lies beyond a waveform's ends: "constant", zeros, as librosa does since 0.10; or "reflect", as before.
    """

    def __init__(self, pad: str = "constant") -> None:
        super().__init__()
        self.pad = pad
        self.window = nn.Buffer(torch.hann_window(N_FFT), persistent=False)
        bands = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.bands = nn.Buffer(bands, persistent=False)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """[N, 1 + samples // 256, 96] of waveforms [N, samples]."""
        spectra = torch.stft(
            waveforms, N_FFT, HOP, window=self.window, center=True, pad_mode=self.pad, return_complex=True
        )
        power = (spectra.real.square() + spectra.imag.square()).transpose(1, 2) @ self.bands
        # Half precision ends at 65,504; the program's product with 10,000 would, too, and is left in float32 here.
        return (10_000 * power.half().float() + 1).log10()


class _Convolution(nn.Module):
    """Convolution, ReLU, batch normalisation; then the maximum over what is left of frequency.

    Padded over time to keep the frames.
    """

    def __init__(self, kernel: tuple[int, int], filters: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, filters, kernel), nn.BatchNorm2d(filters, eps=1e-3)
        self.sides = (kernel[0] - 1) // 2, kernel[0] // 2

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[N, frames, filters] of [N, frames, bands]."""
        padded = functional.pad(picture[:, None], (0, 0, *self.sides))
        return self.norm(functional.relu(self.conv(padded))).amax(-1).transpose(1, 2)


class MusiCNN(nn.Module):
    """The network: patches [N, 187, 96] of `FrontEnd` to tags."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        kernels = ((7, 38), (7, 67), (128, 1), (64, 1), (32, 1))
        self.front = nn.ModuleList(_Convolution(kernel, 204 if kernel[1] > 1 else 51) for kernel in kernels)
        self.middle = nn.ModuleList(_Convolution((7, bands), 64) for bands in (561, 64, 64))
        self.pool_norm, self.dense = nn.BatchNorm1d(1506, eps=1e-3), nn.Linear(1506, 200)
        self.dense_norm, self.head = nn.BatchNorm1d(200, eps=1e-3), nn.Linear(200, 50)

    def forward(self, patches: torch.Tensor) -> Heard:
        picture = self.input_norm(patches[:, None])[:, 0]
        front = torch.cat([convolution(picture) for convolution in self.front], -1)
        parts, last = [front], self.middle[0](front)
        parts.append(last)
        for convolution in self.middle[1:]:
            last = convolution(last) + last
            parts.append(last)
        every = torch.cat(parts, -1)
        mean, most = every.mean(1), every.amax(1)
        # The published order: feature by feature, its maximum and then its mean.
        pooled = torch.stack([most, mean], -1).flatten(1)
        penultimate = self.dense_norm(functional.relu(self.dense(self.pool_norm(pooled))))
        return Heard(penultimate, mean, most, self.head(penultimate))


def from_tensorflow(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """`MusiCNN`'s state of a checkpoint's variables; raises KeyError for one that is missing."""
    convolutions = [f"{part}.{number}" for part, count in (("front", 5), ("middle", 3)) for number in range(count)]
    state = {}
    for number, name in enumerate(["input_norm", *(f"{one}.norm" for one in convolutions), "pool_norm", "dense_norm"]):
        for own, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                            ("running_var", "moving_variance")):  # fmt: skip
            state[f"{name}.{own}"] = variables[f"{_numbered('batch_normalization', number)}/{theirs}"]
    for number, name in enumerate(convolutions):
        kernel = variables[f"{_numbered('conv2d', number)}/kernel"]  # height, width, in, out
        state[f"{name}.conv.weight"] = kernel.transpose(3, 2, 0, 1)
        state[f"{name}.conv.bias"] = variables[f"{_numbered('conv2d', number)}/bias"]
    for number, name in enumerate(("dense", "head")):
        state[f"{name}.weight"] = variables[f"{_numbered('dense', number)}/kernel"].T
        state[f"{name}.bias"] = variables[f"{_numbered('dense', number)}/bias"]
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    counted = [name for name in MusiCNN().state_dict() if name.endswith("num_batches_tracked")]
    return tensors | {name: torch.tensor(0) for name in counted}


def convert(wheel: Path, folder: Path) -> None:
    """Write MSD_musicnn.safetensors and MTT_musicnn.safetensors of musicnn's wheel to a folder.

    Of the wheel nothing runs: its TensorFlow checkpoints are read as data, every checksum held against its tensor.

    Raises
    ------
    BlendbenchError
        If the wheel lacks a checkpoint, is damaged, or its weights are not musicnn's.
    """
    source = file_hash(wheel)
    for network in TAGS:
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            index, data = (Path(workplace) / name for name in (".index", ".data-00000-of-00001"))
            for file in (index, data):
                file.write_bytes(of_wheel(wheel, f"musicnn/{network}_musicnn/{file.name}", _MOST, "musicnn"))
            variables = tensor_bundle.read(index, data, lambda name: "Adam" not in name)
        try:
            state = from_tensorflow(variables)
        except KeyError as error:
            raise BlendbenchError(f"{wheel}: {network}_musicnn lacks {error}; fetch the published wheel") from error
        fill(MusiCNN(), state, wheel, "cpu")
        save_made_of(
            state, folder / f"{network}_musicnn.safetensors", f"{wheel.name}: musicnn/{network}_musicnn", source
        )


def _numbered(name: str, number: int) -> str:
    """TensorFlow's name of the number-th layer of a kind."""
    return f"{name}_{number}" if number else name
