"""The report of a community's folder: what scripts had done in it, and what came of it. It has no experiment, so no table."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.lineage import trace_back
from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import generations
from agentkd.networks.families import title
from agentkd.report.descent import descent_figure
from agentkd.report.drawing import WIDTH, Drawing, colors_of, drawn
from agentkd.report.page import rendered, save
from agentkd.report.texts import short_count
from agentkd.task import Status
from agentkd.task.judging import measure_of

SHOWN = 12
MAX_CURVES = 60


@dataclass(frozen=True)
class TaskRow:
    """A task as people read it."""

    label: str
    kind: str
    network: str
    agent: str
    teachers: str
    score: str
    epochs: int
    seconds: float
    weights: str
    key: str
    at: str
    failure: str


@dataclass(frozen=True)
class CommunityReport:
    """Where the page is, and the rows of its table."""

    page: Path
    rows: tuple[TaskRow, ...]


def is_of_community(folder: RunFolder) -> bool:
    """Whether a folder has records of no experiment.

    Raises:
        ArtifactError: it is no run folder, or its journal cannot be read.
    """
    with Journal(folder.must_exist().journal, read_only=True) as journal:
        return generations.present(journal, []) is None


def write_community_report(folder: RunFolder, place: Path | None = None) -> CommunityReport:
    """Writes the report of a community's folder, into ``report`` in it if no other place is given.

    Raises:
        ArtifactError: the folder cannot be read, or no report can be made of its records.
        StorageError: the report cannot be written.
    """
    with Journal(folder.must_exist().journal, read_only=True) as journal:
        records = list(journal.records())
    with made_of(folder.place, "report"):
        rows = tuple(map(_row, records))
        drawings = {"curves": _curves(records), "lineage": _lineage(records)}
        shown = {name: drawing for name, drawing in drawings.items() if drawing}
        page = rendered(
            "community.html.jinja",
            shown,
            [record.result for record in records],
            name=folder.place.resolve().name,
            rows=rows,
            agents=sorted({row.agent for row in rows}),
        )
    texts = {"table.csv": _csv(rows), "report.html": page}
    return CommunityReport(save(folder, place or folder.report, drawings, texts), rows)


def _row(record: Record) -> TaskRow:
    task, result = record.task, record.result
    size = f", {short_count(result.num_parameters_total)}" if result.num_parameters_total else ""
    score = measure_of([result]).of(result) if result.weights or result.epochs else None
    return TaskRow(
        label=record.label or task.kind,
        kind=task.kind,
        network=f"{title(task.architecture.family)}{size}",
        agent=record.agent,
        teachers=", ".join(f"{agent} ({weights[:SHOWN]})" for weights, agent in record.teachers),
        score="" if score is None else f"{100 * score:.2f} %",
        epochs=result.epochs,
        seconds=result.seconds,
        weights=result.weights[:SHOWN],
        key=task.key[:SHOWN],
        at=record.at,
        failure="" if result.status is Status.COMPLETED else result.error_text or result.status.value,
    )


def _csv(rows: tuple[TaskRow, ...]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(TaskRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return stream.getvalue()


def _curves(records: list[Record]) -> Drawing | None:
    """A line for each training; of very many the newest."""
    trained = [record for record in records if len(record.result.history) > 1][-MAX_CURVES:]
    if not trained:
        return None
    colors = colors_of(dict.fromkeys(record.task.architecture.family for record in trained))
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    named = set[str]()
    for record in trained:
        family, measure = record.task.architecture.family, measure_of([record.result])
        scores = [(epoch.epoch, measure.of(epoch)) for epoch in record.result.history]
        points = [(epoch, 100 * score) for epoch, score in scores if score is not None]
        if points:
            name = "" if family in named else title(family)
            axes.plot(*zip(*points, strict=True), color=colors[family], marker=".", linewidth=1, label=name or "_")
            named.add(family)
    axes.set(xlabel="epoch", ylabel="mIoU or accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return drawn(figure)


def _lineage(records: list[Record]) -> Drawing | None:
    """Where the last network comes from that started from others, or was taught."""
    history = History(records)
    newest = (record.task.key for record in reversed(records) if record.result.weights)
    found = (descent_figure(trace_back(key, history)) for key in newest)
    return next((drawing for drawing in found if drawing), None)
