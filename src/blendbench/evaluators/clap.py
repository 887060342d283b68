"""CLAP (Wu et al. 2023): sounds and texts in one space, through transformers.

Not through laion_clap: that package downloads as it is imported, and its checkpoints are pickles. The hub's conversions
of the same weights are safetensors, hear the same features and are read offline.
"""

from typing import Any

import torch
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from blendbench.errors import BlendbenchError, one_line
from blendbench.evaluators import Scores, TextEvaluator
from blendbench.evaluators.published import Published, read_hub_model

TEXT_TOKENS = 77
"""What laion_clap cuts texts to."""


class CLAP(Published, TextEvaluator):
    """CLAP: one embedding of unit length a sound or text, no classes.

    A sound up to the feature extractor's length (10 s) is repeated and padded to it; of a longer one only the first
    10 s are heard, where the reference would draw a random crop. So nothing is random.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    checkpoint : str, optional
        A folder in transformers' layout with safetensors, or a hub id in the local cache; None for `model`.
    model : str
        What `blendbench.models` keeps: "clap", or "clap_general" for the larger one.
    """

    sample_rate = 48_000
    in_folder = True

    def __init__(self, name: str, checkpoint: str | None = None, model: str = "clap", comparable: bool = True) -> None:
        super().__init__(name, checkpoint, comparable, model)

    @property
    def scale(self) -> float:
        """What cosines of sounds and texts are multiplied by for logits; learned."""
        return float(self.model[0].logit_scale_a.detach().exp())

    def _load(self, device: str) -> Any:
        model = read_hub_model(ClapModel, self.weights, "clap", device)
        try:
            features = ClapFeatureExtractor.from_pretrained(self.weights, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(self.weights, local_files_only=True)
        except Exception as error:  # tokenizers raise bare exceptions
            reason = one_line(str(error).strip().split("\n")[0])
            raise BlendbenchError(
                f"{self.weights}: no readable feature extractor and tokenizer ({reason}); fetch it again"
            ) from error
        if features.sampling_rate != self.sample_rate:
            raise BlendbenchError(
                f"{self.weights}: hears {features.sampling_rate} Hz, not {self.sample_rate}; give another checkpoint"
            )
        return model, features, tokenizer

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embedding [1, D] of the first 10 s of a waveform [samples]; raises ClipError if it is empty."""
        self._check_length(waveform, 1)
        model, features, _ = self.model
        sound = waveform.float().cpu()[: features.nb_max_samples].numpy()
        made = features(sound, sampling_rate=self.sample_rate, return_tensors="pt").to(self._device)
        embedding = _pooled(model.get_audio_features(made["input_features"].float(), is_longer=made["is_longer"]))
        return Scores(embedding.cpu(), None)

    @torch.inference_mode()
    def score_text(self, text: str) -> torch.Tensor:
        """Embedding [D] of a text's first 77 tokens."""
        model, _, tokenizer = self.model
        tokens = tokenizer(text, truncation=True, max_length=TEXT_TOKENS, return_tensors="pt").to(self._device)
        embedding = _pooled(model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"]))
        return embedding[0].cpu()


def _pooled(made: Any) -> torch.Tensor:
    # A tensor before transformers 5.
    return made if isinstance(made, torch.Tensor) else made.pooler_output
