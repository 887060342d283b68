"""Hints of edges, held against counts measured with OpenCV, and what is refused."""

import numpy as np
import pytest
import torch
from support.stimuli import PIECES, stimulus

from blendbench.errors import BlendbenchError
from blendbench.sound.edges import Edges, edge_share
from blendbench.sound.mel import encode_image, riffusion_mel


def image(piece: str) -> torch.Tensor:
    """The published excerpt's mel image [1, 512, 512], as Riff-CNET's preparation makes it."""
    heard = stimulus(piece, "Original")[:225_351]
    return encode_image(riffusion_mel((heard / heard.abs().max())[None]), quantize=True)[0]


@pytest.mark.parametrize(
    ("piece", "settings", "count"),
    [
        (PIECES[0], {}, 12_037),
        (PIECES[0], {"image": "jpeg"}, 12_013),
        (PIECES[0], {"low": 150.0}, 7_359),
        (PIECES[1], {}, 32_319),
        (PIECES[1], {"image": "jpeg"}, 32_313),
        (PIECES[1], {"low": 150.0}, 24_292),
    ],
)
def test_edges_of_the_published_excerpts_are_as_many_as_measured(piece, settings, count):
    hint = Edges(**settings).of(image(piece))
    assert int((hint[0, 0] > 0.5).sum()) == pytest.approx(count, rel=0.01)
    assert float(edge_share(hint)[0]) == pytest.approx(count / 512**2, rel=0.01)


@pytest.mark.parametrize(
    ("piece", "kind", "mean"),
    [
        (PIECES[0], "sobel", 23.87),
        (PIECES[0], "sobeldenoise", 12.97),
        (PIECES[1], "sobel", 35.08),
        (PIECES[1], "sobeldenoise", 22.65),
    ],
)
def test_gradients_of_the_published_excerpts_are_as_strong_as_measured(piece, kind, mean):
    assert 255 * float(Edges(kind=kind).of(image(piece)).mean()) == pytest.approx(mean, rel=0.01)


def test_a_hint_has_three_equal_channels_in_0_to_1():
    pixels = 255 * torch.rand(2, 64, 32, generator=torch.Generator().manual_seed(0))
    hint = Edges().of(pixels)
    assert hint.shape == (2, 3, 64, 32) and torch.equal(hint[:, 0], hint[:, 1]) and torch.equal(hint[:, 0], hint[:, 2])
    assert set(hint.unique().tolist()) <= {0.0, 1.0}


def test_a_hint_that_was_a_jpeg_has_more_greys_than_two():
    square = torch.full((1, 64, 64), 255.0)
    square[:, 20:40, 20:40] = 0.0
    direct, stored = Edges().of(square), Edges(storage="jpeg").of(square)
    assert len(direct.unique()) == 2 < len(stored.unique())
    assert float(((direct > 0.5) == (stored > 0.5)).float().mean()) > 0.98


def test_edges_of_a_square_are_its_outline_and_of_a_blank_none():
    square = torch.full((1, 64, 64), 255.0)
    square[:, 20:40, 20:40] = 0.0
    found = (Edges().of(square)[0, 0] > 0.5).numpy()
    assert 60 < found.sum() < 100 and not found[24:36, 24:36].any() and not found[:18].any()
    assert not np.any(Edges().of(torch.full((1, 64, 64), 255.0)).numpy())


def test_the_whole_image_is_the_image():
    pixels = torch.arange(64 * 64).reshape(1, 64, 64).float() % 256
    assert torch.equal(Edges(kind="fullspec").of(pixels)[0, 0], pixels[0] / 255)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "laplace"}, "hint.kind=laplace: unknown; use one of canny"),
        ({"low": 0.0}, "give 0 < low <= high"),
        ({"low": 300.0}, "give 0 < low <= high"),
        ({"storage": "png"}, "hint.storage=png"),
        ({"image": "png"}, "hint.image=png"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(BlendbenchError, match=message):
        Edges(**settings)
