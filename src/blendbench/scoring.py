"""What a run asks of single sounds: scores of mixes and reference clips, and how audible the noise stays in a mix.

All is kept in the store by content, so it may be asked for part by part, by any worker, and again by who tabulates.
"""

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from blendbench import audio, telling
from blendbench.clips import read_music
from blendbench.datasets import MusicClip
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.evaluators import Evaluator, KeptScores, Scorer, Unscored, from_settings
from blendbench.metrics import audibility
from blendbench.runner import SAMPLE_RATE, pick_device, read_mix
from blendbench.sounds import Sounds
from blendbench.store import Ledger, file_hash, signature

AUDIBILITY_VERSION = 1
_PART = 256


def mix_key(row: dict[str, Any]) -> str:
    """What identifies the sound of a row's mix."""
    return f"{row['sha256']}:{row['attenuation_db']}"


def reference_key(clip: MusicClip, seconds: float) -> str | None:
    """What identifies the sound of a reference clip; None, with a line on stderr, where it cannot be read."""
    try:
        check_links(clip.path, clip.root)
        start = f"{clip.start:g}s+" if clip.start else ""
        return f"{file_hash(clip.path)}:{start}{seconds}s"
    except (OSError, ValueError):
        print(f"blendbench: reference clip left out: {printable(clip.path)} cannot be read", file=sys.stderr)
    except ClipError as error:
        print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
    return None


class Scoring:
    """The evaluators of a run and the measures of audibility, with all that they have said before.

    Parameters
    ----------
    run_dir : Path
    settings : dict
        The run's.

    Raises
    ------
    BlendbenchError
        If a metric's model is missing.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        self.run_dir, self.settings, self.seconds = run_dir, settings, settings["noise"]["seconds"]
        self.evaluators: dict[str, Evaluator] = from_settings(settings)
        store, device = Path(settings["store_dir"]), pick_device(settings["device"])
        self.scorers = {id(one): Scorer(one, store, device) for one in self.evaluators.values()}
        self.audible_names = [name for name in settings["experiment"]["metrics"] if name in audibility.METRICS]
        self._mask = {name: settings["mask"][name] for name in ("core_fraction", "pixel_threshold")}
        self._smr_db = settings["amplification"]["smr_db"]
        kept = {
            "mask": self._mask, "smr_db": self._smr_db, "noise": settings["noise"],
            "measures": sorted(audibility.METRICS),
        }  # fmt: skip
        place = store / "audibility" / signature("audibility", AUDIBILITY_VERSION, kept)
        self._measured, self._sounds = Ledger(place / "measures.jsonl", ("key",)), Sounds(run_dir, settings)

    def mixes(self, scorer: Scorer, rows: Sequence[dict[str, Any]], title: str = "") -> KeptScores:
        """Scores of the mixes of rows; raises BlendbenchError, naming the mix, if one cannot be scored."""

        def read(index: int) -> torch.Tensor:
            return audio.resample(read_mix(self.run_dir, rows[index]), SAMPLE_RATE, scorer.evaluator.sample_rate)

        try:
            return scorer.scores(map(mix_key, rows), read, title and f"{scorer.evaluator.name}: {title}")
        except Unscored as error:
            raise BlendbenchError(f"{self.run_dir / rows[error.index]['mix']}: {error}") from error

    def reference(self, scorer: Scorer, clips: list[MusicClip], keys: list[str], title: str = "") -> KeptScores:
        """Scores of reference clips, under their `reference_key`s.

        A clip that cannot be scored is taken out of both lists, with a line on stderr where there is a title.
        """

        def read(index: int) -> torch.Tensor:
            return read_music(clips[index], scorer.evaluator.sample_rate, self.seconds)

        while True:
            try:
                return scorer.scores(keys, read, title and f"{scorer.evaluator.name}: {title}")
            except Unscored as error:
                if title:
                    print(f"blendbench: reference clip left out: {error}", file=sys.stderr)
                del clips[error.index], keys[error.index]

    def audible(self, rows: Sequence[dict[str, Any]], title: str = "") -> list[dict[str, float]]:
        """The measures of audibility of each row; none for a row whose noise cannot be read, with a line on stderr."""
        values: list[dict[str, float]] = []
        self._measured.refresh()
        try:
            with telling.stage(title or "audibility", len(rows), "mix", bar=bool(title), kind="score") as told:
                for row in rows:
                    values.append(self._audible(row))
                    told.update()
        finally:
            self._measured.close()
        return values

    def _audible(self, row: dict[str, Any]) -> dict[str, float]:
        key = f"{mix_key(row)}:{row['inputs'].partition('-')[0]}"
        found = self._measured.get(key)
        if found is None:
            try:
                noise, music = self._sounds.noise(row), self._sounds.music(row)
                measured = audibility.measure(noise, music, smr_db=self._smr_db, **self._mask)
            except ClipError as error:
                print(f"blendbench: {row['pair_id']}: audibility not measured: {error}", file=sys.stderr)
                measured = {}
            found = {"key": key} | {k: None if math.isnan(v) else v for k, v in measured.items()}
            self._measured.append(found)
        return {k: math.nan if v is None else v for k, v in found.items() if k != "key"}

    def part(self, rows: Iterable[dict[str, Any]], clips: Sequence[MusicClip]) -> None:
        """Score some rows and reference clips, so that it is done when the run is tabulated.

        A sound that cannot be scored is left to the tabulation, which says what becomes of it.
        """
        keyed = [(clip, key) for clip in clips if (key := reference_key(clip, self.seconds))]
        for scorer in self.scorers.values():
            self.reference(scorer, [clip for clip, _ in keyed], [key for _, key in keyed])
        iterator = iter(rows)
        while some := list(itertools.islice(iterator, _PART)):
            for scorer in self.scorers.values():
                self.mixes(scorer, some)
            if self.audible_names:
                self.audible(some)
