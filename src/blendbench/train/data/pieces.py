"""Make the built-in piano pieces and a drum loop, rendered.

The pieces are POP909's piano tracks of songs that no built-in model has learnt from. Ogg Vorbis, mono, 44.1 kHz, with a
CSV table: where the window of 2^18 samples begins in each, at which RMS it lies.
"""

import math
from pathlib import Path

import numpy as np
import torch

from blendbench.resources import package_folder
from blendbench.seeds import shuffled
from blendbench.sound import audio, files
from blendbench.store.write import make_folder
from blendbench.train.data import render, songs
from blendbench.train.data.pack import write_table

SAMPLE_RATE = 44_100
PIECES = 6
SECONDS = 75.0
WINDOW = 1 << 18
RMS = 0.05657
"""Of a window, as the published excerpts of SimDPS have it."""


def write(assets: Path | str | None, pop909: Path | str, seed: int = 0) -> None:
    """Write `piano/` and `loop/` below the assets folder, None for the package's, replacing what is there.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the songs are missing, or the folder cannot be written.
    """
    pop909 = Path(pop909)
    there = songs.held_out_at(pop909, PIECES)
    place = package_folder("blendbench.assets") if assets is None else Path(assets)
    folder = place / "piano"
    make_folder(folder)
    make_folder(place / "loop")
    files.write(place / "loop" / "drum-loop.ogg", drum_loop(), SAMPLE_RATE)
    draw, rows = np.random.default_rng([seed, 3]), []
    for name in shuffled(there, seed, str)[:PIECES]:
        waveform = piano(pop909 / name / f"{name}.mid", SECONDS)[: round(SECONDS * SAMPLE_RATE)]
        start = int(draw.integers(len(waveform) - WINDOW))
        level = RMS / float(waveform[start : start + WINDOW].square().mean().sqrt())
        leveled, _ = audio.limit_peak(waveform * level, 0.98)
        identifier = f"piano-{name}"
        files.write(folder / f"{identifier}.ogg", leveled, SAMPLE_RATE)
        rows.append([identifier, f"{identifier}.ogg", name, start])
    write_table(folder / "piano.csv", ["id", "file", "song", "start"], rows)


def drum_loop(bars: int = 13, beats_a_minute: float = 120.0) -> torch.Tensor:
    """Bars of bass drum, snare and hi-hat by General MIDI's drums, every fourth with a fill, [samples] at 44.1 kHz."""
    import pretty_midi

    score, drums = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0, is_drum=True)
    eighth = 30 / beats_a_minute

    def hit(pitch: int, place: float, velocity: int) -> None:
        drums.notes.append(pretty_midi.Note(velocity, pitch, place * eighth, place * eighth + 0.1))

    for bar in range(bars):
        hits = [(42, float(place), 65 if place % 2 else 90) for place in range(8)]
        hits += [(36, float(place), 110) for place in ((0, 3, 4) if bar % 2 else (0, 4))]
        hits += [(38, 2.0, 105), (38, 6.0, 105)]
        if bar % 4 == 3:
            hits += [(45, 6.5, 95), (45, 7.0, 95), (45, 7.5, 95)]
        for pitch, place, velocity in hits:
            hit(pitch, 8 * bar + place, velocity)
    score.instruments.append(drums)
    wave = torch.from_numpy(render.render(score, sample_rate=SAMPLE_RATE))[: round(8 * bars * eighth * SAMPLE_RATE)]
    leveled, _ = audio.limit_peak(wave * (RMS / float(wave.square().mean().sqrt())), 0.98)
    return leveled


def piano(midi: Path | str, seconds: float = math.inf) -> torch.Tensor:
    """A song's piano track by a grand piano, [samples] at 44.1 kHz: what begins within so many seconds, rung out.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the soundfont is missing.
    """
    return _played(midi, seconds, ("PIANO",), stereo=False)


def song(midi: Path | str, seconds: float = math.inf, *, stereo: bool = True) -> torch.Tensor:
    """A song as its file has it, every track by a grand piano, [2, samples] or [samples] at 44.1 kHz; as `piano`."""
    return _played(midi, seconds, None, stereo=stereo)


def _played(midi: Path | str, seconds: float, tracks: tuple[str, ...] | None, *, stereo: bool) -> torch.Tensor:
    import pretty_midi

    score = pretty_midi.PrettyMIDI()
    for own in pretty_midi.PrettyMIDI(str(midi)).instruments:
        if tracks is None or own.name in tracks:
            track = pretty_midi.Instrument(0)
            track.notes += [note for note in own.notes if note.start < seconds]
            score.instruments.append(track)
    return torch.from_numpy(render.render(score, sample_rate=SAMPLE_RATE, stereo=stereo).T.copy())
