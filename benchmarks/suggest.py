"""Does the quick ranking of prompts agree with full blends? Spearman's rank correlation for each of 20 noises.

    .venv/bin/python benchmarks/suggest.py [--data-root ../shared/data] [--noises 20] [--prompts 21] [--seeds 2]

One side is what `blendbench suggest` does; the other blends in full (both paintings, all steps, phase, measured as
sound) with other seeds, so that nothing is shared but noise and prompt. Printed beside: what two full rankings of
different seeds agree among each other (the ceiling), and what choosing by the quick ranking gains over a random prompt.
`--out FILE` keeps every ratio as JSON.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from blendbench.composing import compose
from blendbench.datasets import builtin, esc50
from blendbench.seeds import shuffled
from blendbench.sound import audio, masking_model
from blendbench.suggest import CHEAP, Suggesting


def full(suggesting: Suggesting, prompt, seed: int) -> float:
    """Noise-to-mask ratio in dB of a whole blend at equal loudness."""
    music = suggesting.method.generate([suggesting.given(prompt, seed)])[0].waveform
    leveled, _ = audio.normalize_loudness(music, audio.SAMPLE_RATE, -18.0)
    return masking_model.ratio_of(suggesting.noise, leveled)


def interval(values: np.ndarray) -> str:
    draw = np.random.default_rng(0)
    means = values[draw.integers(0, len(values), (5000, len(values)))].mean(1)
    return f"{values.mean():.2f} [{np.quantile(means, 0.025):.2f}, {np.quantile(means, 0.975):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("BLENDBENCH_DATA", "../shared/data"))
    parser.add_argument("--noises", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=21)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where every ratio is kept")
    words = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    root = Path(words.data_root)
    if (root / "ESC-50").is_dir():
        clips = shuffled(
            [clip for clip in esc50.read_table(root / "ESC-50") if clip.fold == 4], 0, lambda clip: clip.id
        )
    else:
        print("ESC-50 is not there: the built-in noises stand in")
        clips = builtin.noise()
    quick_settings, full_settings = compose([*CHEAP]), compose(["generator=pocket_fast"])
    prompts = shuffled(builtin.prompts(), 0, lambda prompt: prompt.id)[: words.prompts]
    quick_agrees, ceiling, gains, seconds, kept = [], [], [], [0.0, 0.0], {}
    for number, clip in enumerate(clips[: words.noises]):
        quick, whole = Suggesting(clip.path, quick_settings), Suggesting(clip.path, full_settings)
        start = time.perf_counter()
        ranking = np.array([quick.ratio(prompt)[0] for prompt in prompts])
        seconds[0] += time.perf_counter() - start
        start = time.perf_counter()
        blends = np.array([[full(whole, prompt, 100 + seed) for prompt in prompts] for seed in range(words.seeds)])
        seconds[1] += time.perf_counter() - start
        mean = blends.mean(0)
        kept[clip.id] = {"prompts": [one.id for one in prompts], "quick": ranking.tolist(), "full": blends.tolist()}
        if words.out:
            words.out.write_text(json.dumps(kept, indent=1) + "\n")
        quick_agrees.append(stats.spearmanr(ranking, mean).statistic)
        if words.seeds > 1:
            ceiling.append(stats.spearmanr(blends[0], blends[1]).statistic)
        gains.append(mean.mean() - mean[ranking.argmin()])
        print(f"{number + 1:>3} {clip.id:<20} quick and full {quick_agrees[-1]:.2f}", flush=True)
    print(f"rank correlation, quick with full (mean of {words.seeds}): {interval(np.array(quick_agrees))}")
    if ceiling:
        print(f"rank correlation, full with full of another seed: {interval(np.array(ceiling))}")
    print(f"gain of the quick ranking's first over a prompt at random, dB: {interval(np.array(gains))}")
    count = len(quick_agrees) * len(prompts)
    print(f"seconds a prompt: quick {seconds[0] / count:.2f}, full {seconds[1] / count / words.seeds:.2f}")


if __name__ == "__main__":
    main()
