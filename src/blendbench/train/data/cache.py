"""The clips that trainings read: audio, mel images and captions of rendered music and of noise, made once.

A cache is a folder with `audio.i16` ([clips, samples], 44.1 kHz, 5.12 s, -18 LUFS), `images.u8` (mel images,
[clips, 512, 512], loud = dark) and `clips.jsonl` (a row a clip: kind, split, label, captions, source).
Rows are appended in chunks, so a stopped build goes on and a training may read what is there. Splits go by song and by
source recording, so nothing heard in training is held out for measuring.
"""

from pathlib import Path

import numpy as np
import torch

from blendbench.datasets.esc50 import ESC10, read_table
from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio, files
from blendbench.sound.lattice import extend_to_frames
from blendbench.sound.mel import encode_image, mel_amplitudes
from blendbench.train.data import growing, noises, render, songs
from blendbench.train.data.arranger import GENRES

SAMPLES = 225_792  # 5.12 s at 44.1 kHz
HELD_OUT_FOLD = 4
ROWS = "clips.jsonl"


class ClipCache:
    """A cache on disk, opened for reading at its present length; arrays stay memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.clips = growing.rows(self.folder / ROWS)
        if not self.clips:
            raise BlendbenchError(f"{self.folder}: no training clips here; run `blendbench train data` first")
        count = len(self.clips)
        self.images = np.memmap(self.folder / "images.u8", np.uint8, "r", shape=(count, 512, 512))
        self.audio = np.memmap(self.folder / "audio.i16", np.int16, "r", shape=(count, SAMPLES))

    def rows(self, **wanted: str) -> np.ndarray:
        """Indices of the clips whose columns have the wanted values."""
        return np.array([i for i, clip in enumerate(self.clips) if all(clip[k] == v for k, v in wanted.items())], int)

    def waveforms(self, rows: np.ndarray) -> torch.Tensor:
        """Waveforms [N, samples] in -1..1 of the given rows."""
        return torch.from_numpy(self.audio[rows].astype(np.float32) / 32768)


def opened(cache: ClipCache | Path | str) -> ClipCache:
    """A cache that is open already, or that of a folder; raises BlendbenchError if no clip is there."""
    return cache if isinstance(cache, ClipCache) else ClipCache(Path(cache))


def plan(pop909: Path, esc50: Path | None, *, arrangements: int, per_kind: int, seed: int) -> list[list[tuple]]:
    """Cut everything that goes into the cache into chunks of jobs, in a seeded order: noise first, then music.

    Raises
    ------
    BlendbenchError
        If POP909 is not there.
    """
    draw = np.random.default_rng(seed)
    held_out = songs.held_out_songs()
    folders = [folder for folder in sorted(Path(pop909).glob("*")) if folder.is_dir() and folder.name not in held_out]
    if not folders:
        raise BlendbenchError(f"{pop909}: no POP909 songs (folders 001 to 909) here; give --data-root DIR")
    noise: list[tuple] = [("synthesised", kind, index, seed) for kind in noises.KINDS for index in range(per_kind)]
    if esc50 is not None:
        # The models are shared freely, so only the freely licensed part is trained on.
        noise += [("recorded", clip) for clip in read_table(esc50) if clip.label in ESC10]
    music: list[tuple] = []
    for turn in range(arrangements):
        for position in draw.permutation(len(folders)):
            genre = GENRES[(int(position) + turn * 3) % len(GENRES)]
            music.append(("song", str(folders[position]), genre, int(draw.integers(2**31))))
    held = [("composed", index, GENRES[index % len(GENRES)], int(draw.integers(2**31))) for index in range(42)]
    order = draw.permutation(len(noise))
    chunks = [[noise[i] for i in order[k::16]] for k in range(16)]
    return chunks + [jobs[i : i + 7] for jobs in (held, music) for i in range(0, len(jobs), 7)]


def make_chunk(jobs: list[tuple]) -> growing.Made:
    """Audio (int16), mel image (uint8) and row of every clip of a chunk; an unreadable recording is left out."""
    torch.set_num_threads(1)
    made: list[tuple[torch.Tensor, dict]] = []
    scores = []
    for job in jobs:
        if job[0] in ("song", "composed"):
            song = songs.read_pop909(Path(job[1])) if job[0] == "song" else songs.compose(10_000 + job[1])
            scores.append((song, job[2], job[3]))
        elif job[0] == "synthesised":
            _, kind, index, seed = job
            waveform = torch.from_numpy(noises.synthesize(kind, seed + 7919 * (index + 1), seconds=SAMPLES / 44_100))
            split = "held_out" if index % 6 == 5 else "train"
            row = {"kind": "noise", "split": split, "label": kind, "source": f"synthesised-{kind}-{index}"}
            made.append((waveform, row))
        else:
            clip = job[1]
            try:
                waveform = audio.extend_circular(files.read(clip.path), SAMPLES)
            except ClipError as error:
                print(f"left out: {error}", flush=True)
                continue
            split = "held_out" if clip.fold == HELD_OUT_FOLD else "train"
            made.append(
                (waveform, {"kind": "noise", "split": split, "label": clip.label, "source": f"esc50-{clip.source}"})
            )
    for rendered, facts in render.render_clips(scores):
        split = "held_out" if facts["song"].startswith("composed") else "train"
        row = {"kind": "music", "split": split, "label": facts["genre"], "source": facts["song"]}
        row |= {"captions": facts["captions"], "tempo": facts["tempo"], "instruments": facts["instruments"]}
        made.append((torch.from_numpy(rendered), row))
    out: growing.Made = []
    for waveform, row in made:
        leveled = audio.normalize_loudness(waveform, 44_100, -18.0)[0]
        pixels, _ = encode_image(mel_amplitudes(extend_to_frames(leveled)))
        samples = (leveled.clamp(-1, 1) * 32767).to(torch.int16).numpy()
        image = pixels.round().to(torch.uint8).numpy()
        out.append(({"audio.i16": samples, "images.u8": image}, row))
    return out


def build(
    folder: Path | str,
    pop909: Path | str,
    esc50: Path | str | None,
    *,
    arrangements: int = 1,
    per_kind: int = 36,
    seed: int = 0,
    workers: int = 2,
) -> ClipCache:
    """Render the training music, synthesise and read the noises, and write the cache; a stopped build goes on.

    Parameters
    ----------
    folder : Path
        Where the cache goes.
    pop909, esc50 : Path
        Folders of the two data sets; `esc50` may be None, or not be there.
    arrangements : int
        Genres a song is arranged in.
    per_kind : int
        Synthesised noises a kind.

    Raises
    ------
    BlendbenchError
        If POP909, FluidSynth or its sound font is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recorded = Path(esc50) if esc50 is not None and Path(esc50).is_dir() else None
    chunks = plan(Path(pop909), recorded, arrangements=arrangements, per_kind=per_kind, seed=seed)
    growing.grow(folder / ROWS, {"audio.i16": 2 * SAMPLES, "images.u8": 512 * 512}, chunks, make_chunk, workers)
    built = ClipCache(folder)
    print(f"{len(built.clips)} clips in {folder}")
    return built
