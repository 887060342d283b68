"""From mel amplitudes to sound: mel inversion and Griffin-Lim."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch.nn import functional

from blendbench.sound.lattice import (
    RIFFUSION,
    Lattice,
    MelSettings,
    Workers,
    check_lattice,
    checked_length,
    framed,
    group_size,
    magnitude_of,
    resample_hops,
    shape_of,
    working_precision,
    working_settings,
)
from blendbench.sound.mel import MelBank, flat_mel, mel_bank


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
        raise ValueError(
            f"spectral convergence compares like shapes, not {shape_of(reference)} and {shape_of(estimate)}"
        )
    error = torch.linalg.matrix_norm(reference - estimate)
    return torch.where(error == 0, torch.zeros_like(error), error / torch.linalg.matrix_norm(reference))


@torch.no_grad()
def griffin_lim(
    magnitudes: torch.Tensor,
    settings: MelSettings = RIFFUSION,
    iterations: int = 32,
    momentum: float = 0.99,
    seeds: int | Sequence[int] = 0,
    start: Literal["peaks", "random", "zero"] = "peaks",
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
    start : "peaks", "random" or "zero"
        Starting phase: single pass spectrogram inversion (Beauregard, Harish and Wyse 2015), uniform noise, or 0.
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
    check_lattice(magnitudes, "magnitudes")
    if magnitudes.shape[-2] != settings.n_fft // 2 + 1:
        raise ValueError(f"magnitudes must be [..., {settings.n_fft // 2 + 1}, frames], not {shape_of(magnitudes)}")
    if start not in ("peaks", "random", "zero"):
        raise ValueError(f'start must be "peaks", "random" or "zero", not {start!r}')
    length = checked_length(length, magnitudes.shape[-1], iterations, settings)
    longest = (magnitudes.shape[-1] - 1) * settings.hop_length
    flat = working_precision(magnitudes).flatten(0, -3) if magnitudes.ndim > 2 else working_precision(magnitudes)[None]
    flat = flat.transpose(-1, -2).contiguous()
    seeds = _seeds(seeds, len(flat))
    step = group_size(flat.device)
    waves = []
    with Workers(flat.device) as workers:
        for first in range(0, len(flat), step):
            wanted = flat[first : first + step]
            lattice = Lattice(settings, wanted, longest, workers)
            wave = start_wave(wanted, lattice, seeds[first : first + step], start)
            waves.append(alternate(wave, wanted, _set_magnitudes, lattice, iterations, momentum))
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
    each bin, this moves the magnitudes by the least that gives every band its amplitude. Five of six iterations see
    every second frame, which costs half and still overlaps by 80 %; the last sixth sees them all.

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
    flat = flat_mel(mel, settings)
    length = checked_length(length, mel.shape[-1], iterations, settings)
    seeds = _seeds(seeds, len(flat))
    work = working_settings(settings)
    # Four windows over each sample are the fewest that determine the phase well.
    stride = 2 if 8 * work.hop_length <= work.win_length else 1
    sparse = replace(work, hop_length=stride * work.hop_length)
    bank = mel_bank(work, flat.device, flat.dtype)
    peaks = flat.amax(dim=(-2, -1), keepdim=True)
    # Per item 0..1, so that every guard against division by zero is relative to the item's own level.
    targets = functional.threshold(flat / torch.where(peaks > 0, peaks, torch.ones_like(peaks)), 1e-9, 0.0)
    samples, longest = (mel.shape[-1] - 1) * work.hop_length, (mel.shape[-1] - 1) * settings.hop_length
    last = -(-iterations // 6)
    step = group_size(flat.device)
    waves = []
    with Workers(flat.device) as workers:
        for first in range(0, len(flat), step):
            target = targets[first : first + step]
            every_second = target[:, ::stride].contiguous()
            coarse = Lattice(sparse, every_second, samples, workers)
            magnitudes = target.new_zeros(*every_second.shape[:2], work.n_fft // 2 + 1)

            def invert(
                items: slice, frames: slice, out: torch.Tensor = magnitudes, mel: torch.Tensor = every_second
            ) -> None:
                out[items, frames, : bank.bins] = invert_mel(mel[items, frames], bank, 1)

            workers.run(invert, *every_second.shape[:2])
            wave = start_wave(magnitudes, coarse, seeds[first : first + step], "peaks")
            wave = alternate(wave, every_second, partial(set_mel, bank), coarse, iterations - last, momentum)
            full = Lattice(work, target, samples, workers)
            wave = alternate(wave, target, partial(set_mel, bank), full, last, momentum)
            resampled = wave.new_empty(len(wave), longest)

            def resample(items: slice, _: slice, out: torch.Tensor = resampled, wave: torch.Tensor = wave) -> None:
                out[items] = resample_hops(wave[items], work, settings)

            workers.run(resample, *target.shape[:2], block=target.shape[1])
            waves.append(resampled)
    # A sum over bins scales with the window's sum and with the bins' density: together, with n_fft.
    waveform = torch.cat(waves)[:, :length] * (peaks[..., 0] * (work.n_fft / settings.n_fft))
    return waveform.reshape(*mel.shape[:-2], length)


def invert_mel(mel: torch.Tensor, bank: MelBank, iterations: int) -> torch.Tensor:
    """Non-negative magnitudes [B, frames, bins] that fit mel amplitudes [B, frames, mels].

    Alternating projections onto {A : A F = S} and {A : A >= 0} from a smooth start, which the factorised Gram matrix of
    the filter bank F (made once) reduces to two products a step. Of the many solutions this gives one close to the
    smooth start, where a least-norm solution would be jagged.
    """
    magnitudes = bank.to_bins(mel / bank.area)
    for _ in range(iterations):
        magnitudes = bank.project(magnitudes, mel).clamp_min_(0)
    return magnitudes


def start_wave(
    magnitudes: torch.Tensor,
    lattice: Lattice,
    seeds: Sequence[int],
    start: str,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """Waveforms [B, samples] of magnitudes [B, frames, bins] under their starting phase.

    `known` are phases [B, k, bins] of the first frames, in cycles about the window's centre, from which others go on.
    """
    phase = _starting_phase(magnitudes, lattice, seeds, start, known)
    return lattice.synthesise(lambda items, frames: torch.polar(magnitudes[items, frames], phase[items, frames]))


def alternate(
    wave: torch.Tensor,
    wanted: torch.Tensor,
    constrain: Callable[[torch.Tensor, torch.Tensor], None],
    lattice: Lattice,
    iterations: int,
    momentum: float,
    held: torch.Tensor | None = None,
) -> torch.Tensor:
    """Fast Griffin-Lim on waveforms [B, samples]; `constrain(spectrum, wanted)` projects in place, frame by frame.

    `held` [B, n] are the first samples where they are decided already: each step puts them back.
    """
    ahead = wave
    for _ in range(iterations):
        stretches = framed(ahead, lattice.settings)

        def constrained(items: slice, frames: slice, stretches: torch.Tensor = stretches) -> torch.Tensor:
            spectrum = torch.fft.rfft(stretches[items, frames] * lattice.window, n=lattice.settings.n_fft)
            constrain(spectrum, wanted[items, frames])
            return spectrum

        before, wave = wave, lattice.synthesise(constrained)
        if held is not None:
            wave[:, : held.shape[1]] = held
        ahead = torch.lerp(before, wave, 1 + momentum)
    return wave


def _set_magnitudes(spectrum: torch.Tensor, wanted: torch.Tensor) -> None:
    magnitude = magnitude_of(spectrum)
    spectrum.mul_(wanted / magnitude.clamp_min_(1e-18))


def set_mel(bank: MelBank, spectrum: torch.Tensor, wanted: torch.Tensor) -> None:
    magnitude = magnitude_of(spectrum[..., : bank.bins]).clamp_min_(1e-10)
    moved = bank.project(magnitude, wanted).clamp_min_(0)
    spectrum[..., : bank.bins].mul_(moved.div_(magnitude))


def _starting_phase(
    magnitudes: torch.Tensor, lattice: Lattice, seeds: Sequence[int], start: str, known: torch.Tensor | None
) -> torch.Tensor:
    """Phase [B, frames, bins] in radians, about the window's first sample.

    "peaks" is single pass spectrogram inversion: each bin belongs to the nearest spectral peak, whose phase advances
    from frame to frame with its interpolated frequency, and the bins of a peak share its phase about the window's
    centre. Where a wide band swells or fades at once, its bins follow the transient's delay instead.
    """
    settings = lattice.settings
    _, frames, bins = magnitudes.shape
    if start == "zero":
        return torch.zeros_like(magnitudes)
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
        if known is not None and frame < known.shape[1]:
            cycles = known[:, frame].to(cycles)
        phase[:, frame] = cycles
    return (phase - centre_cycles(settings, bins).to(phase)).remainder_(1).mul_(2 * math.pi)


def centre_cycles(settings: MelSettings, bins: int) -> torch.Tensor:
    """Cycles that each bin turns from the window's first sample to its centre, [bins]."""
    return (torch.arange(bins) * (settings.win_length // 2) % settings.n_fft) / settings.n_fft


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


def _seeds(seeds: int | Sequence[int], items: int) -> list[int]:
    listed = [seeds] * items if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if len(listed) != items:
        raise ValueError(f"{len(listed)} seeds for {items} items; give one for each, or one for all")
    return listed
