"""Who is to blame when an agent fails or is lost: the task, or what is around it. Pure.

A task is recorded as failed only for what it is itself to blame for. Whatever a disk, a network, another agent or whoever ends
processes does has it tried again, as an attempt that does not count; and where that happens again and again without getting
further the work stops with the reason, and nothing is recorded. A process that is killed (``SIGKILL``) is lost like any other:
nobody can tell who did it, unless the system counts it among those that it ended for their memory (``lacks_memory``).
One that crashes by itself, as often as a task may fail, is not.
"""

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from agentkd.coordinator.state import MAX_LOSSES
from agentkd.errors import (
    AgentKDError,
    AgentLostError,
    ArtifactError,
    ConfigError,
    ContractError,
    DatasetError,
    DescriptorsError,
    ExchangeError,
    LaunchError,
    NonFiniteLossError,
    NotRepeatableError,
    ProtocolError,
    ResultError,
    Rule,
    StorageError,
    ThreadsError,
    last_line,
)
from agentkd.messages.bodies import ErrorReply
from agentkd.names import AgentName
from agentkd.task import TaskResult

FATAL = frozenset(
    kind.code for kind in (ConfigError, DatasetError, ContractError, StorageError, ArtifactError, ThreadsError, AgentKDError)
)
"""Errors that every agent of ours would meet again, or that nobody has explained: the work stops, nothing is recorded, and
starting again goes on."""
SURROUNDINGS = frozenset(kind.code for kind in (ExchangeError, StorageError, DescriptorsError, ThreadsError, LaunchError))
"""Errors that say nothing about the task: who was asked did not answer, could not write, had no descriptors."""
OF_GUESTS = frozenset(kind.code for kind in (ResultError, ProtocolError, AgentKDError))
"""What a guest does wrong by itself; its disk, its data and its settings (``FATAL``) are its own too."""
OF_THE_TASK = frozenset(kind.code for kind in (NonFiniteLossError, NotRepeatableError))
"""What a task does everywhere."""
OF_SHORTAGE = tuple(os.strerror(number) for number in (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""What a library says last that ends its process because the system gives it no thread, descriptor or memory."""
OF_DISK = (StorageError.exit_code, DescriptorsError.exit_code, ThreadsError.exit_code)
LAST_LINES = 3
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
"""Signals that a process brings upon itself. ``SIGBUS`` is none: a full disk of shared memory sends it."""


@dataclass(frozen=True)
class Judgement:
    """What an error that an agent tells means.

    Args:
        is_fatal: every agent of ours would meet it again.
        is_fault: the task may be to blame.
        retryable: the task may go better elsewhere or later.
        may_teach: the same of weights that were to be adopted.
    """

    is_fatal: bool
    is_fault: bool
    retryable: bool
    may_teach: bool


def judge(said: ErrorReply, *, is_guest: bool, is_refusal: bool) -> Judgement:
    """What an error means. A refusal is one of a message that was not read; what a guest refuses another agent may know."""
    is_fatal = said.code in FATAL and not is_guest
    is_fault = said.code not in SURROUNDINGS and not (is_guest and said.code in FATAL | OF_GUESTS)
    is_protocol = said.code == ProtocolError.code
    is_pointless = is_refusal and is_protocol and said.rule != Rule.FENCE and not is_guest
    retryable = said.code not in OF_THE_TASK and not is_fatal and not is_pointless
    return Judgement(is_fatal, is_fault, retryable, may_teach=not is_fatal and not is_protocol)


def patience(max_attempts: int, *, is_forgiving: bool) -> dict[str, int]:
    """How often a task may fail, and how often what is around it may be in its way. Where that would end everything, longer."""
    return {"max_attempts": max_attempts, "max_losses": max_attempts if is_forgiving else max(max_attempts, MAX_LOSSES)}


def hindered(label: str, last: TaskResult, there: tuple[str, ...] = ()) -> ExchangeError:
    """A task was taken from its agents again and again, and the work stops. Who was ``there`` each time may have done it."""
    ran = f"each time an agent of it was lost there ran: {', '.join(there)}; " if there else ""
    return ExchangeError(
        f"{label} was taken from its agents again and again without getting further, the last time because: {last.error_text}; "
        f"{ran}that is not recorded as its failure: see to what is around it (memory, network, disks), then run the command again"
    )


def of_disk(place: Path, agent: AgentName, text: str) -> StorageError:
    """An agent of ours could not write, as it says."""
    reason, _, advice = text.removeprefix("error: ").partition("; ")
    return StorageError(place, f"{agent}: {reason}", advice=advice)


def must_not_be_of_disk(lost: AgentLostError, place: Path, *, has_run_code: bool = False) -> None:
    """Looks whether a lost agent ended because it could not write, or open a file, which its successor could not either.

    Own code can end a process with any exit code: of an agent that has run some, it is believed only with what it says.

    Raises:
        StorageError: so it was.
    """
    if has_run_code and not _says_why(lost):
        return
    said = last_line(lost.stderr_tail) or "it ended because it could not"
    if lost.agent_exit_code == StorageError.exit_code:
        raise of_disk(place, lost.agent, said) from lost
    if lost.agent_exit_code == DescriptorsError.exit_code:
        raise DescriptorsError(f"what agent {lost.agent} needs") from lost
    if lost.agent_exit_code == ThreadsError.exit_code:
        raise ThreadsError(f"what agent {lost.agent} needs") from lost


def _says_why(lost: AgentLostError) -> bool:
    return last_line(lost.stderr_tail).removeprefix("error: ").startswith(("cannot ", "the disk "))


def is_crash(lost: AgentLostError, *, has_run_code: bool = False) -> bool:
    """Whether the process of a lost agent ended in a way that only what it did can be to blame for."""
    if has_run_code and lost.agent_exit_code in OF_DISK and not _says_why(lost):
        return True
    is_of_itself = lost.agent_exit_code is not None and -lost.agent_exit_code in CRASHES
    says = "".join(lost.stderr_tail.splitlines()[-LAST_LINES:])
    return is_of_itself and not any(text in says for text in OF_SHORTAGE)
