"""TANGO++ (Chowdhury et al., 2024, appendix A): a picture's tokens beside the text's, aligned by a contrastive loss.

A vision transformer reads the picture; its tokens, brought to the text's width, stand beside the text's states in the
generator's cross-attention (the hybrid embedding), and its class token is drawn to the mean text state of its own
caption and away from others' (`itc`). There is no public code; widths, the number of tokens and the loss's weight are
settings.

A folder holds `config.json` and `tangopp.safetensors`: the transformer, its layers, and a low-rank adapter of the
generator's U-Net.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.batches import in_parts
from blendbench.models.checkpoint import Checkpoint
from blendbench.models.denoisers import Denoiser, by_parts, conditioned, guided, unet_network
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.models.sampling import Sampling
from blendbench.store.write import write_text

FILE, CONFIG = "tangopp.safetensors", "config.json"
PUBLISHED: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
"""ViT-B/16: the paper says ViT, its code's unused one has patches of 16 at 224 pixels."""
HYBRIDS = ("concat", "mean")
_OWN = "picture."


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
    folder.mkdir(parents=True, exist_ok=True)
    values = {_OWN + name: value.detach() for name, value in words.state_dict().items()} | lora.values(dict(parts))
    save_file({name: value.half().contiguous() for name, value in values.items()}, folder / FILE)
    write_text(folder / CONFIG, json.dumps({"words": words.config} | dict(beside), indent=1) + "\n")


class TangoPPCheckpoint(Checkpoint[Told]):
    """A TANGO++ by name: "pocket" for the built-in generator's, a folder of `blendbench train tangopp`."""

    builtin = "tangopp"
    mended = "it does not travel with the package yet; give a folder of `blendbench train tangopp`"
    marker = CONFIG
    layout = "`blendbench train tangopp`'s"

    def signature(self) -> dict[str, Any]:
        """The weights."""
        return {"tangopp": self.fingerprint}

    def of(self, generator: Generator, device: str) -> Told:
        """The generator with its adapter and the picture's side; the generator itself stays as it is.

        Raises
        ------
        BlendbenchError
            If a file is missing, torn, or of another generator.
        """
        if device not in self._models:
            self._found()
            folder, unet = self.folder, generator.get(device).unet
            assert folder is not None
            try:
                values = load_file(folder / FILE)
                words = PictureWords(**json.loads((folder / CONFIG).read_text())["words"])
                own = {name.removeprefix(_OWN): one.float() for name, one in values.items() if name.startswith(_OWN)}
                words.load_state_dict(own)
                if words.config["width"] != unet.config.cross_attention_dim:
                    raise ValueError(f"width is {words.config['width']}")
            except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
                stand_ins.refuse_weights(folder / FILE, failed=True)
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise BlendbenchError(
                    f"{folder}: no TANGO++ of this generator ({reason}); train or copy it again"
                ) from error
            adapter = {name: one for name, one in values.items() if not name.startswith(_OWN)}
            model = generator.changed(device, lambda unet: lora.add(unet, adapter, folder / FILE))
            self._models[device] = Told(model, words.eval().requires_grad_(False).to(device))
        return self._models[device]

    def _load(self, source: Path | str, device: str) -> Told:
        raise BlendbenchError(f"{self.key}.checkpoint={self.checkpoint}: give a folder; there is none on a hub")


def pictured(told: Told, prompts: list[str], pictures: Tensor | None, settings: Sampling) -> Denoiser:
    """The denoiser under prompts and pictures [B, 3, H, W] in 0..1; None for none, which is the text alone.

    Under guidance what is steered away from is the empty prompt with the same picture, as in MeLFusion.
    """
    model, words = told
    model.check_channels(extra=0)
    is_guided = settings.guidance_scale > 1
    text, empty = encode_prompts(model, prompts, settings.negative_prompt if is_guided else None)
    network = unet_network(model.unet)

    def of_items(items: slice) -> Denoiser:
        own, away = text[items], None if empty is None else empty[items]
        if pictures is not None:
            tokens, _ = words(pictures[items].to(text.device))
            own, away = words.hybrid(own, tokens), None if away is None else words.hybrid(away, tokens)
        if away is None:
            return conditioned(network, {"text": own})
        return guided(network, {"text": own}, {"text": away}, settings.guidance_scale)

    return by_parts(of_items, in_parts(model.device, len(prompts)))
