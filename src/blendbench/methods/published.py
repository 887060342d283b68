"""A published result of another program, read from a file beside the recording: to be heard and measured among ours."""

from typing import Any

import torch

from blendbench.errors import ClipError
from blendbench.methods import Context
from blendbench.sound import files
from blendbench.tasks import Music
from blendbench.tasks.long_gap.distances import guide_snr
from blendbench.tasks.long_gap.task import Incomplete


class Published:
    """The file of a name in the recording's folder, as long as the window.

    Parameters
    ----------
    label : str
        Row name.
    file : str
        Such as LPC.flac.
    guide : str or None
        The file of the guide that it had, to tell how closely it follows.
    """

    takes = ("recording", "gap")
    uses = ()

    def __init__(self, label: str, file: str, guide: str | None = None) -> None:
        self.label, self.file, self.guide = label, file, guide

    def signature(self) -> dict[str, Any]:
        """The files' names; who puts another file there takes the music out of the store."""
        return {"file": self.file} | ({"guide": self.guide} if self.guide else {})

    def prepare(self, context: Context) -> None:
        """Nothing to load."""
        self.sample_rate = context.sample_rate

    def generate(self, given: list[Incomplete]) -> list[Music]:
        """The files' sound; raises ClipError where one is not there or not as long as the window."""
        music = []
        for one in given:
            waveform, facts = self._read(one, self.file), {}
            if self.guide is not None:
                facts["snr_to_guide"] = round(guide_snr(self._read(one, self.guide), waveform, one.gap), 4)
            music.append(Music(waveform, facts))
        return music

    def _read(self, one: Incomplete, name: str) -> torch.Tensor:
        file = one.item.clip.path.with_name(name)
        waveform = files.read(file, self.sample_rate)
        if len(waveform) != one.samples:
            raise ClipError(f"{file}: has {len(waveform)} samples, not the {one.samples} of gap.window")
        return waveform
