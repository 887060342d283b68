"""The data that travel with the package: synthesised noises, rendered music, and the prompts.

They let every command run on a machine that has no data set. `blendbench train pack` made the audio.
"""

from pathlib import Path

from blendbench import stand_ins
from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.datasets.tables import inside, once, read_csv
from blendbench.errors import BlendbenchError, printable
from blendbench.resources import package_folder


def noise() -> list[NoiseClip]:
    """The built-in noises: synthesised, 5 s, several kinds."""
    folder = package_folder("blendbench.assets") / "noise"
    table = folder / "noise.csv"
    return [
        NoiseClip(row["id"], inside(folder, row["file"], table), row["kind"], row["id"])
        for row in read_csv(table, ("id", "file", "kind"))
    ]


def music() -> list[MusicClip]:
    """The built-in music: rendered by the project from its own compositions, 5.12 s, seven genres."""
    folder = package_folder("blendbench.assets") / "music"
    table = folder / "music.csv"
    return [
        MusicClip(row["id"], inside(folder, row["file"], table), row["genre"], row["caption"], row["source"])
        for row in read_csv(table, ("id", "file", "genre", "caption", "source"))
    ]


def prompts(file: str | None = None) -> list[Prompt]:
    """The 100 prompts over seven genres, or those of a file.

    Parameters
    ----------
    file : str, optional
        A text file (`.txt`) with a prompt a line, or a CSV file with the column `prompt` and optionally `prompt_id` and
        `genre`.

    Raises
    ------
    BlendbenchError
        If the file is missing, malformed, or holds an empty prompt.
    """
    table = Path(file) if file else package_folder("blendbench.data_manifests") / "prompts.csv"
    rows = _lines(table) if table.suffix.lower() == ".txt" else read_csv(table, ("prompt",))
    found = []
    for place, row in enumerate(rows, start=1):
        if not row["prompt"]:
            raise BlendbenchError(
                f"{printable(table)}, row {place + 1}: its prompt is empty; write one or take the row out"
            )
        found.append(Prompt(row.get("prompt_id") or f"own-{place:03d}", row.get("genre", ""), row["prompt"]))
    return once(found, table)


def _lines(file: Path) -> list[dict[str, str]]:
    stand_ins.refuse_as_text(file)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise BlendbenchError(f"{printable(file)}: not found; set prompts.file to a CSV or text file") from None
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{printable(file)}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None
    if not any(lines):
        raise BlendbenchError(f"{printable(file)}: holds no prompt; write one a line")
    return [{"prompt": line} for line in lines if line]
