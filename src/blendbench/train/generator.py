"""Train the pocket generator: tokenizer, text encoder and U-Net on the autoencoder's latents.

The text encoder is trained together with the U-Net, since no pre-trained one is assumed. The U-Net predicts velocity
(Salimans and Ho 2022) under a noise schedule rescaled to zero terminal SNR (Lin et al. 2024), so that sampling may
start from pure noise; the loss is weighted by min-SNR with gamma 5 (Hang et al. 2023).
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blendbench.errors import BlendbenchError
from blendbench.train.autoencoder import to_pixels
from blendbench.train.cache import ClipCache

MAX_TOKENS = 48
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 96, 160, 256],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 160,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
TEXT_ENCODER = {
    "hidden_size": 160,
    "intermediate_size": 480,
    "projection_dim": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "gelu",
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}


def train_tokenizer(captions: list[str], folder: Path, vocabulary: int = 1536) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary of CLIP's kind from captions and save it to `folder`."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(alphabet),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    vocab_file, merges_file = bpe.model.save(str(raw))
    vocab = json.loads(Path(vocab_file).read_text())
    merges = [tuple(line.split(" ")) for line in Path(merges_file).read_text().splitlines() if not line.startswith("#")]
    for file in (vocab_file, merges_file):
        Path(file).unlink()
    raw.rmdir()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


@torch.inference_mode()
def encode_cache(vae: AutoencoderKL, cache: ClipCache, rows: np.ndarray, file: Path) -> torch.Tensor:
    """Latents [N, 4, 64, 64] of the rows' images, scaled to unit variance; kept in `file` for the next time."""
    if file.exists():
        return torch.from_numpy(np.load(file))
    out = [vae.encode(to_pixels(cache.images[row : row + 1])).latent_dist.mode() for row in rows]
    latents = torch.cat(out) * vae.config.scaling_factor
    np.save(file, latents.numpy())
    return latents


def train(
    cache: ClipCache,
    vae_folder: Path,
    out: Path,
    *,
    minutes: float,
    prompts: list[str],
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 6e-4,
    caption_dropout: float = 0.1,
    crop_share: float = 0.6,
    log_every: int = 50,
) -> dict:
    """Train for `minutes` of wall time and save a whole diffusers pipeline to `out`.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train" with captions.
    vae_folder : Path
        The trained autoencoder.
    minutes : float
        Wall time of the optimisation, in minutes; the learning rate falls to zero over it (cosine).
    crop_share : float
        Share of the time, at its start, in which the U-Net sees half clips.
    prompts : list of str
        Texts whose words must be in the vocabulary besides the captions' (they are not trained on).

    Returns
    -------
    dict
        Figures for the card: steps, clips, parameters, loss on held-out clips.

    Raises
    ------
    BlendbenchError
        If the cache holds no training music.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    rows, held_out = cache.rows(split="train", kind="music"), cache.rows(split="held_out", kind="music")
    if not len(rows):
        raise BlendbenchError(f"{cache.folder}: no training music; run `blendbench train data` first")
    out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    captions = [cache.clips[row]["captions"] for row in rows]
    tokenizer = train_tokenizer([text for texts in captions for text in texts] + prompts, out / "tokenizer")
    tokens = [
        torch.tensor(tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids)
        for texts in captions
    ]
    empty = torch.tensor(tokenizer([""], padding="max_length", max_length=MAX_TOKENS).input_ids)[0]
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **TEXT_ENCODER,
        )
    )
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(**SCHEDULER)
    latents = encode_cache(vae, cache, rows, out / "latents.npy")
    print(f"{len(latents)} latents, standard deviation {float(latents.std()):.3f}", flush=True)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    averaged = [value.detach().clone() for value in parameters]
    start, step, history, running = time.monotonic(), 0, [], 0.0
    order = draw.permutation(len(rows))
    position = 0
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        rate = learning_rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * elapsed / minutes))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if position + batch > len(rows):
            order, position = draw.permutation(len(rows)), 0
        chosen = order[position : position + batch]
        position += batch
        ids = torch.stack(
            [empty if draw.random() < caption_dropout else tokens[i][draw.integers(len(tokens[i]))] for i in chosen]
        )
        clean = latents[chosen]
        if elapsed < crop_share * minutes:
            # Half the clip costs half the time; the convolutions and the attention carry over to whole clips.
            left = int(draw.integers(0, clean.shape[-1] // 2 + 1))
            clean = clean[..., left : left + clean.shape[-1] // 2]
        loss = _loss(unet, text_encoder, scheduler, clean, ids, torch.from_numpy(_timesteps(draw, batch)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.997, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - decay)
        running += float(loss.detach())
        if step % log_every == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": round(running / log_every, 5)})
            print(f"generator {step} steps, {elapsed:.1f} min, loss {running / log_every:.4f}", flush=True)
            running = 0.0
        if step % (6 * log_every) == 0:
            _save(out, unet, text_encoder, vae, tokenizer, scheduler, parameters, averaged)
    _save(out, unet, text_encoder, vae, tokenizer, scheduler, parameters, averaged)
    figures = {"steps": step, "batch": batch, "clips": len(rows), "minutes": round(minutes, 1), "seed": seed}
    figures["parameters"] = sum(value.numel() for value in parameters)
    figures["held_out_loss"] = _held_out_loss(unet, text_encoder, tokenizer, scheduler, vae, cache, held_out, averaged)
    (out / "training.json").write_text(json.dumps(figures | {"history": history}, indent=1) + "\n")
    return figures


def _timesteps(draw: np.random.Generator, batch: int) -> np.ndarray:
    """Stratified uniform timesteps: one a stratum, so that every batch sees all noise levels."""
    return ((draw.permutation(batch) + draw.random(batch)) / batch * 1000).astype(np.int64).clip(0, 999)


def _loss(unet, text_encoder, scheduler, latents, ids, timesteps, generator=None) -> torch.Tensor:
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
    target = scheduler.get_velocity(latents, noise, timesteps)
    states = text_encoder(ids)[0]
    output = unet(noisy, timesteps, encoder_hidden_states=states).sample
    alpha = scheduler.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    weight = (
        torch.clamp(snr, max=5.0) / (snr + 1) + 0.2
    )  # min-SNR for velocity; the floor keeps the noisiest steps trained
    error = (output - target).square().mean((1, 2, 3))
    return (weight * error).mean() / 0.6


def _save(out, unet, text_encoder, vae, tokenizer, scheduler, parameters, averaged) -> None:
    """Write the pipeline with the averaged weights, then put the current ones back."""
    current = [value.detach().clone() for value in parameters]
    with torch.no_grad():
        torch._foreach_copy_(parameters, averaged)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)
    with torch.no_grad():
        torch._foreach_copy_(parameters, current)


@torch.inference_mode()
def _held_out_loss(unet, text_encoder, tokenizer, scheduler, vae, cache, rows, averaged, limit: int = 48) -> float:
    """Unweighted-by-batch loss of the averaged weights on held-out clips, fixed noise, timesteps spread evenly."""
    torch._foreach_copy_([*unet.parameters(), *text_encoder.parameters()], averaged)
    rows = rows[:limit]
    generator = torch.Generator().manual_seed(0)
    losses = []
    for index, row in enumerate(rows):
        latents = vae.encode(to_pixels(cache.images[row : row + 1])).latent_dist.mode() * vae.config.scaling_factor
        text = cache.clips[row]["captions"][0]
        ids = torch.tensor(tokenizer([text], padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids)
        timestep = torch.tensor([int((index + 0.5) / len(rows) * 1000)])
        losses.append(float(_loss(unet, text_encoder, scheduler, latents, ids, timestep, generator)))
    return round(float(np.mean(losses)), 5)
