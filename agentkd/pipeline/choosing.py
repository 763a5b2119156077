"""Who goes on and who teaches, by the rules of an experiment.

A user's own rule never runs in a plan: the plan asks, the answer is recorded, and the plan is made again with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agentkd import canonical
from agentkd.experiment import RoundConfig
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.pipeline.stages import Entrant
from agentkd.search.selection import Candidate, Choice, choose, is_kept, rank, slack, with_measurements
from agentkd.search.settings import Select
from agentkd.task.judging import gained, measure_of

Answers = Mapping[Digest, tuple[TaskKey, ...]]


@dataclass(frozen=True)
class Question:
    """What a user's own rule is asked.

    Args:
        rule: its path, found in ``code``.
        candidates: of which it takes some: one of them unless there is a student.
        student: who is to be taught by those that it takes.
    """

    rule: str
    code: Digest
    candidates: tuple[Candidate, ...]
    student: Candidate | None = None

    @property
    def key(self) -> Digest:
        """Under which the answer is recorded."""
        return canonical.digest(asdict(self, dict_factory=_without_no_accuracy))


def _without_no_accuracy(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of what is no classifier there was nothing to say when the first answers were recorded."""
    return {name: value for name, value in fields if (name, value) != ("accuracy", None)}


@dataclass(frozen=True)
class Chosen:
    """Who goes on, and the choice with the reasons for each candidate."""

    entrant: Entrant
    choice: Choice


@dataclass(frozen=True)
class Weighed:
    """Whether a student goes on as it was taught, and why."""

    is_kept: bool
    reason: str


@dataclass
class Chooser:
    """Chooses among entrants, and notes what cannot be chosen yet.

    Args:
        codes: of the user's own rules, by path.
        answers: what those said so far: the keys of the tasks taken, by ``Question.key``.
        questions: what is to be asked now.
    """

    select: Select
    codes: Mapping[str, Digest] = field(default_factory=dict)
    answers: Answers = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)

    def anew(self) -> "Chooser":
        """The same, with nothing to be asked yet."""
        return replace(self, questions=[])

    def choose(self, entrants: Iterable[Entrant]) -> Chosen | None:
        """The one that goes on; ``None`` while the user's rule has not said."""
        by_key = {entrant.key: entrant for entrant in entrants}
        ranked = rank(entrant.candidate for entrant in by_key.values())
        rule = self.select.own_rule
        if not rule:
            choice = choose(ranked, self.select)
            return Chosen(by_key[choice.task], choice)
        taken = self._ask(rule, ranked)
        if not taken:
            return None
        reasons = {c.task: f"{rule} took another" for c in ranked} | {taken[0]: f"{rule} took it"}
        return Chosen(by_key[taken[0]], with_measurements(Choice(taken[0], reasons), ranked))

    def weigh(self, student: Entrant, taught: Entrant) -> Weighed | None:
        """What becomes of a lesson; ``None`` while the user's rule has not said."""
        gain = gained(student.candidate, taught.candidate)
        text, allowed, rule = f"{100 * gain:+.2f} points", slack(self.select), self.select.own_rule
        if rule:
            taken = self._ask(rule, [student.candidate, taught.candidate])
            return Weighed(taught.key in taken, f"{text}; {rule} decided") if taken else None
        kept = is_kept(student.candidate, taught.candidate, self.select)
        if gain < 0 and allowed:
            text += f", {'within' if kept else 'more than'} the {100 * allowed:.2f} that do not count"
        return Weighed(kept, text)

    def lead(self, entrants: Sequence[Entrant], config: RoundConfig) -> Entrant:
        """The one that teaches where one does: the most of what is counted, or the best score."""
        if config.teachers == "largest":
            score = measure_of(e.result for e in entrants).must_be_of
            return max(entrants, key=lambda e: (e.candidate.costs(self.select.count), score(e.result), e.key))
        return best_of(entrants)

    def teachers_of(self, student: Entrant, entrants: Sequence[Entrant], lead: Entrant, config: RoundConfig) -> list[Entrant]:
        """Who teaches a student; nobody while a user's rule has not said. Who has nobody else is taught by ``lead``."""
        others = [e for e in entrants if e.key != student.key]
        if config.has_one_teacher or not others:
            return [lead]
        if not config.own_rule:
            return others
        by_key = {entrant.key: entrant for entrant in others}
        return [by_key[key] for key in self._ask(config.own_rule, [e.candidate for e in others], student.candidate)]

    def students(
        self, lead: Entrant, winner: Entrant, pareto: Sequence[Entrant], ranked: Sequence[Entrant], count: int
    ) -> list[Entrant]:
        """Candidates of the set that are smaller than who teaches: the search's winner, then the best ones.

        Without one, smaller trials; without those, the teacher teaches itself: a family whose best candidate is also its smallest
        takes part in round 1 too, by self-distillation (Furlanello et al. 2018).
        """
        largest = lead.candidate.costs(self.select.count)
        for pool in (pareto, ranked):
            smaller = [e for e in pool if e.candidate.costs(self.select.count) < largest]
            if smaller:
                return sorted(smaller, key=lambda e: e.key != winner.key)[:count]
        return [lead]

    def _ask(self, rule: str, candidates: Sequence[Candidate], student: Candidate | None = None) -> tuple[TaskKey, ...]:
        question = Question(rule, self.codes.get(rule, NO_DIGEST), tuple(candidates), student)
        taken = self.answers.get(question.key, ())
        if taken and set(taken) <= {candidate.task for candidate in candidates}:
            return taken
        self.questions.append(question)
        return ()


def best_of(entrants: Iterable[Entrant]) -> Entrant:
    """The entrant with the best score; of equals the smaller."""
    by_key = {entrant.key: entrant for entrant in entrants}
    return by_key[rank(e.candidate for e in by_key.values())[0].task]
