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
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.exchange.transports import AUTO
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Contact, end_all
from agentkd.launch.local import Fork, LocalLauncher
from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB
from agentkd.messages.bodies import HelloRequest

MEBIBYTE = 1 << 20
SLOT = Slot("cpu", 1)


class Yard:
    """A coordinator that only greets."""

    def __init__(self, folder: RunFolder, post: Post, inbox: "queue.Queue[Delivery]") -> None:
        self.folder, self.post, self.inbox = folder, post, inbox
        self.contact = Contact(post.endpoints, post.keys.public, AUTO, CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB)
        self._count = 0

    def admitted(self) -> tuple[str, tuple[str, ...], KeyPair]:
        """Name, arguments and key of one more agent."""
        self._count += 1
        pair, name = new_key_pair(), f"agent-{self._count}"
        self.post.allow([pair.public])
        return name, self.contact.arguments(self.folder, name, SLOT), pair

    def greet(self, how_many: int) -> None:
        while how_many:
            how_many -= isinstance(self.inbox.get(timeout=120).message.body, HelloRequest)


def fork(yard: Yard, launcher: LocalLauncher, how_many: int) -> tuple[float, float]:
    """Seconds until all are there, and MiB that the last of them has for itself."""
    admitted = [yard.admitted() for _ in range(how_many)]
    started = time.perf_counter()
    agents: list[Fork] = [launcher.start(name, SLOT, arguments, pair) for name, arguments, pair in admitted]
    yard.greet(how_many)
    seconds = time.perf_counter() - started
    memory = psutil.Process(agents[-1].pid).memory_full_info().uss / MEBIBYTE
    end_all(agents)
    return seconds, memory


def spawn(yard: Yard, how_many: int) -> tuple[float, float]:
    """The same with an interpreter for each."""
    admitted = [yard.admitted() for _ in range(how_many)]
    command = [sys.executable, "-m", "agentkd"]
    started = time.perf_counter()
    agents = []
    for _, arguments, pair in admitted:
        agents.append(subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        agents[-1].stdin.write(pair.line())
        agents[-1].stdin.close()
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
