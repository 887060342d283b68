"""The training steps, run for real for moments on a handful of clips: what they write is what the package loads."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from support.worlds import call

from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, make_scheduler
from blendbench.models.musicgen import CodeSampling, MusicGenCheckpoint
from blendbench.models.sampling import Sampling, text_to_image
from blendbench.models.spectral_codec import SpectralCodec
from blendbench.models.tagger import Tagger
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder
from blendbench.seeds import stable_seed
from blendbench.sound import audio
from blendbench.train import command, loop
from blendbench.train.data import cache, noises
from blendbench.train.data.arranger import GENRES
from blendbench.train.pocket import autoencoder, codec, export, generator, musicgen, student, tagger


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A cache of ten clips: seven of "music" with captions, three of noise, the last of each held out."""
    folder = tmp_path_factory.mktemp("cache")
    draw = np.random.default_rng(0)
    rows, sounds, images = [], [], []
    for index, label in enumerate([*GENRES, GENRES[0], "rain", "wind", "rain"]):
        kind = "music" if label in GENRES else "noise"
        split = "held_out" if index in (7, 10) else "train"
        rows.append({"kind": kind, "split": split, "label": label, "source": f"synthesised-{index}", "chunk": 0})
        rows[-1]["captions"] = [f"a {label} song", f"{label} with piano and drums"]
        if kind == "music":
            rows[-1]["instruments"] = ["piano", "drums"][: 1 + index % 2]
        sounds.append((draw.standard_normal(cache.SAMPLES) * 3000).astype(np.int16))
        images.append(draw.integers(0, 256, (512, 512), dtype=np.uint8))
    (folder / "audio.i16").write_bytes(np.stack(sounds).tobytes())
    (folder / "images.u8").write_bytes(np.stack(images).tobytes())
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cache.ClipCache(folder)


@pytest.fixture(scope="module")
def vae(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "vae"
    small = {"latent_channels": 4, "width": 16, "encoder_blocks": 1, "decoder_blocks": 1}
    autoencoder.train(clips, out, steps=2, batch=2, crop=(64, 64), log_every=1, architecture=small)
    return out


def test_the_autoencoder_is_saved_with_the_scale_that_makes_latents_unit(clips, vae):
    figures = json.loads((vae / "training.json").read_text())
    assert figures["steps"] == 2 and len(figures["history"]) == 2
    assert figures["psnr_db_music"] > 0
    model = PatchAutoencoder.from_pretrained(vae)
    pixels = autoencoder.to_pixels(clips.images[[7, 10]])
    with torch.inference_mode():
        latents = model.encode(pixels).latent_dist.mode()
    assert latents.shape == (2, 4, 64, 64)
    assert float(latents.std() * model.config.scaling_factor) == pytest.approx(1, abs=0.01)


def test_the_autoencoders_training_is_repeated_by_its_seed(clips, vae, tmp_path):
    small = {"latent_channels": 4, "width": 16, "encoder_blocks": 1, "decoder_blocks": 1}
    autoencoder.train(clips, tmp_path, steps=2, batch=2, crop=(64, 64), log_every=1, architecture=small)
    again, before = PatchAutoencoder.from_pretrained(tmp_path), PatchAutoencoder.from_pretrained(vae)
    for a, b in zip(again.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.fixture
def small_unet(monkeypatch):
    monkeypatch.setitem(generator.UNET, "block_out_channels", [16, 16, 16, 32])
    monkeypatch.setitem(generator.TEXT_ENCODER, "num_hidden_layers", 1)


def test_the_generator_is_saved_as_a_pipeline_that_paints(clips, vae, tmp_path, small_unet):
    settings = {"prompts": ["unheard words"], "batch": 1, "log_every": 1, "widths": ((0.5, 16), (1.0, 64))}
    figures = generator.train(clips, vae, tmp_path, steps=2, **settings)
    assert figures["steps"] == 2 and np.isfinite(figures["held_out_loss"])
    model = LatentDiffusion.load(tmp_path)
    assert model.scheduler_config["prediction_type"] == "v_prediction"
    image = text_to_image(model, ["jazz with piano"], [stable_seed(0)], Sampling(steps=1, guidance_scale=1))
    assert image.shape == (1, 3, 512, 512)


def test_a_stopped_generator_training_goes_on_to_the_same_weights(clips, vae, tmp_path, small_unet):
    settings = {"steps": 4, "prompts": [], "batch": 1, "log_every": 2, "save_every": 2, "widths": ((1.0, 16),)}
    whole = generator.train(clips, vae, tmp_path / "whole", **settings)

    class Stopped(Exception):
        pass

    class Breaking(loop.State):
        def save(self, history, minutes):
            super().save(history, minutes)
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "State", Breaking)
        generator.train(clips, vae, tmp_path / "parts", **settings)
    parts = generator.train(clips, vae, tmp_path / "parts", **settings)
    assert [row["step"] for row in parts["history"]] == [2, 4] == [row["step"] for row in whole["history"]]
    a, b = (LatentDiffusion.load(tmp_path / name).unet.state_dict() for name in ("whole", "parts"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0)  # Adam amplifies rounding


def test_a_state_of_other_settings_is_refused_in_one_line(clips, vae, tmp_path, small_unet):
    settings = {"prompts": [], "batch": 1, "log_every": 1, "save_every": 1, "widths": ((1.0, 16),)}
    generator.train(clips, vae, tmp_path, steps=1, **settings)
    with pytest.raises(BlendbenchError, match=r"state\.pt"):
        generator.train(clips, vae, tmp_path, steps=3, **settings)


def test_the_tokenizer_knows_the_captions_words_and_survives_others(tmp_path):
    tokenizer = generator.train_tokenizer(["calm jazz trio with piano", "loud punk song"] * 20, tmp_path)
    known = tokenizer("calm jazz trio").input_ids
    assert known[0] == tokenizer.bos_token_id and known[-1] == tokenizer.eos_token_id
    assert len(known) == 5
    assert tokenizer("Calm JAZZ trio").input_ids == known
    other = tokenizer("Ünïcode, naïve — 世界!").input_ids
    assert len(other) > 3 and max(other) < len(tokenizer)


def test_the_tagger_knows_genres_and_noise_kinds_of_its_cache(clips, tmp_path):
    figures = tagger.train(clips, tmp_path, steps=2, batch=4, log_every=1)
    assert figures["steps"] == 2 and figures["clips_genre"] == 1
    model = Tagger.load(tmp_path)
    assert model.classes == [*GENRES, "rain", "wind"]
    assert model.config["instruments"] == ["drums", "piano"]
    heard = model.describe(clips.waveforms(np.array([0, 9])))
    assert heard.instruments.shape == (2, 2) and heard.music_share.shape == (2,)
    assert bool((heard.music_share > 0).all() and (heard.music_share < 1).all())


def test_a_tagger_goes_on_from_the_weights_of_another(clips, tmp_path):
    tagger.train(clips, tmp_path / "first", steps=2, batch=4)
    figures = tagger.train(clips, tmp_path / "more", steps=1, batch=4, start=tmp_path / "first", learning_rate=1e-9)
    assert figures["start"] == checkpoint_hash(tmp_path / "first")
    first, more = (dict(Tagger.load(tmp_path / name).named_parameters()) for name in ("first", "more"))
    assert all(torch.allclose(value, more[name], atol=1e-5) for name, value in first.items())
    other = Tagger(["a", "b"], instruments=["drums"])
    other.save(tmp_path / "other")
    with pytest.raises(BlendbenchError, match="other: hears other classes"):
        tagger.train(clips, tmp_path / "never", steps=1, start=tmp_path / "other")


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


@pytest.fixture(scope="module")
def pocket(clips, vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(generator.UNET, "block_out_channels", [16, 16, 16, 32])
        patch.setitem(generator.TEXT_ENCODER, "num_hidden_layers", 1)
        generator.train(clips, vae, folder, steps=1, prompts=[], batch=1, widths=((1.0, 16),))
    return folder


def test_the_samplers_step_is_the_linear_map_that_distillation_takes_it_for(pocket):
    scheduler = make_scheduler("default", LatentDiffusion.load(pocket).scheduler_config)
    scheduler.set_timesteps(8)
    x, v = torch.randn(2, 1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = student.times(scheduler, 8)
    for now, after in itertools.pairwise(steps):
        expected = scheduler.step(v, now, x).prev_sample
        slope, change = student.transfer(scheduler, now[None], after[None])
        torch.testing.assert_close(slope * x + change * v, expected, atol=1e-5, rtol=1e-5)


def test_a_student_of_one_substep_without_guidance_has_nothing_to_learn(pocket):
    model = LatentDiffusion.load(pocket)
    parts = lora.attach(model.unet, 2)
    scheduler = make_scheduler("default", model.scheduler_config)
    clean, noise = torch.randn(2, 2, 4, 64, 16, generator=torch.Generator().manual_seed(0))
    words = (torch.randn(2, 48, 160), torch.zeros(2, 48, 160))
    index = torch.tensor([0, 7])
    loss = student.distillation_loss(model.unet, parts, scheduler, clean, noise, index, words, 8, 1, 1.0)
    assert loss.item() < 1e-8
    guided = student.distillation_loss(model.unet, parts, scheduler, clean, noise, index, words, 8, 1, 5.0)
    assert guided.item() > 1e-6


def test_the_student_is_an_adapter_that_changes_what_the_generator_paints(clips, pocket):
    figures = student.train(clips, pocket, steps=2, batch=2, sampler_steps=2, substeps=2, rank=2, log_every=1)
    assert [row["step"] for row in figures["history"]] == [1, 2]
    source = Generator("fast", str(pocket), adapter="few_step")
    settings = Sampling(steps=2, guidance_scale=1)
    plain = text_to_image(LatentDiffusion.load(pocket), ["a Jazz song"], [1], settings)
    fast = text_to_image(source.get("cpu"), ["a Jazz song"], [1], settings)
    assert float((plain - fast).abs().max()) > 1e-4
    assert source.fingerprint.startswith(Generator("plain", str(pocket)).fingerprint + "+")


def test_an_adapter_adds_the_product_of_its_parts(pocket, tmp_path):
    model = LatentDiffusion.load(pocket)
    parts = lora.attach(model.unet, 2)
    for part in parts.values():
        torch.nn.init.normal_(part.up, generator=torch.Generator().manual_seed(1))
    lora.save(parts, tmp_path / "a.safetensors")
    other = LatentDiffusion.load(pocket, adapter=tmp_path / "a.safetensors")
    trained = dict(model.unet.named_modules())
    merged = dict(other.unet.named_modules())
    for name in parts:
        torch.testing.assert_close(merged[name].weight, trained[name].weight, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("spoil", ["missing", "torn", "of another model"])
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(pocket, tmp_path, spoil):
    file = tmp_path / "a.safetensors"
    if spoil == "torn":
        file.write_bytes(b"12345678 torn")
    elif spoil == "of another model":
        values = {"mid_block.nothing.up": torch.zeros(2, 1), "mid_block.nothing.down": torch.zeros(1, 2)}
        save_file(values, file)
    with pytest.raises(BlendbenchError, match=r"a\.safetensors") as refused:
        Generator("fast", str(pocket), adapter=str(file)).get("cpu")
    assert "\n" not in str(refused.value)


def test_export_joins_the_musicgen_and_its_codecs_better_decoder(clips, trained_codec, words, tmp_path, small_musicgen):
    work, assets = tmp_path / "work", tmp_path / "assets"
    shutil.copytree(trained_codec, work / "codec")
    musicgen.train(clips, work / "codec", words, work / "musicgen", steps=1, batch=2, log_every=1)
    with pytest.raises(BlendbenchError, match=r"decoder.training\.json"):
        export.export(work, assets)
    codec.refine(clips, work / "codec", work / "decoder", steps=3, used=3, batch=2, samples=4410, log_every=1)
    (work / "bench").mkdir()
    row = {"section": "melody", "figure": "genre", "value": 0.9, "low": 0.8, "high": 1.0, "target": "", "met": None}
    (work / "bench" / "figures.json").write_text(json.dumps([row | {"remark": "n=3"}]))
    export.export(work, assets)
    card = (assets / "musicgen" / "README.md").read_text()
    assert checkpoint_hash(assets / "musicgen") in card and "| genre | 0.900 [0.800, 1.000] |  | n=3 |" in card
    for file in (assets / "musicgen").rglob("*.json"):
        assert "_name_or_path" not in file.read_text() or file.name == "tokenizer_config.json"
    first, better, shipped = (
        SpectralCodec.from_pretrained(work / "codec"),
        SpectralCodec.from_pretrained(work / "decoder"),
        MusicGenCheckpoint("generator.musicgen", str(assets / "musicgen")).get("cpu").model.audio_encoder,
    )
    for name, value in shipped.state_dict().items():
        origin = better if name.startswith("decoder.") else first
        torch.testing.assert_close(value, origin.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.decoder.parameters(), better.decoder.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.encoder.parameters(), better.encoder.parameters(), strict=True))
    codec.train(clips, tmp_path / "other", steps=2, batch=2, samples=4410, codebooks=3, seed=5, **SMALL_CODEC)
    shutil.rmtree(work / "decoder")
    codec.refine(clips, tmp_path / "other", work / "decoder", steps=1, used=3, batch=2, samples=4410, log_every=1)
    with pytest.raises(BlendbenchError, match="of another codec"):
        export.export(work, assets)


SMALL_CODEC = {"width": 16, "slow_blocks": 1, "fast_blocks": 1, "hidden_size": 8, "codebook_size": 16}


@pytest.fixture(scope="module")
def trained_codec(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "codec"
    codec.train(clips, out, steps=6, batch=2, samples=4410, quantize_from=0.5, log_every=1, codebooks=3, **SMALL_CODEC)
    return out


def test_the_codec_encodes_and_decodes_as_transformers_does(clips, trained_codec):
    model = SpectralCodec.from_pretrained(trained_codec).eval()
    wave = audio.resample(clips.waveforms(np.array([0])), 44_100, codec.SAMPLE_RATE)
    with torch.no_grad():
        codes = model.encode(wave[:, None]).audio_codes
        assert codes.shape == (1, 1, 3, 128)
        latents = codec.ResidualQuantizer(model)(model.encoder(wave[:, None]), 3, learn=False)
        torch.testing.assert_close(model.decode(codes, [None]).audio_values, model.decoder(latents))
    assert all(len(codes[0, 0, book].unique()) > 1 for book in range(3))
    figures = json.loads((trained_codec / "training.json").read_text())
    assert set(figures["spectral_convergence"]) == {"0", "1", "2", "3"}


def test_codebooks_found_by_k_means_bring_latents_near_and_learn_the_rest(clips):
    torch.manual_seed(0)
    model = codec.new_model(2, **SMALL_CODEC)
    quantizer = codec.ResidualQuantizer(model)
    assert not quantizer.started
    latents = torch.randn(4, 8, 50) * torch.linspace(0.1, 3, 8)[None, :, None]
    quantizer.start(latents)
    assert quantizer.started
    errors = [float((latents - quantizer(latents, used, learn=False)).square().mean()) for used in (1, 2)]
    assert errors[1] < errors[0] < float(latents.square().mean())
    moved = latents + 5
    before = float((moved - quantizer(moved, 2, learn=False)).square().mean())
    for _ in range(200):
        quantizer(moved, 2, learn=True)
    assert float((moved - quantizer(moved, 2, learn=False)).square().mean()) < before / 10


def test_spectra_and_back_is_the_waveform(clips):
    model = codec.new_model(2, **SMALL_CODEC)
    wave = clips.waveforms(np.array([0]))[:, :20_000]
    spectra = model.encoder.spectra(wave)
    assert spectra.shape == (1, -(-20_000 // 294), 513)
    torch.testing.assert_close(model.decoder.spectra.back(spectra)[:, :20_000], wave, atol=1e-5, rtol=1e-4)
    # A tone stands in its bin, in every frame but those at the ends.
    tone = torch.sin(2 * torch.pi * 100 / 1024 * torch.arange(8820.0))[None]
    assert (model.encoder.spectra(tone)[0, 3:-3].abs().argmax(1) == 100).all()


def test_critics_learn_to_tell_and_the_decoder_to_please(clips):
    torch.manual_seed(0)
    critics = codec.Critics(1e-3)
    target = codec.excerpts(codec.training_clips(clips, 4, np.random.default_rng(0)), 8820, 4, np.random.default_rng(0))
    dull = (0.1 * torch.sin(torch.arange(8820) / 20.0)).repeat(4, 1).requires_grad_()
    losses = [critics.learn(dull, target) for _ in range(30)]
    assert losses[0] == pytest.approx(2.0, abs=0.3) and losses[-1] < 0.5
    fooled, matched = critics.loss(dull, target)
    passed, same = (float(value) for value in critics.loss(target, target))
    assert float(fooled.detach()) > passed and same == 0
    (fooled + matched).backward()
    assert dull.grad is not None and bool(dull.grad.isfinite().all()) and float(dull.grad.abs().sum()) > 0
    assert all(parameter.requires_grad for parameter in critics.parameters())


def test_a_stopped_refinement_goes_on_with_its_critics(clips, trained_codec, tmp_path):
    settings = {"steps": 4, "used": 3, "batch": 2, "samples": 4410, "critics_from": 1, "log_every": 1, "save_every": 1}
    whole = codec.refine(clips, trained_codec, tmp_path / "whole", **settings)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(codec, "audio_loss", stop_after(2, codec.audio_loss))
        with pytest.raises(KeyboardInterrupt):
            codec.refine(clips, trained_codec, tmp_path / "parts", **settings)
    again = codec.refine(clips, trained_codec, tmp_path / "parts", **settings)
    assert [row["loss"] for row in again["history"]] == [row["loss"] for row in whole["history"]]


@pytest.fixture
def small_musicgen(monkeypatch):
    monkeypatch.setattr(musicgen, "CODEBOOKS", 3)
    for name, value in {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}.items():
        monkeypatch.setitem(musicgen.DECODER, name, value)


@pytest.fixture
def words(clips, tmp_path):
    generator.train_tokenizer(["a Jazz song", "Rock with piano and drums"], tmp_path / "words", vocabulary=600)
    return tmp_path / "words"


def test_the_musicgen_is_saved_as_a_checkpoint_that_plays(clips, trained_codec, words, tmp_path, small_musicgen):
    figures = musicgen.train(clips, trained_codec, words, tmp_path / "out", steps=2, batch=2, log_every=1)
    assert len(figures["held_out_loss"]) == len(figures["held_out_loss_unconditional"]) == 3
    model = MusicGenCheckpoint("method.checkpoint", str(tmp_path / "out" / "model")).get("cpu")
    melody = clips.waveforms(np.array([1]))[:, :44_100]
    music = model.generate(["a Jazz song"], melody, 44_100, [3], CodeSampling())
    assert music.shape == (1, codec.SAMPLE_RATE) and music.std() > 0
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}


def test_the_loss_is_that_of_transformers(clips, trained_codec, words, tmp_path, small_musicgen):
    torch.manual_seed(0)
    network = SpectralCodec.from_pretrained(trained_codec)
    model = musicgen.new_model(network, 600, 10).eval()
    codes, ids = torch.randint(0, 16, (2, 3, 20)), torch.randint(0, 600, (2, 5))
    chroma = torch.nn.functional.one_hot(torch.randint(0, 12, (2, 10)), 12).float()
    with torch.no_grad():
        prefix = musicgen.condition(model, ids, chroma, torch.ones(2))
        ours = musicgen.code_loss(model, prefix, codes)
        labels = musicgen.delayed(codes, 16).transpose(1, 2)
        theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=chroma, labels=labels)
    torch.testing.assert_close(ours.mean(), theirs.loss, atol=1e-5, rtol=1e-5)


def test_a_stopped_musicgen_training_goes_on_to_the_same_weights(clips, trained_codec, words, tmp_path, small_musicgen):
    settings = {"steps": 4, "batch": 2, "log_every": 1, "save_every": 1}
    whole = musicgen.train(clips, trained_codec, words, tmp_path / "whole", **settings)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(musicgen, "code_loss", stop_after(2, musicgen.code_loss))
        with pytest.raises(KeyboardInterrupt):
            musicgen.train(clips, trained_codec, words, tmp_path / "parts", **settings)
    again = musicgen.train(clips, trained_codec, words, tmp_path / "parts", **settings)
    assert [row["loss"] for row in again["history"]] == [row["loss"] for row in whole["history"]]
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_musicgen_without_its_codec_says_what_to_run(clips, words, tmp_path):
    with pytest.raises(BlendbenchError, match="blendbench train codec"):
        musicgen.train(clips, tmp_path / "codec", words, tmp_path / "out", steps=1)


def stop_after(count, function):
    calls = itertools.count()

    def limited(*arguments):
        if next(calls) == count:
            raise KeyboardInterrupt
        return function(*arguments)

    return limited


def test_export_brings_models_and_cards_into_a_folder(clips, vae, pocket, tmp_path, capsys):
    work, assets = tmp_path / "work", tmp_path / "assets"
    shutil.copytree(vae, work / "vae")
    with pytest.raises(BlendbenchError, match=r"pocket.training\.json"):
        export.export(work, assets)
    student.train(clips, pocket, steps=2, batch=2, sampler_steps=2, substeps=2, rank=2, log_every=1)
    shutil.copytree(pocket, work / "pocket")
    tagger.train(clips, work / "tagger", steps=1, batch=4, log_every=1)
    (work / "bench").mkdir()
    row = {"section": "tagger", "figure": "genre accuracy", "value": 0.9, "low": 0.8, "high": 1.0}
    (work / "bench" / "figures.json").write_text(
        json.dumps([row | {"target": "at least 85 %", "met": True, "remark": ""}])
    )
    export.export(work, assets)
    assert "MB in" in capsys.readouterr().out
    paints = Generator("exported", str(assets / "pocket"), adapter="few_step").get("cpu")
    assert paints.unet.config.block_out_channels == [16, 16, 16, 32]
    assert Tagger.load(assets / "tagger").classes[:7] == list(GENRES)
    card = (assets / "pocket" / "README.md").read_text()
    assert checkpoint_hash(assets / "pocket") in card and "few-step adapter: 1, 0," in card
    assert (
        "| genre accuracy | 0.900 [0.800, 1.000] | at least 85 % | met |"
        in (assets / "tagger" / "README.md").read_text()
    )
    written = [file.name for file in (assets / "pocket").rglob("*") if file.is_file()]
    assert not {"training.json", "state.pt", "latents.f16", "few_step.state.pt"} & set(written)
    weights = load_file(assets / "pocket" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


# The command


@pytest.fixture
def work(clips, tmp_path):
    """A work folder with the small cache in it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cache").symlink_to(clips.folder)
    return tmp_path / "work"


SMALL = ("training.batch=2", "training.samples=4410", "training.log_every=1", "training.codebooks=3",
         "training.width=16", "training.slow_blocks=1", "training.fast_blocks=1", "training.hidden_size=8",
         "training.codebook_size=16")  # fmt: skip


def test_every_step_is_a_file_that_names_a_function_of_its_entries():
    folder = package_folder("blendbench.conf") / "training"
    assert {file.stem for file in folder.glob("*.yaml")} >= set(command.ORDER)
    counts = {name: OmegaConf.load(folder / f"{name}.yaml").get("steps") for name in command.ORDER}
    assert {name: count for name, count in counts.items() if count} == {
        "autoencoder": 1400, "generator": 3400, "student": 240, "tagger": 1500,
        "codec": 3000, "decoder": 1800, "musicgen": 6000, "prior": 4000, "controlnet": 1800, "pix2pix": 900,
        "separator": 1500, "msanii_vocoder": 16_000, "msanii": 9000,
    }  # fmt: skip
    assert OmegaConf.load(folder / "decoder.yaml").used == musicgen.CODEBOOKS


@pytest.mark.parametrize("step", command.ORDER)
def test_step_hands_its_function_the_folders_and_settings_of_the_flags(step, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(command, "_training", lambda entry, allowed: lambda: seen.update(entry))
    words = ["--work", f"{tmp_path}/a b", "--seed", "5", "--data-root", "data, too", "--out", "$HOME/it's"]
    assert call("train", step, *words, "--workers", "3", "--arrangements", "1", "--steps", "7") == 0
    work, seed = f"{tmp_path}/a b", {"seed": 5}
    trained = {"cache": f"{work}/cache", "steps": 7, "device": "cpu"} | seed
    accompanying = {"stems": f"{work}/stems", "steps": 7, "device": "cpu"} | seed
    expected = {
        "data": {"folder": f"{work}/cache", "pop909": "data, too/POP909", "esc50": "data, too/ESC-50", "workers": 3}
        | {"arrangements": 1} | seed,
        "autoencoder": trained | {"out": f"{work}/vae"},
        "generator": trained | {"vae_folder": f"{work}/vae", "out": f"{work}/pocket"},
        "student": trained | {"folder": f"{work}/pocket"},
        "tagger": trained | {"out": f"{work}/tagger", "start": None, "learning_rate": 2e-3, "music_clips": 12000},
        "codec": trained | {"out": f"{work}/codec"},
        "decoder": trained | {"folder": f"{work}/codec", "out": f"{work}/decoder", "used": 5},
        "musicgen": trained | {"codec_folder": f"{work}/codec", "tokenizer_folder": None, "out": f"{work}/musicgen"},
        "piano": {"folder": f"{work}/piano", "pop909": "data, too/POP909", "count": 120, "sample_rate": 11_025}
        | {"workers": 3} | seed,
        "prior": {"piano": f"{work}/piano", "out": f"{work}/prior", "steps": 7, "device": "cpu", "start": None}
        | {"learning_rate": 1e-3, "sigma_min": 1e-4} | seed,
        "stems": {"folder": f"{work}/stems", "pop909": "data, too/POP909", "arrangements": 1, "held_out": 40}
        | {"workers": 3} | seed,
        "prepared_gtzan": {"folder": f"{work}/stems", "semitones": [-5, 6], "filter": "ratio", "held_out": 0.1}
        | {"separator_name": "demucs", "device": "cpu"} | seed
        | {"clips": {"_target_": "blendbench.datasets.stems.gtzan", "root": "data, too", "windows": 6,
                     "genres": ["blues", "country", "reggae", "rock", "pop"]}},
        "prepared_musdb18": {"folder": f"{work}/stems", "semitones": [-3, 3], "filter": "power", "held_out": 0.1}
        | {"device": "cpu"} | seed
        | {"clips": {"_target_": "blendbench.datasets.stems.musdb18", "root": "data, too", "windows": 40,
                     "split": "train"}},
        "controlnet": accompanying | {"out": f"{work}/riff_cnet", "checkpoint": "pocket"}
        | {"hint": {"kind": "canny", "low": 100, "high": 200, "image": "direct", "storage": "direct"}},
        "pix2pix": accompanying | {"out": f"{work}/riff_p2p", "checkpoint": "pocket", "rank": 24},
        "separator": accompanying | {"out": f"{work}/separator"},
        "msanii_songs": {"folder": f"{work}/msanii_songs", "pop909": "data, too/POP909", "count": 240}
        | {"sample_rate": 22_050, "tracks": "all", "channels": 1, "workers": 3} | seed,
        "msanii_vocoder": {"songs": f"{work}/msanii_songs", "out": f"{work}/msanii_vocoder", "batch": 8, "frames": 128}
        | {"learning_rate": 2e-3, "front": {"n_fft": 1024, "hop": 512, "mels": 96}, "steps": 7, "device": "cpu"} | seed
        | {"scaling": {"fit": "dataset", "train": "running", "infer": "running"}}
        | {"vocoder": {"width": 192, "across": 1}}
        | {"unet": {"width": 160, "levels": 5, "blocks": 1, "attention_levels": 2, "heads": 5, "timestep": 96,
                    "across": 1}},
        "msanii": {"songs": f"{work}/msanii_songs", "vocoder": f"{work}/msanii_vocoder", "out": f"{work}/msanii"}
        | {"batch": 4, "frames": 512, "learning_rate": 5e-4, "loss": "l2", "late": 100.0}
        | {"start": None, "steps": 7, "device": "cpu"}
        | seed,
        "export": {"work": work, "assets": "$HOME/it's"},
        "pack": {"assets": "$HOME/it's"} | seed,
    }  # fmt: skip
    target = seen.pop("_target_")
    assert seen == expected[step]
    assert target.startswith("blendbench.train.")


def test_command_trains_as_the_function_does_and_goes_on_where_it_was_stopped(clips, work, monkeypatch, capsys):
    codec.train(clips, work / "apart", steps=4, batch=2, samples=4410, log_every=1, codebooks=3, **SMALL_CODEC)
    words = ("train", "codec", "--work", str(work), "--steps", "4", *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "run", saving_each_step(loop.Loop.run, stop_at=2))
        assert call(*words) == 130
    state = torch.load(work / "codec" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert call(*words) == 0
    out = capsys.readouterr().out
    assert "going on from 2 steps" in out
    figures = json.loads(out[out.index("{") :])
    assert figures["steps"] == 4 and len(figures["history"]) == 4
    whole, parts = (SpectralCodec.from_pretrained(work / name).state_dict() for name in ("apart", "codec"))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-4, rtol=1e-3)


def saving_each_step(run, stop_at):
    """`Loop.run` that keeps its state at every step and is stopped like by Ctrl-C."""

    def limited(self, loss):
        self.save_every = 1
        run(self, stop_after(stop_at, loss))

    return limited


def test_words_and_flags_set_the_same_keys(work, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "_training", lambda entry, allowed: lambda: seen.append(entry))
    assert call("train", "tagger", "--work", str(work), "--seed", "3", "--steps", "9") == 0
    assert call("train", "tagger", f"work={work}", "seed=3", "training.steps=9") == 0
    assert seen[0] == seen[1]


OWN = """
'''A training of somebody else's.'''

from pathlib import Path


def train(out: str, steps: int, rate: float = 0.5, seed: int = 0):
    Path(out).mkdir(parents=True)
    (Path(out) / "weights.txt").write_text(f"{steps} {rate} {seed}")
    return {"steps": steps, "loss": 0.25}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of configs with a training, whose module Python finds."""
    (tmp_path / "my_training.py").write_text(OWN)
    folder = tmp_path / "my conf, it's"
    (folder / "training").mkdir(parents=True)
    entry = "_target_: my_training.train\nout: ${work}/mine\nsteps: 11\nseed: ${seed}\n"
    (folder / "training" / "mine.yaml").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("my_training", None)


@pytest.mark.parametrize("allowed", [("--allow-targets", "my_training"), ("allow_targets=[my_training]",)])
def test_own_training_works_from_outside_of_the_package(own, tmp_path, capsys, allowed):
    words = ("train", "mine", "--config-dir", str(own), "--work", str(tmp_path / "w"), "--seed", "2", *allowed)
    assert call(*words, "training.rate=0.125") == 0
    assert json.loads(capsys.readouterr().out) == {"steps": 11, "loss": 0.25}
    assert (tmp_path / "w" / "mine" / "weights.txt").read_text() == "11 0.125 2"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (
            (),
            1,
            "training._target_: my_training.train is not allowed; if you trust it, add allow_targets=[my_training]",
        ),
        (("training.rats=1",), 1, "training: got an unexpected keyword argument 'rats'; mend that entry"),
        (("training.steps=many",), 1, "training.steps: 'many' is not a whole number; mend that entry"),
        (("training.steps=0",), 1, "training.steps 0: must be at least 1"),
        (("seed=x",), 2, "seed: Value 'x' of type 'str' could not be converted to Integer"),
        (("sead=1",), 2, "Could not override 'sead'"),
        (("device=nope",), 1, "device nope: cannot be used"),
        (("training.steps=[",), 2, "training.steps=["),
    ],
)
def test_wrong_entries_are_one_line_that_names_the_key(own, capsys, words, status, told):
    trusted = ("--allow-targets", "my_training") if words else ()
    assert call("train", "mine", "--config-dir", str(own), *trusted, *words) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert "run --help" not in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "the following arguments are required: step; see `blendbench train --help`"),
        (("nonsense",), "argument step: invalid choice: 'nonsense' (choose from 'data', 'autoencoder', 'generator', "),
        (("codec", "tagger"), "unrecognized arguments: tagger"),
        (("codec", "--nonsense=1"), "unrecognized arguments: --nonsense=1"),
        (("codec", "--config-dir", "no/such/folder"), "--config-dir no/such/folder: has no training/*.yaml"),
    ],
)
def test_wrong_words_are_wrong_usage(capsys, words, told):
    assert call("train", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_own_training_may_not_take_the_name_of_one_of_the_packages(own, capsys):
    (own / "training" / "codec.yaml").write_text("_target_: my_training.train\n")
    assert call("train", "codec", "--config-dir", str(own)) == 2
    assert "codec.yaml: the package has a step of that name" in capsys.readouterr().err


def test_data_root_is_where_the_environment_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BLENDBENCH_DATA", str(tmp_path / "there"))
    assert call("train", "data", "--work", str(tmp_path)) == 1
    assert f"{Path(tmp_path) / 'there' / 'POP909'}: no POP909 songs" in capsys.readouterr().err
