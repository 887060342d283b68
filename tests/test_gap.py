"""The gap, its mask, and the cross-fade outside it."""

import pytest
import torch
from support.stimuli import GAP, LSB, PIECES, stimulus

from blendbench.errors import ClipError
from blendbench.tasks.long_gap.gap import Gap, paste, validate


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# Gap


def test_the_mask_is_true_where_observed() -> None:
    assert Gap(2, 4).mask(6).tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("gap", "why"),
    [
        (Gap(5, 5), "is empty"),
        (Gap(6, 4), "is empty"),
        (Gap(0, 4), "lies at an edge"),
        (Gap(-3, 4), "lies at an edge"),
        (Gap(4, 10), "lies at an edge"),
        (Gap(4, 11), "lies at an edge"),
        (Gap(0, 10), "leaves no context"),
        (Gap(-1, 12), "leaves no context"),
    ],
)
def test_a_gap_that_is_not_inside_says_why_in_one_line(gap: Gap, why: str) -> None:
    for refused in (gap.check, gap.mask):
        with pytest.raises(ClipError, match=why) as raised:
            refused(10)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("waveform", "why"),
    [
        (torch.zeros(2, 10), "give one channel"),
        (torch.zeros(0), "leaves no context"),
        (torch.tensor([0.0, float("nan"), 0.0, 0.0, 0.0]), "NaN"),
        (torch.tensor([0.0, float("inf"), 0.0, 0.0, 0.0]), "NaN or infinity"),
    ],
)
def test_a_malformed_waveform_says_why(waveform: torch.Tensor, why: str) -> None:
    with pytest.raises(ClipError, match=why):
        validate(waveform, Gap(2, 4))


# Paste


def test_the_gap_takes_the_fill_and_the_weights_rise_linearly_towards_it() -> None:
    pasted = paste(torch.zeros(14), torch.ones(14), Gap(6, 8), fade=5)
    assert pasted.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_440_samples_a_side_change_and_all_others_keep_their_bits() -> None:
    degraded, filled, gap = _noise(5000), _noise(2, 5000)[0], Gap(2000, 3000)
    changed = paste(degraded, filled, gap) != degraded
    assert changed[2000 - 440 : 3000 + 440].all()
    assert changed.sum() == 1000 + 2 * 440


@pytest.mark.parametrize("fade", [0, 1])
def test_without_weights_between_0_and_1_the_cut_is_hard(fade: int) -> None:
    degraded, filled, gap = torch.zeros(20), torch.ones(20), Gap(5, 9)
    assert torch.equal(paste(degraded, filled, gap, fade), (~gap.mask(20)).float())


def test_channels_are_pasted_alike() -> None:
    degraded, filled, gap = _noise(2, 3000), _noise(2, 3000) + 1, Gap(1000, 2000)
    both = paste(degraded, filled, gap)
    assert torch.equal(both, torch.stack([paste(d, f, gap) for d, f in zip(degraded, filled, strict=True)]))


def test_a_fill_equal_to_the_context_changes_nothing_outside_the_gap() -> None:
    original, gap = _noise(3000).double(), Gap(1000, 2000)
    assert torch.allclose(paste(original * gap.mask(3000), original, gap), original, atol=1e-15)


def test_nan_in_a_fill_outside_the_fade_is_not_taken() -> None:
    filled = torch.full((20,), float("nan"))
    filled[5:9] = 1
    assert torch.isfinite(paste(torch.zeros(20), filled, Gap(5, 9), fade=0)).all()


@pytest.mark.parametrize(
    ("fade", "shape", "why"),
    [(441, (1000,), "does not fit"), (-1, (1000,), "does not fit"), (5, (999,), "make them equal")],
)
def test_a_fade_or_fill_that_does_not_fit_says_why(fade: int, shape: tuple[int], why: str) -> None:
    with pytest.raises(ClipError, match=why):
        paste(torch.zeros(1000), torch.zeros(shape), Gap(440, 500), fade)


# The published excerpts


@pytest.mark.parametrize("piece", PIECES)
def test_published_sim_differs_from_the_original_in_the_gap_and_440_samples_a_side(piece: str) -> None:
    difference = (stimulus(piece, "Sim") - stimulus(piece, "Original")).abs()
    changed = torch.nonzero(difference > LSB).flatten()
    assert (changed[0], changed[-1]) == (GAP.start - 440, GAP.stop + 439)
