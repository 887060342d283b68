"""Riff-P2P's network: widened without a change, guided by the formula, kept as a small adapter."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from support.tiny_models import tiny_diffusion

from blendbench.errors import BlendbenchError
from blendbench.models import lora, pix2pix
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, encode_images, encode_prompts
from blendbench.models.pix2pix import Pix2PixCheckpoint, edited, widen
from blendbench.models.sampling import Sampling, prompted, text_to_image
from blendbench.models.stable_diffusion import UNET

PROMPTS = ["a piano", "on heavy drums"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tmp_path_factory.mktemp("tokenizer"))


def editor_of(model: LatentDiffusion, trained: bool) -> LatentDiffusion:
    """The model, widened; `trained` where the new channels have learned something."""
    unet = deepcopy(model.unet)
    widen(unet)
    if trained:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(6)
            unet.conv_in.weight[:, 4:].normal_(std=0.2)
    return LatentDiffusion(
        unet, model.vae, model.text_encoder, model.tokenizer, model.scheduler_config, extra_channels=4
    )


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_widened_it_is_the_base_for_any_image(model):
    wide, settings = editor_of(model, trained=False), Sampling(steps=2, guidance_scale=1.0)
    latents, time = torch.randn(2, 4, 8, 8), torch.tensor(500)
    plain = prompted(model, PROMPTS, settings)(latents, time)
    told = edited(wide, PROMPTS, images(), settings, 1.0)(latents, time)
    # With s_I = s_T = 1 the formula is e(T, I), and zero weights add nothing to any sum.
    assert torch.allclose(told, plain, atol=1e-6)
    assert torch.equal(wide.unet.conv_in.bias, model.unet.conv_in.bias)


@pytest.mark.parametrize(("text_scale", "image_scale"), [(3.0, 1.5), (1.0, 0.5), (0.0, 2.0), (1.0, 1.0)])
def test_guidance_is_the_formula_at_every_scale(model, text_scale, image_scale):
    wide, given = editor_of(model, trained=True), images()
    latents, time = torch.randn(2, 4, 8, 8), torch.tensor(500)
    text, empty = encode_prompts(wide, PROMPTS)

    def predicted(words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return wide.unet(torch.cat([latents, image], 1), time, encoder_hidden_states=words).sample

    neither, image, both = predicted(empty, 0 * given), predicted(empty, given), predicted(text, given)
    wanted = neither + image_scale * (image - neither) + text_scale * (both - image)
    settings = Sampling(steps=2, guidance_scale=text_scale)
    assert torch.allclose(edited(wide, PROMPTS, given, settings, image_scale)(latents, time), wanted, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_sampling_equals_diffusers_pipeline(model, batch):
    wide = editor_of(model, trained=True)
    settings = Sampling(steps=4, guidance_scale=3.0, scheduler="ddim")
    prompts = (PROMPTS * 2)[:batch]
    pixels = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = encode_images(wide, pixels, sample=False) / wide.vae.config.scaling_factor
    denoiser = edited(wide, prompts, latents, settings, 1.5)
    ours = text_to_image(wide, prompts, list(range(batch)), settings, 64, 64, denoiser=denoiser)
    from blendbench.models.latent_diffusion import make_scheduler

    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=wide.vae, text_encoder=wide.text_encoder, tokenizer=wide.tokenizer, unet=wide.unet,
        scheduler=make_scheduler("ddim", wide.scheduler_config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    theirs = pipeline(
        prompts, image=pixels, num_inference_steps=4, guidance_scale=3.0, image_guidance_scale=1.5,
        generator=generators, output_type="pt",
    ).images  # fmt: skip
    assert float((ours - (2 * theirs - 1)).abs().max()) < 1e-4


def test_an_adapter_on_disk_is_the_trained_one(tmp_path):
    generator = Generator("pocket", "pocket")
    base = generator.get("cpu")
    unet = deepcopy(base.unet)
    widen(unet)
    parts = lora.attach(unet, 4, 0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        unet.conv_in.weight[:, 16:].normal_(std=0.05)
        for part in parts.values():
            part.up.normal_(std=0.02)
    pix2pix.save(parts, unet, tmp_path / pix2pix.FILE)
    checkpoint = Pix2PixCheckpoint("method.checkpoint", str(tmp_path))
    loaded = checkpoint.of(generator, "cpu")
    sample, text = torch.randn(1, 32, 8, 16), torch.randn(1, 4, 160)
    with torch.inference_mode():
        wanted = unet(sample, 500, text).sample
        made = loaded.unet(sample, 500, text).sample
    assert float((made - wanted).abs().max()) < 0.01 * float(wanted.abs().max())  # half precision on disk
    assert base.unet.config.in_channels == 16 and loaded.extra_channels == 16  # the generator is as it was
    assert checkpoint.signature()["pix2pix"] == Pix2PixCheckpoint("method.checkpoint", str(tmp_path)).fingerprint


def test_a_torn_adapter_is_refused(tmp_path):
    (tmp_path / pix2pix.FILE).write_bytes(bytes(range(128, 192)))
    with pytest.raises(BlendbenchError, match=r"adapter\.safetensors: no adapter of this generator's"):
        Pix2PixCheckpoint("method.checkpoint", str(tmp_path)).of(Generator("pocket", "pocket"), "cpu")
    with pytest.raises(BlendbenchError, match=r"no checkpoint \(model_index\.json\) there"):
        Pix2PixCheckpoint("method.checkpoint", str(tmp_path / "none")).of(Generator("pocket", "pocket"), "cpu")


def test_a_whole_checkpoint_in_diffusers_layout_is_one_of_its_own(model, tmp_path: Path):
    editor_of(model, trained=True).save(tmp_path / "whole")
    loaded = Pix2PixCheckpoint("method.checkpoint", str(tmp_path / "whole")).of(Generator("pocket", "pocket"), "cpu")
    assert loaded.unet.config.in_channels == 8 and loaded.vae.config.latent_channels == 4
    model.save(tmp_path / "plain")
    with pytest.raises(BlendbenchError, match="in_channels is 4 but the vae has 4 latent channels and 4 more"):
        Pix2PixCheckpoint("method.checkpoint", str(tmp_path / "plain")).of(Generator("pocket", "pocket"), "cpu")


@pytest.mark.soak
def test_at_the_published_size_it_is_built_and_takes_a_step():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{name: value for name, value in UNET.items() if name[0] != "_"})
    unet = unet.to_empty(device="cpu")
    with torch.no_grad():
        for value in unet.parameters():
            value.normal_(std=0.01)
    widen(unet)
    assert sum(value.numel() for value in unet.parameters()) == 859_532_484
    out = unet(torch.randn(1, 8, 8, 8), 500, torch.randn(1, 77, 768)).sample
    out.square().mean().backward()
    assert out.shape == (1, 4, 8, 8) and bool(unet.conv_in.weight.grad[:, 4:].any())
