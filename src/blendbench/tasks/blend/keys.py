"""The keys of the configuration that the blend task brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from blendbench.config import Keys, Rule


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
    seconds: float | None = 5.0
    lufs: float = -18.0
    short_clip: str = "loop"
    channel: Any = None


@dataclass
class BlendKeys(Keys):
    """The keys `noise`, `mask` and `amplification`."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    amplification: AmplificationConfig = field(default_factory=AmplificationConfig)

    @staticmethod
    def tidy(settings: DictConfig) -> None:
        """Sides become channels; `noise.channel` came after runs were named by hashes, so it goes where it is null."""
        channel = settings.noise.channel
        if isinstance(channel, str):
            settings.noise.channel = _SIDES.get(channel, channel)
        if settings.noise.channel is None:
            del settings.noise["channel"]

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """One mel image at most, and a loudness that a clip can have."""
        noise = settings["noise"]
        channel = noise.get("channel")
        whole = channel is None or (type(channel) is int and channel >= 0)
        return [
            (
                "noise.seconds",
                noise["seconds"] is None or 0.4 <= noise["seconds"] <= _MOST_SECONDS,
                f"0.4 to {_MOST_SECONDS}, or null for whole files",
            ),
            ("noise.lufs", -70 < noise["lufs"] <= 0, "above -70, at most 0"),
            ("noise.channel", whole, "0, 1, ..., left or right, or null for the mean"),
            ("noise.short_clip", noise["short_clip"] in ("loop", "context"), "loop or context"),
        ]


_MOST_SECONDS = 3600
"""A run holds each noise in memory; `blendbench blend` does not."""
_SIDES = {"left": 0, "right": 1}
