"""Methods: from pairs of noise and prompt to music.

A method is a class named by `_target_` in `conf/method`. It has

- `signature()`: the settings that change its output, as plain data, from which the store's folder name is hashed;
- `prepare(context)`: load what it needs, once a process;
- `generate(items)`: a list of `Item` to a list of `Music`, in order; `BlendbenchError` for a method that cannot run;
- `adaptive`: whether its own output includes the adaptive amplification (stage 2);
- optionally `uses_generator` and `uses_music`: True where the context's generator or music half changes its output.

Waveforms are mono float tensors at `context.sample_rate`, noise at its presentation level.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from blendbench import spectrogram
from blendbench.datasets import MusicClip, Pair


@dataclass(frozen=True)
class Item:
    """A pair ready for a method: its noise waveform [samples], its seed, and its noise's mel image, if kept."""

    pair: Pair
    noise: torch.Tensor
    seed: int
    kept_mel: Callable[[], torch.Tensor] | None = None

    def mel(self) -> torch.Tensor:
        """Mel amplitudes [512, 512] of the noise, extended circularly to one image."""
        if self.kept_mel is not None:
            return self.kept_mel()
        return spectrogram.mel_amplitudes(spectrogram.extend_to_frames(self.noise))


@dataclass
class Music:
    """What a method made: a waveform [samples], facts for the row, and images for the curious."""

    waveform: torch.Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    images: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a run lends its methods.

    Parameters
    ----------
    sample_rate : int
        Of every waveform, in Hz.
    device : str
        Torch device that models run on.
    seed : int
        The run's seed.
    music : list of MusicClip
        The half of the music set that the random-music baseline draws from.
    generator : Generator or None
        The image generator; `generator.get()` loads it at first use.
    """

    sample_rate: int
    device: str
    seed: int
    music: list[MusicClip]
    generator: Any = None


class Method(Protocol):
    """The interface of a method; see the module's text."""

    label: str
    adaptive: bool

    def signature(self) -> dict[str, Any]: ...

    def prepare(self, context: Context) -> None: ...

    def generate(self, items: list[Item]) -> list[Music]: ...
