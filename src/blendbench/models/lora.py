"""Low-rank adapters of a U-Net (LoRA, Hu et al. 2022): train them, save them, add them to the weights.

An adapter is one safetensors file with, for each adapted layer, `NAME.down` [rank, in] and `NAME.up` [out, rank]; a
convolution's kernel counts to `in`. What it adds to the weight is their product. One model and a few small files so
serve several uses, such as sampling in few steps.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from blendbench import stand_ins
from blendbench.errors import BlendbenchError


class LowRank(nn.Module):
    """Parametrization that adds `up @ down` to a weight, unless it is switched off."""

    def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))
        self.on = True

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape) if self.on else weight


BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")


def _layers(model: nn.Module, within: tuple[str, ...]) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Layers of the blocks, by name; the small ones at the edges and of the time embedding are not adapted."""
    for name, layer in model.named_modules():
        inside = name.startswith(within)
        if inside and isinstance(layer, nn.Conv2d | nn.Linear) and "time_emb_proj" not in name:
            yield name, layer


def attach(model: nn.Module, rank: int, seed: int = 0, within: tuple[str, ...] = BLOCKS) -> dict[str, LowRank]:
    """Freeze a U-Net and give layers of some blocks trainable low-rank parts that change nothing yet."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    parts = {
        name: LowRank(layer.weight, rank, generator).to(layer.weight.device) for name, layer in _layers(model, within)
    }
    for name, part in parts.items():
        parametrize.register_parametrization(model.get_submodule(name), "weight", part)
        part.requires_grad_(True)
    return parts


def parameters(parts: dict[str, LowRank]) -> list[nn.Parameter]:
    """All that an adapter learns."""
    return [value for part in parts.values() for value in part.parameters()]


def values(parts: dict[str, LowRank]) -> dict[str, torch.Tensor]:
    """An adapter's tensors, by their names in its file."""
    return {f"{name}.{side}": getattr(part, side).detach() for name, part in parts.items() for side in ("down", "up")}


def save(parts: dict[str, LowRank], file: Path) -> None:
    """Write an adapter in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in values(parts).items()}, file)


def merge(model: nn.Module, file: Path) -> None:
    """Add an adapter's parts to a U-Net's weights, in float32.

    Raises
    ------
    BlendbenchError
        If the file is missing, torn, or of another U-Net.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        stand_ins.refuse_weights(file, failed=True)
        raise BlendbenchError(f"{file}: not a readable adapter ({error}); train or copy it again") from error
    add(model, tensors, file)


@torch.no_grad()
def add(model: nn.Module, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Add an adapter's tensors to a U-Net's weights; `file` is where they are from, for messages.

    Raises
    ------
    BlendbenchError
        If they are of another U-Net.
    """
    names = {name.rpartition(".")[0] for name in tensors}
    layers = dict(model.named_modules())
    for name in sorted(names):
        try:
            weight = layers[name].weight
            change = tensors[f"{name}.up"].float() @ tensors[f"{name}.down"].float()
            changed = weight.float() + change.reshape(weight.shape).to(weight.device)
        except (KeyError, AttributeError, RuntimeError) as error:
            raise BlendbenchError(
                f"{file}: does not fit the generator's U-Net ({name}); use its own adapter"
            ) from error
        weight.copy_(changed)
