"""What came out of a run, in a line: the winner against the best baseline on the test split, over all seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import Entrant, RoundLesson, Stage
from agentkd.report.texts import short_count, spread
from agentkd.task import TaskResult
from agentkd.task.judging import Measure, measure_of


@dataclass(frozen=True)
class Headline:
    """The winner of one seed beside that baseline which does best on the test split.

    Args:
        winner_score: in [0, 1], on the test split; likewise ``baseline_score``.
        measure: what these are: of a run of classifiers accuracy, else mIoU.
    """

    winner: Entrant
    baseline: Entrant
    winner_score: float
    baseline_score: float
    measure: Measure

    @property
    def saved(self) -> float:
        """The share of the baseline's total parameters that the winner does without."""
        return 1 - self.winner.result.num_parameters_total / max(1, self.baseline.result.num_parameters_total)

    @property
    def gain(self) -> float:
        """Test score more than the baseline's."""
        return self.winner_score - self.baseline_score


def headline(outlook: Outlook) -> Headline | None:
    """The headline of one seed; ``None`` while it is not finished, or if its baselines were not looked at on a test split."""
    tested = {key: found.result for key, found in outlook.tested.items()}
    baselines = [row.entrant for row in outlook.rows if row.stage is Stage.BASELINE and row.entrant.key in tested]
    if outlook.winner is None or outlook.winner.key not in tested or len(baselines) < len(outlook.trials):
        return None
    measure = measure_of(tested[e.key] for e in (outlook.winner, *baselines))
    scores = {e.key: measure.must_be_of(tested[e.key]) for e in (outlook.winner, *baselines)}
    best = max(baselines, key=lambda e: (scores[e.key], e.key))
    return Headline(outlook.winner, best, scores[outlook.winner.key], scores[best.key], measure)


def headline_text(outlook: Outlook) -> str:
    """The headline for people; of several seeds also their mean and standard deviation. Empty while there is none."""
    found = headline(outlook)
    if found is None:
        return ""
    winner, baseline = _named(found.winner, found.winner_score), _named(found.baseline, found.baseline_score)
    gain = f"{100 * found.gain:+.2f} points{_of(found)}"
    text = f"{winner}, against {baseline} of the best baseline: {_compared(found.saved)}, {gain}."
    every = [one for one in map(headline, (outlook, *outlook.repeats)) if one is not None]
    if len(every) < 2:
        return text
    saved, gains = spread([100 * one.saved for one in every]), spread([100 * one.gain for one in every], sign=True)
    return f"Seed {outlook.seed}: {text} Over {len(every)} seeds: {saved} % fewer parameters, {gains} points{_of(found)}."


def teaching_text(outlook: Outlook) -> str:
    """What the teachers were worth: lessons against as many epochs alone. Empty without a control arm."""
    pairs = [pair for one in (outlook, *outlook.repeats) for pair in _pairs(one.lessons, one)]
    if not pairs:
        return ""
    measure = measure_of(result for pair in pairs for result in pair)
    gains = [measure.must_be_of(taught) - measure.must_be_of(alone) for taught, alone in pairs]
    ahead = sum(gain > 0 for gain in gains)
    mean = spread([100 * gain for gain in gains], sign=True)
    how_often = f"ahead in {ahead} of {len(gains)} lessons"
    return f"With a teacher, against as many epochs alone: {mean} points of test {measure}; {how_often}."


def _pairs(lessons: Sequence[RoundLesson], outlook: Outlook) -> list[tuple[TaskResult, TaskResult]]:
    """What came of each lesson on the test split, and of as many epochs alone."""
    pairs = [(lesson.taught, lesson.alone) for lesson in lessons if lesson.taught and lesson.alone]
    tested = outlook.tested
    return [(tested[a.key].result, tested[b.key].result) for a, b in pairs if a.key in tested and b.key in tested]


def _named(entrant: Entrant, score: float) -> str:
    return f"{title(entrant.family)} with {short_count(entrant.result.num_parameters_total)} parameters, {100 * score:.2f} %"


def _of(found: Headline) -> str:
    """Points are of mIoU unless something else is said."""
    return "" if found.measure is Measure.MIOU else f" of {found.measure}"


def _compared(saved: float) -> str:
    return f"{100 * abs(saved):.1f} % {'fewer' if saved >= 0 else 'more'} parameters"
