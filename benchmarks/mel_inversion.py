"""Mel inversion against torchaudio's: seconds and mel spectral convergence of both, in one run, on the same clips.

`python benchmarks/mel_inversion.py [--clips N] [--iterations N] [--threads N] [--repeats N]` takes a clip a genre from
`BLENDBENCH_DATA/MusicBench`, or a synthesised one where that is missing. The reference is Riffusion's decoder:
InverseMelScale, then GriffinLim (n_fft 17640, 32 iterations, momentum 0.99). Runs of the two alternate, and the best
time of each counts, so that other work on the machine weighs on both alike.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchaudio

from blendbench.sound import files, inversion
from blendbench.sound.lattice import RIFFUSION, extend_to_frames
from blendbench.sound.mel import mel_amplitudes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=3, help="clips, of different genres (default 3)")
    parser.add_argument("--iterations", type=int, default=24, help="iterations of blendbench's inverse (default 24)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of the reference a clip (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = torchaudio_inverse()
    rows = []
    print(f"{'clip':<24}{'torchaudio s':>14}{'blendbench s':>14}{'ratio':>8}{'torchaudio SC':>15}{'blendbench SC':>15}")
    for name, waveform in load_clips(options.clips):
        mel = mel_amplitudes(waveform)
        inversion.to_audio(mel, iterations=1)
        theirs, ours = float("inf"), float("inf")
        for repeat in range(options.repeats):
            torch.manual_seed(repeat)
            seconds, their_wave = timed(partial(reference, mel))
            theirs = min(theirs, seconds)
            for _ in range(3):
                seconds, our_wave = timed(partial(inversion.to_audio, mel, iterations=options.iterations))
                ours = min(ours, seconds)
        rows.append([theirs, ours, convergence(mel, their_wave), convergence(mel, our_wave)])
        print_row(name, rows[-1])
    print_row("mean", [sum(column) / len(rows) for column in zip(*rows, strict=True)])


def torchaudio_inverse() -> Callable[[torch.Tensor], torch.Tensor]:
    """Riffusion's decoder from mel amplitudes to audio."""
    settings = RIFFUSION
    inverse_mel = torchaudio.transforms.InverseMelScale(
        settings.n_fft // 2 + 1, settings.n_mels, settings.sample_rate, settings.f_min, settings.f_max
    )
    griffin_lim = torchaudio.transforms.GriffinLim(
        settings.n_fft, 32, settings.win_length, settings.hop_length, power=1.0, momentum=0.99
    )
    return lambda mel: griffin_lim(inverse_mel(mel))


def load_clips(count: int) -> list[tuple[str, torch.Tensor]]:
    """Name and waveform of one MusicBench clip a genre, or of a synthesised chord with drums."""
    root = (
        Path(os.environ.get("BLENDBENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "MusicBench"
    )
    if not (root / "MusicBench_train.json").is_file():
        print(f"{root} not found: a synthesised clip instead")
        return [("synthesised", synthesise())]
    by_genre: dict[str, str] = {}
    for line in (root / "MusicBench_train.json").read_text().splitlines():
        row = json.loads(line)
        by_genre.setdefault(row.get("genre", row["location"]), row["location"])
    found = []
    for genre, location in list(by_genre.items())[:count]:
        path = root / location if (root / location).is_file() else root / "data" / Path(location).name
        found.append((genre, extend_to_frames(files.read(path, RIFFUSION.sample_rate))))
    return found


def synthesise() -> torch.Tensor:
    """A C major chord of decaying harmonics, struck twice a second, over noise bursts."""
    times = torch.arange(RIFFUSION.samples) / RIFFUSION.sample_rate
    since = times % 0.5
    wave = 0.1 * torch.exp(-30 * since) * torch.randn(len(times), generator=torch.Generator().manual_seed(0))
    for pitch in (130.81, 164.81, 196.0):
        for harmonic in range(1, 12):
            decay = 0.1 / harmonic * torch.exp(-3 * harmonic**0.5 * since)
            wave += decay * torch.sin(2 * math.pi * pitch * harmonic * times)
    return wave


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def convergence(mel: torch.Tensor, waveform: torch.Tensor) -> float:
    return float(inversion.spectral_convergence(mel, mel_amplitudes(waveform)))


def print_row(name: str, values: list[float]) -> None:
    theirs, ours, their_error, our_error = values
    print(
        f"{name:<24}{theirs:>14.2f}{ours:>14.3f}{theirs / ours:>8.1f}{their_error:>15.4f}{our_error:>15.4f}", flush=True
    )


if __name__ == "__main__":
    main()
