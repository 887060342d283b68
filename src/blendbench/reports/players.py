"""The players of the page: parts of sounds and mel images of items, written below `report/`.

A run keeps what is heard alone. Parts are made again by the task: those that all arms have in common once an item, an
arm's own once, where it is loudest, as its presentations differ by a gain. All sounds of an item are heard at their
true levels relative to each other: files are scaled, and players turned down, to one common factor an item. Sounds keep
their channels; images show the mean.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from blendbench.errors import BlendbenchError
from blendbench.reports.listing import Key, Listing, Place, Rows
from blendbench.runs.shelf import file_name
from blendbench.sound import audio, files
from blendbench.sound.lattice import RIFFUSION, MelSettings
from blendbench.sound.mel import mel_amplitudes
from blendbench.store.signature import signature
from blendbench.store.write import write_bytes

SOUNDS_VERSION = 2
_IMAGE_SIZE = (256, 192)
_PEAK = 0.98
"""Highest sample of a file written."""
_WHOLE = "mix"
"""What is heard, beside the names of its parts."""

Sound = tuple[str, str, str]
"""What it is (a part, or the whole), presentation and arm; a shared part has neither."""
_SOUND = ("sha256", "attenuation_db", "mix", "inputs")
"""What of a row changes its sounds, beside its levels."""


@dataclass
class _Waves:
    """The sounds of an item: waveforms, where an arm's own parts are loudest, and what turns others down."""

    rows: Rows
    waves: dict[Sound, torch.Tensor] = field(default_factory=dict)
    loudest: dict[str, Place] = field(default_factory=dict)
    turned: dict[Place, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> dict[Place, torch.Tensor]:
        """What is heard, by presentation and arm."""
        return {(shown, arm): wave for (what, shown, arm), wave in self.waves.items() if what == _WHOLE}

    @property
    def factor(self) -> float:
        """What every sound of the item is scaled by: none clips, and no player turns its file up."""
        limits = [1.0]
        for what, wave in self.waves.items():
            if what[0] == _WHOLE:
                limits.append(audio.from_db(-self.rows[what[1:]]["attenuation_db"]))
            else:
                limits.append(_PEAK / max(float(wave.abs().max()), _PEAK))
        return min(limits)


class Players:
    """Makes the players of items.

    Parameters
    ----------
    listing : Listing
    kept : mapping of str to dict
        What the report that is there says of its sounds, by their key.
    """

    def __init__(self, listing: Listing, kept: Mapping[str, dict[str, Any]]) -> None:
        self.listing, self.run, self.task, self.kept = listing, listing.run, listing.run.task, kept
        self.folder = self.run.dir / "report"

    def of(self, key: Key) -> dict[str, Any]:
        """An item's `shared` players by part, its `sounds` by presentation and arm, and a `note` of what lacks."""
        rows = {place: row for place, row in self.listing.items[key].items() if row["status"] == "ok"}
        asked = (*_SOUND, *self.task.levels)
        identity = {
            "item": key,
            "task": self.task.signature(),
            "arms": list(self.listing.arms),
            "presentations": list(self.listing.presentations),
            "rows": {" ".join(place): [row.get(name) for name in asked] for place, row in sorted(rows.items())},
        }
        name = signature("report", SOUNDS_VERSION, identity)
        kept = self.kept.get(name)
        if kept is not None:
            there = [self.folder / file for file in files_of([kept])]
            if all(file.is_file() for file in (*there, *(self.run.dir / row["mix"] for row in rows.values()))):
                return kept
        made = self._waves(rows)
        return {"sounds_key": "" if made.notes else name, "note": " ".join(made.notes), **self._write(key, made)}

    def _waves(self, rows: Rows) -> _Waves:
        """An item's sounds, as far as they can be read."""
        made = _Waves(rows)
        given = self._given(made)
        for place, row in rows.items():
            try:
                wave = self.run.heard(row)
            except BlendbenchError:
                continue
            if given is None or wave.shape[-1] == given.samples:
                made.waves[(_WHOLE, *place)] = wave
        whole = made.whole
        if len(whole) < len(rows):
            made.notes.insert(0, "Mixes are missing or damaged: run the same command again.")
        if given is None:
            return made
        gains = {place: gain for place in whole if (gain := self.task.turned(rows[place])) is not None}
        for place, gain in gains.items():
            if place[1] not in made.loudest or gain > gains[made.loudest[place[1]]]:
                made.loudest[place[1]] = place
        made.turned = {place: audio.from_db(gain - gains[made.loudest[place[1]]]) for place, gain in gains.items()}
        first = next(iter(whole), None)
        parts = self.task.parts(given, whole[first], rows[first]) if first is not None else {}
        if first is None and self.task.shared:
            # Of what is given alone, where nothing that is heard is left.
            row = next(iter(rows.values()))
            channels = () if self.task.channels == 1 else (self.task.channels,)
            parts = self.task.parts(given, torch.zeros(*channels, given.samples), row)
        made.waves |= {(name, "", ""): parts[name] for name in self.task.shared if name in parts}
        for place in made.loudest.values():
            parts = self.task.parts(given, whole[place], rows[place])
            made.waves |= {(name, *place): parts[name] for name in self.task.own if name in parts}
        return made

    def _given(self, made: _Waves) -> Any:
        """What the item's methods were given, as it lies in what is heard; None where that is no longer the same."""
        if not made.rows:
            return None
        try:
            return self.task.given(next(iter(made.rows.values())))
        except BlendbenchError:
            told = " or ".join(label.lower() for label in (*self.task.shared.values(), *self.task.own.values()))
            first = next(iter(self.task.shared.values()), "What was given").lower()
            made.notes.append(
                f"The {first} is no longer where the run read it: no {told} alone."
                if told
                else "What was given is no longer where the run read it."
            )
            return None

    def _write(self, key: Key, made: _Waves) -> dict[str, Any]:
        """Write parts and images; returns the players."""
        images, factor, placed = self._images(key, made), made.factor, dict[Sound, str]()
        for what, wave in made.waves.items():
            if what[0] != _WHOLE:
                placed[what] = f"audio/{_stem(key, what)}.flac"
                files.write(self.folder / placed[what], wave * factor, self.task.sample_rate, "PCM_16")
        cells = [[self._cell(made, placed, images, factor, (shown, arm)) for arm in self.listing.arms]
                 for shown in self.listing.presentations]  # fmt: skip
        shared = {what[0]: _player(file, images[what], 1.0) for what, file in placed.items() if not what[1]}
        longest = max((wave.shape[-1] for wave in made.waves.values()), default=0)
        return {"seconds": longest / self.task.sample_rate, "shared": shared, "sounds": cells}

    def _cell(
        self, made: _Waves, placed: Mapping[Sound, str], images: Mapping[Sound, str], factor: float, place: Place
    ) -> dict[str, Any]:
        cell = {}
        if (what := (_WHOLE, *place)) in made.waves:
            row = made.rows[place]
            volume = factor * audio.from_db(row["attenuation_db"])
            cell[_WHOLE] = _player(quote(f"../{row['mix']}"), images[what], volume)
        if place in made.turned:
            for name in self.task.own:
                if (source := (name, *made.loudest[place[1]])) in placed:
                    cell[name] = _player(placed[source], images[(name, *place)], made.turned[place])
        return cell

    def _images(self, key: Key, made: _Waves) -> dict[Sound, str]:
        """Names of the mel images of all sounds, (S / S_max)^0.25 with one S_max an item."""
        if not made.waves:
            return {}
        lengths = {wave.shape[-1] for wave in made.waves.values()}
        found = [mel_amplitudes(audio.to_mono(wave)[None], _lattice(max(lengths)))[0] for wave in made.waves.values()]
        mels = dict(zip(made.waves, found, strict=True))
        peak = max(max(float(mel.max()) for mel in found), 1e-12)
        for place, level in made.turned.items():
            for name in self.task.own:
                if (source := (name, *made.loudest[place[1]])) in mels:
                    mels[(name, *place)] = mels[source] * level
        alone = next(((name, "", "") for name in self.task.shared if (name, "", "") in mels), None)
        images = {}
        for what, mel in mels.items():
            if what[0] == _WHOLE and alone is not None and self.task.own and what[1:] not in made.turned:
                images[what] = f"images/{_stem(key, alone)}.png"  # without a part of its own, it is the shared one
                continue
            images[what] = f"images/{_stem(key, what)}.png"
            write_bytes(self.folder / images[what], _png(mel / peak))
        return images


def files_of(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Files in the report's folder that items refer to."""
    for item in items:
        players = [
            *item["shared"].values(),
            *(one for line in item["sounds"] for cell in line for one in cell.values()),
        ]
        for player in players:
            yield from (player[name] for name in ("src", "image") if not player[name].startswith("../"))


def _player(src: str, image: str, volume: float) -> dict[str, Any]:
    return {"src": src, "image": image, "volume": round(min(1.0, volume), 6)}


def _stem(key: Key, what: Sequence[str]) -> str:
    """A file name for a sound of an item, without its ending."""
    dataset, item = key
    whole = item if item.startswith(dataset) else f"{dataset}--{item}"
    return file_name("--".join([whole, *(word for word in what[1:] if word), what[0]]))


def _lattice(samples: int) -> MelSettings:
    """The lattice of a small image of so many samples."""
    width, height = _IMAGE_SIZE
    hop = max(1, samples // (width - 1))
    window = max(4096, hop)
    return MelSettings(n_fft=window, win_length=window, hop_length=hop, n_mels=height, frames=width)


def _png(mel: torch.Tensor) -> bytes:
    """A PNG of mel amplitudes [mels, frames] in 0..1: low frequencies at the bottom, colours of magma."""
    levels = (mel.clamp(0, 1) ** RIFFUSION.power * 255).round().to(torch.uint8).flip(-2)
    image = Image.fromarray(levels.numpy()).convert("P")
    image.putpalette(_colours())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _colours() -> bytes:
    """The 256 colours of magma, three bytes each."""
    import matplotlib

    return matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3].tobytes()
