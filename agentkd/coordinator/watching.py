"""What somebody who watches a run is told: a snapshot after each change, and one line for each thing worth telling."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agentkd.names import AgentName
from agentkd.pipeline.plan import Outlook

log = logging.getLogger(__name__)


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
        num_expected: tasks in all, at most as far as is known now: a search may end early, and infeasible trials come on top.
        left_s: estimate of the time left by what tasks of the same kind took, ``None`` until one of them was finished.
        num_trials: by family how many feasible trials its search has at most.
    """

    experiment: str
    elapsed_s: float
    num_recorded: int
    num_expected: int
    left_s: float | None
    outlook: Outlook
    activities: tuple[Activity, ...]
    num_trials: Mapping[str, int] = field(default_factory=dict)


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


class Noting:
    """Has what somebody is told stand in this process's log as well, where ``agentkd logs coordinator`` finds it."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def show(self, snapshot: Snapshot) -> None:
        """Hands it on: there are four a second."""
        self._watcher.show(snapshot)

    def tell(self, line: str) -> None:
        """Hands it on, and logs it."""
        log.info("%s", line)
        self._watcher.tell(line)
