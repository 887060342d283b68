"""Part heard: whether the instrument that was asked for is heard in the mix, and was not in the background alone."""

from functools import cached_property
from typing import Any

import torch

from blendbench.errors import ClipError
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Sound
from blendbench.models.tagger import SAMPLE_RATE, Tagger
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder
from blendbench.sound import audio

LUFS = -18.0
VOICES = ("voice", "choir", "vocals")
"""How the names of parts end that the tagger knows as a choir, and MUSDB18's stem."""


class PartHeard(ItemMetric):
    """What the built-in tagger says of the asked instrument, in the mix, and less what it says of the background.

    Both are brought to one loudness. A part that the tagger has no word for gives no value, and so does a sound without
    the part "background", as a separated one.

    Parameters
    ----------
    column : str
        Of the row: what was asked for, such as "part".
    """

    facts = {
        "part_heard": Facts("Part heard", "probability", True, "built-in tagger, the asked instrument in the mix"),
        "part_gain": Facts("Part heard, gained", "probability", True, "the same less that of the background alone"),
    }

    def __init__(self, column: str = "part") -> None:
        self.column = column

    def signature(self) -> dict[str, Any]:
        """The tagger."""
        return super().signature() | {"tagger": self._fingerprint, "column": self.column}

    @property
    def _folder(self) -> Any:
        return package_folder("blendbench.assets") / "tagger"

    @cached_property
    def _fingerprint(self) -> str:
        return checkpoint_hash(self._folder)

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger.load(self._folder)

    def measure(self, sound: Sound) -> dict[str, float]:
        """Both probabilities; nan where there is no word or no background."""
        word, background = self.word(str(sound.row.get(self.column, ""))), sound.parts().get("background")
        heard = sound.waveform()
        if word is None or background is None or not bool(heard.any()):
            return dict.fromkeys(self.facts, float("nan"))
        mix, alone = self._probability(heard, word), self._probability(background, word)
        return {"part_heard": mix, "part_gain": mix - alone}

    def word(self, part: str) -> str | None:
        """The tagger's word for a part."""
        names = self._tagger.instrument_names
        if part in names:
            return part
        return "choir" if part.endswith(VOICES) and "choir" in names else None

    @torch.inference_mode()
    def _probability(self, waveform: torch.Tensor, word: str) -> float:
        try:
            leveled, _ = audio.normalize_loudness(waveform, SAMPLE_RATE, LUFS)
        except ClipError:
            return float("nan")
        heard = self._tagger.describe(leveled[None].float())
        return float(heard.instruments[0, self._tagger.instrument_names.index(word)])
