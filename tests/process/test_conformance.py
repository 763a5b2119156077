"""The conformance kit against our own agent, which passes, and against agents broken on purpose, which fail where they are."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from experiments import SPEC, agentkd, command, environment

from agentkd.agents.work import encode_weights
from agentkd.artifacts.run_folder import RunFolder
from agentkd.conformance.clauses import all_clauses, play
from agentkd.conformance.probe import Probe
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.keys import KeyPair, load_key_pair, new_key_pair, save_key_pair
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import TeachReply, TeachRequest, WelcomeReply
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import DataSource

pytestmark = pytest.mark.process
NETWORK = resolve("tiny_networks:tiny", 5, {"width": 8})


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


def free_port() -> int:
    channel = ZeroMQChannel(new_key_pair(), lambda key: False, ("tcp://127.0.0.1:*",))
    channel.start(lambda sender, frames: None, lambda: 1.0)
    port = int(channel.endpoints[0].rpartition(":")[2])
    channel.close()
    return port


def start_agent(place: Path, run: Callable[..., list[str]] = command) -> LiveAgent:
    """A listening agent that teaches a tiny network."""
    for name in ("agent", "coordinator"):
        save_key_pair(place / "keys" / f"{name}.json", new_key_pair())
    agent, coordinator = (load_key_pair(place / "keys" / f"{name}.json") for name in ("agent", "coordinator"))
    folder, endpoint = RunFolder(place / "run"), f"tcp://127.0.0.1:{free_port()}"
    weights = folder.store.put(encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict())))
    arguments = ["agent", "--listen", endpoint, "--key", place / "keys" / "agent.json", "--coordinator-key", coordinator.public]
    arguments += ["--run-folder", folder.place, "--audit", place / "audit.jsonl"]
    with (place / "agent.log").open("wb") as log:
        process = subprocess.Popen(run(*arguments), stdout=log, stderr=log, env=environment())
    live = LiveAgent(endpoint, coordinator, agent.public, folder, process, weights)
    source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    with live.probe() as probe:
        probe.session = "fedcba9876543210"
        assert isinstance(probe.greet(timeout_s=60).body, WelcomeReply)
        probe.want(TeachReply, TeachRequest(architecture=NETWORK, weights=weights, data=source), timeout_s=60)
    return live


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveAgent]:
    made = start_agent(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


def test_our_own_agent_keeps_every_clause_and_leaves_at_last(live: LiveAgent, tmp_path: Path) -> None:
    arguments = ["protocol", "check", live.endpoint, "--key", tmp_path / "keys" / "coordinator.json"]
    done = agentkd(*arguments, "--agent-key", live.public_key, "--leave", "--format", "json")
    rows = json.loads(done.stdout)
    assert [row for row in rows if not row["is_kept"]] == [] and done.returncode == 0
    remarks = {row["clause"]: row["remark"] for row in rows}
    assert remarks["knowledge.soft_targets"] == "logits [2, 5, 32, 32]"
    assert remarks["stream.credit"].startswith("41") and remarks["assess"].startswith("known 0") and len(rows) > 60
    assert live.process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"soft_targets", "assessment"} and {line["outcome"] for line in lines} == {
        "served"
    }
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0


BROKEN = """
import sys
from agentkd.exchange import post, streaming, streams
from agentkd.agents import agent
from agentkd.messages import wire
how = sys.argv.pop(1)
if how == "invalid.flags_unknown":
    honest = wire._read_preamble
    wire._read_preamble = lambda frame: honest(bytes(frame[:7]) + b"\\0")
elif how == "ping":
    honest_ping = post.PingReply
    post.PingReply = lambda text: honest_ping(text=text[:10])
elif how == "task.fence":
    agent.Agent._check_fence = lambda self, request: None
elif how == "stream.credit":
    def everything(self):
        start, self.offset = self.offset, self.size
        return (start, self.size - start) if start < self.size else None
    streams.Outflow.next_chunk = everything
elif how == "join.other":
    honest_greeted = post.Post._greeted
    def greeted(self, peer, message, hello):
        peer.greeting = hello
        honest_greeted(self, peer, message, hello)
    post.Post._greeted = greeted
from agentkd.cli import main
main()
"""


@pytest.mark.parametrize("clause", ["ping", "task.fence", "stream.credit", "join.other", "invalid.flags_unknown"])
def test_an_agent_that_is_broken_on_purpose_fails_at_the_clause_it_breaks(clause: str, tmp_path: Path) -> None:
    honest = command()
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)

    def broken_command(*arguments: object) -> list[str]:
        return [honest[0], str(script), clause, *map(str, arguments)]

    live = start_agent(tmp_path, broken_command)
    try:
        with live.probe() as probe:
            chosen = tuple(c for c in all_clauses(5, may_end=False) if not c.name.startswith("invalid.") or "flags" in c.name)
            verdicts = list(play(probe, chosen))
        assert [verdict.clause.name for verdict in verdicts if not verdict.is_kept] == [clause], verdicts
    finally:
        live.process.kill()
        live.process.wait()
