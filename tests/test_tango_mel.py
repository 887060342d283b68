"""TANGO's front end against golden numbers, librosa's filters and an own transform, and what it refuses."""

import math

import librosa
import numpy as np
import pytest
import torch

from blendbench.errors import ClipError
from blendbench.sound.tango_mel import FRAMES, MELS, SAMPLE_RATE, SAMPLES, filters, levelled, log_mel, tango_mel


def tone(seconds: float = 10.24, hertz: float = 440.0, peak: float = 0.5) -> torch.Tensor:
    times = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    return peak * torch.sin(2 * math.pi * hertz * times)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_filters_are_librosas():
    assert filters().shape == (513, 64)
    assert float(filters().sum()) == pytest.approx(4.09588, abs=5e-6)
    other = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    assert np.abs(filters().numpy().T - other).max() < 1e-7


def test_a_tone_and_silence_have_the_known_values():
    mel = log_mel(tone())
    assert mel.shape == (1025, 64)
    assert int(mel[500].argmax()) == 8
    assert float(mel[500, 8]) == pytest.approx(1.0858, abs=5e-5)
    silence = log_mel(torch.zeros(16_000))
    assert float(silence.min()) == float(silence.max()) == pytest.approx(-11.512925, abs=1e-6)


def test_it_is_the_transform_written_out():
    wave = noise(16_000).double()
    padded = np.pad(wave.numpy(), 512, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([padded[start : start + 1024] for start in range(0, 16_001, 160)]) * window
    magnitudes = np.abs(np.fft.rfft(frames))
    bank = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000, dtype=np.float64)
    wanted = np.log(np.maximum(magnitudes @ bank.T, 1e-5))
    assert np.abs(log_mel(wave).numpy() - wanted).max() < 1e-4
    assert np.abs(log_mel(wave.float()).numpy() - wanted).max() < 1e-3


def test_a_batch_is_its_waveforms():
    waves = torch.stack([noise(4000, 1), noise(4000, 2)])
    assert torch.allclose(log_mel(waves), torch.stack([log_mel(one) for one in waves]), atol=1e-6)


@pytest.mark.parametrize("samples", [6400, SAMPLES - 1, SAMPLES, SAMPLES + 1, 3 * SAMPLES])
def test_any_length_becomes_1024_frames_with_a_peak_of_a_half(samples):
    wave = levelled(0.3 + noise(samples))
    assert wave.shape == (SAMPLES,)
    assert float(wave.abs().max()) == pytest.approx(0.5, abs=1e-6)
    assert not bool(wave[samples:].any())
    mel = tango_mel(0.3 + noise(samples))
    assert mel.shape == (1, FRAMES, MELS) and mel.dtype == torch.float32
    assert torch.equal(mel[0], log_mel(wave)[:FRAMES])


def test_neither_level_nor_offset_nor_other_channels_are_heard():
    one = noise(20_000)
    plain = tango_mel(one)
    assert torch.allclose(tango_mel(0.01 * one + 0.2), plain, atol=1e-2)
    assert torch.equal(tango_mel(torch.stack([one, noise(20_000, 1)])), plain)


def test_the_peak_is_taken_again_after_the_cut():
    wave = torch.cat([noise(SAMPLES), 5 * noise(1000, 1)])
    assert float(levelled(wave).abs().max()) == pytest.approx(0.5, abs=1e-6)
    # The mean, however, is the whole clip's.
    mean = wave.mean()
    assert torch.allclose(levelled(wave), (wave - mean)[:SAMPLES] * (0.5 / (wave - mean)[:SAMPLES].abs().max()))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(20_000), r"rain\.wav: is digital silence; use a clip with sound in it"),
        (torch.full((20_000,), 0.25), r"rain\.wav: holds one constant value"),
        (1e-5 * noise(20_000), r"rain\.wav: is silent"),
        (torch.stack([torch.zeros(20_000), noise(20_000)]), r"rain\.wav: first channel, .* is digital silence"),
        (torch.cat([torch.zeros(SAMPLES), noise(20_000)]), r"rain\.wav: .*first 10\.24 s: is digital silence"),
        (torch.zeros(0), r"rain\.wav: holds 0 samples"),
        (noise(1000), r"rain\.wav: lasts 0\.0625 s"),
        (torch.cat([noise(20_000), torch.tensor([math.nan])]), r"rain\.wav: 1 of 20001 samples are NaN or infinite"),
        (torch.zeros(1, 1, 20_000), r"rain\.wav: waveform has shape \[1, 1, 20000\]"),
    ],
    ids=["silent", "constant", "quiet", "first channel", "first seconds", "empty", "short", "nan", "shape"],
)
def test_what_cannot_be_heard_is_refused_in_one_line(wave, message):
    with pytest.raises(ClipError, match=message) as refused:
        tango_mel(wave, "rain.wav")
    assert "\n" not in str(refused.value) and ";" in str(refused.value)


@pytest.mark.parametrize("wave", [torch.zeros(512), torch.zeros(2000, dtype=torch.int16), torch.tensor(0.0)])
def test_what_is_no_waveform_is_refused(wave):
    with pytest.raises(ValueError, match="float tensor"):
        log_mel(wave)
