"""Priors of music for posterior sampling: a Wiener denoiser of a spectrum, and MR-CQTdiff's network, alone or on top.

A prior is a folder: `config.json`, and `model.safetensors` with the spectrum and the network's weights. Its denoiser is

    D(x; s) = base(x; s) + c_out F(c_in x, ln(s) / 4),    c_in = 1 / sqrt(s^2 + d^2),    c_out = s d / sqrt(s^2 + d^2),

d being the music's deviation `sigma_data`. The base is EDM's skip connection d^2 / (s^2 + d^2) x (Karras et al., 2022),
or the Wiener filter of the music's mean spectrum, the best linear denoiser where nothing else is known.

Waveforms are [B, samples], float32, at the prior's sample rate.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from blendbench.errors import BlendbenchError
from blendbench.models.checkpoint import Checkpoint
from blendbench.models.cqtdiff import CQTUNet
from blendbench.models.weights import save_half

Base = Literal["skip", "wiener"]


class AudioPrior(nn.Module):
    """A prior.

    Parameters
    ----------
    sample_rate : int
        In Hz.
    sigma_data : float
        Deviation of the music.
    spectrum : Tensor [bins], optional
        Power of the music from 0 Hz to half the sample rate, as a share of white noise's of deviation 1; the base
        `wiener` needs it.
    samples : int
        Length of the network's windows.
    network : dict or None
        Parameters of `CQTUNet`; None for the base alone.
    base : "skip" or "wiener"

    Raises
    ------
    BlendbenchError
        If nothing of it denoises, or a setting is out of range.
    """

    def __init__(
        self,
        sample_rate: int,
        sigma_data: float = 0.063,
        spectrum: Tensor | None = None,
        samples: int = 262_144,
        network: dict[str, Any] | None = None,
        base: Base = "skip",
    ) -> None:
        super().__init__()
        if base not in ("skip", "wiener"):
            raise BlendbenchError(f"prior: base is {base!r}; choose skip or wiener")
        if base == "wiener" and spectrum is None:
            raise BlendbenchError("prior: base wiener needs a spectrum; fit one with `blendbench train prior`")
        if base == "skip" and network is None:
            raise BlendbenchError("prior: neither a network nor a spectrum; give one")
        if not sigma_data > 0 or sample_rate < 1:
            raise BlendbenchError(f"prior: sigma_data {sigma_data}, sample_rate {sample_rate}; give numbers above 0")
        self.sample_rate, self.sigma_data, self.base, self.samples = sample_rate, float(sigma_data), base, samples
        self.config: dict[str, Any] = {"sample_rate": sample_rate, "sigma_data": self.sigma_data, "samples": samples}
        self.config |= {"base": base, "network": network}
        self.spectrum: Tensor
        self.register_buffer("spectrum", torch.zeros(0) if spectrum is None else spectrum.float())
        silent = base == "wiener"
        self.network = None if network is None else CQTUNet(samples, **network, silent=silent)

    def denoise(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        """The mean of what waveforms [B, samples] with white noise of deviation sigma, one or [B], may be.

        Raises
        ------
        BlendbenchError
            If the network is of another length.
        """
        level = torch.as_tensor(sigma, dtype=torch.float32, device=noisy.device).expand(len(noisy))[:, None]
        clean = self.linear(noisy, level)
        if self.network is None:
            return clean
        both = (level.square() + self.sigma_data**2).sqrt()
        return clean + level * self.sigma_data / both * self.network(noisy / both, level[:, 0].log() / 4)

    def linear(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The base: of waveforms [B, samples] and deviations [B, 1]."""
        if self.base == "skip":
            return noisy * self.sigma_data**2 / (level.square() + self.sigma_data**2)
        power = self._power(noisy.shape[-1]).to(noisy)
        gain = power / (power + level.square())
        return torch.fft.irfft(torch.fft.rfft(noisy) * gain, n=noisy.shape[-1])

    def _power(self, samples: int) -> Tensor:
        """The spectrum at the bins of a length, [samples // 2 + 1]."""
        size = samples // 2 + 1
        return functional.interpolate(self.spectrum[None, None], size=size, mode="linear", align_corners=True)[0, 0]

    def for_samples(self, samples: int) -> "AudioPrior":
        """The same prior for windows of another length, on the CPU; its octaves must have as many frames in proportion.

        Raises
        ------
        BlendbenchError
            If the length is too short for the transform, or the network does not fit it.
        """
        made = AudioPrior(
            self.sample_rate,
            self.sigma_data,
            self.spectrum if self.spectrum.numel() else None,
            samples,
            self.config["network"],
            self.base,
        )
        made.load_state_dict(self.state_dict())
        return made.eval()

    def save(self, folder: Path | str) -> None:
        """Write it, weights in half precision; the spectrum and the embedding's frequencies stay as they are."""
        save_half(self, folder, self.config)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "AudioPrior":
        """Read a saved prior, for inference.

        Raises
        ------
        BlendbenchError
            If a file is missing or does not fit.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text())
            state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
            prior = cls(**config, spectrum=state.get("spectrum"))
            missing, unexpected = prior.load_state_dict(state, strict=False)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, BlendbenchError) as error:
            raise BlendbenchError(
                f"{folder}: not a prior ({error}); give a folder of `blendbench train prior`"
            ) from error
        if unexpected or [name for name in missing if name != "spectrum"]:
            raise BlendbenchError(f"{folder}: weights of another prior; give a folder of `blendbench train prior`")
        return prior.eval().requires_grad_(False).to(device)


class PriorCheckpoint(Checkpoint[AudioPrior]):
    """A prior by name: "pocket" for the built-in one of piano music, a folder, or a name of `blendbench models add`.

    Parameters
    ----------
    key, checkpoint
        See `Checkpoint`.
    network : bool
        False takes the Wiener filter of the prior's spectrum alone, which needs no training.
    """

    builtin = "prior"
    marker = "config.json"
    layout = "`blendbench train prior`'s"

    def __init__(self, key: str, checkpoint: str, network: bool = True) -> None:
        super().__init__(key, checkpoint)
        self.network = network

    def signature(self) -> dict[str, Any]:
        """The checkpoint's hash, and whether its network takes part."""
        return {"checkpoint": self.fingerprint, "network": self.network}

    def _load(self, source: Path | str, device: str) -> AudioPrior:
        prior = AudioPrior.load(source, device)
        if self.network:
            return prior
        if prior.base != "wiener":
            raise BlendbenchError(f"{self.key}.network=false: {source} has no spectrum; take the network")
        return AudioPrior(prior.sample_rate, prior.sigma_data, prior.spectrum, prior.samples, base="wiener").to(device)


def welch(waveforms: Tensor, size: int = 4096) -> Tensor:
    """Mean power spectrum of waveforms [N, samples] by Welch's method, [bins]; white noise's is its variance."""
    size = min(size, 2 ** int(math.log2(waveforms.shape[-1])))
    window = torch.hann_window(size, dtype=torch.float64)
    total = torch.zeros(size // 2 + 1, dtype=torch.float64)
    for one in waveforms:
        frames = one.double().unfold(0, size, size // 2)
        total += torch.fft.rfft(frames * window).abs().square().mean(0)
    return (total / len(waveforms) / window.square().sum()).float()
