"""Manifests: which clips of a data set take part, by what rule, and what their content is.

A manifest is a JSON file: the rule in words and as settings, its seed, the counts to expect, and for a set that can be
enumerated the chosen clips, each with its class and, where it is known, the digest of its content. Those that
belong to the experiments lie in `data_manifests/`; `blendbench data manifest NAME` writes one from data at hand.

`manifest` is a key of every data set in the configuration: the name of one of ours, the path of one of yours, or null.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blendbench import config, stand_ins
from blendbench.datasets import MusicClip, NoiseClip, PictureClip, StemClip
from blendbench.datasets.reading import content_of, content_of_files
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, one_line, printable
from blendbench.resources import package_folder
from blendbench.store.signature import file_hash
from blendbench.store.write import write_text

Clip = NoiseClip | MusicClip | StemClip | PictureClip
_APART = {"_target_", "prompts_per_clip", "manifest", "root", "path", "audio", "follow_links"}
"""Entries of a data set that are no part of the rule: where it lies, and what is done with it."""
_NAMED = 5
"""How many clips a message names."""


@dataclass(frozen=True)
class Manifest:
    """What a data set should be.

    Attributes
    ----------
    name : str
    rule : dict
        The settings that choose, among them the seed.
    text : str
        The rule in words.
    expected : dict of str to int
        Counts: clips, classes, sources; pairs for noise.
    clips : list of dict
        `id`, `class` and, where known, `digest` ("sha256:..." or "md5:..."); empty for a set that could not be
        enumerated.
    """

    name: str
    rule: dict[str, Any]
    text: str
    expected: dict[str, int]
    clips: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    """A data set of the configuration, read: its clips, and what is to be said about its manifest."""

    name: str
    clips: list[Any]
    prompts_per_clip: int = 0
    note: str = ""


def data_set(entry: Any, key: str, allowed: list[str]) -> DataSet:
    """The clips of an entry of `dataset`, or of `music`, held against their manifest.

    Raises
    ------
    BlendbenchError
        If the data set cannot be read, or differs from its manifest.
    """
    if not isinstance(entry, dict):
        raise BlendbenchError(f"{key}: needs _target_; see docs/extending.md")
    own = {name: value for name, value in entry.items() if name not in ("prompts_per_clip", "manifest")}
    clips = config.build(own, key, allowed)
    return DataSet(key, clips, entry.get("prompts_per_clip", 0), _verify(entry, key, clips))


def _verify(entry: dict[str, Any], key: str, clips: Sequence[Clip]) -> str:
    """Refuse clips that differ from the entry's manifest; returns a note where it cannot be held against them."""
    chosen = entry.get("manifest")
    if not chosen:
        return ""
    own = "/" in str(chosen) or str(chosen).endswith(".json")
    manifest = read(Path(chosen) if own else package_folder("blendbench.data_manifests") / f"{chosen}.json")
    if not own and manifest.rule != rule_of(entry):
        return ""  # another choice was asked for
    expected = manifest.expected.get("clips", len(manifest.clips))
    if not own and len(clips) < expected:
        return (
            f"{key}: {len(clips)} of the {expected} clips of manifest {chosen} are in the table at hand, "
            "so it is not held against them"
        )
    if own and not manifest.clips and len(clips) != expected:
        raise BlendbenchError(
            f"{key}: {len(clips)} clips, not the {expected} of manifest {chosen}; mend the data, or set "
            f"{key}.manifest=null"
        )
    if manifest.clips and (found := list(differences(manifest, clips))):
        named = "; ".join(f"{name} {what}" for name, what in found[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise BlendbenchError(
            f"{key}: {len(found)} clips differ from manifest {chosen}: {named}{more}; get those files again, or set "
            f"{key}.manifest=null to run with what is there"
        )
    return ""


def rule_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The settings of a data set that choose its clips."""
    return {name: value for name, value in sorted(entry.items()) if name not in _APART}


def differences(manifest: Manifest, clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """Clips that are other than a manifest says, with what differs; a file that is not there is a failed row later.

    A clip's class (genre) counts as well as its content.
    """
    wanted = {row["id"]: row for row in manifest.clips}
    here = {clip.id: clip for clip in clips}
    found = [(name, "is not in the manifest") for name in here if name not in wanted]
    found += [(name, "is missing from the table") for name in wanted if name not in here]
    for name, clip in here.items():
        row = wanted.get(name)
        if row is None:
            continue
        if row.get("class", class_of(clip)) != class_of(clip):
            found.append((name, f"is {class_of(clip)!r}, not {row['class']!r}"))
        elif row.get("digest"):
            algorithm, _, digest = row["digest"].partition(":")
            actual = digest_of(clip, algorithm)
            if actual and actual != digest.lower():
                found.append((name, f"({printable(clip.path)}) has other content"))
    return found


def class_of(clip: Clip) -> str:
    """A noise's label or a music clip's genre."""
    return clip.label if isinstance(clip, NoiseClip) else clip.genre


def digest_of(clip: Clip, algorithm: str = "sha256") -> str:
    """Digest of a clip's file, or of a segment's samples; "" where they cannot be read."""
    if isinstance(clip, NoiseClip) and clip.span is not None:
        return content_of(clip, math.inf)
    if isinstance(clip, StemClip | PictureClip):
        return content_of_files(clip)
    try:
        check_links(clip.path, clip.root)
        return file_hash(clip.path, algorithm)
    except (OSError, ValueError, BlendbenchError):
        return ""


def read(file: Path) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    BlendbenchError
        If it is missing or malformed, naming what is wrong.
    """
    name = printable(file)
    stand_ins.refuse_as_text(file)
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is no text
        manifest = Manifest(**{key: data[key] for key in Manifest.__dataclass_fields__ if key in data})
    except FileNotFoundError:
        raise BlendbenchError(
            f"{name}: no such manifest; write one by `blendbench data manifest NAME --out FILE`"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = one_line(str(error))[:120]
        raise BlendbenchError(
            f"{name}: not a manifest ({reason}); write it again by `blendbench data manifest`"
        ) from None
    sound = (
        isinstance(manifest.rule, dict)
        and isinstance(manifest.expected, dict)
        and all(type(count) is int for count in manifest.expected.values())
        and isinstance(manifest.clips, list)
    )
    if not sound:
        raise BlendbenchError(f"{name}: rule and expected must be objects, clips a list; write it again")
    for place, row in enumerate(manifest.clips, start=1):
        problem = ""
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()) or not row.get("id"):
            problem = "is no clip with an id"
        elif ".." in row["id"].split("/") or row["id"].startswith("/"):
            problem = f"has id {row['id']!r}, which leaves the data set's folder"
        elif "digest" in row and row["digest"].partition(":")[0] not in ("sha256", "md5"):
            problem = f"has digest {row['digest'][:40]!r}; it must begin with sha256: or md5:"
        if problem:
            raise BlendbenchError(f"{name}: entry {place} of clips {problem}; mend or write it again")
    twice = next((one for one, times in Counter(row["id"] for row in manifest.clips).items() if times > 1), None)
    if twice is not None:
        raise BlendbenchError(f"{name}: id {twice!r} stands twice; take one entry out")
    return manifest


def of(
    name: str,
    entry: dict[str, Any],
    clips: Sequence[Clip],
    text: str = "",
    digest: Callable[[Clip], str] | None = None,
) -> Manifest:
    """The manifest of clips at hand.

    Parameters
    ----------
    name : str
    entry : dict
        The data set's settings.
    clips : sequence of clips
    text : str
        The rule in words.
    digest : callable, optional
        From a clip to "ALGORITHM:HEX" or ""; the SHA-256 of what is there when absent.
    """
    rows = []
    for clip in clips:
        row = {"id": clip.id, "class": class_of(clip)}
        known = digest(clip) if digest else (f"sha256:{found}" if (found := digest_of(clip)) else "")
        rows.append(row | ({"digest": known} if known else {}))
    expected = {
        "clips": len(clips),
        "classes": len({class_of(clip) for clip in clips}),
        "sources": len({clip.source for clip in clips}),
    }
    if "prompts_per_clip" in entry:
        expected["pairs"] = len(clips) * entry["prompts_per_clip"]
    return Manifest(name, rule_of(entry), text, expected, rows)


def write(manifest: Manifest, file: Path) -> None:
    """Write a manifest, a clip a line; raises BlendbenchError if that fails."""
    head = {key: getattr(manifest, key) for key in ("name", "text", "rule", "expected")}
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "clips": ['
    lines = [json.dumps(row, ensure_ascii=False) for row in manifest.clips]
    text += ("\n  " + ",\n  ".join(lines) + "\n ]" if lines else "]") + "\n}\n"
    write_text(file, text)
