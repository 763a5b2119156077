"""Clauses on tasks: what cannot be done, what is over, what cannot be read."""

from agentkd.architecture import Architecture
from agentkd.conformance.clause import Clause, expect, expect_refusal, is_there
from agentkd.conformance.probe import Probe
from agentkd.errors import Rule
from agentkd.messages.bodies import CancelRequest, ErrorReply, TaskReply, TaskRequest
from agentkd.names import Digest, TaskKey
from agentkd.task import DataSource, Train

UNKNOWN = Digest("0" * 64)
ANSWER_S = 30.0
NOWHERE = 999_999


def working() -> list[Clause]:
    """Tasks, their fences and their ends."""
    return [
        Clause("task.impossible", "a task that cannot be done is answered with an error that names it", _impossible),
        Clause("task.fence", "a task of an attempt that is over is refused", _earlier_attempt),
        Clause(
            "task.fence_by_key",
            "the fence is one of each task: neither another task nor a later attempt is refused",
            _other_fences,
        ),
        Clause("task.unknown_fields", "a task with an unknown field is not done, wherever the field stands in it", _more_fields),
        Clause("task.key", "a task under a key that is another's is not done under it", _other_key),
        Clause("cancel.unknown", "cancelling what is not there does no harm", _cancel_nothing),
    ]


def a_task(seed: int) -> Train:
    """A task that no agent can do, another one for each seed."""
    architecture = Architecture(family="no_such_module:network", num_classes=2)
    source = DataSource(spec="generated:seed=1,size=32x32,train=4,validation=2,test=2", content_digest=UNKNOWN)
    return Train(architecture=architecture, data=source, seed=seed)


def _impossible(probe: Probe) -> str:
    task = a_task(1)
    error = probe.want(ErrorReply, TaskRequest(task=task, attempt=3), timeout_s=ANSWER_S)
    expect((error.task, error.attempt) == (task.key, 3), "the error does not name task and attempt")
    return error.code


def _earlier_attempt(probe: Probe) -> None:
    task = a_task(4)
    probe.want(ErrorReply, TaskRequest(task=task, attempt=3), timeout_s=ANSWER_S)
    answer = probe.ask(TaskRequest(task=task, attempt=2), timeout_s=ANSWER_S).body
    expect(not isinstance(answer, TaskReply), "a task of an earlier attempt was done")
    expect_refusal(answer, Rule.FENCE)


def _other_fences(probe: Probe) -> None:
    """Attempt 1 of a task after attempt 3 of another; the same attempt again, and later ones."""
    first, second = a_task(5), a_task(6)
    for task, attempt in ((first, 3), (second, 1), (second, 1), (second, 2), (first, 3), (first, 4), (second, 3)):
        error = probe.want(ErrorReply, TaskRequest(task=task, attempt=attempt), timeout_s=ANSWER_S)
        is_taken = error.code != "protocol" and (error.task, error.attempt) == (task.key, attempt)
        which = "one task" if task is first else "another task"
        expect(is_taken, f"attempt {attempt} of {which} was answered with {error.code} {error.rule} ({error.text[:80]})")


def _more_fields(probe: Probe) -> None:
    for place in ("", "recipe", "data", "architecture"):
        plain = TaskRequest(task=a_task(2), attempt=1).model_dump(mode="json")
        (plain["task"][place] if place else plain["task"])["of_a_later_version"] = 1
        answer = probe.hear(probe.say_plain(TaskRequest, plain), timeout_s=ANSWER_S).body
        where = f"one in its {place}" if place else "one of its own"
        expect(isinstance(answer, ErrorReply), f"with {where} it was answered with {type(answer).__name__}")


def _other_key(probe: Probe) -> None:
    plain = TaskRequest(task=a_task(3), attempt=1).model_dump(mode="json") | {"key": UNKNOWN}
    answer = probe.hear(probe.say_plain(TaskRequest, plain), timeout_s=ANSWER_S).body
    expect(isinstance(answer, ErrorReply), f"it was answered with {type(answer).__name__}")


def _cancel_nothing(probe: Probe) -> None:
    probe.say(CancelRequest(task=TaskKey(UNKNOWN), attempt=1), parent_id=NOWHERE)
    is_there(probe)
