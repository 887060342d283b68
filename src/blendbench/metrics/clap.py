"""CLAP: how well a sound fits its text."""

from functools import lru_cache

from blendbench.errors import BlendbenchError
from blendbench.evaluators import Evaluator, TextEvaluator
from blendbench.facts import Facts
from blendbench.metrics import ItemMetric, Measured, Sound, clap_score


class CLAP(ItemMetric):
    """Cosine of each sound and its text, the column `prompt`.

    Parameters
    ----------
    evaluator : TextEvaluator
        Embeds sounds and texts in one space.

    Raises
    ------
    BlendbenchError
        If the evaluator knows no texts.
    """

    facts = {
        "clap": Facts(
            "CLAP", "cosine", True,
            "Wu et al. (2023), LAION-CLAP; as a score of generated audio: Huang et al. (2023), Make-An-Audio",
        )
    }  # fmt: skip
    keep = False

    def __init__(self, evaluator: Evaluator) -> None:
        if not isinstance(evaluator, TextEvaluator):
            raise BlendbenchError(
                f"evaluator.prompt: {evaluator.name} knows no texts; take one that does, such as CLAP"
            )
        self.evaluator: TextEvaluator = evaluator
        self._text = lru_cache(maxsize=100_000)(evaluator.score_text)

    def measure(self, sound: Sound) -> dict[str, float]:
        """The cosine, the sound's frames being averaged."""
        embeddings = sound.scores(self.evaluator).embeddings
        if embeddings is None:
            raise BlendbenchError(f"evaluator.prompt: {self.evaluator.name} makes no embeddings; take another")
        return {"clap": float(clap_score.clap_score(embeddings.mean(0)[None], self._text(sound.row["prompt"])[None]))}

    def recipe(self, name: str, measured: Measured) -> str:
        """What is compared."""
        return "cosine of mix and prompt"
