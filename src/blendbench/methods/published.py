"""A published result of another program, read from a file beside the recording: to be heard and measured among ours."""

from typing import Any

from blendbench.errors import ClipError
from blendbench.methods import Context
from blendbench.sound import files
from blendbench.tasks import Music
from blendbench.tasks.long_gap.task import Incomplete


class Published:
    """The file of a name in the recording's folder, as long as the window.

    Parameters
    ----------
    label : str
        Row name.
    file : str
        Such as LPC.flac.
    """

    takes = ("recording", "gap")
    uses = ()

    def __init__(self, label: str, file: str) -> None:
        self.label, self.file = label, file

    def signature(self) -> dict[str, Any]:
        """The file's name; who puts another file there takes the music out of the store."""
        return {"file": self.file}

    def prepare(self, context: Context) -> None:
        """Nothing to load."""
        self.sample_rate = context.sample_rate

    def generate(self, given: list[Incomplete]) -> list[Music]:
        """The files' sound; raises ClipError where one is not there or not as long as the window."""
        music = []
        for one in given:
            file = one.item.clip.path.with_name(self.file)
            waveform = files.read(file, self.sample_rate)
            if len(waveform) != one.samples:
                raise ClipError(f"{file}: has {len(waveform)} samples, not the {one.samples} of gap.window")
            music.append(Music(waveform))
        return music
