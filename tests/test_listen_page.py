"""The listeners' page in a real browser, served by the real command: every step, by pointer and by keyboard."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from support.listeners import Served, plan, to_pages

from blendbench.listening import study
from blendbench.listening.answers import Answers

TITLE = "Music <b>over</b> noise"
LOW = "<img src=x onerror=alert(1)> least"
SCALES = {"ovl": "OVL (Overall)", "per": "Perceptibility"}
CLIP_S = {"practice": 0.6, "sample": 0.6, "catch": 1.3}
"""Longer than the second for which a clip has to be heard, and shorter."""
PLACES = "ABCD"


@pytest.fixture(scope="module")
def served(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A study of a sample, a practice page and a catch trial, whose sounds are cut so that listening is quick."""
    words = ("samples=1", "listeners=18", "headphone_check.trials=2", f"title='{TITLE}'", f"scales.ovl.low='{LOW}'")
    run_dir = plan(finished, tmp_path_factory.mktemp("listen") / "run", *words)
    found = study.read(run_dir)
    assert found is not None
    seconds = {clip.name: 0.3 for clip, _ in found.checks}
    for one in found.samples:
        seconds |= {clip.name: CLIP_S[one.kind] for clip in one.sounds}
    for name, length in seconds.items():
        sound, rate = soundfile.read(found.clip_file(name))
        soundfile.write(found.clip_file(name), sound[: round(length * rate)], rate, "PCM_16")
    with Served(run_dir) as running:
        yield running


@pytest.fixture(scope="module")
def browser(chromium: Callable[..., Any]) -> Any:
    """A browser in which sound needs a gesture."""
    return chromium("--autoplay-policy=document-user-activation-required")


class Visit:
    """A browser of its own, what went wrong in it and what it asked for."""

    def __init__(self, browser: Any, served: Served, **options: Any) -> None:
        self.served = served
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(20_000)
        self.page = self.new_page()

    def new_page(self) -> Any:
        page = self.context.new_page()
        page.on(
            "console", lambda message: self.problems.append(f"{message.type}: {message.text} {message.location['url']}")
        )
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    def open(self, listener: int, heading: str) -> Any:
        """The listener's page, once it shows a heading."""
        self.page.goto(self.served.link(listener))
        at(self.page, heading)
        return self.page


@pytest.fixture
def visitor(browser, served) -> Iterator[Callable[..., Visit]]:
    """Makes visits; fails where one left an error in its console or asked another server."""
    made = []

    def make(**options: Any) -> Visit:
        made.append(Visit(browser, served, **options))
        return made[-1]

    yield make
    for visit in made:
        visit.context.close()
        assert visit.problems == []
        assert all(url.startswith(f"http://127.0.0.1:{served.port}/") for url in visit.requests)


@pytest.fixture
def visit(visitor) -> Visit:
    return visitor()


def at(page: Any, heading: str) -> None:
    page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def choice(page: Any, place: str, scale: str, value: int) -> Any:
    group = page.get_by_role("group", name=f"Clip {place}, {SCALES[scale]}", exact=True)
    return group.get_by_role("radio").nth(value - 1)


def until(page: Any, selector: str) -> None:
    """Wait for an element, looking at every frame."""
    page.wait_for_function("selector => document.querySelector(selector)", arg=selector)


def hear_noise(page: Any) -> None:
    """Play the noise until the clips open."""
    button(page, "Play noise alone").click()
    until(page, ".clip button:enabled")


def rate(page: Any, place: str, values: dict[str, int]) -> None:
    """Play a clip and rate it as soon as that is possible."""
    button(page, f"Play clip {place}").click()
    until(page, f'fieldset:enabled [name^="{place} "]')
    for scale, value in values.items():
        choice(page, place, scale, value).check()


def is_saved(page: Any) -> None:
    page.get_by_text("✓ All ratings saved").wait_for()


def shown(page: Any) -> dict[str, dict[str, int]]:
    """Ratings as the page shows them."""
    found: dict[str, dict[str, int]] = {}
    for one in page.query_selector_all(".clip input:checked"):
        place, scale = one.get_attribute("name").split()
        found.setdefault(place, {})[scale] = int(one.get_attribute("value"))
    return found


def exported(served: Served, listener: int) -> pd.DataFrame:
    """A listener's rows of the study's export."""
    answers = Answers(planned(served))
    frame = answers.export()
    answers.close()
    return frame[frame["listener"] == listener]


def planned(served: Served) -> study.Study:
    found = study.read(served.run_dir)
    assert found is not None
    return found


def kept(served: Served, listener: int) -> dict[int, dict[str, dict[str, int]]]:
    """Ratings in the database, by page, position and scale."""
    out: dict[int, dict[str, dict[str, int]]] = {}
    for row in exported(served, listener).to_dict("records"):
        out.setdefault(row["page"], {}).setdefault(row["position"], {})[row["scale"]] = row["value"]
    return out


HEAR = """async () => {
    const until = async (selector) => {
        while (!document.querySelector(selector)) await new Promise(requestAnimationFrame);
        return performance.now() / 1000;
    };
    await until("#first .play:enabled");
    const began = performance.now() / 1000;
    document.querySelector("#first .play").click();
    return await until(".clip button:enabled") - began;
}"""
"""Plays the noise; returns the seconds until the clips open."""


def test_whole_study_is_gone_through_and_kept_as_given(visit, served):
    page, draw = visit.open(0, "Before you begin"), random.Random(0)
    found = planned(served)
    button(page, "Take part").click()
    assert served.get(0)["step"] == "consent"  # the box is not ticked
    page.get_by_role("checkbox").check()
    button(page, "Take part").click()
    at(page, "Set the volume")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    button(page, "Continue").click(force=True)
    assert page.locator(".missing").inner_text() == "First play the sound."
    button(page, "Play the sound").click()
    until(page, ".missing:empty")
    button(page, "Continue").click()
    # The first attempt at the headphone check fails.
    for wrong in (1, 0):
        for trial, (_, quietest) in enumerate(found.checks):
            at(page, f"Headphone check, {trial + 1} of 2")
            assert page.get_by_text("please try once more").is_visible() == (not wrong)
            assert page.get_by_role("radio").first.is_disabled()
            button(page, "Play the three tones").click()
            until(page, "fieldset:enabled")
            page.get_by_role("radio").nth((quietest - 1 + wrong) % 3).check()
            button(page, "Next").click()
            page.wait_for_function("last => document.querySelector('h1').textContent !== last",
                                   arg=f"Headphone check, {trial + 1} of 2")  # fmt: skip
    given: dict[int, dict[str, dict[str, int]]] = {}
    for one in found.pages(0):
        at(page, f"Page {one.index + 1} of 3")
        assert page.get_by_text("this page does not count").is_visible() == (one.index == 0)
        assert page.evaluate("document.querySelector('progress').position") == one.index / 3
        assert shown(page) == {}
        assert page.evaluate(HEAR) > 0.9 * CLIP_S[one.sample.kind]
        given[one.index] = {place: {scale: draw.randint(1, 5) for scale in SCALES} for place in PLACES}
        for place, values in given[one.index].items():
            assert choice(page, place, "ovl", 1).is_disabled()
            rate(page, place, values)
        button(page, "Next").click()
    at(page, "Finished")
    assert page.get_by_text("Thank you.").is_visible()
    assert kept(served, 0) == given
    assert page.evaluate("Object.keys(localStorage)") == []
    mine = exported(served, 0)
    assert set(mine["kind"]) == {"practice", "sample", "catch"}
    assert set(mine["plays"]) == {1}
    for kind, seconds in CLIP_S.items():
        least = 0.95 * seconds + len(PLACES) * min(1, seconds)
        assert mine.loc[mine["kind"] == kind, "page_s"].between(least, 60).all()
    assert set(mine["changes"]) == {0}


def test_what_the_server_says_is_text(visit, served):
    to_pages(served, 1)
    page = visit.open(1, "Page 1 of 3")
    assert page.locator("header").inner_text().strip() == TITLE
    assert page.title() == f"Page 1 of 3 – {TITLE}"
    assert page.get_by_text(LOW, exact=True).count() == 4
    assert page.locator("header b, main img").count() == 0


def test_noise_comes_first_and_next_says_what_is_missing(visit, served):
    to_pages(served, 2)
    page = visit.open(2, "Page 1 of 3")
    said = page.locator("#said")
    until(page, ".play:enabled")
    assert page.locator(".clip button:enabled, .clip fieldset:enabled").count() == 0
    next_button = button(page, "Next")
    assert not next_button.is_enabled()
    next_button.click(force=True)
    page.wait_for_function("() => document.querySelector('#said').textContent.includes('noise alone')")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play noise alone"
    page.keyboard.press("b")  # a shortcut opens no other way
    assert page.locator('.clip [aria-pressed="true"]').count() == 0
    # A pause does not count as hearing, what was heard before it does.
    page.evaluate("""async () => {
        const noise = document.querySelector(".play");
        noise.click();
        while (noise.getAttribute("aria-pressed") === "false") await new Promise(requestAnimationFrame);
        setTimeout(() => noise.click(), 100);
    }""")
    page.wait_for_timeout(1000)
    assert page.locator(".clip button:enabled").count() == 0
    hear_noise(page)
    page.wait_for_function("() => document.querySelector('#said').textContent.includes('rate the clips')")
    assert page.locator(".clip fieldset:enabled").count() == 0
    rate(page, "A", {"ovl": 2, "per": 5})
    rate(page, "C", {"ovl": 1})
    assert page.locator(".missing").inner_text() == "Still to rate: B, C (Perceptibility), D"
    next_button.click(force=True)
    page.wait_for_function("() => document.querySelector('#said').textContent.startsWith('Still to rate')")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play clip B"
    assert said.get_attribute("role") == "status"
    rate(page, "B", {"ovl": 3, "per": 3})
    rate(page, "D", {"ovl": 4, "per": 4})
    next_button.click(force=True)
    assert page.evaluate("document.activeElement.name") == "C per"
    assert served.get(2)["page"]["index"] == 0
    choice(page, "C", "per", 2).check()
    assert next_button.is_enabled()


def test_page_goes_on_after_a_reload_and_in_another_browser(visitor, served):
    to_pages(served, 3)
    first = visitor()
    page, given = first.open(3, "Page 1 of 3"), {"A": {"ovl": 4, "per": 2}, "C": {"ovl": 1}}
    hear_noise(page)
    for place, values in given.items():
        rate(page, place, values)
    choice(page, "A", "ovl", 5).check()
    given["A"]["ovl"] = 5
    is_saved(page)
    page.reload()
    at(page, "Page 1 of 3")
    assert shown(page) == given
    assert page.locator(".clip button:enabled, .clip fieldset:enabled").count() == 0
    first.context.close()

    page = visitor().open(3, "Page 1 of 3")
    assert shown(page) == given
    hear_noise(page)
    choice(page, "A", "per", 3).check()  # rated before, so it may be changed at once
    assert choice(page, "B", "ovl", 1).is_disabled()
    for place in "BCD":
        rate(page, place, {"ovl": 3, "per": 4})
    is_saved(page)
    # All is rated: nothing has to be heard again.
    page.reload()
    at(page, "Page 1 of 3")
    assert button(page, "Next").is_enabled()
    until(page, ".clip button:enabled")
    button(page, "Play clip B").click()
    until(page, '[aria-label="Play clip B"][aria-pressed="true"]')
    button(page, "Next").click()
    at(page, "Page 2 of 3")
    assert kept(served, 3)[0] == {"A": {"ovl": 5, "per": 3}} | {place: {"ovl": 3, "per": 4} for place in "BCD"}
    # Plays and time before the reload count, those in the other browser are not known here.
    frame = exported(served, 3)
    mine = frame[frame["scale"] == "ovl"].set_index("position")
    assert mine["plays"].to_dict() == {"A": 0, "B": 2, "C": 1, "D": 1}
    assert mine["page_s"].min() > 4 * 0.57


@pytest.mark.soak
def test_nothing_is_lost_while_the_server_is_away(visitor, served):
    to_pages(served, 4)
    visit = visitor()
    page = visit.open(4, "Page 1 of 3")
    hear_noise(page)
    rate(page, "A", {"ovl": 1, "per": 1})
    is_saved(page)
    served.stop()
    for place in PLACES:
        rate(page, place, {"ovl": 4, "per": 2})
    choice(page, "D", "per", 5).check()
    page.get_by_text("Not saved yet").wait_for()
    button(page, "Next").click()
    page.wait_for_timeout(700)
    at(page, "Page 1 of 3")
    page.close()
    served.start()

    # What was not sent before the window was closed is sent by the next one, in the order in which it was given.
    visit.page = visit.new_page()
    page = visit.open(4, "Page 1 of 3")
    given = {place: {"ovl": 4, "per": 2} for place in "ABC"} | {"D": {"ovl": 4, "per": 5}}
    assert shown(page) == given
    is_saved(page)
    assert kept(served, 4)[0] == given
    refused = [one for one in visit.problems if "ERR_CONNECTION_REFUSED" in one]
    assert refused
    visit.problems[:] = [one for one in visit.problems if one not in refused]

    # An answer of 503 is waited out with the same window; Next waits for the ratings before it.
    failures = ["rate"] * 2 + ["next"]

    def fail(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        if name in failures:
            failures.remove(name)
            route.fulfill(status=503, content_type="application/json", body='{"error": "the disk is full"}')
        else:
            route.continue_()

    page.route("**/rate", fail)
    page.route("**/next", fail)
    hear = page.locator(".clip fieldset:enabled").first
    hear.wait_for()
    choice(page, "B", "ovl", 1).check()
    button(page, "Next").click()
    at(page, "Page 2 of 3")
    assert failures == []
    assert kept(served, 4)[0] == given | {"B": {"ovl": 1, "per": 2}}
    visit.problems[:] = [one for one in visit.problems if "503" not in one]


def test_rating_that_was_under_way_when_the_state_was_asked_for_is_shown(visit, served):
    to_pages(served, 16)
    served.post(16, "rate", page=0, clip="A", scale="ovl", value=1, stamp=1)
    page, held, asked = visit.page, list[Any](), list[Any]()
    kept_here = {"page": 0, "clip": "A", "scale": "ovl", "value": 4, "stamp": 2}
    page.add_init_script(
        f"localStorage.setItem('blendbench /s/{served.tokens[16]}/ rating 2', {json.dumps(json.dumps(kept_here))})"
    )
    page.route("**/rate", lambda route: held.append(route))
    page.route("**/state", lambda route: asked.append((route, route.fetch())))
    page.goto(served.link(16))
    for _ in range(200):
        if held and asked:
            break
        page.wait_for_timeout(50)
    held[0].continue_()
    page.wait_for_function("() => Object.keys(localStorage).length === 0")
    asked[0][0].fulfill(response=asked[0][1])
    at(page, "Page 1 of 3")
    assert kept(served, 16)[0] == shown(page) == {"A": {"ovl": 4}}


def test_page_by_keyboard_alone(visit, served):
    to_pages(served, 5)
    page, keys = visit.open(5, "Page 1 of 3"), visit.page.keyboard
    until(page, ".play:enabled")

    def playing() -> list[str]:
        return page.eval_on_selector_all(
            '.play[aria-pressed="true"]', "all => all.map(one => one.getAttribute('aria-label'))"
        )

    def tab_to(label: str) -> None:
        found = "document.activeElement.name || document.activeElement.getAttribute('aria-label')"
        for _ in range(40):
            if page.evaluate(found) == label:
                return
            keys.press("Tab")
        raise AssertionError(f"not reached by Tab: {label}")

    keys.press("Space")
    until(page, '.play[aria-pressed="true"]')
    assert playing() == ["Play noise alone"]
    until(page, ".clip button:enabled")
    keys.press("Space")
    assert playing() == []
    given = {"A": {"ovl": 4, "per": 3}, "B": {"ovl": 2, "per": 5}, "C": {"ovl": 1, "per": 1}, "D": {"ovl": 5, "per": 2}}
    for place, values in given.items():
        if place == "D":
            tab_to("Play clip D")
            keys.press("Enter")
        else:
            keys.press(place.lower())
        until(page, f'.clip [aria-label="Play clip {place}"][aria-pressed="true"]')
        assert playing() == [f"Play clip {place}"]
        until(page, f'fieldset:enabled [name="{place} per"]')
        tab_to(f"{place} ovl")
        assert page.evaluate("getComputedStyle(document.activeElement.nextSibling).outlineStyle") == "solid"
        keys.press(str(values["ovl"]))
        tab_to(f"{place} per")
        keys.press("Space")  # chooses, and does not pause
        assert playing() == [f"Play clip {place}"]
        for _ in range(values["per"] - 1):
            keys.press("ArrowRight")
    assert shown(page) == given
    keys.press("0")
    until(page, '#first [aria-pressed="true"]')
    assert playing() == ["Play noise alone"]
    keys.press("Enter")  # on a choice
    at(page, "Page 2 of 3")
    assert kept(served, 5)[0] == given
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_single_keys_can_be_switched_off(visit, served):
    to_pages(served, 6)
    page = visit.open(6, "Page 1 of 3")
    until(page, ".play:enabled")
    page.get_by_text("Keyboard", exact=True).click()
    assert [one.inner_text() for one in page.query_selector_all("dd kbd, dt kbd")][:3] == ["Space", "0", "N"]
    page.get_by_role("switch").uncheck()
    for _ in range(2):
        page.locator("h1").focus()
        for key in ("n", "0", "Space"):
            page.keyboard.press(key)
        page.wait_for_timeout(200)
        assert page.locator('[aria-pressed="true"]').count() == 0
        page.reload()
        until(page, ".play:enabled")
        assert not page.locator("#single-keys").is_checked()


MIX = """async ([plan, seconds, sounds]) => {
    const { mixer } = await import("../../static/sounds.js");
    const rate = 44100, context = new OfflineAudioContext(1, Math.round(seconds * rate), rate), buffers = {};
    for (const [name, samples] of Object.entries(sounds)) {
        buffers[name] = context.createBuffer(1, samples.length, rate);
        buffers[name].copyToChannel(Float32Array.from(samples), 0);
    }
    const mixed = mixer(context, buffers);
    for (const [name, at] of plan) if (name) mixed.play(name, at); else mixed.pause(at);
    return Array.from((await context.startRendering()).getChannelData(0));
}"""
RATE, FADE = 44_100, 441


@pytest.fixture
def render(visit, served) -> Callable[..., np.ndarray]:
    """Renders what the page's own mixer makes of sounds and (name or None, time in seconds) pairs."""
    page = visit.open(7, "Before you begin")

    def mix(plan: list[tuple[str | None, float]], seconds: float, **sounds: np.ndarray) -> np.ndarray:
        return np.array(page.evaluate(MIX, [plan, seconds, {name: wave.tolist() for name, wave in sounds.items()}]))

    return mix


def test_switching_is_in_step_and_without_a_gap(render):
    """Between the same sound a switch changes no sample; between others levels are lines whose sum stays one."""
    length, start = 7001, 0.01
    wave = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    turns = [("a", start), ("b", 0.2), ("c", 0.3), ("a", 0.302), ("b", 0.304), ("a", 0.5)]
    heard = render(turns, 0.8, a=wave, b=wave, c=wave)
    first = round(start * RATE)
    there = np.arange(first + FADE, len(heard))
    # The loop's end is passed five times; no sample is missing, doubled or interpolated.
    assert len(there) > 4 * length
    np.testing.assert_allclose(heard[there], wave[(there - first) % length], atol=2e-6)
    np.testing.assert_allclose(
        heard[first : first + FADE], wave[:FADE] * np.arange(FADE) / FADE, atol=2e-6
    )  # the first one comes in along a line
    assert not heard[:first].any()

    # Of three sounds at the levels 1, 2 and 4 the output is exactly what the lines say, also in quick succession.
    ones = np.ones(length, np.float32)
    heard = render(turns, 0.8, a=ones, b=2 * ones, c=4 * ones)
    expected, level, free = np.zeros(len(heard)), 0.0, 0
    for name, time in turns:
        begin = max(round(time * RATE), free)
        free, target = begin + FADE, {"a": 1.0, "b": 2.0, "c": 4.0}[name]
        expected[begin:] = level + (target - level) * np.clip((np.arange(begin, len(heard)) - begin) / FADE, 0, 1)
        level = target
    np.testing.assert_allclose(heard, expected, atol=2e-5)
    assert np.abs(np.diff(heard)).max() < 3 / FADE + 1e-4
    assert heard[first + FADE :].min() > 1 - 1e-5


def test_pause_and_resume_go_on_in_the_loop_where_it_was(render):
    length = 5003
    wave = np.random.default_rng(1).uniform(-1, 1, length).astype(np.float32)
    heard = render([("a", 0.0), (None, 0.15), ("b", 0.4)], 0.6, a=np.zeros_like(wave), b=wave)
    paused, resumed = round(0.15 * RATE) + FADE, round(0.4 * RATE)
    there = np.arange(resumed + FADE, len(heard))
    np.testing.assert_allclose(heard[there], wave[(there - resumed + paused) % length], atol=2e-6)
    heard = render([("b", 0.0), (None, 0.15), ("b", 0.4)], 0.6, a=wave, b=wave)
    assert not heard[paused:resumed].any()
    np.testing.assert_allclose(
        heard[paused - FADE : paused], wave[np.arange(paused - FADE, paused) % length] * np.arange(FADE, 0, -1) / FADE,
        atol=2e-6,
    )  # fmt: skip


def test_names_that_a_screen_reader_tells(visit, served):
    to_pages(served, 8)
    page = visit.open(8, "Page 1 of 3")
    hear_noise(page)
    rate(page, "B", {"ovl": 4})
    tree = page.locator("body").aria_snapshot()
    for expected in (
        "- banner:",
        "- main:",
        "- contentinfo:",
        '- heading "Page 1 of 3" [level=1]',
        '- progressbar "Pages done"',
        '- region "First, the noise alone":',
        '- button "Play noise alone"',
        '- button "Play clip A"',
        '- button "Play clip B" [pressed]',
        '- group "Clip A, OVL (Overall)":',
        '- group "Clip D, Perceptibility":',
        '- radio "5, noise least perceptible"',
        '- radio "4" [checked]',
        '- button "Next" [disabled]',
        '- button "Withdraw from the study"',
    ):
        assert expected in tree, expected
    assert tree.count("[level=1]") == 1
    assert page.locator("html").get_attribute("lang") == "en"


def test_phone_needs_no_sideways_scrolling_and_has_large_targets(visitor, served):
    listener = 9
    visit = visitor(viewport={"width": 320, "height": 640}, reduced_motion="reduce")

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        small = page.eval_on_selector_all(
            "button, .choice, .tick, summary",
            """all => all.filter(one => one.checkVisibility())
                .map(one => [one.textContent, one.getBoundingClientRect()])
                .filter(([, box]) => box.width < 44 || box.height < 44 || box.left < 0 || box.right > 320)""",
        )
        assert small == []

    page = visit.open(listener, "Before you begin")
    fits()
    served.post(listener, "consent", agree=True)
    page = visit.open(listener, "Set the volume")
    fits()
    served.post(listener, "volume")
    page = visit.open(listener, "Headphone check, 1 of 2")
    fits()
    for trial, (_, answer) in enumerate(planned(served).checks):
        served.post(listener, "check", attempt=0, trial=trial, answer=answer)
    page = visit.open(listener, "Page 1 of 3")
    hear_noise(page)
    rate(page, "A", {"ovl": 5, "per": 1})
    page.get_by_text("Keyboard", exact=True).click()
    fits()
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


def test_declining_sends_nothing(visit, served):
    page = visit.open(11, "Before you begin")
    before = len(visit.requests)
    button(page, "Do not take part").click()
    at(page, "Goodbye")
    assert visit.requests[before:] == []
    assert served.get(11)["step"] == "consent"


def test_withdrawing_deletes_everything(visit, served):
    to_pages(served, 12)
    page = visit.open(12, "Page 1 of 3")
    hear_noise(page)
    rate(page, "A", {"ovl": 5, "per": 1})
    is_saved(page)
    assert kept(served, 12)
    button(page, "Withdraw from the study").click()
    dialog = page.get_by_role("dialog", name="Withdraw from the study?")
    assert "Everything you have answered is deleted" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert kept(served, 12)
    # Ratings that do not arrive hold nobody back.
    page.route("**/rate", lambda route: route.fulfill(status=503, body=""))
    choice(page, "A", "per", 2).check()
    page.locator(".trouble").wait_for()
    button(page, "Withdraw from the study").click()
    button(page, "Withdraw and delete").click()
    at(page, "You have withdrawn")
    assert kept(served, 12) == {}
    assert served.get(12)["step"] == "withdrawn"
    assert page.evaluate("Object.keys(localStorage)") == []
    page.close()  # which still tries to send
    visit.problems[:] = [one for one in visit.problems if "503" not in one]


def test_sound_that_does_not_come_can_be_tried_again(visit, served):
    to_pages(served, 13)
    page = visit.page
    page.route("**/clips/*.flac", lambda route: route.abort())
    visit.open(13, "Page 1 of 3")
    page.locator(".sound", has_text="A sound could not be loaded.").wait_for()
    page.unroute_all()
    page.route("**/clips/*.flac", lambda route: route.fulfill(body=b"fLaC, but not really", content_type="audio/flac"))
    button(page, "Try again").click()
    page.locator(".sound", has_text="This browser cannot decode a sound (FLAC)").wait_for()
    page.unroute_all()
    button(page, "Try again").click()
    hear_noise(page)
    assert all("net::ERR_FAILED" in one for one in visit.problems)
    visit.problems.clear()


def test_browsers_that_cannot_are_told_which_can(visit, browser, served):
    visit.page.add_init_script("delete window.AudioContext")
    page = visit.open(14, "Another browser is needed")
    assert page.get_by_text("Firefox, Chrome, Edge and Safari").is_visible()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.link(14))
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    context.close()


def test_window_that_was_overtaken_by_another_catches_up(visit, served):
    to_pages(served, 15)
    page = visit.open(15, "Page 1 of 3")
    hear_noise(page)
    button(page, "Play clip A").click()
    choice(page, "A", "ovl", 1).wait_for()
    until(page, ".clip fieldset:enabled")
    for place in PLACES:
        for scale in SCALES:
            served.post(15, "rate", page=0, clip=place, scale=scale, value=3, stamp=1)
    served.post(15, "next", page=0, seconds=9.0, plays={})
    choice(page, "A", "ovl", 1).click()
    at(page, "Page 2 of 3")
    assert kept(served, 15)[0]["A"] == {"ovl": 3, "per": 3}
    assert any("409" in one for one in visit.problems)
    visit.problems.clear()


def test_sound_that_does_not_start_is_told_of_and_starts_once(visit, served):
    """As in Firefox, which waits for a device to play on."""
    served.post(17, "consent", agree=True)
    served.post(17, "volume")
    visit.page.add_init_script("""
        const start = AudioBufferSourceNode.prototype.start;
        let connect;
        const connected = new Promise((resolve) => (connect = resolve));
        Object.assign(window, { connect, starts: 0 });
        AudioContext.prototype.resume = () => connected;
        Object.defineProperty(AudioContext.prototype, "state", { value: "suspended" });
        AudioBufferSourceNode.prototype.start = function (...at) { window.starts += 1; return start.apply(this, at); };
    """)
    page = visit.open(17, "Headphone check, 1 of 2")
    for _ in range(2):
        button(page, "Play the three tones").click()
    note = page.locator(".sound .note")
    note.get_by_text("The browser does not start the sound. Connect your headphones").wait_for()
    assert page.evaluate("starts") == 0
    page.evaluate("connect()")
    until(page, "fieldset:enabled")
    assert page.evaluate("starts") == 1
    assert note.inner_text() == ""


def test_page_works_below_a_prefix(visitor, served):
    """As behind a web server that serves the study at an address of its own."""
    visit, prefix = visitor(), f"http://127.0.0.1:{served.port}/lab/study"

    def pass_on(route: Any) -> None:
        there = route.request.url.replace("/lab/study", "", 1)
        route.fulfill(response=route.fetch(url=there))

    visit.page.route(f"{prefix}/**", pass_on)
    visit.page.goto(f"{prefix}/s/{served.tokens[11]}/")
    at(visit.page, "Before you begin")
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.primary')).fontWeight") == "600"
    assert all(url.startswith(prefix) for url in visit.requests)


def test_page_has_no_script_or_style_within_and_names_no_address():
    page = (Path(study.__file__).parent / "page" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\s(style|on\w+)=|https?:|=\"/", page)
    assert re.findall(r"<script.*?>", page) == ['<script type="module" src="../../static/listen.js">']


def test_link_that_the_server_does_not_know_can_be_tried_again(visit, served):
    visit.page.route("**/state", lambda route: route.fulfill(status=404, body="this link is not known\n"))
    page = visit.open(10, "That did not work")
    assert page.locator("#reason").inner_text() == "The server says: this link is not known"
    page.unroute_all()
    button(page, "Try again").click()
    at(page, "Before you begin")
    assert all("404" in one for one in visit.problems)
    visit.problems.clear()
