"""Train the pocket generator: tokenizer, text encoder and U-Net on the autoencoder's latents.

The text encoder is trained together with the U-Net, since no pre-trained one is assumed. The U-Net predicts velocity
(Salimans and Ho 2022) under a noise schedule rescaled to zero terminal SNR (Lin et al. 2024), so that sampling may
start from pure noise; the loss is weighted by min-SNR with gamma 5 (Hang et al. 2023). Short stretches of clips come
first: a quarter of a clip costs a quarter, and convolutions and attention carry over to whole clips.

The state is kept in the work folder, so that a stopped training goes on where it was.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blendbench.datasets import builtin
from blendbench.errors import BlendbenchError
from blendbench.models.autoencoder import PatchAutoencoder
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop
from blendbench.train.pocket.autoencoder import to_pixels

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noised latents [N, C, H, W] and time steps [N] to the velocity [N, C, H, W] that is taken to be theirs."""
MAX_TOKENS = 48
UNET = {
    "sample_size": 64,
    "layers_per_block": 1,
    "block_out_channels": [48, 96, 160, 208],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 160,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    # The text, pooled, also joins the time embedding: levels without cross-attention hear of the genre too.
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
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


class Latents:
    """Scaled latents of mel images, computed when first asked for and kept on disk in half precision.

    Parameters
    ----------
    autoencoder : PatchAutoencoder
        Whose latents.
    images : np.ndarray [N, H, W]
        Grey pixels, uint8.
    folder : Path
        Where `latents.f16` is kept, a row an image, with the list of rows that are there.
    """

    def __init__(self, autoencoder: PatchAutoencoder, images: np.ndarray, folder: Path) -> None:
        self.autoencoder, self.images = autoencoder, images
        self.shape = (autoencoder.config.latent_channels, *(side // 8 for side in images.shape[1:]))
        (folder / "latents.f16").touch()
        self.values = (folder / "latents.f16").open("r+b", buffering=0)
        self.list = (folder / "latents.rows").open("a+")
        self.list.seek(0)
        self.there = {int(line) for line in self.list.read().split()}

    @torch.inference_mode()
    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        """Latents [N, C, 64, 64] of the rows, in float32."""
        return torch.stack([self._one(int(row)).float() for row in rows])

    def _one(self, row: int) -> torch.Tensor:
        size = 2 * math.prod(self.shape)
        self.values.seek(row * size)
        if row in self.there:
            return torch.from_numpy(np.frombuffer(self.values.read(size), np.float16).reshape(self.shape).copy())
        pixels = to_pixels(self.images[row : row + 1])
        latents = self.autoencoder.to_latents(pixels.to(self.autoencoder.device))[0].cpu()
        # Inside of a training's autocast they are computed in bfloat16: an error of half a percent of their spread.
        latents = (latents.float() * self.autoencoder.config.scaling_factor).half()
        self.values.write(latents.numpy().tobytes())
        self.there.add(row)
        print(row, file=self.list, flush=True)
        return latents


def train(
    cache: ClipCache | Path | str,
    vae_folder: Path | str,
    out: Path | str,
    *,
    steps: int,
    prompts: list[str] | None = None,
    seed: int = 0,
    batch: int = 8,
    learning_rate: float = 8e-4,
    caption_dropout: float = 0.1,
    widths: tuple[tuple[float, int], ...] = ((0.3, 16), (0.65, 32), (1.0, 64)),
    decay: float = 0.9985,
    device: str = "cpu",
    log_every: int = 25,
    save_every: int = 100,
) -> dict:
    """Train for a number of steps and save a whole diffusers pipeline to `out`; a stopped training goes on.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train" with captions, or its folder; rows added since a stop take part from then on.
    vae_folder : Path
        The trained autoencoder.
    steps : int
        Optimisation steps in all; the learning rate falls to zero over them (cosine).
    prompts : list of str
        Texts whose words must be in the vocabulary besides the captions' (they are not trained on); the built-in
        prompts if None.
    batch : int
        Whole clips a step, or as many more stretches of them as cost the same.
    widths : tuple of (float, int)
        Up to which share of the steps stretches of which width are seen, in latent columns of 80 ms.
    decay : float
        Share of the old average of the weights that is kept at each step.
    device : str
        Torch device; the networks run in bfloat16 where it is fast at that.

    Returns
    -------
    dict
        Figures for the card: steps, clips, parameters, loss on held-out clips.

    Raises
    ------
    BlendbenchError
        If the cache holds no training music, or the kept state is of another training.
    """
    cache, out = opened(cache), Path(out)
    known = [prompt.text for prompt in builtin.prompts()] if prompts is None else prompts
    torch.manual_seed(seed)
    rows, held_out = cache.rows(split="train", kind="music"), cache.rows(split="held_out", kind="music")
    if not len(rows):
        raise BlendbenchError(f"{cache.folder}: no training music; run `blendbench train data` first")
    out.mkdir(parents=True, exist_ok=True)
    vae = PatchAutoencoder.from_pretrained(vae_folder, low_cpu_mem_usage=False).eval()
    captions = [cache.clips[row]["captions"] for row in rows]
    if (out / "tokenizer" / "tokenizer_config.json").exists():
        tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    else:
        tokenizer = train_tokenizer([text for texts in captions for text in texts] + known, out / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **TEXT_ENCODER,
        )
    )
    channels = vae.config.latent_channels
    unet = UNet2DConditionModel(in_channels=channels, out_channels=channels, **UNET)
    unet = unet.to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(**SCHEDULER)
    model = LatentDiffusion(unet, vae, text_encoder, tokenizer, {"_class_name": "DDIMScheduler", **SCHEDULER})
    model.to(device)
    for module in (unet, text_encoder):
        module.train()
    latents = Latents(vae, cache.images, out)
    loop = Loop(
        "generator",
        [*unet.parameters(), *text_encoder.parameters()],
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate},
        warm_up=100,
        decay=decay,
        weight_decay=1e-2,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        width, count = stretch(step, steps, batch, widths, len(rows))
        chosen = draw.choice(len(rows), count, replace=False)
        clean = latents[rows[chosen]]
        clean = parts_of(clean, draw.integers(0, clean.shape[-1] - width + 1, count), width)
        texts = ["" if draw.random() < caption_dropout else str(draw.choice(captions[i])) for i in chosen]
        noise = torch.randn(clean.shape)
        given = (clean, noise, timesteps(draw, count), token_ids(tokenizer, texts))
        clean, noise, steps_drawn, ids = (value.to(device) for value in given)
        return velocity_loss(worded(unet, text_encoder(ids)[0]), scheduler, clean, noise, steps_drawn)

    loop.run(loss)
    for module in (unet, text_encoder):
        module.eval()
    held_out_figures = {"clips": len(rows), "held_out_loss": held_out_loss(model, scheduler, latents, cache, held_out)}
    model.save(out)
    return loop.report(out / "training.json", held_out_figures)


def stretch(step: int, steps: int, batch: int, widths: Sequence[tuple[float, int]], most: int) -> tuple[int, int]:
    """Width in latent columns of what a step sees, and how many of them cost as much as `batch` whole clips.

    Parameters
    ----------
    step, steps : int
        Which of how many.
    batch : int
    widths : sequence of (float, int)
        Up to which share of the steps stretches of which width are seen.
    most : int
        Clips that there are.
    """
    width = next(width for share, width in widths if step < share * steps or share == 1)
    return width, min(batch * 64 // width, most)


def parts_of(values: torch.Tensor, lefts: np.ndarray, width: int) -> torch.Tensor:
    """So many columns of each of N values [N, ..., columns], from a place of its own on."""
    return torch.stack([one[..., left : left + width] for one, left in zip(values, lefts, strict=True)])


def spread(rows: np.ndarray, limit: int = 48) -> list[tuple[int, torch.Tensor]]:
    """Rows over all that are held out, at most so many, each with a time step [1]; these are spread evenly, too."""
    rows = rows[:: max(1, len(rows) // limit)][:limit]
    return [(int(row), torch.tensor([int((place + 0.5) / len(rows) * 1000)])) for place, row in enumerate(rows)]


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers [N, T] of texts, filled or cut to the text encoder's length."""
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return tokens.input_ids


def timesteps(draw: np.random.Generator, count: int) -> torch.Tensor:
    """Stratified uniform time steps [count]: one a stratum, so that every batch sees all noise levels."""
    return torch.from_numpy(((draw.permutation(count) + draw.random(count)) / count * 1000).astype(np.int64))


def worded(unet: UNet2DConditionModel, text: torch.Tensor) -> Predict:
    """A U-Net's prediction under texts [N, T, D]."""
    return lambda noisy, timesteps: unet(noisy, timesteps, encoder_hidden_states=text).sample


def velocity_loss(
    predict: Predict,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """Weighted squared error of the velocity that is predicted for noised latents [N, C, H, W] at time steps [N]."""
    noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
    target = scheduler.get_velocity(latents, noise, timesteps)
    output = predict(noisy, timesteps).float()
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alpha / (1 - alpha)
    # Min-SNR for velocity; the floor keeps the noisiest steps trained.
    weight = torch.clamp(snr, max=5.0) / (snr + 1) + 0.2
    return (weight * (output - target).square().mean((1, 2, 3))).mean() / 0.6


@torch.inference_mode()
def held_out_loss(
    model: LatentDiffusion,
    scheduler: DDIMScheduler,
    latents: Latents,
    cache: ClipCache,
    rows: np.ndarray,
) -> float:
    """Mean loss on held-out clips, fixed noise, time steps spread evenly."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for row, timestep in spread(rows):
        clean = latents[np.array([row])]
        text = cache.clips[row]["captions"][0]
        ids = token_ids(model.tokenizer, [text])
        noise = torch.randn(clean.shape, generator=generator)
        clean, noise, timestep, ids = (value.to(model.device) for value in (clean, noise, timestep, ids))
        predict = worded(model.unet, model.text_encoder(ids)[0])
        losses.append(float(velocity_loss(predict, scheduler, clean, noise, timestep)))
    return round(float(np.mean(losses)), 5)
