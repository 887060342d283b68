"""TANGO: its published sizes, what its parts code, sampling against closed forms, its folder, and the conversion."""

import json
import logging
import math
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_tango import TINY, tiny_tango, write_published

from blendbench.errors import BlendbenchError
from blendbench.models.tango import (
    PUBLISHED,
    SCALING,
    Tango,
    TangoCheckpoint,
    build,
    conditions,
    prompted,
    text_to_latents,
    text_to_music,
)
from blendbench.models.tango_published import convert_published
from blendbench.sound.tango_mel import tango_mel

CAPTIONS = ["a calm piano", "loud drums in the rain", ""]
FRAMES = 32
SHAPE = (4, 8, 16)
"""Of the tiny model's latents of so many frames."""


@pytest.fixture(scope="module")
def model() -> Tango:
    return tiny_tango()


@pytest.fixture(scope="module")
def saved(model: Tango, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tango") / "saved"
    model.save(folder)
    return folder


@pytest.fixture
def published(model: Tango, tmp_path: Path) -> Path:
    write_published(model, tmp_path / "published")
    return tmp_path / "published"


def shares(model: Tango) -> torch.Tensor:
    return model.scheduler().alphas_cumprod.double()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Sizes


@pytest.mark.parametrize(
    ("part", "wanted"),
    [("unet", 865_933_768), ("vae", 55_376_873), ("vocoder", 55_264_897), ("text_encoder", 341_231_104)],
)
def test_parts_have_the_published_numbers_of_parameters(part, wanted):
    with torch.device("meta"):
        made = build(part, PUBLISHED[part])
    assert sum(value.numel() for value in made.parameters()) == wanted


def test_a_config_of_no_network_is_refused():
    with pytest.raises(BlendbenchError, match=r"vae: no network of this config"):
        build("vae", dict(TINY["vae"]) | {"block_out_channels": [4]})


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("unet", {"in_channels": 5}, "unet: in_channels is 5, but vae: latent_channels 4"),
        ("unet", {"cross_attention_dim": 8}, "cross_attention_dim is 8, but text_encoder: d_model 16"),
        ("vae", {"out_channels": 2}, "vae: out_channels is 2, but the channels of a spectrogram 1"),
        ("vocoder", {"model_in_dim": 63}, "model_in_dim is 63, which vae: factor 4 must divide"),
        ("text_encoder", {"vocab_size": 5}, "knows 13 tokens, but text_encoder: vocab_size is 5"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(part, changed, message):
    with pytest.raises(BlendbenchError, match=re.escape(message)):
        tiny_tango(sizes=TINY | {part: TINY[part] | changed})


# What the parts code


def test_states_of_a_caption_do_not_depend_on_the_others(model):
    both = model.encode_text(CAPTIONS)
    assert both.states.shape == (3, 6, 16)
    assert both.mask.sum(1).tolist() == [4, 6, 1]
    assert not bool(both.states[~both.mask].any())
    for row, caption in enumerate(CAPTIONS):
        alone = model.encode_text([caption])
        own = alone.mask.shape[1]
        assert torch.equal(both.states[row, :own], alone.states[0]) and torch.equal(both.mask[row, :own], alone.mask[0])
    again = model.encode_text([CAPTIONS[1], CAPTIONS[1]])
    assert torch.equal(again.states[0], again.states[1])


def test_the_mask_is_passed_on_to_the_text_encoder(model, monkeypatch):
    """Several items in a part, as on a GPU: padding changes nothing but rounding."""
    alone = model.encode_text(CAPTIONS)
    monkeypatch.setattr("blendbench.models.tango.in_parts", lambda device, count: [slice(0, count)])
    together = model.encode_text(CAPTIONS)
    assert torch.equal(together.mask, alone.mask)
    assert torch.allclose(together.states, alone.states, atol=1e-5)
    ids = torch.tensor([[*model.tokenizer(CAPTIONS[0]).input_ids, 0, 0]])
    unmasked = model.text_encoder(input_ids=ids).last_hidden_state
    assert not torch.allclose(unmasked[0, :4], alone.states[0, :4], atol=1e-4)


def test_a_caption_of_more_than_512_tokens_is_cut_with_a_warning(model, caplog):
    with caplog.at_level(logging.WARNING):
        text = model.encode_text(["piano " * 600, "a calm piano"])
    assert text.states.shape == (2, 512, 16)
    assert "captions cut to the text encoder's 512 tokens: 1, such as 'piano piano" in caplog.text
    caplog.clear()
    fits = model.encode_text(["piano " * 511])
    assert fits.mask.shape == (1, 512) and not caplog.text
    assert torch.equal(text.states[:1], model.encode_text(["piano " * 511 + "piano"]).states)


def test_no_caption_is_refused(model):
    with pytest.raises(BlendbenchError, match="captions: none given"):
        model.encode_text([])


@torch.no_grad()
def test_latents_are_the_scaled_posterior(model):
    mel = noise(2, 1, FRAMES, 64) - 5
    posterior = model.vae.encode(mel).latent_dist
    assert model.encode_mel(mel).shape == (2, *SHAPE)
    assert torch.allclose(model.encode_mel(mel), SCALING * posterior.mean, atol=1e-5)
    drawn = torch.cat([noise(1, *SHAPE, seed=seed) for seed in (3, 4)])
    wanted = SCALING * (posterior.mean + posterior.std * drawn)
    assert torch.allclose(model.encode_mel(mel, [3, 4]), wanted, atol=1e-5)
    assert torch.equal(model.encode_mel(mel[1:], [4]), model.encode_mel(mel, [3, 4])[1:])


@torch.no_grad()
def test_latents_are_decoded_by_autoencoder_and_vocoder(model):
    latents = noise(2, *SHAPE)
    mel = model.decode_mel(latents)
    assert mel.shape == (2, 1, FRAMES, 64)
    assert torch.allclose(mel, model.vae.decode(latents / SCALING).sample, atol=1e-5)
    wave = model.decode(latents)
    assert torch.allclose(wave, model.vocoder(mel[:, 0]), atol=1e-5)
    assert wave.dtype == torch.float32 and float(wave.abs().max()) <= 1
    assert torch.equal(model.decode(latents[1:]), wave[1:])


def test_a_clip_goes_through_at_the_published_length(model):
    wave = 0.1 * noise(100_000)
    latents = model.encode_mel(tango_mel(wave)[None])
    assert latents.shape == (1, 4, 256, 16) == (1, *model.latent_shape())
    assert model.decode(latents).shape == (1, 163_872)


def test_the_published_latents_are_8_by_256_by_16():
    """Shapes alone: the networks have no memory."""
    with torch.device("meta"):
        vae, vocoder = (build(part, PUBLISHED[part]) for part in ("vae", "vocoder"))
        latents = vae.encode(torch.zeros(1, 1, 1024, 64)).latent_dist.mean
        mel = vae.decode(latents).sample
        assert latents.shape == (1, 8, 256, 16) and mel.shape == (1, 1, 1024, 64)
        assert vocoder(mel[:, 0]).shape == (1, 163_872)


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(1, FRAMES, 64), r"give float spectrograms \[B, 1, frames, 64\]"),
        (torch.zeros(1, 1, FRAMES, 80), r"give float spectrograms"),
        (torch.zeros(1, 2, FRAMES, 64), r"give float spectrograms"),
        (torch.zeros(1, 1, FRAMES, 64, dtype=torch.int16), r"int16 .* give float spectrograms"),
        (torch.zeros(1, 1, 30, 64), "frames is 30; give a positive multiple of 4"),
        (torch.full((1, 1, FRAMES, 64), math.nan), "not all finite"),
    ],
)
def test_what_is_no_spectrogram_is_refused(model, mel, message):
    with pytest.raises(BlendbenchError, match=message):
        model.encode_mel(mel)


def test_a_seed_an_item_is_asked_for(model):
    with pytest.raises(BlendbenchError, match="seeds: 1 given for 2 spectrograms"):
        model.encode_mel(torch.zeros(2, 1, FRAMES, 64), [1])


# Sampling


@pytest.mark.parametrize(("time", "share"), [(0, 0.999150), (500, 0.276332), (999, 0.004660)])
def test_the_schedule_is_stable_diffusion_2s(model, time, share):
    assert float(shares(model)[time]) == pytest.approx(share, abs=5e-7)


def test_200_steps_are_called_at_995_to_0(model):
    seen: list[int] = []

    def denoiser(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(int(timestep))
        return torch.zeros_like(latents)

    told: list[tuple[int, int]] = []
    made = text_to_latents(
        model, ["a"], [0], frames=FRAMES, denoiser=denoiser, progress=lambda done, total: told.append((done, total))
    )
    assert seen == list(range(995, -1, -5))
    assert told[-1] == (200, 200) and made.shape == (1, *SHAPE)


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_a_denoiser_that_knows_the_latents_gives_them(model, steps):
    clean, share = noise(1, *SHAPE, seed=9), shares(model)

    def oracle(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha, sigma = share[timestep].sqrt(), (1 - share[timestep]).sqrt()
        return (alpha * (latents - alpha * clean) / sigma - sigma * clean).float()

    made = text_to_latents(model, ["a"], [0], steps, frames=FRAMES, denoiser=oracle)
    assert torch.allclose(made, clean, atol=1e-4)


def test_a_gaussian_denoiser_samples_its_gaussian(model):
    """For clean latents of N(0, s^2) the best v is alpha sigma (1 - s^2) / (alpha^2 s^2 + sigma^2) times the noisy.

    The variance of what is sampled follows from Ho et al. (2020), Eq. 7; it is a little too small.
    """
    spread, share = 0.5, shares(model)

    def gain(timestep: torch.Tensor | int) -> torch.Tensor:
        kept = share[timestep]
        return (kept * (1 - kept)).sqrt() * (1 - spread**2) / (kept * spread**2 + 1 - kept)

    def ideal(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return (gain(timestep) * latents).float()

    variance = torch.tensor(1.0, dtype=torch.float64)
    for time in range(995, -1, -5):
        kept, before = share[time], share[time - 5] if time else torch.tensor(1.0)
        clean = kept.sqrt() - (1 - kept).sqrt() * gain(time)
        step = 1 - kept / before
        mean = before.sqrt() * step / (1 - kept) * clean + (1 - step).sqrt() * (1 - before) / (1 - kept)
        variance = mean.square() * variance + (1 - before) / (1 - kept) * step
    wanted = float(variance.sqrt())
    assert wanted == pytest.approx(0.4827, abs=5e-4)
    made = text_to_latents(model, ["a"], [0], frames=1024, denoiser=ideal)
    assert float(made.mean()) == pytest.approx(0, abs=0.02)
    assert float(made.std()) == pytest.approx(wanted, rel=0.02)


def test_guidance_is_the_published_formula(model):
    """Both halves in one batch, the empty caption padded to the other's length and masked."""
    latents, time = noise(1, *SHAPE), torch.tensor(995)
    own, empty = model.encode_text(CAPTIONS[1:2]), model.encode_text([""])
    states = torch.zeros(2, 6, 16)
    states[0, :1], states[1] = empty.states[0], own.states[0]
    mask = torch.tensor([[True, *[False] * 5], [True] * 6])
    with torch.no_grad():
        away, towards = model.unet(
            torch.cat([latents] * 2), time, encoder_hidden_states=states, encoder_attention_mask=mask
        ).sample.chunk(2)
        found = prompted(model, CAPTIONS[1:2], 3.0)(latents, time)
        unguided = prompted(model, CAPTIONS[1:2], 1.0)(latents, time)
    assert torch.allclose(found, away + 3.0 * (towards - away), atol=1e-5)
    assert torch.allclose(unguided, towards, atol=1e-5)
    assert not torch.allclose(away, towards, atol=1e-4)


def test_tokens_behind_the_mask_are_not_heard(model):
    latents, time = noise(1, *SHAPE), torch.tensor(500)
    given = conditions(model.encode_text(CAPTIONS[:1]), slice(None), least=9)
    assert given["text"].shape == (1, 9, 16) and given["mask"].sum() == 4
    with torch.no_grad():

        def told(text: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            return model.unet(latents, time, encoder_hidden_states=text, encoder_attention_mask=mask).sample

        plain = told(given["text"][:, :4], None)
        assert torch.allclose(told(given["text"], given["mask"]), plain, atol=1e-5)
        assert not torch.allclose(told(given["text"], None), plain, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_items_music_is_the_same_alone_and_in_a_batch(model, guidance):
    words = {"steps": 3, "guidance_scale": guidance, "frames": FRAMES}
    both = text_to_latents(model, CAPTIONS, [5, 6, 7], **words)
    for row, caption in enumerate(CAPTIONS):
        assert torch.equal(text_to_latents(model, [caption], [5 + row], **words)[0], both[row])
    again = text_to_latents(model, CAPTIONS, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)], **words)
    assert torch.equal(again, both)
    assert not torch.equal(text_to_latents(model, CAPTIONS[:1], [8], **words)[0], both[0])


def test_items_that_go_through_together_differ_by_rounding_alone(model, monkeypatch):
    words = {"steps": 3, "frames": FRAMES}
    apart = text_to_latents(model, CAPTIONS, [5, 6, 7], **words)
    monkeypatch.setattr("blendbench.models.tango.in_parts", lambda device, count: [slice(0, count)])
    assert torch.allclose(text_to_latents(model, CAPTIONS, [5, 6, 7], **words), apart, atol=1e-4)


def test_captions_become_music(model):
    wave = text_to_music(model, CAPTIONS[:2], [1, 2], steps=2, frames=FRAMES)
    assert wave.shape == (2, 160 * FRAMES + 32) and wave.dtype == torch.float32
    assert bool(torch.isfinite(wave).all()) and float(wave.std()) > 0
    assert torch.equal(text_to_music(model, CAPTIONS[1:2], [2], steps=2, frames=FRAMES)[0], wave[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps is 0; give a whole number within 1..1000"),
        ({"steps": 1001}, "steps is 1001"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"frames": 30}, "frames is 30; give a positive multiple of 4"),
        ({"seeds": [1]}, "seeds: 1 given for 3 captions"),
        ({"captions": [], "seeds": []}, "captions: none given"),
    ],
)
def test_settings_out_of_range_are_refused(model, words, message):
    with pytest.raises(BlendbenchError, match=re.escape(message)):
        text_to_latents(model, **{"captions": CAPTIONS, "seeds": [1, 2, 3], "frames": FRAMES} | words)


# The folder


def same(one: Tango, other: Tango) -> None:
    """Hold what two models make of captions and spectrograms against each other."""
    words = {"seeds": [1, 2], "steps": 2, "frames": FRAMES}
    for made, wanted in (
        (text_to_latents(one, CAPTIONS[:2], **words), text_to_latents(other, CAPTIONS[:2], **words)),
        (one.encode_mel(noise(1, 1, FRAMES, 64)), other.encode_mel(noise(1, 1, FRAMES, 64))),
        (one.decode(noise(1, *SHAPE)), other.decode(noise(1, *SHAPE))),
    ):
        assert float(wanted.std()) > 1e-3
        assert torch.allclose(made, wanted, atol=1e-5)


def test_what_is_saved_is_loaded(model, saved):
    loaded = Tango.load(saved)
    for name in ("unet", "vae", "vocoder", "text_encoder"):
        held = getattr(loaded, name).state_dict()
        assert all(torch.equal(value, held[key]) for key, value in getattr(model, name).state_dict().items())
    assert loaded.scheduler_config["steps_offset"] == 0
    same(loaded, model)
    assert {one.name for one in saved.iterdir()} == {
        "unet", "vae", "vocoder", "text_encoder", "tokenizer", "scheduler", "model_index.json",
    }  # fmt: skip
    assert not list(saved.rglob("*.bin"))


def test_a_checkpoint_is_named_by_its_folder(saved):
    one = TangoCheckpoint("generator.tango.checkpoint", str(saved), dtype="bfloat16")
    assert one.get("cpu").dtype == torch.bfloat16 and one.get("cpu") is one.get("cpu")
    assert set(one.signature()) == {"tango", "dtype"}
    with pytest.raises(BlendbenchError, match=r"no checkpoint \(model_index.json\) there"):
        TangoCheckpoint("generator.tango.checkpoint", str(saved.parent)).get("cpu")


def copy(saved: Path, folder: Path) -> Path:
    for file in saved.rglob("*"):
        if file.is_file():
            (folder / file.relative_to(saved)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(saved)).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "vocoder/model.safetensors", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"],
)
def test_a_folder_that_lacks_a_file_is_refused(saved, tmp_path, file):
    folder = copy(saved, tmp_path / "one")
    (folder / file).unlink()
    with pytest.raises(BlendbenchError, match=re.escape(f"one: {file} is missing; give a folder")):
        Tango.load(folder)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "conv_in.bias"), ("vae", "quant_conv.bias"), ("vocoder", "conv_pre.bias"),
        ("text_encoder", "encoder.final_layer_norm.weight"), ("text_encoder", "shared.weight"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("change", ["missing", "other", "shape"])
def test_weights_that_are_not_the_configs_are_refused(saved, tmp_path, part, name, change):
    folder = copy(saved, tmp_path / "one")
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    if change == "missing":
        del state[name]
    elif change == "other":
        state["beside"] = torch.zeros(2)
    else:
        state[name] = torch.cat([state[name]] * 2)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(BlendbenchError, match=rf"one: .*{part}/") as refused:
        Tango.load(folder)
    assert "\n" not in str(refused.value) and "convert or fetch it again" in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", b"\0" * 50), ("text_encoder/model.safetensors", b""),
        ("vae/config.json", b"{"), ("vocoder/config.json", b"[]"), ("tokenizer/tokenizer.json", b"{}"),
        ("scheduler/scheduler_config.json", b"{"), ("scheduler/scheduler_config.json", b"[]"),
        ("scheduler/scheduler_config.json", b'{"beta_schedule": "x"}'),
        ("unet/config.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(saved, tmp_path, file, content):
    folder = copy(saved, tmp_path / "one")
    (folder / file).write_bytes(content)
    with pytest.raises(BlendbenchError, match=file.split("/")[0]) as refused:
        Tango.load(folder)
    assert "\n" not in str(refused.value)


# The published layout


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "weight norm"])
def test_the_published_layout_is_converted(model, tmp_path, normed):
    write_published(model, tmp_path / "published", normed=normed)
    convert_published(tmp_path / "published", tmp_path / "made", sizes=TINY)
    made = Tango.load(tmp_path / "made")
    same(made, model)
    assert made.vae.config.scaling_factor == SCALING and made.scheduler_config["prediction_type"] == "v_prediction"
    # The file alone names its folder, too.
    convert_published(tmp_path / "published" / "pytorch_model_main.bin", tmp_path / "again", sizes=TINY)
    files = sorted(file.relative_to(tmp_path / "made") for file in (tmp_path / "made").rglob("*") if file.is_file())
    assert all((tmp_path / "made" / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_the_scale_of_latents_is_the_published_files(published, tmp_path):
    (published / "vae_config.json").write_text('{"scale_factor": 0.5}')
    convert_published(published, tmp_path / "made", sizes=TINY)
    assert Tango.load(tmp_path / "made").vae.config.scaling_factor == 0.5
    for name in ("vae_config.json", "pytorch_model_stft.bin"):
        (published / name).unlink()
    convert_published(published, tmp_path / "made", sizes=TINY)
    assert Tango.load(tmp_path / "made").vae.config.scaling_factor == SCALING


def test_the_tokenizer_may_lie_elsewhere(published, tmp_path):
    (published / "tokenizer").rename(tmp_path / "words")
    convert_published(published, tmp_path / "made", tokenizer=tmp_path / "words", sizes=TINY)
    assert len(Tango.load(tmp_path / "made").tokenizer) == 13
    with pytest.raises(BlendbenchError, match=r"tokenizer: has no tokenizer\.json; put .*google/flan-t5-large there"):
        convert_published(published, tmp_path / "made", sizes=TINY)
    config = published / "main_config.json"
    config.write_text(config.read_text().replace("google/", "/some where/"))
    with pytest.raises(BlendbenchError, match=r"put the tokenizer's files of /some where/flan-t5-large there"):
        convert_published(published, tmp_path / "made", sizes=TINY)


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_asks_for_code_is_refused(model, tmp_path):
    write_published(model, tmp_path / "published", beside={"x": Evil(tmp_path / "made by code")})
    with pytest.raises(BlendbenchError, match=r"pytorch_model_main\.bin: holds .*mkdir, not weights alone"):
        convert_published(tmp_path / "published", tmp_path / "made", sizes=TINY)
    assert not (tmp_path / "made by code").exists()


@pytest.mark.parametrize("name", ["main_config.json", "pytorch_model_main.bin", "pytorch_model_vae.bin"])
def test_a_published_file_that_is_missing_is_named(published, tmp_path, name):
    (published / name).unlink()
    with pytest.raises(BlendbenchError, match=rf"{re.escape(name)}: is missing; give the folder"):
        convert_published(published, tmp_path / "made", sizes=TINY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scheduler_name": "stabilityai/stable-diffusion-2-1-base"}, "scheduler_name is stabilityai/stable"),
        ({"text_encoder_name": "bert-base-uncased"}, "text_encoder_name is bert-base-uncased, which is no T5"),
        ({"unet_model_name": "stabilityai/stable-diffusion-2-1"}, "unet_model_name is set"),
    ],
)
def test_settings_of_another_model_are_refused(published, tmp_path, changed, message):
    file = published / "main_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(BlendbenchError, match=message):
        convert_published(published, tmp_path / "made", sizes=TINY)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("main", lambda state: state.pop("unet.conv_in.bias"), r"no unet of this size \(conv_in\.bias is missing\)"),
        ("main", lambda state: state.update({"unet.x": torch.ones(1)}), r"no unet of this size \(x is unknown\)"),
        ("main", lambda state: state.update({"group_in.0.weight": torch.ones(1)}), r"group_in\.0\.weight, which TANGO"),
        ("vae", lambda state: state.pop("encoder.mid.attn_1.q.bias"), r"no vae of this size \(encoder\.mid_block"),
        ("vae", lambda state: state.update({"loss.logvar": torch.ones(1)}), "1 weights that no such autoencoder has"),
        ("vae", lambda state: state.pop("vocoder.ups.1.weight"), r"no vocoder .* \(upsampler\.1\.weight is missing\)"),
        ("vae", lambda state: state.clear(), "holds no"),
        ("stft", lambda state: state["mel_basis"].mul_(2), "mel_basis is not that of TANGO's front end"),
        ("stft", lambda state: state.clear(), "mel_basis is not that of TANGO's front end"),
    ],
)
def test_weights_of_another_model_are_refused(published, tmp_path, file, change, message):
    place = published / f"pytorch_model_{file}.bin"
    state = torch.load(place, weights_only=True)
    change(state)
    torch.save(state, place)
    with pytest.raises(BlendbenchError, match=message) as refused:
        convert_published(published, tmp_path / "made", sizes=TINY)
    assert place.name in str(refused.value) and "\n" not in str(refused.value)


def test_another_size_is_refused(published, tmp_path):
    with pytest.raises(BlendbenchError, match=r"pytorch_model_vae\.bin: holds no vae of this size \(.* and \d+ more\)"):
        convert_published(published, tmp_path / "made")


@pytest.mark.soak
def test_a_unet_of_the_published_size_runs():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = build("unet", PUBLISHED["unet"]).eval()
    mask = torch.tensor([[True, True, True, False]])
    with torch.inference_mode():
        states = noise(1, 4, 1024)
        made = unet(noise(1, 8, 256, 16), 500, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        states[:, 3] += 1
        again = unet(noise(1, 8, 256, 16), 500, encoder_hidden_states=states, encoder_attention_mask=mask).sample
    assert made.shape == (1, 8, 256, 16) and bool(torch.isfinite(made).all()) and torch.equal(made, again)
