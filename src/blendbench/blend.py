"""One noise, one prompt, one piece of music: the command `blendbench blend`."""

import json
import time
from pathlib import Path
from typing import Any

from blendbench import audio, config, telling
from blendbench.clips import Noises
from blendbench.datasets import MusicClip, NoiseClip, Pair, Prompt, manifests
from blendbench.datasets.pairing import split_music, stable_seed
from blendbench.errors import BlendbenchError, ClipError
from blendbench.images import write_image
from blendbench.methods import Item
from blendbench.presentation import Amplification, Presentation, present
from blendbench.runner import SAMPLE_RATE, make_context
from blendbench.store import make_folder, write_text


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
    start = time.perf_counter()
    clip = NoiseClip(noise_file.stem, noise_file, "", noise_file.stem)
    noise = Noises(settings["noise"]).read(clip)
    make_folder(out)  # found out now, not after the generation
    timings = {"read_s": time.perf_counter() - start}
    method = config.build(settings["method"], "method", settings["allow_targets"])
    half: list[MusicClip] = []
    if getattr(method, "uses_music", False):
        _, half = split_music(manifests.music_set(settings).clips, settings["seed"])
    context = make_context(settings, half)
    start = time.perf_counter()
    with telling.stage("load", bar=False):
        method.prepare(context)
    timings["load_s"] = time.perf_counter() - start
    pair = Pair("file", clip, Prompt("prompt", "", prompt))
    item = Item(pair, noise, stable_seed(settings["seed"], noise_file.stem, prompt))
    with telling.stage("generate", bar=False):
        made = method.generate([item])[0]
    start = time.perf_counter()
    amplification = Amplification(**settings["amplification"])
    shown = Presentation("direct", "direct", "Direct")
    try:
        result = present(noise, made.waveform, shown, method.adaptive, amplification, settings["mask"])
    except ClipError as error:
        raise BlendbenchError(
            f"{noise_file}: the music made for it cannot be levelled ({error}); try another seed"
        ) from error
    mix, attenuation = audio.limit_peak(result.mix)
    scale = audio.from_db(-attenuation)
    for name, wave in (("music", result.music * scale), ("mix", mix), ("noise", noise * scale)):
        audio.write(out / f"{name}.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    for name, image in made.images.items():
        write_image(out / f"{name}.png", image)
    timings["present_s"] = time.perf_counter() - start
    recipe = {
        "method": settings["method"],
        "generator": {"name": context.generator.name} | context.generator.signature(),
        "amplification": settings["amplification"],
        "mask": settings["mask"],
        "noise": settings["noise"] | {"file": str(noise_file)},
        "prompt": prompt,
        "seed": settings["seed"],
    }
    stages = timings | {name: value for name, value in made.facts.items() if name.endswith("_s")}
    facts = {"gain_db_unbounded": None, "bound": None} | result.facts | {"attenuation_db": round(attenuation, 4)}
    facts |= {name: value for name, value in made.facts.items() if not name.endswith("_s")}
    facts |= {"seconds": {name: round(value, 3) for name, value in stages.items()}, "recipe": recipe}
    write_text(out / "blend.json", json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n")
    return facts
