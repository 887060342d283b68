"""What the built-in generator paints from prompts alone: a sheet to look at, genre agreement, and FAD with its scale.

    .venv/bin/python benchmarks/text_to_music.py [--per-genre 4] [--out runs/text_to_music]

Prints, measured in one run: the share of clips that the tagger puts into the prompt's genre (chance is one in seven,
and the share for the built-in real music as the ceiling), FAD of the painted music to the built-in reference beside FAD
of the built-in noises to it, and seconds a clip. Writes `sheet.png` (a row a genre, low frequencies at the bottom) and
WAV files.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blendbench import audio, diffusion, spectrogram
from blendbench.datasets import builtin
from blendbench.datasets.pairing import shuffled, stable_seed
from blendbench.evaluators import PocketTagger
from blendbench.generators import Generator
from blendbench.metrics.frechet import frechet_distance
from blendbench.train.arranger import GENRES


def heard(evaluator: PocketTagger, waves: list[torch.Tensor]) -> tuple[torch.Tensor, list[str]]:
    """Embeddings [N, D] and the genre that scores highest among the seven, of waves at -18 LUFS."""
    leveled = torch.stack([audio.normalize_loudness(wave[:220_500], 44_100, -18.0)[0] for wave in waves])
    embeddings, logits = evaluator.score(leveled)
    return embeddings, [GENRES[int(top)] for top in logits[:, : len(GENRES)].argmax(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-genre", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--tagger", default="pocket")
    parser.add_argument("--out", type=Path, default=Path("runs/text_to_music"))
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    model = Generator("pocket", words.checkpoint).get("cpu")
    evaluator = PocketTagger("pocket-tagger", words.tagger)
    settings = diffusion.Sampling(steps=words.steps, guidance_scale=words.guidance)
    waves, wanted, rows, seconds = [], [], [], []
    for genre in GENRES:
        prompts = shuffled((p for p in builtin.prompts() if p.genre == genre), 0, lambda p: p.id)[: words.per_genre]
        start = time.perf_counter()
        images = torch.cat([diffusion.text_to_image(model, [p.text], [stable_seed(p.id)], settings) for p in prompts])
        seconds.append((time.perf_counter() - start) / len(prompts))
        grey = ((images.mean(1) + 1) * 127.5).clamp(0, 255)
        rows.append(torch.cat(list(grey), dim=1))
        sound = spectrogram.to_audio(spectrogram.decode_image(grey, torch.full((len(grey),), 60.0)), seeds=0)
        for prompt, wave in zip(prompts, sound, strict=True):
            leveled, _ = audio.limit_peak(audio.normalize_loudness(wave, 44_100, -18.0)[0])
            audio.write(words.out / f"{prompt.id}.wav", leveled, 44_100, subtype="PCM_16")
            waves.append(wave)
            wanted.append(genre)
    sheet = torch.cat(rows, dim=0).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).resize((sheet.shape[1] // 2, sheet.shape[0] // 2)).save(words.out / "sheet.png")
    painted, genres = heard(evaluator, waves)
    music = [audio.read(clip.path) for clip in builtin.music()]
    noise = [audio.extend_circular(audio.read(clip.path), 220_500) for clip in builtin.noise()]
    real, real_genres = heard(evaluator, music)
    noisy, _ = heard(evaluator, noise)
    agreement = float(np.mean([a == b for a, b in zip(genres, wanted, strict=True)]))
    ceiling = float(np.mean([a == clip.genre for a, clip in zip(real_genres, builtin.music(), strict=True)]))
    print(f"genre agreement   {agreement:.0%} of {len(wanted)} painted clips; real music {ceiling:.0%} of {len(music)}")
    for genre in GENRES:
        found = [g for g, w in zip(genres, wanted, strict=True) if w == genre]
        print(f"  {genre:<10} heard as {', '.join(found)}")
    fad, scale = frechet_distance(painted, real), frechet_distance(noisy, real)
    print(f"FAD to the reference   painted {fad:.3f}, noise {scale:.3f}, ratio {fad / scale:.0%}")
    print(f"seconds a clip   {np.median(seconds):.2f} ({words.steps} steps, {torch.get_num_threads()} threads)")
    print(f"sheet: {words.out / 'sheet.png'}")


if __name__ == "__main__":
    main()
