"""Fréchet distance, Kullback-Leibler divergence and bootstrap against closed forms and other implementations."""

import math
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from blendbench.errors import BlendbenchError
from blendbench.metrics import bootstrap, clap_score, frechet
from blendbench.metrics.bootstrap import bootstrap_interval
from blendbench.metrics.divergence import sigmoid_kl, softmax_kl
from blendbench.metrics.frechet import frechet_distance, frechet_infinity, frechet_of_indices, frechet_over_n
from blendbench.metrics.gaussians import GaussianStatistics


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _sets(seed: int, n: int, m: int, dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of correlated embeddings whose means and covariances differ."""
    mixing = _normal(seed, dimensions, dimensions) / dimensions**0.5 + torch.eye(dimensions)
    return _normal(seed + 1, n, dimensions) @ mixing + 0.3, 2 * _normal(seed + 2, m, dimensions)


def _exactly(mean: list[float], variances: list[float]) -> torch.Tensor:
    """Embeddings whose sample mean and unbiased, diagonal covariance are exactly those given."""
    points = torch.diag(torch.tensor(variances, dtype=torch.float64).sqrt())
    points = torch.cat([points, -points])
    scale = math.sqrt((len(points) - 1) / 2)
    return points * scale + torch.tensor(mean, dtype=torch.float64)


def _by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula as written, with scipy's matrix root."""
    mean_a, mean_b = a.numpy().mean(0), b.numpy().mean(0)
    covariance_a, covariance_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    return float(np.square(mean_a - mean_b).sum() + np.trace(covariance_a + covariance_b - 2 * np.real(root)))


# Fréchet distance


@pytest.mark.parametrize(("n", "dimensions"), [(200, 8), (10, 64), (300, 128)])
def test_identical_sets_have_distance_zero(n: int, dimensions: int) -> None:
    embeddings = _sets(0, n, n, dimensions)[0]
    assert frechet_distance(embeddings, embeddings) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(embeddings, embeddings.clone().flip(0)) == pytest.approx(0, abs=1e-9)


def test_a_shift_of_the_mean_costs_its_square() -> None:
    embeddings = _normal(1, 50, 4)
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0])
    assert frechet_distance(embeddings, embeddings + shift) == pytest.approx(25.0, rel=1e-12)


def test_diagonal_covariances_have_the_closed_form() -> None:
    a, b = _exactly([0, 0, 1], [1, 4, 9]), _exactly([1, 0, 1], [4, 4, 25])
    assert torch.allclose(GaussianStatistics.of(b).covariance, torch.diag(torch.tensor([4.0, 4, 25]).double()))
    # 1 for the mean, then (1 - 2)^2 + (2 - 2)^2 + (3 - 5)^2 for the standard deviations.
    assert frechet_distance(a, b) == pytest.approx(6.0, rel=1e-12)


def test_the_distance_is_symmetric_and_scales_with_the_square() -> None:
    a, b = _sets(2, 40, 60, 6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * frechet_distance(a, b), rel=1e-12)


def test_the_distance_does_not_change_under_rotation_or_order() -> None:
    a, b = _sets(3, 40, 60, 6)
    rotation = torch.linalg.qr(_normal(4, 6, 6)).Q
    expected = frechet_distance(a, b)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a[torch.randperm(40)], b.flip(0)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dimensions", [2, 16, 64])
def test_the_distance_agrees_with_scipys_matrix_root(dimensions: int) -> None:
    a, b = _sets(5, 200, 300, dimensions)
    assert frechet_distance(a, b) == pytest.approx(_by_sqrtm(a, b), rel=1e-6)


def test_in_one_dimension_means_and_deviations_differ_squared() -> None:
    a, b = _sets(5, 200, 300, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-12)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """frechet-audio-distance's class without the models it loads on import."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "frechet_audio_distance"]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    for name in ("laion_clap", "encodec", "resampy"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    module = pytest.importorskip("frechet_audio_distance.fad")
    yield module.FrechetAudioDistance
    for name in loaded():
        del sys.modules[name]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("n", "dimensions"), [(300, 16), (400, 128)])
def test_the_distance_agrees_with_frechet_audio_distance(library: Any, n: int, dimensions: int) -> None:
    a, b = _sets(6, n, 2 * n, dimensions)
    scorer = library.__new__(library)
    published = scorer.calculate_frechet_distance(
        *scorer.calculate_embd_statistics(a.numpy()), *scorer.calculate_embd_statistics(b.numpy())
    )
    assert frechet_distance(a, b) == pytest.approx(published, rel=1e-6)


def test_fewer_samples_than_dimensions_give_the_exact_distance() -> None:
    a, b = _sets(7, 12, 20, 40)
    # Both sets span 32 dimensions at most; there the covariances are as before and the root is better conditioned.
    centred = torch.cat([a - a.mean(0), b - b.mean(0)])
    gram = (centred[:12] @ centred[12:].T) / math.sqrt(11 * 19)
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum()
    expected -= 2 * torch.linalg.matrix_norm(gram, "nuc")
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(_by_sqrtm(a, b), rel=1e-4)


def test_sets_without_spread_differ_by_their_means() -> None:
    a, b = torch.ones(3, 5), torch.zeros(4, 5)
    assert frechet_distance(a, b) == 5.0
    assert frechet_distance(a, a) == 0.0
    assert frechet_of_indices(a, b)(torch.tensor([0, 1])) == 5.0


def test_float32_embeddings_far_from_zero_lose_no_precision() -> None:
    a, b = _sets(8, 200, 200, 8)
    far = (a * 64).round() / 64 + 4096, (b * 64).round() / 64 + 4096
    near = far[0] - 4096, far[1] - 4096
    assert frechet_distance(far[0].float(), far[1].float()) == pytest.approx(frechet_distance(*near), rel=1e-9)


@pytest.mark.parametrize("sizes", [[500], [1, 499], [100, 0, 150, 250], [1] * 20 + [480]])
def test_batches_and_shards_give_the_statistics_of_one_pass(sizes: list[int]) -> None:
    embeddings = _sets(9, 500, 2, 7)[0] + 100
    streamed, merged = GaussianStatistics(), GaussianStatistics()
    for batch in embeddings.split(sizes):
        streamed.update(batch)
        shard = GaussianStatistics()
        shard.update(batch)
        merged.merge(shard)
    for statistics in (streamed, merged):
        assert statistics.n == 500
        torch.testing.assert_close(statistics.mean, embeddings.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(statistics.covariance, torch.cov(embeddings.T), rtol=1e-11, atol=1e-12)


def test_merging_leaves_the_other_statistics_alone() -> None:
    a, b = GaussianStatistics(), GaussianStatistics.of(_normal(10, 5, 3))
    a.merge(b)
    a.update(_normal(11, 5, 3))
    assert b.n == 5
    torch.testing.assert_close(b.mean, _normal(10, 5, 3).mean(0))


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (torch.zeros(0, 4), "at least 2 embeddings, got 0"),
        (torch.zeros(1, 4), "at least 2 embeddings, got 1"),
        (torch.zeros(4), "shape"),
        (torch.zeros(4, 0), "shape"),
        (torch.full((4, 4), math.nan), "not finite"),
        (torch.full((4, 4), math.inf), "not finite"),
        (torch.zeros(4, 3), "dimensions"),
        (_normal(12, 4, 4) * 1e200, "too large"),
    ],
)
def test_malformed_embeddings_give_one_line_and_no_distance(embeddings: torch.Tensor, words: str) -> None:
    reference = _normal(13, 10, 4)
    for a, b in ((embeddings, reference), (reference, embeddings)):
        with pytest.raises(BlendbenchError, match=words) as caught:
            frechet_distance(a, b)
        assert "\n" not in str(caught.value)


def test_statistics_survive_a_refused_batch() -> None:
    statistics = GaussianStatistics.of(_normal(14, 5, 3))
    before = statistics.covariance
    for batch in (torch.full((2, 3), math.nan), torch.zeros(2, 4)):
        with pytest.raises(BlendbenchError):
            statistics.update(batch)
    assert statistics.n == 5 and torch.equal(statistics.covariance, before)


@pytest.mark.parametrize(("n", "m", "dimensions"), [(30, 50, 6), (30, 200, 48), (20, 10, 48), (100, 150, 48)])
def test_the_distance_of_indices_is_that_of_the_chosen_embeddings(n: int, m: int, dimensions: int) -> None:
    embeddings, reference = _sets(15, n, m, dimensions)
    statistic = frechet_of_indices(embeddings, GaussianStatistics.of(reference))
    random = torch.Generator().manual_seed(0)
    for indices in (torch.arange(n), torch.randint(n, (n,), generator=random), torch.tensor([1, 0, 1])):
        assert statistic(indices) == pytest.approx(frechet_distance(embeddings[indices], reference), rel=1e-6)


@pytest.mark.parametrize("dimensions", [3, 12])
def test_clips_of_several_embeddings_are_drawn_whole(dimensions: int) -> None:
    everything, reference = _sets(5, 40, 60, dimensions)
    clips = [part + 0.3 for part in everything.split([1, 7, 2, 5, 9, 16])]
    statistic = frechet_of_indices(clips, reference)
    for chosen in ([0, 1, 2, 3, 4, 5], [1, 1, 4], [5, 0], [3, 3, 3, 3]):
        frames = torch.cat([clips[i] for i in chosen])
        assert statistic(torch.tensor(chosen)) == pytest.approx(frechet_distance(frames, reference), rel=1e-9)
    assert frechet_over_n(clips, reference, [6]) == pytest.approx([frechet_distance(torch.cat(clips), reference)])
    assert frechet_infinity(clips, reference, 2, 3).sizes == (2, 4, 6)


def test_malformed_clips_of_embeddings_are_refused() -> None:
    reference = torch.randn(9, 4)
    for clips, words in (
        ([], "no embeddings"),
        ([torch.zeros(2, 3)], "dimensions"),
        ([torch.full((2, 4), float("nan"))], "not finite"),
    ):
        with pytest.raises(BlendbenchError, match=words):
            frechet_of_indices(clips, reference)
    with pytest.raises(BlendbenchError, match="at least 2"):
        frechet_of_indices([torch.randn(1, 4), torch.randn(3, 4)], reference)(torch.tensor([0]))


def test_clap_score_is_the_cosine_pair_by_pair() -> None:
    sounds = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    texts = torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, -1.0]])
    assert clap_score.clap_score(sounds, texts).tolist() == [1.0, 0.0, -1.0]
    assert torch.allclose(clap_score.clap_score(7 * sounds, texts), clap_score.clap_score(sounds, texts))


@pytest.mark.parametrize(
    ("sounds", "texts", "words"),
    [
        (torch.ones(2, 3), torch.ones(3, 3), "shapes"),
        (torch.ones(0, 3), torch.ones(0, 3), "shapes"),
        (torch.ones(3), torch.ones(3), "shapes"),
        (torch.zeros(2, 3), torch.ones(2, 3), "sound embedding is zero"),
        (torch.ones(2, 3), torch.full((2, 3), math.inf), "text embedding is zero or not finite"),
    ],
)
def test_malformed_clap_embeddings_are_refused(sounds: torch.Tensor, texts: torch.Tensor, words: str) -> None:
    with pytest.raises(BlendbenchError, match=words):
        clap_score.clap_score(sounds, texts)


def test_the_distance_over_n_falls_towards_the_whole_set() -> None:
    embeddings, reference = _sets(16, 400, 2000, 16)
    distances = frechet_over_n(embeddings, reference, [25, 100, 400], resamples=5)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == pytest.approx(frechet_distance(embeddings, reference), rel=1e-9)


def test_the_distance_over_n_is_fixed_by_its_seed() -> None:
    embeddings, reference = _sets(17, 60, 80, 4)
    first = frechet_over_n(embeddings, reference, [10, 20], seed=1)
    assert frechet_over_n(embeddings, reference, [20], seed=1) == first[1:]
    assert frechet_over_n(embeddings, reference, [10, 20], seed=2) != first


def test_the_distance_at_infinity_tends_to_the_truth() -> None:
    # Equal covariances and a shift of 0.3 in each of 16 dimensions: the true distance is 16 * 0.09.
    truth, extrapolated, plain = 16 * 0.09, [], []
    for seed in range(6):
        embeddings, reference = _normal(seed, 600, 16) + 0.3, _normal(100 + seed, 20000, 16)
        statistics = GaussianStatistics.of(reference)
        extrapolated.append(frechet_infinity(embeddings, statistics, min_size=100, steps=8, resamples=4).value)
        plain.append(frechet_distance(embeddings, statistics))
    assert np.mean(plain) - truth > 0.1
    assert abs(np.mean(extrapolated) - truth) < 0.07


def test_the_line_to_infinity_goes_through_its_points() -> None:
    embeddings, reference = _sets(18, 300, 1000, 8)
    result = frechet_infinity(embeddings, reference, min_size=60, steps=6)
    assert result.sizes == (60, 108, 156, 204, 252, 300)
    assert result.distances == tuple(frechet_over_n(embeddings, reference, result.sizes))
    fit = scipy.stats.linregress(1 / np.array(result.sizes), result.distances)
    assert (result.value, result.slope) == pytest.approx((fit.intercept, fit.slope))
    assert result.r2 == pytest.approx(fit.rvalue**2)


def test_drawing_with_replacement_allows_more_than_there_are() -> None:
    embeddings, reference = _sets(19, 30, 80, 4)
    assert frechet_over_n(embeddings, reference, [3000], replacement=True, resamples=2)[0] == pytest.approx(
        frechet_distance(embeddings, reference), rel=0.1
    )


@pytest.mark.parametrize("call", [{"sizes": [1]}, {"sizes": [31]}, {"sizes": [5], "resamples": 0}])
def test_subsets_out_of_range_are_refused(call: dict[str, Any]) -> None:
    with pytest.raises(BlendbenchError):
        frechet_over_n(*_sets(20, 30, 30, 3), **call)


@pytest.mark.parametrize("call", [{}, {"min_size": 1}, {"min_size": 30}, {"min_size": 10, "steps": 1}])
def test_too_few_sizes_to_extrapolate_are_refused(call: dict[str, Any]) -> None:
    with pytest.raises(BlendbenchError, match="min_size"):
        frechet_infinity(*_sets(21, 30, 30, 3), **call)


# Kullback-Leibler divergence


def _logits(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is the given distributions."""
    return torch.tensor(rows, dtype=torch.float64).log()


def test_softmax_kl_by_hand() -> None:
    reference, generated = _logits([0.5, 0.5], [0.9, 0.1]), _logits([0.25, 0.75], [0.9, 0.1])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert softmax_kl(reference, generated, epsilon=0).tolist() == pytest.approx([expected, 0.0], abs=1e-15)
    assert expected == pytest.approx(0.14384103622589045, rel=1e-15)


def test_the_directions_differ_and_swap_with_the_arguments() -> None:
    reference, generated = _logits([0.5, 0.5]), _logits([0.25, 0.75])
    backward = softmax_kl(reference, generated, "gen||ref", epsilon=0).item()
    assert backward == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5), rel=1e-12)
    assert backward == softmax_kl(generated, reference, "ref||gen", epsilon=0).item()
    assert backward != pytest.approx(softmax_kl(reference, generated, "ref||gen", epsilon=0).item(), rel=1e-3)


def test_epsilon_stands_in_the_second_logarithm_alone() -> None:
    reference, generated = _logits([0.5, 0.5]), _logits([0.25, 0.75])
    expected = 0.5 * math.log(0.5 / 0.26) + 0.5 * math.log(0.5 / 0.76)
    assert softmax_kl(reference, generated, epsilon=0.01).item() == pytest.approx(expected, rel=1e-12)


def test_identical_logits_have_divergence_zero_up_to_epsilon() -> None:
    logits = 5 * _normal(30, 20, 527)
    assert softmax_kl(logits, logits, epsilon=0).tolist() == [0.0] * 20
    with_epsilon = softmax_kl(logits, logits)
    assert (with_epsilon < 0).all() and (with_epsilon >= -math.log(1 + 527e-6)).all()


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1e-3])
def test_softmax_kl_is_torchs_kl_div(epsilon: float) -> None:
    reference, generated = 3 * _normal(31, 16, 50), 3 * _normal(32, 16, 50)
    published = torch.nn.functional.kl_div(
        (generated.softmax(1) + epsilon).log(), reference.softmax(1), reduction="none"
    ).sum(1)
    torch.testing.assert_close(softmax_kl(reference, generated, epsilon=epsilon), published, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("direction", ["ref||gen", "gen||ref"])
def test_sigmoid_kl_is_torchs_kl_div(direction: Any) -> None:
    reference, generated = 3 * _normal(33, 16, 50), 3 * _normal(34, 16, 50)
    first, second = (reference, generated) if direction == "ref||gen" else (generated, reference)
    published = torch.nn.functional.kl_div((second.sigmoid() + 1e-6).log(), first.sigmoid(), reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_kl(reference, generated, direction), published, rtol=1e-12, atol=1e-14)
    assert sigmoid_kl(reference, reference, epsilon=0).tolist() == [0.0] * 16


def test_divergence_is_not_negative_and_ignores_a_constant_in_the_logits() -> None:
    reference, generated = 4 * _normal(35, 200, 10), 4 * _normal(36, 200, 10)
    values = softmax_kl(reference, generated, epsilon=0)
    assert (values >= 0).all()
    torch.testing.assert_close(softmax_kl(reference + 7, generated - 3, epsilon=0), values, rtol=1e-9, atol=1e-12)


def test_extreme_logits_stay_finite() -> None:
    reference, generated = torch.tensor([[800.0, -800.0]]), torch.tensor([[-800.0, 800.0]])
    assert softmax_kl(reference, generated, epsilon=0).item() == pytest.approx(1600.0)
    assert softmax_kl(reference, generated).item() == pytest.approx(-math.log(1e-6))
    assert math.isfinite(sigmoid_kl(reference, generated, epsilon=0).item())


def test_pairs_are_scored_one_by_one() -> None:
    reference, generated = _normal(37, 6, 5), _normal(38, 6, 5)
    together = softmax_kl(reference, generated)
    alone = [softmax_kl(reference[i : i + 1], generated[i : i + 1]).item() for i in range(6)]
    assert together.tolist() == pytest.approx(alone, rel=1e-13)


@pytest.mark.parametrize("metric", [softmax_kl, sigmoid_kl])
@pytest.mark.parametrize(
    ("reference", "generated", "call", "words"),
    [
        (torch.zeros(0, 5), torch.zeros(0, 5), {}, "shape"),
        (torch.zeros(3, 1), torch.zeros(3, 1), {}, "shape"),
        (torch.zeros(5), torch.zeros(5), {}, "shape"),
        (torch.zeros(3, 5), torch.zeros(4, 5), {}, "shape"),
        (torch.full((2, 2), math.nan), torch.zeros(2, 2), {}, "reference logits are not finite"),
        (torch.zeros(2, 2), torch.full((2, 2), -math.inf), {}, "generated logits are not finite"),
        (torch.zeros(2, 2), torch.zeros(2, 2), {"direction": "both"}, "direction"),
        (torch.zeros(2, 2), torch.zeros(2, 2), {"epsilon": -1e-6}, "epsilon"),
    ],
)
def test_malformed_logits_give_one_line_and_no_divergence(
    metric: Any, reference: torch.Tensor, generated: torch.Tensor, call: dict[str, Any], words: str
) -> None:
    with pytest.raises(BlendbenchError, match=words) as caught:
        metric(reference, generated, **call)
    assert "\n" not in str(caught.value)


# Bootstrap


def _mean_of(values: torch.Tensor) -> Any:
    return lambda indices: values[indices].mean().item()


def test_the_interval_covers_the_mean_as_often_as_it_claims() -> None:
    random = np.random.default_rng(0)
    covered, simulations = 0, 200
    for seed in range(simulations):
        sample = torch.from_numpy(random.normal(2.0, 1.0, 40))
        low, high = bootstrap_interval(_mean_of(sample), 40, resamples=100, seed=seed)
        covered += low <= 2.0 <= high
    # 0.95, less what percentile intervals of 100 resamples lose at n = 40, plus and minus some three standard errors.
    assert 0.88 <= covered / simulations <= 0.99


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = _normal(40, 400)
    low, high = bootstrap_interval(_mean_of(values), 400, resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.08)
    narrow = bootstrap_interval(_mean_of(values), 400, resamples=2000, confidence=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_the_interval_is_fixed_by_its_seed() -> None:
    statistic = _mean_of(_normal(41, 30))
    first = bootstrap_interval(statistic, 30, resamples=50, seed=1)
    assert bootstrap_interval(statistic, 30, resamples=50, seed=1) == first
    assert bootstrap_interval(statistic, 30, resamples=50, seed=2) != first


def test_samples_that_hang_together_widen_the_interval() -> None:
    values = _normal(42, 40).repeat_interleave(5) + 0.01 * _normal(43, 200)
    groups = [f"noise-{i // 5}" for i in range(200)]
    low, high = bootstrap_interval(_mean_of(values), 200, resamples=500)
    grouped_low, grouped_high = bootstrap_interval(_mean_of(values), 200, groups, resamples=500)
    # Five copies of 40 values: the honest interval is the square root of five times wider.
    assert (grouped_high - grouped_low) / (high - low) == pytest.approx(math.sqrt(5), rel=0.15)


def test_groups_are_drawn_whole() -> None:
    seen: list[list[int]] = []

    def statistic(indices: torch.Tensor) -> float:
        seen.append(indices.tolist())
        return 0.0

    bootstrap_interval(statistic, 5, ["a", "b", "a", "b", "b"], resamples=20)
    assert {tuple(draw) for draw in seen} == {
        (*first, *second) for first in [(0, 2), (1, 3, 4)] for second in [(0, 2), (1, 3, 4)]
    }


def test_groups_of_one_are_no_groups() -> None:
    statistic = _mean_of(_normal(44, 12))
    assert bootstrap_interval(statistic, 12, list("abcdefghijkl")) == bootstrap_interval(statistic, 12)


@pytest.mark.parametrize("groups", [None, ["a"]])
def test_one_sample_has_no_interval(groups: list[str] | None) -> None:
    assert all(math.isnan(end) for end in bootstrap_interval(_mean_of(torch.ones(1)), 1, groups))


def test_one_group_has_no_interval() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval(_mean_of(torch.ones(3)), 3, ["a", "a", "a"]))


def test_a_constant_has_an_interval_of_no_width() -> None:
    assert bootstrap_interval(_mean_of(torch.full((9,), 3.0)), 9, resamples=20) == (3.0, 3.0)


def test_only_the_centred_interval_of_a_frechet_distance_holds_it() -> None:
    embeddings, reference = _normal(45, 60, 16) + 0.2, _normal(46, 1000, 16)
    statistic, distance = frechet_of_indices(embeddings, reference), frechet_distance(embeddings, reference)
    percentile = bootstrap_interval(statistic, 60, resamples=200)
    centred = bootstrap_interval(statistic, 60, resamples=200, method="centred")
    assert percentile[0] > distance
    assert centred[0] < distance < centred[1]
    assert centred[1] - centred[0] == pytest.approx(percentile[1] - percentile[0])


@pytest.mark.parametrize(
    ("n", "call", "words"),
    [
        (0, {}, "no samples"),
        (3, {"groups": ["a", "b"]}, "group labels"),
        (3, {"resamples": 0}, "resamples"),
        (3, {"confidence": 95}, "confidence"),
        (3, {"method": "magic"}, "method"),
    ],
)
def test_malformed_bootstraps_are_refused_in_one_line(n: int, call: dict[str, Any], words: str) -> None:
    with pytest.raises(BlendbenchError, match=words) as caught:
        bootstrap_interval(_mean_of(torch.ones(3)), n, **call)
    assert "\n" not in str(caught.value)


def test_a_statistic_that_is_not_finite_is_no_interval() -> None:
    with pytest.raises(BlendbenchError, match="not finite"):
        bootstrap_interval(_mean_of(torch.tensor([1.0, math.nan])), 2, resamples=20)


def test_resamples_taken_at_once_have_the_values_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)
    groups = [index // 3 for index in range(40)]  # the last one is smaller
    reference = torch.randn(60, 12, generator=draw) @ torch.randn(12, 12, generator=draw)
    few, more = (torch.randn(n, 12, generator=draw) + 5 for n in (9, 40))
    clips = [torch.randn(1 + index % 4, 12, generator=draw) for index in range(40)]
    mean = bootstrap.Mean(torch.randn(40, generator=draw).numpy())
    statistics = [(frechet.frechet_of_indices(one, reference), len(one)) for one in (few, more, clips)] + [(mean, 40)]
    for statistic, n in statistics:
        at_once = bootstrap.resample(statistic, n, groups[:n], 50, 7)
        one_by_one = bootstrap.resample(lambda indices, own=statistic: own(indices), n, groups[:n], 50, 7)
        np.testing.assert_allclose(at_once, one_by_one, rtol=1e-10)
        monkeypatch.setattr(bootstrap, "_PART", 3 * n)
        monkeypatch.setattr(frechet, "_NUMBERS", 1)
        np.testing.assert_allclose(bootstrap.resample(statistic, n, groups[:n], 50, 7), at_once, rtol=1e-12)


def test_resamples_taken_at_once_need_two_embeddings_each() -> None:
    statistic = frechet.frechet_of_indices([torch.randn(1, 3), torch.randn(1, 3)], torch.randn(9, 3))
    with pytest.raises(BlendbenchError, match="needs at least 2 embeddings, got 1"):
        statistic.of_counts(np.array([[1.0, 1.0], [1.0, 0.0]]))
