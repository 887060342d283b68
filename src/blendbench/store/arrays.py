"""Arrays of numbers, appended to one file and found again by their place in it."""

import errno
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blendbench.errors import BlendbenchError
from blendbench.store.write import locked, write_all, write_failure


class Arrays:
    """Float arrays appended to one file, found again by their place; what a crash leaves behind is never pointed to.

    Parameters
    ----------
    path : Path
        The file; made with its folder at the first append. Values are little-endian float32.
    """

    _file: Any = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, values: np.ndarray) -> dict[str, Any]:
        """Write an array, force it to disk, and return its place: what `read` takes; fits into JSON.

        Raises
        ------
        BlendbenchError
            If the folder cannot be written.
        """
        data = np.ascontiguousarray(values, dtype="<f4").tobytes()
        try:
            file = self._opened()
            # Only a write of its own, at the end, knows where it landed.
            with locked(file):
                offset = file.seek(0, os.SEEK_END)
                write_all(file, data)
                os.fsync(file.fileno())
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be written ({write_failure(error)})") from error
        return {"offset": offset, "shape": list(values.shape), "crc32": zlib.crc32(data)}

    def read(self, place: Mapping[str, Any]) -> np.ndarray:
        """The array of a place; raises BlendbenchError if the file is shorter than that, or its bytes have changed."""
        count = math.prod(place["shape"])
        try:
            # By its place, as several threads may read.
            data = os.pread(self._opened().fileno(), 4 * count, place["offset"])
        except OSError as error:
            raise BlendbenchError(f"{self.path}: cannot be read ({error.strerror}); delete its folder") from error
        if len(data) < 4 * count:
            raise BlendbenchError(f"{self.path}: cut short; delete its folder, and what it holds is computed again")
        if "crc32" in place and place["crc32"] != zlib.crc32(data):
            raise BlendbenchError(f"{self.path}: damaged; delete its folder, and what it holds is computed again")
        return np.frombuffer(bytearray(data), "<f4").reshape(place["shape"])

    def _opened(self) -> Any:
        if self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a+b", buffering=0)
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                    raise
                self._file = self.path.open("rb", buffering=0)  # a store that others keep is still read
        return self._file

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    __del__ = close
