"""What may be replaced when a lesson is replayed: pure, from a task to a task."""

from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.history import History
from agentkd.config import checked
from agentkd.errors import ConfigError
from agentkd.recipe import Distillation
from agentkd.task import Distill, Task

NAMES = ("teacher", "temperature", "codec", "alpha")


@dataclass(frozen=True)
class Swap:
    """One thing replaced: ``name`` becomes ``value``; ``old`` says which of several teachers."""

    name: str
    value: str
    old: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.old + ':' if self.old else ''}{self.value}"


def read_swap(text: str) -> Swap:
    """A swap as it is typed: ``temperature=4``, ``codec=int8``, ``alpha=0.3``, ``teacher=NEW`` or ``teacher=OLD:NEW`` (digests).

    Raises:
        ConfigError: it is none.

    Example:
        >>> read_swap("teacher=4f1c:99ab")
        Swap(name='teacher', value='99ab', old='4f1c')
    """
    name, equals, value = text.partition("=")
    if name not in NAMES or not equals or not value:
        raise ConfigError(f"--swap {text!r}: expected NAME=VALUE, where NAME is {', '.join(NAMES)}")
    old, colon, new = value.partition(":")
    return Swap(name, new, old) if colon and name == "teacher" else Swap(name, value)


def swapped(task: Task, swap: Swap, history: History) -> Distill | None:
    """The task with one thing replaced and all else as it was; ``None`` for a task that has no such thing.

    Raises:
        ConfigError: the value cannot be, or it is not clear which teacher is meant.
    """
    if not isinstance(task, Distill):
        return None
    if swap.name == "teacher":
        return _other_teacher(task, swap, history)
    plain = task.distillation.canonical()
    if swap.name == "temperature":
        warm = [objective for objective in plain["objectives"] if "temperature" in objective]
        for objective in warm:
            objective["temperature"] = _number(swap)
        if not warm:
            return None
    else:
        plain[swap.name] = swap.value if swap.name == "codec" else _number(swap)
    return task.replace(distillation=checked(Distillation, plain, source=f"--swap {swap}"))


def _other_teacher(task: Distill, swap: Swap, history: History) -> Distill | None:
    meant = [teacher for teacher in task.teachers if teacher.weights.startswith(swap.old)]
    if swap.old and not meant:
        return None
    if len(meant) != 1:
        listed = ", ".join(teacher.weights[:12] for teacher in meant)
        raise ConfigError(f"--swap {swap}: {len(meant)} teachers could be meant ({listed}); give teacher=OLD:NEW")
    found = history.find(swap.value)
    changes: dict[str, Any] = {"architecture": found.task.architecture, "weights": found.result.weights}
    if not found.result.weights:
        raise ConfigError(f"--swap {swap}: that task made no weights")
    teachers = [one.replace(**changes) if one is meant[0] else one for one in task.teachers]
    fields = {name: getattr(task, name) for name in Distill.model_fields} | {"teachers": tuple(teachers)}
    return checked(Distill, fields, source=f"--swap {swap}")


def _number(swap: Swap) -> float:
    try:
        return float(swap.value)
    except ValueError:
        raise ConfigError(f"--swap {swap}: {swap.value!r} is no number") from None
