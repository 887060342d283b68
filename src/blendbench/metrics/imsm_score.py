"""IMSM: how well images and pieces of music go together, by way of texts that both are held against.

Inputs are similarities [N, T] of N images to T texts and of N pieces of music to the same texts; row i of both makes a
pair. They are a model's logits, cosines times its learned scale (CLIP's `logits_per_image`, CLAP's `logits_per_audio`):
bare cosines make all rows alike. With A and B their softmax over texts, A B' says of each image and piece of music how
likely both mean the same text. Sums are taken in float64.

The published code prints the softmax of A B' along its rows, a matrix, and does not say how it becomes one number. A
row's softmax of values in 0..1 is at most e / (e + N - 1), .731 for two pairs and .25 for ten, so the published
.51 to .98 are no mean of its diagonal; `diagonal`, without that softmax, reaches 1. All depend on T, and all but
`diagonal` on N: say both beside a value.

Source: Chowdhury et al. (2024), MeLFusion (arXiv 2406.04673), and its code's `imsm_calculator.py`.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

Reduce = Literal["diagonal", "diagonal_softmax", "recall"]


class Bounds(NamedTuple):
    """What a pair's value can be."""

    lowest: float
    chance: float
    """Where images, or music, are equally like all texts."""
    highest: float


def validate(images: Tensor, music: Tensor) -> None:
    """Check similarities.

    Raises
    ------
    BlendbenchError
        They are not two finite tensors, [N, T] and [M, T], with N and M >= 1 and T >= 2: of one text alone any image
        and any music are equally sure.
    """
    shapes = tuple(images.shape), tuple(music.shape)
    if any(len(shape) != 2 or shape[0] < 1 or shape[1] < 2 for shape in shapes):
        raise BlendbenchError(
            f"IMSM similarities have shapes {shapes[0]} and {shapes[1]}: give [images, texts] and [music, texts], two "
            "texts or more"
        )
    if shapes[0][1] != shapes[1][1]:
        raise BlendbenchError(
            f"IMSM similarities are to {shapes[0][1]} and {shapes[1][1]} texts: hold images and music against the same"
        )
    for name, values in (("image", images), ("music", music)):
        if not bool(torch.isfinite(values).all()):
            raise BlendbenchError(f"IMSM {name} similarities are not finite: leave that pair out")


def similarity(images: Tensor, music: Tensor) -> Tensor:
    """A B': for each image and piece of music the probability that both mean the same text.

    Parameters
    ----------
    images : Tensor [N, T]
        Logits of N images over T texts.
    music : Tensor [M, T]
        Logits of M pieces of music over the same texts.

    Returns
    -------
    Tensor [N, M], float64
        In 0..1, and 1 only where both are sure of one text.

    Raises
    ------
    BlendbenchError
        As `validate`.
    """
    validate(images, music)
    a, b = (values.detach().double().cpu().softmax(-1) for values in (images, music))
    return a @ b.T


def imsm(images: Tensor, music: Tensor, reduce: Reduce = "diagonal") -> Tensor:
    """A value a pair; IMSM is their mean.

    Parameters
    ----------
    images, music : Tensor [N, T]
        Logits over the same T texts; rows are pairs.
    reduce : {"diagonal", "diagonal_softmax", "recall"}
        `diagonal`: of A B'. `diagonal_softmax`: of its softmax along rows, as the published code has it. `recall`: 1
        where the pair's own music is the most similar of all N to the image, else 0; a tie among k counts 1 / k.

    Returns
    -------
    Tensor [N], float64
        Within `bounds`.

    Raises
    ------
    BlendbenchError
        As `validate`; N differs or is under 2, or `reduce` is unknown.
    """
    _check(reduce, len(images))
    if len(images) != len(music):
        raise BlendbenchError(f"IMSM has {len(images)} images and {len(music)} pieces of music: give pairs")
    values = similarity(images, music)
    if reduce == "diagonal_softmax":
        values = values.softmax(-1)
    own = values.diagonal()
    if reduce != "recall":
        return own.clone()
    best = values == values.amax(-1, keepdim=True)
    return best.diagonal().double() / best.sum(-1)


def bounds(reduce: Reduce, pairs: int) -> Bounds:
    """Least, chance and most of a pair's value among N pairs, of N texts.

    Raises
    ------
    BlendbenchError
        N is under 2, or `reduce` is unknown.
    """
    _check(reduce, pairs)
    if reduce == "diagonal_softmax":
        return Bounds(1 / (1 + (pairs - 1) * math.e), 1 / pairs, math.e / (math.e + pairs - 1))
    return Bounds(0.0, 1 / pairs, 1.0)


def _check(reduce: str, pairs: int) -> None:
    if reduce not in get_args(Reduce):
        raise BlendbenchError(f"imsm.reduce is {reduce!r}: choose {', '.join(get_args(Reduce))}")
    if pairs < 2:
        raise BlendbenchError(f"IMSM of {pairs} pair: it compares pairs with each other; give 2 or more")
