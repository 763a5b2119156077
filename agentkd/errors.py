"""Every error that agentkd raises on purpose, and the exit code each one gives a program.

The tree (a test compares it with the classes below)::

    AgentKDError
    |- ConfigError
    |- ProtocolError
    |  |- LocalProtocolError
    |  `- RemoteProtocolError
    |- ContractError
    |- ExchangeError
    |  |- ChannelClosedError
    |  |- ReplyTimeoutError
    |  |- AgentLostError
    |  `- TaskCancelledError
    |- RemoteAgentError
    |- ResultError
    |- LaunchError
    |- ArtifactError
    |  |- ArtifactNotFoundError
    |  `- ArtifactCorruptError
    |- StorageError
    |  |- DescriptorsError
    |  |- ThreadsError
    |  `- UnusableError
    |- DatasetError
    |- TrainingError
    |  |- NonFiniteLossError
    |  |- NotRepeatableError
    |  `- OutOfMemoryError
    `- SearchError
       `- InfeasibleArchitectureError

The exit codes: 2 for what is wrong on the command line or in the experiment file, 10 and above for the other branches as below,
and those of ``OTHER_EXITS``; ``exit_codes`` has all of them with what they mean.

An error says what failed, for whom, what was expected and found, and what to do next.
"""

import errno
import math
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agentkd.names import AgentName, Digest
from agentkd.visible import visible


class AgentKDError(Exception):
    """Anything agentkd refuses or cannot do. ``exit_code`` is what the command line ends with."""

    exit_code = 70
    code = "error"

    def __str__(self) -> str:
        """What it says, which may be somebody else's words: nothing in it acts on a terminal."""
        return visible(super().__str__())


FOUND, BUDGET_SPENT, INTERRUPTED, NOBODY_READS = 1, 22, 130, 141
OTHER_EXITS = {
    0: "done",
    FOUND: "verify, replay, doctor, data check, protocol check or init found what should not be",
    BUDGET_SPENT: "a budget of run (--for, --max-tasks, --max-epochs) is spent; the same command goes on",
    AgentKDError.exit_code: "a fault of agentkd itself: please report it",
    INTERRUPTED: "interrupted; the same command goes on",
    NOBODY_READS: "nobody reads the output any more",
}
"""What the program ends with otherwise, and what that means."""


def exit_codes() -> dict[int, str]:
    """Every exit code and what it means, in their order: of an error what its class says of itself."""
    found = dict(OTHER_EXITS)
    kinds = list(AgentKDError.__subclasses__())
    while kinds:
        kind = kinds.pop(0)
        kinds += kind.__subclasses__()
        if kind.__module__ == __name__:
            said = re.split(r"[;.:]", kind.__doc__ or "")[0]
            found.setdefault(kind.exit_code, said[:1].lower() + said[1:])
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an experiment file: where (dotted path), what, and what would be right."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class ConfigError(AgentKDError, ValueError):
    """The experiment file or an option is wrong; carries *all* problems found, not the first."""

    exit_code = 2
    code = "config"

    def __init__(self, problems: list[Problem] | str, *, source: str = "") -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count != 1 else ''}" if source else ""
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join(([head] if head else []) + [f"  - {x}" if head else x for x in lines]))


def must_be(value: object, kinds: type | tuple[type, ...], name: str, expected: str) -> None:
    """Refuses a value that a script hands in as something that it is not.

    Raises:
        ConfigError: it is of none of these kinds.
    """
    if not isinstance(value, kinds):
        shown = repr(value)
        raise ConfigError(f"{name}: {shown[:100]} is {type(value).__name__}; expected {expected}")


class ProtocolError(AgentKDError):
    """A message that the protocol does not allow."""

    exit_code = 10
    code = "protocol"


class LocalProtocolError(ProtocolError):
    """This process tried to say something illegal: a bug here."""


class Rule(StrEnum):
    """Which rule of the protocol a refused message broke. The list is closed; ``protocols/protocol.md`` explains each."""

    FRAMES = "frames"
    PREAMBLE = "preamble"
    VERSION = "version"
    TYPE = "type"
    FLAGS = "flags"
    LIMIT = "limit"
    HEADER = "header"
    MSGPACK = "msgpack"
    BODY = "body"
    TENSORS = "tensors"
    IDENTITY = "identity"
    GREETING = "greeting"
    SESSION = "session"
    ORDER = "order"
    ROLE = "role"
    GRANT = "grant"
    FENCE = "fence"
    CREDIT = "credit"
    DAMAGE = "damage"


class RemoteProtocolError(ProtocolError):
    """The peer said something illegal. ``msg_id`` and ``parent_id`` are the message's, if they could be read; 0 otherwise."""

    def __init__(self, text: str, rule: Rule, msg_id: int = 0, parent_id: int = 0) -> None:
        self.rule, self.msg_id, self.parent_id = rule, msg_id, parent_id
        super().__init__(f"{text} [{rule}]")


class ContractError(AgentKDError):
    """Two sides, mostly a teacher and a student, disagree on what a piece of knowledge means.

    Args:
        field: on what.
        teacher: what the one side has.
        student: what the other has, or expects.
        hint: what to do.
        sides: who they are, where it is not a teacher and a student: ``("the weights have", "the network has")``.
    """

    exit_code = 11
    code = "contract"

    def __init__(
        self,
        field: str,
        teacher: object,
        student: object,
        *,
        hint: str = "",
        sides: tuple[str, str] = ("teacher has", "student expects"),
    ) -> None:
        self.field, self.teacher, self.student = field, teacher, student
        text = f"contract field {field!r} differs: {sides[0]} {teacher!r}, {sides[1]} {student!r}"
        super().__init__(f"{text}; {hint}" if hint else text)


def last_line(said: str) -> str:
    """What a program said last: of a traceback the error."""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")


class ExchangeError(AgentKDError):
    """Moving a message or a piece of knowledge failed."""

    exit_code = 12
    code = "exchange"


class ChannelClosedError(ExchangeError):
    """The channel was closed on this side while somebody waited on it."""


class ReplyTimeoutError(ExchangeError):
    """No answer within the deadline."""

    def __init__(self, peer: str, request: str, waited_s: float) -> None:
        self.peer, self.request, self.waited_s = peer, request, waited_s
        super().__init__(f"{peer} did not answer {request} within {waited_s:.1f} s; is the agent alive?")


class AgentLostError(ExchangeError):
    """An agent's process ended or stopped making progress while it held work; perhaps killed by the system, to save memory."""

    def __init__(
        self, agent: AgentName, last_seen_s: float, exit_code: int | None, stderr_tail: str = "", *, lacks_memory: bool = False
    ) -> None:
        self.agent, self.last_seen_s, self.agent_exit_code, self.stderr_tail = agent, last_seen_s, exit_code, stderr_tail
        self.lacks_memory = lacks_memory
        text = f"agent {agent} was lost (last seen {last_seen_s:.1f} s ago, exit code {exit_code})"
        says = last_line(stderr_tail)
        super().__init__(f"{text}: {says}" if says else text)


class TaskCancelledError(ExchangeError):
    """The coordinator took a task back; the agent that had it is free again."""

    code = "cancelled"


class RemoteAgentError(AgentKDError):
    """An agent answered a request with an error."""

    exit_code = 13
    code = "remote"

    def __init__(self, agent: str, code: str, remote_type: str, text: str, *, rule: str = "") -> None:
        self.agent, self.remote_code, self.remote_type, self.text, self.rule = agent, code, remote_type, text, rule
        super().__init__(f"agent {agent} failed with {code} ({remote_type}): {text}")


class ResultError(AgentKDError):
    """What a guest handed in cannot be the result of its task. It is not recorded."""

    exit_code = 20
    code = "result"


class LaunchError(AgentKDError):
    """An agent process could not be started or placed."""

    exit_code = 14
    code = "launch"

    def __init__(self, text: str, *, command: str = "", exit_code: int | None = None, stderr_tail: str = "") -> None:
        self.command, self.agent_exit_code, self.stderr_tail = command, exit_code, stderr_tail
        super().__init__("\n".join(part for part in (text, command and f"command: {command}", stderr_tail) if part))


FULL_DIGEST = 64


class ArtifactError(AgentKDError):
    """The run folder does not hold what it should."""

    exit_code = 15
    code = "artifact"


def made_again(place: Path, digest: str = "DIGEST") -> str:
    """How an artifact that is damaged or gone comes back; empty if ``place`` is not where a run folder has its artifacts.

    What is recorded of its task stands, so the run does not do that again; a replay does, and leaves the same bytes.
    """
    if place.name != "artifacts":
        return ""
    again = f"agentkd replay {place.parent} --task {digest[:12]} --out AGAIN"
    return f"copy it from where else it is, or from AGAIN/artifacts after: {again}"


class ArtifactNotFoundError(ArtifactError):
    """No stored bytes under that digest."""

    def __init__(self, digest: str, place: Path | str) -> None:
        self.digest, self.place = digest, str(place)
        advice = made_again(Path(place), digest) if len(digest) == FULL_DIGEST else ""
        super().__init__(f"no artifact {digest} in {place}" + (f"; {advice}" if advice else ""))


class ArtifactCorruptError(ArtifactError):
    """Stored or received bytes do not have the digest they are named by."""

    def __init__(self, place: Path | str, expected: Digest, actual: Digest) -> None:
        self.place, self.expected, self.actual = str(place), expected, actual
        advice = made_again(place.parent.parent, expected) if isinstance(place, Path) else ""
        text = f"{place} is damaged: expected SHA-256 {expected}, found {actual}"
        super().__init__(f"{text}; {advice}" if advice else text)


class StorageError(AgentKDError):
    """The disk is full, read-only or broken; what was committed before is intact."""

    exit_code = 16
    code = "storage"
    verb = "write"
    advice = "free some space or choose another folder, then run the command again"

    def __init__(self, place: Path | str, reason: str, *, advice: str = "") -> None:
        self.place, self.reason = str(place), reason
        super().__init__(f"cannot {self.verb} {place}: {reason}; {advice or self.advice}")

    @staticmethod
    def of_use(place: Path | str, error: OSError) -> "StorageError":
        """What the operating system refused, where it is not known whether it was to read or to write."""
        told = StorageError.of(place, error)
        if isinstance(told, DescriptorsError):
            return told
        return UnusableError(place, told.reason, advice=STORAGE_WORDS.get(error.errno or 0, ("", ""))[1])

    @staticmethod
    def of(place: Path | str, error: Exception) -> "StorageError":
        """What the operating system's refusal means, in words: descriptors that are used up are no full disk."""
        number = error_number(error)
        if number in DESCRIPTORS_USED_UP:
            return DescriptorsError(place, number)
        reason, advice = STORAGE_WORDS.get(number, ("", ""))
        if number in FORBIDDEN:
            advice = "choose another folder, one that you may write to, then run the command again"
        if number == errno.ENOENT:
            advice = "see where its folder has gone, then run the command again"
        told = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return StorageError(place, reason or told, advice=advice)


class DescriptorsError(StorageError):
    """No file, socket or shared memory can be opened, for all descriptors are in use: the process's, or the whole system's."""

    exit_code = 21
    code = "descriptors"
    verb = "open"

    def __init__(self, place: Path | str, number: int = errno.EMFILE) -> None:
        if number == errno.ENFILE:
            super().__init__(place, "the descriptors of the whole system are used up", advice="end what has many files open")
        else:
            reason = "all descriptors of this process are in use"
            super().__init__(place, reason, advice="allow it more (ulimit -n 4096), then run the command again")


class ThreadsError(StorageError):
    """No thread or process can be started, for there are as many as are allowed: to a user, a container, or the whole system."""

    exit_code = 23
    code = "threads"
    verb = "start"
    advice = "allow more (ulimit -u, ulimit -v, or the limit of its container) or end what has many, then run the command again"

    def __init__(self, place: Path | str) -> None:
        super().__init__(place, "no more processes or threads can be started")


class UnusableError(StorageError):
    """A path that was named cannot be read, or not be written."""

    verb = "use"
    advice = "give another path, or see who owns it and who may read and write it"


FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
DESCRIPTORS_USED_UP = (errno.EMFILE, errno.ENFILE)
STORAGE_WORDS = {
    errno.ENOSPC: (f"the disk is full ({os.strerror(errno.ENOSPC)})", ""),
    errno.EDQUOT: (f"the disk quota is used up ({os.strerror(errno.EDQUOT)})", ""),
    errno.ENOLCK: (f"its file system has no locks ({os.strerror(errno.ENOLCK)})", "choose a folder on a local disk"),
    errno.EIO: (f"the disk is broken ({os.strerror(errno.EIO)})", "choose a folder on another disk, then run the command again"),
}


def error_number(error: BaseException) -> int:
    """The operating system's number of an error, also where a library hands it on as text only; 0 if there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def check_descriptors(place: Path | str, error: BaseException) -> None:
    """Whether something could not be read, or started, for want of descriptors or processes, which says nothing against it.

    Raises:
        DescriptorsError: it is so.
        ThreadsError: it is so.
    """
    number = error_number(error)
    if number in DESCRIPTORS_USED_UP:
        raise DescriptorsError(place, number) from error
    if number == errno.EAGAIN:
        raise ThreadsError(place) from error


class DatasetError(AgentKDError):
    """A dataset is not what its description says."""

    exit_code = 17
    code = "dataset"

    def __init__(self, place: Path | str, found: str, expected: str = "") -> None:
        self.place, self.found, self.expected = str(place), found, expected
        super().__init__(f"{place}: {found}" + (f"; expected {expected}" if expected else ""))


class TrainingError(AgentKDError):
    """A training step cannot go on."""

    exit_code = 18
    code = "training"


class NonFiniteLossError(TrainingError):
    """The loss, or its gradient, became NaN or infinite.

    Args:
        step: of the training, from 0.
        terms: the loss by its terms.
        has_finite_outputs: whether what the network made of the batch is finite. Then it is not the network, but the terms that
            are not, or, if all are, their gradient.
        culprits: the terms whose gradient is not finite, if that is known.
    """

    code = "non_finite_loss"

    def __init__(
        self, step: int, terms: dict[str, float], *, has_finite_outputs: bool = False, culprits: tuple[str, ...] = ()
    ) -> None:
        self.step, self.terms = step, terms
        shown = ", ".join(f"{name}={value:g}" for name, value in terms.items())
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        hint = "divides by zero, or takes a root or the logarithm of it"
        loss = f"loss is not finite at step {step} ({shown})"
        if not has_finite_outputs:
            super().__init__(f"{loss}; lower the learning rate or set recipe.clip_norm")
        elif wrong:
            super().__init__(f"{loss}, and the network's outputs are: see whether {', '.join(wrong)} {hint}")
        else:
            which = ", ".join(culprits) or "one of its terms"
            super().__init__(f"the gradient is not finite at step {step}, and the loss is ({shown}): see whether {which} {hint}")


class NotRepeatableError(TrainingError):
    """An operation has no repeatable form on CUDA, or own code changes a setting of it, and the task does not allow that.

    Args:
        operation: by PyTorch's name; or the setting.
        instead: what can be written in its place.
    """

    code = "not_repeatable"

    def __init__(self, operation: str, instead: str, *, problem: str = "has no repeatable form on CUDA") -> None:
        self.operation, self.instead = operation, instead
        super().__init__(
            f"{operation} {problem}, so no run and no replay would have the same bits; write {instead}; or "
            "allow it with repeatable: false, in the recipe for what learns, in arithmetic for a teacher or an evaluation"
        )


class OutOfMemoryError(TrainingError):
    """The device has too little memory for a step, or the machine for what a command does."""

    code = "out_of_memory"


class SearchError(AgentKDError):
    """A study cannot go on."""

    exit_code = 19
    code = "search"


class InfeasibleArchitectureError(SearchError):
    """An architecture breaks a constraint of the search: the trial ends, the study goes on."""

    code = "infeasible"

    def __init__(self, constraint: str, value: float, limit: float) -> None:
        self.constraint, self.value, self.limit = constraint, value, limit
        said, allowed = (f"{one:,}" if isinstance(one, int) else f"{one:,.4g}" for one in (value, limit))
        super().__init__(f"{constraint} is {said}, above the limit of {allowed}")
