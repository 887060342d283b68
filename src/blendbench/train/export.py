"""Bring trained models into the package: half precision, safetensors, with a card each."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from blendbench.errors import BlendbenchError
from blendbench.store import write_text
from blendbench.tagger import checkpoint_hash

_GENERATOR_CARD = """# pocket: the built-in generator of blendbench

A Stable-Diffusion-type latent diffusion model over mel-spectrogram images (512x512 pixels, 44.1 kHz, 5.12 s), in diffusers'
format: KL autoencoder to 64x64x4 latents, conditional U-Net (velocity prediction, zero terminal SNR), small CLIP-type text
encoder and byte-pair tokenizer. Half-precision safetensors; checkpoint hash `{hash}`.

**For**: running every command of blendbench on a machine without any download. **Not for**: conclusions about published
models; its numbers compare with each other only.

## Trained on
Melodies and chords of POP909 (MIT), arranged in seven genres (Pop, EDM, Rock, Hip-hop, Punk, Jazz, Classical) by
`blendbench.train.arranger` and rendered with FluidSynth and the FluidR3 bank (MIT): {clips} clips of 5.12 s with captions
written from what was arranged. The songs in `data_manifests/pop909_held_out.txt` were left out. The autoencoder also saw
synthesised noises and ESC-50's folds 1-3 of the ESC-10 classes (CC BY).

## Cost
One CPU core a training (2.5 GHz, AVX-512, float32), shared with other work. Autoencoder: {vae[steps]} steps of {vae[batch]} crops {vae[crop]} in {vae[minutes]} min (one core){refined}. U-Net and
text encoder ({parameters:.1f} M parameters): {unet[steps]} steps of {unet[batch]} in {unet[minutes]} min. Seed {unet[seed]}.

## How good
Round trip image -> latent -> image, held-out clips: music {best[psnr_db_music]} dB PSNR, mel spectral convergence
{best[spectral_convergence_music]}; noise {best[psnr_db_noise]} dB, {best[spectral_convergence_noise]}. Denoising loss on held-out compositions:
{unet[held_out_loss]} (training, last: {last_loss}). `docs/models.md` has the listening-level figures.

Made by `blendbench train data`, `autoencoder`, `autoencoder --resume`, `generator`, `export`. Licence: MIT.
"""

_TAGGER_CARD = """# tagger: the built-in evaluator of blendbench

A log-mel convolutional network ({parameters:.2f} M parameters) over {count} classes: seven music genres and {kinds} kinds of noise. Its
penultimate layer ({embedding} numbers) is the embedding of the built-in FAD, its softmax gives the built-in KL. Half-precision
safetensors; checkpoint hash `{hash}`.

**Not comparable** with VGGish, PANNs or PaSST numbers; compare its numbers with each other only.

## Trained on
Rendered music (as the generator's card says), noises synthesised by `blendbench.train.noises`, and ESC-50's folds 1-3 of the
ESC-10 classes (CC BY); 30 % of the examples are mixes of music and noise with soft targets. Gains -12 to +6 dB about -18 LUFS.
{figures[steps]} steps of {figures[batch]} in {figures[minutes]} min on CPU, seed {figures[seed]}.

## How good (clips never trained on)
Genre, music of the project's own composition: {figures[accuracy_genre]:.0%} of {figures[clips_genre]}. Noise kind, ESC-50 fold 4:
{figures[accuracy_noise_kind_recorded]:.0%} of {figures[clips_noise_kind_recorded]}. Noise kind, synthesised:
{figures[accuracy_noise_kind_synthesised]:.0%} of {figures[clips_noise_kind_synthesised]}.

Made by `blendbench train data`, `tagger`, `export`. Licence: MIT.
"""


def _figures(folder: Path) -> dict:
    try:
        return json.loads((folder / "training.json").read_text())
    except OSError:
        raise BlendbenchError(
            f"{folder}: no finished training here; run its step of `blendbench train` first"
        ) from None


def export(work: Path, assets: Path) -> None:
    """Copy the finished models of a work folder to the assets folder, with cards.

    Raises
    ------
    BlendbenchError
        If a training has not finished.
    """
    unet, vae, tagger = (_figures(work / name) for name in ("pocket", "vae", "tagger"))
    pipeline = StableDiffusionPipeline.from_pretrained(work / "pocket", safety_checker=None, vae=None)
    pipeline.register_modules(vae=AutoencoderKL.from_pretrained(work / "vae"))
    target = assets / "pocket"
    shutil.rmtree(target, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(target)
    for file in target.rglob("*.json"):
        # Where the weights lay on the machine that trained them is nobody's business.
        content = json.loads(file.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_text(file, json.dumps(content, indent=2) + "\n")
    refined = f", then its decoder alone for {vae['refined_minutes']} min" if "refined_minutes" in vae else ""
    card = _GENERATOR_CARD.format(
        hash=checkpoint_hash(target), clips=unet["clips"], vae=vae, unet=unet, refined=refined, best=vae,
        parameters=unet["parameters"] / 1e6, last_loss=unet["history"][-1]["loss"] if unet["history"] else "none",
    )  # fmt: skip
    write_text(target / "README.md", card)
    target = assets / "tagger"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "tagger", target, ignore=shutil.ignore_patterns("training.json"))
    config = json.loads((target / "config.json").read_text())
    card = _TAGGER_CARD.format(
        hash=checkpoint_hash(target), figures=tagger, parameters=tagger["parameters"] / 1e6, embedding=config["embedding"],
        count=len(config["classes"]), kinds=len(config["classes"]) - 7,
    )  # fmt: skip
    write_text(target / "README.md", card)
    size = sum(f.stat().st_size for name in ("pocket", "tagger") for f in (assets / name).rglob("*") if f.is_file())
    print(f"models: {size / 1e6:.1f} MB in {assets}")
