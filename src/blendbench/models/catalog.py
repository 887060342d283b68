"""The models that blendbench knows: what they are called, where each comes from, and where it lies here.

They are the entries of `data_manifests/models/*.yaml`, and of a folder of the user's: the one that BLENDBENCH_MODELS
names, or else the one where `blendbench models add` writes. There are five kinds: folders that travel with the package
("builtin"), snapshots in the Hugging Face hub's cache ("hub"), single files in torch hub's folder, where the tools that
read them look ("file"), what is made of a Python wheel ("wheel"), and folders or files of the user's own ("own"). What
is converted on this machine lies below `blendbench` in torch hub's folder. Nothing here asks the network; `fetch`
beside this module does. It honours HF_HOME and TORCH_HOME. Sizes are in MB of 10^6 bytes.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from blendbench import entries
from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder

OWN = "BLENDBENCH_MODELS"
"""Environment variable: a folder of further entries."""


@dataclass(frozen=True)
class Model:
    """A model by name.

    Parameters
    ----------
    name : str
        What `blendbench models` calls it.
    kind : str
        "builtin", "hub", "file", "wheel" or "own".
    source : str
        Folder in the package's assets, hub id, URL, PACKAGE==VERSION, or path.
    revision : str or None
        Of a hub model: a commit hash, or "main" where no commit is pinned.
    files : tuple of str
        What has to be there: patterns of paths in the folder, its marker first and its weights last; or the one file;
        none for a file of the user's own.
    folder : str
        Of a plain file: its folder below torch hub's, "" or "checkpoints".
    wheel : str
        The wheel's file name.
    convert : str
        Of a wheel, or of one pickled file of a hub model: the function of this package, by its dotted name, that makes
        the files of it; it gets the path and the folder to write to.
    made_of : str
        Of a hub model that `convert` makes: the file in the hub's folder.
    beside : tuple of str
        Of such a model: further files that `convert` reads, of the same folder; `OWNER/NAME:FILE` of another one, which
        it finds in the hub's cache.
    megabytes : float or None
        Exact size of the plain file, the wheel or the hub model's weights; None where it is not known beforehand.
    sha256 : str or None
        Of the plain file, the wheel or the hub model's weights file, in hex; None where it is not known beforehand.
    licence : str
        Of the weights.
    used_by : str
        The config value that asks for it.
    optional : bool
        Of a built-in model: a release may come without it, and then does not know it.

    Raises
    ------
    ValueError
        Naming the field, if one does not fit the kind.
    """

    name: str
    kind: Literal["builtin", "hub", "file", "wheel", "own"]
    source: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    folder: str = ""
    wheel: str = ""
    convert: str = ""
    made_of: str = ""
    beside: tuple[str, ...] = ()
    megabytes: float | None = None
    sha256: str | None = None
    licence: str = "not stated"
    used_by: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.files and self.kind != "own":
            raise ValueError("files: is empty; name what has to be there")
        entries.check_inside("folder", self.folder)
        entries.check_inside("files", *self.files)
        entries.check_inside("made_of", self.made_of)
        for repository, file in self.besides:
            entries.check_inside("beside", file)
            if not (self.made_of and is_hub_id(repository)):
                raise ValueError(f"beside: {repository}:{file} is no OWNER/NAME:FILE of a model with made_of")
        if self.kind == "hub" and not (is_hub_id(self.source) and self.revision):
            problem = "revision: is missing" if is_hub_id(self.source) else f"source: {self.source!r} is no owner/name"
            raise ValueError(problem)
        if self.kind == "file" and not self.source.startswith(("https://", "http://")):
            raise ValueError(f"source: {self.source!r} is no URL")
        if self.kind == "file" and (len(self.files) > 1 or "/" in self.files[0]):
            raise ValueError("files: is not the one file's name")
        if self.kind == "wheel":
            if not re.fullmatch(r"[\w.-]+==[\w.]+", self.source):
                raise ValueError(f"source: {self.source!r} is no PACKAGE==VERSION")
            if not re.fullmatch(r"[\w.+-]+\.whl", self.wheel):
                raise ValueError(f"wheel: {self.wheel!r} is no wheel's file name")
            if self.sha256 is None:
                raise ValueError("sha256: is missing")
        if (self.kind == "wheel" or self.made_of) and not self.convert.startswith("blendbench."):
            raise ValueError(f"convert: {self.convert!r} is no function of blendbench")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: {self.sha256!r} is no SHA-256 in lower case")

    @property
    def besides(self) -> list[tuple[str, str]]:
        """Hub id and file of each of `beside`."""
        split = [one.rpartition(":") for one in self.beside]
        return [(repository or self.source, file) for repository, _, file in split]

    @property
    def origin(self) -> str:
        """Where it is from, in words; says so where no commit is pinned."""
        if self.kind == "builtin":
            return "built in"
        if self.kind in ("file", "wheel", "own"):
            return self.source
        return f"{self.source}@{self.revision}" + ("" if _COMMIT.fullmatch(self.revision or "") else " (not pinned)")

    @property
    def fetching(self) -> str:
        """What to type to get it."""
        if self.kind == "own":
            return f"put it back, or type `blendbench models add {self.name} PATH --as ...` again"
        return "install blendbench again" if self.kind == "builtin" else f"type `blendbench models fetch {self.name}`"


_COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a hub id, owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def models() -> dict[str, Model]:
    """Every model by name, in the order of their files' names; read once a process.

    Raises
    ------
    BlendbenchError
        If an entry is malformed, in one line that names file and key.
    """
    own, added = os.environ.get(OWN), own_entries()
    return _read(own, added if not own and added.is_dir() else None)


def own_entries() -> Path:
    """The folder of the user's entries."""
    own = os.environ.get(OWN)
    return Path(own).expanduser() if own else _converted() / "entries"


def _converted() -> Path:
    """The folder of what is made on this machine."""
    import torch

    return Path(torch.hub.get_dir()) / "blendbench"


def forget() -> None:
    """Read the entries again when they are next asked for."""
    _read.cache_clear()


@cache
def _read(own: str | None, added: Path | None) -> dict[str, Model]:
    found = entries.read_all("models", OWN, own, Model)
    if added is not None:
        found |= entries.read(added, Model)
    return {name: model for name, model in found.items() if not model.optional or place(model)}


def pinned(hub_id: str) -> str | None:
    """The revision that a hub model is known by here; None where there is none, or the id is another's."""
    found = [model.revision for model in models().values() if model.kind == "hub" and model.source == hub_id]
    return found[0] if found and found[0] != "main" else None


def known(name: str) -> Model:
    """A model by name; raises BlendbenchError if there is none."""
    if name not in models():
        raise BlendbenchError(f"no model {name!r}; there are {', '.join(models())}")
    return models()[name]


def find(name: str) -> Path:
    """The local file, or the folder of a built-in or hub model; never asks the network.

    Raises
    ------
    BlendbenchError
        If the name is unknown or something is missing, with what to type.
    """
    model = known(name)
    found = place(model)
    if found is None:
        raise BlendbenchError(f"{name} ({model.origin}): not here; {model.fetching}")
    patterns = () if model.kind == "file" or found.is_file() else model.files
    if missing := [pattern for pattern in patterns if not matching(found, pattern)]:
        raise BlendbenchError(f"{name}: {found} has no {missing[0]}; {model.fetching}")
    return found


def place(model: Model) -> Path | None:
    """Where the model lies, or None if it does not."""
    if model.kind == "own":
        own = Path(model.source).expanduser()
        return own if own.exists() else None
    if model.kind == "hub" and (made := converted(model)).is_dir():
        return made
    if model.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        marker = try_to_load_from_cache(model.source, model.files[0], revision=model.revision)
        return Path(marker).parent if isinstance(marker, str) else None
    found = package_folder("blendbench.assets") / model.source if model.kind == "builtin" else target(model)
    return found if found.exists() else None


def converted(model: Model) -> Path:
    """Where what is made of a model on this machine lies: of a wheel, or of a hub's pickled weights."""
    return _converted() / model.name


def target(model: Model) -> Path:
    """Where a plain file, or what is made of a wheel, lies once it is here."""
    return converted(model) if model.kind == "wheel" else _converted().parent / model.folder / model.files[0]


def own(name: str) -> Path | None:
    """The folder or file of a checkpoint that is named by a model's name, or by the hub id of a converted one.

    None where there is no such model, or, for a hub id, the hub's cache holds it as it is.
    """
    for model in models().values():
        if model.kind in ("own", "hub") and name == model.name:
            return place(model)
        if model.kind == "hub" and name == model.source and converted(model).is_dir():
            return converted(model)
    return None


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder that fit a pattern."""
    return [file for file in sorted(folder.glob(pattern)) if file.is_file()]
