"""What of the data sets is there, and what is missing, class by class: the lines of `blendbench data check`."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blendbench import config, stand_ins
from blendbench.checks import Check
from blendbench.datasets import NoiseClip, Nothing, hdf5, manifests
from blendbench.datasets.reading import END_TOLERANCE
from blendbench.datasets.sources import Sources
from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.resources import package_folder

_OWN = ("folder", "own_stems", "own_pictures")
"""Options that read `data.path`."""
_NAMED = 3
"""How many files a line names."""
_Lengths = dict[tuple[Path, int], dict[str, float] | str]
"""By HDF5 file and sample rate: seconds of its recordings, or why it cannot be read."""


def known() -> dict[str, tuple[str, str]]:
    """Every data set: from its name on the command line to its group ("dataset" or "music") and option.

    A name that both groups have stands for the noise; the music is then called `music/NAME`.
    """
    found: dict[str, tuple[str, str]] = {}
    for group in ("dataset", "music"):
        for file in sorted((package_folder("blendbench.conf") / group).glob("*.yaml")):
            name = file.stem if file.stem not in found else f"{group}/{file.stem}"
            found[name] = (group, file.stem)
    return found


def checks(compose: Callable[[list[str]], dict[str, Any]], names: Sequence[str] = ()) -> Iterator[Check]:
    """A line for each data set, and one for each class that lacks something.

    Parameters
    ----------
    compose : callable
        From overrides to the checked configuration.
    names : sequence of str
        Which; all if empty (a folder of your own only if `data.path` or `data.music_path` names it). Those named are
        needed, as the built-in ones always are.

    Raises
    ------
    BlendbenchError
        If a name is unknown.
    """
    sets = known()
    for name in names or sets:
        group, option = _lookup(name)
        settings = compose([f"{group}={option}"])
        sources = Sources.of(settings)
        given = config.typed(settings)
        where = given.data.path if group == "dataset" else given.data.music_path
        if not names and (option == "bnmusic" or (option in _OWN and not where)):
            continue
        needed = bool(names) or option == "builtin"
        for key in given.dataset if group == "dataset" else [""]:
            label = f"{_kind(given.dataset[key]) if key else 'music'} {key or option}"
            try:
                found = sources.dataset(key) if key else sources.music
            except BlendbenchError as error:
                yield Check(f"data {label}", False, str(error), needed=needed)
                continue
            if not any(isinstance(clip, Nothing) for clip in found.clips):
                yield from _lines(label, found, needed)
    if not names:
        yield from _prompts(compose([]))


def manifest(compose: Callable[[list[str]], dict[str, Any]], name: str, title: str = "") -> manifests.Manifest:
    """The manifest, called `title`, of the data set of a name, from the data at hand.

    Raises
    ------
    BlendbenchError
        If the name is unknown or the data set cannot be read.
    """
    group, option = _lookup(name)
    settings = compose([f"{group}={option}"])
    given = config.typed(settings)
    entries = given.dataset if group == "dataset" else {option: given.music}
    if len(entries) != 1:
        raise BlendbenchError(f"{name}: is several data sets, {', '.join(entries)}; write a manifest of each")
    ((key, entry),) = entries.items()
    if group == "dataset":
        clips = Sources.of({**settings, "dataset": {key: {**entry, "manifest": None}}}).dataset(key).clips
    else:
        clips = Sources.of({**settings, "music": {**entry, "manifest": None}}).music.clips
    return manifests.of(title or name.replace("/", "_"), entry, clips, config.rule_text(entry))


def _lookup(name: str) -> tuple[str, str]:
    sets = known()
    if name not in sets:
        raise BlendbenchError(f"no data set {name!r}; there are {', '.join(sets)}")
    return sets[name]


def _lines(label: str, found: manifests.DataSet, needed: bool) -> Iterator[Check]:
    by_class: dict[str, list[Any]] = defaultdict(list)
    missing: dict[str, list[tuple[str, str]]] = defaultdict(list)
    lengths: _Lengths = {}
    for clip in found.clips:
        name = manifests.class_of(clip) or "no class"
        by_class[name].append(clip)
        if lack := _lack(clip, lengths):
            missing[name].append((clip.id, lack))
    lacking = sum(map(len, missing.values()))
    facts = [f"{len(found.clips)} clips of {len(by_class)} classes"]
    if found.prompts_per_clip:
        facts[0] += f", {len(found.clips) * found.prompts_per_clip} pairs"
    if lacking:
        facts.append(f"{lacking} cannot be heard")
    facts += [found.note] if found.note else []
    yield Check(f"data {label}", not lacking, "; ".join(facts), "put the files there or take the rows out", needed)
    for name in sorted(missing):
        reasons = defaultdict(list)
        for clip_id, lack in missing[name]:
            reasons[lack].append(clip_id)
        told = "; ".join(f"{lack}: {_few(ids)}" for lack, ids in list(reasons.items())[:_NAMED])
        some = f"; and {len(reasons) - _NAMED} more reasons" if len(reasons) > _NAMED else ""
        count = len(by_class[name])
        yield Check(
            f"  {printable(name)}", False, f"{count - len(missing[name])} of {count} there; {told}{some}", needed=needed
        )


def _kind(entry: Any) -> str:
    """What a data set of the group `dataset` holds, by the module that reads it."""
    module = str(entry.get("_target_", "")).split(".")[-2:-1] if isinstance(entry, dict) else []
    return module[0] if module and module[0] in ("stems", "recordings", "pictured") else "noise"


def _few(ids: list[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(map(printable, ids[:_NAMED])) + more


def _lack(clip: manifests.Clip, lengths: _Lengths) -> str:
    """What keeps a clip from being heard, as far as it can be told without decoding; "" for nothing."""
    if not isinstance(clip, NoiseClip) or not clip.member:
        return next(filter(None, map(_lack_of_file, clip.paths)), "")
    key = (clip.path, clip.member_rate)
    if key not in lengths:
        try:
            lengths[key] = hdf5.durations(*key)
        except ClipError as error:
            lengths[key] = str(error)
    recordings = lengths[key]
    if isinstance(recordings, str):
        return recordings
    assert clip.span is not None
    if clip.member not in recordings:
        return f"no recording {printable(clip.member)} in {clip.path.name}"
    if recordings[clip.member] < clip.span[1] - END_TOLERANCE:
        return f"recording {printable(clip.member)} ends at {recordings[clip.member]:.1f} s"
    return ""


def _lack_of_file(path: Path) -> str:
    with suppress(OSError, ValueError):
        if told := stand_ins.stand_in(path):
            return told
        if not path.is_file():
            return f"no file in {printable(path.parent)}"
        return "" if path.stat().st_size else "the file is empty (0 bytes)"
    return f"no such name in {printable(path.parent)}"


def _prompts(settings: dict[str, Any]) -> Iterator[Check]:
    try:
        prompts = Sources.of(settings).prompts
    except BlendbenchError as error:
        yield Check("data prompts", False, str(error), needed=True)
        return
    genres = {prompt.genre for prompt in prompts}
    yield Check("data prompts", True, f"{len(prompts)} prompts of {len(genres)} genres", needed=True)
