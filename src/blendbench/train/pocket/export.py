"""Bring trained models into the package: half precision, safetensors, with a card each."""

import json
import math
import shutil
from pathlib import Path

import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from blendbench.errors import BlendbenchError
from blendbench.models import controlnet, pix2pix
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.msanii import Msanii
from blendbench.models.weights import checkpoint_hash
from blendbench.resources import package_folder
from blendbench.store.write import write_text
from blendbench.train.data.piano import Piano
from blendbench.train.pocket.student import FILE

_GENERATOR_CARD = """# pocket: the built-in generator of blendbench

A latent diffusion model over mel-spectrogram images (512x512 pixels, 44.1 kHz, 5.12 s) with the interface of Stable
Diffusion in diffusers' layout: patch autoencoder to 64x64 latents of {vae_config[latent_channels]} channels, conditional U-Net (velocity
prediction, zero terminal SNR), small CLIP-type text encoder and byte-pair tokenizer. `adapters/` holds a low-rank adapter
for sampling in {student[sampler_steps]} steps without guidance (`generator=pocket_fast`). Half-precision safetensors; checkpoint hash
`{hash}`.

**For**: running every command of blendbench on a machine without any download. **Not for**: conclusions about published
models; its numbers compare with each other only.

## Trained on
Melodies, chords and beats of POP909 (MIT), arranged in seven genres (Pop, EDM, Rock, Hip-hop, Punk, Jazz, Classical) by
`blendbench.train.arranger` and rendered with FluidSynth and the FluidR3 bank (MIT): {unet[clips]} clips of 5.12 s ({hours:.1f} hours)
with captions written from what was arranged. The songs in `data_manifests/pop909_held_out.txt` were left out. The
autoencoder learned from {vae[music_clips]} of such clips and {vae[noise_clips]} noises: synthesised ones, and ESC-50's folds 1-3 of the
ESC-10 classes (CC BY).

## Cost
On {unet[device]}, {precision}. Autoencoder ({vae_millions:.1f} M parameters): {vae[steps]} steps of {vae[batch]} crops of
{vae[crop][0]}x{vae[crop][1]} in {vae[minutes]:.0f} min. U-Net and text encoder ({unet_millions:.1f} M): {unet[steps]} steps, each of {unet[batch]} clips or as much in
shorter stretches, in {unet[minutes]:.0f} min. Few-step adapter ({student_millions:.1f} M, rank {student[rank]}): {student[steps]} steps of {student[batch]} in {student[minutes]:.0f} min;
one step of the student for {student[substeps]} of the teacher at guidance {student[guidance_scale]}. Seeds: {vae[seed]}, {unet[seed]}, {student[seed]}.

Training curves (step, minutes, loss):

{curves}

## How good
Round trip image -> latent -> image, held-out clips of the training's cache: music {vae[psnr_db_music]} dB PSNR, mel spectral
convergence {vae[spectral_convergence_music]}; noise {vae[psnr_db_noise]} dB, {vae[spectral_convergence_noise]} (the linear start: {vae[linear][spectral_convergence_music]} and
{vae[linear][spectral_convergence_noise]}). Denoising loss on held-out compositions: {unet[held_out_loss]}.

{figures}

Made by `blendbench train data`, `autoencoder`, `generator`, `student`, `export`. Licence: MIT.
"""
_TAGGER_CARD = """# tagger: the built-in evaluator of blendbench

A log-mel convolutional network ({millions:.2f} M parameters) that hears music genre and kind of noise ({count} classes in one softmax:
seven genres, {kinds} kinds), {instruments} instruments, and music's share of the power. Its penultimate layer ({embedding} numbers) is the
embedding of the built-in FAD, its softmax gives the built-in KL. Half-precision safetensors; checkpoint hash `{hash}`.

**Not comparable** with VGGish, PANNs or PaSST numbers; compare its numbers with each other only.

## Trained on
{tagger[music_clips]} clips of rendered music (as the generator's card says) and {tagger[noise_clips]} noises: synthesised by
`blendbench.train.noises`, and ESC-50's folds 1-3 of the ESC-10 classes (CC BY). 40 % of the examples are mixes of music
and noise, -15 to 15 dB, with targets shared in proportion to power. {tagger[steps]} steps of {tagger[batch]} in {tagger[minutes]:.0f} min on {tagger[device]},
seed {tagger[seed]}{start}.

Training curve (step, minutes, loss):

{curves}

## How good (the cache's held-out clips)
| what | figure |
| --- | --- |
{rows}

{figures}

Made by `blendbench train data`, `tagger`, `export`. Licence: MIT.
"""
_MUSICGEN_CARD = """# musicgen: the built-in MusicGen of blendbench

A small MusicGen melody in transformers' layout (`MusicgenMelodyForConditionalGeneration`): a codec at 22.05 kHz with {books}
codebooks of {codec_config[codebook_size]} at {rate:g} frames a second ({kbps:.2f} kbit/s), EnCodec's but for its networks, which read and write
spectra (`blendbench.models.spectral_codec`, which has to be imported before others load it), a T5 text encoder of {text[num_layers]} layers, a decoder of {layers[num_hidden_layers]} layers of
{layers[hidden_size]}, chroma (12 pitch classes, window 0.37 s, every 0.093 s) as the melody. `method=musicgen_melody` with `generator=pocket`.
Half-precision safetensors; checkpoint hash `{hash}`.

**For**: filling MusicGen's row on a machine without any download. **Not for**: conclusions about the published MusicGen.

## Trained on
Rendered music, as the built-in generator's card says: {codec[clips]} clips of 5.12 s for the codec, {model[clips]} with their captions for
the rest. The songs in `data_manifests/pop909_held_out.txt` were left out.

## Cost
On {model[device]}. Codec ({codec_millions:.2f} M parameters and codebooks): {codec[steps]} steps of {codec[batch]} stretches of {codec_seconds:.1f} s in
{codec[minutes]:.0f} min with spectral losses; then its decoder alone, against three critics of spectrograms, {decoder[steps]} steps of {decoder[batch]} in {decoder[minutes]:.0f} min. Text encoder and decoder ({millions:.1f} M): {model[steps]} steps of {model[batch]} clips
in {model[minutes]:.0f} min. Seeds: {codec[seed]}, {model[seed]}.

Training curves (step, minutes, loss):

{curves}

## How good
Mel spectral convergence of the codec's round trip on held-out compositions, by codebooks used (0: not quantised): {convergence}.
Nats a code on held-out compositions, codebook by codebook: {given} with the condition,
{alone} without (a fair draw: {fair:.2f}).

{figures}

Made by `blendbench train data`, `codec`, `decoder`, `musicgen`, `export`. Licence: MIT.
"""
_PRIOR_CARD = """# prior: the built-in prior of piano music

What DPS and SimDPS sample from where no other is named (`prior.checkpoint=pocket`): MR-CQTdiff's network, small
({millions:.2f} M parameters) and at {prior[sample_rate]} Hz, over the Wiener filter of the music's mean spectrum, with EDM's
preconditioning (`blendbench.models.priors`). Windows of {prior[samples]} samples ({seconds:.2f} s). Half-precision safetensors;
checkpoint hash `{hash}`.

**For**: filling SimDPS's rows on a machine without any download. **Not for**: conclusions about the published model, which is
55 times as large, hears up to 22 kHz and learned from two hundred hours of recorded piano.

## Trained on
The piano tracks of {songs} songs of POP909 (MIT), rendered with FluidSynth and the FluidR3 bank (MIT): {hours:.1f} hours. {held_out} further songs,
of `data_manifests/pop909_held_out.txt`, were left out for the figures below.

## Cost
{prior[steps]} steps of {prior[batch]} stretches of {prior[crop]} samples in {prior[minutes]:.0f} min on {prior[device]}{precision}, AdamW at
{prior[learning_rate]}, seed {prior[seed]}{start}; the average of the weights is kept. Noise levels {prior[sigma_min]:g} to {prior[sigma_max]:g}.

Training curve (step, minutes, loss):

{curves}

## How good
EDM's loss at fixed noise levels on held-out songs, beside the Wiener filter's, which is the best linear denoiser:

| noise level | {levels} |
| --- |{rule}
| with the network | {ours} |
| Wiener filter alone | {wiener} |

{figures}

Made by `blendbench train piano`, `prior`, `export`. Licence: MIT.
"""
_TAGGER_ROWS = {
    "accuracy_genre": "genre, music of the project's own composition",
    "instruments_average_precision": "instruments, mean average precision",
    "accuracy_noise_kind_recorded": "kind of recorded noise, among noises",
    "accuracy_noise_kind_recorded_among_all": "kind of recorded noise, among all classes",
    "accuracy_noise_kind_synthesised": "kind of synthesised noise, among noises",
    "accuracy_noise_kind_synthesised_among_all": "kind of synthesised noise, among all classes",
    "mix_error_db": "music-to-noise ratio of mixes, mean absolute error in dB",
}
_RIFF_CARD = """# {title}

{what} Half-precision safetensors; checkpoint hash `{hash}`.

**For**: Riff-CNET's and Riff-P2P's rows on a machine without any download. **Not for**: conclusions about the published ones.

## Trained on
{clips} clips of 5.12 s in two exact stems: songs of POP909 (MIT), arranged in seven genres as for the built-in generator and
rendered with FluidSynth and the FluidR3 bank (MIT), their tunes sung (choir, voices) in half of the arrangements and played
in the others. The songs in `data_manifests/pop909_held_out.txt` were left out.

## Cost
{settings[steps]} steps of {settings[batch]} {unit} in {settings[minutes]:.0f} min on {settings[device]}{precision}, AdamW at {settings[learning_rate]}, seed {settings[seed]}; {millions:.2f} M
parameters learned; the average of the weights is kept.{remark}

Training curve (step, minutes, loss):

{curves}

## How good
On clips of held-out songs: {loss}. What that is worth in tables: `docs/results/accompaniment.md`.

Made by `blendbench train stems`, `{step}`, `export`. Licence: MIT.
"""

_MSANII_CARD = """# msanii: the built-in Msanii of blendbench

A U-Net over mel spectrograms ({millions:.2f} M parameters) that makes music from nothing or from recordings, with a vocoder of
{vocoder_millions:.2f} M: {front[sample_rate]:,} Hz, {channels}, STFT {front[n_fft]}/{front[hop]}, {front[mels]} mels; width {unet_config[width]}, {unet_config[levels]} levels of {unet_config[blocks]},
attention on {unet_config[attention_levels]}. `method=msanii`, `msanii_a2a`, `msanii_interpolate`, `msanii_inpaint`, `msanii_outpaint`.
Half-precision safetensors; checkpoint hash `{hash}`.

**For**: filling Msanii's rows on a machine without any download. **Not for**: conclusions about the published model, which has
49.9 M parameters at 44.1 kHz in two channels, and learned from pieces of 190 s. This one has learnt from {seconds:.1f} s at a
time; longer pieces can be made, and rows say so (`beyond_training`).

## Trained on
{unet[songs]} songs of POP909 (MIT) as their files have them - melody, bridge and piano, all by one sampled grand piano - rendered
with FluidSynth and the FluidR3 bank (MIT): {hours:.1f} hours. {held_out} further songs, of `data_manifests/pop909_held_out.txt`,
were left out for the figures below. So its vocoder knows a piano alone: other sounds come out as by a piano.

## Cost
Vocoder: {vocoder[steps]} steps of {vocoder[batch]} stretches of {vocoder[frames]} frames in {vocoder[minutes]:.0f} min. U-Net: {unet[steps]} steps of {unet[batch]} stretches of
{unet[frames]} frames in {unet[minutes]:.0f} min{precision}{late}{before}. On {unet[device]}, AdamW at {vocoder[learning_rate]} and {unet[learning_rate]}, seed {unet[seed]}; the
average of the weights is kept.

Training curves (step, minutes, loss):

{curves}

## How good
On stretches of held-out songs, against the mel bank's pseudo-inverse, of magnitudes alone: spectral convergence
{vocoder[vocoder_convergence]} and {vocoder[pseudo_inverse_convergence]}, log magnitude {vocoder[vocoder_log]} and {vocoder[pseudo_inverse_log]} nepers.

Error of the noise at some times on held-out songs, beside that of a Wiener filter that knows each mel band's mean and
variance:

| time | {times} |
| --- |{rule}
| U-Net | {ours} |
| band by band | {bands} |

What that is worth in tables: `docs/results/msanii.md`.

Made by `blendbench train msanii_songs`, `msanii_vocoder`, `msanii`, `export`. Licence: MIT.
"""


def _figures(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except OSError:
        raise BlendbenchError(
            f"{file}: not there; this training has not finished; run its step of `blendbench train` first"
        ) from None


def _curve(name: str, history: list[dict], points: int = 12) -> str:
    """A training curve of a dozen points, as a line of text."""
    kept = history[:: max(1, -(-len(history) // points))]
    kept = kept if not history or kept[-1] is history[-1] else [*kept, history[-1]]
    return f"- {name}: " + "; ".join(f"{row['step']}, {row['minutes']:.0f}, {row['loss']:.3f}" for row in kept)


def _benchmark(work: Path, sections: tuple[str, ...], script: str = "builtin_models") -> str:
    """What a script of `benchmarks/` measured for these models, as Markdown tables."""
    tables = []
    for folder, title in (("bench", ""), ("bench_fast", " with the few-step adapter"), ("bench_prior", "")):
        file = work / folder / "figures.json"
        rows = [row for row in json.loads(file.read_text()) if row["section"] in sections] if file.is_file() else []
        if rows:
            lines = [f"Measured{title} by `benchmarks/{script}.py` on held-out songs and clips:", ""]
            lines += ["| figure | value [95 %] | target | |", "| --- | --- | --- | --- |"]
            for row in rows:
                interval = "" if row["low"] == row["high"] else f" [{row['low']:.3f}, {row['high']:.3f}]"
                met = {True: "met", False: "missed", None: ""}[row["met"]]
                remark = " ".join([met, row["remark"].strip()]).strip()
                lines.append(f"| {row['figure']} | {row['value']:.3f}{interval} | {row['target']} | {remark} |")
            tables.append("\n".join(lines))
    return "\n\n".join(tables) or f"`benchmarks/{script}.py` measures the rest."


def export(work: Path | str, assets: Path | str | None) -> None:
    """Copy the finished models of a work folder to the assets, with cards.

    An assets folder of None is the package's.

    The cards quote `bench/figures.json`, `bench_fast/figures.json` and `bench_prior/figures.json` of the work folder,
    where the benchmarks of the built-in models wrote them. A model that the work folder does not have stays as it is in the assets.

    Raises
    ------
    BlendbenchError
        If a training that has begun has not finished, or none has begun.
    """
    work = Path(work)
    assets = package_folder("blendbench.assets") if assets is None else Path(assets)
    exports = {
        "pocket": export_generator, "tagger": export_tagger, "musicgen": export_musicgen, "prior": export_prior,
        "riff_cnet": export_controlnet, "riff_p2p": export_pix2pix, "separator": export_separator,
        "msanii": export_msanii,
    }  # fmt: skip
    there = [name for name in exports if (work / name).is_dir()]
    for name in there or exports:
        exports[name](work, assets)
    files = [file for name in exports for file in (assets / name).rglob("*") if file.is_file()]
    print(
        f"{' and '.join(there)} written; models: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {assets}"
    )


def export_generator(work: Path, assets: Path) -> None:
    """Copy the generator and its adapters; raises BlendbenchError as `export` does."""
    places = ("pocket", "vae", "pocket/adapters")
    unet, vae, student = (_figures(work / place / "training.json") for place in places)
    model = LatentDiffusion.load(work / "pocket")
    vae_config = dict(model.vae.config)
    target = assets / "pocket"
    shutil.rmtree(target, ignore_errors=True)
    for module in (model.unet, model.vae, model.text_encoder):
        module.to(dtype=torch.float16)
    model.save(target)
    (target / "adapters").mkdir()
    shutil.copy(work / "pocket" / "adapters" / FILE, target / "adapters" / FILE)
    for file in target.rglob("*.json"):
        # Where the weights lay on the machine that trained them is nobody's business.
        content = json.loads(file.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_text(file, json.dumps(content, indent=2) + "\n")
    curves = [_curve(name, one["history"]) for name, one in
              (("autoencoder", vae), ("U-Net and text encoder", unet), ("few-step adapter", student))]  # fmt: skip
    card = _GENERATOR_CARD.format(
        hash=checkpoint_hash(target), vae=vae, unet=unet, student=student, vae_config=vae_config,
        hours=unet["clips"] * 5.12 / 3600, vae_millions=vae["parameters"] / 1e6, unet_millions=unet["parameters"] / 1e6,
        student_millions=student["parameters"] / 1e6,
        precision="U-Net and adapter in bfloat16, the rest in float32" if unet["bfloat16"] else "in float32",
        curves="\n".join(curves),
        figures=_benchmark(work, ("autoencoder", "text to music", "rhythm", "speed", "size")),
    )  # fmt: skip
    write_text(target / "README.md", card)


def export_tagger(work: Path, assets: Path) -> None:
    """Copy the tagger; raises BlendbenchError as `export` does."""
    tagger = _figures(work / "tagger" / "training.json")
    target = assets / "tagger"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "tagger", target, ignore=shutil.ignore_patterns("training.json", "state.pt"))
    config = json.loads((target / "config.json").read_text())
    rows = []
    for key, title in _TAGGER_ROWS.items():
        if key in tagger:
            count = tagger.get(key.replace("accuracy", "clips").removesuffix("_among_all"))
            of = f" of {count}" if key.startswith("accuracy") else ""
            value = f"{tagger[key]:.0%}" if key.startswith("accuracy") else f"{tagger[key]:.2f}"
            rows.append(f"| {title} | {value}{of} |")
    card = _TAGGER_CARD.format(
        hash=checkpoint_hash(target), tagger=tagger, millions=tagger["parameters"] / 1e6, rows="\n".join(rows),
        embedding=config["embedding"], instruments=len(config["instruments"]), count=len(config["classes"]),
        start=f", from the weights {tagger['start']}" if "start" in tagger else "",
        kinds=len(config["classes"]) - 7, curves=_curve("tagger", tagger["history"]),
        figures=_benchmark(work, ("tagger",)),
    )  # fmt: skip
    write_text(target / "README.md", card)


def export_musicgen(work: Path, assets: Path) -> None:
    """Copy the MusicGen, with the refined decoder; raises BlendbenchError as `export` does."""
    codec, decoder, model = (_figures(work / place / "training.json") for place in ("codec", "decoder", "musicgen"))
    target = assets / "musicgen"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "musicgen" / "model", target)
    weights = load_file(target / "model.safetensors")
    refined = load_file(work / "decoder" / "model.safetensors")
    for name, value in refined.items():
        if name.endswith(".embed") and not torch.equal(
            value.half(), weights.get(f"audio_encoder.{name}", value.half())
        ):
            raise BlendbenchError(
                f"{work / 'decoder'}: of another codec than {work / 'musicgen'}; run the steps decoder and musicgen again"
            )
    weights |= {f"audio_encoder.{name}": value.half() for name, value in refined.items() if name.startswith("decoder.")}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    codec_config, layers, books = config["audio_encoder"], config["decoder"], config["decoder"]["num_codebooks"]
    rate = codec_config["sampling_rate"] / math.prod(codec_config["upsampling_ratios"])
    card = _MUSICGEN_CARD.format(
        hash=checkpoint_hash(target), codec=codec, model=model, codec_config=codec_config, layers=layers, decoder=decoder, books=books,
        text=config["text_encoder"], rate=rate, kbps=books * math.log2(codec_config["codebook_size"]) * rate / 1000,
        codec_millions=codec["parameters"] / 1e6, millions=model["parameters"] / 1e6,
        codec_seconds=codec["samples"] / codec_config["sampling_rate"], fair=math.log(codec_config["codebook_size"]),
        curves="\n".join(
            _curve(name, one["history"])
            for name, one in (("codec", codec), ("codec's decoder", decoder), ("decoder and text encoder", model))
        ),
        given=", ".join(f"{value:.2f}" for value in model["held_out_loss"]),
        alone=", ".join(f"{value:.2f}" for value in model["held_out_loss_unconditional"]),
        convergence=", ".join(f"{used}: {value}" for used, value in decoder["spectral_convergence"].items()),
        figures=_benchmark(work, ("melody",)),
    )  # fmt: skip
    write_text(target / "README.md", card)


def export_prior(work: Path, assets: Path) -> None:
    """Copy the prior; raises BlendbenchError as `export` does."""
    prior, piano = _figures(work / "prior" / "training.json"), Piano(work / "piano")
    target = assets / "prior"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "prior", target, ignore=shutil.ignore_patterns("training.json", "state.pt"))

    def row(values: list[float]) -> str:
        return " | ".join(f"{value:g}" for value in values)

    card = _PRIOR_CARD.format(
        hash=checkpoint_hash(target), prior=prior, millions=prior["parameters"] / 1e6,
        seconds=prior["samples"] / prior["sample_rate"],
        songs=len(piano.songs["train"]), held_out=len(piano.songs["held_out"]),
        hours=sum(map(len, piano.songs["train"])) / piano.sample_rate / 3600,
        precision=", in bfloat16" if prior["bfloat16"] else "", curves=_curve("prior", prior["history"]),
        start=f", from the weights {prior['start']}" if "start" in prior else "",
        levels=row(prior["levels"]), rule=" --- |" * len(prior["levels"]), ours=row(prior["held_out_loss"]),
        wiener=row(prior["wiener_loss"]), figures=_benchmark(work, ("prior",), "prior"),
    )  # fmt: skip
    write_text(target / "README.md", card)


def export_controlnet(work: Path, assets: Path) -> None:
    """Write the ControlNet as a small file over its generator; raises BlendbenchError as `export` does."""
    figures = _figures(work / "riff_cnet" / "training.json")
    target, unet = assets / "riff_cnet", Generator("generator", "pocket").get("cpu").unet
    trained = ControlNetModel.from_pretrained(work / "riff_cnet", low_cpu_mem_usage=False)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file(controlnet.shrunk(trained, unet), target / controlnet.LOW_RANK)
    write_text(target / "config.json", json.dumps({"base": figures["base"], "rank": controlnet.RANK}, indent=1) + "\n")
    hint = figures["hint"]
    _riff_card(
        target, figures, "riff_cnet: the built-in Riff-CNET of blendbench", "controlnet",
        f"A ControlNet beside the built-in generator (`{figures['base']}`, frozen), told of a background's edges "
        f"({hint['kind']}, {hint.get('low', 0):g} and {hint.get('high', 0):g}): `method=riff_cnet`.",
        f"denoising loss {figures['held_out_loss_low_rank']} of the file as it is (rank {controlnet.RANK} of what the network "
        f"differs by from the generator's half), {figures['held_out_loss']} of the whole network, and "
        f"{figures['held_out_loss_without']} of the generator alone",
        remark=f" A tenth of the prompts was left out ({figures['prompt_dropout']:g}), hints never.",
    )  # fmt: skip


def export_pix2pix(work: Path, assets: Path) -> None:
    """Copy the InstructPix2Pix's adapter; raises BlendbenchError as `export` does."""
    figures = _figures(work / "riff_p2p" / "training.json")
    target = assets / "riff_p2p"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(work / "riff_p2p" / pix2pix.FILE, target / pix2pix.FILE)
    _riff_card(
        target, figures, "riff_p2p: the built-in Riff-P2P of blendbench", "pix2pix",
        f"The built-in generator's U-Net (`{figures['base']}`) with twice as many input channels, the latter for a "
        f"background's latents, and a low-rank adapter (rank {figures['rank']}): `method=riff_p2p`.",
        f"denoising loss {figures['held_out_loss']}, and {figures['held_out_loss_without']} of the generator alone",
        remark=" Texts were left out in a tenth of the examples, images in a tenth, both in a twentieth.",
    )  # fmt: skip


def export_separator(work: Path, assets: Path) -> None:
    """Copy the separator; raises BlendbenchError as `export` does."""
    figures = _figures(work / "separator" / "training.json")
    target = assets / "separator"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "separator", target, ignore=shutil.ignore_patterns("training.json", "state.pt"))
    _riff_card(
        target, figures, "separator: the built-in separator of blendbench", "separator",
        "A small U-Net over mel bands that says which share of each is background rather than the added part "
        "(`accompaniment.separator=pocket`). It knows the rendered instruments of this project alone.",
        f"error of compressed amplitudes {figures['held_out_loss']}, and {figures['held_out_loss_of_mix']} where the mix "
        "is taken for the background", unit=f"stretches of {figures['width']} frames",
    )  # fmt: skip


def export_msanii(work: Path, assets: Path) -> None:
    """Copy Msanii, with the vocoder as its step left it, where that scales alike; raises BlendbenchError as `export`."""
    vocoder, unet = (_figures(work / name / "training.json") for name in ("msanii_vocoder", "msanii"))
    songs, target = Piano(work / "msanii_songs"), assets / "msanii"
    shutil.rmtree(target, ignore_errors=True)
    model, other = (Msanii.load(work / name) for name in ("msanii", "msanii_vocoder"))
    alike = other.scaler.state_dict()
    if all(torch.equal(value, alike[name]) for name, value in model.scaler.state_dict().items()):
        model.vocoder.load_state_dict(other.vocoder.state_dict())
    model.save(target)
    config = model.config
    front = config["front"]

    def row(values: list[float]) -> str:
        return " | ".join(f"{value:g}" for value in values)

    card = _MSANII_CARD.format(
        hash=checkpoint_hash(target), unet=unet, vocoder=vocoder, front=front, unet_config=config["unet"],
        channels="one channel" if config["channels"] == 1 else "two channels", millions=unet["parameters"] / 1e6,
        vocoder_millions=vocoder["parameters"] / 1e6, seconds=unet["frames"] * front["hop"] / front["sample_rate"],
        hours=sum(map(len, songs.songs["train"])) / songs.sample_rate / 3600, held_out=len(songs.songs["held_out"]),
        precision=", in bfloat16" if unet["bfloat16"] else "",
        late=f", late times counting up to {unet['late']:g} times" if unet.get("late", 1) > 1 else "",
        before=", after {steps} steps in {minutes:.0f} min with the published loss".format(**unet["before"])
        if "before" in unet else "",
        curves="\n".join([_curve("vocoder", vocoder["history"]), _curve("U-Net", unet["history"])]),
        times=row(unet["times"]), rule=" --- |" * len(unet["times"]), ours=row(unet["held_out_loss"]),
        bands=row(unet["band_loss"]),
    )  # fmt: skip
    write_text(target / "README.md", card)


def _riff_card(
    target: Path, figures: dict, title: str, step: str, what: str, loss: str, remark: str = "",
    unit: str = "clips, or as much in shorter stretches,",
) -> None:  # fmt: skip
    card = _RIFF_CARD.format(
        title=title, what=what, hash=checkpoint_hash(target), clips=figures["clips"], settings=figures, step=step,
        unit=unit, precision=", in bfloat16" if figures["bfloat16"] else "", millions=figures["parameters"] / 1e6,
        remark=remark, curves=_curve(step, figures["history"]), loss=loss,
    )  # fmt: skip
    write_text(target / "README.md", card)
