"""The report's folder: what its files say, and what a real browser makes of them."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image
from support import runs
from support.worlds import rows_of

from blendbench.reports.hiding import Hide
from blendbench.reports.page import write as write_page
from blendbench.runs import KEY
from blendbench.runs.folder import Run, read_settings

ARMS = ["noise_only", "random_music", "musicgen_melody", "riffusion_a2a", "bnmusic"]
LABELS = ["wind", "engine", "<script>alert(1)</script>", "wind", "engine", "wind", "engine", "rain"]
GENRES = ["Jazz", "Rock", "Rock", "Pop", "Jazz", "Rock", "Pop", "Jazz"]
PAIRS = [f"pair-{number}" for number in range(8)]
REASON = "<script>document.title = 'bad'</script> {place}/audio/cut.wav: truncated; get the file again"
METRICS = ["kl", "clap", "mystery"]
"""Lower is better, higher is better, not known."""


def data_of(run_dir: Path) -> dict[str, Any]:
    """What `data.js` assigns."""
    text = (run_dir / "report" / "data.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const REPORT = ").rstrip(";\n"))


def synthesise(finished: Path, run_dir: Path) -> None:
    """A run of eight pairs, which share the sounds of two: one of another data set, one failed in an arm; scores."""
    shutil.copytree(finished, run_dir, ignore=shutil.ignore_patterns("report"))
    by_pair: dict[str, list[dict]] = {}
    for row in rows_of(finished):
        by_pair.setdefault(row["pair_id"], []).append(row)
    sources, rows, values = list(by_pair.values()), [], []
    draw = np.random.default_rng(0)
    for number, (pair, label, genre) in enumerate(zip(PAIRS, LABELS, GENRES, strict=True)):
        for source in sources[number % 2]:
            row = source | {"pair_id": pair, "label": label, "genre": genre}
            row |= {"dataset": "other"} if number == 7 else {}
            if number == 2:
                row["prompt"] = "<img src=x onerror=alert(2)> & 'quotes\""
            if number == 3 and row["arm"] == "bnmusic":
                row = {name: row[name] for name in list(row)[: list(row).index("status")]}
                row |= {"status": "failed", "reason": REASON.format(place=finished.parent)}
            rows.append(row)
            values.append(draw.normal(size=len(METRICS)) if row["status"] == "ok" else [math.nan] * len(METRICS))
    scores = runs.scores(rows, **dict(zip(METRICS, zip(*values, strict=True), strict=True)))
    # Another order than the run's: pairs are found by their key.
    runs.write(run_dir, rows, scores=scores[::-1])
    (run_dir / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (900, 300), "white").save(run_dir / "figures" / "fig 4 & more.png")
    (run_dir / "figures" / "fig 4 & more.csv").write_text("a\n1\n")


@pytest.fixture(scope="module")
def run_dir(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic run with its report. Tests must not change it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    synthesise(finished, folder)
    write_page(Run.open(folder))
    return folder


@pytest.fixture(scope="module")
def scores(run_dir: Path) -> pd.DataFrame:
    return pd.read_csv(run_dir / "scores.csv")


# Without a browser


def test_folder_holds_the_page_and_exactly_the_files_it_refers_to(run_dir):
    folder = run_dir / "report"
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    pairs = data_of(run_dir)["pairs"]
    players = [player for pair in pairs for player in pair["shared"].values()]
    players += [player for pair in pairs for line in pair["sounds"] for cell in line for player in cell.values()]
    named = {player[kind] for player in players for kind in ("src", "image")}
    inside = {name for name in named if not name.startswith("../")}
    assert there == inside | {"index.html", "report.css", "report.js", "data.js"}
    assert {name.partition("/")[0] for name in inside} == {"audio", "images"}
    for name in named - inside:
        assert (folder / name).is_file()


def test_music_is_written_once_an_arm_and_noise_once_a_pair(run_dir):
    # Seven pairs have their noise; noise alone has no music, and one arm of one pair failed.
    assert len(list((run_dir / "report" / "audio").glob("*.flac"))) == 7 * (1 + 4) - 1


def test_noise_and_music_add_up_to_every_mix_at_the_levels_played(run_dir):
    data, folder, seen = data_of(run_dir), run_dir / "report", 0
    for pair in data["pairs"][:2]:
        noise = heard(folder, pair["shared"]["noise"])
        for line in pair["sounds"]:
            for arm, cell in zip(ARMS, line, strict=True):
                music = heard(folder, cell["music"]) if "music" in cell else 0.0
                assert ("music" in cell) == (arm != "noise_only")
                np.testing.assert_allclose(noise + music, heard(folder, cell["mix"]), atol=1e-4)
                seen += 1
    assert seen == 2 * 5 * 2


def heard(folder: Path, player: dict[str, Any]) -> np.ndarray:
    assert 0 < player["volume"] <= 1
    wave, rate = soundfile.read(folder / player["src"])
    assert (rate, len(wave)) == (44_100, 5 * 44_100)
    assert np.abs(wave).max() <= (1 if "mixes" in player["src"] else 0.99)
    return wave * player["volume"]


def test_images_are_small_and_show_the_noise_of_a_mix_without_music(run_dir):
    pair = data_of(run_dir)["pairs"][0]
    for cell in pair["sounds"][0]:
        for player in cell.values():
            with Image.open(run_dir / "report" / player["image"]) as image:
                assert image.width in (255, 256)
                assert image.height == 192
                assert (run_dir / "report" / player["image"]).stat().st_size < 60_000
    assert pair["sounds"][0][0]["mix"]["image"] == pair["shared"]["noise"]["image"]


def test_sizes_are_those_of_a_page(run_dir):
    folder = run_dir / "report"
    assert (folder / "index.html").stat().st_size < 200_000
    assert (folder / "data.js").stat().st_size < 100_000
    for file in (folder / "audio").iterdir():
        assert soundfile.info(file).subtype == "PCM_16"
        assert 1_000 < file.stat().st_size < 2 * 5 * 44_100


def test_no_file_names_a_place_on_this_machine_or_in_the_net(run_dir, world, finished):
    places = {str(world.root.parent), str(finished.parent), str(run_dir.parent), str(Path.cwd()), str(Path.home())}
    for file in (run_dir / "report").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for place in places:
                assert place.encode() not in content, file
    for name in ("index.html", "report.css", "report.js"):
        text = (run_dir / "report" / name).read_text(encoding="utf-8")
        assert "http:" not in text
        assert "https:" not in text
        assert 'src="//' not in text


def test_reasons_keep_the_names_of_files(run_dir):
    page = (run_dir / "report" / "index.html").read_text(encoding="utf-8")
    assert "…/cut.wav: truncated; get the file again" in page


def test_a_path_is_cut_wherever_it_stands(tmp_path):
    hide = Hide(tmp_path / "a run", {"data": {"root": "/mnt/my data"}, "x": ["/opt/models/tiny"]})
    assert hide("root: /mnt/my data") == "root: …/my data"
    assert hide("(/srv/some/where.wav: bad)") == "(…/where.wav: bad)"
    assert hide(f"'{tmp_path}/a run/mixes/a.flac'") == "'…/a run/mixes/a.flac'"
    assert hide("and/or 1/2 FAD / KL mixes/a/b.flac") == "and/or 1/2 FAD / KL mixes/a/b.flac"


def test_page_holds_the_table_with_its_best_in_bold_and_the_notes(finished):
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    markdown = (finished / "table.md").read_text(encoding="utf-8")
    assert page.count('class="best"') == markdown.count("**") // 2 > 0
    assert "compare orderings" in page
    assert "Kendall" in page


def test_writing_again_leaves_the_sounds_alone_and_takes_stale_ones_away(run_dir, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    sounds = again / "report" / "audio"

    def times() -> dict[Path, int]:
        # What lacks its noise is tried again every time.
        files = (file for file in sorted((again / "report").glob("*/*")) if not file.name.startswith("other--"))
        return {file: file.stat().st_mtime_ns for file in files}

    before = times()
    page, data = ((again / "report" / name).read_bytes() for name in ("index.html", "data.js"))
    (sounds / "old.flac").write_bytes(b"old")
    write_page(Run.open(again))
    assert times() == before
    assert (again / "report" / "index.html").read_bytes() == page
    assert (again / "report" / "data.js").read_bytes() == data
    # A file that went is made again; so is everything where the data cannot be read.
    lost = next(iter(before))
    lost.unlink()
    (again / "report" / "data.js").write_text("const REPORT = nonsense", encoding="utf-8")
    write_page(Run.open(again))
    assert lost.stat().st_size > 0
    assert (again / "report" / "data.js").read_bytes() == data


def test_pairs_beyond_the_first_are_the_best_median_and_worst(run_dir, scores, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    runs.write(tmp_path / "run", scores=scores[[*KEY, *runs.FACTS, "clap"]])
    run = Run.open(tmp_path / "run")
    write_page(run, most=1)
    data = data_of(tmp_path / "run")
    shown = [pair["pair_id"] for pair in data["pairs"]]
    assert shown[0] == "pair-0"
    assert len(shown) == 3
    # There is room for two more pairs: the best and the median of the first presentation's first arm.
    cell = scores[(scores.presentation == next(iter(run.presentations))) & (scores.arm == ARMS[0])]
    ranked = cell.sort_values("clap", ascending=False).pair_id.tolist()
    expected = [pair for pair in (ranked[0], ranked[3], ranked[7]) if pair != "pair-0"][:2]
    assert set(shown[1:]) == set(expected)
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "3 of 8 pairs: the first 1 in the run's order" in page.replace("&#39;", "'")
    # A best pair that found no room gives way to the best on the page.
    assert all(0 <= place < 3 for line in data["cases"] for arm in line for three in arm for place in three)


def test_run_without_its_noises_shows_the_mixes_alone_and_says_so(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    settings = read_settings(tmp_path / "run")
    settings["data"]["root"] = settings["store_dir"] = str(tmp_path / "gone")
    settings["dataset"]["esc50"]["root"] = str(tmp_path / "gone")
    write_page(Run(tmp_path / "run", settings))
    for pair in data_of(tmp_path / "run")["pairs"]:
        assert "no longer where the run read it" in pair["note"]
        assert pair["shared"] == {}
        assert all(set(cell) == {"mix"} for line in pair["sounds"] for cell in line)
    assert not (tmp_path / "run" / "report" / "audio").exists()
    assert not (tmp_path / "gone").exists()


def test_noise_that_has_changed_is_not_taken_for_the_runs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    rows = [row | {"inputs": "0000000000000000-0"} for row in rows_of(finished)]
    runs.write(tmp_path / "run", rows)
    write_page(Run.open(tmp_path / "run"))
    assert all(pair["shared"] == {} and pair["note"] for pair in data_of(tmp_path / "run")["pairs"])


def test_older_run_without_scores_and_comparisons_has_a_page(finished, tmp_path):
    missing = ("report", "scores.csv", "comparisons.csv")
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(*missing))
    page = write_page(Run.open(tmp_path / "run")).read_text(encoding="utf-8")
    assert "Comparisons" not in page
    data = data_of(tmp_path / "run")
    assert [measure["name"] for measure in data["measures"]] == ["gain_db"]
    assert len(data["pairs"]) == 2


def test_missing_mixes_are_told(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report", "mixes"))
    write_page(Run.open(tmp_path / "run"))
    assert all("Mixes are missing" in pair["note"] for pair in data_of(tmp_path / "run")["pairs"])


# In a browser


@pytest.fixture(scope="module")
def browser(chromium: Callable[..., Any]) -> Any:
    """A browser that may play at once."""
    return chromium("--autoplay-policy=no-user-gesture-required")


class Visit:
    """A page with what went wrong on it and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.problems.append("dialog"), dialog.dismiss()))
        page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url} {request.failure}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, run_dir: Path) -> Any:
        self.page.goto((run_dir / "report" / "index.html").as_uri())
        self.page.wait_for_selector(".pair")
        return self.page


@pytest.fixture
def visit(browser) -> Iterator[Visit]:
    """A fresh page at 1400 x 900; fails where a test left an error in its console or asked the net."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(20_000)
    seen = Visit(context.new_page())
    yield seen
    context.close()
    # What is still loading when a page goes is given up, which is no problem of the page.
    assert [one for one in seen.problems if "ERR_ABORTED" not in one] == []
    assert all(url.startswith("file:") for url in seen.requests)


@pytest.fixture
def page(visit, run_dir):
    return visit.open(run_dir)


def shown(page) -> list[str]:
    return page.eval_on_selector_all(".pair", "pairs => pairs.map(pair => pair.dataset.pair)")


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def play(page, kind: str, pair: str, arm: str = "") -> Any:
    """Start a player of a pair; returns its audio element once it has moved."""
    label = f"Play {kind}, {arm}" if arm else f"Play {kind}, "
    box = page.locator(f'.pair[data-pair="{pair}"] .player', has=page.locator(f'button[aria-label^="{label}"]'))
    box.locator("button").click()
    audio = box.locator("audio").element_handle()
    page.wait_for_function("audio => !audio.paused && audio.currentTime > 0.15", arg=audio)
    return audio


def test_page_opens_from_disk_without_errors_or_requests_elsewhere(page, visit):
    assert shown(page) == PAIRS
    assert page.title() == "BNMusic, Table 1"
    assert len(visit.requests) > 4
    # Nothing is heard before it is asked for.
    assert not any(url.endswith(".flac") for url in visit.requests)


@pytest.mark.parametrize(("kind", "arm"), [("noise", ""), ("music", "BNMusic"), ("mix", "Riffusion A2A")])
def test_players_play(page, kind, arm):
    audio = play(page, kind, "pair-0", arm)
    before = audio.evaluate("audio => audio.currentTime")
    page.wait_for_function("([audio, before]) => audio.currentTime > before + 0.2", arg=[audio, before])
    assert audio.evaluate("audio => audio.duration") == pytest.approx(5.0, abs=0.05)
    assert 0 < audio.evaluate("audio => audio.volume") <= 1


def test_starting_a_player_stops_the_one_before(page):
    first = play(page, "noise", "pair-0")
    second = play(page, "mix", "pair-1", "BNMusic")
    assert first.evaluate("audio => audio.paused")
    assert not second.evaluate("audio => audio.paused")
    assert page.locator(".playing").count() == 1
    # Leaving the pair out of sight stops it, too.
    page.select_option("#by-label", "rain")
    page.wait_for_function("audio => audio.paused", arg=second)


def test_click_on_an_image_plays_from_there(page):
    box = page.locator(".pair .player").first
    picture = box.locator(".picture")
    size = picture.bounding_box()
    audio = box.locator("audio").element_handle()
    audio.evaluate(
        "audio => audio.addEventListener('playing', () => (window.first = audio.currentTime), { once: true })"
    )
    picture.click(position={"x": size["width"] * 0.2, "y": 20})
    page.wait_for_function("audio => !audio.paused && audio.currentTime > 1.05", arg=audio)
    assert page.evaluate("first") == pytest.approx(1, abs=0.2)
    box.locator("button").click()
    at = audio.evaluate("audio => audio.currentTime")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("audio => !audio.seeking", arg=audio)
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(at - 0.5, abs=0.05)


@pytest.mark.parametrize(
    ("metric", "name", "best_is_low"),
    [("kl", "KL (nat)", True), ("clap", "CLAP (cosine)", False), ("mystery", "mystery", True)],
)
def test_order_by_a_metric_is_that_of_the_scores(page, scores, metric, name, best_is_low):
    page.select_option("#measure", label=name)
    for arm, label in (("random_music", "Random music"), ("bnmusic", "BNMusic")):
        page.select_option("#arm", label=label)
        for order in ("best", "worst"):
            page.select_option("#order", order)
            cell = scores[(scores.arm == arm) & (scores.presentation == "loudness_normalized")]
            ranked = cell.sort_values(metric, ascending=best_is_low == (order == "best"), na_position="last")
            assert shown(page) == ranked.pair_id.tolist()
    page.select_option("#order", "run")
    assert shown(page) == PAIRS


def test_filters_show_exactly_their_rows(page):
    for label in dict.fromkeys(LABELS):
        page.select_option("#by-label", label)
        assert shown(page) == [pair for pair, one in zip(PAIRS, LABELS, strict=True) if one == label]
    page.select_option("#by-label", "wind")
    page.select_option("#by-genre", "Rock")
    assert shown(page) == ["pair-5"]
    page.select_option("#by-label", "")
    assert shown(page) == [pair for pair, genre in zip(PAIRS, GENRES, strict=True) if genre == "Rock"]
    page.select_option("#by-genre", "")
    page.select_option("#by-dataset", "other")
    assert shown(page) == ["pair-7"]
    page.select_option("#by-dataset", "")
    page.select_option("#by-status", "failed")
    assert shown(page) == ["pair-3"]
    page.select_option("#by-status", "ok")
    assert shown(page) == [pair for pair in PAIRS if pair != "pair-3"]
    page.select_option("#by-status", "")
    page.fill("#by-text", "TRUNCATED")
    assert shown(page) == ["pair-3"]
    page.fill("#by-text", "no such words")
    assert shown(page) == []
    assert "No such pairs" in page.inner_text("#panel")
    assert page.inner_text("#count") == "0 of 8 pairs"


def test_buttons_show_the_best_median_and_worst_of_the_run(page, scores):
    page.select_option("#by-label", "rain")
    page.select_option("#arm", label="BNMusic")
    for metric, label, better in (("kl", "KL (nat)", True), ("clap", "CLAP (cosine)", False)):
        page.select_option("#measure", label=label)
        cell = scores[(scores.arm == "bnmusic") & (scores.presentation == "loudness_normalized")].dropna(subset=metric)
        ranked = cell.sort_values(metric, ascending=better).pair_id.tolist()
        for name, place in (("Best", 0), ("Median", 3), ("Worst", 6)):
            button(page, name).click()
            assert shown(page) == [ranked[place]]
            assert button(page, name).get_attribute("aria-pressed") == "true"
            assert page.locator(".chosen").count() == 1
    page.select_option("#measure", label="mystery")
    assert button(page, "Lowest").is_visible()
    button(page, "All pairs").click()
    assert shown(page) == PAIRS


def test_tabs_switch_the_presentation(page, run_dir):
    cells = data_of(run_dir)["pairs"][0]["sounds"]
    for place, name in ((1, "Direct"), (0, "Loudness normalised")):
        tab = page.get_by_role("tab", name=name)
        tab.click()
        assert tab.get_attribute("aria-selected") == "true"
        assert page.locator('[role=tab][aria-selected="true"]').count() == 1
        sources = page.eval_on_selector_all(
            '.pair[data-pair="pair-0"] audio', "all => all.map(a => a.getAttribute('src'))"
        )
        expected = [cell[kind]["src"] for cell in cells[place] for kind in ("music", "mix") if kind in cell]
        assert sources[1:] == expected


def test_failed_rows_tell_their_reasons(page):
    pair = page.locator('.pair[data-pair="pair-3"]')
    assert "…/cut.wav: truncated; get the file again" in pair.locator(".failure").inner_text()
    assert pair.locator(".failure .player").count() == 0
    assert pair.locator(".player").count() == 1 + 1 + 3 * 2
    missing = page.locator('.pair[data-pair="pair-7"]')
    assert "no longer where the run read it" in missing.inner_text()
    assert missing.locator(".player").count() == 5


def test_markup_in_the_data_stays_text(page):
    assert page.title() == "BNMusic, Table 1"
    assert "<script>document.title = 'bad'</script>" in page.locator('.pair[data-pair="pair-3"]').inner_text()
    pair = page.locator('.pair[data-pair="pair-2"]')
    assert pair.locator("h3").inner_text() == "<script>alert(1)</script>"
    assert "<img src=x onerror=alert(2)> & 'quotes\"" in pair.inner_text()
    assert page.locator("body script").count() == 0
    assert page.locator("img[onerror]").count() == 0


def test_policy_forbids_inline_scripts(browser, run_dir):
    """In a page of its own, as the forbidden script is told in the console."""
    context = browser.new_context()
    visit = Visit(context.new_page())
    page = visit.open(run_dir)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'inline'";
        document.body.append(script);
    }""")
    assert page.title() != "inline"
    assert any("Content Security Policy" in one for one in visit.problems)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_cut_off(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    page.locator("#figures img").first.scroll_into_view_if_needed()
    for element in ("document.documentElement", "document.body"):
        assert page.evaluate(f"{element}.scrollWidth <= {element}.clientWidth")
    outside = page.eval_on_selector_all(
        ".pair .player, .tools select, .tools button, .tools input",
        "all => all.filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth).length",
    )
    assert outside == 0
    if width == 1400:
        tops = page.eval_on_selector_all(
            '.pair[data-pair="pair-0"] .arm', "all => all.map(one => one.getBoundingClientRect().top)"
        )
        assert len(tops) == 6
        assert len(set(tops)) == 1
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_whole_run_can_be_moved(visit, run_dir, tmp_path):
    elsewhere = tmp_path / "Übung 夏 #1 & 100 %?"
    shutil.copytree(run_dir, tmp_path / "copy")
    elsewhere.mkdir()
    shutil.move(tmp_path / "copy", elsewhere / "the run")
    page = visit.open(elsewhere / "the run")
    for kind, arm in (("noise", ""), ("mix", "Noise only")):
        play(page, kind, "pair-0", arm)
    images = page.locator("#figures img, .pair:first-of-type img")
    page.wait_for_function(
        "all => [...document.querySelectorAll(all)].every(one => one.complete && one.naturalWidth > 0)",
        arg="#figures img, .pair:first-of-type img",
    )
    assert images.count() > 10


def test_keyboard_reaches_and_works_every_kind_of_control(page):
    def tab_to(condition: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"(one => {condition})(document.activeElement)"):
                return
        raise AssertionError(f"not reached by Tab: {condition}")

    tab_to("one.tagName === 'BUTTON'")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    assert page.locator('[role=tab][aria-selected="true"]').inner_text() == "Direct"
    page.keyboard.press("ArrowLeft")
    tab_to("one.textContent === 'Best'")
    page.keyboard.press("Enter")
    assert len(shown(page)) == 1
    tab_to("one.classList.contains('play')")
    page.keyboard.press("Enter")
    page.wait_for_function("() => [...document.querySelectorAll('audio')].some(one => one.currentTime > 0.1)")
    page.keyboard.press("Enter")
    assert page.evaluate("[...document.querySelectorAll('audio')].every(one => one.paused)")


def test_without_scripts_the_mixes_and_reasons_are_there(browser, run_dir):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run_dir / "report" / "index.html").as_uri())
    assert page.locator("noscript audio").count() == 8 * 5 * 2 - 2
    assert page.locator("noscript .failed").all_inner_texts() == [REASON.format(place="…").replace("…/audio", "…")] * 2
    context.close()
