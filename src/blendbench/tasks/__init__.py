"""Tasks: what an item is, what a method is handed of it, and what parts a sound has.

A task is a class that `_target_` names in `conf/task`; the rest of the package, from the runner to the page, knows no
other word of it than those below. It has its own keys of the configuration, in a dataclass that its YAML names
(`keys`), and its own data, read through `datasets.Sources`.

A waveform is a float tensor [samples] where the task has one channel, [channels, samples] where it has more, at the
task's `sample_rate`, full scale at 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from blendbench.errors import BlendbenchError, ClipError
from blendbench.facts import Facts
from blendbench.seeds import shuffled, stable_seed

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from blendbench.datasets import MusicClip
    from blendbench.datasets.sources import Sources


class Item(Protocol):
    """The unit of work, known from tables alone: frozen and hashable.

    Attributes
    ----------
    dataset : str
        Name of its data set in the configuration.
    id : str
        The column `pair_id` of its rows, whatever the task; stable across runs, machines and limits.
    """

    @property
    def dataset(self) -> str: ...

    @property
    def id(self) -> str: ...

    def facts(self) -> dict[str, str]:
        """The item's own columns in its rows: those of the task, in order."""
        ...


@dataclass(frozen=True)
class Given:
    """What a method is handed; a task adds fields of its own, which `Task.gives` names.

    Attributes
    ----------
    item : Item
    seed : int
        From the run's seed and the item's id.
    samples : int
        Length of the music wanted, at the task's sample rate.
    """

    item: Item
    seed: int
    samples: int

    def only(self, takes: Sequence[str]) -> Self:
        """As it is handed to a method that takes so much: all else may not be looked at.

        A field that serves another one says so in its metadata (`{"with": NAME}`), and goes with it.
        """
        base = {one.name for one in fields(Given)}
        withheld: Any = {
            one.name: Withheld(one.name)
            for one in fields(self)
            if one.name not in base and one.metadata.get("with", one.name) not in takes
        }
        return replace(self, **withheld)


class Withheld:
    """Stands in for what a method has not said that it takes; whatever is asked of it is an error."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattribute__(self, asked: str) -> Any:
        if asked.startswith("__"):
            return object.__getattribute__(self, asked)
        name = object.__getattribute__(self, "_name")
        raise BlendbenchError(f"the method looks at the item's {name}, which its `takes` does not name; add it there")


@dataclass
class Music:
    """What a method made: a waveform, facts for the row, and images (grey, 0..255, by name) for the curious."""

    waveform: torch.Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    images: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Heard:
    """What a listener, or a metric, gets: a waveform, facts of its levels for the row, and its parts where it has any.

    `parts` are as `Task.parts` makes them again of the file.
    """

    waveform: torch.Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


class Presentation(Protocol):
    """How the music is put before a listener.

    Attributes
    ----------
    label : str
        In tables.
    """

    @property
    def label(self) -> str: ...

    def signature(self, method: Any) -> dict[str, Any]:
        """What changes what is heard, beside the music."""
        ...

    def present(self, given: Any, music: Music, method: Any) -> Heard:
        """What is heard; raises ClipError where the music cannot be put so."""
        ...

    def told(self, row: Mapping[str, Any]) -> str:
        """What stands under the player, by the row's facts: "gain +3.1 dB, -15.0 LUFS"."""
        ...


@dataclass(frozen=True)
class AsMade:
    """The music as the method made it.

    Parameters
    ----------
    label : str
    """

    label: str = "As made"

    def signature(self, method: Any) -> dict[str, Any]:
        """Nothing changes it."""
        return {"kind": "as_made"}

    def present(self, given: Any, music: Music, method: Any) -> Heard:
        """The waveform itself."""
        return Heard(music.waveform)

    def told(self, row: Mapping[str, Any]) -> str:
        """Nothing."""
        return ""


class Lent(Protocol):
    """What a run lends its methods by name; `signature` is what of it changes a method's output."""

    def signature(self) -> Any: ...


@dataclass(frozen=True)
class Column:
    """A column of a row that an item's facts fill.

    Parameters
    ----------
    kind : {"id", "class", "text"}
        What it holds: the name of something, a class that items can be sorted by and drawn evenly from, or free text.
    label : str
        Its heading where people read it.
    """

    kind: str
    label: str


@dataclass(frozen=True)
class Study:
    """What a listening study takes over from its task.

    Parameters
    ----------
    settings : dict
        Keys of `listening/study.yaml` that the task sets otherwise: scales, texts.
    first : str
        The part that is heard before the clips that are rated; "" for none.
    catch : (str, str, str) or None
        Of a catch trial: the scale, the part that belongs at its low end, and the part at its high end.
    presentation : str
        The presentation that is heard unless another is chosen, where the run has it; "" for the run's first.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    first: str = ""
    catch: tuple[str, str, str] | None = None
    presentation: str = ""


class Task(Protocol):
    """The interface of a task.

    Attributes
    ----------
    name : str
    sample_rate, channels : int
        Of every waveform.
    gives : tuple of str
        Fields of what is given that a method may take; a method's `takes` names some of them.
    columns : dict of str to Column
        Of `Item.facts`, in order.
    group : str
        The column whose items are resampled together where they share it, as they are alike.
    levels : dict of str to Facts
        Numbers of its rows that `scores.csv` takes over, in order.
    sortable : tuple of str
        Levels by which the page sorts, beside the metrics.
    shared : dict of str to str
        Labels by name of the parts that all arms of an item have in common, so that they are played once.
    own : dict of str to str
        Labels by name of the parts that each arm has for itself.
    units : (str, str)
        Words of recipes: what one group is, and what several are.
    items_called : str
        Word of recipes and progress for items: "pairs".
    whole_called : str
        Word of the page for what is heard, beside its parts: "mix".
    """

    name: str
    sample_rate: int
    channels: int
    gives: tuple[str, ...]
    columns: dict[str, Column]
    group: str
    levels: dict[str, Facts]
    sortable: tuple[str, ...]
    shared: dict[str, str]
    own: dict[str, str]
    units: tuple[str, str]
    items_called: str
    whole_called: str

    @property
    def notes(self) -> list[str]:
        """What is to be said about its data, once they are read."""
        ...

    def files(self, items: Sequence[Any]) -> set[Path]:
        """Files of sound that items and the reference are read from."""
        ...

    def items(self, limit: int | None) -> list[Any]:
        """All items of all data sets, at most `limit` a data set."""
        ...

    def signature(self) -> dict[str, Any]:
        """What of the task's settings changes any method's output; joins every method's."""
        ...

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """What methods may borrow of the task, by name, made when a method uses it."""
        ...

    def presentation(self, name: str, entry: Mapping[str, Any]) -> Presentation:
        """The presentation of an entry of `presentations` that has no `_target_`."""
        ...

    def inputs(self, item: Any) -> str:
        """Hash of what the item's files and texts hold."""
        ...

    def read(self, item: Any) -> Given | ClipError:
        """What is given of an item, or why it cannot be read; threads call it for the next few items."""
        ...

    def given(self, row: Mapping[str, Any]) -> Given:
        """What was given of a finished row's item, read again; raises BlendbenchError where that is no longer there."""
        ...

    def parts(self, given: Any, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Parts of what is heard, apart, at their levels in it; only those that are there."""
        ...

    def turned(self, row: Mapping[str, Any]) -> float | None:
        """Gain in dB of the arm's own parts, in which alone its presentations differ; None where it has none there."""
        ...

    def reference(self) -> list[MusicClip]:
        """What sets of sounds are held against; empty where there is nothing."""
        ...

    def reference_seconds(self) -> float:
        """How much of a reference clip is heard, in seconds."""
        ...

    def study(self) -> Study:
        """What a listening study takes over."""
        ...

    def close(self) -> None:
        """Close files; a later call opens them again."""
        ...


class OtherClips:
    """Clips of the data set other than an item's own, of another source, for controls and anchors.

    Parameters
    ----------
    sources : Sources
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def signature(self) -> list[str]:
        """Which clips there are."""
        return sorted(clip.id for name in self._sources.names for clip in self._sources.dataset(name).clips)

    def drawn(self, item: Any, step: str, called: str, fits: Callable[[Any], Any] = lambda clip: True) -> Any:
        """A clip, drawn by the item and the step's name; raises ClipError where there is none that fits."""
        clips = self._sources.dataset(item.dataset).clips
        others = [clip for clip in clips if clip.source != item.clip.source and fits(clip)]
        if not others:
            raise ClipError(f"{item.id}: the data set has no other {called}; leave that arm out")
        return shuffled(others, stable_seed(item.id, step), lambda clip: clip.id)[0]


class BaseTask:
    """What tasks have in common; a task says `name`, `gives`, `columns`, `group` and `units`, and how items are read.

    Parameters
    ----------
    sources : Sources
        The data of the configuration.
    """

    sample_rate, channels = 44_100, 1
    gives: tuple[str, ...] = ()
    levels: dict[str, Facts] = {}
    sortable: tuple[str, ...] = ()
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    items_called, whole_called = "items", "result"

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    @property
    def notes(self) -> list[str]:
        """What is to be said about its data, once they are read."""
        return self.sources.notes

    def files(self, items: Sequence[Any]) -> set[Path]:
        """None, unless a task knows."""
        return set()

    def signature(self) -> dict[str, Any]:
        """No settings, unless a task has some."""
        return {}

    def lends(self) -> dict[str, Callable[[], Lent]]:
        """Nothing."""
        return {}

    def presentation(self, name: str, entry: Mapping[str, Any]) -> Presentation:
        """Presentations must say their `_target_`."""
        raise BlendbenchError(f"presentations.{name}: has no _target_, and this task has no kinds of its own; add one")

    def read(self, item: Any) -> Given | ClipError:
        """What `_read` gives of an item, or why it cannot."""
        try:
            return self._read(item)
        except ClipError as error:
            return error

    def _read(self, item: Any) -> Any:
        """What is given of an item; raises ClipError where it cannot be read."""
        raise NotImplementedError

    def again(self, row: Mapping[str, Any], column: str, item_of: Callable[[Any], Any]) -> Any:
        """What was given of a finished row's item, read again.

        Parameters
        ----------
        row : mapping of str to Any
        column : str
            Which holds its clip's id.
        item_of : callable
            From the clip to the item.

        Raises
        ------
        ClipError
            Where the clip is gone, or is not what the run heard.
        """
        clips = {clip.id: clip for clip in self.sources.dataset(row["dataset"]).clips}
        name = row[column]
        if name not in clips:
            raise ClipError(f"dataset.{row['dataset']}: has no clip {name!r} any longer; put it back")
        item = item_of(clips[name])
        if self.inputs(item) != row.get("inputs"):
            raise ClipError(f"{name}: is not what the run heard; put it back, or run the same command again")
        return self._read(item)

    def inputs(self, item: Any) -> str:
        """Hash of what the item's files and texts hold."""
        raise NotImplementedError

    def parts(self, given: Any, heard: torch.Tensor, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What is heard has no parts."""
        return {}

    def turned(self, row: Mapping[str, Any]) -> float | None:
        """An arm has no parts of its own."""
        return None

    def reference(self) -> list[MusicClip]:
        """There is no reference set."""
        return []

    def study(self) -> Study:
        """Studies as they are by default, with nothing heard first."""
        return Study()

    def close(self) -> None:
        """Nothing is open."""
