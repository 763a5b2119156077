"""A bad network between a coordinator, its agents, and students and teachers: no task lost, none twice, the same weights."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from experiments import RECORDING, environment, weights_of, write_experiment
from weather import Weather, WeatherProxy

from agentkd.config import load_experiment
from agentkd.coordinator.members import Members
from agentkd.coordinator.run import run_experiment
from agentkd.coordinator.watching import Silent
from agentkd.exchange.keys import KeyPair
from agentkd.launch.devices import Slot
from agentkd.launch.engines import ENGINES
from agentkd.launch.local import Fork, LocalLauncher
from agentkd.messages.bodies import HelloRequest
from agentkd.names import AgentName

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
JOIN = "--join="
PARTED_S = 30.0


class Network:
    """A proxy before everything that is listened at: by agent, those through which it reaches others, and others reach it."""

    def __init__(self) -> None:
        self.weather = Weather()
        self.proxies: dict[str, list[WeatherProxy]] = {}
        self.parted: set[str] = set()
        self.spared: list[str] = []
        self.is_parted = False

    def through(self, agent: str, endpoint: str) -> str:
        proxy = WeatherProxy(endpoint, self.weather)
        if self.is_parted:
            proxy.part()
        self.proxies.setdefault(agent, []).append(proxy)
        return proxy.endpoint

    def part(self, *agents: str) -> None:
        """These agents are beyond a partition; or all, and whoever comes."""
        self.is_parted, self.parted = not agents, {*agents} or {*self.proxies}
        for proxy in (proxy for agent in self.parted for proxy in self.proxies[agent]):
            proxy.part()

    def heal(self) -> None:
        self.is_parted = False
        self.parted.clear()
        for proxy in (proxy for proxies in self.proxies.values() for proxy in proxies):
            proxy.heal()

    def close(self) -> None:
        for proxy in (proxy for proxies in self.proxies.values() for proxy in proxies):
            proxy.close()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    made = Network()

    class Beyond(Fork):
        """Who is beyond a partition cannot be ended; it is when it is over."""

        def kill(self) -> None:
            if self.name in made.parted:
                made.spared.append(self.name)
            else:
                super().kill()

    class Launcher(LocalLauncher):
        def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Fork:
            joined = [word for word in arguments if word.startswith(JOIN + "tcp://")]
            others = [word for word in arguments if not word.startswith(JOIN)]
            through = JOIN + made.through(name, joined[0].removeprefix(JOIN))
            fork = super().start(name, slot, [others[0], through, *others[1:]], key)
            return Beyond(fork.name, fork.log, fork.server, fork.number)

    joined = Members.joined

    def joined_through(members: Members, name: AgentName, hello: HelloRequest) -> bool:
        endpoints = tuple(made.through(name, one) for one in hello.endpoints if one.startswith("tcp://"))
        return joined(members, name, hello.model_copy(update={"endpoints": endpoints}))

    monkeypatch.setitem(ENGINES, "local", Launcher)
    monkeypatch.setattr(Members, "joined", joined_through)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    yield made
    made.close()


class Told(Silent):
    """Hears what happens, and has something done when it does."""

    def __init__(self) -> None:
        self.lines, self.timers = list[str](), list[threading.Timer]()

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.then(line)

    def then(self, line: str) -> None:
        """What is done then."""


def run(tmp_path: Path, watcher: Told, **launch: object) -> Path:
    experiment = load_experiment(write_experiment(tmp_path, launch=RECORDING | {"transport": "tcp"} | launch))
    run_experiment(experiment, tmp_path / "run", watcher)
    for timer in watcher.timers:
        timer.join()
    return tmp_path / "run"


def test_a_tenth_of_a_second_of_delay_and_one_loss_in_a_hundred_change_nothing(
    network: Network, tmp_path: Path, undisturbed: Path
) -> None:
    network.weather, watcher = Weather(delay_s=0.1, loss=0.01), Told()
    place = run(tmp_path, watcher)
    assert weights_of(place) == weights_of(undisturbed)
    assert not any("was lost (" in line for line in watcher.lines), "\n".join(watcher.lines)
    assert network.weather.num_lost > 0 and sum(p.num_forwarded for ps in network.proxies.values() for p in ps) > 100


def test_a_partition_that_is_shorter_than_the_lease_is_waited_for(network: Network, tmp_path: Path, undisturbed: Path) -> None:
    class Parting(Told):
        def then(self, line: str) -> None:
            if "starts search" in line and not self.timers:
                network.part()
                self.timers.append(threading.Timer(PARTED_S, network.heal))
                self.timers[0].start()

    watcher = Parting()
    began = time.monotonic()
    place = run(tmp_path, watcher, lease_s=4 * PARTED_S)
    assert watcher.timers and time.monotonic() - began > PARTED_S
    assert weights_of(place) == weights_of(undisturbed)
    assert not any("was lost (" in line for line in watcher.lines), "\n".join(watcher.lines)


def test_the_work_of_who_is_beyond_a_partition_moves_on_and_what_it_says_afterwards_is_void(
    network: Network, tmp_path: Path, undisturbed: Path
) -> None:
    class Parting(Told):
        is_over = False

        def then(self, line: str) -> None:
            if "starts search" in line and not network.parted and not self.is_over:
                network.part(line.partition(" ")[0])
            if "(attempt 2)" in line and not self.is_over:
                self.is_over = True
                network.heal()

    watcher = Parting()
    place = run(tmp_path, watcher, lease_s=4)
    assert watcher.is_over and network.spared, "the other side lived on, and did the same"
    assert any("silent for" in line for line in watcher.lines)
    assert weights_of(place) == weights_of(undisturbed)
