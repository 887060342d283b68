"""Music with a picture: what models of images and words learn from, and the built-in items that they are tried on.

An arranged song's caption says genre and instruments; its picture alone says tempo, mode and drums (`drawn`). So that
neither tells of the other, the tempo is drawn anew, within one octave for all genres, by playing the arrangement slower
or faster, and of arrangements with drums half lose them. Splits go by song.

A folder of such clips holds `images.u8` (mel images [clips, 512, 512], loud = dark) and `pictured.jsonl` (a row a
clip); pictures are drawn from the rows when they are read, since a picture costs less than its file.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder
from blendbench.seeds import stable_seed
from blendbench.sound.mel import encode_image, mel_amplitudes
from blendbench.store.write import make_folder
from blendbench.train.data import drawn, growing, render, songs
from blendbench.train.data.arranger import GENRES, Arrangement, Facts, arrange
from blendbench.train.data.captions import GENRE_WORDS, SYNONYMS, listed
from blendbench.train.data.pack import write_ogg, write_table

if TYPE_CHECKING:
    from PIL import Image

SAMPLE_RATE = 44_100
ROWS = "pictured.jsonl"
ITEMS = 28
"""Built-in ones: four a genre."""


@dataclass(frozen=True)
class Pictured:
    """Clips with pictures, opened for reading at their present number; mel images stay memory-mapped.

    Attributes
    ----------
    folder : Path
    rows : list of dict
        Song, split, genre, tempo (beats a minute), mode ("major", "minor"), drums ("yes", "no"), captions, style and
        seed of the picture.
    images : array [clips, 512, 512]
        Mel images, grey, uint8, loud = dark.
    """

    folder: Path
    rows: list[dict[str, Any]]
    images: np.ndarray

    @classmethod
    def open(cls, folder: Path | str) -> "Pictured":
        """Open a folder of `blendbench train pictured`; raises BlendbenchError if no clip is there."""
        folder = Path(folder)
        rows = growing.rows(folder / ROWS)
        if not rows:
            raise BlendbenchError(f"{folder}: no clips with pictures here; run `blendbench train pictured` first")
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=(len(rows), 512, 512))
        return cls(folder, rows, images)

    def of(self, split: str) -> np.ndarray:
        """Indices of a split's clips: "train" or "held_out"."""
        return np.array([index for index, row in enumerate(self.rows) if row["split"] == split], int)

    def pictures(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Pictures [N, 3, 256, 256] in 0..1 of clips; other ones of the same facts where other seeds are given."""
        own = [self.rows[int(index)]["picture_seed"] for index in indices] if seeds is None else seeds
        found = [picture(self.rows[int(index)], seed) for index, seed in zip(indices, own, strict=True)]
        values = np.stack([np.asarray(one, dtype=np.float32) for one in found]) / 255
        return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def picture(row: dict[str, Any], seed: int, style: drawn.Style | None = None) -> "Image.Image":
    """The picture of a clip; what tells nothing of the music comes of the seed, the style, too, unless it is given."""
    own: drawn.Style = random.Random(f"style/{seed}").choice(drawn.STYLES)
    return drawn.draw(row["tempo"], row["mode"] == "minor", row["drums"] == "yes", style or own, seed)


def freed(arrangement: Arrangement, seed: int) -> Arrangement:
    """An arrangement at a tempo of its own, drawn evenly on the logarithm, and without its drums half of the time."""
    draw = random.Random(f"freed/{seed}")
    tempo = drawn.SLOWEST * (drawn.FASTEST / drawn.SLOWEST) ** draw.random()
    silent = draw.random() < 0.5
    facts, midi = arrangement.facts, arrangement.midi
    pace = facts.tempo / tempo
    # What lies an octave off keeps its pace: only the octave that is counted in changes.
    pace /= 2.0 ** round(np.log2(pace))
    if silent:
        midi.instruments = [one for one in midi.instruments if not one.is_drum]
    for instrument in midi.instruments:
        for note in instrument.notes:
            note.start, note.end = note.start * pace, note.end * pace
    return Arrangement(midi, replace(facts, tempo=tempo, drums="" if silent else facts.drums))


def captions(facts: Facts, seed: int, count: int) -> list[str]:
    """Captions that say genre and instruments, and neither tempo, mode nor drums."""
    draw = random.Random(f"pictured/{facts.song}/{facts.genre}/{facts.seed}/{seed}")
    written = []
    for _ in range(count):
        kind = draw.choice(GENRE_WORDS[facts.genre])
        heard = [one for one in facts.instruments if one != "drums"][: draw.randint(1, 3)]
        names = [draw.choice(SYNONYMS.get(one, (one,))) for one in heard]
        text = draw.choice(("{kind} with {listed}", "{kind}, {listed}", "{listed}: {kind}", "{kind}")).format(
            kind=kind, listed=listed(names)
        )
        written.append(text[0].upper() + text[1:] if draw.random() < 0.5 else text)
    return written


def clips_of(
    songs_of: Sequence[tuple[songs.Song, str, int]], split: str, per_job: int = 6
) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
    """Arrange, render and cut: waveforms [samples] of 5.12 s at -18 LUFS, and their rows.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the soundfont is missing.
    """
    made = [freed(arrange(song, genre, seed, 28.0), seed) for song, genre, seed in songs_of]
    facts_of = {(one.facts.song, one.facts.genre, one.facts.seed): one.facts for one in made}
    for waveform, told in render.cut_clips(made, clips_per_job=per_job, captions_per_clip=1):
        facts = facts_of[told["song"], told["genre"], told["seed"]]
        seed = stable_seed(facts.song, facts.genre, facts.seed, told["index"]) % 2**31
        yield (
            torch.from_numpy(waveform),
            {
                "song": facts.song,
                "split": split,
                "genre": facts.genre,
                "tempo": round(facts.tempo, 2),
                "mode": facts.key.split()[-1],
                "drums": "yes" if facts.drums else "no",
                "instruments": [one for one in facts.instruments if one != "drums"],
                "captions": captions(facts, seed, 3),
                "picture_seed": seed,
            },
        )


def build(
    folder: Path | str,
    pop909: Path | str,
    *,
    arrangements: int = 350,
    held_out: int = 40,
    seed: int = 0,
    workers: int = 2,
) -> Pictured:
    """Render clips to learn from, and some of songs that are held out; a stopped build goes on.

    Parameters
    ----------
    folder : Path
    pop909 : Path
    arrangements, held_out : int
        Arrangements of songs to learn from, and of those held out: six clips each.
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
        {"images.u8": 512 * 512},
        render.jobs(pop909, arrangements, held_out, np.random.default_rng([seed, 6])),
        _chunk,
        workers,
    )
    return Pictured.open(folder)


def _chunk(jobs: list[render.Job]) -> growing.Made:
    """Mel image and row of every clip of some jobs."""
    torch.set_num_threads(1)
    made: growing.Made = []
    for split, own in render.read(jobs):
        for waveform, row in clips_of(own, split):
            # 512 frames span 511 hops.
            pixels, _ = encode_image(mel_amplitudes(waveform[: 511 * 441])[None])
            made.append(({"images.u8": pixels[0].round().to(torch.uint8).numpy()}, row))
    return made


def pack(assets: Path | str | None, pop909: Path | str, items: int = ITEMS, seed: int = 0) -> None:
    """Write `pictured/` below the assets folder, None for the package's: items of held-out songs, a picture each.

    Ogg Vorbis, mono, 44.1 kHz, 5.12 s; JPEG, 256 x 256; a CSV table, which `dataset=own_pictures` reads, too.

    Parameters
    ----------
    assets : Path or None
    pop909 : Path
    items : int
        How many; where they are more than songs, songs come again, otherwise arranged.

    Raises
    ------
    BlendbenchError
        If FluidSynth or the songs are missing, or the folder cannot be written.
    """
    pop909 = Path(pop909)
    there = songs.held_out_at(pop909, min(items, ITEMS))
    folder = (package_folder("blendbench.assets") if assets is None else Path(assets)) / "pictured"
    make_folder(folder)
    draw = np.random.default_rng([seed, 7])
    rows: list[list[Any]] = []
    order = [str(one) for one in draw.permutation(there)]
    for place in range(items):
        turn, index = divmod(place, len(order))
        name, genre = order[index], GENRES[place % len(GENRES)]
        job = (songs.read_pop909(pop909 / name), genre, int(draw.integers(2**31)))
        found = list(clips_of([job], "held_out", per_job=3))
        waveform, row = found[len(found) // 2]
        identifier = f"{genre.lower().replace('-', '')}-{name}" + (f"-{turn + 1}" if turn else "")
        write_ogg(folder / f"{identifier}.ogg", waveform)
        # Styles in turn, whatever the clip's seed says: as many of each.
        style = drawn.STYLES[place % len(drawn.STYLES)]
        picture(row, row["picture_seed"], style).save(folder / f"{identifier}.jpg", quality=90)
        rows.append([identifier, f"{identifier}.jpg", f"{identifier}.ogg", row["captions"][0], genre, style, name,
                     row["tempo"], row["mode"], row["drums"]])  # fmt: skip
    columns = ["id", "image", "audio", "caption", "genre", "category", "source", "tempo", "mode", "drums"]
    write_table(folder / "pictured.csv", columns, rows)
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"pictured: {len(rows)} items, {total / 1e6:.1f} MB in {folder}")
