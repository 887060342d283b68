"""The noise-to-mask ratio of mel images, with gradients: what steers a sampler that paints music over a noise.

It is `sound.masking_model` without what needs phases: a mel band's amplitude A, a sum over n bins, stands for the
power A^2 / n; powers of 512 mel bands are summed to the 20 critical bands below 10 kHz, spread, and held against the
noise's with one offset for all maskers. Music is taken to be as loud as the noise, by BS.1770's weighting of each band
and its relative gate, so a gain of the image changes nothing. Frames are 20 ms, two of the image.

Images are [B, 512, frames], float, lowest mel band first. Amplitudes are linear.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from blendbench.sound import audio, masking_model
from blendbench.sound.lattice import RIFFUSION, mel_centres
from blendbench.sound.masking_model import PLAYBACK_DB_SPL

OFFSET_DB = 8.0
"""How far the masked threshold lies below the masker: between noise (5.5 dB) and tones (14.5 dB and more)."""
_FRAMES = 2
_BLOCK, _HOP = 20, 5
"""Frames of BS.1770's blocks of 400 ms, of which three quarters overlap."""
_DB = 10 / math.log(10)


class MelMasking:
    """The ratio of music over some noises.

    Parameters
    ----------
    noises : Tensor [B, 512, frames]
        Mel amplitudes.
    """

    def __init__(self, noises: Tensor) -> None:
        self._bank = _bank().to(noises.device)
        power = self._powers(noises)
        self._loudness = self._weighed(power).clamp_min(1e-20)
        # At PLAYBACK_DB_SPL, whatever unit the amplitudes have.
        self._scale = 10 ** (PLAYBACK_DB_SPL / 10) / self._loudness
        self._quiet = masking_model.quiet_threshold()[: len(self._bank)].float().to(noises.device)
        count = len(self._bank)
        spread = masking_model.spreading_matrix()[:count, :count]
        self._spread = (spread / spread.sum(1, keepdim=True)).float().to(noises.device) * 10 ** (-OFFSET_DB / 10)
        self._energies = self._bands(power)
        self._counted = (self._energies > self._quiet).any(1)

    def ratio_db(self, music: Tensor) -> Tensor:
        """Total noise-to-mask ratio in dB, [B]; 0 where the noise would not be heard alone.

        Parameters
        ----------
        music : Tensor [B, 512, frames]
            Mel amplitudes in any unit; may require their gradient.
        """
        power = self._powers(music)
        power = power * (self._loudness / self._weighed(power).clamp_min(1e-20))[:, None, None]
        threshold = (self._spread @ self._bands(power)).maximum(self._quiet)
        ratio = (self._energies / threshold).mean(1)
        counted = self._counted.float()
        mean = (ratio * counted).sum(1) / counted.sum(1).clamp_min(1)
        return torch.where(self._counted.any(1), _DB * mean.clamp_min(1e-12).log(), torch.zeros_like(mean))

    def _powers(self, amplitudes: Tensor) -> Tensor:
        """[B, 512, frames of 20 ms]."""
        kept = amplitudes.shape[-1] // _FRAMES * _FRAMES
        power = amplitudes[..., :kept].float().square() / _bins_a_band().to(amplitudes.device)[:, None]
        return power.unflatten(-1, (-1, _FRAMES)).mean(-1)

    def _bands(self, power: Tensor) -> Tensor:
        return (self._bank @ power) * self._scale[:, None, None]

    def _weighed(self, power: Tensor) -> Tensor:
        """What BS.1770 weighs, [B]: the mean over blocks that are not 10 LU below the mean of all.

        Without the gate a short event amid silence would be far softer here than where it is measured.
        """
        frames = (_loudness_weights().to(power.device)[:, None] * power).sum(1)
        if frames.shape[1] < _BLOCK:
            return frames.mean(1)
        blocks = frames.unfold(1, _BLOCK, _HOP).mean(2)
        with torch.no_grad():
            # Silence would lower the relative gate: the absolute one leaves it out, 52 dB below the level of playback.
            audible = (blocks > 10**-5.2 * blocks.amax(1, keepdim=True)).float()
            gate = 0.1 * (blocks * audible).sum(1, keepdim=True) / audible.sum(1, keepdim=True).clamp_min(1)
            counted = (blocks >= gate).float() * audible
        return (blocks * counted).sum(1) / counted.sum(1).clamp_min(1)


@lru_cache(maxsize=1)
def _bank() -> Tensor:
    """[critical bands, 512]: which band a mel band's centre lies in, times what the ear passes there."""
    centres = mel_centres()
    band = masking_model.band_of(centres)
    passed = 10 ** (masking_model.ear_weighting(centres) / 10)
    bank = torch.zeros(int(band.max()) + 1, len(centres), dtype=torch.float64)
    bank[band, torch.arange(len(centres))] = passed
    return bank.float()


@lru_cache(maxsize=1)
def _bins_a_band() -> Tensor:
    """Sum of each mel triangle's weights: half the distance of its neighbours, in bins, but at least one bin."""
    centres = mel_centres()
    spacing = RIFFUSION.sample_rate / RIFFUSION.n_fft
    width = torch.cat([centres[:1], centres, torch.tensor([RIFFUSION.f_max], dtype=centres.dtype)])
    return ((width[2:] - width[:-2]) / 2 / spacing).clamp_min(1).float()


@lru_cache(maxsize=1)
def _loudness_weights() -> Tensor:
    return audio.k_weighting(mel_centres()).float()
