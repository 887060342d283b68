"""What a file is that is not what its name says: a pointer left in its place, a web page, an archive, another format.

Version control and downloads leave such files under the names of sounds, tables and weights. What reads a file of the
user's asks here, so that the reason names what lies there and what to do. A phrase reads on from the file's name: "is a
web page, not the file itself; ...".
"""

import re
import stat
from html import unescape
from pathlib import Path

from blendbench.errors import BlendbenchError, one_line, printable

_HEAD_BYTES = 4096
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_ANNEX = re.compile(rb"/annex/objects/[\w%.~+=&-]+(?:/[\w%.~+=&-]+)?\s*\Z")
_PAGE = re.compile(rb"(?:\s|<!--.*?-->|<\?xml[^>]*>)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_MARK = b"\xef\xbb\xbf"

# What begins with certain bytes, and what to do about it.
_UNPACK = "unpack it, and give the file that is in it"
_FETCH = "fetch the file itself"
_CONVERT = "convert it to WAV or FLAC (`ffmpeg -i FILE FILE.wav`)"
_MAGICS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\3\4", "a zip archive", _UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\7", "a RAR archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _FETCH),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office or Windows file", _FETCH),
    (0, b"%PDF-", "a PDF", _FETCH),
    (0, b"\x89PNG\r\n", "a PNG image", _FETCH),
    (0, b"\xff\xd8\xff", "a JPEG image", _FETCH),
    (0, b"GIF8", "a GIF image", _FETCH),
    (0, b"SQLite format 3\0", "a database", _FETCH),
    (0, b"\0\5\x16\7", "macOS's companion (AppleDouble) of a file", "give the file without `._` before its name"),
    (0, b"MThd", "a MIDI file, notes without sound", "render it to WAV"),
    (4, b"ftyp", "MP4 (M4A, AAC, ALAC)", _CONVERT),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM", _CONVERT),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (WMA)", _CONVERT),
    (8, b"AVI ", "an AVI video", _CONVERT),
    (0, b"#!AMR", "AMR", _CONVERT),
    (0, b"\xff\xf1", "AAC", _CONVERT),
    (0, b"\xff\xf9", "AAC", _CONVERT),
    (0, b"ADIF", "AAC", _CONVERT),
    (0, b"wvpk", "WavPack", _CONVERT),
    (0, b"MAC ", "Monkey's Audio", _CONVERT),
    (0, b"MPCK", "Musepack", _CONVERT),
    (0, b"TTA1", "True Audio", _CONVERT),
    (0, b"DSD ", "DSD", _CONVERT),
    (0, b"FRM8", "DSD", _CONVERT),
    (0, b".RMF", "RealAudio", _CONVERT),
)


def head_of(path: Path) -> bytes:
    """The first 4096 bytes of a file; none where it cannot be read, or is a pipe or device, which may have no end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb", buffering=0) as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def lost_link(path: Path) -> str:
    """What is to be said about a link of git-annex that leads nowhere; "" for any other file. Nothing is opened."""
    try:
        if path.is_symlink() and "annex/objects/" in path.readlink().as_posix() and not path.exists():
            return "is a git-annex link whose content is not here; run `git annex get` where you cloned it"
    except (OSError, ValueError):
        pass
    return ""


def stand_in(path: Path) -> str:
    """What version control or a download has left in a file's place, with what to do; "" where it is nothing known."""
    return lost_link(path) or pointer(head_of(path))


def pointer(head: bytes) -> str:
    """As `stand_in`, of a file's first bytes."""
    head = head.removeprefix(_MARK)
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` where you cloned it"
    if _ANNEX.match(head):
        return "is a git-annex pointer, not the file itself; run `git annex get` where you cloned it"
    if _PAGE.match(head):
        title = _inside("title", head)
        return f"is a web page{title}, not the file itself; fetch the file, not the page that shows or links it"
    if head.lstrip().startswith(b"<?xml"):
        said = _inside("message", head) or _inside("title", head)
        return f"is an XML document{said}, not the file itself; fetch the file again, by its own link"
    return ""


def refuse(path: Path, error: type[BlendbenchError] = BlendbenchError) -> None:
    """Refuse a file in whose place something else was left; one that is missing or cannot be read passes.

    Raises
    ------
    error
        In one line, with what lies there and what to do.
    """
    if told := stand_in(path):
        raise error(f"{printable(path)}: {told}")


def refuse_as_text(path: Path) -> None:
    """Refuse, as `refuse`, also a file that is not UTF-8 text by how it begins; raises BlendbenchError."""
    refuse(path)
    head = head_of(path)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or re.match(rb"(?:[\x20-\x7e]\0){4}", head):
        raise BlendbenchError(f"{printable(path)}: is UTF-16 text, not UTF-8; save it as UTF-8 (in Excel: `CSV UTF-8`)")
    if text(head) is None and (told := content(head)):
        kind, remedy = told
        if head.startswith((b"PK", b"\xd0\xcf")):
            remedy = "if it is an Excel workbook, save it as `CSV UTF-8`, else unpack it"
        raise BlendbenchError(f"{printable(path)}: is {kind}, not text; {remedy}")


def refuse_weights(place: Path | str, failed: bool = False) -> None:
    """Refuse weights, a file or a folder of them, in whose place something else was left.

    Of a folder's weights some may be pointers where others are whole, as of copies in half precision that nobody
    fetched.

    Parameters
    ----------
    place : path
        A file or folder; one that is not there passes.
    failed : bool
        Whether they could not be loaded: then all texts of the folder are looked at, not its configs alone.

    Raises
    ------
    BlendbenchError
        In one line, with the file, what it is and what to do.
    """
    place = Path(place)
    endings = ("*.safetensors", "*.json", "*.txt", "*.model") if failed else ("*.safetensors", "*config.json")
    files = sorted(file for ending in endings for file in place.rglob(ending)) if place.is_dir() else [place]
    told = {file: _told_weight(file) for file in files if not file.is_dir()}
    whole = {file.parent for file, what in told.items() if not what and file.suffix in _WEIGHTS}
    for file, what in told.items():
        excused = file.suffix in _WEIGHTS and file.parent in whole and not _SHARD.search(file.name)
        if what and not excused:
            raise BlendbenchError(f"{printable(file)}: {what}")


_WEIGHTS = frozenset([".safetensors", ".pt", ".pth", ".th"])
_SHARD = re.compile(r"-\d+-of-\d+\.")


def _told_weight(file: Path) -> str:
    if (told := stand_in(file)) or file.suffix not in _WEIGHTS or not file.is_file():
        return told
    head = head_of(file)
    if not head:
        return "is empty (0 bytes); fetch it again"
    found = (content(head) if file.suffix == ".safetensors" else None) or text(head)
    return f"is {found[0]}, not weights; {found[1]}" if found else ""


def content(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do, where that is known and neither sound nor text."""
    if head[4:8] == b"ftyp" and (head[8:11] == b"M4P" or re.search(rb"drms|enca|drmi|encv", head)):
        return "an MP4 that is encrypted (DRM)", "give a file without copy protection"
    for at, magic, kind, remedy in _MAGICS:
        if head[at : at + len(magic)] == magic:
            return kind, remedy
    if head and not head.strip(b"\0"):
        return "zeros at its beginning (a download that failed?)", "fetch it again"
    return None


def text(head: bytes) -> tuple[str, str] | None:
    """What a text is that stands where none should, and what to do; None for what is no text."""
    whole = head.decode("utf-8", "ignore") if head else "\0"
    if len(whole.encode()) < len(head) - 3 or re.search(r"[\0-\x08\x0e-\x1f\x7f]", whole):
        return None
    said = one_line(whole)
    return f"text ({_quoted(said)})", _FETCH


def _inside(tag: str, head: bytes) -> str:
    """What stands in a tag, such as a page's title, as a remark; "" where there is none."""
    found = re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", head.decode("utf-8", "replace"), re.IGNORECASE | re.DOTALL)
    said = one_line(unescape(found[1])) if found else ""
    return f" ({_quoted(said)})" if said else ""


def _quoted(said: str) -> str:
    return repr(printable(said if len(said) <= 60 else said[:57] + "..."))
