"""Random damage to sounds, tables and manifests: `PYTHONPATH=tests python -m support.fuzz --seconds 300`.

The rule that is checked: nothing but a BlendbenchError comes out of bad input, with one line that names the file; a
sound that is read is finite and no longer than its bytes can hold; what a table gives has ids that stand once, paths
that stay in their folder, and text that any file can hold. An input may take 10 s and the process 2 GB.

Every input is made from a string of bytes by `Dice`, so any engine that makes bytes will do: hypothesis, or atheris
(libFuzzer, which learns from the package's branches; `pip install atheris`). Findings go to `--out` as the string of
bytes, the file it became, and the account of what went wrong; each kind once. `--replay FILE` runs one again.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile

from support.audio_corpus import chunk, encoded, extensible, fmt, id3, pcm, rf64, riff, sound

_Any = TypeVar("_Any")

MEMORY = 2 << 30
"""Bytes that a fuzzing process may take."""
SECONDS_AN_INPUT = 10

KNOWN: dict[str, str] = {}
"""Faults that are known, by the beginning of target and `kind_of`, and why: counted and kept, but no news. A mended one
is taken out."""


class Fault(Exception):
    """The rule is broken."""


class Endless(BaseException):
    """An input takes too long. No Exception, which the package might take for a fault of the file."""


class Dice:
    """Choices read off a string of bytes; zeros, the plainest choice, when that has come to its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def number(self, below: int) -> int:
        """A whole number from 0 on."""
        size = max(1, (max(1, below - 1).bit_length() + 7) // 8)
        return int.from_bytes(self.bytes(size).ljust(size, b"\0"), "little") % below

    def bytes(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        self.place += size
        return self.data[self.place - size : self.place]

    def pick(self, choices: Sequence[_Any]) -> _Any:
        """One of them."""
        return choices[self.number(len(choices))]

    def times(self, most: int) -> range:
        """A number of turns, up to `most`."""
        return range(self.number(most + 1))


# Sounds

_RATE = 8_000
_SHORT = sound(_RATE, 0.45)
_BASES: dict[str, list[bytes]] = {
    "pcm": [fmt(rate=_RATE), chunk(b"data", pcm(_SHORT))],
    "stereo": [fmt(channels=2, rate=_RATE), chunk(b"LIST", b"INFO"), chunk(b"data", pcm(_SHORT))],
    "float": [fmt(3, rate=_RATE, bits=32), chunk(b"fact", bytes(4)), chunk(b"data", _SHORT.astype("<f4").tobytes())],
    "double": [fmt(3, rate=_RATE, bits=64), chunk(b"data", _SHORT.astype("<f8").tobytes())],
    "24 bits": [fmt(rate=_RATE, bits=24), chunk(b"JUNK", bytes(28)), chunk(b"data", pcm(_SHORT))],
    "8 bits": [fmt(rate=_RATE, bits=8), chunk(b"data", bytes(pcm(_SHORT))[::2])],
    "A-law": [fmt(6, rate=_RATE, bits=8), chunk(b"data", pcm(_SHORT))],
    "extensible": [extensible(), chunk(b"data", pcm(sound(seconds=0.45)))],
    "IMA": [encoded("WAV", "IMA_ADPCM", _SHORT, _RATE)[12:]],
    "MS": [encoded("WAV", "MS_ADPCM", _SHORT, _RATE)[12:]],
    "GSM": [encoded("WAV", "GSM610", _SHORT, _RATE)[12:]],
    "RF64": [rf64(2 * len(_SHORT))[12:48], fmt(rate=_RATE), chunk(b"data", pcm(_SHORT), 0xFFFFFFFF)],
}
_FORMS = (b"RIFF", b"RIFF", b"RIFF", b"RIFX", b"RF64", b"BW64")
_KINDS = (b"fmt ", b"data", b"LIST", b"fact", b"PEAK", b"smpl", b"cue ", b"inst", b"bext", b"ds64", b"JUNK", bytes(4))
_SIZES = (
    0, 1, 2, 3, 4, 7, 8, 14, 15, 16, 17, 18, 39, 40, 2**16 - 1, 2**16, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 16,
    2**32 - 8, 2**32 - 2, 2**32 - 1, 0x7FFFF000, 0x7FFFEFFF, 10**6, 10**9,
)  # fmt: skip
_FIELDS = {0: 2, 2: 2, 4: 4, 8: 4, 12: 2, 14: 2, 16: 2, 18: 2, 20: 4, 24: 2}
"""Places of the fields in a `fmt ` chunk, and their bytes."""
_VALUES = (0, 1, 2, 3, 4, 6, 7, 8, 0x11, 16, 17, 20, 24, 32, 33, 64, 255, 256, 1_024, 1_025, 3_999, 4_000, 8_000,
           44_100, 384_000, 384_001, 65_534, 65_535, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
_BITS = {"IMA_ADPCM": 4, "MS_ADPCM": 4, "GSM610": 1.625, "NMS_ADPCM_16": 2, "NMS_ADPCM_24": 3, "NMS_ADPCM_32": 4,
         "G721_32": 4, "G723_24": 3, "G723_40": 5, "PCM_S8": 8, "PCM_U8": 8, "ALAW": 8, "ULAW": 8, "PCM_16": 16,
         "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64, "DPCM_8": 8, "DPCM_16": 16}  # fmt: skip
"""Bits that a sample takes in a file; for other formats, which compress as they can, nothing is said."""


def wav(dice: Dice) -> bytes:
    """A WAV file, its chunks in another order, of other sizes and with other content than is lawful."""
    chunks = list(dice.pick(list(_BASES.values())))
    for _ in dice.times(6):
        place = dice.number(len(chunks)) if chunks else 0
        match dice.number(9):
            case 0 if chunks:
                chunks.append(chunks.pop(place))
            case 1 if chunks:
                chunks.pop(place)
            case 2 if chunks:
                chunks.insert(dice.number(len(chunks) + 1), chunks[place])
            case 3 if chunks:
                size = _near(dice, len(chunks[place]))
                chunks[place] = chunks[place][:4] + size.to_bytes(4, "little") + chunks[place][8:]
            case 4 if chunks:
                chunks[place] = dice.pick(_KINDS) + chunks[place][4:]
            case 5:
                chunks.insert(place, chunk(dice.pick(_KINDS), dice.bytes(dice.number(60)), _near(dice, 20)))
            case 6 if chunks:
                field = dice.pick(list(_FIELDS))
                width = _FIELDS[field]
                value = dice.pick(_VALUES) % 256**width
                if len(chunks[place]) >= 8 + field + width:
                    chunks[place] = _put(chunks[place], 8 + field, value.to_bytes(width, "little"))
            case 7:
                chunks.insert(place, dice.bytes(dice.number(12)))
            case _ if chunks:
                chunks[place] = chunks[place] + b"\0" * dice.number(3)
    size = _near(dice, 4 + sum(map(len, chunks))) if dice.number(4) == 3 else None
    content = riff(*chunks, form=dice.pick(_FORMS), size=size)
    if dice.number(8) == 7:
        content = id3(dice.number(300)) + content
    return damaged(dice, content)


def _near(dice: Dice, size: int) -> int:
    """A size that is right, nearly right, or far off."""
    return (size - 8, size - 9, size - 7, size - 10, size - 6, dice.pick(_SIZES))[dice.number(6)] % 2**32


def _put(content: bytes, place: int, other: bytes) -> bytes:
    return content[:place] + other + content[place + len(other) :]


def damaged(dice: Dice, content: bytes) -> bytes:
    """A file with some of its first bytes changed, or with its end missing."""
    for _ in dice.times(4):
        if content:
            content = _put(content, dice.number(min(len(content), 1 << dice.number(13))), dice.bytes(1))
    if dice.number(4) == 3:
        content = content[: dice.number(len(content) + 1)]
    return content


_OTHERS: dict[str, bytes] = {}


def other_sound(dice: Dice) -> bytes:
    """A file of another format with some bytes changed."""
    if not _OTHERS:
        values = sound(_RATE, 0.45)
        for container, subtype in [
            ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"),
            ("AU", "PCM_16"), ("AU", "G721_32"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"),
            ("W64", "IMA_ADPCM"), ("VOC", "PCM_16"), ("NIST", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("AVR", "PCM_16"),
            ("SVX", "PCM_16"), ("PAF", "PCM_24"), ("IRCAM", "PCM_16"), ("MAT4", "PCM_16"), ("MAT5", "PCM_16"),
            ("PVF", "PCM_16"), ("XI", "DPCM_16"), ("MPC2K", "PCM_16"), ("AIFF", "DWVW_16"),
        ]:  # fmt: skip
            with contextlib.suppress(soundfile.LibsndfileError):
                _OTHERS[f"{container} {subtype}"] = encoded(container, subtype, values, _RATE)
    return damaged(dice, dice.pick(list(_OTHERS.values())))


def check_sound(dice: Dice, content: bytes, folder: Path) -> None:
    """The rule for a sound, read whole and in part."""
    from blendbench.datasets import NoiseClip
    from blendbench.datasets.reading import read_clip
    from blendbench.sound import files

    path = folder / "fuzzed.wav"
    path.write_bytes(content)
    waveform = refused_or(lambda: files.read(path, min_seconds=0), path)
    if waveform is not None:
        _sound(waveform)
        _fits(waveform, 44_100, path)
    start = dice.number(500) / 1_000
    part = refused_or(lambda: files.read(path, start=start, max_seconds=0.4), path)
    if part is not None:
        _sound(part)
        expect(len(part) <= round(0.4 * 44_100), f"{len(part)} samples are more than was asked for")
    span = refused_or(lambda: files.read_span(path, start, start + 0.1), path)
    if span is not None:
        _sound(span[0])
        expect(len(span[0]) <= 0.1 * span[1] + 1, f"{len(span[0])} frames are more than was asked for")
    whole = refused_or(lambda: files.read_span(path, 0.0, 1e6), path)
    known = by_wave(path)
    if whole is not None and known is not None and whole[1] == known[1]:
        mono = whole[0].numpy()
        expect(len(mono) == len(known[0]), f"{len(mono)} frames, and the module wave finds {len(known[0])}")
        expect(bool(np.abs(mono - known[0]).max(initial=0) < 1e-6), "the module wave finds another sound")
    refused_or(lambda: read_clip(NoiseClip("id", path, "", "", span=(start, start + 0.4)), 5.0), path)


def by_wave(path: Path) -> tuple[np.ndarray, int] | None:
    """What Python's own module makes of a PCM file: the mean of its channels, and its rate."""
    content = path.read_bytes()
    if content.count(b"data") > 1:
        return None  # libsndfile takes the last: see "data_twice_before_another_chunk.wav" of the corpus
    if b"data" + bytes(4) in content:
        return None  # a length that nobody filled in: that module takes the 0 at its word
    # That module believes the size at the top, which libsndfile passes over.
    content = _put(content, 4, min(max(0, len(content) - 8), 2**32 - 1).to_bytes(4, "little"))
    try:
        with wave.open(io.BytesIO(content), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError):
        return None
    if width > 4 or channels > 1_024:
        return None
    content = content[: len(content) // (width * channels) * width * channels]
    values = np.zeros((len(content) // width, 4), np.uint8)
    values[:, 4 - width :] = np.frombuffer(content, np.uint8).reshape(-1, width)
    if width == 1:
        values[:, 3] ^= 0x80
    samples = values.view("<i4")[:, 0] / 2**31
    return samples.reshape(-1, channels).mean(axis=1), rate


def _sound(waveform: Any) -> None:
    import torch

    expect(waveform.dtype == torch.float32 and waveform.ndim == 1, f"{waveform.dtype} of {list(waveform.shape)}")
    expect(bool(torch.isfinite(waveform).all()), "samples that are not finite")


def _fits(waveform: Any, rate: int, path: Path) -> None:
    """A sound of a known format has no more samples than the file has bits for."""
    from blendbench.sound.chunks import bare

    with path.open("rb") as content, contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(path))
        except soundfile.LibsndfileError:  # which does not know its way through all of the chunks
            file = stack.enter_context(soundfile.SoundFile(bare(content, path.stat().st_size)))
        own, channels = file.samplerate, file.channels
        bits = None if file.format == "FLAC" else _BITS.get(file.subtype)
    if bits is not None:
        frames = len(waveform) * own / rate
        # The last block of a compressed format may be filled up.
        most = path.stat().st_size * 8 / bits / channels + own / rate + (2_048 if bits < 8 else 0)
        expect(frames <= most, f"{frames:.0f} frames of {channels} x {bits} bits in {path.stat().st_size} bytes")


# Tables

_TEXTS = (
    "", " ", "a", "b.wav", "1-1-A-0.wav", "../a.wav", "/a.wav", "a/../../b", "C:\\a.wav", "\\\\a\\b", "a\0b", "..", ".",
    "0", "-1", "1", "2", "1e400", "-1e400", "nan", "inf", "0x10", "1_0", "1.5", "٣", "9" * 400, "x" * 300, "a\nb",
    '"', '""', "'", ",", ";", "\t", "\r", "\u2028", "\u202e", "\ufeff", "e\u0301", "👩‍👩‍👧", "=1+1", "<b>", "%s", "{0}",
    "dog", "true", "null", "x" * 140_000,
)  # fmt: skip
_HEADERS = (
    ("filename", "fold", "target", "category", "esc10", "src_file", "take"),
    ("annotation_id", "video_id", "start_sample", "stop_sample", "class"),
    ("file", "label", "source", "prompt", "genre"),
    ("prompt_id", "genre", "prompt"),
)
_ROWS = (
    ("1-1-A-0.wav", "1", "0", "dog", "True", "1", "A"),
    ("P01_1", "P01", "0", "48000", "rustle"),
    ("a.wav", "rain", "a", "calm jazz", "Jazz"),
    ("a", "Jazz", "calm jazz"),
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32")


def table(dice: Dice) -> tuple[int, bytes]:
    """A CSV table of one of the layouts, and which."""
    layout = dice.number(len(_HEADERS))
    lines = [list(_HEADERS[layout])]
    for number in range(1 + dice.number(4)):
        cells = list(_ROWS[layout])
        if number and layout != 2:
            cells[0] = f"{number}{cells[0]}"
        lines.append(cells)
    for _ in dice.times(5):
        cells = dice.pick(lines[1:] if dice.number(4) else lines)
        match dice.number(5):
            case 0 | 1 if cells:
                cells[dice.number(len(cells))] = dice.pick(_TEXTS)
            case 2 if cells:
                cells.pop(dice.number(len(cells)))
            case 3:
                cells.insert(dice.number(len(cells) + 1), dice.pick(_TEXTS))
            case _:
                lines.append(list(cells))
    quote = dice.number(3)
    end = dice.pick(("\n", "\r\n", "\r", "\n\n"))
    text = "".join(",".join(_cell(cell, quote) for cell in cells) + end for cells in lines)
    content = text.encode(dice.pick(_ENCODINGS), "replace")
    return layout, damaged(dice, content) if dice.number(4) == 3 else content


def _cell(text: str, quote: int) -> str:
    if quote == 2 or (quote == 1 and any(mark in text for mark in '",\r\n')):
        return '"' + text.replace('"', '""') + '"'
    return text


def check_table(dice: Dice, made: tuple[int, bytes], folder: Path) -> None:
    """The rule for a CSV table, as the data set reads it whose it is."""
    from blendbench.datasets import builtin, epic_sounds, esc50
    from blendbench.datasets import folder as folders

    layout, content = made
    root = folder / "root"
    places = ("ESC-50/meta/esc50.csv", "EPIC-SOUNDS/EPIC_Sounds_validation.csv", "table.csv", "prompts.csv")
    path = root / places[layout]
    for place in (path.parent, root / "ESC-50" / "audio", root / "EPIC-SOUNDS" / "audio"):
        place.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    readers: list[Callable[[], Any]] = [
        lambda: esc50.esc50(str(root), per_class=dice.pick((None, 1, 2))),
        lambda: epic_sounds.epic_sounds(str(root), clips=dice.pick((None, 1, 5))),
        lambda: folders.noise(str(root), str(path)),
        lambda: builtin.prompts(str(path)),
    ]
    found = refused_or(readers[layout], path, or_key="dataset.")
    if found is None:
        return
    if layout == 3:
        _texts([value for prompt in found for value in (prompt.id, prompt.genre, prompt.text)])
        _unique(prompt.id for prompt in found)
        return
    _unique(clip.id for clip in found)
    for clip in found:
        _texts([clip.id, clip.label, clip.source, clip.member, *(prompt.text for prompt in clip.prompts)])
        inside = Path(os.path.normpath(clip.path)).is_relative_to(root)
        expect(inside, f"{clip.path} leads out of its folder")
        if clip.span is not None:
            expect(0 <= clip.span[0] < clip.span[1] < math.inf, f"span {clip.span}")
    _pairs(found)


def _pairs(clips: list[Any]) -> None:
    from blendbench.datasets import Prompt
    from blendbench.tasks.blend.pairing import make_pairs

    pairs = refused_or(lambda: make_pairs("set", clips, [Prompt("a", "Jazz", "x")], 1, 0, 20), Path("set"))
    expect(pairs is not None, "clips that were read cannot be paired")
    _unique(pair.id for pair in pairs)


def _texts(values: list[Any]) -> None:
    """Text that a ledger can hold."""
    for value in values:
        expect(isinstance(value, str), f"{value!r} is no text")
        value.encode()


def _unique(ids: Iterator[str]) -> None:
    known = list(ids)
    expect(len(known) == len(set(known)), "an id that stands twice")


# JSON: lines, and manifests

_SONG: dict[str, Any] = {
    "dataset": "train", "location": "data/a.wav", "main_caption": "A Jazz piece.", "genre": "Jazz", "song": "a",
}  # fmt: skip
_MANIFEST: dict[str, Any] = {
    "name": "own",
    "rule": {"choice_seed": 0},
    "text": "",
    "expected": {"clips": 2, "classes": 1},
    "clips": [
        {"id": "a", "class": "dog", "digest": "sha256:" + "0" * 64},
        {"id": "b", "class": "dog", "digest": "md5:" + "0" * 32},
    ],
}
_NAMES = ("data/a.wav", "../a", "sha256:00", "md5:", "sha1:0", "\ud800", "\udcff.wav")


def any_value(dice: Dice, depth: int = 0) -> Any:
    """Any value of JSON, and some that JSON has not."""
    match dice.number(9):
        case 0 | 1 | 2:
            return dice.pick(
                [*_TEXTS[:-1], "data/a.wav", "../a", "sha256:00", "md5:", "sha1:0", "\ud800", "\udcff.wav"]
            )
        case 3:
            return dice.pick((0, 1, -1, 2**63, -(2**63), 10**400, 1.5, 1e308, math.nan, math.inf, -math.inf))
        case 4:
            return dice.pick((None, True, False))
        case 5 if depth < 4:
            return [any_value(dice, depth + 1) for _ in dice.times(3)]
        case 6 if depth < 4:
            return {str(any_value(dice, 4)): any_value(dice, depth + 1) for _ in dice.times(3)}
        case 7:
            nested: Any = []
            for _ in range(dice.pick((2, 50, 3_000))):
                nested = [nested]
            return _Written(nested)
        case _:
            return {}


class _Written:
    """A value too deep for the encoder."""

    def __init__(self, value: list) -> None:
        self.depth = 0
        while value:
            value, self.depth = value[0], self.depth + 1

    def __str__(self) -> str:
        return "[" * self.depth + "]" * self.depth


def written(value: Any) -> str:
    """JSON text."""
    if isinstance(value, _Written):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    sys.set_int_max_str_digits(0)
    text = json.dumps(value)
    sys.set_int_max_str_digits(4_300)
    return text


def _changed(dice: Dice, value: Any) -> Any:
    """A value, or a part of it, replaced, taken out or doubled."""
    if isinstance(value, dict) and value and dice.number(4):
        key = dice.pick(list(value))
        match dice.number(8):
            case 0:
                return {name: inner for name, inner in value.items() if name != key}
            case 1:
                return value | {dice.pick(("id", "class", "digest", "size", "clips", "")): any_value(dice)}
            case _:
                return value | {key: _changed(dice, value[key])}
    if isinstance(value, list) and value and dice.number(4):
        place = dice.number(len(value))
        if dice.number(5) == 0:
            return [*value, value[place]]
        return [*value[:place], _changed(dice, value[place]), *value[place + 1 :]]
    return any_value(dice)


def _encoded(dice: Dice, text: str) -> bytes:
    content = text.encode(dice.pick(_ENCODINGS), "replace")
    return damaged(dice, content) if dice.number(4) == 3 else content


def songs(dice: Dice) -> bytes:
    """A table of MusicBench."""
    lines = []
    for number in range(1 + dice.number(3)):
        song: Any = _SONG | {"location": f"data/{number}.wav", "song": str(number)}
        for _ in dice.times(2):
            song = _changed(dice, song)
        lines.append(written(song))
    return _encoded(dice, dice.pick(("\n", "\r\n", "\n\n", " ", ",")).join(lines))


def check_songs(dice: Dice, content: bytes, folder: Path) -> None:
    """The rule for MusicBench's table."""
    from blendbench.datasets import musicbench
    from blendbench.datasets.choosing import split_music

    path = folder / "MusicBench" / "MusicBench_train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    found = refused_or(lambda: musicbench.musicbench(str(folder), clips=dice.pick((None, 1, 5))), path)
    if found is None:
        return
    _unique(clip.id for clip in found)
    for clip in found:
        _texts([clip.id, clip.genre, clip.caption, clip.source])
        inside = Path(os.path.normpath(clip.path)).is_relative_to(path.parent)
        expect(inside, f"{clip.path} leads out of its folder")
    refused_or(lambda: split_music(found, 0), Path("music"))


def manifest(dice: Dice) -> bytes:
    """A manifest."""
    value: Any = _MANIFEST
    for _ in dice.times(3):
        value = _changed(dice, value)
    return _encoded(dice, written(value))


def check_manifest(dice: Dice, content: bytes, folder: Path) -> None:
    """The rule for a manifest, and for holding clips against it."""
    from blendbench.datasets import NoiseClip, manifests

    path = folder / "own.json"
    path.write_bytes(content)
    found = refused_or(lambda: manifests.read(path), path)
    if found is None:
        return
    expect(all(type(count) is int for count in found.expected.values()), f"counts {found.expected}")
    _unique(row["id"] for row in found.clips)
    _texts([value for row in found.clips for value in row.values()])
    sounds = [NoiseClip(name, folder / f"{name}.wav", "dog", name) for name in "ab"]
    for clip in sounds:
        clip.path.write_bytes(b"not that")
    for name, what in manifests.differences(found, sounds):
        expect(what.isprintable(), f"{name!r} {what!r} is no line")


# The rule


def expect(holds: bool, otherwise: str) -> None:
    """Raise Fault unless something holds."""
    if not holds:
        raise Fault(otherwise)


def refused_or(read: Callable[[], _Any], path: Path, or_key: str = "") -> _Any | None:
    """What is read, or None where that is refused as the rule has it."""
    from blendbench.errors import BlendbenchError

    try:
        return read()
    except BlendbenchError as error:
        text = str(error)
        expect(text.isprintable(), f"{text!r} is no line")
        expect(path.name in text or (or_key != "" and or_key in text), f"{text!r} does not name {path.name}")
        expect(len(text) < 1_000, f"a line of {len(text)} characters: {text[:100]!r}")
        return None


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Ten seconds for what is done here."""

    def stop(*_: object) -> None:
        raise Endless(f"more than {SECONDS_AN_INPUT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_AN_INPUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


TARGETS: dict[str, tuple[Callable[[Dice], Any], Callable[[Dice, Any, Path], None]]] = {
    "wav": (wav, check_sound),
    "sound": (other_sound, check_sound),
    "table": (table, check_table),
    "songs": (songs, check_songs),
    "manifest": (manifest, check_manifest),
}


def try_one(target: str, data: bytes, folder: Path) -> None:
    """Make one input of a string of bytes and hold the package to the rule; raises what breaks it."""
    make, check = TARGETS[target]
    dice = Dice(data)
    with warnings.catch_warnings(), limits():
        # A warning would be a second line on stderr.
        warnings.simplefilter("error")
        warnings.simplefilter("default", ResourceWarning)  # of garbage from before
        check(dice, make(dice), folder)


def kind_of(error: BaseException) -> str:
    """Where a fault comes from: the exception, and the last line of the package that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "blendbench" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "the rule"
    said = "".join(c for c in str(error).split("/")[0] if c.isalpha() or c == " ")[:40].strip()
    return f"{type(error).__name__} in {place}" + (f": {said}" if isinstance(error, Fault) else "")


def load() -> None:
    """Import the package: before an input's seconds begin, and where atheris looks on."""
    for name in ("builtin", "epic_sounds", "esc50", "folder", "manifests", "musicbench"):
        importlib.import_module(f"blendbench.datasets.{name}")
    importlib.import_module("blendbench.tasks.blend.pairing")


# Engines


class Hunt:
    """Counts what is tried, and keeps what is found in a folder."""

    def __init__(self, out: Path, targets: Sequence[str], ends: float) -> None:
        self.out, self.targets, self.ends = out, targets, ends
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz."))
        self.tried = dict.fromkeys(targets, 0)
        self.kinds: dict[str, int] = {}
        self.slowest = 0.0

    def one(self, data: bytes) -> None:
        """Try one string of bytes; its first byte chooses the target."""
        target = self.targets[data[0] % len(self.targets)] if data else self.targets[0]
        # A crash leaves this behind.
        (self.out / "current").write_bytes(target.encode() + b"\n" + data[1:])
        began = time.perf_counter()
        try:
            try_one(target, data[1:], self.folder)
        except (Exception, Endless) as error:
            self._keep(target, data[1:], error)
        self.slowest = max(self.slowest, time.perf_counter() - began)
        self.tried[target] += 1
        if sum(self.tried.values()) % 50 == 0:
            self.write()

    def _keep(self, target: str, data: bytes, error: BaseException) -> None:
        kind = f"{target}: {kind_of(error)}"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.kinds[kind] == 1:
            name = hashlib.sha256(kind.encode()).hexdigest()[:12]
            (self.out / f"{name}.bytes").write_bytes(target.encode() + b"\n" + data)
            account = "".join(traceback.format_exception(error))
            (self.out / f"{name}.txt").write_text(f"{kind}\n\n{account}", encoding="utf-8", errors="backslashreplace")
            made = TARGETS[target][0](Dice(data))
            (self.out / f"{name}.input").write_bytes(made if isinstance(made, bytes) else made[1])
            self.write()

    def write(self) -> None:
        """Write down how far it is."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        facts = {"tried": self.tried, "kinds": self.kinds, "slowest_s": round(self.slowest, 2), "peak_mb": peak}
        (self.out / f"tried.{os.getpid()}.json").write_text(json.dumps(facts, indent=1))

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.time() > self.ends


def by_hypothesis(hunt: Hunt, seed: int) -> None:
    """Strings of bytes from hypothesis, 300 a turn, until the time is up."""
    import hypothesis
    from hypothesis import strategies as st

    load()
    settings = hypothesis.settings(
        max_examples=300, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip

    @settings
    @hypothesis.given(st.binary(min_size=1, max_size=200))
    def turn(data: bytes) -> None:
        if not hunt.over:
            hunt.one(data)

    while not hunt.over:
        hypothesis.seed(seed)(turn)()
        seed += 1
    hunt.write()


def by_atheris(hunt: Hunt, seed: int) -> None:
    """Strings of bytes from libFuzzer, led by the branches of the package; does not return."""
    import atheris

    with atheris.instrument_imports(include=["blendbench"]):
        load()
    corpus = hunt.folder / "corpus"
    corpus.mkdir()
    draw = random.Random(seed)
    for number in range(200):
        (corpus / str(number)).write_bytes(bytes([number]) + draw.randbytes(draw.randrange(200)))
    seconds = max(1, round(hunt.ends - time.time()))
    flags = [f"-max_total_time={seconds}", "-max_len=200", "-timeout=0", "-handle_alrm=0", "-rss_limit_mb=0"]
    flags += [f"-seed={seed}", "-verbosity=0", f"-artifact_prefix={hunt.out}/"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], hunt.one)
    atheris.Fuzz()


def work(arguments: argparse.Namespace) -> None:
    """Fuzz in this process, which may take 2 GB."""
    # Before the limits, and before atheris looks at what is imported.
    import h5py  # noqa: F401
    import pyloudnorm  # noqa: F401
    import torch  # noqa: F401

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    hunt = Hunt(arguments.out, arguments.target or list(TARGETS), arguments.ends)
    try:
        {"hypothesis": by_hypothesis, "atheris": by_atheris}[arguments.engine](hunt, arguments.seed)
    finally:
        hunt.write()
        shutil.rmtree(hunt.folder, ignore_errors=True)


def main() -> int:
    """Fuzz in a process of its own, and in a new one where that crashes; 1 if there is news."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="which inputs; all if left out")
    parser.add_argument("--out", type=Path, help="new folder of what is found; a temporary one if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path, help="a .bytes file of that folder")
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replay:
        load()
        target, _, data = arguments.replay.read_bytes().partition(b"\n")
        with tempfile.TemporaryDirectory() as folder:
            try_one(target.decode(), data, Path(folder))
        return 0
    if arguments.ends:
        work(arguments)
        return 0
    if arguments.out is None:
        arguments.out = Path(tempfile.mkdtemp(prefix="blendbench-fuzz."))
    elif arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"--out={arguments.out}: is not empty")
    arguments.out.mkdir(parents=True, exist_ok=True)
    ends, seed, crashes = time.time() + arguments.seconds, arguments.seed, 0
    while time.time() < ends - 1:
        words = [sys.executable, "-m", "support.fuzz", f"--out={arguments.out}", f"--engine={arguments.engine}"]
        words += [f"--seed={seed}", f"--ends={ends}", *(f"--target={name}" for name in arguments.target or [])]
        with (arguments.out / "log").open("ab") as log:
            try:
                status = subprocess.run(words, stdout=log, stderr=log, timeout=ends - time.time() + 60).returncode
            except subprocess.TimeoutExpired:
                status = -1
        if status != 0:
            crashes += 1
            shutil.copy(arguments.out / "current", arguments.out / f"crash-{seed}-status{status}.bytes")
        seed += 1_000_000
    return report(arguments.out, crashes)


def report(out: Path, crashes: int) -> int:
    """Print what was tried and found; 1 if there is news."""
    facts = [json.loads(file.read_text()) for file in out.glob("tried.*.json")]
    if not facts:
        print(f"nothing was tried; see {out / 'log'}")
        return 1
    for name in sorted({name for fact in facts for name in fact["tried"]}):
        print(f"{name:<10} {sum(fact['tried'].get(name, 0) for fact in facts):>9} inputs")
    print(f"slowest {max(fact['slowest_s'] for fact in facts)} s, most memory {max(f['peak_mb'] for f in facts)} MB")
    kinds: dict[str, int] = {}
    for fact in facts:
        for kind, times in fact["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + times
    for kind, times in sorted(kinds.items()):
        file = hashlib.sha256(kind.encode()).hexdigest()[:12]
        print(f"{'known' if known(kind) else 'NEW':<6} {times:>7} x {kind}  ({file})")
    print(f"{crashes} crashes; {out}")
    return int(crashes > 0 or any(not known(kind) for kind in kinds))


def known(kind: str) -> str:
    """Why a kind of fault is no news; "" if it is."""
    return next((reason for name, reason in KNOWN.items() if kind.startswith(name)), "")


if __name__ == "__main__":
    sys.exit(main())
