"""The sampler of Karras et al., and guidance, against closed forms and plain loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.edm import Churn, Guidance, Schedule, exact_guided, guided, sample

N, GAP = 64, slice(21, 43)
DEVIATION = 0.063


def covariance() -> np.ndarray:
    """Of an AR(2) process with poles .97 exp(+-.6i), at SimDPS's level."""
    pole = 0.97 * np.exp(0.6j)
    response = np.zeros(6000)
    a1, a2 = 2 * pole.real, -(abs(pole) ** 2)
    for index in range(len(response)):
        response[index] = (index == 0) + a1 * response[index - 1] * (index > 0) + a2 * response[index - 2] * (index > 1)
    lags = np.array([response[: len(response) - lag] @ response[lag:] for lag in range(N)])
    return DEVIATION**2 * lags[abs(np.subtract.outer(range(N), range(N)))] / lags[0]


C = covariance()
MASK = np.ones(N)
MASK[GAP] = 0


def gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x @ torch.from_numpy(np.linalg.solve(C + sigma**2 * np.eye(N), C)).to(x)


def within(sigma: float) -> np.ndarray:
    return sigma**2 * C @ np.linalg.inv(C + sigma**2 * np.eye(N))


def gain(sigma: float, sigma_y: float) -> np.ndarray:
    seen = MASK > 0
    part = within(sigma)[:, seen]
    return part @ np.linalg.inv(within(sigma)[np.ix_(seen, seen)] + sigma_y**2 * np.eye(int(seen.sum())))


def affine(y: np.ndarray, schedule: Schedule, churn: Churn, sigma_y: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance that the sampler reaches: each of its steps is affine in what it has and draws."""
    levels = schedule.levels()
    mean, spread = np.zeros(N), levels[0] ** 2 * np.eye(N)
    seen = MASK > 0

    def slope(sigma: float) -> tuple[np.ndarray, np.ndarray]:
        k = gain(sigma, sigma_y)
        d = np.linalg.solve(C + sigma**2 * np.eye(N), C).T
        d = d - k @ d[seen]
        return (np.eye(N) - d) / sigma, -(k @ y[seen]) / sigma

    for sigma, following in itertools.pairwise(levels):
        raised = sigma * (1 + churn.gamma(sigma, schedule.steps))
        spread = spread + (raised**2 - sigma**2) * np.eye(N)
        a, b = slope(raised)
        step, shift = np.eye(N) + (following - raised) * a, (following - raised) * b
        if following > 0:
            a2, b2 = slope(following)
            first, moved = step, shift
            step = np.eye(N) + (following - raised) * (a + a2 @ first) / 2
            shift = (following - raised) * (b + a2 @ moved + b2) / 2
        mean, spread = step @ mean + shift, step @ spread @ step.T
    return mean, spread


def observation() -> np.ndarray:
    return np.linalg.cholesky(C) @ np.random.RandomState(0).randn(N) * MASK


def draws(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + item) for item in range(count)]


@pytest.mark.parametrize(
    ("steps", "amount", "off"), [(50, 10, 0.044), (50, 0, 0.021), (100, 10, 0.0105), (400, 10, 0.0006)]
)
def test_the_posterior_of_a_gaussian_prior_is_reached(steps, amount, off):
    """As measured for the specification: the covariance's distance from the exact one, and the mean's."""
    sigma_y, y = 0.001, observation()
    seen = MASK > 0
    k = C[:, seen] @ np.linalg.inv(C[np.ix_(seen, seen)] + sigma_y**2 * np.eye(int(seen.sum())))
    mean, exact = k @ y[seen], C - k @ C[seen]
    reached, spread = affine(y, Schedule(steps), Churn(amount), sigma_y)
    gap = np.ix_(range(GAP.start, GAP.stop), range(GAP.start, GAP.stop))
    distance = np.linalg.norm(spread[gap] - exact[gap]) / np.linalg.norm(exact[gap])
    assert distance == pytest.approx(off, rel=0.25)
    error = np.abs(reached - mean)[GAP] / np.sqrt(np.diag(exact))[GAP]
    assert error.max() < (5e-3 if amount else 0.05)


def test_the_sampler_takes_the_steps_of_the_closed_form():
    """Many draws have the mean and the covariance that its affine steps give."""
    y, count, schedule, churn = observation(), 6000, Schedule(20), Churn(4.0)
    start = torch.randn(count, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signal = torch.from_numpy(y).expand(count, N)
    denoiser = exact_guided(gaussian, signal, torch.from_numpy(MASK), 0.01, lambda s: torch.from_numpy(within(s)))
    # One generator for all would do here, but an item has its own.
    made = sample(denoiser, start, schedule, churn, draws(count)).numpy()
    mean, spread = affine(y, schedule, churn, 0.01)
    deviation = np.sqrt(np.diag(spread))
    assert (np.abs(made.mean(0) - mean) / (deviation / math.sqrt(count))).max() < 4.5
    assert np.linalg.norm(np.cov(made.T) - spread) / np.linalg.norm(spread) < 0.08


def plain(
    y: np.ndarray, guide: np.ndarray, start: np.ndarray, noise: list[np.ndarray], weights: tuple[float, float]
) -> np.ndarray:
    """The paper's guidance, written out for a linear denoiser D = W x, whose gradients are -2 W' M (y - D)."""
    levels = [8.0 * (1e-5 / 8.0) ** (step / 49) for step in range(50)] + [0.0]
    x = 8.0 * start

    def slope(x: np.ndarray, sigma: float) -> np.ndarray:
        w = np.linalg.solve(C + sigma**2 * np.eye(N), C).T
        d = w @ x
        moved = d
        for weight, wanted, where in ((weights[0], y, MASK), (weights[1], guide, 1 - MASK)):
            if weight:
                g = -2 * w.T @ (where * (wanted - d))
                moved = moved - sigma * weight * g / math.sqrt((g**2).mean())
        return (x - moved) / sigma

    for step in range(50):
        sigma, following = levels[step], levels[step + 1]
        raised = sigma * (1 + min(10 / 50, math.sqrt(2) - 1))
        x = x + math.sqrt(raised**2 - sigma**2) * noise[step]
        first = slope(x, raised)
        reached = x + (following - raised) * first
        if following > 0:
            reached = x + (following - raised) * (first + slope(reached, following)) / 2
        x = reached
    return x


@pytest.mark.parametrize("weight", [0.0, 0.04, 0.15])
def test_the_papers_guidance_agrees_with_a_plain_loop(weight):
    y, guide = observation(), np.linalg.cholesky(C) @ np.random.RandomState(3).randn(N)
    starts = torch.randn(2, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    signal = torch.from_numpy(MASK * y + (1 - MASK) * guide).expand(2, N)
    denoiser = guided(gaussian, signal, torch.from_numpy(MASK), Guidance(0.3, weight))
    made = sample(denoiser, starts, Schedule(), Churn(), draws(2, 5)).numpy()
    for item in range(2):
        (generator,) = draws(1, 5 + item)
        noise = [torch.randn(N, generator=generator).double().numpy() for _ in range(50)]
        expected = plain(y, guide, starts[item].numpy(), noise, (0.3, weight))
        assert np.abs(made[item] - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_an_item_comes_out_the_same_in_any_batch():
    starts = torch.randn(3, N, generator=torch.Generator().manual_seed(2))
    together = sample(gaussian, starts, Schedule(10), Churn(), draws(3))
    for item in range(3):
        alone = sample(gaussian, starts[item : item + 1], Schedule(10), Churn(), draws(1, item))
        assert torch.allclose(alone[0], together[item], atol=1e-6)


def test_levels_go_from_the_highest_to_nothing():
    log, edm = Schedule(5, 8.0, 0.5).levels(), Schedule(5, 8.0, 0.5, "edm", 7.0).levels()
    assert log == pytest.approx([8, 4, 2, 1, 0.5, 0])
    assert edm[0] == pytest.approx(8) and edm[-2] == pytest.approx(0.5) and edm[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(edm))
    assert Churn(10.0).gamma(1.0, 50) == pytest.approx(0.2)
    assert Churn(100.0).gamma(1.0, 50) == pytest.approx(math.sqrt(2) - 1)
    assert Churn(10.0, low=0.1, high=2.0).gamma(3.0, 50) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(1), "steps is 1"),
        (lambda: Schedule(10, 1.0, 2.0), "sigma_min < sigma_max"),
        (lambda: Schedule(10, kind="linear"), "choose log or edm"),
        (lambda: Schedule(10, kind="edm", rho=0.0), "rho is 0"),
        (lambda: Churn(-1.0), "amount of churn"),
        (lambda: Guidance(guide=-0.1), "guidance.guide"),
        (lambda: sample(gaussian, torch.zeros(2, N), Schedule(2), Churn(), draws(1)), "1 given for 2"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(BlendbenchError, match=message):
        make()
