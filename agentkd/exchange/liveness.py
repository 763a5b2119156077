"""When an agent counts as lost: a pure function of what was heard and when. Times are monotonic seconds."""

from dataclasses import dataclass, replace

HEARTBEAT_S = 1.0


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
