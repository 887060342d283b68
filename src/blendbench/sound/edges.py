"""Hints: what Riff-CNET is told of a background, a map of the edges in its mel image (Shah et al., section II.A).

Images are grey pixels [B, H, W] in 0..255, loud = dark; hints are [B, 3, H, W] in 0..1, three equal channels.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from blendbench.errors import BlendbenchError

KINDS = ("canny", "sobel", "sobeldenoise", "fullspec")
STORAGES = ("direct", "jpeg")


@dataclass(frozen=True)
class Edges:
    """How an image becomes a hint.

    Parameters
    ----------
    kind : {"canny", "sobel", "sobeldenoise", "fullspec"}
        Canny's edges (1986; OpenCV, aperture 3, L1); the gradient's length by Sobel's filters, brought to 0..255; the
        same of the image without noise (non-local means, Buades et al., 2011; h 15, windows of 7 and 21); or the image
        itself.
    low, high : float
        Canny's two thresholds, of the gradient: a pixel above `high` is an edge, one above `low` if it touches one.
    image : {"direct", "jpeg"}
        Whether the image goes through a JPEG file first, of quality 75, as the published data did.
    storage : {"direct", "jpeg"}
        Whether the hint goes through a JPEG file, of quality 95: a Canny map then has 17 greys in place of two.

    Raises
    ------
    BlendbenchError
        If a setting is out of its range.
    """

    kind: str = "canny"
    low: float = 100.0
    high: float = 200.0
    image: str = "direct"
    storage: str = "direct"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BlendbenchError(f"hint.kind={self.kind}: unknown; use one of {', '.join(KINDS)}")
        if not 0 < self.low <= self.high:
            raise BlendbenchError(f"hint.low={self.low:g}, hint.high={self.high:g}: give 0 < low <= high")
        for name in ("image", "storage"):
            if getattr(self, name) not in STORAGES:
                raise BlendbenchError(f"hint.{name}={getattr(self, name)}: unknown; use one of {', '.join(STORAGES)}")

    def signature(self) -> dict[str, Any]:
        """All of it; the thresholds where they are used."""
        own = {"kind": self.kind, "image": self.image, "storage": self.storage}
        return own | ({"low": self.low, "high": self.high} if self.kind == "canny" else {})

    def of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hints [B, 3, H, W] in 0..1 of images [B, H, W] in 0..255."""
        images = pixels.clamp(0, 255).round().to(torch.uint8).cpu().numpy()
        return torch.stack([torch.from_numpy(self._of(image)).float() / 255 for image in images])

    def _of(self, image: np.ndarray) -> np.ndarray:
        """A hint, uint8 [3, H, W], of an image, uint8 [H, W]."""
        _one_thread()
        # A JPEG of an RGB image comes back with three slightly different channels, and each counts for Canny.
        colours = np.repeat(image[..., None], 3, axis=2)
        if self.image == "jpeg":
            colours = _through_jpeg(colours, 75)
        if self.kind == "canny":
            found = cv2.Canny(np.ascontiguousarray(colours[..., ::-1]), self.low, self.high, apertureSize=3)
        elif self.kind == "fullspec":
            found = colours
        else:
            grey = cv2.cvtColor(np.ascontiguousarray(colours[..., ::-1]), cv2.COLOR_BGR2GRAY)
            if self.kind == "sobeldenoise":
                grey = cv2.fastNlMeansDenoising(grey, None, 15, 7, 21)
            length = np.hypot(*(ndimage.sobel(grey.astype(np.float64), axis, mode="reflect") for axis in (0, 1)))
            found = (length * (255 / max(float(length.max()), 1e-12))).astype(np.uint8)
        hint = np.repeat(found[..., None], 3, axis=2) if found.ndim == 2 else found
        if self.storage == "jpeg":
            hint = _through_jpeg(hint, 95)
        return np.ascontiguousarray(np.moveaxis(hint, 2, 0))


def edge_share(hints: torch.Tensor) -> torch.Tensor:
    """Share of pixels [B] of hints [B, 3, H, W] that are an edge: lighter than half."""
    return (hints[:, 0] > 0.5).float().mean(dim=(1, 2))


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


@lru_cache(maxsize=1)
def _one_thread() -> None:
    """OpenCV's threads would be more than the run's own; its results do not depend on them."""
    cv2.setNumThreads(1)
