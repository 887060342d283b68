"""Music for a picture of one's own: the command `blendbench soundtrack`."""

import time
from pathlib import Path
from typing import Any

from PIL import Image

from blendbench import pictures, single
from blendbench.datasets import PictureClip
from blendbench.errors import BlendbenchError, ClipError
from blendbench.runs.folder import Run
from blendbench.seeds import stable_seed
from blendbench.sound import audio, files
from blendbench.sound.png import write_image
from blendbench.store.write import make_folder, placing
from blendbench.tasks.image_text.given import ImageAndText, Scene
from blendbench.tasks.image_text.task import ImageText


def soundtrack(image: Path, prompt: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make `scene.seconds` of music for a picture and a text, and write it to `out`.

    Parameters
    ----------
    image : Path
        PNG, JPEG, WebP, GIF, BMP or TIFF.
    prompt : str
        What music to make, in words.
    out : Path
        Folder for `music.wav` (mono float at 44.1 kHz, scaled down if it would clip), `picture.png` (as the model is
        shown it, before its own size), `soundtrack.json` and, of music of one image, the method's images as PNG.
    settings : dict
        The checked configuration; `method` is the one used.

    Returns
    -------
    dict
        What `soundtrack.json` holds: facts of the music, notes of the picture, seconds, recipe.

    Raises
    ------
    BlendbenchError
        If the picture, the prompt, the folder or a model cannot be used.
    """
    single.check_prompt(prompt)
    run, start = Run(out, settings), time.perf_counter()
    task = run.build_task(store=None)
    if not isinstance(task, ImageText):
        raise BlendbenchError(f"task: {task.name} takes no picture; leave it out, or `blendbench run` an experiment")
    try:
        read = pictures.read(image)
    except ClipError as error:
        raise BlendbenchError(str(error)) from error
    seen = pictures.fit(read.pixels, task.size, task.how)
    item = Scene("file", PictureClip(image.stem, image, None, prompt, "", "", image.stem))
    given = ImageAndText(item, stable_seed(run.seed, image.stem, prompt), task.samples, seen, prompt)
    make_folder(out)  # found out now, not after the generation
    method = single.method_of(run, task)
    if lacking := {"target"} & set(method.takes) or {"others"} & set(method.uses):
        raise BlendbenchError(f"method: {method.label} wants {', '.join(lacking)}, which one picture has not")
    context = single.loaded(run, method)
    seconds = {"load_s": time.perf_counter() - start}
    start = time.perf_counter()
    made = single.made(method, given)
    seconds["generate_s"] = time.perf_counter() - start
    lowered, attenuation = audio.limit_peak(made.waveform)
    files.write(out / "music.wav", lowered, audio.SAMPLE_RATE, subtype="FLOAT")
    with placing(out / "picture.png") as place:
        shown = (seen * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(shown).save(place, format="PNG")
    for name, values in made.images.items():
        if name != "picture":
            write_image(out / f"{name}.png", values)
    facts = {name: value for name, value in made.facts.items() if not name.endswith("_s")}
    facts |= {"attenuation_db": round(attenuation, 4), "picture_notes": list(read.notes)}
    recipe = {name: settings[name] for name in ("method", "image", "scene", "seed")}
    recipe |= {"generator": single.generator_of(settings, context)}
    recipe |= {"file": str(image), "prompt": prompt}
    facts |= {"seconds": {name: round(value, 3) for name, value in seconds.items()}, "recipe": recipe}
    single.tell(out / "soundtrack.json", facts)
    return facts
