from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio
from blendbench.sound.mel import mel_amplitudes
from blendbench.tasks import Heard, Music
from blendbench.tasks.blend import masking
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.presentation import Amplification, Blended, Core

RATE = 44_100
CORE = Core(core_fraction=0.15, pixel_threshold=None)
PAIR = Pair("esc50", NoiseClip("a", Path("a.wav"), "wind", "a"), Prompt("p", "Jazz", "a jazz piece"))
DIRECT = Blended("direct", "direct", "Direct")
EQUAL = Blended("equal", "loudness_normalized", "Equal")
ADAPTIVE = Blended("adaptive", "adaptive", "Adaptive")


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal(5 * RATE).cumsum())
    wave = torch.diff(wave - wave.mean(), prepend=wave[:1]) + 0.3 * torch.sin(torch.arange(5 * RATE) * 0.05)
    return audio.normalize_loudness(wave.float(), RATE, -18.0)[0]


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    time = torch.arange(5 * RATE, dtype=torch.float64) / RATE
    wave = sum(torch.sin(2 * torch.pi * f * time) * torch.exp(-2 * (time % 0.5)) for f in (220, 330, 440, 880, 3000))
    return (0.03 * wave).float()


@dataclass(frozen=True)
class Method:
    """What a presentation asks of a method."""

    adaptive: bool


def shown(noise, music, presentation, adaptive=False, **amplification) -> Heard:
    given = NoiseAndText(PAIR, 0, len(noise), noise, "a jazz piece")
    blended = replace(presentation, amplification=Amplification(**amplification), core=CORE)
    return blended.present(given, Music(music), Method(adaptive))


def test_direct_keeps_the_level_of_the_method(noise, music):
    result = shown(noise, music, DIRECT)
    assert torch.equal(result.parts["music"], music)
    assert torch.equal(result.waveform, noise + music)
    assert result.facts["gain_db"] == 0
    assert result.facts["noise_lufs"] == pytest.approx(-18, abs=0.01)
    assert result.facts["music_lufs"] == pytest.approx(audio.integrated_loudness(music, RATE), abs=1e-3)


def test_loudness_normalized_music_is_as_loud_as_the_noise(noise, music):
    result = shown(noise, music, EQUAL, adaptive=True)
    assert audio.integrated_loudness(result.waveform - noise, RATE) == pytest.approx(-18, abs=0.02)
    gain = -18 - audio.integrated_loudness(music, RATE)
    assert result.facts["gain_db"] == pytest.approx(gain, abs=0.01)
    torch.testing.assert_close(result.parts["music"], music * 10 ** (gain / 20), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lufs", [-40.0, -23.0, -14.5])
def test_loudness_kind_hits_its_lufs(noise, music, lufs):
    result = shown(noise, music, Blended("l", "loudness", "L", lufs), adaptive=True)
    assert audio.integrated_loudness(result.parts["music"], RATE) == pytest.approx(lufs, abs=0.02)
    assert result.facts["music_lufs"] == pytest.approx(lufs, abs=0.02)


@pytest.mark.parametrize("level", [-20.0, 0.0, 12.0])
def test_level_of_the_music_file_does_not_matter_where_it_is_levelled(noise, music, level):
    for presentation in (EQUAL, ADAPTIVE):
        one, other = (shown(noise, wave, presentation) for wave in (music, music * 10 ** (level / 20)))
        torch.testing.assert_close(one.waveform, other.waveform, rtol=1e-3, atol=1e-4)
        assert other.facts["gain_db"] == pytest.approx(one.facts["gain_db"] - level, abs=0.01)


def stage2_inputs(noise, music):
    equal, _ = audio.normalize_loudness(music, RATE, audio.integrated_loudness(noise, RATE))
    noise_mel, music_mel = mel_amplitudes(noise), mel_amplitudes(equal)
    # The core is the loudest pixels of the noise, so it can be drawn on the mel amplitudes themselves.
    cut = torch.quantile(noise_mel.flatten(), 1 - CORE.core_fraction)
    return music_mel, noise_mel, noise_mel > cut


@pytest.mark.parametrize("alpha", [0.02, 0.07, 0.14, 0.5])
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (None, None), (-3.0, 3.0)])
def test_adaptive_gain_is_the_optimal_one_within_its_bounds(noise, music, alpha, bounds):
    low, high = bounds
    facts = shown(noise, music, ADAPTIVE, alpha=alpha, min_gain_db=low, max_gain_db=high).facts
    music_mel, noise_mel, core = stage2_inputs(noise, music)
    threshold = masking.masking_threshold(noise_mel, 21.0)
    expected = masking.optimal_gain(music_mel, threshold, core, alpha, low, high)
    if np.isfinite(expected.gain_db):
        assert facts["stage2_gain_db"] == pytest.approx(expected.gain_db, abs=0.05)
    assert facts["bound"] == expected.bound
    assert facts["core_ratio"] == pytest.approx(expected.core_ratio, rel=0.01)
    assert facts["alpha"] == alpha
    if low is not None:
        assert low <= facts["stage2_gain_db"] <= high


def test_adaptive_music_lies_its_gain_above_equal_loudness(noise, music):
    result = shown(noise, music, ADAPTIVE)
    assert audio.integrated_loudness(result.parts["music"], RATE) == pytest.approx(
        -18 + result.facts["stage2_gain_db"], abs=0.02
    )
    assert result.facts["music_lufs"] == pytest.approx(-18 + result.facts["stage2_gain_db"], abs=0.02)


@pytest.mark.parametrize("alpha", [0.02, 0.14, 0.5])
def test_gradient_descent_finds_the_same_gain(noise, music, alpha):
    exact, found = (
        shown(noise, music, ADAPTIVE, alpha=alpha, min_gain_db=-40.0, max_gain_db=40.0, solver=solver).facts
        for solver in ("exact", "gradient_descent")
    )
    assert found["stage2_gain_db"] == pytest.approx(exact["stage2_gain_db"], abs=0.02)


def test_direct_of_an_adaptive_method_is_the_adaptive_presentation(noise, music):
    direct, adaptive = shown(noise, music, DIRECT, adaptive=True), shown(noise, music, ADAPTIVE)
    assert torch.equal(direct.waveform, adaptive.waveform)
    assert direct.facts == adaptive.facts


@pytest.mark.parametrize("presentation", [DIRECT, EQUAL, ADAPTIVE, Blended("l", "loudness", "L", -20.0)])
def test_silent_music_leaves_the_noise_alone(noise, presentation):
    result = shown(noise, torch.zeros_like(noise), presentation, adaptive=True)
    assert torch.equal(result.waveform, noise)
    assert result.facts["music_lufs"] is None
    assert result.facts["gain_db"] is None


def test_music_below_the_gate_cannot_be_levelled(noise, music):
    with pytest.raises(ClipError):
        shown(noise, music * 1e-6, EQUAL)
    assert shown(noise, music * 1e-6, DIRECT).facts["music_lufs"] is None


def test_music_turned_off_by_stage_2_leaves_the_noise_alone(noise, music):
    facts = shown(noise, music, ADAPTIVE, alpha=1.0, min_gain_db=None, max_gain_db=None)
    assert torch.equal(facts.waveform, noise)
    assert facts.facts["gain_db_unbounded"] is None


def test_inputs_are_left_as_they_are(noise, music):
    before = noise.clone(), music.clone()
    shown(noise, music, ADAPTIVE)
    assert torch.equal(noise, before[0])
    assert torch.equal(music, before[1])


def test_stage_2_settings_count_only_where_stage_2_takes_part():
    one, other = Amplification(alpha=0.1), Amplification(alpha=0.2)
    for presentation, adaptive, counts in [
        (DIRECT, False, False), (DIRECT, True, True), (ADAPTIVE, False, True), (EQUAL, True, False),
    ]:  # fmt: skip
        signatures = [replace(presentation, amplification=each).signature(Method(adaptive)) for each in (one, other)]
        assert (signatures[0] != signatures[1]) == counts


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Blended("p", "loud", "P"), "presentation p: kind=loud"),
        (lambda: Blended("p", "direct", "P", -20.0), "lufs belongs to kind=loudness"),
        (lambda: Blended("p", "loudness", "P"), "lufs belongs to kind=loudness"),
        (lambda: Amplification(solver="guess"), "amplification.solver=guess"),
        (lambda: Amplification(alpha=0.0), "amplification.alpha=0.0"),
        (lambda: Amplification(alpha=float("nan")), "amplification.alpha=nan"),
    ],
)
def test_wrong_settings_name_their_key(make, expected):
    with pytest.raises(BlendbenchError, match=expected):
        make()
