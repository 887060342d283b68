"""Figures of experiments: how they are called, saved and lettered.

A figure is a function of a `Run`, named by `_target_` in `experiment.figures`; it writes
`RUN_DIR/figures/NAME.png` (and `.pdf` where lines make it worth while) and returns the paths.
"""

import sys
import textwrap
import traceback
import unicodedata
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.runs.folder import Run
from blendbench.runs.shelf import file_name
from blendbench.store.write import write_bytes
from blendbench.texts import short, shown

_UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".svg": {"Date": None},
}  # fmt: skip
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


def draw(run: Run) -> list[Path]:
    """Draw every figure of the run's experiment; returns the files. One that cannot be drawn is a line on stderr."""
    files: list[Path] = []
    for number, entry in enumerate(run.experiment.figures or []):
        key = f"experiment.figures[{number}]"
        if entry is None:
            continue
        try:
            files += config.build(entry, key, run.allowed, run=run)
        except BlendbenchError as error:
            tell(f"no figure: {error}")
        except Exception as error:  # a figure of one's own may raise anything, and the run's results stand
            traceback.print_exc()
            tell(f"no figure: {key}: unexpected {type(error).__name__}: {error}")
    return files


def tell(text: str) -> None:
    """Say something of a figure, in one line on stderr."""
    print("blendbench: " + " ".join(text.split()), file=sys.stderr)


def save_all(figure: Figure, run_dir: Path, name: str, vector: bool = False) -> list[Path]:
    """Write `figures/NAME.png`, and with `vector` a PDF, too; returns the files."""
    files = [run_dir / "figures" / f"{name}{ending}" for ending in (".png", ".pdf")[: 1 + vector]]
    for file in files:
        save(figure, file)
    return files


def save(figure: Figure, file: Path) -> None:
    """Write a figure in the format of the file's ending, without a date in it: the same run, the same bytes.

    All of its texts are shown as they are, none as mathematics, in further fonts where the first lacks a character.

    Raises
    ------
    BlendbenchError
        If the file cannot be written.
    """
    buffer = BytesIO()
    texts = [one for one in figure.findobj(Text) if isinstance(one, Text)]
    for one in texts:
        one.set_parse_math(False)
    fonts = matplotlib.rcParams["font.sans-serif"]
    further = _further_fonts("".join(sorted({*"".join(one.get_text() for one in texts)})))
    settings: dict[Any, Any] = {
        "svg.hashsalt": "blendbench",
        "text.parse_math": False,
        "font.sans-serif": [*fonts, *further],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # No font here has it; what stands in its place tells so.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        figure.savefig(buffer, format=file.suffix[1:], dpi=130, bbox_inches="tight", metadata=_UNDATED[file.suffix])
    write_bytes(file, buffer.getvalue())


@lru_cache
def _further_fonts(characters: str) -> list[str]:
    """Families of this machine's fonts that have what the usual one lacks, as few as will do."""
    usual = FT2Font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    lacking = {ord(character) for character in characters if character.isprintable()} - set(usual)
    families = []
    while lacking:
        has = {family: len(lacking & found) for family, found in _characters().items()}
        best = max(sorted(has), key=has.__getitem__, default="")
        if not has.get(best):
            break
        families.append(best)
        lacking -= _characters()[best]
    return families


@lru_cache
def _characters() -> dict[str, frozenset[int]]:
    """Characters of the upright fonts of this machine by family; not of those that have a box for everything."""
    found = {}
    for font in font_manager.fontManager.ttflist:
        if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name:
            try:
                found[font.name] = frozenset(FT2Font(font.fname).get_charmap())
            except (OSError, RuntimeError):
                continue  # deleted since the list was made, or damaged
    return found


_SHAPING = "\u200c\u200d\u200e\u200f"


def words(text: object, most: int = 60, width: int = 1000) -> str:
    """A text for a figure: cut, so that no figure grows without bound, and broken into lines of `width` characters."""
    # Signs without a shape go, but for those that shape their neighbours: matplotlib's PDF trips over one (U+FEFF).
    seen = "".join(c for c in str(text) if unicodedata.category(c) != "Cf" or c in _SHAPING or shown(c) != c)
    cut = short(seen, most)
    lines = "\n".join(textwrap.wrap(cut, width)) if len(cut) > width else cut
    return f"\u200b{lines}" if lines.startswith("_") else lines  # a legend leaves out what begins with it


def kept_image(run_dir: Path, arm: str, row: Mapping[str, Any], kind: str) -> torch.Tensor:
    """Grey pixels [H, W] in 0..255 of an image that a method kept; raises BlendbenchError where there is none."""
    file = run_dir / "images" / arm / f"{file_name(row['pair_id'])}-{kind}.png"
    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).copy())
    except OSError:
        raise BlendbenchError(f"{file}: not there; run the experiment with keep_images=true") from None
