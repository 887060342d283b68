"""CDPAM: its checkpoint without code, its way here, its network layer by layer, sounds encoded once, known values."""

import dataclasses
import hashlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scipy import signal
from support.against_part import PAIRS, REFUSED, Compared, excerpts, noise
from support.servers import Server, running_server
from support.worlds import call
from torch import Tensor
from torch.nn import functional

from blendbench import config
from blendbench.composing import compose
from blendbench.errors import BlendbenchError, ClipError
from blendbench.metrics import cdpam as metric_module
from blendbench.metrics.cdpam import CDPAM
from blendbench.models import catalog, cdpam, fetch

WHEEL = "cdpam-0.0.6-py3-none-any.whl"
CHECKPOINT = "cdpam/CDPAM_trained/scratchJNDdefault_best_model.pth"
LONG = 139_832_181_927_520
"""A key as of the published optimiser's state, which Python 2 took from an address."""
FEW = 4
"""Filters of the tests' network; the published one has 64."""


@pytest.fixture(autouse=True)
def few_filters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of a sixteenth of the width, and no encodings of before; the published one for marked tests."""
    monkeypatch.setattr(metric_module, "_ENCODINGS", {})
    if request.node.get_closest_marker("soak") is None:
        monkeypatch.setattr(cdpam, "FILTERS", FEW)


def published_state(filters: int = FEW) -> dict[str, Tensor]:
    """Random weights under the checkpoint's names and in its shapes."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    state: OrderedDict[str, Tensor] = OrderedDict()
    inner, outer = 1, filters
    for number in range(16):
        outer = 2 * inner if number % 4 == 3 else outer
        state[f"base_encoder.encoder.{number}.weight"] = some(outer, inner, 15) / (15 * inner) ** 0.5
        for name, value in (
            ("encoder.{}.bias", some(outer)), ("ebatch.{}.weight", 1 + 0.1 * some(outer)),
            ("ebatch.{}.bias", 0.1 * some(outer)), ("ebatch.{}.running_mean", some(outer)),
            ("ebatch.{}.running_var", some(outer).square() + 0.5), ("ebatch.{}.num_batches_tracked", torch.tensor(9)),
        ):  # fmt: skip
            state[f"base_encoder.{name.format(number)}"] = value
        inner = outer
    sizes = (inner // 2, 256, 64, 16, 4)
    for number in range(4):
        state[f"model_dist.convs.{number}.0.weight"] = some(sizes[number + 1], sizes[number]) / sizes[number] ** 0.5
        state[f"model_dist.convs.{number}.0.bias"] = some(sizes[number + 1])
        state[f"model_dist.chan_w.{number}"] = some(sizes[number + 1])
    state["model_classif.MLP.0.weight"] = some(16, 1)
    return state


def checkpoint(state: object) -> bytes:
    """As Python 2 and a PyTorch of 2020 wrote it: not in a zip file, and long integers in digits."""
    content = io.BytesIO()
    saved = {"epochs": 2000, "optim": {"state": {LONG: {"step": 7}}}, "state": state}
    torch.save(saved, content, _use_new_zipfile_serialization=False)
    digits = pickle.encode_long(LONG)
    here = pickle.LONG1 + bytes([len(digits)]) + digits
    assert content.getvalue().count(here) == 1
    return content.getvalue().replace(here, b"I%d\n" % LONG)


def wheel(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("cdpam/__init__.py", "raise SystemExit('nothing of the wheel may run')")
        opened.writestr(CHECKPOINT, content)
    return packed.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `blendbench models fetch cdpam` leaves, of random weights."""
    (tmp_path / WHEEL).write_bytes(wheel(checkpoint(published_state())))
    cdpam.convert(tmp_path / WHEEL, tmp_path)
    return tmp_path


# The weights


def test_the_checkpoint_is_one_that_the_reader_of_data_stops_at(tmp_path):
    (tmp_path / "x.pth").write_bytes(checkpoint(published_state()))
    with pytest.raises(BlendbenchError):
        cdpam.read_state(tmp_path / "x.pth")


def test_what_is_kept_is_the_checkpoints_but_for_the_half_that_is_never_asked_for(folder):
    assert sorted(file.name for file in folder.iterdir()) == [WHEEL, "cdpam.safetensors"]
    network, state = cdpam.load(folder / "cdpam.safetensors").state_dict(), published_state()
    assert torch.equal(network["convolutions.6.weight"], state["base_encoder.encoder.6.weight"])
    assert torch.equal(network["convolutions.15.weight"], state["base_encoder.encoder.15.weight"][: 8 * FEW])
    assert torch.equal(network["norms.15.running_var"], state["base_encoder.ebatch.15.running_var"][: 8 * FEW])
    assert torch.equal(network["norms.3.running_mean"], state["base_encoder.ebatch.3.running_mean"])
    assert torch.equal(network["layers.0.weight"], state["model_dist.convs.0.0.weight"])
    assert torch.equal(network["importance.3"], state["model_dist.chan_w.3"])


def test_the_same_wheel_gives_the_same_bytes(folder):
    before = (folder / "cdpam.safetensors").read_bytes()
    cdpam.convert(folder / WHEEL, folder)
    assert (folder / "cdpam.safetensors").read_bytes() == before


class Evil:
    def __reduce__(self):
        return print, ("code of a pickle ran",)


def cut(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            lambda: wheel(checkpoint(published_state() | {"model_classif.MLP.0.bias": Evil()})),
            "holds print, not weights alone",
        ),
        (lambda: wheel(checkpoint(published_state())[:5000]), "damaged or no PyTorch file"),
        (lambda: wheel(b""), "is empty"),
        (lambda: wheel(b"no pickle at all"), "is text .*, not weights"),
        (lambda: wheel(b"I" + b"9" * 999 + b"\n" + bytes(999)), "damaged or no PyTorch file"),
        (lambda: wheel(checkpoint([1, 2])), "its checkpoint holds no state"),
        (lambda: wheel(checkpoint({"a": 1})), "its checkpoint lacks 'base_encoder.encoder.0.weight'"),
        (lambda: wheel(checkpoint(cut(published_state(), "model_dist.chan_w.2"))), "lacks 'model_dist.chan_w.2'"),
        (lambda: wheel(checkpoint(published_state(8))), r"convolutions.0.weight is \[8, 1, 15\], not \[4, 1, 15\]"),
        (lambda: b"PK\3\4", "no readable wheel of CDPAM"),
        (lambda: b"", "no readable wheel of CDPAM"),
        (lambda: wheel(checkpoint({})).replace(b"scratch", b"scritch"), "no readable wheel of CDPAM"),
    ],
)
def test_a_wheel_that_is_not_cdpams_leaves_nothing_and_runs_nothing(tmp_path, capsys, content, reason):
    file, target = tmp_path / WHEEL, tmp_path / "target"
    target.mkdir()
    file.write_bytes(content())
    with pytest.raises(BlendbenchError, match=reason) as caught:
        cdpam.convert(file, target)
    assert str(caught.value).isprintable()
    assert list(target.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_checkpoint_of_another_size_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(cdpam, "_MOST", 1000)
    (tmp_path / WHEEL).write_bytes(wheel(bytes(1001)))
    with pytest.raises(BlendbenchError, match="has 1001 bytes; fetch it again"):
        cdpam.convert(tmp_path / WHEEL, tmp_path)


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


def test_the_wheel_is_fetched_turned_into_safetensors_and_gone(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BLENDBENCH_MIRROR", server.address)
    with pytest.raises(BlendbenchError, match="not here; type `blendbench models fetch cdpam`"):
        CDPAM().signature()
    with pytest.raises(BlendbenchError, match="not here; type `blendbench models fetch cdpam`"):
        CDPAM().measure(Compared(noise(3000), noise(3000)))
    content = wheel(checkpoint(published_state()))
    server.files["/" + WHEEL] = content
    assert call("models", "fetch", "cdpam") == 1  # it is not the published one
    assert f"has {len(content)} bytes there, not 98326874" in capsys.readouterr().err
    known = dataclasses.replace(
        catalog.known("cdpam"), sha256=hashlib.sha256(content).hexdigest(), megabytes=len(content) / 1e6
    )
    monkeypatch.setitem(catalog.models(), "cdpam", known)
    assert call("models", "fetch", "cdpam") == 0
    place = tmp_path / "hub" / "blendbench"
    assert sorted(file.name for file in place.rglob("*")) == ["cdpam", "cdpam.safetensors", "cdpam.safetensors.sha256"]
    assert call("models", "check", "cdpam") == 0
    assert CDPAM().measure(Compared(noise(3000), noise(3000)))["cdpam"] == 0


def test_a_folder_without_the_file_or_with_others_weights_is_one_line(folder, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(BlendbenchError, match=r"cdpam\.safetensors: no such file; type `blendbench models fetch cdpam"):
        CDPAM(checkpoint=str(tmp_path / "none")).signature()
    (folder / "cdpam.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BlendbenchError, match=r"cdpam\.safetensors: damaged"):
        CDPAM(checkpoint=str(folder)).measure(Compared(noise(3000), noise(3000)))


# The network


def written_out(state: dict[str, Tensor], sound: Tensor) -> Tensor:
    """An encoding as the paper's figure has it, in float64: every sample computed, every second one dropped."""
    heard = sound.double()[None]
    for number in range(16):
        weight, bias = (state[f"base_encoder.encoder.{number}.{name}"].double() for name in ("weight", "bias"))
        taps = functional.pad(heard, (7, 7)).unfold(-1, 15, 1)
        heard = torch.einsum("itk,oik->ot", taps, weight) + bias[:, None]
        gain, shift, mean, variance = (
            state[f"base_encoder.ebatch.{number}.{name}"].double()[:, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        heard = (heard - mean) / (variance + 1e-5).sqrt() * gain + shift
        heard = torch.where(heard > 0, heard, 0.1 * heard)
        if number % 4 == 3:
            heard = heard[:, ::2]
    sounds_like = heard.mean(1)[: len(heard) // 2]
    return sounds_like / sounds_like.norm()


def distance_written_out(state: dict[str, Tensor], first: Tensor, second: Tensor) -> float:
    total = 0.0
    for number in range(4):
        weight, bias = (state[f"model_dist.convs.{number}.0.{name}"].double() for name in ("weight", "bias"))
        first, second = weight @ first + bias, weight @ second + bias
        if number < 3:
            first, second = (torch.where(one > 0, one, 0.01 * one) for one in (first, second))
        total += float(((second - first) * state[f"model_dist.chan_w.{number}"].double()).abs().sum())
    return total


@pytest.mark.parametrize("samples", [1025, 2048, 3333])
def test_the_network_agrees_with_itself_written_out(folder, samples):
    network, state = cdpam.load(folder / "cdpam.safetensors"), published_state()
    sounds = [noise(samples, seed=seed, level=1.0) for seed in (0, 1)]
    expected = torch.stack([written_out(state, sound) for sound in sounds])
    assert expected.shape == (2, 8 * FEW)
    assert torch.allclose(network.encode(torch.stack(sounds)).double(), expected, atol=1e-5)
    network = network.double()
    found = network.encode(torch.stack(sounds).double())
    assert torch.allclose(found, expected, atol=1e-12)
    apart = network.distance(found[:1], found[1:])
    assert float(apart) == pytest.approx(distance_written_out(state, *expected), rel=1e-9)
    assert network.distance(found[1:], found[:1]) == apart
    assert network.distance(found, found.flip(0)).tolist() == pytest.approx(2 * apart.tolist(), rel=1e-12)


def test_loading_draws_nothing_from_the_random_numbers_of_others(folder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    cdpam.load(folder / "cdpam.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


# The metric


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The sounds that the network encodes."""
    heard: list[Tensor] = []
    own = cdpam.CDPAM.encode

    def noted(network: cdpam.CDPAM, waveforms: Tensor) -> Tensor:
        heard.append(waveforms)
        return own(network, waveforms)

    monkeypatch.setattr(cdpam.CDPAM, "encode", noted)
    return heard


def test_a_sound_is_heard_as_16_bit_integers_at_its_rate_or_at_22050(folder, encoded):
    reference, heard = noise(2, 3001), noise(3001, seed=1)
    CDPAM(checkpoint=str(folder)).measure(Compared(reference, heard))
    assert torch.equal(encoded[0], (32_768 * reference.double().mean(0)).round().float()[None])
    assert torch.equal(encoded[1], (32_768 * heard.double()).round().float()[None])
    CDPAM(rate=22_050, checkpoint=str(folder)).measure(Compared(reference, heard))
    slower = torch.from_numpy(signal.resample_poly(heard.double().numpy(), 1, 2))
    assert torch.equal(encoded[3], (32_768 * slower).round().float()[None])


def test_a_sound_is_encoded_once_whoever_asks(folder, encoded):
    sounds = [noise(3000, seed=seed) for seed in range(3)]
    metric = CDPAM(checkpoint=str(folder))
    first = metric.measure(Compared(sounds[0], sounds[1]))
    second = metric.measure(Compared(sounds[0].clone(), sounds[2]))
    assert len(encoded) == 3 and first != second
    assert CDPAM("background", checkpoint=str(folder)).measure(Compared(sounds[0], sounds[1], "background")) == first
    assert len(encoded) == 3
    CDPAM(rate=22_050, checkpoint=str(folder)).measure(Compared(sounds[0], sounds[1]))
    assert len(encoded) == 5


def test_what_is_kept_has_an_end(folder, encoded, monkeypatch):
    monkeypatch.setattr(metric_module, "_MOST", 2)
    sounds = [noise(2000, seed=seed) for seed in range(4)]
    metric = CDPAM(checkpoint=str(folder))
    for sound in sounds[1:]:
        metric.measure(Compared(sounds[0], sound))
    assert len(metric_module._ENCODINGS) == 2
    before = len(encoded)
    metric.measure(Compared(sounds[3], sounds[3]))
    assert len(encoded) == before


def test_equal_sounds_are_0_apart_silence_too_and_order_does_not_count(folder):
    metric = CDPAM(checkpoint=str(folder))
    for sound in (noise(3000), noise(2, 3000), torch.zeros(3000)):
        assert metric.measure(Compared(sound, sound.clone())) == {"cdpam": 0}
    first, second = noise(3000), noise(3000, seed=1)
    apart = metric.measure(Compared(first, second))["cdpam"]
    assert apart == metric.measure(Compared(second, first))["cdpam"] > 0
    assert CDPAM.facts["cdpam"].better == -1


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_compared_is_one_line(folder, encoded, kind):
    reference, heard, reason = REFUSED[kind]
    with pytest.raises(ClipError, match=reason):
        CDPAM(checkpoint=str(folder)).measure(Compared(reference, heard))
    assert encoded == []


def test_settings_and_weights_keep_values_apart_and_are_told(folder):
    made = [CDPAM(*words, checkpoint=str(folder)) for words in ((), ("background",), ("reference", 22_050))]
    signatures = {str(metric.signature()) for metric in made}
    assert len(signatures) == 3
    fingerprint = hashlib.sha256((folder / "cdpam.safetensors").read_bytes()).hexdigest()[:12]
    assert all(fingerprint in text for text in signatures)
    assert [f"heard at {rate}" in metric.recipe("cdpam", None) for metric, rate in
            zip(made, ("44.1 kHz", "44.1 kHz", "22.05 kHz"), strict=True)] == [True] * 3  # fmt: skip
    for rate in ("fast", 16_000):
        with pytest.raises(BlendbenchError, match=f"rate={rate}: CDPAM hears at native or 22050"):
            CDPAM(rate=rate)


def test_the_entry_builds_it():
    entry = compose(["metric=cdpam"])["metric"]["cdpam"]
    metric = config.build(entry, "metric.cdpam", [])
    assert (type(metric), metric.part, metric.rate) == (CDPAM, "reference", "native")


# The published weights


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, through the package index."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)
        if catalog.place(catalog.known("cdpam")) is None:
            patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        try:
            return fetch.fetch("cdpam")
        except BlendbenchError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"cdpam cannot be fetched here: {error}")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("rate", "pairs", "golden", "sounds"),
    [
        ("native", PAIRS[:2], (0.14099247753620148, 0.08183000981807709), 3),  # one of four sounds stands twice
        (22_050, PAIRS[2:], (0.045420777052640915,), 2),
    ],
)
def test_the_published_excerpts_have_the_published_programs_values(published, encoded, rate, pairs, golden, sounds):
    metric = CDPAM(rate=rate, checkpoint=str(published))
    found = [metric.measure(Compared(*excerpts(*pair)))["cdpam"] for pair in pairs]
    assert found == pytest.approx(golden, rel=1e-4)
    assert len(encoded) == sounds
