"""What travels with the package: built-in models, noises and music are whole, and do what their cards say."""

from collections import Counter

import pytest
import torch

from blendbench.datasets import builtin
from blendbench.evaluators.pocket import PocketTagger
from blendbench.models import sampling
from blendbench.models.generator import Generator
from blendbench.models.musicgen import CodeSampling, MusicGenCheckpoint
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder
from blendbench.sound import files

ASSETS = package_folder("blendbench.assets")


def megabytes(*names):
    return sum(f.stat().st_size for name in names for f in (ASSETS / name).rglob("*") if f.is_file()) / 1e6


def test_weights_and_packs_stay_small():
    assert megabytes("pocket", "tagger", "musicgen") < 56
    assert (ASSETS / "musicgen" / "model.safetensors").stat().st_size <= 16e6
    assert megabytes("noise", "music") <= 8


@pytest.mark.parametrize("name", ["pocket", "tagger", "musicgen"])
def test_a_models_card_names_its_hash_and_no_path_of_the_machine_that_made_it(name):
    assert checkpoint_hash(ASSETS / name) in (ASSETS / name / "README.md").read_text()
    for file in (ASSETS / name).rglob("*.json"):
        assert "_name_or_path" not in file.read_text(), file


def test_there_are_forty_noises_of_eight_kinds_and_ten_clips_a_genre():
    kinds = Counter(clip.label for clip in builtin.noise())
    assert sum(kinds.values()) >= 40 and len(kinds) >= 8
    genres = Counter(clip.genre for clip in builtin.music())
    assert len(genres) == 7 and min(genres.values()) >= 10
    assert {prompt.genre for prompt in builtin.prompts()} == set(genres)


def test_every_pack_clip_can_be_read_and_lasts_its_five_seconds():
    for clip in [*builtin.noise(), *builtin.music()]:
        assert 4.99 * 44_100 <= len(files.read(clip.path)) <= 5.2 * 44_100, clip.id


def test_the_tagger_hears_the_genre_of_music_it_was_not_trained_on():
    clips = builtin.music()[:28]
    evaluator = PocketTagger("pocket-tagger")
    evaluator.prepare("cpu")
    logits = torch.stack([evaluator.score(files.read(clip.path)[:220_500]).logits for clip in clips])
    names = evaluator._model.classes
    hits = [names[int(top)] == clip.genre for top, clip in zip(logits.argmax(1), clips, strict=True)]
    assert sum(hits) / len(hits) > 0.8


def test_the_generator_paints_and_follows_the_prompt_and_the_seed():
    model = Generator("pocket", "pocket").get("cpu")
    settings = sampling.Sampling(steps=2, guidance_scale=3.0)
    prompts = [
        "Calm classical string quartet",
        "Fast punk rock with overdriven guitars",
        "Calm classical string quartet",
    ]
    calm, punk, other = sampling.text_to_image(model, prompts, [1, 1, 2], settings)
    assert calm.shape == (3, 512, 512)
    assert float(calm.std()) > 0.05
    assert float((calm - punk).abs().mean()) > 0.01
    assert float((calm - other).abs().mean()) > 0.01


def test_the_musicgen_follows_the_melody_and_the_seed():
    model = MusicGenCheckpoint("generator.musicgen", "pocket").get("cpu")
    clips = [clip for clip in builtin.music() if clip.genre in ("Pop", "Classical", "Jazz")][:6]
    melodies = torch.stack([files.read(clip.path)[:220_500] for clip in clips])
    codes = CodeSampling(guidance_scale=3.0, top_k=0, temperature=1.0)
    music = model.generate(["Calm classical string quartet"] * 6, melodies, 44_100, range(6), codes)
    assert music.shape == (6, 110_250)
    given, made = model.chroma(melodies, 44_100).argmax(-1), model.chroma(music, model.sample_rate).argmax(-1)
    own = (given == made).float().mean()
    others = torch.stack([(given.roll(k, 0) == made).float().mean() for k in range(1, 6)]).mean()
    assert own > others + 0.1
    again = model.generate(["Calm classical string quartet"], melodies[:1], 44_100, [9], codes)
    assert float((again - music[:1]).abs().mean()) > 0.005
