"""Music painted ahead of time: the next window while the present one plays.

A window is painted over the last 5.11 s of noise that were heard, as repeating noise will go on; its first frames are
the last window's end, held. A painting begins as late as the machine allows, so that the music knows the latest noise.
Where the machine is too slow, a painting takes fewer steps.
"""

import math
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from blendbench.errors import ClipError
from blendbench.methods._images import FRAMES, ImageMethod, Long
from blendbench.sound import audio
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.lattice import RIFFUSION, extend_to_frames
from blendbench.sound.mel import decode_image, encode_image, mel_amplitudes
from blendbench.sound.streaming import StreamingInversion
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.presentation import Blended

HEARD = RIFFUSION.samples
"""Samples of noise that a window is painted over."""
LEAST_HEARD = SAMPLE_RATE
"""Samples that must have been heard before the first one."""
FEWEST_STEPS = 2
_BLOCK_FRAMES = 96
_PEAK = 60.0
"""Mel amplitude of a black pixel, whatever the noise's: levels are found by loudness."""
_QUIET_LUFS = -70.0


@dataclass
class Piece:
    """Music that is ready.

    Attributes
    ----------
    music : Tensor [samples]
        At equal loudness with the noise that it was painted over, and under stage 2's gain where the method has that.
    heard : float
        When the last of that noise was heard, by the monotonic clock.
    """

    music: torch.Tensor
    heard: float


@dataclass
class Figures:
    """What became of it.

    Attributes
    ----------
    painted : list of float
        Seconds that each window took, with its phase.
    steps : list of int
        With how many steps.
    """

    painted: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


class Painter(threading.Thread):
    """A thread that keeps a little music ready.

    Parameters
    ----------
    method : ImageMethod
        Prepared.
    given : NoiseAndText
        Text and seed.
    shown : Blended
        The presentation whose stage 2 counts.
    waits : bool
        Whether whoever plays waits for music: then it is painted as it is wanted, with all steps.
    """

    def __init__(self, method: ImageMethod, given: NoiseAndText, shown: Blended, waits: bool = False) -> None:
        super().__init__(name="painter", daemon=True)
        self.method, self.item, self.shown, self.waits = method, given, shown, waits
        self.figures = Figures()
        self.error: BaseException | None = None
        self._lock = threading.Condition()
        self._ended = False
        self._noise = torch.zeros(0)
        self._heard_at = 0.0
        self._pieces: deque[Piece] = deque()
        self._ready = 0
        self._steps = method.sampling.steps
        self._state = Long()
        self._sound = StreamingInversion(
            _PEAK, iterations=method.iterations, seed=given.seed, block=_BLOCK_FRAMES, device=method.context.device
        )
        self._gain_db: float | None = None

    # Asked by who plays

    def hear(self, noise: torch.Tensor) -> None:
        """Take noise [samples], the mean of its channels."""
        with self._lock:
            self._noise = torch.cat([self._noise, noise])[-HEARD:]
            self._heard_at = time.monotonic()
            self._lock.notify_all()

    def take(self, samples: int, wait: bool) -> list[Piece]:
        """Up to so much of the music that is ready, in pieces; with `wait`, all of it unless the painter has ended."""
        out: list[Piece] = []
        with self._lock:
            while samples > 0:
                while wait and not self._pieces and not self._ended and self.error is None and self._can_paint():
                    self._lock.notify_all()
                    self._lock.wait(0.5)
                if not self._pieces:
                    break
                piece = self._pieces.popleft()
                taken = piece.music[:samples]
                out.append(replace(piece, music=taken))
                if len(piece.music) > samples:
                    self._pieces.appendleft(replace(piece, music=piece.music[samples:]))
                samples -= len(taken)
                self._ready -= len(taken)
            self._lock.notify_all()
        return out

    def end(self) -> None:
        """Stop after what is being painted."""
        with self._lock:
            self._ended = True
            self._lock.notify_all()

    # The thread

    def _can_paint(self) -> bool:
        return len(self._noise) >= LEAST_HEARD

    def _wanted(self) -> bool:
        """Whether it is time for the next window."""
        if not self._can_paint():
            return False
        if self.waits:
            return not self._pieces
        usual = max(self.figures.painted[-3:], default=math.inf)
        return self._ready / SAMPLE_RATE <= 1.3 * usual + 0.3

    def run(self) -> None:
        """Paint until the end."""
        try:
            while True:
                with self._lock:
                    while not self._ended and not self._wanted():
                        self._lock.wait(0.2)
                    if self._ended:
                        return
                    noise, heard = self._noise.clone(), self._heard_at
                piece = self._next(noise, heard)
                with self._lock:
                    self._pieces.append(piece)
                    self._ready += len(piece.music)
                    self._lock.notify_all()
        except BaseException as error:
            self.error = error
        finally:
            with self._lock:
                self._ended = True
                self._lock.notify_all()

    def _next(self, noise: torch.Tensor, heard: float) -> Piece:
        begin = time.monotonic()
        pixels, _ = encode_image(mel_amplitudes(extend_to_frames(noise))[None], quantize=self.method.generator.quantize)
        sampling = self.method.sampling
        self.method.sampling = replace(sampling, steps=self._steps)
        try:
            music = self.method.next_window(pixels, self.item, self._state)
        finally:
            self.method.sampling = sampling
        sound = self._sound.push(decode_image(music, _PEAK))
        leveled = self._leveled(sound, noise)
        seconds = time.monotonic() - begin
        self.figures.painted.append(seconds)
        self.figures.steps.append(self._steps)
        self._adapt(seconds, seconds_a_window(self.method))
        return Piece(leveled, heard)

    def _adapt(self, seconds: float, played: float) -> None:
        """Fewer steps where a window takes longer than it plays."""
        if self.waits or self._state.number < 2 or seconds < 0.95 * played or self._steps <= FEWEST_STEPS:
            return
        self._steps = max(FEWEST_STEPS, self._steps // 2)
        print(
            f"blendbench: a window of {played:.1f} s took {seconds:.1f} s; going on with {self._steps} steps",
            file=sys.stderr,
        )

    def _leveled(self, music: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Music at the noise's loudness and under stage 2's gain, going over from the last window's gain."""
        target = self._gain_of(music, noise)
        last = target if self._gain_db is None else self._gain_db
        self._gain_db = target
        # Over the first half second and as long as 10 dB a second take.
        turn = min(len(music), max(SAMPLE_RATE // 2, round(abs(target - last) / 10 * SAMPLE_RATE)))
        curve = torch.full((len(music),), float(target))
        curve[:turn] = torch.linspace(last, target, turn)
        return music * 10 ** (curve / 20)

    def _gain_of(self, music: torch.Tensor, noise: torch.Tensor) -> float:
        """The gain in dB; what it was where noise or music is silent."""
        try:
            own = audio.integrated_loudness(music, SAMPLE_RATE)
            level = audio.integrated_loudness(noise, SAMPLE_RATE)
        except ClipError:
            return self._gain_db or 0.0
        if not math.isfinite(own):
            return self._gain_db or 0.0
        if level <= _QUIET_LUFS or not math.isfinite(level):
            return self._gain_db if self._gain_db is not None else -30.0 - own
        gain = level - own
        if self.shown.is_adaptive(self.method):
            length = min(len(music), len(noise))
            found = self.shown.tried(noise[-length:], music[:length] * audio.from_db(gain))
            gain += 0.0 if found is None or not math.isfinite(found.gain_db) else found.gain_db
        return gain


def seconds_a_window(method: ImageMethod) -> float:
    """What each window adds to the music."""
    return (FRAMES - method.overlap) * RIFFUSION.hop_length / SAMPLE_RATE


def facts_of(painter: Painter) -> dict[str, Any]:
    """Windows, seconds a window and the real-time factor."""
    painted = painter.figures.painted
    played = seconds_a_window(painter.method)
    mean = sum(painted) / len(painted) if painted else math.nan
    return {
        "windows": len(painted),
        "seconds_a_window": round(mean, 3),
        "real_time_factor": round(mean / played, 3),
        "steps": painter.figures.steps[-1] if painter.figures.steps else 0,
    }
