"""Sound as numbers: sample rates, loudness, lengths, levels and the sum of two sounds.

A waveform is a float32 tensor `[samples]`, or `[channels, samples]`, full scale at 1.0 and never clipped in memory:
peaks above 1 are lawful until a file with a bounded sample format is written. What is done to one with several channels
is done to all alike: one gain, one cut. Times are in seconds, rates in Hz, levels in dB, loudness in LUFS as ITU-R
BS.1770-4 defines it.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import pyloudnorm
import torch
from scipy import signal

from blendbench.errors import ClipError

SAMPLE_RATE = 44_100
MIN_SECONDS = 0.4
"""Length of a gating block of BS.1770-4: a shorter clip has no loudness."""
GATE_LUFS = -70.0
"""Absolute gate of BS.1770-4: what lies below it does not count as sound."""
BLOCK_VALUES = 1 << 20
"""Samples of a long waveform that are worked on at once, those of all its channels together."""
_WEIGHED_CHANNELS = 5
"""Channels that BS.1770-4 gives weights to."""


def resample(waveform: torch.Tensor, orig_rate: int, new_rate: int) -> torch.Tensor:
    """Change the sample rate by a polyphase linear-phase FIR filter (`scipy.signal.resample_poly`).

    The filter is a Kaiser-windowed sinc: pass band to 0.9 of the lower Nyquist frequency, 100 dB down from that Nyquist
    frequency on. SciPy is used and not `torchaudio.functional.resample` because the latter's kernel has
    `orig * new / gcd**2` taps, which takes gigabytes for rates without a large common factor (44,056 Hz); the filter is
    designed here because the default ones of both let aliases through near Nyquist.

    Parameters
    ----------
    waveform : Tensor [..., samples]
    orig_rate, new_rate : int
        In Hz.

    Returns
    -------
    Tensor [..., ceil(samples * new_rate / orig_rate)], same dtype and device.
    """
    up, down = rate_ratio(orig_rate, new_rate)
    if up == down or waveform.shape[-1] == 0:
        return waveform
    samples = -(-waveform.shape[-1] * up // down)
    resampled = waveform.detach().new_empty(*waveform.shape[:-1], samples)
    position = 0
    for part in resample_blocks(waveform.split(_block_length(waveform), dim=-1), orig_rate, new_rate):
        resampled[..., position : position + part.shape[-1]] = part
        position += part.shape[-1]
    return resampled


def resample_blocks(blocks: Iterable[torch.Tensor], orig_rate: int, new_rate: int) -> Iterator[torch.Tensor]:
    """`resample` for a waveform that comes in blocks: joined, those that it gives are the same to the bit.

    Parameters
    ----------
    blocks : iterable of Tensor [..., n]
        One after the other, of any lengths.
    orig_rate, new_rate : int
        In Hz.

    Yields
    ------
    Tensor [..., m], same dtype and device; for one block, one.
    """
    up, down = rate_ratio(orig_rate, new_rate)
    if up == down:
        yield from blocks
        return
    taps = resampling_filter(up, down)
    # What the filter reaches to either side, in whole periods of the two rates, so that every part begins with one.
    margin = -(-(len(taps) // 2) // (up * down)) * down
    held: torch.Tensor | None = None
    before = 0
    for block in blocks:
        if held is None:
            held = block
            continue
        periods = (held.shape[-1] - before - margin) // down
        if periods > 0:
            first = before // down * up
            yield _resampled(held, up, down, taps)[..., first : first + periods * up]
            done = before + periods * down
            before = min(margin, done)
            held = held[..., done - before :]
        held = torch.cat([held, block], dim=-1)
    if held is not None:
        yield _resampled(held, up, down, taps)[..., before // down * up :]


def _block_length(waveform: torch.Tensor) -> int:
    return max(1, BLOCK_VALUES * waveform.shape[-1] // max(1, waveform.numel()))


def _resampled(waveform: torch.Tensor, up: int, down: int, taps: np.ndarray) -> torch.Tensor:
    if waveform.shape[-1] == 0:
        return waveform
    values = waveform.detach().cpu().numpy()
    made = signal.resample_poly(values, up, down, axis=-1, window=taps.astype(values.dtype))
    return torch.from_numpy(np.ascontiguousarray(made)).to(waveform)


def integrated_loudness(waveform: torch.Tensor, sample_rate: int, name: str = "waveform") -> float:
    """Integrated, gated loudness of ITU-R BS.1770-4 (`pyloudnorm`).

    Powers of channels are summed with the weights 1, 1, 1, 1.41, 1.41: left, right, centre, left surround, right
    surround. So a full-scale 997 Hz sine measures -3.01 LUFS as [samples], which counts as one channel, and 0 in two.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]
        At most five channels, in the order above; a low-frequency channel does not count and is to be left out.
    sample_rate : int
        In Hz.
    name : str
        What to call the clip in a message.

    Returns
    -------
    Loudness in LUFS; -inf when no block of 400 ms passes the absolute gate of -70 LUFS.

    Raises
    ------
    ClipError
        It is shorter than 0.4 s, or holds NaN or infinity.
    ValueError
        It has another shape, or more than five channels.
    """
    check_shape(waveform, name)
    if waveform.ndim == 2 and waveform.shape[0] > _WEIGHED_CHANNELS:
        raise ValueError(f"{name}: has {waveform.shape[0]} channels; BS.1770 weighs at most {_WEIGHED_CHANNELS}")
    if waveform.shape[-1] < MIN_SECONDS * sample_rate:
        seconds = waveform.shape[-1] / sample_rate
        raise ClipError(f"{name}: lasts {seconds:.3g} s, BS.1770 loudness needs {MIN_SECONDS} s; use a longer clip")
    check_finite(waveform, name)
    # The offset, 600 dB down, keeps the filters' decay into digital silence out of the slow subnormal numbers.
    values = waveform.detach().cpu().numpy().T.astype(np.float64)
    values += 1e-30
    return float(meter_of(sample_rate).integrated_loudness(values))


def k_weighting(frequencies: torch.Tensor, sample_rate: int = SAMPLE_RATE) -> torch.Tensor:
    """Power response of BS.1770's two filters, the shelf and the high-pass, at frequencies [...] in Hz, float64."""
    response = np.ones(frequencies.shape)
    for stage in meter_of(sample_rate)._filters.values():
        _, values = signal.freqz(stage.b, stage.a, worN=frequencies.double().numpy(), fs=sample_rate)
        response *= np.abs(values * stage.passband_gain) ** 2
    return torch.from_numpy(response)


def normalize_loudness(
    waveform: torch.Tensor, sample_rate: int, target_lufs: float, name: str = "waveform"
) -> tuple[torch.Tensor, float]:
    """Scale a waveform, all channels by one gain, to an integrated loudness; peaks may pass 1, nothing is clipped.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]
        As for `integrated_loudness`.
    sample_rate : int
        In Hz.
    target_lufs : float
        In LUFS, above -70.
    name : str
        What to call the clip in a message.

    Returns
    -------
    waveform : Tensor, of the same shape
    gain_db : float
        The finite gain that was applied, in dB.

    Raises
    ------
    ClipError
        It is silent (loudness -inf), shorter than 0.4 s, or holds NaN or infinity.
    ValueError
        The target is not finite or not above the gate of -70 LUFS, or the shape is not as said.
    """
    if not (math.isfinite(target_lufs) and target_lufs > GATE_LUFS):
        raise ValueError(f"target_lufs must be finite and above {GATE_LUFS:g}, not {target_lufs}")
    loudness = integrated_loudness(waveform, sample_rate, name)
    if loudness == -math.inf:
        raise ClipError(
            f"{name}: is silent (below the {GATE_LUFS:g} LUFS gate); no gain can level it, use another clip"
        )
    gain_db = target_lufs - loudness
    # The absolute gate does not move with the gain: raising a quiet clip lifts blocks over it that were not counted.
    for _ in range(4):
        scaled = waveform * from_db(gain_db)
        error = target_lufs - integrated_loudness(scaled, sample_rate, name)
        if abs(error) < 0.001 or not math.isfinite(error):
            break
        gain_db += error
    else:
        scaled = waveform * from_db(gain_db)
    return scaled, gain_db


def extend_circular(waveform: torch.Tensor, samples: int) -> torch.Tensor:
    """Give a repeating sound a length: loop it from its start when too short, cut it when too long.

    Parameters
    ----------
    waveform : Tensor [..., n], n >= 1
    samples : int
        Wanted length, 0 or more.

    Returns
    -------
    Tensor [..., samples], a copy.

    Raises
    ------
    ValueError
        The waveform is empty or `samples` negative.
    """
    if waveform.shape[-1] == 0 or samples < 0:
        raise ValueError(f"cannot extend {waveform.shape[-1]} samples to {samples}")
    whole, rest = divmod(samples, waveform.shape[-1])
    return torch.cat([waveform] * whole + [waveform[..., :rest]], dim=-1)


def to_mono(waveform: torch.Tensor) -> torch.Tensor:
    """The mean of a waveform's channels.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]

    Returns
    -------
    Tensor [samples]; the waveform itself where it has that shape.

    Raises
    ------
    ValueError
        It has another shape.
    """
    check_shape(waveform, "waveform")
    return waveform if waveform.ndim == 1 else waveform.mean(0)


def mix(noise: torch.Tensor, music: torch.Tensor) -> torch.Tensor:
    """Sum of noise and music; peaks may pass 1, nothing is clipped.

    Parameters
    ----------
    noise, music : Tensor [..., samples]
        Of one shape: a mono sound is not spread over the channels of the other.

    Returns
    -------
    Tensor [..., samples]

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if noise.shape != music.shape:
        raise ValueError(f"noise {list(noise.shape)} and music {list(music.shape)} differ in shape; extend or cut one")
    return noise + music


def limit_peak(waveform: torch.Tensor, ceiling: float = 1.0) -> tuple[torch.Tensor, float]:
    """Scale the whole waveform down when its peak passes a ceiling; otherwise return it as it is.

    Parameters
    ----------
    waveform : Tensor [..., samples]
        The peak is that of all its channels, and they are lowered together.
    ceiling : float
        Largest absolute sample allowed, above 0.

    Returns
    -------
    waveform : Tensor [..., samples]
    attenuation_db : float
        By how much it was lowered, in dB; 0 when untouched, never negative.

    Raises
    ------
    ValueError
        The ceiling is not above 0, or the waveform holds NaN or infinity.
    """
    if not ceiling > 0:
        raise ValueError(f"ceiling must be above 0, not {ceiling}")
    peak = peak_of(waveform)
    if not math.isfinite(peak):
        raise ValueError("cannot limit a waveform that holds NaN or infinity")
    if peak <= ceiling:
        return waveform, 0.0
    # Dividing first makes the peak exactly 1, so that rounding cannot lift it over the ceiling.
    return waveform / peak * ceiling, db(peak / ceiling)


def round_off(waveform: torch.Tensor, ceiling: float = 1.0, knee: float = 0.8) -> torch.Tensor:
    """What exceeds the knee rounded off to stay below a ceiling, as mastering does; the rest as it is."""
    over, room = (waveform.abs() - knee).clamp_min(0), ceiling - knee
    return waveform.clamp(-knee, knee) + waveform.sign() * room * torch.tanh(over / room)


def peak_of(waveform: torch.Tensor) -> float:
    """Largest absolute sample of a waveform; 0 if it has none, NaN if one is NaN."""
    if waveform.numel() == 0:
        return 0.0
    lowest, highest = waveform.aminmax()
    return max(-lowest.item(), highest.item())


def db(amplitude: float) -> float:
    """Level of an amplitude ratio in dB: 20 log10(amplitude); -inf for 0, ValueError below 0."""
    return 20.0 * math.log10(amplitude) if amplitude != 0 else -math.inf


def from_db(level: float) -> float:
    """Amplitude ratio of a level in dB: 10^(level / 20)."""
    return 10.0 ** (level / 20.0)


def check_has_samples(samples: int, name: str) -> None:
    """Raise ClipError for a sound of no length."""
    if samples == 0:
        raise ClipError(f"{name}: holds 0 samples; use a clip with sound in it")


def check_shape(waveform: torch.Tensor, name: str) -> None:
    """Raise ValueError unless a waveform is [samples] or [channels, samples]."""
    if waveform.ndim not in (1, 2) or (waveform.ndim == 2 and waveform.shape[0] == 0):
        raise ValueError(f"{name}: has shape {list(waveform.shape)}, not [samples] or [channels, samples]")


def check_finite(waveform: torch.Tensor, name: str) -> None:
    """Raise ClipError, with their number, where samples are NaN or infinite."""
    for _ in finite_blocks(waveform.split(_block_length(waveform), dim=-1), name):
        pass


def finite_blocks(blocks: Iterable[torch.Tensor], name: str) -> Iterator[torch.Tensor]:
    """The blocks of a waveform as they come; raises as `check_finite` after the last."""
    bad = samples = 0
    for block in blocks:
        samples += block.numel()
        bad += block.numel() - int(torch.isfinite(block).sum())
        yield block
    if bad:
        raise ClipError(f"{name}: {bad} of {samples} samples are NaN or infinite; mend or export it again")


@lru_cache(maxsize=16)
def meter_of(sample_rate: int) -> pyloudnorm.Meter:
    """The meter of a rate, made once."""
    return pyloudnorm.Meter(sample_rate)


def rate_ratio(orig_rate: int, new_rate: int) -> tuple[int, int]:
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be above 0, not {orig_rate} and {new_rate}")
    common = math.gcd(orig_rate, new_rate)
    return new_rate // common, orig_rate // common


@lru_cache(maxsize=8)
def resampling_filter(up: int, down: int) -> np.ndarray:
    transition, stopband_db = 0.1, 100.0
    nyquist_ratio = max(up, down)
    length, beta = signal.kaiserord(stopband_db, transition / nyquist_ratio)
    return signal.firwin(2 * (length // 2) + 1, (1 - transition / 2) / nyquist_ratio, window=("kaiser", beta))
