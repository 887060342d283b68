"""What wraps a denoiser, held against a plain loop or a closed form, and diffusers' pipeline where there is one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from support.tiny_models import SCHEDULER, tiny_diffusion

from blendbench.errors import BlendbenchError
from blendbench.models.denoisers import (
    Denoiser,
    by_parts,
    conditioned,
    doubly_guided,
    guided,
    noise_level,
    posterior_guided,
    repainted,
    unet_network,
    with_control,
)
from blendbench.models.latent_diffusion import LatentDiffusion, decode_latents, encode_prompts, make_scheduler
from blendbench.models.sampling import Sampling, image_to_image, masked_repaint, sample, schedule, text_to_image

PROMPTS = ["a piano", "on heavy drums"]
HEIGHT, WIDTH = 64, 32
TIME = torch.tensor(500)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def editor(model: LatentDiffusion) -> LatentDiffusion:
    """A tiny InstructPix2Pix: eight input channels, the latter four for a given image's latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(**{k: v for k, v in model.unet.config.items() if k[0] != "_"} | {"in_channels": 8})
    return LatentDiffusion(
        unet, model.vae, model.text_encoder, model.tokenizer, model.scheduler_config, extra_channels=4
    ).to("cpu")


@pytest.fixture(scope="module")
def controlnet(model: LatentDiffusion) -> ControlNetModel:
    """One whose zero convolutions have learned something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
        for name, value in made.named_parameters():
            if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
                torch.nn.init.normal_(value, std=0.3)
    return made.eval()


@pytest.fixture
def latents() -> torch.Tensor:
    return drawn(2, 4, 8, 4)


@pytest.fixture(scope="module")
def texts(model: LatentDiffusion) -> tuple[torch.Tensor, torch.Tensor]:
    given, without = encode_prompts(model, PROMPTS, "")
    assert without is not None
    return given, without


@pytest.fixture(scope="module")
def image_latents() -> torch.Tensor:
    return drawn(2, 4, 8, 4, seed=5)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert ours.std() > 1e-3  # nothing would agree with anything
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


# The loop


def gaussian(scheduler, mean: float, spread: float, kind: str = "epsilon") -> Denoiser:
    """The exact denoiser of data that are normal with this mean and standard deviation, without a network."""

    def denoise(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha, sigma = noise_level(scheduler.alphas_cumprod, timestep)
        noise = sigma * (latents - alpha * mean) / (alpha**2 * spread**2 + sigma**2)
        return noise if kind == "epsilon" else (noise - sigma * latents) / alpha

    return denoise


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpmsolver++", "unipc", "euler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loop_over_an_exact_denoiser_ends_where_the_flow_does(name, kind):
    """A normal's probability flow keeps the standardised value, whatever the scheduler's own scale of latents."""
    mean, spread = 0.7, 0.3
    scheduler = make_scheduler(name, SCHEDULER | {"prediction_type": kind})
    scheduler.set_timesteps(400)
    start = drawn(2, 4, 8, 4)
    ends = sample(
        gaussian(scheduler, mean, spread, kind), scheduler, scheduler.timesteps, start * scheduler.init_noise_sigma
    )
    alpha, sigma = noise_level(scheduler.alphas_cumprod, scheduler.timesteps[0])
    standardised = (start - alpha * mean) / (alpha**2 * spread**2 + sigma**2) ** 0.5
    assert_close(ends, mean + spread * standardised, 0.03)


def test_loop_is_ddims_formula_step_by_step(model, texts, latents):
    scheduler, timesteps = schedule(model, Sampling(steps=4, scheduler="ddim"))
    denoiser = conditioned(unet_network(model.unet), {"text": texts[0]})
    ours = sample(denoiser, scheduler, timesteps, latents)
    x, kept = latents, scheduler.alphas_cumprod
    with torch.no_grad():
        for t in timesteps:
            noise = model.unet(x, t, encoder_hidden_states=texts[0]).sample
            clean = (x - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()
            reached = kept[t - 250] if t >= 250 else scheduler.final_alpha_cumprod
            x = reached.sqrt() * clean + (1 - reached).sqrt() * noise
    assert_close(ours, x)


def test_level_of_a_time_step_is_the_schedules_and_between_two_lies_between():
    kept = DDIMScheduler(**SCHEDULER).alphas_cumprod
    for place in (0, 1, 500, 999):
        alpha, sigma = noise_level(kept, torch.tensor(place))
        assert alpha**2 == pytest.approx(float(kept[place]))
        assert alpha**2 + sigma**2 == pytest.approx(1)
    between = noise_level(kept, torch.tensor(10.25))[0] ** 2
    assert between == pytest.approx(0.75 * float(kept[10]) + 0.25 * float(kept[11]))
    assert noise_level(kept, torch.tensor(999.4)) == noise_level(kept, torch.tensor(999))


# Guidance


@torch.no_grad()
def test_guidance_is_the_two_predictions_apart(model, texts, latents):
    network = unet_network(model.unet)
    given, without = ({"text": text} for text in texts)
    towards = model.unet(latents, TIME, encoder_hidden_states=texts[0]).sample
    away = model.unet(latents, TIME, encoder_hidden_states=texts[1]).sample
    assert (towards - away).abs().max() > 0.01
    assert_close(guided(network, given, without, 5.0)(latents, TIME), 5 * towards - 4 * away)
    assert_close(guided(network, given, without, 1.0)(latents, TIME), towards)
    assert_close(guided(network, given, without, 0.0)(latents, TIME), away)
    assert_close(conditioned(network, given)(latents, TIME), towards)


@torch.no_grad()
def test_a_batch_in_parts_is_the_batch(model, texts, latents):
    network = unet_network(model.unet)

    def of_items(items: slice) -> Denoiser:
        return guided(network, {"text": texts[0][items]}, {"text": texts[1][items]}, 3.0)

    parts = by_parts(of_items, [slice(0, 1), slice(1, 2)])
    assert_close(parts(latents, TIME), of_items(slice(None))(latents, TIME))


@torch.no_grad()
def test_two_guidances_are_the_three_predictions_apart(editor, texts, latents, image_latents):
    def predicted(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return editor.unet(torch.cat([latents, image], 1), TIME, encoder_hidden_states=text).sample

    nothing = torch.zeros_like(image_latents)
    both, image, neither = (
        predicted(texts[0], image_latents),
        predicted(texts[1], image_latents),
        predicted(texts[1], nothing),
    )
    network = unet_network(editor.unet)
    given, without = {"text": texts[0], "image": image_latents}, {"text": texts[1], "image": nothing}
    expected = neither + 1.5 * (image - neither) + 7.5 * (both - image)
    assert_close(doubly_guided(network, given, without, 7.5, 1.5)(latents, TIME), expected)
    assert_close(doubly_guided(network, given, without, 1.0, 1.0)(latents, TIME), both)
    assert_close(
        doubly_guided(network, given, without, 4.0, 4.0)(latents, TIME),
        guided(network, given, without, 4.0)(latents, TIME),
    )


def test_two_guidances_equal_diffusers_pipeline(editor, texts, image_latents):
    scheduler, timesteps = schedule(editor, Sampling(steps=5, scheduler="ddim"))
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    start = torch.cat([torch.randn(1, 4, 8, 4, generator=generator) for generator in generators])
    denoiser = doubly_guided(
        unet_network(editor.unet),
        {"text": texts[0], "image": image_latents},
        {"text": texts[1], "image": torch.zeros_like(image_latents)},
        text_scale=7.5,
        image_scale=1.5,
    )
    ours = decode_latents(editor, sample(denoiser, scheduler, timesteps, start))
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **parts_of(editor), scheduler=DDIMScheduler.from_config(dict(editor.scheduler_config)), **NO_CHECKER
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=PROMPTS,
        image=image_latents,
        num_inference_steps=5,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        output_type="pt",
    ).images
    assert_close(ours, theirs * 2 - 1, 1e-4)


NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def parts_of(model: LatentDiffusion) -> dict:
    return {
        "unet": model.unet,
        "vae": model.vae,
        "text_encoder": model.text_encoder,
        "tokenizer": model.tokenizer,
    }


def test_two_guidances_without_an_image_are_refused(editor, texts):
    text = {"text": texts[0]}
    with pytest.raises(BlendbenchError, match="no condition 'image'"):
        doubly_guided(unet_network(editor.unet), text, text, 7.5, 1.5)


# ControlNet


@torch.no_grad()
def test_control_adds_the_residuals_to_the_unets_skips(model, controlnet, texts, latents):
    control = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(6))
    down, middle = controlnet(latents, TIME, texts[0], control, return_dict=False)
    expected = model.unet(
        latents,
        TIME,
        encoder_hidden_states=texts[0],
        down_block_additional_residuals=[0.5 * residual for residual in down],
        mid_block_additional_residual=0.5 * middle,
    ).sample
    given = {"text": texts[0], "control": control}
    assert_close(with_control(model.unet, controlnet, 0.5)(latents, TIME, given), expected)
    alone = unet_network(model.unet)(latents, TIME, given)
    assert (expected - alone).abs().max() > 0.01
    assert_close(with_control(model.unet, controlnet, 0.0)(latents, TIME, given), alone)


def test_controlled_and_guided_sampling_equals_diffusers_pipeline(model, controlnet, texts):
    control = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(6))
    scheduler, timesteps = schedule(model, Sampling(steps=5, scheduler="unipc"))
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    start = torch.cat([torch.randn(1, 4, 8, 4, generator=generator) for generator in generators])
    given = {"text": texts[0], "control": control}
    denoiser = guided(with_control(model.unet, controlnet, 0.8), given, {"text": texts[1]}, 6.0)
    ours = decode_latents(model, sample(denoiser, scheduler, timesteps, start))
    pipeline = StableDiffusionControlNetPipeline(
        **parts_of(model),
        controlnet=controlnet,
        scheduler=make_scheduler("unipc", model.scheduler_config),
        **NO_CHECKER,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=PROMPTS,
        image=control,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=5,
        guidance_scale=6.0,
        controlnet_conditioning_scale=0.8,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        output_type="pt",
    ).images
    assert_close(ours, theirs * 2 - 1, 1e-4)


# A likelihood's gradient


def likeness(known: torch.Tensor, spread: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Log likelihood of the upper half of the clean latents being these, up to noise."""
    return lambda clean: -(clean[..., :4, :] - known).square().flatten(1).sum(1) / (2 * spread**2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_posterior_guidance_is_the_closed_form_for_normal_data(kind):
    scheduler = make_scheduler("ddim", SCHEDULER)
    mean, spread, noise = 0.4, 0.8, 0.5
    latents, known = drawn(2, 4, 8, 4), drawn(2, 4, 4, 4, seed=1)
    plain = gaussian(scheduler, mean, spread, kind)
    ours = posterior_guided(plain, likeness(known, noise), scheduler.alphas_cumprod, kind)(latents, TIME)
    # x_0(x_t) is linear with this slope, so the gradient needs no chain rule by machine.
    alpha, sigma = noise_level(scheduler.alphas_cumprod, TIME)
    slope = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
    clean = mean + slope * (latents - alpha * mean)
    gradient = torch.zeros_like(latents)
    gradient[..., :4, :] = slope * (known - clean[..., :4, :]) / noise**2
    expected = sigma * (latents - alpha * mean) / (alpha**2 * spread**2 + sigma**2) - sigma * gradient
    if kind == "v_prediction":
        expected = (expected - sigma * latents) / alpha
    assert_close(ours, expected)


def test_posterior_guidance_goes_through_the_network(model, texts, latents):
    """Against central differences of the log likelihood, along a few directions."""
    kept = make_scheduler("ddim", SCHEDULER).alphas_cumprod
    alpha, sigma = noise_level(kept, TIME)
    plain = guided(unet_network(model.unet), {"text": texts[0]}, {"text": texts[1]}, 3.0)
    log_likelihood = likeness(drawn(2, 4, 4, 4, seed=1), 1.0)

    @torch.no_grad()
    def value(noisy: torch.Tensor) -> float:
        return float(log_likelihood((noisy - sigma * plain(noisy, TIME)) / alpha).double().sum())

    with torch.no_grad():
        gradient = (plain(latents, TIME) - posterior_guided(plain, log_likelihood, kept)(latents, TIME)) / sigma
    assert not gradient.requires_grad
    for seed in range(3):
        direction = drawn(2, 4, 8, 4, seed=10 + seed)
        step = 3e-3
        difference = (value(latents + step * direction) - value(latents - step * direction)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=0.02)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "euler"])
def test_sampling_under_a_likelihood_reaches_what_is_known_and_leaves_the_rest(name):
    mean, spread = 0.4, 0.8
    scheduler = make_scheduler(name, SCHEDULER)
    scheduler.set_timesteps(100)
    start = drawn(2, 4, 8, 4) * scheduler.init_noise_sigma
    known = drawn(2, 4, 4, 4, seed=1)

    plain = gaussian(scheduler, mean, spread)
    free = sample(plain, scheduler, scheduler.timesteps, start)
    scheduler.set_timesteps(100)
    bound = posterior_guided(plain, likeness(known, 0.3), scheduler.alphas_cumprod)
    held = sample(bound, scheduler, scheduler.timesteps, start)
    assert (held - free)[..., 4:, :].abs().max() < 1e-4
    assert (held[..., :4, :] - known).square().mean() < 0.1 * (free[..., :4, :] - known).square().mean()


def test_likelihood_is_not_asked_where_latents_are_noise_alone(latents):
    def refuse(clean: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked")

    kept = torch.tensor([0.9, 0.5, 0.0])
    denoiser = posterior_guided(lambda noisy, timestep: 2 * noisy, refuse, kept, "v_prediction")
    assert torch.equal(denoiser(latents, torch.tensor(2)), 2 * latents)


def test_posterior_guidance_of_another_prediction_is_refused():
    with pytest.raises(BlendbenchError, match="prediction_type 'sample': unknown"):
        posterior_guided(lambda noisy, timestep: noisy, lambda clean: clean, torch.ones(3), "sample")  # type: ignore[arg-type]


# Known areas


def test_repainting_is_ddims_formula_with_the_known_put_back_after_each_step(model, texts, latents):
    scheduler, timesteps = schedule(model, Sampling(steps=4, scheduler="ddim"))
    clean, noise = drawn(2, 4, 8, 4, seed=1), drawn(2, 4, 8, 4, seed=2)
    mask = torch.rand(2, 1, 8, 4, generator=torch.Generator().manual_seed(3))
    mask[:, :, :2], mask[:, :, 6:] = 0, 1
    denoiser = conditioned(unet_network(model.unet), {"text": texts[0]})
    ours = sample(denoiser, scheduler, timesteps, latents, after_step=repainted(scheduler, clean, noise, mask))
    x, kept = latents, scheduler.alphas_cumprod
    with torch.no_grad():
        for place, t in enumerate(timesteps):
            predicted = model.unet(x, t, encoder_hidden_states=texts[0]).sample
            estimate = (x - (1 - kept[t]).sqrt() * predicted) / kept[t].sqrt()
            is_last = place + 1 == len(timesteps)
            reached = scheduler.final_alpha_cumprod if is_last else kept[timesteps[place + 1]]
            x = reached.sqrt() * estimate + (1 - reached).sqrt() * predicted
            known = clean if is_last else reached.sqrt() * clean + (1 - reached).sqrt() * noise
            x = mask * x + (1 - mask) * known
    assert_close(ours, x)
    assert torch.equal(ours[:, :, :2], clean[:, :, :2])


# U-Nets with more input channels


def test_more_input_channels_are_taken_only_where_they_are_asked_for(editor, tmp_path):
    parts = (editor.unet, editor.vae, editor.text_encoder, editor.tokenizer, editor.scheduler_config)
    refusal = r"^unet: in_channels is 8 but the vae has 4 latent channels; use a text-to-image checkpoint"
    with pytest.raises(BlendbenchError, match=refusal):
        LatentDiffusion(*parts)
    with pytest.raises(
        BlendbenchError, match="in_channels is 8 but the vae has 4 latent channels and 5 more are given"
    ):
        LatentDiffusion(*parts, extra_channels=5)
    images = torch.zeros(1, 3, HEIGHT, WIDTH)
    for call in (
        lambda: text_to_image(editor, ["x"], [0], Sampling(steps=2)),
        lambda: image_to_image(editor, images, ["x"], [0], Sampling(steps=2)),
        lambda: masked_repaint(editor, images, images[:, :1], ["x"], [0], Sampling(steps=2)),
    ):
        with pytest.raises(BlendbenchError, match=refusal):
            call()


def test_checkpoint_with_more_input_channels_is_saved_and_loaded(editor, tmp_path: Path):
    editor.save(tmp_path)
    with pytest.raises(BlendbenchError, match="in_channels is 8"):
        LatentDiffusion.load(tmp_path)
    loaded = LatentDiffusion.load(tmp_path, extra_channels=4)
    assert loaded.extra_channels == 4
    torch.testing.assert_close(loaded.unet.conv_in.weight, editor.unet.conv_in.weight)
