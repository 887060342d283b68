"""Pictures with words and music, for image_text: built-in items, MeLBench, extended MusicCaps, or one's own folder."""

from pathlib import Path

from blendbench import stand_ins
from blendbench.datasets import PictureClip
from blendbench.datasets.tables import inside, once, read_csv, read_json_lines
from blendbench.errors import BlendbenchError, printable
from blendbench.resources import package_folder

SPLITS = ("train", "validation", "test")


def builtin() -> list[PictureClip]:
    """The built-in items: songs that no built-in model has learnt from, arranged, with a drawn picture each."""
    folder = package_folder("blendbench.assets") / "pictured"
    return _of_table(folder, folder / "pictured.csv")


def folder(path: str | None, table: str | None = None) -> list[PictureClip]:
    """One's own pictures: a CSV of captions.

    Parameters
    ----------
    path : str
        The folder that the table's names lie in.
    table : str
        CSV with the columns `image` and `caption`, and optionally `id`, `audio`, `genre`, `category`, `source`,
        `tempo`, `mode` and `drums`; by default `captions.csv` in the folder.

    Raises
    ------
    BlendbenchError
        If folder or table are missing, malformed or empty.
    """
    if not path:
        raise BlendbenchError("data.path: not set; give the folder with the pictures, data.path=DIR")
    place = Path(path).expanduser()
    if not place.is_dir():
        raise BlendbenchError(f"data.path={printable(place)}: no such folder; give one that holds pictures")
    return _of_table(place, place / "captions.csv" if table is None else Path(table))


def _of_table(root: Path, table: Path) -> list[PictureClip]:
    return once((_clip(root, table, row, number) for number, row in enumerate(
        read_csv(table, ("image", "caption")), start=1)), table)  # fmt: skip


def _clip(root: Path, table: Path, row: dict[str, str], number: int) -> PictureClip:
    image, audio = (inside(root, row[name], table) if row.get(name) else None for name in ("image", "audio"))
    if image is None and audio is None:
        raise BlendbenchError(f"{printable(table)}, row {number}: names neither image nor audio; complete it")
    name = row.get("id") or row.get("image") or row["audio"]
    texts = {key: row.get(key, "") for key in ("genre", "category", "tempo", "mode", "drums")}
    return PictureClip(
        name, image, audio, row["caption"], source=row.get("source") or row.get("audio") or name, root=root, **texts
    )


def melbench(root: str, name: str = "MeLBench", split: str = "test", count: int | None = None) -> list[PictureClip]:
    """MeLBench or extended MusicCaps (Chowdhury et al., 2024) below `root`/NAME: SPLIT.json, audio/ and images/.

    The lines of the JSON are those of the paper's code, `captions`, `location`, `img_path`; `genre` and `category` are
    taken over where they are there. MeLBench lies behind its authors' link, MusicCaps' audio is the user's to get.

    Parameters
    ----------
    name : str
        The folder: MeLBench or MusicCaps.
    split : {"train", "validation", "test"}
        Which file; the published split of MeLBench is not stated, that of MusicCaps is 60, 20 and 20 % of clips.
    count : int, optional
        At most so many, in the file's order.

    Raises
    ------
    BlendbenchError
        If the split is unknown, or its file is missing or malformed.
    """
    if split not in SPLITS:
        raise BlendbenchError(f"split: {split!r} is unknown; use one of {', '.join(SPLITS)}")
    place = Path(root).expanduser() / name
    table = place / f"{split}.json"
    stand_ins.refuse_as_text(table)
    found: list[PictureClip] = []
    for number, row in enumerate(read_json_lines(table, ("captions", "location"), name), start=1):
        if count is not None and len(found) >= count:
            break
        picture = row.get("img_path")
        if picture is not None and not isinstance(picture, str):
            raise BlendbenchError(f"{printable(table)}, line {number}: img_path is no text; mend it or fetch it again")
        image = inside(place, picture, table) if picture else None
        texts = {key: str(row.get(key) or "") for key in ("genre", "category")}
        # Two frames of one recording are two items of one music.
        shown = f"{Path(row['location']).stem}-{Path(picture).stem}" if picture else Path(row["location"]).stem
        found.append(
            PictureClip(
                shown,
                image,
                inside(place, row["location"], table),
                row["captions"],
                source=row["location"],
                root=place,
                **texts,
            )
        )
    return once(found, table)
