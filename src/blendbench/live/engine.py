"""Noise in, music or both out, block by block: as many samples go out as came in, and music never breaks off."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from blendbench.live.painter import Painter, facts_of
from blendbench.live.streams import Sink
from blendbench.sound import audio
from blendbench.sound.audio import SAMPLE_RATE

_FADE = SAMPLE_RATE // 5
_KEPT = 6 * SAMPLE_RATE


@dataclass
class Report:
    """What became of a stream.

    Attributes
    ----------
    samples : int
        That came in and went out.
    silent : int
        Before the first music was ready.
    underruns : int
        Times that music was not ready and what had been played was played again.
    latencies : list of float
        Seconds from the last noise that a window knew to the first sample of its music.
    """

    samples: int = 0
    silent: int = 0
    underruns: int = 0
    repeated: int = 0
    latencies: list[float] = field(default_factory=list)

    def told(self, painter: Painter) -> str:
        """In a line."""
        facts = facts_of(painter)
        text = f"{self.samples / SAMPLE_RATE:.1f} s, music after {self.silent / SAMPLE_RATE:.1f} s"
        text += f"; {facts['windows']} windows of {facts['steps']} steps, {facts['seconds_a_window']:.2f} s each"
        text += f", real-time factor {facts['real_time_factor']:.2f}"
        if self.latencies:
            middle, late = np.quantile(self.latencies, [0.5, 0.95])
            text += f"; music knows the noise of {middle:.1f} s before (95 %: {late:.1f} s)"
        return text + f"; underruns {self.underruns}, {self.repeated / SAMPLE_RATE:.1f} s played again"


class Player:
    """The music as a stream without an end: what is ready, or what was played, once more.

    Parameters
    ----------
    painter : Painter
    wait : bool
        Wait for music rather than play any again.
    """

    def __init__(self, painter: Painter, wait: bool) -> None:
        self.painter, self.wait = painter, wait
        self.report = Report()
        self._played = torch.zeros(0)
        self._again: torch.Tensor | None = None
        self._place = 0
        self._last_heard = math.nan

    def next(self, samples: int) -> torch.Tensor:
        """So many samples of music; silence only before the first."""
        if self.painter.error is not None:
            raise self.painter.error
        out = torch.zeros(0)
        for piece in self.painter.take(samples, self.wait):
            if piece.heard != self._last_heard:
                self.report.latencies.append(time.monotonic() - piece.heard)
                self._last_heard = piece.heard
            music = piece.music
            if self._again is not None and len(out) == 0:  # from what is played again into what is new
                count = min(_FADE, len(music))
                turn = torch.linspace(0, math.pi / 2, count)
                music = music.clone()
                music[:count] = music[:count] * turn.sin() + self._repeated(count) * turn.cos()
                self._again = None
            elif not len(self._played):
                count = min(_FADE, len(music))
                music = music.clone()
                music[:count] *= torch.linspace(0, 1, count)
            out = torch.cat([out, music])
            self._played = torch.cat([self._played, music])[-_KEPT:]
        lacking = samples - len(out)
        if lacking and not len(self._played):
            self.report.silent += lacking
            return torch.cat([out, torch.zeros(lacking)])
        if lacking:
            out = torch.cat([out, self._repeated(lacking)])
            self.report.repeated += lacking
        return out

    def _repeated(self, samples: int) -> torch.Tensor:
        """What was played, in a loop whose ends go over into each other."""
        if self._again is None:
            self.report.underruns += 1
            played = self._played
            fade = min(_FADE, len(played) // 4)
            turn = torch.linspace(0, math.pi / 2, fade)
            loop = played[: len(played) - fade].clone()
            # The loop goes on from its own end: its beginning is heard under what came before it.
            loop[:fade] = loop[:fade] * turn.sin() + played[len(played) - fade :] * turn.cos()
            self._again, self._place = loop, 0
        index = (self._place + torch.arange(samples)) % max(1, len(self._again))
        self._place += samples
        return self._again[index]


def play(
    source: Iterable[torch.Tensor], painter: Painter, sinks: list[tuple[Sink, bool]], wait: bool
) -> tuple[Report, bool]:
    """Hear a source and play to sinks until it ends.

    Parameters
    ----------
    source : iterable of Tensor [channels, samples]
    painter : Painter
        Not started.
    sinks : list of (Sink, bool)
        With whether the noise is to be in it.
    wait : bool
        Whether to wait for music, for what is not heard as it comes.

    Returns
    -------
    Report
    bool
        Whether the source came to its end: False where nobody listened any more.
    """
    player = Player(painter, wait)
    painter.start()
    try:
        for noise in source:
            painter.hear(noise.mean(0))
            music = player.next(noise.shape[1])
            player.report.samples += noise.shape[1]
            for sink, with_noise in sinks:
                heard = noise + music if with_noise else music[None].expand(noise.shape[0], -1)
                sink.write(audio.round_off(heard))
        return player.report, True
    except BrokenPipeError:
        return player.report, False
    except KeyboardInterrupt:
        return player.report, True
    finally:
        painter.end()
        painter.join(timeout=30)
