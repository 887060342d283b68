"""ITC: the contrastive loss that draws images and their texts together, and other pairs apart."""

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError


def itc_loss(images: Tensor, texts: Tensor, temperature: Tensor | float) -> Tensor:
    """Symmetric image-text contrastive loss: the mean of contrasting images with texts, and texts with images.

    Parameters
    ----------
    images, texts : Tensor [N, D]
        Rows are pairs; the caller brings them to unit length, so that their products are cosines.
    temperature : Tensor of one number, or float
        What products are divided by, above 0; CLIP and MeLFusion learn it, CLIP from .07.

    Returns
    -------
    Tensor of one number
        In nats; log(N) where all are alike, towards 0 where each is like its own alone.

    Raises
    ------
    BlendbenchError
        The shapes differ or are not [N, D] with N >= 1, or the temperature is not above 0.

    Source: Chowdhury et al. (2024), MeLFusion (arXiv 2406.04673), appendix, equation 1.
    """
    if images.shape != texts.shape or images.dim() != 2 or not images.numel():
        shapes = f"{tuple(images.shape)} and {tuple(texts.shape)}"
        raise BlendbenchError(f"ITC embeddings have shapes {shapes}: give [pairs, dimensions] for both")
    degree = float(temperature.detach() if isinstance(temperature, Tensor) else temperature)
    if not degree > 0:
        raise BlendbenchError(f"ITC temperature is {degree:g}: give one above 0, such as 0.07")
    logits = images @ texts.T / temperature
    own = torch.arange(len(images), device=images.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
