"""The keys of the configuration that metrics bring; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule


@dataclass
class KLConfig:
    direction: str = "ref||gen"
    epsilon: float = 1e-6
    activation: str = "softmax"
    pairing: str = "genre"


@dataclass
class KLKeys(Keys):
    """The key `kl`."""

    kl: KLConfig = field(default_factory=KLConfig)

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """Words that KL knows."""
        kl = settings["kl"]
        return [
            ("kl.pairing", kl["pairing"] in ("genre", "source", "random"), "genre, source or random"),
            ("kl.direction", kl["direction"] in ("ref||gen", "gen||ref"), "'ref||gen' or 'gen||ref'"),
            ("kl.activation", kl["activation"] in ("softmax", "sigmoid"), "softmax or sigmoid"),
        ]
