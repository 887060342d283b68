"""Signatures: a hash of exactly the settings that change a stage's output, and hashes of files."""

import errno
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical(settings: Any) -> str:
    """JSON text with sorted keys, in which equal settings are equal bytes."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def signature(stage: str, version: int, settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name a stage's output folder."""
    return hashlib.sha256(canonical({"stage": stage, "version": version, **settings}).encode()).hexdigest()[:16]


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file, in hex; raises OSError if it cannot be read, or is a pipe or device, which may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
