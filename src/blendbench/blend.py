"""One noise, one prompt, one piece of music: the command `blendbench blend`, which is a run of a single item."""

import json
import time
from pathlib import Path
from typing import Any

from blendbench import config, telling
from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import check
from blendbench.runs.folder import Run
from blendbench.runs.plan import context_of
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.png import write_image
from blendbench.store.write import make_folder, write_text
from blendbench.tasks import Heard, Music
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair
from blendbench.tasks.blend.task import Blend


def blend(noise_file: Path, prompt: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Blend the first `noise.seconds` of a noise file into music and write the result to `out`.

    Parameters
    ----------
    noise_file : Path
        Any format that libsndfile reads.
    prompt : str
        What music, in words.
    out : Path
        Folder for `music.wav`, `mix.wav`, `noise.wav` (float, scaled down alike if the mix would clip), the method's
        images as PNG, and `blend.json`.
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
    if not prompt.strip():
        raise BlendbenchError("--prompt: is empty; say what music to make, such as 'calm jazz piano trio'")
    run, start = Run(out, settings), time.perf_counter()
    task = run.build_task(store=None)
    if not isinstance(task, Blend):
        raise BlendbenchError(f"task: {task.name} makes no blends; leave it out, or `blendbench run` an experiment")
    given = _given(task, noise_file, prompt, run.seed)
    make_folder(out)  # found out now, not after the generation
    timings = {"read_s": time.perf_counter() - start}
    method = config.build(run.given.method, "method", run.allowed)
    check(method, "method", task.gives)
    context, start = context_of(run, keep=False), time.perf_counter()
    with telling.stage("load", bar=False):
        method.prepare(context.only(method.uses))
    timings["load_s"] = time.perf_counter() - start
    with telling.stage("generate", bar=False):
        made = method.generate([given.only(method.takes)])[0]
    start = time.perf_counter()
    heard = _presented(task, given, made, method, noise_file)
    attenuation = _write(out, heard, made)
    timings["present_s"] = time.perf_counter() - start
    generator = {"name": run.given.generator["name"]} | context.borrow("generator").signature()
    recipe = {name: settings[name] for name in ("method", "amplification", "mask", "seed")}
    recipe |= {"generator": generator, "noise": task.noise | {"file": str(noise_file)}, "prompt": prompt}
    stages = timings | {name: value for name, value in made.facts.items() if name.endswith("_s")}
    facts = {"gain_db_unbounded": None, "bound": None} | heard.facts | {"attenuation_db": round(attenuation, 4)}
    facts |= {name: value for name, value in made.facts.items() if not name.endswith("_s")}
    facts |= {"seconds": {name: round(value, 3) for name, value in stages.items()}, "recipe": recipe}
    write_text(out / "blend.json", json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n")
    return facts


def _given(task: Blend, noise_file: Path, prompt: str, seed: int) -> NoiseAndText:
    """The noise and the text; raises BlendbenchError if the noise cannot be used."""
    clip = NoiseClip(noise_file.stem, noise_file, "", noise_file.stem)
    noise, pair = task.noises.read(clip), Pair("file", clip, Prompt("prompt", "", prompt))
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
