"""How fast noise clips become what a run hears: read, resampled, levelled, as mel images; and again from the store.

Makes its own clips (five seconds, 16 bits; a third each at 44.1, 48 and 24 kHz), hears all of them twice, in a process
of its own each, and prints both times, their ratio, and the memory that the second half of the clips took on top of the
first. Limits: 60 s for 1,000 clips at 44.1 kHz on 2 cores, and ten times as fast from the store.

    python benchmarks/reading.py [--clips 1000] [--rate HZ]
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

SECONDS = 5.0


def write_clips(folder: Path, count: int, rates: list[int]) -> None:
    """Noise with a swell, different in every file."""
    for number in range(count):
        rate = rates[number % len(rates)]
        draw = np.random.default_rng(number)
        swell = 1 + np.sin(2 * np.pi * 0.7 * np.arange(round(SECONDS * rate)) / rate)
        sound = 0.1 * swell * draw.standard_normal(len(swell))
        soundfile.write(folder / f"{number:05d}.wav", sound.clip(-1, 1), rate, subtype="PCM_16")


def hear(folder: Path, store: Path) -> dict[str, float]:
    """Hear every clip of a folder as a run does; returns seconds, clips, and megabytes at half way and at the end."""
    from blendbench.datasets.folder import noise
    from blendbench.tasks.blend.noises import Noises

    clips = noise(str(folder))
    noises = Noises({"seconds": SECONDS, "lufs": -18.0, "short_clip": "loop"}, store)
    noises.mel(clips[0])  # filters and tables are made once
    start, half = time.perf_counter(), 0.0
    for place, (clip, waveform) in enumerate(zip(clips, noises.ahead(clips), strict=True)):
        if isinstance(waveform, Exception):
            raise waveform
        noises.mel(clip)
        if place == len(clips) // 2:
            half = _megabytes()
    seconds = time.perf_counter() - start
    noises.close()
    return {"seconds": seconds, "clips": len(clips), "half": half, "end": _megabytes()}


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rate", type=int, help="one rate for all files, in Hz")
    words = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clips"
        folder.mkdir()
        write_clips(folder, words.clips, [words.rate] if words.rate else [44_100, 48_000, 24_000])
        for name in ("first", "second"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[name] = pool.apply(hear, (folder, Path(place) / "store"))
    for name, facts in found.items():
        each = 1000 * facts["seconds"] / facts["clips"]
        print(
            f"{name} pass: {facts['seconds']:.2f} s for {facts['clips']} clips, {each:.2f} ms each; memory "
            f"{facts['end']:.0f} MB, of which the second half of the clips took {facts['end'] - facts['half']:.0f}"
        )
    ratio = found["first"]["seconds"] / found["second"]["seconds"]
    print(f"the second pass is {ratio:.1f} times as fast")
    print(json.dumps({"ratio": round(ratio, 2), **found}))


if __name__ == "__main__":
    main()
