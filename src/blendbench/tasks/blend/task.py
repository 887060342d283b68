"""The blend task (BNMusic, Zuo et al. 2025): music of a prompt that hides an environmental noise.

An item is a noise clip paired with a prompt. A method may take the noise, at its level in the mix, and the text; what
is heard is noise plus music, all mono at 44.1 kHz.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml

from blendbench import config
from blendbench.datasets import MusicClip, NoiseClip, Prompt
from blendbench.datasets.choosing import split_music
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError, ClipError
from blendbench.facts import Facts
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import encode_image
from blendbench.store.write import size_of
from blendbench.tasks import BaseTask, Column, Lent, OtherClips, Study
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.noises import Noises
from blendbench.tasks.blend.pairing import Pair, make_pairs
from blendbench.tasks.blend.presentation import Amplification, Blended, Core

_REFERENCE_SECONDS = 10.0
_STUDY = Path(__file__).with_name("study.yaml")


@dataclass(frozen=True)
class MusicHalf:
    """The half of the music set that methods may play from; the other half is the reference."""

    clips: list[MusicClip]

    def signature(self) -> Any:
        """Which clips, and the sizes of their files."""
        return [
            [clip.id, clip.source, size_of(clip.path), *([clip.start] if clip.start else [])] for clip in self.clips
        ]


class Blend(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Noises, music and prompts.
    store : Path or None
        Where noises are kept by content; None keeps none.
    noise : dict
        The key `noise`: seconds, lufs, short_clip, and channel where it is set.
    mask : dict
        The key `mask`, of which the core is stage 2's.
    amplification : dict
        Fields of `presentation.Amplification`.
    """

    name = "blend"
    sample_rate, channels = audio.SAMPLE_RATE, 1
    gives: tuple[str, ...] = ("noise", "text")
    columns = {
        "clip": Column("id", "Clip"),
        "label": Column("class", "Class"),
        "genre": Column("class", "Genre"),
        "prompt": Column("text", "Prompt"),
    }
    group = "clip"
    levels = {
        "noise_lufs": Facts("Loudness of the noise", "LUFS"),
        "music_lufs": Facts("Loudness of the music", "LUFS"),
        "gain_db": Facts("Gain of the music", "dB"),
    }
    sortable: tuple[str, ...] = ("gain_db",)
    shared = {"noise": "Noise"}
    own = {"music": "Music"}
    units = ("noise", "noise clips")
    items_called = "pairs"
    whole_called = "mix"

    def __init__(
        self,
        sources: Sources,
        store: Path | None,
        noise: Mapping[str, Any],
        mask: Mapping[str, Any],
        amplification: Mapping[str, Any],
    ) -> None:
        super().__init__(sources)
        self.noise = dict(noise)
        self.noises = Noises(noise, store)
        self.amplification = Amplification(**amplification)
        self.core = Core(mask["core_fraction"], mask["pixel_threshold"])
        self._clips: dict[str, dict[str, NoiseClip]] = {}

    def files(self, items: Sequence[Pair]) -> set[Path]:
        """Noises and music."""
        return {clip.path for half in self._halves for clip in half} | {item.clip.path for item in items}

    def items(self, limit: int | None) -> list[Pair]:
        """Noise clips paired with prompts; raises BlendbenchError where data cannot be read or paired."""
        pairs: list[Pair] = []
        prompts = self.sources.prompts
        for name in self.sources.names:
            found = self.sources.dataset(name)
            if type(found.prompts_per_clip) is not int or not found.prompts_per_clip:
                raise BlendbenchError(
                    f"dataset.{name}: needs _target_ and prompts_per_clip, a whole number; see docs/extending.md"
                )
            pairs += make_pairs(name, found.clips, prompts, found.prompts_per_clip, self.sources.seed, limit)
        return pairs

    @cached_property
    def _halves(self) -> tuple[list[MusicClip], list[MusicClip]]:
        return split_music(self.sources.music.clips, self.sources.seed)

    def signature(self) -> dict[str, Any]:
        """How noises enter; every method hears them."""
        return {"noise": self.noise}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """The half of the music set that is not the reference; other pairs' noises, as pictures."""
        return {"music": lambda: MusicHalf(self._halves[1]), "others": lambda: OtherNoises(self)}

    def presentation(self, name: str, entry: Mapping[str, Any]) -> Blended:
        """A kind of presentation with the task's own stage 2."""
        made: Blended = config.build(
            {"_target_": "blendbench.tasks.blend.presentation.Blended", **entry}, f"presentations.{name}", [],
            name=name, amplification=self.amplification, core=self.core,
        )  # fmt: skip
        return made

    def inputs(self, item: Pair) -> str:
        """Hash of what is heard of the clip, and of the prompt."""
        return f"{self.noises.content(item.clip)[:16]}-{_text_hash(item.prompt.text)}"

    def read(self, item: Pair) -> NoiseAndText | ClipError:
        """What is given of one item, or why it cannot be read."""
        noise = self.noises.attempt(item.clip)
        return noise if isinstance(noise, ClipError) else self._given(item, noise)

    def _given(self, item: Pair, noise: torch.Tensor) -> NoiseAndText:
        seed = stable_seed(self.sources.seed, item.id)
        mel = partial(self.noises.mel, item.clip)
        return NoiseAndText(item, seed, len(noise), noise, item.prompt.text, mel)

    def given(self, row: Mapping[str, Any]) -> NoiseAndText:
        """A finished row's noise and text; raises BlendbenchError where the clip is gone or sounds otherwise."""
        clip = self._clip(row["dataset"], row["clip"])
        noise = self.noises.read(clip)  # a damaged file says more than that it has changed
        if self.noises.content(clip)[:16] != row.get("inputs", "").partition("-")[0]:
            raise ClipError(f"{row['clip']}: is not what the run heard; put it back, or run the same command again")
        prompt = Prompt("", row.get("genre", ""), row.get("prompt", ""))
        return NoiseAndText(Pair(row["dataset"], clip, prompt), row.get("seed", 0), len(noise), noise, prompt.text)

    def _clip(self, dataset: str, name: str) -> NoiseClip:
        if dataset not in self._clips:
            self._clips[dataset] = {clip.id: clip for clip in self.sources.dataset(dataset).clips}
        try:
            return self._clips[dataset][name]
        except KeyError:
            raise ClipError(f"dataset.{dataset}: has no clip {name!r} any longer; put it back") from None

    def parts(self, given: NoiseAndText, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The noise, and the music, which is what is heard beyond it; digital silence where there is none.

        Where the noise is not heard, the music is all there is.
        """
        if row.get("noise_heard") is False:
            return {"music": heard}
        if row.get("gain_db") is None:
            return {"noise": given.noise, "music": torch.zeros_like(given.noise)}
        return {"noise": given.noise, "music": heard - given.noise}

    def turned(self, row: Mapping[str, Any]) -> float | None:
        """The music's gain in dB; None where there is no music."""
        return row.get("gain_db")

    def reference(self) -> list[MusicClip]:
        """One half of the music set."""
        return self._halves[0]

    def reference_seconds(self) -> float:
        """As long as a noise, where all are of one length."""
        return self.noises.seconds if self.noises.seconds is not None else _REFERENCE_SECONDS

    def study(self) -> Study:
        """The noise is heard first; in a catch trial the noise alone is rated, and the music alone."""
        own = yaml.safe_load(_STUDY.read_text(encoding="utf-8"))
        return Study(own, first="noise", catch=("per", "noise", "music"), presentation="adaptive")

    def close(self) -> None:
        """Close the files in which noises are kept."""
        self.noises.close()


class OtherNoises(OtherClips):
    """Noises of other clips than an item's own, for a control: what is shown tells nothing of what is to be hidden."""

    def __init__(self, task: Blend) -> None:
        super().__init__(task.sources)
        self._task = task

    def picture(self, item: Pair) -> torch.Tensor:
        """Another clip's mel image [3, 512, 512] in 0..1, drawn by the item; raises ClipError where there is none."""
        mel = self._task.noises.mel(self.drawn(item, "picture", "noise"))
        pixels, _ = encode_image(mel[None, :, : RIFFUSION.frames])
        return (pixels[0] / 255).expand(3, -1, -1)


@lru_cache(maxsize=100_000)
def _text_hash(text: str) -> str:
    return f"{stable_seed(text):x}"
