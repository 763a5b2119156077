"""The agents of a run as processes and peers: started, welcomed, watched, ended. Decides nothing about tasks."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agentkd.artifacts.run_folder import RunFolder
from agentkd.config import LaunchConfig
from agentkd.errors import AgentLostError, LaunchError
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.exchange.liveness import Liveness, beat, heard, verdict
from agentkd.exchange.post import Post
from agentkd.launch.devices import Slot
from agentkd.launch.local import AgentProcess, Contact, Launcher, end_all
from agentkd.messages.bodies import AdmittedPeer, HeartbeatEvent, HelloRequest, LeaveRequest, PeerAddress, PeersEvent

START_TIMEOUT_S = 120.0
HEARTBEAT_S = 1.0
MAX_FAILED_STARTS = 3
LEAVE_GRACE_S = 2.0


@dataclass
class _Peer:
    process: AgentProcess
    public_key: str
    started_at: float
    endpoints: tuple[str, ...] = ()
    liveness: Liveness | None = None


class Members:
    """Every agent process that this coordinator started."""

    def __init__(self, folder: RunFolder, launcher: Launcher, contact: Contact, post: Post, config: LaunchConfig) -> None:
        self._folder, self._launcher, self._contact, self._post, self._config = folder, launcher, contact, post, config
        self._peers: dict[str, _Peer] = {}
        self._names: dict[str, str] = {}
        self._guests: dict[str, AdmittedPeer] = {}
        self._failed_starts = 0

    def launch(self, name: str, slot: Slot) -> None:
        """Starts an agent with a fresh key, admitted before the process exists."""
        keys = new_key_pair()
        key_file = self._folder.keys / f"{name}-{os.getpid()}-{time.monotonic_ns()}.json"
        save_key_pair(key_file, keys)
        self._post.admit([AdmittedPeer(agent=name, public_key=keys.public, may=EVERYTHING)])
        self._names[keys.public] = name
        self._peers[name] = _Peer(self._launcher.start(name, slot, key_file, self._contact), keys.public, time.monotonic())

    def name_of(self, public_key: str) -> str:
        """Who has that key; empty for an agent that is no longer one of ours."""
        return self._names.get(public_key, "")

    def key_of(self, name: str) -> str:
        """An agent's public key; empty if it is lost."""
        return self._peers[name].public_key if name in self._peers else ""

    def device_of(self, name: str) -> str:
        """The device that an agent was placed on."""
        return self._peers[name].process.slot.device if name in self._peers else ""

    def address_of(self, name: str) -> PeerAddress:
        """Where an agent serves knowledge."""
        peer = self._peers[name]
        return PeerAddress(agent=name, endpoints=peer.endpoints, public_key=peer.public_key)

    def joined(self, name: str, hello: HelloRequest) -> bool:
        """Takes note that an agent was welcomed and tells everybody the keys; false if it had joined before."""
        peer = self._peers[name]
        is_new = not peer.endpoints
        peer.endpoints = hello.endpoints
        now = time.monotonic()
        peer.liveness = Liveness(heard_at=now, moved_at=now)
        self._failed_starts = 0
        self.tell_peers()
        return is_new

    def tell_peers(self, *guests: AdmittedPeer) -> None:
        """Tells every agent who its peers are; guests stay among them from then on."""
        self._guests |= {guest.public_key: guest for guest in guests}
        own = (
            AdmittedPeer(agent=name, endpoints=peer.endpoints, public_key=peer.public_key, may=EVERYTHING)
            for name, peer in self._peers.items()
        )
        everybody = PeersEvent(peers=(*own, *self._guests.values()))
        for other in self._peers.values():
            if other.endpoints:
                self._post.send(other.public_key, everybody)
        for guest in self._guests:
            self._post.send(guest, everybody)

    def note_message(self, name: str) -> None:
        """Any message is a sign of life."""
        peer = self._peers.get(name)
        if peer and peer.liveness:
            peer.liveness = heard(peer.liveness, time.monotonic())

    def note_heartbeat(self, name: str, event: HeartbeatEvent) -> None:
        """A heartbeat says whether the work thread moves."""
        peer = self._peers.get(name)
        if peer and peer.liveness:
            peer.liveness = beat(peer.liveness, time.monotonic(), progress=event.progress, is_busy=event.is_busy)

    def find_lost(self) -> Iterator[AgentLostError]:
        """Agents that ended, fell silent or hang. Each is killed, forgotten and reported once.

        Raises:
            LaunchError: agents keep ending before they join.
        """
        now = time.monotonic()
        for name, peer in list(self._peers.items()):
            exit_code = peer.process.poll()
            if exit_code is not None:
                reason = f"its process ended with exit code {exit_code}"
            elif peer.liveness is None:
                reason = "did not join in time" if now - peer.started_at > START_TIMEOUT_S else ""
            else:
                reason = verdict(peer.liveness, now, lease_s=self._config.lease_s, hang_s=self._config.hang_s)
            if reason:
                yield self._drop(name, exit_code, reason)

    def end(self) -> None:
        """Asks all agents to leave, and leaves none behind."""
        for peer in self._peers.values():
            if peer.endpoints and peer.process.poll() is None:
                self._post.send(peer.public_key, LeaveRequest())
        deadline = time.monotonic() + LEAVE_GRACE_S
        idle_end = [peer.process for peer in self._peers.values()]
        while any(process.poll() is None for process in idle_end) and time.monotonic() < deadline:
            time.sleep(0.02)
        end_all(idle_end)
        self._peers.clear()

    def end_now(self) -> None:
        """Ends all agents without asking."""
        end_all([peer.process for peer in self._peers.values()])
        self._peers.clear()

    def _drop(self, name: str, exit_code: int | None, reason: str) -> AgentLostError:
        peer = self._peers.pop(name)
        peer.process.kill()
        self._post.forget(peer.public_key)
        self._names.pop(peer.public_key, None)
        tail = peer.process.stderr_tail()
        if peer.liveness is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise LaunchError(
                    f"{name} {reason}, and {MAX_FAILED_STARTS} starts failed in a row", exit_code=exit_code, stderr_tail=tail
                )
        seen = time.monotonic() - (peer.liveness.heard_at if peer.liveness else peer.started_at)
        return AgentLostError(name, seen, exit_code, tail if exit_code not in (None, -9) else reason)
