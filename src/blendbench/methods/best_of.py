"""The best of several candidates that a method makes of an item, by how well they mask and how much they are music."""

import time
from dataclasses import replace
from typing import Any

import torch

from blendbench.datasets.reading import read_music
from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator
from blendbench.methods import Context, Method, Wrapper
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, masking_model
from blendbench.tasks import Music
from blendbench.tasks.blend.given import NoiseAndText

_CLIPS = 200


class BestOf(Wrapper):
    """A wrapper of a method: candidates with other seeds, the first with the item's own.

    A candidate's score is its noise-to-mask ratio at the noise's loudness, in dB, plus `weight` times the squared
    Mahalanobis distance of its embedding from real music's, per dimension: minus twice its log likelihood under the
    Gaussian that FAD compares, which is 1 on average for real music. The lowest is taken. The real music is the half of
    the music set that is not the reference. A run whose metrics ask the same judge then reports what was chosen by it;
    a further judge does not.

    Parameters
    ----------
    label : str
        Row name.
    of : Method
    count : int
        Candidates; those of a smaller count are among those of a larger one, and are made once.
    weight : float
        In dB; 0 asks no judge.
    judge : Evaluator or None
        Gives embeddings.

    Raises
    ------
    BlendbenchError
        When a setting is out of range, or a weight has no judge.
    """

    def __init__(
        self, label: str, of: Method, count: int = 4, weight: float = 0.0, judge: Evaluator | None = None
    ) -> None:
        if type(count) is not int or count < 1:
            raise BlendbenchError(f"arm {label!r}: count is {count}; give a whole number from 1 up")
        if not 0 <= weight < float("inf"):
            raise BlendbenchError(f"arm {label!r}: weight is {weight}; give a number of dB from 0 up")
        if weight and judge is None:
            raise BlendbenchError(f"arm {label!r}: weight {weight} needs a judge; give one, or weight 0")
        super().__init__(label, of)
        self.count, self.weight = count, float(weight)
        self.judge = judge if weight else None
        self.uses = tuple(dict.fromkeys((*self.uses, *(("music",) if weight else ()))))

    def signature(self) -> dict[str, Any]:
        """The method's, and how a candidate is chosen."""
        own = super().signature() | {"count": self.count}
        return own | ({"weight": self.weight, "judge": self.judge.signature()} if self.judge else {})

    def prepare(self, context: Context) -> None:
        """Make the method ready, and hear real music where there is a judge."""
        self.made = [context.kept(self.of, f"candidate {index}" if index else "") for index in range(self.count)]
        if self.judge is not None:
            self.judge.prepare(context.device)
            clips = shuffled(context.borrow("music").clips, context.seed, lambda clip: clip.id)[:_CLIPS]
            heard = [self._embedding(read_music(clip, context.sample_rate, 5.0), context.sample_rate) for clip in clips]
            self.mean, self.precision = _gaussian(torch.stack(heard))

    def generate(self, items: list[NoiseAndText]) -> list[Music]:
        """The best candidate of each item, at its own level, with the scores of all."""
        candidates = [
            made.generate([_other(item, index) for item in items] if index else items)
            for index, made in enumerate(self.made)
        ]
        out = []
        for item, *choices in zip(items, *candidates, strict=True):
            start = time.perf_counter()
            scores = [self._score(item.noise, music) for music in choices]
            chosen = min(range(self.count), key=scores.__getitem__)
            best = choices[chosen]
            best.facts |= {"candidate": chosen, "score": round(scores[chosen], 3)}
            best.facts["choose_s"] = round(time.perf_counter() - start, 3)
            if all("cost_s" in music.facts for music in choices):
                cost = sum(music.facts["cost_s"] for music in choices)
                best.facts["cost_s"] = round(cost + best.facts["choose_s"], 3)
            out.append(best)
        return out

    def _score(self, noise: torch.Tensor, music: Music) -> float:
        if not bool(music.waveform.any()):
            return float("inf")
        rate = audio.SAMPLE_RATE
        leveled, _ = audio.normalize_loudness(music.waveform, rate, audio.integrated_loudness(noise, rate), "music")
        score = masking_model.ratio_of(noise, leveled)
        if self.judge is not None:
            off = self._embedding(leveled, rate) - self.mean
            score += self.weight * float(off @ self.precision @ off) / len(off)
        return score

    def _embedding(self, waveform: torch.Tensor, rate: int) -> torch.Tensor:
        """Mean over the judge's frames, [D], float64; the music at the loudness of a noise."""
        assert self.judge is not None
        leveled, _ = audio.normalize_loudness(waveform, rate, -18.0)
        embeddings = self.judge.score(audio.resample(leveled, rate, self.judge.sample_rate)).embeddings
        if embeddings is None:
            raise BlendbenchError(f"arm {self.label!r}: {self.judge.name} makes no embeddings; give another judge")
        return embeddings.double().mean(0)


def _other(item: NoiseAndText, index: int) -> NoiseAndText:
    """The item with the seed of another candidate."""
    return replace(item, seed=stable_seed(item.seed, "candidate", index))


def _gaussian(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [D] and precision [D, D] of embeddings [N, D], the covariance shrunk a tenth towards its diagonal's mean."""
    mean = embeddings.mean(0)
    covariance = torch.cov(embeddings.T)
    flat = covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    return mean, torch.linalg.inv(0.9 * covariance + 0.1 * flat)
