"""The figures of scores: against size, trial by trial, and epoch by epoch."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from agentkd.names import TaskKey
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES
from agentkd.report.drawing import (
    INK,
    LINES,
    MARKERS,
    SOFT,
    WIDTH,
    Drawing,
    count_axis,
    drawn,
    family_colors,
    panels,
    stage_handle,
)
from agentkd.report.texts import measure_shown
from agentkd.search.study import TrialOutcome
from agentkd.task import TaskResult
from agentkd.task.judging import Measure

MANY = 100  # trials of a study, from which on points lie over each other


def pareto_figure(outlook: Outlook, results: dict[TaskKey, TaskResult]) -> Drawing:
    """Score against deploy parameters: trials faint, what represents a family after each stage strong, the front as a line."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.add_subplot()
    colors, measure = family_colors(outlook), measure_shown(outlook)
    for family, trials in outlook.trials.items():
        completed = [
            results[key]
            for trial, key in zip(trials, outlook.trial_keys[family], strict=True)
            if trial.outcome is TrialOutcome.COMPLETED
        ]
        axes.scatter(*_points(completed, measure), s=18, color=colors[family], alpha=0.35, linewidths=0)
    for row in outlook.rows:
        axes.scatter(
            *_points([row.entrant.result], measure),
            s=130 if row.stage is TABLE_STAGES[-1] else 50,
            color=colors[row.family],
            marker=MARKERS[row.stage],
            edgecolors=INK,
            linewidths=0.6,
            zorder=3,
        )
    front = _front(results.values(), measure)
    handles: list[Artist] = [Patch(color=colors[family], label=title(family)) for family in outlook.trials]
    handles += map(stage_handle, TABLE_STAGES)
    if front:
        handles += axes.step(
            *_points(front, measure), where="post", color=INK, linewidth=1, linestyle="--", zorder=2, label="Pareto front"
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    count_axis(axes, [result.num_parameters_deploy for result in results.values()], "parameters that inference needs (deploy)")
    axes.set_ylabel(f"{measure} on the validation split, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return drawn(figure)


def search_figure(outlook: Outlook) -> Drawing:
    """A panel for each study: every trial's score, the best so far, and the trials that were pruned, infeasible or failed."""
    families = list(outlook.trials)
    figure, places = panels(len(families))
    colors, measure = family_colors(outlook), measure_shown(outlook)
    handles: list[Artist] = []
    for family, axes in zip(families, places, strict=False):
        trials = outlook.trials[family]
        completed = [t for t in trials if t.outcome is TrialOutcome.COMPLETED]
        numbers, scores = [t.number for t in completed], [100 * t.judged_by for t in completed]
        small = len(numbers) > MANY
        axes.plot(numbers, scores, "o", markersize=2.5 if small else 4, alpha=0.6 if small else 1.0, color=colors[family])
        handles = [Line2D([], [], linestyle="", marker="o", markersize=4, color=INK, label="completed")]
        best = np.maximum.accumulate(scores) if scores else np.array([])
        handles += axes.step(numbers, best, where="post", color=INK, linewidth=1, label="best so far")
        pruned = [t for t in trials if t.outcome is TrialOutcome.PRUNED]
        told = [100 * t.judged_by for t in pruned]
        handles += axes.plot([t.number for t in pruned], told, "v", markersize=4, color=SOFT, label="pruned")
        for outcome, mark in ((TrialOutcome.INFEASIBLE, "x"), (TrialOutcome.FAILED, "+")):
            ended = [t.number for t in trials if t.outcome is outcome]
            handles += axes.plot(ended, [0] * len(ended), mark, markersize=5, color=SOFT, label=outcome.value)
        axes.set_title(title(family))
        axes.set(xlabel="trial", ylabel=f"{measure}, %")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylim(-3, 100 * max([0.1, *(t.judged_by for t in trials)]) * 1.15)
        axes.grid(alpha=0.3)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return drawn(figure)


def curves_figure(outlook: Outlook) -> Drawing:
    """A panel for each family: validation score after each epoch, of the network that represents each stage."""
    families = list(outlook.trials)
    figure, places = panels(len(families))
    colors, measure = family_colors(outlook), measure_shown(outlook)
    for family, axes in zip(families, places, strict=False):
        shown: set[TaskKey] = set()
        for row in outlook.rows:
            if row.family != family or row.entrant.key in shown:
                continue
            shown.add(row.entrant.key)
            scores = [(epoch.epoch, measure.of(epoch)) for epoch in row.entrant.result.history]
            points = [(epoch, 100 * score) for epoch, score in scores if score is not None]
            axes.plot(
                *zip(*points, strict=True),
                color=colors[family],
                linestyle=LINES[row.stage],
                marker=MARKERS[row.stage],
                markersize=4,
                markevery=max(1, len(points) // 6),
                label=row.stage.traits.title,
            )
        axes.set_title(title(family))
        axes.set(xlabel="epoch", ylabel=f"{measure}, %")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if shown:
            axes.legend(fontsize=8, loc="lower right")
    return drawn(figure)


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
