"""Msanii's sampling: calls and times as published, closed forms, and what RePaint keeps."""

import math

import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.mel_diffusion import (
    alpha_bar,
    at_time,
    between,
    calls_of,
    denoise,
    noise_of,
    noised,
    repaint,
    repaint_times,
    times_from,
)


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + one) for one in range(count)]


@pytest.mark.parametrize(
    ("time", "value"),
    [
        (0, 0.999958715775178), (99, 0.9720927371139696), (200, 0.8977629134837037), (498, 0.4954020689880179),
        (896, 0.025546292577736582), (995, 3.8859798675030295e-05), (999, 2.4287669070348567e-09),
    ],
)  # fmt: skip
def test_the_schedule_is_the_published_one(time, value):
    assert float(alpha_bar()[time]) == pytest.approx(value, rel=1e-3 if time > 990 else 1e-5)


@pytest.mark.parametrize(
    ("top", "calls", "first"), [(100, 100, 99), (200, 200, 199), (500, 250, 498), (900, 225, 896), (1000, 200, 995)]
)
def test_two_hundred_steps_call_at_the_published_times(top, calls, first):
    times = times_from(top)
    assert (len(times), times[0], times[-1]) == (calls, first, 0)
    seen: list[int] = []

    def model(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(int(at[0]))
        return torch.zeros_like(x)

    denoise(model, torch.zeros(1, 1, 4, 4), top)
    assert seen == times


@pytest.mark.parametrize(("top", "steps"), [(-1, 200), (1001, 200), (500, 0)])
def test_times_out_of_range_are_refused(top, steps):
    with pytest.raises(BlendbenchError):
        times_from(top, steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 150, 300, 1000])
def test_any_number_of_steps_ends_at_time_0(steps):
    clean = torch.full((1, 1, 4, 4), 0.25)

    def oracle(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        share = alpha_bar()[at].reshape(-1, 1, 1, 1)
        return (x - share.sqrt() * clean) / (1 - share).sqrt()

    made = denoise(oracle, torch.randn(1, 1, 4, 4), 1000, steps)
    assert torch.allclose(made, clean, atol=1e-3)


def test_an_oracle_returns_what_was_noised_within_minus_1_to_1():
    torch.manual_seed(0)
    clean = 1.5 * torch.randn(2, 1, 8, 16)

    def oracle(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        share = alpha_bar()[at].reshape(-1, 1, 1, 1)
        return (x - share.sqrt() * clean) / (1 - share).sqrt()

    made = denoise(oracle, at_time(clean, 500, generators(2)), 500)
    assert torch.allclose(made, clean.clamp(-1, 1), atol=1e-5)


def test_a_gaussian_denoiser_samples_its_gaussian():
    mean, deviation = 0.2, 0.15

    def ideal(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        share = alpha_bar()[at].reshape(-1, 1, 1, 1).double()
        gain = deviation**2 * share.sqrt() / (deviation**2 * share + 1 - share)
        clean = mean + gain * (x - share.sqrt() * mean)
        return (x - share.sqrt() * clean) / (1 - share).sqrt()

    start = torch.randn(1, 1, 64, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = denoise(ideal, start, 1000)
    assert float(made.mean()) == pytest.approx(mean, abs=0.005)
    assert float(made.std()) == pytest.approx(deviation, rel=0.03)


def test_at_time_0_nothing_is_added_and_nothing_done():
    clean = torch.randn(1, 1, 4, 4)
    assert torch.equal(at_time(clean, 0, generators(1)), clean)
    assert torch.equal(denoise(lambda x, t: 1 / 0, clean, 0), clean)


def test_noise_of_an_item_does_not_depend_on_its_batch():
    together = noise_of((1, 4, 4), generators(3), torch.zeros(1))
    alone = noise_of((1, 4, 4), generators(1, 2), torch.zeros(1))
    assert torch.equal(together[2:], alone)


# Interpolation


def test_independent_noises_lack_variance_and_shared_ones_do_not():
    zeros = torch.zeros(1, 1, 128, 512)
    sigma = 1 - float(alpha_bar()[900])
    for noise, wanted in (("independent", 0.5), ("shared", 1.0)):
        mixed = between(zeros, zeros, 900, 0.5, generators(1), noise)
        assert float(mixed.var()) == pytest.approx(wanted * sigma, rel=0.02)
    one = torch.randn(1, 1, 4, 4)
    assert torch.allclose(between(one, 9 * one, 300, 1.0, generators(1)), at_time(one, 300, generators(1)))


@pytest.mark.parametrize(("share", "noise"), [(-0.1, "shared"), (1.1, "shared"), (0.5, "other")])
def test_a_share_out_of_range_is_refused(share, noise):
    with pytest.raises(BlendbenchError):
        between(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 100, share, generators(1), noise)


# RePaint


@pytest.mark.parametrize(
    ("steps", "jump", "resample", "calls", "again"),
    [
        (200, 10, 10, 1910, 1710), (250, 10, 10, 2410, 2160), (1000, 10, 10, 9910, 8910), (200, 10, 3, 580, 380),
        (200, 10, 1, 200, 0), (200, 1, 10, 1991, 1791), (50, 5, 3, 140, 90), (10, 10, 10, 10, 0),
    ],
)  # fmt: skip
def test_repaint_calls_as_often_as_published(steps, jump, resample, calls, again):
    assert calls_of(repaint_times(steps, jump, resample)) == (calls, again)


def zero(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize("renoise", ["diffusers", "exact"])
def test_what_is_kept_comes_out_bit_for_bit(renoise):
    torch.manual_seed(0)
    clean = torch.rand(2, 1, 8, 16) * 2 - 1
    keep = torch.ones(16)
    keep[5:9] = 0
    made = repaint(zero, clean, keep, generators(2), steps=20, jump=5, resample=3, renoise=renoise)
    assert torch.equal(made[..., :5], clean[..., :5]) and torch.equal(made[..., 9:], clean[..., 9:])
    assert not torch.equal(made[..., 5:9], clean[..., 5:9])
    alone = repaint(zero, clean[1:], keep, generators(1, 1), steps=20, jump=5, resample=3, renoise=renoise)
    assert torch.allclose(made[1:], alone, atol=1e-6)


def test_noise_put_back_exactly_has_the_level_of_its_time():
    """The walk of 10 steps, jump 5: after the first descent to 0.4 of the times, noise is added over five strides."""
    levels: dict[str, dict[int, float]] = {}
    for renoise in ("diffusers", "exact"):
        seen: dict[int, list[float]] = {}

        def perfect(x: torch.Tensor, at: torch.Tensor, seen: dict[int, list[float]] = seen) -> torch.Tensor:
            share = float(alpha_bar()[at[0]])
            seen.setdefault(int(at[0]), []).append(float(x[..., 1:].var()) / (1 - share))
            return x / math.sqrt(1 - share)  # all of it is noise

        clean = torch.zeros(1, 1, 64, 257)
        keep = torch.zeros(257)
        keep[0] = 1
        repaint(perfect, clean, keep, generators(1), steps=20, jump=5, resample=2, renoise=renoise)
        levels[renoise] = {time: values[-1] for time, values in seen.items()}
    assert all(value == pytest.approx(1.0, abs=0.05) for value in levels["exact"].values())
    # diffusers adds more than belongs there, as its betas are of later times.
    assert max(levels["diffusers"].values()) > 1.15


def test_a_stopped_painting_goes_on_as_if_it_had_not_been():
    torch.manual_seed(0)
    clean, keep = torch.rand(1, 1, 8, 16) * 2 - 1, torch.zeros(16)
    keep[:8] = 1
    words = {"steps": 20, "jump": 5, "resample": 3}

    def model(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * at[0] / 1000

    held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    draws = generators(1)
    whole = repaint(
        model, clean, keep, draws, **words, after=lambda number, x: held.update({number: (x, draws[0].get_state())})
    )
    for stop in (1, 17, len(held) - 1):
        x, state = held[stop]
        again = torch.Generator()
        again.set_state(state)
        assert torch.equal(repaint(model, clean, keep, [again], **words, begun=x, first=stop), whole)


@pytest.mark.parametrize(
    "words", [{"steps": 0}, {"steps": 1001}, {"jump": 0}, {"resample": 0}, {"eta": 2.0}, {"renoise": "x"}]
)
def test_settings_of_repaint_out_of_range_are_refused(words):
    with pytest.raises(BlendbenchError):
        repaint(zero, torch.zeros(1, 1, 2, 8), torch.zeros(8), generators(1), **words)


def test_nothing_to_paint_is_refused():
    with pytest.raises(BlendbenchError, match="nothing is to be painted"):
        repaint(zero, torch.zeros(1, 1, 2, 8), torch.ones(8), generators(1))


def test_noised_takes_a_time_an_item():
    clean, noise = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    made = noised(clean, torch.tensor([0, 900]), noise)
    assert made[:, 0, 0, 0].tolist() == pytest.approx(alpha_bar()[[0, 900]].sqrt().tolist())
