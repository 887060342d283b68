"""Sound files as they occur in the wild, good and bad, written on demand for tests.

`CORPUS` maps a name to a maker; `make(name, folder)` writes that one file and says what reading it must give: "ok" with
the length in seconds, or a regular expression that the reason must match. The sound is a decaying 440 Hz tone with a
little noise, so it is never silent, never clipped (unless that is the point), and never the same twice in a period.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    expected: str
    """ "ok", or a regular expression of the reason for refusal."""
    seconds: float | None = None
    """Length of the sound where it is read."""


Maker = Callable[[Path], Case]
CORPUS: dict[str, Maker] = {}
SECONDS = 1.0


def make(name: str, folder: Path) -> Case:
    """Write one file of the corpus into a folder."""
    return CORPUS[name](folder)


def make_all(folder: Path) -> list[Case]:
    """Write the whole corpus (40 MB, most of it the file that lasts an hour) into a folder."""
    return [make(name, folder) for name in CORPUS]


def sound(rate: int = 44_100, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """Float64 `[frames]`, or `[frames, channels]`; peak below 0.6."""
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).uniform(-1, 1, len(time))
    tone = 0.5 * np.exp(-time / 2) * np.sin(2 * np.pi * 440 * time) + 0.02 * noise
    return tone if channels == 1 else np.stack([tone * 0.9**index for index in range(channels)], axis=1)


def _case(
    name: str, expected: str = "ok", seconds: float | None = SECONDS
) -> Callable[[Callable[[Path], None]], Maker]:
    """Enter the function, which writes to the path it is given, under a file name."""

    def enter(writer: Callable[[Path], None]) -> Maker:
        def maker(folder: Path) -> Case:
            path = folder / name
            writer(path)
            return Case(name, path, expected, seconds if expected == "ok" else None)

        CORPUS[name] = maker
        return maker

    return enter


def _encoded(
    name: str, rate: int = 44_100, channels: int = 1, subtype: str | None = None, container: str | None = None
):
    @_case(name)
    def writer(path: Path) -> None:
        soundfile.write(path, sound(rate, channels=channels), rate, subtype=subtype, format=container)


def _samples(name: str, values: Callable[[], np.ndarray], expected: str, subtype: str = "FLOAT") -> None:
    seconds = len(values()) / 44_100

    @_case(name, expected, seconds)
    def writer(path: Path) -> None:
        soundfile.write(path, values(), 44_100, subtype=subtype)


def _cut(name: str, expected: str, keep: float = 0.5, subtype: str | None = None, container: str | None = None) -> None:
    @_case(name, expected)
    def writer(path: Path) -> None:
        soundfile.write(path, sound(), 44_100, subtype=subtype, format=container)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])


def _with(position: int, value: float) -> np.ndarray:
    values = sound()
    values[position] = value
    return values


def wav_header(rate: int, frames: int, channels: int = 1, bits: int = 16, data_size: int | None = None) -> bytes:
    """The 44 bytes before the samples of a PCM WAV file; `data_size` overrides the honest one."""
    width = channels * bits // 8
    data_size = frames * width if data_size is None else data_size
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * width, width, bits)
    riff_size = min(36 + data_size, 0xFFFFFFFF)
    return struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE") + form + struct.pack("<4sI", b"data", data_size)


for _subtype in ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"]:
    _encoded(f"wav_{_subtype.lower()}.wav", subtype=_subtype)
for _rate in [8_000, 11_025, 16_000, 22_050, 32_000, 44_056, 48_000, 96_000, 192_000]:
    _encoded(f"rate_{_rate}.wav", rate=_rate)
_encoded("stereo.wav", channels=2)
_encoded("six_channels.wav", channels=6)
_encoded("plain.flac")
_encoded("plain.ogg")
_encoded("plain.mp3")
_encoded("plain.aiff")
_encoded("plain.au")
_encoded("plain.w64")
_encoded("plain.caf")
_encoded("plain_rf64.wav", container="RF64")
_encoded("extensible.wav", container="WAVEX", subtype="PCM_24")
_encoded("ogg_inside.wav", container="OGG", subtype="VORBIS")
_encoded("no_extension", container="WAV", subtype="PCM_16")
_encoded("Geräusch – 雨の音 🎧.wav")
_encoded("percent %s {brace} 'quote'.wav")

_samples("full_scale_clipped.wav", lambda: np.clip(10 * sound(), -1, 1), "ok", "PCM_16")
_samples("beyond_full_scale.wav", lambda: 1000 * sound(), "ok")
_samples("sound_on_dc.wav", lambda: 0.4 + 0.5 * sound(), "ok")
_samples("quiet_but_audible.wav", lambda: 0.003 * sound(), "ok")
_samples("one_block.wav", lambda: sound(seconds=0.4), "ok")
_samples("zero_samples.wav", lambda: np.zeros(0), "0 samples")
_samples("short_0.2s.wav", lambda: sound(seconds=0.2), r"lasts 0\.2 s, shorter than the 0\.4 s")
_samples("silence.wav", lambda: np.zeros(44_100), "digital silence", "PCM_16")
_samples("dc_only.wav", lambda: np.full(44_100, 0.5), r"one constant value \(0\.5\)")
_samples("very_quiet.wav", lambda: 1e-5 * sound(), r"silent: all of it lies below the -70 LUFS gate")
_samples("subnormal.wav", lambda: 1e-41 * sound(), r"below the -70 LUFS gate")
_samples("antiphase_stereo.wav", lambda: np.stack([sound(), -sound()], axis=1), "digital silence")
_samples("nan.wav", lambda: _with(100, np.nan), "1 of 44100 samples are NaN or infinite")
_samples("inf.wav", lambda: _with(44_099, -np.inf), "1 of 44100 samples are NaN or infinite")
_samples("double_beyond_float.wav", lambda: _with(5, 1e300), "1 of 44100 samples are NaN or infinite", "DOUBLE")

_cut("truncated.wav", r"truncated: \d+ of 44100 frames", subtype="PCM_16")
_cut("truncated_by_one_frame.wav", "truncated: 44099 of 44100 frames", keep=1 - 1e-5, subtype="PCM_16")
_cut("truncated_adpcm.wav", r"truncated: \d+ of \d+ bytes", subtype="IMA_ADPCM")
_cut("truncated_rf64.wav", r"truncated: \d+ of 44100 frames", container="RF64")
_cut("truncated_header.wav", "not audio", keep=0.0003, subtype="PCM_16")
_cut("truncated.flac", "truncated or damaged")
_cut("truncated.ogg", "holds 0 samples")
_cut("truncated.aiff", r"truncated: \d+ of \d+ bytes")
_cut("truncated.au", r"truncated: \d+ of \d+ bytes")
_cut("truncated.w64", r"truncated: \d+ of \d+ bytes")


@_case("streamed_to_a_pipe.wav")
def _streamed(path: Path) -> None:
    samples = (32767 * sound()).astype("<i2").tobytes()
    path.write_bytes(wav_header(44_100, 0, data_size=0xFFFFFFFF) + samples)


@_case("with_trailing_chunk.wav")
def _trailing(path: Path) -> None:
    soundfile.write(path, sound(), 44_100, subtype="PCM_16")
    with path.open("ab") as file:
        file.write(struct.pack("<4sI", b"junk", 3) + b"abc\0")


@_case("text.wav", "not audio")
def _text(path: Path) -> None:
    path.write_text("This is not a sound.\n" * 100)


@_case("length_unknown.flac", "does not give its length")
def _length_unknown(path: Path) -> None:
    soundfile.write(path, sound(), 44_100)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO's number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)


@_case("empty.wav", r"empty \(0 bytes\)")
def _empty(path: Path) -> None:
    path.touch()


@_case("random_bytes.flac", "not audio")
def _random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(5_000))


@_case("damaged.flac", "truncated or damaged")
def _damaged(path: Path) -> None:
    soundfile.write(path, sound(), 44_100)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = bytes(2_000)
    path.write_bytes(data)


@_case("absurd_rate_low.wav", "sample rate 1 Hz lies outside")
def _rate_low(path: Path) -> None:
    path.write_bytes(wav_header(1, 1_000) + bytes(range(200)) * 10)


@_case("absurd_rate_high.wav", "sample rate 2000000000 Hz lies outside")
def _rate_high(path: Path) -> None:
    path.write_bytes(wav_header(2_000_000_000, 1_000) + bytes(range(200)) * 10)


@_case("missing.wav", "no such file")
def _missing(path: Path) -> None:
    path.unlink(missing_ok=True)


@_case("directory.wav", "not a regular file")
def _directory(path: Path) -> None:
    path.mkdir()


@_case("symlink_to_itself.wav", "cannot be read")
def _symlink_loop(path: Path) -> None:
    path.symlink_to(path.name)


@_case("line\nbreak.wav", "no such file")
def _line_break(path: Path) -> None:
    path.unlink(missing_ok=True)


@_case("hour_long.wav", seconds=3600.0)
def _hour(path: Path) -> None:
    rate = 8_000
    minute = (128 + 127 * sound(rate, 60.0)).astype(np.uint8).tobytes()
    with path.open("wb") as file:
        file.write(wav_header(rate, 3600 * rate, bits=8))
        for _ in range(60):
            file.write(minute)
