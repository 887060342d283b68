"""One noise, one prompt, one piece of music: the command `blendbench blend`.

A noise of one image at most goes the way of a run's item; a longer one is `long_blend`.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blendbench import single
from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError, ClipError
from blendbench.long_blend import LongBlend, NoiseFile
from blendbench.methods import Context
from blendbench.runs.folder import Run
from blendbench.runs.music import made_with
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.png import write_image
from blendbench.store.signature import file_hash, signature
from blendbench.store.write import make_folder
from blendbench.tasks import Heard, Music
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.task import Blend


def blend(noise_file: Path, prompt: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Blend a noise file, or its first `noise.seconds`, into music and write the result to `out`.

    Parameters
    ----------
    noise_file : Path
        Any format that libsndfile reads.
    prompt : str
        What music, in words.
    out : Path
        Folder for `music.wav`, `mix.wav`, `noise.wav` (float, scaled down alike if the mix would clip), `blend.json`
        and, of a noise of one image, the method's images as PNG. Mix and noise have the channels of the file.
    settings : dict
        The checked configuration; `method` is the one used, in presentation "direct".

    Returns
    -------
    dict
        What `blend.json` holds: gain_db, gain_db_unbounded, bound, noise_lufs, music_lufs, attenuation_db, seconds per
        stage, recipe.

    Raises
    ------
    BlendbenchError
        If the noise, the prompt, the folder or the model cannot be used.
    """
    single.check_prompt(prompt)
    run, start = Run(out, settings), time.perf_counter()
    task = single.blend_task(run)
    noise = NoiseFile.of(noise_file, task.noises.seconds, task.noises.channel)
    is_long = noise.samples > RIFFUSION.samples
    given = _given(task, noise_file, prompt, run.seed, is_long)
    make_folder(out)  # found out now, not after the generation
    timings = {"read_s": time.perf_counter() - start}
    method = single.method_of(run, task)
    start = time.perf_counter()
    context = single.loaded(run, method)
    timings["load_s"] = time.perf_counter() - start
    recipe = _recipe(settings, task, context, noise_file, prompt)
    if is_long:
        identity = signature("blend", 1, _identity(method, context, task, noise_file, given))
        shown = task.presentation("direct", {"kind": "direct", "label": "Direct"})
        given = replace(given, samples=noise.samples)
        long = LongBlend(noise, given, method, shown, task.noises.lufs, out, identity, context.device)
        facts = long.run()
        facts |= {"seconds": {name: round(value, 3) for name, value in (timings | facts["seconds"]).items()}}
        facts |= {"recipe": recipe}
        single.tell(out / "blend.json", facts)
        return facts
    made = single.made(method, given)
    start = time.perf_counter()
    heard = _presented(task, given, made, method, noise_file)
    heard = _with_channels(heard, noise, task)
    attenuation = _write(out, heard, made)
    timings["present_s"] = time.perf_counter() - start
    stages = timings | {name: value for name, value in made.facts.items() if name.endswith("_s")}
    facts = {"gain_db_unbounded": None, "bound": None} | heard.facts | {"attenuation_db": round(attenuation, 4)}
    facts |= {name: value for name, value in made.facts.items() if not name.endswith("_s")}
    facts |= {"seconds": {name: round(value, 3) for name, value in stages.items()}, "recipe": recipe}
    single.tell(out / "blend.json", facts)
    return facts


def _recipe(settings: dict[str, Any], task: Blend, context: Context, noise_file: Path, prompt: str) -> dict[str, Any]:
    """Everything that the music came of."""
    recipe = {name: settings[name] for name in ("method", "amplification", "mask", "seed")}
    return recipe | {
        "generator": single.generator_of(settings, context),
        "noise": task.noise | {"file": str(noise_file)},
        "prompt": prompt,
    }


def _identity(method: Any, context: Context, task: Blend, noise_file: Path, given: NoiseAndText) -> dict[str, Any]:
    """All that decides a long noise's music and what is kept with it."""
    made = made_with(method, task, context) | {"file": file_hash(noise_file), "text": given.text, "seed": given.seed}
    return made | {"direct": task.presentation("direct", {"kind": "direct", "label": ""}).signature(method)}


def _with_channels(heard: Heard, noise: NoiseFile, task: Blend) -> Heard:
    """What is heard, with all the channels of the noise's file; the music is in each."""
    if noise.channels == 1:
        return heard
    mono, music = heard.parts["noise"], heard.parts["music"]
    every = audio.extend_circular(noise.every(0, noise.samples), len(mono))
    every = every * audio.from_db(task.noises.lufs - audio.integrated_loudness(every.mean(0), audio.SAMPLE_RATE))
    return Heard(every + music, heard.facts, {"noise": every, "music": music})


def _given(task: Blend, noise_file: Path, prompt: str, seed: int, is_long: bool) -> NoiseAndText:
    """The noise, unless it is long, and the text; raises BlendbenchError if the noise cannot be used."""
    clip = NoiseClip(noise_file.stem, noise_file, "", noise_file.stem)
    noise = torch.zeros(0) if is_long else task.noises.read(clip)
    pair = Pair("file", clip, Prompt("prompt", "", prompt))
    return NoiseAndText(pair, stable_seed(seed, noise_file.stem, prompt), len(noise), noise, prompt)


def _presented(task: Blend, given: NoiseAndText, made: Music, method: Any, noise_file: Path) -> Heard:
    shown = task.presentation("direct", {"kind": "direct", "label": "Direct"})
    try:
        return shown.present(given, made, method)
    except ClipError as error:
        raise BlendbenchError(
            f"{noise_file}: the music made for it cannot be levelled ({error}); try another seed"
        ) from error


def _write(out: Path, heard: Heard, made: Music) -> float:
    """Write sounds and images; returns by how many dB the sounds were lowered."""
    mix, attenuation = audio.limit_peak(heard.waveform)
    files.write(out / "mix.wav", mix, audio.SAMPLE_RATE, subtype="FLOAT")
    for name, wave in heard.parts.items():
        files.write(out / f"{name}.wav", wave * audio.from_db(-attenuation), audio.SAMPLE_RATE, subtype="FLOAT")
    for name, image in made.images.items():
        write_image(out / f"{name}.png", image)
    return attenuation
