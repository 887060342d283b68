"""The run: pairs through generate, present, score and tabulate, each doing only what is missing.

Generated music lies in the store under its signature, mixes and `pairs.jsonl` in the run's folder, scores in the store
under the evaluator's signature and the sound's content. A clip that cannot take part gives rows with status "failed"
and a reason; the run goes on.

The pairs are cut into shards; an executor brings each shard through `work`, here or in other processes, which find all
that they need in the run's folder. Whatever is done twice has the same outcome, so nothing harms but a lost file: what
is there when all shards are done is tabulated once, by the process that was called.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import soundfile
import torch
from omegaconf import OmegaConf

from blendbench import audio, config, executors, finished, progress, telling, tracking
from blendbench.clips import Noises
from blendbench.datasets import MusicClip, Pair, manifests
from blendbench.datasets.pairing import make_pairs, split_music, stable_seed
from blendbench.errors import BlendbenchError, ClipError
from blendbench.evaluators import from_settings
from blendbench.images import write_image
from blendbench.methods import Context, Item, Music
from blendbench.presentation import Amplification, Presentation, present
from blendbench.store import PAIR_KEY, Ledger, link_file, make_folder, mean_seconds, signature, write_text

if TYPE_CHECKING:
    from blendbench.scoring import Scoring

T = TypeVar("T")
SAMPLE_RATE = 44_100
GENERATE_VERSION = 2
PRESENT_VERSION = 1


@dataclass
class Plan:
    """A run made ready: its settings, folders, pairs, music halves, arms and presentations."""

    settings: dict[str, Any]
    run_dir: Path
    store: Path
    pairs: list[Pair]
    reference: list[MusicClip]
    music: list[MusicClip]
    arms: dict[str, Any]
    presentations: dict[str, Presentation]
    context: Context
    amplification: Amplification
    notes: list[str]

    @cached_property
    def rows(self) -> Ledger:
        """The run's rows, read once a process; `refresh` takes in what others have appended since."""
        return Ledger(self.run_dir / "pairs.jsonl", PAIR_KEY)

    @cached_property
    def beat(self) -> progress.Beat:
        """The sign of life of the command that leads the run; begun when first asked for."""
        return progress.Beat(self.run_dir, self.context.device, leads=True)

    @cached_property
    def scoring(self) -> "Scoring":
        """The evaluators with what they have said before; loaded once a process, whatever shards it takes."""
        from blendbench.scoring import Scoring

        return Scoring(self.run_dir, self.settings)

    @contextmanager
    def opened(
        self, beat: progress.Beat | None = None, skip: frozenset[tuple[str, str]] | None = None
    ) -> Iterator[dict[str, "_Arm"]]:
        """The arms by name, with the rows of now; their files are closed at the end.

        `skip` is what is not to be tried, as (arm, pair_id), after workers have died; pairs are then taken one by one.
        """
        noises = Noises(self.settings["noise"], self.store)
        self.rows.refresh()
        try:
            yield {name: _Arm(self, name, method, noises, beat, skip) for name, method in self.arms.items()}
        finally:
            self.rows.close()
            noises.close()


def pick_device(name: str) -> str:
    """Torch device of a config value; "auto" takes a GPU where there is one.

    Raises
    ------
    BlendbenchError
        If the device is unknown or not here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise BlendbenchError(
            f"device={name}: not usable here ({str(error).splitlines()[0]}); use device=cpu"
        ) from None
    return name


def make_context(settings: dict[str, Any], music: list[MusicClip]) -> Context:
    """What methods borrow from a run: device, seed, the random-music half and the generator, not yet loaded."""
    generator = config.build(settings["generator"], "generator", settings["allow_targets"])
    return Context(SAMPLE_RATE, pick_device(settings["device"]), settings["seed"], music, generator)


def prepare(settings: dict[str, Any]) -> Plan:
    """Read the tables, make the pairs, and find out whether all models are there; writes nothing.

    Raises
    ------
    BlendbenchError
        If no experiment is named, or data or a model are missing.
    """
    if not settings["experiment"] or not settings["arms"]:
        raise BlendbenchError("experiment: none named; add one, such as experiment=bnmusic/table1")
    for key in ("dataset", "arms", "presentations"):
        if all(entry is None for entry in settings[key].values()):
            raise BlendbenchError(f"{key}: none is left; leave out fewer of {key}.NAME=null")
    allowed, seed = settings["allow_targets"], settings["seed"]
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    prompts = config.build(settings["prompts"], "prompts", allowed)
    pairs: list[Pair] = []
    notes = []
    for name in settings["dataset"]:
        noise = manifests.noise_set(settings, name)
        notes.append(noise.note)
        pairs += make_pairs(name, noise.clips, prompts, noise.prompts_per_clip, seed, settings["limit"])
    real = manifests.music_set(settings)
    notes.append(real.note)
    reference, music = split_music(real.clips, seed)
    presentations = {
        name: config.build(
            {"_target_": "blendbench.presentation.Presentation", **entry}, f"presentations.{name}", [], name=name
        )
        for name, entry in settings["presentations"].items()
    }
    arms = {
        name: config.build(arm, f"arms.{name}", allowed) for name, arm in settings["arms"].items() if arm is not None
    }
    context = make_context(settings, music)
    # What is missing is found out now, before any music is made.
    if any(getattr(method, "uses_generator", False) for method in arms.values()):
        context.generator.signature()
    for name, method in arms.items():
        try:
            method.signature()
        except BlendbenchError as error:
            raise BlendbenchError(f"{error}; or leave the arm out: arms.{name}=null") from error
    for evaluator in from_settings(settings).values():
        evaluator.signature()
    run_dir, store = config.run_dir_of(settings), Path(settings["store_dir"])
    amplification = Amplification(**settings["amplification"])
    said = [note for note in notes if note]
    return Plan(settings, run_dir, store, pairs, reference, music, arms, presentations, context, amplification, said)


def begin(plan: Plan) -> None:
    """Make the folders, write `config.yaml` and `plan.json`, and take out rows that are not this run's.

    Raises
    ------
    BlendbenchError
        If a folder cannot be written.
    """
    settings = plan.settings
    write_text(plan.run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.literal(settings))))
    if not plan.store.is_dir():
        make_folder(plan.store)  # one that cannot be written is still read: it may hold all
    with plan.opened() as arms:
        signatures = {name: arm.mix_signatures for name, arm in arms.items()}
    facts = {"experiment": settings["experiment"]["name"], "pairs": len(plan.pairs), "arms": signatures}
    progress.write_plan(plan.run_dir, facts)
    ledger = plan.rows
    progress.forget_dead(plan.run_dir)
    if settings["retry_failed"]:
        for place in list(ledger.places()):
            row = ledger.at(place)
            if row is not None and row.get("status") == "failed" and not row.get("retry"):
                ledger.append(row | {"retry": True})
    # Workers of an earlier command may be at it; who writes while a file is replaced has to look twice.
    if ledger.others(_keys(plan)):
        ledger.keep(_keys(plan))
    ledger.close()


def _keys(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    """Keys of all rows of a run, sorted."""
    ids: dict[str, list[str]] = {}
    for pair in plan.pairs:
        ids.setdefault(pair.dataset, []).append(pair.pair_id)
    for dataset in sorted(ids):
        ids[dataset].sort()
        for arm in sorted(plan.arms):
            for shown in sorted(plan.presentations):
                yield from ((dataset, arm, shown, pair) for pair in ids[dataset])


@dataclass(frozen=True)
class Shard:
    """One of several parts that the work is cut into; each has something of every arm, label and genre."""

    index: int = 0
    of: int = 1

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """What of a sequence belongs to the shard."""
        return items[self.index :: self.of] if self.of > 1 else items


def work(
    plan: Plan,
    shard: Shard,
    beat: progress.Beat,
    skip: frozenset[tuple[str, str]] | None = None,
    scoring: bool = True,
) -> None:
    """Bring a shard's pairs to mixes, rows and scores; what is already there is left alone.

    Parameters
    ----------
    plan : Plan
    shard : Shard
    beat : Beat
        Where to say what is being done.
    skip : set of (arm, pair_id), optional
        What is not to be tried, as it has ended a worker before. Given, be it empty, pairs are taken one by one.
    scoring : bool
        Whether the mixes are scored, too.

    Raises
    ------
    BlendbenchError
        If a file cannot be written, such as on a full disk.
    """
    pairs = shard.part(plan.pairs)
    with plan.opened(beat, skip) as arms:
        for arm in arms.values():
            arm.run(pairs)
        if scoring:
            beat.begin("score")
            keys = ((pair.dataset, arm, shown, pair.pair_id)
                    for arm in plan.arms for shown in plan.presentations for pair in pairs)  # fmt: skip
            rows = (row for key in keys if (row := plan.rows.get(*key)) is not None and row["status"] == "ok")
            began = time.monotonic()
            plan.scoring.part(rows, shard.part(plan.reference))
            beat.spend("score", time.monotonic() - began)


def unfinished(plan: Plan, of: int, again: bool = True) -> list[int]:
    """Which of so many shards have pairs that lack a row or an image, or, unless not `again`, are to be tried again."""
    found: set[int] = set()
    with plan.opened() as arms:
        for arm in arms.values():
            lacks = arm.lacks if again else arm.untried
            found |= {index % of for index, pair in enumerate(plan.pairs) if index % of not in found and lacks(pair)}
    return sorted(found)


def link_images(plan: Plan) -> None:
    """Put the images that are kept into the run's folder, also those of pairs that were done before."""
    if plan.settings["keep_images"]:
        with plan.opened() as arms:
            for arm in arms.values():
                arm.link_images(plan.pairs)


def merge(plan: Plan) -> int:
    """Put the run's rows in a fixed order, each once, and no other; returns how many are not there."""
    return plan.rows.keep(_keys(plan))


def give_up(plan: Plan, arm: str, pair_ids: Collection[str], reason: str) -> int:
    """Enter pairs that cannot be done as failed, and return for how many rows; the same command tries them again."""
    with plan.opened() as arms:
        return sum(arms[arm].fail(pair, reason, retry=True) for pair in plan.pairs if pair.pair_id in pair_ids)


@lru_cache(maxsize=100_000)
def _prompt_hash(text: str) -> str:
    return f"{stable_seed(text):x}"


def file_name(identifier: str) -> str:
    """A file name for an id: itself where it is plain and short, else cut and told apart by a hash."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in identifier)
    if plain == identifier and len(plain) <= 150 and not plain.startswith("."):
        return plain
    return f"{plain[:120].lstrip('.')}-{stable_seed(identifier):x}"


class BatchSize:
    """How many pairs a method is given at once.

    A number stays, unless memory runs out, which halves it for the rest of the arm. "auto" begins with one pair on a
    GPU, sees how much memory that took, and then takes as many as fit into four fifths of what is free; on a CPU,
    where the networks take a batch item by item anyway, it is 2.

    Parameters
    ----------
    setting : int or "auto"
    device : str
        Torch device.
    limit : int
        Most pairs at once; more hardly make a large GPU faster.
    """

    def __init__(self, setting: int | str, device: str, limit: int = 32) -> None:
        self.limit, self.device = limit, torch.device(device)
        self.measuring = setting == "auto" and self.device.type == "cuda"
        self.size = (1 if self.measuring else 2) if setting == "auto" else int(setting)
        self._before = 0

    def begin(self) -> None:
        """Comes before a batch."""
        if self.measuring:
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)

    def end(self) -> None:
        """Comes after a batch that went well; may raise the size for the next."""
        if self.measuring:
            a_pair = torch.cuda.max_memory_allocated(self.device) - self._before
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            self.fit(torch.cuda.mem_get_info(self.device)[0] + unused, a_pair)

    def fit(self, free: int, a_pair: int) -> None:
        """Take as many pairs as fit, from the bytes that are free and those that one took."""
        self.size = max(1, min(self.limit, int(0.8 * free / max(a_pair, 1))))
        self.measuring = False

    def halve(self, failed: int) -> None:
        """Memory ran out with so many pairs: give back what is cached, and take half as many from now on."""
        self.measuring = False
        self.size = max(1, min(self.size, failed // 2))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the GPU's or the machine's, ran out."""
    said = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


class Survey(NamedTuple):
    """What there is of an arm, in pairs."""

    done: int
    """Whose rows and mixes lie in the run's folder"""
    mixed: int
    """Whose mixes are in the store"""
    made: int
    """Whose music is in the store"""
    generate: float | None
    """Seconds that a pair's music took, as far as earlier ones tell"""
    present: float | None
    """Seconds that a pair's mixes took, all presentations together"""


class _Arm:
    """One arm's way through generate and present."""

    def __init__(
        self,
        plan: Plan,
        name: str,
        method: Any,
        noises: Noises,
        beat: progress.Beat | None,
        skip: frozenset[tuple[str, str]] | None,
    ) -> None:
        self.plan, self.name, self.method, self.noises, self.rows = plan, name, method, noises, plan.rows
        self.beat, self.alone, self.skip, self._run_dir = beat, skip is not None, skip or frozenset(), str(plan.run_dir)
        self.batch = BatchSize(1 if self.alone else plan.settings["batch"], plan.context.device)
        settings = plan.settings
        self.generate_settings = {
            "method": type(method).__module__ + "." + type(method).__qualname__,
            "settings": method.signature(),
            "noise": settings["noise"],
            "seed": settings["seed"],
        }
        if getattr(method, "uses_generator", False):
            self.generate_settings["generator"] = plan.context.generator.signature()
        if getattr(method, "uses_music", False):
            self.generate_settings["music"] = [
                [clip.id, clip.source, _size(clip.path), *([clip.start] if clip.start else [])] for clip in plan.music
            ]
        self.signature = signature("generate", GENERATE_VERSION, self.generate_settings)
        self.folder = plan.store / "music" / self.signature
        self._made: Ledger | None = None
        self.mix_signatures = {
            key: signature(
                "present",
                PRESENT_VERSION,
                {
                    "music": self.signature,
                    "presentation": shown.signature(method.adaptive, plan.amplification, settings["mask"]),
                },
            )
            for key, shown in plan.presentations.items()
        }

    @property
    def made(self) -> Ledger:
        """The store's rows of this arm's music, read when first asked for."""
        if self._made is None:
            self._made = Ledger(self.folder / "ledger.jsonl", ("pair_id",))
        return self._made

    def run(self, pairs: Sequence[Pair]) -> None:
        """Do what is missing of some pairs."""
        todo = [pair for pair in pairs if self.lacks(pair) and (self.name, pair.pair_id) not in self.skip]
        try:
            if todo:
                self._work(todo)
            self.link_images(pairs)
        finally:
            if self._made is not None:
                self._made.close()

    def lacks(self, pair: Pair) -> bool:
        """Whether a pair has a presentation without a sound row, or lacks images that are to be kept."""
        return bool(self._missing(pair)) or self._lacks_images(pair)

    def untried(self, pair: Pair) -> bool:
        """Whether a presentation of a pair has no row of this run at all."""
        found = (self.rows.get(pair.dataset, self.name, shown, pair.pair_id) for shown in self.mix_signatures)
        return any(
            row is None or row["signature"] != wanted
            for row, wanted in zip(found, self.mix_signatures.values(), strict=True)
        )

    def survey(self) -> Survey:
        """What there is to do, and how long it took a pair before."""
        mixes = self._mix_ledgers()
        done = mixed = kept = 0
        for pair in self.plan.pairs:
            missing = self._missing(pair)
            if not missing:
                done += 1
            elif all(self._found(mixes[key], key, pair) for key in missing):
                mixed += 1
            elif self._whole(pair) is not None:
                kept += 1
        each = [seconds for ledger in mixes.values() if (seconds := mean_seconds(ledger)) is not None]
        return Survey(done, mixed, kept, mean_seconds(self.made), len(mixes) * sum(each) / len(each) if each else None)

    def _lacks_images(self, pair: Pair) -> bool:
        """Whether images are to be kept, and the store has none of a pair whose music could be made."""
        if not self.plan.settings["keep_images"]:
            return False
        row = self.made.get(pair.pair_id)
        if row is not None and row["inputs"] == self._inputs(pair):
            return "images" not in row
        found = [self.rows.get(pair.dataset, self.name, shown, pair.pair_id) for shown in self.mix_signatures]
        return not all(one is not None and one["status"] == "failed" for one in found)

    def link_images(self, pairs: Sequence[Pair]) -> None:
        """Put the images that are kept into the run's folder."""
        if not self.plan.settings["keep_images"]:
            return
        for pair in pairs:
            for image in (self.made.get(pair.pair_id) or {}).get("images", []):
                target = self.plan.run_dir / "images" / self.name / image
                if not target.exists():
                    link_file(self.folder / image, target)

    def _inputs(self, pair: Pair) -> str:
        return f"{self.noises.content(pair.clip)[:16]}-{_prompt_hash(pair.prompt.text)}"

    def _missing(self, pair: Pair) -> list[str]:
        """Presentations of the pair that have no sound row."""
        inputs, missing, pair_id = self._inputs(pair), [], pair.pair_id
        for shown, wanted in self.mix_signatures.items():
            row = self.rows.get(pair.dataset, self.name, shown, pair_id)
            if (
                row is None
                or row["signature"] != wanted
                or row["inputs"] != inputs
                or row.get("retry")
                or (row["status"] == "ok" and _size(f"{self._run_dir}/{row['mix']}") != row["bytes"])
            ):
                missing.append(shown)
        return missing

    def _work(self, todo: list[Pair]) -> None:
        self.mixes = self._mix_ledgers()
        try:
            # Another run may have mixed the same music in the same way.
            todo = [pair for pair in todo if self._take_mixes(pair) or self._lacks_images(pair)]
            if todo:
                self._make(todo)
        finally:
            for ledger in self.mixes.values():
                ledger.close()

    def _mix_ledgers(self) -> dict[str, Ledger]:
        folder = self.plan.store / "mixes"
        return {key: Ledger(folder / name / "ledger.jsonl", ("pair_id",)) for key, name in self.mix_signatures.items()}

    def _found(self, mixes: Ledger, key: str, pair: Pair) -> dict[str, Any] | None:
        """The store's row of a mix, if its file is there."""
        kept = mixes.get(pair.pair_id)
        if kept is None or kept["inputs"] != self._inputs(pair):
            return None
        return kept if _size(self._stored(key, pair)) == kept["bytes"] else None

    def _take_mixes(self, pair: Pair) -> list[str]:
        """Take over the mixes that the store holds; returns the presentations that are still missing."""
        missing = self._missing(pair)
        for key in list(missing):
            if (kept := self._found(self.mixes[key], key, pair)) is not None:
                self._enter(pair, key, kept)
                missing.remove(key)
        return missing

    def _stored(self, key: str, pair: Pair) -> Path:
        return self.plan.store / "mixes" / self.mix_signatures[key] / f"{file_name(pair.pair_id)}.flac"

    def _enter(self, pair: Pair, key: str, kept: dict[str, Any]) -> None:
        """Put a mix of the store into the run's folder, and append its row."""
        mix = Path("mixes") / self.name / key / f"{file_name(pair.pair_id)}.flac"
        link_file(self._stored(key, pair), self.plan.run_dir / mix)
        found = {"status": "ok", "reason": "", **kept["facts"], "mix": mix.as_posix()}
        self.rows.append(self._row(pair, key) | found | {name: kept[name] for name in ("sha256", "bytes")})

    def _make(self, todo: list[Pair]) -> None:
        write_text(self.folder / "signature.json", json.dumps(self.generate_settings, indent=1, default=str) + "\n")
        try:
            self.method.prepare(self.plan.context)
        except BlendbenchError as error:
            for pair in todo:
                self.fail(pair, str(error), retry=True)
            print(f"blendbench: arm {self.name} cannot run: {error}", file=sys.stderr)
            return
        with telling.stage(self.name, len(todo), "pair") as told:
            self._make_all(todo, told)

    def _make_all(self, todo: list[Pair], bar: telling.Stage) -> None:
        batch: list[Item] = []
        self._say([])
        # After a death each pair is named before its clip is read.
        noises = map(self._read, todo) if self.alone else self.noises.ahead(pair.clip for pair in todo)
        for pair, noise in zip(todo, noises, strict=True):
            if isinstance(noise, ClipError):
                self.fail(pair, str(noise))
                self._said(bar, 1, len(self.mix_signatures))
                continue
            self.made.refresh()
            self.rows.refresh()
            music = self._kept(pair)
            seed = stable_seed(self.plan.settings["seed"], pair.pair_id)
            item = Item(pair, noise, seed, partial(self.noises.mel, pair.clip))
            if music is not None:
                self._say([item.pair])
                self._present(item, music)
                self._said(bar, 1)
                continue
            batch.append(item)
            if len(batch) >= self.batch.size:
                self._make_batch(batch, bar)
                batch = []
        if batch:
            self._make_batch(batch, bar)

    def _make_batch(self, batch: list[Item], bar: telling.Stage) -> None:
        self._say([item.pair for item in batch])
        self._generate(batch)
        failed = [self.rows.get(item.pair.dataset, self.name, shown, item.pair.pair_id)
                  for item in batch for shown in self.mix_signatures]  # fmt: skip
        self._said(bar, len(batch), sum(row is not None and row["status"] == "failed" for row in failed))

    def _read(self, pair: Pair) -> torch.Tensor | ClipError:
        self._say([pair])
        return self.noises.attempt(pair.clip)

    def _say(self, pairs: list[Pair]) -> None:
        self._began = time.monotonic()
        if self.beat is not None:
            self.beat.begin("make", self.name, [pair.pair_id for pair in pairs])

    def _said(self, bar: telling.Stage, pairs: int, failed: int = 0) -> None:
        bar.update(pairs)
        if self.beat is not None:
            seconds = time.monotonic() - self._began
            self.beat.end(self.name, pairs, pairs * len(self.mix_signatures), failed, seconds)
        self._say([])

    def _kept(self, pair: Pair) -> Music | None:
        """Music that the store already holds for a pair."""
        row = self._whole(pair)
        if row is None or self._lacks_images(pair):
            return None
        return Music(_load(self.folder / row["file"]), row["facts"])

    def _whole(self, pair: Pair) -> dict[str, Any] | None:
        """The store's row of a pair's music, if its file is there."""
        row = self.made.get(pair.pair_id)
        if row is None or row["inputs"] != self._inputs(pair):
            return None
        return row if _size(self.folder / row["file"]) == row["bytes"] else None

    def _generate(self, items: list[Item]) -> None:
        try:
            began = time.monotonic()
            self.batch.begin()
            music = self.method.generate(items)
            self.batch.end()
            seconds = (time.monotonic() - began) / len(items)
            if self.beat is not None:
                self.beat.spend("generate", seconds * len(items))
        except Exception as error:
            if len(items) > 1:
                # One bad pair must not take its batch along; too many pairs are not bad.
                too_many = out_of_memory(error)
                error.__traceback__ = None  # it holds the failed batch's tensors
                if too_many:
                    self.batch.halve(len(items))
                    print(
                        f"blendbench: arm {self.name}: {len(items)} pairs at once do not fit into memory; going on "
                        f"with {self.batch.size}",
                        file=sys.stderr,
                    )
                while items:
                    part = self.batch.size if too_many else 1
                    self._generate(items[:part])
                    items = items[part:]
            else:
                known = isinstance(error, ClipError)
                if not known:
                    traceback.print_exc()
                self.fail(items[0].pair, str(error) if known else f"{type(error).__name__}: {error}", retry=not known)
            return
        for item, piece in zip(items, music, strict=True):
            if not bool(torch.isfinite(piece.waveform).all()):
                self.fail(item.pair, f"{self.name}: the music made has samples that are not finite", retry=True)
                continue
            # Another worker may have been at the same pair, as after a lost node; the first copy counts.
            self.made.refresh()
            if (other := self._kept(item.pair)) is not None:
                self._present(item, other)
                continue
            file = self.folder / f"{file_name(item.pair.pair_id)}.wav"
            digest = audio.write(file, piece.waveform, SAMPLE_RATE, subtype="FLOAT")
            row: dict[str, Any] = {
                "pair_id": item.pair.pair_id,
                "inputs": self._inputs(item.pair),
                "file": file.name,
                "bytes": file.stat().st_size,
                "sha256": digest,
                "facts": piece.facts,
                "seconds": round(seconds, 3),
            }
            if self.plan.settings["keep_images"]:
                row["images"] = [f"{file.stem}-{name}.png" for name in piece.images]
                for name, image in piece.images.items():
                    write_image(self.folder / f"{file.stem}-{name}.png", image)
            self.made.append(row)
            self._present(item, piece)

    def _present(self, item: Item, music: Music) -> None:
        """Mix a pair in every presentation that lacks it, and append the rows."""
        plan, began = self.plan, time.monotonic()
        last = began
        for key in self._missing(item.pair):
            self.mixes[key].refresh()
            if (kept := self._found(self.mixes[key], key, item.pair)) is not None:
                self._enter(item.pair, key, kept)
                continue
            shown = plan.presentations[key]
            try:
                result = present(
                    item.noise, music.waveform, shown, self.method.adaptive, plan.amplification, plan.settings["mask"]
                )
            except ClipError as error:
                self.fail(item.pair, f"{self.name}: {error}", only=key)
                continue
            leveled, attenuation = audio.limit_peak(result.mix)
            file = self._stored(key, item.pair)
            digest = audio.write(file, leveled, SAMPLE_RATE, subtype="PCM_24")
            kept = {
                "pair_id": item.pair.pair_id,
                "inputs": self._inputs(item.pair),
                "sha256": digest,
                "bytes": file.stat().st_size,
                "facts": result.facts | {"attenuation_db": round(attenuation, 6), "seed": item.seed} | music.facts,
                "seconds": round(time.monotonic() - last, 3),
            }
            last = time.monotonic()
            self.mixes[key].append(kept)
            self._enter(item.pair, key, kept)
        if self.beat is not None:
            self.beat.spend("present", time.monotonic() - began)

    def _row(self, pair: Pair, presentation: str) -> dict[str, Any]:
        return {
            "pair_id": pair.pair_id,
            "arm": self.name,
            "dataset": pair.dataset,
            "presentation": presentation,
            "clip": pair.clip.id,
            "label": pair.clip.label,
            "genre": pair.prompt.genre,
            "prompt": pair.prompt.text,
            "signature": self.mix_signatures[presentation],
            "inputs": self._inputs(pair),
        }

    def fail(self, pair: Pair, reason: str, retry: bool = False, only: str | None = None) -> int:
        """Enter the presentations of a pair that are missing, or one, as failed; with `retry` for this time only.

        Returns how many rows that is.
        """
        keys = [only] if only else self._missing(pair)
        for key in keys:
            row = self._row(pair, key) | {"status": "failed", "reason": " ".join(reason.split())}
            self.rows.append(row | ({"retry": True} if retry else {}))
        return len(keys)


def describe(plan: Plan) -> str:
    """What `dry_run` prints: what would be done, what is there already, and how long it may take by earlier rows."""
    from blendbench.scoring import mix_key, reference_key

    executor = executors.from_settings(plan.settings)
    pairs, mixes = len(plan.pairs), len(plan.pairs) * len(plan.arms) * len(plan.presentations)
    lines = [
        f"{pairs} pairs x {len(plan.arms)} arms x {len(plan.presentations)} presentations "
        f"({', '.join(plan.presentations)}), {len(plan.reference)} reference clips",
        f"folder {plan.run_dir}, store {plan.store}",
        f"executor: {executor.describe(plan)}",
        "",
        f"{'arm, in pairs':<20}{'done':>9}{'to link':>9}{'to mix':>9}{'to make':>9}{'s/pair':>9}",
    ]
    total, unknown = 0.0, []
    with plan.opened() as arms:
        surveys = {name: arm.survey() for name, arm in arms.items()}
    for name, found in surveys.items():
        make = pairs - found.done - found.mixed - found.made
        pace = "?" if found.generate is None else f"{found.generate:.2f}"
        lines.append(f"{name:<20}{found.done:>9}{found.mixed:>9}{found.made:>9}{make:>9}{pace:>9}")
        if make and found.generate is None:
            unknown.append(name)
        total += make * (found.generate or 0.0) + (make + found.made) * (found.present or 0.0)
    lines += ["", f"{'scores, in sounds':<20}{'done':>9}{'':>9}{'':>9}{'to score':>9}{'s/sound':>9}"]
    keys = [key for clip in plan.reference if (key := reference_key(clip, plan.settings["noise"]["seconds"]))]
    keys += [mix_key(row) for row in plan.rows if row.get("status") == "ok"]
    for scorer in plan.scoring.scorers.values():
        done, seconds = scorer.known(keys), scorer.seconds()
        score = mixes + len(plan.reference) - done
        pace = "?" if seconds is None else f"{seconds:.2f}"
        lines.append(f"{scorer.evaluator.name:<20}{done:>9}{'':>9}{'':>9}{score:>9}{pace:>9}")
        if score and seconds is None:
            unknown.append(scorer.evaluator.name)
        total += score * (seconds or 0.0)
    workers = executor.workers(plan)
    told = (
        f"about {telling.clock(total / workers)} with {workers} worker{'s' * (workers > 1)}, by what earlier rows took"
    )
    if unknown:
        told += f"; nothing is known yet of {', '.join(unknown)}"
    return "\n".join([*lines, "", told])


def read_mix(run_dir: Path, row: dict[str, Any]) -> torch.Tensor:
    """The mix of a row at its true level: the attenuation that kept the file from clipping is undone."""
    return _load(run_dir / row["mix"]) * audio.from_db(row["attenuation_db"])


def _size(path: Path | str) -> int:
    """Bytes of a file, or 0 where it cannot be found."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called a million times, it is worth half of what a Path costs
    except OSError:
        return 0


def _load(path: Path) -> torch.Tensor:
    """A mono file that this package wrote, silence allowed."""
    try:
        return torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    except (soundfile.SoundFileError, OSError) as error:
        raise BlendbenchError(f"{path}: cannot be read again ({error}); delete it and run once more") from None


def run(settings: dict[str, Any], say: Callable[[str], None] = print) -> Path | None:
    """The whole way: generate, present, score, tabulate, report; returns the run's folder.

    Returns None after a `dry_run`, which says the plan, and where the executor leaves the run to be finished later.

    Raises
    ------
    BlendbenchError
        See `prepare`; a failing clip or arm does not raise, it is told in rows and in the table.
    """
    from blendbench import report, results

    executor = executors.from_settings(settings)
    with finished.Watch() as watch:
        with telling.stage("prepare", kind="prepare"):
            plan = prepare(settings)
        watch.add({clip.path for clip in (*plan.reference, *plan.music)} | {pair.clip.path for pair in plan.pairs})
        for note in plan.notes:
            say(note)
        if settings["dry_run"]:
            say(describe(plan))
            return None
        with telling.stage("prepare", kind="prepare"):
            begin(plan)
        say(
            f"{len(plan.pairs)} pairs x {len(plan.arms)} arms x {len(plan.presentations)} presentations "
            f"in {plan.run_dir}"
        )
        run_dir = plan.run_dir
        with plan.beat as beat:
            if not _make(plan, executor):
                return None
            del plan  # a million pairs take as much memory as what comes now
            with _stage(beat, "tabulate"):
                results.tabulate(run_dir, settings)
            with _stage(beat, "figures"):
                draw_figures(run_dir, settings)
            if settings["report"]:
                with _stage(beat, "report"):
                    report.write(run_dir, settings)
            with _stage(beat, "W&B"):
                mirrored = tracking.mirror(run_dir, settings)
            if mirrored:
                say(f"W&B    {mirrored}")
    finished.note(run_dir, settings, watch.files)
    return run_dir


@contextmanager
def _stage(beat: progress.Beat, name: str) -> Iterator[None]:
    """A stage of the command after its pairs, as `status` and the lines of progress tell it."""
    with telling.stage(name, kind=name):
        beat.begin(name)
        yield


def _make(plan: Plan, executor: executors.Executor) -> bool:
    """Have all rows of a run made; False where the executor leaves it to others.

    Raises
    ------
    BlendbenchError
        If rows are still not there in the end, or the executor says why it cannot go on.
    """
    for _ in range(3):
        plan.beat.begin("leads")
        with telling.stage("make", kind="make", bar=False):
            if not executor.run(plan):
                return False
            lacking = merge(plan)
        if not lacking:
            link_images(plan)
            return True
    raise BlendbenchError(f"{plan.run_dir}: {lacking} rows are still not there; run the same command again")


def draw_figures(run_dir: Path, settings: dict[str, Any]) -> None:
    """Draw the experiment's figures; one that cannot be drawn is told, and the rest of the run stands."""
    if settings["experiment"].get("figures"):
        from blendbench import figures  # slow to import

        figures.draw(run_dir, settings)
