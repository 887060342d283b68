"""LSD: how far the spectrum of a filled gap is from the original's."""

from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.tasks.long_gap.distances import log_spectral_distance


class LSD(ItemMetric):
    """Log-spectral distance in the gap, of a sound with the part "original"."""

    facts = {"lsd": Facts("LSD", "dB", False, "STFT of 2,048, overlap 1,536, of the gap alone")}

    def measure(self, sound: Sound) -> dict[str, float]:
        """The distance."""
        given = sound.given()
        return {"lsd": log_spectral_distance(given.original, sound.waveform(), given.gap)}
