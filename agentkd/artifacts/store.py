"""Bytes by digest: a file's name is its SHA-256, so a retry is harmless and damage is noticed."""

import os
import re
import tempfile
from pathlib import Path

from agentkd import canonical
from agentkd.errors import ArtifactCorruptError, ArtifactNotFoundError, StorageError

DIGEST = re.compile(r"[0-9a-f]{64}")
SUFFIX = ".safetensors"


class Store:
    """A folder of artifacts. Safe for several processes at once: a file appears whole or not at all."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def path(self, digest: str) -> Path:
        """Where an artifact lies, or would lie."""
        if not DIGEST.fullmatch(digest):
            raise ArtifactNotFoundError(digest[:80], self.place)
        return self.place / digest[:2] / f"{digest}{SUFFIX}"

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def put(self, data: bytes) -> str:
        """Stores bytes durably and returns their digest; storing them again changes nothing.

        Raises:
            StorageError: the disk is full or not writable; nothing partial is left under the digest.
        """
        digest = canonical.digest_bytes(data)
        path = self.path(digest)
        if path.is_file():
            return digest
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise StorageError(path, error.strerror or str(error)) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes under a digest, checked.

        Raises:
            ArtifactNotFoundError: there are none.
            ArtifactCorruptError: they are damaged.
        """
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactNotFoundError(digest, self.place) from None
        actual = canonical.digest_bytes(data)
        if actual != digest:
            raise ArtifactCorruptError(path, digest, actual)
        return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
