"""Prepare clips for accompaniment of a data set in stems, as Riff-CNET and Riff-P2P do: a folder like that of `stems`.

Windows of the data set (whole mixes are taken apart by a separator), every stem shifted to other keys, a filter on how
much of the part is heard, 16-bit samples with a peak of 1, mel images each with its own peak. Splits go by track.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from blendbench.datasets import StemClip
from blendbench.errors import BlendbenchError, ClipError
from blendbench.models.backgrounds import Separator, separator
from blendbench.seeds import stable_seed
from blendbench.sound import files
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import encode_image, mel_of
from blendbench.store.write import make_folder, write_text
from blendbench.train.data.stems import Stems

SAMPLE_RATE = 44_100
FILTERS = ("ratio", "power", "none")


def build(
    folder: Path | str,
    clips: Sequence[StemClip],
    *,
    semitones: Sequence[int] = (-5, 6),
    filter: str = "ratio",
    least: float | None = None,
    separator_name: str = "demucs",
    held_out: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
) -> Stems:
    """Prepare clips and write the folder; a finished one stays.

    Parameters
    ----------
    folder : Path
    clips : sequence of StemClip
        Of a data set: windows of 225,351 samples from their starts on.
    semitones : (int, int)
        Lowest and highest shift, both taken: -5 and 6 in Riff-CNET, -3 and 3 in Riff-P2P.
    filter : {"ratio", "power", "none"}
        Which windows stay: those whose part has more than `least` (0.1) times the background's norm (Riff-CNET); those
        whose part has more than `least` (0.4) times the mean square of its track's part where that sounds (Riff-P2P;
        its code squares 16-bit numbers, which wraps, so that its own choice was arbitrary); all.
    separator_name : str
        For whole mixes: see `models.backgrounds.separator`.
    held_out : float
        Share of the tracks that are kept out of training.

    Raises
    ------
    BlendbenchError
        If a setting is wrong, or no clip stays.
    """
    folder = Path(folder)
    if (folder / "stems.jsonl").exists():
        return Stems(folder)
    low, high = semitones
    if filter not in FILTERS:
        raise BlendbenchError(f"training.filter: {filter!r} is unknown; use one of {', '.join(FILTERS)}")
    if not low <= high:
        raise BlendbenchError(f"training.semitones: [{low}, {high}]; give the lower one first")
    apart = separator(separator_name, device) if any(clip.mixed for clip in clips) else None
    limit = least if least is not None else {"ratio": 0.1, "power": 0.4, "none": 0.0}[filter]
    make_folder(folder)
    rows: list[dict[str, Any]] = []
    with (folder / "images.partial").open("wb") as file:
        for number, (clip, background, part) in enumerate(_read(clips, apart), start=1):
            if not _stays(clip, clips, background, part, filter, limit, apart):
                continue
            for shift in range(low, high + 1):
                waves = torch.stack([_shifted(background, shift), _shifted(part, shift)])
                images, peaks = _images(waves[0], waves.sum(0))
                file.write(images.tobytes())
                rows.append(_row(clip, shift, peaks, held_out, seed))
            if number % 20 == 0:
                print(f"prepared: {number} of {len(clips)} windows, {len(rows)} clips", flush=True)
    if not rows:
        raise BlendbenchError(f"{folder}: no clip stays; look at the data set, or set training.filter=none")
    (folder / "images.partial").replace(folder / "images.u8")
    write_text(folder / "stems.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return Stems(folder)


def _read(clips: Sequence[StemClip], apart: Separator | None) -> Iterator[tuple[StemClip, torch.Tensor, torch.Tensor]]:
    """Clips with background and part [samples]; those that cannot be read are told and left out."""
    for clip in clips:
        try:
            yield (clip, *_stems(clip, apart))
        except ClipError as error:
            print(f"left out: {error}", flush=True)


def _stems(clip: StemClip, apart: Separator | None) -> tuple[torch.Tensor, torch.Tensor]:
    sums = []
    for paths in (clip.background, clip.part):
        waves = [_window(clip, path) for path in paths]
        sums.append(torch.stack(waves).sum(0) if waves else torch.zeros(RIFFUSION.samples))
    if not clip.mixed:
        return sums[0], sums[1]
    assert apart is not None
    background = apart.background(sums[0])
    return background, sums[0] - background


def _window(clip: StemClip, path: Path) -> torch.Tensor:
    wave = files.read_part(path, clip.start, RIFFUSION.samples / SAMPLE_RATE, SAMPLE_RATE)[: RIFFUSION.samples]
    if len(wave) < RIFFUSION.samples:
        raise ClipError(f"{clip.id}: {path.name} ends within the window from {clip.start:.2f} s on")
    return wave


def _stays(
    clip: StemClip,
    clips: Sequence[StemClip],
    background: torch.Tensor,
    part: torch.Tensor,
    kind: str,
    least: float,
    apart: Separator | None,
) -> bool:
    if not bool(background.any()) or not bool(part.any()):
        return False
    if kind == "ratio":
        return float(part.norm()) > least * float(background.norm())
    if kind == "power":
        heard = [_stems(one, apart)[1] for one in clips if one.source == clip.source]
        sounding = torch.cat([one[one != 0] for one in heard])
        return float(part.square().mean()) > least * float(sounding.square().mean())
    return True


def _shifted(waveform: torch.Tensor, semitones: int) -> torch.Tensor:
    if not semitones:
        return waveform
    shifted: torch.Tensor = torchaudio.functional.pitch_shift(waveform, SAMPLE_RATE, semitones, n_fft=2048)
    return shifted


def _images(background: torch.Tensor, mix: torch.Tensor) -> tuple[np.ndarray, list[float]]:
    """Images [2, 512, 512] of background and mix, of 16-bit samples with a peak of 1; and the peaks at one scale."""
    scales = [float(one.abs().max()) for one in (background, mix)]
    waves = [(one / scale * 32767).round() / 32767 for one, scale in zip((background, mix), scales, strict=True)]
    pixels, peaks = encode_image(torch.stack([mel_of(one) for one in waves]))
    levels = [round(float(peak) * scale, 5) for peak, scale in zip(peaks, scales, strict=True)]
    return pixels.round().to(torch.uint8).numpy(), levels


def _row(clip: StemClip, shift: int, peaks: list[float], held_out: float, seed: int) -> dict[str, Any]:
    split = "held_out" if stable_seed(seed, clip.source) % 1000 < 1000 * held_out else "train"
    return {
        "song": clip.source, "split": split, "genre": clip.genre, "part": clip.instrument, "instruments": [],
        "captions": [clip.prompt], "instructions": [clip.prompt], "semitones": shift, "peaks": peaks, "clip": clip.id,
    }  # fmt: skip
