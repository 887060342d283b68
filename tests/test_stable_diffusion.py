"""Stable Diffusion 1.5's architecture: its size, its single-file layout, and how a generator takes one."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from support.tiny_models import tiny_diffusion, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blendbench.errors import BlendbenchError
from blendbench.models import stable_diffusion
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling, text_to_image
from blendbench.store.signature import file_hash

CHANNELS = [32, 32, 64, 64]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_configs_are_those_of_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(stable_diffusion.UNET)
        vae = AutoencoderKL.from_config(stable_diffusion.VAE)
        text_encoder = CLIPTextModel(CLIPTextConfig(**stable_diffusion.TEXT_ENCODER))
    assert (count(unet), count(vae), count(text_encoder)) == (859_520_964, 83_653_863, 123_060_480)


@pytest.fixture(scope="module", params=[1, 2], ids=["one layer a level", "two layers a level"])
def small(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDiffusion, dict, Path]:
    """A model with Stable Diffusion's levels, but thin, with its configs and its tokenizer's folder."""
    layers = request.param
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tiny_tokenizer(folder)
    parts = {
        "unet": stable_diffusion.UNET
        | {"block_out_channels": CHANNELS, "cross_attention_dim": 32, "sample_size": 8, "layers_per_block": layers},
        "vae": stable_diffusion.VAE | {"block_out_channels": CHANNELS, "sample_size": 64, "layers_per_block": layers},
        "text_encoder": stable_diffusion.TEXT_ENCODER
        | {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
           "max_position_embeddings": 16, "vocab_size": len(tokenizer),
           "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id},
    }  # fmt: skip
    torch.manual_seed(0)
    model = LatentDiffusion(
        UNet2DConditionModel.from_config(parts["unet"]),
        AutoencoderKL.from_config(parts["vae"]),
        CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer,
        stable_diffusion.SCHEDULER,
    )
    return model, parts, folder


def original_layout(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """A model's weights under Stable Diffusion's original names."""
    state: dict[str, torch.Tensor] = {}
    prefix = "model.diffusion_model."
    layers = model.unet.config.layers_per_block
    for name, value in model.unet.state_dict().items():
        state[prefix + unet_name(name, layers)] = value
    for name, value in model.vae.state_dict().items():
        state["first_stage_model." + vae_name(name)] = value
    for name, value in model.text_encoder.state_dict().items():
        state["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = value
    return {name: value.clone().contiguous() for name, value in state.items()}


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip


def unet_name(name: str, layers: int) -> str:
    """CompVis's name of a U-Net weight, for levels of so many layers."""
    tops = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
            "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    for new, old in tops.items():
        if name.startswith(new + "."):
            return old + name[len(new) :]
    parts = name.split(".")
    side, rest = parts[0], parts[1:]
    if side == "mid_block":
        place = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}[".".join(rest[:2])]
        return f"middle_block.{place}." + resnet(rest[0], rest[2:])
    level, kind, index = int(rest[0]), rest[1], int(rest[2])
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.op.{rest[-1]}"
        return f"input_blocks.{(layers + 1) * level + 1 + index}.{0 if kind == 'resnets' else 1}." + resnet(
            kind, rest[3:]
        )
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * level + layers}.{2 if level else 1}.conv.{rest[-1]}"
    return f"output_blocks.{(layers + 1) * level + index}.{0 if kind == 'resnets' else 1}." + resnet(kind, rest[3:])


def resnet(kind: str, rest: list[str]) -> str:
    return ".".join([RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest)


def vae_name(name: str) -> str:
    """CompVis's name of an autoencoder weight."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for new, old in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
            name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    for level in range(4):
        name = name.replace(f"encoder.down_blocks.{level}.resnets", f"encoder.down.{level}.block")
        name = name.replace(f"encoder.down_blocks.{level}.downsamplers.0", f"encoder.down.{level}.downsample")
        name = name.replace(f"decoder.up_blocks.{level}.resnets", f"decoder.up.{3 - level}.block")
        name = name.replace(f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.up.{3 - level}.upsample")
    return name


@pytest.fixture(scope="module")
def single(small: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(original_layout(small[0]), file)
    return file


def test_a_single_file_gives_the_images_of_its_model(small: tuple, single: Path) -> None:
    model, parts, tokenizer = small
    loaded = stable_diffusion.load_single_file(single, str(tokenizer), parts=parts)
    for ours, theirs in ((loaded.unet, model.unet), (loaded.vae, model.vae), (loaded.text_encoder, model.text_encoder)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    settings = Sampling(steps=2)
    made = [text_to_image(one, ["a drum"], [1], settings, 64, 64) for one in (loaded, model)]
    assert torch.equal(*made)


@pytest.mark.parametrize("case", ["pickle", "torn", "other architecture", "no tokenizer", "a part is missing"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    small: tuple, single: Path, tmp_path: Path, case: str
) -> None:
    _, parts, tokenizer = small
    words, file = str(tokenizer), tmp_path / "model.safetensors"
    if case == "pickle":
        file = tmp_path / "model.ckpt"
        torch.save({}, file)
    elif case == "torn":
        file.write_bytes(single.read_bytes()[:-100])
    elif case == "other architecture":
        save_file({"weight": torch.zeros(3)}, file)
    elif case == "a part is missing":
        state = original_layout(small[0])
        save_file({k: v for k, v in state.items() if not k.startswith("first_stage_model.decoder")}, file)
    else:
        words, file = str(tmp_path / "nothing"), single
    with pytest.raises(BlendbenchError) as caught:
        stable_diffusion.load_single_file(file, words, parts=parts)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value) or "generator.tokenizer" in str(caught.value)


def test_a_generator_takes_a_single_file_and_is_named_by_its_hash(single: Path, tmp_path: Path) -> None:
    generator = Generator("mine", str(single))
    assert generator.fingerprint.startswith(file_hash(single)[:12])
    words = tiny_tokenizer(tmp_path / "words") and str(tmp_path / "words")
    assert Generator("mine", str(single), tokenizer=words).fingerprint != generator.fingerprint
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    assert Generator("mine", str(other)).fingerprint != generator.fingerprint
    with pytest.raises(BlendbenchError, match=r"generator\.checkpoint=.*gone\.safetensors"):
        _ = Generator("mine", str(tmp_path / "gone.safetensors")).fingerprint


def drum(model: LatentDiffusion) -> torch.Tensor:
    return text_to_image(model, ["a drum"], [1], Sampling(steps=2), 64, 64)


def test_slices_give_the_same_images(tmp_path: Path) -> None:
    tiny_diffusion(tmp_path / "words").save(tmp_path / "model")
    sliced = Generator("a", str(tmp_path / "model"), vae_slicing=True).get("cpu")
    assert sliced.vae.use_slicing
    assert torch.equal(drum(sliced), drum(Generator("a", str(tmp_path / "model")).get("cpu")))


@pytest.mark.soak
def test_a_compiled_u_net_gives_the_same_images(tmp_path: Path) -> None:
    tiny_diffusion(tmp_path / "words").save(tmp_path / "model")
    compiled = Generator("a", str(tmp_path / "model"), compile=True).get("cpu")
    plain = drum(Generator("a", str(tmp_path / "model")).get("cpu"))
    torch.testing.assert_close(drum(compiled), plain, atol=1e-4, rtol=0)


def test_clips_own_tokenizer_can_be_had_from_laion_clap(tmp_path: Path) -> None:
    """The merges that a test at the full size builds CLIP's tokenizer from: they are OpenAI's."""
    tokenizer = clip_tokenizer(tmp_path)
    assert len(tokenizer) == 49408
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, from the merges that laion_clap's package holds."""
    spec = importlib.util.find_spec("laion_clap")
    if spec is None or spec.origin is None:
        pytest.skip("laion_clap is not installed")
    merges_file = Path(spec.origin).parent / "clap_module" / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(merges_file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    # The order of bytes is CLIP's: printable ones first.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(m.split()) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)
