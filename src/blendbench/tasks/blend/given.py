"""What the blend task hands to a method: a noise at its level in the mix, and a text."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from blendbench.sound.mel import mel_of
from blendbench.tasks import Given
from blendbench.tasks.blend.pairing import Pair


@dataclass(frozen=True)
class NoiseAndText(Given):
    """A pair ready for a method.

    Attributes
    ----------
    item : Pair
    noise : Tensor [samples]
        At 44.1 kHz and its level in the mix.
    text : str
        The prompt.
    kept_mel : callable, optional
        Gives the noise's mel image, if it is kept.
    """

    item: Pair
    noise: torch.Tensor
    text: str
    kept_mel: Callable[[], torch.Tensor] | None = field(default=None, metadata={"with": "noise"})

    def mel(self) -> torch.Tensor:
        """Mel amplitudes of the noise, as `mel_of`."""
        return self.kept_mel() if self.kept_mel is not None else mel_of(self.noise)
