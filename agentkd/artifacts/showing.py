"""What a digest is: a task, what it made or began with, a dataset, own code; and who used it. Pure, but for sizes of files."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.lineage import Ancestor, describe
from agentkd.artifacts.naming import is_beginning, only
from agentkd.artifacts.own_code import Listing
from agentkd.artifacts.store import Store
from agentkd.names import Digest, TaskKey
from agentkd.task import TaskResult

MAX_LISTED = 20
SHOWN = 12
DATA = "dataset"


@dataclass(frozen=True)
class Link:
    """One thing that another needs: what for, its digest or key, and what it is called."""

    relation: str
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.relation} {self.name[:SHOWN]}" + (f" ({self.label})" if self.label else "")


@dataclass(frozen=True)
class Shown:
    """Something of a run.

    Args:
        name: its digest, or key.
        what: in words.
        size_bytes: of the file in the store; ``None`` if there is none.
        record: the task itself, or that which made it; ``None`` if it came from outside.
        is_task: whether the task is meant.
        inputs: what the task reads and learns from.
        made: what it made.
        used_by: tasks that read it, or what the task made.
        code: what it is, if it is own code.
    """

    name: str
    what: str
    size_bytes: int | None = None
    record: Record | None = None
    is_task: bool = False
    inputs: tuple[Link, ...] = ()
    made: tuple[Link, ...] = ()
    used_by: tuple[Link, ...] = ()
    code: Listing | None = None

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        record = self.record
        return {
            "name": self.name,
            "what": self.what,
            "size_bytes": self.size_bytes,
            "task": record.task.key if record else None,
            "label": record.label if record else "",
            "agent": record.agent if record else None,
            "at": record.at if record else None,
            "task_inputs": record.task.canonical() if record and self.is_task else None,
            "result": record.result.canonical() if record and self.is_task else None,
            "inputs": [vars(one) for one in self.inputs],
            "made": [vars(one) for one in self.made],
            "used_by": [vars(one) for one in self.used_by],
            "code": self.code.as_data() if self.code else None,
        }


def shown(beginning: str, history: History, store: Store, code: Mapping[Digest, Listing] | None = None) -> Shown:
    """What is meant by a digest or key, or its first characters.

    Args:
        beginning: what was typed.
        history: of the run.
        store: of the run.
        code: the own code of the run.

    Raises:
        ConfigError: nothing begins so, or several things do, which are listed.
    """
    codes = code or {}
    words = _words(history, codes)
    if is_beginning(beginning):
        words = dict.fromkeys(map(str, store.beginning_with(beginning)), "brought along") | words
    name = only(beginning, {one: (one, text) for one, text in words.items()})
    record = history.by_task.get(TaskKey(name)) or history.maker(Digest(name))
    is_task = TaskKey(name) in history.by_task
    made = tuple(made_by(record.result)) if record and is_task else ()
    sought = {name, *(link.name for link in made)}
    path = None if is_task else store.path(Digest(name))
    return Shown(
        name=name,
        what=words[name],
        size_bytes=path.stat().st_size if path is not None and Digest(name) in store else None,
        record=record,
        is_task=is_task,
        inputs=tuple(_inputs(record, history)) if record and is_task else (),
        made=made,
        used_by=tuple(_used(sought, history)),
        code=codes.get(Digest(name)),
    )


def made_by(result: TaskResult) -> Iterator[Link]:
    """What a task made, and what each of it is."""
    record = result.exchange.record if result.exchange else ""
    roles = {
        "weights": result.weights,
        "class maps": result.predictions,
        "knowledge": result.knowledge,
        "loss of every step": result.trace,
        "recorded lesson": record,
    }
    yield from (Link(role, digest, "") for role, digest in roles.items() if digest)


def lines(found: Shown) -> Iterator[str]:
    """Something of a run, for people."""
    size = f", {found.size_bytes:,} bytes" if found.size_bytes is not None else ""
    yield f"{found.name}: {found.what}{size}"
    if found.code is not None:
        yield f"  {found.code}"
    record = found.record
    if record is not None:
        yield from (f"  {line}" for line in describe(Ancestor("", TaskKey(found.name), record), most=None))
        how = f"in attempt {record.attempts} by {record.agent}, recorded at {record.at}"
        yield f"  {record.result.status} {how}"
        if record.result.error_text:
            yield f"  {record.result.error_code}: {record.result.error_text.splitlines()[0]}"
    for head, links in (("inputs", found.inputs), ("made", found.made), ("used by", found.used_by)):
        if links:
            yield f"{head}:"
            yield from (f"  {link}" for link in links[:MAX_LISTED])
            if len(links) > MAX_LISTED:
                yield f"  ... and {len(links) - MAX_LISTED} more (--format json lists all)"


def _words(history: History, codes: Mapping[Digest, Listing]) -> dict[str, str]:
    """What everything is, by its name."""
    found: dict[str, str] = {}
    for record in history.by_task.values():
        task = record.task
        found.setdefault(task.data.content_digest, f"{DATA} {task.data.spec}")
        for relation, digest in task.references():
            found.setdefault(digest, "own code" if digest in codes else f"brought along ({relation})")
    for record in history.by_task.values():
        label = record.label or record.task.kind
        for link in made_by(record.result):
            found[link.name] = f"{link.relation} of {label}"
    return found | {key: f"task, {record.label or record.task.kind}" for key, record in history.by_task.items()}


def _inputs(record: Record, history: History) -> Iterator[Link]:
    task = record.task
    yield Link("looks at", task.data.content_digest, task.data.spec)
    for relation, digest in dict.fromkeys(task.references()):
        maker = history.maker(digest)
        yield Link(relation, digest, (maker.label or maker.task.kind) if maker else "")


def _used(sought: set[str], history: History) -> Iterator[Link]:
    """Tasks that read one of these."""
    uses: dict[str, dict[str, None]] = defaultdict(dict)
    for record in history.by_task.values():
        for relation, digest in record.task.references():
            if digest in sought:
                uses[record.task.key][relation] = None
        if record.task.data.content_digest in sought:
            uses[record.task.key]["looks at"] = None
    for key, relations in uses.items():
        record = history.by_task[TaskKey(key)]
        yield Link(f"{', '.join(relations)}: task", key, record.label or record.task.kind)
