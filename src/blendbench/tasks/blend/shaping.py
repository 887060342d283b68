"""Slow spectral gains that make music mask a noise best, at one loudness of the music, for a price on their size.

The music's power is multiplied, in each critical band, by gains g that change slowly in time; between the bands'
centres, and between the points in time, they go over into each other in proportion. The masked threshold is then
linear in g, and so is the power that BS.1770 weighs. Minimised is

    10 log10 mean(E_noise / T(g)) + price * departure(g)    in dB,

the total noise-to-mask ratio and what the gains are off flat, under the condition that the music's loudness stays. The
first is convex in g where the threshold of one frame is what the same frame excites (it is log-convex, being a mean of
ratios to what is linear), and so is the second; post-masking, which takes the larger of two linear terms, bends this a
little. So descent finds the optimum, or close to it, without a start of its own. The departure is

    sum_b w_b (m_b - 1 - ln m_b)  +  following * sum_b w_b mean_t(g_bt ln(g_bt / m_b) - g_bt + m_b),

m_b being the mean of a band's gains in time: the first term prices the colour (Itakura and Saito's distance of the
coloured spectrum from the given one), the second how far the music swells and fades with the noise (relative entropy,
convex in g and m together). w weighs bands half alike and half by the music's own loudness in them.

Waveforms are [samples] at 44.1 kHz. All is float64 on the CPU.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError
from blendbench.sound import audio, masking_model
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.masking_model import FLUX_HOP, HOP, PLAYBACK_DB_SPL, REFERENCE_LUFS, WINDOW

_BANDS = len(masking_model.CRITICAL_BAND_EDGES) - 1
_POST_FRAMES = 6
_DB = 10 / math.log(10)


@dataclass(frozen=True)
class Shaping:
    """Settings.

    Parameters
    ----------
    price : float
        dB of noise-to-mask ratio that a departure of 1 must be worth; 0 takes what masks best within the bound.
    seconds : float or None
        Between two points in time at which gains are free; None for one gain a band.
    following : float
        Price of swelling with the noise, as a multiple of the price of colour.
    max_db : float
        Gains stay within this of each other's middle, up and down, in dB.
    iterations : int
        Of the descent (L-BFGS), at most.

    Raises
    ------
    BlendbenchError
        When a setting is out of its range.
    """

    price: float = 2.0
    seconds: float | None = 0.4
    following: float = 10.0
    max_db: float = 18.0
    iterations: int = 60

    def __post_init__(self) -> None:
        for name, low in (("price", 0.0), ("following", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                raise BlendbenchError(f"{name}: is {value}; give a number from {low:g} up")
        if self.seconds is not None and not 0.05 <= self.seconds <= 60:
            raise BlendbenchError(f"seconds: is {self.seconds}; give 0.05 to 60, or null for gains that stay")
        if not 0 < self.max_db <= 60:
            raise BlendbenchError(f"max_db: is {self.max_db}; give a number above 0 and at most 60")
        if self.iterations < 1:
            raise BlendbenchError(f"iterations: is {self.iterations}; give a whole number from 1 up")


@dataclass(frozen=True)
class Shape:
    """Gains found for one music.

    Attributes
    ----------
    gains : Tensor [24, points]
        On power, linear, by critical band and point in time.
    times : Tensor [points]
        In seconds.
    flat, shaped : float
        Noise-to-mask ratio in dB before and after, by the model that was descended in.
    departure : float
    """

    gains: Tensor
    times: Tensor
    flat: float
    shaped: float
    departure: float


def shape(noise: Tensor, music: Tensor, settings: Shaping) -> tuple[Tensor, Shape]:
    """Shape music so that it masks a noise better at its loudness.

    Parameters
    ----------
    noise, music : Tensor [samples]
        At the levels at which they are heard together, 44.1 kHz, of one length, 93 ms or more.
    settings : Shaping

    Returns
    -------
    Tensor [samples]
        The music, at the loudness that it had.
    Shape
        What was done to it.

    Raises
    ------
    ClipError
        If one is too short or not finite, or the music is silent.
    """
    found = optimal(noise, music, settings)
    shaped = apply(music, found)
    loudness = audio.integrated_loudness(music, SAMPLE_RATE)
    if math.isfinite(loudness):
        shaped, _ = audio.normalize_loudness(shaped, SAMPLE_RATE, loudness, "music")
    return shaped.to(music.dtype), found


def optimal(noise: Tensor, music: Tensor, settings: Shaping) -> Shape:
    """The gains that `shape` applies; parameters and errors as there."""
    noise_spectrum, spectrum = masking_model.spectra(noise, "noise"), masking_model.spectra(music, "music")
    energies = masking_model.band_energies(noise_spectrum, PLAYBACK_DB_SPL)
    counted = (energies > masking_model.quiet_threshold()).any(0)
    model = _Model(spectrum, settings.seconds)
    flat = torch.ones(_BANDS, len(model.times), dtype=torch.float64)
    before = model.ratio(flat, energies, counted)
    if not bool(counted.any()) or not float(model.weighed.sum()) > 0:
        return Shape(flat, model.times, before, before, 0.0)
    share = model.weighed.sum(1) / model.weighed.sum()
    weights = 0.5 * share + 0.5 / _BANDS
    bound = settings.max_db / _DB
    free = torch.zeros_like(flat, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free], max_iter=settings.iterations, history_size=12, line_search_fn="strong_wolfe", tolerance_change=1e-5
    )

    def gains() -> Tensor:
        chosen = (bound * torch.tanh(free / bound)).exp()
        return chosen * (model.weighed.sum() / (model.weighed * chosen).sum())

    def closure() -> Tensor:
        optimizer.zero_grad()
        chosen = gains()
        value = model.ratio_db(chosen, energies, counted) + settings.price * _departure(chosen, weights, settings)
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        chosen = gains()
        departure = float(_departure(chosen, weights, settings))
    return Shape(chosen, model.times, before, model.ratio(chosen, energies, counted), departure)


def apply(music: Tensor, shape: Shape) -> Tensor:
    """Music [samples] with gains on its short-time spectrum (Hann, 2048 samples every 512), in float32."""
    window = torch.hann_window(WINDOW, dtype=torch.float32)
    signal = music.detach().cpu().float()
    spectrum = torch.stft(signal, WINDOW, FLUX_HOP, window=window, return_complex=True, pad_mode="constant")
    times = torch.arange(spectrum.shape[1], dtype=torch.float64) * FLUX_HOP / SAMPLE_RATE
    in_time = shape.gains @ _hats(times, shape.times)
    amplitudes = (_bands_to_bins().T @ in_time).sqrt().float()
    return torch.istft(spectrum * amplitudes, WINDOW, FLUX_HOP, window=window, center=True, length=len(signal))


class _Model:
    """Masked thresholds and loudness of one music as functions of gains [24, points]."""

    def __init__(self, spectrum: Tensor, seconds: float | None) -> None:
        bins = masking_model.band_matrix().shape[1]
        full_scale = 10 ** ((PLAYBACK_DB_SPL - REFERENCE_LUFS) / 10)
        power = spectrum[:: HOP // FLUX_HOP].abs().square()
        frames = len(power)
        length = (frames - 1) * HOP / SAMPLE_RATE
        if seconds is None:
            self.times = torch.tensor([length / 2], dtype=torch.float64)
        else:
            self.times = torch.linspace(0, length, max(2, 1 + round(length / seconds)), dtype=torch.float64)
        # A frame of the model is centred half a window after its first sample, as the filter's frames are.
        self.hats = _hats(
            (torch.arange(frames) * HOP + WINDOW / 2) / SAMPLE_RATE, self.times + WINDOW / 2 / SAMPLE_RATE
        )
        self.times = self.times + WINDOW / 2 / SAMPLE_RATE
        offset = 10 ** (masking_model.masking_offset(masking_model.band_tonality(spectrum)) / 10)
        ears = masking_model.band_matrix() * masking_model.ear_power() * full_scale
        basis = _bands_to_bins()
        # What gain j contributes to the masker in band b: [b, j, frames], already below by the band's offset.
        self.maskers = torch.stack(
            [(ears * basis[j, :bins]) @ power[:, :bins].T / offset for j in range(_BANDS)], dim=1
        )
        self.spread, self.quiet = masking_model.spreading_matrix(), masking_model.quiet_threshold()
        a = masking_model.post_masking()
        self.kernel = ((1 - a)[:, None] * a[:, None] ** torch.arange(_POST_FRAMES - 1, -1, -1))[:, None]
        #: What BS.1770 weighs of the music, by gain: [24, points].
        self.weighed = (basis @ (power * audio.k_weighting(_frequencies())).T) @ self.hats.T

    def threshold(self, gains: Tensor) -> Tensor:
        """[24, frames]."""
        excitation = self.spread @ torch.einsum("bjf,jf->bf", self.maskers, gains @ self.hats)
        padded = torch.nn.functional.pad(excitation[None], (_POST_FRAMES - 1, 0))
        held = torch.nn.functional.conv1d(padded, self.kernel, groups=_BANDS)[0]
        return excitation.maximum(held).maximum(self.quiet)

    def ratio_db(self, gains: Tensor, energies: Tensor, counted: Tensor) -> Tensor:
        """Total noise-to-mask ratio, in dB."""
        return _DB * (energies[:, counted] / self.threshold(gains)[:, counted]).mean().log()

    def ratio(self, gains: Tensor, energies: Tensor, counted: Tensor) -> float:
        """The same as a number; nan where no frame counts."""
        with torch.no_grad():
            return float(self.ratio_db(gains, energies, counted))


def _departure(gains: Tensor, weights: Tensor, settings: Shaping) -> Tensor:
    mean = gains.mean(1)
    colour = weights @ (mean - 1 - mean.log())
    following = weights @ (gains * (gains / mean[:, None]).log()).mean(1)
    return colour + settings.following * following


def _hats(at: Tensor, points: Tensor) -> Tensor:
    """Weights [points, at] of linear interpolation, held beyond the ends; columns sum to 1."""
    if len(points) == 1:
        return torch.ones(1, len(at), dtype=torch.float64)
    place = ((at.double() - points[0]) / (points[1] - points[0])).clamp(0, len(points) - 1)
    index = torch.arange(len(points), dtype=torch.float64)[:, None]
    return (1 - (place - index).abs()).clamp_min(0)


@lru_cache(maxsize=1)
def _bands_to_bins() -> Tensor:
    """Weights [24, 1025] with which a bin's gain is made of those of the two critical bands around it, in Bark."""
    frequencies = _frequencies()
    points, place = masking_model.bark(masking_model.band_centres()), masking_model.bark(frequencies)
    place = place.clamp(points[0], points[-1])
    right = torch.searchsorted(points, place, right=True).clamp(1, _BANDS - 1)
    share = (place - points[right - 1]) / (points[right] - points[right - 1])
    weights = torch.zeros(_BANDS, len(frequencies), dtype=torch.float64)
    bins = torch.arange(len(frequencies))
    weights[right - 1, bins] = 1 - share
    weights[right, bins] = share
    return weights


def _frequencies() -> Tensor:
    """Of the bins, [1025], in Hz."""
    return torch.arange(WINDOW // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / WINDOW
