"""PaSST (Koutini et al. 2022), the classifier behind AudioCraft's and stable-audio-metrics' KL, over hear21passt."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores
from blendbench.evaluators.published import Published
from blendbench.models.weights import fill, read_state
from blendbench.resources import library

MAX_SECONDS = 10.0
"""What the model was trained on: its position embedding ends there."""


class PaSST(Published):
    """PaSST: an embedding and the logits of AudioSet's 527 classes, both averaged over windows.

    A clip up to one window long is padded with zeros. A longer one is cut into windows as stable-audio-metrics does:
    a new one starts every `window_s - overlap` seconds while more than `overlap` is left, the last padded with zeros.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    checkpoint : str, optional
        The file passt-s-f128-p16-s10-ap.476-swa.pt of PaSST's release v0.0.1-audioset; None for the one that
        `blendbench.models` keeps.
    window_s : float
        Length of a window, in seconds, at most 10.
    overlap : float
        Of two windows, in seconds, at least 0.1 below `window_s`.
    peak_db : float, optional
        Bring a clip's peak to this level first, in dB of full scale: -1 in stable-audio-metrics; None leaves levels
        as they are.
    """

    sample_rate = 32_000
    package, install = "hear21passt", "'blendbench[passt]'"

    def __init__(
        self,
        name: str,
        checkpoint: str | None = None,
        window_s: float = 10.0,
        overlap: float = 5.0,
        peak_db: float | None = None,
        comparable: bool = True,
    ) -> None:
        if not 0.2 <= window_s <= MAX_SECONDS:
            raise BlendbenchError(f"window_s={window_s}: PaSST takes 0.2 to 10 seconds")
        if not 0 <= overlap <= window_s - 0.1:
            raise BlendbenchError(f"overlap={overlap}: give seconds from 0 to 0.1 below window_s={window_s}")
        super().__init__(name, checkpoint, comparable, "passt")
        self.window_s, self.overlap, self.peak_db = window_s, overlap, peak_db

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        windows = {"window_s": self.window_s, "overlap": self.overlap, "peak_db": self.peak_db}
        return {**super().signature(), **windows}

    def _load(self, device: str) -> Any:
        passt = library("hear21passt.models.passt", self.install)
        preprocess = library("hear21passt.models.preprocess", self.install)
        state = read_state(self.weights)
        with _quiet():
            # As in hear21passt.base.get_basic_model, which would download.
            mel = preprocess.AugmentMelSTFT(
                n_mels=128, sr=32_000, win_length=800, hopsize=320, n_fft=1024, freqm=48, timem=192,
                htk=False, fmin=0.0, fmax=None, norm=1, fmin_aug_range=10, fmax_aug_range=2000,
            )  # fmt: skip
            network = passt.get_model(arch="passt_s_swa_p16_128_ap476", pretrained=False)
            if isinstance(state, dict) and "time_new_pos_embed" in state:
                state = passt.checkpoint_filter_fn(state, network)
        return mel.eval().to(device), fill(network, state, self.weights, device)

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embedding [1, 768] and logits [527] of a waveform [samples]; raises ClipError if it is empty."""
        self._check_length(waveform, 1)
        mel, network = self.model
        waveform = waveform.float()
        peak = float(waveform.abs().max())
        if self.peak_db is not None and peak > 0:
            waveform = waveform * (10 ** (self.peak_db / 20) / peak)
        logits, embeddings = [], []
        for window in self._windows(waveform):
            # The front end draws a number for an augmentation that it then leaves out.
            with _quiet(), torch.random.fork_rng(devices=[]):
                made = network(mel(window[None].to(self._device))[:, None])
            logits.append(made[0][0])
            embeddings.append(made[1])
        return Scores(torch.stack(embeddings).mean(0).cpu(), torch.stack(logits).mean(0).cpu())

    def _windows(self, waveform: torch.Tensor) -> Iterator[torch.Tensor]:
        length = int(self.window_s * self.sample_rate)
        step = int((self.window_s - self.overlap) * self.sample_rate)
        for start in range(0, max(step, len(waveform) - (length - step)), step):
            window = waveform[start : start + length]
            yield torch.nn.functional.pad(window, (0, length - len(window)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library prints its layers, and warns of what it calls in PyTorch."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
