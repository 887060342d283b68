"""The keys of the configuration that the degradation task brings; imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule


@dataclass
class DegradationConfig:
    seconds: float = 5.0
    other_genre: str = "Classical"


@dataclass
class DegradationKeys(Keys):
    """The key `degradation`."""

    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """Clips that a loudness can be measured of."""
        seconds = settings["degradation"]["seconds"]
        return [("degradation.seconds", 0.5 <= seconds <= 600, "0.5 to 600 seconds")]
