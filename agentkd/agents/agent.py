"""An agent process: an I/O thread that owns the sockets, and the work thread (the main one) that owns the network.

The I/O thread keeps heartbeats going and sorts what arrives; the work thread takes one request at a time.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from agentkd import repeatable
from agentkd.agents.blaming import as_reply, as_told
from agentkd.agents.device import find_device, shared_memory_of
from agentkd.agents.endings import end_in_good_order, fell
from agentkd.agents.feeding import DatasetFeed, share_samples
from agentkd.agents.interview import Reception
from agentkd.agents.landing import Landing
from agentkd.agents.mutual import MutualLesson
from agentkd.agents.recording import Recorder, recorded
from agentkd.agents.remote_lesson import RemoteLesson
from agentkd.agents.room import check_room
from agentkd.agents.serving import Serving
from agentkd.agents.waiting import WaitingWork
from agentkd.agents.work import Surroundings, environment, execute
from agentkd.artifacts.own_code import codes_of, let_run
from agentkd.artifacts.recordings import GIB
from agentkd.artifacts.run_folder import RunFolder, drop_images
from agentkd.artifacts.run_places import WRITTEN
from agentkd.code import barring
from agentkd.code.running import EndedBySignal, forbid_ending
from agentkd.datasets.caching import SharedSamples
from agentkd.datasets.shared import look_in
from agentkd.durable import keep, make_folder
from agentkd.errors import (
    ConfigError,
    LaunchError,
    RemoteProtocolError,
    ReplyTimeoutError,
    Rule,
    StorageError,
    TaskCancelledError,
)
from agentkd.exchange.addresses import listening
from agentkd.exchange.asking import Asker
from agentkd.exchange.audit import Audit
from agentkd.exchange.grants import EVERYTHING, Grants, Registry
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.liveness import HEARTBEAT_S, Pulse
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import ALL_CAPABILITIES, Delivery, Manners, Post, useless
from agentkd.exchange.streams import WINDOW_BYTES
from agentkd.exchange.transports import AUTO, find_transport
from agentkd.launch.parent import die_with_parent
from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessRequest,
    Body,
    CancelRequest,
    Capability,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    LeftEvent,
    PeersEvent,
    ReleaseEvent,
    StatusReply,
    StatusRequest,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TeacherMovedEvent,
    TeachReply,
    TeachRequest,
    WelcomeReply,
)
from agentkd.names import NO_DIGEST, NO_TASK, AgentName, Digest, PublicKey, TaskKey
from agentkd.task import EpochResult, Mutual, Pack, Taught
from agentkd.training.ahead import usual_loaders
from agentkd.training.loop import Hooks
from agentkd.training.memory import give_back

JOIN_TIMEOUT_S = 60.0
PROGRESS_EVERY_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentSettings:
    """How an agent is started.

    Args:
        join: the coordinator's endpoints, of which the nearest is dialed; none for an agent that waits to be dialed.
        listen: where to listen; by default what the transport says, at ``bind``.
        bind: see ``agentkd.exchange.addresses.listening``.
        parent_pid: the process it must not outlive; 0 for an agent started by hand.
        tether: descriptor at whose end it ends in good order, for whoever started it is gone or wants it to; -1 for none.
        images: folder for decoded images, which it removes; by default that of the run folder, which whoever started it removes.
        loaders: threads that make views ahead; ``None`` for as many as are usual on the device.
        registry: folder of registered keys that may ask for knowledge besides the peers the coordinator names.
        audit: file for the log of who fetched what.
        allows_code: whether it runs the code, of the coordinator's user, that tasks name. Without it such tasks are refused.
        shares_data: whether it packs data that lie on its host for the coordinator to have. Without it such tasks are refused.
    """

    join: tuple[str, ...]
    coordinator_key: PublicKey
    keys: KeyPair
    device: str
    threads: int
    run_folder: Path
    listen: tuple[str, ...] = ()
    bind: str = ""
    transport: str = AUTO
    parent_pid: int = 0
    tether: int = -1
    images: Path | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    image_cache_gib: float = IMAGE_CACHE_GIB
    loaders: int | None = None
    registry: Path | None = None
    audit: Path | None = None
    allows_code: bool = False
    shares_data: bool = False


class Agent:
    """One agent. ``serve`` runs until the coordinator says leave, or is gone."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.folder = RunFolder(settings.run_folder)
        self.device = find_device(settings.device)
        repeatable.prepare(self.device)
        said = settings.loaders
        self._loaders = usual_loaders(self.device, settings.threads) if said is None else said
        self._work = WaitingWork(lambda put, reply: self.post.send(put.sender, reply, parent_id=put.message.msg_id))
        self._lesson_inbox: queue.Queue[Delivery] = queue.Queue()
        self._asker = Asker()
        self._joined = threading.Event()
        self._fences: dict[TaskKey, int] = {}
        self._cancelled: set[tuple[TaskKey, int]] = set()
        self._progress = 0
        self._pulse = Pulse()
        self._is_busy = False
        self._given = self._over = (NO_TASK, 0)  # the newest mutual task, and the last that ended; written by one thread each
        transport = find_transport(settings.transport)
        gpu = shared_memory_of(self.device)
        hello = HelloRequest(
            capabilities=(*ALL_CAPABILITIES, Capability.LEARN),
            window_bytes=WINDOW_BYTES,
            device=settings.device,
            gpu=gpu.uuid if gpu else "",
            environment=environment(self.device),
        )
        self._coordinator = AdmittedPeer(
            agent=AgentName("coordinator"),
            endpoints=settings.join,
            public_key=settings.coordinator_key,
            may=EVERYTHING,
        )
        look_in(self.folder.store.place)
        grants = Grants(Registry(settings.registry) if settings.registry else None)
        grants.admit([self._coordinator])  # before anybody can knock: who was refused once may not knock again
        self.post = Post(
            settings.keys,
            self._sort,
            bind=settings.listen or listening(transport, settings.bind, towards=settings.join),
            manners=Manners(hello=hello, coordinator_key=settings.coordinator_key, store=self.folder.store.place),
            grants=grants,
            tick=self._tick,
            tick_s=HEARTBEAT_S,
            fell=fell,
        )
        self.carrier = Carrier(self.post, self.folder.store, ways=transport.ways, gpu=gpu)
        self._audit = Audit(settings.audit)
        self._serving = Serving(self.post, self.carrier, self.folder, self._audit, self.device, loaders=self._loaders)

    def serve(self) -> None:
        """Joins the community and works until told to leave."""
        if self.settings.registry:
            Registry(self.settings.registry).entries()  # a damaged one is said now, not when somebody is refused
        log.info("public key %s, listening at %s", self.settings.keys.public, ", ".join(self.post.endpoints))
        with contextlib.closing(self._audit), self.post, contextlib.closing(self.carrier):
            self.post.connect(self._coordinator)
            if self.settings.join and not self._joined.wait(JOIN_TIMEOUT_S):
                raise ReplyTimeoutError("coordinator", "HelloRequest", JOIN_TIMEOUT_S)
            try:
                self._work_until_leave()
            except EndedBySignal:
                self._say(LeftEvent(reason="ended by a signal"))
                raise

    def _work_until_leave(self) -> None:
        while True:
            delivery = self._work.get()
            if isinstance(delivery.message.body, LeaveRequest):
                self._say(LeftEvent(reason="asked to leave"), delivery.message.msg_id)
                return
            self._answer(delivery)
            self._progress += 1

    # On the I/O thread.

    def _sort(self, delivery: Delivery) -> None:
        """Puts each message where it belongs. Who may say what has been checked; here it is checked who may have what."""
        body = delivery.message.body
        if isinstance(body, KnowledgeRequest):
            kind = body.kind if body.step is None else KnowledgeKind.SOFT_TARGETS  # what a partner said, whatever it is called
            self._serving.check_grant(delivery, str(kind), body.weights)
            is_for_partner = body.step is not None and body.weights == self._given[0] and self._given != self._over
            (self._lesson_inbox if is_for_partner else self._work).put(delivery)
        elif isinstance(body, AssessRequest):
            self._serving.check_grant(delivery, str(KnowledgeKind.ASSESSMENT), NO_DIGEST)
            self._work.put(delivery)
        elif self._asker.take(delivery):
            return
        elif isinstance(body, KnowledgeReply | TeacherMovedEvent | ErrorReply):
            self._lesson_inbox.put(delivery)
        elif isinstance(body, WelcomeReply | HelloRequest):
            if delivery.sender == self.settings.coordinator_key:
                self._pulse.pace_s = body.heartbeat_s if isinstance(body, WelcomeReply) else HEARTBEAT_S
                self._joined.set()
        elif isinstance(body, PeersEvent):
            for public_key in self.post.grants.set_peers((*body.peers, self._coordinator)):
                self.carrier.peer_gone(public_key)
        elif isinstance(body, CancelRequest):
            self._cancelled.add((body.task, body.attempt))
        elif isinstance(body, StatusRequest):
            self.post.send(delivery.sender, self._status(), parent_id=delivery.message.msg_id)
        elif isinstance(body, ReleaseEvent):
            self.carrier.release(delivery.sender, body.leases)
        elif isinstance(body, TaskRequest):
            self._check_fence(body)
            if isinstance(body.task, Mutual):
                self._given = (body.key, body.attempt)
            self._work.put(delivery)
        elif isinstance(body, TeachRequest | LeaveRequest):
            self._work.put(delivery)
        else:
            raise useless(delivery)

    def _check_fence(self, request: TaskRequest) -> None:
        """An attempt before the one known is void: somebody else has it, or had it."""
        key = request.key
        known = self._fences.get(key, 0)
        if request.attempt < known:
            raise RemoteProtocolError(
                f"attempt {request.attempt} of task {key[:12]} is over; it is in attempt {known}", Rule.FENCE
            )
        self._fences[key] = request.attempt

    def _status(self) -> StatusReply:
        counters = self.post.counters
        counted = {name: value for name, value in vars(counters).items() if isinstance(value, int)}
        return StatusReply(
            progress=self._progress,
            is_busy=self._is_busy,
            counters=counted | {"leases": self.carrier.num_leases},
            refused={str(rule): count for rule, count in counters.refused.items()},
        )

    def _tick(self) -> None:
        if self.settings.parent_pid and os.getppid() != self.settings.parent_pid:
            log.error("the coordinator's process is gone; ending")
            os._exit(LaunchError.exit_code)
        self._audit.sum_up()
        if self._joined.is_set() and self._pulse.is_due(time.monotonic()):
            self._say(HeartbeatEvent(progress=self._progress, is_busy=self._is_busy))

    # On the work thread.

    def _answer(self, delivery: Delivery) -> None:
        """Answers one request; whatever goes wrong becomes an ``ErrorReply``, and the agent lives on."""
        body, number = delivery.message.body, delivery.message.msg_id
        if delivery.is_expired:
            log.info("%s came too late for its asker", type(body).__name__)
            return
        self._is_busy = True
        try:
            if isinstance(body, KnowledgeRequest):
                self._serving.hand_over(delivery, body)
            elif isinstance(body, AssessRequest):
                self._serving.assess(delivery, body)
            elif isinstance(body, TeachRequest):
                self._let_run(tuple(filter(None, (body.architecture.code, body.data.code if body.data else NO_DIGEST))))
                self._serving.adopt(body, self._obtain)
                self._say(TeachReply(weights=body.weights), number)
            elif isinstance(body, TaskRequest):
                self._execute(body, number)
        except EndedBySignal:
            raise
        except BaseException as error:  # own code may raise anything, and ask for an end: that of its task
            level = logging.INFO if isinstance(error, TaskCancelledError) else logging.ERROR
            log.log(level, "%s failed", type(body).__name__, exc_info=True)
            self.post.send(delivery.sender, as_reply(error, body), parent_id=number)
            self._end_if_of_disk(error, delivery)
        finally:
            self._is_busy = False
        if isinstance(body, TaskRequest | TeachRequest):
            give_back(self.device)

    def _end_if_of_disk(self, error: BaseException, delivery: Delivery) -> None:
        """Whoever started this agent is told of a disk on which it cannot write, when it was somebody else who asked.

        Raises:
            StorageError: it ends by that. Who asked can do nothing about it, and would ask for ever.
        """
        told, _ = as_told(error)
        is_ours = self.settings.parent_pid or self.settings.tether >= 0
        if is_ours and isinstance(told, StorageError) and delivery.sender != self.settings.coordinator_key:
            self._say(LeftEvent(reason=str(told)))
            raise told

    def _read_artifact(self, digest: Digest) -> bytes:
        self._obtain(digest)
        return self.folder.store.get(digest)

    def _obtain(self, digest: Digest) -> None:
        """Has an artifact in the store: from before, or else from the coordinator."""
        if digest in self.folder.store:
            return
        request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=digest, ways=self.carrier.ways)
        reply = self._asker.ask(self.post, self.settings.coordinator_key, request)
        assert isinstance(reply.message.body, KnowledgeReply)
        self.carrier.fetch_to_store(reply.sender, reply.message.body.piece, reply.message.buffers, wanted=digest)

    def _let_run(self, codes: tuple[Digest, ...]) -> None:
        """Has own code that is named in the store, and lets it run here.

        Raises:
            ConfigError: this agent is not to run any.
        """
        if codes and not self.settings.allows_code:
            named = ", ".join(code[:12] for code in codes)
            raise ConfigError(f"this agent runs no code of a coordinator's user ({named}); if you trust them add --allow-code")
        for code in codes:
            self._obtain(code)
        let_run(codes, self.folder.store)

    def _execute(self, request: TaskRequest, number: int) -> None:
        self._serving.forget()
        task, key = request.task, request.key
        if isinstance(task, Pack) and task.what == "data" and not self.settings.shares_data:
            raise ConfigError("this agent hands over no data of its host; if its coordinator may have them add --share-data")
        self._let_run(codes_of(task))
        if request.asks_room:
            check_room(task, self.device)
        for digest in (*(digest for _, digest in task.reads()), *request.recorded):
            self._obtain(digest)
        lessons: list[RemoteLesson | MutualLesson] = []

        def check() -> None:
            if (key, request.attempt) in self._cancelled:
                raise TaskCancelledError(key)

        def lesson(task: Taught, feed: DatasetFeed, steps: int) -> RemoteLesson | MutualLesson:
            lessons.append(self._make_lesson(task, request, feed, steps, check))
            return lessons[-1]

        hooks = self._hooks(key, request.attempt, number, check, lessons)
        at = Surroundings(
            store=self.folder.store,
            device=self.device,
            checkpoint=self.folder.checkpoint(key),
            hooks=hooks,
            lesson=lesson,
            checkpoint_every_s=self.settings.checkpoint_every_s,
            loaders=self._loaders,
        )
        try:
            result = execute(task, at)
        finally:
            for made in lessons:
                made.close()
            self._over = (key, request.attempt)
        if isinstance(task, Pack) and task.what == "data":
            self._serving.shares = result.knowledge
        self._say(TaskReply(task=key, attempt=request.attempt, result=result), number)

    def _make_lesson(
        self, task: Taught, request: TaskRequest, feed: DatasetFeed, steps: int, check: Callable[[], None]
    ) -> RemoteLesson | MutualLesson:
        post, carrier, inbox = self.post, self.carrier, self._lesson_inbox
        if isinstance(task, Mutual):
            here = self.folder
            return MutualLesson(
                task,
                feed,
                request.teachers,
                folder=here,
                post=post,
                carrier=carrier,
                inbox=inbox,
                check=check,
                on_served=self._serving.note_served,
                wait_s=request.wait_s,
            )
        return RemoteLesson(
            task,
            feed,
            request.teachers,
            post=post,
            carrier=carrier,
            inbox=inbox,
            check=check,
            total_steps=steps,
            landing=Landing(self.device) if carrier.gpu else None,
            obtain=self._read_artifact,
            recorded=recorded(request.recorded, self.folder.store),
            recorder=Recorder(self.folder.lesson(request.key), self.folder.store) if request.record else None,
            wait_s=request.wait_s,
        )

    def _hooks(
        self,
        key: TaskKey,
        attempt: int,
        number: int,
        check: Callable[[], None],
        lessons: Sequence[RemoteLesson | MutualLesson],
    ) -> Hooks:
        last_said = 0.0
        last: EpochResult | None = None

        def on_step(step: int, steps: int, loss: float) -> None:
            nonlocal last_said
            self._progress += 1
            check()
            now = time.monotonic()
            if now - last_said > PROGRESS_EVERY_S or step == steps:
                last_said = now
                heard = lessons[0].heard() if lessons else Reception()
                event = TaskProgressEvent(
                    task=key,
                    attempt=attempt,
                    step=step,
                    steps=steps,
                    loss=loss,
                    miou=last.miou if last else None,
                    accuracy=last.accuracy if last else None,
                    received_bytes=heard.received_bytes,
                    waited_s=heard.waited_s,
                )
                self._say(event, number)

        def on_epoch(result: EpochResult) -> None:
            nonlocal last
            self._progress += 1
            last = result if result.miou is not None else last

        return Hooks(on_step=on_step, on_epoch=on_epoch)

    def _say(self, body: Body, parent_id: int = 0) -> None:
        self.post.send(self.settings.coordinator_key, body, parent_id=parent_id)


def run_agent(settings: AgentSettings) -> None:
    """The main function of an agent process. It ends with its parent, however that ends."""
    folder = RunFolder(settings.run_folder).must_be_its_own(alone=WRITTEN)
    make_folder(folder.place)  # where no folder is shared each host has its own
    keep(folder.place)
    if settings.parent_pid:
        die_with_parent(settings.parent_pid)
    end_in_good_order(settings.tether)
    barring.close()
    forbid_ending()
    torch.set_num_threads(settings.threads)
    if settings.image_cache_gib:
        share_samples(SharedSamples(settings.images or folder.images, int(settings.image_cache_gib * GIB)))
    try:
        Agent(settings).serve()
    finally:
        if settings.images is not None:
            drop_images(settings.images)
        elif not settings.parent_pid:  # else whoever started it removes them, when all of its agents have ended
            folder.drop_images()
