"""TANGO++ (Chowdhury et al., 2024, appendix A): a picture's tokens beside the text's, aligned by a contrastive loss.

A vision transformer reads the picture; its tokens, brought to the text's width, stand beside the text's states in the
generator's cross-attention (the hybrid embedding), and its class token is drawn to the mean text state of its own
caption and away from others' (`itc`). There is no public code; widths, the number of tokens and the loss's weight are
settings.

A folder holds `config.json` and `tangopp.safetensors`: the transformer, its layers, and a low-rank adapter of the
generator's U-Net.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.attached import AttachedModule, Kept
from blendbench.models.denoisers import Conditions, Denoiser, unet_network
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling, prompted

PUBLISHED: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
"""ViT-B/16: the paper says ViT, its code's unused one has patches of 16 at 224 pixels."""
HYBRIDS = ("concat", "mean")


class PictureWords(nn.Module):
    """From a picture to tokens of the text's width, and both to one space.

    Parameters
    ----------
    vit : mapping
        Of `ViTConfig`.
    width : int
        Of the text's states.
    tokens : int
        Tokens a picture has beside the text.
    shared : int
        Width of the space in which picture and text are compared.
    hybrid : {"concat", "mean"}
        Whether the picture's tokens follow the text's states, or are averaged with them, as many as these are.

    Raises
    ------
    BlendbenchError
        If a setting is unknown.
    """

    def __init__(
        self,
        vit: Mapping[str, Any],
        width: int,
        tokens: int = 16,
        shared: int = 256,
        hybrid: Literal["concat", "mean"] = "concat",
    ) -> None:
        super().__init__()
        if hybrid not in HYBRIDS:
            raise BlendbenchError(f"tangopp.hybrid={hybrid}: choose {', '.join(HYBRIDS)}")
        self.config: dict[str, Any] = {
            "vit": dict(vit),
            "width": width,
            "tokens": tokens,
            "shared": shared,
            "hybrid": hybrid,
        }
        self.vit = ViTModel(ViTConfig(**vit), add_pooling_layer=False)
        self.to_text = nn.Sequential(nn.LayerNorm(vit["hidden_size"]), nn.Linear(vit["hidden_size"], width))
        self.picture_side, self.text_side = nn.Linear(vit["hidden_size"], shared), nn.Linear(width, shared)
        # Temperature .07 at first (Radford et al., 2021).
        self.scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def size(self) -> int:
        """Side of its pictures, in pixels."""
        return int(self.config["vit"]["image_size"])

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, tokens, width] and the place in the shared space [B, shared] of pictures [B, 3, H, W] in 0..1."""
        states = self.vit(pixel_values=2 * pictures.to(self.scale.dtype) - 1).last_hidden_state
        pooled = functional.adaptive_avg_pool1d(states[:, 1:].transpose(1, 2), self.config["tokens"]).transpose(1, 2)
        return self.to_text(pooled), functional.normalize(self.picture_side(states[:, 0]), dim=-1)

    def text_place(self, states: Tensor) -> Tensor:
        """The place in the shared space [B, shared] of text states [B, T, width], by their mean."""
        return functional.normalize(self.text_side(states.to(self.scale.dtype).mean(1)), dim=-1)

    def temperature(self) -> Tensor:
        """Of the contrastive loss; at least .01."""
        return 1 / self.scale.exp().clamp(max=100.0)

    def hybrid(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The hybrid embedding of text states [B, T, width] and a picture's tokens [B, N, width]."""
        tokens = tokens.to(states)
        if self.config["hybrid"] == "concat":
            return torch.cat([states, tokens], 1)
        return (states + functional.adaptive_avg_pool1d(tokens.transpose(1, 2), states.shape[1]).transpose(1, 2)) / 2


class Told(NamedTuple):
    """A generator that is told of pictures."""

    model: LatentDiffusion
    words: PictureWords


def save(folder: Path, words: PictureWords, parts: Mapping[str, lora.LowRank], beside: Mapping[str, Any]) -> None:
    """Write transformer and adapter, in half precision; `beside` goes into the config, too."""
    TangoPPCheckpoint.write(folder, words, parts, {"words": words.config} | dict(beside))


class TangoPPCheckpoint(AttachedModule[Told]):
    """A TANGO++ by name: "pocket" for the built-in generator's, a folder of `blendbench train tangopp`."""

    builtin = "tangopp"
    mended = "it does not travel with the package yet; give a folder of `blendbench train tangopp`"
    layout = "`blendbench train tangopp`'s"
    file, prefix, called = "tangopp.safetensors", "picture.", "TANGO++ of this generator"

    def signature(self) -> dict[str, Any]:
        """The weights."""
        return {"tangopp": self.fingerprint}

    def _made(self, kept: Kept, generator: Generator, device: str) -> Told:
        words = PictureWords(**kept.config["words"])
        words.load_state_dict(kept.own)
        if words.config["width"] != generator.get(device).unet.config.cross_attention_dim:
            raise ValueError(f"width is {words.config['width']}")
        model = self._adapted(kept, generator, device)
        return Told(model, words.eval().requires_grad_(False).to(device))


def pictured(told: Told, prompts: list[str], pictures: Tensor | None, settings: Sampling) -> Denoiser:
    """The denoiser under prompts and pictures [B, 3, H, W] in 0..1; None for none, which is the text alone.

    Under guidance what is steered away from is the empty prompt with the same picture, as in MeLFusion.
    """
    model, words = told
    if pictures is None:
        return prompted(model, prompts, settings)
    network = unet_network(model.unet)

    def predict(latents: Tensor, timestep: Tensor, given: Conditions) -> Tensor:
        return network(latents, timestep, {"text": words.hybrid(given["text"], given["tokens"])})

    return prompted(
        model, prompts, settings, lambda items, text: (predict, {"tokens": words(pictures[items].to(text.device))[0]})
    )
