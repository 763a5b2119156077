"""The run folder: the one place that names its files, and the lock that keeps a second coordinator out."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from agentkd.artifacts.file_system import must_do
from agentkd.artifacts.run_places import (
    JOURNAL,
    WRITTEN,
    Strange,
    must_lead_somewhere,
    places_of_others,
    shared_places,
    strange_places,
)
from agentkd.artifacts.store import Store
from agentkd.durable import discard, keep, keep_no_more
from agentkd.errors import AgentKDError, ArtifactError, StorageError, must_be
from agentkd.names import AgentName, TaskKey

NAME_OF_DATA = re.compile("[0-9a-f]{64}")
"""Of the folders with decoded images."""
MAX_NAME_BYTES = 200
"""Of a name that something is still put behind; a file system takes 255."""


class RunFolder:
    """Paths of one run. That they lead nowhere else is asked by ``must_exist``, ``must_be_its_own`` and ``RunLock``."""

    def __init__(self, place: Path | str) -> None:
        must_be(place, (str, Path), "the run folder", "its path")
        place = Path(place)
        self.place = place
        self.experiment = place / "experiment.yaml"
        self.journal = place / "journal.sqlite"
        self.study = place / "study.db"
        self.store = Store(place / "artifacts")
        self.checkpoints = place / "checkpoints"
        self.keys = place / "keys"
        self.logs = place / "logs"
        self.images = place / "cache"
        self.agents = place / "agents"
        self.report = place / "report"
        self.lock = place / "lock"
        self.contact = place / "contact.json"
        self.feed, self.earlier_feed = place / "feed.jsonl", place / "feed-before.jsonl"
        self.visitors = self.keys / "visitors"

    def checkpoint(self, key: TaskKey) -> Path:
        """Where the unfinished state of a task lies."""
        return self.checkpoints / f"{key}.safetensors"

    def of_agent(self, name: AgentName) -> "RunFolder":
        """The folder of an agent that keeps one of its own."""
        return RunFolder(self.agents / name)

    def lesson(self, key: TaskKey) -> Path:
        """Where the list of what was recorded of an unfinished lesson lies."""
        return self.checkpoints / f"{key}.lesson.jsonl"

    def said(self, key: TaskKey, step: int) -> Path:
        """Where a student of a mutual lesson leaves what it said in a step."""
        return self._all_said(key) / f"{step}.safetensors"

    def _all_said(self, key: TaskKey) -> Path:
        return self.checkpoints / f"{key}.said"

    def sweep(self) -> None:
        """Removes what an interrupted coordinator left: keys of agents that are gone, half-written files, decoded images."""
        for stale in self.leftovers():
            discard(stale)
        for trial in self.place.glob(".agentkd-*"):  # how it was tried what the file system can do
            shutil.rmtree(trial, ignore_errors=True)
        self.drop_images()

    def leftovers(self) -> Iterator[Path]:
        """Files that only a process could use that has ended, if nobody works in the folder; in agents' own folders too."""
        for place, pattern in ((place, pattern) for place, patterns in self._passing().items() for pattern in patterns):
            inner = place.relative_to(self.place)
            for found in (place.glob(pattern), self.agents.glob(f"*/{inner}/{pattern}")):
                yield from (path for path in found if path.is_symlink() or not path.is_dir())

    def _passing(self) -> dict[Path, tuple[str, ...]]:
        """By folder, how files of a process are called that are not there for long, of ours and of libraries."""
        return {
            self.place: (".*.part", "tmp*.part"),
            self.keys: ("*.json", "*.part"),
            self.visitors: ("*",),
            self.checkpoints: ("*.part", "*/*.part", ".tmp*"),
            self.store.place: ("*/*.part",),
            self.report: (".*.part",),
        }

    def drop_images(self) -> None:
        """Removes decoded images, which can be made again, and nothing else that lies beside them."""
        for images in (self.images, *self.agents.glob(f"*/{self.images.name}")):
            drop_images(images)

    def clear(self, key: TaskKey) -> None:
        """Removes what lies here of a task that has ended."""
        for left in self.checkpoints.glob(f"{key}.*"):
            if not left.is_dir():
                discard(left)
        shutil.rmtree(self._all_said(key), ignore_errors=True)
        for place in self.agents.glob("*"):
            RunFolder(place).clear(key)

    def must_exist(self) -> "RunFolder":
        """This folder, if it holds a run, and files and folders of its own alone.

        Raises:
            ArtifactError: it does not.
            StorageError: it cannot be looked at.
        """
        self.must_be_its_own()
        return self.must_have_journal()

    def must_have_journal(self) -> "RunFolder":
        """This folder, if it has a journal, whatever else lies there.

        Raises:
            ArtifactError: it has none, or a link, a pipe or the like in its place.
            StorageError: it cannot be looked at.
        """
        for strange in strange_places(self.place):
            if strange.path.name in JOURNAL and strange.path.parent == self.place:
                raise _refused(strange)
        if not self.journal.is_file():
            raise ArtifactError(
                f"{self.place} is not a run folder: it has no {self.journal.name}; make one with: agentkd run FILE"
            )
        return self

    def must_be_its_own(self, *, alone: tuple[str, ...] = ()) -> "RunFolder":
        """This folder, if no known place in it is a link, a pipe or whatever leads elsewhere. It need not be there.

        Args:
            alone: places whose files must have no other name elsewhere either: ``WRITTEN`` or ``PACKED``.

        Raises:
            ArtifactError: there is such a place; nothing was read or written.
            StorageError: it cannot be looked at.
        """
        for strange in (*strange_places(self.place), *shared_places(self.place, alone)):
            raise _refused(strange)
        return self

    def must_be_for_a_run(self) -> "RunFolder":
        """This folder, if a coordinator may work in it: a new or empty one, or one that a run has made.

        Raises:
            ArtifactError: it holds, at places where a run would write or remove, what no run has put there; or it is a link to
                nothing, or leads elsewhere. Nothing was read or written.
            StorageError: it cannot be looked at.
        """
        must_lead_somewhere(self.place)
        self.must_be_its_own(alone=WRITTEN)
        if others := places_of_others(self.place):
            shown = ", ".join(str(path.relative_to(self.place)) for path in others[:3])
            raise ArtifactError(
                f"{self.place} is no run folder: it has no {self.journal.name}, but {shown} where a run would write, so nothing "
                "in it was touched; choose another folder (--out), or move what is yours out of it"
            )
        return self


def _refused(strange: Strange) -> ArtifactError:
    return ArtifactError(
        f"{strange.path} {strange}: a run folder has files and folders of its own alone, so nothing in it was read or written; "
        "if it is yours, put what belongs there in its place (cp -aL copies it; only the run folder as a whole may be a link), "
        "if somebody gave it to you, do not use it"
    )


def beside(place: Path, ending: str) -> Path:
    """A folder called after another and beside it; in the current folder where nothing can be written there."""
    place = place if place.name.strip(".") else place.resolve()
    can_write = place.name and os.access(place.absolute().parent, os.W_OK | os.X_OK)
    return place.with_name(called_after(place, ending)) if can_write else Path(called_after(place, ending))


def called_after(place: Path, ending: str) -> str:
    """The name of a place with something behind it, of which no more is kept than fits."""
    name = os.fsencode(place.name)[: MAX_NAME_BYTES - len(os.fsencode(ending))]
    whole = place.name if os.fsencode(place.name) == name else name.decode(errors="ignore")
    return whole + ending


class RunLock:
    """Held by the coordinator while it runs; released by the system when its process ends, however it ends."""

    def __init__(self, folder: RunFolder) -> None:
        self.path, self._folder = folder.lock, folder

    @property
    def is_held(self) -> bool:
        """Whether a coordinator, in this process or another, works in the folder now."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # nobody has worked here, or nobody whom this process may know of
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # where there are no locks no coordinator begins
            return False
        else:
            return False
        finally:
            os.close(descriptor)

    @property
    def owner(self) -> int | None:
        """The process that works in the folder now; ``None`` if nobody does, or it is not known who."""
        if not self.is_held:
            return None
        try:
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                told = file.read(100).decode(errors="replace").strip()
        except OSError:
            return None
        return int(told) if told.isascii() and told.isdecimal() else None

    def __enter__(self) -> "RunLock":
        try:
            self._folder.must_be_for_a_run()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder.must_be_its_own(alone=WRITTEN)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise StorageError.of(self.path, error) from error
        try:
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # it was put there at this moment
                raise StorageError(self.path, "it is no file of this folder's own")
            must_do(self.path.parent)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except AgentKDError:
            os.close(self._descriptor)
            raise
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                os.close(self._descriptor)
                raise StorageError.of(self.path, error) from error
            owner = os.read(self._descriptor, 100).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise self._in_use(owner) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            os.close(self._descriptor)
            raise StorageError.of(self.path, error) from error
        keep(self._folder.place)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        keep_no_more(self._folder.place)
        os.close(self._descriptor)

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[None]:
        """For who only reads what nobody may change meanwhile: nothing is written, as it cannot be on a full disk.

        Raises:
            ArtifactError: a coordinator works in the folder, or has begun to meanwhile.
        """
        self._folder.must_be_its_own()
        if self.is_held:
            raise self._in_use(str(self.owner or ""))
        yield
        if self.is_held:
            raise self._in_use(str(self.owner or ""))

    def _in_use(self, owner: str) -> ArtifactError:
        who = f"another coordinator (process {owner or 'unknown'})"
        return ArtifactError(f"{self.path.parent} is in use by {who}; wait until it ends, or choose another folder")


def drop_images(images: Path) -> None:
    """Removes a folder of decoded images, which can be made again; what else lies there stays."""
    for data in images.glob("*"):
        if NAME_OF_DATA.fullmatch(data.name) and not data.is_symlink():
            shutil.rmtree(data, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else lies there
        (images / "used").unlink(missing_ok=True)
        images.rmdir()
