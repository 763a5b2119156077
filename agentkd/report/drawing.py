"""What all figures have in common: one color for each family, one shape for each stage, one width, on light and on dark paper."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Stage
from agentkd.report.texts import short_count

INK, SOFT, PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"
IN_THE_DARK = {INK: "#e8e8e8", SOFT: "#a0a0a0", PAPER: "#16181b"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#b8a900")
"""Okabe and Ito's, which color-blind people can tell apart; the yellow darker, to be seen on white."""
MARKERS = {stage: "so^DvP"[index % 6] for index, stage in enumerate(TABLE_STAGES)} | {TABLE_STAGES[-1]: "*"}
LINES = {stage: (":", "-", "--", "-.")[index % 4] for index, stage in enumerate(TABLE_STAGES)}
WIDTH = 6.4  # inches; on a phone of 400 points a letter of 9 has 7 of them
DPI = 160

matplotlib.use("Agg")
matplotlib.rcParams |= {
    "text.parse_math": False,  # labels are words, also those with a dollar
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
}


@dataclass(frozen=True)
class Drawing:
    """A figure as PNG, on light paper and on dark."""

    light: bytes
    dark: bytes


def family_colors(outlook: Outlook) -> dict[str, str]:
    """A color for each family, the same in every figure."""
    return colors_of(outlook.trials)


def colors_of(families: Iterable[str]) -> dict[str, str]:
    """The same of families in the order in which an experiment names them."""
    return {family: COLORS[index % len(COLORS)] for index, family in enumerate(families)}


def stage_handle(stage: Stage) -> Line2D:
    """A stage in a legend, by its shape alone."""
    return Line2D([], [], linestyle="", marker=MARKERS[stage], color=PAPER, markeredgecolor=INK, label=stage.traits.title)


def count_axis(axes: Axes, counts: Sequence[float], name: str) -> None:
    """Counts of parameters on a logarithmic axis, if any are more than nothing."""
    axes.set_xlabel(name)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))
    if any(count > 0 for count in counts):  # a logarithm of nothing cannot be drawn
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))
        axes.xaxis.set_minor_formatter(NullFormatter())


def panels(count: int, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """So many in two columns."""
    columns = min(2, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.4), layout="constrained")
    found = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in found[count:]:
        unused.axis("off")
    return figure, found


def drawn(figure: Figure) -> Drawing:
    """A figure as files: the same bytes every time. It is of no use afterwards."""
    light = _as_png(figure)
    for artist in figure.findobj():
        _darken(artist)
    return Drawing(light, _as_png(figure))


def _as_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None}, facecolor=figure.get_facecolor())
    return stream.getvalue()


def _darken(artist: Artist) -> None:
    """Exchanges ink and paper, and leaves what has a meaning by its color."""
    if isinstance(artist, Text):
        artist.set_color(_other(artist.get_color()))
        more = [artist.get_bbox_patch(), artist.arrow_patch if isinstance(artist, Annotation) else None]
        for patch in more:
            if patch is not None:
                _darken(patch)
    elif isinstance(artist, Line2D):
        artist.set_markeredgecolor(_other(artist.get_markeredgecolor()))
        artist.set_markerfacecolor(_other(artist.get_markerfacecolor()))
        artist.set_color(_other(artist.get_color()))
    elif isinstance(artist, Patch):
        face, edge = _other(artist.get_facecolor()), _other(artist.get_edgecolor())
        artist.set_facecolor(face)
        artist.set_edgecolor(edge)
    elif isinstance(artist, Collection):
        artist.set_facecolor([_other(color) for color in np.asarray(artist.get_facecolor())])
        artist.set_edgecolor([_other(color) for color in np.asarray(artist.get_edgecolor())])


def _other(color: Any) -> Any:
    """What a color is on dark paper; the same if it is neither ink nor paper, or nothing at all."""
    if isinstance(color, str) and color in ("none", "auto"):
        return color
    found = IN_THE_DARK.get(to_hex(color))
    if found is None or (not isinstance(color, str) and len(color) == 4 and color[3] == 0):
        return color
    return found
