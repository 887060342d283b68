"""What listeners' answers say: who counts, means with intervals, differences of arms, agreement, and predictors.

Answers of one data set on one scale are an array [listeners, samples, arms], nan where somebody did not hear a mix.
Listeners and samples are both draws from more of their kind, so intervals resample both, and the model lets both differ
in how they take an arm. Nothing is pooled over data sets. What cannot be computed is nan, and `analysis.md` says why.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy import linalg, optimize, stats

from blendbench import figures, results, tables
from blendbench.datasets.pairing import stable_seed
from blendbench.errors import BlendbenchError, one_line
from blendbench.listening.study import MUSIC, NOISE, SETTINGS, Sample, Study
from blendbench.metrics import comparison
from blendbench.store import PAIR_KEY, write_text

SOURCE = (
    "Owen (2007), The pigeonhole bootstrap; Patterson and Thompson (1971), Recovery of inter-block information when "
    "block sizes are unequal (REML); Barr et al. (2013), Random effects structure for confirmatory hypothesis testing; "
    "Wilcoxon (1945); Friedman (1937); Krippendorff (2011), Computing Krippendorff's alpha-reliability; Shrout and "
    "Fleiss (1979), Intraclass correlations"
)
SUMMARY_COLUMNS = [
    "dataset", "arm", "presentation", "metric", "value", "ci_low", "ci_high", "sd", "sd_listeners", "sd_samples",
    "n_ratings", "n_listeners", "n_samples", "recipe",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "dataset", "presentation", "metric", "arm", "other", "difference", "ci_low", "ci_high", "estimate", "se", "df", "p",
    "p_holm", "p_wilcoxon", "p_wilcoxon_holm", "n_listeners", "n_samples",
]  # fmt: skip
TEST_COLUMNS = ["dataset", "presentation", "metric", "test", "statistic", "df", "p", "n_listeners"]
AGREEMENT_COLUMNS = [
    "dataset", "presentation", "metric", "alpha", "icc_2_1", "icc_2_k", "k", "icc_method", "n_listeners", "n_mixes",
]  # fmt: skip
CORRELATION_COLUMNS = [
    "dataset", "presentation", "metric", "predictor", "over", "better", "spearman", "ci_low", "ci_high", "p", "p_holm",
    "kendall", "pearson", "spearman_within", "p_within", "p_within_holm", "n", "n_clips", "reading", "reading_within",
]  # fmt: skip
_USED = ["listener", "sample", "arm", "scale", "value", "page_s"]
_FACTS = {*PAIR_KEY, "status", "reason", "clip", "label", "genre"}
"""Columns of `scores.csv` that are no score."""
_RESAMPLES, _CONFIDENCE, _LEVEL = 2000, 0.95, 0.05
_EXACT = 13
"""Of so many listeners all signs of differences are gone through."""
_ARMS = 5
"""So many are needed for an order of arms to be told from chance."""
_LARGEST_RATIO = 1e6
"""Of a random effect's variance to the residual one."""

_T = TypeVar("_T")


class _Undefined(Exception):
    """A statistic that these ratings do not define; the text says why."""


class _Answers(NamedTuple):
    """What the kept listeners said on one scale of one data set."""

    dataset: str
    scale: str
    listeners: list[int]
    samples: list[Sample]
    values: np.ndarray
    """[listeners, samples, arms], nan where there is no rating."""


def analyse(study: Study, ratings: pd.DataFrame, headphones: Mapping[int, bool]) -> Path:
    """Analyse a study and write `RUN_DIR/listening/analysis`; returns its `analysis.md`.

    Besides it are written `exclusions.csv` (a row a listener), `summary.csv` (a row a data set, arm and scale),
    `pairs.csv` (a row a mix), `comparisons.csv` (a row two arms), `tests.csv`, `agreement.csv`, `correlations.csv`, and
    the figures `ratings.png`, `ratings.svg` and `predictors.png`. Equal input gives equal bytes.

    Parameters
    ----------
    study : Study
    ratings : DataFrame
        With columns `answers.COLUMNS`; of these listener, sample, arm, scale, value (1 to 5) and page_s (seconds, empty
        where it is not known) are used. Practice does not count, nor does a page that was not ended: one without
        seconds where the same listener has pages with them.
    headphones : mapping of int to bool
        Who has passed the headphone check; without those of whom it is not known.

    Raises
    ------
    BlendbenchError
        If a rating is not of this study, twice there or out of range; if nobody has rated anything, or the rules leave
        out everyone (`exclusions.csv` is written then, and tells why).

    Source: see `SOURCE`.
    """
    folder, notes = study.folder / "analysis", list[str]()
    rows = _checked(study, ratings)
    listeners = _listeners(study, rows, headphones)
    reasons = {one.number: _reasons(one, study.settings["exclusions"]) for one in listeners}
    _write(folder / "exclusions.csv", _exclusions(listeners, reasons))
    kept = [number for number, found in reasons.items() if not found]
    if not kept:
        raise BlendbenchError(
            f"{folder / 'exclusions.csv'}: all {len(listeners)} listeners are left out; see why there, or change "
            f"`exclusions` in {study.folder / SETTINGS}"
        )
    notes += _rule_notes(study, listeners)
    run = results.read_settings(study.run_dir)
    answers = _answers(study, rows[rows["listener"].isin(kept)])
    drawn = {(one.dataset, one.scale): _resampled_means(one, study.settings["seed"]) for one in answers}
    summary = _summary(study, answers, drawn, len(listeners) - len(kept), notes)
    pairs = _pairs(study, answers)
    comparisons = _comparisons(study, answers, drawn, notes)
    tests = _tests(study, answers, notes)
    agreement = _agreement(study, answers, notes)
    scores = _scores(study, pairs, notes)
    correlations = pd.concat(
        [_over_mixes(study, pairs, scores, notes), _over_arms(study, summary, notes)], ignore_index=True
    )
    for name, frame in (
        ("summary", summary), ("pairs", pairs), ("comparisons", comparisons), ("tests", tests),
        ("agreement", agreement), ("correlations", correlations),
    ):  # fmt: skip
        _write(folder / f"{name}.csv", frame)
    paper = _paper(study, run)
    _draw_ratings(study, answers, summary, paper, folder)
    best = _draw_predictors(study, pairs, scores, correlations, folder)
    parts = [
        _told_listeners(study, listeners, reasons),
        _told_ratings(study, summary, paper),
        _told_comparisons(study, comparisons, tests),
        _told_agreement(agreement),
        _told_predictors(study, correlations, best),
        _told_notes(notes),
    ]
    head = f"# What listeners said: {study.settings['title']}\n\n{_head(study, run)}\n"
    write_text(folder / "analysis.md", "\n".join([head, *(part for part in parts if part)]))
    return folder / "analysis.md"


def _write(file: Path, frame: pd.DataFrame) -> None:
    write_text(file, frame.to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def _checked(study: Study, ratings: pd.DataFrame) -> pd.DataFrame:
    """The ratings that are there, each with its sample's kind; those of pages not ended are left out."""
    lacking = [name for name in _USED if name not in ratings]
    if lacking:
        raise BlendbenchError(f"ratings: no column {', '.join(lacking)}; give what `blendbench listen export` writes")
    rows = ratings[_USED].reset_index(drop=True)
    rows["listener"] = rows["listener"].astype(int)
    for name in ("value", "page_s"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    samples = {sample.name: sample for sample in study.samples}
    for name, arm, scale in dict.fromkeys(zip(rows["sample"], rows["arm"], rows["scale"], strict=True)):
        if name not in samples or arm not in samples[name].clips or scale not in study.scales:
            raise BlendbenchError(
                f"ratings: {scale} of {arm} in sample {name} is not asked in {study.folder}; give ratings of this study"
            )
    timed = rows["page_s"].notna().groupby(rows["listener"]).transform("any")
    rows = rows[rows["value"].notna() & ~(timed & rows["page_s"].isna())]
    wrong = rows[(rows["value"] < 1) | (rows["value"] > 5)]
    twice = rows[rows.duplicated(["listener", "sample", "arm", "scale"])]
    for found, fault in ((wrong, "is not 1 to 5; bring it to that scale"), (twice, "is there twice; keep one of them")):
        if len(found):
            listener, sample, arm, scale = found.iloc[0][["listener", "sample", "arm", "scale"]]
            raise BlendbenchError(f"ratings: {scale} of {arm} in sample {sample} by listener {listener} {fault}")
    return rows.assign(kind=[samples[str(name)].kind for name in rows["sample"]])


# Who counts


class _Listener(NamedTuple):
    """What the rules of exclusion look at; nan or None where it is not known."""

    number: int
    rated: int
    assigned: int
    failed: int
    trials: int
    headphones: bool | None
    same_share: float
    median_s: float


def _listeners(study: Study, rows: pd.DataFrame, headphones: Mapping[int, bool]) -> list[_Listener]:
    """Facts of all who have rated something or were tested, by number."""
    assigned = sum(page.sample.kind != "practice" for page in study.pages(0))
    told = rows[rows["kind"] != "practice"]
    numbers = sorted({*rows["listener"], *headphones})
    if not numbers:
        raise BlendbenchError(f"{study.folder}: nobody has rated anything yet; analyse it once listeners have")
    of_listener = dict(iter(told.groupby("listener")))
    found = []
    for number in numbers:
        own = of_listener.get(number, told.iloc[:0])
        shares = [group.value_counts(normalize=True).max() for _, group in own.groupby("scale")["value"]]
        pages = own.groupby("sample")["page_s"].first()
        trials = _catch_trials(own)
        share, median = max(shares, default=math.nan), float(pages.median())
        known = headphones.get(number)
        failed = sum(not passed for passed in trials)
        found.append(_Listener(number, len(pages), assigned, failed, len(trials), known, share, median))
    return found


def _catch_trials(own: pd.DataFrame) -> list[bool]:
    """Whether each catch trial was passed: the noise alone was rated noisier than the music alone."""
    asked = own[(own["kind"] == "catch") & (own["scale"] == "per") & own["arm"].isin([NOISE, MUSIC])]
    both = asked.pivot(index="sample", columns="arm", values="value").reindex(columns=[NOISE, MUSIC]).dropna()
    return list(both[NOISE] < both[MUSIC])


def _left_early(one: _Listener, limit: float) -> str:
    return f"rated {one.rated} of {one.assigned} pages" if one.rated < limit * one.assigned else ""


def _failed_catches(one: _Listener, limit: float) -> str:
    return f"failed {one.failed} of {one.trials} catch trials" if one.failed > limit else ""


def _same_answers(one: _Listener, limit: float) -> str:
    return f"gave one answer to {one.same_share:.0%} of a scale" if one.same_share > limit else ""


def _hasty(one: _Listener, limit: float) -> str:
    return f"took {one.median_s:.1f} s for a page (median)" if one.median_s < limit else ""


def _without_headphones(one: _Listener, _: bool) -> str:
    return "failed the headphone check" if one.headphones is False else ""


_RULES: dict[str, tuple[Callable[[_Listener, Any], str], str]] = {
    "finished_share": (_left_early, "rated less than {0:.0%} of the pages"),
    "catch_failures": (_failed_catches, "failed more than {0} catch trials"),
    "same_answer_share": (_same_answers, "gave one and the same answer to more than {0:.0%} of a scale's questions"),
    "fastest_page_s": (_hasty, "needed less than {0:g} s for half of the pages"),
    "headphones": (_without_headphones, "failed the headphone check"),
}
"""By key of `exclusions`: why it leaves a listener out ("" if not), and what it says."""


def _is_on(limit: Any) -> bool:
    return limit is not None and limit is not False


def _reasons(one: _Listener, limits: Mapping[str, Any]) -> list[str]:
    """Why a listener is left out; empty if not."""
    if not one.rated:
        return ["rated no page"]
    found = {key: rule(one, limits[key]) for key, (rule, _) in _RULES.items() if _is_on(limits[key])}
    return [f"{key}: {reason}" for key, reason in found.items() if reason]


def _exclusions(listeners: Sequence[_Listener], reasons: Mapping[int, list[str]]) -> pd.DataFrame:
    known = {True: "passed", False: "failed", None: ""}
    columns = [
        "listener", "pages_rated", "pages_assigned", "catch_failed", "catch_trials", "headphones", "same_answer_share",
        "median_page_s", "excluded",
    ]  # fmt: skip
    lines = [[*one[:5], known[one.headphones], *one[6:], "; ".join(reasons[one.number])] for one in listeners]
    return pd.DataFrame(lines, columns=columns)


def _rule_notes(study: Study, listeners: Sequence[_Listener]) -> list[str]:
    """Rules that say nothing of some listeners, as what they look at is not known."""
    limits, notes = study.settings["exclusions"], list[str]()
    listeners = [one for one in listeners if one.rated]
    if _is_on(limits["catch_failures"]):
        if "per" not in study.scales:
            notes.append("Rule catch_failures: the study has no scale `per`, so no catch trial can be judged.")
        elif not any(one.trials for one in listeners):
            notes.append("Rule catch_failures: nobody has rated a catch trial, so it leaves nobody out.")
    for key, unknown, what in (
        ("fastest_page_s", sum(math.isnan(one.median_s) for one in listeners), "how long a page took"),
        ("headphones", sum(one.headphones is None for one in listeners), "the headphone check's outcome"),
    ):
        if _is_on(limits[key]) and unknown:
            notes.append(f"Rule {key}: {what} is not known of {unknown} of {len(listeners)} listeners; it spares them.")
    return notes


# Means and intervals


def _answers(study: Study, rows: pd.DataFrame) -> list[_Answers]:
    """Arrays of the ratings that count, by data set and scale; of one data set all of one shape."""
    rows = rows[rows["kind"] == "sample"]
    if rows.empty:
        raise BlendbenchError(f"{study.folder}: the kept listeners have rated catch trials alone; wait for more")
    heard, found = set(rows["sample"]), []
    samples = [sample for sample in study.of_kind("sample") if sample.name in heard]
    for dataset in dict.fromkeys(sample.dataset for sample in samples):
        own = [sample for sample in samples if sample.dataset == dataset]
        place = {sample.name: index for index, sample in enumerate(own)}
        part = rows[rows["sample"].isin(list(place))]
        listeners = sorted(set(part["listener"]))
        number = {listener: index for index, listener in enumerate(listeners)}
        arms = {arm: index for index, arm in enumerate(study.arms)}
        for scale in study.scales:
            values = np.full((len(listeners), len(own), len(arms)), math.nan)
            given = part[part["scale"] == scale]
            where = given["listener"].map(number), given["sample"].map(place), given["arm"].map(arms)
            values[tuple(index.to_numpy(int) for index in where)] = given["value"]
            found.append(_Answers(dataset, scale, listeners, own, values))
    return found


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Means of what is there, nan where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def _resampled_means(answers: _Answers, seed: int) -> np.ndarray:
    """Means of the arms [resamples, arms] over listeners and samples drawn again, a rating counting as both were drawn.

    The pigeonhole bootstrap of Owen (2007). Scales of one data set have the same draws. nan with one listener or
    sample.
    """
    listeners, samples, arms = answers.values.shape
    if min(listeners, samples) < 2:
        return np.full((_RESAMPLES, arms), math.nan)
    draw = np.random.default_rng(stable_seed(seed, "listening", answers.dataset))
    ours, theirs = (draw.multinomial(n, np.full(n, 1 / n), _RESAMPLES).astype(float) for n in (listeners, samples))
    known = np.isfinite(answers.values)
    filled = np.where(known, answers.values, 0.0)
    means = np.empty((_RESAMPLES, arms))
    with np.errstate(invalid="ignore"):
        for arm in range(arms):
            sums, counts = (((ours @ part[..., arm].astype(float)) * theirs).sum(1) for part in (filled, known))
            means[:, arm] = sums / counts
    return means


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    """Percentile interval of resampled values, of which few may be nan."""
    if np.isnan(drawn).mean() > _LEVEL:
        return math.nan, math.nan
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _sd(values: np.ndarray) -> float:
    """Standard deviation (n - 1) of what is there."""
    there = values[np.isfinite(values)]
    return float(there.std(ddof=1)) if len(there) > 1 else math.nan


def _summary(
    study: Study, answers: Sequence[_Answers], drawn: Mapping[tuple[str, str], np.ndarray], left_out: int,
    notes: list[str],
) -> pd.DataFrame:  # fmt: skip
    lines = []
    for one in answers:
        count, samples, _ = one.values.shape
        means = _mean(one.values, (0, 1))
        if min(count, samples) < 2:
            notes.append(f"{_named(one)}: {count} listener(s) and {samples} sample(s); intervals need two of each.")
        method = f"{_CONFIDENCE:.0%} bootstrap over listeners and samples (crossed), {_RESAMPLES} resamples"
        recipe = (
            f"ratings 1-5 of {count} listeners, {left_out} left out; {samples} samples; {_playback(study)}; "
            f"{method if min(count, samples) > 1 else 'no interval'}"
        )
        for place, arm in enumerate(study.arms):
            values = one.values[:, :, place]
            known = np.isfinite(values)
            lines.append(
                [
                    one.dataset, arm, study.presentation, one.scale, means[place],
                    *_interval(drawn[one.dataset, one.scale][:, place]), _sd(values), _sd(_mean(values, 1)),
                    _sd(_mean(values, 0)), known.sum(), known.any(1).sum(), known.any(0).sum(), recipe,
                ]
            )  # fmt: skip
    return pd.DataFrame(lines, columns=SUMMARY_COLUMNS)


def _playback(study: Study) -> str:
    playback = study.settings["playback"]
    return {
        "clips": f"every clip at {playback['lufs']:g} LUFS",
        "samples": f"noises at {playback['lufs']:g} LUFS and mixes in proportion",
        "none": "levels of the run",
    }[playback["match"]]


def _named(one: _Answers) -> str:
    return f"{_label(one.scale)}, {one.dataset}"


def _label(name: str) -> str:
    return tables.metric(name).label


def _pairs(study: Study, answers: Sequence[_Answers]) -> pd.DataFrame:
    """Mean ratings of every mix, and how many listeners they are of."""
    parts = []
    for dataset in dict.fromkeys(one.dataset for one in answers):
        scales = {one.scale: one for one in answers if one.dataset == dataset}
        first = next(iter(scales.values()))
        keys = [(dataset, arm, study.presentation, sample.pair_id) for sample in first.samples for arm in study.arms]
        columns = {scale: _mean(one.values, 0).ravel() for scale, one in scales.items()}
        heard = np.any([np.isfinite(one.values) for one in scales.values()], axis=0).sum(0).ravel()
        parts.append(pd.DataFrame(keys, columns=list(PAIR_KEY)).assign(**columns, n=heard))
    return pd.concat(parts, ignore_index=True)


# Differences of arms


class _Crossed(NamedTuple):
    """A mean with its standard error, and variances of rows, columns and the rest."""

    mean: float
    se: float
    rows: float
    columns: float
    rest: float


def _crossed(values: np.ndarray) -> _Crossed:
    """Fit value = mean + row + column + rest by REML, rows and columns being random; cells may be nan.

    The likelihood is profiled down to the ratios of both effects' variances to that of the rest, as in Bates et al.
    (2015), Fitting linear mixed-effects models using lme4, section 3.4; all it needs are sums over rows and columns. A
    variance may be 0.

    Raises
    ------
    _Undefined
        With fewer than two rows or columns, or if nothing is left beside what rows and columns explain.
    """
    values = values[np.isfinite(values).any(1)][:, np.isfinite(values).any(0)]
    if min(values.shape, default=0) < 2:
        raise _Undefined("two listeners and two samples are needed")
    known = np.isfinite(values)
    centre = float(values[known].mean())
    y = np.where(known, values - centre, 0.0)
    ones = known.astype(float)
    inner = np.block([[np.diag(ones.sum(1)), ones], [ones.T, np.diag(ones.sum(0))]])
    sums = np.stack([np.diag(inner), np.concatenate([y.sum(1), y.sum(0)])], 1)
    count, total, squares = ones.sum(), y.sum(), (y**2).sum()
    explained, _, rank, _ = np.linalg.lstsq(inner, sums[:, 1], rcond=1e-9)
    if squares - explained @ sums[:, 1] <= 1e-9 * max(squares, 1e-9) or rank >= count:
        raise _Undefined("no variance is left beside listeners' and samples' own")

    def profiled(ratios: np.ndarray) -> tuple[float, float, float, float]:
        """Deviance, mean, the mean's variance over that of the rest, and the latter."""
        scale = np.repeat(np.sqrt(ratios), values.shape)
        root = linalg.cholesky(scale[:, None] * inner * scale + np.eye(len(inner)), lower=True)
        weight, cross = linalg.solve_triangular(root, scale[:, None] * sums, lower=True).T
        xx, xy, yy = count - weight @ weight, total - weight @ cross, squares - cross @ cross
        rest = (yy - xy**2 / xx) / (count - 1)
        deviance = 2 * np.log(np.diag(root)).sum() + math.log(xx) + (count - 1) * math.log(rest)
        return deviance, xy / xx, 1 / xx, rest

    # By ratios of variances: by those of standard deviations every edge is a stationary point.
    found = optimize.minimize(
        lambda ratios: profiled(ratios)[0], (0.2, 0.2), method="L-BFGS-B", bounds=[(0, _LARGEST_RATIO)] * 2,
        options={"ftol": 1e-10},
    )  # fmt: skip
    if not found.success or found.x.max() >= _LARGEST_RATIO:
        raise _Undefined("the model did not converge")
    _, mean, variance, rest = profiled(found.x)
    of_rows, of_columns = found.x * rest
    return _Crossed(centre + mean, math.sqrt(variance * rest), float(of_rows), float(of_columns), rest)


def _by_model(difference: np.ndarray) -> tuple[float, float, int, float]:
    """Estimate, standard error, degrees of freedom and two-sided p of a difference [listeners, samples] being 0.

    Of value ~ arm, with intercepts and slopes of the arm that vary over listeners and over samples: differences are
    taken within a listener's page, where the intercepts cancel, and what varies of the slopes is the rows' and columns'
    share. Wald's t with as many degrees of freedom as the fewer of listeners and samples less one, the least there can
    be.

    Raises
    ------
    _Undefined
        As `_crossed`.
    """
    fitted = _crossed(difference)
    known = np.isfinite(difference)
    df = int(min(known.any(1).sum(), known.any(0).sum())) - 1
    return fitted.mean, fitted.se, df, float(2 * stats.t.sf(abs(fitted.mean / fitted.se), df))


def _by_ranks(means: np.ndarray) -> float:
    """P of Wilcoxon's signed-rank test on listeners' means of two arms [listeners, 2]."""
    # Rounded, so that equal differences tie though they were summed differently.
    differences = np.round(means[:, 0] - means[:, 1], 9)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        raise _Undefined("two listeners are needed")
    differences = differences[differences != 0]
    if not len(differences):
        raise _Undefined("no listener's means differ")
    if not 1 < len(differences) <= _EXACT:
        return float(stats.wilcoxon(differences).pvalue)
    # What stats.wilcoxon does for so few, at a hundredth of the time.
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    found = stats.permutation_test(
        (ranks,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True, n_resamples=2**_EXACT
    )
    return float(found.pvalue)


def _comparisons(
    study: Study, answers: Sequence[_Answers], drawn: Mapping[tuple[str, str], np.ndarray], notes: list[str]
) -> pd.DataFrame:
    """Every two arms by data set and scale; p-values of one data set and scale are corrected together."""
    lines: list[list[Any]] = []
    for one in answers:
        means, by_listener = _mean(one.values, (0, 1)), _mean(one.values, 1)
        family = []
        for (first, arm), (second, other) in combinations(enumerate(study.arms), 2):
            what = f"{_named(one)}: {study.arms[arm]} and {study.arms[other]}"
            resampled = drawn[one.dataset, one.scale]
            difference = one.values[:, :, first] - one.values[:, :, second]
            known = np.isfinite(difference)
            model = _tried(notes, f"{what}, model", (math.nan, math.nan, math.nan, math.nan), _by_model, difference)
            ranks = _tried(notes, f"{what}, Wilcoxon", math.nan, _by_ranks, by_listener[:, [first, second]])
            family.append(
                [
                    one.dataset, study.presentation, one.scale, arm, other, means[first] - means[second],
                    *_interval(resampled[:, first] - resampled[:, second]), *model, math.nan, ranks, math.nan,
                    known.any(1).sum(), known.any(0).sum(),
                ]
            )  # fmt: skip
        for at in (COMPARISON_COLUMNS.index("p"), COMPARISON_COLUMNS.index("p_wilcoxon")):
            for line, corrected in zip(family, comparison.holm([line[at] for line in family]), strict=True):
                line[at + 1] = corrected
        lines += family
    if len(study.arms) < 2:
        notes.append("There is one arm, so none are compared.")
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


def _tried(notes: list[str], what: str, otherwise: _T, function: Callable[..., _T], *values: Any) -> _T:
    """What a function returns; where that is undefined, another value and a note why."""
    try:
        return function(*values)
    except _Undefined as reason:
        notes.append(f"{what}: not computed, as {reason}.")
        return otherwise


def _tests(study: Study, answers: Sequence[_Answers], notes: list[str]) -> pd.DataFrame:
    """Friedman's test over listeners' means of all arms, by data set and scale."""
    lines = []
    for one in answers:
        found = _tried(notes, f"{_named(one)}, Friedman", (math.nan, math.nan, 0), _friedman, _mean(one.values, 1))
        statistic, p, count = found
        lines.append([one.dataset, study.presentation, one.scale, "Friedman", statistic, len(study.arms) - 1, p, count])
    return pd.DataFrame(lines, columns=TEST_COLUMNS)


def _friedman(means: np.ndarray) -> tuple[float, float, int]:
    """Statistic, p and number of listeners, those with means [listeners, arms] of all arms."""
    whole = np.round(means[np.isfinite(means).all(1)], 9)
    if min(whole.shape[0], whole.shape[1] - 1) < 2:
        raise _Undefined("it needs two listeners and three arms")
    if not np.ptp(whole, 1).any():
        raise _Undefined("no listener's means differ")
    found = stats.friedmanchisquare(*whole.T)
    return float(found.statistic), float(found.pvalue), len(whole)


# Agreement of listeners


def _units(values: np.ndarray) -> np.ndarray:
    """Ratings by listener and mix [listeners, samples x arms], without mixes that nobody has rated."""
    flat = values.reshape(len(values), -1)
    return flat[:, np.isfinite(flat).any(0)]


def _alpha(units: np.ndarray) -> float:
    """Krippendorff's alpha of ratings [listeners, mixes], ordinal."""
    import krippendorff

    shared = units[:, np.isfinite(units).sum(0) > 1]
    if not shared.size:
        raise _Undefined("no mix was rated by two listeners")
    if np.nanmin(shared) == np.nanmax(shared):
        raise _Undefined("all ratings are equal")
    return float(krippendorff.alpha(reliability_data=units, level_of_measurement="ordinal"))


class _Icc(NamedTuple):
    """Intraclass correlations of one listener's rating and of the mean of k, absolute agreement."""

    single: float
    mean: float
    k: float
    method: str


def _icc(units: np.ndarray) -> _Icc:
    """ICC(2,1) and ICC(2,k) of ratings [listeners, mixes].

    Where all have rated all by mean squares (Shrout and Fleiss, 1979, page 423), else by the variances of the model
    value ~ 1 + listener + mix, both random (REML), with k the harmonic mean of the numbers of ratings a mix.
    """
    known = np.isfinite(units)
    raters, targets = units.shape
    if not known.all():
        fitted = _crossed(units)
        error, k = fitted.rows + fitted.rest, stats.hmean(known.sum(0))
        return _Icc(
            fitted.columns / (fitted.columns + error), fitted.columns / (fitted.columns + error / k), float(k),
            "REML, cells missing",
        )  # fmt: skip
    if min(raters, targets) < 2:
        raise _Undefined("two listeners and two mixes are needed")
    of_target, of_rater = units.mean(0), units.mean(1)
    rest = units - of_target - of_rater[:, None] + units.mean()
    between = raters * of_target.var(ddof=1)
    judges = targets * of_rater.var(ddof=1)
    error = (rest**2).sum() / ((raters - 1) * (targets - 1))
    if between + judges + error < 1e-12:
        raise _Undefined("all ratings are equal")
    shared = (judges - error) / targets
    return _Icc(
        (between - error) / (between + (raters - 1) * error + raters * shared), (between - error) / (between + shared),
        float(raters), "mean squares",
    )  # fmt: skip


def _agreement(study: Study, answers: Sequence[_Answers], notes: list[str]) -> pd.DataFrame:
    lines = []
    for one in answers:
        units = _units(one.values)
        alpha = _tried(notes, f"{_named(one)}, Krippendorff's alpha", math.nan, _alpha, units)
        icc = _tried(notes, f"{_named(one)}, ICC", _Icc(math.nan, math.nan, math.nan, ""), _icc, units)
        lines.append([one.dataset, study.presentation, one.scale, alpha, *icc, *units.shape])
    return pd.DataFrame(lines, columns=AGREEMENT_COLUMNS)


# What predicts listeners


def _scores(study: Study, pairs: pd.DataFrame, notes: list[str]) -> pd.DataFrame | None:
    """The run's scores of the rated mixes, in the order of `pairs`, with `clip`; None where there are none."""
    table = _left(study, "scores.csv", [*PAIR_KEY, "clip"], notes)
    if table is None:
        return None
    numeric = table.select_dtypes("number").columns
    columns = [name for name in numeric if name not in _FACTS and name not in study.scales]
    table = table.drop_duplicates(list(PAIR_KEY))[[*PAIR_KEY, "clip", *columns]]
    found = pairs[list(PAIR_KEY)].merge(table, how="left", on=list(PAIR_KEY), validate="one_to_one")
    if found["clip"].isna().any():
        notes.append(f"scores.csv lacks {int(found['clip'].isna().sum())} of the {len(found)} rated mixes.")
    return found


def _left(study: Study, name: str, keys: Sequence[str], notes: list[str]) -> pd.DataFrame | None:
    """A table that the run has left; None if it has not. Raises BlendbenchError if it is damaged."""
    file = study.run_dir / name
    if not file.is_file():
        notes.append(f"The run has no {name}, so no score is held against it; `blendbench table` makes it.")
        return None
    try:
        # A name such as "None" is one.
        table = pd.read_csv(file, dtype=dict.fromkeys(keys, str), keep_default_na=False, na_values=["", "nan"])
        if lacking := [key for key in keys if key not in table]:
            raise ValueError(f"no column {', '.join(lacking)}")
    except (OSError, ValueError) as error:
        raise BlendbenchError(
            f"{file}: damaged ({one_line(str(error))}); `blendbench table {study.run_dir}` makes it again"
        ) from None
    return table


def _better(name: str) -> str:
    higher = tables.metric(name).higher_is_better
    return "" if higher is None else "higher" if higher else "lower"


class _Mixes(NamedTuple):
    """One predictor and one scale over the mixes that have both."""

    score: np.ndarray
    rating: np.ndarray
    arm: np.ndarray
    clip: np.ndarray


def _over_mixes(study: Study, pairs: pd.DataFrame, scores: pd.DataFrame | None, notes: list[str]) -> pd.DataFrame:
    """Correlations over mixes of each score with each scale, by data set."""
    lines: list[list[Any]] = []
    if scores is None:
        return pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    names = [name for name in scores.columns if name not in (*PAIR_KEY, "clip")]
    for dataset in pairs["dataset"].unique():
        own = (pairs["dataset"] == dataset).to_numpy()
        for scale in study.scales:
            for name in names:
                chosen = own & (np.isfinite(scores[name]) & pairs[scale].notna()).to_numpy()
                mixes = _Mixes(
                    scores.loc[chosen, name].to_numpy(float), pairs.loc[chosen, scale].to_numpy(float),
                    pairs.loc[chosen, "arm"].to_numpy(str), scores.loc[chosen, "clip"].to_numpy(str),
                )  # fmt: skip
                if len(mixes.score) and not np.ptp(mixes.score):
                    continue  # a constant, such as the noise's level
                what = f"{name} and {_label(scale)}, {dataset}"
                found = _tried(notes, what, None, _correlated, mixes, study.settings["seed"], notes, what)
                if found is not None:
                    lines.append([dataset, study.presentation, scale, name, "mixes", _better(name), *found, "", ""])
    out = pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    return _read(_read(out, "spearman", "p", "reading"), "spearman_within", "p_within", "reading_within")


def _read(table: pd.DataFrame, statistic: str, p: str, reading: str) -> pd.DataFrame:
    """Correct a column of p-values within each data set and scale, and tell what the statistics say by them."""
    table = table.copy()
    for _, group in table.groupby(["dataset", "metric"], sort=False):
        table.loc[group.index, f"{p}_holm"] = comparison.holm(group[p].tolist())
    facts = zip(table[statistic], table[f"{p}_holm"], table["better"], map(_better, table["metric"]), strict=True)
    table[reading] = [_reading(*one) for one in facts]
    return table


def _correlated(mixes: _Mixes, seed: int, notes: list[str], what: str) -> list[float]:
    """The columns spearman to n_clips of a predictor and a scale; p-values not yet corrected."""
    if len(mixes.score) < 3:
        raise _Undefined(f"{len(mixes.score)} mixes have both")
    if not np.ptp(mixes.rating):
        raise _Undefined("all mixes are rated alike")
    nothing = (math.nan, math.nan, math.nan)
    low, high, p = _tried(notes, f"{what}, interval", nothing, _over_clips, mixes, seed)
    within, p_within = _tried(notes, f"{what}, within arms", nothing[:2], _within_arms, mixes, seed)
    kendall = float(stats.kendalltau(mixes.score, mixes.rating).statistic)
    pearson = float(stats.pearsonr(mixes.score, mixes.rating).statistic)
    rho = float(_spearman(mixes.score, mixes.rating)[0])
    count, clips = len(mixes.score), len(set(mixes.clip))
    return [rho, low, high, p, math.nan, kendall, pearson, within, p_within, math.nan, count, clips]


def _spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rho of N values in resamples [resamples] that hold each so many times [resamples, N], or of all once.

    nan where a resample has only one value of either.
    """
    weights = np.ones((1, len(first))) if counts is None else counts.astype(float)

    def ranks(values: np.ndarray) -> np.ndarray:
        """Mean ranks, copies of a value tying, from their weighted mean."""
        order = np.argsort(values, kind="stable")
        new = np.diff(values[order], prepend=-math.inf) > 0
        tied = np.add.reduceat(weights[:, order], np.flatnonzero(new), axis=1)
        found = np.empty_like(weights)
        found[:, order] = (tied.cumsum(1) - tied / 2)[:, new.cumsum() - 1]
        return found - np.average(found, axis=1, weights=weights)[:, None]

    a, b = ranks(first), ranks(second)
    with np.errstate(invalid="ignore"):
        return (weights * a * b).sum(1) / np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))


def _over_clips(mixes: _Mixes, seed: int) -> tuple[float, float, float]:
    """Interval of Spearman's rho over noise clips, and the p of resampled values straying as far as it is from 0."""
    names, clip = np.unique(mixes.clip, return_inverse=True)
    if len(names) < 2:
        raise _Undefined("all mixes are of one noise clip")
    draw = np.random.default_rng(stable_seed(seed, "clips"))
    drawn = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)[:, clip]
    resampled = _spearman(mixes.score, mixes.rating, drawn)
    interval = _interval(resampled)
    if math.isnan(interval[0]):
        raise _Undefined("too many resamples of so few noise clips have no order")
    rho = float(_spearman(mixes.score, mixes.rating)[0])
    return *interval, comparison.shift_test(resampled[np.isfinite(resampled)], rho)


def _within_arms(mixes: _Mixes, seed: int) -> tuple[float, float]:
    """Spearman's rho of what is left beside the arms' means, and its p by exchanging the scores of whole clips.

    Clips change places that have mixes of the same arms.
    """
    left = []
    for values in (mixes.score, mixes.rating):
        beside = values - pd.Series(values).groupby(mixes.arm).transform("mean").to_numpy()
        left.append(np.round(beside / np.ptp(values), 9))  # equal values stay so
    if not (np.ptp(left[0]) and np.ptp(left[1])):
        raise _Undefined("nothing differs within arms")
    rho = float(_spearman(*left)[0])
    alike: dict[tuple[str, ...], list[np.ndarray]] = {}
    for clip in dict.fromkeys(mixes.clip):
        places = np.flatnonzero(mixes.clip == clip)
        alike.setdefault(tuple(mixes.arm[places]), []).append(places)
    if max(map(len, alike.values())) < 2:
        return rho, math.nan
    draw = np.random.default_rng(stable_seed(seed, "within arms"))
    order = np.tile(np.arange(len(left[0])), (_RESAMPLES, 1))
    for blocks in map(np.array, alike.values()):
        turns = draw.permuted(np.tile(np.arange(len(blocks)), (_RESAMPLES, 1)), axis=1)
        order[:, blocks.ravel()] = blocks[turns].reshape(_RESAMPLES, -1)
    a, b = (stats.rankdata(values) - (len(values) + 1) / 2 for values in left)
    drawn = a[order] @ b / math.sqrt((a @ a) * (b @ b))
    return rho, float((1 + np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12)) / (1 + _RESAMPLES))


def _reading(rho: float, p: float, better: str, better_scale: str) -> str:
    """What a correlation says of a score by its corrected p: whether it agrees, where both have a better end."""
    if math.isnan(p):
        return ""
    if p >= _LEVEL or not rho:
        return "shows nothing"
    if not (better and better_scale):
        return "rises" if rho > 0 else "falls"
    return "agrees" if (rho > 0) == (better == better_scale) else "disagrees"


def _over_arms(study: Study, summary: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Kendall's tau over three arms or more of each of the run's results with each scale; its p from five arms on."""
    lines: list[dict[str, Any]] = []
    table = _left(study, "results.csv", ["dataset", "arm", "presentation", "metric"], notes)
    if table is None:
        return pd.DataFrame(lines, columns=CORRELATION_COLUMNS)
    table = table[(table["presentation"] == study.presentation) & ~table["metric"].isin(list(study.scales))]
    for (dataset, scale), rated in summary.groupby(["dataset", "metric"], sort=False):
        means = dict(zip(rated["arm"], rated["value"], strict=True))
        for name, group in table[table["dataset"] == dataset].groupby("metric", sort=False):
            found = comparison.agreement(dict(zip(group["arm"], group["value"].astype(float), strict=True)), means)
            if found.n >= 3 and not math.isnan(found.tau):
                lines.append(
                    {
                        "dataset": dataset, "presentation": study.presentation, "metric": scale, "predictor": name,
                        "over": "arms", "better": _better(str(name)), "kendall": found.tau, "n": found.n,
                        "p": found.p if found.n >= _ARMS else math.nan, "reading_within": "",
                    }
                )  # fmt: skip
    return _read(pd.DataFrame(lines, columns=CORRELATION_COLUMNS), "kendall", "p", "reading")


# Figures


class _Paper(NamedTuple):
    """A published mean, and its standard deviation (nan if not known)."""

    value: float
    sd: float


def _paper(study: Study, run: Mapping[str, Any]) -> dict[tuple[str, str, str], _Paper]:
    """The paper's ratings by data set of the study, arm and scale, where it has them for this presentation.

    Standard deviations are in the column `sd` of the experiment's CSV, where it has one.
    """
    published = tables.paper_figures(run["experiment"])
    shown = run["experiment"].get("paper_dataset") or {}
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


def _draw_ratings(
    study: Study,
    answers: Sequence[_Answers],
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
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            means = _mean(one.values[:, :, place], 1)
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
        axis.set_title(words["label"] + (f", {one.dataset}" if rows > 1 else ""), fontsize=9)
        axis.set_xticks(range(len(study.arms)), [label.replace(" ", "\n") for label in study.arms.values()], fontsize=8)
        axis.set_xlim(-0.6, len(study.arms) - 0.4)
        axis.set_ylim(0.9, 5.1)
        axis.set_yticks(range(1, 6), ["1", "2", "3", "4", "5"], fontsize=8)
        axis.set_ylabel(f"1: {words['low']}\n5: {words['high']}", fontsize=7)
        axis.grid(axis="y", alpha=0.3)
    figure.legend(handles.values(), handles, fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    for ending in (".png", ".svg"):
        figures.save(figure, folder / f"ratings{ending}")


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
                colour = figures.COLOURS[place % len(figures.COLOURS)]
                x, y = scores.loc[chosen, name], pairs.loc[chosen, scale]
                axis.scatter(x, y, s=12, color=colour, alpha=0.75, linewidths=0, label=label)
            facts = over[(over["dataset"] == dataset) & (over["metric"] == scale) & (over["predictor"] == name)]
            for row in facts.to_dict("records"):
                told = f"rho {row['spearman']:.2f}, within methods {_number(row['spearman_within'])}"
                axis.set_title(told, fontsize=8)
            axis.set_xlabel(_score_label(name), fontsize=8)
            axis.set_ylabel(_label(scale) + (f", {dataset}" if pairs["dataset"].nunique() > 1 else ""), fontsize=8)
            axis.set_ylim(0.9, 5.1)
            axis.set_yticks(range(1, 6))
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=len(labels), frameon=False)
    figures.save(figure, file)
    return best


def _score_label(name: str) -> str:
    shown = tables.metric(name)
    return shown.label + (f" ({shown.unit})" if shown.unit else "")


# The report


def _head(study: Study, run: Mapping[str, Any]) -> str:
    asked, count = " and ".join(words["label"] for words in study.scales.values()), len(study.of_kind("sample"))
    return (
        f"{run['experiment']['title']}, presentation {study.presentation}: {count} samples, each "
        f"by {', '.join(study.arms.values())}. Rated 1 to 5: {asked}; {_playback(study)}."
    )


def _told_listeners(study: Study, listeners: Sequence[_Listener], reasons: Mapping[int, list[str]]) -> str:
    limits = study.settings["exclusions"]
    out = {number: "; ".join(found) for number, found in reasons.items() if found}
    text = f"## Listeners\n\n{len(listeners)} took part: {len(listeners) - len(out)} count, {len(out)} are left out.\n"
    if out:
        text += f"\n{tables.to_markdown(pd.DataFrame(out.items(), columns=['Listener', 'Left out by']))}\n"
    text += f"\nRules (`exclusions` in {SETTINGS}); one that does not know what it asks for leaves nobody out:\n\n"
    for key, (_, meaning) in _RULES.items():
        text += f"- {key}: {meaning.format(limits[key]) if _is_on(limits[key]) else 'switched off'}\n"
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
    return f"### {dataset}\n\n" if table["dataset"].nunique() > 1 else ""


def _told_ratings(study: Study, summary: pd.DataFrame, paper: Mapping[tuple[str, str, str], _Paper]) -> str:
    text = "## Ratings\n\n"
    for dataset, part in _by(summary, "dataset"):
        lines, bold = [], set()
        top = part.groupby("metric")["value"].max()
        theirs = {scale: [key for key in paper if key[::2] == (dataset, scale)] for scale in study.scales}
        for arm, label in study.arms.items():
            line = {"Method": label}
            for row in part[part["arm"] == arm].to_dict("records"):
                column = f"{_label(row['metric'])}: mean ± sd [95 % interval]"
                line[column] = f"{_number(row['value'])} ± {_number(row['sd'])}{_bracket(row)}"
                if row["value"] == top[row["metric"]] and _better(row["metric"]) and len(study.arms) > 1:
                    bold.add((label, column))
            for scale in study.scales:
                one = paper.get((dataset, arm, scale), _Paper(math.nan, math.nan))
                if theirs[scale]:
                    spread = "" if math.isnan(one.sd) else f" ± {one.sd:.2f}"
                    line[f"{_label(scale)}: the paper's"] = _number(one.value) + spread
            lines.append(line)
        recipe = part["recipe"].iloc[0]
        text += f"{_heading(dataset, summary)}{tables.to_markdown(pd.DataFrame(lines), bold)}\n\n"
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
                    _label(scale): f"{study.arms[row['arm']]} − {study.arms[row['other']]}",
                    "Difference": _number(row["difference"], "+.2f") + _bracket(row, "+.2f"),
                    "p, model": _p(row["p_holm"]),
                    "p, Wilcoxon": _p(row["p_wilcoxon_holm"]),
                }
                for row in rows
            ]
            text += f"{tables.to_markdown(pd.DataFrame(lines))}\n\n{_told_apart(study, rows)}"
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
        if row["p_holm"] < _LEVEL:
            above, below = (row["arm"], row["other"])[:: 1 if row["estimate"] > 0 else -1]
            found.append(f"{study.arms[above]} above {study.arms[below]}")
    return f"Told apart by the model: {'; '.join(found)}." if found else "The model tells no two apart."


def _told_agreement(agreement: pd.DataFrame) -> str:
    lines = [
        {
            "Scale": _label(row["metric"]),
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
        f"{tables.to_markdown(pd.DataFrame(lines))}\n"
    )


def _told_predictors(study: Study, correlations: pd.DataFrame, best: Sequence[str]) -> str:
    if correlations.empty:
        return ""
    text = (
        "## Do objective scores predict listeners?\n\nOver mixes: Spearman's rho [95 % interval over noise clips]. A "
        "score may agree there by nothing but that these few methods differ in both; within methods: rho of what is "
        "left beside their means, with p by exchanging clips. A score that has a better end agrees or disagrees with "
        "listeners, one that has none rises or falls with a scale; it shows nothing where p is "
        f"{_LEVEL:g} or more after Holm over all scores.\n\n"
    )
    if study.settings["playback"]["match"] != "none":
        text += f"Scores are of the mixes as the run made them; listeners heard {_playback(study)}.\n\n"
    for dataset, part in _by(correlations, "dataset"):
        text += _heading(dataset, correlations)
        for scale, group in _by(part[part["over"] == "mixes"], "metric"):
            lines = [
                {
                    f"{_label(scale)} and": _score_label(row["predictor"]),
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
            text += f"{tables.to_markdown(pd.DataFrame(lines))}\n\n"
        text += _told_arms(part[part["over"] == "arms"])
    if best:
        text += f"![{', '.join(_label(name) for name in best)} against ratings](predictors.png)\n"
    return text.rstrip("\n") + "\n"


def _told_arms(over_arms: pd.DataFrame) -> str:
    """Kendall's tau over arms, a row a metric of the run."""
    lines = []
    for name, group in _by(over_arms, "predictor"):
        line = {"Over methods, Kendall's tau": _score_label(name), "Better": group["better"].iloc[0] or "–"}
        for row in group.to_dict("records"):
            line[_label(row["metric"])] = _number(row["kendall"]) + (f", {row['reading']}" if row["reading"] else "")
        lines.append(line | {"Methods": str(group["n"].max())})
    if not lines:
        return ""
    few = "So few methods may be in any order by chance: this is no evidence.\n\n"
    return f"{tables.to_markdown(pd.DataFrame(lines).fillna('–'))}\n\n" + (few if over_arms["n"].min() < _ARMS else "")


def _told_notes(notes: Sequence[str]) -> str:
    return "## Notes\n\n" + "".join(f"- {note}\n" for note in dict.fromkeys(notes)) if notes else ""
