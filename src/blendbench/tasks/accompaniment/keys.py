"""The keys of the configuration that accompaniment brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule

REFERENCES = ("target_roundtrip", "background")


@dataclass
class AccompanimentConfig:
    seconds: float | None = 5.11
    lufs: float = -18.0
    separator: str = "pocket"
    reference: str = "target_roundtrip"


@dataclass
class AccompanimentKeys(Keys):
    """The key `accompaniment`."""

    accompaniment: AccompanimentConfig = field(default_factory=AccompanimentConfig)

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """A length that an image takes, a loudness, a reference that is known."""
        own = settings["accompaniment"]
        seconds, reference = own["seconds"], own["reference"]
        return [
            ("accompaniment.seconds", seconds is None or seconds >= 1, "1 second or more, or null for whole files"),
            ("accompaniment.lufs", -70 < own["lufs"] <= 0, "a loudness above -70 and at most 0"),
            ("accompaniment.reference", reference in REFERENCES, ", ".join(REFERENCES)),
        ]
