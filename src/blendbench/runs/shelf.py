"""Shelves: sound files of one signature, each with a row in the shelf's ledger once it is whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blendbench.seeds import stable_seed
from blendbench.sound import files
from blendbench.store.ledger import Ledger, mean_seconds
from blendbench.store.write import size_of, write_text


def file_name(identifier: str) -> str:
    """A file name for an id: itself where it is plain and short, else cut and told apart by a hash."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in identifier)
    if plain == identifier and len(plain) <= 150 and not plain.startswith("."):
        return plain
    return f"{plain[:120].lstrip('.')}-{stable_seed(identifier):x}"


class Shelf:
    """A folder of sounds by item, and its ledger, read when first asked for.

    Parameters
    ----------
    folder : Path
        Named by a signature.
    ending : str
        Of its files: ".wav" or ".flac".
    subtype : str
        Their sample format, by libsndfile's name.
    sample_rate : int
    """

    def __init__(self, folder: Path, ending: str, subtype: str, sample_rate: int) -> None:
        self.folder, self._ending, self._subtype, self._rate = folder, ending, subtype, sample_rate
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """Its rows, by `pair_id`."""
        if self._ledger is None:
            self._ledger = Ledger(self.folder / "ledger.jsonl", ("pair_id",))
        return self._ledger

    def sign(self, settings: Mapping[str, Any]) -> None:
        """Write down what the folder's name is a hash of."""
        write_text(self.folder / "signature.json", json.dumps(settings, indent=1, default=str) + "\n")

    def file(self, item: str) -> Path:
        """Where an item's sound lies."""
        return self.folder / f"{file_name(item)}{self._ending}"

    def row(self, item: str, inputs: str) -> dict[str, Any] | None:
        """An item's row, if it is of these inputs."""
        row = self.ledger.get(item)
        return row if row is not None and row["inputs"] == inputs else None

    def whole(self, item: str, inputs: str) -> dict[str, Any] | None:
        """An item's row, if it is of these inputs and its file is there."""
        row = self.row(item, inputs)
        return row if row is not None and size_of(self.file(item)) == row["bytes"] else None

    def put(self, item: str, inputs: str, waveform: torch.Tensor, **facts: Any) -> dict[str, Any]:
        """Write an item's sound, then its row, which is returned; raises BlendbenchError if that fails."""
        file = self.file(item)
        digest = files.write(file, waveform, self._rate, subtype=self._subtype)
        row = {"pair_id": item, "inputs": inputs, "file": file.name, "bytes": file.stat().st_size, "sha256": digest}
        row |= facts
        self.ledger.append(row)
        return row

    def seconds(self) -> float | None:
        """What an item took, on the mean of the first thousand; None if nothing is known."""
        return mean_seconds(self.ledger)

    def refresh(self) -> None:
        """Take in what others have put."""
        self.ledger.refresh()

    def close(self) -> None:
        """Close the ledger; a later call opens it again."""
        if self._ledger is not None:
            self._ledger.close()
