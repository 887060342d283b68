"""Is the built-in prior any good? Short gaps against linear prediction, and what it makes out of nothing.

    .venv/bin/python benchmarks/prior.py [--work runs/train] [--gaps 24] [--samples 8] [--out WORK/bench_prior]

Needs `WORK/piano`, of which the songs that were held out are taken, and `WORK/prior` (or --prior). Gaps of 50 ms in
stretches of three seconds, at the prior's rate: log-spectral distance (frames of 46 ms) of DPS, of DPS with the Wiener
filter alone, and of linear prediction with the paper's order and context in samples (1,000 and 2,048) and in time
(250 and 512); Wilcoxon's signed-rank test of DPS against the better of the two. Then samples from nothing, of the
network and of the Wiener filter, and as many held-out stretches: how likely the built-in tagger hears a piano, and
whether musicnn (MagnaTagATune's tags; `blendbench models fetch musicnn`) has "piano" among its first three tags.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from builtin_models import Row, row
from scipy import stats

from blendbench.errors import BlendbenchError
from blendbench.evaluators.musicnn import MusicnnTagger
from blendbench.models.edm import Churn, Guidance, Schedule, guided, sample
from blendbench.models.priors import AudioPrior
from blendbench.models.tagger import Tagger
from blendbench.resources import package_folder
from blendbench.sound import audio
from blendbench.tasks.long_gap.distances import log_spectral_distance
from blendbench.tasks.long_gap.gap import Gap
from blendbench.tasks.long_gap.prediction import extrapolate_gap
from blendbench.train.data.piano import Piano

CROP, FRAME = 32_768, 512
PIANOS = ("piano", "bright piano")


def drawn(prior: AudioPrior, seed: int, signal: torch.Tensor | None = None, mask: torch.Tensor | None = None):
    """A waveform [samples] from the prior, held to a signal where there is one."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(1, CROP, generator=generator)
    denoiser = prior.denoise if signal is None else guided(prior.denoise, signal[None], mask, Guidance(0.3, 0.0))
    with torch.no_grad():
        return sample(denoiser, start, Schedule(), Churn(), [generator])[0]


def gaps(prior: AudioPrior, wiener: AudioPrior, data: Piano, count: int) -> list[Row]:
    rate = prior.sample_rate
    gap = Gap(CROP // 2, CROP // 2 + round(0.05 * rate))
    mask = gap.mask(CROP).float()
    distances: dict[str, list[float]] = {}
    for number, whole in enumerate(data.crops("held_out", count, CROP, np.random.default_rng([3, count]))):
        broken = whole * mask
        found = {
            "DPS": drawn(prior, number, broken, mask),
            "DPS, Wiener filter alone": drawn(wiener, number, broken, mask),
        }
        found["linear prediction, order 1,000"] = extrapolate_gap(broken, gap, 1000, 2048, 0)
        found["linear prediction, order 250"] = extrapolate_gap(broken, gap, 250, 512, 0)
        for name, filled in found.items():
            distances.setdefault(name, []).append(log_spectral_distance(whole, filled, gap, FRAME))
        print(number, {name: round(values[-1], 2) for name, values in distances.items()}, flush=True)
    rows = [row("prior", f"50-ms gaps, LSD in dB: {name}", values) for name, values in distances.items()]
    predicted = min(
        (name for name in distances if name.startswith("linear")), key=lambda name: np.mean(distances[name])
    )
    ours, theirs = np.array(distances["DPS"]), np.array(distances[predicted])
    test = float(stats.wilcoxon(ours, theirs).pvalue)
    remark = f"(against {predicted}; Wilcoxon's p {test:.2g})"
    return [
        *rows,
        row("prior", "50-ms gaps, LSD of DPS less that of prediction", ours - theirs, "below 0", 0.0, remark),
    ]


def heard(prior: AudioPrior, wiener: AudioPrior, data: Piano, count: int) -> list[Row]:
    real = data.crops("held_out", count, CROP, np.random.default_rng([4, count]))
    sounds = {
        "held-out piano": list(real),
        "samples from nothing": [drawn(prior, 1000 + number) for number in range(count)],
        "samples of the Wiener filter": [drawn(wiener, 1000 + number) for number in range(count)],
    }
    tagger = Tagger.load(package_folder("blendbench.assets") / "tagger")
    places = [tagger.instrument_names.index(name) for name in PIANOS]
    judge = MusicnnTagger("musicnn", network="MTT")
    rows = []
    for name, waves in sounds.items():
        up = [audio.resample(wave, prior.sample_rate, audio.SAMPLE_RATE) for wave in waves]
        leveled = [
            audio.normalize_loudness(audio.extend_circular(wave, 220_500), audio.SAMPLE_RATE, -18.0)[0] for wave in up
        ]
        with torch.inference_mode():
            told = tagger.describe(torch.stack(leveled)).instruments
        rows.append(row("prior", f"{name}: piano, built-in tagger", told[:, places].amax(1).tolist()))
        try:
            first = [_first_tags(judge, wave) for wave in leveled]
        except BlendbenchError as error:
            print(f"musicnn is left out: {error}")
            continue
        rows.append(
            row("prior", f"{name}: piano among musicnn's first three", [float("piano" in tags) for tags in first])
        )
        print(name, first, flush=True)
    return rows


def _first_tags(judge: MusicnnTagger, wave: torch.Tensor) -> list[str]:
    low = audio.resample(wave, audio.SAMPLE_RATE, judge.sample_rate)
    logits = judge.score(low).logits
    return [judge.tags[place] for place in logits.topk(3).indices.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/train"))
    parser.add_argument("--prior", type=Path, help="a folder; WORK/prior if left out")
    parser.add_argument("--gaps", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path, help="WORK/bench_prior if left out")
    words = parser.parse_args()
    data, whole = Piano(words.work / "piano"), AudioPrior.load(words.prior or words.work / "prior")
    prior = whole.for_samples(CROP).requires_grad_(False)
    wiener = AudioPrior(whole.sample_rate, whole.sigma_data, whole.spectrum, CROP, base="wiener")
    rows = gaps(prior, wiener, data, words.gaps) + heard(prior, wiener, data, words.samples)
    out = words.out or words.work / "bench_prior"
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps([one._asdict() for one in rows], indent=1) + "\n")
    for one in rows:
        print(f"{one.figure:<60} {one.value:8.3f} [{one.low:.3f}, {one.high:.3f}] {one.target} {one.remark}")


if __name__ == "__main__":
    main()
