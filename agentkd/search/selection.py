"""Which of the networks found go on: the set that trades score against cost, and the one that a rule takes, with reasons."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agentkd.names import TaskKey
from agentkd.search.settings import Count, Select
from agentkd.task.judging import Judged, measure_of


@dataclass(frozen=True)
class Candidate(Judged):
    """A trained network as selection sees it.

    Args:
        task: the key of the task that made it.
        miou: on the validation split, in [0, 1]; ``class_iou`` likewise for each class, ``None`` where none was to be seen.
        accuracy: likewise, of a classifier of whole images; ``None`` of any other. Candidates are compared by it if all have one.
        latency_ms: of one image; 0 where nobody measured it.
        scores: of the trainings with other seeds, if it was confirmed by some: then ``accuracy`` is their mean, or ``miou`` where
            there is none.
    """

    task: TaskKey
    miou: float
    total_parameters: int
    deploy_parameters: int
    num_macs: int
    family: str = ""
    class_iou: tuple[float | None, ...] = ()
    latency_ms: float = 0.0
    scores: tuple[float, ...] = ()
    accuracy: float | None = None

    def costs(self, count: Count) -> float:
        """What it costs, in what is counted."""
        costs = {
            "total": self.total_parameters,
            "deploy": self.deploy_parameters,
            "macs": self.num_macs,
            "latency": self.latency_ms,
        }
        return costs[count]

    @property
    def confirmed_text(self) -> str:
        """Mean and standard deviation over its other seeds, in percent; empty if it has none."""
        if not self.scores:
            return ""
        deviation = f" ± {_points(statistics.stdev(self.scores))}" if len(self.scores) > 1 else ""
        seeds = f"{len(self.scores)} other seed{'s' if len(self.scores) > 1 else ''}"
        return f"mean {_points(statistics.fmean(self.scores))}{deviation} % over {seeds}"

    @property
    def latency_text(self) -> str:
        """What one image takes; empty if nobody measured it."""
        return f"{self.latency_ms:.3g} ms" if self.latency_ms else ""


@dataclass(frozen=True)
class Choice:
    """Which of several goes on.

    Args:
        reasons: by task, why it was chosen or why not, in a few words; the candidates in the order of their rank.
    """

    task: TaskKey
    reasons: dict[TaskKey, str]

    @property
    def reason(self) -> str:
        """Why that one."""
        return self.reasons[self.task]


def pareto_set(candidates: Iterable[Candidate], counts: Sequence[Count] = ("deploy", "macs")) -> list[Candidate]:
    """The candidates that no other beats in score without costing more in something of what is counted; best score first."""
    ranked = rank(candidates)
    measure = measure_of(ranked)
    front: list[tuple[Candidate, tuple[float, ...]]] = []
    for candidate in ranked:
        point = (-measure.must_be_of(candidate), *(candidate.costs(count) for count in counts))
        if not any(_dominates(other, point) for _, other in front):  # who beats it is on the front, or beaten from there
            front = [(one, other) for one, other in front if not _dominates(point, other)] + [(candidate, point)]
    return [candidate for candidate, _ in front]


def rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best score first, by what ``measure_of`` says of them; of equals the smaller, then the earlier key: the order is total."""
    unique = {candidate.task: candidate for candidate in candidates}.values()
    measure = measure_of(unique)
    return sorted(unique, key=lambda c: (-measure.must_be_of(c), c.deploy_parameters, c.num_macs, c.task))


def choose(candidates: Iterable[Candidate], select: Select) -> Choice:
    """The one of the candidates, of which there is at least one, that the rule takes."""
    ranked = rank(candidates)
    return with_measurements(RULES[select.rule](ranked, select), ranked)


def with_measurements(choice: Choice, candidates: Iterable[Candidate]) -> Choice:
    """The choice, whose reasons also say what no table has: the mean over other seeds, and latency, where there are any."""
    told = {c.task: "; ".join(filter(None, (choice.reasons[c.task], c.confirmed_text, c.latency_text))) for c in candidates}
    return Choice(choice.task, choice.reasons | told)


def is_kept(student: Candidate, taught: Candidate, select: Select) -> bool:
    """Whether a student goes on as it was taught: it is of the same size, so a loss within that of lessons does not count."""
    score = measure_of([student, taught]).must_be_of
    return score(taught) >= score(student) - slack(select)


def slack(select: Select) -> float:
    """How much of its score a lesson may lose and is kept."""
    return select.lesson_tolerance if select.rule == "smallest_within" else 0.0


def _best(ranked: Sequence[Candidate], select: Select) -> Choice:
    best, measure, behind = ranked[0], measure_of(ranked), _behind_best(ranked)
    reasons = {c.task: f"{_points(behind[c.task])} points behind the best" for c in ranked}
    reasons |= {c.task: "as good, and no smaller" for c in ranked if not behind[c.task]}
    return Choice(best.task, reasons | {best.task: f"the best {measure}"})


def _smallest_within(ranked: Sequence[Candidate], select: Select) -> Choice:
    """The fewest of what is counted among those within ``tolerance`` of the best score; of equally small ones the best."""
    best, count, measure, lost = ranked[0], select.count, measure_of(ranked), _behind_best(ranked)
    within = [c for c in ranked if measure.must_be_of(c) >= measure.must_be_of(best) - select.tolerance]
    chosen = min(within, key=lambda c: c.costs(count))  # the first, thus the best, of equals
    allowed = f"{_points(select.tolerance)} points"
    reasons = {c.task: f"{_points(lost[c.task])} points behind the best, more than the {allowed} allowed" for c in ranked}
    for c in within:
        times = _ratio(c, chosen, count)
        is_larger = c.costs(count) > chosen.costs(count)
        reasons[c.task] = (
            f"{times:.2f} times the {_named(count)} of the one chosen" if is_larger else f"as small, with no better {measure}"
        )
    behind = f"{_points(lost[chosen.task])} points behind the best" if chosen is not best else f"the best {measure} itself"
    reasons[chosen.task] = f"the fewest {_named(count)} within {allowed} of the best {measure} ({behind})"
    return Choice(chosen.task, reasons)


def _pareto_knee(ranked: Sequence[Candidate], select: Select) -> Choice:
    """The knee of the score over what is counted: farthest above the line from the front's smallest to its best.

    Costs are compared as logarithms, both axes scaled to [0, 1] between the two ends. Source: Das, "On characterizing the 'knee'
    of the Pareto curve based on Normal-Boundary Intersection", 1999.
    """
    count, measure = select.count, measure_of(ranked)
    score = measure.must_be_of
    front = [c for c in ranked if not any(score(o) >= score(c) and o.costs(count) < c.costs(count) for o in ranked)]
    best, smallest = front[0], min(front, key=lambda c: c.costs(count))
    width = math.log(_ratio(best, smallest, count))
    height = score(best) - score(smallest)

    def above(c: Candidate) -> float:
        if not width or not height:
            return 0.0
        return (score(c) - score(smallest)) / height - math.log(_ratio(c, smallest, count)) / width

    chosen = max(front, key=above)
    reasons = {c.task: f"another is as good with fewer {_named(count)}" for c in ranked}
    reasons |= {c.task: f"on the front, {above(c):.2f} above its chord; the knee is {above(chosen):.2f} above" for c in front}
    ends = (
        "the farthest above the line from the smallest to the best"
        if above(chosen)
        else f"the front has no bend, so the best {measure}"
    )
    return Choice(chosen.task, reasons | {chosen.task: f"the knee of the front: {ends}"})


RULES: dict[str, Callable[[Sequence[Candidate], Select], Choice]] = {
    "best": _best,
    "smallest_within": _smallest_within,
    "pareto_knee": _pareto_knee,
}


def _behind_best(ranked: Sequence[Candidate]) -> dict[TaskKey, float]:
    """By task, how far its score is behind the first one's."""
    measure = measure_of(ranked)
    return {c.task: measure.must_be_of(ranked[0]) - measure.must_be_of(c) for c in ranked}


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether something of a is less, and nothing more."""
    return a != b and all(ours <= theirs for ours, theirs in zip(a, b, strict=True))


def _ratio(a: Candidate, b: Candidate, count: Count) -> float:
    """Of what both cost; what costs nothing is taken to cost the least that counts."""
    least = 1e-6 if count == "latency" else 1
    return max(least, a.costs(count)) / max(least, b.costs(count))


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _named(count: Count) -> str:
    return {"total": "parameters", "deploy": "deploy parameters", "macs": "MACs", "latency": "milliseconds"}[count]
