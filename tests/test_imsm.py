"""IMSM and the contrastive loss of images and texts: golden values, bounds, ties, and what is refused."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_models import tiny_tokenizer
from transformers import CLIPConfig, CLIPModel

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores, TextEvaluator
from blendbench.evaluators.pocket import PocketTagger
from blendbench.metrics import imsm_score
from blendbench.metrics.imsm import IMSM
from blendbench.metrics.imsm_score import bounds, imsm, similarity
from blendbench.models.clip import MEAN, SPREAD, ClipCheckpoint
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


# The metric


class Told(TextEvaluator):
    """An evaluator whose embeddings are told beforehand."""

    name, sample_rate, comparable, scale, fingerprint = "told", 44_100, False, 3.0, "told"

    def __init__(self, texts: dict[str, list[float]]) -> None:
        self.texts = texts

    def score(self, waveform: torch.Tensor) -> Scores:
        return Scores(waveform[None], None)

    def score_text(self, text: str) -> torch.Tensor:
        return torch.tensor(self.texts[text])


class Pair:
    """A sound, as far as the metric looks at it: its embedding is its waveform."""

    def __init__(self, arm: str, prompt: str, image: torch.Tensor | None, embedding: list[float]) -> None:
        self.row = {"dataset": "d", "arm": arm, "presentation": "as_made", "prompt": prompt}
        self.row |= {"inputs": f"{prompt}-{image is not None}"}
        self.image, self.embedding = image, torch.tensor(embedding)

    def given(self) -> SimpleNamespace:
        return SimpleNamespace(image=self.image)

    def scores(self, evaluator: Told) -> Scores:
        return evaluator.score(self.embedding)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's architecture with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_dim": 8}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    vision = small | {"image_size": 32, "patch_size": 16, "projection_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_pairs_of_a_cell_are_held_against_its_captions(clip_folder):
    told = Told({"a": [1.0, 0.0], "b": [0.0, 1.0]})
    metric = IMSM(told, {"checkpoint": str(clip_folder)})
    red, blue = torch.zeros(3, 40, 60), torch.zeros(3, 60, 40)
    red[0], blue[2] = 1, 1
    pairs = [
        Pair("one", "a", red, [2.0, 0.0]), Pair("one", "b", blue, [0.0, 5.0]), Pair("one", "a", None, [1.0, 1.0]),
        Pair("other", "a", red, [0.0, 1.0]), Pair("other", "b", blue, [1.0, 0.0]), Pair("alone", "a", red, [1.0, 0.0]),
    ]  # fmt: skip
    found = [value["imsm"] for value in metric.measure_all(pairs)]
    images = metric.clip.get("cpu").logits([red, blue], ["a", "b"])
    music = 3.0 * torch.eye(2)
    assert found[:2] == pytest.approx(imsm_score.imsm(images, music).tolist())
    assert found[3:5] == pytest.approx(imsm_score.imsm(images, music.flip(0)).tolist())
    assert math.isnan(found[2]) and math.isnan(found[5])
    assert metric.signature()["reduce"] == "diagonal" and "CLAP" in metric.recipe("imsm", None)


def test_logits_are_those_of_clip_and_do_not_depend_on_neighbours(clip_folder):
    clip = ClipCheckpoint("c", str(clip_folder)).get("cpu")
    red, blue, texts = torch.zeros(3, 32, 32), torch.ones(3, 48, 32), ["a piano", "drums and more than a context holds"]
    red[0] = 1
    both = clip.logits([red, blue], texts)
    assert both.shape == (2, 2) and torch.equal(both[1:], clip.logits([blue], texts))
    model, mean, spread = CLIPModel.from_pretrained(clip_folder).eval(), torch.tensor(MEAN), torch.tensor(SPREAD)
    words = clip.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        seen = (red - mean[:, None, None]) / spread[:, None, None]
        expected = model(pixel_values=seen[None], **words).logits_per_image
    assert torch.allclose(both[:1], expected, atol=1e-4)


def test_what_cannot_be_compared_is_refused_in_one_line(clip_folder, tmp_path):
    with pytest.raises(BlendbenchError, match=r"imsm\.reduce is 'sum'"):
        IMSM(Told({}), {"checkpoint": str(clip_folder)}, "sum")
    tagger = PocketTagger("pocket-tagger", "pocket", False)
    with pytest.raises(BlendbenchError, match=r"evaluator\.prompt: pocket-tagger has no scaled similarities"):
        IMSM(tagger, {"checkpoint": str(clip_folder)})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BlendbenchError, match="cannot be read as a CLIP"):
        ClipCheckpoint("c", str(tmp_path)).get("cpu")
