"""Small stand-ins for what a run needs: data sets in their official layouts and models with random weights.

A `World` is a data root with `ESC-50/` and `MusicBench/`, and tiny models; `World.main` calls the
command line in this process with the settings that point there.
"""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blendbench.cli import main
from blendbench.errors import ClipError
from blendbench.evaluators.pocket import PocketTagger

RATE = 44_100
GENRES = ("Classical", "EDM", "Hip-hop", "Jazz", "Pop", "Punk", "Rock")
ESC50_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


def call(*words: str) -> int:
    """Exit status of a command, called in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def noise_sound(seed: int, seconds: float = 1.0) -> np.ndarray:
    """A hum with harmonics over a bed of noise that swells; different for every seed."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(RATE * seconds)) / RATE
    hum = sum(np.sin(2 * np.pi * (70 + 40 * seed) * k * time + draw.uniform(0, 6)) / k for k in range(1, 6))
    return 0.1 * hum * (1 + np.sin(2 * np.pi * 3 * time)) + 0.05 * draw.standard_normal(len(time))


def music_sound(seed: int, seconds: float = 1.0) -> np.ndarray:
    """A run of plucked notes; different for every seed."""
    draw = np.random.default_rng(1000 + seed)
    time = np.arange(round(RATE * seconds / 4)) / RATE
    notes = 220 * 2 ** (draw.integers(0, 24, 4) / 12)
    return 0.3 * np.concatenate([np.exp(-6 * time) * np.sin(2 * np.pi * note * time) for note in notes])


def write_esc50(root: Path, names: Sequence[str], categories: Sequence[str] = ("wind", "engine")) -> Path:
    """Write the table `ESC-50/meta/esc50.csv` with a row a file name, categories taking turns; returns `audio/`."""
    audio = root / "ESC-50" / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    (root / "ESC-50" / "meta").mkdir(exist_ok=True)
    with (root / "ESC-50" / "meta" / "esc50.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(ESC50_COLUMNS)
        for index, name in enumerate(names):
            target = index % len(categories)
            table.writerow([name, index % 5 + 1, target, categories[target], "True", 100_000 + index, "A"])
    return audio


def write_musicbench(root: Path, tracks: int = 2) -> None:
    """Write `MusicBench/MusicBench_train.json` and the audio it names: `tracks` songs a genre, a clip each."""
    folder = root / "MusicBench"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, genre in enumerate(GENRES):
        for track in range(tracks):
            location = f"data/{genre.lower()}-{track}.ogg"
            soundfile.write(folder / location, music_sound(number * tracks + track), RATE)
            row = {"dataset": "train", "location": location, "main_caption": f"A {genre} piece.", "genre": genre}
            lines.append(json.dumps(row | {"song": f"{genre}-{track}"}))
    (folder / "MusicBench_train.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class World:
    """A data root, tiny models, and a store that the runs of a test share."""

    root: Path
    generator: Path
    musicgen: Path
    evaluator: Path
    store: Path

    def words(self) -> list[str]:
        """Settings that point a command at this world and keep it small."""
        return [
            "dataset=esc50",
            "music=musicbench",
            "music.excerpt_seconds=5.0",
            f"data.root={self.root}",
            f"store_dir={self.store}",
            f"generator.checkpoint={self.generator}",
            f"generator.musicgen.checkpoint={self.musicgen}",
            f"evaluator.fad.checkpoint={self.evaluator}",
            "generator.sampling.repaint.steps=2",
            "generator.sampling.image_to_image.steps=4",
            "statistics.resamples=20",
            "dataset.esc50.prompts_per_clip=2",
            "dataset.esc50.per_class=null",
        ]

    def run_words(self, run_dir: Path, *words: str) -> list[str]:
        """The whole command line of a run."""
        iterations = ["arms.bnmusic.griffin_lim_iterations=1"] if "arms.bnmusic=null" not in words else []
        iterations += ["arms.riffusion_a2a.griffin_lim_iterations=1"] if "arms.riffusion_a2a=null" not in words else []
        return ["run", "experiment=bnmusic/table1", *self.words(), f"run_dir={run_dir}", *iterations, *words]

    def run(self, run_dir: Path, *words: str) -> int:
        """Exit status of a run of Table 1."""
        return call(*self.run_words(run_dir, *words))

    def with_store(self, store: Path, copy: bool = False) -> "World":
        """The same world with another store, filled with this one's content if `copy`."""
        if copy:
            shutil.copytree(self.store, store)
        return World(self.root, self.generator, self.musicgen, self.evaluator, store)

    def with_root(self, root: Path) -> "World":
        """The same models and store over another data root."""
        return World(root, self.generator, self.musicgen, self.evaluator, self.store)


@dataclass(frozen=True)
class GapWorld(World):
    """A world of the long-gap task: six short recordings, two arms that need no weights (`WITHOUT_PRIOR`)."""

    def words(self) -> list[str]:
        """Settings that point a command at the recordings and keep it small."""
        return [
            "dataset=recordings", f"data.path={self.root / 'recordings'}", "dataset.recordings.start=1.5",
            f"store_dir={self.store}", "gap={window: 40000, start: 15000, stop: 25000}", "statistics.resamples=20",
        ]  # fmt: skip

    def run_words(self, run_dir: Path, *words: str) -> list[str]:
        """The whole command line of a run; arms of the blend task that are left out are not there."""
        own = [word for word in words if word not in CHEAP]
        return ["run", "experiment=simdps/objective", *self.words(), f"run_dir={run_dir}", *WITHOUT_PRIOR, *own]

    def with_store(self, store: Path, copy: bool = False) -> "GapWorld":
        """The same world with another store."""
        assert not copy
        return GapWorld(self.root, self.generator, self.musicgen, self.evaluator, store)


def build_gap_world(world: World, folder: Path) -> GapWorld:
    """Write recordings into a folder."""
    (folder / "recordings").mkdir(parents=True)
    for number in range(6):
        soundfile.write(folder / "recordings" / f"r{number}.wav", noise_sound(number, 4.0), RATE)
    return GapWorld(folder, world.generator, world.musicgen, world.evaluator, folder / "store")


WITHOUT_PRIOR = ("arms.dps=null", "arms.simdps_l=null", "arms.simdps_h=null")
"""Leaves the arms of simdps/objective that sample nothing."""
CHEAP = ("arms.bnmusic=null", "arms.riffusion_a2a=null", "arms.musicgen_melody=null")
"""Leaves the arms that need no generator."""


def build_world(folder: Path) -> World:
    """Write a world of five noise clips and fourteen music clips into a folder."""
    import torch

    from blendbench.models.tagger import Tagger
    from support.tiny_models import tiny_diffusion

    root = folder / "data"
    names = [f"{index + 1}-{100_000 + index}-A-{index % 2}.wav" for index in range(5)]
    audio = write_esc50(root, names)
    for index, name in enumerate(names):
        soundfile.write(audio / name, noise_sound(index), RATE)
    write_musicbench(root)
    tiny_diffusion(folder / "tokenizer").save(folder / "generator")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        tagger = Tagger([*GENRES, "wind", "engine"], [4, 8], instruments=["piano"])
        # Fresh weights give every sound nearly the same class posterior; larger ones tell sounds apart.
        tagger.project.weight.mul_(20)
        tagger.head.weight.mul_(20)
        tagger.save(folder / "evaluator")
        torch.manual_seed(0)
        write_musicgen(folder / "musicgen")
    return World(root, folder / "generator", folder / "musicgen", folder / "evaluator", folder / "store")


def write_musicgen(folder: Path) -> None:
    """A tiny MusicGen melody of torch's random weights, ten codes a second, in transformers' layout."""
    from transformers import MusicgenMelodyFeatureExtractor

    from blendbench.models.musicgen import tiny_model
    from support.tiny_models import tiny_tokenizer

    tokenizer = tiny_tokenizer(folder)
    tiny_model(len(tokenizer), (8, 8, 10, 5)).save_pretrained(folder)
    MusicgenMelodyFeatureExtractor().save_pretrained(folder)


def rows_of(run_dir: Path) -> list[dict]:
    """Rows of a run's `pairs.jsonl`."""
    return [json.loads(line) for line in (run_dir / "pairs.jsonl").read_bytes().splitlines()]


def untimed(rows: list[dict]) -> list[dict]:
    """Rows without the seconds they took."""
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]


def same(run_dir: Path, expected: Path) -> None:
    """Hold the tables of two runs against each other byte for byte, and their rows but for the seconds they took."""
    for name in ("results.csv", "scores.csv", "comparisons.csv", "table.md", "table.csv", "table.tex"):
        assert (run_dir / name).read_bytes() == (expected / name).read_bytes(), name
    assert untimed(rows_of(run_dir)) == untimed(rows_of(expected))


class Impatient(PocketTagger):
    """An evaluator for which every clip is too short."""

    def score(self, waveform):
        raise ClipError(f"clip lasts {len(waveform) / self.sample_rate:g} s; this evaluator needs more")
