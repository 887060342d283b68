"""MusicBench (Melechovsky et al. 2024): captioned ten-second excerpts of music, in its published layout.

`MusicBench/MusicBench_train.json` (JSON lines with `location` and `main_caption`) and the audio that `location` names:
`data/ID.wav` for an excerpt as it is in MusicCaps, `data_aug2/ID_1.wav`, `_2`, ... for its copies with changed pitch,
tempo or level. ID is the eleven characters of a YouTube video. Columns `genre` and `song` are used where present.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blendbench.datasets import MusicClip
from blendbench.datasets.tables import inside, once, read_json_lines
from blendbench.errors import BlendbenchError
from blendbench.seeds import shuffled

_VIDEO = re.compile(r"([\w-]{11})(?:_(?:aug)?(\d+))?")
_COPY = re.compile(r"(.+?)_(?:aug)?(\d+)")

GENRES = {
    "Punk": r"punk",
    "Hip-hop": r"hip[- ]?hop|rap|rapper|rapping|trap|boom[- ]bap",
    "Jazz": r"jazz|jazzy|bebop|swing|bossa nova|big band",
    "EDM": r"edm|techno|house music|house track|trance|dubstep|drum and bass|electronic dance|electro",
    "Classical": r"classical|orchestra|orchestral|symphony|symphonic|baroque|string quartet|opera|chamber music",
    "Rock": r"rock|metal|grunge",
    "Pop": r"pop",
}
"""Words in a caption that give a clip without a genre its genre; the first that occurs, in this order, counts."""

_GENRES = {genre: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for genre, words in GENRES.items()}


class Row(NamedTuple):
    """A row of the table: the clip, and which augmented copy of its track it is (0 for the original)."""

    clip: MusicClip
    copy: int


def read_table(folder: Path, table_name: str = "MusicBench_train.json", follow_links: bool = False) -> list[Row]:
    """All rows that the table names, in its order; the audio is not opened. A file named twice counts once.

    Raises
    ------
    BlendbenchError
        If the table is missing, empty, or a line is not a JSON object with `location`.
    """
    table = folder / table_name
    rows, seen = [], set()
    for row in read_json_lines(table, ("location",), "MusicBench"):
        location = str(row["location"])
        path = inside(folder, location, table)
        if path in seen:
            continue
        seen.add(path)
        caption = str(row.get("main_caption") or "")
        genre = str(row["genre"]) if row.get("genre") else genre_of(caption)
        if row.get("song"):
            track, copy = str(row["song"]), 0
        else:
            track, copy = track_of(path.stem)
        root = None if follow_links else folder
        rows.append(Row(MusicClip(path.stem, path, genre, caption, track, root=root), copy))
    return rows


def track_of(stem: str) -> tuple[str, int]:
    """The source track that a file's name tells, and which augmented copy of it the file is (0 for the original).

    An id may itself end in what looks like a copy's number, so names of eleven characters, or that plus a number, are
    taken as MusicBench's; others lose a final `_1` or `_aug1`.
    """
    match = _VIDEO.fullmatch(stem) or _COPY.fullmatch(stem)
    if match is None:
        return stem, 0
    return match.group(1), int(match.group(2) or 0)


def genre_of(caption: str) -> str:
    """One of the seven genres by the words of a caption (see GENRES), or "" where none occurs."""
    return next((genre for genre, words in _GENRES.items() if words.search(caption)), "")


def musicbench(
    root: str,
    clips: int | None = 5000,
    seconds: float = 5.0,
    excerpt_seconds: float = 10.0,
    tracks: int | None = None,
    choice_seed: int = 0,
    table: str = "MusicBench_train.json",
    follow_links: bool = False,
) -> list[MusicClip]:
    """Clips of MusicBench below the data root.

    The rule: augmented copies are left out (a track of which the table has copies only gives the first of them). The
    tracks stand in an order drawn by `choice_seed`; each gives one clip of `seconds`, then, as long as there are not
    enough, each gives a second that does not overlap the first, and so on.

    Parameters
    ----------
    root : str
        Folder that holds `MusicBench/`.
    clips : int, optional
        How many, or as many as there are; all when absent.
    seconds : float
        Length of a clip.
    excerpt_seconds : float
        Length of a file, in seconds; it gives `excerpt_seconds // seconds` clips.
    tracks : int, optional
        Take so many tracks only.
    choice_seed : int
        Seed of the choice; not the run's.
    table : str
        File name of the table.
    follow_links : bool
        Whether files may be links that lead out of the folder.

    Raises
    ------
    BlendbenchError
        If the table is missing or malformed, or a setting makes no sense.
    """
    if not 0 < seconds <= excerpt_seconds:
        raise BlendbenchError(f"music.seconds={seconds:g}: must be above 0 and at most {excerpt_seconds:g}")
    for key, value in (("clips", clips), ("tracks", tracks)):
        if value is not None and value < 1:
            raise BlendbenchError(f"music.{key}={value}: must be 1 or more, or null for all")
    folder = Path(root) / "MusicBench"
    by_track: dict[str, list[Row]] = defaultdict(list)
    for row in read_table(folder, table, follow_links):
        by_track[row.clip.source].append(row)
    names = shuffled(by_track, choice_seed, str)[:tracks]
    starts = [seconds * part for part in range(int(excerpt_seconds / seconds + 1e-9))]
    queues = [list(_parts(by_track[name], starts, choice_seed)) for name in names]
    longest = max(map(len, queues))
    chosen = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return once(chosen[:clips], folder / table)


def _parts(rows: list[Row], starts: list[float], seed: int) -> Iterator[MusicClip]:
    """Clips of one track: parts of its originals, or of its first copy if it has no original."""
    first = min(row.copy for row in rows)
    originals = [row.clip for row in rows if row.copy == first]
    if first:
        originals = originals[:1]
    # All files' beginnings stand before any file's second part.
    for start in starts:
        for clip in shuffled(originals, seed, lambda clip: str(clip.path)):
            name = clip.id if not start else f"{clip.id}@{start:g}"
            yield MusicClip(name, clip.path, clip.genre, clip.caption, clip.source, start, clip.root)
