"""Songs as scores: a melody and chords counted in beats, read from POP909 or composed by rule.

Conventions: times and durations are in beats from the start of the song, beat 0 is a downbeat; pitches are MIDI note
numbers, pitch classes count semitones from C; velocities are 1..127. A song holds no instruments: `arranger` chooses
those. `compose` needs no data, so what is made from it can be shipped freely.
"""

import bisect
import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder

HELD_OUT = "pop909_held_out.txt"
PITCH_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_PITCH_CLASS = {
    name + accidental: (base + shift) % 12
    for name, base in {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}.items()
    for accidental, shift in {"": 0, "b": -1, "#": 1}.items()
}
QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "maj6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "minmaj7": (0, 3, 7, 11),
    "dim7": (0, 3, 6, 9),
    "hdim7": (0, 3, 6, 10),
    "sus4(b7)": (0, 5, 7, 10),
}
_DEGREES = {"1": 0, "2": 2, "3": 4, "4": 5, "5": 7, "6": 9, "7": 11}
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True)
class Note:
    """One melody note: start and duration in beats, MIDI pitch, velocity 1..127."""

    start: float
    duration: float
    pitch: int
    velocity: int = 90


@dataclass(frozen=True)
class Chord:
    """One chord: start and duration in beats, pitch classes of its root and bass, and its quality (see `QUALITIES`)."""

    start: float
    duration: float
    root: int
    quality: str
    bass: int

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Pitch classes of the chord, root first."""
        return tuple((self.root + interval) % 12 for interval in QUALITIES[self.quality])

    @property
    def end(self) -> float:
        """End, in beats."""
        return self.start + self.duration


@dataclass(frozen=True)
class Song:
    """A melody with chords; `tempo` in beats a minute, `tonic` a pitch class, `mode` "major" or "minor"."""

    id: str
    tempo: float
    beats_per_bar: int
    tonic: int
    mode: str
    melody: tuple[Note, ...]
    chords: tuple[Chord, ...]

    @property
    def beats(self) -> float:
        """Length, in beats, rounded up to a whole bar."""
        end = max([n.start + n.duration for n in self.melody] + [c.end for c in self.chords], default=0.0)
        return math.ceil(end / self.beats_per_bar - 1e-6) * self.beats_per_bar

    @property
    def bars(self) -> int:
        """Length, in bars."""
        return round(self.beats / self.beats_per_bar)


def read_pop909(folder: Path) -> Song:
    """Read one song of POP909 (Wang et al. 2020): its MELODY track and annotated beats and chords.

    Parameters
    ----------
    folder : Path
        Folder of the song, named by its id, with `<id>.mid`, `beat_midi.txt` and `chord_midi.txt`.

    Returns
    -------
    Song
        Melody snapped to quarter beats; chords snapped to half beats; beat 0 is the downbeat at or before the first
        note.

    Raises
    ------
    BlendbenchError
        If a file is missing or malformed; the message names it.
    """
    import pretty_midi

    folder = Path(folder)
    beat_file, chord_file, midi_file = (
        folder / "beat_midi.txt",
        folder / "chord_midi.txt",
        folder / f"{folder.name}.mid",
    )
    beat_rows = [_numbers(beat_file, number, row) for number, row in _rows(beat_file, columns=3)]
    times = [row[0] for row in beat_rows]
    if len(times) < 8 or any(b <= a for a, b in itertools.pairwise(times)):
        raise BlendbenchError(f"{beat_file}: beat times must rise and be at least 8; fetch POP909 again")
    beats_per_bar, phase = _meter([i for i, row in enumerate(beat_rows) if row[2] == 1.0])

    def beat_of(time: float) -> float:
        i = min(max(bisect.bisect_right(times, time) - 1, 0), len(times) - 2)
        return i + (time - times[i]) / (times[i + 1] - times[i]) - phase

    chords = []
    for number, row in _rows(chord_file, columns=3):
        start, end, *_ = _numbers(chord_file, number, row[:2])
        if row[2] == "N":
            continue
        root, quality, bass = _parse_chord(chord_file, number, row[2])
        first, last = _snap(beat_of(start), 2), _snap(beat_of(end), 2)
        if last > first:
            chords.append(Chord(first, last - first, root, quality, bass))
    try:
        tracks = {track.name: track.notes for track in pretty_midi.PrettyMIDI(str(midi_file)).instruments}
    except Exception as error:  # the MIDI parser raises whatever the broken byte led to
        raise BlendbenchError(f"{midi_file}: not a readable MIDI file ({error}); fetch POP909 again") from error
    if not tracks.get("MELODY") or not chords:
        empty = midi_file if not tracks.get("MELODY") else chord_file
        raise BlendbenchError(f"{empty}: holds no {'melody' if empty is midi_file else 'chord'}; fetch POP909 again")
    melody: list[Note] = []
    for n in sorted(tracks["MELODY"], key=lambda note: (note.start, note.pitch)):
        start = _snap(beat_of(n.start), 4)
        duration = max(beat_of(n.end) - beat_of(n.start), 0.2)
        if melody and melody[-1].start == start:
            melody.pop()
        elif melody and melody[-1].start + melody[-1].duration > start:
            melody[-1] = replace(melody[-1], duration=start - melody[-1].start)
        melody.append(Note(start, duration, n.pitch, n.velocity))
    lead_in = min(melody[0].start, chords[0].start)
    shift = math.floor(lead_in / beats_per_bar) * beats_per_bar
    melody = [replace(n, start=n.start - shift) for n in melody]
    chords = [replace(c, start=c.start - shift) for c in chords]
    tonic, mode = _estimate_key(melody, chords)
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    return Song(folder.name, 60.0 / gaps[len(gaps) // 2], beats_per_bar, tonic, mode, tuple(melody), tuple(chords))


def held_out_songs(path: Path | None = None) -> frozenset[str]:
    """Ids of the POP909 songs kept for testing; raises `BlendbenchError` if the manifest is missing."""
    path = path or package_folder("blendbench.data_manifests") / HELD_OUT
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BlendbenchError(f"{path}: cannot be read ({error.strerror}); name the list of held-out songs") from error
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def held_out_at(pop909: Path, least: int = 0) -> list[str]:
    """Ids, in order, of the held-out songs whose MIDI lies in POP909's folder; BlendbenchError if there are too few."""
    there = [name for name in sorted(held_out_songs()) if (pop909 / name / f"{name}.mid").is_file()]
    if len(there) < least:
        raise BlendbenchError(f"{pop909}: {len(there)} of the held-out songs are there; put POP909's NNN/NNN.mid there")
    return there


def split_at(pop909: Path) -> tuple[list[str], list[str]]:
    """Ids, in order, of POP909's songs that may be learnt from, and of those held out.

    Raises
    ------
    BlendbenchError
        If none is there.
    """
    held = held_out_at(pop909)
    there = sorted(path.name for path in pop909.glob("*") if (path / f"{path.name}.mid").is_file())
    own = [name for name in there if name not in set(held)]
    if not own:
        raise BlendbenchError(f"{pop909}: no POP909 songs (folders 001 to 909) here; give --data-root DIR")
    return own, held


def _rows(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BlendbenchError(f"{path}: cannot be read ({error}); fetch POP909 again") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, row in rows:
        if len(row) < columns:
            raise BlendbenchError(f"{path}:{number}: {columns} columns expected, not {len(row)}; fetch POP909 again")
    return rows


def _numbers(path: Path, number: int, row: list[str]) -> list[float]:
    try:
        values = [float(cell) for cell in row]
    except ValueError as error:
        raise BlendbenchError(f"{path}:{number}: {error}; fetch POP909 again") from error
    if not all(math.isfinite(v) for v in values):
        raise BlendbenchError(f"{path}:{number}: a time is not finite; fetch POP909 again")
    return values


def _parse_chord(path: Path, number: int, label: str) -> tuple[int, str, int]:
    """Root, quality and bass of a label such as `Gb:min7/b3` (syntax of Harte et al. 2005)."""
    body, _, over = label.partition("/")
    name, _, quality = body.partition(":")
    quality = quality or "maj"
    degree = over.lstrip("b#")
    if name not in _PITCH_CLASS or quality not in QUALITIES or (over and degree not in _DEGREES):
        raise BlendbenchError(f"{path}:{number}: unknown chord {label!r}; fetch POP909 again")
    root = _PITCH_CLASS[name]
    bass = root + _DEGREES[degree] - over.count("b") + over.count("#") if over else root
    return root, quality, bass % 12


def _meter(downbeats: list[int]) -> tuple[int, int]:
    """Beats a bar and the index of the first downbeat of the prevailing grid."""
    gaps = Counter(b - a for a, b in itertools.pairwise(downbeats))
    beats = gaps.most_common(1)[0][0] if gaps else 4
    # Six annotated beats are two bars of three for every pattern of the arranger.
    beats = 3 if beats in (3, 6) else 4
    phases = Counter(d % beats for d in downbeats)
    return beats, phases.most_common(1)[0][0] if phases else 0


def _snap(beat: float, divisions: int) -> float:
    return round(beat * divisions) / divisions


def _estimate_key(melody: list[Note], chords: list[Chord]) -> tuple[int, str]:
    """Tonic and mode whose scale holds most of the sounding time; ties go to the tonic with more root time."""
    weight = [0.0] * 12
    roots = [0.0] * 12
    for note in melody:
        weight[note.pitch % 12] += note.duration
    for chord in chords:
        roots[chord.root] += chord.duration
        for pitch_class in chord.pitch_classes:
            weight[pitch_class] += chord.duration / 3
    minor_time = {c.root: 0.0 for c in chords}
    for chord in chords:
        minor_time[chord.root] += chord.duration if QUALITIES[chord.quality][1] == 3 else 0.0
    scored = []
    for tonic in range(12):
        for mode, scale in (("major", MAJOR_SCALE), ("minor", MINOR_SCALE)):
            inside = sum(weight[(tonic + degree) % 12] for degree in scale)
            right_third = minor_time.get(tonic, 0.0) if mode == "minor" else roots[tonic] - minor_time.get(tonic, 0.0)
            scored.append((inside + right_third, tonic, mode))
    _, tonic, mode = max(scored)
    return tonic, mode


# Scale degrees (0-based) of four-bar progressions that pop, dance, rock, jazz and classical harmony share.
_PROGRESSIONS = {
    "major": (
        (0, 4, 5, 3),
        (0, 5, 3, 4),
        (5, 3, 0, 4),
        (0, 3, 4, 3),
        (0, 2, 3, 4),
        (3, 4, 2, 5),
        (1, 4, 0, 5),
        (0, 4, 3, 0),
        (0, 3, 0, 4),
        (3, 0, 4, 5),
        (0, 5, 1, 4),
        (2, 5, 1, 4),
        (0, 4, 5, 2),
    ),
    "minor": (
        (0, 5, 2, 6),
        (0, 3, 4, 0),
        (0, 6, 5, 4),
        (0, 5, 3, 4),
        (0, 2, 6, 3),
        (5, 6, 0, 0),
        (0, 3, 6, 2),
        (0, 6, 3, 0),
        (1, 4, 0, 0),
        (0, 4, 5, 6),
    ),
}
# Note lengths of one-bar motifs, in beats; negative values are rests.
_RHYTHMS = (
    (1.0, 1.0, 1.0, 1.0),
    (1.5, 0.5, 1.0, 1.0),
    (0.5, 0.5, 1.0, 0.5, 0.5, 1.0),
    (0.75, 0.75, 0.5, 1.0, 1.0),
    (2.0, 1.0, 1.0),
    (-0.5, 0.5, 0.5, 0.5, 1.5, 0.5),
    (0.5, 0.5, 0.5, 0.5, 1.0, -1.0),
    (1.5, 1.5, 1.0),
    (3.0, 0.5, 0.5),
    (0.75, 0.25, 0.5, 0.5, 1.5, -0.5),
    (-1.0, 0.5, 0.5, 1.0, 1.0),
    (0.5, 1.0, 0.5, 1.0, -0.5, 0.5),
    (0.25, 0.25, 0.5, 0.5, 0.5, 0.75, 0.75, 0.5),
    (2.5, 0.5, 0.5, 0.5),
)
_FORMS = ("AABA", "AABB", "ABAB", "AABC", "ABAC")


def compose(seed: int) -> Song:
    """Compose a song by rule: eight-bar sections over common progressions, a motif repeated, sequenced and varied.

    Strong beats take chord tones, the others steps of the scale; the second half of a section repeats the first with a
    new close. The song's id is `composed-<seed>`.
    """
    rng = random.Random(f"compose-{seed}")
    mode = rng.choices(("major", "minor"), (0.6, 0.4))[0]
    tonic = rng.randrange(12)
    scale = MAJOR_SCALE if mode == "major" else MINOR_SCALE
    sections: dict[str, tuple[list[Note], list[Chord]]] = {}
    melody: list[Note] = []
    chords: list[Chord] = []
    for name in rng.choice(_FORMS) + rng.choice(_FORMS)[1:]:
        if name not in sections:
            sections[name] = _compose_section(rng, mode, tonic, scale)
        offset = chords[-1].end if chords else 0.0
        melody += [replace(n, start=n.start + offset) for n in sections[name][0]]
        chords += [replace(c, start=c.start + offset) for c in sections[name][1]]
    tempo = float(rng.choice((72, 80, 88, 96, 104, 112, 120, 128, 140)))
    return Song(f"composed-{seed}", tempo, 4, tonic, mode, tuple(melody), tuple(chords))


def _compose_section(
    rng: random.Random, mode: str, tonic: int, scale: tuple[int, ...]
) -> tuple[list[Note], list[Chord]]:
    progression = rng.choice(_PROGRESSIONS[mode])
    sevenths = rng.random() < 0.35
    chords = []
    for bar in range(8):
        # A faster harmonic rhythm leads back at the end of some sections.
        degrees = [progression[bar % 4]]
        if bar == 7 and rng.random() < 0.5:
            degrees.append(4)
        for i, degree in enumerate(degrees):
            length = 4.0 / len(degrees)
            root, quality = _diatonic_chord(degree, mode, tonic, scale, sevenths)
            bass = root
            if rng.random() < 0.1:
                bass = (root + QUALITIES[quality][1]) % 12
            chords.append(Chord(bar * 4.0 + i * length, length, root, quality, bass))
    motif, answer = rng.choice(_RHYTHMS), rng.choice(_RHYTHMS)
    close = rng.choice(((2.0, 2.0), (1.0, 3.0), (3.0, -1.0), (1.5, 2.5)))
    rhythms = [motif, answer, motif, rng.choice((close, answer)), motif, answer, motif, close]
    ladder = sorted(p for octave in range(4, 8) for d in scale if 57 <= (p := tonic + d + 12 * octave) <= 84)
    moves = [rng.choice((-2, -1, -1, 0, 1, 1, 2)) for _ in range(max(map(len, rhythms)))]
    position = min(range(len(ladder)), key=lambda i: abs(ladder[i] - rng.randint(64, 72)))
    start_position = position
    melody = []
    for bar, rhythm in enumerate(rhythms):
        if bar == 4:
            position = start_position
        beat = bar * 4.0
        for i, length in enumerate(rhythm):
            if length > 0:
                move = moves[i] if rng.random() < 0.85 else rng.choice((-2, -1, 1, 2))
                position = min(max(position + move, 1), len(ladder) - 2)
                if beat % 2 == 0 or length >= 1.5:
                    chord = next(c for c in chords if c.start <= beat < c.end)
                    tones = [k for k, p in enumerate(ladder) if p % 12 in chord.pitch_classes]
                    position = min(tones, key=lambda k: (abs(k - position), k))
                accent = 12 if beat % 4 == 0 else 6 if beat % 2 == 0 else 0
                melody.append(Note(beat, length * 0.95, ladder[position], 80 + accent + rng.randint(-4, 4)))
            beat += abs(length)
    return melody, chords


def _diatonic_chord(degree: int, mode: str, tonic: int, scale: tuple[int, ...], sevenths: bool) -> tuple[int, str]:
    """Root and quality of the chord on a scale degree; the fifth of a minor key takes the leading note."""
    root = (tonic + scale[degree]) % 12
    size = 4 if sevenths else 3
    intervals = [(scale[(degree + 2 * k) % 7] - scale[degree]) % 12 for k in range(size)]
    if mode == "minor" and degree == 4:
        intervals[1] = 4
    quality = next(name for name, tones in QUALITIES.items() if list(tones) == intervals)
    return root, quality
