"""What accompaniment models learn from: arranged songs in two exact stems, a part that carries the tune and all else.

The same songs, genres and sound font as the generator's own music, so that a frozen generator knows what it is asked to
continue; half of the tunes are sung (choir, voices, a synthesised voice), the others played by the style's own lead. A
mix is the sum of its stems.

A folder of such clips holds `images.u8` (mel images [clips, 2, 512, 512], loud = dark: background and mix, each with a
peak of its own), and `stems.jsonl` (a row a clip: song, split, genre, part, texts, the peaks). Rows are appended in
chunks, so a stopped build goes on and a training may read what is there. Splits go by song.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.sound.mel import encode_image, mel_amplitudes
from blendbench.store.write import make_folder
from blendbench.train.data import growing, render, songs
from blendbench.train.data.arranger import GENRES, PROGRAM_WORDS, Facts, arrange
from blendbench.train.data.captions import SYNONYMS, captions
from blendbench.train.data.pack import write_table

if TYPE_CHECKING:
    import pretty_midi

SAMPLE_RATE = 44_100
SAMPLES = 225_792
"""Of a clip: 5.12 s."""
ROWS = "stems.jsonl"
LEAST = 0.1
"""Least norm of the part beside that of the background (Riff-CNET's filter)."""
VOICES = {52: "choir", 53: "voice", 54: "synth voice"}
"""General MIDI programs that sing, by what they are called."""
_SUNG = {
    "female": ("female voice", "soft female voice", "female vocals", "woman singing", "choir"),
    "male": ("male voice", "deep male voice", "male vocals", "man singing", "choir"),
}


@dataclass(frozen=True)
class Part:
    """A part apart from the rest: MIDI of both, what was arranged, what the part is called, its names in prompts."""

    alone: "pretty_midi.PrettyMIDI"
    others: "pretty_midi.PrettyMIDI"
    facts: Facts
    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """A clip in two stems [samples], at the levels of one mix of -18 LUFS, and its row."""

    part: torch.Tensor
    background: torch.Tensor
    row: dict[str, Any]


class Stems:
    """A folder of such clips, opened for reading at its present length; images stay memory-mapped.

    Raises
    ------
    BlendbenchError
        If none is there.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.rows = growing.rows(self.folder / ROWS)
        if not self.rows:
            raise BlendbenchError(f"{self.folder}: no stems here; run `blendbench train stems` first")
        self.images = np.memmap(self.folder / "images.u8", np.uint8, "r", shape=(len(self.rows), 2, 512, 512))

    def of(self, split: str) -> np.ndarray:
        """Indices of a split's clips: "train" or "held_out"."""
        return np.array([index for index, row in enumerate(self.rows) if row["split"] == split], int)

    def pixels(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Grey pixels [N, 512, 512] in 0..255 of backgrounds and of mixes."""
        both = torch.from_numpy(self.images[indices].astype(np.float32))
        return both[:, 0], both[:, 1]


def split_song(song: songs.Song, genre: str, seed: int, seconds: float) -> Part:
    """Arrange a song and take its tune apart; sung or played as the seed has it."""
    import pretty_midi

    arrangement = arrange(song, genre, seed, seconds)
    draw = random.Random(f"part/{song.id}/{genre}/{seed}")
    alone, others = pretty_midi.PrettyMIDI(), pretty_midi.PrettyMIDI()
    facts = arrangement.facts
    name, words = facts.lead, SYNONYMS.get(facts.lead, (facts.lead,))
    sung = draw.choice(tuple(VOICES)) if draw.random() < 0.5 else None
    voice = draw.choice(tuple(_SUNG))
    for instrument in arrangement.midi.instruments:
        if instrument.name != "lead":
            others.instruments.append(instrument)
            continue
        if sung is not None:
            instrument.program = sung
            for note in instrument.notes:
                note.pitch = _within(note.pitch - (12 if voice == "male" else 0))
        alone.instruments.append(instrument)
    if sung is not None:
        name, words = f"{voice} {VOICES[sung]}", _SUNG[voice]
    # What accompanies may be the same instrument; the words of the caption then name it once.
    facts = replace(facts, lead=draw.choice(words) if sung is not None else PROGRAM_WORDS[_program(alone)])
    return Part(alone, others, facts, name, words)


def _within(pitch: int) -> int:
    """A pitch that a voice can sing: C3 to A5, by octaves."""
    while pitch > 81:
        pitch -= 12
    while pitch < 48:
        pitch += 12
    return pitch


def _program(score: "pretty_midi.PrettyMIDI") -> int:
    return int(score.instruments[0].program)


def clips_of(
    jobs: Sequence[tuple[songs.Song, str, int]], split: str, *, seconds: float = 28.0, per_job: int = 5
) -> Iterator[Clip]:
    """Arrange, render in two stems and cut; clips in which the part is hardly heard are left out.

    Parameters
    ----------
    jobs : sequence of (Song, genre, seed)
        Rendered in one call of FluidSynth.
    split : str
        For the rows.
    seconds : float
        Music rendered a job.
    per_job : int
        Clips cut from it.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the soundfont is missing.
    """
    parts = [split_song(song, genre, seed, seconds) for song, genre, seed in jobs]
    rendered = render.render_many([one for part in parts for one in (part.alone, part.others)])
    for place, part in enumerate(parts):
        alone, others = (torch.from_numpy(wave) for wave in rendered[2 * place : 2 * place + 2])
        draw = random.Random(f"clips/{part.facts.song}/{part.facts.genre}/{part.facts.seed}")
        # The excerpt's end is cut off mid-bar: clips end before the ringing out.
        room = max(len(others) - round(2.5 * SAMPLE_RATE) - SAMPLES, 0)
        for index in range(per_job):
            first = round(room * (index + draw.random()) / per_job)
            stems = [_cut(wave, first) for wave in (alone, others)]
            if not float(stems[0].norm()) > LEAST * float(stems[1].norm()) or not bool(stems[1].any()):
                continue
            mix = stems[0] + stems[1]
            gain = float(audio.normalize_loudness(mix, SAMPLE_RATE, -18.0)[0].abs().max() / mix.abs().max())
            facts = part.facts
            row = {
                "song": facts.song,
                "split": split,
                "genre": facts.genre,
                "part": part.name,
                "instruments": list(facts.instruments),
                "captions": captions(facts, stable_seed(facts.song, facts.seed, index) % 2**31, 3),
                "instructions": [f"add {_with_article(word)}" for word in part.words],
            }
            yield Clip(stems[0] * gain, stems[1] * gain, row)


def _with_article(word: str) -> str:
    """A word with its article, where it is one thing."""
    if (word.endswith("s") and not word.endswith(("ss", "bass"))) or word.endswith("singing"):
        return word
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _cut(wave: torch.Tensor, first: int) -> torch.Tensor:
    out = torch.zeros(SAMPLES)
    heard = wave[first : first + SAMPLES]
    out[: len(heard)] = heard
    return out


def build(
    folder: Path | str,
    pop909: Path | str,
    *,
    arrangements: int = 800,
    held_out: int = 40,
    seed: int = 0,
    workers: int = 2,
) -> Stems:
    """Render clips to learn from, and some of the songs that are held out; a stopped build goes on.

    Parameters
    ----------
    folder : Path
    pop909 : Path
    arrangements, held_out : int
        Arrangements of songs to learn from, and of those held out: some five clips each.
    workers : int
        Processes.

    Raises
    ------
    BlendbenchError
        If POP909, FluidSynth or its sound font is missing.
    """
    folder, pop909 = Path(folder), Path(pop909)
    growing.grow(
        folder / ROWS,
        {"images.u8": 2 * 512 * 512},
        render.jobs(pop909, arrangements, held_out, np.random.default_rng([seed, 4])),
        _chunk,
        workers,
    )
    return Stems(folder)


def _chunk(jobs: list[render.Job]) -> growing.Made:
    """Images [2, 512, 512] and row of every clip of some jobs."""
    torch.set_num_threads(1)
    made: growing.Made = []
    for split, own in render.read(jobs):
        for clip in clips_of(own, split):
            waves = torch.stack([clip.background, clip.background + clip.part])
            # 512 frames span 511 hops.
            pixels, peaks = encode_image(mel_amplitudes(waves[:, : 511 * 441]))
            row = clip.row | {"peaks": [round(float(peak), 5) for peak in peaks]}
            made.append(({"images.u8": pixels.round().to(torch.uint8).numpy()}, row))
    return made


CLIPS = 28
"""Built-in ones: four a genre."""


def pack(assets: Path | str | None, pop909: Path | str, seed: int = 0) -> None:
    """Write `stems/` below the assets folder, None for the package's: clips of held-out songs, two files each.

    Ogg Vorbis, mono, 44.1 kHz, with a CSV table. Songs are drawn from those that no built-in model learns from, the
    clip of each is the one of its excerpt in which the part is heard most.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the songs are missing, or the folder cannot be written.
    """
    pop909 = Path(pop909)
    there = songs.held_out_at(pop909, CLIPS)
    folder = (package_folder("blendbench.assets") if assets is None else Path(assets)) / "stems"
    make_folder(folder)
    draw = np.random.default_rng([seed, 5])
    rows = []
    for place, name in enumerate(str(one) for one in draw.permutation(there)[:CLIPS]):
        genre = GENRES[place % len(GENRES)]
        job = (songs.read_pop909(pop909 / name), genre, int(draw.integers(2**31)))
        made = list(clips_of([job], "held_out"))
        if not made:
            raise BlendbenchError(f"{pop909 / name}: its tune is hardly heard in any clip; choose another seed")
        clip = max(made, key=lambda one: float(one.part.norm() / one.background.norm()))
        identifier = f"{genre.lower().replace('-', '')}-{name}"
        loud = max(float(wave.abs().max()) for wave in (clip.part, clip.background))
        for part, wave in (("background", clip.background), ("part", clip.part)):
            file = folder / f"{identifier}-{part}.ogg"
            leveled = wave[: round(5.12 * SAMPLE_RATE)] * min(1.0, 0.98 / loud)
            soundfile.write(file, leveled.numpy(), SAMPLE_RATE, subtype="VORBIS", compression_level=0.75)
        instruction = str(draw.choice(clip.row["instructions"]))
        rows.append([identifier, f"{identifier}-background.ogg", f"{identifier}-part.ogg", instruction, genre, name,
                     clip.row["part"]])  # fmt: skip
    columns = ["id", "background", "part", "prompt", "genre", "source", "instrument"]
    write_table(folder / "stems.csv", columns, rows)
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"stems: {len(rows)} clips, {total / 1e6:.1f} MB in {folder}")
