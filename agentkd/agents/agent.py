"""An agent process: an I/O thread that owns the sockets, and the work thread (the main one) that owns the network.

The I/O thread keeps heartbeats going and sorts what arrives; the work thread takes one request at a time.
"""

import ctypes
import logging
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import RemoteLesson
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, environment, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import (
    AgentKDError,
    ArtifactNotFoundError,
    LaunchError,
    OutOfMemoryError,
    ReplyTimeoutError,
    TaskCancelledError,
)
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import (
    Body,
    CancelRequest,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    LeftEvent,
    PeersEvent,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TeacherMovedEvent,
    TeachReply,
    TeachRequest,
    WelcomeReply,
)
from agentkd.task import EpochResult, Task
from agentkd.training.loop import Hooks

JOIN_TIMEOUT_S = 60.0
HEARTBEAT_S = 1.0
PROGRESS_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1
MAX_ERROR_TEXT = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentSettings:
    """How an agent is started. ``parent_pid`` is the process it must not outlive; 0 for an agent started by hand."""

    join: str
    coordinator_key: str
    keys: KeyPair
    device: str
    threads: int
    run_folder: Path
    parent_pid: int = 0
    checkpoint_every_s: float = 30.0


class Agent:
    """One agent. ``serve`` runs until the coordinator says leave, or is gone."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.folder = RunFolder(settings.run_folder)
        self.device = _find_device(settings.device)
        self.session = secrets.token_hex(8)
        self._work: queue.Queue[Delivery] = queue.Queue()
        self._lesson_inbox: queue.Queue[Delivery] = queue.Queue()
        self._joined = threading.Event()
        self._cancelled: set[tuple[str, int]] = set()
        self._progress = 0
        self._is_busy = False
        self._teacher: Teacher | None = None
        self.post = Post(settings.keys, self._sort, tick=self._tick, tick_s=HEARTBEAT_S)

    def serve(self) -> None:
        """Joins the community and works until told to leave."""
        self.post.allow([self.settings.coordinator_key])
        with self.post:
            self.post.connect(self.settings.join, self.settings.coordinator_key)
            self._say(
                HelloRequest(
                    session=self.session,
                    pid=os.getpid(),
                    endpoint=self.post.endpoint,
                    device=self.settings.device,
                    environment=environment(self.device),
                )
            )
            if not self._joined.wait(JOIN_TIMEOUT_S):
                raise ReplyTimeoutError("coordinator", "HelloRequest", JOIN_TIMEOUT_S)
            while True:
                delivery = self._work.get()
                if isinstance(delivery.message.body, LeaveRequest):
                    self._say(LeftEvent(reason="asked to leave"))
                    return
                self._answer(delivery)
                self._progress += 1

    # On the I/O thread.

    def _sort(self, delivery: Delivery) -> None:
        """Puts each message where it belongs. Only the coordinator's key may say what only the coordinator may say."""
        body = delivery.message.body
        if isinstance(body, KnowledgeRequest):
            self._work.put(delivery)
        elif isinstance(body, KnowledgeReply | ErrorReply):
            self._lesson_inbox.put(delivery)
        elif delivery.sender != self.settings.coordinator_key:
            log.warning("refused %s from %s: only the coordinator may say that", type(body).__name__, delivery.sender)
        elif isinstance(body, TeacherMovedEvent):
            self._lesson_inbox.put(delivery)
        elif isinstance(body, WelcomeReply):
            self._joined.set()
        elif isinstance(body, PeersEvent):
            self.post.allow(body.public_keys)
        elif isinstance(body, CancelRequest):
            self._cancelled.add((body.task, body.epoch))
        elif isinstance(body, TaskRequest | TeachRequest | LeaveRequest):
            self._work.put(delivery)

    def _tick(self) -> None:
        if self.settings.parent_pid and os.getppid() != self.settings.parent_pid:
            log.error("the coordinator's process is gone; ending")
            os._exit(LaunchError.exit_code)
        if self._joined.is_set():
            self._say(HeartbeatEvent(progress=self._progress, is_busy=self._is_busy))

    # On the work thread.

    def _answer(self, delivery: Delivery) -> None:
        """Answers one request; whatever goes wrong becomes an ``ErrorReply``, and the agent lives on."""
        body, number = delivery.message.body, delivery.message.msg_id
        self._is_busy = True
        try:
            if isinstance(body, KnowledgeRequest):
                reply, buffer = self._knowledge(body)
                self.post.send(delivery.sender, reply, parent_id=number, buffers=(buffer,))
            elif isinstance(body, TeachRequest):
                self._teacher = Teacher(body.architecture, body.weights, body.data, store=self.folder.store, device=self.device)
                self._say(TeachReply(weights=body.weights), number)
            elif isinstance(body, TaskRequest):
                self._execute(body, number)
        except Exception as error:
            level = logging.INFO if isinstance(error, TaskCancelledError) else logging.ERROR
            log.log(level, "%s failed", type(body).__name__, exc_info=True)
            self.post.send(delivery.sender, _as_reply(error, body), parent_id=number)
        finally:
            self._is_busy = False

    def _knowledge(self, request: KnowledgeRequest) -> tuple[KnowledgeReply, bytes]:
        if request.kind is KnowledgeKind.WEIGHTS:
            data = self.folder.store.get(request.weights)
            return KnowledgeReply(kind=request.kind, weights=request.weights, sha256=request.weights), data
        if self._teacher is None:
            raise ArtifactNotFoundError(request.weights, "this agent, which teaches nothing now")
        return self._teacher.answer(request)

    def _execute(self, request: TaskRequest, number: int) -> None:
        self._teacher = None
        task = request.task
        key = task.digest
        lessons: list[RemoteLesson] = []

        def check() -> None:
            if (key, request.epoch) in self._cancelled:
                raise TaskCancelledError(key)

        def lesson(task: Task, feed: DatasetFeed, steps: int) -> RemoteLesson:
            made = RemoteLesson(
                task, feed, request.teachers, post=self.post, inbox=self._lesson_inbox, check=check, total_steps=steps
            )
            lessons.append(made)
            return made

        hooks = self._hooks(key, request.epoch, check)
        at = Surroundings(
            store=self.folder.store,
            device=self.device,
            checkpoint=self.folder.checkpoint(key),
            hooks=hooks,
            lesson=lesson,
            checkpoint_every_s=self.settings.checkpoint_every_s,
        )
        try:
            result = execute(task, at)
        finally:
            for made in lessons:
                made.close()
        self._say(TaskReply(task=key, epoch=request.epoch, result=result), number)

    def _hooks(self, task: str, epoch: int, check: Callable[[], None]) -> Hooks:
        last_said = 0.0
        last_miou: float | None = None

        def on_step(step: int, steps: int, loss: float) -> None:
            nonlocal last_said
            self._progress += 1
            check()
            now = time.monotonic()
            if now - last_said > PROGRESS_EVERY_S or step == steps:
                last_said = now
                self._say(TaskProgressEvent(task=task, epoch=epoch, step=step, steps=steps, loss=loss, miou=last_miou))

        def on_epoch(result: EpochResult) -> None:
            nonlocal last_miou
            self._progress += 1
            last_miou = result.miou if result.miou is not None else last_miou

        return Hooks(on_step=on_step, on_epoch=on_epoch)

    def _say(self, body: Body, parent_id: int = 0) -> None:
        self.post.send(self.settings.coordinator_key, body, parent_id=parent_id)


def run_agent(settings: AgentSettings) -> None:
    """The main function of an agent process. It ends with its parent, however that ends."""
    if settings.parent_pid:
        _die_with_parent(settings.parent_pid)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    torch.set_num_threads(settings.threads)
    Agent(settings).serve()


def _die_with_parent(parent_pid: int) -> None:
    """Asks Linux to kill this process when the one that started it ends; elsewhere the heartbeat's check does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(LaunchError.exit_code)


def _find_device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise LaunchError(f"device {name} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def _as_reply(error: Exception, request: Body) -> ErrorReply:
    """An exception as data: a code from the error tree (``internal`` for anything else), type name and text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        code = OutOfMemoryError.code
    else:
        code = error.code if isinstance(error, AgentKDError) else "internal"
    task, epoch = (request.task.digest, request.epoch) if isinstance(request, TaskRequest) else ("", 0)
    return ErrorReply(
        code=code,
        remote_type=type(error).__name__,
        text=str(error)[:MAX_ERROR_TEXT],
        task=task,
        epoch=epoch,
    )
