"""The scripting API: a community of agents, and handles to the networks they hold.

Every call that trains returns a future at once; the work is done by agent processes. What was done is recorded in the
community's folder, so a script that is run again is answered from the records.
"""

import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentkd.agents.crew import Crew
from agentkd.agents.watching import Silent, Watcher
from agentkd.architecture import Setting
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle, Data
from agentkd.config import LaunchConfig
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.errors import AgentKDError, ChannelClosedError, ConfigError, Problem, TrainingError
from agentkd.exchange.grants import EVERYTHING
from agentkd.launch.devices import parse_devices
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.task import Competence, DataSource, Status, Task

if TYPE_CHECKING:
    from agentkd.agents.guests import Guest

IDLE_WAIT_S = 0.2
CLOSE_TIMEOUT_S = 60.0


class Community:
    """Agent processes that do what a script asks. Use as a context manager: no process outlives it.

    Args:
        devices: as on the command line: ``auto``, ``cpu:2``, ``cuda:0,cuda:1``; ``none`` if only guests are to do the work.
        record: folder for weights and records; one community at a time may use it.
        seed: root of all random numbers.
        launch: how agents are started and watched, as in an experiment's ``launch``: ``record_lessons=True`` keeps what
            teachers told, and whoever asks the same again, also in a later script, is answered without a teacher.

    Example::

        data = agentkd.open_dataset("generated:seed=7,size=64x64")
        with agentkd.Community(devices="cpu:2", record="runs/exchange") as community:
            big, small = community.agent("big", "pidnet_m"), community.agent("small", "pidnet_s")
            big.train(data, epochs=8).result()
            lesson = small.distill(big, data, [agentkd.SoftTargets(temperature=4)], epochs=8)
            for event in lesson.progress():
                print(event.step, event.loss)
            print(lesson.result().miou, small.assess(data).known_fraction)
    """

    def __init__(
        self,
        devices: str = "auto",
        record: str | Path = "runs/community",
        seed: int = 1,
        watcher: Watcher | None = None,
        **launch: Any,
    ) -> None:
        try:
            self.seed, self._launch = seed, LaunchConfig.model_validate(launch)
        except ValidationError as error:
            known = ", ".join(name for name in LaunchConfig.model_fields if name != "devices")
            problems = [Problem(".".join(map(str, one["loc"])), f"{one['msg']}; known: {known}") for one in error.errors()]
            raise ConfigError(problems, source="Community") from None
        self._slots = () if devices == "none" else parse_devices(devices)
        self._folder = RunFolder(Path(record))
        self._watcher = watcher or Silent()
        self._submitted: queue.Queue[list[tuple[Task, str, Lesson]] | None] = queue.Queue()
        self._opened: dict[str, Opened] = {}
        self._names: set[str] = set()
        self._handles: list[AgentHandle] = []
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="agentkd-community", daemon=True)

    def __enter__(self) -> "Community":
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._submitted.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def agent(
        self, name: str, family: str, *, weights: str | Path = "", num_classes: int | None = None, **settings: Setting
    ) -> AgentHandle:
        """A handle to a network of this family, by a name that is free.

        Args:
            name: how it is called here; its seed follows from it.
            family: ``pidnet_s``, ``unet``, ... or ``package.module:builder``.
            weights: digest of weights in the record, or a file of weights: ours, or published ones (see ``agentkd weights``).
            num_classes: that of the first data it meets if it is not given.
            settings: the family's settings that differ from its own.

        Raises:
            ConfigError: the name is taken, the architecture is not legal, or the weights are not of this architecture.
        """
        if not weights:
            handle = AgentHandle(self, name, family, num_classes=num_classes, settings=settings)
        else:
            from agentkd.agents import importing  # needs torch, which a script that only plans does not

            num_classes = num_classes or importing.num_classes_of(weights, self._folder.store)
            handle = AgentHandle(self, name, family, num_classes=num_classes, settings=settings)
            handle.start_from(importing.stored_weights(weights, handle.architecture, self._folder.store))
        self._take_name(name)
        self._handles.append(handle)
        return handle

    def who_knows(self, data: Data, split: str = "validation") -> list[tuple[AgentHandle, Competence]]:
        """Every network of this community that has weights, with its competence on a split, the most competent first.

        The score is the known fraction times the network's own validation mIoU, which needs no labels of the data.
        """
        able = [handle for handle in self._handles if handle.weights]
        found = [(handle, handle.assess(data, split)) for handle in able]
        return sorted(found, key=lambda pair: -(pair[1].known_fraction or 0.0) * pair[0].miou)

    def artifact(self, digest: str) -> bytes:
        """Stored bytes by their digest.

        Raises:
            ArtifactError: they are not there, or damaged.
        """
        return self._folder.store.get(digest)

    @property
    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        return self._crew.recordings.report()

    def guest(self, name: str, public_key: str, *, may: tuple[str, ...] = EVERYTHING) -> "Guest":
        """Admits an agent that somebody else starts, perhaps in another language; it finds the community by ``invitation``.

        A guest that learns (``agentkd agent --join``) takes tasks like the community's own agents. One that says what weights it
        teaches can be a teacher, be assessed and be asked for soft targets. It may leave and come back.

        Args:
            name: how it is called here.
            public_key: as ``agentkd keys new`` prints it.
            may: kinds of knowledge that it may fetch.

        Raises:
            ConfigError: the name is taken.
        """
        from agentkd.agents.guests import Guest  # needs torch, which a script that only plans does not

        self._take_name(name)
        return Guest(self._crew, name, public_key, may)

    @property
    def invitation(self) -> str:
        """What a guest needs to know to come, as options of ``agentkd agent``."""
        return f"--join {self._crew.contact.endpoint} --coordinator-key {self._crew.contact.coordinator_key}"

    def source(self, data: Data) -> DataSource:
        """A dataset by specification and content."""
        opened = self._open(data)
        return DataSource(spec=opened.spec, content_digest=opened.digest)

    def classes(self, data: Data) -> tuple[str, ...]:
        """The classes of a dataset."""
        return self._open(data).classes

    def submit(self, *tasks: tuple[Task, str]) -> tuple[Lesson, ...]:
        """Has tasks (with labels) done; each future holds its result, or the error that ended it."""
        if not self._thread.is_alive():
            raise ChannelClosedError("the community is closed; use it inside its with-block")
        lessons = [(task, label, Lesson()) for task, label in tasks]
        self._submitted.put(lessons)
        return tuple(lesson for *_, lesson in lessons)

    @property
    def num_learners(self) -> int | None:
        """How many agents can learn at once; ``None`` if that is up to guests."""
        return len(self._slots) or None

    def _open(self, data: Data) -> Opened:
        spec = data if isinstance(data, str) else data.spec
        if spec not in self._opened:
            self._opened[spec] = open_dataset(data) if isinstance(data, str) else data
        return self._opened[spec]

    def _take_name(self, name: str) -> None:
        if name in self._names:
            raise ConfigError(f"the name {name!r} is taken in this community")
        self._names.add(name)

    # On the community's thread.

    def _run(self) -> None:
        waiting: dict[str, list[Lesson]] = {}
        try:
            with (
                RunLock(self._folder),
                Journal(self._folder.journal) as journal,
                Crew(self._folder, self._slots, self._launch, self._watcher, is_forgiving=True) as crew,
            ):
                self._crew = crew
                for record in journal.records():
                    crew.note(record.task, record.result)
                self._started.set_result(None)
                self._work(journal, crew, waiting)
            end: AgentKDError = ChannelClosedError("the community was closed before this was done; run the script again to go on")
        except AgentKDError as error:
            if not self._started.done():
                self._started.set_exception(error)
            end = error
        for lesson in (lesson for lessons in waiting.values() for lesson in lessons):
            lesson.set_exception(end)

    def _work(self, journal: Journal, crew: Crew, waiting: dict[str, list[Lesson]]) -> None:
        tasks: dict[str, Task] = {}
        told: dict[str, TaskProgressEvent] = {}
        while True:
            try:
                item = self._submitted.get(timeout=0 if waiting else IDLE_WAIT_S)
                if item is None:
                    return
                wanted = []
                for task, label, future in item:
                    key = task.digest
                    known = journal.find(key)
                    if known is not None:
                        future.set_result(known)
                    else:
                        tasks[key] = task
                        waiting.setdefault(key, []).append(future)
                        wanted.append((key, task, label))
                crew.want(wanted)
            except queue.Empty:
                pass
            finished_now = crew.turn()
            for key, lessons in waiting.items():
                event = crew.progress(key)
                if event is not None and event != told.get(key):
                    told[key] = event
                    for lesson in lessons:
                        lesson.note(event)
            for finished in finished_now:
                futures = waiting.pop(finished.key, [])
                if finished.result.status is Status.FAILED:
                    error = TrainingError(f"{finished.result.error_code}: {finished.result.error_text}")
                    for future in futures:
                        future.set_exception(error)
                    continue
                journal.commit(Record(tasks[finished.key], finished.result, finished.agent, finished.attempts), finished.teachers)
                crew.note(tasks[finished.key], finished.result)
                self._folder.clear(finished.key)
                for future in futures:
                    future.set_result(finished.result)
