"""MR-CQTdiff: a denoising network for audio over a constant-Q transform by octaves (Costa et al., 2025; after CQTdiff+,
Moliner and Välimäki, 2023), with EDM's preconditioning (Karras et al., 2022).

The U-Net takes the top octave first. At each level the next lower octave joins on the frequency axis, until all are
there; the way up gives them back one by one. Convolutions are dilated in frequency alone, whose steps are of one
interval at any height, so that a chord looks alike wherever it lies.

Inside, features are [B, channels, bands, frames], bands from low to high. Waveforms are [B, samples], float.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from blendbench.errors import BlendbenchError
from blendbench.sound.cqt import OctaveCQT

PAPER: dict[str, Any] = {
    "bins": [8, 8, 8, 16, 16, 16, 16, 32, 32],
    "widths": [32, 32, 64, 64, 128, 128, 256, 256, 256],
    "layers": [2, 2, 3, 4, 5, 5, 4, 5, 5],
    "bottleneck": 5,
    "embedding": 256,
}
"""Of the published experiments at 44.1 kHz, 262,144 samples: 42,708,448 parameters."""
_CUBIC = (-0.01171875, -0.03515625, 0.11328125, 0.43359375, 0.43359375, 0.11328125, -0.03515625, -0.01171875)
_GROUPS = 8
_HALF = math.sqrt(0.5)


class CQTUNet(nn.Module):
    """The network F: from a waveform and a noise level to a waveform.

    Parameters
    ----------
    samples : int
        Length that it is built for; weights fit any length whose transform has the same octaves.
    bins : sequence of int
        Bands of each octave, lowest first.
    widths, layers : sequence of int
        Channels and layers of each level, that of the top octave first.
    bottleneck : int
        Layers at the bottom.
    embedding : int
        Numbers that tell a layer the noise level.
    silent : bool
        True begins with heads of 0, so that the network's output is 0 at first.

    Raises
    ------
    BlendbenchError
        If the lists do not fit each other.
    """

    def __init__(
        self,
        samples: int,
        bins: Sequence[int],
        widths: Sequence[int],
        layers: Sequence[int],
        bottleneck: int = 5,
        embedding: int = 256,
        silent: bool = False,
    ) -> None:
        super().__init__()
        if not len(bins) == len(widths) == len(layers):
            raise BlendbenchError(
                f"bins, widths and layers are {len(bins)}, {len(widths)}, {len(layers)}; give as many"
            )
        if any(width % _GROUPS for width in widths):
            raise BlendbenchError(f"widths are {list(widths)}; give multiples of {_GROUPS}")
        self.cqt = OctaveCQT(bins, samples)
        self.embed = _Embedding(embedding)
        count = len(widths)
        inner = [widths[max(level - 1, 0)] for level in range(count)]
        self.down: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "enter": _Block(2, inner[level], 1, embedding, (1, 1)),
                    "block": _Block(inner[level], widths[level], layers[level], embedding),
                    "project": nn.Conv2d(2, widths[level], (5, 3), padding="same", bias=False),
                }
            )
            for level in range(count)
        )
        last = widths[-1]
        self.middle = _Block(last, last, bottleneck, embedding)
        self.middle_head = _Block(last, 2, 1, embedding, (1, 1))
        heads = [_Block(width, 2, 1, embedding, (1, 1)) for width in inner]
        self.up: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "block": _Block(2 * widths[level], inner[level], layers[level], embedding),
                    "head": heads[level],
                }
            )
            for level in range(count)
        )
        if silent:
            for head in (self.middle_head, *heads):
                for weights in (*head.leave.parameters(), *head.shortcut.parameters()):
                    nn.init.zeros_(weights)

    def forward(self, waveforms: Tensor, level: Tensor) -> Tensor:
        """Output [B, samples] of waveforms [B, samples] and a number each that tells the noise level, [B]."""
        told = self.embed(level)
        octaves = [torch.cat([one.real[:, None], one.imag[:, None]], 1) for one in self.cqt(waveforms)][::-1]
        steps = self._steps(octaves)
        x = octaves[0][:, :, :0]
        raw, kept = x, []
        for step, octave in enumerate(octaves):
            modules = self.down[step]
            entered = modules["enter"](octave, told)
            x = entered if step == 0 else torch.cat([entered, x], 2)
            x = modules["block"](x, told)
            kept.append(x)
            raw = torch.cat([octave, raw], 2)
            if step < len(steps):
                x, raw = _shrunk(x, *steps[step]), _shrunk(raw, *steps[step])
            x = (x + modules["project"](raw)) * _HALF
        x = self.middle(x, told)
        out = self.middle_head(x, told)
        painted: list[Tensor] = []
        for step in reversed(range(len(octaves))):
            x = self.up[step]["block"](torch.cat([x, kept.pop()], 1), told)
            out = (out + self.up[step]["head"](x, told)) * _HALF
            bands = octaves[step].shape[2]
            painted.append(torch.complex(out[:, 0, :bands].float(), out[:, 1, :bands].float()))
            if step:
                x, out = (_grown(one[:, :, bands:], *steps[step - 1]) for one in (x, out))
        return self.cqt.inverse(painted)

    @staticmethod
    def _steps(octaves: Sequence[Tensor]) -> list[tuple[bool, bool]]:
        """Between neighbouring levels, from the top: whether bands and whether frames are halved."""
        sizes = [one.shape[2:] for one in octaves]
        return [(a[0] == 2 * b[0], a[1] == 2 * b[1]) for a, b in pairwise(sizes)]


class _Block(nn.Module):
    """Layers at one width, with a shortcut; the width changes before them, or after them where it leads out."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, embedding: int, kernel: tuple[int, int] = (5, 3)
    ) -> None:
        super().__init__()
        width = inputs if outputs < _GROUPS else outputs
        self.enter = nn.Conv2d(inputs, width, 1, bias=False) if inputs != width else nn.Identity()
        self.leave = nn.Conv2d(width, outputs, 1, bias=False) if width != outputs else nn.Identity()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.layers = nn.ModuleList(_Layer(width, embedding, kernel, 2**index) for index in range(layers))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        inner = self.enter(x)
        for layer in self.layers:
            inner = layer(inner, told)
        return (self.leave(inner) + self.shortcut(x)) * _HALF


class _Layer(nn.Module):
    def __init__(self, width: int, embedding: int, kernel: tuple[int, int], dilation: int) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(width))
        self.scale, self.gate = nn.Linear(embedding, width), nn.Linear(embedding, width)
        self.conv = nn.Conv2d(width, width, kernel, padding="same", dilation=(dilation, 1), bias=False)
        for weights in (self.gate.weight, self.gate.bias):
            nn.init.uniform_(weights, -1e-7, 1e-7)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        # One factor a channel: over the group's deviation, times what the layer has learned for this noise level.
        # The variance by its moments: torch's own `var` takes a third of a training's time.
        groups = x.flatten(1).unflatten(1, (_GROUPS, -1)).float()
        count = groups.shape[2]
        variance = (torch.linalg.vector_norm(groups, dim=2).square() / count - groups.mean(2).square()).clamp_min(0)
        spread = (variance * (count / (count - 1)) + 1e-7).rsqrt()
        scale = spread.repeat_interleave(x.shape[1] // _GROUPS, 1) * self.norm * (1 + self.scale(told))
        inner = self.conv(functional.gelu(x * scale.to(x.dtype)[:, :, None, None]))
        return x * _HALF + (self.gate(told) * _HALF).to(x.dtype)[:, :, None, None] * inner


class _Embedding(nn.Module):
    """Random Fourier features of the noise level, and three layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 16 * torch.randn(32, generator=torch.Generator().manual_seed(0)))
        half = width // 2
        self.layers = nn.ModuleList([nn.Linear(64, half), nn.Linear(half, width), nn.Linear(width, width)])

    def forward(self, level: Tensor) -> Tensor:
        angles = 2 * torch.pi * level.float()[:, None] * self.frequencies
        x = torch.cat([angles.sin(), angles.cos()], 1)
        for layer in self.layers:
            x = functional.relu(layer(x))
        return x


def _kernel(axis: int, like: Tensor) -> Tensor:
    taps = torch.tensor(_CUBIC, dtype=like.dtype, device=like.device)
    shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
    return taps.reshape(shape)


def _shrunk(x: Tensor, bands: bool, frames: bool) -> Tensor:
    """Half as many bands or frames, or both: smoothed by eight taps of a cubic and thinned."""
    for axis, asked in ((2, bands), (3, frames)):
        if asked:
            pad = (0, 0, 3, 3) if axis == 2 else (3, 3, 0, 0)
            smooth = functional.pad(x.flatten(0, 1)[:, None], pad, mode="reflect")
            stride = (2, 1) if axis == 2 else (1, 2)
            x = functional.conv2d(smooth, _kernel(axis, x), stride=stride)[:, 0].unflatten(0, x.shape[:2])
    return x


def _grown(x: Tensor, bands: bool, frames: bool) -> Tensor:
    """Twice as many, by the same taps."""
    for axis, asked in ((2, bands), (3, frames)):
        if asked:
            pad = (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0)
            smooth = functional.pad(x.flatten(0, 1)[:, None], pad, mode="reflect")
            stride, cut = ((2, 1), (7, 0)) if axis == 2 else ((1, 2), (0, 7))
            made = functional.conv_transpose2d(smooth, 2 * _kernel(axis, x), stride=stride, padding=cut)
            x = made[:, 0].unflatten(0, x.shape[:2])
    return x
