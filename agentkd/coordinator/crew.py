"""Agents that do tasks: started, given work, watched, replaced. The edges around the dispatcher: processes, sockets, clock."""

import logging
import queue
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from agentkd.artifacts.recordings import GIB, Recordings
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import events
from agentkd.coordinator.answers import Answer, to_what_was_asked
from agentkd.coordinator.collecting import Collected, Collector, Inspection
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.handing_over import HandingOver
from agentkd.coordinator.members import Members
from agentkd.coordinator.requests import Requests
from agentkd.coordinator.underway import Finished, Underway
from agentkd.coordinator.watching import Activity, Watcher
from agentkd.errors import (
    AgentKDError,
    AgentLostError,
    ArtifactError,
    ConfigError,
    ContractError,
    DatasetError,
    NonFiniteLossError,
    NotRepeatableError,
    ProtocolError,
    RemoteAgentError,
    RemoteProtocolError,
    ResultError,
    Rule,
    StorageError,
)
from agentkd.exchange.addresses import is_local, listening
from agentkd.exchange.asking import Asker
from agentkd.exchange.channel import Counters
from agentkd.exchange.grants import TASKS, Grants, Registry
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.liveness import HEARTBEAT_S
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Manners, Post, useless
from agentkd.exchange.quotas import Quotas
from agentkd.exchange.transports import find_transport
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Contact, Launcher
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessReply,
    Body,
    CancelRequest,
    Capability,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeReply,
    KnowledgeRequest,
    LeftEvent,
    ReleaseEvent,
    SubmitRequest,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TaughtBy,
    TeacherMovedEvent,
    TeachReply,
    TeachRequest,
    Way,
    WelcomeReply,
)
from agentkd.messages.wire import MAX_MESSAGE_BYTES, Buffer
from agentkd.names import NO_DIGEST, AgentName, Digest, PublicKey, TaskKey
from agentkd.task import Task, TaskResult

POLL_S = 0.1
MAX_WAITING = 256  # messages of a guest that ``turn`` has not looked at
OF_ANYBODY = HelloRequest | ErrorReply
OF_AGENTS = HeartbeatEvent | LeftEvent | TaskProgressEvent | TaskReply | TeachReply | KnowledgeRequest | ReleaseEvent
# Errors that every agent of ours would meet again: the work stops, nothing is recorded, and starting again goes on.
FATAL_CODES = frozenset(kind.code for kind in (ConfigError, DatasetError, ContractError, StorageError, ArtifactError))

log = logging.getLogger(__name__)


class Crew:
    """Has tasks done. Use as a context manager: no agent that it started outlives it.

    One thread calls ``want`` and ``turn``; ``invite``, ``rouse``, ``greeting`` and ``ask`` may be called from any.

    Args:
        folder: where everything of the run lies.
        slots: one learning agent each.
        config: timing, transport, attempts.
        watcher: who is told what happens.
        launcher: starts the agents.
        is_forgiving: a task that every agent would refuse (a wrong tap, another dataset) fails alone and does not end the crew.
            What a guest meets never ends it.
        on_order: takes the tasks that scripts in other processes hand in (``SubmitRequest``) to this crew, on the I/O thread;
            the keys of those scripts stand in the run folder. Without it nobody else may hand in tasks.
    """

    def __init__(
        self,
        folder: RunFolder,
        slots: tuple[Slot, ...],
        config: LaunchConfig,
        watcher: Watcher,
        launcher: Launcher,
        *,
        is_forgiving: bool = False,
        on_order: Callable[["Crew", Delivery], None] | None = None,
    ) -> None:
        folder.sweep()
        self.folder, self.slots, self.watcher = folder, slots, watcher
        self._dispatcher = Dispatcher(len(slots), max_attempts=config.max_attempts, max_copies=config.teacher_copies)
        self._inbox: queue.Queue[Delivery | Collected | AdmittedPeer | None] = queue.Queue()
        self.recordings = Recordings(folder.store, max_bytes=int(config.max_record_gib * GIB))
        self._quotas = Quotas(MAX_WAITING, MAX_MESSAGE_BYTES, 4 * MAX_MESSAGE_BYTES)
        self._underway = Underway()
        self._finished: list[Finished] = []
        self._requests = Requests(config.lease_s)
        self._asker, self._on_order = Asker(), on_order
        keys, transport = new_key_pair(), find_transport(config.transport)
        bind = listening(transport, config.bind, port=config.port)
        self._post = Post(
            keys,
            self._sort,
            bind=bind,
            manners=Manners(
                welcome=lambda key, hello: self._welcome(key),
                coordinator_key=keys.public,
                store=folder.store.place,
            ),
            grants=Grants(Registry(folder.visitors) if on_order else None),
        )
        self._carrier = Carrier(self._post, folder.store, ways=transport.ways)
        self._handing_over = HandingOver(folder, self._post, self._carrier)
        self._collector = Collector(self._post, self._carrier, self._asker, folder.store, self._inbox.put)
        self._config, self._is_forgiving = config, is_forgiving
        self._contact = config.contact(self._post.endpoints, keys.public)
        self._members = Members(folder, launcher, self._contact, self._post, config)

    def __enter__(self) -> Self:
        self._post.start()
        distant = [endpoint for endpoint in self._post.endpoints if not is_local(endpoint)]
        if distant:
            self.watcher.tell(f"listening at {', '.join(distant)}: whoever is on that network can knock; known keys are let in")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._members.end()
        else:
            if not issubclass(kind, AgentKDError | KeyboardInterrupt):  # a fault of ours: what led to it
                log.error("what the dispatcher was told and decided:\n%s", self._dispatcher.story())
            self._members.end_now()
        self._collector.close()
        self._carrier.close()
        self._post.close()
        self._handing_over.close()
        self.folder.drop_images()

    def want(self, tasks: Iterable[tuple[TaskKey, Task, str]]) -> None:
        """Adds tasks (key, task, label) to be done; those known already are left as they are."""
        listed = list(tasks)
        self._underway.labels |= {key: label for key, _, label in listed}
        self._spare({key: task for key, task, _ in listed} | self._dispatcher.state.waiting)
        self._act(self._dispatcher.want((key, task) for key, task, _ in listed))

    def note(self, task: Task, result: TaskResult) -> None:
        """A result that is committed, now or in an earlier session: what was recorded of it can be told again."""
        self.recordings.note(task, result)
        self.recordings.collect(in_use=self._underway.recordings_in_use())
        self._spare(self._dispatcher.state.waiting)

    def turn(self) -> list[Finished]:
        """Waits a moment for news, acts on it, and returns what was finished since.

        Raises:
            RemoteAgentError: an agent met an error that every agent would meet.
            StorageError: an agent could not write.
            LaunchError: agents cannot be started.
            ChannelClosedError: the I/O thread has ended with an error.
        """
        self._post.check()
        self._handing_over.keep_up(lambda key: self._needs(self._members.name_of(key)))
        for lost in self._members.find_lost():
            self._lose(lost)
        try:
            self._receive(self._inbox.get(timeout=POLL_S))
            while True:
                self._receive(self._inbox.get_nowait())
        except queue.Empty:
            pass
        finished, self._finished = self._finished, []
        return finished

    def rouse(self) -> None:
        """Has ``turn`` return at once. From any thread."""
        self._inbox.put(None)

    def invite(self, guest: AdmittedPeer) -> None:
        """Admits an agent that somebody else starts. It learns or teaches, as it says when it comes; it may come back."""
        self._inbox.put(guest)  # first: once it is admitted its greeting may come at any moment
        self._members.admit(guest)

    def greeting(self, public_key: PublicKey) -> HelloRequest | None:
        """What a guest said when it came; ``None`` if it is not here."""
        peer = self._post.peer(public_key)
        return peer.greeting if peer is not None and isinstance(peer.greeting, HelloRequest) else None

    def ask(self, public_key: PublicKey, body: Body, *, buffers: tuple[Buffer, ...] = (), timeout_s: float) -> Delivery:
        """An agent's reply to a request. Blocks.

        Raises:
            RemoteAgentError: it answered with an error.
            ReplyTimeoutError: it did not answer in time.
        """
        return self._asker.ask(self._post, public_key, body, buffers=buffers, timeout_s=timeout_s)

    def fetch(self, delivery: Delivery) -> bytes:
        """The piece of knowledge that a reply hands over. Blocks.

        Raises:
            AgentKDError: as ``Carrier.fetch``.
        """
        body = delivery.message.body
        assert isinstance(body, KnowledgeReply)
        fetched = self._carrier.fetch(delivery.sender, body.piece, delivery.message.buffers)
        try:
            return bytes(fetched.data)
        finally:
            fetched.release()

    def keep(self, delivery: Delivery, *, wanted: Digest = NO_DIGEST, max_bytes: int) -> Digest:
        """Puts the piece that a reply hands over into the store. Blocks.

        Raises:
            RemoteProtocolError: it is over its limit (rule ``limit``); nothing was fetched.
            AgentKDError: as ``Carrier.fetch_to_store``.
        """
        body = delivery.message.body
        assert isinstance(body, KnowledgeReply)
        if not (wanted or body.piece.sha256):
            raise RemoteProtocolError("a piece that is to be kept needs its digest", Rule.BODY)
        if body.piece.size_bytes > max_bytes:
            text = f"a piece of {body.piece.size_bytes:,} octets; of {body.kind} there are {max_bytes:,} at most"
            raise RemoteProtocolError(text, Rule.LIMIT)
        return self._carrier.fetch_to_store(delivery.sender, body.piece, delivery.message.buffers, wanted=wanted)

    def tell(self, public_key: PublicKey, body: Body, *, parent_id: int = 0) -> None:
        """Says something to a peer, perhaps as an answer. From any thread."""
        self._post.send(public_key, body, parent_id=parent_id)

    @property
    def contact(self) -> Contact:
        """Where guests find this crew, and its public key."""
        return self._contact

    def progress(self, key: TaskKey) -> TaskProgressEvent | None:
        """The newest that was heard of a task under way. On the thread that calls ``turn``."""
        doing = self._underway.find(key)
        return doing.progress if doing else None

    @property
    def counters(self) -> Counters:
        """What crossed this crew's sockets."""
        return self._post.counters

    @property
    def ways(self) -> tuple[Way, ...]:
        """How knowledge can get here."""
        return self._carrier.ways

    def activities(self) -> tuple[Activity, ...]:
        """What every agent is doing."""
        students = self._dispatcher.students()
        return tuple(
            self._underway.activity(member, self._members.device_of(name), students.get(name, ()))
            for name, member in self._dispatcher.state.members.items()
        )

    # On the I/O thread.

    def _sort(self, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, SubmitRequest):
            self._post.grants.check(delivery.sender, TASKS)
            if self._on_order is None:
                raise useless(delivery)
            self._on_order(self, delivery)
        elif self._asker.take(delivery):
            return
        elif isinstance(body, OF_ANYBODY) or (isinstance(body, OF_AGENTS) and self._members.name_of(delivery.sender)):
            problem = "" if self._members.is_ours(delivery.sender) else self._quotas.enter(delivery)
            if problem:
                raise RemoteProtocolError(problem, Rule.LIMIT)
            self._inbox.put(delivery)
        elif isinstance(body, AssessReply | KnowledgeReply):  # whoever asked has given up waiting
            self._post.counters.late += 1
        else:
            raise useless(delivery)

    def _welcome(self, public_key: PublicKey) -> WelcomeReply:
        return WelcomeReply(agent=self._members.name_of(public_key), heartbeat_s=HEARTBEAT_S, lease_s=self._config.lease_s)

    # Incoming.

    def _receive(self, delivery: Delivery | Collected | AdmittedPeer | None) -> None:
        if delivery is None:
            return
        if isinstance(delivery, Collected):
            self._end(delivery)
            return
        if isinstance(delivery, AdmittedPeer):
            self._members.expect(delivery)
            return
        self._quotas.leave(delivery)
        name = self._members.name_of(delivery.sender)
        if not name:
            return
        body = delivery.message.body
        self._members.note_message(name)
        if isinstance(body, HelloRequest):
            self._join(name, body)
        elif isinstance(body, HeartbeatEvent):
            self._members.note_heartbeat(name, body)
            if self._requests.is_lost(name, is_busy=body.is_busy, now=time.monotonic()):
                self.watcher.tell(f"{name} has nothing to do, so what it was asked was lost; it is asked for again")
                self._handle(events.Idle(name))
        elif isinstance(body, TaskProgressEvent):
            doing = self._underway.current(name, body.task, body.attempt)
            if doing:
                doing.progress = body
        elif isinstance(body, TaskReply | TeachReply | ErrorReply):
            self._receive_answer(name, delivery, body)
        elif isinstance(body, KnowledgeRequest):
            self._handing_over.answer(delivery, body, self._needs(name))
        elif isinstance(body, ReleaseEvent):
            self._carrier.release(delivery.sender, body.leases)
        elif isinstance(body, LeftEvent) and self._members.is_guest(name):
            self._lose(self._members.drop(name, body.reason or "it left"))

    def _join(self, name: AgentName, hello: HelloRequest) -> None:
        is_new = self._members.joined(name, hello)
        if self._members.is_guest(name):
            learns = Capability.LEARN in hello.capabilities
            what = f"teaches {hello.teaches[:12]}" if hello.teaches else "learns" if learns else "looks on"
            self.watcher.tell(f"{name} came as a guest and {what}")
            self._handle(events.Arrived(name, learns, hello.teaches))
        elif is_new:
            self._handle(events.Joined(name))

    def _receive_answer(self, name: AgentName, delivery: Delivery, said: Answer) -> None:
        """What an agent says about anything but what it was asked is no answer, and nobody waits for another."""
        asked = self._requests.answered(name, delivery.message.parent_id)
        body = to_what_was_asked(asked, said)
        if isinstance(body, TaskReply):
            self._take_result(name, delivery.sender, body)
        elif isinstance(body, ErrorReply):
            self._receive_error(name, body, asked)
        elif asked:
            self._handle(events.Ready(name, body.weights))

    def _take_result(self, name: AgentName, public_key: PublicKey, body: TaskReply) -> None:
        """A result counts once the artifacts that it names are in the store, and a guest's has been looked at."""
        doing = self._underway.current(name, body.task, body.attempt)
        if doing:
            doing.result = body.result
            inspection = None
            if self._members.is_guest(name):
                inspection = Inspection(partial(self._inspect, doing.task), partial(self._max_bytes, doing.task))
            if self._collector.begin(name, public_key, body, inspection):
                return
        self._handle(events.Ended(name, body.task, body.attempt))

    def _inspect(self, task: Task, result: TaskResult) -> TaskResult:
        """On a collector's thread."""
        from agentkd.coordinator.inspecting import inspect  # needs torch, which a run without guests does without

        return inspect(task, result, self.folder.store, share=self._config.recheck_guests)

    def _max_bytes(self, task: Task) -> int:
        """On a collector's thread."""
        from agentkd.coordinator.inspecting import max_bytes

        return max_bytes(task, self.folder.store)

    def _end(self, collected: Collected) -> None:
        body, error = collected.reply, collected.error
        if error is None:
            doing = self._underway.current(collected.agent, body.task, body.attempt)
            if doing:
                doing.result = collected.result
            self._handle(events.Ended(collected.agent, body.task, body.attempt))
            return
        if isinstance(error, StorageError):  # this coordinator's own disk
            raise error
        failed = ErrorReply.of(error, task=body.task, attempt=body.attempt)
        text = failed.text if isinstance(error, ResultError) else f"its artifacts could not be fetched: {failed.text}"
        self._receive_error(collected.agent, failed.model_copy(update={"text": text}))

    def _needs(self, name: AgentName) -> set[Digest]:
        """The artifacts that an agent must have for what it is doing."""
        member = self._dispatcher.state.members.get(name)
        task = self._dispatcher.state.tasks.get(member.task) if member else None
        doing = self._underway.find(member.task) if member else None
        inputs = {digest for _, digest in task.references()} if task else set()
        return inputs | ({member.weights} if member else set()) | self.recordings.parts(doing.recorded if doing else ())

    def _receive_error(self, name: AgentName, body: ErrorReply, asked: events.Start | events.Teach | None = None) -> None:
        """An agent could not do something. A message that it refused to read names no task, but answers what it was ``asked``."""
        log.error("%s: %s (%s): %s", name, body.code, body.remote_type, body.text)
        is_refusal = not body.task
        if is_refusal and isinstance(asked, events.Start):
            body = body.model_copy(update={"task": asked.task, "attempt": asked.attempt})
        is_guest = self._members.is_guest(name)
        is_fatal = body.code in FATAL_CODES and not is_guest  # a guest's disk or dataset is not the next agent's
        if body.code == StorageError.code and not is_guest:
            raise StorageError(self.folder.place, f"{name}: {body.text.partition(';')[0]}")
        if is_fatal and not self._is_forgiving:
            raise RemoteAgentError(name, body.code, body.remote_type, body.text)
        if isinstance(asked, events.Teach):
            self._underway.could_not_adopt(asked.teacher.weights, body)
            self._handle(events.TeachingFailed(name, retryable=not is_fatal and body.code != ProtocolError.code))
        if not body.task:
            return
        doing = self._underway.current(name, body.task, body.attempt)
        if doing:
            doing.error = body
        is_pointless = is_refusal and body.code == ProtocolError.code and body.rule != Rule.FENCE and not is_guest  # or older
        retryable = body.code not in (NonFiniteLossError.code, NotRepeatableError.code) and not is_fatal and not is_pointless
        self._handle(events.Failed(name, body.task, body.attempt, retryable=retryable))

    def _lose(self, lost: AgentLostError) -> None:
        log.warning("%s", lost)
        self.watcher.tell(f"{str(lost).replace(chr(10), ': ', 1).splitlines()[0]}; its work, if any, goes to another agent")
        self._requests.forget(lost.agent)
        self._handle(events.Lost(lost.agent))

    # Decisions carried out.

    def _handle(self, event: events.Event) -> None:
        self._act(self._dispatcher.handle(event))

    def _act(self, actions: list[events.Action]) -> None:
        if any(isinstance(action, events.Start | events.Move) for action in actions):
            for teacher, students in self._dispatcher.students().items():
                self._members.introduce(teacher, students)
        for action in actions:
            if isinstance(action, events.Launch):
                self._members.launch(action.agent, self.slots[action.slot])
            elif isinstance(action, events.Start):
                self._start(action)
            elif isinstance(action, events.Teach):
                architecture, weights = action.teacher.architecture, action.teacher.weights
                assert architecture is not None
                number = self._say(action.agent, TeachRequest(architecture=architecture, weights=weights, data=action.data))
                self._requests.note(action, number)
            elif isinstance(action, events.Move):
                moved = TeacherMovedEvent(weights=action.teacher_id, peer=self._members.address_of(action.teacher))
                self._say(action.student, moved)
            elif isinstance(action, events.Cancel):
                self._say(action.agent, CancelRequest(task=action.task, attempt=action.attempt))
            elif isinstance(action, events.Dismiss):
                self._requests.forget(action.agent)
                self._members.dismiss(action.agent)
            elif isinstance(action, events.Accept):
                self._finished.append(self._underway.accept(action.task))
            else:
                self._finished.append(self._underway.give_up(action))

    def _say(self, agent: AgentName, body: Body) -> int:
        """Returns the message's number; 0 if the agent is lost."""
        public_key = self._members.key_of(agent)
        return self._post.send(public_key, body) if public_key else 0

    def _start(self, action: events.Start) -> None:
        task = self._dispatcher.state.tasks[action.task]
        recorded, _ = self.recordings.find(task)
        doing = self._underway.begin(action, task, recorded)
        taught = tuple(TaughtBy(weights=teacher, peer=self._members.address_of(agent)) for teacher, agent in action.teachers)
        request = TaskRequest(
            task=task,
            attempt=action.attempt,
            teachers=taught,
            recorded=recorded,
            record=self._config.record_lessons and not self._members.is_guest(action.agent),  # who believes it would be misled
            wait_s=self._config.teacher_wait_s,
        )
        self._requests.note(action, self._say(action.agent, request))
        again = f" (attempt {action.attempt})" if action.attempt > 1 else ""
        self.watcher.tell(f"{action.agent} starts {doing.label}{again}")

    def _spare(self, tasks: dict[TaskKey, Task]) -> None:
        spared = {key: self.recordings.find(task)[1] for key, task in tasks.items()} if self.recordings.is_any else {}
        self._act(self._dispatcher.spare({key: weights for key, weights in spared.items() if weights}))
