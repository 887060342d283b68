"""MusicGen melody: heeds its conditions, is repeated by its seed alone or in a batch, and equals transformers."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.worlds import write_musicgen
from transformers import MusicgenMelodyFeatureExtractor

from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.methods import Context
from blendbench.methods.musicgen_melody import MusicGenMelody
from blendbench.models import musicgen
from blendbench.models.musicgen import CodeSampling, MusicGen
from blendbench.sound import audio
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair

RATE = 44_100
TEXTS = ["calm jazz", "loud punk rock", "loud punk roll"]


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text, **options):
        return type("Tokens", (), {"input_ids": [1 + ord(letter) % 30 for letter in text]})


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = musicgen.tiny_model()
        for value in network.decoder.parameters():
            # Wide enough for conditions to change which code is drawn.
            value.data.normal_(0, 0.5) if value.dim() > 1 else None
        for layer in (network.enc_to_dec_proj, network.audio_enc_to_dec_proj):
            layer.weight.data.normal_(0, 1.0)
    return MusicGen(network, Letters(), MusicgenMelodyFeatureExtractor())


def tones(*frequencies, seconds=1.0):
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.stack([0.3 * torch.sin(2 * math.pi * frequency * time) for frequency in frequencies])


def made(model, texts, melodies, seeds, **settings):
    return model.generate(texts, melodies, RATE, seeds, CodeSampling(**{"top_k": 8} | settings))


def test_music_is_as_long_as_the_melody_at_the_checkpoints_rate(model):
    music = made(model, TEXTS[:1], tones(440, seconds=0.73), [0])
    assert music.shape == (1, round(0.73 * 32_000))
    assert bool(torch.isfinite(music).all()) and float(music.std()) > 0


def test_the_same_seed_gives_the_same_music_alone_and_in_a_batch(model):
    melodies = tones(220, 440, 330, seconds=0.4)
    together = made(model, TEXTS, melodies, [1, 2, 3])
    for index in range(3):
        alone = made(model, TEXTS[index : index + 1], melodies[index : index + 1], [index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=0, rtol=0)
    other = made(model, TEXTS[:1], melodies[:1], [4])
    assert float((other[0] - together[0]).abs().max()) > 1e-4


@pytest.mark.parametrize("change", ["melody", "text", "guidance"])
def test_each_condition_changes_the_music(model, change):
    text, melody, guidance = TEXTS[0], tones(220, seconds=0.4), 3.0
    plain = made(model, [text], melody, [1], guidance_scale=guidance)
    if change == "melody":
        melody = tones(311, seconds=0.4)
    elif change == "text":
        text = TEXTS[1]
    else:
        guidance = 1.0
    other = made(model, [text], melody, [1], guidance_scale=guidance)
    assert float((plain - other).abs().max()) > 1e-4


def test_the_likeliest_codes_are_those_of_transformers(model):
    melody = tones(220, seconds=0.5)
    ours = made(model, TEXTS[:1], melody, [0], top_k=1)
    ids = torch.tensor([model.tokenizer(TEXTS[0]).input_ids])
    resampled = audio.resample(melody[0], RATE, 32_000)[None]
    features = model.features(resampled.numpy(), sampling_rate=32_000, return_tensors="pt", padding=False)
    theirs = model.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), input_features=features.input_features,
        guidance_scale=3.0, do_sample=False, max_new_tokens=25 + 3,
    )  # fmt: skip
    torch.testing.assert_close(ours[0], theirs[0, 0, : ours.shape[1]], atol=1e-6, rtol=0)


def test_chroma_names_the_pitch_class(model):
    chroma = model.chroma(tones(440, 261.63, 392), RATE)
    assert chroma.shape[0] == 3 and chroma.shape[2] == 12
    middle = chroma.shape[1] // 2
    assert chroma[:, middle].argmax(-1).tolist() == [9, 0, 7]
    assert bool((chroma.sum(-1) == 1).all())


@pytest.mark.parametrize("ignored", ["the melody", "the text", "guidance"])
def test_a_transformers_that_ignores_a_condition_is_refused_in_one_line(monkeypatch, ignored):
    network = musicgen.MusicgenMelodyForConditionalGeneration
    prepare = network._prepare_encoder_hidden_states_kwargs_for_generation

    def deaf(self, inputs_tensor, model_kwargs, model_input_name, generation_config):
        if ignored == "the melody":
            model_kwargs["input_features"] = torch.zeros_like(model_kwargs["input_features"])
        elif ignored == "the text":
            inputs_tensor = torch.ones_like(inputs_tensor)
        return prepare(self, inputs_tensor, model_kwargs, model_input_name, generation_config)

    monkeypatch.setattr(network, "_prepare_encoder_hidden_states_kwargs_for_generation", deaf)
    if ignored == "guidance":
        generate = network.generate
        monkeypatch.setattr(network, "generate", lambda self, **kw: generate(self, **kw | {"guidance_scale": 1.0}))
    musicgen.check_conditions.cache_clear()
    with pytest.raises(BlendbenchError, match=f"ignores {ignored} ") as refused:
        musicgen.check_conditions()
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    musicgen.check_conditions.cache_clear()
    musicgen.check_conditions()


@pytest.mark.parametrize(
    ("key", "value"), [("guidance_scale", 0.5), ("guidance_scale", math.nan), ("top_k", -1), ("temperature", 0.0)]
)
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(BlendbenchError, match=key):
        CodeSampling(**{key: value})


def test_lists_of_unlike_lengths_are_refused(model):
    with pytest.raises(BlendbenchError, match="give one each"):
        made(model, TEXTS, tones(220), [0])


def test_draws_follow_the_probabilities():
    settings = CodeSampling(top_k=2)
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    choice = musicgen._SeededChoice([0], 1, settings)
    drawn = torch.cat([choice(None, scores).argmax(-1) for _ in range(2000)]).bincount(minlength=3) / 2000
    assert drawn[2] == 0
    assert abs(float(drawn[0]) - 2 / 3) < 0.04


def test_the_method_makes_music_of_the_noises_length_and_rate(model, tmp_path, monkeypatch):
    model.model.save_pretrained(tmp_path)
    model.features.save_pretrained(tmp_path)
    monkeypatch.setattr(musicgen.AutoTokenizer, "from_pretrained", lambda *a, **k: Letters())
    method = MusicGenMelody("MusicGen", {"checkpoint": str(tmp_path)}, {"top_k": 8})
    method.prepare(Context(RATE, "cpu", 0, {}))
    noise = tones(220, seconds=0.5)[0]
    pair = Pair("p", NoiseClip("n", tmp_path, "", "n"), Prompt("q", "Jazz", "calm jazz"))
    given = [NoiseAndText(pair, seed, len(noise), noise, "calm jazz") for seed in (1, 2)]
    music = method.generate(given)
    assert [len(made.waveform) for made in music] == [len(noise)] * 2
    assert float((music[0].waveform - music[1].waveform).abs().max()) > 1e-4
    again = method.generate(given[1:])
    torch.testing.assert_close(again[0].waveform, music[1].waveform, atol=0, rtol=0)
    assert method.signature()["checkpoint"] == method.checkpoint.fingerprint


@pytest.mark.parametrize("checkpoint", ["nobody/no-such-model", "./no/such/folder"])
def test_a_checkpoint_that_is_not_there_is_one_line_with_the_remedy(checkpoint):
    method = MusicGenMelody("MusicGen", {"checkpoint": checkpoint}, {})
    with pytest.raises(BlendbenchError, match="checkpoint=") as refused:
        method.prepare(Context(RATE, "cpu", 0, {}))
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    write_musicgen(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if "lm_heads" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BlendbenchError, match=r"lacks 4 weights, such as decoder\.lm_heads"):
        MusicGen.load(tmp_path)


@pytest.mark.parametrize("checkpoint", ["my model", "ckpts/riff/model", "owner/"])
def test_a_mistyped_folder_is_one_line(checkpoint):
    method = MusicGenMelody("MusicGen", {"checkpoint": checkpoint}, {})
    with pytest.raises(BlendbenchError, match=r"generator\.musicgen\.checkpoint=.*no such folder"):
        method.signature()


def test_an_unknown_entry_is_one_line():
    with pytest.raises(BlendbenchError, match="top_q"):
        MusicGenMelody("MusicGen", {"checkpoint": "pocket"}, {"top_q": 8})
