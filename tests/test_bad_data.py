"""Bad data as it comes: sounds, tables, manifests and containers, through the package's functions and its commands.

The rule: bad input ends in one line that names the file or the key and what is wrong, or in failed rows with such a
reason, and the good clips beside it take part.
"""

import contextlib
import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from support import audio_corpus
from support.worlds import CHEAP, ESC50_COLUMNS, RATE, World, call, noise_sound, rows_of, write_esc50, write_musicbench

from blendbench.datasets import (
    NoiseClip,
    Prompt,
    builtin,
    epic_sounds,
    esc50,
    folder,
    hdf5,
    manifests,
    musicbench,
    reading,
)
from blendbench.datasets.tables import check_links
from blendbench.errors import BlendbenchError, ClipError, printable
from blendbench.sound import files

HEADER = ",".join(ESC50_COLUMNS)
ROW = "1-1-A-0.wav,1,0,dog,True,1,A"
EPIC_HEADER = ",".join(epic_sounds.COLUMNS)
ALONE = ("arms.random_music=null", *CHEAP)
"""Leaves the arm that needs nothing but the noise."""


def refusal(function: Callable, *arguments: Any, **named: Any) -> str:
    """The message of a refusal: one line, not long."""
    with pytest.raises(BlendbenchError) as raised:
        function(*arguments, **named)
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < 800
    return text


def stopped(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that stops."""
    capfd.readouterr()
    assert call(*words) in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("blendbench: ")
    assert "unexpected" not in lines[0]
    return lines[0]


def checked(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status of `blendbench data check`, which says nothing on stderr, and its lines."""
    capfd.readouterr()
    status = call("data", "check", *words)
    captured = capfd.readouterr()
    assert captured.err == ""
    return status, captured.out


def peak_kilobytes(again: bool = True) -> int:
    """Most memory that this process has taken; `again` begins to watch anew, with what it takes now."""
    if again:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


class Endless(BaseException):
    """No OSError as TimeoutError is, which the package would take for a file's fault."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Breaks off what would never end; says nothing about speed."""

    def stop(*_: object) -> None:
        raise Endless(f"did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def folder_words(world: World, run_dir: Path, sounds: Path, *words: str) -> list[str]:
    """A run over a folder of sounds, a prompt a clip."""
    kept = [word for word in world.words() if "esc50" not in word]
    own = ["dataset=folder", f"data.path={sounds}", "dataset.folder.prompts_per_clip=1"]
    return ["run", "experiment=bnmusic/table1", *kept, *own, f"run_dir={run_dir}", *CHEAP, *words]


# Sounds


@pytest.mark.parametrize("name", audio_corpus.HEARD)
def test_strange_file_that_is_read_gives_the_very_sound_that_is_in_it(name: str, tmp_path: Path):
    case = audio_corpus.make(name, tmp_path)
    assert case.heard is not None
    waveform = files.read(case.path).numpy()
    assert len(waveform) == len(case.heard)
    peak = np.abs(case.heard).max()
    np.testing.assert_allclose(waveform / peak, case.heard / peak, atol=case.tolerance, rtol=0)


@pytest.fixture(scope="module")
def whole_corpus(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[audio_corpus.Case]]:
    """A run's folder, the bad files of the folder that it went over, beside three good ones."""
    sounds = tmp_path_factory.mktemp("sounds")
    cases = [
        audio_corpus.make(name, sounds)
        for name in audio_corpus.CORPUS
        if name not in ("pipe.wav", "hour_long.wav", "channels_256.wav")
    ]
    for case in cases:
        if case.expected == "ok":
            case.path.unlink()
    listed = {sounds / name for name in folder.find(sounds, "data.path")}
    for seed in range(3):
        soundfile.write(sounds / f"good {seed}.wav", noise_sound(seed), RATE)
    run_dir = sounds.with_name("whole_corpus_run")
    assert call(*folder_words(world, run_dir, sounds)) == 0
    return run_dir, [case for case in cases if case.path in listed]


def test_run_over_the_whole_corpus_fails_every_bad_file_with_a_reason_that_names_it(whole_corpus):
    run_dir, cases = whole_corpus
    rows = [row for row in rows_of(run_dir) if not row["clip"].startswith("good ")]
    assert len(cases) >= 60
    assert {row["clip"] for row in rows} == {case.name for case in cases}
    for case in cases:
        mine = [row for row in rows if row["clip"] == case.name]
        assert len(mine) == 4
        for row in mine:
            assert row["status"] == "failed"
            assert row["reason"].isprintable()
            assert printable(Path(case.name)) in row["reason"]
            assert re.search(case.expected, row["reason"])
            assert "mix" not in row


def test_run_over_the_whole_corpus_mixes_the_good_files(whole_corpus):
    run_dir, _ = whole_corpus
    rows = [row for row in rows_of(run_dir) if row["clip"].startswith("good ")]
    assert len(rows) == 12
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", "")
        assert soundfile.info(run_dir / row["mix"]).frames == 5 * RATE


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good files under the names of `audio_corpus.ODD_NAMES`."""
    sounds = tmp_path_factory.mktemp("odd_names")
    for name in audio_corpus.ODD_NAMES:
        audio_corpus.make(name, sounds)
    return sounds


def test_run_takes_good_files_of_any_name(world: World, odd_names: Path, tmp_path: Path, capfd):
    assert call(*folder_words(world, tmp_path / "run", odd_names, *ALONE)) == 0
    assert capfd.readouterr().err == ""
    rows = rows_of(tmp_path / "run")
    assert len({row["clip"] for row in rows}) == len({row["mix"] for row in rows}) / 2 == len(audio_corpus.ODD_NAMES)
    for row in rows:
        assert row["status"] == "ok"
        assert soundfile.info(tmp_path / "run" / row["mix"]).frames == 5 * RATE
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


def test_manifest_holds_files_of_any_name(world: World, odd_names: Path, tmp_path: Path, capfd):
    file = tmp_path / "odd.json"
    assert call("data", "manifest", "folder", f"data.path={odd_names}", "--out", str(file)) == 0
    assert len(manifests.read(file).clips) == len(audio_corpus.ODD_NAMES)
    status, lines = checked(capfd, "folder", f"data.path={odd_names}", f"dataset.folder.manifest={file}")
    assert status == 0
    assert f"{len(audio_corpus.ODD_NAMES)} clips" in lines


def test_pipe_in_a_folder_is_one_failed_clip(world: World, tmp_path: Path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "good.wav", noise_sound(0), RATE)
    pipe = audio_corpus.make("pipe.wav", sounds).path
    with at_most(2):
        assert reading.content_of(NoiseClip("pipe.wav", pipe, "", ""), 5.0) == ""
    with at_most(100):
        status = call(*folder_words(world, tmp_path / "run", sounds))
    assert status == 0
    assert {row["clip"]: row["status"] for row in rows_of(tmp_path / "run")} == {"good.wav": "ok", "pipe.wav": "failed"}


def test_device_behind_a_link_that_may_be_followed_is_not_read(tmp_path: Path):
    path = audio_corpus.make("device.wav", tmp_path).path
    with at_most(2):
        assert reading.content_of(NoiseClip("device", path, "", ""), 5.0) == ""


def test_header_followed_by_a_gigabyte_of_zeros_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "preallocated.wav"
    path.write_bytes(audio_corpus.riff())
    os.truncate(path, 2**30)
    with at_most(2):
        assert "not audio" in refusal(files.read, path)


def test_link_that_leads_out_of_the_folder_is_a_failed_clip_unless_it_may(world: World, tmp_path: Path):
    elsewhere, sounds = tmp_path / "elsewhere", tmp_path / "sounds"
    for place in (elsewhere, sounds):
        place.mkdir()
        soundfile.write(place / "here.wav", noise_sound(len(place.name)), RATE)
    (sounds / "out.wav").symlink_to(elsewhere / "here.wav")
    (sounds / "relative.wav").symlink_to("../elsewhere/here.wav")
    (sounds / "back.wav").symlink_to("here.wav")
    words = folder_words(world, tmp_path / "run", sounds, *ALONE)
    assert call(*words) == 0
    rows = {row["clip"]: row for row in rows_of(tmp_path / "run")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "back.wav": "ok",
        "here.wav": "ok",
        "out.wav": "failed",
        "relative.wav": "failed",
    }
    for name in ("out.wav", "relative.wav"):
        assert re.search(rf"{name}: is a link that leads out of .*follow_links=true", rows[name]["reason"])
    assert call(*words, "data.follow_links=true", f"run_dir={tmp_path / 'run2'}") == 0
    assert {row["status"] for row in rows_of(tmp_path / "run2")} == {"ok"}


def test_folder_of_the_data_set_may_itself_be_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    soundfile.write(tmp_path / "real" / "a.wav", noise_sound(0), RATE)
    (tmp_path / "linked").symlink_to("real")
    (clip,) = folder.noise(str(tmp_path / "linked"))
    check_links(clip.path, clip.root)


@pytest.mark.xfail(strict=True, reason="libmpg123 writes its warnings to stderr by itself, past sys.stderr")
@pytest.mark.parametrize("name", ["mp3_truncated.mp3", "mp3_with_zeros_in_it.mp3"])
def test_damaged_mp3_says_nothing_on_stderr(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = audio_corpus.make(name, tmp_path).path
    capfd.readouterr()
    with contextlib.suppress(ClipError):
        files.read(path)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("error", "default::ResourceWarning")
def test_channels_near_the_largest_float_are_averaged(tmp_path: Path):
    soundfile.write(tmp_path / "loud.wav", np.stack([6e38 * audio_corpus.sound()] * 2, axis=1), RATE, subtype="FLOAT")
    assert files.read(tmp_path / "loud.wav").abs().max() == pytest.approx(6e38 * abs(audio_corpus.sound()).max())


def test_clip_one_sample_too_short_is_told_so_in_figures_that_differ(tmp_path: Path):
    path = audio_corpus.make("one_sample_short_of_a_block.wav", tmp_path).path
    lasts, needed = re.findall(r"([\d.]+) s\b", refusal(files.read, path))[:2]
    assert lasts != needed


# CSV tables


def table_of(root: Path, content: str | bytes) -> Path:
    """Write `ESC-50/meta/esc50.csv`, and the one file that ROW names."""
    table = write_esc50(root, ["1-1-A-0.wav"]).parent / "meta" / "esc50.csv"
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    return table


def with_cell(column: str, value: str) -> str:
    """A table of one row, one cell of which is another."""
    cells = dict(zip(ESC50_COLUMNS, ROW.split(","), strict=True)) | {column: value}
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
    return f"{HEADER}\n{','.join(quoted)}\n"


BAD_TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "no column 'filename'"),
    "header alone": (f"{HEADER}\n", "holds no row"),
    "header and blank lines": (f"{HEADER}\r\n\r\n\r\n", "holds no row"),
    "no header": (f"{ROW}\n{ROW}\n", "no column 'filename'"),
    "UTF-16": (f"{HEADER}\n{ROW}\n".encode("utf-16"), "is UTF-16 text, not UTF-8; save it as UTF-8"),
    "UTF-16 without its mark": (f"{HEADER}\n{ROW}\n".encode("utf-16-le"), "is UTF-16 text, not UTF-8"),
    "Latin-1": (
        f"{HEADER}\n{ROW.replace('dog', 'Köter')}\n".encode("latin-1"),
        "cannot be read as a CSV table.*utf-8.*; save it as UTF-8",
    ),
    "Excel workbook": (
        b"PK\3\4\x14\0\6\0" + bytes(500),
        "is a zip archive, not text; if it is an Excel workbook, save it",
    ),
    "old Excel workbook": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        "not text; if it is an Excel workbook, save it",
    ),
    "packed": (gzip.compress(f"{HEADER}\n{ROW}\n".encode()), "is a gzip archive, not text; unpack it"),
    "JSON error": ('{"message": "Not Found"}', "no column 'filename'"),
    "NUL in a file name": (with_cell("filename", "a\0.wav"), "is no file name"),
    "NUL throughout": (b"\0" * 1_000, "zeros at its beginning"),
    "unclosed quote": (f'{HEADER}\n"{ROW}\n{ROW}\n', "row 2: too few columns"),
    "unclosed quote before much": (f'{HEADER}\n{ROW}\n"{ROW}\n' + f"{ROW}\n" * 9_000, "field larger than"),
    "short row": (f"{HEADER}\n{ROW}\n2.wav,1\n", "row 3: too few columns: 2, its header names 7"),
    "long row": (f"{HEADER}\n{ROW},more\n", "row 2: too many columns: 8, its header names 7"),
    "semicolons": (f"{HEADER}\n{ROW}\n".replace(",", ";"), "no column 'filename' .*separated by semicolons: save"),
    "semicolons and quotes": (
        '"' + f"{HEADER}".replace(",", '";"') + '"\n',
        "separated by semicolons: save it with commas",
    ),
    "tabs": (f"{HEADER}\n{ROW}\n".replace(",", "\t"), "no column 'filename' .*separated by tabs: save"),
    "column missing": (f"{HEADER.replace('fold', 'folder')}\n{ROW}\n", "no column 'fold'"),
    "column of other case": (f"{HEADER.replace('fold', 'Fold')}\n{ROW}\n", "no column 'fold'"),
    "column twice": (f"{HEADER.replace('target', 'fold')}\n{ROW}\n", "column 'fold' stands twice"),
    "fold is no number": (with_cell("fold", "x"), "row '1-1-A-0.wav': fold is 'x', not a number"),
    "fold is empty": (with_cell("fold", ""), "fold is '', not a number"),
    "fold is NaN": (with_cell("fold", "nan"), "fold is 'nan', not a number"),
    "fold is too large": (with_cell("fold", "1e400"), "fold is '1e400', not a number"),
    "fold is long": (with_cell("fold", "x" * 10_000), r"fold is 'x+\.\.\.', not a number"),
    "id twice": (f"{HEADER}\n{ROW}\n{ROW}\n", "'1-1-A-0' stands twice"),
    "id twice by the ending": (f"{HEADER}\n{ROW}\n{ROW.replace('.wav', '.flac')}\n", "'1-1-A-0' stands twice"),
    "name leads up": (with_cell("filename", "../meta/esc50.csv"), r"'\.\./meta/esc50\.csv' leaves"),
    "name leads up in the middle": (with_cell("filename", "a/../../b.wav"), "leaves"),
    "name leads up by backslashes": (with_cell("filename", "..\\..\\b.wav"), "leaves"),
    "name is absolute": (with_cell("filename", "/etc/passwd"), "'/etc/passwd' leaves"),
    "name is a network share": (with_cell("filename", "\\\\host\\share\\a.wav"), "leaves"),
    "name has a drive": (with_cell("filename", "C:\\a.wav"), "leaves"),
    "name is empty": (with_cell("filename", ""), "'' is no file name"),
    "name is spaces": (with_cell("filename", "   "), "'' is no file name"),
    "field of 10 MB": (with_cell("category", "x" * 10_000_000), "field larger than"),
    "binary": (bytes(range(256)) * 40, "cannot be read as a CSV table|no column"),
}
GOOD_TABLES: dict[str, str | bytes] = {
    "byte-order mark": f"\ufeff{HEADER}\n{ROW}\n",
    "CRLF": f"{HEADER}\r\n{ROW}\r\n",
    "CR alone": f"{HEADER}\r{ROW}\r",
    "mark, CRLF and no end of the last line": f"\ufeff{HEADER}\r\n{ROW}",
    "spaces around": f" {HEADER.replace(',', ' , ')} \n {ROW.replace(',', ' , ')} \n",
    "quotes around": with_cell("fold", "1"),
    "column of another kind twice": f"{HEADER},note,note\n{ROW},a,b\n",
    "other columns too": f"{HEADER},spare\n{ROW},=1+1\n",
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table_is_one_line_that_names_it(case: str, tmp_path: Path):
    content, expected = BAD_TABLES[case]
    table = table_of(tmp_path, content)
    text = refusal(esc50.esc50, str(tmp_path))
    assert text.startswith(str(table))
    assert re.search(expected, text)


@pytest.mark.parametrize("case", GOOD_TABLES)
def test_table_of_another_dialect_is_read(case: str, tmp_path: Path):
    table_of(tmp_path, GOOD_TABLES[case])
    (clip,) = esc50.esc50(str(tmp_path))
    assert (clip.id, clip.label, clip.source, clip.fold) == ("1-1-A-0", "dog", "1", 1)


@pytest.mark.parametrize("case", list(BAD_TABLES)[::3])
def test_commands_stop_at_a_bad_table_in_one_line(world: World, case: str, tmp_path: Path, capfd):
    content, expected = BAD_TABLES[case]
    table = table_of(tmp_path, content)
    line = stopped(capfd, *world.with_root(tmp_path).run_words(tmp_path / "run", *CHEAP))
    assert str(table) in line
    assert re.search(expected, line)
    assert not (tmp_path / "run").exists()
    status, lines = checked(capfd, "esc50", f"data.root={tmp_path}")
    assert status == 1
    assert len(lines.splitlines()) == 1
    assert str(table) in lines


def test_fold_that_is_no_whole_number_is_refused(tmp_path: Path):
    table_of(tmp_path, with_cell("fold", "2.7"))
    assert "fold" in refusal(esc50.esc50, str(tmp_path))


STRANGE_CELLS = {
    "formula": "=cmd|' /C calc'!A0",
    "at sign": "@SUM(1+1)*cmd|' /C calc'!A0",
    "markup": "<script>alert(1)</script>",
    "line break": "two\nlines",
    "control characters": "\x1b[31mred\x07\x00\x7f",
    "right to left": "\u202egnp.vaw",
    "braces and percents": "{0} %s {clip.__class__} ${data.root}",
    "4,000 characters": "x" * 4_000,
}


@pytest.mark.parametrize("cell", STRANGE_CELLS)
def test_strange_class_and_source_are_only_text(world: World, cell: str, tmp_path: Path, capfd):
    audio_folder = write_esc50(tmp_path, ["good.wav"])
    soundfile.write(audio_folder / "good.wav", noise_sound(1), RATE)
    table = audio_folder.parent / "meta" / "esc50.csv"
    content = with_cell("category", STRANGE_CELLS[cell]).replace("1-1-A-0.wav", "good.wav")
    table.write_text(content + content.splitlines()[-1].replace("good.wav", "bad.wav"), encoding="utf-8", newline="")
    if cell == "line break":
        one, two = ([*ESC50_COLUMNS], ["good.wav", "1", "0", STRANGE_CELLS[cell], "x", "1", "A"])
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([one, two, ["bad.wav", *two[1:]]])
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    status = world.with_root(tmp_path).run(tmp_path / "run", *ALONE, "dataset.esc50.prompts_per_clip=1")
    assert status == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    rows = {row["clip"]: row for row in rows_of(tmp_path / "run")}
    assert (rows["good"]["status"], rows["bad"]["status"]) == ("ok", "failed")
    assert rows["good"]["label"] == STRANGE_CELLS[cell].strip()
    assert "<script>alert" not in (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    checked(capfd, "esc50", f"data.root={tmp_path}")


STRANGE_NAMES = {
    "line break": "two\nlines.wav",
    "control characters": "\x1b[31mred\x07.wav",
    "right to left": "\u202egnp.wav",
    "a folder": ".",
    "a folder that is not there": "nowhere/a.wav",
    "a backslash": "sub\\a.wav",
    "a home": "~/a.wav",
    "a variable": "$HOME/${data.root}/%s{0}.wav",
}


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_strange_file_name_is_one_failed_clip(world: World, name: str, tmp_path: Path, capfd):
    audio_folder = write_esc50(tmp_path, ["good.wav", STRANGE_NAMES[name]])
    soundfile.write(audio_folder / "good.wav", noise_sound(1), RATE)
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    words = (*ALONE, "dataset.esc50.prompts_per_clip=1")
    assert world.with_root(tmp_path).run(tmp_path / "run", *words) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    rows = rows_of(tmp_path / "run")
    assert {(row["clip"] == "good", row["status"]) for row in rows} == {(True, "ok"), (False, "failed")}
    for row in rows:
        if row["status"] == "ok":
            continue
        assert row["reason"].isprintable()
        assert printable(audio_folder / STRANGE_NAMES[name]) in row["reason"]
    status, lines = checked(capfd, "esc50", f"data.root={tmp_path}")
    assert status == 1
    assert "1 cannot be heard" in lines


@pytest.mark.parametrize("column", ["filename", "category"])
def test_data_check_prints_no_control_characters(column: str, tmp_path: Path, capfd):
    table_of(tmp_path, with_cell(column, "\x1b[31mred\x07"))
    _, lines = checked(capfd, "esc50", f"data.root={tmp_path}")
    assert all(line.isprintable() for line in lines.splitlines())


def test_data_check_takes_a_file_name_that_is_too_long_for_a_missing_file(tmp_path: Path, capfd):
    write_esc50(tmp_path, ["x" * 300 + ".wav"])
    status, lines = checked(capfd, "esc50", f"data.root={tmp_path}")
    assert status == 1
    assert "1 cannot be heard" in lines


def test_file_name_that_is_too_long_is_one_failed_clip(world: World, tmp_path: Path):
    audio_folder = write_esc50(tmp_path, ["good.wav", "x" * 300 + ".wav"])
    soundfile.write(audio_folder / "good.wav", noise_sound(1), RATE)
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    words = (*ALONE, "dataset.esc50.prompts_per_clip=1")
    assert world.with_root(tmp_path).run(tmp_path / "run", *words) == 0
    assert {row["clip"]: row["status"] for row in rows_of(tmp_path / "run")} == {"good": "ok", "x" * 300: "failed"}


def test_table_that_is_a_pipe_or_a_folder_is_refused(tmp_path: Path):
    table = table_of(tmp_path, "")
    table.unlink()
    table.mkdir()
    assert "cannot be read as a CSV table (Is a directory" in refusal(esc50.esc50, str(tmp_path))


MILLION = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
from blendbench.datasets import Prompt, esc50
from blendbench.tasks.blend.pairing import make_pairs
clips = esc50.esc50(sys.argv[1])
prompts = [Prompt(genre, genre, genre) for genre in "abcdefg"]
pairs = make_pairs("esc50", clips, prompts, 7, 0, limit=20)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(len(clips), len(pairs), peak)
"""
"""The peak is not getrusage's, which begins with what the parent process has taken."""


@pytest.mark.soak
def test_million_rows_take_bounded_time_and_memory(million: Path):
    program = MILLION.format(limit=2**31)
    limits = {"timeout": 280, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", program, str(million)], **limits)
    found, pairs, kilobytes = map(int, done.stdout.split())
    assert (found, pairs) == (1_000_000, 20)
    assert kilobytes < 1_500_000


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose ESC-50 has a million rows in fifty classes."""
    root = tmp_path_factory.mktemp("million")
    meta = root / "ESC-50" / "meta"
    meta.mkdir(parents=True)
    with (meta / "esc50.csv").open("w") as file:
        file.write(f"{HEADER}\n")
        for number in range(1_000_000):
            kind = number % 50
            file.write(f"{number % 5 + 1}-{number}-A-{kind}.wav,{number % 5 + 1},{kind},class{kind},False,{number},A\n")
    return root


# JSON lines


def songs_of(root: Path, content: str | bytes) -> Path:
    """Write `MusicBench/MusicBench_train.json`."""
    table = root / "MusicBench" / "MusicBench_train.json"
    table.parent.mkdir(parents=True)
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    return table


SONG = '{"location": "data/a.wav", "main_caption": "calm jazz"}'
BAD_SONGS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "holds no clip"),
    "blank lines": ("\n \n\r\n", "holds no clip"),
    "not JSON": (f"{SONG}\nlocation: data/a.wav\n", "line 2: not a JSON object with 'location'"),
    "one list of all": (f"[{SONG}, {SONG}]", "line 1: not a JSON object with 'location'"),
    "spread over lines": ('{\n "location": "data/a.wav"\n}\n', "line 1: not a JSON object with 'location'"),
    "text": ('"location"\n', "line 1: not a JSON object"),
    "number": ("5\n", "line 1: not a JSON object"),
    "null": ("null\n", "line 1: not a JSON object"),
    "two objects in a line": (f"{SONG} {SONG}\n", "line 1: not a JSON object"),
    "cut off": (SONG[:-5], "line 1: not a JSON object"),
    "100,000 brackets": ("[" * 100_000, "line 1: not a JSON object"),
    "100,000 objects in each other": ('{"location":' * 100_000, "line 1: not a JSON object"),
    "a number of 10,000 digits": ('{"location": "a.wav", "n": ' + "9" * 10_000 + "}", "line 1: not a JSON object"),
    "no location": ('{"main_caption": "calm jazz"}\n', "line 1: not a JSON object with 'location'"),
    "location is null": ('{"location": null}\n', "line 1: not a JSON object with 'location'"),
    "location is empty": ('{"location": ""}\n', "'' is no file name"),
    "location leads up": ('{"location": "../../etc/passwd"}\n', "leaves"),
    "location is absolute": ('{"location": "/etc/passwd"}\n', "leaves"),
    "location holds NUL": ('{"location": "a\\u0000.wav"}\n', "is no file name"),
    "UTF-16": (f"{SONG}\n".encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "Latin-1": (f"{SONG}\n".replace("calm", "süß").encode("latin-1"), "cannot be read.*utf-8"),
    "a line of 20 MB": ("x" * 20_000_000, "line 1: not a JSON object"),
    "NUL throughout": (b"\0" * 1_000, "zeros at its beginning"),
}


@pytest.mark.parametrize("case", BAD_SONGS)
def test_bad_json_lines_are_one_line_that_names_file_and_line(case: str, tmp_path: Path):
    content, expected = BAD_SONGS[case]
    table = songs_of(tmp_path, content)
    text = refusal(musicbench.musicbench, str(tmp_path))
    assert text.startswith(str(table))
    assert re.search(expected, text)


@pytest.mark.parametrize("case", list(BAD_SONGS)[::4])
def test_commands_stop_at_bad_json_lines_in_one_line(world: World, case: str, tmp_path: Path, capfd):
    content, expected = BAD_SONGS[case]
    table = songs_of(tmp_path, content)
    (tmp_path / "ESC-50").symlink_to(world.root / "ESC-50")
    line = stopped(capfd, *world.with_root(tmp_path).run_words(tmp_path / "run", *CHEAP))
    assert str(table) in line
    assert re.search(expected, line)
    status, lines = checked(capfd, "musicbench", f"data.root={tmp_path}")
    assert status == 1
    assert str(table) in lines


@pytest.mark.parametrize(
    "line",
    [f"{SONG}\r\n\r\n", f"\ufeff{SONG}\n", SONG, SONG.replace("calm jazz", "\\ud83c\\udfb5 jazz"), f" \t{SONG} \n"],
    ids=["CRLF", "byte-order mark", "no end of line", "escaped emoji", "space around"],
)
def test_json_line_of_another_dialect_is_read(line: str, tmp_path: Path):
    songs_of(tmp_path, line)
    ((clip, copy),) = musicbench.read_table(tmp_path / "MusicBench")
    assert (clip.id, clip.genre, clip.source, copy) == ("a", "Jazz", "a", 0)


@pytest.mark.parametrize("location", ["5", "true", "NaN", '["data/a.wav"]', '{"path": "data/a.wav"}'])
def test_location_that_is_no_text_is_refused(location: str, tmp_path: Path):
    table = songs_of(tmp_path, f'{{"location": {location}}}\n')
    assert f"{table}, line 1" in refusal(musicbench.musicbench, str(tmp_path))


@pytest.mark.parametrize("entry", ["location", "song"])
def test_json_text_that_no_file_can_hold_is_refused(entry: str, tmp_path: Path):
    songs_of(tmp_path, json.dumps({"location": "data/a.wav", entry: "data/\ud800.wav"}) + "\n")
    refusal(musicbench.musicbench, str(tmp_path))


# Prompts

BAD_PROMPTS: dict[str, tuple[str, str | bytes, str]] = {
    "empty text file": ("p.txt", "", "holds no prompt"),
    "text file of blank lines": ("p.txt", "\n \n\t\n", "holds no prompt"),
    "text file in UTF-16": ("p.txt", "calm jazz".encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "text file in Latin-1": ("p.txt", "süßer Klang".encode("latin-1"), "cannot be read as UTF-8 text"),
    "empty table": ("p.csv", "", "no column 'prompt'"),
    "table of a header": ("p.csv", "prompt_id,genre,prompt\n", "holds no row"),
    "table without prompts": ("p.csv", "prompt_id,text\n1,calm jazz\n", "no column 'prompt'"),
    "empty prompt": ("p.csv", "prompt_id,prompt\na,calm jazz\nb,\n", "row 3: its prompt is empty"),
    "prompt of spaces": ("p.csv", 'prompt_id,prompt\na," \n "\n', "row 2: its prompt is empty"),
    "id twice": ("p.csv", "prompt_id,prompt\na,calm jazz\na,loud punk\n", "'a' stands twice"),
    "id twice by a missing one": ("p.csv", "prompt_id,prompt\nown-002,calm jazz\n,loud punk\n", "stands twice"),
    "prompt with a comma": ("p.csv", "prompt\ncalm, slow jazz\n", "too many columns"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts_are_one_line_that_names_the_file(world: World, case: str, tmp_path: Path, capfd):
    name, content, expected = BAD_PROMPTS[case]
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert re.search(expected, refusal(builtin.prompts, str(file)))
    line = stopped(capfd, *world.run_words(tmp_path / "run", *CHEAP, "prompts=file", f"prompts.file={file}"))
    assert str(file) in line
    assert re.search(expected, line)


@pytest.mark.parametrize("place", ["nowhere.txt", "nowhere.csv", "."])
def test_missing_prompts_are_named(world: World, place: str, tmp_path: Path, capfd):
    file = tmp_path / place
    assert str(file) in stopped(
        capfd, *world.run_words(tmp_path / "run", *CHEAP, "prompts=file", f"prompts.file={file}")
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\ufeffcalm jazz\nloud punk\n"),
        ("p.txt", "\r\ncalm jazz\r\n\r\n  loud punk"),
        ("P.TXT", "calm jazz\nloud punk\n"),
        ("p.csv", "\ufeffprompt\r\ncalm jazz\r\nloud punk\r\n"),
        ("p.csv", "prompt_id,prompt\n,calm jazz\n,loud punk\n"),
    ],
)
def test_prompts_of_another_dialect_are_read(name: str, content: str, tmp_path: Path):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert builtin.prompts(str(tmp_path / name)) == [
        Prompt("own-001", "", "calm jazz"),
        Prompt("own-002", "", "loud punk"),
    ]


# Manifests

MANIFEST = {"name": "own", "rule": {}, "text": "", "expected": {"clips": 1}, "clips": [{"id": "a", "class": "wind"}]}


def with_entry(**entry: Any) -> str:
    return json.dumps(MANIFEST | entry)


BAD_MANIFESTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not a manifest"),
    "not JSON": ("id,class\na,wind\n", "not a manifest"),
    "cut off": (json.dumps(MANIFEST)[:-9], "not a manifest"),
    "a list": (json.dumps([MANIFEST]), "not a manifest"),
    "a number": ("5", "not a manifest"),
    "null": ("null", "not a manifest"),
    "text": ('"name rule text expected"', "not a manifest"),
    "UTF-16": (json.dumps(MANIFEST).encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "100,000 brackets": ("[" * 100_000, "not a manifest"),
    "without a rule": (json.dumps({name: MANIFEST[name] for name in ("name", "text", "expected")}), "not a manifest"),
    "rule is a list": (with_entry(rule=[1]), "rule and expected must be objects"),
    "expected is a list": (with_entry(expected=[1]), "rule and expected must be objects"),
    "count is text": (with_entry(expected={"clips": "1"}), "rule and expected must be objects"),
    "count is true": (with_entry(expected={"clips": True}), "rule and expected must be objects"),
    "count is NaN": (with_entry(expected={"clips": float("nan")}), "rule and expected must be objects"),
    "clips is an object": (with_entry(clips={"id": "a"}), "clips a list"),
    "clip is text": (with_entry(clips=["a"]), "entry 1 of clips is no clip with an id"),
    "clip has no id": (with_entry(clips=[{"class": "wind"}]), "entry 1 of clips is no clip with an id"),
    "id is a number": (with_entry(clips=[{"id": 5}]), "entry 1 of clips is no clip with an id"),
    "id is empty": (with_entry(clips=[{"id": ""}]), "entry 1 of clips is no clip with an id"),
    "id leads up": (with_entry(clips=[{"id": "a"}, {"id": "../a"}]), r"entry 2 .*'\.\./a', which leaves"),
    "id is absolute": (with_entry(clips=[{"id": "/etc/passwd"}]), "'/etc/passwd', which leaves"),
    "id twice": (with_entry(clips=[{"id": "a"}, {"id": "b"}, {"id": "a"}]), "id 'a' stands twice"),
    "unknown digest": (with_entry(clips=[{"id": "a", "digest": "sha1:00"}]), "must begin with sha256: or md5:"),
    "digest without its kind": (with_entry(clips=[{"id": "a", "digest": "0" * 64}]), "must begin with sha256: or md5:"),
    "digest is null": (with_entry(clips=[{"id": "a", "digest": None}]), "entry 1 of clips is no clip with an id"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifest_is_one_line_that_names_it(world: World, case: str, tmp_path: Path, capfd):
    content, expected = BAD_MANIFESTS[case]
    file = tmp_path / "own.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    text = refusal(manifests.read, file)
    assert text.startswith(str(file))
    assert re.search(expected, text)
    line = stopped(capfd, *world.run_words(tmp_path / "run", *CHEAP, f"dataset.esc50.manifest={file}"))
    assert str(file) in line
    assert re.search(expected, line)


@pytest.mark.parametrize("place", ["nowhere.json", ""])
def test_missing_manifest_is_named(world: World, place: str, tmp_path: Path, capfd):
    word = f"dataset.esc50.manifest={tmp_path}/{place}"
    assert str(tmp_path / place) in stopped(capfd, *world.run_words(tmp_path / "run", *CHEAP, word))


def test_unknown_name_of_a_manifest_is_named(world: World, tmp_path: Path, capfd):
    assert "nonsense" in stopped(capfd, *world.run_words(tmp_path / "run", *CHEAP, "dataset.esc50.manifest=nonsense"))


def test_manifest_with_an_id_that_no_text_can_hold_is_refused(tmp_path: Path):
    (tmp_path / "own.json").write_text(with_entry(clips=[{"id": "\ud800"}]))
    refusal(manifests.read, tmp_path / "own.json")


@pytest.fixture
def known(world: World, tmp_path: Path) -> tuple[World, Path]:
    """A world with three noises of its own, and the manifest of them."""
    root = tmp_path / "data"
    audio_folder = write_esc50(root, ["a.wav", "b.wav", "c.wav"])
    for seed, name in enumerate("abc"):
        soundfile.write(audio_folder / f"{name}.wav", noise_sound(seed), RATE)
    (root / "MusicBench").symlink_to(world.root / "MusicBench")
    file = tmp_path / "known.json"
    assert call("data", "manifest", "esc50", f"data.root={root}", "--out", str(file)) == 0
    return world.with_root(root), file


def manifest_words(known: tuple[World, Path], run_dir: Path, manifest: Path | str) -> list[str]:
    return known[0].run_words(run_dir, *ALONE, "dataset.esc50.prompts_per_clip=1", f"dataset.esc50.manifest={manifest}")


def test_data_that_fit_their_manifest_run(known, tmp_path: Path, capfd):
    assert call(*manifest_words(known, tmp_path / "run", known[1])) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("change", ["content", "more", "fewer", "class", "md5"])
def test_data_that_differ_from_their_manifest_are_refused_by_name(known, change: str, tmp_path: Path, capfd):
    world, file = known
    audio_folder = world.root / "ESC-50" / "audio"
    written = json.loads(file.read_text(encoding="utf-8"))
    if change == "content":
        soundfile.write(audio_folder / "b.wav", noise_sound(9), RATE)
        expected = rf"b \({re.escape(str(audio_folder))}/b\.wav\) has other content"
    elif change == "more":
        written["clips"] = [row for row in written["clips"] if row["id"] != "b"]
        expected = "b is not in the manifest"
    elif change == "fewer":
        written["clips"].append({"id": "d", "class": "wind"})
        expected = "d is missing from the table"
    elif change == "class":
        next(row for row in written["clips"] if row["id"] == "b")["class"] = "rain"
        expected = "b is 'engine', not 'rain'"
    else:
        next(row for row in written["clips"] if row["id"] == "b")["digest"] = "md5:" + "0" * 32
        expected = "b .*has other content"
    file.write_text(json.dumps(written), encoding="utf-8")
    line = stopped(capfd, *manifest_words(known, tmp_path / "run", file))
    assert re.search(rf"1 clips differ from manifest {re.escape(str(file))}: {expected}", line)
    assert "dataset.esc50.manifest=null" in line
    assert not (tmp_path / "run").exists()
    status, lines = checked(capfd, "esc50", f"data.root={world.root}", f"dataset.esc50.manifest={file}")
    assert status == 1
    assert re.search(expected, lines)
    assert call(*manifest_words(known, tmp_path / "run", "null")) == 0


def test_missing_file_of_a_manifest_is_a_failed_clip(known, tmp_path: Path):
    world, file = known
    (world.root / "ESC-50" / "audio" / "b.wav").unlink()
    assert call(*manifest_words(known, tmp_path / "run", file)) == 0
    assert {row["clip"]: row["status"] for row in rows_of(tmp_path / "run")} == {"a": "ok", "b": "failed", "c": "ok"}


def test_digest_in_capitals_is_the_same_digest(known, tmp_path: Path):
    written = json.loads(known[1].read_text(encoding="utf-8"))
    for row in written["clips"]:
        algorithm, _, digest = row["digest"].partition(":")
        row["digest"] = f"{algorithm}:{digest.upper()}"
    known[1].write_text(json.dumps(written), encoding="utf-8")
    assert call(*manifest_words(known, tmp_path / "run", known[1])) == 0


# EPIC-SOUNDS, in HDF5 and in folders

EPIC_RATE = epic_sounds.SAMPLE_RATE


def recording(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Samples of a recording at EPIC-SOUNDS' rate."""
    return noise_sound(seed, 6.0)[: round(seconds * EPIC_RATE)].astype(np.float32)


def epic_of(root: Path, *rows: tuple[str, str, float | str, float | str]) -> Path:
    """Write the table of segments (annotation, video, first and last sample); returns `EPIC-SOUNDS/`."""
    place = root / "EPIC-SOUNDS"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "EPIC_Sounds_validation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*epic_sounds.COLUMNS])
        writer.writerows([*row, ("rustle", "water")[index % 2]] for index, row in enumerate(rows))
    return place


def _external(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.data"), "w") as other:
        other["there"] = recording()
    file["P"] = h5py.ExternalLink("other.data", "there")


def _virtual(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.data"), "w") as other:
        other["there"] = recording()
    layout = h5py.VirtualLayout((72_000,), "f4")
    layout[:] = h5py.VirtualSource(Path(file.filename).with_name("other.data"), "there", (72_000,))
    file.create_virtual_dataset("P", layout)


def _soft(file: h5py.File) -> None:
    file["real"] = recording()
    file["P"] = h5py.SoftLink("/real")


def _outside(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw.data")
    raw.write_bytes(recording().tobytes())
    file.create_dataset("P", (72_000,), "f4", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def _set(**arguments: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset("P", **arguments) and None


COMPOUND = np.zeros(72_000, [("left", "f4"), ("right", "f4")])
BAD_RECORDINGS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "missing": (lambda file: None, "'P' is not in the file"),
    "of another case": (lambda file: file.create_dataset("p", data=recording()), "'P' is not in the file"),
    "empty": (_set(data=np.zeros(0, "f4")), r"has shape \[0\]"),
    "empty in each channel": (_set(data=np.zeros((2, 0), "f4")), r"has shape \[2, 0\]"),
    "of no channel": (_set(data=np.zeros((0, 72_000), "f4")), r"has shape \[0, 72000\]"),
    "a group": (lambda file: file.create_group("P"), "is a group, not samples"),
    "a named type": (lambda file: file.__setitem__("P", np.dtype("f4")), "not samples"),
    "a number": (_set(data=0.5), r"is \[\] of float64, not samples"),
    "text": (_set(data="samples"), "not samples"),
    "texts": (_set(data=[b"0.5"] * 72_000), "not samples"),
    "compound": (_set(data=COMPOUND), "not samples"),
    "complex": (_set(data=recording().astype("c8")), "of complex64, not samples"),
    "unsigned": (_set(data=np.zeros(72_000, "u1")), "of uint8, not samples"),
    "truth values": (_set(data=np.ones(72_000, bool)), "of bool, not samples"),
    "of three dimensions": (_set(data=np.zeros((1, 1, 72_000), "f4")), r"is \[1, 1, 72000\] of float32"),
    "samples by channels": (_set(data=np.zeros((72_000, 2), "f4")), r"has shape \[72000, 2\]"),
    "NaN": (_set(data=np.full(72_000, np.nan, "f4")), "24000 of 24000 samples are NaN or infinite"),
    "infinite": (_set(data=np.full(72_000, np.inf, "f8")), "24000 of 24000 samples are NaN or infinite"),
    "silent": (_set(data=np.zeros(72_000, "f4")), "P_1 .*is digital silence"),
    "never written": (_set(shape=(2**40,), dtype="f4", chunks=(4_096,)), "P_1 .*is digital silence"),
    "too short": (_set(data=recording(1.2)), r"P_1 .*the recording ends at 1\.200 s, within the segment"),
    "over before the segment": (_set(data=recording(0.5)), r"lasts 0\.500 s and ends before the segment's start"),
    "behind an external link": (_external, "'P' is not in the file"),
    "behind a soft link": (_soft, "'P' is not in the file"),
    "behind a soft link to nothing": (
        lambda file: file.__setitem__("P", h5py.SoftLink("/nowhere")),
        "'P' is not in the file",
    ),
    "behind a soft link to itself": (lambda file: file.__setitem__("P", h5py.SoftLink("/P")), "'P' is not in the file"),
    "virtual": (_virtual, "keeps its samples in another file"),
    "stored outside": (_outside, "keeps its samples in another file"),
}
GOOD_RECORDINGS: dict[str, np.ndarray] = {
    "float16": recording().astype("f2"),
    "float32": recording(),
    "float32, big-endian": recording().astype(">f4"),
    "float64": recording().astype("f8"),
    "int16": (32_768 * recording()).astype("i2"),
    "int32": (2**31 * recording().astype("f8")).astype("i4"),
    "one channel": recording()[None],
    "two channels": np.stack([recording() * 1.5, recording() * 0.5]),
}


def epic_clip(path: Path) -> NoiseClip:
    return NoiseClip("P_1", path, "rustle", "P", span=(1.0, 2.0), member="P")


@pytest.mark.parametrize("case", BAD_RECORDINGS)
def test_bad_recording_of_an_hdf5_file_is_one_line_that_names_both(case: str, tmp_path: Path):
    build, expected = BAD_RECORDINGS[case]
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        build(file)
    with at_most(10):
        text = refusal(reading.read_clip, epic_clip(tmp_path / "audio.hdf5"), 5.0)
    assert str(tmp_path / "audio.hdf5") in text
    assert re.search(expected, text)


def test_recording_without_a_shape_is_one_line(tmp_path: Path):
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P"] = h5py.Empty("f4")
    assert "not samples" in refusal(reading.read_clip, epic_clip(tmp_path / "audio.hdf5"), 5.0)


@pytest.mark.parametrize("case", GOOD_RECORDINGS)
def test_recording_of_any_sample_format_is_read_alike(case: str, tmp_path: Path):
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P"] = GOOD_RECORDINGS[case]
    found = hdf5.read_span(tmp_path / "audio.hdf5", "P", 1.0, 2.0, EPIC_RATE).numpy()
    np.testing.assert_allclose(found, recording()[EPIC_RATE : 2 * EPIC_RATE], atol=2**-11 if "16" in case else 1e-7)


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as HDF5"),
    "text": (lambda path: path.write_text("P\n" * 1_000), "cannot be read as HDF5"),
    "cut in half": (lambda path: os.truncate(path, path.stat().st_size // 2), "cannot be read as HDF5"),
    "cut in its header": (lambda path: os.truncate(path, 100), "cannot be read as HDF5"),
    "a header alone": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), "cannot be read as HDF5"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_hdf5_file_is_one_line_that_names_it(case: str, tmp_path: Path):
    build, expected = BAD_FILES[case]
    path = tmp_path / "audio.hdf5"
    with h5py.File(path, "w") as file:
        file["P"] = recording()
    build(path)
    text = refusal(reading.read_clip, epic_clip(path), 5.0)
    assert str(path) in text
    assert re.search(expected, text)
    if case != "missing":
        assert str(path) in refusal(hdf5.durations, path, EPIC_RATE)


def test_recording_that_was_never_written_is_not_read_whole(tmp_path: Path):
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file.create_dataset("P", (2**40,), "f4", chunks=(4_096,))
    before = peak_kilobytes()
    assert not hdf5.read_span(tmp_path / "audio.hdf5", "P", 1e6, 1e6 + 5, EPIC_RATE).any()
    assert hdf5.durations(tmp_path / "audio.hdf5", EPIC_RATE) == {"P": 2**40 / EPIC_RATE}
    assert peak_kilobytes(again=False) - before < 50_000


def test_recording_behind_a_linked_group_is_not_in_the_file(tmp_path: Path):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["group/P"] = recording()
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["group"] = h5py.ExternalLink("other.hdf5", "group")
    assert "not in the file" in refusal(hdf5.read_span, tmp_path / "audio.hdf5", "group/P", 0.0, 1.0, EPIC_RATE)


def test_recording_of_one_great_chunk_is_not_unpacked_whole(tmp_path: Path):
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        data = file.create_dataset("P", (2**25,), "f4", chunks=(2**25,), compression="gzip", compression_opts=1)
        data[:10] = 1.0
    before = peak_kilobytes()
    with contextlib.suppress(ClipError):
        hdf5.read_span(tmp_path / "audio.hdf5", "P", 1.0, 6.0, EPIC_RATE)
    assert peak_kilobytes(again=False) - before < 60_000


@pytest.mark.filterwarnings("error", "default::ResourceWarning")
def test_recording_beyond_float32_is_refused_without_a_warning(tmp_path: Path):
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P"] = np.full(72_000, 1e300)
    assert "NaN or infinite" in refusal(hdf5.read_span, tmp_path / "audio.hdf5", "P", 1.0, 2.0, EPIC_RATE)


def test_segment_that_ends_after_the_largest_number_has_no_content(tmp_path: Path):
    soundfile.write(tmp_path / "P.wav", noise_sound(0), RATE)
    clip = NoiseClip("P_1", tmp_path / "P.wav", "", "P", span=(0.0, 1.7e308 / EPIC_RATE))
    assert manifests.digest_of(clip) == ""


BAD_SEGMENTS: dict[str, tuple[str, float | str, float | str, str]] = {
    "start is text": ("P", "abc", 100, "start_sample is 'abc', not a number"),
    "start is too large": ("P", "1e400", 100, "start_sample is '1e400', not a number"),
    "start is NaN": ("P", "nan", 100, "start_sample is 'nan', not a number"),
    "start is empty": ("P", "", 100, "start_sample is '', not a number"),
    "stop is infinite": ("P", 0, "inf", "stop_sample is 'inf', not a number"),
    "start is negative": ("P", -1, 48_000, "are no segment"),
    "stop comes before start": ("P", 48_000, 24_000, "are no segment"),
    "stop is start": ("P", 48_000, 48_000, "are no segment"),
    "too short": ("P", 0, 100, "no segment of EPIC_Sounds_validation.csv has min_seconds=0.4"),
}


@pytest.mark.parametrize("case", BAD_SEGMENTS)
def test_bad_segment_is_one_line_that_names_table_and_row(world: World, case: str, tmp_path: Path, capfd):
    video, start, stop, expected = BAD_SEGMENTS[case]
    place = epic_of(tmp_path, ("P_1", video, start, stop))
    (place / "audio").mkdir()
    text = refusal(epic_sounds.epic_sounds, str(tmp_path))
    assert re.search(expected, text)
    assert "EPIC_Sounds_validation.csv" in text
    status, lines = checked(capfd, "epic_sounds", f"data.root={tmp_path}")
    assert status == 1
    assert re.search(expected, lines)


@pytest.mark.parametrize(
    "video",
    [
        "../P",
        "/P",
        "",
        "..\\P",
        "C:\\P",
    ],
)
def test_video_of_a_folder_of_sounds_cannot_leave_it(video: str, tmp_path: Path):
    place = epic_of(tmp_path, ("P_1", video, 0, 48_000))
    (place / "audio").mkdir()
    assert re.search("leaves|is no file name", refusal(epic_sounds.epic_sounds, str(tmp_path)))


def epic_words(world: World, root: Path, run_dir: Path) -> list[str]:
    kept = [word for word in world.with_root(root).words() if "esc50" not in word]
    own = ["dataset=epic_sounds", "dataset.epic_sounds.prompts_per_clip=1", "dataset.epic_sounds.manifest=null"]
    return ["run", "experiment=bnmusic/table1", *kept, *own, f"run_dir={run_dir}", *ALONE]


def test_bad_recordings_are_failed_rows_beside_good_ones(world: World, tmp_path: Path, capfd):
    names = [name for name in BAD_RECORDINGS if "link" not in name and name not in ("virtual", "stored outside")]
    rows = [(f"{name} 1", name, 24_000, 48_000) for name in ("good", *names)]
    place = epic_of(tmp_path, *rows)
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    with h5py.File(place / "EPIC_audio.hdf5", "w") as file:
        file["good"] = recording()
        for name in names:
            with h5py.File(tmp_path / "one.hdf5", "w") as one:
                BAD_RECORDINGS[name][0](one)
                if "P" in one:
                    one.copy("P", file, name)
    assert call(*epic_words(world, tmp_path, tmp_path / "run")) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    found = {row["clip"]: row for row in rows_of(tmp_path / "run")}
    assert set(found) == {f"{name} 1" for name in ("good", *names)}
    assert found.pop("good 1")["status"] == "ok"
    for name, row in found.items():
        assert row["status"] == "failed"
        assert row["reason"].isprintable()
        assert name[:-2] in row["reason"]
        assert "EPIC_audio.hdf5" in row["reason"]
    status, lines = checked(capfd, "epic_sounds", f"data.root={tmp_path}", "dataset.epic_sounds.manifest=null")
    assert status == 1
    assert f"{len(names) + 1} clips of 2 classes" in lines
    assert "in EPIC_audio.hdf5" in lines
    assert "recording too short ends at 1.2 s" in lines


def test_second_hdf5_file_must_be_chosen(world: World, tmp_path: Path, capfd):
    place = epic_of(tmp_path, ("P_1", "P", 0, 48_000))
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    for name in ("a.hdf5", "b.h5"):
        with h5py.File(place / name, "w") as file:
            file["P"] = recording()
    line = stopped(capfd, *epic_words(world, tmp_path, tmp_path / "run"))
    assert "holds a.hdf5 and b.h5; choose by dataset.epic_sounds.audio=FILE" in line
    chosen = f"dataset.epic_sounds.audio={place / 'b.h5'}"
    assert call(*epic_words(world, tmp_path, tmp_path / "run"), chosen) == 0


def test_no_recordings_at_all_say_where_they_come_from(world: World, tmp_path: Path, capfd):
    epic_of(tmp_path, ("P_1", "P", 0, 48_000))
    assert "EPIC_audio.hdf5" in stopped(capfd, *epic_words(world, tmp_path, tmp_path / "run"))
    missing = f"dataset.epic_sounds.audio={tmp_path / 'nowhere.hdf5'}"
    assert "nowhere.hdf5: not found" in stopped(capfd, *epic_words(world, tmp_path, tmp_path / "run"), missing)


def test_missing_and_bad_sounds_of_a_folder_are_failed_rows_beside_good_ones(world: World, tmp_path: Path, capfd):
    videos = ("good", "missing", "short", "text", "directory")
    place = epic_of(tmp_path, *[(f"{video}_1", video, 24_000, 48_000) for video in videos])
    (tmp_path / "MusicBench").symlink_to(world.root / "MusicBench")
    (place / "audio").mkdir()
    soundfile.write(place / "audio" / "good.wav", recording(), EPIC_RATE)
    soundfile.write(place / "audio" / "short.flac", recording(1.2), EPIC_RATE)
    (place / "audio" / "text.wav").write_text("no sound")
    (place / "audio" / "directory.wav").mkdir()
    assert call(*epic_words(world, tmp_path, tmp_path / "run")) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    found = {row["clip"]: (row["status"], row["reason"]) for row in rows_of(tmp_path / "run")}
    assert found.pop("good_1") == ("ok", "")
    expected = {
        "missing_1": r"missing\.wav: no such file",
        "short_1": r"short\.flac.*ends at 1\.200 s, within the segment",
        "text_1": r"text\.wav: not audio",
        "directory_1": r"directory\.wav: not a regular file",
    }
    assert set(found) == set(expected)
    for name, (status, reason) in found.items():
        assert status == "failed"
        assert re.search(expected[name], reason)
    status, lines = checked(capfd, "epic_sounds", f"data.root={tmp_path}", "dataset.epic_sounds.manifest=null")
    assert status == 1
    assert "missing_1" in lines


# Folders


def test_folder_without_sounds_is_one_line_that_names_folder_and_key(world: World, tmp_path: Path, capfd):
    sounds = tmp_path / "sounds"
    (sounds / ".hidden").mkdir(parents=True)
    (sounds / "notes.txt").write_text("no sound")
    soundfile.write(sounds / ".hidden.wav", noise_sound(0), RATE)
    soundfile.write(sounds / ".hidden" / "a.wav", noise_sound(0), RATE)
    line = stopped(capfd, *folder_words(world, tmp_path / "run", sounds))
    assert f"data.path={sounds}: holds no audio file" in line
    assert checked(capfd, "folder", f"data.path={sounds}")[0] == 1


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_folder_that_is_none_is_named(world: World, place: str, tmp_path: Path, capfd):
    (tmp_path / "file").write_text("")
    line = stopped(capfd, *folder_words(world, tmp_path / "run", tmp_path / place))
    assert f"data.path={tmp_path / place}: no such folder" in line


def test_folder_that_is_not_given_names_the_key(world: World, tmp_path: Path, capfd):
    words = [word for word in folder_words(world, tmp_path / "run", tmp_path) if not word.startswith("data.path")]
    assert "data.path: not set" in stopped(capfd, *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_folder_below_that_cannot_be_listed_is_named(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0)
    assert str(tmp_path / "closed") in refusal(folder.noise, str(tmp_path))


def test_nested_folders_are_searched_and_linked_ones_are_not(tmp_path: Path):
    sounds = tmp_path / "sounds"
    for place in (sounds / "rain" / "light", sounds / "wind", tmp_path / "elsewhere"):
        place.mkdir(parents=True)
        soundfile.write(place / "a.wav", noise_sound(0), RATE)
    (sounds / "linked").symlink_to(tmp_path / "elsewhere")
    (sounds / "ring").symlink_to(sounds)
    found = folder.noise(str(sounds))
    assert [(clip.id, clip.label) for clip in found] == [("rain/light/a.wav", "light"), ("wind/a.wav", "wind")]


def test_deep_folders_are_searched_to_their_end(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    soundfile.write(deep / "a.wav", noise_sound(0), RATE)
    (clip,) = folder.noise(str(tmp_path))
    assert clip.id == "d/" * 300 + "a.wav"
    assert len(reading.read_clip(clip, 5.0)) == RATE


def test_table_of_a_folder_may_name_files_that_fail_and_give_prompts(world: World, tmp_path: Path, capfd):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "a.wav", noise_sound(0), RATE)
    table = tmp_path / "table.csv"
    table.write_text("\ufefffile,label,prompt\na.wav,rain,calm jazz\na.wav,rain,loud punk\nmissing.wav,wind,\n")
    words = folder_words(world, tmp_path / "run", sounds, *ALONE, f"data.table={table}")
    assert call(*words) == 0
    rows = rows_of(tmp_path / "run")
    assert {(row["clip"], row["prompt"]) for row in rows if row["status"] == "ok"} == {
        ("a.wav", "calm jazz"),
        ("a.wav", "loud punk"),
    }
    (reason,) = {row["reason"] for row in rows if row["status"] == "failed"}
    assert reason.startswith(f"{sounds / 'missing.wav'}: no such file")
    status, lines = checked(capfd, "folder", f"data.path={sounds}", f"data.table={table}")
    assert status == 1
    assert "missing.wav" in lines


BAD_FOLDER_TABLES = {
    "empty": ("", "no column 'file'"),
    "of other columns": ("filename\na.wav\n", "no column 'file'"),
    "leads up": ("file\n../a.wav\n", "leaves"),
    "absolute": ("file\n/etc/passwd\n", "leaves"),
    "file twice": ("file,label\na.wav,rain\na.wav,rain\n", "'a.wav' stands twice without a prompt"),
    "file twice, once with a prompt": ("file,prompt\na.wav,calm jazz\na.wav,\n", "stands twice without a prompt"),
}


@pytest.mark.parametrize("case", BAD_FOLDER_TABLES)
def test_bad_table_of_a_folder_is_one_line_that_names_it(world: World, case: str, tmp_path: Path, capfd):
    content, expected = BAD_FOLDER_TABLES[case]
    table = tmp_path / "table.csv"
    table.write_text(content)
    line = stopped(capfd, *folder_words(world, tmp_path / "run", tmp_path, f"data.table={table}"))
    assert str(table) in line
    assert re.search(expected, line)


def test_file_twice_of_a_folder_with_a_prompt_in_its_second_row_alone_is_refused(tmp_path: Path):
    (tmp_path / "table.csv").write_text("file,prompt\na.wav,\na.wav,calm jazz\n")
    assert "stands twice" in refusal(folder.noise, str(tmp_path), str(tmp_path / "table.csv"))


def test_bad_music_of_a_folder_fails_the_pairs_that_drew_it(world: World, tmp_path: Path):
    music = tmp_path / "music"
    write_musicbench(tmp_path)
    shutil.move(tmp_path / "MusicBench" / "data", music)
    for number in range(3):
        (music / f"bad{number}.ogg").write_text("no sound")
    kept = [word for word in world.run_words(tmp_path / "run", *CHEAP, "limit=9") if not word.startswith("music")]
    assert call(*kept, "music=folder", f"data.music_path={music}") == 0
    rows = rows_of(tmp_path / "run")
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["arm"] for row in failed} == {"random_music"}
    assert len(failed) < len(rows) / 2
    for row in failed:
        assert re.match(rf"{re.escape(str(music))}/bad\d\.ogg: not audio", row["reason"])
