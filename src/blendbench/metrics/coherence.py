"""Coherence: whether a long piece hangs together - what repeats in it, how steady it goes, how alike its ends are."""

import numpy as np
import torch

from blendbench.evaluators import Evaluator
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.metrics.fitness import fitness_of_lengths
from blendbench.metrics.likeness import RATE, chroma, low
from blendbench.sound import audio

HOP = 512
SPANS = {"short": (3, 8), "middle": (8, 15), "long": (15, None)}
"""Lengths in seconds of what repeats (Wu and Yang, 2020)."""


class Coherence(ItemMetric):
    """Structureness indicators, spread of the local tempo, and the distance of a piece's first and last third.

    Parameters
    ----------
    evaluator : Evaluator
        Makes embeddings of the thirds.
    """

    facts = {
        "structure_short": Facts("Repeats, 3-8 s", "fitness", None, "largest fitness in the scape plot"),
        "structure_middle": Facts("Repeats, 8-15 s", "fitness", None, "largest fitness in the scape plot"),
        "structure_long": Facts("Repeats, 15 s on", "fitness", None, "largest fitness in the scape plot"),
        "tempo_spread": Facts("Tempo spread", "share of the median", False, "librosa tempo of 8-s windows"),
        "thirds_apart": Facts("First and last third apart", "cosine distance", False, "embeddings of the evaluator"),
    }

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._ready = False

    def measure(self, sound: Sound) -> dict[str, float]:
        """Values by name; nan where the piece is too short for one."""
        wave = low(sound.waveform())
        found = dict.fromkeys(self.facts, float("nan"))
        if len(wave) >= 12 * RATE:
            found |= structureness(wave)
            found["tempo_spread"] = tempo_spread(wave)
        found["thirds_apart"] = self._apart(sound.waveform())
        return found

    def _apart(self, waveform: torch.Tensor) -> float:
        assert self.evaluator is not None
        if not self._ready:
            self.evaluator.prepare("cpu")
            self._ready = True
        mono = audio.resample(audio.to_mono(waveform), audio.SAMPLE_RATE, self.evaluator.sample_rate)
        third = len(mono) // 3
        ends = []
        for part in (mono[:third], mono[-third:]):
            embeddings = self.evaluator.score(part).embeddings
            if embeddings is None:
                return float("nan")
            ends.append(embeddings.double().mean(0))
        return 1 - float(torch.nn.functional.cosine_similarity(ends[0], ends[1], dim=0))


def structureness(wave: np.ndarray) -> dict[str, float]:
    """Largest fitness of segments of some lengths in the self-similarity of chroma means of a second, by name."""
    per = RATE / HOP
    harmony = chroma(wave)
    seconds = int(harmony.shape[1] / per)
    means = np.stack([harmony[:, round(one * per) : round((one + 1) * per)].mean(1) for one in range(seconds)], 1)
    unit = means / (np.linalg.norm(means, axis=0) + 1e-9)
    fitness = fitness_of_lengths(unit.T @ unit)
    found: dict[str, float] = {}
    for name, (shortest, longest) in SPANS.items():
        # A segment longer than half the piece repeats nothing.
        lengths = range(shortest, min(seconds // 2, longest if longest is not None else seconds) + 1)
        values = [fitness[length] for length in lengths if length in fitness]
        found[f"structure_{name}"] = max(values) if values else float("nan")
    return found


def tempo_spread(wave: np.ndarray) -> float:
    """Median deviation of the tempo of windows of eight seconds from their median, as a share of it."""
    import librosa

    size, tempi = 8 * RATE, []
    for start in range(0, len(wave) - size + 1, size // 2):
        strength = librosa.onset.onset_strength(y=wave[start : start + size], sr=RATE)
        tempi.append(float(np.atleast_1d(librosa.feature.tempo(onset_envelope=strength, sr=RATE))[0]))
    middle = float(np.median(tempi))
    return float(np.median(np.abs(np.array(tempi) - middle)) / middle) if middle > 0 else float("nan")
