"""The masking model against published tables and a second implementation; audibility against closed forms and peers."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import mir_eval
import numpy as np
import pyloudnorm
import pytest
import torch
import torchaudio

from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics import audibility
from blendbench.metrics.audibility import (
    FACTS,
    audible_noise_to_mask_ratio,
    chroma,
    chroma_fit,
    disturbed_frames,
    level_difference,
    loudness_range,
    masked_bands,
    masked_share,
    masked_share_core,
    measure,
    noise_core,
    onset_agreement,
    onsets,
    smr_share,
)
from blendbench.sound import audio, files
from blendbench.sound.masking_model import (
    CRITICAL_BAND_EDGES,
    band_energies,
    band_tonality,
    bark,
    ear_weighting,
    internal_noise,
    masked_threshold,
    noise_to_mask_ratio,
    quiet_threshold,
    spectra,
    spreading_function,
    threshold_in_quiet,
)
from blendbench.sound.mel import mel_amplitudes
from blendbench.tasks.blend import masking

RATE = 44_100


def _white(seconds: float = 1.0, level_db: float = -20.0, seed: int = 0) -> torch.Tensor:
    """White noise of a mean square in dB; RandomState's stream never changes."""
    values = np.random.RandomState(seed).randn(round(seconds * RATE))
    return torch.from_numpy(values / np.sqrt(np.mean(values**2))) * audio.from_db(level_db)


def _tone(frequency: float, seconds: float = 1.0, level_db: float = -20.0) -> torch.Tensor:
    """Sine of a mean square in dB."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return math.sqrt(2) * audio.from_db(level_db) * torch.sin(2 * math.pi * frequency * time)


def _pink(seconds: float, seed: int) -> torch.Tensor:
    spectrum = torch.fft.rfft(_white(seconds, seed=seed))
    spectrum[1:] /= torch.arange(1, len(spectrum)).sqrt()
    spectrum[0] = 0
    return torch.fft.irfft(spectrum, n=round(seconds * RATE))


def _low_passed(waveform: torch.Tensor, limit: float) -> torch.Tensor:
    spectrum = torch.fft.rfft(waveform)
    spectrum[round(limit * len(waveform) / RATE) :] = 0
    return torch.fft.irfft(spectrum, n=len(waveform))


def _hits(times: list[float], seconds: float = 5.0, seed: int = 0) -> torch.Tensor:
    """Decaying bursts of noise that begin at the given times."""
    waveform = torch.zeros(round(seconds * RATE), dtype=torch.float64)
    time = torch.arange(round(0.2 * RATE), dtype=torch.float64) / RATE
    for index, start in enumerate(times):
        first = round(start * RATE)
        waveform[first : first + len(time)] += _white(0.2, seed=seed + index) * torch.exp(-time / 0.03)
    return waveform


def _db(power: torch.Tensor) -> torch.Tensor:
    return 10 * power.log10()


def _bands(noise: torch.Tensor, music: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return band_energies(spectra(noise)), masked_threshold(spectra(music))


def _band_of(frequency: float) -> int:
    return int(np.searchsorted(CRITICAL_BAND_EDGES, frequency, side="right")) - 1


# The scales


def test_the_bark_scale_counts_zwickers_critical_bands() -> None:
    rate = bark(torch.tensor(CRITICAL_BAND_EDGES, dtype=torch.float64))
    assert torch.allclose(rate, torch.arange(25, dtype=torch.float64), atol=0.2)


@pytest.mark.parametrize(
    ("frequency", "published", "tolerance"),
    # Hearing threshold of ISO 226:2003, table 1. Terhardt's fit is coarse below 50 Hz and above 6 kHz.
    [(31.5, 59.5, 2), (63, 37.5, 5), (125, 22.1, 3), (250, 11.4, 1), (500, 4.4, 2.5), (1000, 2.4, 1), (2000, -1.3, 2),
     (3150, -6.0, 3), (4000, -5.4, 2.5), (5000, -1.5, 2.5), (8000, 12.6, 8), (12500, 12.3, 13)],
)  # fmt: skip
def test_the_threshold_in_quiet_is_the_standards(frequency: float, published: float, tolerance: float) -> None:
    assert float(threshold_in_quiet(torch.tensor(float(frequency)))) == pytest.approx(published, abs=tolerance)


def test_the_threshold_in_quiet_is_terhardts_formula() -> None:
    at = threshold_in_quiet(torch.tensor([1000.0, 3300.0], dtype=torch.float64))
    expected = [3.64 - 6.5 * math.exp(-0.6 * 2.3**2) + 0.001, 3.64 / 3.3**0.8 - 6.5 + 0.001 * 3.3**4]
    assert at.tolist() == pytest.approx(expected, abs=1e-12)
    frequencies = torch.linspace(20, 15_000, 5000, dtype=torch.float64)
    assert 3000 < float(frequencies[threshold_in_quiet(frequencies).argmin()]) < 3600


def test_ear_weighting_and_internal_noise_make_up_the_threshold_in_quiet() -> None:
    frequencies = torch.linspace(20, 15_500, 100, dtype=torch.float64)
    torch.testing.assert_close(
        internal_noise(frequencies) - ear_weighting(frequencies), threshold_in_quiet(frequencies)
    )
    assert float(ear_weighting(torch.zeros(1))) == -math.inf


def test_spreading_falls_by_25_db_a_bark_below_the_masker_and_by_10_above() -> None:
    at = spreading_function(torch.tensor([-20.0, -19.0, 0.0, 19.0, 20.0], dtype=torch.float64))
    assert float(at[2]) == pytest.approx(0, abs=0.01)
    assert float(at[1] - at[0]) == pytest.approx(25, abs=0.1)
    assert float(at[3] - at[4]) == pytest.approx(10, abs=0.1)


# Calibration


@pytest.mark.parametrize("frequency", [150, 1000, 4000, 9000])
def test_a_tone_at_the_reference_loudness_has_the_playback_level(frequency: float) -> None:
    energies = band_energies(spectra(_tone(frequency, level_db=-18.0)), playback_db_spl=65.0)
    expected = 65.0 + float(ear_weighting(torch.tensor(float(frequency), dtype=torch.float64)))
    assert float(_db(energies.sum(0)).mean()) == pytest.approx(expected, abs=0.15)
    assert int(energies.mean(1).argmax()) == _band_of(frequency)


def test_the_reference_loudness_is_that_of_the_meter() -> None:
    # At 997 Hz LUFS are the mean square in dB, but for the meter's rounding of its K-weighting.
    assert audio.integrated_loudness(_tone(997, 3.0, -18.0), RATE) == pytest.approx(-18, abs=0.05)


def test_white_noise_has_energy_in_proportion_to_bandwidth() -> None:
    energies = band_energies(spectra(_white(20.0, level_db=0.0)), playback_db_spl=-18.0).mean(1)
    edges = torch.tensor(CRITICAL_BAND_EDGES, dtype=torch.float64)
    width = edges.diff()
    centres = (edges[1:] + edges[:-1]) / 2
    plain = energies[2:20] / 10 ** (ear_weighting(centres[2:20]) / 10)
    torch.testing.assert_close(plain, width[2:20] / (RATE / 2), rtol=0.08, atol=0)


def test_a_tone_is_heard_alone_from_the_threshold_in_quiet_on() -> None:
    for frequency in (150.0, 1000.0, 3400.0, 8500.0):
        threshold = float(threshold_in_quiet(torch.tensor(frequency, dtype=torch.float64)))
        for above, heard in ((-1.5, False), (1.5, True)):
            energies = band_energies(spectra(_tone(frequency, level_db=threshold + above - 88.0)))
            assert bool((energies > quiet_threshold()).any()) is heard


# Tonality


def test_noise_is_noise_and_tones_are_tones_in_every_band() -> None:
    assert float(band_tonality(spectra(_white(5.0))).mean(1).max()) < 0.02
    for frequency in (80, 150, 450, 1000, 2500, 6000, 10_000, 13_000):
        assert float(band_tonality(spectra(_tone(frequency)))[_band_of(frequency)].min()) == pytest.approx(1, abs=1e-6)
    assert float(band_tonality(spectra(torch.zeros(RATE))).max()) == 0


def test_music_without_treble_is_not_taken_for_a_tone() -> None:
    # What is made from 10 kHz mel images. Its whole spectrum is as peaked as a tone's to Johnston's flatness measure.
    spectrum = spectra(_low_passed(_white(3.0), 10_000))
    power = spectrum.abs().square().clamp_min(1e-20)
    flatness = 10 * (power.log10().mean(1) - power.mean(1).log10())
    assert float((flatness / -60).clamp(max=1).mean()) > 0.8
    assert float(band_tonality(spectrum)[:22].mean()) < 0.01


# Masking


def _reference_threshold(waveform: np.ndarray, playback: float) -> np.ndarray:
    """The model once more, frame by frame as the standards write it, in [bands, frames]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    count = 1 + (len(waveform) - 2048) // 1024
    frequencies = np.arange(1025) * RATE / 2048
    ear = np.zeros(1025)
    khz = frequencies[1:] / 1000
    ear[1:] = 10 ** ((-0.6 * 3.64 * khz**-0.8 + 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) - 0.001 * khz**4) / 10)
    spectrum = np.array([np.fft.fft(waveform[1024 * n : 1024 * n + 2048] * window)[:1025] for n in range(count)])
    magnitude, phase = np.abs(spectrum), np.angle(spectrum)
    out = np.zeros((24, count))
    smoothed = np.zeros(24)
    tonality = np.zeros((24, count))
    shares = np.zeros((24, 1025))
    for band in range(24):
        for index in range(1025):
            low = max(CRITICAL_BAND_EDGES[band], frequencies[index] - RATE / 4096)
            high = min(CRITICAL_BAND_EDGES[band + 1], frequencies[index] + RATE / 4096)
            shares[band, index] = max(0.0, high - low) / (RATE / 2048)
    for n in range(2, count):
        r, f = 2 * magnitude[n - 1] - magnitude[n - 2], 2 * phase[n - 1] - phase[n - 2]
        away = np.hypot(
            magnitude[n] * np.cos(phase[n]) - r * np.cos(f), magnitude[n] * np.sin(phase[n]) - r * np.sin(f)
        )
        chaos = away / (magnitude[n] + np.abs(r))
        weighted = shares @ (chaos * magnitude[n] ** 2) / (shares @ magnitude[n] ** 2)
        tonality[:, n] = np.clip(-0.299 - 0.43 * np.log(weighted), 0, 1)
    tonality[:, :2] = tonality[:, 2:3]
    for n in range(count):
        power = 2 * magnitude[n] ** 2 / (2048 * np.sum(window**2))
        energy = shares @ (power * ear) * 10 ** ((playback + 18) / 10)
        for maskee in range(24):
            excitation = weights = 0.0
            for masker in range(24):
                shifted = maskee - masker + 0.474
                spread = 10 ** ((15.81 + 7.5 * shifted - 17.5 * math.sqrt(1 + shifted**2)) / 10)
                tonal = tonality[masker, n]
                offset = tonal * (14.5 + masker + 1) + (1 - tonal) * 5.5
                excitation += spread * energy[masker] / 10 ** (offset / 10)
                weights += spread
            centre = (CRITICAL_BAND_EDGES[maskee] + CRITICAL_BAND_EDGES[maskee + 1]) / 2
            constant = min(0.03, 0.008 + 100 / centre * 0.022)
            decay = math.exp(-1024 / RATE / constant)
            smoothed[maskee] = decay * smoothed[maskee] + (1 - decay) * excitation / weights
            quiet = 10 ** (0.4 * 3.64 * (centre / 1000) ** -0.8 / 10)
            out[maskee, n] = max(smoothed[maskee], excitation / weights, quiet)
    return out


@pytest.mark.parametrize("kind", ["white", "tones", "hits"])
def test_the_threshold_agrees_with_a_second_implementation(kind: str) -> None:
    waveform = {
        "white": _white(0.5),
        "tones": _tone(440, 0.5) + _tone(3000, 0.5, -40) + _white(0.5, -50.0),
        "hits": _hits([0.1, 0.3], 0.6) + _white(0.6, -80.0),
    }[kind]
    expected = _reference_threshold(waveform.numpy(), 72.0)
    np.testing.assert_allclose(masked_threshold(spectra(waveform), 72.0).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("frequency", [250, 1000, 3400, 8500])
def test_a_tone_masks_noise_in_its_band_14_5_db_and_the_band_number_below(frequency: float) -> None:
    energies, threshold = _bands(_tone(frequency), _tone(frequency))
    band = _band_of(frequency)
    below = float(_db(energies[band] / threshold[band]).mean())
    # Renormalising takes what the masker gives its neighbours, about 2 dB, from its own band.
    assert 0 <= below - (14.5 + band + 1) <= 2.5


def test_noise_masks_tones_4_to_6_db_below_its_level_in_the_band() -> None:
    energies, threshold = _bands(_white(5.0), _white(5.0))
    below = _db(energies / threshold).mean(1)[1:22]
    assert float(below.min()) > 4 and float(below.max()) < 6
    assert float(below.mean()) == pytest.approx(5.5, abs=0.3)


def test_masking_reaches_further_upwards_than_downwards() -> None:
    threshold = _db(masked_threshold(spectra(_tone(1000, level_db=-10)))).mean(1)
    band = _band_of(1000)
    for distance in (1, 2, 3):
        assert float(threshold[band + distance] - threshold[band - distance]) > 2.5 * distance
    quiet = _db(quiet_threshold())[:, 0]
    assert float(threshold[band + 1] - quiet[band + 1]) > 30


def test_an_octave_up_is_free_at_a_moderate_level_and_not_at_a_high_one() -> None:
    octave = _band_of(2050)
    assert float(masked_threshold(spectra(_tone(1000, level_db=-38)))[octave].max()) == float(quiet_threshold()[octave])
    assert float(masked_threshold(spectra(_tone(1000, level_db=2)))[octave].min()) > 10 * float(
        quiet_threshold()[octave]
    )


def test_louder_music_masks_more() -> None:
    noise, music = _white(2.0), _hits([0.2, 0.7, 1.4], 2.0, seed=5) + _tone(330, 2.0)
    results = [_bands(noise, music * audio.from_db(gain)) for gain in (-60, -20, 0, 6, 20, 40)]
    assert all(bool((a[1] <= b[1]).all()) for a, b in itertools.pairwise(results))
    for better in (masked_share, masked_bands):
        values = [better(*result) for result in results]
        assert values == sorted(values) and values[0] < values[-1]
    ratios = [noise_to_mask_ratio(*result) for result in results]
    assert ratios == sorted(ratios, reverse=True)


def test_a_common_gain_changes_nothing_far_above_the_threshold_in_quiet() -> None:
    noise, music = _pink(2.0, 1) * 10, _pink(2.0, 2) * 10
    first, second = _bands(noise, music), _bands(noise * audio.from_db(10), music * audio.from_db(10))
    assert noise_to_mask_ratio(*first) == pytest.approx(noise_to_mask_ratio(*second), abs=0.05)
    assert masked_share(*first) == pytest.approx(masked_share(*second), abs=0.005)


def test_masking_lasts_after_the_masker_and_longer_in_the_bass() -> None:
    music = torch.zeros(RATE, dtype=torch.float64)
    music[8192:24_576] = _white(1.0)[8192:24_576]
    excess = _db(masked_threshold(spectra(music)) / quiet_threshold())
    # Frame n spans samples 1024 n to 1024 n + 2048: 7 is the first to touch the music, 23 the last.
    assert float(excess[:, 6].max()) == 0
    assert float(excess[1:22, 24].min()) > 10
    fall = excess[:, 24] - excess[:, 25]
    # 23 ms at time constants of 23 ms (150 Hz) and 8 ms (7 kHz), in dB of power.
    assert float(fall[1]) == pytest.approx(4.4, abs=0.1) and float(fall[20]) == pytest.approx(12.1, abs=0.4)
    backwards = _db(masked_threshold(spectra(music.flip(0))) / quiet_threshold())
    assert float(backwards[:, : (RATE - 24_576) // 1024 - 2].max()) == 0


def test_a_click_after_music_is_masked_where_one_before_it_is_not() -> None:
    music = torch.zeros(RATE, dtype=torch.float64)
    music[16_384:32_768] = _tone(150, 1.0, -10.0)[16_384:32_768] + _white(1.0, -20.0)[16_384:32_768]
    click = _low_passed(_white(256 / RATE, -20.0), 300)
    shares = []
    # 52 ms away, so that no frame holds of both.
    for start in (16_384 - 2304 - 256, 32_768 + 2304):
        noise = torch.zeros(RATE, dtype=torch.float64)
        noise[start : start + 256] = click
        shares.append(masked_share(*_bands(noise, music)))
    assert shares[0] < 0.1 and shares[1] > 0.8


# Audibility from band energies


def _random_bands(seed: int = 0, frames: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.RandomState(seed)
    energies = quiet_threshold() * 10 ** torch.from_numpy(random.randn(24, frames))
    return energies, quiet_threshold() * 10 ** torch.from_numpy(np.abs(random.randn(24, frames)))


def test_the_ratios_and_shares_are_sums_over_bands_and_frames() -> None:
    energies, threshold = _random_bands()
    quiet = quiet_threshold()[:, 0]
    frame_means, disturbed, audible, masked_energy, alone, hidden = [], [], [], 0.0, 0, 0
    for n in range(energies.shape[1]):
        ratios = [float(energies[k, n] / threshold[k, n]) for k in range(24)]
        if any(energies[k, n] > quiet[k] for k in range(24)):
            frame_means.append(sum(ratios) / 24)
            disturbed.append(10 * math.log10(max(ratios)) >= 1.5)
        audible += [10 * math.log10(ratio) for ratio in ratios if ratio > 1]
        for k in range(24):
            masked_energy += float(energies[k, n]) * (ratios[k] <= 1)
            alone += bool(energies[k, n] > quiet[k])
            hidden += bool(energies[k, n] > quiet[k]) and ratios[k] <= 1
    bands = energies, threshold
    assert noise_to_mask_ratio(*bands) == pytest.approx(10 * math.log10(sum(frame_means) / len(frame_means)), rel=1e-12)
    assert audible_noise_to_mask_ratio(*bands) == pytest.approx(sum(audible) / len(audible), rel=1e-12)
    assert disturbed_frames(*bands) == sum(disturbed) / len(disturbed)
    assert masked_share(*bands) == pytest.approx(masked_energy / float(energies.sum()), rel=1e-12)
    assert masked_bands(*bands) == hidden / alone


def test_noise_as_its_own_masker_stands_out_by_the_models_offset() -> None:
    bands = _bands(_white(5.0), _white(5.0))
    assert audible_noise_to_mask_ratio(*bands) == pytest.approx(5.5, abs=0.5)
    assert noise_to_mask_ratio(*bands) == pytest.approx(5.3, abs=0.5)
    # Only the lowest and the highest band, whose neighbours are far louder to the ear, are masked.
    assert masked_share(*bands) < 0.02
    louder = _bands(_white(5.0), _white(5.0) * audio.from_db(8))
    assert masked_share(*louder) > 0.99 and noise_to_mask_ratio(*louder) == pytest.approx(5.3 - 8, abs=0.5)
    assert disturbed_frames(*bands) == 1 and disturbed_frames(*louder) < 0.2


def test_silence_masks_nothing_but_what_is_not_heard_alone() -> None:
    silence = torch.zeros(RATE, dtype=torch.float64)
    assert torch.equal(masked_threshold(spectra(silence)), quiet_threshold().expand(24, 42))
    loud = _bands(_white(), silence)
    assert masked_share(*loud) < 1e-3 and masked_bands(*loud) == 0 and disturbed_frames(*loud) == 1
    quiet = _bands(_white(level_db=-110), silence)
    assert masked_share(*quiet) == 1
    for value in (noise_to_mask_ratio, audible_noise_to_mask_ratio, disturbed_frames, masked_bands):
        assert math.isnan(value(*quiet))


def test_padding_with_silence_does_not_make_noise_less_audible() -> None:
    noise, music = _white(2.0), _white(4.0, -10.0, seed=3)
    padded = torch.cat([noise, torch.zeros(2 * RATE, dtype=torch.float64)])
    whole, half = _bands(padded, music), _bands(noise, music[: 2 * RATE])
    assert noise_to_mask_ratio(*whole) == pytest.approx(noise_to_mask_ratio(*half), abs=0.15)
    assert masked_share(*whole) == pytest.approx(masked_share(*half), abs=0.01)


# The core


def test_pixels_of_the_core_belong_to_their_critical_band() -> None:
    noise = _tone(300, 1.0).float() + _tone(5000, 1.0).float() + 1e-4 * _white().float()
    core = noise_core(mel_amplitudes(noise), 0.02)
    energies = band_energies(spectra(noise))
    threshold = torch.full_like(energies, 1e-9)
    threshold[_band_of(5000)] = 1e12
    # Where the second mel filter bank, torchaudio's, peaks tells which rows lie in the band.
    filters = torchaudio.functional.melscale_fbanks(8821, 0.0, 10_000.0, 512, RATE, norm=None, mel_scale="htk")
    centres = filters.argmax(0) * RATE / 17_640
    rows = (centres >= 4400) & (centres < 5300)
    expected = float(core[rows].sum() / core.sum())
    assert 0.2 < expected < 0.8
    assert masked_share_core(energies, threshold, core) == pytest.approx(expected, abs=0.02)
    assert masked_share_core(energies, threshold * 0, core) == 0
    assert masked_share_core(energies, energies, core) == 1
    assert math.isnan(masked_share_core(energies, threshold, torch.zeros_like(core)))


def test_pixels_of_the_core_belong_to_the_nearest_frame() -> None:
    energies, threshold = torch.ones(24, 42), torch.zeros(24, 42)
    threshold[:, 20] = 1
    core = torch.zeros(512, 101, dtype=torch.bool)
    # Frame 20 is centred on sample 21504, mel frame m on 441 m: 48 and 49 are within half a hop of it, 47 and 50 not.
    for pixel, share in ((47, 0), (48, 1), (49, 1), (50, 0)):
        core[:] = False
        core[100, pixel] = True
        assert masked_share_core(energies, threshold, core) == share


def test_the_core_is_the_loudest_part_lowest_band_first() -> None:
    mel = mel_amplitudes(_tone(300).float() + 1e-3 * _white().float())
    core = noise_core(mel, 0.05)
    assert int(core.sum()) == round(0.05 * mel.numel())
    assert float(mel[core].min()) >= float(mel[~core].max())


def test_the_papers_share_counts_pixels_that_reach_its_ratio() -> None:
    mel = mel_amplitudes(_pink(1.0, 1).float())
    core = noise_core(mel)
    assert smr_share(mel, mel * audio.from_db(21.01), core) == 1
    assert smr_share(mel, mel * audio.from_db(20.99), core) == 0
    assert smr_share(mel, mel * audio.from_db(10.01), core, smr_db=10) == 1
    other = mel_amplitudes(_pink(1.0, 2).float()) * 8
    threshold = masking.masking_threshold(mel)
    assert smr_share(mel, other, core) == pytest.approx(float((other >= threshold)[core].float().mean()), rel=1e-6)


# Levels


@pytest.mark.parametrize(
    ("frequency", "published"),
    # IEC 61672-1, table 3. The window smears the steep slope at its low end.
    [(63, -26.2), (125, -16.1), (250, -8.6), (500, -3.2), (1000, 0.0), (2000, 1.2), (4000, 1.0), (8000, -1.1)],
)
def test_levels_are_a_weighted(frequency: float, published: float) -> None:
    measured = level_difference(spectra(_tone(1000)), spectra(_tone(frequency)))
    assert measured == pytest.approx(published, abs=0.8 if frequency < 100 else 0.25)


def test_the_level_difference_is_the_gain() -> None:
    noise = spectra(_white())
    assert level_difference(noise, noise * audio.from_db(6)) == pytest.approx(6, abs=1e-9)
    assert math.isnan(level_difference(noise, noise * 0))


@pytest.mark.parametrize(
    ("levels", "published"), [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)]
)
def test_the_loudness_range_of_the_standards_test_signals(levels: tuple[int, ...], published: float) -> None:
    # EBU Tech 3342, minimum requirements 1 to 4 (it allows 1 LU): tones at 1 kHz, 20 s a level in dBFS.
    waveform = torch.cat([_tone(1000, 20.0, level - 3.01) for level in levels])
    assert loudness_range(waveform) == pytest.approx(published, abs=0.01)


def test_the_loudness_range_agrees_with_pyloudnorms_blocks() -> None:
    meter = pyloudnorm.Meter(RATE, block_size=3.0)
    if not hasattr(meter, "blockwise_loudness"):
        pytest.skip("pyloudnorm 0.2 shows its blocks")
    meter.overlap = 1 - 0.1 / 3
    envelope = np.repeat(10 ** (np.random.RandomState(0).uniform(-45, 0, 30) / 20), 2 * RATE)
    waveform = _white(60.0).numpy() * envelope
    meter.integrated_loudness(waveform)
    blocks = np.array(meter.blockwise_loudness)
    gated = blocks[blocks >= 10 * np.log10(np.mean(10 ** (blocks / 10))) - 20]
    assert len(gated) < len(blocks)
    low, high = np.percentile(gated, [10, 95])
    assert loudness_range(torch.from_numpy(waveform)) == pytest.approx(high - low, abs=0.05)


def test_the_loudness_range_of_short_and_silent_clips() -> None:
    assert loudness_range(_tone(1000, 5.0)) == pytest.approx(0, abs=1e-9)
    assert math.isnan(loudness_range(_tone(1000, 2.9)))
    assert math.isnan(loudness_range(torch.zeros(5 * RATE)))
    assert not math.isnan(loudness_range(_tone(1000, 3.0)))


# Rhythm


def test_onsets_are_where_sounds_begin() -> None:
    times = [0.5, 1.0, 1.25, 2.0, 3.1, 4.3]
    found = onsets(spectra(_hits(times) + _white(5.0, -70.0)))
    assert len(found) == len(times)
    assert float((found - torch.tensor(times)).abs().max()) < 0.03


def test_steady_sounds_have_no_onsets() -> None:
    for steady in (_white(5.0), _white(5.0, seed=1), _pink(5.0, 0), _tone(440, 5.0), torch.zeros(RATE)):
        assert len(onsets(spectra(steady))) == 0
    assert len(onsets(spectra(_white(4096 / RATE)))) == 0


@pytest.mark.soak
def test_onsets_agree_with_librosas_on_music(shared_data: Path) -> None:
    librosa = pytest.importorskip("librosa")
    for name in ("pop909_463_pop_0.ogg", "pop909_864_jazz_0.ogg"):
        music = audio.normalize_loudness(
            files.read(shared_data / "MusicBench/data" / name, RATE)[: 5 * RATE], RATE, -18
        )[0]
        reference = librosa.onset.onset_detect(y=music.numpy(), sr=RATE, hop_length=512, units="time")
        assert mir_eval.onset.f_measure(reference, onsets(spectra(music)).numpy())[0] > 0.85


@pytest.mark.parametrize("seed", range(20))
def test_onset_agreement_equals_mir_evals(seed: int) -> None:
    random = np.random.RandomState(seed)
    noise, music = (np.sort(random.uniform(0, 5, random.randint(1, 60))) for _ in range(2))
    for window in (0.01, 0.05, 0.2):
        expected = mir_eval.onset.f_measure(noise, music, window=window)[0]
        assert onset_agreement(torch.from_numpy(noise), torch.from_numpy(music), window) == pytest.approx(expected)


def test_onset_agreement_without_onsets() -> None:
    some, none = torch.tensor([1.0, 2.0]), torch.zeros(0)
    assert onset_agreement(some, some) == 1
    assert onset_agreement(some, some + 0.1) == 0
    assert onset_agreement(some, none) == 0
    assert math.isnan(onset_agreement(none, some)) and math.isnan(onset_agreement(none, none))


# Pitch


def _chord(pitches: list[int], seconds: float = 2.0) -> torch.Tensor:
    """Notes of four harmonics, over soft noise; pitches as in MIDI."""
    notes = [
        _tone(440 * 2 ** ((pitch - 69) / 12) * harmonic, seconds, -20 - 6.0 * harmonic)
        for pitch in pitches
        for harmonic in (1, 2, 3, 4)
    ]
    return torch.stack(notes).sum(0) + _white(seconds, -70.0)


@pytest.mark.parametrize("pitch", [45, 52, 60, 69, 71, 83])
def test_a_note_stands_out_in_its_pitch_class(pitch: int) -> None:
    assert int(chroma(_chord([pitch])).argmax()) == pitch % 12


def test_transposing_turns_the_chroma() -> None:
    triad = chroma(_chord([60, 64, 67]))
    assert set(triad.topk(3).indices.tolist()) == {0, 4, 7}
    turned = chroma(_chord([62, 66, 69])).roll(-2)
    assert float(torch.corrcoef(torch.stack([triad, turned]))[0, 1]) > 0.95


def test_chroma_fit_tells_keys_apart() -> None:
    home = chroma(_chord([60, 64, 67, 72]))
    assert chroma_fit(home, home) == pytest.approx(1)
    assert chroma_fit(home, chroma(_chord([60, 64, 67], 3.0))) > 0.8
    assert chroma_fit(home, chroma(_chord([66, 70, 73]))) < 0
    assert chroma_fit(home, chroma(_chord([60, 64, 67, 72]) / 50)) == pytest.approx(1)


def test_noise_without_pitch_fits_no_key() -> None:
    for flat in (_white(5.0), _pink(5.0, 0), torch.zeros(RATE), _white(0.2)):
        assert math.isnan(chroma_fit(chroma(flat), chroma(_chord([60]))))
        assert math.isnan(chroma_fit(chroma(_chord([60])), chroma(flat)))


def test_the_slope_of_a_spectrum_is_no_pitch() -> None:
    values = [
        float(torch.corrcoef(torch.stack([chroma(_pink(2.0, seed)), chroma(_pink(2.0, seed + 100))]))[0, 1])
        for seed in range(40)
    ]
    assert abs(np.mean(values)) < 0.15


def test_chroma_agrees_with_librosas(shared_data: Path) -> None:
    librosa = pytest.importorskip("librosa")
    for name in ("pop909_152_edm_0.ogg", "pop909_581_pop_0.ogg"):
        music = files.read(shared_data / "MusicBench/data" / name, RATE)[: 5 * RATE]
        reference = librosa.feature.chroma_stft(
            y=music.numpy(), sr=RATE, n_fft=8192, hop_length=4096, tuning=0, norm=None
        )
        assert np.corrcoef(chroma(music).numpy(), reference.mean(1))[0, 1] > 0.85


# All at once


def test_every_measure_has_its_facts() -> None:
    assert list(measure(_white().float(), _tone(440).float())) == list(FACTS)
    for name, metric in FACTS.items():
        assert metric.label and metric.unit and metric.source and metric.higher_is_better in (True, False, None)
        assert callable(getattr(audibility, name))


def test_measure_gives_what_each_function_gives() -> None:
    noise, music = _hits([0.5, 1.5, 3.2]).float() + _pink(5.0, 1).float(), _chord([48, 60, 64, 67], 5.0).float()
    values = measure(noise, music, playback_db_spl=75, core_fraction=0.1, smr_db=6, onset_window=0.1)
    noise_spectrum, music_spectrum = spectra(noise), spectra(music)
    bands = band_energies(noise_spectrum, 75), masked_threshold(music_spectrum, 75)
    noise_mel, music_mel = mel_amplitudes(noise), mel_amplitudes(music)
    core = noise_core(noise_mel, 0.1)
    assert values == pytest.approx(
        {
            "noise_to_mask_ratio": noise_to_mask_ratio(*bands),
            "audible_noise_to_mask_ratio": audible_noise_to_mask_ratio(*bands),
            "disturbed_frames": disturbed_frames(*bands),
            "masked_share": masked_share(*bands),
            "masked_bands": masked_bands(*bands),
            "masked_share_core": masked_share_core(*bands, core),
            "smr_share": smr_share(noise_mel, music_mel, core, 6),
            "level_difference": level_difference(noise_spectrum, music_spectrum),
            "loudness_range": loudness_range(noise + music),
            "onset_agreement": onset_agreement(onsets(noise_spectrum, 75), onsets(music_spectrum, 75), 0.1),
            "chroma_fit": chroma_fit(chroma(noise), chroma(music)),
        },
        rel=1e-12,
        nan_ok=True,
    )
    known = measure(noise, music, 75, 0.1, None, 6, 0.1, noise_mel=noise_mel, music_mel=music_mel)
    assert known == pytest.approx(values, rel=1e-12, nan_ok=True)


def test_measure_of_silent_music_makes_no_number_up() -> None:
    noise = (_hits([0.5, 1.5, 3.2]) + _chord([60], 5.0) / 10).float()
    for music in (torch.zeros_like(noise), 1e-6 * noise):
        values = measure(noise, music)
        assert math.isnan(values["onset_agreement"]) and math.isnan(values["chroma_fit"])
        assert values["masked_bands"] == values["smr_share"] == 0
    assert math.isnan(measure(noise, torch.zeros_like(noise))["level_difference"])


GOLDEN = {
    "noise_to_mask_ratio": 37.68872817,
    "audible_noise_to_mask_ratio": 23.73825415,
    "disturbed_frames": 1.0,
    "masked_share": 0.01989820431,
    "masked_bands": 0.2333965844,
    "masked_share_core": 0.0008836447748,
    "smr_share": 5.19791044e-05,
    "level_difference": 10.47385286,
    "loudness_range": 0.09353460531,
    "onset_agreement": 0.4,
    "chroma_fit": 0.6370711516,
}


def test_golden_values_of_a_made_up_pair() -> None:
    noise = _hits([0.5, 1.5, 3.2]) + _low_passed(_white(5.0, -30.0, seed=9), 6000) + _tone(523.25, 5.0, -40.0)
    music = _chord([48, 60, 64, 67], 5.0) + _hits([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], seed=50) / 2
    assert measure(noise, music) == pytest.approx(GOLDEN, rel=1e-6)


# Music 6 dB louder than noise: a helicopter under hip-hop, rain under punk, a rooster under electronic dance music.
REAL = {
    ("2-37806-A-40.wav", "pop909_408_hip-hop_1.ogg"): {
        "noise_to_mask_ratio": 38.19949,
        "audible_noise_to_mask_ratio": 21.15531,
        "disturbed_frames": 1.0,
        "masked_share": 0.03778751,
        "masked_bands": 0.09242332,
        "masked_share_core": 0.0592042,
        "smr_share": 0.005015984,
        "level_difference": 5.659232,
        "loudness_range": 1.411178,
        "onset_agreement": 0.1176471,
        "chroma_fit": -0.4722784,
    },
    ("2-101676-A-10.wav", "pop909_252_punk_1.ogg"): {
        "noise_to_mask_ratio": 8.434884,
        "audible_noise_to_mask_ratio": 6.594753,
        "disturbed_frames": 1.0,
        "masked_share": 0.2187239,
        "masked_bands": 0.4906542,
        "masked_share_core": 0.07469397,
        "smr_share": 0.0002858851,
        "level_difference": 6.823081,
        "loudness_range": 0.5580021,
        "onset_agreement": 0.4150943,
        "chroma_fit": 0.2774037,
    },
    ("3-107219-A-1.wav", "pop909_468_edm_0.ogg"): {
        "noise_to_mask_ratio": 7.90194,
        "audible_noise_to_mask_ratio": 8.505757,
        "disturbed_frames": 0.8714286,
        "masked_share": 0.0442523,
        "masked_bands": 0.6002825,
        "masked_share_core": 0.3348234,
        "smr_share": 0.04142735,
        "level_difference": 9.094241,
        "loudness_range": 0.2944427,
        "onset_agreement": 0.0,
        "chroma_fit": 0.08558452,
    },
}


@pytest.mark.parametrize(("noise_name", "music_name"), REAL)
def test_golden_values_of_real_clips(shared_data: Path, noise_name: str, music_name: str) -> None:
    noise = files.read(shared_data / "ESC-50/audio" / noise_name, RATE)
    music = files.read(shared_data / "MusicBench/data" / music_name, RATE)[: len(noise)]
    noise = audio.normalize_loudness(noise, RATE, -18.0)[0]
    music = audio.normalize_loudness(music, RATE, -12.0)[0]
    # Decoders of Ogg differ in the last bits.
    assert measure(noise, music) == pytest.approx(REAL[noise_name, music_name], rel=1e-4, abs=1e-4, nan_ok=True)


# Bad input

GOOD = _white(1.0).float()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: measure(GOOD, GOOD[:-1]), BlendbenchError, "one length"),
        (lambda: measure(GOOD[None], GOOD[None]), BlendbenchError, "[samples]"),
        (lambda: measure(GOOD.short(), GOOD.short()), BlendbenchError, "float"),
        (lambda: measure(torch.zeros(0), torch.zeros(0)), ClipError, "silent"),
        (lambda: measure(GOOD[:4095], GOOD[:4095]), ClipError, "4095 samples"),
        (lambda: measure(torch.zeros(RATE), GOOD), ClipError, "noise is silent"),
        (lambda: measure(GOOD * math.nan, GOOD), ClipError, "noise holds NaN"),
        (lambda: measure(GOOD, GOOD / 0), ClipError, "music holds NaN"),
        (lambda: measure(GOOD, GOOD, playback_db_spl=math.nan), BlendbenchError, "playback_db_spl"),
        (lambda: measure(GOOD, GOOD, core_fraction=0), BlendbenchError, "core fraction"),
        (lambda: measure(GOOD, GOOD, onset_window=0), BlendbenchError, "onset window"),
        (lambda: measure(GOOD, GOOD, noise_mel=torch.ones(512, 9)), BlendbenchError, "mel amplitudes"),
        (lambda: spectra(torch.zeros(0)), ClipError, "0 samples"),
        (lambda: spectra(torch.zeros(2, 9000)), BlendbenchError, "[samples]"),
        (lambda: masked_share(torch.ones(24, 3), torch.ones(24, 2)), BlendbenchError, "[24, frames]"),
        (lambda: noise_to_mask_ratio(torch.ones(3, 24), torch.ones(3, 24)), BlendbenchError, "[24, frames]"),
        (lambda: masked_bands(torch.ones(24, 0), torch.ones(24, 0)), BlendbenchError, "[24, frames]"),
        (lambda: masked_share_core(torch.ones(24, 3), torch.ones(24, 3), torch.ones(512, 3)), BlendbenchError, "core"),
        (lambda: smr_share(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2) > 0), BlendbenchError, "shapes"),
        (lambda: onset_agreement(torch.tensor([2.0, 1.0]), torch.ones(1)), BlendbenchError, "sort"),
        (lambda: onset_agreement(torch.ones(1, 1), torch.ones(1)), BlendbenchError, "one-dimensional"),
        (lambda: chroma_fit(torch.ones(12), torch.ones(11)), BlendbenchError, "two of 12"),
    ],
)
def test_bad_input_gives_one_line(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert type(caught.value) is kind
