"""What a student asks its teachers: every race as events in and actions out, and random histories of them."""

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentkd.agents.questions import (
    JUDGEMENTS,
    WEIGHTS,
    Answered,
    Ask,
    Conduct,
    Damaged,
    Deliver,
    Drop,
    Event,
    Fail,
    GiveUp,
    Judgement,
    Lack,
    Moved,
    Part,
    Question,
    Questions,
    Reach,
    Refused,
    Repeat,
    Take,
    Taken,
    Tick,
    Want,
    WantWeights,
    judge,
)
from agentkd.errors import LocalProtocolError, Rule
from agentkd.messages.bodies import ErrorReply, PeerAddress

A, B = "aa" * 32, "bb" * 32
HERE, THERE, ELSEWHERE = (
    PeerAddress(agent=name, endpoints=(f"tcp://127.0.0.1:{port}",), public_key=name[0] * 40)
    for port, name in enumerate(("here", "there", "elsewhere"), start=1)
)
LESSON = Conduct(wait_s=300.0, ahead=2, can_send_images=True)
MUTUAL = Conduct(wait_s=300.0, not_ready_s=0.2, damaged_s=0.0, absent_s=0.2)


def refusal(code: str, *, retryable: bool = False, rule: str = "") -> ErrorReply:
    return ErrorReply(code=code, rule=rule, text="no", retryable=retryable)


def one_teacher(conduct: Conduct = LESSON) -> Questions:
    return Questions({A: HERE}, conduct, num_steps=8)


def wanted(conduct: Conduct = LESSON) -> Questions:
    """One teacher, asked for step 0 (and 1) at time 0: askings 1 (and 2)."""
    questions = one_teacher(conduct)
    questions.handle(Want(0), 0.0)
    return questions


def test_a_wanted_step_is_asked_for_ahead_and_delivered_once_all_have_answered() -> None:
    questions = Questions({A: HERE, B: THERE}, LESSON, num_steps=8)
    assert questions.handle(Want(0), 0.0) == [
        Ask(1, Question(A, 0), HERE),
        Ask(2, Question(B, 0), THERE),
        Ask(3, Question(A, 1), HERE),
        Ask(4, Question(B, 1), THERE),
    ]
    assert questions.handle(Answered(1), 0.1) == [Take(Question(A, 0))]
    assert questions.handle(Taken(Question(A, 0)), 0.1) == []
    assert questions.handle(Taken(Question(B, 1)), 0.2) == [], "of a step that is not wanted yet"
    assert questions.handle(Taken(Question(B, 0)), 0.2) == [Deliver(0)]
    assert questions.handle(Want(1), 0.3) == [Ask(5, Question(A, 2), HERE), Ask(6, Question(B, 2), THERE)]
    assert questions.handle(Taken(Question(A, 1)), 0.4) == [Deliver(1)]


def test_nothing_is_asked_beyond_the_last_step() -> None:
    assert one_teacher().handle(Want(7), 0.0) == [Ask(1, Question(A, 7), HERE)]


def test_what_lies_here_is_repeated_and_not_asked() -> None:
    questions = Questions({A: HERE, B: None}, LESSON, num_steps=8)
    assert questions.unasked(0) == (Question(A, 0), Question(B, 0), Question(A, 1), Question(B, 1))
    here = frozenset({Question(B, 0), Question(B, 1)})
    assert questions.handle(Want(0, here), 0.0) == [
        Ask(1, Question(A, 0), HERE),
        Repeat(Question(B, 0)),
        Ask(2, Question(A, 1), HERE),
        Repeat(Question(B, 1)),
    ]
    assert questions.handle(Taken(Question(A, 0)), 0.1) == [Deliver(0)]


def test_a_step_all_of_which_lies_here_is_delivered_at_once() -> None:
    questions = Questions({A: None}, LESSON, num_steps=1)
    assert questions.handle(Want(0, frozenset({Question(A, 0)})), 0.0) == [Repeat(Question(A, 0)), Deliver(0)]


def test_a_teacher_that_is_nowhere_and_not_recorded_ends_the_lesson() -> None:
    questions = Questions({A: HERE, B: None}, LESSON, num_steps=8)
    assert questions.handle(Want(0), 0.0) == [Ask(1, Question(A, 0), HERE), Lack(Question(B, 0))]
    assert questions.handle(Answered(1), 0.1) == []
    with pytest.raises(LocalProtocolError, match="has ended"):
        questions.handle(Want(1), 0.2)


def test_a_peek_leaves_the_step_to_be_wanted_again() -> None:
    questions = one_teacher()
    questions.handle(Want(0, is_peek=True), 0.0)
    assert questions.handle(Taken(Question(A, 0)), 0.1) == [Deliver(0)]
    assert questions.handle(Want(0), 0.2) == [Deliver(0)]
    with pytest.raises(LocalProtocolError, match="step 0 of a lesson is over; the next one is 1"):
        questions.handle(Want(0), 0.3)


def test_steps_that_are_passed_over_are_forgotten() -> None:
    questions = one_teacher()
    questions.handle(Want(0, is_peek=True), 0.0)
    questions.handle(Taken(Question(A, 0)), 0.1)
    assert questions.handle(Want(5), 0.2) == [Drop(Question(A, 0)), Ask(3, Question(A, 5), HERE), Ask(4, Question(A, 6), HERE)]
    assert questions.handle(Answered(2), 0.3) == [], "step 1 is not needed any more"
    assert questions.due(100.0) == (Question(A, 5), Question(A, 6))


def test_who_is_silent_is_asked_again_and_may_answer_either_time() -> None:
    questions = wanted()
    assert questions.handle(Tick(), 9.9) == []
    assert questions.handle(Tick(), 10.0) == [Ask(3, Question(A, 0), HERE), Ask(4, Question(A, 1), HERE)]
    assert questions.handle(Answered(1), 10.5) == [Take(Question(A, 0))]
    assert questions.handle(Taken(Question(A, 0)), 10.5) == [Deliver(0)]
    assert questions.handle(Answered(3), 10.6) == [], "it has been answered"
    assert questions.handle(Tick(), 20.0) == [Ask(5, Question(A, 1), HERE)]


def test_a_step_is_given_up_after_its_time_and_nothing_follows() -> None:
    questions = wanted()
    questions.handle(Taken(Question(A, 1)), 1.0)
    assert questions.handle(Tick(), 300.1) == [GiveUp((Question(A, 0),), (HERE,), 300.0)]
    for event in (Tick(), Answered(1), Taken(Question(A, 0)), Moved(A, THERE), Refused(1, refusal("contract"))):
        assert questions.handle(event, 301.0) == []


def test_the_time_runs_from_when_a_step_is_wanted_not_from_when_it_was_asked() -> None:
    questions = wanted()
    questions.handle(Taken(Question(A, 0)), 200.0)
    questions.handle(Want(1), 250.0)
    assert questions.handle(Tick(), 540.0) == [Ask(4, Question(A, 1), HERE), Ask(5, Question(A, 2), HERE)]
    assert questions.handle(Tick(), 550.1) == [GiveUp((Question(A, 1),), (HERE,), 300.0)]


def test_a_teacher_that_moved_is_asked_anew_at_once_and_not_listened_to_where_it_was() -> None:
    questions = wanted()
    assert questions.handle(Moved(A, THERE), 1.0) == [
        Part(HERE),
        Reach(THERE),
        Ask(3, Question(A, 0), THERE),
        Ask(4, Question(A, 1), THERE),
    ]
    assert questions.handle(Answered(1), 1.1) == []
    assert questions.handle(Refused(2, refusal("contract")), 1.1) == []
    assert questions.handle(Moved(A, THERE), 1.2) == [], "it is there already"
    assert questions.handle(Moved(B, THERE), 1.2) == [], "who is that?"
    assert questions.handle(Answered(3), 1.3) == [Take(Question(A, 0))]
    assert questions.places == (THERE,)


def test_only_what_was_asked_of_the_teacher_that_moved_is_asked_again() -> None:
    questions = Questions({A: HERE, B: THERE}, LESSON, num_steps=8)
    questions.handle(Want(0), 0.0)
    assert questions.handle(Moved(B, ELSEWHERE), 1.0) == [
        Part(THERE),
        Reach(ELSEWHERE),
        Ask(5, Question(B, 0), ELSEWHERE),
        Ask(6, Question(B, 1), ELSEWHERE),
    ]
    assert questions.handle(Answered(2), 1.1) == [], "by who is not there any more"
    assert questions.handle(Answered(1), 1.1) == [Take(Question(A, 0))], "who stayed is still listened to"
    assert questions.places == (HERE, ELSEWHERE)


def test_an_answer_that_was_being_fetched_when_its_teacher_moved_is_taken() -> None:
    questions = wanted()
    questions.handle(Answered(1), 1.0)
    questions.handle(Moved(A, THERE), 1.1)
    assert questions.handle(Taken(Question(A, 0)), 1.2) == [Deliver(0)]


def test_a_damaged_answer_is_asked_for_again() -> None:
    questions = wanted()
    assert questions.handle(Damaged(Question(A, 0)), 4.0) == []
    assert questions.handle(Tick(), 10.0)[0] == Ask(3, Question(A, 0), HERE)
    other = wanted()
    assert other.handle(Damaged(Question(A, 0), by_way=True), 4.0) == [Ask(3, Question(A, 0), HERE)], "by another way, at once"
    mutual = wanted(MUTUAL)
    assert mutual.handle(Damaged(Question(A, 0)), 4.0) == [Ask(2, Question(A, 0), HERE)]
    assert mutual.handle(Damaged(Question(B, 0)), 4.0) == []


def test_a_teacher_without_the_dataset_is_sent_the_images_from_then_on() -> None:
    questions = wanted()
    asked = Ask(3, Question(A, 0), HERE, has_images=True)
    assert questions.handle(Refused(1, refusal("dataset")), 1.0) == [asked]
    assert questions.handle(Refused(1, refusal("dataset")), 1.0) == [], "said twice"
    questions.handle(Taken(Question(A, 0)), 1.1)
    assert questions.handle(Want(1), 1.2) == [Ask(4, Question(A, 2), HERE, has_images=True)]
    assert questions.handle(Refused(2, refusal("dataset")), 1.3) == [Ask(5, Question(A, 1), HERE, has_images=True)]
    assert questions.handle(Refused(4, refusal("dataset")), 1.4) == [Fail(Question(A, 2), HERE, refusal("dataset"))]


def test_who_is_not_ready_is_asked_again_soon_and_other_trouble_is_as_if_nothing_had_been_said() -> None:
    for code in ("artifact", "exchange", "cancelled"):
        questions = wanted(MUTUAL)
        assert questions.handle(Refused(1, refusal(code)), 1.0) == []
        assert questions.handle(Tick(), 1.1) == []
        assert questions.handle(Tick(), 1.2) == [Ask(2, Question(A, 0), HERE)]
    questions = wanted(MUTUAL)
    assert questions.handle(Refused(1, refusal("internal")), 1.0) == []
    assert questions.handle(Tick(), 9.9) == []
    assert questions.handle(Tick(), 10.0) == [Ask(2, Question(A, 0), HERE)]
    lesson = wanted()
    assert lesson.handle(Refused(1, refusal("artifact")), 1.0) == lesson.handle(Tick(), 9.9) == []
    assert lesson.handle(Tick(), 10.0)[0] == Ask(3, Question(A, 0), HERE)


@pytest.mark.parametrize("code", ["contract", "protocol"])
def test_a_refusal_that_blames_the_task_ends_the_lesson(code: str) -> None:
    questions = wanted()
    assert questions.handle(Refused(2, refusal(code)), 1.0) == [Fail(Question(A, 1), HERE, refusal(code))]
    assert questions.handle(Tick(), 20.0) == []


def test_images_are_sent_in_a_lesson_alone_and_never_for_weights() -> None:
    said = refusal("dataset")
    assert wanted(MUTUAL).handle(Refused(1, said), 1.0) == [Fail(Question(A, 0), HERE, said)]
    questions = one_teacher()
    questions.handle(WantWeights(A), 0.0)
    assert questions.handle(Refused(1, said), 1.0) == [Fail(Question(A, WEIGHTS), HERE, said)]


def test_a_partner_that_is_not_there_yet_is_waited_for_and_what_it_left_behind_is_taken() -> None:
    questions = Questions({A: None, B: None}, MUTUAL, num_steps=8)
    assert questions.handle(Want(0), 0.0) == []
    assert questions.due(0.1) == ()
    assert questions.due(0.2) == (Question(A, 0), Question(B, 0))
    assert questions.handle(Tick(frozenset({Question(A, 0)})), 0.2) == [Repeat(Question(A, 0))]
    assert questions.handle(Moved(B, THERE), 0.3) == [Reach(THERE), Ask(1, Question(B, 0), THERE)]
    assert questions.handle(Tick(frozenset({Question(B, 0)})), 10.3) == [Repeat(Question(B, 0)), Deliver(0)]
    assert questions.handle(Answered(1), 10.4) == []


def test_partners_that_never_come_are_given_up() -> None:
    questions = Questions({A: HERE, B: None}, MUTUAL, num_steps=8)
    questions.handle(Want(0), 0.0)
    assert questions.handle(Tick(), 301.0) == [GiveUp((Question(A, 0), Question(B, 0)), (HERE,), 300.0)]


def test_weights_are_a_question_like_any_other() -> None:
    questions = one_teacher()
    weights = Question(A, WEIGHTS)
    assert questions.handle(WantWeights(A), 0.0) == [Ask(1, weights, HERE)]
    assert questions.handle(Refused(1, refusal("artifact")), 1.0) == []
    assert questions.handle(Tick(), 10.0) == [Ask(2, weights, HERE)]
    assert questions.handle(Moved(A, THERE), 11.0) == [Part(HERE), Reach(THERE), Ask(3, weights, THERE)]
    assert questions.handle(Taken(weights), 12.0) == [Deliver(WEIGHTS)]
    assert questions.handle(Want(0), 13.0)[0] == Ask(4, Question(A, 0), THERE)


def test_one_thing_is_wanted_at_a_time() -> None:
    with pytest.raises(LocalProtocolError, match="waits for another"):
        wanted().handle(Want(1), 1.0)


def test_how_a_refusal_is_judged() -> None:
    assert judge(refusal("artifact")) is Judgement.NOT_READY
    assert judge(refusal("protocol", rule=Rule.GRANT, retryable=True)) is Judgement.FAULT
    assert judge(refusal("storage")) is judge(refusal("out_of_memory")) is Judgement.SURROUNDINGS
    assert judge(refusal("of a later version", retryable=True)) is Judgement.NOT_READY


def test_a_rule_of_the_protocol_can_be_judged_otherwise_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGEMENTS, ("protocol", Rule.GRANT), Judgement.NOT_READY)
    assert judge(refusal("protocol", rule=Rule.GRANT)) is Judgement.NOT_READY
    assert judge(refusal("protocol", rule=Rule.BODY)) is Judgement.FAULT


CODES = ("artifact", "exchange", "dataset", "contract", "protocol", "internal", "storage")
WAIT_S, NUM_STEPS = 60.0, 6
ROUNDING_S = 1e-9


class History(RuleBasedStateMachine):
    """Teachers that answer, refuse, move, damage and say nothing, in any order, to a student that wants step after step."""

    @initialize(conduct=st.sampled_from([LESSON, MUTUAL]), places=st.lists(st.booleans(), min_size=1, max_size=3))
    def begin(self, conduct: Conduct, places: list[bool]) -> None:
        self.conduct = Conduct(**vars(conduct) | {"wait_s": WAIT_S})
        can_be_absent = conduct.absent_s is not None
        self.places: dict[str, PeerAddress | None] = {
            f"{number:064x}": HERE if is_there or not can_be_absent else None for number, is_there in enumerate(places)
        }
        self.questions = Questions(self.places, self.conduct, num_steps=NUM_STEPS)
        self.now = self.since = 0.0
        self.step, self.wanted = 0, None
        self.asked: dict[int, Question] = {}  # askings that may be answered where they were put
        self.answered: set[Question] = set()
        self.delivered: list[int] = []
        self.end: Fail | GiveUp | None = None

    def handle(self, event: Event) -> None:
        for action in self.questions.handle(event, self.now):
            assert self.end is None, "something follows the end"
            if isinstance(action, Ask):
                assert action.place == self.places[action.question.teacher], "asked of a teacher that moved away"
                assert action.question not in self.answered, "asked for what is there"
                assert not action.has_images or self.conduct.can_send_images
                self.asked[action.asking] = action.question
            elif isinstance(action, Repeat):
                self.answered.add(action.question)
            elif isinstance(action, Take):
                self.taken = action.question
            elif isinstance(action, Deliver):
                assert action.step == self.wanted and {Question(teacher, action.step) for teacher in self.places} <= self.answered
                self.delivered.append(action.step)
                self.wanted, self.step = None, action.step + 1
            elif isinstance(action, Fail | GiveUp):
                self.end = action

    def questions_of(self, askings: Iterable[int]) -> set[Question]:
        return {self.asked[asking] for asking in askings}

    @property
    def is_waiting(self) -> bool:
        return self.wanted is not None and self.end is None

    @precondition(lambda self: self.wanted is None and self.end is None and self.step < NUM_STEPS)
    @rule(recorded=st.sets(st.integers(0, 7)))
    def want(self, recorded: set[int]) -> None:
        unasked = self.questions.unasked(self.step)
        self.wanted, self.since = self.step, self.now
        self.handle(Want(self.step, frozenset(unasked[number] for number in recorded if number < len(unasked))))

    @precondition(lambda self: self.is_waiting and self.asked)
    @rule(data=st.data(), is_damaged=st.booleans())
    def answer(self, data: st.DataObject, is_damaged: bool) -> None:
        asking = data.draw(st.sampled_from(sorted(self.asked)))
        question, self.taken = self.asked[asking], None
        self.handle(Answered(asking))
        assert self.taken == (question if self.questions.knows(asking) else None)
        if self.taken and is_damaged:
            self.handle(Damaged(question))
        elif self.taken:
            self.answered.add(question)
            self.handle(Taken(question))

    @precondition(lambda self: self.is_waiting and self.asked)
    @rule(data=st.data(), code=st.sampled_from(CODES), retryable=st.booleans())
    def refuse(self, data: st.DataObject, code: str, retryable: bool) -> None:
        asking = data.draw(st.sampled_from(sorted(self.asked)))
        known = self.questions.knows(asking)
        self.handle(Refused(asking, refusal(code, retryable=retryable)))
        assert (self.end is None) or known
        if code in ("contract", "protocol") and known:
            assert isinstance(self.end, Fail)

    @precondition(lambda self: not self.is_waiting)
    @rule(seconds=st.floats(0.0, 100.0))
    def compute(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.is_waiting)
    @rule(data=st.data(), place=st.sampled_from([HERE, THERE, ELSEWHERE]))
    def move(self, data: st.DataObject, place: PeerAddress) -> None:
        teacher = data.draw(st.sampled_from(sorted(self.places)))
        moved, self.places[teacher] = self.places[teacher] != place, place
        before = {asking for asking, question in self.asked.items() if question.teacher == teacher}
        self.handle(Moved(teacher, place))
        if moved:
            assert not any(self.questions.knows(asking) for asking in before), "the old place is still listened to"

    @precondition(lambda self: self.is_waiting)
    @rule(seconds=st.floats(0.0, 15.0), left_behind=st.booleans())
    def pass_time(self, seconds: float, left_behind: bool) -> None:
        self.now += seconds
        due = self.questions.due(self.now)
        self.handle(Tick(frozenset(due[:1] if left_behind else ())))
        assert self.end or not self.questions.due(self.now), "due, and not asked"

    @invariant()
    def every_wanted_question_is_asked_or_answered_or_waited_for(self) -> None:
        if self.is_waiting:
            assert self.now - self.since <= WAIT_S, "it should have been given up"
            wanted_ones = {Question(teacher, self.wanted) for teacher in self.places}
            listened_to = self.questions_of(asking for asking in self.asked if self.questions.knows(asking))
            nowhere = {question for question in wanted_ones if self.places[question.teacher] is None}
            assert wanted_ones <= self.answered | listened_to | nowhere
            assert wanted_ones - self.answered <= set(self.questions.due(self.now + self.conduct.silence_s))

    @invariant()
    def steps_are_delivered_once_and_in_order(self) -> None:
        assert self.delivered == list(range(len(self.delivered)))

    def teardown(self) -> None:
        """Whatever was, with nobody saying anything any more it ends."""
        if getattr(self, "end", None) is None and getattr(self, "wanted", None) is not None:
            while self.is_waiting:
                self.now += 0.5
                self.handle(Tick())
                assert self.now - self.since <= WAIT_S + 0.5 + ROUNDING_S
            assert isinstance(self.end, GiveUp) and set(self.end.missing).isdisjoint(self.answered)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
