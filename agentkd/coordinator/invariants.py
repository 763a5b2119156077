"""What always holds of the state of a dispatcher, whatever has happened. Looks, and changes nothing.

Agents:

1. Exactly who is busy has a task. Only learning agents are; only teaching agents adopt and teach.
2. Exactly who adopts or teaches has weights, and about some data, unless it is a guest.
3. A guest is never starting, late or adopting: it is not told to teach what it does not have.
4. No two learning agents that were started have the same slot; every slot and every place is one of those there are.
5. Who has run own code is busy with it, teaches, or may still be asked by students that it learned with; a guest may stay.
6. Of weights there are no more copies than allowed, guests aside.

Tasks:

7. Every task known is in exactly one of these: waiting, running, ended, done. What was given up is in none, and not known.
8. A running task is in the hands of one agent, which is busy with it; whoever is busy with another has been told to stop.
9. The attempt that runs is the newest; what runs has not been started too often, and what waits may be started again.
10. Only students that teach each other end without being done, and not all of them.

Teachers of a task that runs:

11. They are its references, or the others of its cohort, and nobody else.
12. One that is gone is being replaced: nobody teaches its weights now about these data, or the student would have been told.
13. A student hears each other one of its cohort that runs where it runs.
14. No student could be moved so that the copies of its teacher would be shared more evenly.

What waits:

15. The first lesson that waits while an agent is free, if it can be taught, has its teachers, or an agent is on its way to the
    bench of teachers, or to other weights, and will be asked next.
16. No lesson waits for weights that were tried too often.

Memory:

17. In a slot that is closed for want of memory there is nobody; one is open, and as many as students that learn together.
"""

from collections import Counter
from collections.abc import Iterator

from agentkd.coordinator.state import Bench, Condition, Member, Running, State
from agentkd.names import NO_TASK, Digest, TaskKey

COMING = (Condition.STARTING, Condition.LATE, Condition.ADOPTING)


def broken(state: State) -> list[str]:
    """What does not hold, each in a sentence; empty if all is well."""
    found: list[str] = []
    for member in state.members.values():
        found += _of_member(state, member)
    found += _of_bench(state)
    for key in {**state.tasks, **state.waiting, **state.running, **state.ended}:
        found += _of_task(state, key)
    for key, running in state.running.items():
        found += _of_running(state, key, running)
        found += _of_teachers(state, key, running)
    return found or list(_of_waiting(state))


def _of_member(state: State, member: Member) -> Iterator[str]:
    name, condition = member.name, member.condition
    if (condition is Condition.BUSY) != bool(member.task):
        yield f"{name} is {condition} and has the task {member.task!r}"
    if condition is Condition.BUSY and member.bench is not Bench.LEARNING:
        yield f"{name} is busy with a task on the bench of teachers"
    teaches = condition in (Condition.ADOPTING, Condition.TEACHING)
    if teaches and member.bench is not Bench.TEACHING:
        yield f"{name} is {condition} on the bench of learners"
    if teaches != bool(member.weights):
        yield f"{name} is {condition} and has the weights {member.weights!r}"
    if not member.is_guest and teaches != bool(member.data):
        yield f"{name} is {condition} about {len(member.data)} datasets"
    if member.has_run_code and not member.is_guest and condition is Condition.IDLE and name not in state.ended.values():
        yield f"{name} has run own code and is {condition}"
    if member.is_guest and condition in (Condition.STARTING, Condition.LATE, Condition.ADOPTING):
        yield f"the guest {name} is {condition}"


def _of_bench(state: State) -> Iterator[str]:
    started = [member for member in state.members.values() if not member.is_guest]
    slots = Counter(member.slot for member in started if member.bench is Bench.LEARNING)
    yield from (f"{number} learning agents have slot {slot}" for slot, number in slots.items() if number > 1)
    for member in started:
        count = state.num_slots if member.bench is Bench.LEARNING else len(state.places)
        if not 0 <= member.slot < count:
            yield f"{member.name} has slot {member.slot} of {count}"
    yield from (f"slot {slot} is closed, and {slots[slot]} agents are in it" for slot in state.closed if slots[slot])
    together = max((len(state.cohorts.get(key, ())) for key in state.tasks if key not in state.done), default=1)
    if state.closed and state.num_open < min(together, state.num_slots):
        yield f"{state.num_open} slots are open, and {together} students learn together"
    for weights, number in Counter(member.weights for member in started if member.weights).items():
        if number > max(1, state.max_copies):
            yield f"{number} agents teach {weights}, more than {state.max_copies}"


def _of_task(state: State, key: TaskKey) -> Iterator[str]:
    where = [name for name in ("waiting", "running", "ended", "done") if key in getattr(state, name)]
    if key not in state.tasks:
        yield f"{key} is {where} and not known"
    elif len(where) != 1:
        yield f"{key} is {where or 'nowhere'}"
    if key in state.waiting and state.attempts_left(key) <= 0:
        yield f"{key} waits after {state.attempts.get(key, 0)} attempts"
    if key in state.ended:
        cohort = [other for other in state.cohorts[key] if other in state.tasks]
        if all(other in state.ended or other in state.done for other in cohort):
            yield f"{key} has ended, and so has everybody whom it waits for"


def _of_running(state: State, key: TaskKey, running: Running) -> Iterator[str]:
    member = state.members.get(running.agent)
    if member is None:
        yield f"{key} runs at {running.agent}, who is gone"
    elif (member.condition, member.task) != (Condition.BUSY, key):
        yield f"{key} runs at {running.agent}, who is {member.condition} with {member.task!r}"
    attempts, spent = state.attempts.get(key, 0), state.spent.get(key, 0)
    if running.attempt != attempts or state.attempts_left(key) < 0:
        yield f"{key} runs in attempt {running.attempt} after {attempts} attempts, of which {spent} do not count"


def _of_teachers(state: State, key: TaskKey, running: Running) -> Iterator[str]:
    if key not in state.tasks:
        return
    task, cohort = state.tasks[key], set(state.cohorts[key]) - {key}
    known: set[TaskKey] | set[Digest] = cohort or {teacher.weights for teacher in task.taught_by}
    yield from (f"{key} is taught by {weights}, which it does not name" for weights in running.teachers.keys() - known)
    for other in cohort & state.running.keys():
        if running.teachers.get(other) != state.running[other].agent:
            yield f"{key} hears {other} at {running.teachers.get(other)}, and it runs at {state.running[other].agent}"
    if cohort:
        return
    pairs = [pair for other in state.running.values() for pair in other.teachers.items()]
    load = Counter(agent for taught, agent in pairs if agent in state.members and state.members[agent].weights == taught)
    for weights, agent in running.teachers.items():
        # About these data too, or something would be left to be decided.
        able = [m for m in state.members.values() if (m.weights, m.condition) == (weights, Condition.TEACHING)]
        teacher = state.members.get(agent)
        if able and (teacher is None or teacher.weights != weights):
            yield f"{key} learns from {agent}, who does not teach {weights} any more, though {able[0].name} does"
        elif any(load[m.name] + 1 < load[agent] for m in able):
            yield f"{key} learns from {agent}, who has {load[agent]} students, and {able[0].name} has {load[able[0].name]}"


def _of_waiting(state: State) -> Iterator[str]:
    for key in state.waiting:
        yield from (f"{key} waits for {weights}, tried too often" for weights in state.untaught(key))
    members, first = state.members.values(), next(iter(state.waiting), NO_TASK)
    is_free = any(member.is_free for member in members)
    is_coming = any(m.bench is Bench.TEACHING and m.condition in COMING for m in members)
    if first and is_free and state.places and not is_coming and state.can_be_taught(first):
        yield from (f"{first} waits for {weights}, and nobody is to teach it" for weights in state.needed(first) - state.held())
