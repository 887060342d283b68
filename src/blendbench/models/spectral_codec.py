"""An EnCodec whose encoder and decoder work on spectra: 22.05 kHz audio to residual codes and back.

Quantiser and interface are transformers' `EncodecModel`, so it takes the place of MusicGen's codec. The networks are
not EnCodec's: the encoder reads a short-time Fourier transform, the decoder writes one (magnitude and phase), between
lie ConvNeXt blocks at the spectra's rate and at the codes' (Vocos, Siuzdak 2023, arXiv 2306.00814; Liu et al. 2022). On
a processor that is far faster than convolutions at the rate of samples. Importing this module tells transformers of the
model type `spectral_codec`.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, EncodecConfig, EncodecModel


class SpectralCodecConfig(EncodecConfig):
    """EnCodec's settings, of which `upsampling_ratios` are (spectra a code, samples a spectrum).

    Parameters
    ----------
    n_fft : int
        Window length in samples.
    width : int
        Channels of the blocks.
    slow_blocks, fast_blocks : int
        ConvNeXt blocks, of encoder and decoder each, at the codes' and at the spectra's rate.
    """

    model_type = "spectral_codec"

    upsampling_ratios: list[int] | tuple[int, ...] = (3, 294)
    n_fft: int = 1024
    width: int = 192
    slow_blocks: int = 3
    fast_blocks: int = 3


class Block(nn.Module):
    """ConvNeXt block on [N, T, C]."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(hidden.transpose(1, 2)).transpose(1, 2)
        return hidden + self.scale * self.narrow(functional.gelu(self.widen(self.norm(mixed))))


class _Spectra(nn.Module):
    """Frames of `n_fft` samples at every `hop`, centred on their hops: as many as whole hops fit in."""

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        left = (n_fft - hop) // 2
        self.sides = left, n_fft - hop - left

    def window(self, device: torch.device) -> torch.Tensor:
        """[n_fft]; no buffer, as transformers leaves those empty that a file of weights does not hold."""
        return torch.hann_window(self.n_fft, device=device)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Spectra [N, frames, bins] of waveforms [N, samples]; the last hop is filled up with silence."""
        short = -waveforms.shape[1] % self.hop
        padded = functional.pad(waveforms.float(), (self.sides[0], self.sides[1] + short))
        return torch.fft.rfft(padded.unfold(1, self.n_fft, self.hop) * self.window(padded.device), norm="ortho")

    def back(self, spectra: torch.Tensor) -> torch.Tensor:
        """Waveforms [N, samples] of spectra [N, frames, bins], overlapping windows weighted."""
        window = self.window(spectra.device)
        frames = torch.fft.irfft(spectra, self.n_fft, norm="ortho") * window
        length = self.hop * (spectra.shape[1] - 1) + self.n_fft

        def added(parts: torch.Tensor) -> torch.Tensor:
            out = functional.fold(parts.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop))
            return out[:, 0, 0, self.sides[0] : length - self.sides[1]]

        weight = added(window.square().expand(1, spectra.shape[1], -1))
        return added(frames) / weight.clamp(min=1e-3)


def features(spectra: torch.Tensor) -> torch.Tensor:
    """Log magnitude, and real and imaginary parts compressed, [N, frames, 3 bins], of spectra [N, frames, bins]."""
    size = spectra.abs().clamp(min=1e-5)
    compressed = spectra * size**-0.7
    return torch.cat([(size.log() + 4.0) / 3.0, compressed.real, compressed.imag], -1)


class SpectralEncoder(nn.Module):
    """Waveforms [N, 1, samples] to latents [N, C, codes]."""

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        self.ratio, hop = config.upsampling_ratios
        width, blocks = config.width, config.slow_blocks + config.fast_blocks
        self.spectra = _Spectra(config.n_fft, hop)
        self.enter = nn.Linear(3 * (config.n_fft // 2 + 1), width)
        self.enter_norm = nn.LayerNorm(width)
        self.fast = nn.Sequential(*(Block(width, 1 / blocks) for _ in range(config.fast_blocks)))
        self.down = nn.Linear(self.ratio * width, width)
        self.slow = nn.Sequential(*(Block(width, 1 / blocks) for _ in range(config.slow_blocks)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.hidden_size)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        given = features(self.spectra(waveforms[:, 0])).to(self.enter.weight.dtype)
        hidden = self.fast(self.enter_norm(self.enter(given)))
        hidden = functional.pad(hidden, (0, 0, 0, -hidden.shape[1] % self.ratio))
        hidden = self.down(hidden.unflatten(1, (-1, self.ratio)).flatten(2))
        return self.leave(self.norm(self.slow(hidden))).transpose(1, 2)


class SpectralDecoder(nn.Module):
    """Latents [N, C, codes] to waveforms [N, 1, samples]."""

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        self.ratio, hop = config.upsampling_ratios
        width, blocks = config.width, config.slow_blocks + config.fast_blocks
        self.enter = nn.Linear(config.hidden_size, width)
        self.slow = nn.Sequential(*(Block(width, 1 / blocks) for _ in range(config.slow_blocks)))
        self.up = nn.Linear(width, self.ratio * width)
        self.fast = nn.Sequential(*(Block(width, 1 / blocks) for _ in range(config.fast_blocks)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 2 * (config.n_fft // 2 + 1))
        self.spectra = _Spectra(config.n_fft, hop)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.up(self.slow(self.enter(latents.transpose(1, 2))))
        hidden = self.fast(hidden.unflatten(2, (self.ratio, -1)).flatten(1, 2))
        size, phase = self.leave(self.norm(hidden)).float().chunk(2, -1)
        # A magnitude beyond that of a full-scale sine is a fault of the weights.
        spectra = torch.polar((3.0 * size - 4.0).clamp(max=math.log(self.spectra.n_fft)).exp(), phase)
        return self.spectra.back(spectra)[:, None].to(latents.dtype)


class SpectralCodec(EncodecModel):
    """See the module."""

    config_class = SpectralCodecConfig

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__(config)
        self.encoder: Any = SpectralEncoder(config)
        self.decoder: Any = SpectralDecoder(config)
        for layer in self.quantizer.layers:
            # Only a training wants the moving averages; a file has no use for them.
            for name in ("inited", "cluster_size", "embed_avg"):
                layer.codebook.register_buffer(name, getattr(layer.codebook, name), persistent=False)
        self.post_init()


AutoConfig.register(SpectralCodecConfig.model_type, SpectralCodecConfig)
AutoModel.register(SpectralCodecConfig, SpectralCodec)
