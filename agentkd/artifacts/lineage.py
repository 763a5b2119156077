"""Where a network comes from: back to its architecture, data, start, teachers, and what they told, to the beginning. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.own_code import Listing
from agentkd.names import Digest, TaskKey
from agentkd.task import Taught, Training


@dataclass(frozen=True)
class Ancestor:
    """One step back.

    Args:
        relation: what it was for whoever came from it: ``is taught by weights`` ...; empty for the network asked about.
        name: digest of the artifact; of a task that made none, its key.
        record: the task that made it; ``None`` if it came from outside.
        is_repeated: its own ancestors stand further up.
        code: what it is, if it is own code.
    """

    relation: str
    name: Digest | TaskKey
    record: Record | None
    ancestors: tuple["Ancestor", ...] = ()
    is_repeated: bool = False
    code: Listing | None = None

    def walk(self) -> Iterator["Ancestor"]:
        """This and all before it, each as often as it stands in the tree."""
        yield self
        for ancestor in self.ancestors:
            yield from ancestor.walk()


def trace_back(beginning: str, history: History, code: Mapping[Digest, Listing] | None = None) -> Ancestor:
    """The tree of what led to a network, or to anything else that a task made.

    Args:
        beginning: the digest of the artifact or the task's key, or its first characters.
        history: of the run.
        code: the own code of the run, where that is to be shown.

    Raises:
        ConfigError: nothing begins so.
    """
    record = history.find(beginning)
    made = next((one for one in record.result.artifacts if one.startswith(beginning)), record.result.weights)
    return _ancestor("", made or record.task.key, record, _Known(history, code or {}, set()))


@dataclass
class _Known:
    history: History
    code: Mapping[Digest, Listing]
    names: set[Digest | TaskKey]


def _ancestor(relation: str, name: Digest | TaskKey, record: Record | None, known: _Known) -> Ancestor:
    if record is None or name in known.names:
        return Ancestor(relation, name, record, is_repeated=record is not None, code=known.code.get(Digest(name)))
    known.names.add(name)
    history = known.history
    before = [_ancestor(what, needed, history.maker(needed), known) for what, needed in dict.fromkeys(record.task.references())]
    for partner in record.task.partner_tasks():
        other = history.by_task.get(partner.key)
        if other is not None and other.result.weights not in known.names:
            before.append(Ancestor("learned together with", other.result.weights, other, is_repeated=True))
    return Ancestor(relation, name, record, tuple(before))


def describe(ancestor: Ancestor) -> list[str]:
    """Lines on one step: what it is, from what data, how it was taught, what came of it."""
    record = ancestor.record
    if ancestor.code is not None:
        return [str(ancestor.code)]
    if record is None:
        return ["came from outside this run"]
    task, result = record.task, record.result
    seed = f", seed {task.seed}" if isinstance(task, Training) else ""
    lines = [f"{record.label or task.kind} (task {task.key[:12]}{seed})"]
    if ancestor.is_repeated:
        return [*lines, "as above"]
    settings = ", ".join(f"{name}={value}" for name, value in task.architecture.settings.items())
    lines.append(f"{task.architecture.family} for {task.architecture.num_classes} classes: {settings}"[:160])
    lines.append(f"data {task.data.spec} ({task.data.content_digest[:12]})")
    if isinstance(task, Taught):
        lines.append("objectives " + ", ".join(objective.kind for objective in task.distillation.objectives))
    if result.exchange:
        e = result.exchange
        told = f"{e.requests} requests, {e.bytes_received:,} bytes, {e.recorded} from recordings"
        lines.append(f"told {told}" + (f"; recorded as {e.record[:12]}" if e.record else ""))
    if result.epochs:
        lines.append(f"{result.epochs} epochs, mIoU {100 * result.miou:.2f} %, {result.seconds:.0f} s by {record.agent}")
    return lines


def as_data(ancestor: Ancestor) -> dict[str, Any]:
    """The tree as plain data."""
    record = ancestor.record
    return {
        "relation": ancestor.relation,
        "digest": ancestor.name,
        "task": record.task.key if record else None,
        "label": record.label if record else "",
        "code": ancestor.code.as_data() if ancestor.code else None,
        "inputs": record.task.canonical() if record and not ancestor.is_repeated else None,
        "miou": record.result.miou if record else None,
        "exchange": record.result.exchange.canonical() if record and record.result.exchange else None,
        "is_repeated": ancestor.is_repeated,
        "ancestors": [as_data(one) for one in ancestor.ancestors],
    }
