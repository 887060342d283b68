"""Deterministic pairing: noise clips with prompts, and music clips with their half.

Everything is drawn by hashing the run's seed with stable names, so a pair, its seed and its place in the order do not
depend on the machine, on the limit, or on how the work is cut.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

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
    dataset: str,
    clips: Sequence[NoiseClip],
    prompts: Sequence[Prompt],
    per_clip: int,
    seed: int,
    limit: int | None = None,
) -> list[Pair]:
    """Pair every clip with `per_clip` prompts of different genres, in rounds; the first `limit` pairs.

    The clips stand in a drawn order, labels interleaved, and each takes the next genre, round after round. So any first
    N pairs spread evenly over clips, labels and genres; within a genre the prompts take turns. A clip with prompts of
    its own takes those, one a round, and no others.

    Raises
    ------
    BlendbenchError
        If there are no clips or prompts, or `per_clip` is not positive, or ids repeat.
    """
    if not clips or not (prompts or all(clip.prompts for clip in clips)):
        raise BlendbenchError(f"dataset {dataset}: no noise clips or no prompts to pair; check dataset and prompts")
    if per_clip < 1:
        raise BlendbenchError(f"dataset {dataset}: prompts_per_clip={per_clip}; use 1 or more")
    for name, ids in (("clip", [clip.id for clip in clips]), ("prompt", [prompt.id for prompt in prompts])):
        twice = next((one for one, times in Counter(ids).items() if times > 1), None)
        if twice is not None:
            raise BlendbenchError(f"dataset {dataset}: {name} id {twice!r} stands twice; make ids unique")
    return list(islice(_pairs(dataset, clips, prompts, per_clip, seed), limit))


def _pairs(
    dataset: str, clips: Sequence[NoiseClip], prompts: Sequence[Prompt], per_clip: int, seed: int
) -> Iterator[Pair]:
    by_genre: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in shuffled(prompts, seed, lambda prompt: prompt.id):
        by_genre[prompt.genre].append(prompt)
    genres = sorted(by_genre)
    by_label: dict[str, list[NoiseClip]] = defaultdict(list)
    for clip in shuffled(clips, seed, lambda clip: clip.id):
        by_label[clip.label].append(clip)
    queues = [by_label[label] for label in sorted(by_label)]
    order = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    # A round goes on with the genre after the last one's, and one further whenever that would repeat a clip's genre.
    cycle = len(genres) // math.gcd(len(order), len(genres)) if genres else 1
    known = set()
    for turn in range(max(per_clip, max(len(clip.prompts) for clip in order))):
        offset = turn * len(order) + turn // cycle
        for index, clip in enumerate(order):
            if clip.prompts:
                if turn < len(clip.prompts):
                    yield Pair(dataset, clip, clip.prompts[turn])
            elif turn < per_clip:
                choices = by_genre[genres[(index + offset) % len(genres)]]
                prompt = choices[((index // len(genres)) + turn) % len(choices)]
                if (clip.id, prompt.id) not in known:
                    known.add((clip.id, prompt.id))
                    yield Pair(dataset, clip, prompt)


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
