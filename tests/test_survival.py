"""A run that is killed, starved or disturbed ends in the same table as one that is not."""

from pathlib import Path

import pytest
from support.survival import Nursery, survive
from support.worlds import CHEAP, GapWorld, rows_of

from blendbench.store.signature import file_hash

SLOW = "+arms.slow={_target_: support.own_methods.Slow, label: Slow, seconds: 0.1}"
ARMS = (*CHEAP, SLOW, "allow_targets=[support.own_methods]", "report=false")


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as found:
        yield found


def whole(run_dir: Path, count: int = 3 * 3 * 2) -> None:
    """So many rows, each once, with its own whole file."""
    rows = rows_of(run_dir)
    keys = {(row["dataset"], row["arm"], row["presentation"], row["pair_id"]) for row in rows}
    assert len(rows) == len(keys) == count
    for row in rows:
        assert row["status"] == "ok"
        assert file_hash(run_dir / row["mix"]) == row["sha256"]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_fifty_kills_change_no_byte_of_the_results(either, nursery, tmp_path):
    def command(folder: Path) -> list[str]:
        return either.with_store(folder / "store").run_words(folder / "run", "limit=2", "report=false")

    kills, runs, seconds = survive(
        nursery,
        command,
        tmp_path,
        50,
        seed=7,
        check=lambda run_dir: whole(run_dir, 2 * (2 if isinstance(either, GapWorld) else 5) * 2),
    )
    print(f"{kills} kills in {runs} runs; an undisturbed one takes {seconds:.1f} s")
    assert kills == 50


@pytest.fixture(scope="module")
def undisturbed(either, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert either.with_store(folder / "store").run(folder / "run", "limit=3", *ARMS) == 0
    return folder / "run"


def own_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("blendbench: ")]


@pytest.mark.parametrize("executor", ["inline", pytest.param("local", marks=pytest.mark.soak)])
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_space(either, undisturbed, disk, capfd, executor):
    sizes = {file.stat().st_ino: file.stat().st_size for file in undisturbed.parent.rglob("*") if file.is_file()}
    folder = disk(f"size={int(0.6 * sum(sizes.values()))}")
    there = either.with_store(folder / "store")
    words = ("limit=3", *ARMS, f"executor={executor}", "threads=1")
    assert there.run(folder / "run", *words) == 1
    lines = own_lines(capfd.readouterr().err)
    assert len(lines) == 1 or "noises are not kept for the next time" in lines[0]
    for line in lines:
        assert str(folder) in line
        assert "No space left on device; free space or choose another folder" in line
    for row in rows_of(folder / "run"):  # each line is a whole row, and each row's file is whole
        assert file_hash(folder / "run" / row["mix"]) == row["sha256"]
    assert 0 < len(rows_of(folder / "run")) < 18
    disk("remount", "size=100m")
    assert there.run(folder / "run", *words) == 0
    whole(folder / "run")
    if executor == "inline":
        assert (folder / "run" / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()


def test_a_store_that_cannot_be_written_serves_what_it_holds(either, undisturbed, disk, tmp_path, capfd):
    folder = disk("size=100m")
    there = either.with_store(folder / "store")
    assert there.run(folder / "run", "limit=3", *ARMS) == 0
    disk("remount", "ro")
    assert there.run(tmp_path / "run", "limit=3", *ARMS) == 0
    whole(tmp_path / "run")
    assert (tmp_path / "run" / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()
    capfd.readouterr()
    assert there.run(tmp_path / "more", "limit=4", *ARMS) == 1
    line = own_lines(capfd.readouterr().err)[-1]
    assert str(folder / "store") in line
    assert "Read-only file system; choose a folder you may write to" in line


@pytest.mark.soak
def test_two_runs_at_once_in_one_folder_do_each_other_no_harm(either, nursery, undisturbed, tmp_path):
    words = either.with_store(tmp_path / "store").run_words(tmp_path / "run", "limit=3", *ARMS)
    with Nursery() as other:
        nursery.start(words, tmp_path / "one.log")
        other.start(words, tmp_path / "other.log")
        assert (nursery.status(), other.status()) == (0, 0)
    whole(tmp_path / "run")
    assert (tmp_path / "run" / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()
