"""Are the joins of a long noise's windows heard? What happens there beside what happens within windows.

    .venv/bin/python benchmarks/seams.py [--data-root ../shared/data] [--recordings 20] [--seconds 30] [--method ...]

Each recording of ESC-50's fold 4 is looped to the length wanted and given music by each method. Printed are, over all
joins and as many times drawn within windows (a second or more from any join):

- novelty: Foote's checkerboard novelty (2 s a side, chroma and MFCC), as percentile among the piece's own times;
- flux: the largest spectral flux within 60 ms, as percentile;
- chroma: cosine of the mean chroma 2 s before and 2 s after;
- level: step between the 0.5 s before and after, in dB; and the largest sample step within 10 ms over the piece's own
  99.9th percentile (a click is well above 1).

Each with a 95 % interval over recordings, and the p of the paired difference. Random real music, cut at the same times,
is the other side: joins that are none.
"""

import argparse
import os
from pathlib import Path

import librosa
import numpy as np
import torch

from blendbench import config
from blendbench.composing import compose
from blendbench.datasets import NoiseClip, Prompt, builtin, esc50
from blendbench.runs.folder import Run
from blendbench.runs.plan import context_of
from blendbench.seeds import stable_seed
from blendbench.sound.audio import SAMPLE_RATE, resample
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.pairing import Pair

RATE = 22_050
HOP = 512


def features(wave: np.ndarray) -> dict[str, np.ndarray]:
    """Novelty, flux and chroma by frame, at 22,050 Hz."""
    chroma = librosa.feature.chroma_stft(y=wave, sr=RATE, n_fft=4096, hop_length=HOP, tuning=0)
    mfcc = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=13, hop_length=HOP)[1:]
    both = np.concatenate([part / (part.std() + 1e-9) for part in (chroma, mfcc)])
    unit = both / (np.linalg.norm(both, axis=0) + 1e-9)
    similarity = unit.T @ unit
    side = round(2 * RATE / HOP)
    sign = np.sign(np.arange(-side, side) + 0.5)
    taper = np.exp(-0.5 * (np.arange(-side + 0.5, side) / (side / 2)) ** 2)
    kernel = np.outer(sign * taper, sign * taper)
    novelty = np.full(similarity.shape[0], np.nan)
    for at in range(side, similarity.shape[0] - side):
        novelty[at] = (kernel * similarity[at - side : at + side, at - side : at + side]).sum()
    flux = librosa.onset.onset_strength(y=wave, sr=RATE, hop_length=HOP)
    return {"novelty": novelty, "flux": flux, "chroma": chroma}


def at_times(wave: np.ndarray, times: list[float]) -> dict[str, list[float]]:
    """The measures at some times in seconds."""
    found = features(wave)
    novelty, flux, chroma = found["novelty"], found["flux"], found["chroma"]
    valid = novelty[~np.isnan(novelty)]
    near = round(0.06 * RATE / HOP)
    largest = np.array([flux[max(0, i - near) : i + near + 1].max() for i in range(len(flux))])
    steps = np.abs(np.diff(wave))
    usual = np.quantile(steps, 0.999) + 1e-9
    side, half, click = round(2 * RATE / HOP), RATE // 2, RATE // 100
    out: dict[str, list[float]] = {name: [] for name in ("novelty", "flux", "chroma", "level", "click")}
    for time in times:
        frame, sample = round(time * RATE / HOP), round(time * RATE)
        out["novelty"].append(100 * float((valid <= novelty[frame]).mean()))
        out["flux"].append(100 * float((largest <= largest[frame]).mean()))
        before, after = chroma[:, frame - side : frame].mean(1), chroma[:, frame : frame + side].mean(1)
        out["chroma"].append(float(before @ after / (np.linalg.norm(before) * np.linalg.norm(after) + 1e-9)))
        levels = [
            10 * np.log10((part**2).mean() + 1e-12)
            for part in (wave[sample - half : sample], wave[sample : sample + half])
        ]
        out["level"].append(abs(levels[1] - levels[0]))
        out["click"].append(float(steps[sample - click : sample + click].max() / usual))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("BLENDBENCH_DATA", "../shared/data"))
    parser.add_argument("--recordings", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--generator", default="pocket_fast")
    parser.add_argument("--method", nargs="+", default=["bnmusic", "riffusion_a2a", "text_to_music", "random_music"])
    parser.add_argument("--overlap", type=int, default=128)
    words = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    root = Path(words.data_root)
    if (root / "ESC-50").is_dir():
        clips = [clip for clip in esc50.read_table(root / "ESC-50") if clip.fold == 4]
        clips = clips[:: max(1, len(clips) // words.recordings)][: words.recordings]
    else:
        print("ESC-50 is not there: the built-in noises stand in")
        clips = builtin.noise()[: words.recordings]
    prompts = sorted(builtin.prompts(), key=lambda prompt: stable_seed(prompt.id))
    every: dict[str, list[dict[str, dict[str, list[float]]]]] = {}
    for name in words.method:
        own = [] if name == "random_music" else [f"+method.overlap={words.overlap}"]
        music = ["music=musicbench", f"data.root={root}"] if (root / "MusicBench").is_dir() else []
        usual = [f"method={name}", f"generator={words.generator}", f"noise.seconds={words.seconds}"]
        settings = compose([*usual, *own, *music])
        run = Run(Path("unused"), settings)
        task = run.build_task(store=None)
        run.__dict__["task"] = task
        context = context_of(run, keep=False)
        method = config.build(run.given.method, "method", run.allowed)
        method.prepare(context.only(method.uses))
        for number, clip in enumerate(clips):
            prompt = prompts[number % len(prompts)]
            noise = task.noises.read(NoiseClip(clip.id, clip.path, "", clip.id))
            pair = Pair("bench", clip, Prompt("", "", prompt.text))
            given = NoiseAndText(pair, stable_seed(clip.id, prompt.id), len(noise), noise, prompt.text)
            wave = resample(method.generate([given.only(method.takes)])[0].waveform, SAMPLE_RATE, RATE).numpy()
            step = (512 - words.overlap) / 100
            joins = [k * step + words.overlap / 100 for k in range(1, int((words.seconds - 6) / step) + 1)]
            draw = np.random.default_rng(number)
            within = [t for t in draw.uniform(3, words.seconds - 3, 400) if min(abs(t - j) for j in joins) > 1][
                : len(joins)
            ]
            every.setdefault(name, []).append({"joins": at_times(wave, joins), "within": at_times(wave, within)})
            print(f"{name} {number + 1} of {len(clips)}", end="\r", flush=True)
    print(f"{'method':<16}{'measure':<10}{'joins':>22}{'within windows':>24}{'p':>8}")
    draw = np.random.default_rng(0)
    for name, pieces in every.items():
        for measure in ("novelty", "flux", "chroma", "level", "click"):
            sides = {
                side: np.array([np.mean(piece[side][measure]) for piece in pieces]) for side in ("joins", "within")
            }
            cells = []
            for values in sides.values():
                means = values[draw.integers(0, len(values), (2000, len(values)))].mean(1)
                cells.append(f"{values.mean():.2f} [{np.quantile(means, 0.025):.2f}, {np.quantile(means, 0.975):.2f}]")
            difference = sides["joins"] - sides["within"]
            flips = (difference * draw.choice([-1, 1], (5000, len(difference)))).mean(1)
            p = float((np.abs(flips) >= abs(difference.mean()) - 1e-12).mean())
            print(f"{name:<16}{measure:<10}{cells[0]:>22}{cells[1]:>24}{p:>8.3f}")


if __name__ == "__main__":
    main()
