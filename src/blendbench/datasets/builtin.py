"""The data that travel with the package: synthesised noises, rendered music, and the prompts.

They let every command run on a machine that has no data set. `blendbench train pack` made the audio.
"""

from importlib.resources import files
from pathlib import Path

from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.datasets.tables import inside, read_csv


def package_folder(name: str) -> Path:
    """Folder of a resource package, such as "blendbench.assets"."""
    return Path(str(files(name)))


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
    """The 100 prompts over seven genres, or those of a CSV file with the columns prompt_id, genre, prompt."""
    table = Path(file) if file else package_folder("blendbench.data_manifests") / "prompts.csv"
    return [
        Prompt(row["prompt_id"], row["genre"], row["prompt"])
        for row in read_csv(table, ("prompt_id", "genre", "prompt"))
    ]
