"""Riff-CNET's network: a ControlNet (Zhang et al., 2023) beside a generator's U-Net, told of edges in a mel image.

Hints are [B, 3, H, W] in 0..1. The published Riff-CNET was trained on hints in 0..255; when its checkpoint is
converted, the factor goes into the first convolution, so that 0..1 holds for all.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models.batches import in_parts
from blendbench.models.checkpoint import DTYPES, Checkpoint
from blendbench.models.convert import save_made_of, tensors_of
from blendbench.models.denoisers import Denoiser, by_parts, conditioned, guided, with_control
from blendbench.models.latent_diffusion import LatentDiffusion, encode_prompts
from blendbench.models.sampling import Sampling
from blendbench.models.stable_diffusion import UNET
from blendbench.store.signature import file_hash
from blendbench.store.write import write_text

HINT_WIDTHS = (16, 32, 96, 256)
"""Channels of the hint's encoder, which makes an eighth of each side."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
_BESIDE = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block")


def beside(unet: UNet2DConditionModel) -> ControlNetModel:
    """An untrained ControlNet of a U-Net: a copy of its first half, whose outputs are all zero.

    `ControlNetModel.from_unet` does not hand on `addition_embed_type_num_heads`, without which the built-in generator's
    text cannot join the time embedding (diffusers 0.42).
    """
    accepted = inspect.signature(ControlNetModel.__init__).parameters
    config = {name: value for name, value in dict(unet.config).items() if name in accepted}
    config |= {"conditioning_embedding_out_channels": HINT_WIDTHS}
    made = ControlNetModel(**config)
    for name in _BESIDE:
        own, other = getattr(made, name, None), getattr(unet, name, None)
        if own is not None and other is not None:
            own.load_state_dict(other.state_dict())
    return made


PUBLISHED_HINTS = 255.0
"""Largest value of the hints that the published Riff-CNET was trained on."""


def convert_published(source: Path, folder: Path) -> None:
    """Write a ControlNet of Stable Diffusion 1's size in its original layout (cldm) as a folder in diffusers' layout.

    The file is read as data alone; it may hold the whole of Riffusion beside the ControlNet. Its first convolution
    takes over the factor between hints in 0..255 and 0..1, since Riff-CNET was trained on the former.

    Parameters
    ----------
    source : Path
        A pickle (`.ckpt`) or safetensors.
    folder : Path
        Where `config.json` and the weights go.

    Raises
    ------
    BlendbenchError
        If the file is damaged, needs code to be read, or holds no such ControlNet.
    """
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    config = published_config()
    tensors = tensors_of(source)
    try:
        state = convert_controlnet_checkpoint(dict(tensors), config)
        # Built without memory for its weights, to be held against the file's.
        with torch.device("meta"):
            wanted = ControlNetModel(**config).state_dict()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise BlendbenchError(f"{printable(source)}: holds no ControlNet ({one_line(str(error))[:80]})") from error
    state = {name: value for name, value in state.items() if value is not None}
    lacking = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if lacking or len(state) > len(wanted):
        named = lacking[0] if lacking else next(name for name in state if name not in wanted)
        raise BlendbenchError(
            f"{printable(source)}: holds no ControlNet of Stable Diffusion 1's size ({named}); give the published file"
        )
    name = "controlnet_cond_embedding.conv_in.weight"
    state[name] = state[name] * PUBLISHED_HINTS
    own = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    save_made_of(own, folder / WEIGHTS, source.name, file_hash(source))
    write_text(folder / "config.json", json.dumps({"_class_name": "ControlNetModel"} | config, indent=1) + "\n")


def published_config() -> dict[str, Any]:
    """Of the published Riff-CNET: Stable Diffusion 1's U-Net, and a hint's encoder."""
    accepted = inspect.signature(ControlNetModel.__init__).parameters
    config = {name: value for name, value in UNET.items() if name in accepted}
    return config | {"conditioning_embedding_out_channels": list(HINT_WIDTHS)}


def controlled(
    model: LatentDiffusion,
    controlnet: ControlNetModel,
    prompts: list[str],
    hints: torch.Tensor,
    settings: Sampling,
    scale: float = 1.0,
) -> Denoiser:
    """The denoiser of a generator under prompts and hints, as `sampling.prompted` is that under prompts alone.

    Where it is guided, what it is guided away from sees the same hint (Riff-CNET's own sampling).

    Parameters
    ----------
    prompts : list of str
        B of them.
    hints : torch.Tensor [B, 3, H, W]
        In 0..1.
    settings : Sampling
    scale : float
        Weight of the ControlNet's outputs.

    Raises
    ------
    BlendbenchError
        When the ControlNet is none of this generator, or a hint is out of range.
    """
    model.check_channels(extra=0)
    check_fit(controlnet, model.unet)
    # The negation catches NaN.
    if not bool(((hints >= 0) & (hints <= 1)).all()):
        raise BlendbenchError("hints: values are not all within 0..1; scale the images to that range")
    is_guided = settings.guidance_scale > 1
    text, empty = encode_prompts(model, prompts, settings.negative_prompt if is_guided else None)
    network = with_control(model.unet, controlnet, scale)
    hints = hints.to(model.device)

    def of_items(items: slice) -> Denoiser:
        given = {"text": text[items], "control": hints[items]}
        if empty is None:
            return conditioned(network, given)
        return guided(network, given, {"text": empty[items]}, settings.guidance_scale)

    return by_parts(of_items, in_parts(model.device, len(prompts)))


def check_fit(controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Raise BlendbenchError unless a ControlNet is one of this U-Net's size."""
    for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        own, other = getattr(controlnet.config, name), getattr(unet.config, name)
        if list(own) != list(other) if isinstance(own, list | tuple) else own != other:
            raise BlendbenchError(
                f"controlnet: {name} is {own}, but the generator's U-Net has {other}; use one trained beside it"
            )


class ControlNetCheckpoint(Checkpoint[ControlNetModel]):
    """A ControlNet by name: "pocket" for the built-in generator's, a folder in diffusers' layout, a name of `models`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    """

    builtin = "riff_cnet"
    marker = "config.json"
    layout = "diffusers' ControlNet"

    def signature(self) -> dict[str, Any]:
        """What changes its outputs."""
        return {"controlnet": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> ControlNetModel:
        try:
            loaded, info = ControlNetModel.from_pretrained(
                str(source),
                revision=self.revision,
                local_files_only=self.local_files_only,
                use_safetensors=True,
                output_loading_info=True,
                torch_dtype=DTYPES[self.dtype],
                low_cpu_mem_usage=is_accelerate_available(),
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
            stand_ins.refuse_weights(Path(source), failed=True)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BlendbenchError(f"{source}: cannot be read as a ControlNet ({reason}); fetch it again") from error
        if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
            raise BlendbenchError(
                f"{source}: lacks {len(absent)} weights that its config asks for (such as {absent[0]}); fetch it again"
            )
        return loaded.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
