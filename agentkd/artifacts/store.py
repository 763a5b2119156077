"""Bytes by digest: a file's name is its SHA-256, so a retry is harmless and damage is noticed."""

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path
from types import TracebackType

from agentkd import canonical
from agentkd.durable import discard, make_folder, sync_folder
from agentkd.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError, StorageError, check_descriptors
from agentkd.names import Digest
from agentkd.shortage import check_disk

DIGEST = re.compile(r"[0-9a-f]{64}")
SUFFIX = ".safetensors"


class Store:
    """A folder of artifacts. Safe for several processes at once: a file appears whole or not at all."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def path(self, digest: Digest) -> Path:
        """Where an artifact lies, or would lie."""
        if not DIGEST.fullmatch(digest):
            raise ArtifactNotFoundError(digest[:80], self.place)
        return self.place / digest[:2] / f"{digest}{SUFFIX}"

    def __contains__(self, digest: Digest) -> bool:
        path = self.path(digest)
        return path.is_file() and not path.is_symlink()

    def beginning_with(self, beginning: str) -> list[Digest]:
        """The digests of its artifacts that begin so; at least two characters must be known."""
        found = [path.stem for path in (self.place / beginning[:2]).glob(f"{beginning}*{SUFFIX}")]
        return sorted(Digest(name) for name in found if DIGEST.fullmatch(name) and Digest(name) in self)

    def must_have(self, digest: Digest) -> Path:
        """The file under a digest, unread.

        Raises:
            ArtifactNotFoundError: there is none; a link is none.
        """
        path = self.path(digest)
        if path.is_symlink() or not path.is_file():
            raise ArtifactNotFoundError(digest, self.place)
        return path

    def incoming(self, digest: Digest) -> "Incoming":
        """An artifact that comes piece by piece; see ``Incoming``."""
        return Incoming(self.path(digest), digest)

    def put(self, data: bytes) -> Digest:
        """Stores bytes durably and returns their digest; storing them again changes nothing, but that damage is mended.

        Raises:
            StorageError: the disk is full or not writable; nothing partial is left under the digest.
        """
        digest = canonical.digest_bytes(data)
        path = self.path(digest)
        if digest in self and self._has(path, data):
            return digest
        temporary = ""
        try:
            make_folder(path.parent)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):  # what failed first is the reason; what is left is swept
                if temporary:
                    Path(temporary).unlink(missing_ok=True)
            raise StorageError.of(path, error) from error
        return digest

    @staticmethod
    def _has(path: Path, data: bytes) -> bool:
        """Whether a file has these bytes. What cannot be read is to be replaced. Costs less than the digest has."""
        try:
            with path.open("rb") as file:
                return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
        except OSError as error:
            check_descriptors(path, error)
            return False

    def remove(self, digest: Digest) -> None:
        """Forgets an artifact to which nothing refers; nothing if there is none."""
        discard(self.path(digest))

    def get(self, digest: Digest, *, max_bytes: int | None = None) -> bytes:
        """The bytes under a digest, checked.

        Args:
            digest: of the artifact.
            max_bytes: the most that what is looked for can have, where that is known; not read if it has more.

        Raises:
            ArtifactNotFoundError: there are none.
            ArtifactCorruptError: they are damaged.
            ArtifactError: they cannot be read, or are too many.
            StorageError: the disk is broken, or there are no descriptors.
        """
        path = self.must_have(digest)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if max_bytes is not None and size_bytes > max_bytes:
                    raise ArtifactError(f"{path} has {size_bytes:,} bytes, and what it should be has {max_bytes:,} at most")
                data = file.read()
        except FileNotFoundError:
            raise ArtifactNotFoundError(digest, self.place) from None
        except OSError as error:
            check_disk(path, error)
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        actual = canonical.digest_bytes(data)
        if actual != digest:
            raise ArtifactCorruptError(path, digest, actual)
        return data


class Incoming:
    """A part file that outlives this process: the next attempt goes on at its size. Use as a context manager.

    Raises (on entering):
        StorageError: the part cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        self._path, self._digest = path, digest
        self._part = path.with_suffix(".incoming")

    def __enter__(self) -> "Incoming":
        try:
            make_folder(self._part.parent)
            self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                os.close(self._descriptor)
                raise StorageError(self._part, "it is no file of this folder's own; remove it")
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StorageError(self._part, "another process is receiving it") from None
        except OSError as error:
            raise StorageError.of(self._part, error) from error
        self.size_bytes = os.fstat(self._descriptor).st_size
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def must_fit(self, size_bytes: int) -> None:
        """Whether the disk has room for the whole piece, of which some may be here already.

        Raises:
            StorageError: it has not; nothing is written.
        """
        disk = os.fstatvfs(self._descriptor)
        missing, free = size_bytes - self.size_bytes, disk.f_bavail * disk.f_frsize
        if missing > free:
            raise StorageError(self._part, f"{missing:,} octets are to come and the disk has room for {free:,}")

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Puts bytes at an offset."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset, view = offset + written, view[written:]

    def remove(self) -> None:
        """Keeps nothing of it for the next attempt."""
        self._part.unlink(missing_ok=True)

    def commit(self) -> None:
        """Makes the part an artifact.

        Raises:
            ArtifactCorruptError: it has another digest; it is removed.
        """
        os.fsync(self._descriptor)
        with self._part.open("rb") as file:
            actual = canonical.digest_file(file)
        if actual != self._digest:
            self._part.unlink()
            raise ArtifactCorruptError(self._part, self._digest, actual)
        self._part.replace(self._path)
        sync_folder(self._path.parent)
