"""The keys of the configuration that image_text brings; imports nothing heavy, as every command reads it."""

from dataclasses import dataclass, field
from typing import Any

from blendbench.config import Keys, Rule

FITS = ("stretch", "crop", "pad")
MISSING = ("fail", "text_only")


@dataclass
class ImageConfig:
    size: int = 512
    fit: str = "stretch"
    missing: str = "fail"


@dataclass
class SceneConfig:
    seconds: float = 5.11
    lufs: float = -18.0


@dataclass
class ImageTextKeys(Keys):
    """The keys `image` and `scene`."""

    image: ImageConfig = field(default_factory=ImageConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)

    @staticmethod
    def check(settings: dict[str, Any]) -> list[Rule]:
        """A size that memory holds, a way to fit, a length, a loudness."""
        image, scene = settings["image"], settings["scene"]
        return [
            ("image.size", 32 <= image["size"] <= 4096, "pixels from 32 to 4096"),
            ("image.fit", image["fit"] in FITS, ", ".join(FITS)),
            ("image.missing", image["missing"] in MISSING, ", ".join(MISSING)),
            ("scene.seconds", 1 <= scene["seconds"] <= 600, "1 to 600 seconds"),
            ("scene.lufs", -70 < scene["lufs"] <= 0, "a loudness above -70 and at most 0"),
        ]
