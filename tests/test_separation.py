"""Separation of MusicGen's melody: equals Demucs' own, reads weights alone, and says in one line what is missing."""

import importlib.util
import json
import math
import shutil
from fractions import Fraction

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from blendbench.errors import BlendbenchError
from blendbench.models import catalog
from blendbench.models.separation import Separation
from blendbench.sound import audio

RATE = 8_000
"""The small model's, in Hz."""
SOURCES = ["drums", "bass", "other", "vocals"]
TINY = {
    "samplerate": RATE, "segment": Fraction(1, 2), "channels": 4, "nfft": 2048, "depth": 4, "dconv_comp": 2,
    "t_layers": 1, "t_heads": 2, "t_hidden_scale": 1.0, "t_sin_random_shift": 4,
}  # fmt: skip
needs_demucs = pytest.mark.skipif(importlib.util.find_spec("demucs") is None, reason="needs demucs")


def package(seed=0, sources=SOURCES, half=False, **changes):
    """What Demucs saves of a small model of random weights."""
    from demucs.htdemucs import HTDemucs
    from demucs.states import serialize_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HTDemucs(sources, **TINY)
    return serialize_model(network, OmegaConf.create({"seed": seed}), half=half) | changes


def save(folder, content, name="0123abcd.th"):
    """Demucs' own way to save; returns the file that it names by its hash."""
    from demucs.states import save_with_checksum

    folder.mkdir(exist_ok=True)
    save_with_checksum(content, folder / name)
    (file,) = folder.glob(f"{name.partition('.')[0]}-*.th")
    return file


def save_safetensors(file, content, **changes):
    """As the files that Demucs takes from the hub."""
    klass, kwargs = content["klass"], dict(content["kwargs"])
    kwargs["segment"] = {"_type": "fraction", "numerator": 1, "denominator": 2}
    header = {
        "klass": f"{klass.__module__}.{klass.__name__}",
        "args": json.dumps(content["args"]),
        "kwargs": json.dumps(kwargs),
    }
    save_file({name: value.contiguous() for name, value in content["state"].items()}, file, header | changes)
    return file


def sounds(*frequencies, seconds=1.2, rate=RATE):
    time = torch.arange(round(seconds * rate)) / rate
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    tones = [torch.sin(2 * math.pi * frequency * time) for frequency in frequencies]
    return torch.stack([0.2 * tone + 0.02 * noise + 0.01 for tone in tones])


def refusal(action):
    with pytest.raises(BlendbenchError) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    pytest.importorskip("demucs")
    return save(tmp_path_factory.mktemp("demucs"), package())


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Torch hub's folder of checkpoints and an empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_stems_are_those_of_demucs(weights):
    from demucs.apply import apply_model
    from demucs.repo import LocalRepo

    mono = sounds(220)[0]
    network = LocalRepo(weights.parent).get_model("0123abcd")
    for module in network.modules():
        if hasattr(module, "sin_random_shift"):
            module.sin_random_shift = 0
    # The lines of demucs.api.Separator.separate_tensor.
    wav = mono.expand(2, -1)
    ref = wav.mean(0)
    out = apply_model(network, ((wav - ref.mean()) / (ref.std() + 1e-8))[None], shifts=0)
    stems = dict(zip(network.sources, (out * (ref.std() + 1e-8) + ref.mean())[0], strict=True))
    wanted = (stems["vocals"] + stems["other"]).mean(0)
    made = Separation(str(weights)).melody_stems(mono[None], RATE)
    torch.testing.assert_close(made[0], wanted, atol=1e-6, rtol=0)
    assert float((made[0] - mono).abs().max()) > 1e-3


def test_separator_of_demucs_makes_the_same(weights):
    api = pytest.importorskip("demucs.api")
    mono = sounds(220)[0]
    separator = api.Separator("0123abcd", repo=weights.parent, shifts=0, device="cpu")
    for module in separator.model.modules():
        if hasattr(module, "sin_random_shift"):
            module.sin_random_shift = 0
    _, stems = separator.separate_tensor(mono.expand(2, -1), RATE)
    made = Separation(str(weights)).melody_stems(mono[None], RATE)
    torch.testing.assert_close(made[0], (stems["vocals"] + stems["other"]).mean(0), atol=1e-6, rtol=0)


def test_a_sounds_stems_are_the_same_again_and_in_a_batch(weights):
    separation, batch = Separation(str(weights)), sounds(220, 440, 330)
    together = separation.melody_stems(batch, RATE)
    assert together.shape == batch.shape and bool(torch.isfinite(together).all())
    for index in range(3):
        alone = separation.melody_stems(batch[index : index + 1], RATE)
        torch.testing.assert_close(alone[0], together[index], atol=0, rtol=0)


@pytest.mark.parametrize(("rate", "seconds"), [(44_100, 0.7), (5_512, 0.731), (RATE, 0.001)])
def test_stems_keep_rate_and_length(weights, rate, seconds):
    batch = sounds(220, rate=rate, seconds=seconds)
    made = Separation(str(weights)).melody_stems(batch, rate)
    assert made.shape == batch.shape and made.dtype == torch.float32
    if rate != RATE:
        low = audio.resample(batch, rate, RATE)
        wanted = audio.resample(Separation(str(weights)).melody_stems(low, RATE), RATE, rate)[:, : batch.shape[1]]
        torch.testing.assert_close(made, wanted, atol=1e-6, rtol=0)


def test_stems_follow_the_level_and_silence_stays_silent(weights):
    separation, batch = Separation(str(weights)), sounds(220)
    loud, quiet = (separation.melody_stems(level * batch, RATE) for level in (1.0, 0.01))
    torch.testing.assert_close(0.01 * loud, quiet, atol=1e-6, rtol=1e-3)
    assert float(separation.melody_stems(torch.zeros(1, RATE), RATE).abs().max()) < 1e-6


def test_no_random_number_is_taken_from_torch(weights):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    Separation(str(weights)).melody_stems(sounds(220), RATE)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("shape", [(RATE,), (1, 0), (1, 1)])
def test_what_is_no_batch_of_sounds_is_refused(weights, shape):
    with pytest.raises(ValueError, match="two samples"):
        Separation(str(weights)).melody_stems(torch.zeros(shape), RATE)


@needs_demucs
@pytest.mark.parametrize("half", [False, True])
def test_safetensors_hold_the_same_model(tmp_path, half):
    from demucs.hf import load_safetensors_model

    content = package(half=half)
    file, old = save_safetensors(tmp_path / "a.safetensors", content), save(tmp_path, content)
    made = [Separation(str(path)).melody_stems(sounds(220), RATE) for path in (file, old)]
    torch.testing.assert_close(made[0], made[1], atol=0, rtol=0)
    assert load_safetensors_model(file).segment == Fraction(1, 2)


@needs_demucs
def test_a_folder_holds_one_file_or_a_definition(tmp_path):
    first, second = save(tmp_path, package(0), "aaaa0000.th"), save(tmp_path, package(1), "bbbb0000.th")
    assert "2 files of weights" in refusal(Separation(str(tmp_path)).signature)
    definition = tmp_path / "mine.yaml"
    definition.write_text("models: ['aaaa0000', 'bbbb0000']\nweights: [[1, 1, 1, 0], [1, 1, 0, 1]]\n")
    bag = Separation(str(tmp_path))
    made = bag.melody_stems(sounds(220), RATE)
    alone = [Separation(str(file)) for file in (first, second)]
    assert bag.signature()["files"] == [one.signature()["files"][0] for one in alone]
    assert bag.signature()["shares"] and bag.signature() != alone[0].signature()
    assert all(not torch.equal(one.melody_stems(sounds(220), RATE), made) for one in alone)
    second.unlink()
    assert "asks for bbbb0000.th" in refusal(Separation(str(tmp_path)).signature)
    definition.write_text("models: 3")
    assert "no definition of a Demucs model" in refusal(Separation(str(tmp_path)).signature)
    definition.unlink()
    assert Separation(str(tmp_path)).signature() == alone[0].signature()


@needs_demucs
def test_published_weights_are_found_where_demucs_keeps_them(checkpoints, monkeypatch):
    separation = Separation("htdemucs", "method.separate")
    text = refusal(separation.signature)
    known = catalog.models()["htdemucs"]
    assert text.startswith("method.separate=htdemucs: ")
    assert str(checkpoints / "955717e8-8726e21a.th") in text and known.source in text and known.fetching in text
    text = refusal(Separation("htdemucs_ft").signature)
    assert "f7e0c4bc-ba3fe64a.th is not here; put https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/" in text

    place = checkpoints / "955717e8-8726e21a.th"
    shutil.copyfile(save(checkpoints / "made", package()), place)
    assert catalog.find("htdemucs") == place
    assert separation.bag.files == (place,)
    assert "not 8726e21a as its name says; fetch it again" in refusal(separation.signature)
    assert "not 8726e21a" in refusal(lambda: separation.prepare("cpu"))
    monkeypatch.setattr("blendbench.models.separation._digest", lambda file: 64 * "0")
    assert separation.melody_stems(sounds(220), RATE).shape == sounds(220).shape


@needs_demucs
def test_published_weights_are_found_in_the_hubs_cache(checkpoints, tmp_path):
    pytest.importorskip("demucs.hf")
    repository = tmp_path / "hf" / "models--adefossez--HTDemucs"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    folder = repository / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    file = save_safetensors(folder / "955717e8.safetensors", package())
    assert Separation().bag.files == (file,)
    assert Separation().signature() == Separation(str(file)).signature()


@needs_demucs
def test_a_name_or_place_that_is_none_is_one_line(tmp_path):
    assert "htdemucs_ft" in refusal(Separation("htdemux").signature)
    assert "method.separate=" in refusal(Separation(str(tmp_path / "no.th"), "method.separate").signature)
    assert "0 files of weights" in refusal(Separation(str(tmp_path)).signature)


def test_missing_demucs_is_one_line_with_what_to_type(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "demucs" else found(name))
    (tmp_path / "a.th").write_bytes(b"x")
    for action in (Separation().signature, lambda: Separation(str(tmp_path / "a.th")).prepare("cpu")):
        assert refusal(action) == "demucs is not installed; type `pip install 'blendbench[separation]'`"


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


@needs_demucs
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training_args": Evil()}, "exec, not weights alone, so reading it could run code"),
        ({"klass": torch.nn.LSTM}, "torch.nn.modules.rnn.LSTM, not weights alone"),
        ({"klass": Fraction}, "holds no Demucs model"),
        ({"kwargs": TINY | {"channels": 8}}, "weights are not of this HTDemucs"),
        ({"kwargs": TINY | {"depth": "four"}}, "weights are not of this HTDemucs"),
        ({"state": {"__quantized": True}}, "no plain weights"),
        ({"state": {}}, "weights are not of this HTDemucs"),
    ],
)
def test_a_file_of_anything_else_is_refused_in_one_line(tmp_path, changes, reason):
    file = save(tmp_path, package(**changes))
    text = refusal(lambda: Separation(str(file)).prepare("cpu"))
    assert reason in text and str(file) in text


@needs_demucs
def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    content = save(tmp_path, package()).read_bytes()
    reasons = {
        b"": "is empty (0 bytes)",
        b"no pickle": "is text ('no pickle'), not weights",
        b"\0\1no": "damaged or no",
    }
    reasons[content[: len(content) // 2]] = "damaged or no"
    for number, (damaged, reason) in enumerate(reasons.items()):
        for suffix in (".th", ".safetensors"):
            file = tmp_path / f"{number}{suffix}"
            file.write_bytes(damaged)
            told = refusal(lambda file=file: Separation(str(file)).prepare("cpu"))
            packed = suffix == ".safetensors" and damaged[:2] == b"PK"
            assert ("is a zip archive, not weights" if packed else reason) in told


@needs_demucs
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"klass": "os.system", "args": '["true"]'}, "holds no Demucs model"),
        ({"structure": '{"_class": "os.system"}'}, "no plain weights"),
        ({"args": "["}, "damaged"),
    ],
)
def test_safetensors_of_anything_else_are_refused_in_one_line(tmp_path, changes, reason):
    file = save_safetensors(tmp_path / "a.safetensors", package(), **changes)
    assert reason in refusal(lambda: Separation(str(file)).prepare("cpu"))


@needs_demucs
def test_a_model_of_other_stems_is_refused(tmp_path):
    file = save(tmp_path, package(sources=["speech", "rest"]))
    assert "speech, rest, not vocals and other" in refusal(lambda: Separation(str(file)).prepare("cpu"))


def test_the_methods_music_and_signature_change_with_the_separation(weights, tmp_path, monkeypatch):
    from transformers import MusicgenMelodyFeatureExtractor

    from blendbench.datasets import NoiseClip, Prompt
    from blendbench.methods import Context
    from blendbench.methods.musicgen_melody import MusicGenMelody
    from blendbench.models import musicgen
    from blendbench.tasks.blend.given import NoiseAndText
    from blendbench.tasks.blend.pairing import Pair

    class Letters:
        def __call__(self, text, **options):
            return type("Tokens", (), {"input_ids": [1 + ord(letter) % 30 for letter in text]})

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = musicgen.tiny_model()
        for value in network.decoder.parameters():
            value.data.normal_(0, 0.5) if value.dim() > 1 else None
        for layer in (network.enc_to_dec_proj, network.audio_enc_to_dec_proj):
            layer.weight.data.normal_(0, 1.0)
    network.save_pretrained(tmp_path)
    MusicgenMelodyFeatureExtractor().save_pretrained(tmp_path)
    monkeypatch.setattr(musicgen.AutoTokenizer, "from_pretrained", lambda *a, **k: Letters())
    noise = sounds(220, seconds=0.5, rate=44_100)[0]
    pair = Pair("p", NoiseClip("n", tmp_path, "", "n"), Prompt("q", "Jazz", "calm jazz"))
    signatures, music, melodies = [], [], []
    generate = musicgen.MusicGen.generate

    def seen(self, texts, given, *rest):
        melodies.append(given)
        return generate(self, texts, given, *rest)

    monkeypatch.setattr(musicgen.MusicGen, "generate", seen)
    for separate in (None, str(weights)):
        method = MusicGenMelody("MusicGen", {"checkpoint": str(tmp_path)}, {"top_k": 8}, separate=separate)
        method.prepare(Context(44_100, "cpu", 0, {}))
        signatures.append(method.signature())
        given = [NoiseAndText(pair, seed, len(noise), noise, "calm jazz") for seed in (1, 2)]
        music.append([made.waveform for made in method.generate(given)])
    assert "separate" not in signatures[0]
    assert signatures[1] == signatures[0] | {"separate": Separation(str(weights)).signature()}
    assert torch.equal(melodies[0][0], noise)
    assert torch.equal(melodies[1][:1], Separation(str(weights)).melody_stems(noise[None], 44_100))
    assert all(len(one) == len(noise) for made in music for one in made)
    assert all(float((plain - other).abs().max()) > 1e-4 for plain, other in zip(*music, strict=True))


@needs_demucs
def test_the_method_says_what_is_missing_before_it_loads_anything(checkpoints, tmp_path):
    from blendbench.methods import Context
    from blendbench.methods.musicgen_melody import MusicGenMelody

    method = MusicGenMelody("MusicGen", {"checkpoint": str(tmp_path / "none")}, {}, separate="htdemucs")
    assert "separate=htdemucs" in refusal(lambda: method.prepare(Context(44_100, "cpu", 0, {})))
