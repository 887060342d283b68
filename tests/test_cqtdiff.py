"""The octave-wise constant-Q transform, and MR-CQTdiff's network over it."""

import pytest
import torch

from blendbench.errors import BlendbenchError
from blendbench.models.cqtdiff import PAPER, CQTUNet
from blendbench.sound.cqt import OctaveCQT

SMALL = {"bins": [8, 8, 16], "widths": [8, 16, 16], "layers": [1, 2, 1], "bottleneck": 1, "embedding": 16}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_transform_has_the_frames_of_the_paper_and_is_its_own_inverse():
    cqt = OctaveCQT(PAPER["bins"], 262_144)
    assert cqt.frames == [128, 256, 512, 512, 1024, 2048, 4096, 4096, 8192]
    sound = noise(2, 262_144)
    spectrum = torch.fft.rfft(sound)
    bins = torch.arange(spectrum.shape[-1])
    inside = (bins >= 131_072 / 512) & (bins <= 131_072 * 2 ** (-1 / 32))
    banded = torch.fft.irfft(spectrum * inside, n=262_144)
    assert float((cqt.inverse(cqt(banded)) - banded).abs().max()) < 1e-5
    # Elsewhere it is the filter that it says it is.
    filtered = torch.fft.irfft(spectrum * cqt.response(), n=262_144)
    assert float((cqt.inverse(cqt(sound)) - filtered).abs().max()) < 1e-5
    assert float(cqt.response()[inside].min()) == pytest.approx(1, abs=1e-5)
    assert float(cqt.response()[:200].max()) == 0 and float(cqt.response()[-1]) == 0


def test_white_noise_has_coefficients_of_unit_variance():
    for one in OctaveCQT(PAPER["bins"], 65_536 * 4)(noise(4, 65_536 * 4)):
        assert 0.8 < float(one.real.var()) < 1.2 and 0.8 < float(one.imag.var()) < 1.2


def test_a_tone_lights_its_band():
    cqt = OctaveCQT([8, 8, 16], 4096)
    band, octave = 5, 1
    tone = 2048 * 2.0 ** (octave - 3 + band / 8)
    made = cqt(torch.cos(2 * torch.pi * round(tone) / 4096 * torch.arange(4096)))
    power = [one.abs().square().mean(-1) for one in made]
    assert int(power[octave].argmax()) == band
    assert float(power[octave][band]) > 0.9 * float(sum(part.sum() for part in power))


@pytest.mark.parametrize(("samples", "message"), [(4095, "even length"), (64, "too short for 9 octaves")])
def test_lengths_that_cannot_be_transformed_are_named(samples, message):
    with pytest.raises(BlendbenchError, match=message):
        OctaveCQT(PAPER["bins"], samples)
    with pytest.raises(BlendbenchError, match="takes 4096"):
        OctaveCQT([8, 8, 16], 4096)(noise(4000))


def test_the_papers_network_has_the_papers_size():
    with torch.device("meta"):
        network = CQTUNet(262_144, **PAPER)
    assert count(network) == 42_708_448
    assert count(network.embed) == 107_136
    assert count(network.down) == 20_325_728
    assert count(network.middle) + count(network.middle_head) == 5_772_800
    assert count(network.up) == 16_502_784


@pytest.mark.soak
def test_the_papers_network_runs_forwards_and_backwards():
    torch.manual_seed(0)
    network = CQTUNet(32_768, **PAPER)  # an eighth of the paper's length; the weights are the same
    out = network(noise(1, 32_768), torch.zeros(1))
    assert out.shape == (1, 32_768) and bool(torch.isfinite(out).all())
    out.square().mean().backward()
    assert all(one.grad is not None and bool(torch.isfinite(one.grad).all()) for one in network.parameters())


def test_the_network_hears_every_band_and_the_noise_level_and_no_other_item():
    torch.manual_seed(0)
    network = CQTUNet(4096, **SMALL).eval()
    for one in network.modules():
        if hasattr(one, "gate"):
            torch.nn.init.normal_(one.gate.bias)
    sound = noise(3, 4096)
    level = torch.tensor([-1.0, 0.0, 1.0])
    with torch.inference_mode():
        made = network(sound, level)
        assert made.shape == sound.shape and float(made.std()) > 0.01
        for item in range(3):
            alone = network(sound[item : item + 1], level[item : item + 1])
            assert torch.allclose(alone[0], made[item], atol=1e-5)
        assert not torch.allclose(network(sound, level + 0.3), made, atol=1e-4)
    every = [one.abs().square().sum(-1) for one in network.cqt(made)]
    assert all(float(one.min()) > 0 for one in every)


def test_silent_heads_begin_with_nothing_and_learn():
    torch.manual_seed(0)
    network = CQTUNet(4096, **SMALL, silent=True)
    out = network(noise(2, 4096), torch.zeros(2))
    assert bool((out == 0).all())
    (out - noise(2, 4096, seed=1)).square().mean().backward()
    assert float(network.middle_head.leave.weight.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("wrong", "message"), [({"widths": [8, 16]}, "are 3, 2, 3"), ({"widths": [8, 12, 16]}, "multiples of 8")]
)
def test_lists_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(BlendbenchError, match=message):
        CQTUNet(4096, **(SMALL | wrong))
