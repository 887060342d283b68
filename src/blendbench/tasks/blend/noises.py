"""Noise clips as a run hears them: read, cut or looped to length, at the presentation level; kept on disk by content.

What identifies a clip is what is heard of it: the SHA-256 of its file's bytes, or, for a segment of a longer recording,
that of the segment's samples. Under it, and a signature of length and level, the store keeps the finished waveform
(float32 `[samples]`, 44.1 kHz) and, of a clip of one image at most, its mel amplitudes (`[512, 512]`).
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blendbench.datasets import NoiseClip
from blendbench.datasets.reading import content_of, read_clip
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.sound import audio
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import mel_of
from blendbench.store.arrays import Arrays
from blendbench.store.ledger import Ledger
from blendbench.store.signature import signature

NOISE_VERSION = 1
_RECENT_SAMPLES = 64 * 5 * SAMPLE_RATE
"""Of the clips read last that are held in memory."""


def _is_key(key: str) -> bool:
    """Whether values may be kept under a key: what could not be read has no content."""
    return bool(key) and not key.startswith(":")


class Noises:
    """A run's noise clips, ready to be heard.

    Parameters
    ----------
    settings : mapping
        `seconds`, `lufs`, `short_clip` and, where it is set, `channel` of the configuration's `noise`.
    store : Path, optional
        The store's folder; without it nothing is kept on disk.
    """

    def __init__(self, settings: Mapping[str, Any], store: Path | None = None) -> None:
        self.seconds, self.lufs, self.short_clip = settings["seconds"], settings["lufs"], settings["short_clip"]
        self.channel = settings.get("channel")
        self.samples = None if self.seconds is None else round(self.seconds * SAMPLE_RATE)
        self._contents: dict[NoiseClip, str] = {}
        self._recent: OrderedDict[NoiseClip, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        if store is not None:
            kept = {"seconds": self.seconds, "lufs": self.lufs, "sample_rate": SAMPLE_RATE}
            kept |= {} if self.channel is None else {"channel": self.channel}
            folder = store / "noise" / signature("noise", NOISE_VERSION, kept)
            self._ledger = Ledger(folder / "noise.jsonl", ("key",))
            self._arrays = Arrays(folder / "noise.f32")

    def content(self, clip: NoiseClip) -> str:
        """SHA-256 of what is heard of a clip, or "" where that cannot be read."""
        if clip not in self._contents:
            self._contents[clip] = content_of(clip, self.seconds, self.short_clip, self.channel)
        return self._contents[clip]

    def read(self, clip: NoiseClip) -> torch.Tensor:
        """Waveform [samples] at 44.1 kHz and the presentation level, looped to length where there is one.

        Raises
        ------
        ClipError
            With the reason why the clip cannot take part.
        """
        with self._lock:
            if clip in self._recent:
                self._recent.move_to_end(clip)
                return self._recent[clip]
        check_links(clip.path, clip.root)
        content = self.content(clip)
        waveform = self._kept(content)
        if waveform is None:
            heard = read_clip(clip, self.seconds, self.short_clip, self.channel)
            if self.samples is not None:
                heard = audio.extend_circular(heard, self.samples)
            waveform, _ = audio.normalize_loudness(heard, SAMPLE_RATE, self.lufs, clip.id)
            self._keep(content, waveform)
        with self._lock:
            self._recent[clip] = waveform
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _RECENT_SAMPLES:
                self._recent.popitem(last=False)
        return waveform

    def mel(self, clip: NoiseClip) -> torch.Tensor:
        """Mel amplitudes as `mel_of`, kept where they are one image; raises ClipError as `read`."""
        key = f"{self.content(clip)}:mel"
        mel = self._kept(key)
        if mel is None:
            mel = mel_of(self.read(clip))
            if mel.shape[-1] <= RIFFUSION.frames:
                self._keep(key, mel)
        return mel

    def attempt(self, clip: NoiseClip) -> torch.Tensor | ClipError:
        """`read`, or why the clip cannot be read."""
        try:
            return self.read(clip)
        except ClipError as error:
            return error

    def _kept(self, key: str) -> torch.Tensor | None:
        """What the store holds under a key."""
        ledger = self._ledger  # another thread may give it up
        row = ledger.get(key) if ledger is not None and _is_key(key) else None
        if row is None:
            return None
        try:
            return torch.from_numpy(self._arrays.read(row))
        except BlendbenchError:
            return None  # damaged, cut short or gone: it is made again

    def _keep(self, key: str, values: torch.Tensor) -> None:
        """Put values into the store; a store that cannot be written makes a run slower, not fail."""
        if not _is_key(key):
            return
        with self._lock:
            if self._ledger is None:
                return
            try:
                self._ledger.append({"key": key, **self._arrays.append(values.numpy())})
            except BlendbenchError as error:
                print(f"blendbench: noises are not kept for the next time: {error}", file=sys.stderr)
                self._ledger = None

    def close(self) -> None:
        """Close the store's files; a later call opens them again."""
        if self._ledger is not None:
            self._ledger.close()
            self._arrays.close()
