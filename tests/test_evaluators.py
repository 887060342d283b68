"""Evaluators of published models, with random weights of the real architectures, against the libraries themselves."""

import inspect
import json
import math
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.processors import TemplateProcessing
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    EncodecConfig,
    EncodecModel,
    PreTrainedTokenizerFast,
)

from blendbench import config
from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators import Evaluator, TextEvaluator
from blendbench.evaluators.clap import CLAP
from blendbench.evaluators.encodec import EnCodec
from blendbench.evaluators.pann import Cnn14, networks
from blendbench.evaluators.passt import PaSST
from blendbench.evaluators.vggish import VGGish
from blendbench.metrics.divergence import sigmoid_kl, softmax_kl
from blendbench.metrics.frechet import frechet_distance
from blendbench.models import catalog
from blendbench.sound import files

CONF = Path(__file__).resolve().parents[1] / "conf" / "evaluator"
CLIPS = 6
PANN = {
    8_000: ("Cnn14_8k", "Cnn14_8k_mAP%3D0.416.pth", {"window_size": 256, "hop_size": 80, "fmax": 4_000}),
    16_000: ("Cnn14_16k", "Cnn14_16k_mAP%3D0.438.pth", {"window_size": 512, "hop_size": 160, "fmax": 8_000}),
    32_000: ("Cnn14", "Cnn14_mAP%3D0.431.pth", {"window_size": 1024, "hop_size": 320, "fmax": 16_000}),
}


def noises(rate: int, seconds: float, seed: int = 0) -> list[torch.Tensor]:
    """Clips of noise that differ in colour, level and mean."""
    random = np.random.default_rng(seed)
    clips = []
    for index in range(CLIPS):
        white = random.standard_normal(round(seconds * rate) + index)
        coloured = np.convolve(white, np.ones(index + 1) / (index + 1), "valid")
        clips.append(torch.from_numpy(0.02 * (index + 1) * coloured + 0.01 * index).float())
    return clips


def tones(rate: int, seconds: float) -> list[torch.Tensor]:
    """Clips of two tones that differ in pitch and beat, over a little noise."""
    time = torch.arange(round(seconds * rate)) / rate
    made = []
    for index, noise in enumerate(noises(rate, seconds, 1)):
        pitch = 110 * 1.3**index
        made.append(0.3 * (2 * math.pi * pitch * time).sin() + 0.2 * (6.1 * pitch * time).cos() + 0.02 * noise)
    return made


def embeddings(evaluator: Evaluator, clips: list[torch.Tensor]) -> torch.Tensor:
    made = [evaluator.score(clip).embeddings for clip in clips]
    return torch.cat([one for one in made if one is not None])


def assert_same_bits_twice(evaluator: Evaluator, clip: torch.Tensor) -> None:
    first, second = evaluator.score(clip), evaluator.score(clip.clone())
    for a, b in zip(first, second, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert torch.equal(a, b) and a.dtype == torch.float32 and a.device.type == "cpu" and not a.requires_grad


def sharing(loaded: Any, evaluator: Any) -> Any:
    """An evaluator with other options and the model that is loaded already."""
    evaluator._model = loaded.model
    return evaluator


def skip_without_library(evaluator: Any) -> None:
    if evaluator.package and find_spec(evaluator.package) is None:
        pytest.skip(f"{evaluator.package} is not installed")


@pytest.fixture(scope="module")
def published() -> Iterator[Any]:
    """frechet-audio-distance's module; laion_clap is left out only where it cannot be imported offline."""
    pytest.importorskip("encodec")
    stubbed = False
    try:
        import laion_clap  # noqa: F401
    except Exception:
        sys.modules["laion_clap"], stubbed = MagicMock(), True
    yield pytest.importorskip("frechet_audio_distance.fad")
    if stubbed:
        for name in [name for name in sys.modules if name.split(".")[0] in ("laion_clap", "frechet_audio_distance")]:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def torch_hub_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """frechet-audio-distance moves torch hub's folder for the whole process."""
    monkeypatch.setattr(torch.hub, "_hub_dir", torch.hub._hub_dir)


def random_cnn14(rate: int, folder: Path, **beside: Any) -> Path:
    """A checkpoint under the name that frechet-audio-distance looks for, as large and as varied as a trained one."""
    kind, file, settings = PANN[rate]
    torch.manual_seed(rate)
    network = getattr(networks(), kind)(sample_rate=rate, mel_bins=64, fmin=50, classes_num=527, **settings)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(1.0, 2.0)
            layer.bias.data.normal_(0, 0.2)
    network.bn0.running_mean.fill_(-30)
    network.bn0.running_var.fill_(400)
    network.fc1.weight.data.mul_(8)
    network.fc_audioset.weight.data.mul_(3)
    torch.save({"iteration": 1, "model": network.state_dict(), **beside}, folder / file)
    return folder / file


@pytest.fixture(
    scope="module", params=[rate if rate == 16_000 else pytest.param(rate, marks=pytest.mark.soak) for rate in PANN]
)
def cnn14(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    file = random_cnn14(request.param, tmp_path_factory.mktemp("pann"))
    yield request.param, file
    file.unlink()


# Cnn14


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fad_of_cnn14_is_that_of_frechet_audio_distance(
    published: Any, cnn14: tuple[int, Path], tmp_path: Path
) -> None:
    rate, file = cnn14
    tool = published.FrechetAudioDistance(str(file.parent), "pann", sample_rate=rate)
    ours = Cnn14("cnn14", str(file), rate, remove_dc=False, min_samples=0)
    ours.prepare(str(tool.device))
    # Fewer dimensions than clips, so that the covariances have full rank and its matrix root is exact.
    mixing = np.random.default_rng(0).standard_normal((2048, 3)) / 2048**0.5
    statistics, made = [], []
    for sounds in (noises(rate, 0.4), tones(rate, 0.4)):
        for index, sound in enumerate(sounds):
            soundfile.write(tmp_path / f"{index}.wav", sound.numpy(), rate, "FLOAT")
        names = [str(tmp_path / f"{index}.wav") for index in range(CLIPS)]
        theirs = tool.get_embeddings([published.load_audio_task(name, rate, 1) for name in names], rate)
        made.append(embeddings(ours, [files.read(name, rate) for name in names]))
        # It strings all clips' embeddings together (its issue 37), which would make the distance one-dimensional.
        assert theirs.shape == (CLIPS * 2048,) and made[-1].shape == (CLIPS, 2048)
        np.testing.assert_allclose(made[-1].numpy().ravel(), theirs, rtol=1e-6, atol=1e-7)
        statistics += tool.calculate_embd_statistics(theirs.reshape(CLIPS, 2048).astype(float) @ mixing)
    expected = tool.calculate_frechet_distance(*statistics)
    distance = frechet_distance(*(rows.double() @ torch.from_numpy(mixing) for rows in made))
    assert expected > 1e-3
    assert distance == pytest.approx(expected, rel=1e-6)


def audioldm_eval_logits(network: Any, clip: torch.Tensor) -> torch.Tensor:
    """A plain transcription of audioldm_eval: its preparation of a clip, then what its Cnn14 calls logits."""
    caught: list[torch.Tensor] = []
    hook = network.fc_audioset.register_forward_hook(lambda layer, inputs, output: caught.append(output))
    audio = clip[None] - clip[None].mean()
    if audio.size(-1) < 32000:
        audio = torch.nn.functional.pad(audio, (0, 32000 - audio.size(-1)), mode="constant", value=0.0)
    with torch.no_grad():
        network(audio)
    hook.remove()
    return caught[0]


def audioldm_eval_kl(generated: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """A plain transcription of audioldm_eval's metrics/kl.py: softmax and sigmoid."""
    kl_div, eps = torch.nn.functional.kl_div, 1e-6
    softmax = kl_div((generated.softmax(dim=1) + eps).log(), reference.softmax(dim=1), reduction="sum")
    sigmoid = kl_div((generated.sigmoid() + eps).log(), reference.sigmoid(), reduction="sum")
    return float(softmax / len(generated)), float(sigmoid / len(generated))


@pytest.fixture(scope="module")
def cnn14_16k(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cnn14]:
    # Zenodo's file for 16 kHz is 31 MB longer than its weights: room for the state of the training's sampler.
    sampler = {"indexes_per_class": [np.arange(9)], "queue": [np.int64(3)], "pointers_of_classes": [0]}
    file = random_cnn14(16_000, tmp_path_factory.mktemp("pann16"), sampler=sampler)
    evaluator = Cnn14("cnn14", str(file), 16_000)
    evaluator.prepare("cpu")
    yield evaluator
    file.unlink()


@pytest.mark.soak
def test_kl_of_cnn14_is_that_of_audioldm_eval(cnn14_16k: Cnn14) -> None:
    ours = cnn14_16k
    # Two that are padded, one that is not.
    references, mixes = ([*kind(16_000, 0.6)[:2], kind(16_000, 2.1)[2]] for kind in (noises, tones))
    made = [torch.stack([ours.score(clip).logits for clip in clips]) for clips in (references, mixes)]
    theirs = [torch.cat([audioldm_eval_logits(ours.model, clip) for clip in clips]) for clips in (references, mixes)]
    assert made[0].shape == (3, 527)
    for mine, expected in zip(made, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)
    values = [kl(made[0], made[1]).mean().item() for kl in (softmax_kl, sigmoid_kl)]
    assert all(abs(value) > 0.1 for value in values)
    assert values == pytest.approx(audioldm_eval_kl(theirs[1].double(), theirs[0].double()), rel=1e-6)
    assert values == pytest.approx(audioldm_eval_kl(theirs[1], theirs[0]), rel=2e-5)  # its own single precision
    assert_same_bits_twice(ours, mixes[0])


def test_cnn14_hears_the_mean_and_zeros_only_if_told_to(cnn14_16k: Cnn14) -> None:
    clip, file = noises(16_000, 0.5)[0], str(cnn14_16k.weights)
    bare = sharing(cnn14_16k, Cnn14("cnn14", file, 16_000, remove_dc=False, min_samples=0))
    centred = sharing(cnn14_16k, Cnn14("cnn14", file, 16_000, remove_dc=True, min_samples=0))
    assert torch.equal(centred.score(clip + 0.3).embeddings, bare.score(clip + 0.3 - (clip + 0.3).mean()).embeddings)
    assert not torch.allclose(bare.score(clip + 0.3).embeddings, bare.score(clip).embeddings)
    with pytest.raises(ClipError, match=r"0\.3 s; evaluator cnn14 needs at least 0\.31 s"):
        bare.score(clip[:4800])
    assert bare.score(clip[:4960]).embeddings.shape == (1, 2048)
    with pytest.raises(ClipError):
        cnn14_16k.score(clip[:0])
    assert len({json.dumps(one.signature()) for one in (bare, centred, cnn14_16k)}) == 3


def test_cnn14_is_had_without_laion_clap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    for name in [name for name in sys.modules if name.startswith(("_frechet_audio", "frechet_audio"))]:
        monkeypatch.delitem(sys.modules, name)
    networks.cache_clear()
    assert {kind for kind, _, _ in PANN.values()} <= set(vars(networks()))


# VGGish


@pytest.fixture(scope="module")
def vggish_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Random weights and PCA parameters; the latter as NumPy arrays, as torchvggish reads them."""
    layers = pytest.importorskip("torchvggish.torchvggish")
    folder = tmp_path_factory.mktemp("vggish")
    torch.manual_seed(0)
    state = layers.VGG(layers.make_layers(), False).state_dict()
    for name, values in state.items():
        if name.endswith("weight"):
            torch.nn.init.normal_(values, 0, (2 / values[0].numel()) ** 0.5)
    torch.save(state, folder / "vggish.pth")
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((128, 128)))[0]
    torch.save({"pca_eigen_vectors": rotation, "pca_means": random.standard_normal(128)}, folder / "pca.pth")
    yield folder / "vggish.pth", folder / "pca.pth"
    (folder / "vggish.pth").unlink()


class HubVGGish:
    """What torch.hub gives for harritaylor/torchvggish: PyPI's network, called with a waveform and its rate."""

    def __init__(self, layers: Any, front_end: Any) -> None:
        self.network, self.front_end = layers.vggish(postprocess=True), front_end

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("postprocess", "embeddings"):
            setattr(self.network, name, value)
        else:
            object.__setattr__(self, name, value)

    @property
    def embeddings(self) -> Any:
        return self.network.embeddings

    def to(self, device: Any) -> None:
        self.network.to(device)

    def eval(self) -> None:
        self.network.eval()

    def forward(self, waveform: np.ndarray, rate: int) -> torch.Tensor:
        examples = self.front_end.waveform_to_examples(waveform, rate)
        return self.network(examples.to(next(self.network.parameters()).device))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("pca", "activation"), [(False, False), (True, True)])
def test_fad_of_vggish_is_that_of_frechet_audio_distance(
    published: Any, vggish_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, pca: bool, activation: bool
) -> None:
    layers = pytest.importorskip("torchvggish.torchvggish")
    front_end = pytest.importorskip("torchvggish.vggish_input")
    kept = {layers.VGGISH_WEIGHTS: vggish_files[0], layers.PCA_PARAMS: vggish_files[1]}
    monkeypatch.setattr(
        layers.hub, "load_state_dict_from_url", lambda url, **_: torch.load(kept[url], weights_only=False)
    )
    monkeypatch.setattr(torch.hub, "load", lambda **_: HubVGGish(layers, front_end))
    monkeypatch.setattr(published.torch.cuda, "is_available", lambda: False)
    tool = published.FrechetAudioDistance(model_name="vggish", use_pca=pca, use_activation=activation)
    ours = VGGish("vggish", str(vggish_files[0]), pca, activation, str(vggish_files[1]))
    clips = {"reference": noises(16_000, 2.0)[:4], "generated": tones(16_000, 2.0)[:4]}
    theirs = {name: tool.get_embeddings([one.numpy() for one in sounds], 16_000) for name, sounds in clips.items()}
    made = {name: embeddings(ours, sounds) for name, sounds in clips.items()}
    for name in clips:
        assert made[name].shape == (8, 128)
        np.testing.assert_allclose(made[name].numpy(), theirs[name], rtol=1e-6, atol=1e-6)
    mixing = np.random.default_rng(0).standard_normal((128, 4))
    rows = [theirs[name].astype(float) @ mixing for name in clips]
    expected = tool.calculate_frechet_distance(*(part for row in rows for part in tool.calculate_embd_statistics(row)))
    distance = frechet_distance(*(made[name].double() @ torch.from_numpy(mixing) for name in clips))
    assert expected > 1e-3
    assert distance == pytest.approx(expected, rel=1e-6)
    assert bool((made["generated"] < 0).any()) != (pca or activation)


def test_vggish_needs_a_frame_and_says_so(vggish_files: tuple[Path, Path]) -> None:
    ours = VGGish("vggish", str(vggish_files[0]))
    clip = noises(16_000, 1.2)[0]
    assert ours.score(clip[:15_600]).embeddings.shape == (1, 128)
    assert ours.score(clip).logits is None
    with pytest.raises(ClipError, match=r"evaluator vggish needs at least 0\.975 s"):
        ours.score(clip[:15_599])
    assert_same_bits_twice(ours, clip)
    signatures = [VGGish("v", str(vggish_files[0]), *options).signature() for options in ((), (False, True))]
    signatures.append(VGGish("v", str(vggish_files[0]), True, False, str(vggish_files[1])).signature())
    assert len({json.dumps(one) for one in signatures}) == 3
    assert "+" in signatures[2]["checkpoint"]


# EnCodec


def encodec_name(name: str) -> str:
    """From the encodec package's name of an encoder's weight to that of transformers."""
    name = name.replace("model.", "layers.", 1)
    name = name.replace(".conv.conv.", ".conv.").replace(".conv.norm.", ".norm.")
    name = name.replace(".weight_g", ".parametrizations.weight.original0")
    return name.replace(".weight_v", ".parametrizations.weight.original1")


ENCODEC = {
    24_000: {},
    48_000: {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "use_causal_conv": False,
        "norm_type": "time_group_norm",
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("rate", ENCODEC)
def test_encodec_is_the_encodec_packages_encoder(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    kind = f"encodec_model_{rate // 1000}khz"
    torch.manual_seed(rate)
    theirs = getattr(published.EncodecModel, kind)(pretrained=False)
    monkeypatch.setattr(published.EncodecModel, kind, staticmethod(lambda: theirs))
    monkeypatch.setattr(published.torch.cuda, "is_available", lambda: False)
    copy = EncodecModel(EncodecConfig(**ENCODEC[rate]))
    copy.encoder.load_state_dict({encodec_name(name): value for name, value in theirs.encoder.state_dict().items()})
    copy.save_pretrained(tmp_path)
    tool = published.FrechetAudioDistance(model_name="encodec", sample_rate=rate, channels=rate // 24_000)
    ours = EnCodec("encodec", str(tmp_path), rate)
    for clip in (tones(rate, 0.7)[3], noises(rate, 0.31)[2], tones(rate, 0.02)[0]):
        expected = tool.get_embeddings([clip.numpy()], rate)
        made = ours.score(clip).embeddings
        assert made is not None and made.shape == (math.ceil(len(clip) / 320), 128)
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=2e-6)
    assert_same_bits_twice(ours, tones(rate, 0.3)[0])
    with pytest.raises(ClipError):
        ours.score(torch.zeros(0))
    with pytest.raises(BlendbenchError, match=f"an EnCodec of {rate} Hz, not {72_000 - rate}; set sample_rate"):
        EnCodec("encodec", str(tmp_path), 72_000 - rate).prepare("cpu")


# CLAP


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLAP's architecture, a few layers thin, with a tokenizer of six words."""
    folder = tmp_path_factory.mktemp("clap")
    words = ["<s>", "</s>", "<unk>", "<pad>", "loud", "calm", "jazz", "rain"]
    tokenizer = Tokenizer(
        tokenizer_models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=90, pad_token_id=3, projection_dim=24, initializer_factor=20.0,
    )  # fmt: skip
    audio = ClapAudioConfig(
        hidden_size=64, patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        num_hidden_layers=4, projection_dim=24, enable_fusion=False,
    )  # fmt: skip
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=24))
    model.save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


def test_clap_is_transformers_clap_for_sounds_and_texts(clap_folder: Path) -> None:
    ours = CLAP("clap", str(clap_folder))
    assert isinstance(ours, TextEvaluator)
    model = ClapModel.from_pretrained(clap_folder).eval()
    features = ClapFeatureExtractor.from_pretrained(clap_folder)
    made = []
    for clip in (tones(48_000, 0.5)[0], noises(48_000, 0.5)[5]):
        with torch.no_grad():
            expected = model.get_audio_features(**features(clip.numpy(), sampling_rate=48_000, return_tensors="pt"))
        scores = ours.score(clip)
        torch.testing.assert_close(scores.embeddings, expected.pooler_output, rtol=1e-5, atol=1e-6)
        assert scores.logits is None and scores.embeddings.norm().item() == pytest.approx(1)
        made.append(scores.embeddings[0])
    assert not torch.allclose(made[0], made[1], atol=1e-3)
    with torch.no_grad():
        expected = model.get_text_features(torch.tensor([[0, 4, 6, 1]])).pooler_output[0]
    torch.testing.assert_close(ours.score_text("loud jazz"), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.score_text("loud jazz"), ours.score_text("loud jazz"))
    assert not torch.allclose(ours.score_text("loud jazz"), ours.score_text("calm rain"), atol=1e-3)
    assert torch.equal(ours.score_text("calm " * 76 + "loud"), ours.score_text("calm " * 500))
    assert ours.score_text("").shape == made[0].shape == (24,)
    assert_same_bits_twice(ours, tones(48_000, 0.5)[0])
    with pytest.raises(ClipError):
        ours.score(torch.zeros(0))


def test_clap_hears_the_first_ten_seconds_of_a_longer_clip(clap_folder: Path) -> None:
    ours = CLAP("clap", str(clap_folder))
    clip = noises(48_000, 11.0)[5]
    assert torch.equal(ours.score(clip).embeddings, ours.score(clip[:480_000]).embeddings)


# PaSST


@pytest.fixture(scope="module")
def passt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaSST]:
    library = pytest.importorskip("hear21passt.models.passt")
    torch.manual_seed(0)
    state = library.get_model(arch="passt_s_swa_p16_128_ap476", pretrained=False).state_dict()
    for name, values in state.items():
        # The library's own start leaves the position embeddings almost silent and the classes alike.
        if "pos_embed" in name or name.startswith("head.1"):
            values.normal_(0, 0.3)
    file = tmp_path_factory.mktemp("passt") / "passt.pt"
    torch.save(state, file)
    yield PaSST("passt", str(file))
    file.unlink()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_passt_is_hear21passts_model(passt: PaSST, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    base = pytest.importorskip("hear21passt.base")
    helpers = pytest.importorskip("hear21passt.models.helpers.vit_helpers")
    monkeypatch.setattr(helpers, "download_cached_file", lambda *_, **__: str(passt.weights))
    reference = base.get_basic_model(mode="all").eval()
    capfd.readouterr()
    clip, state = tones(32_000, 5.1)[4], torch.get_rng_state()
    scores = passt.score(clip)
    assert torch.equal(state, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    with torch.no_grad():
        expected = reference(torch.nn.functional.pad(clip, (0, 320_000 - len(clip)))[None])
    assert scores.embeddings.shape == (1, 768) and scores.logits.shape == (527,)
    torch.testing.assert_close(torch.cat([scores.logits, scores.embeddings[0]]), expected[0], rtol=1e-5, atol=1e-5)


def test_passt_averages_overlapping_windows_of_a_longer_clip(passt: PaSST) -> None:
    ours = sharing(passt, PaSST("passt", str(passt.weights), window_s=0.5, overlap=0.25))
    clip = noises(32_000, 0.9)[3]
    parts = [clip[start : start + 16_000] for start in (0, 8_000, 16_000)]
    scores, expected = ours.score(clip), [ours.score(part) for part in parts]
    torch.testing.assert_close(scores.logits, torch.stack([one.logits for one in expected]).mean(0))
    torch.testing.assert_close(scores.embeddings, torch.stack([one.embeddings for one in expected]).mean(0))
    padded = torch.nn.functional.pad(parts[2], (0, 16_000 - len(parts[2])))
    assert torch.equal(expected[2].logits, ours.score(padded).logits)
    assert_same_bits_twice(ours, clip)


def test_passt_brings_peaks_to_a_level_if_told_to(passt: PaSST) -> None:
    ours = sharing(passt, PaSST("passt", str(passt.weights), window_s=0.5, overlap=0.25, peak_db=-1.0))
    plain = sharing(passt, PaSST("passt", str(passt.weights), window_s=0.5, overlap=0.25))
    clip = tones(32_000, 0.5)[0]
    levelled = clip * (10 ** (-1 / 20) / clip.abs().max())
    torch.testing.assert_close(ours.score(0.1 * clip).logits, plain.score(levelled).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain.score(0.1 * clip).logits, plain.score(levelled).logits, atol=1e-2)
    assert bool(torch.isfinite(ours.score(torch.zeros(100)).logits).all())
    with pytest.raises(ClipError):
        ours.score(torch.zeros(0))
    assert len({json.dumps(one.signature()) for one in (ours, plain, passt)}) == 3


@pytest.mark.parametrize("options", [{"window_s": 11}, {"window_s": 0}, {"overlap": 10}, {"overlap": -1}])
def test_windows_that_passt_cannot_take_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BlendbenchError, match=next(iter(options))):
        PaSST("passt", **options)


# What is missing, damaged or not meant


class Attack:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


FILE_EVALUATORS = {"cnn14": Cnn14, "vggish": VGGish, "passt": PaSST}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "no such file or folder; give another, or null"),
        ("folder", "cannot be read .*; (give a file|fetch it again)"),
        ("empty", r"is empty \(0 bytes\); fetch it again"),
        ("page", r"is a web page \('Sign in'\), not the file itself"),
        ("truncated", "damaged or no PyTorch file; fetch it again"),
        ("noise", "damaged or no PyTorch file; fetch it again"),
        ("pickle", r"holds posix\.mkdir, not weights alone, so reading it could run code; give the published file"),
        ("module", r"holds torch\.nn\.modules\.linear\.Linear, not weights alone"),
        ("list", "holds no weights of .*; give the published file"),
        ("other", r"weights are not of this .* \(.* is missing and \d+ more\); give the published file"),
    ],
)
@pytest.mark.parametrize("kind", FILE_EVALUATORS)
def test_bad_files_give_one_line(kind: str, damage: str, words: str, tmp_path: Path) -> None:
    skip_without_library(FILE_EVALUATORS[kind])
    file, trap = tmp_path / "weights.pth", tmp_path / "trap"
    contents = {
        "pickle": Attack(trap),
        "module": torch.nn.Linear(2, 2),
        "list": [torch.zeros(3)],
        "other": {"features.0.weight": torch.zeros(2, 2)},
        "truncated": {"a": torch.zeros(5000)},
    }
    if damage in contents:
        torch.save(contents[damage], file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:9000])
    elif damage == "empty":
        file.touch()
    elif damage == "page":
        file.write_text("<!doctype html><title>Sign in</title>")
    elif damage == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(3000))
    elif damage == "folder":
        file.mkdir()
    evaluator = FILE_EVALUATORS[kind](kind, str(file))
    with pytest.raises(BlendbenchError, match=words) as caught:
        evaluator.prepare("cpu")
    assert "\n" not in str(caught.value) and "weights.pth" in str(caught.value)
    assert not trap.exists()
    if damage in ("missing", "folder"):
        with pytest.raises(BlendbenchError, match=r"weights\.pth"):
            evaluator.signature()


def test_weights_of_another_rate_are_refused(cnn14_16k: Cnn14) -> None:
    with pytest.raises(BlendbenchError, match=r"are not of this Cnn14 \(.* is \[257, 1, 512\], not \[513, 1, 1024\]"):
        Cnn14("cnn14", str(cnn14_16k.weights), 32_000).prepare("cpu")


def test_pca_parameters_that_are_none_are_refused(vggish_files: tuple[Path, Path]) -> None:
    with pytest.raises(BlendbenchError, match="holds no PCA parameters of VGGish"):
        VGGish("vggish", str(vggish_files[0]), pca=True, pca_checkpoint=str(vggish_files[0])).prepare("cpu")


@pytest.mark.parametrize("damage", ["missing", "empty", "pickled", "truncated", "lacking", "shape", "other", "config"])
def test_bad_folders_give_one_line(clap_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "clap"
    words = {
        "missing": "no such file or folder",
        "empty": "no config.json with safetensors",
        "pickled": "no config.json with safetensors",
        "truncated": "no readable clap model .*; fetch it again",
        "lacking": "weights are missing, such as .*; fetch it again",
        "shape": "fetch it again",
        "other": "holds a encodec model, not clap; give another checkpoint",
        "config": r"no model folder \(config.json\); fetch it again",
    }[damage]
    if damage != "missing":
        folder.mkdir()
    if damage not in ("missing", "empty"):
        for file in clap_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    state = load_file(weights) if weights.exists() else {}
    name = "audio_projection.linear1.weight"
    if damage == "pickled":
        torch.save(state, folder / "pytorch_model.bin")
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "lacking":
        save_file({key: value for key, value in state.items() if key != name}, weights, {"format": "pt"})
    elif damage == "shape":
        save_file({**state, name: state[name][:5].contiguous()}, weights, {"format": "pt"})
    elif damage == "other":
        (folder / "config.json").write_text(json.dumps({"model_type": "encodec"}))
    elif damage == "config":
        (folder / "config.json").write_text("{")
    evaluator = CLAP("clap", str(folder))
    with pytest.raises(BlendbenchError, match=words) as caught:
        evaluator.signature()
        evaluator.prepare("cpu")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_hub_id_that_is_not_here_is_named_with_what_to_type() -> None:
    with pytest.raises(BlendbenchError, match="type `hf download nobody/no-such-model`"):
        CLAP("clap", "nobody/no-such-model").signature()


@pytest.mark.parametrize(
    ("evaluator", "known"),
    [
        (VGGish("e"), "vggish"),
        (Cnn14("e", sample_rate=8_000), "pann_8k"),
        (Cnn14("e", sample_rate=16_000), "pann_16k"),
        (Cnn14("e"), "pann_32k"),
        (CLAP("e"), "clap"),
        (CLAP("e", model="clap_general"), "clap_general"),
        (EnCodec("e"), "encodec_24khz"),
        (EnCodec("e", sample_rate=48_000), "encodec_48khz"),
        (PaSST("e"), "passt"),
    ],
)
def test_without_a_checkpoint_the_usual_weights_are_found(
    evaluator: Any, known: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / known
    file.write_bytes(b"abc")
    monkeypatch.setattr(catalog, "find", {known: file}.__getitem__)
    assert evaluator.weights == file
    if not evaluator.in_folder:
        skip_without_library(evaluator)
        assert evaluator.fingerprint == "ba7816bf8f01"


@pytest.mark.parametrize("kind", FILE_EVALUATORS)
def test_a_missing_library_is_named_with_what_to_type(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"abc")
    evaluator = FILE_EVALUATORS[kind](kind, str(tmp_path / "weights.pth"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    networks.cache_clear()
    audio = "frechet-audio-distance" if sys.version_info < (3, 13) else "--no-deps frechet-audio-distance"
    install = {"cnn14": audio, "vggish": "torchvggish", "passt": r"'blendbench\[passt\]'"}[kind]
    for call in (evaluator.signature, lambda: evaluator.prepare("cpu")):
        with pytest.raises(BlendbenchError, match=f"is not installed; type `pip install {install}`"):
            call()


def test_sample_rates_without_weights_are_refused() -> None:
    for kind in (Cnn14, EnCodec):
        with pytest.raises(BlendbenchError, match="sample_rate=44100"):
            kind("e", sample_rate=44_100)
    with pytest.raises(BlendbenchError, match="min_samples=-1"):
        Cnn14("e", min_samples=-1)


@pytest.mark.parametrize("file", ["vggish", "pann", "clap", "encodec", "passt", "audioldm_eval"])
def test_configs_name_every_option_of_their_evaluators(file: str) -> None:
    plain = OmegaConf.to_container(OmegaConf.create({"evaluator": OmegaConf.load(CONF / f"{file}.yaml")}), resolve=True)
    assert isinstance(plain, dict) and set(plain["evaluator"]) - {"fd"} == {"fad", "kl", "prompt"}
    for key, settings in plain["evaluator"].items():
        if settings is None:
            assert key == "prompt"
            continue
        evaluator = config.build(settings, f"evaluator.{key}", [])
        assert isinstance(evaluator, TextEvaluator if key == "prompt" else Evaluator)
        assert list(settings)[1:] == list(inspect.signature(type(evaluator)).parameters)
    # Only VGGish with Cnn14, most probably the papers' pair, may stand beside the papers' figures.
    chosen = [settings for settings in plain["evaluator"].values() if settings is not None]
    assert all(settings["comparable"] for settings in chosen) == (file in ("vggish", "audioldm_eval"))
