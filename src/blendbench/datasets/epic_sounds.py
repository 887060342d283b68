"""EPIC-SOUNDS: audible actions in kitchens (Huh et al. 2023), 44 classes, in its published layout.

Below the data root, `EPIC-SOUNDS/` holds the annotation tables (`EPIC_Sounds_validation.csv`, ...) and the untrimmed
audio of the videos at 24 kHz, which is given on request: either an HDF5 file with one dataset a `video_id`, as the
recipe of Auditory SlowFast writes it (`*.hdf5` or `*.h5`), or a folder `audio/` with `{video_id}.wav` (or `.flac`),
at any depth. A folder may also hold segments that were cut out already, as `{annotation_id}.wav`.
"""

from pathlib import Path

from blendbench.datasets import NoiseClip
from blendbench.datasets.choosing import by_class, quotas, spread
from blendbench.datasets.tables import inside, number, once, read_csv
from blendbench.errors import BlendbenchError, printable

SAMPLE_RATE = 24_000
"""Rate of the audio, and of the tables' sample columns, in Hz."""

COLUMNS = ("annotation_id", "video_id", "start_sample", "stop_sample", "class")
LICENCE = "CC BY-NC 4.0"


def epic_sounds(
    root: str,
    table: str = "EPIC_Sounds_validation.csv",
    audio: str | None = None,
    clips: int | None = 1000,
    min_seconds: float = 0.4,
    classes: list[str] | None = None,
    choice_seed: int = 0,
    follow_links: bool = False,
) -> list[NoiseClip]:
    """Segments of EPIC-SOUNDS below the data root.

    The rule: of the segments of at least `min_seconds`, every class gives the same number; a class that has fewer gives
    all, and the others share what it lacks, until there are `clips`. Within a class they are taken in an order that is
    drawn by `choice_seed` and spreads over the videos.

    Parameters
    ----------
    root : str
        Folder that holds `EPIC-SOUNDS/`.
    table : str
        File name of the annotations; training, validation, or one of the same columns.
    audio : str, optional
        The HDF5 file, or the folder of `{video_id}.wav`; looked for in `EPIC-SOUNDS/` when absent.
    clips : int, optional
        How many segments; every one when absent.
    min_seconds : float
        Shortest segment taken, in seconds. The default is a gating block of BS.1770.
    classes : list of str, optional
        Take these only.
    choice_seed : int
        Seed of the choice; not the run's.
    follow_links : bool
        Whether audio files may be links that lead out of their folder.

    Raises
    ------
    BlendbenchError
        If the table or the audio is missing, the table is malformed, or nothing is left.
    """
    folder = Path(root) / "EPIC-SOUNDS"
    if not folder.is_dir():
        raise BlendbenchError(
            f"{folder}: not found; type `blendbench data fetch epic_sounds` for its tables, or set data.root=DIR"
        )
    file = inside(folder, table, Path("dataset.epic_sounds.table"))
    place = find_audio(folder, audio)
    segments = [
        clip
        for clip in read_table(file, place, min_seconds, None if follow_links or place.is_file() else place)
        if classes is None or clip.label in classes
    ]
    if not segments:
        raise BlendbenchError(
            f"dataset.epic_sounds: no segment of {table} has min_seconds={min_seconds:g} and classes={classes}; "
            "ask for less"
        )
    if clips is None:
        return segments
    if clips < 1:
        raise BlendbenchError(f"dataset.epic_sounds.clips={clips}: must be 1 or more, or null for all")
    members = by_class(segments, lambda clip: clip.label)
    shares = quotas({label: len(items) for label, items in members.items()}, clips)
    return [
        clip
        for label, items in members.items()
        for clip in spread(items, [lambda clip: clip.source], choice_seed, lambda clip: clip.id)[: shares[label]]
    ]


def read_table(table: Path, audio: Path, min_seconds: float = 0.0, root: Path | None = None) -> list[NoiseClip]:
    """The segments of an annotation table that last `min_seconds`, in its order.

    `audio` is an HDF5 file, which is not opened, or a folder; what it holds does not change which segments there are.

    Raises
    ------
    BlendbenchError
        If the table is missing or malformed, naming file, row and column.
    """
    segments, lengths = [], []
    files = {file.stem: file for ending in ("flac", "wav") for file in sorted(audio.rglob(f"*.{ending}"))}
    for row in read_csv(table, COLUMNS):
        start, stop = (number(row, column, table) / SAMPLE_RATE for column in ("start_sample", "stop_sample"))
        if not 0 <= start < stop:
            raise BlendbenchError(
                f"{printable(table)}, row {row['annotation_id']!r}: start_sample {row['start_sample']} and stop_sample "
                f"{row['stop_sample']} are no segment; mend that row"
            )
        video, name = row["video_id"], row["annotation_id"]
        if not (video and name):
            raise BlendbenchError(
                f"{printable(table)}, row {name!r}: an empty annotation_id or video_id is no file name; mend that row"
            )
        path, member = audio, video
        span: tuple[float, float] | None = (start, stop)
        if not audio.is_file():
            path, member = files.get(video, inside(audio, f"{video}.wav", table)), ""
            if video not in files and name in files:
                path, span = files[name], None
        segments.append(
            NoiseClip(
                name, path, row["class"], video, licence=LICENCE, span=span, member=member, root=root,
                member_rate=SAMPLE_RATE,
            )
        )  # fmt: skip
        lengths.append(stop - start)
    kept = zip(once(segments, table), lengths, strict=True)
    return [clip for clip, seconds in kept if seconds >= min_seconds - 1e-9]


def find_audio(folder: Path, audio: str | None = None) -> Path:
    """The HDF5 file, or the folder of audio files, of an EPIC-SOUNDS folder.

    Raises
    ------
    BlendbenchError
        If there is none, or several and none was named.
    """
    if audio is not None:
        place = Path(audio)
        if not place.exists():
            raise BlendbenchError(
                f"dataset.epic_sounds.audio={audio}: not found; name an HDF5 file or a folder of WAVs"
            )
        return place
    files = sorted(file for ending in ("[!.]*.hdf5", "[!.]*.h5") for file in folder.glob(ending))
    if len(files) > 1:
        raise BlendbenchError(
            f"{folder}: holds {files[0].name} and {files[1].name}; choose by dataset.epic_sounds.audio=FILE"
        )
    if files:
        return files[0]
    if (folder / "audio").is_dir():
        return folder / "audio"
    raise BlendbenchError(
        f"{folder}: no audio there; ask uob-epic-kitchens@bristol.ac.uk for the HDF5 file (or make it by the recipe of "
        f"github.com/ekazakos/auditory-slow-fast) and put it there as EPIC_audio.hdf5, or put {folder / 'audio'}/"
        "VIDEO_ID.wav there"
    )
