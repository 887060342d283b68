"""One arm of a run: what there is of its items, in the run's folder and in the store, and what they lack."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from blendbench.runs.folder import load_sound
from blendbench.runs.music import made_with, music_shelf
from blendbench.runs.plan import Plan
from blendbench.runs.shelf import Shelf, file_name
from blendbench.store.signature import signature
from blendbench.store.write import link_file, size_of
from blendbench.tasks import Music

PRESENT_VERSION = 1


class Survey(NamedTuple):
    """What there is of an arm, in items."""

    done: int
    """Whose rows and mixes lie in the run's folder"""
    mixed: int
    """Whose mixes are in the store"""
    made: int
    """Whose music is in the store"""
    generate: float | None
    """Seconds that an item's music took, as far as earlier ones tell"""
    present: float | None
    """Seconds that an item's mixes took, all presentations together"""


class Arm:
    """An arm's music, mixes and rows.

    Parameters
    ----------
    plan : Plan
    name : str

    Attributes
    ----------
    generate_settings : dict
        All that changes its music, of which the store's folder name is a hash.
    mix_signatures : dict of str to str
        By presentation.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.task, self.name, self.rows = plan, plan.task, name, plan.rows
        self.method = method = plan.arms[name]
        self.generate_settings = made_with(method, plan.task, plan.context)
        self.music = music_shelf(plan.store, plan.task, self.generate_settings)
        own = self.music.folder.name
        self.mix_signatures = {
            key: signature("present", PRESENT_VERSION, {"music": own, "presentation": shown.signature(method)})
            for key, shown in plan.presentations.items()
        }
        self._run_dir = str(plan.run_dir)

    @cached_property
    def mixes(self) -> dict[str, Shelf]:
        """The store's mixes by presentation."""
        folder, rate = self.plan.store / "mixes", self.task.sample_rate
        return {key: Shelf(folder / name, ".flac", "PCM_24", rate) for key, name in self.mix_signatures.items()}

    def close(self) -> None:
        """Close files; a later call opens them again."""
        for shelf in (self.music, *self.mixes.values()):
            shelf.close()

    def lacks(self, item: Any) -> bool:
        """Whether an item has a presentation without a sound row, or lacks images that are to be kept."""
        return bool(self.missing(item)) or self.lacks_images(item)

    def untried(self, item: Any) -> bool:
        """Whether a presentation of an item has no row of this run at all."""
        found = (self.rows.get(item.dataset, self.name, shown, item.id) for shown in self.mix_signatures)
        return any(
            row is None or row["signature"] != wanted
            for row, wanted in zip(found, self.mix_signatures.values(), strict=True)
        )

    def missing(self, item: Any) -> list[str]:
        """Presentations of an item that have no sound row."""
        inputs, missing, name = self.task.inputs(item), [], item.id
        for shown, wanted in self.mix_signatures.items():
            row = self.rows.get(item.dataset, self.name, shown, name)
            if (
                row is None
                or row["signature"] != wanted
                or row["inputs"] != inputs
                or row.get("retry")
                or (row["status"] == "ok" and size_of(f"{self._run_dir}/{row['mix']}") != row["bytes"])
            ):
                missing.append(shown)
        return missing

    def lacks_images(self, item: Any) -> bool:
        """Whether images are to be kept, and the store has none of an item whose music could be made."""
        if not self.plan.run.given.keep_images:
            return False
        row = self.music.row(item.id, self.task.inputs(item))
        if row is not None:
            return "images" not in row
        found = [self.rows.get(item.dataset, self.name, shown, item.id) for shown in self.mix_signatures]
        return not all(one is not None and one["status"] == "failed" for one in found)

    def survey(self) -> Survey:
        """What there is to do, and how long it took an item before."""
        done = mixed = kept = 0
        for item in self.plan.items:
            missing, inputs = self.missing(item), self.task.inputs(item)
            if not missing:
                done += 1
            elif all(self.mixes[key].whole(item.id, inputs) for key in missing):
                mixed += 1
            elif self.music.whole(item.id, inputs) is not None:
                kept += 1
        each = [seconds for shelf in self.mixes.values() if (seconds := shelf.seconds()) is not None]
        present = len(self.mixes) * sum(each) / len(each) if each else None
        return Survey(done, mixed, kept, self.music.seconds(), present)

    def kept(self, item: Any) -> Music | None:
        """Music that the store already holds for an item, unless its images are wanted and it has none."""
        row = self.music.whole(item.id, self.task.inputs(item))
        if row is None or self.lacks_images(item):
            return None
        return Music(load_sound(self.music.folder / row["file"]), row["facts"])

    def take_mix(self, item: Any, key: str) -> bool:
        """Take over a mix that the store holds, if it does."""
        kept = self.mixes[key].whole(item.id, self.task.inputs(item))
        if kept is not None:
            self.enter(item, key, kept)
        return kept is not None

    def enter(self, item: Any, key: str, kept: Mapping[str, Any]) -> None:
        """Put a mix of the store into the run's folder, and append its row."""
        mix = Path("mixes") / self.name / key / f"{file_name(item.id)}.flac"
        link_file(self.mixes[key].file(item.id), self.plan.run_dir / mix)
        found = {"status": "ok", "reason": "", **kept["facts"], "mix": mix.as_posix()}
        self.rows.append(self._row(item, key) | found | {name: kept[name] for name in ("sha256", "bytes")})

    def link_images(self, items: Sequence[Any]) -> None:
        """Put the images that are kept into the run's folder."""
        if not self.plan.run.given.keep_images:
            return
        for item in items:
            for image in (self.music.ledger.get(item.id) or {}).get("images", []):
                target = self.plan.run_dir / "images" / self.name / image
                if not target.exists():
                    link_file(self.music.folder / image, target)

    def _row(self, item: Any, presentation: str) -> dict[str, Any]:
        return {
            "pair_id": item.id,
            "arm": self.name,
            "dataset": item.dataset,
            "presentation": presentation,
            **item.facts(),
            "signature": self.mix_signatures[presentation],
            "inputs": self.task.inputs(item),
        }

    def fail(self, item: Any, reason: str, retry: bool = False, only: str | None = None) -> int:
        """Enter the presentations of an item that are missing, or one, as failed; with `retry` for this time only.

        Returns how many rows that is.
        """
        keys = [only] if only else self.missing(item)
        for key in keys:
            row = self._row(item, key) | {"status": "failed", "reason": " ".join(reason.split())}
            self.rows.append(row | ({"retry": True} if retry else {}))
        return len(keys)

    def failed(self, items: Sequence[Any]) -> int:
        """How many rows of some items are failed ones."""
        found = [self.rows.get(item.dataset, self.name, shown, item.id)
                 for item in items for shown in self.mix_signatures]  # fmt: skip
        return sum(row is not None and row["status"] == "failed" for row in found)
