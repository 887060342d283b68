"""Msanii's networks, front end and scaling against numbers of the published code, computed once in float64."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from support.worlds import call

from blendbench.errors import BlendbenchError, ClipError
from blendbench.models import catalog
from blendbench.models.msanii import FrontEnd, Msanii, MsaniiCheckpoint, Scaler, UNet, Vocoder, convert_published
from blendbench.models.weights import read_state
from blendbench.sound.inversion import griffin_lim
from blendbench.sound.lattice import MelSettings

TINY = {
    "mels": 8, "width": 16, "levels": 3, "blocks": 1, "attention_levels": 2, "heads": 2, "timestep": 8,
}  # fmt: skip
SMALL = {
    "mels": 96, "width": 192, "levels": 5, "blocks": 1, "attention_levels": 2, "heads": 6, "timestep": 96,
}  # fmt: skip
RATE = 44_100


def count(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """Weights cos(j) / sqrt(numel / shape[0]), biases .1 sin(j), j = 1, 2, ... in order; float64."""
    for name, one in module.named_parameters():
        place = torch.arange(1, one.numel() + 1, dtype=torch.float64)
        scale = math.sqrt(one.numel() / one.shape[0])
        one.data = (0.1 * place.sin() if name.endswith("bias") else place.cos() / scale).reshape(one.shape)
    return module.double()


def signal() -> torch.Tensor:
    """The two channels that the numbers were computed of, [1, 2, 64512]."""
    state, noise = 12_345, []
    for _ in range(64_512):
        state = (1_103_515_245 * state + 12_345) % 2**31
        noise.append(state / 2**30 - 1)
    n = np.arange(64_512)
    left = (0.2 + 0.6 * n / 64_512) * (
        0.5 * np.sin(2 * np.pi * 220 * n / RATE) + 0.25 * np.sin(2 * np.pi * 1760 * n / RATE + 1)
    )
    right = 0.3 * np.sin(2 * np.pi * 440 * n / RATE) + 0.1 * np.sin(2 * np.pi * 5000 * n / RATE)
    return torch.tensor(np.stack([left, right]) + 0.01 * np.array(noise))[None]


@pytest.fixture(scope="module")
def wave() -> torch.Tensor:
    return signal()


# Sizes


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: UNet(), 49_878_016), (lambda: Vocoder(), 1_412_097),
        (lambda: UNet(**SMALL), 11_672_256), (lambda: Vocoder(1024, 96, 192), 745_473),
        (lambda: UNet(**TINY), 55_152), (lambda: Vocoder(32, 8, 16), 4_881),
    ],
    ids=["paper", "paper's vocoder", "small", "small vocoder", "tiny", "tiny vocoder"],
)  # fmt: skip
def test_networks_have_the_published_numbers_of_parameters(made, wanted):
    with torch.device("meta"):
        assert count(made()) == wanted


def test_parts_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        unet = UNet()
    parts = {
        "input": unet.input_fn, "timestep": unet.timestep_embedding, "encoder": unet.encoder_blocks,
        "middle": unet.middle_block, "decoder": unet.decoder_blocks, "output": unet.output_fn,
    }  # fmt: skip
    assert {name: count(part) for name, part in parts.items()} == {
        "input": 33_024, "timestep": 131_712, "encoder": 18_315_264, "middle": 2_560_512, "decoder": 28_804_608,
        "output": 32_896,
    }  # fmt: skip


def test_names_are_the_published_ones():
    with torch.device("meta"):
        names = set(UNet(**TINY).state_dict())
    wanted = {
        "input_fn.1.weight", "output_fn.0.bias", "timestep_embedding.fn.0.weight", "timestep_embedding.fn.2.bias",
        "encoder_blocks.0.residual_fn.in_fn.1.weight", "encoder_blocks.0.residual_fn.out_fn.1.weight",
        "encoder_blocks.0.residual_fn.out_fn.3.bias", "encoder_blocks.0.residual_fn.timestep_fn.weight",
        "encoder_blocks.1.weight", "encoder_blocks.2.attention_fn.in_fn.1.weight",
        "encoder_blocks.2.attention_fn.out_fn.bias", "decoder_blocks.0.residual_fn.residual_fn.weight",
        "middle_block.in_residual_fn.in_fn.1.weight", "middle_block.attention_fn.out_fn.weight",
        "middle_block.out_residual_fn.timestep_fn.bias",
    }  # fmt: skip
    assert wanted <= names
    with torch.device("meta"):
        assert {"fn.0.1.weight", "fn.1.in_fn.1.weight", "fn.1.out_fn.3.weight", "fn.2.0.bias"} <= set(
            Vocoder(32, 8, 16).state_dict()
        )


@pytest.mark.soak
def test_the_papers_size_runs_forward_and_backward():
    torch.manual_seed(0)
    unet = UNet()
    x = torch.randn(1, 2, 128, 64)
    made = unet(x, torch.tensor([500]))
    made.square().mean().backward()
    assert made.shape == x.shape and bool(torch.isfinite(made).all())
    assert all(one.grad is not None and bool(torch.isfinite(one.grad).all()) for one in unet.parameters())


# Outputs


@pytest.mark.parametrize(
    ("channels", "time", "total", "squares", "first", "middle", "last"),
    [
        (1, 0, 2.377772829334045, 2.3699168639, 0.015945498332113697, 0.05917303379085197, 0.16445374134698476),
        (1, 500, 2.3821322614332, 2.3682274905, 0.01641859538807563, 0.05893396582471702, 0.16411376324968782),
        (2, 0, 4.696539613691906, 4.735613653, 0.016850699925261954, 0.06900770747520138, 0.16343012915260102),
        (2, 500, 4.705227325537225, 4.729495859751854, 0.01700297905954715, 0.06884635623928441, 0.16374448457860383),
    ],
)
def test_the_unet_gives_the_published_outputs(channels, time, total, squares, first, middle, last):
    x = torch.sin(0.1 * torch.arange(channels * 8 * 16, dtype=torch.float64)).reshape(1, channels, 8, 16)
    with torch.no_grad():
        made = filled(UNet(**TINY))(x, torch.tensor([time]))
    assert float(made.sum()) == pytest.approx(total, abs=1e-8)
    assert float(made.square().sum()) == pytest.approx(squares, abs=1e-8)
    for value, wanted in ((made[0, 0, 0, 0], first), (made[0, -1, 3, 7], middle), (made[0, -1, -1, -1], last)):
        assert float(value) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize(
    ("channels", "total", "first", "last"),
    [
        (1, 274.197162852783, 1.0013146754052662, 0.9861809278709915),
        (2, 548.5978937663901, 0.9993261445167525, 1.0083541266537828),
    ],
)
def test_the_vocoder_gives_the_published_outputs(channels, total, first, last):
    x = torch.sin(0.1 * torch.arange(channels * 8 * 16, dtype=torch.float64)).reshape(1, channels, 8, 16)
    with torch.no_grad():
        made = filled(Vocoder(32, 8, 16))(x)
    assert made.shape == (1, channels, 17, 16)
    assert float(made.sum()) == pytest.approx(total, abs=1e-9)
    assert float(made[0, 0, 0, 0]) == pytest.approx(first, abs=1e-12)
    assert float(made[0, -1, -1, -1]) == pytest.approx(last, abs=1e-12)


def test_items_of_a_batch_do_not_touch_each_other():
    torch.manual_seed(0)
    unet, x, times = UNet(**TINY).double(), torch.randn(3, 2, 8, 16, dtype=torch.float64), torch.tensor([3, 500, 990])
    with torch.no_grad():
        together = unet(x, times)
        alone = torch.cat([unet(x[one : one + 1], times[one : one + 1]) for one in range(3)])
    assert torch.allclose(together, alone, atol=1e-12)


def test_a_network_of_one_channel_has_a_third_of_the_kernel_and_hears_its_channels_apart():
    torch.manual_seed(0)
    unet = UNet(**TINY, across=1).double()
    assert unet.encoder_blocks[0].residual_fn.in_fn[1].weight.shape == (16, 16, 1, 3)
    x = torch.randn(1, 1, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        one, both = unet(x, torch.tensor([5])), unet(x.expand(-1, 2, -1, -1), torch.tensor([5]))
    assert torch.allclose(one, both[:, :1], atol=1e-12)


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(BlendbenchError, match="heads must divide"):
        UNet(8, 16, 3, heads=3)


# Front end and scaling


def test_the_front_end_gives_the_published_numbers(wave):
    front = FrontEnd()
    assert float(wave.square().sum()) == pytest.approx(6053.795251252566, abs=1e-8)
    magnitudes = front.magnitudes(wave)
    assert float(magnitudes.sum()) == pytest.approx(72_998.50991369871, abs=1e-5)
    assert float(front.bank(magnitudes).sum()) == pytest.approx(1009.432974311705, abs=1e-9)
    assert [int((row > 0).sum()) for row in front.bank(magnitudes)[:4]] == [1, 2, 2, 2]
    log_mel = front.log_mel(wave)
    assert log_mel.shape == (1, 2, 128, 64)
    for (channel, mel, frame), value in {
        (0, 0, 0): 1.758225678594915, (0, 4, 10): -1.6139478941436798, (0, 10, 32): 4.259789840121959,
        (0, 47, 40): 0.2731033535906363, (1, 20, 5): 0.11618691348729505,
    }.items():  # fmt: skip
        assert float(log_mel[0, channel, mel, frame]) == pytest.approx(value, abs=1e-9)
    assert float(log_mel.mean()) == pytest.approx(-0.029571027775829206, abs=1e-9)
    assert float(log_mel.var(correction=1)) == pytest.approx(1.79245707945797, abs=1e-9)
    assert float(log_mel.var(correction=0)) == pytest.approx(1.7923476767600417, abs=1e-9)
    assert float(front.log_mel(torch.zeros(4096, dtype=torch.float64)).max()) == pytest.approx(-11.512925464970229)


@pytest.mark.parametrize(
    ("front", "samples", "factor", "frames", "extended"),
    [
        (FrontEnd(), 8_387_584, 64, 8192, 8192), (FrontEnd(), 523_264, 64, 512, 512),
        (FrontEnd(), 220_500, 64, 216, 256), (FrontEnd(22_050, 1024, 512, 96), 110_250, 16, 216, 224),
    ],
)  # fmt: skip
def test_lengths_are_the_published_ones(front, samples, factor, frames, extended):
    assert front.frames(samples) == frames
    assert front.frames(front.extended(samples, factor)) == extended


def test_too_few_samples_are_refused():
    with pytest.raises(ClipError, match="1024 samples are too few; give at least 1025"):
        FrontEnd().magnitudes(torch.zeros(1024))


@pytest.mark.parametrize(
    ("decay_at", "mean", "var", "low", "high"),
    [
        ("after", -0.03025722319036925, 1.792457027833318, -3.506968490152599, 4.032723356165631),
        ("before", -0.03025036123622385, 1.7924570283515644, -3.5069684978237317, 4.032723355733878),
    ],
)
def test_running_statistics_follow_the_batches_as_published(wave, decay_at, mean, var, low, high):
    front, scaler = FrontEnd(), Scaler(variance="unbiased", decay_at=decay_at).train()
    first = scaler(front.log_mel(wave))
    assert float(first[0, 0, 0, 0]) == pytest.approx(0.28448509110830655, abs=1e-9)
    assert float(first.mean()) == pytest.approx(-0.06973149777996876, abs=1e-9)
    scaler(front.log_mel(wave / 2))
    found = [float(value) for value in (scaler.mean, scaler.var, scaler.low, scaler.high)]
    assert found == pytest.approx([mean, var, low, high], abs=1e-12)
    if decay_at == "after":
        again = scaler.eval()(front.log_mel(wave / 2))
        assert float(again[0, 0, 4, 10]) == pytest.approx(-0.5208321386415795, abs=1e-9)
        assert float(again.mean()) == pytest.approx(-0.20691391711709003, abs=1e-9)


def test_in_the_end_the_first_batch_is_nine_tenths_of_the_statistics():
    scaler = Scaler(decay_at="after").train()
    scaler(torch.tensor([0.0, 1.0, 2.0]))
    mean = float(scaler.mean)
    for _ in range(3000):
        scaler(torch.tensor([10.0, 11.0, 12.0]))
    assert (float(scaler.mean) - 11) / (mean - 11) == pytest.approx(0.905720393946571, abs=1e-9)


def test_scaling_and_its_inverse_meet_where_nothing_is_clipped(wave):
    scaler = Scaler(fit="dataset", train="running").eval()
    log_mel = FrontEnd().log_mel(wave)
    scaler.fit_to(log_mel)
    assert torch.allclose(scaler.inverse(scaler(log_mel)), log_mel, atol=1e-9)
    before = scaler.mean.clone()
    scaler.train()(log_mel + 5)
    assert torch.equal(scaler.mean, before)  # a data set's statistics stay
    assert float(scaler(log_mel * 9).max()) == 1.0


def test_a_batch_of_one_value_is_refused_where_it_scales_by_itself():
    with pytest.raises(ClipError, match="silent"):
        Scaler(infer="batch").eval()(torch.zeros(2, 8, 8))


@pytest.mark.parametrize("name", ["fit", "train", "infer", "variance", "decay_at"])
def test_an_unknown_scaling_is_refused(name):
    with pytest.raises(BlendbenchError, match=f"scaling.{name} is 'x'; choose"):
        Scaler(**{name: "x"})


def test_griffin_lim_is_no_further_from_the_magnitudes_than_the_published(wave):
    magnitudes = FrontEnd().magnitudes(wave)[0]
    settings = MelSettings(RATE, 2048, 2048, 1024, 128, 0.0, RATE / 2)
    for iterations, published in ((0, 0.7773092971989577), (10, 0.23342514925475405), (32, 0.1528636393899103)):
        made = griffin_lim(magnitudes.float(), settings, iterations, start="zero").double()
        error = FrontEnd().magnitudes(made) - magnitudes
        # Edges are synthesised by least squares here, so it is a little nearer.
        convergence = float(error.norm() / magnitudes.norm())
        assert published - 6e-3 < convergence < published + 1e-4


def test_the_pseudo_inverse_is_the_published_one(wave):
    front = FrontEnd()
    magnitudes = front.magnitudes(wave)
    made = front.pseudo_inverse(front.mel(magnitudes))
    assert float((made - magnitudes).norm() / magnitudes.norm()) == pytest.approx(0.2778041499343436, abs=1e-5)


# Files


def tiny_model() -> Msanii:
    torch.manual_seed(0)
    return Msanii(
        {"sample_rate": 22_050, "n_fft": 64, "hop": 32, "mels": 8}, {"fit": "dataset", "train": "running"},
        {key: value for key, value in TINY.items() if key != "mels"}, {"width": 16}, 2, 0.05, 16,
    )  # fmt: skip


def test_a_saved_model_is_the_same_again(tmp_path):
    model = tiny_model()
    model.scaler.fit_to(torch.randn(100, dtype=torch.float64))
    model.save(tmp_path / "m")
    again = MsaniiCheckpoint("msanii", str(tmp_path / "m")).get("cpu")
    assert again.config == model.config and not again.training
    assert torch.equal(again.scaler.mean, model.scaler.mean) and again.scaler.mean.dtype == torch.float64
    assert torch.equal(again.unet.state_dict()["input_fn.1.weight"], model.unet.input_fn[1].weight.half().float())


@pytest.mark.parametrize("damage", ["config", "weights", "missing"])
def test_a_damaged_model_is_one_line(tmp_path, damage):
    tiny_model().save(tmp_path)
    if damage == "config":
        (tmp_path / "config.json").write_text("{")
    elif damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    else:
        (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BlendbenchError, match=r"not a model of Msanii .*; give a folder of `blendbench train msanii`"):
        Msanii.load(tmp_path)


class TrainingConfig:
    """Stands for the published settings' class, which is not there when the file is read."""

    def __init__(self) -> None:
        self.steps = 3

    def __reduce__(self):
        return (TrainingConfig, (), {"steps": 3})


def published(**change: object) -> dict:
    with torch.device("meta"):
        unet, vocoder = UNet().state_dict(), Vocoder().state_dict()
    scaling = {
        "standard_scaler.momentum": torch.tensor(1e-5), "standard_scaler.running_mean": torch.tensor(-2.0),
        "standard_scaler.running_var": torch.tensor(3.0), "standard_scaler.fitted": torch.tensor(True),
        "minmax_scaler.running_min": torch.tensor(-4.0), "minmax_scaler.running_max": torch.tensor(5.0),
        "spectrogram.window": torch.hann_window(2048),
    }  # fmt: skip
    zeros = {name: torch.zeros(1, dtype=torch.float16).expand(value.shape) for name, value in unet.items()}
    held = {"unet": zeros, "vocoder": {name: torch.ones(value.shape) for name, value in vocoder.items()},
            "transforms": scaling, "config": TrainingConfig()}  # fmt: skip
    return held | change


@pytest.mark.soak
def test_the_published_file_is_read_as_data_alone(tmp_path, monkeypatch):
    """Of the real layout and size, with an object of an unknown class beside the weights."""
    torch.save(published(), tmp_path / "msanii.pt")
    monkeypatch.delattr(f"{__name__}.TrainingConfig")
    with pytest.raises(BlendbenchError, match="could run code"):
        read_state(tmp_path / "msanii.pt")
    convert_published(tmp_path / "msanii.pt", tmp_path / "made")
    model = Msanii.load(tmp_path / "made")
    assert [float(one) for one in (model.scaler.mean, model.scaler.var, model.scaler.low, model.scaler.high)] == [
        -2.0, 3.0, -4.0, 5.0,
    ]  # fmt: skip
    assert count(model.unet) == 49_878_016 and float(model.vocoder.fn[2][0].weight.min()) == 1.0
    assert model.front == FrontEnd() and model.channels == 2


@pytest.mark.soak
def test_the_published_file_is_added_under_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    catalog.forget()
    torch.save(published(), tmp_path / "msanii.pt")
    assert call("models", "add", "theirs", str(tmp_path / "msanii.pt"), "--as", "msanii") == 0
    folder = MsaniiCheckpoint("msanii", "theirs").folder
    assert folder is not None and folder.is_relative_to(tmp_path)
    catalog.forget()


def test_something_else_is_not_taken_for_the_published_file(tmp_path):
    torch.save({"unet": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(BlendbenchError, match="holds no Msanii"):
        convert_published(tmp_path / "other.pt", tmp_path / "made")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(BlendbenchError, match=r"pickle.pt: "):
        convert_published(tmp_path / "pickle.pt", tmp_path / "made")
    with pytest.raises(BlendbenchError, match=r"nothere.pt: "):
        convert_published(Path(tmp_path / "nothere.pt"), tmp_path / "made")
