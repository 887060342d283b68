"""Make the sample packs that travel with the package: synthesised noises and music of the project's own composition.

Both are Ogg Vorbis, mono, 44.1 kHz, with a CSV table each. The music is written by the rule-based composer, arranged
and rendered like the training music, one clip a composition, and put at a level drawn between -18 and -12 LUFS, where
published music lies (BNMusic, appendix A).
"""

import csv
import io
from pathlib import Path

import numpy as np
import soundfile
import torch

from blendbench.resources import package_folder
from blendbench.sound import audio
from blendbench.store.write import write_text
from blendbench.train.data import noises, render, songs
from blendbench.train.data.arranger import GENRES

SAMPLE_RATE = 44_100
NOISE_CLIPS_PER_KIND = 2
MUSIC_CLIPS_PER_GENRE = 14


def write(assets: Path | str | None, seed: int = 0) -> None:
    """Write `noise/` and `music/` below the assets folder, None for the package's, replacing what is there.

    Raises
    ------
    BlendbenchError
        If FluidSynth is missing or the folder cannot be written.
    """
    assets = package_folder("blendbench.assets") if assets is None else Path(assets)
    _write_noise(assets / "noise", seed)
    _write_music(assets / "music", seed)
    total = sum(file.stat().st_size for name in ("noise", "music") for file in (assets / name).iterdir())
    print(f"packs: {total / 1e6:.1f} MB in {assets}")


def write_ogg(path: Path, waveform: torch.Tensor) -> None:
    """Write a waveform [samples] at 44.1 kHz as Ogg Vorbis, its peak at most .98."""
    leveled, _ = audio.limit_peak(waveform, 0.98)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, leveled.numpy(), SAMPLE_RATE, subtype="VORBIS", compression_level=0.75)


def write_table(path: Path, columns: list[str], rows: list[list]) -> None:
    """Write a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    write_text(path, text.getvalue())


def _write_noise(folder: Path, seed: int) -> None:
    rows = []
    for identifier, kind, waveform in noises.noise_set(NOISE_CLIPS_PER_KIND, seed + 1):
        leveled, _ = audio.normalize_loudness(torch.from_numpy(waveform), SAMPLE_RATE, -20.0)
        write_ogg(folder / f"{identifier}.ogg", leveled)
        rows.append([identifier, f"{identifier}.ogg", kind])
    write_table(folder / "noise.csv", ["id", "file", "kind"], rows)


def _write_music(folder: Path, seed: int) -> None:
    draw = np.random.default_rng([seed, 2])
    genres = list(GENRES) * MUSIC_CLIPS_PER_GENRE
    jobs = [(songs.compose(seed + i), genre, int(draw.integers(2**31))) for i, genre in enumerate(genres)]
    rows = []
    taken: dict[str, int] = dict.fromkeys(GENRES, 0)
    for waveform, facts in render.render_clips(jobs, seconds=14.0, clips_per_job=1, captions_per_clip=1):
        genre = facts["genre"]
        identifier = f"{genre.lower().replace('-', '')}-{taken[genre]:02d}"
        taken[genre] += 1
        level = float(draw.uniform(-18, -12))
        leveled, _ = audio.normalize_loudness(torch.from_numpy(waveform), SAMPLE_RATE, level)
        write_ogg(folder / f"{identifier}.ogg", leveled)
        rows.append(
            [
                identifier,
                f"{identifier}.ogg",
                genre,
                facts["captions"][0],
                facts["song"],
                ", ".join(facts["instruments"]),
            ]
        )
    write_table(folder / "music.csv", ["id", "file", "genre", "caption", "source", "instruments"], rows)
