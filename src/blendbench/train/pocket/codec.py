"""Train the EnCodec (Défossez et al. 2022) of the built-in MusicGen: 22.05 kHz audio to a few codes a 20 ms frame.

The architecture is transformers' `EncodecModel`, without causality, as in MusicGen. There is no adversarial term: the
loss compares mel and linear spectra at several resolutions, and the waveform a little. The residual codebooks start by
k-means once the autoencoder has found its feet, follow by moving averages, and unused codes are replaced. A random
number of them is used in a part of the steps, so that the first ones carry the most.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from transformers import EncodecConfig, EncodecModel

from blendbench.errors import BlendbenchError
from blendbench.sound import audio
from blendbench.sound.mel import mel_amplitudes
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop

SAMPLE_RATE = 22_050
ARCHITECTURE: dict[str, Any] = {
    "num_filters": 16,
    "hidden_size": 64,
    "upsampling_ratios": [9, 7, 7],  # 441 samples, 50 frames a second
    "num_lstm_layers": 1,
    "codebook_size": 512,
}
CODEBOOKS = 6
RESOLUTIONS = ((2048, 96), (1024, 80), (512, 64), (256, 40), (128, 20))
"""Window lengths in samples, and mel bands, of the spectra that are compared."""


def new_model(codebooks: int = CODEBOOKS, **architecture: Any) -> EncodecModel:
    """An EnCodec with random weights and codebooks that are still to be found (all zero)."""
    settings = ARCHITECTURE | architecture
    hop = int(np.prod(settings["upsampling_ratios"]))
    bits = (settings["codebook_size"] - 1).bit_length()
    return EncodecModel(
        EncodecConfig(
            sampling_rate=SAMPLE_RATE,
            use_causal_conv=False,
            target_bandwidths=[codebooks * bits * SAMPLE_RATE / hop / 1000],
            **settings,
        )
    )


def codebooks_of(model: EncodecModel) -> list[Any]:
    """The codebooks, first to last."""
    return [layer.codebook for layer in model.quantizer.layers]


@torch.no_grad()
def start_scaled(model: EncodecModel, waveforms: torch.Tensor) -> None:
    """Scale each convolution, in order, so that its output has unit variance on waveforms [N, samples]; no biases.

    Without it the latents hardly vary over time and the training stands still for thousands of steps. Source: Mishkin
    and Matas (2016), All you need is a good init.
    """
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.zero_()

    def scale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        module.parametrizations.weight.original0.div_(output.std())
        return output / output.std()

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv1d | torch.nn.ConvTranspose1d)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    model.decoder(model.encoder(waveforms[:, None]))
    for hook in hooks:
        hook.remove()
    model.decoder.layers[-1].conv.parametrizations.weight.original0.mul_(waveforms.std())


@cache
def _mel_bands(n_fft: int, n_mels: int) -> torch.Tensor:
    return torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, SAMPLE_RATE / 2, n_mels, SAMPLE_RATE)


def spectra(waveforms: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Magnitudes [N, bins, frames] of waveforms [N, samples], Hann window, hop a quarter of it."""
    window = torch.hann_window(n_fft, device=waveforms.device)
    made = torch.stft(waveforms, n_fft, n_fft // 4, window=window, return_complex=True)
    # The small number keeps the gradient of silence finite.
    return (made.real.square() + made.imag.square() + 1e-9).sqrt() / window.sum()


def audio_loss(output: torch.Tensor, target: torch.Tensor, waveform_weight: float) -> torch.Tensor:
    """Log mel spectra and spectral convergence at several resolutions, and the waveforms' relative difference."""
    difference = (output - target).square().mean().sqrt() / target.square().mean().sqrt().clamp(min=1e-3)
    total = waveform_weight * difference
    for n_fft, n_mels in RESOLUTIONS:
        made, wanted = spectra(output, n_fft), spectra(target, n_fft)
        bands = _mel_bands(n_fft, n_mels).to(output.device)
        logs = [(magnitude.transpose(1, 2) @ bands + 1e-4).log() for magnitude in (made, wanted)]
        shape = (made - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1).clamp(min=1e-3)
        total = total + ((logs[0] - logs[1]).abs().mean() + 0.5 * shape.mean()) / len(RESOLUTIONS)
    return total


class ResidualQuantizer:
    """Residual vector quantisation with codebooks that learn by moving averages (van den Oord et al. 2017).

    Parameters
    ----------
    model : EncodecModel
        Whose codebooks; they are changed in place.
    decay : float
        Share of the old averages kept at each step.
    """

    def __init__(self, model: EncodecModel, decay: float = 0.98) -> None:
        self.codebooks, self.decay = codebooks_of(model), decay

    @property
    def started(self) -> bool:
        """Whether the codebooks hold anything yet."""
        return bool(self.codebooks[0].embed.any())

    @torch.no_grad()
    def start(self, latents: torch.Tensor, rounds: int = 12) -> None:
        """Fill the codebooks by k-means on latents [N, C, frames], one after the other on what is left."""
        left = latents.transpose(1, 2).flatten(0, 1).float()
        for book in self.codebooks:
            centres = left[torch.randperm(len(left))[: book.codebook_size]].clone()
            for _ in range(rounds):
                nearest = torch.cdist(left, centres).argmin(1)
                counts = torch.bincount(nearest, minlength=len(centres)).float()
                sums = torch.zeros_like(centres).index_add_(0, nearest, left)
                empty = counts == 0
                centres = torch.where(empty[:, None], centres, sums / counts.clamp(min=1)[:, None])
            book.embed.copy_(centres)
            book.cluster_size.fill_(len(left) / len(centres) / 100)
            book.embed_avg.copy_(centres * book.cluster_size[:, None])
            left = left - centres[torch.cdist(left, centres).argmin(1)]

    def __call__(self, latents: torch.Tensor, used: int, *, learn: bool) -> torch.Tensor:
        """Latents [N, C, frames] from the first `used` codebooks, without a gradient of their own."""
        left = latents.detach().transpose(1, 2).flatten(0, 1).float()
        total = torch.zeros_like(left)
        for book in self.codebooks[:used]:
            nearest = book.quantize(left)
            chosen = book.embed[nearest]
            if learn:
                self._learn(book, left, nearest)
            total, left = total + chosen, left - chosen
        return total.unflatten(0, (len(latents), -1)).transpose(1, 2)

    @torch.no_grad()
    def _learn(self, book: Any, vectors: torch.Tensor, nearest: torch.Tensor) -> None:
        counts = torch.bincount(nearest, minlength=book.codebook_size).float()
        sums = torch.zeros_like(book.embed).index_add_(0, nearest, vectors)
        book.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        book.embed_avg.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        # A code that less than a fiftieth of its fair share falls on is moved to where vectors are.
        rare = book.cluster_size < 0.02 * len(vectors) / book.codebook_size
        if rare.any():
            fresh = vectors[torch.randint(len(vectors), (int(rare.sum()),))]
            share = len(vectors) / book.codebook_size
            book.cluster_size[rare] = share
            book.embed_avg[rare] = fresh * share
        book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-5)[:, None])


def training_clips(cache: ClipCache, most: int, draw: np.random.Generator) -> np.ndarray:
    """Audio [N, samples] of at most so many clips of training music; raises BlendbenchError if there are none.

    In memory, since reading stretches here and there from a disk takes longer than a step.
    """
    rows = cache.rows(split="train", kind="music")
    if not len(rows):
        raise BlendbenchError(f"{cache.folder}: no training music; run `blendbench train data` first")
    return np.array(cache.audio[np.sort(draw.choice(rows, min(most, len(rows)), replace=False))])


def excerpts(clips: np.ndarray, samples: int, count: int, draw: np.random.Generator) -> torch.Tensor:
    """Random stretches [count, samples], at `SAMPLE_RATE`, of clips [N, samples at 44.1 kHz] of 16 bits."""
    length = samples * 44_100 // SAMPLE_RATE
    lefts = draw.integers(0, clips.shape[1] - length + 1, count)
    chosen = draw.integers(0, len(clips), count)
    made = [clips[row, left : left + length] for row, left in zip(chosen, lefts, strict=True)]
    waveforms = torch.from_numpy(np.stack(made).astype(np.float32) / 32768)
    return audio.resample(waveforms, 44_100, SAMPLE_RATE)[:, :samples]


def train(
    cache: ClipCache | Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 20,
    samples: int = 8820,
    learning_rate: float = 1e-3,
    quantize_from: float = 0.12,
    waveform_weights: tuple[float, float] = (1.0, 0.2),
    dropout: float = 0.3,
    most_clips: int = 4000,
    log_every: int = 50,
    device: str = "cpu",
    **architecture: Any,
) -> dict:
    """Train for a number of steps on the cache's training music and save to `out` in transformers' format.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train".
    steps : int
        Optimisation steps in all; a stopped training goes on.
    batch, samples : int
        Stretches a step and their length; a multiple of 441 samples.
    quantize_from : float
        Share of the steps before the codebooks come in.
    waveform_weights : tuple of float
        Weight of the waveforms' difference before and after that; it is what gets the training going.
    dropout : float
        Share of the steps in which only some of the codebooks are used.
    most_clips : int
        Clips that take part, drawn by the seed.
    architecture
        Settings of `new_model` other than its own.

    Returns
    -------
    dict
        Figures for the card, with those of `evaluate`.

    Raises
    ------
    BlendbenchError
        If the cache holds no training music, or the kept state is of another training.
    """
    cache, out = opened(cache), Path(out)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    clips = training_clips(cache, most_clips, draw)
    model = new_model(**architecture).to(device)
    start_scaled(model, excerpts(clips, samples, batch, draw).to(device))
    quantizer = ResidualQuantizer(model)
    learned = [value for book in quantizer.codebooks for value in (book.embed, book.cluster_size, book.embed_avg)]
    loop = Loop(
        "codec",
        [*model.parameters(), *learned],
        out / "state.pt",
        {"steps": steps, "batch": batch, "samples": samples, "seed": seed, "learning_rate": learning_rate},
        warm_up=100,
        decay=0.995,
        betas=(0.8, 0.98),
        log_every=log_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        target = excerpts(clips, samples, batch, draw).to(device)
        encoded = model.encoder(target[:, None])
        with torch.autocast(loop.kind, enabled=False):
            latents, commitment, weight = encoded.float(), torch.zeros([]), waveform_weights[0]
            if step >= quantize_from * steps:
                if not quantizer.started:
                    with torch.no_grad():
                        many = excerpts(clips, samples, max(batch, 400), draw).to(device)
                        quantizer.start(torch.cat([model.encoder(part[:, None]) for part in many.split(20)]))
                count = len(quantizer.codebooks)
                used = int(draw.integers(1, count + 1)) if draw.random() < dropout else count
                made = quantizer(latents, used, learn=True)
                weight = waveform_weights[1]
                commitment = (latents - made).square().mean()
                latents = latents + (made - latents).detach()
            # Without a price the latents grow, and the codebooks never catch up.
            size = encoded.float().square().mean()
        output = model.decoder(latents)[:, 0]
        with torch.autocast(loop.kind, enabled=False):
            return audio_loss(output.float(), target, weight) + 0.5 * commitment + 0.01 * size

    loop.run(loss)
    model.eval()
    model.save_pretrained(out)
    return loop.report(out / "training.json", {"clips": len(clips)} | evaluate(model, cache))


def refine(
    cache: ClipCache | Path | str,
    folder: Path | str,
    out: Path | str,
    *,
    steps: int,
    used: int,
    seed: int = 0,
    batch: int = 20,
    samples: int = 8820,
    learning_rate: float = 1e-3,
    most_clips: int = 4000,
    log_every: int = 50,
    device: str = "cpu",
) -> dict:
    """Train the decoder of a codec further, for the codes that a MusicGen will give it; nothing else changes.

    So it may run beside the MusicGen's own training, whose codes stay what they are.

    Parameters
    ----------
    cache : ClipCache
        Music rows of split "train".
    folder, out : Path
        The codec, and where the one with the better decoder is written.
    steps, seed, batch, samples, learning_rate, most_clips
        As for `train`.
    used : int
        Codebooks that the MusicGen uses.

    Returns
    -------
    dict
        Figures for the card, with those of `evaluate`.

    Raises
    ------
    BlendbenchError
        If the codec is not there, or the kept state is of another training.
    """
    cache, out = opened(cache), Path(out)
    model = load(Path(folder)).to(device)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    quantizer = ResidualQuantizer(model)
    clips = training_clips(cache, most_clips, np.random.default_rng(seed))
    loop = Loop(
        "decoder",
        list(model.decoder.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "samples": samples, "seed": seed, "learning_rate": learning_rate},
        warm_up=100,
        decay=0.998,
        betas=(0.8, 0.98),
        log_every=log_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        target = excerpts(clips, samples, batch, draw).to(device)
        with torch.no_grad(), torch.autocast(loop.kind, enabled=False):
            latents = quantizer(model.encoder(target[:, None]), used, learn=False)
        output = model.decoder(latents)[:, 0]
        with torch.autocast(loop.kind, enabled=False):
            return audio_loss(output.float(), target, 0.1)

    loop.run(loss)
    model.save_pretrained(out)
    return loop.report(out / "training.json", {"clips": len(clips)} | evaluate(model, cache))


def load(folder: Path) -> EncodecModel:
    """A codec that `train` wrote; raises BlendbenchError if there is none."""
    if not (folder / "config.json").is_file():
        raise BlendbenchError(f"{folder}: no codec here; run `blendbench train codec` first")
    return EncodecModel.from_pretrained(folder).eval()


@torch.no_grad()
def evaluate(model: EncodecModel, cache: ClipCache, limit: int = 28) -> dict:
    """Mel spectral convergence of held-out music's round trip, by the number of codebooks used (0: none at all)."""
    rows = cache.rows(split="held_out", kind="music")
    rows = rows[:: max(1, len(rows) // limit)][:limit]
    quantizer = ResidualQuantizer(model)
    figures: dict[str, float] = {}
    for used in range(len(quantizer.codebooks) + 1):
        values = []
        for row in rows:
            original = cache.waveforms(np.array([row]))
            latents = model.encoder(audio.resample(original, 44_100, SAMPLE_RATE)[:, None].to(model.device))
            latents = quantizer(latents, used, learn=False) if used else latents
            made = audio.resample(model.decoder(latents)[:, 0].cpu(), SAMPLE_RATE, 44_100)[:, : original.shape[1]]
            # A clip's image is relative to its loudest place, so amplitudes are compared.
            made_mel, wanted = (mel_amplitudes(wave[0]) for wave in (made, original))
            values.append(float((made_mel - wanted).norm() / wanted.norm()))
        figures[str(used)] = round(float(np.mean(values)), 4)
    return {"spectral_convergence": figures}
