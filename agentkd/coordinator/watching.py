"""What somebody who watches a run is told: a snapshot after each change, and one line for each thing worth telling."""

from dataclasses import dataclass
from typing import Protocol

from agentkd.names import AgentName
from agentkd.pipeline.plan import Outlook


@dataclass(frozen=True)
class Activity:
    """What an agent is doing now. ``step`` of ``steps`` is zero of zero where that says nothing."""

    agent: AgentName
    device: str
    doing: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    score: float | None = None  # mIoU, or accuracy


@dataclass(frozen=True)
class Snapshot:
    """The state of a run.

    Args:
        num_recorded: tasks finished, in this and earlier sittings.
        num_expected: tasks in all, an estimate until the searches are over.
        left_s: estimate of the time left, ``None`` until something was finished.
    """

    experiment: str
    elapsed_s: float
    num_recorded: int
    num_expected: int
    left_s: float | None
    outlook: Outlook
    activities: tuple[Activity, ...]


class Watcher(Protocol):
    """Whoever watches. Called on the coordinator's thread; must not block."""

    def show(self, snapshot: Snapshot) -> None:
        """The newest state."""
        ...

    def tell(self, line: str) -> None:
        """Something happened."""
        ...


class Silent:
    """Watches and says nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Shows nothing."""

    def tell(self, line: str) -> None:
        """Tells nobody."""
