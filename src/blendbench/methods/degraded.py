"""Degraded music: a clip made worse in one of six known ways, by a strength in that way's own unit."""

from collections.abc import Callable
from typing import Any

import torch
import torchaudio

from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.sound import audio
from blendbench.tasks import Music
from blendbench.tasks.degradation.task import Degradable

PIECE_SECONDS, FADE_SECONDS = 0.5, 0.01


def with_noise(given: Degradable, decibels: float, rate: int) -> torch.Tensor:
    """Noise mixed in at so many dB above the music's power."""
    music, noise = given.recording, given.noise
    gain = (music.square().mean() / noise.square().mean().clamp(min=1e-12)).sqrt() * 10 ** (decibels / 20)
    return music + gain * noise


def low_passed(given: Degradable, hertz: float, rate: int) -> torch.Tensor:
    """Without what lies above a frequency: a window-less cut of the spectrum, faded over a tenth below it."""
    spectrum = torch.fft.rfft(given.recording)
    frequencies = torch.fft.rfftfreq(given.samples, 1 / rate)
    return torch.fft.irfft(spectrum * ((1.05 - frequencies / hertz) * 10).clamp(0, 1), given.samples)


def amplified(given: Degradable, decibels: float, rate: int) -> torch.Tensor:
    """Louder or softer."""
    return given.recording * 10 ** (decibels / 20)


def stretched(given: Degradable, factor: float, rate: int) -> torch.Tensor:
    """So many times as long at the same pitch, by a phase vocoder, and cut to its length."""
    n_fft, hop = 2048, 512
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(given.recording, n_fft, hop, window=window, return_complex=True)
    advance = torch.linspace(0, torch.pi * hop, n_fft // 2 + 1)[:, None]
    slower = torchaudio.functional.phase_vocoder(spectrum, 1 / factor, advance)
    return audio.extend_circular(torch.istft(slower, n_fft, hop, window=window), given.samples)


def shuffled(given: Degradable, share: float, rate: int) -> torch.Tensor:
    """So large a share of its half-second pieces in another order, each faded in and out over 10 ms."""
    length, fade = round(PIECE_SECONDS * rate), round(FADE_SECONDS * rate)
    pieces = list(given.recording.split(length))
    whole = [place for place, piece in enumerate(pieces) if len(piece) == length]
    draw = torch.Generator().manual_seed(given.seed % 2**63)
    moved = [whole[i] for i in torch.randperm(len(whole), generator=draw)[: round(share * len(whole))].tolist()]
    ramp = torch.linspace(0, 1, fade)
    fading = torch.cat([ramp, torch.ones(length - 2 * fade), ramp.flip(0)])
    # Each takes the next one's place, so that none stays where it was.
    taken = [pieces[place] * fading for place in moved]
    for place, piece in zip([*moved[1:], *moved[:1]], taken, strict=True):
        pieces[place] = piece
    return torch.cat(pieces)


def of_other_genre(given: Degradable, share: float, rate: int) -> torch.Tensor:
    """Clips of another genre in place of so large a share of them, the same ones and more as the share grows."""
    return given.other if (given.seed % 10_007) / 10_007 < share else given.recording


KINDS: dict[str, tuple[Callable[[Degradable, float, int], torch.Tensor], tuple[str, ...]]] = {
    "noise": (with_noise, ("recording", "noise")),
    "low_pass": (low_passed, ("recording",)),
    "gain": (amplified, ("recording",)),
    "stretch": (stretched, ("recording",)),
    "shuffle": (shuffled, ("recording",)),
    "other_genre": (of_other_genre, ("recording", "other")),
}
"""Ways of making music worse, with what of the task's offer each takes."""


class Degraded:
    """A clip made worse.

    Parameters
    ----------
    label : str
        Row name.
    kind : str
        One of `KINDS`; "none" leaves the clip as it is.
    strength : float
        How much: dB of the noise over the music, Hz of the low-pass, dB of gain, factor of the length, share of pieces
        moved, or share of clips replaced.
    """

    uses = ()

    def __init__(self, label: str, kind: str = "none", strength: float = 0.0) -> None:
        if kind != "none" and kind not in KINDS:
            raise BlendbenchError(f"kind={kind}: use none, {', '.join(KINDS)}")
        if kind in ("low_pass", "stretch") and not strength > 0:
            raise BlendbenchError(f"strength={strength:g}: give a number above 0 for {kind}")
        if kind in ("shuffle", "other_genre") and not 0 <= strength <= 1:
            raise BlendbenchError(f"strength={strength:g}: give a share of 0 to 1 for {kind}")
        self.label, self.kind, self.strength = label, kind, float(strength)
        self.takes = ("recording",) if kind == "none" else KINDS[kind][1]

    def signature(self) -> dict[str, Any]:
        """What is done, and how much."""
        return {"kind": self.kind, "strength": self.strength}

    def prepare(self, context: Context) -> None:
        """Keep the sample rate."""
        self.rate = context.sample_rate

    def generate(self, items: list[Degradable]) -> list[Music]:
        """Every clip, degraded."""
        if self.kind == "none":
            return [Music(item.recording) for item in items]
        return [Music(KINDS[self.kind][0](item, self.strength, self.rate)) for item in items]
