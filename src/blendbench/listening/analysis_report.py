"""What a study has found, for people: figures, and `analysis.md`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from blendbench.figures import drawing
from blendbench.listening import exclusions, findings, statistics
from blendbench.listening.study import SETTINGS, Study
from blendbench.reports import tables
from blendbench.runs.folder import Run
from blendbench.store.write import write_text
from blendbench.texts import heading, markdown, shown


def write(
    study: Study,
    listeners: Sequence[exclusions.Listener],
    reasons: Mapping[int, list[str]],
    found: findings.Findings,
    folder: Path,
) -> Path:
    """Draw the figures `ratings` and `predictors`, and write `analysis.md`, which is returned.

    Parameters
    ----------
    study : Study
    listeners : sequence of Listener
    reasons : mapping of int to list of str
        Why each listener, by number, is left out; empty where not.
    found : Findings
    folder : Path

    Raises
    ------
    BlendbenchError
        If a file cannot be written, or the run's settings cannot be read.
    """
    run = study.run
    paper = _paper(study, run)
    _draw_ratings(study, found.answers, found.summary, paper, folder)
    best = _draw_predictors(study, found.pairs, found.scores, found.correlations, folder)
    parts = [
        _told_listeners(study, listeners, reasons),
        _told_ratings(study, found.summary, paper),
        _told_comparisons(study, found.comparisons, found.tests),
        _told_agreement(study, found.agreement),
        _told_predictors(study, found.correlations, best),
        _told_notes(found.notes),
    ]
    head = f"# {heading('What listeners said: ' + study.settings['title'])}\n\n{markdown(_head(study, run))}\n"
    write_text(folder / "analysis.md", "\n".join([head, *(part for part in parts if part)]))
    return folder / "analysis.md"


class _Paper(NamedTuple):
    """A published mean, and its standard deviation (nan if not known)."""

    value: float
    sd: float


def _paper(study: Study, run: Run) -> dict[tuple[str, str, str], _Paper]:
    """The paper's ratings by data set of the study, arm and scale, where it has them for this presentation.

    Standard deviations are in the column `sd` of the experiment's CSV, where it has one.
    """
    published = run.experiment.paper_figures()
    shown = run.experiment.paper_dataset or {}
    columns = ["dataset", "arm", "presentation", "metric", "value", "sd"]
    theirs = {
        tuple(map(str, key)): _Paper(float(value), float(sd))
        for *key, value, sd in published.reindex(columns=columns).itertuples(index=False, name=None)
    }
    keys = {
        (dataset, arm, scale): (str(shown.get(dataset)), arm, study.presentation, scale)
        for dataset in dict.fromkeys(sample.dataset for sample in study.samples)
        for arm in study.arms
        for scale in study.scales
    }
    return {ours: theirs[key] for ours, key in keys.items() if key in theirs}


# Figures


def _draw_ratings(
    study: Study,
    answers: Sequence[findings.Answers],
    summary: pd.DataFrame,
    paper: Mapping[tuple[str, str, str], _Paper],
    folder: Path,
) -> None:
    """A panel a scale and data set: listeners' means as dots and boxes, the mean with its interval, and the paper's."""
    from matplotlib.figure import Figure

    rows = len({one.dataset for one in answers})
    width = max(3.6, 1.1 * len(study.arms) + 0.6)
    figure = Figure(figsize=(width * len(study.scales), 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, len(study.scales), squeeze=False)
    handles: dict[str, Any] = {}
    for axis, one in zip(axes.flat, answers, strict=True):
        table = summary[(summary["dataset"] == one.dataset) & (summary["metric"] == one.scale)].set_index("arm")
        for place, arm in enumerate(study.arms):
            colour = drawing.COLOURS[place % len(drawing.COLOURS)]
            means = statistics.mean(one.values[:, :, place], 1)
            means = np.sort(means[np.isfinite(means)])
            axis.boxplot(
                means, positions=[place], widths=0.5, showfliers=False, manage_ticks=False, patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.18, "lw": 0}, medianprops={"color": colour, "lw": 1},
                whiskerprops={"color": colour, "lw": 0.8}, capprops={"lw": 0},
            )  # fmt: skip
            # Beside each other in the order of their values, so that none hides another.
            aside = (np.arange(len(means)) * 0.381966) % 1 - 0.5
            handles["a listener's mean"] = axis.scatter(
                place + 0.4 * aside, means, s=9, color=colour, alpha=0.7, linewidths=0
            )
            row = table.loc[arm]
            if np.isfinite(row["ci_low"]):
                axis.vlines(place, row["ci_low"], row["ci_high"], color="black", lw=1.6, zorder=3)
            handles["mean, 95 % interval"] = axis.scatter(place, row["value"], s=20, color="black", zorder=4)
            theirs = paper.get((one.dataset, arm, one.scale))
            if theirs is not None:
                spread = None if math.isnan(theirs.sd) else [theirs.sd]
                label = "the paper's" + (" mean" if spread is None else " mean ± sd") + ", other models and listeners"
                handles[label] = axis.errorbar(
                    place + 0.36, theirs.value, spread, fmt="D", ms=4, mfc="white", color="#777", lw=1, capsize=2
                )
        words = study.scales[one.scale]
        axis.set_title(drawing.words(words["label"]) + (f", {one.dataset}" if rows > 1 else ""), fontsize=9)
        ticks = [drawing.words(label, 40, 20).replace(" ", "\n") for label in study.arms.values()]
        axis.set_xticks(range(len(study.arms)), ticks, fontsize=8)
        axis.set_xlim(-0.6, len(study.arms) - 0.4)
        axis.set_ylim(0.9, 5.1)
        axis.set_yticks(range(1, 6), ["1", "2", "3", "4", "5"], fontsize=8)
        axis.set_ylabel(f"1: {drawing.words(words['low'])}\n5: {drawing.words(words['high'])}", fontsize=7)
        axis.grid(axis="y", alpha=0.3)
    figure.legend(handles.values(), handles, fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    for ending in (".png", ".svg"):
        drawing.save(figure, folder / f"ratings{ending}")


def _draw_predictors(
    study: Study, pairs: pd.DataFrame, scores: pd.DataFrame | None, correlations: pd.DataFrame, folder: Path
) -> list[str]:
    """Scatter of the scores that go furthest with the ratings; returns their names, none if there is no score."""
    from matplotlib.figure import Figure

    file = folder / "predictors.png"
    over = correlations[correlations["over"] == "mixes"]
    strength = over["spearman"].abs().groupby(over["predictor"], sort=False).mean().dropna()
    best = [str(name) for name in strength.sort_values(ascending=False, kind="stable").index[:3]]
    if scores is None or not best:
        file.unlink(missing_ok=True)
        return []
    panels = [(dataset, scale) for dataset in pairs["dataset"].unique() for scale in study.scales]
    figure = Figure(figsize=(3.3 * len(best), 2.7 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(best), squeeze=False)
    for line, (dataset, scale) in zip(axes, panels, strict=True):
        for axis, name in zip(line, best, strict=True):
            for place, (arm, label) in enumerate(study.arms.items()):
                chosen = ((pairs["dataset"] == dataset) & (pairs["arm"] == arm)).to_numpy()
                colour = drawing.COLOURS[place % len(drawing.COLOURS)]
                x, y = scores.loc[chosen, name], pairs.loc[chosen, scale]
                axis.scatter(x, y, s=12, color=colour, alpha=0.75, linewidths=0, label=drawing.words(label))
            facts = over[(over["dataset"] == dataset) & (over["metric"] == scale) & (over["predictor"] == name)]
            for row in facts.to_dict("records"):
                told = f"rho {row['spearman']:.2f}, within methods {_number(row['spearman_within'])}"
                axis.set_title(told, fontsize=8)
            axis.set_xlabel(_score_label(study, name), fontsize=8)
            axis.set_ylabel(
                study.fact(scale).label + (f", {dataset}" if pairs["dataset"].nunique() > 1 else ""), fontsize=8
            )
            axis.set_ylim(0.9, 5.1)
            axis.set_yticks(range(1, 6))
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    beside = max(1, min(len(labels), 120 // max(map(len, labels))))
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=beside, frameon=False)
    drawing.save(figure, file)
    return best


def _score_label(study: Study, name: str) -> str:
    shown = study.fact(name)
    return shown.label + (f" ({shown.unit})" if shown.unit else "")


# The text


def _head(study: Study, run: Run) -> str:
    asked, count = " and ".join(words["label"] for words in study.scales.values()), len(study.of_kind("sample"))
    return (
        f"{run.experiment.title}, presentation {study.presentation}: {count} samples, each "
        f"by {', '.join(study.arms.values())}. Rated 1 to 5: {asked}; {findings.playback(study)}."
    )


def _told_listeners(study: Study, listeners: Sequence[exclusions.Listener], reasons: Mapping[int, list[str]]) -> str:
    limits = study.settings["exclusions"]
    out = {number: "; ".join(found) for number, found in reasons.items() if found}
    text = f"## Listeners\n\n{len(listeners)} took part: {len(listeners) - len(out)} count, {len(out)} are left out.\n"
    if out:
        text += (
            f"\n{tables.to_markdown(tables.of_frame(pd.DataFrame(out.items(), columns=['Listener', 'Left out by'])))}\n"
        )
    text += f"\nRules (`exclusions` in {SETTINGS}); one that does not know what it asks for leaves nobody out:\n\n"
    for key, (_, meaning) in exclusions.RULES.items():
        text += f"- {key}: {meaning.format(limits[key]) if exclusions.is_on(limits[key]) else 'switched off'}\n"
    return text


def _number(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _bracket(row: Mapping[Any, Any], form: str = ".2f") -> str:
    """The interval of a row, after its value; nothing where there is none."""
    return "" if math.isnan(row["ci_low"]) else f" [{row['ci_low']:{form}}, {row['ci_high']:{form}}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _by(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Parts of a table by the values of a column, in their order."""
    return [(str(value), part) for value, part in table.groupby(column, sort=False)]


def _heading(dataset: str, table: pd.DataFrame) -> str:
    """A heading for a data set where there are several."""
    return f"### {heading(dataset)}\n\n" if table["dataset"].nunique() > 1 else ""


def _told_ratings(study: Study, summary: pd.DataFrame, paper: Mapping[tuple[str, str, str], _Paper]) -> str:
    text = "## Ratings\n\n"
    for dataset, part in _by(summary, "dataset"):
        lines, bold = [], set()
        top = part.groupby("metric")["value"].max()
        theirs = {scale: [key for key in paper if key[::2] == (dataset, scale)] for scale in study.scales}
        for arm, label in study.arms.items():
            line = {"Method": label}
            for row in part[part["arm"] == arm].to_dict("records"):
                column = f"{study.fact(row['metric']).label}: mean ± sd [95 % interval]"
                line[column] = f"{_number(row['value'])} ± {_number(row['sd'])}{_bracket(row)}"
                if row["value"] == top[row["metric"]] and findings.better(study, row["metric"]) and len(study.arms) > 1:
                    bold.add((label, column))
            for scale in study.scales:
                one = paper.get((dataset, arm, scale), _Paper(math.nan, math.nan))
                if theirs[scale]:
                    spread = "" if math.isnan(one.sd) else f" ± {one.sd:.2f}"
                    line[f"{study.fact(scale).label}: the paper's"] = _number(one.value) + spread
            lines.append(line)
        recipe = part["recipe"].iloc[0]
        text += f"{_heading(dataset, summary)}{tables.to_markdown(tables.of_frame(pd.DataFrame(lines), bold))}\n\n"
        text += f"{recipe[0].upper()}{recipe[1:]}.\n\n"
    text += "sd is over all ratings; `summary.csv` also has those of listeners' means and of samples' means.\n"
    if paper:
        text += (
            "\nThe paper's figures are of other models, sounds and listeners, and it does not tell over what its "
            "standard deviations are taken: compare orderings with them, never values.\n"
        )
    return f"{text}\n![Ratings](ratings.png)\n"


def _told_comparisons(study: Study, comparisons: pd.DataFrame, tests: pd.DataFrame) -> str:
    if comparisons.empty:
        return ""
    text = (
        "## Differences of methods\n\nDifferences of means [95 % interval], and two p-values, each after Holm: of a "
        "mixed model in which listeners and samples may differ in how they take a method (Wald's t), and of Wilcoxon's "
        "signed-rank test on listeners' means, which tells nothing of samples that were not heard.\n\n"
    )
    for dataset, part in _by(comparisons, "dataset"):
        text += _heading(dataset, comparisons)
        for scale, group in _by(part, "metric"):
            rows = group.to_dict("records")
            lines = [
                {
                    study.fact(scale).label: f"{study.arms[row['arm']]} − {study.arms[row['other']]}",
                    "Difference": _number(row["difference"], "+.2f") + _bracket(row, "+.2f"),
                    "p, model": _p(row["p_holm"]),
                    "p, Wilcoxon": _p(row["p_wilcoxon_holm"]),
                }
                for row in rows
            ]
            text += f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n\n{_told_apart(study, rows)}"
            chosen = tests[(tests["dataset"] == dataset) & (tests["metric"] == scale) & tests["p"].notna()]
            for row in chosen.to_dict("records"):
                p = f"p {'' if row['p'] < 0.001 else '= '}{_p(row['p'])}"
                text += (
                    f" Friedman's test over the means of {row['n_listeners']} listeners: "
                    f"chi-squared({row['df']}) = {row['statistic']:.2f}, {p}."
                )
            text += "\n\n"
    return text.rstrip("\n") + "\n"


def _told_apart(study: Study, rows: Sequence[Mapping[Any, Any]]) -> str:
    """In words, which arms the model tells apart."""
    if all(math.isnan(row["p_holm"]) for row in rows):
        return "The model could not be computed."
    found = []
    for row in rows:
        if row["p_holm"] < statistics.LEVEL:
            above, below = (row["arm"], row["other"])[:: 1 if row["estimate"] > 0 else -1]
            found.append(f"{study.arms[above]} above {study.arms[below]}")
    return markdown(f"Told apart by the model: {'; '.join(found)}.") if found else "The model tells no two apart."


def _told_agreement(study: Study, agreement: pd.DataFrame) -> str:
    lines = [
        {
            "Scale": study.fact(row["metric"]).label,
            "Data set": row["dataset"],
            "Krippendorff's alpha": _number(row["alpha"]),
            "ICC(2,1)": _number(row["icc_2_1"]),
            "ICC(2,k)": _number(row["icc_2_k"]),
            "k": _number(row["k"], ".3g"),
            "ICC by": row["icc_method"] or "–",
        }
        for row in agreement.to_dict("records")
    ]
    return (
        "## Agreement of listeners\n\nOver mixes. Alpha (ordinal): 1 for equal answers, 0 for what chance would give. "
        "ICC(2,1): how far one listener's rating can be relied on; ICC(2,k): the mean of k listeners.\n\n"
        f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n"
    )


def _told_predictors(study: Study, correlations: pd.DataFrame, best: Sequence[str]) -> str:
    if correlations.empty:
        return ""
    text = (
        "## Do objective scores predict listeners?\n\nOver mixes: Spearman's rho [95 % interval over noise clips]. A "
        "score may agree there by nothing but that these few methods differ in both; within methods: rho of what is "
        "left beside their means, with p by exchanging clips. A score that has a better end agrees or disagrees with "
        "listeners, one that has none rises or falls with a scale; it shows nothing where p is "
        f"{statistics.LEVEL:g} or more after Holm over all scores.\n\n"
    )
    if study.settings["playback"]["match"] != "none":
        text += f"Scores are of the mixes as the run made them; listeners heard {findings.playback(study)}.\n\n"
    for dataset, part in _by(correlations, "dataset"):
        text += _heading(dataset, correlations)
        for scale, group in _by(part[part["over"] == "mixes"], "metric"):
            lines = [
                {
                    f"{study.fact(scale).label} and": _score_label(study, row["predictor"]),
                    "Better": row["better"] or "–",
                    "Over mixes": _number(row["spearman"]) + _bracket(row),
                    "p": _p(row["p_holm"]),
                    "Reading": row["reading"] or "–",
                    "Within methods": _number(row["spearman_within"]),
                    "p within": _p(row["p_within_holm"]),
                    "Reading within": row["reading_within"] or "–",
                    "Mixes": str(row["n"]),
                }
                for row in group.to_dict("records")
            ]
            text += f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines)))}\n\n"
        text += _told_arms(study, part[part["over"] == "arms"])
    if best:
        text += f"![{', '.join(study.fact(name).label for name in best)} against ratings](predictors.png)\n"
    return text.rstrip("\n") + "\n"


def _told_arms(study: Study, over_arms: pd.DataFrame) -> str:
    """Kendall's tau over arms, a row a metric of the run."""
    lines = []
    for name, group in _by(over_arms, "predictor"):
        line = {"Over methods, Kendall's tau": _score_label(study, name), "Better": group["better"].iloc[0] or "–"}
        for row in group.to_dict("records"):
            line[study.fact(row["metric"]).label] = _number(row["kendall"]) + (
                f", {row['reading']}" if row["reading"] else ""
            )
        lines.append(line | {"Methods": str(group["n"].max())})
    if not lines:
        return ""
    few = "So few methods may be in any order by chance: this is no evidence.\n\n"
    return f"{tables.to_markdown(tables.of_frame(pd.DataFrame(lines).fillna('–')))}\n\n" + (
        few if over_arms["n"].min() < findings.ARMS else ""
    )


def _told_notes(notes: Sequence[str]) -> str:
    return "## Notes\n\n" + "".join(f"- {shown(note)}\n" for note in dict.fromkeys(notes)) if notes else ""
