"""Music in stems, for accompaniment: built-in clips, MUSDB18-HQ, Slakh2100, GTZAN, or one's own folder.

Windows of a long track begin where the settings say; they are as long as the task hears.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import yaml

from blendbench import stand_ins
from blendbench.datasets import StemClip
from blendbench.datasets.folder import find
from blendbench.datasets.tables import inside, number, once, read_csv
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.resources import package_folder
from blendbench.seeds import stable_seed

SAMPLE_RATE = 44_100
WINDOW = 225_351
"""Samples at 44.1 kHz of a window: one image of 512 frames."""
PARTS = ("vocals", "drums", "bass", "other")
"""Stems of MUSDB18."""


def builtin() -> list[StemClip]:
    """The built-in clips: songs that no built-in model has learnt from, arranged, in two exact stems of 5.12 s."""
    folder = package_folder("blendbench.assets") / "stems"
    return list(_of_table(folder, folder / "stems.csv"))


def folder(path: str | None, table: str | None = None, prompt: str = "", mixed: bool = False) -> list[StemClip]:
    """One's own music: a table of stems, or every audio file of a folder as a background.

    Parameters
    ----------
    path : str
        The folder.
    table : str, optional
        CSV with the columns `background` and `prompt`, and optionally `part`, `id`, `genre`, `source`, `instrument`,
        `start` (in seconds). Several files of a column are parted by `|`; their sum counts.
    prompt : str
        What is asked for without a table.
    mixed : bool
        Whether the files of a folder hold the part, too, of which a separator has to take it.

    Raises
    ------
    BlendbenchError
        If folder or table are missing, malformed or empty, or nothing is asked for.
    """
    if not path:
        raise BlendbenchError("data.path: not set; give the folder with the recordings, data.path=DIR")
    place = Path(path).expanduser()
    if not place.is_dir():
        raise BlendbenchError(f"data.path={printable(place)}: no such folder; give one that holds audio files")
    if table is not None:
        return once(_of_table(place, Path(table)), Path(table))
    if not prompt:
        raise BlendbenchError("data.table: not set; give a CSV of backgrounds and prompts, or dataset.own.prompt=TEXT")
    return [
        StemClip(name, (place / name,), (), prompt, "", name, mixed=mixed, root=place)
        for name in find(place, "data.path")
    ]


def _of_table(root: Path, table: Path) -> Iterator[StemClip]:
    for row in read_csv(table, ("background", "prompt")):
        files = {
            name: tuple(inside(root, one.strip(), table) for one in row.get(name, "").split("|") if one.strip())
            for name in ("background", "part")
        }
        if not files["background"] or not row["prompt"]:
            raise BlendbenchError(f"{printable(table)}: a row has no background or no prompt; complete it")
        name = row.get("id") or row["background"]
        start = number(row, "start", table) if row.get("start") else 0.0
        yield StemClip(
            name, files["background"], files["part"], row["prompt"], row.get("genre", ""),
            row.get("source") or row.get("song") or name, row.get("instrument", ""), start, root=root,
        )  # fmt: skip


def musdb18(
    root: str,
    split: str = "test",
    part: str = "vocals",
    prompt: str = "add a singing voice",
    windows: int = 1,
    tracks: int | None = None,
) -> list[StemClip]:
    """MUSDB18-HQ (Rafii et al., 2019) below `root`/musdb18hq: SPLIT/TRACK/{vocals,drums,bass,other}.wav.

    MUSDB18 in `.stem.mp4` files is the same music, but compressed: take the HQ edition, or decode it to this layout.

    Parameters
    ----------
    split : {"train", "test"}
    part : str
        The stem that is to be added; the others are the background.
    prompt : str
        What is asked for; the set has no words of its own.
    windows : int
        Of a track, evenly spread.
    tracks : int, optional
        At most so many, in the order of their names.

    Raises
    ------
    BlendbenchError
        If the folder holds no such tracks, or the stem is unknown.
    """
    if part not in PARTS:
        raise BlendbenchError(f"part: {part!r} is no stem of MUSDB18; use one of {', '.join(PARTS)}")
    place = Path(root).expanduser() / "musdb18hq" / split
    songs = sorted(file.parent for file in place.glob(f"*/{part}.wav"))
    if not songs:
        raise BlendbenchError(
            f"{printable(place)}: no TRACK/{part}.wav there; unpack MUSDB18-HQ to musdb18hq/ below data.root"
        )
    found = []
    for song in songs[:tracks]:
        others = tuple(song / f"{name}.wav" for name in PARTS if name != part)
        for place_in, start in enumerate(_starts(song / f"{part}.wav", windows)):
            found.append(StemClip(
                f"{song.name}-{place_in}", others, (song / f"{part}.wav",), prompt, "", song.name, part, start,
                root=place,
            ))  # fmt: skip
    return found


def slakh2100(
    root: str, split: str = "test", windows: int = 1, tracks: int | None = None, choice_seed: int = 0
) -> list[StemClip]:
    """Slakh2100 (Manilow et al., 2019) below `root`/slakh2100_flac_redux: SPLIT/TrackNNNNN, metadata.yaml and stems/.

    Of each track one rendered stem is drawn by `choice_seed` as the part, "add a CLASS" is asked for, and the sum of
    the others is the background.

    Raises
    ------
    BlendbenchError
        If the folder holds no tracks, or metadata are malformed.
    """
    place = Path(root).expanduser() / "slakh2100_flac_redux" / split
    files = sorted(place.glob("Track*/metadata.yaml"))
    if not files:
        raise BlendbenchError(
            f"{printable(place)}: no TrackNNNNN/metadata.yaml there; unpack Slakh2100-FLAC-redux below data.root"
        )
    found = []
    for file in files[:tracks]:
        stems = {
            name: str(one.get("inst_class") or one.get("midi_program_name") or "instrument")
            for name, one in _metadata(file).items()
            if (file.parent / "stems" / f"{name}.flac").is_file()
        }
        if len(stems) < 2:
            continue
        chosen = random.Random(stable_seed(choice_seed, file.parent.name)).choice(sorted(stems))
        word = stems[chosen].removesuffix("s").lower() if stems[chosen] != "Bass" else "bass"
        asked = f"add {'an' if word[0] in 'aeiou' else 'a'} {word}"
        paths = {name: file.parent / "stems" / f"{name}.flac" for name in sorted(stems)}
        others = tuple(path for name, path in paths.items() if name != chosen)
        for number_of, start in enumerate(_starts(paths[chosen], windows)):
            found.append(StemClip(
                f"{file.parent.name}-{chosen}-{number_of}", others, (paths[chosen],), asked, "", file.parent.name,
                stems[chosen], start, root=place,
            ))  # fmt: skip
    return found


def gtzan(
    root: str,
    genres: list[str] | None = None,
    windows: int = 6,
    prompts: str | None = None,
    prompt: str = "add a singing voice",
) -> list[StemClip]:
    """GTZAN (Tzanetakis and Cook, 2002) below `root`/genres_original: GENRE/GENRE.NNNNN.wav, 30 s of whole mixes.

    Windows begin every floor((N - 225351) / (windows - 1)) samples of the clip's N (Riff-CNET's preparation).

    Parameters
    ----------
    genres : list of str, optional
        Those that take part; all when absent. The paper has blues, country, reggae, rock and pop.
    windows : int
        Of a clip: six in the paper, five in its code.
    prompts : str, optional
        CSV with the columns `file` and `prompt`; clips that it does not name are left out.
    prompt : str
        What is asked for without such a table.

    Raises
    ------
    BlendbenchError
        If the folder holds no clips, or the table is malformed.
    """
    place = Path(root).expanduser() / "genres_original"
    files = [file for file in sorted(place.glob("*/*.wav")) if genres is None or file.parent.name in genres]
    if not files:
        raise BlendbenchError(
            f"{printable(place)}: no GENRE/GENRE.NNNNN.wav there; unpack GTZAN's genres_original/ below data.root"
        )
    asked = {row["file"]: row["prompt"] for row in read_csv(Path(prompts), ("file", "prompt"))} if prompts else None
    found = []
    for file in files:
        text = prompt if asked is None else asked.get(file.name, "")
        for place_in, start in enumerate(_starts(file, windows) if text else ()):
            found.append(StemClip(
                f"{file.stem}-{place_in}", (file,), (), text, file.parent.name, file.stem, "vocals", start,
                mixed=True, root=place,
            ))  # fmt: skip
    return found


def _starts(file: Path, windows: int) -> list[float]:
    """Starts in seconds of so many windows of a file, evenly spread; those of a file that cannot be read are at 0."""
    if windows < 1:
        raise BlendbenchError(f"windows: {windows}; give 1 or more")
    try:
        info = soundfile.info(file)
    except (OSError, RuntimeError):
        return [0.0]  # its row says why
    room = int(info.frames * SAMPLE_RATE / info.samplerate) - WINDOW
    if windows == 1:
        return [max(room, 0) // 2 / SAMPLE_RATE]
    hop = room // (windows - 1)
    return [place * hop / SAMPLE_RATE for place in range(windows)] if hop > 0 else [0.0]


def _metadata(file: Path) -> dict[str, dict[str, Any]]:
    stand_ins.refuse_as_text(file)
    try:
        stems = yaml.safe_load(file.read_text(encoding="utf-8"))["stems"]
        return {str(name): dict(one) for name, one in stems.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise BlendbenchError(
            f"{printable(file)}: no metadata of Slakh2100 ({one_line(str(error))[:80]}); unpack the track again"
        ) from None
