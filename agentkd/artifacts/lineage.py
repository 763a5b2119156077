"""Where a network comes from: back to its architecture, data, start, teachers, and what they told, to the beginning. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.own_code import Listing
from agentkd.names import Digest, TaskKey
from agentkd.task import Limited, Task, Taught, Training

MAX_GENERATIONS = 100
"""How many are shown of a lineage; programs can walk through all."""
MAX_LINE = 160
"""Characters that a picture has room for."""


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
        waiting = [self]
        while waiting:
            step = waiting.pop()
            yield step
            waiting += reversed(step.ancestors)


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
    return _tree(made or record.task.key, record, history, code or {})


@dataclass
class _Growing:
    """A step whose ancestors are being looked for."""

    relation: str
    name: Digest | TaskKey
    record: Record
    left: Iterator[tuple[str, Digest]]
    ancestors: list[Ancestor] = field(default_factory=list)


def _tree(name: Digest | TaskKey, record: Record, history: History, code: Mapping[Digest, Listing]) -> Ancestor:
    """Depth first, however deep: each name once with its own ancestors, and repeated where it stands again."""
    known: set[Digest | TaskKey] = {name}
    growing = [_Growing("", name, record, iter(dict.fromkeys(record.task.references())))]
    while True:
        step = growing[-1]
        for relation, needed in step.left:
            maker = history.maker(needed)
            if maker is not None and needed not in known:
                known.add(needed)
                growing.append(_Growing(relation, needed, maker, iter(dict.fromkeys(maker.task.references()))))
                break
            step.ancestors.append(Ancestor(relation, needed, maker, is_repeated=maker is not None, code=code.get(needed)))
        else:
            for partner in step.record.task.partner_tasks():
                other = history.by_task.get(partner.key)
                if other is not None and other.result.weights not in known:
                    step.ancestors.append(Ancestor("learned together with", other.result.weights, other, is_repeated=True))
            made = Ancestor(step.relation, step.name, step.record, tuple(step.ancestors))
            growing.pop()
            if not growing:
                return made
            growing[-1].ancestors.append(made)


def describe(ancestor: Ancestor, *, most: int | None = MAX_LINE) -> list[str]:
    """Lines on one step: what it is, from what data, how it was taught, what came of it.

    Args:
        ancestor: the step.
        most: so many characters of a network's settings; all of them if there is no limit.
    """
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
    lines.append(f"{task.architecture.family} for {task.architecture.num_classes} classes: {settings}"[:most])
    if task.architecture.heads:
        heads = ", ".join(f"{name} of {count}" for name, count in sorted(task.architecture.heads.items()))
        lines.append(f"head {task.architecture.head} of {heads}")
    lines.append(f"data {task.data.spec} ({task.data.content_digest[:12]})")
    lines += rehearsed(task)
    if isinstance(task, Taught):
        lines.append("objectives " + ", ".join(objective.kind for objective in task.distillation.objectives))
    if result.exchange:
        e = result.exchange
        told = f"{e.requests} requests, {e.bytes_received:,} bytes, {e.recorded} from recordings"
        lines.append(f"told {told}" + (f"; recorded as {e.record[:12]}" if e.record else ""))
    if result.epochs:
        lines.append(f"{result.epochs} epochs, {result.measure.text(result)}, {result.seconds:.0f} s by {record.agent}")
    return lines


def rehearsed(task: Task) -> list[str]:
    """What other heads were kept at while one learned, a line for each."""
    told = []
    for one in task.rehearsals if isinstance(task, Limited) else ():
        where = f"data {one.data.spec} ({one.data.content_digest[:12]})" if one.data else "the images of the lesson"
        told.append(f"head {one.head} rehearsed on {where}, strength {one.strength:g}")
    return told


def as_data(ancestor: Ancestor, generations: int = MAX_GENERATIONS) -> dict[str, Any]:
    """The tree as plain data, so many generations of it; ``is_cut`` where there are more."""
    record = ancestor.record
    return {
        "relation": ancestor.relation,
        "digest": ancestor.name,
        "task": record.task.key if record else None,
        "label": record.label if record else "",
        "code": ancestor.code.as_data() if ancestor.code else None,
        "inputs": record.task.canonical() if record and not ancestor.is_repeated else None,
        "miou": record.result.miou if record else None,
        **({"accuracy": record.result.accuracy} if record and record.result.accuracy is not None else {}),
        "exchange": record.result.exchange.canonical() if record and record.result.exchange else None,
        "is_repeated": ancestor.is_repeated,
        "is_cut": bool(ancestor.ancestors) and not generations,
        "ancestors": [as_data(one, generations - 1) for one in ancestor.ancestors] if generations else [],
    }
