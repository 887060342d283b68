"""Cnn14 of the PANNs (Kong et al. 2020): an embedding and the logits of AudioSet's 527 classes.

The network is the one that frechet-audio-distance carries. Its fully connected layer before the sigmoid gives the
logits that audioldm_eval takes KL of. The filter bank is part of the published weights, so the two tools' different
upper limits (14 and 16 kHz at 32 kHz) come to the same. frechet-audio-distance, up to 0.3.4 at least, strings all
clips' PANN embeddings into one row of numbers before it takes their statistics (its issue 37), and then gives a
distance in one dimension, or -1 where SciPy is 1.17: not what is computed here, the distance of vectors.
"""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Scores
from blendbench.evaluators.published import Published
from blendbench.models.weights import fill, read_state
from blendbench.resources import check_installed

_RATES = {
    8_000: ("pann_8k", "Cnn14_8k", {"window_size": 256, "hop_size": 80, "fmax": 4_000}),
    16_000: ("pann_16k", "Cnn14_16k", {"window_size": 512, "hop_size": 160, "fmax": 8_000}),
    32_000: ("pann_32k", "Cnn14", {"window_size": 1024, "hop_size": 320, "fmax": 16_000}),
}
_FRAMES = 32  # five poolings by 2


class Cnn14(Published):
    """Cnn14 at one of its three sample rates, each with weights of its own.

    Parameters
    ----------
    name, comparable
        See `Evaluator`.
    checkpoint : str, optional
        The file Cnn14_8k_mAP=0.416.pth, Cnn14_16k_mAP=0.438.pth or Cnn14_mAP=0.431.pth (32 kHz) of Zenodo's record
        3987831; None for the one that `blendbench.models` keeps.
    sample_rate : int
        8000, 16000 or 32000, in Hz.
    remove_dc : bool
        Subtract the waveform's mean first, as audioldm_eval does and frechet-audio-distance does not.
    min_samples : int
        Pad shorter clips with zeros to this length, after the mean is gone: 32000 at any rate in audioldm_eval, 0 (no
        padding) in frechet-audio-distance.
    """

    package = "frechet_audio_distance"
    # From Python 3.13 on, pip finds no versions of what it imports, and we do not, that fit together.
    install = "frechet-audio-distance" if sys.version_info < (3, 13) else "--no-deps frechet-audio-distance"

    def __init__(
        self,
        name: str,
        checkpoint: str | None = None,
        sample_rate: int = 32_000,
        remove_dc: bool = True,
        min_samples: int = 32_000,
        comparable: bool = True,
    ) -> None:
        if sample_rate not in _RATES:
            raise BlendbenchError(f"sample_rate={sample_rate}: Cnn14 has weights for {', '.join(map(str, _RATES))}")
        if min_samples < 0:
            raise BlendbenchError(f"min_samples={min_samples}: give 0 (no padding) or more")
        super().__init__(name, checkpoint, comparable, _RATES[sample_rate][0])
        self.sample_rate, self.remove_dc, self.min_samples = sample_rate, remove_dc, min_samples

    def signature(self) -> dict[str, Any]:
        """What changes the scores."""
        return {**super().signature(), "remove_dc": self.remove_dc, "min_samples": self.min_samples}

    def _load(self, device: str) -> Any:
        _, kind, settings = _RATES[self.sample_rate]
        network_class = getattr(networks(), kind)
        state = read_state(self.weights)
        state = state.get("model", state) if isinstance(state, dict) else state
        network = network_class(sample_rate=self.sample_rate, mel_bins=64, fmin=50, classes_num=527, **settings)
        return fill(network, state, self.weights, device)

    @torch.inference_mode()
    def score(self, waveform: torch.Tensor) -> Scores:
        """Embedding [1, 2048] and logits [527] of a waveform [samples].

        Raises
        ------
        ClipError
            The clip is empty or, padded to `min_samples`, too short for the network's poolings: under 0.31 s.
        """
        self._check_length(waveform, 1)
        waveform = waveform.float()
        if self.remove_dc:
            waveform = waveform - waveform.mean()
        waveform = torch.nn.functional.pad(waveform, (0, max(0, self.min_samples - len(waveform))))
        self._check_length(waveform, (_FRAMES - 1) * self.sample_rate // 100)
        network = self.model
        embedding = network(waveform[None].to(self._device))["embedding"]
        return Scores(embedding.cpu(), network.fc_audioset(embedding)[0].cpu())


@cache
def networks() -> ModuleType:
    """frechet-audio-distance's `models.pann`, without the package's own import, which loads laion_clap.

    laion_clap asks the hub for a tokenizer and a text model as it is imported.

    Raises
    ------
    BlendbenchError
        The library is not installed, or not with this module.
    """
    check_installed(Cnn14.package, Cnn14.install)
    found = importlib.util.find_spec(Cnn14.package)
    assert found is not None and found.submodule_search_locations
    folder, alias = Path(found.submodule_search_locations[0]) / "models", "_frechet_audio_distance_models"
    spec = importlib.util.spec_from_file_location(
        alias, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    try:
        # The module imports its neighbour, so the folder has to be a package, under a name of ours.
        sys.modules[alias] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[alias])
        return importlib.import_module(f"{alias}.pann")
    except (ImportError, OSError) as error:
        raise BlendbenchError(
            f"{folder}: Cnn14 cannot be imported ({error}); type `pip install -U {Cnn14.install}`"
        ) from error
