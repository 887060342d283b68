"""CLIP (Radford et al., 2021): pictures and texts in one space, through transformers."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from blendbench.errors import BlendbenchError
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.weights import read_pretrained, reason_of
from blendbench.pictures import fit

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that it was trained on, red, green and blue in 0..1."""


class Clip(NamedTuple):
    """A CLIP for inference."""

    model: CLIPModel
    tokenizer: Any

    @property
    def scale(self) -> float:
        """What cosines are multiplied by for logits; learned."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def picture(self, pixels: Tensor) -> Tensor:
        """Embedding [D] of length 1, on the CPU, of a picture [3, H, W] in 0..1, by its middle square."""
        mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
        seen = (fit(pixels, int(self.model.config.vision_config.image_size), "crop") - mean) / spread
        return _unit(self.model.get_image_features(pixel_values=seen[None].to(self.model.device, self.model.dtype)))

    @torch.inference_mode()
    def text(self, words: str) -> Tensor:
        """Embedding [D] of length 1, on the CPU, of a text, cut to the model's context."""
        context = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer([words], truncation=True, max_length=context, return_tensors="pt").to(self.model.device)
        return _unit(self.model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask))

    def logits(self, pictures: list[Tensor], texts: list[str]) -> Tensor:
        """Cosines times `scale` [N, T] of pictures [3, H, W] in 0..1 and texts."""
        seen, words = torch.stack([*map(self.picture, pictures)]), torch.stack([*map(self.text, texts)])
        return self.scale * seen @ words.T


def _unit(made: Any) -> Tensor:
    # A tensor before transformers 5.
    features: Tensor = made if isinstance(made, Tensor) else made.pooler_output
    return torch.nn.functional.normalize(features[0].float(), dim=0).cpu()


class ClipCheckpoint(Checkpoint[Clip]):
    """A CLIP by name: a folder in transformers' layout with safetensors, a hub id, or a name of `blendbench models`."""

    builtin = "clip"
    marker = "config.json"
    layout = "transformers'"

    def signature(self) -> dict[str, Any]:
        """What changes its numbers."""
        return {"clip": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> Clip:
        options: dict[str, Any] = {"revision": self.revision, "local_files_only": self.local_files_only}
        model = read_pretrained(CLIPModel, source, "a CLIP", dtype=DTYPES[self.dtype], **options)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
        except Exception as error:  # tokenizers raise bare exceptions
            raise BlendbenchError(f"{source}: cannot be read as a CLIP ({reason_of(error)}); fetch it again") from error
        return Clip(model.eval().requires_grad_(False).to(device), tokenizer)
