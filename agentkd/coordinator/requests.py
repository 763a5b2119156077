"""What each agent was asked last, so that an error finds its request, and one that was lost is noticed. No clock, no sockets."""

from dataclasses import dataclass

from agentkd.coordinator.events import Start, Teach
from agentkd.names import AgentName


@dataclass
class _Asked:
    action: Start | Teach
    number: int
    idle_since: float | None = None


class Requests:
    """The newest request to each agent that has not been answered.

    Args:
        patience_s: how long an agent may say that it has nothing to do before what it was asked counts as lost.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._asked: dict[AgentName, _Asked] = {}

    def note(self, action: Start | Teach, number: int) -> None:
        """An agent was asked, in the message of that number. Whatever it was asked before no longer counts."""
        self._asked[action.agent] = _Asked(action, number)

    def answered(self, agent: AgentName, number: int) -> Start | Teach | None:
        """What an agent answers that answers the message of that number; ``None`` if that is over. It is waited for no more."""
        asked = self._asked.get(agent)
        if asked is None or asked.number != number:
            return None
        return self._asked.pop(agent).action

    def forget(self, agent: AgentName) -> None:
        """An agent is gone."""
        self._asked.pop(agent, None)

    def is_lost(self, agent: AgentName, *, is_busy: bool, now: float) -> bool:
        """Whether, as a heartbeat at ``now`` (monotonic seconds) says, an agent is idle for so long that its request was lost.

        True once for each request.
        """
        asked = self._asked.get(agent)
        if asked is None:
            return False
        if is_busy or asked.idle_since is None:
            asked.idle_since = None if is_busy else now
            return False
        if now - asked.idle_since <= self._patience_s:
            return False
        del self._asked[agent]
        return True
