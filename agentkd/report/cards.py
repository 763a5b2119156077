"""Model cards: what a network is, what it was made from, how well it does, and what it is not for (Mitchell et al. 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.lineage import rehearsed, trace_back
from agentkd.artifacts.own_code import Listing
from agentkd.networks.families import title
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE, Evaluate, Taught
from agentkd.task.judging import Measure
from agentkd.visible import visible


def card(
    record: Record,
    history: History,
    classes: tuple[str, ...] = (),
    code: Sequence[Listing] = (),
    heads: Mapping[str, tuple[str, ...]] | None = None,
) -> str:
    """A model card in Markdown for the network that a task made.

    Args:
        record: of the task.
        history: of the run.
        classes: what they are called, if that is known.
        code: the own code of the run.
        heads: of a network with several: what the classes of each that has learned are called.
    """
    task, result = record.task, record.result
    looks = [
        other
        for other in history.by_task.values()
        if isinstance(other.task, Evaluate) and other.task.initial_weights == result.weights
    ]
    tests = [look.result for look in looks if look.task.architecture.head == task.architecture.head]
    others = [look for look in looks if look.task.architecture.head != task.architecture.head]
    measure = result.measure
    what = "classification of whole images" if measure is Measure.ACCURACY else "semantic segmentation"
    lines = [
        f"# {title(task.architecture.family)}, {record.label or task.kind}",
        "",
        f"Weights `{result.weights}`, made by task `{task.key}`.",
        "",
        "## What it is",
        "",
        f"A network for {what} into {task.architecture.num_classes} classes" + (f": {', '.join(classes)}." if classes else "."),
        *_heads(record, heads or {}),
        f"Images are {task.architecture.images_told} in [0, 1], then normalized: {task.architecture.normalization}.",
        "",
        *_table({name: str(value) for name, value in task.architecture.settings.items()}, "setting"),
        "",
        f"{result.num_parameters_deploy:,} parameters when deployed, {result.num_parameters_total:,} while training, "
        f"{result.num_macs:,} multiply-accumulates for an image of the dataset.",
        "",
        "## What it was made from",
        "",
        f"Data `{task.data.spec}`, content `{task.data.content_digest}`, split `{task.data.train}`.",
        "",
        *(f"* {line}" for line in rehearsed(task)),
        *_origin(record, history),
        "",
        *_code(record, code),
        "## How well it does",
        "",
        f"Validation {measure.text(result)} (split `{task.data.validation}`)."
        if result.class_iou
        else "Nobody looked when it was made.",
        *(f"Test {test.measure.text(test)}." for test in tests),
        *(
            f"Test of head {look.task.architecture.head}: {look.result.measure.text(look.result)} on `{look.task.data.spec}`."
            for look in others
        ),
        "",
        *_ious(tests[0].class_iou if tests else result.class_iou, classes),
        "",
        "## What it is not for",
        "",
        "It was measured on these data alone. On images that are unlike them it can be wrong and sure of itself; assess it first",
        "(`agent.assess(data)`). Nothing that depends on people's safety may rest on it without a person who looks.",
        "",
    ]
    return visible("\n".join(lines))


def _heads(record: Record, known: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The heads of a network that has several."""
    task = record.task
    if not task.architecture.heads:
        return []
    rows = {
        name: ", ".join(known.get(name, ())) or f"has learned nothing that is known, room for {count}"
        for name, count in sorted(task.architecture.heads.items())
    }
    said = f"It has a head for each task; what is told of it here is of head {task.architecture.head}."
    return [said, "", *_table(rows, "head", "classes"), ""]


def _code(record: Record, code: Sequence[Listing]) -> list[str]:
    """The own code that made it."""
    used = {digest for _, digest in record.task.references()}
    shown = [one for one in code if one.digest in used]
    if not shown:
        return []
    lines = ["Own code, which runs where the network is built, trained or opened; it is kept with the run:", ""]
    for one in shown:
        files = ", ".join(f"`{file}` ({count} lines)" for file, count in one.lines.items()) or "its source is not here"
        lines.append(f"* `{one.digest}` of {', '.join(f'`{name}`' for name in one.names)}: {files}")
    return [*lines, ""]


def _origin(record: Record, history: History) -> list[str]:
    lines = []
    for step in trace_back(record.task.key, history).ancestors:
        if step.relation in (RUNS_CODE, TAUGHT_BY_CODE):
            continue
        origin = step.record.label if step.record and step.record.label else "from outside this run"
        lines.append(f"* {step.relation} `{step.name[:12]}` ({origin})")
    task = record.task
    if isinstance(task, Taught):
        for objective in task.distillation.objectives:
            plain: dict[str, Any] = objective.canonical()
            lines.append(f"* objective {plain.pop('kind')}: " + ", ".join(f"{name} {value}" for name, value in plain.items()))
    return lines or ["Trained from the beginning, without a teacher."]


def _ious(values: tuple[float | None, ...], classes: tuple[str, ...]) -> list[str]:
    names = classes if len(classes) == len(values) else tuple(str(number) for number in range(len(values)))
    return _table({n: "-" if v is None else f"{100 * v:.2f} %" for n, v in zip(names, values, strict=True)}, "class", "IoU")


def _table(rows: dict[str, str], name: str, value: str = "value") -> list[str]:
    return [f"| {name} | {value} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows.items())]
