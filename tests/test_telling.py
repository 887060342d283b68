"""What a long command says while it works."""

import io
import re
import threading
import time
from contextlib import redirect_stderr

import pytest

from blendbench import telling


class _Heard(io.StringIO):
    """Standard error that is no terminal; `until` waits for a line that has some words."""

    def until(self, words: str) -> str:
        for _ in range(500):
            for line in self.getvalue().splitlines():
                if re.search(words, line):
                    return line
            time.sleep(0.01)
        raise AssertionError(f"{words!r} not said in:\n{self.getvalue()}")


def test_a_line_tells_stage_done_of_all_pace_and_time_left() -> None:
    with (
        redirect_stderr(_Heard()) as heard,
        telling.aloud(every=0.02),
        telling.stage("make", bar=False),
        telling.stage("bnmusic", 21, "pair") as told,
    ):
        heard.until(r"^\[0:00\] make: bnmusic, 0 of 21 pairs, for 0:0\d$")
        time.sleep(0.1)
        told.update(7)
        heard.until(r"^\[0:0\d\] make: bnmusic, 7 of 21 pairs, \d+\.\d pairs/s, about 0:0\d left$")


def test_one_long_step_speaks_again_and_again() -> None:
    with redirect_stderr(_Heard()) as heard, telling.aloud(every=0.02), telling.stage("load"):
        heard.until("load")
        time.sleep(0.3)
    assert len(heard.getvalue().splitlines()) >= 3


def test_quiet_says_nothing_and_neither_does_who_is_at_nothing() -> None:
    with redirect_stderr(_Heard()) as heard:
        with telling.aloud(quiet=True, every=0.01), telling.stage("load", 3, "part"):
            time.sleep(0.1)
        with telling.aloud(every=0.01):
            time.sleep(0.1)
    assert heard.getvalue() == ""


def test_a_terminal_gets_bars_in_place_of_lines() -> None:
    class Terminal(_Heard):
        def isatty(self) -> bool:
            return True

    with redirect_stderr(Terminal()) as heard:
        with telling.aloud(every=0.01), telling.stage("bnmusic", 2, "pair") as told:
            time.sleep(0.2)
            told.update()
        with telling.aloud(quiet=True), telling.stage("random_music", 2, "pair"):
            pass
    assert "bnmusic:  50%" in heard.getvalue() and "[0:00]" not in heard.getvalue()
    assert "random_music" not in heard.getvalue()


def test_bytes_are_told_in_megabytes() -> None:
    with telling.stage("vggish", 288_000_000, "B", done=100_000_000) as told:
        time.sleep(0.01)
        told.update(44_000_000)
        assert re.fullmatch(r"vggish, 144.0 of 288.0 MB, \d+\.\d MB/s, about 0:00 left", telling.now())
    assert telling.now() == ""


def test_what_others_do_is_asked_for() -> None:
    rows = [1, 2]
    with telling.stage("", 4, "row", done=lambda: len(rows)) as told:
        assert telling.now() == "2 of 4 rows, for 0:00"
        rows.append(3)
        told.look("1 failed, 2 at work")
        time.sleep(0.01)
        assert telling.now().startswith("3 of 4 rows, 1 failed, 2 at work, ")


def test_seconds_go_to_the_account_of_the_innermost_stage_that_has_one() -> None:
    telling.restart()
    with telling.stage("tabulate", kind="tabulate"):
        time.sleep(0.05)
        with telling.stage("mixes", kind="score"):
            time.sleep(0.1)
            with telling.stage("one of them"):
                time.sleep(0.1)
    found = telling.accounts()
    assert 0.05 <= found["tabulate"] < 0.15 and 0.2 <= found["score"] < 0.3
    telling.restart()
    assert sum(telling.accounts().values()) < 0.05


def test_other_threads_leave_the_process_s_stages_alone() -> None:
    def work() -> None:
        with telling.stage("within a thread", 3, "part") as told:
            told.update()
            said.append(telling.now())

    said: list[str] = []
    with telling.stage("report"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert said == ["report, for 0:00"]


def test_a_reader_who_has_gone_ends_the_lines_and_not_the_work() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with redirect_stderr(Gone()), telling.aloud(every=0.01), telling.stage("load"):
        time.sleep(0.1)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (61.4, "1:01"), (3723, "1:02:03"), (183723, "2 d 3:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert telling.clock(seconds) == text
