"""The configuration composed by Hydra and checked; a wrong key or value is one line."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blendbench.errors import BlendbenchError, UsageError


def compose(overrides: list[str], folders: Sequence[Path] = ()) -> dict:
    """Compose and check the configuration; a wrong key or value is one line.

    Parameters
    ----------
    overrides : list of str
        Words `key=value`.
    folders : sequence of Path
        Folders of configuration, laid out as `conf/`, in which groups are looked for, too.

    Raises
    ------
    UsageError
        Naming the key, what is wrong, and what there is.
    """
    from hydra import initialize_config_module

    overrides = with_judges(overrides)
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"{word!r} is not key=value; see `blendbench run --help`")
    with initialize_config_module("blendbench.conf", version_base="1.3"):
        further = ",".join(f'"file://{folder.absolute()}"' for folder in folders)
        return compose_here([*overrides, *([f"hydra.searchpath=[{further}]"] if folders else [])])


def with_judges(words: Sequence[str]) -> list[str]:
    """Words for Hydra, in which `evaluator=[first,second]` asks both: Hydra would let the second replace the first."""
    made: list[str] = []
    for word in words:
        several = re.fullmatch(r"evaluator=\[(.*)\]", word)
        if several is None:
            made.append(word)
            continue
        names = [name.strip() for name in several[1].split(",")]
        if not all(re.fullmatch(r"[\w.-]+", name) for name in names) or len(set(names)) < len(names):
            raise UsageError(f"{word!r}: give names of evaluators, each once, such as evaluator=[pocket,musicnn]")
        made += [f"evaluator={names[0]}", *(f"+evaluator@judges.{name}={name}" for name in names[1:])]
    return made


def compose_here(overrides: list[str]) -> dict:
    """As `compose`, with the config folders of the Hydra that runs."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        composed = hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(explain(error)) from error
    return checked(composed)


def checked(composed: Any) -> dict:
    from blendbench import config
    from blendbench.trackers.settings import check

    try:
        settings = config.check(composed)
        if "_target_" not in (settings["tracker"] or {}):  # another tracker has keys of its own
            settings["tracker"] = asdict(check(settings))
        return settings
    except BlendbenchError as error:
        raise UsageError(str(error)) from error


def explain(error: Exception, command: str = "run") -> str:
    """One line out of Hydra's message: the override that it is about, its first sentence, and the options it lists."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if mark := getattr(error, "problem_mark", None):  # of a file that is no YAML
        place = f"{mark.name.removeprefix('file://')}, line {mark.line + 1}"
        return f"{place}: no YAML ({getattr(error, 'problem', None) or lines[0]}); mend that line"
    text = lines[0].rstrip(".:")
    if (override := getattr(error, "override", None)) and override not in text:
        text = f"{override!r}: {text}"
    cause = str(error.__cause__).splitlines()[0].strip() if error.__cause__ is not None else ""
    if cause and cause not in text:
        text += f" ({cause})"
    if text.startswith("Multiple values for ") and "experiment" not in text:
        text = f"{text.split('. ')[0]}; give them in one word, such as '+metric=[first,second]'"
    if "Available options" in str(error):
        start = next(i for i, line in enumerate(lines) if line.startswith("Available options"))
        end = next((i for i, line in enumerate(lines) if line.startswith("Config search path")), len(lines))
        text += f"; there are {', '.join(lines[start + 1 : end])}"
    elif "Could not find 'experiment" in text:
        from blendbench.resources import package_folder

        folder = package_folder("blendbench.conf") / "experiment"
        names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("*/*.yaml"))
        text += f"; there are {', '.join(names)}"
    return f"{text}; see `blendbench {command} --help`"


def composer_of(overrides: list[str]) -> Callable[[list[str]], dict]:
    """Composes the configuration of further overrides."""
    return lambda words: compose([*words, *overrides])
