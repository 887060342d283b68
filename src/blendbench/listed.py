"""`blendbench list`: all that there is to choose from, ours and one's own, and whether what it needs is here.

Whatever lies as YAML in a group of `conf/`, or of a folder given by `--config-dir`, is listed; its text is the file's
first comment, or the first line of the docstring of what its `_target_` names.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from blendbench import config
from blendbench.composing import compose
from blendbench.errors import BlendbenchError, UsageError, one_line
from blendbench.resources import package_folder
from blendbench.texts import short
from blendbench.usage import Parser

GROUPS = {
    "tasks": "task", "methods": "method", "presentations": "presentation", "metrics": "metric",
    "evaluators": "evaluator", "datasets": "dataset", "music": "music", "prompts": "prompts",
    "generators": "generator", "experiments": "experiment", "executors": "executor", "trackers": "tracker",
    "trainings": "training",
}  # fmt: skip
"""Kinds by the word of the command line, each with its group in `conf/`."""
MODELS = "models"


@dataclass(frozen=True)
class Entry:
    """One of a kind.

    Attributes
    ----------
    kind, name : str
        A word of `GROUPS`, or "models", and the value that chooses it.
    text : str
        What it is.
    own : bool
        Whether it lies in a folder of the user's.
    takes, uses : list of str
        Of a method: what it is handed, and what it borrows.
    tasks : list of str
        Of a method: those that give what it takes.
    here : bool or None
        Whether what it needs (weights, data, libraries) is here; None where it needs nothing, or that cannot be told.
    found : str
        What was found, or what is missing and the remedy.
    """

    kind: str
    name: str
    text: str
    own: bool = False
    takes: list[str] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    here: bool | None = None
    found: str = ""

    @property
    def line(self) -> str:
        """What is printed."""
        mark = {True: "ok  ", False: "--  ", None: "    "}[self.here]
        told = [self.text]
        if self.kind == "methods":
            told.append(f"takes {', '.join(self.takes) or 'nothing'}" + (f" ({', '.join(self.tasks)})"))
            told += [f"borrows {', '.join(self.uses)}"] if self.uses else []
        told += [self.found] if self.found else []
        return f"{mark}{self.name:<28} {'; '.join(one for one in told if one)}"


class Lister:
    """Lists kinds.

    Parameters
    ----------
    words : sequence of str
        Overrides, such as data.root=DIR.
    folders : sequence of Path
        The user's folders of configuration, laid out as `conf/`.
    allowed : sequence of str
        Modules besides blendbench that a `_target_` may name.
    """

    def __init__(self, words: Sequence[str], folders: Sequence[Path], allowed: Sequence[str]) -> None:
        self.folders, self.allowed = list(folders), list(allowed)
        self._words = [*words, *([f"allow_targets=[{','.join(allowed)}]"] if allowed else [])]

    def of(self, kind: str) -> Iterator[Entry]:
        """Entries of a kind, in the order of their names."""
        if kind == MODELS:
            yield from self._models()
            return
        for name, (file, own) in sorted(self._files(GROUPS[kind]).items()):
            yield self._entry(kind, name, file, own)

    def _files(self, group: str) -> dict[str, tuple[Path, bool]]:
        """Files of a group by the value that chooses them; the user's own come before ours of the same name."""
        found = {}
        ours = package_folder("blendbench.conf")
        for folder, own in [(ours, False), *((folder, True) for folder in self.folders)]:
            for file in sorted((folder / group).rglob("*.yaml")):
                found[file.relative_to(folder / group).with_suffix("").as_posix()] = (file, own)
        return found

    def _entry(self, kind: str, name: str, file: Path, own: bool) -> Entry:
        from omegaconf import OmegaConf

        facts: dict[str, Any] = {}
        try:
            loaded = OmegaConf.load(file)
            whole = self._whole("method", loaded) if kind == "methods" else OmegaConf.to_container(loaded)
            targets = list(_targets(whole))
        except Exception as error:  # a file of the user's may hold anything
            return Entry(kind, name, "", own, here=False, found=f"{file}: cannot be read ({_first(error)}); mend it")
        text = _comment(file) or self._docstring(targets)
        with suppress(BlendbenchError):
            if kind == "methods" and targets:
                facts = self._declared(targets[0], loaded)
        here, found = None, ""
        try:
            here, found = self._needs(kind, name, loaded, facts.get("tasks", []), own)
        except BlendbenchError as error:
            here, found = False, one_line(str(error))
        except Exception as error:  # an own class may raise anything
            here, found = False, f"{type(error).__name__}: {_first(error)}"
        return Entry(kind, name, text, own, **facts, here=here, found=found)

    def _docstring(self, targets: Sequence[str]) -> str:
        for target in targets:
            with suppress(BlendbenchError):
                doc = config.named(target, target, self.allowed).__doc__ or ""
                return doc.strip().splitlines()[0] if doc.strip() else ""
        return ""

    def _declared(self, target: str, loaded: Any) -> dict[str, Any]:
        """What a method takes and borrows, and which tasks give that; of one that builds on another, by its entry."""
        method = config.named(target, "method", self.allowed)
        if not hasattr(method, "takes"):
            for task in self._files("task"):  # whose keys the entry may refer to
                with suppress(Exception):  # an own class may raise anything
                    method = config.build(self._resolved("method", loaded, task), "method", self.allowed)
                    break
        takes, uses = list(getattr(method, "takes", ())), list(getattr(method, "uses", ()))
        tasks = [name for name, (gives, lends) in self._offers.items() if gives >= set(takes) and lends >= set(uses)]
        return {"takes": takes, "uses": uses, "tasks": tasks}

    @cached_property
    def _offers(self) -> dict[str, tuple[set[str], set[str]]]:
        """What every task gives to methods, and what a run of it lends them."""
        from blendbench.runs.folder import Run

        found = {}
        for name in self._files("task"):
            with suppress(BlendbenchError):
                run = Run(Path(), self._base(name))
                lent = {"generator"} if run.given.generator else set()
                found[name] = (set(run.task.gives), lent | set(run.task.lends()))
        return found

    @lru_cache(maxsize=32)  # noqa: B019 - a lister lives as long as its command
    def _base(self, task: str) -> dict[str, Any]:
        """The checked configuration of a task."""
        return compose([f"task={task}", *self._words], self.folders)

    def _needs(self, kind: str, name: str, loaded: Any, tasks: Sequence[str], own: bool) -> tuple[bool | None, str]:
        """Whether what an entry needs is here, and what was found; raises BlendbenchError where it is not."""
        if kind in ("datasets", "music"):
            return self._clips(kind, self._resolved(GROUPS[kind], loaded))
        if kind in ("evaluators", "generators"):
            entry = self._resolved(GROUPS[kind], loaded)
            for key, one in {"": entry}.items() if "_target_" in entry else entry.items():
                if one is not None:
                    config.build(one, f"{kind} {key}".strip(), self.allowed).signature()
            return True, ""
        if kind == "methods" and tasks:
            entry = self._resolved("method", loaded, tasks[0])
            if "???" not in str(entry):
                config.build(entry, f"method {name}", self.allowed).signature()
                return True, ""
        from omegaconf import OmegaConf

        if own:  # ours are there
            for target in _targets(OmegaConf.to_container(loaded)):
                config.named(target, f"{GROUPS[kind]} {name}", self.allowed)
        return None, ""

    def _resolved(self, group: str, loaded: Any, task: str = "blend") -> dict[str, Any]:
        """A file's entries with all that they refer to."""
        from omegaconf import OmegaConf

        whole = OmegaConf.create(config.literal(self._base(task)))
        whole[group] = self._whole(group, loaded)
        resolved: Any = OmegaConf.to_container(whole, resolve=True)
        return dict(resolved[group])

    def _whole(self, group: str, loaded: Any) -> Any:
        """A file's entries with those of the files that its defaults name, and of theirs."""
        from omegaconf import OmegaConf

        plain: Any = OmegaConf.to_container(loaded)
        for word in plain.pop("defaults", []):
            if isinstance(word, str) and word != "_self_":
                base = self._whole(group, OmegaConf.load(self._files(group)[word][0]))
                plain = OmegaConf.to_container(OmegaConf.merge(base, plain))
            elif isinstance(word, dict):  # an option of another group below a key: /method@of: bnmusic
                ((place, chosen),) = word.items()
                other, _, key = place.removeprefix("/").partition("@")
                plain[key] = self._whole(other, OmegaConf.load(self._files(other)[chosen][0]))
        return plain

    def _clips(self, kind: str, entry: dict[str, Any]) -> tuple[bool, str]:
        from blendbench.datasets import manifests

        entries = {"music": entry} if kind == "music" else {f"dataset.{name}": one for name, one in entry.items()}
        told = []
        for key, one in entries.items():
            found = manifests.data_set(one, key, self.allowed)
            told.append(f"{len(found.clips)} clips" + (f" ({found.note})" if found.note else ""))
        return True, ", ".join(told)

    @staticmethod
    def _models() -> Iterator[Entry]:
        from blendbench.models import fetch

        for check in fetch.checks():
            name = check.name.removeprefix("model ")
            found = check.found if check.sound else f"{check.found}; {check.remedy}"
            yield Entry(MODELS, name, "", here=check.sound, found=found)


def _targets(entry: Any) -> Iterator[str]:
    """Every `_target_` in nested entries."""
    if isinstance(entry, dict):
        if isinstance(entry.get("_target_"), str):
            yield entry["_target_"]
        for value in entry.values():
            yield from _targets(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _targets(value)


def _comment(file: Path) -> str:
    """The first sentence of a file's first comment."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").rstrip())
    return re.split(r"(?<!Fig)\. ", " ".join(words))[0].rstrip(".")


def _first(error: BaseException) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    kinds = [*GROUPS, MODELS]
    parser = Parser(
        prog="blendbench list",
        description="All that there is to choose from, ours and your own, and whether what it needs is here.",
    )
    parser.add_argument("words", nargs="*", metavar="KIND or key=value", help=f"{', '.join(kinds)}; all if left out")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a kind with lists of entries")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], metavar="DIR", help="your own conf/")
    parser.add_argument("--allow-targets", action="append", default=[], metavar="MODULE", help="a module of your own")
    given = parser.parse_intermixed_args(arguments)
    asked = [word for word in given.words if "=" not in word]
    for word in asked:
        if word not in kinds:
            raise UsageError(f"list: no kind {word!r}; there are {', '.join(kinds)}")
    for folder in given.config_dir:
        if not folder.is_dir():
            raise UsageError(f"--config-dir {folder}: no such folder")
    words = [word for word in given.words if "=" in word]
    lister = Lister(words, [folder.absolute() for folder in given.config_dir], given.allow_targets)
    found = {kind: list(lister.of(kind)) for kind in asked or kinds}
    if given.json:
        print(json.dumps({kind: [asdict(one) for one in entries] for kind, entries in found.items()}, indent=1))
        return 0
    for number, (kind, entries) in enumerate(found.items()):
        if len(found) > 1:
            print(("\n" if number else "") + kind)
        for entry in entries:
            print(short(entry.line, 400))
    return 0
