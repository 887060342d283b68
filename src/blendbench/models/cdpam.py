"""CDPAM (Manocha et al. 2021, arXiv 2102.05109), how far apart two sounds seem: the network, the way from its wheel.

It learnt from speech at 22,050 Hz, and hears samples at the scale of 16-bit integers. A sound is encoded by itself,
which takes nearly all of the time: 7 million operations a sample. The distance of two encodings costs nothing.
"""

import io
import pickle
import pickletools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from blendbench.errors import BlendbenchError
from blendbench.models.convert import of_wheel, save_made_of
from blendbench.models.weights import fill, read_state
from blendbench.store.signature import file_hash

SAMPLE_RATE = 22_050
"""What it was trained at, in Hz."""
FULL_SCALE = 32_768
FILTERS = 64
"""Channels of the first convolutions."""
WEIGHTS = "cdpam.safetensors"
"""The file that `convert` writes."""
_CHECKPOINT = "cdpam/CDPAM_trained/scratchJNDdefault_best_model.pth"
_LAYERS, _PER_RATE = 16, 4
_MOST = 1 << 27
"""Bytes of the checkpoint that are unpacked; it has four fifths of it."""


class CDPAM(nn.Module):
    """The network: an encoder of sixteen convolutions, and four layers whose differences are a distance."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        inner = 1
        for number in range(_LAYERS):
            halves_time = (number + 1) % _PER_RATE == 0
            outer = FILTERS << (number + 1) // _PER_RATE
            # The upper half of what comes last is what is said, not how it sounds: no distance needs it.
            outer = outer // 2 if number == _LAYERS - 1 else outer
            # The program computes all samples and drops every second.
            self.convolutions.append(nn.Conv1d(inner, outer, 15, stride=2 if halves_time else 1, padding=7))
            self.norms.append(nn.BatchNorm1d(outer))
            inner = outer
        sizes = (inner, 256, 64, 16, 4)
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.importance = nn.ParameterList(torch.ones(size) for size in sizes[1:])

    def encode(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Encodings [N, 512] of length 1, of waveforms [N, samples] with full scale at 32,768."""
        sound = waveforms[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            sound = functional.leaky_relu(norm(convolution(sound)), 0.1)
        return functional.normalize(sound.mean(-1))

    def distance(self, reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Distances [N], 0 or more, of encodings [N, 512]."""
        both, total = torch.stack([reference, other]), reference.new_zeros(len(reference))
        for layer, importance in zip(self.layers, self.importance, strict=True):
            both = layer(both)
            if layer is not self.layers[-1]:
                both = functional.leaky_relu(both)
            total = total + ((both[1] - both[0]) * importance).abs().sum(-1)
        return total


def load(file: Path, device: str = "cpu") -> CDPAM:
    """The network with the weights that `convert` wrote, for inference; raises BlendbenchError as `fill`."""
    with torch.random.fork_rng(devices=[]):  # networks are drawn at random before they are filled
        return fill(CDPAM(), read_state(file), file, device)


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`CDPAM`'s state of the checkpoint's; raises KeyError for what is missing."""
    names = {}
    for number in range(_LAYERS):
        for part in ("weight", "bias"):
            names[f"convolutions.{number}.{part}"] = f"base_encoder.encoder.{number}.{part}"
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            names[f"norms.{number}.{part}"] = f"base_encoder.ebatch.{number}.{part}"
    for number in range(4):
        for part in ("weight", "bias"):
            names[f"layers.{number}.{part}"] = f"model_dist.convs.{number}.0.{part}"
        names[f"importance.{number}"] = f"model_dist.chan_w.{number}"
    made = {}
    for own, theirs in names.items():
        value = state[theirs]
        if own.split(".")[1] == str(_LAYERS - 1) and value.ndim:
            value = value.chunk(2)[0]  # how it sounds, without what is said
        made[own] = value.clone(memory_format=torch.contiguous_format)
    return made


def convert(wheel: Path, folder: Path) -> None:
    """Write cdpam.safetensors of CDPAM's wheel to a folder.

    Of the wheel nothing runs: its checkpoint is read as data alone.

    Raises
    ------
    BlendbenchError
        If the wheel lacks the checkpoint, is damaged, or its weights are not CDPAM's.
    """
    content = of_wheel(wheel, _CHECKPOINT, _MOST, "CDPAM")
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        file = Path(workplace) / Path(_CHECKPOINT).name
        file.write_bytes(_with_known_integers(content))
        found = read_state(file)
    state = found.get("state") if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping):
        raise BlendbenchError(f"{wheel}: its checkpoint holds no state; fetch the published wheel")
    try:
        made = from_published({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    except KeyError as error:
        raise BlendbenchError(f"{wheel}: its checkpoint lacks {error}; fetch the published wheel") from error
    fill(CDPAM(), made, wheel, "cpu")
    save_made_of(made, folder / WEIGHTS, f"{wheel.name}: {_CHECKPOINT}", file_hash(wheel))


def _with_known_integers(content: bytes) -> bytes:
    """A checkpoint from before PyTorch 1.6 with its long integers in the one form that PyTorch's reader of data knows.

    Python 2 wrote those of over 32 bits in digits (opcode INT), with which the reader stops; they are keys of the
    optimiser's state. Nothing of the pickles runs here; what is no pickle is left to the reader, which says so.
    """
    stream, made, done = io.BytesIO(content), bytearray(), 0
    try:
        for _ in range(4):  # magic number, version, system, what was saved
            for opcode, value, place in pickletools.genops(stream):
                if opcode.name == "INT" and value is not None and place is not None:
                    digits = pickle.encode_long(value)
                    made += content[done:place] + pickle.LONG1 + bytes([len(digits)]) + digits
                    done = stream.tell()
    except ValueError:
        return content
    return bytes(made) + content[done:]
