"""Riff-CNET's ControlNet: built beside a generator, at the published size, converted, refused."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file
from support.tiny_models import tiny_diffusion

from blendbench.errors import BlendbenchError
from blendbench.models import controlnet
from blendbench.models.controlnet import ControlNetCheckpoint, beside, controlled
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling, prompted, text_to_image

PROMPTS = ["a piano", "on heavy drums"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def trained(model: LatentDiffusion) -> ControlNetModel:
    """One whose zero convolutions have learned something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = beside(model.unet)
        for name, value in made.named_parameters():
            if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
                torch.nn.init.normal_(value, std=0.3)
    return made.eval()


def hints(seed: int = 0) -> torch.Tensor:
    return (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) > 0.7).float()


def painted(model: LatentDiffusion, denoiser=None) -> torch.Tensor:
    return text_to_image(model, PROMPTS, [1, 2], Sampling(steps=2), 64, 64, denoiser=denoiser)


def test_the_built_in_generators_controlnet_has_nine_outputs_and_changes_no_bit():
    model = Generator("pocket", "pocket").get("cpu")
    made = beside(model.unet).eval()
    assert sum(value.numel() for value in made.parameters()) == 6_757_600
    settings, hint = Sampling(steps=2, guidance_scale=3.0), torch.ones(1, 3, 64, 128)
    plain = text_to_image(model, ["a pop song"], [5], settings, 64, 128)
    told = controlled(model, made, ["a pop song"], hint, settings)
    assert torch.equal(text_to_image(model, ["a pop song"], [5], settings, 64, 128, denoiser=told), plain)
    down, middle = made(
        torch.zeros(1, 16, 8, 16), 500, encoder_hidden_states=torch.zeros(1, 4, 160), controlnet_cond=hint,
        return_dict=False,
    )  # fmt: skip
    assert len(down) == 8 and not any(bool(one.any()) for one in (*down, middle))


def test_at_scale_0_a_trained_one_changes_no_bit_and_at_1_it_does(model, trained):
    plain = painted(model)
    for scale, same in ((0.0, True), (1.0, False)):
        denoiser = controlled(model, trained, PROMPTS, hints(), Sampling(steps=2), scale)
        assert torch.equal(painted(model, denoiser), plain) == same


def test_an_items_output_does_not_depend_on_its_batch(model, trained):
    settings = Sampling(steps=2)
    both = painted(model, controlled(model, trained, PROMPTS, hints(), settings))
    alone = text_to_image(
        model, PROMPTS[1:], [2], settings, 64, 64,
        denoiser=controlled(model, trained, PROMPTS[1:], hints()[1:], settings),
    )  # fmt: skip
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_without_guidance_the_empty_prompt_is_not_asked(model, trained):
    settings = Sampling(steps=2, guidance_scale=1.0)
    denoiser = controlled(model, trained, PROMPTS, hints(), settings)
    latents, time = torch.randn(2, 4, 8, 8), torch.tensor(500)
    away = prompted(model, PROMPTS, settings)
    assert denoiser(latents, time).shape == away(latents, time).shape


def test_hints_out_of_range_are_refused(model, trained):
    with pytest.raises(BlendbenchError, match=r"not all within 0\.\.1"):
        controlled(model, trained, PROMPTS, 255 * hints(), Sampling(steps=2))
    with pytest.raises(BlendbenchError, match=r"not all within 0\.\.1"):
        controlled(model, trained, PROMPTS, hints() * float("nan"), Sampling(steps=2))


def test_one_of_another_generator_is_refused(trained):
    with pytest.raises(BlendbenchError, match="in_channels is 4, but the generator's U-Net has 16"):
        controlled(Generator("pocket", "pocket").get("cpu"), trained, PROMPTS, hints(), Sampling(steps=2))


def test_one_on_disk_is_loaded_whole_or_refused(trained, tmp_path):
    trained.save_pretrained(tmp_path / "whole")
    loaded = ControlNetCheckpoint("method.checkpoint", str(tmp_path / "whole")).get("cpu")
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    weights = tmp_path / "whole" / controlnet.WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(BlendbenchError, match="whole"):
        ControlNetCheckpoint("method.checkpoint", str(tmp_path / "whole")).get("cpu")
    with pytest.raises(BlendbenchError, match=r"no checkpoint \(config.json\) there"):
        ControlNetCheckpoint("method.checkpoint", str(tmp_path)).get("cpu")


def test_a_small_file_over_a_generator_is_the_network_up_to_its_rank(model, trained, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        moved = beside(model.unet)
        moved.load_state_dict(trained.state_dict())
        for name, value in moved.named_parameters():
            if name.startswith(("down_blocks.", "mid_block.")) and value.ndim > 1:
                change = torch.randn(len(value), 2) @ torch.randn(2, value[0].numel())
                value.data += 0.1 * change.reshape(value.shape)
    small = controlnet.shrunk(moved, model.unet, rank=4)
    again = controlnet.grown(model.unet, small, tmp_path)
    for name, value in moved.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=5e-3), name
    rough = controlnet.grown(model.unet, controlnet.shrunk(moved, model.unet, rank=1), tmp_path)
    assert any(
        not torch.allclose(rough.state_dict()[name], value, atol=5e-3) for name, value in moved.state_dict().items()
    )
    other = Generator("pocket", "pocket").get("cpu").unet
    with pytest.raises(BlendbenchError, match="does not fit the generator's U-Net"):
        controlnet.grown(other, small, tmp_path)


def test_a_small_file_is_of_its_own_generator_whatever_samples_in_few_steps(tmp_path):
    plain, fast = Generator("generator", "pocket"), Generator("generator", "pocket", adapter="few_step")
    built_in = ControlNetCheckpoint("method.checkpoint", "pocket")
    one = built_in.of(plain, "cpu").state_dict()
    other = ControlNetCheckpoint("method.checkpoint", "pocket").of(fast, "cpu").state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    shutil.copytree(built_in.folder, tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text('{"base": "another", "rank": 24}')
    with pytest.raises(BlendbenchError, match=r"was made of the generator another, not of pocket"):
        ControlNetCheckpoint("method.checkpoint", str(tmp_path / "own")).of(plain, "cpu")
    (tmp_path / "own" / controlnet.LOW_RANK).write_bytes(b"\0" * 40)
    with pytest.raises(BlendbenchError, match=r"low_rank\.safetensors"):
        ControlNetCheckpoint("method.checkpoint", str(tmp_path / "own")).of(plain, "cpu")


# The published size


def original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of diffusers under the names of the published program (cldm), beside something of Riffusion."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    named: dict[str, torch.Tensor] = {}
    plain = DIFFUSERS_TO_LDM_MAPPING["controlnet"]["layers"]
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
    for name, value in state.items():
        parts = name.split(".")
        if name in plain:
            own = plain[name]
        elif name.startswith("controlnet_down_blocks"):
            own = f"zero_convs.{parts[1]}.0.{parts[2]}"
        elif name.startswith("controlnet_mid_block"):
            own = f"middle_block_out.0.{parts[1]}"
        elif name.startswith("controlnet_cond_embedding.blocks"):
            own = f"input_hint_block.{2 * int(parts[2]) + 2}.{parts[3]}"
        elif name.startswith("down_blocks"):
            block, kind, layer = int(parts[1]), parts[2], int(parts[3])
            place = 1 + 3 * block + (2 if kind == "downsamplers" else layer)
            if kind == "downsamplers":
                own = f"input_blocks.{place}.0.op.{parts[5]}"
            elif kind == "resnets":
                own = f"input_blocks.{place}.0.{resnet[parts[4]]}.{parts[5]}"
            else:
                own = f"input_blocks.{place}.1." + ".".join(parts[4:])
        elif name.startswith("mid_block.resnets"):
            own = f"middle_block.{2 * int(parts[2])}.{resnet[parts[3]]}.{parts[4]}"
        elif name.startswith("mid_block.attentions"):
            own = "middle_block.1." + ".".join(parts[3:])
        else:
            raise AssertionError(name)
        named[f"control_model.{own}"] = value
    return named


@pytest.mark.soak
def test_at_the_published_size_it_is_built_converted_and_runs(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ControlNetModel(**controlnet.published_config()).eval()
    assert sum(value.numel() for value in made.parameters()) == 361_279_120
    assert len(made.controlnet_down_blocks) + 1 == 13
    for layer in (made.controlnet_mid_block, made.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=0.02)
    file = tmp_path / "final_checkpoint.ckpt"
    beside_it = {"model.diffusion_model.out.2.bias": torch.zeros(4), "first_stage_model.x": torch.zeros(2)}
    torch.save({"state_dict": original_names(made.state_dict()) | beside_it, "epoch": 8}, file)
    folder = tmp_path / "riff_cnet"
    folder.mkdir()
    controlnet.convert_published(file, folder)
    loaded = ControlNetCheckpoint("method.checkpoint", str(folder)).get("cpu")
    # Hints of 0..1 give what those of 0..255 gave.
    hint = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.8).float()
    latents, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 768)
    with torch.inference_mode():
        before = made(latents, 500, text, 255 * hint, return_dict=False)[1]
        after = loaded(latents, 500, text, hint, return_dict=False)[1]
        twice = loaded(latents, 500, text, hint / 255, return_dict=False)[1]
    assert float((before - after).abs().max()) < 1e-5 * float(before.abs().max())
    assert not torch.allclose(twice, after, rtol=1e-3)  # a second factor would be noticed
    assert "source_sha256" in header(folder / controlnet.WEIGHTS)


def header(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_a_file_that_holds_no_such_controlnet_is_refused(trained, tmp_path):
    file = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"control_model.time_embed.0.weight": torch.zeros(3)}}, file)
    with pytest.raises(BlendbenchError, match=r"other\.ckpt: holds no ControlNet"):
        controlnet.convert_published(file, tmp_path)
    trained.save_pretrained(tmp_path / "tiny")
    with pytest.raises(BlendbenchError, match="holds no ControlNet of Stable Diffusion 1's size"):
        controlnet.convert_published(tmp_path / "tiny" / controlnet.WEIGHTS, tmp_path)
    assert load_file(tmp_path / "tiny" / controlnet.WEIGHTS)
