"""Make the built-in piano pieces: POP909's piano tracks of songs that no built-in model has learnt from, rendered.

Ogg Vorbis, mono, 44.1 kHz, with a CSV table: where the window of 2^18 samples begins in each, at which RMS it lies.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
import torch

from blendbench.resources import package_folder
from blendbench.seeds import shuffled
from blendbench.sound import audio, files
from blendbench.store.write import make_folder, write_text
from blendbench.train.data import render, songs

SAMPLE_RATE = 44_100
PIECES = 6
SECONDS = 75.0
WINDOW = 1 << 18
RMS = 0.05657
"""Of a window, as the published excerpts of SimDPS have it."""


def write(assets: Path | str | None, pop909: Path | str, seed: int = 0) -> None:
    """Write `piano/` below the assets folder, None for the package's, replacing what is there: pieces and `piano.csv`.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the songs are missing, or the folder cannot be written.
    """
    pop909 = Path(pop909)
    there = songs.held_out_at(pop909, PIECES)
    folder = (package_folder("blendbench.assets") if assets is None else Path(assets)) / "piano"
    make_folder(folder)
    draw, rows = np.random.default_rng([seed, 3]), []
    for name in shuffled(there, seed, str)[:PIECES]:
        waveform = piano(pop909 / name / f"{name}.mid", SECONDS)[: round(SECONDS * SAMPLE_RATE)]
        start = int(draw.integers(len(waveform) - WINDOW))
        level = RMS / float(waveform[start : start + WINDOW].square().mean().sqrt())
        leveled, _ = audio.limit_peak(waveform * level, 0.98)
        identifier = f"piano-{name}"
        files.write(folder / f"{identifier}.ogg", leveled, SAMPLE_RATE)
        rows.append([identifier, f"{identifier}.ogg", name, start])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["id", "file", "song", "start"], *rows])
    write_text(folder / "piano.csv", text.getvalue())


def piano(midi: Path | str, seconds: float = math.inf) -> torch.Tensor:
    """A song's piano track by a grand piano, [samples] at 44.1 kHz: what begins within so many seconds, rung out.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the soundfont is missing.
    """
    import pretty_midi

    score, track = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0)
    for own in pretty_midi.PrettyMIDI(str(midi)).instruments:
        if own.name == "PIANO":
            track.notes += [note for note in own.notes if note.start < seconds]
    score.instruments.append(track)
    return torch.from_numpy(render.render(score, sample_rate=SAMPLE_RATE))
