"""The report of a run: a folder with one page that shows the tables, the figures, and every pair to listen to.

`report/index.html` opens from disk without a network, and goes on working where the run's folder is moved as a whole:
it refers to mixes and figures of the run by relative paths, and to what lies beside it, noises and music
(`audio/*.flac`), mel images (`images/*.png`) and the data of the players (`data.js`). Template, style and script are
files in `report_page/`. Nothing in the folder names a place on this machine.

A run keeps mixes alone. The noise is read as the run read it, and the music is mix minus noise, once an arm, as
presentations differ by a gain. All sounds of a pair are heard at their true levels relative to each other: files are
scaled, and players turned down, to one common factor a pair.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from blendbench import audio, spectrogram, tables, telling
from blendbench.clips import SAMPLE_RATE, ahead
from blendbench.errors import BlendbenchError
from blendbench.results import read, read_rows
from blendbench.runner import file_name, read_mix
from blendbench.sounds import Sounds
from blendbench.store import signature, write_bytes, write_text

SOUNDS_VERSION = 1
_ASSETS = Path(__file__).with_name("report_page")
_DATA = "const REPORT = "
_IMAGE_SIZE = (256, 192)
_PEAK = 0.98
"""Highest sample of a file written."""

Key = tuple[str, str]
"""Data set and id of a pair."""
Place = tuple[str, str]
"""Presentation and arm."""
Rows = dict[Place, dict[str, Any]]
"""A pair's rows."""
Sound = tuple[str, str, str]
"""What it is (noise, music or mix), presentation and arm."""
_NOISE: Sound = ("noise", "", "")


def write(run_dir: Path, settings: dict[str, Any], most: int = 60) -> Path:
    """Write `report/` and return the path of its `index.html`.

    Sounds and images that are there already and still right are left alone; those of pairs no longer shown go.

    Parameters
    ----------
    run_dir : Path
        A run's folder with `pairs.jsonl` and `table.csv`; `results.csv`, `scores.csv`, `comparisons.csv` and
        `figures/` are shown where they are there.
    settings : dict
        The run's.
    most : int
        Pairs shown: so many in the run's order, and up to twice as many more that are the best, median or worst by a
        metric.

    Raises
    ------
    BlendbenchError
        If the folder is no run's, has no table yet, or cannot be written.
    """
    rows = read_rows(run_dir)
    try:
        table = tables.read_csv(run_dir / "table.csv")
    except (OSError, ValueError, csv.Error):
        raise BlendbenchError(f"{run_dir}: no table yet; run `blendbench table {run_dir}` first") from None
    found = _results(run_dir)
    hide = _Hide(run_dir, settings)
    run = _Run(rows, settings, _read_csv(run_dir / "scores.csv"))
    chosen, left_out = run.shown(most)
    folder = run_dir / "report"
    sounds = _Sounds(run_dir, settings, run, _kept(folder / "data.js"))
    pairs = []
    with telling.stage("report", len(chosen), "pair") as told:
        # Files are read, packed and synced outside of Python's lock, so threads share the cores.
        for key, heard in zip(chosen, ahead(sounds.of, chosen), strict=True):
            pairs.append(run.facts(key, hide) | heard)
            told.update()
    data = {
        "seconds": settings["noise"]["seconds"],
        "presentations": [label for _, label in run.presentations.items()],
        "arms": [label for _, label in run.arms.items()],
        "measures": [measure._asdict() for measure in run.measures],
        "cases": run.cases(chosen),
        "choices": {name: sorted({pair[name] for pair in pairs}) for name in ("label", "genre", "dataset")},
        "pairs": pairs,
    }
    page = _environment().get_template("index.html").render(
        title=settings["experiment"]["title"],
        table=_table(table, set() if found is None else tables.best(found, settings)),
        notes=[] if found is None else [hide(note) for note in tables.notes(found, settings)],
        comparisons=_comparisons(run_dir, settings),
        figures=_figures(run_dir),
        settings=hide(_text(run_dir / "config.yaml")),
        first=most,
        left_out=left_out,
        total=len(run.pairs),
        failed=sum(row["status"] != "ok" for row in rows),
        rows=len(rows),
        datasets=list(settings["dataset"]),
        **data,
    )  # fmt: skip
    for name in ("report.css", "report.js"):
        write_text(folder / name, _text(_ASSETS / name))
    write_text(folder / "data.js", f"{_DATA}{json.dumps(data, allow_nan=False)};\n")
    write_text(folder / "index.html", page)
    _tidy(folder, _files(pairs))
    return folder / "index.html"


class _Measure(NamedTuple):
    """What pairs can be sorted by."""

    name: str
    label: str
    unit: str
    better: int
    """1 where higher is better, -1 where lower is, 0 where neither."""


class _Run:
    """A run's rows by pair, its arms and presentations in the table's order, and its scores."""

    def __init__(self, rows: Iterable[dict[str, Any]], settings: Mapping[str, Any], scores: pd.DataFrame) -> None:
        self.pairs: dict[Key, Rows] = {}
        self.presentations = tables.presentation_labels(settings)
        names = {}
        for row in rows:
            self.pairs.setdefault((row["dataset"], row["pair_id"]), {})[row["presentation"], row["arm"]] = row
            names[row["arm"]] = row["arm"]
        labels = tables.labels(settings)
        self.arms = {name: label for name, label in labels.items() if name in names}
        self.arms |= {name: label for name, label in names.items() if name not in labels}
        columns = [str(name) for name in scores.columns]
        values = scores.iloc[:, columns.index("gain_db") + 1 :] if "gain_db" in columns else scores.iloc[:, :0]
        values = values.apply(pd.to_numeric, errors="coerce").dropna(axis="columns", how="all")
        self.measures = []
        for name in map(str, values.columns):
            shown = tables.metric(name)
            better = 0 if shown.higher_is_better is None else 1 if shown.higher_is_better else -1
            self.measures.append(_Measure(name, shown.label, shown.unit, better))
        self._scores = {}
        if self.measures:
            keys = scores[["dataset", "pair_id", "presentation", "arm"]].itertuples(index=False, name=None)
            self._scores = dict(zip(keys, values.astype(float).values.tolist(), strict=True))
        self.measures.append(_Measure("gain_db", "Gain of the music", "dB", 0))

    def values(self, key: Key, presentation: str, arm: str) -> list[float | None]:
        """The value of every measure for a pair, presentation and arm."""
        row = self.pairs[key].get((presentation, arm), {})
        found = self._scores.get((*key, presentation, arm), [math.nan] * (len(self.measures) - 1))
        gain = row.get("gain_db")
        return [one if math.isfinite(one) else None for one in (*found, math.nan if gain is None else float(gain))]

    def _ranked(self, keys: Iterable[Key], presentation: str, arm: str) -> list[list[Key]]:
        """By measure: the pairs that have a value, the best (or, without a direction, the lowest) first."""
        keys = list(keys)
        table = [self.values(key, presentation, arm) for key in keys]
        out = []
        for place, measure in enumerate(self.measures):
            sign = -1 if measure.better > 0 else 1
            there = [(sign * value, at) for at, line in enumerate(table) if (value := line[place]) is not None]
            out.append([keys[at] for _, at in sorted(there)])
        return out

    def shown(self, most: int) -> tuple[list[Key], int]:
        """The pairs of the page, the first and the best, median and worst by every metric; how many did not fit."""
        chosen = dict.fromkeys(list(self.pairs)[:most])
        extra: dict[Key, None] = {}
        for presentation in self.presentations:
            for arm in self.arms:
                for ranked in self._ranked(self.pairs, presentation, arm)[:-1]:
                    extra |= dict.fromkeys(key for key in _three(ranked) if key not in chosen)
        chosen |= dict.fromkeys(list(extra)[: 2 * most])
        return [key for key in self.pairs if key in chosen], max(0, len(extra) - 2 * most)

    def cases(self, shown: Sequence[Key]) -> list[list[list[list[int]]]]:
        """Places of the best, median and worst pair on the page, by presentation, arm and measure.

        Of all pairs of the run where these three are on the page, else of the page's pairs.
        """
        place = {key: at for at, key in enumerate(shown)}

        def of(presentation: str, arm: str) -> list[list[int]]:
            whole, here = (self._ranked(keys, presentation, arm) for keys in (self.pairs, shown))
            picked = [_three(every) for every in whole]
            picked = [
                three if set(three) <= set(place) else _three(page) for three, page in zip(picked, here, strict=True)
            ]
            return [[place[key] for key in three] for three in picked]

        return [[of(presentation, arm) for arm in self.arms] for presentation in self.presentations]

    def facts(self, key: Key, hide: "_Hide") -> dict[str, Any]:
        """What the page says of a pair, and its cells by presentation and arm; None where there is no row."""
        any_row = next(iter(self.pairs[key].values()))
        words = {
            name: str(any_row.get(name, "")) for name in ("dataset", "pair_id", "clip", "label", "genre", "prompt")
        }
        cells = [[self._cell(key, name, arm, hide) for arm in self.arms] for name in self.presentations]
        return words | {"cells": cells}

    def _cell(self, key: Key, presentation: str, arm: str, hide: "_Hide") -> dict[str, Any] | None:
        row = self.pairs[key].get((presentation, arm))
        if row is None:
            return None
        if row["status"] != "ok":
            return {"reason": hide(row.get("reason") or "failed")}
        if row.get("gain_db") is None:
            told = "no music"
        else:
            told = f"gain {row['gain_db']:+.1f} dB"
            told += f" (at its {row['bound']}imum)" if row.get("bound") in ("min", "max") else ""
            told += "" if row.get("music_lufs") is None else f", {row['music_lufs']:.1f} LUFS"
        src = quote(f"../{row['mix']}")
        return {"reason": "", "told": told, "src": src, "values": self.values(key, presentation, arm)}


def _three(ranked: Sequence[Key]) -> list[Key]:
    """Best, median (the better of two) and worst."""
    return [ranked[0], ranked[(len(ranked) - 1) // 2], ranked[-1]] if ranked else []


class _Sounds:
    """Noises, music and mel images of pairs, written below `report/`; what the page must know to play them.

    Parameters
    ----------
    run_dir : Path
    settings : dict
    run : _Run
    kept : dict
        What the report that is there says of its sounds, by their key.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any], run: _Run, kept: Mapping[str, dict[str, Any]]) -> None:
        self.run_dir, self.settings, self.run, self.kept = run_dir, settings, run, kept
        self.folder = run_dir / "report"
        self.heard = Sounds(run_dir, settings)

    def of(self, key: Key) -> dict[str, Any]:
        """A pair's `noise` and `sounds` (by presentation and arm, `mix` and `music`), and a `note` of what lacks."""
        rows = {place: row for place, row in self.run.pairs[key].items() if row["status"] == "ok"}
        identity = {
            "pair": key,
            "noise": self.settings["noise"],
            "arms": list(self.run.arms),
            "presentations": list(self.run.presentations),
            "rows": {" ".join(place): [row.get(name) for name in _SOUND] for place, row in sorted(rows.items())},
        }
        name = signature("report", SOUNDS_VERSION, identity)
        kept = self.kept.get(name)
        if kept is not None:
            files = [self.folder / file for file in _files([kept])]
            if all(file.is_file() for file in (*files, *(self.run_dir / row["mix"] for row in rows.values()))):
                return kept
        found, notes = self._make(key, rows)
        return {"sounds_key": "" if notes else name, "note": " ".join(notes), **found}

    def _make(self, key: Key, rows: Rows) -> tuple[dict[str, Any], list[str]]:
        notes: list[str] = []
        mixes = self._mixes(rows)
        if len(mixes) < len(rows):
            notes.append("Mixes are missing or damaged: run the same command again.")
        noise = None
        try:
            noise = self._noise(rows) if rows else None
        except BlendbenchError:
            notes.append("The noise is no longer where the run read it: no noise or music alone.")
        waves = {("mix", *place): mix for place, mix in mixes.items()}
        loudest: dict[str, Place] = {}
        if noise is not None:
            waves[_NOISE] = noise
            loudest = _loudest(rows, mixes)
            waves |= {("music", *place): mixes[place] - noise for place in loudest.values()}
        # How far each presentation turns its arm's music down.
        turned = {
            place: audio.from_db(rows[place]["gain_db"] - rows[loudest[place[1]]]["gain_db"])
            for place in mixes
            if place[1] in loudest and rows[place].get("gain_db") is not None
        }
        factor = self._factor(rows, waves)
        images = self._images(key, waves, loudest, turned)
        files = {}
        for what, wave in waves.items():
            if what[0] != "mix":
                files[what] = f"audio/{_stem(key, what)}.flac"
                audio.write(self.folder / files[what], wave * factor, SAMPLE_RATE, "PCM_16")
        cells: list[list[dict[str, Any]]] = [[{} for _ in self.run.arms] for _ in self.run.presentations]
        for line, presentation in zip(cells, self.run.presentations, strict=True):
            for cell, arm in zip(line, self.run.arms, strict=True):
                place = (presentation, arm)
                if place in mixes:
                    volume = factor * audio.from_db(rows[place]["attenuation_db"])
                    cell["mix"] = _player(quote(f"../{rows[place]['mix']}"), images["mix", *place], volume)
                if place in turned:
                    file = files["music", *loudest[arm]]
                    cell["music"] = _player(file, images["music", *place], turned[place])
        heard = None if noise is None else _player(files[_NOISE], images[_NOISE], 1.0)
        return {"noise": heard, "sounds": cells}, notes

    def _mixes(self, rows: Rows) -> dict[Place, torch.Tensor]:
        """The mixes that are there and whole, at their true level."""
        found = {}
        for place, row in rows.items():
            try:
                mix = read_mix(self.run_dir, row)
            except BlendbenchError:
                continue
            if mix.shape == (self.heard.noises.samples,):
                found[place] = mix
        return found

    def _noise(self, rows: Rows) -> torch.Tensor:
        """The pair's noise [samples], as it lies in the mixes; raises BlendbenchError where it is not the same."""
        row = next(iter(rows.values()))
        if row["dataset"] not in self.settings["dataset"]:
            raise BlendbenchError(f"dataset.{row['dataset']}: not among the run's")
        content = self.heard.noises.content(self.heard.clip(row))
        if content[:16] != row.get("inputs", "").partition("-")[0]:
            raise BlendbenchError(f"{row['clip']}: not what the run heard")
        return self.heard.noise(row)

    @staticmethod
    def _factor(rows: Rows, waves: Mapping[Sound, torch.Tensor]) -> float:
        """What every sound of the pair is scaled by: none clips, and no player turns its file up."""
        limits = [1.0]
        for what, wave in waves.items():
            if what[0] == "mix":
                limits.append(audio.from_db(-rows[what[1:]]["attenuation_db"]))
            else:
                limits.append(_PEAK / max(float(wave.abs().max()), _PEAK))
        return min(limits)

    def _images(
        self,
        key: Key,
        waves: Mapping[Sound, torch.Tensor],
        loudest: Mapping[str, Place],
        turned: Mapping[Place, float],
    ) -> dict[Sound, str]:
        """Names of the mel images of all sounds, (S / S_max)^0.25 with one S_max a pair."""
        if not waves:
            return {}
        found = spectrogram.mel_amplitudes(torch.stack(list(waves.values())), _lattice(self.heard.noises.samples))
        mels = dict(zip(waves, found, strict=True))
        mels |= {("music", *place): mels["music", *loudest[place[1]]] * level for place, level in turned.items()}
        peak = max(float(found.max()), 1e-12)
        images = {}
        for what, mel in mels.items():
            if what[0] == "mix" and _NOISE in mels and what[1:] not in turned:
                images[what] = f"images/{_stem(key, _NOISE)}.png"  # without music, the mix is the noise
                continue
            images[what] = f"images/{_stem(key, what)}.png"
            write_bytes(self.folder / images[what], _png(mel / peak))
        return images


_SOUND = ("sha256", "attenuation_db", "gain_db", "mix", "inputs", "clip")
"""What of a row changes its sounds."""


def _loudest(rows: Rows, mixes: Iterable[Place]) -> dict[str, Place]:
    """By arm, where its music is loudest: that is written, and other presentations turn it down."""
    found: dict[str, Place] = {}
    for place in mixes:
        gain, arm = rows[place].get("gain_db"), place[1]
        if gain is not None and (arm not in found or gain > rows[found[arm]]["gain_db"]):
            found[arm] = place
    return found


def _player(src: str, image: str, volume: float) -> dict[str, Any]:
    return {"src": src, "image": image, "volume": round(min(1.0, volume), 6)}


def _stem(key: Key, what: Sequence[str]) -> str:
    """A file name for a sound of a pair, without its ending."""
    dataset, pair = key
    whole = pair if pair.startswith(dataset) else f"{dataset}--{pair}"
    return file_name("--".join([whole, *(word for word in what[1:] if word), what[0]]))


def _lattice(samples: int) -> spectrogram.MelSettings:
    """The lattice of a small image of so many samples."""
    width, height = _IMAGE_SIZE
    hop = max(1, samples // (width - 1))
    window = max(4096, hop)
    return spectrogram.MelSettings(n_fft=window, win_length=window, hop_length=hop, n_mels=height, frames=width)


def _png(mel: torch.Tensor) -> bytes:
    """A PNG of mel amplitudes [mels, frames] in 0..1: low frequencies at the bottom, colours of magma."""
    levels = (mel.clamp(0, 1) ** spectrogram.RIFFUSION.power * 255).round().to(torch.uint8).flip(-2)
    image = Image.fromarray(levels.numpy()).convert("P")
    image.putpalette(_colours())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _colours() -> bytes:
    """The 256 colours of magma, three bytes each."""
    import matplotlib

    return matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3].tobytes()


def _files(pairs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Files in the report's folder that the pairs refer to."""
    for pair in pairs:
        players = [pair["noise"], *(cell.get(kind) for line in pair["sounds"] for cell in line for kind in _KINDS)]
        for player in players:
            if player is not None:
                yield from (player[name] for name in ("src", "image") if not player[name].startswith("../"))


_KINDS = ("music", "mix")


def _kept(file: Path) -> dict[str, dict[str, Any]]:
    """Sounds of the report that is there, by what they were made from; none where it cannot be read."""
    try:
        pairs = json.loads(_text(file).removeprefix(_DATA).rstrip("\n;"))["pairs"]
        found = {pair["sounds_key"]: {name: pair[name] for name in _KEPT} for pair in pairs if pair["sounds_key"]}
        list(_files(found.values()))
    except (BlendbenchError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


_KEPT = ("sounds_key", "note", "noise", "sounds")


def _tidy(folder: Path, wanted: Iterable[str]) -> None:
    """Delete sounds and images that the page no longer shows."""
    there = set(wanted)
    for pattern in ("audio/*.flac", "images/*.png"):
        for file in folder.glob(pattern):
            if file.relative_to(folder).as_posix() not in there:
                file.unlink(missing_ok=True)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BlendbenchError(f"{file}: cannot be read; run the same command again") from None


def _read_csv(file: Path) -> pd.DataFrame:
    """A table of texts; empty where a run, being older, has none."""
    if not file.exists():
        return pd.DataFrame()
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BlendbenchError(f"{file}: cannot be read ({error}); run `blendbench table {file.parent}`") from None


def _results(run_dir: Path) -> pd.DataFrame | None:
    """The run's results; None where there are none."""
    file = run_dir / "results.csv"
    return read(run_dir) if file.exists() else None


def _table(table: pd.DataFrame, bold: set[tuple[str, str]]) -> dict[str, Any]:
    """The paper-layout table: `groups` (heading, columns), `heads`, and lines of cells (value, interval, bold)."""
    groups, heads = tables.headings(table)
    lines = [
        [
            (*tables.parts(cell), (row[0], column) in bold)
            for column, cell in zip(map(str, table.columns), row, strict=True)
        ]
        for row in table.values.tolist()
    ]
    return {"groups": groups, "heads": heads, "lines": lines}


def _comparisons(run_dir: Path, settings: Mapping[str, Any]) -> list[list[str]]:
    """Lines of `comparisons.csv` as texts: data set, presentation, metric, arms, difference, p, Holm's, n, test."""
    arms, shown = tables.labels(settings), tables.presentation_labels(settings)
    lines = []
    for row in _read_csv(run_dir / "comparisons.csv").to_dict("records"):
        presentation = shown.get(row["presentation"], row["presentation"])
        value, low, high, p, holm = (_number(row[key]) for key in ("difference", "ci_low", "ci_high", "p", "p_holm"))
        difference = f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"
        names = [arms.get(row[key], row[key]) for key in ("arm", "other")]
        tested = [difference, f"{p:.2g}", f"{holm:.2g}", row["n"], row["test"]]
        lines.append([row["dataset"], presentation, tables.metric(row["metric"]).label, *names, *tested])
    return lines


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _figures(run_dir: Path) -> list[dict[str, Any]]:
    """Figures of the run, with the files of the same name that are not images."""
    found = []
    for file in sorted((run_dir / "figures").glob("*.png")):
        beside = [file.with_suffix(ending) for ending in (".pdf", ".csv")]
        links = [(one.suffix[1:].upper(), quote(f"../figures/{one.name}")) for one in beside if one.is_file()]
        found.append({"name": file.stem, "src": quote(f"../figures/{file.name}"), "links": links})
    return found


class _Hide:
    """Takes the places of this machine out of texts: of an absolute path, the last part stays."""

    _PATH = re.compile(r"""(?<![\w./:…-])(?:/[^\s/'"`:,;()\[\]{}<>]+){2,}/?""")

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        known = {str(run_dir.absolute()), str(run_dir.resolve()), str(Path.cwd()), str(Path.home())}
        known |= {text.rstrip("/") for text in _strings(settings) if text.startswith("/")}
        # The longest first: one may lie in another.
        self._known = sorted((text for text in known if text.count("/") > 1), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text with every absolute path cut."""
        for known in self._known:
            text = text.replace(known, f"…/{known.rpartition('/')[2]}")
        return self._PATH.sub(lambda match: "…/" + match[0].rstrip("/").rpartition("/")[2], text)


def _strings(settings: Any) -> Iterator[str]:
    """Every text in nested settings."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for value in settings.values():
            yield from _strings(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _strings(value)
