"""Msanii's networks: a U-Net and a vocoder over the frames of mel spectrograms, and the scaling of what they see.

Both treat a spectrogram [B, channels, mels, frames] as tokens: a frame of a channel is one, its mels are its features.
Parameters carry the names of the published code, so that its weights load; at the paper's size there are 49,878,016
and 1,412,097 of them.

A model is a folder: `config.json` and `model.safetensors`. Waveforms are float32, [B, channels, samples].

Source: Maina (2023), Msanii: High Fidelity Music Synthesis on a Shoestring Budget; specs/msanii.md tells where paper
and code part, and what is our choice.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blendbench.errors import BlendbenchError, ClipError, one_line, printable
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.convert import save_made_of
from blendbench.models.weights import read_state, save_half
from blendbench.store.signature import file_hash
from blendbench.store.write import make_folder, write_text

FLOOR = 1e-5
"""Added to mel amplitudes before the logarithm: silence is -11.513."""
SETTINGS = {
    "fit": ("first_batches", "dataset"),
    "train": ("batch", "running"),
    "infer": ("running", "batch"),
    "variance": ("biased", "unbiased"),
    "decay_at": ("before", "after"),
}


@dataclass(frozen=True)
class FrontEnd:
    """From waveforms to log mel spectrograms.

    Parameters
    ----------
    sample_rate : int
        In Hz.
    n_fft, hop : int
        Length of the periodic Hann window, and samples between frames; centred, reflected at the ends.
    mels : int
        HTK triangles from 0 Hz to half the sample rate, unnormalised.
    """

    sample_rate: int = 44_100
    n_fft: int = 2048
    hop: int = 1024
    mels: int = 128

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return 1 + samples // self.hop

    def extended(self, samples: int, factor: int) -> int:
        """The next number of samples whose frames a factor divides."""
        return (math.ceil(self.frames(samples) / factor) * factor - 1) * self.hop

    def magnitudes(self, waveform: Tensor) -> Tensor:
        """Magnitudes [..., n_fft // 2 + 1, frames] of waveforms [..., samples].

        Raises
        ------
        ClipError
            If they are not longer than half a window.
        """
        if waveform.shape[-1] <= self.n_fft // 2:
            raise ClipError(f"{waveform.shape[-1]} samples are too few; give at least {self.n_fft // 2 + 1}")
        window = torch.hann_window(self.n_fft, dtype=waveform.dtype, device=waveform.device)
        flat = waveform.reshape(-1, waveform.shape[-1])
        spectra = torch.stft(
            flat, self.n_fft, self.hop, window=window, center=True, pad_mode="reflect", return_complex=True
        ).abs()
        return spectra.reshape(*waveform.shape[:-1], *spectra.shape[-2:])

    def bank(self, like: Tensor) -> Tensor:
        """The mel bank [mels, n_fft // 2 + 1], in the precision and place of a tensor."""
        return _bank(self).to(like)

    def mel(self, magnitudes: Tensor) -> Tensor:
        """Mel amplitudes [..., mels, frames] of magnitudes."""
        return self.bank(magnitudes) @ magnitudes

    def log_mel(self, waveform: Tensor) -> Tensor:
        """log(mel + 1e-5), [..., mels, frames] of waveforms [..., samples]."""
        return (self.mel(self.magnitudes(waveform)) + FLOOR).log()

    def pseudo_inverse(self, mel: Tensor) -> Tensor:
        """Magnitudes of mel amplitudes by the bank's pseudo-inverse, nothing below 0; the paper's baseline."""
        return (_pseudo_inverse(self).to(mel) @ mel).clamp(min=0)


@lru_cache(maxsize=8)
def _bank(front: FrontEnd) -> Tensor:
    # In float64 throughout, which torchaudio's, otherwise the same, is not.
    highest = 2595 * math.log10(1 + front.sample_rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, highest, front.mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, front.sample_rate / 2, front.n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


@lru_cache(maxsize=8)
def _pseudo_inverse(front: FrontEnd) -> Tensor:
    return torch.linalg.pinv(_bank(front))


class Scaler(nn.Module):
    """Log mel spectrograms to -1..1 by scalar statistics, and back: to mean 0 and variance 1, then by the extremes.

    In training the running statistics follow the batches: the first is copied, and then each counts for less. With
    `fit` dataset they are set once, by `fit_to`, and stay.

    Parameters
    ----------
    fit : "first_batches" or "dataset"
        Whose statistics the running ones are.
    train, infer : "batch" or "running"
        What scales a batch in training, and otherwise; the inverse takes the running ones.
    variance : "biased" or "unbiased"
        The paper's, or the code's.
    decay_at : "before" or "after"
        Whether the momentum decays before it is used (the paper), or after (the code).
    momentum, decay : float
        What a batch counts for, and what becomes of it with every step.
    """

    def __init__(
        self,
        fit: str = "first_batches",
        train: str = "batch",
        infer: str = "running",
        variance: str = "biased",
        decay_at: str = "before",
        momentum: float = 1e-3,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        given = {"fit": fit, "train": train, "infer": infer, "variance": variance, "decay_at": decay_at}
        for name, value in given.items():
            if value not in SETTINGS[name]:
                raise BlendbenchError(f"scaling.{name} is {value!r}; choose {' or '.join(SETTINGS[name])}")
        self.fit, self.by, self.variance, self.decay_at = fit, {True: train, False: infer}, variance, decay_at
        self.decay = decay
        self.config: dict[str, Any] = given | {"momentum": momentum, "decay": decay}
        for name, start in (("momentum", momentum), ("mean", 0.0), ("var", 1.0), ("low", 0.0), ("high", 1.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))
        self.momentum: Tensor
        self.mean: Tensor
        self.var: Tensor
        self.low: Tensor
        self.high: Tensor
        self.fitted: Tensor

    @torch.no_grad()
    def fit_to(self, log_mel: Tensor) -> None:
        """Set the running statistics to those of a data set's log mel spectrograms, of any shape."""
        mean, var = self._moments(log_mel)
        standard = (log_mel - mean) / (var + 1e-5).sqrt()
        for name, value in (("mean", mean), ("var", var), ("low", standard.min()), ("high", standard.max())):
            getattr(self, name).copy_(value)
        self.fitted.fill_(True)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Scaled to -1..1, over the whole batch; in training the running statistics take it in.

        Raises
        ------
        ClipError
            If the batch scales by itself, and all of it is one value.
        """
        own = self.by[self.training]
        if own == "batch" or (self.training and self.fit == "first_batches"):
            mean, var = self._moments(log_mel)
            standard = (log_mel - mean) / (var + 1e-5).sqrt()
            low, high = standard.amin(), standard.amax()
            if not high > low:
                raise ClipError("is silent, or one value throughout; give music")
            if self.training and self.fit == "first_batches":
                self._follow(mean, var, low, high)
            if own == "batch":
                return _between((standard - low) / (high - low))
        # Buffers change in place: what autograd keeps of them must not.
        mean, var, low, high = (one.clone().to(log_mel) for one in (self.mean, self.var, self.low, self.high))
        return _between(((log_mel - mean) / (var + 1e-5).sqrt() - low) / (high - low))

    def inverse(self, scaled: Tensor) -> Tensor:
        """The log mel spectrogram of a scaled one, by the running statistics."""
        mean, var, low, high = (one.to(scaled) for one in (self.mean, self.var, self.low, self.high))
        standard = (scaled.clamp(-1, 1) + 1) / 2 * (high - low) + low
        return standard * (var + 1e-5).sqrt() + mean

    @property
    def scaled_mean(self) -> float:
        """What the running mean is scaled to."""
        return float((-self.low / (self.high - self.low)) * 2 - 1)

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values.mean(), values.var(correction=int(self.variance == "unbiased"))

    @torch.no_grad()
    def _follow(self, *batch: Tensor) -> None:
        if self.decay_at == "before":
            self.momentum.mul_(self.decay)
        share = self.momentum if bool(self.fitted) else torch.ones_like(self.momentum)
        for running, value in zip((self.mean, self.var, self.low, self.high), batch, strict=True):
            running.copy_((1 - share) * running + share * value.to(running))
        if self.decay_at == "after":
            self.momentum.mul_(self.decay)
        self.fitted.fill_(True)


def _between(unit: Tensor) -> Tensor:
    return (unit * 2 - 1).clamp(-1, 1)


class _Residual(nn.Module):
    """Norm, convolution, the time's word, and a perceptron a frame; added to what came in."""

    def __init__(self, inner: int, outer: int, hidden: int, timestep: int | None, across: int) -> None:
        super().__init__()
        kernel = nn.Conv2d(inner, outer, (across, 3), padding=(across // 2, 1))
        self.in_fn = nn.Sequential(nn.InstanceNorm2d(inner), kernel)
        self.out_fn = nn.Sequential(
            nn.GELU(), nn.Conv2d(outer, outer * hidden, 1), nn.GELU(), nn.Conv2d(outer * hidden, outer, 1)
        )
        self.timestep_fn = None if timestep is None else nn.Conv2d(timestep, outer, 1)
        self.residual_fn = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        inside = self.in_fn(x)
        if self.timestep_fn is not None:
            inside = inside + self.timestep_fn(time)
        return self.out_fn(inside) + self.residual_fn(x)


class _Attention(nn.Module):
    """Linear attention over the frames of each channel (Shen et al., 2021); added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_fn = nn.Sequential(nn.InstanceNorm2d(width), nn.Conv2d(width, 3 * width, 1))
        self.out_fn = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, channels, frames = x.shape
        each = width // self.heads
        parts = self.in_fn(x).reshape(batch, 3, self.heads, each, channels, frames).permute(1, 0, 4, 2, 3, 5)
        query, key, value = parts
        context = key.softmax(-1) @ (value / frames).transpose(-1, -2)
        made = context.transpose(-1, -2) @ (query.softmax(-2) / math.sqrt(each))
        return self.out_fn(made.permute(0, 2, 3, 1, 4).reshape(batch, width, channels, frames)) + x


class _Block(nn.Module):
    def __init__(
        self, inner: int, outer: int, hidden: int, timestep: int, across: int, heads: int, attends: bool
    ) -> None:
        super().__init__()
        self.residual_fn = _Residual(inner, outer, hidden, timestep, across)
        self.attention_fn = _Attention(outer, heads) if attends else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        attended: Tensor = self.attention_fn(self.residual_fn(x, time))
        return attended


class _Middle(nn.Module):
    def __init__(self, width: int, hidden: int, timestep: int, across: int, heads: int) -> None:
        super().__init__()
        self.in_residual_fn = _Residual(width, width, hidden, timestep, across)
        self.attention_fn = _Attention(width, heads)
        self.out_residual_fn = _Residual(width, width, hidden, timestep, across)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        made: Tensor = self.out_residual_fn(self.attention_fn(self.in_residual_fn(x, time)), time)
        return made


class _Time(nn.Module):
    """Sines and cosines of a time, and a perceptron."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.fn = nn.Sequential(nn.Linear(width, width * hidden), nn.GELU(), nn.Linear(width * hidden, width))

    def forward(self, time: Tensor) -> Tensor:
        weight, half = next(self.fn.parameters()), self.width // 2
        steps = torch.arange(half, device=weight.device).to(weight.dtype) / (half - 1)
        angles = time[:, None].to(weight.dtype) * 10_000**-steps
        made: Tensor = self.fn(torch.cat((angles.sin(), angles.cos()), -1))
        return made[:, :, None, None]


class UNet(nn.Module):
    """The noise in noisy scaled spectrograms.

    Parameters
    ----------
    mels, width : int
        Features of a token, and within the network; the paper has the width at least twice the mels.
    levels : int
        Time is halved after each but the last.
    blocks : int
        A level, on the way down and up again.
    attention_levels : int
        How many of the last levels attend.
    heads, timestep, hidden : int
        Heads of the attention, width of the time's word, factor of the perceptrons' inner width.
    across : int
        How many neighbouring channels a convolution sees, 3 or 1; a model of one channel needs no more than 1.
    """

    def __init__(
        self,
        mels: int = 128,
        width: int = 256,
        levels: int = 7,
        blocks: int = 2,
        attention_levels: int = 2,
        heads: int = 8,
        timestep: int = 128,
        hidden: int = 4,
        across: int = 3,
    ) -> None:
        super().__init__()
        if width % heads or timestep % 2 or across not in (1, 3):
            raise BlendbenchError(
                f"unet: width {width}, heads {heads}, timestep {timestep}, across {across}: heads must divide the "
                "width, timestep be even, across be 1 or 3"
            )
        self.config: dict[str, Any] = {
            "mels": mels, "width": width, "levels": levels, "blocks": blocks, "attention_levels": attention_levels,
            "heads": heads, "timestep": timestep, "hidden": hidden, "across": across,
        }  # fmt: skip
        self.factor = 2 ** (levels - 1)
        attends = [level >= levels - attention_levels for level in range(levels)]
        # Under the published names, in which the tokens' turning had a place of its own in each sequence.
        self.input_fn = nn.Sequential(nn.Identity(), nn.Conv2d(mels, width, 1))
        self.output_fn = nn.Sequential(nn.Conv2d(width, mels, 1))
        self.timestep_embedding = _Time(timestep, hidden)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for level in range(levels):
            down += [_Block(width, width, hidden, timestep, across, heads, attends[level]) for _ in range(blocks)]
            if level < levels - 1:
                down.append(nn.Conv2d(width, width, (1, 3), (1, 2), (0, 1)))
        for level in reversed(range(levels)):
            if level < levels - 1:
                up.append(nn.ConvTranspose2d(width, width, (1, 4), (1, 2), (0, 1)))
            up += [_Block(2 * width, width, hidden, timestep, across, heads, attends[level]) for _ in range(blocks)]
        self.encoder_blocks, self.decoder_blocks = nn.ModuleList(down), nn.ModuleList(up)
        self.middle_block = _Middle(width, hidden, timestep, across, heads)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The noise [B, channels, mels, frames] in spectrograms of that shape at times [B] in 0..999.

        The number of frames must be a multiple of `factor`.
        """
        word = self.timestep_embedding(time)
        inside = self.input_fn(x.transpose(1, 2))
        skips: list[Tensor] = []
        for module in self.encoder_blocks:
            if isinstance(module, _Block):
                inside = module(inside, word)
                skips.append(inside)
            else:
                inside = module(inside)
        inside = self.middle_block(inside, word)
        for module in self.decoder_blocks:
            joined = isinstance(module, _Block)
            inside = module(torch.cat((inside, skips.pop()), 1), word) if joined else module(inside)
        made: Tensor = self.output_fn(inside)
        return made.transpose(1, 2)


class Vocoder(nn.Module):
    """Linear magnitudes of scaled mel spectrograms, frame by frame but for one convolution.

    Parameters
    ----------
    n_fft, mels, width, hidden, across : int
        As of the front end and the U-Net.
    """

    def __init__(self, n_fft: int = 2048, mels: int = 128, width: int = 256, hidden: int = 4, across: int = 3) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "n_fft": n_fft, "mels": mels, "width": width, "hidden": hidden, "across": across
        }  # fmt: skip
        self.fn = nn.Sequential(
            nn.Sequential(nn.Identity(), nn.Conv2d(mels, width, 1)),
            _Residual(width, width, hidden, None, across),
            nn.Sequential(nn.Conv2d(width, n_fft // 2 + 1, 1)),
        )

    def forward(self, scaled: Tensor) -> Tensor:
        """Magnitudes [B, channels, n_fft // 2 + 1, frames] of scaled mel spectrograms [B, channels, mels, frames]."""
        made: Tensor = self.fn(scaled.transpose(1, 2))
        return made.transpose(1, 2).exp()


class Msanii(nn.Module):
    """Front end, scaling, U-Net and vocoder together.

    Parameters
    ----------
    front, scaling, unet, vocoder : dict
        Parameters of `FrontEnd`, `Scaler`, `UNet` and `Vocoder`; sizes that follow from others are left out: mels and
        n_fft.
    channels : int
        Channels that it has learnt from, 1 or 2.
    level : float or None
        RMS that recordings are brought to before it hears them, as it knows music; None leaves them as they are.
    frames : int or None
        Length of the examples that it has learnt from, where that is known.
    """

    def __init__(
        self,
        front: dict[str, Any] | None = None,
        scaling: dict[str, Any] | None = None,
        unet: dict[str, Any] | None = None,
        vocoder: dict[str, Any] | None = None,
        channels: int = 2,
        level: float | None = None,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        self.front = FrontEnd(**(front or {}))
        self.scaler = Scaler(**(scaling or {}))
        self.unet = UNet(**{"mels": self.front.mels} | (unet or {}))
        self.vocoder = Vocoder(**{"mels": self.front.mels, "n_fft": self.front.n_fft} | (vocoder or {}))
        self.channels, self.level, self.frames = channels, level, frames
        if channels not in (1, 2):
            raise BlendbenchError(f"msanii: channels is {channels}; give 1 or 2")

    @property
    def config(self) -> dict[str, Any]:
        """What makes it again."""
        sizes = {"mels", "n_fft"}
        return {
            "front": asdict(self.front),
            "scaling": self.scaler.config,
            "unet": {name: value for name, value in self.unet.config.items() if name not in sizes},
            "vocoder": {name: value for name, value in self.vocoder.config.items() if name not in sizes},
            "channels": self.channels,
            "level": self.level,
            "frames": self.frames,
        }

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.unet.parameters()).device

    def encode(self, waveform: Tensor) -> Tensor:
        """Scaled spectrograms [B, channels, mels, frames] of waveforms [B, channels, samples], each by itself."""
        return torch.cat([self.scaler(self.front.log_mel(one[None])) for one in waveform])

    def magnitudes(self, scaled: Tensor, vocoder: bool = True) -> Tensor:
        """Magnitudes of scaled spectrograms, by the vocoder or the mel bank's pseudo-inverse."""
        if vocoder:
            made: Tensor = self.vocoder(scaled)
            return made
        return self.front.pseudo_inverse((self.scaler.inverse(scaled).exp() - FLOOR).clamp(min=0))

    def save(self, folder: Path | str) -> None:
        """Write it, weights in half precision, statistics as they are."""
        save_half(self, folder, self.config)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Msanii":
        """Read a saved model, for inference.

        Raises
        ------
        BlendbenchError
            If a file is missing or does not fit.
        """
        folder = Path(folder)
        try:
            model = cls(**json.loads((folder / "config.json").read_text()))
            state = load_file(folder / "model.safetensors")
            model.load_state_dict(state)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, BlendbenchError) as error:
            raise BlendbenchError(
                f"{folder}: not a model of Msanii ({error}); give a folder of `blendbench train msanii`"
            ) from error
        model.unet.to(dtype)
        return model.eval().requires_grad_(False).to(device)


def convert_published(source: Path, folder: Path) -> None:
    """Write the published checkpoint as a folder: a pickle of U-Net, vocoder and scaling, read as data alone.

    The settings that lie beside them in the pickle are passed over; sizes are the paper's. The scaling's statistics are
    taken over; recordings are scaled by them, as the paper has it, where the released code scales each by its own
    (`scaling.infer: batch` in `config.json`).

    Parameters
    ----------
    source : Path
    folder : Path
        Where `config.json` and `model.safetensors` go.

    Raises
    ------
    BlendbenchError
        If the file is damaged, or holds no Msanii of the paper's size.
    """
    held = read_state(source, inert=True)
    try:
        state = {f"{part}.{name}": value for part in ("unet", "vocoder") for name, value in held[part].items()}
        statistics = held["transforms"]
        state |= {f"scaler.{own}": statistics[name].double() for own, name in _PUBLISHED.items()}
        state["scaler.fitted"] = statistics["standard_scaler.fitted"].bool()
    except (KeyError, TypeError, AttributeError) as error:
        raise BlendbenchError(f"{printable(source)}: holds no Msanii ({one_line(str(error))[:80]})") from error
    with torch.device("meta"):
        model = Msanii(scaling={"variance": "unbiased", "decay_at": "after"})
    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in state or state[name].shape != value.shape:
            raise BlendbenchError(f"{printable(source)}: holds no Msanii of the paper's size ({name} is not as there)")
    make_folder(folder)
    own = {name: state[name].clone(memory_format=torch.contiguous_format) for name in wanted}
    save_made_of(own, folder / "model.safetensors", source.name, file_hash(source))
    write_text(folder / "config.json", json.dumps(model.config, indent=1) + "\n")


_PUBLISHED = {
    "momentum": "standard_scaler.momentum",
    "mean": "standard_scaler.running_mean",
    "var": "standard_scaler.running_var",
    "low": "minmax_scaler.running_min",
    "high": "minmax_scaler.running_max",
}
"""The scaling's statistics by the published names."""


class MsaniiCheckpoint(Checkpoint[Msanii]):
    """A model by name: "pocket" for the built-in one, a folder, or a name of `blendbench models add`."""

    builtin = "msanii"
    marker = "config.json"
    layout = "`blendbench train msanii`'s"

    def signature(self) -> dict[str, Any]:
        """The checkpoint's hash, and the precision."""
        return {"checkpoint": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> Msanii:
        return Msanii.load(source, device, DTYPES[self.dtype])
