"""MusicBench (Melechovsky et al. 2024): captioned music clips, in its published layout.

`MusicBench/MusicBench_train.json` (JSON lines with `location` and `main_caption`) and the audio that `location` names.
Columns `genre` and `song` are used where present; else the track is taken from the file's name without its
augmentation suffix, and the genre is left open.
"""

import json
import re
from pathlib import Path

from blendbench.datasets import MusicClip
from blendbench.datasets.tables import inside
from blendbench.errors import BlendbenchError


def read_table(folder: Path, table_name: str = "MusicBench_train.json") -> list[MusicClip]:
    """All clips that the table names, in its order; the audio is not opened.

    Raises
    ------
    BlendbenchError
        If the table is missing, empty, or a line is not a JSON object with `location`.
    """
    table = folder / table_name
    clips = []
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise BlendbenchError(f"{table}: not found; put MusicBench there or set data.root=DIR") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BlendbenchError(f"{table}: cannot be read ({error}); fetch it again") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            location = str(row["location"])
        except (ValueError, KeyError, TypeError):
            raise BlendbenchError(
                f"{table}, line {number}: not a JSON object with 'location'; fetch it again"
            ) from None
        path = inside(folder, location, table)
        track = str(row.get("song") or re.sub(r"_(\d+|aug\d*)$", "", path.stem))
        clips.append(MusicClip(path.stem, path, str(row.get("genre", "")), str(row.get("main_caption", "")), track))
    if not clips:
        raise BlendbenchError(f"{table}: holds no clip; fetch it again")
    return clips


def musicbench(root: str) -> list[MusicClip]:
    """MusicBench's clips below the data root."""
    return read_table(Path(root) / "MusicBench")
