"""MusicGen with a melody (Copet et al. 2023) over transformers' components: seeded, batched, cut to length.

The published checkpoint's melody input is a chromagram, one pitch class a frame. Draws come from one generator an item,
so that an item's music depends neither on the batch nor on the order. transformers puts text of unlike lengths into one
batch by adding empty positions before the music, which changes it; here only texts of one length share a batch.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MusicgenMelodyConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)
from transformers.models.musicgen_melody import MusicgenMelodyDecoderConfig

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import spectral_codec  # noqa: F401 - tells transformers of the built-in one's codec
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.sound import audio


@dataclass(frozen=True)
class CodeSampling:
    """How codes are drawn.

    Parameters
    ----------
    guidance_scale : float
        Classifier-free guidance; 1 switches it off.
    top_k : int
        Codes that may be drawn, the likeliest ones; 0 for all.
    temperature : float
        Divides the logits.
    """

    guidance_scale: float = 3.0
    top_k: int = 250
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.guidance_scale >= 1:
            raise BlendbenchError(f"guidance_scale is {self.guidance_scale}; give 1 (none) or more")
        if self.top_k < 0:
            raise BlendbenchError(f"top_k is {self.top_k}; give 0 (all codes) or more")
        if not self.temperature > 0:
            raise BlendbenchError(f"temperature is {self.temperature}; give a number above 0")


class MusicGenCheckpoint(Checkpoint["MusicGen"]):
    """A MusicGen melody in transformers' layout; see `Checkpoint`."""

    builtin = "musicgen"
    marker = "config.json"
    layout = "transformers'"

    def signature(self) -> dict[str, Any]:
        """What changes the music: checkpoint hash and precision."""
        return {"checkpoint": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> "MusicGen":
        return MusicGen.load(source, device, DTYPES[self.dtype], self.revision, self.local_files_only)


class MusicGen:
    """A loaded checkpoint.

    Parameters
    ----------
    model : MusicgenMelodyForConditionalGeneration
    tokenizer : transformers tokenizer
        Of the text encoder.
    features : MusicgenMelodyFeatureExtractor
        From waveforms to chroma.

    Raises
    ------
    BlendbenchError
        If the installed transformers ignores melody, text or guidance.
    """

    def __init__(self, model: Any, tokenizer: Any, features: MusicgenMelodyFeatureExtractor) -> None:
        check_conditions()
        self.model, self.tokenizer, self.features = model.eval(), tokenizer, features

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        local_files_only: bool = True,
    ) -> "MusicGen":
        """Read a checkpoint in transformers' layout, safetensors only.

        Raises
        ------
        BlendbenchError
            If it is not there, not complete, or of another kind.
        """
        options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        try:
            with _quiet():
                return cls._load(source, device, dtype, options)
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            stand_ins.refuse_weights(source, failed=True)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BlendbenchError(f"{source}: no readable MusicGen melody checkpoint ({reason})") from error

    @classmethod
    def _load(cls, source: str | Path, device: str, dtype: torch.dtype, options: dict[str, Any]) -> "MusicGen":
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        features = MusicgenMelodyFeatureExtractor.from_pretrained(source, **options)
        model, info = MusicgenMelodyForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        # What a file lacks is drawn at random, with no more than a warning.
        absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if absent:
            raise BlendbenchError(f"{source}: lacks {len(absent)} weights, such as {absent[0]}; fetch it again")
        return cls(model.to(device), tokenizer, features)

    @property
    def sample_rate(self) -> int:
        """Of the music, in Hz."""
        return int(self.model.config.audio_encoder.sampling_rate)

    @property
    def longest_seconds(self) -> float:
        """What it takes as one melody: as many frames of chroma as it was trained on."""
        return float(self.model.config.chroma_length * self.features.hop_length / self.features.sampling_rate)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def chroma(self, waveforms: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """One-hot chromagrams [N, frames, 12] of waveforms [N, samples]: which pitch class is loudest.

        Frames are as many as the music shall be long; the checkpoint repeats them to its own fixed number.
        """
        rate = self.features.sampling_rate
        melodies = list(audio.resample(waveforms, sample_rate, rate).numpy())
        made = self.features(melodies, sampling_rate=rate, return_tensors="pt", padding=False)
        return made.input_features.float()

    @torch.inference_mode()
    def generate(
        self,
        texts: Sequence[str],
        melodies: torch.Tensor,
        sample_rate: int,
        seeds: Sequence[int],
        settings: CodeSampling,
    ) -> torch.Tensor:
        """Music with the melodies' chroma, as long as they are.

        Parameters
        ----------
        texts : sequence of str
            N prompts.
        melodies : torch.Tensor [N, samples]
            At `sample_rate`, in Hz.
        seeds : sequence of int
            One an item.
        settings : CodeSampling

        Returns
        -------
        torch.Tensor [N, samples]
            Mono, at the checkpoint's own `sample_rate`, float32, on the CPU.
        """
        if not len(texts) == len(melodies) == len(seeds):
            raise BlendbenchError(f"{len(texts)} prompts, {len(melodies)} melodies, {len(seeds)} seeds: give one each")
        chroma = self.chroma(melodies, sample_rate)
        ids = [self.tokenizer(text, truncation=True, max_length=256).input_ids for text in texts]
        length = math.ceil(melodies.shape[1] * self.sample_rate / sample_rate)
        groups: dict[Any, list[int]] = {}
        for item, tokens in enumerate(ids):
            # On a CPU one by one, since a batch's size changes how sums are rounded there.
            groups.setdefault(item if self.device.type == "cpu" else len(tokens), []).append(item)
        music = torch.zeros(len(texts), length)
        for items in groups.values():
            made = self._generate([ids[i] for i in items], chroma[items], [seeds[i] for i in items], length, settings)
            music[items] = made
        return music

    def _generate(
        self, ids: list[list[int]], chroma: torch.Tensor, seeds: list[int], length: int, settings: CodeSampling
    ) -> torch.Tensor:
        decoder = self.model.decoder
        rate = self.model.audio_encoder.config.frame_rate
        frames = math.ceil(length / self.sample_rate * rate)
        choice = _SeededChoice(seeds, decoder.num_codebooks, settings)
        tokens = torch.tensor(ids, device=self.device)
        codes = self.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            input_features=chroma.to(self.device, self.model.dtype),
            guidance_scale=settings.guidance_scale,
            do_sample=False,
            max_new_tokens=frames + decoder.num_codebooks - 1,
            logits_processor=_ChoiceLast([choice]),
        )
        return codes.mean(1)[:, :length].float().cpu()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back that MusicGen's "no code" lies beyond its vocabulary: transformers warns of it in every checkpoint."""
    logger = logging.getLogger("transformers.configuration_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _ChoiceLast(LogitsProcessorList):
    """transformers appends guidance to the processors it is given; the choice of a code has to come after it."""

    def append(self, processor: LogitsProcessor) -> None:
        self.insert(0, processor)


class _SeededChoice(LogitsProcessor):
    """Draw each code by an item's own generator (Gumbel-max trick); everything else becomes impossible."""

    def __init__(self, seeds: Sequence[int], codebooks: int, settings: CodeSampling) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.codebooks, self.settings = codebooks, settings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / self.settings.temperature
        if 0 < self.settings.top_k < scores.shape[-1]:
            least = scores.topk(self.settings.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -math.inf)
        shape = (self.codebooks, scores.shape[-1])
        uniform = torch.cat([torch.rand(shape, generator=one, dtype=torch.float64) for one in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        chosen = (scores.double() + gumbel.to(scores.device)).argmax(-1, keepdim=True)
        return torch.full_like(scores, -math.inf).scatter(-1, chosen, 0.0)


@cache
def check_conditions() -> None:
    """Try on a model of a few thousand random weights that the installed transformers heeds its conditions.

    Several releases drop melody, text and guidance without a word (transformers' issues 45647 and 48664).

    Raises
    ------
    BlendbenchError
        Naming what is ignored.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        with _quiet():
            model = tiny_model()
        words = torch.tensor([[1, 2, 3]])
        melody = torch.nn.functional.one_hot(torch.tensor([[4, 5, 6, 7]]), 12).float()

        def scores(words: torch.Tensor, melody: torch.Tensor, guidance_scale: float) -> torch.Tensor:
            made = model.generate(
                input_ids=words,
                attention_mask=torch.ones_like(words),
                input_features=melody,
                guidance_scale=guidance_scale,
                do_sample=False,
                max_new_tokens=8,
                output_scores=True,
                return_dict_in_generate=True,
            )
            return torch.stack(made.scores)

        plain = scores(words, melody, 3.0)
        others = {
            "the melody": scores(words, melody.roll(3, -1), 3.0),
            "the text": scores(words + 4, melody, 3.0),
            "guidance": scores(words, melody, 1.0),
        }
    ignored = [name for name, other in others.items() if float((plain - other).abs().max()) < 1e-6]
    if ignored:
        raise BlendbenchError(
            f"transformers {transformers.__version__} ignores {' and '.join(ignored)} in MusicGen melody; "
            "install another release, such as `pip install transformers==5.23.0`"
        )


def tiny_model(vocabulary: int = 32, ratios: Sequence[int] = (8, 5, 4, 4)) -> MusicgenMelodyForConditionalGeneration:
    """A MusicGen melody of random weights from torch's global generator, in the published one's architecture.

    `vocabulary` is the text encoder's, `ratios` are the codec's; their product is a frame's samples at 32 kHz.
    """
    config = MusicgenMelodyConfig(
        text_encoder=T5Config(
            vocab_size=vocabulary, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        ).to_dict(),
        audio_encoder=EncodecConfig(
            sampling_rate=32_000,
            num_filters=4,
            hidden_size=8,
            codebook_size=16,
            codebook_dim=8,
            upsampling_ratios=list(ratios),
            target_bandwidths=[4 * 4 * 32 / math.prod(ratios)],
            num_lstm_layers=1,
            use_causal_conv=False,
        ).to_dict(),
        decoder=MusicgenMelodyDecoderConfig(
            vocab_size=16, num_codebooks=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
            pad_token_id=16, bos_token_id=16, initializer_factor=0.5,
        ).to_dict(),
        num_chroma=12,
        chroma_length=8,
    )  # fmt: skip
    model = MusicgenMelodyForConditionalGeneration(config)
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()  # starts at zero, where every code sounds alike
    model.generation_config.decoder_start_token_id = 16
    model.generation_config.pad_token_id = 16
    return model.eval()
