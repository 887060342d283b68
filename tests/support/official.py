"""Stand-ins of the published data sets in their official layouts: true tables and names, made-up sound."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import soundfile

from blendbench.datasets import NoiseClip, esc50
from blendbench.resources import package_folder
from support.worlds import noise_sound

CATEGORIES = [
    "dog",
    "rooster",
    "pig",
    "cow",
    "frog",
    "cat",
    "hen",
    "insects",
    "sheep",
    "crow",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crickets",
    "chirping_birds",
    "water_drops",
    "wind",
    "pouring_water",
    "toilet_flush",
    "thunderstorm",
    "crying_baby",
    "sneezing",
    "clapping",
    "breathing",
    "coughing",
    "footsteps",
    "laughing",
    "brushing_teeth",
    "snoring",
    "drinking_sipping",
    "door_wood_knock",
    "mouse_click",
    "keyboard_typing",
    "door_wood_creaks",
    "can_opening",
    "washing_machine",
    "vacuum_cleaner",
    "clock_alarm",
    "clock_tick",
    "glass_breaking",
    "helicopter",
    "chainsaw",
    "siren",
    "car_horn",
    "engine",
    "train",
    "church_bells",
    "airplane",
    "fireworks",
    "hand_saw",
]
EPIC_RATE = 24_000


def esc50_digests() -> dict[str, str]:
    """MD5 of each published file of ESC-50, by its path below the folder."""
    lines = (package_folder("blendbench.data_manifests") / "esc50_files.md5").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def write_esc50_table(root: Path) -> Path:
    """ESC-50's own table, byte for byte: all of it can be told from the files' names."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for name in sorted(esc50_digests()):
        if name.startswith("audio/"):
            fold, source, take, target = Path(name).stem.split("-")
            category = CATEGORIES[int(target)]
            small = category in esc50.ESC10
            lines.append(f"{Path(name).name},{fold},{target},{category},{small},{source},{take}")
    table = root / "ESC-50" / "meta" / "esc50.csv"
    table.parent.mkdir(parents=True)
    (root / "ESC-50" / "audio").mkdir()
    table.write_text("\n".join(lines) + "\n", newline="\n")
    assert hashlib.md5(table.read_bytes()).hexdigest() == esc50_digests()["meta/esc50.csv"]
    return table


def write_clips(clips: Iterable[NoiseClip], seconds: float = 0.5) -> None:
    """A sound of its own for every clip's file."""
    for number, clip in enumerate(clips):
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clip.path, noise_sound(number, seconds), 44_100)


def write_epic_audio(file: Path, clips: Iterable[NoiseClip], sounding: int | None = None) -> None:
    """An HDF5 file as the recipe writes it, a dataset a video, long enough for all clips; the first few have sound.

    What no clip needs is never written, so a file of hours stays small.
    """
    clips = list(clips)
    ends: dict[str, float] = {}
    for clip in clips:
        assert clip.span is not None
        ends[clip.member] = max(ends.get(clip.member, 0.0), clip.span[1])
    with h5py.File(file, "w") as made:
        for video, end in ends.items():
            made.create_dataset(video, (round(end * EPIC_RATE),), "float32", chunks=(EPIC_RATE,))
        for number, clip in enumerate(clips[:sounding]):
            assert clip.span is not None
            first, last = (round(time * EPIC_RATE) for time in clip.span)
            made[clip.member][first:last] = epic_sound(number, last - first)


def epic_sound(number: int, samples: int) -> np.ndarray:
    """The sound of a clip's segment, float32."""
    draw = np.random.default_rng(number)
    return (0.2 * draw.standard_normal(samples)).astype(np.float32)


def musicbench_lines(tracks: int, copies: int = 3, seed: int = 0) -> list[dict[str, str]]:
    """Rows of MusicBench's table: originals and augmented copies of made-up YouTube ids, shuffled."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    ids = {"".join(draw.choice(letters, 11)) for _ in range(tracks)}
    # Ids that look like augmented copies, as YouTube has them.
    ids = {name[:-2] + "_1" if place % 50 == 0 else name for place, name in enumerate(sorted(ids))}
    rows = [{"dataset": "MusicBench", "location": f"data/{name}.wav"} for name in ids]
    rows += [
        {"dataset": "MusicBench", "location": f"data_aug2/{name}_{copy}.wav"}
        for name in ids
        for copy in range(1, copies + 1)
    ]
    captions = ["A calm jazz piano.", "Loud punk rock guitars.", "Someone hums a tune.", "A symphonic orchestra plays."]
    for place, row in enumerate(rows):
        row["main_caption"] = captions[place % len(captions)]
    draw.shuffle(rows)  # type: ignore[arg-type]
    return rows


def write_musicbench_table(root: Path, rows: Iterable[dict[str, str]]) -> Path:
    """MusicBench's table of these rows."""
    table = root / "MusicBench" / "MusicBench_train.json"
    table.parent.mkdir(parents=True)
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return table
