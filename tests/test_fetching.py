"""Downloads, unpacking, and `blendbench data fetch`: a real HTTP server, and archives as bad as archives get."""

import fcntl
import gzip
import hashlib
import io
import json
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.servers import Server, running_server

from blendbench.datasets import archives
from blendbench.datasets import fetch as data
from blendbench.datasets.archives import unpack, workplace
from blendbench.downloads import addresses, download, offline_variable
from blendbench.errors import BlendbenchError


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return np.random.default_rng(seed).bytes(size)


CONTENT = noise(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILES = {
    "top/LICENSE": b"a licence",
    "top/audio/a.wav": noise(3000, 1),
    "top/audio/b.wav": noise(5000, 2),
    "top/meta/t.csv": b"x\n1\n",
}


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        running.files["/there/f.bin"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BLENDBENCH_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def refusal(call: Callable[[], object]) -> str:
    """The one line of a failure."""
    with pytest.raises(BlendbenchError) as caught:
        call()
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000
    return text


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: what a full disk does, without one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Downloads.


def test_file_comes_with_a_note_of_its_hash(server, tmp_path):
    target = tmp_path / "deep" / "f.bin"
    note = target.with_name("f.bin.sha256")
    assert download("it", f"{server.address}/there/f.bin", target, size=len(CONTENT), note=note) == DIGEST
    assert tree(tmp_path) == {"deep/f.bin": CONTENT, "deep/f.bin.sha256": f"{DIGEST}  f.bin\n".encode()}


@pytest.mark.parametrize("kind", ["ranges", "no ranges", "no length"])
def test_download_goes_on_after_a_broken_connection(server, tmp_path, kind):
    server.ranges, server.chunked, server.cut_after = kind == "ranges", kind == "no length", 1_200_000
    url, target = f"{server.address}/there/f.bin", tmp_path / "f.bin"
    text = refusal(lambda: download("it", url, target, remedy="ask a friend"))
    assert text.startswith(f"it: {url}: the connection broke after 1200000") and text.endswith(
        "; 1.2 MB are kept, and the same command goes on from there, or ask a friend"
    )
    assert tree(tmp_path) == {"f.bin.part": CONTENT[:1_200_000]}

    server.cut_after = None
    assert download("it", url, target) == DIGEST
    assert server.requests[-1][2] == "bytes=1200000-"
    assert tree(tmp_path) == {"f.bin": CONTENT}


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_download_that_was_killed_at_its_end_is_taken_up_or_begun_anew(server, tmp_path, left):
    (tmp_path / "f.bin.part").write_bytes(left)
    assert download("it", f"{server.address}/there/f.bin", tmp_path / "f.bin") == DIGEST


@pytest.mark.parametrize("where", ["at the redirect", "at the end", "as ETag"])
@pytest.mark.parametrize("resumed", [False, True])
def test_hash_that_the_hub_tells_is_held_against_what_came(server, tmp_path, where, resumed):
    url, target = f"{server.address}/hub/f.bin", tmp_path / "f.bin"
    server.redirects["/hub/f.bin"] = "/there/f.bin"
    place, name = "/hub/f.bin" if where == "at the redirect" else "/there/f.bin", "X-Linked-Etag"
    server.headers["/there/f.bin"] = {"ETag": '"0123-4"'}
    if where == "as ETag":
        name = "ETag"
    for tag, good in ((hashlib.sha256(b"other").hexdigest(), False), (DIGEST, True)):
        server.headers.setdefault(place, {})[name] = f'"{tag}"'
        if resumed:
            (tmp_path / "f.bin.part").write_bytes(CONTENT[:1000])
        if good:
            assert download("it", url, target, tagged=True) == DIGEST
        else:
            text = refusal(lambda: download("it", url, target, tagged=True))
            assert f"{url}: what came has sha256 {DIGEST}, not that in its ETag {tag}" in text
            assert tree(tmp_path) == {}
    server.headers[place][name] = '"' + 64 * "0" + '"'
    assert download("it", url, target) == DIGEST  # elsewhere it means something else


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("hash", f"what came has sha256 {DIGEST}, not the known 00ff, and was removed; set BLENDBENCH_MIRROR"),
        ("size", "it has 3000000 bytes there, not 17; type it again"),
        ("not found", "HTTP 404 Not Found; type it again, or set BLENDBENCH_MIRROR to another place"),
        ("no server", "Connection refused"),
        ("no such host", "; type it again, or set BLENDBENCH_MIRROR"),
        ("web page", "a web page is there, not the file"),
    ],
)
def test_failed_download_is_a_line_with_url_and_reason_and_leaves_nothing(server, tmp_path, case, reason):
    url = f"{server.address}/there/f.bin"
    if case == "not found":
        server.files.clear()
    elif case == "no server":
        url = "http://127.0.0.1:9/f.bin"
    elif case == "no such host":
        url = "http://nowhere.invalid/f.bin"
    elif case == "web page":
        server.content_type = "text/html; charset=utf-8"
    known = [("the known", "00ff")] if case == "hash" else []
    size = 17 if case == "size" else None
    text = refusal(lambda: download("it", url, tmp_path / "f.bin", size=size, expected=known))
    assert text.startswith(f"it: {url}: ") and reason in text
    assert tree(tmp_path) == {}


def test_download_on_a_full_disk_keeps_what_it_could_write(server, tmp_path):
    url, target = f"{server.address}/there/f.bin", tmp_path / "f.bin"
    with largest_file(1_500_000):
        text = refusal(lambda: download("it", url, target))
    assert text == (
        f"{target}.part: cannot be written (File too large); free space or choose another folder, and type it again: "
        "it goes on where it was"
    )
    assert tree(tmp_path) == {"f.bin.part": CONTENT[:1_500_000]}
    assert download("it", url, target) == DIGEST
    assert server.requests[-1][2] == "bytes=1500000-"


def test_two_downloads_of_a_file_do_not_mix(server, tmp_path):
    with (tmp_path / "f.bin.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = refusal(lambda: download("it", f"{server.address}/there/f.bin", tmp_path / "f.bin"))
    assert text == f"{tmp_path}/f.bin.part: another fetch is writing it; wait for it to end"
    assert server.requests == []


def test_mirror_takes_the_place_of_the_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BLENDBENCH_MIRROR", f"{server.address}/there/")
    assert addresses("https://x.invalid/y", "a%3Db") == [
        f"{server.address}/there/a%3Db",
        f"{server.address}/there/a%253Db",
    ]
    assert download("it", "https://x.invalid/y", tmp_path / "f.bin") == DIGEST


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "0"}, None),
        ({"HF_HUB_OFFLINE": "yes"}, "HF_HUB_OFFLINE"),
        ({"TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE"),
    ],
)
def test_offline_switch_is_read_as_the_hubs_library_reads_it(monkeypatch, settings, found):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert offline_variable() == found


# Archives.


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipFile], None] = lambda _: None) -> bytes:
    """A zip; `change` sees it before its table of contents is written."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
        change(archive)
    return made.getvalue()


def tarred(files: dict[str, bytes], *special: tuple[str, bytes], **settings: object) -> bytes:
    """A tar with files and members of other types, by name and type."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", **settings) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in special:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "top/LICENSE"
            archive.addfile(info)
    return made.getvalue()


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    if kind == "zip":
        return zipped(files)
    return tarred(files) if kind == "tar" else gzip.compress(tarred(files), 1)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A folder with room for an archive and what comes out of it."""
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def put(box: Path, name: str, content: bytes) -> Path:
    (box / name).write_bytes(content)
    return box / name


def refused_archive(archive: Path, **settings: object) -> str:
    """The line that refuses an archive, of which nothing came out."""
    before = tree(archive.parent)
    text = refusal(lambda: unpack(archive, archive.parent / "out", **{"max_bytes": 10_000_000, **settings}))
    assert text.startswith(f"{archive}")
    assert tree(archive.parent) == before and not (archive.parent / "out").exists()
    assert sorted(path.name for path in archive.parent.parent.iterdir()) == ["box"]
    return text


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz"])
def test_archive_is_unpacked_and_unpacked_again_for_what_is_missing(box, kind):
    archive, out = put(box, f"a.{kind}", packed(kind, FILES)), box / "deep" / "out"
    assert unpack(archive, out, max_bytes=10_000) == 4
    assert tree(out) == FILES
    (out / "top/audio/a.wav").unlink()
    seen = (out / "top/meta/t.csv").stat().st_ino
    assert unpack(archive, out, max_bytes=10_000) == 1
    assert tree(out) == FILES and (out / "top/meta/t.csv").stat().st_ino == seen
    assert sorted(path.name for path in box.rglob("*") if path.name.startswith(".")) == []
    assert stat.S_IMODE((out / "top/LICENSE").stat().st_mode) & 0o133 == 0


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_leading_folder_is_left_out_and_only_what_is_asked_for_is_taken(box, kind):
    archive = put(box, f"a.{kind}", packed(kind, {**FILES, "top/audio2/c.wav": b"c", "top/METADATA": b"m"}))
    assert unpack(archive, box / "out", max_bytes=10_000, strip=1, keep=("audio", "LICENSE")) == 3
    assert sorted(tree(box / "out")) == ["LICENSE", "audio/a.wav", "audio/b.wav"]
    text = refusal(lambda: unpack(archive, box / "other", max_bytes=10_000, strip=1, keep=("nothing",)))
    assert text == f"{archive}: holds no file of nothing; nothing was unpacked: get the archive from somewhere else"


@pytest.mark.parametrize("leading", ["", "./", "datashare/", "./data/x/"])
def test_what_stands_before_a_kept_folder_can_be_left_out(box, leading):
    names = {f"{leading}data/a.wav": b"a", f"{leading}data_aug2/a_1.wav": b"b", f"{leading}readme": b"c"}
    archive = put(box, "a.tar", tarred(names, (f"{leading}data", tarfile.DIRTYPE), format=tarfile.GNU_FORMAT))
    assert unpack(archive, box / "out", max_bytes=100, strip=None, keep=("data", "data_aug2")) >= 2
    assert {"data/a.wav", "data_aug2/a_1.wav"} <= set(tree(box / "out"))


def test_name_without_the_leading_folder_is_refused(box):
    assert "'b': it does not lie in 1 leading folder" in refused_archive(
        put(box, "a.zip", zipped({"top/a": b"a", "b": b"b"})), strip=1
    )


NAMES = {
    "/etc/evil": "its name is absolute",
    "../evil": "its name leads out of the folder",
    "top/../../evil": "its name leads out of the folder",
    "C:/evil": "its name holds a drive letter",
    "top/c:evil": "its name holds a drive letter",
    "top\\..\\evil": "its name holds a backslash",
    "top/a\nb": "its name holds characters that cannot be decoded or shown",
    "top/" + 300 * "n": "its name is too long",
    ".": "it has no name",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("keep", [(), ("LICENSE",)])
def test_unsafe_name_is_refused_even_if_nobody_asks_for_it(box, kind, name, keep):
    text = refused_archive(put(box, f"a.{kind}", packed(kind, {**FILES, name: b"x"})), strip=len(keep), keep=keep)
    assert re.fullmatch(rf".*a\.{kind}, member '.+': {NAMES[name]}; nothing was unpacked: .*", text)


def test_null_in_a_zips_name_is_refused(box):
    text = refused_archive(put(box, "a.zip", zipped({"top/a.wav\0.txt": b"x"})))
    assert "member 'top/a.wav\\x00.txt': its name holds characters that cannot" in text


def test_name_that_is_not_utf8_is_refused(box):
    text = refused_archive(put(box, "a.zip", zipped({"top/ü": b"x"}).replace("ü".encode(), b"\xff\xfe")))
    assert "a.zip: holds a name that cannot be decoded" in text
    made = tarred({"top/\udcff": b"x"}, format=tarfile.GNU_FORMAT)
    assert b"top/\xff" in made
    text = refused_archive(put(box, "a.tar", made))
    assert "member 'top/\\udcff': its name holds characters that cannot be decoded or shown" in text


@pytest.mark.parametrize("keep", [(), ("LICENSE",)])
@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device or another special file"),
        (tarfile.BLKTYPE, "is a device or another special file"),
        (tarfile.FIFOTYPE, "is a device or another special file"),
        (tarfile.GNUTYPE_SPARSE, "is a device or another special file"),
        (b"V", "is a device or another special file"),
    ],
)
def test_tars_links_and_devices_are_refused_even_if_nobody_asks_for_them(box, type_, reason, keep):
    text = refused_archive(put(box, "a.tar", tarred(FILES, ("top/x", type_))), strip=len(keep), keep=keep)
    assert f"a.tar, member 'top/x': {reason}; nothing was unpacked" in text


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "is a device"), (stat.S_IFIFO, "is a device")],
)
def test_zips_links_and_devices_are_refused(box, mode, reason):
    def change(archive: zipfile.ZipFile) -> None:
        archive.infolist()[2].external_attr = (mode | 0o644) << 16

    text = refused_archive(put(box, "a.zip", zipped(FILES, change)))
    assert f"a.zip, member 'top/audio/b.wav': {reason}" in text


@pytest.mark.parametrize("bit", [0x1, 0x40, 0x2000])
def test_encrypted_zip_is_refused(box, bit):
    def change(archive: zipfile.ZipFile) -> None:
        archive.infolist()[1].flag_bits |= bit

    text = refused_archive(put(box, "a.zip", zipped(FILES, change)))
    assert "a.zip, member 'top/audio/a.wav': is encrypted" in text


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_packed_by_a_method_without_a_memory_limit_is_refused(box, method):
    with zipfile.ZipFile(box / "a.zip", "w", method) as archive:
        archive.writestr("a.wav", bytes(1000))
    assert f"member 'a.wav': is packed by a method that is not taken ({method})" in refused_archive(box / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("top/a", "./top//a", "stands twice in it"),
        ("top/a", "top/A", "stands twice in it"),
        ("top/\u00e9", "top/e\u0301", "stands twice in it"),
        ("top/a", "top/a/b", "is both a file and a folder in it"),
        ("top/a/b", "top/a", "is both a file and a folder in it"),
    ],
)
def test_members_that_would_overwrite_each_other_are_refused(box, kind, first, second, reason):
    text = refused_archive(put(box, f"a.{kind}", packed(kind, {first: b"1", second: b"1"})))
    assert f": {reason}; nothing was unpacked" in text


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("there", [b"", b"other", FILES["top/audio/b.wav"][:-1], FILES["top/audio/b.wav"] + b"x"])
def test_file_with_other_content_is_not_overwritten(box, kind, there):
    archive, out = put(box, f"a.{kind}", packed(kind, FILES)), box / "out"
    (out / "top/audio").mkdir(parents=True)
    (out / "top/audio/b.wav").write_bytes(there)
    text = refusal(lambda: unpack(archive, out, max_bytes=10_000))
    assert text == (
        f"{archive}, member 'top/audio/b.wav': {out}/top/audio/b.wav is there with other content; nothing was "
        "unpacked: delete that file or move it away, and unpack it again"
    )
    assert tree(out) == {"top/audio/b.wav": there} and not workplace(out).exists()


def test_link_or_folder_in_a_files_place_is_not_written_through(box, tmp_path):
    archive, out = put(box, "a.zip", zipped(FILES)), box / "out"
    out.joinpath("top").mkdir(parents=True)
    for make in (lambda place: place.symlink_to(tmp_path / "victim"), lambda place: place.mkdir()):
        make(out / "top/LICENSE")
        assert "LICENSE is there with other content" in refusal(lambda: unpack(archive, out, max_bytes=10_000))
        shutil.rmtree(out / "top")
        out.joinpath("top").mkdir()
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_bomb_is_stopped_by_the_bytes_that_come(box, kind, monkeypatch):
    archive = put(box, f"a.{kind}", packed(kind, {"top/zeros": bytes(30_000_000)}))
    written: list[int] = []
    clear = archives._Stage.clear

    def measured(stage: archives._Stage) -> None:
        written.extend(map(len, tree(stage.work).values()))
        clear(stage)

    monkeypatch.setattr(archives._Stage, "clear", measured)
    text = refused_archive(archive, max_bytes=2_000_000)
    assert "member 'top/zeros': more than the 2000000 bytes that were expected come out of the archive" in text
    assert written and max(written) <= 2_000_000
    if kind != "zip":  # what is passed over has to be read, and counts
        text = refused_archive(archive, max_bytes=2_000_000, keep=("other",))
        assert "more than the 2000000 bytes that were expected" in text


def test_limits_are_inclusive(box):
    total = sum(map(len, FILES.values()))
    for kind in ("zip", "tar.gz"):
        archive = put(box, f"a.{kind}", packed(kind, FILES))
        assert unpack(archive, box / kind, max_bytes=total, max_members=4) == 4
        assert "more than the 8012 bytes" in refused_archive(archive, max_bytes=total - 1)
        assert "more than the 3 members that were expected" in refused_archive(archive, max_bytes=total, max_members=3)


@pytest.mark.parametrize("size", [10, 29_999_999, 30_000_001, 2**32 - 2])
def test_zip_whose_header_lies_about_a_size_is_damaged(box, size):
    def change(archive: zipfile.ZipFile) -> None:
        archive.infolist()[0].file_size = size

    text = refused_archive(put(box, "a.zip", zipped({"zeros": bytes(30_000_000)}, change)), max_bytes=2**33)
    assert "a.zip, member 'zeros': damaged (" in text and text.endswith("delete the archive and fetch it again")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_memory_stays_flat(box, kind):
    files = {"zeros": bytes(60_000_000)}
    if kind == "tar.gz":
        files |= {f"other/{number}": b"" for number in range(16_000)}
    archive = put(box, f"a.{kind}", packed(kind, files))
    tracemalloc.start()
    try:
        assert unpack(archive, box / "out", max_bytes=60_000_000, keep=("zeros",)) == 1
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_long_headers_do_not_take_memory(box):
    many = {f"{number:08d}": b"" for number in range(25_000)}
    text = refused_archive(put(box, "a.zip", zipped(many)), max_members=10)
    assert "a.zip: its table of contents is longer than that of the members that were expected" in text
    text = refused_archive(box / "a.zip", max_members=20_000, keep=("other",))
    assert "a.zip, member '00020000': more than the 20000 members that were expected" in text
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    made = tarred(FILES)[:-10240] + long.tobuf(tarfile.GNU_FORMAT) + bytes(long.size) + tarred(FILES)
    text = refused_archive(put(box, "a.tar.gz", gzip.compress(made, 1)))
    assert "damaged (a header of 50000384 bytes)" in text
    chain = tarfile.TarInfo("x")
    chain.type = tarfile.XHDTYPE
    text = refused_archive(put(box, "b.tar.gz", gzip.compress(5000 * chain.tobuf(tarfile.PAX_FORMAT))))
    assert "b.tar.gz: damaged (" in text


def test_tar_that_points_backwards_or_goes_on_is_refused(box):
    back = tarfile.TarInfo("x")
    back.size = -512
    made = tarred({"top/a": b"a"})[:1024] + back.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert "member 'x': damaged (it has 0 bytes, not -512)" in refused_archive(put(box, "a.tar", made))
    text = refused_archive(put(box, "b.tar.gz", gzip.compress(tarred(FILES) + bytes(20_000_000), 1)))
    assert "b.tar.gz, after member 'top/meta/t.csv': goes on after its end" in text


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archive_that_is_cut_short_is_refused_wherever_it_is_cut(box, kind):
    content = packed(kind, FILES)
    # Between members and in their headers, too; a tar's last block mark is there as long as its first 512 bytes are.
    ends = sum(512 + -(-len(data) // 512) * 512 for data in FILES.values()) + 512 if kind == "tar" else len(content)
    for cut in sorted({0, 1, 511, 512, 1024, 1536, ends - 513, ends - 512, ends - 1, *range(5, ends, 617)}):
        text = refused_archive(put(box, f"a.{kind}", content[:cut]))
        assert ": damaged (" in text and text.endswith("; nothing was unpacked: delete the archive and fetch it again")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_damaged_archive_is_refused_or_does_no_harm(box, kind):
    content, out = packed(kind, FILES), box / "out"
    refused = 0
    for place in range(3, len(content), 37):
        archive = put(box, f"a.{kind}", content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            unpack(archive, out, max_bytes=10_000_000)
        except BlendbenchError as error:
            refused += 1
            assert str(error).isprintable() and str(error).startswith(str(archive))
            assert not out.exists()
        else:
            assert tree(out) == FILES
            shutil.rmtree(out)
        assert sorted(path.name for path in box.iterdir()) == [archive.name]
    assert refused > 200


def test_damaged_header_in_the_middle_of_a_tar_is_not_its_end(box):
    content = bytearray(tarred(FILES))
    content[1024 + 148] ^= 1
    text = refused_archive(put(box, "a.tar", bytes(content)))
    assert "a.tar, after member 'top/LICENSE': damaged (it breaks off)" in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.zip", b"<html>", "a.zip: is a web page, not the file itself; fetch the file"),
        ("a.zip", b"no archive", "a.zip: damaged (File is not a zip file)"),
        ("a.tar", b"no archive", "a.tar: damaged ("),
        ("a.tar.gz", b"no archive", "a.tar.gz: damaged (Not a gzipped file"),
        ("a.tar", tarred({}), "a.tar: holds no file; "),
        ("a.zip", zipped({}), "a.zip: holds no file; "),
        ("a.rar", b"Rar!", "a.rar: not a .zip, .tar or .tar.gz"),
    ],
)
def test_what_is_no_archive_is_told(box, name, content, reason):
    assert f"{box}/{reason}" in refused_archive(put(box, name, content))


def test_missing_archive_is_told(box):
    text = refusal(lambda: unpack(box / "a.zip", box / "out", max_bytes=1))
    assert text == f"{box}/a.zip: cannot be read (No such file or directory); fetch it again"


def test_full_disk_is_told_and_leaves_no_half_files(box):
    archive = put(box, "a.tar", tarred(FILES))
    with largest_file(4000):
        text = refused_archive(archive)
    assert text == (
        f"{archive}, member 'top/audio/b.wav': cannot be written to {box}/out (File too large); free space or choose "
        "another folder, and unpack it again"
    )


def test_target_that_cannot_be_a_folder_is_told(box):
    archive = put(box, "a.tar", tarred(FILES))
    (box / "file").write_bytes(b"mine")
    text = refusal(lambda: unpack(archive, box / "file" / "out", max_bytes=10_000))
    assert f"cannot be written to {box}/file/out (Not a directory)" in text
    assert tree(box) == {"a.tar": archive.read_bytes(), "file": b"mine"}


def test_two_unpacks_of_an_archive_do_not_mix(box):
    archive = put(box, "a.zip", zipped(FILES))
    with archive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = refused_archive(archive)
    assert text == f"{archive}: another process is unpacking it; wait for it to end"


KILLED = """
import os, pathlib, signal, sys
from blendbench.datasets.archives import unpack
left, what = int(sys.argv[3]), sys.argv[4]
def dying(real):
    def call(*arguments):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call
if what == "write":
    os.fsync = dying(os.fsync)
else:
    pathlib.Path.replace = dying(pathlib.Path.replace)
unpack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), max_bytes=10000)
"""


@pytest.mark.parametrize(("kind", "what", "left"), [("tar.gz", "write", 3), ("zip", "move", 3)])
def test_killed_unpack_leaves_nothing_torn_and_the_next_goes_on(box, kind, what, left):
    archive, out = put(box, f"a.{kind}", packed(kind, FILES)), box / "out"
    words = [sys.executable, "-c", KILLED, str(archive), str(out), str(left), what]
    assert subprocess.run(words, timeout=60).returncode == -signal.SIGKILL
    assert workplace(out).is_dir()
    if what == "write":
        assert not out.exists()
        # As if the power had failed, too.
        (workplace(out) / "top/audio/a.wav").write_bytes(FILES["top/audio/a.wav"][:1000] + bytes(100))
        (workplace(out) / "top/LICENSE").write_bytes(b"a licence and more")
    else:
        moved = tree(out)
        assert len(moved) == 2 and moved.items() <= FILES.items()
    assert unpack(archive, out, max_bytes=10_000) == (4 if what == "write" else 2)
    assert tree(out) == FILES and not workplace(out).exists()


# Data sets.

ESC50 = {
    "audio/1-1-A-0.wav": noise(9000, 3),
    "audio/1-2-A-1.wav": noise(9000, 4),
    "audio/1-3-A-2.wav": noise(9000, 5),
    "meta/esc50.csv": b"filename,fold\n1-1-A-0.wav,1\n",
}
EXTRA = {"LICENSE": b"CC", "README.md": b"# ESC-50", "tests/test.py": b"", "meta/other.xlsx": b"x"}
ARCHIVE = "ESC-50-33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6.zip"
AUDIO = {"data/-0Gj8-vB1q4.wav": noise(4000, 6), "data_aug2/-0Gj8-vB1q4_1.wav": noise(4000, 7)}
TABLE = "".join(json.dumps({"location": name, "main_caption": "A song."}) + "\n" for name in AUDIO).encode()
EPIC = b"annotation_id,video_id,start_sample,stop_sample,class\nP01_0,P01_1,0,24000,scrub\n"


@pytest.fixture
def esc50(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A small ESC-50 on a server that is like GitHub's."""
    listed = tmp_path / "files.md5"
    listed.write_text("".join(f"{hashlib.md5(content).hexdigest()}  {name}\n" for name, content in ESC50.items()))
    source = replace(data.sources()["esc50"], archive=f"{server.address}/e/c.zip", checksums=listed)
    monkeypatch.setitem(data.sources(), "esc50", source)
    server.files["/e/c.zip"] = zipped({f"ESC-50-33c8/{name}": content for name, content in (ESC50 | EXTRA).items()})
    server.chunked = True
    return server


@pytest.fixture
def musicbench(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A small MusicBench on a server that is like the hub's."""
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    # What the machine has free is not the tests' business.
    monkeypatch.setitem(data.sources(), "musicbench", replace(data.sources()["musicbench"], room=1.0))
    base = "/datasets/amaai-lab/MusicBench/resolve/main/"
    archive = gzip.compress(tarred({f"datashare/{name}": content for name, content in AUDIO.items()}))
    for name, content in (("MusicBench_train.json", TABLE), ("MusicBench.tar.gz", archive)):
        server.redirects[base + name] = f"/storage/{name}"
        server.headers[base + name] = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
        server.files[f"/storage/{name}"] = content
    return server


@pytest.fixture
def epic_sounds(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    names = ("EPIC_Sounds_train.csv", "EPIC_Sounds_validation.csv")
    tables = tuple(f"{server.address}/epic/{name}" for name in names)
    monkeypatch.setitem(data.sources(), "epic_sounds", replace(data.sources()["epic_sounds"], tables=tables))
    server.files |= {f"/epic/{name}": EPIC for name in names}
    return server


def test_published_checksums_name_every_file_of_esc50():
    place = data._Place(Path("nowhere"), data.sources()["esc50"])
    names = [fault.name for fault in data._faults(place)]
    assert len(set(names)) == 2001
    assert sum(name.startswith("audio/") for name in names) == 2000 and "meta/esc50.csv" in names


def test_esc50_is_fetched_checked_and_not_fetched_again(esc50, box, capsys):
    folder = data.fetch("esc50", box)
    assert folder == box / "ESC-50"
    assert tree(box) == {f"ESC-50/{name}": content for name, content in (ESC50 | EXTRA).items() if "test" not in name}
    assert capsys.readouterr().out.splitlines() == [
        f"esc50: licence CC BY-NC 3.0 (its ESC-10 part CC BY 3.0), from {esc50.address}/e/c.zip, about 646 MB",
        f"esc50: unpacking {box}/{ARCHIVE}",
        f"esc50: complete, {folder}",
    ]
    asked = len(esc50.requests)
    assert data.fetch("esc50", box) == folder
    assert capsys.readouterr().out == f"esc50: already here, {folder}\n"
    assert len(esc50.requests) == asked


def test_missing_file_of_esc50_is_fetched_alone(esc50, box):
    folder = data.fetch("esc50", box)
    (folder / "audio/1-2-A-1.wav").unlink()
    seen = (folder / "audio/1-1-A-0.wav").stat().st_ino
    data.fetch("esc50", box)
    assert (folder / "audio/1-2-A-1.wav").read_bytes() == ESC50["audio/1-2-A-1.wav"]
    assert (folder / "audio/1-1-A-0.wav").stat().st_ino == seen


def test_changed_file_of_esc50_is_told_before_anything_is_downloaded(esc50, box):
    folder = data.fetch("esc50", box)
    (folder / "audio/1-2-A-1.wav").write_bytes(b"changed")
    asked = len(esc50.requests)
    text = refusal(lambda: data.fetch("esc50", box))
    assert re.fullmatch(
        rf"{folder}: 1 file is not as published \(audio/1-2-A-1\.wav has md5 [0-9a-f]{{32}}, not [0-9a-f]{{32}}\); "
        r"delete it and type `blendbench data fetch esc50` again",
        text,
    )
    assert len(esc50.requests) == asked


def test_archive_that_is_not_what_was_published_is_told(esc50, box):
    wrong = {name: content[:-1] for name, content in ESC50.items()} | {"LICENSE": b"CC"}
    del wrong["audio/1-1-A-0.wav"]
    esc50.files["/e/c.zip"] = zipped({f"ESC-50-33c8/{name}": content for name, content in wrong.items()})
    text = refusal(lambda: data.fetch("esc50", box))
    assert text.startswith(
        f"{box}/ESC-50: 4 files are not as published (audio/1-1-A-0.wav is missing; audio/1-2-A-1.wav has md5 "
    )
    assert text.endswith(
        f"; and 1 more), though {box}/{ARCHIVE} is unpacked; if that came from elsewhere or is old, delete it and what "
        "differs, and type `blendbench data fetch esc50` again"
    )


def test_broken_fetch_of_esc50_goes_on(esc50, box):
    esc50.cut_after = 10_000
    text = refusal(lambda: data.fetch("esc50", box))
    url = f"{esc50.address}/e/c.zip"
    assert text.startswith(f"esc50: {url}: the connection broke after 10000 bytes; 0.0 MB are kept")
    assert text.endswith(f"or set BLENDBENCH_MIRROR to another place, or put {url} at {box}/{ARCHIVE} by hand")
    assert list(tree(box)) == [f"{ARCHIVE}.part"]
    esc50.cut_after = None
    data.fetch("esc50", box)
    assert esc50.requests[-1][2] == "bytes=10000-"
    assert not (box / ARCHIVE).exists()


def test_damaged_download_is_told_with_its_remedy(esc50, box):
    esc50.files["/e/c.zip"] = esc50.files["/e/c.zip"][:-400]
    text = refusal(lambda: data.fetch("esc50", box))
    assert text == (
        f"{box}/{ARCHIVE}: damaged (File is not a zip file); nothing was unpacked: delete the archive and fetch it "
        "again"
    )


def test_killed_unpack_is_taken_up_by_the_next_fetch(esc50, box):
    folder = data.fetch("esc50", box)
    asked = len(esc50.requests)
    (box / ARCHIVE).write_bytes(esc50.files["/e/c.zip"])
    workplace(folder).mkdir()
    (folder / "README.md").replace(workplace(folder) / "README.md")  # it was still to be moved
    data.fetch("esc50", box)
    assert (folder / "README.md").read_bytes() == EXTRA["README.md"]
    assert sorted(path.name for path in box.iterdir()) == ["ESC-50"]
    assert len(esc50.requests) == asked


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_only_what_was_put_here_by_hand_is_unpacked(esc50, box, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    text = refusal(lambda: data.fetch("esc50", box))
    assert text == (
        f"esc50: nothing is downloaded while {variable} is set; `unset {variable}` and type it again, or put "
        f"{esc50.address}/e/c.zip at {box}/{ARCHIVE} by hand"
    )
    assert tree(box) == {}
    (box / ARCHIVE).write_bytes(esc50.files["/e/c.zip"])
    data.fetch("esc50", box)
    assert esc50.requests == []
    assert (box / "ESC-50/meta/esc50.csv").read_bytes() == ESC50["meta/esc50.csv"]


def test_mirror_has_the_archive_by_its_local_name(esc50, box, monkeypatch, capsys):
    monkeypatch.setenv("BLENDBENCH_MIRROR", f"{esc50.address}/copy")
    esc50.files[f"/copy/{ARCHIVE}"] = esc50.files.pop("/e/c.zip")
    data.fetch("esc50", box)
    assert f"from {esc50.address}/copy/{ARCHIVE}, " in capsys.readouterr().out


def test_musicbench_is_fetched_to_where_its_table_looks(musicbench, box, capsys):
    folder = data.fetch("musicbench", box)
    assert tree(box) == {f"MusicBench/{name}": content for name, content in AUDIO.items()} | {
        "MusicBench/MusicBench_train.json": TABLE
    }
    base = f"{musicbench.address}/datasets/amaai-lab/MusicBench/resolve/main"
    assert capsys.readouterr().out.splitlines()[0] == (
        f"musicbench: licence CC BY-SA 3.0, from {base}/MusicBench_train.json and {base}/MusicBench.tar.gz, "
        "about 16.9 GB"
    )
    asked = len(musicbench.requests)
    data.fetch("musicbench", box)
    assert capsys.readouterr().out == f"musicbench: already here, {folder}\n"
    assert len(musicbench.requests) == asked


def test_audio_of_musicbench_that_is_here_is_not_downloaded_for_want_of_the_table(musicbench, box):
    folder = data.fetch("musicbench", box)
    (folder / "MusicBench_train.json").write_bytes(b"no json")
    musicbench.requests.clear()
    data.fetch("musicbench", box)
    assert (folder / "MusicBench_train.json").read_bytes() == TABLE
    assert not any("tar.gz" in path for _, path, _ in musicbench.requests)


def test_broken_fetch_of_musicbench_goes_on(musicbench, box):
    musicbench.cut_after = 3000
    text = refusal(lambda: data.fetch("musicbench", box))
    base = f"{musicbench.address}/datasets/amaai-lab/MusicBench/resolve/main"
    assert text.startswith(f"musicbench: {base}/MusicBench.tar.gz: the connection broke after 3000 of ")
    assert text.endswith(f"or put {base}/MusicBench.tar.gz at {box}/MusicBench.tar.gz by hand")
    musicbench.cut_after = None
    data.fetch("musicbench", box)
    assert musicbench.requests[-1] == ("GET", "/storage/MusicBench.tar.gz", "bytes=3000-")
    assert (box / "MusicBench" / next(iter(AUDIO))).is_file()


def test_musicbench_with_other_bytes_than_the_hub_says_is_removed(musicbench, box):
    musicbench.files["/storage/MusicBench.tar.gz"] = b"something else"
    text = refusal(lambda: data.fetch("musicbench", box))
    assert "what came has sha256" in text and "not that in its ETag" in text and "and was removed" in text
    assert list(tree(box)) == ["MusicBench/MusicBench_train.json"]


def test_audio_that_the_archive_lacks_is_told(musicbench, box):
    more = "".join(json.dumps({"location": f"data/{number}.wav"}) + "\n" for number in range(5)).encode()
    musicbench.files["/storage/MusicBench_train.json"] = TABLE + more
    for headers in musicbench.headers.values():
        headers.clear()
    text = refusal(lambda: data.fetch("musicbench", box))
    assert text.startswith(
        f"{box}/MusicBench: 5 files are not as published (data/0.wav is missing; data/1.wav is missing; data/2.wav is "
        f"missing; and 2 more), though {box}/MusicBench.tar.gz is unpacked; "
    )


def test_too_little_room_is_told_before_the_download(musicbench, box, monkeypatch):
    monkeypatch.setitem(data.sources(), "musicbench", replace(data.sources()["musicbench"], room=1e12))
    text = refusal(lambda: data.fetch("musicbench", box))
    assert re.fullmatch(
        rf"{box}: \d+\.\d GB are free, and musicbench needs about 1000000000\.0 GB until it is unpacked; free space, "
        r"or choose another disk by data\.root=DIR",
        text,
    )
    assert musicbench.requests == []


def test_tables_of_epic_sounds_are_fetched_and_the_audio_is_told_of(epic_sounds, box, capsys):
    folder = data.fetch("epic_sounds", box)
    tables = {f"EPIC-SOUNDS/EPIC_Sounds_{part}.csv": EPIC for part in ("train", "validation")}
    assert tree(box) == tables
    told = (
        "epic_sounds: the audio is given on request only: ask uob-epic-kitchens@bristol.ac.uk, or make it by the "
        f"recipe of https://github.com/ekazakos/auditory-slow-fast, and put it at {folder}/EPIC_audio.hdf5 or "
        f"{folder}/audio/VIDEO_ID.wav"
    )
    assert capsys.readouterr().out.splitlines()[1:] == [f"epic_sounds: complete, {folder}", told]
    epic_sounds.requests.clear()
    (folder / "EPIC_Sounds_train.csv").write_bytes(b"")
    data.fetch("epic_sounds", box)
    assert [path for _, path, _ in epic_sounds.requests] == ["/epic/EPIC_Sounds_train.csv"]
    assert tree(box) == tables
    capsys.readouterr()
    data.fetch("epic_sounds", box)
    assert capsys.readouterr().out.splitlines() == [f"epic_sounds: already here, {folder}", told]


@pytest.mark.parametrize("case", ["not found", "web page", "other table", "no network"])
def test_tables_that_cannot_be_had_are_told_with_what_to_do_by_hand(epic_sounds, box, monkeypatch, case):
    if case == "not found":
        del epic_sounds.files["/epic/EPIC_Sounds_train.csv"]
    elif case == "web page":
        epic_sounds.content_type = "text/html"
    elif case == "other table":
        epic_sounds.files["/epic/EPIC_Sounds_train.csv"] = b"a,b\n1,2\n"
    else:
        monkeypatch.setenv("BLENDBENCH_MIRROR", "http://127.0.0.1:9")
    text = refusal(lambda: data.fetch("epic_sounds", box))
    reason = {
        "not found": "HTTP 404",
        "web page": "a web page is there",
        "other table": "EPIC_Sounds_train.csv: no column 'annotation_id'",
        "no network": "http://127.0.0.1:9/EPIC_Sounds_train.csv: [Errno 111] Connection refused",
    }[case]
    assert reason in text
    by_hand = [
        f"{epic_sounds.address}/epic/EPIC_Sounds_{part}.csv at {box}/EPIC-SOUNDS/EPIC_Sounds_{part}.csv"
        for part in ("train", "validation")
    ]
    assert text.endswith(f"or put {by_hand[0]} and {by_hand[1]} by hand")
    assert tree(box) == {}


def test_name_that_is_not_known_is_told():
    assert refusal(lambda: data.fetch("nonsense", Path("nowhere"))) == (
        "no data set 'nonsense' to fetch; there are esc50, musicbench, epic_sounds"
    )


def test_sources_are_the_published_ones():
    assert {name: source.folder for name, source in data.sources().items()} == {
        "esc50": "ESC-50",
        "musicbench": "MusicBench",
        "epic_sounds": "EPIC-SOUNDS",
    }
    for source in data.sources().values():
        assert source.licence and source.megabytes and (source.tables or source.archive)
        assert all(url.startswith("https://") for url in (*source.tables, source.archive or "https://"))
    place = data._Place(Path("r"), data.sources()["musicbench"])
    assert place.tables[Path("r/MusicBench/MusicBench_train.json")] == (
        "https://huggingface.co/datasets/amaai-lab/MusicBench/resolve/main/MusicBench_train.json"
    )
