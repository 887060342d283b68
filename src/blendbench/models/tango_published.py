"""TANGO's published checkpoints, in a layout of their own, turned into a folder that `tango.Tango.load` reads.

There are three pickles: U-Net and text encoder; autoencoder and vocoder; constants of the front end. The autoencoder
has the names of CompVis' latent diffusion, the vocoder those of HiFi-GAN. The tokenizer does not lie there: it is the
text encoder's own, of another repository.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from blendbench import stand_ins
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.models.convert import save_made_of, tensors_of
from blendbench.models.tango import PUBLISHED, TIED, WEIGHTS, build, read_json, write_index
from blendbench.models.weights import unlike
from blendbench.sound import tango_mel
from blendbench.store.signature import file_hash
from blendbench.store.write import make_folder

MAIN, VAE, STFT = (f"pytorch_model_{name}.bin" for name in ("main", "vae", "stft"))
"""The pickles: U-Net and text encoder; autoencoder and vocoder; the front end's constants."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "spiece.model")
"""Files of a tokenizer; the first has to be there."""
_REMEDY = "give the folder of a published TANGO, such as declare-lab/tango-full-ft-audio-music-caps"
_Parts = dict[str, dict[str, torch.Tensor]]
"""Weights by name, by part."""


def convert_published(
    source: Path,
    folder: Path,
    tokenizer: Path | None = None,
    sizes: Mapping[str, Mapping[str, Any]] = PUBLISHED,
) -> None:
    """Write a published checkpoint as a folder of safetensors; its pickles are read as data alone.

    Parameters
    ----------
    source : Path
        A folder with `main_config.json`, `pytorch_model_main.bin` and `pytorch_model_vae.bin`, or its
        `pytorch_model_main.bin`. `vae_config.json`, where it is there, says the scale of the latents;
        `pytorch_model_stft.bin`, where it is there, has to hold `sound.tango_mel`'s filters.
    folder : Path
        Where the parts' folders go.
    tokenizer : Path, optional
        A folder with the text encoder's `tokenizer.json`; by default `tokenizer/` in the source, or what the hub's
        cache holds of the text encoder that the source names.
    sizes : mapping
        Configs of the four parts.

    Raises
    ------
    BlendbenchError
        If a file is missing, damaged, needs code to be read, or holds another model.
    """
    base = source if source.is_dir() else source.parent
    text_encoder = _text_encoder(base / "main_config.json")
    words = _tokenizer_files(base, tokenizer, text_encoder)
    if (base / STFT).exists():
        _check_filters(base / STFT)
    scaled = dict(sizes) | {"vae": dict(sizes["vae"]) | _scaling(base / "vae_config.json")}
    for file, parts_of in ((base / VAE, _sound_parts), (base / MAIN, _main_parts)):
        parts = parts_of(file, scaled)
        digest = file_hash(file)
        for name, state in parts.items():
            _write_part(file, digest, folder / name, scaled[name], state)
    make_folder(folder / "tokenizer")
    for word in words:
        shutil.copyfile(word, folder / "tokenizer" / word.name)
    write_index(folder)


def _text_encoder(file: Path) -> str:
    """The text encoder's name in the published settings; raises BlendbenchError where they are another model's."""
    if not file.is_file():
        raise BlendbenchError(f"{printable(file)}: is missing; {_REMEDY}")
    config = read_json(file)
    name, scheduler = str(config.get("text_encoder_name")), str(config.get("scheduler_name"))
    if scheduler.rsplit("/", 1)[-1] != "stable-diffusion-2-1":
        raise BlendbenchError(f"{printable(file)}: scheduler_name is {scheduler}, no Stable Diffusion 2.1; {_REMEDY}")
    if "t5" not in name:
        raise BlendbenchError(f"{printable(file)}: text_encoder_name is {name}, which is no T5; {_REMEDY}")
    if config.get("unet_model_name"):
        raise BlendbenchError(f"{printable(file)}: unet_model_name is set, so it has a U-Net for images; {_REMEDY}")
    return name


def _tokenizer_files(base: Path, given: Path | None, text_encoder: str) -> list[Path]:
    place = given or base / "tokenizer"
    if given is None and not place.is_dir():
        with suppress(ValueError):  # the name may be a path of whoever trained it
            kept = try_to_load_from_cache(text_encoder, TOKENIZER[0])
            place = Path(kept).parent if isinstance(kept, str) else place
    if not (place / TOKENIZER[0]).is_file():
        raise BlendbenchError(
            f"{printable(place)}: has no {TOKENIZER[0]}; put the tokenizer's files of {text_encoder} there"
        )
    files = [place / name for name in TOKENIZER if (place / name).is_file()]
    for file in files:
        stand_ins.refuse(file)
    return files


def _check_filters(file: Path) -> None:
    held, own = tensors_of(file).get("mel_basis"), tango_mel.filters().T
    if held is None or held.shape != own.shape or not torch.allclose(held.float(), own, atol=1e-5):
        raise BlendbenchError(f"{printable(file)}: mel_basis is not that of TANGO's front end; {_REMEDY}")


def _scaling(file: Path) -> dict[str, float]:
    if not file.is_file():
        return {}
    scale = read_json(file).get("scale_factor")
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise BlendbenchError(f"{printable(file)}: scale_factor is {scale!r}, no positive number; {_REMEDY}")
    return {"scaling_factor": float(scale)}


def _main_parts(file: Path, _: Mapping[str, Mapping[str, Any]]) -> _Parts:
    parts = _split(file, ("unet", "text_encoder"))
    text = parts["text_encoder"]
    # T5's one table of tokens is saved under two names.
    table = text.pop(TIED, None)
    if table is not None:
        text.setdefault("shared.weight", table)
    return parts


def _sound_parts(file: Path, sizes: Mapping[str, Mapping[str, Any]]) -> _Parts:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    parts = _split(file, ("vocoder",), rest="vae")
    try:
        vae = convert_ldm_vae_checkpoint(parts["vae"], sizes["vae"])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        reason = one_line(str(error))[:80]
        raise BlendbenchError(f"{printable(file)}: holds no autoencoder ({reason}); {_REMEDY}") from error
    if len(vae) < len(parts["vae"]):  # what diffusers does not know it passes over
        more = len(parts["vae"]) - len(vae)
        raise BlendbenchError(f"{printable(file)}: holds {more} weights that no such autoencoder has; {_REMEDY}")
    return {"vae": vae, "vocoder": vocoder_state(parts["vocoder"], int(sizes["vocoder"]["model_in_dim"]))}


def _split(file: Path, prefixes: Sequence[str], rest: str | None = None) -> _Parts:
    """A file's tensors by the first word of their names; others are the part `rest`, or refused."""
    if not file.is_file():
        raise BlendbenchError(f"{printable(file)}: is missing; {_REMEDY}")
    parts: _Parts = {name: {} for name in (*prefixes, *([rest] if rest else []))}
    for name, value in tensors_of(file).items():
        first, _, own = name.partition(".")
        if first in prefixes:
            parts[first][own] = value
        elif rest is not None:
            parts[rest][name] = value
        else:
            raise BlendbenchError(f"{printable(file)}: holds {name}, which TANGO has not; {_REMEDY}")
    return parts


def vocoder_state(state: Mapping[str, torch.Tensor], mels: int) -> dict[str, torch.Tensor]:
    """HiFi-GAN's weights by the names of transformers, weight normalisation, where there is any, taken into them.

    Parameters
    ----------
    state : mapping
        Tensors by the published names.
    mels : int
        Bands of a spectrogram.
    """
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        own = f"upsampler.{name.removeprefix('ups.')}" if name.startswith("ups.") else name
        if own.endswith(".weight_g") and f"{name[:-1]}v" in state:
            # w = g v / |v|, a norm for each first index (Salimans and Kingma, 2016).
            direction = state[f"{name[:-1]}v"]
            norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
            found[own.removesuffix("_g")] = value * direction / norm
        elif not (own.endswith(".weight_v") and f"{name[:-1]}g" in state):
            found[own] = value
    # transformers' can centre and scale what goes in; the published one does not.
    return {"mean": torch.zeros(mels), "scale": torch.ones(mels)} | found


def _write_part(
    source: Path, digest: str, folder: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """Write a part's config and weights, once they are held against a network built without memory."""
    name = folder.name
    with torch.device("meta"):
        module = build(name, config)
    wanted = {one: value.shape for one, value in module.state_dict().items() if one != TIED}
    if problems := unlike(wanted, state):
        raise BlendbenchError(f"{printable(source)}: holds no {name} of this size ({problems}); {_REMEDY}")
    make_folder(folder)
    save_made_of({one: value.contiguous() for one, value in state.items()}, folder / WEIGHTS[name], source.name, digest)
    if hasattr(module, "save_config"):  # diffusers'
        module.save_config(folder)
    else:
        module.config.save_pretrained(folder)
