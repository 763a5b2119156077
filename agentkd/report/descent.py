"""The figure of a network's lineage: what it started from and who taught it, from left to right."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentkd.artifacts.lineage import Ancestor
from agentkd.names import Digest, TaskKey
from agentkd.networks.families import title
from agentkd.report.drawing import INK, PAPER, SOFT, Drawing, colors_of, drawn
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE

TAUGHT = "is taught by weights"
WIDTH, HEIGHT = 1.9, 1.0
MAX_COLUMNS, MAX_ROWS = 30, 60
Place = tuple[float, float]
Name = Digest | TaskKey


def descent_figure(root: Ancestor, colors: dict[str, str] | None = None) -> Drawing | None:
    """The lineage of a network; ``None`` if it has none, trained from the beginning without a teacher, or one too large.

    Own code is not shown: the card and ``agentkd lineage`` say it. ``colors`` are those of families elsewhere.
    """
    if not _before(root):
        return None
    depths = _depths(root)
    columns: dict[int, list[Name]] = {}
    for name, depth in depths.items():
        columns.setdefault(depth, []).append(name)
    deepest, tallest = max(columns), max(len(column) for column in columns.values())
    if deepest > MAX_COLUMNS or tallest > MAX_ROWS:
        return None
    steps = {step.name: step for step in root.walk() if not step.is_repeated}
    figure = Figure(figsize=(WIDTH * (deepest + 1), HEIGHT * tallest + 0.6), layout="constrained")
    axes = figure.add_subplot()
    places: dict[Name, Place] = {
        name: (float(deepest - depth), (len(column) - 1) / 2 - row)
        for depth, column in columns.items()
        for row, name in enumerate(column)
    }
    shown = [step for step in steps.values() if step.name in places]
    families = dict.fromkeys(step.record.task.architecture.family for step in shown if step.record)
    known = colors_of(dict.fromkeys([*(colors or {}), *families])) | (colors or {})
    for step in shown:
        _draw(axes, step, places, known[step.record.task.architecture.family] if step.record else SOFT)
        for before in _before(step):
            _connect(axes, before, places[before.name], places[step.name])
    axes.set(xlim=(-0.55, deepest + 0.55), ylim=(-tallest / 2 - 0.2, tallest / 2 + 0.2))
    axes.axis("off")
    return drawn(figure)


def _before(step: Ancestor) -> list[Ancestor]:
    """What a step comes from, own code aside."""
    return [one for one in step.ancestors if one.relation not in (RUNS_CODE, TAUGHT_BY_CODE)]


def _depths(root: Ancestor) -> dict[Name, int]:
    """How many steps each artifact lies before the network, by the longest way, so that arrows go to the right.

    Weights that came of themselves, as an average of one network does, lie where they first stand.
    """
    ancestors = {step.name: [one.name for one in _before(step)] for step in root.walk() if not step.is_repeated}
    finished: dict[Name, None] = {}
    path: dict[Name, list[Name]] = {root.name: list(ancestors[root.name])}
    while path:
        name, left = next(reversed(path.items()))
        if not left:
            del path[name]
            finished[name] = None
        elif (before := left.pop()) in path:
            ancestors[name] = [one for one in ancestors[name] if one != before]
        elif before not in finished:
            path[before] = list(ancestors.get(before, ()))
    depths = dict.fromkeys(reversed(finished), 0)
    for name in depths:
        for before in ancestors.get(name, ()):
            depths[before] = max(depths[before], depths[name] + 1)
    return depths


def _draw(axes: Axes, step: Ancestor, places: dict[Name, Place], color: str) -> None:
    x, y = places[step.name]
    if step.record is None:
        text = f"from outside\n{step.name[:8]}"
    else:
        what = textwrap.shorten(step.record.label.split(": ")[0] or str(step.record.task.kind), 34, placeholder="...")
        family = title(step.record.task.architecture.family).split(" (")[0]
        text = f"{family}, {100 * step.record.result.miou:.1f} %\n{textwrap.fill(what, 22)}\n{step.name[:8]}"
    box = {"boxstyle": "round,pad=0.3", "facecolor": PAPER, "edgecolor": color, "linewidth": 1.6}
    axes.text(x, y, text, ha="center", va="center", fontsize=7, bbox=box, zorder=4)


def _connect(axes: Axes, before: Ancestor, start: Place, end: Place) -> None:
    taught = before.relation == TAUGHT
    same_row = start[1] == end[1]
    arrow = {
        "arrowstyle": "-|>",
        "color": INK if taught else SOFT,
        "linestyle": "-" if taught else "--",
        "shrinkA": 40,
        "shrinkB": 40,
        "connectionstyle": f"arc3,rad={(0.12 if taught else -0.12) if same_row else 0}",
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
