"""What metrics share that hold what is heard against a part of it, such as a background in new music against its own.

Both are tensors `[samples]` or `[channels, samples]` of one rate, full scale at 1.0; channels are averaged, in float64.
"""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from blendbench.errors import ClipError
from blendbench.metrics import ItemMetric, Sound
from blendbench.sound import audio

FEWEST = 1025
"""Samples that a sound needs: half of a window of 2,048 is reflected at its ends."""


class AgainstPart(ItemMetric):
    """A metric of what is heard against one of its parts.

    Parameters
    ----------
    part : str
        A name of `Sound.parts`.
    """

    def __init__(self, part: str = "reference") -> None:
        self.part = part

    def signature(self) -> dict[str, Any]:
        """Which part."""
        return super().signature() | {"part": self.part}

    def measure(self, sound: Sound) -> dict[str, float]:
        """Values by name.

        Raises
        ------
        ClipError
            If the sound has no such part; and as `mono`.
        """
        parts = sound.parts()
        if self.part not in parts:
            raise ClipError(
                f"metric.{self.name}: the sound has no part {self.part!r}, it has {', '.join(parts) or 'none'}; name "
                "another, as `part` or by the task's keys"
            )
        return self.of(parts[self.part], sound.waveform())

    @abstractmethod
    def of(self, reference: Tensor, heard: Tensor) -> dict[str, float]:
        """Values by name, of the part and of what is heard; raises ClipError as `mono`."""


def mono(reference: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """Both sounds with their channels averaged.

    Parameters
    ----------
    reference, heard : Tensor [samples] or [channels, samples]
        Each with channels of its own number.

    Returns
    -------
    tuple of two Tensors [samples], float64, on the CPU

    Raises
    ------
    ClipError
        They have another shape, differ in length, are shorter than 1,025 samples, or hold what is not finite.
    """
    made = []
    for name, sound in (("reference", reference), ("sound", heard)):
        try:
            made.append(audio.to_mono(sound.detach().cpu().double()))
        except ValueError as error:
            raise ClipError(f"{name} has shape {list(sound.shape)}: give [samples] or [channels, samples]") from error
    lengths = len(made[0]), len(made[1])
    if lengths[0] != lengths[1]:
        raise ClipError(f"reference and sound have {lengths[0]} and {lengths[1]} samples: give two of one length")
    if lengths[0] < FEWEST:
        raise ClipError(f"sounds of {lengths[0]} samples are too short to be compared: give at least {FEWEST}")
    for name, sound in (("reference", reference), ("sound", heard)):
        audio.check_finite(sound, name)
    return made[0], made[1]
