"""Core masks, masking thresholds and the gain that minimises equation 4."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from blendbench.errors import BlendbenchError, ClipError
from blendbench.tasks.blend.masking import (
    core_mask,
    latent_mask,
    masking_threshold,
    objective,
    optimal_gain,
    optimal_gain_gradient_descent,
)

SOLVERS = [optimal_gain, optimal_gain_gradient_descent]
UNBOUNDED: dict[str, Any] = {"min_gain_db": None, "max_gain_db": None}


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _case(seed: int, bands: int = 12, frames: int = 9, fraction: float = 0.3) -> tuple[torch.Tensor, ...]:
    """Music, threshold and a core where the noise is loud; some pixels of the music are 0."""
    noise = _random(seed, bands, frames) ** 3
    music = _random(seed + 1000, bands, frames) ** 2
    music = torch.where(_random(seed + 2000, bands, frames) < 0.1, torch.zeros(()), music)
    return music, masking_threshold(noise), core_mask(255 - 255 * noise**0.25, fraction)


# Core mask


def test_core_is_the_darkest_pixels() -> None:
    pixels = torch.tensor([[10.0, 200.0], [50.0, 120.0]])
    assert core_mask(pixels, 0.5).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 1.0])
def test_core_has_the_exact_count_even_where_pixels_are_equal(fraction: float) -> None:
    quantised = (_random(0, 3, 40, 50) * 4).floor() * 60
    mask = core_mask(quantised, fraction)
    assert mask.sum((-2, -1)).tolist() == [round(fraction * 2000)] * 3
    for image, core in zip(quantised, mask, strict=True):
        if fraction < 1:
            assert image[core].max() <= image[~core].min()


def test_equal_pixels_are_taken_in_reading_order() -> None:
    pixels = torch.tensor([[9.0, 5.0, 5.0], [5.0, 9.0, 5.0]])
    assert core_mask(pixels, 0.5).tolist() == [[False, True, True], [True, False, False]]


def test_an_image_gets_the_same_core_alone_and_in_a_batch() -> None:
    batch = (_random(1, 4, 1, 16, 16) * 255).round()
    together = core_mask(batch)
    assert all(torch.equal(core_mask(image), mask) for image, mask in zip(batch, together, strict=True))


def test_a_larger_fraction_contains_the_smaller_core() -> None:
    pixels = (_random(2, 64, 64) * 255).round()
    assert not (core_mask(pixels, 0.15) & ~core_mask(pixels, 0.2)).any()


def test_an_absolute_threshold_includes_pixels_that_equal_it() -> None:
    pixels = torch.tensor([[100.0, 101.0], [99.0, 255.0]])
    assert core_mask(pixels, threshold=100).tolist() == [[True, False], [True, False]]
    assert not core_mask(pixels, threshold=5).any()


def test_even_a_tiny_fraction_marks_one_pixel() -> None:
    assert core_mask(_random(3, 4, 4), 1e-6).sum() == 1


def test_the_mask_of_uint8_pixels_equals_that_of_floats() -> None:
    pixels = (_random(4, 32, 32) * 255).to(torch.uint8)
    assert torch.equal(core_mask(pixels), core_mask(pixels.float()))


@pytest.mark.parametrize(
    ("pixels", "settings_", "error", "words"),
    [
        (torch.full((8, 8), 255.0), {}, ClipError, "constant"),
        (torch.stack([torch.arange(4.0).view(2, 2), torch.zeros(2, 2)]), {}, ClipError, "constant"),
        (torch.tensor([[1.0, math.nan]]), {}, ClipError, "not finite"),
        (torch.rand(4), {}, BlendbenchError, "shape"),
        (torch.rand(0, 4), {}, BlendbenchError, "shape"),
        (torch.rand(4, 4), {"fraction": 0.0}, BlendbenchError, "fraction"),
        (torch.rand(4, 4), {"fraction": 15}, BlendbenchError, "fraction"),
    ],
)
def test_images_without_a_core_are_refused_in_one_line(
    pixels: torch.Tensor, settings_: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        core_mask(pixels, **settings_)
    assert "\n" not in str(caught.value)


# Latent mask


def test_nearest_is_what_the_inpainting_pipeline_does() -> None:
    mask = core_mask(_random(5, 2, 64, 128))
    expected = torch.nn.functional.interpolate(mask[:, None].float(), size=(8, 16))[:, 0] > 0.5
    assert torch.equal(latent_mask(mask), expected)
    assert torch.equal(latent_mask(mask), mask[:, ::8, ::8])


def test_max_keeps_every_core_pixel_where_nearest_loses_some() -> None:
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[3, 20] = True
    assert latent_mask(mask, reduce="max").tolist() == [[False, False, True], [False, False, False]]
    assert not latent_mask(mask, reduce="nearest").any()
    random = core_mask(_random(6, 64, 64), 0.02)
    covered = latent_mask(random, reduce="max").repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert not (random & ~covered).any()


def test_leading_dimensions_and_other_factors_are_kept() -> None:
    mask = core_mask(_random(7, 2, 3, 8, 12))
    reduced = latent_mask(mask, factor=4, reduce="max")
    assert reduced.shape == (2, 3, 2, 3) and reduced.dtype == torch.bool
    assert torch.equal(reduced[1, 2], latent_mask(mask[1, 2], factor=4, reduce="max"))


@pytest.mark.parametrize(
    ("shape", "reduce"), [((60, 64), "nearest"), ((64, 63), "max"), ((8,), "max"), ((8, 8), "mean")]
)
def test_masks_that_do_not_fit_the_latents_are_refused(shape: tuple[int, ...], reduce: str) -> None:
    with pytest.raises(BlendbenchError, match="mask"):
        latent_mask(torch.ones(shape, dtype=torch.bool), reduce=reduce)  # type: ignore[arg-type]


# Masking threshold


def test_threshold_lies_21_db_above_the_noise() -> None:
    threshold = masking_threshold(torch.ones(2, 2))
    assert 20 * torch.log10(threshold) == pytest.approx(21 * np.ones((2, 2)), abs=1e-5)
    assert masking_threshold(torch.ones(1, 1), smr_db=0).item() == 1


def test_threshold_of_mel_amplitudes_is_equation_3() -> None:
    magnitudes = _random(8, 201, 5) + 0.01
    mel = torchaudio.transforms.MelScale(n_mels=32, n_stft=201, sample_rate=16000)
    equation = mel((10 ** ((20 * magnitudes.log10() + 21) / 20)).abs())
    torch.testing.assert_close(masking_threshold(mel(magnitudes)), equation, rtol=1e-5, atol=1e-6)


# Optimal gain


def test_objective_by_hand() -> None:
    music, threshold = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    # 0.5 * 2 * 6 + max(4 - 2, 0) + max(1 - 4, 0); the last pixel is outside the core.
    assert objective(2.0, music, threshold, mask, alpha=0.5).item() == pytest.approx(8.0, rel=1e-15)


def test_optimal_gain_by_hand() -> None:
    # Slope 0.3 * 10 less the core still audible: 1 + 3 + 4 = 8 up to 2, then 7 up to 3, then 4 up to 5, then 0.
    music, threshold = torch.tensor([[1.0, 3.0, 4.0, 2.0]]), torch.tensor([[2.0, 9.0, 20.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    result = optimal_gain(music, threshold, mask, alpha=0.3, **UNBOUNDED)
    assert result.gain == pytest.approx(5.0, rel=1e-12)
    assert (result.bound, result.core_ratio) == ("none", 0.8)
    assert result.objective == pytest.approx(0.3 * 5 * 10, rel=1e-12)
    assert optimal_gain(music, threshold, mask, alpha=0.45, **UNBOUNDED).gain == pytest.approx(3.0, rel=1e-12)
    assert optimal_gain(music, threshold, mask, alpha=0.75, **UNBOUNDED).gain == pytest.approx(2.0, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.01, 0.6), fraction=st.floats(0.05, 1.0))
def test_no_other_gain_costs_less(seed: int, alpha: float, fraction: float) -> None:
    music, threshold, mask = _case(seed, fraction=fraction)
    result = optimal_gain(music, threshold, mask, alpha, **UNBOUNDED)
    core, limit = music[mask].double().numpy(), threshold[mask].double().numpy()
    grid = np.concatenate([[0.0], np.logspace(-4, 4, 200), limit[core > 0] / core[core > 0]])
    hinges = np.maximum(limit - grid[:, None] * core, 0).sum(1)
    costs = alpha * grid * music.double().sum().item() + hinges
    assert result.objective <= costs.min() * (1 + 1e-12)
    assert result.objective == pytest.approx(objective(result.gain, music, threshold, mask, alpha).item(), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_gain_agrees_with_scipy_within_bounds(seed: int) -> None:
    music, threshold, mask = _case(seed)
    result = optimal_gain(music, threshold, mask, alpha=0.14, min_gain_db=-40.0, max_gain_db=40.0)
    found = optimize.minimize_scalar(
        lambda db: objective(10 ** (db / 20), music, threshold, mask, 0.14).item(),
        bounds=(-40.0, 40.0),
        method="bounded",
        options={"xatol": 1e-8, "maxiter": 500},
    )
    assert result.gain_db == pytest.approx(found.x, abs=1e-3)
    assert result.objective == pytest.approx(found.fun, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("bounds", [{}, {"min_gain_db": -30.0, "max_gain_db": 30.0}, UNBOUNDED])
def test_gradient_descent_agrees_with_the_exact_gain(seed: int, bounds: dict[str, Any]) -> None:
    music, threshold, mask = _case(seed, fraction=0.1 + 0.05 * seed)
    exact = optimal_gain(music, threshold, mask, **bounds)
    descended = optimal_gain_gradient_descent(music, threshold, mask, **bounds)
    assert descended.gain_db == pytest.approx(exact.gain_db, abs=0.01)
    assert descended.gain_db_unbounded == pytest.approx(exact.gain_db_unbounded, abs=0.01)
    assert (descended.bound, descended.core_ratio) == (exact.bound, exact.core_ratio)


def test_gradient_descent_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        music, threshold, mask = _case(3)
        descended = optimal_gain_gradient_descent(music, threshold, mask, **UNBOUNDED)
        assert descended.gain_db == pytest.approx(optimal_gain(music, threshold, mask, **UNBOUNDED).gain_db, abs=0.01)


@pytest.mark.parametrize("solve", SOLVERS)
def test_music_equal_to_the_noise_is_raised_by_the_signal_to_mask_ratio(solve) -> None:
    noise = _random(9, 16, 16).double() + 0.1
    mask = core_mask(255 - 255 * noise / noise.max(), 0.5)
    result = solve(noise, masking_threshold(noise), mask, **UNBOUNDED)
    assert result.core_ratio > 0.14
    assert result.gain_db == pytest.approx(21.0, abs=0.01)


@pytest.mark.parametrize("solve", SOLVERS)
def test_music_that_misses_the_core_is_off_unless_bounded(solve) -> None:
    music = torch.ones(10, 10)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask.view(-1)[:13] = True
    off = solve(music, torch.full((10, 10), 50.0), mask, alpha=0.14, **UNBOUNDED)
    assert (off.gain_db, off.gain_db_unbounded, off.bound, off.gain) == (-math.inf, -math.inf, "none", 0.0)
    assert off.objective == pytest.approx(13 * 50)
    kept = solve(music, torch.full((10, 10), 50.0), mask, alpha=0.14)
    assert (kept.gain_db, kept.gain_db_unbounded, kept.bound) == (0.0, -math.inf, "min")


def test_a_flat_optimum_takes_the_smallest_gain() -> None:
    # R equals alpha: the cost is flat from 0 to the first kink.
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask.view(-1)[:14] = True
    result = optimal_gain(torch.full((10, 10), 0.1), torch.ones(10, 10), mask, alpha=0.14, **UNBOUNDED)
    assert result.gain_db == -math.inf
    # Half the core is masked at 2, and from there to 6 the cost stays the same.
    music, threshold = torch.ones(1, 4), torch.tensor([[2.0, 6.0, 0.0, 0.0]])
    core = torch.tensor([[True, True, False, False]])
    assert optimal_gain(music, threshold, core, alpha=0.25, **UNBOUNDED).gain == pytest.approx(2.0, rel=1e-12)


def test_without_weight_on_loudness_the_whole_core_is_masked() -> None:
    music, threshold, mask = _case(10)
    result = optimal_gain(music.double(), threshold.double(), mask, alpha=0.0, **UNBOUNDED)
    audible = mask & (music > 0)
    assert result.gain == pytest.approx((threshold.double() / music.double())[audible].max().item(), rel=1e-12)


@pytest.mark.parametrize(
    ("level", "gain_db", "bound"), [(1.0, 0.0, "min"), (1.5, 20 * math.log10(1.5), "none"), (9.0, 6.0, "max")]
)
@pytest.mark.parametrize("solve", SOLVERS)
def test_the_active_bound_is_named(solve, level: float, gain_db: float, bound: str) -> None:
    music, mask = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool)
    result = solve(music, torch.full((4, 4), level if bound != "min" else 0.5), mask, alpha=0.14)
    assert result.gain_db == pytest.approx(gain_db, abs=1e-4)
    assert result.bound == bound


def test_a_single_bound_leaves_the_other_side_open() -> None:
    music, mask = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool)
    loud, quiet = torch.full((4, 4), 100.0), torch.full((4, 4), 0.01)
    assert optimal_gain(music, loud, mask, max_gain_db=None).gain_db == pytest.approx(40)
    assert optimal_gain(music, quiet, mask, min_gain_db=None).gain_db == pytest.approx(-40)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_louder_music_needs_as_much_less_gain(seed: int, scale: float) -> None:
    music, threshold, mask = (x.double() if x.dtype != torch.bool else x for x in _case(seed, fraction=0.5))
    before = optimal_gain(music, threshold, mask, **UNBOUNDED)
    scaled_music = optimal_gain(music * scale, threshold, mask, **UNBOUNDED)
    scaled_noise = optimal_gain(music, threshold * scale, mask, **UNBOUNDED)
    assert scaled_music.gain == pytest.approx(before.gain / scale, rel=1e-9)
    assert scaled_noise.gain == pytest.approx(before.gain * scale, rel=1e-9)
    assert scaled_music.objective == pytest.approx(before.objective, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), alphas=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_alpha_never_asks_for_more_gain(seed: int, alphas: tuple[float, float]) -> None:
    music, threshold, mask = _case(seed)
    more, less = (optimal_gain(music, threshold, mask, alpha, **UNBOUNDED).gain for alpha in sorted(alphas))
    assert less <= more


@pytest.mark.parametrize("solve", SOLVERS)
def test_an_empty_core_or_a_silent_noise_asks_for_no_music(solve) -> None:
    music, threshold, mask = _case(11)
    empty = solve(music, threshold, torch.zeros_like(mask), **UNBOUNDED)
    assert (empty.gain_db, empty.core_ratio, empty.objective) == (-math.inf, 0.0, 0.0)
    assert solve(music, torch.zeros_like(threshold), mask, **UNBOUNDED).gain_db == -math.inf


def test_core_pixels_that_no_music_reaches_only_add_a_constant() -> None:
    music, threshold, mask = torch.ones(1, 4), torch.full((1, 4), 2.0), torch.tensor([[True, True, True, False]])
    holed = music.clone()
    holed[0, 0] = 0
    result = optimal_gain(holed, threshold, mask, **UNBOUNDED)
    assert result.gain == pytest.approx(2.0)
    assert result.objective == pytest.approx(0.14 * 2 * 3 + 2)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"music_mel": torch.zeros(12, 9)}, ClipError, "silent"),
        ({"music_mel": torch.full((12, 9), math.nan)}, ClipError, "music spectrogram .* not finite"),
        ({"threshold": torch.full((12, 9), math.inf)}, ClipError, "masking threshold .* not finite"),
        ({"music_mel": torch.full((12, 9), -3.0)}, ClipError, "negative"),
        ({"music_mel": torch.ones(12, 8)}, BlendbenchError, "shape"),
        ({"mask": torch.ones(12, 9)}, BlendbenchError, "boolean"),
        ({"alpha": -0.1}, BlendbenchError, "alpha"),
        ({"alpha": math.nan}, BlendbenchError, "alpha"),
        ({"min_gain_db": 6.0, "max_gain_db": 0.0}, BlendbenchError, "min_gain_db"),
        ({"min_gain_db": math.nan}, BlendbenchError, "min_gain_db"),
    ],
)
def test_malformed_input_is_refused_in_one_line(solve, change, error: type[Exception], words: str) -> None:
    music, threshold, mask = _case(12)
    with pytest.raises(error, match=words) as caught:
        solve(**({"music_mel": music, "threshold": threshold, "mask": mask} | change))
    assert "\n" not in str(caught.value)
