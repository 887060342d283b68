"""CLAP score: how well a sound fits a text, as the cosine between their embeddings in one space.

Inputs are embeddings [N, D] of N sounds and of their N texts.
"""

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError


def validate(sounds: Tensor, texts: Tensor) -> None:
    """Check embeddings.

    Raises
    ------
    BlendbenchError
        They are not two finite tensors [N, D] of one shape with N >= 1, or one is zero and so has no direction.
    """
    if sounds.shape != texts.shape or sounds.dim() != 2 or not sounds.numel():
        shapes = f"{tuple(sounds.shape)} and {tuple(texts.shape)}"
        raise BlendbenchError(f"CLAP embeddings have shapes {shapes}: give [pairs, dimensions] for both")
    for name, values in (("sound", sounds), ("text", texts)):
        if not bool(torch.isfinite(values).all()) or not bool(values.any(1).all()):
            raise BlendbenchError(f"a CLAP {name} embedding is zero or not finite: leave that clip out")


def clap_score(sounds: Tensor, texts: Tensor) -> Tensor:
    """Cosine, pair by pair.

    Parameters
    ----------
    sounds, texts : Tensor [N, D]
        Need not be of unit length.

    Returns
    -------
    Tensor [N], float64
        In -1..1.

    Raises
    ------
    BlendbenchError
        As `validate`.
    """
    validate(sounds, texts)
    return torch.nn.functional.cosine_similarity(sounds.detach().double().cpu(), texts.detach().double().cpu(), dim=-1)
