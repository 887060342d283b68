"""Mel amplitudes against torchaudio, images against Riffusion's formula, and what the inverse keeps."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchaudio
from diffusers.image_processor import VaeImageProcessor
from torch.nn import functional

from blendbench.errors import ClipError
from blendbench.methods._images import ImageMethod, to_grey, to_model
from blendbench.sound import files, inversion, lattice
from blendbench.sound import mel as mel_module
from blendbench.sound.lattice import RIFFUSION, MelSettings, extend_to_frames
from blendbench.sound.mel import decode_image, encode_image, mel_amplitudes, riffusion_mel
from blendbench.tasks.blend.given import NoiseAndText

SMALL = MelSettings(sample_rate=16_000, n_fft=1024, win_length=800, hop_length=160, n_mels=64, f_max=6_000, frames=64)


def chord_and_noise(samples: int = 66_150, rate: int = 44_100) -> torch.Tensor:
    times = torch.arange(samples, dtype=torch.float64) / rate
    wave = 0.02 * torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for pitch in (220.0, 277.18, 329.63):
        for harmonic in (1, 2, 3, 4):
            wave += 0.1 / harmonic * torch.exp(-2 * (times % 0.5)) * torch.sin(2 * math.pi * pitch * harmonic * times)
    return wave.float()


def torchaudio_mel(settings: MelSettings) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        settings.sample_rate,
        settings.n_fft,
        settings.win_length,
        settings.hop_length,
        f_min=settings.f_min,
        f_max=settings.f_max,
        n_mels=settings.n_mels,
        power=1.0,
        norm=None,
        mel_scale="htk",
    )


@pytest.fixture(scope="module")
def chord_mel() -> torch.Tensor:
    return mel_amplitudes(chord_and_noise())


@pytest.mark.parametrize("settings", [RIFFUSION, SMALL, replace(SMALL, win_length=801, n_fft=1025)])
def test_mel_amplitudes_equal_torchaudios(settings: MelSettings) -> None:
    waves = torch.stack([chord_and_noise(30_000), chord_and_noise(30_000).flip(0)])
    mine, theirs = mel_amplitudes(waves, settings), torchaudio_mel(settings)(waves)
    assert mine.shape == theirs.shape
    # Where a band is empty the relative error has no meaning: measured against each clip's mean there.
    floor = theirs.mean(dim=(-2, -1), keepdim=True)
    assert ((mine - theirs).abs() / torch.maximum(theirs, floor)).max() < 1e-5


def test_five_seconds_have_501_frames_and_an_extended_clip_512() -> None:
    clip = torch.randn(220_500, generator=torch.Generator().manual_seed(0))
    assert mel_amplitudes(clip).shape == (512, 501)
    extended = extend_to_frames(clip)
    assert extended.shape == (511 * 441,)
    assert mel_amplitudes(extended).shape == (512, 512)
    assert torch.equal(extended[220_500:], clip[: 511 * 441 - 220_500])


def test_channels_and_items_are_transformed_each_alone() -> None:
    waves = torch.randn(2, 3, 16_000, generator=torch.Generator().manual_seed(0))
    mels = mel_amplitudes(waves, SMALL)
    assert mels.shape == (2, 3, 64, 101)
    assert mels.is_contiguous()
    quantized = riffusion_mel(waves, SMALL)
    assert extend_to_frames(waves, SMALL).shape == (2, 3, SMALL.samples)
    pixels, peaks = encode_image(mels)
    decoded = decode_image(pixels, peaks)
    heard = inversion.to_audio(mels, SMALL, iterations=2)
    assert heard.shape == waves.shape
    magnitudes = stft_magnitudes(waves.flatten(0, 1)).unflatten(0, (2, 3))
    phased = inversion.griffin_lim(magnitudes, SMALL, iterations=2, seeds=range(6))
    assert phased.shape == waves.shape
    for number, at in enumerate(itertools.product(range(2), range(3))):
        assert torch.equal(mels[at], mel_amplitudes(waves[at], SMALL))
        assert torch.equal(quantized[at], riffusion_mel(waves[at], SMALL))
        assert torch.equal(pixels[at], encode_image(mels[at])[0])
        assert torch.equal(decoded[at], decode_image(pixels[at], peaks[at]))
        assert torch.equal(heard[at], inversion.to_audio(mels[at], SMALL, iterations=2))
        assert torch.equal(phased[at], inversion.griffin_lim(magnitudes[at], SMALL, iterations=2, seeds=number))


def test_frames_of_a_long_waveform_are_those_of_its_stretches() -> None:
    wave = torch.randn(60 * 16_000, generator=torch.Generator().manual_seed(0))
    long = mel_amplitudes(wave, SMALL)
    assert long.shape == (64, 6_001)
    for second in (0, 31, 58):
        stretch = mel_amplitudes(wave[second * 16_000 : (second + 2) * 16_000], SMALL)
        inner = slice(3, 198)  # frames that do not reach over the stretch's ends
        torch.testing.assert_close(long[:, second * 100 : second * 100 + 201][:, inner], stretch[:, inner])


def test_an_accelerator_transforms_no_more_frames_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    waves = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    expected = mel_amplitudes(waves, SMALL)
    elsewhere = torch.device("meta")  # what is not the CPU
    monkeypatch.setattr(mel_module, "Workers", lambda device: lattice.Workers(elsewhere))
    monkeypatch.setattr(lattice, "_MOST_FRAMES", 160)
    torch.testing.assert_close(mel_amplitudes(waves, SMALL), expected)
    seen: list[tuple[slice, slice]] = []
    with lattice.Workers(elsewhere) as workers:
        workers.run(lambda *block: seen.append(block), 2, 200)
        workers.run(lambda *block: seen.append(block), 2, 200, block=200)
    both = slice(0, 2)
    assert seen == [(both, slice(0, 80)), (both, slice(80, 160)), (both, slice(160, 200)), (both, slice(0, 200))]


def test_image_gives_back_its_amplitudes() -> None:
    mel = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 50 + 1e-3
    pixels, peak = encode_image(mel)
    assert torch.equal(peak, mel.amax(dim=(-2, -1)))
    assert ((decode_image(pixels, peak) - mel).abs() / mel).max() < 1e-10
    single, single_peak = encode_image(mel.float())
    assert ((decode_image(single, single_peak) - mel).abs().amax(dim=(-2, -1)) / peak).max() < 1e-5


def test_loud_is_dark_and_low_is_at_the_bottom() -> None:
    mel = torch.linspace(0, 1, 10)[:, None].expand(10, 4)
    pixels, _ = encode_image(mel)
    assert (pixels[0] == 0).all() and (pixels[-1] == 255).all()
    assert (pixels[1:, 0] > pixels[:-1, 0]).all()


def test_silence_is_a_white_image_without_peak() -> None:
    for quantize in (False, True):
        pixels, peak = encode_image(torch.zeros(2, 8, 8), quantize=quantize)
        assert (pixels == 255).all() and (peak == 0).all()
        assert (decode_image(pixels, peak) == 0).all()


def test_a_silent_item_does_not_touch_its_batch() -> None:
    mel = torch.stack([torch.zeros(8, 8), torch.rand(8, 8, generator=torch.Generator().manual_seed(0))])
    together, alone = encode_image(mel)[0][1], encode_image(mel[1])[0]
    assert torch.equal(together, alone)


def riffusion_bytes(mel: np.ndarray) -> np.ndarray:
    """Riffusion's published formula: normalise, power 0.25, invert, truncate, flip."""
    data = np.power(mel / np.max(mel), 0.25) * 255
    return np.flipud((255 - data).astype(np.uint8))


def test_quantized_image_has_riffusions_bytes() -> None:
    mels = (
        torch.rand(3, 128, 100, generator=torch.Generator().manual_seed(0)) ** 6
        * torch.tensor([1e-3, 1, 3e7])[:, None, None]
    )
    pixels, _ = encode_image(mels, quantize=True)
    for image, mel in zip(pixels, mels, strict=True):
        assert np.array_equal(image.numpy(), riffusion_bytes(mel.numpy()).astype(np.float32))


def riffusions_image(samples: np.ndarray) -> np.ndarray:
    """Riffusion's `spectrogram_from_waveform` and `image_from_spectrogram`, transcribed, for 16-bit mono samples."""
    to_spectrogram = torchaudio.transforms.Spectrogram(
        n_fft=17640, hop_length=441, win_length=4410, pad=0, window_fn=torch.hann_window, power=None, normalized=False,
        wkwargs=None, center=True, pad_mode="reflect", onesided=True,
    )  # fmt: skip
    to_mel = torchaudio.transforms.MelScale(
        n_mels=512, sample_rate=44100, f_min=0, f_max=10000, n_stft=17640 // 2 + 1, norm=None, mel_scale="htk"
    )
    waveform = torch.from_numpy(samples.astype(np.float32))[None]
    return riffusion_bytes(to_mel(torch.abs(to_spectrogram(waveform)))[0].numpy())


@pytest.mark.parametrize("level", [0.02, 0.3, 1.5])
def test_quantized_images_of_audio_are_riffusions_byte_by_byte(level: float) -> None:
    noise = torch.randn(2, 44_100, generator=torch.Generator().manual_seed(3))
    waves = level * functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0]
    items = [NoiseAndText(None, 0, len(wave), wave, "") for wave in waves]  # type: ignore[arg-type]
    method = ImageMethod("Any", {})
    method.generator = SimpleNamespace(quantize=True)
    pixels, peaks = method.noise_images(items)
    for wave, image in zip(waves, pixels, strict=True):
        extended = extend_to_frames(wave)
        samples = (extended.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
        assert np.array_equal(image.numpy(), riffusions_image(samples).astype(np.float32))
    # The level is kept beside the image, in the waveform's own unit.
    exact = mel_amplitudes(extend_to_frames(waves[0].clamp(-1, 1))).max()
    assert float(peaks[0]) == pytest.approx(float(exact), rel=2e-3)


def test_quantized_images_come_back_as_an_8_bit_files_first_channel() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = to_grey(images, quantize=True)
    file = VaeImageProcessor().postprocess(images, output_type="pil")
    for image, ours in zip(file, pixels, strict=True):
        assert np.array_equal(np.array(image)[..., 0], ours.numpy())
    again = VaeImageProcessor().preprocess(file)[:, :1]
    assert torch.equal(to_model(pixels)[:, :1], again)


def test_spectral_convergence_is_relative_error() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    assert inversion.spectral_convergence(reference, reference) == 0
    assert inversion.spectral_convergence(reference, torch.zeros(1, 2)) == 1
    assert inversion.spectral_convergence(reference, torch.tensor([[3.0, 3.0]])).item() == pytest.approx(0.2)
    assert inversion.spectral_convergence(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def test_audio_of_a_mel_has_its_mel_and_its_level(chord_mel: torch.Tensor) -> None:
    wave = inversion.to_audio(chord_mel)
    assert wave.shape == (66_150,)
    assert inversion.spectral_convergence(chord_mel, mel_amplitudes(wave)) < 0.08
    # The noise above 10 kHz is not in the image, so the level is compared below it.
    original = torchaudio.functional.lowpass_biquad(chord_and_noise(), 44_100, 9_000)
    inverted = torchaudio.functional.lowpass_biquad(wave, 44_100, 9_000)
    assert abs(20 * math.log10(inverted.square().mean().sqrt() / original.square().mean().sqrt())) < 1


def test_level_of_the_mel_is_the_level_of_the_audio(chord_mel: torch.Tensor) -> None:
    mel = chord_mel[:, :40]
    quiet, loud = inversion.to_audio(mel, iterations=3), inversion.to_audio(64 * mel, iterations=3)
    assert torch.allclose(64 * quiet, loud, rtol=1e-4, atol=1e-5 * float(loud.abs().max()))


def test_audio_does_not_depend_on_the_batch(chord_mel: torch.Tensor) -> None:
    batch = torch.stack([chord_mel[:, :50], torch.zeros(512, 50), chord_mel[:, 60:110]])
    together = inversion.to_audio(batch, iterations=6, seeds=[5, 6, 7])
    for item, mel, seed in zip(together, batch, (5, 6, 7), strict=True):
        assert torch.equal(item, inversion.to_audio(mel, iterations=6, seeds=seed))


def test_audio_does_not_depend_on_the_threads(chord_mel: torch.Tensor) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = inversion.to_audio(chord_mel[:, :80], iterations=6)
        torch.set_num_threads(2)
        two = inversion.to_audio(chord_mel[:, :80], iterations=6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


def test_seed_decides_the_audio(chord_mel: torch.Tensor) -> None:
    mel = chord_mel[:, :50]
    first, again = (inversion.to_audio(mel, iterations=4, seeds=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, inversion.to_audio(mel, iterations=4, seeds=4))


def test_silent_mel_gives_silence() -> None:
    assert (inversion.to_audio(torch.zeros(512, 30), iterations=3) == 0).all()


def stft_magnitudes(wave: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(SMALL.win_length, dtype=wave.dtype)
    return torch.stft(wave, SMALL.n_fft, SMALL.hop_length, SMALL.win_length, window, return_complex=True).abs()


def inconsistency(wave: torch.Tensor, magnitudes: torch.Tensor) -> float:
    """Distance of a waveform's two-sided magnitudes from those wanted, by torch.stft."""
    found = stft_magnitudes(wave)
    sides = torch.full((len(found), 1), 2.0, dtype=wave.dtype)
    sides[[0, -1]] = 1
    return float((sides * (found - magnitudes) ** 2).sum())


def test_griffin_lim_without_momentum_never_grows_inconsistent() -> None:
    magnitudes = stft_magnitudes(chord_and_noise(10_240, 16_000).double())
    errors = [
        inconsistency(inversion.griffin_lim(magnitudes, SMALL, n, momentum=0, start="random"), magnitudes)
        for n in range(8)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    fast = inversion.griffin_lim(magnitudes, SMALL, 7, start="random")
    assert inconsistency(fast, magnitudes) < errors[-1]


def test_phase_from_peaks_starts_nearer_than_random_phase() -> None:
    magnitudes = stft_magnitudes(chord_and_noise(10_240, 16_000))
    peaks, random = (inversion.griffin_lim(magnitudes, SMALL, 0, start=start) for start in ("peaks", "random"))
    assert inconsistency(peaks, magnitudes) < 0.5 * inconsistency(random, magnitudes)


def test_length_cuts_the_audio(chord_mel: torch.Tensor) -> None:
    mel = chord_mel[:, :30]
    whole = inversion.to_audio(mel, iterations=1)
    assert torch.equal(inversion.to_audio(mel, iterations=1, length=1000), whole[:1000])


def test_real_music_is_inverted_closely(shared_data) -> None:
    path = sorted((shared_data / "MusicBench" / "data").glob("*_rock_*.ogg"))[0]
    mel = mel_amplitudes(files.read(path, start=2.0, max_seconds=2.5))
    error = inversion.spectral_convergence(mel, mel_amplitudes(inversion.to_audio(mel)))
    # torchaudio's InverseMelScale and 32 iterations of GriffinLim reach 0.0825 on 5 s of this clip.
    assert error < 0.0825


@pytest.mark.parametrize(
    "call",
    [
        lambda: mel_amplitudes(torch.zeros(2205)),
        lambda: mel_amplitudes(torch.zeros(44_100, dtype=torch.int16)),
        lambda: encode_image(torch.zeros(5)),
        lambda: encode_image(torch.zeros(0, 5)),
        lambda: decode_image(torch.zeros(2, 5, 5), torch.ones(3)),
        lambda: inversion.to_audio(torch.zeros(100, 50)),
        lambda: inversion.to_audio(torch.zeros(512, 3)),
        lambda: inversion.to_audio(torch.zeros(512, 50), iterations=-1),
        lambda: inversion.to_audio(torch.zeros(2, 512, 50), seeds=[1, 2, 3]),
        lambda: inversion.to_audio(torch.zeros(512, 50), length=10**6),
        lambda: inversion.griffin_lim(torch.zeros(512, 50)),
        lambda: inversion.spectral_convergence(torch.zeros(2, 2), torch.zeros(2, 3)),
        lambda: MelSettings(f_max=30_000),
        lambda: MelSettings(hop_length=0),
    ],
)
def test_malformed_input_is_named_in_one_line(call) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_amplitudes_that_cannot_be_are_refused(value: float) -> None:
    mel = torch.ones(512, 30)
    mel[3, 4] = value
    for call in (encode_image, inversion.to_audio):
        with pytest.raises(ClipError, match="negative or not finite"):
            call(mel)
