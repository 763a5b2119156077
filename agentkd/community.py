"""The scripting API: a community of agents, and handles to the networks they hold.

Every call that trains returns a future at once; the work is done by agent processes. What was done is recorded in the
community's folder, so a script that is run again is answered from the records.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentkd import seeding
from agentkd.agents.crew import Crew
from agentkd.agents.watching import Silent, Watcher
from agentkd.architecture import Architecture, Setting
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.config import LaunchConfig
from agentkd.datasets.opening import open_dataset
from agentkd.errors import AgentKDError, ChannelClosedError, ConfigError, TrainingError
from agentkd.exchange.grants import EVERYTHING
from agentkd.launch.devices import parse_devices
from agentkd.networks import families
from agentkd.objectives import Objective, SoftTargets
from agentkd.recipe import Distillation, Recipe
from agentkd.task import DataSource, Status, Task, TaskKind, TaskResult, TeacherReference

if TYPE_CHECKING:
    from agentkd.agents.guests import Guest

IDLE_WAIT_S = 0.2
CLOSE_TIMEOUT_S = 60.0


class AgentHandle:
    """A named network of a community. Its tasks are done one after the other; ``weights`` is the digest of the newest."""

    def __init__(self, community: "Community", name: str, architecture: Architecture) -> None:
        self.name, self.architecture = name, architecture
        self._community = community
        self._last: Future[TaskResult] | None = None

    @property
    def weights(self) -> str:
        """Digest of the newest weights; waits for the task that makes them. Empty before any training.

        Raises:
            TrainingError: that task failed.
        """
        return self._last.result().weights if self._last else ""

    def as_teacher(self) -> TeacherReference:
        """This network, as it is now, as the teacher of a task.

        Raises:
            ConfigError: it was not trained yet.
        """
        if not self.weights:
            raise ConfigError(f"{self.name} cannot teach: not trained yet; call train() first")
        return TeacherReference(architecture=self.architecture, weights=self.weights)

    def train(self, data: str, **recipe: Any) -> "Future[TaskResult]":
        """Trains on a dataset specification; goes on from the newest weights.

        Args:
            data: see ``agentkd.open_dataset``; its splits ``train`` and ``validation`` are used.
            recipe: fields of ``Recipe`` that differ from the family's published ones.
        """
        return self._do(Task(kind=TaskKind.TRAIN, **self._inputs(data, recipe)))

    def distill(
        self,
        teachers: "AgentHandle | Guest | Sequence[AgentHandle | Guest]",
        data: str,
        objectives: Sequence[Objective] = (SoftTargets(),),
        *,
        alpha: float = 0.5,
        hard_loss: str = "family",
        start: str = "own",
        codec: str = "float16",
        **recipe: Any,
    ) -> "Future[TaskResult]":
        """Learns from one or several teachers, which serve what the objectives need from processes of their own.

        The further arguments are fields of ``Distillation`` and ``Recipe``.

        Waits until the teachers' own tasks are done, or a guest has come, since the weights that teach are part of the task.
        """
        listed = list(teachers) if isinstance(teachers, Sequence) else [teachers]
        references = tuple(teacher.as_teacher() for teacher in listed)
        given = {"objectives": tuple(objectives), "alpha": alpha, "hard_loss": hard_loss, "start": start, "codec": codec}
        chosen = Distillation.model_validate(given)
        inputs = self._inputs(data, recipe)
        if chosen.start != "own":
            inputs["initial_weights"] = ""
        return self._do(Task(kind=TaskKind.DISTILL, teachers=references, distillation=chosen, **inputs))

    def evaluate(self, data: str, split: str = "test") -> TaskResult:
        """Scores of the newest weights on a split; waits for them."""
        source = self._community.source(data).model_copy(update={"validation": split})
        task = Task(kind=TaskKind.EVALUATE, architecture=self.architecture, data=source, initial_weights=self.weights)
        return self._community.submit(task, f"evaluation of {self.name}").result()

    def _inputs(self, data: str, recipe: dict[str, Any]) -> dict[str, Any]:
        published = families.published_recipe(self.architecture.family)
        return {
            "architecture": self.architecture,
            "data": self._community.source(data),
            "recipe": Recipe.model_validate(published | recipe),
            "seed": seeding.derive(self._community.seed, self.name),
            "view_seed": seeding.derive(self._community.seed, "views"),
            "initial_weights": self.weights,
        }

    def _do(self, task: Task) -> "Future[TaskResult]":
        self._last = self._community.submit(task, f"{task.kind} of {self.name}")
        return self._last


class Community:
    """Agent processes that do what a script asks. Use as a context manager: no process outlives it.

    Args:
        devices: as on the command line: ``auto``, ``cpu:2``, ``cuda:0,cuda:1``; ``none`` if only guests are to do the work.
        out: folder for weights and records; one community at a time may use it.
        seed: root of all random numbers.

    Example::

        with agentkd.Community(devices="cpu:2", out="runs/exchange") as community:
            big = community.agent("big", "pidnet_m", num_classes=5)
            big.train("generated:seed=7,size=64x64", epochs=8).result()
            small = community.agent("small", "pidnet_s", num_classes=5)
            print(small.distill(big, "generated:seed=7,size=64x64", epochs=8).result().miou)
    """

    def __init__(
        self, devices: str = "auto", out: str | Path = "runs/community", seed: int = 1, watcher: Watcher | None = None
    ) -> None:
        self.seed = seed
        self._slots = () if devices == "none" else parse_devices(devices)
        self._folder = RunFolder(Path(out))
        self._watcher = watcher or Silent()
        self._submitted: queue.Queue[tuple[str, Task, str, Future[TaskResult]] | None] = queue.Queue()
        self._sources: dict[str, DataSource] = {}
        self._names: set[str] = set()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="agentkd-community", daemon=True)

    def __enter__(self) -> "Community":
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._submitted.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def agent(self, name: str, family: str, *, num_classes: int, **settings: Setting) -> AgentHandle:
        """A handle to a network of this family, by a name that is free.

        Raises:
            ConfigError: the name is taken, or the architecture is not legal.
        """
        architecture = families.resolve(family, num_classes, settings)
        self._take_name(name)
        return AgentHandle(self, name, architecture)

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

    def source(self, spec: str) -> DataSource:
        """A dataset by specification and content."""
        if spec not in self._sources:
            self._sources[spec] = DataSource(spec=spec, content_digest=open_dataset(spec).digest)
        return self._sources[spec]

    def submit(self, task: Task, label: str) -> "Future[TaskResult]":
        """Has a task done; the future holds its result, or the error that ended it."""
        if not self._thread.is_alive():
            raise ChannelClosedError("the community is closed; use it inside its with-block")
        future: Future[TaskResult] = Future()
        self._submitted.put((task.digest, task, label, future))
        return future

    def _take_name(self, name: str) -> None:
        if name in self._names:
            raise ConfigError(f"the name {name!r} is taken in this community")
        self._names.add(name)

    # On the community's thread.

    def _run(self) -> None:
        waiting: dict[str, list[Future[TaskResult]]] = {}
        try:
            with (
                RunLock(self._folder),
                Journal(self._folder.journal) as journal,
                Crew(self._folder, self._slots, LaunchConfig(), self._watcher) as crew,
            ):
                self._crew = crew
                self._started.set_result(None)
                self._work(journal, crew, waiting)
        except AgentKDError as error:
            if not self._started.done():
                self._started.set_exception(error)
            for future in (future for futures in waiting.values() for future in futures):
                future.set_exception(error)

    def _work(self, journal: Journal, crew: Crew, waiting: dict[str, list["Future[TaskResult]"]]) -> None:
        tasks: dict[str, Task] = {}
        while True:
            try:
                item = self._submitted.get(timeout=0 if waiting else IDLE_WAIT_S)
                if item is None:
                    return
                key, task, label, future = item
                known = journal.find(key)
                if known is not None:
                    future.set_result(known)
                else:
                    tasks[key] = task
                    waiting.setdefault(key, []).append(future)
                    crew.want([(key, task, label)])
            except queue.Empty:
                pass
            for finished in crew.turn():
                futures = waiting.pop(finished.key, [])
                if finished.result.status is Status.FAILED:
                    error = TrainingError(f"{finished.result.error_code}: {finished.result.error_text}")
                    for future in futures:
                        future.set_exception(error)
                    continue
                journal.commit(Record(tasks[finished.key], finished.result, finished.agent, finished.attempts), finished.teachers)
                self._folder.checkpoint(finished.key).unlink(missing_ok=True)
                for future in futures:
                    future.set_result(finished.result)
