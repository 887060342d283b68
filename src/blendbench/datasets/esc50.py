"""ESC-50: 2,000 five-second environmental recordings in 50 classes (Piczak 2015), in its official layout.

`ESC-50/meta/esc50.csv` and `ESC-50/audio/{fold}-{clip}-{take}-{target}.wav` under the data root.
"""

from pathlib import Path

from blendbench.datasets import NoiseClip
from blendbench.datasets.tables import inside, read_csv

ESC10 = frozenset(
    [
        "chainsaw",
        "clock_tick",
        "crackling_fire",
        "crying_baby",
        "dog",
        "helicopter",
        "rain",
        "rooster",
        "sea_waves",
        "sneezing",
    ]
)
"""The classes whose clips are CC BY; the others are CC BY-NC."""

COLUMNS = ("filename", "fold", "target", "category", "src_file", "take")


def read_table(folder: Path) -> list[NoiseClip]:
    """All clips that the table of an ESC-50 folder names, in its order; the files are not opened.

    Raises
    ------
    BlendbenchError
        If the table is missing or malformed, naming file, row and column.
    """
    table = folder / "meta" / "esc50.csv"
    clips = []
    for row in read_csv(table, COLUMNS):
        path = inside(folder / "audio", row["filename"], table)
        fold = int(row["fold"]) if row["fold"].isdigit() else None
        clips.append(NoiseClip(path.stem, path, row["category"], row["src_file"], fold))
    return clips


def esc50(root: str, folds: list[int] | None = None, categories: list[str] | None = None) -> list[NoiseClip]:
    """ESC-50's clips below the data root, optionally of some folds or categories only."""
    clips = read_table(Path(root) / "ESC-50")
    return [
        clip
        for clip in clips
        if (folds is None or clip.fold in folds) and (categories is None or clip.label in categories)
    ]
