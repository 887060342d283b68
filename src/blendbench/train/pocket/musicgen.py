"""Train the built-in MusicGen melody: text encoder and decoder on the codes of the built-in EnCodec.

Everything is transformers' `MusicgenMelodyForConditionalGeneration`, as the published checkpoint, only small: the
condition (the melody's chroma, then the text) stands before the codes, and codebook k is delayed by k frames
(Copet et al. 2023). For guidance the condition is left out at times, in the way in which `generate` leaves it out.
"""

import io
import json
import math
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    MusicgenMelodyConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)
from transformers.models.musicgen_melody import MusicgenMelodyDecoderConfig

from blendbench import telling
from blendbench.errors import BlendbenchError
from blendbench.models.spectral_codec import SpectralCodec
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder
from blendbench.sound import audio
from blendbench.store.write import write_bytes, write_text
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop
from blendbench.train.pocket.codec import SAMPLE_RATE, load

MAX_TOKENS = 48
CODEBOOKS = 5
CHROMA = {"sampling_rate": SAMPLE_RATE, "n_fft": 8192, "hop_length": 2048, "feature_size": 12, "num_chroma": 12}
TEXT_ENCODER: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
}
DECODER: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "ffn_dim": 640,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "max_position_embeddings": 1024,
    "initializer_factor": 0.06,  # one over the root of the width
}


class Codes:
    """The codes and the chroma of a cache's music, computed once and kept in the work folder.

    Attributes
    ----------
    rows : np.ndarray [N]
        Of the cache.
    codes : np.ndarray [N, CODEBOOKS, frames], int16
    chroma : np.ndarray [N, chroma frames], uint8
        The loudest pitch class.
    """

    def __init__(self, cache: ClipCache, codec_folder: Path, folder: Path, split: str, most: int, seed: int) -> None:
        rows = cache.rows(split=split, kind="music")
        self.rows = np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False))
        folder.mkdir(parents=True, exist_ok=True)
        if not len(self.rows):
            raise BlendbenchError(f"{cache.folder}: no music for {split}; run `blendbench train data` first")
        file = folder / f"{split}-{checkpoint_hash(codec_folder)}.npz"
        if file.exists():
            with np.load(file) as kept:
                if np.array_equal(kept["rows"], self.rows):
                    self.codes, self.chroma = kept["codes"], kept["chroma"]
                    return
        parts = np.array_split(self.rows, max(1, len(self.rows) // 50))
        work = partial(_codes_of, cache.folder, codec_folder)
        if len(parts) > 2:
            spawn = get_context("spawn")
            with ProcessPoolExecutor(2, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                made = []
                with telling.stage(f"codes of {split}", len(parts), "part") as told:
                    for codes in pool.map(work, parts):
                        made.append(codes)
                        told.update()
        else:
            made = [work(part) for part in parts]
        self.codes, self.chroma = (np.concatenate(values) for values in zip(*made, strict=True))
        packed = io.BytesIO()
        np.savez(packed, rows=self.rows, codes=self.codes, chroma=self.chroma)
        write_bytes(file, packed.getvalue())


def _codes_of(cache_folder: Path, codec_folder: Path, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and chroma of some rows."""
    cache, codec = ClipCache(cache_folder), load(codec_folder)
    waves = audio.resample(cache.waveforms(rows), 44_100, SAMPLE_RATE)
    # One by one: a batch's activations do not fit into a processor's cache.
    with torch.no_grad():
        codes = np.concatenate([codec.encode(wave[None, None]).audio_codes[0, :, :CODEBOOKS] for wave in waves])
    made = MusicgenMelodyFeatureExtractor(**CHROMA)(
        list(waves.numpy()), sampling_rate=SAMPLE_RATE, return_tensors="np", padding=False
    )
    return codes.astype(np.int16), made["input_features"].argmax(-1).astype(np.uint8)


def new_model(codec: SpectralCodec, vocabulary: int, chroma_length: int) -> MusicgenMelodyForConditionalGeneration:
    """A MusicGen melody with a trained codec, of which it uses the first codebooks, and random weights otherwise."""
    size = codec.config.codebook_size
    settings = codec.config.to_dict()
    settings["target_bandwidths"] = [CODEBOOKS * codec.config.codebook_nbits * codec.config.frame_rate / 1000]
    config = MusicgenMelodyConfig(
        text_encoder=T5Config(vocab_size=vocabulary, **TEXT_ENCODER).to_dict(),
        audio_encoder=settings,
        decoder=MusicgenMelodyDecoderConfig(
            vocab_size=size, num_codebooks=CODEBOOKS, pad_token_id=size, bos_token_id=size, **DECODER
        ).to_dict(),
        num_chroma=12,
        chroma_length=chroma_length,
    )
    model = MusicgenMelodyForConditionalGeneration(config)
    # Codes and conditions start as large as the positions that are added to them, else they drown for long.
    for embedding in model.decoder.model.decoder.embed_tokens:
        torch.nn.init.normal_(embedding.weight, std=CODEBOOKS**-0.5)
    torch.nn.init.normal_(model.audio_enc_to_dec_proj.weight)
    torch.nn.init.normal_(model.enc_to_dec_proj.weight, std=1 / math.sqrt(TEXT_ENCODER["d_model"]))
    kept = model.audio_encoder.state_dict()
    model.audio_encoder.load_state_dict({name: codec.state_dict()[name] for name in kept})
    model.audio_encoder.requires_grad_(False)
    for name, value in (("decoder_start_token_id", size), ("pad_token_id", size), ("bos_token_id", size),
                        ("guidance_scale", 3.0), ("do_sample", True)):  # fmt: skip
        setattr(model.generation_config, name, value)
    return model


def condition(
    model: MusicgenMelodyForConditionalGeneration, ids: torch.Tensor, chroma: torch.Tensor, with_text: torch.Tensor
) -> torch.Tensor:
    """What stands before the codes: projected chroma [N, C, 12] and text ids [N, T], as `generate` makes it.

    Where `with_text` [N] is False the text's states are zero, as for guidance.
    """
    states = model.enc_to_dec_proj(model.text_encoder(input_ids=ids).last_hidden_state)
    return torch.cat([model.audio_enc_to_dec_proj(chroma), states * with_text[:, None, None]], 1)


def delayed(codes: torch.Tensor, pad: int) -> torch.Tensor:
    """Codes [N, K, T] with codebook k delayed by k frames: [N, K, T + K - 1], `pad` where nothing is."""
    count, books, frames = codes.shape
    out = codes.new_full((count, books, frames + books - 1), pad)
    for book in range(books):
        out[:, book, book : book + frames] = codes[:, book]
    return out


def code_loss(model: MusicgenMelodyForConditionalGeneration, prefix: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [K], in nats a code, of codes [N, K, T] after what `condition` made."""
    pad = model.config.decoder.pad_token_id
    wanted = delayed(codes, pad)
    given = functional.pad(wanted[..., :-1], (1, 0), value=pad)
    hidden = model.decoder.model(given.flatten(0, 1), encoder_hidden_states=prefix, use_cache=False).last_hidden_state
    hidden = hidden[:, prefix.shape[1] :]
    return torch.stack([
        functional.cross_entropy(head(hidden).float().flatten(0, 1), wanted[:, book].flatten(), ignore_index=pad)
        for book, head in enumerate(model.decoder.lm_heads)
    ])  # fmt: skip


def train(
    cache: ClipCache | Path | str,
    codec_folder: Path | str,
    tokenizer_folder: Path | str | None,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 16,
    learning_rate: float = 1.5e-3,
    dropped: tuple[float, float, float] = (0.15, 0.1, 0.05),
    most_clips: int = 12_000,
    log_every: int = 25,
    save_every: int = 100,
    device: str = "cpu",
) -> dict:
    """Train for a number of steps and save to `out` in transformers' format; a stopped training goes on.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train" with captions.
    codec_folder, tokenizer_folder : Path
        The trained EnCodec, and a tokenizer; the built-in generator's if None.
    batch : int
        Clips a step; all with captions of as many tokens, since padding would stand between condition and codes.
    dropped : tuple of float
        Share of the clips without any condition, without melody, without text.
    most_clips : int
        Clips that take part, drawn by the seed; making the codes of one takes a tenth of a second.

    Returns
    -------
    dict
        Figures for the card.

    Raises
    ------
    BlendbenchError
        If the codec is not there, or the kept state is of another training.
    """
    cache, codec_folder, out = opened(cache), Path(codec_folder), Path(out)
    words = package_folder("blendbench.assets") / "pocket" / "tokenizer"
    if tokenizer_folder is not None:
        words = Path(tokenizer_folder)
    codec = load(codec_folder)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(words)
    extractor = MusicgenMelodyFeatureExtractor(**CHROMA)
    data = Codes(cache, codec_folder, out, "train", most_clips, seed)
    model = new_model(codec, len(tokenizer), data.chroma.shape[1]).to(device)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    by_length: dict[int, list[tuple[int, list[int]]]] = {}
    for position, row in enumerate(data.rows):
        for text in cache.clips[row]["captions"]:
            ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS).input_ids
            by_length.setdefault(len(ids), []).append((position, ids))
    lengths = sorted(by_length)
    shares = np.array([len(by_length[length]) for length in lengths], float)
    shares /= shares.sum()
    none, no_melody, no_text = np.cumsum(dropped)
    loop = Loop(
        "musicgen",
        learned,
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate},
        warm_up=150,
        decay=0.998,
        betas=(0.9, 0.97),
        weight_decay=0.03,
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        candidates = by_length[int(draw.choice(lengths, p=shares))]
        chosen = [candidates[i] for i in draw.integers(0, len(candidates), batch)]
        positions = np.array([position for position, _ in chosen])
        ids = torch.tensor([ids for _, ids in chosen])
        luck = torch.from_numpy(draw.random(batch))
        chroma = torch.from_numpy(data.chroma[positions]).long()
        chroma[luck < no_melody] = 0  # pitch class 0 throughout is `generate`'s "no melody"
        with_text = (luck >= none) & ((luck < no_melody) | (luck >= no_text))
        prefix = condition(
            model, ids.to(device), functional.one_hot(chroma, 12).float().to(device), with_text.float().to(device)
        )
        return code_loss(model, prefix, torch.from_numpy(data.codes[positions]).long().to(device)).mean()

    loop.run(loss)
    model.eval()
    held_out = Codes(cache, codec_folder, out, "held_out", 96, seed)
    figures = {"clips": len(data.rows)} | held_out_loss(model, cache, held_out, tokenizer)
    save(model, words, extractor, out / "model")
    return loop.report(out / "training.json", figures)


@torch.no_grad()
def held_out_loss(
    model: MusicgenMelodyForConditionalGeneration, cache: ClipCache, held_out: Codes, tokenizer: Any
) -> dict[str, list[float]]:
    """Nats a code on held-out music, codebook by codebook: with all of the condition, and with none of it."""
    losses: dict[str, list[np.ndarray]] = {"held_out_loss": [], "held_out_loss_unconditional": []}
    for position in range(len(held_out.rows)):
        text = cache.clips[held_out.rows[position]]["captions"][0]
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=MAX_TOKENS).input_ids]).to(model.device)
        codes = torch.from_numpy(held_out.codes[position : position + 1]).long().to(model.device)
        chroma = torch.from_numpy(held_out.chroma[position : position + 1]).long().to(model.device)
        for name, pitch, with_text in zip(losses, (chroma, torch.zeros_like(chroma)), (1.0, 0.0), strict=True):
            one_hot = functional.one_hot(pitch, 12).float()
            prefix = condition(model, ids, one_hot, torch.full((1,), with_text, device=model.device))
            losses[name].append(code_loss(model, prefix, codes).cpu().numpy())
    return {name: np.mean(values, 0).round(4).tolist() for name, values in losses.items()}


def save(model: MusicgenMelodyForConditionalGeneration, tokenizer_folder: Path, extractor: Any, folder: Path) -> None:
    """Write a checkpoint in transformers' layout, in half precision."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # T5's embedding stands under two names; one is enough.
    state = {
        name: value for name, value in model.state_dict().items() if not name.endswith("encoder.embed_tokens.weight")
    }
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    model.save_pretrained(folder, state_dict=state)
    config = json.loads((folder / "config.json").read_text())
    config["audio_encoder"].pop("_name_or_path", None)  # where the codec lay on this machine
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
    extractor.save_pretrained(folder)
    for file in sorted(tokenizer_folder.iterdir()):
        write_bytes(folder / file.name, file.read_bytes())
