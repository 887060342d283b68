"""The keys of the configuration that the long-gap task brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from blendbench.config import Keys, Rule

_RATE = 44_100
CORPORA = ("track", "others", "both", "none")


@dataclass
class GapConfig:
    window: int = 262_144
    start: int = 85_197
    stop: int = 176_947
    seconds: float | None = None
    corpus: str = "track"


@dataclass
class PriorConfig:
    checkpoint: str = "pocket"
    network: bool = True


@dataclass
class LongGapKeys(Keys):
    """The keys `gap` and `prior`."""

    gap: GapConfig = field(default_factory=GapConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    @staticmethod
    def tidy(settings: DictConfig) -> None:
        """`gap.seconds` is another way to say start and stop, which alone go on."""
        gap, seconds = settings.gap, settings.gap.pop("seconds", None)
        if seconds is not None and seconds * _RATE < gap.window:
            length = round(seconds * _RATE)
            gap.start = (gap.window - length) // 2
            gap.stop = gap.start + length
        elif seconds is not None:
            gap.stop = gap.window

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """A gap inside the window, with context on both sides."""
        gap = settings["gap"]
        return [
            ("gap.window", gap["window"] >= 3, "3 samples or more"),
            ("gap.start", 0 < gap["start"] < gap["stop"], "1 or more, before gap.stop"),
            ("gap.stop", gap["stop"] < gap["window"], "a place before the window's end"),
            ("gap.corpus", gap["corpus"] in CORPORA, ", ".join(CORPORA)),
        ]
