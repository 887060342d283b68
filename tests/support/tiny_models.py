"""Stable Diffusion's architecture with random weights, small enough for a test: 8 x smaller latents, CLIP text."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blendbench.models.controlnet import beside
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.pix2pix import widen

CONTEXT = 16
"""Tokens that the tiny text encoder takes."""

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
"""Stable Diffusion 1's noise schedule."""


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows letters, digits and two merges; writes vocab.json and merges.txt into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = "abcdefghijklmnopqrstuvwxyz0123456789,.-!"
    merges = ["a n", "o n</w>"]
    tokens = [*characters, *(f"{c}</w>" for c in characters), "an", "on</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": CONTEXT, "tokenizer_class": "CLIPTokenizer"})
    )
    return CLIPTokenizer.from_pretrained(str(folder))


def tiny_diffusion(folder: Path, seed: int = 0, **scheduler: Any) -> LatentDiffusion:
    """A complete model; `folder` takes the tokenizer's files, `scheduler` overrides DDIM settings.

    With guidance its images fill about a third of their range (standard deviation) and differ visibly by prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(folder)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            # Attention over all places of a 512 x 512 image's latents would take most of a run's time.
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=64,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=CONTEXT,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        )
    config = dict(DDIMScheduler(**(SCHEDULER | scheduler)).config)
    config["_class_name"] = "DDIMScheduler"
    return LatentDiffusion(unet, vae, text_encoder, tokenizer, config).to("cpu")


def tiny_accompanists(generator: Path, folder: Path) -> list[str]:
    """Settings that name a ControlNet and an InstructPix2Pix of a tiny generator, which have learned nothing."""
    model = LatentDiffusion.load(generator)
    beside(model.unet).save_pretrained(folder / "controlnet")
    widen(model.unet)
    model.save(folder / "pix2pix")
    return [
        f"generator.controlnet.checkpoint={folder / 'controlnet'}",
        f"generator.pix2pix.checkpoint={folder / 'pix2pix'}",
    ]
