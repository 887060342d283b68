"""Pictures that say what a caption leaves out: tempo, mode and drums of a piece, drawn in four styles.

How dense strokes lie says the tempo, the hue says major (warm) or minor (cold), how much brighter they are than their
ground whether there are drums. The style is drawn independently of the music, as are place, direction and shape of
strokes, so that nothing else of a picture tells of the music.
"""

import colorsys
import random
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Style = Literal["natural", "animation", "poster", "painting"]
STYLES: tuple[Style, ...] = ("natural", "animation", "poster", "painting")
"""MeLBench's (Table 9)."""
SIZE = 256
SLOWEST, FASTEST = 75.0, 150.0
"""Beats a minute, of the fewest strokes and of the most: an octave, as a tempo and its double are hardly told apart."""
FEWEST, MOST = 12, 120
WARM, COLD = (0.02, 0.14), (0.52, 0.66)
"""Hues of major and minor, in 0..1."""
SOFT, HARD = 0.16, 0.5
"""Difference in brightness of strokes and ground, without and with drums."""


def strokes_of(tempo: float) -> int:
    """How many strokes say a tempo in beats a minute; even steps of the tempo's logarithm."""
    place = np.log(np.clip(tempo, SLOWEST, FASTEST) / SLOWEST) / np.log(FASTEST / SLOWEST)
    return round(FEWEST * (MOST / FEWEST) ** float(place))


def draw(tempo: float, minor: bool, drums: bool, style: Style, seed: int) -> Image.Image:
    """A picture in RGB, 256 x 256.

    Parameters
    ----------
    tempo : float
        In beats a minute.
    minor, drums : bool
    style : {"natural", "animation", "poster", "painting"}
    seed : int
        Draws everything that does not tell of the music.
    """
    draws = random.Random(f"picture/{seed}")
    hue = draws.uniform(*(COLD if minor else WARM))
    ground = draws.uniform(0.30, 0.40)
    contrast = HARD if drums else SOFT
    image = _ground(style, hue, ground, draws)
    pen = ImageDraw.Draw(image)
    for _ in range(strokes_of(tempo)):
        _stroke(pen, style, _colour(hue, ground + contrast, draws), draws)
    return image.filter(ImageFilter.GaussianBlur(0.6)) if style in ("natural", "painting") else image


def _colour(hue: float, value: float, draws: random.Random, spread: float = 0.02) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(
        (hue + draws.uniform(-spread, spread)) % 1, draws.uniform(0.55, 0.75), min(max(value, 0.02), 0.98)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _ground(style: Style, hue: float, value: float, draws: random.Random) -> Image.Image:
    if style in ("animation", "poster"):
        return Image.new("RGB", (SIZE, SIZE), _colour(hue, value, draws))
    # Soft clouds or canvas: low noise around the ground's brightness.
    noise = np.random.default_rng(draws.randrange(2**32)).standard_normal((8, 8) if style == "natural" else (64, 64))
    cloud = np.asarray(Image.fromarray(noise.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    values = (value + 0.03 * cloud).clip(0, 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 1.0)
    pixels = values[..., None] * np.array([red, green, blue]) * 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def _stroke(pen: ImageDraw.ImageDraw, style: Style, colour: tuple[int, int, int], draws: random.Random) -> None:
    """One stroke of about 200 pixels, whatever the style."""
    x, y = draws.uniform(8, SIZE - 8), draws.uniform(8, SIZE - 8)
    if style == "natural":  # a blade of grass
        lean = draws.uniform(-12, 12)
        pen.line([(x, y), (x + lean, y - 40)], fill=colour, width=5)
    elif style == "animation":  # a disc
        pen.ellipse([x - 8, y - 8, x + 8, y + 8], fill=colour)
    elif style == "poster":  # a bar
        across = draws.random() < 0.5
        wide, high = (20, 5) if across else (5, 20)
        pen.rectangle([x - wide, y - high, x + wide, y + high], fill=colour)
    else:  # a brush stroke in any direction
        angle, length = draws.uniform(0, 2 * np.pi), draws.uniform(28, 40)
        pen.line([(x, y), (x + length * np.cos(angle), y + length * np.sin(angle))], fill=colour, width=6)


def told_by(image: Image.Image) -> dict[str, float]:
    """What a picture tells to plain statistics: mean hue, contrast and how much of it is stroke; for tests."""
    pixels = np.asarray(image.convert("HSV"), dtype=np.float64) / 255
    angle = 2 * np.pi * pixels[..., 0]
    hue = float(np.angle(np.mean(np.exp(1j * angle))) / (2 * np.pi) % 1)
    values = pixels[..., 2]
    middle = np.median(values)
    apart = np.abs(values - middle)
    return {"hue": hue, "contrast": float(np.quantile(apart, 0.98)), "covered": float((apart > 0.05).mean())}
