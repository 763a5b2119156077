"""A run in one file: a zip of the run folder with a manifest, every byte of which is determined by what it holds.

Entries are sorted, stored as they are and carry no times, so a bundle has exactly one form. Verifying one writes it again in
memory and compares, besides looking at every digest: there is no byte that can be changed unseen. Names are checked before
anything else: only those that a run folder has go into a bundle, and come out of one.
"""

import contextlib
import io
import itertools
import os
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

from agentkd import canonical
from agentkd.artifacts.own_code import Listing
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.run_places import must_lead_somewhere
from agentkd.artifacts.verification import MAX_PROBLEMS, Finding, Verification, verify
from agentkd.errors import ArtifactError, StorageError, check_descriptors
from agentkd.names import Digest
from agentkd.plain import must_be_file, must_be_writable_as_file

MANIFEST = "manifest-sha256.txt"
MODE = 0o100644 << 16
FLAGS = 8  # what a size is stands after the bytes
MAX_FILES = 250_000
MAX_LINE = 256
IN_A_BUNDLE = re.compile(
    r"journal\.sqlite|experiment\.yaml|environment\.txt|croissant\.json|ro-crate-metadata\.json|manifest-sha256\.txt"
    r"|artifacts/([0-9a-f]{2})/\1[0-9a-f]{62}\.safetensors|cards/[0-9a-f]{12}\.md|report/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
)
PAGES = ("report/", "cards/")
"""What is made to be looked at in a browser or an editor: whoever made a bundle wrote it, and no record covers it."""
AS_ONE_FILE = b"\1\1"
# The records of a zip's directory: an entry, and its end, also that of a large one with what says where that is.
ENTRY, END = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
LARGE_END, LOCATOR = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")


@dataclass(frozen=True)
class Written:
    """A bundle that was written. ``code`` is the own code in it."""

    num_files: int
    size_bytes: int
    sha256: Digest
    num_left_out: int = 0
    code: tuple[Listing, ...] = ()


def write_zip(files: Mapping[str, Path | bytes], out: Path) -> Written:
    """Writes files, by their names in the bundle, and the manifest. The bundle appears whole or not at all.

    Raises:
        ArtifactError: a name is not of a file in a bundle, or there are too many.
        StorageError: it cannot be written.
    """
    problems = _check_names([*files, MANIFEST])
    if problems:
        raise ArtifactError(f"{out} is not written, as nobody could read it: {problems[0]}")
    part = out.with_name(f".{out.name[:100]}.{os.getpid()}.part")
    try:
        must_be_writable_as_file(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            _write_entries(files, _Writing(stream))
        with part.open("rb") as stream:
            digest = canonical.digest_file(stream)
        size = part.stat().st_size
        part.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StorageError.of(out, error) from error
    return Written(len(files) + 1, size, digest)


def unpack(bundle: Path, place: Path) -> Verification:
    """Makes a run folder of a bundle, after a look at every byte of it. The folder appears whole or not at all.

    Its pages stay in the bundle: they may hold scripts, and nothing says that they tell what the records do. A note says so.

    Raises:
        ArtifactError: it is damaged, or there is something at that place already.
        StorageError: the folder cannot be written.
    """
    must_lead_somewhere(place)
    if place.is_symlink():
        raise ArtifactError(f"{place} is a link; choose another folder, or name the one that it leads to")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ArtifactError(f"{place} is there already and not empty; choose another folder")
    try:
        must_be_file(bundle)
    except OSError as error:
        raise ArtifactError(f"{bundle} is no bundle: {error.strerror or error}") from None
    problems = _check_zip(bundle)
    if not problems:
        place = place.absolute()  # "." has no name
        around = None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            around = tempfile.mkdtemp(prefix=".agentkd-import-", dir=place.parent)
            part = Path(around) / "run"
            found = _open_and_verify(bundle, part)
            if not found.problems:
                part.replace(place)
                return replace(found, notes=(*found.notes, *_note_pages(bundle, place)))
        except OSError as error:
            raise StorageError.of(place, error) from error
        finally:
            if around:
                shutil.rmtree(around, ignore_errors=True)
        problems = list(found.problems)
    raise ArtifactError(f"{bundle} is damaged: {problems[0]}; agentkd verify lists all, get it again from where it came")


def verify_bundle(bundle: Path) -> Verification:
    """Looks through a bundle: the zip itself, the manifest, and then the run that it holds.

    Raises:
        StorageError: there is no room to unpack it for as long as it is looked at.
    """
    problems = _check_zip(bundle)
    if problems:
        return Verification(0, 0, bundle.stat().st_size if bundle.is_file() else 0, tuple(problems))
    try:
        with tempfile.TemporaryDirectory(prefix="agentkd-verify-") as place:
            return _open_and_verify(bundle, Path(place))
    except OSError as error:
        raise StorageError.of(tempfile.gettempdir(), error) from error


def _note_pages(bundle: Path, place: Path) -> Iterator[str]:
    with zipfile.ZipFile(bundle) as archive:
        count = sum(name.startswith(PAGES) for name in archive.namelist())
    if count:
        yield (
            f"{count} files in report/ and cards/ stay in the bundle: whoever made it wrote them, scripts included, and no "
            f"record covers them; a report of an experiment is written from the records by: agentkd report {place}"
        )


def _open_and_verify(bundle: Path, place: Path) -> Verification:
    """Unpacks a bundle whose form was checked, but for its pages, and looks through the run in it."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(place, [name for name in archive.namelist() if not name.startswith(PAGES)])
    folder = RunFolder(place)
    if not folder.journal.is_file():
        return Verification(0, 0, bundle.stat().st_size, (Finding(folder.journal.name, "is not in the bundle"),))
    try:
        with folder.journal.open("rb") as journal:
            is_whole = journal.read(20)[18:] == AS_ONE_FILE
        if not is_whole:
            raise ArtifactError(f"{folder.journal} is no file of SQLite by itself, without a log beside it")
        return verify(folder)
    except ArtifactError as error:
        problem = Finding(folder.journal.name, str(error).replace(f"{place}/", ""))
        return Verification(0, 0, bundle.stat().st_size, (problem,))


def _check_zip(bundle: Path) -> list[Finding]:
    try:
        must_be_file(bundle)
        with bundle.open("rb") as stream:
            names = list(itertools.islice(_read_names(stream), MAX_FILES + 1))
            problems = _check_names(names)
            if not problems:
                with zipfile.ZipFile(bundle) as archive:
                    problems = _check_entries(archive, names, stream.seek(0, io.SEEK_END))
                    if not problems:
                        stream.seek(0)
                        problems = _check_form(archive, stream)
            return problems
    except OSError as error:
        check_descriptors(bundle, error)
        return [Finding(bundle.name, error.strerror or str(error))]
    except (zipfile.BadZipFile, struct.error, RuntimeError, LookupError, EOFError, ValueError, OverflowError) as error:
        return [Finding(bundle.name, f"is no sound zip file ({error})")]


def _read_names(stream: BinaryIO) -> Iterator[str]:
    """The names in the directory at the end of a zip, one after the other: there may be more than can be held.

    Raises:
        BadZipFile: there is no directory where one must be.
    """
    end = stream.seek(0, io.SEEK_END)
    head = _unpacked(stream, max(0, end - END.size), END)
    count, size, at = head[4], head[5], end - END.size - head[5]
    if head[0] != b"PK\5\6" or head[7]:
        raise zipfile.BadZipFile("it does not end as a zip does")
    large = end - END.size - LOCATOR.size - LARGE_END.size
    if large >= 0 and _unpacked(stream, large + LARGE_END.size, LOCATOR)[0] == b"PK\6\7":
        count, size = _unpacked(stream, large, LARGE_END)[7:9]
        at = large - size
    for _ in range(count):
        entry = _unpacked(stream, at, ENTRY)
        if entry[0] != b"PK\1\2":
            raise zipfile.BadZipFile("its directory is not where it must be")
        yield stream.read(entry[10]).decode(errors="replace")
        at += ENTRY.size + sum(entry[10:13])


def _unpacked(stream: BinaryIO, at: int, form: struct.Struct) -> tuple[Any, ...]:
    if not 0 <= at <= stream.seek(0, io.SEEK_END) - form.size:
        raise zipfile.BadZipFile("its directory leads out of it")
    stream.seek(at)
    return form.unpack(stream.read(form.size))


def may_be_in(name: str) -> bool:
    """Whether a file of this name can be in a bundle."""
    return IN_A_BUNDLE.fullmatch(name) is not None


def _check_names(names: list[str]) -> list[Finding]:
    """Whether all are names of a run's files, none twice or spelled like another."""
    strange = next((name for name in names if not may_be_in(name)), None)
    if strange is not None:
        return [Finding(repr(strange[:100]), "is not a name of a file in a bundle")]
    if len(names) > MAX_FILES or len(set(names)) < len(names) or MANIFEST not in names:
        return [Finding(MANIFEST, "is missing, or there are too many files, or one of them twice")]
    spelled: dict[str, str] = {}
    alike = next((name for name in names if spelled.setdefault(name.lower(), name) != name), None)
    return [Finding(alike, "has the name of another file but for its capitals")] if alike else []


def _check_entries(archive: zipfile.ZipFile, names: list[str], size_bytes: int) -> list[Finding]:
    """Packed as in a bundle, as many as the manifest says, with the digests that it says."""
    infos = archive.infolist()
    if [info.filename for info in infos] != names or sum(info.file_size for info in infos) > size_bytes:
        return [Finding(MANIFEST, "cannot be looked at: the zip says more of its files than there is")]
    packed = (i for i in infos if i.compress_type or i.flag_bits & ~FLAGS or i.compress_size != i.file_size)
    strange = next((info.filename for info in packed), None)
    if strange is not None:
        return [Finding(repr(strange), "is not packed, as in a bundle")]
    if archive.getinfo(MANIFEST).file_size > MAX_LINE * (len(names) + 1):
        return [Finding(MANIFEST, "is too long for the files in the bundle")]
    lines = [line.partition("  ") for line in archive.read(MANIFEST).decode().splitlines()]
    listed = {name: Digest(digest) for digest, _, name in lines}
    problems = [Finding(name, "is in the manifest and not in the bundle") for name in sorted(listed.keys() - set(names))]
    for name in names:
        if name == MANIFEST:
            continue
        with cast(zipfile.ZipExtFile, archive.open(name)) as file:
            actual = canonical.digest_file(file)
        if name not in listed:
            problems.append(Finding(name, "is not in the manifest"))
        elif listed[name] != actual:
            problems.append(Finding(name, f"is damaged: the manifest says {listed[name][:12]}..., it is {actual[:12]}..."))
    return problems[:MAX_PROBLEMS]


def _check_form(archive: zipfile.ZipFile, stream: BinaryIO) -> list[Finding]:
    """Whether the bundle, written again from its files, is the same to the byte."""
    files = {name: _Entry(archive, name) for name in archive.namelist()}
    comparing = _Comparing(stream)
    _write_files(files, comparing)
    end = stream.seek(0, io.SEEK_END)
    if comparing.differs_at is not None or comparing.position != end:
        at = comparing.differs_at if comparing.differs_at is not None else comparing.position
        return [Finding(f"byte {at}", "of the bundle itself (not of a file in it) is not what it must be")]
    return []


def _write_entries(files: Mapping[str, Path | bytes], stream: "_Sink") -> None:
    digests = {}
    for name, content in files.items():
        if isinstance(content, Path):
            with content.open("rb") as file:
                digests[name] = canonical.digest_file(file)
        else:
            digests[name] = canonical.digest_bytes(content)
    manifest = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    _write_files({**files, MANIFEST: manifest.encode()}, stream)


def _write_files(files: "Mapping[str, Path | bytes | _Entry]", stream: "_Sink") -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name in sorted(files):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system = MODE, 3
            content = files[name]
            if isinstance(content, bytes):
                archive.writestr(info, content)
                continue
            info.file_size = content.stat().st_size if isinstance(content, Path) else content.size_bytes
            with content.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target)


class _Entry:
    """A file of an archive, opened as a path is."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name = archive, name
        self.size_bytes = archive.getinfo(name).file_size

    def open(self, mode: str) -> IO[bytes]:
        return self._archive.open(self._name)


class _Sink(Protocol):
    """What a zip is written to: no way back, so the same files give the same bytes wherever they go."""

    def write(self, data: bytes) -> int: ...
    def flush(self) -> None: ...


class _Writing:
    """Writes to a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        return self._stream.write(data)

    def flush(self) -> None: ...


class _Comparing:
    """Compares with a file, and keeps nothing."""

    def __init__(self, original: BinaryIO) -> None:
        self._original, self.position = original, 0
        self.differs_at: int | None = None

    def write(self, data: bytes) -> int:
        there = self._original.read(len(data))
        if there != bytes(data) and self.differs_at is None:
            pairs = enumerate(zip(there, data, strict=False))
            self.differs_at = self.position + next((i for i, (a, b) in pairs if a != b), len(there))
        self.position += len(data)
        return len(data)

    def flush(self) -> None: ...
