"""Make a long piece of music, change one, or go on with one: the command `blendbench compose`.

A piece that is made anew is denoised as a whole, whatever its length. Where a recording goes on, the recording itself
stays as it was, and what is new is joined to it by a cross-fade of 10 ms.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blendbench import single
from blendbench.datasets import MusicClip, Nothing
from blendbench.errors import BlendbenchError, ClipError, UsageError
from blendbench.methods._msanii import MsaniiMethod
from blendbench.methods.msanii_outpaint import Outpainting
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.png import write_image
from blendbench.store.signature import file_hash
from blendbench.store.write import make_folder
from blendbench.tasks.long_form.given import Piece, Start
from blendbench.tasks.long_form.task import LongForm

FADE = 441
"""Samples of the cross-fade at 44.1 kHz."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Parameters
    ----------
    seconds : float or None
        Of a new piece, or of what is new in one that goes on; a minute, or a window, where it is left out.
    source : Path or None
        What is changed, or goes on.
    goes_on : bool
        Whether the source goes on.
    """

    seconds: float | None
    source: Path | None
    goes_on: bool


def words(wanted: Wanted, strength: int | None) -> list[str]:
    """The configuration's words that a wish comes down to.

    Raises
    ------
    UsageError
        If what is asked for cannot be.
    """
    if wanted.seconds is not None and not 0 < wanted.seconds < math.inf:
        raise UsageError(f"--seconds {wanted.seconds}: give a number above 0")
    if strength is not None and (wanted.source is None or wanted.goes_on):
        raise UsageError("--strength belongs to --from FILE")
    if wanted.source is None:
        return ["method=msanii", "dataset=nothing", f"form.seconds={wanted.seconds or 60.0}"]
    if wanted.goes_on:
        return ["method=msanii_outpaint", "dataset=nothing"]
    if wanted.seconds is not None:
        raise UsageError("--seconds: a changed piece is as long as the recording; cut that, or leave --seconds out")
    return ["method=msanii_a2a", "dataset=nothing", f"method.t={500 if strength is None else strength}"]


def compose(wanted: Wanted, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the piece and write it to `out`.

    Parameters
    ----------
    wanted : Wanted
    out : Path
        Folder for `music.wav` (float, 44.1 kHz, scaled down if it would clip), the spectrograms as PNG and
        `compose.json`. While it works, the state of the work lies there, too, and the same command goes on from it.
    settings : dict
        The checked configuration.

    Returns
    -------
    dict
        What `compose.json` holds.

    Raises
    ------
    BlendbenchError
        If a recording, the folder or the model cannot be used.
    """
    run, began = Run(out, settings), time.perf_counter()
    task = run.build_task(store=None)
    if not isinstance(task, LongForm):
        raise BlendbenchError(
            f"task: {task.name} makes no long pieces; leave it out, or `blendbench run` an experiment"
        )
    recording = None if wanted.source is None else _read(wanted.source)
    channels = task.channels if recording is None else len(recording)
    make_folder(out)  # found out now, not after the work
    method = single.method_of(run, task)
    if not isinstance(method, MsaniiMethod):
        raise BlendbenchError(
            "method: is none of Msanii's, which `compose` needs; `blendbench run` an experiment with it"
        )
    single.loaded(run, method, channels)
    method.keep_states(out)
    given = _given(run, task, wanted, recording, method)
    try:
        made = method.generate([given.only(method.takes)])[0]
    except ClipError as error:
        raise BlendbenchError(f"{wanted.source or 'compose'}: {error}") from error
    wave = made.waveform if made.waveform.ndim == 2 else made.waveform[None]
    if wanted.goes_on:
        assert recording is not None and given.recording is not None
        wave = _joined(recording, wave, given.samples, wanted.seconds)
    limited, attenuation = audio.limit_peak(wave)
    files.write(out / "music.wav", limited[0] if len(limited) == 1 else limited, audio.SAMPLE_RATE, subtype="FLOAT")
    for name, image in made.images.items():
        write_image(out / f"{name}.png", image)
    facts: dict[str, Any] = {
        "seconds": round(wave.shape[-1] / audio.SAMPLE_RATE, 3),
        "attenuation_db": round(attenuation, 4),
        **made.facts,
        "took_s": round(time.perf_counter() - began, 2),
        "recipe": {name: settings[name] for name in ("method", "form", "seed")}
        | {"file": None if wanted.source is None else str(wanted.source), "signature": method.signature()},
    }
    single.tell(out / "compose.json", facts)
    for state in out.glob("state-*.safetensors"):
        state.unlink()
    return facts


def _given(run: Run, task: LongForm, wanted: Wanted, recording: torch.Tensor | None, method: MsaniiMethod) -> Start:
    """What the method is given."""
    if recording is None or wanted.source is None:
        item = Piece("nothing", Nothing("0001"))
        return Start(item, stable_seed(run.seed, "compose", task.samples), task.samples)
    item = Piece("file", MusicClip(wanted.source.stem, wanted.source, "", "", wanted.source.stem))
    part = recording
    if wanted.goes_on:
        part = recording[..., -task.samples :]
        if isinstance(method, Outpainting):
            seconds = task.seconds if wanted.seconds is None else wanted.seconds
            half = part.shape[-1] // 2
            method.spans = max(1, math.ceil(seconds * audio.SAMPLE_RATE / half))
    seed = stable_seed(run.seed, "compose", file_hash(wanted.source))
    return Start(item, seed, part.shape[-1], part if len(part) > 1 else part[0])


def _joined(recording: torch.Tensor, made: torch.Tensor, window: int, seconds: float | None) -> torch.Tensor:
    """The recording [channels, samples], and from its end on what was made of its last `window` samples."""
    fade = min(FADE, window)
    new = made[..., window - fade :]
    if seconds is not None:
        new = new[..., : fade + round(seconds * audio.SAMPLE_RATE)]
    weight = torch.linspace(0, 1, fade)
    kept, end = recording[..., : recording.shape[-1] - fade], recording[..., recording.shape[-1] - fade :]
    over = (1 - weight) * end + weight * new[..., :fade]
    return torch.cat([kept, over, new[..., fade:].expand(len(recording), -1)], -1)


def _read(path: Path) -> torch.Tensor:
    """A recording [channels, samples] at 44.1 kHz; raises BlendbenchError where it cannot be used."""
    try:
        channels = files.described(path)[2]
        if channels > 2:
            raise BlendbenchError(f"{path}: has {channels} channels; give a file of one or two")
        wave = files.read(path, audio.SAMPLE_RATE, channels=channels)
    except ClipError as error:
        raise BlendbenchError(str(error)) from error
    return wave if wave.ndim == 2 else wave[None]
