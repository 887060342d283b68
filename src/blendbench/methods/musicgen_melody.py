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
        """Music at the checkpoint's own level, at the run's sample rate and of the noise's length."""
        model, rate = self.checkpoint.get(self.context.device), self.context.sample_rate
        start = time.perf_counter()
        melodies = torch.stack([item.noise for item in items])
        if self.separation is not None:
            melodies = self.separation.melody_stems(melodies, rate)
        waves = model.generate(
            [item.text for item in items],
            melodies,
            rate,
            [stable_seed(item.seed, "musicgen") for item in items],
            self.sampling,
        )
        seconds = round((time.perf_counter() - start) / len(items), 3)
        music = []
        for item, wave in zip(items, waves, strict=True):
            resampled = audio.resample(wave, model.sample_rate, rate)
            music.append(Music(audio.extend_circular(resampled, item.samples).clone(), {"generate_s": seconds}))
        return music
