"""What a run sent to Weights & Biases, read back from its offline mirror."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Mirror:
    """An offline run read back: its transaction log, of records in 32768-byte blocks after a header of 7 bytes."""

    def __init__(self, folder: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.folder = folder
        (log,) = folder.glob("run-*.wandb")
        self.records = []
        for data in self._read(log.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            self.records.append(record)

    @staticmethod
    def _read(data: bytes) -> Iterator[bytes]:
        whole, place = b"", 7
        while place + 7 <= len(data):
            left = 32768 - place % 32768
            if left < 7:
                place += left
                continue
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            whole += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # a whole record, or the last piece of one
                yield whole
                whole = b""

    def of(self, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.records if r.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        (run,) = self.of("run")
        return run

    @property
    def config(self) -> dict[str, Any]:
        items = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        return {name: value for name, value in items.items() if name != "_wandb"}

    @staticmethod
    def _items(items: Any) -> dict[str, Any]:
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in self.of("summary"):
            found |= self._items(record.update)
        return found

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self._items(record.item) for record in self.of("history")]

    def files(self, table: str) -> dict[str, Path]:
        """Files of a table's artifact, by the name that it has there."""
        (artifact,) = (a for a in self.of("artifact") if a.name == f"run-{self.run.run_id}-{table}")
        return {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}

    def table(self, name: str) -> list[dict[str, Any]]:
        """Rows of a table, as uploaded."""
        found = json.loads(self.files(name)[f"{name}.table.json"].read_text(encoding="utf-8"))
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
