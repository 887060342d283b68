"""`blendbench train`: make the built-in models and sample packs again, step by step, or run a training of one's own.

data -> autoencoder -> generator -> student, codec -> decoder and musicgen, and tagger -> export; `pack` makes the
built-in noises and music. Each step reads what the one before left in the work folder, so a step can be repeated alone.

A step is a file of `conf/training`, or of the folder `training` below `--config-dir`: it names a function and what that
is called with (see `blendbench.train`). Flags, and words key=value, set what `conf/train.yaml` and that file hold.
"""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from blendbench.errors import BlendbenchError, UsageError
from blendbench.resources import package_folder
from blendbench.usage import Parser

ORDER = (
    "data", "autoencoder", "generator", "student", "tagger", "codec", "decoder", "musicgen", "piano", "prior",
    "stems", "prepared_gtzan", "prepared_musdb18", "controlnet", "pix2pix", "separator", "msanii_songs",
    "msanii_vocoder", "msanii", "export", "pack",
)  # fmt: skip
"""The package's steps as they follow each other; others come after them by name."""
_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def main(arguments: list[str]) -> int:
    """Run one step; returns the exit status."""
    early = Parser(prog="blendbench train", add_help=False)
    early.add_argument("--config-dir", type=Path)
    own = early.parse_known_args(arguments)[0].config_dir
    parser = _parser(_files(own))
    words, others = parser.parse_known_args(arguments)
    if unknown := [word for word in others if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    settings = _settings(words, others)
    entry = settings.training
    steps = entry.get("steps")
    if isinstance(steps, int) and steps < 1:
        raise BlendbenchError(f"{_key(words, 'steps')} {steps}: must be at least 1")
    _try_device(settings.device, _key(words, "device"))
    figures = _training(entry, [*settings.allow_targets, *words.allow_targets])()
    if isinstance(figures, dict):
        print(json.dumps(figures, indent=1))
    return 0


def _files(own: Path | None) -> dict[str, Path]:
    """The steps' YAML files by name, the package's first."""
    found = {file.stem: file for file in (package_folder("blendbench.conf") / "training").glob("*.yaml")}
    if own is not None:
        mine = sorted((own / "training").glob("*.yaml"))
        if not mine:
            raise UsageError(f"--config-dir {own}: has no training/*.yaml; name a folder that has")
        if taken := [file.stem for file in mine if file.stem in found]:
            raise UsageError(f"{own / 'training' / taken[0]}.yaml: the package has a step of that name; choose another")
        found |= {file.stem: file for file in mine}
    known = [name for name in ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


def _parser(files: dict[str, Path]) -> Parser:
    from omegaconf import OmegaConf

    entries: dict[str, Any] = {name: OmegaConf.load(files[name]) for name in ORDER if name in files}
    counts = {name: entry.get("steps") for name, entry in entries.items()}
    parser = Parser(
        prog="blendbench train",
        description="Train the built-in models: data, then autoencoder, generator, student, tagger, codec, "
        "decoder (of the codec) and musicgen, piano and prior (of its sound), then export. "
        "Needs FluidSynth with the FluidR3 sound font, the POP909 data set, and (for the tagger) ESC-50.",
        epilog="Words key=value set the rest: seed=1, or training.batch=8 for an entry of the step.",
    )
    parser.add_argument("step", choices=list(files))
    parser.add_argument("--work", help="work folder (default runs/train)")
    parser.add_argument("--data-root", help="folder with POP909/ and ESC-50/")
    parser.add_argument(
        "--steps", type=int, help="training steps; default " + ", ".join(f"{k} {v}" for k, v in counts.items() if v)
    )
    parser.add_argument("--arrangements", type=int, help="data: arrangements of a song (8 make 32 hours)")
    parser.add_argument("--workers", type=int, help="data: processes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", help="torch device of a training (default cpu)")
    parser.add_argument("--out", help="export, pack: folder to write to (default: the package's assets)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with training/STEP.yaml of your own")
    parser.add_argument(
        "--allow-targets", action="append", default=[], metavar="MODULE", help="own module that a step may name"
    )
    return parser


def _key(words: Namespace, name: str) -> str:
    """How a setting was given, for messages: as a flag, or as a key."""
    return f"--{name}" if getattr(words, name) is not None else {"steps": "training.steps"}.get(name, name)


@dataclass
class _Data:
    root: str = "data"


@dataclass
class _Keys:
    """Types of the keys of `conf/train.yaml`."""

    training: dict[str, Any] = field(default_factory=dict)
    work: str = ""
    out: str | None = None
    data: _Data = field(default_factory=_Data)
    seed: int = 0
    device: str = ""
    allow_targets: list[str] = field(default_factory=list)


def _settings(words: Namespace, others: list[str]) -> _Keys:
    """The composed configuration with the flags in it, resolved; raises UsageError for a wrong key or value."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from blendbench.composing import explain
    from blendbench.config import literal

    overrides = [f"training={words.step}", *map(_override, others)]
    if words.config_dir is not None:
        place = str(words.config_dir.resolve()).replace("'", r"\'")
        overrides.append(f"hydra.searchpath=['file://{place}']")
    try:
        with initialize_config_module("blendbench.conf", version_base="1.3"):
            composed = compose("train", overrides=overrides)
        flags = {key: getattr(words, key) for key in ("work", "out", "seed", "device")}
        flags |= {"data.root": words.data_root}
        flags |= {f"training.{key}": getattr(words, key) for key in ("steps", "arrangements", "workers")
                  if key in composed.training}  # fmt: skip
        for key, value in flags.items():
            if value is not None:
                OmegaConf.update(composed, key, literal(value))
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(_Keys), composed))
    except (HydraException, OmegaConfBaseException) as error:
        of = getattr(error, "full_key", None)  # a value that is of another type
        raise UsageError((f"{of}: " if of else "") + explain(error, "train")) from error
    assert isinstance(found, _Keys)
    return found


def _override(word: str) -> str:
    """A word as Hydra takes it: an entry of the step may be one that its file leaves to the function."""
    return f"++{word}" if word.startswith("training.") else word


def _try_device(device: str, key: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BlendbenchError(f"{key} {device}: cannot be used ({reason}); try cpu") from error


def _training(entry: dict[str, Any], allowed: list[str]) -> Callable[[], Any]:
    """The step, ready to be run; raises BlendbenchError if an entry is not the function's, or of another type."""
    from blendbench import config

    training = config.build(entry | {"_partial_": True}, "training", allowed)
    try:
        hints = get_type_hints(training.func)
    except Exception:  # annotations may name what is imported for a type checker alone
        hints = {}
    for key, value in training.keywords.items():
        kind = hints.get(key)
        if kind in _KINDS and type(value) is not kind and not (kind is float and type(value) is int):
            raise BlendbenchError(f"training.{key}: {value!r} is not {_KINDS[kind]}; mend that entry")
    return training
