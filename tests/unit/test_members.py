"""Agents that end while others are being given up."""

from pathlib import Path
from typing import cast

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.members import Members
from agentkd.exchange.post import Post
from agentkd.launch.devices import Slot
from agentkd.launch.local import Contact
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer


class Process:
    """A process that has ended."""

    def poll(self) -> int:
        return -9

    def kill(self) -> None:
        pass

    def stderr_tail(self) -> str:
        return ""


class Starting:
    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> Process:
        return Process()


class Silent:
    """A post that carries nothing."""

    def admit(self, peers: list[AdmittedPeer]) -> None:
        pass

    def forget(self, public_key: str) -> None:
        pass


def test_an_agent_dismissed_while_another_is_given_up_is_not_given_up_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.keys.mkdir(parents=True)
    members = Members(folder, Starting(), Contact("", "", "tcp", 1.0, 1.0), cast(Post, Silent()), LaunchConfig())
    for name in ("ann", "ben", "cho"):
        members.launch(name, Slot("cpu", 1))
    lost = []
    for error in members.find_lost():
        lost.append(error.agent)
        members.dismiss("ben")
    assert lost == ["ann", "cho"]
