"""The analysis of listening studies, on simulated listeners whose truth is known and on published worked examples."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
from statsmodels.stats.multitest import multipletests
from support import runs
from support.listeners import BLEND, blend_settings

from blendbench.errors import BlendbenchError
from blendbench.listening import analysis, analysis_report, findings, statistics
from blendbench.listening.answers import columns, facts_of
from blendbench.listening.study import Clip, Sample, Study, position
from blendbench.runs.experiment import Experiment
from blendbench.runs.folder import Run

NOISE, MUSIC = "noise", "music"
ARMS = {"random_music": "Random music", "musicgen_melody": "MusicGen melody", "bnmusic": "BNMusic"}
EFFECTS = {"random_music": -0.6, "musicgen_melody": 0.0, "bnmusic": 0.7}
TABLES = ("summary", "pairs", "comparisons", "tests", "agreement", "correlations")
CLIP = Clip("0" * 32, -23.0)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Nothing warns: what is not defined is told in the notes, not on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", ResourceWarning)  # of another test's garbage
        yield


def make_study(
    folder: Path,
    *words: str,
    samples: int = 10,
    arms: Mapping[str, str] = ARMS,
    datasets: Sequence[str] = ("esc50",),
    catches: int = 2,
    experiment: Mapping[str, Any] | None = None,
    scales: Sequence[str] = ("ovl", "per"),
) -> Study:
    """A study without sounds, and of its run `config.yaml`; pairs p0, p1, ... take turns in the data sets."""
    settings = blend_settings(None, list(words))
    settings = replace(settings, scales={name: settings.scales.get(name, settings.scales["ovl"]) for name in scales})

    def sample(kind: str, number: int) -> Sample:
        conditions = list(arms)
        if kind == "catch":
            conditions = [NOISE, MUSIC, *conditions[2:]]
        name = f"s{number + 1:03d}" if kind == "sample" else f"{kind}{number + 1}"
        pair = f"p{number}" if kind == "sample" else f"{kind}-pair-{number}"
        dataset = datasets[number % len(datasets)]
        facts = {"clip": f"clip-{pair}", "label": "rain", "genre": "Jazz", "prompt": "jazz"}
        return Sample(name, kind, pair, dataset, facts, CLIP, None, dict.fromkeys(conditions, CLIP))

    counts = {"sample": samples, "catch": catches, "practice": 1}
    planned = tuple(sample(kind, number) for kind, count in counts.items() for number in range(count))
    run = {"name": "x", "title": "Table 2", "paper_csv": None, "metrics": ["fad"], "rows": dict(arms)}
    runs.write(folder, settings={"experiment": run | dict(experiment or {})})
    return Study(folder / "listening", settings, BLEND, dict(arms), {}, "adaptive", planned, (), CLIP, 5.0)


@dataclass
class People:
    """Simulated listeners: means 3 + arm + listener + sample + mix + listener's liking of the arm, then rounded."""

    effects: Mapping[str, float] = field(default_factory=lambda: EFFECTS)
    count: int = 12
    bad: Mapping[int, str] = field(default_factory=dict)
    spread: float = 0.6
    mix: float = 0.2
    liking: float = 0.15
    seed: int = 0

    def ratings(self, study: Study) -> pd.DataFrame:
        """What they answer, as `Answers.export` gives it."""
        draw = np.random.default_rng(self.seed)
        sample = {one.name: draw.normal(0, 0.3) for one in study.samples}
        mix = {(one.name, arm): draw.normal(0, self.mix) for one in study.samples for arm in study.arms}
        lines: list[list[Any]] = []
        for listener in range(self.count):
            kind, bias = self.bad.get(listener, ""), draw.normal(0, 0.3)
            liking = {arm: draw.normal(0, self.liking) for arm in study.arms}
            pages = study.pages(listener)
            for page in pages[: 4 if kind == "early" else None]:
                seconds = float(draw.uniform(1, 4) if kind == "hasty" else draw.uniform(20, 60))
                one = page.sample
                facts = [page.kind, *facts_of(study, one)]
                for place, arm in enumerate(page.order):
                    for scale in study.scales:
                        if arm in (NOISE, MUSIC):
                            loud = (arm == NOISE) != (kind == "catch")
                            value = 1 if loud else 5
                        else:
                            true = 3 + self.effects[arm] + mix[one.name, arm] + sample[one.name] + bias + liking[arm]
                            value = int(np.clip(round(true + draw.normal(0, self.spread)), 1, 5))
                        value = 3 if kind == "straight" else value
                        lines.append([listener, page.index, position(place), *facts, arm, scale, value, 0, 1, seconds])
        return pd.DataFrame(lines, columns=columns(study))


def array_ratings(study: Study, values: np.ndarray) -> pd.DataFrame:
    """Ratings [listeners, samples, arms] of another tool, on the first scale; nan is left out."""
    lines = []
    for listener, place, arm in zip(*np.nonzero(np.isfinite(values)), strict=True):
        one = study.of_kind("sample")[place]
        facts = [one.kind, *facts_of(study, one)]
        rated = [list(study.arms)[arm], next(iter(study.scales)), values[listener, place, arm]]
        lines.append([int(listener), int(place), "A", *facts, *rated, None, None, None])
    return pd.DataFrame(lines, columns=columns(study))


def analyse(study: Study, ratings: pd.DataFrame, headphones: Mapping[int, bool]) -> Path:
    """The analysis of a study beside its run."""
    return analysis.analyse(study, ratings, headphones, Run.open(study.run_dir))


def table(study: Study, name: str) -> pd.DataFrame:
    return pd.read_csv(study.folder / "analysis" / f"{name}.csv")


def told(study: Study) -> str:
    return (study.folder / "analysis" / "analysis.md").read_text(encoding="utf-8")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at tables alone: figures are most of the time."""
    monkeypatch.setattr(analysis_report, "draw_ratings", lambda *_: None)
    monkeypatch.setattr(analysis_report, "draw_predictors", lambda *_: [])


BAD = {12: "straight", 13: "catch", 14: "hasty", 15: "early", 16: "headphones"}
HEADPHONES = {listener: listener != 16 for listener in range(17)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, pd.DataFrame]:
    """A study of twelve good listeners and five bad ones with scores of many kinds, analysed."""
    study = make_study(tmp_path_factory.mktemp("done"), "exclusions.headphones=true")
    ratings = People(count=17, bad=BAD).ratings(study)
    write_scores(study, ratings)
    analyse(study, ratings, HEADPHONES)
    return study, ratings


def write_scores(study: Study, ratings: pd.DataFrame) -> None:
    """Scores that go with OVL (KL against it, so that it agrees), that do not, and that tell arms apart alone."""
    draw = np.random.default_rng(5)
    means = (
        ratings[(ratings["kind"] == "sample") & (ratings["scale"] == "ovl")].groupby(["pair_id", "arm"])["value"].mean()
    )
    rows: list[runs.Row] = []
    values: dict[str, list[float]] = {name: [] for name in ("kl", "masked_bands", "clap", "ovl")}
    for one, arm in product(study.of_kind("sample"), study.arms):
        mean, beside = means[one.pair_id, arm], 0.05 * draw.normal()
        found = {"kl": beside - mean, "masked_bands": beside - mean, "clap": draw.normal(), "ovl": mean}
        for name, each in values.items():
            each.append(found[name])
        levels = {"noise_lufs": -18, "music_lufs": 10 * EFFECTS[arm] + draw.normal(), "gain_db": None}
        rows.append(runs.row(one.pair_id, arm, study.presentation, one.dataset, label="rain", **levels))
    scores = runs.scores(rows, **values)
    others = scores.assign(presentation="direct", kl=0.0)
    fad = {"random_music": 9.0, "musicgen_melody": 8.0, "bnmusic": 7.0}
    cells = [{"arm": arm, "presentation": "adaptive", "metric": name, "value": value}
             for name in ("fad", "ovl") for arm, value in fad.items()]  # fmt: skip
    runs.write(study.run_dir, scores=pd.concat([others, scores.iloc[::-1]]), results=runs.results(cells))


def kept(ratings: pd.DataFrame, scale: str = "ovl") -> pd.DataFrame:
    """The ratings of the done study that count."""
    return ratings[(ratings["kind"] == "sample") & (ratings["scale"] == scale) & ~ratings["listener"].isin(BAD)]


# Who counts


def test_exactly_the_bad_listeners_are_left_out_each_for_what_they_did(done):
    study, _ = done
    found = table(study, "exclusions").set_index("listener")["excluded"].dropna()
    assert {number: {part.split(":")[0] for part in text.split("; ")} for number, text in found.items()} == {
        12: {"catch_failures", "same_answer_share"},
        13: {"catch_failures"},
        14: {"fastest_page_s"},
        15: {"finished_share"},
        16: {"headphones"},
    }
    assert found[15] == "finished_share: rated 3 of 12 pages"
    assert "17 took part: 12 count, 5 are left out." in told(study)


@pytest.mark.parametrize(
    ("rule", "spared"),
    [
        ("finished_share=null", {15}),
        ("catch_failures=null", {13}),
        ("catch_failures=2", {13}),
        ("fastest_page_s=null", {14}),
        ("headphones=false", {16}),
        ("same_answer_share=null", set()),
    ],
)
def test_a_rule_that_is_switched_off_leaves_nobody_out(done, tmp_path, no_figures, rule, spared):
    words = ["exclusions.headphones=true", f"exclusions.{rule}"]
    study = make_study(tmp_path, *words)
    analyse(study, done[1], HEADPHONES)
    found = table(study, "exclusions").set_index("listener")["excluded"].dropna()
    assert set(found.index) == set(BAD) - spared
    assert (f"{rule.split('=')[0]}: switched off" in told(study)) == rule.endswith(("null", "false"))


def test_facts_of_listeners_are_counted(done):
    study, ratings = done
    found = table(study, "exclusions").set_index("listener")
    own = ratings[(ratings["listener"] == 0) & (ratings["kind"] != "practice")]
    shares = [np.bincount(part["value"]).max() / len(part) for _, part in own.groupby("scale")]
    assert found.loc[0, "same_answer_share"] == pytest.approx(max(shares), rel=1e-5)
    seconds = own.drop_duplicates("page")["page_s"]
    assert found.loc[0, "median_page_s"] == pytest.approx(seconds.median(), rel=1e-5)
    assert found.loc[13, ["pages_rated", "pages_assigned", "catch_failed", "catch_trials"]].tolist() == [12, 12, 2, 2]
    assert found["headphones"].tolist() == ["passed"] * 16 + ["failed"]


def test_equal_answers_to_noise_and_music_fail_a_catch_trial(tmp_path, no_figures):
    study = make_study(tmp_path)
    ratings = People(count=3).ratings(study)
    ratings.loc[(ratings["listener"] == 1) & (ratings["sample"] == "catch1"), "value"] = 4
    analyse(study, ratings, {})
    assert table(study, "exclusions")["catch_failed"].tolist() == [0, 1, 0]


def test_without_the_scale_per_catch_trials_are_told_to_say_nothing(tmp_path, no_figures):
    study = make_study(tmp_path, scales=("ovl",))
    analyse(study, People(count=4, bad={1: "catch"}).ratings(study), {})
    assert table(study, "exclusions")["excluded"].isna().all()
    assert "no scale `per`" in told(study)


def test_what_is_not_known_leaves_nobody_out(tmp_path, no_figures):
    study = make_study(tmp_path, "exclusions.headphones=true")
    ratings = People(count=4, bad={1: "hasty"}).ratings(study).assign(page_s=None, plays=None, changes=None)
    analyse(study, ratings, {0: True})
    found = table(study, "exclusions")
    assert found["excluded"].isna().all()
    assert found["median_page_s"].isna().all()
    assert "fastest_page_s: how long a page took is not known of 4 of 4 listeners" in told(study)
    assert "headphones: the headphone check's outcome is not known of 3 of 4 listeners" in told(study)


def test_practice_and_pages_that_were_not_ended_do_not_count(tmp_path, no_figures):
    study = make_study(tmp_path)
    ratings = People(count=4).ratings(study)
    expected = ratings[(ratings["kind"] == "sample") & (ratings["scale"] == "ovl")].groupby("arm")["value"].mean()
    analyse(study, ratings, {})
    assert table(study, "summary").set_index(["metric", "arm"])["value"]["ovl"].to_dict() == pytest.approx(
        expected.to_dict(), rel=1e-5
    )
    left = (ratings["listener"] == 2) & (ratings["sample"] == "s003")
    ratings.loc[ratings["kind"] == "practice", "value"] = 5
    ratings.loc[left, "value"] = 1
    ratings["page_s"] = ratings["page_s"].mask(left)
    analyse(study, ratings, {})
    counts = table(study, "pairs").set_index("pair_id")["n"].groupby("pair_id").max()
    assert counts["p2"] == 3
    assert counts.drop("p2").eq(4).all()
    assert table(study, "exclusions")["pages_rated"].tolist() == [12, 12, 11, 12]


def test_who_was_tested_but_rated_nothing_is_named(tmp_path, no_figures):
    study = make_study(tmp_path)
    analyse(study, People(count=3).ratings(study), {7: True})
    assert table(study, "exclusions").set_index("listener")["excluded"].dropna().to_dict() == {7: "rated no page"}


# Means and intervals


def test_means_and_deviations_are_those_of_the_ratings_that_count(done):
    study, ratings = done
    summary = table(study, "summary").set_index(["metric", "arm"])
    assert len(summary) == 6
    for scale, arm in product(study.scales, study.arms):
        values = kept(ratings, scale).query("arm == @arm")
        row = summary.loc[scale, arm]
        expected = {
            "value": values["value"].mean(),
            "sd": values["value"].std(),
            "sd_listeners": values.groupby("listener")["value"].mean().std(),
            "sd_samples": values.groupby("sample")["value"].mean().std(),
        }
        assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-5)
        assert row[["n_ratings", "n_listeners", "n_samples"]].tolist() == [120, 12, 10]
        assert row["ci_low"] < row["value"] < row["ci_high"]
    assert summary["recipe"].unique().tolist() == [
        "ratings 1-5 of 12 listeners, 5 left out; 10 samples; every clip at -23 LUFS; 95% bootstrap over listeners and "
        "samples (crossed), 2000 resamples"
    ]


def test_pairs_hold_the_mean_over_listeners(done):
    study, ratings = done
    pairs = table(study, "pairs")
    assert list(pairs.columns) == ["dataset", "arm", "presentation", "pair_id", "ovl", "per", "n"]
    found = pairs.set_index(["pair_id", "arm"])
    for scale in study.scales:
        expected = kept(ratings, scale).groupby(["pair_id", "arm"])["value"].mean()
        assert found[scale].to_dict() == pytest.approx(expected.to_dict(), rel=1e-5)
    assert pairs["n"].eq(12).all()


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_interval_is_that_of_listeners_and_samples_drawn_one_by_one(missing):
    draw = np.random.default_rng(2)
    values = draw.normal(size=(9, 1, 2)) + draw.normal(size=(1, 7, 2)) + draw.normal(size=(9, 7, 2))
    values[draw.random((9, 7)) < missing] = math.nan
    found = statistics.resampled_means(values, seed=0)
    slow = []
    for _ in range(3000):
        again = values[draw.integers(9, size=9)][:, draw.integers(7, size=7)]
        slow.append(np.nanmean(again, (0, 1)))
    for one, other in ((found, np.array(slow)), (found[:, :1] - found[:, 1:], np.diff(slow)[:, ::-1] * -1)):
        assert one.std(0) == pytest.approx(other.std(0), rel=0.07)
        assert np.quantile(one, [0.025, 0.975], 0) == pytest.approx(np.quantile(other, [0.025, 0.975], 0), abs=0.13)


def test_scales_of_one_data_set_are_resampled_alike(done):
    """So that intervals of OVL and of PER are of the same listeners and samples."""
    study, ratings = done
    ovl = ratings[(ratings["scale"] == "ovl") & (ratings["kind"] == "sample")]
    found = findings.find(study, pd.concat([ovl, ovl.assign(scale="per")]), 0, []).summary
    one, other = (
        found.loc[found["metric"] == scale, ["arm", "value", "ci_low", "ci_high"]].values.tolist()
        for scale in study.scales
    )
    assert one == other


# Differences of arms


def differences(
    seed: int, shape: tuple[int, int] = (12, 10), listeners: float = 0.5, samples: float = 0.5
) -> np.ndarray:
    """Differences of two arms [listeners, samples] around 0.4, in which both take the arms in their own ways."""
    draw = np.random.default_rng(seed)
    out = 0.4 + listeners * draw.normal(size=(shape[0], 1)) + samples * draw.normal(size=(1, shape[1]))
    return out + draw.normal(size=shape)


def test_model_of_complete_ratings_is_the_two_way_analysis_of_variance():
    values = differences(0)
    n, m = values.shape
    of_row, of_column = values.mean(1), values.mean(0)
    rows, columns = m * of_row.var(ddof=1), n * of_column.var(ddof=1)
    rest = ((values - of_row[:, None] - of_column + values.mean()) ** 2).sum() / ((n - 1) * (m - 1))
    found = statistics.crossed(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.se == pytest.approx(math.sqrt((rows + columns - rest) / (n * m)), rel=1e-4)
    expected = ((rows - rest) / m, (columns - rest) / n, rest)
    assert (found.rows, found.columns, found.rest) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_model_of_incomplete_ratings_is_that_of_statsmodels(seed):
    values = differences(seed, (9, 11), 0.6, 0.7)
    values[np.random.default_rng(seed).random(values.shape) < 0.4] = math.nan
    row, column = np.nonzero(np.isfinite(values))
    y = values[row, column]
    effects = [
        (index[:, None] == np.arange(size)).astype(float) for index, size in zip((row, column), (9, 11), strict=True)
    ]
    names = [[[str(one) for one in range(size)]] for size in (9, 11)]
    spec = VCSpec(["listener", "sample"], names, [[one] for one in effects])
    model = MixedLM(y, np.ones((len(y), 1)), np.zeros(len(y)), exog_vc=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model.fit(method="powell", ftol=1e-10)
    found = statistics.crossed(values)
    assert found.mean == pytest.approx(fitted.fe_params[0], abs=1e-3)
    assert (found.rows, found.columns, found.rest) == pytest.approx((*fitted.vcomp, fitted.scale), rel=0.01, abs=1e-3)
    covariance = sum(v * one @ one.T for v, one in zip(fitted.vcomp, effects, strict=True)) + fitted.scale * np.eye(
        len(y)
    )
    assert found.se == pytest.approx(math.sqrt(1 / np.linalg.inv(covariance).sum()), rel=0.003)


def test_variance_that_is_not_there_is_none():
    values = differences(4, (8, 9), 0.0, 0.0)
    values -= values.mean(1, keepdims=True)  # fewer differences of listeners than chance gives
    values -= values.mean(0)
    found = statistics.crossed(values + 0.3)
    assert found.rows == found.columns == 0
    assert found.se == pytest.approx(math.sqrt(values.var(ddof=1) / values.size), rel=1e-6)


def test_model_finds_what_is_true(tmp_path, no_figures):
    study = make_study(tmp_path, samples=25)
    analyse(study, People(count=30, seed=4).ratings(study), {})
    found = table(study, "comparisons").set_index(["metric", "arm", "other"])
    for arm, other in combinations(ARMS, 2):
        row = found.loc["ovl", arm, other]
        true = EFFECTS[arm] - EFFECTS[other]
        assert row["estimate"] == pytest.approx(true, abs=0.17)
        assert row["ci_low"] < true < row["ci_high"]
        assert row["p"] < 1e-4


def test_comparisons_are_of_complete_ratings_the_differences_of_means(done):
    study, ratings = done
    found = table(study, "comparisons").set_index(["metric", "arm", "other"])
    assert len(found) == 2 * 3
    for scale, (arm, other) in product(study.scales, combinations(ARMS, 2)):
        row, values = found.loc[scale, arm, other], kept(ratings, scale)
        means = values.groupby("arm")["value"].mean()
        assert row["difference"] == pytest.approx(means[arm] - means[other], abs=1e-5)
        assert row["estimate"] == pytest.approx(row["difference"], abs=1e-5)
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(row["estimate"] / row["se"]), row["df"]), rel=1e-3)
        assert row[["df", "n_listeners", "n_samples"]].tolist() == [9, 12, 10]
    by_listener = kept(ratings, "per").pivot_table(index="listener", columns="arm", values="value")
    expected = stats.wilcoxon((by_listener["musicgen_melody"] - by_listener["bnmusic"]).round(9))
    assert found.loc["per", "musicgen_melody", "bnmusic"]["p_wilcoxon"] == pytest.approx(expected.pvalue, rel=1e-5)


@pytest.mark.parametrize("count", [2, 5, 8, 20])
def test_rank_test_is_scipys_with_ties_and_without(count):
    means = np.random.default_rng(count).integers(1, 9, (count, 2)) / 2
    for values in (means, means + np.random.default_rng(0).random((count, 2))):
        difference = values[:, 0] - values[:, 1]
        expected = stats.wilcoxon(difference[difference != 0])
        assert statistics.by_ranks(values) == pytest.approx(expected.pvalue)
    missing = np.vstack([means, [[1, math.nan], [math.nan, 5]]])
    assert statistics.by_ranks(missing) == statistics.by_ranks(means)


@pytest.mark.parametrize("p", ["comparisons.p", "comparisons.p_wilcoxon", "correlations.p", "correlations.p_within"])
def test_p_values_of_one_scale_are_corrected_together_by_holm(done, p):
    name, p = p.split(".")
    found = table(done[0], name).dropna(subset=[p])
    for _, group in found.groupby("metric"):
        assert len(group) > 2
        assert group[f"{p}_holm"].tolist() == pytest.approx(multipletests(group[p], method="holm")[1], rel=1e-4)


def test_friedman_is_that_over_listeners_means(done):
    study, ratings = done
    found = table(study, "tests").set_index("metric")
    for scale in study.scales:
        by_listener = kept(ratings, scale).pivot_table(index="listener", columns="arm", values="value").round(9)
        expected = stats.friedmanchisquare(*by_listener.to_numpy().T)
        assert found.loc[scale, "statistic"] == pytest.approx(expected.statistic, rel=1e-5)
        assert found.loc[scale, "p"] == pytest.approx(expected.pvalue, rel=1e-4)
        assert found.loc[scale, ["df", "n_listeners"]].tolist() == [2, 12]


def test_arms_that_differ_by_nothing_are_rarely_told_apart():
    """Mixes differ, as each is another music: to take listeners' ratings of one mix for independent would find much."""
    draw, wrong, naive, sets = np.random.default_rng(0), 0, 0, 150
    for _ in range(sets):
        true = 3 + 0.3 * draw.normal(size=(10, 1, 1)) + 0.3 * draw.normal(size=(1, 8, 1))
        true = true + 0.3 * draw.normal(size=(10, 1, 2)) + 0.5 * draw.normal(size=(1, 8, 2))
        values = np.clip(np.round(true + 0.6 * draw.normal(size=(10, 8, 2))), 1, 5)
        difference = values[..., 0] - values[..., 1]
        wrong += statistics.by_model(difference)[-1] < 0.05
        naive += stats.ttest_1samp(difference.ravel(), 0).pvalue < 0.05
    assert wrong <= 15
    assert naive > 45


# Agreement


def test_alpha_is_that_of_krippendorffs_example(tmp_path, no_figures):
    """Krippendorff (2011), Computing Krippendorff's alpha-reliability, section D: four observers, twelve units."""
    lines = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    values = np.array([[math.nan if one == "." else float(one) for one in line.split()] for line in lines])
    study = make_study(tmp_path, samples=12, arms={"one": "One"}, catches=0, scales=("ovl",))
    ratings = array_ratings(study, values[..., None])
    analyse(study, ratings, {})
    assert table(study, "agreement")["alpha"].tolist() == [pytest.approx(0.815, abs=5e-4)]
    units = statistics.units(findings.by_scale(study, analysis._checked(study, ratings))[0].values)
    for level, expected in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert krippendorff.alpha(units, level_of_measurement=level) == pytest.approx(expected, abs=5e-4)


def test_icc_is_that_of_shrout_and_fleiss(tmp_path, no_figures):
    """Shrout and Fleiss (1979), tables 2 and 4: six targets, four judges; ICC does not change with the unit."""
    judged = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    study = make_study(tmp_path, samples=6, arms={"one": "One"}, catches=0, scales=("ovl",))
    analyse(study, array_ratings(study, 1 + (judged.T[..., None] - 1) * 4 / 9), {})
    found = table(study, "agreement").iloc[0]
    assert (round(found["icc_2_1"], 2), round(found["icc_2_k"], 2)) == (0.29, 0.62)
    assert found[["k", "icc_method", "n_listeners", "n_mixes"]].tolist() == [4, "mean squares", 4, 6]


def test_icc_of_incomplete_ratings_comes_near_that_of_all():
    draw = np.random.default_rng(1)
    units = draw.normal(size=(1, 200)) + 0.5 * draw.normal(size=(12, 1)) + draw.normal(size=(12, 200))
    whole = statistics.icc(units)
    assert whole.single == pytest.approx(1 / 2.25, abs=0.08)
    units[draw.random(units.shape) < 0.5] = math.nan
    part = statistics.icc(units)
    assert part.method == "REML, cells missing"
    assert part.single == pytest.approx(whole.single, abs=0.04)
    assert part.k == pytest.approx(stats.hmean(np.isfinite(units).sum(0)))
    assert part.mean == pytest.approx(part.k * part.single / (1 + (part.k - 1) * part.single))


def test_both_ways_to_icc_agree_where_nothing_is_missing():
    draw = np.random.default_rng(6)
    units = draw.normal(size=(1, 30)) + 0.5 * draw.normal(size=(8, 1)) + draw.normal(size=(8, 30))
    fitted, found = statistics.crossed(units), statistics.icc(units)
    assert found.single == pytest.approx(fitted.columns / (fitted.columns + fitted.rows + fitted.rest), rel=1e-3)


# What predicts listeners


def over_mixes(study: Study, scale: str = "ovl") -> pd.DataFrame:
    found = table(study, "correlations")
    return found[(found["over"] == "mixes") & (found["metric"] == scale)].set_index("predictor")


def test_score_that_goes_with_ratings_is_found_and_one_that_does_not_is_not(done):
    found = over_mixes(done[0])
    assert list(found.index) == ["music_lufs", "kl", "masked_bands", "clap"]  # neither what is constant, nor a scale
    assert found["reading"].to_dict() == {
        "kl": "agrees", "masked_bands": "disagrees", "clap": "shows nothing", "music_lufs": "rises",
    }  # fmt: skip
    assert found["reading_within"].to_dict() == {
        "kl": "agrees", "masked_bands": "disagrees", "clap": "shows nothing", "music_lufs": "shows nothing",
    }  # fmt: skip
    assert found["better"].fillna("").to_dict() == {
        "kl": "lower", "masked_bands": "higher", "clap": "higher", "music_lufs": "",
    }  # fmt: skip


def test_correlations_are_those_of_scipy(done):
    study, _ = done
    pairs, scores = table(study, "pairs"), pd.read_csv(study.run_dir / "scores.csv")
    both = pairs.merge(scores, on=["dataset", "arm", "presentation", "pair_id"], suffixes=("", "_score"))
    for name, row in over_mixes(study).iterrows():
        assert row["spearman"] == pytest.approx(stats.spearmanr(both[name], both["ovl"]).statistic, abs=1e-4)
        assert row["kendall"] == pytest.approx(stats.kendalltau(both[name], both["ovl"]).statistic, abs=1e-4)
        assert row["pearson"] == pytest.approx(stats.pearsonr(both[name], both["ovl"]).statistic, abs=1e-4)
        left = both[[name, "ovl"]] - both.groupby("arm")[[name, "ovl"]].transform("mean")
        expected = stats.spearmanr(left[name].round(6), left["ovl"].round(6)).statistic
        assert row["spearman_within"] == pytest.approx(expected, abs=1e-4)
        assert row[["n", "n_clips"]].tolist() == [30, 10]
        assert row["ci_low"] <= row["spearman"] <= row["ci_high"]


def test_resampled_rank_correlation_is_that_of_the_resample():
    draw = np.random.default_rng(8)
    first, second = draw.integers(0, 6, 15).astype(float), draw.normal(size=15)
    counts = draw.multinomial(15, np.full(15, 1 / 15), 20)
    found = statistics.spearman(first, second, counts)
    for one, count in zip(found, counts, strict=True):
        assert one == pytest.approx(stats.spearmanr(first.repeat(count), second.repeat(count)).statistic)


def test_clips_that_hang_together_widen_the_interval():
    draw = np.random.default_rng(9)
    score, rating = draw.normal(size=(2, 10)).repeat(8, axis=1)
    mixes = statistics.Mixes(score, rating, np.array(["a"] * 80), np.arange(10).repeat(8).astype(str))
    alone = mixes._replace(group=np.arange(80).astype(str))
    wide, narrow = (np.diff(statistics.over_groups(one, 0, "noise clips")[:2])[0] for one in (mixes, alone))
    assert wide > 2 * narrow


def test_exchange_of_clips_rarely_finds_what_is_not_there():
    """Arms differ in score and rating, and mixes of one noise are alike in both: neither counts."""
    draw, found = np.random.default_rng(10), []
    for _ in range(80):
        clip, arm = np.arange(12).repeat(3), np.tile(np.arange(3), 12)
        score, rating = (draw.normal(size=12)[clip] + arm + 0.5 * draw.normal(size=36) for _ in range(2))
        found.append(statistics.within_arms(statistics.Mixes(score, rating, arm.astype(str), clip.astype(str)), 0)[1])
    assert sum(p < 0.05 for p in found) <= 9
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_unit_of_a_score_does_not_matter():
    draw = np.random.default_rng(11)
    clip, arm = np.arange(8).repeat(3), np.tile(np.arange(3), 8)
    mixes = statistics.Mixes(draw.normal(size=24), draw.normal(size=24), arm.astype(str), clip.astype(str))
    found = {statistics.within_arms(mixes._replace(score=unit * mixes.score), 0) for unit in (1e-12, 1.0, 1e12)}
    assert len(found) == 1


def test_scores_that_some_mixes_lack_are_held_against_the_others(done, tmp_path, no_figures):
    study = make_study(tmp_path)
    scores = pd.read_csv(done[0].run_dir / "scores.csv")
    scores.loc[scores["pair_id"] == "p3", "kl"] = math.nan
    scores["clap"] = math.nan
    scores[(scores["arm"] != "bnmusic") | (scores["pair_id"] != "p4")].to_csv(tmp_path / "scores.csv", index=False)
    analyse(study, done[1], HEADPHONES)
    found = over_mixes(study)
    assert found.loc["kl", ["n", "n_clips"]].tolist() == [26, 9]
    assert found.loc["kl", "reading_within"] == "agrees"
    assert "clap" not in found.index
    assert "clap and OVL, esc50: not computed, as 0 mixes have both." in told(study)
    assert "scores.csv lacks 1 of the 30 rated mixes." in told(study)


def test_over_arms_the_order_is_told_without_a_p(done):
    found = table(done[0], "correlations").query("over == 'arms'").set_index(["predictor", "metric"])
    assert list(found.index) == [("fad", "ovl"), ("fad", "per")]
    assert found.loc[("fad", "ovl"), ["kendall", "n", "better"]].tolist() == [-1, 3, "lower"]
    assert found[["p", "p_holm", "reading"]].isna().all().all()
    assert "So few methods may be in any order by chance: this is no evidence." in told(done[0])


def test_over_five_arms_an_order_may_be_told_from_chance(tmp_path, no_figures):
    arms = {name: name.upper() for name in "abcde"}
    effects = dict(zip(arms, (-1.0, -0.5, 0.0, 0.5, 1.0), strict=True))
    study = make_study(tmp_path, samples=6, arms=arms)
    cells = [{"arm": arm, "presentation": "adaptive", "metric": "fad", "value": -value}
             for arm, value in effects.items()]  # fmt: skip
    runs.write(tmp_path, results=runs.results(cells))
    analyse(study, People(effects, 8).ratings(study), {})
    row = table(study, "correlations").iloc[0]
    assert (row["kendall"], row["reading"]) == (-1, "agrees")
    assert row["p"] == pytest.approx(stats.kendalltau(range(5), range(5)).pvalue, rel=1e-4)


def test_run_without_scores_is_analysed_and_told_so(tmp_path, no_figures):
    study = make_study(tmp_path)
    analyse(study, People(count=4).ratings(study), {})
    assert table(study, "correlations").empty
    assert "The run has no scores.csv" in told(study)
    assert "The run has no results.csv" in told(study)


def test_scale_that_has_no_better_end_is_told_of_as_it_goes(tmp_path, no_figures, done):
    study = make_study(tmp_path, scales=("harsh",), catches=0)
    ratings = done[1][(done[1]["scale"] == "ovl") & (done[1]["kind"] == "sample")].assign(scale="harsh")
    (tmp_path / "scores.csv").write_bytes((done[0].run_dir / "scores.csv").read_bytes())
    analyse(study, ratings, {})
    assert over_mixes(study, "harsh")["reading_within"]["kl"] == "falls"
    assert "**" not in told(study)


@pytest.mark.parametrize("name", ["scores.csv", "results.csv"])
def test_damaged_tables_of_the_run_are_named(tmp_path, no_figures, name):
    study = make_study(tmp_path)
    (tmp_path / name).write_text("arm,value\nbnmusic,1\n")
    with pytest.raises(BlendbenchError, match=f"{name}: damaged .no column dataset.*`blendbench table"):
        analyse(study, People(count=4).ratings(study), {})


# The report


def test_figures_show_what_they_should(done):
    folder = done[0].folder / "analysis"
    for name in ("ratings.png", "predictors.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    assert (folder / "ratings.svg").read_text().rstrip().endswith("</svg>")
    for name in ("ratings.png", "predictors.png"):
        assert f"({name})" in told(done[0])


def test_figure_of_scores_goes_where_there_are_none_any_more(tmp_path):
    study = make_study(tmp_path, samples=3, scales=("ovl",))
    ratings = People(count=3).ratings(study)
    file = tmp_path / "listening" / "analysis" / "predictors.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of an analysis before")
    analyse(study, ratings, {})
    assert not file.exists()


PAPER = {"paper_csv": "bnmusic/table2.csv", "paper_dataset": {"esc50": "epic_sounds"}}


@pytest.mark.parametrize("sd", [None, 0.55])
def test_paper_stands_beside_with_its_deviations_where_they_are_known(tmp_path, monkeypatch, sd):
    study = make_study(tmp_path, samples=3, experiment=PAPER)
    figures = Run.open(study.run_dir).experiment.paper_figures().drop(columns="sd", errors="ignore")
    figures = figures if sd is None else figures.assign(sd=sd)
    monkeypatch.setattr(Experiment, "paper_figures", lambda _: figures)
    analyse(study, People(count=3).ratings(study), {})
    line = next(line for line in told(study).splitlines() if line.startswith("| BNMusic "))
    spread = "" if sd is None else " ± 0.55"
    assert [cell.strip() for cell in line.split("|")][-3:-1] == [f"3.67{spread}", f"3.84{spread}"]
    assert "other models, sounds and listeners" in told(study)
    drawn = (study.folder / "analysis" / "ratings.svg").read_text(encoding="utf-8")
    assert ("the paper's mean ± sd" in drawn, "the paper's mean" in drawn) == (sd is not None, True)


def test_other_presentation_has_no_figures_of_the_paper(tmp_path, no_figures):
    study = replace(make_study(tmp_path, samples=3, experiment=PAPER), presentation="direct")
    analyse(study, People(count=3).ratings(study), {})
    assert "paper" not in told(study)


def test_data_sets_are_not_pooled(tmp_path):
    study = make_study(tmp_path, samples=8, datasets=("esc50", "builtin"), scales=("ovl",))
    ratings = People(count=6).ratings(study)
    analyse(study, ratings, {})
    summary = table(study, "summary").set_index(["dataset", "arm"])
    assert set(summary.index) == set(product(("esc50", "builtin"), ARMS))
    means = ratings[ratings["kind"] == "sample"].groupby(["dataset", "arm"])["value"].mean()
    assert summary["value"].to_dict() == pytest.approx(means.to_dict(), rel=1e-5)
    assert summary["n_samples"].eq(4).all()
    assert len(table(study, "comparisons")) == 6
    assert "### esc50" in told(study)
    assert "### builtin" in told(study)


def test_equal_input_gives_equal_bytes(tmp_path, done):
    study, ratings = done
    again = make_study(tmp_path, "exclusions.headphones=true")
    for name in ("scores.csv", "results.csv"):
        (tmp_path / name).write_bytes((study.run_dir / name).read_bytes())
    analyse(again, ratings.sample(frac=1, random_state=1), dict(reversed(HEADPHONES.items())))
    files = sorted(path.name for path in (study.folder / "analysis").iterdir())
    assert len(files) == 12
    for name in files:
        assert (again.folder / "analysis" / name).read_bytes() == (study.folder / "analysis" / name).read_bytes(), name


# What is not enough


def test_one_listener_has_means_and_nothing_else(tmp_path):
    study = make_study(tmp_path, samples=4)
    ratings = People(count=1).ratings(study)
    write_scores(study, ratings)
    analyse(study, ratings, {})
    summary, compared = table(study, "summary"), table(study, "comparisons")
    assert summary["value"].notna().all()
    assert summary[["ci_low", "ci_high", "sd_listeners"]].isna().all().all()
    assert compared["difference"].notna().all()
    assert compared[["ci_low", "se", "p", "p_holm", "p_wilcoxon", "p_wilcoxon_holm"]].isna().all().all()
    assert table(study, "tests")["p"].isna().all()
    assert table(study, "agreement")[["alpha", "icc_2_1", "icc_2_k"]].isna().all().all()
    for text in ("1 listener(s) and 4 sample(s)", "model: not computed, as two listeners", "no interval"):
        assert text in told(study)


def test_one_sample_has_tests_over_listeners_alone(tmp_path):
    study = make_study(tmp_path, samples=1, scales=("ovl",), catches=0)
    ratings = People(count=8).ratings(study)
    write_scores(study, ratings)
    analyse(study, ratings, {})
    compared = table(study, "comparisons")
    assert compared[["ci_low", "p"]].isna().all().all()
    assert compared["p_wilcoxon"].notna().any()
    assert table(study, "agreement")["icc_2_1"].notna().all()
    assert table(study, "summary")["sd_samples"].isna().all()
    assert over_mixes(study)[["ci_low", "p", "p_within"]].isna().all().all()
    assert "all mixes are of one noise clip" in told(study)


def test_equal_ratings_have_no_tests(tmp_path):
    study = make_study(tmp_path, "exclusions.same_answer_share=null", "exclusions.catch_failures=null", samples=4)
    ratings = People(count=4).ratings(study).assign(value=4)
    write_scores(study, ratings)
    analyse(study, ratings, {})
    summary, compared = table(study, "summary"), table(study, "comparisons")
    assert (summary[["value", "ci_low", "ci_high"]] == 4).all().all()
    assert (summary[["sd", "sd_listeners", "sd_samples"]] == 0).all().all()
    assert (compared["difference"] == 0).all()
    assert compared[["p", "p_wilcoxon"]].isna().all().all()
    assert table(study, "tests")["p"].isna().all()
    assert table(study, "agreement")[["alpha", "icc_2_1"]].isna().all().all()
    assert over_mixes(study).empty
    for text in (
        "no variance is left",
        "no listener's means differ",
        "all ratings are equal",
        "all mixes are rated alike",
    ):
        assert text in told(study)


def test_one_arm_and_two_arms_have_what_they_can(tmp_path):
    for count in (1, 2):
        arms = dict(list(ARMS.items())[:count])
        study = make_study(tmp_path / str(count), samples=5, arms=arms, scales=("ovl",), catches=0)
        analyse(study, People(count=5).ratings(study), {})
        assert len(table(study, "comparisons")) == count - 1
        assert table(study, "summary")["ci_low"].notna().all()
        assert "Friedman: not computed, as it needs two listeners and three arms." in told(study)
        assert ("There is one arm" in told(study)) == (count == 1)


def test_arm_and_scale_that_nobody_rated_are_empty(tmp_path):
    study = make_study(tmp_path, samples=4, catches=0)
    values = np.random.default_rng(0).integers(1, 6, (5, 4, 3)).astype(float)
    values[..., 2] = math.nan
    ratings = array_ratings(study, values)
    write_scores(study, People(count=2).ratings(study))
    analyse(study, ratings, {})
    summary = table(study, "summary").set_index(["metric", "arm"])
    assert summary["n_ratings"].tolist() == [20, 20, 0, 0, 0, 0]
    assert summary["value"].notna().tolist() == [True, True, False, False, False, False]
    compared = table(study, "comparisons")
    assert compared["p"].notna().tolist() == [True, False, False, False, False, False]
    assert over_mixes(study)["n"].eq(8).all()
    assert over_mixes(study, "per").empty


def test_listeners_who_share_no_sample_do_not_agree_or_disagree(tmp_path, no_figures):
    study = make_study(tmp_path, "exclusions.finished_share=null", samples=4, catches=0, scales=("ovl",))
    values = np.full((4, 4, 3), math.nan)
    values[range(4), range(4)] = [[1, 2, 3], [2, 2, 4], [3, 4, 5], [1, 3, 2]]
    analyse(study, array_ratings(study, values), {})
    assert table(study, "agreement")[["alpha", "icc_2_1"]].isna().all().all()
    assert table(study, "comparisons")["p"].isna().all()
    assert "no mix was rated by two listeners" in told(study)


def test_nobody_left_names_the_file_that_tells_why(tmp_path):
    study = make_study(tmp_path, samples=3)
    with pytest.raises(BlendbenchError, match=r"exclusions.csv: all 2 listeners are left out; .*listen.study.yaml"):
        analyse(study, People(count=2, bad={0: "catch", 1: "straight"}).ratings(study), {})
    assert table(study, "exclusions")["excluded"].str.contains("catch_failures").all()
    assert not (study.folder / "analysis" / "analysis.md").exists()


def test_no_ratings_at_all_are_an_error(tmp_path):
    study = make_study(tmp_path, samples=3)
    with pytest.raises(BlendbenchError, match="nobody has rated anything yet"):
        analyse(study, pd.DataFrame(columns=columns(study)), {})


def test_catch_trials_alone_are_no_ratings(tmp_path):
    study = make_study(tmp_path, "exclusions.finished_share=null", samples=3)
    ratings = People(count=2).ratings(study)
    with pytest.raises(BlendbenchError, match="catch trials alone"):
        analyse(study, ratings[ratings["kind"] == "catch"], {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop(columns=["page_s", "arm"]), "no column arm, page_s; give what `blendbench listen export`"),
        (lambda r: r.replace({"arm": {"bnmusic": "other"}}), "ovl of other in sample .* is not asked in"),
        (lambda r: r.replace({"sample": {"s002": "s999"}}), "in sample s999 is not asked in"),
        (lambda r: r.replace({"scale": {"per": "fun"}}), "fun of .* is not asked in"),
        (lambda r: r.assign(value=r["value"].replace(5, 6)), "is not 1 to 5; bring it to that scale"),
        (lambda r: pd.concat([r, r.tail(1)]), "by listener 2 is there twice; keep one of them"),
    ],
)  # fmt: skip
def test_ratings_that_are_not_of_the_study_are_refused(tmp_path, change, message):
    study = make_study(tmp_path, samples=3)
    with pytest.raises(BlendbenchError, match=message) as caught:
        analyse(study, change(People(count=3).ratings(study)), {})
    assert "\n" not in str(caught.value)
