"""A study on its way to webMUSHRA and back: what is written for it, and how its result files are read."""

import csv
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from support.listeners import blend_settings

from blendbench.errors import BlendbenchError
from blendbench.listening import planning, webmushra
from blendbench.listening import study as studies
from blendbench.listening.answers import columns
from blendbench.listening.settings import Scale
from blendbench.listening.study import Study
from blendbench.runs.folder import Run

HOSTILE = "O'Brien's \"<script>alert(1)</script>\" &amp; <img src=x> # a: {b} [c] é 音\x07\n- d: ~"
SHOWN = "O'Brien's \"<script>alert(1)</script>\" &amp; <img src=x> # a: {b} [c] é 音 - d: ~"
Session = list[tuple[str, list[tuple[str, str]], int]]
"""Pages as heard: trial, stimuli with what was answered, milliseconds."""


@pytest.fixture(scope="module")
def study(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two samples, a catch trial and a practice page, four arms each. Tests must not change it."""
    run_dir = tmp_path_factory.mktemp("webmushra") / "run"
    shutil.copytree(finished, run_dir, ignore=shutil.ignore_patterns("report"))
    words = ["samples=2", "practice=1", "catch_trials=1", "headphone_check.trials=0"]
    made, _ = planning.plan(Run.open(run_dir), blend_settings(None, words))
    assert sorted(one.kind for one in made.samples) == ["catch", "practice", "sample", "sample"]
    assert len(made.arms) == 4
    return made


@pytest.fixture(scope="module", params=["likert", "mushra"])
def exported(study: Study, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of an export of either kind. Tests must not change it."""
    return webmushra.export(study, tmp_path_factory.mktemp(request.param), request.param)


def read(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def flat(pages: list[Any]) -> Iterator[dict[str, Any]]:
    """Pages in the order written, without webMUSHRA's word for a shuffled list."""
    for page in pages:
        if isinstance(page, list):
            yield from flat(page)
        elif page != "random":
            yield page


def sounds_of(page: dict[str, Any]) -> list[str]:
    one = [page[name] for name in ("stimulus", "reference") if name in page]
    return one + list(page.get("stimuli", {}).values())


def test_every_page_is_of_a_type_and_in_a_place_that_webmushra_knows(study: Study, exported: Path) -> None:
    config = read(exported)
    kind = exported.stem.rpartition("-")[2]
    assert config["testId"] == exported.stem
    assert re.fullmatch(r"[a-z0-9-]+", exported.stem)  # else write.php files the results under another name
    assert config["remoteService"] == "service/write.php"
    rated = {"likert": "likert_multi_stimulus", "mushra": "mushra"}[kind]
    group = ["likert_single_stimulus"] * (kind == "likert") + [rated] * len(study.scales)
    *first, (word, *shuffled), last = config["pages"]
    assert [page["type"] for page in first] == ["consent", "volume", "likert_single_stimulus", *group]
    assert word == "random"
    assert [[page["type"] for page in pages] for pages in shuffled] == [group] * 3
    assert last["type"] == "finish"
    assert last["writeResults"] and not last["showResults"]
    assert [one["name"] for one in last["questionnaire"]] == ["code"]
    pages = list(flat(config["pages"]))
    ids = [page["id"] for page in pages[:-1]]
    assert len(set(ids)) == len(ids)
    for page in pages:
        if page["type"] == "likert_multi_stimulus":
            assert [one["value"] for one in page["response"]] == [1, 2, 3, 4, 5]
            assert page["mustRate"] is True
        if page["type"] in (rated, "likert_single_stimulus") and page["id"] != "check":
            scales = [name for name in study.scales if page["id"].endswith(f"-{name}")]
            texts = [getattr(study.scales[name], key) for name in scales for key in ("text", "low", "high")]
            assert all(text in page["content"] for text in texts)


def test_sounds_have_the_clips_samples_in_both_channels_and_one_length_a_page(study: Study, exported: Path) -> None:
    root = exported.parents[1]
    pages = list(flat(read(exported)["pages"]))
    used = {name for page in pages for name in sounds_of(page)}
    there = {str(file.relative_to(root)) for file in root.rglob("*.wav")}
    assert used == there
    assert {Path(name).stem for name in used} == {clip.name for one in study.samples for clip in one.sounds} | {
        study.volume.name
    }
    for name in used:
        info = soundfile.info(root / name)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 44_100, 2)
        mono = soundfile.read(study.clip_file(Path(name).stem), dtype="int16")[0]
        assert mono.any()
        np.testing.assert_array_equal(soundfile.read(root / name, dtype="int16")[0], np.stack([mono, mono], 1))
    for page in pages:
        assert len({soundfile.info(root / name).frames for name in sounds_of(page)}) <= 1


def test_what_listeners_are_served_names_no_arm_and_no_catch_trial(study: Study, exported: Path) -> None:
    root = exported.parents[1]
    telling = {*study.arms, *study.arms.values(), "catch", *(one.name for one in study.samples)}
    telling |= {text for one in study.samples for text in (one.pair_id, one.facts["label"], one.facts["prompt"])}
    texts = [str(file.relative_to(root)) for file in root.rglob("*")]
    texts += [file.read_text(encoding="utf-8") for file in root.rglob("*") if file.is_file() and file.suffix != ".wav"]
    for text in texts:
        assert not [word for word in telling if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]
    for page in flat(read(exported)["pages"]):
        if page["type"] in ("likert_multi_stimulus", "mushra"):
            assert list(page["stimuli"]) == ["C1", "C2", "C3", "C4"]
            assert list(page["stimuli"].values()) == sorted(page["stimuli"].values())
    trials = [pages[-1]["id"] for pages in read(exported)["pages"][-2][1:]]
    assert trials == sorted(trials)


class Markup(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", ["likert", "mushra"])
def test_the_studys_words_stay_words_whatever_they_hold(study: Study, tmp_path: Path, kind: str) -> None:
    scales = dict.fromkeys(study.scales, Scale(HOSTILE, HOSTILE, HOSTILE, HOSTILE))
    words = {"title": HOSTILE, "consent": f"One.\n \n{HOSTILE}\n\n{{minutes}} minutes", "thanks": HOSTILE}
    hostile = replace(study, settings=replace(study.settings, **words, contact=HOSTILE, scales=scales))
    file = webmushra.export(hostile, tmp_path, kind)
    config = read(file)
    assert config["testname"] == SHOWN  # text, not markup
    seen = 0
    for page in flat(config["pages"]):
        for key in ("name", "content", "popupContent"):
            markup = Markup(page.get(key, ""))
            assert markup.tags <= {"p", "br"}
            assert "\n" not in page.get(key, "")
            seen += markup.text.count(SHOWN)
    rated = len(study.samples) * len(study.scales)
    assert seen == 4 + 4 * rated  # title, consent, contact, thanks; label, text, low, high
    consent = Markup(config["pages"][0]["content"])
    assert re.search(r"\d+ minutes", consent.text)
    assert config["pages"][0]["content"].startswith("<p>One.</p><p>O&#x27;Brien")


def test_the_configuration_is_of_the_kind_of_yaml_that_yaml_js_reads(exported: Path) -> None:
    """Its parser knows no text over several lines, and no list that begins on the line of another."""
    lines = exported.read_text(encoding="utf-8").splitlines()
    assert any(line.strip() == "-" for line in lines)
    for line in lines:
        assert not line.lstrip().startswith("- -")
        assert re.fullmatch(r"( *- ?)? *('[^']+':)?( ?('([^']|'')*'|true|false|[0-9.]+))?", line), line


def test_an_unknown_kind_and_a_missing_sound_end_the_export_with_a_line(study: Study, tmp_path: Path) -> None:
    with pytest.raises(BlendbenchError, match=r"^kind: 'abx' is unknown; use likert or mushra$"):
        webmushra.export(study, tmp_path, "abx")
    lacking = replace(study, volume=studies.Clip("0" * 32, None))
    with pytest.raises(BlendbenchError, match=r"0{32}\.flac: cannot be read \([^\n]+; put it back from a copy$"):
        webmushra.export(lacking, tmp_path, "likert")
    assert not list((tmp_path / "configs").glob("*.yaml"))


def heard(config: dict[str, Any], seed: int) -> tuple[Session, dict[tuple[str, str], str]]:
    """What a listener answers at random, on pages and with stimuli shuffled as webMUSHRA does it."""
    draw = np.random.default_rng(seed)
    session: Session = []
    given: dict[tuple[str, str], str] = {}

    def play(pages: list[Any]) -> None:
        if pages[0] == "random":
            pages = [pages[place] for place in 1 + draw.permutation(len(pages) - 1)]
        for page in pages:
            if isinstance(page, list):
                play(page)
            elif page["type"] in ("likert_multi_stimulus", "mushra"):
                mushra = page["type"] == "mushra"
                stimuli = [*page["stimuli"], *(["reference"] if mushra else [])]
                values = draw.integers(0, 101, 5) if mushra else draw.integers(1, 6, 4)
                rows = [(str(one), str(value)) for one, value in zip(draw.permutation(stimuli), values, strict=True)]
                given.update({(page["id"], one): value for one, value in rows})
                session.append((page["id"], rows, int(draw.integers(5_000, 60_000))))

    play(config["pages"])
    return session, given


def lms(*sessions: tuple[str, Session]) -> str:
    """lms.csv as write.php writes it, of sessions with their codes."""
    text = io.StringIO()
    text.write("session_test_id,code,trial_id,stimuli_rating,stimuli,rating_time\n")
    for code, pages in sessions:
        for trial, rows, time in pages:
            text.writelines(f'test,{code},{trial}," {value} ",{one},{time}\n' for one, value in rows)
    return text.getvalue()


def mushra(*sessions: tuple[str, Session]) -> str:
    """mushra.csv as write.php writes it, of sessions with their identifiers; the questionnaire tells nothing."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    rated = ["rating_stimulus", "rating_score", "rating_time", "rating_comment"]
    out.writerow(["session_test_id", "code", "session_uuid", "trial_id", *rated])
    for uuid, pages in sessions:
        for trial, rows, time in pages:
            out.writerows(["test", "same", uuid, trial, one, value, time, ""] for one, value in rows)
    return text.getvalue()


WRITERS = {"likert": lms, "mushra": mushra}


def arm_of(study: Study, config: dict[str, Any], trial: str, key: str) -> tuple[str, str, str]:
    """Sample, scale and arm of a rating, by the file that was played."""
    page = next(page for page in flat(config["pages"]) if page.get("id") == trial)
    clip = Path(page["stimuli"][key]).stem
    found = [(one.name, arm) for one in study.samples for arm, sound in one.clips.items() if sound.name == clip]
    (scale,) = [name for name, scale in study.scales.items() if scale.text in page["content"]]
    return found[0][0], scale, found[0][1]


def test_answers_come_back_as_they_were_given(study: Study, exported: Path, tmp_path: Path) -> None:
    config = read(exported)
    kind = exported.stem.rpartition("-")[2]
    sessions = [heard(config, seed) for seed in range(3)]
    file = tmp_path / "results.csv"
    file.write_text(WRITERS[kind](*((f"u{seed}", session) for seed, (session, _) in enumerate(sessions))))
    table = webmushra.read_results(study, [file])
    assert list(table.columns) == columns(study)
    samples = {one.name: one for one in study.samples}
    for listener, (session, given) in enumerate(sessions):
        mine = table[table["listener"] == listener]
        want = {}
        for (trial, key), value in given.items():
            if key != "reference":
                number = int(value) if kind == "likert" else 1 + 4 * int(value) / 100
                want[arm_of(study, config, trial, key)] = number
        got = {(row["sample"], row["scale"], row["arm"]): row["value"] for _, row in mine.iterrows()}
        assert got == want
        assert len(mine) == len(want) == 4 * 4 * len(study.scales)
        # Pages as heard: a sample is one, whose scales come one after another.
        order = list(dict.fromkeys(arm_of(study, config, trial, "C1")[0] for trial, _, _ in session))
        assert mine.groupby("page", sort=True)["sample"].unique().map(lambda names: list(names)).tolist() == [
            [name] for name in order
        ]
        for trial, rows, _ in session:
            for place, (key, _) in enumerate(rows):
                if key != "reference":
                    name, scale, arm = arm_of(study, config, trial, key)
                    row = mine[(mine["sample"] == name) & (mine["scale"] == scale) & (mine["arm"] == arm)]
                    assert row["position"].item() == "ABCDE"[place]
        for name in order:
            times = [time for trial, _, time in session if arm_of(study, config, trial, "C1")[0] == name]
            seconds = mine.loc[mine["sample"] == name, "page_s"].unique()
            assert seconds == pytest.approx([sum(times) / 1000])
        for _, row in mine.iterrows():
            sample = samples[row["sample"]]
            facts = ("kind", "pair_id", "dataset", "label", "genre")
            assert [row[fact] for fact in facts] == [(vars(sample) | sample.facts)[fact] for fact in facts]
    assert {"noise", "music"} < set(table.loc[table["kind"] == "catch", "arm"])
    assert set(table.loc[table["kind"] != "catch", "arm"]) == set(study.arms)
    assert table[["changes", "plays"]].isna().all().all()
    assert table["value"].dtype == (np.int64 if kind == "likert" else np.float64)


# What service/write.php of webMUSHRA's commit 13a105c wrote under PHP 8.2 for four sessions that were sent to it: the
# first one's listener typed a code of their own, did not rate one stimulus, and pressed the button twice, so that the
# questionnaire stands twice in the second half.
CODE = '"eins, ""zwei""\nü & \\ x"'
LMS = f"""session_test_id,code,trial_id,stimuli_rating,stimuli,rating_time
php-check,{CODE},FIRST-ovl," 4 ",C3,21034
php-check,{CODE},FIRST-ovl," 1 ",C1,21034
php-check,{CODE},FIRST-ovl," NA ",C2,21034
php-check,{CODE},FIRST-ovl," 5 ",C4,21034
php-check,{CODE},FIRST-per," 2 ",C2,9001
php-check,{CODE},FIRST-per," 3 ",C4,9001
php-check,{CODE},FIRST-per," 1 ",C1,9001
php-check,{CODE},FIRST-per," 5 ",C3,9001
php-check,{CODE},{CODE},FIRST-ovl," 4 ",C3,21034
php-check,{CODE},{CODE},FIRST-ovl," 1 ",C1,21034
php-check,{CODE},{CODE},FIRST-ovl," NA ",C2,21034
php-check,{CODE},{CODE},FIRST-ovl," 5 ",C4,21034
php-check,{CODE},{CODE},FIRST-per," 2 ",C2,9001
php-check,{CODE},{CODE},FIRST-per," 3 ",C4,9001
php-check,{CODE},{CODE},FIRST-per," 1 ",C1,9001
php-check,{CODE},{CODE},FIRST-per," 5 ",C3,9001
php-check,plain,SECOND-ovl," 2 ",C1,30000
php-check,plain,SECOND-ovl," 2 ",C2,30000
php-check,plain,SECOND-ovl," 2 ",C3,30000
php-check,plain,SECOND-ovl," 2 ",C4,30000
php-check,plain,FIRST-ovl," 3 ",C2,12000
php-check,plain,FIRST-ovl," 3 ",C1,12000
php-check,plain,FIRST-ovl," 3 ",C3,12000
php-check,plain,FIRST-ovl," 3 ",C4,12000
"""
LSS = f"""session_test_id,code,trial_id,stimuli_rating,stimuli,rating_time
php-check,{CODE},check,yes,sound,5123
php-check,{CODE},{CODE},check,yes,sound,5123
php-check,plain,check,yes,sound,5123
"""
MUSHRA = """session_test_id,code,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment
php-check,plain,u-3,FIRST-ovl,reference,100,60500,
php-check,plain,u-3,FIRST-ovl,C2,0,60500,
php-check,plain,u-3,FIRST-ovl,C1,37,60500,
php-check,plain,u-3,FIRST-ovl,C4,50,60500,
php-check,plain,u-3,FIRST-ovl,C3,100,60500,
"""


def written(study: Study, file: Path, text: str) -> Path:
    """A result file with the trials of this study's first two samples."""
    tokens = [one.first.name[:16] for one in study.samples]
    file.write_text(text.replace("FIRST", tokens[0]).replace("SECOND", tokens[1]), encoding="utf-8")
    return file


def arms(study: Study, sample: int = 0) -> dict[str, str]:
    """Arms of a sample by the names of its stimuli."""
    clips = sorted((clip.name, arm) for arm, clip in study.samples[sample].clips.items())
    return {f"C{place}": arm for place, (_, arm) in enumerate(clips, 1)}


def test_what_write_php_writes_is_read(study: Study, tmp_path: Path) -> None:
    names = {"lms": LMS, "lss": LSS, "mushra": MUSHRA}
    files = [written(study, tmp_path / f"{name}.csv", text) for name, text in names.items()]
    table = webmushra.read_results(study, files)
    first, second = study.samples[0].name, study.samples[1].name
    key, other = arms(study), arms(study, 1)
    got = [
        tuple(row)
        for row in table[["listener", "page", "position", "sample", "arm", "scale", "value", "page_s"]].itertuples(
            index=False
        )
    ]
    assert got == [
        (0, 0, "A", first, key["C3"], "ovl", 4, 30.035),
        (0, 0, "A", first, key["C2"], "per", 2, 30.035),
        (0, 0, "B", first, key["C1"], "ovl", 1, 30.035),
        (0, 0, "B", first, key["C4"], "per", 3, 30.035),
        (0, 0, "C", first, key["C1"], "per", 1, 30.035),
        (0, 0, "D", first, key["C4"], "ovl", 5, 30.035),
        (0, 0, "D", first, key["C3"], "per", 5, 30.035),
        (1, 0, "A", second, other["C1"], "ovl", 2, 30.0),
        (1, 0, "B", second, other["C2"], "ovl", 2, 30.0),
        (1, 0, "C", second, other["C3"], "ovl", 2, 30.0),
        (1, 0, "D", second, other["C4"], "ovl", 2, 30.0),
        (1, 1, "A", first, key["C2"], "ovl", 3, 12.0),
        (1, 1, "B", first, key["C1"], "ovl", 3, 12.0),
        (1, 1, "C", first, key["C3"], "ovl", 3, 12.0),
        (1, 1, "D", first, key["C4"], "ovl", 3, 12.0),
        (2, 0, "B", first, key["C2"], "ovl", 1.0, 60.5),
        (2, 0, "C", first, key["C1"], "ovl", 2.48, 60.5),
        (2, 0, "D", first, key["C4"], "ovl", 3.0, 60.5),
        (2, 0, "E", first, key["C3"], "ovl", 5.0, 60.5),
    ]


def test_a_session_counts_once_however_often_it_is_given(study: Study, tmp_path: Path) -> None:
    early = written(study, tmp_path / "early.csv", LMS[: LMS.index("php-check,plain")])
    late = written(study, tmp_path / "late.csv", LMS + "\r\n" + LMS)
    whole = webmushra.read_results(study, [written(study, tmp_path / "lms.csv", LMS)])
    pd.testing.assert_frame_equal(webmushra.read_results(study, [early, late, late]), whole)
    assert set(whole["listener"]) == {0, 1}


def test_sessions_that_no_code_tells_apart_end_where_a_rating_comes_again(study: Study, tmp_path: Path) -> None:
    header = "session_test_id,trial_id,stimuli_rating,stimuli,rating_time\n"
    page = 't,FIRST-ovl," {} ",C1,{}\nt,FIRST-ovl," {} ",C2,{}\n'
    # With the mark that spreadsheets put before a text.
    text = header + page.format(1, 10, 2, 10) + page.format(1, 20, 2, 20) + page.format(3, 30, 3, 30)
    table = webmushra.read_results(study, [written(study, tmp_path / "lms.csv", "\ufeff" + text)])
    assert list(zip(table["listener"], table["value"], strict=True)) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 3), (2, 3)]


def test_sessions_whose_lines_are_mixed_are_told_apart_by_their_codes(study: Study, tmp_path: Path) -> None:
    header = "session_test_id,code,trial_id,stimuli_rating,stimuli,rating_time\n"
    lines = [f'{code},FIRST-ovl," {value} ",C{key},' for key in (1, 2) for code, value in (("t,a", 1), ("t,b", 5))]
    file = written(study, tmp_path / "lms.csv", header + "\n".join(lines))
    table = webmushra.read_results(study, [file])
    assert list(zip(table["listener"], table["value"], strict=True)) == [(0, 1), (0, 1), (1, 5), (1, 5)]
    assert table["page_s"].isna().all()


def test_results_of_nobody_are_an_empty_table(study: Study, tmp_path: Path) -> None:
    nobody = LMS[: LMS.index("\n") + 1]
    unrated = nobody + 't,x,FIRST-ovl," NA ",C1,10\n'
    for text in (nobody, unrated):
        table = webmushra.read_results(study, [written(study, tmp_path / "lms.csv", text)])
        assert list(table.columns) == columns(study)
        assert len(table) == 0


HEAD = "session_test_id,code,trial_id,stimuli_rating,stimuli,rating_time\n"
SCORES = MUSHRA.splitlines(keepends=True)[0]
GOOD = 't,x,FIRST-ovl," 1 ",C1,10\n'


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "empty; give webMUSHRA's lms.csv or mushra.csv"),
        ("listener,value\n0,1\n", 1, "no header of ratings by webMUSHRA"),
        ("session_test_id,code,trial_id,choice_answer,choice_time\n", 1, "no header of ratings by webMUSHRA"),
        (GOOD, 1, "no header of ratings by webMUSHRA"),
        (HEAD + GOOD + 't,x,0123-ovl," 1 ",C1,10\n', 3, "trial '0123-ovl' is not of this study"),
        (HEAD + 't,x,FIRST-abc," 1 ",C1,10\n', 2, "-abc' is not of this study"),
        (HEAD + 't,x,heard-0123," 1 ",C1,10\n', 2, "trial 'heard-0123' is not of this study"),
        (HEAD + 't,x,FIRST-ovl," 1 ",C5,10\n', 2, "stimulus 'C5' is not of this study"),
        (HEAD + 't,x,FIRST-ovl," 1 ",reference,10\n', 2, "stimulus 'reference' is not of this study"),
        (HEAD + GOOD + 't,x,FIRST-per," 6 ",C1,10\n', 3, "stimuli_rating '6' is not 1 to 5; mend or delete the line"),
        (HEAD + 't,x,FIRST-ovl," 0 ",C1,10\n', 2, "stimuli_rating '0' is not 1 to 5"),
        (HEAD + "t,x,FIRST-ovl,good\tone,C1,10\n", 2, r"stimuli_rating 'good\tone' is not 1 to 5"),
        (HEAD + f't,"a\nb\nc",FIRST-ovl,1,C1,10\n{GOOD}t,"d\ne",FIRST-ovl,9,C1,10\n', 6, "'9' is not 1 to 5"),
        (HEAD + 't,x,FIRST-ovl," 1 ",C1,soon\n', 2, "rating_time 'soon' is no milliseconds from 0"),
        (HEAD + 't,x,FIRST-ovl," 1 ",C1,-1\n', 2, "rating_time '-1' is no milliseconds from 0"),
        (HEAD + 't,x,FIRST-ovl," 1 ",C1,inf\n', 2, "rating_time 'inf' is no milliseconds from 0"),
        (HEAD + GOOD + "t,x,FIR", 3, "3 fields in place of 6; copy the file again"),
        (HEAD + 't,x,y,FIRST-ovl," 1 ",C1,10\n', 2, "7 fields in place of 6; copy the file again"),
        (SCORES + "t,x,u,FIRST-ovl,C1,101,10,\n", 2, "rating_score '101' is not 0 to 100; mend or delete the line"),
        (SCORES + "t,x,u,FIRST-ovl,C1,-1,10,\n", 2, "rating_score '-1' is not 0 to 100"),
        (SCORES + "t,x,u,FIRST-ovl,C1,nan,10,\n", 2, "rating_score 'nan' is not 0 to 100"),
        (SCORES + "t,x,u,FIRST-ovl,codec,50,10,\n", 2, "stimulus 'codec' is not of this study"),
    ],
)
def test_a_line_that_cannot_be_is_named_with_its_file(
    study: Study, tmp_path: Path, text: str, line: int, told: str
) -> None:
    file = written(study, tmp_path / "some results.csv", text)
    with pytest.raises(BlendbenchError) as error:
        webmushra.read_results(study, [file])
    message = str(error.value)
    assert message.startswith(f"{file}:{line}: ")
    assert told in message
    assert "\n" not in message


def test_files_that_are_no_text_and_files_that_are_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(BlendbenchError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        webmushra.read_results(study, [tmp_path / "none.csv"])
    with pytest.raises(BlendbenchError, match=r": cannot be read \(Is a directory\)"):
        webmushra.read_results(study, [tmp_path])
    sound = study.clip_file(study.volume.name)
    with pytest.raises(BlendbenchError) as error:
        webmushra.read_results(study, [sound])
    assert str(error.value).startswith(f"{sound}:1: no result of webMUSHRA (")
    assert "\n" not in str(error.value)
