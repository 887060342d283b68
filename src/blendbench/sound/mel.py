"""Audio to mel amplitudes to image, and back: Riffusion's image with its level kept, and a fast mel inversion.

Mel amplitudes are `[..., mels, frames]`, lowest band first, linear magnitudes (not power). Frames are centred with
reflect padding, so n samples give 1 + n // hop frames: 5.0 s give 501, and the 512 frames of a square image span
511 hops = 225,351 samples at 44.1 kHz. A clip that is too short repeats, on its samples (`extend_to_frames`), so the
join is as seamless as the clip's own repetition. An image is `[..., H, W]` in 0..255, low frequencies at the bottom,
loud is dark; its peak amplitude travels beside it, so that the level survives.

The inverse works on a coarser lattice with the same frames: nothing above `f_max` is needed, so 44.1 kHz becomes
20 kHz with hop and window still 10 and 100 ms, and bins 5 Hz apart are fine enough for the filter bank. No function
here carries gradients.
"""

import math
import warnings
from functools import lru_cache

import numpy as np
import torch
import torchaudio

from blendbench.errors import ClipError
from blendbench.sound.lattice import (
    RIFFUSION,
    MelSettings,
    Workers,
    check_lattice,
    extend_to_frames,
    framed,
    hann_window,
    magnitude_of,
    shape_of,
    working_precision,
)


@torch.no_grad()
def mel_amplitudes(waveform: torch.Tensor, settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Mel-band magnitudes of a waveform.

    Equals `torchaudio.transforms.MelSpectrogram(power=1, mel_scale="htk", norm=None)`; bins above `f_max`, which
    reach no band, are left out. Spectra are made of some frames at a time: what a long waveform takes beside itself is
    a padded copy and the result.

    Parameters
    ----------
    waveform : Tensor [..., samples]
        At `settings.sample_rate`, longer than half a window.

    Returns
    -------
    Tensor [..., n_mels, 1 + samples // hop_length]

    Raises
    ------
    ValueError
        The waveform is not a float tensor or is too short for the reflect padding.
    """
    if waveform.ndim < 1 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be a float tensor [..., samples], not {shape_of(waveform)}")
    if waveform.shape[-1] <= settings.win_length // 2 + 1:
        raise ValueError(
            f"waveform has {waveform.shape[-1]} samples; mel frames need more than {settings.win_length // 2 + 1}"
        )
    flat = working_precision(waveform).reshape(-1, waveform.shape[-1])
    bank = mel_bank(settings, flat.device, flat.dtype)
    window = hann_window(settings, flat.device, flat.dtype)
    stretches = framed(flat, settings)
    mel = flat.new_empty(len(flat), settings.n_mels, stretches.shape[1])

    def transform(items: slice, frames: slice) -> None:
        spectrum = torch.fft.rfft(stretches[items, frames] * window, n=settings.n_fft)
        mel[items, :, frames] = bank.to_mel(magnitude_of(spectrum[..., : bank.bins])).transpose(-1, -2)

    with Workers(flat.device) as workers:
        workers.run(transform, len(flat), stretches.shape[1])
    return mel.reshape(*waveform.shape[:-1], *mel.shape[-2:])


def mel_of(waveform: torch.Tensor) -> torch.Tensor:
    """Mel amplitudes [512, frames] of a waveform [samples]: extended circularly to one image, or all if longer."""
    return mel_amplitudes(waveform if len(waveform) > RIFFUSION.samples else extend_to_frames(waveform))


def encode_image(
    mel: torch.Tensor, quantize: bool = False, settings: MelSettings = RIFFUSION, peak: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image of mel amplitudes: 255 - 255 (S / S_max)^power, low frequencies at the bottom.

    Parameters
    ----------
    mel : Tensor [..., H, W]
    quantize : bool
        Truncate to whole numbers, bit by bit as Riffusion's `image_from_spectrogram` does (in numpy, because one unit
        in the last place decides the truncated byte).
    peak : float, optional
        S_max where that is not the image's own, as of a part of a longer one; larger amplitudes become black.

    Returns
    -------
    pixels : Tensor [..., H, W], 0..255
        All 255 (white) for a silent item.
    peak : Tensor [...]
        S_max; 0 for a silent item.

    Raises
    ------
    ValueError
        `mel` is not a float tensor with two dimensions or more, or is empty.
    ClipError
        An amplitude is negative or not finite.
    """
    check_lattice(mel, "mel")
    mel = working_precision(mel)
    _check_amplitudes(mel)
    peaks = mel.amax(dim=(-2, -1)) if peak is None else mel.new_full(mel.shape[:-2], peak)
    scale = torch.where(peaks > 0, peaks, torch.ones_like(peaks))[..., None, None]
    if quantize:
        data = np.power(mel.cpu().numpy() / scale.cpu().numpy(), settings.power)
        pixels = torch.from_numpy((255 - data * 255).astype(np.uint8)).to(mel)
    else:
        pixels = 255 - 255 * (mel / scale) ** settings.power
    return (pixels if peak is None else pixels.clamp(0, 255)).flip(-2), peaks


def riffusion_mel(waveform: torch.Tensor, settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Mel amplitudes exactly as Riffusion computes them: from 16-bit samples, by torchaudio's transforms.

    `mel_amplitudes` is faster and differs in the last places, which decide a byte here and there of a truncated image.

    Parameters
    ----------
    waveform : Tensor [..., samples]
        At `settings.sample_rate`; cut to -1..1 and rounded to 16 bits, as in the WAV file that Riffusion reads.

    Returns
    -------
    Tensor [..., n_mels, 1 + samples // hop_length]
        In steps of 16-bit audio: 32767 times those of the waveform.

    Source: riffusion-hobby, `spectrogram_converter.py` and `spectrogram_params.py`.
    """
    samples = (waveform.detach().cpu().clamp(-1, 1) * 32767).round().float()
    transform = torchaudio.transforms.Spectrogram(
        n_fft=settings.n_fft, hop_length=settings.hop_length, win_length=settings.win_length, power=None, center=True,
        pad_mode="reflect", onesided=True,
    )  # fmt: skip
    scale = torchaudio.transforms.MelScale(
        n_mels=settings.n_mels, sample_rate=settings.sample_rate, f_min=settings.f_min, f_max=settings.f_max,
        n_stft=settings.n_fft // 2 + 1, norm=None, mel_scale="htk",
    )  # fmt: skip
    # One by one, as there: the sum's order may depend on the shape.
    flat = samples.reshape(-1, samples.shape[-1])
    mels = torch.stack([scale(transform(one[None]).abs())[0] for one in flat])
    return mels.reshape(*samples.shape[:-1], *mels.shape[1:])


def decode_image(pixels: torch.Tensor, peak: torch.Tensor | float, settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Mel amplitudes of an image: the inverse of `encode_image`.

    Parameters
    ----------
    pixels : Tensor [..., H, W]
        0..255; values beyond are taken as the nearest bound.
    peak : Tensor [...] or float
        S_max of each image.

    Returns
    -------
    Tensor [..., H, W]

    Raises
    ------
    ValueError
        `pixels` has fewer than two dimensions, or `peak` does not fit it.
    """
    check_lattice(pixels, "pixels")
    pixels = working_precision(pixels)
    peak = torch.as_tensor(peak, dtype=pixels.dtype, device=pixels.device)
    if peak.ndim and peak.shape != pixels.shape[:-2]:
        raise ValueError(f"peak must be one number an image, {list(pixels.shape[:-2])}, not {list(peak.shape)}")
    return ((255 - pixels.flip(-2)) / 255).clamp(0, 1) ** (1 / settings.power) * peak[..., None, None]


class _Banded:
    """Right product with a matrix whose non-zeros lie near a diagonal, by dense blocks of columns."""

    def __init__(self, matrix: torch.Tensor, blocks: int) -> None:
        self.columns = matrix.shape[1]
        self.blocks: list[tuple[slice, torch.Tensor]] = []
        for block in matrix.chunk(blocks, dim=1):
            rows = block.any(dim=1).nonzero()
            used = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 1)
            self.blocks.append((used, block[used].contiguous()))

    def __call__(self, left: torch.Tensor) -> torch.Tensor:
        flat = left.reshape(-1, left.shape[-1])
        out = left.new_empty(len(flat), self.columns)
        column = 0
        for rows, block in self.blocks:
            torch.mm(flat[:, rows], block, out=out[:, column : column + block.shape[1]])
            column += block.shape[1]
        return out.view(*left.shape[:-1], self.columns)


class MelBank:
    """A filter bank's products and its factorised Gram matrix, ready on one device."""

    def __init__(self, settings: MelSettings, device: torch.device, dtype: torch.dtype) -> None:
        with warnings.catch_warnings():
            # Filters narrower than a bin are empty on the coarse lattice; their neighbours hold what they would.
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
            filters = torchaudio.functional.melscale_fbanks(
                settings.n_fft // 2 + 1, settings.f_min, settings.f_max, settings.n_mels, settings.sample_rate
            ).double()
        self.bins = int(filters.any(dim=1).nonzero()[-1]) + 1
        filters = filters[: self.bins]
        gram = filters.T @ filters
        # The bands narrower than a bin are nearly dependent. The ridge keeps their steps small, which takes a
        # quarter off the error in the bass and costs the other bands a fraction of a step.
        ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        blocks = 8 if device.type == "cpu" else 1
        self.to_mel = _Banded(filters.to(device, dtype), blocks)
        self.to_bins = _Banded(filters.T.to(device, dtype), blocks)
        correction = torch.linalg.solve(gram + ridge, filters.T)
        # It decays away from its diagonal, into numbers too small to matter and at last denormal, which are slow.
        correction[correction.abs() < 1e-7 * correction.abs().max()] = 0
        self.to_correction = _Banded(correction.to(device, dtype), blocks)
        self.area = filters.sum(dim=0).clamp_min(1).to(device, dtype)

    def project(self, magnitudes: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """Magnitudes [..., frames, bins] moved by the least that gives (up to the ridge) these mel amplitudes."""
        return self.to_correction(mel - self.to_mel(magnitudes)).add_(magnitudes)


@lru_cache(maxsize=8)
def mel_bank(settings: MelSettings, device: torch.device, dtype: torch.dtype) -> MelBank:
    return MelBank(settings, device, dtype)


def flat_mel(mel: torch.Tensor, settings: MelSettings) -> torch.Tensor:
    """Mel amplitudes as [B, frames, mels]."""
    check_lattice(mel, "mel")
    if mel.shape[-2] != settings.n_mels:
        raise ValueError(f"mel must be [..., {settings.n_mels}, frames], not {shape_of(mel)}")
    mel = working_precision(mel)
    _check_amplitudes(mel)
    return mel.reshape(-1, *mel.shape[-2:]).transpose(-1, -2).contiguous()


def _check_amplitudes(mel: torch.Tensor) -> None:
    # A comparison with NaN is false.
    if not bool(((mel >= 0) & (mel < math.inf)).all()):
        raise ClipError("mel amplitudes are negative or not finite; check the clip or image that they come from")
