"""TANGO: latent diffusion of mel spectrograms from a caption: its parts, what they code, and its sampling.

Four networks: a U-Net under cross-attention over latents, an autoencoder between latents and log mel spectrograms, a
vocoder to waveforms, and FLAN-T5's encoder, which was frozen. Sizes are dictionaries (`PUBLISHED`), so that the same
code builds smaller ones.

Conventions: a log mel spectrogram is [B, 1, frames, mels], time first, as `sound.tango_mel` makes it; latents are
float32 [B, 8, frames / 4, mels / 4], scaled to a deviation near 1; waveforms are float32 [B, samples] at 16 kHz in
-1..1 and are never rounded to 16 bits, where the published code's product with 32768 can wrap. Networks run in the
model's dtype. Every item of a batch has its own seed, and on a CPU goes through the networks by itself, so that its
music does not depend on its neighbours.

A model is a folder: `unet/`, `vae/`, `vocoder/`, `text_encoder/` (a config and safetensors each), `tokenizer/`,
`scheduler/` and `model_index.json`.

Source: Ghosal et al. (2023), Text-to-Audio Generation using Instruction-Tuned LLM and Latent Diffusion Model
(arXiv 2304.13731), and its code (declare-lab/tango).
"""

import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import is_accelerate_available
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models.batches import in_parts
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.denoisers import Conditions, Denoiser, Network, by_parts, conditioned, guided
from blendbench.models.latent_diffusion import Seeds, make_generators
from blendbench.models.sampling import Progress, sample
from blendbench.sound import tango_mel
from blendbench.store.write import placing_folder, write_text

logger = logging.getLogger(__name__)
SAMPLE_RATE = tango_mel.SAMPLE_RATE
"""Of waveforms, in Hz."""
TOKENS = 512
"""Most tokens of a caption; what is beyond is cut."""
SCALING = 0.9227914214134216
"""One over the deviation of the published autoencoder's latents."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "sample_size": [256, 16],
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        # diffusers calls the number of heads so.
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": {
        "sample_size": [1024, 64],
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [128, 256, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "latent_channels": 8,
        "scaling_factor": SCALING,
    },
    "vocoder": {
        "model_in_dim": tango_mel.MELS,
        "sampling_rate": SAMPLE_RATE,
        "upsample_initial_channel": 1024,
        "upsample_rates": [5, 4, 2, 2, 2],
        "upsample_kernel_sizes": [16, 16, 8, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "leaky_relu_slope": 0.1,
        "normalize_before": False,
    },
    "text_encoder": {
        "vocab_size": 32_128,
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 2816,
        "num_layers": 24,
        "num_heads": 16,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}
"""Sizes of the published parts: 865,933,768, 55,376,873, 55,264,897 and 341,231,104 parameters (flan-t5-large's)."""
SCHEDULER: Mapping[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    # TANGO was sampled by a diffusers that knew no offset: 200 steps are 995, 990 .. 0, where today's of the published
    # config are 996, 991 .. 1.
    "steps_offset": 0,
    "timestep_spacing": "leading",
}
"""Stable Diffusion 2.1's noise schedule, whose repository is gone from the hub."""
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "vocoder": "model.safetensors",
    "text_encoder": "model.safetensors",
}
"""File of weights in each part's folder."""
TIED = "encoder.embed_tokens.weight"
"""Second name of the text encoder's table of tokens, which files hold once."""
_CLASSES: Mapping[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "vocoder": SpeechT5HifiGan,
    "text_encoder": T5EncoderModel,
}
_CONFIGS: Mapping[str, Any] = {"vocoder": SpeechT5HifiGanConfig, "text_encoder": T5Config}


class Text(NamedTuple):
    """What the text encoder says of B captions."""

    states: torch.Tensor
    """[B, T, D], T the tokens of the longest; 0 behind an item's own."""
    mask: torch.Tensor
    """[B, T] bool: which tokens are the item's own, from the left."""


def build(part: str, config: Mapping[str, Any]) -> Any:
    """An untrained part of a size; within `torch.device("meta")` without memory for its weights.

    Parameters
    ----------
    part : str
        "unet", "vae", "vocoder" or "text_encoder".
    config : mapping
        Such as `PUBLISHED[part]`.

    Raises
    ------
    BlendbenchError
        If the config is none of such a part.
    """
    try:
        return _CLASSES[part](_CONFIGS[part](**config)) if part in _CONFIGS else _CLASSES[part](**config)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise BlendbenchError(f"{part}: no network of this config ({one_line(str(error))}); correct it") from error


@dataclass
class Tango:
    """The parts of a TANGO, for inference or training; `device` and `dtype` are those of its U-Net.

    Parameters
    ----------
    unet : UNet2DConditionModel
    vae : AutoencoderKL
        Of one channel; its `scaling_factor` is what latents are multiplied by.
    vocoder : SpeechT5HifiGan
        Of log mel spectrograms.
    text_encoder : T5EncoderModel
    tokenizer
        transformers' of the text encoder.
    scheduler_config : mapping
        Of `DDPMScheduler`.

    Raises
    ------
    BlendbenchError
        If the parts do not belong together.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    vocoder: SpeechT5HifiGan
    text_encoder: T5EncoderModel
    tokenizer: Any
    scheduler_config: Mapping[str, Any] = field(default_factory=lambda: dict(SCHEDULER))

    def __post_init__(self) -> None:
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoder.config
        pairs = (
            ("unet: in_channels", unet.in_channels, "vae: latent_channels", vae.latent_channels),
            ("unet: out_channels", unet.out_channels, "vae: latent_channels", vae.latent_channels),
            ("unet: cross_attention_dim", unet.cross_attention_dim, "text_encoder: d_model", text.d_model),
            ("vae: in_channels", vae.in_channels, "the channels of a spectrogram", 1),
            ("vae: out_channels", vae.out_channels, "the channels of a spectrogram", 1),
        )
        for one, value, other, wanted in pairs:
            if value != wanted:
                raise BlendbenchError(f"{one} is {value}, but {other} {wanted}; take both from the same checkpoint")
        if self.mels % self.factor:
            raise BlendbenchError(f"vocoder: model_in_dim is {self.mels}, which vae: factor {self.factor} must divide")
        if len(self.tokenizer) > text.vocab_size:
            raise BlendbenchError(
                f"tokenizer: knows {len(self.tokenizer)} tokens, but text_encoder: vocab_size is {text.vocab_size}; "
                "take both from the same checkpoint"
            )
        for module in self._modules().values():
            module.eval()

    def _modules(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _CLASSES}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def mels(self) -> int:
        """Bands of a spectrogram."""
        return int(self.vocoder.config.model_in_dim)

    @property
    def factor(self) -> int:
        """Frames, and bands, that one latent stands for."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, frames: int = tango_mel.FRAMES) -> tuple[int, int, int]:
        """Channels, places in time and in frequency of the latents of so many frames: (8, 256, 16) as published.

        Raises
        ------
        BlendbenchError
            If the factor does not divide the frames.
        """
        if frames < 1 or frames % self.factor:
            raise BlendbenchError(f"frames is {frames}; give a positive multiple of {self.factor}")
        return int(self.vae.config.latent_channels), frames // self.factor, self.mels // self.factor

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device; returns itself."""
        for module in self._modules().values():
            module.to(device=device)
        return self

    def scheduler(self) -> DDPMScheduler:
        """A fresh scheduler, which then holds the state of one run."""
        accepted = inspect.signature(DDPMScheduler.__init__).parameters
        return DDPMScheduler(**{name: value for name, value in self.scheduler_config.items() if name in accepted})

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Text:
        """States of captions, each distinct one encoded once; longer ones than 512 tokens are cut, with a warning.

        Parameters
        ----------
        captions : sequence of str
            B of them, "" for none.

        Returns
        -------
        Text
            In the text encoder's dtype.

        Raises
        ------
        BlendbenchError
            If there is no caption.
        """
        if not captions:
            raise BlendbenchError("captions: none given; give at least one")
        distinct = list(dict.fromkeys(captions))
        ids = self._tokens(distinct)
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in ids], batch_first=True)
        filled = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)
        parts = []
        for items in in_parts(self.device, len(ids)):
            # Up to the part's longest, so that alone an item is encoded without a neighbour's padding.
            own = mask[items, : int(mask[items].sum(1).max())].to(self.device)
            given = filled[items, : own.shape[1]].to(self.device)
            states = self.text_encoder(input_ids=given, attention_mask=own.long()).last_hidden_state
            parts.append(pad(states * own[..., None], (0, 0, 0, mask.shape[1] - own.shape[1])))
        row = {caption: index for index, caption in enumerate(distinct)}
        order = [row[caption] for caption in captions]
        return Text(torch.cat(parts)[order], mask.to(self.device)[order])

    def _tokens(self, captions: list[str]) -> list[torch.Tensor]:
        limit = min(int(self.tokenizer.model_max_length), TOKENS)
        whole = self.tokenizer(captions, verbose=False).input_ids
        if cut := [one for one, ids in zip(captions, whole, strict=True) if len(ids) > limit]:
            logger.warning("captions cut to the text encoder's %d tokens: %d, such as %r", limit, len(cut), cut[0][:60])
        # Cut by the tokenizer, which keeps the token that ends a text.
        kept = self.tokenizer(captions, truncation=True, max_length=limit).input_ids
        return [torch.tensor(ids) for ids in kept]

    @torch.no_grad()
    def encode_mel(self, mel: torch.Tensor, seeds: Seeds | None = None) -> torch.Tensor:
        """Scaled latents of log mel spectrograms.

        Parameters
        ----------
        mel : Tensor [B, 1, frames, mels]
            Of `sound.tango_mel`.
        seeds : sequence of int or torch.Generator, optional
            One an item, for a draw from the posterior, as in training; without them its mode is taken.

        Returns
        -------
        Tensor [B, 8, frames / 4, mels / 4]

        Raises
        ------
        BlendbenchError
            If the spectrograms have another shape or are not finite, or the number of seeds is not theirs.
        """
        if mel.ndim != 4 or mel.shape[1] != 1 or mel.shape[3] != self.mels or not mel.is_floating_point():
            raise BlendbenchError(
                f"mel: {mel.dtype} of shape {list(mel.shape)}; give float spectrograms [B, 1, frames, {self.mels}]"
            )
        self.latent_shape(mel.shape[2])
        if not bool(torch.isfinite(mel).all()):
            raise BlendbenchError("mel: values are not all finite; mend the audio that it comes from")
        given, vae = mel.to(self.device, self.dtype), self.vae
        parameters = torch.cat(
            [vae.encode(given[items]).latent_dist.parameters for items in in_parts(self.device, len(given))]
        )
        # The posterior in float32, so that a draw is the same in every dtype of the networks.
        posterior = DiagonalGaussianDistribution(parameters.float())
        if seeds is None:
            latents = posterior.mode()
        else:
            latents = posterior.sample(generator=make_generators(seeds, len(mel), "spectrograms"))
        scaled: torch.Tensor = latents * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode_mel(self, latents: torch.Tensor) -> torch.Tensor:
        """Log mel spectrograms, float32 [B, 1, frames, mels], of scaled latents [B, 8, frames / 4, mels / 4]."""
        given = (latents / self.vae.config.scaling_factor).to(self.device, self.dtype)
        return torch.cat([self.vae.decode(given[items]).sample for items in in_parts(self.device, len(given))]).float()

    @torch.no_grad()
    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """Waveforms, float32 [B, samples] in -1..1 at 16 kHz, of log mel spectrograms [B, 1, frames, mels].

        The published vocoder's first stage makes one place more than five times as many, so 1024 frames become 163,872
        samples: 32 more than 160 a frame.
        """
        given = mel[:, 0].to(self.device, self.dtype)
        return torch.cat([self.vocoder(given[items]) for items in in_parts(self.device, len(given))]).float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Waveforms, float32 [B, samples] at 16 kHz, of scaled latents: `vocode` of `decode_mel`."""
        return self.vocode(self.decode_mel(latents))

    def save(self, folder: Path | str) -> None:
        """Write the model as a folder, whole or not at all; raises BlendbenchError where that fails."""
        with placing_folder(Path(folder)) as temporary:
            for name, module in self._modules().items():
                module.save_pretrained(temporary / name, safe_serialization=True)
            self.tokenizer.save_pretrained(temporary / "tokenizer")
            write_index(temporary, self.scheduler_config)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read a folder that `save` or `tango_published.convert_published` wrote: safetensors only, no code.

        Raises
        ------
        BlendbenchError
            If a part is missing, unreadable, lacks weights or has others than its config asks for.
        """
        folder = Path(folder)
        for file in _needed():
            stand_ins.refuse(folder / file)
            if not (folder / file).is_file():
                raise BlendbenchError(
                    f"{printable(folder)}: {file} is missing; give a folder that was converted of a TANGO"
                )
        parts = {name: _read_part(folder, name, dtype) for name in _CLASSES}
        tokenizer = _read(
            folder, "tokenizer", lambda: AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        )
        scheduler = read_json(folder / "scheduler/scheduler_config.json")
        model = cls(tokenizer=tokenizer, scheduler_config=scheduler, **parts)
        _read(folder, "scheduler", model.scheduler)
        return model.to(device)


def _needed() -> list[str]:
    configs = [f"{name}/config.json" for name in _CLASSES]
    weights = [f"{name}/{file}" for name, file in WEIGHTS.items()]
    return [*configs, *weights, "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"]


def _read(folder: Path, part: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        stand_ins.refuse_weights(folder / part, failed=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BlendbenchError(
            f"{printable(folder)}: cannot load {part}/ ({one_line(reason)}); convert or fetch it again"
        ) from error


_UNLIKE = {
    "missing_keys": "lacks",
    "unexpected_keys": "has besides",
    "mismatched_keys": "has in another shape",
    "error_msgs": "cannot read",
}


def _read_part(folder: Path, name: str, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    if name in _CONFIGS:
        options["dtype"] = dtype
    else:
        # Without accelerate diffusers warns at every load unless the second is off.
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    module, info = _read(folder, name, lambda: _CLASSES[name].from_pretrained(str(folder / name), **options))
    # Both libraries fill what is missing with random numbers, pass over what is unknown, and only warn.
    for key, is_so in _UNLIKE.items():
        if found := sorted(map(str, info.get(key) or [])):
            raise BlendbenchError(
                f"{printable(folder)}: {name}/ {is_so} {len(found)} weights, unlike its config (such as {found[0]}); "
                "convert or fetch it again"
            )
    return module


def write_index(folder: Path, scheduler: Mapping[str, Any] = SCHEDULER) -> None:
    """Write what a model's folder holds beside its networks and tokenizer: the index and the noise schedule."""
    index = {"_class_name": "Tango"} | {name: kind.__name__ for name, kind in _CLASSES.items()}
    write_text(folder / "model_index.json", json.dumps(index, indent=1) + "\n")
    write_text(folder / "scheduler/scheduler_config.json", json.dumps(dict(scheduler), indent=1) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file's object; raises BlendbenchError where there is none."""
    stand_ins.refuse(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{printable(file)}: cannot be read ({one_line(str(error))}); fetch it again") from error
    if not isinstance(content, dict):
        raise BlendbenchError(f"{printable(file)}: holds no JSON object; fetch it again")
    return content


# Sampling


def network(unet: UNet2DConditionModel) -> Network:
    """A U-Net under cross-attention over masked text, as a network of `denoisers`.

    It reads the conditions `text` [B, T, D] and `mask` [B, T], which `conditions` makes.
    """

    def predict(latents: torch.Tensor, timestep: torch.Tensor, given: Conditions) -> torch.Tensor:
        output: torch.Tensor = unet(
            latents.to(unet.dtype),
            timestep,
            encoder_hidden_states=given["text"].to(unet.dtype),
            encoder_attention_mask=given["mask"],
        ).sample
        return output.float()

    return predict


def conditions(text: Text, items: slice, least: int = 0) -> dict[str, torch.Tensor]:
    """Text of some items as `network` reads it, with the tokens of the longest of them and no more.

    So an item that goes by itself is computed as if it had no neighbours.

    Parameters
    ----------
    text : Text
    items : slice
    least : int
        Tokens that it is padded to where all are shorter.

    Returns
    -------
    dict
        `text` [B, T, D] and `mask` [B, T].
    """
    states, mask = text.states[items], text.mask[items]
    own = int(mask.sum(1).max())
    more = max(least - own, 0)
    return {"text": pad(states[:, :own], (0, 0, 0, more)), "mask": pad(mask[:, :own], (0, more))}


def prompted(model: Tango, captions: Sequence[str], guidance_scale: float = 3.0) -> Denoiser:
    """The denoiser of a model under B captions, with classifier-free guidance where the scale is above 1.

    v = v(x_t, "") + scale * (v(x_t, caption) - v(x_t, "")); the empty caption is the one token that ends a text.
    """
    text, predict = model.encode_text(captions), network(model.unet)
    empty = model.encode_text([""]) if guidance_scale > 1 else None

    def of_items(items: slice) -> Denoiser:
        if empty is None:
            return conditioned(predict, conditions(text, items))
        given = conditions(text, items, empty.mask.shape[1])
        count, length = given["mask"].shape
        one = conditions(empty, slice(None), length)
        without = {name: value.expand(count, *value.shape[1:]) for name, value in one.items()}
        return guided(predict, given, without, guidance_scale)

    return by_parts(of_items, in_parts(model.device, len(captions)))


@torch.no_grad()
def text_to_latents(
    model: Tango,
    captions: Sequence[str],
    seeds: Seeds,
    steps: int = 200,
    guidance_scale: float = 3.0,
    frames: int = tango_mel.FRAMES,
    denoiser: Denoiser | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Latents from captions: ancestral sampling (DDPM; Ho et al., 2020), as TANGO does.

    200 steps call the network at the times 995, 990 .. 0.

    Parameters
    ----------
    captions : sequence of str
        B of them.
    seeds : sequence of int or torch.Generator
        One an item, for its noise; drawn on the CPU.
    steps : int
        1..1000.
    guidance_scale : float
        Weight of classifier-free guidance; at 1 or below the empty caption is not asked.
    frames : int
        Length in frames of 10 ms; the published model has learnt 1024 alone.
    denoiser : Denoiser, optional
        In place of the captions' own (`prompted`), as of a network that is told more; then the guidance is its matter.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Tensor [B, 8, frames / 4, mels / 4]

    Raises
    ------
    BlendbenchError
        If a setting is out of range, or the lengths differ.
    """
    generators = make_generators(seeds, len(captions), "captions")
    if not math.isfinite(guidance_scale):
        raise BlendbenchError(f"guidance_scale is {guidance_scale}; give a finite number, such as 3")
    scheduler, shape = model.scheduler(), model.latent_shape(frames)
    trained = scheduler.config.num_train_timesteps
    if not isinstance(steps, int) or not 1 <= steps <= trained:
        raise BlendbenchError(f"steps is {steps!r}; give a whole number within 1..{trained}")
    scheduler.set_timesteps(steps, device=model.device)
    denoiser = prompted(model, captions, guidance_scale) if denoiser is None else denoiser
    noise = randn_tensor((len(captions), *shape), generator=generators, device=model.device, dtype=torch.float32)
    latents = noise * scheduler.init_noise_sigma
    return sample(denoiser, scheduler, scheduler.timesteps, latents, generators, progress=progress)


def text_to_music(model: Tango, captions: Sequence[str], seeds: Seeds, **settings: Any) -> torch.Tensor:
    """Waveforms, float32 [B, samples] at 16 kHz, from captions; settings and errors as of `text_to_latents`."""
    return model.decode(text_to_latents(model, captions, seeds, **settings))


class TangoCheckpoint(Checkpoint[Tango]):
    """A TANGO by name: a folder in `Tango.save`'s layout, or a name of `blendbench models`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    """

    builtin = "tango"
    layout = "a converted TANGO's"

    def signature(self) -> dict[str, Any]:
        """What changes its music: the checkpoint's hash, and the precision."""
        return {"tango": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> Tango:
        return Tango.load(source, device, DTYPES[self.dtype])
