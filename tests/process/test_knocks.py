"""Strangers at the ports of processes with few descriptors: known peers are served, trainings go on, newcomers get in."""

import contextlib
import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from experiments import EXPERIMENT, agents_of, command, environment, table_of, weights_of, write_experiment
from live_agent import NETWORK, LiveAgent, start_agent
from sides import wait_until

from agentkd.messages.bodies import KnowledgeKind, KnowledgeReply, KnowledgeRequest, PingReply, PingRequest, Way

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]
MOST = 512  # descriptors, of which a process here has been given half and may take the rest
ANSWER_S, PATIENCE_S = 2.0, 60.0
MAX_GROWTH_BYTES = 64 * 1024**2
A_STORED_FILE = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=NETWORK.code, ways=(Way.INLINE,))
NUM_SILENT, NUM_STRANGERS = 1_000, 10_000
TRAINING = EXPERIMENT | {
    "families": ["tiny_networks:tiny"],
    "baseline": {"epochs": 450},
    "search": EXPERIMENT["search"] | {"trials": 1, "lag": 1, "epochs": 1},
    "round1": {"epochs": 1},
    "round2": {"epochs": 1},
    "launch": {"devices": "cpu:1", "transport": "tcp", "checkpoint_every_s": 0},
}


def with_few_descriptors(*arguments: object) -> list[str]:
    limits = f'ulimit -Sn {MOST // 2}; ulimit -Hn {MOST}; exec "$@"'
    return ["sh", "-c", limits, "sh", *command(*arguments)]


def leaves_the_reserve(seen: list[int]) -> bool:
    """Whether numbers of descriptors, but passing ones: ZeroMQ accepts on a thread of its own until the doors are closed.

    How soon that is depends on what else the machine does. That files can be opened all the time is looked for besides.
    """
    return sorted(seen)[len(seen) // 2] < MOST * 7 // 8 and max(seen) < MOST


class Strangers:
    """A process that knocks at endpoints (with the public keys there)."""

    def __init__(self, kind: str, count: int, endpoints: dict[str, str]) -> None:
        script = [sys.executable, str(Path(__file__).parents[1] / "knocking.py"), kind, str(count)]
        places = [f"{endpoint}={key}" for endpoint, key in endpoints.items()]
        pipe = subprocess.PIPE
        self._were_many = False
        self._process = subprocess.Popen([*script, *places], stdin=pipe, stdout=pipe, text=True, env=environment())

    def __enter__(self) -> "Strangers":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def have_ended(self) -> bool:
        return self._process.poll() is not None

    def are_many(self) -> bool:
        """Whether most of the connections that they are asked for were held."""
        assert self._process.stdout is not None
        self._were_many = self._were_many or bool(select.select([self._process.stdout], [], [], 0)[0])
        return self._were_many

    def end(self) -> int:
        """How often they have knocked."""
        return int(self._process.communicate(timeout=60)[0].split()[-1])


@pytest.fixture(scope="module", params=["tcp", "ipc"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAgent]:
    place = tmp_path_factory.mktemp("live")
    listen = f"ipc://{place}/agent.sock" if request.param == "ipc" else None
    made = start_agent(place, with_few_descriptors, listen=listen)
    yield made
    made.kill()


@pytest.mark.parametrize("kind", ["silent", "cut"])
def test_an_agent_answers_whom_it_knows_and_lets_newcomers_in_however_many_strangers_say_nothing(
    live: LiveAgent, kind: str
) -> None:
    agent = psutil.Process(live.process.pid)
    assert agent.rlimit(psutil.RLIMIT_NOFILE) == (MOST, MOST)
    with live.probe() as probe:
        probe.greet()
        before = live.memory()
        with Strangers(kind, NUM_SILENT, {live.endpoint: live.public_key}) as strangers:
            seen, used_s, began = list[int](), sum(agent.cpu_times()[:2]), time.monotonic()
            while time.monotonic() - began < 6 or (not strangers.are_many() and time.monotonic() - began < PATIENCE_S):
                asked = time.monotonic()
                assert probe.want(KnowledgeReply, A_STORED_FILE).piece.size_bytes > 0, "it opens a file for that"
                assert time.monotonic() - asked < ANSWER_S
                seen.append(agent.num_fds())
                time.sleep(0.02)
            elapsed_s = time.monotonic() - began
            assert sum(agent.cpu_times()[:2]) - used_s < elapsed_s / 2, "it does not spend its time on them"
            with live.probe() as newcomer:
                newcomer.session = "5" * 16
                newcomer.greet(timeout_s=60)
                num_knocked = strangers.end()
                assert newcomer.want(PingReply, PingRequest(text="well?")).text == "well?"
        assert num_knocked > MOST, "more than it has descriptors for"
        assert leaves_the_reserve(seen)
        assert live.memory() - before < MAX_GROWTH_BYTES


SHORT = """
import json, os, sys, threading, time
from sides import Side, wait_until
from agentkd.errors import DescriptorsError
from agentkd.exchange import descriptors
from agentkd.exchange.post import Post
from agentkd.exchange.keys import new_key_pair
from agentkd.messages.bodies import PingReply, PingRequest

def take(wanted):
    held = []
    try:
        while not wanted():
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    return held

def give(held):
    while held:
        os.close(held.pop())

def is_answered(asker, asked):
    asker.post.send(asked.key, PingRequest(text="x"))
    try:
        return asker.inbox.get(timeout=5).message.body.text == "x"
    except Exception:
        return False

said = {}
known, here, late = Side(sys.argv[1]), Side(sys.argv[1]), Side(sys.argv[1])
here.post.allow([known.key, late.key]), known.post.allow([here.key]), late.post.allow([here.key])
known.reach(here)
wait_until(lambda: known.post.peer(here.key) is not None)
held = take(descriptors.are_short)
said["few left"] = descriptors.limit() - max(held)
time.sleep(1)
late.reach(here)
time.sleep(2)
said["known is served, newcomer is not"] = is_answered(known, here) and late.post.peer(here.key) is None
give(held)
wait_until(lambda: late.post.peer(here.key) is not None, timeout_s=30)
said["newcomer is served when there is room"] = is_answered(late, here)
held = take(lambda: False)
late.post.disconnect(here.key)
late.reach(here)
try:
    Post(new_key_pair(), print)
except DescriptorsError as error:
    said["a channel says what it lacks"] = "ulimit -n" in str(error)
time.sleep(1)
give(held)
wait_until(lambda: late.post.peer(here.key) is not None, timeout_s=30)
said["who could not be dialed is dialed again"] = is_answered(late, here) and is_answered(known, here)
for side in (known, here, late):
    side.post.check()
    side.post.close()
print(json.dumps(said))
"""


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:*", "ipc://*"])
def test_short_of_descriptors_known_peers_are_served_and_newcomers_when_there_is_room_again(bind: str) -> None:
    script = ["sh", "-c", f'ulimit -n {MOST}; exec "$@"', "sh", sys.executable, "-c", SHORT, bind]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("few left") > 32, "the reserve"
    assert all(said.values()) and len(said) == 4, (said, done.stderr)
    assert "Traceback" not in done.stderr


class Training:
    """A coordinator with few descriptors, and its one agent."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.run, self._log = place / "run", place / "output.txt"
        start = with_few_descriptors("run", write_experiment(place, **TRAINING), "--out", self.run)
        with self._log.open("w") as output:
            told = environment(AGENTKD_DEBUG="1")  # an agent says its public key then
            self.process = subprocess.Popen(start, stdout=output, stderr=output, env=told)
        self.most_memory, self.descriptors = dict[int, int](), list[int]()

    def said(self) -> str:
        return self._log.read_text()

    def has_begun(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "starts baseline" in self.said()

    def watch(self, until: Callable[[], bool]) -> None:
        """Notes the most memory and the descriptors that its processes have, until it is so, or it ends."""
        while self.process.poll() is None and not until():
            with contextlib.suppress(psutil.Error):
                for process in self.processes():
                    self.most_memory[process.pid] = max(self.most_memory.get(process.pid, 0), process.memory_info().rss)
                    self.descriptors.append(process.num_fds())
            time.sleep(0.05)

    def end(self) -> None:
        assert self.process.wait(100) == 0, self.said()

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *agents_of(self.process.pid).values()]

    def endpoints(self) -> dict[str, str]:
        """Every port that the coordinator and its agent listen at, with the public key that is there."""
        coordinator, agent = self.processes()
        (of_coordinator,) = [word.partition("=")[2] for word in agent.cmdline() if word.startswith("--coordinator-key=")]
        (log,) = (self.run / "logs").glob("agent-*.log")
        said = re.search(r"public key (\S{40}), listening", log.read_text())
        assert said
        keys = {coordinator: of_coordinator, agent: said[1]}
        return {
            f"tcp://127.0.0.1:{found.laddr.port}": key
            for process, key in keys.items()
            for found in process.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN
        }


def test_a_training_goes_on_through_a_thousand_silent_connections_and_ten_thousand_strangers(tmp_path: Path) -> None:
    """At every port of its coordinator and its agent. It ends as it does alone, at the first attempt of each task."""
    besieged, alone = Training(tmp_path / "besieged"), Training(tmp_path / "alone")
    wait_until(besieged.has_begun, timeout_s=60)
    endpoints, before = besieged.endpoints(), {process.pid: process.memory_info().rss for process in besieged.processes()}
    assert len(endpoints) == 4
    began = time.monotonic()
    with Strangers("silent", NUM_SILENT // len(endpoints), endpoints) as strangers:
        besieged.watch(lambda: time.monotonic() - began > 4)
        num_silent = strangers.end()
    with Strangers("unknown", NUM_STRANGERS, endpoints) as strangers:
        besieged.watch(strangers.have_ended)
        num_strangers = strangers.end()
    assert num_silent > NUM_SILENT and num_strangers >= NUM_STRANGERS
    assert besieged.process.poll() is None, "there is nothing left to be trained"
    for training in (besieged, alone):
        training.end()
        assert "was lost" not in training.said() and "(attempt 2)" not in training.said()
    assert weights_of(besieged.run) == weights_of(alone.run) and table_of(besieged.run) == table_of(alone.run)
    assert leaves_the_reserve(besieged.descriptors)
    assert all(besieged.most_memory[pid] - was < MAX_GROWTH_BYTES for pid, was in before.items())
