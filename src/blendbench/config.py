"""Configuration: the schema of the keys, and building the objects that `_target_` names.

Configs are composed by Hydra from `conf/`; this module checks types and says in one line what is wrong with a key. The
keys below are those of every run. A task, and a metric, may bring further ones: its entry names a dataclass of them
under `keys`, whose `check` says what is out of range.
"""

import hashlib
import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blendbench.errors import BlendbenchError
from blendbench.resources import package_folder
from blendbench.store.signature import canonical


@dataclass
class StatisticsConfig:
    resamples: int = 1000
    confidence: float = 0.95
    over_n: list[int] = field(default_factory=list)
    fad_infinity: bool = False


@dataclass
class DataConfig:
    root: str = "data"
    path: str | None = None
    table: str | None = None
    music_path: str | None = None
    music_table: str | None = None
    follow_links: bool = False


@dataclass
class Config:
    """Types of the keys at the top of `conf/config.yaml`; groups hold what their `_target_` takes."""

    task: Any = None
    dataset: dict[str, Any] = field(default_factory=dict)
    music: Any = None
    prompts: Any = None
    method: Any = None
    generator: Any = None
    evaluator: Any = None
    judges: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    presentations: dict[str, Any] = field(default_factory=dict)
    experiment: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    executor: Any = None
    tracker: Any = None
    allow_targets: list[str] = field(default_factory=list)
    run_dir: str | None = None
    store_dir: str = "runs/store"
    limit: int | None = None
    seed: int = 0
    keep_images: bool = False
    report: bool = True
    batch: Any = "auto"
    device: str = "auto"
    threads: int | None = None
    dry_run: bool = False
    retry_failed: bool = False


def typed(settings: dict[str, Any]) -> Config:
    """The keys of every run as an object, from checked settings; what a task or a metric brings is not among them."""
    own = {one.name: settings[one.name] for one in fields(Config)}
    own |= {"statistics": StatisticsConfig(**own["statistics"]), "data": DataConfig(**own["data"])}
    return Config(**own)


logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # what it says is in the exception

Rule = tuple[str, bool, str]
"""A key, whether its value is in range, and what may stand there."""


def check(config: DictConfig) -> dict[str, Any]:
    """Check the composed config's types and ranges and return it resolved, as plain data.

    Raises
    ------
    BlendbenchError
        Naming the key, the value and what it must be.
    """
    try:
        whole = OmegaConf.to_container(config, resolve=False)
        assert isinstance(whole, dict)
        _refuse_first_judges(whole.get("judges") or {})
        further = _further_keys({str(key): value for key, value in whole.items()})
        checked = OmegaConf.merge(OmegaConf.structured(_joined([Config, *further])), config)
        OmegaConf.to_container(checked, resolve=True)  # also what is interpolated must be of its key's type
        merged = DictConfig(OmegaConf.to_container(checked, resolve=False))
        for keys in further:
            keys.tidy(merged)
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        text = str(error).strip().splitlines()[0]
        raise BlendbenchError(f"{key}: {text}; see `blendbench run --help`") from None
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    for key in ("dataset", "arms", "presentations", "metric"):
        for name, entry in settings[key].items():
            if not isinstance(name, str):
                raise BlendbenchError(f"{key}: the name {name!r} is no text; write it in quotes, or take another")
            if not isinstance(entry, dict | None):
                raise BlendbenchError(f"{key}.{name}: {entry!r} is not a group of keys; give {{...}}, or null for none")
    # What is left out by null; arms stay, since the names of default folders count them.
    for key in ("dataset", "presentations", "metric"):
        settings[key] = {name: entry for name, entry in settings[key].items() if entry is not None}
    given = typed(settings)
    ranges: list[Rule] = [
        ("seed", given.seed >= 0, "0 or more"),
        ("limit", given.limit is None or given.limit >= 1, "1 or more, or null for all"),
        ("threads", given.threads is None or given.threads >= 1, "1 or more, or null for torch's own"),
        ("batch", given.batch == "auto" or (type(given.batch) is int and given.batch >= 1), "1 or more, or auto"),
        ("statistics.resamples", given.statistics.resamples >= 1, "1 or more"),
    ]
    for keys in further:
        ranges += keys.check(settings)
    for key, sound, allowed in ranges:
        if not sound:
            raise BlendbenchError(f"{key}: {_value(settings, key)!r} is out of range; use {allowed}")
    for key, text in _labels(given):
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise BlendbenchError(f"{key}: {text!r} is no text; write it in quotes")
    return settings


def _refuse_first_judges(judges: dict[str, Any]) -> None:
    """Raise BlendbenchError for a further judge whose entry means the first one by `${evaluator.NAME}`."""
    for judge, entries in judges.items():
        for name, entry in (entries or {}).items():
            if isinstance(entry, str) and entry.startswith("${evaluator."):
                local = entry.replace("${evaluator.", "${.")
                raise BlendbenchError(
                    f"judges.{judge}.{name}: {entry} would be the first evaluator's; write {local} in its YAML"
                )


class Keys:
    """Base of the dataclasses of keys that a task or a metric brings."""

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """What must hold of the values, once they are tidied."""
        return []

    @staticmethod
    def tidy(settings: DictConfig) -> None:
        """Put values of the right type into their final form, in place, before other keys refer to them."""


def _further_keys(whole: dict[str, Any]) -> list[type[Keys]]:
    """The dataclasses that the task and the metrics name."""
    entries = {"task": whole.get("task")}
    entries |= {f"metric.{name}": entry for name, entry in (whole.get("metric") or {}).items()}
    found: dict[str, type[Keys]] = {}
    for key, entry in entries.items():
        if isinstance(entry, dict) and entry.get("keys"):
            found[entry["keys"]] = named(entry["keys"], f"{key}.keys", whole.get("allow_targets") or [])
    return list(found.values())


def _joined(classes: list[Any]) -> type:
    """A dataclass with the fields of several."""
    members = [(one.name, get_type_hints(kind)[one.name], one) for kind in classes for one in fields(kind)]
    return make_dataclass("Config", members)


def _labels(given: Config) -> Iterator[tuple[str, Any]]:
    """Keys and values of what tables and figures are written with; YAML takes a bare `1e3` or `no` for no text."""
    experiment = given.experiment or {}
    if "title" in experiment:
        yield "experiment.title", experiment["title"]
    yield from (("experiment.metrics", name) for name in experiment.get("metrics") or [])
    yield from ((f"experiment.rows.{arm}", label) for arm, label in (experiment.get("rows") or {}).items())
    shown = {name: entry for name, entry in given.presentations.items() if entry and "label" in entry}
    yield from ((f"presentations.{name}.label", entry["label"]) for name, entry in shown.items())


def literal(settings: Any) -> Any:
    """Settings of which OmegaConf takes every text as it stands: a resolved one may hold what begins like `${`."""
    if isinstance(settings, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", settings)
    if isinstance(settings, dict):
        return {key: literal(value) for key, value in settings.items()}
    return [literal(value) for value in settings] if isinstance(settings, list) else settings


def _value(settings: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


MOVED = {
    "blendbench.generators.Generator": "blendbench.models.generator.Generator",
    **{f"blendbench.figures.{name}": f"blendbench.figures.bnmusic.{name}" for name in (
        "difference_heatmaps", "metric_against_loudness", "stage1_images", "waveforms",
    )},
}  # fmt: skip
"""Targets by the names that they had when runs were named by hashes of settings which hold them."""


def brought_up(settings: DictConfig) -> DictConfig:
    """The settings of an older run with the task and the metrics that every run had before its settings said so."""
    if "task" in settings:
        return settings
    then = {"task": _shipped("task", "blend")["task"], "metric": _first_metrics()}
    merged = OmegaConf.merge(then, settings)
    assert isinstance(merged, DictConfig)
    return merged


def _shipped(group: str, name: str) -> dict[str, Any]:
    """A file of `conf/`, not resolved."""
    found: Any = OmegaConf.to_container(OmegaConf.load(package_folder("blendbench.conf") / group / f"{name}.yaml"))
    return dict(found)


def _first_metrics() -> dict[str, Any]:
    """The metrics that every run had, not resolved."""
    return {name: _shipped("metric", name)["metric"][name] for name in _FIRST_METRICS}


def named(target: Any, key: str, allowed: list[str]) -> Any:
    """What a dotted name stands for, if it lies in blendbench or in what the user allows.

    Raises
    ------
    BlendbenchError
        If it is no name, is not allowed, or cannot be imported.
    """
    if not isinstance(target, str):
        raise BlendbenchError(f"{key}: no _target_; choose one of the options of that group")
    target = MOVED.get(target, target)  # as in the settings of an older run
    if not any(target == prefix or target.startswith(prefix + ".") for prefix in ["blendbench", *allowed]):
        top = target.split(".")[0]
        where = key if key.endswith(".keys") else f"{key}._target_"
        raise BlendbenchError(
            f"{where}: {target} is not allowed; if you trust it, add allow_targets=[{top}], or --allow-targets {top} "
            "where a run's folder is named"
        )
    try:
        return get_object(target)
    except Exception as error:
        where = key if key.endswith(".keys") else f"{key}._target_"
        raise BlendbenchError(f"{where}: {target} cannot be imported ({_reason(error)})") from error


def build(settings: dict[str, Any], key: str, allowed: list[str], /, **extra: Any) -> Any:
    """Call what `_target_` names with the other entries, or, with `_partial_`, make ready to be called.

    An entry that has a `_target_` itself, as the method that a method builds on, is built before.

    Raises
    ------
    BlendbenchError
        If the target is missing, not allowed or unknown, or does not take an entry.
    """
    entries = {name: value for name, value in settings.items() if name not in ("_target_", "_partial_", "keys")}
    for name, value in entries.items():
        if isinstance(value, dict) and "_target_" in value:
            entries[name] = build(value, f"{key}.{name}", allowed)
    function = named(settings.get("_target_"), key, allowed)
    try:
        if settings.get("_partial_"):
            inspect.signature(function).bind(**entries, **extra)
            return partial(function, **entries, **extra)
        return function(**entries, **extra)
    except TypeError as error:
        raise BlendbenchError(f"{key}: {_first_line(error)}; mend that entry") from error


def rule_text(settings: dict[str, Any]) -> str:
    """The paragraph "The rule: ..." of what `_target_` names, in one line; "" where it has none."""
    try:
        text = get_object(settings["_target_"]).__doc__ or ""
    except Exception:
        return ""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return next((part.removeprefix("The rule: ") for part in paragraphs if part.startswith("The rule: ")), "")


def _reason(error: BaseException) -> str:
    """Why something cannot be imported: the innermost cause, as Hydra's text begins with what it tried."""
    while (cause := error.__cause__) is not None:
        error = cause
    if isinstance(error, ModuleNotFoundError) and error.name:
        module, _, name = error.name.rpartition(".")
        if str(error).endswith("is not a package"):
            return f"{module} has no {name}"
        return f"{_first_line(error)}; is the folder that holds it in PYTHONPATH?"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_PLACES = {
    "run_dir", "store_dir", "batch", "device", "data", "keep_images", "report", "tracker", "executor", "dry_run",
    "retry_failed", "threads",
}  # fmt: skip
_OFFERED = ("controlnet", "pix2pix")
"""Entries of a generator for the methods that take them; what an arm takes stands in the arm's own entry."""
_FIRST_TASK = "blendbench.tasks.blend.task.Blend"
_FIRST_METRICS = ("fad", "kl", "clap", "audibility")
"""What every run had when its folder was named by a hash of settings that did not say so."""


def _counted(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that name a default run folder, as runs were named before there were tasks and metrics in them."""
    counted = {name: value for name, value in settings.items() if name not in _PLACES}
    if not counted.get("judges"):
        counted.pop("judges", None)
    if isinstance(counted.get("generator"), dict):
        counted["generator"] = {name: value for name, value in counted["generator"].items() if name not in _OFFERED}
    if (counted.get("task") or {}).get("_target_") == _FIRST_TASK:
        del counted["task"]
        others = {name: value for name, value in settings.items() if name != "metric"}
        first: Any = OmegaConf.to_container(
            OmegaConf.create(literal(others) | {"metric": _first_metrics()}), resolve=True
        )
        if counted.get("metric") == first["metric"]:
            del counted["metric"]
    return {name: _as_named_then(value) for name, value in counted.items()}


def _as_named_then(settings: Any) -> Any:
    """Settings in which a moved target has its old name."""
    then = {new: old for old, new in MOVED.items()}
    if isinstance(settings, dict):
        return {
            key: then.get(value, value) if key == "_target_" else _as_named_then(value)
            for key, value in settings.items()
        }
    return [_as_named_then(value) for value in settings] if isinstance(settings, list) else settings


def digest(settings: dict[str, Any]) -> str:
    """Eight hex digits of the settings, for the default run folder; places and speed settings do not count."""
    return hashlib.sha256(canonical(_counted(settings)).encode()).hexdigest()[:8]


def run_dir_of(settings: dict[str, Any]) -> Path:
    """`run_dir`, or `runs/EXPERIMENT-DATASETS-HASH`: the same command finds its own folder again."""
    given = typed(settings)
    if given.run_dir:
        return Path(given.run_dir)
    name = given.experiment["name"].replace("/", "-")
    return Path("runs") / f"{name}-{'-'.join(given.dataset)}-{digest(settings)}"
