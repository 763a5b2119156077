"""What an engine gives: two visitors started by it, which say what they see and try to talk (``agentkd doctor --engine``)."""

import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import AgentKDError
from agentkd.exchange.addresses import listening, reach_hint
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.post import ALL_CAPABILITIES, Delivery, Manners, Post
from agentkd.exchange.streams import WINDOW_BYTES
from agentkd.exchange.transports import AUTO, find_transport
from agentkd.launch.engines import find_engine
from agentkd.launch.launcher import Started, end_all
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer, HelloRequest, LeftEvent, PeersEvent, WelcomeReply
from agentkd.names import AgentName, PublicKey

NAMES = (AgentName("visitor-1"), AgentName("visitor-2"))
COME_WITHIN_S, TALK_WITHIN_S, QUERY_WITHIN_S = 90.0, 20.0, 20.0
POLL_S = 0.1


@dataclass(frozen=True)
class VisitSettings:
    """How a visitor is started; it ends with its tether, if it has one."""

    join: tuple[str, ...]
    coordinator_key: PublicKey
    keys: KeyPair
    bind: str
    tether: BinaryIO | None


@dataclass(frozen=True)
class Sight:
    """One thing that was found of an engine: its name, whether it is as it should be, and what was found in words."""

    name: str
    is_ok: bool
    text: str


def look_at_engine(launch: LaunchConfig) -> Iterator[Sight]:
    """Starts two visitors by an engine, and says what each sees, and whether they reach this process and each other."""
    launch = launch.replace(agents=2)
    try:
        with TemporaryDirectory(prefix="agentkd-doctor-") as place:
            folder = RunFolder(Path(place))
            slot = launch.slots[0]
            launcher = find_engine(launch.engine)(folder, launch.demand)
            transport, keys = find_transport(AUTO), new_key_pair()
            heard: queue.Queue[Delivery] = queue.Queue()
            welcome = WelcomeReply(agent=AgentName("visitor"), heartbeat_s=1.0, lease_s=COME_WITHIN_S)
            manners = Manners(welcome=lambda key, hello: welcome, coordinator_key=keys.public)
            with Post(keys, heard.put, bind=listening(transport, launch.bind), manners=manners) as post:
                yield Sight("listens", True, ", ".join(post.endpoints))
                contact, visitors, began = (
                    launch.contact(post.endpoints, keys.public),
                    dict[PublicKey, Started](),
                    time.monotonic(),
                )
                try:
                    for name in NAMES:
                        key = new_key_pair()
                        post.allow([key.public])
                        visitors[key.public] = launcher.start(name, slot, contact.greeting(name, "visit"), key)
                    yield from _receive(post, heard, visitors, began)
                finally:
                    end_all(list(visitors.values()))
                    launcher.close()
    except AgentKDError as error:
        yield Sight("engine", False, str(error))


def _receive(post: Post, heard: "queue.Queue[Delivery]", visitors: dict[PublicKey, Started], began: float) -> Iterator[Sight]:
    came: dict[PublicKey, HelloRequest] = {}
    while len(came) < len(visitors):
        for key, one in visitors.items():
            if key not in came and ((code := one.poll()) is not None or time.monotonic() - began > COME_WITHIN_S):
                what = f"ended with {code}" if code is not None else f"did not come within {COME_WITHIN_S:.0f} s"
                where = "it dials " + ", ".join(post.endpoints)
                yield Sight(one.name, False, f"{what}; {where}{reach_hint(post.endpoints)}. It said: {one.tail() or 'nothing'}")
                return
        delivery = _next(heard)
        if delivery and isinstance(hello := delivery.message.body, HelloRequest) and delivery.sender not in came:
            came[delivery.sender] = hello
            told = ", ".join(f"{name} {value}" for name, value in hello.environment.items())
            where = ", ".join(endpoint for endpoint in hello.endpoints if endpoint.startswith("tcp"))
            text = f"came after {time.monotonic() - began:.1f} s; {told}; listens at {where}"
            yield Sight(visitors[delivery.sender].name, True, text)
    gpus = [hello.environment.get("GPUs", "") for hello in came.values()]
    hosts = [hello.environment.get("host", "") for hello in came.values()]
    if gpus[0] not in ("", "none") and gpus[0] == gpus[1] and hosts[0] == hosts[1]:
        yield Sight("devices", False, f"both see the same GPUs, {gpus[0]}, on {hosts[0]}: the engine must give each its own")
    peers = [
        AdmittedPeer(agent=visitors[key].name, endpoints=hello.endpoints, public_key=key, may=EVERYTHING)
        for key, hello in came.items()
    ]
    for key in came:
        post.send(key, PeersEvent(peers=tuple(peer for peer in peers if peer.public_key != key)))
    told_by: set[PublicKey] = set()
    deadline = time.monotonic() + 2 * TALK_WITHIN_S
    while len(told_by) < len(came) and time.monotonic() < deadline:
        delivery = _next(heard)
        if delivery and isinstance(left := delivery.message.body, LeftEvent):
            told_by.add(delivery.sender)
            yield Sight(visitors[delivery.sender].name, left.reason.startswith("reached"), left.reason)
    for key in came.keys() - told_by:
        yield Sight(visitors[key].name, False, "did not say whether it reaches the other")


def visit(settings: VisitSettings) -> None:
    """What runs on the other side: greets, dials the other visitor when it is named, says what came of it, and ends."""
    heard: queue.Queue[Delivery] = queue.Queue()
    is_over = threading.Event()
    if settings.tether is not None:
        threading.Thread(target=_hear_to_the_end, args=(settings.tether, is_over), daemon=True).start()
    hello = HelloRequest(capabilities=ALL_CAPABILITIES, window_bytes=WINDOW_BYTES, device="cpu", environment=_surroundings())
    bind = listening(find_transport(AUTO), settings.bind, towards=settings.join)
    manners = Manners(hello=hello, coordinator_key=settings.coordinator_key)
    doctor = AdmittedPeer(agent=AgentName("doctor"), endpoints=settings.join, public_key=settings.coordinator_key, may=EVERYTHING)
    with Post(settings.keys, heard.put, bind=bind, manners=manners) as post:
        post.admit([doctor])
        post.connect(doctor)
        others: dict[PublicKey, float] = {}
        while not is_over.is_set():
            delivery = _next(heard)
            body = delivery.message.body if delivery else None
            if isinstance(body, PeersEvent):
                post.admit(body.peers)
                for peer in body.peers:
                    others[peer.public_key] = time.monotonic()
                    post.connect(peer)
            for key, since in list(others.items()):
                waited = time.monotonic() - since
                if post.peer(key) is not None:
                    reason = f"reached the other visitor in {waited:.2f} s"
                elif waited > TALK_WITHIN_S:
                    reason = f"did not reach the other visitor within {TALK_WITHIN_S:.0f} s"
                else:
                    continue
                del others[key]
                post.send(settings.coordinator_key, LeftEvent(reason=reason))


def _hear_to_the_end(said: BinaryIO, is_over: threading.Event) -> None:
    while said.read(1 << 12):
        pass
    is_over.set()


def _next(heard: "queue.Queue[Delivery]") -> Delivery | None:
    try:
        return heard.get(timeout=POLL_S)
    except queue.Empty:
        return None


def _surroundings() -> dict[str, str]:
    """What a visitor sees: the host, its GPUs as it may use them, and PyTorch, which agents need."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "is not installed"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"host": os.uname().nodename, "GPUs": _listed_gpus() if visible is None else visible or "none", "torch": torch}


def _listed_gpus() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    command = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    return ", ".join(line.strip() for line in listed.stdout.splitlines()) or "none"
