"""Figures of experiments, from a run's files: the paper's, and the plot of a sweep.

A figure is a function of a run's folder and settings, named by `_target_` in `experiment.figures`; it writes
`RUN_DIR/figures/NAME.png` (and `.pdf` where lines make it worth while) and returns the paths.
"""

import itertools
import math
import sys
import textwrap
import traceback
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from blendbench import masking, spectrogram, tables
from blendbench.clips import SAMPLE_RATE
from blendbench.errors import BlendbenchError
from blendbench.metrics import audibility, masking_model
from blendbench.results import read, read_rows
from blendbench.runner import file_name
from blendbench.sounds import Sounds
from blendbench.store import write_bytes
from blendbench.texts import csv_text, short, shown

_UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".svg": {"Date": None},
}  # fmt: skip

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


def draw(run_dir: Path, settings: dict[str, Any]) -> list[Path]:
    """Draw every figure of the run's experiment; returns the files. One that cannot be drawn is a line on stderr."""
    from blendbench import config

    files: list[Path] = []
    for number, entry in enumerate(settings["experiment"].get("figures") or []):
        key = f"experiment.figures[{number}]"
        if entry is None:
            continue
        try:
            files += config.build(entry, key, settings["allow_targets"], run_dir=run_dir, settings=settings)
        except BlendbenchError as error:
            _tell(f"no figure: {error}")
        except Exception as error:  # a figure of one's own may raise anything, and the run's results stand
            traceback.print_exc()
            _tell(f"no figure: {key}: unexpected {type(error).__name__}: {error}")
    return files


def _tell(text: str) -> None:
    print("blendbench: " + " ".join(text.split()), file=sys.stderr)


class _Sounds(Sounds):
    """The sounds of a run's rows, and which of them to show."""

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        super().__init__(run_dir, settings)
        self.rows = [row for row in read_rows(run_dir) if row["status"] == "ok"]

    def presentation(self, wanted: str, name: str) -> tuple[str, str]:
        """The presentation that figure `name` shows, and its label if it is not the one wanted, which the run lacks."""
        labels = tables.presentation_labels(self.settings)
        if wanted in labels:
            return wanted, ""
        first = next(iter(labels))
        _tell(f"figure {name}: the run has no presentation {wanted}; drawn with {first}")
        return first, labels[first]

    def arms(self, presentation: str, arms: Sequence[str] | None) -> dict[str, str]:
        """Labels of a figure's arms, those named or all that make music, as far as they have sounds.

        Raises
        ------
        BlendbenchError
            If none has.
        """
        labels = tables.labels(self.settings)
        wanted = list(arms) if arms else tables.with_music(self.settings)
        there = {row["arm"] for row in self.rows if row["presentation"] == presentation}
        found = {arm: labels[arm] for arm in wanted if arm in labels and arm in there}
        if not found:
            raise BlendbenchError(f"{self.run_dir}: no arm of {', '.join(wanted) or 'any music'} under {presentation}")
        return found

    def pairs(self, presentation: str, count: int, arms: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
        """Rows by arm of the first pairs, of different classes as far as there are, that every arm has."""
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for row in self.rows:
            if row["presentation"] == presentation:
                found.setdefault((row["dataset"], row["pair_id"]), {})[row["arm"]] = row
        whole = [rows for rows in found.values() if set(arms) <= set(rows)]
        if not whole:
            raise BlendbenchError(f"{self.run_dir}: no pair has presentation {presentation} by {', '.join(arms)}")
        seen: dict[str, int] = {}
        ranks = []
        for rows in whole:
            label = rows[arms[0]]["label"]
            ranks.append(seen.get(label, 0))
            seen[label] = ranks[-1] + 1
        ordered = sorted(range(len(whole)), key=lambda place: (ranks[place], place))
        return [whole[place] for place in ordered[:count]]


def _save(figure: Figure, run_dir: Path, name: str, vector: bool = False) -> list[Path]:
    files = [run_dir / "figures" / f"{name}{ending}" for ending in (".png", ".pdf")[: 1 + vector]]
    for file in files:
        save(figure, file)
    return files


def save(figure: Figure, file: Path) -> None:
    """Write a figure in the format of the file's ending, without a date in it: the same run, the same bytes.

    All of its texts are shown as they are, none as mathematics, in further fonts where the first lacks a character.

    Raises
    ------
    BlendbenchError
        If the file cannot be written.
    """
    buffer = BytesIO()
    texts = [one for one in figure.findobj(Text) if isinstance(one, Text)]
    for one in texts:
        one.set_parse_math(False)
    fonts = matplotlib.rcParams["font.sans-serif"]
    further = _further_fonts("".join(sorted({*"".join(one.get_text() for one in texts)})))
    settings: dict[Any, Any] = {
        "svg.hashsalt": "blendbench",
        "text.parse_math": False,
        "font.sans-serif": [*fonts, *further],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # No font here has it; what stands in its place tells so.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        figure.savefig(buffer, format=file.suffix[1:], dpi=130, bbox_inches="tight", metadata=_UNDATED[file.suffix])
    write_bytes(file, buffer.getvalue())


@lru_cache
def _further_fonts(characters: str) -> list[str]:
    """Families of this machine's fonts that have what the usual one lacks, as few as will do."""
    usual = FT2Font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    lacking = {ord(character) for character in characters if character.isprintable()} - set(usual)
    families = []
    while lacking:
        has = {family: len(lacking & found) for family, found in _characters().items()}
        best = max(sorted(has), key=has.__getitem__, default="")
        if not has.get(best):
            break
        families.append(best)
        lacking -= _characters()[best]
    return families


@lru_cache
def _characters() -> dict[str, frozenset[int]]:
    """Characters of the upright fonts of this machine by family; not of those that have a box for everything."""
    found = {}
    for font in font_manager.fontManager.ttflist:
        if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name:
            try:
                found[font.name] = frozenset(FT2Font(font.fname).get_charmap())
            except (OSError, RuntimeError):
                continue  # deleted since the list was made, or damaged
    return found


_SHAPING = "\u200c\u200d\u200e\u200f"


def words(text: object, most: int = 60, width: int = 1000) -> str:
    """A text for a figure: cut, so that no figure grows without bound, and broken into lines of `width` characters."""
    # Signs without a shape go, but for those that shape their neighbours: matplotlib's PDF trips over one (U+FEFF).
    seen = "".join(c for c in str(text) if unicodedata.category(c) != "Cf" or c in _SHAPING or shown(c) != c)
    cut = short(seen, most)
    lines = "\n".join(textwrap.wrap(cut, width)) if len(cut) > width else cut
    return f"\u200b{lines}" if lines.startswith("_") else lines  # a legend leaves out what begins with it


def difference_heatmaps(
    run_dir: Path,
    settings: dict[str, Any],
    presentation: str = "loudness_normalized",
    pairs: int = 3,
    arms: Sequence[str] | None = None,
    name: str = "fig3",
) -> list[Path]:
    """Fig. 3 of BNMusic: mel images of noises, and music minus noise as heat maps (red more, blue less).

    Both are in the image's own scale, (S / S_max)^0.25 with the noise's S_max, at equal loudness; in the run's first
    presentation, which the figure then names, where it lacks the one asked for.
    """
    sounds = _Sounds(run_dir, settings)
    presentation, other = sounds.presentation(presentation, name)
    labels = sounds.arms(presentation, arms)
    chosen = list(labels)
    rows = sounds.pairs(presentation, pairs, chosen)
    figure = Figure(figsize=(2.1 * (1 + len(chosen)), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), 1 + len(chosen), squeeze=False)
    image = None
    for line, of_arm in zip(axes, rows, strict=True):
        first = of_arm[chosen[0]]
        noise = spectrogram.mel_amplitudes(sounds.noise(first))
        peak = float(noise.max())
        power = spectrogram.RIFFUSION.power
        compressed = (noise / peak) ** power
        line[0].imshow(compressed, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1)
        line[0].set_ylabel(f"{words(first['label'], 36)}\n{words(first['genre'], 36)}", fontsize=8)
        for axis, arm in zip(line[1:], chosen, strict=True):
            music = (spectrogram.mel_amplitudes(sounds.music(of_arm[arm])) / peak) ** power
            image = axis.imshow(music - compressed, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    for axis, title in zip(axes[0], ["noise", *labels.values()], strict=True):
        axis.set_title(words(title, width=30), fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if image is not None:
        figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.6, label="music - noise")
    if other:
        figure.suptitle(other, fontsize=9)
    return _save(figure, run_dir, name)


def metric_against_loudness(
    run_dir: Path,
    settings: dict[str, Any],
    metric: str = "fad",
    arms: Sequence[str] | None = None,
    name: str = "fig4",
) -> list[Path]:
    """Fig. 4 of BNMusic: a metric against the music's loudness, every arm's best level marked; and `NAME.csv`.

    Raises
    ------
    BlendbenchError
        If no arm has a value at a given loudness.
    """
    results, labels = read(run_dir), tables.labels(settings)
    wanted = list(arms) if arms else tables.with_music(settings)
    levels = {key: entry["lufs"] for key, entry in settings["presentations"].items() if entry.get("lufs") is not None}
    picked = results[(results["metric"] == metric) & results["presentation"].isin(list(levels))].copy()
    picked["lufs"] = picked["presentation"].map(levels)
    picked = picked[picked["arm"].isin(wanted)]
    picked = picked[picked.groupby(["dataset", "arm"])["value"].transform("count") > 0]
    if picked.empty:
        raise BlendbenchError(
            f"{run_dir}: no {metric} of {', '.join(wanted)} at presentations of kind loudness; add some"
        )
    shown = tables.metric(metric)
    figure = Figure(figsize=(5.2, 3.4))
    axis = figure.subplots()
    best: list[dict[str, Any]] = []
    for (dataset, arm), group in picked.sort_values("lufs").groupby(["dataset", "arm"], sort=False):
        label = words(labels.get(str(arm), str(arm)))
        label += f", {words(dataset, 30)}" if picked["dataset"].nunique() > 1 else ""
        colour = COLOURS[len(best) % len(COLOURS)]
        axis.plot(group["lufs"], group["value"], marker="o", ms=3, label=label, color=colour)
        axis.fill_between(group["lufs"], group["ci_low"], group["ci_high"], alpha=0.12, color=colour)
        values = group["value"].to_numpy(float)
        top = int(np.nanargmax(values) if shown.higher_is_better else np.nanargmin(values))
        level = float(group["lufs"].to_numpy(float)[top])
        axis.plot(level, values[top], marker="*", ms=12, color=colour)
        best.append({"dataset": dataset, "arm": arm, "lufs": level, "value": values[top]})
    axis.set_xlabel("loudness of the music (LUFS)")
    axis.set_ylabel(shown.label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    files = _save(figure, run_dir, name, vector=True)
    write_bytes(run_dir / "figures" / f"{name}.csv", csv_text(pd.DataFrame(best)).encode())
    return [*files, run_dir / "figures" / f"{name}.csv"]


def stage1_images(
    run_dir: Path, settings: dict[str, Any], arm: str = "bnmusic", pairs: int = 3, name: str = "fig6"
) -> list[Path]:
    """Fig. 6 of BNMusic: noise, its core, the outpainted image, that without its core, and the music's image.

    Where the run lacks the arm, another of the same method stands in, and the figure names it.

    Raises
    ------
    BlendbenchError
        If the run has no arm of the method, or kept no images (`keep_images=true`).
    """
    sounds = _Sounds(run_dir, settings)
    presentation = next(iter(settings["presentations"]))
    labels, wanted = tables.labels(settings), arm
    if arm not in labels:
        alike = [one for one in labels if str(settings["arms"][one].get("_target_")).endswith(".BNMusic")]
        if not alike:
            raise BlendbenchError(f"figure {name}: the run has no arm {arm}, nor another that keeps its images")
        arm = alike[0]
        _tell(f"figure {name}: the run has no arm {wanted}; drawn with {arm}")
    rows = sounds.pairs(presentation, pairs, [arm])
    titles = ["noise", "core kept", "outpainted", "core to inpaint", "music"]
    figure = Figure(figsize=(2.1 * len(titles), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    mask = settings["mask"]
    for line, of_arm in zip(axes, rows, strict=True):
        row = of_arm[arm]
        images = {kind: _kept_image(run_dir, arm, row, kind) for kind in ("noise", "mid", "music")}
        core = masking.core_mask(images["noise"], mask["core_fraction"], mask["pixel_threshold"])
        enlarged = masking.core_mask(images["noise"], mask["inpaint_fraction"], mask["inpaint_threshold"])
        panels = [
            images["noise"],
            torch.where(core, images["noise"], torch.nan),
            images["mid"],
            torch.where(enlarged, torch.nan, images["mid"]),
            images["music"],
        ]
        for axis, pixels in zip(line, panels, strict=True):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
            axis.set_facecolor("#f2c14e")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(f"{words(row['label'], 36)}\n{words(row['genre'], 36)}", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    if arm != wanted:
        figure.suptitle(labels[arm], fontsize=9)
    return _save(figure, run_dir, name)


def _kept_image(run_dir: Path, arm: str, row: dict[str, Any], kind: str) -> torch.Tensor:
    file = run_dir / "images" / arm / f"{file_name(row['pair_id'])}-{kind}.png"
    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).copy())
    except OSError:
        raise BlendbenchError(f"{file}: not there; run the experiment with keep_images=true") from None


def waveforms(
    run_dir: Path,
    settings: dict[str, Any],
    presentation: str = "loudness_normalized",
    pair: int = 0,
    arms: Sequence[str] | None = None,
    name: str = "fig7",
) -> list[Path]:
    """Fig. 7 of BNMusic: waveforms of a noise and of every arm's music, aligned; lines at the noise's onsets."""
    sounds = _Sounds(run_dir, settings)
    presentation, other = sounds.presentation(presentation, name)
    labels = sounds.arms(presentation, arms)
    chosen = list(labels)
    of_arm = sounds.pairs(presentation, pair + 1, chosen)[-1]
    noise = sounds.noise(of_arm[chosen[0]])
    waves = [("noise", noise)]
    waves += [(labels[arm], sounds.music(of_arm[arm])) for arm in chosen]
    figure = Figure(figsize=(8, 1.1 * len(waves)))
    axes = figure.subplots(len(waves), 1, sharex=True, squeeze=False)[:, 0]
    onsets = audibility.onsets(masking_model.spectra(noise, "noise")).tolist()
    for number, (axis, (label, wave)) in enumerate(zip(axes, waves, strict=True)):
        axis.plot(np.arange(len(wave)) / SAMPLE_RATE, wave, lw=0.3, color=COLOURS[number % len(COLOURS)])
        for onset in onsets:
            axis.axvline(onset, color="#999", lw=0.6, ls=":")
        axis.set_ylabel(words(label, width=30), rotation=0, ha="right", va="center", fontsize=8)
        axis.set_yticks([])
        axis.margins(x=0)
    row = of_arm[chosen[0]]
    title = "; ".join(filter(None, [row["label"], row["prompt"], other]))
    axes[0].set_title(words(title, 300, width=130), fontsize=8)
    axes[-1].set_xlabel("time (s)")
    return _save(figure, run_dir, name)


def sweep(together: pd.DataFrame, keys: Mapping[str, str], metrics: Sequence[str], file: Path) -> None:
    """Plot a sweep: a panel a metric, the first key along the axis, a line an arm and value of the other keys.

    Parameters
    ----------
    together : DataFrame
        Results with a column a swept key, and `line`, which says of what in a job a result is.
    keys : mapping of str to str
        Columns by swept key.
    metrics : sequence of str
        Those to show.
    file : Path
        PNG to write.
    """
    (first, column), *others = keys.items()
    texts = list(dict.fromkeys(together[column]))
    numbers = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(float)
    numeric = bool(np.isfinite(numbers).all())
    positions = dict(zip(texts, numbers if numeric else range(len(texts)), strict=True))
    width = 4.6 if numeric else max(4.6, 0.45 * len(texts))
    figure = Figure(figsize=(width * max(1, len(metrics)), 3.8), layout="constrained")
    axes = figure.subplots(1, max(1, len(metrics)), squeeze=False)[0]
    lines: dict[str, Any] = {}
    styles = itertools.product(("-", "--", ":", "-."), COLOURS)
    looks = dict(zip(dict.fromkeys(_lines(together, others)), itertools.cycle(styles), strict=False))
    for axis, name in zip(axes, metrics, strict=False):
        picked = together[(together["metric"] == name) & together["value"].notna()]
        for label, group in picked.groupby(_lines(picked, others), sort=False):
            style, colour = looks[str(label)]
            x = group[column].map(positions).to_numpy(float)
            order = np.argsort(x, kind="stable")
            x, values = x[order], group["value"].to_numpy()[order]
            lines[str(label)] = axis.plot(x, values, marker="o", ms=3, ls=style, color=colour, label=label)[0]
            low, high = group["ci_low"].to_numpy()[order], group["ci_high"].to_numpy()[order]
            if not all(math.isnan(end) for end in low):
                axis.fill_between(x, low, high, alpha=0.1, color=colour)
        if not numeric:
            ticks = [words(text, 30) for text in texts]
            axis.set_xticks(list(positions.values()), ticks, rotation=20, ha="right", fontsize=7)
        axis.set_xlabel(first)
        axis.set_ylabel(tables.metric(name).label)
        axis.grid(alpha=0.3)
    if lines:
        figure.legend(lines.values(), lines, fontsize=6, loc="outside lower center", ncols=3)
    _save(figure, file.parent.parent, file.stem)


def _lines(together: pd.DataFrame, others: Sequence[tuple[str, str]]) -> pd.Series:
    """What a line of a sweep's plot is called, for each result."""
    names = together["line"].map(lambda text: words(text, 120))
    for key, column in others:
        names = names + f", {key}=" + together[column].map(lambda text: words(text, 20))
    return names
