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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import scipy.fft
import torch
import torchaudio
from torch.nn import functional

from blendbench import audio
from blendbench.errors import ClipError


@dataclass(frozen=True)
class MelSettings:
    """The lattice of a mel spectrogram and the curve of its image; the defaults are Riffusion's.

    Parameters
    ----------
    sample_rate : int
        Hz.
    n_fft, win_length, hop_length : int
        Samples; a Hann window of `win_length` is zero-padded to `n_fft`.
    n_mels : int
        HTK mel bands between `f_min` and `f_max`, triangles of height 1.
    f_min, f_max : float
        Hz.
    power : float
        Exponent of the image's curve: a pixel is 255 - 255 (S / S_max)^power.
    frames : int
        Width of a full image.
    """

    sample_rate: int = 44_100
    n_fft: int = 17_640
    win_length: int = 4_410
    hop_length: int = 441
    n_mels: int = 512
    f_min: float = 0.0
    f_max: float = 10_000.0
    power: float = 0.25
    frames: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                f"need 0 < hop_length <= win_length <= n_fft, not "
                f"{self.hop_length}, {self.win_length}, {self.n_fft} samples"
            )
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"need 0 <= f_min < f_max <= half of sample_rate, not {self.f_min}, {self.f_max}, {self.sample_rate} Hz"
            )
        if self.n_mels < 1 or self.frames < 1 or not self.power > 0:
            raise ValueError(
                f"n_mels, frames and power must be above 0, not {self.n_mels}, {self.frames}, {self.power}"
            )

    @property
    def samples(self) -> int:
        """The fewest samples that give `frames` frames."""
        return (self.frames - 1) * self.hop_length


RIFFUSION = MelSettings()


def extend_to_frames(waveform: torch.Tensor, settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Loop (or cut) a repeating clip on its samples so that it gives exactly `settings.frames` frames.

    Parameters
    ----------
    waveform : Tensor [..., n], n >= 1

    Returns
    -------
    Tensor [..., (frames - 1) * hop_length]: 225,351 samples for 512 frames.

    Raises
    ------
    ValueError
        The waveform is empty.
    """
    return audio.extend_circular(waveform, settings.samples)


@torch.no_grad()
def mel_amplitudes(waveform: torch.Tensor, settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Mel-band magnitudes of a waveform.

    Equals `torchaudio.transforms.MelSpectrogram(power=1, mel_scale="htk", norm=None)`; bins above `f_max`, which
    reach no band, are left out.

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
        raise ValueError(f"waveform must be a float tensor [..., samples], not {_shape(waveform)}")
    if waveform.shape[-1] <= settings.win_length // 2 + 1:
        raise ValueError(
            f"waveform has {waveform.shape[-1]} samples; mel frames need more than {settings.win_length // 2 + 1}"
        )
    flat = _working_precision(waveform).reshape(-1, waveform.shape[-1])
    bank = _mel_bank(settings, flat.device, flat.dtype)
    window = _window(settings, flat.device, flat.dtype)
    stretches = _frames(flat, settings)
    mel = flat.new_empty(len(flat), stretches.shape[1], settings.n_mels)

    def transform(items: slice, frames: slice) -> None:
        spectrum = torch.fft.rfft(stretches[items, frames] * window, n=settings.n_fft)
        mel[items, frames] = bank.to_mel(_magnitude(spectrum[..., : bank.bins]))

    with _Workers(flat.device) as workers:
        workers.run(transform, len(flat), stretches.shape[1])
    mel = mel.transpose(-1, -2)
    return mel.reshape(*waveform.shape[:-1], *mel.shape[-2:]).contiguous()


def encode_image(
    mel: torch.Tensor, quantize: bool = False, settings: MelSettings = RIFFUSION
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image of mel amplitudes: 255 - 255 (S / S_max)^power, low frequencies at the bottom.

    Parameters
    ----------
    mel : Tensor [..., H, W]
    quantize : bool
        Truncate to whole numbers, bit by bit as Riffusion's `image_from_spectrogram` does (in numpy, because one unit
        in the last place decides the truncated byte).

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
    _check_lattice(mel, "mel")
    mel = _working_precision(mel)
    _check_amplitudes(mel)
    peak = mel.amax(dim=(-2, -1))
    scale = torch.where(peak > 0, peak, torch.ones_like(peak))[..., None, None]
    if quantize:
        data = np.power(mel.cpu().numpy() / scale.cpu().numpy(), settings.power)
        pixels = torch.from_numpy((255 - data * 255).astype(np.uint8)).to(mel)
    else:
        pixels = 255 - 255 * (mel / scale) ** settings.power
    return pixels.flip(-2), peak


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
    _check_lattice(pixels, "pixels")
    pixels = _working_precision(pixels)
    peak = torch.as_tensor(peak, dtype=pixels.dtype, device=pixels.device)
    if peak.ndim and peak.shape != pixels.shape[:-2]:
        raise ValueError(f"peak must be one number an image, {list(pixels.shape[:-2])}, not {list(peak.shape)}")
    return ((255 - pixels.flip(-2)) / 255).clamp(0, 1) ** (1 / settings.power) * peak[..., None, None]


def to_rgb(pixels: torch.Tensor) -> torch.Tensor:
    """Grey pixels `[..., H, W]` copied to the three channels of `[..., 3, H, W]`."""
    _check_lattice(pixels, "pixels")
    return pixels.unsqueeze(-3).repeat_interleave(3, dim=-3)


def from_rgb(image: torch.Tensor) -> torch.Tensor:
    """Grey pixels `[..., H, W]` as the mean of the three channels of `[..., 3, H, W]`."""
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"image must be [..., 3, H, W], not {_shape(image)}")
    return image.mean(-3)


def spectral_convergence(reference: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of the error over that of the reference, ‖S - S'‖ / ‖S‖ (Sturmel and Daudet 2011).

    Parameters
    ----------
    reference, estimate : Tensor [..., H, W]

    Returns
    -------
    Tensor [...]: 0 is perfect; 0 / 0 counts as 0.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if reference.shape != estimate.shape or reference.ndim < 2:
        raise ValueError(f"spectral convergence compares like shapes, not {_shape(reference)} and {_shape(estimate)}")
    error = torch.linalg.matrix_norm(reference - estimate)
    return torch.where(error == 0, torch.zeros_like(error), error / torch.linalg.matrix_norm(reference))


@torch.no_grad()
def invert_mel(mel: torch.Tensor, settings: MelSettings = RIFFUSION, iterations: int = 8) -> torch.Tensor:
    """Non-negative linear-frequency magnitudes whose mel amplitudes fit `mel`.

    Alternating projections onto {A : A F = S} and {A : A >= 0} from a smooth start, which the factorised Gram matrix of
    the filter bank F (made once) reduces to two products a step. Of the many solutions this gives one close to the
    smooth start, where a least-norm solution would be jagged.

    Parameters
    ----------
    mel : Tensor [..., n_mels, frames]
    iterations : int
        Projections, 0 or more.

    Returns
    -------
    Tensor [..., n_fft // 2 + 1, frames]

    Raises
    ------
    ValueError
        `mel` has not `n_mels` rows.
    """
    flat = _flat_mel(mel, settings)
    bank = _mel_bank(settings, flat.device, flat.dtype)
    magnitudes = flat.new_zeros(*flat.shape[:2], settings.n_fft // 2 + 1)

    def invert(items: slice, frames: slice) -> None:
        magnitudes[items, frames, : bank.bins] = _invert(flat[items, frames], bank, iterations)

    with _Workers(flat.device) as workers:
        workers.run(invert, *flat.shape[:2])
    magnitudes = magnitudes.transpose(-1, -2)
    return magnitudes.reshape(*mel.shape[:-2], *magnitudes.shape[-2:])


@torch.no_grad()
def griffin_lim(
    magnitudes: torch.Tensor,
    settings: MelSettings = RIFFUSION,
    iterations: int = 32,
    momentum: float = 0.99,
    seeds: int | Sequence[int] = 0,
    start: Literal["peaks", "random"] = "peaks",
    length: int | None = None,
) -> torch.Tensor:
    """Waveform whose spectrogram has the given magnitudes: fast Griffin-Lim.

    Griffin and Lim (1984), accelerated as in Perraudin, Balazs and Søndergaard (2013). The momentum is applied to the
    waveform, which is the same because the transform is linear, and far smaller. The synthesis is the least-squares
    inverse of the centred, reflect-padded transform, edges included.

    Parameters
    ----------
    magnitudes : Tensor [..., n_fft // 2 + 1, frames]
    iterations : int
        0 or more.
    momentum : float
        0 is the classic algorithm, whose inconsistency never grows.
    seeds : int or sequence of int
        One for each item (or one for all): an item's waveform depends on its own seed alone, not on its batch.
    start : "peaks" or "random"
        Starting phase: single pass spectrogram inversion (Beauregard, Harish and Wyse 2015), or uniform noise.
    length : int, optional
        Samples wanted, at most (frames - 1) * hop_length, which is the default.

    Returns
    -------
    Tensor [..., length]

    Raises
    ------
    ValueError
        A shape, count or length does not fit.
    """
    _check_lattice(magnitudes, "magnitudes")
    if magnitudes.shape[-2] != settings.n_fft // 2 + 1:
        raise ValueError(f"magnitudes must be [..., {settings.n_fft // 2 + 1}, frames], not {_shape(magnitudes)}")
    if start not in ("peaks", "random"):
        raise ValueError(f'start must be "peaks" or "random", not {start!r}')
    length = _checked_length(length, magnitudes.shape[-1], iterations, settings)
    longest = (magnitudes.shape[-1] - 1) * settings.hop_length
    flat = (
        _working_precision(magnitudes).flatten(0, -3) if magnitudes.ndim > 2 else _working_precision(magnitudes)[None]
    )
    flat = flat.transpose(-1, -2).contiguous()
    seeds = _seeds(seeds, len(flat))
    step = _group_size(flat.device)
    waves = []
    with _Workers(flat.device) as workers:
        for first in range(0, len(flat), step):
            wanted = flat[first : first + step]
            lattice = _Lattice(settings, wanted, longest, workers)
            wave = _start(wanted, lattice, seeds[first : first + step], start)
            waves.append(_alternate(wave, wanted, _set_magnitudes, lattice, iterations, momentum))
    return torch.cat(waves)[:, :length].reshape(*magnitudes.shape[:-2], length)


@torch.no_grad()
def to_audio(
    mel: torch.Tensor,
    settings: MelSettings = RIFFUSION,
    *,
    iterations: int = 24,
    momentum: float = 0.99,
    seeds: int | Sequence[int] = 0,
    length: int | None = None,
) -> torch.Tensor:
    """Waveform of mel amplitudes, at their true level: nothing is peak-normalised.

    Fast Griffin-Lim with the mel amplitudes themselves as the constraint: where `griffin_lim` sets the magnitude of
    each bin, this moves the magnitudes by the least that gives every band its amplitude, so `invert_mel` serves only
    as the start. Five of six iterations see every second frame, which costs half and still overlaps by 80 %; the last
    sixth sees them all.

    Parameters
    ----------
    mel : Tensor [..., n_mels, frames]
    iterations : int
        0 or more, in all.
    momentum : float
        See `griffin_lim`.
    seeds : int or sequence of int
        One for each item (or one for all): an item's waveform depends on its own seed alone, not on its batch.
    length : int, optional
        Samples wanted, at most (frames - 1) * hop_length, which is the default.

    Returns
    -------
    Tensor [..., length] at `settings.sample_rate`

    Raises
    ------
    ValueError
        A shape, count or length does not fit.
    ClipError
        An amplitude is negative or not finite.
    """
    flat = _flat_mel(mel, settings)
    length = _checked_length(length, mel.shape[-1], iterations, settings)
    seeds = _seeds(seeds, len(flat))
    work = _working_settings(settings)
    # Four windows over each sample are the fewest that determine the phase well.
    stride = 2 if 8 * work.hop_length <= work.win_length else 1
    sparse = replace(work, hop_length=stride * work.hop_length)
    bank = _mel_bank(work, flat.device, flat.dtype)
    peaks = flat.amax(dim=(-2, -1), keepdim=True)
    # Per item 0..1, so that every guard against division by zero is relative to the item's own level.
    targets = functional.threshold(flat / torch.where(peaks > 0, peaks, torch.ones_like(peaks)), 1e-9, 0.0)
    samples, longest = (mel.shape[-1] - 1) * work.hop_length, (mel.shape[-1] - 1) * settings.hop_length
    last = -(-iterations // 6)
    step = _group_size(flat.device)
    waves = []
    with _Workers(flat.device) as workers:
        for first in range(0, len(flat), step):
            target = targets[first : first + step]
            every_second = target[:, ::stride].contiguous()
            coarse = _Lattice(sparse, every_second, samples, workers)
            magnitudes = target.new_zeros(*every_second.shape[:2], work.n_fft // 2 + 1)

            def invert(
                items: slice, frames: slice, out: torch.Tensor = magnitudes, mel: torch.Tensor = every_second
            ) -> None:
                out[items, frames, : bank.bins] = _invert(mel[items, frames], bank, 1)

            workers.run(invert, *every_second.shape[:2])
            wave = _start(magnitudes, coarse, seeds[first : first + step], "peaks")
            wave = _alternate(wave, every_second, partial(_set_mel, bank), coarse, iterations - last, momentum)
            full = _Lattice(work, target, samples, workers)
            wave = _alternate(wave, target, partial(_set_mel, bank), full, last, momentum)
            resampled = wave.new_empty(len(wave), longest)

            def resample(items: slice, _: slice, out: torch.Tensor = resampled, wave: torch.Tensor = wave) -> None:
                out[items] = _resample_hops(wave[items], work, settings)

            workers.run(resample, *target.shape[:2], block=target.shape[1])
            waves.append(resampled)
    # A sum over bins scales with the window's sum and with the bins' density: together, with n_fft.
    waveform = torch.cat(waves)[:, :length] * (peaks[..., 0] * (work.n_fft / settings.n_fft))
    return waveform.reshape(*mel.shape[:-2], length)


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


class _MelBank:
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
def _mel_bank(settings: MelSettings, device: torch.device, dtype: torch.dtype) -> _MelBank:
    return _MelBank(settings, device, dtype)


@lru_cache(maxsize=16)
def _window(settings: MelSettings, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.hann_window(settings.win_length, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _working_settings(settings: MelSettings) -> MelSettings:
    """The coarsest lattice that has these frames and bands: a lower rate, and bins half a window's resolution apart."""
    unit = math.gcd(settings.hop_length, settings.win_length)
    base = settings.sample_rate / unit
    steps = math.ceil(2 * settings.f_max / base)
    rate = round(steps * base)
    if rate >= settings.sample_rate or steps * settings.sample_rate % unit:
        rate, steps = settings.sample_rate, unit
    win_length = settings.win_length // unit * steps
    n_fft = min(2 * win_length, max(win_length, 2 * (settings.n_fft * rate // settings.sample_rate // 2)))
    hop_length = settings.hop_length // unit * steps
    return replace(settings, sample_rate=rate, n_fft=n_fft, win_length=win_length, hop_length=hop_length)


def _invert(mel: torch.Tensor, bank: _MelBank, iterations: int) -> torch.Tensor:
    """Magnitudes [B, frames, bins] for mel amplitudes [B, frames, mels]; see `invert_mel`."""
    magnitudes = bank.to_bins(mel / bank.area)
    for _ in range(iterations):
        magnitudes = bank.project(magnitudes, mel).clamp_min_(0)
    return magnitudes


class _Workers:
    """Threads that take blocks of frames, each with single-threaded operations.

    An iteration has dozens of small operations. Shared out one by one, each would wait for the slowest core; a block
    waits once, and stays in its core's cache. Blocks do not depend on the number of threads, nor do results.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cpu = device.type == "cpu"
        self.threads = torch.get_num_threads() if self.on_cpu else 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "_Workers":
        if self.threads > 1:
            torch.set_num_threads(1)
            self.pool = ThreadPoolExecutor(self.threads)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()
            torch.set_num_threads(self.threads)

    def run(self, work: Callable[[slice, slice], None], items: int, frames: int, *, block: int = 64) -> None:
        """Call `work(items, frames)` for the blocks that cover a lattice; on an accelerator, once for all of it."""
        if not self.on_cpu:
            work(slice(0, items), slice(0, frames))
            return
        blocks = [
            (slice(item, item + 1), slice(first, min(first + block, frames)))
            for item in range(items)
            for first in range(0, frames, block)
        ]

        def call(pair: tuple[slice, slice]) -> None:
            # Grad mode belongs to a thread.
            with torch.no_grad():
                work(*pair)

        if self.pool is None:
            for pair in blocks:
                call(pair)
        else:
            # Listing the results raises what a block raised.
            list(self.pool.map(call, blocks))


class _Lattice:
    """A short-time transform between waveforms [B, samples] and spectra [B, frames, bins], and who computes it."""

    def __init__(self, settings: MelSettings, like: torch.Tensor, samples: int, workers: _Workers) -> None:
        self.settings = settings
        self.items, self.frames = like.shape[:2]
        self.samples = samples
        self.workers = workers
        self.window = _window(settings, like.device, like.dtype)
        squares = (self.window**2).expand(1, self.frames, -1)
        self.weight = _overlap_add(squares, settings, samples).clamp_min_(1e-6)

    def synthesise(self, spectrum_of: Callable[[slice, slice], torch.Tensor]) -> torch.Tensor:
        """Waveforms whose transform is nearest, in the least squares, to spectra that are made block by block."""
        size = self.settings.win_length
        pieces = self.window.new_empty(self.items, self.frames, size)
        wave = self.window.new_empty(self.items, self.samples)

        def invert(items: slice, frames: slice) -> None:
            spectrum = spectrum_of(items, frames)
            pieces[items, frames] = torch.fft.irfft(spectrum, n=self.settings.n_fft)[..., :size] * self.window

        def add(items: slice, _: slice) -> None:
            added = _overlap_add(pieces[items], self.settings, self.samples) / self.weight
            # Silence would decay into denormal numbers, which are slow.
            wave[items] = functional.hardshrink(added, 1e-15)

        self.workers.run(invert, self.items, self.frames)
        self.workers.run(add, self.items, self.frames, block=self.frames)
        return wave


def _start(magnitudes: torch.Tensor, lattice: _Lattice, seeds: Sequence[int], start: str) -> torch.Tensor:
    """Waveforms [B, samples] of magnitudes [B, frames, bins] under their starting phase."""
    phase = _starting_phase(magnitudes, lattice, seeds, start)
    return lattice.synthesise(lambda items, frames: torch.polar(magnitudes[items, frames], phase[items, frames]))


def _alternate(
    wave: torch.Tensor,
    wanted: torch.Tensor,
    constrain: Callable[[torch.Tensor, torch.Tensor], None],
    lattice: _Lattice,
    iterations: int,
    momentum: float,
) -> torch.Tensor:
    """Fast Griffin-Lim on waveforms [B, samples]; `constrain(spectrum, wanted)` projects in place, frame by frame."""
    ahead = wave
    for _ in range(iterations):
        stretches = _frames(ahead, lattice.settings)

        def constrained(items: slice, frames: slice, stretches: torch.Tensor = stretches) -> torch.Tensor:
            spectrum = torch.fft.rfft(stretches[items, frames] * lattice.window, n=lattice.settings.n_fft)
            constrain(spectrum, wanted[items, frames])
            return spectrum

        before, wave = wave, lattice.synthesise(constrained)
        ahead = torch.lerp(before, wave, 1 + momentum)
    return wave


def _set_magnitudes(spectrum: torch.Tensor, wanted: torch.Tensor) -> None:
    magnitude = _magnitude(spectrum)
    spectrum.mul_(wanted / magnitude.clamp_min_(1e-18))


def _set_mel(bank: _MelBank, spectrum: torch.Tensor, wanted: torch.Tensor) -> None:
    magnitude = _magnitude(spectrum[..., : bank.bins]).clamp_min_(1e-10)
    moved = bank.project(magnitude, wanted).clamp_min_(0)
    spectrum[..., : bank.bins].mul_(moved.div_(magnitude))


def _starting_phase(magnitudes: torch.Tensor, lattice: _Lattice, seeds: Sequence[int], start: str) -> torch.Tensor:
    """Phase [B, frames, bins] in radians, about the window's first sample.

    "peaks" is single pass spectrogram inversion: each bin belongs to the nearest spectral peak, whose phase advances
    from frame to frame with its interpolated frequency, and the bins of a peak share its phase about the window's
    centre. Where a wide band swells or fades at once, its bins follow the transient's delay instead.
    """
    settings = lattice.settings
    _, frames, bins = magnitudes.shape
    shape = (frames, bins) if start == "random" else (bins,)
    cycles = torch.stack(
        [torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    ).to(magnitudes)
    if start == "random":
        return cycles * (2 * math.pi)
    owner = torch.empty(magnitudes.shape, dtype=torch.int64, device=magnitudes.device)
    advance = torch.empty_like(magnitudes)

    def track(items: slice, frames: slice) -> None:
        owner[items, frames], offset = _peaks(magnitudes[items, frames])
        # Whole cycles drop out before the sum, so that float32 holds it.
        whole = owner[items, frames] * settings.hop_length % settings.n_fft
        advance[items, frames] = (whole + offset * settings.hop_length) / settings.n_fft

    is_transient = torch.empty(magnitudes.shape, dtype=torch.bool, device=magnitudes.device)
    phase = torch.empty_like(magnitudes)

    def find_transients(items: slice, _: slice) -> None:
        is_transient[items], phase[items] = _transients(magnitudes[items], settings)

    lattice.workers.run(track, *magnitudes.shape[:2])
    lattice.workers.run(find_transients, *magnitudes.shape[:2], block=frames)
    for frame in range(frames):
        cycles = (cycles + advance[:, frame]).gather(1, owner[:, frame])
        cycles = torch.where(is_transient[:, frame], phase[:, frame], cycles)
        phase[:, frame] = cycles
    number = torch.arange(bins, device=magnitudes.device)
    centre = (number * (settings.win_length // 2) % settings.n_fft) / settings.n_fft
    return (phase - centre.to(phase)).remainder_(1).mul_(2 * math.pi)


def _transients(magnitudes: torch.Tensor, settings: MelSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Which bins of [B, frames, bins] belong to a transient, and their phase about the window's centre, in cycles.

    Under a Gaussian window the delay of the energy within a frame is proportional to the level's slope over time, and
    the phase falls with frequency by the delay (Průša, Balazs and Søndergaard 2017, whose constant for the Hann window
    this is). Levels are of bands 500 Hz wide: a single bin's slope is the beating of its neighbours.
    """
    half = round(250 * settings.n_fft / settings.sample_rate)
    sums = functional.pad(magnitudes.cumsum(-1, dtype=torch.float64), (1 + half, 0))
    sums = torch.cat([sums, sums[..., -1:].expand(*sums.shape[:-1], half)], dim=-1)
    bands = (sums[..., 2 * half + 1 :] - sums[..., : -2 * half - 1]).to(magnitudes)
    level = bands.add_(1e-5 * bands.amax(dim=(-2, -1), keepdim=True) + 1e-18).log_()
    slope = torch.zeros_like(level)
    slope[:, 1:-1] = (level[:, 2:] - level[:, :-2]) * (settings.sample_rate / settings.hop_length / 2)
    window = settings.win_length / settings.sample_rate
    delay = (slope * (0.25645 * window**2 / (2 * math.pi))).clamp_(-0.4 * window, 0.4 * window)
    cycles = (delay * (settings.sample_rate / settings.n_fft)).cumsum(-1, dtype=torch.float64).neg_().remainder_(1)
    # 1.5 nepers within a window: less is vibrato or noise, for which the peaks are the better guide.
    return slope.abs() * window > 1.5, cycles.to(magnitudes)


def _peaks(magnitudes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each bin of [B, frames, bins], the nearest peak's bin and its parabola's offset in bins (-0.5..0.5)."""
    bins = magnitudes.shape[-1]
    level = magnitudes.clamp_min(1e-9).log()
    left, centre, right = level[..., :-2], level[..., 1:-1], level[..., 2:]
    is_peak = functional.pad((centre > left) & (centre >= right), (1, 1))
    curvature = (left - 2 * centre + right).clamp_max(-1e-12)
    offset = functional.pad((0.5 * (left - right) / curvature).clamp(-0.5, 0.5), (1, 1))
    number = torch.arange(bins, device=magnitudes.device, dtype=torch.int32)
    below = torch.where(is_peak, number, -bins).cummax(-1).values
    above = torch.where(is_peak, number, 2 * bins).flip(-1).cummin(-1).values.flip(-1)
    owner = torch.where(number - below <= above - number, below, above)
    # A frame without a peak (silence) leaves every bin to itself.
    owner = torch.where((owner < 0) | (owner >= bins), number, owner).long()
    return owner, offset.gather(-1, owner)


def _frames(wave: torch.Tensor, settings: MelSettings) -> torch.Tensor:
    """Overlapping stretches [B, frames, win_length] of waveforms [B, samples], centred with reflect padding."""
    before = _padding(settings)
    padded = functional.pad(wave[:, None], (before, settings.win_length - before), mode="reflect")[:, 0]
    return padded.unfold(-1, settings.win_length, settings.hop_length)


def _overlap_add(pieces: torch.Tensor, settings: MelSettings, samples: int) -> torch.Tensor:
    """Adjoint of `_frames`: pieces [B, frames, win_length] summed at their places, reflected parts folded back."""
    items, frames, win_length = pieces.shape
    hop = settings.hop_length
    overlaps = -(-win_length // hop)
    if overlaps * hop > win_length:
        pieces = functional.pad(pieces, (0, overlaps * hop - win_length))
    total = pieces.new_zeros(items, frames + overlaps - 1, hop)
    for index in range(overlaps):
        total[:, index : index + frames] += pieces[..., index * hop : (index + 1) * hop]
    before = _padding(settings)
    # Frames further apart than the last samples leave those without a piece.
    total = functional.pad(total.flatten(1), (0, max(0, samples + win_length - total[0].numel())))
    wave = total[:, before : before + samples].clone()
    wave[:, 1 : before + 1] += total[:, :before].flip(-1)
    after = total[:, before + samples : samples + win_length]
    wave[:, samples - 1 - after.shape[1] : samples - 1] += after.flip(-1)
    return wave


def _padding(settings: MelSettings) -> int:
    """Samples of the window before a frame's centre, with the window in the middle of `n_fft` as torch.stft has it."""
    return settings.n_fft // 2 - (settings.n_fft - settings.win_length) // 2


def _resample_hops(wave: torch.Tensor, work: MelSettings, settings: MelSettings) -> torch.Tensor:
    """Band-limited change of rate [B, k * work.hop_length] to [B, k * settings.hop_length], in the Fourier domain."""
    if work.sample_rate == settings.sample_rate:
        return wave
    hops = wave.shape[-1] // work.hop_length
    margin = min(8, hops - 1)
    padded_hops = scipy.fft.next_fast_len(hops + 2 * margin, real=True)
    # The transform is circular: fading the reflected ends to zero keeps its join silent.
    edge = margin * work.hop_length
    padded = functional.pad(wave[:, None], (edge, edge), mode="reflect")[:, 0]
    fade = 0.5 - 0.5 * torch.cos(math.pi * torch.arange(edge, device=wave.device, dtype=wave.dtype) / max(edge, 1))
    padded[:, :edge] *= fade
    padded[:, padded.shape[1] - edge :] *= fade.flip(0)
    spectrum = torch.fft.rfft(padded, n=padded_hops * work.hop_length)
    out = torch.fft.irfft(spectrum, n=padded_hops * settings.hop_length) * (settings.hop_length / work.hop_length)
    first = margin * settings.hop_length
    return out[:, first : first + hops * settings.hop_length]


def _magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    # Twice as fast as abs(), whose care for overflow amplitudes do not need.
    return spectrum.real.square().add_(spectrum.imag.square()).sqrt_()


def _group_size(device: torch.device) -> int:
    # Items in memory at once.
    return 8 if device.type == "cpu" else 32


def _working_precision(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _flat_mel(mel: torch.Tensor, settings: MelSettings) -> torch.Tensor:
    """Mel amplitudes as [B, frames, mels]."""
    _check_lattice(mel, "mel")
    if mel.shape[-2] != settings.n_mels:
        raise ValueError(f"mel must be [..., {settings.n_mels}, frames], not {_shape(mel)}")
    mel = _working_precision(mel)
    _check_amplitudes(mel)
    return mel.reshape(-1, *mel.shape[-2:]).transpose(-1, -2).contiguous()


def _seeds(seeds: int | Sequence[int], items: int) -> list[int]:
    listed = [seeds] * items if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if len(listed) != items:
        raise ValueError(f"{len(listed)} seeds for {items} items; give one for each, or one for all")
    return listed


def _checked_length(length: int | None, frames: int, iterations: int, settings: MelSettings) -> int:
    longest = (frames - 1) * settings.hop_length
    if longest <= settings.win_length // 2 + 1:
        raise ValueError(f"{frames} frames are too few to invert; they must span more than half a window")
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, not {iterations}")
    if length is None:
        return longest
    if not 0 <= length <= longest:
        raise ValueError(f"length must lie in 0..{longest} samples for {frames} frames, not {length}")
    return length


def _check_lattice(tensor: torch.Tensor, name: str) -> None:
    if tensor.ndim < 2 or 0 in tensor.shape or (name != "pixels" and not tensor.is_floating_point()):
        raise ValueError(f"{name} must be a non-empty float tensor [..., rows, frames], not {_shape(tensor)}")


def _shape(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")


def _check_amplitudes(mel: torch.Tensor) -> None:
    # A comparison with NaN is false.
    if not bool(((mel >= 0) & (mel < math.inf)).all()):
        raise ClipError("mel amplitudes are negative or not finite; check the clip or image that they come from")
