"""What a student of a mutual lesson said in a step, in its file: behind a digest, for partners that begin again read it.

The digest is of whose words they are and of which step, too: a file in another's place is as bad as a damaged one, and either
counts as not said.
"""

import logging
from pathlib import Path

from agentkd.canonical import new_digest
from agentkd.durable import discard
from agentkd.errors import ArtifactCorruptError, check_descriptors
from agentkd.names import Digest

log = logging.getLogger(__name__)


def keep_said(place: Path, data: bytes) -> None:
    """Puts it into its file, which appears whole or not at all. ``durable`` makes it stay.

    Raises:
        OSError: it cannot be written.
    """
    part = place.with_suffix(".part")
    try:
        part.write_bytes(_digest(place, data).encode() + b"\n" + data)
        part.replace(place)
    except OSError:
        discard(part)
        raise


def read_said(place: Path) -> bytes:
    """It, as it was said.

    Raises:
        ArtifactCorruptError: the file is damaged, or another's; it is removed.
        OSError: it cannot be read.
    """
    named, _, data = place.read_bytes().partition(b"\n")
    actual = _digest(place, data)
    if named != actual.encode():
        discard(place)
        raise ArtifactCorruptError(place, Digest(named.decode(errors="replace")[:64]), actual)
    return data


def was_said(place: Path) -> bool:
    """Whether it is there, as it was said."""
    if not place.is_file():
        return False
    try:
        read_said(place)
    except ArtifactCorruptError as error:
        log.warning("%s; it counts as not said", error)
        return False
    except OSError as error:
        check_descriptors(place, error)
        return False
    return True


def _digest(place: Path, data: bytes) -> Digest:
    found = new_digest()
    found.update(f"{place.parent.name}/{place.name}\n".encode())
    found.update(data)
    return Digest(found.hexdigest())
