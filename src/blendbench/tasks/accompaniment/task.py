"""The accompaniment task (Riff-CNET, Riff-P2P): a background and a text become the background with a new part.

An item is a stretch of music in stems. A method may take the background, the text and, as one baseline of the paper
does, the target: the mix that was played. What it makes is a whole mix; how well the background was kept is measured on
what a separator leaves of it (`Separated`), against the same of the target. All is mono at 44.1 kHz.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from blendbench import config
from blendbench.datasets import MusicClip, StemClip
from blendbench.datasets.reading import content_of_files
from blendbench.datasets.sources import Sources
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.models.backgrounds import Separator, separator
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, files, inversion
from blendbench.sound.mel import decode_image, encode_image, mel_of
from blendbench.tasks import BaseTask, Column, Heard, Lent, Music, OtherClips, Study
from blendbench.tasks.accompaniment.given import BackgroundAndText, Request

STUDY: dict[str, Any] = {
    "title": "A new part over a background",
    "scales": {
        "kept": {
            "label": "Background kept",
            "text": "How much of the background is still there, as it was.",
            "low": "nothing",
            "high": "all of it",
            "better": "high",
        },
        "fits": {
            "label": "Fits",
            "text": "How well the new part fits the background.",
            "low": "not at all",
            "high": "perfectly",
            "better": "high",
        },
    },
}
"""What a listening study sets otherwise."""
_SHORT = 30.0
"""Longest items that are held in memory, in seconds."""
_KEPT = 64
"""New parts that are kept, of 0.9 MB each."""
RMS_DB, PEAK_DB = -12.0, -0.1
"""Levels of the published chain, in dB re full scale."""


class Accompaniment(BaseTask):
    """The task.

    Parameters
    ----------
    sources : Sources
        Data sets of stems.
    store : Path or None
        Not used: stems are read from their files.
    accompaniment : dict
        The key `accompaniment`: seconds of an item, loudness of its mix, separator, and what is the reference.
    """

    name = "accompaniment"
    gives = ("background", "text", "target")
    columns = {
        "clip": Column("id", "Clip"),
        "track": Column("id", "Track"),
        "genre": Column("class", "Genre"),
        "part": Column("class", "Part"),
        "prompt": Column("text", "Prompt"),
    }
    group = "track"
    shared = {"background": "Background", "target": "As it was played"}
    own = {"added": "New part (estimated)"}
    units = ("track", "tracks")
    items_called = "clips"
    whole_called = "mix"

    def __init__(self, sources: Sources, store: Path | None, accompaniment: Mapping[str, Any]) -> None:
        super().__init__(sources)
        self.seconds, self.lufs = accompaniment["seconds"], float(accompaniment["lufs"])
        self.separator_name, self.reference_kind = str(accompaniment["separator"]), str(accompaniment["reference"])
        self._content = lru_cache(maxsize=100_000)(content_of_files)
        short = self.seconds is not None and self.seconds <= _SHORT
        # Metrics and page ask again, and a separator may have had its part in it.
        self._reading = lru_cache(maxsize=32)(self._read_item) if short else self._read_item
        self._chained_reference = lru_cache(maxsize=128)(self._kept_reference)
        self._target_again = lru_cache(maxsize=128)(self._sounded_again)
        self._apart: dict[str, torch.Tensor] = {}

    @cached_property
    def separator(self) -> Separator:
        """What takes a part out of a mix; raises BlendbenchError if it is not there."""
        return separator(self.separator_name)

    def files(self, items: Sequence[Request]) -> set[Path]:
        """Stems."""
        return {path for item in items for path in item.clip.paths}

    def items(self, limit: int | None) -> list[Request]:
        """A clip a row, in an order drawn by the seed; raises BlendbenchError where data cannot be read."""
        found: list[Request] = []
        for name in self.sources.names:
            clips = self.sources.dataset(name).clips
            if not clips:
                raise BlendbenchError(f"dataset.{name}: holds no clip; check the data set")
            if not isinstance(clips[0], StemClip):
                raise BlendbenchError(f"dataset.{name}: holds no stems; choose a data set of accompaniment")
            drawn = shuffled(clips, self.sources.seed, lambda clip: clip.id)
            found += [Request(name, clip) for clip in drawn[:limit]]
        return found

    def signature(self) -> dict[str, Any]:
        """Length and level; the separator where it makes backgrounds."""
        own: dict[str, Any] = {"seconds": self.seconds, "lufs": self.lufs}
        mixed = any(clip.mixed for name in self.sources.names for clip in self.sources.dataset(name).clips)
        return {"accompaniment": own | ({"separator": self.separator.signature()} if mixed else {})}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """`others`: the targets of the data set's other clips."""
        return {"others": lambda: Others(self)}

    def presentation(self, name: str, entry: Mapping[str, Any]) -> "Separated":
        """What `presentations` says without a `_target_` is the separated background."""
        full = {"_target_": "blendbench.tasks.accompaniment.task.Separated", **entry}
        made: Separated = config.build(full, name, [])
        made.task = self
        return made

    def inputs(self, item: Request) -> str:
        """Hash of the stems and the text, and where the stretch begins."""
        text = f"{stable_seed(item.clip.prompt):x}"
        return f"{self._content(item.clip)[:16]}-{text[:8]}-{round(item.clip.start * self.sample_rate)}"

    def _read(self, item: Request) -> BackgroundAndText:
        return self._reading(item)

    def _read_item(self, item: Request) -> BackgroundAndText:
        clip = item.clip
        background = self._sum(clip, clip.background)
        if clip.mixed:
            mix, background = background, self.separator.background(background)
        elif clip.part:
            part = self._sum(clip, clip.part)
            samples = min(len(part), len(background))
            background = background[:samples]
            mix = background + part[:samples]
        else:
            mix = background
        if not bool(background.any()):
            raise ClipError(f"{clip.id}: its background is silent; leave it out, or take another stretch")
        leveled, gain_db = audio.normalize_loudness(mix, self.sample_rate, self.lufs)
        target = leveled if clip.mixed or clip.part else None
        seed = stable_seed(self.sources.seed, item.id)
        return BackgroundAndText(item, seed, len(background), background * 10 ** (gain_db / 20), clip.prompt, target)

    def _sum(self, clip: StemClip, paths: Sequence[Path]) -> torch.Tensor:
        """The sum of some stems, as long as the item; raises ClipError where one is shorter or cannot be read."""
        waves = []
        for path in paths:
            check_links(path, clip.root)
            seconds = self.seconds
            if seconds is None:
                frames, rate, _ = files.described(path)
                seconds = frames / rate - clip.start
            # A stem may be silent for a while: only their sum may not.
            wave = files.read_part(path, clip.start, seconds, self.sample_rate)
            samples = round(seconds * self.sample_rate)
            if self.seconds is not None and len(wave) < samples:
                raise ClipError(
                    f"{clip.id}: {path.name} has {len(wave) / self.sample_rate:.2f} s from {clip.start:.2f} s on, of "
                    f"the {seconds:g} s of accompaniment.seconds; take a shorter stretch, or a longer recording"
                )
            waves.append(wave)
        length = min(len(wave) for wave in waves)
        return torch.stack([wave[:length] for wave in waves]).sum(0)

    def given(self, row: Mapping[str, Any]) -> BackgroundAndText:
        """A finished row's item, read again; raises ClipError where its stems are gone or sound otherwise."""
        found: BackgroundAndText = self.again(row, "clip", lambda clip: Request(row["dataset"], clip))
        return found

    def parts(self, given: BackgroundAndText, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The background; the target where there is one; the new part as the separator hears it.

        Of a separated background: what it is held against, at the same levels.
        """
        kind = self.reference_kind
        if row.get("chain"):
            reference = self._chained_reference(given.item)
            return {} if reference is None else {kind: reference}
        found = {"background": given.background}
        if given.target is not None:
            found["target"] = given.target
            if kind == "target_roundtrip":
                found[kind] = self._target_again(given.item)
        if self.separator_name != "none" and bool(heard.any()):
            found["added"] = self._added(heard)
        return found

    def _added(self, heard: torch.Tensor) -> torch.Tensor:
        """The new part as the separator hears it; kept for a while, as every metric asks for the parts of a sound."""
        if len(heard) > _SHORT * self.sample_rate:
            return heard - self.separator.background(heard)
        content = hashlib.sha256(heard.contiguous().numpy().tobytes()).hexdigest()
        if content not in self._apart:
            if len(self._apart) >= _KEPT:
                self._apart.pop(next(iter(self._apart)))
            self._apart[content] = heard - self.separator.background(heard)
        return self._apart[content]

    def chained(self, mix: torch.Tensor) -> torch.Tensor:
        """What the published chain makes of a mix: levels, 16 bit, and the separator.

        See `levelled`. Of silence, silence.
        """
        return self.separator.background(levelled(mix)) if bool(mix.any()) else torch.zeros_like(mix)

    def _kept_reference(self, item: Request) -> torch.Tensor | None:
        """What separated backgrounds are held against: the target's, sounded again, or the background itself.

        None where nobody has played a part; `accompaniment.reference=background` needs none.
        """
        given = self._read(item)
        if self.reference_kind == "background":
            return self.chained(given.background)
        return None if given.target is None else self.chained(self._target_again(item))

    def _sounded_again(self, item: Request) -> torch.Tensor:
        given = self._read(item)
        assert given.target is not None
        return round_trip(given.target, given.seed)

    def reference(self) -> list[MusicClip]:
        """None: mixes are held against their own items' targets."""
        return []

    def reference_seconds(self) -> float:
        """As long as an item."""
        return self.seconds if self.seconds is not None else 30.0

    def study(self) -> Study:
        """The background is heard first."""
        return Study(STUDY, first="background", presentation="as_made")


def levelled(mix: torch.Tensor) -> torch.Tensor:
    """A mix [samples] at the levels of the published chain: -12 dB RMS with clipping, a peak of -0.1 dB, 16 bit."""
    rms = float(mix.double().square().mean().sqrt())
    loud = (mix * (10 ** (RMS_DB / 20) / max(rms, 1e-12))).clamp(-1, 1)
    loud = loud * (10 ** (PEAK_DB / 20) / max(float(loud.abs().max()), 1e-12))
    return (loud * 32767).round() / 32768


def round_trip(waveform: torch.Tensor, seed: int) -> torch.Tensor:
    """A sound [samples] from its own mel image, with a phase of its own: what any image method can reach at best."""
    pixels, peaks = encode_image(mel_of(waveform)[None])
    made = inversion.to_audio(decode_image(pixels, peaks), seeds=[seed])[0]
    return audio.extend_circular(made, len(waveform)).clone()


class Others(OtherClips):
    """Targets of other clips than an item's own, of another track where there is one."""

    def __init__(self, task: Accompaniment) -> None:
        super().__init__(task.sources)
        self._task = task

    def other(self, item: Request) -> torch.Tensor:
        """A target [samples], drawn by the item; raises ClipError where there is none."""
        clip = self.drawn(item, "other", "track", lambda one: one.part or one.mixed)
        target = self._task._read(Request(item.dataset, clip)).target
        assert target is not None
        return target


class Separated:
    """The background that a separator hears in the music, at the levels of the published chain (Table I).

    Parameters
    ----------
    label : str
    """

    def __init__(self, label: str = "Separated background") -> None:
        self.label = label
        self.task: Any = None

    def signature(self, method: Any) -> dict[str, Any]:
        """The chain and its separator."""
        return {"kind": "separated", "separator": self.task.separator.signature(), "rms_db": RMS_DB, "peak_db": PEAK_DB}

    def present(self, given: BackgroundAndText, music: Music, method: Any) -> Heard:
        """The separated background."""
        if music.facts.get("unseparated"):
            return Heard(levelled(music.waveform), {"chain": "none"})
        return Heard(self.task.chained(music.waveform), {"chain": self.task.separator_name})

    def told(self, row: Mapping[str, Any]) -> str:
        """Which separator."""
        return f"separator {row.get('chain', '')}"
