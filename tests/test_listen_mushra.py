"""Studies of another kind: another task, rated 0 to 100, hidden reference and anchor, nothing heard first, repeats."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from scipy import stats
from support import pieces
from support.listeners import Served, to_pages
from support.pieces import ARMS, PiecesRun
from support.worlds import call

from blendbench.errors import BlendbenchError
from blendbench.listening import analysis, settings, sounds, study, webmushra
from blendbench.listening.answers import Answers, Refused, columns, facts_of
from blendbench.listening.study import ANCHOR, HIDDEN_REFERENCE, Study, position
from blendbench.runs.listened import Listened
from blendbench.sound import audio

CONDITIONS = [*ARMS, HIDDEN_REFERENCE, ANCHOR]
TRUE = {"lpc": 20, "sim": 60, "dps": 70, HIDDEN_REFERENCE: 97, ANCHOR: 15}
"""What simulated listeners think."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PiecesRun:
    return PiecesRun(tmp_path_factory.mktemp("pieces") / "run")


@pytest.fixture(scope="module")
def planned(run: PiecesRun) -> Study:
    """A study of the six pieces, of which four come twice. Tests must not change it."""
    made, notes = pieces.plan(run, "samples=6", "practice=0", "repeats=4", "listeners=3", "exclusions.fastest_page_s=1")
    assert notes == []
    return made


def sound(made: Study, clip: study.Clip) -> np.ndarray:
    """[channels, samples]"""
    data, rate = soundfile.read(made.clip_file(clip.name), always_2d=True)
    assert rate == pieces.RATE
    return data.T


# Plans


def test_the_task_says_what_is_asked_and_nothing_is_heard_first(planned: Study) -> None:
    assert planned.arms == ARMS and list(planned.conditions) == CONDITIONS
    assert planned.hidden == {HIDDEN_REFERENCE: "Hidden reference", ANCHOR: "Anchor (3.5 kHz)"}
    assert planned.settings.catch_trials == 0 and planned.settings.balance == ["composer"]
    assert planned.seconds == pytest.approx(0.6) and planned.scale_facts["plausible"].unit == "0-100"
    for one in planned.samples:
        assert one.first is None and one.reference is not None
        assert list(one.clips) == CONDITIONS
        assert set(one.facts) == {"piece", "composer"}
    assert Counter(one.facts["composer"] for one in planned.samples) == {"Chopin": 3, "Haydn": 3}
    assert study.read(planned.run_dir) == planned


def test_hidden_and_open_reference_are_one_sound_in_files_of_their_own(planned: Study) -> None:
    names = Counter(clip.name for one in planned.samples for clip in one.sounds)
    assert set(names.values()) == {1} and planned.volume.name not in [
        clip.name for one in planned.samples for clip in one.clips.values()
    ]
    for one in planned.samples:
        assert one.reference is not None
        hidden, shown = sound(planned, one.clips[HIDDEN_REFERENCE]), sound(planned, one.reference)
        assert hidden.shape == (2, round(0.6 * pieces.RATE))
        np.testing.assert_array_equal(hidden, shown)
        assert not np.array_equal(hidden, sound(planned, one.clips["lpc"]))


def test_volume_is_set_by_a_copy_where_every_clip_is_rated(tmp_path: Path) -> None:
    made, _ = pieces.plan(PiecesRun(tmp_path / "run"), "open_reference=null")
    rated = made.samples[0].clips[HIDDEN_REFERENCE]
    assert made.volume.name != rated.name
    assert made.clip_file(made.volume.name).read_bytes() == made.clip_file(rated.name).read_bytes()


def test_an_anchor_has_nothing_left_above_its_low_pass_as_the_standard_asks_for() -> None:
    """BS.1534: flat within 0.1 dB up to 3.5 kHz, 25 dB down at 4 kHz, 50 dB at 4.5 kHz."""
    import torch

    impulse = torch.zeros(2, 44_100)
    impulse[:, 22_050] = 1
    passed = sounds.low_passed(impulse, 44_100, 3500.0)
    assert passed.shape == impulse.shape
    for channel in passed.numpy():
        decibels = 20 * np.log10(np.abs(np.fft.rfft(channel)) + 1e-12)  # a bin a hertz
        assert np.abs(decibels[:3501]).max() < 0.1
        assert decibels[4000:].max() < -25 and decibels[4500:].max() < -50
    mono = sounds.low_passed(impulse[0], 44_100, 3500.0)
    np.testing.assert_allclose(mono, passed[0], atol=1e-7)
    assert sounds.low_passed(impulse, 44_100, 20_000.0) is impulse  # nothing is above


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hidden_reference=noise", "hidden_reference: the task's sounds have no part 'noise'; it has recording"),
        ("anchor.part=noise", "anchor.part: the task's sounds have no part 'noise'; it has recording"),
        ("open_reference=noise", "open_reference: the task's sounds have no part 'noise'; it has recording"),
        ("catch_trials=1", "catch_trials: the task pieces says nothing that catches; use catch_trials=0"),
        ("balance=[genre]", "balance: ['genre'] is out of range; use a list of composer, dataset"),
        ("presentation=direct", "presentation: the run has no 'direct'; it has pasted"),
    ],
)
def test_what_the_task_does_not_have_is_one_line(tmp_path: Path, word: str, expected: str) -> None:
    with pytest.raises(BlendbenchError) as failed:
        pieces.plan(PiecesRun(tmp_path / "run"), word)
    assert str(failed.value) == expected


def test_an_arm_that_is_called_as_a_hidden_condition_is_refused(tmp_path: Path) -> None:
    run = PiecesRun(tmp_path / "run")
    run.arms["anchor"] = "Mine"
    with pytest.raises(BlendbenchError, match="anchor: an arm of the run is called so"):
        pieces.plan(run)


@pytest.mark.parametrize("match", ["samples", "none"])
def test_levels_within_a_sample_stay_where_clips_are_not_matched(tmp_path: Path, match: str) -> None:
    run = PiecesRun(tmp_path / "run")
    made, _ = pieces.plan(run, f"playback.match={match}", "playback.lufs=-30", "playback.fade_ms=0")
    one = made.samples[0]
    row = {"pair_id": one.pair_id, "arm": "dps"}
    gains = []
    for name, wave in ((HIDDEN_REFERENCE, run.parts(row)["recording"]), ("dps", run.heard(row))):
        heard = sound(made, one.clips[name])
        gains.append(float((heard * wave.numpy()).sum() / (wave.numpy() ** 2).sum()))
    assert gains[0] == pytest.approx(gains[1], rel=1e-3)
    level = audio.integrated_loudness(run.parts(row)["recording"] * gains[0], pieces.RATE, "x")
    assert (level == pytest.approx(-30, abs=0.05)) == (match == "samples")


# Pages


def test_repeats_come_later_with_another_page_between_and_nothing_else_changes(planned: Study) -> None:
    once = replace(planned, settings=replace(planned.settings, repeats=0))
    seen: Counter[str] = Counter()
    for number in range(40):
        pages = planned.pages(number)
        kinds = Counter(page.kind for page in pages)
        assert kinds == {"sample": 6, "repeat": 4}
        first = {page.sample.name: page for page in pages if not page.again}
        for page in (page for page in pages if page.again):
            seen[page.sample.name] += 1
            before = first[page.sample.name].index
            assert page.index > before + 1
            assert sorted(page.order) == sorted(first[page.sample.name].order)
        alone = [(page.sample, page.order) for page in once.pages(number)]
        assert [(page.sample, page.order) for page in pages if not page.again] == alone
        assert [page.index for page in pages] == list(range(10))
    assert min(seen.values()) > 40 * 4 / 6 / 2


@pytest.mark.parametrize("samples", [1, 2])
def test_where_no_other_page_can_come_between_repeats_come_all_the_same(tmp_path: Path, samples: int) -> None:
    made, _ = pieces.plan(PiecesRun(tmp_path / "run"), f"samples={samples}", "practice=0", "repeats=9")
    for number in range(5):
        pages = made.pages(number)
        assert Counter(page.kind for page in pages) == {"sample": samples, "repeat": samples}


def test_hidden_conditions_stand_at_each_place_equally_often(planned: Study) -> None:
    places: Counter[Any] = Counter()
    for number in range(10):  # two squares of five
        for page in planned.pages(number):
            if not page.again:
                places.update((page.sample.name, name, place) for place, name in enumerate(page.order))
    assert set(places.values()) == {2} and len(places) == 6 * 5 * 5


# Answers


def test_ratings_are_kept_in_the_range_and_those_of_a_repeat_apart(planned: Study, tmp_path: Path) -> None:
    folder = tmp_path / "listening"
    folder.mkdir()
    answers = Answers(replace(planned, folder=folder))
    (token,) = answers.invite(1).values()

    def me() -> Any:
        return answers.listener(token)

    answers.consent(me())
    answers.set_volume(me())
    assert answers.progress(me()).step == "page"
    for value in (-1, 101):
        with pytest.raises(Refused):
            answers.rate(me(), 0, "A", "plausible", value, 1)
    for page in planned.pages(0):
        for place in range(5):
            answers.rate(me(), page.index, position(place), "plausible", 100 * page.again, 1)
        answers.finish_page(me(), page.index, 3.0, {"reference": 2, "A": 1})
    rows = answers.export()
    answers.close()
    assert list(rows.columns) == columns(planned) and "composer" in rows and "piece" not in rows
    assert rows.groupby("kind")["value"].unique().map(list).to_dict() == {"sample": [0], "repeat": [100]}
    assert set(rows["arm"]) == set(CONDITIONS)
    assert rows.loc[rows["position"] == "A", "plays"].eq(1).all()


# Analysis


def ratings(made: Study, count: int = 8, spread: float = 5.0, deaf: tuple[int, ...] = (), wild: tuple[int, ...] = ()):
    """What simulated listeners answer; who is deaf rates the reference low, who is wild another value each time."""
    draw, lines = np.random.default_rng(1), []
    for listener in range(count):
        for page in made.pages(listener):
            for place, name in enumerate(page.order):
                true = 50 if listener in deaf and name == HIDDEN_REFERENCE else TRUE[name]
                noise = (40 if page.again else -40) if listener in wild else draw.normal(0, spread)
                noise = 0 if name == HIDDEN_REFERENCE else noise
                value = int(np.clip(round(true + noise), 0, 100))
                facts = [page.kind, *facts_of(made, page.sample)]
                lines.append([listener, page.index, position(place), *facts, name, "plausible", value, 0, 1, 20.0])
    return pd.DataFrame(lines, columns=columns(made))


def analysed(made: Study, run: PiecesRun, given: pd.DataFrame, folder: Path) -> tuple[Study, Path]:
    """The study moved to another run's folder and analysed there."""
    moved = replace(made, folder=folder / "listening")
    return moved, analysis.analyse(moved, given, {}, run)  # type: ignore[arg-type]


def table(made: Study, name: str) -> pd.DataFrame:
    return pd.read_csv(made.folder / "analysis" / f"{name}.csv", dtype={"sample": str}, keep_default_na=True)


@pytest.fixture(scope="module")
def done(planned: Study, run: PiecesRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, pd.DataFrame, str]:
    """The study analysed, with a listener who does not hear the reference; the ratings that count, and the text."""
    folder = tmp_path_factory.mktemp("done")
    given = ratings(planned, deaf=(7,))
    scores = [
        {key: row[key] for key in ("dataset", "arm", "presentation", "pair_id", "piece", "composer")}
        | {"lsd": 5 - TRUE[row["arm"]] / 25 + 0.01 * number, "composer_year": 1800 + number}
        for number, row in enumerate(run.rows())
    ]
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    made, file = analysed(planned, run, given, folder)
    return made, given[given["listener"] != 7], file.read_text(encoding="utf-8")


def test_hidden_conditions_have_means_differences_and_tests_like_arms(done) -> None:
    made, given, text = done
    summary = table(made, "summary")
    assert list(summary["arm"]) == CONDITIONS
    first = given[given["kind"] == "sample"].groupby("arm")["value"].mean()  # the second time is for tests alone
    assert summary.set_index("arm")["value"].to_dict() == pytest.approx(first.to_dict(), rel=1e-5)
    assert set(summary["recipe"]) == {
        "ratings 0-100 of 7 listeners, 1 left out; 6 samples; every clip at -23 LUFS; 95% bootstrap over listeners and "
        "samples (crossed), 2000 resamples"
    }
    compared = table(made, "comparisons")
    assert len(compared) == 10 and set(compared["other"]) == set(CONDITIONS[1:])
    assert table(made, "tests")["df"].tolist() == [4]
    assert "Rated 0 to 100: Plausibility" in text and "| Hidden reference" in text and "| Anchor (3.5 kHz)" in text
    assert "Hidden reference above" in text


def test_hidden_conditions_never_stand_in_the_runs_tables(done) -> None:
    made, _, text = done
    listened = Listened(made.run_dir)
    assert listened.scales == ["plausible"] and listened.facts["plausible"].unit == "0-100"
    assert listened.facts["plausible"].label == "PLA" and listened.facts["plausible"].higher_is_better
    # Cells and rows are asked for by the run's arms, of which none may be called as they are.
    assert {key[2] for key in listened._cells} - set(ARMS) == set(made.hidden)
    assert table(made, "correlations").query("over == 'mixes'")["n"].tolist() == [18, 18]
    assert "agrees" in text and "interval over pieces" in text and "exchanging pieces" in text
    assert table(made, "agreement")["n_mixes"].tolist() == [18]


def test_who_rates_the_hidden_reference_low_is_left_out(done) -> None:
    made, _, text = done
    found = table(made, "exclusions").set_index("listener")
    assert found["reference_below"].to_dict() == pytest.approx({number: float(number == 7) for number in range(8)})
    assert found["excluded"].dropna().to_dict() == {
        7: "reference_below: rated the hidden reference below 90% of the range 100% of the time"
    }
    assert "- reference_below: rated the hidden reference below 90% of the range more than 15% of the time" in text
    assert "- retest_difference: switched off" in text
    assert "catch" not in text and "catch_trials" in found


def test_on_a_scale_whose_low_end_is_better_a_reference_is_low_at_the_other_end(planned, run, tmp_path) -> None:
    scale = replace(planned.settings.scales["plausible"], better="low")
    turned = replace(planned, settings=replace(planned.settings, scales={"plausible": scale}))
    given = ratings(turned)
    given["value"] = 100 - given["value"]
    made, file = analysed(turned, run, given, tmp_path)
    assert table(made, "exclusions")["reference_below"].eq(0).all()
    line = next(line for line in file.read_text().splitlines() if line.startswith("| DPS"))
    assert "**" in line  # the arm with the least mean is the best


def test_who_answers_otherwise_the_second_time_is_left_out(planned, run, tmp_path) -> None:
    rule = replace(planned.settings.exclusions, retest_difference=15)
    strict = replace(planned, settings=replace(planned.settings, exclusions=rule))
    made, file = analysed(strict, run, ratings(strict, wild=(3,)), tmp_path)
    found = table(made, "exclusions").set_index("listener")
    assert list(found["excluded"].dropna().index) == [3] and found["retest_difference"][3] > 40
    assert found["retest_difference"].drop(3).max() < 10
    assert "retest_difference: gave the second time ratings that differ by more than 15 on average" in file.read_text()


@pytest.mark.parametrize("unit", ["listener", "rating"])
def test_tests_by_sample_are_those_of_scipy_on_their_unit(planned, run, tmp_path, unit) -> None:
    chosen = replace(planned, settings=replace(planned.settings, unit=unit))
    given = ratings(chosen)
    made, file = analysed(chosen, run, given, tmp_path)
    found = table(made, "wilcoxon")
    assert len(found) == 7 * 10 and set(found["unit"]) == {unit}
    checked = 0
    for name in [None, *(one.name for one in made.samples)]:
        own = given if name is None else given[given["sample"] == name]
        keys = ["listener"] if unit == "listener" else ["listener", "sample", "kind"]
        wide = own.groupby([*keys, "arm"])["value"].mean().unstack("arm")
        rows = found[found["sample"].isna()] if name is None else found[found["sample"] == name]
        expected = []
        for row in rows.to_dict("records"):
            differences = (wide[row["arm"]] - wide[row["other"]]).round(9)
            assert row["n"] == len(differences)
            assert row["median_difference"] == pytest.approx(differences.median(), rel=1e-5)
            method = "exact" if len(differences[differences != 0].abs().unique()) == len(differences) else "auto"
            if method == "exact" or (differences != 0).sum() > 13:
                assert row["p"] == pytest.approx(stats.wilcoxon(differences, method=method).pvalue, rel=1e-4)
                checked += 1
            expected.append(row["p"])
        order = np.argsort(expected)
        corrected = np.minimum(1, np.maximum.accumulate(np.array(expected)[order] * np.arange(len(expected), 0, -1)))
        np.testing.assert_allclose(rows["p_holm"].to_numpy()[order], corrected, rtol=1e-4)
    assert checked >= 10
    text = file.read_text(encoding="utf-8")
    assert "## Differences by sample" in text and "![Ratings by sample](boxes.png)" in text
    assert ("by their means" in text) == (unit == "listener")
    assert (made.folder / "analysis" / "boxes.png").stat().st_size > 10_000


def test_ratings_out_of_the_range_or_twice_are_refused(planned, run, tmp_path) -> None:
    given = ratings(planned, count=2)
    with pytest.raises(BlendbenchError, match="is not 0 to 100; bring it to that scale"):
        analysed(planned, run, given.assign(value=101), tmp_path)
    with pytest.raises(BlendbenchError, match="is there twice"):
        analysed(planned, run, given.assign(kind="sample"), tmp_path)
    with pytest.raises(BlendbenchError, match="no column kind"):
        analysed(planned, run, given.drop(columns="kind"), tmp_path)


def test_a_study_of_buttons_has_tests_by_sample_where_it_asks_for_them(tmp_path) -> None:
    run = PiecesRun(tmp_path / "run")
    words = ("range=[1,5]", "hidden_reference=null", "anchor=null", "exclusions.fastest_page_s=1")
    made, _ = pieces.plan(run, *words)
    draw = np.random.default_rng(0)
    given = ratings(made, count=4)
    given["value"] = draw.integers(1, 6, len(given))
    file = analysis.analyse(made, given, {}, run)  # type: ignore[arg-type]
    assert not (file.parent / "wilcoxon.csv").exists() and not (file.parent / "boxes.png").exists()
    assert table(made, "summary")["recipe"].str.startswith("ratings 1-5 of 4 listeners").all()
    assert "reference_below" not in file.read_text()


# webMUSHRA


def exported(made: Study, folder: Path) -> dict[str, Any]:
    return yaml.safe_load(webmushra.export(made, folder).read_text(encoding="utf-8"))


def test_webmushra_rates_the_reference_itself_and_scores_stay_as_they_are(planned: Study, tmp_path: Path) -> None:
    config = exported(planned, tmp_path)
    trials = [page for (page,) in config["pages"][-2][1:]]
    assert len(trials) == 6 and all(page["type"] == "mushra" for page in trials)
    by_name = {clip.name: (one, name) for one in planned.samples for name, clip in one.clips.items()}
    lines, want = [], {}
    for number, page in enumerate(trials):
        one = next(one for one in planned.samples if one.reference.name in page["reference"])
        assert "The reference is the recording alone." in page["content"]
        rated = {key: by_name[Path(file).stem][1] for key, file in page["stimuli"].items()}
        assert sorted(rated.values()) == sorted([*ARMS, ANCHOR])  # the reference is webMUSHRA's own
        for step, (key, name) in enumerate([*rated.items(), ("reference", HIDDEN_REFERENCE)]):
            value = 7 * number + 11 * step
            want[one.name, name] = value
            lines.append(f"{config['testId']},u-1,x,{page['id']},{key},{value},1000,")
    file = tmp_path / "mushra.csv"
    head = "session_test_id,code,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment"
    file.write_text("\n".join([head, *lines]) + "\n")
    found = webmushra.read_results(planned, [file])
    assert {(row["sample"], row["arm"]): row["value"] for row in found.to_dict("records")} == want


def test_webmushra_says_what_does_not_fit(planned: Study, tmp_path: Path) -> None:
    with pytest.raises(BlendbenchError, match="kind: likert has no buttons for ratings 0 to 100; use mushra"):
        webmushra.export(planned, tmp_path, "likert")
    made, _ = pieces.plan(PiecesRun(tmp_path / "run"), "open_reference=null", "hidden_reference=null")
    with pytest.raises(BlendbenchError, match="kind: mushra needs a reference"):
        webmushra.export(made, tmp_path)


def test_no_trial_is_named_by_a_file_of_a_clip_that_is_rated(planned: Study, tmp_path: Path) -> None:
    text = json.dumps([page["id"] for (page,) in exported(planned, tmp_path)["pages"][-2][1:]])
    assert not [clip for one in planned.samples for clip in one.sounds if clip.name[:16] in text]


# The page


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two samples, one of them twice, without practice."""
    run = PiecesRun(tmp_path_factory.mktemp("served") / "run", count=2, seconds=0.6)
    pieces.plan(run, "samples=2", "practice=0", "repeats=1", "listeners=6")
    assert call("listen", str(run.dir), "--plan") == 0
    with Served(run.dir) as running:
        yield running


@pytest.fixture
def page(chromium: Callable[..., Any], served: Served) -> Iterator[Any]:
    browser = chromium("--autoplay-policy=document-user-activation-required")
    shown = browser.new_page(viewport={"width": 1280, "height": 800})
    shown.set_default_timeout(20_000)
    problems: list[str] = []
    shown.on("console", lambda message: problems.append(message.text))
    shown.on("pageerror", lambda error: problems.append(str(error)))
    yield shown
    browser.close()
    assert problems == []


def opened(page: Any, served: Served, listener: int) -> Any:
    to_pages(served, listener)
    page.goto(served.link(listener))
    page.get_by_role("heading", level=1, name="Page 1 of 3", exact=True).wait_for()
    page.wait_for_selector(".clip button:enabled")
    return page


def slider(page: Any, place: str) -> Any:
    return page.get_by_role("group", name=f"Clip {place}, Plausibility", exact=True).get_by_role("slider")


def play(page: Any, place: str) -> None:
    page.get_by_role("button", name=f"Play clip {place}", exact=True).click()
    page.wait_for_selector(f'fieldset:enabled [name^="{place} "]')


def kept(served: Served, listener: int, of: int = 0) -> dict[str, int]:
    found = study.read(served.run_dir)
    assert found is not None
    answers = Answers(found)
    out = {place: scales["plausible"] for place, scales in answers.ratings(listener, of).items()}
    answers.close()
    return out


def test_clips_are_open_at_once_and_each_must_be_moved(page: Any, served: Served) -> None:
    opened(page, served, 0)
    assert page.locator("#first").count() == 0
    assert page.get_by_role("heading", level=2, name="Play and rate each clip").is_visible()
    assert slider(page, "A").is_disabled()
    assert page.locator(".missing").text_content() == "Still to rate: A, B, C, D, E"
    play(page, "A")
    assert slider(page, "A").get_attribute("aria-valuetext") == "not rated yet"
    slider(page, "A").focus()
    page.keyboard.press("ArrowRight")
    assert slider(page, "A").get_attribute("aria-valuetext") == "51"
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    page.get_by_text("✓ All ratings saved").wait_for()
    assert kept(served, 0) == {"A": 10}
    play(page, "B")
    slider(page, "B").click()  # in the middle, where it stands: rated nevertheless
    for place in "CDE":
        play(page, place)
        slider(page, place).fill("73")
    assert page.locator(".missing").text_content() == ""
    page.get_by_text("✓ All ratings saved").wait_for()
    assert kept(served, 0) == {"A": 10, "B": 50, "C": 73, "D": 73, "E": 73}
    page.reload()
    page.wait_for_selector(".clip button:enabled")
    assert slider(page, "B").get_attribute("aria-valuetext") == "50"
    page.keyboard.press("Tab")
    slider(page, "A").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Page 2 of 3", exact=True).wait_for()
    assert slider(page, "A").get_attribute("aria-valuetext") == "not rated yet"


def test_the_reference_plays_at_any_time(page: Any, served: Served) -> None:
    opened(page, served, 1)
    button = page.get_by_role("button", name="Play reference", exact=True)
    button.click()
    page.wait_for_selector('#reference [aria-pressed="true"]')
    page.keyboard.press("c")
    page.wait_for_selector('.clip:nth-child(3) [aria-pressed="true"]')
    slider(page, "C").focus()
    page.keyboard.press("r")  # from a slider, too
    page.wait_for_selector('#reference [aria-pressed="true"]')
    page.keyboard.press(" ")
    page.wait_for_selector('#reference [aria-pressed="false"]')
    assert page.locator("#shortcuts").text_content().count("the reference") == 1


def test_a_slider_that_is_dragged_is_saved_with_its_last_value(page: Any, served: Served) -> None:
    opened(page, served, 2)
    play(page, "A")
    box = slider(page, "A").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(10):
        page.mouse.move(box["x"] + box["width"] * (0.5 + step / 20), box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] + 50, box["y"] + box["height"] / 2)
    page.mouse.up()
    page.get_by_text("✓ All ratings saved").wait_for()
    assert kept(served, 2) == {"A": 100}


def test_a_whole_study_of_sliders_is_gone_through(page: Any, served: Served) -> None:
    opened(page, served, 3)
    for number in range(3):
        page.get_by_role("heading", level=1, name=f"Page {number + 1} of 3", exact=True).wait_for()
        page.wait_for_selector(".clip button:enabled")
        for place in "ABCDE":
            play(page, place)
            slider(page, place).fill(str(10 * number))
        page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("heading", level=1, name="Finished", exact=True).wait_for()
    found = study.read(served.run_dir)
    assert found is not None
    answers = Answers(found)
    rows = answers.export()
    answers.close()
    own = rows[rows["listener"] == 3]
    assert Counter(own["kind"]) == {"sample": 10, "repeat": 5} and len(own) == 15


def test_the_server_takes_values_of_the_range_alone(served: Served) -> None:
    to_pages(served, 4)
    for value in (-1, 101, 50.5, "50", None):
        body = {"page": 0, "clip": "A", "scale": "plausible", "value": value, "stamp": 1}
        status, text = served.status(
            f"/s/{served.tokens[4]}/rate", json.dumps(body).encode(), content_type="application/json"
        )
        assert status == 400 and "value: not a whole number from 0 to 100" in text
    assert served.post(4, "rate", page=0, clip="A", scale="plausible", value=100, stamp=1) == {"saved": True}


def test_settings_are_written_as_they_are_read(planned: Study) -> None:
    again = settings.read({}, planned.folder / "listen.study.yaml")
    assert again == planned.settings
