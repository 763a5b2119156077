"""Agents that end while others are being given up."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.members import Members
from agentkd.errors import LaunchError
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.post import Post
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Contact
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer, HeartbeatEvent, HelloRequest


class Process:
    """A process that has ended, or not."""

    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code

    def poll(self) -> int | None:
        return self.exit_code

    def kill(self) -> None:
        pass

    def tail(self) -> str:
        return ""


class Starting:
    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code

    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Process:
        return Process(self.exit_code)


class Silent:
    """A post that carries nothing."""

    def admit(self, peers: list[AdmittedPeer]) -> None:
        pass

    def forget(self, public_key: str) -> None:
        pass


def members_of(
    place: Path, *names: str, exit_code: int | None = None, endpoints: tuple[str, ...] = (), **config: float | str
) -> Members:
    folder = RunFolder(place / "run")
    contact = Contact(endpoints, "", "tcp", 1.0, 1.0)
    made = Members(folder, Starting(exit_code), contact, cast(Post, Silent()), LaunchConfig(**config))
    for name in names:
        made.launch(name, Slot("cpu", 1))
    return made


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("agentkd.coordinator.members.time.monotonic", lambda: self.now)

    def turns(self, members: Members, seconds: float, every_s: float = 0.5) -> list[str]:
        """Who is given up while there are turns at that rate."""
        lost = []
        until = self.now + seconds
        while self.now < until:
            self.now += every_s
            lost += [error.agent for error in members.find_lost()]
        return lost


def test_an_agent_dismissed_while_another_is_given_up_is_not_given_up_again(tmp_path: Path) -> None:
    members = members_of(tmp_path, "ann", "ben", "cho", exit_code=-9)
    lost = []
    for error in members.find_lost():
        lost.append(error.agent)
        members.dismiss("ben")
    assert lost == ["ann", "cho"]


@pytest.mark.parametrize("absent_s", [21.0, 3600.0])
def test_who_could_not_be_heard_because_nobody_listened_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent_s: float
) -> None:
    clock = Clock(monkeypatch)
    members = members_of(tmp_path, "ann", "ben", lease_s=20.0, hang_s=40.0)
    members.joined("ann", HelloRequest())
    assert clock.turns(members, 5) == []
    clock.now += absent_s
    assert clock.turns(members, 10) == [], "the lease of 20 s is not over: it was heard 5 s before and not in the 10 s since"
    members.note_message("ann")
    assert clock.turns(members, 19) == []


def test_who_is_silent_while_somebody_listens_is_given_up_also_if_each_turn_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    members = members_of(tmp_path, "ann", lease_s=20.0)
    members.joined("ann", HelloRequest())
    assert clock.turns(members, 19) == [] and clock.turns(members, 2) == ["ann"]
    members.launch("ben", Slot("cpu", 1))
    members.joined("ben", HelloRequest())
    assert clock.turns(members, 190, every_s=10) == [] and clock.turns(members, 30, every_s=10) == ["ben"]


def test_who_hangs_is_not_excused_by_what_others_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    members = members_of(tmp_path, "ann", lease_s=20.0, hang_s=40.0)
    members.joined("ann", HelloRequest())
    clock.turns(members, 1)
    clock.now += 600
    for _ in range(38):
        members.note_heartbeat("ann", HeartbeatEvent(progress=0, is_busy=True))
        assert clock.turns(members, 1) == []
    members.note_heartbeat("ann", HeartbeatEvent(progress=0, is_busy=True))
    assert clock.turns(members, 4) == ["ann"]


def test_one_end_of_what_starts_four_agents_is_one_failed_start(tmp_path: Path) -> None:
    members = members_of(tmp_path, "ann", "ben", "cho", "dan", exit_code=-9)
    assert [error.agent for error in members.find_lost()] == ["ann", "ben", "cho", "dan"]
    members.launch("eve", Slot("cpu", 1))
    assert [error.agent for error in members.find_lost()] == ["eve"]
    members.launch("fay", Slot("cpu", 1))
    with pytest.raises(LaunchError, match="3 starts failed in a row"):
        list(members.find_lost())


@pytest.mark.parametrize(
    ("engine", "endpoint", "is_told"),
    [("srun", "tcp://127.0.0.1:5", True), ("srun", "tcp://10.0.0.1:5", False), ("local", "tcp://127.0.0.1:5", False)],
)
@pytest.mark.parametrize("min_agents", [0, 1])
def test_who_does_not_come_may_be_on_a_host_that_nothing_here_listens_for(
    engine: str, endpoint: str, is_told: bool, min_agents: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, hint = Clock(monkeypatch), "--bind names an address that other hosts reach"
    settings: dict[str, float | str] = {"engine": engine, "join_s": 20.0, "min_agents": min_agents}
    members = members_of(tmp_path, "ann", "ben", endpoints=(endpoint,), **settings)
    if min_agents:
        members.joined("ben", HelloRequest())
    said: list[str] = []
    for _ in range(22):
        clock.now += 1
        members.note_message("ben")
        said += [late.text for late in members.find_late()] + [str(lost) for lost in members.find_lost()]
    assert len(said) == (1 if min_agents else 2) and all((hint in text) is is_told for text in said), said


def test_a_command_that_ends_at_once_with_0_is_told_to_stay(tmp_path: Path) -> None:
    members = members_of(tmp_path, exit_code=0, engine="command")
    for name in ("ann", "ben"):
        members.launch(name, Slot("cpu", 1))
        list(members.find_lost())
    members.launch("cho", Slot("cpu", 1))
    with pytest.raises(LaunchError, match=r"^cho: its process ended with exit code 0; a command that .* must stay there"):
        list(members.find_lost())


def test_agents_that_do_not_start_are_told_by_their_last_line_and_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Process, "tail", lambda process: "Traceback (most recent call last):\n  in main\nKeyError: 12\n\n")
    members = members_of(tmp_path, exit_code=1)
    for name in ("ann", "ben"):
        members.launch(name, Slot("cpu", 1))
        assert [error.agent for error in members.find_lost()] == [name]
    members.launch("cho", Slot("cpu", 1))
    with pytest.raises(LaunchError, match=r"3 starts failed in a row; logs are in .*run/logs\nKeyError: 12$") as stopped:
        list(members.find_lost())
    assert "Traceback" not in str(stopped.value)
