"""Many light agents joined to one coordinator: heartbeats, tasks and results over real sockets, and nothing lost.

The coordinator is the library's own crew with a journal; the agents live in one loop of a load generator, each with a socket,
a key and a session of its own. A task takes an agent ``--task-s`` seconds. Ends with 1 if a task was lost or done twice, or an
agent was lost.

    python benchmarks/many_agents.py --agents 1000 --minutes 10

With ``--limits`` it says where a coordinator ends instead: what a message, an event, a look at the agents, a plan and an agent's
memory cost, measured with few agents over sockets or with as many as asked for in one process, and what that makes for all.

    python benchmarks/many_agents.py --limits --agents 10000     # a minute
"""

import argparse
import heapq
import multiprocessing
import statistics
import sys
import tempfile
import time
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import zmq
from scale import planned

from agentkd import canonical
from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import LOOK_S, Crew
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Ended, Start
from agentkd.coordinator.state import GUEST_SLOT, Bench, Condition, Member, Running
from agentkd.coordinator.watching import Silent
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.liveness import pace_s
from agentkd.launch.local import LocalLauncher
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import (
    AdmittedPeer,
    Body,
    Capability,
    HeartbeatEvent,
    HelloRequest,
    LeaveRequest,
    LeftEvent,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    WelcomeReply,
)
from agentkd.messages.wire import Message, decode, encode
from agentkd.task import DataSource, Evaluate, Status, Task, TaskResult

SPEC = "generated:seed=1,size=32x32,train=2,validation=2,test=2"
NETWORK = Architecture(family="unet", num_classes=5)
POLL_MS = 20
Context = zmq.Context[zmq.Socket[bytes]]


class LightAgent:
    """One agent: greets, beats, does tasks that take a while and do nothing."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", number: int, keys: KeyPair, endpoint: str, coordinator: str
    ) -> None:
        self.session, self.number, self.progress = f"{number:016x}", 0, 0
        self.heartbeat_s, self.is_welcome, self.is_over = 0.0, False, False
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 2000
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self.socket.curve_serverkey = coordinator.encode()
        self.socket.connect(endpoint)
        self.say(HelloRequest(capabilities=(Capability.LEARN,), device="none"))

    def say(self, body: Body, parent_id: int = 0) -> None:
        self.number += 1
        self.socket.send_multipart(encode(Message(body, self.number, parent_id, self.session)))


def generate(
    pipe: Connection, keys: list[KeyPair], endpoint: str, coordinator: str, task_s: float, beat_s: float | None = None
) -> None:
    """The load generator's process: every agent in one loop, until all were asked to leave."""
    context: Context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 2 * len(keys) + 100)
    before = psutil.Process().memory_info().rss
    poller, by_socket = zmq.Poller(), {}
    timers: list[tuple[float, int, str, LightAgent, Message | None]] = []
    ticket = 0

    def later(delay_s: float, what: str, agent: LightAgent, message: Message | None = None) -> None:
        nonlocal ticket
        ticket += 1
        heapq.heappush(timers, (time.monotonic() + delay_s, ticket, what, agent, message))

    for number, pair in enumerate(keys):
        agent = LightAgent(context, number, pair, endpoint, coordinator)
        by_socket[agent.socket] = agent
        poller.register(agent.socket, zmq.POLLIN)
    num_left = num_messages = 0
    while num_left < len(keys):
        for socket, _ in poller.poll(POLL_MS):
            agent = by_socket[socket]
            while socket.get(zmq.EVENTS) & zmq.POLLIN:
                message = decode(socket.recv_multipart())
                num_messages += 1
                body = message.body
                if isinstance(body, WelcomeReply) and not agent.is_welcome:
                    agent.is_welcome, agent.heartbeat_s = True, beat_s or body.heartbeat_s
                    later(agent.heartbeat_s, "beat", agent)
                elif isinstance(body, TaskRequest):
                    later(task_s, "done", agent, message)
                elif isinstance(body, LeaveRequest):
                    agent.say(LeftEvent(reason="asked to leave"), message.msg_id)
                    agent.is_over = True
                    num_left += 1
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            _, _, what, agent, request = heapq.heappop(timers)
            if agent.is_over:
                continue
            if what == "beat":
                agent.say(HeartbeatEvent(progress=agent.progress, is_busy=False))
                later(agent.heartbeat_s, "beat", agent)
            elif request is not None and isinstance(request.body, TaskRequest):
                asked = request.body
                agent.progress += 1
                agent.say(TaskProgressEvent(task=asked.key, attempt=asked.attempt, step=1, steps=1, loss=1.0), request.msg_id)
                result = TaskResult(status=Status.COMPLETED, miou=0.5, seconds=task_s)
                agent.say(TaskReply(task=asked.key, attempt=asked.attempt, result=result), request.msg_id)
    pipe.send((num_messages, psutil.Process().memory_info().rss - before))
    context.destroy(linger=2000)


@cache
def source() -> DataSource:
    return DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)


def task(number: int) -> Task:
    """One of many, whose result has no artifacts: what is measured are the messages."""
    return Evaluate(architecture=NETWORK, data=source(), initial_weights=canonical.digest(number))


def measure(num_agents: int, minutes: float, task_s: float, place: Path) -> int:
    """Runs it and prints what was seen; returns the exit code."""
    folder, process = RunFolder(place), psutil.Process()
    keys = [new_key_pair() for _ in range(num_agents)]
    ours, theirs = multiprocessing.Pipe()
    done: dict[str, int] = {}
    events: list[str] = []
    watcher = Silent()
    watcher.tell = events.append  # type: ignore[method-assign]
    with (
        Journal(folder.journal) as journal,
        Crew(folder, (), LaunchConfig(transport="tcp", recheck_guests=0.0), watcher, LocalLauncher(folder)) as crew,
    ):
        before = process.memory_info().rss
        for number, pair in enumerate(keys):
            crew.invite(AdmittedPeer(agent=f"light-{number}", public_key=pair.public, may=EVERYTHING))
        contact = crew.contact
        arguments = (theirs, keys, contact.endpoints[0], contact.coordinator_key, task_s)
        generator = multiprocessing.Process(target=generate, args=arguments, daemon=True)
        generator.start()
        began = time.monotonic()
        while sum("came as a guest" in event for event in events) < num_agents:
            crew.turn()
            if time.monotonic() - began > 120:
                print(f"only {len(events)} of {num_agents} joined in 120 s")
                return 1
        joined_s = time.monotonic() - began
        print(f"{num_agents} agents joined in {joined_s:.1f} s", flush=True)
        events.clear()
        tasks = {made.key: made for made in map(task, range(num_agents))}
        next_number, started = num_agents, time.monotonic()
        crew.want((key, made, key[:8]) for key, made in tasks.items())
        cpu, counted, shown = sum(process.cpu_times()[:2]), crew.counters.messages_received, started
        sent = crew.counters.messages_sent
        deadline = started + 60 * minutes
        while len(done) < len(tasks):
            fresh = []
            for finished in crew.turn():
                if finished.result.status is Status.COMPLETED:
                    done[finished.key] = done.get(finished.key, 0) + 1
                    journal.commit(Record(tasks[finished.key], finished.result, finished.agent, finished.attempts))
                if time.monotonic() < deadline:
                    made = task(next_number)
                    next_number += 1
                    tasks[made.key] = made
                    fresh.append((made.key, made, "task"))
            crew.want(fresh)
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                print(f"  {shown - started:4.0f} s: {len(done):,} tasks done", flush=True)
            if time.monotonic() > deadline + 60 + 10 * task_s:
                break
        seconds = time.monotonic() - started
        cpu = (sum(process.cpu_times()[:2]) - cpu) / seconds
        received, sent = crew.counters.messages_received - counted, crew.counters.messages_sent - sent
        memory = process.memory_info().rss - before
        recorded = len(list(journal.records()))
        refused, dropped, late = crew.counters.refused, crew.counters.dropped, crew.counters.late
    _, theirs_memory = ours.recv() if ours.poll(30) else (0, 0)
    generator.join(10)
    lost = [event for event in events if "was lost" in event]
    twice = sum(count > 1 for count in done.values())
    print(f"{seconds:.0f} s: {len(tasks):,} tasks given, {len(done):,} done, {twice} twice, {recorded:,} recorded; ", end="")
    print(f"{len(lost)} agents lost")
    print(f"coordinator: {received / seconds:,.0f} messages/s received, {sent / seconds:,.0f}/s sent, {cpu:.2f} cores; ", end="")
    print(f"refused {sum(refused.values())}, dropped {dropped}, late {late}")
    each = memory / 1024 / num_agents, theirs_memory / 1024 / num_agents
    print(f"memory of an agent: {each[0]:.0f} KiB in the coordinator, {each[1]:.0f} KiB in the generator")
    is_well = len(done) == len(tasks) == recorded and not twice and not lost
    return 0 if is_well else 1


# Where it ends: what each thing costs, and what that makes for all agents.

FEW = 300
BEAT_S = 0.25
LISTEN_S = 10.0
TASK_S = 600.0  # of a task where it is said what all agents make together
NUM_EVENTS = 30
NUM_PLANNED = 1000


def cost_of_messages(place: Path) -> tuple[float, float, float]:
    """Seconds of CPU a heartbeat, bytes an agent, and seconds of a look at an agent, of some that beat fast."""
    folder, process = RunFolder(place), psutil.Process()
    keys = [new_key_pair() for _ in range(FEW)]
    ours, theirs = multiprocessing.Pipe()
    config = LaunchConfig(transport="tcp", recheck_guests=0.0)
    with Crew(folder, (), config, Silent(), LocalLauncher(folder)) as crew:
        before = process.memory_info().rss
        for number, pair in enumerate(keys):
            crew.invite(AdmittedPeer(agent=f"light-{number}", public_key=pair.public, may=EVERYTHING))
        arguments = (theirs, keys, crew.contact.endpoints[0], crew.contact.coordinator_key, TASK_S, BEAT_S)
        generator = multiprocessing.Process(target=generate, args=arguments, daemon=True)
        generator.start()
        while len(crew.activities()) < FEW:
            crew.turn()
        cpu, counted, began = sum(process.cpu_times()[:2]), crew.counters.messages_received, time.monotonic()
        while time.monotonic() < began + LISTEN_S:
            crew.turn()
        each = (sum(process.cpu_times()[:2]) - cpu) / (crew.counters.messages_received - counted)
        memory = (process.memory_info().rss - before) / FEW
        looks = []
        for _ in range(NUM_EVENTS):
            started = time.process_time()
            assert not list(crew._members.find_lost())
            looks.append(time.process_time() - started)
        assert not crew.counters.refused and not crew.counters.dropped
    ours.poll(30)
    generator.join(10)
    return each, memory, statistics.median(looks) / FEW


def cost_of_an_event(num_agents: int) -> float:
    """Seconds of CPU in which a dispatcher takes a result and gives the agent another task, with so many others busy."""
    dispatcher = Dispatcher(0)
    state, names = dispatcher.state, [f"light-{number}" for number in range(num_agents)]
    tasks = {made.key: made for made in map(task, range(num_agents + NUM_EVENTS))}
    running = dict(zip(tasks, names, strict=False))
    state.tasks |= tasks
    state.cohorts |= {key: (key,) for key in tasks}
    state.members |= {name: Member(name, Bench.LEARNING, GUEST_SLOT, Condition.BUSY, key) for key, name in running.items()}
    state.running |= {key: Running(name, 1) for key, name in running.items()}
    state.attempts |= dict.fromkeys(running, 1)
    state.waiting |= {key: made for key, made in tasks.items() if key not in running}
    times = []
    for key, name in list(running.items())[:NUM_EVENTS]:
        started = time.process_time()
        actions = dispatcher.handle(Ended(name, key, 1))
        times.append(time.process_time() - started)
        assert any(isinstance(action, Start) for action in actions)
    return statistics.median(times)


def say_limits(num_agents: int, place: Path) -> None:
    """Prints what each thing costs and what that makes for all."""
    beat, memory, look = cost_of_messages(place)
    event = cost_of_an_event(num_agents)
    plan = statistics.median(planned(NUM_PLANNED)[0])
    tasks_per_s = num_agents / TASK_S
    pace = pace_s(num_agents, LaunchConfig().lease_s)
    print(f"{num_agents:,} agents, of which each has a task of {TASK_S:g} s and beats every {pace:g} s; CPU time of one core")
    rows = [
        ("a message heard", beat, (1 / pace + 3 / TASK_S) * num_agents),
        ("an event decided upon", event, tasks_per_s),
        ("a look at all agents", look * num_agents, 1 / LOOK_S),
        ("a plan made", plan, tasks_per_s),
    ]
    for what, seconds, times in rows:
        share, most = seconds * times, 1 / seconds
        print(f"{what:<24}{1e3 * seconds:>9.3f} ms{times:>10,.1f}/s of {most:>8,.0f}{share:>9.2f} cores")
    print(f"all of it: {sum(seconds * times for _, seconds, times in rows):.2f} cores, of which Python has one at a time")
    total = f"{memory * num_agents / 2**30:.1f} GiB for all"
    print(f"memory: {memory / 1024:.0f} KiB an agent, {total}; descriptors: one an agent and more")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--agents", type=int, default=1000)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--task-s", type=float, default=10.0)
    options.add_argument("--limits", action="store_true", help="say where a coordinator ends")
    chosen = options.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as place:
        if chosen.limits:
            say_limits(chosen.agents, Path(place))
            return 0
        return measure(chosen.agents, chosen.minutes, chosen.task_s, Path(place))


if __name__ == "__main__":
    sys.exit(main())
