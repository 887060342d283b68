"""Entries of YAML files as dataclasses: what is published where, by name, as data, and checked like a configuration.

A folder holds files `*.yaml`, each a mapping of names to entries. An entry's keys are the fields of the dataclass but
`name`; the dataclass says further rules in `__post_init__`, by a ValueError that begins with the key.
"""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.resources import package_folder

Entry = TypeVar("Entry")
_WORDS: dict[Any, str] = {
    str: "a text",
    Path: "a path",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: "a list of texts",
}


def read_all(group: str, variable: str, own: str | None, kind: type[Entry]) -> dict[str, Entry]:
    """The package's entries of a group, then the user's, whose folder an environment variable names.

    An entry of the user's that has a name of the package's takes its place.

    Parameters
    ----------
    group : str
        Folder in the package's data_manifests.
    variable : str
        Environment variable, for messages.
    own : str or None
        What it holds; where that is nothing there are the package's alone.
    kind : type
        A dataclass with a field `name`.

    Raises
    ------
    BlendbenchError
        As `read`, and if the user's folder is not there or holds no YAML file.
    """
    found = read(package_folder("blendbench.data_manifests") / group, kind)
    if own:
        folder = Path(own).expanduser()
        if not any(folder.glob("*.yaml")):
            raise BlendbenchError(f"{variable}={printable(own)}: no folder with .yaml files; name one, or unset it")
        found |= read(folder, kind)
    return found


def read(folder: Path, kind: type[Entry]) -> dict[str, Entry]:
    """Every entry of a folder's YAML files, in the order of the files' names, by its own name.

    Parameters
    ----------
    folder : Path
    kind : type
        A dataclass with a field `name`. Its fields are texts, numbers, booleans, choices (`Literal`), tuples of texts,
        or paths, which are relative to the YAML file.

    Raises
    ------
    BlendbenchError
        In one line that names the file and the key: if a file cannot be read, a key is unknown, missing or of another
        type, a rule of the dataclass is broken, or a name stands twice.
    """
    found: dict[str, Entry] = {}
    for file in sorted(folder.glob("*.yaml")):
        for name, given in _mapping(file).items():
            if name in found:
                raise BlendbenchError(f"{printable(file)}: {name}: stands twice in {printable(folder)}; rename one")
            found[name] = _entry(kind, name, given, file)
    return found


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise BlendbenchError(f"{printable(file)}: cannot be read ({error.strerror})") from error
    except Exception as error:  # what YAML's reader raises is no fixed set
        raise BlendbenchError(f"{printable(file)}: is no YAML ({one_line(str(error))[:300]}); mend it") from error
    if not isinstance(content, dict):
        raise BlendbenchError(f"{printable(file)}: is no mapping of names to entries; write NAME: and its keys below")
    for name in content:
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)):
            raise BlendbenchError(f"{printable(file)}: {name!r} is no name; use letters, digits, _, - and .")
    return content


def _entry(kind: type[Entry], name: str, given: Any, file: Path) -> Entry:
    where = f"{printable(file)}: {name}"
    if not isinstance(given, dict):
        raise BlendbenchError(f"{where}: {given!r} is no entry; write its keys below")
    hints = get_type_hints(kind)
    known = {one.name: one for one in fields(kind) if one.name != "name"}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise BlendbenchError(f"{where}.{key}: unknown key; known are {', '.join(known)}")
    for key, one in known.items():
        if key not in given and one.default is MISSING and one.default_factory is MISSING:
            raise BlendbenchError(f"{where}.{key}: is missing; give {_words(hints[key])}")
    values = {}
    for key, value in given.items():
        if not _fits(value, hints[key]):
            raise BlendbenchError(f"{where}.{key}: {value!r} is not {_words(hints[key])}; mend it")
        values[key] = _made(value, hints[key], file.parent)
    make: Any = kind
    try:
        return make(name=name, **values)
    except ValueError as error:
        raise BlendbenchError(f"{where}.{error}; mend it") from error


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return (hint,) if get_origin(hint) in (None, Literal, tuple) else get_args(hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return " or ".join("null" if one is NoneType else _WORDS.get(one) or _words(one) for one in _options(hint))


def _fits(value: Any, hint: Any) -> bool:
    for one in _options(hint):
        if one is NoneType:
            fits = value is None
        elif get_origin(one) is Literal:
            fits = value in get_args(one)
        elif get_origin(one) is tuple:
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        elif one is float:
            fits = type(value) in (int, float)
        else:
            fits = type(value) is (str if one is Path else one)
        if fits:
            return True
    return False


def _made(value: Any, hint: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return folder / value if Path in _options(hint) and value is not None else value


def check_inside(key: str, *places: str) -> None:
    """Raise ValueError, naming the key, if a relative path is absolute or would leave its root."""
    for place in places:
        parts = place.replace("\\", "/").split("/")
        if place.startswith(("/", "\\")) or ".." in parts or "\0" in place or ":" in parts[0]:
            raise ValueError(f"{key}: {place!r} leaves its folder")
