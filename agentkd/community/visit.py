"""A script's way into a community that another process keeps: tasks go there as messages, and results come back."""

import itertools
import json
import os
import threading
import time
from collections.abc import Sequence

from agentkd.artifacts.history import read_recordings
from agentkd.artifacts.own_code import keep_code
from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Order, Waiting
from agentkd.datasets.shared import look_in
from agentkd.errors import AgentKDError, ChannelClosedError, ConfigError, RemoteAgentError, ReplyTimeoutError, TrainingError
from agentkd.exchange.grants import TASKS, Registry
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery, Manners, Post, useless
from agentkd.messages.bodies import (
    ErrorReply,
    PeerAddress,
    PingReply,
    PingRequest,
    SubmitReply,
    SubmitRequest,
    TaskProgressEvent,
    WelcomeReply,
)
from agentkd.names import AgentName

GREETING_TIMEOUT_S = 20.0
PING_EVERY_S = 2.0
GONE_AFTER_S = 20.0
POLL_S = 0.01

_numbers = itertools.count(1)


class Visit:
    """Has tasks done by a community whose folder this process can read and write. ``submit`` may be called from any thread.

    Args:
        folder: that of the community. Who may write there may visit: it registers a key of its own.
    """

    num_learners: int | None = None

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._registry = Registry(folder.visitors)
        self._name = f"script-{os.getpid()}-{next(_numbers)}"
        self._waiting: dict[int, Waiting] = {}
        self._lock = threading.Lock()
        self._heard_at = time.monotonic()
        self._is_open, self._why_ended = False, ""

    def start(self) -> None:
        """Dials the community.

        Raises:
            ConfigError: nobody keeps a community there now.
            ReplyTimeoutError: it did not answer.
        """
        self._host, self.num_learners = _read_contact(self._folder)
        look_in(self._folder.store.place)
        keys = new_key_pair()
        self._registry.register(self._name, keys.public, [TASKS])
        manners = Manners(coordinator_key=self._host.public_key)
        self._post = Post(keys, self._take, manners=manners, tick=self._ping, tick_s=PING_EVERY_S, fell=self._fell)
        self._post.start()
        self._post.connect(self._host)
        deadline = time.monotonic() + GREETING_TIMEOUT_S
        while self._post.peer(self._host.public_key) is None:
            if time.monotonic() > deadline:
                self.close()
                raise ReplyTimeoutError(str(self._folder.place), "the greeting of a script", GREETING_TIMEOUT_S)
            time.sleep(POLL_S)
        self._is_open, self._heard_at = True, time.monotonic()

    def close(self) -> None:
        """Goes. What was handed in is done all the same, and answered from the records when it is asked for again."""
        self._end("this script has left the community; connect again to wait for the result")
        self._post.close()
        self._registry.revoke(self._name)

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        return self._is_open

    @property
    def agents(self) -> Crew:
        """Not here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("guests are invited by the process that keeps the community, not by a script that is connected to it")

    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        return read_recordings(self._folder).report()

    def submit(self, orders: Sequence[Order]) -> None:
        """Has tasks done; whoever waits for one is told what comes of it.

        Raises:
            StorageError: own code that a task names cannot be written to the community's folder.
        """
        for order in orders:
            keep_code(order.task, self._folder.store)
            with self._lock:  # the answer cannot be taken before its number is known here
                is_open = self._is_open
                if is_open:
                    number = self._post.send(self._host.public_key, SubmitRequest(task=order.task, label=order.label[:100]))
                    if order.waiting is not None:
                        self._waiting[number] = order.waiting
            if not is_open and order.waiting is not None:
                order.waiting.fail(ChannelClosedError(self._why_ended))

    # On the I/O thread.

    def _take(self, delivery: Delivery) -> None:
        self._heard_at = time.monotonic()
        body, number = delivery.message.body, delivery.message.parent_id
        if not isinstance(body, WelcomeReply | PingReply | TaskProgressEvent | SubmitReply | ErrorReply):
            raise useless(delivery)
        is_last = isinstance(body, SubmitReply | ErrorReply)
        with self._lock:
            waiting = self._waiting.pop(number, None) if is_last else self._waiting.get(number)
        if waiting is None:
            return
        if isinstance(body, TaskProgressEvent):
            waiting.note(body)
        elif isinstance(body, SubmitReply):
            waiting.settle(body.result)
        elif isinstance(body, ErrorReply):
            waiting.fail(_as_error(body))

    def _ping(self) -> None:
        if not self._is_open:
            return
        if time.monotonic() - self._heard_at > GONE_AFTER_S:
            self._end(f"the community in {self._folder.place} does not answer any more; what it finished is recorded there")
        else:
            self._post.send(self._host.public_key, PingRequest(text=""))

    def _fell(self) -> None:
        self._end(
            "this script can say and hear nothing any more, which standard error explains; connect again to wait for the result"
        )

    def _end(self, text: str) -> None:
        with self._lock:
            self._is_open, self._why_ended = False, self._why_ended or text
            left, self._waiting = list(self._waiting.values()), {}
        for waiting in left:
            waiting.fail(ChannelClosedError(text))


def _read_contact(folder: RunFolder) -> tuple[PeerAddress, int | None]:
    """Where the process that keeps a community is, and how many agents can learn there at once, unless that is up to guests."""
    try:
        contact = json.loads(folder.contact.read_text(encoding="utf-8"))
        host = PeerAddress(agent=AgentName("host"), endpoints=tuple(contact["endpoints"]), public_key=contact["coordinator_key"])
        found = host, contact.get("num_learners")
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None or not RunLock(folder).is_held:
        raise ConfigError(f"nobody keeps a community in {folder.place} now; start one with: agentkd community {folder.place}")
    return found


def _as_error(body: ErrorReply) -> AgentKDError:
    known = {kind.code: kind for kind in (TrainingError, ChannelClosedError)}
    return known[body.code](body.text) if body.code in known else RemoteAgentError("host", body.code, body.remote_type, body.text)
