"""A noise of any length, one prompt, one piece of music: `blendbench blend` window by window, from file to file.

Nothing is held in memory that grows with the noise. First the file is listened to once, for its loudness and its
loudest mel amplitude. Then windows are painted, and made into sound as they come; what is made lies in `OUT/.blend`,
with a state from which the same command goes on. At the end, or when the command is stopped, all that is made is
levelled, laid over the noise and written, so it can be played.

Music is mono; the mix keeps the noise's channels. Levels are those of the blend task: the noise at `noise.lufs`, and
the presentation `direct`, in which stage 2's gain is found window by window (`presentation.gain_curve`).
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from blendbench import single, telling
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods._images import FRAMES, ImageMethod, Long
from blendbench.sound import audio, files
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.loudness import LoudnessMeter
from blendbench.sound.mel import decode_image, encode_image, mel_amplitudes
from blendbench.sound.streaming import StreamingInversion
from blendbench.store.write import placing, write_failure
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.presentation import HOP, OFF_DB, WINDOW, Blended, points_curve

BLOCK = 10 * SAMPLE_RATE
"""Samples that are read or written at a time."""
MOST_IN_MEMORY = 15 * 60 * SAMPLE_RATE
"""Longest noise for a method that makes all of its music at once."""
FOLDER = ".blend"
_MARGIN = 20
"""Frames around a part whose mel amplitudes are taken: more than half a window."""
_HEAD = 4096
"""Bytes at a WAV file's beginning in which its chunks before the samples lie."""
_WAV_LIMIT = 2**32 - 2**16


@dataclass(frozen=True)
class NoiseFile:
    """A noise's file, stretch by stretch at 44.1 kHz.

    Attributes
    ----------
    path : Path
    samples : int
        How much of it is heard.
    channels : int
        Of the file, or 1 where one of them is chosen.
    channel : int or None
    """

    path: Path
    samples: int
    channels: int
    channel: int | None = None

    @classmethod
    def of(cls, path: Path, seconds: float | None, channel: int | None) -> "NoiseFile":
        """A file's first `seconds`, or all of it; raises ClipError where it is no whole file of sound."""
        frames, rate, channels = files.described(path)
        samples = math.ceil(frames * SAMPLE_RATE / rate)
        if seconds is not None:
            samples = min(samples, round(seconds * SAMPLE_RATE))
        return cls(path, samples, 1 if channel is not None else channels, channel)

    def mono(self, begin: int, count: int) -> torch.Tensor:
        """The mean of its channels, or the one chosen, [n]; shorter where it ends."""
        count = min(count, self.samples - begin)
        if count <= 0:
            return torch.zeros(0)
        return files.read_part(self.path, begin / SAMPLE_RATE, count / SAMPLE_RATE, channel=self.channel)

    def every(self, begin: int, count: int) -> torch.Tensor:
        """All its channels, [channels, n]."""
        if self.channels == 1:
            return self.mono(begin, count)[None]
        count = max(0, min(count, self.samples - begin))
        return files.read_part(
            self.path, begin / SAMPLE_RATE, max(count, 1) / SAMPLE_RATE, channels=self.channels
        )[:, :count]  # fmt: skip

    def mels(self, first: int, frames: int) -> Iterator[torch.Tensor]:
        """Mel amplitudes [512, n] of its frames from one on, up to a number of them in all."""
        hop = RIFFUSION.hop_length
        while first < frames:
            stop = min(first + FRAMES, frames)
            begin = max(0, first - _MARGIN)
            part = self.mono(begin * hop, (stop - begin - 1 + _MARGIN) * hop + 1)
            if len(part) <= RIFFUSION.win_length // 2 + 1:
                return
            yield mel_amplitudes(part)[:, first - begin : stop - begin]
            first = stop


@dataclass
class Made:
    """What is made so far; kept in `OUT/.blend` after every window.

    Attributes
    ----------
    samples : int
        Of music.
    lufs, peak : float
        Of the whole noise as its file has it: integrated loudness, and largest mel amplitude.
    gains : list of float or None
        What each window of stage 2 asks of the music as it is made, in dB; None where one of the two is silent.
    windows : Long
    """

    lufs: float
    peak: float
    samples: int = 0
    gains: list[float | None] = field(default_factory=list)
    windows: Long = field(default_factory=Long)


class LongBlend:
    """One noise, one method, one folder.

    Parameters
    ----------
    noise : NoiseFile
    given : NoiseAndText
        Text and seed; its noise is not looked at by a method that paints.
    method : Method
        Prepared.
    shown : Blended
        The presentation "direct".
    lufs : float
        Level of the noise in the mix.
    out : Path
    identity : str
        Hash of all that decides the music; a state with another one is not gone on from.
    device : str
    """

    def __init__(
        self, noise: NoiseFile, given: NoiseAndText, method: Any, shown: Blended, lufs: float, out: Path,
        identity: str, device: str,
    ) -> None:  # fmt: skip
        self.noise, self.given, self.method, self.shown, self.lufs = noise, given, method, shown, lufs
        self.out, self.identity, self.device = out, identity, device
        self.folder = out / FOLDER
        self.raw, self.state_file = self.folder / "music.f32", self.folder / "state.safetensors"
        self.stage2 = shown.is_adaptive(method)

    def run(self) -> dict[str, Any]:
        """Make what lacks, and write all; returns facts for `blend.json`.

        Stopped by Ctrl-C, what is made is written, and the facts hold `stopped`; KeyboardInterrupt goes on where that
        is less than a second.

        Raises
        ------
        BlendbenchError
            If the noise cannot be read to its end, or is silent, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made, sound = self._resumed()
            try:
                if isinstance(self.method, ImageMethod):
                    self._paint(made, sound)
                else:
                    self._all_at_once(made)
            except KeyboardInterrupt:
                if made.samples <= SAMPLE_RATE:
                    raise
                return self._write(made) | {"stopped": True}
            facts = self._write(made)
            shutil.rmtree(self.folder, ignore_errors=True)
            return facts
        except OSError as error:
            raise BlendbenchError(f"{self.out}: {write_failure(error)}") from error

    # What there is

    def _listen(self) -> Made:
        """Loudness and peak of the noise."""
        meter, peak = LoudnessMeter(SAMPLE_RATE), 0.0
        with telling.stage("listen", math.ceil(self.noise.samples / SAMPLE_RATE), "s of noise") as told:
            for begin in range(0, self.noise.samples, BLOCK):
                part = self.noise.mono(begin, BLOCK)
                meter.push(part)
                told.update(round(len(part) / SAMPLE_RATE))
            if "noise" in self.method.takes:
                for mel in self.noise.mels(0, 1 + self.noise.samples // RIFFUSION.hop_length):
                    peak = max(peak, float(mel.max()))
        if not math.isfinite(meter.value):
            raise ClipError(f"{self.noise.path}: is silent (below the -70 LUFS gate); no gain can level it")
        return Made(meter.value, peak)

    def _resumed(self) -> tuple[Made, dict[str, torch.Tensor] | None]:
        """What an earlier command of the same kind made, with the state of its sound; else what listening tells."""
        if self.state_file.is_file():
            try:
                with safe_open(self.state_file, framework="pt") as file:
                    kept = json.loads(file.metadata()["blend"])
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                if kept["identity"] == self.identity and self.raw.stat().st_size >= 4 * kept["samples"]:
                    windows = Long(kept["number"], tensors.pop("held", None), kept["seconds"])
                    with self.raw.open("r+b") as music:
                        music.truncate(4 * kept["samples"])
                    return Made(kept["lufs"], kept["peak"], kept["samples"], kept["gains"], windows), tensors
            except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
                pass  # damaged: begun again
        self.raw.write_bytes(b"")
        self.state_file.unlink(missing_ok=True)
        return self._listen(), None

    def _keep(self, made: Made, sound: StreamingInversion) -> None:
        told = {
            "identity": self.identity, "samples": made.samples, "lufs": made.lufs, "peak": made.peak,
            "gains": made.gains, "number": made.windows.number, "seconds": made.windows.seconds,
        }  # fmt: skip
        tensors = sound.state()
        if made.windows.held is not None:
            tensors["held"] = made.windows.held.contiguous()
        with placing(self.state_file) as place:
            save_file(tensors, place, {"blend": json.dumps(told)})

    # Music

    def _noise_gain(self, made: Made) -> float:
        """The noise's factor, to its level in the mix."""
        return audio.from_db(self.lufs - made.lufs)

    def _paint(self, made: Made, kept: dict[str, torch.Tensor] | None) -> None:
        """Window by window, each kept as it comes."""
        method, frames = self.method, 2 + self.noise.samples // RIFFUSION.hop_length
        hears = "noise" in method.takes
        peak = made.peak * self._noise_gain(made) if hears else method.peak
        sound = StreamingInversion(
            peak, iterations=method.iterations, seed=self.given.seed, block=FRAMES // 2, device=self.device
        )
        if kept is not None:
            sound.restore(kept)
        step = FRAMES - method.overlap
        total = 1 + max(0, math.ceil((frames - FRAMES) / step))
        if made.windows.number >= total and made.samples >= self.noise.samples:
            return
        with telling.stage("blend", total, "window") as told:
            told.update(made.windows.number)
            for part in method.painted(self._columns(made, hears), self.given, made.windows, frames):
                self._append(made, sound.push(decode_image(part, peak)))
                if made.windows.number < total:
                    self._keep(made, sound)
                told.update()
            self._append(made, sound.finish())
            self._keep(made, sound)

    def _columns(self, made: Made, hears: bool) -> Iterator[torch.Tensor]:
        """The noise's image from the first column that is not painted yet."""
        first, frames = (
            made.windows.number * (FRAMES - self.method.overlap),
            1 + self.noise.samples // RIFFUSION.hop_length,
        )
        if not hears:
            for begin in range(first, frames + 1, FRAMES):
                yield torch.full((RIFFUSION.n_mels, min(FRAMES, frames + 1 - begin)), 255.0)
            return
        quantize = self.method.generator.quantize
        for mel in self.noise.mels(first, frames):
            yield encode_image(mel, quantize=quantize, peak=made.peak)[0]

    def _all_at_once(self, made: Made) -> None:
        """By a method that wants the whole noise."""
        if made.samples >= self.noise.samples:
            return
        if self.noise.samples > MOST_IN_MEMORY:
            raise BlendbenchError(
                f"method: {self.method.label} makes all of its music at once, and the noise has "
                f"{telling.clock(self.noise.samples / SAMPLE_RATE)}; take a method that paints, such as "
                f"method=bnmusic, or noise.seconds={MOST_IN_MEMORY // SAMPLE_RATE} at most"
            )
        noise = self.noise.mono(0, self.noise.samples) * self._noise_gain(made)
        given = replace(self.given, noise=noise, samples=len(noise))
        music = single.made(self.method, given)
        made.windows.seconds = {name: float(value) for name, value in music.facts.items() if name.endswith("_s")}
        self._append(made, music.waveform)

    def _append(self, made: Made, music: torch.Tensor) -> None:
        """Write further samples, and find stage 2's gain of every window that they complete."""
        music = music[: self.noise.samples - made.samples].detach().cpu().float()
        with self.raw.open("ab") as file:
            file.write(music.numpy().tobytes())
        made.samples += len(music)
        while self.stage2 and len(made.gains) * HOP + WINDOW <= made.samples:
            made.gains.append(self._gain(made, len(made.gains) * HOP))

    def _music(self, begin: int, count: int) -> torch.Tensor:
        values = np.fromfile(self.raw, np.float32, max(count, 0), offset=4 * begin)
        return torch.from_numpy(values)

    def _gain(self, made: Made, begin: int) -> float | None:
        """What stage 2 asks of the music as it was made, in dB, unbounded, in the window from a sample on."""
        noise = self.noise.mono(begin, WINDOW) * self._noise_gain(made)
        music = self._music(begin, WINDOW)
        length = min(len(noise), len(music))
        free = replace(self.shown, amplification=replace(self.shown.amplification, min_gain_db=None, max_gain_db=None))
        found = free.tried(noise[:length], music[:length])
        return None if found is None else max(found.gain_db, OFF_DB)

    # Levels and files

    def _write(self, made: Made) -> dict[str, Any]:
        """Level what is made, and write music, mix and noise, all lowered alike if the mix would clip."""
        samples = min(made.samples, self.noise.samples)
        blocks = range(0, samples, BLOCK)
        meter, largest = LoudnessMeter(SAMPLE_RATE), 0.0
        for begin in blocks:
            meter.push(self._music(begin, min(BLOCK, samples - begin)))
        gain_db, facts = self._gains(made, meter.value, samples)
        noise_gain = self._noise_gain(made)

        def parts(begin: int) -> tuple[torch.Tensor, torch.Tensor]:
            count = min(BLOCK, samples - begin)
            noise = self.noise.every(begin, count) * noise_gain
            return noise, (self._music(begin, count) * gain_db(begin, count))[: noise.shape[1]]

        level = LoudnessMeter(SAMPLE_RATE)
        with telling.stage("write", 2 * len(blocks), "part") as told:
            for begin in blocks:
                noise, music = parts(begin)
                largest = max(largest, float((noise + music).abs().max()))
                level.push(music)
                told.update()
            lowered = 1 / largest if largest > 1 else 1.0
            with Output(self.out, ("noise", "mix"), self.noise.channels, samples) as many, \
                 Output(self.out, ("music",), 1, samples) as one:  # fmt: skip
                for begin in blocks:
                    noise, music = parts(begin)
                    many.write(noise=noise * lowered, mix=(noise + music) * lowered)
                    one.write(music=music[None] * lowered)
                    told.update()
        music_lufs = level.value
        return facts | {
            "noise_lufs": round(self.lufs, 3),
            "music_lufs": round(music_lufs, 3) if math.isfinite(music_lufs) else None,
            "attenuation_db": round(-audio.db(lowered), 4) + 0.0,
            "made_seconds": round(samples / SAMPLE_RATE, 3),
            "noise_seconds": round(self.noise.samples / SAMPLE_RATE, 3),
            "windows": made.windows.number,
            "seconds": {name: round(value, 3) for name, value in made.windows.seconds.items()},
        }

    def _gains(
        self, made: Made, loudness: float, samples: int
    ) -> tuple[Callable[[int, int], torch.Tensor | float], dict[str, Any]]:
        """The music's factor by first sample and count, and facts of it."""
        if not math.isfinite(loudness):
            return lambda begin, count: 0.0, {"gain_db": None}
        own = getattr(self.method, "lufs", None)
        if not self.stage2:
            gain_db = 0.0 if own is None else own - loudness
            return lambda begin, count: audio.from_db(gain_db), {"gain_db": round(gain_db, 4)}
        level = self.lufs - loudness
        begins = [index * HOP for index in range(len(made.gains))]
        asked = list(made.gains)
        last = max(samples - WINDOW, 0)
        if not begins or begins[-1] < last:
            begins, asked = [*begins, last], [*asked, self._gain(made, last)]
        settings = self.shown.amplification
        low = OFF_DB if settings.min_gain_db is None else settings.min_gain_db
        high = math.inf if settings.max_gain_db is None else settings.max_gain_db
        bounded = [None if one is None else min(max(one - level, low), high) for one in asked]
        curve = points_curve(begins, bounded)
        known = [one for one in bounded if one is not None]
        mean = float(np.mean(known)) if known else 0.0
        return lambda begin, count: audio.from_db(level) * curve(begin, count), {
            "gain_db": round(level + mean, 4),
            "stage2_gain_db": round(mean, 4),
            "stage2_gains_db": [None if one is None else round(one, 2) for one in bounded],
        }


class Output:
    """Float WAV files that grow, and are put in place when whole; where they pass 4 GB, RF64.

    Parameters
    ----------
    folder : Path
    names : tuple of str
    channels : int
    samples : int
        That each will have.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], channels: int, samples: int) -> None:
        self.folder, self.names = folder, names
        self.kind = "WAV" if 4 * channels * samples < _WAV_LIMIT else "RF64"
        self.channels = channels

    def __enter__(self) -> "Output":
        self.stack = ExitStack()
        self.places = {name: self.stack.enter_context(placing(self.folder / f"{name}.wav")) for name in self.names}
        self.open = {
            name: soundfile.SoundFile(place, "w", SAMPLE_RATE, self.channels, "FLOAT", format=self.kind)
            for name, place in self.places.items()
        }
        return self

    def write(self, **parts: torch.Tensor) -> None:
        """Further samples [channels, n] by name."""
        for name, part in parts.items():
            with files.streamed_to(self.folder / f"{name}.wav"):
                self.open[name].write(part.T.contiguous().numpy())

    def __exit__(self, *failure: Any) -> None:
        for name, file in self.open.items():
            with files.streamed_to(self.folder / f"{name}.wav"):
                file.close()
        for place in self.places.values():
            with place.open("r+b") as written:
                head = bytearray(written.read(_HEAD))
                files.clear_peak_time(memoryview(head))
                written.seek(0)
                written.write(head)
        self.stack.__exit__(*failure)
