"""The figures of a report, as PNG bytes. Colors are Okabe and Ito's, which color-blind people can tell apart."""

import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError
from safetensors.numpy import load

from agentkd.artifacts.store import Store
from agentkd.datasets.samples import Dataset, Pixels
from agentkd.names import TaskKey
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import ROUNDS, TABLE_STAGES, Entrant, RoundLesson
from agentkd.report.texts import measure_shown
from agentkd.search.study import TrialOutcome
from agentkd.task import TaskResult
from agentkd.task.judging import Measure, gained

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # labels are words, also those with a dollar
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = {stage: "so^DvP"[index % 6] for index, stage in enumerate(TABLE_STAGES)} | {TABLE_STAGES[-1]: "*"}
LINES = {stage: (":", "-", "--", "-.")[index % 4] for index, stage in enumerate(TABLE_STAGES)}
DPI = 110
ERROR_COLOR = np.array([213, 94, 0], dtype=np.uint8)
NUM_PICTURES = 4
MAX_MAPS = 256 * 2**20


def family_colors(outlook: Outlook) -> dict[str, str]:
    """A color for each family, the same in every figure."""
    return {family: COLORS[index % len(COLORS)] for index, family in enumerate(outlook.trials)}


def pareto_figure(outlook: Outlook, results: dict[TaskKey, TaskResult]) -> bytes:
    """Score against deploy parameters: trials faint, what represents a family after each stage strong, the front as a line."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.add_subplot()
    colors, measure = family_colors(outlook), measure_shown(outlook)
    for family, trials in outlook.trials.items():
        completed = [
            results[key]
            for trial, key in zip(trials, outlook.trial_keys[family], strict=True)
            if trial.outcome is TrialOutcome.COMPLETED
        ]
        axes.scatter(*_points(completed, measure), s=22, color=colors[family], alpha=0.35, linewidths=0)
    for row in outlook.rows:
        axes.scatter(
            *_points([row.entrant.result], measure),
            s=150 if row.stage is TABLE_STAGES[-1] else 60,
            color=colors[row.family],
            marker=MARKERS[row.stage],
            edgecolors="black",
            linewidths=0.6,
            zorder=3,
        )
    front = _front(results.values(), measure)
    if front:
        axes.step(*_points(front, measure), where="post", color="black", linewidth=1, linestyle="--", zorder=2)
    handles: list[Artist] = [Patch(color=colors[family], label=title(family)) for family in outlook.trials]
    handles += [
        axes.scatter([], [], marker=marker, color="white", edgecolors="black", s=60, label=stage.value)
        for stage, marker in MARKERS.items()
    ]
    handles.append(axes.plot([], [], color="black", linestyle="--", linewidth=1, label="Pareto front")[0])
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    axes.set(xlabel="parameters that inference needs (deploy)", ylabel=f"{measure} on the validation split, %")
    if any(result.num_parameters_deploy > 0 for result in results.values()):  # a logarithm of nothing cannot be drawn
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    return as_png(figure)


def search_figure(outlook: Outlook) -> bytes:
    """A panel for each study: every trial's score, the best so far, and the trials that were pruned, infeasible or failed."""
    families = list(outlook.trials)
    figure, panels = _panels(len(families))
    colors, measure = family_colors(outlook), measure_shown(outlook)
    for family, axes in zip(families, panels, strict=False):
        trials = outlook.trials[family]
        completed = [t for t in trials if t.outcome is TrialOutcome.COMPLETED]
        axes.plot(
            [t.number for t in completed], [100 * t.judged_by for t in completed], "o", color=colors[family], label="completed"
        )
        best = np.maximum.accumulate([t.judged_by for t in completed]) if completed else np.array([])
        axes.step([t.number for t in completed], 100 * best, where="post", color="black", linewidth=1, label="best so far")
        pruned = [t for t in trials if t.outcome is TrialOutcome.PRUNED]
        axes.plot([t.number for t in pruned], [100 * t.judged_by for t in pruned], "v", color="gray", label="pruned")
        rest = [t.number for t in trials if t.outcome in (TrialOutcome.INFEASIBLE, TrialOutcome.FAILED)]
        axes.plot(rest, [0] * len(rest), "x", color="gray", label="infeasible or failed")
        axes.set_title(title(family), fontsize=10)
        axes.set(xlabel="trial", ylabel=f"{measure}, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(-3, 100 * max([0.1, *(t.judged_by for t in trials)]) * 1.15)
        axes.grid(alpha=0.3)
    if families:
        panels[0].legend(fontsize=7, frameon=False)
    return as_png(figure)


def curves_figure(outlook: Outlook) -> bytes:
    """A panel for each family: validation score after each epoch, of the network that represents each stage."""
    families = list(outlook.trials)
    figure, panels = _panels(len(families))
    measure = measure_shown(outlook)
    line_colors = dict(zip(TABLE_STAGES, ("black", *COLORS), strict=False))
    for family, axes in zip(families, panels, strict=False):
        drawn: set[TaskKey] = set()
        for row in outlook.rows:
            if row.family != family or row.entrant.key in drawn:
                continue
            drawn.add(row.entrant.key)
            scores = [(epoch.epoch, measure.of(epoch)) for epoch in row.entrant.result.history]
            points = [(epoch, 100 * score) for epoch, score in scores if score is not None]
            color, line = line_colors[row.stage], LINES[row.stage]
            axes.plot(*zip(*points, strict=True), color=color, linestyle=line, marker=".", label=row.stage.value)
        axes.set_title(title(family), fontsize=10)
        axes.set(xlabel="epoch", ylabel=f"{measure}, %")
        axes.grid(alpha=0.3)
        if drawn:
            axes.legend(fontsize=7, frameon=False)
    return as_png(figure)


def teaching_figure(outlook: Outlook) -> bytes:
    """Who taught whom: a column for each round's start, an arrow from each teacher to its student with the gain in mIoU."""
    families = list(outlook.trials)
    colors = family_colors(outlook)
    figure = Figure(figsize=(11, 1.2 + 1.05 * max(1, len(families))), layout="constrained")
    axes = figure.add_subplot()
    columns = {stage: (2.0 * index, 2.0 * index + 1.0) for index, stage in enumerate(ROUNDS)}
    for stage, (left, right) in columns.items():
        name = stage.traits.title.lower()
        before = f"before {name}" if left else "candidates of the search"
        for column, text in ((left, before), (right, f"after {name}")):
            axes.text(column, 0.75, text, ha="center", fontsize=9, color="dimgray")
    rows = {family: -index for index, family in enumerate(families)}
    for stage, (left, right) in columns.items():
        nodes = _nodes([lesson for lesson in outlook.lessons if lesson.stage is stage], rows)
        for lesson in outlook.lessons:
            if lesson.stage is stage:
                _draw_lesson(axes, lesson, nodes, left, right, colors)
    axes.set_xlim(-0.4, 2 * len(ROUNDS) - 0.25)
    axes.set_ylim(-len(families) + 0.2, 1.0)
    axes.axis("off")
    return as_png(figure)


def pictures_figure(outlook: Outlook, dataset: Dataset, store: Store) -> bytes | None:
    """Image, label, round-2 teacher, final student and its errors, for the first samples of the test split."""
    if outlook.winner is None or not outlook.tests:
        return None
    student = outlook.tests[outlook.winner.family]
    shown = [("final network:\n" + title(outlook.winner.family), student)]
    taught = [lesson for lesson in outlook.lessons if lesson.stage is ROUNDS[-1]]
    teacher_family = next((lesson.teachers[0].family for lesson in taught if lesson.student.family == outlook.winner.family), "")
    if not teacher_family and taught:
        shown[0] = ("teacher and final:\n" + title(outlook.winner.family), student)
        teacher_family = taught[0].student.family
        shown.insert(0, ("its student:\n" + title(teacher_family), outlook.tests[teacher_family]))
    elif teacher_family:
        shown.insert(0, ("teacher:\n" + title(teacher_family), outlook.tests[teacher_family]))
    if any(entrant.result.predictions not in store for _, entrant in shown):
        return None  # left out of a bundle
    maps = [(text, _class_maps(store.get(entrant.result.predictions, max_bytes=MAX_MAPS))) for text, entrant in shown]
    names = sorted(maps[-1][1])[:NUM_PICTURES]
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(dataset.colors)] = dataset.colors
    figure = Figure(figsize=(2.3 * (3 + len(maps)), 1.8 * len(names) + 0.7), layout="constrained")
    panels = figure.subplots(len(names), 3 + len(maps), squeeze=False)
    for line, name in zip(panels, names, strict=True):
        number = int(name.partition(".")[2])
        if number not in dataset.splits[student.task.data.validation]:
            raise ValueError(f"there is a class map of image {number}, which the test split does not have")
        sample = dataset.sample(number)
        final = maps[-1][1][name]
        wrong = (final != sample.label) & (sample.label != dataset.ignore_index)
        gray = np.repeat(sample.image.mean(axis=2, keepdims=True).astype(np.uint8) // 2 + 100, 3, axis=2)
        pictures = [("image", sample.image), ("label", palette[sample.label])]
        pictures += [(text, palette[found[name]]) for text, found in maps]
        pictures.append((f"errors ({100 * wrong.mean():.0f} %)", np.where(wrong[..., None], ERROR_COLOR, gray)))
        for axes, (text, pixels) in zip(line, pictures, strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if name == names[0] or text.startswith("errors"):
                axes.set_title(text, fontsize=8)
    handles = [
        Patch(color=tuple(np.array(color) / 255), label=text) for text, color in zip(dataset.classes, dataset.colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=8)
    return as_png(figure)


def _class_maps(data: bytes) -> dict[str, Pixels]:
    """The class maps of an evaluation, by name.

    Raises:
        ValueError: they are none.
    """
    try:
        maps = load(data)
    except SafetensorError as error:
        raise ValueError(f"what was predicted cannot be read: {error}") from None
    if any(found.dtype != np.uint8 or found.ndim != 2 for found in maps.values()):
        raise ValueError("what was predicted is no class maps")
    return maps


def _nodes(lessons: Sequence[RoundLesson], rows: dict[str, int]) -> dict[TaskKey, float]:
    """The height of each network in a round: its family's row, spread where a family has several."""
    members: dict[str, list[TaskKey]] = {}
    for lesson in lessons:
        for entrant in (*lesson.teachers, lesson.student):
            keys = members.setdefault(entrant.family, [])
            if entrant.key not in keys:
                keys.append(entrant.key)
    return {
        key: rows[family] + 0.5 * ((len(keys) - 1) / 2 - position) / max(1, len(keys) - 1) * (len(keys) > 1)
        for family, keys in members.items()
        for position, key in enumerate(keys)
    }


def _draw_lesson(
    axes: Axes, lesson: RoundLesson, nodes: dict[TaskKey, float], left: float, right: float, colors: dict[str, str]
) -> None:
    y = nodes[lesson.student.key]
    for teacher in lesson.teachers:
        _draw_node(axes, left, nodes[teacher.key], teacher, colors)
        arrow = {"arrowstyle": "-|>", "color": colors[teacher.family], "shrinkA": 36, "shrinkB": 36, "linewidth": 1.6}
        axes.annotate("", xy=(right, y), xytext=(left, nodes[teacher.key]), arrowprops=arrow)
    _draw_node(axes, left, y, lesson.student, colors)
    if lesson.taught is None:
        axes.text(right, y, "failed", ha="center", va="center", fontsize=8, color="dimgray")
        return
    _draw_node(axes, right, y, lesson.taught, colors)
    gain = 100 * gained(lesson.student.result, lesson.taught.result)
    verdict = "kept" if lesson.is_kept else "not kept"
    axes.text(
        right + 0.27,
        y,
        f"{gain:+.2f} points\n{verdict}",
        ha="left",
        va="center",
        fontsize=7.5,
        color="black" if lesson.is_kept else "dimgray",
    )


def _draw_node(axes: Axes, x: float, y: float, entrant: Entrant, colors: dict[str, str]) -> None:
    red, green, blue = to_rgb(colors[entrant.family])
    fill = tuple(0.8 + 0.2 * part for part in (red, green, blue))
    result = entrant.result
    name = f"{title(entrant.family).split(' (')[0]}\n{100 * result.judged_by:.1f} %, {result.num_parameters_deploy / 1e6:.2f}M"
    box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": colors[entrant.family]}
    axes.text(x, y, name, ha="center", va="center", fontsize=7, bbox=box, zorder=4)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.axis("off")
    return figure, panels


def _points(results: Sequence[TaskResult], measure: Measure) -> tuple[list[int], list[float]]:
    return [r.num_parameters_deploy for r in results], [100 * measure.must_be_of(r) for r in results]


def _front(results: Iterable[TaskResult], measure: Measure) -> list[TaskResult]:
    """Of all trained networks those that none smaller beats in score, smallest first."""
    score = measure.must_be_of
    kept: list[TaskResult] = []
    trained = [result for result in results if result.weights]
    for result in sorted(trained, key=lambda r: (r.num_parameters_deploy, -score(r))):
        if not kept or score(result) > score(kept[-1]):
            kept.append(result)
    return kept


def as_png(figure: Figure) -> bytes:
    """A figure as a file: the same bytes every time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
