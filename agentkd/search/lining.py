"""The trials of one study in line: which of them the next one may see, and whether they end it. Each trial is counted once."""

from collections.abc import Iterable, Sequence

from agentkd.search.study import Trial, TrialOutcome


class Patience:
    """Counts the trials in a row that were not better than all before, and those that were infeasible.

    Of several objectives better is one to which no trial before is as good in all of them: one more on the front.
    """

    def __init__(self) -> None:
        self._front: list[Trial] = []
        self.since = self.num_infeasible = 0

    def note(self, trial: Trial) -> None:
        """Counts one more trial."""
        self.num_infeasible += trial.outcome is TrialOutcome.INFEASIBLE
        if trial.outcome not in (TrialOutcome.COMPLETED, TrialOutcome.PRUNED):
            return
        is_new = not any(before.is_as_good_as(trial) for before in self._front)
        self.since = 0 if trial.outcome is TrialOutcome.COMPLETED and is_new else self.since + 1
        if is_new:
            self._front = [before for before in self._front if not trial.is_as_good_as(before)] + [trial]


def is_exhausted(seen: Iterable[Trial], *, patience: int, max_infeasible: int) -> bool:
    """Whether the trials seen so far end the study: nothing was better than all before for ``patience`` trials in a row."""
    counted = Patience()
    for trial in seen:
        counted.note(trial)
    return _is_over(counted.since, counted.num_infeasible, patience, max_infeasible)


class TrialLine:
    """Trials by number, those that run among them. What is asked of it takes as long with many trials as with few."""

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: list[Trial] = []
        self._num_running = self._num_infeasible = 0
        self._counted = Patience()  # of the first trials, as far as all of them are finished
        self._after: list[tuple[int, int]] = [(0, 0)]  # after each of those: without improvement in a row, and infeasible
        for trial in trials:
            self.add(trial)

    @property
    def trials(self) -> Sequence[Trial]:
        """All of them, by number."""
        return self._trials

    @property
    def is_running(self) -> bool:
        """Whether one of them is not finished."""
        return self._num_running > 0

    def add(self, trial: Trial) -> None:
        """One more, with the next number."""
        self._trials.append(trial)
        self._count(trial, 1)

    def settle(self, trial: Trial) -> None:
        """What became of a trial that was running."""
        self._count(self._trials[trial.number], -1)
        self._trials[trial.number] = trial
        self._count(trial, 1)

    def visible_limit(self, *, lag: int, num_trials: int) -> int | None:
        """The last trial whose result the next one may see in strict order; ``None`` if it is too early to ask for that.

        Infeasible trials do not count towards ``num_trials``, so how many are asked depends on results; the limit is the smallest
        one, from ``lag`` before the next on, with which the budget has room. -1 means that no result is needed.
        """
        number = len(self._trials)
        for limit in range(max(number - lag, -1), number):
            if limit + 1 >= len(self._after):
                return None
            if number - self._after[limit + 1][1] < num_trials:
                return limit
        return None

    def has_room(self, *, lag: int, num_trials: int) -> bool:
        """Whether one more may be asked for in the order in which results come."""
        return self._num_running < lag and len(self._trials) - self._num_infeasible < num_trials

    def is_exhausted(self, limit: int, *, patience: int, max_infeasible: int) -> bool:
        """Whether the trials up to that number, which are finished, end the study."""
        return _is_over(*self._after[limit + 1], patience, max_infeasible)

    def finished(self) -> list[Trial]:
        """Those that do not run."""
        return [trial for trial in self._trials if trial.outcome is not TrialOutcome.RUNNING]

    def _count(self, trial: Trial, change: int) -> None:
        self._num_running += change * (trial.outcome is TrialOutcome.RUNNING)
        self._num_infeasible += change * (trial.outcome is TrialOutcome.INFEASIBLE)
        while len(self._after) <= len(self._trials):
            following = self._trials[len(self._after) - 1]
            if following.outcome is TrialOutcome.RUNNING:
                return
            self._counted.note(following)
            self._after.append((self._counted.since, self._counted.num_infeasible))


def _is_over(since: int, num_infeasible: int, patience: int, max_infeasible: int) -> bool:
    return (patience > 0 and since >= patience) or num_infeasible >= max_infeasible
