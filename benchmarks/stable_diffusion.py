"""Stable Diffusion 1.5's size with random weights: equality with diffusers' pipelines, loading, memory, time.

    .venv/bin/python benchmarks/stable_diffusion.py [--device cuda] [--dtype float16] [--batches 1 4 16] [--steps 50]

No download is needed: the parts are built from their configs (859.5 M, 83.7 M and 123.1 M parameters), the tokenizer is
CLIP's own, from the merges that laion_clap's package holds. In float32 one step of each kind (text to image, image to
image, masked repainting) is held against diffusers' pipeline; then the model is saved, loaded as a folder and as a
single file, and compared. With --time (the default on a GPU) a BNMusic pair's two repaintings are timed at each batch,
ours and diffusers' pipelines one after the other in the same run, and the ratio is printed.

On two CPU cores the comparison takes about ten minutes and 15 GB of memory.
"""

import argparse
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import save_file

from blendbench.models import latent_diffusion, sampling, stable_diffusion
from blendbench.models.checkpoint import DTYPES
from blendbench.models.generator import Generator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from test_stable_diffusion import clip_tokenizer, original_layout

PROMPT = "upbeat jazz trio with walking bass and brushed drums"


def pipeline(kind: type, model: latent_diffusion.LatentDiffusion, scheduler: str = "default"):
    """diffusers' pipeline over the same parts."""
    made = kind(
        unet=model.unet, vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer,
        scheduler=latent_diffusion.make_scheduler(scheduler, model.scheduler_config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in -1..1 and masks (1 = repaint), 512 x 512."""
    draw = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(
        torch.rand(count, 3, 64, 64, generator=draw) * 2 - 1, size=512, mode="bilinear"
    )
    masks = torch.nn.functional.interpolate((torch.rand(count, 1, 40, 40, generator=draw) > 0.15).float(), size=512)
    return images, masks


def compare(model: latent_diffusion.LatentDiffusion) -> None:
    """One step of each kind, ours against diffusers', largest difference in -1..1."""
    images, masks = inputs(1)
    generator = lambda: [torch.Generator().manual_seed(7)]  # noqa: E731
    common = {"prompt": [PROMPT], "num_inference_steps": 1, "guidance_scale": 7.5, "output_type": "pt"}
    one = sampling.Sampling(steps=1, guidance_scale=7.5)
    kinds: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
        "text to image": (
            lambda: sampling.text_to_image(model, [PROMPT], [7], one),
            lambda: pipeline(StableDiffusionPipeline, model)(generator=generator(), **common).images,
        ),
        "image to image": (
            lambda: sampling.image_to_image(model, images, [PROMPT], [7], one),
            lambda: pipeline(StableDiffusionImg2ImgPipeline, model)(
                image=images / 2 + 0.5, strength=1.0, generator=generator(), **common
            ).images,
        ),
        "masked repainting": (
            lambda: sampling.masked_repaint(model, images, masks, [PROMPT], [7], one),
            lambda: pipeline(StableDiffusionInpaintPipeline, model)(
                image=images / 2 + 0.5, mask_image=masks, strength=1.0, height=512, width=512, generator=generator(),
                **common,
            ).images,
        ),
    }  # fmt: skip
    for kind, (ours, theirs) in kinds.items():
        start = time.perf_counter()
        made = ours().cpu()
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        wanted = theirs().cpu() * 2 - 1
        reference = time.perf_counter() - start
        error = float((made - wanted).abs().max())
        verdict = "equal" if error < 1e-4 else "DIFFERENT"
        print(
            f"{kind:<18} largest difference {error:.1e} ({verdict}), spread {float(made.std()):.3f}; "
            f"{seconds:.1f} s, diffusers {reference:.1f} s, ratio {reference / seconds:.2f}",
            flush=True,
        )


def loading(model: latent_diffusion.LatentDiffusion, folder: Path) -> None:
    """A folder and a single file give the same weights; the time that takes."""
    model.save(folder / "model")
    save_file(original_layout(model), folder / "single.safetensors")
    expected = {name: value.clone() for name, value in model.unet.state_dict().items() if "attn2.to_k" in name}
    vae = model.vae.decoder.conv_in.weight.clone()
    text = model.text_encoder.state_dict()
    text = {name: value.clone() for name, value in text.items() if "layers.11" in name}
    dtype = {value: name for name, value in DTYPES.items()}[model.dtype]
    del model
    for name, source in (("folder", "model"), ("single file", "single.safetensors")):
        gc.collect()
        start = time.perf_counter()
        generator = Generator("sd", str(folder / source), dtype=dtype, tokenizer=str(folder / "tokenizer"))
        loaded = generator.get("cpu")
        seconds = time.perf_counter() - start
        same = all(torch.equal(loaded.unet.state_dict()[key], value) for key, value in expected.items())
        same &= torch.equal(loaded.vae.decoder.conv_in.weight, vae)
        same &= all(torch.equal(loaded.text_encoder.state_dict()[key], value) for key, value in text.items())
        print(f"{name:<18} {'the same weights' if same else 'OTHER WEIGHTS'}, {seconds:.1f} s", flush=True)
        del loaded, generator


def timing(model: latent_diffusion.LatentDiffusion, batches: list[int], steps: int, device: str) -> None:
    """Seconds a pair for both repaintings, ours and diffusers', in turn."""

    def measure(work: Callable[[], object]) -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    settings = sampling.Sampling(steps=steps, guidance_scale=7.5)
    theirs = pipeline(StableDiffusionInpaintPipeline, model)
    print(f"{'batch':>5} {'ours':>9} {'diffusers':>9} {'ratio':>6}   seconds a pair, 2 x {steps} steps, guidance 7.5")
    for batch in batches:
        images, masks = inputs(batch)

        def ours(batch=batch, images=images, masks=masks) -> None:
            for mask in (masks, 1 - masks):
                sampling.masked_repaint(model, images, mask, [PROMPT] * batch, list(range(batch)), settings)

        def reference(batch=batch, images=images, masks=masks) -> None:
            for mask in (masks, 1 - masks):
                theirs(
                    prompt=[PROMPT] * batch, image=images / 2 + 0.5, mask_image=mask, strength=1.0, height=512,
                    width=512, num_inference_steps=steps, guidance_scale=7.5, output_type="pt",
                    generator=[torch.Generator().manual_seed(seed) for seed in range(batch)],
                )  # fmt: skip

        ours()  # warms up, compiles
        first, second = measure(ours) / batch, measure(reference) / batch
        print(f"{batch:5d} {first:9.3f} {second:9.3f} {second / first:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--time", action="store_true", help="time pairs, also on a CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile the U-Net for the timing of ours")
    parser.add_argument("--skip-comparison", action="store_true")
    parser.add_argument("--skip-loading", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = stable_diffusion.random_model(clip_tokenizer(folder / "tokenizer"), DTYPES[words.dtype])
        for part in ("unet", "vae", "text_encoder"):
            count = sum(parameter.numel() for parameter in getattr(model, part).parameters())
            print(f"{part:<18} {count / 1e6:.1f} M parameters")
        model.to(words.device)
        if words.dtype == "float32" and not words.skip_comparison:
            compare(model)
        if words.device.startswith("cuda") or words.time:
            if words.compile:
                model.unet.compile()
            timing(model, words.batches, words.steps, words.device)
            if words.device.startswith("cuda"):
                print(f"peak GPU memory    {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        print(f"peak memory        {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
        if not words.skip_loading:
            loading(model.to("cpu"), folder)


if __name__ == "__main__":
    main()
