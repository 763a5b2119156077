"""What it costs a run to be watched, and how soon a page shows what happened.

    python benchmarks/watching.py [--tasks 10000] [--agents 1000] [--events 20]

Three questions, each by itself. *The run's cost*: a tiny experiment is run, and the CPU seconds that its coordinator spends on
its feed are held against all CPU seconds of the coordinator and of its agents. *The page's size*: a journal with so many invented
tasks and a feed with so many agents at work are read, at first and as they go on. *The delay*: a line is written into a feed,
and the time is taken until it arrives as an event over HTTP. The page looks four times a second, so 0.13 s is to be expected.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import uvicorn
import yaml
from reading import write_run

from agentkd.artifacts import feed
from agentkd.artifacts.feed import FeedWriter
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.exchange.hosts import host_name
from agentkd.names import AgentName, TaskKey
from agentkd.watch.app import make_app
from agentkd.watch.watching import Watching

EXPERIMENT = {
    "name": "watched",
    "data": {"dataset": "generated:seed=5,size=64x64,train=16,validation=8,test=8"},
    "families": {"unet": {"settings": {"base": 8, "depth": 3}}},
    "recipe": {"batch_size": 4, "views": {"crop_height": 64, "crop_width": 64}},
    "baseline": {"epochs": 30},
    "search": {"epochs": 10, "trials": 4},
    "round1": {"epochs": 10},
    "round2": {"epochs": 10},
    "launch": {"devices": "cpu:2"},
}
MEASURED = """
import atexit, json, resource, sys, threading, time
from agentkd.coordinator.narration import Narrator
spent = {"s": 0.0, "calls": 0}
def timed(method):
    def call(self, *given, **named):
        began = time.thread_time()
        try:
            return method(self, *given, **named)
        finally:
            spent["s"] += time.thread_time() - began
            spent["calls"] += 1
    return call
for name in ("note", "started", "progress", "ended", "turn", "close"):
    setattr(Narrator, name, timed(getattr(Narrator, name)))
def tell():
    own, agents = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    spent["own_s"], spent["agents_s"] = own.ru_utime + own.ru_stime, agents.ru_utime + agents.ru_stime
    print("SPENT " + json.dumps(spent), flush=True)
atexit.register(tell)
from agentkd.cli import main
main(["run", sys.argv[1], "--out", sys.argv[2]])
"""


def cost(place: Path) -> None:
    """What the feed takes of a run."""
    file = place / "experiment.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", MEASURED, file, place / "run"], capture_output=True, text=True, check=True)
    spent = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("SPENT ")).removeprefix("SPENT "))
    lines = (place / "run" / "feed.jsonl").read_bytes()
    run_s = spent["own_s"] + spent["agents_s"]
    shares = f"{100 * spent['s'] / spent['own_s']:.2f} % of the coordinator's, {100 * spent['s'] / run_s:.3f} % of the run's"
    print(f"the run: {spent['own_s']:.2f} CPU s of its coordinator, {spent['agents_s']:.2f} of its agents")
    print(f"its feed: {lines.count(10)} lines, {len(lines):,} bytes, {1000 * spent['s']:.1f} CPU ms, {shares}")


def writer(folder: RunFolder) -> FeedWriter:
    """A feed that begins now."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    began = feed.Began(at=at, clock=time.monotonic(), host=host_name(), pid=1)
    return FeedWriter(folder.feed, folder.earlier_feed, lambda _: [began], print)


def size(folder: RunFolder, num_tasks: int, num_agents: int) -> None:
    """What a long run with many agents takes to be read."""
    write_run(folder.place, num_tasks)
    told, keys = writer(folder), [TaskKey(f"{number:016x}" + "0" * 48) for number in range(num_agents)]
    for number, key in enumerate(keys):
        name = AgentName(f"agent-{number}")
        told.add(feed.Agent(agent=name, role="learning", condition="busy", device="cpu", task=key))
        told.add(feed.Started(task=key, agent=name, attempt=1, label="search of unet: x", kind="train", family="unet", epochs=9))
    told.flush()
    with RunLock(folder):
        watching = Watching(folder)
        began = cpu_s()
        watching.look()
        first = cpu_s() - began
        watching.board.take()
        size_bytes = len(json.dumps(watching.board.whole(), separators=(",", ":")))
        later = []
        for step in range(1, 21):
            for key in keys[step % 4 :: 4]:  # as often as that many agents are told of
                told.add(feed.Progress(t=float(step), task=key, step=step, steps=99, loss=1 / step, score=step / 99))
            told.flush()
            began = cpu_s()
            watching.look()
            watching.board.take()
            later.append(cpu_s() - began)
        began = cpu_s()
        watching.judge()
        judged = cpu_s() - began
    print(f"{num_tasks} tasks and {num_agents} agents: first look {first:.2f} CPU s, a page is sent {size_bytes / 1e6:.1f} MB")
    print(f"then {1000 * statistics.median(later):.0f} ms a second, of {num_agents // 4} agents that say something")
    print(f"its plan, beside: {judged:.1f} s")


def delay(folder: RunFolder, num_events: int) -> None:
    """How long a line takes from the feed to a page."""
    told = writer(folder)
    told.add(feed.Said(text="begun"))
    told.flush()
    server = uvicorn.Server(uvicorn.Config(make_app(Watching(folder), "token"), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    delays = []
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/token/events", timeout=60) as answer:
        for number in range(num_events):
            time.sleep(0.37)
            written, text = time.monotonic(), f"event {number}"
            told.add(feed.Said(text=text))
            told.flush()
            while text.encode() not in answer.readline():
                pass
            delays.append(time.monotonic() - written)
    server.should_exit = True
    print(f"a line is on the page after {statistics.median(delays):.2f} s (median of {num_events}; longest {max(delays):.2f} s)")


def cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Asks all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentkd-watching-") as name:
        place = Path(name)
        for part in ("cost", "size", "delay"):
            (place / part).mkdir()
        cost(place / "cost")
        delay(RunFolder(place / "delay"), options.events)
        size(RunFolder(place / "size"), options.tasks, options.agents)


if __name__ == "__main__":
    main()
