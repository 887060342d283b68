"""MusicGen melody (Copet et al. 2023): music of the prompt that follows the noise's chroma, as long as the noise."""

import time
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.models.musicgen import CodeSampling, MusicGenCheckpoint
from blendbench.models.separation import Separation
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText


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
    separate : str, optional
        A Demucs model that takes drums and bass out of the melody, as audiocraft does: a name, file or folder of
        `separation.Separation`. None gives the noise as it is, as transformers does.

    Raises
    ------
    BlendbenchError
        If an entry is unknown or out of range.
    """

    takes = ("noise", "text")
    uses = ()
    adaptive = False

    def __init__(
        self, label: str, checkpoint: dict[str, Any], sampling: dict[str, Any], separate: str | None = None
    ) -> None:
        self.label = label
        self.separation = None if separate is None else Separation(separate, f"arm {label!r}: separate")
        try:
            self.checkpoint = MusicGenCheckpoint("generator.musicgen", **checkpoint)
            self.sampling = CodeSampling(**sampling)
        except TypeError as error:
            raise BlendbenchError(f"arm {label!r}: {error}; mend that entry") from error

    def signature(self) -> dict[str, Any]:
        """Checkpoint, sampling, and the separation's weights where there is one."""
        separated = {} if self.separation is None else {"separate": self.separation.signature()}
        return self.checkpoint.signature() | {"sampling": vars(self.sampling)} | separated

    def prepare(self, context: Context) -> None:
        """Load the checkpoint and the separation's; comes before `generate`."""
        self.context = context
        if self.separation is not None:
            self.separation.prepare(context.device)
        self.checkpoint.get(context.device)

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """Music at the checkpoint's own level, at the run's sample rate and of the noise's length.

        What is longer than the checkpoint's longest melody is made in pieces, which are cross-faded: it does not hear
        what it played before.
        """
        music: list[Music | None] = [None] * len(items)
        alike: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            alike.setdefault(item.samples, []).append(index)
        for samples, chosen in alike.items():
            for index, made in zip(chosen, self._of_length([items[i] for i in chosen], samples), strict=True):
                music[index] = made
        return [made for made in music if made is not None]

    def _of_length(self, items: list[NoiseAndText], samples: int) -> list[Music]:
        """Music of items of one length."""
        model, rate = self.checkpoint.get(self.context.device), self.context.sample_rate
        start = time.perf_counter()
        longest = int(model.longest_seconds * rate)
        waves = None
        fade = min(round(FADE_S * rate), longest // 4)
        for number, begin in enumerate(pieces(samples, longest, fade)):
            melodies = torch.stack([item.noise[begin : begin + longest] for item in items])
            if self.separation is not None:
                melodies = self.separation.melody_stems(melodies, rate)
            place = (number,) if number else ()
            seeds = [stable_seed(item.seed, "musicgen", *place) for item in items]
            made = model.generate([item.text for item in items], melodies, rate, seeds, self.sampling)
            made = torch.stack([audio.resample(wave, model.sample_rate, rate) for wave in made])
            wanted = melodies.shape[1]
            made = torch.stack([audio.extend_circular(wave, wanted) for wave in made])
            waves = made if waves is None else joined(waves, made, waves.shape[1] - begin)
        assert waves is not None
        seconds = round((time.perf_counter() - start) / len(items), 3)
        return [Music(wave.clone(), {"generate_s": seconds}) for wave in waves]


FADE_S = 1.0
"""Over which two pieces go over into each other."""


def pieces(samples: int, longest: int, fade: int) -> list[int]:
    """Where pieces of at most `longest` samples begin that overlap by `fade` or more and cover all."""
    if samples <= longest:
        return [0]
    last = samples - longest
    return [*range(0, last, longest - fade), last]


def joined(before: torch.Tensor, after: torch.Tensor, overlap: int) -> torch.Tensor:
    """Waveforms [N, samples] one after the other, the last of the one under the first of the other at equal power."""
    turn = torch.linspace(0, torch.pi / 2, overlap + 2)[1:-1]
    mixed = before[:, -overlap:] * turn.cos() + after[:, :overlap] * turn.sin()
    return torch.cat([before[:, :-overlap], mixed, after[:, overlap:]], dim=1)
