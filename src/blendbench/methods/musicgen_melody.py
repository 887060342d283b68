"""MusicGen melody (Copet et al. 2023): music of the prompt that follows the noise's chroma, as long as the noise."""

import time
from typing import Any

import torch

from blendbench import audio
from blendbench.datasets.pairing import stable_seed
from blendbench.errors import BlendbenchError
from blendbench.methods import Context, Item, Music
from blendbench.musicgen import CodeSampling, MusicGenCheckpoint


class MusicGenMelody:
    """Baseline of BNMusic's tables; the melody it is given is the noise itself.

    Parameters
    ----------
    label : str
        Row name.
    checkpoint : dict
        Fields of `musicgen.MusicGenCheckpoint`, without `key`.
    sampling : dict
        Fields of `musicgen.CodeSampling`.

    Raises
    ------
    BlendbenchError
        If an entry is unknown or out of range.
    """

    adaptive = False

    def __init__(self, label: str, checkpoint: dict[str, Any], sampling: dict[str, Any]) -> None:
        self.label = label
        try:
            self.checkpoint = MusicGenCheckpoint("method.checkpoint", **checkpoint)
            self.sampling = CodeSampling(**sampling)
        except TypeError as error:
            raise BlendbenchError(f"arm {label!r}: {error}; mend that entry") from error

    def signature(self) -> dict[str, Any]:
        """Checkpoint and sampling."""
        return self.checkpoint.signature() | {"sampling": vars(self.sampling)}

    def prepare(self, context: Context) -> None:
        """Load the checkpoint; comes before `generate`."""
        self.context = context
        self.checkpoint.get(context.device)

    def generate(self, items: list[Item]) -> list[Music]:
        """Music at the checkpoint's own level, at the run's sample rate and of the noise's length."""
        model, rate = self.checkpoint.get(self.context.device), self.context.sample_rate
        start = time.perf_counter()
        waves = model.generate(
            [item.pair.prompt.text for item in items],
            torch.stack([item.noise for item in items]),
            rate,
            [stable_seed(item.seed, "musicgen") for item in items],
            self.sampling,
        )
        seconds = round((time.perf_counter() - start) / len(items), 3)
        music = []
        for item, wave in zip(items, waves, strict=True):
            resampled = audio.resample(wave, model.sample_rate, rate)
            music.append(Music(audio.extend_circular(resampled, len(item.noise)).clone(), {"generate_s": seconds}))
        return music
