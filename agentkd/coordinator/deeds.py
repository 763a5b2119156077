"""What the dispatcher decides, carried out: agents started, told, moved, called off, dismissed; what was finished handed on."""

from collections.abc import Mapping

from agentkd.artifacts.recordings import Recordings
from agentkd.coordinator import blame, events
from agentkd.coordinator.crowding import can_spare_one
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.members import Members
from agentkd.coordinator.narration import Narrator
from agentkd.coordinator.requests import Requests
from agentkd.coordinator.state import Bench
from agentkd.coordinator.underway import Finished, Underway
from agentkd.exchange.post import Post
from agentkd.launch.devices import Slot
from agentkd.launch.placement import TeachingPlace
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import (
    Body,
    CancelRequest,
    TaskProgressEvent,
    TaskRequest,
    TaughtBy,
    TeacherMovedEvent,
    TeachRequest,
)
from agentkd.names import AgentName, Digest, TaskKey
from agentkd.task import Task


class Deeds:
    """Tells the dispatcher what happens, and does what it decides. One thread calls its methods.

    Args:
        dispatcher: what decides.
        members: the agents.
        post: by which they are told.
        recordings: what need not be taught again.
        slots: one learning agent each.
        places: where teaching agents are.
        config: attempts, recording, patience.
        narrator: who is told what begins, and whatever is decided.
        is_forgiving: as of ``Crew``.

    Raises:
        ExchangeError: a task was taken from its agents again and again by what is around them (of ``act`` and ``handle``).
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        members: Members,
        post: Post,
        recordings: Recordings,
        slots: tuple[Slot, ...],
        places: tuple[TeachingPlace, ...],
        config: LaunchConfig,
        narrator: Narrator,
        *,
        is_forgiving: bool,
    ) -> None:
        self._is_forgiving = is_forgiving
        self.dispatcher, self.recordings = dispatcher, recordings
        self.underway, self.requests = Underway(), Requests(config.lease_s)
        self._members, self._post, self._slots, self._config, self._narrator = members, post, slots, config, narrator
        self._places = places
        self._finished: list[Finished] = []

    def take_finished(self) -> list[Finished]:
        """What was accepted or given up since this was asked last."""
        finished, self._finished = self._finished, []
        return finished

    def needs(self, name: AgentName) -> set[Digest]:
        """The artifacts that an agent must have for what it is doing."""
        member = self.dispatcher.state.members.get(name)
        task = self.dispatcher.state.tasks.get(member.task) if member else None
        doing = self.underway.find(member.task) if member else None
        inputs = {digest for _, digest in task.references()} if task else set()
        return inputs | ({member.weights} if member else set()) | self.recordings.parts(doing.recorded if doing else ())

    def spare(self, tasks: Mapping[TaskKey, Task]) -> None:
        """Has the dispatcher know what of these tasks is recorded."""
        spared = {key: self.recordings.find(task)[1] for key, task in tasks.items()} if self.recordings.is_any else {}
        self.act(self.dispatcher.spare({key: weights for key, weights in spared.items() if weights}))

    def handle(self, event: events.Event) -> list[events.Action]:
        """Something has happened. Returns what was decided, which is done."""
        actions = self.dispatcher.handle(event)
        self.act(actions, event)
        return actions

    def act(self, actions: list[events.Action], event: events.Event | None = None) -> None:
        """Does what was decided, perhaps upon an event."""
        if any(isinstance(action, events.Start | events.Move) for action in actions):
            for teacher, students in self.dispatcher.students().items():
                self._members.introduce(teacher, students)
        for action in actions:
            if isinstance(action, events.Launch):
                learns = action.bench is Bench.LEARNING
                slot = self._slots[action.slot] if learns else self._places[action.slot].slot
                self._members.launch(action.agent, slot, learns=learns)
            elif isinstance(action, events.Start):
                self._start(action)
            elif isinstance(action, events.Teach):
                architecture, weights = action.teacher.architecture, action.teacher.weights
                assert architecture is not None
                number = self._say(action.agent, TeachRequest(architecture=architecture, weights=weights, data=action.data))
                self.requests.note(action, number)
            elif isinstance(action, events.Move):
                moved = TeacherMovedEvent(weights=action.teacher_id, peer=self._members.address_of(action.teacher))
                self._say(action.student, moved)
            elif isinstance(action, events.Cancel):
                self._say(action.agent, CancelRequest(task=action.task, attempt=action.attempt))
            elif isinstance(action, events.Dismiss):
                self.requests.forget(action.agent)
                self._members.dismiss(action.agent)
            elif isinstance(action, events.Accept):
                self._finish(self.underway.accept(action.task))
            else:
                there = self.underway.there_each_time(action.task)
                self._finish(self.underway.give_up(action))
                if not (action.is_fault or self._is_forgiving):
                    raise blame.hindered(self.underway.labels[action.task], self._finished[-1].result, there)
        self._narrator.note(actions, event)

    def note_progress(self, agent: AgentName, body: TaskProgressEvent) -> None:
        """An agent says how far a task is."""
        doing = self.underway.current(agent, body.task, body.attempt)
        if doing:
            doing.progress = body
            self._narrator.progress(body)

    def _finish(self, finished: Finished) -> None:
        self._finished.append(finished)
        self._narrator.ended(finished)

    def _say(self, agent: AgentName, body: Body) -> int:
        """Returns the message's number; 0 if the agent is lost."""
        public_key = self._members.key_of(agent)
        return self._post.send(public_key, body) if public_key else 0

    def _start(self, action: events.Start) -> None:
        task = self.dispatcher.state.tasks[action.task]
        recorded, _ = self.recordings.find(task)
        doing = self.underway.begin(action, task, recorded)
        taught = tuple(TaughtBy(weights=teacher, peer=self._members.address_of(agent)) for teacher, agent in action.teachers)
        request = TaskRequest(
            task=task,
            attempt=action.attempt,
            teachers=taught,
            recorded=recorded,
            record=self._config.record_lessons and not self._members.is_guest(action.agent),  # who believes it would be misled
            wait_s=self._config.teacher_wait_s,
            asks_room=can_spare_one(self.dispatcher.state, self.dispatcher.state.members[action.agent]),
        )
        self.requests.note(action, self._say(action.agent, request))
        again = f" (attempt {action.attempt})" if action.attempt > 1 else ""
        self._narrator.started(doing)
        self._narrator.tell(f"{action.agent} starts {doing.label}{again}")
