"""Train the audio tagger on rendered music (seven genres) and noise (public and synthesised kinds).

Besides clean clips the network hears random gains, time shifts and mixes of music and noise with soft targets, so that
its posterior moves gradually from noise to music as music covers the noise.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from blendbench.errors import BlendbenchError
from blendbench.tagger import Tagger
from blendbench.train.arranger import GENRES
from blendbench.train.cache import ClipCache


def train(
    cache: ClipCache,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = 32,
    learning_rate: float = 2e-3,
    mix_share: float = 0.3,
    frames: int = 128,
    log_every: int = 50,
) -> dict:
    """Train for `minutes` of wall time and save to `out`; returns the figures for the card.

    Raises
    ------
    BlendbenchError
        If the cache lacks music or noise to train on.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    train_rows = {kind: cache.rows(split="train", kind=kind) for kind in ("music", "noise")}
    if not all(len(rows) for rows in train_rows.values()):
        raise BlendbenchError(f"{cache.folder}: music and noise are both needed; run `blendbench train data` first")
    kinds = sorted({cache.clips[row]["label"] for row in train_rows["noise"]})
    classes = [*GENRES, *kinds]
    index = {name: position for position, name in enumerate(classes)}
    by_class: dict[str, list[int]] = {name: [] for name in classes}
    for row in np.concatenate(list(train_rows.values())):
        by_class[cache.clips[row]["label"]].append(int(row))
    model = Tagger(classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=2e-2)
    start, step, history = time.monotonic(), 0, []

    powers = mel_powers(model, cache)

    def sample(names: list[str]) -> torch.Tensor:
        """Mel powers [N, bands, frames] of drawn clips: a random stretch, at a random level."""
        stretches = []
        for name in names:
            clip = powers[draw.choice(by_class[name])].float()
            start = int(draw.integers(0, clip.shape[1] - frames + 1))
            stretches.append(clip[:, start : start + frames] * 10 ** (draw.uniform(-12, 6) / 10))
        return torch.stack(stretches)

    model.train()
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * elapsed / minutes))
        # Half music, half noise, classes even within each half.
        names = [str(draw.choice(GENRES if item % 2 else kinds)) for item in range(batch)]
        power = sample(names)
        target = torch.zeros(batch, len(classes))
        target[torch.arange(batch), [index[name] for name in names]] = 1.0
        mixed = np.flatnonzero(draw.random(batch) < mix_share)
        if len(mixed):
            others = [str(draw.choice(kinds if item % 2 else GENRES)) for item in mixed]
            extra = sample(others)
            # Unrelated sounds add in power.
            own, other = power[mixed].mean((1, 2)), extra.mean((1, 2))
            share = (own / (own + other))[:, None]
            second = torch.zeros(len(mixed), len(classes))
            second[torch.arange(len(mixed)), [index[name] for name in others]] = 1.0
            target[mixed] = share * target[mixed] + (1 - share) * second
            power[mixed] += extra
        with torch.no_grad():
            features = model.log_mel(power)
            features = features + 0.05 * torch.randn_like(features)
            width = int(draw.integers(4, 24))
            band = int(draw.integers(0, features.shape[2] - width))
            features[:, :, band : band + width // 2] = 0.0  # SpecAugment's frequency mask (Park et al. 2019)
        loss = cross_entropy(model.head(model.embed_features(features)), target, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % log_every == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": round(float(loss), 4)})
            print(f"tagger {step} steps, {elapsed:.1f} min, loss {float(loss):.3f}", flush=True)
    model.eval()
    figures = {"steps": step, "batch": batch, "minutes": round(minutes, 1), "seed": seed} | evaluate(model, cache)
    figures["parameters"] = sum(value.numel() for value in model.parameters())
    model.save(out)
    (out / "training.json").write_text(json.dumps(figures | {"history": history}, indent=1) + "\n")
    return figures


@torch.inference_mode()
def mel_powers(model: Tagger, cache: ClipCache) -> torch.Tensor:
    """Mel powers [clips, bands, frames] of the whole cache, in bfloat16, which keeps their range."""
    rows = np.arange(len(cache.clips))
    parts = [model.mel(cache.waveforms(rows[i : i + 16])).bfloat16() for i in range(0, len(rows), 16)]
    return torch.cat(parts)


@torch.inference_mode()
def evaluate(model: Tagger, cache: ClipCache) -> dict:
    """Accuracy on held-out music (genre), held-out real noise (kind) and held-out synthesised noise (kind), in 0..1."""
    figures = {}
    held_out: dict[str, Any] = {
        "genre": cache.rows(split="held_out", kind="music"),
        "noise_kind_recorded": cache.rows(split="held_out", kind="noise"),
        "noise_kind_synthesised": cache.rows(split="held_out", kind="noise"),
    }
    for name, rows in held_out.items():
        if name != "genre":
            synthesised = name.endswith("synthesised")
            rows = [row for row in rows if cache.clips[row]["source"].startswith("synthesised-") == synthesised]
        hits = []
        for begin in range(0, len(rows), 32):
            chosen = np.asarray(rows[begin : begin + 32])
            logits = model(cache.waveforms(chosen))[1]
            labels = [cache.clips[row]["label"] for row in chosen]
            hits += [model.classes[int(top)] == label for top, label in zip(logits.argmax(1), labels, strict=True)]
        if hits:
            figures[f"accuracy_{name}"] = round(float(np.mean(hits)), 4)
            figures[f"clips_{name}"] = len(hits)
    return figures
