"""Riff-CNET's network: a ControlNet (Zhang et al., 2023) beside a generator's U-Net, told of edges in a mel image.

Hints are [B, 3, H, W] in 0..1. The published Riff-CNET was trained on hints in 0..255; when its checkpoint is
converted, the factor goes into the first convolution, so that 0..1 holds for all.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from safetensors.torch import load_file

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models import lora
from blendbench.models.attached import Attached
from blendbench.models.checkpoint import DTYPES
from blendbench.models.convert import save_made_of, tensors_of
from blendbench.models.denoisers import Denoiser, with_control
from blendbench.models.generator import Generator
from blendbench.models.latent_diffusion import LatentDiffusion
from blendbench.models.sampling import Sampling, prompted
from blendbench.models.stable_diffusion import UNET
from blendbench.models.weights import read_pretrained, reason_of
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


LOW_RANK = "low_rank.safetensors"
RANK = 24
_HALF = ("down_blocks.", "mid_block.")


@torch.no_grad()
def shrunk(controlnet: ControlNetModel, unet: UNet2DConditionModel, rank: int = RANK) -> dict[str, torch.Tensor]:
    """What a ControlNet has learnt beyond a U-Net's first half, to a rank: a small file over a generator.

    Layers of the copied half are kept as NAME.down [rank, in] and NAME.up [out, rank] of the best approximation of what
    they differ by (Eckart and Young, 1936), all else that differs as it is.

    Parameters
    ----------
    controlnet : ControlNetModel
        One that began as `beside(unet)`.
    unet : UNet2DConditionModel
    rank : int
    """
    before, found = beside(unet).state_dict(), dict[str, torch.Tensor]()
    for name, value in controlnet.state_dict().items():
        if name.startswith(_HALF) and value.ndim > 1:
            change = (value.float() - before[name].float().to(value.device)).flatten(1)
            outer, sizes, inner = torch.linalg.svd(change, full_matrices=False)
            layer = name.removesuffix(".weight")
            found[f"{layer}.up"] = outer[:, :rank] * sizes[:rank]
            found[f"{layer}.down"] = inner[:rank]
        elif not torch.equal(value.cpu(), before[name].cpu()):
            found[name] = value
    return {name: value.half().contiguous().cpu() for name, value in found.items()}


def grown(unet: UNet2DConditionModel, tensors: Mapping[str, torch.Tensor], file: Path) -> ControlNetModel:
    """The ControlNet that `shrunk` made small, beside its generator's U-Net; `file` is where it is from, for messages.

    Raises
    ------
    BlendbenchError
        If the tensors are of another U-Net.
    """
    made = beside(unet)
    own, low = made.state_dict(), {name for name in tensors if name.endswith((".up", ".down"))}
    whole = {name: value for name, value in tensors.items() if name not in low}
    if wrong := [name for name, value in whole.items() if name not in own or own[name].shape != value.shape]:
        raise BlendbenchError(f"{file}: does not fit the generator's U-Net ({wrong[0]}); use its own")
    made.load_state_dict(own | {name: value.float() for name, value in whole.items()})
    lora.add(made, {name: tensors[name] for name in low}, file)
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
    network, hints = with_control(model.unet, controlnet, scale), hints.to(model.device)
    return prompted(model, prompts, settings, lambda items, text: (network, {"control": hints[items]}))


def check_fit(controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Raise BlendbenchError unless a ControlNet is one of this U-Net's size."""
    for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        own, other = getattr(controlnet.config, name), getattr(unet.config, name)
        if list(own) != list(other) if isinstance(own, list | tuple) else own != other:
            raise BlendbenchError(
                f"controlnet: {name} is {own}, but the generator's U-Net has {other}; use one trained beside it"
            )


class ControlNetCheckpoint(Attached[ControlNetModel]):
    """A ControlNet by name: "pocket" for the built-in generator's, a folder in diffusers' layout, a name of `models`.

    Parameters
    ----------
    key, checkpoint, revision, dtype, local_files_only
        See `Checkpoint`.
    """

    builtin = "riff_cnet"
    marker = "config.json"
    layout = "diffusers' ControlNet"

    @property
    def small(self) -> Path | None:
        """The small file (`shrunk`); None for a whole network."""
        file = None if self.folder is None else self.folder / LOW_RANK
        return file if file is not None and (file.is_file() or self.checkpoint == "pocket") else None

    def of(self, generator: Generator, device: str) -> ControlNetModel:
        """The ControlNet; a small file is put beside the generator that it was made of."""
        return self.get(device) if self.small is None else super().of(generator, device)

    def _beside(self, generator: Generator, device: str) -> ControlNetModel:
        file = self.small
        assert file is not None  # `of`
        stand_ins.refuse(file)
        # Whatever samples in few steps, the copied half is that of the generator as it was trained.
        plain = generator if generator.adapter is None else Generator("generator", generator.checkpoint)
        try:
            base = json.loads((file.parent / "config.json").read_text())["base"]
            tensors = load_file(file)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            stand_ins.refuse_weights(file, failed=True)
            raise BlendbenchError(
                f"{file}: cannot be read as a ControlNet ({reason_of(error)}); copy it again"
            ) from error
        if base != plain.fingerprint:
            raise BlendbenchError(
                f"{self.key}.checkpoint={self.checkpoint}: was made of the generator {base}, not of "
                f"{plain.checkpoint} ({plain.fingerprint}); give one trained beside that"
            )
        made = grown(plain.get(device).unet, tensors, file).eval().requires_grad_(False)
        return made.to(device=device, memory_format=torch.channels_last)

    def signature(self) -> dict[str, Any]:
        """What changes its outputs."""
        return {"controlnet": self.fingerprint, "dtype": self.dtype}

    def _load(self, source: Path | str, device: str) -> ControlNetModel:
        loaded = read_pretrained(
            ControlNetModel,
            source,
            "a ControlNet",
            revision=self.revision,
            local_files_only=self.local_files_only,
            torch_dtype=DTYPES[self.dtype],
            low_cpu_mem_usage=is_accelerate_available(),
        )
        return loaded.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
