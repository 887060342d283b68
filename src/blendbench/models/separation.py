"""What of a sound holds a melody, by Demucs (Rouard et al. 2023): every stem but drums and bass.

audiocraft's MusicGen takes the chroma of these stems, transformers' that of the sound itself. Demucs is optional
(`pip install 'blendbench[separation]'`), and nothing here downloads: its weights are a file that is already there.

Demucs' `.th` files are pickles that name the network's class, and Demucs itself reads them with all they may hold. Here
PyTorch's reader for data alone reads them, and may build nothing but Demucs' three classes, fractions and arrays of
numbers. Of its `.safetensors`, whose header names a class to import, only the same three are taken.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models import catalog
from blendbench.models.weights import read_state
from blendbench.resources import check_installed, library
from blendbench.sound import audio
from blendbench.store.signature import file_hash

INSTALL = "'blendbench[separation]'"
LEFT_OUT = ("drums", "bass")
OVERLAP = 0.25
"""Of two segments, as a share of one: Demucs' default."""
_CLASSES = {"htdemucs": "HTDemucs", "hdemucs": "HDemucs", "demucs": "Demucs"}
"""Networks that a file may hold, by Demucs' module."""
_SUFFIXES = (".th", ".safetensors")


@dataclass(frozen=True)
class Bag:
    """Models whose stems are averaged; Demucs' word.

    Parameters
    ----------
    files : tuple of Path
        Weights, one file a model.
    shares : list of list of float or None
        How much a model counts in each stem; None for all alike.
    segment : float or None
        How long a sound goes into the model at once, in seconds; None for the model's own.
    """

    files: tuple[Path, ...]
    shares: list[list[float]] | None = None
    segment: float | None = None


class Separation:
    """A Demucs model and what it leaves of a sound.

    Parameters
    ----------
    model : str
        One of Demucs' names, such as "htdemucs"; a file of weights; or a folder with one such file, or with a
        definition (NAME.yaml) and the files that it names.
    key : str
        The config entry that it comes from, for messages.
    """

    def __init__(self, model: str = "htdemucs", key: str = "separate") -> None:
        self.model, self.key = model, key
        self._network: Any = None
        self._device = "cpu"

    @cached_property
    def bag(self) -> Bag:
        """Where the weights lie.

        Raises
        ------
        BlendbenchError
            If Demucs is not installed, or weights are missing: where they belong and where they are from.
        """
        check_installed("demucs", INSTALL)
        pretrained = library("demucs.pretrained", INSTALL)
        published = {file.stem: file for file in sorted(pretrained.REMOTE_ROOT.glob("*.yaml"))}
        if self.model in published:
            urls = pretrained._parse_remote_files(pretrained.REMOTE_ROOT / "files.txt")
            return self._defined(published[self.model], lambda signature: self._downloaded(urls[signature]))
        place = Path(self.model).expanduser()
        stand_ins.refuse(place)
        if place.is_file():
            return Bag((place,))
        if place.is_dir():
            return self._in_folder(place)
        raise BlendbenchError(
            f"{self.key}={self.model}: neither a file, a folder, nor one of Demucs' models; "
            f"give null for none, or one of {', '.join(published)}"
        )

    def signature(self) -> dict[str, Any]:
        """What changes the stems: hashes of the weights, shares and segment; raises BlendbenchError as `bag` does."""
        return asdict(self.bag) | {"files": [_digest(file)[:12] for file in self.bag.files]}

    def prepare(self, device: str) -> None:
        """Load the model; raises BlendbenchError if Demucs or weights are missing, damaged, or of another kind."""
        if self._network is None:
            # Networks are drawn at random before they are filled.
            with torch.random.fork_rng(devices=[]):
                self._network = self._load()
        self._network.to(device)
        self._device = device

    def melody_stems(self, waveforms: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """What is left of sounds without drums and bass; as `without`."""
        return self.without(waveforms, sample_rate, LEFT_OUT)

    def without(self, waveforms: torch.Tensor, sample_rate: int, names: Sequence[str]) -> torch.Tensor:
        """What is left of sounds without some stems.

        Levels are brought to Demucs' and back as its `Separator` does; audiocraft leaves that to the network. Without
        Demucs' random shifts, of which audiocraft makes one, equal sounds have equal stems.

        Parameters
        ----------
        waveforms : torch.Tensor [N, samples]
            Mono; each goes through the model by itself, as two equal channels.
        sample_rate : int
            In Hz.
        names : sequence of str
            Of "vocals", "drums", "bass", "other".

        Returns
        -------
        torch.Tensor [N, samples]
            Float32, at `sample_rate`, on the CPU.

        Raises
        ------
        ValueError
            If there are fewer than two samples, or not two dimensions.
        BlendbenchError
            As `prepare`.
        """
        if waveforms.dim() != 2 or waveforms.shape[1] < 2:
            raise ValueError(f"waveforms are {list(waveforms.shape)}; give [N, samples], two samples or more")
        self.prepare(self._device)
        rate, samples = int(self._network.samplerate), waveforms.shape[1]
        resampled = audio.resample(waveforms.detach().float().cpu(), sample_rate, rate)
        stems = torch.zeros(waveforms.shape)
        for item, waveform in enumerate(resampled):
            stems[item] = audio.resample(self._separate(waveform, names), rate, sample_rate)[:samples]
        return stems

    def _separate(self, waveform: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        network = self._network
        mean, std = waveform.mean(), waveform.std() + 1e-8
        mix = ((waveform - mean) / std).expand(1, network.audio_channels, -1)
        apply_model = library("demucs.apply", INSTALL).apply_model
        made = apply_model(network, mix, shifts=0, split=True, overlap=OVERLAP, device=self._device)[0] * std + mean
        kept = [stem for stem, name in enumerate(network.sources) if name not in names]
        return made[kept].sum(0).mean(0)

    def _defined(self, definition: Path, locate: Callable[[str], Path]) -> Bag:
        """The bag of a definition, whose files `locate` finds by signature."""
        try:
            fields: Any = OmegaConf.to_container(OmegaConf.load(definition))
            signatures = [str(signature) for signature in fields["models"]]
            shares, segment = fields.get("weights"), fields.get("segment")
        except Exception as error:  # what YAML's reader raises is no fixed set
            raise BlendbenchError(
                f"{printable(definition)}: no definition of a Demucs model ({one_line(str(error))}); give the .th file"
            ) from error
        return Bag(tuple(locate(signature) for signature in signatures), shares, segment)

    def _downloaded(self, url: str) -> Path:
        """The file that Demucs downloads from a URL, in torch hub's folder or, as safetensors, in the hub's cache."""
        name = url.rpartition("/")[2]
        known = next((model for model in catalog.models().values() if model.source == url), None)
        place = Path(torch.hub.get_dir()) / "checkpoints" / name
        if place.is_file():
            return place if known is None else catalog.find(known.name)
        if (cached := _from_hub(self.model, name.partition("-")[0])) is not None:
            return cached
        remedy = f"{known.fetching}, or put" if known is not None else "put"
        raise BlendbenchError(f"{self.key}={self.model}: {place} is not here; {remedy} {url} there")

    def _in_folder(self, folder: Path) -> Bag:
        def named(signature: str) -> Path:
            for file in files:
                if file.stem == signature or file.stem.startswith(f"{signature}-"):
                    return file
            raise BlendbenchError(
                f"{self.key}={self.model}: {definitions[0].name} asks for {signature}.th, which is not in that folder"
            )

        files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
        definitions = sorted(folder.glob("*.yaml"))
        if len(definitions) == 1:
            return self._defined(definitions[0], named)
        if len(files) != 1:
            raise BlendbenchError(f"{self.key}={self.model}: {len(files)} files of weights there; give one file")
        return Bag((files[0],))

    def _load(self) -> Any:
        bag = self.bag
        networks = [_read(file) for file in bag.files]
        if len(networks) == 1 and bag.shares is None and bag.segment is None:
            network = networks[0]
        else:
            try:
                network = library("demucs.apply", INSTALL).BagOfModels(networks, bag.shares, bag.segment)
            except (AssertionError, TypeError, AttributeError) as error:
                raise BlendbenchError(
                    f"{self.key}={self.model}: its models or their shares do not fit together; give one file"
                ) from error
        if not {"vocals", "other"} <= set(network.sources):
            raise BlendbenchError(
                f"{self.key}={self.model}: it makes {', '.join(network.sources)}, not vocals and other; give htdemucs"
            )
        for module in network.modules():
            if hasattr(module, "sin_random_shift"):
                module.sin_random_shift = 0  # Demucs draws it outside of training, too.
        return network.eval().requires_grad_(False)


def _from_hub(model: str, signature: str) -> Path | None:
    """What Demucs from 4.1 on downloads, or None where it is not in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        from demucs import hf
    except ImportError:  # Demucs 4.0
        return None
    found = try_to_load_from_cache(f"{hf.DEFAULT_NAMESPACE}/{hf.hf_repo_name(model)}", f"{signature}.safetensors")
    return Path(found) if isinstance(found, str) else None


def _digest(file: Path) -> str:
    """A file's SHA-256; raises BlendbenchError if it is not what the file's name says, Demucs' SIGNATURE-SHA256.th."""
    try:
        digest = file_hash(file)
    except OSError as error:
        raise BlendbenchError(f"{printable(file)}: cannot be read ({error.strerror}); give another file") from error
    named = re.search(r"-([0-9a-f]{8,64})$", file.stem)
    if named and not digest.startswith(named[1]):
        raise BlendbenchError(
            f"{printable(file)}: has sha256 {digest[:12]}..., not {named[1]} as its name says; fetch it again"
        )
    return digest


def _read(file: Path) -> Any:
    """The network of a file, on the CPU; raises BlendbenchError if it is damaged or holds anything else."""
    _digest(file)
    networks = {f"demucs.{module}.{name}": _network(module, name) for module, name in _CLASSES.items()}
    if file.suffix == ".safetensors":
        package = _read_safetensors(file, networks)
    else:
        with torch.serialization.safe_globals([*networks.values(), Fraction]):
            package = read_state(file)
    wanted = {"klass", "args", "kwargs", "state"}
    if not isinstance(package, dict) or not wanted <= package.keys() or package["klass"] not in networks.values():
        raise BlendbenchError(f"{printable(file)}: holds no Demucs model; give the published file")
    kind, state = package["klass"].__name__, package["state"]
    # Demucs would end the process for want of another library.
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BlendbenchError(f"{printable(file)}: holds no plain weights (quantised ones?); give another model")
    try:
        return library("demucs.states", INSTALL).load_model(package)
    except Exception as error:  # networks of other arguments fail in many ways
        reason = one_line(next(iter(str(error).splitlines()), type(error).__name__))
        raise BlendbenchError(
            f"{printable(file)}: weights are not of this {kind} ({reason}); fetch it again"
        ) from error


def _network(module: str, name: str) -> Any:
    return getattr(library(f"demucs.{module}", INSTALL), name)


def _read_safetensors(file: Path, networks: dict[str, Any]) -> dict[str, Any] | None:
    """The same package as in a `.th` file, or None if it is none."""
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if "structure" in header:  # of quantised weights
            state = {"__quantized": True}
        args, kwargs = (json.loads(header[name], object_hook=_fraction) for name in ("args", "kwargs"))
        return {"klass": networks[header["klass"]], "args": args, "kwargs": kwargs, "state": state}
    except KeyError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, ZeroDivisionError) as error:
        stand_ins.refuse_weights(file, failed=True)
        raise BlendbenchError(f"{printable(file)}: damaged or no safetensors file; fetch it again") from error


def _fraction(value: dict[str, Any]) -> Any:
    return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value
