"""`blendbench train`: make the built-in models and sample packs again, step by step.

data -> autoencoder -> generator and tagger -> export; `pack` makes the built-in noises and music. Each step reads what
the one before left in the work folder, so a step can be repeated alone.
"""

import json
from pathlib import Path

from blendbench.errors import BlendbenchError

STEPS = ("data", "autoencoder", "generator", "tagger", "export", "pack")


def main(arguments: list[str], parser_class: type) -> int:
    """Run one step; returns the exit status."""
    parser = parser_class(
        prog="blendbench train",
        description="Train the built-in models: data, then autoencoder, then generator and tagger, then export. "
        "Needs FluidSynth with the FluidR3 sound font, the POP909 data set, and (for the tagger) ESC-50.",
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, default=Path("runs/train"), help="work folder (default runs/train)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with POP909/ and ESC-50/")
    parser.add_argument("--minutes", type=float, help="training time; default 40 (autoencoder, tagger 8, generator 60)")
    parser.add_argument("--arrangements", type=int, default=1, help="data: genres a song is arranged in")
    parser.add_argument("--workers", type=int, default=2, help="data: processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="autoencoder: go on from the saved weights, decoder only")
    parser.add_argument("--out", type=Path, help="export, pack: folder to write to (default: the package's assets)")
    words = parser.parse_args(arguments)
    if words.minutes is not None and words.minutes <= 0:
        raise BlendbenchError(f"--minutes {words.minutes}: must be above 0")
    from blendbench.datasets.builtin import package_folder, prompts
    from blendbench.train import autoencoder, cache, export, generator, pack, tagger

    work, seed = words.work, words.seed
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
    if words.step == "autoencoder":
        figures = autoencoder.train(
            clips, work / "vae", minutes=words.minutes or 40, seed=seed, freeze_encoder=words.resume
        )
    elif words.step == "generator":
        texts = [prompt.text for prompt in prompts()]
        figures = generator.train(
            clips, work / "vae", work / "pocket", minutes=words.minutes or 60, prompts=texts, seed=seed
        )
    else:
        figures = tagger.train(clips, work / "tagger", minutes=words.minutes or 8, seed=seed)
    print(json.dumps(figures, indent=1))
    return 0
