"""Students of one process that teach each other, as if around a table: one has the turn, and who must wait lets others have it.

What they say is what agents say (``agentkd.agents.mutual``), so a lesson has the same bits. One at a time, since torch's random
numbers are one stream for all threads of a process: each step begins with a seed of its own and draws none after a student spoke.
"""

import threading
from collections.abc import Callable

from torch import nn

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import blend
from agentkd.agents.mutual import speak
from agentkd.errors import AgentLostError, ArtifactNotFoundError, TrainingError
from agentkd.knowledge import codecs, tensors
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.objectives import LOGITS
from agentkd.task import ExchangeSummary, Mutual, Status, Task, TaskResult
from agentkd.training.loop import Knowledge
from agentkd.training.losses import Outputs

WITHOUT = "another student failed, without which it cannot be done"
LEFT_ALONE = TaskResult(status=Status.FAILED, error_code=AgentLostError.code, error_text=WITHOUT)


class Table:
    """What students have said, by task and step."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._said: dict[tuple[TaskKey, int], bytes] = {}
        self._is_over = False

    def seat(self, tasks: dict[TaskKey, Task], learn: Callable[[Task], TaskResult]) -> dict[TaskKey, TaskResult]:
        """Has all of a cohort's tasks done together; if one fails, none has a result.

        Raises:
            AgentKDError: as ``learn``, of the first that raised.
        """
        outcomes: dict[TaskKey, TaskResult] = {}
        raised: list[BaseException] = []

        def sit(key: TaskKey, task: Task) -> None:
            with self._turn:
                try:
                    outcome = LEFT_ALONE if self._is_over else learn(task)
                except BaseException as error:
                    outcome = LEFT_ALONE
                    raised.append(error)
                if self._is_over:
                    outcome = LEFT_ALONE  # however it noticed
                elif outcome.status is Status.FAILED:
                    self._is_over = True
                    self._turn.notify_all()
                outcomes[key] = outcome

        threads = [threading.Thread(target=sit, args=item, name="agentkd-student", daemon=True) for item in tasks.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]
        failed = Status.FAILED
        return {key: one if one.status is failed or not self._is_over else LEFT_ALONE for key, one in outcomes.items()}

    def say(self, key: TaskKey, step: int, data: bytes) -> None:
        """Everybody can hear it from now on. What was said two steps before nobody needs any more."""
        self._said[key, step] = data
        self._said.pop((key, step - 2), None)
        self._turn.notify_all()

    def hear(self, keys: list[TaskKey], step: int) -> dict[TaskKey, bytes]:
        """What the others say in a step; waits, and lets them have the turn.

        Raises:
            TrainingError: one of them failed.
        """
        self._turn.wait_for(lambda: self._is_over or all((key, step) in self._said for key in keys))
        if self._is_over:
            raise TrainingError(WITHOUT)
        return {key: self._said[key, step] for key in keys}


class SeatedTeaching:
    """One student's side of a lesson at a table: ``agentkd.agents.mutual.MutualLesson`` without messages."""

    is_heard = True

    def __init__(self, task: Mutual, feed: DatasetFeed, table: Table) -> None:
        self._key, self._distillation, self._table = task.key, task.distillation, table
        self.terms = blend(task, feed).terms
        self._classes = {partner.key: partner.architecture.num_classes for partner in task.partner_tasks()}

    def attend(self, network: nn.Module) -> None:
        """Who learns makes no difference."""

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """Says what this student makes of the batch, and hears the others."""
        said = speak(outputs, self._distillation.codec, self._distillation.max_kl, weights=NO_DIGEST)
        self._table.say(self._key, step, said)
        heard = self._table.hear(list(self._classes), step)
        told = []
        for key, classes in self._classes.items():
            logits = codecs.read(LOGITS.name, tensors.decode(heard[key]), classes)
            assert logits is not None
            told.append({LOGITS.name: logits})
        return tuple(told)

    def secure(self) -> None:
        """Nothing is recorded."""

    def can_resume(self, step: int) -> bool:
        """What was said stays on the table."""
        return True

    def peek(self, step: int) -> Knowledge:
        """Nothing is known before the student has spoken."""
        return ()

    def fetch_weights(self, weights: Digest) -> bytes:
        """Nobody's weights are inherited."""
        raise ArtifactNotFoundError(weights, "a mutual lesson")

    def summary(self) -> ExchangeSummary:
        """Nothing was exchanged."""
        return ExchangeSummary()
