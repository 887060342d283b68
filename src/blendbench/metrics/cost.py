"""What an item's music costs: seconds of making it, as measured when it was made."""

import math

from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound


class Cost(ItemMetric):
    """Seconds an item, all that a method builds on included; of rows that were made before this was written, nan."""

    facts = {"cost": Facts("Cost", "s", False)}
    keep = False

    def measure(self, sound: Sound) -> dict[str, float]:
        """The seconds."""
        return {"cost": float(sound.row.get("cost_s", math.nan))}

    def recipe(self, name: str, measured: Measured) -> str:
        """What was measured."""
        return "seconds of generation an item on the machine that made it, batches shared out evenly"
