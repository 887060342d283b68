"""Sim: the place of the track whose surroundings are most like the gap's (SimDPS, sections 3.2 and 4.3)."""

import time
from typing import Any

from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.tasks import Music
from blendbench.tasks.long_gap.similarity import SimilaritySettings, find, guide
from blendbench.tasks.long_gap.task import Incomplete


class Sim:
    """The method: its music is the whole candidate, of which a presentation pastes what lies in the gap.

    Parameters
    ----------
    label : str
        Row name.
    search : dict, optional
        Fields of `similarity.SimilaritySettings`.

    Raises
    ------
    BlendbenchError
        If a field is unknown or out of range.
    """

    takes: tuple[str, ...] = ("recording", "gap", "corpus")
    uses: tuple[str, ...] = ()

    def __init__(self, label: str, search: dict[str, Any] | None = None) -> None:
        self.label = label
        try:
            self.search = SimilaritySettings(**(search or {}))
        except TypeError as error:
            raise BlendbenchError(f"arm {label!r}: search: {error}; mend that entry") from error

    def signature(self) -> dict[str, Any]:
        """How candidates are compared."""
        return {"search": vars(self.search)}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""

    def generate(self, given: list[Incomplete]) -> list[Music]:
        """The best candidates; raises ClipError where the corpus holds none."""
        music = []
        for one in given:
            began = time.perf_counter()
            match = find(one.recording, one.gap, one.corpus, self.search)
            facts = {"part": match.part, "offset": match.offset, "distance": round(match.distance, 5)}
            facts["search_s"] = round(time.perf_counter() - began, 3)
            music.append(Music(guide(match, one.corpus, one.samples).clone(), facts))
        return music
