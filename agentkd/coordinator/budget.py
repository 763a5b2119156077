"""How much of a run one sitting may do: until when, and how many tasks and epochs, it begins. No result depends on it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.pipeline.stages import PlannedTask
from agentkd.task import Training


@dataclass(frozen=True)
class Budget:
    """What a sitting may begin; ``None`` for as much as there is.

    Args:
        seconds: after these no task is begun.
        num_tasks: that are begun.
        num_epochs: of all trainings that are begun; evaluations have none.
    """

    seconds: float | None = None
    num_tasks: int | None = None
    num_epochs: int | None = None


UNLIMITED = Budget()


class Spending:
    """What of a budget is spent. Tasks are begun in the order in which they are wanted; the first that does not fit ends it.

    Args:
        num_slots: how many tasks are done at a time. Of a budget of time no more than these are given out at once, since what is
            given out is begun, sooner or later.
    """

    def __init__(self, budget: Budget, num_slots: int) -> None:
        self.budget, self._num_slots = budget, num_slots
        self._num_tasks = self._num_epochs = 0
        self.reason = ""

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is begun."""
        return bool(self.reason)

    def take(self, wanted: Sequence[PlannedTask], *, elapsed_s: float, num_open: int) -> list[PlannedTask]:
        """Those of the tasks that may be begun now, which counts as done.

        Args:
            wanted: and not begun yet, in order.
            elapsed_s: since the sitting began.
            num_open: tasks that were begun and have no result yet.
        """
        budget, taken = self.budget, list[PlannedTask]()
        for step in wanted:
            if budget.seconds is not None and num_open + len(taken) >= self._num_slots and elapsed_s < budget.seconds:
                break
            self.reason = self.reason or self._why_not(step, elapsed_s)
            if self.reason:
                break
            self._num_tasks += 1
            self._num_epochs += epochs_of(step)
            taken.append(step)
        return taken

    def _why_not(self, step: PlannedTask, elapsed_s: float) -> str:
        budget, epochs = self.budget, epochs_of(step)
        if budget.seconds is not None and elapsed_s >= budget.seconds:
            return f"the time that it may begin tasks in ({budget.seconds:,.0f} s) is over"
        if budget.num_tasks is not None and self._num_tasks >= budget.num_tasks:
            return f"it has begun the {budget.num_tasks:,} tasks that it may"
        if budget.num_epochs is not None and self._num_epochs + epochs > budget.num_epochs:
            begun = f"it has begun {self._num_epochs:,} of the {budget.num_epochs:,} epochs that it may"
            return f"{begun}, and the next task ({step.stage} of {step.family}) has {epochs:,}"
        return ""


def epochs_of(step: PlannedTask) -> int:
    """Epochs of a training; 0 of an evaluation."""
    return step.task.recipe.epochs if isinstance(step.task, Training) else 0
