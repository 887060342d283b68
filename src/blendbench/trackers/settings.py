"""The config group `tracker`."""

from dataclasses import dataclass, fields
from typing import Any

from blendbench.errors import BlendbenchError

MODES = ("auto", "offline", "online", "disabled")


@dataclass
class TrackerConfig:
    """The config group `tracker`.

    Parameters
    ----------
    mode : {"disabled", "auto", "offline", "online"}
        "auto" is online if a log-in is at hand and WANDB_MODE does not say otherwise, else offline.
    project : str
    entity : str or None
        User or team; None leaves it to W&B.
    group : str
        Runs of the same name stand together; a sweep's runs share one.
    media_pairs : int
        Items whose sound and images are shown, the first in the run's order.
    timeout_s : float
        Seconds in which W&B must have started, a server's answer included.
    limit_s : float
        Seconds for all of it, the upload included.
    """

    mode: str = "disabled"
    project: str = "blendbench"
    entity: str | None = None
    group: str = ""
    media_pairs: int = 20
    timeout_s: float = 30.0
    limit_s: float = 600.0


def check(settings: dict[str, Any]) -> TrackerConfig:
    """The settings' tracker.

    Raises
    ------
    BlendbenchError
        If a key is unknown or a value out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    entries = settings.get("tracker") or {}
    if not isinstance(entries, dict):
        raise BlendbenchError(f"tracker: {entries!r} is no tracker; use disabled or wandb")
    known = [field.name for field in fields(TrackerConfig)]
    for name in entries:
        if name not in known:
            raise BlendbenchError(f"tracker.{name}: no such key; there are {', '.join(known)}")
    try:
        tracker: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrackerConfig), entries))
    except OmegaConfBaseException as error:
        text = str(error).strip().splitlines()[0]
        raise BlendbenchError(
            f"tracker.{getattr(error, 'full_key', None)}: {text}; see `blendbench run --help`"
        ) from None
    ranges = [
        ("mode", tracker.mode in MODES, ", ".join(MODES)),
        ("media_pairs", tracker.media_pairs >= 0, "0 or more"),
        ("timeout_s", tracker.timeout_s > 0, "seconds above 0"),
        ("limit_s", tracker.limit_s > 0, "seconds above 0"),
    ]
    for name, sound, allowed in ranges:
        if not sound:
            raise BlendbenchError(f"tracker.{name}: {entries[name]!r} is out of range; use {allowed}")
    return tracker
