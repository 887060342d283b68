"""Sound files as they occur in the wild, good and bad, written on demand for tests.

`CORPUS` maps a name to a maker; `make(name, folder)` writes that one file and says what reading it must give: "ok" with
the length in seconds, or a regular expression that the reason must match. The sound is a decaying 440 Hz tone with a
little noise, so it is never silent, never clipped (unless that is the point), and never the same twice in a period.

Where a strange file is read at all, `Case.heard` is the very sound that it must give.
"""

import gzip
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
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
    heard: np.ndarray | None = field(default=None, compare=False)
    """The sound itself at 44.1 kHz, channels averaged, where it is known to the sample."""
    tolerance: float = 0.0
    """Largest difference from `heard` that the file's sample format explains, relative to its peak."""


Maker = Callable[[Path], Case]
CORPUS: dict[str, Maker] = {}
HEARD: list[str] = []
"""Names of the cases of CORPUS of which the very sound is known."""
SECONDS = 1.0
RATE = 44_100


def make(name: str, folder: Path) -> Case:
    """Write one file of the corpus, or one that is got wrong as yet, into a folder."""
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
    name: str,
    expected: str = "ok",
    seconds: float | None = SECONDS,
    heard: Callable[[], np.ndarray] | None = None,
    tolerance: float = 0.0,
) -> Callable[[Callable[[Path], None]], Maker]:
    """Enter the function, which writes to the path it is given, under a file name."""

    def enter(writer: Callable[[Path], None]) -> Maker:
        def maker(folder: Path) -> Case:
            path = folder / name
            writer(path)
            known = heard() if heard else None
            length = len(known) / RATE if known is not None else seconds
            return Case(name, path, expected, length if expected == "ok" else None, known, tolerance)

        CORPUS[name] = maker
        if heard:
            HEARD.append(name)
        return maker

    return enter


def _bytes(
    name: str,
    content: Callable[[], bytes],
    expected: str = "ok",
    seconds: float = SECONDS,
    heard: Callable[[], np.ndarray] | None = sound,
    tolerance: float = 2**-14,
) -> None:
    """Enter a file by its content; where that is read, the sound is `sound()` at 16 bits unless told otherwise."""

    @_case(name, expected, seconds, heard if expected == "ok" else None, tolerance)
    def writer(path: Path) -> None:
        path.write_bytes(content())


def _encoded(
    name: str, rate: int = 44_100, channels: int = 1, subtype: str | None = None, container: str | None = None
):
    @_case(name)
    def writer(path: Path) -> None:
        soundfile.write(path, sound(rate, channels=channels), rate, subtype=subtype, format=container)


def _samples(name: str, values: Callable[[], np.ndarray], expected: str, subtype: str = "FLOAT") -> None:
    def heard() -> np.ndarray:
        return values() if values().ndim == 1 else values().mean(axis=1)

    @_case(name, expected, heard=heard if expected == "ok" else None, tolerance=2**-14)
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
_samples(
    "antiphase_stereo.wav",
    lambda: np.stack([sound(), -sound()], axis=1),
    r"its channels cancel out: channel 0 has sound, .*noise\.channel=0",
)
_samples(
    "antiphase_but_for_a_hiss.wav",
    lambda: np.stack([sound(), 1e-5 * np.random.default_rng(4).uniform(-1, 1, RATE) - sound()], axis=1),
    "its channels cancel out",
)
_samples(
    "third_and_fourth_channel_in_antiphase.wav",
    lambda: np.stack([0 * sound(), 0 * sound(), sound(), -sound()], axis=1),
    r"channel 2 has sound, .*noise\.channel=2",
)
_samples("nearly_antiphase.wav", lambda: np.stack([sound(), -0.9 * sound()], axis=1), "ok")
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


@_case("text.wav", "not audio that libsndfile reads, but text .'This is not a sound")
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


# The parts of the formats, for headers that no encoder would write.


def pcm(values: np.ndarray | None = None, order: str = "<") -> bytes:
    """16-bit samples, of `sound()` if nothing else is given."""
    return np.round(32768 * (sound() if values is None else values)).astype(f"{order}i2").tobytes()


def chunk(kind: bytes, body: bytes, size: int | None = None, order: str = "<") -> bytes:
    """A chunk of RIFF, or of IFF if `order` is ">"; `size` overrides the honest one."""
    return kind + struct.pack(f"{order}I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    block_align: int | None = None,
    extra: bytes = b"",
    order: str = "<",
) -> bytes:
    """The chunk that says how the samples of a WAV are to be read."""
    width = channels * bits // 8 if block_align is None else block_align
    byte_rate = rate * width & 0xFFFFFFFF
    body = struct.pack(f"{order}HHIIHH", tag, channels, rate, byte_rate, width & 0xFFFF, bits) + extra
    return chunk(b"fmt ", body, order=order)


def riff(*chunks: bytes, form: bytes = b"RIFF", size: int | None = None, order: str = "<") -> bytes:
    """A WAV file of chunks; `size` overrides the honest one."""
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack(f"{order}I", len(body) if size is None else size) + body


def data(size: int | None = None) -> bytes:
    """The chunk of a WAV's samples."""
    return chunk(b"data", pcm(), size)


def extensible(tag: int = 1, bits: int = 16, valid_bits: int = 16, extra: int = 22, guid: bytes | None = None) -> bytes:
    """The `fmt ` chunk of WAVE_FORMAT_EXTENSIBLE."""
    guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71") if guid is None else guid
    return fmt(0xFFFE, bits=bits, extra=struct.pack("<HHI", extra, valid_bits, 4) + guid)


def rf64(promised: int, *before: bytes, before_format: bytes = b"") -> bytes:
    """An RF64 file whose 64-bit length is `promised` bytes of samples."""
    sizes = chunk(b"ds64", struct.pack("<QQQI", promised + 72 & 2**64 - 1, promised, promised // 2, 0))
    return riff(*before, sizes, before_format, fmt(), data(0xFFFFFFFF), form=b"RF64", size=0xFFFFFFFF)


def extended(value: float | str) -> bytes:
    """The 80-bit float of AIFF's sample rate."""
    if isinstance(value, str):
        return {"inf": b"\x7f\xff\x80", "nan": b"\x7f\xff\xc0"}[value] + bytes(7)
    mantissa, exponent = np.frexp(abs(value))
    sign = 0x8000 if value < 0 else 0
    return struct.pack(">HQ", (int(exponent) + 16382) | sign, int(mantissa * 2**64)) if value else bytes(10)


def comm(rate: float | str = RATE, channels: int = 1, frames: int = RATE, bits: int = 16, codec: bytes = b"") -> bytes:
    """The chunk that says how the samples of an AIFF are to be read."""
    return chunk(b"COMM", struct.pack(">hIh", channels, frames, bits) + extended(rate) + codec, order=">")


def ssnd(offset: int = 0, size: int | None = None, order: str = ">") -> bytes:
    """The chunk of an AIFF's samples; they begin `offset` bytes into it."""
    return chunk(b"SSND", struct.pack(">II", offset, 0) + pcm(order=order), size, order=">")


def aiff(*chunks: bytes, kind: bytes = b"AIFF") -> bytes:
    """An AIFF file of chunks."""
    return chunk(b"FORM", kind + b"".join(chunks), order=">")


def au(
    offset: int = 24, size: int = 2 * RATE, encoding: int = 3, rate: int = RATE, channels: int = 1, order: str = ">"
) -> bytes:
    """An AU file, of 16-bit samples unless its header says otherwise."""
    magic = b".snd" if order == ">" else b"dns."
    return magic + struct.pack(f"{order}IIIII", offset, size, encoding, rate, channels) + pcm(order=order)


def caf(rate: float = RATE, codec: bytes = b"lpcm", before: bytes = b"", size: int | None = None) -> bytes:
    """A CAF file of 16-bit samples."""
    form = b"desc" + struct.pack(">Qd4sIIIII", 32, rate, codec, 0, 2, 1, 1, 16)
    body = bytes(4) + pcm(order=">")
    return b"caff\0\1\0\0" + form + before + b"data" + struct.pack(">q", len(body) if size is None else size) + body


def encoded(container: str, subtype: str | None = None, values: np.ndarray | None = None, rate: int = RATE) -> bytes:
    """A file of any format that libsndfile writes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(rate) if values is None else values, rate, subtype, format=container)
    return buffer.getvalue()


def flac(
    total: int | None = None, rate: int | None = None, channels: int | None = None, md5: bytes | None = None
) -> bytearray:
    """A FLAC file whose STREAMINFO may say what is not so."""
    content = bytearray(encoded("FLAC"))
    if total is not None:
        content[21] = content[21] & 0xF0 | total >> 32
        content[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    if rate is not None:
        content[18:21] = bytes([rate >> 12, rate >> 4 & 255, content[20] & 15 | (rate & 15) << 4])
    if channels is not None:
        content[20] = content[20] & 0xF1 | channels - 1 << 1
    if md5 is not None:
        content[26:42] = md5
    return content


_LONG = 5
"""Seconds of an Ogg that has pages to lose."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _busy() -> np.ndarray:
    """Five seconds that take many pages."""
    return 0.5 * np.tile(sound(), _LONG) + 0.1 * np.random.default_rng(2).uniform(-1, 1, _LONG * RATE)


def pages(stream: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    found = []
    while stream:
        segments = stream[26]
        length = 27 + segments + sum(stream[27 : 27 + segments])
        found.append(stream[:length])
        stream = stream[length:]
    return found


def checked_page(page: bytes) -> bytes:
    """An Ogg page with the right checksum: CRC-32 of the polynomial of zlib's, but of bits in the other order."""
    page = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[:22] + struct.pack("<I", int(f"{mirrored:032b}"[::-1], 2)) + page[26:]


def ogg(*lost: int, subtype: str = "VORBIS") -> bytes:
    """An Ogg file of five seconds that lacks some of its pages."""
    known = pages(encoded("OGG", subtype, _busy(), RATE if subtype == "VORBIS" else 48_000))
    return b"".join(page for number, page in enumerate(known) if number not in {n % len(known) for n in lost})


def ogg_that_ends_at(frame: int) -> bytes:
    """An Ogg file whose last page says that so many frames have been given."""
    *others, last = pages(encoded("OGG", "VORBIS"))
    return b"".join(others) + checked_page(last[:6] + struct.pack("<q", frame) + last[14:])


def mp3(values: np.ndarray | None = None) -> bytes:
    """An MP3 of variable bit rate; its first frame tells the number of frames (Xing's header)."""
    return encoded("MP3", values=values)


def id3(body: int = 2048) -> bytes:
    """An ID3v2 tag of zeros."""
    return b"ID3\4\0\0" + bytes([body >> 21 & 127, body >> 14 & 127, body >> 7 & 127, body & 127]) + bytes(body)


def _decoded(content: Callable[[], bytes]) -> Callable[[], np.ndarray]:
    """What libsndfile itself makes of a lossy file, block for block."""
    return lambda: soundfile.read(io.BytesIO(content()), dtype="float32")[0]


# WAV: sizes that are not so

_bytes("riff_size_zero.wav", lambda: riff(fmt(), data(), size=0))
_bytes("riff_size_too_small.wav", lambda: riff(fmt(), data(), size=100))
_bytes("riff_size_negative.wav", lambda: riff(fmt(), data(), size=0x80000000))
_bytes("data_size_zero.wav", lambda: riff(fmt(), data(0)))
_bytes("data_size_zero_before_another_chunk.wav", lambda: riff(fmt(), data(0)[:8], chunk(b"junk", pcm())), "0 samples")
_bytes("data_size_of_half_a_frame.wav", lambda: riff(fmt(), data(1)), "0 samples")
_bytes("data_size_odd.wav", lambda: riff(fmt(), data(2 * RATE - 1)), heard=lambda: sound()[:-1])
_bytes("data_size_half_a_frame_too_large.wav", lambda: riff(fmt(), chunk(b"data", pcm() + b"x")))
_bytes("data_size_one_frame_too_large.wav", lambda: riff(fmt(), data(2 * RATE + 2)), "truncated: 44100 of 44101 frames")
_bytes("data_size_negative.wav", lambda: riff(fmt(), data(0xFFFFFFFE)))
_bytes("data_promises_hours.wav", lambda: riff(fmt(), data(0x7FFFE000)), "truncated: 44100 of 1073737728 frames")
_bytes(
    "data_promises_3_gb.wav",
    lambda: riff(fmt(), data(3_000_000_000)),
    "truncated",
)
_bytes("data_missing.wav", lambda: riff(fmt(), chunk(b"junk", pcm())), "not audio")
_bytes(
    "data_twice_before_another_chunk.wav",
    lambda: riff(fmt(), data(), chunk(b"data", pcm(0.5 * sound()[::-1])), chunk(b"junk", b"")),
    "data",
)
_bytes("data_twice.wav", lambda: riff(fmt(), data(), data()), "holds two chunks of samples")
_bytes(
    "list_of_4_gb_before_the_data.wav", lambda: riff(fmt(), chunk(b"LIST", b"INFO", 0xFFFFFFF0), data()), "not audio"
)
_bytes("list_that_swallows_the_data.wav", lambda: riff(fmt(), chunk(b"LIST", b"INFO", 88_000), data()))
_bytes("list_of_4_gb_after_the_data.wav", lambda: riff(fmt(), data(), chunk(b"LIST", b"INFO", 0xFFFFFFF0)))
_bytes("list_entry_of_16_mb.wav", lambda: riff(fmt(), chunk(b"LIST", b"INFO" + chunk(b"INAM", b"a", 0xFFFFFF)), data()))
_bytes("chunk_that_leads_back_to_itself.wav", lambda: riff(fmt(), chunk(b"loop", b"", 0xFFFFFFF8), data()), "not audio")
_bytes("many_empty_chunks.wav", lambda: riff(fmt(), chunk(b"abcd", b"") * 10_000, data()), "not audio")
_bytes("odd_chunk_with_its_padding.wav", lambda: riff(fmt(), chunk(b"junk", b"abc"), data()))
_bytes("odd_chunk_without_its_padding.wav", lambda: riff(fmt(), chunk(b"junk", b"abc")[:-1], data()))
for _kind, _body in {
    b"junk": b"abc",
    b"LIST": b"INFO" + chunk(b"ISFT", b"abc")[:-1],
    b"bext": bytes(605),
    b"abcd": b"e",
}.items():
    _odd, _named = chunk(_kind, _body)[:-1], f"odd_{_kind.decode()}"
    _bytes(f"{_named}_first.wav", lambda odd=_odd: riff(odd, fmt(), data()))
    _bytes(f"{_named}_twice.wav", lambda odd=_odd: riff(odd, fmt(), odd, data()))
    _bytes(
        f"{_named}_before_an_odd_number_of_bytes.wav",
        lambda odd=_odd: riff(fmt(bits=8), odd, chunk(b"data", _bytewise())[:-1]),
        heard=lambda: sound()[:-1],
        tolerance=0.02,
    )
for _pad in (b" ", b"d", b"\xff"):
    _bytes(
        f"odd_chunk_padded_by_{_pad.hex()}.wav",
        lambda pad=_pad: riff(fmt(), chunk(b"junk", b"abc")[:-1] + pad, chunk(b"oddl", b"y" * 100), data()),
    )
_bytes(
    "odd_chunk_before_a_name_of_spaces.wav", lambda: riff(fmt(), chunk(b"junk", b"abc"), chunk(b"    ", b"ab"), data())
)
_bytes(
    "odd_chunk_before_a_name_of_zeros_and_letters.wav",
    lambda: riff(fmt(), chunk(b"junk", b"abc"), chunk(b"\0d\0a", b"ab"), data()),
)
for _bits, _samples_of in ((8, lambda: _bytewise()), (24, lambda: _left_justified(24, 24)[:-3])):
    _heard = {"heard": lambda: sound()[:-1], "tolerance": 0.02 if _bits == 8 else 2**-21}
    _made = {"bits": _bits, "samples": _samples_of}
    _bytes(
        f"odd_data_of_{_bits}_bits_at_the_end.wav",
        lambda bits=_bits, samples=_samples_of: riff(fmt(bits=bits), chunk(b"data", samples())[:-1]),
        **_heard,
    )
    _bytes(
        f"odd_data_of_{_bits}_bits_before_a_list.wav",
        lambda bits=_bits, samples=_samples_of: riff(
            fmt(bits=bits), chunk(b"data", samples())[:-1], chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"abc"))
        ),
        **_heard,
    )
    _bytes(
        f"odd_data_of_{_bits}_bits_padded.wav",
        lambda bits=_bits, samples=_samples_of: riff(
            fmt(bits=bits), chunk(b"data", samples()), chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"abc"))
        ),
        **_heard,
    )
_bytes(
    "odd_data_before_more_data.wav",
    lambda: riff(fmt(bits=8), chunk(b"data", _bytewise())[:-1], chunk(b"data", _bytewise())),
    "holds two chunks of samples",
)
_bytes("odd_chunk_in_rf64.wav", lambda: rf64(2 * RATE, before_format=chunk(b"junk", b"abc")))
_bytes("odd_chunk_in_rf64_without_its_padding.wav", lambda: rf64(2 * RATE, before_format=chunk(b"junk", b"abc")[:-1]))
_bytes("two_files_in_one.wav", lambda: 2 * riff(fmt(), data()), "holds two files one after the other")
_bytes("loops_without_end.wav", lambda: riff(fmt(), chunk(b"smpl", struct.pack("<9I", *[2**32 - 1] * 9)), data()))
_bytes("cues_without_end.wav", lambda: riff(fmt(), chunk(b"cue ", b"\xff" * 4), data()))
_bytes("fact_of_another_length.wav", lambda: riff(fmt(), chunk(b"fact", struct.pack("<I", 7)), data()))
_bytes("peak_chunk_of_ones.wav", lambda: riff(fmt(), chunk(b"PEAK", b"\xff" * 40), data()))

# WAV: formats

_bytes("fmt_missing.wav", lambda: riff(data()), "not audio")
_bytes("fmt_too_short.wav", lambda: riff(chunk(b"fmt ", fmt()[8:22]), data()), "not audio")
_bytes("fmt_of_2_gb.wav", lambda: riff(b"fmt \xff\xff\xff\x7f" + fmt()[8:], data()), "not audio")
_bytes("fmt_after_the_data.wav", lambda: riff(data(), fmt()), "not audio")
_bytes("fmt_twice.wav", lambda: riff(fmt(), fmt(channels=2), data()), "not audio")
_bytes("fmt_again_after_the_data.wav", lambda: riff(fmt(), data(), fmt(channels=2, rate=8_000)))
_bytes("fmt_with_spare_bytes.wav", lambda: riff(fmt(extra=bytes(24)), data()))
_bytes("channels_0.wav", lambda: riff(fmt(channels=0), data()), "its header gives 0 channels")
_bytes("channels_1025.wav", lambda: riff(fmt(channels=1025), data()), "its header gives 1025 channels")
_bytes("channels_65535.wav", lambda: riff(fmt(channels=65_535), data()), "its header gives 65535 channels")
for _width in (0, 1, 3, 65_535):
    _bytes(f"block_align_{_width}.wav", lambda width=_width: riff(fmt(block_align=width), data()))
for _bits in (0, 33, 64, 65_535):
    _bytes(f"bits_{_bits}.wav", lambda bits=_bits: riff(fmt(bits=bits, block_align=2), data()), "not audio")
_bytes("bits_12_in_16.wav", lambda: riff(fmt(bits=12, block_align=2), data()))
_bytes(
    "bits_20_in_24.wav",
    lambda: riff(fmt(bits=20, block_align=3), chunk(b"data", _left_justified(20, 24))),
    tolerance=2**-18,
)
_bytes(
    "bits_7_against_block_align.wav",
    lambda: riff(fmt(bits=7, block_align=2), data()),
    "contradict|block align",
)
for _tag, _codec in {0: "unknown", 0x55: "MP3", 0x161: "WMA", 0x2000: "AC-3", 0xF1AC: "FLAC", 0xFFFF: "own"}.items():
    _expected = f"but {_codec} in a WAV; convert it" if _codec.isupper() else "not audio"
    _bytes(f"codec_{_codec.lower()}.wav", lambda tag=_tag: riff(fmt(tag), data()), _expected)
_bytes("float_of_16_bits.wav", lambda: riff(fmt(3), data()), "not audio")
_bytes("adpcm_of_no_block.wav", lambda: riff(fmt(0x11, bits=4, block_align=0), data()), "not audio")
_bytes("extensible_without_its_extension.wav", lambda: riff(extensible(extra=0), data()))
_bytes("extensible_of_no_valid_bits.wav", lambda: riff(extensible(valid_bits=0), data()))
_bytes("extensible_with_a_strange_guid.wav", lambda: riff(extensible(guid=bytes(range(16))), data()), "not audio")
_bytes("extensible_ac3.wav", lambda: riff(extensible(0x2000), data()), "not audio")
_bytes(
    "extensible_24_in_32.wav",
    lambda: riff(extensible(bits=32, valid_bits=24), chunk(b"data", _left_justified(24, 32))),
    tolerance=2**-21,
)
_bytes(
    "big_endian.wav", lambda: riff(fmt(order=">"), chunk(b"data", pcm(order=">"), order=">"), form=b"RIFX", order=">")
)
_bytes(
    "big_endian_truncated.wav",
    lambda: riff(fmt(order=">"), chunk(b"data", pcm(order=">"), order=">"), form=b"RIFX", order=">")[:-500],
    "truncated: 43850 of 44100 frames",
)
_bytes("rf64_without_ds64.wav", lambda: riff(fmt(), data(), form=b"RF64", size=0xFFFFFFFF))
_bytes("rf64_without_ds64_or_length.wav", lambda: riff(fmt(), data(0xFFFFFFFF), form=b"RF64", size=0xFFFFFFFF))
_bytes("rf64_with_ds64.wav", lambda: rf64(2 * RATE))
_bytes("rf64_of_no_length.wav", lambda: rf64(0))
_bytes("rf64_of_exabytes.wav", lambda: rf64(2**62), "truncated: 44100 of 2305843009213693952 frames")
_bytes("rf64_of_negative_length.wav", lambda: rf64(2**64 - 1), "not audio")
_bytes("rf64_with_a_short_ds64.wav", lambda: rf64(0, chunk(b"ds64", bytes(8))))
_bytes("bw64.wav", lambda: b"BW64" + rf64(2 * RATE)[4:])


def _left_justified(bits: int, container: int) -> bytes:
    """`sound()` as whole numbers of so many bits, in the upper bits of a container."""
    whole = np.round((2 ** (bits - 1) - 1) * sound()).astype("<i4") << (container - bits)
    return whole.view(np.uint8).reshape(-1, 4)[:, : container // 8].tobytes()


def _bytewise() -> bytes:
    """`sound()` but for its last sample, in 8 bits."""
    return np.round(128 + 127 * sound()[:-1]).astype(np.uint8).tobytes()


# Other containers

_bytes("aiff_rate_0.aiff", lambda: aiff(comm(0), ssnd()), "sample rate 0 Hz lies outside")
_bytes("aiff_rate_infinite.aiff", lambda: aiff(comm("inf"), ssnd()), "sample rate nan Hz lies outside")
_bytes("aiff_rate_nan.aiff", lambda: aiff(comm("nan"), ssnd()), "sample rate nan Hz lies outside")
_bytes("aiff_rate_negative.aiff", lambda: aiff(comm(-44_100), ssnd()), "sample rate -44100 Hz lies outside")
_bytes("aiff_rate_with_a_fraction.aiff", lambda: aiff(comm(44_100.4), ssnd()))
_bytes("aiff_without_comm.aiff", lambda: aiff(ssnd()), "not audio")
_bytes("aiff_without_ssnd.aiff", lambda: aiff(comm()), "not audio")
_bytes("aiff_comm_after_ssnd.aiff", lambda: aiff(ssnd(), comm()))
_bytes("aiff_channels_0.aiff", lambda: aiff(comm(channels=0), ssnd()), "its header gives 0 channels")
_bytes("aiff_bits_33.aiff", lambda: aiff(comm(bits=33), ssnd()), "not audio")
_bytes("aiff_rate_2e32.aiff", lambda: aiff(comm(2**32 - 1), ssnd()), "sample rate 4294967295 Hz lies outside")
for _kind in (b"NAME", b"APPL", b"xyzq"):
    _bytes(
        f"aiff_odd_{_kind.decode()}_without_its_padding.aiff",
        lambda kind=_kind: aiff(comm(), chunk(kind, b"abc", order=">")[:-1], ssnd()),
    )
_bytes("aiff_odd_chunk_with_its_padding.aiff", lambda: aiff(comm(), chunk(b"NAME", b"abc", order=">"), ssnd()))
_bytes("aiff_offset.aiff", lambda: aiff(comm(frames=RATE - 4), ssnd(8)), heard=lambda: sound()[4:])
_bytes("aiff_offset_beyond_the_end.aiff", lambda: aiff(comm(), ssnd(0x20000)), "0 samples")
_bytes("aiff_promises_an_hour.aiff", lambda: aiff(comm(), ssnd(size=2**28)), "truncated: 88208 of 268435456 bytes")
_bytes("aifc_little_endian.aifc", lambda: aiff(comm(codec=b"sowt\0\0"), ssnd(order="<"), kind=b"AIFC"))
_bytes("aifc_unknown_codec.aifc", lambda: aiff(comm(codec=b"ACE2\0\0"), ssnd(), kind=b"AIFC"), "not audio")
_bytes("au_offset_beyond_the_end.au", lambda: au(offset=10**6), "0 samples")
_bytes("au_offset_negative.au", lambda: au(offset=0xFFFFFFFF), "not audio")
_bytes("au_length_unknown.au", lambda: au(size=0xFFFFFFFF))
_bytes("au_length_0.au", lambda: au(size=0), "0 samples")
_bytes("au_little_endian.snd", lambda: au(order="<"))
_bytes("au_unknown_encoding.au", lambda: au(encoding=99), "not audio")
_bytes("au_rate_0.au", lambda: au(rate=0), "sample rate 0 Hz lies outside")
_bytes("au_channels_0.au", lambda: au(channels=0), "its header gives 0 channels")
_bytes("caf_by_hand.caf", caf)
_bytes("caf_rate_nan.caf", lambda: caf(rate=float("nan")), "sample rate nan Hz lies outside")
_bytes("caf_rate_infinite.caf", lambda: caf(rate=float("inf")), "sample rate inf Hz lies outside")
_bytes("caf_unknown_codec.caf", lambda: caf(codec=b"aac "), "not audio")
_bytes("caf_chunk_that_leads_back.caf", lambda: caf(before=b"free" + struct.pack(">q", -12)), "not audio")
_bytes("caf_of_exabytes.caf", lambda: caf(size=2**62), "not audio")
_bytes("caf_alac.caf", lambda: encoded("CAF", "ALAC_16"))
_bytes("caf_alac_truncated.caf", lambda: encoded("CAF", "ALAC_16")[:-1000], "not audio")
_bytes(
    "caf_truncated.caf",
    lambda: encoded("CAF")[:-1000],
    "truncated",
)
_bytes("w64_of_negative_length.w64", lambda: encoded("W64")[:16] + b"\xff" * 8 + encoded("W64")[24:])
_bytes("w64_fmt_of_no_length.w64", lambda: encoded("W64")[:56] + bytes(8) + encoded("W64")[64:], "not audio")
_bytes(
    "w64_promises_hours.w64",
    lambda: encoded("W64").replace(struct.pack("<Q", 2 * RATE + 24), struct.pack("<Q", 2**40)),
    "truncated",
)
_bytes("plain.voc", lambda: encoded("VOC"))
_bytes("voc_of_silence_alone.voc", lambda: encoded("VOC")[:26] + b"\3\3\0\0\xff\xff\xa6\0", "not audio")
_bytes(
    "voc_truncated.voc",
    lambda: encoded("VOC")[:-1000],
    "truncated",
)
_bytes("plain.sph", lambda: encoded("NIST"))
_bytes(
    "nist_rate_0.sph",
    lambda: encoded("NIST").replace(b"rate -i 44100", b"rate -i 00000"),
    "sample rate 0 Hz lies outside",
)
_bytes("nist_header_beyond_the_end.sph", lambda: encoded("NIST").replace(b"   1024", b"9999999"), "0 samples")
_bytes(
    "nist_truncated.sph",
    lambda: encoded("NIST")[:-1000],
    "truncated",
)

# FLAC

_bytes("flac_of_another_md5.flac", lambda: flac(md5=b"x" * 16))
_bytes("flac_without_md5.flac", lambda: flac(md5=bytes(16)))
_bytes("flac_promises_one_sample_more.flac", lambda: flac(total=RATE + 1), "truncated or damaged")
_bytes("flac_promises_weeks.flac", lambda: flac(total=2**36 - 1), "truncated or damaged")
_bytes("flac_promises_less.flac", lambda: flac(total=RATE - 1), heard=lambda: sound()[:-1])
_bytes("flac_rate_0.flac", lambda: flac(rate=0), "sample rate 0 Hz lies outside")
_bytes("flac_rate_1.flac", lambda: flac(rate=1), "sample rate 1 Hz lies outside")
_bytes("flac_rate_655350.flac", lambda: flac(rate=655_350), "sample rate 655350 Hz lies outside")
_bytes("flac_of_eight_channels_that_has_one.flac", lambda: flac(channels=8), "truncated or damaged")
_bytes("flac_without_streaminfo.flac", lambda: b"fLaC" + flac()[42:], "not audio")
_bytes("flac_streaminfo_of_16_mb.flac", lambda: flac()[:5] + b"\xff\xff\xff" + flac()[8:], "not audio")
_bytes("flac_comment_of_16_mb.flac", lambda: flac()[:43] + b"\xff\xff\xff" + flac()[46:], "not audio")
_bytes("flac_with_one_bit_flipped.flac", lambda: _flipped(flac(), 30_000), "truncated or damaged")
_bytes("flac_after_id3.flac", lambda: id3() + flac())
_bytes("flac_with_garbage_after_it.flac", lambda: flac() + b"garbage" * 1_000)


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


# Ogg: Vorbis and Opus

_bytes("ogg_of_many_pages.ogg", ogg, heard=_decoded(ogg), tolerance=0)
_bytes("ogg_without_its_end.ogg", lambda: ogg(-1), heard=_decoded(lambda: ogg(-1)), tolerance=0)
_bytes("ogg_headers_alone.ogg", lambda: b"".join(pages(ogg())[:2]), "0 samples")
_bytes("ogg_without_its_codebooks.ogg", lambda: ogg(1), "not audio")
_bytes("ogg_first_page_damaged.ogg", lambda: _flipped(ogg(), 22), "not audio")
_bytes("ogg_page_lost.ogg", lambda: ogg(4), "damaged")
_bytes(
    "ogg_page_of_another_checksum.ogg",
    lambda: _flipped(ogg(), len(b"".join(pages(ogg())[:4])) + 22),
    "damaged",
)
_bytes("ogg_promises_hours.ogg", lambda: ogg_that_ends_at(36_000 * RATE), r"truncated: \d+ of 1587600000 frames")
_bytes("ogg_promises_ages.ogg", lambda: ogg_that_ends_at(2**63 - 1), "does not give its length")
_bytes("ogg_ends_before_time.ogg", lambda: ogg_that_ends_at(-(2**63)), "not audio")
_bytes("ogg_with_garbage_between_pages.ogg", lambda: _spread(ogg()), heard=_decoded(ogg), tolerance=0)
_bytes("ogg_of_two_streams_in_turn.ogg", lambda: 2 * ogg(), heard=_decoded(ogg), tolerance=0)
_bytes("theora.ogg", lambda: _first_page(b"\x80theora" + bytes(35)), "not audio")
_bytes("speex.ogg", lambda: _first_page(b"Speex   " + bytes(72)), "not audio")
_bytes("plain.opus", lambda: encoded("OGG", "OPUS", rate=48_000), heard=None)
_bytes("opus_page_lost.opus", lambda: ogg(3, subtype="OPUS"), "truncated")
_bytes("opus_headers_alone.opus", lambda: b"".join(pages(ogg(subtype="OPUS"))[:2]), "not audio")


def _spread(stream: bytes) -> bytes:
    """An Ogg file with something between its fourth page and its fifth."""
    known = pages(stream)
    return b"".join([*known[:4], b"garbage" * 20, *known[4:]])


def _first_page(packet: bytes) -> bytes:
    """An Ogg file of the first page of a stream."""
    return checked_page(b"OggS\0\2" + bytes(20) + bytes([1, len(packet)]) + packet) + bytes(100)


# MP3

_bytes("mp3_after_id3.mp3", lambda: id3() + mp3(), tolerance=0.2)
_bytes("mp3_before_id3v1.mp3", lambda: mp3() + b"TAG" + bytes(125), tolerance=0.2)
_bytes("id3_alone.mp3", id3, "not audio")
_bytes("id3_of_256_mb.mp3", lambda: b"ID3\4\0\0\x7f\x7f\x7f\x7f" + mp3(), "not audio")
_bytes("garbage_before_mp3.mp3", lambda: np.random.default_rng(3).bytes(500) + mp3(), "not audio")
_bytes("one_frame.mp3", lambda: mp3()[:300], "not audio")
_bytes("mp3_truncated.mp3", lambda: mp3()[: len(mp3()) * 3 // 4], heard=_decoded(lambda: mp3()[: len(mp3()) * 3 // 4]))
_bytes("mp3_with_zeros_in_it.mp3", lambda: _zeroed(mp3(np.tile(sound(), 3))), "truncated or damaged")
_bytes("mp3_promises_hours.mp3", lambda: _xing(10**6), heard=_decoded(lambda: _xing(10**6)))
_bytes("mp3_promises_ten_frames.mp3", lambda: _xing(10), "shorter than")
_bytes(
    "mp3_of_variable_rate_without_xing.mp3",
    lambda: mp3().replace(b"Xing", b"XXXX"),
    "length",
)


def _zeroed(content: bytes) -> bytes:
    return content[:10_000] + bytes(5_000) + content[15_000:]


def _xing(frames: int) -> bytes:
    """An MP3 whose first frame tells another number of frames."""
    content = bytearray(mp3())
    struct.pack_into(">I", content, content.index(b"Xing") + 8, frames)
    return bytes(content)


# What lies under a wrong name

_bytes("wav_inside.mp3", lambda: encoded("WAV"))
_bytes("flac_inside.ogg", lambda: encoded("FLAC"))
_bytes("aiff_inside.flac", lambda: encoded("AIFF"))
_bytes("mp3_inside.wav", mp3, tolerance=0.2)
_bytes("opus_inside.wav", lambda: encoded("OGG", "OPUS", rate=48_000), heard=None)
_bytes("wav_after_id3.wav", lambda: id3() + encoded("WAV"))
_bytes("wav_after_id3_truncated.wav", lambda: id3() + encoded("WAV")[:-1000], "truncated: 43600 of 44100 frames")
_bytes("wav_after_a_byte_order_mark.wav", lambda: b"\xef\xbb\xbf" + encoded("WAV"), "not audio")
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 88244\n"
ANNEX_POINTER = b"/annex/objects/SHA256E-s88244--" + b"a" * 64 + b".wav\n"
WEB_PAGE = b"\n<!DOCTYPE html>\n<html lang=en><title>Sign in &middot; GitLab</title>" + b"<p>Please.</p>" * 900
XML_ERROR = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>No such key.</Message></Error>"
STAND_INS = {
    "git_lfs_pointer": (LFS_POINTER, "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "git_annex_pointer": (ANNEX_POINTER, "is a git-annex pointer, not the file itself; run `git annex get`"),
    "web_page": (WEB_PAGE, r"is a web page \('Sign in · GitLab'\), not the file itself; fetch the file"),
    "web_page_after_a_mark": (b"\xef\xbb\xbf<HTML><HEAD>", "is a web page, not the file itself; fetch the file"),
    "xhtml": (b"<?xml version='1.0'?>\n<!-- a -->\n<html xmlns='x'>", "is a web page, not the file itself"),
    "xml_error": (XML_ERROR, r"is an XML document \('No such key'\), not the file itself; fetch the file again"),
}
"""What version control and downloads leave in the place of any file."""
for _name, (_content, _reason) in STAND_INS.items():
    for _ending in ("wav", "flac", "mp3"):
        _bytes(f"{_name}.{_ending}", lambda content=_content: content, rf"\.{_ending}: {_reason}")


@_case("git_annex_link.wav", "is a git-annex link whose content is not here; run `git annex get`")
def _annex_link(path: Path) -> None:
    path.symlink_to("../.git/annex/objects/Xk/1z/SHA256E-s5--ab.wav/SHA256E-s5--ab.wav")


@_case("git_annex_link_that_leads_somewhere.wav", heard=sound, tolerance=2**-14)
def _annex_link_with_content(path: Path) -> None:
    content = path.parent / ".git" / "annex" / "objects" / "ab.wav"
    content.parent.mkdir(parents=True)
    content.write_bytes(encoded("WAV"))
    path.symlink_to(".git/annex/objects/ab.wav")


for _name, (_content, _reason) in {
    "gzipped.wav": (gzip.compress(b"abc"), "a gzip archive; unpack it"),
    "zip_inside.flac": (b"PK\3\4" + bytes(1_000), "a zip archive; unpack it"),
    "tar_inside.wav": (b"a.wav".ljust(257, b"\0") + b"ustar\0" + bytes(1_000), "a tar archive; unpack it"),
    "json_error.flac": (b'{"error":"Repository not found"}', r"text \('{\"error\":\"Repository not found\"}'\); fetch"),
    "plain_error.ogg": (b"Entry not found", r"text \('Entry not found'\); fetch the file itself"),
    "mp4_inside.wav": (b"\0\0\0 ftypM4A " + bytes(1_000), r"MP4 \(M4A, AAC, ALAC\); convert it"),
    "protected.mp3": (b"\0\0\0 ftypM4P " + bytes(1_000), r"an MP4 that is encrypted \(DRM\)"),
    "protected_track.mp3": (b"\0\0\0 ftypM4A " + bytes(500) + b"\0\0\1\0drms", "an MP4 that is encrypted"),
    "aac_inside.mp3": (b"\xff\xf1\x50\x80" + bytes(1_000), "AAC; convert it"),
    "avi_inside.wav": (b"RIFF\x10\0\0\0AVI LIST" + bytes(100), "an AVI video; convert it"),
    "midi_inside.ogg": (b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk" + bytes(100), "a MIDI file, notes without sound"),
    "webm_inside.ogg": (b"\x1aE\xdf\xa3" + bytes(100), "Matroska or WebM; convert it"),
    "companion_of_macos.wav": (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(4_000), "macOS's companion"),
    "zeros_alone.wav": (bytes(100_000), r"zeros at its beginning \(a download that failed\?\); fetch it again"),
}.items():
    _bytes(_name, lambda content=_content: content, f"not audio that libsndfile reads, but {_reason}")
_bytes("one_byte.wav", lambda: b"R", "not audio")
_bytes("mp3_of_an_unfinished_download.wav", lambda: mp3()[:40], "not audio")

# Lengths, rates, channels and values

_bytes("one_sample.wav", lambda: riff(fmt(), chunk(b"data", pcm()[:2])), "shorter than")
_bytes("one_sample_short_of_a_block.wav", lambda: riff(fmt(), chunk(b"data", pcm()[: 2 * 17_639])), "shorter than")
for _rate, _expected in ((3_999, "sample rate 3999 Hz lies outside"), (384_001, "sample rate 384001 Hz lies outside")):
    _bytes(f"rate_{_rate}.wav", lambda rate=_rate: riff(fmt(rate=rate), data()), _expected)
for _rate in (0, 1, 2**31, 2**32 - 1):
    _bytes(f"rate_{_rate}.wav", lambda rate=_rate: riff(fmt(rate=rate), data()), f"sample rate {_rate} Hz lies outside")
for _rate in (4_000, 384_000):
    _encoded(f"rate_{_rate}.wav", rate=_rate)
for _channels in (32, 256):
    _bytes(
        f"channels_{_channels}.wav",
        lambda n=_channels: riff(fmt(channels=n), chunk(b"data", pcm(sound(seconds=0.5, channels=n)))),
        heard=lambda n=_channels: sound(seconds=0.5, channels=n).mean(axis=1),
        tolerance=2**-12,
    )
for _power in (6, 30, 38):
    _bytes(
        f"float_of_1e{_power}.wav",
        lambda peak=10.0**_power: riff(fmt(3, bits=32), chunk(b"data", (peak * sound()).astype("<f4").tobytes())),
        heard=lambda peak=10.0**_power: peak * sound(),
        tolerance=1e-6,
    )
_samples("double_of_1e30.wav", lambda: 1e30 * sound(), "ok", "DOUBLE")
_samples("subnormal_but_for_one_click.wav", lambda: np.where(np.arange(RATE) == 9_000, 0.9, 1e-41), "ok")
_samples("nan_in_one_channel.wav", lambda: np.stack([sound(), _with(9, np.nan)], axis=1), "1 of 44100 samples are NaN")
_samples("infinite_throughout.wav", lambda: np.full(RATE, np.inf), "44100 of 44100 samples are NaN or infinite")
_samples("stereo_of_silence.wav", lambda: np.zeros((RATE, 2)), "digital silence", "PCM_24")
_samples("full_scale_dc.wav", lambda: np.ones(RATE), r"one constant value \(1\)")

# File names

_LONGEST = "geräusch_" + "x" * (255 - len("geräusch_.wav".encode())) + ".wav"
ODD_NAMES = (
    _LONGEST,
    "Gera\u0308usch a\u0302\u0323 combining.wav",
    "רעש ضجيج.wav",
    "\u202egnp.vaw.wav",
    "👩‍👩‍👧‍👦🔊.flac",
    "two\nlines\r and\ttab.wav",
    " spaces around .wav",
    "-starts-with-a-hyphen.wav",
    "=cmd|'calc'!A0.wav",
    "upper case.WAV",
    "<script>alert(1)<∕script>.wav",
    "zero\u200bwidth\ufeff.wav",
    os.fsdecode(b"no \xff\xfe UTF-8.wav"),
)
"""Names of files that are good, and read like any other."""
for _name in ODD_NAMES:
    _bytes(_name, lambda: encoded("WAV"))

# What is no file


@_case("pipe.wav", "not a regular file")
def _pipe(path: Path) -> None:
    os.mkfifo(path)


@_case("socket.wav", "not a regular file")
def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@_case("device.wav", "not a regular file|leads out of")
def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@_case("broken_link.wav", "no such file")
def _broken_link(path: Path) -> None:
    path.symlink_to("nowhere.wav")


@_case("links_in_a_ring.wav", "cannot be read")
def _ring(path: Path) -> None:
    (path.parent / ".ring").symlink_to(path.name)
    path.symlink_to(".ring")


@_case("link_to_a_folder.wav", "not a regular file")
def _folder_link(path: Path) -> None:
    path.symlink_to(".")


@_case("link_beside_its_file.wav", heard=sound, tolerance=2**-14)
def _good_link(path: Path) -> None:
    (path.parent / ".linked.wav").write_bytes(encoded("WAV"))
    path.symlink_to(".linked.wav")


if os.geteuid() != 0:

    @_case("not_readable.wav", "permission denied")
    def _not_readable(path: Path) -> None:
        path.write_bytes(encoded("WAV"))
        path.chmod(0)
