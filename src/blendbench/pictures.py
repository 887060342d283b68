"""Pictures, read as data of unknown origin: upright, in RGB, of a size that memory holds.

Pixels are float tensors [3, height, width] in 0..1.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from blendbench.errors import BlendbenchError, ClipError, one_line, printable

MOST_PIXELS = 50_000_000
"""By the header, before anything is decoded."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened; Pillow reads others by programs of their own."""
FITS = ("stretch", "crop", "pad")
_DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture, and what was done to it.

    Attributes
    ----------
    pixels : Tensor [3, height, width]
        In 0..1.
    notes : tuple of str
        What is not as in the file: "first of 12 frames", "over white".
    """

    pixels: Tensor
    notes: tuple[str, ...] = ()


def read(path: Path | str) -> Picture:
    """A picture of a file: its first frame, turned as its EXIF says, transparency over white, 16 bit scaled.

    Raises
    ------
    ClipError
        If it is missing, empty, damaged, of another format, or has more than 50 million pixels.
    """
    path = Path(path)
    name = printable(path)
    try:
        if path.stat().st_size == 0:
            raise ClipError(f"{name}: the file is empty (0 bytes); fetch it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            with Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MOST_PIXELS:
                    raise ClipError(
                        f"{name}: has {width} x {height} pixels, over {MOST_PIXELS // 10**6} million; scale it down"
                    )
                frames = getattr(opened, "n_frames", 1)
                notes = [f"first of {frames} frames"] if frames > 1 else []
                opened.load()
                upright = ImageOps.exif_transpose(opened) or opened
                pixels, over = _rgb(upright)
    except ClipError:
        raise
    except FileNotFoundError:
        raise ClipError(f"{name}: no such file; check the path") from None
    except _DAMAGED as error:
        reason = one_line(str(error)).replace(str(path), "").strip(" '\"") or type(error).__name__
        raise ClipError(
            f"{name}: cannot be read as a picture ({reason[:120]}); give PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from error
    return Picture(pixels, (*notes, *over))


def _rgb(image: Image.Image) -> tuple[Tensor, list[str]]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float64)
        if not np.isfinite(grey).all():
            raise ValueError("holds values that are not finite")
        # Floats are 0..1 as they are written, or 0..255; integers 16 bit.
        top = 65_535.0 if image.mode != "F" else (1.0 if grey.max(initial=0.0) <= 1 else 255.0)
        return torch.from_numpy((grey / top).clip(0, 1).astype(np.float32)).expand(3, -1, -1).clone(), []
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        values = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
        alpha = values[..., 3:]
        over = [] if bool((alpha == 1).all()) else ["over white"]
        return _tensor(values[..., :3] * alpha + 1 - alpha), over
    return _tensor(np.asarray(image.convert("RGB"), dtype=np.float32) / 255), []


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def fit(pixels: Tensor, size: int, how: Literal["stretch", "crop", "pad"] = "stretch") -> Tensor:
    """A picture as a square [3, size, size]: stretched, its middle cut out, or padded with white.

    Raises
    ------
    BlendbenchError
        If `how` is unknown.
    """
    if how not in FITS:
        raise BlendbenchError(f"image.fit={how}: choose {', '.join(FITS)}")
    height, width = pixels.shape[-2:]
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[:, top : top + side, left : left + side]
    elif how == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        pixels = functional.pad(pixels, (left, side - width - left, top, side - height - top), value=1.0)
    made = functional.interpolate(pixels[None], (size, size), mode="bilinear", align_corners=False, antialias=True)
    return made[0].clamp(0, 1)
