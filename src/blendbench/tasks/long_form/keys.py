"""The keys of the configuration that the long-form task brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule


@dataclass
class FormConfig:
    seconds: float = 11.888
    channels: int = 1
    gap_start: float | None = None
    gap_stop: float | None = None
    repeats: int = 1


@dataclass
class MsaniiConfig:
    checkpoint: str = "pocket"
    dtype: str = "float32"


@dataclass
class LongFormKeys(Keys):
    """The keys `form` and `msanii`."""

    form: FormConfig = field(default_factory=FormConfig)
    msanii: MsaniiConfig = field(default_factory=MsaniiConfig)

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """A length, channels, and a gap inside the recording."""
        form = settings["form"]
        start, stop = form["gap_start"], form["gap_stop"]
        inside = (start is None) == (stop is None) and (start is None or 0 < start < stop < form["seconds"])
        return [
            ("form.seconds", form["seconds"] >= 0.1, "0.1 seconds or more"),
            ("form.channels", form["channels"] in (1, 2), "1 or 2"),
            ("form.gap_start", inside, "above 0 and below form.gap_stop, which lies before form.seconds; or both null"),
            ("form.repeats", form["repeats"] >= 1, "1 or more"),
        ]
