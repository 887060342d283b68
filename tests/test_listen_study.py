"""Plans of listening studies and the database of their answers: what is chosen, what is heard, what is kept."""

import itertools
import json
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.listeners import BLEND, blend_settings
from support.worlds import CHEAP, RATE, rows_of

from blendbench.errors import BlendbenchError
from blendbench.listening import planning, sounds, study
from blendbench.listening.answers import Answers, Listener, Refused, columns
from blendbench.listening.study import Clip, Sample, Study, williams
from blendbench.runs.folder import Run
from blendbench.sound import audio

NOISE, MUSIC = "noise", "music"
SMALL = ["samples=2", "catch_trials=1", "practice=1", "headphone_check.trials=3", "headphone_check.needed=2"]


def invented(
    arms: int,
    samples: int,
    catches: int = 0,
    practice: int = 0,
    folder: Path = Path("nowhere"),
    words: Sequence[str] = (),
) -> Study:
    """A study of sounds that are not there."""
    names = [f"arm{index}" for index in range(arms)]

    def sample(kind: str, index: int) -> Sample:
        name = f"{kind}{index}"
        conditions = [NOISE, MUSIC, *names[2:]] if kind == "catch" else names
        clips = {one: Clip(f"{name}-{one}", None) for one in conditions}
        facts = {"clip": name, "label": "wind", "genre": "Jazz", "prompt": ""}
        return Sample(name, kind, f"pair of {name}", "esc50", facts, Clip(f"{name}-alone", None), None, clips)

    counts = {"sample": samples, "catch": catches, "practice": practice}
    all_samples = tuple(sample(kind, index) for kind, count in counts.items() for index in range(count))
    checks = tuple((Clip(f"tones{trial}", None), trial % 3 + 1) for trial in range(3))
    found = blend_settings(None, ["headphone_check.trials=3", "headphone_check.needed=2", *words])
    labels = {name: name for name in names}
    return Study(folder, found, BLEND, labels, {}, "direct", all_samples, checks, Clip("volume", None), 1.0)


def rated(planned: Study, listener: int) -> list[study.Page]:
    return [page for page in planned.pages(listener) if page.sample.kind == "sample"]


# Designs


@pytest.mark.parametrize("count", range(1, 10))
def test_a_williams_design_has_every_condition_at_every_place_once_a_square(count):
    rows = williams(count)
    assert len(rows) == (2 * count if count % 2 else count)
    for square in (rows[:count], rows[count:]):
        for row in square:
            assert sorted(row) == list(range(count))
        for column in zip(*square, strict=True):
            assert sorted(column) == list(range(count))


@pytest.mark.parametrize("count", range(2, 10))
def test_a_williams_design_has_every_condition_after_every_other_equally_often(count):
    follows = Counter(pair for row in williams(count) for pair in itertools.pairwise(row))
    assert len(follows) == count * (count - 1)
    assert set(follows.values()) == {2 if count % 2 else 1}


@pytest.mark.parametrize("arms", range(2, 8))
def test_over_a_round_of_listeners_every_arm_of_a_sample_is_at_every_place_and_after_every_other_equally_often(arms):
    planned = invented(arms, samples=5, catches=2, practice=1)
    listeners = 2 * arms if arms % 2 else arms
    for first in (0, 7):
        places: Counter[Any] = Counter()
        follows: Counter[Any] = Counter()
        for page in (page for number in range(first, first + listeners) for page in rated(planned, number)):
            places.update((page.sample.name, arm, place) for place, arm in enumerate(page.order))
            follows.update((page.sample.name, *pair) for pair in itertools.pairwise(page.order))
        assert len(places) == 5 * arms * arms and set(places.values()) == {listeners // arms}
        assert len(follows) == 5 * arms * (arms - 1) and len(set(follows.values())) == 1


@pytest.mark.parametrize(("arms", "samples"), [(2, 4), (3, 6), (4, 8), (4, 5)])
def test_a_listener_finds_no_arm_at_one_place_more_often_than_another(arms, samples):
    planned = invented(arms, samples)
    for listener in range(12):
        places = Counter((arm, place) for page in rated(planned, listener) for place, arm in enumerate(page.order))
        counts = [places[f"arm{arm}", place] for arm in range(arms) for place in range(arms)]
        assert max(counts) - min(counts) <= (samples % arms > 0) + arms % 2  # an odd count has two squares


@settings(max_examples=60, deadline=None)
@given(arms=st.integers(1, 6), samples=st.integers(1, 9), most=st.integers(1, 10), listeners=st.integers(1, 40))
def test_listeners_with_a_part_of_the_samples_hear_each_and_see_each_order_equally_often(
    arms, samples, most, listeners
):
    planned = invented(arms, samples, words=[f"samples_per_listener={most}"])
    heard: Counter[Any] = Counter()
    places: Counter[Any] = Counter()
    for number in range(listeners):
        pages = rated(planned, number)
        assert len({page.sample.name for page in pages}) == len(pages) == min(most, samples)
        for page in pages:
            heard[page.sample.name] += 1
            places.update((page.sample.name, arm, place) for place, arm in enumerate(page.order))
    times = [heard[sample.name] for sample in planned.samples]
    assert max(times) - min(times) <= 1
    for sample in planned.samples:
        counts = [places[sample.name, f"arm{arm}", place] for arm in range(arms) for place in range(arms)]
        # A last round that is not whole has each arm at each place once at most, in each of an odd count's two squares.
        assert max(counts) - min(counts) <= 1 + arms % 2
        if heard[sample.name] % len(williams(arms)) == 0:
            assert len(set(counts)) == 1


def test_pages_follow_from_the_number_alone():
    words = ["samples_per_listener=6"]
    pages = invented(4, 9, 2, 2, words=words).pages(3)
    other = invented(4, 9, 2, 2, words=words)
    assert [other.pages(number) for number in (5, 3)][1] == pages
    assert [page.index for page in pages] == list(range(2 + 6 + 2))
    orders = {tuple(page.sample.name for page in other.pages(number)) for number in range(8)}
    assert len(orders) == 8
    assert invented(4, 9, 2, 2, words=[*words, "seed=1"]).pages(3) != pages


def test_practice_is_first_and_catch_trials_are_spread_and_never_the_first_that_counts():
    planned = invented(3, 12, catches=3, practice=2)
    seen: Counter[int] = Counter()
    orders: Counter[tuple[str, ...]] = Counter()
    for number in range(300):
        kinds = [page.sample.kind for page in planned.pages(number)]
        assert kinds[:2] == ["practice", "practice"] and Counter(kinds[2:]) == {"sample": 12, "catch": 3}
        at = [place for place, kind in enumerate(kinds[2:]) if kind == "catch"]
        seen.update(at)
        # One is somewhere in each third of the samples, after one of them at least; so the last page may be one.
        samples_before = [place - turn for turn, place in enumerate(at)]
        assert all(4 * turn < count <= 4 * (turn + 1) for turn, count in enumerate(samples_before))
        orders.update(page.order for page in planned.pages(number) if page.sample.name == "catch0")
    assert set(seen) == {1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14}
    assert min(seen.values()) > 300 / 8 and max(seen.values()) < 300 / 2  # all as likely, the last page, too
    assert len(orders) == 6 and min(orders.values()) > 25


@pytest.mark.parametrize(("samples", "catches"), [(1, 1), (1, 4), (2, 5)])
def test_more_catch_trials_than_samples_all_come(samples, catches):
    kinds = Counter(page.sample.kind for page in invented(2, samples, catches).pages(0))
    assert kinds == {"sample": samples, "catch": catches}


# Selection


def pair(name: object, **facts: str) -> dict[str, dict]:
    return {"arm": {"pair_id": f"pair {name}"} | facts}


def counts_of(rows: Sequence[dict[str, dict]], field: str, everything: Sequence[dict[str, dict]]) -> list[int]:
    found = Counter(row["arm"][field] for row in rows)
    return [found[value] for value in sorted({row["arm"][field] for row in everything})]


@pytest.mark.parametrize("seed", range(3))
def test_where_every_combination_has_pairs_left_values_come_equally_often_whatever_the_count(seed):
    rows = [pair(i, label=f"l{i % 5}", genre=f"g{i // 5 % 7}") for i in range(5 * 7 * 8)]
    random.Random(seed).shuffle(rows)
    order = list(itertools.islice(planning._balanced(rows, ["label", "genre"], seed), 50))
    for count in range(1, 51):
        for field in ("label", "genre"):
            found = counts_of(order[:count], field, rows)
            assert max(found) - min(found) <= 1


def test_where_values_are_scarce_counts_differ_by_two_more_than_they_must_at_most():
    optimal = cases = 0
    for seed in range(25):
        draw = random.Random(seed)
        rows = [pair(i, label=f"l{draw.randrange(3)}", genre=f"g{draw.randrange(3)}") for i in range(9)]
        order = list(planning._balanced(rows, ["label", "genre"], seed))
        assert sorted(row["arm"]["pair_id"] for row in order) == sorted(row["arm"]["pair_id"] for row in rows)

        def spread(chosen: Sequence[dict[str, dict]], rows: list[dict[str, dict]] = rows) -> int:
            counts = [counts_of(chosen, field, rows) for field in ("label", "genre")]
            return max(max(one) - min(one) for one in counts)

        for count in range(1, 9):
            least = min(spread(chosen) for chosen in itertools.combinations(rows, count))
            assert spread(order[:count]) <= least + 2
            cases += 1
            optimal += spread(order[:count]) == least
    assert optimal >= 0.85 * cases


def test_the_order_depends_on_the_seed_and_not_on_the_order_of_the_rows():
    rows = [pair(i, label=f"l{i % 3}", genre=f"g{i % 4}") for i in range(40)]
    mixed = random.Random(0).sample(rows, len(rows))
    assert list(planning._balanced(rows, ["label"], 0)) == list(planning._balanced(mixed, ["label"], 0))
    assert list(planning._balanced(rows, ["label"], 0)) != list(planning._balanced(rows, ["label"], 1))
    assert len(list(planning._balanced(rows, [], 0))) == 40


@pytest.mark.parametrize(("labels", "genres"), [(50, 7), (2000, 10)])
def test_fifty_of_twenty_thousand_pairs_are_chosen_at_once(labels, genres):
    rows = [pair(i, label=f"l{i % labels}", genre=f"g{i // labels % genres}") for i in range(20_000)]
    began = time.process_time()
    chosen = list(itertools.islice(planning._balanced(rows, ["label", "genre"], 0), 50))
    assert time.process_time() - began < 2
    assert max(counts_of(chosen, "label", rows)) <= 1 and max(counts_of(chosen, "genre", rows)) <= 50 // genres + 1


# Sounds


@pytest.fixture(scope="module")
def planned(finished, tmp_path_factory):
    """Plans a study of a copy of the finished run, once; returns it, its notes, and the run's settings."""

    @cache
    def make(*words: str) -> tuple[Study, list[str], Run]:
        run_dir = tmp_path_factory.mktemp("planned") / "some run"
        shutil.copytree(finished, run_dir)
        run = Run.open(run_dir)
        return *planning.plan(run, blend_settings(None, [*SMALL, *words])), run

    return make


def sound(planned: Study, clip: Clip) -> np.ndarray:
    data, rate = soundfile.read(planned.clip_file(clip.name))
    assert rate == RATE
    return data


def lufs(samples: np.ndarray) -> float:
    """Measured apart from the package, by pyloudnorm."""
    return pyloudnorm.Meter(RATE).integrated_loudness(samples)


def conditions(planned: Study) -> list[tuple[Sample, str, Clip]]:
    """All that is heard on pages; "" is the noise alone."""
    return [(one, key, clip) for one in planned.samples for key, clip in [("", one.first), *one.clips.items()]]


def in_the_run(planned: Study, run: Run, one: Sample, key: str) -> np.ndarray:
    """A sound of a sample as it is in the run."""
    rows = {
        row["arm"]: row
        for row in rows_of(planned.run_dir)
        if (row["pair_id"], row["presentation"]) == (one.pair_id, planned.presentation)
    }
    noise = run.parts(rows["bnmusic"])[NOISE]
    if key in ("", NOISE):
        return noise.numpy()
    if key == MUSIC:
        return (run.heard(rows["bnmusic"]) - noise).numpy()
    return run.heard(rows[key]).numpy()


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two sounds, but for the fades at their ends."""
    inner = slice(RATE // 50, -RATE // 50)
    return float(np.corrcoef(one[inner], other[inner])[0, 1])


def lowered(notes: list[str]) -> float:
    """By how many dB the notes say that all was turned down."""
    found = [float(note.split()[3]) for note in notes if "dB lower" in note]
    assert len(found) <= 1
    return found[0] if found else 0.0


@pytest.mark.parametrize("target", [-30.0, -12.0])
@pytest.mark.parametrize("fade", [10, 500])
def test_matched_clips_are_all_equally_loud_and_none_clips(planned, target, fade):
    made, notes, _ = planned(f"playback.lufs={target}", f"playback.fade_ms={fade}")
    heard = [(clip, sound(made, clip)) for _, _, clip in conditions(made)]
    measured = [lufs(samples) for _, samples in heard]
    assert max(measured) - min(measured) < 0.1
    assert np.mean(measured) == pytest.approx(target - lowered(notes), abs=0.1)
    assert (lowered(notes) > 1) == (target == -12.0)
    for (clip, samples), loudness in zip(heard, measured, strict=True):
        assert clip.lufs == pytest.approx(loudness, abs=0.05)
        assert np.abs(samples).max() < 0.99
        assert np.abs(samples[[0, -1]]).max() < 1e-3  # a loop does not click


def test_matched_samples_keep_their_levels_within_and_have_their_noises_equal(planned):
    made, notes, run = planned("playback.match=samples", "playback.lufs=-20")
    for one in made.samples:
        noise = lufs(sound(made, one.first))
        assert noise == pytest.approx(-20 - lowered(notes), abs=0.1)
        before = lufs(in_the_run(made, run, one, ""))
        for key, clip in one.clips.items():
            gained = lufs(in_the_run(made, run, one, key)) - before
            assert lufs(sound(made, clip)) - noise == pytest.approx(gained, abs=0.1)
            assert np.abs(sound(made, clip)).max() < 0.99


def test_unmatched_sounds_have_one_gain_in_common(planned):
    made, notes, run = planned("playback.match=none")
    gains = []
    for one, key, clip in conditions(made):
        before, after = in_the_run(made, run, one, key), sound(made, clip)
        inner = slice(RATE // 50, -RATE // 50)  # between the fades
        gains.append(float(before[inner] @ after[inner] / (before[inner] @ before[inner])))
        assert np.abs(after).max() < 0.99
        assert alike(before, after) > 0.999
    decibels = 20 * np.log10(gains)
    assert decibels.max() - decibels.min() < 0.05
    assert decibels.mean() == pytest.approx(-lowered(notes), abs=0.1)


def test_a_catch_trial_holds_the_noise_alone_and_the_music_alone(planned):
    made, _, run = planned("catch_trials=2")
    arms = list(made.arms)
    for one in made.of_kind("catch"):
        assert list(one.clips) == [NOISE, MUSIC, *arms[2:]]
        assert np.array_equal(sound(made, one.clips[NOISE]), sound(made, one.first))
        music = in_the_run(made, run, one, MUSIC)
        assert alike(sound(made, one.clips[MUSIC]), music) > 0.999
        assert abs(alike(sound(made, one.clips[MUSIC]), sound(made, one.first))) < 0.5
    for one in made.of_kind("sample"):
        assert list(one.clips) == arms
        for arm in arms:
            assert alike(sound(made, one.clips[arm]), in_the_run(made, run, one, arm)) > 0.999


def test_names_and_files_of_sounds_tell_nothing(planned):
    made, _, _ = planned()
    names = [clip.name for clip in made.clips]
    assert {file.stem for file in made.clip_file("x").parent.iterdir()} == set(names)
    assert len(set(names)) == len(set(names) - {""}) == len(names) - 1  # the volume is set by a sample's noise
    for name in names:
        assert len(name) == 32 and set(name) <= set("0123456789abcdef")
        data = made.clip_file(name).read_bytes()
        for text in (made.run_dir.name, *made.arms, *made.arms.values(), *(one.pair_id for one in made.samples)):
            assert text.encode() not in data


def test_headphone_tones_differ_as_the_test_needs_it():
    length = round(RATE * 1.5)
    for quiet, turned in itertools.permutations(range(3), 2):
        tones = sounds.headphone_tones(quiet, turned)
        assert tones.shape == (round(RATE * 4), 2)
        parts = [tones[length * place : length * place + RATE] for place in range(3)]
        level = [np.sqrt((part**2).mean()) for part in parts]
        other = 3 - quiet - turned
        assert 20 * np.log10(level[quiet] / level[other]) == pytest.approx(-6)
        assert level[turned] == pytest.approx(level[other])
        for place, part in enumerate(parts):
            assert np.corrcoef(part.T)[0, 1] == pytest.approx(-1 if place == turned else 1)
        assert np.abs(tones).max() < 1
        assert not tones[RATE:length].any()


@pytest.mark.parametrize("trials", [1, 6, 7])
def test_in_a_headphone_check_the_answer_is_the_quiet_tone_and_another_is_turned(planned, trials):
    made, _, _ = planned(f"headphone_check.trials={trials}", "headphone_check.needed=1")
    places = Counter()
    for clip, answer in made.checks:
        tones = sound(made, clip)
        parts = [tones[round(RATE * 1.5) * place :][:RATE] for place in range(3)]
        level = [np.sqrt((part**2).mean()) for part in parts]
        turned = [np.corrcoef(part.T)[0, 1] < 0 for part in parts]
        assert level[answer - 1] == pytest.approx(0.5 * max(level), rel=0.01) == min(level)
        assert sum(turned) == 1 and not turned[answer - 1]
        places[answer] += 1
    assert max(places.values()) - min(places[place] for place in (1, 2, 3)) <= 1


# Plans


def test_a_plan_is_read_as_it_was_made_and_no_second_is_made(planned, tmp_path):
    made, _, run = planned()
    assert study.read(made.run_dir) == made
    with pytest.raises(BlendbenchError, match="a study is there") as refused:
        planning.plan(run, made.settings)
    assert str(made.folder) in str(refused.value)
    assert study.read(made.run_dir) == made
    assert study.read(tmp_path) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"first"', '"fist"'),
        lambda text: text.replace('"clips": {', '"clips": [], "c": {'),
        lambda text: json.dumps(json.loads(text) | {"samples": []}),
        lambda text: json.dumps(json.loads(text) | {"checks": [[1, 2]]}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "volume"}),
    ],
)
def test_a_damaged_plan_is_one_line_with_its_file(planned, tmp_path, damage):
    made, _, _ = planned()
    (tmp_path / "listening").mkdir()
    shutil.copy(made.folder / "listen.study.yaml", tmp_path / "listening")
    file = tmp_path / "listening" / "study.json"
    file.write_text(damage((made.folder / "study.json").read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BlendbenchError) as failed:
        study.read(tmp_path)
    assert str(file) in str(failed.value) and "put it back from a copy" in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("there", "samples", "extra", "wanted"),
    [(100, 50, 3, 50), (52, 50, 3, 50), (6, 6, 1, 6), (7, 6, 1, 6), (40, 50, 3, 37), (2, 50, 6, 2), (12, 50, 3, 9)],
)
def test_practice_takes_no_sample_away_where_there_are_just_enough(there, samples, extra, wanted):
    assert planning.samples_of(there, samples, extra) == wanted


def test_few_pairs_are_samples_once_and_serve_practice_and_catch_trials_too(planned):
    made, notes, _ = planned("samples=50", "catch_trials=3", "practice=3")
    assert len({one.pair_id for one in made.of_kind("sample")}) == len(made.of_kind("sample")) == 2
    assert len(made.of_kind("catch")) == len(made.of_kind("practice")) == 3
    assert "2 pairs have mixes of all arms: 2 samples in place of 50" in notes
    assert any("stand among the samples" in note for note in notes)
    assert len({clip.name for _, _, clip in conditions(made)}) == len(conditions(made))


@pytest.fixture(scope="module")
def faulty(world, tmp_path_factory) -> Path:
    """A run of five pairs, of which one has failed, and another's noise is damaged after the run."""
    folder = tmp_path_factory.mktemp("faulty")
    shutil.copytree(world.root, folder / "data")
    there = world.with_root(folder / "data").with_store(folder / "store")
    clips = sorted((folder / "data" / "ESC-50" / "audio").glob("*.wav"))
    soundfile.write(clips[1], np.zeros(RATE), RATE)
    assert there.run(folder / "run", "limit=5", "report=false", *CHEAP) == 0
    clips[3].write_bytes(b"RIFF and no more")
    return folder / "run"


def planned_of(run_dir: Path, *words: str) -> tuple[Study, list[str]]:
    return planning.plan(Run.open(run_dir), blend_settings(None, [*SMALL, *words]))


@pytest.mark.parametrize("extra", [0, 2])
def test_failed_rows_and_unreadable_noises_are_left_out_with_a_note(faulty, extra):
    shutil.rmtree(faulty / "listening", ignore_errors=True)
    words = ["samples=9", "arms=[random_music,noise_only]", f"catch_trials={extra}", f"practice={extra}"]
    made, notes = planned_of(faulty, *words)
    left_out = {row["pair_id"] for row in rows_of(faulty) if row["status"] == "failed"}
    (unreadable,) = {row["pair_id"] for row in rows_of(faulty) if row["clip"].startswith("4-")}
    assert len(left_out) == 1 and unreadable not in left_out
    chosen = Counter(one.pair_id for one in made.of_kind("sample"))
    assert set(chosen) == {row["pair_id"] for row in rows_of(faulty)} - left_out - {unreadable}
    assert set(chosen.values()) == {1}
    assert len(made.of_kind("catch")) == len(made.of_kind("practice")) == extra
    assert not {one.pair_id for one in made.samples} & (left_out | {unreadable})
    assert "4 pairs have mixes of all arms: 4 samples in place of 9" in notes
    assert "3 samples in place of 4, as no other pair's sounds can be read" in notes
    (told,) = [note for note in notes if note.startswith(f"{unreadable} left out: ")]
    assert "not audio that libsndfile reads" in told and "\n" not in told


def test_a_catch_trial_takes_its_music_from_an_arm_that_has_some(faulty):
    shutil.rmtree(faulty / "listening", ignore_errors=True)
    made, _ = planned_of(faulty, "arms=[random_music,noise_only]")
    (catch,) = made.of_kind("catch")
    assert lufs(sound(made, catch.clips[MUSIC])) == pytest.approx(lufs(sound(made, catch.first)), abs=0.1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["arms=[random_music,nothing]"], "arms: the run has no 'nothing'"),
        (["arms=[]"], "arms: 0 to be rated"),
        (["arms=[random_music]"], "catch_trials: need two arms"),
        (["balance=[label,colour]"], "balance: ['label', 'colour']"),
        (["hidden_reference=recording"], "hidden_reference: the task's sounds have no part 'recording'; it has noise"),
        (["anchor.part=recording"], "anchor.part: the task's sounds have no part 'recording'"),
        (["presentation=adaptive"], "presentation: the run has no 'adaptive'; it has loudness_normalized"),
        (["arms=[random_music,noise_only]", "dataset=epic_sounds"], "no item has mixes of random_music, noise_only"),
    ],
)
def test_what_the_run_does_not_have_is_one_line(faulty, words, expected):
    shutil.rmtree(faulty / "listening", ignore_errors=True)
    with pytest.raises(BlendbenchError) as failed:
        planned_of(faulty, *words)
    assert expected in str(failed.value) and "\n" not in str(failed.value)
    assert not (faulty / "listening" / "study.json").exists()


def test_a_single_arm_can_be_rated_without_catch_trials(faulty):
    shutil.rmtree(faulty / "listening", ignore_errors=True)
    made, _ = planned_of(faulty, "arms=[random_music]", "catch_trials=0")
    assert {len(page.order) for page in made.pages(0)} == {1}


# Settings


KEYS = ["samples", "listeners", "practice", "repeats", "seed", "playback", "headphone_check", "range", "scales",
        "exclusions", "title", "consent", "contact", "thanks"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["null", "-1.5", "{a: 1}", "[[1]]", "true"])
def test_a_value_of_a_wrong_kind_is_one_line_that_names_its_key(tmp_path, key, value):
    file = tmp_path / "own.yaml"
    file.write_text(f"{key}: {value}\n", encoding="utf-8")
    for found in ((file, []), (None, [f"{key}={value}"])):
        with pytest.raises(BlendbenchError) as failed:
            blend_settings(*found)
        assert key in str(failed.value) and "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("samples=0", "samples: 0"),
        ("samples=many", "samples: 'many'"),
        ("samples=", "samples: None"),
        ("listeners=1.0", "listeners: 1.0"),
        ("samples_per_listener=0", "samples_per_listener: 0"),
        ("dataset=3", "dataset: 3"),
        ("balance=label", "balance: 'label'"),
        ("catch_trials=-1", "catch_trials: -1"),
        ("range=[5,1]", "range: [5, 1]"),
        ("range=[0,0.5]", "range: [0, 0.5]"),
        ("range=5", "range: 5"),
        ("repeats=-1", "repeats: -1"),
        ("anchor.part=3", "anchor: "),
        ("anchor={part: noise, lowpass_hz: 1}", "anchor: "),
        ("hidden_reference=[noise]", "hidden_reference"),
        ("open_reference=3", "open_reference: 3"),
        ("exclusions.reference_below=0.9", "exclusions.reference_below"),
        ("exclusions.reference_below.share=9", "exclusions.reference_below: "),
        ("exclusions.retest_difference=-1", "exclusions.retest_difference: -1"),
        ("unit=page", "unit: 'page'"),
        ("arms=random_music", "arms: 'random_music'"),
        ("playback.match=loud", "playback.match: 'loud'"),
        ("playback.lufs=-5", "playback.lufs: -5"),
        ("playback.lufs=.nan", "playback.lufs: nan"),
        ("playback.fade_ms=-1", "playback.fade_ms: -1"),
        ("playback.loudness=3", "playback.loudness"),
        ("headphone_check.trials=x", "headphone_check.trials: 'x'"),
        ("headphone_check.trials=25", "headphone_check.trials: 25"),
        ("headphone_check.needed=7", "headphone_check.needed: 7"),
        ("headphone_check.required=perhaps", "headphone_check.required: 'perhaps'"),
        ("exclusions.finished_share=2", "exclusions.finished_share: 2"),
        ("exclusions.catch_failures=-1", "exclusions.catch_failures: -1"),
        ("scales.ovl.low=3", "scales: "),
        ("scales.two words.label=x", "scales: "),
        ("colour=blue", "colour"),
        ("colour", "colour"),
        ("title=${", "title=${"),
    ],
)
def test_a_value_out_of_range_and_an_unknown_key_are_one_line_that_names_them(word, named):
    with pytest.raises(BlendbenchError) as failed:
        blend_settings(None, [word])
    assert named in str(failed.value) and "\n" not in str(failed.value)


@pytest.mark.parametrize("text", ["- a list\n", "just words", "a: [", "\x00", "samples: 3\n  practice: 1\n"])
def test_a_file_that_holds_no_settings_is_one_line_that_names_it(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BlendbenchError) as failed:
        blend_settings(file)
    assert str(failed.value).startswith(f"{file}: ") and "\n" not in str(failed.value)


def test_settings_of_a_file_stand_over_the_defaults_and_words_over_both(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("samples: 7\nscales: {mood: {label: M, text: T, low: l, high: h}}\n", encoding="utf-8")
    found = blend_settings(file, ["samples=8", "samples=9", "playback.lufs=-30"])
    assert (found.samples, found.playback.lufs, found.listeners) == (9, -30, 20)
    assert list(found.scales) == ["mood"]  # in place of the paper's
    with pytest.raises(BlendbenchError, match=r"missing\.yaml: cannot be read"):
        blend_settings(tmp_path / "missing.yaml")


# Answers


@pytest.fixture
def answers(tmp_path):
    """Opens the database of an invented study of 4 arms on 3 samples."""
    opened: list[Answers] = []

    def make(*words: str, **how: int) -> Answers:
        (tmp_path / "listening").mkdir(exist_ok=True)
        made = invented(
            4, **{"samples": 3, "catches": 1, "practice": 1} | how, folder=tmp_path / "listening", words=words
        )
        opened.append(Answers(made))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def begun(kept: Answers, count: int) -> list[Listener]:
    """Invite listeners and bring them to their first page."""
    found = []
    for token in kept.invite(count).values():
        kept.consent(now(kept, token))
        kept.set_volume(now(kept, token))
        for trial, (_, answer) in enumerate(kept.study.checks):
            kept.check(now(kept, token), 0, trial, answer)
        found.append(now(kept, token))
    return found


def now(kept: Answers, token: str) -> Listener:
    found = kept.listener(token)
    assert found is not None
    return found


def fill(kept: Answers, listener: Listener, page: int, stamp: int = 1) -> None:
    for place, scale in itertools.product("ABCD", kept.study.scales):
        kept.rate(listener, page, place, scale, 1 + (page + ord(place)) % 5, stamp)


def test_eight_threads_lose_nothing_and_double_nothing(answers):
    kept = answers()
    listeners = begun(kept, 8)
    shared = begun(kept, 1)[0]
    errors: list[BaseException] = []

    def work(listener: Listener) -> None:
        try:
            for page in range(5):
                for place, scale in itertools.product("ABCD", kept.study.scales):
                    for turn in range(2):
                        kept.rate(listener, page, place, scale, 1 + (page + turn + ord(place)) % 5, 10 + turn)
                    kept.rate(shared, 0, place, scale, 1 + listener.number % 5, 100 + listener.number)
                kept.finish_page(listener, page, 1.5, {"A": page})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(listener,)) for listener in listeners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    rows = kept.export()
    assert list(rows.columns) == columns(kept.study)
    keys = ["listener", "page", "position", "scale"]
    assert not rows.duplicated(keys).any() and not rows.duplicated(["listener", "page", "arm", "scale"]).any()
    own = rows[rows["listener"] != shared.number]
    assert len(own) == 8 * 5 * 4 * 2
    expected = [1 + (page + 1 + ord(place)) % 5 for page, place in zip(own["page"], own["position"], strict=True)]
    assert list(own["value"]) == expected and set(own["changes"]) == {1} and set(own["page_s"]) == {1.5}
    assert {one.state for one in kept.listeners() if one.number != shared.number} == {"finished"}
    last = rows[rows["listener"] == shared.number]  # of eight windows the latest stamp counts
    assert len(last) == 4 * 2 and set(last["value"]) == {1 + listeners[-1].number % 5}


def test_an_answer_is_on_the_disk_before_it_is_acknowledged(answers):
    """No test can cut the power; this is how SQLite is told."""
    kept = answers()
    found = {name: kept._rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "secure_delete")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}


def test_two_processes_may_keep_answers_at_once(answers):
    one, other = answers(), answers()
    first, second = begun(one, 2)

    def work(kept: Answers, listener: Listener) -> None:
        for stamp in range(20):
            fill(kept, listener, 0, stamp)

    thread = threading.Thread(target=work, args=(other, second))
    thread.start()
    work(one, first)
    thread.join()
    assert len(one.export()) == len(other.export()) == 2 * 8


def test_what_a_listener_does_in_a_window_after_another_has_gone_on_is_refused_and_changes_nothing(answers):
    kept = answers("headphone_check.trials=0", samples=1, catches=0, practice=0)
    kept = Answers(Study(**{**vars(kept.study), "checks": ()}))
    (token,) = kept.invite(1).values()
    invited = now(kept, token)
    kept.consent(invited)
    consented = now(kept, token)
    kept.set_volume(consented)
    ready = now(kept, token)
    for action in (lambda: kept.consent(invited), lambda: kept.set_volume(consented)):
        with pytest.raises(Refused):
            action()
    fill(kept, ready, 0)
    kept.finish_page(ready, 0, 2.0, {})
    assert kept.progress(ready).step == "finished"  # also by what the window knew before
    kept.finish_page(ready, 0, 9.0, {"A": 9})
    kept.finish_page(now(kept, token), 0, 9.0, {"A": 9})
    assert set(kept.export()["page_s"]) == {2.0}
    with pytest.raises(Refused):
        kept.finish_page(now(kept, token), 1, 9.0, {})
    kept.withdraw(ready)
    for action in (
        lambda: kept.consent(invited),
        lambda: kept.set_volume(consented),
        lambda: fill(kept, ready, 0),
        lambda: kept.finish_page(ready, 0, 2.0, {}),
    ):
        with pytest.raises(Refused):
            action()
    assert kept.export().empty and now(kept, token) == Listener(ready.number, "withdrawn", False)
    kept.close()


def test_a_headphone_trial_that_there_is_not_is_refused(answers):
    kept = answers()
    (token,) = kept.invite(1).values()
    kept.consent(now(kept, token))
    kept.set_volume(now(kept, token))
    for trial, (_, answer) in enumerate(kept.study.checks):
        kept.check(now(kept, token), 0, trial, answer % 3 + 1)
    for attempt, trial in ((0, 3), (0, 99), (1, 1), (1, 99)):
        with pytest.raises(Refused):
            kept.check(now(kept, token), attempt, trial, 1)
    assert len(sqlite3.connect(kept.path).execute("SELECT * FROM checks").fetchall()) == 3


@pytest.mark.parametrize("seed", [3, 4])
def test_who_withdraws_leaves_no_bytes_however_the_database_has_grown(answers, seed):
    kept = answers(samples=2)
    kept._connection.execute("PRAGMA synchronous=OFF")
    listeners = begun(kept, 40)
    draw = random.Random(seed)
    todo = [(listener, page) for page in range(4) for listener in listeners]
    stamps: dict[int, list[int]] = {}
    stamp = 10**12
    for listener, page in sorted(todo, key=lambda one: (one[1], draw.random())):
        for place, scale in itertools.product("ABCD", kept.study.scales):
            stamp += 1
            stamps.setdefault(listener.number, []).append(stamp)
            kept.rate(listener, page, place, scale, 3, stamp)
        kept.finish_page(listener, page, 3.5, {"A": 100_000 + listener.number})

    def found(number: int) -> int:
        files = kept.study.folder.glob("answers.sqlite*")
        data = b"".join(file.read_bytes() for file in files if not file.name.endswith("-shm"))
        marks = [one.to_bytes(6, "big") for one in stamps[number]] + [str(100_000 + number).encode()]
        return sum(mark in data for mark in marks)

    for number in draw.sample(range(40), 15):
        assert found(number) == 4 * 8 + 1
        kept.withdraw(listeners[number])
        assert found(number) == 0
    assert len(kept.export()) == 25 * 4 * 8
    assert kept._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty folder", "missing"])
def test_a_damaged_database_is_one_line_that_names_it(answers, damage):
    kept = answers()
    fill(kept, begun(kept, 1)[0], 0)
    kept.close()
    data = kept.path.read_bytes()
    if damage == "cut":
        kept.path.write_bytes(data[: len(data) // 3])
    elif damage == "overwritten":
        kept.path.write_bytes(b"This is no database. " * 400)
    else:
        kept.path.unlink()
        if damage == "empty folder":
            kept.path.mkdir()
        else:
            (kept.study.folder / "links.csv").touch()
    with pytest.raises(BlendbenchError) as failed:
        Answers(kept.study).export()
    assert str(failed.value).startswith(f"{kept.path}: ") and "from a copy" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_the_music_of_a_catch_trial_is_what_the_mix_has_beyond_the_noise(finished):
    row = next(row for row in rows_of(finished) if row["arm"] == "bnmusic" and row["presentation"] == "direct")
    run = Run.open(finished)
    parts = run.parts(row)
    assert torch.allclose(parts[NOISE] + parts[MUSIC], run.heard(row), atol=1e-6)
    assert audio.integrated_loudness(parts[MUSIC], RATE) > -70
