"""How good the built-in models are: every figure that their cards name, measured on clips no training heard.

    .venv/bin/python benchmarks/builtin_models.py [--data-root ../shared/data] [--only tagger rhythm ...] [--out DIR]

Prints a table with 95 % intervals (bootstrap over clips) and the targets, and writes `figures.json`, and for
text to music a sheet of spectrograms (a row a genre, low frequencies at the bottom) and WAV files.

Held-out material: MusicBench's clips of songs outside the training (`data_manifests/pop909_held_out.txt`), ESC-50's
fold 4, freshly synthesised noises. Where a data set is missing, the built-in clips take its place, as a line says.
The two sides of every ratio are measured in the same run.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import librosa
import mir_eval
import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

from blendbench.datasets import MusicClip, NoiseClip, Prompt, builtin, esc50, musicbench
from blendbench.methods import Context
from blendbench.methods._images import to_grey, to_model
from blendbench.methods.bnmusic import BNMusic
from blendbench.metrics.bootstrap import bootstrap_interval
from blendbench.metrics.frechet import frechet_distance
from blendbench.models import latent_diffusion, sampling
from blendbench.models.generator import Generator
from blendbench.models.musicgen import CodeSampling, MusicGen, MusicGenCheckpoint
from blendbench.models.tagger import Tagger
from blendbench.resources import package_folder
from blendbench.seeds import shuffled, stable_seed
from blendbench.sound import audio, files, inversion
from blendbench.sound.lattice import extend_to_frames
from blendbench.sound.mel import decode_image, encode_image, mel_amplitudes
from blendbench.tasks.blend.given import NoiseAndText
from blendbench.tasks.blend.keys import MaskConfig
from blendbench.tasks.blend.pairing import Pair
from blendbench.train.data import noises
from blendbench.train.data.arranger import GENRES
from blendbench.train.pocket.autoencoder import spectral_convergence

RATE = 44_100
SAMPLES = 220_500
FRAMES = 225_792
WINDOWS = (0.05, 0.1)
RHYTHMIC = ("clock_tick", "footsteps", "dog", "washing_machine", "door_wood_knock", "hammering")


class Row(NamedTuple):
    """A line of the table."""

    section: str
    figure: str
    value: float
    low: float
    high: float
    target: str
    met: bool | None
    remark: str = ""


def row(
    section: str,
    figure: str,
    values: Sequence[float],
    target: str = "",
    bound: float | None = None,
    remark: str = "",
) -> Row:
    """A mean with its interval; `bound` is an upper limit, or a lower one where the target says "at least"."""
    data = torch.tensor(list(values), dtype=torch.float64)
    mean = float(data.mean())
    low, high = bootstrap_interval(lambda chosen: float(data[chosen].mean()), len(data))
    met = None if bound is None else (mean >= bound if target.startswith("at least") else mean <= bound)
    return Row(section, figure, mean, low, high, target, met, f"n={len(data)} {remark}")


class Bench:
    """The models and the held-out clips, loaded when first asked for."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words, self.root = words, Path(words.data_root)
        settings = OmegaConf.load(package_folder("blendbench.conf") / "generator" / f"{words.generator}.yaml")
        settings.pop("_target_")
        drawn = {"guidance_scale", "top_k", "temperature"}
        self.codes = CodeSampling(**{k: v for k, v in settings.musicgen.items() if k in drawn})
        if words.checkpoint:
            settings["checkpoint"] = words.checkpoint
        self.generator = Generator(**OmegaConf.to_container(settings))
        folder = package_folder("blendbench.assets") / "tagger" if words.tagger == "pocket" else words.tagger
        self.tagger_folder = Path(folder)

    def sampling(self, use: str) -> dict:
        """The generator's own settings for "repaint" or "image_to_image", with those of the command line."""
        return self.generator.sampling[use] | dict(OmegaConf.from_dotlist(self.words.sampling))

    @cache  # noqa: B019 - one bench lives as long as the program
    def model(self) -> latent_diffusion.LatentDiffusion:
        return self.generator.get("cpu")

    @cache  # noqa: B019
    def tagger(self) -> Tagger:
        return Tagger.load(self.tagger_folder)

    @cache  # noqa: B019
    def music_clips(self) -> list[MusicClip]:
        if (self.root / "MusicBench").is_dir():
            clips = [row.clip for row in musicbench.read_table(self.root / "MusicBench")]
            return sorted({clip.source: clip for clip in clips}.values(), key=lambda clip: clip.id)
        print("MusicBench is not there: the built-in music stands in")
        return builtin.music()

    @cache  # noqa: B019
    def noise_clips(self) -> list[NoiseClip]:
        if (self.root / "ESC-50").is_dir():
            return [clip for clip in esc50.read_table(self.root / "ESC-50") if clip.fold == 4]
        print("ESC-50 is not there: the built-in noises stand in")
        return builtin.noise()

    @cache  # noqa: B019
    def music(self) -> torch.Tensor:
        return torch.stack([read(clip.path) for clip in self.music_clips()])

    @cache  # noqa: B019
    def noise(self) -> torch.Tensor:
        return torch.stack([read(clip.path) for clip in self.noise_clips()])

    @cache  # noqa: B019
    def heard(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.hear({"music": self.music, "noise": self.noise}[kind]())

    @torch.inference_mode()
    def hear(self, waves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [N, D] and logits [N, classes] of waves [N, samples] brought to -18 LUFS, five seconds each."""
        parts = [self.tagger()(leveled(wave[:SAMPLES])[None]) for wave in waves]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def read(path: Path) -> torch.Tensor:
    return leveled(audio.extend_circular(files.read(path, RATE, max_seconds=FRAMES / RATE), FRAMES))


def leveled(wave: torch.Tensor) -> torch.Tensor:
    return audio.normalize_loudness(wave, RATE, -18.0)[0]


def ratio_of_distances(
    section: str,
    figure: str,
    near: torch.Tensor,
    far: torch.Tensor,
    to: torch.Tensor,
    target: str = "",
    bound: float | None = None,
) -> Row:
    """FAD(near, to) over FAD(far, to), with the interval over the clips of `near` (centred bootstrap)."""
    scale = frechet_distance(far, to)
    value = frechet_distance(near, to)
    low, high = bootstrap_interval(
        lambda chosen: frechet_distance(near[chosen], to), len(near), resamples=200, method="centred"
    )
    remark = f"{value:.2f} of {scale:.2f}, n={len(near)} and {len(to)}"
    met = None if bound is None else value / scale <= bound
    return Row(section, figure, value / scale, low / scale, high / scale, target, met, remark)


@torch.inference_mode()
def autoencoder(bench: Bench) -> list[Row]:
    model = bench.model()
    rows, sounds = [], {}
    for kind, waves in (("music", bench.music()[:140]), ("noise", bench.noise())):
        mels = torch.stack([mel_amplitudes(extend_to_frames(wave)) for wave in waves])
        pixels, peaks = encode_image(mels)
        images = to_model(pixels)
        after = torch.cat(
            [
                latent_diffusion.decode_latents(model, latent_diffusion.encode_images(model, one, sample=False))
                for one in images.split(1)
            ]
        )
        convergence = spectral_convergence(after[:, :1], images[:, :1]).tolist()
        rows.append(row("autoencoder", f"mel spectral convergence, {kind}", convergence, "at most 0.10", 0.10))
        if kind == "music":
            # Both sides through the same inversion, so that the autoencoder alone is measured.
            for name, grey in (("before", pixels), ("after", to_grey(after, False))):
                parts = zip(grey.split(4), peaks.split(4), strict=True)
                sounds[name] = torch.cat([inversion.to_audio(decode_image(*part), seeds=0) for part in parts])
    before, after = (bench.hear(sounds[name])[0] for name in ("before", "after"))
    figure = "FAD(round trip) / FAD(noise, music)"
    noise = bench.heard("noise")[0]
    return [*rows, ratio_of_distances("autoencoder", figure, after, noise, before, "at most 5 %", 0.05)]


def text_to_music(bench: Bench) -> list[Row]:
    words, model = bench.words, bench.model()
    settings = sampling.Sampling(**bench.sampling("repaint"))
    waves, wanted, sheet, seconds = [], [], [], []
    for genre in GENRES:
        prompts = shuffled((p for p in builtin.prompts() if p.genre == genre), 0, lambda p: p.id)
        greys = []
        for number in range(words.per_genre):
            prompt = prompts[number % len(prompts)]
            start = time.perf_counter()
            image = sampling.text_to_image(model, [prompt.text], [stable_seed(prompt.id, number)], settings)
            seconds.append(time.perf_counter() - start)
            greys.append(to_grey(image, False))
            sound = inversion.to_audio(decode_image(greys[-1], torch.full((1,), 60.0)), seeds=0)[0]
            files.write(
                words.out / f"{prompt.id}-{number}.wav", audio.limit_peak(leveled(sound))[0], RATE, subtype="PCM_16"
            )
            waves.append(sound)
            wanted.append(genre)
        sheet.append(torch.cat([grey[0] for grey in greys[:4]], dim=1))
    pixels = torch.cat(sheet, dim=0).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)).save(words.out / "sheet.png")
    embeddings, logits = bench.hear(torch.stack(waves))
    genres = [GENRES[int(top)] for top in logits[:, : len(GENRES)].argmax(1)]
    hits = [float(a == b) for a, b in zip(genres, wanted, strict=True)]
    for genre in GENRES:
        found = [heard for heard, want in zip(genres, wanted, strict=True) if want == genre]
        print(f"  {genre:<10} heard as " + ", ".join(f"{name} {found.count(name)}" for name in GENRES if name in found))
    noise, music = bench.heard("noise")[0], bench.heard("music")[0]
    composed = bench.hear(torch.stack([read(clip.path) for clip in builtin.music()]))[0]
    section, target = "text to music", "at most 25 %"
    return [
        ratio_of_distances(section, "FAD to built-in music / FAD(noise)", embeddings, noise, composed, target, 0.25),
        ratio_of_distances(section, "FAD to held-out songs / FAD(noise)", embeddings, noise, music, target, 0.25),
        # Rendered by different hands: what even real music has.
        ratio_of_distances(section, "the same of built-in music", composed, noise, music),
        row(section, "genre as prompted", hits, "at least 70 %", 0.7, remark="(chance 14 %)"),
        row(section, f"seconds a clip, {settings.steps} steps", seconds),
    ]


def tagger(bench: Bench) -> list[Row]:
    model = bench.tagger()
    kinds = model.classes[len(GENRES) :]
    music = [float(model.classes[int(top)] == clip.genre) for top, clip in
             zip(bench.heard("music")[1].argmax(1), bench.music_clips(), strict=True)]  # fmt: skip
    rows = [row("tagger", "genre accuracy, held-out songs", music, "at least 85 %", 0.85)]
    logits = bench.heard("noise")[1][:, len(GENRES) :]
    labels = [clip.label for clip in bench.noise_clips()]
    hits = [float(kinds[int(top)] == label) for top, label in zip(logits.argmax(1), labels, strict=True)]
    rows.append(row("tagger", f"noise kind, recordings (1 of {len(kinds)})", hits, "at least 80 %", 0.8))
    own = sorted(set(labels))
    within = logits[:, [kinds.index(label) for label in own]].argmax(1)
    hits = [float(own[int(top)] == label) for top, label in zip(within, labels, strict=True)]
    rows.append(row("tagger", f"noise kind, recordings (1 of {len(own)})", hits))
    fresh = [(kind, number) for kind in noises.KINDS for number in range(4)]
    waves = torch.stack(
        [torch.from_numpy(noises.synthesize(kind, 900_001 + number, seconds=FRAMES / RATE)) for kind, number in fresh]
    )
    guesses = bench.hear(waves)[1][:, len(GENRES) :].argmax(1)
    hits = [float(kinds[int(top)] == kind) for top, (kind, _) in zip(guesses, fresh, strict=True)]
    rows.append(row("tagger", f"noise kind, synthesised (1 of {len(kinds)})", hits, "at least 80 %", 0.8))
    return rows


def bnmusic(bench: Bench) -> BNMusic:
    method = BNMusic("BNMusic", bench.sampling("repaint"), vars(MaskConfig()))
    method.prepare(Context(RATE, "cpu", 0, {"generator": lambda: bench.generator}))
    return method


def rhythm(bench: Bench) -> list[Row]:
    clips = [(f"{kind}-{number}", leveled(torch.from_numpy(noises.synthesize(kind, 700_001 + number, seconds=5.0))))
             for kind in RHYTHMIC for number in range(4)]  # fmt: skip
    clips += [
        (clip.id, leveled(audio.extend_circular(files.read(clip.path, RATE), SAMPLES)))
        for clip in bench.noise_clips()
        if clip.label in ("clock_tick", "dog")
    ]
    method, skipped = bnmusic(bench), 0
    scores: dict[tuple[str, float], list] = {(name, window): [] for window in WINDOWS for name in ("F", "recall")}
    prompts = shuffled(builtin.prompts(), 0, lambda prompt: prompt.id)
    others = [onsets(wave[:SAMPLES]) for wave in bench.music()[:60]]
    for number, (name, wave) in enumerate(clips):
        beats = onsets(wave)
        if len(beats) < 3:
            skipped += 1
            continue
        prompt = prompts[number % len(prompts)]
        pair = Pair(name, NoiseClip(name, Path(name), "", name), prompt)
        given = NoiseAndText(pair, stable_seed(name), len(wave), wave, prompt.text)
        found = onsets(method.generate([given])[0].waveform)
        by_chance = np.random.default_rng(number).choice(len(others), 8, replace=False)
        for window in WINDOWS:
            ours, chance = agreement(beats, found, window), [agreement(beats, others[i], window) for i in by_chance]
            for measure, value in ours.items():
                scores[measure, window].append((value, float(np.mean([one[measure] for one in chance]))))
    rows = []
    for (measure, window), kept in scores.items():
        ours, chance = (torch.tensor(column, dtype=torch.float64) for column in zip(*kept, strict=True))
        difference = ours - chance
        draw = torch.Generator().manual_seed(0)
        resampled = difference[torch.randint(len(kept), (10_000, len(kept)), generator=draw)].mean(1)
        p = float((resampled <= 0).double().mean())
        name = f"onset {measure} at {window * 1000:.0f} ms"
        rows.append(row("rhythm", f"{name}, BNMusic", ours.tolist(), remark=f"({skipped} without onsets left out)"))
        rows.append(row("rhythm", f"{name}, random music", chance.tolist()))
        # Recall, which music of many onsets has by itself, explains F and has no target.
        target, met = ("below 0.05", p < 0.05) if measure == "F" else ("", None)
        rows.append(Row("rhythm", f"{name}, p of the difference", p, p, p, target, met, "paired bootstrap"))
    return rows


def onsets(wave: torch.Tensor) -> np.ndarray:
    """Onset times in seconds by librosa's spectral-flux detector, hop 5.8 ms."""
    return librosa.onset.onset_detect(y=wave.numpy(), sr=RATE, hop_length=256, units="time")


def agreement(reference: np.ndarray, estimated: np.ndarray, window: float) -> dict[str, float]:
    """F-measure and recall of onsets within a window in seconds."""
    if not len(estimated):
        return {"F": 0.0, "recall": 0.0}
    f, _, recall = mir_eval.onset.f_measure(reference, estimated, window=window)
    return {"F": float(f), "recall": float(recall)}


def melody(bench: Bench) -> list[Row]:
    """The built-in MusicGen: its codec's round trip, whether it follows the melody and the prompt, and its time."""
    model = MusicGenCheckpoint("--musicgen", bench.words.musicgen).get("cpu")
    section, noise, rows = "melody", bench.heard("noise")[0], []
    songs = bench.music()[:: max(1, len(bench.music()) // 70)][:70, :SAMPLES]
    after = torch.stack([decoded(model, wave) for wave in songs])
    before, after = bench.hear(songs)[0], bench.hear(after)[0]
    title = "FAD(codec's round trip) / FAD(noise, music)"
    rows.append(ratio_of_distances(section, title, after, noise, before, "at most 0.20", 0.20))
    made_of, wanted, seconds = {}, {}, []
    for kind, waves in (("songs", songs), ("noises", bench.noise()[:, :SAMPLES])):
        prompts = [shuffled((p for p in builtin.prompts() if p.genre == GENRES[i % len(GENRES)]), i, lambda p: p.id)[0]
                   for i in range(len(waves))]  # fmt: skip
        music = []
        for number, (wave, prompt) in enumerate(zip(waves, prompts, strict=True)):
            start = time.perf_counter()
            [made] = model.generate([prompt.text], wave[None], RATE, [stable_seed(kind, number)], bench.codes)
            seconds.append(time.perf_counter() - start)
            music.append(audio.resample(made, model.sample_rate, RATE)[:SAMPLES])
            file = bench.words.out / f"melody-{kind}-{prompt.genre}-{number}.wav"
            files.write(file, audio.limit_peak(leveled(music[-1]))[0], RATE, subtype="PCM_16")
        given, found = (model.chroma(torch.stack(list(some)), RATE).argmax(-1) for some in (waves, music))
        frames = min(given.shape[1], found.shape[1])
        given, found = given[:, :frames], found[:, :frames]
        same = (given == found).float().mean(1)
        # Chance: the same music against the other clips' melodies.
        others = torch.stack([(given.roll(k, 0) == found).float().mean(1) for k in range(1, len(given))]).mean(0)
        name = f"chroma frames as in the melody, {kind}"
        rows.append(row(section, name, same.tolist()))
        rows.append(row(section, f"{name}, chance", others.tolist(), remark="(other clips' melodies)"))
        rows.append(row(section, f"{name}, above chance", (same - others).tolist(), "at least 0", 0.0))
        embeddings, logits = bench.hear(torch.stack(music))
        heard = logits[:, : len(GENRES)].argmax(1)
        hits = [float(GENRES[int(top)] == prompt.genre) for top, prompt in zip(heard, prompts, strict=True)]
        made_of[kind], wanted[kind] = embeddings, hits
        target = ("at least 60 %", 0.6) if kind == "songs" else ("", None)
        rows.append(row(section, f"genre as prompted, melody of {kind}", hits, *target, remark="(chance 14 %)"))
    composed = bench.hear(torch.stack([read(clip.path) for clip in builtin.music()]))[0]
    every = torch.cat(list(made_of.values()))
    title = "FAD to built-in music / FAD(noise)"
    rows.append(ratio_of_distances(section, title, every, noise, composed, "at most 0.40", 0.40))
    remark = f"({torch.get_num_threads()} threads)"
    return [*rows, row(section, "seconds a pair", seconds[1:], "at most 3", 3.0, remark=remark)]


def decoded(model: MusicGen, wave: torch.Tensor) -> torch.Tensor:
    """A wave after the codec's round trip."""
    codec = model.model.audio_encoder
    given = audio.resample(wave, RATE, model.sample_rate)[None, None]
    with torch.no_grad():
        out = codec.decode(codec.encode(given).audio_codes, [None]).audio_values[0, 0]
    return audio.extend_circular(audio.resample(out, model.sample_rate, RATE), len(wave))


def speed(bench: Bench) -> list[Row]:
    method = bnmusic(bench)
    prompt = builtin.prompts()[0]
    waves = bench.noise()[:6, :SAMPLES]
    seconds = []
    for number, wave in enumerate(waves):
        pair = Pair("speed", NoiseClip("noise", Path("noise"), "", "noise"), Prompt("p", prompt.genre, prompt.text))
        start = time.perf_counter()
        method.generate([NoiseAndText(pair, number, len(wave), wave, prompt.text)])
        seconds.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    remark = f"({torch.get_num_threads()} threads, {bench.sampling('repaint')['steps']} steps twice)"
    bound = 2.5 if bench.generator.adapter else 8.0
    return [
        row("speed", "seconds a BNMusic pair", seconds[1:], f"at most {bound:g}", bound, remark=remark),
        Row("speed", "peak resident memory, GB", memory, memory, memory, "at most 2", memory <= 2),
    ]


def size(bench: Bench) -> list[Row]:
    """Of the weights in half precision, as they are shipped."""
    musicgen = MusicGenCheckpoint("--musicgen", bench.words.musicgen).folder
    rows = []
    for name, places, most in (
        ("generator and tagger", (bench.generator.folder, bench.tagger_folder), 40),
        ("MusicGen", (musicgen,), 16),
    ):
        numbers = 0
        for file in (f for place in places for f in place.rglob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                numbers += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
        total = 2 * numbers / 1e6
        rows.append(Row("size", f"weights of {name}, MB", total, total, total, f"at most {most}", total <= most))
    return rows


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "autoencoder": autoencoder,
    "tagger": tagger,
    "text_to_music": text_to_music,
    "rhythm": rhythm,
    "melody": melody,
    "speed": speed,
    "size": size,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("BLENDBENCH_DATA", "../shared/data"))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--per-genre", type=int, default=20, help="text to music: clips a genre")
    parser.add_argument("--generator", default="pocket", help="a name in conf/generator")
    parser.add_argument("--checkpoint", help="a folder in place of the generator's own checkpoint")
    parser.add_argument("--tagger", default="pocket", help="a folder in place of the built-in tagger")
    parser.add_argument("--musicgen", default="pocket", help="a folder in place of the built-in MusicGen")
    parser.add_argument("--sampling", nargs="+", default=[], help="other settings, such as steps=12 scheduler=unipc")
    parser.add_argument("--out", type=Path, default=Path("runs/builtin_models"))
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    bench, rows = Bench(words), []
    for name in words.only:
        if name == "speed" and len(words.only) > 1:
            # Alone in a process, so that the peak of memory is a pair's.
            subprocess.run(
                [sys.executable, *sys.argv, "--only", "speed", "--out", str(words.out / "speed")], check=True
            )
            rows += [Row(**one) for one in json.loads((words.out / "speed" / "figures.json").read_text())]
            continue
        print(f"{name} ...", flush=True)
        rows += SECTIONS[name](bench)
    (words.out / "figures.json").write_text(json.dumps([one._asdict() for one in rows], indent=1) + "\n")
    for one in rows:
        mark = {True: "met", False: "MISSED", None: ""}[one.met]
        interval = "" if one.low == one.high else f"[{one.low:.3f}, {one.high:.3f}]"
        measured = f"{one.value:8.3f} {interval:<18}"
        print(f"{one.section:<14} {one.figure:<44} {measured} {one.target:<14} {mark:<7} {one.remark}")


if __name__ == "__main__":
    main()
