"""When an agent counts as lost: a pure function of what was heard and when. Times are monotonic seconds."""

import math
from dataclasses import dataclass, replace

HEARTBEAT_S = 1.0
BEATS_PER_S = 500
BEATS_A_LEASE = 4


@dataclass(frozen=True)
class Liveness:
    """What is known of one agent's life.

    Args:
        heard_at: when anything last came from it.
        moved_at: when its work loop last made progress, or was idle.
        progress: the work loop's counter then.
    """

    heard_at: float
    moved_at: float
    progress: int = 0


def pace_s(num_agents: int, lease_s: float) -> float:
    """Seconds between heartbeats that so many agents are asked for: so that they are no more together than one can well hear.

    However many there are, each beats some times in a lease.
    """
    return max(HEARTBEAT_S, min(num_agents / BEATS_PER_S, lease_s / BEATS_A_LEASE))


@dataclass
class Pulse:
    """When an agent says again that it lives, looked at every ``HEARTBEAT_S``: the nearest such time to what it was told."""

    pace_s: float = HEARTBEAT_S
    _next_at: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Whether it is to say so now; then it does."""
        if now < self._next_at:
            return False
        self._next_at = now + self.pace_s - HEARTBEAT_S / 2
        return True


def heard(state: Liveness, now: float) -> Liveness:
    """After any message."""
    return replace(state, heard_at=now)


def beat(state: Liveness, now: float, *, progress: int, is_busy: bool) -> Liveness:
    """After a heartbeat."""
    moved = not is_busy or progress != state.progress
    return Liveness(heard_at=now, moved_at=now if moved else state.moved_at, progress=progress)


def excused(state: Liveness, now: float, *, absent_s: float) -> Liveness:
    """After some time in which nobody listened, which says nothing about who may have spoken."""
    return replace(state, heard_at=min(now, state.heard_at + absent_s), moved_at=min(now, state.moved_at + absent_s))


def verdict(state: Liveness, now: float, *, lease_s: float, hang_s: float) -> str:
    """Why the agent counts as lost, or an empty text."""
    if now - state.heard_at > lease_s:
        return f"silent for {now - state.heard_at:.1f} s"
    if now - state.moved_at > hang_s:
        return f"no progress for {now - state.moved_at:.1f} s though its I/O thread is alive"
    return ""
