"""What is refused of a waveform, and of a file's channels: a line that names the clip and says what to do."""

import math
from collections.abc import Callable

import numpy as np
import torch

from blendbench.errors import ClipError
from blendbench.sound.audio import (
    GATE_LUFS,
    MIN_SECONDS,
    SAMPLE_RATE,
    check_finite,
    check_has_samples,
    db,
    integrated_loudness,
    peak_of,
)

_AUDIBLE_CHUNK_SECONDS = 2.0
_MOST_CHANNELS_TRIED = 32
"""Channels that are heard alone where their mean is silent."""


def check_waveform(
    waveform: torch.Tensor, name: str, sample_rate: int = SAMPLE_RATE, min_seconds: float = MIN_SECONDS
) -> None:
    """Refuse a waveform that cannot take part in an experiment.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]
    name : str
        What to call the clip in the message.
    sample_rate : int
        In Hz.
    min_seconds : float
        Shortest length accepted, in seconds.

    Raises
    ------
    ClipError
        It has another shape, is empty, holds NaN or infinity, is shorter than `min_seconds`, or has no sound: no 400 ms
        of any of its channels, the channel's mean taken away, passes the absolute gate of -70 LUFS of BS.1770-4. That
        covers digital silence, a constant value (DC only), and clips so quiet that their loudness is -inf and no finite
        gain would level them.
    """
    if waveform.ndim not in (1, 2) or (waveform.ndim == 2 and waveform.shape[0] == 0):
        shape = list(waveform.shape)
        raise ClipError(f"{name}: waveform has shape {shape}, not [samples] or [channels, samples]; turn it into one")
    check_has_samples(waveform.shape[-1], name)
    check_finite(waveform, name)
    seconds = waveform.shape[-1] / sample_rate
    if waveform.shape[-1] < round(min_seconds * sample_rate):
        raise ClipError(
            f"{name}: lasts {seconds:.6g} s, shorter than the {min_seconds:g} s needed "
            f"(BS.1770 loudness takes blocks of 400 ms); use a longer clip"
        )
    channels = waveform.reshape(-1, waveform.shape[-1])
    if not any(_is_audible(channel, sample_rate) for channel in channels):
        peak = peak_of(waveform)
        if peak == 0:
            what = "is digital silence"
        elif torch.equal(channels.amin(-1), channels.amax(-1)):
            what = f"holds one constant value ({channels[0, 0].item():.3g}), so no sound"
        else:
            what = f"is silent: all of it lies below the {GATE_LUFS:g} LUFS gate of BS.1770 (peak {db(peak):.1f} dBFS)"
        raise _SilentError(f"{name}: {what}; use a clip with sound in it")


class _SilentError(ClipError):
    """A waveform has no sound in it."""


def check_heard(
    waveform: torch.Tensor,
    name: str,
    part: Callable[[int], torch.Tensor],
    channel: int | None,
    sample_rate: int = SAMPLE_RATE,
    min_seconds: float = MIN_SECONDS,
) -> None:
    """Refuse, as `check_waveform`, what was read of a file; where its channels cancel out in their mean, say so.

    Parameters
    ----------
    waveform, name, sample_rate, min_seconds
        As for `check_waveform`; with several channels, none was lost in a mean.
    part : callable
        From a channel, from 0 on, to its waveform [samples]; raises ClipError if there is none.
    channel : int or None
        The channel that the waveform is, or repeats; None for all, or their mean.

    Raises
    ------
    ClipError
        As `check_waveform`, or because the mean is silent while a channel is not.
    """
    if channel is not None:
        check_waveform(waveform, f"{name}, channel {channel}", sample_rate, min_seconds)
        return
    try:
        check_waveform(waveform, name, sample_rate, min_seconds)
    except _SilentError:
        for one in range(_MOST_CHANNELS_TRIED if waveform.ndim == 1 else 0):
            try:
                audible = _is_audible(part(one), sample_rate)
            except ClipError:
                break
            if audible:
                raise ClipError(
                    f"{name}: its channels cancel out: channel {one} has sound, the mean of all has none (opposite "
                    f"phase?); make it mono, or, if it is a noise, take one channel by noise.channel={one}"
                ) from None
        raise


def check_channel(channel: int | None, channels: int, name: str) -> None:
    """Refuse a channel, from 0 on, that a sound of so many has not; raises ClipError, naming the setting."""
    if channel is not None and channel >= channels:
        known = "1 channel" if channels == 1 else f"{channels} channels"
        taken = "0" if channels == 1 else f"0 to {channels - 1}"
        raise ClipError(f"{name}: has {known}, so no noise.channel={channel}; take {taken}, or null for the mean")


def check_channels(channels: int, channel: int | None, found: int, name: str) -> None:
    """Refuse a sound of `found` channels that does not give so many: it has one, or just these, or one is taken.

    Raises
    ------
    ClipError
        Also as `check_channel`.
    """
    check_channel(channel, found, name)
    if channels > 1 and channel is None and found not in (1, channels):
        raise ClipError(f"{name}: has {found} channels, not 1 or {channels}; mix it down to {channels}")


def _is_audible(waveform: torch.Tensor, sample_rate: int) -> bool:
    """Whether any block of 400 ms passes the absolute gate; stops at the first chunk that does.

    The mean goes first: where a constant begins, the K-weighting's high-pass rings, and would count as sound.
    """
    block = math.ceil(MIN_SECONDS * sample_rate)
    chunk = round(_AUDIBLE_CHUNK_SECONDS * sample_rate)
    # By NumPy, as torch would turn the whole into doubles first.
    mean = float(waveform.detach().cpu().numpy().mean(dtype=np.float64))
    for start in range(0, waveform.shape[0], chunk):
        part = waveform[start : start + chunk + block].double() - mean
        part = torch.nn.functional.pad(part, (0, max(0, block - part.shape[0])))
        if integrated_loudness(part, sample_rate) > -math.inf:
            return True
    return False
