"""A Msanii of a few thousand weights, none of which has learnt anything, and recordings for it."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from blendbench.models.msanii import Msanii


def tiny_msanii(folder: Path, channels: int = 1) -> Path:
    """Write one that hears 22,050 Hz, 16 mels, 4 frames at least; returns the folder."""
    across = 1 if channels == 1 else 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Msanii(
            {"sample_rate": 22_050, "n_fft": 1024, "hop": 512, "mels": 16},
            {"fit": "dataset", "train": "running"},
            {"width": 16, "levels": 3, "blocks": 1, "attention_levels": 1, "heads": 2, "timestep": 8, "across": across},
            {"width": 16, "across": across}, channels, 0.0566, 64,
        )  # fmt: skip
        model.scaler.fit_to(2 * torch.randn(1000, dtype=torch.float64) - 3)
    model.save(folder)
    return folder


def tone(path: Path, seconds: float, pitch: float, channels: int = 1, rate: int = 44_100, level: float = 0.2) -> Path:
    """Write a tone that beats twice a second, its second channel an octave higher; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    beat = np.exp(-8 * (time % 0.5))
    both = [level * beat * np.sin(2 * np.pi * pitch * (1 + channel) * time) for channel in range(channels)]
    soundfile.write(path, np.stack(both, 1), rate, subtype="FLOAT")
    return path
