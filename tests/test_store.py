import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from blendbench.errors import BlendbenchError
from blendbench.store.arrays import Arrays
from blendbench.store.ledger import Ledger
from blendbench.store.signature import canonical, file_hash, signature
from blendbench.store.write import write_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.jsonl"


def fill(path: Path, *names: str) -> None:
    ledger = Ledger(path, ("id",))
    for name in names:
        ledger.append({"id": name, "value": len(name)})
    ledger.close()


def ids(ledger: Ledger) -> set:
    return {row["id"] for row in ledger}


def test_rows_are_found_again_by_key(path: Path):
    fill(path, "a", "bb")
    assert Ledger(path, ("id",)).get("bb") == {"id": "bb", "value": 2}
    assert Ledger(path, ("id",)).get("c") is None


def test_opening_a_ledger_makes_no_file(path: Path):
    Ledger(path, ("id",)).close()
    assert not path.parent.exists()


def test_last_row_of_a_key_wins(path: Path):
    ledger = Ledger(path, ("id",))
    ledger.append({"id": "a", "value": 1})
    ledger.append({"id": "a", "value": 2})
    ledger.close()
    assert Ledger(path, ("id",)).get("a") == {"id": "a", "value": 2}
    assert len(path.read_text().splitlines()) == 2


def test_key_of_several_columns_tells_rows_apart(path: Path):
    ledger = Ledger(path, ("id", "arm"))
    ledger.append({"id": "a", "arm": "x", "value": 1})
    ledger.append({"id": "a", "arm": "y", "value": 2})
    ledger.close()
    again = Ledger(path, ("id", "arm"))
    assert [again.get("a", arm)["value"] for arm in "xy"] == [1, 2]


def test_row_is_on_disk_before_the_ledger_is_closed(path: Path):
    ledger = Ledger(path, ("id",))
    ledger.append({"id": "a"})
    assert json.loads(path.read_text()) == {"id": "a"}
    ledger.close()


@pytest.mark.parametrize("cut", range(1, len('{"id": "ü", "value": 1}\n'.encode())))
def test_torn_last_line_is_passed_over_and_the_next_append_starts_a_new_one(path: Path, cut: int):
    fill(path, "a", "ü")
    path.write_bytes(path.read_bytes()[:-cut])
    ledger = Ledger(path, ("id",))
    assert ids(ledger) == {"a"}
    ledger.append({"id": "c", "value": 3})
    ledger.close()
    again = Ledger(path, ("id",))
    assert (again.get("a"), again.get("c")) == ({"id": "a", "value": 1}, {"id": "c", "value": 3})
    # A line that lacked nothing but its end counts again; anything less does not.
    assert ids(again) - {"a", "c"} == ({"ü"} if cut == 1 else set())


def test_garbage_in_the_middle_costs_its_own_line_alone(path: Path):
    fill(path, "a", "b")
    with path.open("ab") as file:
        file.write(b"\xff\xfe not json\n")
    with path.open("a") as file:
        file.write('{"id": "late", "value": 1}\n')
    ledger = Ledger(path, ("id",))
    assert ids(ledger) == {"a", "b", "late"}
    ledger.append({"id": "c"})
    ledger.close()
    assert ids(Ledger(path, ("id",))) == {"a", "b", "late", "c"}


def test_two_writers_of_one_ledger_lose_no_row(path: Path):
    one, other = Ledger(path, ("id",)), Ledger(path, ("id",))
    for index in range(4):
        (one, other)[index % 2].append({"id": index})
    one.close()
    other.close()
    assert ids(Ledger(path, ("id",))) == {0, 1, 2, 3}


def test_rows_of_another_writer_are_seen_after_a_refresh_and_after_an_append(path: Path):
    one, other = Ledger(path, ("id",)), Ledger(path, ("id",))
    other.append({"id": "a", "value": 1})
    assert one.get("a") is None
    one.refresh()
    assert one.get("a") == {"id": "a", "value": 1}
    other.append({"id": "a", "value": 2})
    one.append({"id": "b"})
    assert one.get("a") == {"id": "a", "value": 2}
    one.close()
    other.close()


def test_rows_of_many_processes_all_arrive(path: Path):
    def write(name: str) -> None:
        ledger = Ledger(path, ("id",))
        for index in range(50):
            ledger.append({"id": f"{name}{index}", "text": "x" * 3000})
        ledger.close()

    children = []
    for name in "abcd":
        if (child := os.fork()) == 0:
            try:
                write(name)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    found = Ledger(path, ("id",))
    assert ids(found) == {f"{name}{index}" for name in "abcd" for index in range(50)}
    assert len(path.read_bytes().splitlines()) == len(found) == 200


def test_a_ledger_rewritten_by_one_takes_the_rows_of_another_that_had_it_open(path: Path):
    one, other = Ledger(path, ("id",)), Ledger(path, ("id",))
    for name in "cab":
        one.append({"id": name})
    other.append({"id": "b", "value": 2})
    assert one.keep([("a",), ("b",), ("d",)]) == 1
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": "a"}, {"id": "b", "value": 2}]
    other.append({"id": "e"})
    other.refresh()
    assert ids(other) == {"a", "b", "e"}
    one.append({"id": "f"})
    assert ids(one) == ids(Ledger(path, ("id",))) == {"a", "b", "e", "f"}
    one.close()
    other.close()


def test_rows_beyond_the_first_fold_of_the_index_are_found(path: Path):
    path.parent.mkdir()
    rows = [{"id": index % 70_000, "value": index} for index in range(140_000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger(path, ("id",))
    assert len(ledger) == 70_000
    assert [ledger.get(index) for index in (0, 65_535, 69_999)] == [
        {"id": index, "value": index + 70_000} for index in (0, 65_535, 69_999)
    ]
    assert ledger.get(70_000) is None


@pytest.mark.parametrize("line", ["[1, 2]", "3", "null", '{"other": 1}', ""])
def test_line_that_is_no_row_of_this_ledger_is_not_read(path: Path, line: str):
    path.parent.mkdir()
    path.write_text(line + "\n")
    assert ids(Ledger(path, ("id",))) == set()


def test_ledger_can_be_appended_after_closing(path: Path):
    ledger = Ledger(path, ("id",))
    for name in "abc":
        ledger.append({"id": name})
        ledger.close()
    assert ids(Ledger(path, ("id",))) == {"a", "b", "c"}


def test_ledger_below_a_file_names_the_path(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BlendbenchError, match=r"file/l\.jsonl: cannot be written"):
        Ledger(tmp_path / "file" / "l.jsonl", ("id",)).append({"id": "a"})


def test_signature_is_the_golden_one():
    # SHA-256 over this very text; a change of it would orphan every store there is.
    text = '{"a":1,"b":{"x":null,"y":[0.5,true]},"stage":"generate","version":2}'
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7785075f867d219d"
    assert signature("generate", 2, {"b": {"y": [0.5, True], "x": None}, "a": 1}) == "7785075f867d219d"


@pytest.mark.parametrize(
    ("stage", "version", "settings"),
    [("present", 1, {"a": 1}), ("generate", 2, {"a": 1}), ("generate", 1, {"a": 2}), ("generate", 1, {"a": 1, "b": 1})],
)
def test_signature_differs_when_anything_differs(stage: str, version: int, settings: dict):
    assert signature(stage, version, settings) != signature("generate", 1, {"a": 1})


def test_canonical_text_does_not_depend_on_the_order_of_keys():
    assert canonical({"b": 1, "a": {"d": 1, "c": 2}}) == '{"a":{"c":2,"d":1},"b":1}'


def test_canonical_text_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_file_hash_is_the_sha256(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_text_keeps_line_ends_and_leaves_no_temporary_file(tmp_path: Path):
    write_text(tmp_path / "new" / "t.txt", "ä\nb\r\n")
    assert (tmp_path / "new" / "t.txt").read_bytes() == "ä\nb\r\n".encode()
    assert os.listdir(tmp_path / "new") == ["t.txt"]  # noqa: PTH208


def test_failed_write_leaves_the_old_text_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "t.txt"
    write_text(target, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BlendbenchError, match="No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_write_text_below_a_file_names_the_path(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BlendbenchError, match=r"file/t\.txt: cannot be written"):
        write_text(tmp_path / "file" / "t.txt", "x")


def test_arrays_come_back_from_their_places(tmp_path: Path):
    values = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in [(3, 4), (2,), (0, 5)]]
    arrays = Arrays(tmp_path / "deep" / "values.f32")
    places = json.loads(json.dumps([arrays.append(one) for one in values]))
    arrays.close()
    for place, one in zip(reversed(places), reversed(values), strict=True):
        assert np.array_equal(arrays.read(place), one)
        assert arrays.read(place).shape == one.shape


def test_arrays_of_two_writers_do_not_touch_each_other(tmp_path: Path):
    one, two = Arrays(tmp_path / "values.f32"), Arrays(tmp_path / "values.f32")
    places = [(writer, writer.append(np.full(3, number))) for number, writer in enumerate([one, two, one, two])]
    for number, (writer, place) in enumerate(places):
        assert writer.read(place).tolist() == [number] * 3


def test_an_array_file_that_was_cut_is_refused_in_one_line(tmp_path: Path):
    arrays = Arrays(tmp_path / "values.f32")
    place = arrays.append(np.zeros(4))
    arrays.close()
    (tmp_path / "values.f32").write_bytes(b"12345")
    with pytest.raises(BlendbenchError, match=r"values\.f32: cut short"):
        arrays.read(place)


def test_arrays_that_changed_on_disk_are_refused(tmp_path: Path):
    arrays = Arrays(tmp_path / "values.f32")
    places = [arrays.append(np.arange(6, dtype=np.float32).reshape(2, 3)), arrays.append(np.ones(4, np.float32))]
    arrays.close()
    data = bytearray((tmp_path / "values.f32").read_bytes())
    data[5] ^= 1
    (tmp_path / "values.f32").write_bytes(data)
    with pytest.raises(BlendbenchError, match=r"values\.f32: damaged"):
        arrays.read(places[0])
    assert np.array_equal(arrays.read(places[1]), np.ones(4))
