"""Add a part to music of one's own: the command `blendbench accompany`.

The models hear and make one channel at 44.1 kHz, so what they paint is another recording of the background with the
part in it. Beside it stand the part alone, as the separator hears it, and the part over the recording as it was, with
all of its channels: that is what one keeps where a model has worn the background.
"""

import time
from pathlib import Path
from typing import Any

import torch

from blendbench import single, telling
from blendbench.datasets import StemClip
from blendbench.errors import BlendbenchError, ClipError
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.png import write_image
from blendbench.store.write import make_folder
from blendbench.tasks.accompaniment.given import BackgroundAndText, Request
from blendbench.tasks.accompaniment.task import Accompaniment

WIDEST = 8
"""Most channels of a file that are kept."""


def accompany(background: Path, prompt: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Add what a text says to a recording, or to its first `accompaniment.seconds`, and write the result to `out`.

    Parameters
    ----------
    background : Path
        Any format, rate and length that libsndfile reads.
    prompt : str
        What to add, in words.
    out : Path
        Folder for `mix.wav` (as the model made it, mono), `added.wav` (the part as the separator hears it, mono),
        `over.wav` (the part over the background with all its channels), `background.wav`, `accompany.json` and, of a
        recording of one image, the method's images as PNG. Float, at 44.1 kHz, scaled down alike if one would clip.
    settings : dict
        The checked configuration; `method` is the one used.

    Returns
    -------
    dict
        What `accompany.json` holds: facts of the music, levels, seconds, recipe.

    Raises
    ------
    BlendbenchError
        If the recording, the prompt, the folder or a model cannot be used.
    """
    single.check_prompt(prompt)
    run, start = Run(out, settings), time.perf_counter()
    task = run.build_task(store=None)
    if not isinstance(task, Accompaniment):
        raise BlendbenchError(f"task: {task.name} adds no parts; leave it out, or `blendbench run` an experiment")
    every = _read(background, task.seconds)
    mono, gain_db = audio.normalize_loudness(every.mean(0), audio.SAMPLE_RATE, task.lufs)
    item = Request("file", StemClip(background.stem, (background,), (), prompt, "", background.stem))
    given = BackgroundAndText(item, stable_seed(run.seed, background.stem, prompt), len(mono), mono, prompt)
    make_folder(out)  # found out now, not after the generation
    method = single.method_of(run, task)
    context, separator = single.loaded(run, method), task.separator
    seconds = {"load_s": time.perf_counter() - start}
    start = time.perf_counter()
    made = single.made(method, given)
    seconds["generate_s"] = time.perf_counter() - start
    start = time.perf_counter()
    with telling.stage("separate", bar=False):
        added = made.waveform - separator.background(made.waveform)
    seconds["separate_s"] = time.perf_counter() - start
    own = every * audio.from_db(gain_db)
    sounds = {"mix": made.waveform, "added": added, "over": own + added, "background": own}
    attenuation = max(audio.limit_peak(wave)[1] for wave in sounds.values())
    for name, wave in sounds.items():
        lowered = wave * audio.from_db(-attenuation)
        channels = lowered[0] if lowered.ndim == 2 and len(lowered) == 1 else lowered
        files.write(out / f"{name}.wav", channels, audio.SAMPLE_RATE, subtype="FLOAT")
    for name, image in made.images.items():
        write_image(out / f"{name}.png", image)
    facts = {name: value for name, value in made.facts.items() if not name.endswith("_s")}
    facts |= {"background_lufs": task.lufs, "gain_db": round(gain_db, 4), "attenuation_db": round(attenuation, 4)}
    recipe = {name: settings[name] for name in ("method", "accompaniment", "seed")}
    recipe |= {"generator": single.generator_of(settings, context)}
    recipe |= {"file": str(background), "prompt": prompt, "separator": separator.signature()}
    facts |= {"seconds": {name: round(value, 3) for name, value in seconds.items()}, "recipe": recipe}
    single.tell(out / "accompany.json", facts)
    return facts


def _read(path: Path, seconds: float | None) -> torch.Tensor:
    """The recording [channels, samples] at 44.1 kHz, or its beginning; raises BlendbenchError if it cannot be used."""
    try:
        channels = files.described(path)[2]
        if channels > WIDEST:
            raise BlendbenchError(f"{path}: has {channels} channels; give a file of at most {WIDEST}")
        wave = files.read(path, audio.SAMPLE_RATE, max_seconds=seconds, channels=channels)
    except ClipError as error:
        raise BlendbenchError(str(error)) from error
    return wave if wave.ndim == 2 else wave[None]
