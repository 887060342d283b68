"""Seeds and orders drawn by hashing names: the same on any machine, at any limit, however the work is cut."""

import hashlib
from collections.abc import Iterable


def stable_seed(*parts: object) -> int:
    """Seed in 0..2^63-1 from the SHA-256 of the parts' texts."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(items: Iterable, seed: int, key) -> list:
    """Items in an order drawn by hash of (seed, key(item)), whatever order they come in."""
    return sorted(items, key=lambda item: (stable_seed(seed, key(item)), key(item)))
