"""TANGO's architecture with random weights, small enough for a test, and its published layout written from it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import librosa
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from blendbench.models.tango import PUBLISHED, Tango, build

WORDS = ["a", "calm", "piano", "loud", "drums", "in", "the", "rain", "guitar", "song"]
TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 16], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "attention_head_dim": [1, 2],
        "cross_attention_dim": 16, "use_linear_projection": True, "upcast_attention": True, "norm_num_groups": 4,
    },
    "vae": dict(PUBLISHED["vae"]) | {
        "block_out_channels": [4, 8, 8], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
    },
    "vocoder": dict(PUBLISHED["vocoder"]) | {
        "upsample_initial_channel": 32, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
    },
    "text_encoder": dict(PUBLISHED["text_encoder"]) | {
        "vocab_size": 16, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    },
}  # fmt: skip


def tiny_words() -> PreTrainedTokenizerFast:
    """A tokenizer that knows `WORDS`, and ends a text as T5's does."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def tiny_tango(seed: int = 0, sizes: Mapping[str, Mapping[str, Any]] = TINY) -> Tango:
    """A complete model; its U-Net listens to the text, and its sound is neither near silence nor clipped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {name: build(name, config) for name, config in sizes.items()}
        for value in parts["vocoder"].parameters():
            torch.nn.init.normal_(value, std=0.2)
    return Tango(tokenizer=tiny_words(), **parts)


def write_published(
    model: Tango, folder: Path, *, normed: bool = False, beside: Mapping[str, Any] | None = None
) -> None:
    """Write a model in TANGO's own layout; `normed` with weight normalisation, `beside` more of its main file."""
    folder.mkdir(parents=True, exist_ok=True)
    main = {
        "text_encoder_name": "google/flan-t5-large", "scheduler_name": "stabilityai/stable-diffusion-2-1",
        "unet_model_name": None, "unet_model_config_path": "configs/diffusion_model_config.json", "snr_gamma": 5.0,
    }  # fmt: skip
    (folder / "main_config.json").write_text(json.dumps(main))
    (folder / "vae_config.json").write_text(json.dumps({"scale_factor": float(model.vae.config.scaling_factor)}))
    text = model.text_encoder.state_dict()
    state = {f"unet.{name}": value for name, value in model.unet.state_dict().items()}
    state |= {f"text_encoder.{name}": value for name, value in text.items()}
    state["text_encoder.encoder.embed_tokens.weight"] = text["shared.weight"]
    torch.save(state | dict(beside or {}), folder / "pytorch_model_main.bin")
    levels = len(model.vae.config.block_out_channels)
    sound = {compvis_name(name, levels): value for name, value in model.vae.state_dict().items()}
    for name, value in sound.items():
        if "attn_1" in name and name.endswith("weight") and "norm" not in name:
            sound[name] = value[:, :, None, None]  # there a convolution
    for name, value in model.vocoder.state_dict().items():
        if name in ("mean", "scale"):
            continue
        own = "vocoder." + re.sub(r"^upsampler\.", "ups.", name)
        if normed and name.endswith("weight"):
            sound[f"{own}_g"] = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.ndim - 1))
            sound[f"{own}_v"] = 3.0 * value
        else:
            sound[own] = value
    torch.save(sound, folder / "pytorch_model_vae.bin")
    bank = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    torch.save({"mel_basis": torch.tensor(bank)}, folder / "pytorch_model_stft.bin")
    model.tokenizer.save_pretrained(folder / "tokenizer")


def compvis_name(name: str, levels: int) -> str:
    """The name in CompVis' latent diffusion of a weight of diffusers' autoencoder of so many levels."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        name = name.replace("to_out.0", "proj_out").replace("to_", "")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
