"""A run in one file: a zip of the run folder with a manifest, every byte of which is determined by what it holds.

Entries are sorted, stored as they are and carry no times, so a bundle has exactly one form. Verifying one writes it again in
memory and compares, besides looking at every digest: there is no byte that can be changed unseen.
"""

import contextlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Protocol, cast

from agentkd import canonical
from agentkd.artifacts.own_code import Listing
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import Finding, Verification, verify
from agentkd.errors import ArtifactError, StorageError, check_descriptors
from agentkd.names import Digest

MANIFEST = "manifest-sha256.txt"
MODE = 0o100644 << 16
MAX_FILES = 1_000_000


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
        StorageError: it cannot be written.
    """
    part = out.with_suffix(".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
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

    Raises:
        ArtifactError: it is damaged, or there is something at that place already.
        StorageError: the folder cannot be written.
    """
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ArtifactError(f"{place} is there already and not empty; choose another folder")
    problems = _check_zip(bundle)
    if not problems:
        part = place.with_name(f"{place.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            with zipfile.ZipFile(bundle) as archive:
                archive.extractall(part)
            found = verify(RunFolder(part))
            if not found.problems:
                part.replace(place)
                return found
        except OSError as error:
            raise StorageError.of(place, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        problems = list(found.problems)
    raise ArtifactError(f"{bundle} is damaged: {problems[0]}; agentkd verify lists all, get it again from where it came")


def verify_bundle(bundle: Path) -> Verification:
    """Looks through a bundle: the zip itself, the manifest, and then the run that it holds."""
    problems = _check_zip(bundle)
    if problems:
        return Verification(0, 0, bundle.stat().st_size, tuple(problems))
    with tempfile.TemporaryDirectory(prefix="agentkd-verify-") as place:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(place)
        return verify(RunFolder(Path(place)))


def _check_zip(bundle: Path) -> list[Finding]:
    try:
        with zipfile.ZipFile(bundle) as archive:
            problems = _check_entries(archive)
            if not problems:
                with bundle.open("rb") as stream:
                    problems = _check_form(archive, stream)
            return problems
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError, ValueError, OverflowError) as error:
        return [Finding(bundle.name, f"is no sound zip file ({error})")]
    except OSError as error:
        check_descriptors(bundle, error)
        return [Finding(bundle.name, error.strerror or str(error))]


def _check_entries(archive: zipfile.ZipFile) -> list[Finding]:
    """Names that may be, as many as the manifest says, with the digests that it says."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > MAX_FILES or len(set(names)) < len(names) or MANIFEST not in names:
        return [Finding(MANIFEST, "is missing, or there are too many files, or one of them twice")]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    unsafe = [name for name in names if name in folders or not _is_safe(name)]
    packed = [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]
    if unsafe or packed:
        return [Finding(repr((unsafe + packed)[0][:100]), "is not a name, or not packed, as in a bundle")]
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
    return problems


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


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return name == str(path) and not path.is_absolute() and ".." not in path.parts and name.isprintable()


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
