"""What every launcher keeps to: the local one, or one for an engine of a user's own."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentkd.artifacts.run_folder import RunFolder
from agentkd.exchange.grants import EVERYTHING, Grants
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.exchange.transports import AUTO
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Contact, Launcher, Started, end_all
from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB
from agentkd.messages.bodies import AdmittedPeer, Capability, HeartbeatEvent, HelloRequest, LeftEvent, WelcomeReply
from agentkd.names import AgentName, PublicKey
from agentkd.testing.claims import claim, working

NAMES = tuple(AgentName(f"agent-{number}") for number in range(1, 6))
ONE_CORE = Slot("cpu", 1)
NOWHERE = Slot("cuda:99", 1)
START_WITHIN_S = 20.0
JOIN_WITHIN_S = 120.0
END_WITHIN_S = 20.0
SILENT_AFTER_S = 3.0  # an agent that is there says so every second
POLL_S = 0.02


def check_launcher(make: Callable[[RunFolder], Launcher], folder: str | Path) -> None:
    """Checks that a launcher starts agents and leaves none behind: ``check_launcher(MyLauncher, tmp_path)``. Takes half a minute.

    An agent that it starts joins by itself, with the key that it is told, on the device and with the threads of its slot, and so
    does another beside it; the key stands in no file and no argument; one that is killed has ended when that returns, and the
    other works on; one that is to end says so and ends with code 0; of one that cannot run there is an exit code, and text why;
    closed, it has left none behind; and it can start agents again.

    Args:
        make: the launcher for a run folder.
        folder: an empty one that the engine's agents can see.

    Raises:
        AssertionError: what is broken.
    """
    place = RunFolder(Path(folder))
    with working("it must be made for a run folder"):
        launcher = make(place)
    with _Meeting.opened(place) as meeting:
        try:
            _check_two(launcher, meeting)
            _check_failure(launcher, meeting)
            _check_close(launcher, meeting)
        finally:
            launcher.close()


def _check_two(launcher: Launcher, meeting: "_Meeting") -> None:
    one, other = meeting.start(launcher, NAMES[0], ONE_CORE), meeting.start(launcher, NAMES[1], Slot("cpu", 2))
    for visitor in (one, other):
        hello = meeting.greeting(visitor)
        name, slot = visitor.process.name, visitor.slot
        claim(name == visitor.name, f"a process must be named as it was asked for: {visitor.name!r}; it is {name!r}")
        claim(hello.device == slot.device, f"{name} must work on {slot.device}; it says that it does on {hello.device!r}")
        threads = hello.environment.get("threads")
        claim(threads == str(slot.threads), f"{name} must use {slot.threads} threads; it says that it uses {threads}")
        claim(Capability.LEARN in hello.capabilities, f"{name} must be able to learn; it can {', '.join(hello.capabilities)}")
        is_written = _written(visitor, meeting.folder)
        claim(not is_written, f"the key of {name} must be told to it alone; it stands in a file, an argument or an environment")
        claim(visitor.process.poll() is None, f"{name} runs, so poll() must be None; it is {visitor.process.poll()}")
    with working("kill() must go through"):
        one.process.kill()
    code = one.process.poll()
    claim(code not in (None, 0), f"an agent that is killed must have ended when kill() returns; poll() is {code}")
    claim(meeting.is_there(other), "when one agent is killed the others must work on; they fell silent")
    claim(not meeting.is_there(one), "an agent that is killed must be gone; it still says that it is there")
    with working("kill() of an agent that has ended must go through"):
        one.process.kill()
    with working("end() must go through"):
        other.process.end()
    _must_end(other, "that is to end", expected=0)
    claim(meeting.has_left(other), "an agent that is to end must say that it leaves")
    end_all([other.process])


def _check_failure(launcher: Launcher, meeting: "_Meeting") -> None:
    lost = meeting.start(launcher, NAMES[2], NOWHERE)
    _must_end(lost, f"on a device that is not there ({NOWHERE.device})")
    tail = lost.process.tail()
    claim(NOWHERE.device in tail, f"tail() must hold what the agent said last, of {NOWHERE.device}; it is {tail[-200:]!r}")
    lost.process.kill()


def _check_close(launcher: Launcher, meeting: "_Meeting") -> None:
    for name in NAMES[3:]:  # the second one after it was closed
        left = meeting.start(launcher, name, ONE_CORE)
        meeting.greeting(left)
        with working("close() must go through"):
            launcher.close()
        claim(left.process.poll() is not None, "nothing may be left when close() returns; an agent still runs")
        claim(not meeting.is_there(left), "nothing may be left when close() returns; an agent still says that it is there")
        left.process.kill()


def _must_end(visitor: "_Visitor", which: str, expected: int | None = None) -> None:
    deadline = time.monotonic() + (END_WITHIN_S if expected is not None else JOIN_WITHIN_S)
    while (code := visitor.process.poll()) is None:
        claim(time.monotonic() < deadline, f"an agent {which} must end; poll() is still None")
        time.sleep(POLL_S)
    fits = code != 0 if expected is None else code == expected
    claim(fits, f"the exit code of an agent {which} must be {'none of success' if expected is None else expected}; it is {code}")


def _written(visitor: "_Visitor", folder: RunFolder) -> bool:
    """Whether a secret key stands where others may read it: in the run folder, or in what processes of this host were told."""
    secret = visitor.secret.encode()
    told = (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ"))
    for place in (*told, *(file for file in folder.place.rglob("*") if file.is_file())):
        with suppress(OSError):  # it is gone, or somebody else's
            if secret in place.read_bytes():
                return True
    return False


@dataclass
class _Visitor:
    name: AgentName
    slot: Slot
    key: PublicKey
    secret: str
    process: Started


class _Meeting:
    """Where agents come to: a coordinator's post that hears them and gives them nothing to do."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, keys = folder, new_key_pair()
        self._heard: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._greetings: dict[PublicKey, HelloRequest] = {}
        self._beats: dict[PublicKey, float] = {}
        self._left: set[PublicKey] = set()
        welcome = WelcomeReply(agent=AgentName("agent"), heartbeat_s=1.0, lease_s=JOIN_WITHIN_S)
        self.post = Post(
            keys,
            self._heard.put,
            manners=Manners(welcome=lambda key, hello: welcome, coordinator_key=keys.public, store=folder.store.place),
            grants=Grants(),
        )
        self._coordinator_key = keys.public

    @staticmethod
    @contextmanager
    def opened(folder: RunFolder) -> "Iterator[_Meeting]":
        """A meeting while the context lasts."""
        meeting = _Meeting(folder)
        with meeting.post:
            yield meeting

    def start(self, launcher: Launcher, name: AgentName, slot: Slot) -> _Visitor:
        """Has an agent started, with a new key that is admitted."""
        keys = new_key_pair()
        self.post.admit([AdmittedPeer(agent=name, public_key=keys.public, may=EVERYTHING)])
        started = time.monotonic()
        with working(f"start() of {name} must go through"):
            contact = Contact(self.post.endpoints, self._coordinator_key, AUTO, CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB)
            process = launcher.start(name, slot, contact.arguments(self.folder, name, slot), keys)
        waited = time.monotonic() - started
        claim(waited < START_WITHIN_S, f"start() must not wait for the agent to be there; it took {waited:.0f} s")
        return _Visitor(name, slot, keys.public, keys.secret, process)

    def greeting(self, visitor: _Visitor) -> HelloRequest:
        """What an agent says when it comes."""
        deadline = time.monotonic() + JOIN_WITHIN_S
        while visitor.key not in self._greetings:
            code = visitor.process.poll()
            claim(code is None, f"{visitor.name} ended with {code} before it joined: {visitor.process.tail()}")
            claim(time.monotonic() < deadline, f"{visitor.name} must join with the key that it is told; nobody came with it")
            self._listen()
        return self._greetings[visitor.key]

    def is_there(self, visitor: _Visitor) -> bool:
        """Whether it says so from now on."""
        began = time.monotonic()
        self._listen()
        while time.monotonic() - began < SILENT_AFTER_S:
            if self._beats.get(visitor.key, 0.0) > began + POLL_S * 10:
                return True
            self._listen()
        return False

    def has_left(self, visitor: _Visitor) -> bool:
        """Whether it has said that it leaves."""
        deadline = time.monotonic() + SILENT_AFTER_S
        while visitor.key not in self._left and time.monotonic() < deadline:
            self._listen()
        return visitor.key in self._left

    def _listen(self) -> None:
        self.post.check()
        time.sleep(POLL_S)
        while not self._heard.empty():
            delivery = self._heard.get()
            body = delivery.message.body
            if isinstance(body, HelloRequest):
                self._greetings[delivery.sender] = body
            elif isinstance(body, HeartbeatEvent):
                self._beats[delivery.sender] = delivery.arrived_at
            elif isinstance(body, LeftEvent):
                self._left.add(delivery.sender)
