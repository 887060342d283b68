"""Trainings over pictures, a few steps each: what they leave is read again, and they learn from what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.generator import Generator
from blendbench.models.melfusion import MeLFusionCheckpoint
from blendbench.models.synapse import Synapse
from blendbench.models.tangopp import TangoPPCheckpoint
from blendbench.models.visual import VisualCheckpoint, Way
from blendbench.train.data.pictured import ROWS, Pictured
from blendbench.train.pocket import melfusion, tangopp, visual


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six clips whose mel images are noise, and an image model after two steps."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "pictured").mkdir()
    draw = np.random.default_rng(0)
    (folder / "pictured" / "images.u8").write_bytes(draw.integers(0, 256, (6, 512, 512), dtype=np.uint8).tobytes())
    rows = [
        {"song": str(place), "split": "train" if place < 4 else "held_out", "genre": "Jazz", "tempo": 80.0 + 10 * place,
         "mode": "minor" if place % 2 else "major", "drums": "no", "captions": ["a jazz tune", "jazz with piano"],
         "picture_seed": place, "chunk": 0}
        for place in range(6)
    ]  # fmt: skip
    (folder / "pictured" / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = visual.train(folder / "visual", steps=2, batch=2, log_every=1)
    assert figures["steps"] == 2 and len(figures["history"]) == 2 and figures["held_out_loss"] > 0
    assert figures["patch_error"] < 0.1
    return folder


def test_the_image_model_is_read_again(work):
    read = VisualCheckpoint("visual", str(work / "visual")).get("cpu")
    assert read.size == 256 and read.empty.shape == (1, 1, 16) and not bool(read.empty.any())
    latents = read.latents(2 * Pictured.open(work / "pictured").pictures([0, 1]) - 1)
    assert latents.shape == (2, 8, 32, 32) and 0.3 < float(latents.std()) < 3
    assert read.scheduler_config["prediction_type"] == "v_prediction"


def test_melfusion_learns_share_layers_and_decoder_and_is_read_again(work):
    words = {
        "visual": str(work / "visual"),
        "way": {"steps": 2},
        "rank": 2,
        "batch": 1,
        "log_every": 1,
        "save_every": 1,
    }
    figures = melfusion.train(work / "pictured", work / "melfusion", steps=2, **words)
    assert figures["clips"] == 4 and len(figures["shares"]) == 2
    assert all(figures[f"held_out_loss{name}"] > 0 for name in ("", "_other", "_without"))
    generator = Generator("generator", "pocket")
    made = MeLFusionCheckpoint("c", str(work / "melfusion"), visual={"checkpoint": str(work / "visual")})
    joined = made.of(generator, "cpu")
    assert joined.way == Way(steps=2) and len(joined.synapse.keys) == 4  # widths differ
    assert joined.synapse.shares().tolist() == pytest.approx(figures["shares"], abs=2e-3)
    before = Synapse(generator.get("cpu").unet, joined.visual.unet, joined.synapse.settings)
    assert not torch.equal(before.share, joined.synapse.share)
    moved = [name for name, value in joined.model.unet.state_dict().items()
             if not torch.equal(value, generator.get("cpu").unet.state_dict()[name])]  # fmt: skip
    assert moved and all(name.startswith("up_blocks.") for name in moved)
    # The pictures' ways are kept, and another training is refused.
    assert len(list((work / "pictured").glob("ways-*-inverted-2.f16"))) == 1
    with pytest.raises(BlendbenchError, match="state of a training with"):
        melfusion.train(work / "pictured", work / "melfusion", steps=3, **words)


def test_a_share_of_0_trains_the_decoder_without_a_picture(work):
    words = {"visual": str(work / "visual"), "synapse": {"alpha": 0.0}, "way": {"steps": 3}, "rank": 1, "batch": 1}
    figures = melfusion.train(work / "pictured", work / "without", steps=1, **words)
    assert figures["held_out_loss"] == figures["held_out_loss_other"] == figures["held_out_loss_without"]
    assert not list((work / "pictured").glob("ways-*-inverted-3.f16"))


def test_tangopp_learns_and_is_read_again(work):
    words = {"tokens": 4, "shared": 8, "hybrid": "concat"}
    figures = tangopp.train(work / "pictured", work / "tangopp", steps=2, words=words, rank=2, batch=1, log_every=1)
    assert figures["itc"] == 1.0 and 0.01 <= figures["temperature"] < 0.08
    told = TangoPPCheckpoint("c", str(work / "tangopp")).of(Generator("generator", "pocket"), "cpu")
    with torch.no_grad():
        tokens, place = told.words(Pictured.open(work / "pictured").pictures([0, 1]))
    assert tokens.shape == (2, 4, 160) and place.shape == (2, 8)
