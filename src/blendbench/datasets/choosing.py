"""Rules that choose which clips of a data set take part: seeded, even over classes, whatever order a table comes in.

What is drawn is drawn by hashing the rule's own seed with the clips' ids, never the run's: the choice belongs to the
data set, so every run of an experiment hears the same clips.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from blendbench.datasets import MusicClip
from blendbench.errors import BlendbenchError
from blendbench.seeds import shuffled

_Item = TypeVar("_Item")


def quotas(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share a total out over classes as evenly as their sizes allow.

    Every class gives the same number; one that has fewer gives all it has, and the others share what it lacks. What
    does not divide goes, one each, to the larger classes (by name where they are equal).

    Parameters
    ----------
    sizes : mapping of str to int
        Items in each class.
    total : int
        Wanted sum; all items if there are not as many.
    """
    shares: dict[str, int] = {}
    left, total = dict(sizes), min(total, sum(sizes.values()))
    while left:
        even = total // len(left)
        small = [name for name, size in left.items() if size <= even]
        if not small:
            order = sorted(left, key=lambda name: (-left[name], name))
            more = total - even * len(left)
            shares |= {name: even + (place < more) for place, name in enumerate(order)}
            break
        for name in small:
            shares[name] = left.pop(name)
            total -= shares[name]
    return shares


def spread(
    items: Iterable[_Item], groups: Sequence[Callable[[_Item], object]], seed: int, key: Callable[[_Item], str]
) -> list[_Item]:
    """Items in a drawn order in which the members of each group are as far apart as can be.

    With the groups (fold, source), any first N come from as many sources as possible and, among those, evenly from the
    folds: each next item has the fewest of its source before it, then the fewest of its fold.

    Parameters
    ----------
    items : iterable
    groups : sequence of callables
        From an item to the name of its group; earlier ones are balanced within later ones.
    seed : int
    key : callable
        From an item to its id.
    """
    ordered = shuffled(items, seed, key)
    for group in groups:
        # Each item's rank in its group so far; a stable sort keeps the earlier order among equals.
        counts: dict[object, int] = defaultdict(int)
        ranks = []
        for item in ordered:
            ranks.append(counts[group(item)])
            counts[group(item)] += 1
        ordered = [item for _, item in sorted(zip(ranks, ordered, strict=True), key=lambda pair: pair[0])]
    return ordered


def by_class(items: Iterable[_Item], name: Callable[[_Item], str]) -> dict[str, list[_Item]]:
    """Items in lists by class, classes in the order of their names."""
    classes: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        classes[name(item)].append(item)
    return {label: classes[label] for label in sorted(classes)}


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
