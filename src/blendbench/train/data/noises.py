"""Environmental noises made from numbers: the clips that train the built-in models and that examples use.

Each kind follows the physics of its source: impacts are impulses through damped modes, engines are trains of unequal
firing pulses through resonances, wind, rain and waves are shaped and modulated noise. The seed draws the particulars
(tempo, resonances, brightness, room, distance), so no two clips of a kind are alike. Names are ESC-50's categories
where one exists. Conventions: sounds are mono arrays of shape (samples,), times are in seconds, frequencies in hertz,
levels in decibels; `n` is a number of samples and `rate` the sample rate. A clip is an excerpt of a sound that goes on,
so every filter is circular: the tails at the start of a clip are those of events at its end. Spectra are taken in
single precision, whose error lies some 120 dB below the signal.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from blendbench.errors import BlendbenchError

Array = npt.NDArray[Any]
Curve = Sequence[tuple[float, float]]
Source = Callable[[np.random.Generator, int, int], Array]
TARGET_LUFS = -18.0
PEAK_LIMIT = 0.95
RHYTHMIC = (
    "clock_tick",
    "footsteps",
    "washing_machine",
    "train",
    "water_drops",
    "hand_saw",
    "helicopter",
    "hammering",
    "chopping",
    "stirring",
)
"""Kinds whose loudness repeats with a period (some of the others do at times, as an alarm clock or a dog may)."""
STEADY = ("rain", "mains_hum", "air_conditioner", "running_water")
"""Kinds whose loudness hardly changes."""


def synthesize(kind: str, seed: int, seconds: float = 5.0, sample_rate: int = 44100) -> npt.NDArray[np.float32]:
    """One clip of a kind of noise, the same for the same arguments.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    seed : int
        Draws everything that may differ between two clips of the kind; not negative.
    seconds : float
        Length of the clip, in seconds, at least 0.5. A longer clip is another clip, not a continuation.
    sample_rate : int
        Sample rate, in Hz, at least 8000.

    Returns
    -------
    numpy.ndarray, shape (round(seconds * sample_rate),), float32
        Near -18 LUFS, but quieter where the peak would pass 0.95: sparse impacts, as in recordings. Room noise about
        50 dB under the peak leaves no digital silence.

    Raises
    ------
    BlendbenchError
        For an unknown kind, a negative seed, or a length or sample rate below the limits.
    """
    if kind not in _SOURCES:
        raise BlendbenchError(f"noise kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if seed < 0:
        raise BlendbenchError(f"noise seed is {seed}; it must be 0 or greater")
    if not 0.5 <= seconds < np.inf:
        raise BlendbenchError(f"noise length is {seconds} s; ask for at least 0.5 s")
    if sample_rate < 8000:
        raise BlendbenchError(f"noise sample rate is {sample_rate} Hz; ask for at least 8000 Hz")
    source, indoors = _SOURCES[kind]
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    n = round(seconds * sample_rate)
    dry = source(rng, n, sample_rate)
    return _record(rng, dry, sample_rate, indoors).astype(np.float32)


def noise_set(count_per_kind: int, seed: int = 0) -> Iterator[tuple[str, str, npt.NDArray[np.float32]]]:
    """The built-in noise set: clips of 5 s at 44.1 kHz, kind by kind.

    Parameters
    ----------
    count_per_kind : int
        Clips of each kind. A larger set holds the smaller one of the same seed.
    seed : int
        Seed of the set.

    Yields
    ------
    clip_id : str
        Kind and number, as in `rain-003`.
    kind : str
        One of `KINDS`.
    waveform : numpy.ndarray, shape (220500,), float32
    """
    for kind in KINDS:
        for index in range(count_per_kind):
            clip_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
            yield f"{kind}-{index:03d}", kind, synthesize(kind, clip_seed)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _rfft(x: Array, n: int | None = None) -> npt.NDArray[np.complex64]:
    return fft.rfft(x.astype(np.float32), n)


def _gains(n: int, rate: int, curve: Curve) -> Array:
    """Amplitude gain of each of the n // 2 + 1 bins for a curve of (Hz, dB) points, straight over log frequency."""
    hz, db = zip(*curve, strict=True)
    octave = np.log2(np.maximum(fft.rfftfreq(n, 1 / rate), 1.0))
    return np.power(10, np.interp(octave, np.log2(hz), db) / 20).astype(np.float32)


def _noise(rng: np.random.Generator, n: int, rate: int, curve: Curve) -> Array:
    """Gaussian noise of unit RMS whose spectrum density follows a curve of (Hz, dB) points."""
    bins = n // 2 + 1
    spectrum = rng.standard_normal(2 * bins, np.float32).view(np.complex64) * _gains(n, rate, curve)
    spectrum[0] = 0.0
    return _unit(fft.irfft(spectrum, n))


def _unit(x: Array) -> Array:
    return x / max(float(np.sqrt(np.mean(x**2))), 1e-12)


def _convolve(x: Array, kernel: Array) -> Array:
    return fft.irfft(_rfft(x) * _rfft(kernel[: len(x)], len(x)), len(x))


def _resonate(x: Array, rate: int, hz: Sequence[float], quality: float, gains: Sequence[float]) -> Array:
    """Parallel two-pole resonators; causal, so that impulses ring after and not before they come."""
    spectrum = _rfft(x)
    frequency = np.maximum(fft.rfftfreq(len(x), 1 / rate), 1e-3).astype(np.float32)
    response = np.zeros(len(spectrum), np.complex64)
    for centre, gain in zip(hz, gains, strict=True):
        if centre < rate / 2:
            detuning = np.float32(quality) * (frequency / np.float32(centre) - np.float32(centre) / frequency)
            response += np.float32(gain) * (1 - np.complex64(1j) * detuning) / (1 + detuning**2)
    return fft.irfft(spectrum * response, len(x))


def _ring(
    rng: np.random.Generator, rate: int, hz: npt.ArrayLike, t60: npt.ArrayLike, gain: npt.ArrayLike = 1.0
) -> Array:
    """Damped modes that start together: frequencies, seconds to fall by 60 dB, and gains, one each or one for all."""
    modes = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in (hz, t60, gain)))
    t = (np.arange(int(np.max(modes[1]) * rate) + 1) / rate).astype(np.float32)
    out = np.zeros(len(t), np.float32)
    for f, decay, g in zip(*modes, strict=True):
        if f < 0.48 * rate:
            length = int(decay * rate) + 1
            wave = np.exp(t[:length] * np.float32(-6.9 / decay)) * np.sin(t[:length] * np.float32(2 * np.pi * f))
            out[:length] += np.float32(g * rng.uniform(0.6, 1.4)) * wave
    return out


def _burst(rng: np.random.Generator, rate: int, t60: float, curve: Curve, attack: float = 0.0005) -> Array:
    """A burst of shaped noise with a short attack and an exponential decay, of unit peak envelope."""
    n = fft.next_fast_len(int((t60 + attack) * rate) + 2, real=True)
    t = np.arange(n) / rate
    return _noise(rng, n, rate, curve) * np.minimum(t / attack, 1.0) * np.exp(-6.9 * t / t60)


def _chirp(rate: int, hz: float, rise: float, t60: float) -> Array:
    """A ringing bubble (Minnaert): a damped sine whose pitch rises by the factor `rise` while it decays."""
    t = np.arange(int(t60 * rate) + 1) / rate
    phase = hz * (t + (rise - 1) * t**2 / (2 * t60))
    return np.sin(2 * np.pi * phase) * np.exp(-6.9 * t / t60) * np.minimum(t / 0.001, 1.0)


def _sum(*parts: Array) -> Array:
    """Sum of sounds of any lengths that start together."""
    out = np.zeros(max(len(part) for part in parts))
    for part in parts:
        out[: len(part)] += part
    return out


def _place(x: Array, rate: int, at: float, event: Array, gain: float = 1.0) -> None:
    """Add an event to a clip in place, at a time in seconds; what passes the end goes on at the start."""
    n = len(x)
    start = round(at * rate) % n
    event = event[:n]
    head = min(len(event), n - start)
    x[start : start + head] += gain * event[:head]
    x[: len(event) - head] += gain * event[head:]


def _beats(rng: np.random.Generator, seconds: float, period: float, jitter: float = 0.0) -> Array:
    """Times of a regular beat from a random start; each is off by a normal error of `jitter` periods. Never empty."""
    beats = np.arange(rng.uniform(0, min(period, seconds / 2)), seconds, period)
    return np.clip(beats + jitter * period * rng.standard_normal(len(beats)), 0, seconds)


def _scatter(rng: np.random.Generator, seconds: float, per_second: float) -> Array:
    """Times of a Poisson process. Never empty."""
    return rng.uniform(0, seconds, max(1, rng.poisson(per_second * seconds)))


def _impulses(n: int, rate: int, times: Array, gains: npt.ArrayLike = 1.0) -> Array:
    """Impulses at times between the samples, each shared by its two neighbours."""
    position = np.asarray(times) * rate
    whole = np.floor(position).astype(int)
    fraction = position - whole
    gains = np.broadcast_to(np.asarray(gains, float), whole.shape)
    out = np.zeros(n)
    np.add.at(out, whole % n, gains * (1 - fraction))
    np.add.at(out, (whole + 1) % n, gains * fraction)
    return out


def _drift(rng: np.random.Generator, n: int, rate: int, hz: float) -> Array:
    """A smooth random curve of unit RMS with components up to `hz`."""
    bins = max(2, int(np.ceil(hz * n / rate)) + 1)
    points = 16 * bins
    spectrum = np.zeros(points // 2 + 1, complex)
    spectrum[1:bins] = rng.standard_normal(bins - 1) + 1j * rng.standard_normal(bins - 1)
    curve = _unit(fft.irfft(spectrum, points))
    return np.interp(np.arange(n) * (points / n), np.arange(points + 1), np.append(curve, curve[0]))


def _phase(rng: np.random.Generator, rate: int, hz: Array) -> Array:
    """Cycles gone by for an instantaneous frequency, from a random start."""
    return rng.uniform() + np.cumsum(hz) / rate


def _crossings(phase: Array, rate: int) -> Array:
    """Times at which a rising phase passes whole numbers."""
    index = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    step = phase[index + 1] - phase[index]
    return (index + (np.floor(phase[index]) + 1 - phase[index]) / step) / rate


def _harmonics(rng: np.random.Generator, rate: int, hz: Array, gains: npt.ArrayLike) -> Array:
    """A tone of an instantaneous frequency with harmonics of random phases, read from a table of one cycle."""
    gains = np.asarray(gains, float)
    gains = gains[: max(1, int(0.48 * rate / hz.max()))]
    cycle = 8192
    spectrum = np.zeros(cycle // 2 + 1, complex)
    spectrum[1 : len(gains) + 1] = gains * np.exp(2j * np.pi * rng.uniform(size=len(gains))) * cycle / 2
    table = np.append(fft.irfft(spectrum, cycle), 0.0)
    table[-1] = table[0]
    return np.interp(_phase(rng, rate, hz) % 1.0 * cycle, np.arange(cycle + 1), table)


def _firing(rng: np.random.Generator, n: int, rate: int, hz: Array, cylinders: int, roughness: float) -> Array:
    """An engine's firing pulses: cylinders of unequal strength in turn, and some chance in every pulse."""
    times = _crossings(_phase(rng, rate, hz), rate)
    strength = rng.uniform(0.6, 1.0, cylinders)
    gains = np.resize(strength, len(times)) * (1 + roughness * rng.standard_normal(len(times)))
    return _impulses(n, rate, times + 0.01 / hz.mean() * rng.standard_normal(len(times)), gains)


def _record(rng: np.random.Generator, x: Array, rate: int, indoors: bool) -> Array:
    """What distance, room and recorder do to a sound, and its level."""
    n = len(x)
    distance = rng.uniform(0, 1)
    wet = rng.uniform(0.1, 0.5) * (0.3 + distance) if indoors else 0.15 * distance
    t60 = _log_uniform(rng, 0.2, 0.7) if indoors else 0.3
    tail = _burst(rng, rate, t60, [(100, -6), (300, 0), (2000, -3), (10000, -14)], attack=0.004)
    room = _rfft(wet * tail[:n] / np.sqrt(np.sum(tail**2)), n)
    # Microphones, places and hands differ: a few dB of colour at each octave, more in the bass, and a band limit.
    octaves = 62.5 * 2.0 ** np.arange(9)
    colour = rng.normal(0, [6, 5, 4, 3, 2, 2, 3, 3, 4]) - distance * np.array([0, 0, 0, 0, 0, 1, 3, 7, 10])
    cut = rng.uniform(10000, 19000)
    curve = [(20, colour[0] - 25), *zip(octaves[octaves < cut], colour, strict=False), (cut, colour[-1])]
    x = fft.irfft(_rfft(x) * (1 + room) * _gains(n, rate, [*curve, (1.25 * cut, colour[-1] - 70)]), n)
    rumble = rng.uniform(0, 12)
    floor = _noise(rng, n, rate, [(20, rumble + 6), (100, rumble), (1000, -14), (6000, -22), (20000, -30)])
    x = x + np.max(np.abs(x)) * 10 ** (rng.uniform(-58, -42) / 20) * floor
    x = x * 10 ** ((TARGET_LUFS - _loudness(x, rate)) / 20)
    return x * min(1.0, PEAK_LIMIT / float(np.max(np.abs(x))))


def _loudness(x: Array, rate: int) -> float:
    """Loudness without gating, in LUFS, by the K-weighting curve's shape: BS.1770's high-pass and its 4 dB shelf."""
    squared = fft.rfftfreq(len(x), 1 / rate) ** 2
    weight = (squared / (squared + 38.0**2)) ** 2 * (1 + 1.5 * squared / (squared + 1700.0**2))
    power = 2 * np.sum(weight * np.abs(_rfft(x)) ** 2) / len(x) ** 2
    return float(-0.691 + 10 * np.log10(power))


def _clock_tick(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    period = float(rng.choice([1.0, 0.5, 0.4, 0.25])) * rng.uniform(0.97, 1.03)
    bright = _log_uniform(rng, 1200, 3500)
    case = rng.uniform(120, 500, 3)
    # An escapement makes two or three clicks a beat: unlocking, impulse, drop.
    clicks = np.array([0.0, rng.uniform(0.004, 0.009), rng.uniform(0.012, 0.022)])
    strengths = np.array([rng.uniform(0.2, 0.6), 1.0, rng.uniform(0.1, 0.6)])
    sides = []
    for detune in (1.0, rng.uniform(0.8, 1.2)):
        modes = bright * detune * np.exp(rng.uniform(-0.5, 1.5, 9))
        metal = _ring(rng, rate, modes, 0.01 + rng.exponential(0.025, 9), rng.uniform(0.2, 1.0, 9))
        body = _ring(rng, rate, case, rng.uniform(0.06, 0.16, 3), rng.uniform(0.1, 0.5))
        sides.append(_sum(metal, body, 0.6 * _burst(rng, rate, 0.008, [(800, -12), (4000, 0), (16000, -6)])))
    tock = rng.uniform(0.5, 1.0)
    for i, beat in enumerate(_beats(rng, n / rate, period, 0.004)):
        for click, strength in zip(clicks, strengths, strict=True):
            _place(x, rate, beat + click, sides[i % 2], strength * (1.0, tock)[i % 2] * rng.uniform(0.85, 1.15))
    return x


def _footsteps(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    period = rng.uniform(0.42, 0.75)
    hard = rng.uniform(0, 1)
    thump = rng.uniform(55, 140)
    colour = _log_uniform(rng, 500, 2500)
    grit = 0.0 if rng.uniform() < 0.5 else rng.uniform(0.2, 0.8)
    roll = rng.uniform(0.07, 0.14) * period / 0.55
    for i, beat in enumerate(_beats(rng, n / rate, period, 0.025)):
        foot = 1.0 + 0.08 * (i % 2)
        heel = _sum(
            _ring(rng, rate, thump * foot * np.array([1, 1.9, 3.1]), [0.14, 0.09, 0.05], [1.2, 0.7, 0.4]),
            (0.3 + 0.6 * hard) * _burst(rng, rate, 0.035, [(100, -6), (colour, 0), (4 * colour, -12), (16000, -30)]),
            hard * _ring(rng, rate, colour * foot * np.array([1, 1.7, 2.6]), 0.025, 0.6),
        )
        toe = _burst(rng, rate, rng.uniform(0.06, 0.12), [(200, -15), (1.5 * colour, 0), (12000, -14)], attack=0.012)
        _place(x, rate, beat, heel, rng.uniform(0.7, 1.1))
        _place(x, rate, beat + roll, toe, rng.uniform(0.08, 0.22))
        for grain in beat + roll * 2 * rng.beta(2, 3, int(60 * grit)):
            grains = _burst(rng, rate, 0.006, [(800, -12), (3000, 0), (14000, -6)])
            _place(x, rate, grain, grains, grit * rng.pareto(2.5) * 0.2)
    return x


def _hammering(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    period = rng.uniform(0.32, 0.85)
    nail = _log_uniform(rng, 1500, 3200)
    wood = rng.uniform(110, 260)
    rise = 1 + rng.uniform(0.0, 0.02)
    for i, beat in enumerate(_beats(rng, n / rate, period, 0.015)):
        # A nail that goes in is a shorter and shorter bar, so its modes (of a free bar) climb.
        modes = nail * rise**i * np.array([1, 1.83, 2.76, 3.9, 5.4])
        hit = _sum(
            _ring(rng, rate, modes, [0.25, 0.2, 0.16, 0.12, 0.08], [1, 0.8, 0.7, 0.5, 0.4]),
            _ring(rng, rate, wood * np.array([1, 1.6, 2.5, 3.7]), [0.12, 0.1, 0.07, 0.05], 1.0),
            1.2 * _burst(rng, rate, 0.012, [(300, -6), (3000, 0), (16000, -6)]),
        )
        _place(x, rate, beat, hit, rng.uniform(0.75, 1.1))
        _place(x, rate, beat + rng.uniform(0.05, 0.09), hit, rng.uniform(0.0, 0.12))
    return x


def _chopping(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    period = rng.uniform(0.17, 0.42)
    board = rng.uniform(180, 420)
    blade = _log_uniform(rng, 3500, 7000)
    crunch = rng.uniform(0.1, 0.7)
    for beat in _beats(rng, n / rate, period, 0.03):
        cut = _burst(rng, rate, 0.05, [(400, -12), (1800, 0), (5000, -4), (14000, -16)], attack=0.006)
        hit = _sum(
            _ring(rng, rate, board * np.array([1, 1.47, 2.1, 2.9, 4.2]), [0.07, 0.06, 0.05, 0.035, 0.02], 0.8),
            _ring(rng, rate, blade * np.array([1, 1.31, 1.77]), 0.06, rng.uniform(0.03, 0.2)),
            0.8 * _burst(rng, rate, 0.01, [(300, -6), (1500, 0), (12000, -12)]),
        )
        _place(x, rate, beat - 0.02, cut, crunch * rng.uniform(0.2, 0.5))
        _place(x, rate, beat, hit, rng.uniform(0.65, 1.1))
    return x


def _door_wood_knock(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    door = rng.uniform(75, 170)
    ratios = np.array([1, 1.52, 2.1, 2.9, 3.6, 4.7, 6.1]) * rng.uniform(0.95, 1.05, 7)
    gap, pause = rng.uniform(0.13, 0.26), rng.uniform(0.7, 1.8)
    count = int(rng.integers(2, 6))
    sharp = rng.uniform(0.15, 0.6)
    for start in _beats(rng, n / rate, count * gap + pause):
        for i in range(count):
            hit = _sum(
                _ring(rng, rate, door * ratios, 0.16 / ratios**0.5, 1.2 / ratios**0.4),
                sharp * _burst(rng, rate, 0.015, [(200, -6), (900, 0), (4000, -10), (12000, -30)]),
            )
            _place(x, rate, start + gap * (i + 0.03 * rng.standard_normal()), hit, rng.uniform(0.6, 1.0))
    return x


def _keyboard_typing(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    plastic = _log_uniform(rng, 1800, 3800)
    desk = rng.uniform(140, 320)
    seconds = n / rate
    times = np.cumsum(_log_uniform(rng, 0.09, 0.19) * rng.lognormal(0, 0.45, int(20 * seconds) + 1))
    for time in times[: max(1, np.searchsorted(times, seconds))]:
        space = rng.uniform() < 0.15
        key = plastic * rng.uniform(0.85, 1.2) * (0.6 if space else 1.0)
        for delay, strength in ((0.0, 1.0), (rng.uniform(0.06, 0.11), rng.uniform(0.25, 0.6))):
            press = _sum(
                _ring(rng, rate, key * np.array([1, 1.4, 2.3, 3.1]), [0.025, 0.02, 0.015, 0.01], 0.5),
                _ring(rng, rate, desk * np.array([1, 1.7, 2.6]), 0.05, 0.35 * strength),
                _burst(rng, rate, 0.012, [(400, -12), (3000, 0), (9000, -3), (16000, -12)]),
            )
            _place(x, rate, time + delay, press, strength * rng.uniform(0.5, 1.0))
    return x


def _water_drops(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    pitch = _log_uniform(rng, 600, 2200)
    ring = rng.uniform(0.05, 0.14)
    for beat in _beats(rng, n / rate, rng.uniform(0.3, 1.1), rng.uniform(0.005, 0.05)):
        splash = _burst(rng, rate, 0.012, [(800, -10), (4000, 0), (14000, -8)])
        _place(x, rate, beat, splash, rng.uniform(0.08, 0.25))
        delay = rng.uniform(0.008, 0.025)
        for i in range(int(rng.integers(1, 4))):
            bubble = _chirp(rate, pitch * rng.uniform(0.85, 1.2) * 1.35**i, rng.uniform(1.1, 1.6), ring / 1.3**i)
            _place(x, rate, beat + delay, bubble, rng.uniform(0.5, 1.0) / 2**i)
            delay += rng.uniform(0.02, 0.06)
    return x


def _train(rng: np.random.Generator, n: int, rate: int) -> Array:
    speed = rng.uniform(13, 26)
    rail = float(rng.choice([18.0, 22.0, 25.0]))
    axles = np.array([0.0, 2.5, 6.5, 9.0]) / speed
    x = np.zeros(n)
    body = rng.uniform(70, 130)
    steel = _log_uniform(rng, 500, 1100)
    for beat in _beats(rng, n / rate, rail / speed, 0.004):
        # Two bogies meet over a coupling, so four wheels pass the joint: da-dum, da-dum.
        for axle, strength in zip(axles, (1.0, 0.8, 0.9, 0.7), strict=True):
            hit = _sum(
                _ring(rng, rate, body * np.array([1, 1.7, 2.6, 3.9]), [0.18, 0.13, 0.1, 0.07], [1.5, 1, 0.7, 0.5]),
                _ring(rng, rate, steel * np.array([1, 1.5, 2.4, 3.7]), [0.2, 0.16, 0.12, 0.1], 0.2),
                0.9 * _burst(rng, rate, 0.06, [(60, 0), (500, -3), (3000, -12), (12000, -30)]),
            )
            _place(x, rate, beat + axle, hit, strength * rng.uniform(0.8, 1.1))
    rolling = _noise(rng, n, rate, [(30, 0), (150, 2), (700, -4), (2500, -14), (9000, -34)])
    wheel = _resonate(_noise(rng, n, rate, [(300, -20), (1000, 0), (6000, -10)]), rate, [steel * 2.2], 12, [1.0])
    swell = 1 + 0.15 * _drift(rng, n, rate, 1.5)
    level = rng.uniform(0.15, 0.3) * float(np.max(np.abs(x))) / 4
    return x + level * swell * (rolling + rng.uniform(0.05, 0.3) * _unit(wheel))


def _stirring(rng: np.random.Generator, n: int, rate: int) -> Array:
    turn = rng.uniform(0.28, 0.6)
    cup = _log_uniform(rng, 1700, 3400)
    modes = cup * np.array([1, 1.09, 2.3, 2.46, 3.9]) * rng.uniform(0.98, 1.02, 5)
    t60 = rng.uniform(0.08, 0.3)
    x = np.zeros(n)
    start = rng.uniform(0, turn)
    phase = (np.arange(n) / rate - start) / turn
    taps = [(0.0, 1.0), (rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.7))]
    for beat in np.arange(start, n / rate, turn):
        for offset, strength in taps:
            tap = _sum(
                _ring(rng, rate, modes, t60 * np.array([1, 1, 0.6, 0.6, 0.4]), [1, 0.7, 0.6, 0.4, 0.3]),
                0.4 * _burst(rng, rate, 0.006, [(500, -10), (5000, 0), (16000, -6)]),
            )
            at = beat + turn * (offset + 0.02 * rng.standard_normal())
            _place(x, rate, at, tap, strength * rng.uniform(0.6, 1.1))
    swish = _noise(rng, n, rate, [(150, -10), (600, 0), (2500, -8), (12000, -22)])
    return x + rng.uniform(0.05, 0.15) * swish * (0.35 + 0.65 * np.cos(np.pi * phase) ** 2)


def _washing_machine(rng: np.random.Generator, n: int, rate: int) -> Array:
    turn = rng.uniform(0.75, 1.4)
    start = rng.uniform(0, turn)
    phase = (np.arange(n) / rate - start) / turn
    load = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    motor_hz = _log_uniform(rng, 90, 240) * (1 - 0.02 * load + 0.002 * _drift(rng, n, rate, 6))
    motor = _harmonics(rng, rate, motor_hz, rng.uniform(0.1, 1.0, 14) / np.arange(1, 15) ** 0.7)
    hull = _noise(rng, n, rate, [(40, 0), (120, 3), (500, -6), (2500, -18), (10000, -36)])
    slosh = _noise(rng, n, rate, [(120, -12), (500, 0), (1800, -4), (8000, -22)])
    x = 0.25 * _unit(motor) * (0.75 + 0.25 * load) + 0.25 * hull
    x += rng.uniform(0.4, 0.8) * slosh * load**3 * (1 + 0.3 * _drift(rng, n, rate, 15))
    thump = rng.uniform(45, 75)
    for beat in np.arange(start + 0.62 * turn, start + n / rate, turn):
        # Laundry lifted by the drum's ribs falls back once a turn.
        fall = _sum(
            _ring(rng, rate, thump * np.array([1, 1.7, 2.9, 4.4]), [0.3, 0.22, 0.14, 0.08], [3, 2, 1.2, 0.8]),
            _burst(rng, rate, 0.25, [(80, 0), (600, -3), (3000, -16), (12000, -34)], attack=0.02),
        )
        _place(x, rate, beat + 0.02 * turn * rng.standard_normal(), fall, rng.uniform(0.7, 1.1))
    return x


def _engine(rng: np.random.Generator, n: int, rate: int) -> Array:
    idle = rng.uniform(19, 36)
    hz = idle * (1 + 0.012 * _drift(rng, n, rate, 2))
    pulses = _firing(rng, n, rate, hz, int(rng.choice([3, 4, 6])), 0.12)
    pipe = [rng.uniform(55, 110), rng.uniform(140, 260), rng.uniform(320, 600), rng.uniform(800, 1500)]
    exhaust = _resonate(pulses, rate, pipe, rng.uniform(2, 4), [1.0, -0.8, 0.5, -0.3])
    # Turbulence in the pipe and reflections off the ground spread each pulse.
    spread = _burst(rng, rate, _log_uniform(rng, 0.03, 0.12), [(80, 0), (1500, -4), (8000, -16)], attack=0.002)
    exhaust = 0.4 * _unit(exhaust) + _unit(_convolve(exhaust, spread))
    valves = _resonate(pulses, rate, list(rng.uniform(1800, 5500, 3)), 8, [1.0, -0.8, 0.6])
    clatter = _noise(rng, n, rate, [(200, -3), (1200, 0), (4000, -12), (15000, -32)])
    pulse = 0.3 + _unit(_convolve(np.abs(pulses), np.exp(-np.arange(rate // 20) / (0.012 * rate))))
    return _unit(exhaust) + rng.uniform(0.03, 0.15) * _unit(valves) + rng.uniform(0.1, 0.25) * clatter * pulse


def _chainsaw(rng: np.random.Generator, n: int, rate: int) -> Array:
    # The throttle opens and closes: idle at a third of the working speed.
    throttle = 1 / (1 + np.exp(-5 * (_drift(rng, n, rate, 0.6) + rng.uniform(0.2, 1.6))))
    work = _log_uniform(rng, 80, 180)
    hz = work * (0.4 + 0.6 * throttle) * (1 + 0.01 * _drift(rng, n, rate, 8))
    pulses = _firing(rng, n, rate, hz, 2, 0.1)
    muffler = [rng.uniform(100, 320), rng.uniform(420, 700), rng.uniform(900, 1600), rng.uniform(2200, 3600)]
    tone = _resonate(pulses, rate, muffler, rng.uniform(1.5, 3), [1.0, -0.9, 0.7, -0.5])
    spread = _burst(
        rng, rate, _log_uniform(rng, 0.02, 0.06), [(80, 3), (600, 0), (5000, -6), (14000, -20)], attack=0.001
    )
    tone = 0.5 * _unit(tone) + _unit(_convolve(tone, spread))
    chain = _noise(rng, n, rate, [(200, -10), (1200, -2), (3500, 0), (8000, -6), (16000, -20)])
    return (_unit(tone) + rng.uniform(0.3, 0.7) * (0.3 + 0.7 * throttle) * chain) * (0.45 + 0.55 * throttle)


def _helicopter(rng: np.random.Generator, n: int, rate: int) -> Array:
    blade = rng.uniform(10, 19)
    hz = blade * (1 + 0.003 * _drift(rng, n, rate, 1))
    phase = _phase(rng, rate, hz)
    beats = _crossings(phase, rate)
    slap = _ring(
        rng, rate, rng.uniform(45, 90) * np.array([1, 1.9, 3.1, 4.6]), [0.09, 0.07, 0.05, 0.03], [2, 1.2, 0.6, 0.25]
    )
    thumps = _convolve(_impulses(n, rate, beats, 1 + 0.1 * rng.standard_normal(len(beats))), slap)
    tilt = rng.uniform(-7, 4)
    # Each blade sweeps its noise past the listener, so the hiss pulses with the slap.
    sweep = rng.uniform(0.2, 1.0) + np.exp(-3.5 * (phase % 1.0))
    wash = (
        _noise(rng, n, rate, [(60, 0), (300, 0), (1200, tilt - 5), (4000, 2 * tilt - 10), (14000, 2 * tilt - 24)])
        * sweep
    )
    tail = _harmonics(rng, rate, hz * rng.uniform(4.5, 6.0), rng.uniform(0.2, 1.0, 12) / np.arange(1, 13) ** 0.6)
    turbine = _harmonics(rng, rate, rng.uniform(2500, 4500) * (1 + 0.001 * _drift(rng, n, rate, 2)), [0.5, 1.0, 0.3])
    x = (
        rng.uniform(0.6, 1.0) * _unit(thumps)
        + rng.uniform(0.4, 0.9) * _unit(wash)
        + rng.uniform(0.15, 0.6) * _unit(tail)
    )
    x += rng.uniform(0.0, 0.03) * turbine
    return x * 10 ** (rng.uniform(-9, 9) * np.linspace(-0.5, 0.5, n) / 20)


def _hand_saw(rng: np.random.Generator, n: int, rate: int) -> Array:
    stroke = rng.uniform(0.45, 1.0)
    phase = np.arange(n) / rate / stroke + rng.uniform() + 0.03 * _drift(rng, n, rate, 1)
    speed = np.sin(2 * np.pi * phase)
    push = np.abs(speed) ** 0.8 * np.where(speed > 0, 1.0, rng.uniform(0.25, 0.6))
    # Teeth meet the wood at a rate that goes with the blade's speed.
    teeth_hz = 20 + rng.uniform(120, 320) * np.abs(speed)
    times = _crossings(_phase(rng, rate, teeth_hz), rate)
    bites = _impulses(n, rate, times + 0.0006 * rng.uniform(size=len(times)), rng.uniform(0.3, 1.0, len(times)))
    board = np.sort(rng.uniform(250, 900, 2)).tolist() + np.sort(rng.uniform(1200, 5500, 3)).tolist()
    wood = _resonate(bites, rate, board, 5, [0.5, 0.6, 1.0, 0.9, 0.7])
    blade = _noise(rng, n, rate, [(300, -18), (1500, -2), (4000, 0), (9000, -4), (16000, -14)])
    return push * (_unit(wood) + rng.uniform(0.5, 1.0) * blade)


def _vacuum_cleaner(rng: np.random.Generator, n: int, rate: int) -> Array:
    nozzle = np.sin(2 * np.pi * (np.arange(n) / rate / rng.uniform(1.5, 3.5) + rng.uniform()))
    load = 0.6 * nozzle + 0.4 * _drift(rng, n, rate, 1)
    hz = _log_uniform(rng, 320, 640) * (1 + rng.uniform(0.002, 0.012) * load)
    whine = _harmonics(rng, rate, hz, rng.uniform(0.2, 1.0, 18) / np.arange(1, 19) ** 0.5)
    air = _noise(rng, n, rate, [(80, -14), (300, -2), (1200, 0), (4000, -4), (9000, -10), (18000, -24)])
    hose = _resonate(air, rate, [rng.uniform(500, 1100), rng.uniform(1800, 3500)], 4, [1.0, 0.7])
    return (0.8 * _unit(air) + 0.5 * _unit(hose)) * (1 + 0.08 * load) + rng.uniform(0.25, 0.6) * _unit(whine)


def _air_conditioner(rng: np.random.Generator, n: int, rate: int) -> Array:
    slope = rng.uniform(-3, 3)
    flow = _noise(
        rng, n, rate, [(30, -4), (90, 0), (300, -6), (1000, -14 + slope), (4000, -26 + 2 * slope), (14000, -48)]
    )
    blade = rng.uniform(90, 260) * (1 + 0.001 * _drift(rng, n, rate, 1))
    fan = _harmonics(rng, rate, blade, rng.uniform(0.2, 1.0, 6) / np.arange(1, 7) ** 1.2)
    mains = float(rng.choice([50.0, 60.0]))
    hum = _harmonics(rng, rate, np.full(n, 2 * mains), rng.uniform(0.1, 1.0, 5) / np.arange(1, 6))
    return flow + rng.uniform(0.1, 0.3) * _unit(fan) + rng.uniform(0.05, 0.25) * _unit(hum)


def _mains_hum(rng: np.random.Generator, n: int, rate: int) -> Array:
    mains = float(rng.choice([50.0, 60.0]))
    count = int(rng.integers(16, 40))
    order = np.arange(1, count + 1)
    # A transformer's core is pulled twice a cycle, so the even harmonics lead.
    gains = rng.lognormal(0, 0.7, count) / order ** rng.uniform(0.5, 1.3) * np.where(order % 2, 0.35, 1.0)
    hum = _harmonics(rng, rate, mains * (1 + 0.0003 * _drift(rng, n, rate, 0.5)), gains)
    hiss = _noise(rng, n, rate, [(50, -6), (1000, 0), (8000, -6), (18000, -14)])
    return _unit(hum) * (1 + 0.01 * _drift(rng, n, rate, 1)) + _log_uniform(rng, 0.005, 0.03) * hiss


def _clock_alarm(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    if rng.uniform() < 0.3:
        bells = [_log_uniform(rng, 900, 2200) * ratio for ratio in (1.0, rng.uniform(1.05, 1.2))]
        rings = [
            _ring(rng, rate, bell * np.array([1, 1.51, 2.0, 2.74, 3.76, 5.1]), np.linspace(0.5, 0.15, 6), 1.0)
            for bell in bells
        ]
        for i, beat in enumerate(_beats(rng, n / rate, 1 / rng.uniform(14, 26), 0.03)):
            _place(x, rate, beat, rings[i % 2], rng.uniform(0.7, 1.0))
        return x
    pitch = _log_uniform(rng, 900, 3600)
    length = rng.uniform(0.05, 0.11)
    count = int(rng.integers(1, 5))
    pause = rng.uniform(0.2, 0.6)
    m = int(length * rate)
    # A piezo buzzer driven by a square wave: odd harmonics.
    gains = rng.uniform(0.4, 1.0, 9) / np.arange(1, 10) * (np.arange(1, 10) % 2)
    edge = np.minimum(np.minimum(np.arange(m), np.arange(m)[::-1]) / (0.003 * rate), 1.0)
    beep = _harmonics(rng, rate, np.full(m, pitch), gains) * edge
    for beat in _beats(rng, n / rate, 2 * count * length + pause):
        for i in range(count):
            _place(x, rate, beat + 2 * i * length, beep)
    return x


def _rain(rng: np.random.Generator, n: int, rate: int) -> Array:
    tilt = rng.uniform(-14, 4)
    sheet = _noise(
        rng, n, rate, [(60, -tilt - 7), (400, -4 - tilt / 2), (2000, -1), (5500, 0), (10000, -3), (18000, -9)]
    )
    drops = _scatter(rng, n / rate, _log_uniform(rng, 150, 1500))
    strikes = _impulses(
        n, rate, drops, np.minimum(rng.lognormal(0, 0.6, len(drops)), 4.0) * rng.choice([-1, 1], len(drops))
    )
    surface = _resonate(strikes, rate, list(rng.uniform(900, 7000, 4)), 3, [1.0, 0.9, 0.8, 0.7])
    return sheet * (1 + 0.05 * _drift(rng, n, rate, 1)) + rng.uniform(0.15, 0.5) * _unit(surface)


def _running_water(rng: np.random.Generator, n: int, rate: int) -> Array:
    body = _log_uniform(rng, 350, 900)
    jet = _noise(rng, n, rate, [(80, -20), (body, -2), (3 * body, 0), (6000, -8), (16000, -22)])
    x = np.zeros(n)
    for time in _scatter(rng, n / rate, rng.uniform(70, 140)):
        bubble = _chirp(rate, _log_uniform(rng, body, 5 * body), rng.uniform(1.0, 1.5), rng.uniform(0.01, 0.04))
        _place(x, rate, time, bubble, rng.lognormal(0, 0.5))
    basin = _resonate(jet, rate, [0.5 * body, body], 6, [0.8, 0.6])
    level = 1 + 0.05 * _drift(rng, n, rate, 3)
    return level * (0.7 * jet + rng.uniform(0.3, 0.8) * _unit(basin)) + rng.uniform(0.5, 1.0) * _unit(x)


def _wind(rng: np.random.Generator, n: int, rate: int) -> Array:
    gust = np.exp(rng.uniform(0.35, 0.7) * _drift(rng, n, rate, 0.7))
    rumble = _noise(rng, n, rate, [(20, 4), (80, 0), (250, -10), (800, -26), (4000, -50), (15000, -70)])
    howl_hz = _log_uniform(rng, 220, 600) * gust**0.5
    # Noise a few tens of hertz wide, moved up to the pitch that the gust sets.
    width = rng.uniform(25, 80)
    narrow = _drift(rng, n, rate, width) + 1j * _drift(rng, n, rate, width)
    howl = (narrow * np.exp(2j * np.pi * _phase(rng, rate, howl_hz))).real
    leaves = _noise(rng, n, rate, [(300, -16), (1500, -2), (4000, 0), (9000, -8), (18000, -24)])
    return gust * rumble + rng.uniform(0.05, 0.35) * gust**2 * howl + rng.uniform(0.03, 0.15) * gust**1.5 * leaves


def _sea_waves(rng: np.random.Generator, n: int, rate: int) -> Array:
    t = np.arange(n) / rate
    period = rng.uniform(2.0, 8.0)
    swell = np.zeros(n)
    for beat in np.arange(rng.uniform(-period, 0), n / rate, period * rng.uniform(0.85, 1.15)):
        rise, fall = rng.uniform(0.4, 1.2), rng.uniform(1.0, 2.5)
        since = t - beat - 2 * rise
        swell += rng.uniform(0.5, 1.0) * np.where(
            since < 0, np.exp(-((since / rise) ** 2)), np.exp(-np.maximum(since, 0) / fall)
        )
    flutter = 1 + 0.15 * _drift(rng, n, rate, 12)
    surf = _noise(rng, n, rate, [(50, -4), (200, 0), (800, -2), (2500, -10), (8000, -22), (18000, -40)])
    foam = _noise(rng, n, rate, [(300, -20), (1500, -4), (4000, 0), (9000, -6), (18000, -18)])
    far = _noise(rng, n, rate, [(40, 0), (300, -3), (1200, -12), (6000, -30), (16000, -50)])
    quiet = rng.uniform(0.15, 0.4)
    return surf * (0.15 + swell) * flutter + rng.uniform(0.2, 0.5) * foam * swell**1.6 + quiet * far


def _crackling_fire(rng: np.random.Generator, n: int, rate: int) -> Array:
    draught = _noise(rng, n, rate, [(20, 6), (70, 0), (300, -14), (1200, -26), (6000, -34), (16000, -44)])
    x = rng.uniform(0.05, 0.14) * draught * np.exp(0.3 * _drift(rng, n, rate, 4))
    cracks = _scatter(rng, n / rate, _log_uniform(rng, 6, 30))
    for crack in cracks:
        # Wood splits in runs of small snaps.
        for snap in crack + np.r_[0.0, np.cumsum(rng.exponential(0.006, int(rng.integers(0, 4))))]:
            click = _burst(
                rng, rate, _log_uniform(rng, 0.003, 0.02), [(300, -14), (2500, -2), (7000, 0), (18000, -6)], 0.0002
            )
            _place(x, rate, snap, click, min(0.12 * (1 + rng.pareto(1.3)), 3.0))
    for pop in _scatter(rng, n / rate, 0.6):
        knock = _sum(
            _ring(rng, rate, rng.uniform(250, 1200, 4), 0.05, 0.8), _burst(rng, rate, 0.02, [(300, -6), (3000, 0)])
        )
        _place(x, rate, pop, knock, rng.uniform(0.5, 2.0))
    return x


def _dog(rng: np.random.Generator, n: int, rate: int) -> Array:
    x = np.zeros(n)
    size = _log_uniform(rng, 0.7, 1.9)
    pitch = 480 / size
    length = rng.uniform(0.11, 0.2) * size**0.4
    gap = length + rng.uniform(0.1, 0.3)
    count = int(rng.integers(1, 4))
    rough = rng.uniform(0.2, 0.7)
    for group in _beats(rng, n / rate, count * gap + rng.uniform(0.3, 1.2), 0.05):
        for i in range(count):
            m = int(length * rng.uniform(0.85, 1.15) * rate)
            u = np.arange(m) / m
            hz = pitch * rng.uniform(0.92, 1.08) * (0.75 + 0.6 * np.sin(np.pi * u**0.6) ** 1.5)
            hz *= 1 + 0.02 * rough * _drift(rng, m, rate, 120)
            voice = _harmonics(rng, rate, hz, np.arange(1, int(9000 / pitch)) ** -0.5)
            breath = _noise(rng, m, rate, [(300, -6), (1500, 0), (6000, -6), (16000, -24)])
            envelope = (
                np.minimum(u / 0.12, 1.0) * np.exp(-3.0 * np.maximum(u - 0.25, 0)) * np.minimum((1 - u) / 0.25, 1.0)
            )
            bark = (_unit(voice) + rough * breath) * envelope
            _place(x, rate, group + i * gap * rng.uniform(0.95, 1.05), bark, rng.uniform(0.6, 1.0))
    throat = np.array([520, 1150, 2100, 3400, 5200]) / size**0.6 * rng.uniform(0.92, 1.08, 5)
    return _resonate(x, rate, list(throat), 3.5, [1.0, 0.9, 0.45, 0.25, 0.1])


_SOURCES: dict[str, tuple[Source, bool]] = {
    # kind: (source, whether it is heard in a room)
    "air_conditioner": (_air_conditioner, True),
    "chainsaw": (_chainsaw, False),
    "chopping": (_chopping, True),
    "clock_alarm": (_clock_alarm, True),
    "clock_tick": (_clock_tick, True),
    "crackling_fire": (_crackling_fire, False),
    "dog": (_dog, False),
    "door_wood_knock": (_door_wood_knock, True),
    "engine": (_engine, False),
    "footsteps": (_footsteps, True),
    "hammering": (_hammering, True),
    "hand_saw": (_hand_saw, True),
    "helicopter": (_helicopter, False),
    "keyboard_typing": (_keyboard_typing, True),
    "mains_hum": (_mains_hum, True),
    "rain": (_rain, False),
    "running_water": (_running_water, True),
    "sea_waves": (_sea_waves, False),
    "stirring": (_stirring, True),
    "train": (_train, False),
    "vacuum_cleaner": (_vacuum_cleaner, True),
    "washing_machine": (_washing_machine, True),
    "water_drops": (_water_drops, True),
    "wind": (_wind, False),
}
KINDS = tuple(_SOURCES)
"""Names of all kinds, in the order of the alphabet."""
