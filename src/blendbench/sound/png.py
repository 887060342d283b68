"""Mel images and masks as PNG files: grey, low frequencies at the bottom, loud is dark."""

import io
from pathlib import Path

import torch
from PIL import Image

from blendbench.store.write import write_bytes


def write_image(path: Path, image: torch.Tensor) -> None:
    """Write a grey image as PNG, whole or not at all.

    Parameters
    ----------
    path : Path
    image : Tensor [H, W]
        Pixels 0..255, or a boolean mask, whose core turns black.

    Raises
    ------
    BlendbenchError
        If it cannot be written.
    """
    pixels = (~image).float() * 255 if image.dtype == torch.bool else image
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
