"""The piano that models learn from: POP909's piano tracks, or all tracks by one piano, rendered.

A folder with `piano.i16` (all songs one after the other, a frame's channels side by side) and `piano.jsonl` (a row a
song: where it lies, its level, its split, the sample rate, channels). Held out are the songs that no built-in model
learns from.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendbench.errors import BlendbenchError
from blendbench.seeds import shuffled
from blendbench.sound import audio, files
from blendbench.store.write import make_folder, write_text
from blendbench.train.data import pieces, render, songs
from blendbench.train.data.pieces import RMS


class Piano:
    """The songs of such a folder, memory-mapped.

    Raises
    ------
    BlendbenchError
        If nothing is there.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        try:
            rows = [json.loads(line) for line in (folder / "piano.jsonl").read_text().splitlines()]
            samples = np.memmap(folder / "piano.i16", np.int16, "r")
        except (OSError, ValueError):
            raise BlendbenchError(f"{folder}: no rendered piano here; run `blendbench train piano` first") from None
        self.sample_rate, self.channels = int(rows[0]["sample_rate"]), int(rows[0].get("channels", 1))
        frames = samples.reshape(-1, self.channels)
        self.songs: dict[str, list[np.ndarray]] = {"train": [], "held_out": []}
        self.levels: dict[str, list[float]] = {"train": [], "held_out": []}
        for row in rows:
            self.songs[row["split"]].append(frames[row["start"] : row["stop"]])
            self.levels[row["split"]].append(RMS / (row["rms"] * 32768))

    def crops(self, split: str, count: int, samples: int, draw: np.random.Generator) -> torch.Tensor:
        """Random stretches of songs in proportion to their length, at `RMS` of the song.

        Stretches that are nearly silent are drawn again. They are [count, samples], or [count, channels, samples] where
        there are two.
        """
        lengths = np.array([len(song) - samples for song in self.songs[split]], float).clip(0)
        if not lengths.any():
            raise BlendbenchError(f"split {split}: no song of {samples} samples; render longer ones")
        out: list[torch.Tensor] = []
        while len(out) < count:
            song = int(draw.choice(len(lengths), p=lengths / lengths.sum()))
            start = int(draw.integers(int(lengths[song])))
            crop = self.songs[split][song][start : start + samples] * self.levels[split][song]
            if float(np.sqrt((crop**2).mean())) > 0.1 * RMS:
                out.append(torch.from_numpy(crop.T.astype(np.float32)))
        crops = torch.stack(out)
        return crops[:, 0] if self.channels == 1 else crops


def build(
    folder: Path | str,
    pop909: Path | str,
    *,
    count: int = 100,
    sample_rate: int = 11_025,
    tracks: str = "piano",
    channels: int = 1,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Render songs to learn from and, of those held out, a fifth as many; a finished folder stays.

    Parameters
    ----------
    folder : Path
    pop909 : Path
    count : int
        Songs to learn from.
    sample_rate : int
        In Hz.
    tracks : "piano" or "all"
        The songs' piano alone, or melody and bridge, too, by the same piano.
    channels : int
        1 or 2.
    workers : int
        Processes.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the songs are missing, or a setting is out of range.
    """
    if tracks not in ("piano", "all") or channels not in (1, 2) or (tracks, channels) == ("piano", 2):
        raise BlendbenchError(
            f"training.tracks={tracks}, training.channels={channels}: choose piano with 1 channel, or all with 1 or 2"
        )
    folder, pop909 = Path(folder), Path(pop909)
    if (folder / "piano.jsonl").exists():
        return
    there = [path.name for path in sorted(pop909.glob("*")) if (path / f"{path.name}.mid").is_file()]
    held = set(songs.held_out_songs())
    chosen = [("train", name) for name in islice((one for one in shuffled(there, seed, str) if one not in held), count)]
    chosen += [("held_out", one) for one in shuffled(sorted(held & set(there)), seed, str)[: max(1, count // 5)]]
    if not any(split == "train" for split, _ in chosen):
        raise BlendbenchError(f"{pop909}: no POP909 songs (folders 001 to 909) here; give --data-root DIR")
    render.find_fluidsynth()
    render.find_soundfont()
    make_folder(folder)
    rows: list[dict[str, Any]] = []
    place = 0
    with (folder / "piano.partial").open("wb") as file, ProcessPoolExecutor(workers) as pool:
        files = [str(pop909 / name / f"{name}.mid") for _, name in chosen]
        made_of = partial(_rendered, sample_rate=sample_rate, tracks=tracks, channels=channels)
        for (split, name), made in zip(chosen, pool.map(made_of, files), strict=True):
            file.write(made.tobytes())
            rms = float(np.sqrt(((made.astype(np.float64) / 32768) ** 2).mean())) if len(made) else 0.0
            rows.append({"song": name, "split": split, "start": place, "stop": place + len(made), "rms": rms,
                         "sample_rate": sample_rate, "channels": channels})  # fmt: skip
            place += len(made)
            if len(rows) % 10 == 0:
                print(f"piano: {len(rows)} of {len(chosen)} songs, {place / sample_rate / 3600:.1f} hours", flush=True)
    (folder / "piano.partial").replace(folder / "piano.i16")
    write_text(folder / "piano.jsonl", "".join(json.dumps(row) + "\n" for row in rows if row["rms"] > 0))


def write_songs(
    songs: Path | str, folder: Path | str, *, pieces: int = 12, reference: int = 36, training: int = 12
) -> None:
    """Write songs of such a folder as FLAC files, below `pieces/`, `reference/` and `training/`; those there stay.

    The first two are different songs that were held out, the third such as models learn from; each is at the level that
    models know.

    Parameters
    ----------
    songs : Path
    folder : Path
    pieces, reference, training : int
        How many of each, as far as there are.

    Raises
    ------
    BlendbenchError
        If no songs are there.
    """
    data, folder = Piano(songs), Path(folder)
    chosen = {
        "pieces": ("held_out", range(pieces)),
        "reference": ("held_out", range(pieces, pieces + reference)),
        "training": ("train", range(training)),
    }
    for name, (split, places) in chosen.items():
        for place in islice(places, max(0, len(data.songs[split]) - places.start)):
            wave = torch.from_numpy((data.songs[split][place] * data.levels[split][place]).astype(np.float32)).T
            limited, _ = audio.limit_peak(wave, 0.98)
            mono = limited[0] if data.channels == 1 else limited
            files.write(folder / name / f"{split}-{place:03d}.flac", mono, data.sample_rate)


def _rendered(file: str, sample_rate: int, tracks: str, channels: int) -> np.ndarray:
    """A song, int16 [samples, channels]."""
    torch.set_num_threads(1)
    played = pieces.piano(file) if tracks == "piano" else pieces.song(file, stereo=channels == 2)
    low = audio.resample(played, pieces.SAMPLE_RATE, sample_rate)
    return (low.reshape(channels, -1).T.clamp(-1, 1) * 32767).to(torch.int16).numpy()
