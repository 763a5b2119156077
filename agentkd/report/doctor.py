"""What this machine can do for a run, looked at before one is started."""

import contextlib
import importlib.metadata
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentkd.checks.before import describe, look_at_file
from agentkd.config import launch_settings
from agentkd.errors import AgentKDError, ConfigError
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Post
from agentkd.launch.devices import count_cores, count_cuda_devices, parse_devices
from agentkd.launch.placement import BESIDE
from agentkd.launch.placement import describe as describe_teachers
from agentkd.messages.bodies import PeerAddress
from agentkd.names import AgentName
from agentkd.report.engines import look_at_engine
from agentkd.report.places import look_at_places

PACKAGES = ("torch", "pyzmq", "msgpack", "optuna", "numpy", "safetensors", "pydantic", "torchmetrics")
MIN_FREE_BYTES = 1024**3
STRANGER_WAIT_S = 0.3


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    is_ok: bool
    text: str
    is_doubtful: bool = False

    @property
    def mark(self) -> str:
        """In a word: whether it is right, may be meant, or is wrong."""
        return ("warn" if self.is_doubtful else "ok") if self.is_ok else "FAIL"

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def examine() -> list[Check]:
    """Looks at everything a run needs."""
    places = [Check(*found) for found in look_at_places(Path.cwd())]
    return [_python(), *(_package(name) for name in PACKAGES), _devices(), _disk(), *places, _sockets()]


def examine_engine(launch: dict[str, Any]) -> list[Check]:
    """Looks at what an engine gives, by settings as of ``launch``, which need not say how many agents there are to be.

    Raises:
        ConfigError: they are wrong.
    """
    settings = launch_settings(launch, source="--set")
    return [Check(found.name, found.is_ok, found.text) for found in look_at_engine(settings)]


def examine_file(file: Path, overrides: Sequence[str] = (), out: Path | None = None) -> list[Check]:
    """Looks at an experiment: what is planned, and all that is wrong with it."""
    try:
        foreseen = look_at_file(file, overrides, out)
    except ConfigError as error:
        return [Check("experiment", False, str(error))]
    planned = [Check("plan", True, line) for line in describe(foreseen.plan)] if foreseen.plan else []
    found = [Check("experiment", not c.is_error, str(c.problem), is_doubtful=not c.is_error) for c in foreseen.concerns]
    return [*planned, *found] or [Check("experiment", False, "nothing can be planned")]


def _python() -> Check:
    version = sys.version.split()[0]
    return Check("python", sys.version_info >= (3, 11), f"{version}; 3.11 or newer is needed")


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, f"is not installed; run: pip install {name}")


def _devices() -> Check:
    try:
        slots = parse_devices("auto")
        taken = ", ".join(slot.device for slot in slots)
        text = f"{count_cores()} cores, {count_cuda_devices()} CUDA devices; --devices auto takes {taken}"
        return Check("devices", True, f"{text}; agents that teach are {describe_teachers(BESIDE, slots)}, or as --teachers says")
    except AgentKDError as error:
        return Check("devices", False, str(error))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free here"
    with contextlib.suppress(OSError):  # that there are no temporary files is said of them
        place = tempfile.gettempdir()
        text += f", {shutil.disk_usage(place).free / 1e9:.1f} GB in {place}"
    return Check("disk", free > MIN_FREE_BYTES, text)


def _sockets() -> Check:
    """Whether CURVE works and a stranger is refused."""
    inbox: queue.Queue[Any] = queue.Queue()
    try:
        host, guest, stranger = new_key_pair(), new_key_pair(), new_key_pair()
        with Post(host, inbox.put) as post, Post(guest, inbox.put) as welcome, Post(stranger, inbox.put) as refused:
            post.allow([guest.public])
            address = PeerAddress(agent=AgentName("host"), endpoints=post.endpoints, public_key=host.public)
            for peer in (refused, welcome):
                peer.connect(address)
            senders = {inbox.get(timeout=5).sender, inbox.get(timeout=5).sender}
            time.sleep(STRANGER_WAIT_S)
            is_alone = inbox.empty() and refused.peer(host.public) is None
        ok = senders == {guest.public, host.public} and is_alone
        return Check("sockets", ok, "encrypted loopback works and a stranger is refused" if ok else "a stranger was admitted")
    except (queue.Empty, AgentKDError) as error:
        return Check("sockets", False, f"no message came through an encrypted loopback socket ({error})")
