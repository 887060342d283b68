"""CLIP (Radford et al., 2021): pictures and texts in one space, through transformers."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.pictures import fit

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that it was trained on, red, green and blue in 0..1."""


class Clip(NamedTuple):
    """A CLIP for inference."""

    model: CLIPModel
    tokenizer: Any

    @torch.inference_mode()
    def logits(self, pictures: list[Tensor], texts: list[str]) -> Tensor:
        """Cosines times the learned scale [N, T], on the CPU, of pictures [3, H, W] in 0..1 and texts.

        A picture's middle square is brought to the model's size; texts are cut to its context.
        """
        size = int(self.model.config.vision_config.image_size)
        context = int(self.model.config.text_config.max_position_embeddings)
        mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
        seen = torch.stack([(fit(one, size, "crop") - mean) / spread for one in pictures])
        words = self.tokenizer(texts, padding=True, truncation=True, max_length=context, return_tensors="pt")
        device = self.model.device
        # One by one, so that a picture's numbers do not depend on its neighbours.
        rows = [
            self.model(
                pixel_values=one[None].to(device, self.model.dtype),
                input_ids=words.input_ids.to(device),
                attention_mask=words.attention_mask.to(device),
            ).logits_per_image
            for one in seen
        ]
        return torch.cat(rows).float().cpu()


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
        try:
            model, info = CLIPModel.from_pretrained(
                str(source), dtype=DTYPES[self.dtype], use_safetensors=True, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
        except Exception as error:  # tokenizers raise bare exceptions
            stand_ins.refuse_weights(Path(source), failed=True)
            reason = one_line(str(error).strip().split("\n")[0])
            raise BlendbenchError(f"{source}: cannot be read as a CLIP ({reason}); fetch it again") from error
        if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
            raise BlendbenchError(f"{source}: lacks {len(absent)} weights (such as {absent[0]}); fetch it again")
        return Clip(model.eval().requires_grad_(False).to(device), tokenizer)
