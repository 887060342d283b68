"""The visual synapse: closed forms, equality with the text alone, where two U-Nets are joined, a picture's way."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from support.tiny_models import tiny_diffusion

from blendbench.errors import BlendbenchError
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.models.synapse import (
    Synapse,
    SynapseSettings,
    attending,
    places,
    to_tokens,
    track,
    with_pictures,
    z_order,
)
from blendbench.models.visual import SCHEDULE, Visual, VisualCheckpoint, Way


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def visual(model: LatentDiffusion) -> Visual:
    """The same kind of model, with other weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel.from_config(model.unet.config).eval()
    return Visual(unet, model.vae, encode_prompts(model, [""], None)[0], model.scheduler_config)


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7)) * 2 - 1


def generators(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def latents_of(model: LatentDiffusion, count: int = 2) -> torch.Tensor:
    channels = model.unet.config.in_channels
    return torch.randn(count, channels, 16, 16, generator=torch.Generator().manual_seed(1))


def predicted(model, visual, settings: SynapseSettings, pics: torch.Tensor) -> torch.Tensor:
    text, _ = encode_prompts(model, ["a piano", "on heavy drums"], None)
    synapse = Synapse(model.unet, visual.unet, settings)
    tracked = track(synapse, visual, pics, Way(steps=3), generators(), *text.shape[1:])
    with torch.no_grad():
        return with_pictures(model.unet, synapse, tracked)(
            latents_of(model), torch.tensor(500), {"text": text, "picture": torch.arange(2)}
        )


def plain(model: LatentDiffusion) -> torch.Tensor:
    text, _ = encode_prompts(model, ["a piano", "on heavy drums"], None)
    with torch.no_grad():
        return model.unet(latents_of(model), torch.tensor(500), encoder_hidden_states=text).sample


@pytest.mark.parametrize("fuse", ["kv", "context", "output"])
def test_share_0_changes_no_bit_and_looks_at_no_picture(model, visual, fuse):
    settings = SynapseSettings(fuse=fuse, alpha=0.0)
    assert torch.equal(predicted(model, visual, settings, pictures() * math.nan), plain(model))


def test_share_0_leaves_the_built_in_generator_as_it_is():
    model = Generator("generator", "pocket").get("cpu")
    synapse = Synapse(model.unet, model.unet, SynapseSettings(alpha=0.0))
    assert [place.block for place in synapse.places] == [1, 1, 2, 2]
    text, _ = encode_prompts(model, ["a pop song"], None)
    noisy = torch.randn(1, 16, 8, 8)
    given = {"text": text, "picture": torch.zeros(1, dtype=torch.long)}
    with torch.no_grad():
        told = with_pictures(model.unet, synapse, None)(noisy, torch.tensor(9), given)
        assert torch.equal(told, model.unet(noisy, torch.tensor(9), encoder_hidden_states=text).sample)


def test_share_1_takes_keys_and_values_of_the_picture_alone_but_not_the_music(model, visual):
    synapse = Synapse(model.unet, visual.unet, SynapseSettings(alpha=1.0))
    attention = model.unet.get_submodule(synapse.places[0].music).attn2
    found = []
    for words in ("a piano", "on heavy drums"):
        text, _ = encode_prompts(model, [words], None)
        tracked = track(synapse, visual, pictures(1), Way(steps=2), generators(1), *text.shape[1:])
        given = {"text": text, "picture": torch.tensor([0])}
        with torch.no_grad(), synapse.mixing(model.unet, tracked.at(500, torch.tensor([0]))):
            keys, values = attention.to_k(text), attention.to_v(text)
        with torch.no_grad():
            told = with_pictures(model.unet, synapse, tracked)(latents_of(model, 1), torch.tensor(500), given)
        found.append((keys, values, told))
    (keys, values, one), (other_keys, other_values, other) = found
    assert torch.equal(keys, other_keys) and torch.equal(values, other_values)
    # Text also enters the other half of the network.
    assert not torch.allclose(one, other, atol=1e-4)


def test_keys_and_values_are_mixed_by_the_formula(model, visual):
    synapse = Synapse(model.unet, visual.unet, SynapseSettings(alpha=0.25))
    text, _ = encode_prompts(model, ["a piano"], None)
    tracked = track(synapse, visual, pictures(1), Way(steps=2), generators(1), *text.shape[1:])
    features = tracked.at(500, torch.tensor([0]))
    name = synapse.places[-1].music
    attention = model.unet.get_submodule(name).attn2
    text_keys, text_values = attention.to_k(text), attention.to_v(text)
    seen = {}
    with synapse.mixing(model.unet, features):
        seen = {"keys": attention.to_k(text), "values": attention.to_v(text)}
    keys, values = features[name]
    assert torch.allclose(seen["keys"], 0.25 * keys + 0.75 * text_keys, atol=1e-6)
    assert torch.allclose(seen["values"], 0.25 * values + 0.75 * text_values, atol=1e-6)
    assert torch.equal(attention.to_k(text), text_keys)  # and nothing is left behind


def test_features_are_those_of_the_image_models_self_attention(model, visual):
    synapse = Synapse(model.unet, visual.unet, SynapseSettings())
    place = synapse.places[0]
    inside = {}
    hook = visual.unet.get_submodule(place.image).attn1.register_forward_pre_hook(
        lambda module, given: inside.update(states=given[0].detach())
    )
    noisy = latents_of(model, 1)
    with torch.no_grad(), synapse.watching(visual.unet) as taken:
        visual.asked(noisy, torch.tensor(300))
        keys, values = taken()[place.music]
    hook.remove()
    attention = visual.unet.get_submodule(place.image).attn1
    assert torch.allclose(keys, attention.to_k(inside["states"]), atol=1e-6)
    assert torch.allclose(values, attention.to_v(inside["states"]), atol=1e-6)


def test_a_picture_reaches_its_own_item_alone(model, visual):
    settings = SynapseSettings(alpha=0.5)
    one = predicted(model, visual, settings, pictures())
    other = pictures()
    other[1] = -other[1]
    changed = predicted(model, visual, settings, other)
    assert torch.allclose(one[0], changed[0], atol=1e-5) and not torch.allclose(one[1], changed[1], atol=1e-3)


def test_the_codes_gate():
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=2,
    )  # fmt: skip
    synapse = Synapse(unet, unet, SynapseSettings(fuse="context", per="attention", blocks=(1,)))
    assert not bool(synapse.shares().any())
    with torch.no_grad():
        synapse.share.copy_(torch.tensor([1.0, 3.0]))
    assert synapse.shares().tolist() == pytest.approx([0.092423, 0.181030], abs=1e-6)
    learned = Synapse(unet, unet, SynapseSettings(blocks=(1,)))
    assert learned.shares().tolist() == pytest.approx([0.1])


def test_pooling():
    values = torch.arange(24.0).reshape(1, 4, 6)
    made = torch.nn.AdaptiveAvgPool2d((3, 4))(values)
    assert made[0, 0].tolist() == [3.5, 4.5, 6.5, 7.5]
    synapse = Synapse.__new__(Synapse)
    torch.nn.Module.__init__(synapse)
    synapse.settings = SynapseSettings(fuse="context")
    assert torch.equal(synapse.pooled({"a": (values,)}, 3, 4)["a"][0], made)
    # A row of a square is no patch of it.
    square = torch.arange(16.0).reshape(1, 16, 1)
    assert to_tokens(square, 4)[0, :, 0].tolist() == [1.5, 5.5, 9.5, 13.5]
    assert to_tokens(square, 4, "grid")[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert z_order(2).tolist() == [0, 1, 2, 3] and sorted(z_order(6).tolist()) == list(range(36))
    with pytest.raises(BlendbenchError, match="6 tokens are no square"):
        to_tokens(torch.zeros(1, 6, 2), 3, "grid")


def test_where_stable_diffusion_1_and_tango_are_joined():
    wide = {
        "block_out_channels": (8, 16, 32, 32), "layers_per_block": 2, "norm_num_groups": 4, "attention_head_dim": 2,
        "cross_attention_dim": 16, "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }  # fmt: skip
    image = UNet2DConditionModel(in_channels=4, out_channels=4, **wide)
    music = UNet2DConditionModel(in_channels=8, out_channels=8, **(wide | {"use_linear_projection": True}))
    found = places(music, image, (1, 2, 3))
    assert len(found) == 9 and {place.music == place.image for place in found} == {True}
    assert found[0].music.startswith("up_blocks.1.") and found[-1].music.startswith("up_blocks.3.")
    assert len(Synapse(music, image, SynapseSettings()).shares()) == 3
    assert len(Synapse(music, image, SynapseSettings(per="attention")).shares()) == 9
    assert [place.block for place in places(music, image, (2,))] == [2, 2, 2]
    with pytest.raises(BlendbenchError, match=r"synapse\.blocks=\[4\]: 3 decoder blocks attend"):
        places(music, image, (4,))
    assert [len(block) for block in attending(image)] == [3, 3, 3]


def test_other_widths_get_layers_and_they_learn(model):
    narrow = UNet2DConditionModel.from_config(
        dict(model.unet.config) | {"block_out_channels": [one // 2 for one in model.unet.config.block_out_channels],
                                   "norm_num_groups": 2, "attention_head_dim": 2}
    )  # fmt: skip
    synapse = Synapse(model.unet, narrow, SynapseSettings())
    assert len(synapse.keys) == len(synapse.places) == len(synapse.values)
    visual = Visual(narrow.eval(), model.vae, encode_prompts(model, [""], None)[0], model.scheduler_config)
    text, _ = encode_prompts(model, ["a piano"], None)
    tracked = track(synapse, visual, pictures(1), Way(steps=2), generators(1), *text.shape[1:])
    made = with_pictures(model.unet, synapse, tracked)(
        latents_of(model, 1), torch.tensor(500), {"text": text, "picture": torch.tensor([0])}
    )
    made.square().mean().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in synapse.parameters())


def ideal(spread: float):
    """The velocity of the best denoiser of N(0, spread^2)."""
    alphas = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction").alphas_cumprod.double()

    def predict(x: torch.Tensor, time: int) -> torch.Tensor:
        alpha, sigma = alphas[time].sqrt(), (1 - alphas[time]).sqrt()
        clean = alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2) * x
        return alpha * (x - alpha * clean) / sigma - sigma * clean

    return predict


@pytest.mark.parametrize(
    ("spread", "value", "steps", "noise", "again"),
    [(2.0, 2.0, 10, None, 1.450004), (2.0, 2.0, 50, None, 1.873750), (2.0, 2.0, 200, None, 1.967143),
     (1.0, 1.0, 50, 0.973614, 0.947925)],
)  # fmt: skip
def test_inversion_there_and_back(model, visual, spread, value, steps, noise, again):
    made = Visual(visual.unet, visual.vae, visual.empty, SCHEDULE | {"prediction_type": "v_prediction"})
    there, back = made.schedulers(steps)
    predict, x = ideal(spread), torch.tensor([value], dtype=torch.float64)
    for time in there.timesteps:
        x = there.step(predict(x, int(time)), time, x).prev_sample
    assert noise is None or float(x) == pytest.approx(noise, abs=5e-6)
    for time in back.timesteps:
        x = back.step(predict(x, int(time)), time, x).prev_sample
    assert float(x) == pytest.approx(again, abs=1e-5)


def test_ways_of_a_picture(visual):
    def walked(kind: str, pics: torch.Tensor) -> list:
        return list(visual.walk(pics, Way(kind, 4), generators()))

    start = visual.latents(pictures())
    inverted = walked("inverted", pictures())
    assert [time for time, _ in inverted] == [1, 251, 501, 751] and torch.equal(inverted[0][1], start)
    again = walked("redenoised", pictures())
    assert [time for time, _ in again] == [751, 501, 251, 1]
    noised = walked("noised", pictures())
    assert [time for time, _ in noised] == [1, 251, 501, 751]
    assert (noised[0][1] - start).std() < (noised[-1][1] - start).std()
    # The code's way never looks at the picture; the others do.
    assert torch.equal(walked("random", pictures())[-1][1], walked("random", -pictures())[-1][1])
    for kind in ("inverted", "redenoised", "noised"):
        assert not torch.equal(walked(kind, pictures())[-1][1], walked(kind, -pictures())[-1][1])


def test_items_do_not_mix_on_their_way(visual):
    both = list(visual.walk(pictures(), Way("noised", 2), generators()))
    alone = list(visual.walk(pictures()[1:], Way("noised", 2), generators()[1:]))
    for (_, one), (_, other) in zip(both, alone, strict=True):
        assert torch.allclose(one[1:], other, atol=1e-5)


def test_a_saved_one_is_read_again_and_a_stable_diffusion_serves(tmp_path: Path, model, visual):
    folder = tmp_path / "visual"
    config = SCHEDULE | {"prediction_type": "v_prediction"}
    Visual(visual.unet, visual.vae, visual.empty, config).save(folder)
    read = VisualCheckpoint("visual", str(folder)).get("cpu")
    assert read.size == visual.size and read.scheduler_config["prediction_type"] == "v_prediction"
    asked, again = (one.asked(latents_of(model), torch.tensor(100)) for one in (visual, read))
    assert torch.allclose(asked, again, atol=2e-2)
    model.save(tmp_path / "whole")
    whole = VisualCheckpoint("visual", str(tmp_path / "whole")).get("cpu")
    assert torch.equal(whole.empty, encode_prompts(model, [""], None)[0])
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(BlendbenchError, match="is empty"):
        VisualCheckpoint("visual", str(folder)).get("cpu")


def test_colour_patches_keep_colour():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = PatchAutoencoder(latent_channels=192, width=8, encoder_blocks=0, decoder_blocks=0, colour=True)
    made.start_from_patches(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    with torch.no_grad():
        again = made.to_images(made.to_latents(images))
    assert torch.allclose(again, images, atol=1e-3)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: SynapseSettings(fuse="x"), r"synapse\.fuse=x: choose kv, context, output"),
        (lambda: SynapseSettings(alpha=1.5), r"synapse\.alpha=1\.5"),
        (lambda: SynapseSettings(alpha="free"), r"synapse\.alpha=free: give learned"),
        (lambda: SynapseSettings(init=0.0), r"synapse\.init=0"),
        (lambda: SynapseSettings(blocks=()), r"synapse\.blocks=\[\]"),
        (lambda: Way("backwards"), r"visual\.path=backwards: choose inverted"),
        (lambda: Way(steps=0), r"visual\.steps=0"),
    ],
)
def test_settings_out_of_range_are_one_line(made, message):
    with pytest.raises(BlendbenchError, match=message):
        made()
