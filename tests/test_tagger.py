"""The built-in tagger: what it hears, what it is saved as, and how it refuses what does not fit."""

import json

import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scorer
from blendbench.evaluators.pocket import PocketTagger
from blendbench.models.tagger import Tagger
from blendbench.models.weights import checkpoint_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = Tagger(["Pop", "Jazz", "rain"], [4, 8], embedding=6, instruments=["piano"])
    place = tmp_path_factory.mktemp("tagger")
    model.save(place)
    return place


def waves(count=3, seed=0):
    return 0.1 * torch.randn(count, 44_100, generator=torch.Generator().manual_seed(seed))


def test_a_saved_tagger_comes_back_with_the_same_scores_to_half_precision(folder):
    torch.manual_seed(0)
    original = Tagger(["Pop", "Jazz", "rain"], [4, 8], embedding=6, instruments=["piano"]).eval()
    with torch.inference_mode():
        before, after = original(waves()), Tagger.load(folder)(waves())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=0)


def test_scores_are_those_of_the_tagger(folder):
    evaluator = PocketTagger("tiny", str(folder))
    evaluator.prepare("cpu")
    heard = evaluator.score(waves()[1])
    with torch.inference_mode():
        embeddings, logits = Tagger.load(folder)(waves()[1:2])
    assert torch.equal(heard.embeddings, embeddings)
    assert torch.equal(heard.logits, logits[0])


def test_the_tagger_hears_level(folder):
    model = Tagger.load(folder)
    with torch.inference_mode():
        quiet, loud = model.features(waves(1) * 0.1), model.features(waves(1))
    assert float((loud - quiet)[:, 0].mean()) == pytest.approx(2 * 2.302585 / 4, abs=0.05)


def test_silence_gives_finite_scores(folder):
    evaluator = PocketTagger("tiny", str(folder))
    evaluator.prepare("cpu")
    embeddings, logits = evaluator.score(torch.zeros(44_100))
    assert bool(torch.isfinite(embeddings).all()) and bool(torch.isfinite(logits).all())


def test_hash_follows_the_weights_and_not_the_card(folder, tmp_path):
    torch.manual_seed(1)
    Tagger(["Pop", "Jazz", "rain"], [4, 8], embedding=6, instruments=["piano"]).save(tmp_path / "other")
    assert checkpoint_hash(tmp_path / "other") != checkpoint_hash(folder)
    before = checkpoint_hash(tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("a card")
    (tmp_path / "other" / "training.json").write_text("{}")
    assert checkpoint_hash(tmp_path / "other") == before


@pytest.mark.parametrize("spoil", ["no config", "no weights", "torn weights", "other shape"])
def test_a_folder_that_is_no_tagger_is_refused_in_one_line(folder, tmp_path, spoil):
    config = json.loads((folder / "config.json").read_text())
    if spoil != "no config":
        if spoil == "other shape":
            config["embedding"] = 7
        (tmp_path / "config.json").write_text(json.dumps(config))
    if spoil != "no weights":
        weights = (folder / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights[:100] if spoil == "torn weights" else weights)
    with pytest.raises(BlendbenchError, match=str(tmp_path)):
        Tagger.load(tmp_path)


def test_a_sound_is_scored_once_a_content(folder, tmp_path):
    evaluator = PocketTagger("tiny", str(folder))
    scorer = Scorer(evaluator, tmp_path, "cpu")
    sounds, reads = waves(2), []

    def read(index):
        reads.append(index)
        return sounds[index]

    first = scorer.scores(["a", "b"], read)
    again = scorer.scores(["b", "a", "b"], read)
    assert reads == [0, 1]
    for scores, index in zip(again, (1, 0, 1), strict=True):
        assert torch.equal(scores.embeddings, first[index].embeddings)
        assert torch.equal(scores.logits, evaluator.score(sounds[index]).logits)
