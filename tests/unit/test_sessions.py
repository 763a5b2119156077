"""Sessions, greetings and retries: events in, actions out; and two sides over a network that loses, breaks and forgets."""

import itertools
import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentkd.errors import RemoteProtocolError, Rule
from agentkd.exchange.sessions import (
    GREET_AGAIN_S,
    SEND_GIVE_UP_S,
    SEND_RETRY_S,
    Action,
    Deliver,
    Dial,
    Drop,
    Ended,
    HangUp,
    Introduction,
    Late,
    Opened,
    Reason,
    Refuse,
    Send,
    Sessions,
    Unwelcome,
)
from agentkd.messages.bodies import (
    Body,
    ErrorReply,
    HelloRequest,
    PingReply,
    PingRequest,
    ReleaseEvent,
    StatusReply,
    StatusRequest,
    WelcomeReply,
)
from agentkd.messages.wire import Message

ME, PEER, PLACE = "m" * 40, "p" * 40, "tcp://127.0.0.1:1"
MINE, THEIRS, ANEW = "1" * 16, "2" * 16, "3" * 16
HELLO, THEIR_HELLO = HelloRequest(device="mine"), HelloRequest(device="theirs")
WELCOME, THEIR_WELCOME = (WelcomeReply(agent=name, heartbeat_s=1.0, lease_s=0.0) for name in ("mine", "theirs"))
BEAT = ReleaseEvent(leases=(1,))


def sessions(name: str = "") -> Sessions:
    """Those of somebody whose own messages are numbered from 1, and the ones that a test has it say from 100."""
    me = Introduction(ME, MINE, "", HELLO, lambda key, hello: WELCOME, lambda key: name)
    return Sessions(me, itertools.count(1))


def mine(body: Body, number: int, parent_id: int = 0) -> Message:
    return Message(body, number, parent_id, MINE)


def theirs(body: Body, number: int, parent_id: int = 0, session: str = THEIRS) -> Message:
    return Message(body, number, parent_id, session)


def beat(number: int, said_at: float = 0.0) -> Send:
    return Send(PEER, mine(BEAT, number), give_up_at=said_at + SEND_GIVE_UP_S)


def refusal(number: int, rule: Rule, text: str, parent_id: int) -> Refuse:
    text = f"{text} [{rule}]"
    error = ErrorReply(code="protocol", rule=rule, remote_type="RemoteProtocolError", text=text)
    return Refuse(PEER, rule, text, mine(error, number, parent_id))


def forgetful(number: int, parent_id: int, session: str = ANEW) -> Message:
    """What somebody says who was told something by a key that did not greet."""
    return theirs(ErrorReply(code="protocol", rule=Rule.GREETING, remote_type="x", text="who?"), number, parent_id, session)


def dialed() -> Sessions:
    """A peer was dialed at 0 s and has welcomed."""
    made = sessions()
    assert made.dial(PEER, PLACE, 0.0) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 1))]
    welcome = theirs(THEIR_WELCOME, 1, parent_id=1)
    assert made.arrived(PEER, welcome, 0.0) == [Opened(PEER, THEIR_WELCOME, PLACE), Deliver(PEER, welcome)]
    return made


def greeted() -> Sessions:
    """A peer has dialed and was welcomed."""
    made = sessions()
    hello, welcome = theirs(THEIR_HELLO, 1), Send(PEER, mine(WELCOME, 1, parent_id=1))
    assert made.arrived(PEER, hello, 0.0) == [welcome, Deliver(PEER, hello)]
    assert made.went(sent(made.arrived(PEER, hello, 0.0))) == [Opened(PEER, THEIR_HELLO, "")]
    return made


def sent(actions: list[Action]) -> Send:
    """The one message that is to be sent, as the machine wants to hear of it again."""
    [found] = [action for action in actions if isinstance(action, Send)]
    return found


def test_what_waits_for_a_greeted_peer_leaves_in_order_once_it_has_welcomed() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    assert [made.say(PEER, mine(BEAT, number), 0.5) for number in (100, 101)] == [[], []]
    welcome = theirs(THEIR_WELCOME, 7, parent_id=1)
    opened = made.arrived(PEER, welcome, 0.6)
    assert opened == [Opened(PEER, THEIR_WELCOME, PLACE), Deliver(PEER, welcome), beat(100, 0.5)]
    following = made.went(sent(opened))
    assert following == [beat(101, 0.5)]
    assert made.went(sent(following)) == [] and made.num_waiting == 0 and made.wait_s(1.0) == math.inf


def test_nothing_is_sent_to_somebody_who_was_not_greeted_and_it_waits_until_he_dials() -> None:
    made = sessions()
    assert made.say(PEER, mine(BEAT, 100), 0.0) == []
    hello = theirs(THEIR_HELLO, 1)
    actions = made.arrived(PEER, hello, 5.0)
    assert actions == [Send(PEER, mine(WELCOME, 1, parent_id=1)), Deliver(PEER, hello)]
    assert made.went(sent(actions)) == [Opened(PEER, THEIR_HELLO, ""), beat(100)]


def test_when_both_dial_each_other_both_are_open_and_the_welcomes_that_cross_are_late() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    made.say(PEER, mine(BEAT, 100), 0.0)
    hello = theirs(THEIR_HELLO, 1)
    actions = made.arrived(PEER, hello, 0.1)
    assert actions == [Send(PEER, mine(WELCOME, 2, parent_id=1)), Deliver(PEER, hello)]
    assert made.went(sent(actions)) == [Opened(PEER, THEIR_HELLO, PLACE), beat(100)]
    crossing = theirs(THEIR_WELCOME, 2, parent_id=1)
    assert made.arrived(PEER, crossing, 0.2) == [Late(PEER, crossing)]
    assert made.is_open(PEER) and made.tick(9.0) == []


def test_a_greeting_that_is_lost_is_said_again_on_a_new_lane_until_it_is_answered() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    assert made.wait_s(0.4) == GREET_AGAIN_S - 0.4
    assert made.tick(0.9) == []
    assert made.tick(1.0) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 2))]
    assert made.tick(2.0) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 3))]
    made.arrived(PEER, theirs(THEIR_WELCOME, 1, parent_id=3), 2.1)
    assert made.tick(9.0) == []


def test_a_greeting_that_the_channel_does_not_take_is_said_again_too() -> None:
    made = sessions()
    assert made.stuck(sent(made.dial(PEER, PLACE, 0.0))) == []
    assert made.tick(1.0) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 2))]


def test_a_second_welcome_to_a_greeting_that_was_said_twice_is_late_and_no_fault() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    made.tick(1.0)
    made.arrived(PEER, theirs(THEIR_WELCOME, 1, parent_id=1), 1.1)
    again = theirs(THEIR_WELCOME, 2, parent_id=2)
    assert made.arrived(PEER, again, 1.2) == [Late(PEER, again)]
    assert sent(made.say(PEER, mine(BEAT, 100), 1.3)) == beat(100, 1.3)


def test_a_peer_that_was_started_again_and_does_not_know_us_is_greeted_again_while_messages_wait() -> None:
    made = dialed()
    assert made.went(sent(made.say(PEER, mine(BEAT, 100), 1.0))) == []
    assert made.arrived(PEER, forgetful(1, 100), 1.1) == [Ended(PEER), Send(PEER, mine(HELLO, 2))]
    assert made.say(PEER, mine(BEAT, 101), 1.2) == []
    late = forgetful(2, 100)
    assert made.arrived(PEER, late, 1.3) == [Late(PEER, late)], "it is greeted once for all that it did not know"
    welcome = theirs(THEIR_WELCOME, 3, parent_id=2, session=ANEW)
    opened = [Opened(PEER, THEIR_WELCOME, PLACE), Deliver(PEER, welcome), beat(101, 1.2)]
    assert made.arrived(PEER, welcome, 1.4) == opened
    stale = theirs(BEAT, 9)
    refused = refusal(3, Rule.SESSION, f"session {THEIRS} is not the one that greeted, {ANEW}", 9)
    assert made.arrived(PEER, stale, 1.5) == [refused]


def test_a_peer_that_was_started_again_and_dials_ends_its_old_session_and_gets_what_waited() -> None:
    made = greeted()
    assert made.went(sent(made.say(PEER, mine(PingRequest(), 99), 0.5))) == []
    assert made.stuck(sent(made.say(PEER, mine(BEAT, 100), 1.0))) == []
    hello = theirs(THEIR_HELLO, 1, session=ANEW)
    actions = made.arrived(PEER, hello, 2.0)
    assert actions == [Ended(PEER), Send(PEER, mine(WELCOME, 3, parent_id=1)), Deliver(PEER, hello)]
    assert made.went(sent(actions)) == [Opened(PEER, THEIR_HELLO, ""), beat(100, 1.0)]
    answer = theirs(PingReply(text=""), 2, parent_id=99, session=ANEW)
    assert made.arrived(PEER, answer, 2.1) == [Late(PEER, answer)], "all that was asked in the old session is over"


def test_a_peer_that_comes_back_in_its_session_is_welcomed_before_it_gets_what_waited_for_it() -> None:
    made = greeted()
    made.stuck(sent(made.say(PEER, mine(BEAT, 100), 1.0)))
    assert made.say(PEER, mine(BEAT, 101), 1.0) == [] and made.num_waiting == 2
    actions = made.arrived(PEER, theirs(THEIR_HELLO, 1), 2.0)
    assert actions == [Send(PEER, mine(WELCOME, 3, parent_id=1))], "it is no news that it is here"
    following = made.went(sent(actions))
    assert following == [Opened(PEER, THEIR_HELLO, ""), beat(100, 1.0)]
    assert made.went(sent(following)) == [beat(101, 1.0)]


def test_a_welcome_that_does_not_leave_opens_nothing_and_the_next_greeting_is_welcomed() -> None:
    made = sessions()
    hello = theirs(THEIR_HELLO, 1)
    assert made.stuck(sent(made.arrived(PEER, hello, 0.0))) == [] and not made.is_open(PEER)
    assert made.say(PEER, mine(BEAT, 100), 0.5) == []
    assert made.went(sent(made.arrived(PEER, hello, 1.0))) == [Opened(PEER, THEIR_HELLO, ""), beat(100, 0.5)]


def test_whoever_was_dialed_and_whose_welcome_did_not_leave_is_greeted_again() -> None:
    """It may have hung up meanwhile, and would not come back by itself."""
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    assert made.stuck(sent(made.arrived(PEER, theirs(THEIR_HELLO, 1), 0.5))) == []
    assert made.tick(1.4) == []
    assert made.tick(1.5) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 3))]


def test_a_second_different_greeting_in_one_session_is_refused_and_the_first_one_stands() -> None:
    made = greeted()
    other = theirs(HelloRequest(device="another"), 5)
    assert made.arrived(PEER, other, 1.0) == [refusal(3, Rule.ORDER, "a second, different greeting in one session", 5)]
    assert made.say(PEER, mine(BEAT, 100), 1.0) == [beat(100, 1.0)]


def test_versions_and_names_that_do_not_fit_are_refused_and_nothing_of_them_stays() -> None:
    made = sessions(name="ann")
    text = "this side speaks minor version 0, the peer 1 to 9"
    assert made.arrived(PEER, theirs(HelloRequest(minor_min=1, minor_max=9), 1), 0.0) == [refusal(1, Rule.VERSION, text, 1)]
    text = "this key belongs to 'ann', not to 'bob'"
    assert made.arrived(PEER, theirs(HelloRequest(agent="bob"), 2), 0.0) == [refusal(2, Rule.IDENTITY, text, 2)]
    assert made.peers == ()


def test_what_is_said_before_the_greeting_is_refused_by_a_rule_of_its_own_and_an_error_never_answered() -> None:
    made = sessions()
    before = refusal(1, Rule.GREETING, "PingRequest before the greeting", 4)
    assert made.arrived(PEER, theirs(PingRequest(), 4), 0.0) == [before]
    error = forgetful(5, 1)
    assert made.arrived(PEER, error, 0.0) == [Late(PEER, error)]
    assert made.refuse(PEER, 6, Rule.BODY, "no use", is_answered=False) == [Refuse(PEER, Rule.BODY, "no use", None)]
    assert made.peers == (), "whoever did not greet leaves nothing"


def test_an_answer_that_cannot_be_read_is_an_error_for_whoever_waits_for_it_and_nothing_else_is() -> None:
    made, misread = greeted(), RemoteProtocolError("no status", Rule.BODY, 9, 100)
    made.went(sent(made.say(PEER, mine(PingRequest(), 100), 0.0)))
    text = "its answer cannot be read: no status [body]"
    for kind, parent_id in ((None, 100), (ReleaseEvent, 100), (StatusReply, 100), (PingReply, 99), (PingReply, 0)):
        error = RemoteProtocolError("no status", Rule.BODY, 9, parent_id)
        assert all(isinstance(action, Refuse) for action in made.misread(PEER, kind, error)), (kind, parent_id)
    refused, delivered = made.misread(PEER, PingReply, misread)
    assert isinstance(refused, Refuse) and refused.answer is not None
    instead = ErrorReply(code="result", remote_type="ResultError", text=text)
    assert delivered == Deliver(PEER, theirs(instead, 9, 100))
    assert len(made.misread(PEER, PingReply, misread)) == 1, "it is over"
    assert made.misread("n" * 40, PingReply, misread)[1:] == [], "nobody was asked"


def test_an_error_that_cannot_be_read_ends_what_it_answers_and_is_not_answered() -> None:
    made = greeted()
    made.went(sent(made.say(PEER, mine(PingRequest(), 100), 0.0)))
    refused, delivered = made.misread(PEER, ErrorReply, RemoteProtocolError("no code", Rule.BODY, 9, 100))
    assert isinstance(refused, Refuse) and refused.answer is None and isinstance(delivered, Deliver)


def test_whoever_dialed_us_and_forgot_us_is_not_greeted_by_us() -> None:
    made = greeted()
    error = forgetful(5, 1)
    assert made.arrived(PEER, error, 0.0) == [Late(PEER, error)]


def test_a_welcome_of_another_session_has_the_peer_greeted_anew() -> None:
    made = dialed()
    other = theirs(THEIR_WELCOME, 1, parent_id=1, session=ANEW)
    assert made.arrived(PEER, other, 0.1) == [Ended(PEER), Send(PEER, mine(HELLO, 2))]


def test_what_cannot_be_sent_is_tried_again_in_order_and_dropped_when_its_time_is_over() -> None:
    made = dialed()
    made.stuck(sent(made.say(PEER, mine(BEAT, 100), 0.0)))
    made.say(PEER, mine(BEAT, 101), 10.0)
    assert made.wait_s(11.0) == SEND_RETRY_S
    assert made.tick(29.9) == [beat(100)]
    made.stuck(beat(100))
    assert made.tick(30.0) == [Drop(PEER, mine(BEAT, 100), Reason.GIVEN_UP), beat(101, 10.0)]
    made.stuck(beat(101, 10.0))
    assert made.tick(40.0) == [Drop(PEER, mine(BEAT, 101), Reason.GIVEN_UP)]
    assert made.tick(99.0) == [] and made.wait_s(99.0) == math.inf


def test_what_waits_for_somebody_who_never_comes_is_dropped_and_leaves_nothing() -> None:
    made = sessions()
    made.say(PEER, mine(BEAT, 100), 1.0)
    assert made.wait_s(2.0) == SEND_GIVE_UP_S - 1.0
    assert made.tick(30.9) == []
    assert made.tick(31.0) == [Drop(PEER, mine(BEAT, 100), Reason.GIVEN_UP)]
    assert made.peers == () and made.wait_s(31.0) == math.inf


def test_a_peer_that_is_given_up_takes_what_waited_for_it_along_and_is_not_dialed_again() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    made.say(PEER, mine(BEAT, 100), 0.0)
    assert made.forget(PEER) == [HangUp(PEER), Ended(PEER), Drop(PEER, mine(BEAT, 100), Reason.FORGOTTEN)]
    assert made.peers == () and made.num_waiting == 0 and made.tick(50.0) == []
    assert made.went(beat(100)) == [] and made.stuck(beat(100)) == [] and made.peers == ()
    assert made.forget(PEER) == [HangUp(PEER), Ended(PEER)]


def test_whoever_refuses_the_greeting_gets_nothing_and_is_not_greeted_again_by_itself() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    made.say(PEER, mine(BEAT, 100), 0.0)
    error = theirs(ErrorReply(code="protocol", rule=Rule.VERSION, remote_type="x", text="another version"), 1, parent_id=1)
    dropped = Drop(PEER, mine(BEAT, 100), Reason.UNWELCOME)
    assert made.arrived(PEER, error, 0.1) == [Unwelcome(PEER, "another version"), dropped, Deliver(PEER, error)]
    assert made.tick(5.0) == []
    assert made.dial(PEER, PLACE, 6.0) == [Dial(PEER, PLACE), Send(PEER, mine(HELLO, 2))]


def test_what_this_side_must_not_say_or_says_too_late_is_dropped_and_does_not_hold_up_the_next() -> None:
    made = sessions()
    made.dial(PEER, PLACE, 0.0)
    made.say(PEER, mine(StatusRequest(), 100), 0.0)
    made.say(PEER, mine(PingReply(text="x"), 101, parent_id=77), 0.0)
    made.say(PEER, mine(BEAT, 102), 0.0)
    welcome = theirs(THEIR_WELCOME, 1, parent_id=1)
    illegal = Drop(PEER, mine(StatusRequest(), 100), Reason.ILLEGAL, "StatusRequest may be said by: coordinator")
    late = Drop(PEER, mine(PingReply(text="x"), 101, parent_id=77), Reason.LATE)
    expected = [Opened(PEER, THEIR_WELCOME, PLACE), Deliver(PEER, welcome), illegal, late, beat(102)]
    assert made.arrived(PEER, welcome, 0.1) == expected


def test_a_dialogue_moves_when_its_message_left_and_not_before() -> None:
    made = dialed()
    made.stuck(sent(made.say(PEER, mine(PingRequest(), 100), 0.0)))
    reply = theirs(PingReply(text=""), 2, parent_id=100)
    assert made.arrived(PEER, reply, 0.1) == [Late(PEER, reply)]
    made.went(sent(made.tick(0.2)))
    assert made.arrived(PEER, reply, 0.3) == [Deliver(PEER, reply)]


def test_a_request_that_is_refused_by_its_receiver_is_over() -> None:
    made = dialed()
    ping = theirs(PingRequest(), 5)
    assert made.arrived(PEER, ping, 0.0) == [Deliver(PEER, ping)]
    [refused] = made.refuse(PEER, 5, Rule.GRANT, "not for you")
    assert isinstance(refused, Refuse) and refused.answer is not None and refused.answer.parent_id == 5
    assert made.say(PEER, mine(PingReply(text=""), 100, parent_id=5), 0.0) == [
        Drop(PEER, mine(PingReply(text=""), 100, parent_id=5), Reason.LATE)
    ]


def test_long_pieces_go_now_or_never() -> None:
    made = sessions()
    chunk = mine(BEAT, 100)
    assert made.stream(PEER, chunk) == [] and made.peers == ()
    made = dialed()
    assert made.stream(PEER, chunk) == [Send(PEER, chunk, bulk=True)]
    assert made.stuck(Send(PEER, chunk, bulk=True)) == [] and made.num_waiting == 0 and made.tick(1.0) == []


# Two sides.


class TwoSides(RuleBasedStateMachine):
    """Two machines and what lies between them. Whatever happens there, each keeps to its promises; once nothing happens any more,
    whoever dialed gets through."""

    KEYS = ("a" * 40, "b" * 40)

    def __init__(self) -> None:
        super().__init__()
        self.now, self.number_of_session = 0.0, itertools.count(1)
        self.sides: list[Sessions] = []
        self.numbers = [itertools.count(1), itertools.count(1)]
        self.flying: list[list[Message]] = [[], []]  # by receiver
        self.is_blocked = [False, False]
        self.has_lane = [False, False]
        self.is_open = [False, False]
        self.said: list[dict[int, float]] = [
            {},
            {},
        ]  # by number, since when: neither sent nor dropped
        self.last_sent = [0, 0]
        self.delivered: list[list[Body]] = [[], []]
        self.sides = [self.new_side(0), self.new_side(1)]

    def new_side(self, at: int) -> Sessions:
        session = f"{next(self.number_of_session):016x}"
        hello = HelloRequest(device=str(at))
        welcome = WelcomeReply(agent=str(at), heartbeat_s=1.0, lease_s=0.0)
        me = Introduction(self.KEYS[at], session, "", hello, lambda key, hello: welcome, lambda key: "")
        self.sessions = getattr(self, "sessions", ["", ""])
        self.sessions[at] = session
        return Sessions(me, self.numbers[at])

    def act(self, at: int, actions: list[Action]) -> None:
        """What the edge does, held to the promises of the machine."""
        other, stack = 1 - at, actions[::-1]
        while stack:
            action = stack.pop()
            assert action.peer == self.KEYS[other]
            if isinstance(action, Send):
                stack += self.send(at, action)[::-1]
            elif isinstance(action, Dial):
                self.has_lane[at] = True
                self.flying = [[], []]
            elif isinstance(action, HangUp):
                self.has_lane[at] = False
            elif isinstance(action, Opened):
                self.is_open[at] = True
            elif isinstance(action, Ended):
                self.is_open[at] = False
            elif isinstance(action, Drop):
                self.said[at].pop(action.message.msg_id)
            elif isinstance(action, Deliver):
                self.delivered[at].append(action.message.body)
            elif isinstance(action, Refuse) and action.answer is not None and self.can_send(at):
                self.flying[other].append(action.answer)

    def can_send(self, at: int) -> bool:
        return not self.is_blocked[at] and any(self.has_lane)

    def send(self, at: int, send: Send) -> list[Action]:
        number, body = send.message.msg_id, send.message.body
        if send.give_up_at:
            assert self.is_open[at], "nothing but a greeting is sent before a welcome"
            assert number > self.last_sent[at], "messages to one peer leave in order, and once"
        else:
            assert isinstance(body, HelloRequest | WelcomeReply)
        if not self.can_send(at):
            return self.sides[at].stuck(send)
        if send.give_up_at:
            self.last_sent[at] = number
            self.said[at].pop(number)
        self.flying[1 - at].append(send.message)
        return self.sides[at].went(send)

    def arrives(self, at: int) -> None:
        message = self.flying[at].pop(0)
        self.act(at, self.sides[at].arrived(self.KEYS[1 - at], message, self.now))

    SIDE = st.integers(0, 1)

    @rule(at=SIDE)
    def dial(self, at: int) -> None:
        self.act(at, self.sides[at].dial(self.KEYS[1 - at], PLACE, self.now))

    @initialize(at=st.none() | SIDE)
    def one_has_dialed(self, at: int | None) -> None:
        if at is not None:
            self.dial(at)
            self.arrives(1 - at)
            self.arrives(at)

    @rule(at=SIDE)
    def say(self, at: int) -> None:
        number = next(self.numbers[at])
        self.said[at][number] = self.now
        body = ReleaseEvent(leases=(number,))
        self.act(at, self.sides[at].say(self.KEYS[1 - at], Message(body, number, 0, self.sessions[at]), self.now))

    @rule(at=SIDE)
    def say_several_things_while_nobody_takes_them(self, at: int) -> None:
        self.is_blocked[at] = True
        for _ in range(3):
            self.say(at)
        self.time_passes(0.02)

    @rule(at=SIDE)
    def one_arrives(self, at: int) -> None:
        if self.flying[at]:
            self.arrives(at)

    @rule(at=SIDE)
    def what_flies_is_lost(self, at: int) -> None:
        self.flying[at] = []

    @rule(at=SIDE)
    def a_lane_is_full_or_free_again(self, at: int) -> None:
        self.is_blocked[at] = not self.is_blocked[at]

    @rule(at=SIDE)
    def one_is_started_again(self, at: int) -> None:
        self.sides[at] = self.new_side(at)
        self.flying, self.said[at] = [[], []], {}
        self.has_lane[at] = self.is_open[at] = False

    @rule(at=SIDE)
    def one_gives_the_other_up(self, at: int) -> None:
        self.act(at, self.sides[at].forget(self.KEYS[1 - at]))
        assert self.sides[at].peers == () and self.said[at] == {} and self.sides[at].num_waiting == 0
        assert self.sides[at].wait_s(self.now) == math.inf

    @rule(seconds=st.sampled_from([0.02, 0.5, 1.0, 29.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for at in (0, 1):
            self.act(at, self.sides[at].tick(self.now))
            late = [number for number, since in self.said[at].items() if self.now >= since + SEND_GIVE_UP_S]
            assert not late, "nothing waits for ever"

    @invariant()
    def what_was_said_was_sent_or_dropped_or_waits(self) -> None:
        for at, side in enumerate(self.sides):
            assert side.num_waiting == len(self.said[at])
            if self.said[at]:
                assert side.wait_s(self.now) < math.inf, "somebody will look after what waits"

    def teardown(self) -> None:
        self.is_blocked = [False, False]
        dialers = [at for at in (0, 1) if self.has_lane[at]]
        for _ in range(12):
            for at in (0, 1, 0, 1):
                while self.flying[at]:
                    self.arrives(at)
            for at in dialers:  # what shows one whose partner knows it no more that it has to greet
                self.say(at)
            self.time_passes(1.0)
        for at in dialers:
            assert self.is_open[at]
            self.say(at)
            last = self.last_sent[at]
            while self.flying[1 - at]:
                self.arrives(1 - at)
            assert self.delivered[1 - at][-1] == ReleaseEvent(leases=(last,)), "whoever dialed gets through in the end"


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
