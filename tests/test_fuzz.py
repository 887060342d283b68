"""The rule of tests/support/fuzz.py under hypothesis: the same few hundred inputs every time.

Run `make fuzz` for more; what it finds becomes an entry of `tests/support/audio_corpus.py` or a test in
`tests/test_bad_data.py`.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import fuzz

from blendbench.errors import ClipError

FEW = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    fuzz.load()


@pytest.mark.parametrize("target", fuzz.TARGETS)
@FEW
@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=bytes(range(200)))
@example(data=b"\xff" * 200)
def test_damaged_input_is_read_within_reason_or_refused_in_one_line(target: str, data: bytes, tmp_path: Path):
    try:
        fuzz.try_one(target, data, tmp_path)
    except Exception as error:
        if not fuzz.known(f"{target}: {fuzz.kind_of(error)}"):
            raise


def test_undamaged_inputs_break_no_rule(tmp_path: Path):
    for target in fuzz.TARGETS:
        fuzz.try_one(target, b"", tmp_path)


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        ("b.wav: cannot be read; mend it", "does not name a.wav"),
        ("a.wav: two\nlines", "is no line"),
        ("a.wav: " + "x" * 1_000, "a line of 1007 characters"),
    ],
)
def test_refusal_that_breaks_the_rule_is_found(said: str, broken: str):
    def refuse() -> None:
        raise ClipError(said)

    with pytest.raises(fuzz.Fault, match=broken):
        fuzz.refused_or(refuse, Path("a.wav"))


def test_other_exception_comes_through():
    with pytest.raises(ZeroDivisionError):
        fuzz.refused_or(lambda: 1 // 0, Path("a.wav"))


def test_every_target_makes_the_same_input_of_the_same_bytes():
    for make, _ in fuzz.TARGETS.values():
        assert make(fuzz.Dice(b"\x05\x11" * 90)) == make(fuzz.Dice(b"\x05\x11" * 90))


def test_input_that_takes_too_long_is_broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def endless(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS_AN_INPUT", 1)
    monkeypatch.setitem(fuzz.TARGETS, "wav", (fuzz.wav, endless))
    with pytest.raises(fuzz.Endless):
        fuzz.try_one("wav", b"", tmp_path)


def test_hunt_keeps_each_kind_of_fault_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def broken(*_: object) -> None:
        raise fuzz.Fault("a file of 12 bytes")

    monkeypatch.setitem(fuzz.TARGETS, "table", (fuzz.table, broken))
    hunt = fuzz.Hunt(tmp_path, ["table", "manifest"], ends=0)
    for data in (b"\0abc", b"\0xyz", b"\1abc"):
        hunt.one(data)
    assert hunt.tried == {"table": 2, "manifest": 1}
    assert hunt.kinds == {"table: Fault in the rule: a file of  bytes": 2}
    (kept,) = tmp_path.glob("*.bytes")
    assert kept.read_bytes() == b"table\nabc"
    assert kept.with_suffix(".input").is_file()
    assert "a file of 12 bytes" in kept.with_suffix(".txt").read_text()
