"""Configuration: the schema of the keys, and building the objects that `_target_` names.

Configs are composed by Hydra from `conf/`; this module checks types and says in one line what is wrong with a key.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blendbench import tracking
from blendbench.errors import BlendbenchError
from blendbench.store import canonical


@dataclass
class MaskConfig:
    core_fraction: float = 0.15
    pixel_threshold: float | None = None
    inpaint_fraction: float = 0.20
    inpaint_threshold: float | None = None
    latent_reduce: str = "nearest"


@dataclass
class AmplificationConfig:
    alpha: float = 0.14
    smr_db: float = 21.0
    min_gain_db: float | None = 0.0
    max_gain_db: float | None = 6.0
    solver: str = "exact"


@dataclass
class NoiseConfig:
    seconds: float = 5.0
    lufs: float = -18.0
    short_clip: str = "loop"
    channel: Any = None


@dataclass
class KLConfig:
    direction: str = "ref||gen"
    epsilon: float = 1e-6
    activation: str = "softmax"
    pairing: str = "genre"


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

    dataset: dict[str, Any] = field(default_factory=dict)
    music: Any = None
    prompts: Any = None
    method: Any = None
    generator: Any = None
    evaluator: Any = None
    arms: dict[str, Any] = field(default_factory=dict)
    presentations: dict[str, Any] = field(default_factory=dict)
    experiment: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    amplification: AmplificationConfig = field(default_factory=AmplificationConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    executor: Any = None
    tracker: tracking.TrackerConfig = field(default_factory=tracking.TrackerConfig)
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


def check(config: DictConfig) -> dict[str, Any]:
    """Check the composed config's types and ranges and return it resolved, as plain data.

    Raises
    ------
    BlendbenchError
        Naming the key, the value and what it must be.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), config)
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        text = str(error).strip().splitlines()[0]
        raise BlendbenchError(f"{key}: {text}; see `blendbench run --help`") from None
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    for key in ("dataset", "arms", "presentations"):
        for name, entry in settings[key].items():
            if not isinstance(entry, dict | None):
                raise BlendbenchError(f"{key}.{name}: {entry!r} is not a group of keys; give {{...}}, or null for none")
    # What is left out by null; arms stay, since the names of default folders count them.
    for key in ("dataset", "presentations"):
        settings[key] = {name: entry for name, entry in settings[key].items() if entry is not None}
    batch = settings["batch"]
    ranges = [
        ("seed", settings["seed"] >= 0, "0 or more"),
        ("limit", settings["limit"] is None or settings["limit"] >= 1, "1 or more, or null for all"),
        ("threads", settings["threads"] is None or settings["threads"] >= 1, "1 or more, or null for torch's own"),
        ("batch", batch == "auto" or (type(batch) is int and batch >= 1), "1 or more, or auto"),
        ("noise.seconds", 0.4 <= settings["noise"]["seconds"] <= 5.11, "0.4 to 5.11 (one mel image)"),
        ("noise.lufs", -70 < settings["noise"]["lufs"] <= 0, "above -70, at most 0"),
        ("noise.channel", _is_channel(settings["noise"]["channel"]), "0, 1, ..., left or right, or null for the mean"),
        ("noise.short_clip", settings["noise"]["short_clip"] in ("loop", "context"), "loop or context"),
        ("kl.pairing", settings["kl"]["pairing"] in ("genre", "random"), "genre or random"),
        ("kl.direction", settings["kl"]["direction"] in ("ref||gen", "gen||ref"), "'ref||gen' or 'gen||ref'"),
        ("kl.activation", settings["kl"]["activation"] in ("softmax", "sigmoid"), "softmax or sigmoid"),
        ("statistics.resamples", settings["statistics"]["resamples"] >= 1, "1 or more"),
    ]
    for key, sound, allowed in ranges:
        if not sound:
            raise BlendbenchError(f"{key}: {_value(settings, key)!r} is out of range; use {allowed}")
    for key, text in _labels(settings):
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise BlendbenchError(f"{key}: {text!r} is no text; write it in quotes")
    tracking.check(settings)
    noise = settings["noise"]
    noise["channel"] = _SIDES.get(noise["channel"], noise["channel"])
    return _without_later_keys(settings)


_SIDES = {"left": 0, "right": 1}
_LATER_KEYS = (("noise", "channel"),)
"""Keys that came after runs and stores had been named by hashes of the settings."""


def _is_channel(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in _SIDES) or (type(value) is int and value >= 0)


def _without_later_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without such keys of `_LATER_KEYS` as are null: what they do not change keeps its hash."""
    for group, key in _LATER_KEYS:
        if settings[group][key] is None:
            del settings[group][key]
    return settings


def _labels(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of what tables and figures are written with; YAML takes a bare `1e3` or `no` for no text."""
    experiment = settings["experiment"] or {}
    if "title" in experiment:
        yield "experiment.title", experiment["title"]
    yield from ((f"experiment.rows.{arm}", label) for arm, label in (experiment.get("rows") or {}).items())
    shown = {name: entry for name, entry in settings["presentations"].items() if entry and "label" in entry}
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


def build(settings: dict[str, Any], key: str, allowed: list[str], /, **extra: Any) -> Any:
    """Call what `_target_` names with the other entries, if it lies in blendbench or in what the user allows.

    Raises
    ------
    BlendbenchError
        If the target is missing, not allowed or unknown, or does not take an entry.
    """
    entries = {name: value for name, value in settings.items() if name != "_target_"}
    target = settings.get("_target_")
    if not isinstance(target, str):
        raise BlendbenchError(f"{key}: no _target_; choose one of the options of that group")
    if not any(target == prefix or target.startswith(prefix + ".") for prefix in ["blendbench", *allowed]):
        top = target.split(".")[0]
        raise BlendbenchError(f"{key}._target_: {target} is not allowed; add allow_targets=[{top}] if you trust it")
    try:
        function = get_object(target)
    except Exception as error:
        raise BlendbenchError(f"{key}._target_: {target} cannot be imported ({_first_line(error)})") from error
    try:
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_PLACES = {
    "run_dir", "store_dir", "batch", "device", "data", "keep_images", "report", "tracker", "executor", "dry_run",
    "retry_failed", "threads",
}  # fmt: skip


def digest(settings: dict[str, Any]) -> str:
    """Eight hex digits of the settings, for the default run folder; places and speed settings do not count."""
    counted = {name: value for name, value in settings.items() if name not in _PLACES}
    return hashlib.sha256(canonical(counted).encode()).hexdigest()[:8]


def run_dir_of(settings: dict[str, Any]) -> Path:
    """`run_dir`, or `runs/EXPERIMENT-DATASETS-HASH`: the same command finds its own folder again."""
    if settings["run_dir"]:
        return Path(settings["run_dir"])
    name = settings["experiment"]["name"].replace("/", "-")
    return Path("runs") / f"{name}-{'-'.join(settings['dataset'])}-{digest(settings)}"
