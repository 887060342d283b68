"""Priors for posterior sampling: the Wiener denoiser, the network over it, and their training."""

import json

import numpy as np
import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.cqtdiff import PAPER
from blendbench.models.edm import Churn, Schedule, sample
from blendbench.models.priors import AudioPrior, welch
from blendbench.train.data.piano import Piano
from blendbench.train.data.pieces import RMS
from blendbench.train.pocket import prior as training

NETWORK = {"bins": [8, 8, 16], "widths": [8, 8, 16], "layers": [1, 1, 1], "bottleneck": 1, "embedding": 16}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def piano(tmp_path_factory):
    """A folder like that of `train piano`, of decaying tones."""
    folder = tmp_path_factory.mktemp("piano")
    draw, parts, rows, place = np.random.RandomState(0), [], [], 0
    for song in range(6):
        time = np.arange(40_000) / 11_025
        sound = sum(
            np.sin(2 * np.pi * pitch * time) * np.exp(-3 * ((time - start) % 4))
            for pitch, start in draw.uniform(100, 2000, (8, 2))
        )
        made = (sound / 10 * 32767).clip(-32767, 32767).astype(np.int16)
        parts.append(made)
        rows.append({"song": f"{song}", "split": "held_out" if song == 5 else "train", "start": place,
                     "stop": place + len(made), "rms": float(np.sqrt(((made / 32768) ** 2).mean())),
                     "sample_rate": 11_025})  # fmt: skip
        place += len(made)
    np.concatenate(parts).tofile(folder / "piano.i16")
    (folder / "piano.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_wiener_denoiser_is_the_mean_of_a_gaussians_posterior():
    """Of a stationary process on a circle: C (C + s^2)^-1 x, bin by bin."""
    power = torch.linspace(1, 0.01, 33)
    prior = AudioPrior(100, 0.5, power, base="wiener")
    gains = np.concatenate([power.numpy(), power.numpy()[-2:0:-1]])
    covariance = np.array([np.roll(np.fft.ifft(gains).real, shift) for shift in range(64)])
    x = noise(2, 64)
    for sigma in (0.1, 1.0):
        exact = x.numpy() @ np.linalg.solve(covariance + sigma**2 * np.eye(64), covariance)
        assert np.abs(prior.denoise(x, sigma).numpy() - exact).max() < 1e-5


def test_samples_of_the_wiener_prior_have_its_spectrum():
    power = torch.linspace(1, 0.01, 257).square()
    prior = AudioPrior(100, 0.5, power, base="wiener")
    generators = [torch.Generator().manual_seed(item) for item in range(200)]
    made = sample(prior.denoise, noise(200, 512), Schedule(60, 8.0, 1e-3), Churn(0.0), generators)
    measured = torch.fft.rfft(made).abs().square().mean(0) / 512
    ratio = (measured[:200] / power[:200]).log()
    assert abs(float(ratio.mean())) < 0.03 and float(ratio.std()) < 0.2


def test_welch_of_white_noise_is_its_variance():
    found = welch(0.3 * noise(8, 40_000), 512)
    assert float(found[1:-1].mean()) == pytest.approx(0.09, rel=0.02)


def test_edms_preconditioning_with_a_network():
    torch.manual_seed(0)
    prior = AudioPrior(11_025, 0.063, None, 4096, NETWORK)
    x, sigma = noise(2, 4096), torch.tensor([0.1, 0.5])
    both = (sigma.square() + 0.063**2).sqrt()[:, None]
    network = prior.network(x / both, sigma.log() / 4)
    expected = 0.063**2 / both.square() * x + sigma[:, None] * 0.063 / both * network
    assert torch.allclose(prior.denoise(x, sigma), expected, atol=1e-6)
    assert torch.allclose(prior.denoise(x, 0.5)[1], expected[1], atol=1e-6)


def test_a_prior_is_saved_and_read_back(tmp_path):
    torch.manual_seed(0)
    prior = AudioPrior(11_025, 0.063, torch.rand(129), 4096, NETWORK, "wiener")
    for one in prior.network.parameters():
        torch.nn.init.normal_(one, std=0.03)
    prior.save(tmp_path)
    again, x = AudioPrior.load(tmp_path), noise(1, 4096)
    assert again.sample_rate == 11_025 and not any(one.requires_grad for one in again.parameters())
    assert torch.allclose(again.denoise(x, 0.2), prior.eval().denoise(x, 0.2), atol=2e-3)
    (tmp_path / "config.json").write_text('{"sample_rate": 11025}')
    with pytest.raises(BlendbenchError, match="not a prior"):
        AudioPrior.load(tmp_path)
    with pytest.raises(BlendbenchError, match="not a prior"):
        AudioPrior.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "wiener"}, "needs a spectrum"),
        ({"base": "skip"}, "neither a network nor a spectrum"),
        ({"base": "other"}, "choose skip or wiener"),
        ({"network": NETWORK, "samples": 4096, "sigma_data": 0.0}, "above 0"),
    ],
)
def test_priors_that_cannot_be_are_refused(settings, message):
    with pytest.raises(BlendbenchError, match=message):
        AudioPrior(11_025, **settings)


def test_crops_lie_at_the_level_of_their_song(piano):
    data = Piano(piano)
    crops = data.crops("train", 40, 4096, np.random.default_rng(0))
    assert crops.shape == (40, 4096)
    assert 0.5 * RMS < float(crops.square().mean().sqrt()) < 1.5 * RMS
    with pytest.raises(BlendbenchError, match="no song of 50000 samples"):
        data.crops("train", 1, 50_000, np.random.default_rng(0))
    with pytest.raises(BlendbenchError, match="run `blendbench train piano` first"):
        Piano(piano / "nowhere")


def test_training_begins_at_the_wiener_filter_and_leaves_a_prior(piano, tmp_path):
    settings = {"batch": 4, "crop": 2048, "samples": 4096, "network": NETWORK, "log_every": 1}
    figures = training.train(piano, tmp_path, steps=1, learning_rate=1e-12, **settings)
    assert figures["held_out_loss"] == pytest.approx(figures["wiener_loss"], rel=1e-3)
    assert len(figures["wiener_loss"]) == len(figures["levels"]) == 7
    prior = AudioPrior.load(tmp_path)
    assert prior.samples == 4096 and prior.base == "wiener"
    assert bool(torch.isfinite(prior.denoise(0.1 * noise(1, 4096), 0.1)).all())


def test_a_training_goes_on_from_another_priors_weights(piano, tmp_path):
    settings = {"batch": 2, "crop": 2048, "samples": 4096, "log_every": 1, "steps": 1, "learning_rate": 1e-12}
    torch.manual_seed(0)
    other = AudioPrior(11_025, 0.063, torch.rand(129) * 0.01, 4096, NETWORK, "wiener")
    for one in other.network.parameters():
        torch.nn.init.normal_(one, std=0.03)
    other.save(tmp_path / "other")
    figures = training.train(piano, tmp_path / "out", start=tmp_path / "other", **settings)
    made, before = AudioPrior.load(tmp_path / "out"), AudioPrior.load(tmp_path / "other")
    assert made.config == before.config and torch.equal(made.spectrum, before.spectrum)
    assert torch.allclose(made.denoise(noise(1, 4096), 0.2), before.denoise(noise(1, 4096), 0.2), atol=1e-3)
    assert len(figures["start"]) == 12
    AudioPrior(11_025, 0.063, torch.rand(129), base="wiener").save(tmp_path / "filter")
    with pytest.raises(BlendbenchError, match="no network over a Wiener filter at 11025 Hz; give another `start`"):
        training.train(piano, tmp_path / "none", start=tmp_path / "filter", **settings)


@pytest.mark.soak
def test_a_short_training_goes_below_the_wiener_filter(piano, tmp_path):
    settings = {"batch": 8, "crop": 2048, "samples": 4096, "network": NETWORK, "learning_rate": 1e-2}
    figures = training.train(piano, tmp_path, steps=400, **settings)
    assert figures["held_out_loss"][4] < 0.97 * figures["wiener_loss"][4], figures


def test_the_papers_prior_is_built_from_its_config():
    with torch.device("meta"):
        prior = AudioPrior(44_100, 0.063, None, 262_144, PAPER)
    assert sum(one.numel() for one in prior.parameters()) == 42_708_448
