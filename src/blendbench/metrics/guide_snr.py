"""Guide SNR: how closely a fill follows the guide that its method had, in the gap."""

import math

from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound


class GuideSNR(ItemMetric):
    """Ratio of the guide to the fill's difference from it, as told by the method; of those without a guide, nan."""

    facts = {"guide_snr": Facts("Guide SNR", "dB", None, "the guide against the fill, in the gap")}
    keep = False

    def measure(self, sound: Sound) -> dict[str, float]:
        """The ratio."""
        return {"guide_snr": float(sound.row.get("snr_to_guide", math.nan))}

    def recipe(self, name: str, measured: Measured) -> str:
        """What was measured."""
        return "dB, of the fill as the method made it, against the place of the track that it was guided by"
