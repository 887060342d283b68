"""Recordings of which windows are taken: built-in piano pieces, the published excerpts of SimDPS, or one's own folder.

A clip's `start` is where its window begins in the file, and `source` names the recording.
"""

from pathlib import Path

from blendbench.datasets import MusicClip, Nothing
from blendbench.datasets.tables import inside, once, read_csv, whole_number
from blendbench.errors import BlendbenchError, printable
from blendbench.resources import package_folder

SAMPLE_RATE = 44_100
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


def builtin() -> list[MusicClip]:
    """The built-in piano pieces: songs that no built-in model has learnt from, played by a sampled piano."""
    folder = package_folder("blendbench.assets") / "piano"
    table = folder / "piano.csv"
    return [
        MusicClip(
            row["id"], inside(folder, row["file"], table), "piano", "", row["song"],
            whole_number(row, "start", table) / SAMPLE_RATE,
        )
        for row in read_csv(table, ("id", "file", "song", "start"))
    ]  # fmt: skip


def nothing(count: int) -> list[Nothing]:
    """So many places, called by their numbers, with no recordings.

    Raises
    ------
    BlendbenchError
        If it is none.
    """
    if count < 1:
        raise BlendbenchError(f"dataset.nothing.count={count}: give 1 or more")
    return [Nothing(f"{number:04d}") for number in range(1, count + 1)]


def drum_loop() -> list[MusicClip]:
    """A drum loop and the first of the built-in piano pieces: what edits are shown on."""
    file = package_folder("blendbench.assets") / "loop" / "drum-loop.ogg"
    piece = builtin()[0]
    return [
        MusicClip("drum-loop", file, "drums", "", "drum-loop"),
        MusicClip("piano-piece", piece.path, "piano", "", piece.source, piece.start),
    ]


def simdps(root: str) -> list[MusicClip]:
    """The published excerpts below `root`/SimDPS-stimuli: `NAME/Original.flac`, with other programs' results beside it.

    Raises
    ------
    BlendbenchError
        If there are none.
    """
    folder = Path(root).expanduser() / "SimDPS-stimuli"
    found = sorted(folder.glob("*/Original.flac"))
    if not found:
        raise BlendbenchError(
            f"{printable(folder)}: no NAME/Original.flac there; put the published excerpts there, or set data.root"
        )
    return [MusicClip(file.parent.name, file, "piano", "", file.parent.name, root=folder) for file in found]


def folder(path: str | None, start: float = 0.0) -> list[MusicClip]:
    """Every audio file of a folder, searched in depth; the window of each begins `start` seconds in.

    Raises
    ------
    BlendbenchError
        If no folder is named, or it holds none.
    """
    if not path:
        raise BlendbenchError("data.path: no folder named; give data.path=DIR with recordings")
    place = Path(path).expanduser()
    found = sorted(file for file in place.rglob("*") if file.suffix.lower() in ENDINGS)
    if not found:
        raise BlendbenchError(f"{printable(place)}: holds no {', '.join(ENDINGS)}; give data.path=DIR with recordings")
    clips = [
        MusicClip(file.relative_to(place).with_suffix("").as_posix(), file, "", "", file.stem, start, place)
        for file in found
    ]
    return once(clips, place)
