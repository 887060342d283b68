"""The training steps, run for real for moments on a handful of clips: what they write is what the package loads."""

import json

import numpy as np
import pytest
import torch

from blendbench.datasets.pairing import stable_seed
from blendbench.diffusion import LatentDiffusion, Sampling, text_to_image
from blendbench.errors import BlendbenchError
from blendbench.tagger import Tagger
from blendbench.train import autoencoder, cache, generator, noises, tagger
from blendbench.train.arranger import GENRES


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A cache of ten clips: seven of "music" with captions, three of noise, the last of each held out."""
    folder = tmp_path_factory.mktemp("cache")
    draw = np.random.default_rng(0)
    rows, audio, images = [], [], []
    for index, label in enumerate([*GENRES, GENRES[0], "rain", "wind", "rain"]):
        kind = "music" if label in GENRES else "noise"
        split = "held_out" if index in (7, 10) else "train"
        rows.append({"kind": kind, "split": split, "label": label, "source": f"synthesised-{index}", "chunk": 0})
        rows[-1]["captions"] = [f"a {label} song", f"{label} with piano and drums"]
        audio.append((draw.standard_normal(cache.SAMPLES) * 3000).astype(np.int16))
        images.append(draw.integers(0, 256, (512, 512), dtype=np.uint8))
    (folder / "audio.i16").write_bytes(np.stack(audio).tobytes())
    (folder / "images.u8").write_bytes(np.stack(images).tobytes())
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cache.ClipCache(folder)


@pytest.fixture(scope="module")
def vae(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "vae"
    autoencoder.train(clips, out, minutes=0.03, batch=1, crop=(64, 64), log_every=1)
    return out


def test_the_autoencoder_is_saved_with_the_scale_that_makes_latents_unit(clips, vae):
    figures = json.loads((vae / "training.json").read_text())
    assert figures["steps"] >= 1
    assert figures["psnr_db_music"] > 0
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(vae)
    pixels = autoencoder.to_pixels(clips.images[[7, 10]])
    with torch.inference_mode():
        latents = model.encode(pixels).latent_dist.mode()
    assert latents.shape == (2, 4, 64, 64)
    assert float(latents.std() * model.config.scaling_factor) == pytest.approx(1, abs=0.01)


def test_refining_the_decoder_leaves_the_latents_as_they_were(clips, vae, tmp_path):
    import shutil

    from diffusers import AutoencoderKL

    shutil.copytree(vae, tmp_path / "vae")
    autoencoder.train(clips, tmp_path / "vae", minutes=0.02, batch=1, crop=(64, 64), freeze_encoder=True)
    before, after = AutoencoderKL.from_pretrained(vae), AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert before.config.scaling_factor == after.config.scaling_factor
    pixels = autoencoder.to_pixels(clips.images[:1])
    with torch.inference_mode():
        assert torch.equal(before.encode(pixels).latent_dist.mode(), after.encode(pixels).latent_dist.mode())
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(changed)


def test_the_generator_is_saved_as_a_pipeline_that_paints(clips, vae, tmp_path):
    figures = generator.train(clips, vae, tmp_path, minutes=0.05, prompts=["unheard words"], batch=1, log_every=1)
    assert figures["steps"] >= 1 and np.isfinite(figures["held_out_loss"])
    model = LatentDiffusion.load(tmp_path)
    assert model.scheduler_config["prediction_type"] == "v_prediction"
    image = text_to_image(model, ["jazz with piano"], [stable_seed(0)], Sampling(steps=1, guidance_scale=1))
    assert image.shape == (1, 3, 512, 512)


def test_the_tokenizer_knows_the_captions_words_and_survives_others(tmp_path):
    tokenizer = generator.train_tokenizer(["calm jazz trio with piano", "loud punk song"] * 20, tmp_path)
    known = tokenizer("calm jazz trio").input_ids
    assert known[0] == tokenizer.bos_token_id and known[-1] == tokenizer.eos_token_id
    assert len(known) == 5
    assert tokenizer("Calm JAZZ trio").input_ids == known
    other = tokenizer("Ünïcode, naïve — 世界!").input_ids
    assert len(other) > 3 and max(other) < len(tokenizer)


def test_the_tagger_knows_genres_and_noise_kinds_of_its_cache(clips, tmp_path):
    figures = tagger.train(clips, tmp_path, minutes=0.05, batch=4, log_every=1)
    assert figures["steps"] >= 1
    assert Tagger.load(tmp_path).classes == [*GENRES, "rain", "wind"]


def test_trainings_without_clips_say_what_to_run(tmp_path):
    with pytest.raises(BlendbenchError, match="blendbench train data"):
        cache.ClipCache(tmp_path)


def test_the_plan_holds_out_the_listed_songs_and_is_the_same_each_time(tmp_path):
    for name in ("001", "002", "004"):
        (tmp_path / name).mkdir()
    held_out = next(iter(sorted(cache.songs.held_out_songs())))
    (tmp_path / held_out).mkdir(exist_ok=True)
    plan = cache.plan(tmp_path, None, arrangements=2, per_kind=1, seed=3)
    assert plan == cache.plan(tmp_path, None, arrangements=2, per_kind=1, seed=3)
    jobs = [job for chunk in plan for job in chunk]
    songs = {job[1] for job in jobs if job[0] == "song"}
    assert str(tmp_path / held_out) not in songs and songs
    assert {job[1] for job in jobs if job[0] == "synthesised"} == set(noises.KINDS)


def test_no_songs_is_one_line_that_names_the_folder(tmp_path):
    with pytest.raises(BlendbenchError, match=str(tmp_path)):
        cache.plan(tmp_path, None, arrangements=1, per_kind=1, seed=0)
