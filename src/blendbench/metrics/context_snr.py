"""Context SNR: how well what is observed around a gap is kept."""

from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.tasks.long_gap.distances import context_snr

_MOST = 120.0
"""Of a context that is kept bit by bit, in dB: more is below the files' own rounding."""
_SOURCE = "against the original, equal ones counting as 120 dB"


class ContextSNR(ItemMetric):
    """Ratio of the context to what changed of it, over all of it and beyond the cross-fades.

    Parameters
    ----------
    beyond : int
        Samples next to the gap, on each side, that the second value leaves out.
    """

    facts = {
        "context_snr": Facts("Context SNR", "dB", True, _SOURCE),
        "far_context_snr": Facts("Context SNR, far", "dB", True, f"{_SOURCE}; without what lies next to the gap"),
    }

    def __init__(self, beyond: int = 2000) -> None:
        self.beyond = beyond

    def signature(self) -> dict[str, object]:
        """What is left out."""
        return super().signature() | {"beyond": self.beyond}

    def measure(self, sound: Sound) -> dict[str, float]:
        """Both ratios."""
        given, heard = sound.given(), sound.waveform()
        near, far = (context_snr(given.original, heard, given.gap, beyond) for beyond in (0, self.beyond))
        return {"context_snr": min(near, _MOST), "far_context_snr": min(far, _MOST)}
