"""Spectra: how far a recording's spectrogram is from the original's after a way through mel spectrogram and vocoder."""

import torch

from blendbench.facts import Facts
from blendbench.metrics.against_part import AgainstPart, mono


class Spectra(AgainstPart):
    """Spectral convergence and mean difference of log magnitudes against a part of what is heard (Msanii, section 2.1).

    Parameters
    ----------
    part : str
        A name of the sound's parts.
    n_fft, hop : int
        Of the STFT at the task's rate, periodic Hann.
    """

    facts = {
        "convergence": Facts("Spectral convergence", "share", False, "Frobenius norm of the error over the original's"),
        "log_magnitude": Facts("Log magnitude", "nepers", False, "mean |difference of log(magnitude + 1e-6)|"),
    }  # fmt: skip

    def __init__(self, part: str = "recording", n_fft: int = 2048, hop: int = 1024) -> None:
        super().__init__(part)
        self.n_fft, self.hop = n_fft, hop

    def signature(self) -> dict[str, object]:
        """Part and transform."""
        return super().signature() | {"n_fft": self.n_fft, "hop": self.hop}

    def of(self, reference: torch.Tensor, heard: torch.Tensor) -> dict[str, float]:
        """Both values; raises ClipError where the lengths differ."""
        original, made = (self._magnitudes(wave) for wave in mono(reference, heard))
        convergence = torch.linalg.vector_norm(made - original) / torch.linalg.vector_norm(original).clamp(min=1e-12)
        difference = ((made + 1e-6).log() - (original + 1e-6).log()).abs().mean()
        return {"convergence": float(convergence), "log_magnitude": float(difference)}

    def _magnitudes(self, wave: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(self.n_fft, dtype=wave.dtype)
        return torch.stft(wave, self.n_fft, self.hop, window=window, return_complex=True).abs()
