"""Models of the user's own under a name: `blendbench models add NAME PATH|HUB_ID --as KIND`.

What is added is an entry of the catalogue, in a YAML file of its own; weights are converted where they are pickled, and
stay where they are otherwise.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from blendbench.errors import BlendbenchError, UsageError, printable
from blendbench.models import catalog, fetch
from blendbench.models.convert import PICKLED, convert, is_pickled
from blendbench.store.write import placing_folder, write_text

KINDS = {
    "riffusion": ("riffusion", "generator.checkpoint={}"),
    "musicgen": ("musicgen_melody", "generator.musicgen.checkpoint={}"),
    "clap": ("clap", "evaluator.fad.checkpoint={}"),
    "encodec": ("encodec_24khz", "evaluator.fad.checkpoint={}"),
    "prior": ("prior", "prior.checkpoint={}"),
    "controlnet": ("riff_cnet", "generator.controlnet.checkpoint={}"),
    "pix2pix": ("riff_p2p", "generator.pix2pix.checkpoint={}"),
    "msanii": ("pocket_msanii", "msanii.checkpoint={}"),
    "tango": ("tango", "blendbench.models.tango.TangoCheckpoint('tango', '{}')"),
}
"""By the word of `--as`: the known model that it is laid out as, and the configuration's key that takes it."""
SINGLE = ("riffusion", "controlnet", "msanii")
"""Kinds that may be one file."""


def add(name: str, source: str, kind: str) -> Path:
    """Make a model known under a name, converting it where its weights are pickled; prints what was done.

    Parameters
    ----------
    name : str
        Which no model of the package has; one that was added before is replaced.
    source : str
        A folder in the kind's layout, for some kinds one file, or a hub id.
    kind : str
        One of `KINDS`.

    Returns
    -------
    Path
        Where the model lies.

    Raises
    ------
    UsageError
        If name, kind or source cannot be.
    BlendbenchError
        If it is not there, not complete, needs code to be read, or cannot be fetched.
    """
    if kind not in KINDS:
        raise UsageError(f"--as {kind}: use one of {', '.join(KINDS)}")
    if not re.fullmatch(r"[\w-][\w.-]*", name) or name == "pocket":
        raise UsageError(f"{name!r} cannot be a model's name; use letters, digits, _, - and .")
    entry = catalog.own_entries() / f"{name}.yaml"
    if name in catalog.models() and not entry.exists():
        raise UsageError(f"{name}: a model that blendbench knows; take another name")
    known, use = KINDS[kind]
    files = catalog.known(known).files
    path = Path(source).expanduser()
    if path.exists():
        place, weights = _of_path(name, path.absolute(), kind, files)
        _write(entry, name, {"kind": "own", "source": str(place), "files": weights, "used_by": use.format(name)})
    elif catalog.is_hub_id(source) and not source.startswith((".", "/", "~")):
        given = {"kind": "hub", "source": source, "revision": "main", "files": list(files)}
        model = catalog.known(known)
        if model.beside:  # published in a layout of its own, of several files
            given |= {"made_of": model.made_of, "beside": list(model.beside), "convert": model.convert}
        before = entry.read_text(encoding="utf-8") if entry.exists() else None
        _write(entry, name, given | {"used_by": use.format(name)})
        try:
            place = fetch.fetch(name)
        except BlendbenchError:
            if before is None:
                entry.unlink()
            else:
                write_text(entry, before)
            catalog.forget()
            raise
    else:
        raise BlendbenchError(f"{printable(source)}: no such file or folder, and no hub id (owner/name)")
    print(f"{name}: {place}; use it as {use.format(name)}")
    return place


def _of_path(name: str, path: Path, kind: str, files: tuple[str, ...]) -> tuple[Path, list[str]]:
    """Where the model lies, converted if need be, and what has to be there."""
    made = catalog.own_entries().parent / name
    if path.is_file():
        if kind not in SINGLE:
            raise BlendbenchError(f"{printable(path)}: is one file; give a folder as {kind}")
        if path.suffix not in (*PICKLED, ".safetensors"):
            raise BlendbenchError(f"{printable(path)}: no file of weights; give .safetensors or {', '.join(PICKLED)}")
        if path.suffix == ".safetensors" and kind == "riffusion":
            return path, []
        if path.suffix == ".safetensors" and kind == "msanii":
            raise BlendbenchError(
                f"{printable(path)}: is one file; give the published pickle, or a folder of `train msanii`"
            )
        if maker := _maker(kind):
            return _made(name, path, made, maker), list(files)
        target = made.with_name(f"{name}.safetensors")
        print(f"{name}: converting {path}", flush=True)
        convert(path, target)
        return target, []
    maker, published = _maker(kind), catalog.known(KINDS[kind][0]).made_of
    if maker and published and (path / published).is_file():
        return _made(name, path / published, made, maker), list(files)
    if is_pickled(path):
        print(f"{name}: converting {path}", flush=True)
        convert(path, made)
        path = made
    for pattern in files:
        if not catalog.matching(path, pattern):
            raise BlendbenchError(f"{printable(path)}: has no {pattern}, which a {kind} needs; complete it")
    return path, list(files)


def _maker(kind: str) -> Callable[[Path, Path], None] | None:
    """What makes such a model of its published form, where that is a layout of its own."""
    if kind == "msanii":  # the built-in model stands for it in the catalogue
        from blendbench.models.msanii import convert_published

        return convert_published
    known = catalog.known(KINDS[kind][0])
    return fetch.converter(known) if known.made_of else None


def _made(name: str, path: Path, made: Path, maker: Callable[[Path, Path], None]) -> Path:
    print(f"{name}: converting {path}", flush=True)
    with placing_folder(made) as folder:
        maker(path, folder)
    return made


def _write(file: Path, name: str, entry: Mapping[str, object]) -> None:
    # JSON is YAML, and has one way of writing a text.
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({name: entry}, indent=1, ensure_ascii=False) + "\n")
    catalog.forget()
