"""Paired tests between arms, Holm's correction, agreement of orderings."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from blendbench.errors import BlendbenchError
from blendbench.metrics import bootstrap, comparison


def values(n: int = 40, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    first = draw.normal(size=n)
    return first, first + 0.5 * draw.normal(size=n) - shift


def test_clear_difference_has_a_small_p_and_an_interval_beside_zero():
    first, second = values(shift=1.0)
    found = comparison.paired_means(first, second, range(40))
    assert found.value == pytest.approx((first - second).mean())
    assert found.p < 0.001
    assert 0 < found.low < found.value < found.high


def test_p_of_single_pairs_is_that_of_all_sign_flips():
    first, second = values(n=8, shift=0.4)
    sums = [abs(sum(sign * d for sign, d in zip(signs, first - second, strict=True))) for signs in signs_of(8)]
    expected = np.mean([s >= abs((first - second).sum()) - 1e-12 for s in sums])
    assert comparison.paired_means(first, second, range(8)).p == pytest.approx(expected)


def signs_of(n: int):
    return np.array(np.meshgrid(*[[-1, 1]] * n)).reshape(n, -1).T


def test_p_is_even_where_there_is_no_difference():
    found = [comparison.paired_means(*values(seed=seed), range(40), resamples=199).p for seed in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_pairs_of_one_noise_count_once():
    first, second = values(n=10, shift=0.5)
    alone = comparison.paired_means(first, second, range(10))
    many = comparison.paired_means(np.repeat(first, 20), np.repeat(second, 20), np.repeat(range(10), 20))
    assert many.value == pytest.approx(alone.value)
    assert many.p == pytest.approx(alone.p)


def test_equal_arms_differ_by_nothing():
    found = comparison.paired_means([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "abc")
    assert (found.value, found.p) == (0.0, 1.0)


def test_one_group_has_a_difference_but_no_p():
    found = comparison.paired_means([1.0, 2.0], [0.0, 0.0], "aa")
    assert found.value == 1.5
    assert math.isnan(found.p)


@pytest.mark.parametrize(
    ("first", "second", "groups"), [([], [], []), ([1.0], [1.0, 2.0], "ab"), ([math.nan], [1.0], "a")]
)
def test_what_cannot_be_paired_is_refused(first, second, groups):
    with pytest.raises(BlendbenchError, match="paired test"):
        comparison.paired_means(first, second, groups)


def test_statistics_of_sets_are_compared_over_the_same_resamples():
    first, second = (torch.from_numpy(one) for one in values(shift=1.0))
    found = comparison.paired_statistics(
        lambda i: float(first[i].median()), lambda i: float(second[i].median()), 40, range(40), 500
    )
    assert found.value == pytest.approx(float(first.median() - second.median()))
    assert found.low < found.value < found.high
    assert found.p < 0.05
    same = comparison.paired_statistics(
        lambda i: float(first[i].median()), lambda i: float(first[i].median()), 40, range(40), 100
    )
    assert (same.value, same.p) == (0.0, 1.0)


def test_equal_groups_and_seed_draw_equal_resamples():
    first, _ = values()
    tensor = torch.from_numpy(first)
    draws = [bootstrap.resample(lambda i: float(tensor[i].mean()), 40, list(range(40)), 50, 3) for _ in range(2)]
    assert np.array_equal(draws[0], draws[1])


def test_holm_is_that_of_the_textbook():
    # Holm (1979): ordered p times 4, 3, 2, 1, and never falling.
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.5, 0.9]) == [1.0, 1.0]
    assert comparison.holm([]) == []


def test_holm_passes_over_what_was_not_tested():
    found = comparison.holm([0.02, math.nan, 0.04])
    assert found[0] == pytest.approx(0.04)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)


def test_same_ordering_agrees_and_the_reverse_does_not():
    paper = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert comparison.agreement({"a": 10, "b": 20, "c": 21}, paper)[:1] == (1.0,)
    reverse = comparison.agreement({"a": 3, "b": 2, "c": 1}, paper)
    assert reverse.tau == -1
    assert reverse.flips == [("a", "b"), ("a", "c"), ("b", "c")]


def test_flips_name_the_better_of_the_other_ordering_first():
    found = comparison.agreement({"x": 2, "y": 1, "z": 0}, {"x": 5, "y": 6, "z": 1}, higher_is_better=False)
    assert found.flips == [("x", "y")]
    found = comparison.agreement({"x": 2, "y": 1, "z": 0}, {"x": 5, "y": 6, "z": 1}, higher_is_better=True)
    assert found.flips == [("y", "x")]


def test_agreement_leaves_out_what_one_side_lacks():
    found = comparison.agreement({"a": 1, "b": math.nan, "c": 2, "e": 9}, {"a": 1, "b": 2, "c": 3, "d": 4})
    assert (found.tau, found.n) == (1.0, 2)
    assert math.isnan(comparison.agreement({"a": 1}, {"a": 1}).tau)
