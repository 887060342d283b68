"""IMSM and the contrastive loss of images and texts: golden values, bounds, ties, and what is refused."""

import math

import numpy as np
import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.metrics.imsm_score import bounds, imsm, similarity
from blendbench.models.itc import itc_loss

CLIP, CLAP = torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 3.0]))
REDUCTIONS = ("diagonal", "diagonal_softmax", "recall")


def logits(pairs: int, texts: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(pairs, texts, generator=torch.Generator().manual_seed(seed))


def rowsoftmax(values: np.ndarray) -> np.ndarray:
    """A transcription of the formula, apart from torch."""
    raised = np.exp(values)
    return raised / raised.sum(1, keepdims=True)


# IMSM


def test_golden_values():
    made = similarity(CLIP, CLAP)
    expected = torch.tensor([[0.675973, 0.155322], [0.393224, 0.709142]], dtype=torch.float64)
    torch.testing.assert_close(made, expected, rtol=0, atol=5e-7)
    assert imsm(CLIP, CLAP).mean().item() == pytest.approx(0.692558, abs=5e-7)
    assert imsm(CLIP, CLAP, "diagonal_softmax").mean().item() == pytest.approx(0.602815, abs=5e-7)
    assert imsm(CLIP, CLAP, "recall").tolist() == [1.0, 1.0]


def test_it_is_the_formula_written_with_numpy():
    images, music = logits(5, 7, 0), logits(5, 7, 1)
    product = rowsoftmax(images.double().numpy()) @ rowsoftmax(music.double().numpy()).T
    np.testing.assert_allclose(similarity(images, music).numpy(), product, rtol=1e-12)
    np.testing.assert_allclose(imsm(images, music).numpy(), np.diag(product), rtol=1e-12)
    np.testing.assert_allclose(
        imsm(images, music, "diagonal_softmax").numpy(), np.diag(rowsoftmax(product)), rtol=1e-12
    )
    np.testing.assert_array_equal(imsm(images, music, "recall").numpy(), product.argmax(1) == np.arange(5))


@pytest.mark.parametrize("pairs", [2, 10])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_values_reach_their_bounds_and_do_not_pass_them(pairs, reduce):
    sure = 50 * torch.eye(pairs)
    lowest, chance, highest = bounds(reduce, pairs)
    assert imsm(sure, sure, reduce).tolist() == pytest.approx([highest] * pairs)
    assert imsm(torch.zeros(pairs, pairs), sure, reduce).tolist() == pytest.approx([chance] * pairs)
    for seed in range(20):
        made = imsm(logits(pairs, pairs, seed), logits(pairs, pairs, seed + 100), reduce)
        assert made.min() >= lowest and made.max() <= highest


def test_the_published_softmax_holds_the_diagonal_far_under_1():
    """Why the paper's .51 to .98 cannot be its mean: .731 is the most of two pairs, .25 of ten."""
    assert bounds("diagonal_softmax", 2).highest == pytest.approx(math.e / (math.e + 1))
    assert bounds("diagonal_softmax", 2).highest == pytest.approx(0.731, abs=5e-4)
    assert bounds("diagonal_softmax", 10).highest < 0.25
    # The least: one's own music is the one that is surely of another text, all others are of the image's.
    images, music = torch.tensor([[50.0, 0.0]] * 3), torch.tensor([[0.0, 50.0], [50.0, 0.0], [50.0, 0.0]])
    least = imsm(images, music, "diagonal_softmax")[0].item()
    assert least == pytest.approx(bounds("diagonal_softmax", 3).lowest)


def test_a_tie_is_shared():
    images, music = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    assert imsm(images, music, "recall").tolist() == [0.5, 0.5]
    assert imsm(torch.zeros(4, 3), torch.zeros(4, 3), "recall").tolist() == [0.25] * 4


def test_a_shift_of_all_of_a_row_changes_nothing_and_the_scale_does():
    images, music = logits(4, 4, 0), logits(4, 4, 1)
    torch.testing.assert_close(imsm(images + 5, music), imsm(images, music))
    assert not torch.allclose(imsm(images / 100, music), imsm(images, music))


@pytest.mark.parametrize(
    ("images", "music", "why"),
    [
        (torch.zeros(0, 2), torch.zeros(0, 2), "IMSM of 0 pair"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "IMSM of 1 pair"),
        (torch.zeros(3, 1), torch.zeros(3, 1), "two texts or more"),
        (torch.zeros(3), torch.zeros(3), "give .images, texts."),
        (torch.zeros(3, 2), torch.zeros(3, 3), "to 2 and 3 texts"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "3 images and 2 pieces of music: give pairs"),
        (torch.zeros(2, 2), torch.full((2, 2), torch.nan), "music similarities are not finite"),
        (torch.full((2, 2), torch.inf), torch.zeros(2, 2), "image similarities are not finite"),
    ],
)
def test_malformed_similarities_are_refused(images, music, why):
    with pytest.raises(BlendbenchError, match=why):
        imsm(images, music)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(BlendbenchError, match=r"imsm\.reduce is 'mean': choose diagonal, diagonal_softmax, recall"):
        imsm(CLIP, CLAP, "mean")  # type: ignore[arg-type]
    with pytest.raises(BlendbenchError, match="IMSM of 1 pair"):
        bounds("diagonal", 1)


def test_all_music_can_be_held_against_all_images():
    assert similarity(logits(3, 5, 0), logits(8, 5, 1)).shape == (3, 8)


# The contrastive loss


def test_golden_losses():
    assert itc_loss(torch.eye(3), torch.eye(3), 1.0).item() == pytest.approx(0.551445, abs=1e-6)
    alike = torch.tensor([[0.6, 0.8]]).expand(4, 2)
    assert itc_loss(alike, alike, 0.07).item() == pytest.approx(math.log(4), abs=1e-6)
    images, texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    assert itc_loss(images, texts, 0.5).item() == pytest.approx(0.524897, abs=1e-6)
    assert itc_loss(texts, images, 0.5).item() == pytest.approx(0.524897, abs=1e-6)


def test_the_loss_is_equation_1_written_out():
    images, texts = (torch.nn.functional.normalize(logits(5, 4, seed), dim=1).double() for seed in (0, 1))
    exponentials = torch.exp(images @ texts.T / 0.07)
    expected = 0.0
    for j in range(5):
        expected -= math.log(exponentials[j, j] / exponentials[j].sum()) / 10
        expected -= math.log(exponentials[j, j] / exponentials[:, j].sum()) / 10
    assert itc_loss(images, texts, 0.07).item() == pytest.approx(expected, rel=1e-12)


def test_images_texts_and_temperature_learn_from_it():
    images, texts = torch.eye(3, requires_grad=True), torch.eye(3).roll(1, 0).requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    itc_loss(images, texts, temperature).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in (images, texts, temperature))
    # All pairs are wrong: a higher temperature would cost less.
    assert temperature.grad is not None and temperature.grad < 0
    assert itc_loss(torch.eye(1), torch.eye(1), temperature).item() == 0


@pytest.mark.parametrize(
    ("images", "texts", "temperature", "why"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 3), 1.0, "give .pairs, dimensions. for both"),
        (torch.zeros(0, 3), torch.zeros(0, 3), 1.0, "give .pairs, dimensions. for both"),
        (torch.zeros(3), torch.zeros(3), 1.0, "give .pairs, dimensions. for both"),
        (torch.eye(2), torch.eye(2), 0.0, "temperature is 0: give one above 0"),
        (torch.eye(2), torch.eye(2), torch.tensor(-1.0), "temperature is -1"),
        (torch.eye(2), torch.eye(2), math.nan, "temperature is nan"),
    ],
)
def test_what_has_no_loss_is_refused(images, texts, temperature, why):
    with pytest.raises(BlendbenchError, match=why):
        itc_loss(images, texts, temperature)
