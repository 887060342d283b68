"""DPS and SimDPS: a gap filled by sampling from a prior of music, held to what is observed and, in SimDPS, to a guide.

The guide is the place of the track whose surroundings are most like the gap's (`methods.sim`). The prior works at its
own sample rate; what lies above half of it in the gap is taken from the guide, or left out.
"""

import math
import time
from typing import Any

import torch

from blendbench import telling
from blendbench.errors import BlendbenchError, ClipError
from blendbench.methods import Context
from blendbench.methods.sim import Sim
from blendbench.models.batches import in_parts
from blendbench.models.edm import Churn, Guidance, Schedule, guided, sample
from blendbench.models.priors import AudioPrior, PriorCheckpoint
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.tasks import Music
from blendbench.tasks.long_gap.distances import guide_snr
from blendbench.tasks.long_gap.gap import FADE, Gap, paste
from blendbench.tasks.long_gap.task import Incomplete

_LEAK = 16
"""Samples at the prior's rate beside a gap of zeros into which resampling carries more than -40 dB of the jump."""


class SimDPS:
    """Diffusion posterior sampling in a gap, with a guide (SimDPS-l, SimDPS-h) or without one (DPS).

    Parameters
    ----------
    label : str
        Row name.
    prior : dict
        Fields of `priors.PriorCheckpoint`, without `key`.
    guidance : dict
        Fields of `edm.Guidance`: weights of what is observed, .3, and of the guide, 0 (DPS), .04 (h) or .15 (l).
    schedule, churn : dict
        Fields of `edm.Schedule` and `edm.Churn`; the schedule's kind, log or edm, with the first.
    search : dict or None
        Fields of `similarity.SimilaritySettings`, for the guide; None where there is none.
    above : "guide" or "none"
        What is in the gap above the prior's highest frequency.
    level : float
        RMS that the recording is brought to before sampling, as the prior knows music; undone afterwards.

    Raises
    ------
    BlendbenchError
        If a field is unknown or out of range.
    """

    uses: tuple[str, ...] = ()

    def __init__(
        self,
        label: str,
        prior: dict[str, Any],
        guidance: dict[str, Any],
        schedule: dict[str, Any],
        churn: dict[str, Any],
        search: dict[str, Any] | None = None,
        above: str = "guide",
        level: float = 0.05657,
    ) -> None:
        self.label = label
        try:
            self.prior = PriorCheckpoint("prior", **prior)
            self.guidance, self.schedule, self.churn = Guidance(**guidance), Schedule(**schedule), Churn(**churn)
        except TypeError as error:
            raise BlendbenchError(f"arm {label!r}: {error}; mend that entry") from error
        except BlendbenchError as error:
            raise BlendbenchError(f"arm {label!r}: {error}") from error
        if above not in ("guide", "none"):
            raise BlendbenchError(f"arm {label!r}: above is {above!r}; choose guide or none")
        if not 0 < level < math.inf:
            raise BlendbenchError(f"arm {label!r}: level is {level}; give a number above 0")
        if self.guidance.guide > 0 and search is None:
            raise BlendbenchError(
                f"arm {label!r}: guidance.guide is {self.guidance.guide}, but search is null; say how to find the guide"
            )
        self.sim = None if search is None else Sim(f"{label}, guide", search)
        self.search = None if self.sim is None else self.sim.search
        self.takes: tuple[str, ...] = ("recording", "gap") if search is None else Sim.takes
        self.above, self.level = above, float(level)

    def signature(self) -> dict[str, Any]:
        """The prior, and every constant."""
        own: dict[str, Any] = {"guidance": vars(self.guidance), "schedule": vars(self.schedule)}
        own |= {"churn": vars(self.churn), "above": self.above, "level": self.level}
        searched = {} if self.sim is None else self.sim.signature()
        return self.prior.signature() | own | searched

    def prepare(self, context: Context) -> None:
        """Load the prior."""
        self.sample_rate = context.sample_rate
        self.network = self.prior.get(context.device)
        self.device = context.device
        self.guides = None if self.sim is None else context.kept(self.sim)

    def generate(self, given: list[Incomplete]) -> list[Music]:
        """The recordings with their gaps filled; raises ClipError where a window is too short, or no guide is found."""
        began = time.perf_counter()
        found = [None] * len(given) if self.guides is None else self.guides.generate(given)
        searched = time.perf_counter()
        cuts = [
            _Cut(one, None if guide is None else guide.waveform, self.network, self.sample_rate, self.level)
            for one, guide in zip(given, found, strict=True)
        ]
        parts = [cuts[part] for part in in_parts(torch.device(self.device), len(cuts))]
        filled: list[torch.Tensor] = []
        with telling.stage("fill", self.schedule.steps * len(parts), "step") as stage:
            for part in parts:
                filled += self._sample(part, stage.update)
        seconds = (time.perf_counter() - searched) / len(given)
        music = []
        for one, guide, cut, low in zip(given, found, cuts, filled, strict=True):
            made = cut.put_back(low, self.above == "guide")
            facts = {"fill_s": round(seconds, 3)}
            if guide is not None:
                facts |= guide.facts | {"snr_to_guide": round(guide_snr(guide.waveform, made, one.gap), 4)}
                facts["cost_s"] = round(guide.facts.get("cost_s", (searched - began) / len(given)) + seconds, 3)
            music.append(Music(made, facts))
        return music

    def _sample(self, cuts: "list[_Cut]", after: Any) -> list[torch.Tensor]:
        signal = torch.stack([cut.signal for cut in cuts]).to(self.device)
        mask = torch.stack([cut.mask for cut in cuts]).to(self.device)
        generators = [torch.Generator().manual_seed(stable_seed(cut.seed, "fill")) for cut in cuts]
        start = torch.stack([torch.randn(signal.shape[1], generator=one) for one in generators]).to(self.device)
        denoiser = guided(self.network.denoise, signal, mask, self.guidance)
        with torch.no_grad():
            return list(sample(denoiser, start, self.schedule, self.churn, generators, after=after).cpu())


class _Cut:
    """What a prior works on of a window: around the gap, at its rate and level.

    Attributes
    ----------
    signal : Tensor [prior.samples]
        What is observed, and in the gap the guide.
    mask : Tensor [prior.samples]
        1 where it is observed.
    seed : int
    """

    def __init__(
        self, one: Incomplete, guide: torch.Tensor | None, prior: AudioPrior, sample_rate: int, level: float
    ) -> None:
        self.rates, self.seed, self.has_guide = (sample_rate, prior.sample_rate), one.seed, guide is not None
        self.whole = one.recording if guide is None else paste(one.recording, guide, one.gap)
        samples = round(prior.samples * sample_rate / prior.sample_rate)
        if one.samples < samples:
            raise ClipError(
                f"window has {one.samples} samples, the prior takes {samples} at {sample_rate:,} Hz; give a longer "
                "gap.window"
            )
        if one.gap.length >= samples:
            raise ClipError(f"gap has {one.gap.length} samples, the prior takes {samples} with context; take another")
        # With the gap in the middle where the window is longer, as far as its ends allow.
        middle = (one.gap.start + one.gap.stop - samples) // 2
        self.first = min(max(middle, 0), one.samples - samples)
        self.part = self.whole[self.first : self.first + samples]
        self.gap = Gap(one.gap.start - self.first, one.gap.stop - self.first)
        self.gap.check(samples)
        observed = one.recording[one.gap.mask(one.samples)]
        loudness = float(observed.double().square().mean().sqrt())
        if loudness == 0:
            raise ClipError("the recording is silent around the gap; choose a gap with sound on both sides")
        self.gain = level / loudness
        low = audio.resample(self.part, *self.rates)[: prior.samples]
        self.rest = self.part - self._up(low)
        self.signal = low * self.gain
        ratio, resampled = prior.sample_rate / sample_rate, prior.sample_rate != sample_rate
        leak = _LEAK if resampled and guide is None else 0
        self.mask = torch.ones(prior.samples)
        self.mask[max(math.floor(self.gap.start * ratio) - leak, 0) : math.floor(self.gap.stop * ratio) + leak] = 0

    def put_back(self, low: torch.Tensor, above: bool) -> torch.Tensor:
        """The window [samples] with what was sampled in the prior's part; `above` adds the guide's high frequencies."""
        rest = self.rest
        if not (above and self.has_guide):
            rest = paste(rest, torch.zeros_like(rest), self.gap, min(FADE, self.gap.start, len(rest) - self.gap.stop))
        made = self.whole.clone()
        made[self.first : self.first + len(rest)] = self._up(low / self.gain) + rest
        return made

    def _up(self, low: torch.Tensor) -> torch.Tensor:
        return audio.resample(low, *self.rates[::-1])[: len(self.part)]
