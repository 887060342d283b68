"""The models that blendbench knows: where each comes from, whether it is here and whole, and how it gets here.

There are three kinds: folders that travel with the package ("builtin"), snapshots in the Hugging Face hub's cache
("hub"), and single files in torch hub's folder, where the tools that read them look ("file"). Nothing but `fetch` asks
the network. It honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and TORCH_HOME; BLENDBENCH_MIRROR is a base URL to take
plain files from instead. Sizes are in MB of 10^6 bytes.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from blendbench import stand_ins, telling
from blendbench.checks import Check
from blendbench.downloads import addresses, download, offline_variable, size_of
from blendbench.errors import BlendbenchError, one_line
from blendbench.resources import package_folder
from blendbench.store.signature import file_hash


@dataclass(frozen=True)
class Model:
    """A model by name.

    Parameters
    ----------
    name : str
        What `blendbench models` calls it.
    kind : str
        "builtin", "hub" or "file".
    source : str
        Folder in the package's assets, hub id, or URL.
    revision : str or None
        Of a hub model: a commit hash, or "main" where no commit is pinned.
    files : tuple of str
        What has to be there: patterns of paths in the folder, its marker first and its weights last; or the one file.
    folder : str
        Of a plain file: its folder below torch hub's, "" or "checkpoints".
    megabytes : float or None
        Exact size of the plain file or of the hub model's weights; None where it is not known beforehand.
    sha256 : str or None
        Of the plain file or of the hub model's weights file, in hex; None where it is not known beforehand.
    licence : str
        Of the weights.
    used_by : str
        The config value that asks for it.
    """

    name: str
    kind: Literal["builtin", "hub", "file"]
    source: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    folder: str = ""
    megabytes: float | None = None
    sha256: str | None = None
    licence: str = ""
    used_by: str = ""

    @property
    def origin(self) -> str:
        """Where it is from, in words; says so where no commit is pinned."""
        if self.kind == "builtin":
            return "built in"
        if self.kind == "file":
            return self.source
        return f"{self.source}@{self.revision}" + ("" if _COMMIT.fullmatch(self.revision or "") else " (not pinned)")

    @property
    def fetching(self) -> str:
        """What to type to get it."""
        return "install blendbench again" if self.kind == "builtin" else f"type `blendbench models fetch {self.name}`"


_COMMIT = re.compile("[0-9a-f]{40}")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")
"""torch hub's convention: a file's name holds the first eight digits of its SHA-256."""
_SMALL = ("*.json", "*.txt", "*.model")
"""Configs and tokenizers, fetched with every hub model."""
_STABLE_DIFFUSION = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/*",
    "scheduler/scheduler_config.json",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
)
_MUSICGEN = ("config.json", "preprocessor_config.json", "tokenizer*", "model*.safetensors")
_CLAP = ("config.json", "preprocessor_config.json", "tokenizer*", "model.safetensors")
_ENCODEC = ("config.json", "preprocessor_config.json", "model.safetensors")
_NON_COMMERCIAL = "CC-BY-NC 4.0 (non-commercial use only)"
_ZENODO = "https://zenodo.org/record/3987831/files/"
_VGGISH = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
_PASST = "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/"
_VGGISH_LICENCE = "Apache-2.0 (of the port; its page says nothing of the weights)"
_KNOWN = (
    Model("pocket", "builtin", "pocket", files=_STABLE_DIFFUSION, licence="MIT", used_by="generator=pocket"),
    Model(
        "tagger",
        "builtin",
        "tagger",
        files=("config.json", "model.safetensors"),
        licence="MIT",
        used_by="evaluator=pocket",
    ),
    Model(
        "musicgen",
        "builtin",
        "musicgen",
        files=("config.json", "model*.safetensors"),
        licence="MIT",
        used_by="method=musicgen_melody generator=pocket",
    ),
    Model(
        "riffusion",
        "hub",
        "riffusion/riffusion-model-v1",
        revision="main",
        files=_STABLE_DIFFUSION,
        licence="creativeml-openrail-m",
        used_by="generator=riffusion",
    ),
    Model(
        "musicgen_melody",
        "hub",
        "facebook/musicgen-melody",
        revision="68d653a95788ec0d2b0abccab22c0b3a200c2d90",
        files=_MUSICGEN,
        licence=_NON_COMMERCIAL,
        used_by="method=musicgen_melody generator=riffusion",
    ),
    Model(
        "musicgen_melody_large",
        "hub",
        "facebook/musicgen-melody-large",
        revision="6fdf8d3d815995108c9bdb5183414ff464b171ac",
        files=_MUSICGEN,
        licence=_NON_COMMERCIAL,
        used_by="generator.musicgen.checkpoint=facebook/musicgen-melody-large",
    ),
    Model(
        "clap",
        "hub",
        "laion/clap-htsat-unfused",
        # The branch main has .bin weights only; this is the commit that adds the safetensors of the hub's converter.
        revision="79b58ed25fc00386262a2bea4b19fd21dc4310a0",
        files=_CLAP,
        megabytes=614.431440,
        licence="Apache-2.0",
        used_by="evaluator=clap",
    ),
    Model(
        "clap_general",
        "hub",
        "laion/larger_clap_general",
        revision="16c8cc3159a3c8a31e8ff5ef1f66b0d9ab3667db",
        files=_CLAP,
        licence="Apache-2.0",
        used_by="evaluator=clap evaluator.fad.model=clap_general",
    ),
    Model(
        "encodec_24khz",
        "hub",
        "facebook/encodec_24khz",
        revision="c1dbe2ae3f1de713481a3b3e7c47f357092ee040",
        files=_ENCODEC,
        licence="not stated on its page",
        used_by="evaluator=encodec",
    ),
    Model(
        "encodec_48khz",
        "hub",
        "facebook/encodec_48khz",
        revision="c3def8e7185ac8c8efdce6eb8c4a651e487a503e",
        files=_ENCODEC,
        megabytes=76.291152,
        sha256="47a15ffbaf7bb76176d0833e10590de0a8988a7848748608cefc36a1c88adfdc",
        licence="MIT",
        used_by="evaluator=encodec evaluator.fad.sample_rate=48000",
    ),
    Model(
        "vggish",
        "file",
        _VGGISH + "vggish-10086976.pth",
        files=("vggish-10086976.pth",),
        folder="checkpoints",
        sha256="10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        licence=_VGGISH_LICENCE,
        used_by="evaluator=vggish, evaluator=passt",
    ),
    Model(
        "vggish_pca",
        "file",
        _VGGISH + "vggish_pca_params-970ea276.pth",
        files=("vggish_pca_params-970ea276.pth",),
        folder="checkpoints",
        licence=_VGGISH_LICENCE,
        used_by="evaluator=vggish evaluator.fad.pca=true",
    ),
    Model(
        "pann_32k",
        "file",
        _ZENODO + "Cnn14_mAP%3D0.431.pth",
        files=("Cnn14_mAP%3D0.431.pth",),
        megabytes=327.428481,
        sha256="0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
        licence="CC-BY 4.0",
        used_by="evaluator=pann, evaluator=vggish, evaluator=clap, evaluator=encodec",
    ),
    Model(
        "pann_16k",
        "file",
        _ZENODO + "Cnn14_16k_mAP%3D0.438.pth",
        files=("Cnn14_16k_mAP%3D0.438.pth",),
        megabytes=358.668570,
        sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        licence="CC-BY 4.0",
        used_by="evaluator=pann evaluator.kl.sample_rate=16000",
    ),
    Model(
        "pann_8k",
        "file",
        _ZENODO + "Cnn14_8k_mAP%3D0.416.pth",
        files=("Cnn14_8k_mAP%3D0.416.pth",),
        licence="CC-BY 4.0",
        used_by="evaluator=pann evaluator.kl.sample_rate=8000",
    ),
    Model(
        "passt",
        "file",
        _PASST + "passt-s-f128-p16-s10-ap.476-swa.pt",
        files=("passt-s-f128-p16-s10-ap.476-swa.pt",),
        folder="checkpoints",
        megabytes=344.665734,
        sha256="302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
        licence="Apache-2.0",
        used_by="evaluator=passt",
    ),
    Model(
        "htdemucs",
        "file",
        "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/955717e8-8726e21a.th",
        files=("955717e8-8726e21a.th",),
        folder="checkpoints",
        megabytes=84.141911,
        sha256="8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4",
        licence="for scientific purposes only, says its author (github.com/facebookresearch/demucs/issues/327)",
        used_by="arms.musicgen_melody.separate=htdemucs",
    ),
)
MODELS: dict[str, Model] = {
    model.name: model
    for model in _KNOWN
    # A release may come without a MusicGen of its own.
    if model.name != "musicgen" or (package_folder("blendbench.assets") / model.source).is_dir()
}
"""Every model by name."""


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a hub id, owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def pinned(hub_id: str) -> str | None:
    """The revision that a hub model is known by here; None where there is none, or the id is another's."""
    found = [model.revision for model in _KNOWN if model.kind == "hub" and model.source == hub_id]
    return found[0] if found and found[0] != "main" else None


def find(name: str) -> Path:
    """The local file, or the folder of a built-in or hub model; never asks the network.

    Raises
    ------
    BlendbenchError
        If the name is unknown or something is missing, with what to type.
    """
    model = _known(name)
    place = _place(model)
    if place is None:
        raise BlendbenchError(f"{name} ({model.origin}): not here; {model.fetching}")
    if missing := [pattern for pattern in _patterns(model) if not _matching(place, pattern)]:
        raise BlendbenchError(f"{name}: {place} has no {missing[0]}; {model.fetching}")
    return place


def checks(names: Sequence[str] = (), verify: bool = False) -> Iterator[Check]:
    """A line for each model: whether it is here and whole, where from, size, hash, licence and use.

    Parameters
    ----------
    names : sequence of str
        Which; all if empty. Those named are needed, as built-in ones always are.
    verify : bool
        Read everything and compare hashes, which takes seconds a gigabyte; without it sizes and headers are looked at.

    Raises
    ------
    BlendbenchError
        If a name is unknown.
    """
    for name in names or MODELS:
        model = _known(name)
        needed = bool(names) or model.kind == "builtin"
        place = _place(model)
        if place is None:
            facts = ["not here", model.origin, _size(model.megabytes), _hash(model, None, verify=False)]
            sound = False
        elif faults := list(_faults(model, place, verify)):
            facts = [f"broken ({_told(place, faults)})", f"{place}", model.origin]
            sound = False
        else:
            here = [] if model.kind == "builtin" else [f"{place}"]
            facts = [*here, model.origin, _size(size_of(place) / 1e6), _hash(model, place, verify)]
            sound = True
        found = ", ".join(fact for fact in (*facts, model.licence, model.used_by) if fact)
        yield Check(f"model {name}", sound, found, model.fetching, needed)


def fetch(name: str) -> Path:
    """Download a model that is not here or broken, check it, and print what was done.

    Returns
    -------
    Path
        As `find`.

    Raises
    ------
    BlendbenchError
        If the name is unknown, downloads are switched off, or the download fails or is not what it should be.
    """
    model = _known(name)
    place = _place(model)
    faults = [] if place is None else list(_faults(model, place, verify=True))
    if place is not None and not faults:
        print(f"{name}: already here, {place}")
        return place
    if model.kind == "builtin":
        raise BlendbenchError(f"{name}: built in, but not whole; {model.fetching}")
    if variable := offline_variable():
        raise BlendbenchError(
            f"{name}: nothing is downloaded while {variable} is set; `unset {variable}` and type it again"
        )
    address = addresses(model.source, model.files[0])[0] if model.kind == "file" else model.origin
    print(f"{name}: licence {model.licence}, from {address}, {_size(model.megabytes)}", flush=True)
    if place is not None:
        print(f"{name}: what is here is broken ({_told(place, faults)}) and is replaced", flush=True)
    broken = [file.relative_to(place).as_posix() for file, _ in faults] if place is not None else []
    place = _fetch_file(model) if model.kind == "file" else _fetch_snapshot(model, broken)
    print(f"{name}: {place}, {_size(size_of(place) / 1e6)}, {_hash(model, place, verify=True)}")
    return place


def _known(name: str) -> Model:
    if name not in MODELS:
        raise BlendbenchError(f"no model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]


def _place(model: Model) -> Path | None:
    """Where the model lies, or None if it does not."""
    if model.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        marker = try_to_load_from_cache(model.source, model.files[0], revision=model.revision)
        return Path(marker).parent if isinstance(marker, str) else None
    place = package_folder("blendbench.assets") / model.source if model.kind == "builtin" else _target(model)
    return place if place.exists() else None


def _target(model: Model) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / model.folder / model.files[0]


def _patterns(model: Model) -> tuple[str, ...]:
    return () if model.kind == "file" else model.files


def _matches(name: str, pattern: str) -> bool:
    """Whether a path fits a pattern whose `*` stays within a folder."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(folder.glob(pattern)) if file.is_file()]


def _size(megabytes: float | None) -> str:
    return "size not known" if megabytes is None else f"{megabytes:.1f} MB"


def _hash(model: Model, place: Path | None, verify: bool) -> str:
    """A file's SHA-256 or a folder's checkpoint hash, in words; without `verify` what can be told at once."""
    if place is not None and place.is_dir() and (verify or model.kind == "builtin"):
        from blendbench.models.weights import checkpoint_hash  # slow to import

        return f"checkpoint {checkpoint_hash(place)}"
    if model.kind == "file" and place is not None and verify:
        return f"sha256 {file_hash(place)}"
    if known := [digest for _, digest in _expected(model, place)]:
        longest = max(known, key=len)
        return f"sha256 {longest}" + ("..." if len(longest) < 64 else "")
    weights = [] if place is None or model.kind == "file" else _matching(place, model.files[-1])
    named = _named_digest(weights[0]) if len(weights) == 1 else None
    return f"sha256 {named}" if named is not None and len(named) == 64 else ""


def _expected(model: Model, place: Path | None) -> Iterator[tuple[str, str]]:
    """What is known of the weights' SHA-256, in words and as its (first) digits."""
    if model.sha256 is not None:
        yield "the known", model.sha256
    if model.kind != "file":
        return
    if found := _HASH_IN_NAME.search(model.files[0]):
        yield "that in its name", found.group(1)
    if place is not None:
        with suppress(OSError, UnicodeDecodeError, IndexError):
            yield "that of its fetch", _note(place).read_text(encoding="utf-8").split()[0]


def _note(place: Path) -> Path:
    """The file beside a plain file that holds its SHA-256 as `sha256sum -c` reads it."""
    return place.with_name(place.name + ".sha256")


def _told(place: Path, faults: Sequence[tuple[Path, str]]) -> str:
    """The first few faults in words."""
    told = [f"{file.relative_to(place) if file != place else file.name} {reason}" for file, reason in faults[:3]]
    return "; ".join(told) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def _faults(model: Model, place: Path, verify: bool) -> Iterator[tuple[Path, str]]:
    """What is wrong with what is here, file by file; contents are hashed only with `verify`."""
    if model.kind == "file":
        yield from _file_faults(model, place, verify)
        return
    for pattern in model.files:
        if not _matching(place, pattern):
            yield place / pattern, "is missing"
    for file in sorted(place.rglob("*")):
        name = file.relative_to(place).as_posix()
        needed = any(_matches(name, pattern) for pattern in model.files)
        if not (needed or any(fnmatchcase(name, pattern) for pattern in _SMALL)) or file.is_dir():
            continue
        if told := stand_ins.stand_in(file):
            yield file, told
            continue
        try:
            if needed and not file.stat().st_size:
                yield file, "is empty"
                continue
            if needed and file.suffix == ".safetensors":
                with safe_open(file, "numpy"):
                    pass
            if name.endswith(".safetensors.index.json"):
                for shard in sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())):
                    if not (file.parent / shard).is_file():
                        yield file.parent / shard, "is missing"
            if verify and (wrong := _wrong_digest(model, file, name)):
                yield file, wrong
        except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield file, f"cannot be read ({one_line(reason)})"


def _file_faults(model: Model, place: Path, verify: bool) -> Iterator[tuple[Path, str]]:
    if told := stand_ins.stand_in(place):
        yield place, told
        return
    try:
        size = place.stat().st_size
        known = None if model.megabytes is None else round(model.megabytes * 1e6)
        if not size:
            yield place, "is empty"
        elif known is not None and size != known:
            yield place, f"has {size} bytes, not {known}"
        elif verify:
            digest = file_hash(place)
            for what, expected in _expected(model, place):
                if not digest.startswith(expected):
                    yield place, f"has sha256 {digest}, not {what} {expected}"
    except OSError as error:
        yield place, f"cannot be read ({error.strerror})"


def _named_digest(file: Path) -> str | None:
    """The hash that names a hub file's blob, or None where the cache holds plain copies."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _wrong_digest(model: Model, file: Path, name: str) -> str | None:
    """What is wrong with a hub file's content by its blob's name and by the known hash, or None."""
    named = _named_digest(file)
    if named is not None and len(named) == 40:
        content = file.read_bytes()
        # git names a blob by header and content; some mirrors leave the header out.
        digests = [hashlib.sha1(head + content).hexdigest() for head in (b"blob %d\0" % len(content), b"")]
        return None if named in digests else f"has sha1 {digests[0]}, not that in its blob's name, {named}"
    known = model.sha256 if _matches(name, model.files[-1]) else None
    if named is None and known is None:
        return None
    digest = file_hash(file)
    for what, expected in (("that in its blob's name,", named), ("the known", known)):
        if expected is not None and digest != expected:
            return f"has sha256 {digest}, not {what} {expected}"
    return None


def _fetch_snapshot(model: Model, broken: Sequence[str]) -> Path:
    """Bring a hub model's files to the hub's cache; those `broken` are taken again."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()  # its accounts of every retry
    if not telling.bars():
        disable_progress_bars()
    address = f"{constants.ENDPOINT}/{model.source} (revision {model.revision})"
    try:
        names = HfApi().list_repo_files(model.source, revision=model.revision)
        _refuse_incomplete(model, names)
        for name in sorted(set(names).intersection(broken)):
            # The library takes what is here for good, whatever it holds.
            hf_hub_download(model.source, name, revision=model.revision, force_download=True)
        folder = snapshot_download(model.source, revision=model.revision, allow_patterns=[*model.files, *_SMALL])
    except BlendbenchError:
        raise
    except Exception as error:
        # Which classes these are depends on the library's version.
        reason = one_line(next(iter(str(error).strip().splitlines()), ""))
        raise BlendbenchError(
            f"{model.name}: {address}: {type(error).__name__}: {reason}; look at the connection and at HF_ENDPOINT, "
            "and type it again: it goes on where it was"
        ) from error
    place = Path(folder)
    if faults := list(_faults(model, place, verify=True)):
        raise BlendbenchError(
            f"{model.name}: {address}: {_told(place, faults)}; type it again, or set another HF_ENDPOINT"
        )
    return place


def _refuse_incomplete(model: Model, names: Sequence[str]) -> None:
    """Raise BlendbenchError if the hub's folder lacks something, before gigabytes come for nothing."""
    for pattern in model.files:
        if any(_matches(name, pattern) for name in names):
            continue
        unsafe = [
            name
            for name in names
            if Path(name).parent == Path(pattern).parent and Path(name).suffix in {".bin", ".ckpt", ".pt", ".pth"}
        ]
        text = f"{model.name}: {model.source} (revision {model.revision}) has no {pattern}"
        if pattern.endswith(".safetensors") and unsafe:
            raise BlendbenchError(
                f"{text}, only {unsafe[0]}, and blendbench loads safetensors only; nothing was downloaded: "
                f"`hf download {model.source}`, convert it as docs/models.md says, and give the folder as checkpoint"
            )
        raise BlendbenchError(f"{text}; nothing was downloaded: give a copy of your own as checkpoint")


def _fetch_file(model: Model) -> Path:
    target = _target(model)
    size = None if model.megabytes is None else round(model.megabytes * 1e6)
    download(model.name, model.source, target, size=size, expected=_expected(model, None), note=_note(target))
    return target
