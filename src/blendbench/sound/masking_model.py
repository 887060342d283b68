"""A listener's masking: how loud a sound may be in each critical band before it is heard beside another.

Waveforms are [samples] at 44.1 kHz. Spectra are complex, [frames, bins]: Hann windows of 2048 samples every 512, frame
n centred on sample 1024 + 512 n, scaled so that |X|^2 summed over bins is the frame's mean square. Band energies and
thresholds are [bands, frames], every second frame (a hop of 1024), for Zwicker's 24 critical bands up to 15.5 kHz.
They are what passes the outer and middle ear, in units of (20 µPa)^2, so that 10 log10 of them is a level in dB. All
is float64 on the CPU.

`playback_db_spl` is the sound pressure level, in dB, at which a sound of -18 LUFS is played: a mean square of 1 lies
18 dB above it. (LUFS and dB SPL are taken as equal up to a constant, which they are near 1 kHz.)

The model is Johnston's (1988), as in the peer DPNMM: critical bands, the spreading function of Schroeder, Atal and Hall
(1979) with Johnston's renormalisation, an offset between 5.5 dB for noise and 14.5 + i dB for tones in band i. It
differs in three things. Tonality is found in each band by prediction (Brandenburg and Johnston 1990; ISO/IEC 11172-3,
psychoacoustic model 2), because the flatness of the whole spectrum takes any band-limited music, such as all that is
made from 10 kHz mel images, for one pure tone. Masking lasts on after the masker, and the threshold in quiet is split
into a weighting and an internal noise, both as in ITU-R BS.1387.
"""

import math
from functools import lru_cache

import scipy.signal
import torch
from torch import Tensor

from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound.audio import SAMPLE_RATE

REFERENCE_LUFS = -18.0
PLAYBACK_DB_SPL = 70.0

CRITICAL_BAND_EDGES = (
    0, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700, 4400, 5300, 6400,
    7700, 9500, 12000, 15500,
)  # fmt: skip
"""Limits of the 24 critical bands, in Hz (Zwicker 1961)."""

WINDOW = 2048
FLUX_HOP = 512
HOP = 1024
MIN_SAMPLES = WINDOW + 2 * HOP
"""Three frames, the fewest that tonality can be predicted from."""

NOISE_MASKER_OFFSET_DB = 5.5
TONE_MASKER_OFFSET_DB = 14.5

_BANDS = len(CRITICAL_BAND_EDGES) - 1
_STRIDE = HOP // FLUX_HOP


def bark(frequency: Tensor) -> Tensor:
    """Critical-band rate z: 13 arctan(0.76 f) + 3.5 arctan((f / 7.5)^2), f in kHz.

    Parameters
    ----------
    frequency : Tensor [...]
        In Hz, not negative.

    Returns
    -------
    Tensor [...]
        In Bark.

    Source: Zwicker and Terhardt (1980).
    """
    khz = frequency / 1000
    return 13 * torch.atan(0.76 * khz) + 3.5 * torch.atan((khz / 7.5) ** 2)


def threshold_in_quiet(frequency: Tensor) -> Tensor:
    """Level at which a tone is just heard alone: 3.64 f^-0.8 - 6.5 exp(-0.6 (f - 3.3)^2) + 0.001 f^4, f in kHz.

    Parameters
    ----------
    frequency : Tensor [...]
        In Hz; at 0 the threshold is infinite.

    Returns
    -------
    Tensor [...]
        In dB SPL.

    Source: Terhardt (1979), Calculating virtual pitch.
    """
    khz = frequency / 1000
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4


def internal_noise(frequency: Tensor) -> Tensor:
    """The part of the threshold in quiet that noise inside the ear makes: 0.4 * 3.64 f^-0.8, f in kHz.

    Parameters
    ----------
    frequency : Tensor [...]
        In Hz.

    Returns
    -------
    Tensor [...]
        In dB.

    Source: ITU-R BS.1387-1, annex 2, internal noise.
    """
    return 0.4 * 3.64 * (frequency / 1000) ** -0.8


def ear_weighting(frequency: Tensor) -> Tensor:
    """Response of the outer and middle ear: what of the threshold in quiet internal noise does not explain, negated.

    BS.1387 writes 0.001 f^3.6 where Terhardt has f^4; Terhardt's is kept, so that a tone of just the threshold in quiet
    comes out at just the internal noise.

    Parameters
    ----------
    frequency : Tensor [...]
        In Hz.

    Returns
    -------
    Tensor [...]
        In dB; -inf at 0 Hz.

    Source: ITU-R BS.1387-1, annex 2, outer and middle ear weighting, and Terhardt (1979).
    """
    weight = internal_noise(frequency) - threshold_in_quiet(frequency)
    return torch.where(frequency > 0, weight, -torch.inf)


def spreading_function(distance: Tensor) -> Tensor:
    """Excitation that a masker causes `distance` Bark above itself: +25 dB a Bark below, -10 dB a Bark above.

    15.81 + 7.5 (dz + 0.474) - 17.5 sqrt(1 + (dz + 0.474)^2).

    Parameters
    ----------
    distance : Tensor [...]
        In Bark, maskee minus masker.

    Returns
    -------
    Tensor [...]
        In dB; 0 at 0.

    Source: Schroeder, Atal and Hall (1979).
    """
    shifted = distance + 0.474
    return 15.81 + 7.5 * shifted - 17.5 * torch.sqrt(1 + shifted**2)


def masking_offset(tonality: Tensor) -> Tensor:
    """How far the masked threshold lies below the masker: a (14.5 + i) + (1 - a) 5.5, band numbers i from 1.

    Parameters
    ----------
    tonality : Tensor [24, frames]
        a, 0 for noise to 1 for tones.

    Returns
    -------
    Tensor [24, frames]
        In dB.

    Source: Johnston (1988), noise masking threshold; there after Scharf (1970) and Hellman (1972).
    """
    band = torch.arange(1, _BANDS + 1, dtype=tonality.dtype)[:, None]
    return tonality * (TONE_MASKER_OFFSET_DB + band) + (1 - tonality) * NOISE_MASKER_OFFSET_DB


def spectra(waveform: Tensor, name: str = "waveform") -> Tensor:
    """Short-time spectra, the one transform that the model and the onsets share.

    Parameters
    ----------
    waveform : Tensor [samples]
        At 44.1 kHz, real.
    name : str
        What to call the clip in a message.

    Returns
    -------
    Tensor [1 + (samples - 2048) // 512, 1025], complex128

    Raises
    ------
    BlendbenchError
        It is not a real float tensor [samples].
    ClipError
        It is shorter than 4096 samples (93 ms), or holds NaN or infinity.
    """
    if waveform.ndim != 1 or not waveform.is_floating_point():
        raise BlendbenchError(
            f"{name} is {waveform.dtype} of shape {tuple(waveform.shape)}: give a float tensor [samples]"
        )
    if len(waveform) < MIN_SAMPLES:
        raise ClipError(f"{name} has {len(waveform)} samples, masking needs {MIN_SAMPLES}: use a longer clip")
    if not bool(torch.isfinite(waveform).all()):
        raise ClipError(f"{name} holds NaN or infinity: mend or export it again")
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    stretches = waveform.detach().cpu().double().unfold(0, WINDOW, FLUX_HOP)
    spectrum = torch.fft.rfft(stretches * window)
    # Parseval: the two-sided sum of |X|^2 is WINDOW times the windowed frame's energy; one side holds half of it.
    return spectrum * math.sqrt(2 / (WINDOW * float((window**2).sum())))


def band_energies(spectrum: Tensor, playback_db_spl: float = PLAYBACK_DB_SPL, stride: int = _STRIDE) -> Tensor:
    """Energy in each critical band after the outer and middle ear.

    Parameters
    ----------
    spectrum : Tensor [frames, 1025]
        From `spectra`.
    playback_db_spl : float
        Level at which -18 LUFS is played, in dB SPL.
    stride : int
        Take every so many frames.

    Returns
    -------
    Tensor [24, ceil(frames / stride)], float64
        In (20 µPa)^2.

    Raises
    ------
    BlendbenchError
        The level is not finite.

    Source: Zwicker (1961) for the bands; a bin that straddles two is shared out by width, as in ITU-R BS.1387.
    """
    if not math.isfinite(playback_db_spl):
        raise BlendbenchError(f"playback_db_spl is {playback_db_spl}: give the level of -18 LUFS in dB SPL, such as 70")
    bands = band_matrix()
    power = spectrum[::stride, : bands.shape[1]].abs().square()
    full_scale = 10 ** ((playback_db_spl - REFERENCE_LUFS) / 10)
    return (bands * ear_power()) @ power.T * full_scale


def band_tonality(spectrum: Tensor) -> Tensor:
    """How tone-like the sound in each critical band is: -0.299 - 0.43 ln c, within 0..1.

    c is the bins' unpredictability, weighted by their energy. A bin is predicted from the two frames before it, its
    magnitude as 2 r1 - r2 and its phase as 2 p1 - p2; its unpredictability is the error over the sum of magnitudes.
    Frames half a window apart are used: closer ones share so much that noise looks predictable. The first two take
    what the third has.

    Parameters
    ----------
    spectrum : Tensor [frames, 1025]
        From `spectra`.

    Returns
    -------
    Tensor [24, ceil(frames / 2)], float64
        0 for noise (and silence), 1 for tones.

    Source: Brandenburg and Johnston (1990); ISO/IEC 11172-3, annex D, psychoacoustic model 2.
    """
    bands = band_matrix()
    frames = spectrum[::_STRIDE, : bands.shape[1]]
    magnitude = frames.abs()
    direction = frames / magnitude.clamp_min(1e-300)
    before, earlier = slice(1, -1), slice(0, -2)
    predicted = 2 * magnitude[before] - magnitude[earlier]
    # The unit phasor u1 (u1 conj(u2)) turns on by as much as it did last.
    turned = direction[before].square() * direction[earlier].conj()
    error = (frames[2:] - predicted * turned).abs()
    unpredictability = error / (magnitude[2:] + predicted.abs()).clamp_min(1e-300)
    power = magnitude[2:].square()
    chaos = (bands @ (unpredictability * power).T) / (bands @ power.T)
    tonality = (-0.299 - 0.43 * chaos.log()).clamp(0, 1).nan_to_num(nan=0.0)
    return torch.cat([tonality[:, :1], tonality[:, :1], tonality], dim=1)


def quiet_threshold() -> Tensor:
    """Band energy at which a sound is just heard alone, Tensor [24, 1], float64, in (20 µPa)^2: the internal noise."""
    return 10 ** (internal_noise(band_centres()) / 10)[:, None]


def masked_threshold(spectrum: Tensor, playback_db_spl: float = PLAYBACK_DB_SPL) -> Tensor:
    """Band energy up to which a sound is not heard beside this one.

    Each band's energy is lowered by its offset, spread over the bands, and held on in time; nothing under the
    threshold in quiet is heard.

    Parameters
    ----------
    spectrum : Tensor [frames, 1025]
        The masker's, from `spectra`.
    playback_db_spl : float
        Level at which -18 LUFS is played, in dB SPL.

    Returns
    -------
    Tensor [24, ceil(frames / 2)], float64
        In (20 µPa)^2.

    Raises
    ------
    BlendbenchError
        As `band_energies`.

    Source: Johnston (1988), with the tonality of `band_tonality`; ITU-R BS.1387-1, annex 2, time domain spreading.
    """
    return excitation(spectrum, playback_db_spl).maximum(quiet_threshold())


def excitation(spectrum: Tensor, playback_db_spl: float = PLAYBACK_DB_SPL) -> Tensor:
    """What a masker hides, the threshold in quiet apart: [24, ceil(frames / 2)], in proportion to its power.

    Parameters and errors as `masked_threshold`.
    """
    energies = band_energies(spectrum, playback_db_spl)
    maskers = energies / 10 ** (masking_offset(band_tonality(spectrum)) / 10)
    return _spread_in_time(spreading_matrix() @ maskers)


def noise_to_mask_ratio(energies: Tensor, threshold: Tensor) -> float:
    """Total NMR: 10 log10 of the mean over frames of the mean over bands of E / T.

    The headline measure: being a standard's, it needs no choice of bands. As a mean of ratios, not of dB, it is ruled
    by what stands out most. Over the frames in which the noise would be heard alone, where BS.1387 takes all but the
    silence at both ends: the silence that a clip is padded with must not make its noise less audible.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]
        The noise's, and those that the music masks.

    Returns
    -------
    float
        In dB; nan where the noise would not be heard alone.

    Raises
    ------
    BlendbenchError
        The shapes differ or are not [24, frames].

    Source: ITU-R BS.1387-1, annex 2, Total NMR.
    """
    ratio = ratio_when_sounding(energies, threshold)
    return 10 * math.log10(float(ratio.mean())) if ratio.numel() else math.nan


def ratio_when_sounding(energies: Tensor, threshold: Tensor) -> Tensor:
    """E / T, [24, frames in which the noise would be heard alone]."""
    check_bands(energies, threshold)
    sounding = (energies > quiet_threshold()).any(0)
    return energies[:, sounding] / threshold[:, sounding]


def check_bands(energies: Tensor, threshold: Tensor) -> None:
    """Refuse what is not energies and thresholds [24, frames] of one shape, with a BlendbenchError."""
    if energies.shape != threshold.shape or energies.ndim != 2 or len(energies) != _BANDS or not energies.numel():
        shapes = f"{tuple(energies.shape)} and {tuple(threshold.shape)}"
        raise BlendbenchError(f"band energies and thresholds have shapes {shapes}: give [{_BANDS}, frames] for both")


def _spread_in_time(excitation: Tensor) -> Tensor:
    """The larger of each band's excitation and its running mean, whose time constant falls from 30 to 8 ms."""
    smoothed = [
        torch.from_numpy(scipy.signal.lfilter([1 - a], [1, -a], row.numpy()))
        for a, row in zip(post_masking().tolist(), excitation, strict=True)
    ]
    return excitation.maximum(torch.stack(smoothed))


@lru_cache(maxsize=1)
def post_masking() -> Tensor:
    """What is left of a band's excitation a frame (of hop 1024) later, as a running mean has it, [24]."""
    constants = 0.008 + 100 / band_centres() * (0.030 - 0.008)
    # Below 100 Hz the formula would give more than the 30 ms that it is anchored at.
    return torch.exp(-HOP / SAMPLE_RATE / constants.clamp_max(0.030))


@lru_cache(maxsize=1)
def band_centres() -> Tensor:
    """Middle of each critical band, [24], in Hz."""
    edges = torch.tensor(CRITICAL_BAND_EDGES, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2


def band_of(frequencies: Tensor) -> Tensor:
    """Critical band, from 0, that holds each frequency [...] in Hz."""
    return torch.bucketize(frequencies, torch.tensor(CRITICAL_BAND_EDGES[1:], dtype=torch.float64))


def ratio_of(noise: Tensor, music: Tensor) -> float:
    """`noise_to_mask_ratio` of two waveforms [samples] at the levels at which they are heard together."""
    return noise_to_mask_ratio(band_energies(spectra(noise, "noise")), masked_threshold(spectra(music, "music")))


@lru_cache(maxsize=1)
def band_matrix() -> Tensor:
    """Share of each bin's width that lies in each band, [24, bins up to 15.5 kHz]."""
    spacing = SAMPLE_RATE / WINDOW
    return share_of_bins(torch.tensor(CRITICAL_BAND_EDGES, dtype=torch.float64), spacing)


@lru_cache(maxsize=1)
def ear_power() -> Tensor:
    """What passes the outer and middle ear of each bin's power, [bins up to 15.5 kHz]."""
    frequencies = torch.arange(band_matrix().shape[1], dtype=torch.float64) * SAMPLE_RATE / WINDOW
    return 10 ** (ear_weighting(frequencies) / 10)


@lru_cache(maxsize=1)
def spreading_matrix() -> Tensor:
    """[maskee, masker], renormalised so that equal energy in all bands stays as it is (Johnston 1988)."""
    band = torch.arange(_BANDS, dtype=torch.float64)
    spread = 10 ** (spreading_function(band[:, None] - band) / 10)
    return spread / spread.sum(1, keepdim=True)


def share_of_bins(edges: Tensor, spacing: float) -> Tensor:
    """Which share of each bin's width lies between each pair of neighbouring edges.

    Parameters
    ----------
    edges : Tensor [n + 1]
        In Hz, rising.
    spacing : float
        Hz between bins; bin k reaches half of it to either side of k * spacing.

    Returns
    -------
    Tensor [n, bins], float64, for the bins up to the last edge.
    """
    bins = torch.arange(math.ceil(float(edges[-1]) / spacing + 0.5), dtype=torch.float64)
    low, high = (bins - 0.5) * spacing, (bins + 0.5) * spacing
    overlap = torch.minimum(edges[1:, None], high) - torch.maximum(edges[:-1, None], low)
    return overlap.clamp_min(0) / spacing
