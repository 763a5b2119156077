"""The coordinator: turns the outlook into messages and results into records. All decisions are elsewhere and pure.

The plan says which tasks are wanted, the dispatcher says who does what, the journal says what is done. Here are the edges:
processes, the clock, the socket. Knowledge never passes through here; weights and soft targets go from agent to agent.
"""

import logging
import queue
import time
from dataclasses import dataclass
from typing import Any

from agentkd.agents import dispatch
from agentkd.agents.dispatch import Bench, Condition, Dispatcher
from agentkd.agents.members import Members
from agentkd.agents.watching import Activity, Snapshot, Watcher
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.config import Experiment, dump_experiment
from agentkd.datasets.opening import open_dataset
from agentkd.errors import (
    AgentLostError,
    ArtifactError,
    ArtifactNotFoundError,
    ConfigError,
    ContractError,
    DatasetError,
    NonFiniteLossError,
    Problem,
    RemoteAgentError,
    StorageError,
    TrainingError,
)
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery, Post
from agentkd.launch.devices import Slot, parse_devices
from agentkd.launch.local import LocalLauncher
from agentkd.messages.bodies import (
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TaughtBy,
    TeacherMovedEvent,
    TeachReply,
    TeachRequest,
)
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import Stage, Step
from agentkd.search.study import write_view
from agentkd.task import Status, TaskResult

POLL_S = 0.1
SHOW_EVERY_S = 0.25
# Errors that every agent would meet again: the run stops, nothing is recorded, and running it again goes on.
FATAL_CODES = frozenset(kind.code for kind in (ConfigError, DatasetError, ContractError, StorageError, ArtifactError))

log = logging.getLogger(__name__)


def run_experiment(experiment: Experiment, folder: RunFolder, watcher: Watcher) -> Outlook:
    """Runs an experiment in a folder, or goes on with it; returns the finished outlook.

    Raises:
        AgentKDError: why it stopped. What was finished is recorded; running it again goes on from there.
    """
    slots = parse_devices(experiment.launch.devices)
    with RunLock(folder), Journal(folder.journal) as journal:
        _adopt_experiment(experiment, folder, journal)
        planner = Planner(experiment, open_dataset(experiment.data.dataset))
        results = _recorded_results(journal, folder)
        outlook = planner.outlook(results)
        if not outlook.is_finished:
            _sweep(folder)
            with _Coordinator(experiment, folder, journal, planner, results, slots, watcher) as coordinator:
                outlook = coordinator.run()
        write_study_view(folder, experiment, planner, outlook)
        return outlook


def read_run(folder: RunFolder) -> tuple[Experiment, Planner, Outlook, Journal]:
    """A run as it stands, for reports: what was recorded, and the outlook that follows from it."""
    journal = Journal(folder.must_exist().journal, read_only=True)
    experiment = Experiment.model_validate(journal.get_meta("experiment"))
    planner = Planner(experiment, open_dataset(experiment.data.dataset))
    results = {record.task.digest: record.result for record in journal.records()}
    return experiment, planner, planner.outlook(results), journal


def write_study_view(folder: RunFolder, experiment: Experiment, planner: Planner, outlook: Outlook) -> None:
    """Writes the studies for optuna-dashboard. A view only: it can be removed and is made again."""
    try:
        for family, trials in outlook.trials.items():
            write_view(f"sqlite:///{folder.study}", f"{experiment.name}-{family}", planner.families[family].space, trials)
    except OSError as error:
        raise StorageError(folder.study, str(error)) from error


@dataclass
class _Doing:
    step: Step
    agent: str
    epoch: int
    teachers: tuple[tuple[str, str], ...]
    progress: TaskProgressEvent | None = None
    result: TaskResult | None = None
    error: ErrorReply | None = None


class _Coordinator:
    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        journal: Journal,
        planner: Planner,
        results: dict[str, TaskResult],
        slots: tuple[Slot, ...],
        watcher: Watcher,
    ) -> None:
        self.experiment, self.folder, self.journal, self.planner = experiment, folder, journal, planner
        self.results, self.slots, self.watcher = results, slots, watcher
        self.outlook = planner.outlook(results)
        self.steps: dict[str, Step] = {}
        self.doing: dict[str, _Doing] = {}
        self.dispatcher = Dispatcher(len(slots), max_attempts=experiment.launch.max_attempts)
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.started_at = time.monotonic()
        self.num_before = len(results)
        self._shown_at = 0.0
        keys = new_key_pair()
        self.post = Post(keys, self.inbox.put, bind=f"tcp://127.0.0.1:{experiment.launch.port or '*'}")
        launcher = LocalLauncher(
            folder,
            endpoint=self.post.endpoint,
            coordinator_key=keys.public,
            checkpoint_every_s=experiment.launch.checkpoint_every_s,
        )
        self.members = Members(folder, launcher, self.post, experiment.launch)

    def __enter__(self) -> "_Coordinator":
        self.post.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.members.end()
        else:
            self.members.end_now()
        self.post.close()

    def run(self) -> Outlook:
        self._want()
        while not self.outlook.is_finished:
            for lost in self.members.find_lost():
                self._lose(lost)
            try:
                self._receive(self.inbox.get(timeout=POLL_S))
                while True:
                    self._receive(self.inbox.get_nowait())
            except queue.Empty:
                pass
            self._show()
        self._show(now=True)
        return self.outlook

    # Incoming.

    def _receive(self, delivery: Delivery) -> None:
        name = self.members.name_of(delivery.sender)
        if not name:
            return
        body = delivery.message.body
        self.members.note_message(name)
        if isinstance(body, HelloRequest):
            if self.members.welcome(name, body, delivery.message.msg_id):
                self._handle(dispatch.Joined(name))
        elif isinstance(body, HeartbeatEvent):
            self.members.note_heartbeat(name, body)
        elif isinstance(body, TaskProgressEvent):
            if body.task in self.doing and self.doing[body.task].epoch == body.epoch:
                self.doing[body.task].progress = body
        elif isinstance(body, TaskReply):
            if body.task in self.doing and self.doing[body.task].epoch == body.epoch:
                self.doing[body.task].result = body.result
            self._handle(dispatch.Ended(name, body.task, body.epoch))
        elif isinstance(body, TeachReply):
            self._handle(dispatch.Ready(name, body.weights))
        elif isinstance(body, ErrorReply):
            self._receive_error(name, body)

    def _receive_error(self, name: str, body: ErrorReply) -> None:
        log.error("%s: %s (%s): %s", name, body.code, body.remote_type, body.text)
        if body.code in FATAL_CODES:
            if body.code == StorageError.code:
                raise StorageError(self.folder.place, f"{name}: {body.text}")
            raise RemoteAgentError(name, body.code, body.remote_type, body.text)
        if not body.task:
            self.dispatcher.teaching_failed(name)
            return
        if body.task in self.doing:
            self.doing[body.task].error = body
        retryable = body.code != NonFiniteLossError.code
        self._handle(dispatch.Failed(name, body.task, body.epoch, retryable))

    def _lose(self, lost: AgentLostError) -> None:
        log.warning("%s", lost)
        self.watcher.tell(f"lost {lost.agent}: {str(lost).splitlines()[0]}; its work goes to another agent")
        self._handle(dispatch.Lost(lost.agent))

    # Decisions carried out.

    def _handle(self, event: dispatch.Event) -> None:
        self._act(self.dispatcher.handle(event))

    def _want(self) -> None:
        self.steps |= {step.key: step for step in self.outlook.steps}
        self._act(self.dispatcher.want((step.key, step.task) for step in self.outlook.steps))

    def _act(self, actions: list[dispatch.Action]) -> None:
        for action in actions:
            if isinstance(action, dispatch.Launch):
                self.members.launch(action.agent, self.slots[action.slot])
            elif isinstance(action, dispatch.Start):
                self._start(action)
            elif isinstance(action, dispatch.Teach):
                request = TeachRequest(
                    architecture=action.teacher.architecture, weights=action.teacher.weights, data=self.planner.source
                )
                self._say(action.agent, request)
            elif isinstance(action, dispatch.Move):
                moved = TeacherMovedEvent(weights=action.weights, peer=self.members.address_of(action.teacher))
                self._say(action.student, moved)
            elif isinstance(action, dispatch.Accept):
                self._accept(action.task)
            else:
                self._give_up(action.task)

    def _say(self, agent: str, body: Any) -> None:
        key = self.members.key_of(agent)
        if key:
            self.post.send(key, body)

    def _start(self, action: dispatch.Start) -> None:
        step = self.steps[action.task]
        self.doing[action.task] = _Doing(step, action.agent, action.epoch, action.teachers)
        taught = tuple(TaughtBy(weights=weights, peer=self.members.address_of(agent)) for weights, agent in action.teachers)
        self._say(action.agent, TaskRequest(task=step.task, epoch=action.epoch, teachers=taught))
        again = f" (attempt {action.epoch})" if action.epoch > 1 else ""
        self.watcher.tell(f"{action.agent} starts {step.stage} of {step.family}: {step.label}{again}")

    def _accept(self, task: str) -> None:
        doing = self.doing.pop(task)
        assert doing.result is not None
        self._record(task, doing, doing.result)

    def _give_up(self, task: str) -> None:
        """A task that failed for good: a failed trial or lesson is a result; a failed baseline stops the run unrecorded."""
        doing = self.doing.pop(task)
        error = doing.error
        code, text = (error.code, error.text) if error else (AgentLostError.code, "its agents were lost")
        if doing.step.stage in (Stage.BASELINE, Stage.TEST):
            raise TrainingError(f"{doing.step.stage} of {doing.step.family} failed after {doing.epoch} attempts ({code}): {text}")
        self._record(task, doing, TaskResult(status=Status.FAILED, error_code=code, error_text=text[:2000]))

    def _record(self, task: str, doing: _Doing, result: TaskResult) -> None:
        self.journal.commit(Record(doing.step.task, result, doing.agent, doing.epoch), doing.teachers)
        self.folder.checkpoint(task).unlink(missing_ok=True)
        self.results[task] = result
        self.watcher.tell(describe_result(doing.step, result))
        self.outlook = self.planner.outlook(self.results)
        if self.outlook.failure:
            raise TrainingError(self.outlook.failure)
        self._want()

    # What is shown.

    def _show(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown_at < SHOW_EVERY_S:
            return
        self._shown_at = time.monotonic()
        elapsed = self._shown_at - self.started_at
        expected = self._num_expected()
        done_now = len(self.results) - self.num_before
        left = elapsed / done_now * (expected - len(self.results)) if done_now else None
        waiting = tuple(self.steps[key] for key in self.dispatcher.waiting)
        activities = tuple(self._activity(member) for member in self.dispatcher.members.values())
        self.watcher.show(
            Snapshot(self.experiment.name, elapsed, len(self.results), expected, left, self.outlook, waiting, activities)
        )

    def _activity(self, member: dispatch.Member) -> Activity:
        device = self.members.device_of(member.name)
        doing = self.doing.get(member.task)
        if doing is not None:
            text = f"{doing.step.stage}: {doing.step.label}"
            text = text if doing.step.family in text else f"{doing.step.family} {text}"
            if doing.progress is None:
                return Activity(member.name, device, text)
            p = doing.progress
            return Activity(member.name, device, text, p.step, p.steps, p.loss, p.miou)
        if member.condition is Condition.TEACHING:
            return Activity(member.name, device, f"teaches with weights {member.weights[:8]}")
        role = " (to teach)" if member.bench is Bench.TEACHING else ""
        return Activity(member.name, device, f"{member.condition}{role}")

    def _num_expected(self) -> int:
        """Tasks in all if no trial is infeasible and every round has as many students as it may."""
        per_family = 1 + self.experiment.search.trials + 1 + 1 + 1
        return max(len(self.results) + len(self.outlook.steps), per_family * len(self.experiment.families) - 1)


def describe_result(step: Step, result: TaskResult) -> str:
    """One line on a finished task."""
    head = f"{step.family} {step.stage}, {step.label}: "
    if result.status is Status.INFEASIBLE:
        return head + f"infeasible ({result.num_parameters_deploy:,} deploy parameters, {result.num_macs:,} MACs)"
    if result.status is Status.FAILED:
        return head + f"failed ({result.error_code}): {result.error_text.splitlines()[0] if result.error_text else ''}"
    pruned = " (pruned)" if result.status is Status.PRUNED else ""
    return head + f"mIoU {100 * result.miou:.2f} %{pruned}, {result.num_parameters_deploy:,} parameters, {result.seconds:.0f} s"


def _adopt_experiment(experiment: Experiment, folder: RunFolder, journal: Journal) -> None:
    """Notes the experiment in a new run; in an old one it must be the same."""
    noted = journal.get_meta("experiment")
    if noted is None:
        journal.set_meta("experiment", experiment.canonical())
        try:
            folder.experiment.write_text(dump_experiment(experiment), encoding="utf-8")
        except OSError as error:
            raise StorageError(folder.experiment, error.strerror or str(error)) from error
        return
    before, now = Experiment.model_validate(noted).result_inputs(), experiment.result_inputs()
    problems = [
        Problem(path, f"is {_short(b)} now, but this run was begun with {_short(a)}") for path, a, b in _differences(before, now)
    ]
    if problems:
        problems.append(Problem("", f"choose another folder with --out, or restore what {folder.experiment} says"))
        raise ConfigError(problems, source=str(folder.place))


def _differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{path}.{k}" if path else k)]
    return [] if a == b else [(path, a, b)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _recorded_results(journal: Journal, folder: RunFolder) -> dict[str, TaskResult]:
    """What is recorded, after a look that the weights it names are there."""
    results = {}
    for record in journal.records():
        for digest in filter(None, (record.result.weights, record.result.predictions)):
            if digest not in folder.store:
                raise ArtifactNotFoundError(digest, folder.store.place)
        results[record.task.digest] = record.result
    return results


def _sweep(folder: RunFolder) -> None:
    """Removes what an interrupted coordinator left: keys of agents that are gone, half-written files."""
    for stale in (*folder.keys.glob("*.json"), *folder.checkpoints.glob("*.part"), *folder.store.place.glob("*/*.part")):
        stale.unlink(missing_ok=True)
