"""Recordings in an HDF5 file, one dataset a recording, as the recipe of Auditory SlowFast writes EPIC-KITCHENS' audio.

A dataset is `[samples]`, or `[channels, samples]` as librosa has it, of floats in -1..1 or of 16- or 32-bit integers.
The files hold no sample rate; the data set that reads them knows it.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench import stand_ins
from blendbench.errors import ClipError, one_line, printable
from blendbench.sound.checks import check_channel

_MOST_CHUNK_BYTES = 1 << 26
"""A chunk is unpacked whole, however little of it is asked for."""


def read_span(
    path: Path, member: str, start: float, stop: float, sample_rate: int, channel: int | None = None
) -> torch.Tensor:
    """Read a stretch of one recording, channels averaged, or one of them; only that stretch is read.

    Parameters
    ----------
    path : Path
        HDF5 file.
    member : str
        Name of the recording's dataset.
    start, stop : float
        In seconds; what lies before the beginning or after the end is left out.
    sample_rate : int
        Of the recordings, in Hz.
    channel : int, optional
        Take this channel, from 0 on, instead of the mean.

    Returns
    -------
    Tensor [samples], float32, finite

    Raises
    ------
    ClipError
        The file is missing or no HDF5 file, or the recording is missing, not of that shape, damaged, not finite, has no
        such channel, or ends before `start`.
    """
    where = f"{printable(path)}: recording {member!r}"
    with _open(path) as file:
        data = _dataset(file, member, where)
        samples = data.shape[-1]
        check_channel(channel, data.shape[0] if data.ndim == 2 else 1, where)
        first, last = round(max(0.0, start) * sample_rate), round(min(stop * sample_rate, samples))
        if first >= samples:
            raise ClipError(
                f"{where} lasts {samples / sample_rate:.3f} s and ends before the segment's start, {start:.3f} s; "
                "take the row out, or get the file again"
            )
        try:
            values = data[..., first:last] if channel is None or data.ndim == 1 else data[channel, first:last]
        except Exception as error:  # h5py has no class of its own for what the library says
            raise ClipError(f"{where} is damaged ({_reason(error)}); get the file again") from None
    if values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        values = values.astype(np.float64) / -float(info.min)
    with np.errstate(over="ignore"):
        waveform = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    waveform = waveform.mean(0) if waveform.ndim == 2 else waveform
    if not bool(torch.isfinite(waveform).all()):
        bad = int((~torch.isfinite(waveform)).sum())
        raise ClipError(f"{where}: {bad} of {len(waveform)} samples are NaN or infinite; get the file again")
    return waveform


def durations(path: Path, sample_rate: int) -> dict[str, float]:
    """Length of each sound recording of a file, in seconds; raises ClipError if it is no HDF5 file."""
    found = {}
    with _open(path) as file:
        for member in file:
            with suppress(ClipError):
                found[member] = _dataset(file, member, member).shape[-1] / sample_rate
    return found


def _open(path: Path) -> Any:
    import h5py

    stand_ins.refuse(path, ClipError)
    try:
        if not path.is_file():
            raise ClipError(f"{printable(path)}: no such file; check dataset.epic_sounds.audio")
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise ClipError(f"{printable(path)}: cannot be read as HDF5 ({_reason(error)}); get the file again") from None


def _dataset(file: Any, member: str, where: str) -> Any:
    import h5py

    try:
        # Only what lies in this very file: links may lead to any file of the machine.
        link = None if "/" in member else file.get(member, getlink=True)
        found = file[member] if isinstance(link, h5py.HardLink) else None
    except Exception as error:
        raise ClipError(f"{where} is damaged ({_reason(error)}); get the file again") from None
    if found is None:
        raise ClipError(f"{where} is not in the file; add it, or take its segments out")
    if (
        not isinstance(found, h5py.Dataset)
        or found.shape is None
        or found.ndim not in (1, 2)
        or found.dtype.kind not in "fi"
    ):
        sizes = None if not isinstance(found, h5py.Dataset) or found.shape is None else list(found.shape)
        shape = f"{sizes} of {found.dtype}" if isinstance(found, h5py.Dataset) else "a group"
        raise ClipError(f"{where} is {shape}, not samples; write it as the recipe of auditory-slow-fast does")
    if found.shape[-1] == 0 or (found.ndim == 2 and not 1 <= found.shape[0] <= 32):
        raise ClipError(f"{where} has shape {list(found.shape)}, not [samples] or [channels, samples]; write it again")
    if found.chunks is not None and math.prod(found.chunks) * found.dtype.itemsize > _MOST_CHUNK_BYTES:
        raise ClipError(f"{where} is stored in chunks of {list(found.chunks)}; write it in smaller ones")
    if found.external or found.is_virtual:
        raise ClipError(f"{where} keeps its samples in another file; write it into this one")
    return found


def _reason(error: Exception) -> str:
    return one_line(str(error))[:120]
