"""What stands beside a generator: checkpoints that are made ready with it, and modules that bring it an adapter.

The generator itself stays as it is. A module is a folder of `config.json` and one safetensors file: the module's own
tensors under a prefix, and a low-rank adapter of the generator's U-Net.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from blendbench import stand_ins
from blendbench.errors import BlendbenchError
from blendbench.models import lora
from blendbench.models.checkpoint import Checkpoint, Model
from blendbench.models.generator import Generator
from blendbench.models.weights import reason_of
from blendbench.store.write import write_text

CONFIG = "config.json"
UNFIT = (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError)
"""What reading files of another layout, or of another generator, raises."""


class Attached(Checkpoint[Model]):
    """A checkpoint that is made ready with a generator, once a device."""

    def of(self, generator: Generator, device: str) -> Model:
        """The model beside a generator, on a device.

        Raises
        ------
        BlendbenchError
            If it is not there, cannot be read, or is of another generator.
        """
        if device not in self._models:
            self._found()
            self._models[device] = self._beside(generator, device)
        return self._models[device]

    @abstractmethod
    def _beside(self, generator: Generator, device: str) -> Model: ...

    def _load(self, source: Path | str, device: str) -> Model:
        raise BlendbenchError(f"{self.key}.checkpoint={self.checkpoint}: give a folder; there is none on a hub")


class Kept(NamedTuple):
    """What lies in a module's folder."""

    config: dict[str, Any]
    own: dict[str, torch.Tensor]
    """The module's tensors, float32"""
    adapter: dict[str, torch.Tensor]
    """Of the generator's U-Net"""


class AttachedModule(Attached[Model]):
    """A module of one's own beside a generator, and an adapter of the generator's U-Net.

    Attributes
    ----------
    file, prefix : str
        Name of the safetensors file, and what the module's tensors are called by in it.
    called : str
        What it is, in messages: "MeLFusion of this generator and image model".
    """

    marker = CONFIG
    file: str
    prefix: str
    called: str

    @classmethod
    def write(
        cls, folder: Path, module: nn.Module, parts: Mapping[str, lora.LowRank], config: Mapping[str, Any]
    ) -> None:
        """Write a module and an adapter, in half precision, and the config."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {cls.prefix + name: value.detach() for name, value in module.state_dict().items()}
        values |= lora.values(dict(parts))
        save_file({name: value.half().contiguous() for name, value in values.items()}, folder / cls.file)
        write_text(folder / CONFIG, json.dumps(dict(config), indent=1) + "\n")

    def _beside(self, generator: Generator, device: str) -> Model:
        folder = self.folder
        assert folder is not None  # `_found`
        place = folder / self.file
        try:
            values = load_file(place)
            own = {name: value for name, value in values.items() if name.startswith(self.prefix)}
            kept = Kept(
                json.loads((folder / CONFIG).read_text()),
                {name.removeprefix(self.prefix): value.float() for name, value in own.items()},
                {name: value for name, value in values.items() if name not in own},
            )
            made = self._made(kept, generator, device)
        except UNFIT as error:
            stand_ins.refuse_weights(place, failed=True)
            raise BlendbenchError(f"{folder}: no {self.called} ({reason_of(error)}); train or copy it again") from error
        return made

    @abstractmethod
    def _made(self, kept: Kept, generator: Generator, device: str) -> Model:
        """The model of what lies in the folder; raises one of `UNFIT` where that does not fit."""

    def _adapted(self, kept: Kept, generator: Generator, device: str) -> Any:
        """The generator with the adapter."""
        assert self.folder is not None
        place = self.folder / self.file
        return generator.changed(device, lambda unet: lora.add(unet, kept.adapter, place))
