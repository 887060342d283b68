"""Train the codec of the built-in MusicGen: 22.05 kHz audio to a few codes a 40 ms frame.

Its networks are `blendbench.models.spectral_codec`'s. `train` makes encoder, codebooks and decoder with spectral losses
at several resolutions, and the waveforms' difference. The residual codebooks start by k-means once the autoencoder has
found its feet, follow by moving averages, and unused codes are replaced. A random number of them is used in a part of
the steps, so that the first ones carry the most. `refine` goes on with the decoder alone, now against critics, for what
spectral losses leave is a smooth picture: the mean of all textures that fit the codes.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from blendbench.errors import BlendbenchError
from blendbench.models.spectral_codec import SpectralCodec, SpectralCodecConfig
from blendbench.sound import audio
from blendbench.sound.mel import mel_amplitudes
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop

SAMPLE_RATE = 22_050
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 64,
    "codebook_size": 512,
    "upsampling_ratios": [3, 294],  # 25 codes and 75 spectra a second
    "n_fft": 1024,
    "width": 192,
    "slow_blocks": 3,
    "fast_blocks": 3,
}
CODEBOOKS = 8
RESOLUTIONS = ((2048, 96), (1024, 80), (512, 64), (256, 40), (128, 20))
"""Window lengths in samples, and mel bands, of the spectra that are compared."""


def new_model(codebooks: int = CODEBOOKS, **architecture: Any) -> SpectralCodec:
    """A codec with random weights and codebooks that are still to be found (all zero)."""
    settings = ARCHITECTURE | architecture
    hop = int(np.prod(settings["upsampling_ratios"]))
    bits = (settings["codebook_size"] - 1).bit_length()
    bandwidth = codebooks * bits * -(-SAMPLE_RATE // hop) / 1000
    return SpectralCodec(
        SpectralCodecConfig(sampling_rate=SAMPLE_RATE, use_causal_conv=False, target_bandwidths=[bandwidth], **settings)
    )


def codebooks_of(model: SpectralCodec) -> list[Any]:
    """The codebooks, first to last."""
    return [layer.codebook for layer in model.quantizer.layers]


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


class Critic(nn.Module):
    """Tells coded from true sound by patches of one kind of spectrogram.

    Parameters
    ----------
    n_fft : int
        Window length in samples; the hop is a quarter of it.
    n_mels : int
        Bands of a logarithmic mel spectrogram; 0 for real and imaginary parts of the bins below 5.5 kHz, compressed.
    width : int
        Channels of the first convolution.
    """

    def __init__(self, n_fft: int, n_mels: int, width: int = 24) -> None:
        super().__init__()
        self.n_fft, self.n_mels = n_fft, n_mels
        sizes = [1 if n_mels else 2, width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 3), stride=(2, 1 + number % 2), padding=(2, 1)))
            for number, (a, b) in enumerate(pairwise(sizes))
        )
        self.last = weight_norm(nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def picture(self, waveforms: torch.Tensor) -> torch.Tensor:
        """[N, channels, bands, frames] of waveforms [N, samples]."""
        if self.n_mels:
            bands = _mel_bands(self.n_fft, self.n_mels).to(waveforms.device)
            power = spectra(waveforms, self.n_fft).transpose(1, 2) @ bands
            return (power.transpose(1, 2)[:, None] + 1e-4).log() / 3 + 2
        window = torch.hann_window(self.n_fft, device=waveforms.device)
        made = torch.stft(waveforms, self.n_fft, self.n_fft // 4, window=window, return_complex=True) / window.sum()
        made = torch.view_as_real(made[:, 1 : self.n_fft // 4 + 1]).movedim(-1, 1)
        return 3 * made * (made.square().sum(1, keepdim=True) + 1e-8) ** -0.35

    def forward(self, waveforms: torch.Tensor) -> list[torch.Tensor]:
        """What each layer makes of waveforms [N, samples], the verdicts a patch last."""
        with torch.autocast(waveforms.device.type, enabled=False):
            hidden = self.picture(waveforms.float())
        out = []
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), 0.1)
            out.append(hidden)
        return [*out, self.last(hidden)]


class Critics(nn.Module):
    """Several critics, who learn from what they are shown (hinge loss)."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.each = nn.ModuleList(Critic(*kind) for kind in ((2048, 128), (512, 64), (1024, 0)))
        self.optimizer = torch.optim.AdamW(self.each.parameters(), lr=learning_rate, betas=(0.8, 0.99))

    def learn(self, output: torch.Tensor, target: torch.Tensor) -> float:
        """A step towards telling output from target, both [N, samples]; the loss before it."""
        both, count = torch.cat([output.detach(), target]), len(output)
        total = torch.zeros(())
        for critic in self.each:
            verdict = critic(both)[-1].float()
            total = total + functional.relu(1 + verdict[:count]).mean() + functional.relu(1 - verdict[count:]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return float(total.detach()) / len(self.each)

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How output fails to pass, and how far the critics' layers see it from target (both means over critics)."""
        self.requires_grad_(False)
        fooled = matched = torch.zeros(())
        for critic in self.each:
            with torch.no_grad():
                wanted = critic(target)
            made = critic(output)
            fooled = fooled - made[-1].float().mean()
            for one, other in zip(made[:-1], wanted[:-1], strict=True):
                matched = matched + (one - other).abs().float().mean() / other.abs().float().mean() / len(wanted[:-1])
        self.requires_grad_(True)
        return fooled / len(self.each), matched / len(self.each)


class ResidualQuantizer:
    """Residual vector quantisation with codebooks that learn by moving averages (van den Oord et al. 2017).

    Parameters
    ----------
    model : SpectralCodec
        Whose codebooks; they are changed in place.
    decay : float
        Share of the old averages kept at each step.
    """

    def __init__(self, model: SpectralCodec, decay: float = 0.98) -> None:
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


def training_clips(cache: ClipCache, most: int, draw: np.random.Generator) -> torch.Tensor:
    """Audio [N, samples at SAMPLE_RATE] of at most so many clips of training music, in 16 bits.

    In memory, since reading stretches here and there from a disk takes longer than a step.

    Raises
    ------
    BlendbenchError
        If the cache holds no training music.
    """
    rows = cache.rows(split="train", kind="music")
    if not len(rows):
        raise BlendbenchError(f"{cache.folder}: no training music; run `blendbench train data` first")
    chosen = np.sort(draw.choice(rows, min(most, len(rows)), replace=False))
    parts = np.array_split(chosen, max(1, len(chosen) // 20))
    made = [audio.resample(cache.waveforms(part), 44_100, SAMPLE_RATE) for part in parts]
    return torch.cat([(part.clamp(-1, 1) * 32767).to(torch.int16) for part in made])


def excerpts(clips: torch.Tensor, samples: int, count: int, draw: np.random.Generator) -> torch.Tensor:
    """Random stretches [count, samples] of clips [N, samples] of 16 bits, as numbers in -1..1."""
    lefts = draw.integers(0, clips.shape[1] - samples + 1, count)
    chosen = draw.integers(0, len(clips), count)
    made = [clips[int(row), left : left + samples] for row, left in zip(chosen, lefts, strict=True)]
    return torch.stack(made).float() / 32767


def train(
    cache: ClipCache | Path | str,
    out: Path | str,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 24,
    samples: int = 21_168,
    learning_rate: float = 1.5e-3,
    quantize_from: float = 0.15,
    waveform_weights: tuple[float, float] = (1.0, 0.3),
    dropout: float = 0.3,
    most_clips: int = 6000,
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
        Stretches a step and their length; a multiple of 882 samples.
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
                        quantizer.start(torch.cat([model.encoder(part[:, None]).float() for part in many.split(20)]))
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
    batch: int = 12,
    samples: int = 21_168,
    learning_rate: float = 4e-4,
    critics_from: int = 200,
    weights: tuple[float, float] = (0.1, 0.5),
    most_clips: int = 6000,
    log_every: int = 50,
    save_every: int = 100,
    device: str = "cpu",
) -> dict:
    """Train the decoder of a codec further, against critics, for the codes that a MusicGen will give it.

    Nothing else changes, so it may run beside the MusicGen's own training, whose codes stay what they are.

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
    critics_from : int
        Steps in which the critics only learn.
    weights : tuple of float
        Of the critics' verdict, and of what their layers see, beside the spectral losses.

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
    torch.manual_seed(seed)
    model = load(Path(folder)).to(device)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    quantizer = ResidualQuantizer(model)
    critics = Critics(learning_rate).to(device)
    clips = training_clips(cache, most_clips, np.random.default_rng(seed))
    loop = Loop(
        "decoder",
        list(model.decoder.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "samples": samples, "seed": seed, "learning_rate": learning_rate},
        warm_up=100,
        decay=0.998,
        betas=(0.8, 0.99),
        others=(critics, critics.optimizer),
        log_every=log_every,
        save_every=save_every,
        device=device,
    )

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        target = excerpts(clips, samples, batch, draw).to(device)
        with torch.no_grad():
            encoded = model.encoder(target[:, None]).float()
            with torch.autocast(loop.kind, enabled=False):
                latents = quantizer(encoded, used, learn=False)
        output = model.decoder(latents)[:, 0].float()
        critics.learn(output, target)
        with torch.autocast(loop.kind, enabled=False):
            total = audio_loss(output, target, 0.1)
        if step >= critics_from:
            fooled, matched = critics.loss(output, target)
            total = total + weights[0] * fooled + weights[1] * matched
        return total

    loop.run(loss)
    model.save_pretrained(out)
    return loop.report(out / "training.json", {"clips": len(clips)} | evaluate(model, cache))


def load(folder: Path) -> SpectralCodec:
    """A codec that `train` wrote; raises BlendbenchError if there is none."""
    if not (folder / "config.json").is_file():
        raise BlendbenchError(f"{folder}: no codec here; run `blendbench train codec` first")
    return SpectralCodec.from_pretrained(folder).eval()


@torch.no_grad()
def evaluate(model: SpectralCodec, cache: ClipCache, limit: int = 28) -> dict:
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
