"""Sim for noises: of all the real music there is, the stretch that masks this noise best, aligned with it.

What SimDPS's similarity search is for gaps: retrieval without a network. A stretch's masked threshold is found once
for a whole file; from place to place it only moves and is scaled to equal loudness, so every place in every file can be
tried (a grid of 23 ms, which brings onsets onto onsets). The best few are then measured as a run measures them.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from blendbench import telling
from blendbench.datasets import MusicClip
from blendbench.datasets.reading import ahead
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.sound import audio, files, masking_model
from blendbench.sound.masking_model import HOP, WINDOW
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText


@dataclass(frozen=True)
class _Heard:
    """A clip as the search hears it.

    Attributes
    ----------
    clip : MusicClip
    threshold : Tensor [24, frames]
        Masked threshold at a mean square of 1 after K-weighting, without the threshold in quiet.
    power : Tensor [frames]
        K-weighted mean square around each frame.
    """

    clip: MusicClip
    threshold: torch.Tensor
    power: torch.Tensor


class SimMasking:
    """The stretch of the music half with the least noise-to-mask ratio at equal loudness.

    Its music is real, of the kind that FAD's reference is made of: its FAD is flattered.

    Parameters
    ----------
    label : str
        Row name.
    seconds : float
        How much of each file is listened to.
    candidates : int
        How many of the best places, each of another clip, are measured as sound before one is chosen.

    Raises
    ------
    BlendbenchError
        If a setting is out of range.
    """

    takes: tuple[str, ...] = ("noise",)
    uses: tuple[str, ...] = ("music",)
    adaptive = False

    def __init__(self, label: str, seconds: float = 30.0, candidates: int = 8) -> None:
        if not 1 <= seconds < float("inf"):
            raise BlendbenchError(f"arm {label!r}: seconds is {seconds}; give a number from 1 up")
        if type(candidates) is not int or candidates < 1:
            raise BlendbenchError(f"arm {label!r}: candidates is {candidates}; give a whole number from 1 up")
        self.label, self.seconds, self.candidates = label, float(seconds), candidates

    def signature(self) -> dict[str, Any]:
        """Its settings; the music half enters with the run's."""
        return {"seconds": self.seconds, "candidates": self.candidates}

    def prepare(self, context: Context) -> None:
        """Keep the music list; raises BlendbenchError if it is empty."""
        self.clips, self.context = context.borrow("music").clips, context
        self._heard: list[_Heard] | None = None
        self._weights = audio.k_weighting(torch.arange(WINDOW // 2 + 1) * context.sample_rate / WINDOW)
        if not self.clips:
            raise BlendbenchError("music: no clips to choose music from; choose a music set")

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """The best stretch for each noise, looped where its file is shorter."""
        heard, made = self._listened(), []
        for item in items:
            began = time.perf_counter()
            energies = masking_model.band_energies(masking_model.spectra(item.noise, "noise")).float()
            level = audio.integrated_loudness(item.noise, self.context.sample_rate)
            ranked = sorted((*self._best(one, energies, level), place) for place, one in enumerate(heard))
            tried = ranked[: self.candidates]
            found = [self._measured(item, heard[place].clip, start, level) for _, start, place in tried]
            (ratio, waveform), (_, start, place) = min(zip(found, tried, strict=True), key=lambda one: one[0][0])
            clip, seconds = heard[place].clip, start / self.context.sample_rate
            facts = {"music_clip": clip.id, "music_source": clip.source, "music_start": round(seconds, 5)}
            facts |= {"found_db": round(ratio, 3), "search_s": round(time.perf_counter() - began, 3)}
            made.append(Music(waveform, facts))
        return made

    def _measured(self, item: NoiseAndText, clip: MusicClip, start: int, level: float) -> tuple[float, torch.Tensor]:
        """Noise-to-mask ratio of a place as sound, and its waveform."""
        whole = self._read(clip)
        if start + item.samples <= len(whole):
            waveform = whole[start : start + item.samples]
        else:
            waveform = audio.extend_circular(torch.roll(whole, -start), item.samples)
        try:
            leveled, _ = audio.normalize_loudness(waveform, self.context.sample_rate, level)
        except ClipError:  # a stretch that is nearly silent
            return float("inf"), waveform
        return masking_model.ratio_of(item.noise, leveled), waveform

    def _best(self, one: _Heard, energies: torch.Tensor, level: float) -> tuple[float, int]:
        """The least mean ratio of noise to threshold over all places of a clip, and the place in samples."""
        frames, count = energies.shape[1], len(one.power)
        # Without going round where the clip is long enough.
        around = 0 if count > frames else frames - 1
        repeats = -(-around // count)

        def stretches(row: torch.Tensor) -> torch.Tensor:
            """[places, frames]"""
            return torch.cat([row] + [row] * repeats)[: count + around].unfold(0, frames, 1)

        gain = 10 ** ((level + 0.691) / 10) / stretches(one.power).mean(1).clamp_min(1e-12)
        quiet = masking_model.quiet_threshold().float()
        counted = energies * (energies > quiet).any(0)
        ratio = torch.zeros(len(gain))
        for row, noise, least in zip(one.threshold, counted, quiet, strict=True):
            ratio += (noise / (stretches(row) * gain[:, None]).maximum(least)).mean(1)
        place = int(ratio.argmin())
        return float(ratio[place]), place * HOP

    def _listened(self) -> list[_Heard]:
        """All clips; those that cannot be read are left out, and it is an error where none can."""
        if self._heard is None:
            with telling.stage("listen", len(self.clips), "clip") as stage:
                found: list[_Heard] = []
                for one in ahead(self._listen, self.clips):
                    stage.update()
                    if one is not None:
                        found.append(one)
            if not found:
                raise BlendbenchError("music: none of its clips can be read; check the music set")
            self._heard = found
        return self._heard

    def _read(self, clip: MusicClip) -> torch.Tensor:
        check_links(clip.path, clip.root)
        return files.read(clip.path, self.context.sample_rate, max_seconds=self.seconds, start=clip.start)

    def _listen(self, clip: MusicClip) -> _Heard | None:
        try:
            waveform = self._read(clip)
        except ClipError:
            return None
        spectrum = masking_model.spectra(waveform, clip.id)
        power = (spectrum[::2].abs().square() * self._weights).sum(1).float()
        return _Heard(clip, masking_model.excitation(spectrum).float(), power)
