"""Any folder of sounds, as noise or as music: searched in depth, with an optional CSV of labels and prompts.

Without a table every audio file takes part; the name of the folder that holds it is its label (noise) or genre
(music). With one, its rows do. Files that are no audio by their names are passed over; an audio file that cannot be
read becomes a row with its reason, as everywhere.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.datasets.tables import inside, once, read_csv
from blendbench.errors import BlendbenchError, one_line, printable

ENDINGS = frozenset(
    [
        ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg", ".opus", ".rf64", ".snd",
        ".sph", ".voc", ".w64", ".wav", ".wave",
    ]
)  # fmt: skip
"""Endings, in small letters, by which a file counts as audio."""


def noise(path: str | None, table: str | None = None, follow_links: bool = False) -> list[NoiseClip]:
    """Noise clips of a folder.

    Parameters
    ----------
    path : str
        The folder.
    table : str, optional
        CSV with the column `file` (below the folder), and optionally `label`, `source`, `prompt` and `genre`. A file
        may stand in several rows with several prompts; it is then paired with those instead of drawn ones.
    follow_links : bool
        Whether files may be links that lead out of the folder.

    Raises
    ------
    BlendbenchError
        If the folder or the table is missing or holds nothing, or the table is malformed.
    """
    folder = _folder(path, "data.path")
    root = None if follow_links else folder
    if table is None:
        return [
            NoiseClip(_id(name), folder / name, _parent(name, folder), _id(name), root=root)
            for name in find(folder, "data.path")
        ]
    rows: dict[str, NoiseClip] = {}
    place = Path(table)
    for row in read_csv(place, ("file",)):
        file = inside(folder, row["file"], place)
        name = file.relative_to(folder).as_posix()
        label, source = row.get("label") or _parent(name, folder), row.get("source") or name
        known = rows.get(name) or NoiseClip(name, file, label, source, root=root)
        prompts = known.prompts
        text = row.get("prompt")
        if name in rows and not (text and prompts):
            raise BlendbenchError(f"{printable(place)}: {name!r} stands twice without a prompt; take one row out")
        if text:
            prompts = (*prompts, Prompt(f"own-{len(prompts) + 1}", row.get("genre", ""), text))
        rows[name] = NoiseClip(name, file, known.label, known.source, root=root, prompts=prompts)
    return list(rows.values())


def music(path: str | None, table: str | None = None, follow_links: bool = False) -> list[MusicClip]:
    """Music clips of a folder: each file's beginning.

    Parameters
    ----------
    path : str
        The folder.
    table : str, optional
        CSV with the column `file` (below the folder), and optionally `genre`, `caption` and `source` (the track: the
        reference and the random half share none).
    follow_links : bool
        Whether files may be links that lead out of the folder.

    Raises
    ------
    BlendbenchError
        As for `noise`.
    """
    folder = _folder(path, "data.music_path")
    root = None if follow_links else folder
    if table is None:
        return [
            MusicClip(_id(name), folder / name, _parent(name, folder), "", _id(name), root=root)
            for name in find(folder, "data.music_path")
        ]
    clips, place = [], Path(table)
    for row in read_csv(place, ("file",)):
        file = inside(folder, row["file"], place)
        name = file.relative_to(folder).as_posix()
        genre = row.get("genre") or _parent(name, folder)
        clips.append(MusicClip(name, file, genre, row.get("caption", ""), row.get("source") or name, root=root))
    return once(clips, place)


def find(folder: Path, key: str) -> list[str]:
    """Names, relative to a folder, of the audio files in it and below, in order; hidden ones are passed over.

    Linked folders are not entered; a linked file is listed, and refused when it is read if it leads out.

    Raises
    ------
    BlendbenchError
        If the folder cannot be listed or holds none; `key` is the setting to name.
    """
    names = sorted(_walk(folder))
    if not names:
        raise BlendbenchError(
            f"{key}={printable(folder)}: holds no audio file ({', '.join(sorted(ENDINGS))}); give another folder"
        )
    return names


def _walk(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        reason = one_line(error.strerror or str(error))
        raise BlendbenchError(f"{printable(Path(str(error.filename)))}: cannot be listed ({reason}); make it readable")

    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS:
                yield (Path(here) / name).relative_to(folder).as_posix()


def _folder(path: str | None, key: str) -> Path:
    if not path:
        raise BlendbenchError(f"{key}: not set; give the folder, {key}=DIR")
    folder = Path(path)
    if not folder.is_dir():
        raise BlendbenchError(f"{key}={printable(folder)}: no such folder; give one that holds audio files")
    return folder


def _parent(name: str, folder: Path) -> str:
    """Name of the folder that holds a file: its class, as such collections are mostly sorted."""
    return _id(Path(name).parent.name or folder.resolve().name)


def _id(name: str) -> str:
    """A file's name as an id that any text file takes: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
