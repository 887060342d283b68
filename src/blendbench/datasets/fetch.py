"""Bringing data sets here: their tables and archives are downloaded, checked, and unpacked to their official layout.

What can be fetched are the entries of `data_manifests/sources/*.yaml`, and of a folder of the user's that
BLENDBENCH_SOURCES names.

Running `fetch` again does only what is missing: a download goes on where it broke off, so does an unpack, and what is
here and right stays. Archives lie in the data root until everything that came out of them has been checked. It honours
HF_ENDPOINT, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE and BLENDBENCH_MIRROR. Sizes are in MB of 10^6 bytes.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from blendbench import entries
from blendbench.datasets.archives import unpack, workplace
from blendbench.datasets.tables import inside, read_csv, read_json_lines
from blendbench.downloads import addresses, download, offline_variable, size_of
from blendbench.errors import BlendbenchError, printable
from blendbench.store.write import make_folder


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Parameters
    ----------
    name : str
        What `blendbench data fetch` calls it.
    folder : str
        Its folder below the data root.
    licence : str
        Of the data.
    megabytes : float
        Size of what is downloaded, in MB; about, as nobody promises it.
    room : float
        Free space that is needed while it is unpacked, in MB.
    tables : tuple of str
        URLs of the tables, CSV or JSON lines, which go into the folder as they are.
    columns : tuple of str
        Columns that every table must have.
    files_in : str
        The column whose values are the files that the archive has to bring; empty where it is no table that says so.
    archive : str
        URL of the archive that holds the rest; empty if there is none.
    archive_name : str
        What the archive is called in the data root, and below BLENDBENCH_MIRROR.
    keep : tuple of str
        Files and folders that are taken out of the archive; they have to be there where nothing else says what has.
    strip : int or None
        As for `archives.unpack`.
    max_megabytes : float
        Most that may come out of the archive, in MB.
    checksums : Path or None
        File with the MD5 of every file that the archive has to bring, as md5sum writes it.
    tagged : bool
        As for `fetching.download`.
    afterwards : str
        What is left to the user; {folder} is the data set's.

    Raises
    ------
    ValueError
        Naming the field, if one does not fit the others.
    """

    name: str
    folder: str
    licence: str
    megabytes: float
    room: float = 0.0
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    files_in: str = ""
    archive: str = ""
    archive_name: str = ""
    keep: tuple[str, ...] = ()
    strip: int | None = 0
    max_megabytes: float = 0.0
    checksums: Path | None = None
    tagged: bool = False
    afterwards: str = ""

    def __post_init__(self) -> None:
        for key in ("folder", "archive_name"):
            entries.check_inside(key, getattr(self, key))
        if not self.folder:
            raise ValueError("folder: is empty; name one")
        if not (self.tables or self.archive):
            raise ValueError("tables: is empty, and there is no archive")
        if self.archive and not (self.archive_name and self.keep):
            raise ValueError(f"{'keep' if self.archive_name else 'archive_name'}: is missing, and there is an archive")
        if self.files_in and self.files_in not in self.columns:
            raise ValueError(f"files_in: {self.files_in!r} is none of columns")


OWN = "BLENDBENCH_SOURCES"
"""Environment variable: a folder of further entries."""
_HUB = "https://huggingface.co"


def sources() -> dict[str, Source]:
    """Every data set that can be fetched, by name, in the order of their files' names; read once.

    Raises
    ------
    BlendbenchError
        If an entry is malformed, in one line that names file and key.
    """
    return _read(os.environ.get(OWN))


@cache
def _read(own: str | None) -> dict[str, Source]:
    return entries.read_all("sources", OWN, own, Source)


def fetch(name: str, root: Path) -> Path:
    """Download what a data set lacks, unpack it, check it, and print what was done.

    An archive that was put into the root by hand is taken as if it had been downloaded.

    Parameters
    ----------
    name : str
        One of `sources`.
    root : Path
        The data root; made if needed.

    Returns
    -------
    Path
        The data set's folder, complete but for what `Source.afterwards` says.

    Raises
    ------
    BlendbenchError
        In one line with what to do: if the name is unknown; downloads are switched off or fail; there is too little
        room; the archive is not safe or damaged; or a file is not what was published.
    """
    if name not in sources():
        raise BlendbenchError(f"no data set {name!r} to fetch; there are {', '.join(sources())}")
    source = sources()[name]
    place = _Place(root, source)
    lacking = {table: url for table, url in place.tables.items() if _flaw(table, source)}
    faults = [] if lacking else list(_faults(place))
    if lacking or faults or place.is_half_unpacked:
        _refuse_changed(place, faults)
        if source.archive and not place.archive.exists():
            lacking[place.archive] = _address(source.archive)
        if lacking and (variable := offline_variable()):
            raise BlendbenchError(
                f"{name}: nothing is downloaded while {variable} is set; `unset {variable}` and type it again, "
                f"or {_by_hand(lacking)}"
            )
        origin = " and ".join(addresses(url, file.name)[0] for file, url in lacking.items()) or printable(place.archive)
        print(f"{name}: licence {source.licence}, from {origin}, about {_amount(source.megabytes)}", flush=True)
        make_folder(root)
        _check_room(place)
        _complete(place, lacking)
        print(f"{name}: complete, {printable(place.folder)}")
    else:
        left = f"; {printable(place.archive)} can be deleted" if source.archive and place.archive.exists() else ""
        print(f"{name}: already here, {printable(place.folder)}{left}")
    if source.afterwards:
        print(f"{name}: {source.afterwards.format(folder=printable(place.folder))}")
    return place.folder


class _Place:
    """Where the parts of a data set lie below a data root."""

    def __init__(self, root: Path, source: Source) -> None:
        self.root, self.source = root, source
        self.folder = root / source.folder
        self.archive = root / source.archive_name
        self.tables = {self.folder / url.rpartition("/")[2]: _address(url) for url in source.tables}

    @property
    def is_half_unpacked(self) -> bool:
        """Whether an unpack was killed and can go on."""
        return bool(self.source.archive) and workplace(self.folder).exists() and self.archive.exists()

    @property
    def again(self) -> str:
        """What to type."""
        return f"type `blendbench data fetch {self.source.name}`"


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a file of a data set."""

    name: str
    reason: str
    is_there: bool = False


def _complete(place: _Place, lacking: dict[Path, str]) -> None:
    """Get what is lacking, tables first; with them here it may turn out that the archive is not needed."""
    waiting = dict(lacking)
    for file, url in lacking.items():
        if file == place.archive and not place.is_half_unpacked and not any(_faults(place)):
            return
        if file.exists():
            print(f"{place.source.name}: {_flaw(file, place.source)}; it is replaced", flush=True)
        remedy = f"set BLENDBENCH_MIRROR to another place, or {_by_hand(waiting)}"
        download(place.source.name, url, file, tagged=place.source.tagged, remedy=remedy)
        if file != place.archive and (flaw := _flaw(file, place.source)):
            file.unlink()
            raise BlendbenchError(f"{place.source.name}: {url}: what came is no such table ({flaw}); {remedy}")
        del waiting[file]
    if place.source.archive:
        _unpack(place)


def _unpack(place: _Place) -> None:
    source, archive = place.source, place.archive
    print(f"{source.name}: unpacking {printable(archive)}", flush=True)
    unpack(
        archive,
        place.folder,
        max_bytes=round(source.max_megabytes * 1e6),
        max_members=500_000,
        strip=source.strip,
        keep=source.keep,
    )
    if faults := list(_faults(place)):
        raise BlendbenchError(
            f"{printable(place.folder)}: {_told(faults)}, though {printable(archive)} is unpacked; if that came from "
            f"elsewhere or is old, delete it and what differs, and {place.again} again"
        )
    archive.unlink(missing_ok=True)


def _refuse_changed(place: _Place, faults: list[_Fault]) -> None:
    """Raise BlendbenchError if files are there that an unpack would have to replace, before anything comes."""
    if changed := [fault for fault in faults if fault.is_there]:
        raise BlendbenchError(
            f"{printable(place.folder)}: {_told(changed)}; delete {'it' if len(changed) == 1 else 'them'} and "
            f"{place.again} again"
        )


def _check_room(place: _Place) -> None:
    """Raise BlendbenchError if the disk has too little room, what is there already taken into account."""
    if not place.source.room:
        return
    part = place.archive.with_name(place.archive.name + ".part")
    held = sum(size_of(held) for held in (place.archive, part, place.folder, workplace(place.folder))) / 1e6
    needed, free = place.source.room - held, shutil.disk_usage(place.root).free / 1e6
    if free < needed:
        raise BlendbenchError(
            f"{printable(place.root)}: {_amount(free)} are free, and {place.source.name} needs about {_amount(needed)} "
            "until it is unpacked; free space, or choose another disk by data.root=DIR"
        )


def _amount(megabytes: float) -> str:
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"


def _address(url: str) -> str:
    """A URL, at HF_ENDPOINT if it is of the Hugging Face hub."""
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    return endpoint.rstrip("/") + url.removeprefix(_HUB) if url.startswith(_HUB + "/") else url


def _by_hand(lacking: dict[Path, str]) -> str:
    return "put " + " and ".join(f"{url} at {printable(file)}" for file, url in lacking.items()) + " by hand"


def _flaw(table: Path, source: Source) -> str:
    """Why a table cannot be used, without a remedy; empty if it can."""
    try:
        for _ in _rows(table, source, table.name):
            pass
    except BlendbenchError as error:
        return str(error).partition("; ")[0]
    return ""


def _rows(table: Path, source: Source, what: str) -> Iterator[dict[str, Any]]:
    if table.suffix == ".csv":
        return read_csv(table, source.columns)
    return read_json_lines(table, source.columns, what)


def _listed(checksums: Path) -> list[tuple[str, str]]:
    """MD5 and name of every file of a list that md5sum wrote; raises BlendbenchError if it is none."""
    try:
        lines = checksums.read_text(encoding="utf-8").splitlines()
        return [(known, name) for known, name in (line.split(maxsplit=1) for line in lines)]
    except OSError as error:
        raise BlendbenchError(f"{printable(checksums)}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BlendbenchError(f"{printable(checksums)}: is no list as md5sum writes it; make it again") from error


def _faults(place: _Place) -> Iterator[_Fault]:
    """What is wrong with the files that come out of an archive, in their order."""
    if place.source.checksums is not None:
        for known, name in _listed(place.source.checksums):
            try:
                with (place.folder / name).open("rb") as file:
                    digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            except FileNotFoundError:
                yield _Fault(name, "is missing")
            except OSError as error:
                yield _Fault(name, f"cannot be read ({error.strerror})", is_there=True)
            else:
                if digest != known:
                    yield _Fault(name, f"has md5 {digest}, not {known}", is_there=True)
    elif place.source.files_in:
        for table in place.tables:
            rows = _rows(table, place.source, place.source.folder)
            for name in dict.fromkeys(str(row[place.source.files_in]) for row in rows):
                if not inside(place.folder, name, table).is_file():
                    yield _Fault(name, "is missing")
    elif place.source.archive:
        for name in place.source.keep:
            if not (place.folder / name).exists():
                yield _Fault(name, "is missing")


def _told(faults: list[_Fault]) -> str:
    """How many files are wrong, and the first few in words."""
    few = "; ".join(f"{fault.name} {fault.reason}" for fault in faults[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"{len(faults)} file{'s are' if len(faults) > 1 else ' is'} not as published ({few}{more})"
