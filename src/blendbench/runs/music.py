"""Where a method's music lies in the store, and methods that others build on, whose music is kept there, too."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blendbench.methods import Context, Method
from blendbench.runs.folder import load_sound
from blendbench.runs.shelf import Shelf
from blendbench.store.signature import signature
from blendbench.tasks import Music, Task

GENERATE_VERSION = 2


def made_with(method: Method, task: Task, context: Context) -> dict[str, Any]:
    """All that changes a method's music, of which its folder's name is a hash.

    Parameters
    ----------
    method : Method
    task : Task
    context : Context
        Lends what the method uses, and holds the seed and the variant.
    """
    settings: dict[str, Any] = {
        "method": type(method).__module__ + "." + type(method).__qualname__,
        "settings": method.signature(),
        "seed": context.seed,
    }
    settings |= task.signature()
    settings |= {lent: context.borrow(lent).signature() for lent in method.uses}
    return settings | ({"handed": context.variant} if context.variant else {})


def music_shelf(store: Path, task: Task, settings: Mapping[str, Any]) -> Shelf:
    """The folder of music made with some settings, whose name is their signature."""
    own = signature("generate", GENERATE_VERSION, dict(settings))
    return Shelf(store / "music" / own, ".wav", "FLOAT", task.sample_rate)


class Kept:
    """Stands for a method and keeps its music; what an arm of the same method has made is found, and vice versa.

    Each music's facts gain `cost_s`, the seconds that it takes to make: measured when it was made, or told by a method
    that builds on another itself.

    Parameters
    ----------
    method : Method
        Prepared when something is to be made.
    task : Task
    store : Path
    context : Context
        Of who builds on it, with the variant.
    """

    def __init__(self, method: Method, task: Task, store: Path, context: Context) -> None:
        self.method, self.task, self.context = method, task, context
        self.label, self.takes, self.uses = method.label, method.takes, method.uses
        self._settings = made_with(method, task, context)
        self._shelf = music_shelf(store, task, self._settings)
        self._ready = False

    def signature(self) -> dict[str, Any]:
        """The method's."""
        return self.method.signature()

    def prepare(self, context: Context) -> None:
        """Nothing; the method is prepared when something is to be made."""

    def generate(self, given: list[Any]) -> list[Music]:
        """Music of every item, in order, from the store where it holds some; errors as the method's."""
        self._shelf.refresh()
        found = [self._found(one) for one in given]
        if lacking := [one for one, music in zip(given, found, strict=True) if music is None]:
            made = iter(self._make(lacking))
            found = [next(made) if music is None else music for music in found]
        self._shelf.close()
        return [music for music in found if music is not None]

    def _found(self, given: Any) -> Music | None:
        row = self._shelf.whole(given.item.id, self.task.inputs(given.item))
        if row is None:
            return None
        return Music(load_sound(self._shelf.folder / row["file"]), {"cost_s": row["seconds"]} | row["facts"])

    def _make(self, given: list[Any]) -> list[Music]:
        if not self._ready:
            self._shelf.sign(self._settings)
            self.method.prepare(self.context.only(self.method.uses))
            self._ready = True
        began = time.monotonic()
        made = self.method.generate([one.only(self.method.takes) for one in given])
        seconds = round((time.monotonic() - began) / len(given), 3)
        out = []
        self._shelf.refresh()
        for one, music in zip(given, made, strict=True):
            # Another worker may have been at the same item; the first copy counts.
            if (other := self._found(one)) is not None:
                out.append(replace(other, images=music.images))
                continue
            facts = {"cost_s": seconds} | music.facts
            if bool(torch.isfinite(music.waveform).all()):  # whoever builds on it says what is wrong otherwise
                inputs = self.task.inputs(one.item)
                self._shelf.put(one.item.id, inputs, music.waveform, facts=facts, seconds=seconds)
            out.append(replace(music, facts=facts))
        return out
