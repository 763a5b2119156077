"""The figure of what KD-NAS is for: each family's way from its published network to its final one, in size and in test score."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Entrant
from agentkd.report.drawing import INK, MARKERS, WIDTH, Drawing, count_axis, drawn, family_colors, stage_handle
from agentkd.report.headline import Headline, headline
from agentkd.report.texts import short_count

Point = tuple[float, float]


def journey_figure(outlook: Outlook) -> Drawing | None:
    """Test mIoU (or accuracy) against total parameters, an arrow a stage; ``None`` before all was looked at on a test split."""
    found = headline(outlook)
    if found is None:
        return None
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.add_subplot()
    colors = family_colors(outlook)
    for family, color in colors.items():
        points: list[Point] = []
        for row in outlook.rows:
            if row.family == family and row.entrant.key in outlook.tested:
                points.append(_point(row.entrant, outlook, found))
                axes.plot(*points[-1], MARKERS[row.stage], color=color, markersize=7, markeredgecolor=INK, markeredgewidth=0.5)
        for before, after in pairwise(points):
            if before != after:
                arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.6, "shrinkA": 5, "shrinkB": 5, "alpha": 0.85}
                axes.annotate("", xy=after, xytext=before, arrowprops=arrow)
        if points:
            name = title(family).split(" (")[0]
            axes.annotate(name, points[0], xytext=(0, 9), textcoords="offset points", color=color, fontsize=9, ha="center")
    _draw_headline(axes, found, outlook)
    sizes = [_point(row.entrant, outlook, found)[0] for row in outlook.rows if row.entrant.key in outlook.tested]
    count_axis(axes, sizes, "total parameters (fewer to the left)")
    axes.margins(0.14, 0.2)
    axes.set_ylabel(f"{found.measure} on the test split, %")
    figure.legend(handles=[*map(stage_handle, TABLE_STAGES)], loc="outside lower center", ncols=len(TABLE_STAGES))
    axes.grid(alpha=0.3)
    size = f"{100 * abs(found.saved):.0f} % {'fewer' if found.saved >= 0 else 'more'} parameters"
    axes.set_title(f"{size}, {100 * found.gain:+.1f} points of {found.measure}", fontsize=13, loc="left")
    return drawn(figure)


def _point(entrant: Entrant, outlook: Outlook, found: Headline) -> Point:
    score = found.measure.must_be_of(outlook.tested[entrant.key].result)
    return float(max(1, entrant.result.num_parameters_total)), 100 * score


def _draw_headline(axes: Axes, found: Headline, outlook: Outlook) -> None:
    """Rings around the two that the headline compares, each with its name."""
    for entrant, name, below in ((found.baseline, "best baseline", -36), (found.winner, "winner", 18)):
        x, y = _point(entrant, outlook, found)
        axes.plot(x, y, "o", markersize=17, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.6)
        text = f"{name}\n{short_count(entrant.result.num_parameters_total)}, {y:.1f} %"
        axes.annotate(text, (x, y), xytext=(0, below), textcoords="offset points", ha="center", fontsize=9.5, weight="bold")
