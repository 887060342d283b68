"""FD: the Fréchet distance of a classifier's embeddings, which papers after audioldm_eval report beside FAD.

There it is Cnn14 of the PANNs at 16 kHz, 2048 numbers a clip after `fc1` and its ReLU, of the clip's first channel
without its mean, padded to 32,000 samples; FAD is VGGish's, without PCA and last activation. `evaluator=audioldm_eval`
names those. What differs from that tool:

- Evaluators here hear the mean of a sound's channels, as its FAD does, where its FD and KL take the first. Sounds of
  one channel are the same to both.
- Versions of it that papers used took every second or third sample of files at 32 or 48 kHz, unfiltered. Here sounds
  are resampled. To compare with such figures, give that tool files at 16 kHz.
- Its version of today takes MERT's embeddings unless told otherwise; such an FD is another measure under the same name.
- Its matrix root loses precision where there are fewer clips than dimensions; `frechet` does not.

2048 dimensions want many clips: of fewer than some thousand FD comes out too high, the more so the fewer there are.
Compare equal numbers.
"""

from typing import Any

from blendbench.evaluators import Evaluator
from blendbench.facts import Facts
from blendbench.metrics import Metric
from blendbench.metrics.fad import FAD


class FD(FAD):
    """Fréchet distance over the embeddings of its own evaluator, a classifier of sounds.

    Parameters
    ----------
    evaluator : Evaluator
        Makes embeddings.
    """

    facts = {
        "fd": Facts(
            "FD", "squared embedding distance", False,
            "audioldm_eval, metrics/fid.py (Liu et al., AudioLDM, 2023); Heusel et al. (2017) for the formula",
        )
    }  # fmt: skip

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator)

    def signature(self) -> dict[str, Any]:
        """The evaluator's, and that it is FD: values of FAD by the same evaluator are kept under other names."""
        return Metric.signature(self)
