"""FD: the distance itself, the evaluators that audioldm_eval took, and that it is not mistaken for FAD."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from omegaconf import OmegaConf

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator, Scores
from blendbench.metrics.fad import FAD
from blendbench.metrics.fd import FD
from blendbench.store.signature import canonical

CONF = Path(__file__).resolve().parents[1] / "conf"


class Ear(Evaluator):
    """Hears nothing, and is asked nothing."""

    name, sample_rate, comparable, fingerprint = "ear", 16_000, False, "f"

    def score(self, waveform: torch.Tensor) -> Scores:
        raise AssertionError


def embeddings(count: int, seed: int, shift: float = 0.0) -> list[torch.Tensor]:
    """Of clips, one each, after a ReLU."""
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return [row[None] for row in (drawn + shift).relu()]


def measured(metric: FAD, own: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    clips = [metric.of(Scores(one, None)) for one in own]
    theirs = metric.reference(metric.of(Scores(one, None)) for one in reference)
    return metric.statistic(metric.gather(clips), theirs)(torch.arange(len(clips)))


def calculate_fid(features: torch.Tensor, others: torch.Tensor) -> float:
    """A transcription of audioldm_eval's metrics/fid.py."""
    one, two = features.double().numpy(), others.double().numpy()
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    apart = one.mean(0) - two.mean(0)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.trace(root))


def test_it_is_the_distance_of_audioldm_eval():
    own, reference = embeddings(40, 0), embeddings(50, 1, shift=0.3)
    expected = calculate_fid(torch.cat(own), torch.cat(reference))
    assert expected > 0.1
    assert measured(FD(Ear()), own, reference) == pytest.approx(expected, rel=1e-6)


def test_a_set_has_no_distance_to_itself_even_with_fewer_clips_than_dimensions():
    own = embeddings(4, 0)
    assert measured(FD(Ear()), own, own) == pytest.approx(0, abs=1e-9)


def test_it_has_facts_of_its_own_and_no_further_values():
    metric = FD(Ear())
    assert list(metric.facts) == ["fd"] and metric.facts["fd"].label == "FD"
    assert metric.facts["fd"].higher_is_better is False and "audioldm_eval" in metric.facts["fd"].source
    reference = metric.reference(iter(embeddings(5, 1)))
    assert metric.further(torch.cat(embeddings(5, 0)), reference, seed=0) == []


def test_its_kept_values_are_not_those_of_fad_by_the_same_evaluator():
    ear = Ear()
    assert canonical(FD(ear).kept_under()) != canonical(FAD(ear).kept_under())
    assert FD(ear).kept_under()["evaluator"] == ear.signature()


def test_an_evaluator_without_embeddings_is_refused():
    metric = FD(Ear())
    metric.name = "fd"
    with pytest.raises(BlendbenchError, match=r"evaluator\.fd: ear makes no embeddings; take another"):
        metric.of(Scores(None, torch.zeros(527)))


def built(entry: str) -> Any:
    entries = OmegaConf.to_container(
        OmegaConf.create({"evaluator": OmegaConf.load(CONF / "evaluator" / "audioldm_eval.yaml")}), resolve=True
    )
    assert isinstance(entries, dict)
    return entries["evaluator"], config.build(entries["evaluator"][entry], f"evaluator.{entry}", [])


def test_audioldm_evals_evaluators_are_prepared_as_it_does():
    entries, vggish = built("fad")
    assert (vggish.sample_rate, vggish.pca, vggish.activation) == (16_000, False, False)
    _, cnn14 = built("fd")
    assert (cnn14.sample_rate, cnn14.remove_dc, cnn14.min_samples) == (16_000, True, 32_000)
    # One definition: a run builds it once, and hears each sound once for KL and FD.
    assert canonical(entries["kl"]) == canonical(entries["fd"])
    assert entries["prompt"] is None


def test_fd_asks_an_entry_of_its_own():
    entry = OmegaConf.load(CONF / "metric" / "fd.yaml")
    assert OmegaConf.to_container(entry) == {"fd": {"_target_": "blendbench.metrics.fd.FD", "evaluator": "fd"}}


def test_cnn14_embeds_after_its_last_hidden_layer_and_relu():
    """The `2048` of audioldm_eval: fc1 and ReLU, of the clip without its mean, padded to 32,000 samples."""
    pytest.importorskip("torchlibrosa")
    from blendbench.evaluators.pann import networks

    _, cnn14 = built("fd")
    torch.manual_seed(0)
    network = networks().Cnn14_16k(
        sample_rate=16_000, window_size=512, hop_size=160, mel_bins=64, fmin=50, fmax=8_000, classes_num=527
    )
    cnn14._model = network.eval()
    network.bn0.running_mean.fill_(-30)
    network.bn0.running_var.fill_(400)
    inner: list[torch.Tensor] = []
    network.fc1.register_forward_hook(lambda layer, inputs, output: inner.append(output.clone()))
    clip = 0.2 + 0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    found = cnn14.score(clip).embeddings
    assert found is not None and found.shape == (1, 2048)
    assert torch.equal(found, inner[0].relu()) and bool((inner[0] < 0).any())
    with torch.inference_mode():
        network(torch.nn.functional.pad(clip - clip.mean(), (0, 12_000))[None])
    torch.testing.assert_close(inner[1], inner[0], rtol=0, atol=0)
