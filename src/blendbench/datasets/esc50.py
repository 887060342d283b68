"""ESC-50: 2,000 five-second environmental recordings in 50 classes (Piczak 2015), in its official layout.

`ESC-50/meta/esc50.csv` and `ESC-50/audio/{fold}-{source}-{take}-{target}.wav` under the data root.
"""

from pathlib import Path

from blendbench.datasets import NoiseClip
from blendbench.datasets.choosing import by_class, spread
from blendbench.datasets.tables import inside, once, read_csv, whole_number
from blendbench.errors import BlendbenchError

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


def read_table(folder: Path, follow_links: bool = False) -> list[NoiseClip]:
    """All clips that the table of an ESC-50 folder names, in its order; the files are not opened.

    Raises
    ------
    BlendbenchError
        If the table is missing or malformed, naming file, row and column.
    """
    table, audio = folder / "meta" / "esc50.csv", folder / "audio"
    if not table.parent.is_dir():
        raise BlendbenchError(
            f"{table}: not found; type `blendbench data fetch esc50`, or `git clone https://github.com/karolpiczak/"
            f"ESC-50` into {folder.parent}, or set data.root=DIR to where ESC-50/ lies"
        )
    clips = []
    for row in read_csv(table, COLUMNS):
        path = inside(audio, row["filename"], table)
        licence = "CC BY 3.0" if row["category"] in ESC10 else "CC BY-NC 3.0"
        root = None if follow_links else folder
        fold = whole_number(row, "fold", table)
        clips.append(NoiseClip(path.stem, path, row["category"], row["src_file"], fold, licence, root=root))
    return once(clips, table)


def esc50(
    root: str,
    per_class: int | None = None,
    folds: list[int] | None = None,
    categories: list[str] | None = None,
    choice_seed: int = 0,
    follow_links: bool = False,
) -> list[NoiseClip]:
    """ESC-50's clips below the data root.

    The rule: of the folds and categories asked for, every class gives `per_class` clips, taken in an order that is
    drawn by `choice_seed` and spreads over the source recordings first and over the folds second.

    Parameters
    ----------
    root : str
        Folder that holds `ESC-50/`.
    per_class : int, optional
        Clips a class, or all that a class has if those are fewer; every clip when absent.
    folds, categories : list, optional
        Take these only.
    choice_seed : int
        Seed of the choice; not the run's.
    follow_links : bool
        Whether files may be links that lead out of the folder.

    Raises
    ------
    BlendbenchError
        If the table is missing or malformed, or nothing is left.
    """
    clips = [
        clip
        for clip in read_table(Path(root) / "ESC-50", follow_links)
        if (folds is None or clip.fold in folds) and (categories is None or clip.label in categories)
    ]
    if not clips:
        raise BlendbenchError(f"dataset.esc50: no clip has folds={folds} and categories={categories}; take others")
    if per_class is None:
        return clips
    if per_class < 1:
        raise BlendbenchError(f"dataset.esc50.per_class={per_class}: must be 1 or more, or null for all")
    return [
        clip
        for members in by_class(clips, lambda clip: clip.label).values()
        for clip in spread(
            members, [lambda clip: clip.fold, lambda clip: clip.source], choice_seed, lambda clip: clip.id
        )[:per_class]
    ]
