"""How audible a noise stays under music, how loud the music is for it, and how the two fit in rhythm and pitch.

`noise` and `music` are [samples], 44.1 kHz mono, at the levels at which they are overlaid. `masking_model` says what
the music masks: most measures compare the noise's band energies E with the masked thresholds T, both [24, frames] in
(20 µPa)^2; a band of a frame is *masked* where E <= T. `measure` gives all cheap measures of a pair at once; where one
is undefined it is nan. `FACTS` says what each of them is.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyloudnorm
import torch
from torch import Tensor
from torch.nn import functional

from blendbench.errors import BlendbenchError, ClipError
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound
from blendbench.sound import audio, masking_model
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.lattice import RIFFUSION, mel_centres
from blendbench.sound.masking_model import FLUX_HOP, HOP, PLAYBACK_DB_SPL, WINDOW, noise_to_mask_ratio
from blendbench.sound.mel import encode_image, mel_amplitudes
from blendbench.tasks.blend import masking

DISTURBED_DB = 1.5
ONSET_WINDOW = 0.05
ONSET_RISE_DB = 1.5
CHROMA_WINDOW = 16_384
CHROMA_RANGE_DB = 40.0
CHROMA_FLAT_DB = 0.5


FACTS = {
    "noise_to_mask_ratio": Facts("NMR", "dB", False, "ITU-R BS.1387-1, Total NMR; Brandenburg (1987)"),
    "audible_noise_to_mask_ratio": Facts("NMR where audible", "dB", False, "Berger et al. (2025), DPNMM, NMR"),
    "disturbed_frames": Facts("Disturbed frames", "share", False, "ITU-R BS.1387-1, Relative Disturbed Frames"),
    "masked_share": Facts("Masked energy", "share", True, "masked thresholds of Johnston (1988)"),
    "masked_bands": Facts("Masked bands", "share", True, "masked thresholds of Johnston (1988)"),
    "masked_share_core": Facts("Masked core", "share", True, "masked thresholds of Johnston (1988), core of BNMusic"),
    "smr_share": Facts("Core over SMR", "share", True, "BNMusic, equation 3"),
    "level_difference": Facts("Music above noise", "dB(A)", None, "IEC 61672-1, A-weighting"),
    "loudness_range": Facts("LRA of the mix", "LU", None, "EBU Tech 3342"),
    "onset_agreement": Facts("Onset F", "share", True, "MIREX onset detection, mir_eval.onset; Klapuri (1999)"),
    "chroma_fit": Facts("Chroma fit", "correlation", True, "Müller (2015), chroma; Krumhansl (1990), correlation"),
}
"""The keys of `measure`."""


class Audibility(ItemMetric):
    """All of `measure`, of a sound with the parts "noise" and "music"; an experiment names those that it wants.

    Parameters
    ----------
    noise : dict
        How noises enter: values are kept apart by it.
    core_fraction, pixel_threshold, smr_db
        As for `measure`.
    """

    facts = FACTS
    place, stage = "audibility", "audibility"

    def __init__(
        self, noise: Mapping[str, Any], core_fraction: float, pixel_threshold: float | None, smr_db: float
    ) -> None:
        self.noise, self.core, self.smr_db = dict(noise), (core_fraction, pixel_threshold), smr_db

    def signature(self) -> dict[str, Any]:
        """Settings, and which measures there are."""
        core = {"core_fraction": self.core[0], "pixel_threshold": self.core[1]}
        return {"mask": core, "smr_db": self.smr_db, "noise": self.noise, "measures": sorted(FACTS)}

    def key(self, sound: Sound) -> str:
        """The mix and the noise."""
        return f"{sound.key}:{sound.row['inputs'].partition('-')[0]}"

    def measure(self, sound: Sound) -> dict[str, float]:
        """All measures of a mix."""
        parts = sound.parts()
        if "noise" not in parts:
            return dict.fromkeys(FACTS, math.nan)
        fraction, threshold = self.core
        return measure(
            parts["noise"], parts["music"], core_fraction=fraction, pixel_threshold=threshold, smr_db=self.smr_db
        )

    def recipe(self, name: str, measured: Measured) -> str:
        """Unit and source, and how loud it is taken to be played."""
        return f"{super().recipe(name, measured)}; -18 LUFS played at {PLAYBACK_DB_SPL:g} dB SPL"


def validate(noise: Tensor, music: Tensor) -> None:
    """Check that two signals can be overlaid.

    Raises
    ------
    BlendbenchError
        They are not two float tensors [samples] of one length.
    """
    if noise.shape != music.shape or noise.ndim != 1 or not noise.is_floating_point() or not music.is_floating_point():
        raise BlendbenchError(
            f"signals are {noise.dtype} {tuple(noise.shape)} and {music.dtype} {tuple(music.shape)}: "
            f"give two float tensors [samples] of one length"
        )


def measure(
    noise: Tensor,
    music: Tensor,
    playback_db_spl: float = PLAYBACK_DB_SPL,
    core_fraction: float = 0.15,
    pixel_threshold: float | None = None,
    smr_db: float = 21.0,
    onset_window: float = ONSET_WINDOW,
    noise_mel: Tensor | None = None,
    music_mel: Tensor | None = None,
) -> dict[str, float]:
    """All cheap measures of one pair.

    Parameters
    ----------
    noise, music : Tensor [samples]
        Of one length, 93 ms or more.
    playback_db_spl : float
        Level at which -18 LUFS is played, in dB SPL.
    core_fraction, pixel_threshold
        The noise's core, as for `masking.core_mask`.
    smr_db : float
        Signal-to-mask ratio of `smr_share`, in dB.
    onset_window : float
        In seconds, as for `onset_agreement`.
    noise_mel, music_mel : Tensor [512, 1 + samples // 441], optional
        Their `spectrogram.mel_amplitudes`, where they are known: without, these are most of the work.

    Returns
    -------
    dict of str to float
        The keys of `FACTS`; nan where a measure is undefined, as rhythm and pitch are for music that nobody hears.

    Raises
    ------
    BlendbenchError
        The signals are not two float tensors of one length, the mel amplitudes do not fit them, or a setting is out of
        range.
    ClipError
        The noise is silent, or a signal is too short or not finite.
    """
    validate(noise, music)
    noise, music = noise.detach().cpu(), music.detach().cpu()
    if not bool(noise.any()):
        raise ClipError("noise is silent, so nothing of it can be masked: leave this clip out")
    noise_spectrum, music_spectrum = masking_model.spectra(noise, "noise"), masking_model.spectra(music, "music")
    energies = masking_model.band_energies(noise_spectrum, playback_db_spl)
    threshold = masking_model.masked_threshold(music_spectrum, playback_db_spl)
    noise_mel, music_mel = _mel_of(noise, noise_mel), _mel_of(music, music_mel)
    core = noise_core(noise_mel, core_fraction, pixel_threshold)
    heard = bool((masking_model.band_energies(music_spectrum, playback_db_spl) > masking_model.quiet_threshold()).any())
    noise_onsets, music_onsets = onsets(noise_spectrum, playback_db_spl), onsets(music_spectrum, playback_db_spl)
    return {
        "noise_to_mask_ratio": noise_to_mask_ratio(energies, threshold),
        "audible_noise_to_mask_ratio": audible_noise_to_mask_ratio(energies, threshold),
        "disturbed_frames": disturbed_frames(energies, threshold),
        "masked_share": masked_share(energies, threshold),
        "masked_bands": masked_bands(energies, threshold),
        "masked_share_core": masked_share_core(energies, threshold, core),
        "smr_share": smr_share(noise_mel, music_mel, core, smr_db),
        "level_difference": level_difference(noise_spectrum, music_spectrum),
        "loudness_range": loudness_range(audio.mix(noise, music)),
        "onset_agreement": onset_agreement(noise_onsets, music_onsets, onset_window) if heard else math.nan,
        "chroma_fit": chroma_fit(chroma(noise), chroma(music)) if heard else math.nan,
    }


def audible_noise_to_mask_ratio(energies: Tensor, threshold: Tensor) -> float:
    """NMR as the peer DPNMM gives it: the mean, in dB, of E / T over the bands of frames where E > T.

    DPNMM picks the bands with the music as it was before processing, and keeps them; here there is no such music, so
    they are picked with the music that is heard (as DPNMM does for its baseline). It says how far audible noise stands
    out, not how much of it is audible.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]

    Returns
    -------
    float
        In dB, above 0; nan where nothing is audible.

    Raises
    ------
    BlendbenchError
        As `masking_model.check_bands`.

    Source: Berger, Badeau and Essid (2025), section on metrics.
    """
    masking_model.check_bands(energies, threshold)
    audible = energies > threshold
    return float(10 * (energies[audible] / threshold[audible]).log10().mean()) if bool(audible.any()) else math.nan


def disturbed_frames(energies: Tensor, threshold: Tensor) -> float:
    """Share of the frames that `noise_to_mask_ratio` counts in which some band has E / T of 1.5 dB or more.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]

    Returns
    -------
    float
        0..1; nan where the noise would not be heard alone.

    Raises
    ------
    BlendbenchError
        As `masking_model.check_bands`.

    Source: ITU-R BS.1387-1, annex 2, Relative Disturbed Frames.
    """
    ratio = masking_model.ratio_when_sounding(energies, threshold)
    disturbed = ratio.amax(0) >= 10 ** (DISTURBED_DB / 10) if ratio.numel() else ratio
    return float(disturbed.double().mean()) if ratio.numel() else math.nan


def masked_share(energies: Tensor, threshold: Tensor) -> float:
    """Share of the noise's energy, after outer and middle ear, in bands of frames where it is masked.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]

    Returns
    -------
    float
        0..1; nan for a noise without energy.

    Raises
    ------
    BlendbenchError
        As `masking_model.check_bands`.
    """
    masking_model.check_bands(energies, threshold)
    total = float(energies.sum())
    return float(energies[energies <= threshold].sum()) / total if total > 0 else math.nan


def masked_bands(energies: Tensor, threshold: Tensor) -> float:
    """Share of the bands of frames in which the noise would be heard alone that the music masks.

    Where `masked_share` weighs by energy, and so asks for the noise's peaks, here every band of a frame counts alike.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]

    Returns
    -------
    float
        0..1; nan where the noise would not be heard alone.

    Raises
    ------
    BlendbenchError
        As `masking_model.check_bands`.
    """
    masking_model.check_bands(energies, threshold)
    alone = energies > masking_model.quiet_threshold()
    masked = (energies <= threshold)[alone]
    return float(masked.double().mean()) if masked.numel() else math.nan


def masked_share_core(energies: Tensor, threshold: Tensor, core: Tensor) -> float:
    """Share of the noise's core in which it is masked: of the core's pixels, those in a masked band of a frame.

    The core is that of the mel image, because that is what the methods set out to hide. Each of its pixels belongs to
    the critical band that holds the mel band's centre and to the nearest frame. Pixels count alike: a Bark has about
    as many mel bands everywhere, so the share is one of perceived area, and compares with `smr_share`. A clip that is
    quiet for most of its length has a core that reaches into what would not be heard alone; that counts as masked.

    Parameters
    ----------
    energies, threshold : Tensor [24, frames]
    core : Tensor [512, mel frames], bool
        From `noise_core`: lowest band first.

    Returns
    -------
    float
        0..1; nan for an empty core.

    Raises
    ------
    BlendbenchError
        As `masking_model.check_bands`, or the core is not boolean with 512 rows.
    """
    masking_model.check_bands(energies, threshold)
    if core.dtype != torch.bool or core.ndim != 2 or len(core) != RIFFUSION.n_mels:
        raise BlendbenchError(f"core is {core.dtype} of shape {tuple(core.shape)}: give noise_core's")
    centres = torch.arange(core.shape[1]) * RIFFUSION.hop_length
    frames = ((centres - WINDOW / 2) / HOP).round().long().clamp(0, energies.shape[1] - 1)
    masked = (energies <= threshold)[_mel_to_critical_band()[:, None], frames]
    return float(masked[core].double().mean()) if bool(core.any()) else math.nan


def noise_core(noise_mel: Tensor, fraction: float = 0.15, pixel_threshold: float | None = None) -> Tensor:
    """Core of a noise on its mel amplitudes: the loudest pixels of its image.

    Parameters
    ----------
    noise_mel : Tensor [512, mel frames]
        From `spectrogram.mel_amplitudes`.
    fraction, pixel_threshold
        As for `masking.core_mask`.

    Returns
    -------
    Tensor [512, mel frames], bool
        Lowest band first, as mel amplitudes are and images are not.

    Raises
    ------
    BlendbenchError, ClipError
        As `masking.core_mask`.
    """
    pixels, _ = encode_image(noise_mel)
    return masking.core_mask(pixels, fraction, pixel_threshold).flip(-2)


def smr_share(noise_mel: Tensor, music_mel: Tensor, core: Tensor, smr_db: float = 21.0) -> float:
    """Share of the core's pixels in which the music reaches BNMusic's own threshold, `smr_db` above the noise.

    Parameters
    ----------
    noise_mel, music_mel : Tensor [512, mel frames]
        Linear amplitudes.
    core : Tensor [512, mel frames], bool
        From `noise_core`.
    smr_db : float
        In dB.

    Returns
    -------
    float
        0..1; nan for an empty core.

    Raises
    ------
    BlendbenchError
        The shapes differ.

    Source: BNMusic, equation 3.
    """
    if not noise_mel.shape == music_mel.shape == core.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (noise_mel, music_mel, core))
        raise BlendbenchError(f"mel amplitudes and core have shapes {shapes}: give those of one pair")
    reached = music_mel[core] >= masking.masking_threshold(noise_mel[core], smr_db)
    return float(reached.double().mean()) if reached.numel() else math.nan


def level_difference(noise_spectrum: Tensor, music_spectrum: Tensor) -> float:
    """How far the music's A-weighted level lies above the noise's.

    Parameters
    ----------
    noise_spectrum, music_spectrum : Tensor [frames, 1025]
        From `masking_model.spectra`.

    Returns
    -------
    float
        In dB; nan where either is silent.

    Source: IEC 61672-1 for the weighting.
    """
    noise, music = float(_a_weighted(noise_spectrum).sum()), float(_a_weighted(music_spectrum).sum())
    return 10 * math.log10(music / noise) if music > 0 and noise > 0 else math.nan


def loudness_range(waveform: Tensor, sample_rate: int = SAMPLE_RATE) -> float:
    """LRA: spread between the 10th and the 95th percentile of short-term loudness.

    Blocks of 3 s every 100 ms; those under -70 LUFS, and those 20 LU under the power mean of the rest, are left out.
    pyloudnorm's own, which not all its versions have, appends 1.5 s of silence, so that a steady tone of 5 s varies by
    over 2 LU. The EBU does not recommend LRA for under a minute: on clips of 5 s it shows slow changes only.

    Parameters
    ----------
    waveform : Tensor [samples]
    sample_rate : int
        In Hz.

    Returns
    -------
    float
        In LU; nan for under 3 s, or where all is under -70 LUFS.

    Source: EBU Tech 3342; ITU-R BS.1770-4 for the filters, by `pyloudnorm`.
    """
    block, hop = 3 * sample_rate, sample_rate // 10
    if len(waveform) < block:
        return math.nan
    # The offset keeps the filters' decay into digital silence out of the slow subnormal numbers.
    weighted = waveform.detach().cpu().double().numpy() + 1e-30
    for gain, quality, frequency, kind in ((4.0, math.sqrt(0.5), 1500.0, "high_shelf"), (0.0, 0.5, 38.0, "high_pass")):
        weighted = pyloudnorm.IIRfilter(gain, quality, frequency, sample_rate, kind).apply_filter(weighted)
    until = np.concatenate([[0.0], np.cumsum(weighted**2)])
    power = (until[block::hop] - until[:-block:hop]) / block
    power = power[power > 10 ** ((audio.GATE_LUFS + 0.691) / 10)]
    if not power.size:
        return math.nan
    power = power[power >= power.mean() / 100]
    low, high = np.percentile(power, [10, 95], method="nearest")
    return 10 * math.log10(high / low)


def onsets(spectrum: Tensor, playback_db_spl: float = PLAYBACK_DB_SPL) -> Tensor:
    """Times at which sounds begin: peaks in how fast the critical bands' levels rise.

    The function is the rise within 23 ms (two frames), in dB over what is heard in quiet, averaged over bands. A peak
    is the largest within 35 ms either side and stands 1.5 dB above the mean within 93 ms either side: an absolute
    height, so that a steady noise has no onsets, where a relative one would find them in its fluctuations. Soft
    entries, such as those of legato strings, have none either.

    Parameters
    ----------
    spectrum : Tensor [frames, 1025]
        From `masking_model.spectra`.
    playback_db_spl : float
        Level at which -18 LUFS is played, in dB SPL.

    Returns
    -------
    Tensor [onsets], float64
        In seconds, rising; perhaps empty.

    Source: Klapuri (1999), for logarithmic rises in critical bands; Dixon (2006), for the peaks; Böck and Widmer
    (2013), for the lag of two frames.
    """
    lag, near, around = 2, 3, 8
    if len(spectrum) <= lag + around:
        return torch.zeros(0, dtype=torch.float64)
    energies = masking_model.band_energies(spectrum, playback_db_spl, stride=1)
    levels = 10 * (energies + masking_model.quiet_threshold()).log10()
    rise = (levels[:, lag:] - levels[:, :-lag]).clamp_min(0).mean(0)
    largest = functional.max_pool1d(rise[None], 2 * near + 1, 1, near)[0]
    mean = functional.avg_pool1d(rise[None], 2 * around + 1, 1, around, count_include_pad=False)[0]
    peaks = (rise == largest) & (rise >= mean + ONSET_RISE_DB)
    frames = torch.nonzero(peaks)[:, 0] + lag
    return (frames.double() * FLUX_HOP + WINDOW / 2) / SAMPLE_RATE


def onset_agreement(noise_onsets: Tensor, music_onsets: Tensor, window: float = ONSET_WINDOW) -> float:
    """F-measure between two lists of onsets, each matched to one at most: 2 matches / (number of both).

    Parameters
    ----------
    noise_onsets, music_onsets : Tensor [onsets]
        In seconds, rising.
    window : float
        Two onsets match when at most so far apart, in seconds.

    Returns
    -------
    float
        0..1; nan where the noise has no onsets.

    Raises
    ------
    BlendbenchError
        The lists are not one-dimensional and rising, or the window is not above 0.

    Source: MIREX, audio onset detection; equals `mir_eval.onset.f_measure`.
    """
    lists = [each.tolist() for each in (noise_onsets, music_onsets) if each.ndim == 1]
    if len(lists) != 2 or any(sorted(each) != each for each in lists):
        raise BlendbenchError("onsets must be two one-dimensional lists of rising times in seconds: sort them")
    if not window > 0:
        raise BlendbenchError(f"onset window is {window}: give seconds above 0, such as {ONSET_WINDOW}")
    noise, music = lists
    if not noise:
        return math.nan
    first = second = matches = 0
    # On a line, pairing the earliest two that are close enough gives as many pairs as any matching.
    while first < len(noise) and second < len(music):
        if abs(noise[first] - music[second]) <= window:
            first, second, matches = first + 1, second + 1, matches + 1
        elif noise[first] < music[second]:
            first += 1
        else:
            second += 1
    return 2 * matches / (len(noise) + len(music))


def chroma(waveform: Tensor) -> Tensor:
    """How far each pitch class stands out, averaged over time and five octaves.

    Mean power in semitones from A2 (110 Hz) up, in dB, no lower than 40 dB under the loudest; less the mean over the
    octave around it, so that a slope of the spectrum, which all noises have, looks like no pitch class; then the mean
    over octaves.

    Parameters
    ----------
    waveform : Tensor [samples]
        At 44.1 kHz.

    Returns
    -------
    Tensor [12], float64
        In dB, from C to B; zeros for silence or under 0.37 s.

    Source: Müller (2015), Fundamentals of Music Processing, chapter 3, for pitch bands folded to classes.
    """
    if len(waveform) < CHROMA_WINDOW or not bool(waveform.any()):
        return torch.zeros(12, dtype=torch.float64)
    window = torch.hann_window(CHROMA_WINDOW, dtype=torch.float64)
    stretches = waveform.detach().cpu().double().unfold(0, CHROMA_WINDOW, CHROMA_WINDOW // 2)
    semitones = _semitone_matrix()
    power = torch.fft.rfft(stretches * window)[:, : semitones.shape[1]].abs().square().mean(0)
    levels = 10 * (semitones @ power).clamp_min(1e-300).log10()
    levels = levels.clamp_min(float(levels.max()) - CHROMA_RANGE_DB)
    octave = torch.tensor([0.5, *[1.0] * 11, 0.5], dtype=torch.float64) / 12
    contrast = levels[6:-6] - functional.conv1d(levels[None, None], octave[None, None])[0, 0]
    # Row by row an octave from A to G sharp.
    return contrast.view(-1, 12).mean(0).roll(-3)


def chroma_fit(noise_chroma: Tensor, music_chroma: Tensor) -> float:
    """Pearson correlation of two chroma vectors.

    Correlation, because the cosine of two nearly flat chromas, such as any broadband noise has, is near 1.

    Parameters
    ----------
    noise_chroma, music_chroma : Tensor [12]
        From `chroma`, in dB.

    Returns
    -------
    float
        -1..1; nan where either is flat, its standard deviation under 0.5 dB: what is without pitch fits no key.

    Raises
    ------
    BlendbenchError
        They are not two vectors of 12.

    Source: Krumhansl (1990), correlation of pitch-class profiles.
    """
    if not noise_chroma.shape == music_chroma.shape == (12,):
        raise BlendbenchError(
            f"chromas have shapes {tuple(noise_chroma.shape)} and {tuple(music_chroma.shape)}: give two of 12"
        )
    if any(float(each.std(correction=0)) < CHROMA_FLAT_DB for each in (noise_chroma, music_chroma)):
        return math.nan
    return float(torch.corrcoef(torch.stack([noise_chroma, music_chroma]))[0, 1])


def _mel_of(waveform: Tensor, known: Tensor | None) -> Tensor:
    if known is None:
        return mel_amplitudes(waveform)
    settings = RIFFUSION
    shape = (settings.n_mels, 1 + len(waveform) // settings.hop_length)
    if known.shape != shape:
        raise BlendbenchError(f"mel amplitudes have shape {tuple(known.shape)}: give {shape}, those of this clip")
    return known.detach().cpu()


def _a_weighted(spectrum: Tensor) -> Tensor:
    """A-weighted mean square of every second frame, [frames]."""
    return spectrum[::2].abs().square() @ _a_weighting_power()


@lru_cache(maxsize=1)
def _a_weighting_power() -> Tensor:
    f2 = (torch.arange(WINDOW // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / WINDOW) ** 2
    # IEC 61672-1, annex E: poles at 20.6, 107.7, 737.9 and 12194 Hz, 0 dB at 1 kHz.
    poles = (f2 + 20.598997**2) * ((f2 + 107.65265**2) * (f2 + 737.86223**2)).sqrt() * (f2 + 12194.217**2)
    return (12194.217**2 * f2**2 / poles) ** 2 * 10**0.2


@lru_cache(maxsize=1)
def _mel_to_critical_band() -> Tensor:
    """Critical band, from 0, that holds each mel band's centre, [512]."""
    return masking_model.band_of(mel_centres())


@lru_cache(maxsize=1)
def _semitone_matrix() -> Tensor:
    """Bins of the chroma window in 72 semitones: the 60 from A2, and half an octave on either side."""
    limits = 110 * 2 ** ((torch.arange(-6, 67, dtype=torch.float64) - 0.5) / 12)
    return masking_model.share_of_bins(limits, SAMPLE_RATE / CHROMA_WINDOW)
