"""Stable Diffusion 1.5's architecture, which Riffusion has: configs of its parts, and checkpoints in one file.

A single file (Stable Diffusion's original layout, as trainers and model sites hand it out) holds weights alone; what
the parts are is written here, the tokenizer is CLIP's and has to be at hand.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models.latent_diffusion import LatentDiffusion

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
TOKENIZER = "openai/clip-vit-large-patch14"
"""Hub id of the tokenizer that the text encoder was trained with."""


def random_model(tokenizer: CLIPTokenizer, dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """A model of the full size (859.5 M, 83.7 M and 123.1 M parameters) with weights from torch's global generator."""
    unet = UNet2DConditionModel.from_config(UNET).to(dtype)
    vae = AutoencoderKL.from_config(VAE).to(dtype)
    text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).to(dtype)
    return LatentDiffusion(unet, vae, text_encoder, tokenizer, SCHEDULER)


def load_single_file(
    file: Path,
    tokenizer: str = TOKENIZER,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = True,
    parts: dict[str, dict[str, Any]] | None = None,
) -> LatentDiffusion:
    """Read a checkpoint in Stable Diffusion's original layout, safetensors only, on the CPU.

    Parameters
    ----------
    file : Path
        Ends in .safetensors.
    tokenizer : str
        Folder or hub id of CLIP's tokenizer.
    dtype : torch.dtype
        Precision of the networks.
    parts : dict, optional
        Configs under "unet", "vae", "text_encoder" and "scheduler" where they differ from Stable Diffusion 1.5's.

    Raises
    ------
    BlendbenchError
        If the file is pickled, not readable, of another architecture, or the tokenizer is not at hand.
    """
    if file.suffix != ".safetensors":
        raise BlendbenchError(f"{file}: only safetensors are read, since other files can hold code; convert it")
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        stand_ins.refuse_weights(file, failed=True)
        raise BlendbenchError(f"{file}: not a readable safetensors file ({error}); fetch it again") from error
    try:
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=local_files_only)
    except (OSError, ValueError, TypeError) as error:
        raise BlendbenchError(
            f"generator.tokenizer={tokenizer}: no tokenizer here, and a single file has none; fetch it with "
            f"`hf download {TOKENIZER} vocab.json merges.txt tokenizer_config.json special_tokens_map.json`, "
            "or give the tokenizer folder of any Stable Diffusion 1 checkpoint"
        ) from error
    configs = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "scheduler": SCHEDULER} | (parts or {})
    unet = UNet2DConditionModel.from_config(configs["unet"])
    vae = AutoencoderKL.from_config(configs["vae"])
    text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    for name, module, convert in (
        ("U-Net", unet, lambda: convert_ldm_unet_checkpoint(dict(state), dict(unet.config))),
        ("autoencoder", vae, lambda: convert_ldm_vae_checkpoint(dict(state), dict(vae.config))),
        ("text encoder", text_encoder, lambda: _clip_weights(dict(state), text_encoder)),
    ):
        try:
            module.load_state_dict(convert())
        except Exception as error:  # the conversion trusts its input, so it fails in many ways
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BlendbenchError(
                f"{file}: its {name} is not Stable Diffusion 1's ({reason}); give a folder in diffusers' layout"
            ) from error
    for module in (unet, vae, text_encoder):
        module.to(dtype)
    return LatentDiffusion(unet, vae, text_encoder, words, configs["scheduler"])


def _clip_weights(state: dict[str, torch.Tensor], model: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The text encoder's weights under the names that the installed transformers gives them."""
    found = convert_ldm_clip_checkpoint(state)
    prefix = "text_model."
    bare = {name.removeprefix(prefix): value for name, value in found.items() if not name.endswith("position_ids")}
    wrapped = any(name.startswith(prefix) for name in model.state_dict())
    return {prefix + name if wrapped else name: value for name, value in bare.items()}
