"""The data of a run's configuration, read when a task asks for them: data sets by name, music, prompts."""

from functools import cached_property
from typing import Any

from blendbench import config
from blendbench.datasets import Prompt, manifests
from blendbench.datasets.manifests import DataSet
from blendbench.errors import BlendbenchError


class Sources:
    """What the groups `dataset`, `music` and `prompts` name.

    Parameters
    ----------
    dataset : dict of str to dict
        Entries by name.
    music, prompts : dict or None
    allowed : list of str
        Modules besides blendbench that `_target_` may name.
    seed : int
        The run's.
    """

    def __init__(
        self,
        dataset: dict[str, dict[str, Any]],
        music: dict[str, Any] | None,
        prompts: dict[str, Any] | None,
        allowed: list[str],
        seed: int,
    ) -> None:
        self._dataset, self._music, self._prompts, self._allowed = dataset, music, prompts, allowed
        self.seed, self.notes = seed, list[str]()
        self._read: dict[str, DataSet] = {}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Sources":
        """Those of a checked configuration."""
        given = config.typed(settings)
        return cls(given.dataset, given.music, given.prompts, given.allow_targets, given.seed)

    @property
    def names(self) -> list[str]:
        """Data sets, in the configuration's order."""
        return list(self._dataset)

    def dataset(self, name: str) -> DataSet:
        """A data set, held against its manifest.

        Raises
        ------
        BlendbenchError
            If it is not among the run's, or cannot be read.
        """
        if name not in self._read:
            self._read[name] = self._noted(manifests.data_set(self._entry(name), f"dataset.{name}", self._allowed))
        return self._read[name]

    @property
    def has_music(self) -> bool:
        """Whether the configuration names a music set."""
        return bool(self._music)

    @cached_property
    def music(self) -> DataSet:
        """The music set; raises BlendbenchError as `dataset` does."""
        return self._noted(manifests.data_set(self._music, "music", self._allowed))

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts; raises BlendbenchError if they cannot be read."""
        return config.build(self._prompts or {}, "prompts", self._allowed)

    def _entry(self, name: str) -> dict[str, Any]:
        try:
            return self._dataset[name]
        except KeyError:
            raise BlendbenchError(f"dataset.{name}: not among the run's data sets") from None

    def _noted(self, found: DataSet) -> DataSet:
        self.notes += [found.note] if found.note else []
        return found
