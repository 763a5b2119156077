"""A live agent process for tests: started by hand, listening, teaching a tiny network."""

import contextlib
import random
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from experiments import SPEC, command, environment

from agentkd.artifacts.run_folder import RunFolder
from agentkd.code import loading
from agentkd.conformance.probe import Probe
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.keys import KeyPair, load_key_pair, new_key_pair, save_key_pair
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import TeachReply, TeachRequest, WelcomeReply
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import DataSource

NETWORK = resolve("tiny_networks:tiny", 5, {"width": 8})
PORTS = (12_000, 32_000)  # below those that a system gives away by itself
_lot = random.SystemRandom()


@dataclass
class LiveAgent:
    """An agent process started by hand, which listens and waits for its coordinator."""

    endpoint: str
    coordinator: KeyPair
    public_key: str
    folder: RunFolder
    process: "subprocess.Popen[bytes]"
    weights: str

    def probe(self) -> Probe:
        return Probe(self.endpoint, self.coordinator, self.public_key)

    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """A port that nobody listens at, and that the system gives to nobody who asks for any: somebody else took those meanwhile."""
    while True:
        port = _lot.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            return port


def start_agent(place: Path, run: Callable[..., list[str]] = command, *, listen: str | None = None) -> LiveAgent:
    """A listening agent that teaches a tiny network; on a port of its own, if it is not said where."""
    for name in ("agent", "coordinator"):
        save_key_pair(place / "keys" / f"{name}.json", new_key_pair())
    agent, coordinator = (load_key_pair(place / "keys" / f"{name}.json") for name in ("agent", "coordinator"))
    folder, endpoint = RunFolder(place / "run"), listen or f"tcp://127.0.0.1:{free_port()}"
    folder.store.put(loading.provided(NETWORK.code).encode())
    weights = folder.store.put(encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict())))
    arguments = ["agent", "--listen", endpoint, "--key", place / "keys" / "agent.json", "--coordinator-key", coordinator.public]
    arguments += ["--run-folder", folder.place, "--audit", place / "audit.jsonl", "--allow-code"]
    with (place / "agent.log").open("wb") as log:
        process = subprocess.Popen(run(*arguments), stdout=log, stderr=log, env=environment())
    live = LiveAgent(endpoint, coordinator, agent.public, folder, process, weights)
    source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    with live.probe() as probe:
        probe.session = "fedcba9876543210"
        assert isinstance(probe.greet(timeout_s=60).body, WelcomeReply)
        probe.want(TeachReply, TeachRequest(architecture=NETWORK, weights=weights, data=source), timeout_s=60)
    return live
