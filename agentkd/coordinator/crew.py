"""Agents that do tasks: started, given work, watched, replaced. The edges around the dispatcher: processes, sockets, clock.

What agents say is made an event in ``hearing``; what the dispatcher decides upon it is done in ``deeds``.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable
from typing import Self

from agentkd.artifacts.recordings import GIB, Recordings
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import blame
from agentkd.coordinator.collecting import Collected, Collector
from agentkd.coordinator.deeds import Deeds
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.handing_over import HandingOver
from agentkd.coordinator.hearing import Hearing
from agentkd.coordinator.members import Members
from agentkd.coordinator.narration import Situation, narrated
from agentkd.coordinator.underway import Finished
from agentkd.coordinator.watching import Activity, Watcher
from agentkd.errors import AgentKDError, RemoteProtocolError, Rule
from agentkd.exchange.addresses import is_local, listening
from agentkd.exchange.asking import Asker
from agentkd.exchange.channel import Counters
from agentkd.exchange.grants import TASKS, Grants, Registry
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.liveness import pace_s
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
    TeachReply,
    Way,
    WelcomeReply,
)
from agentkd.messages.wire import MAX_MESSAGE_BYTES, Buffer
from agentkd.names import NO_DIGEST, Digest, PublicKey, TaskKey
from agentkd.task import Task, TaskResult

POLL_S = 0.1
LOOK_S = 0.1  # between two looks at all agents: where there are many, a look takes longer than a message
MAX_WAITING = 256  # messages of a guest that ``turn`` has not looked at
OF_ANYBODY = HelloRequest | ErrorReply
OF_AGENTS = HeartbeatEvent | LeftEvent | TaskProgressEvent | TaskReply | TeachReply | KnowledgeRequest | ReleaseEvent

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
        self.folder, self._narrator = folder, narrated(folder, watcher)
        places = config.places(slots)
        self._dispatcher = Dispatcher(
            len(slots),
            max_copies=config.teacher_copies,
            places=tuple(place.num_beside for place in places),
            **blame.patience(config.max_attempts, is_forgiving=is_forgiving),
        )
        self._inbox: queue.Queue[Delivery | Collected | AdmittedPeer | None] = queue.Queue()
        self.recordings = Recordings(folder.store, max_bytes=int(config.max_record_gib * GIB))
        self._quotas = Quotas(MAX_WAITING, MAX_MESSAGE_BYTES, 4 * MAX_MESSAGE_BYTES)
        self._asker, self._on_order = Asker(), on_order
        self._look_at = time.monotonic()
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
        self._config = config
        self._contact = config.contact(self._post.endpoints, keys.public)
        self._members = Members(folder, launcher, self._contact, self._post, config)
        self._deeds = Deeds(
            self._dispatcher,
            self._members,
            self._post,
            self.recordings,
            slots,
            places,
            config,
            self._narrator,
            is_forgiving=is_forgiving,
        )
        self._underway = self._deeds.underway
        self._hearing = Hearing(
            folder,
            config,
            self._narrator,
            self._members,
            self._deeds,
            is_forgiving=is_forgiving,
            carrier=self._carrier,
            handing_over=self._handing_over,
            collector=self._collector,
        )

    def __enter__(self) -> Self:
        self._post.start()
        self._narrator.begin(Situation(self._dispatcher, self._members, self._underway))
        distant = [endpoint for endpoint in self._post.endpoints if not is_local(endpoint)]
        if distant:
            self._narrator.tell(f"listening at {', '.join(distant)}: whoever is on that network can knock; known keys are let in")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._narrator.close("" if kind is None else _words_of(kind, *rest[:1]))
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
        self._deeds.spare({key: task for key, task, _ in listed} | self._dispatcher.state.waiting)
        self._deeds.act(self._dispatcher.want((key, task) for key, task, _ in listed))

    def note(self, task: Task, result: TaskResult) -> None:
        """A result that is committed, now or in an earlier session: what was recorded of it can be told again."""
        self.recordings.note(task, result)
        self.recordings.collect(in_use=self._underway.recordings_in_use())
        self._deeds.spare(self._dispatcher.state.waiting)

    def turn(self) -> list[Finished]:
        """Waits a moment for news, acts on it, and returns what was finished since.

        Raises:
            RemoteAgentError: an agent met an error that every agent would meet.
            ExchangeError: a task was taken from its agents again and again by what is around them.
            StorageError: an agent could not write.
            LaunchError: agents cannot be started.
            ChannelClosedError: the I/O thread has ended with an error.
        """
        self._post.check()
        self._handing_over.keep_up(lambda key: self._deeds.needs(self._members.name_of(key)))
        if time.monotonic() >= self._look_at:
            for late in self._members.find_late():
                self._hearing.late(late)
            for lost in self._members.find_lost():
                self._hearing.lost(lost)
            self._look_at = time.monotonic() + LOOK_S
        try:
            self._receive(self._inbox.get(timeout=POLL_S))
            while True:
                self._receive(self._inbox.get_nowait())
        except queue.Empty:
            pass
        self._narrator.turn()
        return self._deeds.take_finished()

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
        lease_s = self._config.lease_s
        count = max(self._members.num_known, self._dispatcher.state.num_slots)
        return WelcomeReply(agent=self._members.name_of(public_key), heartbeat_s=pace_s(count, lease_s), lease_s=lease_s)

    # On the thread that calls ``turn``.

    def _receive(self, arrived: Delivery | Collected | AdmittedPeer | None) -> None:
        if isinstance(arrived, Collected):
            self._hearing.collected(arrived)
        elif isinstance(arrived, AdmittedPeer):
            self._members.expect(arrived)
        elif arrived is not None:
            self._quotas.leave(arrived)
            self._hearing.said(arrived)


def _words_of(kind: type[BaseException], error: object = None) -> str:
    """Why it ends, in a line."""
    return (str(error).splitlines() or [""])[0] or kind.__name__
