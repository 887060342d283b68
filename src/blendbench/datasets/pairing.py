"""Deterministic pairing: noise clips with prompts, and music clips with their half.

Everything is drawn by hashing the run's seed with stable names, so a pair, its seed and its place in the order do not
depend on the machine, on the limit, or on how the work is cut.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from blendbench.datasets import MusicClip, NoiseClip, Pair, Prompt
from blendbench.errors import BlendbenchError


def stable_seed(*parts: object) -> int:
    """Seed in 0..2^63-1 from the SHA-256 of the parts' texts."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(items: Iterable, seed: int, key) -> list:
    """Items in an order drawn by hash of (seed, key(item)), whatever order they come in."""
    return sorted(items, key=lambda item: (stable_seed(seed, key(item)), key(item)))


def make_pairs(
    dataset: str, clips: Sequence[NoiseClip], prompts: Sequence[Prompt], per_clip: int, seed: int
) -> list[Pair]:
    """Pair every clip with `per_clip` prompts of different genres, in rounds.

    The clips stand in a drawn order, labels interleaved, and each takes the next genre, round after round. So any first
    N pairs spread evenly over clips, labels and genres; within a genre the prompts take turns.

    Raises
    ------
    BlendbenchError
        If there are no clips or prompts, or `per_clip` is not positive, or ids repeat.
    """
    if not clips or not prompts:
        raise BlendbenchError(f"dataset {dataset}: no noise clips or no prompts to pair; check dataset and prompts")
    if per_clip < 1:
        raise BlendbenchError(f"dataset {dataset}: prompts_per_clip={per_clip}; use 1 or more")
    for name, ids in (("clip", [clip.id for clip in clips]), ("prompt", [prompt.id for prompt in prompts])):
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise BlendbenchError(f"dataset {dataset}: {name} id {twice!r} stands twice; make ids unique")
    by_genre: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in shuffled(prompts, seed, lambda prompt: prompt.id):
        by_genre[prompt.genre].append(prompt)
    genres = sorted(by_genre)
    by_label: dict[str, list[NoiseClip]] = defaultdict(list)
    for clip in shuffled(clips, seed, lambda clip: clip.id):
        by_label[clip.label].append(clip)
    queues = [by_label[label] for label in sorted(by_label)]
    order = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    pairs = []
    # A round goes on with the genre after the last one's, and one further whenever that would repeat a clip's genre.
    cycle = len(genres) // math.gcd(len(order), len(genres))
    for turn in range(per_clip):
        offset = turn * len(order) + turn // cycle
        for index, clip in enumerate(order):
            choices = by_genre[genres[(index + offset) % len(genres)]]
            pairs.append(Pair(dataset, clip, choices[((index // len(genres)) + turn) % len(choices)]))
    unique = list(dict.fromkeys(pairs))
    return unique


def split_music(clips: Sequence[MusicClip], seed: int) -> tuple[list[MusicClip], list[MusicClip]]:
    """Split music into (reference, random) halves by source track, evenly within each genre.

    Raises
    ------
    BlendbenchError
        If there are fewer than two source tracks.
    """
    by_genre: dict[str, dict[str, list[MusicClip]]] = defaultdict(lambda: defaultdict(list))
    genre_of: dict[str, str] = {}
    for clip in clips:
        # A track that appears under two genres stays whole, under the first.
        by_genre[genre_of.setdefault(clip.source, clip.genre)][clip.source].append(clip)
    if len(genre_of) < 2:
        raise BlendbenchError(f"music: {len(genre_of)} source track(s); two halves need at least two")
    halves: tuple[list[MusicClip], list[MusicClip]] = ([], [])
    turn = 0
    for genre in sorted(by_genre):
        for source in shuffled(by_genre[genre], seed, str):
            halves[turn % 2].extend(sorted(by_genre[genre][source], key=lambda clip: clip.id))
            turn += 1
    return halves
