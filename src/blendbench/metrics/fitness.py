"""Fitness: how well a segment of a piece explains the rest of it by repetition (Müller, Jiang and Grosche, 2013).

A segment's path family is the best set of paths through its columns of the self-similarity matrix that do not overlap
in time. Fitness is the harmonic mean of the family's score a step and of the share of the piece that it covers, both
less what the segment says of itself. Steps are (1, 1), (2, 1) and (1, 2).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

THRESHOLD, PENALTY, SMOOTH = 0.15, -2.0, 4
"""Share of the matrix that counts as alike, what the rest counts, and frames that it is smoothed over (Wu and Yang)."""


def prepared(similarity: np.ndarray) -> np.ndarray:
    """A matrix [N, N] smoothed along its diagonals: its highest share in 0..1, the rest penalised, the diagonal 1."""
    size = len(similarity)
    smooth = np.zeros_like(similarity, dtype=np.float64)
    count = np.zeros_like(smooth)
    for shift in range(SMOOTH):
        smooth[: size - shift, : size - shift] += similarity[shift:, shift:]
        count[: size - shift, : size - shift] += 1
    smooth /= count
    least = float(np.quantile(smooth, 1 - THRESHOLD))
    span = max(float(smooth.max()) - least, 1e-9)
    made = np.where(smooth >= least, (smooth - least) / span, PENALTY)
    np.fill_diagonal(made, 1.0)
    return made


def fitness_of_lengths(similarity: np.ndarray, shortest: int = 3) -> dict[int, float]:
    """Largest fitness of the segments of each length in frames, from `shortest` to half the piece.

    Parameters
    ----------
    similarity : ndarray [N, N]
        Cosines of frames.
    """
    matrix, size = prepared(similarity), len(similarity)
    found = {}
    for length in range(shortest, size // 2 + 1):
        found[length] = max(float(_compiled()(matrix[:, start : start + length])) for start in range(size - length + 1))
    return found


def fitness(columns: np.ndarray) -> float:
    """Fitness of a segment by its columns [N, length] of a prepared matrix."""
    value: float = _compiled()(np.ascontiguousarray(columns))
    return value


@lru_cache(maxsize=1)
def _compiled() -> Callable[[np.ndarray], float]:
    import numba

    made: Callable[[np.ndarray], float] = numba.njit(cache=False)(_fitness)
    return made


def _fitness(columns: Any) -> Any:
    size, length = columns.shape
    # Best score, steps, rows covered and first row of what ends at each cell; column 0 is between paths.
    score = np.full((size, length + 1), -np.inf)
    steps = np.zeros((size, length + 1))
    cover = np.zeros((size, length + 1))
    first = np.zeros((size, length + 1))
    score[0, 0] = 0.0
    for n in range(size):
        if n > 0:
            score[n, 0], steps[n, 0], cover[n, 0] = score[n - 1, 0], steps[n - 1, 0], cover[n - 1, 0]
            if score[n - 1, length] > score[n, 0]:
                score[n, 0], steps[n, 0] = score[n - 1, length], steps[n - 1, length]
                cover[n, 0] = cover[n - 1, length] + n - first[n - 1, length]
        score[n, 1], steps[n, 1] = score[n, 0] + columns[n, 0], steps[n, 0] + 1
        cover[n, 1], first[n, 1] = cover[n, 0], n
        for m in range(2, length + 1):
            best, row, column = -np.inf, -1, -1
            if n >= 1 and score[n - 1, m - 1] > best:
                best, row, column = score[n - 1, m - 1], n - 1, m - 1
            if n >= 2 and score[n - 2, m - 1] > best:
                best, row, column = score[n - 2, m - 1], n - 2, m - 1
            if n >= 1 and m >= 3 and score[n - 1, m - 2] > best:
                best, row, column = score[n - 1, m - 2], n - 1, m - 2
            if row >= 0:
                score[n, m], steps[n, m] = best + columns[n, m - 1], steps[row, column] + 1
                cover[n, m], first[n, m] = cover[row, column], first[row, column]
    last = size - 1
    total, taken, covered = score[last, 0], steps[last, 0], cover[last, 0]
    if score[last, length] > total:
        total, taken = score[last, length], steps[last, length]
        covered = cover[last, length] + size - first[last, length]
    if taken == 0:
        return 0.0
    own = (total - length) / taken
    share = (covered - length) / size
    if own <= 0 or share <= 0:
        return 0.0
    return 2 * own * share / (own + share)
