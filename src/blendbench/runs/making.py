"""How what an arm lacks is made: items read ahead, generated in batches, presented, each written once it is done."""

import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from blendbench import telling
from blendbench.datasets.reading import ahead
from blendbench.errors import BlendbenchError, ClipError
from blendbench.runs.arm import Arm
from blendbench.runs.device import BatchSize, out_of_memory
from blendbench.runs.progress import Beat
from blendbench.sound import audio
from blendbench.sound.png import write_image
from blendbench.tasks import Given, Music


class Making:
    """An arm's items through generate and present.

    Parameters
    ----------
    arm : Arm
    beat : Beat
        Where to say what is being done.
    skip : set of (arm, item id), optional
        What is not to be tried, as it has ended a worker before. Given, be it empty, items are taken one by one.
    """

    def __init__(self, arm: Arm, beat: Beat, skip: frozenset[tuple[str, str]] | None = None) -> None:
        self.arm, self.plan, self.beat = arm, arm.plan, beat
        self.alone, self.skip = skip is not None, skip or frozenset()
        self.batch = BatchSize(1 if self.alone else self.plan.run.given.batch, self.plan.context.device)

    def run(self, items: Sequence[Any]) -> None:
        """Do what is missing of some items."""
        arm = self.arm
        todo = [item for item in items if arm.lacks(item) and (arm.name, item.id) not in self.skip]
        try:
            # Another run may have mixed the same music in the same way.
            todo = [item for item in todo if self._not_in_the_store(item) or arm.lacks_images(item)]
            if todo:
                self._make(todo)
            arm.link_images(items)
        finally:
            arm.close()

    def _not_in_the_store(self, item: Any) -> bool:
        """Take over the mixes that the store holds; whether it lacks some."""
        taken = [self.arm.take_mix(item, key) for key in self.arm.missing(item)]  # each of them
        return not all(taken)

    def _make(self, todo: list[Any]) -> None:
        arm = self.arm
        arm.music.sign(arm.generate_settings)
        try:
            arm.method.prepare(self.plan.context.only(arm.method.uses))
        except BlendbenchError as error:
            for item in todo:
                arm.fail(item, str(error), retry=True)
            print(f"blendbench: arm {arm.name} cannot run: {error}", file=sys.stderr)
            return
        with telling.stage(arm.name, len(todo), self.plan.task.items_called.removesuffix("s")) as told:
            self._make_all(todo, told)

    def _make_all(self, todo: list[Any], bar: telling.Stage) -> None:
        arm, batch = self.arm, list[Given]()
        self._say([])
        # After a death each item is named before its files are read.
        read = map(self._read, todo) if self.alone else ahead(self.plan.task.read, todo)
        for item, given in zip(todo, read, strict=True):
            if isinstance(given, ClipError):
                arm.fail(item, str(given))
                self._said(bar, 1, len(arm.mix_signatures))
                continue
            arm.music.refresh()
            arm.rows.refresh()
            music = arm.kept(item)
            if music is not None:
                self._say([given])
                self._present(given, music)
                self._said(bar, 1)
                continue
            batch.append(given)
            if len(batch) >= self.batch.size:
                self._make_batch(batch, bar)
                batch = []
        if batch:
            self._make_batch(batch, bar)

    def _make_batch(self, batch: list[Given], bar: telling.Stage) -> None:
        self._say(batch)
        self._generate(batch)
        self._said(bar, len(batch), self.arm.failed([given.item for given in batch]))

    def _read(self, item: Any) -> Given | ClipError:
        self._began = time.monotonic()
        self.beat.begin("make", self.arm.name, [item.id])
        return self.plan.task.read(item)

    def _say(self, batch: Sequence[Given]) -> None:
        self._began = time.monotonic()
        self.beat.begin("make", self.arm.name, [given.item.id for given in batch])

    def _said(self, bar: telling.Stage, items: int, failed: int = 0) -> None:
        bar.update(items)
        seconds = time.monotonic() - self._began
        self.beat.end(self.arm.name, items, items * len(self.arm.mix_signatures), failed, seconds)
        self._say([])

    def _generate(self, batch: list[Given]) -> None:
        method = self.arm.method
        try:
            began = time.monotonic()
            self.batch.begin()
            music = method.generate([given.only(method.takes) for given in batch])
            self.batch.end()
            seconds = (time.monotonic() - began) / len(batch)
            self.beat.spend("generate", seconds * len(batch))
        except Exception as error:
            if len(batch) > 1:
                error.__traceback__ = None  # it holds the failed batch's tensors
                self._generate_in_parts(batch, error)
            else:
                known = isinstance(error, ClipError)
                if not known:
                    traceback.print_exc()
                self.arm.fail(
                    batch[0].item, str(error) if known else f"{type(error).__name__}: {error}", retry=not known
                )
            return
        for given, piece in zip(batch, music, strict=True):
            self._keep(given, piece, seconds)

    def _generate_in_parts(self, batch: list[Given], error: Exception) -> None:
        """One bad item must not take its batch along; too many items are not bad."""
        too_many = out_of_memory(error)
        if too_many:
            self.batch.halve(len(batch))
            print(
                f"blendbench: arm {self.arm.name}: {len(batch)} {self.plan.task.items_called} at once do not fit into "
                f"memory; going on with {self.batch.size}",
                file=sys.stderr,
            )
        while batch:
            part = self.batch.size if too_many else 1
            self._generate(batch[:part])
            batch = batch[part:]

    def _keep(self, given: Given, piece: Music, seconds: float) -> None:
        """Put music into the store, and present it."""
        arm, item = self.arm, given.item
        if flaw := self._flaw(piece.waveform):
            arm.fail(item, f"{arm.name}: the music made {flaw}", retry=True)
            return
        # Another worker may have been at the same item, as after a lost node; the first copy counts.
        arm.music.refresh()
        if (other := arm.kept(item)) is not None:
            self._present(given, other)
            return
        # What builds on another method knows better what it costs: that one's music may have been there.
        piece.facts = {"cost_s": round(seconds, 3)} | piece.facts
        facts: dict[str, Any] = {"facts": piece.facts, "seconds": round(seconds, 3)}
        if self.plan.run.given.keep_images:
            stem = arm.music.file(item.id).stem
            facts["images"] = [f"{stem}-{name}.png" for name in piece.images]
            for name, image in piece.images.items():
                write_image(arm.music.folder / f"{stem}-{name}.png", image)
        arm.music.put(item.id, self.plan.task.inputs(item), piece.waveform, **facts)
        self._present(given, piece)

    def _flaw(self, waveform: torch.Tensor) -> str:
        """What is wrong with a waveform; "" for nothing."""
        channels = self.plan.task.channels
        if waveform.ndim != 1 + (channels > 1) or (channels > 1 and waveform.shape[0] != channels):
            wanted = "[samples]" if channels == 1 else f"[{channels}, samples]"
            return f"has shape {list(waveform.shape)}, not {wanted}"
        return "" if bool(torch.isfinite(waveform).all()) else "has samples that are not finite"

    def _present(self, given: Given, music: Music) -> None:
        """Put an item before the listener in every presentation that lacks it, and append the rows."""
        arm, item, plan, began = self.arm, given.item, self.plan, time.monotonic()
        last = began
        for key in arm.missing(item):
            arm.mixes[key].refresh()
            if arm.take_mix(item, key):
                continue
            try:
                heard = plan.presentations[key].present(given, music, arm.method)
            except ClipError as error:
                arm.fail(item, f"{arm.name}: {error}", only=key)
                continue
            leveled, attenuation = audio.limit_peak(heard.waveform)
            facts = heard.facts | {"attenuation_db": round(attenuation, 6), "seed": given.seed} | music.facts
            now = time.monotonic()
            kept = arm.mixes[key].put(
                item.id, plan.task.inputs(item), leveled, facts=facts, seconds=round(now - last, 3)
            )
            last = now
            arm.enter(item, key, kept)
        self.beat.spend("present", time.monotonic() - began)
