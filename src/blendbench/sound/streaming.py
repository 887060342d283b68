"""Mel amplitudes to sound block by block, with one phase throughout: for images of any length in bounded memory.

It is `inversion.to_audio` on stretches that begin before what is wanted and end after it. Where a stretch begins, the
sound is decided already: its samples are held in every iteration, and the starting phase goes on from theirs, so no
partial breaks off at a block's edge. What a stretch has beyond its end is thrown away, and made again by the next.
"""

from dataclasses import replace
from functools import partial

import torch

from blendbench.sound.inversion import alternate, centre_cycles, invert_mel, set_mel, start_wave
from blendbench.sound.lattice import (
    RIFFUSION,
    Lattice,
    MelSettings,
    Workers,
    framed,
    resample_hops,
    working_precision,
    working_settings,
)
from blendbench.sound.mel import mel_bank

HELD = 48
"""Frames before a block whose sound is held."""
AHEAD = 24
"""Frames after a block that are made for its sake, twice a window."""
_MARGIN = 16
"""Hops on both sides of a part whose rate is changed; the output lies that far behind."""


class StreamingInversion:
    """A sound in the making: `push` mel amplitudes, take what is ready, `finish`.

    Parameters
    ----------
    peak : float
        The largest amplitude that may come.
    settings : MelSettings
    iterations : int
        As for `inversion.to_audio`.
    momentum : float
    seed : int
    block : int
        Frames that are made at a time, beside those before and after.
    device : str or torch.device
    """

    def __init__(
        self,
        peak: float,
        settings: MelSettings = RIFFUSION,
        *,
        iterations: int = 24,
        momentum: float = 0.99,
        seed: int = 0,
        block: int = 512,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings, self.work = settings, working_settings(settings)
        self.peak, self.iterations, self.momentum, self.seed = max(float(peak), 1e-12), iterations, momentum, seed
        self.block, self.device = block, torch.device(device)
        #: Frames [mels, n] from `_first` on, not all of them made yet.
        self._mel = torch.empty(settings.n_mels, 0)
        self._first = 0
        #: Samples at the working rate from frame `_first` on, decided.
        self._wave = torch.empty(0)
        #: Hops given out.
        self._given = 0

    def state(self) -> dict[str, torch.Tensor]:
        """What it holds, to go on from."""
        places = torch.tensor([self._first, self._given])
        return {"mel": self._mel.contiguous(), "wave": self._wave.contiguous(), "places": places}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        self._mel, self._wave = state["mel"], state["wave"]
        self._first, self._given = (int(place) for place in state["places"])

    @property
    def _decided(self) -> int:
        """Frames up to whose centre samples are decided."""
        return self._first + len(self._wave) // self.work.hop_length

    def push(self, mel: torch.Tensor) -> torch.Tensor:
        """Take further frames [n_mels, n]; returns the samples [m] at `settings.sample_rate` that are ready."""
        self._mel = torch.cat([self._mel, working_precision(mel).cpu()], dim=1)
        ready = []
        while self._first + self._mel.shape[1] >= self._decided + self.block + AHEAD + 1:
            self._make(self._decided + self.block)
            ready.append(self._take(self._decided - _MARGIN))
        return torch.cat(ready) if ready else torch.empty(0)

    def finish(self) -> torch.Tensor:
        """The rest of the samples: frames n give (n - 1) hops in all; nothing where there were fewer than two."""
        last = self._first + self._mel.shape[1] - 1
        if last > self._decided:
            self._make(last)
        return self._take(self._decided)

    def _make(self, until: int) -> None:
        """Decide the samples up to a frame's centre."""
        hop = self.work.hop_length
        begin = max(self._decided - HELD, self._first)
        begin -= (begin - self._first) % 2  # every second frame is seen, so that it begins with one
        begin = max(begin, self._first)
        stop = min(until + AHEAD, self._first + self._mel.shape[1] - 1)
        target = self._mel[:, begin - self._first : stop + 1 - self._first].T[None].to(self.device) / self.peak
        target = torch.where(target > 1e-9, target, 0.0).contiguous()
        held = self._wave[(begin - self._first) * hop :][None].to(self.device)
        made = self._invert(target, held)
        keep = (until - begin) * hop
        self._wave = torch.cat([self._wave[: (begin - self._first) * hop], made[0, :keep].cpu()])

    def _invert(self, target: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """Samples [1, (frames - 1) hops] of frames [1, frames, mels], the first of which are held."""
        work = self.work
        stride = 2 if 8 * work.hop_length <= work.win_length else 1
        samples = (target.shape[1] - 1) * work.hop_length
        if samples <= work.win_length // 2 + 1:  # too short for the transform's padding
            return torch.cat([held, held.new_zeros(1, max(0, samples - held.shape[1]))], dim=1)[:, :samples]
        sparse = replace(work, hop_length=stride * work.hop_length)
        bank = mel_bank(work, target.device, target.dtype)
        last = -(-self.iterations // 6)
        every = target[:, ::stride].contiguous()
        keep = held if held.shape[1] else None
        with Workers(target.device) as workers:
            magnitudes = target.new_zeros(*every.shape[:2], work.n_fft // 2 + 1)

            def invert(items: slice, frames: slice) -> None:
                magnitudes[items, frames, : bank.bins] = invert_mel(every[items, frames], bank, 1)

            workers.run(invert, *every.shape[:2])
            coarse = Lattice(sparse, every, samples, workers)
            wave = start_wave(magnitudes, coarse, [self.seed], "peaks", self._known(held, sparse))
            if keep is not None:
                wave[:, : keep.shape[1]] = keep
            constrain = partial(set_mel, bank)
            wave = alternate(wave, every, constrain, coarse, self.iterations - last, self.momentum, keep)
            full = Lattice(work, target, samples, workers)
            return alternate(wave, target, constrain, full, last, self.momentum, keep)

    @staticmethod
    def _known(held: torch.Tensor, settings: MelSettings) -> torch.Tensor | None:
        """Phases [1, k, bins] of the frames whose windows lie within held samples, in cycles about their centres."""
        count = (held.shape[1] - settings.win_length // 2) // settings.hop_length
        if count < 1:
            return None
        window = torch.hann_window(settings.win_length, dtype=held.dtype, device=held.device)
        spectrum = torch.fft.rfft(framed(held, settings)[:, :count] * window, n=settings.n_fft)
        cycles = spectrum.angle() / (2 * torch.pi) + centre_cycles(settings, spectrum.shape[-1]).to(held)
        return cycles.remainder(1)

    def _take(self, until: int) -> torch.Tensor:
        """Samples at the wanted rate from what was given last up to a frame; what is no longer needed is let go."""
        hop = self.work.hop_length
        if until <= self._given:
            return torch.empty(0)
        left = min(_MARGIN, self._given - self._first)
        right = min(_MARGIN, self._decided - until)
        part = self._wave[(self._given - left - self._first) * hop : (until + right - self._first) * hop]
        out = resample_hops(part[None], self.work, self.settings)[0]
        out = out[left * self.settings.hop_length :][: (until - self._given) * self.settings.hop_length]
        self._given = until
        # A sum over bins scales with the window's sum and with the bins' density: together, with n_fft.
        out = out * (self.peak * (self.work.n_fft / self.settings.n_fft))
        drop = max(0, min(self._given - _MARGIN, self._decided - HELD) - self._first)
        drop -= drop % 2
        self._mel, self._wave = self._mel[:, drop:], self._wave[drop * hop :]
        self._first += drop
        return out
