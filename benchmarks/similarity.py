"""How fast the similarity search goes through a track: one correlation by FFT against a plain loop over the candidates.

    python benchmarks/similarity.py [--minutes 10] [--share 0.02]

The track is noise, shaped like music by random tones; the gap is the paper's. The plain loop takes equation
10 as it stands: one candidate after the other, all frames and bins at once in numpy, from the same features. A second
loop leaves out the frames whose weight is 0. Both are timed on a share of the candidates, spread over the track, and
their costs there are compared. All sides are timed in this run. Limits: 10 s a search of 10 minutes on 2 cores, and 20
times the plain loop's speed, features apart.
"""

import argparse
import time

import numpy as np
import torch

from blendbench.tasks.long_gap import similarity
from blendbench.tasks.long_gap.gap import Gap

GAP, WINDOW = Gap(85_197, 176_947), 262_144


def track(minutes: float) -> torch.Tensor:
    """Chords of decaying tones over a little noise."""
    draw, rate = np.random.default_rng(0), 44_100
    sound = 0.002 * draw.standard_normal(round(60 * minutes * rate))
    at = np.arange(rate) / rate
    for start in range(0, len(sound) - rate, rate // 4):
        pitch = 440 * 2 ** (draw.integers(-24, 24) / 12)
        sound[start : start + rate] += 0.1 * np.exp(-4 * at) * np.sin(2 * np.pi * pitch * at)
    return torch.from_numpy(sound).float()


def looped(query: np.ndarray, part: np.ndarray, share: float, plain: bool) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Costs of a share of the candidates, their places, the seconds of all by that share, and how many all are."""
    settings = similarity.DEFAULTS
    theirs = similarity.magnitudes(part, settings)
    ours = similarity.magnitudes(query, settings)
    sides = []
    for mine, other, reach in (
        (ours, theirs, settings.stft_reach),
        (similarity.chromagram(ours), similarity.chromagram(theirs), settings.chroma_reach),
    ):
        weights = similarity.frame_weights(len(ours), GAP, reach, settings)
        kept = np.arange(len(ours)) if plain else np.flatnonzero(weights)
        sides.append(
            (mine[kept], other, kept, weights[kept, None], float((weights[kept, None] * mine[kept] ** 2).sum()))
        )
    count = int((len(part) - len(query)) // settings.hop_samples) + 1
    places = np.unique(np.linspace(0, count - 1, max(round(share * count), 2)).astype(int))
    began = time.perf_counter()
    costs = [
        sum(
            np.sqrt((weights * (mine - other[kept + place]) ** 2).sum() / norm)
            for mine, other, kept, weights, norm in sides
        )
        for place in places
    ]
    seconds = (time.perf_counter() - began) * count / len(places)
    return np.array(costs), places, seconds, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.02)
    words = parser.parse_args()
    whole = track(words.minutes)
    start = len(whole) // 3
    clip = whole[start : start + WINDOW] * GAP.mask(WINDOW)
    corpus = [whole[: start + GAP.start], whole[start + GAP.stop :]]
    began = time.perf_counter()
    match = similarity.find(clip, GAP, corpus)
    search = time.perf_counter() - began
    print(f"{words.minutes:g} minutes: part {match.part}, {match.offset / 44_100:.2f} s in, {search:.2f} s a search")

    query, part = clip.double().numpy(), corpus[1].double().numpy()
    began = time.perf_counter()
    costs = similarity.cost(query, GAP, part)
    both = time.perf_counter() - began
    began = time.perf_counter()
    similarity.chromagram(similarity.magnitudes(part))
    features = time.perf_counter() - began
    print(f"features {features:.2f} s, correlation {both - features:.2f} s")
    for name, plain in (("plain loop", True), ("loop over frames that weigh", False)):
        slow, places, loop, count = looped(query, part, words.share, plain)
        error = np.abs(costs[places] - slow).max()
        print(
            f"{name}: {loop:.1f} s for {count} candidates, {loop / (both - features):.0f} times the correlation; "
            f"with the features on both sides {(loop + features) / both:.0f}; costs differ by {error:.0e}"
        )


if __name__ == "__main__":
    main()
