"""Sampling: equality with diffusers' pipelines, independence of the batch, what masks keep, and what is refused.

The model has Stable Diffusion's architecture with random weights. Images are 64 x 32 pixels, so that a swap of height
and width shows.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from support.tiny_models import CONTEXT, SCHEDULER, tiny_diffusion

from blendbench.composing import compose
from blendbench.errors import BlendbenchError
from blendbench.models import stable_diffusion
from blendbench.models.latent_diffusion import (
    LatentDiffusion,
    decode_latents,
    encode_images,
    encode_prompts,
    make_scheduler,
)
from blendbench.models.sampling import Sampling, image_to_image, masked_repaint, text_to_image

HEIGHT, WIDTH = 64, 32
PROMPTS = ["a piano", "on heavy drums", "an old flute"]
SEEDS = [7, 8, 9]
SCHEDULER_CLASSES = {
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
ZERO_SNR: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatentDiffusion]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return {
        "epsilon": tiny_diffusion(folder),
        "v_prediction": tiny_diffusion(folder, prediction_type="v_prediction"),
        "zero_snr": tiny_diffusion(folder, **ZERO_SNR),
    }


@pytest.fixture
def model(models: dict[str, LatentDiffusion]) -> LatentDiffusion:
    return models["epsilon"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    coarse = torch.rand(3, 3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    """A different block in each image; edges off the grid of 8, so that the way of reducing it matters."""
    masks = torch.zeros(3, 1, HEIGHT, WIDTH)
    masks[0, :, 11:40, 5:20] = 1
    masks[1, :, 30:, :13] = 1
    masks[2, :, :23, 9:] = 1
    return masks


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS[:count]]


def reference(pipeline_class: type, model: LatentDiffusion, scheduler: str, **call) -> torch.Tensor:
    """The pipeline's images in -1..1, from a scheduler made by diffusers alone."""
    scheduler_class = SCHEDULER_CLASSES[scheduler]
    extra = {"skip_prk_steps": True} if scheduler == "pndm" else {}
    pipeline = pipeline_class(
        unet=model.unet,
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=scheduler_class.from_config(dict(model.scheduler_config), **extra),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(output_type="pt", **call).images * 2 - 1


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == theirs.shape
    assert ours.std() > 0.1  # a flat image would agree with anything
    assert (ours - theirs).abs().max() < tolerance


# Each row varies several settings at once; each scheduler meets both prediction types, batches and guidances.
BATCH_AND_GUIDANCE = pytest.mark.parametrize(
    ("prediction", "count", "guidance"), [("epsilon", 3, 7.5), ("v_prediction", 1, 1.0)]
)
ALL_SCHEDULERS = pytest.mark.parametrize("scheduler", SCHEDULER_CLASSES)
STRENGTHS = pytest.mark.parametrize("strength", [1.0, 0.55])


@ALL_SCHEDULERS
@pytest.mark.parametrize(
    ("prediction", "count", "guidance"),
    [("epsilon", 3, 7.5), ("epsilon", 1, 1.0), ("v_prediction", 1, 7.5)],
)
def test_text_to_image_equals_diffusers_pipeline(models, scheduler, prediction, count, guidance):
    model = models[prediction]
    settings = Sampling(steps=6, guidance_scale=guidance, scheduler=scheduler)
    ours = text_to_image(model, PROMPTS[:count], SEEDS[:count], settings, HEIGHT, WIDTH)
    theirs = reference(
        StableDiffusionPipeline,
        model,
        scheduler,
        prompt=PROMPTS[:count],
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=generators(count),
    )
    assert_same(ours, theirs)


@ALL_SCHEDULERS
@STRENGTHS
@BATCH_AND_GUIDANCE
def test_image_to_image_equals_diffusers_pipeline(models, images, scheduler, strength, prediction, count, guidance):
    model = models[prediction]
    settings = Sampling(steps=6, guidance_scale=guidance, strength=strength, scheduler=scheduler)
    ours = image_to_image(model, images[:count], PROMPTS[:count], SEEDS[:count], settings)
    theirs = reference(
        StableDiffusionImg2ImgPipeline,
        model,
        scheduler,
        prompt=PROMPTS[:count],
        image=images[:count] / 2 + 0.5,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=generators(count),
    )
    assert_same(ours, theirs)


def inpainted(model, images, masks, scheduler, settings: Sampling, prompts=PROMPTS, seeds=SEEDS) -> torch.Tensor:
    count = len(images)
    return reference(
        StableDiffusionInpaintPipeline,
        model,
        scheduler,
        prompt=prompts[:count],
        image=images / 2 + 0.5,
        mask_image=masks,
        height=HEIGHT,
        width=WIDTH,
        strength=settings.strength,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        eta=settings.eta,
        negative_prompt=[settings.negative_prompt] * count,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds[:count]],
    )


@ALL_SCHEDULERS
@STRENGTHS
@BATCH_AND_GUIDANCE
def test_masked_repaint_equals_diffusers_pipeline(
    models, images, masks, scheduler, strength, prediction, count, guidance
):
    model, images, masks = models[prediction], images[:count], masks[:count]
    settings = Sampling(steps=6, guidance_scale=guidance, strength=strength, scheduler=scheduler)
    ours = masked_repaint(model, images, masks, PROMPTS[:count], SEEDS[:count], settings)
    assert_same(ours, inpainted(model, images, masks, scheduler, settings))


def preset(generator: str, use: str) -> Sampling:
    settings = compose([f"generator={generator}"])["generator"]["sampling"][use]
    return Sampling(**settings)


@pytest.fixture
def riffusion(models: dict[str, LatentDiffusion]) -> LatentDiffusion:
    """The tiny model with the scheduler config that Riffusion's checkpoint has."""
    parts = models["epsilon"]
    return LatentDiffusion(parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, stable_diffusion.SCHEDULER)


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", ["riffusion", "riffusion_hobby"])
def test_riffusions_presets_equal_diffusers_pipelines(riffusion, images, masks, name, count):
    repaint, page = preset(name, "repaint"), preset(name, "image_to_image")
    assert repaint.scheduler == "default"
    images, masks = images[[0, 1, 2, 0]][:count], masks[[0, 1, 2, 1]][:count]
    prompts, seeds = [*PROMPTS, "a horn"][:count], [*SEEDS, 10][:count]
    ours = masked_repaint(riffusion, images, masks, prompts, seeds, repaint)
    assert_same(ours, inpainted(riffusion, images, masks, "pndm", repaint, prompts, seeds))
    ours = image_to_image(riffusion, images, prompts, seeds, page)
    theirs = reference(
        StableDiffusionImg2ImgPipeline,
        riffusion,
        page.scheduler,
        prompt=prompts,
        image=images / 2 + 0.5,
        strength=page.strength,
        num_inference_steps=page.steps,
        guidance_scale=page.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    assert_same(ours, theirs)


def test_stochastic_ddim_and_negative_prompt_equal_diffusers_pipeline(model, images, masks):
    settings = Sampling(steps=4, scheduler="ddim", eta=0.8, negative_prompt="no voice")
    ours = masked_repaint(model, images, masks, PROMPTS, SEEDS, settings)
    assert_same(ours, inpainted(model, images, masks, "ddim", settings))


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "unipc", "euler"])
def test_zero_terminal_snr_follows_the_checkpoint(models, images, masks, scheduler):
    model = models["zero_snr"]
    assert make_scheduler(scheduler, model.scheduler_config).config.rescale_betas_zero_snr
    settings = Sampling(steps=4, guidance_scale=3.0, scheduler=scheduler)
    ours = masked_repaint(model, images[:1], masks[:1], PROMPTS[:1], SEEDS[:1], settings)
    assert_same(ours, inpainted(model, images[:1], masks[:1], scheduler, settings))


def test_every_setting_changes_the_image(models):
    """Otherwise the equalities above would prove little."""
    base_settings: dict[str, Any] = {"steps": 4, "scheduler": "ddim"}

    def image(prediction: str = "epsilon", prompt: str = PROMPTS[0], seed: int = 1, **settings) -> torch.Tensor:
        sampling = Sampling(**(base_settings | settings))
        return text_to_image(models[prediction], [prompt], [seed], sampling, HEIGHT, WIDTH)

    base = image()
    changed = {
        "seed": image(seed=2),
        "prompt": image(prompt=PROMPTS[1]),
        "prediction": image(prediction="v_prediction"),
        "guidance": image(guidance_scale=1.0),
        "steps": image(steps=3),
        "eta": image(eta=1.0),
        "negative prompt": image(negative_prompt="no voice"),
    } | {name: image(scheduler=name) for name in SCHEDULER_CLASSES if name != "ddim"}
    for name, other in changed.items():
        assert (other - base).abs().max() > 3e-3, name
    torch.testing.assert_close(image(scheduler="default"), base)  # the checkpoint's own class is DDIM


@pytest.mark.parametrize("scheduler", ["pndm", "dpmsolver++"])
def test_an_item_does_not_depend_on_its_batch(model, images, masks, scheduler):
    settings = Sampling(steps=4, strength=0.75, scheduler=scheduler)

    def run(rows: list[int]) -> list[torch.Tensor]:
        prompts, seeds = [PROMPTS[row] for row in rows], [SEEDS[row] for row in rows]
        return [
            text_to_image(model, prompts, seeds, settings, HEIGHT, WIDTH),
            image_to_image(model, images[rows], prompts, seeds, settings),
            masked_repaint(model, images[rows], masks[rows], prompts, seeds, settings),
        ]

    together = run([0, 1, 2])
    for row in (0, 2):
        for batch, alone in zip(together, run([row]), strict=True):
            torch.testing.assert_close(batch[row], alone[0], rtol=0, atol=1e-5)


def test_two_calls_in_a_row_give_the_same_image(model):
    settings = Sampling(steps=4, scheduler="unipc")
    first, second = (text_to_image(model, PROMPTS, SEEDS, settings, HEIGHT, WIDTH) for _ in range(2))
    assert torch.equal(first, second)


def test_empty_mask_keeps_the_image_but_for_the_autoencoder(model, images, masks):
    kept = masked_repaint(model, images, torch.zeros_like(masks), PROMPTS, SEEDS, Sampling(steps=4))
    torch.testing.assert_close(kept, decode_latents(model, encode_images(model, images, SEEDS)), rtol=0, atol=1e-5)


def test_full_mask_at_full_strength_is_text_to_image(model, images, masks):
    settings = Sampling(steps=4)
    repainted = masked_repaint(model, images, torch.ones_like(masks), PROMPTS, SEEDS, settings)
    advanced = generators(3)
    encode_images(model, images, advanced)  # repainting draws the image's latents before the noise
    painted = text_to_image(model, PROMPTS, advanced, settings, HEIGHT, WIDTH)
    torch.testing.assert_close(repainted, painted, rtol=0, atol=1e-5)


def test_latent_masks_take_the_place_of_the_nearest_reduction(model, images):
    image, settings = images[:1], Sampling(steps=4)
    one_pixel = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    one_pixel[..., 20, 13] = True
    kept = decode_latents(model, encode_images(model, image, SEEDS[:1]))

    def repaint(latent_masks: torch.Tensor | None) -> torch.Tensor:
        return masked_repaint(model, image, one_pixel, PROMPTS[:1], SEEDS[:1], settings, latent_masks)

    torch.testing.assert_close(repaint(None), kept, rtol=0, atol=1e-5)  # nearest looks at pixel (16, 8) alone
    largest = torch.nn.functional.max_pool2d(one_pixel.float(), 8)
    assert largest.sum() == 1
    assert (repaint(largest) - kept).abs().max() > 0.05
    torch.testing.assert_close(
        repaint(torch.ones_like(largest)),
        masked_repaint(model, image, torch.ones(1, 1, HEIGHT, WIDTH), PROMPTS[:1], SEEDS[:1], settings),
    )


def test_posterior_mode_needs_no_seed_and_differs_from_a_sample(model, images):
    mode = encode_images(model, images, sample=False)
    assert mode.shape == (3, 4, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(mode, encode_images(model, images, sample=False))
    assert not torch.allclose(mode, encode_images(model, images, SEEDS))


def test_decoded_images_are_clamped(model):
    decoded = decode_latents(model, 50 * torch.randn(1, 4, 8, 4, generator=torch.Generator().manual_seed(0)))
    assert decoded.max() == 1
    assert decoded.min() >= -1


def test_size_defaults_to_what_the_unet_was_trained_for(model):
    assert text_to_image(model, PROMPTS[:1], [0], Sampling(steps=1)).shape == (1, 3, 64, 64)


def test_each_distinct_prompt_is_encoded_once(model):
    rows: list[int] = []
    hook = model.text_encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output[0])))
    conditional, unconditional = encode_prompts(model, ["a piano", "an old flute", "a piano"], "")
    hook.remove()
    assert unconditional is not None
    assert rows == [1, 1, 1]  # two prompts and the empty one
    assert conditional.shape == unconditional.shape == (3, CONTEXT, 16)
    assert torch.equal(conditional[0], conditional[2])
    assert not torch.allclose(conditional[0], conditional[1])
    alone, none = encode_prompts(model, ["an old flute"], None)
    assert none is None
    torch.testing.assert_close(alone[0], conditional[1])


def test_a_prompt_beyond_the_context_is_cut_with_a_warning(model, caplog):
    long = "x " * (CONTEXT + 5)
    with caplog.at_level("WARNING", logger="blendbench.models.latent_diffusion"):
        cut, _ = encode_prompts(model, [long], None)
        fitting, _ = encode_prompts(model, ["x " * (CONTEXT - 2)], None)
    assert [record.name for record in caplog.records] == ["blendbench.models.latent_diffusion"]
    assert str(CONTEXT) in caplog.text
    torch.testing.assert_close(cut, fitting)


def test_progress_counts_the_steps_that_are_run(model, images):
    calls: list[tuple[int, int]] = []
    settings = Sampling(steps=10, strength=0.4)
    image_to_image(model, images[:1], PROMPTS[:1], [0], settings, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_scheduler_gets_the_settings_of_stable_diffusion_whatever_the_config():
    old = dict(PNDMScheduler().config)
    assert not old["skip_prk_steps"]
    pndm = make_scheduler("pndm", old).config
    assert (pndm.skip_prk_steps, pndm.steps_offset) == (True, 1)
    assert not make_scheduler("ddim", dict(DDIMScheduler().config)).config.clip_sample
    stochastic = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}
    assert make_scheduler("dpmsolver++", stochastic).config.algorithm_type == "dpmsolver++"
    assert make_scheduler("default", stochastic).config.algorithm_type == "sde-dpmsolver++"


# Saving and loading


@pytest.fixture(scope="module")
def saved(models: dict[str, LatentDiffusion], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    models["v_prediction"].save(folder)
    return folder


def test_saved_model_loads_and_makes_the_same_images(models, saved):
    settings = Sampling(steps=3)
    expected = text_to_image(models["v_prediction"], PROMPTS, SEEDS, settings, HEIGHT, WIDTH)
    loaded = LatentDiffusion.load(saved)
    torch.testing.assert_close(text_to_image(loaded, PROMPTS, SEEDS, settings, HEIGHT, WIDTH), expected)
    pipeline = StableDiffusionPipeline.from_pretrained(saved)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert not list(saved.rglob("*.bin"))


def test_a_seed_means_the_same_noise_in_half_precision(models, saved):
    half = LatentDiffusion.load(saved, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    settings = Sampling(steps=3, guidance_scale=3.0)
    image = text_to_image(half, PROMPTS[:1], SEEDS[:1], settings, HEIGHT, WIDTH)
    exact = text_to_image(models["v_prediction"], PROMPTS[:1], SEEDS[:1], settings, HEIGHT, WIDTH)
    assert image.dtype == torch.float32
    assert torch.corrcoef(torch.stack([image.flatten(), exact.flatten()]))[0, 1] > 0.99


def test_weights_under_the_names_of_stable_diffusion_1_load(saved, tmp_path, models):
    """Published checkpoints keep older names of the text encoder's and the autoencoder's weights."""
    folder = shutil.copytree(saved, tmp_path / "old")
    text = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(text).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    save_file(weights, text, metadata={"format": "pt"})
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(vae)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {name.replace(f"attentions.0.{new}", f"attentions.0.{old}"): v for name, v in weights.items()}
    save_file(weights, vae, metadata={"format": "pt"})

    settings = Sampling(steps=2)
    expected = text_to_image(models["v_prediction"], PROMPTS, SEEDS, settings, HEIGHT, WIDTH)
    torch.testing.assert_close(
        text_to_image(LatentDiffusion.load(folder), PROMPTS, SEEDS, settings, HEIGHT, WIDTH), expected
    )


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickle_instead_of_safetensors(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def cut_weights_short(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def drop_a_weight(name: str, file: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        weights = load_file(folder / name / file)
        del weights[sorted(weights)[-1]]
        save_file(weights, folder / name / file, metadata={"format": "pt"})

    return drop


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove("unet/config.json"), "unet/config.json"),
        (remove("scheduler/scheduler_config.json"), "scheduler/scheduler_config.json"),
        (remove("tokenizer/tokenizer.json"), "tokenizer/"),
        (remove("text_encoder/model.safetensors"), "text_encoder/"),
        (pickle_instead_of_safetensors, "vae/"),
        (cut_weights_short, "unet/"),
        (drop_a_weight("unet", "diffusion_pytorch_model.safetensors"), "unet/ lacks 1 weights"),
        (drop_a_weight("text_encoder", "model.safetensors"), "text_encoder/ lacks 1 weights"),
    ],
)
def test_damaged_checkpoint_is_refused_in_one_line_that_names_the_part(saved, tmp_path, damage, named):
    folder = shutil.copytree(saved, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(BlendbenchError) as error:
        LatentDiffusion.load(folder)
    assert named in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["no-such-folder", "/no/such/folder", "nobody/no-such-checkpoint"])
def test_missing_checkpoint_is_refused_in_one_line(source):
    with pytest.raises(BlendbenchError, match=source) as error:
        LatentDiffusion.load(source)
    assert "\n" not in str(error.value)


def test_parts_of_different_checkpoints_are_refused(model, tmp_path):
    other = tiny_diffusion(tmp_path)
    other.unet.register_to_config(in_channels=9)
    with pytest.raises(BlendbenchError, match="in_channels is 9"):
        LatentDiffusion(other.unet, model.vae, model.text_encoder, model.tokenizer, SCHEDULER)
    other.unet.register_to_config(in_channels=4, cross_attention_dim=768)
    with pytest.raises(BlendbenchError, match="cross_attention_dim is 768"):
        LatentDiffusion(other.unet, model.vae, model.text_encoder, model.tokenizer, SCHEDULER)


# Malformed input


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"strength": 1.01}, "strength is 1.01"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"scheduler": "heun?"}, "scheduler 'heun\\?' is unknown"),
    ],
)
def test_setting_out_of_range_is_refused_by_its_name(settings, named):
    with pytest.raises(BlendbenchError, match=named):
        Sampling(**settings)


def test_settings_that_the_scheduler_cannot_follow_are_refused(models, images):
    model = models["epsilon"]
    with pytest.raises(BlendbenchError, match=r"eta is 0.5 but UniPCMultistepScheduler"):
        text_to_image(model, ["x"], [0], Sampling(steps=2, scheduler="unipc", eta=0.5))
    with pytest.raises(BlendbenchError, match="steps is 1001"):
        text_to_image(model, ["x"], [0], Sampling(steps=1001))
    with pytest.raises(BlendbenchError, match=r"strength 0.1 of 5 steps leaves none"):
        image_to_image(model, images[:1], ["x"], [0], Sampling(steps=5, strength=0.1))
    with pytest.raises(BlendbenchError, match=r"'pndm' cannot follow .* zero-terminal-SNR .* ddim"):
        text_to_image(models["zero_snr"], ["x"], [0], Sampling(steps=2, scheduler="pndm"))
    with pytest.raises(BlendbenchError, match="_class_name 'AutoencoderKL' is no scheduler"):
        make_scheduler("default", {"_class_name": "AutoencoderKL"})
    with pytest.raises(BlendbenchError, match="scheduler 'none' is unknown"):
        make_scheduler("none", SCHEDULER)


def test_unequal_lengths_are_refused(model, images, masks):
    settings = Sampling(steps=2)
    with pytest.raises(BlendbenchError, match="seeds: 2 given for 3 prompts"):
        text_to_image(model, PROMPTS, SEEDS[:2], settings)
    with pytest.raises(BlendbenchError, match="prompts: none given"):
        text_to_image(model, [], [], settings)
    with pytest.raises(BlendbenchError, match="prompts: 2 given for 3 images"):
        image_to_image(model, images, PROMPTS[:2], SEEDS[:2], settings)
    with pytest.raises(BlendbenchError, match="prompts: 1 given for 3 images"):
        masked_repaint(model, images, masks, PROMPTS[:1], SEEDS[:1], settings)
    with pytest.raises(BlendbenchError, match="seeds: 0 given for 3 images"):
        encode_images(model, images)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda images: images[:, :1], r"images: torch.float32 of shape \(3, 1, 64, 32\)"),
        (lambda images: images[0], "images: "),
        (lambda images: (images * 127 + 128).to(torch.uint8), "images: torch.uint8"),
        (lambda images: images[..., :30], "64 x 30 pixels; height and width must be positive multiples of 8"),
        (lambda images: images[..., :0], "64 x 0 pixels"),
        (lambda images: images * 127, "images: values are not all within -1..1"),
        (lambda images: images * float("nan"), "images: values are not all within -1..1"),
    ],
)
def test_malformed_images_are_refused(model, images, change, named):
    changed = change(images)
    count = len(changed)
    with pytest.raises(BlendbenchError, match=named):
        image_to_image(model, changed, PROMPTS[:count], SEEDS[:count], Sampling(steps=2))


def test_malformed_masks_and_sizes_are_refused(model, images, masks):
    def repaint(masks: torch.Tensor, latent_masks: torch.Tensor | None = None) -> torch.Tensor:
        return masked_repaint(model, images, masks, PROMPTS, SEEDS, Sampling(steps=2), latent_masks)

    with pytest.raises(BlendbenchError, match=r"^masks: shape is \(3, 64, 32\)"):
        repaint(masks[:, 0])
    with pytest.raises(BlendbenchError, match=r"^masks: shape is \(2, 1, 64, 32\)"):
        repaint(masks[:2])
    with pytest.raises(BlendbenchError, match=r"^masks: values"):
        repaint(masks * 255)
    with pytest.raises(BlendbenchError, match=r"^latent_masks: shape is \(3, 1, 64, 32\); give \(3, 1, 8, 4\)"):
        repaint(masks, masks)
    with pytest.raises(BlendbenchError, match=r"^latent_masks: values"):
        repaint(masks, torch.full((3, 1, 8, 4), -1.0))
    with pytest.raises(BlendbenchError, match="image size is 60 x 32"):
        text_to_image(model, ["x"], [0], Sampling(steps=2), 60, 32)
