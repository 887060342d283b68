"""TANGO's front end: a waveform at 16 kHz to the log mel spectrogram that its autoencoder has learnt.

A spectrogram is [1, 1024 frames, 64 bands], time first, lowest band first, natural logarithm of mel magnitudes (not
power) of a waveform whose peak is 0.5; 1024 frames are 10.24 s, a frame every 10 ms. Silence is ln(1e-5) = -11.513.

Source: Ghosal et al. (2023), Text-to-Audio Generation using Instruction-Tuned LLM and Latent Diffusion Model, and its
code (declare-lab/tango), whose front end is AudioLDM's (Liu et al., 2023).
"""

from functools import lru_cache

import torch
import torchaudio

from blendbench.sound.checks import check_waveform
from blendbench.sound.lattice import shape_of, working_precision

SAMPLE_RATE = 16_000
"""In Hz."""
SAMPLES = 163_840
"""Length that a waveform is cut or padded to: 10.24 s."""
FRAMES, MELS = 1024, 64
N_FFT, HOP = 1024, 160
PEAK = 0.5
FLOOR = 1e-5
"""Least mel magnitude before the logarithm."""


def tango_mel(waveform: torch.Tensor, name: str = "clip") -> torch.Tensor:
    """The log mel spectrogram of a waveform's first channel, brought to its level and length.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]
        At 16 kHz.
    name : str
        What to call the clip in a message.

    Returns
    -------
    Tensor [1, 1024, 64]

    Raises
    ------
    ClipError
        As `levelled`.
    """
    # Centred frames are one more than hops; the last is left out.
    return log_mel(levelled(waveform, name))[None, :FRAMES]


def levelled(waveform: torch.Tensor, name: str = "clip") -> torch.Tensor:
    """The first channel without its mean, cut or padded with zeros to 10.24 s, its peak 0.5.

    The mean is that of the whole clip. The published code levels before it cuts, too, which the second time undoes.

    Parameters
    ----------
    waveform : Tensor [samples] or [channels, samples]
        At 16 kHz.
    name : str
        What to call the clip in a message.

    Returns
    -------
    Tensor [163840]

    Raises
    ------
    ClipError
        The waveform has another shape, is shorter than 0.4 s, holds NaN or infinity, or what would be heard of it, the
        first 10.24 s of its first channel, is silent.
    """
    check_waveform(waveform, name, SAMPLE_RATE)
    channel = working_precision(waveform.reshape(-1, waveform.shape[-1])[0])
    check_waveform(channel[:SAMPLES], f"{name}: first channel, first {SAMPLES / SAMPLE_RATE:g} s", SAMPLE_RATE)
    heard = (channel - channel.mean())[:SAMPLES]
    padded = torch.nn.functional.pad(heard, (0, SAMPLES - len(heard)))
    return padded * (PEAK / padded.abs().max())


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """ln(max(mel magnitude, 1e-5)) of waveforms as they are.

    Windows are 1024 samples of a periodic Hann window every 160 samples, centred, the ends reflected.

    Parameters
    ----------
    waveform : Tensor [..., samples]
        At 16 kHz, more than 512 samples.

    Returns
    -------
    Tensor [..., 1 + samples // 160, 64]

    Raises
    ------
    ValueError
        The waveform is not a float tensor, or too short to be reflected.
    """
    if not waveform.is_floating_point() or waveform.ndim < 1 or waveform.shape[-1] <= N_FFT // 2:
        raise ValueError(
            f"waveform must be a float tensor [..., samples], more than {N_FFT // 2}, not {shape_of(waveform)}"
        )
    flat = working_precision(waveform).reshape(-1, waveform.shape[-1])
    window = torch.hann_window(N_FFT, dtype=flat.dtype, device=flat.device)
    spectra = torch.stft(flat, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    mel = spectra.abs().transpose(-1, -2) @ filters().to(flat)
    return mel.clamp(min=FLOOR).log().reshape(*waveform.shape[:-1], *mel.shape[-2:])


@lru_cache(maxsize=1)
def filters() -> torch.Tensor:
    """The mel bank [513 bins, 64 bands]: Slaney's scale from 0 to 8 kHz, every triangle of area 1 over Hz."""
    return torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
