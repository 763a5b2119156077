"""What a search looks for: what its trials are, what the sampler is told of them, and which of them are candidates. Pure."""

import statistics
from collections.abc import Sequence

from agentkd.experiment import Experiment
from agentkd.pipeline.stages import Entrant
from agentkd.recipe import Distillation
from agentkd.search.selection import Candidate, pareto_set
from agentkd.search.settings import Count
from agentkd.task import Distill, Train


def costs_of(experiment: Experiment) -> tuple[Count, ...]:
    """What the objective counts besides the score; nothing if it is that alone."""
    search = experiment.search
    return (search.costs or (experiment.select.count,)) if search.objective in ("scalarized", "pareto") else ()


def num_costs(experiment: Experiment) -> int:
    """How many objectives the sampler is told of besides the first."""
    return len(costs_of(experiment)) if experiment.search.objective == "pareto" else 0


def measures_latency(experiment: Experiment) -> bool:
    """Whether a choice, an objective or a limit looks at how long networks take, so that tasks are to say it."""
    return experiment.search.max_latency_ratio > 0 or "latency" in (experiment.select.count, *costs_of(experiment))


def scores_of(experiment: Experiment, trial: Candidate, baseline: Candidate, *, violation: float) -> tuple[float, ...]:
    """What the sampler is told of a trial; nothing if it is its score alone. Costs are relative to the baseline's.

    Args:
        experiment: whose search it is.
        trial: as it came out; the latency of what is too large is not known.
        baseline: of the family.
        violation: by how much the trial is over its limits, which stands for what is not known.
    """
    relative = []
    for count in costs_of(experiment):
        cost, whole = trial.costs(count), baseline.costs(count)
        relative.append(cost / whole if cost and whole else 1 + max(violation, 0.0))
    if experiment.search.objective == "scalarized":
        return (_score(trial) - experiment.search.cost_weight * statistics.fmean(relative),)
    return (_score(trial), *relative) if relative else ()


def _score(trial: Candidate) -> float:
    return trial.measure.must_be_of(trial)


def front_counts(experiment: Experiment) -> tuple[Count, ...]:
    """What the set that goes on to round 1 trades the score against."""
    return costs_of(experiment) if experiment.search.objective == "pareto" else ("deploy", "macs")


def candidates_of(experiment: Experiment, ranked: Sequence[Entrant]) -> list[Entrant]:
    """Those of the finished networks of a search among which is chosen: all, or the front."""
    if experiment.search.objective != "pareto":
        return list(ranked)
    by_key = {entrant.key: entrant for entrant in ranked}
    return [by_key[candidate.task] for candidate in pareto_set((e.candidate for e in ranked), costs_of(experiment))]


def distillation_of(experiment: Experiment) -> Distillation:
    """How the baseline teaches in trials that are lessons."""
    return experiment.search.lesson or experiment.round1.distillation


def as_lesson(task: Train, teacher: Entrant, distillation: Distillation) -> Distill:
    """A trial whose network learns from the family's baseline beside the labels."""
    return Distill(**task.with_or_without_teachers, teachers=(teacher.as_teacher(),), distillation=distillation)
