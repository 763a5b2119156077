"""How often agents say that they live: the more there are, the less often each."""

from pathlib import Path

import pytest

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.liveness import HEARTBEAT_S, Pulse, pace_s
from agentkd.launch.local import LocalLauncher
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer


@pytest.mark.parametrize(
    ("num_agents", "lease_s", "expected"),
    [(0, 20.0, 1.0), (500, 20.0, 1.0), (1000, 20.0, 2.0), (10_000, 20.0, 5.0), (10_000, 80.0, 20.0), (10_000, 2.0, 1.0)],
)
def test_the_more_agents_the_slower_each_but_never_too_slow_for_its_lease(
    num_agents: int, lease_s: float, expected: float
) -> None:
    assert pace_s(num_agents, lease_s) == expected >= HEARTBEAT_S


EACH = range(12)


@pytest.mark.parametrize(("pace", "expected"), [(0.5, EACH), (1.0, EACH), (3.0, EACH[::3]), (5.0, EACH[::5])])
def test_an_agent_beats_as_often_as_it_is_told(pace: float, expected: range) -> None:
    pulse = Pulse(pace)
    late = 0.1  # each look, by chance
    assert [second for second in range(12) if pulse.is_due(second + late * (second % 2))] == list(expected)


def test_a_coordinator_asks_each_agent_for_the_pace_of_as_many_as_it_knows(tmp_path: Path) -> None:
    folder, one = RunFolder(tmp_path), new_key_pair()
    with Crew(folder, (), LaunchConfig(transport="tcp"), Silent(), LocalLauncher(folder)) as crew:
        crew.invite(AdmittedPeer(agent="ann", public_key=one.public))
        assert crew._welcome(one.public).heartbeat_s == HEARTBEAT_S
        for number in range(1000):
            crew._members.admit(AdmittedPeer(agent=f"light-{number}", public_key=f"{number:040}"))
        assert crew._welcome(one.public).heartbeat_s == pytest.approx(1001 / 500)
