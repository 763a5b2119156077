"""Which agent does what next: a machine without clocks, sockets or processes. Events in, actions out.

Agents stand in two benches: one *learning* agent a device slot does tasks; *teaching* agents beside them serve weights to
students. Teaching agents are started when a task first needs one. Any agent could do either; the benches only keep the cores
shared fairly, since a teacher mostly waits for its students.

What always holds is listed, and checked, in ``invariants``; what was decided until now is told, and decided again, by ``story``.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from agentkd.coordinator import benches, crowding
from agentkd.coordinator.events import (
    Accept,
    Action,
    Arrived,
    Cancel,
    Dismiss,
    Ended,
    Event,
    Failed,
    GiveUp,
    Idle,
    Joined,
    Late,
    Launch,
    Lost,
    Move,
    Spared,
    Start,
    TeachingFailed,
    Wanted,
)
from agentkd.coordinator.invariants import broken
from agentkd.coordinator.state import GUEST_SLOT, MAX_LOSSES, Bench, Condition, Member, Running, State
from agentkd.coordinator.story import Author, Story
from agentkd.names import NO_DIGEST, NO_TASK, AgentName, Digest, TaskKey, TeacherId
from agentkd.task import Task, TeacherReference

FIRST = 64


class Dispatcher:
    """Assigns tasks in the order wanted. ``num_slots`` learning agents at most, and teaching agents as needed.

    Args:
        max_attempts: how often a task may fail before it is given up.
        max_copies: how many agents may teach with the same weights when several students learn from them.
        places: as of ``State``; by default there is one in each slot.
        max_losses: how often in a row surroundings may take a task from its agents before it is given up.
    """

    def __init__(
        self,
        num_slots: int,
        *,
        max_attempts: int = 3,
        max_copies: int = 1,
        places: tuple[int, ...] | None = None,
        max_losses: int = MAX_LOSSES,
    ) -> None:
        self._begin(State(num_slots, max_attempts, max_copies, (0,) * num_slots if places is None else places, max_losses))

    def _begin(self, state: State) -> None:
        self.state = state
        self._author = Author(state)

    def spare(self, spared: Mapping[TaskKey, frozenset[Digest]]) -> list[Action]:
        """For tasks (by key): the weights that need not be taught, because all that they would say is recorded."""
        return self.handle(Spared(dict(spared))) if spared != self.state.spared else []

    def want(self, tasks: Iterable[tuple[TaskKey, Task]]) -> list[Action]:
        """Adds tasks (by key) to be done, in order; those under way or done are left as they are, given up ones begin anew."""
        new = tuple((key, task) for key, task in tasks if key not in self.state.tasks)
        return self.handle(Wanted(new)) if new else []

    def handle(self, event: Event) -> list[Action]:
        """Takes note of an event and says what is to be done."""
        actions = self._take(event) + self._decide()
        self._author.note(event, actions, self.state)
        return actions

    def students(self) -> dict[AgentName, tuple[AgentName, ...]]:
        """Who learns from each teaching agent now."""
        return benches.students(self.state)

    def story(self) -> Story:
        """What happened and what was decided, until now; the newest thousand or two thousand events of a long life."""
        return self._author.story()

    def check(self) -> None:
        """Looks whether all invariants hold: those of the state (``invariants``), and that nothing is left to be decided.

        Raises:
            AssertionError: what does not hold.
        """
        found = broken(self.state)
        left = retell(Story(self.state, ()))._decide() if not found else []
        found += [f"nothing has happened, and yet it would be decided: {action}" for action in left]
        if found:
            raise AssertionError("\n".join(found))

    # Events.

    def _take(self, event: Event) -> list[Action]:
        """What follows from an event at once."""
        state = self.state
        if isinstance(event, Wanted):
            for key, task in event.tasks:
                state.tasks[key] = state.waiting[key] = task
                state.cohorts[key] = (key, *(partner.key for partner in task.partner_tasks()))
                for teacher in task.taught_by:
                    state.unadopted.pop(teacher.weights, None)
                    state.losses.pop(teacher.weights, None)
                    state.hindered.discard(teacher.weights)
                if state.num_open < len(state.cohorts[key]):
                    state.closed.clear()  # they must begin together, with guests perhaps, or never
            return []
        if isinstance(event, Spared):
            state.spared = event.spared
            return []
        if isinstance(event, Arrived):
            return self._take_in(event)
        member = state.members.get(event.agent)
        if member is None:
            return []
        if isinstance(event, Lost):
            return self._lose(member, event)
        if isinstance(event, Ended | Failed):
            return self._take_answer(member, event)
        if isinstance(event, Idle):
            return self._call_off(member)
        if isinstance(event, TeachingFailed):
            told = {"is_fault": event.is_fault, "lacks_memory": event.lacks_memory}
            return self._note_unadopted(member, retryable=event.retryable, **told)
        if isinstance(event, Joined):
            member.device = event.device
            if member.condition in (Condition.STARTING, Condition.LATE):
                member.condition = Condition.IDLE
        elif isinstance(event, Late):
            return self._do_without(member, spares_one=event.spares_one)
        elif member.condition is Condition.ADOPTING and member.weights == event.weights:
            member.condition = Condition.TEACHING
            state.losses.pop(member.weights, None)
        return []

    def _take_in(self, event: Arrived) -> list[Action]:
        """A guest in the bench where it is of use. What it did in an earlier session is lost."""
        members, name = self.state.members, event.agent
        actions = self._lose(members[name], Lost(name)) if name in members else []
        if event.teaches:
            members[name] = Member(name, Bench.TEACHING, GUEST_SLOT, Condition.TEACHING, weights=event.teaches)
            actions += benches.move_back(self.state, name, event.teaches)
        elif event.learns:
            members[name] = Member(name, Bench.LEARNING, GUEST_SLOT, Condition.IDLE)
        return actions

    def _lose(self, member: Member, event: Lost) -> list[Action]:
        if event.lacks_memory and crowding.who_goes(self.state, member) is member:
            return self._close(member)
        del self.state.members[member.name]
        if not self.state.runs_at(member.name, member.task):
            return []
        if event.got_further:
            self.state.losses.pop(member.task, None)
        return self._retry(member.task, is_fault=event.is_crash or event.lacks_memory)

    def _take_answer(self, member: Member, event: Ended | Failed) -> list[Action]:
        if self.state.is_current(member.name, event.task, event.attempt):
            member.rest()
            if isinstance(event, Ended):
                return self._end(event)
            if event.lacks_memory and (room := self._make_room(member, event.task)):
                return [*room, *self._retry_freely(event.task)]
            self.state.failed_at[event.task] = self.state.failed_at.get(event.task, frozenset()) | {member.name}
            return self._retry(event.task, is_fault=event.is_fault) if event.retryable else self._give_up(event.task)
        if member.task == event.task and not self.state.runs_at(member.name, event.task):
            member.rest()  # it has stopped what was cancelled
        return []

    def _call_off(self, member: Member) -> list[Action]:
        """An agent that does not do what it was asked: somebody else is asked, or it again."""
        if member.condition is not Condition.BUSY:
            return self._note_unadopted(member, retryable=True, is_fault=False)
        key = member.task
        member.rest()
        if not self.state.runs_at(member.name, key):
            return []  # what it was to stop, it has
        return [Cancel(member.name, key, self.state.running[key].attempt), *self._retry(key, is_fault=False)]

    def _note_unadopted(self, member: Member, *, retryable: bool, is_fault: bool, lacks_memory: bool = False) -> list[Action]:
        state, weights = self.state, member.weights
        if member.condition is not Condition.ADOPTING:
            return []
        member.rest()
        if lacks_memory and (room := self._make_room(member)):
            return room
        if is_fault or not retryable:
            state.unadopted[weights] = state.unadopted.get(weights, 0) + 1 if retryable else state.max_attempts
        elif state.lose(weights):
            state.unadopted[weights] = state.max_attempts
            state.hindered.add(weights)
        return []

    def _do_without(self, member: Member, *, spares_one: bool) -> list[Action]:
        """Goes on without an agent that does not come. For one that is to teach one that learns makes room: lessons need both."""
        if member.condition is not Condition.STARTING:
            return []
        member.condition = Condition.LATE
        gone = crowding.who_can_be_spared(self.state) if spares_one and member.bench is Bench.TEACHING else None
        return self._end_one(gone) if gone is not None else []

    def _end_one(self, gone: Member) -> list[Action]:
        """Ends an agent that learns, for good; what it does is done by another."""
        return [Dismiss(gone.name), *self._close(gone)]

    def _close(self, gone: Member) -> list[Action]:
        """There is nobody in an agent's slot any more; what it does is done by another."""
        state = self.state
        state.closed.add(gone.slot)
        del state.members[gone.name]
        return self._retry_freely(gone.task) if state.runs_at(gone.name, gone.task) else []

    def _make_room(self, member: Member, key: TaskKey = NO_TASK) -> list[Action]:
        """One agent less where this one ran out of memory, with that task; nothing if it was alone with those that it needs."""
        state = self.state
        gone = crowding.who_goes(state, member)
        if gone is not None:
            return self._end_one(gone)
        if not key or key in state.eased:
            return []
        spare = crowding.who_teaches_nobody(state, member, key)
        if spare:
            state.eased.add(key)
        for teacher in spare:
            del state.members[teacher.name]
        return [Dismiss(teacher.name) for teacher in spare]

    def _retry_freely(self, key: TaskKey) -> list[Action]:
        """Has a task tried again that was stopped to make room: neither the attempt counts nor a loss, since room runs out."""
        self.state.spent[key] = self.state.spent.get(key, 0) + 1
        return self._retry(key, is_fault=True)

    def _end(self, event: Ended) -> list[Action]:
        """Students that teach each other are accepted together, since one that must begin again needs what the others said."""
        state = self.state
        del state.running[event.task]
        state.ended[event.task] = event.agent
        cohort = [key for key in state.cohorts[event.task] if key in state.tasks and key not in state.done]
        if any(key not in state.ended for key in cohort):
            return []
        for key in cohort:
            del state.ended[key]
        state.done.update(cohort)
        return [Accept(key) for key in cohort]

    def _retry(self, key: TaskKey, *, is_fault: bool) -> list[Action]:
        """Takes a task that runs out of its agent's hands. If it is not to blame the attempt does not count."""
        state = self.state
        del state.running[key]
        if not is_fault:
            state.spent[key] = state.spent.get(key, 0) + 1
            if state.lose(key):
                return self._give_up(key, is_fault=False)
        if state.attempts_left(key) <= 0:
            return self._give_up(key)
        state.waiting = {key: state.tasks[key], **state.waiting}
        return []

    def _give_up(self, key: TaskKey, *, untaught: Digest = NO_DIGEST, is_fault: bool = True) -> list[Action]:
        """Forgets a task, and those of its cohort, but not their attempts: who wants them again is not in an earlier one."""
        actions: list[Action] = []
        state = self.state
        for other in state.cohorts[key]:
            running = state.running.pop(other, None)
            if running is not None and other != key:
                actions.append(Cancel(running.agent, other, running.attempt))
            if other in state.done or state.tasks.pop(other, None) is None:
                continue
            state.waiting.pop(other, None)
            state.ended.pop(other, None)
            state.failed_at.pop(other, None)
            state.losses.pop(other, None)
            state.spent[other] = state.attempts.get(other, 0)
            actions.append(GiveUp(other, because=key if other != key else NO_TASK, untaught=untaught, is_fault=is_fault))
        return actions

    # Decisions.

    def _decide(self) -> list[Action]:
        roster = benches.Roster(self.state)
        return [*benches.share_out(roster), *self._dismiss(roster), *self._assign(roster), *self._give_up_untaught()]

    def _dismiss(self, roster: benches.Roster) -> list[Action]:
        """Whoever has run own code and has nothing to do is ended, unless students that it learned with may still ask it."""
        bench = [*roster.learning, *roster.started]
        idle = [m for m in bench if m.has_run_code and not m.is_guest and m.condition is Condition.IDLE]
        if not idle:
            return []
        asked, order = set(self.state.ended.values()), list(self.state.members)
        return [roster.dismiss(m) for m in sorted(idle, key=lambda m: order.index(m.name)) if m.name not in asked]

    def _give_up_untaught(self) -> list[Action]:
        """Gives up who was to learn from weights that nobody teaches, nor can be made to."""
        actions: list[Action] = []
        if all(times < self.state.max_attempts for times in self.state.unadopted.values()):
            return actions
        for key in list(self.state.waiting):
            untaught = sorted(self.state.untaught(key))
            is_fault = not self.state.hindered.intersection(untaught)
            actions += self._give_up(key, untaught=untaught[0], is_fault=is_fault) if untaught else []
        return actions

    def _assign(self, roster: benches.Roster) -> list[Action]:
        actions: list[Action] = list(self._fill_learning_bench(roster))
        actions += self._have_running_taught(roster)
        free = [member for member in roster.learning if member.is_free]
        return actions + self._give_out(roster, free) if free else actions

    def _have_running_taught(self, roster: benches.Roster) -> list[Action]:
        """Has those taught again who lack a teacher."""
        state = self.state
        heard: dict[tuple[Digest, int], tuple[TeacherReference, TaskKey]] = {}
        for key, running in roster.lessons:
            task = state.tasks[key]
            for reference in task.taught_by:
                if reference.weights in running.teachers:
                    heard.setdefault((reference.weights, id(task.data)), (reference, key))
        for reference, _ in heard.values():
            roster.reserve(reference)
        actions: list[Action] = []
        for reference, key in heard.values():
            actions += benches.have_taught(roster, reference, state.tasks[key].data)
        return actions

    def _give_out(self, roster: benches.Roster, free: list[Member]) -> list[Action]:
        """Has tasks done that wait, as far as somebody is free and teachers are there; else prepares those."""
        state = self.state
        actions: list[Action] = []
        late = sum(member.condition is Condition.LATE for member in roster.learning)
        most = state.num_open - late + sum(member.is_guest for member in roster.learning)
        num_prepared = 0
        for key, task in _in_order(state.waiting):
            together = sum(other in state.waiting for other in state.cohorts[key])
            if together > most:
                continue  # until guests come
            if together > len(free):
                break  # or others would take the agents of students that must start together, for ever
            if len(state.cohorts[key]) > 1:
                actions += self._start_together(roster, key, free) if key in state.waiting else []
                continue
            references = state.taught_by(key)
            needed = sorted({reference.weights for reference in references})
            asked = [(weights, roster.teaching(weights, task.data)) for weights in needed]
            teachers: dict[TeacherId, AgentName] = {weights: teacher for weights, teacher in asked if teacher is not None}
            is_ready = len(teachers) == len(needed)
            if is_ready or (num_prepared < len(free) and state.can_be_taught(key)):
                for reference in references:
                    roster.reserve(reference)
                for reference in references:
                    actions += benches.have_taught(roster, reference, task.data)
                num_prepared += not is_ready
            agent = state.choose(key, free) if is_ready else None
            if agent is not None:
                free.remove(agent)
                actions.append(self._start(roster, agent, key, teachers))
        return actions

    def _start_together(self, roster: benches.Roster, key: TaskKey, free: list[Member]) -> list[Action]:
        """Starts those of a cohort that wait, each with the agents of the others; those that run are told who is new."""
        state = self.state
        cohort = state.cohorts[key]
        chosen = {}
        for other in cohort:
            if other in state.waiting:
                member = state.choose(other, free) or free[0]  # all begin at once, so nobody waits for another agent
                free.remove(member)
                chosen[other] = member.name
        where = {other: state.running[other].agent for other in cohort if other in state.running}
        where |= {other: agent for other, agent in state.ended.items() if other in cohort and agent in state.members} | chosen
        actions: list[Action] = []
        for other, agent in chosen.items():
            partners: dict[TeacherId, AgentName] = {partner: where[partner] for partner in sorted(where) if partner != other}
            actions.append(self._start(roster, state.members[agent], other, partners))
        for running in [state.running[other] for other in cohort if other in state.running and other not in chosen]:
            for other, agent in chosen.items():
                running.teachers[other] = agent
                actions.append(Move(running.agent, other, agent))
        return actions

    def _start(self, roster: benches.Roster, member: Member, key: TaskKey, teachers: dict[TeacherId, AgentName]) -> Start:
        del self.state.waiting[key]
        attempt = self.state.attempts[key] = self.state.attempts.get(key, 0) + 1
        member.condition, member.task = Condition.BUSY, key
        member.has_run_code |= self.state.tasks[key].runs_code
        running = self.state.running[key] = Running(member.name, attempt, teachers)
        roster.begins(running)
        return Start(member.name, key, attempt, tuple(teachers.items()))

    def _fill_learning_bench(self, roster: benches.Roster) -> Iterable[Launch]:
        state = self.state
        if not (state.waiting or state.running):
            return
        learning = roster.learning
        taken, wanted = {m.slot for m in learning}, len(state.waiting) + len(state.running)
        if learning and all(m.is_guest for m in learning) and any(state.has_failed_everywhere(key) for key in state.waiting):
            wanted += 1  # for what no guest can do
        for slot in range(state.num_slots if len(taken) < wanted else 0):
            if slot not in taken and slot not in state.closed and len(taken) < wanted:
                taken.add(slot)
                yield roster.launch(Bench.LEARNING, slot)


def _in_order(waiting: Mapping[TaskKey, Task]) -> Iterator[tuple[TaskKey, Task]]:
    """What waits, though it becomes less meanwhile. Mostly only the first are looked at, and all may be many."""
    first = dict(itertools.islice(waiting.items(), FIRST))
    yield from first.items()
    if len(first) == FIRST:
        yield from [(key, task) for key, task in waiting.items() if key not in first]


def retell(story: Story) -> Dispatcher:
    """A dispatcher to which the same has happened. Its own story is the same, for it decides the same."""
    dispatcher = Dispatcher(story.start.num_slots)
    dispatcher._begin(story.start.copy())
    for told in story.told:
        dispatcher.handle(told.event)
    return dispatcher
