"""A user's own rules, asked in the coordinator's process, which is the user's. What they say is recorded, and decides."""

from collections.abc import Iterable, Sequence

from agentkd.artifacts.journal import Journal
from agentkd.code import loading
from agentkd.code.running import told
from agentkd.errors import ConfigError
from agentkd.names import Digest, TaskKey
from agentkd.pipeline.choosing import Answers, Question
from agentkd.search.selection import Candidate

META = "choices"


def noted(journal: Journal) -> dict[Digest, tuple[TaskKey, ...]]:
    """What users' own rules said in a run, by question.

    Raises:
        ArtifactError: what is noted cannot be read.
    """
    return journal.get_meta(META, dict[Digest, tuple[TaskKey, ...]]) or {}


def ask(questions: Iterable[Question], journal: Journal) -> Answers:
    """Has questions answered by the code that they name, and writes down what it says, beside what was said before.

    Raises:
        ConfigError: the code is not here, it raised something, or said what is none of the candidates.
        StorageError: it cannot be written.
    """
    answers = noted(journal)
    for question in questions:
        answers[question.key] = _answer(question)
    journal.set_meta(META, answers)
    return answers


def _answer(question: Question) -> tuple[TaskKey, ...]:
    rule, candidates = loading.load(question.rule, question.code), list(question.candidates)
    with told(f"{question.rule}: it cannot choose"):
        said = rule(candidates) if question.student is None else rule(question.student, candidates)
        taken = tuple(said) if isinstance(said, Sequence) else (said,)
        named = tuple(dict.fromkeys(one.task for one in taken if isinstance(one, Candidate)))
    expected = "one of the candidates" if question.student is None else "a list of those that teach, one or more"
    if len(named) < len(taken) or not named or not set(named) <= {one.task for one in candidates}:
        raise ConfigError(f"{question.rule} returned {type(said).__name__}, not what it was given; expected {expected}")
    if question.student is None and len(named) > 1:
        raise ConfigError(f"{question.rule} returned {len(named)} candidates; expected {expected}")
    return named
