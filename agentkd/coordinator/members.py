"""The agents of a run as processes and peers: started or invited, welcomed, watched, ended. Decides nothing about tasks.

A *guest* was started by somebody else and admitted by its key. It may leave and come back; it is never killed.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import AgentLostError, LaunchError, last_line
from agentkd.exchange.addresses import reach_hint
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.liveness import Liveness, beat, excused, heard, verdict
from agentkd.exchange.post import Post
from agentkd.launch.devices import Slot
from agentkd.launch.engines import LOCAL
from agentkd.launch.killings import Killings
from agentkd.launch.launcher import Contact, Launcher, Started, end_all
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer, HeartbeatEvent, HelloRequest, LeaveRequest, PeerAddress, PeersEvent
from agentkd.names import NO_KEY, NOBODY, AgentName, PublicKey

MAX_FAILED_STARTS = 3
LEAVE_GRACE_S = 2.0
TURN_S = 1.0
"""What there may be between two looks at the agents; whatever is more, this process was stopped or busy, and not they."""

log = logging.getLogger(__name__)


@dataclass
class _Peer:
    identity: AdmittedPeer
    process: Started | None
    started_at: float
    slot: Slot | None = None
    learns: bool = False
    is_late: bool = False
    again_at: float | None = None
    device: str = ""
    whereabouts: str = ""
    pid: int = 0
    host: str = ""
    endpoints: tuple[str, ...] = ()
    introduced: tuple[AdmittedPeer, ...] = ()
    left: str = ""
    liveness: Liveness | None = None


@dataclass(frozen=True)
class LateAgent:
    """An agent that has not come, and without which the work goes on.

    Args:
        text: what is missing, in words.
        spares_one: whether there is one more that learns than must be.
    """

    agent: AgentName
    text: str
    spares_one: bool


class Members:
    """Every agent process that this coordinator started, and its guests. One thread's, but for ``admit`` and ``name_of``."""

    def __init__(self, folder: RunFolder, launcher: Launcher, contact: Contact, post: Post, config: LaunchConfig) -> None:
        self._folder, self._launcher, self._contact, self._post, self._config = folder, launcher, contact, post, config
        self._peers: dict[AgentName, _Peer] = {}
        self._names: dict[PublicKey, AgentName] = {}  # whose a key is; under the lock
        self._lock = threading.Lock()
        self._killings = Killings()
        self._failed_starts = 0
        self._has_failed_start = False
        self._looked_at = time.monotonic()

    def launch(self, name: AgentName, slot: Slot, *, learns: bool = True) -> None:
        """Starts an agent with a fresh key, admitted before the process exists."""
        keys = new_key_pair()
        identity = self.admit(AdmittedPeer(agent=name, public_key=keys.public, may=EVERYTHING))
        process = self._launcher.start(name, slot, self._contact.arguments(self._folder, name, slot), keys)
        self._peers[name] = _Peer(identity, process, time.monotonic(), slot, learns, device=slot.device)

    def admit(self, identity: AdmittedPeer) -> AdmittedPeer:
        """Lets a key in under a name. From any thread."""
        with self._lock:
            self._names[identity.public_key] = identity.agent
        self._post.admit([identity])
        return identity

    def expect(self, guest: AdmittedPeer) -> None:
        """An agent that somebody else starts, admitted already, may come when it likes."""
        self._peers[guest.agent] = _Peer(guest, None, time.monotonic())

    def is_guest(self, name: AgentName) -> bool:
        """Whether somebody else started it. An agent of ours that is lost was none."""
        return name in self._peers and self._peers[name].process is None

    def is_ours(self, public_key: PublicKey) -> bool:
        """Whether that is the key of an agent that was started here and is not lost. From any thread."""
        peer = self._peers.get(self.name_of(public_key))
        return peer is not None and peer.process is not None

    def name_of(self, public_key: PublicKey) -> AgentName:
        """Who has that key; empty for an agent that is no longer one of ours. From any thread."""
        with self._lock:
            return self._names.get(public_key, NOBODY)

    @property
    def num_known(self) -> int:
        """How many agents were let in and are not forgotten. From any thread."""
        with self._lock:
            return len(self._names)

    def key_of(self, name: AgentName) -> PublicKey:
        """An agent's public key; empty if it is lost."""
        return self._peers[name].identity.public_key if name in self._peers else NO_KEY

    def device_of(self, name: AgentName) -> str:
        """The device that an agent was placed on."""
        return self._peers[name].device if name in self._peers else ""

    def whereabouts_of(self, name: AgentName) -> str:
        """Its device by a name that it has for all who are on it; empty if that is not known."""
        peer = self._peers.get(name)
        return peer.whereabouts if peer else ""

    def process_of(self, name: AgentName) -> tuple[int, str]:
        """Its process, and on which host that is, as it says itself; 0 and an empty name before it has come."""
        peer = self._peers.get(name)
        return (peer.pid, peer.host) if peer else (0, "")

    def address_of(self, name: AgentName) -> PeerAddress:
        """Where an agent serves knowledge."""
        peer = self._peers[name]
        return PeerAddress(agent=name, endpoints=peer.endpoints, public_key=peer.identity.public_key)

    def joined(self, name: AgentName, hello: HelloRequest) -> bool:
        """Takes note that an agent was welcomed; false if it had joined before."""
        peer = self._peers[name]
        is_new = peer.liveness is None
        peer.is_late, peer.again_at = False, None
        peer.endpoints, peer.introduced = hello.endpoints, ()
        peer.device = hello.device or peer.device
        peer.pid, peer.host = hello.pid, hello.host
        peer.whereabouts = hello.gpu or (f"{peer.device} of {hello.host}" if peer.device and hello.host else "")
        now = time.monotonic()
        peer.liveness = Liveness(heard_at=now, moved_at=now)
        self._failed_starts = 0
        return is_new

    def is_late(self, name: AgentName) -> bool:
        """Whether it has not come in time, and not yet."""
        return name in self._peers and self._peers[name].is_late

    def introduce(self, teacher: AgentName, students: tuple[AgentName, ...]) -> None:
        """Tells a teacher who may ask it, unless it knows that already. Nobody else may."""
        peer = self._peers.get(teacher)
        if peer is None:
            return
        listed = tuple(
            self._peers[name].identity.model_copy(update={"endpoints": self._peers[name].endpoints})
            for name in students
            if name in self._peers
        )
        if listed != peer.introduced:
            peer.introduced = listed
            self._post.send(peer.identity.public_key, PeersEvent(peers=listed))

    def note_message(self, name: AgentName) -> None:
        """Any message is a sign of life."""
        peer = self._peers.get(name)
        if peer and peer.liveness:
            peer.liveness = heard(peer.liveness, time.monotonic())

    def note_left(self, name: AgentName, reason: str) -> None:
        """An agent says why it leaves, which it may not be able to write to its log."""
        if name in self._peers:
            self._peers[name].left = reason

    def note_heartbeat(self, name: AgentName, event: HeartbeatEvent) -> None:
        """A heartbeat says whether the work thread moves."""
        peer = self._peers.get(name)
        if peer and peer.liveness:
            peer.liveness = beat(peer.liveness, time.monotonic(), progress=event.progress, is_busy=event.is_busy)

    def find_late(self) -> Iterator[LateAgent]:
        """Agents that have not come in time, or ended before, as far as the work goes on without them (``launch.min_agents``).

        Each is told of once. What waits for room goes on waiting; what has ended is started again, as often as need be.
        """
        if not self._config.min_agents:
            return
        now = time.monotonic()
        for name, peer in list(self._peers.items()):
            if peer.process is None or peer.liveness is not None or self._peers.get(name) is not peer:
                continue
            if peer.again_at is not None:
                if now >= peer.again_at:
                    self._launch_again(name, peer)
                continue
            exit_code = peer.process.poll()
            is_over_time = now - peer.started_at > self._config.join_s
            if (exit_code is None and (not is_over_time or peer.is_late)) or not self._can_do_without(name, now):
                continue
            if exit_code is not None:
                peer.again_at = now + self._config.join_s
            if not peer.is_late:
                peer.is_late = True
                yield LateAgent(name, self._missing(name, exit_code), self._num_here() > self._config.min_agents)

    def _launch_again(self, name: AgentName, peer: _Peer) -> None:
        """With a key of its own, for the one before may have been heard."""
        assert peer.slot is not None
        self._forget(name)
        try:
            self.launch(name, peer.slot, learns=peer.learns)
        except LaunchError as error:  # the engine itself is out of reach, perhaps for a while
            log.warning("%s", error)
            self._peers[name] = peer
            peer.again_at = time.monotonic() + self._config.join_s
        else:
            self._peers[name].is_late = True

    def _can_do_without(self, name: AgentName, now: float) -> bool:
        """Whether enough of those that learn are here, or may come in time."""
        return not self._peers[name].learns or self._num_here(but=name, now=now) >= self._config.min_agents

    def _num_here(self, *, but: AgentName = NOBODY, now: float | None = None) -> int:
        """How many that learn are here; with a time, also those that may still come."""
        count = 0
        for name, peer in self._peers.items():
            if peer.process is None or not peer.learns or name == but:
                continue
            may_come = now is not None and not peer.is_late and now - peer.started_at <= self._config.join_s
            count += peer.liveness is not None or (may_come and peer.process.poll() is None)
        return count

    def _missing(self, name: AgentName, exit_code: int | None) -> str:
        config, peer = self._config, self._peers[name]
        asked = sum(one.learns for one in self._peers.values())
        what = f"did not come within {config.join_s:g} s" if exit_code is None else f"ended with {exit_code} before it came"
        told = (peer.process.tail() if peer.process else "").strip().splitlines()
        says = f"the engine says: {told[-1]}" if told else "it says nothing, as where it waits for room"
        says = says if exit_code is not None else f"{says}{self._unreached}"
        here = f"the work goes on with {self._num_here()} of {asked} (launch.min_agents: {config.min_agents})"
        return f"{name} {what}; {config.engine} was asked for {config.demand}; {says}; {here}; it is taken when it comes"

    @property
    def _unreached(self) -> str:
        """Why agents may not come, if they are on other hosts."""
        return reach_hint(self._contact.endpoints) if self._config.engine != LOCAL else ""

    def find_lost(self) -> Iterator[AgentLostError]:
        """Agents that ended, fell silent or hang. Each is killed, forgotten and reported once; meanwhile others may be dismissed.

        Raises:
            LaunchError: agents keep ending before they join.
        """
        now = time.monotonic()
        self._excuse(now)
        self._has_failed_start = False
        for name, peer in list(self._peers.items()):
            if self._peers.get(name) is not peer or peer.is_late:
                continue
            exit_code = peer.process.poll() if peer.process else None
            if exit_code is not None:
                reason = f"its process ended with exit code {exit_code}"
            elif peer.liveness is not None:
                reason = verdict(peer.liveness, now, lease_s=self._config.lease_s, hang_s=self._config.hang_s)
            else:
                is_over_time = peer.process and now - peer.started_at > self._config.join_s
                reason = f"did not join within {self._config.join_s:g} s" if is_over_time else ""
            if reason:
                yield self.drop(name, reason, exit_code)

    def _excuse(self, now: float) -> None:
        """Who could not be heard here meanwhile was not silent."""
        absent_s, self._looked_at = now - self._looked_at - TURN_S, now
        if absent_s <= 0:
            return
        for peer in self._peers.values():
            peer.started_at = min(now, peer.started_at + absent_s)
            if peer.liveness is not None:
                peer.liveness = excused(peer.liveness, now, absent_s=absent_s)

    def end(self) -> None:
        """Asks all agents to leave, and leaves none behind."""
        for peer in self._peers.values():
            if peer.liveness is not None:
                self._post.send(peer.identity.public_key, LeaveRequest())
        deadline = time.monotonic() + LEAVE_GRACE_S
        processes = self._processes()
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.end_now()

    def end_now(self) -> None:
        """Ends all agents without asking. Guests see that their coordinator is gone."""
        end_all(self._processes())
        self._launcher.close()
        self._peers.clear()

    def dismiss(self, name: AgentName) -> None:
        """Ends an agent that has nothing to do, and forgets it; nothing if it is lost already."""
        if name in self._peers:
            self._forget(name).kill()

    def _forget(self, name: AgentName) -> Started:
        peer = self._peers.pop(name)
        assert peer.process is not None
        self._post.forget(peer.identity.public_key)
        with self._lock:
            self._names.pop(peer.identity.public_key, None)
        return peer.process

    def drop(self, name: AgentName, reason: str, exit_code: int | None = None) -> AgentLostError:
        """Gives an agent up, and says so. A guest stays invited."""
        peer = self._peers[name]
        if peer.process is None:
            seen_s = time.monotonic() - (peer.liveness.heard_at if peer.liveness else peer.started_at)
            peer.liveness = None
            self._post.disconnect(peer.identity.public_key)
            return AgentLostError(name, seen_s, None, reason)
        peer.process.kill()
        tail = self._forget(name).tail()
        tail = peer.left or tail
        if peer.liveness is None:
            asked = f"; {self._config.engine} was asked for {self._config.demand}{self._unreached}"
            if exit_code == 0 and self._config.engine != LOCAL:
                reason = f"{reason}; a command that starts an agent must stay there until it ends (docker run -i, not -d)"
            reason = f"{reason}{asked}" if exit_code is None else reason
            self._failed_starts += not self._has_failed_start  # what ends several at once, as their server's end, is one failure
            self._has_failed_start = True
            if self._failed_starts >= MAX_FAILED_STARTS:
                hint = "; with launch.min_agents a run goes on with those that come" if self._num_here() else ""
                colon = "" if exit_code is None else ":"
                text = f"{name}{colon} {reason}, and {MAX_FAILED_STARTS} starts failed in a row{hint}"
                raise LaunchError(f"{text}; logs are in {self._folder.logs}", exit_code=exit_code, stderr_tail=last_line(tail))
        seen = time.monotonic() - (peer.liveness.heard_at if peer.liveness else peer.started_at)
        is_unheard = peer.liveness is None and exit_code is None
        text = f"{reason}; it says: {tail.splitlines()[-1]}" if is_unheard and tail else reason
        lacks_memory = self._config.engine == LOCAL and self._killings.explain(exit_code)
        if lacks_memory:
            text = "the system ended it, as it does when the machine's memory is short"
        told = tail if exit_code not in (None, -9) else text
        return AgentLostError(name, seen, exit_code, told, lacks_memory=lacks_memory)

    def _processes(self) -> list[Started]:
        return [peer.process for peer in self._peers.values() if peer.process is not None]
