"""How long until an agent is there: forks of a server against new interpreters, and the memory that each has for itself.

    python benchmarks/starting.py [--agents 4] [--repeats 5]

From the order to start to the agent's greeting. Medians over the repeats.
"""

import argparse
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from agentkd.artifacts.run_folder import RunFolder
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.exchange.transports import AUTO
from agentkd.launch.devices import Slot
from agentkd.launch.local import Contact, Fork, LocalLauncher, end_all
from agentkd.launch.settings import CHECKPOINT_EVERY_S
from agentkd.messages.bodies import HelloRequest

MEBIBYTE = 1 << 20


class Yard:
    """A coordinator that only greets."""

    def __init__(self, folder: RunFolder, post: Post, inbox: "queue.Queue[Delivery]") -> None:
        self.folder, self.post, self.inbox = folder, post, inbox
        self.contact = Contact(post.endpoint, post.keys.public, AUTO, CHECKPOINT_EVERY_S)
        self._count = 0

    def key_file(self) -> Path:
        self._count += 1
        pair, place = new_key_pair(), self.folder.keys / f"agent-{self._count}-0.json"
        save_key_pair(place, pair)
        self.post.allow([pair.public])
        return place

    def greet(self, how_many: int) -> None:
        while how_many:
            how_many -= isinstance(self.inbox.get(timeout=120).message.body, HelloRequest)


def fork(yard: Yard, launcher: LocalLauncher, how_many: int) -> tuple[float, float]:
    """Seconds until all are there, and MiB that the last of them has for itself."""
    keys = [yard.key_file() for _ in range(how_many)]
    started = time.perf_counter()
    agents: list[Fork] = [launcher.start(key.stem, Slot("cpu", 1), key, yard.contact) for key in keys]
    yard.greet(how_many)
    seconds = time.perf_counter() - started
    memory = psutil.Process(agents[-1].pid).memory_full_info().uss / MEBIBYTE
    end_all(agents)
    return seconds, memory


def spawn(yard: Yard, how_many: int) -> tuple[float, float]:
    """The same with an interpreter for each."""
    keys = [yard.key_file() for _ in range(how_many)]
    command = [sys.executable, "-m", "agentkd", "agent", "--join", yard.contact.endpoint]
    command += ["--coordinator-key", yard.contact.coordinator_key, "--run-folder", str(yard.folder.place), "--key"]
    started = time.perf_counter()
    agents = [subprocess.Popen([*command, str(key)], stderr=subprocess.DEVNULL) for key in keys]
    yard.greet(how_many)
    seconds = time.perf_counter() - started
    memory = psutil.Process(agents[-1].pid).memory_full_info().uss / MEBIBYTE
    for agent in agents:
        agent.terminate()
        agent.wait()
    return seconds, memory


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--agents", type=int, default=4)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentkd-starting-") as place:
        folder, keys, inbox = RunFolder(Path(place) / "run"), new_key_pair(), queue.Queue()
        manners = Manners(coordinator_key=keys.public, store=folder.store.place)
        with Post(keys, inbox.put, bind=("tcp://127.0.0.1:*",), manners=manners) as post:
            yard, launcher = Yard(folder, post, inbox), LocalLauncher(folder)
            first, _ = fork(yard, launcher, 1)
            print("| agents at once | new interpreters, s | forks, s | forks / new | own memory, MiB: new, fork |")
            print("|---|---|---|---|---|")
            for how_many in sorted({1, chosen.agents}):
                ways: list[Callable[[], tuple[float, float]]] = [
                    lambda n=how_many: spawn(yard, n),
                    lambda n=how_many: fork(yard, launcher, n),
                ]
                new, forked = ([way() for _ in range(chosen.repeats)] for way in ways)
                new_s, forked_s = (statistics.median(s for s, _ in found) for found in (new, forked))
                new_mib, forked_mib = (statistics.median(mib for _, mib in found) for found in (new, forked))
                told = f"| {how_many} | {new_s:.2f} | {forked_s:.2f} | {forked_s / new_s:.3f} | {new_mib:.0f}, {forked_mib:.0f} |"
                print(told, flush=True)
            print(f"\nThe first fork, with the start of its server: {first:.2f} s")
            launcher.close()


if __name__ == "__main__":
    main()
