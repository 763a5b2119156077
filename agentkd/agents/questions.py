"""What a student asks its teachers, and what becomes of each question: decided here, purely.

Events go in with a monotonic time, a list of actions comes out; no sockets, queues, clocks, tensors or files. ``interview``
performs the actions. A step is wanted, each of its questions is asked (or repeated from what lies here), asked again as often
as needed, and the step is delivered once all have been answered; or the lesson ends with a reason, within ``wait_s``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from agentkd.errors import (
    ArtifactError,
    ContractError,
    DatasetError,
    ExchangeError,
    LocalProtocolError,
    ProtocolError,
    StorageError,
    TaskCancelledError,
)
from agentkd.messages.bodies import ErrorReply, PeerAddress
from agentkd.names import TeacherId

WEIGHTS = -1  # asked for instead of a step: the teacher's weights themselves


class Judgement(Enum):
    """What a refusal says about the question."""

    NOT_READY = "who was asked does not have it yet, or not any more: asked again soon"
    SURROUNDINGS = "something about who was asked, not about the question: asked again as if nothing had been said"
    LACKS_DATA = "views mean nothing to who was asked: asked again at once, with the images; with them, it is the task's fault"
    FAULT = "the task is to blame: the lesson ends"


# By code and, for ``protocol``, by rule; an entry without a rule stands for all others. What is not listed is NOT_READY if it
# is said to be retryable, and SURROUNDINGS if not.
JUDGEMENTS: dict[tuple[str, str], Judgement] = {
    (ArtifactError.code, ""): Judgement.NOT_READY,
    (ExchangeError.code, ""): Judgement.NOT_READY,
    (TaskCancelledError.code, ""): Judgement.NOT_READY,
    (StorageError.code, ""): Judgement.SURROUNDINGS,  # an agent of the coordinator's ends by it, which stops the run
    (DatasetError.code, ""): Judgement.LACKS_DATA,
    (ContractError.code, ""): Judgement.FAULT,
    (ProtocolError.code, ""): Judgement.FAULT,
}


def judge(refusal: ErrorReply) -> Judgement:
    """What a refusal says about the question that it answers."""
    otherwise = Judgement.NOT_READY if refusal.retryable else Judgement.SURROUNDINGS
    return JUDGEMENTS.get((refusal.code, refusal.rule)) or JUDGEMENTS.get((refusal.code, "")) or otherwise


@dataclass(frozen=True)
class Conduct:
    """How a kind of lesson asks. Times are in seconds.

    Args:
        wait_s: how long a step may be waited for.
        ahead: how many steps are asked for when one is wanted, that one included.
        silence_s: who has not answered for so long is asked again.
        not_ready_s: who was not ready is asked again after this, at the latest after ``silence_s``.
        damaged_s: the same for an answer that was damaged on the way.
        absent_s: when a teacher that is nowhere yet is looked for again; ``None`` if that ends the lesson.
        can_send_images: whether the images can go along with a question.
    """

    wait_s: float
    ahead: int = 1
    silence_s: float = 10.0
    not_ready_s: float = 10.0
    damaged_s: float = 10.0
    absent_s: float | None = None
    can_send_images: bool = False


@dataclass(frozen=True, order=True)
class Question:
    """What a teacher makes of a step; or its ``WEIGHTS``."""

    teacher: TeacherId
    step: int


# Events.


@dataclass(frozen=True)
class Want:
    """A step is needed now. ``here``: those questions that need not be asked. A peek leaves the step to be wanted again."""

    step: int
    here: frozenset[Question] = frozenset()
    is_peek: bool = False


@dataclass(frozen=True)
class WantWeights:
    """A teacher's weights are needed now."""

    teacher: TeacherId


@dataclass(frozen=True)
class Answered:
    """An answer to an asking has come, and can be fetched."""

    asking: int


@dataclass(frozen=True)
class Taken:
    """An answer has been fetched and is sound."""

    question: Question


@dataclass(frozen=True)
class Damaged:
    """An answer was lost or damaged on the way; or it cannot come by that way, and there are others to ask for it by at once."""

    question: Question
    by_way: bool = False


@dataclass(frozen=True)
class Refused:
    """The answer to an asking is an error."""

    asking: int
    refusal: ErrorReply


@dataclass(frozen=True)
class Moved:
    """A teacher is elsewhere now, or is somewhere at last."""

    teacher: TeacherId
    place: PeerAddress


@dataclass(frozen=True)
class Tick:
    """Time has passed. ``here``: those of the ``due`` questions that need not be asked any more."""

    here: frozenset[Question] = frozenset()


Event = Want | WantWeights | Answered | Taken | Damaged | Refused | Moved | Tick


# Actions.


@dataclass(frozen=True)
class Ask:
    """Put a question to a teacher. Its answers are answers to ``asking``."""

    asking: int
    question: Question
    place: PeerAddress
    has_images: bool = False


@dataclass(frozen=True)
class Repeat:
    """Take the answer from what lies here."""

    question: Question


@dataclass(frozen=True)
class Take:
    """Fetch the answer; then say ``Taken`` or ``Damaged``."""

    question: Question


@dataclass(frozen=True)
class Drop:
    """Forget an answer: its step has been passed over."""

    question: Question


@dataclass(frozen=True)
class Deliver:
    """All answers of the wanted step are there."""

    step: int


@dataclass(frozen=True)
class Reach:
    """Connect to where a teacher is now."""

    place: PeerAddress


@dataclass(frozen=True)
class Part:
    """A teacher is there no more: hang up."""

    place: PeerAddress


@dataclass(frozen=True)
class Lack:
    """The end: nobody is there to be asked."""

    question: Question


@dataclass(frozen=True)
class Fail:
    """The end: a teacher says that the task is to blame."""

    question: Question
    place: PeerAddress
    refusal: ErrorReply


@dataclass(frozen=True)
class GiveUp:
    """The end: these questions of the wanted step have waited too long for those who are at these places."""

    missing: tuple[Question, ...]
    places: tuple[PeerAddress, ...]
    waited_s: float


Action = Ask | Repeat | Take | Drop | Deliver | Reach | Part | Lack | Fail | GiveUp


@dataclass(frozen=True)
class _Asking:
    question: Question
    has_images: bool


class Questions:
    """The questions of one lesson.

    Args:
        places: where each teacher is, in the order in which they are asked; ``None`` if it is nowhere (yet).
        num_steps: of the lesson; nothing is asked beyond.
    """

    def __init__(self, places: Mapping[TeacherId, PeerAddress | None], conduct: Conduct, *, num_steps: int) -> None:
        self._places, self._conduct, self._num_steps = dict(places), conduct, num_steps
        self._due: dict[Question, float] = {}  # open questions, and when each is asked (again)
        self._askings: dict[int, _Asking] = {}
        self._answered: set[Question] = set()
        self._without_data: set[TeacherId] = set()
        self._wanted: tuple[Question, ...] = ()
        self._is_peek = self._is_over = False
        self._since: float  # the time at which it was wanted
        self._next_step = self._last_asking = 0

    @property
    def places(self) -> tuple[PeerAddress, ...]:
        """Where those teachers are that are somewhere."""
        return tuple(place for place in self._places.values() if place is not None)

    def knows(self, asking: int) -> bool:
        """Whether an answer to this asking would still be taken."""
        return asking in self._askings

    def unasked(self, step: int) -> tuple[Question, ...]:
        """What wanting a step would ask."""
        last = min(step + self._conduct.ahead, self._num_steps)
        window = (Question(teacher, ahead) for ahead in range(step, last) for teacher in self._places)
        return tuple(question for question in window if question not in self._due and question not in self._answered)

    def due(self, now: float) -> tuple[Question, ...]:
        """What the next tick would ask again."""
        return tuple(question for question, at in self._due.items() if at <= now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes note of an event at a time, and says what is to be done. Nothing more once the lesson has ended.

        Raises:
            LocalProtocolError: a step is wanted that was delivered before, or after the end.
        """
        if isinstance(event, Want | WantWeights):
            return self._want(event, now)
        if self._is_over:
            return []
        if isinstance(event, Tick):
            return self._tick(event, now)
        if isinstance(event, Moved):
            return self._move(event, now)
        if isinstance(event, Answered):
            asking = self._askings.get(event.asking)
            return [Take(asking.question)] if asking else []
        if isinstance(event, Refused):
            return self._refuse(event, now)
        if event.question not in self._due:
            return []
        if isinstance(event, Damaged):
            return self._again(event.question, 0.0 if event.by_way else self._conduct.damaged_s, now)
        self._close(event.question)
        self._answered.add(event.question)
        return self._deliver()

    def _want(self, event: Want | WantWeights, now: float) -> list[Action]:
        if self._is_over or self._wanted:
            raise LocalProtocolError(f"a lesson that {'has ended' if self._is_over else 'waits for another'} is asked for a step")
        actions: list[Action] = []
        if isinstance(event, WantWeights):
            self._wanted, self._is_peek = (Question(event.teacher, WEIGHTS),), False
            unasked: Iterable[Question] = self._wanted
            here: frozenset[Question] = frozenset()
        else:
            if event.step < self._next_step:
                raise LocalProtocolError(f"step {event.step} of a lesson is over; the next one is {self._next_step}")
            actions += self._pass_over(event.step)
            self._wanted = tuple(Question(teacher, event.step) for teacher in self._places)
            self._is_peek, here = event.is_peek, event.here
            unasked = self.unasked(event.step)
        self._since = now
        return actions + self._ask(unasked, here, now) + self._deliver()

    def _pass_over(self, step: int) -> list[Action]:
        """What was asked for steps that are not wanted any more is forgotten."""
        dropped = sorted(question for question in self._answered if question.step < step)
        self._answered.difference_update(dropped)
        for question in [question for question in self._due if question.step < step]:
            self._close(question)
        return [Drop(question) for question in dropped]

    def _tick(self, event: Tick, now: float) -> list[Action]:
        if self._wanted and now - self._since > self._conduct.wait_s:
            self._is_over = True
            missing = tuple(question for question in self._wanted if question not in self._answered)
            places = (self._places[question.teacher] for question in missing)
            return [GiveUp(missing, tuple(place for place in places if place is not None), self._conduct.wait_s)]
        return self._ask(self.due(now), event.here, now) + self._deliver()

    def _move(self, event: Moved, now: float) -> list[Action]:
        """Whoever was asked is asked anew at once where it is now; what is still said at the old place is not listened to."""
        old = self._places.get(event.teacher)
        if event.teacher not in self._places or old == event.place:
            return []
        self._places[event.teacher] = event.place
        self._askings = {number: asking for number, asking in self._askings.items() if asking.question.teacher != event.teacher}
        actions: list[Action] = [Part(old)] if old is not None else []
        open_ones = [question for question in self._due if question.teacher == event.teacher]
        return [*actions, Reach(event.place), *self._ask(open_ones, frozenset(), now)]

    def _refuse(self, event: Refused, now: float) -> list[Action]:
        asking = self._askings.get(event.asking)
        if asking is None:
            return []
        question, judgement = asking.question, judge(event.refusal)
        if judgement is Judgement.LACKS_DATA:
            can_send = self._conduct.can_send_images and not asking.has_images and question.step != WEIGHTS
            if can_send:
                self._without_data.add(question.teacher)
                self._forget_askings(question)
                return self._ask([question], frozenset(), now)
            judgement = Judgement.FAULT
        if judgement is Judgement.FAULT:
            self._is_over = True
            place = self._places[question.teacher]
            assert place is not None
            return [Fail(question, place, event.refusal)]
        return self._again(question, self._conduct.not_ready_s, now) if judgement is Judgement.NOT_READY else []

    def _again(self, question: Question, after_s: float, now: float) -> list[Action]:
        """A question is due after a while, or earlier if it was due earlier."""
        self._due[question] = min(self._due[question], now + after_s)
        return self._ask([question], frozenset(), now) if self._due[question] <= now else []

    def _ask(self, questions: Iterable[Question], here: frozenset[Question], now: float) -> list[Action]:
        actions: list[Action] = []
        for question in questions:
            place = self._places[question.teacher]
            if question in here:
                self._close(question)
                self._answered.add(question)
                actions.append(Repeat(question))
            elif place is not None:
                self._last_asking += 1
                has_images = question.teacher in self._without_data and question.step != WEIGHTS
                self._askings[self._last_asking] = _Asking(question, has_images)
                self._due[question] = now + self._conduct.silence_s
                actions.append(Ask(self._last_asking, question, place, has_images))
            elif self._conduct.absent_s is not None:
                self._due[question] = now + self._conduct.absent_s
            else:
                self._is_over = True
                return [*actions, Lack(question)]
        return actions

    def _deliver(self) -> list[Action]:
        if self._is_over or not self._wanted or not self._answered.issuperset(self._wanted):
            return []
        delivered, self._wanted = self._wanted, ()
        step = delivered[0].step
        if not self._is_peek:
            self._answered.difference_update(delivered)
            self._next_step = max(self._next_step, step + 1)
        return [Deliver(step)]

    def _close(self, question: Question) -> None:
        self._due.pop(question, None)
        self._forget_askings(question)

    def _forget_askings(self, question: Question) -> None:
        self._askings = {number: asking for number, asking in self._askings.items() if asking.question != question}
