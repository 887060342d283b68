"""The lattice of windows and frames that mel images lie on, in working precision, and the threads that fill it."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import scipy.fft
import torch
from torch.nn import functional

from blendbench.sound import audio

_MOST_FRAMES = 32 * 512
"""Frames that an accelerator transforms at once: 32 images. Their spectra take 1.2 GB with Riffusion's settings."""


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


def mel_centres(settings: MelSettings = RIFFUSION) -> torch.Tensor:
    """Centre of each HTK mel band, [n_mels], float64, in Hz."""
    lowest, highest = (2595 * math.log10(1 + limit / 700) for limit in (settings.f_min, settings.f_max))
    mels = torch.linspace(lowest, highest, settings.n_mels + 2, dtype=torch.float64)[1:-1]
    return 700 * (10 ** (mels / 2595) - 1)


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


@lru_cache(maxsize=16)
def hann_window(settings: MelSettings, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.hann_window(settings.win_length, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def working_settings(settings: MelSettings) -> MelSettings:
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


class Workers:
    """Threads that take blocks of frames, each with single-threaded operations.

    An iteration has dozens of small operations. Shared out one by one, each would wait for the slowest core; a block
    waits once, and stays in its core's cache. Blocks do not depend on the number of threads, nor do results.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cpu = device.type == "cpu"
        self.threads = torch.get_num_threads() if self.on_cpu else 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.threads > 1:
            torch.set_num_threads(1)
            self.pool = ThreadPoolExecutor(self.threads)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()
            torch.set_num_threads(self.threads)

    def run(self, work: Callable[[slice, slice], None], items: int, frames: int, *, block: int = 64) -> None:
        """Call `work(items, frames)` for the blocks that cover a lattice.

        On an accelerator a block is all of it, unless that is more than its memory is sure to hold; `block` is the
        fewest frames then.
        """
        if not self.on_cpu:
            step = max(block, _MOST_FRAMES // max(1, items))
            for first in range(0, frames, step):
                work(slice(0, items), slice(first, min(first + step, frames)))
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


class Lattice:
    """A short-time transform between waveforms [B, samples] and spectra [B, frames, bins], and who computes it."""

    def __init__(self, settings: MelSettings, like: torch.Tensor, samples: int, workers: Workers) -> None:
        self.settings = settings
        self.items, self.frames = like.shape[:2]
        self.samples = samples
        self.workers = workers
        self.window = hann_window(settings, like.device, like.dtype)
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


def framed(wave: torch.Tensor, settings: MelSettings) -> torch.Tensor:
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


def resample_hops(wave: torch.Tensor, work: MelSettings, settings: MelSettings) -> torch.Tensor:
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


def magnitude_of(spectrum: torch.Tensor) -> torch.Tensor:
    # Twice as fast as abs(), whose care for overflow amplitudes do not need.
    return spectrum.real.square().add_(spectrum.imag.square()).sqrt_()


def group_size(device: torch.device) -> int:
    # Items in memory at once.
    return 8 if device.type == "cpu" else 32


def working_precision(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def checked_length(length: int | None, frames: int, iterations: int, settings: MelSettings) -> int:
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


def check_lattice(tensor: torch.Tensor, name: str) -> None:
    if tensor.ndim < 2 or 0 in tensor.shape or (name != "pixels" and not tensor.is_floating_point()):
        raise ValueError(f"{name} must be a non-empty float tensor [..., rows, frames], not {shape_of(tensor)}")


def shape_of(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
