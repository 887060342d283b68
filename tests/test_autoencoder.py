"""The patch autoencoder: its linear start, its shapes, and diffusers' pipelines running with it."""

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from support.tiny_models import tiny_diffusion

from blendbench.models import sampling
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.latent_diffusion import LatentDiffusion, encode_images
from blendbench.models.sampling import Sampling


def grey(count, height, width, seed=0):
    """Smooth random images, the same in three channels."""
    coarse = torch.rand(count, 1, height // 8, width // 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return images.expand(-1, 3, -1, -1).contiguous()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = PatchAutoencoder(latent_channels=16, width=16, encoder_blocks=1, decoder_blocks=1).eval()
    model.start_from_patches(grey(8, 128, 128))
    return model


def test_it_starts_as_the_best_linear_code_of_patches(model):
    images = grey(8, 128, 128)
    with torch.inference_mode():
        error = (model.to_images(model.to_latents(images)) - images)[:, 0].square().sum()
    patches = images[:, 0].unfold(1, 8, 8).unfold(2, 8, 8).reshape(-1, 64).double()
    left_out = torch.linalg.svdvals(patches - patches.mean(0))[16:].square().sum()
    assert float(error) == pytest.approx(float(left_out), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_sets_the_spread_of_the_latents_and_not_the_images(model, whitening):
    other = PatchAutoencoder(latent_channels=16, width=16, encoder_blocks=1, decoder_blocks=1).eval()
    images = grey(8, 128, 128)
    other.start_from_patches(images, whitening)
    with torch.inference_mode():
        latents = other.to_latents(images)
        torch.testing.assert_close(
            other.to_images(latents), model.to_images(model.to_latents(images)), atol=1e-3, rtol=0
        )
    spread = latents.movedim(1, -1).reshape(-1, 16).std(0)
    ratio = float(spread[0] / spread[7])
    plain = PatchAutoencoder(latent_channels=16, width=16, encoder_blocks=1, decoder_blocks=1).eval()
    plain.start_from_patches(images, 0.0)
    with torch.inference_mode():
        full = plain.to_latents(images).movedim(1, -1).reshape(-1, 16).std(0)
    assert ratio == pytest.approx(float(full[0] / full[7]) ** (1 - whitening), rel=0.05)


def test_images_of_any_multiple_of_the_patch_come_back_in_their_size(model):
    with torch.inference_mode():
        assert model.to_latents(grey(2, 64, 24)).shape == (2, 16, 8, 3)
        assert model.decode(torch.zeros(1, 16, 8, 3)).sample.shape == (1, 3, 64, 24)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.to_latents(torch.zeros(1, 3, 60, 64))


def test_it_comes_back_from_disk(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    with torch.inference_mode():
        assert torch.equal(again.to_latents(grey(1, 64, 64)), model.to_latents(grey(1, 64, 64)))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A small latent diffusion model with a patch autoencoder."""
    made = tiny_diffusion(tmp_path_factory.mktemp("tokenizer"))
    torch.manual_seed(1)
    vae = PatchAutoencoder(latent_channels=4, width=8, encoder_blocks=1, decoder_blocks=1, scaling_factor=0.7)
    vae.start_from_patches(grey(8, 64, 64))
    return LatentDiffusion(made.unet, vae, made.text_encoder, made.tokenizer, made.scheduler_config)


def test_its_draw_from_the_posterior_is_its_mode(parts):
    images = grey(2, 64, 64)
    drawn, mode = encode_images(parts, images, [1, 2]), encode_images(parts, images, sample=False)
    torch.testing.assert_close(drawn, mode, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["text", "image", "mask"])
def test_diffusers_pipelines_run_with_it_and_agree(parts, kind, tmp_path):
    parts.save(tmp_path)
    loaded = LatentDiffusion.load(tmp_path)
    assert isinstance(loaded.vae, PatchAutoencoder)
    images = grey(1, 64, 64)
    masks = (torch.arange(64) < 32).float().expand(1, 1, 64, 64)
    shared = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}
    shared["generator"] = torch.Generator().manual_seed(5)
    settings = Sampling(steps=4, guidance_scale=3.0, strength=0.75 if kind == "image" else 1.0)
    if kind == "text":
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
        theirs = pipeline("a b", height=64, width=64, **shared).images
        ours = sampling.text_to_image(loaded, ["a b"], [5], settings, 64, 64)
    elif kind == "image":
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path, safety_checker=None)
        theirs = pipeline("a b", image=images, strength=0.75, **shared).images
        ours = sampling.image_to_image(loaded, images, ["a b"], [5], settings)
    else:
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path, safety_checker=None)
        theirs = pipeline(
            "a b", image=images, mask_image=masks, height=64, width=64, strength=1.0, **shared
        ).images  # fmt: skip
        ours = sampling.masked_repaint(loaded, images, masks, ["a b"], [5], settings)
    torch.testing.assert_close((ours + 1) / 2, theirs, atol=1e-4, rtol=0)
