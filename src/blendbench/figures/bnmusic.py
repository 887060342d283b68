"""The figures of BNMusic: heat maps, metrics against loudness, images of stage 1, waveforms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from blendbench.errors import BlendbenchError
from blendbench.figures.drawing import COLOURS, kept_image, save_all, tell, words
from blendbench.methods.bnmusic import BNMusic
from blendbench.metrics import audibility
from blendbench.runs.folder import Run
from blendbench.sound import masking_model
from blendbench.sound.audio import SAMPLE_RATE
from blendbench.sound.lattice import RIFFUSION
from blendbench.sound.mel import mel_amplitudes
from blendbench.store.write import write_bytes
from blendbench.texts import csv_text


class _Rows:
    """The rows of a run that have sounds, and which of them to show."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows = [row for row in run.rows() if row["status"] == "ok"]

    def presentation(self, wanted: str, name: str) -> tuple[str, str]:
        """The presentation that figure `name` shows, and its label if it is not the one wanted, which the run lacks."""
        labels = self.run.presentations
        if wanted in labels:
            return wanted, ""
        first = next(iter(labels))
        tell(f"figure {name}: the run has no presentation {wanted}; drawn with {first}")
        return first, labels[first]

    def arms(self, presentation: str, arms: Sequence[str] | None) -> dict[str, str]:
        """Labels of a figure's arms, those named or all that make music, as far as they have sounds.

        Raises
        ------
        BlendbenchError
            If none has.
        """
        labels = self.run.arms
        wanted = list(arms) if arms else self.run.with_music
        there = {row["arm"] for row in self.rows if row["presentation"] == presentation}
        found = {arm: labels[arm] for arm in wanted if arm in labels and arm in there}
        if not found:
            raise BlendbenchError(f"{self.run.dir}: no arm of {', '.join(wanted) or 'any music'} under {presentation}")
        return found

    def pairs(self, presentation: str, count: int, arms: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
        """Rows by arm of the first pairs, of different classes as far as there are, that every arm has."""
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for row in self.rows:
            if row["presentation"] == presentation:
                found.setdefault((row["dataset"], row["pair_id"]), {})[row["arm"]] = row
        whole = [rows for rows in found.values() if set(arms) <= set(rows)]
        if not whole:
            raise BlendbenchError(f"{self.run.dir}: no pair has presentation {presentation} by {', '.join(arms)}")
        seen: dict[str, int] = {}
        ranks = []
        for rows in whole:
            label = rows[arms[0]]["label"]
            ranks.append(seen.get(label, 0))
            seen[label] = ranks[-1] + 1
        ordered = sorted(range(len(whole)), key=lambda place: (ranks[place], place))
        return [whole[place] for place in ordered[:count]]


def difference_heatmaps(
    run: Run,
    presentation: str = "loudness_normalized",
    pairs: int = 3,
    arms: Sequence[str] | None = None,
    name: str = "fig3",
) -> list[Path]:
    """Fig. 3 of BNMusic: mel images of noises, and music minus noise as heat maps (red more, blue less).

    Both are in the image's own scale, (S / S_max)^0.25 with the noise's S_max, at equal loudness; in the run's first
    presentation, which the figure then names, where it lacks the one asked for.
    """
    rows_of = _Rows(run)
    presentation, other = rows_of.presentation(presentation, name)
    labels = rows_of.arms(presentation, arms)
    chosen = list(labels)
    rows = rows_of.pairs(presentation, pairs, chosen)
    figure = Figure(figsize=(2.1 * (1 + len(chosen)), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), 1 + len(chosen), squeeze=False)
    image = None
    for line, of_arm in zip(axes, rows, strict=True):
        first = of_arm[chosen[0]]
        noise = mel_amplitudes(run.parts(first)["noise"])
        peak = float(noise.max())
        power = RIFFUSION.power
        compressed = (noise / peak) ** power
        line[0].imshow(compressed, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1)
        line[0].set_ylabel(f"{words(first['label'], 36)}\n{words(first['genre'], 36)}", fontsize=8)
        for axis, arm in zip(line[1:], chosen, strict=True):
            music = (mel_amplitudes(run.parts(of_arm[arm])["music"]) / peak) ** power
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
    return save_all(figure, run.dir, name)


def metric_against_loudness(
    run: Run,
    metric: str = "fad",
    arms: Sequence[str] | None = None,
    name: str = "fig4",
) -> list[Path]:
    """Fig. 4 of BNMusic: a metric against the music's loudness, every arm's best level marked; and `NAME.csv`.

    A panel a judge; where there are several, the CSV's last column says by which name of the metric.

    Raises
    ------
    BlendbenchError
        If no arm has a value at a given loudness.
    """
    results, labels = run.results(), run.arms
    wanted = list(arms) if arms else run.with_music
    levels = {key: lufs for key, shown in run.shown.items() if (lufs := getattr(shown, "lufs", None)) is not None}
    judged = list(run.by_judge(metric).values())
    picked = results[results["metric"].isin(judged) & results["presentation"].isin(list(levels))].copy()
    picked["lufs"] = picked["presentation"].map(levels)
    picked = picked[picked["arm"].isin(wanted)]
    picked = picked[picked.groupby(["metric", "dataset", "arm"])["value"].transform("count") > 0]
    if picked.empty:
        raise BlendbenchError(
            f"{run.dir}: no {metric} of {', '.join(wanted)} at presentations of kind loudness; add some"
        )
    judged = [one for one in judged if one in set(picked["metric"])]
    figure = Figure(figsize=(5.2 * len(judged), 3.4))
    best: list[dict[str, Any]] = []
    for called, axis in zip(judged, figure.subplots(1, len(judged), squeeze=False)[0], strict=True):
        facts, lines = run.fact(called), picked[picked["metric"] == called].sort_values("lufs")
        for number, ((dataset, arm), group) in enumerate(lines.groupby(["dataset", "arm"], sort=False)):
            label = words(labels.get(str(arm), str(arm)))
            label += f", {words(dataset, 30)}" if picked["dataset"].nunique() > 1 else ""
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(group["lufs"], group["value"], marker="o", ms=3, label=label, color=colour)
            axis.fill_between(group["lufs"], group["ci_low"], group["ci_high"], alpha=0.12, color=colour)
            values = group["value"].to_numpy(float)
            top = int(np.nanargmax(values) if facts.higher_is_better else np.nanargmin(values))
            level = float(group["lufs"].to_numpy(float)[top])
            axis.plot(level, values[top], marker="*", ms=12, color=colour)
            judge = {"metric": called} if len(judged) > 1 else {}
            best.append({"dataset": dataset, "arm": arm, "lufs": level, "value": values[top]} | judge)
        axis.set_xlabel("loudness of the music (LUFS)")
        axis.set_ylabel(facts.label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    files = save_all(figure, run.dir, name, vector=True)
    write_bytes(run.dir / "figures" / f"{name}.csv", csv_text(pd.DataFrame(best)).encode())
    return [*files, run.dir / "figures" / f"{name}.csv"]


def stage1_images(run: Run, arm: str = "bnmusic", pairs: int = 3, name: str = "fig6") -> list[Path]:
    """Fig. 6 of BNMusic: noise, its core, the outpainted image, that without its core, and the music's image.

    Where the run lacks the arm, another of the same method stands in, and the figure names it.

    Raises
    ------
    BlendbenchError
        If the run has no arm of the method, or kept no images (`keep_images=true`).
    """
    rows_of = _Rows(run)
    presentation = next(iter(run.presentations))
    labels, wanted = run.arms, arm
    if arm not in labels:
        alike = [one for one in labels if isinstance(run.methods[one], BNMusic)]
        if not alike:
            raise BlendbenchError(f"figure {name}: the run has no arm {arm}, nor another that keeps its images")
        arm = alike[0]
        tell(f"figure {name}: the run has no arm {wanted}; drawn with {arm}")
    rows = rows_of.pairs(presentation, pairs, [arm])
    titles = ["noise", "core kept", "outpainted", "core to inpaint", "music"]
    figure = Figure(figsize=(2.1 * len(titles), 2.2 * len(rows)))
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    method = run.methods[arm]
    if not isinstance(method, BNMusic):
        raise BlendbenchError(f"figure {name}: arm {arm} is no BNMusic, and keeps no such images; name another")
    for line, of_arm in zip(axes, rows, strict=True):
        row = of_arm[arm]
        images = {kind: kept_image(run.dir, arm, row, kind) for kind in ("noise", "mid", "music")}
        core, enlarged = method.core(images["noise"]), method.enlarged_core(images["noise"])
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
    return save_all(figure, run.dir, name)


def waveforms(
    run: Run,
    presentation: str = "loudness_normalized",
    pair: int = 0,
    arms: Sequence[str] | None = None,
    name: str = "fig7",
) -> list[Path]:
    """Fig. 7 of BNMusic: waveforms of a noise and of every arm's music, aligned; lines at the noise's onsets."""
    rows_of = _Rows(run)
    presentation, other = rows_of.presentation(presentation, name)
    labels = rows_of.arms(presentation, arms)
    chosen = list(labels)
    of_arm = rows_of.pairs(presentation, pair + 1, chosen)[-1]
    noise = run.parts(of_arm[chosen[0]])["noise"]
    waves = [("noise", noise)]
    waves += [(labels[arm], run.parts(of_arm[arm])["music"]) for arm in chosen]
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
    return save_all(figure, run.dir, name)
