"""Riff-P2P's network: an InstructPix2Pix (Brooks et al., 2023), a generator whose U-Net sees an image's latents, too.

The published one is a whole U-Net of eight input channels. The built-in one is the built-in generator's with a wider
first convolution and a low-rank adapter, in one small file.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.attached import Attached
from blendbench.models.batches import in_parts
from blendbench.models.checkpoint import DTYPES
from blendbench.models.denoisers import Denoiser, by_parts, doubly_guided, unet_network
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.models.sampling import Sampling

FILE = "adapter.safetensors"
WIDENED = ("conv_in.weight", "conv_in.bias")


@torch.no_grad()
def widen(unet: UNet2DConditionModel) -> None:
    """Give a U-Net as many further input channels as it has, whose weights are zero: any image changes nothing yet.

    The bias is copied; the published training left it random (huggingface/diffusers#4960).
    """
    old, channels = unet.conv_in, unet.config.in_channels
    new = torch.nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    new.weight.zero_()
    new.weight[:, :channels] = old.weight
    assert old.bias is not None and new.bias is not None  # every U-Net of diffusers has one there
    new.bias.copy_(old.bias)
    unet.conv_in = new.to(old.weight)
    unet.register_to_config(in_channels=2 * channels)


def edited(
    model: LatentDiffusion,
    prompts: list[str],
    images: torch.Tensor,
    settings: Sampling,
    image_scale: float,
) -> Denoiser:
    """The denoiser of an InstructPix2Pix under prompts and images, by the formula of its two guidances.

    diffusers' pipeline leaves out both guidances where the text's is at most 1 or the image's below 1; here the formula
    holds everywhere.

    Parameters
    ----------
    prompts : list of str
        B instructions.
    images : torch.Tensor [B, C, h, w]
        Latents of the images: the posterior's mode, **not** scaled.
    settings : Sampling
        `guidance_scale` is the text's, s_T.
    image_scale : float
        The image's, s_I.
    """
    text, empty = encode_prompts(model, prompts, settings.negative_prompt)
    assert empty is not None  # a negative prompt is given
    network, blank = unet_network(model.unet), torch.zeros_like(images)

    def of_items(items: slice) -> Denoiser:
        given = {"text": text[items], "image": images[items]}
        without = {"text": empty[items], "image": blank[items]}
        return doubly_guided(network, given, without, settings.guidance_scale, image_scale)

    return by_parts(of_items, in_parts(model.device, len(prompts)))


def save(parts: dict[str, lora.LowRank], unet: UNet2DConditionModel, file: Path) -> None:
    """Write an adapter with the widened convolution, in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = unet.state_dict()
    values = {name: state[name].detach() for name in WIDENED} | lora.values(parts)
    save_file({name: value.half().contiguous() for name, value in values.items()}, file)


def adapt(unet: UNet2DConditionModel, file: Path) -> None:
    """Widen a U-Net and add an adapter of `save` to it.

    Raises
    ------
    BlendbenchError
        If the file is missing, torn, or of another U-Net.
    """
    widen(unet)
    try:
        values = load_file(file)
        wide = {name: values[name] for name in WIDENED}
        unet.conv_in.load_state_dict({name.partition(".")[2]: value.float() for name, value in wide.items()})
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        stand_ins.refuse_weights(file, failed=True)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BlendbenchError(f"{file}: no adapter of this generator's ({reason}); train or copy it again") from error
    lora.add(unet, {name: value for name, value in values.items() if name not in WIDENED}, file)


class Pix2PixCheckpoint(Attached[LatentDiffusion]):
    """An InstructPix2Pix by name: "pocket" for the built-in generator's adapter, a folder in diffusers' layout or one
    with such an adapter, a hub id, a name of `models`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    """

    builtin = "riff_p2p"
    layout = "diffusers'"

    @property
    def adapter(self) -> Path | None:
        """The adapter's file; None for a whole checkpoint."""
        folder = self.folder
        file = None if folder is None else folder / FILE
        return file if file is not None and (file.is_file() or self.checkpoint == "pocket") else None

    @property
    def marker(self) -> str:  # type: ignore[override]
        """A file that it has."""
        return "model_index.json" if self.adapter is None else FILE

    def signature(self) -> dict[str, Any]:
        """What changes its outputs."""
        return {"pix2pix": self.fingerprint, "dtype": self.dtype}

    def of(self, generator: Generator, device: str) -> LatentDiffusion:
        """The model: a checkpoint of its own, or the generator with the adapter."""
        return self.get(device) if self.adapter is None else super().of(generator, device)

    def _beside(self, generator: Generator, device: str) -> LatentDiffusion:
        file = self.adapter
        assert file is not None  # `of`
        made = generator.changed(device, lambda unet: adapt(unet, file))
        made.extra_channels = made.unet.config.in_channels // 2
        return made

    def _load(self, source: Path | str, device: str) -> LatentDiffusion:
        # Stable Diffusion's latents have four channels, and so have those of the image.
        model = LatentDiffusion.load(
            source, device, DTYPES[self.dtype], self.revision, local_files_only=self.local_files_only, extra_channels=4
        )
        for part in (model.unet, model.vae, model.text_encoder):
            part.requires_grad_(False)
        return model
