"""The items of the task: noise clips paired with prompts, the same whatever the machine or the limit."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from blendbench.datasets import NoiseClip, Prompt
from blendbench.errors import BlendbenchError
from blendbench.seeds import shuffled


@dataclass(frozen=True, slots=True)
class Pair:
    """The task's item: a noise clip and a prompt."""

    dataset: str
    clip: NoiseClip
    prompt: Prompt

    @property
    def id(self) -> str:
        """Data set, clip and prompt, joined by two hyphens."""
        return f"{self.dataset}--{self.clip.id}--{self.prompt.id}"

    def facts(self) -> dict[str, str]:
        """Columns of its rows."""
        return {
            "clip": self.clip.id,
            "label": self.clip.label,
            "genre": self.prompt.genre,
            "prompt": self.prompt.text,
        }


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
