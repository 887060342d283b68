"""A folder of clips that grows: arrays one after the other in raw files, and a JSON line a clip.

Clips come in chunks, and a chunk's lines are written after its arrays: a stopped build goes on at the first chunk that
lacks, and a training may read what is there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from blendbench.store.write import make_folder

Made = list[tuple[dict[str, np.ndarray], dict[str, Any]]]
"""A chunk's clips: arrays by their file's name, and the row."""


def rows(file: Path) -> list[dict[str, Any]]:
    """Rows of finished clips; none where there is no file. A last line torn by a stopped build does not count."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def grow(
    file: Path,
    sizes: Mapping[str, int],
    chunks: Sequence[Any],
    make: Callable[[Any], Made],
    workers: int,
) -> None:
    """Make the chunks that a folder lacks.

    Parameters
    ----------
    file : Path
        Of the rows, which get a column `chunk`; the arrays' files lie beside it.
    sizes : mapping of str to int
        Bytes a clip has in each array's file, by the file's name.
    chunks : sequence
        What `make` is called with, in worker processes; the same at every call for a folder.
    make : callable
        A function of a module.
    workers : int
        Processes.
    """
    make_folder(file.parent)
    there = rows(file)
    done = {row["chunk"] for row in there}
    todo = [number for number in range(len(chunks)) if number not in done]
    with ExitStack() as open_files, ProcessPoolExecutor(workers) as pool:
        arrays = {name: open_files.enter_context((file.parent / name).open("ab")) for name in sizes}
        lines = open_files.enter_context(file.open("ab"))
        # What a stopped build left behind its last finished row is cut off.
        for name, size in sizes.items():
            arrays[name].truncate(len(there) * size)
        lines.truncate(sum(len(json.dumps(row)) + 1 for row in there))
        for number, made in zip(todo, pool.map(make, [chunks[number] for number in todo]), strict=True):
            for clip, _ in made:
                for name, values in clip.items():
                    arrays[name].write(values.tobytes())
            for array in arrays.values():
                array.flush()
            lines.write("".join(json.dumps(row | {"chunk": number}) + "\n" for _, row in made).encode())
            lines.flush()
            print(f"{file.stem}: {number + 1} of {len(chunks)} chunks", flush=True)
