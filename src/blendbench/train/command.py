"""`blendbench train`: make the built-in models and sample packs again, step by step.

data -> autoencoder -> generator -> student, codec -> decoder and musicgen, and tagger -> export; `pack` makes the
built-in noises and music. Each step reads what the one before left in the work folder, so a step can be repeated alone.
"""

import json
from pathlib import Path

from blendbench.errors import BlendbenchError
from blendbench.usage import Parser

DEFAULT_STEPS = {
    "autoencoder": 1400, "generator": 3400, "student": 240, "tagger": 1500,
    "codec": 2800, "decoder": 3000, "musicgen": 2000,
}  # fmt: skip
STEPS = ("data", "autoencoder", "generator", "student", "tagger", "codec", "decoder", "musicgen", "export", "pack")


def main(arguments: list[str]) -> int:
    """Run one step; returns the exit status."""
    parser = Parser(
        prog="blendbench train",
        description="Train the built-in models: data, then autoencoder, generator, student, tagger, codec, "
        "decoder (of the codec) and musicgen, then export. "
        "Needs FluidSynth with the FluidR3 sound font, the POP909 data set, and (for the tagger) ESC-50.",
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, default=Path("runs/train"), help="work folder (default runs/train)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with POP909/ and ESC-50/")
    parser.add_argument(
        "--steps", type=int, help="training steps; default " + ", ".join(f"{k} {v}" for k, v in DEFAULT_STEPS.items())
    )
    parser.add_argument("--arrangements", type=int, default=8, help="data: arrangements of a song (8 make 32 hours)")
    parser.add_argument("--workers", type=int, default=2, help="data: processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="torch device of a training (default cpu)")
    parser.add_argument("--out", type=Path, help="export, pack: folder to write to (default: the package's assets)")
    words = parser.parse_args(arguments)
    if words.steps is not None and words.steps < 1:
        raise BlendbenchError(f"--steps {words.steps}: must be at least 1")
    import torch

    try:
        torch.zeros(1, device=words.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BlendbenchError(f"--device {words.device}: cannot be used ({reason}); try cpu") from error
    from blendbench.datasets.builtin import prompts
    from blendbench.resources import package_folder
    from blendbench.train.data import cache, pack
    from blendbench.train.pocket import autoencoder, codec, export, generator, musicgen, student, tagger

    work, seed, device = words.work, words.seed, words.device
    assets = words.out or package_folder("blendbench.assets")
    if words.step == "data":
        esc50 = words.data_root / "ESC-50"
        built = cache.build(
            work / "cache",
            words.data_root / "POP909",
            esc50 if esc50.is_dir() else None,
            arrangements=words.arrangements,
            seed=seed,
            workers=words.workers,
        )
        print(f"{len(built.clips)} clips in {work / 'cache'}")
        return 0
    if words.step == "pack":
        pack.write(assets, seed=seed)
        return 0
    if words.step == "export":
        export.export(work, assets)
        return 0
    clips = cache.ClipCache(work / "cache")
    steps = words.steps or DEFAULT_STEPS[words.step]
    if words.step == "autoencoder":
        figures = autoencoder.train(clips, work / "vae", steps=steps, seed=seed, device=device)
    elif words.step == "generator":
        texts = [prompt.text for prompt in prompts()]
        figures = generator.train(
            clips, work / "vae", work / "pocket", steps=steps, prompts=texts, seed=seed, device=device
        )
    elif words.step == "student":
        figures = student.train(clips, work / "pocket", steps=steps, seed=seed, device=device)
    elif words.step == "codec":
        figures = codec.train(clips, work / "codec", steps=steps, seed=seed, device=device)
    elif words.step == "decoder":
        figures = codec.refine(
            clips, work / "codec", work / "decoder", steps=steps, used=musicgen.CODEBOOKS, seed=seed, device=device
        )
    elif words.step == "musicgen":
        words_of = package_folder("blendbench.assets") / "pocket" / "tokenizer"
        figures = musicgen.train(
            clips, work / "codec", words_of, work / "musicgen", steps=steps, seed=seed, device=device
        )
    else:
        figures = tagger.train(clips, work / "tagger", steps=steps, seed=seed, device=device)
    print(json.dumps(figures, indent=1))
    return 0
