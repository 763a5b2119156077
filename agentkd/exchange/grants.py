"""Who may connect, who may fetch which kind of knowledge, and the key registry on disk.

Fail closed: an unknown key may nothing. A registry file that changes takes effect at the next message, so that a revoked key's
live session ends there.
"""

import contextlib
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError, DescriptorsError, RemoteProtocolError, Rule, StorageError, check_descriptors
from agentkd.exchange.keys import write_private
from agentkd.messages.bodies import AdmittedPeer, KnowledgeKind
from agentkd.names import AgentName, PublicKey
from agentkd.plain import read_file, read_json

EVERYTHING = tuple(str(kind) for kind in KnowledgeKind)
TASKS = "tasks"  # may hand in tasks; no kind of knowledge
REGISTRY_FILE = "registry.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A registered key: whose it is and what it may fetch. A revoked key stays listed, so that the record of it is kept."""

    name: AgentName
    public_key: PublicKey
    may: tuple[str, ...] = EVERYTHING
    is_revoked: bool = False

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "public_key": self.public_key, "may": list(self.may), "is_revoked": self.is_revoked}


def _entry(data: Any) -> Entry:
    peer = AdmittedPeer.model_validate({"agent": data["name"], "public_key": data["public_key"], "may": tuple(data["may"])})
    return Entry(peer.agent, peer.public_key, peer.may, bool(data["is_revoked"]))


class Registry:
    """Registered keys in a 0600 file. Processes that write wait for each other; readers see a whole file or the one before."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REGISTRY_FILE

    def entries(self) -> dict[PublicKey, Entry]:
        """Entries by public key; none if there is no file yet.

        Raises:
            ConfigError: the file is not a registry.
            DescriptorsError: no file can be opened now.
        """
        try:
            listed = read_json(read_file(self.path))
            found = [_entry(each) for each in listed]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            check_descriptors(self.path, error)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(
                f"{self.path} is not a key registry ({reason}); restore it, or remove it and register again"
            ) from error
        return {entry.public_key: entry for entry in found}

    def register(self, name: str, public_key: str, may: Iterable[str] = EVERYTHING) -> Entry:
        """Admits a key from now on, as it and its owner's name were typed.

        Raises:
            ConfigError: an unknown kind of knowledge, a malformed key, or a name or key that is taken.
        """
        entry = Entry(AgentName(name), PublicKey(public_key), tuple(may))
        unknown = sorted(set(entry.may) - {*EVERYTHING, TASKS})
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: no kind of knowledge; there are {', '.join(EVERYTHING)}")
        try:
            AdmittedPeer(agent=entry.name, public_key=entry.public_key)
        except ValueError as error:
            raise ConfigError(f"{name!r}, {public_key!r}: not a name and a public key of 40 characters (Z85)") from error
        with self._alone():
            entries = self.entries()
            for other in entries.values():
                if not other.is_revoked and (other.name == name or other.public_key == public_key):
                    raise ConfigError(f"{other.name} is registered already with {other.public_key}; revoke it first")
            self._write(entries | {entry.public_key: entry})
        return entry

    def revoke(self, name: str) -> Entry:
        """Takes a key's admission back.

        Raises:
            ConfigError: nobody of that name is registered.
        """
        with self._alone():
            entries = self.entries()
            for key, entry in entries.items():
                if entry.name == name and not entry.is_revoked:
                    revoked = replace(entry, is_revoked=True)
                    self._write(entries | {key: revoked})
                    return revoked
        raise ConfigError(f"nobody registered in {self.path} is called {name!r}; see: agentkd keys list")

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the file does."""
        try:
            found = self.path.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process changes the registry."""
        lock = self.path.with_suffix(".lock")
        try:
            lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.of(lock, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise StorageError.of(lock, error) from error
            yield
        finally:
            os.close(descriptor)

    def _write(self, entries: dict[PublicKey, Entry]) -> None:
        text = json.dumps([entry.as_data() for entry in entries.values()], indent=2)
        write_private(self.path, text + "\n", replace=True)


class Grants:
    """The keys admitted to this process and what each may fetch. Safe to ask and to change from any thread.

    Who changes it makes a new table under the lock; who asks reads one table, the one before or the one after, and never waits.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry
        self._registered: tuple[tuple[int, int], dict[PublicKey, Entry]] = (
            (-1, -1),
            {},
        )  # the stamp of the file, and what it says
        self._admitted: dict[PublicKey, Entry] = {}
        self._lock = threading.Lock()

    def admit(self, peers: Iterable[AdmittedPeer]) -> None:
        """Admits these peers as well, or changes what they may."""
        added = {p.public_key: Entry(p.agent, p.public_key, p.may) for p in peers}
        with self._lock:
            self._admitted = self._admitted | added

    def set_peers(self, peers: Iterable[AdmittedPeer]) -> set[PublicKey]:
        """Admits these peers and nobody else, besides the registered; returns the keys that were admitted before."""
        wanted = {p.public_key: Entry(p.agent, p.public_key, p.may) for p in peers}
        with self._lock:
            before, self._admitted = self._admitted, wanted
        return set(before) - set(wanted)

    def forget(self, public_key: PublicKey) -> None:
        """Takes an admission back that ``admit`` gave."""
        with self._lock:
            self._admitted = {key: entry for key, entry in self._admitted.items() if key != public_key}

    def find(self, public_key: PublicKey) -> Entry | None:
        """The entry of an admitted key."""
        if self._registry is not None:
            stamp, (read_at, entries) = self._registry.stamp(), self._registered
            if stamp != read_at:
                entries = self._read_registry(stamp, entries)
            registered = entries.get(public_key)
            if registered is not None:
                return None if registered.is_revoked else registered
        return self._admitted.get(public_key)

    def is_admitted(self, public_key: PublicKey) -> bool:
        """Whether a key may connect."""
        return self.find(public_key) is not None

    def _read_registry(self, stamp: tuple[int, int], before: dict[PublicKey, Entry]) -> dict[PublicKey, Entry]:
        """The registered keys; none while the file is damaged, for an I/O thread must not end by that."""
        assert self._registry is not None
        try:
            entries = self._registry.entries()
        except DescriptorsError as error:  # those of before, and it is tried again with the next who knocks
            log.error("the registered keys are not read again: %s", error)
            return before
        except ConfigError as error:
            log.error("no registered key is admitted: %s", error)
            entries = {}
        self._registered = (stamp, entries)
        return entries

    def check(self, public_key: PublicKey, kind: str) -> None:
        """Refuses a fetch that is not granted.

        Raises:
            RemoteProtocolError: rule ``grant``.
        """
        entry = self.find(public_key)
        if entry is None or kind not in entry.may:
            allowed = ", ".join(entry.may) if entry else ""
            raise RemoteProtocolError(f"this key may not fetch {kind}; it may fetch: {allowed or 'nothing'}", Rule.GRANT)
