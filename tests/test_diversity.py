"""Diversity, and evaluators asked window by window."""

import pytest
import torch

from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators import Evaluator, Scores
from blendbench.evaluators.windowed import Windowed
from blendbench.metrics.diversity import Diversity


class Ear(Evaluator):
    """Hears the first sample and the length; nothing in silence."""

    name, sample_rate, comparable, fingerprint = "ear", 100, False, "f"

    def score(self, waveform: torch.Tensor) -> Scores:
        if not waveform.any():
            raise ClipError("silent")
        return Scores(torch.tensor([[float(waveform[0]), float(len(waveform))]]), waveform[:1])


def test_diversity_is_the_mean_distance_of_two():
    metric = Diversity(Ear())
    own = [metric.of(Scores(torch.tensor([direction]), None)) for direction in ([1.0, 0.0], [0.0, 2.0], [3.0, 0.0])]
    statistic = metric.statistic(own, None)
    # Distances 1, 0 and 1.
    assert statistic(torch.tensor([0, 1, 2])) == pytest.approx(2 / 3)
    assert statistic(torch.tensor([0, 2])) == pytest.approx(0.0)
    assert statistic(torch.tensor([1, 1])) == pytest.approx(0.0)  # of a resample: finite
    with pytest.raises(BlendbenchError, match="makes no embeddings"):
        metric.of(Scores(None, None))


def test_windows_are_heard_one_by_one():
    ear = Windowed(Ear(), seconds=2.0)
    wave = torch.cat([torch.full((200,), 1.0), torch.zeros(200), torch.full((200,), 3.0), torch.full((120,), 4.0)])
    found = ear.score(wave)
    assert found.embeddings is not None and found.logits is not None
    # Silence is passed over; what is left at the end counts from half a window.
    assert found.embeddings.tolist() == [[1.0, 200.0], [3.0, 200.0], [4.0, 120.0]]
    assert found.logits.tolist() == [pytest.approx(8 / 3)]
    assert len(ear.score(wave[:680]).embeddings) == 2  # type: ignore[arg-type]
    assert ear.score(torch.ones(30)).embeddings.tolist() == [[1.0, 30.0]]  # type: ignore[union-attr]
    with pytest.raises(ClipError, match="no window of it can be scored"):
        ear.score(torch.zeros(400))
    assert ear.fingerprint == "f" and ear.signature()["window_seconds"] == 2.0 and "2-s windows" in ear.name
