"""The analysis of a study: reads ratings, leaves out whom the rules name, and writes tables, figures and a text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from blendbench.errors import BlendbenchError
from blendbench.listening import analysis_report, exclusions, findings
from blendbench.listening.study import SETTINGS, Study
from blendbench.runs.folder import Run
from blendbench.store.write import write_text
from blendbench.texts import csv_text

_USED = ["listener", "sample", "arm", "scale", "value", "page_s"]


def analyse(study: Study, ratings: pd.DataFrame, headphones: Mapping[int, bool], run: Run) -> Path:
    """Analyse a study and write `RUN_DIR/listening/analysis`; returns its `analysis.md`.

    Besides it are written `exclusions.csv` (a row a listener), `summary.csv` (a row a data set, arm and scale),
    `pairs.csv` (a row a mix), `comparisons.csv` (a row two arms), `tests.csv`, `agreement.csv`, `correlations.csv`, and
    the figures `ratings.png`, `ratings.svg` and `predictors.png`; where a range is not 1 to 5, or the settings say a
    unit, also `wilcoxon.csv` (a row two arms and sample) and `boxes.png`. Equal input gives equal bytes.

    Parameters
    ----------
    study : Study
    ratings : DataFrame
        With columns `answers.columns`; of these listener, sample, arm, scale, value (in the study's range), page_s
        (seconds, empty where it is not known) and, where the study has repeats, kind are used. Practice does not count,
        nor does a page that was not ended: one without seconds where the same listener has pages with them.
    headphones : mapping of int to bool
        Who has passed the headphone check; without those of whom it is not known.
    run : Run
        Whose study it is.

    Raises
    ------
    BlendbenchError
        If a rating is not of this study, twice there or out of range; if nobody has rated anything, or the rules leave
        out everyone (`exclusions.csv` is written then, and tells why).

    Source: see `statistics.SOURCE`.
    """
    study, folder = replace(study, run=run), study.folder / "analysis"
    rows = _checked(study, ratings)
    listeners = exclusions.listeners(study, rows, headphones)
    limits = exclusions.limits(study)
    reasons = {one.number: exclusions.reasons(one, limits) for one in listeners}
    _write(folder / "exclusions.csv", exclusions.table(study, listeners, reasons))
    kept = [number for number, found in reasons.items() if not found]
    if not kept:
        raise BlendbenchError(
            f"{folder / 'exclusions.csv'}: all {len(listeners)} listeners are left out; see why there, or change "
            f"`exclusions` in {study.folder / SETTINGS}"
        )
    notes = exclusions.notes(study, listeners)
    found = findings.find(study, rows[rows["listener"].isin(kept)], len(listeners) - len(kept), notes)
    for name in ("summary", "pairs", "comparisons", "tests", "agreement", "correlations"):
        _write(folder / f"{name}.csv", getattr(found, name))
    if found.wilcoxon is None:
        (folder / "wilcoxon.csv").unlink(missing_ok=True)
    else:
        _write(folder / "wilcoxon.csv", found.wilcoxon)
    scales = {name: asdict(facts) for name, facts in study.scale_facts.items()}
    write_text(folder / "scales.json", json.dumps(scales, indent=1, ensure_ascii=False) + "\n")
    return analysis_report.write(study, listeners, reasons, found, folder)


def _write(file: Path, frame: pd.DataFrame) -> None:
    write_text(file, csv_text(frame, float_format="%.6g"))


def _checked(study: Study, ratings: pd.DataFrame) -> pd.DataFrame:
    """The ratings that are there, each with its sample's kind; those of pages not ended are left out."""
    used = [*_USED, "kind"] if study.settings.repeats else _USED
    lacking = [name for name in used if name not in ratings]
    if lacking:
        raise BlendbenchError(f"ratings: no column {', '.join(lacking)}; give what `blendbench listen export` writes")
    rows = ratings[used].reset_index(drop=True)
    rows["listener"] = rows["listener"].astype(int)
    for name in ("value", "page_s"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    samples = {sample.name: sample for sample in study.samples}
    for name, arm, scale in dict.fromkeys(zip(rows["sample"], rows["arm"], rows["scale"], strict=True)):
        if name not in samples or arm not in samples[name].clips or scale not in study.scales:
            raise BlendbenchError(
                f"ratings: {scale} of {arm} in sample {name} is not asked in {study.folder}; give ratings of this study"
            )
    again = rows["kind"] == "repeat" if study.settings.repeats else pd.Series(False, rows.index)
    rows["kind"] = [samples[str(name)].kind for name in rows["sample"]]
    rows.loc[again, "kind"] = "repeat"
    timed = rows["page_s"].notna().groupby(rows["listener"]).transform("any")
    rows = rows[rows["value"].notna() & ~(timed & rows["page_s"].isna())]
    ends = study.settings.range
    wrong = rows[(rows["value"] < ends.low) | (rows["value"] > ends.high)]
    twice = rows[rows.duplicated(["listener", "sample", "kind", "arm", "scale"])]
    faults = ((wrong, f"is not {ends}; bring it to that scale"), (twice, "is there twice; keep one of them"))
    for found, fault in faults:
        if len(found):
            listener, sample, arm, scale = found.iloc[0][["listener", "sample", "arm", "scale"]]
            raise BlendbenchError(f"ratings: {scale} of {arm} in sample {sample} by listener {listener} {fault}")
    return rows
