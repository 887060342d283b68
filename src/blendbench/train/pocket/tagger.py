"""Train the audio tagger: music genre, instruments, kind of noise, and how much of the sound is music.

The network hears rendered music, public and synthesised noises, and mixes of both at random levels. A mix's target is
shared between its classes in proportion to power, so the posterior moves gradually from noise to music as music covers
the noise. Recordings are few (fifteen a class), so levels, colour, time and pitch are varied at random.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate

from blendbench.errors import BlendbenchError
from blendbench.models.tagger import Tagger
from blendbench.models.weights import checkpoint_hash
from blendbench.train.data.arranger import GENRES
from blendbench.train.data.cache import ClipCache, opened
from blendbench.train.loop import Loop

SHARE_OF_RECORDINGS = 0.6
"""Of the noises drawn; they are few, and what the tagger is asked about."""


def train(
    cache: ClipCache | Path | str,
    out: Path | str,
    *,
    steps: int,
    start: Path | str | None = None,
    seed: int = 0,
    batch: int = 32,
    learning_rate: float = 2e-3,
    mix_share: float = 0.4,
    frames: int = 160,
    music_clips: int = 12_000,
    device: str = "cpu",
    log_every: int = 50,
) -> dict:
    """Train for a number of steps and save to `out`; returns the figures for the card.

    Parameters
    ----------
    cache : ClipCache
        Rows of split "train" are learned from.
    start : Path or None
        Folder of a tagger of the same classes whose weights training begins from; None for random ones. With a lower
        learning rate it learns what is new in the cache and keeps most of what it could.
    mix_share : float
        Share of the examples that are mixes of music and noise.
    frames : int
        Length of an example in frames of 20 ms.
    music_clips : int
        So many music clips at most are used, spread over the songs.
    device : str
        Torch device.

    Raises
    ------
    BlendbenchError
        If the cache lacks music or noise to train on, or `start` is of other classes.
    """
    cache, out = opened(cache), Path(out)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    music, noise = (cache.rows(split="train", kind=kind) for kind in ("music", "noise"))
    if not len(music) or not len(noise):
        raise BlendbenchError(f"{cache.folder}: music and noise are both needed; run `blendbench train data` first")
    music = np.sort(draw.choice(music, min(music_clips, len(music)), replace=False))
    kinds = sorted({cache.clips[row]["label"] for row in noise})
    instruments = sorted({name for row in music for name in cache.clips[row]["instruments"]})
    model, settings = _begun([*GENRES, *kinds], instruments, start)
    model.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    examples = _Examples(model, cache, np.concatenate([music, noise]), draw, frames)
    model.to(device)
    loop = Loop(
        "tagger",
        list(model.parameters()),
        out / "state.pt",
        {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate} | settings,
        warm_up=50,
        decay=0.995,
        betas=(0.9, 0.999),
        weight_decay=3e-2,
        log_every=log_every,
        device=device,
        mixed=False,
    )
    model.train()

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        examples.draw = draw
        features, classes, played, share = (value.to(device) for value in examples.batch(batch, mix_share))
        embeddings = model.embed_features(features)
        # Instruments count where music is what is mostly heard.
        heard = share > 0.5
        value = cross_entropy(model.head(embeddings), classes, label_smoothing=0.05)
        value = value + binary_cross_entropy_with_logits(model.mix(embeddings)[:, 0], share)
        if bool(heard.any()):
            value = value + 2 * binary_cross_entropy_with_logits(model.instruments(embeddings[heard]), played[heard])
        return value

    loop.run(loss)
    model.cpu()
    examples.settle(batch, mix_share)
    model.eval()
    model.save(out)
    clips = {"music_clips": len(music), "noise_clips": len(noise)}
    return loop.report(out / "training.json", clips | evaluate(model, cache))


def _begun(classes: list[str], instruments: list[str], start: Path | str | None) -> tuple[Tagger, dict[str, str]]:
    """A tagger to train, and by which weights it began."""
    if start is None:
        return Tagger(classes, instruments=instruments), {}
    model = Tagger.load(Path(start))
    if (model.classes, model.instrument_names) != (classes, instruments):
        raise BlendbenchError(f"{start}: hears other classes than the cache has; give another `start`, or null")
    return model, {"start": checkpoint_hash(Path(start))}


class _Examples:
    """Draws training examples as mel powers, varied and mixed."""

    def __init__(
        self, model: Tagger, cache: ClipCache, rows: np.ndarray, draw: np.random.Generator, frames: int
    ) -> None:
        self.model, self.draw, self.frames = model, draw, frames
        with torch.inference_mode():
            # bfloat16 keeps the range of powers.
            parts = [model.mel(cache.waveforms(rows[i : i + 16])).bfloat16() for i in range(0, len(rows), 16)]
        self.powers = torch.cat(parts).clone()
        self.clips = [cache.clips[row] for row in rows]
        names = model.instrument_names
        self.played = torch.zeros(len(rows), len(names))
        self.of_class: dict[str, list[int]] = {}
        self.recorded: dict[str, list[int]] = {}
        self.synthesised: dict[str, list[int]] = {}
        for position, clip in enumerate(self.clips):
            group = self.recorded if clip["source"].startswith("esc50-") else self.synthesised
            if clip["kind"] == "music":
                group = self.of_class
            group.setdefault(clip["label"], []).append(position)
            for name in clip.get("instruments", []):
                self.played[position, names.index(name)] = 1.0
        self.index = {name: position for position, name in enumerate(model.classes)}

    def batch(self, count: int, mix_share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [N, 2, bands, frames], class targets [N, classes], instruments [N, I], share of music [N]."""
        draw = self.draw
        # Half music, half noise, classes even within each half.
        music = [self._clip(str(draw.choice(GENRES))) for _ in range(count)]
        noise = [self._noise() for _ in range(count)]
        own = torch.tensor([item % 2 == 0 for item in range(count)])
        mixed = torch.from_numpy(draw.random(count) < mix_share)
        powers = []
        for chosen, is_noise in ((music, False), (noise, True)):
            present = mixed | (own if not is_noise else ~own)
            stretches = [
                self._vary(self._stretch(position), noise=is_noise)
                if keep
                else torch.zeros(self.powers.shape[1], self.frames)
                for position, keep in zip(chosen, present, strict=True)
            ]
            powers.append(torch.stack(stretches))
        # Unrelated sounds add in power; in a mix the music is 15 dB below to 15 dB above the noise.
        level = powers[0].mean((1, 2)).clamp(min=1e-12) / powers[1].mean((1, 2)).clamp(min=1e-12)
        ratio = torch.from_numpy(10 ** (draw.uniform(-15, 15, count) / 10)).float()
        powers[1] = torch.where(mixed, level / ratio, torch.ones(count))[:, None, None] * powers[1]
        share = torch.where(mixed, ratio / (1 + ratio), own.float())
        both = powers[0] + powers[1]
        both = both * torch.from_numpy(10 ** (draw.uniform(-12, 6, count) / 10)).float()[:, None, None]
        target = torch.zeros(count, len(self.index))
        for item in range(count):
            target[item, self.index[self.clips[music[item]]["label"]]] = share[item]
            target[item, self.index[self.clips[noise[item]]["label"]]] = 1 - share[item]
        features = self.model.log_mel(both)
        features = features + 0.05 * torch.randn_like(features)
        for item in range(count):  # SpecAugment's masks (Park et al. 2019)
            width, band = int(draw.integers(0, 12)), int(draw.integers(0, features.shape[2] - 12))
            features[item, :, band : band + width] = 0.0
            length, left = int(draw.integers(0, 20)), int(draw.integers(0, self.frames - 20))
            features[item, :, :, left : left + length] = 0.0
        return features.contiguous(memory_format=torch.channels_last), target, self.played[music], share

    def _clip(self, label: str) -> int:
        return int(self.draw.choice(self.of_class[label]))

    def _noise(self) -> int:
        """A recording or a synthesised noise, each of its kinds alike."""
        recorded = self.recorded and (not self.synthesised or self.draw.random() < SHARE_OF_RECORDINGS)
        kinds = self.recorded if recorded else self.synthesised
        return int(self.draw.choice(kinds[str(self.draw.choice(sorted(kinds)))]))

    def _stretch(self, position: int) -> torch.Tensor:
        """A random stretch [bands, frames] with at least a fifth of the clip's mean power, around the clip's end."""
        clip = self.powers[position].float()
        mean = clip.mean()
        for _ in range(8):
            stretch = clip.roll(-int(self.draw.integers(clip.shape[1])), 1)[:, : self.frames]
            if stretch.mean() > 0.2 * mean:
                break
        return stretch

    def _vary(self, power: torch.Tensor, *, noise: bool) -> torch.Tensor:
        """Another colour (smooth gain over frequency); for noise, half of the time, also another speed and pitch."""
        bands, frames = power.shape
        if noise and self.draw.random() < 0.5:
            scaled = interpolate(
                power[None, None],
                size=(bands, round(frames * float(self.draw.uniform(0.8, 1.25)))),
                mode="bilinear",
                align_corners=False,
            )[0, 0]
            power = scaled.repeat(1, 2)[:, :frames]
            shift = int(self.draw.integers(-3, 4))
            power = power.roll(shift, 0)
            if shift > 0:
                power[:shift] = power[shift]
            elif shift < 0:
                power[shift:] = power[shift - 1]
        points = torch.from_numpy(self.draw.normal(0, 4.0 if noise else 2.0, 5)).float()
        colour = interpolate(points[None, None], size=bands, mode="linear", align_corners=True)[0, 0]
        return power * (10 ** (colour / 10))[:, None]

    @torch.no_grad()
    def settle(self, count: int, mix_share: float, batches: int = 30) -> None:
        """Measure the batch normalisation's statistics anew for the averaged weights."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        self.model.train()
        for _ in range(batches):
            self.model.embed_features(self.batch(count, mix_share)[0])


@torch.inference_mode()
def evaluate(model: Tagger, cache: ClipCache) -> dict:
    """Accuracies in 0..1 on the cache's held-out rows.

    `accuracy_genre` is over all classes; noise kinds are counted among noise kinds, and among all classes
    (`..._among_all`), for recordings and synthesised noises apart. `instruments_average_precision` is the mean over
    instruments heard in at least five held-out clips. `mix_error_db` is the mean absolute error of the music-to-noise
    ratio in mixes at -10, 0 and 10 dB.
    """
    classes, names = model.classes, model.instrument_names
    first_kind = len(GENRES)
    music = cache.rows(split="held_out", kind="music")
    noise = cache.rows(split="held_out", kind="noise")
    recorded = np.array([row for row in noise if cache.clips[row]["source"].startswith("esc50-")], int)
    synthesised = np.setdiff1d(noise, recorded)
    figures: dict = {}

    def hear(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        heard = [model.describe(cache.waveforms(rows[i : i + 16])) for i in range(0, len(rows), 16)]
        truth = np.array([classes.index(cache.clips[row]["label"]) for row in rows])
        return torch.cat([one.logits for one in heard]), torch.cat([one.instruments for one in heard]), truth

    if len(music):
        logits, played, truth = hear(music)
        figures["accuracy_genre"] = round(float((logits.argmax(1).numpy() == truth).mean()), 4)
        figures["clips_genre"] = len(music)
        precisions = []
        for position, name in enumerate(names):
            wanted = np.array([name in cache.clips[row]["instruments"] for row in music])
            if 5 <= wanted.sum() < len(music):
                ranked = wanted[np.argsort(-played[:, position].numpy(), kind="stable")]
                hits = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
                precisions.append(float(hits[ranked].mean()))
        if precisions:
            figures["instruments_average_precision"] = round(float(np.mean(precisions)), 4)
            figures["instruments_measured"] = len(precisions)
    for name, rows in (("recorded", recorded), ("synthesised", synthesised)):
        if len(rows):
            logits, _, truth = hear(rows)
            among = logits[:, first_kind:].argmax(1).numpy() + first_kind
            figures[f"accuracy_noise_kind_{name}"] = round(float((among == truth).mean()), 4)
            figures[f"accuracy_noise_kind_{name}_among_all"] = round(
                float((logits.argmax(1).numpy() == truth).mean()), 4
            )
            figures[f"clips_noise_kind_{name}"] = len(rows)
    if len(music) and len(noise):
        errors = []
        for ratio in (-10.0, 0.0, 10.0):
            for a, b in zip(music[:: max(1, len(music) // 40)], noise[:: max(1, len(noise) // 40)], strict=False):
                tune, din = cache.waveforms(np.array([a, b]))
                gain = (tune.square().mean() / din.square().mean().clamp(min=1e-9)).sqrt() * 10 ** (-ratio / 20)
                share = float(model.describe((tune + gain * din)[None]).music_share.clamp(1e-4, 1 - 1e-4))
                errors.append(abs(10 * np.log10(share / (1 - share)) - ratio))
        figures["mix_error_db"] = round(float(np.mean(errors)), 2)
    return figures
