"""The keys of the configuration that the long-gap task brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule

CORPORA = ("track", "others", "both", "none")


@dataclass
class GapConfig:
    window: int = 262_144
    start: int = 85_197
    stop: int = 176_947
    corpus: str = "track"


@dataclass
class LongGapKeys(Keys):
    """The key `gap`."""

    gap: GapConfig = field(default_factory=GapConfig)

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
