"""The figure of who taught whom."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentkd.names import TaskKey
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import ROUNDS, Entrant, RoundLesson
from agentkd.report.drawing import INK, PAPER, SOFT, WIDTH, Drawing, drawn, family_colors
from agentkd.report.texts import short_count
from agentkd.task.judging import gained

BEFORE, AFTER = 0.0, 1.0


def teaching_figure(outlook: Outlook) -> Drawing:
    """A panel for each round: an arrow from each teacher to its student, with the gain of the student."""
    families, colors = list(outlook.trials), family_colors(outlook)
    height = 0.6 + 0.85 * max(1, len(families))
    figure = Figure(figsize=(WIDTH, height * len(ROUNDS)), layout="constrained")
    rows = {family: -index for index, family in enumerate(families)}
    for stage, axes in zip(ROUNDS, figure.subplots(len(ROUNDS), 1, squeeze=False)[:, 0], strict=True):
        lessons = [lesson for lesson in outlook.lessons if lesson.stage is stage]
        nodes = _nodes(lessons, rows)
        axes.set_title(stage.traits.title, loc="left")
        for column, text in ((BEFORE, "before"), (AFTER, "after")):
            axes.text(column, 0.65, text, ha="center", color=SOFT)
        for lesson in lessons:
            _draw_lesson(axes, lesson, nodes, colors)
        axes.set(xlim=(-0.25, 1.6), ylim=(-len(families) + 0.4, 0.9))
        axes.axis("off")
    return drawn(figure)


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


def _draw_lesson(axes: Axes, lesson: RoundLesson, nodes: dict[TaskKey, float], colors: dict[str, str]) -> None:
    y = nodes[lesson.student.key]
    for teacher in lesson.teachers:
        _draw_node(axes, BEFORE, nodes[teacher.key], teacher, colors)
        arrow = {"arrowstyle": "-|>", "color": colors[teacher.family], "shrinkA": 45, "shrinkB": 45, "linewidth": 1.6}
        axes.annotate("", xy=(AFTER, y), xytext=(BEFORE, nodes[teacher.key]), arrowprops=arrow)
    _draw_node(axes, BEFORE, y, lesson.student, colors)
    if lesson.taught is None:
        axes.text(AFTER, y, "failed", ha="center", va="center", color=SOFT)
        return
    _draw_node(axes, AFTER, y, lesson.taught, colors)
    gain = 100 * gained(lesson.student.result, lesson.taught.result)
    verdict = f"{gain:+.2f} points\n{'kept' if lesson.is_kept else 'not kept'}"
    axes.text(AFTER + 0.25, y, verdict, ha="left", va="center", color=INK if lesson.is_kept else SOFT)


def _draw_node(axes: Axes, x: float, y: float, entrant: Entrant, colors: dict[str, str]) -> None:
    result = entrant.result
    name = title(entrant.family).split(" (")[0]
    text = f"{name}\n{100 * result.judged_by:.1f} %, {short_count(result.num_parameters_deploy)}"
    box = {"boxstyle": "round,pad=0.3", "facecolor": PAPER, "edgecolor": colors[entrant.family], "linewidth": 1.6}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=box, zorder=4)
