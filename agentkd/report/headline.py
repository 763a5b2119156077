"""What came out of a run, in a line: the winner against the best baseline on the test split, over all seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import Entrant, RoundLesson, Stage
from agentkd.report.texts import short_count, spread


@dataclass(frozen=True)
class Headline:
    """The winner of one seed beside that baseline which does best on the test split.

    Args:
        winner_miou: in [0, 1], on the test split; likewise ``baseline_miou``.
    """

    winner: Entrant
    baseline: Entrant
    winner_miou: float
    baseline_miou: float

    @property
    def saved(self) -> float:
        """The share of the baseline's total parameters that the winner does without."""
        return 1 - self.winner.result.num_parameters_total / max(1, self.baseline.result.num_parameters_total)

    @property
    def gain(self) -> float:
        """Test mIoU more than the baseline's."""
        return self.winner_miou - self.baseline_miou


def headline(outlook: Outlook) -> Headline | None:
    """The headline of one seed; ``None`` while it is not finished, or if its baselines were not looked at on a test split."""
    tested = {key: found.result.miou for key, found in outlook.tested.items()}
    baselines = [row.entrant for row in outlook.rows if row.stage is Stage.BASELINE and row.entrant.key in tested]
    if outlook.winner is None or outlook.winner.key not in tested or len(baselines) < len(outlook.trials):
        return None
    best = max(baselines, key=lambda e: (tested[e.key], e.key))
    return Headline(outlook.winner, best, tested[outlook.winner.key], tested[best.key])


def headline_text(outlook: Outlook) -> str:
    """The headline for people; of several seeds also their mean and standard deviation. Empty while there is none."""
    found = headline(outlook)
    if found is None:
        return ""
    winner, baseline = _named(found.winner, found.winner_miou), _named(found.baseline, found.baseline_miou)
    text = f"{winner}, against {baseline} of the best baseline: {_compared(found.saved)}, {100 * found.gain:+.2f} points."
    every = [one for one in map(headline, (outlook, *outlook.repeats)) if one is not None]
    if len(every) < 2:
        return text
    saved, gain = spread([100 * one.saved for one in every]), spread([100 * one.gain for one in every], sign=True)
    return f"Seed {outlook.seed}: {text} Over {len(every)} seeds: {saved} % fewer parameters, {gain} points."


def teaching_text(outlook: Outlook) -> str:
    """What the teachers were worth: lessons against as many epochs alone. Empty without a control arm."""
    gains = [gain for one in (outlook, *outlook.repeats) for gain in _gains(one.lessons, one)]
    if not gains:
        return ""
    ahead = sum(gain > 0 for gain in gains)
    mean = spread([100 * gain for gain in gains], sign=True)
    return f"With a teacher, against as many epochs alone: {mean} points of test mIoU; ahead in {ahead} of {len(gains)} lessons."


def _gains(lessons: Sequence[RoundLesson], outlook: Outlook) -> list[float]:
    pairs = [(lesson.taught, lesson.alone) for lesson in lessons if lesson.taught and lesson.alone]
    tested = outlook.tested
    return [tested[a.key].result.miou - tested[b.key].result.miou for a, b in pairs if a.key in tested and b.key in tested]


def _named(entrant: Entrant, miou: float) -> str:
    return f"{title(entrant.family)} with {short_count(entrant.result.num_parameters_total)} parameters, {100 * miou:.2f} %"


def _compared(saved: float) -> str:
    return f"{100 * abs(saved):.1f} % {'fewer' if saved >= 0 else 'more'} parameters"
