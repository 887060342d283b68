"""Separators: what is left of a mix without the part that was added, to hold it against the background that was given.

The paper takes Spleeter's two stems. None of these separators is perfect; what one does to the true mix is a row of the
tables. Waveforms are mono at 44.1 kHz.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line
from blendbench.models.separation import Separation
from blendbench.models.weights import fill
from blendbench.resources import package_folder
from blendbench.sound import audio, files
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import mel_amplitudes
from blendbench.store.signature import file_hash

SAMPLE_RATE = 44_100
NAMES = ("none", "pocket", "demucs", "spleeter")
_WINDOW, _HOP = 4096, 1024
_STRETCH = 30 * SAMPLE_RATE


class Separator(Protocol):
    """What takes a part out of a mix."""

    def signature(self) -> dict[str, Any]:
        """What changes the result."""
        ...

    def background(self, mix: torch.Tensor) -> torch.Tensor:
        """The mix [samples] without the part."""
        ...


def separator(name: str, device: str = "cpu") -> Separator:
    """A separator by name.

    Parameters
    ----------
    name : {"none", "pocket", "demucs", "spleeter"}
        The mix itself; the built-in mask network; Demucs without vocals (Rouard et al., 2023, a substitute); the
        program `spleeter` (Hennequin et al., 2020, the paper's), where it is installed.
    device : str

    Raises
    ------
    BlendbenchError
        If the name is unknown, or program or weights are missing.
    """
    if name == "none":
        return Unseparated()
    if name == "pocket":
        return MaskSeparator(package_folder("blendbench.assets") / "separator", device)
    if name == "demucs":
        return DemucsSeparator(device)
    if name == "spleeter":
        return SpleeterSeparator()
    if Path(name).expanduser().is_dir():
        return MaskSeparator(Path(name).expanduser(), device)
    raise BlendbenchError(
        f"accompaniment.separator={name}: unknown; use one of {', '.join(NAMES)}, or a folder of "
        "`blendbench train separator`"
    )


class Unseparated:
    """No separation: mixes are compared."""

    def signature(self) -> dict[str, Any]:
        """Nothing changes it."""
        return {"separator": "none"}

    def background(self, mix: torch.Tensor) -> torch.Tensor:
        """The mix."""
        return mix


class DemucsSeparator:
    """Demucs' stems but the vocals."""

    def __init__(self, device: str = "cpu") -> None:
        self._model = Separation("htdemucs", "accompaniment.separator")
        self._model.prepare(device)

    def signature(self) -> dict[str, Any]:
        """The weights."""
        return {"separator": "demucs", "model": self._model.signature()}

    def background(self, mix: torch.Tensor) -> torch.Tensor:
        """Drums, bass and other."""
        return self._model.without(mix[None], SAMPLE_RATE, ("vocals",))[0]


class SpleeterSeparator:
    """The program `spleeter` with its model of two stems."""

    def __init__(self) -> None:
        program = shutil.which("spleeter")
        if program is None:
            raise BlendbenchError(
                "accompaniment.separator=spleeter: no such program on the path; install Spleeter in an environment of "
                "its own (Python 3.10 or older) and put its program on the path, or use pocket or demucs"
            )
        self._program: str = program

    def signature(self) -> dict[str, Any]:
        """The model's name; the program does not tell the version of its weights."""
        return {"separator": "spleeter:2stems"}

    def background(self, mix: torch.Tensor) -> torch.Tensor:
        """Its stem "accompaniment"."""
        with tempfile.TemporaryDirectory(prefix="blendbench-") as folder:
            source, made = Path(folder) / "mix.wav", Path(folder) / "mix" / "accompaniment.wav"
            files.write(source, mix, SAMPLE_RATE)
            command = [self._program, "separate", "-p", "spleeter:2stems", "-o", folder, str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0 or not made.is_file():
                raise BlendbenchError(f"spleeter: failed ({one_line(done.stderr)[-200:]}); see that it runs by itself")
            waveform = files.read(made, SAMPLE_RATE)
        return functional.pad(waveform, (0, max(len(mix) - len(waveform), 0)))[: len(mix)]


class MaskNet(nn.Module):
    """A small U-Net (Jansson et al., 2017) that says which share of each mel band is background.

    Parameters
    ----------
    widths : sequence of int
        Channels by level; each level halves bands and frames.
    """

    def __init__(self, widths: tuple[int, ...] = (12, 24, 48, 64, 64)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        sizes = [1, *widths]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 5, stride=2, padding=2), nn.GroupNorm(4, b), nn.SiLU(),
                nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU(),
            )
            for a, b in pairwise(sizes)
        )  # fmt: skip
        backwards = list(reversed(widths))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU())
            for a, b in pairwise(backwards)
        )
        self.out = nn.Conv2d(widths[0] + 1, 1, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shares [N, 512, frames] in 0..1 of compressed mel amplitudes [N, 512, frames] with peak 1.

        Frames are a multiple of 32.
        """
        hidden = pixels[:, None]
        skips = [hidden]
        for level in self.down:
            hidden = level(hidden)
            skips.append(hidden)
        skips.pop()
        for level in self.up:
            hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = level(torch.cat([hidden, skips.pop()], 1))
        hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
        # Most of a mix is background: it begins with masks near 1.
        shares: torch.Tensor = torch.sigmoid(self.out(torch.cat([hidden, skips.pop()], 1))[:, 0] + 2.0)
        return shares

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` (half precision) to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()},
                  folder / "model.safetensors")  # fmt: skip


def compressed(mel: torch.Tensor) -> torch.Tensor:
    """What the network sees of mel amplitudes [N, 512, frames]: their fourth root, as in an image, over its peak."""
    roots = mel.clamp(min=0) ** RIFFUSION.power
    return roots / roots.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


class MaskSeparator:
    """The built-in separator: `MaskNet` over mel bands, its shares taken over to a short-time spectrum.

    Parameters
    ----------
    folder : Path
        Of `blendbench train separator`.
    device : str

    Raises
    ------
    BlendbenchError
        If no readable network is there.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.file, self.device = folder / "model.safetensors", device
        try:
            state = load_file(self.file)
        except (OSError, SafetensorError) as error:
            stand_ins.refuse_weights(self.file, failed=True)
            raise BlendbenchError(f"{self.file}: no readable separator; train or copy it again") from error
        self.network = fill(MaskNet(), {name: value.float() for name, value in state.items()}, self.file, device)

    @cached_property
    def _hash(self) -> str:
        return file_hash(self.file)[:12]

    def signature(self) -> dict[str, Any]:
        """The weights."""
        return {"separator": "mask", "weights": self._hash}

    def background(self, mix: torch.Tensor) -> torch.Tensor:
        """The mix [samples] with the part's share taken out of each band; a long one stretch by stretch."""
        return _stretched(self._background, mix)

    @torch.inference_mode()
    def _background(self, mix: torch.Tensor) -> torch.Tensor:
        if not bool(mix.any()):
            return torch.zeros_like(mix)
        long = audio.extend_circular(mix, max(len(mix), RIFFUSION.win_length))
        mel = mel_amplitudes(long)[None].to(self.device)
        frames = mel.shape[-1]
        padded = functional.pad(compressed(mel), (0, -frames % 32))
        shares = self.network(padded)[0, :, :frames].cpu()
        window = torch.hann_window(_WINDOW)
        spectrum = torch.stft(long, _WINDOW, _HOP, window=window, return_complex=True)
        mask = _to_bins(shares, spectrum.shape)
        return torch.istft(spectrum * mask, _WINDOW, _HOP, window=window, length=len(long))[: len(mix)]


def _stretched(separate: Callable[[torch.Tensor], torch.Tensor], mix: torch.Tensor) -> torch.Tensor:
    """What is separated of a long sound, in stretches of half a minute that go over into each other within a second."""
    size, fade = _STRETCH, SAMPLE_RATE
    if len(mix) <= size + fade:
        return separate(mix)
    made, start = torch.zeros_like(mix), 0
    while start < len(mix):
        # The last one takes what would be less than a fade.
        stop = len(mix) if len(mix) - start <= size + 2 * fade else start + size + fade
        part = separate(mix[start:stop])
        weights = torch.ones(len(part))
        ramp = (torch.arange(fade) + 1) / (fade + 1)
        if start:
            weights[:fade] = ramp
        if stop < len(mix):
            weights[-fade:] = 1 - ramp
        made[start:stop] += weights * part
        start = len(mix) if stop == len(mix) else stop - fade
    return made


def _to_bins(shares: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Shares [bins, frames] of a short-time spectrum, from those of mel bands [512, frames]; linear between bands.

    Above the highest band its share holds on.
    """
    bins, frames = shape
    bands = len(shares)
    hertz = torch.arange(bins) * (SAMPLE_RATE / _WINDOW)
    top = 2595.0 * torch.log10(torch.tensor(1 + RIFFUSION.f_max / 700.0))
    mel = 2595.0 * torch.log10(1 + hertz / 700.0)
    place = (mel / top * (bands + 1) - 1).clamp(0, bands - 1)
    low = place.floor().long().clamp(max=bands - 2)
    weight = (place - low)[:, None]
    by_bin = shares[low] * (1 - weight) + shares[low + 1] * weight
    return functional.interpolate(by_bin[None], size=frames, mode="linear", align_corners=True)[0]
