"""What a run's rows sound like: noise and music apart, at the levels at which they lie in the mix."""

from pathlib import Path
from typing import Any

import torch

from blendbench.clips import Noises
from blendbench.datasets import NoiseClip, manifests
from blendbench.errors import ClipError
from blendbench.runner import read_mix


class Sounds:
    """Noises and musics of a finished run.

    The run's folder holds the mixes; the noise is read again from the data (or from the store), and the music is what
    the mix has beyond it.

    Parameters
    ----------
    run_dir : Path
    settings : dict
        The run's.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        self.run_dir, self.settings = run_dir, settings
        self.noises = Noises(settings["noise"], Path(settings["store_dir"]))
        self._clips: dict[str, dict[str, NoiseClip]] = {}

    def clip(self, row: dict[str, Any]) -> NoiseClip:
        """The noise clip of a row; raises ClipError if the data set has it no longer."""
        name = row["dataset"]
        if name not in self._clips:
            self._clips[name] = {clip.id: clip for clip in manifests.noise_set(self.settings, name).clips}
        try:
            return self._clips[name][row["clip"]]
        except KeyError:
            raise ClipError(f"dataset.{name}: has no clip {row['clip']!r} any longer; put it back") from None

    def noise(self, row: dict[str, Any]) -> torch.Tensor:
        """A row's noise [samples], at 44.1 kHz and its level in the mix.

        Raises
        ------
        BlendbenchError
            If the data set, or the clip, cannot be read.
        """
        return self.noises.read(self.clip(row))

    def music(self, row: dict[str, Any]) -> torch.Tensor:
        """A row's music [samples], at its level in the mix; digital silence where the row has no music."""
        noise = self.noise(row)
        return torch.zeros_like(noise) if row["gain_db"] is None else read_mix(self.run_dir, row) - noise
